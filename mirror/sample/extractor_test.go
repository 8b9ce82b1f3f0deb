package sample

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestExtractors(t *testing.T) {
	body := func(s string) Exchange { return Exchange{Request: Message{Body: []byte(s)}} }
	cut := func(s string) Exchange { return Exchange{Request: Message{Body: []byte(s), Truncated: true}} }
	head := func(lines ...string) Exchange { return Exchange{Request: Message{Header: fields(lines)}} }
	for _, c := range []struct {
		extractor string
		x         Exchange
		want      []string
		reason    Reason
	}{
		{"header:X-User", head("x-user: Ann"), []string{"Ann"}, ""},
		{"header:x-user|lower", head("X-USER: ÄNN"), []string{"änn"}, ""},
		{"header:x-user", head("x-user: a", "y: b", "x-user: c"), []string{"a", "c"}, ""},
		{"header:x-user", head("x-user: a", "x-user: \xc3"), []string{"a"}, NotText},
		{"header:x-user", head("x-user: "), nil, Absent},
		{"header:x-user", head("y: 1"), nil, Absent},
		{"header:x-user", Exchange{}, nil, Absent},
		{"header:x-user", head("x-user: " + strings.Repeat("k", MaxKey+1)), nil, TooLong},
		{"answer:header:x-user", Exchange{Answer: Message{Header: fields{"x-user: live"}}}, []string{"live"}, ""},

		{"cookie:u", head("cookie: a=1;u=ann ;b=2"), []string{"ann"}, ""},
		{"cookie:u", head("cookie: a=1", `cookie: u="ann"`), []string{"ann"}, ""},
		{"cookie:u", head("cookie: u=ann%40example.org; U=x"), []string{"ann@example.org"}, ""},
		{"cookie:u", head("cookie: u=100%"), []string{"100%"}, ""},
		{"cookie:u", head("cookie: u=a=b+c"), []string{"a=b+c"}, ""},
		{"cookie:u", head("cookie: u"), nil, Absent},
		{"cookie:u", head("cookie: xu=1"), nil, Absent},
		{"answer:cookie:u", Exchange{Answer: Message{Header: fields{"set-cookie: u=ann; Path=/; u=no", "set-cookie: v=1"}}}, []string{"ann"}, ""},

		{"query:u", Exchange{Query: "a=1&u=J%C3%BCrgen+X&u=2"}, []string{"Jürgen X", "2"}, ""},
		{"query:user id", Exchange{Query: "user%20id=1"}, []string{"1"}, ""},
		{"query:u", Exchange{Query: "u=%zz"}, nil, Malformed},
		{"query:u", Exchange{Query: "u=%ff"}, nil, NotText},
		{"query:u", Exchange{Query: "u"}, nil, Absent},
		{"query:u", Exchange{Query: "uu=1&%zz=2"}, nil, Absent},

		{"path:/users/{key}", Exchange{Path: "/users/42"}, []string{"42"}, ""},
		{"path:/users/{key}", Exchange{Path: "/users/ann%2Fb/messages/7"}, []string{"ann/b"}, ""},
		{"path:/{}/u/{key}/x", Exchange{Path: "/v1/u/ann/x/y"}, []string{"ann"}, ""},
		{"path:/us%65rs/{key}", Exchange{Path: "/%75sers/ann"}, []string{"ann"}, ""},
		{"path:/users/{key}", Exchange{Path: "/users/"}, nil, Absent},
		{"path:/users/{key}", Exchange{Path: "/users"}, nil, Absent},
		{"path:/users/{key}/x", Exchange{Path: "/users/ann/y"}, nil, Absent},
		{"path:/users/{key}", Exchange{Path: "/users/%e"}, nil, Malformed},
		{"path:/users/{key}", Exchange{Path: "users/ann"}, nil, Absent},

		{"json:$.user.id", body(`{"user":{"id":42}}`), []string{"42"}, ""},
		{"json:$.user.id", body(` { "x" : [1,{"user":"no"}] , "user" : { "id" : "\u00e4\n\ud83d\ude00" } } `), []string{"ä\n😀"}, ""},
		{"json:$.user.id", body(`{"us\u0065r":{"id":"ann"}}`), []string{"ann"}, ""},
		{"json:$['user']['id']", body(`{"user":{"id":"ann","id":"bob"}}`), []string{"ann"}, ""},
		{`json:$["a.b"]`, body(`{"a.b":"ann"}`), []string{"ann"}, ""},
		{"json:$.to[*]", body(`{"to":["a",1,"b"]}`), []string{"a", "1", "b"}, ""},
		{"json:$.to[*].id", body(`{"to":[{"x":{},"id":"a"},{"id":"b"}]}`), []string{"a", "b"}, ""},
		{"json:$[*][*]", body(`[["a"],[],["b","c"]]`), []string{"a", "b", "c"}, ""},
		{"json:$.to[1]", body(`{"to":["a","b"]}`), []string{"b"}, ""},
		{"json:$.to[2]", body(`{"to":["a","b"]}`), nil, Absent},
		{"json:$.to[*]", body(`{"to":[]}`), nil, ""},
		{"json:$.to[*]", body(`{"to":null}`), nil, Absent},
		{"json:$.to[*]", body(`{"to":"ann"}`), nil, WrongType},
		{"json:$.to[*].id", body(`{"to":[{"id":"a"},{}]}`), []string{"a"}, Absent},
		{"json:$", body(`"ann"`), []string{"ann"}, ""},
		{"json:$.a", body(`{"a":true}`), nil, WrongType},
		{"json:$.a", body(`{"a":{}}`), nil, WrongType},
		{"json:$.a", body(`{"a":null}`), nil, Absent},
		{"json:$.a", body(`{"a":""}`), nil, Absent},
		{"json:$.a", body(`[1]`), nil, WrongType},
		{"json:$.a", body(``), nil, Absent},
		{"json:$.a", body(` `), nil, Absent},
		{"json:$.a", body(`a=1&b=2`), nil, WrongType},
		{"json:$.a", body(`{"b":1`), nil, Malformed},
		{"json:$.a", body(`{"a":"x`), nil, Malformed},
		{"json:$.a", body(`{"a" "x"}`), nil, Malformed},
		{"json:$.a", body(`{"a":tru}`), nil, Malformed},
		{"json:$.a", body(`{"a":"\x"}`), nil, Malformed},
		{"json:$.a", body(`{"a":"\ud800"}`), nil, NotText},
		{"json:$.a", body("{\"a\":\"\xff\"}"), nil, NotText},
		{"json:$.a", body(`{"a":"` + strings.Repeat("k", MaxKey) + `"}`), []string{strings.Repeat("k", MaxKey)}, ""},
		{"json:$.a", body(`{"a":"` + strings.Repeat("k", MaxKey+1) + `"}`), nil, TooLong},
		{"json:$.a", body(`{"b":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `,"a":1}`), []string{"1"}, ""},
		{"json:$.a", body(`{"b":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `,"a":1}`), nil, TooDeep},
		{"json:$.a", cut(`{"a":"ann","b":[`), []string{"ann"}, ""},
		{"json:$.a", cut(`{"b":"x","a":"an`), nil, Truncated},
		{"json:$.a", cut(`{"b":"x","a":12`), nil, Truncated},
		{"json:$.a", cut(``), nil, Truncated},
		{"json:$.to[*]", cut(`{"to":["a","b"],"x":`), []string{"a", "b"}, ""},
		{"json:$.to[*]", cut(`{"to":["a","b"`), []string{"a", "b"}, Truncated},
		{"json:$.a", body(`{"b":"` + strings.Repeat("x", maxScan) + `","a":1}`), nil, Truncated},
		{"json:$.a", Exchange{Request: Message{Header: fields{"content-encoding: gzip"}, Body: []byte("\x1f\x8b")}}, nil, Encoded},
		{"answer:json:$.id", Exchange{Answer: Message{Body: []byte(`{"id":7}`)}}, []string{"7"}, ""},

		{"jwt:sub", head("authorization: bearer " + jwt(`{"sub":"ann"}`)), []string{"ann"}, ""},
		{"jwt:https://a.b/user.id", head("authorization: Bearer " + jwt(`{"https://a.b/user.id":9007199254740993}`)), []string{"9007199254740993"}, ""},
		{"jwt:sub", head("authorization: Bearer " + jwt(`{"iss":"x"}`)), nil, Absent},
		{"jwt:sub", head("authorization: Bearer opaque"), nil, Malformed},
		{"jwt:sub", head("authorization: Bearer a.!.c"), nil, Malformed},
		{"jwt:sub", head("authorization: Bearer " + jwt(`{"sub":"ann"}`) + ".d.e"), nil, Malformed},
		{"jwt:sub", head("authorization: Bearer " + strings.Repeat("x", maxToken+1)), nil, TooLong},
		{"jwt:sub", head("authorization: Basic YTpi"), nil, Absent},
		{"jwt:sub", Exchange{}, nil, Absent},

		{"client-addr", Exchange{Client: netip.MustParseAddr("::ffff:10.0.0.1")}, []string{"ip:10.0.0.1"}, ""},
		{"client-addr", Exchange{Client: netip.MustParseAddr("fe80::1%eth0")}, []string{"ip:fe80::1"}, ""},
		{"client-addr", Exchange{}, nil, Absent},
	} {
		got, reason := mustExtract(t, nil, c.extractor)[0].Keys(nil, &c.x, 100)
		if !cmp.Equal(c.want, got) || reason != c.reason {
			t.Errorf("%s of %+.200v: got %.100q, %q; want %.100q, %q", c.extractor, c.x, got, reason, c.want, c.reason)
		}
	}
}

