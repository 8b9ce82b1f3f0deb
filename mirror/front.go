package mirror

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/relay"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// front is one listener with what is known of its API.
type front struct {
	m        *Mirror
	cfg      *Front
	relay    *relay.Relay
	backends [lanes.NumRoles]*shadow.Backend // nil where there is no such role

	keys       []sample.Extractor
	early      int     // how many of keys, from the first, need only the request's header
	wants      reading // what keys need
	assign     []*ids.Assign
	ids        [lanes.NumRoles]*ids.Table // nil where there is none
	translates bool                       // there is a table, or there are rules
	routes     *sample.Routes
	routed     map[*sample.Route]*route // configured

	mu      sync.Mutex
	learned map[string]*route
}

// reading is what extractors look at beyond the header of the request.
type reading struct{ request, answer, answerBody bool }

func (r reading) any() bool { return r.request || r.answer }

func (r *reading) add(e *sample.Extractor) {
	body, answer := e.Reads()
	r.request = r.request || body && !answer
	r.answer = r.answer || answer
	r.answerBody = r.answerBody || body && answer
}

// route is how exchanges of one kind are treated and counted.
type route struct {
	name   string
	skip   bool
	unsafe bool
	stream bool
	touch  []sample.Extractor
	early  []sample.Extractor // of touch, those that need only the request's header
	wants  reading            // of keys and touch
	stats  *routeStats

	// passing are exchanges that are not copied, of users who are not sampled
	// and who are: all that need be known of most exchanges, and no allocation.
	passing [2]passing
}

type passing struct {
	route   *route
	sampled bool
}

func newFront(m *Mirror, cfg *Front) (*front, error) {
	f := &front{m: m, cfg: cfg, routed: map[*sample.Route]*route{}, learned: map[string]*route{}}
	var err error
	if f.keys, err = parseAll(cfg.Keys, m.cfg.Descriptors); err != nil {
		return nil, err
	}
	for i := range f.keys {
		f.wants.add(&f.keys[i])
		if !f.wants.any() {
			f.early = i + 1
		}
	}
	for _, a := range cfg.Assign {
		rule, err := ids.NewAssign(a.From, a.To)
		if err != nil {
			return nil, fmt.Errorf("assign: %w", err)
		}
		f.assign = append(f.assign, rule)
	}
	for role := range cfg.IDs {
		if len(cfg.IDs[role].Learn) == 0 {
			continue
		}
		if f.ids[role], err = ids.NewTable(cfg.IDs[role]); err != nil {
			return nil, fmt.Errorf("%s: %w", lanes.Role(role), err)
		}
		f.translates = true
		m.ships = true // by their fields, here
	}
	f.translates = f.translates || cfg.Translate.Rules != nil
	list := make([]sample.Route, len(cfg.Routes))
	for i, r := range cfg.Routes {
		touch, err := parseAll(r.Touch, m.cfg.Descriptors)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", r.Pattern, err)
		}
		if m.cfg.Descriptors.Lacks(r.Pattern) {
			return nil, fmt.Errorf("route %q matches nothing: the descriptors have its service, and no such method", r.Pattern)
		}
		list[i] = sample.Route{Pattern: r.Pattern, Unsafe: r.Unsafe, Touch: touch}
		route := f.newRoute(r.Pattern, r.Skip, r.Unsafe || m.cfg.Unsafe, touch)
		route.stream = r.Stream
		route.stats.prime(methodOf(r.Pattern))
		f.routed[&list[i]] = route
		m.unsafe = m.unsafe || r.Unsafe
	}
	if f.routes, err = sample.NewRoutes(list); err != nil {
		return nil, err
	}
	f.learned[sample.Other] = f.newRoute(sample.Other, false, m.cfg.Unsafe, nil)
	return f, nil
}

// expect has the series of the configured routes from the start.
func (f *front) expect() {
	for _, b := range f.backends {
		for _, r := range f.cfg.Routes {
			if b != nil && !r.Skip {
				b.Expect(r.Pattern)
			}
		}
	}
}

// methodOf is the method of a pattern's requests, of most of them if it names none.
func methodOf(pattern string) string {
	method, _, named := strings.Cut(pattern, " ")
	switch {
	case named:
		return method
	case sample.IsMethod(pattern):
		return "POST"
	}
	return "GET"
}

