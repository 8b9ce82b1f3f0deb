package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cloneTree copies the files that git knows or does not ignore.
func cloneTree(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		t.Skipf("not a git checkout: %v", err)
	}
	clone := t.TempDir()
	for _, name := range strings.Split(strings.TrimRight(string(names), "\x00"), "\x00") {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil {
			continue // deleted but not committed
		}
		to := filepath.Join(clone, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(readFile(t, filepath.Join(root, name))), info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return clone
}

// leastVersions are the first versions without a published hole that matters here.
var leastVersions = map[string]string{
	"github.com/sirupsen/logrus": "v1.9.3",  // a long line stops its writer, CVE-2025-65637
	"golang.org/x/net":           "v0.61.0", // memory held by HTTP/2 trailers
	"google.golang.org/grpc":     "v1.83.1", // memory held by 1-byte DATA frames, CVE-2026-84304
}

// leastGo is the first release of Go's line without one; an older toolchain is told, not refused.
const leastGo = "go1.26.9"

func TestMinimumVersions(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Path}} {{.Version}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		path, version, _ := strings.Cut(line, " ")
		if least, ok := leastVersions[path]; ok {
			seen++
			if older(version, least) {
				t.Errorf("%s is %s, want at least %s", path, version, least)
			}
		}
	}
	if seen != len(leastVersions) {
		t.Errorf("found %d of the %d modules", seen, len(leastVersions))
	}
	if v := buildVersion().Go; older(v, leastGo) {
		t.Logf("built with %s: releases are built with %s or later", v, leastGo)
	}
	if !older("v0.9.0", "v0.61.0") || older("v0.61.0", "v0.61.0") || older("v1.0.0", "v0.61.0") || !older("go1.26.8", leastGo) {
		t.Error("older can't tell versions apart")
	}
}

// older reports whether version a, three numbers behind a prefix, is before b.
func older(a, b string) bool {
	parse := func(v string) (n [3]int) {
		fmt.Sscanf(strings.TrimPrefix(strings.TrimPrefix(v, "go"), "v"), "%d.%d.%d", &n[0], &n[1], &n[2])
		return n
	}
	x, y := parse(a), parse(b)
	return slices.Compare(x[:], y[:]) < 0
}
