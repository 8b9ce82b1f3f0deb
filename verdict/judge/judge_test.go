package judge

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/internal/hist"
)

// harmless adds live traffic that does not depend on whether copies are sent.
func harmless(w *Window, sending bool) { traffic(w, sending, sending, 1) }

// traffic adds live's traffic: while the mirror is sending a tenth of it comes when
// nothing is sent; factor slows down what sampled users see, or all if it is sent.
func traffic(w *Window, sending, sampling bool, factor float64) {
	w.Rig.Sending, w.Rig.Sampling = sending, sampling
	route := w.Routes["/threads"]
	add := func(sampled, sending bool, n int64, factor float64) {
		h := hist.New()
		for _, v := range shape {
			h.RecordN(time.Duration(v*factor*1e9), n)
		}
		route.Live = append(route.Live, Traffic{Sampled: sampled, Sending: sending, Durations: h, Requests: uint64(h.Count())})
	}
	for _, sampled := range []bool{true, false} {
		f := 1.0
		if sending {
			f = factor
		}
		add(sampled, sending, 10, f)
		if sending {
			add(sampled, false, 2, 1)
		}
	}
	w.Routes["/threads"] = route
}

// TestPooledJudgeIsWrong plants the fault that blocks are there for. With identical
// builds, whose noise moves whole windows, a judge that takes each request for
// evidence calls most runs different, and one that takes each window for a block fails
// more often than it claims.
func TestPooledJudgeIsWrong(t *testing.T) {
	n := runs(400, 60)
	r := rand.New(rand.NewPCG(5, 1))
	pooled := 0
	for range n {
		a, b := hist.New(), hist.New()
		for _, w := range (scene{windows: 60, noise: 0.05, rho: 0.6, env: 0.15}).generate(r) {
			a.Merge(w.Routes["/threads"].Latency[Shadow].Durations)
			b.Merge(w.Routes["/threads"].Latency[Control].Durations)
		}
		// Kolmogorov and Smirnov at p < 0.01, as if calls were independent.
		s := walk(a, b)
		if s.KS*math.Sqrt(float64(a.Count())/2) > 1.63 {
			pooled++
		}
	}
	if share := float64(pooled) / float64(n); share < 0.25 {
		t.Errorf("single requests: got %.2f of identical builds called different, want the fault to be seen in a quarter of them", share)
	} else {
		t.Logf("single requests: %.0f %% of %d comparisons of a build with itself are called different", 100*share, n)
	}
	if fail, _ := (scene{windows: 60, noise: 0.05, rho: 0.6, env: 0.15}).rates(t, n, 5, Config{Metrics: p99}); fail > bound(0.01, n) {
		t.Errorf("blocks: got %.3f failed, want at most 0.01", fail)
	}
	windows := 0
	for range n {
		e := newEvidence(mirrored, Config{Metrics: p99}.filled(), Fixed)
		e.whole = true // the planted fault
		ws := scene{windows: 60, noise: 0.05, rho: 0.8, env: 0.15, effect: 0.1}.generate(r)
		for _, w := range ws {
			e.note(w)
		}
		e.fold(ws)
		if e.document(Findings{}, at, false).Verdict == Fail {
			windows++
		}
	}
	if share := float64(windows) / float64(n); share < 0.08 {
		t.Errorf("single windows: got %.2f failed at the margin, want the fault to be seen in a twelfth", share)
	}
}

// TestUnits holds that the unit of time does not matter.
func TestUnits(t *testing.T) {
	for _, effect := range []float64{0, 0.1, 0.3} {
		s := scene{windows: 60, noise: 0.05, rho: 0.3, effect: effect}
		a := Judge(mirrored, Config{Metrics: p99}, s.generate(rand.New(rand.NewPCG(1, 2))), Findings{}, at, false)
		s.unit = 16
		b := Judge(mirrored, Config{Metrics: p99}, s.generate(rand.New(rand.NewPCG(1, 2))), Findings{}, at, false)
		if a.Verdict != b.Verdict || math.Abs(*a.Metrics[0].Effect-*b.Metrics[0].Effect) > 2e-3 || math.Abs(a.Metrics[0].CI.Upper-b.Metrics[0].CI.Upper) > 3e-3 {
			t.Errorf("effect %g: got %s %+v, 16 times as long %s %+v", effect, a.Verdict, a.Metrics[0].CI, b.Verdict, b.Metrics[0].CI)
		}
	}
}

