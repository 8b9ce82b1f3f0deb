package compare

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/digest"
)

// told writes a result a difference a line, and then what rules did.
func told(r Result) (lines []string) {
	for _, d := range r.Differences {
		line := fmt.Sprintf("%s %s %q %q", d.Path, d.Kind, d.Live, d.Role)
		if d.Shape&OtherClass != 0 {
			line += " class"
		}
		if d.Shape&OtherLength != 0 {
			line += " length"
		}
		lines = append(lines, line)
	}
	for _, u := range r.Uses {
		lines = append(lines, fmt.Sprintf("rule %d hid %d unread %d", u.Rule, u.Hid, u.Unread))
	}
	if r.Cut {
		lines = append(lines, "cut")
	}
	return lines
}

func jsonAnswer(text string) *Answer {
	return &Answer{Status: 200, GRPC: -1, Body: Body{Format: JSON, Content: []byte(text), Size: int64(len(text))}}
}

// secret is the digest of a text, as a record has it.
func secret(text string) string {
	hash := [8]byte{}
	for i, c := range []byte(text) {
		hash[i%8] = hash[i%8]*31 + c
	}
	return digest.Of(digest.Text, []byte(text), hash[:]).String()
}

func TestJSON(t *testing.T) {
	for _, tt := range []struct {
		name, rules, live, role string
		want                    []string
	}{
		{name: "equal", live: `{"a":[1,{"b":null}],"c":true}`, role: `{"c": true, "a": [1.0, {"b": null}]}`},
		{name: "value", live: `{"a":[{"b":1},{"b":2}]}`, role: `{"a":[{"b":1},{"b":3}]}`, want: []string{`json:$.a[*].b value "2" "3"`}},
		{name: "shape", live: `{"a":"x","b":"ab"}`, role: `{"a":"a b","b":"cd"}`, want: []string{`json:$.a value "x" "a b" class length`, `json:$.b value "ab" "cd"`}},
		{name: "one for all elements", live: `[{"b":"x"},{"b":"y"}]`, role: `[{"b":"z"},{"b":"1"}]`, want: []string{`json:$[*].b value "x" "z" class`}},
		{name: "missing and extra", live: `{"a":{"x":1},"b":1}`, role: `{"a":{"y":[2]},"b":1}`, want: []string{`json:$.a.x missing "1" ""`, `json:$.a.y extra "" "[2]"`}},
		{name: "type", live: `{"a":1,"b":"1","c":null,"d":[],"e":{}}`, role: `{"a":"1","b":true,"c":0,"d":{},"e":1}`,
			want: []string{`json:$.a type "1" "1"`, `json:$.b type "1" "true"`, `json:$.c type "null" "0"`, `json:$.d type "[]" "{}"`, `json:$.e type "{}" "1"`}},
		{name: "null is not absent", live: `{"a":null}`, role: `{}`, want: []string{`json:$.a missing "null" ""`}},
		{name: "large numbers", live: `{"a":9007199254740993}`, role: `{"a":9007199254740992}`, want: []string{`json:$.a value "9007199254740993" "9007199254740992"`}},
		{name: "length", live: `{"a":[1,2,3]}`, role: `{"a":[1,2]}`, want: []string{`json:$.a length "3" "2"`}},
		{name: "order", live: `{"a":[1,2,{"x":3}]}`, role: `{"a":[2,{"x":3},1]}`, want: []string{`json:$.a order "[1,2,{\"x\":3}]" "[2,{\"x\":3},1]"`}},
		{name: "order but for what is ignored", rules: "- path: json:$[*].at\n  ignore: true", live: `[{"id":1,"at":5},{"id":2,"at":6}]`, role: `[{"id":2,"at":7},{"id":1,"at":8}]`,
			want: []string{`json:$ order "[{\"at\":5,\"id\":1},{\"at\":6,\"id\":2}]" "[{\"at\":7,\"id\":2},{\"at\":8,\"id\":1}]"`}},
		{name: "names that are data", live: `{"by":{"user4711":1,"4a":2}}`, role: `{"by":{"user4712":1,"4a":3}}`, want: []string{`json:$.by.* missing "1" ""`, `json:$.by.* extra "" "1"`, `json:$.by.* value "2" "3"`}},
		{name: "names that a rule says are data", rules: "- path: json:$.by.*\n  degrade: [type]", live: `{"by":{"ann":1,"bob":"x"}}`, role: `{"by":{"ann":2,"bob":3}}`,
			want: []string{`json:$.by.* type "x" "3"`, "rule 0 hid 1 unread 0"}},
		{name: "digests", live: `{"a":"` + secret("ann") + `","b":"` + secret("bob") + `","` + secret("c") + `":1}`, role: `{"a":"` + secret("ann") + `","b":"` + secret("b b") + `","` + secret("d") + `":1}`,
			want: []string{`json:$.* missing "1" ""`, `json:$.* extra "" "1"`, fmt.Sprintf("json:$.b value %q %q class", secret("bob"), secret("b b"))}},
		{name: "a digest and a number", live: `{"a":"` + secret("ann") + `"}`, role: `{"a":1}`, want: []string{fmt.Sprintf("json:$.a type %q \"1\"", secret("ann"))}},

		{name: "ignore", rules: "- path: json:$.a\n  ignore: true", live: `{"a":{"x":1,"y":2},"b":1}`, role: `{"a":{"x":2,"z":2},"b":2}`, want: []string{`json:$.b value "1" "2"`, "rule 0 hid 3 unread 0"}},
		{name: "ignore what is missing", rules: "- path: json:$.a\n  ignore: true", live: `{"a":1}`, role: `{}`, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "another route's", rules: "- path: json:$.a\n  route: GET /other\n  ignore: true", live: `{"a":1}`, role: `{"a":2}`, want: []string{`json:$.a value "1" "2"`}},
		{name: "a route's own", rules: "- path: json:$.a\n  degrade: [type]\n- path: json:$.a\n  route: GET /x\n  degrade: [format]", live: `{"a":"x"}`, role: `{"a":"x y"}`,
			want: []string{`json:$.a type "x" "x y"`}},
		{name: "exact and any", rules: "- path: json:$.*.at\n  ignore: true\n- path: json:$.a.id\n  ignore: true", live: `{"a":{"at":1,"id":1,"n":1}}`, role: `{"a":{"at":2,"id":2,"n":2}}`,
			want: []string{`json:$.a.n value "1" "2"`, "rule 0 hid 1 unread 0", "rule 1 hid 1 unread 0"}},
		{name: "degrade", rules: "- path: json:$.a\n  degrade: [type, length, format]", live: `{"a":"ab"}`, role: `{"a":"cd"}`, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "degrade, length", rules: "- path: json:$.a\n  degrade: [length]", live: `{"a":"ab"}`, role: `{"a":"a b"}`, want: []string{`json:$.a length "ab" "a b"`}},
		{name: "degrade, format", rules: "- path: json:$.a\n  degrade: [format]", live: `{"a":"ab"}`, role: `{"a":"a b"}`, want: []string{`json:$.a type "ab" "a b"`}},
		{name: "degrade, type", rules: "- path: json:$.a\n  degrade: [type]", live: `{"a":"ab"}`, role: `{"a":1}`, want: []string{`json:$.a type "ab" "1"`}},
		{name: "degrade digests", rules: "- path: json:$.a\n  degrade: [format, length]", live: `{"a":"` + secret("ab") + `"}`, role: `{"a":"` + secret("a b") + `"}`,
			want: []string{fmt.Sprintf("json:$.a type %q %q", secret("ab"), secret("a b")), fmt.Sprintf("json:$.a length %q %q", secret("ab"), secret("a b"))}},
		{name: "in range", rules: "- path: json:$.a\n  degrade: [range]\n  range: [0, 10]", live: `{"a":1}`, role: `{"a":10}`, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "out of range", rules: "- path: json:$.a\n  degrade: [range]\n  range: [0, 10]", live: `{"a":1}`, role: `{"a":11}`, want: []string{`json:$.a value "1" "11"`}},
		{name: "a range of digests", rules: "- path: json:$.a\n  degrade: [range]\n  range: [0, 10]", live: `{"a":"` + secret("1") + `"}`, role: `{"a":"` + secret("2") + `"}`, want: []string{"rule 0 hid 1 unread 1"}},
		{name: "tolerance", rules: "- path: json:$[*]\n  tolerance: {absolute: 0.1, relative: 1%}", live: `[1, 1000, 5]`, role: `[1.05, 1009, 6]`, want: []string{`json:$[*] value "5" "6"`, "rule 0 hid 2 unread 0"}},
		{name: "tolerance of digests", rules: "- path: json:$.a\n  tolerance: {absolute: 1}", live: `{"a":"~n:1:int:0000000000000001"}`, role: `{"a":"~n:1:int:0000000000000002"}`,
			want: []string{`json:$.a value "~n:1:int:0000000000000001" "~n:1:int:0000000000000002"`, "rule 0 hid 0 unread 1"}},
		{name: "set", rules: "- path: json:$.a\n  array: set", live: `{"a":[1,2,3]}`, role: `{"a":[3,1,2]}`, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "a set with another element", rules: "- path: json:$.a\n  array: set", live: `{"a":[{"x":1,"y":1},2]}`, role: `{"a":[2,{"x":1,"y":2},3]}`,
			want: []string{`json:$.a[*] extra "" "3"`, `json:$.a[*].y value "1" "2"`, "rule 0 hid 1 unread 0"}},
		{name: "a set of sets", rules: "- path: json:$\n  array: set\n- path: json:$[*]\n  array: set", live: `[[1,2],[3,4]]`, role: `[[4,3],[2,1]]`, want: []string{"rule 0 hid 1 unread 0", "rule 1 hid 2 unread 0"}},
		{name: "keyed", rules: "- path: json:$.a\n  array: keyed\n  key: id", live: `{"a":[{"id":1,"n":"x"},{"id":2},{"id":3}]}`, role: `{"a":[{"id":3},{"id":1,"n":"y"},{"id":4}]}`,
			want: []string{`json:$.a[*] missing "{\"id\":2}" ""`, `json:$.a[*] extra "" "{\"id\":4}"`, `json:$.a[*].n value "x" "y"`, "rule 0 hid 1 unread 0"}},
		{name: "keyed by digests", rules: "- path: json:$\n  array: keyed\n  key: id", live: `[{"id":"` + secret("p") + `","n":1},{"id":"` + secret("q") + `","n":2}]`, role: `[{"id":"` + secret("q") + `","n":2},{"id":"` + secret("p") + `","n":3}]`,
			want: []string{`json:$[*].n value "1" "3"`, "rule 0 hid 1 unread 0"}},
		{name: "keyed without keys", rules: "- path: json:$\n  array: keyed\n  key: id", live: `[1,{"id":[]}]`, role: `[2,{"id":[]}]`, want: []string{`json:$[*] value "1" "2"`}},
		{name: "not JSON on one side", live: `{"a":1}`, role: `oops`, want: []string{`body type "{\"a\":1}" "oops"`}},
		{name: "JSON on no side", live: `{"a":1`, role: `oops`, want: []string{`body value "{\"a\":1" "oops" class length`}},
		{name: "more than one value", live: `1 2`, role: `1 3`, want: []string{`body value "1 2" "1 3"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules := new(Rules)
			if tt.rules != "" {
				rules = parse(t, "rules:\n"+tt.rules)
			}
			c := New(Config{Rules: rules})
			got := c.Answers("GET /x", jsonAnswer(tt.live), jsonAnswer(tt.role))
			if diff := cmp.Diff(tt.want, told(got)); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if same := c.Answers("GET /x", jsonAnswer(tt.live), jsonAnswer(tt.live)); len(same.Differences) > 0 {
				t.Errorf("live against itself: got %v, want nothing", told(same))
			}
		})
	}
}

func TestStatusAndFields(t *testing.T) {
	answer := func(change func(*Answer)) *Answer {
		a := &Answer{Status: 200, GRPC: -1, Header: []Field{{"content-type", "text/plain"}, {"etag", "1"}}, Trailer: []Field{{"x", "1"}}, Body: Body{Content: []byte("hi"), Hash: []byte{1}, Size: 2}}
		change(a)
		return a
	}
	for _, tt := range []struct {
		name, rules string
		live, role  func(*Answer)
		want        []string
	}{
		{name: "equal"},
		{name: "an error and another body", role: func(a *Answer) { a.Status, a.Body.Hash = 500, []byte{2} }, want: []string{`status status "200" "500"`}},
		{name: "another success", role: func(a *Answer) { a.Status = 201 }, want: []string{`status value "200" "201"`}},
		{name: "no answer", role: func(a *Answer) { *a = Answer{Failure: "timeout", GRPC: -1} }, want: []string{`status status "200" "timeout"`}},
		{name: "gRPC error", live: func(a *Answer) { a.GRPC = 0 }, role: func(a *Answer) { a.GRPC = 5; a.Body.Hash = nil }, want: []string{`grpc-status status "0" "5"`}},
		{name: "another gRPC error", live: func(a *Answer) { a.GRPC = 3; a.Trailer = nil }, role: func(a *Answer) {
			a.GRPC = 5
			a.Trailer = []Field{{"grpc-status", "5"}, {"grpc-message", "no such user"}}
		}, want: []string{`grpc-status value "3" "5"`, `trailer:grpc-message header "" "no such user"`}},
		{name: "a header that is not compared", role: func(a *Answer) { a.Header[1].Value = "2" }},
		{name: "a header that is", rules: "headers:\n- names: [ETag]", role: func(a *Answer) { a.Header[1].Value = "2" }, want: []string{`header:etag header "1" "2"`}},
		{name: "a header twice", role: func(a *Answer) { a.Header = append(a.Header, a.Header[0]) }, want: []string{`header:content-type header "text/plain" "text/plain, text/plain"`}},
		{name: "no header", role: func(a *Answer) { a.Header = nil }, want: []string{`header:content-type header "text/plain" ""`}},
		{name: "a header that is ignored", rules: "rules:\n- path: header:Content-Type\n  ignore: true", role: func(a *Answer) { a.Header = nil }, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "a header that is degraded", rules: "rules:\n- path: trailer:x\n  degrade: [length]", role: func(a *Answer) { a.Trailer[0].Value = "2" }, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "and of another length", rules: "rules:\n- path: trailer:x\n  degrade: [length]", role: func(a *Answer) { a.Trailer[0].Value = "22" }, want: []string{`trailer:x header "1" "22"`}},
		{name: "a status that is ignored", rules: "rules:\n- path: status\n  ignore: true", role: func(a *Answer) { a.Status = 404 }, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "a trailer", role: func(a *Answer) { a.Trailer = nil }, want: []string{`trailer:x header "1" ""`}},
		{name: "bytes", role: func(a *Answer) { a.Body = Body{Hash: []byte{2}, Size: 3, Content: []byte("a b")} }, want: []string{`body value "hi" "a b" class length`}},
		{name: "the same bytes, recorded in another way", role: func(a *Answer) { a.Body = Body{Hash: []byte{1}, Size: 2} }},
		{name: "bytes that are ignored", rules: "rules:\n- path: body\n  ignore: true", role: func(a *Answer) { a.Body.Hash = []byte{2} }, want: []string{"rule 0 hid 1 unread 0"}},
		{name: "cut", live: func(a *Answer) {
			a.Body = Body{Hash: []byte{1}, Size: 9, Format: JSON, Truncated: true, Content: []byte(`{"a":1}`)}
		},
			role: func(a *Answer) {
				a.Body = Body{Hash: []byte{2}, Size: 9, Format: JSON, Truncated: true, Content: []byte(`{"a":1}`)}
			}, want: []string{`body value "{\"a\":1}" "{\"a\":1}"`}},
		{name: "a form", live: func(a *Answer) { a.Body = Body{Format: Form, Content: []byte("a=1&a=2&b=x")} }, role: func(a *Answer) { a.Body = Body{Format: Form, Content: []byte("b=x&a=2&a=1&c=")} },
			want: []string{`form:a order "[\"1\",\"2\"]" "[\"2\",\"1\"]"`, `form:c extra "" "[\"\"]"`}},
		{name: "a recorded form", live: func(a *Answer) { a.Body = Body{Format: RecordedForm, Content: []byte(`{"a":["1"]}`)} }, role: func(a *Answer) { a.Body = Body{Format: RecordedForm, Content: []byte(`{"a":["2"]}`)} },
			want: []string{`form:a[*] value "1" "2"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			none := func(*Answer) {}
			if tt.live == nil {
				tt.live = none
			}
			if tt.role == nil {
				tt.role = none
			}
			got := New(Config{Rules: parse(t, tt.rules)}).Answers("GET /x", answer(tt.live), answer(tt.role))
			if diff := cmp.Diff(tt.want, told(got)); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

// described is the descriptor of a service whose method answers Threads.
func described(t testing.TB) *protoregistry.Files {
	t.Helper()
	field := func(name string, n int32, typ descriptorpb.FieldDescriptorProto_Type, more ...func(*descriptorpb.FieldDescriptorProto)) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &typ, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		for _, m := range more {
			m(f)
		}
		return f
	}
	list := func(f *descriptorpb.FieldDescriptorProto) {
		f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	}
	of := func(name string) func(*descriptorpb.FieldDescriptorProto) {
		return func(f *descriptorpb.FieldDescriptorProto) { f.TypeName = &name }
	}
	text := func(s string) *string { return &s }
	yes := true
	file := &descriptorpb.FileDescriptorProto{
		Name: text("t.proto"), Package: text("p"), Syntax: text("proto3"),
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: text("State"), Value: []*descriptorpb.EnumValueDescriptorProto{{Name: text("NONE"), Number: new(int32)}, {Name: text("READ"), Number: func() *int32 { n := int32(1); return &n }()}}}},
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: text("Thread"), Field: []*descriptorpb.FieldDescriptorProto{
				field("id", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING), field("unread", 2, descriptorpb.FieldDescriptorProto_TYPE_SINT32),
				field("scores", 3, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, list), field("state", 4, descriptorpb.FieldDescriptorProto_TYPE_ENUM, of(".p.State")),
				field("labels", 5, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, list, of(".p.Thread.LabelsEntry")), field("raw", 6, descriptorpb.FieldDescriptorProto_TYPE_BYTES),
				field("open", 7, descriptorpb.FieldDescriptorProto_TYPE_BOOL),
			}, NestedType: []*descriptorpb.DescriptorProto{{Name: text("LabelsEntry"), Options: &descriptorpb.MessageOptions{MapEntry: &yes}, Field: []*descriptorpb.FieldDescriptorProto{
				field("key", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING), field("value", 2, descriptorpb.FieldDescriptorProto_TYPE_INT64)}}}},
			{Name: text("Threads"), Field: []*descriptorpb.FieldDescriptorProto{field("threads", 1, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, list, of(".p.Thread")), field("total", 2, descriptorpb.FieldDescriptorProto_TYPE_INT32)}},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: text("Inbox"), Method: []*descriptorpb.MethodDescriptorProto{{Name: text("List"), InputType: text(".p.Threads"), OutputType: text(".p.Threads")}}}},
	}
	files, err := protodesc.NewFiles(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// message writes fields: number, then int, float64 (packed), string or []byte.
func message(fields ...any) (b []byte) {
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
		case []uint64:
			var packed []byte
			for _, x := range v {
				packed = protowire.AppendFixed64(packed, x)
			}
			b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), packed)
		}
	}
	return b
}

