package hist

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// durations draws what a service might take: any magnitude is as likely, and
// some are out of range.
func durations(least int) *rapid.Generator[[]time.Duration] {
	one := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64Range(-10, 1<<rapid.IntRange(1, 43).Draw(t, "magnitude")).Draw(t, "ns"))
	})
	return rapid.SliceOfN(one, least, 200)
}

func of(ds ...time.Duration) *Hist {
	h := New()
	for _, d := range ds {
		h.Record(d)
	}
	return h
}

func merged(hs ...*Hist) *Hist {
	m := New()
	for _, h := range hs {
		m.Merge(h)
	}
	return m
}

// image is all that a Hist holds, in comparable form.
type image struct {
	Counts     map[int]int64
	N, Clamped int64
	Sum        [2]uint64
}

func imageOf(h *Hist) image {
	counts := map[int]int64{}
	h.each(func(i int, n int64) bool { counts[i] = n; return true })
	return image{counts, h.n, h.clamped, [2]uint64{h.sum.high, h.sum.low}}
}

func same(t testing.TB, what string, got, want *Hist) {
	t.Helper()
	if d := cmp.Diff(imageOf(want), imageOf(got)); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// clampedTo is d as it is recorded.
func clampedTo(d time.Duration) time.Duration { return min(max(d, 0), Highest) }

// TestBucketsAreUpstreams compares all buckets' ends with hdrhistogram-go's, and
// each end's and its neighbours' bucket.
func TestBucketsAreUpstreams(t *testing.T) {
	up := hdrhistogram.New(1, int64(Highest), digits)
	if err := up.RecordValue(1<<42 - 1); err != nil { // or it lists no bucket
		t.Fatal(err)
	}
	bars := up.Distribution()
	if len(bars) != slots {
		t.Fatalf("got %d buckets, want upstream's %d", slots, len(bars))
	}
	for i, bar := range bars {
		low, high := bounds(i)
		if low != bar.From || high != bar.To {
			t.Fatalf("bucket %d: got %d…%d, want %d…%d", i, low, high, bar.From, bar.To)
		}
		if slot(low) != i || slot(high) != i {
			t.Fatalf("bucket %d: its ends are counted in %d and %d", i, slot(low), slot(high))
		}
	}
}

func TestRecordMatchesUpstream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		up := hdrhistogram.New(1, int64(Highest), digits)
		h := New()
		for _, d := range durations(0).Draw(t, "durations") {
			n := rapid.Int64Range(0, 1<<40).Draw(t, "n")
			h.RecordN(d, n)
			if err := up.RecordValues(int64(clampedTo(d)), n); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]int64, slots)
		h.each(func(i int, n int64) bool { got[i] = n; return true })
		if want := up.Export().Counts; !slices.Equal(got, want) {
			t.Fatal("counts differ from upstream's")
		}
		if h.Count() != up.TotalCount() {
			t.Errorf("got count %d, want %d", h.Count(), up.TotalCount())
		}
		if h.Min() != time.Duration(up.Min()) {
			t.Errorf("got min %v, want %v", h.Min(), time.Duration(up.Min()))
		}
		if want := min(time.Duration(up.Max()), Highest); h.Max() != want {
			t.Errorf("got max %v, want %v", h.Max(), want)
		}
	})
}

func TestQuantileIsWithinAThousandth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := durations(1).Draw(t, "durations")
		q := rapid.OneOf(
			rapid.Float64Range(-0.1, 1.1),
			rapid.SampledFrom([]float64{0, 0.5, 0.9, 0.95, 0.99, 0.999, 1, math.NaN(), math.Inf(1), math.Inf(-1)}),
		).Draw(t, "q")
		h := of(ds...)

		sorted := slices.Clone(ds)
		for i := range sorted {
			sorted[i] = clampedTo(sorted[i])
		}
		slices.Sort(sorted)
		exact := sorted[rank(q, int64(len(sorted)))-1]
		got := h.Quantile(q)
		if got < exact || float64(got-exact) > float64(exact)/1000 {
			t.Errorf("quantile %v of %v: got %v, want %v and at most 0.1 %% more", q, sorted, got, exact)
		}
	})
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		q       float64
		n, want int64
	}{
		{0, 10, 1}, {1, 10, 10}, {-1, 10, 1}, {2, 10, 10}, {math.NaN(), 10, 1},
		{0.5, 1, 1}, {0.5, 2, 1}, {0.5, 3, 2}, {0.5, 4, 2},
		{0.07, 100, 7}, // the product is 7.000000000000001
		{0.99, 100, 99}, {0.99, 101, 100}, {0.999, 1000, 999}, {0.999, 1001, 1000},
		{0.29, 100, 29}, {0.57, 100, 57}, {0.1, 10, 1}, {0.7, 10, 7},
		{1, 1 << 53, 1 << 53}, {1, math.MaxInt64, math.MaxInt64},
	} {
		if got := rank(c.q, c.n); got != c.want {
			t.Errorf("rank(%v, %d): got %d, want %d", c.q, c.n, got, c.want)
		}
	}
	// A whole product is taken as whole for each percentile of each size.
	for n := int64(1); n <= 1000; n++ {
		for p := int64(1); p < 1000; p++ {
			want := max(1, (p*n+999)/1000)
			if got := rank(float64(p)/1000, n); got != want {
				t.Fatalf("rank(%v, %d): got %d, want %d", float64(p)/1000, n, got, want)
			}
		}
	}
}

