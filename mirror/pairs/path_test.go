package pairs_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/internal/memnet"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/shadow"
)

// path is the way of a copy from the observer to a pair, as a mirror wires it.
type path struct {
	t        *testing.T
	lanes    *lanes.Lanes
	backends [lanes.NumRoles]*shadow.Backend
	pairs    *pairs.Pairs
	copies   int
	due      []*leg
}

// flight is a copy's payload.
type flight struct {
	copy shadow.Copy
	pair pairs.Pair
}

func (p *path) Request(*observe.Exchange) observe.Mode { return observe.Keep }
func (p *path) Answer(*observe.Exchange) observe.Mode  { return observe.Keep }
func (p *path) Abandoned(a observe.Abandonment)        { p.t.Error(a.Rule) }

// Done offers a copy of an exchange that live has ended.
func (p *path) Done(x *observe.Exchange) {
	own, ok := x.Take()
	if !ok {
		p.t.Error("no memory for an exchange")
		return
	}
	p.copies++
	f := &flight{copy: shadow.Copy{Calls: make([]shadow.Call, 1)}}
	f.copy.Calls[0].Observed(own, "/x")
	binary.BigEndian.PutUint64(f.copy.ID[:], uint64(p.copies))
	both := [lanes.NumRoles]bool{true, true}
	f.pair = pairs.Pair{Route: p.pairs.Route("/x"), ID: f.copy.ID, Live: own, Roles: both}
	user := lanes.User{ID: uint64(p.copies % 10)}
	cp := &lanes.Copy{
		Users: []lanes.User{user}, Author: true, Live: lanes.Did, Start: own.Request.First, End: own.Answer.Last, Roles: both, Payload: f,
		Release: func() { p.pairs.End(&f.pair); own.Release() },
	}
	for role, b := range p.backends {
		if !b.Ready() {
			cp.Drop[role] = lanes.BreakerOpen
		}
	}
	if !p.lanes.Offer(cp) {
		p.t.Error("not taken")
	}
}

// next is shadow.LoopConfig.Next.
func (p *path) next() *shadow.Job {
	if len(p.due) == 0 {
		d, ok := p.lanes.Take()
		if !ok {
			return nil
		}
		for _, role := range d.Roles() {
			p.due = append(p.due, &leg{p: p, copy: d.Copy, role: role})
		}
	}
	l := p.due[0]
	p.due = p.due[1:]
	b := p.backends[l.role]
	l.job = shadow.Job{Backend: b, Copy: &l.flight().copy, Outcome: b.NewOutcome(), Handler: l}
	return &l.job
}

// leg is a copy on its way to one role.
type leg struct {
	p      *path
	copy   *lanes.Copy
	role   lanes.Role
	job    shadow.Job
	judged bool
}

func (l *leg) flight() *flight { return l.copy.Payload.(*flight) }

func (l *leg) Begin() (ok bool) {
	l.judged, ok = l.p.lanes.Sent(l.copy, l.role)
	return ok
}

func (l *leg) End(err error) {
	p, o := l.p, l.job.Outcome
	switch err {
	case nil:
		effect := lanes.Unknown
		if o.Answers[len(o.Answers)-1].Err == nil {
			effect = lanes.Did
		}
		l.flight().pair.Answered(l.role, o, l.judged, false)
		p.lanes.Done(l.copy, l.role, effect)
	case shadow.ErrDropped: // by the lanes themselves
		o.Release()
	case shadow.ErrOpen:
		o.Release()
		p.lanes.Drop(l.copy, l.role, lanes.BreakerOpen)
	default:
		p.t.Errorf("send: %v", err)
	}
}

// TestPath takes exchanges all the way: every copy that was offered is counted
// once, every one that was sent makes a pair or is told to be incomplete.
func TestPath(t *testing.T) {
	for _, tt := range []struct {
		name     string
		shadow   http.HandlerFunc
		complete bool
		metrics  map[string]float64 // of mirror_pairs_total
	}{
		{"answers", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }, true, map[string]float64{"both_ok": 200}},
		{"fails", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", 500) }, true, map[string]float64{"shadow_only_failed": 200}},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network memnet.Network
				reg := prometheus.NewPedanticRegistry()
				p := &path{t: t, pairs: pairs.New(pairs.Config{Roles: [lanes.NumRoles]bool{true, true}}, reg)}
				metrics := shadow.NewMetrics(reg)
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				defer wg.Wait()
				for role, h := range map[lanes.Role]http.HandlerFunc{lanes.Shadow: tt.shadow, lanes.Control: func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }} {
					l, err := network.Host(role.String()).Listen(80)
					if err != nil {
						t.Fatal(err)
					}
					srv := &http.Server{Handler: h}
					wg.Go(func() { srv.Serve(l) })
					defer srv.Close()
					if p.backends[role], err = shadow.New(shadow.Config{Role: role.String(), Address: role.String() + ":80", Dial: network.Host("mirror").Dial, Metrics: metrics}); err != nil {
						t.Fatal(err)
					}
				}
				loop := shadow.NewLoop(shadow.LoopConfig{Next: p.next, Portable: true}, p.backends[:]...)
				var err error
				if p.lanes, err = lanes.Open(lanes.Config{Sample: 1_000_000, Due: loop.Wake}); err != nil {
					t.Fatal(err)
				}
				var lanesRun sync.WaitGroup
				lanesRun.Go(func() { p.lanes.Run(ctx) })
				lanesRun.Go(func() { loop.Run(ctx) })

				c := observe.New(observe.Config{}).Conn(p)
				for i := range 200 {
					c.FromClient(time.Now(), fmt.Appendf(nil, "GET /thread/%d HTTP/1.1\r\nHost: live\r\n\r\n", i))
					body := fmt.Sprintf("/thread/%d", i)
					c.FromLive(time.Now(), fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
					time.Sleep(time.Millisecond)
				}
				time.Sleep(time.Second)
				s := p.lanes.Snapshot()
				for role := range lanes.NumRoles {
					dropped := uint64(0)
					for _, n := range s.Dropped[role] {
						dropped += n
					}
					if s.Offered[role] != 200 || s.Offered[role] != s.Sent[role]+dropped || tt.complete && dropped > 0 {
						t.Errorf("%v: offered %d, sent %d, dropped %d", role, s.Offered[role], s.Sent[role], dropped)
					}
				}
				if !tt.complete && s.Dropped[lanes.Shadow][lanes.BreakerOpen] == 0 {
					t.Error("the breaker of a role that fails dropped nothing")
				}
				got, err := testutil.GatherAndCount(reg, "mirror_pairs_total")
				if err != nil || got != 4 {
					t.Errorf("got %d outcomes and %v, want 4", got, err)
				}
				families, _ := reg.Gather()
				for _, f := range families {
					for _, m := range f.Metric {
						if f.GetName() != "mirror_pairs_total" || !tt.complete {
							continue
						}
						if outcome := m.Label[0].GetValue(); m.Counter.GetValue() != tt.metrics[outcome] {
							t.Errorf("%s: got %v pairs, want %v", outcome, m.Counter.GetValue(), tt.metrics[outcome])
						}
					}
				}
				if err := p.lanes.Close(); err != nil {
					t.Error(err)
				}
				stop()
				lanesRun.Wait()
			})
		})
	}
}

func (*path) Ongoing(*observe.Exchange, bool) bool { return false }
