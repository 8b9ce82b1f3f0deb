package stat

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s: got %.9g, want %.9g ± %g", what, got, want, tolerance)
	}
}

// TestT holds Student's quantiles to their closed forms for 1, 2 and 4 degrees of
// freedom (Shaw 2006, Journal of Computational Finance 9:37), and to the table of
// Abramowitz and Stegun, Handbook of Mathematical Functions, 26.10, which has three
// decimals.
func TestT(t *testing.T) {
	for _, alpha := range []float64{0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.05 / 3, 0.001} {
		p := 1 - alpha/2
		a := 4 * p * (1 - p)
		closed := map[float64]float64{
			1: math.Tan(math.Pi * (p - 0.5)),
			2: (2*p - 1) * math.Sqrt(2/a),
			4: 2 * math.Sqrt(math.Cos(math.Acos(math.Sqrt(a))/3)/math.Sqrt(a)-1),
		}
		for df, want := range closed {
			near(t, fmt.Sprintf("T(%g, %g)", alpha, df), T(alpha, df), want, 1e-6*max(1, want))
		}
	}
	table := []struct{ alpha, df, want float64 }{
		{0.05, 1, 12.706}, {0.05, 2, 4.303}, {0.05, 3, 3.182}, {0.05, 5, 2.571}, {0.05, 7, 2.365},
		{0.05, 10, 2.228}, {0.05, 20, 2.086}, {0.05, 30, 2.042}, {0.05, 120, 1.980},
		{0.01, 4, 4.604}, {0.01, 9, 3.250}, {0.01, 29, 2.756}, {0.10, 8, 1.860}, {0.10, 60, 1.671},
	}
	for _, c := range table {
		near(t, fmt.Sprintf("T(%g, %g)", c.alpha, c.df), T(c.alpha, c.df), c.want, 0.0005)
	}
	near(t, "T(0.05, 1e9)", T(0.05, 1e9), 1.959963985, 1e-6) // ibid., 26.11
	if got := T(0.05, 0); !math.IsInf(got, 1) {
		t.Errorf("T without a degree of freedom: got %v, want +Inf", got)
	}
}

// TestRankCDF holds the signed-rank distribution to a count of all signs, and to the
// critical values of Wilcoxon, Katti and Wilcox 1970 (Selected Tables in Mathematical
// Statistics 1): the largest w with P(W ≤ w) ≤ 0.025.
func TestRankCDF(t *testing.T) {
	for n := 1; n <= 12; n++ {
		want := make([]float64, n*(n+1)/2+1)
		for signs := range 1 << n {
			w := 0
			for rank := 1; rank <= n; rank++ {
				if signs>>(rank-1)&1 == 1 {
					w += rank
				}
			}
			want[w] += math.Exp2(-float64(n))
		}
		for i := 1; i < len(want); i++ {
			want[i] += want[i-1]
		}
		for i, p := range rankCDF(n) {
			near(t, fmt.Sprintf("P(W ≤ %d) of %d", i, n), p, want[i], 1e-9)
		}
	}
	near(t, "P(W ≤ 8) of 10", rankCDF(10)[8], 25.0/1024, 1e-9)
	critical := map[int]int{6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 11: 10, 12: 13, 13: 17, 14: 21, 15: 25, 16: 29, 17: 34, 18: 40, 19: 46, 20: 52, 25: 89, 30: 137}
	for n, w := range critical {
		if p := rankCDF(n); p[w] > 0.025 || p[w+1] <= 0.025 {
			t.Errorf("of %d: got P(W ≤ %d) = %g and P(W ≤ %d) = %g, want 0.025 between them", n, w, p[w], w+1, p[w+1])
		}
	}
	exact, normal := rankCDF(exactRanks), rankCDF(exactRanks+1)
	for i := range exact {
		near(t, "normal approximation", normal[i*len(normal)/len(exact)], exact[i], 0.01)
	}
}

