package sample

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// MaxDepth is how deep JSON is followed, and how long a path may be.
	MaxDepth = 64
	// maxScan bounds the part of a body that is looked through, in bytes. What
	// lies behind it is as good as truncated.
	maxScan = 1 << 20
)

type stepKind int

const (
	stepMember stepKind = iota
	stepIndex
	stepAll
)

// step is one step of a JSON path.
type step struct {
	kind  stepKind
	name  string
	index int
}

// parseJSONPath reads the part of RFC 9535 that names places without a search:
// $, then .NAME, ['NAME'], ["NAME"], [N] and [*].
func parseJSONPath(path string) ([]step, error) {
	bad := func(at string) error {
		return fmt.Errorf("at %q want .NAME, ['NAME'], [N] or [*], as in $.user.id", at)
	}
	rest, ok := strings.CutPrefix(path, "$")
	if !ok {
		return nil, fmt.Errorf("want a JSON path that begins with $, as in $.user.id")
	}
	var steps []step
	for rest != "" {
		var s step
		var tail string
		switch rest[0] {
		case '.':
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			s.name, tail, ok = rest[1:end], rest[end:], end > 1
		case '[':
			s, tail, ok = parseBracket(rest[1:])
		default:
			ok = false
		}
		if !ok {
			return nil, bad(rest)
		}
		steps, rest = append(steps, s), tail
	}
	if len(steps) > MaxDepth {
		return nil, fmt.Errorf("want at most %d steps", MaxDepth)
	}
	return steps, nil
}

func parseBracket(s string) (st step, tail string, ok bool) {
	if s != "" && (s[0] == '\'' || s[0] == '"') {
		st.name, tail, ok = strings.Cut(s[1:], s[:1]+"]")
		return st, tail, ok
	}
	inner, tail, ok := strings.Cut(s, "]")
	if inner == "*" {
		st.kind = stepAll
		return st, tail, ok
	}
	n, err := strconv.ParseUint(inner, 10, 31)
	return step{kind: stepIndex, index: int(n)}, tail, ok && err == nil
}

func readJSONBody(m *Message, steps []step, f *found) {
	if enc, ok := m.field("content-encoding", 0); ok && !strings.EqualFold(enc, "identity") {
		f.miss(Encoded)
		return
	}
	readJSON(m.Body, m.Truncated, steps, f)
}

// readJSON reads the values at steps. It goes over the text once, builds no
// tree and stops at the last value wanted, so a body that is cut behind that is
// as good as whole. Of a name that occurs twice in an object it takes the
// first. What it passes over it does not validate: live has judged it.
func readJSON(body []byte, truncated bool, steps []step, f *found) {
	if len(body) > maxScan {
		body, truncated = body[:maxScan], true
	}
	s := scanner{data: body, truncated: truncated}
	s.space()
	if s.pos == len(s.data) && !truncated {
		f.miss(Absent) // no body
		return
	}
	s.find(steps, f)
}

