package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/rows"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// keepers are all there are; each call of the function is a client of the same.
var keepers = map[string]func(t *testing.T) func() Keeper{
	"memory": func(*testing.T) func() Keeper {
		s := &memstore.Store{}
		return func() Keeper { return Rows(s, 10*time.Millisecond) }
	},
	"rows": func(t *testing.T) func() Keeper {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var served sync.WaitGroup
		served.Go(func() { _ = rows.NewServer(&memstore.Store{}).Serve(ctx, l) })
		t.Cleanup(func() { cancel(); served.Wait() })
		return func() Keeper {
			s, err := rows.Open(t.Context(), l.Addr().String(), rows.Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			return Rows(s, 10*time.Millisecond)
		}
	},
	"zookeeper": func(t *testing.T) func() Keeper {
		if testing.Short() {
			t.Skip("-short: starts no server")
		}
		addr := testenv.ZooKeeper(t).Addr
		return func() Keeper {
			k, err := ZooKeeper([]string{addr}, "/"+t.Name(), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = k.Close() })
			return k
		}
	},
}

func each(t *testing.T, test func(t *testing.T, client func() Keeper)) {
	for name, open := range keepers {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// TestKeepers holds the contract of Keeper.
func TestKeepers(t *testing.T) {
	each(t, func(t *testing.T, client func() Keeper) {
		k, other := client(), client()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if b, v, err := k.Get(ctx, "users/0001"); len(b) != 0 || v != 0 || err != nil {
			t.Errorf("what is not there: got %q, %d, %v", b, v, err)
		}
		waited := make(chan error, 1)
		go func() { waited <- other.Wait(ctx, "users/0001", 0) }()
		one, err := k.Put(ctx, "users/0001", []byte("one"), 0)
		if err != nil || one == 0 {
			t.Fatalf("first: got %d, %v", one, err)
		}
		if err := <-waited; err != nil {
			t.Errorf("waiting for the first: %v", err)
		}
		if _, err := other.Put(ctx, "users/0001", []byte("late"), 0); !errors.Is(err, ErrConflict) {
			t.Errorf("another first: got %v, want %v", err, ErrConflict)
		}
		two, err := other.Put(ctx, "users/0001", []byte("two"), one)
		if err != nil || two <= one {
			t.Errorf("second: got %d, %v", two, err)
		}
		if _, err := k.Put(ctx, "users/0001", []byte("late"), one); !errors.Is(err, ErrConflict) {
			t.Errorf("in place of what has gone: got %v, want %v", err, ErrConflict)
		}
		if b, v, err := other.Get(ctx, "users/0001"); string(b) != "two" || v != two || err != nil {
			t.Errorf("got %q, %d, %v", b, v, err)
		}
		if err := k.Wait(ctx, "users/0001", one); err != nil {
			t.Errorf("waiting for what has been: %v", err)
		}
		soon, stop := context.WithTimeout(ctx, 20*time.Millisecond)
		defer stop()
		if err := k.Wait(soon, "users/0001", two); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for nothing: got %v", err)
		}
		// Each of many writers adds to what is there; none is lost.
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				k := []Keeper{k, other}[i%2]
				for {
					b, v, err := k.Get(ctx, "sum")
					if err == nil {
						_, err = k.Put(ctx, "sum", append(b[:len(b):len(b)], 'x'), v)
					}
					if !errors.Is(err, ErrConflict) {
						if err != nil {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
		if b, _, err := k.Get(ctx, "sum"); string(b) != "xxxxxxxx" || err != nil {
			t.Errorf("got %q, %v, want one x of each writer", b, err)
		}
	})
}

func cell(name string) Cell { return Cell{Name: name, Servers: []string{name + ".example:7500"}} }

// withCells returns a directory that has cells.
func withCells(t *testing.T, k Keeper, cfg Config, cells ...Cell) *Directory {
	t.Helper()
	d := New(k, cfg)
	if err := d.Edit(t.Context(), func([]Cell) ([]Cell, error) { return cells, nil }); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestPlacing: a new user is placed once, whoever asks and however many at once, in the
// emptiest cell that accepts users; one that is added later is filled first. Rows C29,
// D48.
func TestPlacing(t *testing.T) {
	each(t, func(t *testing.T, client func() Keeper) {
		first := withCells(t, client(), Config{}, cell("a"), cell("b"), Cell{Name: "c", Servers: []string{"c:1"}, State: Closed})
		second := New(client(), Config{})
		if _, err := second.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		const n = 60
		users := func(from int) (names []string) {
			for i := range n {
				names = append(names, fmt.Sprintf("user-%d", from+i))
			}
			return names
		}
		counts := func(names []string) map[string]int {
			counts := map[string]int{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, u := range names {
				wg.Go(func() {
					p, err := first.Lookup(t.Context(), u)
					q, otherErr := second.Lookup(t.Context(), u)
					if err != nil || otherErr != nil || p != q || p.Generation != 0 {
						t.Errorf("%s: got %v, %v and %v, %v", u, p, err, q, otherErr)
					}
					mu.Lock()
					defer mu.Unlock()
					counts[p.Cell]++
				})
			}
			wg.Wait()
			return counts
		}
		if got := counts(users(0)); got["c"] != 0 || got["a"] < n/4 || got["b"] < n/4 {
			t.Errorf("users of the first two cells: got %v", got)
		}
		for _, d := range []*Directory{first, second} {
			if err := d.Edit(t.Context(), func(cells []Cell) ([]Cell, error) {
				return []Cell{{Name: "a", Servers: []string{"a:1"}, State: Draining}, cell("b"), cell("d")}, nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		before := map[string]Place{}
		for _, u := range users(0) {
			before[u], _ = first.Lookup(t.Context(), u)
		}
		if got := counts(users(1000)); got["a"] != 0 || got["d"] <= got["b"] {
			t.Errorf("users that came with the new cell: got %v, want most in d", got)
		}
		third := New(client(), Config{})
		for u, want := range before {
			if got, err := third.Lookup(t.Context(), u); got != want || err != nil {
				t.Errorf("%s: got %v, %v, want %v as before", u, got, err, want)
			}
		}
	})
}

// TestRanges: users who were not placed are where their range is; those who were stay.
func TestRanges(t *testing.T) {
	d := withCells(t, Rows(&memstore.Store{}, 0), Config{}, cell("a"))
	placed, err := d.Lookup(t.Context(), "ann")
	if err != nil || placed != (Place{Cell: "a"}) {
		t.Fatalf("got %v, %v", placed, err)
	}
	if err := d.Assign(t.Context(), 0, Slices, "b"); err != nil {
		t.Fatal(err)
	}
	if err := d.Assign(t.Context(), 10, 20, "a"); !errors.Is(err, ErrConflict) {
		t.Errorf("a range of another: got %v, want %v", err, ErrConflict)
	}
	for user, want := range map[string]string{"ann": "a", "bob": "b", "cy": "b"} {
		if p, err := d.Lookup(t.Context(), user); p.Cell != want || err != nil {
			t.Errorf("%s: got %v, %v, want cell %s", user, p, err, want)
		}
	}
	users, ranges, err := d.Filled(t.Context())
	if diff := cmp.Diff(map[string]int{"a": 1}, users); diff != "" || ranges["b"] != Slices || err != nil {
		t.Errorf("filled: %v %v %v", users, ranges, err)
	}
}

// TestMoves: of many who move a user, each generation is one's, and nobody sees an older
// place after a newer. Row D48.
func TestMoves(t *testing.T) {
	each(t, func(t *testing.T, client func() Keeper) {
		a, b := withCells(t, client(), Config{}, cell("a"), cell("b")), New(client(), Config{})
		if _, err := a.Lookup(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		const generations, movers = 20, 4
		var won [generations + 1]atomic.Int64
		var wg sync.WaitGroup
		for m := range movers {
			wg.Go(func() {
				d := []*Directory{a, b}[m%2]
				for g := uint64(1); g <= generations; g++ {
					// Movers disagree about where to: a row, which is sealed but once, would
					// have told them; here the directory does.
					switch err := d.Publish(t.Context(), "ann", Place{fmt.Sprintf("cell-%d", m), g}); {
					case err == nil:
						won[g].Add(1)
					case !errors.Is(err, ErrConflict):
						t.Error(err)
					}
				}
			})
		}
		seen := make(chan error, 1)
		stop := make(chan struct{})
		go func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					seen <- nil
					return
				default:
				}
				p, err := New(client(), Config{}).Lookup(t.Context(), "ann")
				if err != nil || p.Generation < last {
					seen <- fmt.Errorf("got %v, %v after generation %d", p, err, last)
					return
				}
				last = p.Generation
			}
		}()
		wg.Wait()
		close(stop)
		if err := <-seen; err != nil {
			t.Error(err)
		}
		for g := 1; g <= generations; g++ {
			if n := won[g].Load(); n > 1 {
				t.Errorf("generation %d was won %d times", g, n)
			}
		}
		if won[generations].Load() != 1 {
			t.Errorf("nobody won the last generation")
		}
		if err := a.Publish(t.Context(), "ann", Place{"old", 3}); !errors.Is(err, ErrConflict) {
			t.Errorf("an older place: got %v, want %v", err, ErrConflict)
		}
	})
}

// TestCorrected: what a cell says about a user who has left it holds at once, though the
// directory has been told nothing yet.
func TestCorrected(t *testing.T) {
	reg := prometheus.NewRegistry()
	d := withCells(t, Rows(&memstore.Store{}, 0), Config{Registerer: reg}, cell("a"))
	if _, err := d.Lookup(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	if d.Learn("ann", Place{"b", 0}) {
		t.Error("another cell of the same generation was taken")
	}
	if !d.Learn("ann", Place{"b", 2}) || d.Learn("ann", Place{"c", 1}) {
		t.Error("want the later place to be taken, and the earlier not")
	}
	if p, err := d.Lookup(t.Context(), "ann"); p != (Place{"b", 2}) || err != nil {
		t.Errorf("got %v, %v", p, err)
	}
	if err := d.Publish(t.Context(), "ann", Place{"c", 3}); err != nil {
		t.Fatal(err)
	}
	if p, err := d.Lookup(t.Context(), "ann"); p != (Place{"c", 3}) || err != nil {
		t.Errorf("once it was published: got %v, %v", p, err)
	}
	for result, want := range map[string]float64{"hit": 2, "placed": 1, "corrected": 1, "failed": 0, "read": 0} {
		if got := testutil.ToFloat64(d.lookups.WithLabelValues(result)); got != want {
			t.Errorf("directory_lookups_total{result=%q}: got %v, want %v", result, got, want)
		}
	}
}

// TestDown: while the keeper fails, users who are known are found, others are not, and
// the log says it once. Row D3 of the invariants: 0 errors of cached users.
func TestDown(t *testing.T) {
	var down atomic.Bool
	asked := atomic.Int64{}
	s := &memstore.Store{Faults: func(memstore.Op, string) memstore.Fault {
		asked.Add(1)
		return memstore.Fault{Before: down.Load()}
	}}
	var log strings.Builder
	d := withCells(t, Rows(s, time.Millisecond), Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, cell("a"))
	known, err := d.Lookup(t.Context(), "ann")
	if err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	before := asked.Load()
	for range 1000 {
		if p, err := d.Lookup(t.Context(), "ann"); p != known || err != nil {
			t.Fatalf("a known user: got %v, %v", p, err)
		}
	}
	if n := asked.Load() - before; n != 0 {
		t.Errorf("a known user was asked about %d times", n)
	}
	for i := range 10 {
		if _, err := d.Lookup(t.Context(), fmt.Sprint("new-", i%2)); !errors.Is(err, memstore.ErrInjected) {
			t.Errorf("a new user: got %v, want %v", err, memstore.ErrInjected)
		}
	}
	if err := d.Publish(t.Context(), "ann", Place{"b", 1}); err == nil {
		t.Error("a move was published while the directory was down")
	}
	if asked.Load() == before {
		t.Error("no fault was injected")
	}
	if n := strings.Count(log.String(), "directory cannot be read"); n != 2 {
		t.Errorf("got %d lines of log for 2 documents:\n%s", n, &log)
	}
	if len(d.Cells()) != 1 {
		t.Errorf("cells: got %v, want the one there was", d.Cells())
	}
	down.Store(false)
	if _, err := d.Lookup(t.Context(), "new-1"); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}

// TestGarbage: a document that nobody here wrote is an error that says so, and what was
// known before still holds.
func TestGarbage(t *testing.T) {
	k := Rows(&memstore.Store{}, time.Millisecond)
	d := withCells(t, k, Config{}, cell("a"))
	if _, err := d.Lookup(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cellsName, sliceName(SliceOf("ann"))} {
		_, version, err := k.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Put(t.Context(), name, []byte("\x00garbage"), version); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Refresh(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("cells: got %v, want %v", err, ErrCorrupt)
	}
	if p, err := d.Lookup(t.Context(), "ann"); p.Cell != "a" || err != nil {
		t.Errorf("a known user: got %v, %v", p, err)
	}
	if _, err := New(k, Config{}).Lookup(t.Context(), "ann"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("somebody new: got %v, want %v", err, ErrCorrupt)
	}
	if _, err := d.Cell(t.Context(), "a"); err != nil {
		t.Errorf("a known cell: %v", err)
	}
	// A cell that nobody has.
	k = Rows(&memstore.Store{}, time.Millisecond)
	d = withCells(t, k, Config{}, cell("a"))
	if err := d.Publish(t.Context(), "bob", Place{"nowhere", 1}); err != nil {
		t.Fatal(err)
	}
	p, err := d.Lookup(t.Context(), "bob")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Cell(t.Context(), p.Cell); !errors.Is(err, ErrNoCell) {
		t.Errorf("a cell that nobody has: got %v, want %v", err, ErrNoCell)
	}
	empty := New(Rows(&memstore.Store{}, 0), Config{})
	if _, err := empty.Lookup(t.Context(), "ann"); !errors.Is(err, ErrNoCell) {
		t.Errorf("a directory without cells: got %v, want %v", err, ErrNoCell)
	}
}

// TestFollows: a change of the cells reaches who follows, whatever was wrong before.
func TestFollows(t *testing.T) {
	each(t, func(t *testing.T, client func() Keeper) {
		d, other := New(client(), Config{}), New(client(), Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = d.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		for _, name := range []string{"a", "b"} {
			if err := other.Edit(ctx, func(cells []Cell) ([]Cell, error) { return append(cells, cell(name)), nil }); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
				if _, ok := find(d.Cells(), name); ok {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("cell %s was not heard of within a minute", name)
				}
			}
		}
	})
}

// TestUnknown: a placing whose outcome is not known is found out by the next, and one
// user never has two places.
func TestUnknown(t *testing.T) {
	var n atomic.Int64
	s := &memstore.Store{Faults: func(op memstore.Op, _ string) memstore.Fault {
		if op != memstore.OpPut {
			return memstore.Fault{}
		}
		return memstore.Fault{After: n.Add(1)%3 == 0, Twice: n.Load()%5 == 0}
	}}
	cells := []Cell{cell("a"), cell("b"), cell("c")}
	ds := []*Directory{withCells(t, Rows(s, 0), Config{}, cells...), withCells(t, Rows(s, 0), Config{}, cells...)}
	places := map[string]Place{}
	for i := range 300 {
		u := fmt.Sprint("u", i%100)
		p, err := ds[i%2].Lookup(t.Context(), u)
		if err != nil {
			continue
		}
		if was, ok := places[u]; ok && was != p {
			t.Errorf("%s: got %v after %v", u, p, was)
		}
		places[u] = p
	}
	counts := s.Injected()
	if counts[memstore.After] == 0 || counts[memstore.Twice] == 0 || len(places) != 100 {
		t.Errorf("faults %v, %d users placed", counts, len(places))
	}
}

// TestSpread: users are spread over slices evenly, and slices are bounded.
func TestSpread(t *testing.T) {
	var n [Slices]int
	const users = 200_000
	for i := range users {
		n[SliceOf(fmt.Sprint("user-", i))]++
	}
	for i, got := range n {
		if want := float64(users) / Slices; math.Abs(float64(got)-want) > 6*math.Sqrt(want) {
			t.Errorf("slice %d has %d users, want about %.0f", i, got, want)
		}
	}
	s := &slice{Cell: strings.Repeat("c", maxDocument)}
	if _, err := s.encode(); !errors.Is(err, ErrFull) {
		t.Errorf("a slice too large: got %v, want %v", err, ErrFull)
	}
}

// TestCacheIsBounded: slices beyond the bound are let go, and read again.
func TestCacheIsBounded(t *testing.T) {
	k := Rows(&memstore.Store{}, 0)
	d := withCells(t, k, Config{CacheBytes: 500}, cell("a"))
	for i := range 100 {
		if _, err := d.Lookup(t.Context(), fmt.Sprint("u", i)); err != nil {
			t.Fatal(err)
		}
		if d.bytes > 500 {
			t.Fatalf("the cache holds %d bytes, want at most 500", d.bytes)
		}
	}
	if p, err := d.Lookup(t.Context(), "u0"); p.Cell != "a" || err != nil {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestCellCheck(t *testing.T) {
	for _, c := range []Cell{
		{}, {Name: "a"}, {Name: "a/b", Servers: []string{"a:1"}}, {Name: "a", Servers: []string{"a"}},
		{Name: "a", Servers: []string{"a:1"}, State: "odd"}, {Name: "a", Servers: []string{":1"}}, {Name: "a", Servers: []string{"a:1"}, Weight: -1},
	} {
		if err := c.Check(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%+v: got %v, want %v", c, err, ErrCorrupt)
		}
	}
	if err := cell("a").Check(); err != nil {
		t.Error(err)
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"cells":[{"name":"a","servers":["10.0.0.1:7500"],"state":"open"}]}`))
	f.Add([]byte(`{"cell":"a","users":[{"u":"ann","c":"b","g":3}]}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if doc, err := decodeCells(b); err == nil {
			again, err := encodeCells(&doc)
			if err != nil {
				t.Fatalf("what was decoded cannot be encoded: %v", err)
			}
			if same, err := decodeCells(again); err != nil || !cmp.Equal(doc, same, cmp.AllowUnexported(cellsDocument{})) {
				t.Errorf("got %v, %v, want %v", same, err, doc)
			}
		}
		if s, err := decodeSlice(SliceOf("ann"), b); err == nil {
			if _, err := s.encode(); err != nil {
				t.Errorf("what was decoded cannot be encoded: %v", err)
			}
		}
	})
}

func BenchmarkLookup(b *testing.B) {
	d := New(Rows(&memstore.Store{}, 0), Config{})
	if err := d.Edit(b.Context(), func([]Cell) ([]Cell, error) { return []Cell{cell("a")}, nil }); err != nil {
		b.Fatal(err)
	}
	users := make([]string, 4096)
	for i := range users {
		users[i] = fmt.Sprint("user-", i)
		if _, err := d.Lookup(b.Context(), users[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := d.Lookup(b.Context(), users[i%len(users)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
