package loadgen

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

// metrics exports a run while it goes on. The zero value, of a run without a
// Registerer, exports nothing and costs nothing but a nil check a call.
type metrics struct {
	cfg      *Config
	clock    atomic.Pointer[runClock]
	ended    atomic.Bool
	inFlight atomic.Int64
	pools    atomic.Pointer[[]*transport.Pool]

	requests *prometheus.CounterVec
	shed     *prometheus.CounterVec
	response *hist.Collector
	service  *hist.Collector
	lag      *hist.Collector
	delivery *hist.Collector
}

// phases of a run, as a metric tells them.
var phases = []string{"settle", "measure", "drain", "done"}

// noChannel is what a call that carries no message is counted under.
const noChannel = "none"

func newMetrics(cfg *Config) (*metrics, error) {
	if cfg.Registerer == nil {
		return nil, nil
	}
	constant := prometheus.Labels{"scenario": cfg.Scenario}
	m := &metrics{cfg: cfg}
	m.pools.Store(new([]*transport.Pool))
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "loadgen_requests_total", Help: "Calls that ended, by how, with the HTTP or gRPC status where there was an answer.", ConstLabels: constant,
	}, []string{"op", "channel", "outcome", "code"})
	m.shed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "loadgen_shed_total", Help: "Planned calls that were not made.",
	}, []string{"reason"})
	for s := range engine.Sheds {
		m.shed.WithLabelValues(s.String())
	}
	var byOp [][]string
	for i, o := range cfg.Transport.Ops {
		byOp = append(byOp, []string{o.Name})
		channels := cfg.Channels[i]
		if channels == nil {
			channels = []string{noChannel}
		}
		for _, channel := range channels {
			m.requests.WithLabelValues(o.Name, channel, transport.OK.String(), m.success())
			for c := transport.OK + 1; c < transport.Classes; c++ {
				if !c.Answered() {
					m.requests.WithLabelValues(o.Name, channel, c.String(), "")
				}
			}
		}
	}
	histogram := func(name, help string, labels []string, series [][]string) *hist.Collector {
		return hist.NewCollector(hist.Opts{Name: name, Help: help, ConstLabels: constant, Labels: labels, Series: series})
	}
	m.response = histogram("loadgen_response_seconds", "From when a call was due to its end.", []string{"op"}, byOp)
	m.service = histogram("loadgen_service_seconds", "From a call's first byte to its end.", []string{"op"}, byOp)
	m.lag = histogram("loadgen_lag_seconds", "From when a call was due to its first byte.", nil, nil)
	m.delivery = histogram("loadgen_delivery_seconds", "From when something was sent to when a stream told of it.", nil, nil)
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f)
	}
	all := []prometheus.Collector{
		m.requests, m.shed, m.response, m.service, m.lag, m.delivery,
		gauge("loadgen_target_requests_per_second", "The planned mean rate of this worker; 0 is a closed loop.", constant, func() float64 { return cfg.Rate / float64(cfg.Total) }),
		gauge("loadgen_inflight_requests", "Calls that are due and have not ended.", nil, func() float64 { return float64(m.inFlight.Load()) }),
		gauge("loadgen_sessions", "Sessions of users under way.", nil, func() float64 { return float64(m.sessions()) }),
		gauge("loadgen_connections", "Connections.", prometheus.Labels{"state": "open"}, func() float64 { open, _ := m.connections(); return float64(open) }),
		gauge("loadgen_connections", "Connections.", prometheus.Labels{"state": "opening"}, func() float64 { _, opening := m.connections(); return float64(opening) }),
	}
	for i, p := range phases {
		all = append(all, gauge("loadgen_phase", "1 for the phase that the run is in.", prometheus.Labels{"scenario": cfg.Scenario, "phase": p}, func() float64 {
			if m.phase() == i {
				return 1
			}
			return 0
		}))
	}
	for i, c := range all {
		if err := cfg.Registerer.Register(c); err != nil {
			for _, done := range all[:i] {
				cfg.Registerer.Unregister(done)
			}
			return nil, fmt.Errorf("loadgen: metrics: %w", err)
		}
	}
	return m, nil
}

