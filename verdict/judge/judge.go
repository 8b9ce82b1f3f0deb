// Package judge decides whether one system is as fast and as right as another:
// pass, fail or inconclusive, with what it rests on and what would decide it.
//
// The unit of evidence is not a request but a block: a stretch of time, long
// enough to be independent of the next, or a round of a gate. Requests of one
// second share its garbage collections and its neighbours, and a test that takes
// them for independent fails most comparisons of a build with itself. Of each
// block the judge takes the log of the ratio of a statistic on both sides; of
// the blocks' logs an interval, and compares that with a margin. All gating rows
// must be within theirs to pass; one that is beyond it after Holm's correction
// for their number fails.
//
// The package is pure: evidence and time are arguments, and the same ones give
// the same Document. Nothing in it panics on any evidence.
package judge

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"darklaunch/verdict/stat"
)

// Findings are what the comparison of fields found.
type Findings struct {
	Differences []Difference
	Rules       []DifferenceRule
	// Reasons not to pass beside the gating Differences: an expired rule.
	Reasons []Reason
}

// Judge judges a run that is over, of a length decided beforehand. at is put in
// the Document; interrupted says that the run was cut short, which is never a
// pass or a fail. diffs are what the comparison of fields found, with gates
// already judged; they are not altered, and are part of the Document.
func Judge(c Comparison, cfg Config, windows []Window, diffs Findings, at time.Time, interrupted bool) *Document {
	e := newEvidence(c, cfg, Fixed)
	e.whole = c.Whole
	for _, w := range windows {
		e.note(w)
	}
	e.trimmed = e.warmUp(windows)
	e.fold(windows)
	return e.document(diffs, at, interrupted)
}

// looks are the numbers of rounds, without the first, after which a gate may look.
var looks = [...]int{5, 10, 15}

// Looks returns the numbers of rounds after which a gate may look: 5, 10 and 15, not
// counting round 0, which is left out.
func Looks() []int { return slices.Clone(looks[:]) }

// JudgeRounds judges the rounds of a gate, in the order in which they ran, the first
// of them to be left out. planned is how many looks there may be, 1 to 3: each gets
// its part of the error. more says that this one did not decide and another, after
// more rounds, may.
func JudgeRounds(c Comparison, cfg Config, rounds []Window, planned int, at time.Time, interrupted bool) (d *Document, more bool) {
	planned = min(max(planned, 1), len(looks))
	e := newEvidence(c, cfg, Rounds)
	e.whole = true
	e.alpha /= float64(planned)
	for _, w := range rounds {
		e.note(w)
	}
	e.trimmed = min(1, len(rounds))
	e.fold(rounds)
	d = e.document(Findings{}, at, interrupted)
	return d, d.Verdict == Inconclusive && !interrupted && len(rounds)-e.trimmed < looks[planned-1]
}

// evidence is all that a Document is made from.
type evidence struct {
	comparison Comparison
	cfg        Config
	mode       Mode
	whole      bool // a window is a block
	alpha      float64

	layout  layout
	blocks  []block
	totals  map[string]*tally // by row, of blocks
	use     map[Role]Usage    // of blocks
	windows int
	trimmed int
	start   time.Time
	end     time.Time

	rig      rig
	coverage map[string]*RouteCoverage
	harm     harm
	unsteady *unsteady
}

// unsteady says how beginning and end differ.
type unsteady struct {
	metric, route, text string
	by, limit           float64
}

func newEvidence(c Comparison, cfg Config, mode Mode) *evidence {
	cfg = cfg.filled()
	return &evidence{
		comparison: c, cfg: cfg, mode: mode, alpha: 1 - cfg.Confidence, layout: layout{Windows: 1},
		totals: map[string]*tally{}, use: map[Role]Usage{}, coverage: map[string]*RouteCoverage{},
		rig: rig{Accounts: map[Role]*RoleCoverage{}},
	}
}

// note takes what is told of a window whether it is evidence or warm-up.
func (e *evidence) note(w Window) {
	if e.windows == 0 {
		e.start = w.Start
	}
	e.windows++
	if !w.Start.IsZero() {
		e.end = w.Start.Add(w.Length)
	}
	e.rig.add(w)
	e.cover(w)
	e.harm.add(w)
}

