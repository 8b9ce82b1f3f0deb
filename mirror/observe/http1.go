package observe

import (
	"bytes"
	"net/netip"
	"time"
)

// connHTTP1 reads the two directions of an HTTP/1 connection. Answers belong to
// requests in their order (RFC 9112 §9.3): the oldest open exchange is the one
// being answered, the newest the one being sent.
type connHTTP1 [2]half

// half reads the messages of one side, one after another.
type half struct {
	at   step
	x    *Exchange // whose message is being read; nil between messages
	line int       // where the current line begins in the section's text
	left int64     // bytes to come of the body or chunk, -1 until the end
	head framing
	// chunk-size line
	digits, ext int
	prev        byte

	breaks  Rule // what bytes break in step undefined
	started bool // a start line was read
	closing bool // the last message closes the connection
}

// framing is what the fields of one head say about the message's length and
// the connection.
type framing struct {
	status            int
	http10            bool
	length            int64 // -1: no Content-Length
	chunked           bool
	hosts             int
	close, keepAlive  bool
	absolute          bool // target in absolute form
	targetHost, host  span
	expects, upgrades bool
}

type step uint8

const (
	between step = iota
	startLine
	header    // the lines after it, and the empty one
	trailer   // the lines after the last chunk, and the empty one
	content   // body of known length, or until the end
	chunkSize // in the line before a chunk
	chunkLF   // at its LF
	chunkData // in a chunk
	chunkCR   // at the CR after one
	chunkEOL  // at the LF after that
	rejecting // live, without a request to answer: see reject1
	rejected  // live, after that: nothing more is read
	undefined // client: whatever comes breaks half.breaks
)

// maxExtension bounds the extensions of one chunk, in bytes.
const maxExtension = 256

func (c *Conn) feed1(side Side, now time.Time, p []byte) {
	h := &c.h1[side]
	for len(p) > 0 && c.state == speaksHTTP1 {
		switch h.at {
		case between:
			if side == Client && !h.started && classes[p[0]]&token == 0 && c.breaks(side, NotHTTP) {
				return
			}
			if !c.begin1(side, h, now) {
				return
			}
		case startLine, header, trailer:
			p = c.line1(side, h, now, p)
		case content, chunkData:
			p = c.content1(side, h, now, p)
		case chunkSize:
			p = c.chunkSize1(side, h, p)
		case chunkLF:
			if p[0] != '\n' && c.breaks(side, BareCR) {
				return
			}
			p = p[1:]
			h.at = chunkData
			if h.left == 0 {
				h.at, h.line = trailer, 0
			}
		case chunkCR, chunkEOL:
			if p[0] != "\r\n"[h.at-chunkCR] && c.breaks(side, ChunkEnd) {
				return
			}
			p = p[1:]
			h.at++
			if h.at > chunkEOL {
				h.beginChunk()
			}
		case rejecting:
			p = c.reject1(h, p)
		case rejected:
			return
		case undefined:
			c.breaks(side, h.breaks)
			return
		}
	}
}

// begin1 starts a message, at its first byte.
func (c *Conn) begin1(side Side, h *half, now time.Time) bool {
	if h.closing && c.breaks(side, AfterClose) {
		return false
	}
	if side == Client {
		// Either the server switches and these bytes are no HTTP, or it does not.
		if x := c.last; x != nil && x.upgrades && x.Status == 0 && c.breaks(side, AfterUpgrade) {
			return false
		}
		h.x = c.open(HTTP1, now)
	} else {
		switch x := c.first; {
		case x == nil, !x.announced:
			h.at, h.line = rejecting, 0
			return true
		case x.Answer.Complete:
			c.breaks(side, Unasked)
			return false
		}
		h.x = c.first
		h.x.Answer.Header.reset()
		h.x.Answer.First = now
	}
	h.at, h.line = startLine, 0
	h.head = framing{length: -1}
	return true
}

