//go:build linux

package family

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asSupervisor makes the test binary be the supervisor, asCaller the program
// that starts one and dies.
const (
	asSupervisor = "FAMILY_TEST_SUPERVISOR"
	asCaller     = "FAMILY_TEST_CALLER"
)

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == asSupervisor:
		code, err := Supervise(os.Args[2:], os.Stdin)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	case len(os.Args) > 1 && os.Args[1] == asCaller:
		if _, err := Start(self(), Command{Line: os.Args[2], Log: os.Args[3]}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {} // until killed
	}
	os.Exit(m.Run())
}

func self() []string { return []string{os.Args[0], asSupervisor} }

// waitFor returns when cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// pids reads process ids that a command has written, a line each, once there are n.
func pids(t *testing.T, file string, n int) (ids []int) {
	t.Helper()
	waitFor(t, "process ids in "+file, func() bool {
		b, _ := os.ReadFile(file)
		ids = nil
		for _, line := range strings.Fields(string(b)) {
			if id, err := strconv.Atoi(line); err == nil {
				ids = append(ids, id)
			}
		}
		return len(ids) == n && bytes.HasSuffix(b, []byte("\n"))
	})
	return ids
}

// alive is whether the process is there and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// fleeing is a command with three processes that outlive a signal to its
// group: one in a session of its own, one that its parent has left, and one that
// ignores SIGTERM.
func fleeing(file string) string {
	return fmt.Sprintf(`setsid sh -c 'echo $$ >> %[1]s; exec sleep 1000' &
(sh -c 'echo $$ >> %[1]s; trap "" TERM; while :; do sleep 1000; done' &)
sh -c 'echo $$ >> %[1]s; trap "" TERM; while :; do sleep 1000; done' &
wait`, file)
}

func TestNothingIsLeft(t *testing.T) {
	t.Run("when stopped", func(t *testing.T) {
		dir := t.TempDir()
		f, err := Start(self(), Command{Line: fleeing(dir + "/pids"), Log: dir + "/log"})
		if err != nil {
			t.Fatal(err)
		}
		ids := pids(t, dir+"/pids", 3)
		for _, id := range ids {
			if !alive(id) {
				t.Fatalf("process %d is gone before the stop", id)
			}
		}
		f.Stop()
		for _, id := range ids {
			if alive(id) {
				t.Errorf("process %d outlived the stop", id)
			}
		}
		f.Stop() // again
	})
	t.Run("when the command ends by itself", func(t *testing.T) {
		dir := t.TempDir()
		f, err := Start(self(), Command{Line: "setsid sh -c 'echo $$ >> pids; exec sleep 1000' & until [ -s pids ]; do sleep 0.01; done; exit 3", Dir: dir, Log: dir + "/log"})
		if err != nil {
			t.Fatal(err)
		}
		<-f.Over()
		if id := pids(t, dir+"/pids", 1)[0]; alive(id) {
			t.Errorf("process %d outlived its parent", id)
		}
		if exit, ok := errors.AsType[*ExitError](f.Err()); !ok || exit.Status != "exit status 3" {
			t.Errorf("got %v, want exit status 3", f.Err())
		}
	})
	t.Run("when the caller is killed", func(t *testing.T) {
		dir := t.TempDir()
		caller := exec.Command(os.Args[0], asCaller, fleeing(dir+"/pids"), dir+"/log")
		if err := caller.Start(); err != nil {
			t.Fatal(err)
		}
		ids := pids(t, dir+"/pids", 3)
		if err := caller.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = caller.Wait()
		for _, id := range ids {
			waitFor(t, fmt.Sprintf("the end of process %d", id), func() bool { return !alive(id) })
		}
	})
}

