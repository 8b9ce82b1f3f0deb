// Package arrival says when the requests or sessions of a load test begin.
//
// A plan is data: a curve of rates over time, a process that spreads arrivals along it,
// bursts, and a seed. From these every intended time follows before the run, so that
// lateness can be measured against it and a run can be repeated. All of it goes through one
// integral: Λ(t), the number of arrivals expected before t. Processes make points along the
// axis of Λ, where every curve looks the same, and Λ⁻¹ turns them into times:
//
//	Constant     the points 0, 1, 2, …
//	Poisson      sums of exponential gaps of mean 1
//	Conditioned  a Poisson process given its count: the order statistics of uniform points, one after the other
//
// Times are nanoseconds. Points are kept in fixed point and never drift, however long the
// run.
//
// # Splitting a plan
//
// Arrivals are numbered 0, 1, 2, … in order of time. Of total workers, worker i takes those
// with n mod total = i, and numbers them as the whole plan does. So the workers' plans
// together are the whole plan, to the nanosecond, and what depends on (seed, n) alone (who
// arrives, what a session does) does not depend on the split. A worker passes over an
// arrival of another's for the price of a random number (10 to 20 ns), and for nothing
// where arrivals are constant: a hundred workers that send 10,000/s each spend 2 % of a
// core on it.
//
// The package is pure: it asks no clock, starts no goroutine, and keeps constant memory.
package arrival

import (
	"fmt"
	"math"
	"time"

	"darklaunch/loadgen/draw"
)

// Process is a way to spread arrivals along a curve.
type Process uint8

const (
	// Conditioned is a Poisson process given its count: each phase holds exactly its
	// expected number of arrivals, at random times. It is the default, since two runs to be
	// compared should not differ in how much they were asked.
	Conditioned Process = iota
	// Poisson is a Poisson process: the count of each phase is random too.
	Poisson
	// Constant is even: arrival n comes when n arrivals are expected, at a constant rate r
	// at n/r.
	Constant
)

var processes = [...]string{"conditioned", "poisson", "constant"}

func (p Process) String() string {
	if int(p) < len(processes) {
		return processes[p]
	}
	return fmt.Sprintf("process(%d)", p)
}

// MarshalText returns the process's name.
func (p Process) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText takes conditioned, poisson or constant; anything else is an error.
func (p *Process) UnmarshalText(text []byte) error {
	for i, name := range processes {
		if string(text) == name {
			*p = Process(i)
			return nil
		}
	}
	return fmt.Errorf("arrival process %q: want conditioned, poisson or constant", text)
}

// Plan is all that decides when arrivals come.
type Plan struct {
	Seed    uint64
	Curve   *Curve
	Process Process
	// Bursts multiply the curve's rate; the zero value means none.
	Bursts Bursts
}

// Spans lists the phases with the number of arrivals planned in each, bursts included:
// exact for Conditioned, within one for Constant without bursts, else an expectation.
func (p Plan) Spans() []Span {
	spans := p.Curve.Spans()
	for i, n := range p.counts() {
		if p.Process == Conditioned {
			spans[i].Arrivals = float64(n)
		} else {
			spans[i].Arrivals *= p.Bursts.MeanFactor()
		}
	}
	return spans
}

// counts are the fixed numbers of arrivals by span: their running sum is Λ at the span's
// end, rounded. They are a function of the curve and the mean of the bursts, never of the
// seed.
func (p Plan) counts() []uint64 {
	var counts []uint64
	var sum uint64
	for _, s := range p.Curve.spans {
		upTo := max(sum, uint64(math.Round(p.Curve.Arrivals(s.End)*p.Bursts.MeanFactor())))
		counts = append(counts, upTo-sum)
		sum = upTo
	}
	return counts
}

