package mailbox

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/action"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

var (
	schedules = flag.Int("schedules", 0, "how many schedules are simulated; 0 is as many as take 20s, or 1s with -short")
	firstSeed = flag.Uint64("seed", 1, "of the first schedule")
)

// event is a call of a client, on the schedule's clock.
type event struct {
	begin, end time.Time
	key        string // of a mutation; else it is a read
	sequence   uint64 // of the mutation, or the version that was read
	read       []string
}

// schedule is two servers on one store, which fails in all the ways it can, and
// clients who know no better than to ask either.
type schedule struct {
	seed   uint64
	plant  bool // the store does not compare fences
	mu     sync.Mutex
	over   bool // no more faults
	rand   *rand.Rand
	events []event
	sent   map[string]bool // by key: acknowledged
}

func (s *schedule) n(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rand.IntN(n)
}

func (s *schedule) fault(op memstore.Op, _ string) memstore.Fault {
	s.mu.Lock()
	over := s.over
	s.mu.Unlock()
	if over {
		return memstore.Fault{}
	}
	pause := func() time.Duration { return time.Duration(s.n(30)) * time.Millisecond }
	f := memstore.Fault{Delay: time.Duration(1+s.n(5)) * time.Millisecond}
	switch s.n(12) {
	case 0:
		f.Before = true
	case 1:
		f.After = true
	case 2:
		f.Late = pause()
	case 3:
		f.Delay = pause()
	case 4:
		if op == memstore.OpPut {
			return memstore.Fault{Straggle: pause()}
		}
		if s.zombie() {
			f.Stale = 1 + s.n(3)
		}
	case 5:
		f.Twice = op == memstore.OpPut
	}
	return f
}

// zombie reports whether the store's reads may be out of date, as those of a region
// server that has been deposed and does not know it. Then reads of mailboxes may be
// too, whatever a server does short of a put; what is written never is.
func (s *schedule) zombie() bool { return s.seed%2 == 1 }

const simUser = "ann"

// run simulates; it returns what was wrong, and how often each fault happened.
func (s *schedule) run(t *testing.T) (faults []string, injected map[memstore.Kind]int, fenced float64) {
	s.rand = rand.New(rand.NewPCG(s.seed, 7))
	s.sent = map[string]bool{}
	rows := &memstore.Store{Faults: s.fault}
	var kept store.Store = rows
	if s.plant {
		kept = blind{rows}
	}
	var pools []*Pool
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range 2 {
		p, err := New(Config{Store: kept, Strict: func() bool { return true }, StoreTimeout: 100 * time.Millisecond, FlushAfter: 20 * time.Millisecond, FlushActions: 3})
		if err != nil {
			t.Fatal(err)
		}
		pools = append(pools, p)
		running.Go(func() { _ = p.Run(ctx) })
	}
	var clients sync.WaitGroup
	for c := range 3 {
		clients.Go(func() {
			for i := range 6 {
				if s.n(3) == 0 {
					s.look(pools[s.n(2)])
				} else {
					s.send(pools, fmt.Sprintf("%d-%d", c, i))
				}
				time.Sleep(time.Duration(s.n(10)) * time.Millisecond)
			}
		})
	}
	clients.Wait()
	cancel()
	running.Wait()
	time.Sleep(time.Second) // the last straggler has come by then
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, p := range pools {
		fenced += testutil.ToFloat64(p.metrics.fenced)
	}
	return s.check(rows), rows.Injected(), fenced
}

