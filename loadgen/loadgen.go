// Package loadgen runs a load against a service and says what it came to: what
// was planned, what was sent, how long it took from the moment it was due, and
// whether any of that can be believed. Package engine paces, package transport
// sends; here a configuration becomes shards of both, and their counts a Result.
package loadgen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
	"darklaunch/loadgen/transport/reference"
)

// Config is a run.
type Config struct {
	// Scenario names the run in metrics and results. Empty means "adhoc".
	Scenario string
	// Transport says whom to call, what, and over which connections; its Conns
	// are those of all shards.
	Transport transport.Config
	// Reference makes the calls through net/http and grpc-go.
	Reference bool

	// Rate is the planned mean rate a second, for reports. 0 is the closed loop: as
	// many calls as the connections hold are kept under way, for the cost of one.
	Rate float64
	// Arrivals yields the intended times of one share of total, from 0 at Start.
	// It is needed unless Rate is 0 or Source is set.
	Arrivals func(index, total int) (engine.Arrivals, error)
	// Choose returns what fills in the calls of one share; nil, or a nil result,
	// makes the first operation alone. It is for Arrivals and for the closed loop.
	Choose func(index, total int) func(*transport.Call)
	// Source replaces Arrivals and Choose, where calls depend on answers. It may
	// be an engine.Observer too, and then sees what became of its calls.
	Source func(index, total int) (engine.Source, error)

	// Requests ends the plan after so many calls, those of the warm-up and of all
	// workers counted. Zero means that For does.
	Requests int
	// Warmup comes before For; its calls are made and not reported.
	Warmup, For time.Duration
	// Drain, Timeout, Timeouts, MaxInFlight (over all shards) and CatchUp are the
	// engine's.
	Drain       time.Duration
	Timeout     time.Duration
	Timeouts    map[int]time.Duration
	MaxInFlight int
	// Held are the operations whose calls are gRPC streams that Source, an
	// engine.Holder, holds open.
	Held    map[int]bool
	CatchUp float64

	// Shards is how many threads make calls. Zero means one less than GOMAXPROCS,
	// and never more than there are connections.
	Shards int
	// Index and Total are this worker's place among several that share the plan.
	// Zero Total means 1.
	Index, Total int
	// Start is the time 0 of the plan. Zero means as soon as connections are open.
	Start time.Time
	// Digest stands for what a Source makes its calls of: workers with another one
	// have another plan.
	Digest string
	// Seed is reported, and part of what makes two plans the same.
	Seed uint64

	// Objectives are judged at the end.
	Objectives []Objective
	// Registerer, if set, exports the run's metrics.
	Registerer prometheus.Registerer
	// Channels are the values of Call.Channel that calls of an operation may have,
	// for metrics. Calls of other operations have none.
	Channels map[int][]string
	// Sessions, if set, is how many of the Source's sessions are under way. It is
	// called by any goroutine.
	Sessions func() int
	// Delivered, if set, reads from a message of a gRPC stream when what it tells
	// of was sent, on the run's clock (where Call.Intended is); false if it tells
	// of nothing. It is called by all shards.
	Delivered func(c *transport.Call, msg []byte) (time.Duration, bool)
}

// HTTPTarget returns the transport configuration for one operation on a URL, of
// scheme http or https. The operation's path is the URL's.
func HTTPTarget(rawURL string, http2 bool, op transport.Op) (transport.Config, error) {
	if !strings.Contains(rawURL, "://") {
		return transport.Config{}, fmt.Errorf("loadgen: %s: want a URL that begins with http:// or https://", rawURL)
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return transport.Config{}, fmt.Errorf("loadgen: %w", err)
	}
	port := u.Port()
	cfg := transport.Config{Host: u.Host}
	switch u.Scheme {
	case "http":
		if port == "" {
			port = "80"
		}
	case "https":
		cfg.TLS = newTLS()
		if port == "" {
			port = "443"
		}
	default:
		return transport.Config{}, fmt.Errorf("loadgen: %s: want a URL that begins with http:// or https://", rawURL)
	}
	if u.Hostname() == "" || u.User != nil {
		return transport.Config{}, fmt.Errorf("loadgen: %s: want a host, and no user", rawURL)
	}
	if http2 {
		cfg.Protocol = transport.HTTP2
	}
	cfg.Addr = net.JoinHostPort(u.Hostname(), port)
	op.Path = u.RequestURI()
	if op.Name == "" {
		op.Name = "request"
	}
	cfg.Ops = []transport.Op{op}
	return cfg, nil
}

