package lanes

import "github.com/prometheus/client_golang/prometheus"

// Snapshot is what the lanes count, at one moment. For each role, Offered =
// Sent + the sum of Dropped + Pending.
type Snapshot struct {
	Offered, Sent [NumRoles]uint64
	Dropped       [NumRoles][NumReasons]uint64
	Pending       [NumRoles]int // offered, and neither sent nor dropped

	Copies int   // held, until both roles have ended with them
	Bytes  int64 // of these
	Lanes  int   // that are not empty

	Sample, Effective int32         // ppm: as set, and with those shed left out
	Known             int           // users seen: at Config.MaxUsers all others are taken for tainted
	Sampled           int           // of these, who are sampled and in
	Tainted           [NumRoles]int // who are in, and tainted
	Shed              int           // who are admitted, and left out
	Off               Reason        // why nothing is sent; NotDropped when on
}

func (c *core) snapshot() Snapshot {
	if c.stale {
		c.recount(c.threshold)
	}
	s := c.count
	s.Lanes = len(c.lanes)
	s.Sample, s.Effective = c.sample, min(c.sample, c.cap)
	s.Known = len(c.known)
	s.Sampled, s.Tainted, s.Shed = c.sampled, c.tainted, c.away
	s.Off = c.off
	return s
}

// Snapshot returns the counts, which are consistent with one another.
func (l *Lanes) Snapshot() (s Snapshot) {
	l.locked(func(c *core, _ int64) { s = c.snapshot() })
	return s
}

var (
	offeredDesc   = desc("mirror_copies_offered_total", "Exchanges that live has ended and that a route and the sampler admit.", "role")
	sentDesc      = desc("mirror_copies_sent_total", "Copies of which the first byte was written, or whose connect failed.", "role")
	droppedDesc   = desc("mirror_copies_dropped_total", "Copies that were offered and never sent.", "role", "reason")
	pendingDesc   = desc("mirror_copies_pending", "Copies that are offered, and neither sent nor dropped yet.", "role")
	bytesDesc     = desc("mirror_copies_pending_bytes", "Capacity held by copies that are pending or not answered.")
	lanesDesc     = desc("mirror_lanes", "Users with copies that are pending or not answered.")
	sampleDesc    = desc("mirror_sample_ppm", "Share of users who are to be mirrored and compared.")
	effectiveDesc = desc("mirror_sample_effective_ppm", "The same without the users who are shed.")
	sampledDesc   = desc("mirror_users_sampled", "Users seen who are sampled and not shed.")
	taintedDesc   = desc("mirror_users_tainted", "Users seen who are mirrored and whose state on the role is not known to equal live's.", "role")
	shedDesc      = desc("mirror_users_shed", "Users seen who are left out until the roles keep up.")
	enabledDesc   = desc("mirror_enabled", "1 while copies are sent, 0 while mirroring is off.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (l *Lanes) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		offeredDesc, sentDesc, droppedDesc, pendingDesc, bytesDesc, lanesDesc,
		sampleDesc, effectiveDesc, sampledDesc, taintedDesc, shedDesc, enabledDesc,
	} {
		ch <- d
	}
	l.wait.Describe(ch)
}

// Collect implements prometheus.Collector. All it reports is of one moment, so
// that the sum over a scrape is exact.
func (l *Lanes) Collect(ch chan<- prometheus.Metric) {
	s := l.Snapshot()
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for r := range NumRoles {
		role := r.String()
		counter(offeredDesc, s.Offered[r], role)
		counter(sentDesc, s.Sent[r], role)
		for why := NotDropped + 1; why < NumReasons; why++ {
			counter(droppedDesc, s.Dropped[r][why], role, why.String())
		}
		gauge(pendingDesc, float64(s.Pending[r]), role)
		gauge(taintedDesc, float64(s.Tainted[r]), role)
	}
	gauge(bytesDesc, float64(s.Bytes))
	gauge(lanesDesc, float64(s.Lanes))
	gauge(sampleDesc, float64(s.Sample))
	gauge(effectiveDesc, float64(s.Effective))
	gauge(sampledDesc, float64(s.Sampled))
	gauge(shedDesc, float64(s.Shed))
	enabled := 0.0
	if s.Off == NotDropped {
		enabled = 1
	}
	gauge(enabledDesc, enabled)
	l.wait.Collect(ch)
}
