// Package pairs matches what live, shadow and control made of one exchange,
// counts how that compares, and tells a verdict: each second what was counted,
// and those pairs that are worth a look.
//
// A Pair is made when a copy is offered, gets each role's outcome as it comes, and
// ends when the lanes let go of the copy; so what waits to be matched is bounded
// by them. Routes whose answers should be equal as they are are compared here, and
// only pairs that differ leave, and a few that do not for audit. Pairs of routes
// with masks or a translation leave to be compared elsewhere.
//
// What is counted goes into windows of a second, and is also exported. Nothing
// here waits for who reads it: streams drop what they have no room for, and say so.
package pairs

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/record"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// Config describes the pairs of one mirror.
type Config struct {
	// Roles are those that get copies.
	Roles [lanes.NumRoles]bool
	// Routes are those that are configured. Others are compared here, by the
	// default headers.
	Routes []RouteConfig
	// Salt is the sampler's: from it follows who is in a route's share.
	Salt string
	// Record says what of a pair may be shown. Nil ships no pairs.
	Record *record.Policy
	// Audit is how many equal pairs one stands for. Zero means 1000.
	Audit uint64
	// MaxPairs bounds the pairs put on the streams in a second, as writing one
	// down costs CPU time beside the relay. Zero means 200.
	MaxPairs int
	// Streams get windows and pairs.
	Streams []*Stream
	// Fill completes a window with what others count: accounting, users, rig,
	// processes, sending, sampling. Nil leaves it as it is.
	Fill func(*pairv1.Window)
}

// RouteConfig is how one route is treated.
type RouteConfig struct {
	Name string
	// Headers are compared beside status, body and trailers, in lower case. Nil
	// means content-type.
	Headers []string
	// Elsewhere ships pairs instead of comparing them: the route has masks or a
	// translation.
	Elsewhere bool
	// Masks are where answers may differ, for who compares them elsewhere.
	Masks []*pairv1.Mask
	// Share is the share of users whose pairs are shipped, in ppm. It is not
	// changed while the mirror runs, so that rates stay unbiased. Zero means all.
	Share int32
	// RulesHash names the rules that the route has, if any.
	RulesHash []byte
	// Unsafe says that its unsafe exchanges are copied.
	Unsafe bool
}

const (
	defaultAudit = 1000
	defaultPairs = 200
	// maxApart is how far apart copies may be sent to be compared for latency.
	maxApart = time.Second
)

// Pairs is safe for any number of goroutines.
type Pairs struct {
	cfg     Config
	metrics *metrics

	mu     sync.RWMutex // guards the rest
	routes map[string]*Route

	budget budget
}

// budget bounds the pairs put on the streams in a window.
type budget struct {
	mu   sync.Mutex
	left int
}

// New returns the pairs of a mirror, with metrics registered with reg.
func New(cfg Config, reg prometheus.Registerer) *Pairs {
	if cfg.Audit == 0 {
		cfg.Audit = defaultAudit
	}
	if cfg.MaxPairs == 0 {
		cfg.MaxPairs = defaultPairs
	}
	p := &Pairs{cfg: cfg, metrics: newMetrics(reg, cfg.Streams), routes: map[string]*Route{}, budget: budget{left: cfg.MaxPairs}}
	for _, r := range cfg.Routes {
		p.routes[r.Name] = newRoute(p, r)
	}
	return p
}

