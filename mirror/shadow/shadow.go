// Package shadow sends copies of requests to one role, shadow or control, and
// takes back what it answers. The role is taken for hostile: whatever it does
// or leaves undone costs bounded time and memory, and ends one call.
//
// A call is made by the goroutine that asks for it: a connection of its own in
// HTTP/1.1, a stream on a shared one in HTTP/2, by prior knowledge or ALPN.
// Redirects are not followed, nothing is decompressed, and nothing is sent
// twice: once the first byte was written a copy is sent, whatever becomes of it.
//
//	for {                                     // a worker
//		d, err := l.Next(ctx)             // lanes: a copy is due
//		o := b.NewOutcome()
//		err = b.Send(cp, func() bool { … l.Sent(…) … }, o)
//		…                                 // err: drop it; else l.Done, and the pair
//		o.Release()
//	}
//
// net/http's transports are not used: see BenchmarkSend for what they cost beside
// this package. Framing of what is read and HPACK are x/net's.
package shadow

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"darklaunch/mirror/observe"
)

// Why a copy was not sent. Send returns them, and nothing was written then.
var (
	// ErrOpen: the breaker is open.
	ErrOpen = errors.New("breaker open")
	// ErrBusy: too many calls are on their way.
	ErrBusy = errors.New("too many calls")
	// ErrDropped: begin returned false.
	ErrDropped = errors.New("dropped")
)

// Copy is one exchange on its way to the roles, which may all send it at once.
type Copy struct {
	// Calls are made in this order, each when the one before it was answered.
	// Without a translation there is one.
	Calls []Call
	// ID names the copy; it should be random. Key is its author's keyed hash.
	ID  [16]byte
	Key uint64
}

// Config describes a role's backend.
type Config struct {
	// Role is "shadow" or "control".
	Role string
	// Address is host:port, or https://host:port for TLS.
	Address string
	// TLS is used for https. Nil verifies against the system's roots. NextProtos
	// is set by the package.
	TLS *tls.Config
	// Rules change header fields of the calls.
	Rules []Rule
	// Dial makes connections. Nil is a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Timeout bounds one call, from when it is begun to the answer's last byte.
	// It is kept to within a twentieth. Zero means 5s.
	Timeout time.Duration
	// ConnectTimeout bounds one connect, TLS and HTTP/2's first SETTINGS
	// included. Zero means 2s. It is no part of Timeout.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a connection without calls is kept. Zero means 30s.
	IdleTimeout time.Duration
	// MaxCalls bounds calls under way. Zero means 64.
	MaxCalls int
	// MaxConns2 bounds HTTP/2 connections. Zero means 4.
	MaxConns2 int
	// MaxStreams bounds the calls on one HTTP/2 connection. Zero means 100.
	MaxStreams int
	// KeepBody is how much of an answer's body is kept, in bytes. The rest is
	// hashed. Zero means 256 KiB.
	KeepBody int
	// MaxBody is how much is read of one, in bytes. Zero means 64 MiB.
	MaxBody int64
	// MaxHead bounds an answer's fields together, interim answers and trailers
	// included, as RFC 9113 §6.5.2 counts them. Zero means 64 KiB.
	MaxHead int
	// Account is charged with what answers keep until they are released. What
	// it refuses is hashed and not kept; a header it refuses fails the call.
	// Nil is no bound but those above.
	Account observe.Account
	// Panicked is told of a panic in a goroutine of the backend, which then goes
	// on without what it did. Nil lets it panic. Send, Run and what they call
	// panic where they are called.
	Panicked func(v any)
	// Metrics are shared by all roles. Nil counts nothing.
	Metrics *Metrics
}

func (cfg Config) withDefaults() Config {
	fill(&cfg.Timeout, 5*time.Second)
	fill(&cfg.ConnectTimeout, 2*time.Second)
	fill(&cfg.IdleTimeout, 30*time.Second)
	fill(&cfg.MaxCalls, 64)
	fill(&cfg.MaxConns2, 4)
	fill(&cfg.MaxStreams, 100)
	fill(&cfg.KeepBody, 256<<10)
	fill(&cfg.MaxBody, 64<<20)
	fill(&cfg.MaxHead, 64<<10)
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	return cfg
}

