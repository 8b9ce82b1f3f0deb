package arrival

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestIntegralIsTheIntegral holds Λ against a sum over the rate, and Λ⁻¹ against Λ.
func TestIntegralIsTheIntegral(t *testing.T) {
	for name, c := range curves(t) {
		const n = 200_000
		step := c.Duration() / n
		sum := 0.0
		for i := range time.Duration(n) {
			// Midpoints: exact for lines, but where a piece ends within the step.
			sum += c.Rate(i*step+step/2) * step.Seconds()
			if i%1000 != 999 {
				continue
			}
			at := (i + 1) * step
			x := c.Arrivals(at)
			if math.Abs(x-sum) > 1e-5*c.Arrivals(c.Duration()) {
				t.Fatalf("%s: Λ(%v) = %.6f, want %.6f", name, at, x, sum)
			}
			// Where the rate is near zero, a nanosecond is less than Λ resolves.
			if got := c.Time(x); c.Rate(at) > 1 && (got-at).Abs() > 1 {
				t.Fatalf("%s: Λ⁻¹(Λ(%v)) = %v", name, at, got)
			}
		}
	}
}

func TestCurveEdges(t *testing.T) {
	c := curves(t)["phases"]
	if got, want := c.Duration(), 17*time.Second; got != want {
		t.Errorf("duration %v, want %v", got, want)
	}
	for _, x := range []float64{-1, 0, math.NaN()} {
		if got := c.Time(x); got != 0 {
			t.Errorf("Λ⁻¹(%v) = %v, want 0", x, got)
		}
	}
	if got := c.Time(1e9); got != c.Duration() {
		t.Errorf("Λ⁻¹ beyond the end = %v, want %v", got, c.Duration())
	}
	for _, at := range []time.Duration{-1, c.Duration()} {
		if got := c.Rate(at); got != 0 {
			t.Errorf("rate at %v = %v, want 0", at, got)
		}
	}
	for at, want := range map[time.Duration]Phase{
		-1: Settle, 0: Settle, 4*time.Second - 1: Settle, 4 * time.Second: Measure,
		12*time.Second - 1: Measure, 12 * time.Second: Drain, time.Hour: Drain,
	} {
		if got := c.Phase(at); got != want {
			t.Errorf("phase at %v = %v, want %v", at, got, want)
		}
	}
	want := []Span{
		{Settle, 0, 4 * time.Second, 500},
		{Measure, 4 * time.Second, 12 * time.Second, 1600},
		{Drain, 12 * time.Second, 17 * time.Second, 0},
	}
	if diff := cmp.Diff(want, c.Spans()); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

func TestDiurnal(t *testing.T) {
	c, err := NewCurve(Segment{For: 48 * time.Hour, Shape: Diurnal(100, 24*time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	low, high := math.Inf(1), 0.0
	for m := range time.Duration(2880) {
		low, high = min(low, c.Rate(m*time.Minute)), max(high, c.Rate(m*time.Minute))
	}
	if math.Abs(low-53) > 0.5 || math.Abs(high-173) > 0.5 || math.Abs(c.Rate(44*time.Hour)-173) > 1e-9 {
		t.Errorf("rates from %.1f to %.1f, at 20:00 %.1f, want 53, 173 and 173", low, high, c.Rate(44*time.Hour))
	}
	if got, want := c.Arrivals(48*time.Hour), 100.0*48*3600; got != want {
		t.Errorf("%v arrivals in two days, want %v", got, want)
	}
}

// TestTroughOfAWave looks where the rate is next to nothing, and the integral a difference
// of two nearly equal numbers: it must not be negative, nor its points come early.
func TestTroughOfAWave(t *testing.T) {
	c, err := NewCurve(Segment{For: 20 * time.Second, Shape: Wave{100, 10 * time.Second, []Harmonic{{-1, 0}}}})
	if err != nil {
		t.Fatal(err)
	}
	for at := range 100 * time.Microsecond {
		if x := c.Arrivals(at); !(x >= 0 && x < 1e-9) {
			t.Fatalf("Λ(%v) = %v, want about 0", at, x)
		}
		if x := c.Arrivals(10*time.Second + at); math.Abs(x-1000) > 1e-9 {
			t.Fatalf("Λ(10s + %v) = %v, want about 1000", at, x)
		}
	}
	for _, p := range []Process{Conditioned, Poisson, Constant} {
		n := len(times(t, Plan{Curve: c, Process: p, Bursts: Bursts{2, time.Millisecond, time.Millisecond}}))
		if n < 2000 || n > 4000 {
			t.Errorf("%v: %d arrivals, want about 3,000", p, n)
		}
	}
}

func TestStepsMeetTheirEnds(t *testing.T) {
	c, err := NewCurve(Segment{For: 10*time.Second + 1, Shape: Steps{100, 400, 4}})
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]float64{
		0: 100, 2 * time.Second: 100, 3 * time.Second: 200, 6 * time.Second: 300, 9 * time.Second: 400, 10 * time.Second: 400,
	} {
		if got := c.Rate(at); got != want {
			t.Errorf("rate at %v = %v, want %v", at, got, want)
		}
	}
}

func TestCurvesThatMakeNoSense(t *testing.T) {
	s := time.Second
	tests := map[string]struct {
		segments []Segment
		want     string
	}{
		"empty":      {nil, "no arrivals"},
		"zero":       {[]Segment{{For: s, Shape: Hold{0}}}, "no arrivals"},
		"phase":      {[]Segment{{Phase: "warm", For: s, Shape: Hold{1}}}, `segment 0: phase "warm"`},
		"length":     {[]Segment{{For: s, Shape: Hold{1}}, {Shape: Hold{1}}}, "segment 1: a length of 0s"},
		"long":       {[]Segment{{For: 1 << 53, Shape: Hold{1}}, {For: 1, Shape: Hold{1}}}, "longer than"},
		"many":       {[]Segment{{For: time.Hour, Shape: Hold{1e14}}}, "2^52"},
		"shape":      {[]Segment{{For: s}}, "no shape"},
		"negative":   {[]Segment{{For: s, Shape: Hold{-1}}}, "not negative"},
		"nan":        {[]Segment{{For: s, Shape: Ramp{1, math.NaN()}}}, "not negative"},
		"infinite":   {[]Segment{{For: s, Shape: Ramp{math.Inf(1), 1}}}, "finite"},
		"steps":      {[]Segment{{For: s, Shape: Steps{1, 2, 1}}}, "1 steps"},
		"step rate":  {[]Segment{{For: s, Shape: Steps{1, -2, 3}}}, "not negative"},
		"table":      {[]Segment{{For: s, Shape: Table{[]Point{{0, 1}, {s / 2, 1}}}}}, "the last at 1s"},
		"back":       {[]Segment{{For: s, Shape: Table{[]Point{{0, 1}, {s / 2, 1}, {s / 4, 1}, {s, 1}}}}}, "point 2: 250ms comes before 500ms"},
		"point rate": {[]Segment{{For: s, Shape: Table{[]Point{{0, 1}, {s, -1}}}}}, "point 0"},
		"wave":       {[]Segment{{For: s, Shape: Wave{1, s, []Harmonic{{1.2, 0}}}}}, "a wave with a rate of -0."},
		"period":     {[]Segment{{For: s, Shape: Wave{1, 0, nil}}}, "period 0s"},
		"no mean":    {[]Segment{{For: s, Shape: Wave{0, s, nil}}}, "mean above 0"},
		"amplitude":  {[]Segment{{For: s, Shape: Wave{1, s, []Harmonic{{math.Inf(1), 0}}}}}, "finite"},
	}
	for name, tt := range tests {
		if _, err := NewCurve(tt.segments...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, tt.want)
		}
	}
}
