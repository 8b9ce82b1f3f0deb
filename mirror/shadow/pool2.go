package shadow

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// pool2 holds the HTTP/2 connections. Calls go to the first that has room, so
// that those that are due together are written together; another is made when
// none has.
type pool2 struct {
	mu      sync.Mutex
	conns   []*conn2
	dialing *dialing
	closed  bool

	waiting atomic.Int32  // calls that wait for room
	freed   chan struct{} // of one; there may be room
	running sync.WaitGroup
}

// dialing is a connect that several calls wait for.
type dialing struct {
	done chan struct{}
	err  error // once done
}

// call2 makes one call over HTTP/2. begin is as for Send.
func (b *Backend) call2(c *Call, s *scratch, a *Answer, begin func() bool) error {
	conn, err := b.http2.reserve(b)
	a.Sent = time.Now()
	if err != nil {
		if !begin() {
			return ErrDropped
		}
		a.Err = err
		return nil
	}
	if !begin() {
		conn.unreserve()
		return ErrDropped
	}
	a.Err = conn.call(b, c, s, a)
	return nil
}

// reserve returns a connection on which a stream is reserved. It waits for one
// to be made, or for a stream to end, for as long as a connect and a call may take.
func (p *pool2) reserve(b *Backend) (*conn2, error) {
	if c := p.find(); c != nil {
		return c, nil
	}
	t := time.NewTimer(b.cfg.Timeout)
	defer t.Stop()
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	for {
		if c := p.find(); c != nil {
			p.notify() // there may be room for another, too
			return c, nil
		}
		d, mine := p.dial(b.cfg.MaxConns2)
		switch {
		case mine:
			var c *conn2
			c, d.err = p.connect(b)
			p.dialled(d)
			return c, d.err
		case d != nil:
			if <-d.done; d.err != nil {
				return nil, d.err
			}
			continue
		}
		select {
		case <-p.freed:
		case <-t.C:
			return nil, ErrTimeout
		case <-b.life.Done():
			return nil, ErrCanceled
		}
	}
}

// find reserves a stream on a connection that has room.
func (p *pool2) find() *conn2 {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.mu.Lock()
		ok := c.room()
		if ok {
			c.reserved++
		}
		c.mu.Unlock()
		if ok {
			return c
		}
	}
	return nil
}

// unreserve gives back a stream that was not opened.
func (c *conn2) unreserve() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved--
	c.leave()
	c.freed()
}

// dial returns the connect under way, or one that is the caller's to make, or
// nil if there may be no more connections. Those that take no more calls count
// until their last one ends.
func (p *pool2) dial(most int) (d *dialing, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dialing != nil {
		return p.dialing, false
	}
	if len(p.conns) >= most {
		return nil, false
	}
	p.dialing = &dialing{done: make(chan struct{})}
	return p.dialing, true
}

func (p *pool2) dialled(d *dialing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialing = nil
	close(d.done)
}

// connect adds a connection and reserves a stream on it: who made it makes a
// call on it, so that one which the peer ends at once is not made in vain. A
// connection is made when the peer has said what it takes; before, a burst of
// calls might break its limits.
func (p *pool2) connect(b *Backend) (*conn2, error) {
	ctx, cancel := context.WithTimeout(b.life, b.cfg.ConnectTimeout)
	defer cancel()
	raw, err := b.dial(ctx, true)
	if err != nil {
		return nil, err
	}
	c := newConn2(raw, b.cfg.MaxStreams, b.cfg.MaxHead, p.notify)
	c.reserved = 1
	if !p.run(b, c) {
		raw.Close()
		return nil, ErrCanceled
	}
	c.flush()
	select {
	case <-c.ready:
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.settled {
		c.fail(b.connectError(ctx, ctx.Err()))
	}
	return c, c.err
}

// run adds c and reads it, unless the pool is closed.
func (p *pool2) run(b *Backend, c *conn2) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns = append(p.conns, c)
	p.running.Go(func() {
		defer p.remove(c)
		b.guard(c.readAll)
		c.end(ErrCanceled) // if it was a panic that ended it
	})
	return true
}

func (p *pool2) remove(gone *conn2) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.conns {
		if c == gone {
			p.conns = append(p.conns[:i], p.conns[i+1:]...)
			break
		}
	}
	p.notify()
}

// notify wakes one call that waits for room.
func (p *pool2) notify() {
	if p.waiting.Load() > 0 {
		select {
		case p.freed <- struct{}{}:
		default:
		}
	}
}

func (p *pool2) sweep(now time.Time, b *Backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.sweep(now, b.cfg.Timeout, b.cfg.IdleTimeout) {
			p.running.Go(func() { b.guard(c.flush) }) // the call that would have written is gone
		}
	}
}

// close cancels all calls and waits for the connections to end.
func (p *pool2) close() {
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		c.end(ErrCanceled)
	}
	p.mu.Unlock()
	p.running.Wait()
}