// warmUp is how many windows at the beginning are none of the evidence.
func (e *evidence) warmUp(windows []Window) int {
	if e.whole || len(windows) == 0 {
		return 0
	}
	n := int(math.Ceil(max(0, e.cfg.WarmUpShare) * float64(len(windows))))
	var passed time.Duration
	for i, w := range windows {
		if passed >= e.cfg.WarmUp {
			return max(n, i)
		}
		passed += max(0, w.Length)
	}
	return max(n, len(windows)-1)
}

// fold makes blocks of what is left of windows, and leaves out more of the beginning
// while it is unlike the end.
func (e *evidence) fold(windows []Window) {
	kept := windows[min(e.trimmed, len(windows)):]
	e.layout = e.plan(kept, len(kept))
	e.trimmed += len(kept) % e.layout.Windows
	kept = windows[e.trimmed:]
	for each := range slices.Chunk(kept, e.layout.Windows) {
		b := open()
		for _, w := range each {
			b.add(w, e.layout.row)
		}
		e.blocks = append(e.blocks, b.close())
	}
	all := e.blocks
	for !e.whole {
		e.unsteady = e.steady()
		left := (len(windows) - e.trimmed - e.layout.Windows)
		if e.unsteady == nil || left*2 < len(windows) || len(e.blocks) <= e.minBlocks() {
			break
		}
		e.blocks = e.blocks[1:]
		e.trimmed += e.layout.Windows
	}
	if e.unsteady != nil { // leaving more out did not help
		e.trimmed -= (len(all) - len(e.blocks)) * e.layout.Windows
		e.blocks = all
	}
	for _, w := range windows[e.trimmed:] {
		e.total(w)
	}
}

// total adds w to what is known of all blocks together.
func (e *evidence) total(w Window) {
	for name, r := range w.Routes {
		if r.empty() {
			continue
		}
		to := e.layout.row(name)
		if e.totals[to] == nil {
			e.totals[to] = newTally()
		}
		e.totals[to].add(r)
	}
	for role, u := range w.Usage {
		e.use[role] = e.use[role].plus(u)
	}
}

// steady compares the first third of the blocks with the last. It is nil if they are
// alike, or if chance explains that they are not.
func (e *evidence) steady() *unsteady {
	third := len(e.blocks) / 3
	if third < 2 {
		return nil
	}
	for _, route := range e.routes() {
		for _, rule := range e.rules(route) {
			if rule.Name != MetricLatency || rule.Use == UseWatch {
				continue
			}
			s := statistic(rule.Stat)
			if s < 0 {
				continue
			}
			all := e.logs(e.blocks, route, s)
			if len(all) < 3*third {
				continue
			}
			by := stat.Mean(all[len(all)-third:]) - stat.Mean(all[:third])
			slope, se := stat.Trend(all)
			se *= math.Sqrt(stat.Inflation(e.layout.Steady, e.layout.Windows, len(all)))
			if limit := math.Log1p(rule.Margin); math.Abs(by) > limit && math.Abs(slope) > stat.T(e.alpha, float64(len(all)-2))*se {
				title := rule.Name + " " + rule.Stat
				return &unsteady{title, route, fmt.Sprintf("%s changes from beginning to end by %s", title, percent(math.Expm1(by))), math.Abs(math.Expm1(by)), rule.Margin}
			}
		}
	}
	return nil
}

// logs are the log-ratios of blocks that have enough.
func (e *evidence) logs(blocks []block, route string, s int) []float64 {
	of, against := e.latencyRoles()
	var d []float64
	for _, b := range blocks {
		x, y := b.Routes[route].Latency[of], b.Routes[route].Latency[against]
		if x.Count >= needed(s) && y.Count >= needed(s) && x.Seconds[s] > 0 && y.Seconds[s] > 0 {
			d = append(d, math.Log(x.Seconds[s]/y.Seconds[s]))
		}
	}
	return d
}

func (e *evidence) hasControl() bool { return e.arm(Control) != nil }

// latencyRoles are whose latencies are alike but for the build: both are asked by the
// same client, at the same moment and load.
func (e *evidence) latencyRoles() (of, against Role) {
	switch {
	case e.arm(Head) != nil || e.arm(Base) != nil:
		return Head, Base
	case e.hasControl():
		return Shadow, Control
	}
	return Shadow, Live
}

// answerRoles are whose answers are compared.
func (e *evidence) answerRoles() (of, against Role) {
	if of, against = e.latencyRoles(); against == Control {
		against = Live
	}
	return of, against
}

func (e *evidence) costRoles() (of, against Role) { return e.latencyRoles() }

