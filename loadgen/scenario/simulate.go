package scenario

import (
	"time"

	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/population"
	"darklaunch/loadgen/transport"
)

// Made is a call that a simulated run made.
type Made struct {
	// Op is the operation's name, Session the number of the arrival it belongs to.
	Op      string
	Session uint64
	// Call has the time it is due, its user and, where they are not the same in
	// all calls, its body and header. It is valid during the call only.
	Call *transport.Call
	// Bytes is the length of the body.
	Bytes int
	// Draft is the message that it carries, if HasDraft.
	Draft    population.Draft
	HasDraft bool
	// Stream says that it is a stream which is held until its session ends, and so
	// no step of it.
	Stream bool
	// Settle says that it is due before what is measured begins.
	Settle bool
}

// Simulate makes the calls of worker index of total against a service that answers
// each after the same time and well, and has a value for whatever is to be
// saved. It sends nothing and takes no time; each is told of every call in order.
func (s *Scenario) Simulate(r Run, index, total int, service time.Duration, each func(Made)) error {
	cfg, err := s.Config("", r)
	if err != nil {
		return err
	}
	x, err := s.begin(r)
	if err != nil {
		return err
	}
	v, err := s.source(x, index, total)
	if err != nil {
		return err
	}
	// Calls end in the order in which they began, as all take as long.
	var open []*transport.Call
	for {
		at, more := v.Peek()
		more = more && at < cfg.Warmup+cfg.For
		if len(open) > 0 && (!more || open[0].Done <= at) {
			c := open[0]
			open = open[1:]
			v.imagine(c)
			continue
		}
		if !more {
			return nil
		}
		c := &transport.Call{Intended: at, Sent: at, Done: at + service}
		v.Take(c)
		o := &s.ops[c.Op]
		m := Made{Op: o.transport.Name, Session: v.calls[c].N, Call: c, Bytes: len(c.Body), Draft: v.env.draft, HasDraft: o.drafts, Stream: o.held, Settle: at < cfg.Warmup}
		if o.body == nil {
			m.Bytes = len(o.transport.Body)
			for _, msg := range o.transport.Messages {
				m.Bytes += len(msg)
			}
		}
		each(m)
		if !o.held {
			open = append(open, c)
		}
		v.over = v.over[:0] // nobody is there to close them
	}
}

// imagine ends a call well, with values for what it saves.
func (v *visits) imagine(c *transport.Call) {
	x := v.calls[c]
	for _, s := range v.s.ops[c.Op].save {
		x.vars[s.to] = []string{"simulated"}
	}
	c.Class = transport.Timeout // there is no answer to read
	v.Ended(c, engine.Measure, true)
}
