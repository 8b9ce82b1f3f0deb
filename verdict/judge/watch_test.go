package judge

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/verdict/stat"
)

// TestContinuousErrorRate looks at each of 1,000 blocks while the truth is exactly at
// the margin, and holds how often it ever says fail. The blocks are those that the
// judge makes of windows of each correlation.
func TestContinuousErrorRate(t *testing.T) {
	const blocks, alpha = 1000, 0.05
	n := runs(1000, 150)
	var radius [blocks + 1]float64 // for a standard deviation of 1
	for m := 8; m <= blocks; m++ {
		radius[m] = stat.SequenceRadius(1, m, alpha)
	}
	for _, c := range []struct {
		rho    float64
		length int
	}{{0, 4}, {0.6, 5}, {0.6, 16}, {0.8, 36}} {
		t.Run(fmt.Sprintf("rho %g, blocks of %d", c.rho, c.length), func(t *testing.T) {
			r := rand.New(rand.NewPCG(17, 19))
			fail, pass := 0.0, 0.0
			for range n {
				x := autoregressive(r, blocks*c.length, 0.05*math.Sqrt2, c.rho)
				var sum, square float64
				var failed, passed bool
				for m := 1; m <= blocks; m++ {
					d := stat.Mean(x[(m-1)*c.length : m*c.length])
					sum, square = sum+d, square+d*d
					if m < 8 {
						continue
					}
					mean := sum / float64(m)
					sd := math.Sqrt(stat.Inflation(c.rho, c.length, m) * (square - float64(m)*mean*mean) / float64(m-1))
					failed = failed || mean-radius[m]*sd > 0
					passed = passed || mean+radius[m]*sd < 0
				}
				if failed {
					fail++
				}
				if passed {
					pass++
				}
			}
			fail, pass = fail/float64(n), pass/float64(n)
			t.Logf("%d runs: ever fail %.1f %%, ever pass %.1f %%", n, 100*fail, 100*pass)
			if limit := bound(0.05, n); fail > limit || pass > limit {
				t.Errorf("got ever fail %.3f, ever pass %.3f, want at most %.3f", fail, pass, limit)
			}
		})
	}
}

// TestPeekingIsWrong plants the fault that the sequence is there for: an interval for
// one look, looked at after each block, ends in a wrong fail far too often.
func TestPeekingIsWrong(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 29))
	const n, blocks = 100, 100
	var critical [blocks + 1]float64
	for m := 8; m <= blocks; m++ {
		critical[m] = stat.T(0.05, float64(m-1))
	}
	fail := 0
	for range n {
		x := autoregressive(r, blocks, 0.05, 0)
		for m := 8; m <= blocks; m++ {
			if stat.Mean(x[:m])-critical[m]*math.Sqrt(stat.Variance(x[:m])/float64(m)) > 0 {
				fail++
				break
			}
		}
	}
	if fail < 10 {
		t.Errorf("got %d of %d runs that ever fail, want at least 10: the planted fault is not seen", fail, n)
	}
}

// TestWatch follows a judgement from its warm-up to its end, and holds that its
// intervals are the sequence's.
func TestWatch(t *testing.T) {
	for _, c := range []struct {
		effect float64
		want   Verdict
	}{{0, Pass}, {0.3, Fail}} {
		r := rand.New(rand.NewPCG(31, 37))
		w := NewWatch(mirrored, Config{Metrics: p99, MaxDuration: 2 * time.Hour})
		var states []State
		early := Verdict("")
		for _, win := range (scene{windows: 120, noise: 0.03, rho: 0.3, effect: c.effect}).generate(r) {
			ended := w.Add(win)
			d := w.Document(Findings{}, at)
			if len(states) == 0 || states[len(states)-1] != d.State {
				states = append(states, d.State)
			}
			if d.Verdict == Pass && d.End.Sub(d.Start) < 10*time.Minute {
				t.Errorf("passed after %v, want 10m at least", d.End.Sub(d.Start))
			}
			if early == "" && d.Verdict == Fail {
				early = d.Verdict
				if d.End.Sub(d.Start) > 12*time.Minute {
					t.Errorf("failed after %v, want it early", d.End.Sub(d.Start))
				}
			}
			if ended && d.Rig.Blocks == 0 {
				t.Error("a block ended and there is none")
			}
		}
		d := w.Document(Findings{}, at)
		if d.Verdict != c.want {
			t.Errorf("effect %g: got %s %v, want %s", c.effect, d.Verdict, d.Reasons, c.want)
		}
		if diff := cmp.Diff([]State{Warming, Collecting, Decided}, states); diff != "" {
			t.Errorf("states (-want +got):\n%s", diff)
		}
		m := d.Metrics[0]
		var logs []float64
		for _, p := range m.Series {
			logs = append(logs, math.Log1p(*p.Effect))
		}
		inflated := math.Sqrt(stat.Inflation(d.Rig.Rho, d.Rig.BlockWindows, len(logs)) * stat.Variance(logs))
		want := math.Expm1(stat.Mean(logs) + stat.SequenceRadius(inflated, len(logs), 0.05) + hdrError)
		if math.Abs(m.CI.Upper-want) > 1e-9 {
			t.Errorf("upper bound: got %g, want %g", m.CI.Upper, want)
		}
	}
}

