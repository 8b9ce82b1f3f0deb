// Package transport sends the calls of a load run and says what became of
// them. A Pool speaks HTTP/1.1, HTTP/2 or gRPC at the level of frames: requests
// are encoded once, everything due on a connection leaves in one write, answers
// are read for their outcome and length only. Package reference sends the same
// calls through net/http and grpc-go, to prove this one honest.
//
// A Pool belongs to one goroutine, which starts calls and polls for their ends;
// nothing in it is shared between goroutines. Plain connections are served by
// an epoll loop in that goroutine (Linux), which keeps a processor of GOMAXPROCS
// to itself while it polls. TLS, and every connection on other systems, is read
// and written by goroutines of its own; the protocol code is the same. The
// readers of both protocols are pure: bytes in, outcomes out.
package transport

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Protocol is what a Pool speaks on its connections.
type Protocol uint8

// The protocols. HTTP2 without TLS starts with prior knowledge (h2c).
const (
	HTTP1 Protocol = iota
	HTTP2
	GRPC
)

// Class says how a call ended. It is a closed set: metrics and results use its
// names as labels.
type Class uint8

// The classes. An answer that came in full is OK or Status; in all others there
// was none.
const (
	OK        Class = iota // answered: HTTP status below 400, gRPC status 0
	Status                 // answered: HTTP status 400 and up, gRPC status other than 0 and DEADLINE_EXCEEDED
	Timeout                // no full answer in time; gRPC status DEADLINE_EXCEEDED is one too
	Connect                // no connection could be made
	TLS                    // no TLS session, or not the protocol asked for, on a connection made
	Reset                  // the connection or stream ended before the answer did
	Malformed              // the answer broke the protocol
	TooLarge               // the answer passed MaxAnswer and was cut
	Classes                // how many there are
)

var classNames = [Classes]string{"ok", "status", "timeout", "connect", "tls", "reset", "protocol", "too_large"}

