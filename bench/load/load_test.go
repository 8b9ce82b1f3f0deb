package load

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"darklaunch/bench/rig"
	"darklaunch/bench/side"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var (
	rounds = flag.Int("rounds", 3, "how often each generator runs")
	length = flag.Duration("length", 4*time.Second, "of one run; a stall's is two and a half times as long")
)

// compare runs all generators under one task and records what they came to.
func compare(b *testing.B, name, what, base string, gs []generator, columns []side.Column, extra func(*side.Results) string, run func(generator) (map[string]float64, error)) {
	where := side.Machine()
	var variants []side.Variant
	for _, g := range gs {
		variants = append(variants, side.Variant{Name: g.name, Run: func() (map[string]float64, error) { return run(g) }})
	}
	r, err := side.Interleave(*rounds, variants...)
	if err != nil {
		b.Fatal(err)
	}
	text := fmt.Sprintf("## Generators: %s\n\n%s. %s; medians of %d rounds, the ratio's least and greatest in brackets. `%s`\n\n%s\n%s",
		name, where, what, *rounds, side.Command(), r.Table(base, columns...), extra(r))
	b.Log("\n" + text)
	if err := side.Record("../RESULTS.md", "load "+name, text); err != nil {
		b.Fatal(err)
	}
}

var (
	cpuColumn  = side.Column{Measure: "cpu", Title: "generator's CPU µs a request", Format: "%.1f"}
	rateColumn = side.Column{Measure: "rate", Title: "answered/s", Format: "%.0f"}
	p50Column  = side.Column{Measure: "p50", Title: "p50 µs it reports", Format: "%.0f"}
	p99Column  = side.Column{Measure: "p99", Title: "p99 µs it reports", Format: "%.0f"}
	failColumn = side.Column{Measure: "failed", Title: "failed", Format: "%.0f"}
	rssColumn  = side.Column{Measure: "rss", Title: "RSS MB", Format: "%.0f"}
)

// measures are those that every run has.
func measures(r report) map[string]float64 {
	return map[string]float64{
		"cpu":    float64(r.cpu.Microseconds()) / r.Requests,
		"rate":   r.Rate,
		"p50":    float64(r.P50.Microseconds()),
		"p99":    float64(r.P99.Microseconds()),
		"failed": r.Failed,
		"rss":    float64(r.rss) / (1 << 20),
	}
}

// paced leaves out what cannot hold a rate.
func paced(gs []generator) []generator {
	var p []generator
	for _, g := range gs {
		if g.paced {
			p = append(p, g)
		}
	}
	return p
}

// protocols calls do for HTTP/1.1 and gRPC.
func protocols(b *testing.B, do func(b *testing.B, grpc bool, gs []generator)) {
	for _, grpc := range []bool{false, true} {
		name := "http"
		if grpc {
			name = "grpc"
		}
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				do(b, grpc, generators(b, grpc))
			}
		})
	}
}

func protocolName(grpc bool) string {
	if grpc {
		return "gRPC"
	}
	return "HTTP/1.1"
}

// BenchmarkSaturated is the cost of a request in a closed loop.
func BenchmarkSaturated(b *testing.B) {
	protocols(b, func(b *testing.B, grpc bool, gs []generator) {
		var server *rig.Backend
		base, what := "wrk", "64 connections to nginx, 200 bytes"
		if grpc {
			server = rig.Echo(b)
			base, what = "h2load", "4 connections, 64 streams to grpc-go, unary, 200 bytes"
		} else {
			server = rig.Web(b)
		}
		var once []generator
		for _, g := range gs {
			if g.name != "k6, 2,000 users" && g.name != "ghz --async" { // they differ at a rate alone
				once = append(once, g)
			}
		}
		compare(b, protocolName(grpc)+", saturated", what, base, once,
			[]side.Column{cpuColumn, rateColumn, p50Column, p99Column, failColumn, rssColumn},
			func(r *side.Results) string {
				return side.Claim{Over: "darklaunch load", Base: base, Limit: 1.1}.Text(r, "cpu")
			},
			func(g generator) (map[string]float64, error) {
				r, err := g.run(b, task{grpc: grpc, addr: server.Addr, d: *length})
				return measures(r), err
			})
	})
}

