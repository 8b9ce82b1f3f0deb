// Package faultnet puts a TCP proxy with faults between a client and one target,
// for tests over real sockets: latency, rates, black holes, cuts, resets,
// corruption. Faults are switched while it runs, hold for connections there are
// and those to come, and are counted when they bite: a test can assert that
// what it injected has happened.
//
// Without a fault the proxy is transparent: bytes, half-close, resets and
// back-pressure pass through, in both directions.
package faultnet

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Direction is one half of each connection.
type Direction int

// The two directions.
const (
	ToTarget Direction = iota // requests
	ToClient                  // replies
)

// Faults are what one direction suffers until the next Set. The zero value is
// none. They do not bring back bytes that are lost, so after Swallow a stream
// goes on with a gap.
type Faults struct {
	// Delay holds all bytes for so long. It keeps their order and does not limit
	// throughput until 1024 reads or 16 MiB are on their way in the proxy. A reset
	// is not delayed, and what it overtakes is lost.
	Delay time.Duration
	// Rate limits each connection to so many bytes a second. Zero is no limit.
	Rate int64
	// Stall stops reading: connections stay open, the sender's buffers fill up
	// and then its writes block. At most one read of 16 KiB is taken out, and
	// held, the end of the stream and a reset with it.
	Stall bool
	// Swallow reads on and forwards nothing: the sender believes its bytes were
	// delivered, connections stay open. The end of the stream and a reset are
	// held until it is lifted.
	Swallow bool
	// SlowClose holds the end of the stream for so long after it came, and Delay.
	SlowClose time.Duration
}

// A Door is what happens to new connections.
type Door int

// The doors.
const (
	Open Door = iota
	// CutNew accepts and closes with FIN.
	CutNew
	// ResetNew accepts and resets. The client's connect succeeds.
	ResetNew
	// RefuseNew stops listening and keeps the port: connects fail with
	// ECONNREFUSED. The kernel does this, so it is not counted: the client's
	// error is the evidence.
	RefuseNew
)

// A Kind is what Count counts.
type Kind string

// The kinds, and how often each is counted.
const (
	Delayed     Kind = "delayed"       // once for each read that had to wait
	Limited     Kind = "limited"       // once for each write that had to wait
	Stalled     Kind = "stalled"       // once for each read held, or end held
	Swallowed   Kind = "swallowed"     // once for each read lost, or end held
	SlowClosed  Kind = "slowly closed" // once for each end held
	Corrupted   Kind = "corrupted"     // once for each byte
	WasCut      Kind = "cut"           // once for each connection
	WasReset    Kind = "reset"         // once for each connection, by Reset or ResetNew alone
	Unreachable Kind = "unreachable"   // no fault of ours: the target did not accept; the client is reset
)

// A Proxy forwards connections to its target. It is safe for concurrent use.
type Proxy struct {
	target atomic.Pointer[string]
	addr   netip.AddrPort
	hold   int // a socket bound to addr, so that nobody else takes the port while we do not listen
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // all goroutines

	settings atomic.Pointer[settings]
	counts   counts

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while refusing
	conns    map[*conn]bool
	shots    [2]shots
}

// settings are replaced as a whole.
type settings struct {
	faults   [2]Faults
	door     Door
	replaced chan struct{} // closed when they are
}

// shots are armed faults that bite once.
type shots struct {
	corrupt int64 // bytes until the one to corrupt, itself included; 0 is none
	swallow bool
}

// Listen starts a proxy for a target on a free port of 127.0.0.1.
func Listen(target string) (*Proxy, error) {
	fd, addr, err := reserve()
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	p := &Proxy{addr: addr, hold: fd, conns: map[*conn]bool{}, counts: newCounts()}
	p.target.Store(&target)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.settings.Store(&settings{replaced: make(chan struct{})})
	if err := p.listen(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return p, nil
}

// reserve binds a free port without listening on it.
func reserve() (fd int, addr netip.AddrPort, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, addr, err
	}
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	if err == nil {
		err = unix.Bind(fd, loopback)
	}
	var bound unix.Sockaddr
	if err == nil {
		bound, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return 0, addr, err
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(loopback.Addr), uint16(bound.(*unix.SockaddrInet4).Port)), nil
}

// listen listens on the reserved port; p.mu is held, or p is new.
func (p *Proxy) listen() error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); e != nil {
			return e
		}
		return err
	}}
	l, err := config.Listen(p.ctx, "tcp4", p.addr.String())
	if err != nil {
		return err
	}
	p.listener = l
	p.wg.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed, by Close or SetDoor
		}
		client := c.(*net.TCPConn)
		switch p.settings.Load().door {
		case ResetNew:
			p.counts.add(WasReset)
			reset(client)
		case CutNew:
			p.counts.add(WasCut)
			p.wg.Go(func() { cut(p.ctx, client) })
		default:
			p.serve(client)
		}
	}
}

