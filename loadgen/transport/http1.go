package transport

import (
	"errors"
	"strconv"
	"strings"
)

// request1 is an operation encoded for HTTP/1.1, in the parts between which a
// call's own path, header and length go.
type request1 struct {
	method []byte // "GET "
	path   string
	head   []byte // " HTTP/1.1\r\nHost: …\r\n…\r\n", without the empty line
	body   []byte
	length bool // the method says a length even without a body
	isHead bool
	again  bool // may be sent twice: the method is idempotent (RFC 9110 §9.2.2)
	keep   int
}

func newRequest1(o *Op, host string) request1 {
	m := o.method(HTTP1)
	r := request1{method: []byte(m + " "), path: o.Path, body: o.Body, isHead: m == "HEAD", keep: o.Keep}
	switch m {
	case "POST", "PUT", "PATCH":
		r.length = true
	}
	switch m {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		r.again = true
	}
	var b strings.Builder
	b.WriteString(" HTTP/1.1\r\nHost: " + o.host(host) + "\r\n")
	for _, h := range o.Fields() {
		b.WriteString(h.Name + ": " + h.Value + "\r\n")
	}
	r.head = []byte(b.String())
	return r
}

// append adds the request of c to b.
func (r *request1) append(b []byte, c *Call) []byte {
	b = append(b, r.method...)
	if c.Path != "" {
		b = append(b, c.Path...)
	} else {
		b = append(b, r.path...)
	}
	b = append(b, r.head...)
	for _, h := range c.Header {
		b = append(b, h.Name...)
		b = append(b, ": "...)
		b = append(b, h.Value...)
		b = append(b, "\r\n"...)
	}
	body := r.body
	if c.Body != nil {
		body = c.Body
	}
	if len(body) > 0 || r.length {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, body...)
}

// http1 is the client's side of one HTTP/1.1 connection: one call at a time.
type http1 struct {
	duplex
	requests []request1
	limit    int64
	call     *Call
	answer   answer
	used     bool // an answer came on this connection
	over     bool
}

func (h *http1) ready() bool   { return true }
func (h *http1) retired() bool { return h.over }
func (h *http1) written()      {}

func (h *http1) room() int {
	if h.call != nil || h.over {
		return 0
	}
	return 1
}

func (h *http1) start(c *Call) {
	r := &h.requests[c.Op]
	h.call = c
	var sink func([]byte)
	if r.keep > 0 {
		sink = func(p []byte) { c.keep(p, r.keep) }
	}
	h.answer.reset(r.isHead, h.limit, sink)
	h.out = r.append(h.out, c)
}

func (h *http1) receive(b []byte) error {
	if h.call == nil {
		return errProtocol // an answer nobody asked for
	}
	n, done, err := h.answer.feed(b)
	switch {
	case errors.Is(err, errTooLarge):
		h.finish(TooLarge)
		return err
	case err != nil:
		h.finish(Malformed)
		return err
	case !done:
		return nil
	}
	h.over = !h.answer.reusable()
	h.conclude()
	if n < len(b) && !h.over {
		return errProtocol
	}
	return nil
}

// conclude ends the call with its complete answer.
func (h *http1) conclude() {
	class := OK
	if h.answer.status >= 400 {
		class = Status
	}
	h.used = true
	h.finish(class)
}

func (h *http1) finish(class Class) {
	c := h.call
	h.call = nil
	c.Class, c.Received = class, h.answer.body
	if class.Answered() {
		c.Code = h.answer.status
	}
	h.ended = append(h.ended, c)
}

func (h *http1) eof() {
	if h.call != nil && h.answer.eof() {
		h.conclude()
	}
}

func (h *http1) lost(class Class) {
	h.over = true
	if h.call == nil {
		return
	}
	// The server may close an idle connection at any time; a call that crossed
	// with it was not acted on, or may be sent twice.
	h.call.refused = h.used && !h.answer.begun() && h.requests[h.call.Op].again
	h.finish(class)
}

func (h *http1) cancel(*Call) {
	h.call = nil
	h.over = true
}