// GRPCTarget returns the transport configuration for one method of a gRPC
// service at host:port, plain, or at https://host:port. The method is given as
// package.Service/Method, messages as they go over the wire.
func GRPCTarget(addr, method string, messages [][]byte, op transport.Op) (transport.Config, error) {
	cfg := transport.Config{Protocol: transport.GRPC}
	if rest, ok := strings.CutPrefix(addr, "https://"); ok {
		addr, cfg.TLS = rest, newTLS()
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return transport.Config{}, fmt.Errorf("loadgen: %s: want host:port: %w", addr, err)
	}
	method = strings.TrimPrefix(method, "/")
	if service, name, ok := strings.Cut(method, "/"); !ok || service == "" || name == "" || strings.Contains(name, "/") {
		return transport.Config{}, fmt.Errorf("loadgen: %s: want package.Service/Method", method)
	}
	op.Path, op.Messages = "/"+method, messages
	if op.Name == "" {
		op.Name = method[strings.LastIndexByte(method, '/')+1:]
	}
	cfg.Addr, cfg.Ops = addr, []transport.Op{op}
	return cfg, nil
}

func (c Config) withDefaults() Config {
	if c.Scenario == "" {
		c.Scenario = "adhoc"
	}
	if c.Total == 0 {
		c.Total = 1
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 1 << 17
	}
	c.Transport = c.Transport.WithDefaults()
	if c.Shards == 0 {
		c.Shards = max(1, runtime.GOMAXPROCS(0)-1)
	}
	c.Shards = min(c.Shards, c.Transport.Conns)
	return c
}

func (c *Config) check() error {
	if err := c.Transport.Check(); err != nil {
		return err
	}
	names := map[string]bool{}
	for _, o := range c.Transport.Ops {
		if names[o.Name] {
			return fmt.Errorf("loadgen: two operations are called %q", o.Name)
		}
		names[o.Name] = true
	}
	switch {
	case c.For <= 0 || c.Warmup < 0:
		return errors.New("loadgen: a run needs a length")
	case c.Index < 0 || c.Index >= c.Total:
		return fmt.Errorf("loadgen: index %d of %d", c.Index, c.Total)
	case c.Rate < 0 || c.Requests < 0:
		return fmt.Errorf("loadgen: rate %g, %d requests", c.Rate, c.Requests)
	case c.Rate > 0 && c.Arrivals == nil && c.Source == nil:
		return errors.New("loadgen: a rate needs arrivals")
	case c.Rate == 0 && (c.Source != nil || c.Arrivals != nil):
		return errors.New("loadgen: a plan needs the rate it has")
	case c.Rate == 0 && len(c.Objectives) > 0:
		return errors.New("loadgen: a closed loop has no plan, and so nothing to judge by")
	case c.Reference && (c.Delivered != nil || len(c.Held) > 0):
		return errors.New("loadgen: the reference transport holds no streams, and measures no deliveries")
	case len(c.Held) > 0 && c.Requests > 0:
		return errors.New("loadgen: streams are held until sessions end, not until a number of requests does")
	case c.CatchUp != 0 && c.CatchUp < 1:
		return fmt.Errorf("loadgen: catch-up at %g times the rate would never catch up", c.CatchUp)
	}
	return nil
}

// runClock has its zero moved to the start of the run before any shard runs.
type runClock struct{ start time.Time }

func (c *runClock) Now() time.Duration { return time.Since(c.start) }

// pool is what the two kinds of transports have in common.
type pool interface {
	engine.Driver
	Close()
}

// shard is one thread's share.
type shard struct {
	pool   pool
	engine *engine.Shard
}

// watch returns ops with their deliveries told to s.
func (s *shard) watch(c *Config, m *metrics) []transport.Op {
	if c.Delivered == nil {
		return c.Transport.Ops
	}
	seen := m.deliveries()
	ops := slices.Clone(c.Transport.Ops)
	for i := range ops {
		next := ops[i].OnMessage
		if !ops[i].ServerStream {
			continue
		}
		ops[i].OnMessage = func(call *transport.Call, msg []byte, at time.Duration) {
			if sent, ok := c.Delivered(call, msg); ok {
				seen.Record(at - sent)
				s.engine.Delivered(i, sent, at)
			}
			if next != nil {
				next(call, msg, at)
			}
		}
	}
	return ops
}

// openTime bounds the wait for connections before a run whose start is not given.
const openTime = time.Second

