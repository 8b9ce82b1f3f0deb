package mailbox

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	loads     *prometheus.CounterVec
	commits   *prometheus.CounterVec
	actions   prometheus.Histogram
	fenced    prometheus.Counter
	replayed  prometheus.Counter
	lookups   *prometheus.CounterVec
	size      prometheus.Gauge
	capacity  prometheus.Gauge
	evictions *prometheus.CounterVec
	entries   prometheus.Gauge
	delivery  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, capacity int64) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	counters := func(name, help string, labels []string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		for _, v := range values {
			c.WithLabelValues(v)
		}
		reg.MustRegister(c)
		return c
	}
	cache := prometheus.Labels{"cache": "mailbox"}
	cacheReg := prometheus.WrapRegistererWith(cache, reg)
	m := &metrics{
		loads: counters("mailbox_loads_total", "Mailboxes loaded from the store.", []string{"result"},
			"claimed", "kept", "lost", "corrupt", "failed"),
		commits: counters("mailbox_commits_total", "Puts of mutations and of metadata.", []string{"result"},
			"won", "refused", "fenced", "unknown"),
		actions: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "mailbox_commit_actions", Help: "Actions in one put.",
			Buckets: []float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256}, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160}),
		fenced:   prometheus.NewCounter(prometheus.CounterOpts{Name: "mailbox_fenced_total", Help: "Puts refused because another server had the row."}),
		replayed: prometheus.NewCounter(prometheus.CounterOpts{Name: "mailbox_replayed_actions_total", Help: "Actions that metadata lagged behind the log at a load."}),
		size:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "cache_size_bytes", Help: "About how much memory a cache takes."}),
		capacity: prometheus.NewGauge(prometheus.GaugeOpts{Name: "cache_capacity_bytes", Help: "The bound of a cache."}),
		entries:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "outbox_entries", Help: "Deliveries due of mailboxes in memory."}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "outbox_delivery_seconds", Help: "From an action to its durable delivery to one recipient.",
			Buckets: prometheus.ExponentialBuckets(0.001, 1.5, 24), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160}),
	}
	m.lookups = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cache_requests_total", Help: "Look-ups in a cache."}, []string{"result"})
	m.lookups.WithLabelValues("hit")
	m.lookups.WithLabelValues("miss")
	m.evictions = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cache_evictions_total", Help: "What a cache let go."}, []string{"reason"})
	m.evictions.WithLabelValues("size")
	m.evictions.WithLabelValues("lost")
	m.evictions.WithLabelValues("moved")
	cacheReg.MustRegister(m.lookups, m.evictions, m.size, m.capacity)
	reg.MustRegister(m.actions, m.fenced, m.replayed, m.entries, m.delivery)
	m.capacity.Set(float64(capacity))
	return m
}

func (m *metrics) lookup(hit bool) {
	if hit {
		m.lookups.WithLabelValues("hit").Inc()
	} else {
		m.lookups.WithLabelValues("miss").Inc()
	}
}
