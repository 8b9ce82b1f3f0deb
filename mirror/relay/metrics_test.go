package relay

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetrics: all series are there from the start, at 0.
func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	NewMetrics(reg, "inbox", "chat")
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]int)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			series[f.GetName()]++
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount()); v != 0 {
				t.Errorf("%s begins at %v", f.GetName(), v)
			}
		}
	}
	for name, want := range map[string]int{
		"mirror_connections_total":        2 * 4,
		"mirror_connections_closed_total": 2 * int(Darkened-Ended),
		"mirror_live_dial_failures_total": 2 * len(dialReasons),
		"mirror_accept_failures_total":    2,
		"mirror_observer_panics_total":    2,
		"mirror_connections_open":         1,
		"mirror_connections_unobserved":   1,
		"mirror_relay_overhead_seconds":   1,
	} {
		if series[name] != want {
			t.Errorf("got %d series of %s, want %d", series[name], name, want)
		}
	}
}

func TestNames(t *testing.T) {
	for c := Ended; c <= Darkened; c++ {
		if name := c.String(); name == "" || strings.ToLower(name) != name {
			t.Errorf("cause %d has the name %q", c, name)
		}
	}
}

// TestOverhead: what passes is timed, chunk by chunk.
func TestOverhead(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		client, live, _ := g.connect()
		for range 5 {
			mustWrite(t, client, "request")
			wantRead(t, live, "request")
			mustWrite(t, live, "answer")
			wantRead(t, client, "answer")
		}
		g.await(10, "mirror_relay_overhead_seconds")
		g.await(1, "mirror_connections_total", "protocol", HTTP1)
		client.Close()
		live.Close()
		g.await(0, "mirror_connections_open")
	})
}