func TestNumbersAreKeysInShortestDecimal(t *testing.T) {
	for in, want := range map[string]string{
		"42": "42", "42.0": "42", "4.2e1": "42", "420E-1": "42", "0": "0", "-0": "0", "-0.0": "0", "0.50": "0.5", "-12.5e-3": "-0.0125",
		"1e3": "1000", "1e+0": "1", "12345678901234567890123": "12345678901234567890123", "1.5e1": "15", "100": "100", "0.0e5": "0",
	} {
		got, reason := decimal([]byte(in))
		if got != want || reason != "" {
			t.Errorf("%s: got %q, %q; want %q", in, got, reason, want)
		}
	}
	for in, want := range map[string]Reason{
		"": Malformed, "-": Malformed, "01": Malformed, "1.": Malformed, ".5": Malformed, "1e": Malformed, "1e5x": Malformed, "nul": Malformed, "0x1": Malformed,
		"1e99999": TooLong, "1e-99999999999": TooLong, "0." + strings.Repeat("1", MaxKey): TooLong,
	} {
		if got, reason := decimal([]byte(in)); reason != want {
			t.Errorf("%.20s: got %q, %q; want %q", in, got, reason, want)
		}
	}
}

func TestMalformedExtractorsSayWhatWasExpected(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "want header:NAME, cookie:NAME, query:NAME, path:/users/{key}, json:$.user.id or json:$.to[*], jwt:CLAIM, proto:FIELD.PATH or proto:1.3, client-addr",
		"x-user":               "want header:NAME, cookie:NAME",
		"headers:x":            "want header:NAME",
		"header:":              "want header:NAME",
		"header":               "want header:NAME",
		"header:x user":        "want a field name",
		"cookie:a=b":           "want a cookie name",
		"client-addr:1":        "want client-addr",
		"client-addr:":         "want client-addr",
		"answer:path:/a/{key}": "after answer: want header:NAME, cookie:NAME, json:$.user.id",
		"answer:answer:json:$": "want header:NAME, cookie:NAME, json:$.user.id",
		"header:x|upper":       "after | want lower",
		"path:users/{key}":     "one whole segment is {key}",
		"path:/users/{id}":     "one whole segment is {key}",
		"path:/{key}/{key}":    "one whole segment is {key}",
		"path:/users/x{key}":   "one whole segment is {key}",
		"path:/users/{key}/":   "one whole segment is {key}",
		"path:/%zz/{key}":      "one whole segment is {key}",
		"json:user.id":         "begins with $",
		"json:$user":           `at "user" want .NAME`,
		"json:$..id":           "want .NAME, ['NAME'], [N] or [*]",
		"json:$.to[x]":         "want .NAME, ['NAME'], [N] or [*]",
		"json:$.to[1":          "want .NAME, ['NAME'], [N] or [*]",
		"json:$.to['a]":        "want .NAME, ['NAME'], [N] or [*]",
		"json:$" + strings.Repeat("[0]", MaxDepth+1): "at most 64 steps",
		"proto:user.id": "want descriptors, or field numbers",
		"proto:1.x":     "separated by dots",
		"proto:a..b":    "separated by dots",
		"proto:0":       "separated by dots",
	} {
		_, err := ParseExtractor(text, nil)
		if err == nil {
			t.Errorf("%q: got no error", text)
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
			t.Errorf("%q: got %q, want it to name the text and to say %q", text, err, want)
		}
	}
}

