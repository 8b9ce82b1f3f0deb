package population

import (
	"bytes"
	"compress/flate"
	"testing"

	"darklaunch/loadgen/draw"
)

// deflated returns how many times smaller flate makes b.
func deflated(t *testing.T, b []byte) float64 {
	t.Helper()
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return float64(len(b)) / float64(out.Len())
}

func TestTextCompressesLikeText(t *testing.T) {
	r := draw.New(1, draw.Steps, 0, 0)
	// One long mail, and a block of many chat messages as a store would see it.
	mail := AppendText(nil, 256<<10, r.Rand)
	var chat []byte
	for len(chat) < 256<<10 {
		chat = AppendText(chat, int(ChatBody().Draw(r.Rand)), r.Rand)
	}
	for name, body := range map[string][]byte{"mail": mail, "chat": chat} {
		if got := deflated(t, body); got < 2.5 || got > 3 {
			t.Errorf("%s: flate makes it %.2f times smaller, want 2.5 to 3", name, got)
		}
	}
	// What the bounds must keep out.
	if got := deflated(t, bytes.Repeat([]byte("lorem ipsum "), 20<<10)); got < 3 {
		t.Errorf("a repeated phrase: %.2f, want above 3", got)
	}
	noise := make([]byte, 256<<10)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	if got := deflated(t, noise); got > 2.5 {
		t.Errorf("noise: %.2f, want under 2.5", got)
	}
}

func TestTextHasTheLengthAskedFor(t *testing.T) {
	r := draw.New(1, draw.Steps, 0, 0)
	for n := range 300 {
		got := AppendText([]byte("x"), n, r.Rand)
		if len(got) != n+1 || got[0] != 'x' {
			t.Fatalf("AppendText of %d after 1 byte gives %d", n, len(got))
		}
		for _, c := range got {
			if c >= 0x80 || c < ' ' && c != '\n' {
				t.Fatalf("text holds the byte %#x", c)
			}
		}
	}
	buf := make([]byte, 0, 1<<10)
	if n := testing.AllocsPerRun(100, func() { AppendText(buf, 1000, r.Rand) }); n != 0 {
		t.Errorf("%v allocations in a buffer that is large enough, want 0", n)
	}
}

func BenchmarkAppendText(b *testing.B) {
	r := draw.New(1, draw.Steps, 0, 0)
	var buf []byte
	b.ReportAllocs()
	b.SetBytes(123)
	for b.Loop() {
		buf = AppendText(buf[:0], 123, r.Rand)
	}
}
