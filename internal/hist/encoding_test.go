package hist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestEncodingRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := of(durations(0).Draw(t, "durations")...)
		encoded, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		want := imageOf(h)
		have := imageOf(got)
		// What the form does not carry.
		want.Clamped, want.Sum = 0, have.Sum
		if d := cmp.Diff(want, have); d != "" {
			t.Fatalf("decoded (-want +got):\n%s", d)
		}
		if diff := math.Abs(float64(got.Mean() - h.Mean())); diff > 1+float64(h.Mean())/2000 {
			t.Errorf("got mean %v, want %v ± 0.05 %%", got.Mean(), h.Mean())
		}
		again, err := got.Encode()
		if err != nil || !bytes.Equal(again, encoded) {
			t.Errorf("encoded again: got %s, %v, want %s", again, err, encoded)
		}
	})
}

// TestEncodeIsReadByUpstream has hdrhistogram-go read what Encode writes.
func TestEncodeIsReadByUpstream(t *testing.T) {
	h := of(latencies(1000)...)
	encoded, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	up, err := hdrhistogram.Decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	if up.TotalCount() != 1000 || up.Max() != int64(h.Max()) || up.Min() != int64(h.Min()) {
		t.Errorf("got %d in %d…%d, want 1000 in %d…%d", up.TotalCount(), up.Min(), up.Max(), h.Min(), h.Max())
	}
}

