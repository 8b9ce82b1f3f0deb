package shadow

import (
	"encoding/hex"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A call of a trace that is kept leaves the copy's trace id with its duration, once a
// second; what belongs to no trace, or to one that nobody keeps, leaves none.
func TestExemplars(t *testing.T) {
	reg := prometheus.NewRegistry()
	rm := &roleMetrics{NewMetrics(reg), "shadow", map[string]*routeMetrics{}}
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
	begin := time.Now()
	call := func(route, flags string, at time.Duration, id byte) {
		cp := &Copy{ID: [16]byte{id}, Calls: []Call{{Route: route}}}
		if flags != "" {
			cp.Calls[0].Header = []Field{{Name: []byte("traceparent"), Value: []byte(trace + flags)}}
		}
		rm.done(cp, 0, &Answer{Status: 200, GRPC: -1, Sent: begin.Add(at), Last: begin.Add(at + time.Millisecond)})
	}
	call("kept", "01", 0, 1)
	call("kept", "01", 500*time.Millisecond, 2) // too soon after the one before
	call("kept", "01", 2*time.Second, 3)
	call("unkept", "00", 0, 4)
	call("untraced", "", 0, 5)

	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, b := range m.Histogram.GetBucket() {
				for _, l := range b.Exemplar.GetLabel() {
					got[m.Label[1].GetValue()] = l.GetName() + " " + l.GetValue()
				}
			}
		}
	}
	id := [16]byte{3}
	if want := "trace_id " + hex.EncodeToString(id[:]); len(got) != 1 || got["kept"] != want {
		t.Errorf("got %v, want %q for the route of the kept trace alone", got, want)
	}
}
