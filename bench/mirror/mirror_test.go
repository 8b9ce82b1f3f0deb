package mirror

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"darklaunch/bench/raw"
	"darklaunch/bench/rig"
	"darklaunch/bench/side"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var (
	rounds = flag.Int("rounds", 3, "how often each variant runs")
	length = flag.Duration("length", 4*time.Second, "of one run")
)

// The fixed rates, a second, are far below what the slowest proxy can do; with
// bodies of 64 KiB that is less.
const (
	rate      = 3000
	rateLarge = 300
)

// A proxy is a variant that runs.
type proxy struct {
	name   string
	server *rig.Server // Pid 0: no proxy
	copies float64     // the share of requests that shall reach the shadow
}

// start starts all proxies on the same backends. What this program cannot do yet
// is left out, and said.
func start(b *testing.B, grpc bool, live string, sh *rig.Backend) []proxy {
	job := func(percent int) rig.Job {
		j := rig.Job{GRPC: grpc, Live: live, Percent: percent}
		if percent > 0 {
			j.Shadow = sh.Addr
		}
		return j
	}
	ps := []proxy{{name: "direct", server: &rig.Server{Addr: live}}}
	add := func(name string, percent int, s *rig.Server) {
		if percent > 0 {
			name += fmt.Sprintf(", %d %%", percent)
		}
		ps = append(ps, proxy{name, s, float64(percent) / 100})
	}
	for _, percent := range []int{0, 10, 100} {
		add("nginx", percent, rig.Nginx(b, job(percent)))
	}
	add("HAProxy", 0, rig.HAProxy(b, job(0)))
	for _, percent := range []int{0, 10, 100} {
		add("Envoy", percent, rig.Envoy(b, job(percent)))
	}
	for _, percent := range []int{0, 10, 100} {
		pairs := ""
		if percent == 100 {
			pairs = filepath.Join(b.TempDir(), "pairs")
		}
		s, err := rig.Mirror(b, job(percent), pairs)
		if errors.Is(err, rig.ErrNotThere) {
			b.Log(err)
			break
		}
		if err != nil {
			b.Fatal(err)
		}
		add("darklaunch", percent, s)
	}
	return ps
}

// variant measures a proxy under a load.
func variant(p proxy, sh *rig.Backend, load func(addr string) (rig.Load, error)) side.Variant {
	return side.Variant{Name: p.name, Run: func() (map[string]float64, error) {
		cpu := func() (time.Duration, error) {
			if p.server.Pid == 0 {
				return 0, nil
			}
			return side.CPU(p.server.Pid)
		}
		copiesBefore, err := sh.Count()
		if err != nil {
			return nil, err
		}
		before, err := cpu()
		if err != nil {
			return nil, err
		}
		l, err := load(p.server.Addr)
		if err != nil {
			return nil, err
		}
		after, err := cpu()
		if err != nil {
			return nil, err
		}
		copies, err := sh.Count()
		if err != nil {
			return nil, err
		}
		if p.copies > 0 && copies-copiesBefore < 2 {
			return nil, errors.New("no request was copied")
		}
		return map[string]float64{
			"cpu":    float64((after - before).Microseconds()) / l.Requests,
			"rate":   l.Rate,
			"failed": l.Failed,
			"p50":    float64(l.P50.Microseconds()),
			"p99":    float64(l.P99.Microseconds()),
			"copied": 100 * (copies - copiesBefore) / l.Requests,
		}, nil
	}}
}

var columns = []side.Column{
	{Measure: "cpu", Title: "proxy's CPU µs a request", Format: "%.1f"},
	{Measure: "rate", Title: "requests/s", Format: "%.0f"},
	{Measure: "p50", Title: "p50 µs", Format: "%.0f"},
	{Measure: "p99", Title: "p99 µs", Format: "%.0f"},
	{Measure: "copied", Title: "copied %", Format: "%.0f"},
	{Measure: "failed", Title: "failed", Format: "%.0f"},
}