// Arrivals returns the part of the plan that worker index of total is to make. It is an
// error if index is not in [0, total), there is no curve, or process or bursts make no
// sense.
func (p Plan) Arrivals(index, total int) (*Arrivals, error) {
	switch {
	case index < 0 || index >= total:
		return nil, fmt.Errorf("arrivals of worker %d of %d: no such worker", index, total)
	case p.Curve == nil:
		return nil, fmt.Errorf("arrivals of worker %d of %d: no curve", index, total)
	case int(p.Process) >= len(processes):
		return nil, fmt.Errorf("arrivals of worker %d of %d: no such process: %v", index, total, p.Process)
	}
	if err := p.Bursts.check(); err != nil {
		return nil, fmt.Errorf("arrivals of worker %d of %d: %w", index, total, err)
	}
	a := &Arrivals{
		curve: p.Curve,
		mod:   newModulator(p.Curve, p.Bursts, p.Seed),
		pass:  uint64(index),
		total: uint64(total),
	}
	switch p.Process {
	case Constant:
		a.process = new(constant)
	case Poisson:
		a.process = &poisson{r: draw.New(p.Seed, draw.Gaps, 0, 0)}
	case Conditioned:
		a.process = newConditioned(p, a.mod)
	}
	return a, nil
}

// Arrivals is an iterator over a worker's part of a plan. It is not safe for concurrent
// use.
type Arrivals struct {
	curve   *Curve
	mod     modulator
	part    int // index into curve.parts of the last arrival
	process interface {
		// next passes over skip points and returns the one after them, a modulated mass.
		// False: there are not so many.
		next(skip uint64) (mass, bool)
	}
	pass  uint64 // arrivals of others before the next one of ours
	total uint64
	n     uint64
}

// Next returns the intended time of the worker's next arrival since the start of the run,
// or false at the end. Times are in [0, Curve.Duration()), rounded to the nanosecond, and
// do not decrease by more than that rounding.
func (a *Arrivals) Next() (time.Duration, bool) {
	at, ok := a.process.next(a.pass)
	if !ok {
		return 0, false
	}
	for !at.less(a.mod.to) {
		if !a.mod.next() {
			return 0, false
		}
	}
	base := a.mod.base(at)
	parts := a.curve.parts
	for a.part+1 < len(parts) && !base.less(parts[a.part+1].at) {
		a.part++
	}
	a.n += a.pass + 1
	a.pass = a.total - 1
	return parts[a.part].time(base), true
}

// N is the number of the arrival that Next last returned, in the whole plan's count from 0.
func (a *Arrivals) N() uint64 { return a.n - 1 }

type constant struct{ n uint64 }

func (c *constant) next(skip uint64) (mass, bool) {
	at := mass{n: c.n + skip}
	c.n += skip + 1
	return at, true
}

type poisson struct {
	r  draw.Rand
	at mass
}

func (p *poisson) next(skip uint64) (mass, bool) {
	for range skip + 1 {
		p.at = p.at.add(toMass(p.r.ExpFloat64()))
	}
	return p.at, true
}

// conditioned makes the order statistics of uniform points, span by span. With m points to
// come in the rest of a span, the next one is at the share 1 − U^(1/m) of that rest, and
// U^(1/m) = e^(−E/m) for an exponential E.
type conditioned struct {
	r      draw.Rand
	at     mass
	ends   []mass   // of the spans
	counts []uint64 // points to come in the spans
}

func newConditioned(p Plan, m modulator) *conditioned {
	c := &conditioned{r: draw.New(p.Seed, draw.Gaps, 0, 0), counts: p.counts()}
	for _, s := range p.Curve.spans {
		c.ends = append(c.ends, m.at(s.End))
	}
	return c
}

func (c *conditioned) next(skip uint64) (mass, bool) {
	for range skip + 1 {
		for len(c.counts) > 0 && c.counts[0] == 0 {
			c.at = c.ends[0]
			c.counts, c.ends = c.counts[1:], c.ends[1:]
		}
		if len(c.counts) == 0 {
			return mass{}, false
		}
		rest := c.ends[0].since(c.at)
		gap := rest * shareBelow(c.r.ExpFloat64()/float64(c.counts[0]))
		// Where rounding makes the gap the whole rest, the point would fall out of its
		// span.
		c.at = c.at.add(toMass(min(gap, rest*(1-0x1p-52))))
		c.counts[0]--
	}
	return c.at, true
}

// shareBelow returns 1 − e^(−y) for y ≥ 0.
func shareBelow(y float64) float64 {
	if y < 1e-5 {
		// Three terms of the series are exact here, and four times faster.
		return y * (1 - y/2*(1-y/3))
	}
	return -math.Expm1(-y)
}
