package arrival

import (
	"errors"
	"fmt"
	"math"
	"sort"
	"time"
)

// Phase says what the arrivals of a stretch of a run are for.
type Phase string

const (
	Settle  Phase = "settle"  // brings the target to its steady state; not judged
	Measure Phase = "measure" // what the verdict is about
	Drain   Phase = "drain"   // lets what is in flight end
)

// Segment is one stretch of a curve.
type Segment struct {
	// Phase of the stretch. Empty means Measure.
	Phase Phase
	// For is its length, above zero.
	For time.Duration
	// Shape is the rate within it.
	Shape Shape
}

// Shape is a rate over the time since its segment's start: a Hold, Ramp, Steps, Wave or
// Table. Rates are arrivals per second, finite and not negative.
type Shape interface {
	// pieces splits the shape, cut to d, into parts with a closed integral.
	pieces(d time.Duration) ([]piece, error)
}

// Hold is one rate all along.
type Hold struct {
	Rate float64 `yaml:"rate"`
}

// Ramp changes the rate evenly from one value to another.
type Ramp struct {
	From float64 `yaml:"from"`
	To   float64 `yaml:"to"`
}

// Steps are Count holds of equal length whose rates go evenly from From to To, both
// included.
type Steps struct {
	From  float64 `yaml:"from"`
	To    float64 `yaml:"to"`
	Count int     `yaml:"count"`
}

// Wave is a rate of Mean · (1 + Σ aᵢ cos(2π·i·(t − peakᵢ)/Period)): a sine has one
// harmonic, a day has two. It must not go below zero.
type Wave struct {
	Mean   float64       `yaml:"mean"`
	Period time.Duration `yaml:"period"`
	// Harmonics holds at index i−1 the part that repeats i times a period.
	Harmonics []Harmonic `yaml:"harmonics"`
}

// Harmonic is one cosine of a Wave.
type Harmonic struct {
	Amplitude float64       `yaml:"amplitude"` // relative to the mean
	Peak      time.Duration `yaml:"peak"`      // when it is at its highest
}

// Diurnal is a day of consumer messaging: a peak of 1.73 times the mean at 20:00, the
// peak-to-mean ratio of the storage operations of Facebook Messages (75 G a day, 1.5 M/s at
// the peak: Hamilton's notes on Muthukkaruppan, HPTS 2011), and a trough of 0.53. Day is
// the length of a day, so that a soak test may compress it; the curve starts at midnight.
func Diurnal(mean float64, day time.Duration) Wave {
	peak := day / 24 * 20
	return Wave{Mean: mean, Period: day, Harmonics: []Harmonic{{0.60, peak}, {0.13, peak}}}
}

// Table is a rate by points, linear in between. The first is at 0, the last at the
// segment's end; two at the same time are a jump.
type Table struct {
	Points []Point `yaml:"points"`
}

// Point is a rate at a time since the start of its segment.
type Point struct {
	At   time.Duration `yaml:"at"`
	Rate float64       `yaml:"rate"`
}

// A Curve is a rate over the time since the start of a run, with its integral Λ (the
// expected number of arrivals up to a time) and Λ's inverse. It never changes and is safe
// for concurrent use.
type Curve struct {
	parts []piece
	spans []Span
}

// Span is a stretch of a curve in one phase, with what is expected in it.
type Span struct {
	Phase      Phase
	Start, End time.Duration
	Arrivals   float64
}

// piece is a part of a curve whose integral has a closed form: a straight line or, where
// wave is set, a wave.
type piece struct {
	start, end time.Duration // since the start of the run
	at         mass          // Λ(start)
	from, to   float64       // the rates at both ends of a line
	wave       *wave
}

// maxDuration keeps a run's nanoseconds exact in a float64: 104 days.
const maxDuration = time.Duration(1 << 53)

// NewCurve joins segments in time. The error names the segment at fault: an unknown phase,
// a length that is not positive, a rate that is negative or not finite, a table that does
// not span its segment; or it says that nothing ever arrives, or that all is longer than
// 104 days or above 2^52 arrivals.
func NewCurve(segments ...Segment) (*Curve, error) {
	c := new(Curve)
	var end time.Duration
	var at mass
	for i, s := range segments {
		parts, err := s.parts()
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
		start := end
		for _, p := range parts {
			p.start += start
			p.end += start
			p.at = at
			area := p.integral(p.end - p.start)
			if p.end > maxDuration || p.end < p.start || at.float()+area > 1<<52 {
				return nil, fmt.Errorf("segment %d: the curve is longer than %v or above 2^52 arrivals", i, maxDuration)
			}
			at = at.add(toMass(area)).snap()
			end = p.end
			c.parts = append(c.parts, p)
		}
		c.extend(s.Phase, start, end)
	}
	if at == (mass{}) {
		return nil, errors.New("the curve has no arrivals")
	}
	for i, s := range c.spans {
		c.spans[i].Arrivals = c.mass(s.End).sub(c.mass(s.Start)).float()
	}
	return c, nil
}

// extend adds a stretch to the spans; neighbours of one phase are one span.
func (c *Curve) extend(p Phase, start, end time.Duration) {
	if p == "" {
		p = Measure
	}
	if n := len(c.spans); n > 0 && c.spans[n-1].Phase == p {
		c.spans[n-1].End = end
		return
	}
	c.spans = append(c.spans, Span{Phase: p, Start: start, End: end})
}

func (s Segment) parts() ([]piece, error) {
	switch s.Phase {
	case "", Settle, Measure, Drain:
	default:
		return nil, fmt.Errorf("phase %q: want %s, %s or %s", s.Phase, Settle, Measure, Drain)
	}
	if s.For <= 0 || s.For > maxDuration {
		return nil, fmt.Errorf("a length of %v: want above 0 and at most %v", s.For, maxDuration)
	}
	if s.Shape == nil {
		return nil, errors.New("no shape")
	}
	return s.Shape.pieces(s.For)
}

