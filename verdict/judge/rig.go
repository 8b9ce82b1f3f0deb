package judge

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"darklaunch/internal/hist"
)

// chosen are the reasons for which a mirror leaves copies out though it could send
// them; drops for any other reason are caused by load.
var chosen = []string{"killed", "switchback", "body_too_large", "streaming", "no_counterpart", "translate", "live_aborted", "shutdown"}

// rig adds up what the rig did.
type rig struct {
	Accounts               map[Role]*RoleCoverage
	StreamSent, StreamLost uint64
	Lateness, Overhead     histogram
	CPU, Quota             time.Duration
	ClockOffset            time.Duration
	Shortest               time.Duration // window
	Disorder               string        // what is wrong with the windows' times
	Last                   time.Time     // end of the last window
}

func (g *rig) add(w Window) {
	for _, a := range w.Rig.Accounts {
		sum := g.Accounts[a.Role]
		if sum == nil {
			sum = &RoleCoverage{Role: a.Role, Dropped: map[string]uint64{}, Chosen: map[string]uint64{}}
			g.Accounts[a.Role] = sum
		}
		sum.Offered += a.Offered
		sum.Sent += a.Sent
		for reason, n := range a.Dropped {
			if slices.Contains(chosen, reason) {
				sum.Chosen[reason] += n
			} else {
				sum.Dropped[reason] += n
			}
		}
	}
	g.StreamSent += w.Rig.StreamSent
	g.StreamLost += w.Rig.StreamLost
	if w.Rig.Lateness != nil {
		g.Lateness.Merge(w.Rig.Lateness)
	}
	if w.Rig.Overhead != nil {
		g.Overhead.Merge(w.Rig.Overhead)
	}
	g.CPU += w.Rig.CPU
	g.Quota += w.Rig.Quota
	g.ClockOffset = max(g.ClockOffset, w.Rig.ClockOffset.Abs())
	g.times(w)
}

// times checks that windows come one after the other.
func (g *rig) times(w Window) {
	if w.Length > 0 && (g.Shortest == 0 || w.Length < g.Shortest) {
		g.Shortest = w.Length
	}
	switch {
	case w.Length < 0:
		g.Disorder = "a window has a negative length"
	case w.Start.IsZero():
		return
	case !g.Last.IsZero() && w.Start.Before(g.Last.Add(-w.Length/2)):
		g.Disorder = fmt.Sprintf("the window of %s overlaps the one before", w.Start.UTC().Format(time.RFC3339))
	}
	if end := w.Start.Add(w.Length); end.After(g.Last) {
		g.Last = end
	}
}

// gates checks the rig. A gate whose value is not known is left out.
func (e *evidence) gates() ([]Gate, []Reason) {
	var gates []Gate
	var broken []Reason
	check := func(name string, role Role, value, limit float64, unit, text, cure string) {
		g := Gate{Name: name, Role: role, Value: finite(value), Limit: limit, Unit: unit, OK: value <= limit, Text: text}
		gates = append(gates, g)
		if !g.OK {
			broken = append(broken, Reason{Code: name, Text: text, Cure: cure})
		}
	}
	for _, role := range slices.Sorted(maps.Keys(e.rig.Accounts)) {
		a := e.rig.Accounts[role]
		var dropped uint64
		for _, n := range a.Dropped {
			dropped += n
		}
		if a.Offered > 0 {
			share := float64(dropped) / float64(a.Offered)
			check(ReasonDropped, role, share, e.cfg.MaxDropped, "share",
				fmt.Sprintf("load dropped %s of the copies for %s%s, allowed are %s: those dropped are likely the slow ones", percent(share), role, reasons(a.Dropped), percent(e.cfg.MaxDropped)),
				"a smaller sample, or more capacity for "+string(role))
		}
	}
	if all := e.rig.StreamSent + e.rig.StreamLost; all > 0 {
		share := float64(e.rig.StreamLost) / float64(all)
		check(ReasonStream, "", share, e.cfg.MaxStreamLost, "share",
			fmt.Sprintf("%s of the pair stream was lost, allowed are %s", percent(share), percent(e.cfg.MaxStreamLost)),
			"a smaller share of pairs on the stream, or a faster verdict")
	}
	late := e.lateLimit()
	if e.rig.Lateness.Count() > 0 {
		p99 := e.rig.Lateness.Quantile(0.99)
		check(ReasonLate, "", p99.Seconds(), late.Seconds(), "s",
			fmt.Sprintf("the rig sent calls late: p99 %s, allowed %s", round(p99), round(late)), "a lighter load, or more CPU time for the generator or mirror")
	}
	if e.rig.Overhead.Count() > 0 {
		p99 := e.rig.Overhead.Quantile(0.99)
		check(ReasonLate, Live, p99.Seconds(), late.Seconds(), "s",
			fmt.Sprintf("the mirror held live's bytes: p99 %s, allowed %s", round(p99), round(late)), "more CPU time for the mirror")
	}
	if e.rig.Quota > 0 {
		busy := e.rig.CPU.Seconds() / e.rig.Quota.Seconds()
		check(ReasonHot, "", busy, e.cfg.MaxBusy, "share",
			fmt.Sprintf("the rig used %s of its CPU time, allowed are %s", percent(busy), percent(e.cfg.MaxBusy)), "a smaller sample, a lighter load or more CPUs")
	}
	clock := max(500*time.Millisecond, e.rig.Shortest/2)
	if e.rig.Disorder != "" {
		broken = append(broken, Reason{Code: ReasonClock, Text: "times make no sense: " + e.rig.Disorder, Cure: "set the clocks, and judge one run at a time"})
	}
	if e.rig.ClockOffset > 0 {
		check(ReasonClock, "", e.rig.ClockOffset.Seconds(), clock.Seconds(), "s",
			fmt.Sprintf("clocks are %s apart, allowed are %s", round(e.rig.ClockOffset), round(clock)), "set the clocks")
	}
	blocks := Gate{Name: ReasonFewBlocks, Value: finite(float64(len(e.blocks))), Limit: float64(e.minBlocks()), Unit: "blocks", OK: len(e.blocks) >= e.minBlocks(),
		Text: fmt.Sprintf("%s after the warm-up, at least %d are needed", e.blockCount(len(e.blocks)), e.minBlocks())}
	gates = append(gates, blocks)
	if !blocks.OK {
		broken = append(broken, Reason{Code: ReasonFewBlocks, Text: blocks.Text, Cure: e.moreBlocks(e.minBlocks() - len(e.blocks))})
	}
	if e.unsteady != nil {
		gates = append(gates, Gate{Name: ReasonUnsteady, Value: &e.unsteady.by, Limit: e.unsteady.limit, Unit: "share", Text: e.unsteady.text})
		broken = append(broken, Reason{Code: ReasonUnsteady, Metric: e.unsteady.metric, Route: e.unsteady.route, Text: e.unsteady.text,
			Cure: "a longer warm-up; if it stays, look for a leak or for something else that ran at the time"})
	}
	return gates, append(broken, e.likeness()...)
}

