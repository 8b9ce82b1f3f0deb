package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	testhbase "darklaunch/internal/testenv/hbase"
)

// A document is a page of Markdown, of which the fenced blocks are of interest.
type document struct {
	name   string
	lines  []string
	fences []fenced
}

// A fenced block: its lines from and up to, and what its language
// is said to be. Commands to type are in blocks of sh. What they print is in the next
// block, if that is without a language; one that differs from run to run by more than its
// numbers is marked as varying.
type fenced struct {
	lang     string
	from, to int
	varies   bool
	output   bool
	now      []string // what its commands print now; nil: as it is
}

// varies is what stands before an output that is not compared.
const varies = "<!-- varies -->"

// hole stands in an output for lines that are not shown.
const hole = "…"

func parseDocument(name, text string) *document {
	d := &document{name: name, lines: strings.Split(text, "\n")}
	marked, afterCommands := false, false
	for i := 0; i < len(d.lines); i++ {
		lang, ok := strings.CutPrefix(d.lines[i], "```")
		switch {
		case ok:
			f := fenced{lang: lang, from: i + 1, to: i + 1, varies: marked, output: lang == "" && afterCommands}
			for f.to < len(d.lines) && d.lines[f.to] != "```" {
				f.to++
			}
			d.fences = append(d.fences, f)
			i, marked, afterCommands = f.to, false, lang == "sh"
		case d.lines[i] == varies:
			marked = true
		case d.lines[i] != "":
			marked = false
		}
	}
	return d
}

func (d *document) text(f fenced) []string { return d.lines[f.from:f.to] }

