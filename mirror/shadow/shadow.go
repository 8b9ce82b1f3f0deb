// Package shadow sends copies of requests to the roles, shadow and control, and
// takes back what they answer. A role is taken for hostile: whatever it does
// or leaves undone costs bounded time and memory, and ends one call.
//
// A Loop sends the copies of all roles on one goroutine. A call has a connection
// of its own in HTTP/1.1, a stream on a shared one in HTTP/2, by prior knowledge
// or ALPN. Redirects are not followed, nothing is decompressed, and nothing is
// sent twice: once the first byte was written a copy is sent, whatever becomes of it.
//
//	l := shadow.NewLoop(shadow.LoopConfig{Next: func() *shadow.Job {
//		d, ok := lanes.Take()             // a copy is due
//		…
//		return &shadow.Job{Backend: b, Copy: cp, Outcome: b.NewOutcome(), Handler: h}
//	}}, b)
//	go l.Run(ctx)
//	l.Wake()                                  // something is due
//
//	func (h *handler) Begin() bool            // lanes.Sent
//	func (h *handler) End(err error)          // err: lanes.Drop; else lanes.Done, and the pair
//
// net/http's transports are not used: see BenchmarkSend for what they cost beside
// this package. Framing of what is read and HPACK are x/net's.
//
// # Pollers
//
// The loop waits in epoll for plain TCP connections on Linux. Others, and all
// elsewhere, have a goroutine that reads and one that writes. What is spoken on
// them is the same.
package shadow

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"darklaunch/mirror/observe"
)