// section measures all proxies under one load and records it.
func section(b *testing.B, name, what string, ps []proxy, sh *rig.Backend, claims []side.Claim, load func(addr string) (rig.Load, error)) {
	where := side.Machine()
	var variants []side.Variant
	for _, p := range ps {
		variants = append(variants, variant(p, sh, load))
	}
	r, err := side.Interleave(*rounds, variants...)
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "## Mirrors: %s\n\n%s. %s; medians of %d rounds of %v, the ratio's least and greatest in brackets. `%s`\n\n", name, where, what, *rounds, *length, side.Command())
	text.WriteString(r.Table("nginx", columns...))
	text.WriteByte('\n')
	for _, c := range claims {
		text.WriteString(c.Text(r, "cpu"))
	}
	b.Log("\n" + text.String())
	if err := side.Record("../RESULTS.md", "mirror "+name, text.String()); err != nil {
		b.Fatal(err)
	}
}

// The bars, as shares of what others cost in the same run.
var (
	claimsHTTP = []side.Claim{
		{Over: "darklaunch", Base: "nginx", Limit: 1.1},
		{Over: "darklaunch, 100 %", Base: "nginx, 100 %", Limit: 0.4},
		{Over: "darklaunch, 100 %", Base: "Envoy", Limit: 0.3},
	}
	claimsGRPC = []side.Claim{
		{Over: "darklaunch", Base: "HAProxy", Limit: 0.6},
		{Over: "darklaunch, 100 %", Base: "HAProxy", Limit: 0.8},
		{Over: "darklaunch, 100 %", Base: "nginx, 100 %", Limit: 0.4},
	}
)

// size is one size of bodies.
type size struct {
	name  string
	bytes int
	path  string // of Web's answer
	rate  float64
}

var sizes = []size{{"200 bytes", 200, "/", rate}, {"64 KiB", 64 << 10, "/64k", rateLarge}}

// BenchmarkHTTP is for -benchtime 1x; its own time says nothing.
func BenchmarkHTTP(b *testing.B) {
	for b.Loop() {
		live, sh := rig.Web(b), rig.Web(b)
		ps := start(b, false, live.Addr, sh)
		for _, z := range sizes {
			section(b, fmt.Sprintf("HTTP/1.1, answers of %s, saturated", z.name), "wrk, 64 connections", ps, sh, claimsHTTP,
				func(addr string) (rig.Load, error) { return rig.Wrk(b, "http://"+addr+z.path, 64, *length) })
			section(b, fmt.Sprintf("HTTP/1.1, answers of %s, %.0f/s", z.name, z.rate), "h2load --h1 --rps, 64 connections, latency from the sending", ps, sh, nil,
				func(addr string) (rig.Load, error) {
					return rig.H2load{URL: "http://" + addr + z.path, HTTP1: true, Clients: 64, Rate: z.rate, For: *length}.Run(b)
				})
		}
	}
}

// BenchmarkGRPC is for -benchtime 1x; its own time says nothing.
func BenchmarkGRPC(b *testing.B) {
	for b.Loop() {
		live, sh := rig.Echo(b), rig.Echo(b)
		ps := start(b, true, live.Addr, sh)
		// To h2load any answer is a success: its status is in the trailers.
		for _, p := range ps {
			if err := call(b.Context(), p.server.Addr); err != nil {
				b.Fatalf("%s: %v", p.name, err)
			}
		}
		for _, z := range sizes {
			data := filepath.Join(b.TempDir(), "body")
			msg := make([]byte, 5+z.bytes)
			binary.BigEndian.PutUint32(msg[1:], uint32(z.bytes))
			if err := os.WriteFile(data, msg, 0o600); err != nil {
				b.Fatal(err)
			}
			run := func(rate float64) func(addr string) (rig.Load, error) {
				return func(addr string) (rig.Load, error) {
					return rig.H2load{URL: "http://" + addr + "/bench.Echo/Call", Data: data, GRPC: true, Clients: 4, Streams: 16, Rate: rate, For: *length}.Run(b)
				}
			}
			section(b, fmt.Sprintf("gRPC unary, %s each way, saturated", z.name), "h2load, 4 connections, 16 streams", ps, sh, claimsGRPC, run(0))
			section(b, fmt.Sprintf("gRPC unary, %s each way, %.0f/s", z.name, z.rate), "h2load --rps, 4 connections, 16 streams, latency from the sending", ps, sh, nil, run(z.rate))
		}
	}
}

// call makes one gRPC call and wants its message back.
func call(ctx context.Context, addr string) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw.Codec{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	in, out := []byte("hello"), []byte(nil)
	if err := conn.Invoke(ctx, "/bench.Echo/Call", &in, &out); err != nil {
		return err
	}
	if !bytes.Equal(in, out) {
		return fmt.Errorf("sent %q, got %q", in, out)
	}
	return nil
}