// scanner is a place in a JSON text. Its methods return false when there is no
// point in going on: the reason, if it is a failure, is in found.
type scanner struct {
	data      []byte
	pos       int
	depth     int
	truncated bool
	all       int // how many [*] lead here: what is wanted may come again
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// peek returns the next byte that is not space, 0 at the end.
func (s *scanner) peek() byte {
	s.space()
	if s.pos == len(s.data) {
		return 0
	}
	return s.data[s.pos]
}

func (s *scanner) fail(f *found) bool {
	if s.pos >= len(s.data) && s.truncated {
		f.miss(Truncated)
	} else {
		f.miss(Malformed)
	}
	return false
}

// open enters an object or array.
func (s *scanner) open(f *found) bool {
	s.depth++
	s.pos++
	if s.depth > MaxDepth {
		f.miss(TooDeep)
		return false
	}
	return true
}

// find reads what steps lead to from the value at pos, and passes over it.
func (s *scanner) find(steps []step, f *found) bool {
	c := s.peek()
	if len(steps) == 0 {
		return s.value(c, f) && !f.full()
	}
	want := byte('[')
	if steps[0].kind == stepMember {
		want = '{'
	}
	switch {
	case c == want && c == '{':
		return s.object(steps, f)
	case c == want:
		return s.array(steps, f)
	case c == 'n':
		f.miss(Absent)
	case c != 0:
		f.miss(WrongType)
	}
	return s.skip(f)
}

func (s *scanner) object(steps []step, f *found) bool {
	if !s.open(f) {
		return false
	}
	hit := false
	for s.peek() != '}' {
		if s.peek() != '"' {
			return s.fail(f)
		}
		name, escaped, ok := s.quoted()
		if !ok || s.peek() != ':' {
			return s.fail(f)
		}
		s.pos++
		if !hit && sameName(name, escaped, steps[0].name) {
			hit = true
			ok = s.find(steps[1:], f) && s.all > 0
		} else {
			ok = s.skip(f)
		}
		if !ok || !s.comma('}', f) {
			return false
		}
	}
	s.close(hit, f)
	return true
}

func (s *scanner) array(steps []step, f *found) bool {
	if !s.open(f) {
		return false
	}
	all := steps[0].kind == stepAll
	if all {
		s.all++
	}
	hit := all // an empty list has been read, and names nobody
	for i := 0; s.peek() != ']'; i++ {
		ok := false
		if all || i == steps[0].index {
			hit = true
			ok = s.find(steps[1:], f) && s.all > 0
		} else {
			ok = s.skip(f)
		}
		if !ok || !s.comma(']', f) {
			return false
		}
	}
	if all {
		s.all--
	}
	s.close(hit, f)
	return true
}

func (s *scanner) close(hit bool, f *found) {
	s.pos++
	s.depth--
	if !hit {
		f.miss(Absent)
	}
}

// comma passes over what separates two elements, and stops at end.
func (s *scanner) comma(end byte, f *found) bool {
	switch s.peek() {
	case ',':
		s.pos++
		return s.peek() != end || s.fail(f)
	case end:
		return true
	}
	return s.fail(f)
}

// value reads the value at pos as a key.
func (s *scanner) value(c byte, f *found) bool {
	switch c {
	case '"':
		raw, escaped, ok := s.quoted()
		if !ok {
			return s.fail(f)
		}
		addQuoted(raw, escaped, f)
		return true
	case '{', '[':
		f.miss(WrongType)
		return s.skip(f)
	}
	word := s.word()
	if s.pos == len(s.data) && s.truncated {
		return s.fail(f) // it might have gone on
	}
	switch {
	case string(word) == "null":
		f.miss(Absent)
	case string(word) == "true", string(word) == "false":
		f.miss(WrongType)
	default:
		text, reason := decimal(word)
		if reason != "" {
			f.miss(reason)
			return reason == TooLong
		}
		f.add(text)
	}
	return true
}

// addQuoted adds a string between its quotes.
func addQuoted(raw []byte, escaped bool, f *found) {
	switch {
	case len(raw) > 6*MaxKey: // an escape is at most six bytes for one
		f.miss(TooLong)
	case !utf8.Valid(raw):
		f.miss(NotText)
	case !escaped:
		f.add(string(raw))
	default:
		text, ok := unquote(raw)
		if !ok {
			f.miss(Malformed)
		} else if strings.ContainsRune(text, utf8.RuneError) {
			f.miss(NotText) // half of a surrogate pair
		} else {
			f.add(text)
		}
	}
}

func unquote(raw []byte) (text string, ok bool) {
	quoted := make([]byte, 0, len(raw)+2)
	quoted = append(append(append(quoted, '"'), raw...), '"')
	return text, json.Unmarshal(quoted, &text) == nil
}

func sameName(raw []byte, escaped bool, name string) bool {
	if !escaped {
		return string(raw) == name
	}
	if len(raw) > 6*len(name) { // an escape is at most six bytes for one
		return false
	}
	text, ok := unquote(raw)
	return ok && text == name
}

// quoted passes over the string at pos and returns what is between its quotes.
// It looks at no byte more than twice, whatever escapes there are.
func (s *scanner) quoted() (raw []byte, escaped, ok bool) {
	start := s.pos + 1
	for at, end := start, -1; ; { // end is the first quote at or behind at, once known
		if end < at {
			quote := bytes.IndexByte(s.data[at:], '"')
			if quote < 0 {
				s.pos = len(s.data)
				return nil, escaped, false
			}
			end = at + quote
		}
		slash := bytes.IndexByte(s.data[at:end], '\\')
		if slash < 0 {
			s.pos = end + 1
			return s.data[start:end], escaped, true
		}
		escaped = true
		at += slash + 2 // what is escaped does not end the string
	}
}

// word passes over a number or a literal.
func (s *scanner) word() []byte {
	start := s.pos
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\r', '\n', ',', ':', '"', '[', ']', '{', '}':
			return s.data[start:s.pos]
		}
		s.pos++
	}
	return s.data[start:]
}

