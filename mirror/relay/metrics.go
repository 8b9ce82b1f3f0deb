package relay

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"darklaunch/internal/hist"
)

// Metrics are what one or several Relays of a program count in.
type Metrics struct {
	connections, closed, dialFailures, acceptFailures, panics *prometheus.CounterVec
	open, unobserved                                          prometheus.Gauge
	overhead                                                  *hist.Collector
}

// NewMetrics registers the metrics of the fronts. A nil reg registers nothing.
func NewMetrics(reg prometheus.Registerer, fronts ...string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"front"}, labels...))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &Metrics{
		connections: counter("mirror_connections_total",
			"Client connections by protocol, counted when it is known; unseen at the end of one that no observer could tell.", "protocol"),
		closed: counter("mirror_connections_closed_total",
			"Client connections that ended, by why; those over a limit never were open.", "reason"),
		dialFailures:   counter("mirror_live_dial_failures_total", "Attempts to connect to one address of live that failed.", "reason"),
		acceptFailures: counter("mirror_accept_failures_total", "Accepts that failed, for want of file descriptors above all."),
		panics:         counter("mirror_observer_panics_total", "Panics of observers. Their connections went on unobserved."),
		open:           gauge("mirror_connections_open", "Client connections that are open."),
		unobserved:     gauge("mirror_connections_unobserved", "Connections open to live that no observer reads."),
		overhead: hist.NewCollector(hist.Opts{
			Name: "mirror_relay_overhead_seconds",
			Help: "From the moment that bytes of one side were found to be there until they were written to the other. " +
				"Bytes that the other side was too slow to take at once are not in it.",
		}),
	}
	for _, front := range fronts {
		m.front(front) // all series from the start
	}
	if reg != nil {
		reg.MustRegister(m.connections, m.closed, m.dialFailures, m.acceptFailures, m.panics, m.open, m.unobserved, m.overhead)
	}
	return m
}

// Overhead returns what adds to a Hist how long bytes were held back since the
// call before: mirror_relay_overhead_seconds, for a reader in this process.
func (m *Metrics) Overhead() func(into *hist.Hist) { return m.overhead.Tap() }

// Unobserved returns mirror_connections_unobserved.
func (m *Metrics) Unobserved() int {
	var d dto.Metric
	if m.unobserved.Write(&d) != nil {
		return 0
	}
	return int(d.GetGauge().GetValue())
}

// frontMetrics are the series of one front, looked up once.
type frontMetrics struct {
	*Metrics
	protocols      map[string]prometheus.Counter
	closed         [len(causeNames)]prometheus.Counter
	dialFailures   map[string]prometheus.Counter
	acceptFailures prometheus.Counter
	panics         prometheus.Counter
}

func (m *Metrics) front(front string) frontMetrics {
	f := frontMetrics{
		Metrics:        m,
		protocols:      make(map[string]prometheus.Counter),
		dialFailures:   make(map[string]prometheus.Counter),
		acceptFailures: m.acceptFailures.WithLabelValues(front),
		panics:         m.panics.WithLabelValues(front),
	}
	for _, p := range []string{HTTP1, HTTP2, Opaque, Unseen} {
		f.protocols[p] = m.connections.WithLabelValues(front, p)
	}
	for c := Ended; c < Darkened; c++ {
		f.closed[c] = m.closed.WithLabelValues(front, c.String())
	}
	for _, reason := range dialReasons {
		f.dialFailures[reason] = m.dialFailures.WithLabelValues(front, reason)
	}
	return f
}

// protocol returns the counter of p; what is no protocol of ours is opaque.
func (f *frontMetrics) protocol(p string) prometheus.Counter {
	if c, ok := f.protocols[p]; ok {
		return c
	}
	return f.protocols[Opaque]
}

// sharedRecorder is a Recorder that several goroutines write.
type sharedRecorder struct {
	mu sync.Mutex
	r  *hist.Recorder
}

func (s *sharedRecorder) record(d time.Duration) {
	s.mu.Lock()
	s.r.Record(d)
	s.mu.Unlock()
}
