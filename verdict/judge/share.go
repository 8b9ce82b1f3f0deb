package judge

import (
	"fmt"
	"math"

	"darklaunch/verdict/stat"
)

// counts are events of a row, block by block: how often on one side alone, and of
// how many.
type counts struct {
	x, y, n, m, both []float64 // alone of Of, alone of Against, pairs of either, of both
	paired           bool
}

func (c *counts) sums() (x, y, n, m, both float64) {
	for i := range c.x {
		x, y, n, m, both = x+c.x[i], y+c.y[i], n+c.n[i], m+c.m[i], both+c.both[i]
	}
	return x, y, n, m, both
}

// effect is the difference of shares of block i, and whether there is one.
func (c *counts) effect(i int) (float64, bool) {
	if !(c.n[i] > 0 && c.m[i] > 0) {
		return 0, false
	}
	return c.x[i]/c.n[i] - c.y[i]/c.m[i], true
}

// errors compares the shares of calls that failed.
func (e *evidence) errors(route string, rule Rule) *row {
	of, against := e.answerRoles()
	r := e.newRow(rule, route, "share", of, against)
	var c counts
	c.paired = !e.comparison.Unpaired
	for _, b := range e.blocks {
		f := b.Routes[route]
		if c.paired {
			o := f.Shadow
			c.add(o.RoleOnlyFailed, o.LiveOnlyFailed, o.total(), o.total(), o.BothFailed)
		} else {
			c.add(f.Calls[of].Failed, f.Calls[against].Failed, f.Calls[of].Total, f.Calls[against].Total, 0)
		}
	}
	e.share(r, &c)
	if e.hasControl() && e.totals[route] != nil {
		if o := e.totals[route].Control; o.total() > 0 {
			n := float64(o.total())
			failed := float64(o.RoleOnlyFailed+o.BothFailed) / n
			r.Control = &failed
			low, high := stat.NewcombePaired(float64(o.BothFailed), float64(o.RoleOnlyFailed), float64(o.LiveOnlyFailed), n, e.alpha)
			r.Offset = &Offset{Of: Control, Against: Live, Effect: (float64(o.RoleOnlyFailed) - float64(o.LiveOnlyFailed)) / n, CI: &Interval{low, high}}
		}
	}
	return r
}

// differences compares how often answers differ from live's with how often
// control's do.
func (e *evidence) differences(route string, rule Rule) *row {
	against := Control
	if !e.hasControl() {
		against = Live
	}
	r := e.newRow(rule, route, "share", Shadow, against)
	var c counts
	c.paired = true
	for _, b := range e.blocks {
		d := b.Routes[route].Differences
		c.add(d.ShadowOnly, d.ControlOnly, d.total(), d.total(), d.Both)
	}
	if !e.hasControl() && r.Use == UseGate && rule.Use == "" {
		r.Use = UseWatch
		r.Note = "not judged: without a control, what differs by itself can't be told from what differs by the build"
	}
	e.share(r, &c)
	if !e.hasControl() { // live does not differ from itself
		*r.place(Live) = nil
	}
	return r
}

func (c *counts) add(x, y, n, m, both uint64) {
	c.x, c.y = append(c.x, float64(x)), append(c.y, float64(y))
	c.n, c.m, c.both = append(c.n, float64(n)), append(c.m, float64(m)), append(c.both, float64(both))
}

