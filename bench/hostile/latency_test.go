package hostile

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/rig"
	"darklaunch/bench/side"
)

// A delay is added to a share of the requests.
type delay struct {
	share float64
	by    time.Duration
}

// slice simulates 2,000 requests whose latency is log-normal, on a machine that is
// not always as fast.
func slice(r *rand.Rand, d delay) Slice {
	machine := 1 + 0.2*r.Float64()
	took := make([]time.Duration, 2000)
	for i := range took {
		took[i] = time.Duration(machine * 300e3 * math.Exp(0.5*r.NormFloat64()))
		if r.Float64() < d.share {
			took[i] += d.by
		}
	}
	slices.Sort(took)
	return Slice{P50: took[len(took)/2], P99: took[len(took)*99/100]}
}

// TestLatencies: the comparison finds what delays live, in the states that do, and
// nothing where nothing does.
func TestLatencies(t *testing.T) {
	rare, all := delay{0.05, 2 * time.Millisecond}, delay{1, 30 * time.Microsecond}
	for _, tt := range []struct {
		name   string
		delays map[shadows.State]delay
		want   []string // beginnings of some of the problems
		not    []string // and of none
	}{
		{"none", nil, nil, []string{""}},
		{"2 ms in 5 % of the requests", map[shadows.State]delay{shadows.Fast: rare, shadows.Slow: rare, shadows.BlackHole: rare},
			[]string{"all states: p99", "fast: p99", "2 s slow: p99", "black hole: p99"}, []string{"off"}},
		{"of one state", map[shadows.State]delay{shadows.BlackHole: rare}, []string{"black hole: p99"}, []string{"fast", "2 s slow", "all states: p50"}},
		{"a little in all requests", map[shadows.State]delay{shadows.Fast: all, shadows.Slow: all, shadows.BlackHole: all},
			[]string{"all states: p50"}, []string{"all states: p99", "off"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 4))
			var ls Latencies
			for _, state := range []shadows.State{shadows.Off, shadows.Fast, shadows.Slow, shadows.BlackHole} {
				l := Latency{State: state, Bites: 1}
				for range 20 {
					l.Pairs = append(l.Pairs, Pair{On: slice(r, tt.delays[state]), Off: slice(r, delay{})})
				}
				ls = append(ls, l)
			}
			got := ls.Problems()
			begins := func(with string) bool {
				return slices.ContainsFunc(got, func(p string) bool { return strings.HasPrefix(p, with) })
			}
			for _, want := range tt.want {
				if !begins(want) {
					t.Errorf("no problem begins %q", want)
				}
			}
			for _, not := range tt.not {
				if begins(not) {
					t.Errorf("a problem begins %q", not)
				}
			}
			if t.Failed() {
				t.Logf("%q\n%s", got, ls.Markdown())
			}
		})
	}
}

// TestRatio: what is too little to tell does not pass, and the interval narrows.
func TestRatio(t *testing.T) {
	few := Latencies{{State: shadows.Fast, Bites: 1, Pairs: []Pair{{Slice{P50: 1, P99: 1}, Slice{P50: 1, P99: 1}}}}}
	if got := few.Problems(); len(got) != 2 {
		t.Errorf("one pair: got problems %q, want one for each quantile", got)
	}
	if !strings.Contains(few.Markdown(), "not settled") {
		t.Errorf("one pair settles something:\n%s", few.Markdown())
	}
	r := rand.New(rand.NewPCG(5, 6))
	var logs []float64
	for range 1000 {
		logs = append(logs, math.Log(1.1)+0.2*r.NormFloat64())
	}
	wider := math.Inf(1)
	for _, n := range []int{6, 20, 400, 1000} {
		got := ratio(logs[:n])
		if width := got.Upper - got.Lower; got.Lower > 1.1 || got.Upper < 1.1 || got.Centre < got.Lower || got.Centre > got.Upper || width >= wider {
			t.Errorf("%d pairs: got %v, want it about 1.10 and narrower than %.3f", n, got, wider)
		} else {
			wider = width
		}
	}
	if got := ratio(logs[:6]); got.narrow(0.1) {
		t.Errorf("six pairs: %v is taken for narrow", got)
	}
	if got := ratio(logs); !got.narrow(0.1) {
		t.Errorf("a thousand pairs: %v is not taken for narrow", got)
	}
}

