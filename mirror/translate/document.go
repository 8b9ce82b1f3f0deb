package translate

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"darklaunch/internal/strictjson"
)

var (
	errJSON      = errors.New("the body is no JSON")
	errTruncated = errors.New("the body was not kept whole")
	errMessages  = errors.New("want one gRPC message that is not compressed")
)

// readJSON reads a text as gojq has documents: int where a number is one.
func readJSON(text []byte) (any, error) {
	v, err := strictjson.Read(text)
	if err != nil {
		return nil, errJSON
	}
	if err := measure(v); err != nil {
		return nil, err
	}
	return numbers(v), nil
}

// numbers has numbers as gojq wants them. Those that are too large or too fine
// for Go's stay texts of digits, which jq passes on as they are.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.Atoi(string(v)); err == nil {
			return n
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case map[string]any:
		for name, e := range v {
			v[name] = numbers(e)
		}
	}
	return v
}

// body reads a message's body: JSON, a form as an object of lists, or the gRPC
// message that d describes. Without content it is null.
func (m *Message) read(d protoreflect.MessageDescriptor) (any, error) {
	if m.Truncated {
		return nil, errTruncated
	}
	if m.Body == nil && d == nil {
		return nil, nil
	}
	if d != nil {
		if len(m.Body) == 0 {
			return nil, nil // an answer that is an error
		}
		return readGRPC(m.Body, d)
	}
	if len(m.Body) == 0 {
		return nil, nil
	}
	media, _, _ := mime.ParseMediaType(field(m.Header, "content-type"))
	switch {
	case media == "" || media == "application/json" || strings.HasSuffix(media, "+json"):
		return readJSON(m.Body)
	case media == "application/x-www-form-urlencoded":
		values, err := url.ParseQuery(string(m.Body))
		if err != nil {
			return nil, errors.New("the body is no form")
		}
		return lists(values), nil
	}
	return nil, fmt.Errorf("a body of type %s is not read", media)
}

func lists(values url.Values) map[string]any {
	out := map[string]any{}
	for name, list := range values {
		all := make([]any, len(list))
		for i, v := range list {
			all[i] = v
		}
		out[name] = all
	}
	return out
}

// readGRPC reads the one length-prefixed message of a unary call.
func readGRPC(b []byte, d protoreflect.MessageDescriptor) (any, error) {
	if len(b) < 5 || b[0] != 0 || uint64(len(b)-5) != uint64(binary.BigEndian.Uint32(b[1:])) {
		return nil, errMessages
	}
	m := dynamicpb.NewMessage(d)
	if err := (proto.UnmarshalOptions{RecursionLimit: MaxDepth}).Unmarshal(b[5:], m); err != nil {
		return nil, fmt.Errorf("the body is no %s", d.FullName())
	}
	v, err := fromMessage(m)
	if err == nil {
		err = measure(v)
	}
	return v, err
}

// fromMessage makes a document of a message. It is what the JSON mapping of
// protobuf says, with the fields' own names, fields that have no presence always
// there, and 64-bit numbers as numbers: so that a number is the same thing
// whichever API it came by.
func fromMessage(m protoreflect.Message) (any, error) {
	if v, ok, err := wellKnown(m); ok || err != nil {
		return v, err
	}
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if f.HasPresence() && !m.Has(f) {
			continue
		}
		v, err := fromField(f, m.Get(f))
		if err != nil {
			return nil, err
		}
		out[string(f.Name())] = v
	}
	return out, nil
}

func fromField(f protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch {
	case f.IsMap():
		out, bad := map[string]any{}, error(nil)
		v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
			out[k.String()], bad = fromValue(f.MapValue(), e)
			return bad == nil
		})
		return out, bad
	case f.IsList():
		out := make([]any, v.List().Len())
		for i := range out {
			var err error
			if out[i], err = fromValue(f, v.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return fromValue(f, v)
}

func fromValue(f protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return v.Bool(), nil
	case protoreflect.StringKind:
		return v.String(), nil
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes()), nil
	case protoreflect.EnumKind:
		if e := f.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name()), nil
		}
		return int(v.Enum()), nil
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return fromMessage(v.Message())
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		if n := v.Float(); math.IsNaN(n) || math.IsInf(n, 0) {
			return strconv.FormatFloat(n, 'g', -1, 64), nil
		}
		return v.Float(), nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		if n := v.Uint(); n > math.MaxInt64 {
			return json.Number(strconv.FormatUint(n, 10)), nil
		}
		return int(v.Uint()), nil
	}
	return int(v.Int()), nil
}

// wellKnown are messages that the JSON mapping writes otherwise than by fields.
func wellKnown(m protoreflect.Message) (v any, ok bool, err error) {
	d := m.Descriptor()
	if d.ParentFile().Package() != "google.protobuf" {
		return nil, false, nil
	}
	if d.Name() == "Timestamp" { // the usual one, without a detour
		s, n := m.Get(d.Fields().ByName("seconds")).Int(), m.Get(d.Fields().ByName("nanos")).Int()
		return time.Unix(s, n).UTC().Format(time.RFC3339Nano), true, nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m.Interface())
	if err != nil {
		return nil, false, fmt.Errorf("%s: not read", d.FullName())
	}
	v, err = readJSON(text)
	return v, true, err
}

// toMessage writes a document as a message of type d, length-prefixed.
func toMessage(v any, d protoreflect.MessageDescriptor) ([]byte, error) {
	text, err := toJSON(v)
	if err != nil {
		return nil, err
	}
	m := dynamicpb.NewMessage(d)
	if err := (protojson.UnmarshalOptions{RecursionLimit: MaxDepth}).Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %s", d.FullName(), strings.ReplaceAll(strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0"), "\u00a0", " "))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 5), m)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(b)-5))
	return b, nil
}

// toJSON writes a document.
func toJSON(v any) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("not to be written as JSON: %v", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Document makes JSON of the message that a gRPC method answers or takes, as
// expressions see it. ok is false if the method is not known or the body is not one
// message of its.
func (r *Rules) Document(path string, answer bool, body []byte) (text []byte, ok bool) {
	m := r.method(path)
	if m == nil {
		return nil, false
	}
	d := m.Input()
	if answer {
		d = m.Output()
	}
	v, err := readGRPC(body, d)
	if err != nil {
		return nil, false
	}
	text, err = toJSON(v)
	return text, err == nil
}

// Message is the way back of Document: it writes JSON as the message of a method,
// as the body of a call or answer.
func (r *Rules) Message(path string, answer bool, text []byte) ([]byte, error) {
	m := r.method(path)
	if m == nil {
		return nil, fmt.Errorf("the descriptors have no method %s", path)
	}
	d := m.Input()
	if answer {
		d = m.Output()
	}
	v, err := readJSON(text)
	if err != nil {
		return nil, err
	}
	return toMessage(v, d)
}
