package judge

import (
	"fmt"
	"slices"
	"time"

	"darklaunch/verdict/stat"
)

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
			if reason.Text += " is broken: "; o.Value != nil {
				reason.Text += e.amount(*o.Value, o.Unit)
			} else {
				reason.Text += "so many calls timed out"
			}
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
