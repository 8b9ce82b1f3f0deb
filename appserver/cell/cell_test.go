package cell_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/cell"
	"darklaunch/appserver/ring"
	"darklaunch/appserver/store"
)

// script is a coordinator, and its only session, that has what the test says.
type script struct {
	mu       sync.Mutex
	snapshot cell.Snapshot
	changed  chan struct{}
	silent   bool // no call is answered
}

func (s *script) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

func (s *script) answer(ctx context.Context) error {
	s.mu.Lock()
	silent := s.silent
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
	}
	return ctx.Err()
}

// Open gives up after a second, as coordinators do after a while.
func (s *script) Open(ctx context.Context) (cell.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return s, s.answer(ctx)
}

func (s *script) Timeout() time.Duration          { return 4 * time.Second }
func (s *script) Touch(ctx context.Context) error { return s.answer(ctx) }
func (s *script) Close() error                    { return nil }

func (s *script) Register(ctx context.Context, name string, record []byte) error {
	if err := s.answer(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.Records = maps.Clone(s.snapshot.Records)
	s.snapshot.Records[name] = record
	return nil
}

func (s *script) Deregister(ctx context.Context, _ string) error { return s.answer(ctx) }

func (s *script) Read(ctx context.Context) (cell.Snapshot, <-chan struct{}, error) {
	err := s.answer(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.snapshot, s.changed, err
}

func record(addr string) []byte { return cell.EncodeMember(ring.Member{Addr: addr}) }

// TestSetBack: a coordinator that goes back to an older state is reported and not
// followed; one that was made anew is followed, though its numbers are small.
func TestSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{snapshot: cell.Snapshot{At: store.Ring{Incarnation: 5, Number: 100}, Records: map[string][]byte{"1": record("h:1"), "2": record("h:2")}}}
		reg := prometheus.NewRegistry()
		c, err := cell.New(s, cell.Options{Name: "one", Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		if c.Ready() == nil || c.View().Trusted || c.View().Ring.Len() != 0 {
			t.Errorf("before anything was heard: %+v", c.Status())
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		synctest.Wait()
		if err := c.Ready(); err != nil || c.View().Ring.Len() != 2 {
			t.Fatalf("%v: %+v", err, c.Status())
		}
		s.set(func() {
			s.snapshot = cell.Snapshot{At: store.Ring{Incarnation: 5, Number: 99}, Records: map[string][]byte{"3": record("h:3")}}
		})
		synctest.Wait()
		if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "older state") || c.View().Ring.Len() != 2 {
			t.Errorf("set back: %v: %+v", err, c.Status())
		}
		s.set(func() {
			s.snapshot = cell.Snapshot{At: store.Ring{Incarnation: 6, Number: 1}, Records: map[string][]byte{"2": record("h:9"), "3": record("h:3")}}
		})
		synctest.Wait()
		time.Sleep(time.Second) // a tick, should it have to be asked again
		if err := c.Ready(); err != nil {
			t.Errorf("made anew: %v", err)
		}
		if _, ok := c.View().Ring.Member("3"); !ok || c.View().Ring.Len() != 2 {
			t.Errorf("made anew: %+v", c.Status())
		}
		want := `
# HELP ring_changes_total Members that came, went or changed, and changes of the live configuration.
# TYPE ring_changes_total counter
ring_changes_total{cell="one",type="config"} 0
ring_changes_total{cell="one",type="join"} 3
ring_changes_total{cell="one",type="leave"} 1
ring_changes_total{cell="one",type="replace"} 1
# HELP ring_members Servers in the ring as this one sees it.
# TYPE ring_members gauge
ring_members{cell="one"} 2
# HELP ring_view_info The hash of the ring as this server sees it; 1.
# TYPE ring_view_info gauge
ring_view_info{cell="one",hash="` + c.View().Ring.Hash() + `"} 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "ring_changes_total", "ring_members", "ring_view_info"); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
	})
}

// TestTrust: by its own clock a member trusts itself for half of a session's timeout
// after the last request that was answered, and no longer.
func TestTrust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{snapshot: cell.Snapshot{At: store.Ring{Incarnation: 5, Number: 100}, Records: map[string][]byte{}}}
		c, err := cell.New(s, cell.Options{Name: "one", Member: &ring.Member{Name: "1", Addr: "h:1"}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = c.Run(ctx) })
		time.Sleep(10*time.Second + time.Millisecond) // ticks are at whole half seconds
		if !c.View().Trusted {
			t.Fatalf("not trusted: %+v", c.Status())
		}
		s.set(func() { s.silent = true })
		time.Sleep(1990 * time.Millisecond)
		if !c.View().Trusted {
			t.Error("distrusted within half of the timeout")
		}
		time.Sleep(20 * time.Millisecond)
		if c.View().Trusted {
			t.Error("trusted after half of the timeout")
		}
		time.Sleep(10 * time.Second)
		if v := c.View(); v.Trusted || c.Ready() == nil || v.Ring.Len() != 1 {
			t.Errorf("after the session: %+v", c.Status())
		}
		s.set(func() { s.silent = false })
		time.Sleep(5 * time.Second)
		if v := c.View(); !v.Trusted || c.Ready() != nil {
			t.Errorf("when there are answers again: %+v", c.Status())
		}
		cancel()
		wg.Wait()
	})
}

func FuzzDecodeMember(f *testing.F) {
	f.Add("1", record("h:1"))
	f.Add("2", []byte(`{"addr":"h:1","weight":101}`))
	f.Add("../x", []byte(`null`))
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		m, err := cell.DecodeMember(name, b)
		if err != nil {
			return
		}
		if again, err := cell.DecodeMember(name, cell.EncodeMember(m)); err != nil || again != m {
			t.Errorf("%+v comes back as %+v, %v", m, again, err)
		}
		if _, err := ring.New([]ring.Member{m}); err != nil {
			t.Errorf("a member that was taken makes no ring: %v", err)
		}
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"strict_reads":0.5,"drain":true,"max_in_flight":1,"max_watches":2}`))
	f.Add([]byte(`{"strict_reads":1e400}`))
	f.Add([]byte(` {} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := cell.ParseConfig(b)
		if err == nil && (c.StrictReads < 0 || c.StrictReads > 1 || c.MaxInFlight < 0 || c.MaxWatches < 0) {
			t.Errorf("took %q as %+v", b, c)
		}
	})
}
