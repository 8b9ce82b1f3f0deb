// Package observe tells what the bytes of one client connection mean.
//
// A relay forwards bytes between a client and live; it feeds a Conn with the
// same bytes, and a Sink learns of exchanges: requests with their answers, in
// HTTP/1.0, HTTP/1.1 or HTTP/2. Nothing here can slow or change the relayed
// bytes. The package starts no goroutine, does no I/O and asks no clock: each
// chunk comes with a clock reading.
//
// The observer is strict where a server may be lenient. What two parsers could
// read differently is never reported: the observer gives up on the connection
// instead (see Rule), once, and then ignores all further bytes. In HTTP/2 a
// malformed request leaves the framing intact, and ends alone as Malformed as
// long as live rejects it.
//
// # Feeding
//
// Feed each chunk before it is forwarded. Then causes come before effects: an
// answer is never seen before its request, nor a field block before the
// SETTINGS that allow it.
//
// # Memory
//
// Between messages an HTTP/1 connection holds its Conn alone, an HTTP/2 one
// also its two HPACK tables and what its open exchanges take. Bodies that are
// not kept, and everything a peer may send, stay under 4 MiB a connection.
// Kept bodies are bounded by Config.MaxBody each, and by the Account together.
package observe

import (
	"bytes"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
)

// Protocol is what a connection speaks.
type Protocol uint8

const (
	// Unknown: the client has not said enough yet, or the observer gave up.
	Unknown Protocol = iota
	HTTP1
	HTTP2
)

// Side is one end of a connection.
type Side uint8

const (
	Client Side = iota
	Live
)

// Outcome says how an exchange ended.
type Outcome uint8

const (
	// Complete: request and answer both ended where their framing said.
	Complete Outcome = iota + 1
	// LiveAborted: live closed or reset before its answer was complete. Live
	// may have done what was asked.
	LiveAborted
	// ClientCut: the client closed or reset before its request was complete,
	// or before the answer was. Live may have done what was asked.
	ClientCut
	// Early: live answered completely and the request never ended, so that no
	// one knows it whole.
	Early
	// Refused: HTTP/2 live said that it did not process the request
	// (REFUSED_STREAM, or a stream beyond GOAWAY's; RFC 9113 §8.7).
	Refused
	// Malformed: HTTP/2 request or answer against the rules in a way that
	// leaves other streams alone; Exchange.Broken says which. A malformed
	// request was rejected by live; Sink.Request may not have been called.
	Malformed
	// Tunnelled: HTTP/2 CONNECT. Sink.Request was not called.
	Tunnelled
	// Upgraded: HTTP/1.1 answered by 101. The connection is abandoned next.
	Upgraded
	// Unobserved: the observer gave up on the connection meanwhile.
	Unobserved
)

var outcomeNames = [...]string{
	Complete: "complete", LiveAborted: "live_aborted", ClientCut: "client_cut", Early: "early", Refused: "refused",
	Malformed: "malformed", Tunnelled: "tunnelled", Upgraded: "upgraded", Unobserved: "unobserved",
}

// String returns a constant fit for a label or a log.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return ""
}

// Sink takes what a Conn observes. Calls come from within the Conn's methods,
// on the goroutine that feeds it, and must not block or call the Conn. See
// Exchange for how long x may be used.
type Sink interface {
	// Request is called when the header of x's request is complete, and says
	// what is to become of both bodies.
	Request(x *Exchange) Mode
	// Answer is called when the final header of x's answer is complete, which
	// may be before the request ends. It says what is to become of the answer's
	// body; Ignore also lets go of what is kept of the request's.
	Answer(x *Exchange) Mode
	// Ongoing is called when the request of x has ended and the answer has not:
	// then, and, with long, once the answer is found to be a stream of events or
	// to have gone on for a second. It may call x.TakeRequest, and reports
	// whether it did: nothing more is kept of x's bodies then.
	Ongoing(x *Exchange, long bool) (taken bool)
	// Done is called once for each exchange, when both messages have ended or
	// one of them never will. It may call x.Take.
	Done(x *Exchange)
	// Abandoned is called at most once, after Done of all open exchanges.
	Abandoned(a Abandonment)
}

