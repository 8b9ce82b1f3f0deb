package join

import (
	"fmt"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/judge"
)

// mirror is what is known of one mirror; its exported fields outlive a restart.
type mirror struct {
	Version  string
	Here     bool      // it is connected
	Last     time.Time // when something came last
	Sequence uint64    // of the last record
	Until    time.Time // end of the last window

	Seen, Lost, Shed uint64

	// What balances the numbers of records, since the mirror was first seen: those
	// missing; those of them that the mirror chose not to send; and pairs that were
	// to be compared here, as it says and as they came. Told is what was told lost.
	Gap, Budget, Expected, Shipped, Told uint64
	Pairs                                uint64 // since the last window

	Totals *totals // nil before the first window
	Differ map[string]*judge.Differences

	offsets offsets
}

func newMirror() *mirror { return &mirror{Differ: map[string]*judge.Differences{}} }

// follow notes the number of a record, and what is missing before it.
func (m *mirror) follow(sequence uint64) error {
	if sequence <= m.Sequence {
		return ErrAgain
	}
	if m.Sequence > 0 { // of what was before we came nothing is known
		m.Gap += sequence - m.Sequence - 1
	}
	m.Sequence = sequence
	return nil
}

// budget is the mirror's reason for pairs that it chose not to write down.
const budget = "budget"

// balance returns how many records the mirror put on its stream since its last
// window, w included, and how many of them are lost. Pairs that it had compared
// itself and chose not to show are none, for windows count them; pairs that were to
// be compared here are, whatever the reason.
func (m *mirror) balance(w *pairv1.Window) (sent, lost uint64) {
	for _, l := range w.GetLosses() {
		if l.GetReason() == budget {
			if m.Totals == nil {
				m.Budget = 0
			} else if l.GetCount() > m.Totals.Budget {
				m.Budget += l.GetCount() - m.Totals.Budget
			}
		}
	}
	for _, r := range w.GetRoutes() {
		m.Expected += r.GetShipped()
	}
	total := max(less(m.Gap, m.Budget), less(m.Expected, m.Shipped))
	lost = less(total, m.Told)
	m.Told += lost
	sent = lost + 1 + m.Pairs
	m.Pairs = 0
	return sent, lost
}

// less is a - b, or 0 where that is negative.
func less(a, b uint64) uint64 { return a - min(a, b) }

// count takes a pair that was compared here.
func (m *mirror) count(route string, p Pair) {
	d := m.Differ[route]
	if d == nil {
		d = new(judge.Differences)
		m.Differ[route] = d
	}
	switch {
	case p.ShadowDiffers && p.ControlDiffers:
		d.Both++
	case p.ShadowDiffers:
		d.ShadowOnly++
	case p.ControlDiffers:
		d.ControlOnly++
	default:
		d.Same++
	}
}

// totals are what a mirror's last window said in total.
type totals struct {
	Budget    uint64
	Accounts  map[string]uint64 // by role and what
	Processes map[string]process
}

type process struct{ CPU, Allocations, Requests, Start float64 }

// deltas puts what happened in a window in place of its totals. Of the first window
// of a mirror nothing is known but the totals, so that it comes to nothing, as
// does what has gone back.
func (m *mirror) deltas(w *pairv1.Window) {
	first := m.Totals == nil
	before := totals{}
	if !first {
		before = *m.Totals
	}
	now := &totals{Budget: before.Budget, Accounts: map[string]uint64{}, Processes: map[string]process{}}
	for _, l := range w.GetLosses() {
		if l.GetReason() == budget {
			now.Budget = l.GetCount()
		}
	}
	since := func(key string, value uint64) uint64 {
		now.Accounts[key] = value
		if first {
			return 0
		}
		return less(value, before.Accounts[key])
	}
	for _, a := range w.GetAccounting() {
		role := a.GetRole().String()
		a.Offered = since(role+" offered", a.GetOffered())
		a.Sent = since(role+" sent", a.GetSent())
		for _, d := range a.GetDropped() {
			d.Count = since(role+" "+d.GetReason(), d.GetCount())
		}
	}
	for _, p := range w.GetProcesses() {
		key := p.GetRole().String() + " " + p.GetName()
		is := process{p.GetCpuSeconds(), p.GetAllocations(), p.GetRequests(), p.GetStartSeconds()}
		was, known := before.Processes[key]
		now.Processes[key] = is
		if !known || was.Start != is.Start || is.CPU < was.CPU || is.Allocations < was.Allocations || is.Requests < was.Requests {
			was = is // another process, or the first look at it
		}
		p.CpuSeconds, p.Allocations, p.Requests = is.CPU-was.CPU, is.Allocations-was.Allocations, is.Requests-was.Requests
	}
	m.Totals = now
}

// offsets are by how much the last windows came after their end: the least of them
// is how far the clock is behind ours, and the shortest way.
type offsets struct {
	at   time.Time
	last [16]time.Duration
	n    int
}

