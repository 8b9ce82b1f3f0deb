package hist

import (
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Native buckets grow by 2^(1/8), about 1.09: schema 3. One ends at each
// 2^(i/8) s, for i from lowestIndex to highestIndex; what is at most
// zeroThreshold is counted as zero.
const (
	nativeSchema  = 3
	lowestIndex   = -20<<nativeSchema + 1
	highestIndex  = 12 << nativeSchema
	zeroThreshold = 0x1p-20 // 0.95 µs

	// maxNative is how many native buckets a series may fill before it gives up
	// resolution. Two scrapes of different schema still subtract.
	maxNative = 160
)

// nativeBounds are the upper ends of the zero bucket and all native ones, in ns.
func nativeBounds() []int64 {
	ends := []int64{secondsToNanos(zeroThreshold)}
	for i := lowestIndex; i <= highestIndex; i++ {
		ends = append(ends, secondsToNanos(math.Exp2(float64(i)/(1<<nativeSchema))))
	}
	return ends
}

func secondsToNanos(s float64) int64 { return int64(math.Floor(s * 1e9)) }

// Buckets returns the classic buckets' upper ends in seconds: 100 µs × 1.5^k for
// k from 0 to 27, rounded to the µs, so from 0.1 ms to 5.7 s. Anything faster is
// seen by the native buckets alone; anything slower is past any objective. A
// histogram that many goroutines write can be made of these and client_golang.
func Buckets() []float64 {
	var ends []float64
	for k := range 28 {
		ends = append(ends, math.Round(100*math.Pow(1.5, float64(k)))/1e6)
	}
	return ends
}

// A Collector exports durations in seconds as one Prometheus histogram metric,
// native and classic at once, with a closed set of label values, each present
// from the start. Counts and sum of a series are from one moment and never
// fall. The sum is exact; a bucket's count is exact but for durations within
// 0.1 % of its end. A series takes 3 KiB and its Recorders. It is safe for
// concurrent use.
type Collector struct {
	desc    *prometheus.Desc
	classic []float64
	// The ends of both kinds of buckets in ns.
	classicNanos, nativeNanos []int64

	mu     sync.Mutex
	series []*series
}

// series is what one set of label values has accumulated; Collector.mu guards it.
type series struct {
	values    []string
	labels    []*dto.LabelPair
	recorders []*Recorder
	taps      []*Hist

	count           uint64
	sum             nanos
	classic, native []uint64 // one a bucket, not cumulative
}

// Opts names a Collector's metric and its series.
type Opts struct {
	Name, Help  string
	ConstLabels prometheus.Labels
	// Labels are the variable labels' names. Series lists all their values, in
	// the same order; for a metric without labels it may be nil.
	Labels []string
	Series [][]string
}

// NewCollector returns a Collector with all series at 0. It panics when a
// series has not one value for each label.
func NewCollector(o Opts) *Collector {
	c := &Collector{
		desc:        prometheus.NewDesc(o.Name, o.Help, o.Labels, o.ConstLabels),
		classic:     Buckets(),
		nativeNanos: nativeBounds(),
	}
	for _, s := range c.classic {
		c.classicNanos = append(c.classicNanos, int64(math.Round(s*1e9)))
	}
	if len(o.Labels) == 0 && o.Series == nil {
		o.Series = [][]string{nil}
	}
	for _, values := range o.Series {
		if len(values) != len(o.Labels) {
			panic("hist: " + o.Name + ": a series needs a value for each label: " + strings.Join(values, ","))
		}
		c.series = append(c.series, &series{
			values:  values,
			labels:  prometheus.MakeLabelPairs(c.desc, values),
			classic: make([]uint64, len(c.classicNanos)+1),
			native:  make([]uint64, len(c.nativeNanos)+1),
		})
	}
	return c
}

// find panics for label values that NewCollector was not told: the set is closed.
func (c *Collector) find(values []string) *series {
	i := slices.IndexFunc(c.series, func(s *series) bool { return slices.Equal(s.values, values) })
	if i < 0 {
		panic("hist: no such series: " + strings.Join(values, ","))
	}
	return c.series[i]
}

// Recorder returns a new Recorder whose records go into the series of these
// label values. The Collector is its one reader: do not call Swap. A series may
// have several, one a writer; they live as long as the Collector.
func (c *Collector) Recorder(values ...string) *Recorder {
	r := NewRecorder()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.find(values)
	s.recorders = append(s.recorders, r)
	return r
}

// Add adds what h holds to the series of these label values, for a writer that
// reads its own Recorder. It keeps no reference to h.
func (c *Collector) Add(h *Hist, values ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(c.find(values), h)
}

// Tap returns what adds to into what the series of these label values was given
// since the call before, or since Tap: for a reader beside the scrapes. It is not
// to be called by two goroutines at a time; a series may have several.
func (c *Collector) Tap(values ...string) func(into *Hist) {
	held := New()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.find(values)
	c.collect(s) // what came before is not the tap's
	s.taps = append(s.taps, held)
	return func(into *Hist) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.collect(s)
		into.Merge(held)
		held.Reset()
	}
}

