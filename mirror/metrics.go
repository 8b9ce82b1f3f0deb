package mirror

import (
	"maps"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/internal/hist"
	"darklaunch/mirror/guard"
	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/sample"
)

// metrics are those that no part of the mirror has for itself.
type metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	marked       prometheus.Counter
	abandoned    map[observe.Reason]prometheus.Counter
	unattributed map[sample.Reason]prometheus.Counter
	panics       *prometheus.CounterVec
	guarded      map[guard.Symptom]prometheus.Counter
}

// panicking are the parts in which a panic is counted.
var panicking = []string{"observer", "sender", "backend", "lanes", "switches", "guard", "pairs", "scraper"}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(v)
		return v
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: hist.Buckets(), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, labels)
		reg.MustRegister(v)
		return v
	}
	m := &metrics{
		requests: counter("mirror_requests_total",
			"Exchanges with live, as the client sees them. code is the HTTP status, of gRPC calls the gRPC status, error where live cut it and canceled where the client did.",
			"front", "route", "method", "code"),
		duration: histogram("mirror_request_duration_seconds",
			"From the first byte of a request to the last of live's answer. sampled: its author's bucket is under the sample; sending: copies left at its end.",
			"route", "sampled", "sending"),
		panics:       counter("mirror_panics_total", "Panics beside the relay. Each switches mirroring off.", "part"),
		marked:       prometheus.NewCounter(prometheus.CounterOpts{Name: "mirror_marked_requests_total", Help: "Requests that came marked as a copy, and were not copied."}),
		abandoned:    map[observe.Reason]prometheus.Counter{},
		unattributed: map[sample.Reason]prometheus.Counter{},
		guarded:      map[guard.Symptom]prometheus.Counter{},
	}
	reg.MustRegister(m.marked)
	abandoned := counter("mirror_observe_abandoned_total", "Connections that are relayed and no longer read, by why.", "reason")
	for _, r := range observe.Reasons() {
		m.abandoned[r] = abandoned.WithLabelValues(r.String())
	}
	unattributed := counter("mirror_unattributed_writes_total", "Exchanges on mirrored routes that may have changed the state of users whose key could not be read.", "reason")
	for _, r := range sample.UnattributedReasons() {
		m.unattributed[r] = unattributed.WithLabelValues(string(r))
	}
	guarded := counter("mirror_guard_trips_total", "How often the live guard switched mirroring off, by what it saw.", "symptom")
	for _, symptom := range guard.Symptoms() {
		m.guarded[symptom] = guarded.WithLabelValues(string(symptom))
	}
	for _, part := range panicking {
		m.panics.WithLabelValues(part)
	}
	return m
}

// registerIDs exports what the tables of ids count.
func (m *Mirror) registerIDs(reg prometheus.Registerer) {
	for _, f := range m.fronts {
		for role, table := range f.ids {
			if table == nil {
				continue
			}
			for outcome, count := range map[string]func(ids.Counts) uint64{
				"learned":   func(c ids.Counts) uint64 { return c.Learned },
				"rewritten": func(c ids.Counts) uint64 { return c.Rewritten },
				"unknown":   func(c ids.Counts) uint64 { return c.Unknown },
				"conflict":  func(c ids.Counts) uint64 { return c.Conflicts },
			} {
				reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
					Name:        "mirror_ids_total",
					Help:        "Ids that live and a role name differently: learned, rewritten, sent as they were for want of a twin, or learned to be another's.",
					ConstLabels: prometheus.Labels{"front": f.cfg.Name, "role": lanes.Role(role).String(), "outcome": outcome},
				}, func() float64 { return float64(count(table.Counts())) }))
			}
		}
	}
}

// routeStats are the series of one route on one front, looked up once.
type routeStats struct {
	requests *prometheus.CounterVec // of front and route
	duration [2][2]prometheus.Observer
	pairs    *pairs.Route
	grpc     bool // its codes are gRPC's

	mu sync.Mutex // serialises those who add to codes
	// codes is replaced and never changed.
	codes atomic.Pointer[map[statusKey]prometheus.Counter]
}

type statusKey struct {
	method uint8
	code   int16
}

var methods = []string{"other", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func methodIndex(m []byte) uint8 {
	for i := 1; i < len(methods); i++ {
		if string(m) == methods[i] {
			return uint8(i)
		}
	}
	return 0
}

// Codes that are no status.
const (
	codeError    = -1
	codeCanceled = -2
)

// codes are the statuses' names, made once.
var codes = func() (names [1000]string) {
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	return names
}()

func codeName(code int) string {
	switch {
	case code == codeCanceled:
		return "canceled"
	case code < 0 || code >= len(codes):
		return "error"
	}
	return codes[code]
}

// route returns the series of a route, all that are known beforehand at 0.
func (m *metrics) route(front, name string, of *pairs.Route) *routeStats {
	s := &routeStats{requests: m.requests.MustCurryWith(prometheus.Labels{"front": front, "route": name}), pairs: of, grpc: sample.IsMethod(name)}
	none := map[statusKey]prometheus.Counter{}
	s.codes.Store(&none)
	flags := [2]string{"false", "true"}
	for i, a := range flags {
		for j, b := range flags {
			s.duration[i][j] = m.duration.WithLabelValues(name, a, b)
		}
	}
	return s
}

func (s *routeStats) counter(k statusKey) prometheus.Counter {
	if c, ok := (*s.codes.Load())[k]; ok {
		return c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	more := maps.Clone(*s.codes.Load())
	s.add(more, k)
	if _, known := more[statusKey{k.method, codeError}]; !known {
		s.addAll(more, k.method)
	}
	s.codes.Store(&more)
	return more[k]
}

// prime puts the series of a method at 0.
func (s *routeStats) prime(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := maps.Clone(*s.codes.Load())
	s.addAll(more, methodIndex([]byte(method)))
	s.codes.Store(&more)
}

func (s *routeStats) add(to map[statusKey]prometheus.Counter, k statusKey) {
	to[k] = s.requests.WithLabelValues(methods[k.method], codeName(int(k.code)))
}

// addAll adds the codes that are watched: one that is not there before it counts
// hides its first failure from whoever takes rates.
func (s *routeStats) addAll(to map[statusKey]prometheus.Counter, method uint8) {
	codes := []int16{200, 500, 502, 503, 504, codeError, codeCanceled}
	if s.grpc {
		codes = []int16{0, 2, 4, 13, 14, codeError, codeCanceled} // OK, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE
	}
	for _, code := range codes {
		if k := (statusKey{method, code}); to[k] == nil {
			s.add(to, k)
		}
	}
}

// count counts an exchange that live has ended.
func (m *Mirror) count(x *observe.Exchange, p *passing) {
	s := p.route.stats
	s.counter(statusKey{methodIndex(x.Method()), liveCode(x)}).Inc()
	took, sending := x.Answer.Last.Sub(x.Request.First), m.sending.Load()
	if x.Answer.Complete {
		s.duration[b2i(p.sampled)][b2i(sending)].Observe(took.Seconds())
	}
	m.harm.observe(x, p.sampled)
	if m.told {
		s.pairs.Live(p.sampled, sending, took, x.Answer.Complete, effect(x) == lanes.Unknown)
	}
}

// liveCode is what live's answer counts as.
func liveCode(x *observe.Exchange) int16 {
	switch {
	case x.Answer.Complete && x.GRPC():
		if code, _, ok := x.GRPCStatus(); ok {
			return int16(code)
		}
		return codeError
	case x.Answer.Complete:
		return int16(x.Status)
	case x.Outcome == observe.ClientCut:
		return codeCanceled
	}
	return codeError
}
