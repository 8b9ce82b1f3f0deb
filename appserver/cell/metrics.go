package cell

import (
	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/appserver/ring"
)

type metrics struct {
	members prometheus.Gauge
	changes *prometheus.CounterVec
	moved   prometheus.Gauge
	info    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, cell string) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	m := &metrics{
		members: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ring_members", Help: "Servers in the ring as this one sees it."}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ring_changes_total", Help: "Members that came, went or changed, and changes of the live configuration."}, []string{"type"}),
		moved:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "ring_moved_ratio", Help: "Share of partitions that the last change of members gave to another."}),
		info:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "ring_view_info", Help: "The hash of the ring as this server sees it; 1."}, []string{"hash"}),
	}
	for _, t := range []string{"join", "leave", "replace", "config"} {
		m.changes.WithLabelValues(t)
	}
	prometheus.WrapRegistererWith(prometheus.Labels{"cell": cell}, reg).MustRegister(m.members, m.changes, m.moved, m.info)
	return m
}

// change counts what another view brings.
func (m *metrics) change(from, to View) {
	for _, is := range to.Ring.Members() {
		was, ok := from.Ring.Member(is.Name)
		switch {
		case !ok:
			m.changes.WithLabelValues("join").Inc()
		case was != is:
			m.changes.WithLabelValues("replace").Inc()
		}
	}
	for _, was := range from.Ring.Members() {
		if _, ok := to.Ring.Member(was.Name); !ok {
			m.changes.WithLabelValues("leave").Inc()
		}
	}
	if from.Config != to.Config {
		m.changes.WithLabelValues("config").Inc()
	}
	if from.Ring.Hash() != to.Ring.Hash() {
		m.moved.Set(float64(to.Ring.Moved(from.Ring)) / ring.Partitions)
	}
	m.members.Set(float64(to.Ring.Len()))
	m.info.Reset()
	m.info.WithLabelValues(to.Ring.Hash()).Set(1)
}
