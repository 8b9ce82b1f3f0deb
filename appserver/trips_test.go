package appserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// trips counts the calls of a store by its metrics, but for the scan that a server begins
// with, which is nobody's call.
func trips(t *testing.T, reg *prometheus.Registry) (n float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "store_operations_total" {
			for _, m := range f.GetMetric() {
				if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetValue() == "scan" }) {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// TestRoundTrips: what ListThreads and then GetThread cost of the store, by how much is
// in memory, and that a trace names each. Rows E59-E63, F82-F84.
func TestRoundTrips(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	rows := &memstore.Store{}
	reg := prometheus.NewRegistry()
	// Room for the mailbox of one user, or nearly two.
	cfg := Config{Tracer: tracer, Mailboxes: mailbox.Config{Store: store.Instrument(rows, reg, tracer), CacheBytes: 150 << 10}}
	c := serve(t, cfg)
	body := strings.Repeat("a body that is longer than the beginning of it that is listed. ", 100)
	thread := ""
	for _, user := range []string{"bob", "cy", "ann"} {
		for i := range 12 {
			thread = begin(t, c, user, fmt.Sprint(i), body, user).ThreadId // of the last, ann's
		}
	}
	// pair makes the two calls and returns what they cost, and the spans.
	pair := func(c messagesv1.MessagesClient, reg *prometheus.Registry) (float64, []string) {
		t.Helper()
		before, from := trips(t, reg), len(spans.Ended())
		list, err := c.ListThreads(as(t, "ann"), &messagesv1.ListThreadsRequest{PageSize: 20})
		if err != nil || len(list.Threads) != 12 {
			t.Fatalf("got %v, %v", list, err)
		}
		got, err := c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: thread})
		if err != nil || len(got.Messages) != 1 || got.Messages[0].Body != body {
			t.Fatalf("got %v, %v", got, err)
		}
		n := trips(t, reg) - before
		calls := map[string]bool{} // traces of the two calls
		ended := spans.Ended()[from:]
		for _, s := range ended {
			if s.Name() == "ListThreads" || s.Name() == "GetThread" {
				calls[s.SpanContext().TraceID().String()] = true
			}
		}
		var names []string
		for _, s := range ended {
			if calls[s.SpanContext().TraceID().String()] {
				names = append(names, s.Name())
			}
		}
		if in := len(names) - len(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return strings.HasPrefix(s, "store ") })); float64(in) != n {
			t.Errorf("the traces name %d calls of the store, there were %.0f: %q", in, n, names)
		}
		for _, want := range []string{"list", "thread", "bodies"} {
			if !slices.Contains(names, want) {
				t.Errorf("the traces lack %q: %q", want, names)
			}
		}
		return n, names
	}
	if n, names := pair(c, reg); n != 0 {
		t.Errorf("warm: got %.0f calls of the store, want none: %q", n, names)
	}
	for _, user := range []string{"bob", "cy"} { // for which ann's has to go
		if _, err := c.ListThreads(as(t, user), &messagesv1.ListThreadsRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, names := pair(c, reg); n == 0 || n > 3 || slices.Contains(names, "store put") {
		t.Errorf("evicted, still owned: got %.0f calls of the store, want 1 to 3, no put among them: %q", n, names)
	}
	other := prometheus.NewRegistry()
	cfg.Mailboxes.Store = store.Instrument(rows, other, tracer)
	if n, names := pair(serve(t, cfg), other); n > 5 || !slices.Contains(names, "store put") {
		t.Errorf("with a claim: got %.0f calls of the store, want 5 at most, a put among them: %q", n, names)
	}
}
