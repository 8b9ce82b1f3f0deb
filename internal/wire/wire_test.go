package wire

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type kind uint8

type sample struct {
	Kind  kind
	U     uint64
	I     int64
	B     bool
	S     string
	Fixed [3]byte
	List  []string
}

func (s *sample) walk(c *Coder) {
	Uint(c, &s.Kind)
	Uint(c, &s.U)
	Int(c, &s.I)
	Bool(c, &s.B)
	String(c, &s.S)
	Bytes(c, s.Fixed[:])
	Strings(c, &s.List)
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []sample{
		{},
		{Kind: 255, U: math.MaxUint64, I: math.MinInt64, B: true, S: "\x00\xffé", Fixed: [3]byte{1, 2, 3}, List: []string{"", "a"}},
		{I: math.MaxInt64},
		{I: -1, U: 127},
	} {
		w := Writer([]byte("before"))
		want.walk(w)
		b, err := w.Close()
		if err != nil || !bytes.HasPrefix(b, []byte("before")) {
			t.Fatalf("write: %q, %v", b, err)
		}
		var got sample
		r := Reader(b[6:])
		got.walk(r)
		if _, err := r.Close(); err != nil {
			t.Errorf("read: %v", err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		for n := range len(b) - 6 {
			r := Reader(b[6 : 6+n])
			new(sample).walk(r)
			if _, err := r.Close(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("cut to %d bytes: got %v, want ErrCorrupt", n, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for name, b := range map[string]string{
		"left over":              "\x01\x00",
		"longer than need be":    "\x81\x00",
		"too large for its type": "\x80\x02",
		"too large at all":       "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
	} {
		r := Reader([]byte(b))
		var k kind
		Uint(r, &k)
		if _, err := r.Close(); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
	r := Reader([]byte{2})
	var b bool
	if Bool(r, &b); r.Err() == nil {
		t.Error("a truth value of 2 is taken")
	}
	r = Reader([]byte("\xff\xff\xff\xff\x0f1234"))
	var list []string
	if Strings(r, &list); r.Err() == nil || list != nil {
		t.Errorf("a list longer than the record: %v, %v", list, r.Err())
	}
}

func FuzzReader(f *testing.F) {
	w := Writer(nil)
	(&sample{Kind: 3, U: 300, I: -300, B: true, S: "text", List: []string{"a", "b"}}).walk(w)
	b, _ := w.Close()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		r := Reader(b)
		s.walk(r)
		if _, err := r.Close(); err != nil {
			return
		}
		w := Writer(nil)
		s.walk(w)
		if again, _ := w.Close(); !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is written %x", b, s, again)
		}
	})
}
