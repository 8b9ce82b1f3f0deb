package pairs

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// Route counts what is seen of one route.
type Route struct {
	cfg     RouteConfig
	headers [][]byte
	salt    string // of who is in the share
	metrics routeMetrics

	mu     sync.Mutex
	now    window
	traced time.Time // when a pair last told its traces
}

// numSides is the roles and live, which is the last.
const numSides = int(lanes.NumRoles) + 1

// window is what was counted since the last cut. The histograms are kept.
type window struct {
	used     bool
	took     [numSides]hist.Hist
	timeouts [numSides]uint64
	outcomes [lanes.NumRoles]outcomes
	differ   struct{ same, shadowOnly, controlOnly, both uint64 }
	live     [2][2]liveTraffic // sampled, sending

	unjudged, apart, incomplete, shipped, unshared, unknownIDs uint64
}

type outcomes struct{ bothOK, roleOnly, liveOnly, bothFailed uint64 }

type liveTraffic struct {
	took             hist.Hist
	requests, failed uint64
}

func newRoute(p *Pairs, cfg RouteConfig) *Route {
	r := &Route{cfg: cfg, salt: streamSalt(p.cfg.Salt, cfg.Name)}
	for _, name := range headers(cfg) {
		r.headers = append(r.headers, []byte(name))
	}
	r.metrics = p.metrics.route(cfg.Name, p.cfg.Roles)
	p.metrics.share.WithLabelValues(cfg.Name).Set(float64(share(cfg)) / sample.Buckets)
	return r
}

// streamSalt is the salt by which a route's share of users is chosen: the
// sampler's would choose those first who were sampled first.
func streamSalt(salt, route string) string { return salt + "\x00pairs\x00" + route }

// Partial reports whether pairs of some users alone are shipped, so that
// Pair.Author is looked at.
func (r *Route) Partial() bool { return r.cfg.Elsewhere && share(r.cfg) < sample.Buckets }

// shares reports whether pairs of that author are shipped.
func (r *Route) shares(author string) bool {
	return share(r.cfg) == sample.Buckets || sample.Bucket(r.salt, author) < share(r.cfg)
}

