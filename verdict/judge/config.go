package judge

import (
	"math"
	"path"
	"slices"
	"time"
)

// Config says what matters and how sure one wants to be. The zero value is the
// default.
type Config struct {
	// Confidence is that of two-sided intervals: a regression exactly at the margin
	// fails in at most half of the rest. Zero means 0.95.
	Confidence float64
	// MinDuration is the least evidence that a continuous judgement passes on. Zero
	// means 10m. MaxDuration ends it. Zero means 1h.
	MinDuration, MaxDuration time.Duration
	// WarmUp and WarmUpShare, the larger of the two, are left out at the beginning.
	// Zero means 30s and 0.25; a negative one means none. Rounds leave out the first.
	WarmUp      time.Duration
	WarmUpShare float64
	// MinBlocks is the least number of blocks, and MinRounds of rounds. Zero means 8
	// and 5; fewer than 3 are taken as 3.
	MinBlocks, MinRounds int
	// MaxDropped is the largest share of offered copies that load may drop, and
	// MaxStreamLost that of the pair stream that may be lost. Zero means 0.01.
	MaxDropped, MaxStreamLost float64
	// MaxLate is how late, at the 99th percentile, the rig may send calls or hold live's
	// bytes. Zero means 1 ms, or 5 % of the median of the side that is compared with
	// where that is more.
	MaxLate time.Duration
	// MaxBusy is the largest share of its CPU time that the rig may use. Zero means 0.85.
	MaxBusy float64
	// Metrics are what is compared; the first rule that fits a row counts. Nil means
	// DefaultRules.
	Metrics []Rule
	// Limits are absolute.
	Limits []Limit
	// HarmLimits are absolute limits that live must keep while copies are made.
	HarmLimits []Limit
}

// Rule says how a metric is judged.
type Rule struct {
	// Name is one of the constants Metric…; Stat is for latency.
	Name, Stat string
	// Route is a pattern as of path.Match, in which * does not match "/"; "" and "*"
	// match every route.
	Route string
	// Margin is how much worse is allowed: of ratios 0.1 is 10 %, of errors and
	// differences 0.001 is 0.1 points.
	Margin float64
	// Floor, in the metric's unit, is the least difference that can fail.
	Floor float64
	// Use is UseGate or UseWatch. Empty means UseGate.
	Use Use
	// NoData is what a gate without data comes to. Empty means Inconclusive; Pass
	// leaves the row out of the verdict.
	NoData Verdict
}

// Limit is an absolute limit: of a latency, in seconds, or of another metric of a
// role, in its unit.
type Limit struct {
	Role       Role
	Name, Stat string
	Route      string // as in Rule
	Limit      float64
}

// DefaultRules are what is compared where nothing else is said.
func DefaultRules() []Rule {
	const usual = 500e-6
	return []Rule{
		{Name: MetricLatency, Stat: "p50", Margin: 0.05, Floor: usual},
		{Name: MetricLatency, Stat: "p95", Margin: 0.10, Floor: usual, Use: UseWatch},
		{Name: MetricLatency, Stat: "p99", Margin: 0.10, Floor: usual},
		{Name: MetricLatency, Stat: "p999", Margin: 0.10, Floor: usual, Use: UseWatch},
		{Name: MetricLatency, Stat: "mean", Margin: 0.05, Floor: usual, Use: UseWatch},
		{Name: MetricErrors, Margin: 0.001},
		{Name: MetricDifferences, Margin: 0.001},
		{Name: MetricThroughput, Margin: 0.05, Use: UseWatch},
		{Name: MetricCPU, Margin: 0.10, Use: UseWatch},
		{Name: MetricAllocations, Margin: 0.05, Use: UseWatch},
		{Name: MetricMemory, Margin: 0.10, Use: UseWatch},
	}
}

func matches(pattern, route string) bool {
	if pattern == "" || pattern == "*" {
		return true
	}
	ok, err := path.Match(pattern, route)
	return err == nil && ok
}

// sane is v where it can be a margin or a limit, and else the strictest one.
func sane(v float64) float64 {
	if !(v >= 0) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

// filled returns c with defaults for what is zero.
func (c Config) filled() Config {
	set := func(v *float64, d float64) {
		if !(*v > 0) {
			*v = d
		}
	}
	if set(&c.Confidence, 0.95); c.Confidence >= 1 {
		c.Confidence = 0.95
	}
	set(&c.MaxDropped, 0.01)
	set(&c.MaxStreamLost, 0.01)
	set(&c.MaxBusy, 0.85)
	if c.MinDuration == 0 {
		c.MinDuration = 10 * time.Minute
	}
	if c.MaxDuration == 0 {
		c.MaxDuration = time.Hour
	}
	if c.WarmUp == 0 {
		c.WarmUp = 30 * time.Second
	}
	if c.WarmUpShare == 0 {
		c.WarmUpShare = 0.25
	}
	if c.MinBlocks == 0 {
		c.MinBlocks = 8
	}
	if c.MinRounds == 0 {
		c.MinRounds = 5
	}
	if c.Metrics == nil {
		c.Metrics = DefaultRules()
	}
	c.Metrics = slices.Clone(c.Metrics)
	for i := range c.Metrics {
		r := &c.Metrics[i]
		r.Margin, r.Floor = sane(r.Margin), sane(r.Floor)
	}
	c.Limits = slices.Clone(c.Limits)
	for i := range c.Limits {
		c.Limits[i].Limit = sane(c.Limits[i].Limit)
	}
	if c.HarmLimits == nil {
		c.HarmLimits = []Limit{{Role: Live, Name: MetricOverhead, Stat: "p99", Limit: 5e-3}}
	}
	return c
}