func frames(messages ...[]byte) (b []byte) {
	for _, m := range messages {
		b = append(binary.BigEndian.AppendUint32(append(b, 0), uint32(len(m))), m...)
	}
	return b
}

const one, two = 0x3ff0000000000000, 0x4000000000000000 // 1.0 and 2.0

func TestProto(t *testing.T) {
	thread := func(fields ...any) []byte { return message(fields...) }
	for _, tt := range []struct {
		name, rules         string
		live, role          []byte
		described, numbered []string // differences with a descriptor, and without
	}{
		{name: "equal", live: frames(message(1, thread(1, "a"), 2, 1)), role: frames(message(2, 1, 1, thread(1, "a")))},
		{name: "a value", live: frames(message(2, 1)), role: frames(message(2, 2)), described: []string{`proto:total value "1" "2"`}, numbered: []string{`proto:2 value "1" "2"`}},
		{name: "zero is as good as absent", live: frames(message(2, 0)), role: frames(nil), numbered: []string{`proto:2 missing "[0]" ""`}},
		{name: "kinds", live: frames(message(1, thread(1, "\x01a", 2, 3, 3, []uint64{one}, 4, 1, 6, "x", 7, 1))), role: frames(message(1, thread(1, "\x01b", 2, 4, 3, []uint64{two}, 4, 2, 6, "y", 7, 0))),
			described: []string{`proto:threads.id value "\x01a" "\x01b"`, `proto:threads.open missing "[true]" ""`, `proto:threads.raw value "x" "y"`, `proto:threads.scores value "1" "2"`, `proto:threads.state value "READ" "2" class length`, `proto:threads.unread value "-2" "2"`},
			numbered:  []string{`proto:1.1 value "0161" "0162"`, `proto:1.2 value "3" "4"`, `proto:1.3 value "000000000000f03f" "0000000000000040" class`, `proto:1.4 value "1" "2"`, `proto:1.6 value "x" "y"`, `proto:1.7 value "1" "0"`}},
		{name: "a field that nobody knows", live: frames(message(2, 1)), role: frames(message(2, 1, 99, "x")), described: []string{`proto:99 extra "" "[\"x\"]"`}, numbered: []string{`proto:99 extra "" "[\"x\"]"`}},
		{name: "a map", live: frames(message(1, thread(5, message(1, "ann", 2, 1), 5, message(1, "bob", 2, 2)))), role: frames(message(1, thread(5, message(1, "bob", 2, 3), 5, message(1, "cid", 2, 1)))),
			described: []string{`proto:threads.labels.* missing "[1]" ""`, `proto:threads.labels.* extra "" "[1]"`, `proto:threads.labels.* value "2" "3"`},
			numbered:  []string{`proto:1.5.1 value "ann" "bob"`, `proto:1.5.2 value "1" "3"`}},
		{name: "elements", live: frames(message(1, thread(1, "\x00a"), 1, thread(1, "\x00b"))), role: frames(message(1, thread(1, "\x00a"))), described: []string{`proto:threads length "2" "1"`}, numbered: []string{`proto:1 length "2" "1"`}},
		{name: "a stream", live: frames(message(2, 1), message(2, 2)), role: frames(message(2, 1)), described: []string{`proto: length "2" "1"`}, numbered: []string{`proto: length "2" "1"`}},
		{name: "a stream in another order", live: frames(message(2, 1), message(2, 2)), role: frames(message(2, 2), message(2, 1)),
			described: []string{`proto: order "[{\"total\":[1]},{\"total\":[2]}]" "[{\"total\":[2]},{\"total\":[1]}]"`}, numbered: []string{`proto: order "[{\"2\":[1]},{\"2\":[2]}]" "[{\"2\":[2]},{\"2\":[1]}]"`}},
		{name: "keyed", rules: "rules:\n- path: proto:threads\n  array: keyed\n  key: id", live: frames(message(1, thread(1, "\x00a", 2, 2), 1, thread(1, "\x00b"))), role: frames(message(1, thread(1, "\x00b"), 1, thread(1, "\x00a", 2, 4))),
			described: []string{`proto:threads.unread value "1" "2"`, "rule 0 hid 1 unread 0"}, numbered: []string{`proto:1.1 value "0061" "0062"`, `proto:1.2 missing "[2]" ""`, `proto:1.2 extra "" "[4]"`}},
		{name: "another wire type", live: frames(message(2, 1)), role: frames(message(2, "x")), described: []string{`proto:2 extra "" "[\"x\"]"`, `proto:total missing "[1]" ""`}, numbered: []string{`proto:2 type "1" "x"`}},
		{name: "broken on one side", live: frames(message(2, 1)), role: []byte("\x00\x00\x00\x00\x09\x10\x01"), described: []string{`body type "00000000021001" "00000000091001"`}, numbered: []string{`body type "00000000021001" "00000000091001"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules := parse(t, tt.rules)
			for _, way := range []struct {
				name string
				d    Descriptors
				want []string
			}{{"described", described(t), tt.described}, {"numbered", nil, tt.numbered}} {
				a := &Answer{Status: 200, Body: Body{Format: GRPC, Content: tt.live}}
				b := &Answer{Status: 200, Body: Body{Format: GRPC, Content: tt.role}}
				got := New(Config{Rules: rules, Descriptors: way.d}).Answers("/p.Inbox/List", a, b)
				if diff := cmp.Diff(way.want, told(got)); diff != "" {
					t.Errorf("%s: differences (-want +got):\n%s", way.name, diff)
				}
			}
		})
	}
}

// TestRecordedProto has messages as a record shows them.
func TestRecordedProto(t *testing.T) {
	recorded := func(text string) *Answer {
		return &Answer{Status: 200, Body: Body{Format: RecordedProto, Content: []byte(text)}}
	}
	live := recorded(`[{"1":[{"1":["` + secret("a") + `"],"2":[4]}],"2":["` + secret("1") + `"]}]`)
	role := recorded(`[{"1":[{"1":["` + secret("a") + `"],"2":[6]}],"2":["` + secret("b b") + `"],"9":[1]}]`)
	for _, tt := range []struct {
		d    Descriptors
		want []string
	}{
		{described(t), []string{`proto:9 extra "" "[1]"`, `proto:threads.unread value "4" "6"`, fmt.Sprintf("proto:total value %q %q class length", secret("1"), secret("b b"))}},
		{nil, []string{`proto:1.2 value "4" "6"`, fmt.Sprintf("proto:2 value %q %q class length", secret("1"), secret("b b")), `proto:9 extra "" "[1]"`}},
	} {
		got := New(Config{Descriptors: tt.d}).Answers("/p.Inbox/List", live, role)
		if diff := cmp.Diff(tt.want, told(got)); diff != "" {
			t.Errorf("differences (-want +got):\n%s", diff)
		}
	}
}

func TestPair(t *testing.T) {
	side := func(role pairv1.Role, status uint32) *pairv1.Side {
		return &pairv1.Side{Role: role, Clean: true, Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Status: status}}}}
	}
	for _, tt := range []struct {
		name            string
		change          func(p *pairv1.Pair)
		skip            Skip
		shadow, control []string // "-": there is none
	}{
		{name: "both", shadow: []string{`status status "200" "500"`}, control: []string{`status status "200" "404"`}},
		{name: "no control", change: func(p *pairv1.Pair) { p.Sides = p.Sides[:2] }, shadow: []string{`status status "200" "500"`}, control: []string{"-"}},
		{name: "the last of several calls", change: func(p *pairv1.Pair) { p.Sides[1].Exchanges = append(p.Sides[1].Exchanges, p.Sides[0].Exchanges[0]) }, control: []string{`status status "200" "404"`}},
		{name: "no answer of a role", change: func(p *pairv1.Pair) { p.Sides[1].Exchanges[0] = &pairv1.Exchange{Failure: "timeout"} }, shadow: []string{`status status "200" "timeout"`}, control: []string{`status status "200" "404"`}},
		{name: "shadow is tainted", change: func(p *pairv1.Pair) { p.Sides[1].Clean = false }, skip: Tainted},
		{name: "control is tainted", change: func(p *pairv1.Pair) { p.Sides[2].Clean = false }, skip: Tainted},
		{name: "unknown ids", change: func(p *pairv1.Pair) { p.Sides[2].UnknownIds = true }, skip: UnknownIDs},
		{name: "stopped", change: func(p *pairv1.Pair) { p.Sides[2].Stopped, p.Sides[1].Clean = true, false }, skip: Incomplete},
		{name: "no exchange", change: func(p *pairv1.Pair) { p.Sides[1].Exchanges = nil }, skip: Incomplete},
		{name: "no live", change: func(p *pairv1.Pair) { p.Sides = p.Sides[1:] }, skip: Incomplete},
		{name: "nothing", change: func(p *pairv1.Pair) { p.Sides = nil }, skip: Incomplete},
		{name: "live was cut", change: func(p *pairv1.Pair) { p.Sides[0].Exchanges[0].Failure = "error" }, skip: Incomplete},
		{name: "a role that nobody knows", change: func(p *pairv1.Pair) { p.Sides[2].Role = 9 }, shadow: []string{`status status "200" "500"`}, control: []string{"-"}},
	} {
		p := &pairv1.Pair{Route: "GET /x", Sides: []*pairv1.Side{side(pairv1.Role_ROLE_LIVE, 200), side(pairv1.Role_ROLE_SHADOW, 500), side(pairv1.Role_ROLE_CONTROL, 404)}}
		if tt.change != nil {
			tt.change(p)
		}
		o := New(Config{}).Pair(p)
		control := []string{"-"}
		if o.Control != nil {
			control = told(*o.Control)
		} else if tt.skip != Compared {
			control = nil
		}
		if o.Skip != tt.skip || o.Pair != p {
			t.Errorf("%s: got skipped %q, want %q", tt.name, o.Skip, tt.skip)
		}
		if diff := cmp.Diff([][]string{tt.shadow, tt.control}, [][]string{told(o.Shadow), control}); diff != "" {
			t.Errorf("%s: differences (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestLimits holds that answers which are too much are compared none the less.
func TestLimits(t *testing.T) {
	nest := func(n int, in string) string { return strings.Repeat(`[`, n) + in + strings.Repeat(`]`, n) }
	wide := func(v string) string {
		m := map[string]string{}
		for i := range MaxDifferences + 10 {
			m["k"+strings.Repeat("x", i%20)+strings.Repeat("y", i/20)] = v
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	var fields []Field
	for i := range 200_000 {
		fields = append(fields, Field{fmt.Sprint(i), "x"})
	}
	if got := New(Config{}).Answers("GET /x", &Answer{Status: 200, Trailer: fields}, &Answer{Status: 200}); len(got.Differences) != MaxDifferences || !got.Cut {
		t.Errorf("many trailers: got %d differences, cut %v, want %d and the rest cut", len(got.Differences), got.Cut, MaxDifferences)
	}
	large := `"` + strings.Repeat("x", MaxContent) + `"`
	for _, tt := range []struct {
		name, live, role string
		want             int
		cut              bool
	}{
		{"deep and equal", nest(5000, "1"), nest(5000, "1"), 0, false},
		{"deep", nest(5000, "1"), nest(5000, "2"), 1, false},
		{"deeper than JSON may be", nest(20000, "1"), nest(20000, "2"), 1, false},
		{"wide", wide("a"), wide("b"), MaxDifferences, true},
		{"large", large, large[:len(large)-2] + `y"`, 1, false},
		{"lists in lists", strings.Repeat(`[1,`, 3000) + "1" + strings.Repeat(`]`, 3000), strings.Repeat(`[1,`, 3000) + "2" + strings.Repeat(`]`, 3000), 1, false},
	} {
		got := New(Config{}).Answers("GET /x", jsonAnswer(tt.live), jsonAnswer(tt.role))
		if len(got.Differences) != tt.want || got.Cut != tt.cut {
			t.Errorf("%s: got %d differences, cut %v, want %d, %v", tt.name, len(got.Differences), got.Cut, tt.want, tt.cut)
		}
		for _, d := range got.Differences {
			if len(d.Live) > MaxShown || len(d.Role) > MaxShown {
				t.Errorf("%s: a difference shows %d and %d bytes, want at most %d", tt.name, len(d.Live), len(d.Role), MaxShown)
			}
		}
	}
}