// here starts a shadow in this process.
func here(state shadows.State, p shadows.Protocol) (*Running, error) {
	sh, err := shadows.New(state, p)
	if err != nil {
		return nil, err
	}
	return &Running{Addr: sh.Addr, Stop: sh.Close, Evidence: func() (shadows.Evidence, error) { return sh.Evidence(), nil }}, nil
}

// TestLateProxy measures two proxies for a moment, one of which has the fault.
func TestLateProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: slices of real time")
	}
	s := newStream(1, 1000, 1<<10)
	v, err := startLive(shadows.HTTP, s)
	if err != nil {
		t.Fatal(err)
	}
	defer v.stop()
	for _, tt := range []struct {
		manner string
		late   bool
	}{{detached, false}, {late, true}} {
		t.Run(tt.manner, func(t *testing.T) {
			p := lateProxy(shadows.HTTP, tt.manner, 300*time.Millisecond)
			load := func(addr string, d time.Duration) (Slice, error) {
				const rate = 200
				c := &trial{proxy: p, stream: s, cfg: Config{Calls: int(rate * d.Seconds()), Conns: 8, Rate: rate, Patience: 30 * time.Second}}
				outcomes := c.send(addr)
				for i, o := range outcomes {
					if o.err != nil {
						return Slice{}, fmt.Errorf("request %d: %w", i, o.err)
					}
				}
				var got Slice
				got.P50, got.P99 = c.latency(outcomes)
				return got, nil
			}
			ls, err := Slices{
				Proxy: p, Live: v.addr, States: []shadows.State{shadows.Fast}, Load: load, Shadow: here,
				Length: 300 * time.Millisecond, Most: 8 * time.Second, Narrow: 0.01,
			}.Run()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("\n%s", ls.Markdown())
			l := ls[0]
			if l.Bites == 0 || len(l.Pairs) < 2 {
				t.Fatalf("got %d pairs, %d answers of the shadow, want some of both", len(l.Pairs), l.Bites)
			}
			if r := ratio(l.logs(p99)); tt.late && !(r.Lower > 1) {
				t.Errorf("p99 with the shadow is %v of that without, and live was delayed", r)
			}
		})
	}
}

// TestTimeBound: what does not get narrow ends when time is up, and what is narrow
// is not measured again.
func TestTimeBound(t *testing.T) {
	var loads int
	s := Slices{
		Proxy:  Proxy{Name: "none", Start: func(string, string) (*Instance, error) { return &Instance{Stop: func() {}}, nil }},
		States: []shadows.State{shadows.Fast, shadows.Errors}, Length: time.Millisecond, Narrow: 0.1,
		Shadow: func(shadows.State, shadows.Protocol) (*Running, error) {
			return &Running{Stop: func() {}, Evidence: func() (shadows.Evidence, error) { return shadows.Evidence{Bites: 1}, nil }}, nil
		},
		Load: func(string, time.Duration) (Slice, error) {
			loads++
			return Slice{P50: 1, P99: 1}, nil
		},
		Most: time.Hour,
	}
	ls, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	if len(ls[0].Pairs) != 6 || len(ls[1].Pairs) != 6 {
		t.Errorf("equal slices: got %d and %d pairs, want 6 of each: an interval by ranks needs them", len(ls[0].Pairs), len(ls[1].Pairs))
	}
	s.Most = -1
	loads = 0
	if ls, err = s.Run(); err != nil || loads != 0 || len(ls) != 2 {
		t.Errorf("without time: got %d slices, %d states, %v, want none of two", loads, len(ls), err)
	}
}

var (
	most     = flag.Duration("most", 30*time.Minute, "that a comparison of latency takes; of the planted fault a tenth")
	sliceFor = flag.Duration("slice", 5*time.Second, "length of a slice of it")
)

// The comparison's load is a share of what the proxy does at most; of that a tenth
// is copied, to a shadow that has a share of a core.
const (
	ofSaturation = 0.25
	shadowShare  = 0.25
	sampled      = 10 // %
)