// note takes the end of a window and when it came. Windows that come faster than
// they were made have been waiting somewhere, and say nothing.
func (o *offsets) note(end time.Time, length time.Duration, at time.Time) {
	if !o.at.IsZero() && at.Sub(o.at) >= length/4 {
		o.last[o.n%len(o.last)] = at.Sub(end)
		o.n++
	}
	o.at = at
}

// least is the offset; 0 while too little is known.
func (o *offsets) least() time.Duration {
	if o.n < 3 {
		return 0
	}
	least := o.last[0]
	for _, d := range o.last[:min(o.n, len(o.last))] {
		least = min(least, d)
	}
	return least
}

// Limits of what one window may say, so that sums over many can't overflow.
const (
	maxCount  = 1 << 40
	maxLength = time.Hour
	maxName   = 512
	maxList   = 4096
)

// Check says what about a window cannot be.
func Check(w *pairv1.Window) error {
	if w.GetLength() <= 0 || w.GetLength() > int64(maxLength) {
		return fmt.Errorf("a window of %v", time.Duration(w.GetLength()))
	}
	if len(w.GetRoutes()) > maxList || len(w.GetAccounting()) > 8 || len(w.GetProcesses()) > 256 || len(w.GetLosses()) > 64 {
		return fmt.Errorf("a window with %d routes, %d accounts, %d processes and %d losses", len(w.GetRoutes()), len(w.GetAccounting()), len(w.GetProcesses()), len(w.GetLosses()))
	}
	c := checker{}
	for _, r := range w.GetRoutes() {
		c.route(r)
	}
	for _, a := range w.GetAccounting() {
		c.count("copies", a.GetOffered(), a.GetSent(), a.GetPending())
		c.list("drops", len(a.GetDropped()), 64)
		for _, d := range a.GetDropped() {
			c.name(d.GetReason())
		}
	}
	for _, p := range w.GetProcesses() {
		c.name(p.GetName())
		for _, v := range []float64{p.GetCpuSeconds(), p.GetAllocations(), p.GetRequests(), p.GetStartSeconds()} {
			if !(v >= 0 && v <= 1e18) {
				c.fail("a process with %v", v)
			}
		}
	}
	c.histogram(w.GetRig().GetRelayOverhead())
	c.histogram(w.GetRig().GetSendLateness())
	if cpu, quota := w.GetRig().GetCpu(), w.GetRig().GetCpuQuota(); cpu < 0 || quota < 0 || cpu > maxCount*1024 || quota > maxCount*1024 {
		c.fail("%v of CPU time of %v", time.Duration(cpu), time.Duration(quota))
	}
	return c.err
}

// checker keeps the first thing that is wrong.
type checker struct{ err error }

func (c *checker) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

func (c *checker) name(s string) {
	if len(s) > maxName {
		c.fail("a name of %d bytes", len(s))
	}
}

func (c *checker) list(what string, n, most int) {
	if n > most {
		c.fail("%d %s", n, what)
	}
}

func (c *checker) count(what string, values ...uint64) {
	for _, n := range values {
		if n > maxCount {
			c.fail("%d %s, more than can be true", n, what)
		}
	}
}

func (c *checker) route(r *pairv1.RouteWindow) {
	c.name(r.GetRoute())
	c.list("latencies", len(r.GetPairs()), 8)
	c.list("groups", len(r.GetLive()), 8)
	for _, p := range r.GetPairs() {
		c.count("timeouts", p.GetTimeouts())
		c.histogram(p.GetDurations())
	}
	for _, o := range []*pairv1.Outcomes{r.GetShadow(), r.GetControl()} {
		c.count("outcomes", o.GetBothOk(), o.GetRoleOnlyFailed(), o.GetLiveOnlyFailed(), o.GetBothFailed())
	}
	d := r.GetDifferences()
	c.count("differences", d.GetSame(), d.GetShadowOnly(), d.GetControlOnly(), d.GetBoth())
	c.count("pairs", r.GetUnjudged(), r.GetApart(), r.GetIncomplete(), r.GetShipped(), r.GetUnshared(), r.GetUnknownIds())
	for _, l := range r.GetLive() {
		c.count("requests", l.GetRequests(), l.GetFailed())
		c.histogram(l.GetDurations())
	}
}

// lastBucket is that of the longest duration that a histogram tells apart.
const lastBucket = 33<<10 - 1

func (c *checker) histogram(h *pairv1.Histogram) {
	if len(h.GetSteps()) != len(h.GetCounts()) {
		c.fail("histogram: %d buckets with %d counts", len(h.GetSteps()), len(h.GetCounts()))
		return
	}
	at := uint64(0)
	for i, step := range h.GetSteps() {
		at += uint64(step)
		if step == 0 && i > 0 || at > lastBucket {
			c.fail("histogram: no bucket %d", at)
			return
		}
		c.count("durations", h.GetCounts()[i])
	}
}
