package hbase_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/appserver/store"
	"darklaunch/appserver/store/hbase"
	"darklaunch/appserver/store/storetest"
	"darklaunch/internal/testenv"
	real "darklaunch/internal/testenv/hbase"
)

func TestMain(m *testing.M) {
	hbase.TakeLogs(nil)
	testenv.Main(m)
}

// table makes one of the test's own.
func table(t testing.TB, regions int) hbase.Config {
	t.Helper()
	srv := real.Standalone(t, real.Shared)
	cfg := hbase.Config{
		Quorum:      srv.Quorum,
		Table:       fmt.Sprintf("store-%d", time.Now().UnixNano()),
		Timeout:     20 * time.Second, // other packages' tests run beside this
		ReadTimeout: 10 * time.Second,
		Log:         slog.New(slog.DiscardHandler),
	}
	for _, want := range []bool{true, false} {
		if created, err := hbase.Create(t.Context(), cfg, regions); err != nil || created != want {
			t.Fatalf("create: got %v, %v, want %v", created, err, want)
		}
	}
	return cfg
}

// TestConformance: the store keeps the contract as all of them do. Rows B14, D55,
// F74-F76.
func TestConformance(t *testing.T) {
	cfg := table(t, 4)
	storetest.Run(t, storetest.Target{Lasting: true, Vague: true, Open: func(ctx context.Context) (store.Store, error) {
		return hbase.Open(ctx, cfg)
	}})
}

// TestRegions holds that the table is split where rows' keys are.
func TestRegions(t *testing.T) {
	cfg := table(t, 4)
	client := gohbase.NewClient(cfg.Quorum, gohbase.RpcQueueSize(1))
	defer client.Close()
	scan, err := hrpc.NewScanRangeStr(t.Context(), "hbase:meta", cfg.Table+",,", cfg.Table+"-", hrpc.Families(map[string][]string{"info": {"regioninfo"}}))
	if err != nil {
		t.Fatal(err)
	}
	regions := 0
	for scanner := client.Scan(scan); ; regions++ {
		result, err := scanner.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(result.Cells[0].Row), cfg.Table+",") {
			t.Errorf("region %q is of another table", result.Cells[0].Row)
		}
	}
	if regions != 4 {
		t.Errorf("%d regions, want 4", regions)
	}
}

// TestDrop takes a table away, and finds none the second time.
func TestDrop(t *testing.T) {
	cfg := table(t, 2)
	for range 2 {
		if err := hbase.Drop(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		if _, err := hbase.Open(t.Context(), cfg); !errors.Is(err, hbase.ErrNoTable) {
			t.Errorf("got %v, want %v", err, hbase.ErrNoTable)
		}
	}
}

func TestNoTable(t *testing.T) {
	cfg := table(t, 1)
	cfg.Table += "-not"
	if _, err := hbase.Open(t.Context(), cfg); !errors.Is(err, hbase.ErrNoTable) {
		t.Errorf("got %v, want %v", err, hbase.ErrNoTable)
	}
}

// TestKilled kills HBase among puts of several owners: what was acknowledged is
// there when it is back, and the same store goes on.
func TestKilled(t *testing.T) {
	srv := real.Standalone(t, real.Alone)
	cfg := hbase.Config{Quorum: srv.Quorum, Table: fmt.Sprintf("killed-%d", time.Now().UnixNano()), Timeout: 4 * time.Second}
	if _, err := hbase.Create(t.Context(), cfg, 2); err != nil {
		t.Fatal(err)
	}
	s, err := hbase.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const owners = 4
	var acked [owners]atomic.Uint64
	var unknown atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range owners {
		wg.Go(func() {
			fence := store.Fence{}
			for ctx.Err() == nil {
				next := store.Fence{Epoch: 1, Seq: fence.Seq + 1, Tag: store.Tag{byte(fence.Seq >> 8), byte(fence.Seq), 1}}
				cell := store.Cell{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%06d", next.Seq), Value: []byte("v")}
				err := s.Put(ctx, fmt.Sprint(i), fence, next, []store.Cell{cell})
				if err != nil {
					unknown.Add(1)
					row, err := s.Read(ctx, fmt.Sprint(i))
					if err != nil || row.Fence != next {
						continue
					}
				}
				fence = next
				acked[i].Store(next.Seq)
			}
		})
	}
	more := func(what string) {
		t.Helper()
		from := [owners]uint64{}
		for i := range owners {
			from[i] = acked[i].Load()
		}
		for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			behind := 0
			for i := range owners {
				if acked[i].Load() < from[i]+20 {
					behind++
				}
			}
			if behind == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d owners without 20 more acknowledgements in 90s", what, behind)
			}
		}
	}
	more("before the kill")
	srv.Kill(real.Only)
	for deadline := time.Now().Add(60 * time.Second); unknown.Load() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no put ended as unknown though HBase is dead")
		}
	}
	srv.Restart(real.Only)
	more("after the restart")
	cancel()
	wg.Wait()
	for i := range owners {
		var row store.Row
		for whole := false; !whole; { // the put that was on its way at the end may come between two pages
			var err error
			if row, whole, err = store.ReadAll(t.Context(), s, fmt.Sprint(i), store.Span{Family: store.Actions}); err != nil {
				t.Fatalf("read: %v", err)
			}
		}
		if row.Fence.Seq < acked[i].Load() || uint64(len(row.Cells)) != row.Fence.Seq {
			t.Errorf("row %d is at %d with %d actions, %d were acknowledged", i, row.Fence.Seq, len(row.Cells), acked[i].Load())
		}
	}
	t.Logf("%d puts ended as unknown", unknown.Load())
}

// BenchmarkPut puts from 16 goroutines: through the store, and the same bytes as
// a plain put of gohbase, which compares nothing.
func BenchmarkPut(b *testing.B) {
	cfg := table(b, 4)
	const callers = 16
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
	value := []byte(strings.Repeat("v", 100))
	fence := func(n int) store.Fence {
		if n == 0 {
			return store.Fence{}
		}
		return store.Fence{Epoch: 1, Seq: uint64(n), Tag: store.Tag{byte(n >> 8), byte(n), 1}}
	}
	b.Run("store", func(b *testing.B) {
		s, err := hbase.Open(b.Context(), cfg)
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		round := time.Now().UnixNano()
		run(b, func(c, n int) error {
			return s.Put(b.Context(), fmt.Sprintf("%d-%d", round, c), fence(n), fence(n+1),
				[]store.Cell{{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%06d", n), Value: value}})
		})
	})
	b.Run("raw", func(b *testing.B) {
		client := gohbase.NewClient(cfg.Quorum, gohbase.RpcQueueSize(1))
		defer client.Close()
		run(b, func(c, n int) error {
			put, err := hrpc.NewPutStr(b.Context(), cfg.Table, fmt.Sprintf("r%d", c), map[string]map[string][]byte{
				"f": {"o": fence(n + 1).AppendFence(nil)}, "a": {fmt.Sprintf("%06d", n): value}}, hrpc.Durability(hrpc.FsyncWal))
			if err != nil {
				return err
			}
			_, err = client.Put(put)
			return err
		})
	})
}
