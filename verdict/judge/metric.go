package judge

import (
	"fmt"
	"math"
	"strings"
	"time"

	"darklaunch/verdict/stat"
)

// row is a Metric in the making, with what stands between it and a pass.
type row struct {
	Metric
	reason Reason
	// overall leaves the row out of the verdict, as its rule asks of missing data.
	ignored bool
}

// hdrError is how far a quantile of a histogram may be off, as a share.
const hdrError = 0.001

// latency compares one statistic on one route.
func (e *evidence) latency(route string, rule Rule) *row {
	s := statistic(rule.Stat)
	of, against := e.latencyRoles()
	r := e.newRow(rule, route, "s", of, against)
	if s < 0 {
		r.cannot(ReasonInvalid, "there is no such statistic", "use mean, p50, p90, p95, p99 or p999")
		return r
	}
	if e.aaNeeded() && r.Use == UseGate {
		if r.Offset = e.stored(route, rule.Stat); r.Offset == nil {
			r.Use = UseWatch
			r.Note = "not judged: live is not reached as shadow is. A control, or a stored run in which both sides run the same build, would tell"
		}
	}
	var d []float64
	var late, few int
	for _, b := range e.blocks {
		f := b.Routes[route]
		x, y := f.Latency[of], f.Latency[against]
		point := Point{Start: b.Start}
		for role, q := range f.Latency {
			if p := point.place(role); p != nil && q.Seconds[s] > 0 {
				*p = new(q.Seconds[s])
			}
		}
		switch {
		case x.Seconds[s] == censored || y.Seconds[s] == censored:
			late++
		case x.Count < needed(s) || y.Count < needed(s) || x.Seconds[s] == 0 || y.Seconds[s] == 0:
			if x.Count+y.Count > 0 {
				few++
			}
		default:
			v := math.Log(x.Seconds[s] / y.Seconds[s])
			d = append(d, v)
			point.Effect = new(math.Expm1(v))
		}
		r.Series = append(r.Series, point)
	}
	if t := e.totals[route]; t != nil {
		for role, l := range t.Latency {
			if v := l.quantiles().Seconds[s]; v > 0 {
				if p := r.place(role); p != nil {
					*p = &v
				}
			}
		}
		r.Pairs = min(t.count(of), t.count(against))
		r.Load = e.load(route, of)
	}
	if e.hasControl() {
		r.Offset = e.offset(route, s)
	}
	switch {
	case late > 0:
		r.Blocks = len(d)
		r.cannot(ReasonCensored, fmt.Sprintf("in %d of %d blocks so many calls timed out that %s is not known", late, len(e.blocks), r.Title()), "a longer time-out, or a lighter load")
	case len(d) < e.minBlocks() && few > 0 && r.Pairs > 0:
		r.Blocks = len(d)
		r.cannot(ReasonFewPairs, fmt.Sprintf("%d blocks have the %d calls that %s needs, %d have fewer", len(d), needed(s), r.Title(), few), "more load on the route, a larger sample, or longer blocks")
	default:
		e.ratio(r, d, 1, hdrError)
	}
	return r
}

// offset is how control compares with live.
func (e *evidence) offset(route string, s int) *Offset {
	var d []float64
	for _, b := range e.blocks {
		x, y := b.Routes[route].Latency[Control], b.Routes[route].Latency[Live]
		if x.Count >= needed(s) && y.Count >= needed(s) && x.Seconds[s] > 0 && y.Seconds[s] > 0 {
			d = append(d, math.Log(x.Seconds[s]/y.Seconds[s]))
		}
	}
	if len(d) < 3 {
		return nil
	}
	ci := e.interval(d, e.inflation(len(d)))
	return &Offset{Of: Control, Against: Live, Effect: math.Expm1(stat.Mean(d)), CI: &Interval{math.Expm1(ci.Lower), math.Expm1(ci.Upper)}}
}

// stored is the offset that a run before this one has found; nil if there is none.
func (e *evidence) stored(route, stat string) *Offset {
	for _, m := range e.comparison.AA {
		if m.Name == MetricLatency && m.Stat == stat && (m.Route == route || m.Route == All) &&
			m.Effect != nil && m.CI != nil && finite(m.CI.Lower) != nil && finite(m.CI.Upper) != nil && *m.Effect > -1 && m.CI.Lower > -1 {
			return &Offset{Of: m.Of, Against: m.Against, Effect: *m.Effect, CI: m.CI, Stored: true}
		}
	}
	return nil
}

