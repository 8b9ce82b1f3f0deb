package faultnet

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

// A read takes at most chunkSize bytes, and a direction of a connection holds at
// most maxQueued of them: 16 MiB.
const (
	chunkSize = 16 << 10
	maxQueued = 1 << 10
)

// drain is for how long a socket that was closed with FIN takes what the peer
// has not yet stopped sending.
const drain = time.Second

// An ending is how a connection comes down.
type ending int

const (
	finished  ending = iota // both ends have sent theirs, or the proxy closes
	cutting                 // FIN to both
	resetting               // RST to both
)

// A conn is a client's connection and ours to the target.
type conn struct {
	proxy *Proxy
	ctx   context.Context // done when the conn comes down
	stop  context.CancelFunc

	once sync.Once
	how  ending // set before stop is called
}

func newConn(p *Proxy) *conn {
	c := &conn{proxy: p}
	c.ctx, c.stop = context.WithCancel(p.ctx)
	return c
}

// end begins to bring c down, and returns whether nothing else did before.
func (c *conn) end(how ending) (first bool) {
	c.once.Do(func() {
		first, c.how = true, how
		c.stop()
	})
	return first
}

func (c *conn) cut() {
	if c.end(cutting) {
		c.proxy.counts.add(WasCut)
	}
}

// run connects to the target and forwards until c comes down.
func (c *conn) run(client *net.TCPConn) {
	// Only Close gives a connect up: the target may have accepted already, and
	// then has to see the same end as the client.
	var dialer net.Dialer
	target, err := dialer.DialContext(c.proxy.ctx, "tcp", *c.proxy.target.Load())
	if err != nil {
		if c.ctx.Err() == nil {
			c.proxy.counts.add(Unreachable)
		}
		c.end(resetting)
		c.close(client)
		return
	}
	c.forward(client, target.(*net.TCPConn))
	c.end(finished)
	c.close(client, target.(*net.TCPConn))
}

func (c *conn) forward(client, target *net.TCPConn) {
	var wg sync.WaitGroup
	for d, ends := range [2][2]*net.TCPConn{ToTarget: {client, target}, ToClient: {target, client}} {
		l := &link{conn: c, direction: Direction(d), from: ends[0], to: ends[1], queue: make(chan chunk, maxQueued)}
		wg.Go(l.read)
		wg.Go(l.write)
	}
	defer whenDone(c.ctx, client, target)()
	wg.Wait()
}

func (c *conn) close(sockets ...*net.TCPConn) {
	var wg sync.WaitGroup
	for _, socket := range sockets {
		switch c.how {
		case cutting:
			wg.Go(func() { cut(c.proxy.ctx, socket) })
		case resetting:
			reset(socket)
		default:
			socket.Close()
		}
	}
	wg.Wait()
}

// whenDone wakes who reads from or writes to the sockets when ctx is done. The
// function it returns undoes that, or waits until it has happened.
func whenDone(ctx context.Context, sockets ...*net.TCPConn) func() {
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		for _, s := range sockets {
			s.SetDeadline(time.Unix(1, 0))
		}
		close(woken)
	})
	return func() {
		if !stop() {
			<-woken
		}
	}
}

func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// cut sends a FIN, and closes c when the peer has stopped sending: closing with
// bytes unread would be a reset.
func cut(ctx context.Context, c *net.TCPConn) {
	defer c.Close()
	c.CloseWrite()
	c.SetReadDeadline(time.Now().Add(drain))
	defer whenDone(ctx, c)()
	io.Copy(io.Discard, c)
}

// A link is one direction of a conn: read fills its queue, write empties it.
type link struct {
	conn      *conn
	direction Direction
	from, to  *net.TCPConn
	queue     chan chunk
	free      time.Time // when the last write's time at the limited rate is over; write's own
}

// A chunk is what one read returned; without data it is the end of the stream.
type chunk struct {
	data []byte
	read time.Time
}

func (l *link) faults(s *settings) Faults { return s.faults[l.direction] }

func (l *link) count(k Kind) { l.conn.proxy.counts.add(k) }

