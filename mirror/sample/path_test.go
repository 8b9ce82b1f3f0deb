package sample

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestPaths(t *testing.T) {
	got, err := JSONPath("$.a['b.c'][*][3]")
	want := []Step{{"a", false, -1}, {"b.c", false, -1}, {"", true, -1}, {"", true, 3}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	numbers, err := ProtoPath("1.3.536870911")
	if diff := cmp.Diff([]protowire.Number{1, 3, 536870911}, numbers); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, bad := range []string{"", "a", "$.", "$[", "$[x]", "$a"} {
		if got, err := JSONPath(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
	for _, bad := range []string{"", "0", "1.", "x", "1.-2", "536870912"} {
		if got, err := ProtoPath(bad); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}
