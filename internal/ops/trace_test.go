package ops

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const (
	parentTrace = "0af7651916cd43dd8448eb211c80319c"
	parentSpan  = "b7ad6b7169203331"
)

// TestTraceparentInAndOut follows one trace from a caller's header through a
// handler into the header of the call that the handler makes.
func TestTraceparentInAndOut(t *testing.T) {
	tracing := NewTracing(TracingConfig{Service: "test"})
	defer tracing.Shutdown(context.Background())
	out := http.Header{}
	h := tracing.Handler("work", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		ctx, span := tracing.Tracer().Start(r.Context(), "call", trace.WithLinks(trace.Link{SpanContext: trace.SpanContextFromContext(r.Context())}))
		defer span.End()
		span.SetStatus(codes.Error, "no answer")
		tracing.Inject(ctx, out)
	}))
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("traceparent", "00-"+parentTrace+"-"+parentSpan+"-01")
	h.ServeHTTP(httptest.NewRecorder(), r)

	spans := tracing.Spans(parentTrace)
	if len(spans) != 2 {
		t.Fatalf("got %d spans of the trace, want 2: %+v", len(spans), spans)
	}
	call, work := spans[0], spans[1] // in the order in which they ended
	if work.Name != "work" || work.Parent != parentSpan {
		t.Errorf("got %+v, want work as a child of the caller's span", work)
	}
	if call.Name != "call" || call.Parent != work.ID || call.Error != "no answer" || len(call.Links) != 1 {
		t.Errorf("got %+v, want call as a failed, linked child of %s", call, work.ID)
	}
	if want := "00-" + parentTrace + "-" + call.ID + "-01"; out.Get("traceparent") != want {
		t.Errorf("passed on %q, want %q", out.Get("traceparent"), want)
	}
}

func TestTracesAreBounded(t *testing.T) {
	tracing := NewTracing(TracingConfig{Keep: 3})
	defer tracing.Shutdown(context.Background())
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		_, span := tracing.Tracer().Start(t.Context(), name)
		span.End()
	}
	var names []string
	for _, s := range tracing.Spans("") {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, ""); got != "cde" {
		t.Errorf("kept %q, want the newest three, oldest first", got)
	}
	if got := traceIDs(tracing.Spans("")); len(got) != 3 || got[0] != tracing.Spans("")[2].Trace {
		t.Errorf("trace ids %q, want three, newest first", got)
	}
}

func TestTracesEndpoint(t *testing.T) {
	tracing := NewTracing(TracingConfig{})
	defer tracing.Shutdown(context.Background())
	_, span := tracing.Tracer().Start(t.Context(), "work")
	span.End()
	id := span.SpanContext().TraceID().String()
	for _, tc := range []struct {
		query string
		code  int
		spans int
	}{
		{"", 200, 1},
		{"?id=" + id, 200, 1},
		{"?id=" + parentTrace, 200, 0},
		{"?id=xyz", 400, 0},
		{"?id=" + strings.ToUpper(parentTrace), 400, 0},
	} {
		w := httptest.NewRecorder()
		tracing.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/traces"+tc.query, nil))
		var got struct{ Spans []Span }
		if tc.code == 200 {
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
		}
		if w.Code != tc.code || len(got.Spans) != tc.spans {
			t.Errorf("%q: got %d with %d spans, want %d with %d", tc.query, w.Code, len(got.Spans), tc.code, tc.spans)
		}
	}
}
