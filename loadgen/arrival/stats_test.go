package arrival

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// ksP returns the p-value of the one-sample Kolmogorov-Smirnov test that xs have the law
// cdf, with Stephens' correction for finite n. It sorts xs.
func ksP(xs []float64, cdf func(float64) float64) float64 {
	slices.Sort(xs)
	n := float64(len(xs))
	d := 0.0
	for i, x := range xs {
		f := cdf(x)
		d = max(d, f-float64(i)/n, float64(i+1)/n-f)
	}
	lambda := (math.Sqrt(n) + 0.12 + 0.11/math.Sqrt(n)) * d
	sum, sign := 0.0, 1.0
	for k := 1.0; k < 100; k++ {
		sum += sign * math.Exp(-2*k*k*lambda*lambda)
		sign = -sign
	}
	return min(1, max(0, 2*sum))
}

func exponential(x float64) float64 { return -math.Expm1(-x) }

func uniform(x float64) float64 { return min(1, max(0, x)) }

// rejections counts the seeds of 200 whose sample the KS test rejects at 1 %.
func rejections(sample func(seed uint64) []float64, cdf func(float64) float64) int {
	n := 0
	for seed := range uint64(200) {
		if ksP(sample(seed), cdf) <= 0.01 {
			n++
		}
	}
	return n
}

