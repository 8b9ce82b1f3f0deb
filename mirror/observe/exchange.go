package observe

import (
	"bytes"
	"iter"
	"slices"
	"time"
	"unsafe"
)

// Exchange is one request with its answer, as one client connection carried
// them.
//
// Ownership: an Exchange handed to a Sink, and every byte slice reached
// through it, belongs to the Conn and is reused after Sink.Done returns. Take
// makes one that the caller owns. An Exchange is not safe for concurrent use.
type Exchange struct {
	// Protocol is HTTP1 or HTTP2.
	Protocol Protocol
	// Stream is the HTTP/2 stream, 0 in HTTP/1.
	Stream uint32
	// Seq counts the requests of the connection from 1, in the order in which
	// their first bytes came.
	Seq uint64

	Request Message
	Answer  Message

	// Status is that of the final answer, 0 until its headers are complete.
	// Interim answers (1xx) are read and forgotten.
	Status int
	// Outcome says how the exchange ended. It is meaningless before Sink.Done.
	Outcome Outcome
	// Broken is the rule that a Malformed exchange broke, else 0.
	Broken Rule
	// Tag is the consumer's own: the observer clears it and never reads it.
	Tag any

	method, scheme, authority, target span // in Request.Header.text

	announced  bool // Sink.Request was called
	grpc       bool // as GRPC says
	final      bool // the final answer header came
	refusable  bool // Broken is the request's fault: live must not serve it
	expects    bool // the request waits for 100 (Continue)
	upgrades   bool // the request offers another protocol
	headOnly   bool // HEAD: the answer has no body whatever it says
	long       bool // Sink.Ongoing was told so
	taken      bool // by Sink.Ongoing
	tunnel     bool // CONNECT on an HTTP/2 stream
	charge     int  // what Conn.memory holds for this exchange
	account    Account
	prev, next *Exchange // in Conn's list of open exchanges

	// Of one made by Take: where it goes back to, and what its slices lie in.
	home   *Observer
	memory backing
}

// Message is one half of an exchange.
type Message struct {
	// Header holds the fields in the order received, HTTP/2 pseudo-header
	// fields left out. Trailer holds those that came after the body.
	Header, Trailer Fields
	Body            Body
	// First and Last are the clock readings of the chunks that held the first
	// byte of the header and the last byte of the message, or of its body so
	// far. An answer is timed from its final header, not from an interim one.
	First, Last time.Time
	// Complete says that the message ended where its framing said.
	Complete bool

	declared int64 // HTTP/2: content-length, -1 without
}

// Fields is a list of header or trailer fields.
type Fields struct {
	text []byte // HTTP/1: the section as received; HTTP/2: names and values
	list []field
	size int // as RFC 9113 §6.5.2 counts it: names, values and 32 a field
}

type span struct{ from, to uint32 }

type field struct{ name, value span }

func (f *Fields) reset() { f.text, f.list, f.size = f.text[:0], f.list[:0], 0 }

func (f *Fields) cut(s span) []byte { return f.text[s.from:s.to:s.to] }

// Len returns the number of fields.
func (f *Fields) Len() int { return len(f.list) }

// All yields name and value of each field in the order received. Names are as
// received: any case in HTTP/1, lower case in HTTP/2.
func (f *Fields) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, e := range f.list {
			if !yield(f.cut(e.name), f.cut(e.value)) {
				return
			}
		}
	}
}

// Get returns the value of the first field called name, which must be given in
// lower case, and whether there is one. A field may come several times, and
// HTTP/2 clients split Cookie (RFC 9113 §8.2.3): All yields each.
func (f *Fields) Get(name string) ([]byte, bool) {
	for _, e := range f.list {
		if EqualName(f.text[e.name.from:e.name.to], name) {
			return f.cut(e.value), true
		}
	}
	return nil, false
}

// add appends one field that came without a section's text around it.
func (f *Fields) add(name, value string) {
	f.list = append(f.list, field{f.put(name), f.put(value)})
}

