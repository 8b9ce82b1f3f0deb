package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// smallBuffer is what an idle direction holds; one that has more to carry
	// takes a block.
	smallBuffer = 2 << 10
	// blockSize bounds the bytes of one turn, and what a direction may hold.
	blockSize = 64 << 10
)

// streams is the driver of two goroutines a connection.
type streams struct {
	r        *Relay
	ln       net.Listener
	overhead sharedRecorder
	blocks   sync.Pool // of *[blockSize]byte
	wg       sync.WaitGroup
	ctx      context.Context // of dials and handshakes; ends when all is cut
	cut      context.CancelFunc
	poked    chan struct{}
	accepted chan struct{} // closed when accept has returned

	stopping    atomic.Bool // accept what is in the queue and no more
	interrupted bool        // of accept: it knows of stopping

	mu   sync.Mutex
	open map[*stream]struct{}
}

func newStreams(r *Relay, ln net.Listener) *streams {
	d := &streams{
		r: r, ln: ln,
		overhead: sharedRecorder{r: r.cfg.Metrics.overhead.Recorder()},
		poked:    make(chan struct{}, 1),
		accepted: make(chan struct{}),
		open:     make(map[*stream]struct{}),
	}
	d.blocks.New = func() any { return new([blockSize]byte) }
	d.ctx, d.cut = context.WithCancel(context.Background())
	return d
}

func (d *streams) start() {
	d.wg.Go(d.accept)
	d.wg.Go(d.sweep)
}

func (d *streams) accept() {
	defer close(d.accepted)
	defer d.ln.Close()
	var last time.Time // when to stop though more come
	for {
		if d.stopping.Load() {
			now := time.Now()
			if last.IsZero() {
				last = now.Add(emptyWithin)
			}
			// Accept looks into the queue only before its deadline.
			_ = d.ln.(*net.TCPListener).SetDeadline(earlier(now.Add(emptyFor), last))
		}
		c, err := d.ln.Accept()
		switch {
		case err == nil:
			d.wg.Go(func() { d.serve(c.(*net.TCPConn)) })
		case isTimeout(err) && d.emptied():
			return
		case isTimeout(err):
		default:
			d.r.metrics.acceptFailures.Inc()
			time.Sleep(sweepEvery) // out of descriptors: more come as connections end
		}
	}
}

