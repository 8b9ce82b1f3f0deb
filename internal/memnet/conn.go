package memnet

import (
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is one end of a connection. It is safe for concurrent use; concurrent
// Writes do not mix.
type Conn struct {
	in, out       *pipe
	local, remote net.Addr
	latency       func() time.Duration // to the other end, now
	hard          atomic.Bool          // SetLinger(0)
}

func (c *Conn) fail(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read implements net.Conn. Errors: io.EOF after all that was sent before the
// other end's Close or CloseWrite; ECONNRESET after its reset, which also takes
// what was not yet read; os.ErrDeadlineExceeded; net.ErrClosed after Close.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	return n, c.fail("read", err)
}

// Write implements net.Conn. It returns when the last byte fits into the buffer.
// Errors: EPIPE after CloseWrite, or when the other end has closed, a latency
// ago (until then what is written is lost without an error); ECONNRESET,
// os.ErrDeadlineExceeded and net.ErrClosed as for Read.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b, c.latency)
	return n, c.fail("write", err)
}

// CloseWrite ends what is sent: the other end reads EOF after the rest, and can
// still send. Error: net.ErrClosed after Close.
func (c *Conn) CloseWrite() error {
	return c.fail("close", c.out.closeWrite(os.NewSyscallError("write", syscall.EPIPE), c.latency()))
}

// SetLinger with 0 makes Close a reset, as for net.TCPConn; any other number
// makes it orderly again.
func (c *Conn) SetLinger(sec int) error {
	c.hard.Store(sec == 0)
	return nil
}

// Close implements net.Conn. The other end reads EOF after what was sent. But
// when SetLinger(0) was called, or when bytes from the other end were not read
// here, its Reads and Writes fail with ECONNRESET.
func (c *Conn) Close() error {
	delay := c.latency()
	reset, err := c.in.closeRead(c.hard.Load(), delay)
	if err != nil {
		return c.fail("close", err)
	}
	if reset {
		c.out.reset(delay)
	}
	return c.fail("close", c.out.closeWrite(net.ErrClosed, delay))
}

// abort is a Close that resets in any case.
func (c *Conn) abort() {
	c.hard.Store(true)
	c.Close()
}

// LocalAddr returns this end's address.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the other end's address.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.fail("set", c.in.setDeadline(&c.in.readDeadline, &c.in.readErr, t))
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.fail("set", c.out.setDeadline(&c.out.writeDeadline, &c.out.writeErr, t))
}

// A pipe is one direction of a connection. Its fields are guarded by its lock.
type pipe struct {
	limit int // bytes

	state
	queue   []segment
	held    int  // bytes in queue
	writing bool // a Write has the turn

	readErr, writeErr           error // why an end is closed; nil while open
	readDeadline, writeDeadline time.Time

	// When the news of the reading end's closing reach the writing end, and
	// those of a reset the end that did not cause it.
	goneAt, resetAt time.Time
}

// A segment is what one Write sent, or the end of the stream when it is empty.
type segment struct {
	data []byte
	due  time.Time // at the reading end
}

func newPipe(limit int) *pipe { return &pipe{limit: limit, state: newState()} }

