package judge

import (
	"maps"
	"math"
	"slices"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/verdict/stat"
)

// Other is the row that holds the routes that have too little for rows of their
// own; All is the route of what is not known by route.
const (
	Other = "other"
	All   = "*"
)

// statistics are those of a latency, in the order of quantiles.Seconds. A mean is
// none of the quantiles.
var statistics = [...]struct {
	name string
	q    float64
}{{"mean", math.NaN()}, {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}}

func statistic(name string) int {
	for i := range statistics {
		if statistics[i].name == name {
			return i
		}
	}
	return -1
}

// needed is how many calls of a block tell the statistic: ten beyond a quantile,
// as many below.
func needed(i int) uint64 {
	q := statistics[i].q
	if math.IsNaN(q) {
		q = 0.5
	}
	return uint64(math.Round(10 / min(q, 1-q)))
}

// tally adds up what windows say of a route.
type tally struct {
	Latency         map[Role]*dist
	Shadow, Control Outcomes
	Calls           map[Role]Calls
	Differences     Differences
}

// dist is a distribution of which some values are only known to be long.
type dist struct {
	Hist     histogram
	Timeouts uint64
}

func newTally() *tally { return &tally{Latency: map[Role]*dist{}, Calls: map[Role]Calls{}} }

func (t *tally) add(r Route) {
	for role, l := range r.Latency {
		d := t.Latency[role]
		if d == nil {
			d = new(dist)
			t.Latency[role] = d
		}
		if l.Durations != nil {
			d.Hist.Merge(l.Durations)
		}
		d.Timeouts += l.Timeouts
	}
	t.Shadow, t.Control = t.Shadow.plus(r.Shadow), t.Control.plus(r.Control)
	for role, c := range r.Calls {
		sum := t.Calls[role]
		t.Calls[role] = Calls{sum.Total + c.Total, sum.Failed + c.Failed}
	}
	t.Differences = t.Differences.plus(r.Differences)
}

func (o Outcomes) plus(p Outcomes) Outcomes {
	return Outcomes{o.BothOK + p.BothOK, o.RoleOnlyFailed + p.RoleOnlyFailed, o.LiveOnlyFailed + p.LiveOnlyFailed, o.BothFailed + p.BothFailed}
}

func (o Outcomes) total() uint64 {
	return o.BothOK + o.RoleOnlyFailed + o.LiveOnlyFailed + o.BothFailed
}

func (d Differences) plus(e Differences) Differences {
	return Differences{d.Same + e.Same, d.ShadowOnly + e.ShadowOnly, d.ControlOnly + e.ControlOnly, d.Both + e.Both}
}

func (d Differences) total() uint64 { return d.Same + d.ShadowOnly + d.ControlOnly + d.Both }

func (u Usage) plus(v Usage) Usage {
	return Usage{u.CPU + v.CPU, u.Allocations + v.Allocations, u.Requests + v.Requests, max(u.Memory, v.Memory)}
}

// count is how many calls of role there were.
func (t *tally) count(role Role) uint64 {
	if d := t.Latency[role]; d != nil {
		return uint64(d.Hist.Count()) + d.Timeouts
	}
	return 0
}

// block is what is kept of a block: numbers, not distributions.
type block struct {
	Start  time.Time
	Length time.Duration
	Routes map[string]figures
	Usage  map[Role]Usage
	// Overhead is what the rig added to live's path.
	Overhead quantiles
}

type figures struct {
	Latency         map[Role]quantiles
	Shadow, Control Outcomes
	Calls           map[Role]Calls
	Differences     Differences
}

// quantiles are the statistics of a distribution in seconds, negative where more
// than the rest of it timed out.
type quantiles struct {
	Count   uint64
	Seconds [len(statistics)]float64
}

const censored = -1

func (d *dist) quantiles() quantiles {
	n := uint64(d.Hist.Count())
	q := quantiles{Count: n + d.Timeouts}
	for i, s := range statistics {
		switch {
		case n == 0 && d.Timeouts == 0:
		case math.IsNaN(s.q) && d.Timeouts > 0, s.q*float64(q.Count) > float64(n):
			q.Seconds[i] = censored
		case math.IsNaN(s.q):
			q.Seconds[i] = d.Hist.Seconds() / float64(n)
		default:
			q.Seconds[i] = d.Hist.Quantile(s.q * float64(q.Count) / float64(n)).Seconds()
		}
	}
	return q
}

func (t *tally) figures() figures {
	f := figures{Latency: map[Role]quantiles{}, Shadow: t.Shadow, Control: t.Control, Calls: maps.Clone(t.Calls), Differences: t.Differences}
	for role, d := range t.Latency {
		f.Latency[role] = d.quantiles()
	}
	return f
}

