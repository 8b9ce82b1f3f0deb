package store_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"darklaunch/appserver/store"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// TestFenceEncoding holds the bytes that are in every stored row.
func TestFenceEncoding(t *testing.T) {
	fences := []store.Fence{
		{Epoch: 1, Tag: store.Tag{1}},
		{
			Epoch: 0x0102030405060708, Seq: 0x1112131415161718,
			Tag:   store.Tag([]byte("0123456789abcdef")),
			Ring:  store.Ring{Incarnation: 0x2122232425262728, Number: 0x3132333435363738},
			Flags: store.Sealed | 1<<63,
		},
	}
	var lines strings.Builder
	for _, f := range fences {
		b := f.AppendFence(nil)
		if len(b) != store.FenceSize {
			t.Errorf("%v: %d bytes, want %d", f, len(b), store.FenceSize)
		}
		lines.WriteString(hex.EncodeToString(b) + "\n")
		if got, err := store.DecodeFence(b); err != nil || got != f {
			t.Errorf("decoded: got %v, %v, want %v", got, err, f)
		}
	}
	golden(t, "testdata/fences.txt", lines.String())
}

func TestDecodeFence(t *testing.T) {
	if f, err := store.DecodeFence(nil); err != nil || f != (store.Fence{}) {
		t.Errorf("no bytes: got %v, %v, want the zero fence", f, err)
	}
	good := store.Fence{Epoch: 1, Tag: store.Tag{1}}.AppendFence(nil)
	for _, b := range [][]byte{good[:55], append(bytes.Clone(good), 0), good[:1], make([]byte, store.FenceSize)} {
		if f, err := store.DecodeFence(b); err == nil {
			t.Errorf("%d bytes: got %v, want an error", len(b), f)
		}
	}
}

func FuzzDecodeFence(f *testing.F) {
	f.Add([]byte{})
	f.Add(store.Fence{Epoch: 1, Tag: store.Tag{1}}.AppendFence(nil))
	f.Add(make([]byte, store.FenceSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		fence, err := store.DecodeFence(b)
		if err == nil && len(b) > 0 && !bytes.Equal(fence.AppendFence(nil), b) {
			t.Errorf("%x decodes to %v, which encodes to other bytes", b, fence)
		}
	})
}

func TestRingCompare(t *testing.T) {
	ages := []store.Ring{{}, {0, 7}, {1, 0}, {1, 3}, {2, 1}}
	for i, r := range ages {
		for j, s := range ages {
			if got := r.Compare(s); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("%v against %v: got %d", r, s, got)
			}
		}
	}
}
