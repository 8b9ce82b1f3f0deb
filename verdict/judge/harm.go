package judge

import (
	"fmt"
	"math"
	"time"

	"darklaunch/verdict/stat"
)

// harm gathers what live's own traffic says of the mirror's effect on it. Blocks
// close when both sides have enough calls.
type harm struct {
	Seen       bool // live's traffic is known
	Began      bool // copies have been sent
	Switchback versus
	Before     versus // sampled against unsampled, with the sample set and nothing sent
	After      versus // the same while copies are sent
}

// versus compares two groups of live's calls, block by block.
type versus struct {
	Blocks  []contrast
	Head    group
	Base    group
	Windows int
	Start   time.Time
}

type group struct {
	Durations        histogram
	Requests, Failed uint64
}

func (g *group) add(t Traffic) {
	if t.Durations != nil {
		g.Durations.Merge(t.Durations)
	}
	g.Requests += t.Requests
	g.Failed += t.Failed
}

// contrast is one block of it: both sides' statistics in seconds, and their failures.
type contrast struct {
	Start      time.Time
	Head, Base quantiles
	HeadCalls  Calls
	BaseCalls  Calls
}

const (
	harmWindows    = 4  // at least, in a block
	harmMaxWindows = 90 // at most: more time apart is no pair
	harmBlocks     = 5000
)

func (h *harm) add(w Window) {
	var on, off, in, out group
	for _, r := range w.Routes {
		for _, t := range r.Live {
			h.Seen = true
			if t.Sending {
				on.add(t)
			} else {
				off.add(t)
			}
			if t.Sending == w.Rig.Sending {
				if t.Sampled {
					in.add(t)
				} else {
					out.add(t)
				}
			}
		}
	}
	h.Began = h.Began || w.Rig.Sending || on.Requests > 0
	switch {
	case h.Began:
		h.Switchback.add(w, &on, &off)
		if w.Rig.Sending {
			h.After.add(w, &in, &out)
		}
	case w.Rig.Sampling:
		h.Before.add(w, &in, &out)
	}
}

func (v *versus) add(w Window, head, base *group) {
	if v.Windows == 0 {
		v.Start = w.Start
	}
	v.Windows++
	v.Head.merge(head)
	v.Base.merge(base)
	enough := int64(needed(statistic("p99")))
	switch {
	case v.Windows >= harmWindows && v.Head.Durations.Count() >= enough && v.Base.Durations.Count() >= enough:
		if len(v.Blocks) < harmBlocks {
			h, b := dist{Hist: v.Head.Durations}, dist{Hist: v.Base.Durations}
			v.Blocks = append(v.Blocks, contrast{v.Start, h.quantiles(), b.quantiles(), Calls{v.Head.Requests, v.Head.Failed}, Calls{v.Base.Requests, v.Base.Failed}})
		}
	case v.Windows < harmMaxWindows:
		return
	}
	*v = versus{Blocks: v.Blocks}
}

func (g *group) merge(o *group) {
	g.Durations.Merge(&o.Durations.Hist)
	g.Requests += o.Requests
	g.Failed += o.Failed
}

// harmRules are how much live may suffer.
var harmRules = [...]Rule{
	{Name: MetricLatency, Stat: "p50", Margin: 0.05, Floor: 500e-6},
	{Name: MetricLatency, Stat: "p99", Margin: 0.10, Floor: 500e-6},
	{Name: MetricErrors, Margin: 0.001},
}