// Why a copy was not sent: see Handler.End. Nothing was written then.
var (
	// ErrOpen: the breaker is open.
	ErrOpen = errors.New("breaker open")
	// ErrBusy: too many calls are on their way.
	ErrBusy = errors.New("too many calls")
	// ErrDropped: Begin returned false.
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
	// Zero means 5s.
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

// Backend is one role. It belongs to the goroutine of its Loop but for Ready,
// State, Warnings and NewOutcome, which are safe for any number of goroutines.
type Backend struct {
	cfg       Config
	loop      *Loop
	limits    limits
	role      []byte
	authority []byte // the address
	scheme    string
	rules     rules
	set       []wireField // by rules
	host      []byte      // by a rule, or nil
	metrics   *roleMetrics
	outcomes  sync.Pool // of *Outcome

	http1   pool1
	http2   pool2
	under   list // jobs whose call is under way
	calls   int  // these, and those that wait for a connection
	stopped bool
	breaker breaker

	// What others may know of the breaker.
	state    atomic.Uint32
	openTill atomic.Int64 // not ready before; ns of the Unix epoch
}

// New returns the backend of a role, for a Loop. The error says what of cfg can't
// be used.
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
	b.outcomes.New = func() any { return &Outcome{pool: &b.outcomes} }
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
// copies asks it; the loop asks again.
func (b *Backend) Ready() bool {
	till := b.openTill.Load()
	return till == 0 || till <= time.Now().UnixNano()
}

// State returns the breaker's.
func (b *Backend) State() State { return State(b.state.Load()) }

// publish lets others know of the breaker.
func (b *Backend) publish() {
	b.state.Store(uint32(b.breaker.state))
	b.openTill.Store(b.breaker.closedTo())
}

// begin makes the calls of a job.
func (b *Backend) begin(j *Job) {
	defer b.failed(j)
	calls := j.Copy.Calls
	for i := range calls {
		if err := calls[i].Check(); err != nil {
			j.Handler.End(fmt.Errorf("call %d of a copy to %s: %w", i+1, b.cfg.Role, err))
			return
		}
	}
	if err := b.enter(false); err != nil {
		j.Handler.End(err)
		return
	}
	b.start(j)
}

// failed ends a job in whose beginning something panicked.
func (b *Backend) failed(j *Job) {
	if b.loop.cfg.Panicked == nil {
		return
	}
	if v := recover(); v != nil {
		b.loop.cfg.Panicked(v)
		if j.on != nil {
			j.on.giveUp(j, ErrCanceled)
		} else if j.answer != nil {
			b.unconnected(j, ErrCanceled)
		}
	}
}

// start makes the next call of a job.
func (b *Backend) start(j *Job) {
	j.answer = j.Outcome.next(&b.limits)
	if j.Copy.Calls[j.call].HTTP2 {
		b.start2(j)
	} else {
		b.start1(j)
	}
}

// write says that the first byte of a call is about to be written on a
// connection. It reports false where nothing must be.
func (b *Backend) write(j *Job, on carrier) bool {
	if !j.begun && !j.Handler.Begin() {
		b.drop(j)
		return false
	}
	j.begun, j.on = true, on
	j.answer.Sent = time.Now()
	j.due = j.answer.Sent.Add(b.cfg.Timeout).UnixNano()
	b.under.push(j)
	return true
}

// drop ends a job that Begin refused.
func (b *Backend) drop(j *Job) {
	b.leave(nil)
	j.Outcome.unnext()
	j.answer = nil
	j.Handler.End(ErrDropped)
}

// unconnected ends a call for which there was no connection. It counts as sent.
func (b *Backend) unconnected(j *Job, err error) {
	j.leave()
	if !j.begun && !j.Handler.Begin() {
		b.drop(j)
		return
	}
	j.begun = true
	j.answer.Sent = time.Now()
	b.done(j, err)
}

// done ends a call that was sent, and makes the next one of the copy.
func (b *Backend) done(j *Job, err error) {
	j.leave()
	if j.Copy.Calls[j.call].Stream && errors.Is(err, ErrTimeout) && !errors.Is(err, ErrConnect) {
		err = ErrCanceled
	}
	a := j.answer
	j.on, j.answer, a.Err = nil, nil, err
	b.leave(a)
	b.metrics.done(j.Copy, j.call, a)
	j.call++
	if j.call == len(j.Copy.Calls) || err != nil || b.enter(true) != nil {
		j.Outcome.Stopped = j.call < len(j.Copy.Calls)
		j.Handler.End(nil)
		return
	}
	b.start(j)
}

// enter admits one call. The later calls of a copy that was begun are held up
// by nothing but the end.
func (b *Backend) enter(begun bool) error {
	switch {
	case b.stopped:
		return ErrCanceled
	case begun:
	case b.calls >= b.cfg.MaxCalls:
		return ErrBusy
	case !b.breaker.allow(b.loop.now):
		return ErrOpen
	}
	b.calls++
	if b.breaker.state != Closed {
		b.publish()
	}
	return nil
}

// leave ends one call, of which a tells; nil if it was not made.
func (b *Backend) leave(a *Answer) {
	b.calls--
	before := b.breaker.state
	if a == nil || errors.Is(a.Err, ErrCanceled) {
		b.breaker.forget()
	} else {
		b.breaker.done(b.loop.now, a.Err == nil)
	}
	if before != Closed || b.breaker.state != Closed {
		b.publish()
	}
}

// nextDue is when something has to be given up, 0 if nothing has.
func (b *Backend) nextDue() int64 {
	at := b.http1.nextDue(b.cfg.IdleTimeout)
	if b.under.head != nil {
		at = sooner(at, b.under.head.due)
	}
	return sooner(at, b.http2.nextDue(b))
}

// expire gives up what has taken too long.
func (b *Backend) expire(now int64) {
	for j := b.under.head; j != nil && j.due <= now; j = b.under.head {
		j.on.giveUp(j, ErrTimeout)
	}
	b.http1.expire(now, b.cfg.IdleTimeout)
	b.http2.expire(b, now)
}

// shut cancels the calls under way and closes all connections.
func (b *Backend) shut() {
	b.stopped = true
	for j := b.under.head; j != nil; j = b.under.head {
		j.on.giveUp(j, ErrCanceled)
	}
	b.http1.shut()
	b.http2.shut(b)
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
	case b.loop.life.Err() != nil:
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
