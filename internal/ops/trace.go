package ops

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Tracing makes spans through the OpenTelemetry API and keeps the newest of
// them in memory, for the admin pages. It reads and writes the W3C trace
// context (https://www.w3.org/TR/trace-context/).
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	spans    *spanRing
	format   propagation.TraceContext
}

// TracingConfig says what becomes of spans.
type TracingConfig struct {
	// Service is the name of the program that the spans are of.
	Service string

	// Keep is how many ended spans are held in memory, the newest. Zero means 4096.
	Keep int

	// Export gets every span as well, in batches, if it is not nil. Tracing
	// owns it and shuts it down.
	Export sdktrace.SpanExporter
}

// NewTracing starts nothing unless spans are exported; end it with Shutdown.
func NewTracing(cfg TracingConfig) *Tracing {
	if cfg.Keep == 0 {
		cfg.Keep = 4096
	}
	t := &Tracing{spans: &spanRing{slots: make([]Span, cfg.Keep)}}
	opts := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", cfg.Service))),
		sdktrace.WithSpanProcessor(t.spans),
	}
	if cfg.Export != nil {
		opts = append(opts, sdktrace.WithBatcher(cfg.Export))
	}
	t.provider = sdktrace.NewTracerProvider(opts...)
	t.tracer = t.provider.Tracer("darklaunch")
	return t
}

// Tracer starts spans. Names and attributes are constants, numbers and names
// of ours: never bodies, users or addresses.
func (t *Tracing) Tracer() trace.Tracer { return t.tracer }

// Shutdown hands over what has not been exported yet, at most until ctx ends.
func (t *Tracing) Shutdown(ctx context.Context) error { return t.provider.Shutdown(ctx) }

// Handler answers with h inside a span named name, a child of the one that
// the request's traceparent names if it has one.
func (t *Tracing) Handler(name string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := t.format.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// Inject writes the traceparent of ctx's span to header, for a request that
// is made on its behalf.
func (t *Tracing) Inject(ctx context.Context, header http.Header) {
	t.format.Inject(ctx, propagation.HeaderCarrier(header))
}

// Span is an ended span as the admin pages show it.
type Span struct {
	Trace      string            `json:"trace"` // 32 hex digits
	ID         string            `json:"id"`    // 16 hex digits
	Parent     string            `json:"parent,omitempty"`
	Links      []string          `json:"links,omitempty"` // traces that this one goes back to
	Name       string            `json:"name"`
	Start      time.Time         `json:"start"`
	DurationS  float64           `json:"duration_s"`
	Error      string            `json:"error,omitempty"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Spans returns the spans of a trace that are still held, oldest first; with
// an empty id, all of them.
func (t *Tracing) Spans(id string) []Span { return t.spans.find(id) }

// ServeHTTP answers /api/v1/traces?id=: the spans of a trace, or without id
// all that are held, as {"spans":[…]}. A malformed id is a 400.
func (t *Tracing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("id")
	if id != "" {
		if _, err := trace.TraceIDFromHex(id); err != nil {
			http.Error(w, fmt.Sprintf("id %q: want 32 lower-case hex digits", id), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string][]Span{"spans": t.Spans(id)})
}

// spanRing is a span processor that holds the newest spans.
type spanRing struct {
	mu    sync.Mutex
	slots []Span
	ended int // how many spans have ended; the next goes to slots[ended%len]
}

func (*spanRing) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (*spanRing) Shutdown(context.Context) error                  { return nil }
func (*spanRing) ForceFlush(context.Context) error                { return nil }

func (s *spanRing) OnEnd(ended sdktrace.ReadOnlySpan) {
	span := newSpan(ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots[s.ended%len(s.slots)] = span
	s.ended++
}

func (s *spanRing) find(id string) []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := []Span{}
	for i := max(0, s.ended-len(s.slots)); i < s.ended; i++ {
		if span := s.slots[i%len(s.slots)]; id == "" || span.Trace == id {
			found = append(found, span)
		}
	}
	return found
}

func newSpan(s sdktrace.ReadOnlySpan) Span {
	span := Span{
		Trace:     s.SpanContext().TraceID().String(),
		ID:        s.SpanContext().SpanID().String(),
		Name:      s.Name(),
		Start:     s.StartTime(),
		DurationS: s.EndTime().Sub(s.StartTime()).Seconds(),
	}
	if s.Parent().HasSpanID() {
		span.Parent = s.Parent().SpanID().String()
	}
	for _, l := range s.Links() {
		span.Links = append(span.Links, l.SpanContext.TraceID().String())
	}
	if s.Status().Code == codes.Error {
		span.Error = s.Status().Description
	}
	if attrs := s.Attributes(); len(attrs) > 0 {
		span.Attributes = make(map[string]string, len(attrs))
		for _, a := range attrs {
			span.Attributes[string(a.Key)] = a.Value.String()
		}
	}
	return span
}

// traceIDs lists the traces of spans, newest first, each once.
func traceIDs(spans []Span) []string {
	var ids []string
	for _, s := range slices.Backward(spans) {
		if !slices.Contains(ids, s.Trace) {
			ids = append(ids, s.Trace)
		}
	}
	return ids
}
