package compare

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// method returns the descriptor of what the method that a route names answers;
// nil if it is not known.
func (c *Comparer) method(route string) protoreflect.MessageDescriptor {
	service, method, ok := strings.Cut(strings.TrimPrefix(route[strings.LastIndexByte(route, ' ')+1:], "/"), "/")
	if !ok || c.cfg.Descriptors == nil {
		return nil
	}
	d, err := c.cfg.Descriptors.FindDescriptorByName(protoreflect.FullName(service))
	s, isService := d.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil
	}
	m := s.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return nil
	}
	return m.Output()
}

// readMessage reads a message as an object: fields by name, or number where they
// are not known, each with its values.
func readMessage(b []byte, d protoreflect.MessageDescriptor, depth int) (any, error) {
	if depth > MaxDepth {
		return nil, errForm
	}
	out := map[string]any{}
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, errForm
		}
		size := protowire.ConsumeFieldValue(number, wire, b[n:])
		if size < 0 {
			return nil, errForm
		}
		if err := addField(out, fieldOf(d, number), number, wire, b[n:n+size], depth); err != nil {
			return nil, err
		}
		b = b[n+size:]
	}
	return out, nil
}

func fieldOf(d protoreflect.MessageDescriptor, n protowire.Number) protoreflect.FieldDescriptor {
	if d == nil {
		return nil
	}
	return d.Fields().ByNumber(n)
}

// addField adds one value of a field, or several that are packed.
func addField(out map[string]any, f protoreflect.FieldDescriptor, number protowire.Number, wire protowire.Type, b []byte, depth int) error {
	if f == nil || !wireFits(f, wire) { // unknown, or not what the descriptor says
		v, err := wireValue(wire, number, b, depth)
		name := strconv.Itoa(int(number))
		list, _ := out[name].(repeated)
		out[name] = append(list, v)
		return err
	}
	name := string(f.Name())
	if f.IsMap() {
		return addEntry(out, f, b, depth)
	}
	list, _ := out[name].(repeated)
	if !f.IsList() {
		list = nil // the last one counts
	}
	if wire == protowire.BytesType && f.IsList() && packable(f.Kind()) {
		packed, _ := protowire.ConsumeBytes(b)
		for len(packed) > 0 {
			n := protowire.ConsumeFieldValue(number, wireOf(f.Kind()), packed)
			if n < 0 {
				return errForm
			}
			v, err := known(f, packed[:n], depth)
			if err != nil {
				return err
			}
			list, packed = append(list, v), packed[n:]
		}
		out[name] = list
		return nil
	}
	v, err := known(f, b, depth)
	if err != nil {
		return err
	}
	if !f.IsList() && !f.HasPresence() && zero(f, v) {
		delete(out, name) // as good as absent
		return nil
	}
	out[name] = append(list, v)
	return nil
}

// addEntry adds an entry of a map.
func addEntry(out map[string]any, f protoreflect.FieldDescriptor, b []byte, depth int) error {
	content, _ := protowire.ConsumeBytes(b)
	entry, err := readMessage(content, f.Message(), depth+1)
	if err != nil {
		return err
	}
	field := entry.(map[string]any)
	key := ""
	if list, ok := field["key"].(repeated); ok {
		key = leafOf(list[0]).text
	}
	name := string(f.Name())
	list, ok := out[name].(repeated)
	if !ok {
		list = repeated{entries{}}
		out[name] = list
	}
	var v any = repeated{}
	if given, ok := field["value"]; ok {
		v = given
	}
	list[0].(entries)[key] = v
	return nil
}

