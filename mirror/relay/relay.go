// Package relay is the live path of the mirror: bytes from client to live and
// back, and nothing else.
//
// Each client connection has one connection to live. Bytes are forwarded as
// they came and never re-encoded; half-close, reset and back-pressure pass
// through. A relay knows no protocol, so that any passes, those included in
// which live speaks first. An Observer is handed a copy of the bytes; it can
// neither change nor stop them, and a panic in it ends the observing alone.
//
// # Drivers
//
// Plain connections are relayed by epoll loops where there is epoll: a loop
// owns both sockets of its connections, and an idle connection holds neither a
// goroutine nor a buffer. Everything else, and every front with TLS on either
// side, is relayed by two goroutines a connection. Both keep the same promises
// but one: while live takes no more bytes, the goroutines notice a reset of the
// client only when live reads on or ends. A loop that waits in epoll_wait keeps
// its P for a while: give the program a GOMAXPROCS of at least Loops+1.
//
// # What a byte relay can't do
//
// It can't announce the end of a connection in the protocol's own words
// ("connection: close", GOAWAY). A drain closes connections that are between
// exchanges and have been quiet; a request that crosses such a close on its way
// is the client's to retry, as with every server that closes idle connections.
// A client's TLS certificate can't be shown to live.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes one front: a listener and the live service behind it.
type Config struct {
	// Front names it in metrics and logs.
	Front string
	// Listen is the host:port to accept on; port 0 means any free one. On Linux
	// another Relay, in a process of the same user, may already listen there: it
	// passes its listener on, both accept from one queue, and an upgrade refuses
	// no connection.
	Listen string
	// Live are the addresses of the live service: host:port, or
	// https://host:port for TLS. A name stands for all its addresses.
	Live []string

	// Observe returns what observes a connection that has just been opened to
	// live, or nil to leave it unobserved. Nil observes nothing. It is called
	// on the goroutine that relays, and must not block.
	Observe func(Info) Observer
	// OnPanic is told of each panic of an Observer, after the Observer has been
	// let go. It is called on the goroutine that relays, and must not block.
	OnPanic func(value any, stack []byte)

	// Certificate and Key are PEM files; TLS is terminated when they are set.
	Certificate, Key string
	// LiveCA is a PEM file with the authorities that live's certificates are
	// verified against. Empty means the system's.
	LiveCA string
	// LiveH2C says that a plain live speaks HTTP/2 with prior knowledge, so that
	// TLS clients are offered h2 as well.
	LiveH2C bool

	// ProxyIn demands a PROXY protocol header, v1 or v2, of each client.
	ProxyIn bool
	// ProxyOut sends live a PROXY protocol v2 header.
	ProxyOut bool

	// MaxConns bounds the open connections. Zero means 65536.
	MaxConns int
	// MaxConnsPerClient bounds those of one client address. Zero means no bound.
	MaxConnsPerClient int

	// DialTimeout bounds one attempt to connect to one address of live, its TLS
	// handshake included. Zero means 3s.
	DialTimeout time.Duration
	// HandshakeTimeout bounds the client's PROXY header and TLS handshake
	// together, within which live is dialled. Zero means 10s.
	HandshakeTimeout time.Duration
	// IdleTimeout ends a connection on which no bytes passed for so long. Zero
	// means never: that is live's decision.
	IdleTimeout time.Duration
	// DrainTimeout is how long connections may go on after the end of Run's
	// context. Zero means 10s.
	DrainTimeout time.Duration

	// Loops is the number of epoll loops. Zero means one for each CPU that Go
	// may use at once, less one, and at least one.
	Loops int
	// Portable relays by goroutines even where there is epoll.
	Portable bool

	// Log may be nil.
	Log *slog.Logger
	// Metrics may be nil, and shared by several Relays.
	Metrics *Metrics
}

const (
	defaultMaxConns         = 65536
	defaultDialTimeout      = 3 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultDrainTimeout     = 10 * time.Second

	// sweepEvery is how often connections are looked at for what no event of
	// theirs says: time-outs, drain, recycling.
	sweepEvery = 50 * time.Millisecond
)

// Relay relays the connections of one front. Make it with New; its methods are
// safe for concurrent use.
type Relay struct {
	cfg     Config
	log     *slog.Logger
	metrics frontMetrics
	live    *pool
	tls     *terminator // nil: clients are plain
	driver  driver
	addr    net.Addr
	heir    *heir

	admitted admission
	downLog  limitedLog

	// What connections are to do; see conn.due.
	draining, firm, cutting, recycling atomic.Bool
	// darkness counts calls of Darken: a connection of an earlier count loses
	// its Observer.
	darkness atomic.Uint32
}

// driver moves the bytes.
type driver interface {
	// start begins to accept, in goroutines of its own.
	start()
	// stopAccepting returns when the listener is closed and what was in its
	// queue has been accepted.
	stopAccepting()
	// poke makes all connections be looked at by conn.due.
	poke()
	// wait returns when all connections have ended and all goroutines too. Call
	// stopAccepting first.
	wait()
}