// reject1 reads what live sends when no request is complete enough to be
// answered. Servers say so that they wait no longer (408), or read no further
// (400, 431), and close. As long as the answer is a 4xx and the client is
// silent, nothing went unobserved; anything else answers what we did not see.
func (c *Conn) reject1(h *half, p []byte) []byte {
	const shape = "HTTP/1.x 4"
	for i, b := range p {
		want := shape[h.line]
		if b != want && !(want == 'x' && (b == '0' || b == '1')) {
			c.breaks(Live, Unasked)
			return nil
		}
		h.line++
		if h.line == len(shape) {
			h.at = rejected
			client := &c.h1[Client]
			client.at, client.breaks = undefined, Unasked
			return p[i+1:]
		}
	}
	return nil
}

// line1 takes the bytes of one line of a header or trailer section, and reads
// the line when it is whole. It returns the bytes it did not take.
func (c *Conn) line1(side Side, h *half, now time.Time, p []byte) []byte {
	m := h.x.message(side)
	f := &m.Header
	if h.at == trailer {
		f = &m.Trailer
	}
	n := bytes.IndexByte(p, '\n') + 1
	whole := n > 0
	if !whole {
		n = len(p)
	}
	f.size = len(f.text) + n + 32*len(f.list)
	if f.size > c.o.maxHead && c.breaks(side, c.first1(side, h, LimitHead, f.text)) {
		return nil
	}
	f.text = append(f.text, p[:n]...)
	if !whole {
		return nil
	}
	s := span{uint32(h.line), uint32(len(f.text) - 1)}
	h.line = len(f.text)
	switch {
	case s.to > s.from && f.text[s.to-1] == '\r':
		s.to--
	case c.breaks(side, c.first1(side, h, BareLF, f.cut(s))):
		return nil
	}
	ok := true
	switch {
	case h.at == startLine:
		h.at = header
		ok = side == Client && c.requestLine(h, s) || side == Live && c.statusLine(h, s)
		h.started = true
	case s.from < s.to:
		ok = c.field1(side, h, f, s)
	case h.at == trailer:
		ok = c.charge(side, h.x, f)
		if ok {
			c.end1(side, h, now)
		}
	case !c.charge(side, h.x, f):
		ok = false
	case side == Client:
		ok = c.requestHead(h, now)
	default:
		ok = c.answerHead(h, now)
	}
	if !ok {
		return nil
	}
	return p[n:]
}

// first1 is r, unless line is the client's first: without an HTTP version it
// speaks another protocol rather than bad HTTP.
func (c *Conn) first1(side Side, h *half, r Rule, line []byte) Rule {
	if side == Client && !h.started && !bytes.Contains(line, []byte(" HTTP/")) {
		return NotHTTP
	}
	return r
}

// requestLine reads "method SP request-target SP HTTP-version" (RFC 9112 §3).
func (c *Conn) requestLine(h *half, s span) bool {
	x := h.x
	text := x.Request.Header.text
	line := text[s.from:s.to]
	i := bytes.IndexByte(line, ' ')
	j := bytes.LastIndexByte(line, ' ')
	if i <= 0 || i == j || i+1 == j || !isToken(line[:i]) || bytes.IndexByte(line[i+1:j], ' ') >= 0 {
		c.breaks(Client, c.first1(Client, h, StartLine, line))
		return false
	}
	x.method = span{s.from, s.from + uint32(i)}
	x.target = span{s.from + uint32(i) + 1, s.from + uint32(j)}
	switch version := line[j+1:]; {
	case string(version) == "HTTP/1.1":
	case string(version) == "HTTP/1.0":
		h.head.http10 = true
	case c.breaks(Client, c.first1(Client, h, Version, line)):
		return false
	}
	method, target := line[:i], line[i+1:j]
	// Methods are case-sensitive (RFC 9110 §9.1). One that a sloppy parser
	// would take for HEAD or CONNECT has an answer of two possible lengths.
	switch {
	case string(method) == "HEAD":
		x.headOnly = true
	case string(method) == "CONNECT":
		c.breaks(Client, Tunnel)
		return false
	case EqualName(method, "head") || EqualName(method, "connect"):
		if c.breaks(Client, StartLine) {
			return false
		}
	}
	switch {
	case target[0] == '/':
		if !validPath(target) && c.breaks(Client, Target) {
			return false
		}
	case string(target) == "*" && string(method) == "OPTIONS":
	default:
		if !c.absoluteForm(h, target) && c.breaks(Client, Target) {
			return false
		}
	}
	return true
}

