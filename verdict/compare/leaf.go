package compare

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"darklaunch/internal/digest"
)

// leaf is a value that has no parts, or what its digest says of it.
type leaf struct {
	kind   byte // of digest, or '0' for null and '-' for what is not there
	text   string
	hidden bool // text is a digest
	length int
	class  string
}

func leafOf(v any) leaf {
	switch v := v.(type) {
	case string:
		if d, ok := digest.Parse(v); ok {
			return leaf{d.Type, v, true, d.Length, d.Class}
		}
		return leafText(digest.Text, v)
	case octets:
		if d, ok := digest.Parse(string(v)); ok {
			return leaf{d.Type, string(v), true, d.Length, d.Class}
		}
		return leafText(digest.Bytes, string(v))
	case json.Number:
		return leafText(digest.Number, string(v))
	case bool:
		return leafText(digest.Boolean, strconv.FormatBool(v))
	case nil:
		return leaf{kind: '0'}
	}
	return leaf{kind: '-'}
}

func leafText(kind byte, text string) leaf {
	return leaf{kind: kind, text: text, length: len(text), class: digest.Class(kind, text)}
}

// number returns the value of a number that is shown.
func (l leaf) number() (float64, bool) {
	if l.kind != digest.Number || l.hidden {
		return 0, false
	}
	v, err := strconv.ParseFloat(l.text, 64)
	return v, err == nil
}

// exact is the largest float64 up to which all whole numbers are.
const exact = 1 << 53

// same reports whether two leaves of one type are equal: 1.50 is 1.5.
func (l leaf) same(m leaf) bool {
	if l.text == m.text {
		return true
	}
	x, ok := l.number()
	y, also := m.number()
	return ok && also && x == y && math.Abs(x) < exact
}

// shapeOf says how else two leaves of one type differ.
func shapeOf(a, b leaf) (s Shape) {
	if a.class != b.class {
		s |= OtherClass
	}
	if a.length != b.length && (a.kind == digest.Text || a.kind == digest.Bytes) {
		s |= OtherLength
	}
	return s
}

// equal reports whether two values are, whatever rules say.
func equal(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, b, equal)
	case entries:
		b, ok := b.(entries)
		return ok && maps.EqualFunc(a, b, equal)
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, equal)
	case repeated:
		b, ok := b.(repeated)
		return ok && slices.EqualFunc(a, b, equal)
	}
	return !container(b) && a == b
}

// show writes a value as people read it, cut to MaxShown.
func show(v any) string {
	var b strings.Builder
	showTo(&b, v, 0)
	text := b.String()
	if len(text) <= MaxShown {
		return text
	}
	const dots = "…"
	end := MaxShown - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

// showTo stops soon after MaxShown.
func showTo(b *strings.Builder, v any, depth int) {
	if b.Len() > MaxShown {
		return
	}
	switch v := v.(type) {
	case absent:
	case map[string]any:
		showObject(b, v, depth)
	case entries:
		showObject(b, v, depth)
	case []any:
		showList(b, v, depth)
	case repeated:
		showList(b, v, depth)
	case nil:
		b.WriteString("null")
	case string:
		v = strings.ToValidUTF8(v[:min(len(v), 2*MaxShown)], "\uFFFD")
		if depth > 0 {
			v = strconv.Quote(v)
		}
		b.WriteString(v)
	case octets:
		if text := string(v[:min(len(v), 2*MaxShown)]); printable(text) {
			b.WriteString(text)
		} else {
			fmt.Fprintf(b, "%x", text)
		}
	default:
		fmt.Fprint(b, v)
	}
}

func showObject(b *strings.Builder, m map[string]any, depth int) {
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(m)) {
		if b.Len() > MaxShown {
			return
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(name[:min(len(name), MaxShown)]))
		b.WriteByte(':')
		showTo(b, m[name], depth+1)
	}
	b.WriteByte('}')
}

func showList(b *strings.Builder, list []any, depth int) {
	b.WriteByte('[')
	for i, v := range list {
		if b.Len() > MaxShown {
			return
		}
		if i > 0 {
			b.WriteByte(',')
		}
		showTo(b, v, depth+1)
	}
	b.WriteByte(']')
}
