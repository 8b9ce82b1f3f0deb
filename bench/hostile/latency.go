package hostile

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/side"
)

// Slices compares the latency that live's clients meet while a shadow in one
// state after another is sent copies with that without mirroring: in slices of
// time, by turns, through a proxy that mirrors and through one that does not.
// More are added until the comparison of each state is narrow or time is up.
type Slices struct {
	Proxy  Proxy
	Live   string          // host:port
	States []shadows.State // nil means all; Off compares two proxies that do not mirror

	Length time.Duration // of a slice
	Most   time.Duration // of all together
	// Narrow is how far the bounds of the ratio of each state may be from its
	// centre, as a share of it; 0.1 is ± 10 %.
	Narrow float64

	// Load sends requests to an address for so long.
	Load func(addr string, d time.Duration) (Slice, error)
	// Shadow starts one.
	Shadow func(shadows.State, shadows.Protocol) (*Running, error)
}

// A Running is a shadow, wherever it runs.
type Running struct {
	Addr     string // see shadows.Shadow
	Evidence func() (shadows.Evidence, error)
	Stop     func()
}

// A Slice is what clients met in a slice.
type Slice struct {
	P50, P99 time.Duration
	Failed   float64 // requests that had no good answer
}

// A Pair is two slices one after the other, with a shadow and without.
type Pair struct{ On, Off Slice }

// A Latency is what clients met while the shadow was in a state.
type Latency struct {
	State shadows.State
	Pairs []Pair
	Bites int64 // how often its fault happened; see shadows.Evidence
}

// Latencies are those of all states, in order.
type Latencies []Latency

// Run measures. It ends after the first block that leaves no time for another,
// so that a state may have been left out.
func (s Slices) Run() (Latencies, error) {
	if s.States == nil {
		s.States = shadows.All()
	}
	off, err := s.Proxy.Start(s.Live, "")
	if err != nil {
		return nil, err
	}
	defer off.Stop()
	all := make(Latencies, len(s.States))
	for i, state := range s.States {
		all[i].State = state
	}
	begun, longest := time.Now(), time.Duration(0)
	for round, open := 0, true; open; round++ {
		open = false
		for i := range all {
			if all[i].narrow(s.Narrow) {
				continue
			}
			if time.Since(begun)+longest > s.Most {
				return all, nil
			}
			open = true
			start := time.Now()
			if err := s.block(&all[i], off.Addr, round); err != nil {
				return all, fmt.Errorf("%s, %s: %w", s.Proxy.Name, all[i].State, err)
			}
			longest = max(longest, time.Since(start))
		}
	}
	return all, nil
}

// block adds two pairs in the order on, off, off, on, or the other way round: a
// drift of the machine over the block favours neither.
func (s Slices) block(l *Latency, off string, round int) error {
	sh, err := s.Shadow(l.State, s.Proxy.Protocol)
	if err != nil {
		return err
	}
	defer sh.Stop()
	to := sh.Addr
	if l.State == shadows.Off {
		to = ""
	}
	in, err := s.Proxy.Start(s.Live, to)
	if err != nil {
		return err
	}
	defer in.Stop()
	for _, addr := range []string{in.Addr, off} {
		if _, err := s.Load(addr, s.Length/5); err != nil { // to warm up
			return err
		}
	}
	var pairs [2]Pair
	order := []struct {
		addr string
		into *Slice
	}{{in.Addr, &pairs[0].On}, {off, &pairs[0].Off}, {off, &pairs[1].Off}, {in.Addr, &pairs[1].On}}
	if round%2 == 1 {
		order[0], order[1], order[2], order[3] = order[1], order[0], order[3], order[2]
	}
	for _, slice := range order {
		if *slice.into, err = s.Load(slice.addr, s.Length); err != nil {
			return err
		}
	}
	seen, err := sh.Evidence()
	if err != nil {
		return err
	}
	l.Bites += seen.Bites
	l.Pairs = append(l.Pairs, pairs[:]...)
	return nil
}

// A Ratio is of latency with a shadow to that without: the centre of the ratios
// of pairs, with a 95 % interval; both are of their logarithms, see side.Paired.
type Ratio struct{ Centre, Lower, Upper float64 }

func ratio(logs []float64) Ratio {
	i := side.Paired(logs)
	return Ratio{math.Exp(i.Centre), math.Exp(i.Lower), math.Exp(i.Upper)}
}

func (r Ratio) String() string {
	if math.IsInf(r.Upper, 1) {
		return fmt.Sprintf("%.2f [too few]", r.Centre)
	}
	return fmt.Sprintf("%.2f [%.2f, %.2f]", r.Centre, r.Lower, r.Upper)
}

// narrow reports whether the interval is within a share of its centre.
func (r Ratio) narrow(share float64) bool {
	return r.Upper <= r.Centre*(1+share) && r.Lower >= r.Centre*(1-share)
}