// usage compares what a request costs, or what is held.
func (e *evidence) usage(rule Rule) *row {
	of, against := e.costRoles()
	unit, get := "s", func(u Usage) float64 { return u.CPU.Seconds() / u.Requests }
	switch rule.Name {
	case MetricAllocations:
		unit, get = "count", func(u Usage) float64 { return u.Allocations / u.Requests }
	case MetricMemory:
		unit, get = "B", func(u Usage) float64 { return u.Memory }
	}
	r := e.newRow(rule, All, unit, of, against)
	var d []float64
	bad := false
	for _, b := range e.blocks {
		x, y := get(b.Usage[of]), get(b.Usage[against])
		r.Series = append(r.Series, r.point(b.Start, x, y))
		if x > 0 && y > 0 && !math.IsInf(x, 0) && !math.IsInf(y, 0) {
			d = append(d, math.Log(x/y))
			continue
		}
		for _, role := range []Role{of, against} {
			u, known := b.Usage[role]
			bad = bad || known && !(u.CPU >= 0 && u.Allocations >= 0 && u.Requests >= 0 && u.Memory >= 0)
		}
	}
	r.values(get(e.use[of]), get(e.use[against]))
	r.Pairs = uint64(max(0, min(e.use[of].Requests, e.use[against].Requests)))
	if bad {
		r.cannot(ReasonInvalid, "a process reported what cannot be", "")
		return r
	}
	e.ratio(r, d, 1, 0)
	return r
}

// throughput compares calls a second.
func (e *evidence) throughput(route string, rule Rule) *row {
	of, against := e.costRoles()
	r := e.newRow(rule, route, "1/s", of, against)
	var d []float64
	seconds := 0.0
	for _, b := range e.blocks {
		calls := b.Routes[route].Calls
		s := b.Length.Seconds()
		x, y := float64(calls[of].Total)/s, float64(calls[against].Total)/s
		r.Series = append(r.Series, r.point(b.Start, x, y))
		if s > 0 && x > 0 && y > 0 {
			d = append(d, math.Log(x/y))
			seconds += s
		}
	}
	if t := e.totals[route]; t != nil && seconds > 0 {
		r.values(float64(t.Calls[of].Total)/seconds, float64(t.Calls[against].Total)/seconds)
		r.Pairs = min(t.Calls[of].Total, t.Calls[against].Total)
	}
	e.ratio(r, d, -1, 0)
	return r
}

func (r *row) point(start time.Time, of, against float64) Point {
	p := Point{Start: start}
	*p.place(r.Of), *p.place(r.Against) = finite(of), finite(against)
	if of > 0 && against > 0 {
		p.Effect = finite(of/against - 1)
	}
	return p
}

func (r *row) values(of, against float64) {
	*r.place(r.Of), *r.place(r.Against) = finite(of), finite(against)
}

func (e *evidence) newRow(rule Rule, route, unit string, of, against Role) *row {
	r := &row{Metric: Metric{
		Name: rule.Name, Stat: rule.Stat, Route: route, Use: rule.Use, Verdict: Inconclusive, Unit: unit,
		Of: of, Against: against, Confidence: 1 - e.alpha, Margin: rule.Margin, Floor: rule.Floor, Allowed: rule.Margin,
	}}
	if r.Use == "" {
		r.Use = UseGate
	}
	r.ignored = rule.NoData == Pass
	if rule.NoData == Fail {
		r.Verdict = Fail
	}
	return r
}

// cannot says why the row can't be judged.
func (r *row) cannot(code, text, cure string) {
	r.reason = Reason{Code: code, Text: text, Cure: cure}
	if r.Note == "" {
		r.Note = text
	}
}

// ratio judges the logs d of the blocks' ratios, of which those in the direction of
// worse (1 or −1) are a regression; spread is added to both sides of the interval.
func (e *evidence) ratio(r *row, d []float64, worse, spread float64) {
	r.Blocks = len(d)
	for _, v := range d {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			r.cannot(ReasonInvalid, "a value is no number", "")
			return
		}
	}
	if len(d) == 0 {
		r.cannot(ReasonNoData, fmt.Sprintf("nothing was measured of %s", e.missing(r)), "check that both sides are reached, and that their figures are collected")
		return
	}
	mean := stat.Mean(d)
	r.Effect = new(math.Expm1(mean))
	if base := r.place(r.Against); *base != nil {
		r.Difference = finite(**base * *r.Effect)
		if floor := r.Floor / **base; floor > r.Allowed {
			r.Allowed = floor
		}
	}
	if len(d) < e.minBlocks() {
		e.tooFew(r, len(d))
		return
	}
	f := e.inflation(len(d))
	ci := e.interval(d, f)
	low, high := ci.Lower-spread, ci.Upper+spread
	shift := 0.0
	if o := r.Offset; o != nil && o.Stored {
		// What the rig adds is known only to within an interval.
		low, high = low-math.Log1p(o.CI.Upper), high-math.Log1p(o.CI.Lower)
		shift = math.Log1p(o.CI.Upper)
		mean -= math.Log1p(o.Effect)
		r.Effect = new(math.Expm1(mean))
		if math.Log1p(o.CI.Upper)-math.Log1p(o.CI.Lower) > 2*math.Log1p(r.Allowed) {
			r.cannot(ReasonRigNoise, "the stored run of one build on both sides is itself less certain than the margin", "a longer such run")
			return
		}
	}
	r.CI = &Interval{math.Expm1(low), math.Expm1(high)}
	limit := math.Log1p(r.Allowed)
	tested, at := d, limit+shift+spread
	if worse < 0 {
		limit = -math.Log1p(-min(r.Allowed, 0.999))
		tested, at = negative(d), limit+spread
		low, high, mean = -high, -low, -mean
	}
	e.decide(r, e.test(tested, f, at), low, high, mean, limit)
}

