package mirror

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/record"
	"darklaunch/mirror/shadow"
	"darklaunch/mirror/translate"
)

// speaks reports whether a role speaks another API than live.
func (t *Translate) speaks(role lanes.Role) bool { return t.Rules != nil && t.Roles[role] }

// mostTranslating is how long rules may take for one exchange. They run where
// copies are sent, and hold others up meanwhile.
const mostTranslating = 20 * time.Millisecond

// translated is what rules made of an exchange: the same for all roles that speak
// the other API.
type translated struct {
	rule int
	copy shadow.Copy
	keep []byte
	drop lanes.Reason
}

// Admitted reports whether a user is mirrored: what rules ask of recipients.
func (m *Mirror) Admitted(user string) bool { return m.sampler.User(user, m.Share()).Admitted }

// translate prepares a leg to a role that speaks another API.
func (l *leg) translate(b *shadow.Backend) {
	t := l.p.translated()
	if l.drop = t.drop; l.drop != lanes.NotDropped {
		return
	}
	l.p.pair.Translated(l.role, t.rule, t.copy.Calls, t.keep)
	l.job = shadow.Job{Backend: b, Copy: &t.copy, Outcome: b.NewOutcome(), Handler: l}
	if l.p.copy.Stream {
		l.p.front.m.streaming++
	}
}

// translated is what rules make of the copy.
func (p *pending) translated() *translated {
	if p.other != nil {
		return p.other
	}
	t := &translated{copy: shadow.Copy{ID: p.sent.ID, Key: p.sent.Key}}
	p.other = t
	start := time.Now()
	late := func() bool { return time.Since(start) > mostTranslating }
	made, err := p.front.cfg.Translate.Rules.Forward(p.exchange(), late)
	switch {
	case errors.Is(err, translate.ErrNoCounterpart):
		t.drop = lanes.NoCounterpart
	case err != nil:
		t.drop = lanes.Translate
		p.front.m.untranslated(p.front, p.route, err)
	}
	t.rule, t.keep = made.Rule, made.Keep
	for _, c := range made.Calls {
		call := shadow.Call{
			Route: p.route.name, HTTP2: c.HTTP2, GRPC: c.GRPC, Method: []byte(c.Method), Target: []byte(c.Target), Body: c.Body,
			Stream: p.copy.Stream,
		}
		for _, f := range c.Header {
			call.Header = append(call.Header, shadow.Field{Name: []byte(f.Name), Value: []byte(f.Value)})
		}
		if t.drop == lanes.NotDropped && call.Check() != nil {
			t.drop = lanes.Translate
		}
		t.copy.Calls = append(t.copy.Calls, call)
	}
	return t
}

// exchange is the copy's original as rules read it.
func (p *pending) exchange() *translate.Exchange {
	x := p.x
	query, _ := x.Query()
	e := &translate.Exchange{
		ID: hex.EncodeToString(p.sent.ID[:]), Route: p.route.name, Method: string(x.Method()), Path: string(x.Path()), Query: string(query),
		GRPC: x.GRPC(), Status: x.Status, GRPCStatus: -1,
		Request: half(&x.Request), Answer: half(&x.Answer),
	}
	if code, _, ok := x.GRPCStatus(); ok && x.GRPC() {
		e.GRPCStatus = code
	}
	return e
}

func half(m *observe.Message) translate.Message {
	out := translate.Message{Body: m.Body.Bytes, Truncated: m.Body.Truncated}
	for name, value := range m.Header.All() {
		out.Header = append(out.Header, translate.NewField(name, value))
	}
	return out
}

// untranslated tells which rule failed, at most once a second. What users wrote is
// not shown.
func (m *Mirror) untranslated(f *front, r *route, err error) {
	now := time.Now()
	if now.Sub(m.toldRule) < time.Second {
		return
	}
	m.toldRule = now
	where := ""
	if rule, ok := errors.AsType[*translate.RuleError](err); ok {
		where = rule.Where()
	}
	m.log.Warn("a translation rule failed", "front", f.cfg.Name, "route", r.name, "rule", where)
}

// compared has the pairs of a translated route compared elsewhere, by the way back.
// It is an error if that reads what the record does not show.
func (t *Translate) compared(cfg *pairs.RouteConfig, r *Route, policy *record.Policy) error {
	if t.Rules == nil || !t.Rules.Handles(r.Pattern) {
		return nil
	}
	if len(r.Masks) > 0 {
		return fmt.Errorf("route %q: masks are not for answers that are translated: the verdict's rules of differences are", r.Pattern)
	}
	for _, read := range t.Rules.Reads(r.Pattern) {
		if err := policy.Check(read.Rule, read.Place); err != nil {
			return err
		}
	}
	cfg.Elsewhere, cfg.Share, cfg.RulesHash = true, r.Share, t.Rules.Hash()
	return nil
}

// routed returns routes with one more for each that rules are about and the
// configuration is not.
func (t *Translate) routed(routes []Route) []Route {
	if t.Rules == nil {
		return routes
	}
	all := routes[:len(routes):len(routes)]
	for _, pattern := range t.Rules.Routes() {
		if !slices.ContainsFunc(routes, func(r Route) bool { return r.Pattern == pattern }) {
			all = append(all, Route{Pattern: pattern})
		}
	}
	return all
}