// address is where a generator finds the backend.
func address(s *rig.Backend, grpc bool) string {
	if grpc {
		return s.Addr
	}
	return s.Admin
}

func post(url string) error {
	resp, err := http.Post(url, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// BenchmarkPaced is whether a rate is held, as the server sees it.
func BenchmarkPaced(b *testing.B) {
	protocols(b, func(b *testing.B, grpc bool, gs []generator) {
		server := rig.Echo(b)
		for _, rate := range []float64{2000, 10_000} {
			compare(b, fmt.Sprintf("%s, %.0f/s", protocolName(grpc), rate),
				"to a server in Go that notes when calls arrive; late is behind an even plan at the rate, bursts included", "h2load", paced(gs),
				[]side.Column{cpuColumn, rateColumn,
					{Measure: "late50", Title: "late p50 µs", Format: "%.0f"}, {Measure: "late99", Title: "late p99 µs", Format: "%.0f"},
					p50Column, p99Column, failColumn, rssColumn},
				func(*side.Results) string { return "" },
				func(g generator) (map[string]float64, error) {
					if err := post("http://" + server.Admin + "/reset"); err != nil {
						return nil, err
					}
					r, err := g.run(b, task{grpc: grpc, addr: address(server, grpc), rate: rate, d: *length})
					if err != nil {
						return nil, err
					}
					m := measures(r)
					m["late50"], m["late99"], err = lateness(server, rate)
					return m, err
				})
		}
	})
}

func lateness(s *rig.Backend, rate float64) (p50, p99 float64, err error) {
	resp, err := http.Get(fmt.Sprintf("http://%s/lateness?rate=%g", s.Admin, rate))
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	var v struct{ P50, P99 float64 }
	err = json.NewDecoder(resp.Body).Decode(&v)
	return v.P50, v.P99, err
}

// The stall: what clients meet when a server stops for a while, and goes on as
// if nothing had been. Those due while it stalls wait from the whole stall down
// to nothing, evenly, all others not at all.
const stallRate = 2000

// truth is a quantile of the latency that clients of a steady rate meet in d,
// when the server stalls once for stall.
func truth(q float64, stall, d time.Duration) time.Duration {
	return max(0, stall-time.Duration((1-q)*float64(d)))
}

// BenchmarkStall is what generators report of a stall that is a tenth of the run.
func BenchmarkStall(b *testing.B) {
	protocols(b, func(b *testing.B, grpc bool, gs []generator) {
		server := rig.Echo(b)
		d := (*length*5/2 + time.Second - 1).Truncate(time.Second) // h2load takes no fractions
		stall := d / 10
		want := truth(0.99, stall, d)
		compare(b, protocolName(grpc)+", a stall",
			fmt.Sprintf("%d/s for %v, the server stalls for %v; clients meet a p99 of %v and send %.0f requests", stallRate, d, stall, want, stallRate*d.Seconds()), "h2load", paced(gs),
			[]side.Column{
				{Measure: "truth", Title: "p99 it reports ÷ true p99", Format: "%.3f"},
				{Measure: "p99", Title: "p99 µs", Format: "%.0f"},
				{Measure: "max", Title: "largest µs (0: not said)", Format: "%.0f"},
				{Measure: "sent", Title: "requests", Format: "%.0f"},
				failColumn,
			},
			func(*side.Results) string { return "" },
			func(g generator) (map[string]float64, error) {
				r, err := stalled(b, server, g, task{grpc: grpc, addr: address(server, grpc), rate: stallRate, d: d}, stall)
				m := measures(r)
				m["truth"] = r.P99.Seconds() / want.Seconds()
				m["max"] = float64(r.Max.Microseconds())
				m["sent"] = r.Requests
				return m, err
			})
	})
}

// stalled runs a generator and stalls the server a third of the run after the
// first call has come.
func stalled(b *testing.B, server *rig.Backend, g generator, j task, stall time.Duration) (r report, err error) {
	if err := post("http://" + server.Admin + "/reset"); err != nil {
		return r, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { r, err = g.run(b, j) })
	began, stallErr := time.Now(), fmt.Errorf("%s sent nothing", g.name)
	for time.Since(began) < 30*time.Second {
		n, err := server.Count()
		if err != nil {
			stallErr = err
			break
		}
		if n > 0 {
			time.Sleep(j.d / 3)
			stallErr = post(fmt.Sprintf("http://%s/stall?for=%v", server.Admin, stall))
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	wg.Wait()
	if err == nil {
		err = stallErr
	}
	return r, err
}

// TestTruth checks the formula against the quantile of a fluid counted out.
func TestTruth(t *testing.T) {
	const n = 10_000 // requests in 10 s, the server stalls in the 2nd
	waits := make([]time.Duration, 0, n)
	for i := range n {
		due := time.Duration(i) * time.Millisecond
		wait := time.Duration(0)
		if due >= time.Second && due < 2*time.Second {
			wait = 2*time.Second - due
		}
		waits = append(waits, wait)
	}
	for _, q := range []float64{0.5, 0.9, 0.95, 0.99} {
		longer := 0
		want := truth(q, time.Second, 10*time.Second)
		for _, w := range waits {
			if w > want {
				longer++
			}
		}
		if share := float64(longer) / n; share > 1-q+0.001 || want > 0 && share < 1-q-0.001 {
			t.Errorf("%.2f: %v is exceeded by %.4f of the requests, want %.4f", q, want, share, 1-q)
		}
	}
}

// TestParse reads what each generator printed once, cut short.
func TestParse(t *testing.T) {
	for _, tt := range []struct {
		g    generator
		out  string
		want report
	}{
		{hey(""), `
  Slowest:	0.0156 secs
  Requests/sec:	1999.5
  50%% in 0.0009 secs
  99%% in 0.0032 secs
  [200]	7998 responses
  [503]	2 responses
`, report{Load: rig.Load{Requests: 7998, Failed: 2, Rate: 1999.5, P50: 900 * time.Microsecond, P99: 3200 * time.Microsecond}, Max: 15600 * time.Microsecond}},
		{ghz("", ""), `{"count":10,"rps":5,"slowest":3000,"statusCodeDistribution":{"OK":9,"Unavailable":1},"latencyDistribution":[{"percentage":50,"latency":1000},{"percentage":99,"latency":2000}]}`,
			report{Load: rig.Load{Requests: 9, Failed: 1, Rate: 5, P50: 1000, P99: 2000}, Max: 3000}},
		{k6("", "", 1), `{"count":{"count":8,"rate":3.9},"time":{"p(50)":1,"p(99)":2.5,"max":4}}`,
			report{Load: rig.Load{Requests: 8, Rate: 4, P50: time.Millisecond, P99: 2500 * time.Microsecond}, Max: 4 * time.Millisecond}},
		{darklaunch(""), `{"schema":"load/v1","ok":8,"sent":10,"response_s":{"p50":0.001,"p99":0.002,"max":0.5}}`,
			report{Load: rig.Load{Requests: 8, Failed: 2, Rate: 4, P50: time.Millisecond, P99: 2 * time.Millisecond}, Max: 500 * time.Millisecond}},
	} {
		got, err := tt.g.parse([]byte(tt.out), task{d: 2 * time.Second})
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.g.name, got, err, tt.want)
		}
		if _, err := tt.g.parse([]byte("no such host"), task{d: time.Second}); err == nil {
			t.Errorf("%s: a run without an answer was taken for one", tt.g.name)
		}
	}
}
