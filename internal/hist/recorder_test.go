package hist

import (
	"sync"
	"testing"
	"time"
)

// TestSwapsAddUp has a writer and a reader at full speed until they have met
// often; the detector of races sees whether a Hist is ever shared.
func TestSwapsAddUp(t *testing.T) {
	meetings := 5000
	if testing.Short() {
		meetings = 300
	}
	r := NewRecorder()
	want, got := New(), New()
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		ds := latencies(1 << 10)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			for range 100 {
				r.Record(ds[i&(1<<10-1)])
				want.Record(ds[i&(1<<10-1)])
			}
		}
	})
	for meetings > 0 {
		h := r.Swap()
		got.Merge(h)
		if h.Count() > 0 {
			meetings--
		}
	}
	close(done)
	writer.Wait()
	got.Merge(r.Swap())
	same(t, "sum of all swaps", got, want)
	t.Logf("%d records", got.Count())
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
