package shadow

import (
	"bytes"
	"errors"
	"fmt"

	"darklaunch/mirror/observe"
)

// Field is one header or trailer field.
type Field struct{ Name, Value []byte }

// Call is one request of a copy. It speaks the protocol of its original: an
// HTTP/2 request is not sent as HTTP/1.1, nor the other way round. What it
// refers to must not change until the last Send of its Copy has returned.
type Call struct {
	// Route labels the call's metrics: one of a bounded set.
	Route string
	// HTTP2 says what is spoken; GRPC, which implies it, where the status is.
	HTTP2, GRPC bool
	// Stream says that the answer has no end in sight: that it is cut at the
	// time-out is no failure of the role's.
	Stream bool
	// Chunked says that an HTTP/1.1 body had no length in advance.
	Chunked bool
	Method  []byte
	// Authority becomes Host or :authority. Empty means the backend's address.
	Authority []byte
	// Target is the path with its query, or "*".
	Target []byte
	// Header and Trailer are the original's. What belongs to a connection or
	// to framing is passed over when the call is written.
	Header, Trailer []Field
	// Body is the whole body, without chunk or frame headers.
	Body []byte
}

// Observed makes c the call that x was, reusing c's memory and referring to
// x's. The body must have been kept whole.
func (c *Call) Observed(x *observe.Exchange, route string) {
	*c = Call{
		Route: route, HTTP2: x.Protocol == observe.HTTP2, GRPC: x.GRPC(),
		Method: x.Method(), Authority: x.Authority(), Target: x.Target(),
		Header: appendFields(c.Header[:0], &x.Request.Header), Trailer: appendFields(c.Trailer[:0], &x.Request.Trailer),
		Body: x.Request.Body.Bytes,
	}
	if c.Target[0] != '/' && string(c.Target) != "*" { // the absolute form, which is for proxies
		c.Target = x.Path()
		if q, ok := x.Query(); ok {
			c.Target = append(append(bytes.Clone(c.Target), '?'), q...)
		}
	}
	if !c.HTTP2 {
		_, c.Chunked = x.Request.Header.Get("transfer-encoding")
	}
}

func appendFields(dst []Field, fs *observe.Fields) []Field {
	for name, value := range fs.All() {
		dst = append(dst, Field{name, value})
	}
	return dst
}

// errInvalid is what Check's errors say first.
var errInvalid = errors.New("call can not be written")

// Check reports why c can't be written as one request and no other: a name
// that is no token, a control in a value, a target with a space in it.
func (c *Call) Check() error {
	switch {
	case !isToken(c.Method):
		return fmt.Errorf("%w: method is no token", errInvalid)
	case len(c.Target) == 0 || c.Target[0] != '/' && string(c.Target) != "*" || hasControl(c.Target, ' '):
		return fmt.Errorf("%w: target is neither a path nor *", errInvalid)
	case hasControl(c.Authority, ' '):
		return fmt.Errorf("%w: control or space in authority", errInvalid)
	case c.GRPC && !c.HTTP2:
		return fmt.Errorf("%w: gRPC is spoken over HTTP/2", errInvalid)
	}
	for _, fs := range [...][]Field{c.Header, c.Trailer} {
		for _, f := range fs {
			if !isToken(f.Name) || hasControl(f.Value, 0) {
				return fmt.Errorf("%w: field name is no token or value has a control", errInvalid)
			}
		}
	}
	return nil
}

// isToken reports whether b is a token of RFC 9110 §5.6.2.
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokens[c] {
			return false
		}
	}
	return len(b) > 0
}

var tokens = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// hasControl reports whether b has a control other than HTAB, or also.
func hasControl(b []byte, also byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f || c == also {
			return true
		}
	}
	return false
}