func parseAll(texts []string, d *sample.Descriptors) ([]sample.Extractor, error) {
	var all []sample.Extractor
	for _, text := range texts {
		e, err := sample.ParseExtractor(text, d)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	return all, nil
}

func (f *front) newRoute(name string, skip, unsafe bool, touch []sample.Extractor) *route {
	r := &route{name: name, skip: skip, unsafe: unsafe, touch: touch, wants: f.wants, stats: f.m.metrics.route(f.cfg.Name, name, f.m.pairs.Route(name))}
	for i := range touch {
		r.wants.add(&touch[i])
		if body, answer := touch[i].Reads(); !body && !answer {
			r.early = append(r.early, touch[i])
		}
	}
	r.passing = [2]passing{{r, false}, {r, true}}
	return r
}

// route finds the route of a request, or learns it.
func (f *front) route(method, path string, grpc bool) *route {
	if found := f.routes.Find(method, path); found != nil {
		return f.routed[found]
	}
	name := f.m.learner.route(method, path, grpc)
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.learned[name]
	if r == nil {
		r = f.newRoute(name, false, f.m.cfg.Unsafe, nil)
		f.learned[name] = r
	}
	return r
}

// learnedRoutes lists the routes that no configuration names.
func (f *front) learnedRoutes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.learned {
		if name != sample.Other {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// learner shares what sample.Learner bounds among all fronts.
type learner struct {
	mu     sync.Mutex
	routes sample.Learner
}

func (l *learner) route(method, path string, grpc bool) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.routes.Route(method, path, grpc)
}

// abort closes a listener that will not be run.
func (f *front) abort() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = f.relay.Run(ctx)
}

// observe is relay.Config.Observe.
func (f *front) observe(info relay.Info) relay.Observer {
	if f.m.dark.Load() {
		return nil
	}
	c := &connection{f: f, m: f.m}
	c.exchange.Client = info.Client.Addr()
	c.decoder = f.m.observer.Conn(c)
	return c
}

// text is b without a copy: for look-ups and decisions, which end before b
// changes.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// fields lets sampling read what was observed. It has the shape of
// observe.Fields, so that making one costs nothing.
type fields observe.Fields

// Field implements sample.Header.
func (f *fields) Field(name string, n int) (string, bool) {
	list := (*observe.Fields)(f)
	if n == 0 {
		v, ok := list.Get(name)
		return text(v), ok
	}
	for k, v := range list.All() {
		if !observe.EqualName(k, name) {
			continue
		}
		if n == 0 {
			return text(v), true
		}
		n--
	}
	return "", false
}

// connection observes one client connection. The relay calls it from one
// goroutine at a time, and so does the decoder.
type connection struct {
	f       *front
	m       *Mirror
	decoder *observe.Conn
	spoken  observe.Protocol // what was spoken before the decoder gave up

	open     int        // exchanges that have begun and not ended
	begun    bool       // the client has sent something since, that is no exchange yet
	lastSide relay.Side // who sent last
	opaque   bool

	exchange sample.Exchange // scratch, but for Client
	spare    []*candidate    // as many as were ever open at once
	users    map[uint64]lanes.User
	crowded  bool // more users than are remembered
	blind    bool // the decoder has given up
	told     time.Time
}

const (
	// maxUsers bounds the users that are remembered of a connection.
	maxUsers = 1024
	// tellEvery is how often users of an abandoned connection are tainted anew:
	// what it carries is not read, and they may be seeded meanwhile.
	tellEvery = time.Second
)

// Chunk implements relay.Observer.
func (c *connection) Chunk(side relay.Side, at time.Time, p []byte) {
	c.lastSide = side
	if c.blind {
		if side == relay.Client && at.Sub(c.told) >= tellEvery {
			c.missed(at)
		}
		return
	}
	if side == relay.Live {
		c.decoder.FromLive(at, p)
		return
	}
	c.begun = true
	c.decoder.FromClient(at, p)
	if c.open > 0 || c.decoder.Protocol() == observe.HTTP2 {
		c.begun = false
	}
}

// EOF implements relay.Observer.
func (c *connection) EOF(side relay.Side, at time.Time) {
	if side == relay.Client {
		c.decoder.ClientEOF()
	} else {
		c.decoder.LiveEOF(at)
	}
}

// Close implements relay.Observer.
func (c *connection) Close(cause relay.Cause, at time.Time) {
	switch cause {
	case relay.Darkened:
		c.decoder.Abandon() // who darkens taints everybody
	case relay.LiveReset:
		c.decoder.Close(observe.Live)
	default:
		c.decoder.Close(observe.Client)
	}
	if c.blind {
		c.missed(at)
	}
}

// State implements relay.Observer.
func (c *connection) State() (string, bool) {
	protocol := c.decoder.Protocol()
	if c.blind {
		protocol = c.spoken
	}
	name := ""
	switch {
	case c.opaque:
		name = relay.Opaque
	case protocol == observe.HTTP1:
		name = relay.HTTP1
	case protocol == observe.HTTP2:
		name = relay.HTTP2
	}
	if c.blind {
		return name, c.lastSide == relay.Live // a guess, as the relay itself makes it
	}
	return name, c.open == 0 && !c.begun
}

// Abandoned implements observe.Sink.
func (c *connection) Abandoned(a observe.Abandonment) {
	c.m.metrics.abandoned[a.Reason].Inc()
	c.blind, c.opaque, c.open = true, a.Reason == observe.Opaque, 0
}

// missed tells the lanes that anything may have been done by the connection's
// users until now.
func (c *connection) missed(at time.Time) {
	c.told = at
	if c.crowded {
		c.m.lanes.MissedAll()
		return
	}
	us := make([]lanes.User, 0, len(c.users))
	for _, u := range c.users {
		us = append(us, u)
	}
	c.m.lanes.Missed(us, time.Time{}, at)
}

// meet remembers whom an abandoned connection would taint.
func (c *connection) meet(us []lanes.User) {
	if !c.m.unsafe || c.crowded {
		return
	}
	if c.users == nil {
		c.users = map[uint64]lanes.User{}
	}
	for _, u := range us {
		c.users[u.ID] = u
	}
	if len(c.users) > maxUsers {
		c.users, c.crowded = nil, true
	}
}
