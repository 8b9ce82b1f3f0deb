package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// documented is a contract with one of each part, every one with a comment.
const documented = `syntax = "proto3";
package planted.v1;
option go_package = "planted/v1;plantedv1";
// Ask asks.
service Ask {
  // One asks once.
  rpc One(In) returns (Out);
}
// In goes in.
message In {
  // Kind is a kind.
  enum Kind {
    // Not said.
    KIND_UNSPECIFIED = 0;
  }
  // What kind.
  Kind kind = 1;
  // One of two.
  oneof either {
    // The left one.
    string left = 2;
  }
  // Names, for a map makes a message that nobody writes.
  map<string, string> names = 3;
  // Maybe, for optional makes a oneof that nobody writes.
  optional bool maybe = 4;
}
// Out comes out.
message Out {}
`

// plant makes a directory that holds one contract.
func plant(t *testing.T, contract string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "planted/v1"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "planted/v1/planted.proto", contract)
	return dir
}

func put(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGeneratedCodeHasComments(t *testing.T) {
	dir := plant(t, documented)
	if err := run(t.Context(), dir, false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"planted/v1/planted.pb.go":      "// The left one.",
		"planted/v1/planted_grpc.pb.go": "// One asks once.",
	} {
		code, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(code), want) {
			t.Errorf("%s lacks the comment %q", name, want)
		}
	}
}

func TestCheckNamesStaleFiles(t *testing.T) {
	const code, grpc, orphan = "planted/v1/planted.pb.go", "planted/v1/planted_grpc.pb.go", "planted/v1/gone.pb.go"
	dir := plant(t, documented)
	if err := run(t.Context(), dir, false); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), dir, true); err != nil {
		t.Fatalf("check of what was just written: %v", err)
	}

	put(t, dir, code, "package plantedv1\n")
	put(t, dir, orphan, "package plantedv1\n")
	if err := os.Remove(filepath.Join(dir, grpc)); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), dir, true)
	if err == nil {
		t.Fatal("check passed a changed, a missing and an orphaned file")
	}
	for _, name := range []string{code, grpc, orphan} {
		if !strings.Contains(err.Error(), "\n\t"+name) {
			t.Errorf("check does not name %s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, grpc)); err == nil {
		t.Error("check wrote a file")
	}
}

func TestUndocumented(t *testing.T) {
	bare := func(contract string) []string {
		files, err := compile(t.Context(), plant(t, contract))
		if err != nil {
			t.Fatal(err)
		}
		return undocumented(files)
	}
	if got := bare(documented); got != nil {
		t.Errorf("of a documented contract: got %v, want none", got)
	}
	for comment, want := range map[string]string{
		"// Ask asks.":      "planted.v1.Ask",
		"// One asks once.": "planted.v1.Ask.One",
		"// In goes in.":    "planted.v1.In",
		"// Kind is a kind": "planted.v1.In.Kind",
		"// Not said.":      "planted.v1.In.KIND_UNSPECIFIED",
		"// What kind.":     "planted.v1.In.kind",
		"// One of two.":    "planted.v1.In.either",
		"// The left one.":  "planted.v1.In.left",
		"// Names,":         "planted.v1.In.names",
		"// Maybe,":         "planted.v1.In.maybe",
		"// Out comes out.": "planted.v1.Out",
	} {
		start := strings.Index(documented, comment)
		end := start + strings.Index(documented[start:], "\n")
		got := bare(documented[:start] + documented[end:])
		if !slices.Equal(got, []string{want}) {
			t.Errorf("without %q: got %v, want [%s]", comment, got, want)
		}
	}
}

func TestBrokenContract(t *testing.T) {
	dir := plant(t, strings.Replace(documented, "returns (Out)", "returns (Nowhere)", 1))
	err := run(t.Context(), dir, false)
	if err == nil || !strings.Contains(err.Error(), "planted/v1/planted.proto:7:") {
		t.Errorf("got %v, want the place of the mistake", err)
	}
	if err := run(t.Context(), t.TempDir(), false); err == nil {
		t.Error("a directory without contracts passed")
	}
}
