// Package memnet is a network in memory, for tests under testing/synctest: a
// goroutine that waits on a real socket, or on a lock, stops the fake clock;
// here all waiting is on channels and timers. Connections behave as TCP's do on
// Linux where a program can tell: bounded buffers, half-close, resets,
// deadlines, a latency in each direction.
//
// It starts no goroutine and holds no lock while it waits. What it does not do:
// lose, reorder or limit the rate of anything.
package memnet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"darklaunch/internal/pause"
)

// A Network joins named hosts. The zero value is ready. It is safe for
// concurrent use.
type Network struct {
	// Buffer bounds what one direction of a connection holds between writer and
	// reader, in bytes, those on their way included. Zero means 64 KiB. It may
	// be changed before the first connection.
	Buffer int

	mu        sync.Mutex
	listeners map[string]*Listener // by host:port
	latencies map[[2]string]time.Duration
	ports     map[string]int // the last one given out, by host
}

// backlog is how many connections a listener holds that are not yet accepted;
// more wait in Dial.
const backlog = 128

// Host returns the host of that name, which is a host name or an IP address.
// Hosts need not be declared, and those of the same name are the same.
func (n *Network) Host(name string) *Host { return &Host{n, name} }

// SetLatency sets how long all that is sent from one host takes to another from
// now on, connecting and closing included; it is 0 at first. Nothing overtakes
// what was sent before. With a bounded Buffer, latency bounds throughput.
func (n *Network) SetLatency(from, to string, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.latencies == nil {
		n.latencies = map[[2]string]time.Duration{}
	}
	n.latencies[[2]string{from, to}] = d
}

func (n *Network) latency(from, to string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.latencies[[2]string{from, to}]
}

func (n *Network) listener(address string) *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.listeners[address]
}

// The ephemeral ports, as the IANA has them.
const firstPort, lastPort = 49152, 65535

// port gives out host's ephemeral ports in turn, but for those listened on;
// n.mu is held.
func (n *Network) port(host string) int {
	if n.ports == nil {
		n.ports = map[string]int{}
	}
	for {
		p := n.ports[host] + 1
		if p < firstPort || p > lastPort {
			p = firstPort
		}
		n.ports[host] = p
		if n.listeners[address(host, p).String()] == nil {
			return p
		}
	}
}

// A Host listens and dials under its name.
type Host struct {
	network *Network
	name    string
}

// Addr is the address of an endpoint at a named host. An endpoint at a host
// named by an IP address has a *net.TCPAddr instead.
type Addr struct {
	Host string
	Port int
}

// Network returns "tcp".
func (a Addr) Network() string { return "tcp" }

// String returns host:port.
func (a Addr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

func address(host string, port int) net.Addr {
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port)))
	}
	return Addr{host, port}
}

// Listen listens on a port of h; port 0 means a free one. EADDRINUSE: there is
// a listener on it.
func (h *Host) Listen(port int) (*Listener, error) {
	n := h.network
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == 0 {
		port = n.port(h.name)
	}
	l := &Listener{network: n, host: h.name, addr: address(h.name, port), state: newState()}
	if n.listeners[l.addr.String()] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: l.addr, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	if n.listeners == nil {
		n.listeners = map[string]*Listener{}
	}
	n.listeners[l.addr.String()] = l
	return l, nil
}

// Dial connects h to address, which is host:port; network is "tcp". It takes
// the latency there and back, and fits http.Transport and gRPC's dialers. The
// connection is a *Conn. ECONNREFUSED: nothing listens there, or the listener
// was closed before it took this connection in. Else the error is ctx's.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := h.dial(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr(address), Err: err}
	}
	return c, nil
}

// textAddr is an address as it was given, in an error.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