// reached says whether t is set and not in the future.
func reached(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// earliest is the first of the times that are set.
func earliest(ts ...time.Time) (first time.Time) {
	for _, t := range ts {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

// due is when what is sent now arrives: never before what was sent before.
func (p *pipe) due(latency time.Duration) time.Time {
	t := time.Now().Add(latency)
	if n := len(p.queue); n > 0 && p.queue[n-1].due.After(t) {
		return p.queue[n-1].due
	}
	return t
}

func (p *pipe) read(b []byte) (n int, err error) {
	p.await(nil, func(now time.Time) (bool, time.Time) {
		arrived := len(p.queue) > 0 && reached(p.queue[0].due, now)
		switch {
		case p.readErr != nil:
			err = p.readErr
		case reached(p.readDeadline, now):
			err = os.ErrDeadlineExceeded
		case len(b) == 0:
		case reached(p.resetAt, now):
			err = os.NewSyscallError("read", syscall.ECONNRESET)
		case arrived && p.queue[0].data == nil:
			err = io.EOF
		case arrived:
			n = p.take(b, now)
			p.changed()
		default:
			again := earliest(p.readDeadline, p.resetAt)
			if len(p.queue) > 0 {
				again = earliest(again, p.queue[0].due)
			}
			return false, again
		}
		return true, time.Time{}
	})
	return n, err
}

// take moves what has arrived into b.
func (p *pipe) take(b []byte, now time.Time) (n int) {
	for n < len(b) && len(p.queue) > 0 && p.queue[0].data != nil && reached(p.queue[0].due, now) {
		s := &p.queue[0]
		m := copy(b[n:], s.data)
		n, p.held = n+m, p.held-m
		if s.data = s.data[m:]; len(s.data) == 0 {
			p.queue = p.queue[1:]
		}
	}
	return n
}

func (p *pipe) write(b []byte, latency func() time.Duration) (n int, err error) {
	mine := false
	defer func() {
		if mine {
			p.Lock()
			p.writing = false
			p.changed()
			p.Unlock()
		}
	}()
	for first := true; first || err == nil && n < len(b); first = false {
		delay := latency()
		p.await(nil, func(now time.Time) (bool, time.Time) {
			switch {
			case p.writeErr != nil:
				err = p.writeErr
			case reached(p.writeDeadline, now):
				err = os.ErrDeadlineExceeded
			case reached(p.resetAt, now):
				err = os.NewSyscallError("write", syscall.ECONNRESET)
			case reached(p.goneAt, now):
				err = os.NewSyscallError("write", syscall.EPIPE)
			case p.writing && !mine, p.held == p.limit:
				return false, earliest(p.writeDeadline, p.resetAt, p.goneAt)
			default:
				mine, p.writing = true, true
				n += p.put(b[n:], delay)
				p.changed()
			}
			return true, time.Time{}
		})
	}
	return n, err
}

// put queues as much of b as there is room for, or loses all of it when nobody
// will read it.
func (p *pipe) put(b []byte, latency time.Duration) (n int) {
	if p.readErr != nil {
		return len(b)
	}
	n = min(len(b), p.limit-p.held)
	if n > 0 {
		p.queue = append(p.queue, segment{append([]byte(nil), b[:n]...), p.due(latency)})
		p.held += n
	}
	return n
}

// closeWrite ends the stream; writing fails with why from now on.
func (p *pipe) closeWrite(why error, latency time.Duration) error {
	p.Lock()
	defer p.Unlock()
	if p.writeErr == net.ErrClosed {
		return net.ErrClosed
	}
	if p.writeErr == nil && p.readErr == nil {
		p.queue = append(p.queue, segment{nil, p.due(latency)})
	}
	p.writeErr = why
	p.changed()
	return nil
}

// closeRead ends reading, and loses what was not read; if there was any of that,
// or hard, it resets the stream and says so.
func (p *pipe) closeRead(hard bool, latency time.Duration) (reset bool, err error) {
	p.Lock()
	defer p.Unlock()
	if p.readErr != nil {
		return false, net.ErrClosed
	}
	reset = hard || p.held > 0
	p.readErr = net.ErrClosed
	p.queue, p.held = nil, 0
	p.goneAt = p.due(latency)
	if reset {
		p.resetAt = p.goneAt
	}
	p.changed()
	return reset, nil
}

func (p *pipe) reset(latency time.Duration) {
	p.Lock()
	defer p.Unlock()
	p.resetAt = p.due(latency)
	p.changed()
}

// setDeadline sets one of p's deadlines, at the end that closed tells of.
func (p *pipe) setDeadline(deadline *time.Time, closed *error, t time.Time) error {
	p.Lock()
	defer p.Unlock()
	if *closed == net.ErrClosed {
		return net.ErrClosed
	}
	*deadline = t
	p.changed()
	return nil
}