// TestSwap holds that with the sides swapped the effect changes its sign and no more.
func TestSwap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := scene{windows: rapid.IntRange(20, 80).Draw(t, "windows"), noise: 0.05, rho: rapid.Float64Range(0, 0.8).Draw(t, "rho"),
			effect: rapid.Float64Range(-0.3, 0.3).Draw(t, "effect"), calls: 1000}
		seed := rapid.Uint64().Draw(t, "seed")
		windows := s.generate(rand.New(rand.NewPCG(seed, 2)))
		a := Judge(mirrored, Config{Metrics: p99}, windows, Findings{}, at, false)
		for i := range windows {
			l := windows[i].Routes["/threads"].Latency
			l[Shadow], l[Control] = l[Control], l[Shadow]
		}
		b := Judge(mirrored, Config{Metrics: p99}, windows, Findings{}, at, false)
		x, y := a.Metrics[0], b.Metrics[0]
		if math.Abs(math.Log1p(*x.Effect)+math.Log1p(*y.Effect)) > 1e-9 {
			t.Fatalf("effects %g and %g", *x.Effect, *y.Effect)
		}
		if (x.CI == nil) != (y.CI == nil) {
			t.Fatalf("intervals %v and %v", x.CI, y.CI)
		}
		if x.CI != nil && (math.Abs(math.Log1p(x.CI.Lower)+math.Log1p(y.CI.Upper)) > 1e-9 || math.Abs(math.Log1p(x.CI.Upper)+math.Log1p(y.CI.Lower)) > 1e-9) {
			t.Fatalf("intervals %v and %v", x.CI, y.CI)
		}
	})
}

// TestRoleOfLive holds what live is compared with: nothing, where there is a control.
func TestLikeWithLike(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02, effect: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	for i := range windows {
		l := windows[i].Routes["/threads"].Latency
		far := hist.New() // live is reached on a shorter way
		for j, n := range l[Control].Durations.Buckets() {
			_ = j
			far.RecordN(time.Millisecond, n)
		}
		l[Live] = Latency{Durations: far}
	}
	d := Judge(mirrored, Config{Metrics: p99}, windows, Findings{}, at, false)
	m := d.Metrics[0]
	if d.Verdict != Pass || m.Against != Control || m.Offset == nil || m.Offset.Effect < 1 || m.Live == nil || m.Load == nil || math.Abs(m.Load.Route-100) > 1 {
		t.Errorf("with a control: got %s, %+v, offset %+v, load %+v", d.Verdict, m, m.Offset, m.Load)
	}

	alone := Comparison{Arms: []Arm{{Role: Live}, {Role: Shadow}}}
	d = Judge(alone, Config{}, windows, Findings{}, at, false)
	for _, m := range d.Metrics {
		if m.Name == MetricLatency && m.Use != UseWatch {
			t.Errorf("without a control: %s is a gate", m.Title())
		}
	}
	if len(d.Notes) == 0 || d.Verdict != Pass {
		t.Errorf("without a control: got %s with notes %q, want a pass of the errors that says what was not judged", d.Verdict, d.Notes)
	}

	d = Judge(alone, Config{Metrics: p99}, windows, Findings{}, at, false)
	if d.Verdict != Inconclusive || !has(d, ReasonNothingGates) {
		t.Errorf("nothing but latency, without a control: got %s %v", d.Verdict, d.Reasons)
	}

	// A stored run of the same build on both sides tells what the rig adds.
	aa := Judge(alone, Config{Metrics: p99}, scene{windows: 60, noise: 0.02, head: Shadow, base: Live, effect: 0.5}.generate(rand.New(rand.NewPCG(3, 4))), Findings{}, at, false)
	alone.AA = aa.Metrics
	for _, c := range []struct {
		effect float64
		want   Verdict
	}{{0.5, Pass}, {1.0, Fail}} {
		d = Judge(alone, Config{Metrics: p99}, scene{windows: 60, noise: 0.02, head: Shadow, base: Live, effect: c.effect}.generate(rand.New(rand.NewPCG(5, 6))), Findings{}, at, false)
		if d.Verdict != c.want || d.Metrics[0].Offset == nil || !d.Metrics[0].Offset.Stored {
			t.Errorf("with a stored run, %+.0f %%: got %s %v, want %s", 100*c.effect, d.Verdict, d.Reasons, c.want)
		}
	}
}

func has(d *Document, code string) bool {
	return slices.ContainsFunc(d.Reasons, func(r Reason) bool { return r.Code == code })
}