// TestPublishedShares has what binom.confint of the R package binom (methods wilson
// and exact) returns, as statsmodels publishes it in results_proportion.py.
func TestPublishedShares(t *testing.T) {
	for _, c := range []struct{ k, n, low, high, exact float64 }{
		{18, 20, 0.6989663547715128, 0.972133518786232, 0.9876514728297052},
		{4, 20, 0.0806576625797981, 0.4160174322518935, 0.436614002996668},
		{4, 200, 0.00780442641634947, 0.05028708690582643, 0.05041360908989634},
		{190, 200, 0.910421851861224, 0.972617354399236, 0.975765834527891},
		{1, 30, 5.908590e-03, 0.16670391, 0.17216946},
		{29, 30, 0.8332961, 0.9940914, 0.9991564},
		{0, 30, 0, 0.11351339, 0.11570331},
		{30, 30, 0.8864866, 1, 1},
	} {
		name := fmt.Sprintf("%v of %v", c.k, c.n)
		lower, upper := Wilson(c.k, c.n, 0.05)
		near(t, name+", lower", lower, c.low, 1e-6)
		near(t, name+", upper", upper, c.high, 1e-6)
		near(t, name+", exact upper bound", ShareBelow(c.k, c.n, 0.025), c.exact, 1e-6)
	}
}

// TestWilson holds the interval to its definition, the shares p that the score test
// |k/n − p| = z√(p(1−p)/n) does not reject, and to Newcombe 1998, Statistics in
// Medicine 17:857, table I, which has four decimals.
func TestWilson(t *testing.T) {
	for _, c := range []struct{ k, n, lower, upper float64 }{
		{81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718},
	} {
		lower, upper := Wilson(c.k, c.n, 0.05)
		name := fmt.Sprintf("%g of %g", c.k, c.n)
		near(t, name, lower, c.lower, 0.00005)
		near(t, name, upper, c.upper, 0.00005)
		for _, p := range []float64{lower, upper} {
			near(t, name+" score", math.Abs(c.k/c.n-p), Z(0.05)*math.Sqrt(p*(1-p)/c.n), 1e-9)
		}
	}
}

// TestNewcombe holds method 10 to table II of Newcombe 1998, Statistics in Medicine
// 17:873, and its paired form to table III of ibid. 17:2635: four decimals each.
func TestNewcombe(t *testing.T) {
	for _, c := range []struct{ a, m, b, n, lower, upper float64 }{
		{56, 70, 48, 80, 0.0524, 0.3339}, {9, 10, 3, 10, 0.1705, 0.8090}, {6, 7, 2, 7, 0.0582, 0.8062},
		{5, 56, 0, 29, -0.0381, 0.1926}, {0, 10, 0, 20, -0.1611, 0.2775}, {0, 10, 0, 10, -0.2775, 0.2775},
		{10, 10, 0, 20, 0.6791, 1}, {10, 10, 0, 10, 0.6075, 1},
	} {
		lower, upper := Newcombe(c.a, c.m, c.b, c.n, 0.05)
		name := fmt.Sprintf("%g/%g − %g/%g", c.a, c.m, c.b, c.n)
		near(t, name, lower, c.lower, 0.00005)
		near(t, name, upper, c.upper, 0.00005)
		back, forth := Newcombe(c.b, c.n, c.a, c.m, 0.05)
		near(t, name+" swapped", back, -upper, 1e-12)
		near(t, name+" swapped", forth, -lower, 1e-12)
	}
	lower, upper := NewcombePaired(36, 12, 2, 50, 0.05)
	near(t, "36, 12, 2, 0", lower, 0.0569, 0.00005)
	near(t, "36, 12, 2, 0", upper, 0.3404, 0.00005)
}

// TestMcNemar holds the mid-p value to the examples of Fagerland, Lydersen and Laake
// 2013, BMC Medical Research Methodology 13:91, table 2 — 1 against 7 of Bentur et
// al. has 0.039 — and to the fractions that they are.
func TestMcNemar(t *testing.T) {
	for _, c := range []struct {
		x, y uint64
		want float64
	}{
		{7, 1, 5.0 / 256},                 // (P(X ≤ 0) + P(X ≤ 1))/2 of 8 = (1 + 9)/2/256
		{1, 7, 1 - 5.0/256},               //
		{3, 0, 1.0 / 16},                  //
		{5, 5, 0.5},                       //
		{1, 0, 0.25},                      //
		{0, 0, 1},                         //
		{10, 2, (13.0 + 79.0) / 2 / 4096}, //
	} {
		near(t, fmt.Sprintf("McNemar(%d, %d)", c.x, c.y), McNemar(c.x, c.y), c.want, 1e-9)
	}
	near(t, "two-sided mid-p of 1 and 7", 2*McNemar(7, 1), 0.0390625, 1e-9)
	near(t, "many pairs", McNemar(5100, 4900), McNemar(5101, 4900), 0.002)
}

