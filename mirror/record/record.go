// Package record decides what of an exchange may be written down: in pairs, logs
// and captures. It is an allow-list: a header or a field of a body is shown if
// the list names it, and every other leaf is replaced by a digest that says
// whether two values are equal, and of what kind they are, but not what they are.
//
// internal/digest has what a digest says. Its HMAC is HMAC-SHA-256 under the
// record's key.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
package record

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"mime"
	"strconv"
	"strings"

	"darklaunch/internal/digest"
	"darklaunch/mirror/sample"
)

// Config is what a record may show.
type Config struct {
	// Key is the digests' key, at least 16 bytes. Digests under the same key can
	// be compared.
	Key []byte
	// Allow lists what is shown: header:NAME, json:$.a.b[*], form:NAME and
	// proto:1.3 (by number, of gRPC messages). Content-Type, Content-Encoding and
	// grpc-status are always shown.
	Allow []string
}

// Policy is a Config that was checked. It is immutable, and safe for any number
// of goroutines.
type Policy struct {
	key     []byte
	headers map[string]bool
	forms   map[string]bool
	json    *node
	proto   *node
}

// node is a place in bodies, by the steps that lead to it.
type node struct {
	shown bool
	names map[string]*node // members, or field numbers
	each  *node            // elements
}

func (n *node) member(name string) *node {
	if n == nil {
		return nil
	}
	return n.names[name]
}

func (n *node) element() *node {
	if n == nil {
		return nil
	}
	return n.each
}

// never are fields that carry nothing but credentials.
var never = map[string]bool{"authorization": true, "proxy-authorization": true, "cookie": true, "set-cookie": true}

// New returns the policy of cfg, or an error that says what of it can't be used.
func New(cfg Config) (*Policy, error) {
	if len(cfg.Key) < 16 {
		return nil, errors.New("record: want a key of at least 16 bytes")
	}
	p := &Policy{
		key: cfg.Key, json: new(node), proto: new(node), forms: map[string]bool{},
		headers: map[string]bool{"content-type": true, "content-encoding": true, "grpc-status": true},
	}
	for _, text := range cfg.Allow {
		place, err := parse(text)
		if err == nil {
			err = p.allow(place)
		}
		if err != nil {
			return nil, fmt.Errorf("record: allow %q: %w", text, err)
		}
	}
	return p, nil
}

// place is what an entry of the list names.
type place struct {
	kind string // header, json, form, proto
	name string
	path []string // "*" is each element
}

func parse(text string) (place, error) {
	kind, arg, _ := strings.Cut(text, ":")
	pl := place{kind: kind, name: arg}
	var err error
	switch kind {
	case "header":
		pl.name = strings.ToLower(arg)
	case "form":
	case "json":
		pl.path, err = jsonPath(arg)
	case "proto":
		pl.path = strings.Split(arg, ".")
		for _, number := range pl.path {
			if n, bad := strconv.ParseUint(number, 10, 29); bad != nil || n == 0 {
				err = errors.New("want field numbers, as in proto:1.3")
			}
		}
	default:
		err = errors.New("want header:NAME, json:$.PATH, form:NAME or proto:1.3")
	}
	if err == nil && arg == "" {
		err = errors.New("want something after the colon")
	}
	return pl, err
}

// jsonPath reads $, then .NAME, ['NAME'], [N] and [*]. An index stands for every
// element: what is shown of one is shown of all.
func jsonPath(text string) (path []string, err error) {
	// The extractors' grammar, which is checked first.
	if _, err := sample.ParseExtractor("json:"+text, nil); err != nil {
		return nil, err
	}
	if strings.Contains(text, ".*") || strings.Contains(text, "'*'") || strings.Contains(text, `"*"`) {
		return nil, errors.New("want [*] for each element; members are named")
	}
	for rest := text[1:]; rest != ""; {
		if rest[0] == '.' {
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			path, rest = append(path, rest[1:end]), rest[end:]
			continue
		}
		inner := "*"
		_, tail, _ := strings.Cut(rest[1:], "]")
		if q := rest[1]; q == '\'' || q == '"' {
			inner, tail, _ = strings.Cut(rest[2:], string(q)+"]")
		}
		path, rest = append(path, inner), tail
	}
	return path, nil
}

func (p *Policy) allow(pl place) error {
	switch pl.kind {
	case "header":
		if never[pl.name] {
			return errors.New("a record never shows credentials")
		}
		p.headers[pl.name] = true
	case "form":
		p.forms[pl.name] = true
	default:
		p.root(pl.kind).add(pl.path).shown = true
	}
	return nil
}

func (p *Policy) root(kind string) *node {
	if kind == "json" {
		return p.json
	}
	return p.proto
}

func (n *node) add(path []string) *node {
	for _, step := range path {
		if step == "*" {
			if n.each == nil {
				n.each = new(node)
			}
			n = n.each
			continue
		}
		if n.names == nil {
			n.names = map[string]*node{}
		}
		if n.names[step] == nil {
			n.names[step] = new(node)
		}
		n = n.names[step]
	}
	return n
}

// Check returns an error that names rule and field if the field, written as in
// Allow with or without the prefix answer:, is not shown: what a comparison or a
// way back reads must be.
func (p *Policy) Check(rule, field string) error {
	pl, err := parse(strings.TrimPrefix(field, "answer:"))
	if err != nil {
		return fmt.Errorf("rule %q reads %q: %w", rule, field, err)
	}
	shown := false
	switch pl.kind {
	case "header":
		shown = p.headers[pl.name]
	case "form":
		shown = p.forms[pl.name]
	default:
		n := p.root(pl.kind)
		for _, step := range pl.path {
			if step == "*" {
				n = n.element()
			} else {
				n = n.member(step)
			}
		}
		shown = n != nil && n.shown
	}
	if !shown {
		return fmt.Errorf("rule %q reads %q, which the record does not show: allow it, or drop the rule", rule, field)
	}
	return nil
}

// Header returns the value of a header or trailer field as it may be shown, and
// whether that is a digest. name may be of any case.
func (p *Policy) Header(name, value []byte) (shown string, digest bool) {
	lower := strings.ToLower(string(name))
	if !p.headers[lower] || lower == "content-type" && !plainType(string(value)) {
		return p.digest('s', value), true
	}
	return strings.ToValidUTF8(string(value), "\uFFFD"), false
}

// plainType reports whether a media type has no parameter but charset: others,
// such as a boundary, are chosen by who writes the message.
func plainType(value string) bool {
	_, params, err := mime.ParseMediaType(value)
	delete(params, "charset")
	return err == nil && len(params) == 0
}

// digest replaces a leaf.
func (p *Policy) digest(kind byte, value []byte) string {
	mac := hmac.New(sha256.New, p.key)
	mac.Write([]byte{kind})
	mac.Write(value)
	return digest.Of(kind, value, mac.Sum(nil)).String()
}
