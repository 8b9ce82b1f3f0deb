package arrival

import (
	"fmt"
	"math"
	"time"

	"darklaunch/loadgen/draw"
)

// Bursts multiplies a curve's rate by Factor now and then: a Markov-modulated Poisson
// process of two states, whose high and low states last exponential times with the means
// High and Low. The state at the start is drawn by those shares. The zero value means none.
//
// High 5s, Low 55s and Factor 3 give a burst a minute and MeanFactor 1.17.
type Bursts struct {
	Factor float64       `yaml:"factor"` // above 0
	High   time.Duration `yaml:"high"`   // 1ms or more
	Low    time.Duration `yaml:"low"`    // 1ms or more
}

// MeanFactor is what bursts multiply the number of arrivals by, on average.
func (b Bursts) MeanFactor() float64 {
	if b == (Bursts{}) {
		return 1
	}
	return (b.Factor*float64(b.High) + float64(b.Low)) / float64(b.High+b.Low)
}

// Dispersion is the index of dispersion of Poisson arrivals at a rate (arrivals per second
// in the low state) with these bursts: variance over mean of the counts in windows of
// length w (Heffes and Lucantoni 1986). It is 1 without bursts.
func (b Bursts) Dispersion(rate float64, w time.Duration) float64 {
	if b == (Bursts{}) {
		return 1
	}
	up, down := 1/b.Low.Seconds(), 1/b.High.Seconds()
	s := up + down
	t := s * w.Seconds()
	diff := rate * (b.Factor - 1)
	mean := rate * b.MeanFactor()
	return 1 + 2*up*down*diff*diff/(s*s*s*mean)*(1+math.Expm1(-t)/t)
}

func (b Bursts) check() error {
	if b == (Bursts{}) || b.Factor > 0 && b.Factor < 1e6 && min(b.High, b.Low) >= time.Millisecond && max(b.High, b.Low) <= maxDuration {
		return nil
	}
	return fmt.Errorf("bursts of factor %v, high %v, low %v: want a factor above 0 and below 1e6, lengths from 1ms to %v",
		b.Factor, b.High, b.Low, maxDuration)
}

// modulator walks over the stretches of a run between changes of the burst state. It is a
// value: a copy looks ahead and leaves the original where it is.
//
// Masses without "base" are those of the modulated curve.
type modulator struct {
	curve  *Curve
	bursts Bursts
	seed   uint64
	k      uint64 // stretches left behind

	end              time.Duration // of this stretch
	factor           float64       // in it
	from, to         mass          // at its ends
	baseFrom, baseTo mass          // the curve's own, at its ends
}

func newModulator(c *Curve, b Bursts, seed uint64) modulator {
	m := modulator{curve: c, bursts: b, seed: seed}
	m.enter()
	return m
}

// next moves to the next stretch; false at the end of the run.
func (m *modulator) next() bool {
	if m.end >= m.curve.Duration() {
		return false
	}
	m.k++
	m.enter()
	return true
}

func (m *modulator) enter() {
	m.from, m.baseFrom = m.to, m.baseTo
	run := m.curve.Duration()
	if m.bursts == (Bursts{}) {
		m.factor = 1
		m.end = run
	} else {
		length := m.bursts.Low
		m.factor = 1
		if m.high() {
			length = m.bursts.High
			m.factor = m.bursts.Factor
		}
		u := draw.Unit(draw.Hash(m.seed, draw.Bursts, m.k, 0))
		// At most 37 mean lengths, as u is at least 2^-53; the sum stays far from overflow.
		m.end = min(m.end+1+time.Duration(-math.Log(u)*float64(length)), run)
	}
	m.baseTo = m.curve.mass(m.end)
	m.to = m.modulated(m.baseTo)
}

// high reports the state of the k-th stretch: the states alternate from a random first one.
func (m *modulator) high() bool {
	share := float64(m.bursts.High) / float64(m.bursts.High+m.bursts.Low)
	first := draw.Unit(draw.Hash(m.seed, draw.Bursts, 0, 1)) < share
	return first != (m.k%2 == 1)
}

// modulated returns the modulated mass at a base mass within the stretch.
func (m *modulator) modulated(base mass) mass {
	if m.factor == 1 {
		// Exact, so that a plan without bursts is the curve itself.
		return m.from.add(base.sub(m.baseFrom))
	}
	return m.from.add(toMass(m.factor * base.sub(m.baseFrom).float()))
}

// base returns the base mass at a modulated mass within the stretch.
func (m *modulator) base(at mass) mass {
	if m.factor == 1 {
		return m.baseFrom.add(at.sub(m.from))
	}
	return m.baseFrom.add(toMass(at.since(m.from) / m.factor))
}

// at returns the modulated mass at time t, which is not before this stretch.
func (m modulator) at(t time.Duration) mass {
	for m.end < t && m.next() {
	}
	return m.modulated(m.curve.mass(t))
}