// commands are the commands of a block, each in one piece: lines that end in a
// backslash go on, and a here-document belongs to its command.
func commands(block []string) (all []string) {
	hereDocument := regexp.MustCompile(`<<'(\w+)'`)
	for i := 0; i < len(block); i++ {
		command := block[i]
		for strings.HasSuffix(block[i], `\`) && i+1 < len(block) {
			i++
			command += "\n" + block[i]
		}
		if m := hereDocument.FindStringSubmatch(command); m != nil {
			for i+1 < len(block) {
				i++
				command += "\n" + block[i]
				if block[i] == m[1] {
					break
				}
			}
		}
		if strings.TrimSpace(command) != "" {
			all = append(all, command)
		}
	}
	return all
}

// A terminal is a shell in which commands are typed one after the other, in a copy of
// the tree. Addresses on loopback are exchanged for free ones, so that two of them do
// not meet, and are told as they were typed.
type terminal struct {
	t       *testing.T
	dir     string
	shell   *exec.Cmd
	typed   *os.File
	codes   *bufio.Reader
	there   map[string]string // by the port that was typed
	printed string            // the file that the last command printed to
}

// loop reads a command, runs it in this very shell, and tells how it ended.
const loop = `while IFS= read -r -d "" command <&3; do
	eval "$command" </dev/null >"$PRINTED" 2>&1 3<&- 4>&-
	echo $? >&4
done`

func openTerminal(t *testing.T, dir string) *terminal {
	t.Helper()
	x := &terminal{t: t, dir: dir, there: make(map[string]string), printed: filepath.Join(t.TempDir(), "printed")}
	typed, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, codes, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x.typed, x.codes = in, bufio.NewReader(out)
	x.shell = exec.Command("bash", "--noprofile", "--norc", "-o", "pipefail", "-c", loop)
	x.shell.Dir = dir
	x.shell.Env = append(os.Environ(), "PRINTED="+x.printed)
	x.shell.ExtraFiles = []*os.File{typed, codes}
	x.shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := x.shell.Start(); err != nil {
		t.Fatal(err)
	}
	typed.Close()
	codes.Close()
	t.Cleanup(func() {
		in.Close()
		// What was started in the background is of the same group.
		if err := syscall.Kill(-x.shell.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		_ = x.shell.Wait() // it was killed
		out.Close()
	})
	return x
}

var configured = regexp.MustCompile(`--config (\S+)`)

// run types a command, and returns what it printed and how it ended.
func (x *terminal) run(ctx context.Context, command string) (printed string, code int, err error) {
	if m := configured.FindStringSubmatch(command); m != nil { // it has addresses too
		file := filepath.Join(x.dir, m[1])
		text, err := os.ReadFile(file)
		if err != nil {
			return "", 0, err
		}
		if err := os.WriteFile(file, []byte(x.moved(string(text))), 0o644); err != nil {
			return "", 0, err
		}
	}
	if _, err := x.typed.WriteString(x.moved(command) + "\x00"); err != nil {
		return "", 0, err
	}
	ended := make(chan error, 1)
	go func() {
		line, err := x.codes.ReadString('\n')
		if err == nil {
			code, err = strconv.Atoi(strings.TrimSpace(line))
		}
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
		syscall.Kill(-x.shell.Process.Pid, syscall.SIGKILL)
		<-ended
		err = fmt.Errorf("did not end: %w", context.Cause(ctx))
	}
	text, readErr := os.ReadFile(x.printed)
	return x.back(string(text)), code, errors.Join(err, readErr)
}

var loopbackAddress = regexp.MustCompile(`127\.0\.0\.1:([1-9][0-9]{3,4})\b`)

// moved is text with addresses that are free in place of those that are written.
func (x *terminal) moved(text string) string {
	return loopbackAddress.ReplaceAllStringFunc(text, func(addr string) string {
		_, port, _ := strings.Cut(addr, ":")
		if slices.Contains(slices.Collect(maps.Values(x.there)), port) {
			return addr
		}
		if x.there[port] == "" {
			x.there[port] = x.freePort()
		}
		return "127.0.0.1:" + x.there[port]
	})
}

// keep leaves an address as it is, for there is a server.
func (x *terminal) keep(addr string) {
	_, port, _ := strings.Cut(addr, ":")
	x.there[port] = port
}

func (x *terminal) back(text string) string {
	for typed, used := range x.there {
		text = strings.ReplaceAll(text, "127.0.0.1:"+used, "127.0.0.1:"+typed)
	}
	return text
}

// freePort is a port that nobody listens on and that no outgoing connection is given.
func (x *terminal) freePort() string {
	x.t.Helper()
	for n := 10_000 + 20*(os.Getpid()%1000); n < 32_000; n++ {
		port := strconv.Itoa(n)
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			l.Close()
			if !slices.Contains(slices.Collect(maps.Values(x.there)), port) {
				return port
			}
		}
	}
	x.t.Fatal("no port is free")
	return ""
}

// shown is an output with the lines that are not shown left out: as many of the first
// and last as stand before and behind the hole in like.
func shown(output, like []string) []string {
	i := slices.Index(like, hole)
	if behind := len(like) - i - 1; i >= 0 && len(output) >= i+behind {
		return slices.Concat(output[:i], []string{hole}, output[len(output)-behind:])
	}
	return output
}

var (
	madeUp  = regexp.MustCompile(`\b[mt]-[a-z2-7]{26}\b|/tmp/[^ :]*`)
	number  = regexp.MustCompile(`[0-9][0-9.:TZ+-]*(ns|µs|ms|s|GiB|MiB|KiB|B)?\b`)
	padding = regexp.MustCompile(` +|[+−-]+#`)
)

// masked is a line without what no two runs have in common.
func masked(line string) string {
	line = madeUp.ReplaceAllString(line, "#")
	return strings.TrimSpace(padding.ReplaceAllString(number.ReplaceAllString(line, "#"), " "))
}

// sameOutput compares what was printed with what a document shows.
func sameOutput(printed, document []string) string {
	mask := func(lines []string) (m []string) {
		for _, line := range shown(lines, document) {
			m = append(m, masked(line))
		}
		return m
	}
	return cmp.Diff(mask(document), mask(printed))
}

// notHere are commands that a test must not run, and why.
var notHere = map[string]string{
	"make demo":  "takes a minute and a half; TestDemo does it",
	"make setup": "installs packages",
	"make check": "runs this test",
	"make test":  "runs this test",
}

// typeDocument types all commands of a document, as a stranger would in a fresh clone,
// and holds what they print against what the document shows; with -update it is
// written there.
func typeDocument(t *testing.T, name string) {
	t.Helper()
	d := parseDocument(name, readFile(t, filepath.Join("../..", name)))
	clone := cloneTree(t)
	x := openTerminal(t, clone)
	var printed []string
	ran := 0
	for i := range d.fences {
		f := &d.fences[i]
		switch {
		case f.lang == "sh":
			printed = nil
			for _, command := range commands(d.text(*f)) {
				printed = append(printed, typeCommand(t, x, command)...)
				ran++
			}
		case f.output && *update:
			f.now = shown(printed, d.text(*f))
		case f.output && !f.varies && len(printed) > 0:
			if diff := sameOutput(printed, d.text(*f)); diff != "" {
				t.Errorf("%s, line %d: make readme writes what is printed now (-shown +printed):\n%s", name, f.from, diff)
			}
		}
	}
	if ran < 5 {
		t.Errorf("%s: ran %d commands, want those that it shows", name, ran)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(filepath.Join("../..", name), []byte(d.updated()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// typeCommand types one command, which must end well, and returns the lines it prints.
func typeCommand(t *testing.T, x *terminal, command string) []string {
	t.Helper()
	why, skip := notHere[command]
	if demo := command == "make demo" && *update; skip && !demo {
		t.Logf("not run: %s: it %s", command, why)
		command = strings.Replace(command, "make", "make --dry-run", 1) + " >/dev/null && make build >/dev/null" // what later commands need
	}
	// A command that hangs fails here, and not with all tests beside it.
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	defer stop()
	printed, code, err := x.run(ctx, command)
	switch {
	case err != nil:
		t.Fatalf("%s: %v\n%s", command, err, printed)
	case code == exitInconclusive && strings.Contains(printed, "released calls late"):
		t.Logf("%s: this machine is too busy: %s", command, printed)
	case code != 0:
		t.Errorf("%s: ended with %d\n%s", command, code, printed)
	}
	if printed = strings.TrimRight(printed, "\n"); printed == "" {
		return nil
	}
	return strings.Split(strings.ReplaceAll(printed, x.dir, "."), "\n")
}

// updated is the document with what its commands print now.
func (d *document) updated() string {
	var lines []string
	at := 0
	for _, f := range d.fences {
		if f.now != nil {
			lines = append(append(lines, d.lines[at:f.from]...), f.now...)
			at = f.to
		}
	}
	return strings.Join(append(lines, d.lines[at:]...), "\n")
}

func TestREADMECommands(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: builds the program")
	}
	typeDocument(t, "README.md")
}

func TestTutorialCommands(t *testing.T) {
	if os.Getenv("DARKLAUNCH_FULL") == "" && !*update {
		t.Skip("set DARKLAUNCH_FULL=1: waits for two verdicts, which come late on a machine that does something else")
	}
	typeDocument(t, "docs/tutorial.md")
}

// TestREADMEOnHBase types README's commands for a server on Pebble with an HBase in its
// place, as README says that one can.
func TestREADMEOnHBase(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: HBase takes seconds to start, and the program is built")
	}
	quorum := testhbase.Standalone(t, testhbase.Shared).Quorum
	store := fmt.Sprintf("hbase:%s/readme-%d", quorum, time.Now().UnixNano())
	x := openTerminal(t, cloneTree(t))
	x.keep(quorum)
	typeCommand(t, x, "make build && bin/darklaunch appserver init --store "+store+" --regions 2")
	d := parseDocument("README.md", readFile(t, "../../README.md"))
	var printed []string
	compared := 0
	for _, f := range d.fences {
		text := strings.Join(d.text(f), "\n")
		switch {
		case f.lang == "sh" && strings.Contains(text, "--cell 127.0.0.1:7500"):
			printed = nil
			for _, command := range commands(strings.Split(strings.ReplaceAll(text, "pebble:out/rows", store), "\n")) {
				printed = append(printed, typeCommand(t, x, command)...)
			}
		case f.output && len(printed) > 0:
			if diff := sameOutput(printed, d.text(f)); diff != "" {
				t.Errorf("HBase and Pebble differ (-Pebble +HBase):\n%s", diff)
			}
			printed = nil
			compared++
		}
	}
	if compared != 2 {
		t.Errorf("compared %d outputs, want both of README", compared)
	}
}

// TestTypedIsChecked plants what the tests of documents are to find.
func TestTypedIsChecked(t *testing.T) {
	d := parseDocument("planted", "```sh\necho one; false\n```\n\n```\ntwo 7\n…\n```\n\n"+varies+"\n```\nthree\n```\ntext\n```\nfour\n```\n")
	if got := []bool{d.fences[1].output, d.fences[1].varies, d.fences[2].varies, d.fences[3].output}; !slices.Equal(got, []bool{true, false, true, false}) {
		t.Errorf("got %v of %+v", got, d.fences)
	}
	if sameOutput([]string{"two 812µs", "x"}, d.text(d.fences[1])) != "" {
		t.Error("numbers and lines that are not shown are no difference")
	}
	if sameOutput([]string{"too 7", "x"}, d.text(d.fences[1])) == "" {
		t.Error("another word is a difference")
	}
	d.fences[1].now = []string{"new"}
	if got, want := d.updated(), strings.Replace(strings.Join(d.lines, "\n"), "two 7\n…", "new", 1); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	x := openTerminal(t, t.TempDir())
	type result struct {
		printed string
		code    int
	}
	for _, tc := range []struct {
		command string
		want    result
	}{
		{"a=7", result{"", 0}},
		{"echo $a; false | true", result{"7\n", 1}},
		{"cat <<'EOF'\n127.0.0.1:7500 is free\nEOF", result{"127.0.0.1:7500 is free\n", 0}},
	} {
		printed, code, err := x.run(t.Context(), tc.command)
		if got := (result{printed, code}); err != nil || got != tc.want {
			t.Errorf("%s: got %+v, %v, want %+v", tc.command, got, err, tc.want)
		}
	}
	if x.there["7500"] == "" || x.there["7500"] == "7500" {
		t.Errorf("got %v, want another port", x.there)
	}
}