// BenchmarkLatency compares the latency of live in slices with a shadow in each of
// the states and without; -benchtime 1x. The one part is for a proxy that is known
// to delay live, which has to be found.
func BenchmarkLatency(b *testing.B) {
	for _, protocol := range []shadows.Protocol{shadows.HTTP, shadows.GRPC} {
		b.Run(string(protocol), func(b *testing.B) {
			for b.Loop() {
				compareLatency(b, sampling(b, protocol, sampled), sampled, nil, *most)
			}
		})
	}
	b.Run("planted", func(b *testing.B) {
		for b.Loop() {
			p := lateProxy(shadows.HTTP, late, 2*time.Millisecond)
			ls := compareLatency(b, p, 100, []shadows.State{shadows.Off, shadows.Fast}, *most/10)
			if r := ls.pooled(p99); !(r.Lower > 1) && len(ls[1].Pairs) >= 6 {
				b.Errorf("p99 with the shadow is %v of that without, and live was delayed", r)
			}
		}
	})
}

func compareLatency(b *testing.B, p Proxy, percent int, states []shadows.State, most time.Duration) Latencies {
	where := side.Machine()
	live, conns, streams := rig.Web(b), 64, 0
	if p.Protocol == shadows.GRPC {
		live, conns, streams = rig.Echo(b), 4, 16
	}
	load := func(addr string, rate float64, d time.Duration) (rig.Load, error) {
		return rig.Steady{Addr: addr, GRPC: p.Protocol == shadows.GRPC, Conns: conns, Streams: streams, Rate: rate, For: d}.Run(b)
	}
	begun := time.Now()
	saturated, err := saturation(p, live.Addr, func(addr string) (rig.Load, error) { return load(addr, 0, *sliceFor) })
	if errors.Is(err, rig.ErrNotThere) {
		b.Skip(err)
	}
	if err != nil {
		b.Fatal(err)
	}
	rate, quota := math.Floor(ofSaturation*saturated), ""
	ls, err := Slices{
		Proxy: p, Live: live.Addr, States: states, Length: *sliceFor, Most: most - time.Since(begun), Narrow: 0.1,
		Load: func(addr string, d time.Duration) (Slice, error) {
			l, err := load(addr, rate, d)
			return Slice{P50: l.P50, P99: l.P99, Failed: l.Failed}, err
		},
		Shadow: func(state shadows.State, protocol shadows.Protocol) (*Running, error) {
			r, how, err := apart(b, state, protocol)
			quota = how
			return r, err
		},
	}.Run()
	if err != nil {
		b.Fatal(err)
	}
	title := "Live latency beside hostile shadows: " + p.Name + ", " + string(p.Protocol)
	text := fmt.Sprintf("## %s\n\n%s. %.0f requests/s, %.0f %% of the %.0f/s that it does at most, even, over %d connections; latency from when a request was due. %d %% are copied. The shadow has %s. Slices of %v by turns, mirroring and not, medians; in brackets 95 %% intervals of the ratio within pairs, by signed ranks. `%s`\n\n%s",
		title, where, rate, 100*ofSaturation, saturated, conns, percent, quota, *sliceFor, side.Command(), ls.Markdown())
	b.Log("\n" + text)
	if err := side.Record("../RESULTS.md", "latency "+p.Name+" "+string(p.Protocol), text); err != nil {
		b.Fatal(err)
	}
	return ls
}

// saturation is how many requests a second a proxy does that does not mirror.
func saturation(p Proxy, live string, load func(addr string) (rig.Load, error)) (float64, error) {
	in, err := p.Start(live, "")
	if err != nil {
		return 0, err
	}
	defer in.Stop()
	l, err := load(in.Addr)
	return l.Rate, err
}

// apart starts a shadow as a process that has a share of a core.
func apart(b *testing.B, state shadows.State, protocol shadows.Protocol) (*Running, string, error) {
	s, err := rig.Start(b, rig.Build(b, "darklaunch/bench/hostile/shadow"), "--state", string(state), "--protocol", string(protocol), "--admin", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	how, undo := rig.Quota(s.Pid, shadowShare)
	return &Running{
		Addr: s.Addr,
		Stop: func() {
			if err := undo(); err != nil {
				b.Error(err)
			}
			s.Stop()
		},
		Evidence: func() (e shadows.Evidence, err error) {
			resp, err := http.Get("http://" + s.Admin + "/")
			if err != nil {
				return e, err
			}
			defer resp.Body.Close()
			err = json.NewDecoder(resp.Body).Decode(&e)
			return e, err
		},
	}, how, nil
}