// aaNeeded: latency is compared with live's, which no copy is like.
func (e *evidence) aaNeeded() bool {
	_, against := e.latencyRoles()
	return against == Live
}

func (e *evidence) minBlocks() int {
	n := e.cfg.MinBlocks
	if e.whole {
		n = e.cfg.MinRounds
	}
	return max(3, n)
}

func (e *evidence) blockLength() time.Duration {
	if len(e.blocks) == 0 {
		return time.Duration(e.layout.Windows) * e.rig.Shortest
	}
	var sum time.Duration
	for _, b := range e.blocks {
		sum += b.Length
	}
	return sum / time.Duration(len(e.blocks))
}

// load is at how many requests a second role was seen.
func (e *evidence) load(route string, role Role) *Load {
	seconds := e.blockLength().Seconds() * float64(len(e.blocks))
	if seconds <= 0 {
		return nil
	}
	var l Load
	for name, t := range e.totals {
		n := float64(t.count(role))
		if name == route {
			l.Route = n / seconds
		}
		l.Total += n / seconds
	}
	return &l
}

// routes are those that have rows, sorted, Other at the end.
func (e *evidence) routes() []string {
	seen := map[string]bool{}
	for _, b := range e.blocks {
		for name := range b.Routes {
			seen[name] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		return cmp.Or(compareBool(a == Other, b == Other), cmp.Compare(a, b))
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// rules are those for route, of each metric the first that fits.
func (e *evidence) rules(route string) []Rule {
	var fit []Rule
	for _, r := range e.cfg.Metrics {
		same := func(o Rule) bool { return o.Name == r.Name && o.Stat == r.Stat }
		if matches(r.Route, route) && !slices.ContainsFunc(fit, same) {
			fit = append(fit, r)
		}
	}
	return fit
}

// rows are all metrics compared.
func (e *evidence) rows() []*row {
	var all []*row
	for _, route := range e.routes() {
		for _, rule := range e.rules(route) {
			switch rule.Name {
			case MetricLatency:
				all = append(all, e.latency(route, rule))
			case MetricErrors:
				all = append(all, e.errors(route, rule))
			case MetricDifferences:
				if !e.comparison.Unpaired {
					all = append(all, e.differences(route, rule))
				}
			case MetricThroughput:
				if e.comparison.Unpaired {
					all = append(all, e.throughput(route, rule))
				}
			}
		}
	}
	for _, rule := range e.rules(All) {
		switch rule.Name {
		case MetricCPU, MetricAllocations, MetricMemory:
			// A watched cost that nobody reports is no row.
			if r := e.usage(rule); r.Use == UseGate || r.Blocks > 0 {
				all = append(all, r)
			}
		}
	}
	e.excuse(all)
	return all
}

// stray is the share of all pairs below which the routes that have too little for
// rows of their own need not be decided.
const stray = 0.05

// excuse lets a remainder of traffic that is too little to tell anything be shown
// without standing against a pass.
func (e *evidence) excuse(rows []*row) {
	var all, rest uint64
	for name, t := range e.totals {
		n := t.count(Shadow) + t.count(Head)
		if all += n; name == Other {
			rest = n
		}
	}
	if e.layout.Rows == nil || float64(rest) > stray*float64(all) {
		return
	}
	for _, r := range rows {
		if r.Route == Other && r.Use == UseGate && (r.reason.Code == ReasonFewPairs || r.reason.Code == ReasonNoData || r.reason.Code == ReasonFewBlocks || r.reason.Code == ReasonSpans) {
			r.Use = UseWatch
			r.Note = fmt.Sprintf("not judged: all routes together that have too little for rows of their own are %s of the pairs", percent(float64(rest)/float64(max(1, all))))
		}
	}
}

// document judges what there is.
func (e *evidence) document(found Findings, at time.Time, interrupted bool) *Document {
	gates, broken := e.gates()
	d := &Document{
		Schema: Schema, Comparison: e.comparison.Name, Verdict: Inconclusive, State: Decided, Mode: e.mode,
		Reasons: []Reason{}, Notes: []string{}, Arms: slices.Clone(e.comparison.Arms), Start: e.start, End: e.end, JudgedAt: at,
		Rig: Rig{Windows: e.windows, Trimmed: e.trimmed, Blocks: len(e.blocks), BlockWindows: e.layout.Windows,
			BlockLength: e.blockLength().Seconds(), Rho: e.layout.Rho, Gates: gates},
		Metrics: []Metric{}, Objectives: e.limits(e.cfg.Limits), Differences: append([]Difference{}, found.Differences...),
		Rules: append([]DifferenceRule{}, found.Rules...), LiveHarm: e.liveHarm(),
	}
	e.covered(d)
	rows := e.rows()
	j := e.combine(rows, d, found)
	for _, r := range rows {
		d.Metrics = append(d.Metrics, r.Metric)
	}
	slices.SortStableFunc(d.Metrics, func(a, b Metric) int { return compareBool(a.Use == UseWatch, b.Use == UseWatch) })
	if e.windows == 0 || len(rows) == 0 {
		broken = slices.Insert(broken, 0, Reason{Code: ReasonNoData, Text: "there is nothing to judge: " + e.nothing(), Cure: "check that both sides are reached"})
	}
	e.conclude(d, j, broken, found, interrupted)
	return d
}

func (e *evidence) nothing() string {
	of, against := e.latencyRoles()
	switch {
	case e.arm(of) == nil:
		return "no " + string(of)
	case e.arm(against) == nil:
		return "no " + string(against)
	case e.windows == 0:
		return "no window of time was seen"
	case len(e.blocks) == 0:
		return "all of it was warm-up"
	}
	return "no pair, and no call, was counted"
}

// judged are the reasons that rows give.
type judged struct {
	fail, undecided []Reason
	gating          int
}

// combine adjusts for the number of rows and says what each stands for.
func (e *evidence) combine(rows []*row, d *Document, found Findings) judged {
	var j judged
	var p []float64
	var gating []*row
	for _, r := range rows {
		if r.Use == UseGate && !(r.ignored && r.reason.Code == ReasonNoData) {
			gating = append(gating, r)
			v := 1.0
			if r.P != nil {
				v = *r.P
			}
			p = append(p, v)
		} else if r.Use == UseWatch && r.Note != "" && r.Name == MetricLatency && e.aaNeeded() {
			d.Notes = appendOnce(d.Notes, "relative latency was "+r.Note)
		}
	}
	adjusted := stat.Holm(p)
	for i, r := range gating {
		if r.P != nil {
			r.PAdj = &adjusted[i]
		}
		reason := r.reason
		reason.Metric, reason.Route = r.Title(), r.Route
		switch {
		case r.Verdict == Fail && (r.P == nil || adjusted[i] <= e.alpha/2):
			if r.P != nil || reason.Code == "" {
				reason = Reason{Code: ReasonMargin, Metric: r.Title(), Route: r.Route, Text: "worse by more than the margin: " + e.size(&r.Metric)}
			}
			reason.Cure = ""
			j.fail = append(j.fail, reason)
		case r.Verdict == Fail:
			reason.Code, reason.Text = ReasonSpans, fmt.Sprintf("beyond the margin by itself (%s), but not for one of %d rows", e.size(&r.Metric), len(gating))
			reason.Cure = "more " + e.blockCount(2)[2:]
			j.undecided = append(j.undecided, reason)
		case r.Verdict == Inconclusive:
			if reason.Code == ReasonSpans {
				reason.Text += ": " + e.size(&r.Metric)
			}
			j.undecided = append(j.undecided, reason)
		}
	}
	j.gating = len(gating)
	for _, o := range d.Objectives {
		j.gating++
		reason := Reason{Code: ReasonObjective, Metric: o.Name, Route: o.Route, Text: o.Text}
		switch o.Verdict {
		case Fail:
			reason.Text += fmt.Sprintf(" is broken: %s", e.amount(*o.Value, o.Unit))
			j.fail = append(j.fail, reason)
		case Inconclusive:
			reason.Text += ": not decided"
			reason.Cure = o.Note
			j.undecided = append(j.undecided, reason)
		}
	}
	for _, f := range found.Differences {
		if f.Use != UseGate {
			continue
		}
		j.gating++
		reason := Reason{Code: ReasonDifference, Metric: MetricDifferences, Route: f.Route, Text: fmt.Sprintf("%s (%s) differs in %s of %d pairs", f.Field, f.Kind, percent(f.Rate), f.Pairs)}
		switch f.Verdict {
		case Fail:
			j.fail = append(j.fail, reason)
		case Pass:
		default:
			reason.Code, reason.Cure = ReasonSpans, "more pairs"
			j.undecided = append(j.undecided, reason)
		}
	}
	j.undecided = append(j.undecided, found.Reasons...)
	return j
}

func appendOnce(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// size is a metric's effect in words: "8.6 % (2.1 to 15.5 %), margin 10 %".
func (e *evidence) size(m *Metric) string {
	if m.Effect == nil {
		return "unknown"
	}
	unit := "%"
	if m.Absolute {
		unit = "points"
	}
	s := fmt.Sprintf("%+.3g %s", 100**m.Effect, unit)
	if m.CI != nil {
		s += fmt.Sprintf(" (%+.3g to %+.3g)", 100*m.CI.Lower, 100*m.CI.Upper)
	}
	return s + fmt.Sprintf(", margin %.3g %s", 100*m.Allowed, unit)
}

func (e *evidence) amount(v float64, unit string) string {
	switch unit {
	case "s":
		return round(time.Duration(v * float64(time.Second))).String()
	case "share":
		return percent(v)
	}
	return fmt.Sprintf("%.4g %s", v, unit)
}

// conclude sets the verdict and its reasons.
func (e *evidence) conclude(d *Document, j judged, broken []Reason, found Findings, interrupted bool) {
	if j.gating == 0 && len(broken) == 0 {
		broken = append(broken, Reason{Code: ReasonNothingGates, Text: "no metric is a gate: nothing was decided", Cure: "a gate that these sides can be judged by; latency needs a control or a stored run"})
	}
	if interrupted {
		broken = append(broken, Reason{Code: ReasonInterrupted, Text: "the run was cut short", Cure: "a whole run"})
	}
	if len(e.blocks) < e.minBlocks() { // said once, for all rows
		j.undecided = slices.DeleteFunc(j.undecided, func(r Reason) bool { return r.Code == ReasonFewBlocks })
	}
	harmed := d.LiveHarm != nil && d.LiveHarm.Verdict == Fail
	if harmed {
		d.Reasons = append(d.Reasons, d.LiveHarm.Reasons...)
	}
	switch {
	case interrupted:
		d.Reasons = slices.Concat(d.Reasons, broken, unsure(j.fail), j.undecided)
	case harmed:
		d.Verdict = Fail
		d.Reasons = slices.Concat(d.Reasons, broken, unsure(j.fail), j.undecided)
	case len(broken) > 0:
		d.Reasons = slices.Concat(broken, unsure(j.fail), j.undecided)
	case len(j.fail) > 0:
		d.Verdict = Fail
		d.Reasons = slices.Concat(j.fail, j.undecided)
	case len(j.undecided) > 0:
		d.Reasons = j.undecided
	default:
		d.Verdict = Pass
	}
	e.states(d)
}

// unsure are failures seen on a rig that can't be trusted.
func unsure(fail []Reason) []Reason {
	var all []Reason
	for _, r := range fail {
		r.Text = "would fail: " + r.Text
		all = append(all, r)
	}
	return all
}

// states says how far a continuous judgement has come, and holds a pass back until
// the least time is over.
func (e *evidence) states(d *Document) {
	if e.mode != Continuous {
		return
	}
	seen := e.end.Sub(e.start)
	if d.Verdict == Pass && seen < e.cfg.MinDuration {
		d.Verdict = Inconclusive
		d.Reasons = []Reason{{Code: ReasonTime, Text: fmt.Sprintf("within all margins after %s, and a pass needs %s", about(seen.Seconds()), about(e.cfg.MinDuration.Seconds())),
			Cure: about((e.cfg.MinDuration - seen).Seconds()) + " more"}}
	}
	switch {
	case d.Verdict != Inconclusive:
		d.State = Decided
	case seen >= e.cfg.MaxDuration:
		d.State = Expired
	case len(e.blocks) == 0:
		d.State = Warming
	default:
		d.State = Collecting
	}
}

// covered fills in the pairs and the coverage.
func (e *evidence) covered(d *Document) {
	for _, t := range e.totals {
		d.Rig.Pairs += e.pairs(Route{Shadow: t.Shadow, Calls: t.Calls})
	}
	d.Coverage = Coverage{Roles: []RoleCoverage{}, Routes: []RouteCoverage{}, StreamSent: e.rig.StreamSent, StreamLost: e.rig.StreamLost}
	for _, role := range slices.Sorted(maps.Keys(e.rig.Accounts)) {
		d.Coverage.Roles = append(d.Coverage.Roles, *e.rig.Accounts[role])
	}
	for _, name := range slices.Sorted(maps.Keys(e.coverage)) {
		c := *e.coverage[name]
		if to := e.layout.row(name); to != name {
			c.FoldedInto = to
		}
		d.Coverage.Routes = append(d.Coverage.Routes, c)
	}
}
