package record

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

var key = []byte("0123456789abcdef")

func policy(t testing.TB, allow ...string) *Policy {
	t.Helper()
	p, err := New(Config{Key: key, Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// hmacs are what a test does not spell out.
var hmacs = regexp.MustCompile(`:[0-9a-f]{16}\b`)

func TestBody(t *testing.T) {
	message := func(fields ...any) (b []byte) {
		for i := 0; i < len(fields); i += 2 {
			n := protowire.Number(fields[i].(int))
			switch v := fields[i+1].(type) {
			case int:
				b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
			case string:
				b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
			case []byte:
				b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
			}
		}
		return b
	}
	grpc := func(m []byte) string { return string(append([]byte{0, 0, 0, 0, byte(len(m))}, m...)) }
	for _, tt := range []struct {
		name, contentType, content string
		allow                      []string
		format                     Format
		want                       string
	}{
		{name: "JSON, nothing allowed", contentType: "application/json; charset=utf-8",
			content: `{"id":"9d3f1c1e-5f0a-4e7e-8d6b-0a1b2c3d4e5f","n":-12,"f":1.5,"ok":true,"no":null,"to":["ann@example.org","bob"],"at":"2026-11-24T19:07:04Z","e":"","u":"https://a/b","h":"0123456789abcdef","s":"some text"}`,
			format:  JSON, want: `{"id":"~s:36:uuid","n":"~n:3:int","f":"~n:3:decimal","ok":"~b:4:bool","no":null,"to":["~s:15:email","~s:3:word"],"at":"~s:20:time","e":"~s:0:empty","u":"~s:11:url","h":"~s:16:hex","s":"~s:9:text"}`},
		{name: "JSON, some allowed", contentType: "application/vnd.api+json", allow: []string{"json:$.a.b", "json:$.list[*].x", "json:$['odd key'][0]"},
			content: `{"a":{"b":1e3,"c":"no"},"list":[{"x":"yes"},{"x":false,"y":1}],"odd key":["shown"],"other":{"b":2}}`,
			format:  JSON, want: `{"a":{"b":1e3,"c":"~s:2:word"},"list":[{"x":"yes"},{"x":false,"y":"~n:1:int"}],"odd key":["shown"],"other":{"b":"~n:1:int"}}`},
		{name: "names that are data", contentType: "application/json", content: `{"ann@example.org":1,"user4711":2,"thread_2":3}`,
			format: JSON, want: `{"~s:15:email":"~n:1:int","~s:8:word":"~n:1:int","thread_2":"~n:1:int"}`},
		{name: "JSON, twice", contentType: "application/json", content: `{} {}`, want: "~x:5:text"},
		{name: "JSON, cut", contentType: "application/json", content: `{"a":`, want: "~x:5:text"},
		{name: "JSON, deep", contentType: "application/json", content: strings.Repeat("[", 100) + strings.Repeat("]", 100), want: "~x:200:text"},
		{name: "form", contentType: "application/x-www-form-urlencoded", allow: []string{"form:b"}, content: "b=2&a=1&b=x+y&4711=z",
			format: Form, want: `{"~s:4:int":["~s:1:word"],"a":["~s:1:int"],"b":["2","x y"]}`},
		{name: "gRPC, nothing allowed", contentType: "application/grpc", content: grpc(message(1, "ann", 2, 7, 1, "bob", 3, []byte{0xff})),
			format: Proto, want: `[{"1":["~s:3:word","~s:3:word"],"2":["~n:1:int"],"3":["~x:1:binary"]}]`},
		{name: "gRPC, some allowed", contentType: "application/grpc+proto", allow: []string{"proto:2", "proto:3.1"}, content: grpc(message(1, "ann", 2, 7, 3, message(1, "shown", 2, "not"))) + grpc(nil),
			format: Proto, want: `[{"1":["~s:3:word"],"2":[7],"3":[{"1":["shown"],"2":["~s:3:word"]}]},{}]`},
		{name: "gRPC, compressed", contentType: "application/grpc", content: "\x01\x00\x00\x00\x01x", want: "~x:6:text"},
		{name: "gRPC, cut", contentType: "application/grpc", content: "\x00\x00\x00\x00\x05x", want: "~x:6:text"},
		{name: "other", contentType: "multipart/form-data; boundary=x", content: "--x", want: "~x:3:word"},
		{name: "none", content: "", want: "~x:0:empty"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			format, got := policy(t, tt.allow...).Body(tt.contentType, "", []byte(tt.content), false)
			if text := hmacs.ReplaceAllString(string(got), ""); format != tt.format || text != tt.want {
				t.Errorf("got %d %s\nwant %d %s", format, text, tt.format, tt.want)
			}
			if format != Opaque && !json.Valid(got) {
				t.Errorf("got %s, want JSON", got)
			}
		})
	}
	if f, _ := policy(t).Body("application/json", "gzip", []byte("{}"), false); f != Opaque {
		t.Errorf("got format %d of a compressed body, want opaque", f)
	}
	if f, _ := policy(t).Body("application/json", "", []byte("{}"), true); f != Opaque {
		t.Errorf("got format %d of a body that was cut, want opaque", f)
	}
}

// TestDigestsCompare finds equal values equal, under one key only.
func TestDigestsCompare(t *testing.T) {
	p := policy(t)
	a, _ := p.Header([]byte("X-A"), []byte("v"))
	b, _ := p.Header([]byte("X-B"), []byte("v"))
	c, _ := p.Header([]byte("X-A"), []byte("w"))
	other, err := New(Config{Key: []byte("another key of 16")})
	if err != nil {
		t.Fatal(err)
	}
	d, _ := other.Header([]byte("X-A"), []byte("v"))
	if a != b || a == c || a == d {
		t.Errorf("got %s, %s, %s and %s; want the first two alike and no others", a, b, c, d)
	}
}

func TestHeader(t *testing.T) {
	p := policy(t, "header:X-Shown")
	for _, tt := range []struct{ name, value, want string }{
		{"x-shown", "yes", "yes"}, {"X-Other", "no", "~s:2:word"}, {"Authorization", "Bearer x", "~s:8:text"},
		{"Content-Type", "text/html; charset=utf-8", "text/html; charset=utf-8"}, {"content-type", "multipart/form-data; boundary=secret", "~s:36:text"},
		{"grpc-status", "5", "5"}, {"grpc-message", "no such user ann", "~s:16:text"},
	} {
		got, digest := p.Header([]byte(tt.name), []byte(tt.value))
		if got = hmacs.ReplaceAllString(got, ""); got != tt.want || digest != strings.HasPrefix(tt.want, "~") {
			t.Errorf("%s: got %s, digest %v; want %s", tt.name, got, digest, tt.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Key: key[:15]}, "record: want a key of at least 16 bytes"},
		{Config{Key: key, Allow: []string{"header:Cookie"}}, `record: allow "header:Cookie": a record never shows credentials`},
		{Config{Key: key, Allow: []string{"cookie:a"}}, `record: allow "cookie:a": want header:NAME, json:$.PATH, form:NAME or proto:1.3`},
		{Config{Key: key, Allow: []string{"form:"}}, `record: allow "form:": want something after the colon`},
		{Config{Key: key, Allow: []string{"proto:a.b"}}, `record: allow "proto:a.b": want field numbers, as in proto:1.3`},
	} {
		if _, err := New(tt.cfg); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	for _, path := range []string{"json:a", "json:$.a.*", "json:$['*']"} {
		if _, err := New(Config{Key: key, Allow: []string{path}}); err == nil {
			t.Errorf("%s: got no error", path)
		}
	}
}

func TestCheck(t *testing.T) {
	p := policy(t, "header:X-A", "json:$.a[*].b", "form:f", "proto:1.2")
	for _, field := range []string{"header:x-a", "answer:header:X-A", "json:$.a[*].b", "answer:json:$.a[3].b", "form:f", "proto:1.2"} {
		if err := p.Check("r", field); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
	for _, field := range []string{"header:x-b", "json:$.a", "json:$.a[*].c", "json:$.a.b", "form:g", "proto:1", "proto:1.2.3"} {
		want := fmt.Sprintf("rule %q reads %q, which the record does not show: allow it, or drop the rule", "mask ids", field)
		if err := p.Check("mask ids", field); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestCanaries puts 50 secrets wherever an exchange has a place for them, and
// looks for them in what may be shown, as they are and encoded. To show that the
// search finds them, it first runs over what went in.
func TestCanaries(t *testing.T) {
	p := policy(t, "header:X-Shown", "json:$.shown", "form:shown", "proto:1")
	var in, out bytes.Buffer
	field := func(name, value string) {
		fmt.Fprintf(&in, "%s: %s\n", name, value)
		shown, _ := p.Header([]byte(name), []byte(value))
		fmt.Fprintf(&out, "%s: %s\n", name, shown)
	}
	body := func(contentType, content string) {
		in.WriteString(content)
		_, shown := p.Body(contentType, "", []byte(content), false)
		out.Write(shown)
	}
	var secrets []string
	secret := func() string {
		s := fmt.Sprintf("canary-%02d-s3cr3t", len(secrets))
		secrets = append(secrets, s)
		return s
	}
	for _, name := range []string{"Authorization", "Cookie", "Set-Cookie", "X-Api-Key", "X-Auth-Token", "Referer", "grpc-message", "x-user", "Location", "ETag"} {
		field(name, secret())
	}
	field("Content-Type", "multipart/form-data; boundary="+secret())
	field("Content-Type", "text/html; a="+secret())
	field("Content-Disposition", `form-data; name="`+secret()+`"`)
	for range 5 {
		body("application/json", fmt.Sprintf(`{"a":%q,"list":[%q,{"deep":{"er":%q}}],%q:1,"shown":"yes"}`, secret(), secret(), secret(), secret()))
	}
	body("application/json", `{"esc":"`+strings.ReplaceAll(secret(), "c", `\u0063`)+`"}`)
	body("application/json", `{"cut":"`+secret())
	for range 2 {
		body("application/x-www-form-urlencoded", url.Values{"a": {secret()}, secret(): {"1"}, "shown": {"yes"}}.Encode())
	}
	body("multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\""+secret()+"\"\r\n\r\n"+secret()+"\r\n--b--")
	body("message/rfc822", "Subject: "+secret()+"\r\n\r\n"+secret())
	body("text/plain", secret())
	for range 2 {
		m := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), secret())
		m = protowire.AppendBytes(protowire.AppendTag(m, 3, protowire.BytesType), protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), secret()))
		body("application/grpc", string(append([]byte{0, 0, 0, 0, byte(len(m))}, m...)))
	}
	for len(secrets) < 50 {
		field("X-More", secret())
	}
	find := func(text, s string) bool {
		encoded := base64.StdEncoding.EncodeToString([]byte(s))
		return strings.Contains(text, s) || strings.Contains(text, encoded[:len(encoded)-4]) || strings.Contains(text, fmt.Sprintf("%x", s))
	}
	found := 0
	for _, s := range secrets {
		if find(in.String(), s) || find(strings.ReplaceAll(in.String(), `\u0063`, "c"), s) {
			found++
		}
		if find(out.String(), s) {
			t.Errorf("%s is shown", s)
		}
	}
	if found != len(secrets) || len(secrets) != 50 {
		t.Errorf("%d of %d secrets went in, want all 50", found, len(secrets))
	}
	if n := strings.Count(out.String(), "yes"); n != 7 {
		t.Errorf("%d allowed values are shown, want 7", n)
	}
}

func FuzzBody(f *testing.F) {
	f.Add("application/json", []byte(`{"a":[1,"b",{"c":null}]}`))
	f.Add("application/grpc", []byte("\x00\x00\x00\x00\x05\x0a\x03ann"))
	f.Add("application/x-www-form-urlencoded", []byte("a=b&c"))
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		format, out := policy(t, "json:$.a[*]", "proto:1.1").Body(contentType, "", content, false)
		if format != Opaque && !json.Valid(out) {
			t.Errorf("got %q, want JSON", out)
		}
		again, same := policy(t, "json:$.a[*]", "proto:1.1").Body(contentType, "", content, false)
		if diff := cmp.Diff(string(out), string(same)); diff != "" || again != format {
			t.Errorf("not the same twice: %s", diff)
		}
	})
}