// liveHarm judges what the mirror did to live; nil where live's traffic is not known.
func (e *evidence) liveHarm() *LiveHarm {
	if !e.harm.Seen {
		return nil
	}
	l := &LiveHarm{Verdict: Inconclusive, Reasons: []Reason{}, Switchback: []Metric{}, Sampled: []Metric{}, Objectives: e.limits(e.cfg.HarmLimits)}
	var fail bool
	judged := map[bool]bool{}
	rows := func(way string, baseline bool, before, after []contrast) (all []Metric) {
		pass := true
		for _, rule := range harmRules {
			r := e.harmRow(rule, baseline, before, after)
			switch r.Verdict {
			case Fail:
				fail = true
				l.Reasons = append(l.Reasons, Reason{Code: ReasonLiveHarm, Metric: r.Title(), Text: fmt.Sprintf("live's %s is %s worse %s", r.Title(), harmSize(&r.Metric), way)})
			case Inconclusive:
				pass = false
			}
			all = append(all, r.Metric)
		}
		judged[pass] = true
		return all
	}
	if len(e.harm.Switchback.Blocks) > 0 {
		l.Switchback = rows("while copies are sent", false, nil, e.harm.Switchback.Blocks)
	}
	if len(e.harm.Before.Blocks) > 0 {
		l.Sampled = rows("for sampled users, against before", true, e.harm.Before.Blocks, e.harm.After.Blocks)
	}
	for _, o := range l.Objectives {
		if o.Verdict == Fail {
			fail = true
			l.Reasons = append(l.Reasons, Reason{Code: ReasonLiveHarm, Metric: o.Name, Text: o.Text + " is broken"})
		}
	}
	switch {
	case fail:
		l.Verdict = Fail
	case len(judged) == 0:
		l.Reasons = append(l.Reasons, Reason{Code: ReasonNoBaseline, Text: "no baseline: live was never seen without copying",
			Cure: "--switchback 10%, or a time with the sample set and sending off before users are seeded"})
	case judged[true]:
		l.Verdict = Pass
	default:
		l.Reasons = append(l.Reasons, Reason{Code: ReasonSpans, Text: "whether live suffers is not decided yet", Cure: "more time"})
	}
	return l
}

func harmSize(m *Metric) string {
	if m.Absolute {
		return fmt.Sprintf("%.3g points", 100**m.Effect)
	}
	return percent(*m.Effect)
}

// harmRow compares head with base over blocks, as a change from before where there
// is a baseline. Each row gets its part of the error.
func (e *evidence) harmRow(rule Rule, baseline bool, before, after []contrast) *row {
	part := *e
	part.alpha /= float64(len(harmRules))
	if baseline {
		part.alpha /= 2 // two intervals
	}
	unit := "s"
	if rule.Name == MetricErrors {
		unit = "share"
	}
	r := part.newRow(rule, All, unit, Head, Base)
	r.Confidence = 1 - e.alpha/float64(len(harmRules))
	r.Absolute = rule.Name == MetricErrors
	now := part.contrasts(r, after)
	r.Blocks = len(now)
	least := max(3, e.minBlocks())
	if len(now) < least || baseline && len(before) < least {
		r.BlocksNeeded = least
		r.cannot(ReasonFewBlocks, fmt.Sprintf("%d blocks of live's calls, and %d are needed", len(now), least), "more time")
		return r
	}
	ci := part.interval(now, 1)
	effect := stat.Mean(now)
	if baseline {
		then := part.contrasts(part.newRow(rule, All, unit, Head, Base), before)
		was := part
		was.mode = Fixed // the baseline is over
		past := was.interval(then, 1)
		ci = Interval{ci.Lower - past.Upper, ci.Upper - past.Lower}
		effect -= stat.Mean(then)
	}
	limit := r.Allowed
	if !r.Absolute {
		limit = math.Log1p(limit)
		r.Effect, r.CI = new(math.Expm1(effect)), &Interval{math.Expm1(ci.Lower), math.Expm1(ci.Upper)}
	} else {
		r.Effect, r.CI = &effect, &ci
	}
	switch {
	case ci.Lower > limit:
		r.Verdict = Fail
	case ci.Upper < limit:
		r.Verdict = Pass
	}
	return r
}

// contrasts are the effects of blocks, and sets the values of r.
func (e *evidence) contrasts(r *row, blocks []contrast) []float64 {
	var d, head, base []float64
	s := statistic(r.Stat)
	for _, b := range blocks {
		var x, y float64
		if r.Absolute || r.Name == MetricErrors {
			x, y = float64(b.HeadCalls.Failed)/float64(b.HeadCalls.Total), float64(b.BaseCalls.Failed)/float64(b.BaseCalls.Total)
			d = append(d, x-y)
		} else {
			x, y = b.Head.Seconds[s], b.Base.Seconds[s]
			if !(x > 0 && y > 0) {
				continue
			}
			d = append(d, math.Log(x/y))
		}
		head, base = append(head, x), append(base, y)
		p := r.point(b.Start, x, y)
		if r.Absolute {
			p.Effect = finite(x - y)
		}
		r.Series = append(r.Series, p)
	}
	if len(d) > 0 {
		r.values(stat.Mean(head), stat.Mean(base))
		if b := *r.Base; r.Floor > 0 && b > 0 {
			r.Allowed = max(r.Allowed, r.Floor/b)
		}
	}
	return d
}
