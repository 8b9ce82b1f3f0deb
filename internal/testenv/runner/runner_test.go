//go:build linux

package runner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// role tells the test binary what to be. A runner adopts orphans and wants no
// other children, so each has a process of its own.
const role = "RUNNER_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "runner":
		os.Exit(run())
	case "borrower":
		check(borrow())
	case "port planter":
		check(plantListener())
	case "listener":
		check(listen())
	}
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(99)
	}
}

// run runs the command in the arguments, in the role that PLANT names.
func run() int {
	check(os.Setenv(role, os.Getenv("PLANT")))
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	r := Runner{Command: os.Args[1:], Starts: sleeper, Signals: signals, Out: os.Stderr, Grace: 300 * time.Millisecond}
	code, err := r.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	return code
}

func sleeper(l *proc.Launcher) keeper.Starts {
	return keeper.Starts{"sleeper": func(ctx context.Context) (*proc.Group, error) {
		g := &proc.Group{Name: "sleeper"}
		return l.Build(ctx, g, func() error {
			p, err := l.Spawn(proc.Spec{Name: "sleeper", Path: "/bin/sleep", Args: []string{"1000"}, Log: filepath.Join(g.Dir, "log")})
			if err == nil {
				g.Processes = []*proc.Process{p}
				g.Addr = fmt.Sprint(p.Pid())
			}
			return err
		})
	}}
}

// borrow takes a server and does not give it back.
func borrow() error {
	loan, err := keeper.Dial(os.Getenv(keeper.Socket), keeper.Request{Server: "sleeper", Holder: "borrower", Exclusive: true})
	if err != nil {
		return err
	}
	fmt.Println(loan.Addr)
	return loan.Stop("sleeper")
}

// plantListener leaves a process that listens, and returns when it does.
func plantListener() error {
	check(os.Setenv(role, "listener"))
	cmd := exec.Command(os.Args[0])
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = io.CopyN(os.Stdout, out, 1)
	return err
}

func listen() error {
	_, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Print(".")
	select {}
}

// runner returns a runner of argv, whose programs get the role plant.
func runner(t *testing.T, plant string, argv ...string) (cmd *exec.Cmd, out *bytes.Buffer) {
	out = new(bytes.Buffer)
	cmd = exec.Command(os.Args[0], argv...)
	cmd.Env = append(os.Environ(), role+"=runner", "PLANT="+plant, "TMPDIR="+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // what it leaves behind may hold its output open
	return cmd, out
}

func exitCode(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func TestRun(t *testing.T) {
	tests := []struct {
		name   string
		plant  string
		argv   []string
		code   int
		report []string // what the output must hold; nothing else is left behind
	}{
		{name: "clean", argv: []string{"true"}},
		{name: "code", argv: []string{"sh", "-c", "exit 7"}, code: 7},
		{name: "killed by a signal", argv: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{name: "no such program", argv: []string{"no-such-program"}, code: 1, report: []string{"no-such-program"}},
		{name: "cleans up itself", argv: []string{"sh", "-c", `d=$(mktemp -d) && sleep 0.3 & touch $TMPDIR/x; rm $TMPDIR/x; wait; rm -r $TMPDIR/*`}},
		{name: "a process that ends in a moment", argv: []string{"sh", "-c", "sleep 0.1 &"}},
		{name: "servers", plant: "borrower", argv: []string{os.Args[0]}, report: []string{"sleeper: ready"}},
		{
			name: "planted process", argv: []string{"sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"}, code: 1,
			report: []string{"left behind: process ", "(sleep 1000)"},
		},
		{
			name: "planted process and a failure", argv: []string{"sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 7"}, code: 7,
			report: []string{"left behind: process ", "(sleep 1000)"},
		},
		{
			name: "planted directory", argv: []string{"sh", "-c", "mkdir $TMPDIR/planted && touch $TMPDIR/planted/file"}, code: 1,
			report: []string{"left behind: ", "/planted with file"},
		},
		{
			name: "planted port", plant: "port planter", argv: []string{os.Args[0]}, code: 1,
			report: []string{"left behind: process ", "left behind: port 127.0.0.1:"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd, out := runner(t, tt.plant, tt.argv...)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, cmd); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			wantLeft := false
			for _, s := range tt.report {
				wantLeft = wantLeft || strings.HasPrefix(s, "left behind")
				if !strings.Contains(out.String(), s) {
					t.Errorf("the output lacks %q", s)
				}
			}
			if !wantLeft && strings.Contains(out.String(), "left behind") {
				t.Error("something was left behind, want nothing")
			}
			if t.Failed() {
				t.Logf("output:\n%s", out)
			}
			nothingIn(t, cmd)
		})
	}
}

// nothingIn wants the runner's own temporary directory to be empty.
func nothingIn(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	_, tmp, _ := strings.Cut(cmd.Env[len(cmd.Env)-1], "=")
	entries, err := os.ReadDir(tmp)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("the runner left %v", entries)
	}
}

// TestPlantedProcessEnds checks that what is named is gone afterwards.
func TestPlantedProcessEnds(t *testing.T) {
	cmd, out := runner(t, "", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo pid $!")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exitCode(t, cmd)
	var pid int
	if _, err := fmt.Sscanf(out.String(), "pid %d", &pid); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d: %v, want it gone", pid, err)
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			// The one that counts is not the leader: go test's binaries are not.
			script := `trap : INT TERM; sh -c 'trap "exit 9" INT TERM; touch up; while :; do sleep 0.05; done'; exit $?`
			cmd, out := runner(t, "", "sh", "-c", script)
			cmd.Dir = t.TempDir()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				if _, err := os.Stat(filepath.Join(cmd.Dir, "up")); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the command does not start")
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := exitCode(t, cmd); code != 9 {
				t.Errorf("exit code %d, want 9\n%s", code, out)
			}
		})
	}
}

// TestKilledRunner kills a runner whose command has borrowed a server: server
// and command go with it.
func TestKilledRunner(t *testing.T) {
	cmd, _ := runner(t, "borrower", "sh", "-c", os.Args[0]+" && echo $$ && exec sleep 1000")
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var server, command int
	if _, err := fmt.Fscan(out, &server, &command); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []int{server, command} {
		for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("process %d has survived the runner", pid)
				break
			}
		}
	}
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
