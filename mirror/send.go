package mirror

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/shadow"
)

// leg is a copy on its way to one role. It implements shadow.Handler, and belongs
// to the goroutine of the loop that sends.
type leg struct {
	p        *pending
	role     lanes.Role
	job      shadow.Job
	table    *ids.Table // of the role's ids; nil if it has live's
	judged   bool
	unknown  bool // it has ids that could not be rewritten
	panicked bool // before it was sent
	drop     lanes.Reason
}

// next is shadow.LoopConfig.Next: it returns a copy that is due.
func (m *Mirror) next() *shadow.Job {
	for {
		l := m.nextLeg()
		if l == nil {
			return nil
		}
		if l.p.copy.Stream && m.streaming >= m.cfg.InFlight { // as many are under way as may be
			m.guarded("sender", func() { m.lanes.Drop(&l.p.copy, l.role, lanes.Streaming) })
			l.p.unused()
			continue
		}
		if m.guarded("sender", l.prepare) {
			l.drop = lanes.Panic
		}
		if l.drop == lanes.NotDropped {
			return &l.job
		}
		m.guarded("sender", func() { m.lanes.Drop(&l.p.copy, l.role, l.drop) })
		l.p.unused()
	}
}

// nextLeg returns a leg that is due. The roles of a departure follow one another.
func (m *Mirror) nextLeg() (l *leg) {
	if l, m.second = m.second, nil; l != nil {
		return l
	}
	m.guarded("sender", func() {
		d, ok := m.lanes.Take()
		if !ok {
			return
		}
		p := d.Copy.Payload.(*pending)
		for _, role := range d.Roles() {
			one := &p.legs[role]
			one.p, one.role = p, role
			p.uses.Add(1)
			if l == nil {
				l = one
			} else {
				m.second = one
			}
		}
	})
	return l
}

func (l *leg) prepare() {
	l.p.front.m.at(stageSend)
	b := l.p.front.backends[l.role]
	if l.p.front.cfg.Translate.speaks(l.role) {
		l.translate(b)
		return
	}
	own := l.p.call()
	l.unknown, l.table = l.p.unassigned, l.p.front.ids[l.role]
	if l.table != nil {
		var missing bool
		own, missing = l.table.Copy(own)
		l.unknown = l.unknown || missing
	}
	l.job = shadow.Job{Backend: b, Copy: own, Outcome: b.NewOutcome(), Handler: l}
	if l.p.copy.Stream {
		l.p.front.m.streaming++
	}
}

// Begin implements shadow.Handler.
func (l *leg) Begin() (ok bool) {
	m := l.p.front.m
	l.panicked = m.guarded("sender", func() { l.judged, ok = m.lanes.Sent(&l.p.copy, l.role) })
	return ok
}

// End implements shadow.Handler.
func (l *leg) End(err error) {
	m, effect := l.p.front.m, lanes.Unknown
	if l.p.copy.Stream {
		m.streaming--
	}
	if err == nil {
		m.guarded("sender", func() { effect = l.answered() })
	} else {
		l.job.Outcome.Release()
	}
	m.guarded("sender", func() {
		switch {
		case err == nil:
			m.lanes.Done(&l.p.copy, l.role, effect)
		case l.panicked:
			m.lanes.Drop(&l.p.copy, l.role, lanes.Panic)
		case errors.Is(err, shadow.ErrDropped): // the lanes have ended it
		default:
			m.lanes.Drop(&l.p.copy, l.role, dropFor(err))
		}
	})
	l.p.unused()
}

// answered hands on what became of a copy that was sent, and says what the role did.
func (l *leg) answered() lanes.Effect {
	l.p.front.m.at(stagePair)
	o := l.job.Outcome
	effect := effectOfAll(o)
	if l.table != nil {
		for _, a := range o.Answers {
			l.unknown = l.table.Answer(l.p.x, a) || l.unknown
		}
	}
	l.p.pair.Answered(l.role, o, l.judged, l.unknown)
	return effect
}

// effectOfAll is what the answers to the calls of a copy say that was done: what
// all of them say.
func effectOfAll(o *shadow.Outcome) lanes.Effect {
	effect := lanes.Unknown
	for i, a := range o.Answers {
		one := lanes.Unknown
		if a.Err == nil && !o.Stopped {
			one = effectOf(a.Status, a.GRPC)
		}
		if i == 0 {
			effect = one
		} else if one != effect {
			return lanes.Unknown
		}
	}
	return effect
}

func dropFor(err error) lanes.Reason {
	switch {
	case errors.Is(err, shadow.ErrOpen), errors.Is(err, shadow.ErrBusy):
		return lanes.BreakerOpen
	case errors.Is(err, shadow.ErrCanceled):
		return lanes.Shutdown
	}
	return lanes.NoCounterpart // it can't be written as one request
}

// newID names a copy.
func newID() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	return id
}
