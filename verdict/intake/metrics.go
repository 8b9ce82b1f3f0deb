package intake

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	windows, pairs prometheus.Counter
	shed, cut      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, open func() float64) *metrics {
	records := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "verdict_stream_records_total", Help: "Records of pair streams that were taken in.",
	}, []string{"kind"})
	m := &metrics{
		windows: records.WithLabelValues("window"), pairs: records.WithLabelValues("pair"),
		shed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "verdict_stream_shed_total", Help: "Pairs that were not looked at, because they were too many.",
		}, []string{"reason"}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "verdict_streams_cut_total", Help: "Pair streams that were cut off.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{shedRate, shedQueue, shedMemory, shedLarge} {
		m.shed.WithLabelValues(reason)
	}
	for _, reason := range []string{cutToken, cutFormat, cutLarge, cutSilent, cutMany, cutRefused, cutReplaced, cutBroken} {
		m.cut.WithLabelValues(reason)
	}
	reg.MustRegister(records, m.shed, m.cut, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "verdict_streams", Help: "Pair streams that are connected.",
	}, open))
	return m
}
