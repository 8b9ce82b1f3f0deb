package join

import (
	"maps"
	"slices"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/judge"
)

// window adds up what mirrors saw in the same stretch of time.
type window struct {
	start      time.Time
	routes     map[string]*route
	accounts   map[judge.Role]*judge.Account
	usage      map[judge.Role]judge.Usage
	sent, lost uint64 // records of the streams

	lateness, overhead hist.Hist
	cpu, quota         time.Duration
	sending, sampling  bool
}

type route struct {
	latency         map[judge.Role]*latency
	shadow, control judge.Outcomes
	differences     differences
	live            [2][2]traffic // by sampled, sending

	unjudged, apart, incomplete, shipped, unshared, unknownIDs uint64
}

type latency struct {
	durations hist.Hist
	timeouts  uint64
}

type traffic struct {
	durations        hist.Hist
	requests, failed uint64
}

type differences judge.Differences

func (d *differences) add(o *judge.Differences) {
	d.Same += o.Same
	d.ShadowOnly += o.ShadowOnly
	d.ControlOnly += o.ControlOnly
	d.Both += o.Both
}

func newWindow(start time.Time) *window {
	return &window{start: start, routes: map[string]*route{}, accounts: map[judge.Role]*judge.Account{}, usage: map[judge.Role]judge.Usage{}}
}

func (w *window) route(name string) *route {
	r := w.routes[name]
	if r == nil {
		r = &route{latency: map[judge.Role]*latency{}}
		w.routes[name] = r
	}
	return r
}

// roles are the stream's; what is not here is nobody's.
var roles = map[pairv1.Role]judge.Role{
	pairv1.Role_ROLE_LIVE: judge.Live, pairv1.Role_ROLE_SHADOW: judge.Shadow, pairv1.Role_ROLE_CONTROL: judge.Control,
}

// merge adds a window in which totals have become what happened in it. name says
// under which route something is counted.
func (w *window) merge(p *pairv1.Window, name func(string) string) {
	for _, r := range p.GetRoutes() {
		w.route(name(r.GetRoute())).merge(r)
	}
	for _, a := range p.GetAccounting() {
		role, ok := roles[a.GetRole()]
		if !ok {
			continue
		}
		to := w.accounts[role]
		if to == nil {
			to = &judge.Account{Role: role, Dropped: map[string]uint64{}}
			w.accounts[role] = to
		}
		to.Offered += a.GetOffered()
		to.Sent += a.GetSent()
		for _, d := range a.GetDropped() {
			if _, ok := to.Dropped[d.GetReason()]; ok || len(to.Dropped) < 64 {
				to.Dropped[d.GetReason()] += d.GetCount()
			}
		}
	}
	for _, p := range p.GetProcesses() {
		if role, ok := roles[p.GetRole()]; ok {
			u := w.usage[role]
			u.CPU += time.Duration(min(max(p.GetCpuSeconds(), 0), 1e6) * float64(time.Second))
			u.Allocations += p.GetAllocations()
			u.Requests += p.GetRequests()
			w.usage[role] = u
		}
	}
	add(&w.overhead, p.GetRig().GetRelayOverhead())
	add(&w.lateness, p.GetRig().GetSendLateness())
	w.cpu += time.Duration(p.GetRig().GetCpu())
	w.quota += time.Duration(p.GetRig().GetCpuQuota())
	w.sending = w.sending || p.GetSending()
	w.sampling = w.sampling || p.GetSampling()
}

// add merges what Check has let through.
func add(to *hist.Hist, h *pairv1.Histogram) { _ = pairstream.Merge(to, h) }

func (r *route) merge(p *pairv1.RouteWindow) {
	for _, l := range p.GetPairs() {
		role, ok := roles[l.GetRole()]
		if !ok {
			continue
		}
		if r.latency[role] == nil {
			r.latency[role] = new(latency)
		}
		add(&r.latency[role].durations, l.GetDurations())
		r.latency[role].timeouts += l.GetTimeouts()
	}
	outcomes(&r.shadow, p.GetShadow())
	outcomes(&r.control, p.GetControl())
	d := p.GetDifferences()
	r.differences.add(&judge.Differences{Same: d.GetSame(), ShadowOnly: d.GetShadowOnly(), ControlOnly: d.GetControlOnly(), Both: d.GetBoth()})
	for _, l := range p.GetLive() {
		t := &r.live[index(l.GetSampled())][index(l.GetSending())]
		add(&t.durations, l.GetDurations())
		t.requests += l.GetRequests()
		t.failed += l.GetFailed()
	}
	r.unjudged += p.GetUnjudged()
	r.apart += p.GetApart()
	r.incomplete += p.GetIncomplete()
	r.shipped += p.GetShipped()
	r.unshared += p.GetUnshared()
	r.unknownIDs += p.GetUnknownIds()
}

func outcomes(to *judge.Outcomes, o *pairv1.Outcomes) {
	to.BothOK += o.GetBothOk()
	to.RoleOnlyFailed += o.GetRoleOnlyFailed()
	to.LiveOnlyFailed += o.GetLiveOnlyFailed()
	to.BothFailed += o.GetBothFailed()
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// judged is the window as the judge takes it; the histograms are shared.
func (w *window) judged(length, offset time.Duration) judge.Window {
	out := judge.Window{
		Start: w.start, Length: length, Routes: make(map[string]judge.Route, len(w.routes)), Usage: w.usage,
		Rig: judge.RigWindow{
			StreamSent: w.sent, StreamLost: w.lost, CPU: w.cpu, Quota: w.quota,
			ClockOffset: offset, Sending: w.sending, Sampling: w.sampling,
		},
	}
	if w.lateness.Count() > 0 {
		out.Rig.Lateness = &w.lateness
	}
	if w.overhead.Count() > 0 {
		out.Rig.Overhead = &w.overhead
	}
	for _, role := range slices.Sorted(maps.Keys(w.accounts)) {
		out.Rig.Accounts = append(out.Rig.Accounts, *w.accounts[role])
	}
	for name, r := range w.routes {
		out.Routes[name] = r.judged()
	}
	return out
}

func (r *route) judged() judge.Route {
	out := judge.Route{
		Latency: map[judge.Role]judge.Latency{}, Shadow: r.shadow, Control: r.control, Differences: judge.Differences(r.differences),
		Unjudged: r.unjudged, Apart: r.apart, Incomplete: r.incomplete, Shipped: r.shipped, Unshared: r.unshared, UnknownIDs: r.unknownIDs,
	}
	for role, l := range r.latency {
		out.Latency[role] = judge.Latency{Durations: &l.durations, Timeouts: l.timeouts}
	}
	for sampled := range r.live {
		for sending := range r.live[sampled] {
			if t := &r.live[sampled][sending]; t.requests > 0 {
				out.Live = append(out.Live, judge.Traffic{Sampled: sampled == 1, Sending: sending == 1, Durations: &t.durations, Requests: t.requests, Failed: t.failed})
			}
		}
	}
	return out
}
