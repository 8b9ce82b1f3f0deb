package engine

import (
	"time"

	"darklaunch/loadgen/transport"
)

// Arrivals yields intended times in ascending order; false is the end.
type Arrivals interface {
	Next() (time.Duration, bool)
}

// Plan is a Source of independent calls: when from Arrivals, what from a choice.
type Plan struct {
	arrivals Arrivals
	choose   func(*transport.Call)
	next     time.Duration
	more     bool
}

// NewPlan returns the plan that makes a call at each of the arrivals, with the
// operation and all else that choose fills in; nil makes the first operation.
func NewPlan(a Arrivals, choose func(*transport.Call)) *Plan {
	p := &Plan{arrivals: a, choose: choose}
	p.next, p.more = a.Next()
	return p
}

// Peek implements Source.
func (p *Plan) Peek() (time.Duration, bool) { return p.next, p.more }

// Take implements Source.
func (p *Plan) Take(c *transport.Call) {
	if p.choose != nil {
		p.choose(c)
	}
	p.next, p.more = p.arrivals.Next()
}

// Endless is a Source for closed loops: there is always another call.
type Endless func(*transport.Call)

// Peek implements Source.
func (e Endless) Peek() (time.Duration, bool) { return 0, true }

// Take implements Source.
func (e Endless) Take(c *transport.Call) {
	if e != nil {
		e(c)
	}
}

// Limit returns src cut off after n calls.
func Limit(src Source, n int) Source { return &limited{src, n} }

type limited struct {
	Source
	left int
}

func (l *limited) Peek() (time.Duration, bool) {
	if l.left == 0 {
		return 0, false
	}
	return l.Source.Peek()
}

func (l *limited) Take(c *transport.Call) {
	l.left--
	l.Source.Take(c)
}
