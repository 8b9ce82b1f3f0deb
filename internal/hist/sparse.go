package hist

import (
	"fmt"
	"iter"
)

// Buckets yields the index and the count of each bucket that counted something,
// in ascending order. An index is HdrHistogram's countsArrayIndex in the
// geometry of this package: the form for a wire on which a histogram is sent
// each second, where Encode would cost a millisecond of CPU time.
func (h *Hist) Buckets() iter.Seq2[int, int64] {
	return func(yield func(i int, n int64) bool) { h.each(yield) }
}

// AddBucket counts n durations in the bucket of that index. As with Decode the
// sum is then an estimate. It is an error, and nothing is counted, if there is no
// such bucket, if n is negative, or if the total would exceed 2^53.
func (h *Hist) AddBucket(i int, n int64) error {
	if i < 0 || i > slot(int64(Highest)) {
		return fmt.Errorf("histogram: no bucket %d", i)
	}
	if n < 0 || n > maxTotal-h.n {
		return fmt.Errorf("histogram: %d durations in bucket %d, more than can be true", n, i)
	}
	if n > 0 {
		h.add(i, n)
		h.sum = h.sum.plus(product(middle(i), n))
	}
	return nil
}
