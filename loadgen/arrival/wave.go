package arrival

import (
	"fmt"
	"math"
	"sort"
	"time"
)

// cells is the number of equal parts of a period between which a wave's inverse is first
// looked up.
const cells = 1024

// wave is a Wave made ready: its integral has a closed form, its inverse is found by
// Newton's method from the nearest of the knots.
type wave struct {
	mean   float64
	period time.Duration
	cycle  float64 // arrivals in a period
	terms  []term
	knots  [cells + 1]float64 // the integral at i/cells of a period
}

// term is amplitude·cos(omega·(t − peak)), t in seconds.
type term struct{ amplitude, omega, peak, sin0 float64 }

func (w Wave) pieces(d time.Duration) ([]piece, error) {
	if err := checkRates(w.Mean); err != nil {
		return nil, err
	}
	if w.Mean == 0 || w.Period < time.Microsecond || len(w.Harmonics) > 64 {
		return nil, fmt.Errorf("a wave of mean %v/s, period %v and %d harmonics: want a mean above 0, a period of 1µs or more, at most 64 harmonics",
			w.Mean, w.Period, len(w.Harmonics))
	}
	v := &wave{mean: w.Mean, period: w.Period, cycle: w.Mean * w.Period.Seconds()}
	for i, h := range w.Harmonics {
		omega := 2 * math.Pi * float64(i+1) / w.Period.Seconds()
		peak := h.Peak.Seconds()
		v.terms = append(v.terms, term{h.Amplitude, omega, peak, math.Sin(omega * peak)})
	}
	for i := range v.knots {
		t := w.Period.Seconds() * float64(i) / cells
		x, rate := v.at(t)
		// A wave that touches zero may be a rounding error below it.
		if !(rate >= -1e-9*w.Mean) {
			return nil, fmt.Errorf("a wave with a rate of %v/s at %.3gs: want finite and not negative", rate, t)
		}
		v.knots[i] = x
	}
	v.knots[cells] = v.cycle
	return []piece{{end: d, wave: v}}, nil
}

// at returns the integral over the first t seconds of a period, and the rate at their end.
func (w *wave) at(t float64) (integral, rate float64) {
	integral, rate = t, 1
	for _, h := range w.terms {
		sin, cos := math.Sincos(h.omega * (t - h.peak))
		integral += h.amplitude / h.omega * (sin + h.sin0)
		rate += h.amplitude * cos
	}
	return w.mean * integral, w.mean * rate
}

func (w *wave) integral(t time.Duration) float64 {
	x, _ := w.at((t % w.period).Seconds())
	return w.cycle*float64(t/w.period) + x
}

// inverse returns the nanoseconds after which the integral is x > 0.
func (w *wave) inverse(x float64) float64 {
	n := math.Floor(x / w.cycle)
	x -= n * w.cycle
	i := sort.Search(cells-1, func(i int) bool { return w.knots[i+1] >= x })
	width := w.period.Seconds() / cells
	low, high := float64(i)*width, float64(i+1)*width
	t := low
	if rise := w.knots[i+1] - w.knots[i]; rise > 0 {
		t = low + width*(x-w.knots[i])/rise
	}
	// Newton's error after a step of d is d² · slope/rate/2: from 1e-6 of a cell on, far
	// below a nanosecond. That takes two steps, except where the rate is near zero: there a
	// step that leaves the bracket is replaced by halving it.
	for range 64 {
		integral, rate := w.at(t)
		over := integral - x
		if over > 0 {
			high = t
		} else {
			low = t
		}
		next := t - over/rate
		if !(next >= low && next <= high) {
			next = (low + high) / 2
		}
		if math.Abs(next-t) < 1e-6*width {
			t = next
			break
		}
		t = next
	}
	return (n*w.period.Seconds() + t) * 1e9
}
