package mailbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// start runs a Pool until the test, or the function that it returns, ends it.
func start(t *testing.T, cfg Config) (*Pool, func()) {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop := func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return p, stop
}

// note is a mutation that sends a message to oneself and others, into one thread.
func note(u action.User, key, body string, to ...action.User) Mutation {
	return Mutation{Origin: action.OriginUser, Key: key, Request: action.DigestOf([]byte(body)), Channel: action.ChannelChat,
		Decide: func(v index.View, first uint64, now action.Time) ([]action.Do, error) {
			var do []action.Do
			t, err := v.Thread("t")
			if err != nil {
				return nil, err
			}
			if t == nil {
				do = append(do, &action.ThreadCreated{Thread: "t", Folder: action.FolderInbox, Subject: "notes"})
			}
			var recipients []action.Participant
			for _, r := range to {
				recipients = append(recipients, action.Participant{User: r})
			}
			return append(do, &action.MessageCreated{Message: action.Message{Thread: "t", ID: "m-" + string(u) + "-" + key, Author: action.Participant{User: u},
				Channel: action.ChannelChat, Time: now, Body: body}, Recipients: recipients}), nil
		}}
}

// take is the mutation by which a delivery reaches its recipient.
func take(e action.Entry, a action.Action) Mutation {
	return Mutation{Origin: action.OriginDelivery, Key: e.Key, Request: action.DigestOf([]byte(e.Key)), Channel: a.Channel,
		Decide: func(v index.View, first uint64, now action.Time) ([]action.Do, error) {
			var do []action.Do
			t, err := v.Thread("t")
			if err != nil {
				return nil, err
			}
			if t == nil {
				do = append(do, &action.ThreadCreated{Thread: "t", Folder: action.FolderInbox, Subject: "notes"})
			}
			return append(do, &action.MessageDelivered{Message: *action.MessageOf(a.Do)}), nil
		}}
}

// bodies returns those of u's messages, oldest first, and the mailbox's version.
func bodies(ctx context.Context, p *Pool, u action.User) (all []string, version uint64, err error) {
	err = p.Read(ctx, u, func(s *State) error {
		all, version = nil, s.View.Version().Sequence
		page, _, err := s.View.Messages("t", true, 1<<20, nil)
		for _, m := range page {
			all = append(all, m.Snippet)
		}
		return err
	})
	return all, version, err
}

// TestGroupCommit: mutations that arrive while a put is under way share the next one.
// Rows D53, D54, G98, G99, A2.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		puts := 0
		s := &memstore.Store{Faults: func(op memstore.Op, _ string) memstore.Fault {
			if op != memstore.OpPut {
				return memstore.Fault{}
			}
			puts++
			return memstore.Fault{Delay: 10 * time.Millisecond}
		}}
		p, _ := start(t, Config{Store: s})
		if _, _, err := bodies(t.Context(), p, "ann"); err != nil { // claimed
			t.Fatal(err)
		}
		puts = 0
		var wg sync.WaitGroup
		begin := time.Now()
		for i := range 100 {
			wg.Go(func() {
				done, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint("body ", i)))
				if err != nil || done.Repeated || done.Last.Key != fmt.Sprint(i) {
					t.Errorf("got %+v, %v", done, err)
				}
			})
		}
		wg.Wait()
		// Those that come before the first put begins are in it, all others in the second.
		if took := time.Since(begin); puts > 2 || took != time.Duration(puts)*10*time.Millisecond {
			t.Errorf("100 mutations at once: got %d puts in %v, want at most 2, of 10ms each", puts, took)
		}
		all, version, err := bodies(t.Context(), p, "ann")
		if err != nil || len(all) != 100 || version != 101 {
			t.Errorf("got %d messages, version %d, %v, want 100, 101", len(all), version, err)
		}
	})
}