// TestBadEvidence holds that a run with something missing or broken never passes, and
// says what would help.
func TestBadEvidence(t *testing.T) {
	good := func() []Window {
		return scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	}
	if d := Judge(mirrored, Config{}, good(), Findings{}, at, false); d.Verdict != Pass || len(d.Reasons) > 0 {
		t.Fatalf("the good run: got %s %v, want a pass", d.Verdict, d.Reasons)
	}
	every := func(f func(*Window)) func([]Window) []Window {
		return func(all []Window) []Window {
			for i := range all {
				f(&all[i])
			}
			return all
		}
	}
	for _, c := range []struct {
		name   string
		change func([]Window) []Window
		code   string
		text   string
	}{
		{"no window", func([]Window) []Window { return nil }, ReasonNoData, "no window"},
		{"one window", func(w []Window) []Window { return w[:1] }, ReasonFewBlocks, "needed"},
		{"one block", func(w []Window) []Window { return w[:8] }, ReasonFewBlocks, "needed"},
		{"no shadow", every(func(w *Window) { delete(w.Routes["/threads"].Latency, Shadow) }), ReasonNoData, "of shadow"},
		{"no route", every(func(w *Window) { w.Routes = nil }), ReasonNoData, "nothing to judge"},
		{"few pairs", every(func(w *Window) {
			for role := range w.Routes["/threads"].Latency {
				h := hist.New()
				h.RecordN(time.Millisecond, 30)
				w.Routes["/threads"].Latency[role] = Latency{Durations: h}
			}
		}), ReasonFewPairs, "1000 calls"},
		{"time-outs", every(func(w *Window) {
			l := w.Routes["/threads"].Latency[Shadow]
			l.Timeouts = 30
			w.Routes["/threads"].Latency[Shadow] = l
		}), ReasonCensored, "timed out"},
		{"drops", every(func(w *Window) {
			w.Rig.Accounts = []Account{{Role: Shadow, Offered: 100, Sent: 98, Dropped: map[string]uint64{"lane_full": 2}}}
		}), ReasonDropped, "lane_full 120"},
		{"drops for a reason that is not known", every(func(w *Window) {
			w.Rig.Accounts = []Account{{Role: Shadow, Offered: 100, Sent: 98, Dropped: map[string]uint64{"new": 2}}}
		}), ReasonDropped, "new 120"},
		{"a lossy stream", every(func(w *Window) { w.Rig.StreamSent, w.Rig.StreamLost = 98, 2 }), ReasonStream, "2 %"},
		{"a late rig", every(func(w *Window) {
			w.Rig.Lateness = hist.New()
			w.Rig.Lateness.RecordN(10*time.Millisecond, 100)
		}), ReasonLate, "late"},
		{"a slow relay", every(func(w *Window) {
			w.Rig.Overhead = hist.New()
			w.Rig.Overhead.RecordN(4*time.Millisecond, 100)
		}), ReasonLate, "held"},
		{"a hot rig", every(func(w *Window) { w.Rig.CPU, w.Rig.Quota = 9*time.Second, 10*time.Second }), ReasonHot, "90 %"},
		{"clocks apart", every(func(w *Window) { w.Rig.ClockOffset = -time.Minute }), ReasonClock, "apart"},
		{"negative length", func(w []Window) []Window { w[3].Length = -1; return w }, ReasonClock, "negative"},
		{"windows twice", func(w []Window) []Window { return append(w, w...) }, ReasonClock, "overlaps"},
		{"unsteady", func(w []Window) []Window {
			for i := range w {
				scale(&w[i], Shadow, 1+0.005*float64(i))
			}
			return w
		}, ReasonUnsteady, "changes from beginning to end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Judge(mirrored, Config{}, c.change(good()), Findings{}, at, false)
			if d.Verdict != Inconclusive || !has(d, c.code) {
				t.Fatalf("got %s %v, want inconclusive by %s", d.Verdict, d.Reasons, c.code)
			}
			i := slices.IndexFunc(d.Reasons, func(r Reason) bool { return r.Code == c.code })
			if r := d.Reasons[i]; !strings.Contains(r.Text, c.text) || r.Cure == "" {
				t.Errorf("got %q, cure %q, want %q and a cure", r.Text, r.Cure, c.text)
			}
		})
	}
}

// scale makes all durations of role longer by a factor.
func scale(w *Window, role Role, factor float64) {
	h := hist.New()
	for i := range shape {
		q := w.Routes["/threads"].Latency[role].Durations.Quantile((float64(i) + 0.5) / float64(len(shape)))
		h.RecordN(time.Duration(float64(q)*factor), 10)
	}
	w.Routes["/threads"].Latency[role] = Latency{Durations: h}
}

