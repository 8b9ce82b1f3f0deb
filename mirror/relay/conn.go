package relay

import (
	"net/netip"
	"runtime/debug"
	"time"
)

// Side is one end of a relayed connection.
type Side uint8

const (
	Client Side = iota
	Live
)

func (s Side) other() Side { return 1 - s }

// Cause says why a connection ended. It is a label value: the set is closed.
type Cause uint8

const (
	// Ended: both sides had sent all they wanted, and it was delivered.
	Ended Cause = iota + 1
	// ClientReset and LiveReset: that side reset the connection, or cut a TLS
	// connection without its closing alert.
	ClientReset
	LiveReset
	// LiveDown: no address of live took the connection.
	LiveDown
	// OverTotal and OverClient: one more than the limit.
	OverTotal
	OverClient
	// BadProxyHeader: no PROXY header came in time, or it was malformed.
	BadProxyHeader
	// BadHandshake: TLS with the client did not come about, for another reason
	// than live being down.
	BadHandshake
	// Idle: nothing passed for the idle time-out.
	Idle
	// Drained: closed between exchanges, by the end of Run's context.
	Drained
	// Cut: still open at the end of the drain time-out.
	Cut
	// Recycled: closed by Recycle.
	Recycled

	// Darkened is given to an Observer alone: the connection goes on.
	Darkened
)

var causeNames = [...]string{
	Ended: "ended", ClientReset: "client_reset", LiveReset: "live_reset", LiveDown: "live_down",
	OverTotal: "limit_total", OverClient: "limit_client", BadProxyHeader: "proxy_header", BadHandshake: "tls_handshake",
	Idle: "idle", Drained: "drained", Cut: "cut", Recycled: "recycled", Darkened: "darkened",
}

// String returns the label value.
func (c Cause) String() string {
	if int(c) < len(causeNames) {
		return causeNames[c]
	}
	return ""
}

func resetBy(s Side) Cause {
	if s == Live {
		return LiveReset
	}
	return ClientReset
}

// Protocols of a connection, as an Observer tells them; label values.
const (
	HTTP1  = "http1"
	HTTP2  = "http2"
	Opaque = "opaque"
	// Unseen counts connections that ended before an Observer could tell, or
	// had none.
	Unseen = "unseen"
)

// Info is what is known of a connection as it opens.
type Info struct {
	// Client is its address, as the PROXY header tells it if there is one.
	Client netip.AddrPort
	// Live is the address that was picked.
	Live netip.AddrPort
	// ServerName and ALPN are the client's and live's word in TLS, else empty.
	ServerName, ALPN string
}

// Observer takes a copy of what a connection carries. Its calls come one at a
// time, from the goroutine that relays, and must not block. Causes come before
// effects: what a side sends in answer to a chunk is handed in after the chunk,
// and what live sends is handed in before the client gets it, so that what the
// client then does on another connection comes later, too.
// An Observer that panics is not called again.
type Observer interface {
	// Chunk takes bytes that side sent and the relay read at at. p is only lent.
	Chunk(side Side, at time.Time, p []byte)
	// EOF says that side will send no more.
	EOF(side Side, at time.Time)
	// Close is the last call.
	Close(cause Cause, at time.Time)
	// State returns the protocol, HTTP1, HTTP2 or Opaque, or "" while it isn't
	// known; and whether the connection is between exchanges, so that closing it
	// would cut none.
	State() (protocol string, between bool)
}

// quietFor is how long nothing must have passed on a connection that looks
// finished before it is closed: a request may be on its way.
const quietFor = 250 * time.Millisecond

// quietUnread is the same for one that no Observer has read.
const quietUnread = time.Second

// conn is what the drivers have in common of a connection. It is not safe for
// concurrent use.
type conn struct {
	r        *Relay
	peer     netip.AddrPort // of the client's socket
	local    netip.AddrPort // where the client connected to; set for ProxyOut
	client   netip.AddrPort // from the PROXY header, else peer
	counted  netip.Addr     // as which client it was admitted
	live     *backend       // from pick to close
	observer Observer       // nil: unobserved
	open     bool           // to live, and the observer was asked for
	named    bool           // its protocol has been counted
	darkness uint32         // Relay.darkness as it opened

	last     time.Time // something passed, or it opened
	lastSide Side      // who sent last
	answered bool      // live has sent something
}

// admit counts the connection in, or says why it may not.
func (r *Relay) admit(c *conn, peer netip.AddrPort) Cause {
	c.r = r
	c.peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	c.client = c.peer
	if cause := r.admitted.enter(); cause != 0 {
		r.metrics.closed[cause].Inc()
		return cause
	}
	r.metrics.open.Inc()
	return 0
}

