package judge

import (
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/hist"
)

// A recorded round: p50 and p99 in seconds and CPU time a call.
type recorded struct{ p50, p99, cpu float64 }

func readNoise(t *testing.T) []recorded {
	t.Helper()
	text, err := os.ReadFile("testdata/noise.csv")
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var v [3]float64
		for i, field := range strings.Split(strings.TrimSpace(line), ",") {
			if v[i], err = strconv.ParseFloat(field, 64); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, recorded{v[0] / 1e6, v[1] / 1e6, v[2] / 1e6})
	}
	if len(all) < 300 {
		t.Fatalf("%d rounds are recorded, want 300", len(all))
	}
	return all
}

// turn makes a window of two recorded ones, with head's times and cost raised.
func turn(base, head recorded, latency, cpu float64) Window {
	w := Window{Length: time.Second, Routes: map[string]Route{}, Usage: map[Role]Usage{}}
	route := Route{Latency: map[Role]Latency{}, Calls: map[Role]Calls{}}
	for role, r := range map[Role]recorded{Base: base, Head: head} {
		slower, dearer := 1.0, 1.0
		if role == Head {
			slower, dearer = 1+latency, 1+cpu
		}
		h := hist.New()
		const n = 100
		for i := range n { // log-normal through both quantiles
			z := stats(float64(i)+0.5, n)
			h.RecordN(time.Duration(slower*r.p50*math.Exp(z*math.Log(r.p99/r.p50)/2.326)*1e9), 10)
		}
		route.Latency[role] = Latency{Durations: h}
		route.Calls[role] = Calls{Total: 1000}
		w.Usage[role] = Usage{CPU: time.Duration(1000 * dearer * r.cpu * 1e9), Requests: 1000}
	}
	w.Routes["/"] = route
	return w
}

// gate runs rounds by turns, base head head base, from a random place of the record,
// until the judge is content.
func gate(r *rand.Rand, noise []recorded, latency, cpu float64) *Document {
	c := Comparison{Name: "gate", Arms: []Arm{{Role: Base}, {Role: Head}}, Unpaired: true}
	cfg := Config{Metrics: []Rule{
		{Name: MetricLatency, Stat: "p50", Margin: 0.05, Floor: 500e-6}, {Name: MetricLatency, Stat: "p99", Margin: 0.10, Floor: 500e-6},
		{Name: MetricErrors, Margin: 0.001}, {Name: MetricCPU, Margin: 0.10},
	}}
	from := r.IntN(len(noise))
	next := func() recorded {
		from = (from + 1) % len(noise)
		return noise[from]
	}
	var rounds []Window
	for _, look := range Looks() {
		for len(rounds) < look+1 {
			a, b := next(), next()
			if len(rounds)%2 == 1 {
				a, b = b, a
			}
			rounds = append(rounds, turn(a, b, latency, cpu))
		}
		if d, more := JudgeRounds(c, cfg, rounds, len(Looks()), at, false); !more {
			return d
		}
	}
	panic("more rounds were asked for than were planned")
}

// TestGate decides gates made of recorded noise.
func TestGate(t *testing.T) {
	noise := readNoise(t)
	for _, c := range []struct {
		name         string
		latency, cpu float64
		runs         int
		mostFail     float64
		mostPass     float64
		leastFail    float64
	}{
		{"same", 0, 0, runs(500, 60), 0.01, 1, 0},
		{"50 % more CPU", 0, 0.50, runs(500, 16), 1, 0.01, 0.9},
		{"ten times as slow", 9, 0, runs(500, 16), 1, 0.01, 0.8},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(97, 101))
			var fail, pass, rounds float64
			for range c.runs {
				d := gate(r, noise, c.latency, c.cpu)
				rounds += float64(d.Rig.Blocks)
				switch d.Verdict {
				case Fail:
					fail++
				case Pass:
					pass++
				}
			}
			n := float64(c.runs)
			t.Logf("%d gates: fail %.1f %%, pass %.1f %%, %.1f rounds each", c.runs, 100*fail/n, 100*pass/n, rounds/n)
			if fail/n > bound(c.mostFail, c.runs) || pass/n > bound(c.mostPass, c.runs) || fail/n < least(c.leastFail, c.runs) {
				t.Errorf("got fail %.3f and pass %.3f, want fail %.3f to %.3f and pass at most %.3f", fail/n, pass/n, c.leastFail, c.mostFail, c.mostPass)
			}
		})
	}
}

