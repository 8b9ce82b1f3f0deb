package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// proofs are the tests of the tree: by directory and name, what their comments say.
type proofs map[string]map[string]string

// findProofs reads the comments of all tests below root.
func findProofs(t *testing.T, root string) proofs {
	t.Helper()
	found := proofs{}
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == "testdata" || strings.HasPrefix(e.Name(), ".") && file != root):
			return fs.SkipDir
		case !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && testName.MatchString(f.Name.Name) {
				if found[dir] == nil {
					found[dir] = map[string]string{}
				}
				found[dir][f.Name.Name] = f.Doc.Text()
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	testName = regexp.MustCompile(`^(Test|Benchmark|Fuzz)[A-Z]`)
	rowOf    = regexp.MustCompile(`(?m)^\| ([A-K]\d+[^|]*) \|[^|]*\| (.*) \|$`)
	rowIDs   = regexp.MustCompile(`([A-K])(\d+)(?:[-–][A-K](\d+))?`)
	quoted   = regexp.MustCompile("`([^`]+)`|\"([^\"]+)\"")
)

// idsIn are the rows of the checklist that a text names, as B16 or E59–E63.
func idsIn(text string) (all []string) {
	for _, m := range rowIDs.FindAllStringSubmatch(text, -1) {
		first, _ := strconv.Atoi(m[2]) // digits
		last, _ := strconv.Atoi(m[3])
		for n := first; n <= max(first, last); n++ {
			all = append(all, m[1]+strconv.Itoa(n))
		}
	}
	return all
}

// checklistFaults holds a table of rows against the tests: those that it names are
// there, and those of rows that must be named say so in the comment of one at least.
// mentions reports whether the code of a directory has a text in it: the name of a
// subtest.
func checklistFaults(table string, tests proofs, must []string, exists func(dir string) bool, mentions func(dir, text string) bool) (faults []string) {
	there, shown := map[string]bool{}, map[string]bool{}
	for _, m := range rowOf.FindAllStringSubmatch(table, -1) {
		row, dir, named := m[1], "appserver", ""
		for _, q := range quoted.FindAllStringSubmatch(m[2], -1) {
			switch name, text := q[1], q[2]; {
			case text != "":
				if !mentions(dir, text) {
					faults = append(faults, fmt.Sprintf("%s: %s has no %q", row, dir, text))
				}
			case testName.MatchString(name):
				i := slices.IndexFunc([]string{dir, "appserver", "cmd/darklaunch"}, func(d string) bool {
					comment, ok := tests[d][name]
					named += comment
					return ok
				})
				if i < 0 {
					faults = append(faults, fmt.Sprintf("%s: %s has no %s", row, dir, name))
				}
			case strings.Contains(name, " "): // a command
			case exists(name):
				dir = name
			case exists(path.Join("appserver", name)):
				dir = path.Join("appserver", name)
			default:
				faults = append(faults, fmt.Sprintf("%s: there is no package %s", row, name))
			}
		}
		by := idsIn(named)
		for _, id := range idsIn(row) {
			there[id], shown[id] = true, shown[id] || slices.Contains(by, id)
		}
	}
	for _, id := range must {
		if !there[id] {
			faults = append(faults, id+": there is no such row")
		} else if !shown[id] {
			faults = append(faults, id+": no test of its row names it")
		}
	}
	return faults
}

// TestChecklist: what docs/architecture.md says to show a row of the checklist is
// there; and each row that is about the mailbox is in its table, and named by a test.
func TestChecklist(t *testing.T) {
	const root = "../.."
	table := readFile(t, filepath.Join(root, "docs/architecture.md"))
	exists := func(dir string) bool {
		info, err := os.Stat(filepath.Join(root, dir))
		return err == nil && info.IsDir()
	}
	mentions := func(dir, text string) bool {
		files, _ := filepath.Glob(filepath.Join(root, dir, "*.go")) // the pattern is one
		return slices.ContainsFunc(files, func(f string) bool { return strings.Contains(readFile(t, f), strconv.Quote(text)) })
	}
	must := idsIn("B11-B14 B16-B20 D52-D56 E57-E66 E70 F72-F87 G88-G95 G97-G100 H104-H109 I110-I114 I122-I135")
	for _, f := range checklistFaults(table, findProofs(t, root), must, exists, mentions) {
		t.Error(f)
	}
}

// TestChecklistFaults plants each fault of a table.
func TestChecklistFaults(t *testing.T) {
	tests := proofs{"appserver": {"TestA": "shows that. Rows B1-B3."}, "appserver/box": {"TestB": "Row C4."}, "cmd": {"TestC": ""}, "cmd/darklaunch": {"TestD": "Row B1."}}
	exists := func(dir string) bool { return tests[dir] != nil }
	mentions := func(dir, text string) bool { return dir == "appserver/box" && text == "many" }
	for what, tc := range map[string]struct {
		table string
		want  []string
	}{
		"right":                {"| B1–B3, C4 | said | `TestA`; `box` \"many\", `TestB` |", nil},
		"of the program":       {"| B1 | said | `box` `TestD` |", nil},
		"found past a package": {"| B2 | said | `box` \"many\", `TestA` |", nil},
		"no such test":         {"| B1 | said | `TestA`, `cmd` `TestB` |", []string{"B1: cmd has no TestB"}},
		"no such package":      {"| B1 | said | `TestA`, `bag` |", []string{"B1: there is no package bag"}},
		"no such subtest":      {"| B1 | said | `TestA`, `box` \"few\" |", []string{`B1: appserver/box has no "few"`}},
		"not named by any":     {"| C4, C5 | said | `box` `TestB` |", []string{"C5: no test of its row names it"}},
		"named by another":     {"| C4 | said | `cmd` `TestC` |", []string{"C4: no test of its row names it"}},
		"a command":            {"| B1 | said | `TestA`, in `make chaos` |", nil},
		"not of those":         {"| D4 | said | `cmd` `TestC` |", nil},
	} {
		must := idsIn(strings.Split(tc.table, "|")[1])
		must = slices.DeleteFunc(must, func(id string) bool { return id == "D4" })
		if diff := cmp.Diff(tc.want, checklistFaults(tc.table, tests, must, exists, mentions)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	want := []string{"B9: there is no such row"}
	if diff := cmp.Diff(want, checklistFaults("| B1 | said | `TestA` |", tests, []string{"B1", "B9"}, exists, mentions)); diff != "" {
		t.Errorf("a row left out (-want +got):\n%s", diff)
	}
}