// send repeats a mutation under its key, to either server, until it is acknowledged
// or patience ends.
func (s *schedule) send(pools []*Pool, key string) {
	e := event{begin: time.Now(), key: key}
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		done, err := pools[s.n(2)].Mutate(ctx, simUser, note(simUser, key, key))
		cancel()
		if err == nil {
			e.end, e.sequence = time.Now(), done.Last.Sequence
			s.mu.Lock()
			defer s.mu.Unlock()
			s.events = append(s.events, e)
			s.sent[key] = true
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[key] = false
}

func (s *schedule) look(p *Pool) {
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	e := event{begin: time.Now()}
	var err error
	if e.read, e.sequence, err = bodies(ctx, p, simUser); err != nil {
		return
	}
	e.end = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// check holds what clients saw against the log: that is linearizable whose calls
// took effect in the order of the log, each between its begin and its end. For an
// append-only log of which reads show a beginning this is all there is to it.
func (s *schedule) check(rows *memstore.Store) (faults []string) {
	bad := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	row, whole, err := store.ReadAll(context.Background(), rows, simUser, store.Span{Family: store.Actions})
	if err != nil || !whole {
		return []string{fmt.Sprint("the log cannot be read: ", err)}
	}
	log, err := decodeLog(row.Cells)
	if err != nil {
		return []string{err.Error()}
	}
	at := map[string][]uint64{}
	var prefix []string
	visible := make([]int, len(log)+1)
	for i, a := range log {
		if a.Sequence != uint64(i+1) {
			bad("action %d stands at place %d", a.Sequence, i+1)
			return faults
		}
		if m := action.MessageOf(a.Do); m != nil {
			at[a.Key] = append(at[a.Key], a.Sequence)
			prefix = append(prefix, m.Body)
		}
		visible[i+1] = len(prefix)
	}
	if row.Fence.Seq != uint64(len(log)) {
		bad("the fence says %d actions, the log has %d", row.Fence.Seq, len(log))
	}
	for key, acknowledged := range s.sent {
		if n := len(at[key]); acknowledged && n != 1 || n > 1 {
			bad("%s, acknowledged %t, is %d times in the log", key, acknowledged, n)
		}
	}
	for _, e := range s.events {
		switch {
		case e.sequence > uint64(len(log)):
			bad("sequence %d was seen, the log ends at %d", e.sequence, len(log))
		case e.key != "" && !slices.Contains(at[e.key], e.sequence):
			bad("%s was acknowledged as %d, it is at %v", e.key, e.sequence, at[e.key])
		case e.key == "":
			// The order of display is that of display times; here it may differ from the log's.
			got, want := slices.Sorted(slices.Values(e.read)), slices.Sorted(slices.Values(prefix[:visible[e.sequence]]))
			if !slices.Equal(got, want) {
				bad("a read of version %d showed %q, want %q", e.sequence, got, want)
			}
		}
	}
	for _, a := range s.events {
		for _, b := range s.events {
			if s.zombie() && b.key == "" {
				continue
			}
			if a.end.Before(b.begin) && (a.sequence > b.sequence || a.sequence == b.sequence && b.key != "" && a.key != b.key) {
				bad("%q (%d) ended before %q (%d) began", a.key, a.sequence, b.key, b.sequence)
			}
		}
	}
	return faults
}

// blind is the planted fault: a store that writes whatever fence its caller expects.
type blind struct{ store.Store }

func (s blind) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	row, err := s.Store.Read(ctx, user)
	if err != nil {
		return err
	}
	next.Epoch, next.Seq = max(next.Epoch, row.Fence.Epoch), max(next.Seq, row.Fence.Seq)
	return s.Store.Put(ctx, user, row.Fence, next, cells)
}

// TestSchedules simulates seeded schedules of faults in virtual time. Rows D52-D56,
// A1-A3, A5.
func TestSchedules(t *testing.T) {
	budget := 20 * time.Second
	if testing.Short() {
		budget = time.Second
	}
	begin := time.Now()
	injected := map[memstore.Kind]int{}
	n, fenced := 0, 0.0
	for ; *schedules > 0 && n < *schedules || *schedules == 0 && time.Since(begin) < budget; n++ {
		s := &schedule{seed: *firstSeed + uint64(n)}
		var faults []string
		synctest.Test(t, func(t *testing.T) {
			var kinds map[memstore.Kind]int
			var f float64
			faults, kinds, f = s.run(t)
			for k, c := range kinds {
				injected[k] += c
			}
			fenced += f
		})
		for _, f := range faults {
			t.Errorf("seed %d: %s", s.seed, f)
		}
		if len(faults) > 0 {
			break
		}
	}
	t.Logf("%d schedules, faults %v, %.0f puts fenced", n, injected, fenced)
	for _, k := range []memstore.Kind{memstore.Delay, memstore.Before, memstore.After, memstore.Late, memstore.Straggle, memstore.Twice, memstore.Stale} {
		if injected[k] == 0 {
			t.Errorf("no %s happened", k)
		}
	}
	if fenced == 0 {
		t.Error("no put was fenced")
	}
}

// TestSchedulesFindPlantedFault: without fences something is lost or doubled before
// long.
func TestSchedulesFindPlantedFault(t *testing.T) {
	for seed := range uint64(200) {
		s := &schedule{seed: seed, plant: true}
		var faults []string
		synctest.Test(t, func(t *testing.T) { faults, _, _ = s.run(t) })
		if len(faults) > 0 {
			t.Logf("seed %d: %s", seed, faults[0])
			return
		}
	}
	t.Error("200 schedules found nothing")
}