// TestWriteThrough: what was acknowledged is read though the store can't be read.
// Row B18.
func TestWriteThrough(t *testing.T) {
	var cut bool
	s := &memstore.Store{Faults: func(op memstore.Op, _ string) memstore.Fault {
		return memstore.Fault{Before: cut && op == memstore.OpRead}
	}}
	p, _ := start(t, Config{Store: s})
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "first")); err != nil {
		t.Fatal(err)
	}
	cut = true
	done, err := p.Mutate(t.Context(), "ann", note("ann", "2", "second"))
	if err != nil {
		t.Fatal(err)
	}
	if all, _, err := bodies(t.Context(), p, "ann"); err != nil || len(all) != 2 || all[1] != "second" {
		t.Errorf("got %q, %v, want both", all, err)
	}
	actions, err := p.Actions(t.Context(), "ann", []uint64{2, done.Last.Sequence})
	if err != nil || action.MessageOf(actions[2].Do).Body != "first" || action.MessageOf(actions[done.Last.Sequence].Do).Body != "second" {
		t.Errorf("got %v, %v, want both bodies", actions, err)
	}
	again, err := p.Mutate(t.Context(), "ann", note("ann", "1", "first"))
	if err != nil || !again.Repeated || again.Last.Sequence != 2 {
		t.Errorf("the same key again: got %+v, %v, want what was done first", again, err)
	}
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "other")); !errors.Is(err, ErrKeyReused) {
		t.Errorf("the key with another request: got %v, want %v", err, ErrKeyReused)
	}
	if _, _, err := bodies(t.Context(), p, "bob"); err == nil {
		t.Error("a mailbox that has to be loaded was read from a store that can't be")
	}
	if n := s.Injected()[memstore.Before]; n == 0 {
		t.Error("no read was cut off")
	}
}

// TestReload: a mailbox that is loaded anew is what it was, whatever of its metadata
// had been written. Rows F73, F79, F80, G91-G94, G98, A6.
func TestReload(t *testing.T) {
	for _, flush := range []time.Duration{time.Millisecond, time.Hour} {
		s := &memstore.Store{}
		reg := prometheus.NewRegistry()
		p, stop := start(t, Config{Store: s, FlushAfter: flush, FlushActions: 7, Registerer: reg})
		for i := range 50 {
			if _, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint("body ", i))); err != nil {
				t.Fatal(err)
			}
		}
		want, version, err := bodies(t.Context(), p, "ann")
		if err != nil {
			t.Fatal(err)
		}
		if flush == time.Hour { // as a crash leaves it
			p.mu.Lock()
			b, _ := p.boxes.Peek("ann")
			p.mu.Unlock()
			b.drop(ErrLost)
		}
		stop()
		p, _ = start(t, Config{Store: s})
		got, again, err := bodies(t.Context(), p, "ann")
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) || again != version {
			t.Errorf("flush after %v: got %q, version %d, %v, want %q, %d", flush, got, again, err, want, version)
		}
		checkRow(t, s, "ann")
	}
}

// checkRow holds a row's metadata against its log. A14, F80.
func checkRow(t *testing.T, s store.Store, u string) {
	t.Helper()
	row, whole, err := store.ReadAll(t.Context(), s, u, store.Span{Family: store.Actions}, store.Span{Family: store.Metadata})
	if err != nil || !whole {
		t.Fatal(whole, err)
	}
	log, err := decodeLog(row.Of(store.Actions))
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range log {
		if a.Sequence != uint64(i+1) {
			t.Fatalf("%s: action %d stands at place %d", u, a.Sequence, i+1)
		}
	}
	if row.Fence.Seq != uint64(len(log)) {
		t.Errorf("%s: the fence says %d actions, the log has %d", u, row.Fence.Seq, len(log))
	}
	if err := index.Check(func(yield func(action.Action) bool) {
		for _, a := range log {
			if !yield(a) {
				return
			}
		}
	}, index.NewCells(indexCells(row.Of(store.Metadata))...)); err != nil {
		t.Errorf("%s: %v", u, err)
	}
}