// admitClient is admit's second half, when the client's address is known. The
// caller closes the connection if the answer is not 0.
func (c *conn) admitClient() Cause {
	cause := c.r.admitted.enterClient(c.client.Addr())
	if cause == 0 {
		c.counted = c.client.Addr()
	}
	return cause
}

// opened is called when live has taken the connection and before any byte.
func (c *conn) opened(serverName, alpn string, now time.Time) {
	c.open, c.last, c.lastSide = true, now, Client
	c.darkness = c.r.darkness.Load()
	if c.r.cfg.Observe != nil {
		info := Info{Client: c.client, Live: c.live.addr, ServerName: serverName, ALPN: alpn}
		func() {
			defer c.rescue()
			c.observer = c.r.cfg.Observe(info)
		}()
	}
	if c.observer == nil {
		c.r.metrics.unobserved.Inc()
	}
}

// chunk hands p to the observer.
func (c *conn) chunk(side Side, at time.Time, p []byte) {
	c.last, c.lastSide = at, side
	c.answered = c.answered || side == Live
	if c.observer == nil || c.darken(at) {
		return
	}
	defer c.rescue()
	c.observer.Chunk(side, at, p)
	c.name(c.observer)
}

// name counts the protocol once it is known.
func (c *conn) name(o Observer) {
	if c.named {
		return
	}
	if protocol, _ := o.State(); protocol != "" {
		c.named = true
		c.r.metrics.protocol(protocol).Inc()
	}
}

func (c *conn) eof(side Side, at time.Time) {
	if c.observer == nil {
		return
	}
	defer c.rescue()
	c.observer.EOF(side, at)
}

// darken takes the observer away if Darken was called since the connection
// opened, and reports whether it did.
func (c *conn) darken(at time.Time) bool {
	if c.observer == nil || c.darkness == c.r.darkness.Load() {
		return false
	}
	c.closeObserver(Darkened, at)
	c.r.metrics.unobserved.Inc()
	return true
}

// rescue ends the observing, and not the connection, when an observer panics.
func (c *conn) rescue() {
	v := recover()
	if v == nil {
		return
	}
	stack := debug.Stack()
	if c.observer != nil {
		c.observer = nil
		c.r.metrics.unobserved.Inc()
	}
	c.r.metrics.panics.Inc()
	if c.r.cfg.OnPanic == nil {
		return
	}
	defer func() { _ = recover() }() // whoever handles the panic may panic as well
	c.r.cfg.OnPanic(v, stack)
}

func (c *conn) closeObserver(cause Cause, at time.Time) {
	o := c.observer
	if o == nil {
		return
	}
	defer c.rescue()
	c.observer = nil
	o.Close(cause, at)
	c.name(o)
}

// closed is called once for each connection that admit let in.
func (c *conn) closed(cause Cause, at time.Time) {
	m := &c.r.metrics
	if c.open {
		if c.observer == nil {
			m.unobserved.Dec()
		}
		c.closeObserver(cause, at)
	}
	if !c.named {
		m.protocol(Unseen).Inc()
	}
	if c.live != nil {
		c.live.open.Add(-1)
	}
	m.closed[cause].Inc()
	m.open.Dec()
	c.r.admitted.leave(c.counted)
}

// due says why the connection should end now, or 0. Nothing may be on its way
// through the relay for a close between exchanges.
func (c *conn) due(now time.Time) Cause {
	c.darken(now)
	quiet := now.Sub(c.last)
	switch r := c.r; {
	case r.cutting.Load():
		return Cut
	case r.draining.Load() && c.between(quiet, r.firm.Load()):
		return Drained
	case r.recycling.Load() && c.observer == nil && c.between(quiet, false):
		return Recycled
	case r.cfg.IdleTimeout > 0 && quiet >= r.cfg.IdleTimeout:
		return Idle
	}
	return 0
}

// between reports whether the connection seems to be between exchanges, having
// been quiet for so long; firm closes at the first such moment.
func (c *conn) between(quiet time.Duration, firm bool) bool {
	if c.observer == nil {
		return c.lastSide == Live && quiet >= quietUnread
	}
	enough := quietFor
	switch {
	case !c.answered:
		enough = quietUnread // its first request may be on its way
	case firm:
		enough = 0
	}
	if quiet < enough {
		return false
	}
	defer c.rescue()
	_, between := c.observer.State()
	return between
}

// resets reports whether both sides are told by a reset: what was on its way
// may be incomplete, and must not look whole.
func (c Cause) resets() bool {
	switch c {
	case Ended, Drained, Recycled, Idle, OverTotal, OverClient, BadHandshake:
		return false
	}
	return true
}
