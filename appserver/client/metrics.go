package client

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
)

type metrics struct {
	calls   *prometheus.CounterVec
	seconds prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "appserver_forwarded_total", Help: "Calls made at other servers, each time that one was made."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "appserver_forward_seconds", Help: "From a call at another server to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 1.5, 28), NativeHistogramBucketFactor: 1.1}),
	}
	for _, result := range []string{"ok", "refused", "not_owner", "wrong_cell", "unreachable"} {
		m.calls.WithLabelValues(result)
	}
	reg.MustRegister(m.calls, m.seconds)
	return m
}

// forwarded counts an attempt by its end. refused is what the other server answered to
// the caller.
func (m *metrics) forwarded(err error, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if err == nil {
		m.calls.WithLabelValues("ok").Inc()
		return
	}
	result := "refused"
	s, _ := status.FromError(err)
	if s.Code() == codes.Unavailable || s.Code() == codes.Canceled {
		result = "unreachable"
	}
	for _, d := range s.Details() {
		switch d.(type) {
		case *messagesv1.NotOwner:
			result = "not_owner"
		case *messagesv1.WrongCell:
			result = "wrong_cell"
		case *messagesv1.OutcomeUnknown:
			result = "refused"
		}
	}
	m.calls.WithLabelValues(result).Inc()
}