// Duration is the length of the curve.
func (c *Curve) Duration() time.Duration { return c.parts[len(c.parts)-1].end }

// Spans lists the phases in order, neighbours of one phase joined. The caller may change
// the result.
func (c *Curve) Spans() []Span { return append([]Span(nil), c.spans...) }

// Phase returns the phase at t; before the start it is the first, after the end the last.
func (c *Curve) Phase(t time.Duration) Phase {
	i := sort.Search(len(c.spans)-1, func(i int) bool { return t < c.spans[i].End })
	return c.spans[i].Phase
}

// Rate returns the arrivals per second at t, 0 outside the curve; at a jump, the rate after
// it.
func (c *Curve) Rate(t time.Duration) float64 {
	if t < 0 || t >= c.Duration() {
		return 0
	}
	p := c.part(t)
	return p.rate(t - p.start)
}

// Arrivals returns Λ(t), the expected number of arrivals in [0, t).
func (c *Curve) Arrivals(t time.Duration) float64 { return c.mass(t).float() }

// Time returns Λ⁻¹(x), the time by which x arrivals are expected, to the nanosecond. It is
// within [0, Duration()].
func (c *Curve) Time(x float64) time.Duration {
	if !(x > 0) {
		return 0
	}
	if x >= c.Arrivals(c.Duration()) {
		return c.Duration()
	}
	m := toMass(x)
	i := sort.Search(len(c.parts), func(i int) bool { return m.less(c.parts[i].at) })
	return c.parts[i-1].time(m)
}

// part returns the piece that holds t.
func (c *Curve) part(t time.Duration) *piece {
	return &c.parts[sort.Search(len(c.parts)-1, func(i int) bool { return t < c.parts[i].end })]
}

// mass returns Λ(t) in fixed point.
func (c *Curve) mass(t time.Duration) mass {
	p := c.part(t)
	return p.at.add(toMass(p.integral(min(max(t, p.start), p.end) - p.start))).snap()
}

// rate at t since the piece's start.
func (p *piece) rate(t time.Duration) float64 {
	if p.wave != nil {
		_, rate := p.wave.at((t % p.wave.period).Seconds())
		return max(0, rate)
	}
	return p.from + (p.to-p.from)*(float64(t)/float64(p.end-p.start))
}

// integral of the rate from the piece's start over t.
func (p *piece) integral(t time.Duration) float64 {
	if p.wave != nil {
		return p.wave.integral(t)
	}
	return float64(t) / 1e9 * (p.from + p.rate(t)) / 2
}

// time at which Λ reaches m, a mass within the piece. It depends on nothing but m, so that
// all workers agree on it, and is before the piece's end.
func (p *piece) time(m mass) time.Duration {
	x := m.since(p.at)
	if x <= 0 {
		return p.start
	}
	var ns float64
	switch {
	case p.wave != nil:
		ns = p.wave.inverse(x)
	case p.from == p.to:
		ns = x * 1e9 / p.from
	default:
		// The root of from·t + slope·t²/2 = x that loses no digits when slope is small.
		slope := (p.to - p.from) / (p.end - p.start).Seconds()
		ns = 2e9 * x / (p.from + math.Sqrt(max(0, p.from*p.from+2*slope*x)))
	}
	return min(p.start+time.Duration(math.Round(min(ns, float64(maxDuration)))), p.end-1)
}

func checkRates(rates ...float64) error {
	for _, r := range rates {
		if !(r >= 0 && r < math.Inf(1)) {
			return fmt.Errorf("a rate of %v/s: want finite and not negative", r)
		}
	}
	return nil
}

func (h Hold) pieces(d time.Duration) ([]piece, error) {
	return Ramp{h.Rate, h.Rate}.pieces(d)
}

func (r Ramp) pieces(d time.Duration) ([]piece, error) {
	return []piece{{end: d, from: r.From, to: r.To}}, checkRates(r.From, r.To)
}

func (s Steps) pieces(d time.Duration) ([]piece, error) {
	const most = 1 << 16
	if s.Count < 2 || s.Count > most || d < time.Duration(s.Count) {
		return nil, fmt.Errorf("%d steps in %v: want 2 to %d, of 1ns or more", s.Count, d, most)
	}
	parts := make([]piece, s.Count)
	var end time.Duration
	for i := range parts {
		rate := s.From + (s.To-s.From)*float64(i)/float64(s.Count-1)
		parts[i] = piece{start: end, from: rate, to: rate}
		end = d/time.Duration(s.Count)*time.Duration(i+1) + d%time.Duration(s.Count)*time.Duration(i+1)/time.Duration(s.Count)
		parts[i].end = end
	}
	return parts, checkRates(s.From, s.To)
}

func (t Table) pieces(d time.Duration) ([]piece, error) {
	n := len(t.Points)
	if n < 2 || t.Points[0].At != 0 || t.Points[n-1].At != d {
		return nil, fmt.Errorf("a table of %d points: want the first at 0 and the last at %v", n, d)
	}
	var parts []piece
	for i, b := range t.Points[1:] {
		a := t.Points[i]
		if err := checkRates(a.Rate, b.Rate); err != nil {
			return nil, fmt.Errorf("point %d: %w", i, err)
		}
		if b.At < a.At {
			return nil, fmt.Errorf("point %d: %v comes before %v", i+1, b.At, a.At)
		}
		if b.At > a.At {
			parts = append(parts, piece{start: a.At, end: b.At, from: a.Rate, to: b.Rate})
		}
	}
	return parts, nil
}