// share judges a difference of shares.
func (e *evidence) share(r *row, c *counts) {
	r.Absolute = true
	x, y, n, m, both := c.sums()
	var d []float64
	for i, b := range e.blocks {
		point := Point{Start: b.Start}
		if v, ok := c.effect(i); ok {
			d = append(d, v)
			point.Effect = &v
			*point.place(r.Of), *point.place(r.Against) = new((c.x[i]+c.both[i])/c.n[i]), new((c.y[i]+c.both[i])/c.m[i])
		}
		r.Series = append(r.Series, point)
	}
	r.Blocks, r.Pairs, r.Load = len(d), uint64(min(n, m)), e.load(r.Route, r.Of)
	if n == 0 || m == 0 {
		r.cannot(ReasonNoData, fmt.Sprintf("nothing was counted of %s on %s", r.Title(), side(n, r)), "check that both sides are reached")
		return
	}
	r.values((x+both)/n, (y+both)/m)
	effect := x/n - y/m
	r.Effect, r.Difference = &effect, &effect
	if c.paired {
		r.Discordant = &Discordant{Of: uint64(x), Against: uint64(y), Both: uint64(both), Pairs: uint64(n), MidP: stat.McNemar(uint64(x), uint64(y))}
	}
	if len(d) < e.minBlocks() {
		e.tooFew(r, len(d))
		return
	}
	low, high := scores(c, e.alpha)
	p := e.scoreTest(c, r.Margin)
	if e.mode == Continuous || c.bursts() {
		l, h, q := e.blockwise(c, d, effect, r.Margin)
		low, high, p = min(low, l), max(high, h), max(p, q)
		if e.mode != Continuous {
			r.Note = "they come in bursts: judged by blocks, not by calls"
		}
	}
	r.CI = &Interval{low, high}
	if r.Allowed == 0 && p >= e.alpha/2 {
		low = min(low, 0) // with no margin the exact test decides
	}
	e.decide(r, p, low, high, effect, r.Allowed)
	if r.Verdict == Inconclusive && r.Margin > 0 && x+y == 0 {
		r.reason.Cure = fmt.Sprintf("none has failed, but at least %.0f calls are needed to tell", math.Ceil(stat.Z(e.alpha)*stat.Z(e.alpha)/r.Margin))
	}
}

func side(n float64, r *row) Role {
	if n == 0 {
		return r.Of
	}
	return r.Against
}

// bursty is the level at which calls are no longer taken for independent.
const bursty = 0.05

func (c *counts) bursts() bool {
	n := make([]float64, len(c.n))
	for i := range n {
		n[i] = min(c.n[i], c.m[i])
	}
	return stat.Overdispersed(c.x, c.y, n, bursty)
}

// scores is the wider of the score intervals for all calls together.
func scores(c *counts, alpha float64) (low, high float64) {
	x, y, n, m, both := c.sums()
	if !c.paired {
		return stat.Newcombe(x, n, y, m, alpha)
	}
	low, high = stat.NewcombePaired(both, x, y, n, alpha)
	l, h := stat.AgrestiMin(x, y, n, alpha)
	return min(low, l), max(high, h)
}

// scoreTest is McNemar's test where no margin is allowed, else half the alpha at
// which the interval touches the margin.
func (e *evidence) scoreTest(c *counts, margin float64) float64 {
	x, y, _, _, _ := c.sums()
	if margin == 0 && c.paired {
		return stat.McNemar(uint64(x), uint64(y))
	}
	least, most := 1e-12, 1-1e-9
	if low, _ := scores(c, most); low <= margin {
		return 0.5
	}
	for range 60 {
		middle := math.Sqrt(least * most)
		if low, _ := scores(c, middle); low > margin {
			most = middle
		} else {
			least = middle
		}
	}
	return most / 2
}

// blockwise judges the blocks' differences d, which have all been seen where errors
// come in bursts or where one looks again and again. Their spread is never taken for
// less than that of independent calls.
func (e *evidence) blockwise(c *counts, d []float64, effect, margin float64) (low, high, p float64) {
	x, y, n, m, _ := c.sums()
	blocks := float64(len(d))
	share := (x + y + 1) / (n + 2)
	if !c.paired {
		share = (x+0.5)/(n+1) + (y+0.5)/(m+1)*n/m
	}
	least := share / (n / blocks)
	variance := max(e.inflation(len(d))*stat.Variance(d), least)
	if e.mode == Continuous {
		radius := stat.SequenceRadius(math.Sqrt(variance), len(d), e.alpha)
		return effect - radius, effect + radius, stat.SequenceTest(effect, math.Sqrt(variance), len(d), margin, e.alpha)
	}
	half := stat.T(e.alpha, blocks-1) * math.Sqrt(variance/blocks)
	return effect - half, effect + half, stat.StudentTest(effect, math.Sqrt(variance/blocks), blocks-1, margin)
}
