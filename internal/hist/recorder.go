package hist

import (
	"runtime"
	"sync/atomic"
	"time"
)

// A Recorder is a Hist that one goroutine writes and another reads while it is
// written. The writer takes no lock and never waits for the reader: it says
// which of two Hists it is in, and the reader, having made the other one
// active, waits until the writer has left the first. (HdrHistogram's
// WriterReaderPhaser does so for any number of writers, by counting them; for
// one, its name on the door is enough.)
type Recorder struct {
	active atomic.Pointer[Hist]
	busy   atomic.Pointer[Hist] // what the writer is in; nil between records
	idle   *Hist                // the reader's
}

// NewRecorder returns an empty Recorder. It takes the memory of two Hists.
func NewRecorder() *Recorder {
	r := &Recorder{idle: New()}
	r.active.Store(New())
	return r
}

// Record counts d as Hist.Record does. Only one goroutine may call it at a time.
func (r *Recorder) Record(d time.Duration) {
	h := r.active.Load()
	for {
		r.busy.Store(h)
		now := r.active.Load()
		if now == h {
			break
		}
		h = now // swapped before the reader could see us
	}
	h.Record(d)
	r.busy.Store(nil)
}

// Swap returns what was recorded since the last Swap. The Hist is the caller's
// until the next Swap, which uses it again. Only one goroutine may call it at a
// time. It waits for at most one Record in progress.
func (r *Recorder) Swap() *Hist {
	r.idle.Reset()
	full := r.active.Swap(r.idle)
	r.idle = full
	for r.busy.Load() == full {
		runtime.Gosched()
	}
	return full
}
