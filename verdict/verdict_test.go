package verdict

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"darklaunch/verdict/judge"
)

// TestVerdicts lets a mirror tell of shadows that are as they should be, slow, failing
// and wrong: the state moves to what is true, and the reasons name it.
func TestVerdicts(t *testing.T) {
	good := fakeRoute{name: "GET /good", pairs: 60, noisy: 0.02}
	for _, tt := range []struct {
		name   string
		bad    fakeRoute
		state  string
		reason string // of the first
		field  string // that gates
	}{
		{"equal", fakeRoute{name: "GET /x", pairs: 60, noisy: 0.02}, "pass", "", ""},
		{"slow", fakeRoute{name: "GET /x", pairs: 60, slower: 0.3}, "fail", judge.ReasonMargin, ""},
		{"failing", fakeRoute{name: "GET /x", pairs: 60, errors: 0.02}, "fail", judge.ReasonMargin, ""},
		{"wrong", fakeRoute{name: "GET /x", pairs: 60, wrong: 0.02, noisy: 0.02}, "fail", "", "json:$.total"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, quick())
				m := newFakeMirror(t, "m1", 7, good, tt.bad)
				m.connect(r)
				pass(15 * time.Minute)
				c := r.Comparison("s1")
				if c == nil || c.State != tt.state {
					t.Fatalf("got %+v, want %s", c, tt.state)
				}
				d := c.Document
				if tt.state == "fail" {
					if len(d.Reasons) == 0 || tt.reason != "" && d.Reasons[0].Code != tt.reason {
						t.Errorf("got reasons %+v, want %s", d.Reasons, tt.reason)
					}
					for _, reason := range d.Reasons {
						if reason.Route == good.name {
							t.Errorf("got %+v, of a route that is as it should be", reason)
						}
					}
				}
				if tt.field != "" {
					i := slices.IndexFunc(d.Differences, func(f judge.Difference) bool { return f.Use == judge.UseGate })
					if i < 0 || d.Differences[i].Field != tt.field || d.Differences[i].Route != tt.bad.name {
						t.Errorf("got differences %+v, want %s", d.Differences, tt.field)
					}
					if !slices.ContainsFunc(d.Reasons, func(r judge.Reason) bool { return strings.Contains(r.Text, tt.field) }) {
						t.Errorf("got reasons %+v, want %s named", d.Reasons, tt.field)
					}
				}
				if got := r.metric("verdict_state", "comparison", "s1", "state", tt.state); got != 1 {
					t.Errorf("got verdict_state %v, want 1", got)
				}
				m.disconnect()
				r.close()
			})
		})
	}
}
