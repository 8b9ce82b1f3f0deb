package shadow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"darklaunch/mirror/observe"
)

// conn1 is a connection that speaks HTTP/1.1, one call at a time.
type conn1 struct {
	conn net.Conn
	idle time.Time // since when; guarded by the pool
	// due is when the call on it has taken too long, in ns of the Unix epoch; 0
	// between calls; timedOut or canceled when it was ended before. Who changes
	// it from a time ends the call.
	due atomic.Int64
}

const (
	timedOut int64 = -1
	canceled int64 = -2
)

// kill ends the call that is due by due, unless it has ended.
func (c *conn1) kill(due, why int64) {
	if c.due.CompareAndSwap(due, why) {
		c.conn.Close()
	}
}

// killed is the error of a call that was ended.
func (c *conn1) killed() error {
	if c.due.Load() == canceled {
		return ErrCanceled
	}
	return ErrTimeout
}

// pool1 holds the connections of HTTP/1.1 calls. The most recently used one is
// taken first, so that those a lull leaves over grow old and are closed.
type pool1 struct {
	mu     sync.Mutex
	all    map[*conn1]struct{}
	idle   []*conn1
	closed bool
}

// take returns an idle connection, or nil.
func (p *pool1) take(now time.Time) *conn1 {
	for {
		p.mu.Lock()
		if len(p.idle) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		if now.Sub(c.idle) < freshFor || quiet(c.conn) {
			return c
		}
		p.drop(c)
	}
}

// freshFor is how long an idle connection is trusted without a look at it.
const freshFor = 10 * time.Millisecond

// add takes in a new connection, unless the pool is closed.
func (p *pool1) add(c *conn1) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.all[c] = struct{}{}
	}
	return !p.closed
}

func (p *pool1) put(c *conn1, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.idle = now
	if p.closed {
		c.conn.Close()
		return
	}
	p.idle = append(p.idle, c)
}

func (p *pool1) drop(c *conn1) {
	c.conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, c)
}

// sweep closes connections whose call is overdue, and those that have been
// idle for too long.
func (p *pool1) sweep(now time.Time, idleFor time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.all {
		if due := c.due.Load(); due > 0 && due <= now.UnixNano() {
			c.kill(due, timedOut)
		}
	}
	old := 0
	for ; old < len(p.idle) && now.Sub(p.idle[old].idle) > idleFor; old++ {
		p.idle[old].conn.Close()
		delete(p.all, p.idle[old])
	}
	p.idle = append(p.idle[:0], p.idle[old:]...)
}

func (p *pool1) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for c := range p.all {
		if due := c.due.Load(); due > 0 {
			c.kill(due, canceled)
		}
	}
	for _, c := range p.idle {
		c.conn.Close()
	}
	p.idle = nil
}

// call1 makes one call over HTTP/1.1. begin is as for Send.
func (b *Backend) call1(c *Call, s *scratch, a *Answer, begin func() bool) error {
	a.Sent = time.Now()
	conn := b.http1.take(a.Sent)
	if conn == nil {
		raw, err := b.connect1()
		if err == nil {
			conn = &conn1{conn: raw}
			if !b.http1.add(conn) {
				raw.Close()
				err = ErrCanceled
			}
		}
		if err != nil {
			if !begin() {
				return ErrDropped
			}
			a.Err = err
			return nil
		}
		a.Sent = time.Now()
	}
	if !begin() {
		b.http1.put(conn, a.Sent)
		return ErrDropped
	}
	due := a.Sent.Add(b.cfg.Timeout).UnixNano()
	conn.due.Store(due)
	reusable, err := b.exchange1(conn.conn, c, s, a)
	switch {
	case !conn.due.CompareAndSwap(due, 0):
		err = conn.killed()
		b.http1.drop(conn)
	case err != nil || !reusable:
		b.http1.drop(conn)
	default:
		b.http1.put(conn, a.Last)
	}
	a.Err = err
	return nil
}

func (b *Backend) connect1() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(b.life, b.cfg.ConnectTimeout)
	defer cancel()
	return b.dial(ctx, false)
}

// wholeWrite is the size from which a body is written beside reading: up to it
// the system's buffers take it, or the peer is one that reads nothing.
const wholeWrite = 64 << 10

// exchange1 writes a call and reads its answer.
func (b *Backend) exchange1(conn net.Conn, c *Call, s *scratch, a *Answer) (reusable bool, err error) {
	s.out = s.wire.appendHTTP1(s.out[:0], c)
	if len(c.Body) <= wholeWrite {
		s.out = s.wire.appendBody1(s.out, c)
		if _, err := conn.Write(s.out); err != nil {
			return false, fmt.Errorf("%w: %v", ErrCut, err)
		}
		return read1(conn, c, s, a)
	}
	written := make(chan error, 1)
	go func() {
		err := errUnwritten
		defer func() { written <- err }()
		b.guard(func() { err = s.wire.writeBody1(conn, s.out, c) })
	}()
	reusable, err = read1(conn, c, s, a)
	select {
	case werr := <-written:
		reusable = reusable && werr == nil
	default:
		conn.Close() // answered before the call was written: it will not be
		<-written
		reusable = false
	}
	return reusable, err
}

