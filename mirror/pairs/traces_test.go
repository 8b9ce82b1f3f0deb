package pairs

import (
	"encoding/hex"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"darklaunch/mirror/lanes"
)

// exemplars are the traces that the durations of each role name.
func exemplars(families []*dto.MetricFamily) map[string]string {
	found := map[string]string{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, e := range m.GetHistogram().GetExemplars() {
				for _, l := range m.Label {
					if l.GetName() == "role" {
						found[l.GetValue()] = e.Label[0].GetValue()
					}
				}
			}
		}
	}
	return found
}

// TestTraces: durations of a pair name live's trace where that is kept, and the one
// that its copies got; not what only looks like a trace.
func TestTraces(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	roles := [lanes.NumRoles]bool{true, true}
	id := [16]byte{0xab, 15: 1}
	for _, tc := range []struct {
		name, header string
		kept         bool
	}{
		{"kept", "00-" + trace + "-00f067aa0ba902b7-01", true},
		{"not kept", "00-" + trace + "-00f067aa0ba902b7-00", false},
		{"none", "", false},
		{"too short", "00-" + trace, false},
		{"not hex", "00-\xff\xfe<script>alert(1)</script>+++++++-00f067aa0ba902b7-01", false},
	} {
		p, reg := newPairs(t, Config{Roles: roles, Routes: []RouteConfig{{Name: "/r"}}})
		x := live(t, text(200, 2, "hi", ""), "Traceparent: "+tc.header)
		pair := &Pair{Route: p.Route("/r"), ID: id, Live: x, Roles: roles}
		pair.Answered(lanes.Shadow, outcome(answer(200, "hi", 3e6)), true, false)
		pair.Answered(lanes.Control, outcome(answer(200, "hi", 3e6)), true, false)
		p.End(pair)
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := exemplars(families)
		if !tc.kept && len(got) > 0 {
			t.Errorf("%s: got traces %v, want none", tc.name, got)
		}
		if copies := hex.EncodeToString(id[:]); tc.kept && (len(got) != 3 || got["live"] != trace || got["shadow"] != copies || got["control"] != copies) {
			t.Errorf("%s: got %v, want live's trace and the copies'", tc.name, got)
		}
	}
}
