package arrival

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/loadgen/draw"
)

var update = flag.Bool("update", false, "rewrite golden files")

// times returns all intended times of a plan.
func times(t testing.TB, p Plan) []time.Duration {
	t.Helper()
	a, err := p.Arrivals(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	var ts []time.Duration
	for at, ok := a.Next(); ok; at, ok = a.Next() {
		if ts = append(ts, at); len(ts) > 1e6 {
			t.Fatalf("more than a million arrivals, planned are %v", p.Spans())
		}
	}
	return ts
}

// numbered is an arrival: its number and its time.
type numbered struct {
	N  uint64
	At time.Duration
}

func part(t testing.TB, p Plan, index, total int) []numbered {
	t.Helper()
	a, err := p.Arrivals(index, total)
	if err != nil {
		t.Fatal(err)
	}
	var ns []numbered
	for at, ok := a.Next(); ok; at, ok = a.Next() {
		ns = append(ns, numbered{a.N(), at})
	}
	return ns
}

// splitDiff says how the parts of all workers together differ from the whole plan.
func splitDiff(whole []numbered, parts ...[]numbered) string {
	merged := slices.Concat(parts...)
	slices.SortFunc(merged, func(a, b numbered) int { return int(a.N) - int(b.N) })
	return cmp.Diff(whole, merged)
}

func TestWorkersTogetherMakeTheWholePlan(t *testing.T) {
	totals := []int{2, 7}
	if testing.Short() {
		totals = totals[:1]
	}
	for name, c := range curves(t) {
		for _, process := range []Process{Conditioned, Poisson, Constant} {
			for _, bursts := range []Bursts{{}, {Factor: 3, High: 300 * time.Millisecond, Low: time.Second}} {
				p := Plan{Seed: 42, Curve: c, Process: process, Bursts: bursts}
				whole := part(t, p, 0, 1)
				for _, total := range totals {
					var parts [][]numbered
					for i := range total {
						parts = append(parts, part(t, p, i, total))
					}
					if diff := splitDiff(whole, parts...); diff != "" {
						t.Errorf("%s, %v, bursts %v: %d workers (-whole +merged):\n%s", name, process, bursts, total, diff)
					}
				}
			}
		}
	}
}

// TestSplitDiffSeesLostAndShiftedArrivals plants what the test above must catch.
func TestSplitDiffSeesLostAndShiftedArrivals(t *testing.T) {
	p := Plan{Seed: 42, Curve: curves(t)["hold"]}
	whole := part(t, p, 0, 1)
	even, odd := part(t, p, 0, 2), part(t, p, 1, 2)
	lossy := slices.DeleteFunc(slices.Clone(odd), func(n numbered) bool { return n.N%1000 == 999 })
	if len(lossy) != len(odd)-2 || splitDiff(whole, even, lossy) == "" {
		t.Errorf("a split that loses one in 1,000 is not seen (%d of %d left)", len(lossy), len(odd))
	}
	odd[17].At++
	if splitDiff(whole, even, odd) == "" {
		t.Error("a split with one arrival 1ns late is not seen")
	}
}

// TestPlanProperties draws plans at random: times lie in the run, in order, the same again,
// in the phase they were counted for.
func TestPlanProperties(t *testing.T) {
	arrivals := 0
	rapid.Check(t, func(r *rapid.T) {
		rate := rapid.SampledFrom([]float64{333.3, 50, 0.7, 0})
		length := func() time.Duration {
			unit := rapid.SampledFrom([]time.Duration{time.Second, time.Millisecond, 1}).Draw(r, "unit")
			return unit * time.Duration(rapid.IntRange(1, 5).Draw(r, "length"))
		}
		var segments []Segment
		for range rapid.IntRange(1, 5).Draw(r, "segments") {
			s := Segment{Phase: rapid.SampledFrom([]Phase{Settle, Measure, Drain, ""}).Draw(r, "phase"), For: length()}
			switch rapid.IntRange(0, 4).Draw(r, "shape") {
			case 0:
				s.Shape = Hold{rate.Draw(r, "rate")}
			case 1:
				s.Shape = Ramp{rate.Draw(r, "from"), rate.Draw(r, "to")}
			case 2:
				s.For += 9
				s.Shape = Steps{rate.Draw(r, "from"), rate.Draw(r, "to"), rapid.IntRange(2, 9).Draw(r, "count")}
			case 3:
				s.Shape = Wave{1 + rate.Draw(r, "mean"), time.Microsecond + length(), []Harmonic{{rapid.Float64Range(-1, 1).Draw(r, "amplitude"), length()}}}
			case 4:
				at := time.Duration(rapid.Int64Range(0, int64(s.For)).Draw(r, "at"))
				s.Shape = Table{[]Point{{0, rate.Draw(r, "rate")}, {at, rate.Draw(r, "rate")}, {at, rate.Draw(r, "rate")}, {s.For, rate.Draw(r, "rate")}}}
			}
			segments = append(segments, s)
		}
		c, err := NewCurve(segments...)
		if err != nil {
			if c == nil && strings.Contains(err.Error(), "no arrivals") {
				return
			}
			r.Fatal(err)
		}
		p := Plan{
			Seed:    rapid.Uint64().Draw(r, "seed"),
			Curve:   c,
			Process: rapid.SampledFrom([]Process{Conditioned, Poisson, Constant}).Draw(r, "process"),
		}
		if rapid.Bool().Draw(r, "bursty") {
			p.Bursts = Bursts{rapid.Float64Range(0.1, 10).Draw(r, "factor"), time.Millisecond + length(), time.Millisecond + length()}
		}
		ts := times(t, p)
		arrivals += len(ts)
		if !slices.Equal(ts, times(t, p)) {
			r.Fatal("the same plan twice has other times")
		}
		byPhase := map[Phase]float64{}
		for i, at := range ts {
			if at < 0 || at >= c.Duration() || i > 0 && at < ts[i-1]-1 {
				r.Fatalf("arrival %d at %v after %v, want in [0, %v) and in order", i, at, ts[max(i, 1)-1], c.Duration())
			}
			byPhase[c.Phase(at)]++
		}
		planned := map[Phase]float64{}
		total := 0.0
		for _, s := range p.Spans() {
			planned[s.Phase] += s.Arrivals
			total += s.Arrivals
		}
		switch {
		case p.Process == Conditioned:
			for phase, want := range planned {
				if got := byPhase[phase]; got != want {
					r.Fatalf("%s: %v arrivals, planned %v", phase, got, want)
				}
			}
		case p.Process == Constant && p.Bursts == (Bursts{}):
			if got, want := float64(len(ts)), math.Ceil(total); got != want {
				r.Fatalf("%v arrivals, want %v (%v rounded up)", got, want, total)
			}
		}
	})
	if arrivals < 100 {
		t.Errorf("all plans together had %d arrivals, want 100 or more: they prove little", arrivals)
	}
}

func TestConstantIsExact(t *testing.T) {
	// Two million arrivals, to the nanosecond, for a rate that divides a second.
	c := holdCurve(t, 200_000, 10*time.Second)
	a, err := Plan{Curve: c, Process: Constant}.Arrivals(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	n := time.Duration(0)
	for at, ok := a.Next(); ok; at, ok = a.Next() {
		if want := n * 5 * time.Microsecond; at != want {
			t.Fatalf("arrival %d at %v, want %v", n, at, want)
		}
		n++
	}
	if n != 2_000_000 {
		t.Errorf("%d arrivals, want 2,000,000", n)
	}
	// The last ones of 24 hours at 200,000/s, reached by a worker of many.
	c = holdCurve(t, 200_000, 24*time.Hour)
	const total = 1 << 24
	a, err = Plan{Curve: c, Process: Constant}.Arrivals(total-1, total)
	if err != nil {
		t.Fatal(err)
	}
	for i := time.Duration(1); ; i++ {
		at, ok := a.Next()
		if !ok {
			if i-1 != 17_280_000_000/total {
				t.Errorf("%d arrivals, want %d", i-1, 17_280_000_000/total)
			}
			break
		}
		if want := (i*total - 1) * 5 * time.Microsecond; at != want {
			t.Fatalf("arrival %d at %v, want %v", a.N(), at, want)
		}
	}
	// A rate that does not divide a second: the nearest nanosecond.
	for i, at := range times(t, Plan{Curve: holdCurve(t, 3, time.Hour), Process: Constant}) {
		if want := (time.Duration(i)*time.Second + 1) / 3; at != want {
			t.Fatalf("3/s: arrival %d at %v, want %v", i, at, want)
		}
	}
}

// TestNoDrift runs Poisson arrivals at 200,000/s, a thousand seconds of them where the test
// may take its time, with the gaps summed in integers beside: an arrival's time is their
// sum over the rate.
func TestNoDrift(t *testing.T) {
	const rate = 200_000
	n := uint64(1_000_000)
	if !testing.Short() {
		n = 200_000_000
	}
	p := Plan{Seed: 3, Curve: holdCurve(t, rate, 24*time.Hour), Process: Poisson}
	a, err := p.Arrivals(0, 1)
	if err != nil {
		t.Fatal(err)
	}
	r := draw.New(p.Seed, draw.Gaps, 0, 0)
	whole, part := uint64(0), uint64(0) // in arrivals and in 2^-52 of one
	for i := range n {
		at, ok := a.Next()
		if !ok {
			t.Fatal("the plan ended")
		}
		part += uint64(r.ExpFloat64() * 0x1p52)
		whole += part >> 52
		part &= 1<<52 - 1
		if i%1000 != 999 {
			continue
		}
		want := time.Duration(whole*5000) + time.Duration(math.Round(float64(part)*0x1p-52*5000))
		if d := at - want; d < -1 || d > 1 {
			t.Fatalf("arrival %d at %v, want %v", i, at, want)
		}
	}
}

func TestGolden(t *testing.T) {
	c, err := NewCurve(
		Segment{Phase: Settle, For: 500 * time.Millisecond, Shape: Ramp{0, 20}},
		Segment{Phase: Measure, For: time.Second, Shape: Wave{20, 400 * time.Millisecond, []Harmonic{{0.6, 100 * time.Millisecond}, {0.13, 0}}}},
		Segment{Phase: Drain, For: 500 * time.Millisecond, Shape: Hold{10}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, process := range []Process{Conditioned, Poisson, Constant} {
		for _, b := range []Bursts{{}, {Factor: 3, High: 200 * time.Millisecond, Low: 300 * time.Millisecond}} {
			fmt.Fprintf(&out, "seed 42, %v, bursts %v\n", process, b)
			for _, n := range part(t, Plan{Seed: 42, Curve: c, Process: process, Bursts: b}, 0, 1) {
				fmt.Fprintf(&out, "%d %d %s\n", n.N, n.At, c.Phase(n.At))
			}
		}
	}
	file := filepath.Join("testdata", "plan.golden")
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("the plan of a seed has changed (-want +got):\n%s", diff)
	}
}

// TestMemoryIsConstant shows that a long plan costs no more than a short one: nothing is
// allocated on the way.
func TestMemoryIsConstant(t *testing.T) {
	c := curves(t)["diurnal"]
	for _, process := range []Process{Conditioned, Poisson, Constant} {
		a, err := Plan{Curve: c, Process: process, Bursts: Bursts{2, time.Second, time.Second}}.Arrivals(0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(1000, func() { a.Next() }); n != 0 {
			t.Errorf("%v: %v allocations an arrival, want 0", process, n)
		}
	}
}

func TestSeedsDiffer(t *testing.T) {
	c := curves(t)["hold"]
	if slices.Equal(times(t, Plan{Seed: 1, Curve: c}), times(t, Plan{Seed: 2, Curve: c})) {
		t.Error("seeds 1 and 2 have the same plan")
	}
}

func TestPlansThatMakeNoSense(t *testing.T) {
	c := curves(t)["hold"]
	tests := []struct {
		name         string
		plan         Plan
		index, total int
		want         string
	}{
		{"index", Plan{Curve: c}, 2, 2, "no such worker"},
		{"negative", Plan{Curve: c}, -1, 2, "no such worker"},
		{"none", Plan{Curve: c}, 0, 0, "no such worker"},
		{"curve", Plan{}, 0, 1, "no curve"},
		{"process", Plan{Curve: c, Process: 9}, 0, 1, "process(9)"},
		{"factor", Plan{Curve: c, Bursts: Bursts{Factor: -1, High: time.Second, Low: time.Second}}, 0, 1, "factor above 0"},
		{"state", Plan{Curve: c, Bursts: Bursts{Factor: 2, High: time.Second}}, 0, 1, "low 0s"},
	}
	for _, tt := range tests {
		if _, err := tt.plan.Arrivals(tt.index, tt.total); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func TestProcessText(t *testing.T) {
	for _, p := range []Process{Conditioned, Poisson, Constant} {
		text, err := p.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Process
		if err := got.UnmarshalText(text); err != nil || got != p {
			t.Errorf("%s reads back as %v, %v", text, got, err)
		}
	}
	if err := new(Process).UnmarshalText([]byte("uniform")); err == nil {
		t.Error("process uniform: no error")
	}
}

func Example() {
	curve, err := NewCurve(
		Segment{Phase: Settle, For: 10 * time.Second, Shape: Ramp{From: 0, To: 200}},
		Segment{Phase: Measure, For: time.Minute, Shape: Hold{Rate: 200}},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	plan := Plan{Seed: 42, Curve: curve}
	for _, s := range plan.Spans() {
		fmt.Printf("%s from %v to %v: %v arrivals\n", s.Phase, s.Start, s.End, s.Arrivals)
	}
	// The second of two workers.
	arrivals, err := plan.Arrivals(1, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		at, _ := arrivals.Next()
		fmt.Println(arrivals.N(), at)
	}
	// Output:
	// settle from 0s to 10s: 1000 arrivals
	// measure from 10s to 1m10s: 12000 arrivals
	// 1 202.525105ms
	// 3 462.49771ms
	// 5 1.002272201s
}

func BenchmarkNext(b *testing.B) {
	hour := func(s Shape) *Curve {
		c, err := NewCurve(Segment{For: 2000 * time.Hour, Shape: s})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	burst := Bursts{Factor: 3, High: 5 * time.Second, Low: 55 * time.Second}
	benchmarks := []struct {
		name  string
		plan  Plan
		total int
	}{
		{"constant/hold", Plan{Process: Constant, Curve: hour(Hold{200_000})}, 1},
		{"poisson/hold", Plan{Process: Poisson, Curve: hour(Hold{200_000})}, 1},
		{"conditioned/hold", Plan{Curve: hour(Hold{200_000})}, 1},
		{"conditioned/ramp", Plan{Curve: hour(Ramp{0, 400_000})}, 1},
		{"conditioned/diurnal", Plan{Curve: hour(Diurnal(200_000, 24*time.Hour))}, 1},
		{"conditioned/hold+bursts", Plan{Curve: hour(Hold{200_000}), Bursts: burst}, 1},
		{"conditioned/hold/1 of 100", Plan{Curve: hour(Hold{200_000})}, 100},
		{"poisson/hold/1 of 100", Plan{Process: Poisson, Curve: hour(Hold{200_000})}, 100},
		{"constant/hold/1 of 100", Plan{Process: Constant, Curve: hour(Hold{200_000})}, 100},
	}
	for _, bm := range benchmarks {
		b.Run(bm.name, func(b *testing.B) {
			a, err := bm.plan.Arrivals(0, bm.total)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := a.Next(); !ok {
					b.Fatal("the plan ended")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
		})
	}
}