func fill[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Backend is one role. It is safe for any number of goroutines.
type Backend struct {
	cfg       Config
	limits    limits
	role      []byte
	authority []byte // the address
	scheme    string
	rules     rules
	set       []wireField // by rules
	host      []byte      // by a rule, or nil
	metrics   *roleMetrics
	scratches sync.Pool // of *scratch
	outcomes  sync.Pool // of *Outcome

	http1 pool1
	http2 pool2
	// life ends with Run, and with it the connects under way. It is the
	// connections' own: they outlive the calls that make them.
	life context.Context
	stop context.CancelFunc

	mu      sync.Mutex // guards the rest
	calls   int
	stopped bool
	breaker breaker
}

// scratch is what a call needs while it is under way.
type scratch struct {
	wire   wire
	out    []byte
	in     reader1
	stream stream
}

func newScratch() any {
	return &scratch{
		in:     reader1{buf: make([]byte, 16<<10)},
		stream: stream{done: make(chan error, 1), wake: make(chan struct{}, 1)},
	}
}

// New returns the backend of a role, which is ready while Run runs. The error
// says what of cfg can't be used.
func New(cfg Config) (*Backend, error) {
	b := &Backend{cfg: cfg.withDefaults(), role: []byte(cfg.Role), scheme: "http"}
	if cfg.Role != "shadow" && cfg.Role != "control" {
		return nil, fmt.Errorf("role %q: want shadow or control", cfg.Role)
	}
	address := cfg.Address
	if u, err := url.Parse(address); err == nil && u.Scheme == "https" && u.Path == "" && u.RawQuery == "" && u.User == nil {
		address, b.scheme = u.Host, "https"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return nil, fmt.Errorf("%s address %q: want host:port or https://host:port", cfg.Role, cfg.Address)
	}
	b.cfg.Address, b.authority = address, []byte(address)
	if b.scheme == "https" {
		b.cfg.TLS = cfg.TLS.Clone()
		if b.cfg.TLS == nil {
			b.cfg.TLS = new(tls.Config)
		}
		if b.cfg.TLS.ServerName == "" {
			b.cfg.TLS.ServerName = host
		}
	}
	if b.rules, err = newRules(cfg.Rules); err != nil {
		return nil, err
	}
	for _, r := range b.rules {
		switch {
		case r.Name == "host":
			b.host = []byte(r.Value)
		case r.Action == Set:
			b.set = append(b.set, wireField{[]byte(r.Name), []byte(r.Value), kindOf([]byte(r.Name))})
		}
	}
	b.limits = limits{b.cfg.KeepBody, b.cfg.MaxBody, b.cfg.MaxHead, b.cfg.Account}
	b.scratches.New = newScratch
	b.outcomes.New = func() any { return &Outcome{pool: &b.outcomes} }
	b.http1.all = map[*conn1]struct{}{}
	b.http2.freed = make(chan struct{}, 1)
	b.life, b.stop = context.WithCancel(context.Background())
	b.metrics = b.cfg.Metrics.role(b)
	return b, nil
}

// Warnings returns what an operator is to be told at the start: that users'
// credentials leave this machine as they are.
func (b *Backend) Warnings() []string {
	host, _, _ := net.SplitHostPort(b.cfg.Address)
	return b.rules.credentials(b.cfg.Role, host)
}

// Ready reports whether the breaker would let a copy through now. Who offers
// copies asks it; Send asks again.
func (b *Backend) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.stopped && b.breaker.ready(time.Now().UnixNano())
}

// State returns the breaker's.
func (b *Backend) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.breaker.state
}

// Run ends calls that take too long, and lets go of connections that are not
// used, until ctx ends. Then it cancels the calls under way, closes all
// connections, and returns when nothing of the backend runs any more.
func (b *Backend) Run(ctx context.Context) error {
	t := time.NewTicker(b.cfg.Timeout / sweeps)
	defer t.Stop()
	for ctx.Err() == nil {
		select {
		case now := <-t.C:
			b.http1.sweep(now, b.cfg.IdleTimeout)
			b.http2.sweep(now, b)
		case <-ctx.Done():
		}
	}
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.stop()
	b.http1.close()
	b.http2.close()
	return nil
}

