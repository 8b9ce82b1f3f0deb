package strictjson

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	got, err := Read([]byte(` {"a": [1, 1.0, 1e400, "ü", null], "a2": {}} ` + "\n"))
	want := map[string]any{"a": []any{json.Number("1"), json.Number("1.0"), json.Number("1e400"), "ü", nil}, "a2": map[string]any{}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, text := range []string{"", "{", `{"a":}`, "{} {}", "{} x", "[1,]", "\"\xff\"", "nul"} {
		if got, err := Read([]byte(text)); !errors.Is(err, Err) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, Err)
		}
	}
}
