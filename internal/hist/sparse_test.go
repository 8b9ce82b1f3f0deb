package hist

import (
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	h := New()
	for _, d := range []time.Duration{0, 1, 1, 1500, time.Millisecond, time.Second, time.Hour, 2 * time.Hour} {
		h.Record(d)
	}
	got := New()
	last := -1
	for i, n := range h.Buckets() {
		if i <= last || n <= 0 {
			t.Errorf("got bucket %d with %d after %d, want ascending ones that counted something", i, n, last)
		}
		last = i
		if err := got.AddBucket(i, n); err != nil {
			t.Error(err)
		}
	}
	for _, q := range []float64{0, 0.2, 0.5, 0.7, 0.9, 1} {
		if got, want := got.Quantile(q), h.Quantile(q); got != want {
			t.Errorf("quantile %v: got %v, want %v", q, got, want)
		}
	}
	if got.Count() != 8 {
		t.Errorf("got %d durations, want 8", got.Count())
	}
	if got, want := got.Mean(), h.Mean(); got < want*999/1000 || got > want*1001/1000 {
		t.Errorf("got mean %v, want about %v", got, want)
	}
}

func TestAddBucketRefuses(t *testing.T) {
	for _, tt := range []struct {
		i int
		n int64
	}{{-1, 1}, {slot(int64(Highest)) + 1, 1}, {1 << 40, 1}, {0, -1}, {0, maxTotal}, {0, 1<<63 - 1}} {
		h := New()
		h.Record(1)
		if err := h.AddBucket(tt.i, tt.n); err == nil || h.Count() != 1 {
			t.Errorf("bucket %d, %d durations: got %v and a count of %d, want an error and 1", tt.i, tt.n, err, h.Count())
		}
	}
}