// guard runs f and tells of its panic.
func (b *Backend) guard(f func()) {
	defer func() {
		if b.cfg.Panicked == nil {
			return
		}
		if v := recover(); v != nil {
			b.cfg.Panicked(v)
		}
	}()
	f()
}

// sweeps is how often overdue calls are looked for within a time-out.
const sweeps = 40

// Send makes the calls of cp and tells of them in o. It calls begin once, just
// before the first byte is written, or when a connection could not be made.
// Where begin returns false nothing is written.
//
// An error means that nothing was sent: ErrOpen, ErrBusy, ErrDropped,
// ErrCanceled, or one that says which call can't be written. Otherwise the copy
// is sent, and each answer says how its call ended.
func (b *Backend) Send(cp *Copy, begin func() bool, o *Outcome) error {
	for i := range cp.Calls {
		if err := cp.Calls[i].Check(); err != nil {
			return fmt.Errorf("call %d of a copy to %s: %w", i+1, b.cfg.Role, err)
		}
	}
	for i := range cp.Calls {
		if err := b.enter(i > 0); err != nil && i > 0 {
			o.Stopped = true
			return nil
		} else if err != nil {
			return err
		}
		a := o.next(&b.limits)
		err := b.call(cp, i, a, begin)
		if cp.Calls[i].Stream && errors.Is(a.Err, ErrTimeout) && !errors.Is(a.Err, ErrConnect) {
			a.Err = ErrCanceled
		}
		b.leave(a, err)
		if err != nil {
			o.Answers = o.Answers[:i]
			return err
		}
		b.metrics.done(cp.Calls[i].Route, a)
		if a.Err != nil {
			o.Stopped = i+1 < len(cp.Calls)
			return nil
		}
		begin = begun
	}
	return nil
}

func begun() bool { return true }

func (b *Backend) call(cp *Copy, i int, a *Answer, begin func() bool) error {
	s := b.scratches.Get().(*scratch)
	s.wire.build(b, cp, i)
	send := b.call1
	if cp.Calls[i].HTTP2 {
		send = b.call2
	}
	err := send(&cp.Calls[i], s, a, begin)
	if cap(s.out) <= 2*wholeWrite {
		b.scratches.Put(s)
	}
	return err
}

// enter admits one call. The later calls of a copy that was begun are held up
// by nothing but the end.
func (b *Backend) enter(begun bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.stopped:
		return ErrCanceled
	case begun:
	case b.calls >= b.cfg.MaxCalls:
		return ErrBusy
	case !b.breaker.allow(time.Now().UnixNano()):
		return ErrOpen
	}
	b.calls++
	return nil
}

func (b *Backend) leave(a *Answer, err error) {
	now := time.Now().UnixNano()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls--
	if err != nil || errors.Is(a.Err, ErrCanceled) {
		b.breaker.forget()
	} else {
		b.breaker.done(now, a.Err == nil)
	}
}

// dial makes a connection.
func (b *Backend) dial(ctx context.Context, http2 bool) (net.Conn, error) {
	conn, err := b.cfg.Dial(ctx, "tcp", b.cfg.Address)
	if err == nil && b.scheme == "https" {
		conn, err = b.handshake(ctx, conn, http2)
	}
	if err != nil {
		return nil, b.connectError(ctx, err)
	}
	return conn, nil
}

func (b *Backend) connectError(ctx context.Context, err error) error {
	switch {
	case b.life.Err() != nil:
		return ErrCanceled
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrConnect, ErrTimeout)
	}
	return fmt.Errorf("%w: %v", ErrConnect, err)
}

func (b *Backend) handshake(ctx context.Context, raw net.Conn, http2 bool) (net.Conn, error) {
	cfg := b.cfg.TLS.Clone()
	cfg.NextProtos = []string{"http/1.1"}
	if http2 {
		cfg.NextProtos = []string{"h2"}
	}
	conn := tls.Client(raw, cfg)
	err := conn.HandshakeContext(ctx)
	if err == nil && http2 && conn.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("peer does not agree to h2")
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return abrupt{conn}, nil
}

// abrupt closes a TLS connection without a last word, for which a peer that
// reads nothing would make Close wait.
type abrupt struct{ *tls.Conn }

// Close closes the connection beneath.
func (c abrupt) Close() error { return c.NetConn().Close() }