// TestMaxLate holds that a rig may be as late as it is said that it may.
func TestMaxLate(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	for i := range windows {
		windows[i].Rig.Lateness = hist.New()
		windows[i].Rig.Lateness.RecordN(10*time.Millisecond, 100)
	}
	for _, c := range []struct {
		most time.Duration
		want Verdict
	}{{0, Inconclusive}, {5 * time.Millisecond, Inconclusive}, {20 * time.Millisecond, Pass}} {
		if d := Judge(mirrored, Config{MaxLate: c.most}, windows, Findings{}, at, false); d.Verdict != c.want {
			t.Errorf("%v: got %s %v, want %s", c.most, d.Verdict, d.Reasons, c.want)
		}
	}
}

// TestChosenDrops holds that drops by choice are coverage and no gate.
func TestChosenDrops(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	for i := range windows {
		windows[i].Rig.Accounts = []Account{{Role: Shadow, Offered: 100, Sent: 60, Dropped: map[string]uint64{"switchback": 10, "body_too_large": 30}}}
	}
	d := Judge(mirrored, Config{}, windows, Findings{}, at, false)
	if d.Verdict != Pass || d.Coverage.Roles[0].Chosen["body_too_large"] != 1800 {
		t.Errorf("got %s %v, %+v", d.Verdict, d.Reasons, d.Coverage.Roles)
	}
}

// TestInterrupted holds that a run that was cut short is inconclusive, whatever it saw.
func TestInterrupted(t *testing.T) {
	for _, effect := range []float64{0, 0.5} {
		d := Judge(mirrored, Config{}, scene{windows: 60, noise: 0.02, effect: effect}.generate(rand.New(rand.NewPCG(1, 2))), Findings{}, at, true)
		if d.Verdict != Inconclusive || !has(d, ReasonInterrupted) {
			t.Errorf("effect %g: got %s %v", effect, d.Verdict, d.Reasons)
		}
	}
}

