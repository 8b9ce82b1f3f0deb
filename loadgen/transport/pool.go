package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// Config says whom a Pool calls, what and how.
type Config struct {
	Protocol Protocol
	// Addr is host:port. A name is resolved once; its addresses take turns.
	Addr string
	// TLS, if set, is used on every connection, with the protocol's own ALPN.
	TLS *tls.Config
	// Host is the authority sent. Empty means Addr.
	Host string
	// Ops are what may be called.
	Ops []Op
	// Conns bounds the open connections. Zero means 64 for HTTP/1.1, else 4;
	// with PerUser 10,000.
	Conns int
	// Streams bounds the calls at once on an HTTP/2 connection, below what the
	// server allows. Zero means 64.
	Streams int
	// CallsPerConn closes a connection after that many calls. Zero means never.
	CallsPerConn int
	// PerUser gives each Call.User a connection of its own while it can: past
	// Conns the one that has been idle longest makes room.
	PerUser bool
	// MaxAnswer bounds the body of an answer. Zero means 64 MiB.
	MaxAnswer int64
	// Portable has plain connections served by goroutines too.
	Portable bool
}

// Check refuses a configuration that names nothing to call, or what cannot be sent.
func (c Config) Check() error {
	if len(c.Ops) == 0 {
		return errors.New("transport: no operations")
	}
	for i := range c.Ops {
		if err := c.Ops[i].check(c.Protocol); err != nil {
			return fmt.Errorf("transport: %w", err)
		}
	}
	return nil
}

// WithDefaults returns c with the defaults in place of zeros.
func (c Config) WithDefaults() Config {
	if c.Host == "" {
		c.Host = c.Addr
	}
	if c.Conns == 0 {
		switch {
		case c.PerUser:
			c.Conns = 10000
		case c.Protocol == HTTP1:
			c.Conns = 64
		default:
			c.Conns = 4
		}
	}
	if c.Streams == 0 {
		c.Streams = 64
	}
	if c.Protocol == HTTP1 {
		c.Streams = 1
	}
	if c.MaxAnswer == 0 {
		c.MaxAnswer = 64 << 20
	}
	return c
}

// A poller moves the bytes of a pool's connections, in the pool's goroutine.
type poller interface {
	// dial starts to connect k; connected or lose follows from wait.
	dial(k *conn) error
	// wait hands what happened to the connections it happened to. It returns
	// when something did, or at until.
	wait(until time.Duration)
	close()
}

// Pool makes calls over a set of connections to one address. It is a driver for
// the engine: one goroutine starts calls and polls.
type Pool struct {
	cfg    Config
	clock  Clock
	poller poller
	one    []request1
	two    []request2
	blocks *blockCache

	conns   int          // not closed
	dialed  atomic.Int64 // and the same for other goroutines
	opened  atomic.Int64 // of them, those that calls can use
	users   map[uint64]*conn
	ready   list[conn, *conn] // with room; with PerUser, idle ones
	waiting list[Call, *Call] // for any connection
	dirty   []*conn
	done    []*Call
	handed  []*Call
}

// New returns a Pool that has made no connection yet. Its times are clock's.
func New(cfg Config, clock Clock) (*Pool, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	p := &Pool{cfg: cfg, clock: clock, users: map[uint64]*conn{}}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	for i := range cfg.Ops {
		o := &cfg.Ops[i]
		if cfg.Protocol == HTTP1 {
			p.one = append(p.one, newRequest1(o, cfg.Host))
		} else {
			p.two = append(p.two, newRequest2(o, cfg.Protocol, scheme, cfg.Host))
		}
	}
	p.blocks = newBlockCache()
	addrs, err := resolve(cfg.Addr)
	if err != nil {
		return nil, err
	}
	if p.poller, err = newPoller(p, addrs); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	return p, nil
}

// resolveTimeout bounds the look-up of the target's name.
const resolveTimeout = 10 * time.Second

func resolve(addr string) ([]*net.TCPAddr, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("transport: address %s: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, fmt.Errorf("transport: address %s: %w", addr, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("transport: address %s: %w", addr, err)
	}
	var addrs []*net.TCPAddr
	for _, ip := range ips {
		addrs = append(addrs, &net.TCPAddr{IP: ip.Unmap().AsSlice(), Port: port, Zone: ip.Zone()})
	}
	return addrs, nil
}

// Conns is how many connections are open, and how many are being opened. It is
// safe for concurrent use.
func (p *Pool) Conns() (open, opening int) {
	open = int(p.opened.Load())
	return open, max(0, int(p.dialed.Load())-open)
}

// openGap is how long after the start of one connection Open starts the next. A
// server with a short queue of connections that it has not accepted, 5 for many,
// loses those that come all at once, and TCP tries again after a second.
const openGap = time.Millisecond

// Open makes connections before there are calls for them, one after the other, and
// waits for them until the given time. It does nothing where connections are made for a user
// or for a number of calls. A connection that fails, or is not up in time, is
// tried again when a call needs it, and then fails that.
func (p *Pool) Open(until time.Duration) {
	if p.cfg.PerUser || p.cfg.CallsPerConn > 0 {
		return
	}
	var made []*conn
	next := p.clock.Now()
	gap := min(openGap, (until-next)/time.Duration(2*p.cfg.Conns))
	for now := next; now < until && p.conns == len(made) && p.opened.Load() < int64(p.cfg.Conns); now = p.clock.Now() {
		wait := until
		if len(made) < p.cfg.Conns {
			if now >= next {
				k, err := p.dial(nil)
				if err != nil {
					break
				}
				made, next = append(made, k), now+gap
			}
			wait = next
		}
		p.flush()
		p.poller.wait(wait)
	}
	for _, k := range made {
		if k.state == dialing || k.state == greeting {
			k.shut()
		}
	}
}

