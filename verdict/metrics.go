package verdict

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/verdict/judge"
)

// Why a record was discarded: label values, a closed set.
const (
	discardLate   = "late"   // its time has been judged already
	discardClock  = "clock"  // it is of a time that is not near
	discardAgain  = "again"  // it was there before
	discardMemory = "memory" // memory is short
)

// maxSeries bounds the series of verdict_differences_total.
const maxSeries = 200

// serverMetrics are those of the package.
type serverMetrics struct {
	evaluated                         prometheus.Gauge
	stateBroken                       prometheus.Gauge
	discarded                         *prometheus.CounterVec
	hookSent, hookFailed, hookDropped prometheus.Counter
}

func newServerMetrics(reg prometheus.Registerer, s *Server) *serverMetrics {
	hook := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "verdict_webhook_total", Help: "Changes that the webhook was to be told of, by what became of it.",
	}, []string{"result"})
	m := &serverMetrics{
		evaluated: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "verdict_last_evaluation_timestamp_seconds", Help: "When a comparison was judged last.",
		}),
		stateBroken: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "verdict_state_broken", Help: "1 while the state can't be written: a restart would lose what came since.",
		}),
		discarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "verdict_records_discarded_total", Help: "Records of pair streams that came and are no evidence.",
		}, []string{"reason"}),
		hookSent: hook.WithLabelValues("sent"), hookFailed: hook.WithLabelValues("failed"), hookDropped: hook.WithLabelValues("dropped"),
	}
	for _, reason := range []string{discardLate, discardClock, discardAgain, discardMemory} {
		m.discarded.WithLabelValues(reason)
	}
	reg.MustRegister(m.evaluated, m.stateBroken, m.discarded, hook, published{s})
	return m
}

// published collects what the server has published last.
type published struct{ s *Server }

var (
	stateDesc  = prometheus.NewDesc("verdict_state", "1 for the state that a comparison is in.", []string{"comparison", "state"}, nil)
	blocksDesc = prometheus.NewDesc("verdict_blocks", "Blocks of evidence.", []string{"comparison"}, nil)
	pairsDesc  = prometheus.NewDesc("verdict_pairs_total", "Pairs by how their answers compare, or why they were not compared.", []string{"comparison", "route", "result"}, nil)
	differDesc = prometheus.NewDesc("verdict_differences_total", "Answers of shadow that differ from live's, by field.", []string{"route", "field", "kind"}, nil)
	lostDesc   = prometheus.NewDesc("verdict_stream_lost_total", "Records that mirrors sent and that are missing.", []string{"comparison"}, nil)
	twoDesc    = prometheus.NewDesc("verdict_pairs_unordered_total", "Pairs that were not compared, as their user is on two mirrors.", []string{"comparison"}, nil)

	metricLabels = []string{"comparison", "route", "metric", "stat"}
	effectDesc   = prometheus.NewDesc("verdict_effect_ratio", "How much more the system on trial takes: 0.1 is 10 %. Of errors and differences, a share of calls.", metricLabels, nil)
	lowerDesc    = prometheus.NewDesc("verdict_effect_lower_ratio", "Lower bound of verdict_effect_ratio.", metricLabels, nil)
	upperDesc    = prometheus.NewDesc("verdict_effect_upper_ratio", "Upper bound of verdict_effect_ratio.", metricLabels, nil)
	marginDesc   = prometheus.NewDesc("verdict_margin_ratio", "How much verdict_effect_ratio may be.", metricLabels, nil)
)

// Describe implements prometheus.Collector.
func (published) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, blocksDesc, pairsDesc, differDesc, lostDesc, twoDesc, effectDesc, lowerDesc, upperDesc, marginDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p published) Collect(ch chan<- prometheus.Metric) {
	differences := map[seriesKey]uint64{}
	for _, c := range p.s.Comparisons() {
		for _, state := range states {
			ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, float64(flag(state == c.State)), c.Name, state)
		}
		for route, n := range c.pairs {
			for i, result := range pairResults {
				ch <- prometheus.MustNewConstMetric(pairsDesc, prometheus.CounterValue, float64(n[i]), c.Name, route, result)
			}
		}
		ch <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(c.Counts.Lost), c.Name)
		ch <- prometheus.MustNewConstMetric(twoDesc, prometheus.CounterValue, float64(c.Counts.Unordered), c.Name)
		if d := c.Running; d != nil {
			ch <- prometheus.MustNewConstMetric(blocksDesc, prometheus.GaugeValue, float64(d.Rig.Blocks), c.Name)
			differenceSeries(differences, d, maxSeries)
			rows(ch, c.Name, d.Metrics)
		}
	}
	for key, n := range differences {
		ch <- prometheus.MustNewConstMetric(differDesc, prometheus.CounterValue, float64(n), key.route, key.field, key.kind)
	}
}

// rows collects the rows of a document; each name, stat and route is there once.
func rows(ch chan<- prometheus.Metric, comparison string, metrics []judge.Metric) {
	var seen [][3]string
	for i := range metrics {
		m := &metrics[i]
		key := [3]string{m.Route, m.Name, m.Stat}
		if slices.Contains(seen, key) {
			continue // a scrape with a series twice fails as a whole
		}
		seen = append(seen, key)
		gauge := func(d *prometheus.Desc, v *float64) {
			if v != nil {
				ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, *v, comparison, m.Route, m.Name, m.Stat)
			}
		}
		gauge(effectDesc, m.Effect)
		if m.CI != nil {
			gauge(lowerDesc, &m.CI.Lower)
			gauge(upperDesc, &m.CI.Upper)
		}
		gauge(marginDesc, &m.Margin)
	}
}