func (l *link) read() {
	buf := make([]byte, chunkSize)
	for {
		n, err := l.from.Read(buf)
		if n > 0 && !l.pass(buf[:n]) {
			return
		}
		if l.conn.ctx.Err() != nil {
			return
		}
		if err != nil {
			l.finish(err)
			return
		}
	}
}

// pass queues what was read, if no fault takes it. It returns false when the
// conn comes down.
func (l *link) pass(b []byte) bool {
	if !l.conn.holdWhile(l.direction, Stalled, func(f Faults) bool { return f.Stall }) {
		return false
	}
	if l.conn.proxy.shoot(l.direction, b) {
		l.count(Swallowed)
		l.conn.cut()
		return false
	}
	if l.faults(l.conn.proxy.settings.Load()).Swallow {
		l.count(Swallowed)
		return true
	}
	return l.put(append([]byte(nil), b...))
}

// finish passes the end of the stream on, or what else err is as a reset.
func (l *link) finish(err error) {
	kind := Stalled
	if l.faults(l.conn.proxy.settings.Load()).Swallow {
		kind = Swallowed
	}
	if !l.conn.holdWhile(l.direction, kind, Faults.black) {
		return
	}
	if err != io.EOF {
		l.conn.end(resetting)
		return
	}
	l.put(nil)
}

func (l *link) put(data []byte) bool {
	select {
	case l.queue <- chunk{data, time.Now()}:
		return true
	case <-l.conn.ctx.Done():
		return false
	}
}

// black says whether nothing gets through.
func (f Faults) black() bool { return f.Stall || f.Swallow }

// holdWhile waits while the faults of a direction say so, and counts that, if k
// is not empty. It returns false when the conn comes down.
func (c *conn) holdWhile(d Direction, k Kind, held func(f Faults) bool) bool {
	for {
		s := c.proxy.settings.Load()
		if !held(s.faults[d]) {
			return true
		}
		if k != "" {
			c.proxy.counts.add(k)
			k = ""
		}
		select {
		case <-s.replaced:
		case <-c.ctx.Done():
			return false
		}
	}
}

// holdUntil waits until the time that the faults say, and counts that if it
// does. It returns false when the conn comes down.
func (l *link) holdUntil(k Kind, until func(f Faults) time.Time) bool {
	for {
		s := l.conn.proxy.settings.Load()
		d := time.Until(until(l.faults(s)))
		if d <= 0 {
			return true
		}
		if k != "" {
			l.count(k)
			k = ""
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-s.replaced:
		case <-l.conn.ctx.Done():
		}
		timer.Stop()
		if l.conn.ctx.Err() != nil {
			return false
		}
	}
}

func (l *link) write() {
	for {
		select {
		case c := <-l.queue:
			if !l.holdUntil(Delayed, func(f Faults) time.Time { return c.read.Add(f.Delay) }) {
				return
			}
			if c.data == nil {
				l.close(c)
				return
			}
			if !l.send(c.data) {
				return
			}
		case <-l.conn.ctx.Done():
			return
		}
	}
}

func (l *link) close(c chunk) {
	if l.holdUntil(SlowClosed, func(f Faults) time.Time { return c.read.Add(f.Delay + f.SlowClose) }) {
		l.to.CloseWrite()
	}
}

// send writes b at the rate there is, in parts of at most 50 ms, each when the
// time it takes at that rate is over.
func (l *link) send(b []byte) bool {
	for len(b) > 0 {
		n := len(b)
		if rate := l.faults(l.conn.proxy.settings.Load()).Rate; rate > 0 {
			n = int(min(int64(n), max(1, rate/20)))
		}
		start := time.Now()
		if l.free.After(start) {
			start = l.free
		}
		if !l.holdUntil(Limited, func(f Faults) time.Time {
			if f.Rate <= 0 {
				l.free = time.Time{}
			} else {
				l.free = start.Add(time.Duration(float64(n) / float64(f.Rate) * 1e9))
			}
			return l.free
		}) {
			return false
		}
		if _, err := l.to.Write(b[:n]); err != nil {
			// The peer is gone, which is news for the other direction to bring.
			if l.conn.holdWhile(1-l.direction, "", Faults.black) {
				l.conn.end(resetting)
			}
			return false
		}
		b = b[n:]
	}
	return true
}