func TestStopAsksFirst(t *testing.T) {
	dir := t.TempDir()
	f, err := Start(self(), Command{
		Line: `trap 'echo bye > answer; exit 7' INT; echo $$ > pids; while :; do sleep 0.01; done`,
		Dir:  dir, Log: dir + "/log", Stop: syscall.SIGINT, Grace: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	pids(t, dir+"/pids", 1)
	f.Stop()
	if b, _ := os.ReadFile(dir + "/answer"); string(b) != "bye\n" {
		t.Errorf("got %q, want the command's farewell", b)
	}
	if exit, ok := errors.AsType[*ExitError](f.Err()); !ok || exit.Status != "exit status 7" {
		t.Errorf("got %v, want exit status 7", f.Err())
	}
}

// TestCPU has the work done by a child that has ended, by one that was left, and
// by one that runs: all counts, and what this test burns itself does not.
func TestCPU(t *testing.T) {
	const burn = `i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done`
	dir := t.TempDir()
	run := func(line string, n int) time.Duration {
		os.Remove(dir + "/pids")
		f, err := Start(self(), Command{Line: line, Dir: dir, Log: dir + "/log"})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Stop()
		pids(t, dir+"/pids", n)
		used, err := f.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if used.Memory < 1<<10 || used.Memory > 1<<30 {
			t.Errorf("got %d bytes of memory for some shells", used.Memory)
		}
		return used.CPU
	}
	one := run(burn+"; echo $$ >> pids; sleep 1000", 1)
	if one < time.Millisecond {
		t.Fatalf("one loop took %v of processor time, want more", one)
	}
	for name, line := range map[string]string{
		"ended children": "sh -c '" + burn + "'; sh -c '" + burn + "'; sh -c '" + burn + "'; sh -c '" + burn + "'; echo $$ >> pids; sleep 1000",
		"orphans":        "(setsid sh -c '" + burn + "; " + burn + "; " + burn + "; " + burn + "; echo $$ >> pids; exec sleep 1000' &) ; sleep 1000",
		"children":       "sh -c '" + burn + "; " + burn + "; " + burn + "; " + burn + "; echo $$ >> pids; exec sleep 1000'",
	} {
		if four := run(line, 1); four < 2*one {
			t.Errorf("%s: four loops took %v of processor time, one %v: want more than twice as much", name, four, one)
		}
	}
}

func TestOutput(t *testing.T) {
	dir := t.TempDir()
	never := make(chan struct{})
	err := Output(self(), Command{Line: "echo one; echo two >&2; exit 4", Log: dir + "/log"}, never)
	exit, ok := errors.AsType[*ExitError](err)
	if !ok || exit.Status != "exit status 4" || Tail(dir+"/log", 9) != "one\ntwo" {
		t.Errorf("got %v and %q, want exit status 4 and what was printed", err, Tail(dir+"/log", 9))
	}
	if err := Output(self(), Command{Line: "test $A = b && test $(pwd) = " + dir, Dir: dir, Env: []string{"A=b"}, Log: dir + "/log2"}, never); err != nil {
		t.Error(err)
	}
	now := make(chan struct{})
	close(now)
	if err := Output(self(), Command{Line: "sleep 1000", Log: dir + "/log3"}, now); err == nil {
		t.Error("what was stopped has ended well")
	}
	if _, err := Start(self(), Command{Line: "true", Log: dir + "/no/log"}); err == nil {
		t.Error("started without a log")
	}
	if _, err := Start([]string{"/no/such/program"}, Command{Line: "true", Log: dir + "/log4"}); err == nil {
		t.Error("started without a program")
	}
}

func TestTail(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name, []byte(strings.Repeat("x", 20<<10)+"\nlast but one\nlast \xff\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := Tail(name, 2), "last but one\nlast ?"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Tail(name, 100); len(got) > 9<<10 {
		t.Errorf("got %d bytes, want at most 8 KiB", len(got))
	}
	if got := Tail(name+"x", 3); !strings.Contains(got, "no such file") {
		t.Errorf("got %q, want why there is none", got)
	}
}

func TestSuperviseRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"TERM", "1s", "true"}, {"15", "soon", "true"}} {
		if _, err := Supervise(args, io.LimitReader(nil, 0)); err == nil {
			t.Errorf("%q: got no error", args)
		}
	}
}
