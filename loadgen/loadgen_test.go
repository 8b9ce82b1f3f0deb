package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// even yields a share of arrivals at a constant rate.
type even struct {
	rate     float64
	end      time.Duration
	n, total int
}

func (e *even) Next() (time.Duration, bool) {
	at := time.Duration(float64(e.n) / e.rate * float64(time.Second))
	e.n += e.total
	return at, at < e.end
}

func constant(rate float64, whole time.Duration) func(int, int) (engine.Arrivals, error) {
	return func(index, total int) (engine.Arrivals, error) {
		return &even{rate, whole, index, total}, nil
	}
}

// target serves HTTP that fails under /fail.
func target(t *testing.T) (addr string, asked *atomic.Int64) {
	asked = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/fail" {
			w.WriteHeader(503)
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), asked
}

// collected returns the value of every series, histograms by their count.
func collected(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				if l.GetName() != "scenario" {
					labels = append(labels, l.GetName()+"="+l.GetValue())
				}
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if f.GetType() == dto.MetricType_HISTOGRAM {
				v = float64(m.GetHistogram().GetSampleCount())
			}
			all[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = v
		}
	}
	return all
}

func TestRun(t *testing.T) {
	for _, viaReference := range []bool{false, true} {
		t.Run(fmt.Sprintf("reference %t", viaReference), func(t *testing.T) {
			addr, asked := target(t)
			reg := prometheus.NewPedanticRegistry()
			n := 0
			res, err := Run(t.Context(), Config{
				Transport: transport.Config{Addr: addr, Conns: 8, Ops: []transport.Op{{Name: "all", Path: "/all"}, {Name: "some", Path: "/some"}}},
				Reference: viaReference,
				Rate:      1000, Arrivals: constant(1000, time.Hour),
				Choose: func(int, int) func(*transport.Call) {
					return func(c *transport.Call) {
						n++
						if c.Op = n % 2; n%20 == 1 {
							c.Path = "/fail"
						}
					}
				},
				Warmup: 200 * time.Millisecond, For: 400 * time.Millisecond, Shards: 1, Seed: 7, Registerer: reg,
			})
			if err != nil {
				t.Fatal(err)
			}
			if *res.Planned != 400 || res.Sent != 400 || res.Shed != 0 || res.InFlight != 0 || res.OK+res.Errors["status"] != 400 || asked.Load() != 600 {
				t.Errorf("got planned %d, sent %d, ok %d, errors %v, asked %d, want 400 and 600 asked", *res.Planned, res.Sent, res.OK, res.Errors, asked.Load())
			}
			if some := res.Ops["some"]; some.Sent != 200 || some.Codes["503"] != 20 || some.Errors["status"] != 20 || some.Codes["200"] != 180 {
				t.Errorf("got %+v for an operation that fails every tenth call", some)
			}
			if res.Duration != 0.4 || res.Rate != (Rate{1000, 1000}) || res.Generator.CPU <= 0 || res.Generator.CPUPerRequest <= 0 || res.Verdict == Pass {
				t.Errorf("got duration %g, rate %v, generator %+v, verdict %q", res.Duration, res.Rate, res.Generator, res.Verdict)
			}
			if res.Response.P50 <= 0 || res.Response.P50 > res.Response.Max || res.Service.P50 > res.Response.Max || res.Lag == nil {
				t.Errorf("got response %+v, service %+v, lag %+v", res.Response, res.Service, res.Lag)
			}
			got := collected(t, reg)
			for name, want := range map[string]float64{
				"loadgen_requests_total{channel=none,code=200,op=all,outcome=ok}":      300,
				"loadgen_requests_total{channel=none,code=200,op=some,outcome=ok}":     270,
				"loadgen_requests_total{channel=none,code=503,op=some,outcome=status}": 30,
				"loadgen_requests_total{channel=none,code=,op=all,outcome=timeout}":    0,
				"loadgen_response_seconds{op=all}":                                     300,
				"loadgen_service_seconds{op=some}":                                     300,
				"loadgen_lag_seconds{}":                                                600,
				"loadgen_target_requests_per_second{}":                                 1000,
				"loadgen_inflight_requests{}":                                          0,
				"loadgen_shed_total{reason=in_flight}":                                 0,
				"loadgen_phase{phase=done}":                                            1,
				"loadgen_phase{phase=measure}":                                         0,
			} {
				if v, ok := got[name]; !ok || v != want {
					t.Errorf("%s: got %g (there %t), want %g", name, v, ok, want)
				}
			}
			if open := got["loadgen_connections{state=open}"]; !viaReference && open != 8 {
				t.Errorf("got %g open connections, want 8", open)
			}
		})
	}
}

