package sample

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// MaxKey is the longest key, in bytes. A longer value is no key: it would be
// held in memory once a user.
const MaxKey = 1024

type kind int

const (
	kindHeader kind = iota
	kindCookie
	kindQuery
	kindPath
	kindJSON
	kindJWT
	kindProto
	kindClient
)

// kinds is the grammar: what is written before the colon, after it, and
// whether live's answer has such a thing.
var kinds = []struct {
	name   string
	form   string
	answer bool
}{
	kindHeader: {"header", "header:NAME", true},
	kindCookie: {"cookie", "cookie:NAME", true},
	kindQuery:  {"query", "query:NAME", false},
	kindPath:   {"path", "path:/users/{key}", false},
	kindJSON:   {"json", "json:$.user.id or json:$.to[*]", true},
	kindJWT:    {"jwt", "jwt:CLAIM", false},
	kindProto:  {"proto", "proto:FIELD.PATH or proto:1.3", true},
	kindClient: {"client-addr", "client-addr", false},
}

// Extractor reads the keys of an exchange at one place. It yields every value
// it finds there, in order. A key is non-empty UTF-8 text of at most MaxKey
// bytes; a value that is not is passed over and said so. An Extractor is
// immutable, and safe for any number of goroutines.
type Extractor struct {
	text   string
	kind   kind
	answer bool
	lower  bool

	name     string    // header, cookie, query, jwt
	segments []segment // path
	steps    []step    // json, jwt
	fields   protoPath // proto
}

// ParseExtractor reads one extractor:
//
//	header:NAME         each field of that name, as it is; gRPC metadata too
//	cookie:NAME         without its quotes, and percent-decoded where that is valid
//	query:NAME          decoded as a form is: %XX, and + is a space
//	path:/users/{key}   the segment at {key} of paths that begin so, percent-decoded;
//	                    {} and {name} match any segment
//	json:$.a['b'][0]    a string, unescaped, or a number in shortest decimal;
//	                    [*] is every element
//	jwt:CLAIM           a claim of the bearer token, unverified
//	proto:FIELD.PATH    a field of the first gRPC message, by d or by numbers (proto:1.3)
//	client-addr         the client's address, after "ip:"
//
// "answer:" before header, cookie, json and proto reads live's answer instead;
// a cookie is then one that it sets. "|lower" at the end folds to lower case.
// d may be nil when no field is named. The error says what was expected.
func ParseExtractor(text string, d *Descriptors) (Extractor, error) {
	e, err := parseExtractor(text, d)
	if err != nil {
		return Extractor{}, fmt.Errorf("extractor %q: %w", text, err)
	}
	e.text = text
	return e, nil
}

func parseExtractor(text string, d *Descriptors) (Extractor, error) {
	var e Extractor
	rest := text
	if i := strings.LastIndexByte(rest, '|'); i >= 0 {
		if rest[i:] != "|lower" {
			return e, fmt.Errorf("after | want lower")
		}
		e.lower, rest = true, rest[:i]
	}
	rest, e.answer = strings.CutPrefix(rest, "answer:")
	name, arg, colon := strings.Cut(rest, ":")
	var ok bool
	if e.kind, ok = kindOf(name); !ok {
		return e, fmt.Errorf("want %s", forms(e.answer))
	}
	if e.answer && !kinds[e.kind].answer {
		return e, fmt.Errorf("after answer: want %s", forms(true))
	}
	if (arg == "") != (e.kind == kindClient) || colon && e.kind == kindClient {
		return e, fmt.Errorf("want %s", kinds[e.kind].form)
	}
	err := e.parseArg(arg, d)
	return e, err
}

