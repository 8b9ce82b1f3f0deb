package shadow

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"darklaunch/mirror/observe"
)

// conn1 is a connection that speaks HTTP/1.1, one call at a time.
type conn1 struct {
	b       *Backend
	link    link
	job     *Job      // nil between calls
	idle    time.Time // since when
	rest    [][]byte  // of the call, to be written
	unsaid  bool      // the rest can't be written any more
	answers reader1
	gone    bool
}

// pool1 holds the connections of HTTP/1.1 calls. The most recently used one is
// taken first, so that those a lull leaves over grow old and are closed.
type pool1 struct {
	idle []*conn1
	open int // connections, those with a call included
}

// nextDue is when the oldest idle connection is to be closed, 0 for never.
func (p *pool1) nextDue(idleFor time.Duration) int64 {
	if len(p.idle) == 0 {
		return 0
	}
	return p.idle[0].idle.Add(idleFor).UnixNano()
}

func (p *pool1) expire(now int64, idleFor time.Duration) {
	for at := p.nextDue(idleFor); at != 0 && at <= now; at = p.nextDue(idleFor) {
		p.idle[0].close()
	}
}

func (p *pool1) shut() {
	for len(p.idle) > 0 {
		p.idle[0].close()
	}
}

// start1 makes a call over HTTP/1.1.
func (b *Backend) start1(j *Job) {
	if n := len(b.http1.idle); n > 0 {
		c := b.http1.idle[n-1]
		b.http1.idle = b.http1.idle[:n-1]
		c.begin(j)
		return
	}
	b.loop.dial(b, false, func(conn net.Conn, err error) {
		c := &conn1{b: b}
		if err == nil {
			c.link, err = b.loop.poller.attach(conn, c)
		}
		if err != nil {
			b.unconnected(j, err)
			return
		}
		b.http1.open++
		b.loop.guard(c, func() { c.begin(j) })
	})
}

// wholeWrite is the size up to which a body is written at one go with its header.
const wholeWrite = 64 << 10

// begin writes a call.
func (c *conn1) begin(j *Job) {
	if !c.b.write(j, c) {
		c.keep(time.Now())
		return
	}
	l, call := c.b.loop, &j.Copy.Calls[j.call]
	c.job = j
	c.answers.begin(j.answer, call.Method)
	l.wire.build(c.b, j.Copy, j.call)
	l.out = l.wire.appendHTTP1(l.out[:0], call)
	if len(call.Body) <= wholeWrite {
		l.out = l.wire.appendBody1(l.out, call)
		c.rest = append(c.rest[:0], l.out)
	} else {
		c.rest = append(c.rest[:0], l.wire.appendSize1(l.out, call), call.Body)
		if call.Chunked {
			c.rest = append(c.rest, l.wire.appendEnd1([]byte("\r\n")))
		}
	}
	pieces := len(c.rest)
	c.room()
	if len(c.rest) == pieces {
		c.rest[0] = bytes.Clone(c.rest[0]) // the loop's buffer is the next call's
	}
}

// room implements speaker: it writes what is left of the call.
func (c *conn1) room() {
	for len(c.rest) > 0 {
		n, err := c.link.write(c.rest[0])
		if err != nil {
			// An answer may have come all the same, or the end will.
			c.rest, c.unsaid = nil, true
			return
		}
		if n < len(c.rest[0]) {
			c.rest[0] = c.rest[0][n:]
			return
		}
		c.rest = slices.Delete(c.rest, 0, 1)
	}
}

// take implements speaker.
func (c *conn1) take(p []byte, at time.Time) {
	if c.job == nil {
		c.close() // what nobody asked for
		return
	}
	rest, done, err := c.answers.take(p, at)
	switch {
	case err != nil:
		c.fail(err)
	case done:
		c.answered(at, c.answers.keepAlive && len(rest) == 0 && len(c.rest) == 0 && !c.unsaid)
	}
}

// end implements speaker.
func (c *conn1) end(err error) {
	if c.job == nil {
		c.close()
		return
	}
	if err == io.EOF && c.answers.end() {
		c.answered(c.answers.now, false)
		return
	}
	c.fail(cut(err))
}

