package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/action"
	"darklaunch/appserver/ring"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// cellOf is the members of a cell as all its servers see them at once.
type cellOf struct {
	mu      sync.Mutex
	ring    *ring.Ring
	number  uint64
	changed chan struct{}
}

func (c *cellOf) set(t *testing.T, names ...string) {
	t.Helper()
	var members []ring.Member
	for _, n := range names {
		members = append(members, ring.Member{Name: n, Addr: "h:1"})
	}
	r, err := ring.New(members)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring, c.number = r, c.number+1
	if c.changed != nil {
		close(c.changed)
	}
	c.changed = make(chan struct{})
}

// pool returns the configuration of a member's pool.
func (c *cellOf) pool(name string, s store.Store) Config {
	return Config{
		Store: s,
		View: func() store.Ring {
			c.mu.Lock()
			defer c.mu.Unlock()
			return store.Ring{Incarnation: 1, Number: c.number}
		},
		Mine: func(u action.User) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			m, _ := c.ring.Owner(string(u))
			return m.Name == name
		},
		Moved: func() <-chan struct{} {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.changed
		},
	}
}

// TestHandOver has members come and go while users write without a pause, each to
// whoever takes it: every mutation is done once, though a new owner may claim a
// row before the old one has handed it over.
func TestHandOver(t *testing.T) {
	const users = 8
	kept := &memstore.Store{}
	cell := &cellOf{}
	cell.set(t, "a")
	reg := prometheus.NewRegistry()
	var pools []*Pool
	for _, name := range []string{"a", "b"} {
		cfg := cell.pool(name, kept)
		cfg.FlushAfter = time.Hour // what is flushed is flushed by leaving
		cfg.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"server": name}, reg)
		p, _ := start(t, cfg)
		pools = append(pools, p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	done := make([]int, users)
	for i := range users {
		u := action.User(fmt.Sprintf("user-%d", i))
		wg.Go(func() {
			for at := 0; ; done[i]++ {
				select {
				case <-stop:
					return
				default:
				}
				for {
					_, err := pools[at].Mutate(ctx, u, note(u, fmt.Sprint(done[i]), "hello"))
					if err == nil {
						break
					}
					if !errors.Is(err, ErrLost) {
						t.Errorf("mutation of %s: %v", u, err)
						return
					}
					at = 1 - at
				}
			}
		})
	}
	moved := 0
	for round := range 8 {
		if round%2 == 0 {
			cell.set(t, "a", "b")
		} else {
			cell.set(t, "b")
		}
		for _, p := range pools {
			n, err := p.HandOver(ctx)
			if err != nil {
				t.Fatal(err)
			}
			moved += n
		}
	}
	close(stop)
	wg.Wait()
	if moved == 0 {
		t.Error("no mailbox was handed over")
	}
	for i := range users {
		u := action.User(fmt.Sprintf("user-%d", i))
		for _, p := range pools {
			err := p.Read(ctx, u, func(s *State) error {
				if got := s.View.Version().Sequence; done[i] > 0 && got != uint64(done[i])+1 { // and the thread's
					t.Errorf("%s has %d actions, want %d", u, got, done[i]+1)
				}
				return nil
			})
			if mine := p.cfg.Mine(u); mine && err != nil || !mine && !errors.Is(err, ErrLost) {
				t.Errorf("read of %s, mine %v: %v", u, mine, err)
			}
		}
	}
	if n := testutil.ToFloat64(pools[0].metrics.evictions.WithLabelValues("moved")); n == 0 {
		t.Error("the metric says that nothing was handed over")
	}
}

// TestHandedOverRow: who sees an older ring than the one by which a row was left does
// not claim it, and alone one claims whatever the row says.
func TestHandedOverRow(t *testing.T) {
	kept := &memstore.Store{}
	cell := &cellOf{}
	cell.set(t, "a")
	older := cell.pool("b", kept)
	older.View = func() store.Ring { return store.Ring{Incarnation: 1, Number: 1} }
	older.Mine = nil
	a, _ := start(t, cell.pool("a", kept))
	late, _ := start(t, older)
	if _, err := a.Mutate(t.Context(), "ann", note("ann", "1", "hello")); err != nil {
		t.Fatal(err)
	}
	cell.set(t, "b")
	for { // by HandOver here, or by the pool itself
		if _, err := a.HandOver(t.Context()); err != nil {
			t.Fatal(err)
		}
		row, err := kept.Read(t.Context(), "ann")
		if err != nil {
			t.Fatal(err)
		}
		if (row.Fence.Ring == store.Ring{Incarnation: 1, Number: 2}) {
			break
		}
	}
	if err := late.Read(t.Context(), "ann", func(*State) error { return nil }); !errors.Is(err, ErrLost) {
		t.Errorf("a server with an older ring: got %v, want ErrLost", err)
	}
	alone, _ := start(t, Config{Store: kept})
	if err := alone.Read(t.Context(), "ann", func(*State) error { return nil }); err != nil {
		t.Errorf("a server that is alone: %v", err)
	}
}
