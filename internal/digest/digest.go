// Package digest says of a value that may not be shown what two who compare it
// need: whether it is equal to another one, and of what kind it is. A mirror
// writes digests in its record, and a verdict reads them.
//
// A digest is the string
//
//	~TYPE:LENGTH:CLASS:HMAC
//
// of the value's type, its length in bytes, the class of its form, and 16 hex
// digits of a keyed hash, whose key is its writer's. Equal values have equal digests.
package digest

import (
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The types of values.
const (
	Text    = 's'
	Number  = 'n'
	Boolean = 'b'
	Bytes   = 'x'
)

// hashSize is how much of the hash is kept, in bytes.
const hashSize = 8

// Digest is what is said of a value.
type Digest struct {
	Type   byte
	Length int
	Class  string
	HMAC   string // in hex
}

// Of returns the digest of a value with that type and hash, of which the first 8
// bytes are taken.
func Of(kind byte, value, hash []byte) Digest {
	return Digest{kind, len(value), Class(kind, string(value)), hex.EncodeToString(hash[:hashSize])}
}

// String returns it as it is written.
func (d Digest) String() string {
	b := strconv.AppendInt([]byte{'~', d.Type, ':'}, int64(d.Length), 10)
	return string(append(append(append(append(b, ':'), d.Class...), ':'), d.HMAC...))
}

// Parse reads what String returns. A text in the clear that looks like a digest
// is taken for one: who shows values beside digests has to live with that.
func Parse(text string) (d Digest, ok bool) {
	if len(text) < 2 || text[0] != '~' || !strings.ContainsRune("snbx", rune(text[1])) {
		return Digest{}, false
	}
	kind, rest, _ := strings.Cut(text, ":")
	length, rest, _ := strings.Cut(rest, ":")
	class, hmac, ok := strings.Cut(rest, ":")
	if !ok || len(kind) != 2 || len(hmac) != 2*hashSize || !all(class, unicode.IsLower, "") {
		return Digest{}, false
	}
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || !all(hmac, func(r rune) bool { return '0' <= r && r <= '9' || 'a' <= r && r <= 'f' }, "") {
		return Digest{}, false
	}
	return Digest{text[1], n, class, hmac}, true
}

// Chosen reports whether the name of a member looks as if a programmer chose it,
// and not as if it were data: an identifier, short and with few digits.
func Chosen(name string) bool {
	digits := 0
	for i, c := range []byte(name) {
		switch {
		case '0' <= c && c <= '9' && i > 0:
			digits++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-' && i > 0:
		default:
			return false
		}
	}
	return name != "" && len(name) <= 32 && digits <= 2
}

// Class names the form of a value: the first of these that it has.
func Class(kind byte, text string) string {
	switch {
	case text == "":
		return "empty"
	case kind == Boolean:
		return "bool"
	case !utf8.ValidString(text):
		return "binary"
	case isUUID(text):
		return "uuid"
	case all(text, func(r rune) bool { return '0' <= r && r <= '9' }, "-"):
		return "int"
	case kind == Number:
		return "decimal"
	case len(text) >= 16 && all(text, func(r rune) bool { return unicode.Is(unicode.ASCII_Hex_Digit, r) }, ""):
		return "hex"
	case isTime(text):
		return "time"
	case isEmail(text):
		return "email"
	case isURL(text):
		return "url"
	case all(text, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_-.", r) }, ""):
		return "word"
	}
	return "text"
}

// all reports whether all of text but one leading prefix is ok.
func all(text string, ok func(rune) bool, prefix string) bool {
	text = strings.TrimPrefix(text, prefix)
	return text != "" && strings.IndexFunc(text, func(r rune) bool { return !ok(r) }) < 0
}

func isUUID(text string) bool {
	return len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' &&
		all(text, func(r rune) bool { return r == '-' || unicode.Is(unicode.ASCII_Hex_Digit, r) }, "")
}

// isTime reports whether text begins as RFC 3339 times do.
func isTime(text string) bool {
	if len(text) < 19 || text[4] != '-' || text[7] != '-' || text[10] != 'T' && text[10] != ' ' || text[13] != ':' {
		return false
	}
	return all(text[:4]+text[5:7]+text[8:10], func(r rune) bool { return '0' <= r && r <= '9' }, "")
}

func isEmail(text string) bool {
	local, domain, ok := strings.Cut(text, "@")
	return ok && local != "" && strings.Contains(domain, ".") && !strings.ContainsAny(text, " \t\r\n")
}

func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme != "" && u.Host != ""
}