// TestHostileBodiesTakeLinearTime reads up to a mebibyte of what makes scanners slow.
// A quadratic one takes over a minute.
func TestHostileBodiesTakeLinearTime(t *testing.T) {
	es := mustExtract(t, nil, "json:$.a", "json:$.a[*]", "json:$[*].a", "proto:1", "proto:1.1.1.1", "query:a", "cookie:a", "path:/{}/{key}")
	size := maxScan - 16 // so that the closing quote is still read
	if testing.Short() {
		size /= 2
	}
	begin := time.Now()
	for _, unit := range []string{`\\`, `\"`, `"`, `"\u0061":`, `[`, `{"a":`, `{"b":1},`, `1,`, `"",`, "\x0a\xff\xff\x03", "\x0a\x02", "\x0b", "a=&", "%61=%62;", "/%61"} {
		for _, open := range []string{"", `"`, `{"`, `{"a":"`, `{"a":[`, "[", "\x00\x00\x0f\xff\xff"} {
			hostile := open + strings.Repeat(unit, size/len(unit)) + `"`
			x := Exchange{Path: hostile, Query: hostile, Request: Message{Body: []byte(hostile), Header: fields{"cookie: " + hostile}}}
			for i := range es {
				es[i].Keys(nil, &x, MaxTouched)
			}
		}
	}
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
}

