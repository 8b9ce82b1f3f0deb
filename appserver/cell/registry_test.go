package cell_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"darklaunch/appserver/cell"
	"darklaunch/appserver/cell/celltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t *testing.T, cfg cell.RegistryConfig) *cell.Registry {
	t.Helper()
	r, err := cell.NewRegistry(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return r
}

// TestConformance of the registry of a process.
func TestConformance(t *testing.T) {
	celltest.Run(t, func(t *testing.T) celltest.Place {
		file := filepath.Join(t.TempDir(), "members")
		return &local{newRegistry(t, cell.RegistryConfig{Timeout: celltest.Timeout, File: file}), file}
	})
}

// local is a place in a registry, with links that can be cut.
type local struct {
	registry *cell.Registry
	file     string
}

func (l *local) Client(*testing.T) (cell.Coordinator, func(), func()) {
	g := &link{Coordinator: l.registry, up: make(chan struct{})}
	close(g.up)
	return g, g.cut, g.mend
}

func (l *local) SetConfig(t *testing.T, b []byte) {
	t.Helper()
	if err := l.registry.SetConfig(b); err != nil {
		t.Fatal(err)
	}
}

// link is a coordinator whose calls wait while it is cut.
type link struct {
	cell.Coordinator

	mu sync.Mutex
	up chan struct{} // closed while it is not cut
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up = make(chan struct{})
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.up)
}

func (l *link) pass(ctx context.Context) error {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *link) Open(ctx context.Context) (cell.Session, error) {
	if err := l.pass(ctx); err != nil {
		return nil, err
	}
	s, err := l.Coordinator.Open(ctx)
	return linked{s, l}, err
}

type linked struct {
	cell.Session
	link *link
}

func (s linked) Register(ctx context.Context, name string, record []byte) error {
	if err := s.link.pass(ctx); err != nil {
		return err
	}
	return s.Session.Register(ctx, name, record)
}

func (s linked) Deregister(ctx context.Context, name string) error {
	if err := s.link.pass(ctx); err != nil {
		return err
	}
	return s.Session.Deregister(ctx, name)
}

func (s linked) Read(ctx context.Context) (cell.Snapshot, <-chan struct{}, error) {
	if err := s.link.pass(ctx); err != nil {
		return cell.Snapshot{}, nil, err
	}
	return s.Session.Read(ctx)
}

func (s linked) Touch(ctx context.Context) error {
	if err := s.link.pass(ctx); err != nil {
		return err
	}
	return s.Session.Touch(ctx)
}

// Close over a cut link tells nobody.
func (s linked) Close() error {
	s.link.mu.Lock()
	up := s.link.up
	s.link.mu.Unlock()
	select {
	case <-up:
		return s.Session.Close()
	default:
		return errors.New("cut off")
	}
}

// TestKept: a registry that is made again from its file has its members, sessions and
// numbers, and lets those expire who do not come.
func TestKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "members")
	first := newRegistry(t, cell.RegistryConfig{File: file})
	session, err := first.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Register(session, "1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	was, _ := first.Snapshot()
	second := newRegistry(t, cell.RegistryConfig{File: file, Timeout: 100 * time.Millisecond})
	is, changed := second.Snapshot()
	if is.At != was.At || string(is.Records["1"]) != "one" {
		t.Fatalf("after a start there is %+v, there was %+v", is, was)
	}
	if next, err := second.Begin(); err != nil || next == session {
		t.Errorf("session %d was given twice, %v", next, err)
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("nobody comes, and nobody expires")
	}
	if is, _ = second.Snapshot(); len(is.Records) > 0 || is.At.Compare(was.At) <= 0 {
		t.Errorf("after the sessions expired there is %+v", is)
	}
	if err := second.Touch(session); err == nil {
		t.Error("an expired session is taken")
	}
	third := newRegistry(t, cell.RegistryConfig{File: filepath.Join(t.TempDir(), "members")})
	if anew, _ := third.Snapshot(); anew.At.Compare(is.At) <= 0 {
		t.Errorf("made from nothing it is at %v, which is not newer than %v", anew.At, is.At)
	}
}
