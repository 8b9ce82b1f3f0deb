package gate

import (
	"fmt"
	"slices"
	"time"

	"darklaunch/loadgen"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/loads"
)

// run is what one arm did in one round.
type run struct {
	result *loadgen.Result
	cpu    time.Duration
	memory int64
}

// window is a round, by arm.
type window struct {
	start time.Time
	of    map[int]run
}

// look asks the judge.
func (g *gate) look(interrupted bool) (o *Outcome, more bool) {
	d, more := g.compare("gate", 1, interrupted)
	o = &Outcome{Document: d, Rounds: len(g.done)}
	if g.Quiet {
		o.Quiet, _ = g.compare("base against itself", 2, interrupted)
		if noisy(d, o.Quiet) {
			more = true
		}
	}
	return o, more
}

func (g *gate) judge(interrupted bool) *Outcome {
	o, _ := g.look(interrupted)
	return o
}

// compare judges base against the arm other.
func (g *gate) compare(name string, other int, interrupted bool) (d *judge.Document, more bool) {
	c := judge.Comparison{Name: name, Unpaired: true}
	for i, role := range map[int]judge.Role{0: judge.Base, other: judge.Head} {
		a := g.arms[i]
		c.Arms = append(c.Arms, judge.Arm{Role: role, Name: a.name, Version: a.version, Plan: g.done[0].of[i].result.Plan, Fingerprint: g.done[0].of[i].result.Generator.Machine})
	}
	if c.Arms[0].Role != judge.Base {
		c.Arms[0], c.Arms[1] = c.Arms[1], c.Arms[0]
	}
	var windows []judge.Window
	var broken []error
	for n, w := range g.done {
		jw, err := w.window(other)
		if err != nil {
			broken = append(broken, fmt.Errorf("round %d: %w", n, err))
		}
		windows = append(windows, jw)
	}
	now := time.Now()
	d, more = judge.JudgeRounds(c, g.Judge, windows, g.Looks, now, interrupted)
	if lateAlone(d) && !interrupted {
		if cost, _ := judge.JudgeRounds(c, costAlone(g.Judge), punctual(windows), g.Looks, now, false); cost.Verdict == judge.Fail {
			doubts := slices.DeleteFunc(d.Reasons, func(r judge.Reason) bool { return r.Code == judge.ReasonMargin })
			d.Verdict, d.Reasons, more = judge.Fail, append(cost.Reasons, doubts...), false
		}
	}
	for _, err := range broken {
		// A round that can't be read is none, and so much less a pass.
		unsettle(d, judge.Reason{Code: judge.ReasonInvalid, Text: err.Error()})
	}
	return d, more
}

// lateAlone is whether the rig would be trusted but for calls that were late.
func lateAlone(d *judge.Document) bool {
	late := false
	for _, g := range d.Rig.Gates {
		if !g.OK && g.Name != judge.ReasonLate {
			return false
		}
		late = late || !g.OK
	}
	return late
}

// costAlone leaves to be judged what calls cost: that is counted in processor time,
// and is the same whenever they were made. On a machine that is busy with
// something else it may be all that can be told. It is asked for a fail alone.
func costAlone(cfg judge.Config) judge.Config {
	cfg.Metrics = slices.Clone(cfg.Metrics)
	for i, r := range cfg.Metrics {
		if r.Name != judge.MetricCPU && r.Name != judge.MetricMemory {
			cfg.Metrics[i].Use = judge.UseWatch
		}
	}
	return cfg
}

// punctual are the windows without what is known of late calls.
func punctual(windows []judge.Window) []judge.Window {
	windows = slices.Clone(windows)
	for i := range windows {
		windows[i].Rig.Lateness = nil
	}
	return windows
}

// unsettle takes a pass, or a fail, back.
func unsettle(d *judge.Document, why judge.Reason) {
	d.Verdict = judge.Inconclusive
	d.Reasons = append([]judge.Reason{why}, d.Reasons...)
}

// noisy takes d back if the rig sees a difference between base and itself.
func noisy(d, quiet *judge.Document) bool {
	bad := quiet.Verdict == judge.Fail
	text := "base does not differ from itself beyond the margins"
	if bad {
		text = "the rig is not quiet: base fails against itself"
		for _, r := range quiet.Reasons {
			text += "; " + r.Text
		}
		unsettle(d, judge.Reason{Code: judge.ReasonRigNoise, Text: text, Cure: "a quieter machine, longer rounds or wider margins"})
	}
	d.Rig.Gates = append(d.Rig.Gates, judge.Gate{Name: judge.ReasonRigNoise, Role: judge.Base, Unit: "share", OK: !bad, Text: text})
	return bad
}

// window is the round as the judge takes it: arm 0 as base, arm other as head.
func (w *window) window(other int) (judge.Window, error) {
	base, head := w.of[0], w.of[other]
	jw, err := loads.Window(loads.Run{Name: "base", Result: base.result}, loads.Run{Name: "head", Result: head.result})
	jw.Start = w.start
	jw.Usage = map[judge.Role]judge.Usage{judge.Base: base.usage(), judge.Head: head.usage()}
	return jw, err
}

func (r *run) usage() judge.Usage {
	return judge.Usage{CPU: r.cpu, Requests: r.result.Generator.Calls(), Memory: float64(r.memory)}
}