// An opened block takes windows in until it is closed.
type opened struct {
	Start    time.Time
	Length   time.Duration
	Windows  int
	Routes   map[string]*tally
	Usage    map[Role]Usage
	Overhead dist
}

func open() *opened { return &opened{Routes: map[string]*tally{}, Usage: map[Role]Usage{}} }

// add takes a window in; row says which row a route belongs to.
func (b *opened) add(w Window, row func(string) string) {
	if b.Windows == 0 {
		b.Start = w.Start
	}
	b.Windows++
	b.Length += w.Length
	for name, r := range w.Routes {
		if r.empty() {
			continue
		}
		to := row(name)
		if b.Routes[to] == nil {
			b.Routes[to] = newTally()
		}
		b.Routes[to].add(r)
	}
	for role, u := range w.Usage {
		b.Usage[role] = b.Usage[role].plus(u)
	}
	if w.Rig.Overhead != nil {
		b.Overhead.Hist.Merge(w.Rig.Overhead)
	}
}

// empty: live saw traffic of the route at most, and nobody else did.
func (r *Route) empty() bool {
	for _, l := range r.Latency {
		if count(l) > 0 {
			return false
		}
	}
	for _, c := range r.Calls {
		if c.Total > 0 {
			return false
		}
	}
	return r.Shadow.total() == 0 && r.Differences.total() == 0
}

func (b *opened) close() block {
	closed := block{Start: b.Start, Length: b.Length, Routes: map[string]figures{}, Usage: b.Usage, Overhead: b.Overhead.quantiles()}
	for name, t := range b.Routes {
		closed.Routes[name] = t.figures()
	}
	return closed
}

// layout is how windows become blocks and routes become rows.
type layout struct {
	Windows int             // a block
	Rho     float64         // of windows
	Steady  float64         // the same but for a trend
	Rows    map[string]bool // the routes that have rows of their own; nil: all
}

func (l layout) row(route string) string {
	if l.Rows == nil || l.Rows[route] {
		return route
	}
	return Other
}

// plan decides on a layout from windows, of which as many as most are to come.
func (e *evidence) plan(windows []Window, most int) layout {
	of, against := e.latencyRoles()
	pairs := map[string]uint64{}
	sides := map[string][2]uint64{}
	var series []float64
	for _, w := range windows {
		for name, r := range w.Routes {
			if r.empty() {
				continue
			}
			x, y := count(r.Latency[of]), count(r.Latency[against])
			if x+y == 0 {
				pairs[name] += e.pairs(r)
			}
			pairs[name] += min(x, y)
			sides[name] = [2]uint64{sides[name][0] + x, sides[name][1] + y}
		}
		if v, ok := e.median(w); ok {
			series = append(series, v)
		}
	}
	l := layout{Windows: 1}
	if !e.whole {
		l.Rho, l.Steady = stat.Rho(series), stat.Rho(stat.Detrended(series))
		l.Windows = stat.BlockLength(l.Rho, most)
	}
	busiest := ""
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		if busiest == "" || pairs[name] > pairs[busiest] {
			busiest = name
		}
	}
	if len(windows) == 0 || busiest == "" {
		return l
	}
	each := func(name string) float64 { return float64(pairs[name]) / float64(len(windows)) }
	for !e.whole && l.Windows < most/8 && each(busiest)*float64(l.Windows) < float64(e.enough(busiest)) {
		l.Windows++
	}
	if len(pairs) > 1 {
		l.Rows = map[string]bool{}
		for name := range pairs {
			// Counts vary from block to block.
			l.Rows[name] = each(name)*float64(l.Windows) >= 1.2*float64(e.enough(name)) ||
				(sides[name][0] == 0) != (sides[name][1] == 0) || // not to be hidden among others
				slices.ContainsFunc(e.cfg.Limits, func(l Limit) bool { return l.Route == name })
		}
	}
	return l
}

func count(l Latency) uint64 {
	if l.Durations == nil {
		return l.Timeouts
	}
	return uint64(l.Durations.Count()) + l.Timeouts
}

// median is the log-ratio of the medians of all calls of a window.
func (e *evidence) median(w Window) (float64, bool) {
	of, against := e.latencyRoles()
	var both [2]hist.Hist
	for _, r := range w.Routes {
		for i, role := range []Role{of, against} {
			if l := r.Latency[role]; l.Durations != nil {
				both[i].Merge(l.Durations)
			}
		}
	}
	x, y := both[0].Quantile(0.5), both[1].Quantile(0.5)
	return math.Log(float64(x) / float64(y)), x > 0 && y > 0
}

// enough is how many calls a block needs for all latency gates of route.
func (e *evidence) enough(route string) uint64 {
	most := needed(statistic("p50"))
	for _, r := range e.rules(route) {
		if i := statistic(r.Stat); r.Name == MetricLatency && r.Use != UseWatch && i >= 0 {
			most = max(most, needed(i))
		}
	}
	return most
}
