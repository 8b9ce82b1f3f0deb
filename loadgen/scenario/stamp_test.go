package scenario

import (
	"strings"
	"testing"
	"time"

	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/population"
	"darklaunch/loadgen/session"
)

// TestStampedTextsAreAsLongAsDrawn stamps texts of all lengths and reads them back.
func TestStampedTextsAreAsLongAsDrawn(t *testing.T) {
	s := mustLoad(t, shop)
	r := &run{stamp: s.stampOf(7)}
	other := &run{stamp: s.stampOf(8)}
	e := &env{s: s, run: r, rand: draw.New(1, draw.Content, 0, 0), due: 90 * time.Second, v: &visit{Session: session.Session{User: 12345}}}
	stamped := 0
	for n := range 60 {
		e.draft.Body = n
		text := string(appendStamped([]byte("x"), e)[1:])
		if len(text) != n {
			t.Fatalf("got %q, want %d bytes", text, n)
		}
		user, at, ok := r.readStamp(text)
		if ok {
			stamped++
		}
		if ok && (user != 12345 || at != e.due) || ok != strings.HasPrefix(text, r.stamp) {
			t.Errorf("%q: got %v, %v, %v", text, user, at, ok)
		}
		if _, _, ok := other.readStamp(text); ok {
			t.Errorf("%q is of another run, and was read", text)
		}
	}
	if stamped < 30 {
		t.Errorf("got %d texts with a stamp, want all that have room", stamped)
	}
}

func FuzzReadStamp(f *testing.F) {
	r := &run{stamp: "~abc."}
	for _, text := range []string{"~abc.1.2 hello", "~abc.zz.zzzzzzzzzzzzzzzzzz ", "~abc..1 ", "~abc.1.-1 ", "~abc.1.2", "", "hello"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, at, ok := r.readStamp(text)
		if at < 0 && ok || ok && !strings.HasPrefix(text, r.stamp) {
			t.Errorf("%q: got %v, %v", text, at, ok)
		}
	})
}

// TestStreamsAreHeldByAShareOfUsers draws the first of three streams for a quarter.
func TestStreamsAreHeldByAShareOfUsers(t *testing.T) {
	s := &Scenario{streams: []stream{{op: 0, share: 0.25}, {op: 1, share: 0}, {op: 2, share: 1}}}
	v := &visits{s: s, run: &run{Run: Run{Seed: 1}}}
	holds := 0
	for u := range 10000 {
		x := &visit{Session: session.Session{User: population.User(u)}}
		first := v.stream(x, 0)
		if first == 0 {
			holds++
		}
		if first != 0 && first != 2 || v.stream(x, 1) != 2 || v.stream(x, 3) != 3 {
			t.Fatalf("user %d: got stream %d first", u, first)
		}
	}
	if holds < 2350 || holds > 2650 {
		t.Errorf("got %d of 10000 users, want a quarter", holds)
	}
}