// TestOddEvidence holds that nothing panics, and nothing odd passes: any numbers, also
// those that are none.
func TestOddEvidence(t *testing.T) {
	odd := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, -1}))
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.OneOf(rapid.Uint64Range(0, 3000), rapid.Uint64())
		role := rapid.SampledFrom([]Role{Live, Shadow, Control, Base, Head, "nobody"})
		windows := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Window {
			h := hist.New()
			h.RecordN(time.Duration(rapid.Int64().Draw(t, "duration")), rapid.Int64Range(0, 2000).Draw(t, "n"))
			latency := map[Role]Latency{role.Draw(t, "role"): {h, count.Draw(t, "timeouts")}, role.Draw(t, "other"): {Durations: h}, role.Draw(t, "none"): {}}
			o := Outcomes{count.Draw(t, "ok"), count.Draw(t, "role only"), count.Draw(t, "live only"), count.Draw(t, "both")}
			return Window{
				Start: time.Unix(rapid.Int64Range(0, 1e6).Draw(t, "start"), 0), Length: time.Duration(rapid.Int64().Draw(t, "length")),
				Routes: map[string]Route{rapid.SampledFrom([]string{"/", "", "other", "*", "["}).Draw(t, "route"): {
					Latency: latency, Shadow: o, Control: o, Calls: map[Role]Calls{role.Draw(t, "of calls"): {o.BothOK, o.BothFailed}},
					Differences: Differences{o.BothOK, o.BothFailed, o.LiveOnlyFailed, o.RoleOnlyFailed},
					Live:        []Traffic{{true, true, h, o.BothOK, o.BothFailed}, {false, false, nil, 1, 2}},
				}},
				Usage: map[Role]Usage{role.Draw(t, "of usage"): {time.Duration(rapid.Int64().Draw(t, "cpu")), odd.Draw(t, "allocs"), odd.Draw(t, "requests"), odd.Draw(t, "memory")}},
				Rig:   RigWindow{Accounts: []Account{{role.Draw(t, "of account"), o.BothOK, o.BothFailed, map[string]uint64{"killed": 1, "": o.BothOK}}}, StreamSent: o.BothOK, StreamLost: o.BothFailed, CPU: -1, Quota: 1, Sending: o.BothOK%2 == 0, Sampling: true},
			}
		}), 0, 30).Draw(t, "windows")
		arms := rapid.SampledFrom([][]Arm{nil, {{Role: Shadow}}, {{Role: Live}, {Role: Shadow}}, mirrored.Arms, {{Role: Base}, {Role: Head}}}).Draw(t, "arms")
		c := Comparison{Arms: arms, Unpaired: rapid.Bool().Draw(t, "unpaired"), Whole: rapid.Bool().Draw(t, "whole")}
		cfg := Config{Confidence: odd.Draw(t, "confidence"), WarmUpShare: -1, WarmUp: -1, MinBlocks: 3, MinRounds: 3,
			Metrics: append([]Rule{{Name: MetricLatency, Stat: "p98"}, {Name: MetricLatency, Stat: "p50", Margin: odd.Draw(t, "margin"), Floor: odd.Draw(t, "floor")}}, DefaultRules()...),
			Limits:  []Limit{{Shadow, MetricLatency, "p99", "", 1}, {Head, MetricErrors, "", "*", 1}, {Live, MetricCPU, "", "", odd.Draw(t, "limit")}}}
		d := Judge(c, cfg, windows, Findings{}, at, false)
		if _, err := json.Marshal(d); err != nil {
			t.Fatal(err)
		}
		if d.Verdict == Pass {
			t.Fatalf("a statistic that is none passes: %+v", d.Metrics)
		}
		rounds, _ := JudgeRounds(c, cfg, windows, 3, at, false)
		w := NewWatch(c, cfg)
		for _, win := range windows {
			w.Add(win)
		}
		for _, d := range []*Document{rounds, w.Document(Findings{}, at)} {
			if _, err := json.Marshal(d); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestHolmInVerdict holds that one of many rows has to be clearer to fail.
func TestHolmInVerdict(t *testing.T) {
	// Ten routes at the margin: without a correction a fifth of the runs would fail.
	r := rand.New(rand.NewPCG(61, 67))
	n, fail := runs(300, 10), 0
	for range n {
		var windows []Window
		for route := range 10 {
			for k, w := range (scene{windows: 40, noise: 0.05, effect: 0.1}).generate(r) {
				if route == 0 {
					windows = append(windows, w)
				} else {
					windows[k].Routes[fmt.Sprint("/", route)] = w.Routes["/threads"]
				}
			}
		}
		if Judge(mirrored, Config{Metrics: p99}, windows, Findings{}, at, false).Verdict == Fail {
			fail++
		}
	}
	if share := float64(fail) / float64(n); share > bound(0.05, n) {
		t.Errorf("got %.3f of runs failed, want at most 0.05", share)
	}
}

// TestManyRows holds that what is plainly slower fails among many rows too, though
// there are few blocks.
func TestManyRows(t *testing.T) {
	r := rand.New(rand.NewPCG(103, 107))
	var windows []Window
	for route := range 20 {
		effect := 0.0
		if route == 7 {
			effect = 0.6
		}
		for k, w := range (scene{windows: 45, noise: 0.03, effect: effect}).generate(r) {
			if route == 0 {
				windows = append(windows, w)
			} else {
				windows[k].Routes[fmt.Sprint("/", route)] = w.Routes["/threads"]
			}
		}
	}
	d := Judge(mirrored, Config{}, windows, Findings{}, at, false)
	if d.Verdict != Fail || d.Rig.Blocks > 9 || d.Reasons[0].Route != "/7" {
		t.Errorf("got %s of %d blocks, %v, want /7 to fail", d.Verdict, d.Rig.Blocks, d.Reasons)
	}
}

// TestRemainder holds that a route with a handful of calls neither fails nor holds up
// a verdict, and that coverage says where it went.
func TestRemainder(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	h := hist.New()
	h.RecordN(time.Second, 3)
	for i := range windows {
		windows[i].Routes["/rare"] = Route{Latency: map[Role]Latency{Shadow: {Durations: h}, Control: {Durations: h}, Live: {Durations: h}}, Shadow: Outcomes{BothOK: 3}, Differences: Differences{Same: 3}}
	}
	d := Judge(mirrored, Config{}, windows, Findings{}, at, false)
	if d.Verdict != Pass {
		t.Errorf("got %s %v, want a pass", d.Verdict, d.Reasons)
	}
	if i := slices.IndexFunc(d.Coverage.Routes, func(c RouteCoverage) bool { return c.Route == "/rare" }); i < 0 || d.Coverage.Routes[i].FoldedInto != Other || d.Coverage.Routes[i].Pairs != 180 {
		t.Errorf("coverage: %+v", d.Coverage.Routes)
	}
}

// TestCosts holds that CPU time, allocations and memory are judged like any other.
func TestCosts(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Usage)
		want   Verdict
	}{
		{"same", func(*Usage) {}, Pass},
		{"CPU", func(u *Usage) { u.CPU = u.CPU * 13 / 10 }, Fail},
		{"allocations", func(u *Usage) { u.Allocations *= 1.3 }, Fail},
		{"memory", func(u *Usage) { u.Memory *= 1.3 }, Fail},
		{"none", func(u *Usage) { *u = Usage{} }, Inconclusive},
		{"NaN", func(u *Usage) { u.Requests = math.NaN() }, Inconclusive},
		{"negative", func(u *Usage) { u.CPU = -1 }, Inconclusive},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(71, 73))
			var windows []Window
			for k := range 60 {
				u := func() Usage {
					f := 1 + 0.03*r.NormFloat64()
					return Usage{CPU: time.Duration(1e9 * f), Allocations: 1e6 * f, Requests: 1000, Memory: 1e8 * f}
				}
				shadow := u()
				c.change(&shadow)
				windows = append(windows, Window{Start: at.Add(time.Duration(k) * 10 * time.Second), Length: 10 * time.Second, Usage: map[Role]Usage{Shadow: shadow, Control: u()}})
			}
			cfg := Config{Metrics: []Rule{{Name: MetricCPU, Margin: 0.1}, {Name: MetricAllocations, Margin: 0.1}, {Name: MetricMemory, Margin: 0.1}}}
			if d := Judge(mirrored, cfg, windows, Findings{}, at, false); d.Verdict != c.want {
				t.Errorf("got %s %v, want %s", d.Verdict, d.Reasons, c.want)
			}
		})
	}
}