// skip passes over the value at pos, whatever it is.
func (s *scanner) skip(f *found) bool {
	outside := s.depth
	for {
		switch s.peek() {
		case '{', '[':
			if !s.open(f) {
				return false
			}
		case '}', ']':
			if s.depth == outside {
				return s.fail(f) // no value here
			}
			s.depth--
			s.pos++
		case ',', ':':
			if s.depth == outside {
				return s.fail(f)
			}
			s.pos++
			continue
		case '"':
			if _, _, ok := s.quoted(); !ok {
				return s.fail(f)
			}
		default:
			if len(s.word()) == 0 {
				return s.fail(f)
			}
		}
		if s.depth == outside {
			return true
		}
	}
}

// decimal returns the shortest plain decimal of a JSON number, exactly: 42,
// 42.0 and 4.2e1 are one key, and 64-bit ids lose no digit.
func decimal(number []byte) (string, Reason) {
	digits, negative := bytes.CutPrefix(number, []byte("-"))
	mantissa, exponent := digits, 0
	if i := bytes.IndexAny(digits, "eE"); i >= 0 {
		n, err := strconv.ParseInt(string(digits[i+1:]), 10, 32)
		if errors.Is(err, strconv.ErrSyntax) {
			return "", Malformed
		}
		if err != nil || n > MaxKey || n < -MaxKey {
			return "", TooLong
		}
		mantissa, exponent = digits[:i], int(n)
	}
	whole, fraction, point := bytes.Cut(mantissa, []byte("."))
	if !allDigits(whole) || point && !allDigits(fraction) || len(whole) > 1 && whole[0] == '0' {
		return "", Malformed
	}
	if !point && exponent == 0 && !(negative && whole[0] == '0') {
		return string(number[:len(number)-len(digits)+len(whole)]), "" // the usual case
	}
	if len(mantissa) > MaxKey {
		return "", TooLong
	}
	return plain(negative, string(whole)+string(fraction), len(whole)+exponent), ""
}

// plain writes digits with the decimal point before the one at index point.
func plain(negative bool, digits string, point int) string {
	trimmed := strings.TrimLeft(digits, "0")
	point -= len(digits) - len(trimmed)
	digits = strings.TrimRight(trimmed, "0")
	sign := ""
	if negative {
		sign = "-"
	}
	switch {
	case digits == "":
		return "0"
	case point <= 0:
		return sign + "0." + strings.Repeat("0", -point) + digits
	case point >= len(digits):
		return sign + digits + strings.Repeat("0", point-len(digits))
	default:
		return sign + digits[:point] + "." + digits[point:]
	}
}

func allDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}
