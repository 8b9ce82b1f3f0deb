package judge

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/verdict/stat"
)

// runs is the size of a simulation: quick in every run of the tests and a sixteenth
// of that with -short; full for the benchmark's report, which sets
// VERDICT_SIMULATIONS=full.
func runs(full, quick int) int {
	switch {
	case os.Getenv("VERDICT_SIMULATIONS") == "full":
		return full
	case testing.Short():
		return max(4, quick/16)
	}
	return quick
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// scene is one simulated comparison: windows of 10 s on one route.
type scene struct {
	windows     int
	noise, rho  float64 // of each arm's own, from window to window
	env         float64 // drift that the arms share
	effect      float64 // of head's median and all else
	tail        float64 // of head's slowest 3 % beyond that
	unit        float64 // of time; 0 is 1
	head, base  Role
	calls       int // a window; 0 is 1000
	warm        float64
	warmWindows int
	sampled     bool // each call drawn, rather than the distribution's shape
}

// shape is a service's latencies: log-normal with a slow class of 3 %.
var shape = func() []float64 {
	var q []float64
	const n = 100
	for i := range n {
		x := stats(float64(i)+0.5, n) * 0.45
		if i >= n*97/100 {
			x += 1.2
		}
		q = append(q, 0.020*math.Exp(x))
	}
	return q
}()

// stats is the quantile (i/n) of the standard normal distribution.
func stats(i, n float64) float64 { return stat.Z(2 * (1 - i/n)) }

func autoregressive(r *rand.Rand, n int, sd, rho float64) []float64 {
	x := make([]float64, n)
	v := r.NormFloat64() * sd
	for i := range x {
		x[i] = v
		v = rho*v + math.Sqrt(1-rho*rho)*sd*r.NormFloat64()
	}
	return x
}

func (s scene) generate(r *rand.Rand) []Window {
	if s.unit == 0 {
		s.unit = 1
	}
	if s.calls == 0 {
		s.calls = 1000
	}
	if s.head == "" {
		s.head, s.base = Shadow, Control
	}
	env := autoregressive(r, s.windows, s.env, 0.8)
	arms := [2][]float64{autoregressive(r, s.windows, s.noise, s.rho), autoregressive(r, s.windows, s.noise, s.rho)}
	var all []Window
	for k := range s.windows {
		route := Route{Latency: map[Role]Latency{}, Shadow: Outcomes{BothOK: uint64(s.calls)}, Differences: Differences{Same: uint64(s.calls)}}
		for i, role := range []Role{s.base, s.head} {
			x := env[k] + arms[i][k]
			h := hist.New()
			effect, tail := s.effect, s.tail
			if i == 0 {
				effect, tail = 0, 0
			} else if k < s.warmWindows {
				effect += s.warm
			}
			record := func(j int, n int64) {
				v := shape[j] * s.unit * math.Exp(x) * (1 + effect)
				if j >= len(shape)*97/100 {
					v *= 1 + tail
				}
				h.RecordN(time.Duration(v*1e9), n)
			}
			if s.sampled {
				for range s.calls {
					record(r.IntN(len(shape)), 1)
				}
			} else {
				for j := range shape {
					record(j, int64(s.calls/len(shape)))
				}
			}
			route.Latency[role] = Latency{Durations: h}
		}
		if s.base == Control {
			route.Latency[Live] = route.Latency[Control]
		}
		all = append(all, Window{Start: at.Add(time.Duration(k) * 10 * time.Second), Length: 10 * time.Second, Routes: map[string]Route{"/threads": route}})
	}
	return all
}

var (
	mirrored = Comparison{Name: "test", Arms: []Arm{{Role: Live}, {Role: Shadow}, {Role: Control}}}
	p99      = []Rule{{Name: MetricLatency, Stat: "p99", Margin: 0.10}}
)

// rates judges n runs of a scene and returns the shares that failed and passed.
func (s scene) rates(t *testing.T, n int, seed uint64, cfg Config) (fail, pass float64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		switch d := Judge(mirrored, cfg, s.generate(r), Findings{}, at, false); d.Verdict {
		case Fail:
			fail++
		case Pass:
			pass++
		}
	}
	fail, pass = fail/float64(n), pass/float64(n)
	t.Logf("%s: %d runs of %d windows, rho %g, effect %+.0f %%, tail %+.0f %%: fail %.1f %%, pass %.1f %%", t.Name(), n, s.windows, s.rho, 100*s.effect, 100*s.tail, 100*fail, 100*pass)
	return fail, pass
}

