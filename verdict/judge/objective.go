package judge

import (
	"fmt"
	"math"

	"darklaunch/verdict/stat"
)

// MetricOverhead is what a mirror adds to live's path; it has only absolute limits.
const MetricOverhead = "relay_overhead"

// String is the limit as it is written: "shadow.latency.p99 < 250ms".
func (l Limit) String() string {
	s := string(l.Role) + "." + l.Name
	if l.Stat != "" {
		s += "." + l.Stat
	}
	if l.Route != "" && l.Route != All {
		s += " of " + l.Route
	}
	var e evidence
	return s + " < " + e.amount(l.Limit, l.unit())
}

func (l Limit) unit() string {
	switch l.Name {
	case MetricLatency, MetricOverhead, MetricCPU:
		return "s"
	case MetricErrors:
		return "share"
	case MetricMemory:
		return "B"
	}
	return "count"
}

// limits judges absolute limits, one row for each route that one fits.
func (e *evidence) limits(limits []Limit) []Objective {
	all := []Objective{}
	for _, l := range limits {
		if l.Name != MetricLatency && l.Name != MetricErrors {
			all = append(all, e.limit(l, All))
			continue
		}
		fits := 0
		for _, route := range e.routes() {
			if matches(l.Route, route) {
				all = append(all, e.limit(l, route))
				fits++
			}
		}
		if fits == 0 {
			all = append(all, e.limit(l, l.Route))
		}
	}
	return all
}

func (e *evidence) limit(l Limit, route string) Objective {
	o := Objective{Text: l.String(), Role: l.Role, Name: l.Name, Stat: l.Stat, Route: route, Limit: l.Limit, Unit: l.unit(), Verdict: Inconclusive}
	if l.Name == MetricErrors {
		e.limitErrors(&o)
		return o
	}
	var logs []float64
	for _, b := range e.blocks {
		switch v := e.level(b, l, route); {
		case v < 0:
			o.Note = "a longer time-out: in some blocks so many calls timed out that it is not known"
		case v > 0 && !math.IsInf(v, 0):
			logs = append(logs, math.Log(v))
		}
	}
	o.Blocks = len(logs)
	if len(logs) < e.minBlocks() && e.wholeRun(&o) {
		return o
	}
	if len(logs) == 0 {
		o.Note = "nothing was measured"
		return o
	}
	o.Value = new(math.Exp(stat.Mean(logs)))
	if len(logs) < e.minBlocks() {
		o.Note = fmt.Sprintf("%s more", e.blockCount(e.minBlocks()-len(logs)))
		return o
	}
	ci := e.interval(logs, e.inflation(len(logs)))
	o.CI = &Interval{math.Exp(ci.Lower), math.Exp(ci.Upper)}
	o.judge(o.Note != "")
	return o
}

// fewest is how many calls of a run tell a quantile of it.
const fewest = 40

// wholeRun judges a quantile by all calls together, where each block has too few of
// them; it reports whether there are enough. The interval is between the calls at
// whose ranks the score interval of the quantile's share ends, as if the calls were
// fewer by what blocks depend on each other.
func (e *evidence) wholeRun(o *Objective) bool {
	t, s := e.totals[o.Route], statistic(o.Stat)
	if o.Name != MetricLatency || t == nil || s < 0 || math.IsNaN(statistics[s].q) || t.count(o.Role) < max(fewest, needed(s)) || len(e.blocks) < e.minBlocks() {
		return false
	}
	d, q, blocks := t.Latency[o.Role], statistics[s].q, len(e.blocks)
	alpha := e.alpha
	if e.mode == Continuous {
		alpha = math.Erfc(stat.SequenceRadius(1, blocks, alpha) * math.Sqrt(float64(blocks)/2))
	}
	n := float64(t.count(o.Role)) / e.inflation(blocks)
	low, high := stat.Wilson(q*n, n, alpha)
	o.Value, o.CI, o.Blocks = finite(d.at(q)), &Interval{d.at(low), d.at(high)}, blocks
	o.Note = fmt.Sprintf("of the %d calls of the run together, as blocks have too few", t.count(o.Role))
	o.judge(false)
	return true
}

// at is the quantile in seconds, infinite where it timed out.
func (d *dist) at(q float64) float64 {
	n := float64(d.Hist.Count())
	all := n + float64(d.Timeouts)
	if q*all > n {
		return math.Inf(1)
	}
	return d.Hist.Quantile(q * all / n).Seconds()
}

// judge compares the interval with the limit; a value that is only a lower bound
// never passes.
func (o *Objective) judge(bound bool) {
	switch {
	case o.CI.Lower > o.Limit:
		o.Verdict = Fail
	case o.CI.Upper < o.Limit && !bound:
		o.Verdict = Pass
	case o.Note == "":
		o.Note = "more blocks"
	}
}

// level is the value of a block, 0 if there is none, negative if it is only known to
// be large.
func (e *evidence) level(b block, l Limit, route string) float64 {
	var q quantiles
	switch l.Name {
	case MetricLatency:
		q = b.Routes[route].Latency[l.Role]
	case MetricOverhead:
		q = b.Overhead
	case MetricCPU:
		return b.Usage[l.Role].CPU.Seconds() / b.Usage[l.Role].Requests
	case MetricAllocations:
		return b.Usage[l.Role].Allocations / b.Usage[l.Role].Requests
	case MetricMemory:
		return b.Usage[l.Role].Memory
	}
	s := statistic(l.Stat)
	if s < 0 || q.Count < needed(s) {
		return 0
	}
	return q.Seconds[s]
}

func (e *evidence) limitErrors(o *Objective) {
	var failed, n uint64
	for _, b := range e.blocks {
		k, of := b.Routes[o.Route].failures(o.Role)
		failed, n = failed+k, n+of
		if of > 0 {
			o.Blocks++
		}
	}
	if n == 0 {
		o.Note = "nothing was counted"
		return
	}
	o.Value = new(float64(failed) / float64(n))
	if o.Blocks < e.minBlocks() {
		o.Note = fmt.Sprintf("%s more", e.blockCount(e.minBlocks()-o.Blocks))
		return
	}
	low, high := stat.Wilson(float64(failed), float64(n), e.alpha)
	o.CI = &Interval{low, high}
	o.judge(false)
}

// failures are the calls of role that failed, and all of them.
func (f figures) failures(role Role) (failed, n uint64) {
	if c, ok := f.Calls[role]; ok {
		return c.Failed, c.Total
	}
	o := f.Shadow
	switch role {
	case Live:
		return o.LiveOnlyFailed + o.BothFailed, o.total()
	case Control:
		o = f.Control
		fallthrough
	case Shadow:
		return o.RoleOnlyFailed + o.BothFailed, o.total()
	}
	return 0, 0
}