func TestMergeIsAssociativeAndCommutative(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		as, bs, cs := durations(0).Draw(t, "a"), durations(0).Draw(t, "b"), durations(0).Draw(t, "c")
		a, b, c := of(as...), of(bs...), of(cs...)
		want := imageOf(of(slices.Concat(as, bs, cs)...))
		for what, m := range map[string]*Hist{
			"(a+b)+c": merged(merged(a, b), c),
			"a+(b+c)": merged(a, merged(b, c)),
			"c+b+a":   merged(c, b, a),
			"a+c+b+0": merged(a, c, b, New()),
		} {
			if d := cmp.Diff(want, imageOf(m)); d != "" {
				t.Errorf("%s is not the records of all three (-want +got):\n%s", what, d)
			}
		}
		if d := cmp.Diff(imageOf(of(as...)), imageOf(a)); d != "" {
			t.Errorf("merging changed its argument (-want +got):\n%s", d)
		}
	})
}

func TestClamping(t *testing.T) {
	h := of(-time.Second, 0, time.Second, Highest, Highest+1, math.MaxInt64, math.MinInt64)
	h.RecordN(-1, 3)
	h.RecordN(time.Second, 0)
	h.RecordN(time.Second, -5)
	if h.Count() != 10 || h.Clamped() != 7 {
		t.Errorf("got %d records, %d clamped, want 10, 7", h.Count(), h.Clamped())
	}
	if h.Min() != 0 || h.Max() != Highest {
		t.Errorf("got %v…%v, want 0…%v", h.Min(), h.Max(), Highest)
	}
	if want := (3*Highest + time.Second) / 10; h.Mean() != want {
		t.Errorf("got mean %v, want %v", h.Mean(), want)
	}
}

func TestEmpty(t *testing.T) {
	for what, h := range map[string]*Hist{"new": New(), "reset": func() *Hist { h := of(1, -1, 2*Highest); h.Reset(); return h }()} {
		got := []any{h.Count(), h.Clamped(), h.Mean(), h.Min(), h.Max(), h.Quantile(0.5), h.Seconds()}
		want := []any{int64(0), int64(0), time.Duration(0), time.Duration(0), time.Duration(0), time.Duration(0), 0.0}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
}

// TestSumIsExact adds up more than 64 bits hold.
func TestSumIsExact(t *testing.T) {
	h := New()
	h.RecordN(Highest, 1<<40)
	h.RecordN(Highest-2, 1<<40)
	if want := Highest - 1; h.Mean() != want {
		t.Errorf("got mean %v, want %v", h.Mean(), want)
	}
	if got, want := h.Seconds(), 3600*0x1p41; math.Abs(got-want) > want*1e-12 {
		t.Errorf("got %v s, want %v", got, want)
	}
}

func TestMemory(t *testing.T) {
	got := allocated(func() {
		h := New()
		for d := time.Duration(1); d < Highest; d *= 2 {
			h.Record(d)
		}
	})
	if got < 250<<10 || got > 266<<10 {
		t.Errorf("got %d bytes for a Hist of all octaves, want about the documented 264 KiB", got)
	}
}

// latencies are log-normal around 2 ms, most within 0.2…20 ms.
func latencies(n int) []time.Duration {
	r := rand.New(rand.NewPCG(1, 2))
	ds := make([]time.Duration, n)
	for i := range ds {
		ds[i] = time.Duration(2e6 * math.Exp(r.NormFloat64()))
	}
	return ds
}

func BenchmarkRecord(b *testing.B) {
	ds, h := latencies(1<<12), New()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.Record(ds[i&(1<<12-1)])
	}
}

func BenchmarkMerge(b *testing.B) {
	h, o := New(), of(latencies(1<<12)...)
	b.ReportAllocs()
	for b.Loop() {
		h.Merge(o)
	}
}

func BenchmarkQuantile(b *testing.B) {
	h := of(latencies(1 << 12)...)
	b.ReportAllocs()
	for b.Loop() {
		h.Quantile(0.99)
	}
}

func BenchmarkEncode(b *testing.B) {
	h := of(latencies(1 << 12)...)
	b.ReportAllocs()
	var encoded []byte
	for b.Loop() {
		encoded, _ = h.Encode()
	}
	b.ReportMetric(float64(len(bytes.TrimSpace(encoded))), "encoded-bytes")
}

func BenchmarkDecode(b *testing.B) {
	encoded, err := of(latencies(1 << 12)...).Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
