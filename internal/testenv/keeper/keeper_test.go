//go:build linux

package keeper_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// world is a keeper of one server of two processes, reached over a socket.
type world struct {
	socket string
	starts atomic.Int32
	broken atomic.Bool // whether a start fails
	group  *proc.Group // the last one started
}

func newWorld(t *testing.T) *world {
	w := &world{socket: filepath.Join(t.TempDir(), "s")}
	l := proc.NewLauncher(t.TempDir())
	k := keeper.New(keeper.Starts{"sleepers": func(ctx context.Context) (*proc.Group, error) {
		w.starts.Add(1)
		if w.broken.Load() {
			return nil, errors.New("no luck today")
		}
		w.group = &proc.Group{Name: "sleepers", Addr: "bed"}
		return l.Build(ctx, w.group, func() error {
			for _, name := range []string{"one", "two"} {
				p, err := l.Spawn(proc.Spec{Name: name, Path: "/bin/sleep", Args: []string{"1000"}, Log: filepath.Join(w.group.Dir, name)})
				if err != nil {
					return err
				}
				w.group.Processes = append(w.group.Processes, p)
			}
			return nil
		})
	}}, t.Logf)
	listener, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { defer close(served); k.Serve(listener) }()
	t.Cleanup(func() {
		listener.Close()
		<-served
		if err := k.Close(); err != nil {
			t.Error(err)
		}
		l.Close()
	})
	return w
}

func (w *world) borrow(t *testing.T, holder string, alone bool) *keeper.Loan {
	t.Helper()
	loan, err := keeper.Dial(w.socket, keeper.Request{Server: "sleepers", Holder: holder, Exclusive: alone})
	if err != nil {
		t.Fatal(err)
	}
	return loan
}

func giveBack(t *testing.T, loan *keeper.Loan) {
	t.Helper()
	if err := loan.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStartsOnce(t *testing.T) {
	w := newWorld(t)
	if n := w.starts.Load(); n != 0 {
		t.Errorf("%d starts before anyone asked", n)
	}
	for _, holder := range []string{"a", "b", "b"} {
		loan := w.borrow(t, holder, false)
		defer giveBack(t, loan)
		if loan.Addr != "bed" || len(loan.Processes) != 2 || loan.Processes[1].Name != "two" {
			t.Errorf("terms %+v", loan.Terms)
		}
	}
	if n := w.starts.Load(); n != 1 {
		t.Errorf("%d starts for three loans, want 1", n)
	}
}

func TestFailedStartIsKept(t *testing.T) {
	w := newWorld(t)
	w.broken.Store(true)
	for range 2 {
		_, err := keeper.Dial(w.socket, keeper.Request{Server: "sleepers", Holder: "a"})
		if err == nil || !strings.Contains(err.Error(), "no luck today") {
			t.Errorf("got %v, want why it did not start", err)
		}
	}
	if n := w.starts.Load(); n != 1 {
		t.Errorf("%d starts, want 1: the first failed", n)
	}
}

func TestUnknownServer(t *testing.T) {
	if _, err := keeper.Dial(newWorld(t).socket, keeper.Request{Server: "cats"}); err == nil {
		t.Error("a server that nobody keeps was lent")
	}
}

// TestAlone has one holder hurt the server in every way and hand it back, by a
// word or by dying; the next finds it whole.
func TestAlone(t *testing.T) {
	ends := map[string]func(*testing.T, *keeper.Loan){"returned": giveBack, "cut": cut}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			loan := w.borrow(t, "a", true)
			if err := errors.Join(loan.Kill("one"), loan.Restart("one"), loan.Stop("two"), loan.Continue("two"), loan.Kill("one"), loan.Stop("two")); err != nil {
				t.Fatal(err)
			}
			if err := w.group.Process("one").Died(); err == nil {
				t.Error("the killed process runs")
			}
			end(t, loan)
			next := w.borrow(t, "b", true)
			defer giveBack(t, next)
			if err := w.group.Died(); err != nil {
				t.Errorf("the next holder gets a broken server: %v", err)
			}
			if err := errors.Join(next.Stop("one"), next.Stop("two")); err != nil {
				t.Error(err)
			}
		})
	}
}

// cut is how the loan of a process that dies ends.
func cut(t *testing.T, loan *keeper.Loan) {
	t.Helper()
	if err := loan.Cut(); err != nil {
		t.Fatal(err)
	}
}

func TestSharedMayNotHurt(t *testing.T) {
	w := newWorld(t)
	loan := w.borrow(t, "a", false)
	defer giveBack(t, loan)
	if err := loan.Kill("one"); err == nil {
		t.Error("one of many holders killed the server")
	}
	if err := w.group.Died(); err != nil {
		t.Error(err)
	}
}

func TestUnknownProcess(t *testing.T) {
	loan := newWorld(t).borrow(t, "a", true)
	defer giveBack(t, loan)
	if err := loan.Kill("three"); err == nil {
		t.Error("a process that is none was killed")
	}
}

// TestWaits checks who waits for whom.
func TestWaits(t *testing.T) {
	tests := []struct {
		name         string
		first        bool // whether the first holds it alone
		second       bool
		mustWait     bool
		secondHolder string
		refused      bool
	}{
		{"two together", false, false, false, "b", false},
		{"alone after shared", false, true, true, "b", false},
		{"shared after alone", true, false, true, "b", false},
		{"alone after alone", true, true, true, "b", false},
		{"alone after its own shared", false, true, false, "a", true},
		{"shared after its own alone", true, false, false, "a", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			first := w.borrow(t, "a", tt.first)
			var returned atomic.Bool
			type result struct {
				loan  *keeper.Loan
				err   error
				early bool
			}
			got := make(chan result)
			go func() {
				loan, err := keeper.Dial(w.socket, keeper.Request{Server: "sleepers", Holder: tt.secondHolder, Exclusive: tt.second})
				got <- result{loan, err, !returned.Load()}
			}()
			var second result
			if tt.mustWait {
				select {
				case <-got:
					t.Fatal("the second did not wait")
				case <-time.After(100 * time.Millisecond): // long enough to be lent it
				}
				returned.Store(true)
				giveBack(t, first)
				second = <-got
			} else {
				second = <-got
				giveBack(t, first)
			}
			if (second.err != nil) != tt.refused {
				t.Fatalf("error %v, want one: %v", second.err, tt.refused)
			}
			if second.early == tt.mustWait {
				t.Errorf("lent before the first was returned: %v", second.early)
			}
			if second.err == nil {
				giveBack(t, second.loan)
			}
		})
	}
}

// TestBorrow borrows within the process, as a package does without a runner.
func TestBorrow(t *testing.T) {
	k := keeper.New(keeper.Starts{"nothing": func(context.Context) (*proc.Group, error) {
		return &proc.Group{Name: "nothing", Addr: "nowhere"}, nil
	}}, nil)
	loan, err := k.Borrow(keeper.Request{Server: "nothing", Holder: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if loan.Addr != "nowhere" {
		t.Errorf("address %q, want nowhere", loan.Addr)
	}
	giveBack(t, loan)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}