// mailDescriptors describes a service with one method of each kind.
func mailDescriptors(t testing.TB) *Descriptors {
	t.Helper()
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, repeated bool, message string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: &kind, Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
		if repeated {
			f.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
		}
		if message != "" {
			f.TypeName = &message
		}
		return f
	}
	type ft = descriptorpb.FieldDescriptorProto_Type
	const (
		text, num, sint, fixed, double, boolean, msg ft = 9, 3, 18, 7, 1, 8, 11
	)
	readOnly := descriptorpb.MethodOptions_NO_SIDE_EFFECTS
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{{
		Name: proto.String("mail.proto"), Package: proto.String("mail.v1"), Syntax: proto.String("proto3"),
		Dependency: []string{"not/in/the/set.proto"},
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: proto.String("User"), Field: []*descriptorpb.FieldDescriptorProto{field("id", 3, num, false, ""), field("delta", 4, sint, false, "")}},
			{Name: proto.String("SendRequest"), Field: []*descriptorpb.FieldDescriptorProto{
				field("from", 1, msg, false, ".mail.v1.User"), field("to", 2, text, true, ""), field("groups", 5, fixed, true, ""),
				field("score", 6, double, false, ""), field("urgent", 7, boolean, false, ""),
			}},
			{Name: proto.String("SendReply"), Field: []*descriptorpb.FieldDescriptorProto{field("sent_to", 9, msg, true, ".mail.v1.User")}},
		},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Mail"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Send"), InputType: proto.String(".mail.v1.SendRequest"), OutputType: proto.String(".mail.v1.SendReply")},
			{Name: proto.String("Who"), InputType: proto.String(".mail.v1.User"), OutputType: proto.String(".mail.v1.User"),
				Options: &descriptorpb.MethodOptions{IdempotencyLevel: &readOnly}},
		}}},
	}}}
	b, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDescriptors(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tagged(n protowire.Number, w protowire.Type) []byte { return protowire.AppendTag(nil, n, w) }

func TestProtoKeys(t *testing.T) {
	d := mailDescriptors(t)
	user := protowire.AppendVarint(tagged(3, protowire.VarintType), math.MaxUint64-4) // -5
	user = protowire.AppendVarint(append(user, tagged(4, protowire.VarintType)...), protowire.EncodeZigZag(-7))
	var send []byte
	send = protowire.AppendBytes(append(send, tagged(1, protowire.BytesType)...), user)
	send = protowire.AppendString(append(send, tagged(2, protowire.BytesType)...), "bob")
	send = protowire.AppendString(append(send, tagged(2, protowire.BytesType)...), "éve")
	packed := protowire.AppendFixed32(protowire.AppendFixed32(nil, 70), 4_000_000_000)
	send = protowire.AppendBytes(append(send, tagged(5, protowire.BytesType)...), packed)
	send = protowire.AppendFixed64(append(send, tagged(6, protowire.Fixed64Type)...), math.Float64bits(42))
	whole := frame(send)

	const path = "/mail.v1.Mail/Send"
	for _, c := range []struct {
		extractor string
		body      []byte
		cut       bool
		want      []string
		reason    Reason
	}{
		{extractor: "proto:from.id", body: whole, want: []string{"-5"}},
		{extractor: "proto:from.delta", body: whole, want: []string{"-7"}},
		{extractor: "proto:to", body: whole, want: []string{"bob", "éve"}},
		{extractor: "proto:groups", body: whole, want: []string{"70", "4000000000"}},
		{extractor: "proto:score", body: whole, want: []string{"42"}},
		{extractor: "proto:1.3", body: whole, want: []string{"-5"}},
		{extractor: "proto:2", body: whole, want: []string{"bob", "éve"}},
		{extractor: "proto:4", body: whole, reason: Absent},
		{extractor: "proto:1.9", body: whole, reason: Absent},
		{extractor: "proto:2.1", body: frame(protowire.AppendVarint(tagged(2, protowire.VarintType), 1)), reason: WrongType},
		{extractor: "proto:2", body: append(bytes.Clone(whole), frame(send)...), want: []string{"bob", "éve"}}, // the first message only
		{extractor: "proto:2", body: whole[:len(whole)-1], cut: true, want: []string{"bob", "éve"}, reason: Truncated},
		{extractor: "proto:1.3", body: whole[:9], cut: true, reason: Truncated},
		{extractor: "proto:1.3", body: whole[:len(whole)-1], want: []string{"-5"}, reason: Malformed},
		{extractor: "proto:2", body: whole[:3], cut: true, reason: Truncated},
		{extractor: "proto:2", body: whole[:3], reason: Malformed},
		{extractor: "proto:2", body: nil, reason: Absent},
		{extractor: "proto:2", body: frame(nil), reason: Absent},
		{extractor: "proto:2", body: append([]byte{1}, whole[1:]...), reason: Encoded},
		{extractor: "proto:2", body: []byte(`{"to":1}`), reason: Malformed},
		{extractor: "proto:2", body: frame([]byte{0xff}), reason: Malformed},
		{extractor: "proto:to", body: frame(protowire.AppendString(tagged(2, protowire.BytesType), "\xff")), reason: NotText},
		{extractor: "answer:proto:sent_to.id", body: frame(protowire.AppendBytes(tagged(9, protowire.BytesType), user)), want: []string{"-5"}},
	} {
		x := Exchange{Method: "POST", Path: path, Request: Message{Body: c.body, Truncated: c.cut}}
		if strings.HasPrefix(c.extractor, "answer:") {
			x.Request, x.Answer = x.Answer, x.Request
		}
		got, reason := mustExtract(t, d, c.extractor)[0].Keys(nil, &x, 100)
		if !cmp.Equal(c.want, got) || reason != c.reason {
			t.Errorf("%s of %q: got %q, %q; want %q, %q", c.extractor, c.body, got, reason, c.want, c.reason)
		}
	}
	other := Exchange{Path: "/mail.v1.Mail/Who", Request: Message{Body: whole}}
	if got, reason := mustExtract(t, d, "proto:to")[0].Keys(nil, &other, 9); got != nil || reason != Absent {
		t.Errorf("a method without the field: got %q, %q, want nothing, %q", got, reason, Absent)
	}
	for _, text := range []string{"proto:nobody", "proto:from", "proto:urgent", "proto:to.x", "answer:proto:to"} {
		if _, err := ParseExtractor(text, d); err == nil || !strings.Contains(err.Error(), "want a text or number field") {
			t.Errorf("%s: got %v, want an error that says what field was wanted", text, err)
		}
	}
	if _, err := ParseDescriptors([]byte("no descriptors")); err == nil || !strings.Contains(err.Error(), "FileDescriptorSet") {
		t.Errorf("got %v, want an error that names a FileDescriptorSet", err)
	}
}

// FuzzExtractors reads every kind of extractor from hostile messages: whatever
// comes out is a key by the rules, and reading twice gives the same.
func FuzzExtractors(f *testing.F) {
	d := mailDescriptors(f)
	var es []Extractor
	for _, text := range []string{
		"header:x", "cookie:x", "answer:cookie:x", "query:x", "path:/{}/{key}", "json:$.a.b", "json:$.to[*]", "json:$[1][*].x", "jwt:sub",
		"proto:1.3", "proto:2", "proto:to", "proto:from.id", "proto:groups", "client-addr", "header:x|lower",
	} {
		es = append(es, mustExtract(f, d, text)...)
	}
	f.Add("/a/b%20c", "x=1&x=%41", "x=1; y=2", []byte(`{"a":{"b":"c"},"to":[1,"2"]}`), false)
	f.Add("/a/b", "x=%", "Bearer "+jwt(`{"sub":"a"}`), frame([]byte{0x12, 1, 'a', 0x0a, 2, 0x18, 5}), true)
	f.Add("", ";&=", "\xff", []byte(`[0,[{"x":"\ud800"},{"x":-0.0e5`), true)
	f.Fuzz(func(t *testing.T, path, query, header string, body []byte, cut bool) {
		h := fields{"x: " + header, "cookie: " + header, "set-cookie: " + header, "authorization: " + header}
		x := Exchange{Method: "POST", Path: path, Query: query, Request: Message{Header: h, Body: body, Truncated: cut}, Answer: Message{Header: h, Body: body, Truncated: cut}}
		if strings.HasPrefix(query, "p") {
			x.Path = "/mail.v1.Mail/Send"
		}
		for i := range es {
			keys, reason := es[i].Keys(nil, &x, 50)
			again, reason2 := es[i].Keys(nil, &x, 50)
			if !cmp.Equal(keys, again) || reason != reason2 {
				t.Fatalf("%s: got %q, %q, then %q, %q", es[i].String(), keys, reason, again, reason2)
			}
			first, _ := es[i].Keys(nil, &x, 1)
			if len(first) != min(len(keys), 1) || len(first) == 1 && first[0] != keys[0] {
				t.Fatalf("%s: got %q with a limit of one and %q without", es[i].String(), first, keys)
			}
			for _, k := range keys {
				if k == "" || len(k) > MaxKey+utf8Growth || strings.ToValidUTF8(k, "") != k {
					t.Fatalf("%s: %q is no key", es[i].String(), k)
				}
			}
		}
	})
}

// utf8Growth allows for letters whose lower case is longer.
const utf8Growth = MaxKey / 2

// FuzzJSON holds the scanner against encoding/json: on every valid text without
// a name that occurs twice, they find the same.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":{"b":"c"}}`, `{"a":[1,2.50,"x\u0041"]}`, `{"a":{"b":1e3},"x":[[],{}]}`, `{"a":[{"b":"p"},{"b":"q"},3]}`, `{"to":[1`, `"\ud800"`, `{"a":{"b":"\\\""}}`} {
		f.Add([]byte(s))
	}
	paths := []string{"json:$.a.b", "json:$.a[*]", "json:$.a[*].b", "json:$.a[1]", "json:$[*]"}
	es := mustExtract(f, nil, paths...)
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) || repeats(body) {
			return
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		var tree any
		if err := dec.Decode(&tree); err != nil {
			t.Skip("valid, and too much for encoding/json: ", err)
		}
		x := Exchange{Request: Message{Body: body}}
		for i := range es {
			got, reason := es[i].Keys(nil, &x, 1000)
			if reason == TooDeep || reason == TooLong || reason == NotText {
				continue
			}
			var want []string
			walk(tree, es[i].steps, &want)
			if !cmp.Equal(want, got) {
				t.Fatalf("%s of %q: got %q (%s), want %q", paths[i], body, got, reason, want)
			}
			if reason == Malformed || reason == Truncated {
				t.Fatalf("%s of %q, which is valid: %q", paths[i], body, reason)
			}
		}
	})
}

