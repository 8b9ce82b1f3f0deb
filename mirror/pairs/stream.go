package pairs

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
	"darklaunch/internal/pause"
)

// Why a record was not written to a stream: label values, a closed set.
const (
	LostFull   = "queue_full"   // there was no room for it
	LostLarge  = "too_large"    // it is larger than a record may be
	LostBudget = "budget"       // more pairs in a second than may be
	LostBroken = "disconnected" // it was being written when the connection broke, or left over at the end
)

var lostReasons = [...]string{LostFull, LostLarge, LostBudget, LostBroken}

// StreamConfig describes one stream.
type StreamConfig struct {
	// Open returns where to write: a connection to a verdict, or a new file. It
	// is called again after a failure, with growing pauses. A connection's write
	// deadline is set, where it has one, and it is closed.
	Open func(ctx context.Context) (io.WriteCloser, error)
	// Header begins the stream each time. Its routes are Pairs.Header's.
	Header *pairv1.Header
	// MaxBytes bounds what waits to be written. A quarter of it is kept for
	// windows. Zero means 8 MiB.
	MaxBytes int
	// Drain is how long what waits may still be written after Run's ctx has
	// ended. Zero means 1s.
	Drain time.Duration
}

const (
	firstPause   = 100 * time.Millisecond
	mostPause    = 5 * time.Second
	writeTimeout = 10 * time.Second
	// batch is about how much is written at a time, in bytes.
	batch = 64 << 10
)

// Stream is a bounded queue of records and who writes them. Putting one in never
// waits for the writer.
type Stream struct {
	cfg  StreamConfig
	wake chan struct{} // of one: there is something to write

	mu       sync.Mutex // guards the rest
	sequence uint64
	queue    [][]byte // framed records, oldest first
	bytes    int
	lost     map[string]uint64
}

// NewStream returns a stream, which is written while its Run runs; Pairs.Run
// runs those that it was given.
func NewStream(cfg StreamConfig) *Stream {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 8 << 20
	}
	if cfg.Drain <= 0 {
		cfg.Drain = time.Second
	}
	s := &Stream{cfg: cfg, wake: make(chan struct{}, 1), lost: map[string]uint64{}}
	for _, reason := range lostReasons {
		s.lost[reason] = 0
	}
	return s
}

// Lost returns how many records were lost, by reason.
func (s *Stream) Lost() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]uint64, len(s.lost))
	for reason, n := range s.lost {
		all[reason] = n
	}
	return all
}

// skip counts a pair that was not written down.
func (s *Stream) skip() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[LostBudget]++
	s.sequence++
}

// offerWindow puts a window in, with what the stream has lost so far.
func (s *Stream) offerWindow(w *pairv1.Window) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Losses = w.Losses[:0]
	for _, reason := range lostReasons {
		w.Losses = append(w.Losses, &pairv1.Loss{Reason: reason, Count: s.lost[reason]})
	}
	s.put(&pairv1.Record{Kind: &pairv1.Record_Window{Window: w}}, s.cfg.MaxBytes)
}

func (s *Stream) offerPair(p *pairv1.Pair) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(&pairv1.Record{Kind: &pairv1.Record_Pair{Pair: p}}, s.cfg.MaxBytes/4*3)
}

// put appends a record if the queue is then not over most; mu is held.
func (s *Stream) put(r *pairv1.Record, most int) {
	s.sequence++
	r.Sequence = s.sequence
	if s.bytes >= most { // spares the writing
		s.lost[LostFull]++
		return
	}
	framed, err := pairstream.Append(nil, r)
	switch {
	case err != nil:
		s.lost[LostLarge]++
	case s.bytes+len(framed) > most:
		s.lost[LostFull]++
	default:
		s.queue = append(s.queue, framed)
		s.bytes += len(framed)
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// take returns the next records to write, and how many they are.
func (s *Stream) take() (framed []byte, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) > 0 && (n == 0 || len(framed)+len(s.queue[0]) <= batch) {
		framed = append(framed, s.queue[0]...)
		s.bytes -= len(s.queue[0])
		s.queue[0] = nil
		s.queue = s.queue[1:]
		n++
	}
	return framed, n
}

// Run writes the stream until ctx ends, and then what is left, for a while.
func (s *Stream) Run(ctx context.Context) {
	end, stop := context.WithCancel(context.WithoutCancel(ctx)) // Drain after ctx
	defer stop()
	defer context.AfterFunc(ctx, func() {
		_ = pause.For(end, s.cfg.Drain)
		stop()
	})()
	for wait := firstPause; ; wait = min(2*wait, mostPause) {
		wrote, err := s.session(ctx, end)
		if wrote {
			wait = firstPause
		}
		if err == nil || pause.For(end, wait) != nil {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[LostBroken] += uint64(len(s.queue))
	s.queue, s.bytes = nil, 0
}

// session writes to one place. A nil error means that ctx has ended and nothing
// is left; wrote that something was written.
func (s *Stream) session(ctx, end context.Context) (wrote bool, err error) {
	w, err := s.cfg.Open(end)
	if err != nil {
		return false, err
	}
	defer w.Close()
	defer context.AfterFunc(end, func() { w.Close() })() // which ends a write
	first, err := pairstream.Append([]byte(pairstream.Magic), &pairv1.Record{Kind: &pairv1.Record_Header{Header: s.cfg.Header}})
	if err == nil {
		err = write(w, first)
	}
	for err == nil {
		framed, n := s.take()
		if n > 0 {
			if err = write(w, framed); err != nil {
				s.lose(n)
			}
			wrote = true
			continue
		}
		if ctx.Err() != nil {
			return wrote, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	return wrote, err
}

// lose counts records that were being written.
func (s *Stream) lose(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost[LostBroken] += n
}

func write(w io.Writer, p []byte) error {
	if c, ok := w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		c.SetWriteDeadline(time.Now().Add(writeTimeout)) // a file that can't has none
	}
	_, err := w.Write(p)
	return err
}

// losses collects what all streams of a mirror lost.
type losses []*Stream

var lossesDesc = prometheus.NewDesc("mirror_pairs_stream_dropped_total", "Records that a pair stream lost.", []string{"reason"}, nil)

// Describe implements prometheus.Collector.
func (losses) Describe(ch chan<- *prometheus.Desc) { ch <- lossesDesc }

// Collect implements prometheus.Collector.
func (l losses) Collect(ch chan<- prometheus.Metric) {
	total := map[string]uint64{}
	for _, s := range l {
		for reason, n := range s.Lost() {
			total[reason] += n
		}
	}
	for _, reason := range lostReasons {
		ch <- prometheus.MustNewConstMetric(lossesDesc, prometheus.CounterValue, float64(total[reason]), reason)
	}
}
