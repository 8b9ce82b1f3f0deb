package record

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"darklaunch/internal/digest"
)

// Format is how a body was read.
type Format uint8

const (
	// Opaque: not at all. The content is one digest.
	Opaque Format = iota
	// JSON.
	JSON
	// Form is application/x-www-form-urlencoded, as a JSON object of lists.
	Form
	// Proto is gRPC messages, as a JSON list of objects whose names are field
	// numbers and whose values are lists.
	Proto
)

// maxDepth is how deep bodies are followed.
const maxDepth = 64

// Body returns content as it may be shown: JSON in which each leaf that is not
// is a digest, or a digest of it all where the content is compressed, cut, of
// another type than is read here, or not well formed.
func (p *Policy) Body(contentType, contentEncoding string, content []byte, truncated bool) (Format, []byte) {
	if contentEncoding == "" || strings.EqualFold(contentEncoding, "identity") {
		media, _, _ := mime.ParseMediaType(contentType)
		w := writer{policy: p}
		switch {
		case truncated || len(content) == 0:
		case media == "application/json" || strings.HasSuffix(media, "+json"):
			if w.json(content) == nil {
				return JSON, w.out
			}
		case media == "application/x-www-form-urlencoded":
			if w.form(string(content)) == nil {
				return Form, w.out
			}
		case media == "application/grpc" || media == "application/grpc+proto":
			if w.grpc(content) == nil {
				return Proto, w.out
			}
		}
	}
	return Opaque, []byte(p.digest('x', content))
}

// writer writes a body as it may be shown.
type writer struct {
	policy *Policy
	out    []byte
}

var errForm = errors.New("not well formed")

// text appends a JSON string.
func (w *writer) text(s string) {
	quoted, err := json.Marshal(s)
	if err != nil { // no string makes it
		panic(err)
	}
	w.out = append(w.out, quoted...)
}

// name appends the name of a member. Names are not leaves, but some are data:
// one that does not look as if a programmer chose it is shown if the list has it.
func (w *writer) name(name string, known bool) {
	if !known && !digest.Chosen(name) {
		name = w.policy.digest('s', []byte(name))
	}
	w.text(name)
	w.out = append(w.out, ':')
}

func (w *writer) json(content []byte) error {
	d := json.NewDecoder(bytes.NewReader(content))
	d.UseNumber()
	if err := w.value(d, w.policy.json, 0); err != nil {
		return err
	}
	if d.More() {
		return errForm
	}
	return nil
}

// value copies the next value; at is its place in the list, or nil.
func (w *writer) value(d *json.Decoder, at *node, depth int) error {
	token, err := d.Token()
	if err != nil || depth > maxDepth {
		return errForm
	}
	switch v := token.(type) {
	case json.Delim:
		return w.nested(d, byte(v), at, depth)
	case string:
		if at != nil && at.shown {
			w.text(v)
		} else {
			w.text(w.policy.digest('s', []byte(v)))
		}
	case json.Number:
		if at != nil && at.shown {
			w.out = append(w.out, v...)
		} else {
			w.text(w.policy.digest('n', []byte(v)))
		}
	case bool:
		if text := strconv.FormatBool(v); at != nil && at.shown {
			w.out = append(w.out, text...)
		} else {
			w.text(w.policy.digest('b', []byte(text)))
		}
	default:
		w.out = append(w.out, "null"...)
	}
	return nil
}

func (w *writer) nested(d *json.Decoder, open byte, at *node, depth int) error {
	w.out = append(w.out, open)
	for first := true; d.More(); first = false {
		if !first {
			w.out = append(w.out, ',')
		}
		inner := at.element()
		if open == '{' {
			token, err := d.Token()
			name, ok := token.(string)
			if err != nil || !ok {
				return errForm
			}
			inner = at.member(name)
			w.name(name, inner != nil)
		}
		if err := w.value(d, inner, depth+1); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return errForm
	}
	w.out = append(w.out, open+2) // ']' and '}' are two after '[' and '{'
	return nil
}

func (w *writer) form(content string) error {
	values, err := url.ParseQuery(content)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	w.out = append(w.out, '{')
	for i, name := range names {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		shown := w.policy.forms[name]
		w.name(name, shown)
		w.list(len(values[name]), func(k int) {
			if v := values[name][k]; shown {
				w.text(v)
			} else {
				w.text(w.policy.digest('s', []byte(v)))
			}
		})
	}
	w.out = append(w.out, '}')
	return nil
}

func (w *writer) list(n int, element func(i int)) {
	w.out = append(w.out, '[')
	for i := range n {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		element(i)
	}
	w.out = append(w.out, ']')
}

// grpc reads length-prefixed messages. A compressed one is not looked into.
func (w *writer) grpc(content []byte) error {
	w.out = append(w.out, '[')
	for first := true; len(content) > 0; first = false {
		if len(content) < 5 || content[0] != 0 {
			return errForm
		}
		size := uint64(binary.BigEndian.Uint32(content[1:]))
		if content = content[5:]; size > uint64(len(content)) {
			return errForm
		}
		if !first {
			w.out = append(w.out, ',')
		}
		if err := w.message(content[:size], w.policy.proto, 0); err != nil {
			return err
		}
		content = content[size:]
	}
	w.out = append(w.out, ']')
	return nil
}

// fieldValue is one value of a field, with its wire type.
type fieldValue struct {
	wire protowire.Type
	data []byte
}

// message writes a message. Without descriptors a nested message can't be told
// from text, so that one is followed only where the list leads into it.
func (w *writer) message(b []byte, at *node, depth int) error {
	if depth > maxDepth {
		return errForm
	}
	values := map[protowire.Number][]fieldValue{}
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errForm
		}
		size := protowire.ConsumeFieldValue(number, wire, b[n:])
		if size < 0 {
			return errForm
		}
		values[number] = append(values[number], fieldValue{wire, b[n : n+size]})
		b = b[n+size:]
	}
	numbers := make([]protowire.Number, 0, len(values))
	for number := range values {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	w.out = append(w.out, '{')
	var err error
	for i, number := range numbers {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		name := strconv.Itoa(int(number))
		w.name(name, true)
		inner := at.member(name)
		w.list(len(values[number]), func(k int) {
			if bad := w.field(values[number][k], inner, depth); bad != nil {
				err = bad
			}
		})
	}
	w.out = append(w.out, '}')
	return err
}

func (w *writer) field(v fieldValue, at *node, depth int) error {
	kind, text, data := byte('n'), "", v.data
	switch v.wire {
	case protowire.VarintType:
		n, _ := protowire.ConsumeVarint(v.data)
		text = strconv.FormatInt(int64(n), 10)
	case protowire.Fixed32Type:
		n, _ := protowire.ConsumeFixed32(v.data)
		text = strconv.FormatUint(uint64(n), 10)
	case protowire.Fixed64Type:
		n, _ := protowire.ConsumeFixed64(v.data)
		text = strconv.FormatUint(n, 10)
	case protowire.BytesType:
		data, _ = protowire.ConsumeBytes(v.data)
		if at != nil && len(at.names) > 0 {
			return w.message(data, at, depth+1)
		}
		if kind, text = 's', string(data); !utf8.Valid(data) {
			kind = 'x'
		}
	default: // a group
		kind = 'x'
	}
	shown := at != nil && at.shown && kind != 'x'
	switch {
	case !shown && kind == 'n':
		w.text(w.policy.digest('n', []byte(text)))
	case !shown:
		w.text(w.policy.digest(kind, data))
	case kind == 'n':
		w.out = append(w.out, text...)
	default:
		w.text(text)
	}
	return nil
}
