package verdict

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEntry(t *testing.T) {
	for _, want := range []entry{
		{kind: window, at: time.Unix(0, 1_700_000_000_123_456_789), who: "m1", sequence: 1 << 40, body: []byte("body")},
		{kind: closed, at: time.Unix(0, 0), who: "", sequence: 0, body: []byte{}},
	} {
		got, err := parseEntry(want.append([]byte("x"))[1:])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func FuzzEntry(f *testing.F) {
	e := entry{kind: pair, at: time.Unix(0, 7), who: "m", sequence: 3, body: []byte(`{"Pair":"","Skip":"tainted"}`)}
	f.Add(e.append(nil))
	f.Add([]byte("w12345678\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := parseEntry(data)
		if err != nil {
			return
		}
		again, err := parseEntry(e.append(nil))
		if err != nil || again.who != e.who || again.sequence != e.sequence || !again.at.Equal(e.at) || !bytes.Equal(again.body, e.body) {
			t.Errorf("got %+v, %v, want %+v", again, err, e)
		}
		_, _ = parseCompared(e.body) // which must not panic
	})
}