var errUnwritten = errors.New("not written")

// appendHTTP1 appends the head of a call.
func (w *wire) appendHTTP1(dst []byte, c *Call) []byte {
	dst = append(append(dst, c.Method...), ' ')
	dst = append(append(dst, c.Target...), " HTTP/1.1\r\nHost: "...)
	dst = append(append(dst, w.authority...), "\r\n"...)
	for i := range w.fields {
		dst = appendField1(dst, w.fields[i].name, w.fields[i].value)
	}
	switch {
	case c.Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		for i := range w.trailer {
			dst = appendField1(dst, []byte("Trailer"), w.trailer[i].name)
		}
	case len(c.Body) > 0 || c.expectsBody():
		dst = append(strconv.AppendInt(append(dst, "Content-Length: "...), int64(len(c.Body)), 10), "\r\n"...)
	}
	return append(dst, "\r\n"...)
}

// expectsBody reports whether a request of that method says Content-Length: 0
// when it has no body (RFC 9110 §8.6).
func (c *Call) expectsBody() bool {
	switch string(c.Method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

func appendField1(dst, name, value []byte) []byte {
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

// appendBody1 appends the body: in one chunk, where its length was not known.
func (w *wire) appendBody1(dst []byte, c *Call) []byte {
	if !c.Chunked {
		return append(dst, c.Body...)
	}
	if len(c.Body) > 0 {
		dst = append(strconv.AppendInt(dst, int64(len(c.Body)), 16), "\r\n"...)
		dst = append(append(dst, c.Body...), "\r\n"...)
	}
	return w.appendEnd1(dst)
}

func (w *wire) appendEnd1(dst []byte) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range w.trailer {
		dst = appendField1(dst, w.trailer[i].name, w.trailer[i].value)
	}
	return append(dst, "\r\n"...)
}

// writeBody1 writes head and a large body, without copying it.
func (w *wire) writeBody1(conn net.Conn, head []byte, c *Call) error {
	all := net.Buffers{head, c.Body}
	if c.Chunked {
		head = append(strconv.AppendInt(head, int64(len(c.Body)), 16), "\r\n"...)
		all = net.Buffers{head, c.Body, w.appendEnd1([]byte("\r\n"))}
	}
	_, err := all.WriteTo(conn)
	return err
}

// reader1 reads an answer through a buffer.
type reader1 struct {
	conn io.Reader
	buf  []byte
	r, w int
	now  time.Time // when the last bytes came
}

// fill reads once. The buffer must not be full.
func (r *reader1) fill() error {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.conn.Read(r.buf[r.w:])
	if n > 0 {
		r.w += n
		r.now = time.Now()
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// line returns the next line without its CRLF. It is valid until the next call.
func (r *reader1) line() ([]byte, error) {
	for seen := 0; ; {
		if i := bytes.IndexByte(r.buf[r.r+seen:r.w], '\n'); i >= 0 {
			line := r.buf[r.r : r.r+seen+i]
			r.r += seen + i + 1
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, fmt.Errorf("%w: line ends without CR", ErrProtocol)
			}
			return line[:len(line)-1], nil
		}
		seen = r.w - r.r
		if seen == len(r.buf) {
			return nil, fmt.Errorf("%w: line of over %d bytes", ErrTooLarge, len(r.buf))
		}
		if err := r.fill(); err != nil {
			return nil, cut(err)
		}
	}
}

func cut(err error) error {
	if err == io.EOF {
		return ErrCut
	}
	return fmt.Errorf("%w: %v", ErrCut, err)
}

// read1 reads the answer to c.
func read1(conn io.Reader, c *Call, s *scratch, a *Answer) (reusable bool, err error) {
	r := &s.in
	r.conn, r.r, r.w = conn, 0, 0
	keepAlive, err := r.head(a)
	if err != nil {
		return false, err
	}
	delimited := true
	if !bodiless(c.Method, a.Status) {
		delimited, err = r.body(a)
	}
	if err != nil {
		return false, err
	}
	a.end(r.now, false)
	return delimited && keepAlive && r.r == r.w, nil
}

func bodiless(method []byte, status int) bool {
	return string(method) == "HEAD" || status == 204 || status == 304
}

// head reads interim answers and the final header.
func (r *reader1) head(a *Answer) (keepAlive bool, err error) {
	for {
		minor, err := r.statusLine(a)
		if err != nil {
			return false, err
		}
		a.First = r.now
		if err := r.fields(a, &a.Header); err != nil {
			return false, err
		}
		if a.Status >= 200 {
			v, _ := a.Header.Get("connection")
			return minor == 1 && !listed(v, []byte("close")), nil
		}
		if a.interim++; a.interim > maxInterim || a.Status == 101 {
			return false, fmt.Errorf("%w: unasked interim answers", ErrProtocol)
		}
		a.Header.reset() // what they took stays counted
	}
}

// statusLine reads "HTTP/1.x NNN reason" (RFC 9112 §4).
func (r *reader1) statusLine(a *Answer) (minor byte, err error) {
	line, err := r.line()
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return 0, fmt.Errorf("%w: no status line", ErrProtocol)
	}
	a.Status = status(line[9:12])
	if minor = line[7] - '0'; minor > 1 || a.Status == 0 {
		return 0, fmt.Errorf("%w: no status line", ErrProtocol)
	}
	return minor, nil
}

// status reads a status from 100 to 599; 0 is none.
func status(text []byte) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return 0
		}
		n = 10*n + int(c-'0')
	}
	if len(text) != 3 || n < 100 || n > 599 {
		return 0
	}
	return n
}

