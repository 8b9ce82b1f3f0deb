package shadow

import (
	"fmt"
	"net"
	"slices"
	"time"
)

// pool2 holds the HTTP/2 connections. Calls go to the first that has room, so
// that those that are due together are written together; another is made when
// none has.
type pool2 struct {
	conns   []*conn2 // those included that have said no SETTINGS yet
	dialing bool
	waiting list // jobs for which there is no room
}

// start2 makes a call over HTTP/2, when there is room for it within as long as a
// call may take.
func (b *Backend) start2(j *Job) {
	p := &b.http2
	if p.waiting.head == nil {
		if c := p.find(); c != nil {
			c.begin(j)
			return
		}
	}
	j.due = b.loop.now + int64(b.cfg.Timeout)
	p.waiting.push(j)
	p.dial(b)
}

func (p *pool2) find() *conn2 {
	for _, c := range p.conns {
		if c.hasRoom() {
			return c
		}
	}
	return nil
}

// dispatch begins calls that wait, as far as there is room.
func (p *pool2) dispatch(b *Backend) {
	for p.waiting.head != nil && !b.stopped {
		c := p.find()
		if c == nil {
			p.dial(b)
			return
		}
		j := p.waiting.head
		j.leave()
		c.begin(j)
	}
}

// dial makes another connection, if one may be made and none is about to be
// there. Those that take no more calls count until their last one ends.
func (p *pool2) dial(b *Backend) {
	unsettled := slices.ContainsFunc(p.conns, func(c *conn2) bool { return !c.settled })
	if p.dialing || unsettled || b.stopped || len(p.conns) >= b.cfg.MaxConns2 {
		return
	}
	p.dialing = true
	readyBy := time.Now().Add(b.cfg.ConnectTimeout)
	b.loop.dial(b, true, func(conn net.Conn, err error) {
		p.dialing = false
		c := newConn2(b)
		if err == nil {
			c.link, err = b.loop.poller.attach(conn, c)
		}
		if err != nil {
			p.unconnected(b, err)
			return
		}
		c.readyBy = readyBy
		p.conns = append(p.conns, c)
		c.touch()
	})
}

// unconnected ends the calls that wait for a connection which could not be made.
func (p *pool2) unconnected(b *Backend, err error) {
	for j := p.waiting.head; j != nil; j = p.waiting.head {
		b.unconnected(j, err)
	}
}

// remove lets go of a connection that is over. One that never said SETTINGS was
// not made: a burst of calls before it might break the peer's limits.
func (p *pool2) remove(gone *conn2) {
	p.conns = slices.DeleteFunc(p.conns, func(c *conn2) bool { return c == gone })
	if !gone.settled {
		p.unconnected(gone.b, gone.err)
	}
}

// nextDue is when something has to be given up, 0 if nothing has.
func (p *pool2) nextDue(b *Backend) (at int64) {
	if p.waiting.head != nil {
		at = p.waiting.head.due
	}
	for _, c := range p.conns {
		at = sooner(at, c.nextDue(b))
	}
	return at
}

func (c *conn2) nextDue(b *Backend) int64 {
	switch {
	case !c.settled:
		return c.readyBy.UnixNano()
	case !c.full.IsZero():
		return c.full.Add(b.cfg.Timeout).UnixNano()
	case len(c.streams) == 0:
		return c.idleFrom.Add(b.cfg.IdleTimeout).UnixNano()
	}
	return 0 // its calls have their own times
}

// expire gives up what has taken too long.
func (p *pool2) expire(b *Backend, now int64) {
	for j := p.waiting.head; j != nil && j.due <= now; j = p.waiting.head {
		b.unconnected(j, ErrTimeout)
	}
	for _, c := range slices.Clone(p.conns) {
		switch due := c.nextDue(b); {
		case due == 0 || due > now:
		case !c.settled:
			c.fail(fmt.Errorf("%w: %w", ErrConnect, ErrTimeout))
		case !c.full.IsZero():
			c.fail(ErrTimeout) // it takes nothing
		default:
			c.fail(ErrCanceled) // it is idle
		}
	}
}

// shut cancels what waits and closes all connections.
func (p *pool2) shut(b *Backend) {
	for _, c := range slices.Clone(p.conns) {
		c.fail(ErrCanceled)
	}
	p.unconnected(b, ErrCanceled)
}
