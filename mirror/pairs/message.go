package pairs

import (
	"bytes"
	"iter"
	"strings"

	"github.com/zeebo/xxh3"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/record"
	"darklaunch/mirror/shadow"
)

// message writes a pair down, as far as the record may show it.
func (p *Pairs) message(pair *Pair, reason pairv1.Reason) *pairv1.Pair {
	m := &pairv1.Pair{
		Reason: reason, Route: pair.Route.cfg.Name, Id: pair.ID[:], KeyHash: pair.Key,
		RulesHash: pair.Route.cfg.RulesHash, Unsafe: pair.Unsafe, Sides: []*pairv1.Side{p.live(pair)}, StandsFor: 1,
		Rule: uint32(pair.rule),
	}
	if pair.keep != nil {
		_, m.Keep = p.cfg.Record.Body("application/json", "", pair.keep, false)
	}
	if reason == pairv1.Reason_REASON_AUDIT {
		m.StandsFor = uint32(p.cfg.Audit)
	}
	for role, in := range pair.Roles {
		if in {
			m.Sides = append(m.Sides, p.side(pair, lanes.Role(role)))
		}
	}
	return m
}

func (p *Pairs) live(pair *Pair) *pairv1.Side {
	x := pair.Live
	m := pair.method(x.GRPC(), string(x.Path()))
	answer := &pairv1.Answer{
		Status: uint32(x.Status), Header: p.fields(&x.Answer.Header), Trailer: p.fields(&x.Answer.Trailer),
		Body: p.body(&x.Answer.Header, observed(&x.Answer.Body), m, true),
	}
	if code, _, ok := x.GRPCStatus(); ok && x.GRPC() {
		status := uint32(code)
		answer.GrpcStatus = &status
	}
	return &pairv1.Side{
		Role: pairv1.Role_ROLE_LIVE, Clean: true, SendTime: x.Request.First.UnixNano(),
		Exchanges: []*pairv1.Exchange{{
			Request: p.request(pair.Route, x, m), Answer: answer,
			Duration: int64(liveTook(x)), FirstByte: int64(liveTook(x) - x.Answer.Last.Sub(x.Answer.First)),
		}},
	}
}

// request shows the route in place of the path, which may name users.
func (p *Pairs) request(r *Route, x *observe.Exchange, m method) *pairv1.Request {
	return &pairv1.Request{
		Method: string(x.Method()), Path: r.cfg.Name, Header: p.fields(&x.Request.Header),
		Body: p.body(&x.Request.Header, observed(&x.Request.Body), m, false),
	}
}

func (p *Pairs) side(pair *Pair, role lanes.Role) *pairv1.Side {
	s := &pair.sides[role]
	m := &pairv1.Side{Role: roles[role], Clean: s.judged, SendTime: s.outcome.Answers[0].Sent.UnixNano(), Stopped: s.outcome.Stopped, UnknownIds: s.unknownIDs}
	for i, a := range s.outcome.Answers {
		var asked *shadow.Call
		if i < len(s.calls) {
			asked = &s.calls[i]
		}
		m.Exchanges = append(m.Exchanges, p.exchange(pair, a, asked))
	}
	return m
}

// exchange is one call of a role. asked is nil where that is what live was asked.
func (p *Pairs) exchange(pair *Pair, a *shadow.Answer, asked *shadow.Call) *pairv1.Exchange {
	x := &pairv1.Exchange{}
	m := pair.method(pair.Live.GRPC(), string(pair.Live.Path()))
	if asked != nil {
		path, _, _ := bytes.Cut(asked.Target, []byte("?"))
		m = pair.method(asked.GRPC, string(path))
		x.Request = p.asked(asked, m)
	}
	if a.Err != nil {
		x.Failure = a.Code()
	} else {
		x.Duration, x.FirstByte = int64(a.Last.Sub(a.Sent)), int64(a.First.Sub(a.Sent))
	}
	if a.Status == 0 {
		return x
	}
	x.Answer = &pairv1.Answer{
		Status: uint32(a.Status), Header: p.fields(&a.Header), Trailer: p.fields(&a.Trailer),
		Body: p.body(&a.Header, content{a.Body, a.Size, a.Hash, a.Truncated || a.Err != nil}, m, true),
	}
	if a.GRPC >= 0 {
		status := uint32(a.GRPC)
		x.Answer.GrpcStatus = &status
	}
	return x
}

// asked is a call that a translation made. Of a path by HTTP the beginning is
// shown: the rest may name users.
func (p *Pairs) asked(c *shadow.Call, m method) *pairv1.Request {
	fields := make(sections, len(c.Header))
	for i, f := range c.Header {
		fields[i] = [2][]byte{f.Name, f.Value}
	}
	path := m.path
	if !c.GRPC {
		path = "/"
		if parts := strings.SplitN(string(c.Target), "/", 3); len(parts) > 1 {
			path, _, _ = strings.Cut("/"+parts[1], "?")
		}
	}
	return &pairv1.Request{
		Method: string(c.Method), Path: path, Header: p.fields(fields),
		Body: p.body(fields, content{bytes: c.Body, size: int64(len(c.Body)), hash: xxh3.Hash128(c.Body).Bytes()}, m, false),
	}
}

// sections is a list of fields that nobody sent yet.
type sections [][2][]byte

func (s sections) Len() int { return len(s) }

func (s sections) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, f := range s {
			if !yield(f[0], f[1]) {
				return
			}
		}
	}
}

// method is the gRPC method that a body is of, where messages are read by their
// fields' names.
type method struct {
	path      string
	documents Documents
}

func (p *Pair) method(grpc bool, path string) method {
	if !grpc {
		return method{}
	}
	return method{path, p.Documents}
}

func (p *Pairs) fields(s section) (all []*pairv1.Field) {
	for name, value := range s.All() {
		shown, digest := p.cfg.Record.Header(name, value)
		all = append(all, &pairv1.Field{Name: strings.ToLower(string(name)), Value: shown, Digest: digest})
	}
	return all
}

// formats are the record's on the wire.
var formats = map[record.Format]pairv1.Format{
	record.JSON: pairv1.Format_FORMAT_JSON, record.Form: pairv1.Format_FORMAT_FORM, record.Proto: pairv1.Format_FORMAT_PROTO,
}

// content is a body as it was seen.
type content struct {
	bytes     []byte
	size      int64
	hash      [16]byte
	truncated bool
}

func observed(b *observe.Body) content { return content{b.Bytes, b.Size, b.Hash, b.Truncated} }

func (p *Pairs) body(header section, c content, m method, answer bool) *pairv1.Body {
	out := &pairv1.Body{Hash: c.hash[:], Size: c.size, Truncated: c.truncated}
	contentType, _ := first(header, "content-type")
	encoding, _ := first(header, "content-encoding")
	short := c.truncated || int64(len(c.bytes)) < c.size
	text := c.bytes
	if m.documents != nil && !short && len(text) > 0 {
		if document, ok := m.documents.Document(m.path, answer, text); ok {
			contentType, encoding, text = "application/json", "", document
		}
	}
	format, shown := p.cfg.Record.Body(contentType, encoding, text, short)
	out.Format, out.Content = formats[format], shown
	return out
}

// first is the first value of a field.
func first(s section, name string) (string, bool) {
	for k, v := range s.All() {
		if len(k) == len(name) && strings.EqualFold(string(k), name) {
			return string(v), true
		}
	}
	return "", false
}
