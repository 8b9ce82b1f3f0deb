package shadow

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of all backends of a mirror.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	breakers breakers
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mirror_backend_requests_total",
			Help: "Calls made to a role. code is the HTTP status, of gRPC calls the gRPC status, or error, timeout or canceled.",
		}, []string{"role", "route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mirror_backend_request_duration_seconds", Help: "From the first byte of a call written to the last of its answer read.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"role", "route"}),
		breakers: breakers{desc: prometheus.NewDesc("mirror_breaker_state", "1 for the state that a role's breaker is in, or the worst where the fronts' roles differ.", []string{"role", "state"}, nil)},
	}
	reg.MustRegister(m.requests, m.duration, &m.breakers)
	return m
}

// breakers collects the states of all backends.
type breakers struct {
	desc *prometheus.Desc

	mu  sync.Mutex
	all []*Backend
}

func (bs *breakers) Describe(ch chan<- *prometheus.Desc) { ch <- bs.desc }

func (bs *breakers) Collect(ch chan<- prometheus.Metric) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	states := map[string]State{} // of several backends of a role, the worst
	for _, b := range bs.all {
		if now, before := b.State(), states[b.cfg.Role]; now.badness() >= before.badness() {
			states[b.cfg.Role] = now
		}
	}
	for role, now := range states {
		for s := Closed; s <= HalfOpen; s++ {
			v := 0.0
			if s == now {
				v = 1
			}
			ch <- prometheus.MustNewConstMetric(bs.desc, prometheus.GaugeValue, v, role, s.String())
		}
	}
}

// badness orders states by how little passes.
func (s State) badness() int { return [...]int{Closed: 0, Open: 2, HalfOpen: 1}[s] }

// role returns the metrics of a backend; nil if m is.
func (m *Metrics) role(b *Backend) *roleMetrics {
	if m == nil {
		return nil
	}
	m.breakers.mu.Lock()
	defer m.breakers.mu.Unlock()
	m.breakers.all = append(m.breakers.all, b)
	return &roleMetrics{m, b.cfg.Role, map[string]*routeMetrics{}}
}

// roleMetrics spares the look-up by labels, which would cost more than counting.
// It belongs to the goroutine of the loop.
type roleMetrics struct {
	metrics *Metrics
	role    string
	routes  map[string]*routeMetrics
}

type routeMetrics struct {
	duration prometheus.Observer
	codes    map[int]prometheus.Counter
	exemplar time.Time // when the last was left: one a second is enough to look at
}

// Codes that are no status.
const (
	codeError    = -1
	codeTimeout  = -2
	codeCanceled = -3
)

// code is what a's call counts as.
func (a *Answer) code() int {
	switch {
	case a.Err == nil && a.GRPC >= 0:
		return a.GRPC
	case a.Err == nil:
		return a.Status
	case errors.Is(a.Err, ErrTimeout):
		return codeTimeout
	case errors.Is(a.Err, ErrCanceled):
		return codeCanceled
	}
	return codeError
}

// Code is the label value that a's call counts as.
func (a *Answer) Code() string { return codeText(a.code()) }

func codeText(code int) string {
	switch code {
	case codeError:
		return "error"
	case codeTimeout:
		return "timeout"
	case codeCanceled:
		return "canceled"
	}
	return strconv.Itoa(code)
}

func (rm *roleMetrics) done(cp *Copy, call int, a *Answer) {
	if rm == nil {
		return
	}
	route := cp.Calls[call].Route
	r := rm.route(route)
	code := a.code()
	requests := r.codes[code]
	if requests == nil {
		requests = rm.metrics.requests.WithLabelValues(rm.role, route, codeText(code))
		r.codes[code] = requests
	}
	requests.Inc()
	if a.Err != nil {
		return
	}
	took := a.Last.Sub(a.Sent).Seconds()
	if live := traceOf(cp.Calls[call].Header); live == nil || !bytes.Equal(live[53:55], sampledTrace) || a.Last.Sub(r.exemplar) < time.Second {
		r.duration.Observe(took)
		return
	}
	r.exemplar = a.Last
	r.duration.(prometheus.ExemplarObserver).ObserveWithExemplar(took, prometheus.Labels{"trace_id": hex.EncodeToString(cp.ID[:])})
}

// sampledTrace are the flags of a trace that is kept.
var sampledTrace = []byte("01")

// route returns the series of a route; failures are there before they happen.
func (rm *roleMetrics) route(route string) *routeMetrics {
	r := rm.routes[route]
	if r == nil {
		r = &routeMetrics{duration: rm.metrics.duration.WithLabelValues(rm.role, route), codes: map[int]prometheus.Counter{}}
		for _, code := range []int{codeError, codeTimeout, codeCanceled} {
			r.codes[code] = rm.metrics.requests.WithLabelValues(rm.role, route, codeText(code))
		}
		rm.routes[route] = r
	}
	return r
}

// Expect has the series of a route from the start. It must be called before the
// loop is run.
func (b *Backend) Expect(route string) {
	if b.metrics != nil {
		b.metrics.route(route)
	}
}
