package judge

import (
	"math/rand/v2"
	"testing"
	"time"
)

// failures makes pairs of which a share fails on both sides, a share on each alone,
// and extra more on shadow; burst events come at once.
func failures(r *rand.Rand, windows, pairs int, both, alone, extra float64, burst int) []Window {
	var all []Window
	events := func(p float64) (n uint64) {
		for range pairs / burst {
			if r.Float64() < p {
				n += uint64(burst)
			}
		}
		return n
	}
	for k := range windows {
		o := Outcomes{RoleOnlyFailed: events(alone + extra), LiveOnlyFailed: events(alone), BothFailed: events(both)}
		o.BothOK = uint64(pairs) - o.RoleOnlyFailed - o.LiveOnlyFailed - o.BothFailed
		all = append(all, Window{Start: at.Add(time.Duration(k) * 10 * time.Second), Length: 10 * time.Second, Routes: map[string]Route{"/": {Shadow: o}}})
	}
	return all
}

// TestErrors holds what paired errors are worth: at a base of 0.45 %, of which 0.4
// fail on both sides, 20,000 pairs tell 0.1 points.
func TestErrors(t *testing.T) {
	n := runs(1000, 200)
	for _, c := range []struct {
		name                      string
		margin, confidence, extra float64
		burst                     int
		least, most               float64 // shares that fail
	}{
		{"no margin, same", 0, 0.98, 0, 1, 0, 0.01},
		{"no margin, same, in bursts", 0, 0.98, 0, 5, 0, 0.01},
		{"no margin, 0.1 points more", 0, 0.98, 0.001, 1, 0.78, 1},
		{"0.1 points, 0.1 more", 0.001, 0.95, 0.001, 1, 0, 0.025},
		{"0.1 points, 0.25 more", 0.001, 0.95, 0.0025, 1, 0.80, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 5))
			cfg := Config{Confidence: c.confidence, WarmUp: -1, WarmUpShare: -1, Metrics: []Rule{{Name: MetricErrors, Margin: c.margin}}}
			fail := 0.0
			for range n {
				d := Judge(mirrored, cfg, failures(r, 60, 20000/60, 0.004, 0.0005, c.extra, c.burst), Findings{}, at, false)
				if d.Verdict == Fail {
					fail++
				}
			}
			fail /= float64(n)
			t.Logf("%d runs: fail %.1f %%", n, 100*fail)
			if fail > bound(c.most, n) || fail < least(c.least, n) {
				t.Errorf("got fail %.3f, want %.3f to %.3f", fail, c.least, c.most)
			}
		})
	}
}

// TestNoErrors holds how many pairs without any failure it takes to pass.
func TestNoErrors(t *testing.T) {
	for _, c := range []struct {
		pairs int
		want  Verdict
	}{{3000, Inconclusive}, {5000, Pass}} {
		cfg := Config{WarmUp: -1, WarmUpShare: -1, Metrics: []Rule{{Name: MetricErrors, Margin: 0.001}}}
		d := Judge(mirrored, cfg, failures(rand.New(rand.NewPCG(1, 1)), 40, c.pairs/40, 0, 0, 0, 1), Findings{}, at, false)
		if d.Verdict != c.want {
			t.Errorf("%d pairs without a failure: got %s (%v), want %s", c.pairs, d.Verdict, d.Reasons, c.want)
		}
	}
}