// success is the status of most calls.
func (m *metrics) success() string {
	if m.cfg.Transport.Protocol == transport.GRPC {
		return "0"
	}
	return "200"
}

func (m *metrics) sessions() int {
	if m.cfg.Sessions == nil || m.ended.Load() {
		return 0
	}
	return m.cfg.Sessions()
}

func (m *metrics) connections() (open, opening int) {
	for _, p := range *m.pools.Load() {
		o, d := p.Conns()
		open += o
		opening += d
	}
	return open, opening
}

// phase is the index of the phase that the run is in.
func (m *metrics) phase() int {
	clock := m.clock.Load()
	if clock == nil {
		return 0
	}
	now := clock.Now()
	switch {
	case m.ended.Load():
		return 3
	case now >= m.cfg.Warmup+m.cfg.For:
		return 2
	case now >= m.cfg.Warmup:
		return 1
	}
	return 0
}

func (m *metrics) start(clock *runClock) {
	if m != nil {
		m.clock.Store(clock)
	}
}

func (m *metrics) end() {
	if m != nil {
		m.ended.Store(true)
	}
}

// deliveries returns where a shard's delivery times go beside its tally.
func (m *metrics) deliveries() *hist.Recorder {
	if m == nil {
		return hist.NewRecorder()
	}
	return m.delivery.Recorder()
}

// observer returns what counts a shard's calls, for metrics and for the source
// if it wants to know; nil if nobody does.
func (m *metrics) observer(p pool, source engine.Observer) engine.Observer {
	if m == nil {
		if source == nil {
			return nil
		}
		return source
	}
	o := &observer{m: m, source: source, counts: map[answerKey]prometheus.Counter{}, lag: m.lag.Recorder()}
	for _, op := range m.cfg.Transport.Ops {
		o.response = append(o.response, m.response.Recorder(op.Name))
		o.service = append(o.service, m.service.Recorder(op.Name))
	}
	if tp, ok := p.(*transport.Pool); ok {
		all := append(*m.pools.Load(), tp)
		m.pools.Store(&all)
	}
	return o
}

type answerKey struct {
	op      int
	channel string
	class   transport.Class
	code    int
}

// observer is a shard's own view of the metrics.
type observer struct {
	m                 *metrics
	source            engine.Observer
	counts            map[answerKey]prometheus.Counter
	response, service []*hist.Recorder // by operation
	lag               *hist.Recorder
}

func (o *observer) Released(op int, late time.Duration) {
	o.m.inFlight.Add(1)
	if o.source != nil {
		o.source.Released(op, late)
	}
}

func (o *observer) Shed(c *transport.Call, why engine.Shed) {
	o.m.inFlight.Add(-1)
	o.m.shed.WithLabelValues(why.String()).Inc()
	if o.source != nil {
		o.source.Shed(c, why)
	}
}

func (o *observer) Ended(c *transport.Call, phase engine.Phase, final bool) {
	o.m.inFlight.Add(-1)
	if final {
		o.count(c)
	}
	if o.source != nil {
		o.source.Ended(c, phase, final)
	}
}

func (o *observer) count(c *transport.Call) {
	key := answerKey{c.Op, c.Channel, c.Class, c.Code}
	n := o.counts[key]
	if n == nil {
		code := ""
		if c.Class.Answered() {
			code = strconv.Itoa(c.Code)
		}
		channel := c.Channel
		if channel == "" {
			channel = noChannel
		}
		n = o.m.requests.WithLabelValues(o.m.cfg.Transport.Ops[c.Op].Name, channel, c.Class.String(), code)
		o.counts[key] = n
	}
	n.Inc()
	o.response[c.Op].Record(c.Done - c.Intended)
	if c.Sent >= 0 {
		o.service[c.Op].Record(c.Done - c.Sent)
		if o.m.cfg.Rate > 0 {
			o.lag.Record(c.Sent - c.Intended)
		}
	}
}
