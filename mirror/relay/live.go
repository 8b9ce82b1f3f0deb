package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// resolveEvery is how often names are looked up again, so that no client
	// ever waits for that.
	resolveEvery   = 5 * time.Second
	resolveTimeout = 2 * time.Second
	// maxPerName bounds what one name may stand for.
	maxPerName = 64

	// An address that refused is tried last for shortest, which doubles with
	// each failure up to longest.
	shortest = time.Second
	longest  = 30 * time.Second
)

// backend is one address of live.
type backend struct {
	addr netip.AddrPort
	host string       // as configured, for TLS
	open atomic.Int64 // connections to it, those being dialled included

	// Guarded by pool.mu.
	failures int
	shun     time.Time // until when it is tried last
}

// pool picks an address of live for each connection.
type pool struct {
	tls   bool // live speaks TLS
	names []name

	mu       sync.Mutex
	backends []*backend
	turn     int
}

// name is an address as configured. It has no host if it needs no resolving.
type name struct {
	host string
	port uint16
}

func newPool(live []string) (*pool, error) {
	if len(live) == 0 {
		return nil, errors.New("no address of live")
	}
	p := new(pool)
	for i, s := range live {
		hostport, isTLS := strings.CutPrefix(s, "https://")
		if i > 0 && isTLS != p.tls {
			return nil, fmt.Errorf("live %s: TLS at some addresses of live and not at others", s)
		}
		p.tls = isTLS
		host, portText, err := net.SplitHostPort(hostport)
		if err != nil {
			return nil, fmt.Errorf("live %s: want host:port or https://host:port: %w", s, err)
		}
		port, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || port == 0 || host == "" {
			return nil, fmt.Errorf("live %s: want host:port or https://host:port, the port in digits", s)
		}
		p.names = append(p.names, name{host, uint16(port)})
	}
	// The first look-up is the only one that anybody waits for.
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	if err := p.resolve(ctx); err != nil && len(p.backends) == 0 {
		return nil, fmt.Errorf("resolve live: %w", err)
	}
	return p, nil
}

// resolve looks all names up. A name that can't be looked up keeps the
// addresses it had.
func (p *pool) resolve(ctx context.Context) error {
	var found []*backend
	var errs []error
	for _, n := range p.names {
		addrs, err := lookUp(ctx, n.host)
		if err != nil {
			errs = append(errs, err)
			found = append(found, p.of(n)...)
			continue
		}
		for _, a := range addrs {
			found = append(found, &backend{addr: netip.AddrPortFrom(a, n.port), host: n.host})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, b := range found {
		known := slices.IndexFunc(p.backends, func(o *backend) bool { return o.addr == b.addr && o.host == b.host })
		if known >= 0 {
			found[i] = p.backends[known]
		}
	}
	p.backends = found
	return errors.Join(errs...)
}

func (p *pool) of(n name) []*backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.backends), func(b *backend) bool {
		return b.host != n.host || b.addr.Port() != n.port
	})
}

func (p *pool) has(addr netip.AddrPort) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.backends, func(b *backend) bool { return b.addr == addr })
}

func lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	return addrs[:min(len(addrs), maxPerName)], nil
}

// keepResolved looks names up again and again until ctx ends.
func (p *pool) keepResolved(ctx context.Context, log *slog.Logger) {
	if !slices.ContainsFunc(p.names, name.isName) {
		return
	}
	tick := time.NewTicker(resolveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(ctx, resolveTimeout)
		if err := p.resolve(limited); err != nil && ctx.Err() == nil {
			log.Warn("live not resolved, its last addresses stay", "err", err)
		}
		cancel()
	}
}

func (n name) isName() bool {
	_, err := netip.ParseAddr(n.host)
	return err != nil
}

// pick returns the least loaded address that is not in tried, those that
// failed of late last, and counts a connection to it. It returns nil when all
// have been tried. Undo it with release or fail.
func (p *pool) pick(tried []*backend, now time.Time) *backend {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *backend
	better := func(b *backend) bool {
		if best == nil {
			return true
		}
		if bs, shunned := b.shun.After(now), best.shun.After(now); bs != shunned {
			return shunned
		}
		return b.open.Load() < best.open.Load()
	}
	p.turn++
	for i := range p.backends {
		b := p.backends[(p.turn+i)%len(p.backends)]
		if !slices.Contains(tried, b) && better(b) {
			best = b
		}
	}
	if best != nil {
		best.open.Add(1)
	}
	return best
}

func (b *backend) release() { b.open.Add(-1) }

// fail says that b did not take a connection that pick counted.
func (p *pool) fail(b *backend, now time.Time) {
	b.release()
	p.mu.Lock()
	defer p.mu.Unlock()
	b.failures++
	b.shun = now.Add(min(longest, shortest<<min(b.failures-1, 10)))
}

// took says that b took a connection.
func (p *pool) took(b *backend) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b.failures, b.shun = 0, time.Time{}
}

// dialReason classes why a connect failed; a label value.
func dialReason(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "unreachable"
	}
	return "other"
}

// dialReasons are all that dialReason returns, and "tls".
var dialReasons = []string{"refused", "timeout", "unreachable", "tls", "other"}

// dialFailed counts a failure of b, and lets it go.
func (r *Relay) dialFailed(b *backend, reason string, now time.Time) {
	r.metrics.dialFailures[reason].Inc()
	r.live.fail(b, now)
}

// down says, now and then, that no address of live took a connection.
func (r *Relay) down(last error, now time.Time) {
	if r.downLog.allow(now) {
		r.log.Error("no address of live takes connections", "front", r.cfg.Front, "err", last)
	}
}