func p50(s Slice) time.Duration { return s.P50 }
func p99(s Slice) time.Duration { return s.P99 }

func (l *Latency) logs(of func(Slice) time.Duration) []float64 {
	logs := make([]float64, len(l.Pairs))
	for i, p := range l.Pairs {
		logs[i] = math.Log(of(p.On).Seconds() / of(p.Off).Seconds())
	}
	return logs
}

func (l *Latency) narrow(share float64) bool {
	return ratio(l.logs(p50)).narrow(share) && ratio(l.logs(p99)).narrow(share)
}

// pooled is over all pairs with a shadow.
func (all Latencies) pooled(of func(Slice) time.Duration) Ratio {
	var logs []float64
	for i := range all {
		if all[i].State != shadows.Off {
			logs = append(logs, all[i].logs(of)...)
		}
	}
	return ratio(logs)
}

// The bars: what the upper bounds over all states may be, and the lower bound of
// each alone.
const (
	barP50, barP99 = 1.05, 1.25
	barAlone       = 1.0
)

// quantiles are those that are compared.
var quantiles = []struct {
	name string
	of   func(Slice) time.Duration
	bar  float64
}{{"p50", p50, barP50}, {"p99", p99, barP99}}

// Problems lists what is wrong: latency that is worse with a shadow, as far as the
// pairs can tell, and faults that did not happen.
func (all Latencies) Problems() []string {
	var ps []string
	for _, q := range quantiles {
		if r := all.pooled(q.of); !(r.Upper <= q.bar) {
			ps = append(ps, fmt.Sprintf("all states: %s with a shadow is %v of that without, want at most %.2f", q.name, r, q.bar))
		}
	}
	for i := range all {
		l := &all[i]
		if l.State == shadows.Off {
			continue
		}
		for _, q := range quantiles {
			if r := ratio(l.logs(q.of)); r.Lower > barAlone {
				ps = append(ps, fmt.Sprintf("%s: %s with the shadow is %v of that without", l.State, q.name, r))
			}
		}
		if len(l.Pairs) > 0 && l.Bites == 0 {
			ps = append(ps, fmt.Sprintf("%s: the fault did not happen: 0 %s", l.State, l.State.Bites()))
		}
	}
	return ps
}

// Markdown is a table of the states and a line a claim.
func (all Latencies) Markdown() string {
	var b strings.Builder
	b.WriteString("| shadow | pairs | p50 off → on, µs | ratio of p50 | p99 off → on, µs | ratio of p99 | failed off / on | it happened |\n|---|---:|---:|---:|---:|---:|---:|---|\n")
	for i := range all {
		l := &all[i]
		name := string(l.State)
		happened := fmt.Sprintf("%d %s", l.Bites, l.State.Bites())
		if l.State == shadows.Off {
			name, happened = "none (twice without)", "–"
		}
		fmt.Fprintf(&b, "| %s | %d | %s | %v | %s | %v | %s | %s |\n", name, len(l.Pairs),
			l.medians(p50), ratio(l.logs(p50)), l.medians(p99), ratio(l.logs(p99)), l.failures(), happened)
	}
	fmt.Fprintf(&b, "| all with a shadow | %d | | %v | | %v | | |\n\n", all.pairs(), all.pooled(p50), all.pooled(p99))
	for _, q := range quantiles {
		r := all.pooled(q.of)
		fmt.Fprintf(&b, "* %s with a shadow, all states, ≤ %.2f × without: %v, %s.\n", q.name, q.bar, r, side.Said(r.Lower, r.Upper, q.bar))
	}
	var worse []string
	for _, p := range all.Problems() {
		if !strings.HasPrefix(p, "all states: ") {
			worse = append(worse, p)
		}
	}
	if len(worse) == 0 {
		b.WriteString("* Each state alone: no lower bound is above 1; every fault happened.\n")
	}
	for _, p := range worse {
		b.WriteString("* " + p + ".\n")
	}
	return b.String()
}

func (all Latencies) pairs() (n int) {
	for i := range all {
		if all[i].State != shadows.Off {
			n += len(all[i].Pairs)
		}
	}
	return n
}

// medians are of the slices without and with the shadow.
func (l *Latency) medians(of func(Slice) time.Duration) string {
	if len(l.Pairs) == 0 {
		return "–"
	}
	var off, on []time.Duration
	for _, p := range l.Pairs {
		off, on = append(off, of(p.Off)), append(on, of(p.On))
	}
	slices.Sort(off)
	slices.Sort(on)
	return fmt.Sprintf("%d → %d", off[len(off)/2].Microseconds(), on[len(on)/2].Microseconds())
}

func (l *Latency) failures() string {
	off, on := 0.0, 0.0
	for _, p := range l.Pairs {
		off, on = off+p.Off.Failed, on+p.On.Failed
	}
	return fmt.Sprintf("%.0f / %.0f", off, on)
}
