package noise

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"darklaunch/verdict/stat"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) {
		t.Errorf("%s: got %.9f, want %.9f", what, got, want)
	}
}

// TestDifference has the published values of method 10 for samples of one size
// (Newcombe 1998, table II), to the four digits printed.
func TestDifference(t *testing.T) {
	for _, tt := range []struct{ b, c, n, low, high float64 }{
		{9, 3, 10, 0.1705, 0.8090},
		{10, 0, 10, 0.6075, 1.0000},
	} {
		got := difference(tt.b, tt.c, tt.n, stat.Z(0.05))
		near(t, "low", got.Low, tt.low, 5e-5)
		near(t, "high", got.High, tt.high, 5e-5)
	}
}

// TestAlways watches a mean at each block, whose truth is 0: it is ever outside of
// its interval in 5 % of runs at most. A fixed interval, watched so, is not.
func TestAlways(t *testing.T) {
	const runs, blocks = 400, 200
	z := multipliers{confidence: 0.95}
	ever, fixed := 0, 0
	for seed := range uint64(runs) {
		r := rand.New(rand.NewPCG(seed, 2))
		var m moments
		d, out, outFixed := 0.0, false, false
		for k := 1; k <= blocks; k++ {
			x := r.NormFloat64()
			d += x
			m.DD += x * x
			m.DN += x
			if k < 8 {
				continue
			}
			in := ratio(d, float64(k), float64(k), m, k, z.at(k))
			out = out || in.Low > 0 || in.High < 0
			in = ratio(d, float64(k), float64(k), m, k, stat.Z(0.05))
			outFixed = outFixed || in.Low > 0 || in.High < 0
		}
		if out {
			ever++
		}
		if outFixed {
			fixed++
		}
	}
	t.Logf("ever outside: %d of %d runs; of a fixed interval: %d", ever, runs, fixed)
	if ever > runs*5/100 {
		t.Errorf("got %d runs outside, want 5 %% of %d", ever, runs)
	}
	if fixed < runs*15/100 {
		t.Errorf("got %d runs outside a fixed interval, want many: the check sees nothing", fixed)
	}
}

// TestRatio holds that the interval is that of the mean where blocks are of one size.
func TestRatio(t *testing.T) {
	var m moments
	d := 0.0
	values := []float64{1, 4, -2, 5, 3}
	for _, x := range values {
		d += x
		m.DD += x * x
		m.DN += x * 10
	}
	got := ratio(d, 50, 500, m, 5, 2)
	mean, ss := d/5, 0.0
	for _, x := range values {
		ss += (x - mean) * (x - mean)
	}
	half := 2 * math.Sqrt(ss/4/5)
	near(t, "value", got.Value, mean/10, 1e-12)
	near(t, "low", got.Low, (mean-half)/10, 1e-12)
	near(t, "high", got.High, (mean+half)/10, 1e-12)
}

// TestBetIsFair holds that a bet and the opposite one come to nothing on average,
// and that of one event it is 2q or 2(1-q).
func TestBetIsFair(t *testing.T) {
	for _, d := range []float64{1, scoreOf(7, 2), scoreOf(2, 1), scoreOf(1e6, 0)} {
		var win, lose wealth
		win.bet(d)
		lose.bet(-d)
		for i, q := range shares {
			near(t, fmt.Sprintf("mean at %v on %v", d, q), (math.Exp(win[i])+math.Exp(lose[i]))/2, 1, 1e-12)
			if d == 1 {
				near(t, fmt.Sprintf("won on %v", q), math.Exp(win[i]), 2*q, 1e-12)
			}
			if math.IsInf(lose[i], 0) || math.IsNaN(lose[i]) {
				t.Errorf("lost %v on %v: got %v, want a number", d, q, lose[i])
			}
		}
	}
}

// TestConfirmed has e-values of which e-BH picks the first two at 0.1: 3 and 2 are
// those with e ≥ 4/(0.1 k).
func TestConfirmed(t *testing.T) {
	for _, tt := range []struct {
		e    []float64
		want string
	}{
		{[]float64{25, 1, 30, 0}, "[true false true false]"},
		{[]float64{39, 1, 19, 0}, "[false false false false]"},
		{[]float64{41, 1, 19, 0}, "[true false false false]"},
		{[]float64{10, 10, 10, 10}, "[true true true true]"},
		{nil, "[]"},
	} {
		var logs []float64
		for _, e := range tt.e {
			logs = append(logs, math.Log(e))
		}
		if got := fmt.Sprint(confirmed(logs, 0.1)); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.e, got, tt.want)
		}
	}
}