// TestObjectives holds absolute limits beside the comparison.
func TestObjectives(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	for _, c := range []struct {
		limit Limit
		want  Verdict
	}{
		{Limit{Shadow, MetricLatency, "p99", "", 0.5}, Pass},
		{Limit{Shadow, MetricLatency, "p99", "", 0.05}, Fail},
		{Limit{Shadow, MetricLatency, "p99", "/nowhere", 0.5}, Inconclusive},
		{Limit{Shadow, MetricErrors, "", "", 0.001}, Pass},
		{Limit{Shadow, MetricMemory, "", "", 1e9}, Inconclusive},
	} {
		d := Judge(mirrored, Config{Metrics: []Rule{{Name: MetricErrors, Margin: 0.001}}, Limits: []Limit{c.limit}}, windows, Findings{}, at, false)
		if d.Verdict != c.want || d.Objectives[0].Verdict != c.want {
			t.Errorf("%s: got %s, %+v, want %s", c.limit, d.Verdict, d.Objectives, c.want)
		}
	}
}

// sparse are windows of a few calls each on two routes, of log-normal durations with
// that median, in seconds.
func sparse(r *rand.Rand, windows, calls int, median float64, timeouts uint64) (all []Window) {
	for i := range windows {
		h := hist.New()
		for range calls {
			h.Record(time.Duration(median * math.Exp(0.5*r.NormFloat64()) * 1e9))
		}
		side := func() map[Role]Latency { return map[Role]Latency{Shadow: {h, timeouts}, Control: {h, timeouts}} }
		all = append(all, Window{Start: at.Add(time.Duration(i) * 5 * time.Second), Length: 5 * time.Second, Routes: map[string]Route{"/rare": {Latency: side()}, "/rarer": {Latency: side()}}})
	}
	return all
}

// TestSparseObjectives holds what calls that are few in each block tell together: the
// limits, and no more often wrong than they may be.
func TestSparseObjectives(t *testing.T) {
	cfg := Config{WarmUp: -1, WarmUpShare: -1, Metrics: []Rule{{Name: MetricErrors, Use: UseWatch}}}
	judged := func(l Limit, windows []Window) Objective {
		cfg.Limits = []Limit{l}
		return Judge(mirrored, cfg, windows, Findings{}, at, false).Objectives[0]
	}
	p50 := Limit{Shadow, MetricLatency, "p50", "/rare", 0.030}
	p95 := Limit{Shadow, MetricLatency, "p95", "/rare", 0.100}
	for _, c := range []struct {
		name     string
		limit    Limit
		median   float64
		calls    int
		timeouts uint64
		want     Verdict
	}{
		{"half as slow", p50, 0.015, 5, 0, Pass},
		{"twice as slow", p50, 0.060, 5, 0, Fail},
		{"near it", p50, 0.029, 5, 0, Inconclusive},
		{"39 calls", p50, 0.015, 3, 0, Inconclusive},
		{"a tail within", p95, 0.015, 20, 0, Pass},
		{"a tail beyond", p95, 0.100, 20, 0, Fail},
		{"too few for a tail", p95, 0.015, 10, 0, Inconclusive},
		{"one in six timed out", p95, 0.015, 20, 4, Fail},
		{"half timed out", p50, 0.015, 5, 5, Inconclusive},
	} {
		windows := sparse(rand.New(rand.NewPCG(1, 2)), 13, c.calls, c.median, c.timeouts)
		if got := judged(c.limit, windows); got.Verdict != c.want {
			t.Errorf("%s: got %s, %+v, want %s", c.name, got.Verdict, got, c.want)
		}
	}
	n := runs(2000, 400)
	fail, pass := 0, 0
	for seed := range uint64(n) {
		switch judged(p50, sparse(rand.New(rand.NewPCG(seed, 3)), 12, 8, 0.030, 0)).Verdict {
		case Fail:
			fail++
		case Pass:
			pass++
		}
	}
	t.Logf("exactly at the limit: %d of %d fail, %d pass", fail, n, pass)
	if most := bound(0.025, n) * float64(n); float64(fail) > most || float64(pass) > most {
		t.Errorf("exactly at the limit: %d of %d fail and %d pass, want at most %.0f each", fail, n, pass, most)
	}
}

