package join

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/judge"
)

// state is an Experiment as a checkpoint has it.
type state struct {
	Mirrors    map[string]*mirror
	Open       []openState
	Closed     time.Time
	Routes     []string
	Names      []string
	Young, Old []byte
	Counts     Counts
	Sent, Lost uint64
}

type openState struct {
	Start      time.Time
	Sent, Lost uint64
	Window     []byte // a pairv1.Window
}

// MarshalBinary writes all that Restore needs to go on, but for the configuration.
func (e *Experiment) MarshalBinary() ([]byte, error) {
	s := state{
		Mirrors: e.mirrors, Closed: e.closed, Routes: slices.Sorted(maps.Keys(e.routes)), Names: e.users.names,
		Young: packed(e.users.young), Old: packed(e.users.old), Counts: e.counts, Sent: e.sent, Lost: e.lost,
	}
	for _, w := range e.open {
		b, err := proto.Marshal(w.message())
		if err != nil {
			return nil, err
		}
		s.Open = append(s.Open, openState{w.start, w.sent, w.lost, b})
	}
	return json.Marshal(s)
}

// Restore continues what MarshalBinary wrote; no mirror is connected. It is an
// error if b is damaged.
func Restore(cfg Config, b []byte) (*Experiment, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("state of an experiment: %w", err)
	}
	e := New(cfg)
	e.closed, e.counts, e.sent, e.lost = s.Closed, s.Counts, s.Sent, s.Lost
	for id, m := range s.Mirrors {
		m.Here = false
		if m.Differ == nil {
			m.Differ = map[string]*judge.Differences{}
		}
		e.mirrors[id] = m
	}
	for _, r := range s.Routes {
		e.routes[r] = true
	}
	e.users.names, e.users.young, e.users.old = s.Names, unpacked(s.Young), unpacked(s.Old)
	for _, o := range s.Open {
		var p pairv1.Window
		if err := proto.Unmarshal(o.Window, &p); err != nil {
			return nil, fmt.Errorf("state of an experiment: open window: %w", err)
		}
		w := newWindow(o.Start)
		w.sent, w.lost = o.Sent, o.Lost
		w.merge(&p, func(name string) string { return name })
		e.open = append(e.open, w)
	}
	return e, nil
}

// message is the window as a mirror would have sent it that had seen all of it,
// but that totals are of it alone: merge reads it.
func (w *window) message() *pairv1.Window {
	p := &pairv1.Window{
		StartTime: w.start.UnixNano(), Length: 1, Sending: w.sending, Sampling: w.sampling,
		Rig: &pairv1.Rig{RelayOverhead: pairstream.Histogram(&w.overhead), SendLateness: pairstream.Histogram(&w.lateness), Cpu: int64(w.cpu), CpuQuota: int64(w.quota)},
	}
	for name, r := range w.routes {
		p.Routes = append(p.Routes, r.message(name))
	}
	for wire, role := range roles {
		if a := w.accounts[role]; a != nil {
			to := &pairv1.Accounting{Role: wire, Offered: a.Offered, Sent: a.Sent}
			for reason, n := range a.Dropped {
				to.Dropped = append(to.Dropped, &pairv1.Loss{Reason: reason, Count: n})
			}
			p.Accounting = append(p.Accounting, to)
		}
		if u, ok := w.usage[role]; ok {
			p.Processes = append(p.Processes, &pairv1.Process{Role: wire, CpuSeconds: u.CPU.Seconds(), Allocations: u.Allocations, Requests: u.Requests})
		}
	}
	return p
}

func (r *route) message(name string) *pairv1.RouteWindow {
	p := &pairv1.RouteWindow{
		Route: name, Shadow: outcomesMessage(r.shadow), Control: outcomesMessage(r.control),
		Differences: &pairv1.Differences{Same: r.differences.Same, ShadowOnly: r.differences.ShadowOnly, ControlOnly: r.differences.ControlOnly, Both: r.differences.Both},
		Unjudged:    r.unjudged, Apart: r.apart, Incomplete: r.incomplete, Shipped: r.shipped, Unshared: r.unshared, UnknownIds: r.unknownIDs,
	}
	for wire, role := range roles {
		if l := r.latency[role]; l != nil {
			p.Pairs = append(p.Pairs, &pairv1.RoleLatency{Role: wire, Durations: pairstream.Histogram(&l.durations), Timeouts: l.timeouts})
		}
	}
	for sampled := range r.live {
		for sending := range r.live[sampled] {
			if t := &r.live[sampled][sending]; t.requests > 0 {
				p.Live = append(p.Live, &pairv1.LiveTraffic{Sampled: sampled == 1, Sending: sending == 1,
					Durations: pairstream.Histogram(&t.durations), Requests: t.requests, Failed: t.failed})
			}
		}
	}
	return p
}

func outcomesMessage(o judge.Outcomes) *pairv1.Outcomes {
	return &pairv1.Outcomes{BothOk: o.BothOK, RoleOnlyFailed: o.RoleOnlyFailed, LiveOnlyFailed: o.LiveOnlyFailed, BothFailed: o.BothFailed}
}