// absoluteForm reads a target of RFC 9112 §3.2.2.
func (c *Conn) absoluteForm(h *half, target []byte) bool {
	scheme, rest, ok := bytes.Cut(target, []byte("://"))
	if !ok || !EqualName(scheme, "http") && !EqualName(scheme, "https") {
		return false
	}
	authority := rest
	if i := bytes.IndexAny(rest, "/?"); i >= 0 {
		authority = rest[:i]
		path := rest[i:]
		if path[0] == '?' {
			path = append([]byte{'/'}, path...)
		}
		if !validPath(path) {
			return false
		}
	}
	if len(authority) == 0 || !validHost(authority) {
		return false
	}
	from := h.x.target.from
	h.x.scheme = span{from, from + uint32(len(scheme))}
	h.head.absolute = true
	h.head.targetHost = span{h.x.scheme.to + 3, h.x.scheme.to + 3 + uint32(len(authority))}
	return true
}

// statusLine reads "HTTP-version SP 3DIGIT [SP reason]" (RFC 9112 §4). The
// space that must follow the code is often left out when there is no reason,
// and no parser is known to care.
func (c *Conn) statusLine(h *half, s span) bool {
	line := h.x.Answer.Header.text[s.from:s.to]
	shaped := len(line) >= 12 && string(line[:7]) == "HTTP/1." && line[8] == ' ' && (len(line) == 12 || line[12] == ' ')
	if !shaped || line[7] != '0' && line[7] != '1' {
		c.breaks(Live, StartLine)
		return false
	}
	h.head.http10 = line[7] == '0'
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			c.breaks(Live, StartLine)
			return false
		}
		h.head.status = h.head.status*10 + int(d-'0')
	}
	if (h.head.status < 100 || hasControl(line[12:])) && c.breaks(Live, StartLine) {
		return false
	}
	return true
}

// field1 reads one field line: field-name ":" OWS field-value OWS.
func (c *Conn) field1(side Side, h *half, f *Fields, s span) bool {
	line := f.text[s.from:s.to]
	if (line[0] == ' ' || line[0] == '\t') && c.breaks(side, ObsFold) {
		return false
	}
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		c.breaks(side, FieldSpace)
		return false
	}
	name := line[:i]
	if !isToken(name) {
		r := FieldName
		if i > 0 && (name[i-1] == ' ' || name[i-1] == '\t') {
			r = FieldSpace
		}
		if c.breaks(side, r) {
			return false
		}
	}
	value := trimSpace(f.text, span{s.from + uint32(i) + 1, s.to})
	v := f.cut(value)
	if hasControl(v) {
		r := FieldValue
		if bytes.IndexByte(v, '\r') >= 0 {
			r = BareCR
		}
		if c.breaks(side, r) {
			return false
		}
	}
	f.list = append(f.list, field{span{s.from, s.from + uint32(i)}, value})
	if r := h.head.interpret(side, h.at == trailer, name, v, value); r != 0 && c.breaks(side, r) {
		return false
	}
	return true
}

