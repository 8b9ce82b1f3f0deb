//go:build linux

package proc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// parentRole makes the test binary start a process and wait to be killed.
const parentRole = "PROC_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentRole); dir != "" {
		parent(dir)
	}
	os.Exit(m.Run())
}

func launcher(t *testing.T) *Launcher {
	l := NewLauncher(t.TempDir())
	t.Cleanup(l.Close)
	return l
}

// shell describes a process that runs a script.
func shell(t *testing.T, script string) Spec {
	dir := t.TempDir()
	return Spec{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir, Log: filepath.Join(dir, "log")}
}

func start(t *testing.T, l *Launcher, spec Spec) *Process {
	t.Helper()
	p, err := l.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestStartFailsWithTheProcess(t *testing.T) {
	spec := shell(t, "echo no such luck; exit 3")
	spec.Ready = func(context.Context) error { return errors.New("not ready") }
	spec.Within = time.Minute
	began := time.Now()
	_, err := launcher(t).Start(t.Context(), spec)
	died, ok := errors.AsType[*DiedError](err)
	if !ok {
		t.Fatalf("got %v, want a DiedError", err)
	}
	if want := "no such luck"; died.Tail != want {
		t.Errorf("tail %q, want %q", died.Tail, want)
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("told after %v, want at once", d)
	}
}

// TestStartInterruptsTheQuestion has a question that is never answered: the
// process's death must end it.
func TestStartInterruptsTheQuestion(t *testing.T) {
	spec := shell(t, "sleep 0.1")
	spec.Ready = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	spec.Within = time.Minute
	_, err := launcher(t).Start(t.Context(), spec)
	if _, ok := errors.AsType[*DiedError](err); !ok {
		t.Errorf("got %v, want a DiedError", err)
	}
}

func TestStartNotReadyInTime(t *testing.T) {
	spec := shell(t, "exec sleep 1000")
	spec.Ready = func(context.Context) error { return errors.New("still asleep") }
	spec.Within = 50 * time.Millisecond
	_, err := launcher(t).Start(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "still asleep") {
		t.Errorf("got %v, want the last answer", err)
	}
}

func TestStopContinueKill(t *testing.T) {
	p := start(t, launcher(t), shell(t, "exec sleep 1000"))
	state := func(want bool) {
		t.Helper()
		if got, err := stopped(p.Pid()); err != nil || got != want {
			t.Errorf("stopped is %v, %v; want %v", got, err, want)
		}
	}
	state(false)
	for _, step := range []struct {
		do   func() error
		want bool
	}{{p.Stop, true}, {p.Continue, false}} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		state(step.want)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Died(); err == nil {
		t.Error("Died() = nil after Kill")
	}
	if err := p.Kill(); err == nil {
		t.Error("a dead process was killed")
	}
}

// TestWholeGroup kills a process that has children: none may stay, not even
// one that ignores its parent's end.
func TestWholeGroup(t *testing.T) {
	for name, end := range map[string]func(*Process) error{"Kill": (*Process).Kill, "Close": (*Process).Close} {
		t.Run(name, func(t *testing.T) {
			p := start(t, launcher(t), shell(t, "sleep 1000 & sh -c 'trap : TERM HUP; while :; do sleep 1000; done' & wait"))
			for {
				members, err := groupMembers(p.Pid())
				if err != nil {
					t.Fatal(err)
				}
				if len(members) >= 3 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if err := end(p); err != nil {
				t.Fatal(err)
			}
			if members, err := groupMembers(p.Pid()); err != nil || len(members) > 0 {
				t.Errorf("left: %v, %v", members, err)
			}
		})
	}
}

func TestCloseStopped(t *testing.T) {
	p := start(t, launcher(t), shell(t, "exec sleep 1000"))
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestHeal(t *testing.T) {
	l := launcher(t)
	g := &Group{Name: "three"}
	_, err := l.Build(t.Context(), g, func() error {
		for range 3 {
			p, err := l.Spawn(shell(t, "exec sleep 1000"))
			if err != nil {
				return err
			}
			g.Processes = append(g.Processes, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	before := []int{g.Processes[0].Pid(), g.Processes[1].Pid(), g.Processes[2].Pid()}
	if err := errors.Join(g.Processes[0].Kill(), g.Processes[1].Stop()); err != nil {
		t.Fatal(err)
	}
	if err := g.Died(); err == nil {
		t.Error("Died() = nil with a killed process")
	}
	if err := g.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, fresh := range []bool{true, true, false} {
		p := g.Processes[i]
		if err := p.Died(); err != nil {
			t.Error(err)
		}
		if got := p.Pid() != before[i]; got != fresh {
			t.Errorf("process %d started anew: %v, want %v", i, got, fresh)
		}
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(g.Dir); !os.IsNotExist(err) {
		t.Errorf("the directory is there after Close: %v", err)
	}
}

func TestRetry(t *testing.T) {
	taken := &DiedError{Name: "x", Tail: "bind: Address already in use"}
	tests := []struct {
		name  string
		errs  []error
		tries int
	}{
		{"taken twice", []error{taken, taken, nil}, 3},
		{"always taken", []error{taken, taken, taken, taken, taken, nil}, 5},
		{"another reason", []error{&DiedError{Name: "x", Tail: "out of luck"}, nil}, 1},
		{"not a death", []error{errors.New("address already in use"), nil}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tries := 0
			_, err := Retry(2, func(ports []int) (*Group, error) {
				if len(ports) != 2 || ports[0] == ports[1] {
					t.Errorf("ports %v, want two different ones", ports)
				}
				tries++
				return nil, tt.errs[tries-1]
			})
			if tries != tt.tries || err != tt.errs[tries-1] {
				t.Errorf("%d tries and %v, want %d", tries, err, tt.tries)
			}
		})
	}
}

func TestListening(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Listening(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if want := l.Addr().String(); len(got) != 1 || got[0] != want {
		t.Errorf("got %v, want [%s]", got, want)
	}
	l.Close()
	if got, err := Listening(os.Getpid()); err != nil || len(got) > 0 {
		t.Errorf("after Close: got %v, %v; want none", got, err)
	}
}

// TestDiesWithItsParent kills a program with SIGKILL and wants its processes to
// go with it, a stopped one and the children of a gentle one included.
func TestDiesWithItsParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), parentRole+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var groups []int
	for lines.Scan() && lines.Text() != "ready" {
		var pgid int
		if _, err := fmt.Sscan(lines.Text(), &pgid); err != nil {
			t.Fatalf("the parent says %q", lines.Text())
		}
		groups = append(groups, pgid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(groups) != 3 {
		t.Fatalf("the parent started %d processes, want 3", len(groups))
	}
	for _, pgid := range groups {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			members, err := groupMembers(pgid)
			if err != nil {
				t.Fatal(err)
			}
			if len(members) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("processes %v have survived their parent", members)
				_ = signalGroup(pgid, syscall.SIGKILL)
				break
			}
		}
	}
}

// parent starts a plain process, a stopped one, and one that ends its child
// when it is told to end, and says so.
func parent(dir string) {
	l := NewLauncher(dir)
	gentle := `sleep 1000 & child=$!; trap 'kill $child; exit' TERM; echo up; wait`
	for i, spec := range []Spec{
		{Args: []string{"-c", "exec sleep 1000"}},
		{Args: []string{"-c", "exec sleep 1000"}},
		{Args: []string{"-c", gentle}, Death: syscall.SIGTERM},
	} {
		spec.Name, spec.Path = fmt.Sprint(i), "/bin/sh"
		spec.Log = filepath.Join(dir, spec.Name)
		if spec.Death != 0 {
			spec.Ready = func(context.Context) error {
				if Tail(spec.Log, 1) != "up" {
					return errors.New("not up")
				}
				return nil
			}
		}
		p, err := l.Start(context.Background(), spec)
		if err == nil && i == 1 {
			err = p.Stop()
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.Pid())
	}
	fmt.Println("ready")
	select {}
}
