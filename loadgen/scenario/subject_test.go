package scenario

import (
	"bytes"
	"testing"

	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/population"
)

// TestSubjectIsALine: some texts have several lines, subjects never.
func TestSubjectIsALine(t *testing.T) {
	e := &env{rand: draw.New(1, draw.Content, 0, 0)}
	texts := 0
	for range 2000 {
		if s := appendSubject(nil, e); len(s) < 8 || len(s) > 47 || bytes.ContainsAny(s, "\n\r\t\x00") {
			t.Fatalf("got %q, want a line of 8 to 47 bytes", s)
		}
		if bytes.Contains(population.AppendText(nil, 47, e.rand.Rand), []byte("\n")) {
			texts++
		}
	}
	if texts == 0 {
		t.Error("no text had several lines: nothing was replaced")
	}
}
