package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestDocuments holds that what the documents name is there: commands and their flags,
// make targets, files, headings that links lead to, and tests.
func TestDocuments(t *testing.T) {
	tree := newTree(t)
	checked := 0
	for _, name := range documents(t) {
		for _, wrong := range tree.check(name, readFile(t, filepath.Join("../..", name))) {
			t.Error(wrong)
		}
		checked++
	}
	if checked < 15 {
		t.Errorf("checked %d documents, want all", checked)
	}
	dirs, err := os.ReadDir("../..")
	if err != nil {
		t.Fatal(err)
	}
	theMap := readFile(t, "../../docs/architecture.md")
	for _, e := range dirs {
		name := e.Name()
		if e.IsDir() && !strings.HasPrefix(name, ".") && name != "bin" && name != "out" && !strings.Contains(theMap, "\n"+name+"/") {
			t.Errorf("docs/architecture.md has no %s/ on its map", name)
		}
	}
}

// TestDocumentsAreChecked plants one fault of each kind.
func TestDocumentsAreChecked(t *testing.T) {
	tree := newTree(t)
	for text, want := range map[string]string{
		"```sh\nbin/darklaunch load http URL --rat 1/s\n```":           "--rat",
		"```\ndarklaunch mirror \\\n   --listen A --no-such-flag\n```": "--no-such-flag",
		"```\ndarklaunch mirrors --listen A\n```":                      "mirrors",
		"```\ncd x; darklaunch cell ad one\n```":                       "ad",
		"see `darklaunch appserver serve --stor rows:`":                "--stor",
		"with `--kill-fil` it is off":                                  "--kill-fil",
		"`make nothing`":                                               "make nothing",
		"[it](docs/nowhere.md)":                                        "docs/nowhere.md",
		"[it](#no-such-heading)":                                       "no-such-heading",
		"[it](docs/rollouts.md#no-such-heading)":                       "no-such-heading",
		"[it][x]\n\n[x]: docs/nowhere.md":                              "docs/nowhere.md",
		"[it][nobody]":                                                 "nobody",
		"![it](docs/pictures/nothing.png)":                             "nothing.png",
		"`scenarios/nothing.yaml` says":                                "scenarios/nothing.yaml",
		"`TestThatNobodyWrote` shows it":                               "TestThatNobodyWrote",
		"[9999999.5][b]\n\n[b]: bench/RESULTS.md":                      "9999999.5",
	} {
		if wrong := tree.check("planted.md", text); !slices.ContainsFunc(wrong, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("%s: got %q, want %s told", text, wrong, want)
		}
	}
	good := "# Good one: `it`\n```\nFOO=1 bin/darklaunch mirror --listen A --live B... [--shadow C] | grep -v --count x # --not-one\n```\n" +
		"[a](#good-one-it) [b](docs/rollouts.md#flagger) `--listen` `make check` `mirror/relay` [c][d]\n\n[d]: README.md\n"
	if wrong := tree.check("planted.md", good); len(wrong) > 0 {
		t.Errorf("got %q of what is right", wrong)
	}
}

// documents are all pages for people.
func documents(t *testing.T) (names []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "deploy/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			names = append(names, strings.TrimPrefix(filepath.ToSlash(name), "../../"))
		}
	}
	return names
}

// A tree is what documents may name.
type tree struct {
	root     *cobra.Command
	flags    map[string]bool // of any command
	makefile string
	tests    map[string]bool
	results  string
}

func newTree(t *testing.T) *tree {
	t.Helper()
	p := &program{stdout: io.Discard, stderr: io.Discard}
	x := &tree{root: p.root(nil), flags: map[string]bool{"help": true}, makefile: readFile(t, "../../Makefile"), tests: map[string]bool{}, results: readFile(t, "../../bench/RESULTS.md")}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(func(f *pflag.Flag) { x.flags[f.Name] = true })
		cmd.PersistentFlags().VisitAll(func(f *pflag.Flag) { x.flags[f.Name] = true })
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(x.root)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Benchmark|Fuzz)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			x.tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

var (
	span       = regexp.MustCompile("`([^`\n]+)`")
	inlineLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	namedLink  = regexp.MustCompile(`\[([^\]\n]+)\]\[(\w+)\]`)
	linkName   = regexp.MustCompile(`(?m)^\[(\w+)\]: (\S+)$`)
	target     = regexp.MustCompile(`^make ([a-z]+)$`)
	onlyFlag   = regexp.MustCompile(`^--([a-z][a-z0-9-]*)( .*|=.*)?$`)
	aTest      = regexp.MustCompile(`^(?:Test|Benchmark)[A-Z]\w+$`)
	figure     = regexp.MustCompile(`[0-9][0-9.]*`)
)

// ofOthers are flags of other programs.
var ofOthers = map[string]bool{"enable-feature": true} // of Prometheus

// check tells what is wrong with a document.
func (x *tree) check(name, text string) (wrong []string) {
	tell := func(format string, args ...any) {
		wrong = append(wrong, name+": "+fmt.Sprintf(format, args...))
	}
	d := parseDocument(name, text)
	prose := slices.Clone(d.lines)
	for _, f := range d.fences {
		if f.lang == "sh" || f.lang == "" && !f.output {
			for _, command := range commands(d.text(f)) {
				x.checkCommand(command, tell)
			}
		}
		clear(prose[f.from:f.to])
	}
	rest := strings.Join(prose, "\n")
	for _, m := range span.FindAllStringSubmatch(rest, -1) {
		x.checkSpan(m[1], tell)
	}
	links := map[string]string{}
	for _, m := range linkName.FindAllStringSubmatch(rest, -1) {
		links[m[1]] = m[2]
		x.checkLink(name, text, m[2], tell)
	}
	for _, m := range inlineLink.FindAllStringSubmatch(rest, -1) {
		x.checkLink(name, text, m[1], tell)
	}
	for _, m := range namedLink.FindAllStringSubmatch(rest, -1) {
		switch to, ok := links[m[2]]; {
		case !ok:
			tell("[%s][%s] leads nowhere", m[1], m[2])
		case to == "bench/RESULTS.md":
			for _, n := range figure.FindAllString(m[1], -1) {
				if !strings.Contains(x.results, n) {
					tell("%s is not in %s", n, to)
				}
			}
		}
	}
	return wrong
}