// TestFindings holds that differences of fields take part.
func TestFindings(t *testing.T) {
	windows := scene{windows: 60, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	for v, want := range map[Verdict]Verdict{Pass: Pass, Fail: Fail, Inconclusive: Inconclusive} {
		d := Judge(mirrored, Config{}, windows, Findings{Differences: []Difference{{Route: "/threads", Field: "$.a", Kind: "value", Use: UseGate, Verdict: v}}}, at, false)
		if d.Verdict != want {
			t.Errorf("a field that is %s: got %s %v, want %s", v, d.Verdict, d.Reasons, want)
		}
	}
	if d := Judge(mirrored, Config{}, windows, Findings{Reasons: []Reason{{Code: ReasonExpiredRule, Text: "x"}}}, at, false); d.Verdict != Inconclusive {
		t.Errorf("an expired rule: got %s, want inconclusive", d.Verdict)
	}
}

// TestLiveHarm holds both ways of telling harm, and that without either it says so.
func TestLiveHarm(t *testing.T) {
	make := func(from, baseline int, factor float64) []Window {
		windows := scene{windows: 300, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
		for i := range windows {
			traffic(&windows[i], i >= from, i >= from-baseline, factor)
		}
		return windows
	}
	for _, c := range []struct {
		name    string
		windows []Window
		want    Verdict
		overall Verdict
		code    string
	}{
		{"none", make(0, 0, 1), Pass, Pass, ""},
		{"all live slower", make(0, 0, 1.3), Fail, Fail, ReasonLiveHarm},
		{"never sent", make(300, 0, 1), Inconclusive, Pass, ReasonNoBaseline},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Judge(mirrored, Config{}, c.windows, Findings{}, at, false)
			if d.LiveHarm == nil || d.LiveHarm.Verdict != c.want || d.Verdict != c.overall {
				t.Fatalf("got %s, harm %+v, want %s and %s", d.Verdict, d.LiveHarm, c.overall, c.want)
			}
			if c.code != "" && !slices.ContainsFunc(d.LiveHarm.Reasons, func(r Reason) bool { return r.Code == c.code }) {
				t.Errorf("got %v, want %s", d.LiveHarm.Reasons, c.code)
			}
		})
	}
	t.Run("sampled users slower than before", func(t *testing.T) {
		windows := scene{windows: 200, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
		for i := range windows {
			w := &windows[i]
			sending := i >= 80
			w.Rig.Sending, w.Rig.Sampling = sending, true
			route := w.Routes["/threads"]
			for _, sampled := range []bool{true, false} {
				f := 1.0
				if sampled {
					f = 1.5 // as ever: who is sampled is no ground for blame
					if sending {
						f = 1.9
					}
				}
				h := hist.New()
				for _, v := range shape {
					h.RecordN(time.Duration(v*f*1e9), 10)
				}
				route.Live = append(route.Live, Traffic{Sampled: sampled, Sending: sending, Durations: h, Requests: 1000})
			}
			w.Routes["/threads"] = route
		}
		d := Judge(mirrored, Config{}, windows, Findings{}, at, false)
		if d.LiveHarm.Verdict != Fail || len(d.LiveHarm.Sampled) != 3 || math.Abs(*d.LiveHarm.Sampled[0].Effect-(1.9/1.5-1)) > 0.01 {
			t.Errorf("got %+v", d.LiveHarm)
		}
	})
}

// TestBlocksNeeded holds that as many blocks as were asked for decide.
func TestBlocksNeeded(t *testing.T) {
	s := scene{windows: 60, noise: 0.08, effect: 0.04}
	r := rand.New(rand.NewPCG(83, 89))
	asked, decided := 0, 0
	for range runs(200, 30) {
		d := Judge(mirrored, Config{Metrics: p99}, s.generate(r), Findings{}, at, false)
		m := d.Metrics[0]
		if m.Verdict != Inconclusive || m.BlocksNeeded == 0 {
			continue
		}
		asked++
		if !strings.Contains(d.Reasons[0].Cure, fmt.Sprintf("%d more", m.BlocksNeeded-m.Blocks)[:1]) || m.NeededFor <= 0 {
			t.Errorf("got cure %q for %d of %d blocks", d.Reasons[0].Cure, m.Blocks, m.BlocksNeeded)
		}
		longer := s
		longer.windows = 60 * m.BlocksNeeded / m.Blocks * 3 / 2
		if Judge(mirrored, Config{Metrics: p99}, longer.generate(r), Findings{}, at, false).Verdict != Inconclusive {
			decided++
		}
	}
	if asked == 0 || decided*2 < asked {
		t.Errorf("got %d of %d decided by what was asked for, want half at least", decided, asked)
	}
}

func TestShape(t *testing.T) {
	x, y := hist.New(), hist.New()
	for i := range 1000 {
		x.Record(time.Duration(i+1) * time.Millisecond)
		y.Record(time.Duration(i+101) * time.Millisecond)
	}
	s := walk(y, x)
	if math.Abs(s.KS-0.1) > 0.003 || math.Abs(s.Slower-(1-0.9*0.9/2)) > 0.003 || math.Abs(s.Wasserstein-0.1) > 0.001 {
		t.Errorf("shifted by a tenth: got %+v", s)
	}
	if s := walk(x, x); s.KS != 0 || math.Abs(s.Slower-0.5) > 1e-9 || s.Wasserstein != 0 {
		t.Errorf("equal: got %+v", s)
	}
}

// TestShapeChanged holds that a change of shape that no gate sees is told.
func TestShapeChanged(t *testing.T) {
	two := func(share int64) (h *hist.Hist) {
		h = hist.New()
		h.RecordN(10*time.Millisecond, 520+share)
		h.RecordN(18*time.Millisecond, 460-share)
		h.RecordN(40*time.Millisecond, 20)
		return h
	}
	var windows []Window
	for k := range 60 {
		windows = append(windows, Window{Start: at.Add(time.Duration(k) * 10 * time.Second), Length: 10 * time.Second, Routes: map[string]Route{"/": {
			Latency: map[Role]Latency{Shadow: {Durations: two(200)}, Control: {Durations: two(0)}},
		}}})
	}
	cfg := Config{Metrics: []Rule{{Name: MetricLatency, Stat: "p50", Margin: 0.05}, {Name: MetricLatency, Stat: "p99", Margin: 0.1}}}
	d := Judge(mirrored, cfg, windows, Findings{}, at, false)
	if s := d.Metrics[0].Shape; d.Verdict != Pass || s == nil || !s.Changed || math.Abs(s.KS-0.2) > 1e-9 || d.Metrics[1].Shape != nil {
		t.Errorf("got %s, shape %+v", d.Verdict, s)
	}
}

func TestIntervalJSON(t *testing.T) {
	for _, i := range []Interval{{-1, 2}, {math.Inf(-1), 3}, {4, math.Inf(1)}, {math.Inf(-1), math.Inf(1)}} {
		b, err := json.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		var got Interval
		if err := json.Unmarshal(b, &got); err != nil || got != i {
			t.Errorf("%v: got %s and back %v, %v", i, b, got, err)
		}
	}
	if err := json.Unmarshal([]byte("[1]"), new(Interval)); err == nil {
		t.Error("one bound: got no error")
	}
}

// TestInputsStay holds that a judgement changes nothing that it is given.
func TestInputsStay(t *testing.T) {
	windows := scene{windows: 40, noise: 0.02}.generate(rand.New(rand.NewPCG(1, 2)))
	a := Judge(mirrored, Config{}, windows, Findings{}, at, false)
	b := Judge(mirrored, Config{}, windows, Findings{}, at, false)
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("twice the same (-first +second):\n%s", diff)
	}
}

func BenchmarkJudge(b *testing.B) {
	windows := scene{windows: 60, noise: 0.05}.generate(rand.New(rand.NewPCG(1, 2)))
	b.ReportAllocs()
	for b.Loop() {
		Judge(mirrored, Config{}, windows, Findings{}, at, false)
	}
}