// String returns the name used in results and metrics.
func (c Class) String() string {
	if c < Classes {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Answered says whether a full answer came.
func (c Class) Answered() bool { return c == OK || c == Status }

// Header is one header or gRPC metadata field.
type Header struct{ Name, Value string }

// Op is one kind of call. It must not change once a Pool was made with it.
type Op struct {
	// Name is how results call it.
	Name string
	// Method is the HTTP method. Empty means GET, or POST for gRPC.
	Method string
	// Path is the request target with its query, or /package.Service/Method.
	Path string
	// Header is sent with every call. Host replaces the authority.
	Header []Header
	// Body is the HTTP body, nil for none.
	Body []byte
	// Messages are a gRPC call's request messages, without their prefixes: one
	// for a unary or server-streaming method, any number for a client stream.
	Messages [][]byte
	// ServerStream says that a gRPC answer has any number of messages.
	ServerStream bool
	// Keep is how many bytes of the answer's body Call.Answer holds.
	Keep int
	// OnMessage, if set, sees each message of a gRPC answer as it comes. msg is
	// valid during the call only; at is when its last byte was read.
	OnMessage func(c *Call, msg []byte, at time.Duration)
}

// Call is one use of an Op. Its maker owns it, sets the first group of fields
// and hands it to Start; the driver owns it from there until Poll returns it or
// Cancel does.
type Call struct {
	// Op is the index of the operation in Config.Ops.
	Op int
	// User picks the connection where each user has one.
	User uint64
	// Path, Header and Body, where set, replace the operation's path, add to its
	// header and replace its body (for gRPC its messages, by this one). They must
	// be valid: no white space in a path, no line breaks in a header.
	Path   string
	Header []Header
	Body   []byte
	// Deadline is when the caller will give up, on the Pool's clock; 0 is never.
	// It goes out as grpc-timeout. The caller keeps it by Cancel.
	Deadline time.Duration
	// Intended, Channel (what the call is counted under besides its operation) and
	// Data are the caller's own.
	Intended time.Duration
	Channel  string
	Data     any

	// Sent is when the first byte was about to be written, on the Pool's clock;
	// negative if none was.
	Sent time.Duration
	// First is when the first message of a ServerStream was read; 0 if none was.
	First time.Duration
	// Done is when the end was known.
	Done time.Duration
	// Class and Code say how it ended; Code is the HTTP or gRPC status, or 0.
	Class Class
	Code  int
	// Tried says that a byte was written or a connection was tried for it.
	Tried bool
	// Received is the length of the answer's body; Messages how many gRPC
	// messages it held.
	Received int64
	Messages int
	// Answer is the start of the answer's body, as much as Op.Keep asks for.
	Answer []byte

	conn    *conn // it was started on
	queued  *conn // it waits for; nil for any
	links   links[Call]
	retried bool
	refused bool // the server is known not to have acted on it

	// The HTTP/2 stream.
	id      uint32
	window  int64  // what the peer will still take
	rest    []byte // request body not yet in frames
	waiting bool   // for window
	opened  bool   // response headers were seen
	status  int
	unread  int64 // received and not yet given back as window
	framing messageReader
	body    []byte // room for an encoded body of its own
	offset  uint64 // where it starts in the connection's output
}

func (c *Call) reset() {
	*c = Call{
		Op: c.Op, User: c.User, Path: c.Path, Header: c.Header, Body: c.Body, Deadline: c.Deadline,
		Intended: c.Intended, Channel: c.Channel, Data: c.Data, Sent: -1, Answer: c.Answer[:0], body: c.body[:0],
		framing: messageReader{held: c.framing.held[:0]},
	}
}

// Clock tells the time since the start of the run.
type Clock interface{ Now() time.Duration }

// wall is the machine's monotonic clock.
type wall struct{ start time.Time }

// NewClock returns the machine's monotonic clock, with start as its zero.
func NewClock(start time.Time) Clock { return wall{start} }

func (w wall) Now() time.Duration { return time.Since(w.start) }

// check refuses what cannot be sent as it was written.
func (o *Op) check(p Protocol) error {
	if o.Path == "" || o.Path[0] != '/' || strings.ContainsAny(o.Path, " \t\r\n\x00#") {
		return fmt.Errorf("operation %s: path %q is not a request target", o.Name, o.Path)
	}
	if o.Method != "" && !httpguts.ValidHeaderFieldName(o.Method) {
		return fmt.Errorf("operation %s: method %q is not a token", o.Name, o.Method)
	}
	if p == GRPC && (o.Body != nil || o.Method != "" && o.Method != "POST") {
		return fmt.Errorf("operation %s: a gRPC call has messages and is a POST", o.Name)
	}
	if p != GRPC && (o.Messages != nil || o.ServerStream || o.OnMessage != nil) {
		return fmt.Errorf("operation %s: only a gRPC call has messages", o.Name)
	}
	for _, h := range o.Header {
		if !httpguts.ValidHeaderFieldName(h.Name) || !httpguts.ValidHeaderFieldValue(h.Value) {
			return fmt.Errorf("operation %s: header %q: %q cannot be sent", o.Name, h.Name, h.Value)
		}
		switch strings.ToLower(h.Name) {
		case "connection", "transfer-encoding", "content-length", "upgrade", "keep-alive", "proxy-connection":
			return fmt.Errorf("operation %s: header %s is the transport's own", o.Name, h.Name)
		}
	}
	return nil
}

func (o *Op) method(p Protocol) string {
	switch {
	case o.Method != "":
		return o.Method
	case p == GRPC:
		return "POST"
	}
	return "GET"
}

// host returns the authority: the Host header of the operation, or else def.
func (o *Op) host(def string) string {
	for _, h := range o.Header {
		if strings.EqualFold(h.Name, "host") {
			return h.Value
		}
	}
	return def
}

// UserAgent is what calls say of themselves unless their header says otherwise.
const UserAgent = "darklaunch"

// Fields returns the header fields, without Host, that a call of o carries
// beside those that the protocol itself wants.
func (o *Op) Fields() []Header {
	agent := false
	var fs []Header
	for _, h := range o.Header {
		if strings.EqualFold(h.Name, "host") {
			continue
		}
		agent = agent || strings.EqualFold(h.Name, "user-agent")
		fs = append(fs, h)
	}
	if !agent {
		fs = append(fs, Header{"User-Agent", UserAgent})
	}
	return fs
}
