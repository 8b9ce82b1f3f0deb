package pairs

import (
	"strings"

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
	}
	if reason == pairv1.Reason_REASON_AUDIT {
		m.StandsFor = uint32(p.cfg.Audit)
	}
	for role, in := range pair.Roles {
		if in {
			m.Sides = append(m.Sides, p.side(&pair.sides[role], lanes.Role(role)))
		}
	}
	return m
}

func (p *Pairs) live(pair *Pair) *pairv1.Side {
	x := pair.Live
	answer := &pairv1.Answer{
		Status: uint32(x.Status), Header: p.fields(&x.Answer.Header), Trailer: p.fields(&x.Answer.Trailer),
		Body: p.body(&x.Answer.Header, x.Answer.Body.Bytes, x.Answer.Body.Size, x.Answer.Body.Hash, x.Answer.Body.Truncated),
	}
	if code, _, ok := x.GRPCStatus(); ok && x.GRPC() {
		status := uint32(code)
		answer.GrpcStatus = &status
	}
	return &pairv1.Side{
		Role: pairv1.Role_ROLE_LIVE, Clean: true, SendTime: x.Request.First.UnixNano(),
		Exchanges: []*pairv1.Exchange{{
			Request: p.request(pair.Route, x), Answer: answer,
			Duration: int64(liveTook(x)), FirstByte: int64(liveTook(x) - x.Answer.Last.Sub(x.Answer.First)),
		}},
	}
}

// request shows the route in place of the path, which may name users.
func (p *Pairs) request(r *Route, x *observe.Exchange) *pairv1.Request {
	return &pairv1.Request{
		Method: string(x.Method()), Path: r.cfg.Name, Header: p.fields(&x.Request.Header),
		Body: p.body(&x.Request.Header, x.Request.Body.Bytes, x.Request.Body.Size, x.Request.Body.Hash, x.Request.Body.Truncated),
	}
}

func (p *Pairs) side(s *side, role lanes.Role) *pairv1.Side {
	m := &pairv1.Side{Role: roles[role], Clean: s.judged, SendTime: s.outcome.Answers[0].Sent.UnixNano(), Stopped: s.outcome.Stopped, UnknownIds: s.unknownIDs}
	for _, a := range s.outcome.Answers {
		m.Exchanges = append(m.Exchanges, p.exchange(a))
	}
	return m
}

func (p *Pairs) exchange(a *shadow.Answer) *pairv1.Exchange {
	x := &pairv1.Exchange{}
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
		Body: p.body(&a.Header, a.Body, a.Size, a.Hash, a.Truncated || a.Err != nil),
	}
	if a.GRPC >= 0 {
		status := uint32(a.GRPC)
		x.Answer.GrpcStatus = &status
	}
	return x
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

func (p *Pairs) body(header section, content []byte, size int64, hash [16]byte, truncated bool) *pairv1.Body {
	contentType, _ := nth(header, []byte("content-type"), 0)
	encoding, _ := nth(header, []byte("content-encoding"), 0)
	format, shown := p.cfg.Record.Body(string(contentType), string(encoding), content, truncated || int64(len(content)) < size)
	return &pairv1.Body{Hash: hash[:], Size: size, Truncated: truncated, Format: formats[format], Content: shown}
}