func TestAgrestiMin(t *testing.T) {
	// (12.5 − 2.5)/52 ± 1.959964·√(15 − 100/52)/52: formula 3 of Agresti and Min 2005.
	half := 1.959963985 * math.Sqrt(15-100.0/52) / 52
	lower, upper := AgrestiMin(12, 2, 50, 0.05)
	near(t, "lower", lower, 10.0/52-half, 1e-6)
	near(t, "upper", upper, 10.0/52+half, 1e-6)
}

// TestTestsAgreeWithIntervals holds that a test rejects mu just where the interval is
// above it.
func TestTestsAgreeWithIntervals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.SliceOfN(rapid.Float64Range(-1, 1), 2, 30).Draw(t, "x")
		mu := rapid.Float64Range(-1, 1).Draw(t, "mu")
		f := rapid.Float64Range(1, 3).Draw(t, "inflation")
		const alpha = 0.05
		if lower, _ := MeanInterval(x, f, alpha); math.Abs(lower-mu) > 1e-9 && (MeanTest(x, f, mu) < alpha/2) != (lower > mu) {
			t.Errorf("t: p %g, lower bound %g, mu %g", MeanTest(x, f, mu), lower, mu)
		}
		lower, _, ok := RankInterval(x, alpha)
		p, tested := RankTest(x, mu, alpha)
		if ok != tested || ok && math.Abs(lower-mu) > 1e-9 && (p <= alpha/2) != (lower > mu) {
			t.Errorf("ranks: p %g (%v), lower bound %g (%v), mu %g", p, tested, lower, ok, mu)
		}
		const n, sd = 20, 0.3
		if lower := -mu - SequenceRadius(sd, n, alpha); math.Abs(lower) > 1e-9 && (SequenceTest(-mu, sd, n, 0, alpha) < alpha/2) != (lower > 0) {
			t.Errorf("sequence: p %g, lower bound %g", SequenceTest(-mu, sd, n, 0, alpha), lower)
		}
	})
}

func TestHolm(t *testing.T) {
	got := Holm([]float64{0.01, 0.04, 0.03, math.NaN()})
	for i, want := range []float64{0.04, 0.09, 0.09, 1} {
		near(t, fmt.Sprintf("Holm %d", i), got[i], want, 1e-12)
	}
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOf(rapid.Float64Range(0, 1)).Draw(t, "p")
		q := slices.Clone(p)
		if len(q) > 0 {
			i := rapid.IntRange(0, len(q)-1).Draw(t, "i")
			q[i] *= rapid.Float64Range(0, 1).Draw(t, "factor")
		}
		a, b := Holm(p), Holm(q)
		for i := range p {
			if a[i] < p[i] || a[i] > 1 {
				t.Fatalf("adjusted %g of %g", a[i], p[i])
			}
			if b[i] > a[i]+1e-12 {
				t.Fatalf("a smaller p-value raised another's: %v → %v, %v → %v", p, a, q, b)
			}
			for j := range p {
				if p[i] < p[j] && a[i] > a[j] {
					t.Fatalf("order lost: %v → %v", p, a)
				}
			}
		}
	})
}

// autoregressive returns n values of standard deviation 1 and correlation rho.
func autoregressive(r *rand.Rand, n int, rho float64) []float64 {
	x := make([]float64, n)
	v := r.NormFloat64()
	for i := range x {
		x[i] = v
		v = rho*v + math.Sqrt(1-rho*rho)*r.NormFloat64()
	}
	return x
}