func (h *Host) dial(ctx context.Context, network, target string) (*Conn, error) {
	if network != "tcp" {
		return nil, net.UnknownNetworkError(network)
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	n := h.network
	if err := pause.For(ctx, n.latency(h.name, host)); err != nil {
		return nil, err
	}
	near, err := n.connect(ctx, h.name, target)
	if late := pause.For(ctx, n.latency(host, h.name)); late != nil {
		if near != nil {
			near.Close()
		}
		return nil, late
	}
	return near, err
}

// connect is what happens at the target.
func (n *Network) connect(ctx context.Context, from, target string) (*Conn, error) {
	l := n.listener(target)
	if l == nil {
		return nil, errRefused
	}
	near, far := n.pair(from, l)
	if err := l.offer(ctx, far); err != nil {
		return nil, err
	}
	return near, nil
}

var errRefused = os.NewSyscallError("connect", syscall.ECONNREFUSED)

// pair makes the two ends of a connection from a host to l.
func (n *Network) pair(from string, l *Listener) (near, far *Conn) {
	n.mu.Lock()
	local := address(from, n.port(from))
	n.mu.Unlock()
	size := n.Buffer
	if size == 0 {
		size = 64 << 10
	}
	there, back := newPipe(size), newPipe(size)
	near = &Conn{in: back, out: there, local: local, remote: l.addr, latency: func() time.Duration { return n.latency(from, l.host) }}
	far = &Conn{in: there, out: back, local: l.addr, remote: local, latency: func() time.Duration { return n.latency(l.host, from) }}
	return near, far
}

// state is a lock, and a way to wait for what it guards to change without
// holding it.
type state struct {
	sync.Mutex
	next chan struct{} // closed at the next change
}

func newState() state { return state{next: make(chan struct{})} }

// changed wakes all who wait; the lock is held.
func (s *state) changed() {
	close(s.next)
	s.next = make(chan struct{})
}

// await calls try with the lock held until it is done. Between two calls it
// waits for a change, for the time that try returned unless that is zero, or for
// quit, the only case in which it returns false.
func (s *state) await(quit <-chan struct{}, try func(now time.Time) (done bool, again time.Time)) bool {
	for {
		s.Lock()
		now := time.Now()
		done, again := try(now)
		next := s.next
		s.Unlock()
		if done {
			return true
		}
		if !wait(next, quit, again.Sub(now), !again.IsZero()) {
			return false
		}
	}
}

func wait(next, quit <-chan struct{}, d time.Duration, timed bool) bool {
	var timeout <-chan time.Time
	if timed {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-next:
	case <-timeout:
	case <-quit:
		return false
	}
	return true
}

// A Listener is a net.Listener on a port of a host.
type Listener struct {
	network *Network
	host    string
	addr    net.Addr

	state   state // guards the rest
	waiting []*Conn
	closed  bool
}

// offer hands c to l, when there is room.
func (l *Listener) offer(ctx context.Context, c *Conn) error {
	var err error
	if !l.state.await(ctx.Done(), func(time.Time) (bool, time.Time) {
		switch {
		case l.closed:
			err = errRefused
		case len(l.waiting) < backlog:
			l.waiting = append(l.waiting, c)
			l.state.changed()
		default:
			return false, time.Time{}
		}
		return true, time.Time{}
	}) {
		return ctx.Err()
	}
	return err
}

// Accept waits for the next connection. The error is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	var c *Conn
	l.state.await(nil, func(time.Time) (bool, time.Time) {
		if len(l.waiting) > 0 {
			c, l.waiting = l.waiting[0], l.waiting[1:]
			l.state.changed()
		}
		return c != nil || l.closed, time.Time{}
	})
	if c == nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	return c, nil
}

// Close frees the port. Connections that were not accepted are reset; accepted
// ones stay.
func (l *Listener) Close() error {
	l.state.Lock()
	waiting, closed := l.waiting, l.closed
	l.waiting, l.closed = nil, true
	l.state.changed()
	l.state.Unlock()
	if closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	l.network.mu.Lock()
	delete(l.network.listeners, l.addr.String())
	l.network.mu.Unlock()
	for _, c := range waiting {
		c.abort()
	}
	return nil
}

// Addr returns the address to dial.
func (l *Listener) Addr() net.Addr { return l.addr }