func (f *Fields) put(s string) span {
	from := uint32(len(f.text))
	f.text = append(f.text, s...)
	return span{from, from + uint32(len(s))}
}

// EqualName reports whether b, a field name, is lower in lower case. ASCII only, as field
// names are (RFC 9110 §5.1).
func EqualName(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Method returns the request's method, case as received.
func (x *Exchange) Method() []byte { return x.Request.Header.cut(x.method) }

// Scheme returns "http" or "https" where the request names it (HTTP/2, and
// HTTP/1 in absolute form), else nothing: the listener knows.
func (x *Exchange) Scheme() []byte { return x.Request.Header.cut(x.scheme) }

// Authority returns host and port as the request names them: :authority, or
// Host. Where a request has both they are equal.
func (x *Exchange) Authority() []byte { return x.Request.Header.cut(x.authority) }

// Target returns the request target as received: the :path of HTTP/2, any of
// the four forms of RFC 9112 §3.2 but the authority form in HTTP/1.
func (x *Exchange) Target() []byte { return x.Request.Header.cut(x.target) }

// Path returns the target's path, escapes as received, without the query.
func (x *Exchange) Path() []byte {
	path, _, _ := bytes.Cut(x.local(), []byte{'?'})
	if len(path) == 0 {
		return []byte{'/'} // "http://host" and "http://host?q", RFC 9110 §4.2.3
	}
	return path
}

// Query returns what follows the first '?' of the target, as received, and
// whether there is one.
func (x *Exchange) Query() ([]byte, bool) {
	_, query, ok := bytes.Cut(x.local(), []byte{'?'})
	return query, ok
}

// local is the target without scheme and authority.
func (x *Exchange) local() []byte {
	t := x.Target()
	if len(t) > 0 && t[0] != '/' {
		if _, rest, ok := bytes.Cut(t, []byte("://")); ok {
			if i := bytes.IndexAny(rest, "/?"); i >= 0 {
				return rest[i:]
			}
			return nil
		}
	}
	return t
}

// GRPC reports whether the request speaks gRPC: HTTP/2 with a content-type of
// application/grpc, bare or with a suffix (+proto) or parameters. gRPC-Web is
// another protocol.
func (x *Exchange) GRPC() bool { return x.grpc }

func (x *Exchange) readGRPC() bool {
	if x.Protocol != HTTP2 {
		return false
	}
	v, _ := x.Request.Header.Get("content-type")
	const prefix = "application/grpc"
	if len(v) < len(prefix) || !EqualName(v[:len(prefix)], prefix) {
		return false
	}
	return len(v) == len(prefix) || v[len(prefix)] == '+' || v[len(prefix)] == ';'
}

// GRPCStatus returns the status code and the message, percent-decoded, of a
// gRPC answer: from its trailers, or from its headers when it has nothing else
// ("Trailers-Only"; gRPC over HTTP/2, "Responses"). ok is false when there is
// no grpc-status or it is no number of up to three digits.
func (x *Exchange) GRPCStatus() (code int, message string, ok bool) {
	f := &x.Answer.Trailer
	if f.Len() == 0 {
		f = &x.Answer.Header
	}
	v, _ := f.Get("grpc-status")
	if len(v) == 0 || len(v) > 3 {
		return 0, "", false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, "", false
		}
		code = code*10 + int(c-'0')
	}
	m, _ := f.Get("grpc-message")
	return code, percentDecode(m), true
}