func negative(d []float64) []float64 {
	n := make([]float64, len(d))
	for i, v := range d {
		n[i] = -v
	}
	return n
}

// decide compares the interval low…high of an effect, positive where worse, with
// its limit.
func (e *evidence) decide(r *row, p, low, high, mean, limit float64) {
	r.P = new(min(1, max(0, p)))
	switch {
	case low > limit || limit == 0 && p < e.alpha/2:
		r.Verdict = Fail
	case high < limit:
		r.Verdict = Pass
		r.Improved = high < -limit && limit > 0
	default:
		r.Verdict = Inconclusive
		e.undecided(r, low, high, mean, limit)
	}
}

// undecided says how many blocks would decide.
func (e *evidence) undecided(r *row, low, high, mean, limit float64) {
	r.reason = Reason{Code: ReasonSpans, Text: "the interval has the margin in it"}
	times := math.Pow((high-low)/(2*math.Abs(limit-mean)), 2)
	if !(times < 50) || r.Blocks == 0 {
		r.reason.Cure = "the effect is too near the margin for any run to tell: decide whether it is acceptable, and set the margin so"
		return
	}
	r.BlocksNeeded = max(r.Blocks+1, int(math.Ceil(float64(r.Blocks)*times)))
	e.cure(r)
}

func (e *evidence) tooFew(r *row, have int) {
	r.BlocksNeeded = e.minBlocks()
	r.cannot(ReasonFewBlocks, fmt.Sprintf("%s of %s, and %d are needed", e.blockCount(have), r.Title(), r.BlocksNeeded), "")
	e.cure(r)
}

// cure tells of the blocks that are missing.
func (e *evidence) cure(r *row) {
	more := r.BlocksNeeded - r.Blocks
	r.NeededFor = e.blockLength().Seconds() * float64(more)
	r.reason.Cure = "more: " + e.blockCount(more)
	if r.NeededFor > 0 {
		r.reason.Cure = fmt.Sprintf("%s more, about %s", e.blockCount(more), about(r.NeededFor))
	} else {
		r.reason.Cure = e.blockCount(more) + " more"
	}
}

func (e *evidence) blockCount(n int) string {
	word := "block"
	if e.mode == Rounds {
		word = "round"
	}
	if n != 1 {
		word += "s"
	}
	return fmt.Sprintf("%d %s", n, word)
}

func about(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= 10*time.Minute:
		d = d.Round(time.Minute)
	case d >= 2*time.Minute:
		d = d.Round(10 * time.Second)
	default:
		d = d.Round(time.Second)
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// missing names the side that a row has nothing of.
func (e *evidence) missing(r *row) string {
	of, against := *r.place(r.Of), *r.place(r.Against)
	switch {
	case of == nil && against != nil:
		return fmt.Sprintf("%s of %s", r.Title(), r.Of)
	case of != nil && against == nil:
		return fmt.Sprintf("%s of %s", r.Title(), r.Against)
	}
	return r.Title() + " on both sides at the same time"
}

// interval is the confidence interval of the mean of d: for a fixed run the wider of
// Student's and the signed-rank one, where that exists, else the sequence's.
func (e *evidence) interval(d []float64, inflation float64) Interval {
	if e.mode == Continuous {
		r := stat.SequenceRadius(math.Sqrt(inflation*stat.Variance(d)), len(d), e.alpha)
		m := stat.Mean(d)
		return Interval{m - r, m + r}
	}
	low, high := stat.MeanInterval(d, inflation, e.alpha)
	if l, h, ok := stat.RankInterval(d, e.alpha); ok {
		low, high = min(low, l), max(high, h)
	}
	return Interval{low, high}
}

// test is the p-value of the mean of d being at most limit, by the same methods.
func (e *evidence) test(d []float64, inflation, limit float64) float64 {
	if e.mode == Continuous {
		return stat.SequenceTest(stat.Mean(d), math.Sqrt(inflation*stat.Variance(d)), len(d), limit, e.alpha)
	}
	p := stat.MeanTest(d, inflation, limit)
	// Of few blocks no order of ranks is rare enough to be clear among many rows: there
	// it would take the power away and add nothing.
	if ranked, ok := stat.RankTest(d, limit, e.alpha/float64(max(1, e.gating))); ok {
		p = max(p, ranked)
	}
	return p
}

func (e *evidence) inflation(blocks int) float64 {
	if e.whole {
		return 1
	}
	return stat.Inflation(e.layout.Rho, e.layout.Windows, blocks)
}
