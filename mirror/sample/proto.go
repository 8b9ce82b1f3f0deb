package sample

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Descriptors is what is known of gRPC services. It is immutable, and safe for
// any number of goroutines. A nil *Descriptors knows of none.
type Descriptors struct {
	methods map[string]protoreflect.MethodDescriptor // by path: "/pkg.Service/Method"
}

// ParseDescriptors reads a serialized FileDescriptorSet, as protoc writes it
// with --descriptor_set_out and --include_imports. An import that is not in
// the set is no error, as long as no extractor needs it.
func ParseDescriptors(set []byte) (*Descriptors, error) {
	var fds descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(set, &fds); err != nil {
		return nil, fmt.Errorf("descriptors: want a FileDescriptorSet: %w", err)
	}
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(&fds)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	d := &Descriptors{methods: map[string]protoreflect.MethodDescriptor{}}
	files.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				d.methods["/"+string(service.FullName())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return d, nil
}

// Method returns the method at path, "/pkg.Service/Method", or nil.
func (d *Descriptors) Method(path string) protoreflect.MethodDescriptor {
	if d == nil {
		return nil
	}
	return d.methods[path]
}

// Has reports whether the method at path is known.
func (d *Descriptors) Has(path string) bool { return d != nil && d.methods[path] != nil }

// Lacks reports whether the service of the method at path is known, and has no
// such method.
func (d *Descriptors) Lacks(path string) bool {
	if d == nil || d.methods[path] != nil {
		return false
	}
	service := path[:strings.LastIndexByte(path, '/')+1]
	for known := range d.methods {
		if strings.HasPrefix(known, service) && len(service) > 1 {
			return true
		}
	}
	return false
}

// NoSideEffects reports whether the method at path is known and declared with
// idempotency_level = NO_SIDE_EFFECTS.
func (d *Descriptors) NoSideEffects(path string) bool {
	if d == nil || d.methods[path] == nil {
		return false
	}
	o, ok := d.methods[path].Options().(*descriptorpb.MethodOptions)
	return ok && o.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
}

// ServerStreams reports whether the method at path is known, takes one message
// and answers with a stream of them.
func (d *Descriptors) ServerStreams(path string) bool {
	if d == nil || d.methods[path] == nil {
		return false
	}
	m := d.methods[path]
	return m.IsStreamingServer() && !m.IsStreamingClient()
}

// protoStep is one field on the way to a value.
type protoStep struct {
	number protowire.Number
	kind   protoreflect.Kind // of the last step; 0 when known by number alone
}

// protoPath leads to a value: by the same numbers whatever the message, or by
// the method's message.
type protoPath struct {
	numbers  []protoStep
	byMethod map[string][]protoStep
}

func (p *protoPath) of(path string) []protoStep {
	if p.numbers != nil {
		return p.numbers
	}
	return p.byMethod[path]
}

func parseProtoPath(arg string, d *Descriptors, answer bool) (protoPath, error) {
	names := strings.Split(arg, ".")
	if len(names) > MaxDepth {
		return protoPath{}, fmt.Errorf("want at most %d fields", MaxDepth)
	}
	if steps, ok := protoNumbers(names); ok {
		return protoPath{numbers: steps}, nil
	}
	for _, name := range names {
		if !protoreflect.Name(name).IsValid() {
			return protoPath{}, fmt.Errorf("want field names or field numbers, separated by dots")
		}
	}
	if d == nil {
		return protoPath{}, fmt.Errorf("want descriptors, or field numbers such as proto:1.3")
	}
	p := protoPath{byMethod: map[string][]protoStep{}}
	for path, m := range d.methods {
		message := m.Input()
		if answer {
			message = m.Output()
		}
		if steps, ok := protoNames(message, names); ok {
			p.byMethod[path] = steps
		}
	}
	if len(p.byMethod) == 0 {
		return protoPath{}, fmt.Errorf("want a text or number field of at least one method's message")
	}
	return p, nil
}

func protoNumbers(names []string) ([]protoStep, bool) {
	steps := make([]protoStep, len(names))
	for i, name := range names {
		n, err := strconv.ParseInt(name, 10, 32)
		if err != nil || !protowire.Number(n).IsValid() {
			return nil, false
		}
		steps[i].number = protowire.Number(n)
	}
	return steps, true
}

func protoNames(message protoreflect.MessageDescriptor, names []string) ([]protoStep, bool) {
	steps := make([]protoStep, len(names))
	for i, name := range names {
		if message == nil || message.IsPlaceholder() {
			return nil, false
		}
		field := message.Fields().ByName(protoreflect.Name(name))
		if field == nil || field.Kind() == protoreflect.GroupKind {
			return nil, false
		}
		steps[i] = protoStep{field.Number(), field.Kind()}
		message = field.Message()
	}
	last := steps[len(steps)-1].kind
	return steps, last != protoreflect.MessageKind && last != protoreflect.BoolKind
}

// readProto reads the values at steps of the first gRPC message. A repeated
// field has several; a field that must not repeat and does counts as if it
// might. Nil steps mean that the method's message has no such field.
func readProto(m *Message, steps []protoStep, f *found) {
	if len(steps) == 0 || len(m.Body) == 0 && !m.Truncated {
		f.miss(Absent)
		return
	}
	if len(m.Body) < 5 {
		f.miss(cut(m.Truncated))
		return
	}
	switch m.Body[0] {
	case 0:
	case 1:
		f.miss(Encoded)
		return
	default:
		f.miss(Malformed) // not gRPC
		return
	}
	body, size := m.Body[5:], uint64(binary.BigEndian.Uint32(m.Body[1:5]))
	short := uint64(len(body)) < size
	if !short {
		body = body[:size]
	}
	if len(body) > maxScan {
		body, short = body[:maxScan], true
	}
	before := f.n
	p := protoScan{truncated: short && (m.Truncated || len(body) == maxScan)}
	if p.message(body, steps, f) && f.n == before {
		f.miss(Absent)
	}
	if short {
		f.miss(cut(p.truncated))
	}
}

func cut(truncated bool) Reason {
	if truncated {
		return Truncated
	}
	return Malformed
}

type protoScan struct {
	truncated bool // the message is only the beginning
}

// message reads the values at steps of one message. It returns false when
// there is no point in going on.
func (p *protoScan) message(b []byte, steps []protoStep, f *found) bool {
	for len(b) > 0 && !f.full() {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			f.miss(cut(p.truncated))
			return false
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(number, wire, b)
		if number != steps[0].number {
			if size < 0 {
				f.miss(cut(p.truncated))
				return false
			}
			b = b[size:]
			continue
		}
		if len(steps) > 1 && wire == protowire.BytesType {
			if !p.nested(b, size, steps[1:], f) {
				return false
			}
		} else if size < 0 {
			f.miss(cut(p.truncated))
			return false
		} else if len(steps) > 1 || !addProto(steps[0].kind, wire, b[:size], f) {
			f.miss(WrongType)
		}
		if size < 0 {
			return false
		}
		b = b[size:]
	}
	return !f.full()
}

// nested goes into a message of which only the beginning may be there, size < 0.
func (p *protoScan) nested(b []byte, size int, steps []protoStep, f *found) bool {
	_, n := protowire.ConsumeVarint(b)
	if n < 0 || size < 0 && !p.truncated {
		f.miss(cut(p.truncated))
		return false
	}
	if size >= 0 {
		b = b[:size]
	}
	return p.message(b[n:], steps, f)
}

// addProto adds a field's value: by its declared kind, or as its wire type
// suggests. Without descriptors a varint is read as a signed 64-bit number, a
// fixed one as unsigned, and bytes as text.
func addProto(kind protoreflect.Kind, wire protowire.Type, b []byte, f *found) bool {
	switch wire {
	case protowire.BytesType:
		v, _ := protowire.ConsumeBytes(b)
		if kind == 0 || kind == protoreflect.StringKind || kind == protoreflect.BytesKind {
			f.add(string(v))
			return true
		}
		return addPacked(kind, v, f)
	case protowire.VarintType:
		v, _ := protowire.ConsumeVarint(b)
		return addNumber(kind, protoreflect.Int64Kind, v, f)
	case protowire.Fixed32Type:
		v, _ := protowire.ConsumeFixed32(b)
		return addNumber(kind, protoreflect.Fixed32Kind, uint64(v), f)
	case protowire.Fixed64Type:
		v, _ := protowire.ConsumeFixed64(b)
		return addNumber(kind, protoreflect.Fixed64Kind, v, f)
	}
	return false
}

// addPacked adds the numbers of a packed repeated field.
func addPacked(kind protoreflect.Kind, b []byte, f *found) bool {
	for len(b) > 0 {
		var v uint64
		var n int
		switch kind {
		case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
			var v32 uint32
			v32, n = protowire.ConsumeFixed32(b)
			v = uint64(v32)
		case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
			v, n = protowire.ConsumeFixed64(b)
		default:
			v, n = protowire.ConsumeVarint(b)
		}
		if n < 0 || !addNumber(kind, 0, v, f) {
			return false
		}
		b = b[n:]
	}
	return true
}

func addNumber(kind, otherwise protoreflect.Kind, v uint64, f *found) bool {
	if kind == 0 {
		kind = otherwise
	}
	var buf [24]byte
	b := buf[:0]
	switch kind {
	case protoreflect.Int32Kind, protoreflect.Sfixed32Kind, protoreflect.EnumKind:
		b = strconv.AppendInt(b, int64(int32(v)), 10)
	case protoreflect.Int64Kind, protoreflect.Sfixed64Kind:
		b = strconv.AppendInt(b, int64(v), 10)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		b = strconv.AppendUint(b, uint64(uint32(v)), 10)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		b = strconv.AppendUint(b, v, 10)
	case protoreflect.Sint32Kind, protoreflect.Sint64Kind:
		b = strconv.AppendInt(b, protowire.DecodeZigZag(v), 10)
	case protoreflect.FloatKind:
		b = strconv.AppendFloat(b, float64(math.Float32frombits(uint32(v))), 'f', -1, 32)
	case protoreflect.DoubleKind:
		b = strconv.AppendFloat(b, math.Float64frombits(v), 'f', -1, 64)
	default:
		return false
	}
	f.add(string(b))
	return true
}