// Start begins a call: at once if a connection has room, else when one has.
// Nothing is written before the next Poll.
func (p *Pool) Start(c *Call) {
	c.reset()
	p.place(c)
}

func (p *Pool) place(c *Call) {
	if p.cfg.PerUser {
		if k := p.users[c.User]; k != nil {
			p.queue(k, c)
			if k.proto != nil {
				k.settle()
			}
			return
		}
		if p.conns >= p.cfg.Conns {
			if k := p.pick(); k != nil {
				k.shut()
			}
		}
	} else if k := p.pick(); k != nil {
		k.start(c)
		return
	}
	if p.conns >= p.cfg.Conns {
		p.waiting.push(c)
		return
	}
	if _, err := p.dial(c); err != nil {
		c.Class = Connect
		p.finish(c)
	}
}

// pick returns the connection next in turn that has room, or nil: with PerUser,
// the one that has been idle longest.
func (p *Pool) pick() *conn {
	for k := p.ready.head; k != nil; k = p.ready.head {
		if k.room() > 0 {
			return k
		}
		p.ready.remove(k) // the server allows less than it did
	}
	return nil
}

// dial opens a connection for c, or for whatever comes if c is nil.
func (p *Pool) dial(c *Call) (*conn, error) {
	k := &conn{pool: p}
	if c != nil {
		c.Tried = true
		k.user = c.User
	}
	if err := p.poller.dial(k); err != nil {
		return nil, err
	}
	p.conns++
	p.dialed.Add(1)
	if c != nil {
		p.queue(k, c)
		if p.cfg.PerUser {
			p.users[k.user] = k
		}
	}
	return k, nil
}

// speak returns the protocol of a new connection.
func (p *Pool) speak() protocol {
	if p.cfg.Protocol == HTTP1 {
		return &http1{requests: p.one, limit: p.cfg.MaxAnswer}
	}
	return newHTTP2(p.two, p.cfg, p.blocks, p.clock)
}

// offer says that k may have room, and gives it what waits.
func (p *Pool) offer(k *conn) {
	if k.state != open {
		return
	}
	if p.cfg.PerUser {
		if p.waiting.head != nil && k.active == 0 && k.queue.head == nil {
			k.shut() // room for another user's
			return
		}
	} else {
		for p.waiting.head != nil && k.room() > 0 {
			k.start(p.waiting.pop())
		}
	}
	if !k.links.in && k.room() > 0 && (!p.cfg.PerUser || k.active == 0) {
		p.ready.push(k)
	}
}

// busier says that k has taken a call.
func (p *Pool) busier(k *conn) {
	if k.links.in && (p.cfg.PerUser || k.room() <= 0) {
		p.ready.remove(k)
	}
}

// queue has c wait for k alone.
func (p *Pool) queue(k *conn, c *Call) {
	c.queued = k
	k.queue.push(c)
}

// gone says that k, which was in the given state, was closed.
func (p *Pool) gone(k *conn, was connState) {
	p.conns--
	if k.links.in {
		p.ready.remove(k)
	}
	p.dialed.Add(-1)
	if was == open {
		p.opened.Add(-1)
	}
	if p.users[k.user] == k {
		delete(p.users, k.user)
	}
}

// again queues a call that lost its connection; feed finds it another.
func (p *Pool) again(c *Call) {
	c.queued = nil
	p.waiting.push(c)
}

// feed opens connections for calls that wait while there may be more.
func (p *Pool) feed() {
	for n := p.cfg.Conns; p.waiting.head != nil && p.conns < p.cfg.Conns && n > 0; n-- {
		p.place(p.waiting.pop())
	}
}

func (p *Pool) finish(c *Call) {
	c.Done = p.clock.Now()
	p.done = append(p.done, c)
}

// Cancel gives a call up: its stream is reset, or its connection closed. The
// call is the caller's again.
func (p *Pool) Cancel(c *Call) {
	switch {
	case c.conn != nil:
		c.conn.cancel(c)
	case c.links.in && c.queued == nil:
		p.waiting.remove(c)
	case c.links.in:
		k := c.queued
		k.queue.remove(c)
		if k.state == dialing && k.queue.head == nil {
			k.shut() // nobody waits for it any more; it may never come up
		}
	default: // ended already, and not yet handed back
		p.done = slices.DeleteFunc(p.done, func(d *Call) bool { return d == c })
	}
}

func (p *Pool) flush() {
	for i := 0; i < len(p.dirty); i++ {
		k := p.dirty[i]
		used := len(k.unsent) > 0
		k.flush()
		if used && k == p.ready.head {
			// Its turn is over: the next batch goes to the next connection.
			p.ready.remove(k)
			p.offer(k)
		}
	}
	p.dirty = p.dirty[:0]
}

// Poll writes what was started, waits until something happens or until the
// given time, and returns the calls that ended. The slice is valid until the
// next Poll.
func (p *Pool) Poll(until time.Duration) []*Call {
	p.feed()
	p.flush()
	if len(p.done) > 0 {
		until = 0
	}
	p.poller.wait(until)
	p.feed()
	p.done, p.handed = p.handed[:0], p.done
	return p.handed
}

// Close closes all connections. Calls under way are forgotten.
func (p *Pool) Close() { p.poller.close() }
