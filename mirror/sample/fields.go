package sample

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
)

// maxToken bounds the bearer token that is looked into, in bytes.
const maxToken = 16 << 10

func (m *Message) field(name string, n int) (string, bool) {
	if m.Header == nil {
		return "", false
	}
	return m.Header.Field(name, n)
}

func readHeader(m *Message, name string, f *found) {
	for n := 0; !f.full(); n++ {
		v, ok := m.field(name, n)
		if !ok {
			if n == 0 {
				f.miss(Absent)
			}
			return
		}
		f.add(v)
	}
}

// readCookie looks through the Cookie fields, of which HTTP/2 may send several,
// or through the Set-Cookie fields of an answer.
func readCookie(m *Message, name string, answer bool, f *found) {
	field := "cookie"
	if answer {
		field = "set-cookie"
	}
	hit := false
	for n := 0; !f.full(); n++ {
		rest, ok := m.field(field, n)
		if !ok {
			break
		}
		for rest != "" && !f.full() {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			k, v, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if k == name {
				hit = true
				f.add(uncookie(v))
			}
			if answer {
				break // the rest are the cookie's attributes
			}
		}
	}
	if !hit {
		f.miss(Absent)
	}
}

// uncookie undoes what frameworks do to a value that has no room in a cookie.
// RFC 6265 knows no escapes, so a value that is no valid one is itself.
func uncookie(v string) string {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = v[1 : len(v)-1]
	}
	if u, err := url.PathUnescape(v); err == nil {
		return u
	}
	return v
}

func readQuery(query, name string, f *found) {
	hit := false
	for query != "" && !f.full() {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if k != name {
			if k, err := url.QueryUnescape(k); err != nil || k != name {
				continue
			}
		}
		hit = true
		v, err := url.QueryUnescape(v)
		if err != nil {
			f.miss(Malformed)
			continue
		}
		f.add(v)
	}
	if !hit {
		f.miss(Absent)
	}
}

// segment is one segment of a path template.
type segment struct {
	text string // decoded; the name of a wildcard
	any  bool   // a wildcard
	key  bool   // the wildcard that is the key
}

func parsePathKey(template string) ([]segment, error) {
	bad := fmt.Errorf("want a path such as /users/{key}, in which one whole segment is {key}")
	rest, ok := strings.CutPrefix(template, "/")
	if !ok {
		return nil, bad
	}
	var segs []segment
	keys := 0
	for part := range strings.SplitSeq(rest, "/") {
		s, err := parseSegment(part)
		if err != nil || part == "" {
			return nil, bad
		}
		if s.any && s.text == "key" {
			s.key = true
			keys++
		}
		segs = append(segs, s)
	}
	if keys != 1 {
		return nil, bad
	}
	return segs, nil
}

// parseSegment reads a segment of a template: {NAME} or {}, which match any
// one, or text, which may be percent-encoded.
func parseSegment(part string) (segment, error) {
	if name, ok := strings.CutPrefix(part, "{"); ok {
		name, ok = strings.CutSuffix(name, "}")
		if !ok || strings.ContainsAny(name, "{}.") {
			return segment{}, fmt.Errorf("segment %q: want text or {NAME}", part)
		}
		return segment{text: name, any: true}, nil
	}
	text, err := url.PathUnescape(part)
	if err != nil || strings.ContainsAny(part, "{}") {
		return segment{}, fmt.Errorf("segment %q: want text or {NAME}", part)
	}
	return segment{text: text}, nil
}

// readPath reads the key of a path that begins as segs do.
func readPath(path string, segs []segment, f *found) {
	key, keyErr := "", error(nil)
	rest := path
	for i := range segs {
		tail, ok := strings.CutPrefix(rest, "/")
		if !ok {
			f.miss(Absent)
			return
		}
		part := tail
		if end := strings.IndexByte(tail, '/'); end >= 0 {
			part, rest = tail[:end], tail[end:]
		} else {
			rest = ""
		}
		text, err := url.PathUnescape(part)
		switch {
		case segs[i].key:
			key, keyErr = text, err
		case !segs[i].any && (err != nil || text != segs[i].text):
			f.miss(Absent)
			return
		}
	}
	if keyErr != nil {
		f.miss(Malformed)
		return
	}
	f.add(key)
}

// readJWT reads a claim of the bearer token (RFC 7519) without verifying it.
// That is safe because nothing is granted by it: live has already decided
// whether to serve the request, and a user who forges the claim only moves
// their own copies.
func readJWT(m *Message, claim []step, f *found) {
	auth, ok := m.field("authorization", 0)
	if !ok {
		f.miss(Absent)
		return
	}
	scheme, token, _ := strings.Cut(auth, " ")
	if !strings.EqualFold(scheme, "bearer") {
		f.miss(Absent)
		return
	}
	token = strings.Trim(token, " ")
	if len(token) > maxToken {
		f.miss(TooLong)
		return
	}
	_, rest, _ := strings.Cut(token, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		f.miss(Malformed) // no JWT, or an encrypted one of five parts
		return
	}
	var buf [1024]byte
	claims, err := base64.RawURLEncoding.AppendDecode(buf[:0], []byte(strings.TrimRight(payload, "=")))
	if err != nil {
		f.miss(Malformed)
		return
	}
	readJSON(claims, false, claim, f)
}
