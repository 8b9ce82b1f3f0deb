// Package hist records latencies without losing the tail: HdrHistograms that
// merge without loss, a recorder whose writer is never held up by its reader,
// and a Prometheus collector over both.
//
// Buckets are HdrHistogram's (hdrhistogram.org) for whole nanoseconds up to an
// hour at three significant digits. The counts are kept here, one slice an
// octave, because a latency touches few octaves: a Hist in use takes 40–100 KiB
// where a dense one takes 264, and merging costs what is there rather than what
// might be. The wire form is read and written by hdrhistogram-go, which is also
// what the tests compare with.
package hist

import (
	"math"
	"math/bits"
	"time"
)

// Highest is the largest duration a Hist tells apart; longer ones are recorded
// as Highest.
const Highest = time.Hour

// The geometry of HdrHistogram for lowest = 1 ns, highest = 1 h, 3 digits: 2048
// linear buckets, of which each doubling of the value keeps the upper 1024.
const (
	digits     = 3
	octaveBits = 10
	octaveSize = 1 << octaveBits
	octaves    = 33
	slots      = octaves * octaveSize
)

// slot is the index of the bucket that counts v ns, 0 ≤ v ≤ Highest: HdrHistogram's
// countsArrayIndex, where bucket and sub-bucket index collapse into one sum.
func slot(v int64) int {
	shift := bits.Len64(uint64(v)|(2*octaveSize-1)) - (octaveBits + 1)
	return shift<<octaveBits + int(v>>shift)
}

// bounds returns the smallest and the largest value in ns counted in bucket i.
func bounds(i int) (low, high int64) {
	shift := max(i>>octaveBits-1, 0)
	low = int64(i-shift<<octaveBits) << shift
	return low, low + 1<<shift - 1
}

// middle is the value that stands for all of bucket i where a sum is estimated.
func middle(i int) int64 {
	low, high := bounds(i)
	return low + (high-low)/2
}

// A Hist counts durations from 0 to Highest. A duration is known to 1 ns up to
// 2 µs and to 0.1 % above. It takes 8 KiB for each octave (×2) of durations it
// has seen above 1 µs and 8 KiB for those below: 40–100 KiB for what one
// service does, 264 KiB at most, and 300 bytes while empty. The zero value is
// ready. It is not safe for concurrent use.
type Hist struct {
	counts  [octaves]*[octaveSize]int64
	n       int64
	clamped int64
	sum     nanos
}

// nanos is a sum of durations in ns, 128 bits wide: 64 overflow after 5 million
// hours.
type nanos struct{ high, low uint64 }

func (s nanos) plus(o nanos) nanos {
	low, carry := bits.Add64(s.low, o.low, 0)
	return nanos{s.high + o.high + carry, low}
}

func product(v, n int64) nanos {
	high, low := bits.Mul64(uint64(v), uint64(n))
	return nanos{high, low}
}

func (s nanos) seconds() float64 { return (float64(s.high)*0x1p64 + float64(s.low)) / 1e9 }

// New returns an empty Hist.
func New() *Hist { return new(Hist) }

// Record counts d. A negative d counts as 0 and one above Highest as Highest;
// Clamped says how many there were.
func (h *Hist) Record(d time.Duration) { h.RecordN(d, 1) }

// RecordN counts d n times; n ≤ 0 counts nothing.
func (h *Hist) RecordN(d time.Duration, n int64) {
	if n <= 0 {
		return
	}
	v := int64(d)
	if uint64(v) > uint64(Highest) {
		v = min(max(v, 0), int64(Highest))
		h.clamped += n
	}
	h.add(slot(v), n)
	h.sum = h.sum.plus(product(v, n))
}

func (h *Hist) add(i int, n int64) {
	octave := h.counts[i>>octaveBits]
	if octave == nil {
		octave = new([octaveSize]int64)
		h.counts[i>>octaveBits] = octave
	}
	octave[i&(octaveSize-1)] += n
	h.n += n
}

// Merge adds all that o holds to h, without loss; o is unchanged. Merging in
// any order and grouping gives the same Hist.
func (h *Hist) Merge(o *Hist) {
	for k, from := range o.counts {
		if from == nil {
			continue
		}
		if h.counts[k] == nil {
			h.counts[k] = new([octaveSize]int64)
		}
		to := h.counts[k]
		for i, n := range from {
			to[i] += n
		}
	}
	h.n += o.n
	h.clamped += o.clamped
	h.sum = h.sum.plus(o.sum)
}

// Reset forgets what was recorded and keeps the memory.
func (h *Hist) Reset() {
	for _, octave := range h.counts {
		if octave != nil {
			clear(octave[:])
		}
	}
	*h = Hist{counts: h.counts}
}

// Quantile returns the q-quantile by nearest rank: with the n durations in
// ascending order it is the one at rank ⌈q·n⌉, counted from 1, and rank 1 for
// q = 0. The answer is the upper end of that duration's bucket, so never less
// than the duration and at most 0.1 % more. q is taken as 0 below 0 or NaN, and
// as 1 above 1. An empty Hist answers 0.
func (h *Hist) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rest := rank(q, h.n)
	var result int64
	h.each(func(i int, n int64) bool {
		rest -= n
		_, result = bounds(i)
		return rest > 0
	})
	return time.Duration(min(result, int64(Highest)))
}

// rank is ⌈q·n⌉ within 1…n. Neither q nor the product is exact (0.07 × 100 is
// above 7), so a product counts as whole when it is, as near as a float64 tells.
func rank(q float64, n int64) int64 {
	r := math.Ceil(q * float64(n) * (1 - 0x1p-51))
	switch {
	case !(r >= 1):
		return 1
	case q >= 1, r >= float64(n):
		return n
	}
	return int64(r)
}

// each calls f with every bucket that counted something, in ascending order,
// until f returns false.
func (h *Hist) each(f func(i int, n int64) bool) {
	for k, octave := range h.counts {
		if octave == nil {
			continue
		}
		for i, n := range octave {
			if n != 0 && !f(k<<octaveBits+i, n) {
				return
			}
		}
	}
}

// Count returns how many durations were recorded.
func (h *Hist) Count() int64 { return h.n }

// Clamped returns how many of them were outside 0…Highest.
func (h *Hist) Clamped() int64 { return h.clamped }

// Mean returns the mean in whole ns, exact but for the clamping; 0 when empty. A
// decoded Hist knows its sum only from the middles of the buckets: 0.05 %.
func (h *Hist) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	mean, _ := bits.Div64(h.sum.high, h.sum.low, uint64(h.n))
	return time.Duration(mean)
}

// Seconds returns the sum of all durations in seconds, as exact as Mean.
func (h *Hist) Seconds() float64 { return h.sum.seconds() }

// Min returns the lower end of the bucket of the shortest duration; 0 when empty.
func (h *Hist) Min() time.Duration {
	var result int64
	h.each(func(i int, _ int64) bool {
		result, _ = bounds(i)
		return false
	})
	return time.Duration(result)
}

// Max returns the upper end of the bucket of the longest duration, which is
// Quantile(1); 0 when empty.
func (h *Hist) Max() time.Duration { return h.Quantile(1) }