// Abandonment says why the observer gave up on a connection.
//
// What may have gone unobserved: the exchanges that just ended as Unobserved,
// one more if Partial, and whatever the connection carries from now on, by any
// user, those never seen on it included.
type Abandonment struct {
	Reason Reason
	// Rule is what was met; Reason is its Reason.
	Rule Rule
	// Side is where the bytes came from.
	Side Side
	// Partial says that client bytes were seen that may belong to a request
	// which Sink.Request was not told of.
	Partial bool
}

// Config holds limits. Its zero value is ready for use.
type Config struct {
	// MaxBody bounds what is kept of one body, in bytes. Zero means 1 MiB.
	MaxBody int
	// MaxHead bounds one header or trailer section, in bytes as RFC 9113
	// §6.5.2 counts a field list: names, values and 32 for each field; in
	// HTTP/1 the section as received and 32 for each field. Zero means 64 KiB,
	// which is also the most.
	MaxHead int
	// Account is charged with the capacity of kept bodies, and of exchanges
	// taken. Nil means no bound but MaxBody.
	Account Account
}

const (
	defaultBody = 1 << 20
	mostHead    = 64 << 10
	// maxMemory bounds what open exchanges of a connection take, reckoned as
	// charge does. With slack of growing slices and two HPACK tables of 64 KiB
	// of small entries it keeps a connection under 4 MiB.
	maxMemory = 5 << 19
	// maxEarly bounds what live may say before the client's first byte.
	maxEarly = 4 << 10
)

// Observer makes Conns and holds what they share: limits and free memory. It
// is safe for concurrent use.
type Observer struct {
	maxBody, maxHead int
	account          Account
	exchanges, taken sync.Pool // of *Exchange; those made by Take hold more
	hashers          sync.Pool // of *xxh3.Hasher
	large            sync.Pool // of *[]byte, for bodies

	waived Rule // tests plant a fault: a rule that is not enforced
}

// New returns an Observer with the limits of cfg.
func New(cfg Config) *Observer {
	o := &Observer{maxBody: cfg.MaxBody, maxHead: cfg.MaxHead, account: cfg.Account}
	if o.maxBody == 0 {
		o.maxBody = defaultBody
	}
	if o.maxHead == 0 || o.maxHead > mostHead {
		o.maxHead = mostHead
	}
	o.exchanges.New = func() any { return new(Exchange) }
	o.taken.New = func() any { return new(Exchange) }
	o.hashers.New = func() any { return new(xxh3.Hasher) }
	return o
}

// Conn observes one client connection. It is not safe for concurrent use: a
// caller that reads the two directions on two goroutines holds a lock.
type Conn struct {
	o    *Observer
	sink Sink

	state state
	ended bool // the client has sent its last byte
	h1    *connHTTP1
	h2    *connHTTP2
	held  [2][]byte // bytes that came before the protocol was known

	first, last *Exchange // open exchanges, oldest first
	seq         uint64
	memory      int // charged to open exchanges
}

type state uint8

const (
	detecting state = iota
	speaksHTTP1
	speaksHTTP2
	over // abandoned or closed
)

// Conn returns a Conn that reports to sink.
func (o *Observer) Conn(sink Sink) *Conn { return &Conn{o: o, sink: sink} }

// Protocol returns what the connection speaks, as far as it is known.
func (c *Conn) Protocol() Protocol {
	switch c.state {
	case speaksHTTP1:
		return HTTP1
	case speaksHTTP2:
		return HTTP2
	}
	return Unknown
}

// FromClient takes bytes on their way from the client to live. p is not kept.
func (c *Conn) FromClient(now time.Time, p []byte) { c.feed(Client, now, p) }

