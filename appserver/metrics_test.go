package appserver

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// A call that is part of a trace leaves its id with its duration, and one whose trace
// nobody keeps does not; failures are there before they happen.
func TestCallMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg, nil)
	id := trace.TraceID{1}
	span := func(flags trace.TraceFlags) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{1}, TraceFlags: flags})
	}
	m.took(trace.ContextWithSpanContext(t.Context(), span(trace.FlagsSampled)), "Send", time.Millisecond)
	m.took(trace.ContextWithSpanContext(t.Context(), span(0)), "ListThreads", time.Millisecond)

	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	unavailable := 0
	for _, f := range families {
		for _, series := range f.Metric {
			labels := map[string]string{}
			for _, l := range series.Label {
				labels[l.GetName()] = l.GetValue()
			}
			if f.GetName() == "appserver_requests_total" && labels["code"] == "Unavailable" && series.Counter.GetValue() == 0 {
				unavailable++
			}
			for _, b := range series.Histogram.GetBucket() {
				for _, l := range b.Exemplar.GetLabel() {
					got[labels["method"]] = l.GetName() + " " + l.GetValue()
				}
			}
		}
	}
	if want := "trace_id " + id.String(); len(got) != 1 || got["Send"] != want {
		t.Errorf("got exemplars %v, want %q of Send alone", got, want)
	}
	if unavailable < 10 {
		t.Errorf("got %d series of unavailable calls at 0, want one a method", unavailable)
	}
}
