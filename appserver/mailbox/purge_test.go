package mailbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// remove deletes messages of the thread that note writes into.
func remove(u action.User, ids ...string) Mutation {
	return Mutation{Origin: action.OriginUser, Channel: action.ChannelChat, Decide: func(v index.View, _ uint64, _ action.Time) ([]action.Do, error) {
		m, err := v.Message(ids[0])
		if err != nil {
			return nil, err
		}
		return []action.Do{&action.Deleted{Target: action.Target{Thread: m.Thread, Messages: ids}}}, nil
	}}
}

// holds reports whether any cell of a row has a text in it.
func holds(t *testing.T, s store.Store, user, text string) bool {
	t.Helper()
	var spans []store.Span
	for _, f := range store.Families() {
		spans = append(spans, store.Span{Family: f})
	}
	row, _, err := store.ReadAll(t.Context(), s, user, spans...)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(row.Cells, func(c store.Cell) bool {
		return strings.Contains(string(c.Qualifier)+string(c.Value), text)
	})
}

// checkAll holds a row's metadata and keywords against its log.
func checkAll(t *testing.T, s store.Store, user string) {
	t.Helper()
	if _, err := Check(t.Context(), s, user, ""); err != nil {
		t.Error(err)
	}
}

// purged has a mailbox with n messages that have a "secret", of which all but the first
// were deleted.
func purged(t *testing.T, s store.Store, n int) (ids []string) {
	t.Helper()
	p, stop := start(t, Config{Store: s, FlushActions: 64})
	defer stop()
	for i := range n {
		done, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint("k", i), fmt.Sprint("secret", i, " public")))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, action.MessageOf(done.Last.Do).ID)
	}
	if _, err := p.Mutate(t.Context(), "ann", remove("ann", ids[1:]...)); err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestPurge: the contents of what was deleted are nowhere in the row or in memory, the