func (e *evidence) moreBlocks(n int) string {
	if s := e.blockLength().Seconds() * float64(n); s > 0 {
		return fmt.Sprintf("%s more, about %s", e.blockCount(n), about(s))
	}
	return e.blockCount(n) + " more"
}

// lateLimit is how late a rig may be.
func (e *evidence) lateLimit() time.Duration {
	if e.cfg.MaxLate > 0 {
		return e.cfg.MaxLate
	}
	_, against := e.latencyRoles()
	all := new(hist.Hist)
	for _, t := range e.totals {
		if d := t.Latency[against]; d != nil {
			all.Merge(&d.Hist.Hist)
		}
	}
	return max(time.Millisecond, all.Quantile(0.5)/20)
}

// likeness holds that both sides were under the same conditions.
func (e *evidence) likeness() []Reason {
	var broken []Reason
	of, against := e.latencyRoles()
	a, b := e.arm(of), e.arm(against)
	if a == nil || b == nil || of != Head {
		return nil // roles of a mirror get the same calls at the same time
	}
	if a.Plan != b.Plan {
		broken = append(broken, Reason{Code: ReasonPlan, Text: fmt.Sprintf("%s ran plan %s, %s plan %s", against, orNone(b.Plan), of, orNone(a.Plan)),
			Cure: "the same scenario, rate, duration and seed for both"})
	}
	var differ []string
	for _, key := range slices.Sorted(maps.Keys(b.Fingerprint)) {
		if v, w := b.Fingerprint[key], a.Fingerprint[key]; v != w {
			differ = append(differ, fmt.Sprintf("%s (%s, %s)", key, orNone(v), orNone(w)))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(a.Fingerprint)) {
		if _, ok := b.Fingerprint[key]; !ok {
			differ = append(differ, fmt.Sprintf("%s (none, %s)", key, a.Fingerprint[key]))
		}
	}
	if len(differ) > 0 {
		broken = append(broken, Reason{Code: ReasonFingerprint, Text: "they ran under different conditions: " + strings.Join(differ, ", "),
			Cure: "run both on the same machine with the same generator"})
	}
	return broken
}

func (e *evidence) arm(role Role) *Arm {
	for i := range e.comparison.Arms {
		if e.comparison.Arms[i].Role == role {
			return &e.comparison.Arms[i]
		}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func percent(share float64) string { return fmt.Sprintf("%.3g %%", 100*share) }

func round(d time.Duration) time.Duration {
	if d >= 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

func reasons(m map[string]uint64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// coverage adds up what became of the pairs of a route.
func (e *evidence) cover(w Window) {
	for name, r := range w.Routes {
		c := e.coverage[name]
		if c == nil {
			c = &RouteCoverage{Route: name}
			e.coverage[name] = c
		}
		c.Unjudged += r.Unjudged
		c.Apart += r.Apart
		c.Incomplete += r.Incomplete
		c.Shipped += r.Shipped
		c.Unshared += r.Unshared
		c.UnknownIDs += r.UnknownIDs
		for reason, n := range r.Chosen {
			if c.Chosen == nil {
				c.Chosen = map[string]uint64{}
			}
			c.Chosen[reason] += n
		}
		for _, t := range r.Live {
			c.Requests += t.Requests
		}
		c.Pairs += e.pairs(r)
		if e.comparison.Unpaired {
			of, against := e.costRoles()
			c.Requests += r.Calls[of].Total + r.Calls[against].Total
		}
	}
}

// pairs is how many pairs, or calls of the smaller side, a window has of a route.
func (e *evidence) pairs(r Route) uint64 {
	if e.comparison.Unpaired {
		of, against := e.costRoles()
		return min(r.Calls[of].Total, r.Calls[against].Total)
	}
	return r.Shadow.total()
}