// Run makes the run's calls and returns what they came to; it fails only when it
// could not begin. When ctx ends, so does the plan: calls under way are waited
// for, and the Result says that it was interrupted.
//
// Each shard keeps a thread and a processor to itself. While they run GOMAXPROCS
// is two more than the shards, if it was less, for all else in the process.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if n := cfg.Shards + 2; runtime.GOMAXPROCS(0) < n {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(n))
	}
	m, err := newMetrics(&cfg)
	if err != nil {
		return nil, err
	}
	clock := &runClock{time.Now()}
	shards, err := cfg.shards(clock, m)
	defer func() {
		for _, s := range shards {
			s.pool.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := cfg.open(ctx, clock, shards); err != nil {
		return nil, err
	}
	m.start(clock)
	before := usage()
	results := make([][engine.Phases][]engine.Tally, len(shards))
	var wg sync.WaitGroup
	for i, s := range shards {
		wg.Go(func() {
			defer engine.Pin()()
			results[i] = s.engine.Run(ctx)
		})
	}
	wg.Wait()
	m.end()
	after := usage()

	total := results[0]
	for _, r := range results[1:] {
		for p := range r {
			for op := range r[p] {
				total[p][op].Merge(&r[p][op])
			}
		}
	}
	interrupted := slices.ContainsFunc(shards, func(s *shard) bool { return s.engine.End() < cfg.Warmup+cfg.For })
	after.cpu -= before.cpu
	return cfg.result(total, cfg.end(shards, clock), interrupted, after), nil
}

// end is where the plan ended: with it, with the context, or with its calls.
func (c *Config) end(shards []*shard, clock *runClock) time.Duration {
	end := c.Warmup + c.For
	for _, s := range shards {
		end = min(end, s.engine.End())
	}
	switch {
	case c.Requests == 0 || end < c.Warmup+c.For:
		return end
	case c.Rate > 0:
		return min(end, time.Duration(float64(c.Requests)/c.Rate*float64(time.Second)))
	}
	return min(end, clock.Now())
}

// shards makes each thread's pool and engine. On an error it returns those made.
func (c *Config) shards(clock *runClock, m *metrics) ([]*shard, error) {
	var shards []*shard
	for i := range c.Shards {
		index, total := c.Index*c.Shards+i, c.Total*c.Shards
		t := c.Transport
		t.Conns = share(t.Conns, i, c.Shards)
		s := new(shard)
		t.Ops = s.watch(c, m)
		p, err := c.pool(t, clock)
		if err != nil {
			return shards, err
		}
		s.pool = p
		shards = append(shards, s)
		e := engine.Config{
			Clock: clock, Driver: p, Ops: len(t.Ops),
			Settle: c.Warmup, Measure: c.For, Drain: c.Drain, Timeout: c.Timeout, Timeouts: c.Timeouts, Held: c.Held,
			MaxInFlight: max(1, share(c.MaxInFlight, i, c.Shards)), CatchUp: c.CatchUp,
		}
		if e.Source, err = c.source(index, total); err != nil {
			return shards, err
		}
		own, _ := e.Source.(engine.Observer)
		if c.Requests > 0 {
			e.Source = engine.Limit(e.Source, share(c.Requests, index, total))
		}
		if c.Rate == 0 {
			e.Closed = t.Conns * t.Streams
			e.MaxInFlight = max(e.MaxInFlight, e.Closed)
		}
		e.Observer = m.observer(p, own)
		s.engine = engine.New(e)
	}
	return shards, nil
}

// share is the ith of n parts of whole, which differ by one at most.
func share(whole, i, n int) int { return whole*(i+1)/n - whole*i/n }

func (c *Config) pool(t transport.Config, clock transport.Clock) (pool, error) {
	if c.Reference {
		return reference.New(t, clock)
	}
	return transport.New(t, clock)
}

func (c *Config) source(index, total int) (engine.Source, error) {
	if c.Source != nil {
		return c.Source(index, total)
	}
	var choose func(*transport.Call)
	if c.Choose != nil {
		choose = c.Choose(index, total)
	}
	if c.Rate == 0 {
		return engine.Endless(choose), nil
	}
	a, err := c.Arrivals(index, total)
	if err != nil {
		return nil, err
	}
	return engine.NewPlan(a, choose), nil
}

// open makes the connections, and puts the clock's zero at the start.
func (c *Config) open(ctx context.Context, clock *runClock, shards []*shard) error {
	until := openTime
	if !c.Start.IsZero() {
		until = time.Until(c.Start) - 100*time.Millisecond
	}
	for _, s := range shards {
		if p, ok := s.pool.(*transport.Pool); ok {
			p.Open(until)
		}
	}
	if c.Start.IsZero() {
		clock.start = time.Now()
		return nil
	}
	clock.start = time.Now().Add(time.Until(c.Start))
	select {
	case <-time.After(-clock.Now() - 10*time.Millisecond):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("loadgen: waiting for the start: %w", ctx.Err())
	}
}

// version is the build's.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "devel"
}
