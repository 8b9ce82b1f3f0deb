package pairstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
)

// bomb is a window of n routes of two bytes each.
func bomb(n int) []byte {
	window := bytes.Repeat([]byte{3<<3 | 2, 0}, n)
	return protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), window)
}

// TestDecodeRefusesBombs holds that a record which would be a hundred times as large
// in memory is refused before it is decoded.
func TestDecodeRefusesBombs(t *testing.T) {
	raw := bomb(1 << 20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(raw); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooLarge)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("got %d bytes allocated, want next to none", got)
	}
	r, err := Decode(bomb(100))
	if err != nil || len(r.GetWindow().GetRoutes()) != 100 {
		t.Errorf("got %v, %v, want the small one", r, err)
	}
}

// TestCost holds that the estimate is no less than what decoding takes, of records as
// mirrors send them and of odd ones.
func TestCost(t *testing.T) {
	window := &pairv1.Window{}
	for range 1000 {
		window.Routes = append(window.Routes, &pairv1.RouteWindow{Route: strings.Repeat("x", 40), Pairs: []*pairv1.RoleLatency{{Durations: &pairv1.Histogram{
			Steps: []uint32{1, 2, 3, 4, 5, 6, 7, 8}, Counts: []uint64{1, 1, 1, 1, 1, 1, 1, 1}}}}})
	}
	whole, err := proto.Marshal(&pairv1.Record{Kind: &pairv1.Record_Window{Window: window}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := proto.Marshal(pair(2, 300<<10))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"window": whole, "body": body, "bomb": bomb(10000)} {
		cost, err := Cost(raw)
		if err != nil {
			t.Fatal(err)
		}
		took := testing.AllocsPerRun(1, func() {}) // the first one warms up
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := Decode(raw)
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(r)
		if used := after.TotalAlloc - before.TotalAlloc; err != nil || float64(used) > 1.1*float64(cost)+took {
			t.Errorf("%s: got %d bytes allocated, %v, want at most the %d that were reckoned", name, used, err, cost)
		}
	}
	if _, err := Cost([]byte{0xff}); err == nil {
		t.Error("got no error of what can't be decoded")
	}
}

func TestPeek(t *testing.T) {
	for _, tt := range []struct {
		record *pairv1.Record
		kind   Kind
	}{
		{header(), KindHeader},
		{&pairv1.Record{Sequence: 1 << 40, Kind: &pairv1.Record_Window{Window: &pairv1.Window{StartTime: 7}}}, KindWindow},
		{pair(9, 10), KindPair},
		{&pairv1.Record{Sequence: 3}, KindNone},
	} {
		raw, err := proto.Marshal(tt.record)
		if err != nil {
			t.Fatal(err)
		}
		sequence, kind, err := Peek(raw)
		if sequence != tt.record.GetSequence() || kind != tt.kind || err != nil {
			t.Errorf("got %d, %d, %v, want %d, %d", sequence, kind, err, tt.record.GetSequence(), tt.kind)
		}
	}
	if _, _, err := Peek([]byte{0x22, 0xff}); err == nil {
		t.Error("got no error of a record that was cut")
	}
}

func TestRaw(t *testing.T) {
	r := NewReader(bytes.NewReader(stream(t, header(), pair(2, 10), pair(3, 400<<10), pair(4, 1))))
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	for want := uint64(2); want <= 4; want++ {
		raw, err := r.Raw()
		if err != nil {
			t.Fatal(err)
		}
		if sequence, _, err := Peek(raw); sequence != want || err != nil {
			t.Errorf("got %d, %v, want %d", sequence, err, want)
		}
	}
	if _, err := r.Raw(); err != io.EOF {
		t.Errorf("got %v, want %v", err, io.EOF)
	}
	if cap(r.buf) > keepBuffer {
		t.Errorf("got %d bytes kept after a large record", cap(r.buf))
	}
}

func TestToken(t *testing.T) {
	const rest = Magic + "..."
	for _, tt := range []struct {
		name, data, want string
		err              error
		rest             string
	}{
		{"right", string(AppendToken(nil, "secret")) + rest, "secret", nil, rest},
		{"wrong", string(AppendToken(nil, "guess")) + rest, "secret", ErrToken, ""},
		{"none", rest, "secret", ErrToken, ""},
		{"none is wanted", rest, "", nil, rest},
		{"one that nobody wants", string(AppendToken(nil, "secret")) + rest, "", nil, rest},
		{"too long", TokenMagic + "\xff\xff\x7f", "secret", ErrToken, ""},
		{"cut", TokenMagic + "\x06sec", "secret", io.ErrUnexpectedEOF, ""},
		{"nothing", "", "secret", io.ErrUnexpectedEOF, ""},
	} {
		r := bufio.NewReader(strings.NewReader(tt.data))
		if err := CheckToken(r, tt.want); !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.err)
		}
		if left, _ := io.ReadAll(r); tt.err == nil && string(left) != tt.rest {
			t.Errorf("%s: got %q left, want %q", tt.name, left, tt.rest)
		}
	}
	if !Begins([]byte("DL")) || Begins([]byte("DE")) || Begins([]byte("GE")) {
		t.Error("streams are not told from requests")
	}
}

// FuzzRaw reads any bytes as who takes a stream does: what is peeked at is what is
// decoded, and the estimate of a record that is refused is beyond the bound.
func FuzzRaw(f *testing.F) {
	f.Add(stream(f, header(), pair(2, 10), &pairv1.Record{Sequence: 3, Kind: &pairv1.Record_Window{Window: &pairv1.Window{StartTime: 7}}}))
	f.Add(append(stream(f, header()), protowire.AppendBytes(nil, bomb(9))...))
	f.Add(append(AppendToken(nil, "t"), stream(f, header())...))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bufio.NewReader(bytes.NewReader(data))
		if CheckToken(b, "") != nil {
			return
		}
		r := NewReader(b)
		if _, err := r.Next(); err != nil {
			return
		}
		for {
			raw, err := r.Raw()
			if err != nil {
				return
			}
			sequence, kind, peeked := Peek(raw)
			record, err := Decode(raw)
			if err != nil {
				continue
			}
			if peeked != nil || sequence != record.GetSequence() {
				t.Errorf("peeked %d, %v, decoded %d", sequence, peeked, record.GetSequence())
			}
			if want := map[Kind]bool{KindHeader: record.GetHeader() != nil, KindWindow: record.GetWindow() != nil, KindPair: record.GetPair() != nil}; kind != KindNone && !want[kind] {
				t.Errorf("peeked kind %d of %v", kind, record)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	raw, err := proto.Marshal(pair(2, 4<<10))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}
