package scenario

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"darklaunch/loadgen/descriptor"
)

// message compiles the fields of a message of type d. What is the same in all
// calls is encoded here and now.
func (c *bodyCompiler) message(d protoreflect.MessageDescriptor, fields map[string]any) (parts, error) {
	var out parts
	fixed := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		v := fields[name]
		f := d.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			f = d.Fields().ByJSONName(name)
		}
		if f == nil {
			return nil, at(name, fmt.Errorf("%s has no field %s", d.FullName(), name))
		}
		if !dynamic(v) {
			fixed[name] = v
			continue
		}
		p, err := c.field(f, v)
		if err != nil {
			return nil, at(name, err)
		}
		out = append(out, p)
	}
	if len(fixed) > 0 {
		text, err := json.Marshal(fixed)
		if err != nil {
			return nil, err
		}
		b, err := descriptor.Message(d, text)
		if err != nil {
			return nil, err
		}
		out = append(parts{bytesPart(b)}, out...)
	}
	return out, nil
}

// field compiles a field of which some part is filled in by calls.
func (c *bodyCompiler) field(f protoreflect.FieldDescriptor, v any) (part, error) {
	if f.IsMap() {
		return nil, fmt.Errorf("a map is the same in all calls: want no ${…} in it")
	}
	if !f.IsList() {
		return c.single(f, v)
	}
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	var out parts
	for i, item := range items {
		step := strconv.Itoa(i)
		if m, isMap := item.(map[string]any); isMap {
			if what, item, ok := splitEach(m); ok {
				l, err := c.list(what)
				if err != nil {
					return nil, at(step, err)
				}
				p, err := c.single(f, item)
				if err != nil {
					return nil, at(step, err)
				}
				out = append(out, each{l, p})
				continue
			}
		}
		p, err := c.single(f, item)
		if err != nil {
			return nil, at(step, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// single compiles one value of a field.
func (c *bodyCompiler) single(f protoreflect.FieldDescriptor, v any) (part, error) {
	if f.Message() != nil {
		m, ok := v.(map[string]any)
		if !ok || f.Kind() == protoreflect.GroupKind {
			return nil, fmt.Errorf("want the fields of %s", f.Message().FullName())
		}
		p, err := c.message(f.Message(), m)
		return sub{f.Number(), p}, err
	}
	text, ok := v.(string)
	if !ok {
		text = fmt.Sprint(v)
	}
	t, err := c.template(text)
	if err != nil {
		return nil, err
	}
	if !strings.Contains("string bytes enum bool int32 int64 uint32 uint64 double float", f.Kind().String()) {
		return nil, fmt.Errorf("a field of type %s is the same in all calls: want no ${…} in it", f.Kind())
	}
	return scalar{f, t}, nil
}

// sub is a message within one.
type sub struct {
	number protoreflect.FieldNumber
	parts  parts
}

func (s sub) append(dst []byte, e *env) []byte {
	dst = protowire.AppendTag(dst, s.number, protowire.BytesType)
	start := len(dst)
	return withLength(s.parts.append(dst, e), start)
}

// withLength puts the length of what is in b from start on before it.
func withLength(b []byte, start int) []byte {
	n := len(b) - start
	k := protowire.SizeVarint(uint64(n))
	b = append(b, make([]byte, k)...)
	copy(b[start+k:], b[start:start+n])
	protowire.AppendVarint(b[:start], uint64(n))
	return b
}

type each struct {
	of   list
	item part
}

func (r each) append(dst []byte, e *env) []byte {
	r.of(e, func() { dst = r.item.append(dst, e) })
	return dst
}

// scalar is a field of a simple type.
type scalar struct {
	field protoreflect.FieldDescriptor
	t     *template
}

func (s scalar) append(dst []byte, e *env) []byte {
	kind, number := s.field.Kind(), s.field.Number()
	if kind == protoreflect.StringKind || kind == protoreflect.BytesKind {
		dst = protowire.AppendTag(dst, number, protowire.BytesType)
		start := len(dst)
		return withLength(s.t.append(dst, e), start)
	}
	start := len(dst)
	text := string(s.t.append(dst, e)[start:])
	var err error
	switch kind {
	case protoreflect.EnumKind:
		v := s.field.Enum().Values().ByName(protoreflect.Name(text))
		if v != nil {
			return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), uint64(v.Number()))
		}
		err = fmt.Errorf("%s has no value %q", s.field.Enum().FullName(), text)
	case protoreflect.BoolKind:
		var v bool
		if v, err = strconv.ParseBool(text); err == nil {
			return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), protowire.EncodeBool(v))
		}
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		var v float64
		if v, err = strconv.ParseFloat(text, 64); err == nil {
			if kind == protoreflect.FloatKind {
				return protowire.AppendFixed32(protowire.AppendTag(dst, number, protowire.Fixed32Type), math.Float32bits(float32(v)))
			}
			return protowire.AppendFixed64(protowire.AppendTag(dst, number, protowire.Fixed64Type), math.Float64bits(v))
		}
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		var v uint64
		if v, err = strconv.ParseUint(text, 10, 64); err == nil {
			return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), v)
		}
	default:
		var v int64
		if v, err = strconv.ParseInt(text, 10, 64); err == nil {
			return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), uint64(v))
		}
	}
	e.run.Stats.fail(fmt.Errorf("field %s: %w", s.field.FullName(), err))
	return dst
}

// protoPath is a path of field numbers; its last field is text or a number.
type protoPath struct {
	numbers []protowire.Number
	last    protoreflect.Kind
}

func compileProtoPath(d protoreflect.MessageDescriptor, path string) (protoPath, error) {
	var p protoPath
	steps := strings.Split(path, ".")
	for i, step := range steps {
		f := d.Fields().ByName(protoreflect.Name(step))
		switch {
		case f == nil:
			return p, fmt.Errorf("%s has no field %s", d.FullName(), step)
		case f.IsMap(), f.Kind() == protoreflect.GroupKind, i < len(steps)-1 && f.Message() == nil, i == len(steps)-1 && f.Message() != nil:
			return p, fmt.Errorf("field %s: want messages on the way, and text or a number at the end", f.FullName())
		}
		p.numbers, p.last = append(p.numbers, f.Number()), f.Kind()
		d = f.Message()
	}
	if !strings.Contains("string bytes enum bool int32 int64 uint32 uint64", p.last.String()) {
		return p, fmt.Errorf("field %s is a %s: want text or a whole number", path, p.last)
	}
	return p, nil
}

func (p protoPath) find(answer []byte) (found []string) {
	p.walk(answer, 0, &found)
	return found
}

// walk reads a message; what is cut off at its end was not kept.
func (p protoPath) walk(b []byte, depth int, found *[]string) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(number, kind, b)
		if size < 0 {
			return
		}
		value := b[:size]
		b = b[size:]
		if number != p.numbers[depth] || len(*found) == maxSaved {
			continue
		}
		switch kind {
		case protowire.BytesType:
			content, _ := protowire.ConsumeBytes(value)
			if depth < len(p.numbers)-1 {
				p.walk(content, depth+1, found)
			} else if p.last == protoreflect.StringKind || p.last == protoreflect.BytesKind {
				*found = append(*found, string(content))
			}
		case protowire.VarintType:
			x, _ := protowire.ConsumeVarint(value)
			if p.last == protoreflect.Uint32Kind || p.last == protoreflect.Uint64Kind {
				*found = append(*found, strconv.FormatUint(x, 10))
			} else {
				*found = append(*found, strconv.FormatInt(int64(x), 10))
			}
		}
	}
}