// FromLive takes bytes on their way from live to the client. p is not kept.
func (c *Conn) FromLive(now time.Time, p []byte) { c.feed(Live, now, p) }

func (c *Conn) feed(side Side, now time.Time, p []byte) {
	if len(p) == 0 || side == Client && c.ended {
		return
	}
	switch c.state {
	case detecting:
		c.detect(side, now, p)
	case speaksHTTP1:
		c.feed1(side, now, p)
	case speaksHTTP2:
		c.feed2(side, now, p)
	}
}

// clientPreface starts every HTTP/2 connection (RFC 9113 §3.4).
const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// detect tells the protocol by the client's first bytes. What live says before
// them is held, and read when the protocol is known.
func (c *Conn) detect(side Side, now time.Time, p []byte) {
	if side == Live {
		if len(c.held[Live])+len(p) > maxEarly {
			c.breaks(Live, LimitEarly)
			return
		}
		c.held[Live] = append(c.held[Live], p...)
		return
	}
	if len(c.held[Client]) > 0 {
		p = append(c.held[Client], p...)
	}
	n := min(len(p), len(clientPreface))
	isPreface := string(p[:n]) == clientPreface[:n]
	if isPreface && n < len(clientPreface) {
		c.held[Client] = append([]byte(nil), p...)
		return
	}
	early := c.held[Live]
	c.held = [2][]byte{}
	switch {
	case isPreface:
		c.state, c.h2 = speaksHTTP2, newHTTP2(c)
		c.feed(Live, now, early)
		p = p[n:]
	case len(early) > 0 && c.breaks(Live, NotHTTP):
	default:
		c.state, c.h1 = speaksHTTP1, new(connHTTP1)
	}
	c.feed(Client, now, p)
}

// ClientEOF says that the client will send no more. Answers may still come.
func (c *Conn) ClientEOF() { c.ended = true }

// LiveEOF says that live ended its side in order: an answer without a length
// is complete, every other open exchange is aborted. A reset, or a TLS
// connection cut without close_notify, is Close and not LiveEOF.
func (c *Conn) LiveEOF(now time.Time) {
	if c.state == speaksHTTP1 {
		c.close1(now)
	}
	c.Close(Live)
}

// Close says that the connection is gone and that by ended it. It is the last
// call a Conn needs, and may be repeated.
func (c *Conn) Close(by Side) {
	if c.state == over {
		return
	}
	c.state = over
	for c.first != nil {
		c.finish(c.first, c.cutOutcome(c.first, by))
	}
	c.free()
}

// cutOutcome is the outcome of x when by ends the stream or the connection.
func (c *Conn) cutOutcome(x *Exchange, by Side) Outcome {
	switch {
	case x.Answer.Complete:
		return Early // or it would not be open
	case by == Live && !(c.ended && !x.Request.Complete):
		return LiveAborted
	}
	return ClientCut
}

// Abandon gives up on the connection with reason Stopped.
func (c *Conn) Abandon() {
	if c.state != over {
		c.breaks(Client, CallerStopped)
	}
}

// breaks gives up on the connection because bytes of side met r. It reports
// true, unless a test waives r.
func (c *Conn) breaks(side Side, r Rule) bool {
	if c.o.waived == r {
		return false
	}
	a := Abandonment{Reason: r.Reason(), Rule: r, Side: side, Partial: side == Client && r != CallerStopped}
	c.state = over
	for c.first != nil {
		x := c.first
		a.Partial = a.Partial || !x.announced && !x.tunnel
		c.finish(x, Unobserved)
	}
	c.free()
	c.sink.Abandoned(a)
	return true
}

func (c *Conn) free() {
	c.h1, c.h2, c.held = nil, nil, [2][]byte{}
}