// Live counts an exchange of live, mirrored or not: its author's bucket is under
// the set sample, copies are sent at the time, live answered, or did not or cut
// it. took counts if it answered.
func (r *Route) Live(sampled, sending bool, took time.Duration, answered, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now.used = true
	t := &r.now.live[index(sampled)][index(sending)]
	t.requests++
	if answered {
		t.took.Record(took)
	}
	if failed || !answered {
		t.failed++
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// count takes what a pair says into the window and the metrics.
func (r *Route) count(t *told) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &r.now
	w.used = true
	switch {
	case !t.complete:
		w.incomplete++
		return
	case !t.judged:
		w.unjudged++
		return
	case t.unknownIDs:
		w.unknownIDs++
		return
	}
	r.countOutcomes(t)
	if r.cfg.Elsewhere {
		return
	}
	switch shadow, control := t.differs[lanes.Shadow], t.differs[lanes.Control]; {
	case shadow && control:
		w.differ.both++
	case shadow:
		w.differ.shadowOnly++
	case control:
		w.differ.controlOnly++
	default:
		w.differ.same++
	}
}

func (r *Route) countOutcomes(t *told) {
	w := &r.now
	for role, in := range t.roles {
		if !in {
			continue
		}
		o := &w.outcomes[role]
		switch {
		case t.failed[role] && t.liveFailed:
			o.bothFailed++
		case t.failed[role]:
			o.roleOnly++
		case t.liveFailed:
			o.liveOnly++
		default:
			o.bothOK++
		}
	}
	r.metrics.outcome(t)
	if t.apart {
		w.apart++
		return
	}
	live, copies := r.traces(t)
	r.took(numSides-1, t.liveTook, live)
	for role, in := range t.roles {
		switch {
		case !in:
		case t.timeout[role]:
			w.timeouts[role]++
		case t.took[role] >= 0:
			r.took(role, t.took[role], copies)
		}
	}
}

// traces are the pair's, once a second: so many are enough to look at.
func (r *Route) traces(t *told) (live, copies string) {
	at := t.of.Live.Answer.Last
	if at.Sub(r.traced) < time.Second {
		return "", ""
	}
	if live, copies = t.traces(); live != "" {
		r.traced = at
	}
	return live, copies
}

func (r *Route) took(side int, d time.Duration, trace string) {
	r.now.took[side].Record(d)
	switch m := r.metrics.took[side]; {
	case m == nil:
	case trace == "":
		m.Observe(d.Seconds())
	default:
		m.(prometheus.ExemplarObserver).ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": trace})
	}
}

// ship counts a pair that is compared elsewhere, and reports whether its author
// is in the share whose pairs are shipped.
func (r *Route) ship(author string) bool {
	shared := r.shares(author)
	r.mu.Lock()
	defer r.mu.Unlock()
	if shared {
		r.now.shipped++
	} else {
		r.now.unshared++
	}
	return shared
}

// roles are the sides' names on the wire.
var roles = [numSides]pairv1.Role{pairv1.Role_ROLE_SHADOW, pairv1.Role_ROLE_CONTROL, pairv1.Role_ROLE_LIVE}

// cut returns what was counted since the last cut, or nil if nothing was.
func (r *Route) cut() *pairv1.RouteWindow {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &r.now
	if !w.used {
		return nil
	}
	out := &pairv1.RouteWindow{
		Route: r.cfg.Name, Shadow: w.outcomes[lanes.Shadow].message(), Control: w.outcomes[lanes.Control].message(),
		Differences: &pairv1.Differences{Same: w.differ.same, ShadowOnly: w.differ.shadowOnly, ControlOnly: w.differ.controlOnly, Both: w.differ.both},
		Unjudged:    w.unjudged, Apart: w.apart, Incomplete: w.incomplete, Shipped: w.shipped, Unshared: w.unshared, UnknownIds: w.unknownIDs,
	}
	for i := range w.took {
		if w.took[i].Count() > 0 || w.timeouts[i] > 0 {
			out.Pairs = append(out.Pairs, &pairv1.RoleLatency{Role: roles[i], Durations: pairstream.Histogram(&w.took[i]), Timeouts: w.timeouts[i]})
		}
		w.took[i].Reset()
	}
	for sampled := range w.live {
		for sending := range w.live[sampled] {
			t := &w.live[sampled][sending]
			if t.requests > 0 {
				out.Live = append(out.Live, &pairv1.LiveTraffic{Sampled: sampled == 1, Sending: sending == 1,
					Durations: pairstream.Histogram(&t.took), Requests: t.requests, Failed: t.failed})
			}
			t.took.Reset()
		}
	}
	w.reset()
	return out
}

// reset clears all but the histograms, which are empty and keep their memory.
func (w *window) reset() {
	took, live := w.took, w.live
	for i := range live {
		for k := range live[i] {
			live[i][k].requests, live[i][k].failed = 0, 0
		}
	}
	*w = window{took: took, live: live}
}

func (o *outcomes) message() *pairv1.Outcomes {
	if *o == (outcomes{}) {
		return nil
	}
	return &pairv1.Outcomes{BothOk: o.bothOK, RoleOnlyFailed: o.roleOnly, LiveOnlyFailed: o.liveOnly, BothFailed: o.bothFailed}
}

// metrics are those of the package.
type metrics struct {
	outcomes *prometheus.CounterVec
	took     *prometheus.HistogramVec
	share    *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer, streams []*Stream) *metrics {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mirror_pairs_total", Help: "Complete, judged pairs by who failed: live or shadow.",
		}, []string{"route", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mirror_pair_request_duration_seconds", Help: "Durations on each role of complete, judged pairs that were sent at most a second apart.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"role", "route"}),
		share: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mirror_pairs_stream_share", Help: "Share of users whose pairs are shipped to be compared elsewhere.",
		}, []string{"route"}),
	}
	reg.MustRegister(m.outcomes, m.took, m.share, losses(streams))
	return m
}

type routeMetrics struct {
	bothOK, shadowOnly, liveOnly, bothFailed prometheus.Counter
	took                                     [numSides]prometheus.Observer
}

func (m *metrics) route(name string, in [lanes.NumRoles]bool) (r routeMetrics) {
	if in[lanes.Shadow] {
		r.bothOK = m.outcomes.WithLabelValues(name, "both_ok")
		r.shadowOnly = m.outcomes.WithLabelValues(name, "shadow_only_failed")
		r.liveOnly = m.outcomes.WithLabelValues(name, "live_only_failed")
		r.bothFailed = m.outcomes.WithLabelValues(name, "both_failed")
	}
	for role, in := range in {
		if in {
			r.took[role] = m.took.WithLabelValues(lanes.Role(role).String(), name)
		}
	}
	r.took[numSides-1] = m.took.WithLabelValues("live", name)
	return r
}

func (m *routeMetrics) outcome(t *told) {
	if !t.roles[lanes.Shadow] || m.bothOK == nil {
		return
	}
	switch failed := t.failed[lanes.Shadow]; {
	case failed && t.liveFailed:
		m.bothFailed.Inc()
	case failed:
		m.shadowOnly.Inc()
	case t.liveFailed:
		m.liveOnly.Inc()
	default:
		m.bothOK.Inc()
	}
}
