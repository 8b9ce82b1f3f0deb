package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// notHere are README's commands that this test must not run, and why.
var notHere = map[string]string{
	"make demo":  "takes a minute and a half; TestDemo does it",
	"make setup": "installs packages",
	"make check": "runs this test",
	"make test":  "runs this test",
}

// TestREADMECommands runs every command that README shows, in order, as a
// stranger would type them in a fresh clone: a copy of the tree in which only
// the build is shared.
func TestREADMECommands(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds the program")
	}
	clone := cloneTree(t)
	shell := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
	ran := 0
	for _, block := range shell.FindAllStringSubmatch(readFile(t, filepath.Join(clone, "README.md")), -1) {
		for _, line := range strings.Split(strings.TrimSpace(block[1]), "\n") {
			cmd := exec.Command("bash", "-euc", line)
			if why, skip := notHere[line]; skip {
				t.Logf("not run: %s: it %s", line, why)
				cmd = exec.Command("make", append([]string{"--dry-run"}, strings.Fields(line)[1:]...)...)
			}
			cmd.Dir = clone
			// A command that hangs fails here, and not with all tests beside it.
			hung := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
			out, err := cmd.CombinedOutput()
			hung.Stop()
			if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitInconclusive && strings.Contains(string(out), "released calls late") {
				t.Logf("%s: this machine is too busy: %s", line, out)
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", line, err, out)
			}
			ran++
		}
	}
	if ran < 5 {
		t.Errorf("ran %d commands, want those that README shows", ran)
	}
}

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

// TestDocumentsNameWhatThereIs holds that the make targets and files which the
// documents mention exist, and that the map of the tree is whole.
func TestDocumentsNameWhatThereIs(t *testing.T) {
	makefile := readFile(t, "../../Makefile")
	target := regexp.MustCompile("`make ([a-z]+)`")
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	checked := 0
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"} {
		text := readFile(t, "../../"+doc)
		for _, m := range target.FindAllStringSubmatch(text, -1) {
			checked++
			if !strings.Contains(makefile, "\n"+m[1]+":") {
				t.Errorf("%s names make %s, which there isn't", doc, m[1])
			}
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			checked++
			if _, err := os.Stat(filepath.Join("../..", filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
	tree, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	theMap := readFile(t, "../../docs/architecture.md")
	for _, e := range tree {
		name := e.Name()
		if !e.IsDir() || strings.HasPrefix(name, ".") || name == "bin" || name == "out" {
			continue
		}
		checked++
		if !strings.Contains(theMap, "\n"+name+"/") {
			t.Errorf("docs/architecture.md has no %s/ on its map", name)
		}
	}
	if checked == 0 {
		t.Error("found nothing to check")
	}
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