// collect takes in what the recorders of s hold; mu is held.
func (c *Collector) collect(s *series) {
	for _, r := range s.recorders {
		c.add(s, r.Swap())
	}
}

func (c *Collector) add(s *series, h *Hist) {
	for _, t := range s.taps {
		t.Merge(h)
	}
	s.count += uint64(h.Count())
	s.sum = s.sum.plus(h.sum)
	spread(h, c.classicNanos, s.classic)
	spread(h, c.nativeNanos, s.native)
}

// spread adds h's counts to the buckets that end at ends (inclusive, ascending)
// and a last one without end, each bucket of h by its middle.
func spread(h *Hist, ends []int64, counts []uint64) {
	at := 0
	h.each(func(i int, n int64) bool {
		for v := middle(i); at < len(ends) && v > ends[at]; {
			at++
		}
		counts[at] += uint64(n)
		return true
	})
}

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	for _, m := range c.gather() {
		ch <- m
	}
}

func (c *Collector) gather() []*metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*metric
	for _, s := range c.series {
		c.collect(s)
		all = append(all, &metric{c.desc, &dto.Metric{Label: s.labels, Histogram: c.histogram(s)}})
	}
	return all
}

func (c *Collector) histogram(s *series) *dto.Histogram {
	h := &dto.Histogram{
		SampleCount:   new(s.count),
		SampleSum:     new(s.sum.seconds()),
		ZeroThreshold: new(zeroThreshold),
		ZeroCount:     new(s.native[0]),
	}
	var sofar uint64
	for i, end := range c.classic {
		sofar += s.classic[i]
		h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: new(end), CumulativeCount: new(sofar)})
	}
	schema, first, counts := fit(s.native[1:])
	h.Schema = new(schema)
	h.PositiveSpan, h.PositiveDelta = spans(first, counts)
	return h
}

// fit halves the resolution of native counts, the first at lowestIndex, until
// at most maxNative are not 0, and returns the schema, first index and counts.
func fit(counts []uint64) (schema int32, first int, fitted []uint64) {
	schema, first = nativeSchema, lowestIndex
	for filled(counts) > maxNative {
		// Bucket i goes into ⌈i/2⌉; lowestIndex is odd at schema 3 and at each
		// coarser one, so pairs begin with the first.
		half := make([]uint64, (len(counts)+1)/2)
		for i, n := range counts {
			half[i/2] += n
		}
		schema, first, counts = schema-1, (first+1)/2, half
	}
	return schema, first, counts
}

func filled(counts []uint64) (n int) {
	for _, c := range counts {
		if c > 0 {
			n++
		}
	}
	return n
}

// spans writes sparse counts as Prometheus does: runs of consecutive buckets,
// each after a gap, and the difference of each count from the one before. A
// gap of one or two is cheaper as empty buckets. Without any count there is
// one empty span, which is what tells a native histogram from a classic one.
func spans(first int, counts []uint64) ([]*dto.BucketSpan, []int64) {
	var (
		runs   []*dto.BucketSpan
		deltas []int64
		last   uint64
		next   int // the index after the last run
	)
	for i, n := range counts {
		if n == 0 {
			continue
		}
		gap := first + i - next
		if len(runs) == 0 || gap > 2 {
			runs = append(runs, &dto.BucketSpan{Offset: new(int32(gap)), Length: new(uint32(0))})
			gap = 0
		}
		for range gap {
			deltas = append(deltas, -int64(last))
			last = 0
		}
		deltas = append(deltas, int64(n)-int64(last))
		*runs[len(runs)-1].Length += uint32(gap) + 1
		last, next = n, first+i+1
	}
	if runs == nil {
		runs = []*dto.BucketSpan{{Offset: new(int32(0)), Length: new(uint32(0))}}
	}
	return runs, deltas
}

type metric struct {
	desc *prometheus.Desc
	dto  *dto.Metric
}

func (m *metric) Desc() *prometheus.Desc { return m.desc }

func (m *metric) Write(out *dto.Metric) error {
	out.Label, out.Histogram = m.dto.Label, m.dto.Histogram
	return nil
}