func (e *Extractor) parseArg(arg string, d *Descriptors) (err error) {
	switch e.kind {
	case kindHeader:
		if !isToken(arg) {
			return errors.New("want a field name, as in header:x-user")
		}
		e.name = strings.ToLower(arg)
	case kindCookie:
		if !isToken(arg) {
			return errors.New("want a cookie name, as in cookie:session")
		}
		e.name = arg
	case kindQuery:
		e.name = arg
	case kindPath:
		e.segments, err = parsePathKey(arg)
	case kindJSON:
		e.steps, err = parseJSONPath(arg)
	case kindJWT:
		e.steps = []step{{kind: stepMember, name: arg}}
	case kindProto:
		e.fields, err = parseProtoPath(arg, d, e.answer)
	}
	return err
}

func kindOf(name string) (kind, bool) {
	for k := range kinds {
		if kinds[k].name == name {
			return kind(k), true
		}
	}
	return 0, false
}

func forms(answer bool) string {
	var fs []string
	for _, k := range kinds {
		if k.answer || !answer {
			fs = append(fs, k.form)
		}
	}
	return strings.Join(fs, ", ")
}

// isToken reports whether s is a token of RFC 9110 §5.6.2: what names fields and cookies.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// String returns the extractor as it was written.
func (e *Extractor) String() string { return e.text }

// Keys appends to dst the keys that x has at e's place, at most limit of them,
// and returns why one was not read: "" when all were.
func (e *Extractor) Keys(dst []string, x *Exchange, limit int) ([]string, Reason) {
	f := found{max: limit}
	e.read(x, &f)
	return f.appendTo(dst), f.missing
}

func (e *Extractor) read(x *Exchange, f *found) {
	f.lower = e.lower
	m := &x.Request
	if e.answer {
		m = &x.Answer
	}
	switch e.kind {
	case kindHeader:
		readHeader(m, e.name, f)
	case kindCookie:
		readCookie(m, e.name, e.answer, f)
	case kindQuery:
		readQuery(x.Query, e.name, f)
	case kindPath:
		readPath(x.Path, e.segments, f)
	case kindJSON:
		readJSONBody(m, e.steps, f)
	case kindJWT:
		readJWT(m, e.steps, f)
	case kindProto:
		readProto(m, e.fields.of(x.Path), f)
	case kindClient:
		if !x.Client.IsValid() {
			f.miss(Absent)
			return
		}
		f.add(clientKey(x.Client))
	}
}

// clientKey names a client by its address. An IPv4 address is the same user
// whichever kind of socket it came in by, and a zone is this host's business.
func clientKey(a netip.Addr) string {
	var buf [48]byte
	b := append(buf[:0], "ip:"...)
	return string(a.Unmap().WithZone("").AppendTo(b))
}

// found collects what extractors find. The first key has a place of its own,
// as most often it is the only one and then costs no slice.
type found struct {
	first   string
	more    []string
	n, max  int
	lower   bool
	missing Reason // why a value is lacking; anything else wins over Absent
}

func (f *found) full() bool { return f.n >= f.max }

func (f *found) appendTo(dst []string) []string {
	if f.n == 0 {
		return dst
	}
	return append(append(dst, f.first), f.more...)
}

func (f *found) miss(r Reason) {
	if f.missing == "" || f.missing == Absent {
		f.missing = r
	}
}

// add takes one decoded value.
func (f *found) add(text string) {
	switch {
	case text == "":
		f.miss(Absent) // an empty field names nobody; as a key it would make one user of all who send it
		return
	case len(text) > MaxKey:
		f.miss(TooLong)
		return
	case !utf8.ValidString(text):
		f.miss(NotText)
		return
	case f.full():
		return
	case f.lower:
		text = strings.ToLower(text)
	}
	if f.n == 0 {
		f.first = text
	} else {
		f.more = append(f.more, text)
	}
	f.n++
}

// Reads reports what e looks at beyond the header of the request: a body, and
// whether it is live's answer. Who has seen no more than the header can decide
// when both are false.
func (e *Extractor) Reads() (body, answer bool) {
	return e.kind == kindJSON || e.kind == kindProto, e.answer
}
