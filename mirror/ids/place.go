package ids

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// content is what of a message has places. each replaces what it changes and
// leaves the memory as it is.
type content struct {
	target []byte // of requests
	header []shadow.Field
	body   []byte
	grpc   bool
}

// place is where values are.
type place struct {
	kind string
	name string   // header, query
	path []string // path: segments; json: members, "" for [*]
	nums []protowire.Number
}

const element = "" // [*] in a JSON path; no member of ours is called so

// parsePlace reads a place. The prefix answer: says nothing new and may be left out.
func parsePlace(text string) (p place, err error) {
	text = strings.TrimPrefix(text, "answer:")
	if _, err := sample.ParseExtractor(text, nil); err != nil {
		return p, err
	}
	kind, arg, _ := strings.Cut(text, ":")
	p = place{kind: kind, name: arg}
	switch kind {
	case "header", "query":
	case "path":
		p.path = strings.Split(strings.TrimPrefix(arg, "/"), "/")
	case "json":
		p.path, err = jsonPath(arg)
	case "proto":
		p.nums, err = sample.ProtoPath(arg)
	default:
		err = errors.New("want header:NAME, query:NAME, path:/TEMPLATE, json:$.PATH or proto:1.3")
	}
	if strings.HasSuffix(text, "|lower") {
		err = errors.New("an id is rewritten as it is, without |lower")
	}
	return p, err
}

// jsonPath reads members and [*].
func jsonPath(text string) (path []string, err error) {
	steps, err := sample.JSONPath(text)
	for _, s := range steps {
		if s.Elements && s.Index >= 0 || !s.Elements && s.Name == element {
			return nil, errors.New("want .NAME and [*] in the path of an id")
		}
		path = append(path, s.Name) // an element's is none
	}
	return path, err
}

// request reports whether only requests have such a place.
func (p *place) request() bool { return p.kind == "path" || p.kind == "query" }

func (p *place) settable() bool {
	return p.kind == "header" || p.kind == "json" && len(p.path) == 1 && p.path[0] != element || len(p.nums) == 1
}

// values returns what is there, or nil if that can't be told.
func (p *place) values(m *content) (all []string) {
	own := *m
	own.header = slices.Clone(m.header)
	if p.each(&own, func(v string) string { all = append(all, v); return v }) != nil {
		return nil
	}
	return all
}

var errBody = errors.New("body can't be read")

// each calls f with each value that is there and puts in what it returns. After
// an error m is unchanged at p.
func (p *place) each(m *content, f func(string) string) error {
	switch p.kind {
	case "header":
		for i, h := range m.header {
			if strings.EqualFold(string(h.Name), p.name) {
				m.header[i].Value = []byte(f(string(h.Value)))
			}
		}
		return nil
	case "query":
		p.query(m, f)
		return nil
	case "path":
		p.segments(m, f)
		return nil
	}
	if len(m.body) == 0 {
		return nil
	}
	if encoding := value(m, "content-encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return errBody
	}
	var body []byte
	var err error
	if p.kind == "json" {
		body, err = rewriteJSON(m.body, p.path, f)
	} else {
		body, err = rewriteGRPC(m.body, p.nums, f)
	}
	if err == nil {
		m.body = body
	}
	return err
}

func value(m *content, name string) string {
	for _, h := range m.header {
		if strings.EqualFold(string(h.Name), name) {
			return string(h.Value)
		}
	}
	return ""
}

func (p *place) query(m *content, f func(string) string) {
	path, query, ok := strings.Cut(string(m.target), "?")
	if !ok {
		return
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		k, v, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(k)
		text, err2 := url.QueryUnescape(v)
		if err1 == nil && err2 == nil && name == p.name && text != "" {
			if to := f(text); to != text {
				pairs[i] = k + "=" + url.QueryEscape(to)
			}
		}
	}
	m.target = []byte(path + "?" + strings.Join(pairs, "&"))
}

// segments rewrites the segment at {key} of a path that begins as p's does.
func (p *place) segments(m *content, f func(string) string) {
	path, query, hasQuery := strings.Cut(string(m.target), "?")
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if len(parts) < len(p.path) {
		return
	}
	key := -1
	for i, want := range p.path {
		switch text, err := url.PathUnescape(parts[i]); {
		case want == "{key}":
			key = i
		case strings.HasPrefix(want, "{"):
		case err != nil || text != want:
			return
		}
	}
	text, err := url.PathUnescape(parts[key])
	if err != nil || text == "" {
		return
	}
	to := f(text)
	if to == text {
		return
	}
	parts[key] = url.PathEscape(to)
	path = "/" + strings.Join(parts, "/")
	if hasQuery {
		path += "?" + query
	}
	m.target = []byte(path)
}

// rewriteJSON copies body, with the strings and numbers at path replaced.
func rewriteJSON(body []byte, path []string, f func(string) string) ([]byte, error) {
	w := jsonWriter{d: json.NewDecoder(bytes.NewReader(body)), body: body, f: f}
	w.d.UseNumber()
	if err := w.value(path, true); err != nil {
		return nil, errBody
	}
	if w.copied == 0 {
		return body, nil
	}
	return append(w.out, body[w.copied:]...), nil
}

type jsonWriter struct {
	d      *json.Decoder
	body   []byte
	out    []byte
	copied int // of body
	f      func(string) string
}