// wireOf is the wire type of a kind that may be packed.
func wireOf(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

func packable(k protoreflect.Kind) bool {
	w := wireOf(k)
	return w != protowire.BytesType && w != protowire.StartGroupType
}

func wireFits(f protoreflect.FieldDescriptor, wire protowire.Type) bool {
	want := wireOf(f.Kind())
	return wire == want || wire == protowire.BytesType && f.IsList() && packable(f.Kind())
}

// known reads a value of a field that is described.
func known(f protoreflect.FieldDescriptor, b []byte, depth int) (any, error) {
	switch wireOf(f.Kind()) {
	case protowire.Fixed32Type:
		n, _ := protowire.ConsumeFixed32(b)
		switch f.Kind() {
		case protoreflect.FloatKind:
			return float(float64(math.Float32frombits(n)), 32), nil
		case protoreflect.Sfixed32Kind:
			return signed(int64(int32(n))), nil
		}
		return unsigned(uint64(n)), nil
	case protowire.Fixed64Type:
		n, _ := protowire.ConsumeFixed64(b)
		switch f.Kind() {
		case protoreflect.DoubleKind:
			return float(math.Float64frombits(n), 64), nil
		case protoreflect.Sfixed64Kind:
			return signed(int64(n)), nil
		}
		return unsigned(n), nil
	case protowire.VarintType:
		n, _ := protowire.ConsumeVarint(b)
		return knownVarint(f, n), nil
	}
	content, n := protowire.ConsumeBytes(b)
	switch f.Kind() {
	case protoreflect.StringKind:
		if !utf8.Valid(content) {
			return octets(content), nil
		}
		return string(content), nil
	case protoreflect.BytesKind:
		return octets(content), nil
	case protoreflect.GroupKind:
		content, n = protowire.ConsumeGroup(f.Number(), b)
	}
	if n < 0 {
		return nil, errForm
	}
	return readMessage(content, f.Message(), depth+1)
}

func knownVarint(f protoreflect.FieldDescriptor, n uint64) any {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return n != 0
	case protoreflect.EnumKind:
		return enumName(f, protoreflect.EnumNumber(int32(n)))
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		return signed(protowire.DecodeZigZag(n))
	case protoreflect.Int32Kind:
		return signed(int64(int32(n)))
	case protoreflect.Int64Kind:
		return signed(int64(n))
	}
	return unsigned(n)
}

// enumName is a value's name, or its number as a text if it has none.
func enumName(f protoreflect.FieldDescriptor, n protoreflect.EnumNumber) string {
	if v := f.Enum().Values().ByNumber(n); v != nil {
		return string(v.Name())
	}
	return strconv.Itoa(int(n))
}

// zero reports whether v is the value of a field that is not there.
func zero(f protoreflect.FieldDescriptor, v any) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case string:
		return v == "" || f.Enum() != nil && v == enumName(f, 0)
	case octets:
		return v == ""
	case json.Number:
		return v == "0"
	}
	return false
}

func signed(n int64) any    { return json.Number(strconv.FormatInt(n, 10)) }
func unsigned(n uint64) any { return json.Number(strconv.FormatUint(n, 10)) }
func float(v float64, bits int) any {
	return json.Number(strconv.FormatFloat(v, 'g', -1, bits)) // NaN and Inf too, which are read as such
}

// wireValue reads a value of which the wire type is all that is known. Numbers
// are read as a record reads them.
func wireValue(wire protowire.Type, number protowire.Number, b []byte, depth int) (any, error) {
	switch wire {
	case protowire.VarintType:
		n, _ := protowire.ConsumeVarint(b)
		return signed(int64(n)), nil
	case protowire.Fixed32Type:
		n, _ := protowire.ConsumeFixed32(b)
		return unsigned(uint64(n)), nil
	case protowire.Fixed64Type:
		n, _ := protowire.ConsumeFixed64(b)
		return unsigned(n), nil
	case protowire.StartGroupType:
		content, n := protowire.ConsumeGroup(number, b)
		if n < 0 {
			return nil, errForm
		}
		return readMessage(content, nil, depth+1)
	}
	content, _ := protowire.ConsumeBytes(b)
	text := string(content)
	if printable(text) {
		return text, nil
	}
	if m, err := readMessage(content, nil, depth+1); err == nil {
		return m, nil
	}
	return octets(text), nil
}

// printable reports whether text is one that people write.
func printable(text string) bool {
	return utf8.ValidString(text) && strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && !unicode.IsSpace(r) }) < 0
}

// recordedProto reads what a record makes of messages, and names fields by d.
func recordedProto(v any, d protoreflect.MessageDescriptor) (any, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, errForm
	}
	stream := make(repeated, len(list))
	for i, m := range list {
		message, ok := m.(map[string]any)
		if !ok {
			return nil, errForm
		}
		stream[i] = recordedMessage(message, d)
	}
	return stream, nil
}

func recordedMessage(m map[string]any, d protoreflect.MessageDescriptor) map[string]any {
	out := make(map[string]any, len(m))
	for name, v := range m {
		var inner protoreflect.MessageDescriptor
		if n, err := strconv.ParseInt(name, 10, 32); err == nil {
			if f := fieldOf(d, protowire.Number(n)); f != nil {
				name, inner = string(f.Name()), f.Message()
			}
		}
		list, ok := v.([]any)
		if !ok {
			out[name] = v
			continue
		}
		values := make(repeated, len(list))
		for i, e := range list {
			if values[i] = e; inner != nil || d == nil {
				if message, ok := e.(map[string]any); ok {
					values[i] = recordedMessage(message, inner)
				}
			}
		}
		out[name] = values
	}
	return out
}