// walk is the plain way to follow a path: through a tree.
func walk(v any, steps []step, out *[]string) {
	if len(steps) == 0 {
		switch v := v.(type) {
		case string:
			if v != "" {
				*out = append(*out, v)
			}
		case json.Number:
			text, _ := decimal([]byte(v))
			*out = append(*out, text)
		}
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if m, ok := v[steps[0].name]; ok && steps[0].kind == stepMember {
			walk(m, steps[1:], out)
		}
	case []any:
		for i, e := range v {
			if steps[0].kind == stepAll || steps[0].kind == stepIndex && steps[0].index == i {
				walk(e, steps[1:], out)
			}
		}
	}
}

// repeats reports whether some object names a member twice.
func repeats(body []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(body))
	var open []map[string]bool // nil for an array
	name := false
	for {
		tok, err := dec.Token()
		if err != nil {
			return false
		}
		top := len(open) - 1
		if s, ok := tok.(string); ok && name {
			if open[top][s] {
				return true
			}
			open[top][s] = true
			name = false
			continue
		}
		switch tok {
		case json.Delim('{'):
			open = append(open, map[string]bool{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
		}
		name = len(open) > 0 && open[len(open)-1] != nil
	}
}

// FuzzGrammar parses hostile extractors: an error says what was wanted, and
// what is accepted reads without a panic.
func FuzzGrammar(f *testing.F) {
	for _, s := range []string{"header:x", "answer:json:$['a'][0][*].b|lower", "path:/a/{}/{key}", "proto:1.2.3", "proto:from.id", "client-addr", "jwt:a:b", "json:$[", "|lower", "answer:"} {
		f.Add(s)
	}
	d := mailDescriptors(f)
	f.Fuzz(func(t *testing.T, text string) {
		e, err := ParseExtractor(text, d)
		if err != nil {
			if !strings.Contains(err.Error(), "want") {
				t.Fatalf("%q: %q does not say what was expected", text, err)
			}
			return
		}
		if e.String() != text {
			t.Fatalf("got %q back from %q", e.String(), text)
		}
		e.Keys(nil, &Exchange{Path: "/a/b", Query: "a=1", Request: Message{Body: []byte(`{"a":[1]}`)}}, 10)
	})
}
