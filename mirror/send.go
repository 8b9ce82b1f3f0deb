package mirror

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/shadow"
)

// leg is a copy on its way to one role.
type leg struct {
	p    *pending
	role lanes.Role
}

// startSenders starts the goroutines that send copies. There are as many as
// copies may be under way, so that a role that is slow keeps none from the
// other; as many again take the second role of copies that leave for two.
func (m *Mirror) startSenders(ctx context.Context, wg *sync.WaitGroup) {
	n := m.cfg.InFlight
	if m.hasControl() {
		n *= int(lanes.NumRoles)
		for range n {
			m.keep(ctx, wg, "sender", m.sendSecond)
		}
	}
	for range n {
		m.keep(ctx, wg, "sender", func(ctx context.Context) error { return m.sendNext(ctx, wg) })
	}
}

// sendNext sends copies that are due, until the lanes are closed.
func (m *Mirror) sendNext(ctx context.Context, streams *sync.WaitGroup) error {
	for {
		d, err := m.lanes.Next(ctx)
		if err != nil {
			return err
		}
		p := d.Copy.Payload.(*pending)
		roles := d.Roles()
		if d.Copy.Stream {
			for _, role := range roles {
				m.sendStream(leg{p, role}, streams)
			}
			continue
		}
		if len(roles) > 1 {
			m.second <- leg{p, roles[0]} // a receiver is free: see startSenders
		}
		m.send(leg{p, roles[len(roles)-1]})
	}
}

// sendStream sends a leg that may take long, beside those that may not.
func (m *Mirror) sendStream(l leg, wg *sync.WaitGroup) {
	select {
	case m.streams <- struct{}{}:
		wg.Go(func() {
			defer func() { <-m.streams }()
			m.send(l)
		})
	default: // as many are under way as may be
		m.lanes.Drop(&l.p.copy, l.role, lanes.Streaming)
	}
}

func (m *Mirror) sendSecond(ctx context.Context) error {
	for {
		select {
		case l := <-m.second:
			m.send(l)
		case <-ctx.Done():
			return nil
		}
	}
}

// send sends one leg. A panic ends the leg and not the sender.
func (m *Mirror) send(l leg) {
	begun := false
	var a attempt
	if m.guarded("sender", func() { a = m.attempt(l, &begun) }) {
		a.panicked = true
	}
	switch {
	case a.panicked && !begun:
		m.guarded("sender", func() { m.lanes.Drop(&l.p.copy, l.role, lanes.Panic) })
	case a.panicked, a.err == nil:
		m.guarded("sender", func() { m.lanes.Done(&l.p.copy, l.role, a.effect) })
	case errors.Is(a.err, shadow.ErrDropped): // the lanes have ended it
	default:
		m.guarded("sender", func() { m.lanes.Drop(&l.p.copy, l.role, dropFor(a.err)) })
	}
}

// attempt is what became of sending a leg.
type attempt struct {
	effect   lanes.Effect
	err      error // it was not sent
	panicked bool
}

func (m *Mirror) attempt(l leg, begun *bool) attempt {
	m.at(stageSend)
	judged := false
	b := l.p.front.backends[l.role]
	o := b.NewOutcome()
	own := l.p.call()
	unknown := l.p.unassigned
	table := l.p.front.ids[l.role]
	if table != nil {
		var missing bool
		own, missing = table.Copy(own)
		unknown = unknown || missing
	}
	err := b.Send(own, func() (ok bool) {
		judged, ok = m.lanes.Sent(&l.p.copy, l.role)
		*begun = ok
		return ok
	}, o)
	if err != nil {
		o.Release()
		return attempt{err: err}
	}
	m.at(stagePair)
	a := o.Answers[len(o.Answers)-1]
	effect := lanes.Unknown
	if a.Err == nil {
		effect = effectOf(a.Status, a.GRPC)
	}
	if o.Stopped {
		effect = lanes.Unknown
	}
	if table != nil {
		for _, a := range o.Answers {
			unknown = table.Answer(l.p.x, a) || unknown
		}
	}
	l.p.pair.Answered(l.role, o, judged, unknown)
	return attempt{effect: effect}
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
