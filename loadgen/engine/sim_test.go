package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"darklaunch/loadgen/transport"
)

// sim is a server behind a driver, in virtual time: one queue, served in order
// by one server, over a bounded number of connections. It is its own clock.
type sim struct {
	now     time.Duration
	conns   int                                        // 0 is no bound
	service func(at time.Duration) time.Duration       // how long a call takes the server
	ready   func(at time.Duration) time.Duration       // when a call that could begin at at does; nil is at once
	class   func(n int) transport.Class                // how the nth call ends; nil is OK
	pause   func(from, to time.Duration) time.Duration // where a wait from from to to really ends; nil is to
	busy    time.Duration                              // the server is, until then
	queue   []*transport.Call                          // no connection yet
	open    int
	flying  futures // in order: the server is one
	done    []*transport.Call
	served  int
}

// future is the end of a call, or of one that was given up: then call is nil.
type future struct {
	at   time.Duration
	call *transport.Call
}

type futures struct {
	items []future
	first int
}

func (q *futures) push(f future) { q.items = append(q.items, f) }

// next returns when the first is due; false if there is none.
func (q *futures) next() (time.Duration, bool) {
	if q.first == len(q.items) {
		return 0, false
	}
	return q.items[q.first].at, true
}

func (q *futures) pop() future {
	f := q.items[q.first]
	if q.first++; q.first*2 >= len(q.items) {
		q.items = q.items[:copy(q.items, q.items[q.first:])]
		q.first = 0
	}
	return f
}

func (s *sim) Now() time.Duration { return s.now }

func (s *sim) Start(c *transport.Call) {
	c.Sent, c.Tried, c.Class, c.Code, c.Received = -1, false, 0, 0, 0
	if s.conns > 0 && s.open >= s.conns {
		s.queue = append(s.queue, c)
		return
	}
	s.send(c)
}

func (s *sim) send(c *transport.Call) {
	s.open++
	c.Sent, c.Tried = s.now, true
	at := max(s.now, s.busy)
	if s.ready != nil {
		at = s.ready(at)
	}
	s.busy = at + s.service(at)
	c.Class = transport.OK
	if s.class != nil {
		c.Class = s.class(s.served)
	}
	s.flying.push(future{s.busy, c})
	s.served++
}

func (s *sim) Poll(until time.Duration) []*transport.Call {
	s.done = s.done[:0]
	at, ok := s.flying.next()
	if !ok || at > until {
		if s.pause != nil {
			until = s.pause(s.now, until)
		}
		s.now = max(s.now, until)
	}
	for ; ok && at <= max(s.now, until); at, ok = s.flying.next() {
		f := s.flying.pop()
		s.now = max(s.now, f.at)
		s.open--
		if len(s.queue) > 0 {
			next := s.queue[0]
			s.queue = s.queue[1:]
			s.send(next)
		}
		if f.call == nil {
			continue
		}
		f.call.Done = f.at
		s.done = append(s.done, f.call)
		break
	}
	return s.done
}

func (s *sim) Cancel(c *transport.Call) {
	for i, q := range s.queue {
		if q == c {
			s.queue = append(s.queue[:i], s.queue[i+1:]...)
			return
		}
	}
	for i := range s.flying.items {
		if f := &s.flying.items[i]; f.call == c && i >= s.flying.first {
			f.call = nil // the server works on it all the same
			return
		}
	}
}

// even yields arrivals at a constant rate until an end.
type even struct {
	rate float64
	end  time.Duration
	n    int
}

func (e *even) Next() (time.Duration, bool) {
	at := time.Duration(float64(e.n) / e.rate * float64(time.Second))
	e.n++
	return at, at < e.end
}

// poisson yields n arrivals with exponential gaps.
type poisson struct {
	rng  *rand.Rand
	rate float64
	at   float64
	left int
}

func (p *poisson) Next() (time.Duration, bool) {
	p.at += p.rng.ExpFloat64() / p.rate
	p.left--
	return time.Duration(p.at * float64(time.Second)), p.left >= 0
}

// run runs one operation's plan against s and returns what was measured.
func run(s *sim, cfg Config) *Tally {
	cfg.Clock, cfg.Driver, cfg.Ops = s, s, 1
	return &New(cfg).Run(context.Background())[Measure][0]
}