// bound is limit, loosened by what n runs of a judge just within it exceed once in
// some thousand times; none for the full size.
func bound(limit float64, n int) float64 {
	if n >= 1000 {
		return limit
	}
	return limit + 3*math.Sqrt(limit*(1-limit)/float64(n))
}

// least is the same for what is to be reached.
func least(limit float64, n int) float64 { return limit - (bound(1-limit, n) - (1 - limit)) }

// TestAtTheMargin holds the error that the judge claims where the truth is exactly at
// the margin.
func TestAtTheMargin(t *testing.T) {
	for _, c := range []struct {
		rho     float64
		windows int
		limit   float64
	}{{0, 60, 0.04}, {0.6, 60, 0.04}, {0.8, 240, 0.055}} {
		t.Run(fmt.Sprintf("rho %g", c.rho), func(t *testing.T) {
			n := runs(1000, 100)
			fail, pass := scene{windows: c.windows, noise: 0.05, rho: c.rho, env: 0.15, effect: 0.10}.rates(t, n, 7, Config{Metrics: p99})
			if limit := bound(c.limit, n); fail > limit || pass > limit {
				t.Errorf("got fail %.3f and pass %.3f, want at most %.3f each", fail, pass, limit)
			}
		})
	}
}

// TestPower holds that what is the same passes, and what is much slower fails.
func TestPower(t *testing.T) {
	n := runs(1000, 60)
	// Of 60 windows with correlation 0.6 a quarter are left out and the rest weigh as much
	// as eleven independent ones: the power there is just short of nine tenths.
	for rho, power := range map[float64]float64{0: 0.90, 0.6: 0.87} {
		fail, pass := scene{windows: 60, noise: 0.05, rho: rho, env: 0.15}.rates(t, n, 11, Config{Metrics: p99})
		if fail > bound(0.01, n) || pass < least(0.80, n) {
			t.Errorf("same: got fail %.3f and pass %.3f, want at most 0.01 and at least 0.80", fail, pass)
		}
		fail, _ = scene{windows: 60, noise: 0.05, rho: rho, env: 0.15, effect: 0.20}.rates(t, n, 13, Config{Metrics: p99})
		if fail < least(power, n) {
			t.Errorf("20 %% slower: got fail %.3f, want at least %.2f", fail, power)
		}
	}
}

// TestOtherTruths holds what else a service may do: be slow while it warms up, be slow
// for the slowest alone, and draw each call for itself.
func TestOtherTruths(t *testing.T) {
	noisy := scene{windows: 60, noise: 0.05, rho: 0.6, env: 0.15}
	for _, c := range []struct {
		name       string
		change     func(*scene)
		fail, pass float64 // at least; of the other at most a hundredth
	}{
		{"50 % slower in the first fifth", func(s *scene) { s.warm, s.warmWindows = 0.5, 12 }, 0, 0.80},
		{"the slowest 30 % slower", func(s *scene) { s.tail = 0.30 }, 0.90, 0},
		{"calls drawn, same", func(s *scene) { s.sampled = true }, 0, 0.70},
		{"calls drawn, 30 % slower", func(s *scene) { s.sampled, s.effect = true, 0.30 }, 0.90, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, n := noisy, runs(1000, 24)
			c.change(&s)
			fail, pass := s.rates(t, n, 19, Config{Metrics: p99})
			if fail < least(c.fail, n) || pass < least(c.pass, n) || min(fail, pass) > bound(0.01, n) {
				t.Errorf("got fail %.3f and pass %.3f, want at least %.2f and %.2f", fail, pass, c.fail, c.pass)
			}
		})
	}
}
