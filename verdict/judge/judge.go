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
	gating   int // rows that may fail, of which each has to be clearer the more they are
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

// drifting is the level at which a trend is no chance: low, as each gating row is asked
// again and again while more is trimmed, and a yes takes the verdict away.
const drifting = 0.001

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
			if limit := math.Log1p(rule.Margin); math.Abs(by) > limit && math.Abs(slope) > stat.T(drifting, float64(len(all)-2))*se {
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
	if l.Total == 0 {
		return nil
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