// TestTwoServers: the one that has lost a row notices by its next put, which writes
// nothing, and takes the row back. Rows D52, A5.
func TestTwoServers(t *testing.T) {
	s := &memstore.Store{}
	reg := prometheus.NewRegistry()
	a, _ := start(t, Config{Store: s, Registerer: reg})
	b, _ := start(t, Config{Store: s, Strict: func() bool { return true }})
	for i := range 20 {
		p := a
		if i%2 == 1 {
			p = b
		}
		if _, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	got, _, err := bodies(t.Context(), b, "ann") // strict
	if err != nil || len(got) != 20 {
		t.Errorf("got %q, %v, want all 20", got, err)
	}
	if n := testutil.ToFloat64(a.metrics.fenced); n == 0 {
		t.Error("no put was fenced")
	}
}

// TestOutbox: what is sent reaches each recipient once, in order, though deliveries
// fail before and after they are made. Row I114, A8.
func TestOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &memstore.Store{}
		var p *Pool
		var count atomic.Int64
		deliver := func(ctx context.Context, from action.User, e action.Entry, a action.Action, _ []action.MemberState, _ index.Thread) error {
			tries := count.Add(1)
			if tries%3 == 0 {
				return errors.New("planted: not sent")
			}
			_, err := p.Mutate(ctx, e.To.User, take(e, a))
			if tries%3 == 1 {
				return errors.New("planted: the answer was lost")
			}
			return err
		}
		p, _ = start(t, Config{Store: s, Deliver: deliver})
		for i := range 10 {
			done, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint(i), "bob", "cy"))
			if err != nil {
				t.Fatal(err)
			}
			if i == 9 {
				if err := p.Delivered(t.Context(), "ann", done.Last.Sequence); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Minute)
		for _, u := range []action.User{"bob", "cy"} {
			if got, _, err := bodies(t.Context(), p, u); err != nil || fmt.Sprint(got) != "[0 1 2 3 4 5 6 7 8 9]" {
				t.Errorf("%s: got %q, %v, want all ten once, in order", u, got, err)
			}
		}
		row, err := s.Read(t.Context(), "ann", store.Span{Family: store.Outbox})
		if err != nil || len(row.Cells) != 0 {
			t.Errorf("got %d entries left, %v, want none", len(row.Cells), err)
		}
		if n := count.Load(); n <= 20 {
			t.Errorf("got %d tries for 20 deliveries: no fault happened", n)
		}
	})
}

// TestOwingLeave: mailboxes whose recipient cannot be reached take no more memory than
// there is for mailboxes: they leave it, and what they owe is delivered when it can be.
func TestOwingLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const senders, bound = 60, 64 << 10
		var p *Pool
		var up atomic.Bool
		var failed atomic.Int64
		deliver := func(ctx context.Context, from action.User, e action.Entry, a action.Action, _ []action.MemberState, _ index.Thread) error {
			if !up.Load() {
				failed.Add(1)
				return errors.New("planted: the cell is down")
			}
			_, err := p.Mutate(ctx, e.To.User, take(e, a))
			return err
		}
		p, _ = start(t, Config{Store: &memstore.Store{}, Deliver: deliver, CacheBytes: bound})
		for i := range senders {
			u := action.User(fmt.Sprint("u", i))
			if _, err := p.Mutate(t.Context(), u, note(u, "1", fmt.Sprint(i), "bob")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		size := func() int64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.bytes
		}
		if got := size(); got > 2*bound {
			t.Errorf("mailboxes that owe something take %d bytes, want about %d", got, bound)
		}
		up.Store(true)
		time.Sleep(5 * time.Minute)
		got, _, err := bodies(t.Context(), p, "bob")
		if err != nil || len(got) != senders || failed.Load() < senders {
			t.Errorf("bob has %d messages, %v, want %d; %d deliveries failed before", len(got), err, senders, failed.Load())
		}
		if n := testutil.ToFloat64(p.metrics.entries); n != 0 {
			t.Errorf("outbox_entries: got %v, want 0", n)
		}
	})
}