// checkSpan checks what stands in the text as code.
func (x *tree) checkSpan(code string, tell func(string, ...any)) {
	first, _, _ := strings.Cut(code, "/")
	path, _, _ := strings.Cut(code, " ")
	switch {
	case target.MatchString(code):
		if !strings.Contains(x.makefile, "\n"+strings.TrimPrefix(code, "make ")+":") {
			tell("there is no %s", code)
		}
	case strings.HasPrefix(code, "darklaunch ") || strings.HasPrefix(code, "bin/darklaunch "):
		x.checkCommand(code, tell)
	case onlyFlag.MatchString(code):
		if flag := onlyFlag.FindStringSubmatch(code)[1]; !x.flags[flag] && !ofOthers[flag] {
			tell("no command has --%s", flag)
		}
	case aTest.MatchString(code):
		if !x.tests[code] {
			tell("there is no %s", code)
		}
	case path == code && strings.Contains(code, "/") && slices.Contains([]string{"docs", "deploy", "scenarios", "dashboards", "bench", "internal", "api", "cmd", "mirror", "appserver", "loadgen", "verdict"}, first):
		if found, err := filepath.Glob(filepath.Join("../..", code)); err != nil || len(found) == 0 && !onePackage(code) {
			tell("there is no %s", code)
		}
	}
}

// onePackage reports whether path is that of a package and a name of its.
func onePackage(path string) bool {
	dir, _, dotted := strings.Cut(path, ".")
	_, err := os.Stat(filepath.Join("../..", dir))
	return dotted && err == nil
}

// started is where the program is called: at the start of a command, behind what the
// shell has of its own, or behind a name that the document gives to a thing it starts.
var started = regexp.MustCompile(`(?:^|[;|&(])\s*(?:(?:do|then|until|while|if|exec|start \S+|\w+=\S*)\s+)*(?:bin/)?darklaunch `)

// checkCommand checks each use of the program in what is typed.
func (x *tree) checkCommand(typed string, tell func(string, ...any)) {
	typed = regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(strings.ReplaceAll(typed, "\\\n", " "), "X")
	for _, line := range strings.Split(typed, "\n") {
		for _, at := range started.FindAllStringIndex(line, -1) {
			command := line[at[1]:]
			if end := strings.IndexAny(command, ";|&#<>)`"); end >= 0 {
				command = command[:end]
			}
			x.checkWords(strings.Fields(command), tell)
		}
	}
}

func (x *tree) checkWords(words []string, tell func(string, ...any)) {
	cmd, value := x.root, false
	for _, word := range words {
		word = strings.Trim(word, "[].…")
		if name, ok := strings.CutPrefix(word, "--"); ok && name != "" {
			name, _, value = strings.Cut(name, "=")
			flag := cmd.Flag(name)
			if flag == nil && name != "help" && !below(cmd, name) {
				tell("%s has no --%s", cmd.CommandPath(), name)
			}
			value = !value && (flag == nil || flag.Value.Type() != "bool")
			continue
		}
		subs := cmd.Commands()
		i := slices.IndexFunc(subs, func(sub *cobra.Command) bool { return sub.Name() == word })
		switch {
		case value:
			value = false
		case i >= 0:
			cmd = subs[i]
		case len(subs) > 0 && regexp.MustCompile(`^[a-z-]+$`).MatchString(word):
			tell("%s has no command %s", cmd.CommandPath(), word)
		}
	}
}

// below reports whether a command below cmd has the flag: some are told together.
func below(cmd *cobra.Command, flag string) bool {
	return slices.ContainsFunc(cmd.Commands(), func(sub *cobra.Command) bool { return sub.Flag(flag) != nil })
}

// checkLink checks a link that stays within the project.
func (x *tree) checkLink(name, text, to string, tell func(string, ...any)) {
	if strings.Contains(to, "://") {
		return
	}
	file, heading, anchored := strings.Cut(to, "#")
	if file != "" {
		content, err := os.ReadFile(filepath.Join("../..", filepath.Dir(name), file))
		if info, statErr := os.Stat(filepath.Join("../..", filepath.Dir(name), file)); statErr != nil {
			tell("%s leads nowhere", to)
			return
		} else if !info.IsDir() && err != nil {
			tell("%v", err)
			return
		}
		text = string(content)
	}
	if anchored && !slices.Contains(anchors(text), heading) {
		tell("%s: there is no heading %s", to, heading)
	}
}

// anchors are the headings of a page as GitHub links to them.
func anchors(text string) (all []string) {
	d := parseDocument("", text)
	for _, f := range d.fences {
		clear(d.lines[f.from:f.to])
	}
	for _, line := range d.lines {
		if heading := strings.TrimLeft(line, "#"); heading != line && strings.HasPrefix(heading, " ") {
			heading = strings.ToLower(strings.TrimSpace(heading))
			heading = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(heading, "")
			all = append(all, strings.ReplaceAll(heading, " ", "-"))
		}
	}
	return all
}