// wire is the V2 compressed form of a header and a payload, either of them as
// wrong as its caller likes.
func wire(payloadLength, figures int32, lowest, highest int64, payload []byte) []byte {
	var inner bytes.Buffer
	z := zlib.NewWriter(&inner)
	write := func(v any) {
		if err := binary.Write(z, binary.BigEndian, v); err != nil {
			panic(err)
		}
	}
	write([]int32{0x1c849313, payloadLength, 0, figures})
	write([]int64{lowest, highest})
	write(1.0)
	if _, err := z.Write(payload); err != nil {
		panic(err)
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	outer := binary.BigEndian.AppendUint32(nil, 0x1c849314)
	outer = binary.BigEndian.AppendUint32(outer, uint32(inner.Len()))
	return []byte(base64.StdEncoding.EncodeToString(append(outer, inner.Bytes()...)))
}

// zigzag is the LEB128 form of a small count (n > 0) or run of zeros (n < 0).
func zigzag(n int64) []byte {
	return binary.AppendUvarint(nil, uint64(n<<1^n>>63))
}

func reencode(encoded []byte, change func(raw []byte) []byte) []byte {
	raw, err := base64.StdEncoding.DecodeString(string(encoded))
	if err != nil {
		panic(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(change(raw)))
}

func hostile() map[string][]byte {
	const hour = int64(time.Hour)
	good := wire(1, digits, 1, hour, zigzag(3))
	beyond := append(zigzag(-int64(slots-1)), zigzag(1)...)
	most := bytes.Repeat([]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, 1)
	return map[string][]byte{
		"empty":                  nil,
		"not base64":             []byte("HISTFAAA!"),
		"header only":            []byte("HISTFAAAAAA="),
		"truncated base64":       good[:len(good)-1],
		"truncated":              reencode(good, func(raw []byte) []byte { return raw[:len(raw)-5] }),
		"trailing bytes":         reencode(good, func(raw []byte) []byte { return append(raw, 0) }),
		"trailing, declared":     reencode(good, func(raw []byte) []byte { raw = append(raw, 0); raw[7]++; return raw }),
		"negative length":        reencode(good, func(raw []byte) []byte { raw[4] = 0xff; return raw }),
		"other cookie":           reencode(good, func(raw []byte) []byte { raw[0]++; return raw }),
		"bad checksum":           reencode(good, func(raw []byte) []byte { raw[len(raw)-1]++; return raw }),
		"not compressed":         reencode(good, func(raw []byte) []byte { raw[8] ^= 0xff; return raw }),
		"widest geometry":        wire(1, 5, 1, math.MaxInt64, zigzag(3)),
		"other digits":           wire(1, 2, 1, hour, zigzag(3)),
		"other lowest":           wire(1, digits, 1000, hour, zigzag(3)),
		"other highest":          wire(1, digits, 1, hour-1, zigzag(3)),
		"negative payload":       wire(-1, digits, 1, hour, zigzag(3)),
		"longer payload":         wire(1, digits, 1, hour, append(zigzag(3), 2)),
		"shorter payload":        wire(2, digits, 1, hour, zigzag(3)),
		"zeros past the end":     wire(5, digits, 1, hour, zigzag(-1<<30)),
		"zeros without end":      wire(9, digits, 1, hour, bytes.Repeat([]byte{0xff}, 9)),
		"counts past the end":    wire(slots+1, digits, 1, hour, bytes.Repeat(zigzag(1), slots+1)),
		"counts beyond an hour":  wire(int32(len(beyond)), digits, 1, hour, beyond),
		"total above 2^53":       wire(int32(len(most)), digits, 1, hour, most),
		"a bomb of zeros":        wire(math.MaxInt32, digits, 1, hour, make([]byte, 8<<20)),
		"longer than MaxEncoded": []byte(strings.Repeat("A", MaxEncoded+4)),
	}
}

// TestDecodeRefuses decodes each hostile input, wants an error, and bounds what
// it costs. The good input beside them shows that wire is right.
func TestDecodeRefuses(t *testing.T) {
	if h, err := Decode(wire(1, digits, 1, int64(time.Hour), zigzag(3))); err != nil || h.Count() != 3 {
		t.Fatalf("good input: got %v, %v, want 3 durations", h, err)
	}
	for name, input := range hostile() {
		t.Run(name, func(t *testing.T) {
			h, err := Decode(input)
			if err == nil {
				t.Errorf("got %d durations, want an error", h.Count())
			}
			t.Log(err)
			if got := allocated(func() { Decode(input) }); got > 4<<20 {
				t.Errorf("allocated %d bytes, want less than 4 MiB", got)
			}
		})
	}
}

// TestDecodeBound decodes the largest Hist there can be.
func TestDecodeBound(t *testing.T) {
	h := New()
	for i := range slot(int64(Highest)) + 1 {
		// No run, nothing that compresses: counts as varied as the total allows.
		h.add(i, 1+(int64(i)*0x9e3779b97f4a7c1)>>30&(1<<37-1))
	}
	encoded, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(encoded) > MaxEncoded {
		t.Fatalf("encoded in %d bytes, more than MaxEncoded", len(encoded))
	}
	got := allocated(func() { _, err = Decode(encoded) })
	if err != nil || got > 4<<20 {
		t.Errorf("got %v, %d bytes allocated, want no error and less than 4 MiB", err, got)
	}
	t.Logf("%d bytes encoded, %d allocated", len(encoded), got)
}

// allocated returns the bytes f allocates, garbage included; others' too, so f
// runs a few times and the least counts.
func allocated(f func()) uint64 {
	least := uint64(math.MaxUint64)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	return least
}

func FuzzDecode(f *testing.F) {
	for name, input := range hostile() {
		if len(input) < 4<<10 {
			f.Add(input)
		} else {
			f.Logf("not a seed, for its size: %s", name)
		}
	}
	for _, h := range []*Hist{New(), of(0), of(latencies(100)...), of(1, Highest)} {
		encoded, err := h.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(encoded)
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		h, err := Decode(input)
		if err != nil {
			return
		}
		var n int64
		h.each(func(_ int, c int64) bool { n += c; return c > 0 })
		if n != h.Count() || h.Max() > Highest || h.Min() > h.Mean() && n > 0 || h.Mean() > h.Max() {
			t.Errorf("inconsistent: %d counted, %d in all, %v ≤ %v ≤ %v", n, h.Count(), h.Min(), h.Mean(), h.Max())
		}
		encoded, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "decoded again", again, h)
	})
}
