package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// netPoller serves connections by goroutines: one that reads and one that
// writes each, so that TLS may take the time it needs. What happened waits in
// an inbox for the pool's goroutine. At most one piece of input a connection is
// under way, so a peer cannot fill memory.
type netPoller struct {
	pool  *Pool
	clock Clock
	addrs []*net.TCPAddr
	turn  int
	tls   *tls.Config
	wake  *Waker
	ctx   context.Context // ends with close; the goroutines belong to the poller
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	inbox []netEvent
	spare []netEvent
}

type netEvent struct {
	link *netLink
	kind netKind
	data []byte // netRead: until the link is told to go on
	lost Class  // netLost
}

type netKind uint8

const (
	netUp netKind = iota
	netRead
	netWritten
	netEOF
	netLost
)

func newNetPoller(p *Pool, addrs []*net.TCPAddr) (*netPoller, error) {
	w, err := NewWaker()
	if err != nil {
		return nil, err
	}
	n := &netPoller{pool: p, clock: p.clock, addrs: addrs, wake: w}
	n.ctx, n.stop = context.WithCancel(context.Background())
	if p.cfg.TLS != nil {
		n.tls = p.cfg.TLS.Clone()
		n.tls.NextProtos = []string{alpn(p.cfg.Protocol)}
		if n.tls.ServerName == "" {
			if host, _, err := net.SplitHostPort(p.cfg.Addr); err == nil {
				n.tls.ServerName = host
			}
		}
	}
	return n, nil
}

func alpn(p Protocol) string {
	if p == HTTP1 {
		return "http/1.1"
	}
	return "h2"
}

func (n *netPoller) dial(k *conn) error {
	a := n.addrs[n.turn%len(n.addrs)]
	n.turn++
	ctx, stop := context.WithCancel(n.ctx)
	l := &netLink{poller: n, k: k, stop: stop, next: make(chan struct{}, 1), out: make(chan []byte, 1)}
	k.link = l
	n.wg.Go(func() { l.run(ctx, a.String()) })
	return nil
}

// post puts an event where the pool's goroutine finds it.
func (n *netPoller) post(e netEvent) {
	n.mu.Lock()
	n.inbox = append(n.inbox, e)
	n.mu.Unlock()
	n.wake.Wake()
}

func (n *netPoller) wait(until time.Duration) {
	if n.serve() {
		return
	}
	if d := until - n.clock.Now(); d > 0 {
		n.wake.Wait(d)
		n.serve()
	}
}

// serve hands out what is in the inbox, and says whether there was anything.
func (n *netPoller) serve() bool {
	n.mu.Lock()
	events := n.inbox
	n.inbox, n.spare = n.spare[:0], nil
	n.mu.Unlock()
	for _, e := range events {
		k := e.link.k
		if k.state == closed {
			continue
		}
		switch e.kind {
		case netUp:
			k.connected()
		case netRead:
			k.received(e.data)
			e.link.next <- struct{}{}
		case netWritten:
			e.link.idle = true
			k.writable()
		case netEOF:
			k.eof()
		case netLost:
			k.lose(e.lost)
		}
	}
	clear(events)
	n.mu.Lock()
	n.spare = events
	n.mu.Unlock()
	return len(events) > 0
}

func (n *netPoller) close() {
	n.stop()
	n.wg.Wait()
	n.wake.Close()
}

// netLink is one connection's goroutines.
type netLink struct {
	poller *netPoller
	k      *conn
	stop   context.CancelFunc
	next   chan struct{} // the input was read; read on
	out    chan []byte   // to the writer, which owns it until netWritten
	idle   bool          // the writer waits; of the pool's goroutine
	buf    []byte        // the writer's, while it is idle
}

func (l *netLink) send(p []byte) (int, error) {
	if !l.idle {
		return 0, nil
	}
	l.idle = false
	l.buf = append(l.buf[:0], p...)
	l.out <- l.buf
	return len(p), nil
}

func (l *netLink) close() { l.stop() }

// run connects, reads until the end, and returns when its writer has too.
func (l *netLink) run(ctx context.Context, addr string) {
	defer l.stop()
	c, class, err := l.connect(ctx, addr)
	if err != nil {
		l.poller.post(netEvent{link: l, kind: netLost, lost: class})
		return
	}
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	l.poller.post(netEvent{link: l, kind: netUp})
	l.poller.post(netEvent{link: l, kind: netWritten}) // the writer is idle
	l.poller.wg.Go(func() { l.write(ctx, c) })
	buf := make([]byte, 32<<10)
	for {
		n, err := c.Read(buf)
		if n > 0 {
			l.poller.post(netEvent{link: l, kind: netRead, data: buf[:n]})
			select {
			case <-l.next:
			case <-ctx.Done():
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			l.poller.post(netEvent{link: l, kind: netEOF})
			return
		case err != nil:
			l.poller.post(netEvent{link: l, kind: netLost, lost: Reset})
			return
		}
	}
}

func (l *netLink) connect(ctx context.Context, addr string) (net.Conn, Class, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil || l.poller.tls == nil {
		return c, Connect, err
	}
	t := tls.Client(c, l.poller.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, TLS, err
	}
	// HTTP/1.1 may go unnamed (RFC 9112); HTTP/2 may not (RFC 9113 §3.3).
	got := t.ConnectionState().NegotiatedProtocol
	if want := l.poller.tls.NextProtos[0]; got != want && (got != "" || want == "h2") {
		c.Close()
		return nil, TLS, errors.New("server speaks another protocol")
	}
	return t, OK, nil
}

func (l *netLink) write(ctx context.Context, c net.Conn) {
	for {
		select {
		case p := <-l.out:
			if _, err := c.Write(p); err != nil {
				return // the reader meets the same end
			}
			l.poller.post(netEvent{link: l, kind: netWritten})
		case <-ctx.Done():
			return
		}
	}
}