// Route returns the route of that name. The caller keeps it: the names must be
// of a bounded set.
func (p *Pairs) Route(name string) *Route {
	p.mu.RLock()
	r := p.routes[name]
	p.mu.RUnlock()
	if r != nil {
		return r
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.routes[name] == nil {
		p.routes[name] = newRoute(p, RouteConfig{Name: name})
	}
	return p.routes[name]
}

// Header describes the routes for a stream's header, in which the caller puts
// the rest.
func (p *Pairs) Header() []*pairv1.Route {
	var all []*pairv1.Route
	for _, r := range p.cfg.Routes {
		all = append(all, &pairv1.Route{Name: r.Name, RulesHash: r.RulesHash, Compared: !r.Elsewhere, StreamSharePpm: uint32(share(r)), Unsafe: r.Unsafe, Headers: headers(r), Masks: r.Masks})
	}
	return all
}

func headers(r RouteConfig) []string {
	if r.Headers == nil {
		return []string{"content-type"}
	}
	return r.Headers
}

func share(r RouteConfig) int32 {
	if r.Share <= 0 {
		return sample.Buckets
	}
	return min(r.Share, sample.Buckets)
}

// Run cuts a window each second and writes the streams, until ctx ends. Then it
// cuts the last one, lets the streams drain, and returns.
func (p *Pairs) Run(ctx context.Context) error {
	// The streams outlive ctx by the last window, and what Drain grants them.
	streaming, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for _, s := range p.cfg.Streams {
		wg.Go(func() { s.Run(streaming) })
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	start := time.Now()
	for running := true; running; {
		select {
		case <-t.C:
		case <-ctx.Done():
			running = false
		}
		now := time.Now()
		p.window(start, now)
		start = now
	}
	stop()
	wg.Wait()
	return nil
}

// window cuts one and puts it on the streams.
func (p *Pairs) window(start, end time.Time) {
	w := &pairv1.Window{StartTime: start.UnixNano(), Length: int64(end.Sub(start))}
	p.mu.RLock()
	for _, r := range p.routes {
		if rw := r.cut(); rw != nil {
			w.Routes = append(w.Routes, rw)
		}
	}
	p.mu.RUnlock()
	if p.cfg.Fill != nil {
		p.cfg.Fill(w)
	}
	p.budget.refill(p.cfg.MaxPairs)
	for _, s := range p.cfg.Streams {
		s.offerWindow(w)
	}
}

func (b *budget) refill(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = n
}

func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}

// Pair is one exchange with its twins. The caller fills in the exported fields
// before the copy is offered, and changes them no more.
type Pair struct {
	Route *Route
	// ID and Key are the copy's.
	ID  [16]byte
	Key uint64
	// Author is the author's key, in the clear; it is not shown. Where a route
	// ships a share of users it decides whether the pair is in.
	Author string
	Unsafe bool
	// Live is the exchange, with its bodies hashed or kept. It must last until
	// End has returned.
	Live *observe.Exchange
	// Roles are those that the copy is offered to.
	Roles [lanes.NumRoles]bool

	// Documents reads gRPC messages by their fields' names; nil leaves them to
	// numbers. It is set where some role speaks another API.
	Documents Documents

	rule  int
	keep  []byte
	sides [lanes.NumRoles]side
}

// Documents makes JSON of the message of a gRPC method, named by its path: of what
// it answers or takes. ok is false if it can't.
type Documents interface {
	Document(path string, answer bool, body []byte) (json []byte, ok bool)
}

// Translated tells what a role that speaks another API is sent: calls, by the rule
// of that number, which kept that for the way back. They must last until End has
// returned.
func (p *Pair) Translated(role lanes.Role, rule int, calls []shadow.Call, keep []byte) {
	p.rule, p.keep, p.sides[role].calls = rule, keep, calls
}

type side struct {
	outcome    *shadow.Outcome
	judged     bool
	unknownIDs bool
	calls      []shadow.Call // of a translation; nil: live's
}

// Answered tells of the outcome of a copy that was sent to a role; it is the
// Pair's from then on. judged is what the lanes said when it was sent. unknownIDs
// says that the copy had an id that could not be rewritten.
//
// It is to be called before the lanes are told that the role is done. Calls for
// different roles may overlap.
func (p *Pair) Answered(role lanes.Role, o *shadow.Outcome, judged, unknownIDs bool) {
	s := &p.sides[role]
	s.outcome, s.judged, s.unknownIDs = o, judged, unknownIDs
}

// End counts and ships a pair of which nothing more will come, and releases the
// outcomes. What lanes.Copy.Release calls calls it.
func (p *Pairs) End(pair *Pair) {
	p.end(pair)
	for i := range pair.sides {
		if o := pair.sides[i].outcome; o != nil {
			o.Release()
		}
	}
	pair.sides = [lanes.NumRoles]side{}
}

func (p *Pairs) end(pair *Pair) {
	t := pair.tell()
	pair.Route.count(&t)
	reason := p.reason(pair, &t)
	if reason == pairv1.Reason_REASON_UNSPECIFIED || p.cfg.Record == nil || len(p.cfg.Streams) == 0 {
		return
	}
	if !p.budget.take() {
		for _, s := range p.cfg.Streams {
			s.skip()
		}
		return
	}
	message := p.message(pair, reason)
	for _, s := range p.cfg.Streams {
		s.offerPair(message)
	}
}

// reason says why a pair is to be put on the streams, if it is.
func (p *Pairs) reason(pair *Pair, t *told) pairv1.Reason {
	switch {
	case !t.evidence():
	case pair.Route.cfg.Elsewhere:
		if pair.Route.ship(pair.Author) {
			return pairv1.Reason_REASON_SHIPPED
		}
	case !t.equal():
		return pairv1.Reason_REASON_UNEQUAL
	case binary.BigEndian.Uint64(pair.ID[:])%p.cfg.Audit == 0:
		return pairv1.Reason_REASON_AUDIT
	}
	return pairv1.Reason_REASON_UNSPECIFIED
}