// TestLooks holds that each look spends a part of the error, and that the rounds asked
// for are counted without the first.
func TestLooks(t *testing.T) {
	c := Comparison{Arms: []Arm{{Role: Base}, {Role: Head}}, Unpaired: true}
	one := recorded{0.001, 0.003, 0.0002}
	var rounds []Window
	for i := range 16 {
		f := 1 + 0.08*float64(i%2)
		rounds = append(rounds, turn(one, recorded{one.p50 * f, one.p99 * f, one.cpu * f}, 0, 0))
	}
	cfg := Config{Metrics: []Rule{{Name: MetricCPU, Margin: 0.05}}}
	for _, k := range []struct {
		rounds, planned int
		more            bool
		code            string
	}{{0, 3, true, ReasonNoData}, {1, 3, true, ReasonFewBlocks}, {5, 3, true, ReasonFewBlocks}, {6, 3, true, ReasonSpans}, {6, 1, false, ReasonSpans}, {11, 2, false, ReasonSpans}, {16, 3, false, ReasonSpans}} {
		d, more := JudgeRounds(c, cfg, rounds[:k.rounds], k.planned, at, false)
		if more != k.more || d.Rig.Blocks != max(0, k.rounds-1) || !has(d, k.code) {
			t.Errorf("%d rounds, %d looks: got more %t, %d blocks, %v", k.rounds, k.planned, more, d.Rig.Blocks, d.Reasons)
		}
		if want := 1 - 0.05/float64(k.planned); len(d.Metrics) > 0 && math.Abs(d.Metrics[0].Confidence-want) > 1e-12 {
			t.Errorf("%d looks: got confidence %g, want %g", k.planned, d.Metrics[0].Confidence, want)
		}
	}
	if _, more := JudgeRounds(c, cfg, rounds[:6], 3, at, true); more {
		t.Error("interrupted: got more, want none")
	}
}

// TestConditions holds that unlike conditions are not compared.
func TestConditions(t *testing.T) {
	one := recorded{0.001, 0.003, 0.0002}
	var rounds []Window
	for range 8 {
		rounds = append(rounds, turn(one, one, 0, 0))
	}
	for _, k := range []struct {
		name       string
		base, head Arm
		code       string
	}{
		{"alike", Arm{Plan: "p", Fingerprint: map[string]string{"cpu": "x"}}, Arm{Plan: "p", Fingerprint: map[string]string{"cpu": "x"}}, ""},
		{"plan", Arm{Plan: "p"}, Arm{Plan: "q"}, ReasonPlan},
		{"no plan on one side", Arm{Plan: "p"}, Arm{}, ReasonPlan},
		{"CPU", Arm{Fingerprint: map[string]string{"cpu": "x"}}, Arm{Fingerprint: map[string]string{"cpu": "y"}}, ReasonFingerprint},
		{"unknown", Arm{Fingerprint: map[string]string{"cpu": "x"}}, Arm{}, ReasonFingerprint},
	} {
		k.base.Role, k.head.Role = Base, Head
		c := Comparison{Arms: []Arm{k.base, k.head}, Unpaired: true}
		d, _ := JudgeRounds(c, Config{Metrics: []Rule{{Name: MetricErrors, Margin: 0.01}}}, rounds, 1, at, false)
		if k.code == "" && d.Verdict != Pass || k.code != "" && (d.Verdict != Inconclusive || !has(d, k.code)) {
			t.Errorf("%s: got %s %v, want %q", k.name, d.Verdict, d.Reasons, k.code)
		}
	}
}
