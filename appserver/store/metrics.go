package store

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Operations and results, as label values.
const (
	opRead = "read"
	opPut  = "put"
	opScan = "scan"
)

// results are how an operation can end. An unknown one is a put's; a read or a
// scan has failed.
var results = map[string][]string{
	opRead: {"ok", "invalid", "closed", "failed"},
	opPut:  {"ok", "fenced", "refused", "invalid", "closed", "unknown"},
	opScan: {"ok", "invalid", "closed", "failed"},
}

func resultOf(op string, err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrInvalid):
		return "invalid"
	case errors.Is(err, ErrClosed):
		return "closed"
	case op != opPut:
		return "failed"
	case errors.Is(err, ErrFenced):
		return "fenced"
	case errors.Is(err, ErrRefused):
		return "refused"
	}
	return "unknown"
}

type metrics struct {
	operations *prometheus.CounterVec
	seconds    *prometheus.HistogramVec
	cells      *prometheus.CounterVec
	bytes      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		operations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "store_operations_total", Help: "Calls of the store that have ended, by how.",
		}, []string{"op", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "store_operation_seconds", Help: "How long calls of the store took; of a scan, with what its caller did.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 17), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, []string{"op"}),
		cells: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "store_cells_written_total", Help: "Cells of puts that are known to be written, deleted ones included.",
		}, []string{"family"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "store_bytes_total", Help: "Bytes of qualifiers and values that were read, or are known to be written.",
		}, []string{"op"}),
	}
	reg.MustRegister(m.operations, m.seconds, m.cells, m.bytes)
	for op, ends := range results {
		for _, result := range ends {
			m.operations.WithLabelValues(op, result)
		}
		m.seconds.WithLabelValues(op)
		m.bytes.WithLabelValues(op)
	}
	for f := FenceFamily; f < families; f++ {
		m.cells.WithLabelValues(f.String())
	}
	return m
}

// Instrument returns s with its calls counted in reg, and a span around each if
// tracer is not nil: "store read", "store put" and "store scan". Closing it
// closes s.
func Instrument(s Store, reg prometheus.Registerer, tracer trace.Tracer) Store {
	if tracer == nil {
		tracer = noop.NewTracerProvider().Tracer("")
	}
	return &instrumented{s, newMetrics(reg), tracer}
}

type instrumented struct {
	Store
	*metrics
	tracer trace.Tracer
}

// begin returns what is to be called at the end of an operation.
func (s *instrumented) begin(ctx context.Context, op string) (context.Context, func(bytes int, err error)) {
	start := time.Now()
	ctx, span := s.tracer.Start(ctx, "store "+op)
	return ctx, func(bytes int, err error) {
		result := resultOf(op, err)
		s.operations.WithLabelValues(op, result).Inc()
		s.seconds.WithLabelValues(op).Observe(time.Since(start).Seconds())
		s.bytes.WithLabelValues(op).Add(float64(bytes))
		span.SetAttributes(attribute.String("result", result), attribute.Int("bytes", bytes))
		if err != nil {
			span.SetStatus(codes.Error, result) // not the text, which names the user
		}
		span.End()
	}
}

func (s *instrumented) Read(ctx context.Context, user string, spans ...Span) (Row, error) {
	ctx, end := s.begin(ctx, opRead)
	row, err := s.Store.Read(ctx, user, spans...)
	end(row.Size(), err)
	return row, err
}

func (s *instrumented) Put(ctx context.Context, user string, cur, next Fence, cells []Cell) error {
	ctx, end := s.begin(ctx, opPut)
	err := s.Store.Put(ctx, user, cur, next, cells)
	size := 0
	if err == nil {
		var written [families]int
		written[FenceFamily] = 1
		for _, c := range cells {
			written[c.Family]++
			size += c.size()
		}
		for f := FenceFamily; f < families; f++ {
			if written[f] > 0 {
				s.cells.WithLabelValues(f.String()).Add(float64(written[f]))
			}
		}
	}
	end(size, err)
	return err
}

func (s *instrumented) Scan(ctx context.Context, r Range, spans ...Span) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		ctx, end := s.begin(ctx, opScan)
		size := 0
		var failed error
		defer func() { end(size, failed) }()
		for row, err := range s.Store.Scan(ctx, r, spans...) {
			size += row.Size()
			failed = err
			if !yield(row, err) {
				return
			}
		}
	}
}