// open starts an exchange, at the end of the list.
func (c *Conn) open(p Protocol, now time.Time) *Exchange {
	x := c.o.exchanges.Get().(*Exchange)
	c.seq++
	x.Protocol, x.Seq, x.account, x.home = p, c.seq, c.o.account, c.o
	x.Request.First = now
	if c.last == nil {
		c.first = x
	} else {
		c.last.next, x.prev = x, c.last
	}
	c.last = x
	x.charge = exchangeSize
	c.hold(x.charge)
	return x
}

// hold counts n bytes more for open exchanges. It does not check: the caller
// may stand in the middle of a step.
func (c *Conn) hold(n int) { c.memory += n }

// charge adds a finished section of fields to what x takes, and reports false
// if that was too much and the connection was abandoned.
func (c *Conn) charge(side Side, x *Exchange, f *Fields) bool {
	x.charge += f.size
	c.hold(f.size)
	return c.memory <= maxMemory || !c.breaks(side, LimitMemory)
}

// body adds p to the body of one of x's messages. It reports false if the
// connection was abandoned. See Body.write for expect and last.
func (c *Conn) body(side Side, m *Message, p []byte, expect int64, last bool) bool {
	m.Body.write(c, p, expect, last)
	return c.memory <= maxMemory || !c.breaks(side, LimitMemory)
}

// complete ends a message where its framing says.
func (c *Conn) complete(m *Message, now time.Time) {
	m.Body.end(c)
	m.Last, m.Complete = now, true
}

// announce tells the sink of a request whose header is complete.
func (c *Conn) announce(x *Exchange) {
	x.announced, x.grpc = true, x.readGRPC()
	mode := c.sink.Request(x)
	x.Request.Body.Mode, x.Answer.Body.Mode = mode, mode
	if mode != Ignore {
		x.Request.Body.grpc, x.Answer.Body.grpc = x.grpc, x.grpc
	}
}

// answered tells the sink of an answer whose final header is complete.
func (c *Conn) answered(x *Exchange) {
	mode := c.sink.Answer(x)
	if x.taken {
		mode = Ignore
	}
	x.Answer.Body.Mode, x.Answer.Body.grpc = mode, mode != Ignore && x.GRPC()
	if mode == Ignore {
		c.drop(&x.Request.Body)
		x.Request.Body.Mode, x.Request.Body.Hash = Ignore, [16]byte{}
	}
	if v, ok := x.Answer.Header.Get("content-type"); ok && mode != Ignore && isEvents(v) {
		c.goesOn(x, true)
	}
}

// isEvents reports whether a media type is that of server-sent events.
func isEvents(contentType []byte) bool {
	const events = "text/event-stream"
	return len(contentType) >= len(events) && EqualName(contentType[:len(events)], events)
}

// longAnswer is after how long an answer that goes on is told as such.
const longAnswer = time.Second

// goesOn tells the sink of an answer that goes on though its request has ended.
func (c *Conn) goesOn(x *Exchange, long bool) {
	if !x.announced || x.Broken != 0 || x.taken || !x.Request.Complete || x.Answer.Complete || x.long {
		return
	}
	x.long = long
	if x.taken = c.sink.Ongoing(x, long); x.taken {
		c.drop(&x.Request.Body) // of which there is a copy
		c.drop(&x.Answer.Body)
		x.Request.Body.Mode, x.Answer.Body.Mode = Ignore, Ignore
	}
}

// tookLong reports whether the answer of x has gone on for long, before it ends.
func (x *Exchange) tookLong(now time.Time, last bool) bool {
	return !last && x.Answer.Body.Mode != Ignore && now.Sub(x.Answer.First) >= longAnswer
}