// interpret notes what a field says about framing, connection and routing, and
// returns the rule it breaks, if any.
func (h *framing) interpret(side Side, inTrailer bool, name, v []byte, at span) Rule {
	switch len(name) { // most fields are none of ours: tell by length
	case 4:
		if !EqualName(name, "host") {
			return 0
		}
		h.hosts++
		h.host = at
		switch {
		case inTrailer:
			return TrailerField
		case side == Client && (h.hosts > 1 || !validHost(v)):
			return Host
		}
	case 6:
		if EqualName(name, "expect") && side == Client {
			h.expects = true
			if !EqualName(v, "100-continue") {
				return Expect
			}
		}
	case 7:
		if EqualName(name, "upgrade") {
			h.upgrades = true
		}
		if EqualName(name, "trailer") && inTrailer {
			return TrailerField
		}
	case 10:
		if EqualName(name, "connection") {
			return h.connection(v)
		}
	case 14:
		switch {
		case EqualName(name, "content_length"):
			return Lookalike
		case !EqualName(name, "content-length"):
			return 0
		case inTrailer:
			return TrailerField
		}
		n, ok := decimal(v)
		if !ok || h.length >= 0 {
			return ContentLength
		}
		h.length = n
	case 17:
		switch {
		case EqualName(name, "transfer_encoding"):
			return Lookalike
		case !EqualName(name, "transfer-encoding"):
			return 0
		case inTrailer:
			return TrailerField
		case h.chunked || !EqualName(v, "chunked"):
			return TransferEncoding
		}
		h.chunked = true
	}
	return 0
}

// connection reads the options of RFC 9110 §7.6.1. A field named here is taken
// off by the next proxy; for those that frame or route the message, live and a
// proxy before it would see two different ones.
func (h *framing) connection(v []byte) Rule {
	for len(v) > 0 {
		option := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			option, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		option = bytes.Trim(option, " \t")
		switch {
		case EqualName(option, "close"):
			h.close = true
		case EqualName(option, "keep-alive"):
			h.keepAlive = true
		case EqualName(option, "content-length"), EqualName(option, "transfer-encoding"), EqualName(option, "host"):
			return ConnectionOption
		}
	}
	return 0
}

// closes reports whether the message is the last one of its side.
func (h *framing) closes() bool { return h.close || h.http10 && !h.keepAlive }

// requestHead acts on a complete request header.
func (c *Conn) requestHead(h *half, now time.Time) bool {
	x, f := h.x, &h.head
	text := x.Request.Header.text
	r := Rule(0)
	switch {
	case f.chunked && f.length >= 0:
		r = BothLengths
	case f.chunked && f.http10:
		r = EncodingIn10
	case f.hosts == 0 && !f.http10:
		r = Host
	case f.absolute && f.hosts > 0 && !bytes.EqualFold(text[f.targetHost.from:f.targetHost.to], text[f.host.from:f.host.to]):
		r = TargetHost
	}
	if r != 0 && c.breaks(Client, r) {
		return false
	}
	x.authority = f.host
	if f.absolute {
		x.authority = f.targetHost
	}
	x.expects, x.upgrades = f.expects, f.upgrades
	h.closing = f.closes()
	c.announce(x)
	switch {
	case f.chunked:
		h.beginChunk()
	case f.length > 0:
		h.at, h.left = content, f.length
	default:
		c.end1(Client, h, now)
	}
	return true
}

// answerHead acts on a complete answer header (RFC 9112 §6.3).
func (c *Conn) answerHead(h *half, now time.Time) bool {
	x, f := h.x, &h.head
	interim := f.status < 200
	r := Rule(0)
	switch {
	case f.chunked && f.length >= 0:
		r = BothLengths
	case f.chunked && f.http10:
		r = EncodingIn10
	case (interim || f.status == 204) && (f.chunked || f.length > 0):
		r = NoBodyAllowed
	}
	if r != 0 && c.breaks(Live, r) {
		return false
	}
	if f.status == 101 {
		x.Status = f.status
		c.complete(&x.Answer, now)
		c.finish(x, Upgraded)
		c.breaks(Live, Switched)
		return false
	}
	if interim {
		x.charge -= x.Answer.Header.size
		c.hold(-x.Answer.Header.size)
		h.at, h.x = between, nil
		return true
	}
	x.Status, x.final = f.status, true
	if client := &c.h1[Client]; x.expects && !x.Request.Complete && x.Request.Body.Size == 0 && client.x == x {
		client.at, client.breaks = undefined, ExpectSkipped
	}
	h.closing = f.closes()
	c.answered(x)
	switch {
	case x.headOnly || f.status == 204 || f.status == 304 || f.length == 0:
		c.end1(Live, h, now)
	case f.chunked:
		h.beginChunk()
	case f.length > 0:
		h.at, h.left = content, f.length
	default:
		h.at, h.left, h.closing = content, -1, true
	}
	return true
}