const (
	// emptyFor is how long no connection must have come for the queue to be empty.
	emptyFor = 20 * time.Millisecond
	// emptyWithin ends the emptying where connections never cease to come.
	emptyWithin = 500 * time.Millisecond
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// emptied reports whether the time-out of an accept was that of emptyFor, and
// not the one by which stopAccepting interrupts.
func (d *streams) emptied() bool {
	if d.interrupted {
		return true
	}
	d.interrupted = true
	return false
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

func (d *streams) stopAccepting() {
	d.stopping.Store(true)
	_ = d.ln.(*net.TCPListener).SetDeadline(time.Unix(1, 0))
	<-d.accepted
}

func (d *streams) poke() {
	select {
	case d.poked <- struct{}{}:
	default: // it is about to look anyway
	}
}

// wait relies on sweep to end, which it does when nothing is accepted any more
// and nothing is open.
func (d *streams) wait() {
	d.poke()
	d.wg.Wait()
	d.cut()
}

// sweep looks after all connections until the last has ended.
func (d *streams) sweep() {
	for {
		var tick <-chan time.Time
		if period := d.r.sweepPeriod(); period > 0 {
			tick = time.After(period)
		}
		select {
		case <-d.poked:
		case <-tick:
		}
		if d.r.cutting.Load() {
			d.cut()
		}
		now := time.Now()
		d.mu.Lock()
		for s := range d.open {
			s.sweep(now)
		}
		left := len(d.open)
		d.mu.Unlock()
		select {
		case <-d.accepted:
			if left == 0 {
				return
			}
		default:
		}
	}
}

// end is one side of a stream.
type end struct {
	raw  *net.TCPConn
	wire *wire     // raw, watched; nil without TLS
	tls  *tls.Conn // nil without TLS
}

func (e *end) Read(p []byte) (int, error) {
	if e.tls == nil {
		return e.raw.Read(p)
	}
	n, err := e.tls.Read(p)
	if err == io.EOF && e.wire.ended.Load() {
		err = io.ErrUnexpectedEOF // cut without the closing alert
	}
	return n, err
}

func (e *end) Write(p []byte) (int, error) {
	if e.tls == nil {
		return e.raw.Write(p)
	}
	return e.tls.Write(p)
}

func (e *end) closeWrite() {
	if e.tls != nil {
		_ = e.tls.CloseWrite()
	}
	_ = e.raw.CloseWrite()
}

func (e *end) close(reset bool) {
	if e.raw == nil {
		return
	}
	if reset {
		_ = e.raw.SetLinger(0)
	}
	_ = e.raw.Close()
}

// stream is one connection of this driver.
type stream struct {
	d    *streams
	ends [2]end

	mu      sync.Mutex // conn is used under it, and what follows
	conn    conn
	ended   [2]bool // the side has sent its last byte, and it was delivered
	broken  [2]bool // the side takes no more bytes
	writing [2]bool // to the side
	over    bool
}

// serve relays client's connection from beginning to end.
func (d *streams) serve(client *net.TCPConn) {
	s := &stream{d: d}
	s.ends[Client].raw = client
	peer := client.RemoteAddr().(*net.TCPAddr).AddrPort()
	if d.r.admit(&s.conn, peer) != 0 {
		client.Close()
		return
	}
	if d.r.cfg.ProxyOut {
		s.conn.local = unmapped(client.LocalAddr().(*net.TCPAddr))
	}
	info, cause := s.connect()
	if cause != 0 {
		s.finish(cause)
		return
	}
	s.conn.opened(info.ServerName, info.NegotiatedProtocol, time.Now())
	d.mu.Lock()
	d.open[s] = struct{}{}
	d.mu.Unlock()
	if d.r.cutting.Load() {
		d.poke()
	}

	var back sync.WaitGroup
	back.Go(func() { s.carry(Live) })
	s.carry(Client)
	back.Wait()

	d.mu.Lock()
	delete(d.open, s)
	d.mu.Unlock()
	d.poke()
}

// connect does what comes before the first byte: the client's PROXY header and
// handshake, and the connection to live.
func (s *stream) connect() (info tls.ConnectionState, cause Cause) {
	client, cfg := s.ends[Client].raw, &s.d.r.cfg
	// Cutting reaches a handshake too.
	defer context.AfterFunc(s.d.ctx, func() { _ = client.SetReadDeadline(time.Unix(1, 0)) })()
	_ = client.SetReadDeadline(time.Now().Add(cfg.HandshakeTimeout))
	if cfg.ProxyIn && !s.readHeader() {
		return info, BadProxyHeader
	}
	if cause := s.conn.admitClient(); cause != 0 {
		return info, cause
	}
	if cfg.Certificate != "" {
		info, cause = s.d.r.tls.accept(s)
	} else {
		_, cause = s.dial("", nil)
	}
	_ = client.SetReadDeadline(time.Time{})
	return info, cause
}

func (s *stream) readHeader() bool {
	var h proxyHeader
	for {
		n, err := h.missing()
		if err != nil {
			return false
		}
		if n == 0 {
			return h.accept(&s.conn) == nil
		}
		have := len(h)
		h = append(h, make([]byte, n)...)
		if _, err := io.ReadFull(s.ends[Client].raw, h[have:]); err != nil {
			return false
		}
	}
}

// dial connects to live, one address after the other. With TLS to live it
// passes on what the client asks for, and returns the protocol that live chose.
func (s *stream) dial(serverName string, alpn []string) (chosen string, cause Cause) {
	r := s.d.r
	var tried []*backend
	var last error
	for {
		now := time.Now()
		b := r.live.pick(tried, now)
		if b == nil {
			r.down(last, now)
			return "", LiveDown
		}
		tried = append(tried, b)
		chosen, reason, err := s.dialOne(b, serverName, alpn)
		if err == nil {
			r.live.took(b)
			s.conn.live = b
			return chosen, 0
		}
		s.ends[Live].close(true)
		s.ends[Live] = end{}
		r.dialFailed(b, reason, time.Now())
		last = err
	}
}

func (s *stream) dialOne(b *backend, serverName string, alpn []string) (chosen, reason string, err error) {
	ctx, cancel := context.WithTimeout(s.d.ctx, s.d.r.cfg.DialTimeout)
	defer cancel()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", b.addr.String())
	if err != nil {
		return "", dialReason(err), err
	}
	s.ends[Live] = end{raw: c.(*net.TCPConn)}
	if s.d.r.cfg.ProxyOut {
		header, err := s.conn.proxyOut()
		if err == nil {
			_, err = c.Write(header)
		}
		if err != nil {
			return "", "other", err
		}
	}
	if !s.d.r.live.tls {
		return "", "", nil
	}
	chosen, err = s.d.r.tls.dial(ctx, &s.ends[Live], b.host, serverName, alpn)
	return chosen, "tls", err
}

// carry forwards what from sends until it ends.
func (s *stream) carry(from Side) {
	var small [smallBuffer]byte
	buf := small[:]
	var block *[blockSize]byte
	for {
		n, err := s.ends[from].Read(buf)
		if n > 0 && !s.forward(from, buf[:n]) {
			break
		}
		if err != nil {
			s.sideEnded(from, err)
			break
		}
		switch {
		case n == len(buf) && block == nil:
			block = s.d.blocks.Get().(*[blockSize]byte)
			buf = block[:]
		case n < smallBuffer && block != nil:
			s.d.blocks.Put(block)
			block, buf = nil, small[:]
		}
	}
	if block != nil {
		s.d.blocks.Put(block)
	}
}

// forward hands p to the observer and then to the other side. In the other
// order the goroutine of the other direction could be first to report an
// answer. It returns false if from needs no further reading.
func (s *stream) forward(from Side, p []byte) bool {
	to := from.other()
	read := time.Now()
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return false
	}
	s.conn.chunk(from, read, p)
	s.writing[to] = true
	s.mu.Unlock()

	_, err := s.ends[to].Write(p)

	if err == nil {
		// A write that waited says how slow the reader is, not the relay; which
		// it did is not to be seen from here but by its length.
		if d := time.Since(read); d < waited {
			s.d.overhead.record(d)
		}
	}
	s.mu.Lock()
	s.writing[to] = false
	if err == nil {
		s.mu.Unlock()
		return true
	}
	// What to sent before it went away is still to be read, by the other
	// direction, which then ends the connection.
	s.broken[to] = true
	gone := s.ended[to]
	s.mu.Unlock()
	if gone {
		s.finish(resetBy(to))
	}
	return false
}

// waited is from when on a write is taken to have waited for its reader.
const waited = 100 * time.Millisecond

// sideEnded is called when nothing more comes from from.
func (s *stream) sideEnded(from Side, err error) {
	to := from.other()
	s.mu.Lock()
	if err != io.EOF || s.broken[from] {
		s.mu.Unlock()
		s.finish(resetBy(from))
		return
	}
	s.conn.eof(from, time.Now())
	s.ended[from] = true
	both := s.ended[to]
	s.mu.Unlock()
	if both {
		s.ends[to].closeWrite()
		s.finish(Ended)
		return
	}
	s.ends[to].closeWrite()
}

// finish closes both ends, once, and so ends both goroutines.
func (s *stream) finish(cause Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finishLocked(cause)
}

func (s *stream) finishLocked(cause Cause) {
	if s.over {
		return
	}
	s.over = true
	for i := range s.ends {
		s.ends[i].close(cause.resets())
	}
	s.conn.closed(cause, time.Now())
}

func (s *stream) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cause := s.conn.due(now)
	if (cause == Drained || cause == Recycled) && (s.writing[Client] || s.writing[Live]) {
		return
	}
	if cause != 0 {
		s.finishLocked(cause)
	}
}