// finish ends x and takes it off the list.
func (c *Conn) finish(x *Exchange, o Outcome) {
	if x.prev == nil {
		c.first = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		c.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next = nil, nil
	switch {
	case o == Unobserved || o == Refused:
	case x.tunnel:
		o = Tunnelled
	case x.Broken != 0:
		o = Malformed
	}
	x.Outcome = o
	if x.announced || o == Malformed || o == Tunnelled {
		c.sink.Done(x)
	}
	c.drop(&x.Request.Body)
	c.drop(&x.Answer.Body)
	c.memory -= x.charge
	c.recycle(x)
}

// drop lets go of what b keeps.
func (c *Conn) drop(b *Body) {
	b.dropHasher(c)
	if c.o.account != nil && cap(b.Bytes) > 0 {
		c.o.account.Release(cap(b.Bytes))
	}
	if 0 < cap(b.Bytes) && cap(b.Bytes) <= small {
		b.spare = b.Bytes[:0]
	} else {
		c.o.reuse(b.Bytes)
	}
	b.Bytes = nil
}

// recycle clears x, but for memory that the next exchange can use.
func (c *Conn) recycle(x *Exchange) {
	var sections [4]Fields
	for i, f := range x.sections() {
		if cap(f.text) <= spare && cap(f.list)*fieldSize <= spare {
			sections[i].text, sections[i].list = f.text[:0], f.list[:0]
		}
	}
	var bodies [2]Body
	for i, b := range x.bodies() {
		bodies[i] = Body{Lengths: b.Lengths[:0], spare: b.spare}
	}
	*x = Exchange{}
	for i, f := range x.sections() {
		*f = sections[i]
	}
	x.Request.Body, x.Answer.Body = bodies[0], bodies[1]
	c.o.exchanges.Put(x)
}

// classes says what each byte may be part of.
var classes = func() (t [256]class) {
	for _, c := range []byte("!#$%&'*+^`|") {
		t[c] = token
	}
	for _, c := range []byte("0123456789abcdefghijklmnopqrstuvwxyz-._~") {
		t[c] = token | host
	}
	for c := byte('A'); c <= 'Z'; c++ {
		t[c] = token | host | upper
	}
	return t
}()

type class uint8

const (
	token class = 1 << iota // RFC 9110 §5.6.2
	host                    // see validHost
	upper
)

func isToken(b []byte) bool {
	for _, c := range b {
		if classes[c]&token == 0 {
			return false
		}
	}
	return len(b) > 0
}

// hasControl reports whether b holds a control other than HTAB.
func hasControl(b []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(b) >= 8; b = b[8:] {
		w := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		low := (w - ones*0x20) & ^w & highs // a byte is below 0x20
		del := w ^ ones*0x7f
		del = (del - ones) & ^del & highs // a byte is 0x7f
		if low|del != 0 && anyControl(b[:8]) {
			return true
		}
	}
	return anyControl(b)
}

func anyControl(b []byte) bool {
	for _, c := range b {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

// trimSpace takes off optional whitespace (RFC 9110 §5.6.3).
func trimSpace(b []byte, s span) span {
	for s.from < s.to && (b[s.from] == ' ' || b[s.from] == '\t') {
		s.from++
	}
	for s.from < s.to && (b[s.to-1] == ' ' || b[s.to-1] == '\t') {
		s.to--
	}
	return s
}

// decimal reads plain digits. It takes no sign, no space, no leading zero and
// nothing above 2^63-1, since parsers differ over each of them.
func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 || len(b) > 1 && b[0] == '0' {
		return 0, false
	}
	n := int64(0)
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// validPath reports whether t is an origin-form target that cannot be taken
// for another: no control, space or fragment, no broken escape in the path.
func validPath(t []byte) bool {
	if len(t) == 0 || t[0] != '/' {
		return false
	}
	path := t
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		path = t[:i]
	}
	for i := bytes.IndexByte(path, '%'); i >= 0; i = bytes.IndexByte(path, '%') {
		if i+2 >= len(path) || hexValue(path[i+1]) < 0 || hexValue(path[i+2]) < 0 {
			return false
		}
		path = path[i+3:]
	}
	for _, c := range t {
		if c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}