// serve begins to forward a connection. It is in conns before the target hears
// of it.
func (p *Proxy) serve(client *net.TCPConn) {
	c := newConn(p)
	p.mu.Lock()
	p.conns[c] = true
	p.mu.Unlock()
	p.wg.Go(func() {
		c.run(client)
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	})
}

// Addr returns the address that clients dial instead of the target's.
func (p *Proxy) Addr() string { return p.addr.String() }

// Retarget has new connections go to another target: a server that was started again,
// elsewhere. Those there are stay.
func (p *Proxy) Retarget(target string) { p.target.Store(&target) }

// Close closes the listener and all connections, and returns when all of the
// proxy's goroutines have ended.
func (p *Proxy) Close() error {
	p.mu.Lock()
	again := p.closed
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.cancel()
	p.wg.Wait()
	if again {
		return net.ErrClosed
	}
	return unix.Close(p.hold)
}

// each calls f for all connections there are.
func (p *Proxy) each(f func(c *conn)) {
	p.mu.Lock()
	all := slices.Collect(maps.Keys(p.conns))
	p.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

// Set replaces the faults of one direction. What the proxy has read already is
// delayed, limited and closed by the new ones, but neither stalled nor swallowed.
func (p *Proxy) Set(d Direction, f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(func(s *settings) { s.faults[d] = f })
}

// SetDoor says what happens to new connections. The error is that of listening
// again after RefuseNew.
func (p *Proxy) SetDoor(d Door) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(func(s *settings) { s.door = d })
	switch {
	case p.closed:
		return net.ErrClosed
	case d == RefuseNew && p.listener != nil:
		p.listener.Close()
		p.listener = nil
	case d != RefuseNew && p.listener == nil:
		return p.listen()
	}
	return nil
}

// replace changes the settings; p.mu is held.
func (p *Proxy) replace(change func(s *settings)) {
	old := p.settings.Load()
	s := &settings{faults: old.faults, door: old.door, replaced: make(chan struct{})}
	change(s)
	p.settings.Store(s)
	close(old.replaced)
}

// Cut closes both sides of all connections that the target has accepted, perhaps
// of more, with FIN; what the proxy holds of
// their bytes is lost. For up to a second, what a peer still sends is thrown
// away, for answering it would be a reset. Later connections are not affected.
func (p *Proxy) Cut() { p.each((*conn).cut) }

// Reset resets both sides of the same connections as Cut. What the proxy, or a
// peer's kernel, holds of their bytes may be lost.
func (p *Proxy) Reset() {
	p.each(func(c *conn) {
		if c.end(resetting) {
			p.counts.add(WasReset)
		}
	})
}

// Corrupt flips the lowest bit of the nth byte, counted from 1, that the proxy
// reads from now on in one direction of all connections together.
func (p *Proxy) Corrupt(d Direction, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shots[d].corrupt = n
}

// SwallowAndCut swallows the next read in one direction of any connection and
// then cuts that connection. Of a reply: what was asked for has been done, and
// the client cannot know.
func (p *Proxy) SwallowAndCut(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shots[d].swallow = true
}

// shoot lets the armed faults bite on what was read. It returns whether all of
// it is to be swallowed, and the connection cut.
func (p *Proxy) shoot(d Direction, b []byte) (swallow bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.shots[d]
	swallow, s.swallow = s.swallow, false
	if n := s.corrupt; !swallow && n > 0 && n <= int64(len(b)) {
		b[n-1] ^= 1
		p.counts.add(Corrupted)
	}
	s.corrupt = max(0, s.corrupt-int64(len(b)))
	return swallow
}

// Count returns how often a fault has bitten so far.
func (p *Proxy) Count(k Kind) int64 {
	n, _ := p.counts.get(k)
	return n
}

// Await waits until a fault has bitten n times in all. The error is ctx's.
func (p *Proxy) Await(ctx context.Context, k Kind, n int64) error {
	for {
		got, next := p.counts.get(k)
		if got >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("%s %d times, waiting for %d: %w", k, got, n, ctx.Err())
		}
	}
}

type counts struct {
	mu   sync.Mutex
	n    map[Kind]int64
	next chan struct{} // closed at the next change
}

func newCounts() counts { return counts{n: map[Kind]int64{}, next: make(chan struct{})} }

func (c *counts) add(k Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n[k]++
	close(c.next)
	c.next = make(chan struct{})
}

func (c *counts) get(k Kind) (n int64, next <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[k], c.next
}
