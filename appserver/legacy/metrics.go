package legacy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics of one server. Methods may be called from any number of goroutines.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// NewMetrics returns the metrics of a service that has methods, whose success has the
// code ok. reg may be nil.
func NewMetrics(reg prometheus.Registerer, k Kind, ok string, methods ...string) *Metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"service": string(k)}, reg)
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "legacy_requests_total", Help: "Calls that the old systems answered."}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "legacy_request_seconds", Help: "From a call of an old system to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 1.5, 28), NativeHistogramBucketFactor: 1.1}, []string{"method"}),
	}
	reg.MustRegister(m.requests, m.seconds)
	for _, method := range methods {
		m.requests.WithLabelValues(method, ok)
		m.seconds.WithLabelValues(method)
	}
	return m
}

// Answered counts a call that began at begin.
func (m *Metrics) Answered(method, code string, begin time.Time) {
	m.requests.WithLabelValues(method, code).Inc()
	m.seconds.WithLabelValues(method).Observe(time.Since(begin).Seconds())
}