// answered ends a call whose answer is whole.
func (c *conn1) answered(at time.Time, reusable bool) {
	j := c.job
	c.job = nil
	if reusable {
		c.keep(at)
	} else {
		c.close()
	}
	j.answer.end(at, false)
	c.b.done(j, nil)
}

// keep takes the connection back into the pool.
func (c *conn1) keep(now time.Time) {
	c.idle = now
	c.b.http1.idle = append(c.b.http1.idle, c)
}

// fail implements speaker.
func (c *conn1) fail(err error) {
	j := c.job
	c.job = nil
	c.close()
	if j != nil {
		c.b.done(j, err)
	}
}

// giveUp implements carrier.
func (c *conn1) giveUp(_ *Job, err error) { c.fail(err) }

func (c *conn1) close() {
	if c.gone {
		return
	}
	c.gone, c.rest = true, nil
	c.link.close()
	c.b.http1.open--
	if i := slices.Index(c.b.http1.idle, c); i >= 0 {
		c.b.http1.idle = slices.Delete(c.b.http1.idle, i, i+1)
	}
}

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
		dst = w.appendSize1(dst, c)
		dst = append(append(dst, c.Body...), "\r\n"...)
	}
	return w.appendEnd1(dst)
}

// appendSize1 appends the size of the body's only chunk, if it has one.
func (w *wire) appendSize1(dst []byte, c *Call) []byte {
	if !c.Chunked {
		return dst
	}
	return append(strconv.AppendInt(dst, int64(len(c.Body)), 16), "\r\n"...)
}

func (w *wire) appendEnd1(dst []byte) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range w.trailer {
		dst = appendField1(dst, w.trailer[i].name, w.trailer[i].value)
	}
	return append(dst, "\r\n"...)
}

// maxLine bounds one line of an answer, in bytes.
const maxLine = 16 << 10

// reader1 reads an answer from the pieces in which it comes.
type reader1 struct {
	a         *Answer
	head      bool // answers have no body
	step      func(r *reader1, p []byte) (rest []byte, err error)
	part      []byte // of a line whose end has not come
	left      int64  // of the body or chunk
	now       time.Time
	minor     byte
	keepAlive bool // the connection may be used again
	done      bool
}

func (r *reader1) begin(a *Answer, method []byte) {
	*r = reader1{a: a, head: string(method) == "HEAD", step: (*reader1).statusLine, part: r.part[:0]}
}

// take reads on, and reports whether the answer is whole; rest is what follows it.
func (r *reader1) take(p []byte, at time.Time) (rest []byte, done bool, err error) {
	r.now = at
	for len(p) > 0 && !r.done && err == nil {
		p, err = r.step(r, p)
	}
	return p, r.done && err == nil, err
}

// end reports whether the answer is whole now that nothing more comes.
func (r *reader1) end() bool { return r.left < 0 }

// line returns the next line without its CRLF, or false until its end has come.
func (r *reader1) line(p []byte) (line, rest []byte, ok bool, err error) {
	i := bytes.IndexByte(p, '\n')
	n := i
	if i < 0 {
		n = len(p)
	}
	if len(r.part)+n > maxLine {
		return nil, nil, false, fmt.Errorf("%w: line of over %d bytes", ErrTooLarge, maxLine)
	}
	if i < 0 {
		r.part = append(r.part, p...)
		return nil, nil, false, nil
	}
	line, rest = p[:i], p[i+1:]
	if len(r.part) > 0 {
		line = append(r.part, line...)
		r.part = line[:0]
		if cap(r.part) > 1<<10 {
			r.part = nil
		}
	}
	if len(line) == 0 || line[len(line)-1] != '\r' {
		return nil, nil, false, fmt.Errorf("%w: line ends without CR", ErrProtocol)
	}
	return line[:len(line)-1], rest, true, nil
}

func cut(err error) error {
	if err == io.EOF {
		return ErrCut
	}
	return fmt.Errorf("%w: %v", ErrCut, err)
}