// value passes over the next value; path leads on from it if on.
func (w *jsonWriter) value(path []string, on bool) error {
	before := w.d.InputOffset()
	token, err := w.d.Token()
	if err != nil {
		return err
	}
	switch v := token.(type) {
	case json.Delim:
		return w.nested(v, path, on)
	case string:
		if on && len(path) == 0 && v != "" {
			w.replace(before, v, quote)
		}
	case json.Number:
		if on && len(path) == 0 {
			w.replace(before, v.String(), number)
		}
	}
	return nil
}

func quote(text string) []byte {
	quoted, _ := json.Marshal(text) // a string always can
	return quoted
}

// number writes an id that stands where a number was: as one, if it is one.
func number(text string) []byte {
	var n json.Number
	if json.Unmarshal([]byte(text), &n) != nil || n == "" {
		return quote(text)
	}
	return []byte(text)
}

func (w *jsonWriter) nested(open json.Delim, path []string, on bool) error {
	for w.d.More() {
		inner := on && len(path) > 0 && open == '[' && path[0] == element
		if open == '{' {
			name, err := w.d.Token()
			if err != nil {
				return err
			}
			inner = on && len(path) > 0 && path[0] != element && name == path[0]
		}
		rest := path
		if inner {
			rest = path[1:]
		}
		if err := w.value(rest, inner); err != nil {
			return err
		}
	}
	_, err := w.d.Token()
	return err
}

// replace puts another text in the place of the token that was just read.
func (w *jsonWriter) replace(before int64, text string, encode func(string) []byte) {
	to := w.f(text)
	if to == text {
		return
	}
	end := int(w.d.InputOffset())
	raw := bytes.TrimLeft(w.body[before:end], " \t\r\n:,")
	w.out = append(append(w.out, w.body[w.copied:end-len(raw)]...), encode(to)...)
	w.copied = end
}

// rewriteGRPC copies the messages of body, with the values at path replaced.
func rewriteGRPC(body []byte, path []protowire.Number, f func(string) string) (out []byte, err error) {
	for len(body) > 0 {
		message, rest, err := firstMessage(body)
		if err != nil {
			return nil, err
		}
		if message, err = rewriteProto(message, path, f); err != nil {
			return nil, err
		}
		out, body = appendMessage(out, message), rest
	}
	return out, nil
}

func firstMessage(body []byte) (message, rest []byte, err error) {
	if len(body) < 5 || body[0] != 0 || uint64(len(body)-5) < uint64(binary.BigEndian.Uint32(body[1:])) {
		return nil, nil, errBody
	}
	end := 5 + int(binary.BigEndian.Uint32(body[1:]))
	return body[5:end], body[end:], nil
}

func appendMessage(dst, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(dst, 0), uint32(len(message))), message...)
}

func rewriteProto(b []byte, path []protowire.Number, f func(string) string) (out []byte, err error) {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, errBody
		}
		size := protowire.ConsumeFieldValue(number, wire, b[n:])
		if size < 0 {
			return nil, errBody
		}
		field, data := b[:n+size], b[n:n+size]
		b = b[n+size:]
		if number != path[0] {
			out = append(out, field...)
			continue
		}
		out = protowire.AppendTag(out, number, wire)
		switch {
		case wire == protowire.BytesType && len(path) > 1:
			inner, _ := protowire.ConsumeBytes(data)
			if inner, err = rewriteProto(inner, path[1:], f); err != nil {
				return nil, err
			}
			out = protowire.AppendBytes(out, inner)
		case wire == protowire.BytesType:
			text, _ := protowire.ConsumeString(data)
			out = protowire.AppendString(out, f(text))
		case wire == protowire.VarintType && len(path) == 1:
			v, _ := protowire.ConsumeVarint(data)
			to, err := strconv.ParseInt(f(strconv.FormatInt(int64(v), 10)), 10, 64)
			if err != nil {
				return nil, errBody
			}
			out = protowire.AppendVarint(out, uint64(to))
		default:
			return nil, errBody
		}
	}
	return out, nil
}

// set puts a value at p, in the place of what is there.
func (p *place) set(m *content, v string) error {
	switch p.kind {
	case "header":
		m.header = slices.DeleteFunc(m.header, func(h shadow.Field) bool { return strings.EqualFold(string(h.Name), p.name) })
		m.header = append(m.header, shadow.Field{Name: []byte(strings.ToLower(p.name)), Value: []byte(v)})
		return nil
	case "json":
		return p.setJSON(m, v)
	}
	message, rest, err := firstMessage(m.body)
	if err != nil {
		return err
	}
	// Of a field that is there twice the last one counts.
	message = protowire.AppendString(protowire.AppendTag(slices.Clone(message), p.nums[0], protowire.BytesType), v)
	m.body = append(appendMessage(nil, message), rest...)
	return nil
}

func (p *place) setJSON(m *content, v string) error {
	there := false
	body, err := rewriteJSON(m.body, p.path, func(string) string { there = true; return v })
	if err != nil {
		return err
	}
	if !there {
		open := bytes.IndexByte(body, '{')
		if len(bytes.TrimLeft(body, " \t\r\n")) == 0 || open < 0 || len(bytes.Trim(body[:open], " \t\r\n")) > 0 {
			return errBody
		}
		member := append(append(quote(p.path[0]), ':'), quote(v)...)
		if rest := bytes.TrimLeft(body[open+1:], " \t\r\n"); rest[0] != '}' {
			member = append(member, ',')
		}
		body = slices.Concat(body[:open+1], member, body[open+1:])
	}
	m.body = body
	return nil
}