// content1 takes bytes of a body or of a chunk.
func (c *Conn) content1(side Side, h *half, now time.Time, p []byte) []byte {
	m := h.x.message(side)
	n := len(p)
	if h.left >= 0 {
		n = int(min(int64(n), h.left))
	}
	last := h.at == content && int64(n) == h.left
	if !c.body(side, m, p[:n], h.left, last) {
		return nil
	}
	m.Last = now
	if x := h.x; side == Live && x.tookLong(now, last) {
		c.goesOn(x, true)
	}
	if h.left > 0 {
		h.left -= int64(n)
	}
	switch {
	case last:
		c.end1(side, h, now)
	case h.left == 0: // only a chunk gets here
		h.at = chunkCR
	}
	return p[n:]
}

func (h *half) beginChunk() {
	h.at, h.left, h.digits, h.ext, h.prev = chunkSize, 0, 0, 0, 0
}

// chunkSize1 reads "chunk-size [chunk-ext] CR" (RFC 9112 §7.1). Extensions have
// no meaning, but must be of the plain shape *(";" token ["=" token]).
func (c *Conn) chunkSize1(side Side, h *half, p []byte) []byte {
	for i, b := range p {
		r := Rule(0)
		switch d := hexValue(b); {
		case b == '\n':
			r = BareLF
		case b == '\r':
			if h.digits == 0 {
				r = ChunkSize
			} else if h.prev == ';' || h.prev == '=' {
				r = ChunkExtension
			}
			h.at = chunkLF
		case h.ext > 0 || b == ';':
			h.ext++
			switch {
			case h.digits == 0:
				r = ChunkSize
			case h.ext > maxExtension:
				r = ChunkExtension
			case b == ';' || b == '=':
				if h.prev == ';' || h.prev == '=' {
					r = ChunkExtension
				}
			case classes[b]&token == 0:
				r = ChunkExtension
			}
		case d < 0 || h.digits == 15:
			r = ChunkSize
		default:
			h.digits++
			h.left = h.left<<4 | int64(d)
		}
		h.prev = b
		if r != 0 && c.breaks(side, r) {
			return nil
		}
		if h.at == chunkLF {
			return p[i+1:]
		}
	}
	return nil
}

// end1 ends a message.
func (c *Conn) end1(side Side, h *half, now time.Time) {
	x := h.x
	c.complete(h.x.message(side), now)
	h.at, h.x = between, nil
	switch {
	case x.Request.Complete && x.Answer.Complete:
		c.finish(x, Complete)
	case side == Live && c.ended:
		c.finish(x, ClientCut) // the rest of its request will not come
	case side == Client:
		c.goesOn(x, false)
	}
}

// close1 ends an answer that lasts until live closes.
func (c *Conn) close1(now time.Time) {
	h := &c.h1[Live]
	if h.at == content && h.left < 0 {
		c.end1(Live, h, now)
	}
}

// validHost reports whether b is uri-host [":" port] of plain characters
// (RFC 3986 §3.2.2): a name of letters, digits, '-', '.', '_' and '~', or an IP
// address. Percent-encoding, user information and delimiters, allowed or not,
// are read differently by parsers. Nothing at all is valid (RFC 9112 §3.2).
func validHost(b []byte) bool {
	if len(b) > 0 && b[0] == '[' {
		i := bytes.IndexByte(b, ']')
		if i < 0 {
			return false
		}
		ip, err := netip.ParseAddr(string(b[1:i]))
		return err == nil && ip.Is6() && ip.Zone() == "" && validPort(b[i+1:])
	}
	if i := bytes.IndexByte(b, ':'); i >= 0 {
		if !validPort(b[i:]) {
			return false
		}
		b = b[:i]
	}
	for _, c := range b {
		if classes[c]&host == 0 {
			return false
		}
	}
	return true
}

func validPort(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	for _, c := range b[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return b[0] == ':'
}