// rest is as it was, a mailbox that is loaded anew is the same, and done again nothing
// happens. Rows I132, I133.
func TestPurge(t *testing.T) {
	s := &memstore.Store{}
	ids := purged(t, s, maxPurge+20) // more than one put's worth
	young, err := Purgeable(t.Context(), s, "ann", time.Now().Add(-time.Hour))
	if err != nil || young.Messages != 0 {
		t.Errorf("what was deleted an hour ago: got %+v, %v, want nothing", young, err)
	}
	p, stop := start(t, Config{Store: s, Job: true})
	due, err := Purgeable(t.Context(), s, "ann", time.Now())
	if err != nil || due.Messages != len(ids)-1 {
		t.Errorf("got %+v, %v, want %d messages", due, err, len(ids)-1)
	}
	done, err := p.Purge(t.Context(), "ann", time.Now())
	if err != nil || done != due {
		t.Errorf("got %+v, %v, want %+v", done, err, due)
	}
	if holds(t, s, "ann", "secret1") || !holds(t, s, "ann", "secret0") {
		t.Error("the row has what was deleted, or has not what was not")
	}
	checkAll(t, s, "ann")
	var sequence uint64
	look := func(p *Pool) {
		t.Helper()
		err := p.Read(t.Context(), "ann", func(st *State) error {
			m, err := st.View.Message(ids[1])
			if err != nil || m == nil || !m.Purged || m.Snippet != "" {
				t.Errorf("got %+v, %v, want it known and without contents", m, err)
			}
			sequence = m.Sequence
			if st.Words.Get([]byte{versionCell}) == nil {
				t.Error("keywords without a version")
			}
			for q := range st.Words.Scan(nil, nil) {
				if strings.Contains(string(q), "secret1") {
					t.Errorf("keyword %q", q)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		found, err := p.Actions(t.Context(), "ann", []uint64{sequence})
		if m := action.MessageOf(found[sequence].Do); err != nil || m == nil || m.Body != "" || !m.Stripped {
			t.Errorf("got %+v, %v of the log, want it stripped", found, err)
		}
		if all, _, err := bodies(t.Context(), p, "ann"); err != nil || !slices.Equal(all, []string{"secret0 public"}) {
			t.Errorf("got %q, %v, want the one that is left", all, err)
		}
	}
	look(p)
	if again, err := p.Purge(t.Context(), "ann", time.Now()); err != nil || again.Messages != 0 {
		t.Errorf("again: got %+v, %v, want nothing to do", again, err)
	}
	if again, err := p.Mutate(t.Context(), "ann", note("ann", "k1", "secret1 public")); err != nil || !again.Repeated {
		t.Errorf("the key of a purged message: got %+v, %v, want it known", again, err)
	}
	stop()
	p, _ = start(t, Config{Store: s})
	look(p)
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "after", "later words")); err != nil {
		t.Error(err)
	}
	if err := p.Flush(t.Context(), "ann"); err != nil {
		t.Error(err)
	}
	checkAll(t, s, "ann")
}

// brief is a store that takes so many puts and no more.
type brief struct {
	store.Store
	mu   sync.Mutex
	left int
}

func (s *brief) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	s.mu.Lock()
	s.left--
	full := s.left < 0
	s.mu.Unlock()
	if full {
		return store.ErrRefused
	}
	return s.Store.Put(ctx, user, cur, next, cells)
}

// TestPurgeInterrupted has the store refuse all after the nth put of a purge: what is
// there is a mailbox, and another purge ends what was begun.
func TestPurgeInterrupted(t *testing.T) {
	for n := range 6 {
		s := &memstore.Store{}
		purged(t, s, 20)
		p, stop := start(t, Config{Job: true, Store: &brief{Store: s, left: n}})
		_, err := p.Purge(t.Context(), "ann", time.Now())
		if n < 4 && !errors.Is(err, ErrOverloaded) {
			t.Errorf("after %d puts: got %v, want %v", n, err, ErrOverloaded)
		}
		stop()
		checkAll(t, s, "ann")
		p, stop = start(t, Config{Store: s, Job: true})
		if _, err := p.Purge(t.Context(), "ann", time.Now()); err != nil {
			t.Errorf("after %d puts: %v", n, err)
		}
		stop()
		if old, err := Outdated(t.Context(), s, "ann"); err != nil || old {
			t.Errorf("after %d puts: outdated %t, %v", n, old, err)
		}
		if holds(t, s, "ann", "secret1") || !holds(t, s, "ann", "secret0") {
			t.Errorf("after %d puts: the row has what was deleted, or has not what was not", n)
		}
		checkAll(t, s, "ann")
	}
}

// TestPurgeBesideOwner: while one server writes to a mailbox a job purges it, over and
// over; all that was acknowledged is there at the end, and what was deleted is not.
func TestPurgeBesideOwner(t *testing.T) {
	s := &memstore.Store{}
	owner, _ := start(t, Config{Store: s, FlushActions: 16})
	job, _ := start(t, Config{Store: s, Job: true})
	var kept []string
	over := make(chan struct{})
	passes := make(chan Purged, 1)
	go func() {
		var all Purged
		defer func() { passes <- all }()
		for {
			done, err := job.Purge(t.Context(), "ann", time.Now())
			if err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, ErrUnknown) {
				t.Errorf("purge: %v", err)
			}
			all.Messages += done.Messages
			select {
			case <-over:
				return
			default:
			}
		}
	}()
	try := func(m Mutation) Done {
		for {
			done, err := owner.Mutate(t.Context(), "ann", m)
			if err == nil {
				return done
			}
			if !errors.Is(err, ErrLost) && !errors.Is(err, ErrUnknown) {
				t.Fatal(err)
			}
		}
	}
	for i := range 150 {
		body := fmt.Sprint("keep", i)
		try(note("ann", body, body))
		kept = append(kept, body)
		done := try(note("ann", fmt.Sprint("d", i), fmt.Sprint("drop", i)))
		try(remove("ann", action.MessageOf(done.Last.Do).ID))
	}
	close(over)
	all := <-passes
	for {
		done, err := job.Purge(t.Context(), "ann", time.Now())
		all.Messages += done.Messages
		if err == nil {
			break
		}
	}
	if all.Messages < 150 {
		t.Errorf("%d messages purged, want all 150", all.Messages)
	}
	got, _, err := bodies(t.Context(), owner, "ann")
	slices.Sort(got)
	slices.Sort(kept)
	if err != nil || !slices.Equal(got, kept) {
		t.Errorf("got %d messages, %v, want the %d that were kept", len(got), err, len(kept))
	}
	if err := owner.Flush(t.Context(), "ann"); err != nil {
		t.Error(err)
	}
	if holds(t, s, "ann", "drop1") {
		t.Error("the row has what was deleted")
	}
	checkAll(t, s, "ann")
}
