package mailbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// hooked is a store whose puts are seen after they are durable.
type hooked struct {
	store.Store
	after func(user string)
}

func (s hooked) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	err := s.Store.Put(ctx, user, cur, next, cells)
	if err == nil {
		s.after(user)
	}
	return err
}

func boxOf(p *Pool, u action.User) *box {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, _ := p.boxes.Peek(u)
	return b
}

// TestPanicAfterPut: a fold that panics when its put is durable already leaves an
// unknown outcome, and the mailbox is loaded anew; others are not held up.
func TestPanicAfterPut(t *testing.T) {
	var p *Pool
	var planted atomic.Bool
	s := hooked{&memstore.Store{}, func(string) {
		if planted.CompareAndSwap(true, false) {
			b := boxOf(p, "ann")
			b.mu.Lock()
			b.keys = nil
			b.mu.Unlock()
		}
	}}
	p, _ = start(t, Config{Store: s})
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "first")); err != nil {
		t.Fatal(err)
	}
	planted.Store(true)
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "2", "second")); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
	if planted.Load() {
		t.Error("nothing panicked")
	}
	done, err := p.Mutate(t.Context(), "ann", note("ann", "2", "second"))
	if err != nil || !done.Repeated {
		t.Errorf("the same again: got %+v, %v, want what was done", done, err)
	}
	if got, _, err := bodies(t.Context(), p, "ann"); err != nil || fmt.Sprint(got) != "[first second]" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestPanicInRead: what makes a reader panic is an error of its user.
func TestPanicInRead(t *testing.T) {
	p, _ := start(t, Config{Store: &memstore.Store{}})
	if err := p.Read(t.Context(), "ann", func(*State) error { panic("planted") }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want %v", err, ErrCorrupt)
	}
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "first")); err != nil {
		t.Errorf("after it: %v", err)
	}
}

// TestDeliveriesAtLoad: what an outbox holds from before goes to all its recipients
// when the mailbox is loaded.
func TestDeliveriesAtLoad(t *testing.T) {
	s := &memstore.Store{}
	p, stop := start(t, Config{Store: s, Delivers: func(action.Participant) bool { return false }})
	recipients := []action.User{"bob", "cy", "dee", "eve", "fay"}
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "hello", recipients...)); err != nil {
		t.Fatal(err)
	}
	stop()
	var again *Pool
	made := make(chan struct{})
	again, _ = start(t, Config{Store: s, Deliver: func(ctx context.Context, _ action.User, e action.Entry, a action.Action, _ []action.MemberState, _ index.Thread) error {
		<-made
		_, err := again.Mutate(ctx, e.To.User, take(e, a))
		return err
	}})
	close(made)
	if err := again.Delivered(t.Context(), "ann", 2); err != nil {
		t.Fatal(err)
	}
	for _, u := range recipients {
		if got, _, err := bodies(t.Context(), again, u); err != nil || fmt.Sprint(got) != "[hello]" {
			t.Errorf("%s: got %q, %v", u, got, err)
		}
	}
}

// TestRefusalIsCurrent: with strict reads a server that has lost the mailbox refuses
// nothing by what it remembers of it.
func TestRefusalIsCurrent(t *testing.T) {
	s := &memstore.Store{}
	strict := func() bool { return true }
	a, _ := start(t, Config{Store: s, Strict: strict})
	b, _ := start(t, Config{Store: s, Strict: strict})
	if _, _, err := bodies(t.Context(), b, "ann"); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Mutate(t.Context(), "ann", note("ann", "1", "first")); err != nil {
		t.Fatal(err)
	}
	absent := errors.New("no such thread")
	m := note("ann", "2", "second")
	decide := m.Decide
	m.Decide = func(v index.View, first uint64, now action.Time) ([]action.Do, error) {
		if thread, err := v.Thread("t"); err != nil || thread == nil {
			return nil, errors.Join(absent, err)
		}
		return decide(v, first, now)
	}
	if _, err := b.Mutate(t.Context(), "ann", m); err != nil {
		t.Errorf("a reply on the server that had lost the mailbox: %v", err)
	}
	after := uint64(3)
	watched := errors.New("seen")
	if err := a.Watch(t.Context(), "ann", &after, func(uint64) error { return watched }, nil); !errors.Is(err, watched) {
		t.Errorf("a watch from where the other server is: got %v", err)
	}
}

// TestReadBodiesAreAccounted: bodies that were read back count as memory of the cache.
func TestReadBodiesAreAccounted(t *testing.T) {
	s := &memstore.Store{}
	p, stop := start(t, Config{Store: s, FlushActions: 1})
	const n = 20
	for i := range n {
		if _, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), strings.Repeat("x", 10<<10))); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	p, _ = start(t, Config{Store: s, FlushActions: 1})
	if _, _, err := bodies(t.Context(), p, "ann"); err != nil {
		t.Fatal(err)
	}
	before := testutil.ToFloat64(p.metrics.size)
	if _, err := p.Actions(t.Context(), "ann", []uint64{2, 3, 4, 5, 6, 7, 8, 9, 10}); err != nil {
		t.Fatal(err)
	}
	if grown := testutil.ToFloat64(p.metrics.size) - before; grown < 5*10<<10 {
		t.Errorf("got %.0f bytes more after nine bodies of 10 KiB were read", grown)
	}
}

// TestPreload: what was preloaded needs no store. Row E70.
func TestPreload(t *testing.T) {
	s := &memstore.Store{}
	p, stop := start(t, Config{Store: s, FlushActions: 1})
	for i := range 20 {
		if _, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint("body ", i))); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	var cut atomic.Bool
	again := &memstore.Store{Faults: func(op memstore.Op, _ string) memstore.Fault {
		return memstore.Fault{Before: cut.Load() && op == memstore.OpRead}
	}}
	copyRow(t, s, again, "ann")
	p, _ = start(t, Config{Store: again, FlushActions: 1})
	if _, _, err := bodies(t.Context(), p, "ann"); err != nil {
		t.Fatal(err)
	}
	p.Preload("ann", []uint64{2, 3})
	for under := 1; under > 0 && t.Context().Err() == nil; {
		p.mu.Lock()
		under = p.preloads
		p.mu.Unlock()
	}
	cut.Store(true)
	if found, err := p.Actions(t.Context(), "ann", []uint64{2, 3}); err != nil || len(found) != 2 {
		t.Errorf("got %v, %v, want what was preloaded", found, err)
	}
	if _, err := p.Actions(t.Context(), "ann", []uint64{7}); err == nil {
		t.Error("what was not preloaded was in memory too: this shows nothing")
	}
}

func copyRow(t *testing.T, from, to store.Store, user string) {
	t.Helper()
	row, whole, err := store.ReadAll(t.Context(), from, user,
		store.Span{Family: store.Actions}, store.Span{Family: store.Metadata}, store.Span{Family: store.Keywords}, store.Span{Family: store.Outbox})
	if err != nil || !whole {
		t.Fatal(whole, err)
	}
	if err := to.Put(t.Context(), user, store.Fence{}, row.Fence, row.Cells); err != nil {
		t.Fatal(err)
	}
}