// fields reads a header or trailer section into f.
func (r *reader1) fields(a *Answer, f *Fields) error {
	for {
		line, err := r.line()
		if err != nil || len(line) == 0 {
			return err
		}
		name, value, ok := bytes.Cut(line, []byte{':'})
		if !ok || !isToken(name) {
			return fmt.Errorf("%w: no header field", ErrProtocol)
		}
		if err := add(a, f, name, bytes.Trim(value, " \t")); err != nil {
			return err
		}
	}
}

// body reads content as the header frames it (RFC 9112 §6.3), and reports
// whether it ended before the connection did.
func (r *reader1) body(a *Answer) (delimited bool, err error) {
	length, chunked, err := framing(&a.Header)
	switch {
	case err != nil:
		return false, err
	case chunked:
		return true, r.chunks(a)
	case length >= 0:
		return true, r.content(a, length)
	}
	for {
		if r.r == r.w {
			if err := r.fill(); err == io.EOF {
				return false, nil
			} else if err != nil {
				return false, cut(err)
			}
		}
		if err := a.write(r.buf[r.r:r.w]); err != nil {
			return false, err
		}
		r.r = r.w
	}
}

// framing returns the length that a header announces, or -1. What can be read
// in two ways is an error.
func framing(f *Fields) (length int64, chunked bool, err error) {
	length = -1
	for name, value := range f.All() {
		switch {
		case observe.EqualName(name, "transfer-encoding"):
			if chunked || !observe.EqualName(value, "chunked") {
				return 0, false, fmt.Errorf("%w: transfer-encoding other than chunked", ErrProtocol)
			}
			chunked = true
		case observe.EqualName(name, "content-length"):
			n, ok := contentLength(string(value))
			if !ok || length >= 0 {
				return 0, false, fmt.Errorf("%w: content-length", ErrProtocol)
			}
			length = n
		}
	}
	if chunked && length >= 0 {
		return 0, false, fmt.Errorf("%w: content-length and transfer-encoding", ErrProtocol)
	}
	return length, chunked, nil
}

// contentLength reads plain decimal digits.
func contentLength(text string) (n int64, ok bool) {
	u, err := strconv.ParseUint(text, 10, 63) // takes no sign
	return int64(u), err == nil
}

// content reads n bytes of the body.
func (r *reader1) content(a *Answer, n int64) error {
	for n > 0 {
		if r.r == r.w {
			if err := r.fill(); err != nil {
				return cut(err)
			}
		}
		p := r.buf[r.r:r.w]
		if int64(len(p)) > n {
			p = p[:n]
		}
		if err := a.write(p); err != nil {
			return err
		}
		r.r += len(p)
		n -= int64(len(p))
	}
	return nil
}

// chunks reads a chunked body and its trailer section (RFC 9112 §7.1).
func (r *reader1) chunks(a *Answer) error {
	for {
		line, err := r.line()
		if err != nil {
			return err
		}
		size, _, _ := bytes.Cut(line, []byte{';'})
		n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 60)
		if err != nil {
			return fmt.Errorf("%w: chunk size", ErrProtocol)
		}
		if n == 0 {
			return r.fields(a, &a.Trailer)
		}
		// A chunk costs its sender six bytes and us a turn: many tiny ones are
		// bounded by what is read of an answer, as if each were larger.
		if a.overhead += 16; a.overhead > a.limits.read {
			return ErrTooLarge
		}
		if err := r.content(a, int64(n)); err != nil {
			return err
		}
		if line, err = r.line(); err != nil {
			return err
		}
		if len(line) != 0 {
			return fmt.Errorf("%w: chunk not followed by a line end", ErrProtocol)
		}
	}
}
