package compare

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// TestScalars has a field of each type that protobuf knows, with two values.
func TestScalars(t *testing.T) {
	v := protoreflect.ValueOf
	types := []struct {
		typ        descriptorpb.FieldDescriptorProto_Type
		live, role protoreflect.Value
		want       string
	}{
		{descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, v(1.5), v(-2e300), `"1.5" "-2e+300"`},
		{descriptorpb.FieldDescriptorProto_TYPE_FLOAT, v(float32(0.1)), v(float32(2)), `"0.1" "2"`},
		{descriptorpb.FieldDescriptorProto_TYPE_INT64, v(int64(-1)), v(int64(1 << 62)), `"-1" "4611686018427387904"`},
		{descriptorpb.FieldDescriptorProto_TYPE_UINT64, v(uint64(1)), v(uint64(1<<64 - 1)), `"1" "18446744073709551615"`},
		{descriptorpb.FieldDescriptorProto_TYPE_INT32, v(int32(-1)), v(int32(2)), `"-1" "2"`},
		{descriptorpb.FieldDescriptorProto_TYPE_FIXED64, v(uint64(1)), v(uint64(1<<64 - 1)), `"1" "18446744073709551615"`},
		{descriptorpb.FieldDescriptorProto_TYPE_FIXED32, v(uint32(1)), v(uint32(1<<32 - 1)), `"1" "4294967295"`},
		{descriptorpb.FieldDescriptorProto_TYPE_BOOL, v(true), v(false), `"true" "false"`},
		{descriptorpb.FieldDescriptorProto_TYPE_STRING, v("a"), v("b"), `"a" "b"`},
		{descriptorpb.FieldDescriptorProto_TYPE_BYTES, v([]byte{0}), v([]byte{255}), `"00" "ff"`},
		{descriptorpb.FieldDescriptorProto_TYPE_UINT32, v(uint32(1)), v(uint32(1<<32 - 1)), `"1" "4294967295"`},
		{descriptorpb.FieldDescriptorProto_TYPE_SFIXED32, v(int32(-1)), v(int32(2)), `"-1" "2"`},
		{descriptorpb.FieldDescriptorProto_TYPE_SFIXED64, v(int64(-1)), v(int64(2)), `"-1" "2"`},
		{descriptorpb.FieldDescriptorProto_TYPE_SINT32, v(int32(-1)), v(int32(2)), `"-1" "2"`},
		{descriptorpb.FieldDescriptorProto_TYPE_SINT64, v(int64(-1)), v(int64(2)), `"-1" "2"`},
	}
	// Explicit presence, so that false is told from what is not there.
	m := &descriptorpb.DescriptorProto{Name: proto.String("M")}
	for i, tt := range types {
		m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: proto.String(fmt.Sprintf("f%02d", i)), Number: proto.Int32(int32(i + 1)), Type: tt.typ.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()})
	}
	m.NestedType = []*descriptorpb.DescriptorProto{{Name: proto.String("Group"), Field: []*descriptorpb.FieldDescriptorProto{{Name: proto.String("x"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}}}}
	m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: proto.String("group"), Number: proto.Int32(99), Type: descriptorpb.FieldDescriptorProto_TYPE_GROUP.Enum(), TypeName: proto.String(".q.M.Group"), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()})
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("q.proto"), Package: proto.String("q"), Syntax: proto.String("proto2"), MessageType: []*descriptorpb.DescriptorProto{m},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{{Name: proto.String("Get"), InputType: proto.String(".q.M"), OutputType: proto.String(".q.M")}}}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := new(protoregistry.Files)
	if err := files.RegisterFile(file); err != nil {
		t.Fatal(err)
	}
	d := file.Messages().Get(0)
	live, role := dynamicpb.NewMessage(d), dynamicpb.NewMessage(d)
	var want []string
	for i, tt := range types {
		live.Set(d.Fields().Get(i), tt.live)
		role.Set(d.Fields().Get(i), tt.role)
		want = append(want, fmt.Sprintf("proto:f%02d value %s", i, tt.want))
	}
	group := d.Fields().ByName("group")
	for n, side := range map[int32]*dynamicpb.Message{1: live, 2: role} {
		side.Mutable(group).Message().Set(group.Message().Fields().Get(0), v(n))
	}
	want = append(want, `proto:group.x value "1" "2"`)
	encode := func(m proto.Message) *Answer {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return &Answer{Status: 200, Body: Body{Format: Proto, Content: b}}
	}
	got := New(Config{Descriptors: files}).Answers("/q.S/Get", encode(live), encode(role))
	for i := range got.Differences {
		got.Differences[i].Shape = 0
	}
	if diff := cmp.Diff(want, told(got)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	for _, route := range []string{"/q.S/Put", "/q.M/Get", "/q.None/Get", "GET /x", ""} {
		if d := New(Config{Descriptors: files}).method(route); d != nil {
			t.Errorf("method of %q: got %s, want none", route, d.FullName())
		}
	}
}

// TestWireValues has values of each wire type where nothing describes them.
func TestWireValues(t *testing.T) {
	field := func(n protowire.Number, typ protowire.Type, value []byte) []byte {
		return append(protowire.AppendTag(nil, n, typ), value...)
	}
	message := func(x uint64) *Answer {
		var b []byte
		b = append(b, field(1, protowire.VarintType, protowire.AppendVarint(nil, x))...)
		b = append(b, field(2, protowire.Fixed32Type, protowire.AppendFixed32(nil, uint32(x)))...)
		b = append(b, field(3, protowire.Fixed64Type, protowire.AppendFixed64(nil, x))...)
		b = append(b, field(4, protowire.StartGroupType, protowire.AppendGroup(nil, 4, field(1, protowire.VarintType, protowire.AppendVarint(nil, x))))...)
		b = append(b, field(5, protowire.BytesType, protowire.AppendBytes(nil, []byte{0xff, byte(x)}))...)
		return &Answer{Status: 200, Body: Body{Format: Proto, Content: b}}
	}
	got := New(Config{}).Answers("/q.S/Get", message(1), message(1<<64-2))
	want := []string{`proto:1 value "1" "-2"`, `proto:2 value "1" "4294967294"`, `proto:3 value "1" "18446744073709551614"`, `proto:4.1 value "1" "-2"`, `proto:5 value "ff01" "fffe"`}
	if diff := cmp.Diff(want, told(got)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestFormatOf(t *testing.T) {
	for media, want := range map[string]Format{
		"application/json; charset=utf-8": JSON, "application/problem+json": JSON, "application/x-www-form-urlencoded": Form,
		"application/grpc": GRPC, "application/grpc+proto": GRPC, "application/x-protobuf": Proto, "application/grpc+json": JSON, "text/plain": Opaque, "": Opaque,
	} {
		if got := FormatOf(media); got != want {
			t.Errorf("%q: got %d, want %d", media, got, want)
		}
	}
}

func TestKindText(t *testing.T) {
	for k := range numKinds {
		text, err := k.MarshalText()
		var back Kind
		if err != nil || back.UnmarshalText(text) != nil || back != k {
			t.Errorf("%d: got %s, %v, and back %d", k, text, err, back)
		}
	}
	if err := new(Kind).UnmarshalText([]byte("kind 9")); err == nil || numKinds.String() != "kind 8" {
		t.Errorf("a kind that is none: got %v, %s", err, numKinds)
	}
}
