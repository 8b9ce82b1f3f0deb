package shadow

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// The marks of a copy. A request that arrives with the first is never copied.
const (
	RoleHeader = "darklaunch-role" // shadow or control
	IDHeader   = "darklaunch-id"   // hex: the copy's, the same for all roles
	KeyHeader  = "darklaunch-key"  // hex: the author's keyed hash
)

// Action is what a Rule does with a field.
type Action uint8

const (
	// Remove leaves the field out.
	Remove Action = iota
	// Set replaces the field, and adds it where there is none.
	Set
	// Replace replaces the field where there is one.
	Replace
)

// Rule changes a header field of the calls to one role. Without rules all of
// them are passed on as they are, credentials included.
type Rule struct {
	Name   string // any case
	Action Action
	Value  string // of Set and Replace
}

// kind says what becomes of a field when a call is written.
type kind uint8

const (
	plain   kind = iota
	secret       // plain, but not for an HPACK table
	framed       // belongs to a connection, to framing or to us: left out
	onlyIn2      // passed on in HTTP/2; TE with no other value than "trailers"
)

// kindOf classifies a field name in lower case: RFC 9110 §7.6.1 and what older
// standards counted among the hop-by-hop fields.
func kindOf(lower []byte) kind {
	switch string(lower) {
	case "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
		"transfer-encoding", "upgrade", "http2-settings", "expect", "content-length", "host",
		"traceparent", "tracestate", RoleHeader, IDHeader, KeyHeader:
		return framed
	case "te", "trailer":
		return onlyIn2
	case "authorization", "cookie", "x-request-id", "grpc-timeout":
		return secret
	}
	return plain
}

type rules map[string]Rule

func newRules(list []Rule) (rules, error) {
	rs := rules{}
	for _, r := range list {
		name := strings.ToLower(r.Name)
		switch _, twice := rs[name]; {
		case !isToken([]byte(name)):
			return nil, fmt.Errorf("header rule %q: want a field name", r.Name)
		case name != "host" && kindOf([]byte(name)) >= framed:
			return nil, fmt.Errorf("header rule %q: that field is not for rules to change", r.Name)
		case hasControl([]byte(r.Value), 0):
			return nil, fmt.Errorf("header rule %q: control in its value", r.Name)
		case name == "host" && r.Action == Remove:
			return nil, fmt.Errorf("header rule %q: a request needs one", r.Name)
		case twice:
			return nil, fmt.Errorf("header rule %q: want one rule a field", r.Name)
		}
		r.Name = name
		rs[name] = r
	}
	return rs, nil
}

// credentials returns what an operator is to be warned of: a backend off this
// machine which gets users' credentials as they are.
func (rs rules) credentials(role, host string) []string {
	if host == "localhost" {
		return nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return nil
	}
	var all []string
	for _, name := range []string{"Authorization", "Cookie"} {
		if _, ok := rs[strings.ToLower(name)]; !ok {
			all = append(all, fmt.Sprintf("%s is not on this machine and gets each user's %s as it is: remove or replace it by a header rule", role, name))
		}
	}
	return all
}

// marks backs the values of the fields that a copy carries and its original did
// not.
type marks struct {
	id          [32]byte // hex
	key         [16]byte // hex
	traceparent [55]byte
}

// wire is a call as it will be written, but for its framing. It is reused.
type wire struct {
	fields    []wireField
	trailer   []wireField
	authority []byte
	marks     marks
	text      []byte // backs lower-case names
}

type wireField struct {
	name, value []byte // name in lower case in HTTP/2, as it came in HTTP/1.1
	kind        kind
}

// build makes w the call number i of cp as the backend is to get it.
func (w *wire) build(b *Backend, cp *Copy, i int) {
	c := &cp.Calls[i]
	w.fields, w.trailer, w.text = w.fields[:0], w.trailer[:0], w.text[:0]
	options := connectionOptions(c)
	for _, f := range c.Header {
		lower := w.lower(f.Name)
		k := kindOf(lower)
		if k == framed || k == onlyIn2 && !c.passes(lower, f.Value) || options != nil && listed(options, lower) {
			continue
		}
		value := f.Value
		if r, ok := b.rules[string(lower)]; ok {
			if r.Action != Replace {
				continue // what is set is added below
			}
			value = []byte(r.Value)
		}
		if !c.HTTP2 {
			lower = f.Name
		}
		w.fields = append(w.fields, wireField{lower, value, k})
	}
	w.fields = append(w.fields, b.set...)
	w.mark(b.role, cp, i)
	for _, f := range c.Trailer {
		if lower := w.lower(f.Name); kindOf(lower) == plain {
			w.trailer = append(w.trailer, wireField{lower, f.Value, plain})
		}
	}
	w.authority = c.Authority
	if b.host != nil {
		w.authority = b.host
	} else if len(c.Authority) == 0 {
		w.authority = b.authority
	}
}

func (c *Call) passes(lower, value []byte) bool {
	return c.HTTP2 && (string(lower) == "trailer" || string(value) == "trailers")
}

// lower returns name in lower case.
func (w *wire) lower(name []byte) []byte {
	from := len(w.text)
	w.text = append(w.text, name...)
	lower := w.text[from:]
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return lower
}

var (
	roleName        = []byte(RoleHeader)
	idName          = []byte(IDHeader)
	keyName         = []byte(KeyHeader)
	traceparentName = []byte("traceparent")
)

// mark adds the marks of a copy. Its trace is named by the copy: who has the
// one id finds the other. The span id tells roles and calls apart; the sampled
// flag is live's, and where live's request had no trace the copy has none.
func (w *wire) mark(role []byte, cp *Copy, call int) {
	m := &w.marks
	hex.Encode(m.id[:], cp.ID[:])
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], cp.Key)
	hex.Encode(m.key[:], key[:])
	w.fields = append(w.fields, wireField{roleName, role, plain}, wireField{idName, m.id[:], secret}, wireField{keyName, m.key[:], secret})
	live := traceOf(cp.Calls[call].Header)
	if live == nil {
		return
	}
	t := append(m.traceparent[:0], "00-"...)
	t = append(append(t, m.id[:]...), '-')
	id := [8]byte(cp.ID[8:])
	id[0] ^= role[0]
	id[1] ^= byte(call)
	id[2] |= 1 // an id of zeros is invalid
	t = append(hex.AppendEncode(t, id[:]), '-')
	t = append(t, live[53:55]...)
	w.fields = append(w.fields, wireField{traceparentName, t, secret})
}

// traceOf returns the traceparent among fs, if it has the shape of one (W3C
// Trace Context §3.2).
func traceOf(fs []Field) []byte {
	for _, f := range fs {
		if len(f.Name) == len(traceparentName) && bytes.EqualFold(f.Name, traceparentName) && len(f.Value) >= 55 {
			return f.Value
		}
	}
	return nil
}

// connectionOptions returns the value of an HTTP/1 call's Connection, which
// may name fields that are not to be passed on.
func connectionOptions(c *Call) []byte {
	if !c.HTTP2 {
		for _, f := range c.Header {
			if len(f.Name) == len("connection") && bytes.EqualFold(f.Name, []byte("connection")) {
				return f.Value
			}
		}
	}
	return nil
}

func listed(options, lower []byte) bool {
	for option := range bytes.SplitSeq(options, []byte(",")) {
		if bytes.EqualFold(bytes.TrimSpace(option), lower) {
			return true
		}
	}
	return false
}
