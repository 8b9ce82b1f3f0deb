package hist

import (
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

func newTest(t testing.TB) (*Collector, *httptest.Server) {
	c := NewCollector(Opts{
		Name: "test_request_seconds", Help: "Test.",
		ConstLabels: prometheus.Labels{"front": "inbox"},
		Labels:      []string{"role", "route"},
		Series:      [][]string{{"live", "/a"}, {"shadow", "/a"}},
	})
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	s := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	t.Cleanup(s.Close)
	return c, s
}

// scrape asks for a format and returns the histograms by role.
func scrape(t testing.TB, s *httptest.Server, accept string) map[string]*dto.Histogram {
	t.Helper()
	req, err := http.NewRequest("GET", s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		body, _ := io.ReadAll(res.Body)
		t.Fatalf("got %s: %s", res.Status, body)
	}
	var families []*dto.MetricFamily
	for d := expfmt.NewDecoder(res.Body, expfmt.ResponseFormat(res.Header)); ; {
		f := new(dto.MetricFamily)
		if err := d.Decode(f); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		families = append(families, f)
	}
	if len(families) != 1 || families[0].GetName() != "test_request_seconds" || families[0].GetType() != dto.MetricType_HISTOGRAM {
		t.Fatalf("got %v, want one histogram test_request_seconds", families)
	}
	got := map[string]*dto.Histogram{}
	for _, m := range families[0].Metric {
		labels := map[string]string{}
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		role := labels["role"]
		if want := (map[string]string{"front": "inbox", "role": role, "route": "/a"}); !cmp.Equal(labels, want) {
			t.Errorf("got labels %v, want %v", labels, want)
		}
		got[role] = m.Histogram
	}
	return got
}

// checkClassic compares the classic buckets with those of a list of durations.
// The list avoids the 0.1 % around each end.
func checkClassic(t *testing.T, h *dto.Histogram, ds []time.Duration) {
	t.Helper()
	var sum time.Duration
	for _, d := range ds {
		sum += d
	}
	if h.GetSampleCount() != uint64(len(ds)) {
		t.Errorf("got count %d, want %d", h.GetSampleCount(), len(ds))
	}
	if h.GetSampleSum() != sum.Seconds() {
		t.Errorf("got sum %v, want exactly %v", h.GetSampleSum(), sum.Seconds())
	}
	ends := Buckets()
	for _, b := range h.Bucket {
		if math.IsInf(b.GetUpperBound(), 1) {
			if b.GetCumulativeCount() != uint64(len(ds)) {
				t.Errorf("got %d in +Inf, want %d", b.GetCumulativeCount(), len(ds))
			}
			continue
		}
		if len(ends) == 0 || ends[0] != b.GetUpperBound() {
			t.Fatalf("got bucket %v, want the next of %v", b.GetUpperBound(), ends)
		}
		ends = ends[1:]
		want := uint64(0)
		for _, d := range ds {
			if d.Seconds() <= b.GetUpperBound() {
				want++
			}
		}
		if b.GetCumulativeCount() != want {
			t.Errorf("got %d ≤ %v s, want %d", b.GetCumulativeCount(), b.GetUpperBound(), want)
		}
	}
	if len(ends) > 0 {
		t.Errorf("buckets missing: %v", ends)
	}
}

// expand returns a native histogram's counts by index.
func expand(h *dto.Histogram) map[int]int64 {
	counts := map[int]int64{}
	at, n, deltas := 0, int64(0), h.PositiveDelta
	for _, s := range h.PositiveSpan {
		at += int(s.GetOffset())
		for range s.GetLength() {
			n += deltas[0]
			deltas = deltas[1:]
			if n != 0 {
				counts[at] = n
			}
			at++
		}
	}
	return counts
}

// index is the native bucket of s seconds: 2^((i-1)/2^schema) < s ≤ 2^(i/2^schema).
func index(s float64, schema int32) int {
	return int(math.Ceil(math.Log2(s) * math.Exp2(float64(schema))))
}

func checkNative(t *testing.T, h *dto.Histogram, schema int32, ds []time.Duration) {
	t.Helper()
	if h.GetSchema() != schema {
		t.Errorf("got schema %d, want %d", h.GetSchema(), schema)
	}
	want, zero := map[int]int64{}, uint64(0)
	for _, d := range ds {
		if d.Seconds() <= h.GetZeroThreshold() {
			zero++
		} else {
			want[index(d.Seconds(), schema)]++
		}
	}
	if h.GetZeroCount() != zero {
		t.Errorf("got %d in the zero bucket, want %d", h.GetZeroCount(), zero)
	}
	if d := cmp.Diff(want, expand(h)); d != "" {
		t.Errorf("native buckets (-want +got):\n%s", d)
	}
}

// clear of any bucket's end by 0.2 %, so that rounding to a Hist's bucket does
// not matter.
func clearOfEnds(ds []time.Duration) []time.Duration {
	ends := Buckets()
	for i := lowestIndex - 1; i <= highestIndex; i++ {
		ends = append(ends, math.Exp2(float64(i)/(1<<nativeSchema)))
	}
	return slices.DeleteFunc(ds, func(d time.Duration) bool {
		return slices.ContainsFunc(ends, func(end float64) bool { return math.Abs(d.Seconds()/end-1) < 0.002 })
	})
}

func TestScrape(t *testing.T) {
	c, server := newTest(t)
	for role, h := range scrape(t, server, protobuf) {
		checkClassic(t, h, nil)
		checkNative(t, h, nativeSchema, nil)
		if len(h.PositiveSpan) != 1 {
			t.Errorf("%s: got spans %v, want an empty one, the mark of a native histogram", role, h.PositiveSpan)
		}
	}

	live := clearOfEnds(append(latencies(5000), 0, 1, 900, 10*time.Microsecond, 6*time.Second, time.Hour))
	first, second := c.Recorder("live", "/a"), c.Recorder("live", "/a")
	for i, d := range live {
		if i%3 == 0 {
			first.Record(d)
		} else {
			second.Record(d)
		}
	}
	shadow := clearOfEnds([]time.Duration{30 * time.Millisecond, 41 * time.Millisecond})
	c.Add(of(shadow...), "shadow", "/a")

	for _, accept := range []string{protobuf, "text/plain"} {
		got := scrape(t, server, accept)
		if len(got) != 2 {
			t.Fatalf("got %d series, want 2", len(got))
		}
		checkClassic(t, got["live"], live)
		checkClassic(t, got["shadow"], shadow)
		if accept == protobuf {
			checkNative(t, got["live"], nativeSchema, live)
			checkNative(t, got["shadow"], nativeSchema, shadow)
		}
	}

	more := clearOfEnds([]time.Duration{3 * time.Millisecond, 3 * time.Minute})
	for _, d := range more {
		first.Record(d)
	}
	got := scrape(t, server, protobuf)
	live = append(live, more...)
	checkClassic(t, got["live"], live)
	checkNative(t, got["live"], nativeSchema, live)
}

// TestWideSeriesLosesResolution fills more native buckets than a series may.
func TestWideSeriesLosesResolution(t *testing.T) {
	c, server := newTest(t)
	var ds []time.Duration
	for d := 1e3; d < 3.6e12; d *= 1.06 {
		ds = append(ds, time.Duration(d))
	}
	ds = clearOfEnds(ds)
	c.Add(of(ds...), "live", "/a")
	h := scrape(t, server, protobuf)["live"]
	checkNative(t, h, nativeSchema-1, ds)
	if n := len(expand(h)); n > maxNative {
		t.Errorf("got %d native buckets, want at most %d", n, maxNative)
	}
}

// TestCountsNeverFall scrapes while two recorders write: in each scrape all
// parts agree, and none is less than before.
func TestCountsNeverFall(t *testing.T) {
	c, server := newTest(t)
	n := 200_000
	if testing.Short() {
		n = 50_000
	}
	var writers sync.WaitGroup
	for range 2 {
		r := c.Recorder("live", "/a")
		writers.Go(func() {
			for _, d := range latencies(n) {
				r.Record(d)
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	last := scrape(t, server, protobuf)["live"]
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		h := scrape(t, server, protobuf)["live"]
		if h.GetSampleCount() < last.GetSampleCount() || h.GetSampleSum() < last.GetSampleSum() {
			t.Fatalf("fell from %d, %v s to %d, %v s", last.GetSampleCount(), last.GetSampleSum(), h.GetSampleCount(), h.GetSampleSum())
		}
		for i, b := range h.Bucket {
			if i < len(last.Bucket) && b.GetCumulativeCount() < last.Bucket[i].GetCumulativeCount() {
				t.Fatalf("bucket %v fell", b.GetUpperBound())
			}
		}
		native := int64(h.GetZeroCount())
		for _, n := range expand(h) {
			native += n
		}
		if uint64(native) != h.GetSampleCount() {
			t.Fatalf("got %d in native buckets of %d in all", native, h.GetSampleCount())
		}
		last = h
	}
	if last.GetSampleCount() != uint64(2*n) {
		t.Errorf("got %d at the end, want %d", last.GetSampleCount(), 2*n)
	}
}

// TestLikeClientGolang gives the same durations to a client_golang histogram of
// the same buckets, and wants the same dto.
func TestLikeClientGolang(t *testing.T) {
	ds := clearOfEnds(append(latencies(2000), 0, 500*time.Millisecond, time.Minute))
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "test_seconds", Help: "Test.", Buckets: Buckets(),
		NativeHistogramBucketFactor: 1.1, NativeHistogramZeroThreshold: zeroThreshold,
	})
	c := NewCollector(Opts{Name: "test_seconds", Help: "Test."})
	r := c.Recorder()
	for _, d := range ds {
		theirs.Observe(d.Seconds())
		r.Record(d)
	}
	collect := func(c prometheus.Collector) *dto.Histogram {
		ch := make(chan prometheus.Metric, 1)
		c.Collect(ch)
		var m dto.Metric
		if err := (<-ch).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.Histogram
	}
	got, want := collect(c), collect(theirs)
	if math.Abs(got.GetSampleSum()/want.GetSampleSum()-1) > 1e-9 {
		t.Errorf("got sum %v, want %v", got.GetSampleSum(), want.GetSampleSum())
	}
	want.SampleSum, want.CreatedTimestamp = got.SampleSum, nil
	if got.String() != want.String() {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestLint(t *testing.T) {
	c, _ := newTest(t)
	problems, err := testutil.CollectAndLint(c)
	if err != nil || len(problems) > 0 {
		t.Errorf("got %v, %v, want no problem", problems, err)
	}
	if !model.LegacyValidation.IsValidMetricName("test_request_seconds") {
		t.Error("name is not valid")
	}
}

func TestClosedSet(t *testing.T) {
	c, _ := newTest(t)
	for what, f := range map[string]func(){
		"unknown values": func() { c.Recorder("live", "/b") },
		"too few values": func() { c.Add(New(), "live") },
		"wrong series":   func() { NewCollector(Opts{Name: "x", Labels: []string{"a"}, Series: [][]string{{}}}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: got no panic", what)
				}
			}()
			f()
		}()
	}
	// The lock is free again.
	c.Recorder("live", "/a")
}

func BenchmarkCollect(b *testing.B) {
	c := NewCollector(Opts{Name: "test_seconds", Help: "Test."})
	h := of(latencies(1 << 12)...)
	c.Add(h)
	b.ReportAllocs()
	for b.Loop() {
		c.Add(h)
		c.gather()
	}
}

// TestTap reads a series beside its scrapes: neither takes from the other.
func TestTap(t *testing.T) {
	c, server := newTest(t)
	r := c.Recorder("live", "/a")
	r.Record(time.Millisecond) // before the taps
	first, second := c.Tap("live", "/a"), c.Tap("live", "/a")
	count := func(tap func(*Hist)) int64 {
		h := New()
		tap(h)
		return h.Count()
	}
	r.Record(2 * time.Millisecond)
	if got := count(first); got != 1 {
		t.Errorf("got %d, want what came since the tap was made", got)
	}
	r.Record(3 * time.Millisecond)
	if got := scrape(t, server, protobuf)["live"].GetSampleCount(); got != 3 {
		t.Errorf("got %d scraped, want 3", got)
	}
	if a, b := count(first), count(second); a != 1 || b != 2 {
		t.Errorf("got %d and %d after a scrape, want 1 and 2", a, b)
	}
	if got := count(first); got != 0 {
		t.Errorf("got %d again, want none", got)
	}
}