func TestResultForm(t *testing.T) {
	addr, _ := target(t)
	objective, _ := ParseObjective("p99<10s")
	res, err := Run(t.Context(), Config{
		Transport: transport.Config{Addr: addr, Conns: 2, Ops: []transport.Op{{Name: "op", Path: "/"}}},
		Rate:      100, Arrivals: constant(100, time.Hour), For: 100 * time.Millisecond, Objectives: []Objective{objective},
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Verdict != Pass {
		t.Errorf("got verdict %q, %v", res.Verdict, res.Reasons)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var form map[string]any
	json.Unmarshal(b, &form)
	for _, key := range []string{
		"schema", "planned", "sent", "ok", "errors", "shed", "in_flight_at_end", "duration_s", "rate", "response_s", "service_s", "lag_s",
		"ops", "generator", "seed", "index", "total", "verdict", "reasons", "histograms",
	} {
		if _, ok := form[key]; !ok {
			t.Errorf("%s is missing", key)
		}
	}
	for _, key := range []string{"mean", "p50", "p90", "p95", "p99", "p999", "max", "censored"} {
		if _, ok := form["response_s"].(map[string]any)[key]; !ok {
			t.Errorf("response_s has no %s", key)
		}
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(res, &back, cmp.Comparer(func(a, b Objective) bool { return a == b })); diff != "" {
		t.Errorf("what is read differs from what was written:\n%s", diff)
	}
}

func TestClosedLoop(t *testing.T) {
	addr, asked := target(t)
	res, err := Run(t.Context(), Config{
		Transport: transport.Config{Addr: addr, Conns: 4, Ops: []transport.Op{{Name: "op", Path: "/"}}}, For: 200 * time.Millisecond, Shards: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Planned != nil || res.Lag != nil || res.Rate.Target != 0 || res.Verdict != "" {
		t.Errorf("got planned %v, lag %v, rate %v, verdict %q, want none", res.Planned, res.Lag, res.Rate, res.Verdict)
	}
	if res.Sent < 100 || res.OK != res.Sent || uint64(asked.Load()) != res.Sent || !cmp.Equal(res.Response, res.Service) {
		t.Errorf("got sent %d, ok %d, asked %d, response %v, service %v", res.Sent, res.OK, asked.Load(), res.Response, res.Service)
	}
}

func TestRequestsEndTheRun(t *testing.T) {
	for _, rate := range []float64{0, 1000} {
		addr, asked := target(t)
		cfg := Config{
			Transport: transport.Config{Addr: addr, Conns: 4, Ops: []transport.Op{{Name: "op", Path: "/"}}},
			Rate:      rate, For: time.Hour, Requests: 101, Shards: 2,
		}
		if rate > 0 {
			cfg.Arrivals = constant(rate, time.Hour)
		}
		res, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if res.Sent != 101 || res.OK != 101 || asked.Load() != 101 || res.Interrupted {
			t.Errorf("at %g: got sent %d, ok %d, asked %d, interrupted %t, want 101", rate, res.Sent, res.OK, asked.Load(), res.Interrupted)
		}
		if rate > 0 && math.Abs(res.Rate.Achieved-rate) > 1 || res.Duration <= 0 || res.Duration > 60 {
			t.Errorf("at %g: got %g/s for %g s", rate, res.Rate.Achieved, res.Duration)
		}
	}
}

func TestSharesOfThePlan(t *testing.T) {
	addr, asked := target(t)
	var got []string
	_, err := Run(t.Context(), Config{
		Transport: transport.Config{Addr: addr, Conns: 8, Ops: []transport.Op{{Name: "op", Path: "/"}}},
		Rate:      400, For: 250 * time.Millisecond, Index: 1, Total: 2, Shards: 2,
		Arrivals: func(index, total int) (engine.Arrivals, error) {
			got = append(got, fmt.Sprint(index, " of ", total))
			return &even{400, time.Hour, index, total}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2 of 4", "3 of 4"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if asked.Load() != 50 {
		t.Errorf("got %d calls, want half of 100", asked.Load())
	}
}

func TestInterruptedIsInconclusive(t *testing.T) {
	addr, _ := target(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	objective, _ := ParseObjective("p50<10s")
	res, err := Run(ctx, Config{
		Transport: transport.Config{Addr: addr, Ops: []transport.Op{{Name: "op", Path: "/"}}},
		Rate:      100, Arrivals: constant(100, time.Hour), For: time.Hour, Objectives: []Objective{objective},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !res.Interrupted || res.Verdict != Inconclusive || res.Duration > 10 || res.Sent == 0 || *res.Planned != res.Sent {
		t.Errorf("got interrupted %t, verdict %q, duration %g, sent %d", res.Interrupted, res.Verdict, res.Duration, res.Sent)
	}
}

func TestStartIsKept(t *testing.T) {
	addr, _ := target(t)
	start := time.Now().Add(400 * time.Millisecond)
	res, err := Run(t.Context(), Config{
		Transport: transport.Config{Addr: addr, Ops: []transport.Op{{Name: "op", Path: "/"}}},
		Rate:      100, Arrivals: constant(100, time.Hour), For: 100 * time.Millisecond, Start: start,
	})
	if err != nil || res.OK != 10 {
		t.Fatalf("got %v, %v", res, err)
	}
	if took := time.Since(start); took < 90*time.Millisecond {
		t.Errorf("got the end %v after the start, want at least 90ms", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Config{
		Transport: transport.Config{Addr: addr, Ops: []transport.Op{{Name: "op", Path: "/"}}},
		Rate:      100, Arrivals: constant(100, time.Hour), For: time.Second, Start: time.Now().Add(time.Hour),
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the end of the context", err)
	}
}

func TestConfigsThatCannotRun(t *testing.T) {
	good := func() Config {
		return Config{Transport: transport.Config{Addr: "127.0.0.1:1", Ops: []transport.Op{{Name: "op", Path: "/"}}}, Rate: 1, Arrivals: constant(1, 1), For: 1}
	}
	for name, spoil := range map[string]func(*Config){
		"no length":            func(c *Config) { c.For = 0 },
		"no operations":        func(c *Config) { c.Transport.Ops = nil },
		"a name twice":         func(c *Config) { c.Transport.Ops = append(c.Transport.Ops, c.Transport.Ops...) },
		"index":                func(c *Config) { c.Index, c.Total = 2, 2 },
		"negative rate":        func(c *Config) { c.Rate = -1 },
		"no arrivals":          func(c *Config) { c.Arrivals = nil },
		"arrivals and no rate": func(c *Config) { c.Rate = 0 },
		"objectives and no plan": func(c *Config) {
			c.Rate, c.Arrivals, c.Objectives = 0, nil, []Objective{{stat: "max", limit: 1}}
		},
		"catch-up":      func(c *Config) { c.CatchUp = 0.5 },
		"address":       func(c *Config) { c.Transport.Addr = "nowhere" },
		"arrivals fail": func(c *Config) { c.Arrivals = func(int, int) (engine.Arrivals, error) { return nil, io.EOF } },
		"per user slow": func(c *Config) { c.Reference, c.Transport.PerUser = true, true },
		"slow, delivery": func(c *Config) {
			c.Reference, c.Delivered = true, func(*transport.Call, []byte) (time.Duration, bool) { return 0, false }
		},
	} {
		c := good()
		spoil(&c)
		if _, err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		url, addr, host, path string
		tls, bad              bool
	}{
		{url: "http://a.example/p/q?x=1#f", addr: "a.example:80", host: "a.example", path: "/p/q?x=1"},
		{url: "https://a.example:8443", addr: "a.example:8443", host: "a.example:8443", path: "/", tls: true},
		{url: "https://[::1]/", addr: "[::1]:443", host: "[::1]", path: "/", tls: true},
		{url: "ftp://a.example/", bad: true},
		{url: "a.example/x", bad: true},
		{url: "http://u:p@a.example/", bad: true},
		{url: "http:///x", bad: true},
	} {
		got, err := HTTPTarget(c.url, false, transport.Op{})
		if c.bad != (err != nil) {
			t.Errorf("%s: got error %v", c.url, err)
			continue
		}
		if err == nil && (got.Addr != c.addr || got.Host != c.host || got.Ops[0].Path != c.path || (got.TLS != nil) != c.tls) {
			t.Errorf("%s: got %+v", c.url, got)
		}
	}
	for _, c := range []struct {
		addr, method, path string
		tls, bad           bool
	}{
		{addr: "h:1", method: "p.S/M", path: "/p.S/M"},
		{addr: "https://h:1", method: "/p.S/M", path: "/p.S/M", tls: true},
		{addr: "h", method: "p.S/M", bad: true},
		{addr: "h:1", method: "p.S.M", bad: true},
	} {
		got, err := GRPCTarget(c.addr, c.method, nil, transport.Op{})
		if c.bad != (err != nil) || err == nil && (got.Ops[0].Path != c.path || got.Ops[0].Name != "M" || (got.TLS != nil) != c.tls || got.Addr != "h:1") {
			t.Errorf("%s %s: got %+v, %v", c.addr, c.method, got, err)
		}
	}
}

// plainCodec passes messages through.
type plainCodec struct{}

func (plainCodec) Name() string { return "" }
func (plainCodec) Marshal(m any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(m.([]byte))}, nil
}
func (plainCodec) Unmarshal(b mem.BufferSlice, m any) error {
	*m.(*[]byte) = b.Materialize()
	return nil
}

// TestDelivery sends messages that a stream tells of 50 ms later, and measures that.
func TestDelivery(t *testing.T) {
	const delay = 50 * time.Millisecond
	events := make(chan []byte, 1000)
	s := grpc.NewServer(grpc.ForceServerCodecV2(plainCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var m []byte
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		if method, _ := grpc.MethodFromServerStream(s); method == "/m.M/Send" {
			time.AfterFunc(delay, func() { events <- m })
			return s.SendMsg(m)
		}
		for {
			select {
			case e := <-events:
				if err := s.SendMsg(e); err != nil {
					return err
				}
			case <-s.Context().Done():
				return status.Error(codes.Canceled, "gone")
			}
		}
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() { s.Stop(); <-served }()

	reg := prometheus.NewPedanticRegistry()
	first := true
	res, err := Run(t.Context(), Config{
		Transport: transport.Config{Protocol: transport.GRPC, Addr: l.Addr().String(), Conns: 1, Ops: []transport.Op{
			{Name: "send", Path: "/m.M/Send", Messages: [][]byte{nil}},
			{Name: "watch", Path: "/m.M/Watch", Messages: [][]byte{nil}, ServerStream: true},
		}},
		Rate: 200, Arrivals: constant(200, time.Hour), For: 500 * time.Millisecond,
		Choose: func(int, int) func(*transport.Call) {
			return func(c *transport.Call) {
				if first {
					first, c.Op = false, 1
					return
				}
				c.Body = fmt.Append(nil, int64(c.Intended))
			}
		},
		Delivered: func(_ *transport.Call, msg []byte) (time.Duration, bool) {
			var at int64
			_, err := fmt.Sscan(string(msg), &at)
			return time.Duration(at), err == nil
		},
		Timeouts: map[int]time.Duration{1: -1}, Drain: 2 * time.Second, Registerer: reg,
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.InFlight != 1 || res.Ops["send"].OK != 99 || *res.Planned != 100 {
		t.Errorf("got in flight %d, sent %d ok, planned %d, want the stream open and 99 sent", res.InFlight, res.Ops["send"].OK, *res.Planned)
	}
	d := res.Ops["watch"].Delivery
	// A busy machine tells of it later.
	if d == nil || d.P50 < delay.Seconds() || d.P50 > 2 {
		t.Fatalf("got delivery %+v, want %v and little more", d, delay)
	}
	if n := collected(t, reg)["loadgen_delivery_seconds{}"]; n != 99 {
		t.Errorf("got %g deliveries in the metric, want 99", n)
	}
}

func TestObjectives(t *testing.T) {
	for s, want := range map[string]string{
		"p99<250ms": "p99<250ms", " p99.9 < 1s": "p999<1s", "mean<1.5ms": "mean<1.5ms", "max<1m": "max<1m0s", "errors<0.1%": "errors<0.1%",
		"p99": "", "p98<1s": "", "p99<1": "", "p99<-1s": "", "errors<0": "", "errors<0%": "", "errors<1s": "", "errors<101%": "", "errors<NaN%": "",
	} {
		o, err := ParseObjective(s)
		if (err != nil) != (want == "") || err == nil && o.String() != want {
			t.Errorf("%q: got %v, %v, want %q", s, o, err, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	objectives := func(ss ...string) (all []Objective) {
		for _, s := range ss {
			o, err := ParseObjective(s)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, o)
		}
		return all
	}
	// 1,000 calls of 10 ms.
	base := func() *Result {
		return &Result{
			Objectives: objectives("p99<100ms", "errors<1%"),
			Figures: Figures{
				Planned: new(uint64(1000)), Sent: 1000, OK: 1000,
				Response: Times{P50: 0.01, P99: 0.01}, Pacing: &Times{P99: 0.0001},
			},
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(*Result)
		want  Verdict
	}{
		{"good", func(*Result) {}, Pass},
		{"slow", func(r *Result) { r.Response.P99 = 0.1 }, Fail},
		{"slow at least", func(r *Result) { r.Response.P99, r.Response.Censored = 2, []string{"p99"} }, Fail},
		{"not known to be slow", func(r *Result) { r.Response.Censored = []string{"p99"} }, Inconclusive},
		{"something else not known", func(r *Result) { r.Response.Censored = []string{"max"} }, Pass},
		{"errors", func(r *Result) { r.OK = 990 }, Fail},
		{"few errors", func(r *Result) { r.OK = 991 }, Pass},
		{"late generator", func(r *Result) { r.Pacing.P99 = 0.006 }, Inconclusive},
		{"late generator, slow service", func(r *Result) { r.Pacing.P99, r.Response.P99 = 0.006, 1 }, Inconclusive},
		{"late by little of the objective", func(r *Result) { r.Pacing.P99 = 0.004 }, Pass},
		{"calls not made", func(r *Result) { r.Sent, r.OK, r.Shed = 900, 900, 100 }, Inconclusive},
		{"few calls not made", func(r *Result) { r.Sent, r.OK, r.Shed = 999, 999, 1 }, Pass},
		{"slow even so", func(r *Result) { r.Sent, r.OK, r.Shed, r.Response.P99 = 900, 900, 100, 1 }, Fail},
		{"nothing", func(r *Result) { r.Figures = Figures{Planned: new(uint64)} }, Inconclusive},
		{"interrupted", func(r *Result) { r.Interrupted = true }, Inconclusive},
		{"interrupted and slow", func(r *Result) { r.Interrupted, r.Response.P99 = true, 1 }, Inconclusive},
		{"no objectives", func(r *Result) { r.Objectives = nil }, ""},
		{"no objectives, late", func(r *Result) { r.Objectives, r.Pacing.P99 = nil, 0.002 }, Inconclusive},
		{"no objectives, calls not made", func(r *Result) { r.Objectives, r.Shed = nil, 100 }, Inconclusive},
		{"no objectives, interrupted", func(r *Result) { r.Objectives, r.Interrupted = nil, true }, ""},
	} {
		r := base()
		c.spoil(r)
		if r.judge(); r.Verdict != c.want || (c.want == Fail || c.want == Inconclusive) && len(r.Reasons) == 0 {
			t.Errorf("%s: got %q, %q, want %q", c.name, r.Verdict, r.Reasons, c.want)
		}
	}
	// Who can't be told whether the service is slow is told what was seen none the less.
	r := base()
	r.Pacing.P99, r.Response.P99 = 0.006, 1
	if r.judge(); len(r.Reasons) != 2 || !strings.Contains(r.Reasons[0], "late") || !strings.Contains(r.Reasons[1], "p99<100ms: 1s") {
		t.Errorf("got %q, want the lateness, and then the objective that was missed", r.Reasons)
	}
}

// part is a worker's result of n calls that took d, d+1 ms, …
func part(index, total, n int, d time.Duration) *Result {
	c := Config{
		Transport: transport.Config{Ops: []transport.Op{{Name: "a", Path: "/"}, {Name: "b", Path: "/"}}},
		Rate:      100, For: time.Second, Index: index, Total: total, Seed: 5,
	}
	return c.withDefaults().resultOf(n, d)
}

func (c Config) resultOf(n int, d time.Duration) *Result {
	var total [engine.Phases][]engine.Tally
	for p := range total {
		total[p] = make([]engine.Tally, 2)
	}
	for i := range n {
		t := &total[engine.Measure][i%2]
		took := d + time.Duration(i)*time.Millisecond
		t.Planned++
		t.Lag.Record(time.Microsecond)
		t.Pacing.Record(time.Microsecond)
		if i%10 == 9 {
			t.Ended[transport.Timeout]++
			t.Response.Censored.Record(took)
			t.Service.Censored.Record(took)
			continue
		}
		t.Ended[transport.OK]++
		t.Codes = map[int]uint64{200: t.Ended[transport.OK]}
		t.Response.Exact.Record(took)
		t.Service.Exact.Record(took)
	}
	return c.result(total, c.For, false, cost{cpu: time.Second, rss: 1000})
}

func TestMerge(t *testing.T) {
	a, b := part(0, 2, 50, 0), part(1, 2, 50, 50*time.Millisecond)
	got, err := Merge([]*Result{b, a})
	if err != nil {
		t.Fatal(err)
	}
	// One worker that made all the calls, the second half as the second did.
	single := part(0, 1, 100, 0)
	if got.Sent != 100 || got.OK != 90 || got.Errors["timeout"] != 10 || *got.Planned != 100 || got.Rate.Target != 100 {
		t.Errorf("got %+v", got.Figures)
	}
	if diff := cmp.Diff(single.Response, got.Response, cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 0.001*b })); diff != "" {
		t.Errorf("got other times than of one worker: (-want +got)\n%s", diff)
	}
	for op, h := range got.Histograms {
		if h.Response != single.Histograms[op].Response || h.ResponseCensored != single.Histograms[op].ResponseCensored {
			t.Errorf("operation %s: got another histogram than of one worker", op)
		}
	}
	if len(got.Workers) != 2 || got.Workers[1].Sent != 50 || got.Workers[1].Index != 1 || got.Generator.CPU != 2 || got.Generator.CPUPerRequest != 20000 {
		t.Errorf("got workers %+v, generator %+v", got.Workers, got.Generator)
	}
	if got.Verdict != "" {
		t.Errorf("got verdict %q, %q", got.Verdict, got.Reasons)
	}

	alone, err := Merge([]*Result{a})
	if err != nil || alone.Verdict != Inconclusive || !strings.Contains(strings.Join(alone.Reasons, ""), "1 of 2 workers") {
		t.Errorf("got verdict %q, %q, %v, want inconclusive for 1 of 2", alone.Verdict, alone.Reasons, err)
	}
}

func TestMergeRefuses(t *testing.T) {
	for name, results := range map[string][]*Result{
		"nothing":        nil,
		"a worker twice": {spoilt(func(*Result) {}), spoilt(func(*Result) {})},
		"another total":  {spoilt(func(*Result) {}), spoilt(func(r *Result) { r.Index, r.Total = 1, 3 })},
		"another schema": {spoilt(func(r *Result) { r.Schema = "load/v2" })},
		"another plan":   {spoilt(func(*Result) {}), spoilt(func(r *Result) { r.Index, r.Plan = 1, "x" })},
		"counts":         {spoilt(func(r *Result) { f := r.Ops["a"]; f.Sent++; r.Ops["a"] = f })},
		"unknown error":  {spoilt(func(r *Result) { r.Ops["a"].Errors["x"] = 0 })},
		"histogram":      {spoilt(func(r *Result) { h := r.Histograms["a"]; h.Lag = "!"; r.Histograms["a"] = h })},
		"lost samples":   {spoilt(func(r *Result) { h := r.Histograms["a"]; h.Response = h.ResponseCensored; r.Histograms["a"] = h })},
		"merged already": {spoilt(func(r *Result) { r.Workers = make([]Worker, 1) })},
	} {
		if _, err := Merge(results); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if _, err := Merge([]*Result{spoilt(func(*Result) {})}); err != nil {
		t.Errorf("got %v for an unspoilt one", err)
	}
}

// whole is a worker's result as it is written; making one takes a while.
var whole = sync.OnceValue(func() []byte {
	b, err := json.Marshal(part(0, 2, 20, 0))
	if err != nil {
		panic(err)
	}
	return b
})

func spoilt(f func(*Result)) *Result {
	r := new(Result)
	if err := json.Unmarshal(whole(), r); err != nil {
		panic(err)
	}
	f(r)
	return r
}

func TestSharesAddUp(t *testing.T) {
	for whole := range 20 {
		for n := 1; n < 8; n++ {
			var parts []int
			sum := 0
			for i := range n {
				parts = append(parts, share(whole, i, n))
				sum += parts[i]
			}
			if sum != whole || slices.Max(parts)-slices.Min(parts) > 1 {
				t.Errorf("got %v for %d", parts, whole)
			}
		}
	}
}

func TestMachine(t *testing.T) {
	facts := machine()
	for _, name := range []string{"cores", "os"} {
		if facts[name] == "" {
			t.Errorf("got %v, want %s", facts, name)
		}
	}
}