// TestWatchEnds holds that what is not decided in time is inconclusive for good.
func TestWatchEnds(t *testing.T) {
	w := NewWatch(mirrored, Config{Metrics: p99, MaxDuration: 15 * time.Minute})
	for _, win := range (scene{windows: 120, noise: 0.05, rho: 0.3, effect: 0.1}).generate(rand.New(rand.NewPCG(1, 2))) {
		w.Add(win)
	}
	d := w.Document(Findings{}, at)
	if d.Verdict != Inconclusive || d.State != Expired || d.Rig.Windows > 91 {
		t.Errorf("got %s, %s after %d windows, want inconclusive and expired after 90", d.Verdict, d.State, d.Rig.Windows)
	}
}

// TestWatchRestore holds that a judgement that is written down and restored after any
// window ends as one that never stopped.
func TestWatchRestore(t *testing.T) {
	// The exact sum of durations, and so their mean, is kept to within a bucket only.
	rules := slices.DeleteFunc(DefaultRules(), func(r Rule) bool { return r.Stat == "mean" })
	cfg := Config{Metrics: rules, MinDuration: 5 * time.Minute}
	windows := scene{windows: 80, noise: 0.03, rho: 0.3}.generate(rand.New(rand.NewPCG(41, 43)))
	for i := range windows {
		harmless(&windows[i], i >= 20)
		windows[i].Rig.Accounts = []Account{{Role: Shadow, Offered: 10, Sent: 9, Dropped: map[string]uint64{"killed": 1}}}
		windows[i].Usage = map[Role]Usage{Shadow: {CPU: time.Second, Requests: 10, Allocations: math.NaN()}}
	}
	straight := NewWatch(mirrored, cfg)
	restored := NewWatch(mirrored, cfg)
	for _, w := range windows {
		a := straight.Add(w)
		b, err := restored.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		if restored, err = RestoreWatch(mirrored, cfg, b); err != nil {
			t.Fatal(err)
		}
		if restored.Add(w) != a {
			t.Fatal("a block ended in one of them")
		}
	}
	want, got := straight.Document(Findings{}, at), restored.Document(Findings{}, at)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restored (-straight +restored):\n%s", diff)
	}
	state, err := straight.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(state); i += 97 {
		if _, err := RestoreWatch(mirrored, cfg, state[:i]); err == nil {
			t.Errorf("the first %d of %d bytes: got no error", i, len(state))
		}
	}
}

func FuzzRestoreWatch(f *testing.F) {
	w := NewWatch(mirrored, Config{Metrics: p99, WarmUp: -1, WarmUpShare: -1, MinDuration: time.Minute})
	f.Add([]byte{})
	for i, win := range (scene{windows: 30, noise: 0.05, calls: 200}).generate(rand.New(rand.NewPCG(1, 2))) {
		w.Add(win)
		if i == 3 || i == 29 {
			b, err := w.MarshalBinary()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	more := scene{windows: 30, noise: 0.05, calls: 200}.generate(rand.New(rand.NewPCG(1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := RestoreWatch(mirrored, Config{Metrics: p99}, b)
		if err != nil {
			return
		}
		w.Add(more[0])
		if d := w.Document(Findings{}, at); d.Schema != Schema {
			t.Errorf("schema %q", d.Schema)
		}
	})
}

// BenchmarkWatch is what a window of 50 routes and 3 roles costs.
func BenchmarkWatch(b *testing.B) {
	win := scene{windows: 1, noise: 0.05}.generate(rand.New(rand.NewPCG(1, 2)))[0]
	route := win.Routes["/threads"]
	for i := range 50 {
		win.Routes[fmt.Sprint("/", i)] = route
	}
	w := NewWatch(mirrored, Config{MaxDuration: 1e6 * time.Hour})
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		win.Start = at.Add(time.Duration(i) * 10 * time.Second)
		i++
		if w.Add(win) && i%200 == 0 {
			w.Document(Findings{}, at)
		}
	}
}
