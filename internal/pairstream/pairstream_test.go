package pairstream

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
)

func header() *pairv1.Record {
	return &pairv1.Record{Sequence: 1, Kind: &pairv1.Record_Header{Header: &pairv1.Header{MirrorId: "m", Roles: []pairv1.Role{pairv1.Role_ROLE_SHADOW}}}}
}

func pair(n uint64, body int) *pairv1.Record {
	return &pairv1.Record{Sequence: n, Kind: &pairv1.Record_Pair{Pair: &pairv1.Pair{Route: "/x", Sides: []*pairv1.Side{{Role: pairv1.Role_ROLE_LIVE,
		Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Status: 200, Body: &pairv1.Body{Content: make([]byte, body)}}}}}}}}}
}

func stream(t testing.TB, records ...*pairv1.Record) []byte {
	t.Helper()
	out := []byte(Magic)
	var err error
	for _, r := range records {
		if out, err = Append(out, r); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	want := []*pairv1.Record{header(), pair(2, 10), pair(4, 300<<10), {Sequence: 5, Kind: &pairv1.Record_Window{Window: &pairv1.Window{StartTime: 7}}}, pair(6, 0)}
	data := stream(t, want...)
	for name, in := range map[string]io.Reader{"whole": bytes.NewReader(data), "bytes": iotest.OneByteReader(bytes.NewReader(data))} {
		r := NewReader(in)
		var got []*pairv1.Record
		for {
			record, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, record)
		}
		if !slices.EqualFunc(got, want, func(a, b *pairv1.Record) bool { return proto.Equal(a, b) }) {
			t.Errorf("%s: got %d records, want the %d that were written", name, len(got), len(want))
		}
		if r.Header().GetMirrorId() != "m" {
			t.Errorf("got header %v", r.Header())
		}
	}
}

func TestRefuses(t *testing.T) {
	good := stream(t, header(), pair(2, 10))
	for _, tt := range []struct {
		name string
		data []byte
		want error
	}{
		{"empty", nil, io.EOF},
		{"half a magic", good[:3], io.ErrUnexpectedEOF},
		{"magic", append([]byte("DLPAIRS2"), good[8:]...), ErrMagic},
		{"no header", stream(t, pair(1, 1)), ErrNoHeader},
		{"two headers", stream(t, header(), header()), ErrNoHeader},
		{"cut", good[:len(good)-1], io.ErrUnexpectedEOF},
		{"cut in the length", append(bytes.Clone(good), 0x80), io.ErrUnexpectedEOF},
		{"too large", protowire.AppendVarint(bytes.Clone(good), MaxRecord+1), ErrTooLarge},
		{"announces and does not come", protowire.AppendVarint(bytes.Clone(good), MaxRecord), io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(tt.data))
			for {
				if _, err := r.Next(); err != nil {
					if !errors.Is(err, tt.want) {
						t.Errorf("got %v, want %v", err, tt.want)
					}
					return
				}
			}
		})
	}
	if out, err := Append(good, pair(1, MaxRecord)); !errors.Is(err, ErrTooLarge) || len(out) != len(good) {
		t.Errorf("got %v and %d bytes more, want %v and none", err, len(out)-len(good), ErrTooLarge)
	}
}

func TestHistogram(t *testing.T) {
	h := hist.New()
	for _, d := range []time.Duration{0, time.Microsecond, time.Millisecond, time.Millisecond, time.Hour} {
		h.Record(d)
	}
	got := hist.New()
	for range 2 {
		if err := Merge(got, Histogram(h)); err != nil {
			t.Fatal(err)
		}
	}
	if got.Count() != 10 || got.Quantile(0.5) != h.Quantile(0.5) || got.Max() != h.Max() {
		t.Errorf("got %d durations, median %v, longest %v; want 10, %v, %v", got.Count(), got.Quantile(0.5), got.Max(), h.Quantile(0.5), h.Max())
	}
	if Histogram(nil) != nil || Histogram(hist.New()) != nil {
		t.Error("an empty histogram is not nil")
	}
	if err := Merge(got, nil); err != nil {
		t.Error(err)
	}
	for _, w := range []*pairv1.Histogram{
		{Steps: []uint32{1}}, {Steps: []uint32{1, 0}, Counts: []uint64{1, 1}}, {Steps: []uint32{1 << 31}, Counts: []uint64{1}}, {Steps: []uint32{1}, Counts: []uint64{1 << 63}},
	} {
		if err := Merge(hist.New(), w); err == nil {
			t.Errorf("%v: got no error", w)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(stream(f, header(), pair(2, 10)))
	h := hist.New()
	h.Record(time.Millisecond)
	f.Add(stream(f, header(), &pairv1.Record{Kind: &pairv1.Record_Window{Window: &pairv1.Window{Routes: []*pairv1.RouteWindow{{Pairs: []*pairv1.RoleLatency{{Durations: Histogram(h)}}}}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data))
		for {
			record, err := r.Next()
			if err != nil {
				return
			}
			for _, route := range record.GetWindow().GetRoutes() {
				for _, p := range route.GetPairs() {
					Merge(hist.New(), p.GetDurations())
				}
			}
			if _, err := Append(nil, record); err != nil && !errors.Is(err, ErrTooLarge) {
				t.Errorf("a record that was read can't be written: %v", err)
			}
		}
	})
}

func BenchmarkHistogram(b *testing.B) {
	h := hist.New()
	for i := range 2000 {
		h.Record(time.Duration(500+i%700) * time.Microsecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		Histogram(h)
	}
}
