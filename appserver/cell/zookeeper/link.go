package zookeeper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// link connects the library to the servers in turn. It is its HostProvider and its
// Dialer.
type link struct {
	timeout time.Duration // asked for

	mu         sync.Mutex
	servers    []string
	next       int
	failures   int // since a server was connected
	conn       net.Conn
	closed     bool
	last       error
	negotiated time.Duration
}

// pauseBetween is how long to wait when all servers have been tried in vain.
const pauseBetween = 100 * time.Millisecond

func newLink(cfg Config) *link {
	servers := make([]string, len(cfg.Servers))
	for i, j := range rand.Perm(len(servers)) {
		servers[i] = cfg.Servers[j]
	}
	return &link{timeout: cfg.Timeout, servers: servers, last: errors.New("no server has answered")}
}

// Init implements zk.HostProvider.
func (l *link) Init([]string) error { return nil }

// Len implements zk.HostProvider.
func (l *link) Len() int { return len(l.servers) }

// Next implements zk.HostProvider. The library would wait a second after each round,
// a quarter of a session; here it waits less, and hears of a round only when it is to
// end, as it looks for that nowhere else while it connects.
func (l *link) Next() (server string, retryStart bool) {
	l.mu.Lock()
	server = l.servers[l.next%len(l.servers)]
	l.next++
	l.failures++
	wait, closed := l.failures > len(l.servers), l.closed
	l.mu.Unlock()
	if wait && !closed {
		time.Sleep(pauseBetween)
	}
	return server, closed
}

// Connected implements zk.HostProvider.
func (l *link) Connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = 0
}

// dial implements zk.Dialer. The library dials for a second at most; to give up in a
// part of a session leaves time to try the other servers.
func (l *link) dial(network, addr string, timeout time.Duration) (net.Conn, error) {
	conn, err := net.DialTimeout(network, addr, min(timeout, l.timeout/4))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.last = err
		return nil, err
	}
	if l.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	l.conn = conn
	return &bounded{Conn: conn, link: l}, nil
}

// close ends the connection there is, and all that follow.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.conn != nil {
		_ = l.conn.Close() // it may be closed already
	}
}

func (l *link) lastError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// agreed is the timeout that the ensemble keeps sessions for.
func (l *link) agreed() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.negotiated == 0 {
		return l.timeout
	}
	return l.negotiated
}

func (l *link) note(err error, negotiated time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.last = err
	}
	if negotiated > 0 {
		l.negotiated = negotiated
	}
}

// bounded is a connection of which no read takes longer than a session can bear to hear
// nothing. The first bytes read on it are the server's answer to the request for a
// session: its length, the protocol's version and the timeout, 4 bytes each.
type bounded struct {
	net.Conn
	link *link
	head []byte
}

const timeoutAt, headSize = 8, 12

// SetReadDeadline implements net.Conn.
func (b *bounded) SetReadDeadline(t time.Time) error {
	latest := time.Now().Add(b.link.agreed() * 2 / 3)
	if t.IsZero() || t.After(latest) {
		t = latest
	}
	return b.Conn.SetReadDeadline(t)
}

// Read implements net.Conn.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if err != nil {
		b.link.note(fmt.Errorf("read from %s: %w", b.RemoteAddr(), err), 0)
	}
	if want := headSize - len(b.head); want > 0 {
		b.head = append(b.head, p[:min(n, want)]...)
		if len(b.head) == headSize {
			b.link.note(nil, time.Duration(int32(binary.BigEndian.Uint32(b.head[timeoutAt:])))*time.Millisecond)
		}
	}
	return n, err
}

// logger passes on what the library says.
type logger struct{ log *slog.Logger }

func (l logger) Printf(format string, args ...any) {
	l.log.Debug("zookeeper", "says", fmt.Sprintf(format, args...))
}