// curves have all the shapes, and about 1,500 to 2,300 arrivals each.
func curves(t testing.TB) map[string]*Curve {
	t.Helper()
	curve := func(segments ...Segment) *Curve {
		c, err := NewCurve(segments...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	return map[string]*Curve{
		"hold":    curve(Segment{For: 10 * time.Second, Shape: Hold{200}}),
		"ramp":    curve(Segment{For: 10 * time.Second, Shape: Ramp{0, 400}}),
		"fall":    curve(Segment{For: 10 * time.Second, Shape: Ramp{400, 0}}),
		"steps":   curve(Segment{For: 10 * time.Second, Shape: Steps{100, 300, 7}}),
		"sine":    curve(Segment{For: 10 * time.Second, Shape: Wave{200, 3 * time.Second, []Harmonic{{1, time.Second}}}}),
		"diurnal": curve(Segment{For: 24 * time.Minute, Shape: Diurnal(1.5, 24*time.Minute)}),
		"table": curve(Segment{For: 10 * time.Second, Shape: Table{[]Point{
			{0, 50}, {2 * time.Second, 300}, {4 * time.Second, 300}, {4 * time.Second, 10}, {5 * time.Second, 0}, {6 * time.Second, 0}, {10 * time.Second, 500}}}}),
		"phases": curve(
			Segment{Phase: Settle, For: 3 * time.Second, Shape: Ramp{0, 200}},
			Segment{Phase: Settle, For: time.Second, Shape: Hold{200}},
			Segment{Phase: Measure, For: 8 * time.Second, Shape: Hold{200}},
			Segment{Phase: Drain, For: 5 * time.Second, Shape: Hold{0}}),
	}
}

// statisticCurves are those to be tested with 200 seeds: in -short mode the hardest, else
// all.
func statisticCurves(t *testing.T) map[string]*Curve {
	all := curves(t)
	if testing.Short() {
		return map[string]*Curve{"diurnal": all["diurnal"]}
	}
	return all
}

func TestPoissonGapsAreExponentialInOperationalTime(t *testing.T) {
	for name, c := range statisticCurves(t) {
		gaps := func(seed uint64) []float64 {
			last := 0.0
			var gaps []float64
			for _, at := range times(t, Plan{Seed: seed, Curve: c, Process: Poisson}) {
				x := c.Arrivals(at)
				gaps = append(gaps, x-last)
				last = x
			}
			return gaps
		}
		if n := rejections(gaps, exponential); n > 5 {
			t.Errorf("%s: KS rejects exponential gaps for %d of 200 seeds, want at most 5", name, n)
		}
	}
}

// TestConditionedPointsAreUniform looks at the longest span of each curve: its points,
// mapped by Λ, are uniform in it.
func TestConditionedPointsAreUniform(t *testing.T) {
	for name, c := range statisticCurves(t) {
		span := slices.MaxFunc(c.Spans(), func(a, b Span) int { return int(a.Arrivals - b.Arrivals) })
		points := func(seed uint64) []float64 {
			var points []float64
			for _, at := range times(t, Plan{Seed: seed, Curve: c}) {
				if at >= span.Start && at < span.End {
					points = append(points, (c.Arrivals(at)-c.Arrivals(span.Start))/span.Arrivals)
				}
			}
			return points
		}
		if n := rejections(points, uniform); n > 5 {
			t.Errorf("%s: KS rejects uniform points for %d of 200 seeds, want at most 5", name, n)
		}
		// Uniform points are not enough: an even grid is more uniform than chance. Gaps
		// between them are nearly exponential.
		gaps := func(seed uint64) []float64 {
			points := points(seed)
			for i := len(points) - 1; i > 0; i-- {
				points[i] = (points[i] - points[i-1]) * span.Arrivals
			}
			return points[1:]
		}
		if n := rejections(gaps, exponential); n > 5 {
			t.Errorf("%s: KS rejects exponential gaps for %d of 200 seeds, want at most 5", name, n)
		}
	}
}

// TestBurstsKeepTheProcess: in the operational time of the modulated curve, arrivals with
// bursts are those without.
func TestBurstsKeepTheProcess(t *testing.T) {
	c := curves(t)["ramp"]
	b := Bursts{Factor: 3, High: 300 * time.Millisecond, Low: time.Second}
	points := func(seed uint64, process Process, bursts Bursts) (points []float64, total float64) {
		m := newModulator(c, bursts, seed)
		for _, at := range times(t, Plan{Seed: seed, Curve: c, Process: process, Bursts: b}) {
			for m.end < at && m.next() {
			}
			points = append(points, m.at(at).float())
		}
		return points, m.at(c.Duration()).float()
	}
	gaps := func(seed uint64) []float64 {
		points, _ := points(seed, Poisson, b)
		for i := len(points) - 1; i > 0; i-- {
			points[i] -= points[i-1]
		}
		return points
	}
	if n := rejections(gaps, exponential); n > 5 {
		t.Errorf("Poisson: KS rejects exponential gaps for %d of 200 seeds, want at most 5", n)
	}
	shares := func(bursts Bursts) func(seed uint64) []float64 {
		return func(seed uint64) []float64 {
			points, total := points(seed, Conditioned, bursts)
			for i := range points {
				points[i] /= total
			}
			return points
		}
	}
	if n := rejections(shares(b), uniform); n > 5 {
		t.Errorf("conditioned: KS rejects uniform points for %d of 200 seeds, want at most 5", n)
	}
	if n := rejections(shares(Bursts{}), uniform); n < 100 {
		t.Errorf("bursts left out of account: KS rejects %d of 200 seeds, want at least 100", n)
	}
}

// TestKSSeesWrongLaws plants the faults that the two tests above exist to catch.
func TestKSSeesWrongLaws(t *testing.T) {
	c := curves(t)["ramp"]
	faults := map[string]struct {
		sample func(seed uint64) []float64
		cdf    func(float64) float64
	}{
		"uniform gaps of mean 1": {func(seed uint64) []float64 {
			r := rand.New(rand.NewPCG(seed, 1))
			xs := make([]float64, 2000)
			for i := range xs {
				xs[i] = 2 * r.Float64()
			}
			return xs
		}, exponential},
		"gaps 10 % too long": {func(seed uint64) []float64 {
			r := rand.New(rand.NewPCG(seed, 1))
			xs := make([]float64, 2000)
			for i := range xs {
				xs[i] = 1.1 * r.ExpFloat64()
			}
			return xs
		}, exponential},
		"no change of time": {func(seed uint64) []float64 {
			var xs []float64
			for _, at := range times(t, Plan{Seed: seed, Curve: c}) {
				xs = append(xs, at.Seconds()/10)
			}
			return xs
		}, uniform},
	}
	for name, f := range faults {
		if n := rejections(f.sample, f.cdf); n < 100 {
			t.Errorf("%s: KS rejects %d of 200 seeds, want at least 100", name, n)
		}
	}
}

// counts returns the numbers of arrivals in windows of length w over the whole plan.
func counts(t testing.TB, p Plan, w time.Duration) []float64 {
	t.Helper()
	counts := make([]float64, p.Curve.Duration()/w)
	a, err := p.Arrivals(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	for at, ok := a.Next(); ok; at, ok = a.Next() {
		if i := int(at / w); i < len(counts) {
			counts[i]++
		}
	}
	return counts
}

// dispersion is variance over mean.
func dispersion(xs []float64) float64 {
	mean, sum := 0.0, 0.0
	for _, x := range xs {
		mean += x / float64(len(xs))
	}
	for _, x := range xs {
		sum += (x - mean) * (x - mean)
	}
	return sum / float64(len(xs)-1) / mean
}

func holdCurve(t testing.TB, rate float64, d time.Duration) *Curve {
	t.Helper()
	c, err := NewCurve(Segment{For: d, Shape: Hold{rate}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Over 4,000 windows the index of dispersion of a Poisson process has a standard deviation
// of √(2/4000) = 0.022.
func TestDispersionOfPoissonIsOne(t *testing.T) {
	c := holdCurve(t, 1000, 400*time.Second)
	for _, process := range []Process{Poisson, Conditioned} {
		for seed := range uint64(3) {
			got := dispersion(counts(t, Plan{Seed: seed, Curve: c, Process: process}, 100*time.Millisecond))
			if math.Abs(got-1) > 0.08 {
				t.Errorf("%v, seed %d: index of dispersion %.3f, want 1.0 ± 0.08", process, seed, got)
			}
		}
	}
	// What the test must not let pass.
	if got := dispersion(counts(t, Plan{Curve: c, Process: Constant}, 100*time.Millisecond)); got > 0.92 {
		t.Errorf("constant arrivals: index of dispersion %.3f, want under 0.92", got)
	}
	bursty := Plan{Curve: c, Process: Poisson, Bursts: Bursts{Factor: 1.2, High: time.Second, Low: time.Second}}
	if got := dispersion(counts(t, bursty, 100*time.Millisecond)); got < 1.08 {
		t.Errorf("slightly bursty arrivals: index of dispersion %.3f, want over 1.08", got)
	}
}

// TestBurstsHaveTheirDispersion holds the counts of a two-state process against the
// formula. States of 0.5 s and 2 s change 16,000 times in the run: their shares, and with
// them the index, are known to about 2 %.
func TestBurstsHaveTheirDispersion(t *testing.T) {
	b := Bursts{Factor: 3, High: 500 * time.Millisecond, Low: 2 * time.Second}
	const rate, length = 100, 20_000 * time.Second
	c := holdCurve(t, rate, length)
	windows := []time.Duration{time.Second, 100 * time.Millisecond, 10 * time.Second}
	if testing.Short() {
		windows = windows[:1]
	}
	for _, w := range windows {
		counts := counts(t, Plan{Seed: 7, Curve: c, Process: Poisson, Bursts: b}, w)
		got, want := dispersion(counts), b.Dispersion(rate, w)
		if math.Abs(got/want-1) > 0.08 || want < 2 {
			t.Errorf("windows of %v: index of dispersion %.2f, want %.2f ± 8 %%", w, got, want)
		}
		sum := 0.0
		for _, n := range counts {
			sum += n
		}
		if got, want := sum/length.Seconds(), rate*b.MeanFactor(); math.Abs(got/want-1) > 0.03 {
			t.Errorf("windows of %v: %.1f arrivals a second, want %.1f ± 3 %%", w, got, want)
		}
	}
	if got := (Bursts{}).Dispersion(rate, time.Second); got != 1 {
		t.Errorf("no bursts: dispersion %v, want 1", got)
	}
}