// statusLine reads "HTTP/1.x NNN reason" (RFC 9112 §4).
func (r *reader1) statusLine(p []byte) ([]byte, error) {
	line, rest, ok, err := r.line(p)
	if !ok {
		return nil, err
	}
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return nil, fmt.Errorf("%w: no status line", ErrProtocol)
	}
	r.a.Status = status(line[9:12])
	if r.minor = line[7] - '0'; r.minor > 1 || r.a.Status == 0 {
		return nil, fmt.Errorf("%w: no status line", ErrProtocol)
	}
	r.a.First = r.now
	r.step = (*reader1).header
	return rest, nil
}

// header reads the header, interim or final, and what comes after it.
func (r *reader1) header(p []byte) ([]byte, error) {
	rest, end, err := r.fields(p, &r.a.Header)
	if !end {
		return rest, err
	}
	if r.a.Status < 200 {
		if r.a.interim++; r.a.interim > maxInterim || r.a.Status == 101 {
			return nil, fmt.Errorf("%w: unasked interim answers", ErrProtocol)
		}
		r.a.Header.reset() // what they took stays counted
		r.step = (*reader1).statusLine
		return rest, nil
	}
	v, _ := r.a.Header.Get("connection")
	r.keepAlive = r.minor == 1 && !listed(v, []byte("close"))
	if r.head || bodiless(r.a.Status) {
		r.done = true
		return rest, nil
	}
	return rest, r.frame()
}

// frame finds out how the content is framed (RFC 9112 §6.3).
func (r *reader1) frame() error {
	length, chunked, err := framing(&r.a.Header)
	switch {
	case err != nil:
		return err
	case chunked:
		r.step = (*reader1).chunk
	case length == 0:
		r.done = true
	default: // until the end of the connection, where it is negative
		r.left, r.step = length, (*reader1).content
	}
	return nil
}

// fields reads a line of a header or trailer section into f, and reports whether
// it was the last.
func (r *reader1) fields(p []byte, f *Fields) (rest []byte, end bool, err error) {
	line, rest, ok, err := r.line(p)
	if !ok {
		return nil, false, err
	}
	if len(line) == 0 {
		return rest, true, nil
	}
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !isToken(name) {
		return nil, false, fmt.Errorf("%w: no header field", ErrProtocol)
	}
	return rest, false, add(r.a, f, name, bytes.Trim(value, " \t"))
}

// content reads the content up to its length, or what there is of it.
func (r *reader1) content(p []byte) ([]byte, error) {
	n := len(p)
	if r.left >= 0 {
		n = int(min(int64(n), r.left))
		r.left -= int64(n)
		r.done = r.left == 0
	}
	return p[n:], r.a.write(p[:n])
}

// chunk reads a chunk's size (RFC 9112 §7.1).
func (r *reader1) chunk(p []byte) ([]byte, error) {
	line, rest, ok, err := r.line(p)
	if !ok {
		return nil, err
	}
	size, _, _ := bytes.Cut(line, []byte{';'})
	n, err := strconv.ParseUint(string(bytes.TrimRight(size, " \t")), 16, 60)
	if err != nil {
		return nil, fmt.Errorf("%w: chunk size", ErrProtocol)
	}
	if n == 0 {
		r.step = (*reader1).trailer
		return rest, nil
	}
	// A chunk costs its sender six bytes and us a turn: many tiny ones are
	// bounded by what is read of an answer, as if each were larger.
	if r.a.overhead += 16; r.a.overhead > r.a.limits.read {
		return nil, ErrTooLarge
	}
	r.left, r.step = int64(n), (*reader1).chunkContent
	return rest, nil
}

func (r *reader1) chunkContent(p []byte) ([]byte, error) {
	n := int(min(int64(len(p)), r.left))
	if r.left -= int64(n); r.left == 0 {
		r.step = (*reader1).chunkEnd
	}
	return p[n:], r.a.write(p[:n])
}

func (r *reader1) chunkEnd(p []byte) ([]byte, error) {
	line, rest, ok, err := r.line(p)
	if !ok {
		return nil, err
	}
	if len(line) != 0 {
		return nil, fmt.Errorf("%w: chunk not followed by a line end", ErrProtocol)
	}
	r.step = (*reader1).chunk
	return rest, nil
}

func (r *reader1) trailer(p []byte) ([]byte, error) {
	rest, end, err := r.fields(p, &r.a.Trailer)
	r.done = end
	return rest, err
}

func bodiless(status int) bool { return status == 204 || status == 304 }

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
