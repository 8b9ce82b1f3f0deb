package digest

import (
	"bytes"
	"testing"
)

var hash = []byte{0, 1, 2, 3, 4, 5, 0xfe, 0xff, 8, 9}

func TestOf(t *testing.T) {
	for _, tt := range []struct {
		kind        byte
		value, want string
	}{
		{Text, "", "~s:0:empty:000102030405feff"},
		{Text, "9d3f1c1e-5f0a-4e7e-8d6b-0a1b2c3d4e5f", "~s:36:uuid:000102030405feff"},
		{Text, "-12", "~s:3:int:000102030405feff"},
		{Number, "1.5", "~n:3:decimal:000102030405feff"},
		{Boolean, "true", "~b:4:bool:000102030405feff"},
		{Bytes, "\xff", "~x:1:binary:000102030405feff"},
		{Text, "0123456789abcdef", "~s:16:hex:000102030405feff"},
		{Text, "2026-11-24T19:07:04Z", "~s:20:time:000102030405feff"},
		{Text, "ann@example.org", "~s:15:email:000102030405feff"},
		{Text, "https://a/b", "~s:11:url:000102030405feff"},
		{Text, "a_b-c.d", "~s:7:word:000102030405feff"},
		{Text, "a b", "~s:3:text:000102030405feff"},
	} {
		d := Of(tt.kind, []byte(tt.value), hash)
		if got := d.String(); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.value, got, tt.want)
		}
		if back, ok := Parse(tt.want); !ok || back != d {
			t.Errorf("parse %s: got %+v, %v, want %+v", tt.want, back, ok, d)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "~", "~s", "~s:1:word", "~q:1:word:0001020304050607", "~s:-1:word:0001020304050607", "~s:1:WORD:0001020304050607",
		"~s:1::0001020304050607", "~s:1:word:000102030405060", "~s:1:word:00010203040506zz", "~sx:1:word:0001020304050607", "s:1:word:0001020304050607",
		"~s:1:word:0001020304050607:", "~s:99999999999999999999:word:0001020304050607",
	} {
		if d, ok := Parse(text); ok {
			t.Errorf("%q: got %+v, want no digest", text, d)
		}
	}
}

func TestChosen(t *testing.T) {
	for name, want := range map[string]bool{
		"id": true, "thread_2": true, "Content-Type": true, "_x": true,
		"": false, "user4711": false, "4a": false, "ann@example.org": false, "-x": false, "naïve": false, string(bytes.Repeat([]byte("a"), 33)): false,
	} {
		if got := Chosen(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