// TestInflation holds the closed form to a simulation.
func TestInflation(t *testing.T) {
	const length, blocks, runs = 5, 9, 20000
	r := rand.New(rand.NewPCG(1, 2))
	for _, rho := range []float64{0, 0.3, 0.6, 0.8} {
		means, variance := make([]float64, runs), 0.0
		for i := range runs {
			x := autoregressive(r, length*blocks, rho)
			var b []float64
			for len(x) > 0 {
				b, x = append(b, Mean(x[:length])), x[length:]
			}
			means[i] = Mean(b)
			variance += Variance(b) / runs
		}
		want := Variance(means) * blocks / variance
		near(t, fmt.Sprintf("rho %g", rho), Inflation(rho, length, blocks), want, 0.05*want)
	}
}

func TestRho(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, rho := range []float64{0, 0.3, 0.6, 0.8} {
		sum := 0.0
		for range 2000 {
			sum += Rho(autoregressive(r, 60, rho)) / 2000
		}
		near(t, "mean estimate", sum, rho-4*rho/60, 0.015)
	}
	for _, x := range [][]float64{nil, {1}, {1, 2, 3}, {1, 1, 1, 1, 1}} {
		if got := Rho(x); got != 0 {
			t.Errorf("Rho(%v): got %g, want 0", x, got)
		}
	}
}

func TestDetrended(t *testing.T) {
	for i, v := range Detrended([]float64{1, 3, 5, 7, 10}) {
		near(t, fmt.Sprint(i), v, []float64{0.2, 0, -0.2, -0.4, 0.4}[i], 1e-12)
	}
	slope, se := Trend([]float64{1, 3, 5, 7, 10})
	near(t, "slope", slope, 2.2, 1e-12)
	near(t, "its error", se, math.Sqrt(0.4/3/10), 1e-12)
	if got := Detrended([]float64{3}); got[0] != 0 {
		t.Errorf("one value: got %v", got)
	}
}

// TestOverdispersed holds that the test seldom fires on independent events and
// nearly always on bursts.
func TestOverdispersed(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	rate := func(burst float64) float64 {
		const runs, blocks = 1000, 45
		hits := 0.0
		for range runs {
			x, y, n := make([]float64, blocks), make([]float64, blocks), make([]float64, blocks)
			for i := range blocks {
				n[i] = 400
				for range 400 {
					if r.Float64() < 0.0015/burst {
						x[i] += burst
					}
					if r.Float64() < 0.0005/burst {
						y[i] += burst
					}
				}
			}
			if Overdispersed(x, y, n, 0.05) {
				hits++
			}
		}
		return hits / runs
	}
	if got := rate(1); got > 0.08 {
		t.Errorf("independent events: fired in %.3f of runs, want 0.05", got)
	}
	if got := rate(5); got < 0.95 {
		t.Errorf("bursts of 5: fired in %.3f of runs, want 0.95", got)
	}
}

// TestNoPanic holds that nothing here panics, whatever it is given.
func TestNoPanic(t *testing.T) {
	odd := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, -1, 1, 1e308, 5e-324}
	for _, a := range odd {
		for _, b := range odd {
			x := []float64{a, b, a, 1, b, a, b, 2}
			MeanInterval(x, 1, a)
			MeanInterval(x, a, 0.05)
			MeanTest(x, b, a)
			RankInterval(x, 0.05)
			RankTest(x, a, b)
			Rho(x)
			Rho(Detrended(x))
			Wilson(a, b, 0.05)
			Newcombe(a, b, b, a, 0.05)
			NewcombePaired(a, b, a, b, 0.05)
			AgrestiMin(a, b, a, 0.05)
			Overdispersed(x, x, x, 0.05)
			BlockLength(a, 10)
			Inflation(a, 3, 9)
			SequenceRadius(a, 9, b)
			SequenceTest(a, b, 9, a, 0.05)
			StudentTest(a, b, a, b)
			Holm(x)
			T(a, b)
		}
	}
	McNemar(math.MaxUint64, math.MaxUint64)
	McNemar(math.MaxUint64, 0)
	MeanInterval(nil, 1, 0.05)
	RankInterval(nil, 0.05)
	RankTest(nil, 0, 0.05)
	Holm(nil)
}