// New opens the listener of cfg; its queue fills until Run accepts. The caller
// must call Run, which closes it.
func New(cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	r := &Relay{cfg: cfg, log: cfg.Log, metrics: cfg.Metrics.front(cfg.Front)}
	r.admitted.max, r.admitted.maxPerClient = cfg.MaxConns, cfg.MaxConnsPerClient
	var err error
	if r.live, err = newPool(cfg.Live); err != nil {
		return nil, err
	}
	if cfg.Certificate != "" || r.live.tls {
		if r.tls, err = newTerminator(r); err != nil {
			return nil, err
		}
	}
	ln, heir, err := listen(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", cfg.Listen, err)
	}
	r.addr, r.heir = ln.Addr(), heir
	if r.live.has(unmapped(r.addr.(*net.TCPAddr))) {
		ln.Close()
		heir.close()
		return nil, fmt.Errorf("live %s is where this relay listens: it would relay to itself without end", r.addr)
	}
	if r.tls == nil && !cfg.Portable {
		if r.driver, err = newLoops(r, ln); err == nil {
			return r, nil
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			ln.Close()
			heir.close()
			return nil, err
		}
	}
	r.driver = newStreams(r, ln)
	return r, nil
}

func (cfg Config) withDefaults() Config {
	if cfg.MaxConns == 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = defaultHandshakeTimeout
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = defaultDrainTimeout
	}
	if cfg.Loops == 0 {
		cfg.Loops = max(1, runtime.GOMAXPROCS(0)-1)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics(nil, cfg.Front)
	}
	return cfg
}

// Addr is where the Relay listens.
func (r *Relay) Addr() net.Addr { return r.addr }

// Warnings says, a line each, what an operator should know of this
// configuration before traffic comes.
func (r *Relay) Warnings() []string {
	var w []string
	if r.cfg.Certificate != "" {
		w = append(w, "TLS ends here: a client's certificate is not asked for and can't be shown to live")
	}
	if r.cfg.ProxyIn {
		w = append(w, "client addresses are taken from PROXY headers: whoever can connect here can claim any")
	}
	return w
}

// Reload reads certificates and authorities again. Connections that are open
// keep what they began with. After an error nothing has changed.
func (r *Relay) Reload() error {
	if r.tls == nil {
		return nil
	}
	return r.tls.load()
}

// Darken takes their Observers from all open connections, which go on
// unobserved. Each Observer's Close is called with Darkened.
func (r *Relay) Darken() {
	r.darkness.Add(1)
	r.driver.poke()
}

// Recycle closes connections without an Observer as they come to what looks
// like the end of an answer: live sent last, and both have been quiet for a
// second. No one has read them, so this is a guess; the answer of a slow stream
// may be cut. It goes on, for connections opened later as well, until Recycle
// is called with false.
func (r *Relay) Recycle(on bool) {
	r.recycling.Store(on)
	r.driver.poke()
}

// Run relays until ctx ends, and then drains: it stops accepting; closes
// connections that are between exchanges and quiet; after half of DrainTimeout
// closes them at the first moment between exchanges; and cuts what is left at
// its end. It returns nil when all connections have ended.
func (r *Relay) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { r.live.keepResolved(background, r.log) })
	wg.Go(r.heir.serve)
	r.driver.start()

	<-ctx.Done()
	r.heir.close()
	r.tell(&r.draining)
	firm := time.AfterFunc(r.cfg.DrainTimeout/2, func() { r.tell(&r.firm) })
	cut := time.AfterFunc(r.cfg.DrainTimeout, func() { r.tell(&r.cutting) })
	r.driver.stopAccepting()
	r.driver.wait()
	firm.Stop()
	cut.Stop()
	stop()
	wg.Wait()
	return nil
}

func (r *Relay) tell(flag *atomic.Bool) {
	flag.Store(true)
	r.driver.poke()
}

// sweepPeriod is how often connections must be looked at between their events;
// 0 is never.
func (r *Relay) sweepPeriod() time.Duration {
	switch {
	case r.draining.Load() || r.cutting.Load() || r.recycling.Load():
		return sweepEvery
	case r.cfg.IdleTimeout > 0:
		return min(max(r.cfg.IdleTimeout/8, sweepEvery), time.Second)
	}
	return 0
}

// admission counts open connections against the limits.
type admission struct {
	max, maxPerClient int

	mu        sync.Mutex
	open      int
	perClient map[netip.Addr]int // nil unless limited
}

// enter returns 0, or why the connection is one too many. A nil client is not
// known yet.
func (a *admission) enter() Cause {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open >= a.max {
		return OverTotal
	}
	a.open++
	return 0
}

func (a *admission) enterClient(client netip.Addr) Cause {
	if a.maxPerClient == 0 {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.perClient[client] >= a.maxPerClient {
		return OverClient
	}
	if a.perClient == nil {
		a.perClient = make(map[netip.Addr]int)
	}
	a.perClient[client]++
	return 0
}

// leave undoes enter, and enterClient if client is valid.
func (a *admission) leave(client netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	if a.maxPerClient == 0 || !client.IsValid() {
		return
	}
	if a.perClient[client]--; a.perClient[client] == 0 {
		delete(a.perClient, client)
	}
}

// limitedLog says something at most once a second.
type limitedLog struct{ last atomic.Int64 }

func (l *limitedLog) allow(now time.Time) bool {
	last := l.last.Load()
	return now.UnixNano()-last >= int64(time.Second) && l.last.CompareAndSwap(last, now.UnixNano())
}