// percentDecode decodes what it can and leaves the rest as it is, as gRPC asks
// of a receiver of grpc-message.
func percentDecode(b []byte) string {
	if bytes.IndexByte(b, '%') < 0 {
		return string(b)
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] == '%' && i+2 < len(b) {
			hi, lo := hexValue(b[i+1]), hexValue(b[i+2])
			if hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		out = append(out, b[i])
	}
	return string(out)
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// message is the half of x that side sends.
func (x *Exchange) message(side Side) *Message {
	if side == Client {
		return &x.Request
	}
	return &x.Answer
}

// sections are the four lists of fields that an exchange may have.
func (x *Exchange) sections() [4]*Fields {
	return [4]*Fields{&x.Request.Header, &x.Request.Trailer, &x.Answer.Header, &x.Answer.Trailer}
}

func (x *Exchange) bodies() [2]*Body { return [2]*Body{&x.Request.Body, &x.Answer.Body} }

// Take returns a copy of x that the caller owns: kept bodies move to it if they
// are large, the rest is copied to memory of its size. It reserves that memory
// from the account and reports false, leaving x as it was, if the account
// refuses. Only Sink.Done may call it, and once. The caller must call Release
// when done.
func (x *Exchange) Take() (*Exchange, bool) {
	text, fields, lengths, content := 0, 0, 0, 0
	for _, f := range x.sections() {
		text += len(f.text)
		fields += len(f.list)
	}
	for _, b := range x.bodies() {
		lengths += len(b.Lengths)
		if len(b.Bytes) <= small {
			content += len(b.Bytes)
		}
	}
	own := x.home.taken.Get().(*Exchange)
	memory := backing{slices.Grow(own.memory.text[:0], text+content), slices.Grow(own.memory.fields[:0], fields), slices.Grow(own.memory.lengths[:0], lengths)}
	size := exchangeSize + memory.size()
	if !reserve(x.account, size) {
		x.home.taken.Put(own)
		return nil, false
	}
	*own = *x
	own.prev, own.next, own.charge = nil, nil, size-content
	for _, f := range own.sections() {
		f.text, f.list = carve(&memory.text, f.text), carve(&memory.fields, f.list)
	}
	for i, b := range own.bodies() {
		b.spare = nil
		b.Lengths = carve(&memory.lengths, b.Lengths)
		if len(b.Bytes) <= small {
			b.Bytes = carve(&memory.text, b.Bytes)
		} else {
			x.bodies()[i].Bytes = nil
		}
	}
	own.memory = memory
	return own, true
}

// backing is what the slices of an exchange made by Take lie in.
type backing struct {
	text    []byte
	fields  []field
	lengths []GRPCMessage
}

func (m *backing) size() int {
	return cap(m.text) + cap(m.fields)*fieldSize + cap(m.lengths)*lengthSize
}

// carve appends s to memory, which has room for it, and returns the copy.
func carve[T any](memory *[]T, s []T) []T {
	if len(s) == 0 {
		return nil
	}
	from := len(*memory)
	*memory = append(*memory, s...)
	return (*memory)[from:len(*memory):len(*memory)]
}

// TakeRequest is Take for an exchange whose answer goes on: the copy has the
// request and what there is of the answer's header. Only Sink.Ongoing may call
// it, and must then report that it did.
func (x *Exchange) TakeRequest() (*Exchange, bool) {
	answer := x.Answer
	x.Answer = Message{Header: answer.Header}
	own, ok := x.Take()
	x.Answer = answer
	return own, ok
}

// Held returns the bytes of the account that x, made by Take, still holds.
func (x *Exchange) Held() int {
	return x.charge + cap(x.Request.Body.Bytes) + cap(x.Answer.Body.Bytes)
}

// Release gives back to the account what x, made by Take, holds. x must not be
// used afterwards.
func (x *Exchange) Release() {
	if x.account != nil {
		x.account.Release(x.Held())
	}
	home, memory := x.home, x.memory
	for _, b := range x.bodies() {
		home.reuse(b.Bytes)
	}
	*x = Exchange{}
	if memory.size() <= spare {
		x.memory = memory
	}
	home.taken.Put(x)
}

const (
	// spare bounds what a pooled exchange holds of a section, in bytes: a pool
	// must not pin the rare large one.
	spare = 8 << 10

	exchangeSize = int(unsafe.Sizeof(Exchange{}))
	fieldSize    = int(unsafe.Sizeof(field{}))
)