// TestCacheBound: mailboxes leave when there is no room, and come back without a
// claim. Rows E58, E64, A13.
func TestCacheBound(t *testing.T) {
	s := &memstore.Store{}
	const bound = 1 << 20
	p, _ := start(t, Config{Store: s, CacheBytes: bound})
	const users = 100
	for i := range users {
		u := action.User(fmt.Sprint("u", i))
		if _, err := p.Mutate(t.Context(), u, note(u, "1", strings.Repeat("a word of some length ", 900))); err != nil {
			t.Fatal(err)
		}
		if size := testutil.ToFloat64(p.metrics.size); size > bound*1.1 {
			t.Fatalf("got %.0f bytes after %d users, want at most %d", size, i, bound)
		}
	}
	if n := testutil.ToFloat64(p.metrics.evictions.WithLabelValues("size")); n < users/2 {
		t.Errorf("got %.0f evictions, want most of %d users", n, users)
	}
	claims := testutil.ToFloat64(p.metrics.loads.WithLabelValues("claimed"))
	for i := range 10 {
		if got, _, err := bodies(t.Context(), p, action.User(fmt.Sprint("u", i))); err != nil || len(got) != 1 {
			t.Errorf("u%d: got %q, %v", i, got, err)
		}
	}
	if n := testutil.ToFloat64(p.metrics.loads.WithLabelValues("claimed")); n != claims {
		t.Errorf("got %.0f more claims, want none: the rows were owned still", n-claims)
	}
}

// TestPoison: a row that no server wrote is an error of its user, and no other's.
// Row F74.
func TestPoison(t *testing.T) {
	s := &memstore.Store{}
	f := store.Fence{Epoch: 1, Seq: 1, Tag: store.Tag{1}}
	newer := append([]byte{200}, "what a later program writes"...)
	for u, value := range map[string][]byte{"eve": []byte("garbage"), "new": newer} {
		if err := s.Put(t.Context(), u, store.Fence{}, f, []store.Cell{{Family: store.Actions, Qualifier: action.Qualifier(1), Value: value}}); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := start(t, Config{Store: s})
	for _, u := range []action.User{"eve", "new"} {
		if _, _, err := bodies(t.Context(), p, u); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", u, err, ErrCorrupt)
		}
	}
	if _, err := p.Mutate(t.Context(), "new", note("new", "1", "x")); !errors.Is(err, ErrCorrupt) || !errors.Is(err, action.ErrNewer) {
		t.Errorf("got %v, want %v", err, action.ErrNewer)
	}
	row, err := s.Read(t.Context(), "new", store.Span{Family: store.Actions})
	if err != nil || string(row.Cells[0].Value) != string(newer) || row.Fence.Seq != 1 {
		t.Errorf("got %v, %v, want the row as it was", row, err)
	}
	if _, err := p.Mutate(t.Context(), "ann", note("ann", "1", "x")); err != nil {
		t.Errorf("another user: %v", err)
	}
}

// TestUpgrade: a mailbox of an old schema, or of keywords of another language, is made
// anew when it is loaded, and what is half written of that is no harm. Rows G95, G97.
func TestUpgrade(t *testing.T) {
	s := &memstore.Store{}
	p, stop := start(t, Config{Store: s, Schema: index.V1, FlushActions: 1})
	for i := range 30 {
		if _, err := p.Mutate(t.Context(), "ann", note("ann", fmt.Sprint(i), fmt.Sprint("word", i))); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	p, stop = start(t, Config{Store: s, Language: "en"})
	if got, _, err := bodies(t.Context(), p, "ann"); err != nil || len(got) != 30 {
		t.Errorf("got %q, %v, want all", got, err)
	}
	stop()
	row, err := s.Read(t.Context(), "ann", store.Span{Family: store.Metadata})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := index.VersionOf(index.NewCells(indexCells(row.Cells)...)); err != nil || v.Schema != index.V2 {
		t.Errorf("got version %+v, %v in the store, want schema %d", v, err, index.V2)
	}
	checkRow(t, s, "ann")
}
