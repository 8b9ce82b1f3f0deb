package hist

import (
	"sync"
	"testing"
	"time"
)

// TestSwapsAddUp has a writer and a reader at full speed; the detector of races
// sees whether a Hist is ever shared.
func TestSwapsAddUp(t *testing.T) {
	n := 2_000_000
	if testing.Short() {
		n = 300_000
	}
	r := NewRecorder()
	want := New()
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(done)
		ds := latencies(1 << 10)
		for i := range n {
			r.Record(ds[i&(1<<10-1)])
			want.Record(ds[i&(1<<10-1)])
		}
	})
	got := New()
	swaps, busy := 0, 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		h := r.Swap()
		got.Merge(h)
		swaps++
		if h.Count() > 0 {
			busy++
		}
	}
	writer.Wait()
	got.Merge(r.Swap())
	same(t, "sum of all swaps", got, want)
	if busy < 3 {
		t.Errorf("%d of %d swaps saw records: reader and writer did not meet", busy, swaps)
	}
	t.Logf("%d swaps, %d with records", swaps, busy)
}

func TestSwapIsSinceTheLast(t *testing.T) {
	r := NewRecorder()
	same(t, "nothing yet", r.Swap(), New())
	for i := time.Duration(1); i < 6; i++ {
		r.Record(i * time.Millisecond)
		r.Record(i * time.Second)
		same(t, "two records", r.Swap(), of(i*time.Millisecond, i*time.Second))
	}
	same(t, "nothing new", r.Swap(), New())
}

// TestSwapWaitsForTheWriter stops a writer between its two stores, as a
// preempted one would be, and sees that Swap does not return what is written.
func TestSwapWaitsForTheWriter(t *testing.T) {
	r := NewRecorder()
	h := r.active.Load()
	r.busy.Store(h)
	swapped := make(chan *Hist)
	go func() { swapped <- r.Swap() }()
	for r.active.Load() == h {
		time.Sleep(time.Microsecond) // until Swap has begun
	}
	select {
	case <-swapped:
		t.Fatal("Swap returned while the writer was inside")
	default:
	}
	h.Record(time.Second)
	r.busy.Store(nil)
	same(t, "swapped", <-swapped, of(time.Second))
}

func BenchmarkRecorderRecord(b *testing.B) {
	ds, r := latencies(1<<12), NewRecorder()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Record(ds[i&(1<<12-1)])
	}
}

func BenchmarkSwap(b *testing.B) {
	r := NewRecorder()
	for range 2 {
		for _, d := range latencies(1 << 12) {
			r.Record(d)
		}
		r.Swap()
	}
	b.ReportAllocs()
	for b.Loop() {
		r.Swap()
	}
}
