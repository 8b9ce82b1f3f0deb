package pebble_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	cockroach "github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"darklaunch/appserver/store"
	"darklaunch/appserver/store/pebble"
	"darklaunch/appserver/store/storetest"
)

// TestConformance: the store keeps the contract as all of them do. Rows B14, D55, F74-F76.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	storetest.Run(t, storetest.Target{Lasting: true, Open: func(context.Context) (store.Store, error) {
		return pebble.Open(dir, pebble.Config{})
	}})
}

func open(t testing.TB, dir string, cfg pebble.Config) *pebble.Store {
	t.Helper()
	s, err := pebble.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fence(n int) store.Fence {
	if n == 0 {
		return store.Fence{}
	}
	return store.Fence{Epoch: 1, Seq: uint64(n), Tag: store.Tag{byte(n >> 8), byte(n), 1}}
}

func cells(n int) []store.Cell {
	return []store.Cell{
		{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%06d", n), Value: []byte(strings.Repeat("v", 100))},
		{Family: store.Outbox, Qualifier: fmt.Appendf(nil, "%06d", n), Value: []byte("o")},
	}
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, pebble.Config{})
	if _, err := pebble.Open(dir, pebble.Config{}); !errors.Is(err, pebble.ErrLocked) {
		t.Errorf("a second store in %s: got %v, want %v", dir, err, pebble.ErrLocked)
	}
}

// TestPowerFailure puts rows from several goroutines, takes what would be on the
// disk if the power failed now, and looks there for all that was acknowledged
// before: whole puts, none missing in a row.
func TestPowerFailure(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, "db", pebble.Config{FS: fs})
	const users = 8
	var acked [users]atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := s.Put(context.Background(), fmt.Sprint(u), fence(n), fence(n+1), cells(n+1)); err != nil {
					t.Error(err)
					return
				}
				acked[u].Store(int64(n + 1))
			}
		})
	}
	for crash, percent := range []int{0, 50, 100, 0, 50} {
		var before [users]int64
		for u := range users {
			for before[u] = acked[u].Load(); before[u] < int64(20*(crash+1)); before[u] = acked[u].Load() {
				time.Sleep(time.Millisecond)
				if t.Failed() || t.Context().Err() != nil {
					cancel()
					wg.Wait()
					t.Fatal("no puts")
				}
			}
		}
		left := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(uint64(crash), 1))})
		again := open(t, "db", pebble.Config{FS: left})
		for u := range users {
			row, whole, err := store.ReadAll(t.Context(), again, fmt.Sprint(u), store.Span{Family: store.Actions}, store.Span{Family: store.Outbox})
			if err != nil || !whole {
				t.Fatalf("read after the crash: %v, %v", whole, err)
			}
			if row.Fence.Seq < uint64(before[u]) {
				t.Errorf("row %d is at %d, %d was acknowledged", u, row.Fence.Seq, before[u])
			}
			if got := uint64(len(row.Cells)); got != 2*row.Fence.Seq {
				t.Errorf("row %d has %d cells at %d, want %d", u, got, row.Fence.Seq, 2*row.Fence.Seq)
			}
		}
	}
	cancel()
	wg.Wait()
}

// full is a disk that says how much is free.
type full struct {
	vfs.FS
	free atomic.Uint64
}

func (f *full) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free.Load()}, nil
}

// TestFull has the disk fill up and be cleared: puts are refused, nothing of them
// is kept, reads go on, and so do puts at once when there is room.
func TestFull(t *testing.T) {
	fs := &full{FS: vfs.NewMem()}
	fs.free.Store(1 << 30)
	s := open(t, "db", pebble.Config{FS: fs, MinFree: 1 << 20})
	ctx := t.Context()
	if err := s.Put(ctx, "ann", fence(0), fence(1), cells(1)); err != nil {
		t.Fatal(err)
	}
	fs.free.Store(1<<20 - 1)
	if err := s.Put(ctx, "ann", fence(1), fence(2), cells(2)); !errors.Is(err, store.ErrRefused) {
		t.Errorf("a put to a full disk: got %v, want %v", err, store.ErrRefused)
	}
	if err := s.Put(ctx, "ann", fence(0), fence(2), cells(2)); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a fenced put to a full disk: got %v, want %v", err, store.ErrFenced)
	}
	row, err := s.Read(ctx, "ann", store.Span{Family: store.Actions})
	if err != nil || row.Fence != fence(1) || len(row.Cells) != 1 {
		t.Errorf("read from a full disk: got %v, %v", row, err)
	}
	fs.free.Store(1 << 20)
	if err := s.Put(ctx, "ann", fence(1), fence(2), cells(2)); err != nil {
		t.Errorf("a put once there is room: %v", err)
	}
}

// quiet keeps Pebble's log out of the figures.
type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// BenchmarkPut puts from 64 goroutines, each to rows of its own: through the store, and
// the same bytes as a synced batch straight into Pebble.
func BenchmarkPut(b *testing.B) {
	const callers = 64
	run := func(b *testing.B, put func(caller, n int) error) {
		b.ReportAllocs()
		var left atomic.Int64
		left.Store(int64(b.N))
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for n := 0; left.Add(-1) >= 0; n++ {
					if err := put(c, n); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
	}
	b.Run("store", func(b *testing.B) {
		s := open(b, b.TempDir(), pebble.Config{})
		b.ResetTimer()
		run(b, func(c, n int) error {
			return s.Put(b.Context(), fmt.Sprint(c), fence(n), fence(n+1), cells(n+1))
		})
	})
	b.Run("raw", func(b *testing.B) {
		db, err := cockroach.Open(b.TempDir(), &cockroach.Options{Logger: quiet{}, MemTableSize: 32 << 20, FormatMajorVersion: cockroach.FormatValueSeparation})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		b.ResetTimer()
		run(b, func(c, n int) error {
			batch := db.NewBatch()
			defer batch.Close()
			for _, cell := range cells(n + 1) {
				_ = batch.Set(append(fmt.Appendf(nil, "%d%d", c, cell.Family), cell.Qualifier...), cell.Value, nil)
			}
			_ = batch.Set(fmt.Appendf(nil, "%d", c), fence(n+1).AppendFence(nil), nil)
			return batch.Commit(cockroach.Sync)
		})
	})
}
