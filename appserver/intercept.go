package appserver

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	messagesv1 "darklaunch/api/messages/v1"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	stages   *prometheus.HistogramVec
	inflight prometheus.Gauge
	shed     *prometheus.CounterVec

	calls, watches atomic.Int64
}

// stages are the parts of a call whose time is told apart.
var stages = []string{"list", "thread", "search", "stats", "bodies", "commit", "delivered", "deliver"}

// watched are the codes of answers whose series are there from the start: one that
// is not there before it counts hides its first failure from whoever takes rates.
var watched = []codes.Code{codes.OK, codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Unavailable}

func newMetrics(reg prometheus.Registerer, hooks []Hook) *metrics {
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	buckets := prometheus.ExponentialBuckets(0.0001, 1.5, 28)
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "appserver_requests_total", Help: "Calls answered."}, []string{"method", "channel", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "appserver_request_seconds", Help: "From a call to its answer.",
			Buckets: buckets, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160}, []string{"method"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "appserver_stage_seconds", Help: "Parts of calls.",
			Buckets: buckets, NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160}, []string{"stage"}),
		inflight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "appserver_inflight_requests", Help: "Calls under way, streams aside."}),
		shed:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "appserver_shed_total", Help: "Calls refused because there were too many."}, []string{"reason"}),
	}
	reg.MustRegister(m.requests, m.seconds, m.stages, m.inflight, m.shed)
	for _, service := range []grpc.ServiceDesc{messagesv1.Messages_ServiceDesc, messagesv1.Delivery_ServiceDesc, messagesv1.Transfer_ServiceDesc} {
		for _, method := range service.Methods {
			for _, code := range watched {
				m.requests.WithLabelValues(method.MethodName, "none", code.String())
			}
			m.seconds.WithLabelValues(method.MethodName)
		}
	}
	for _, c := range []string{"email", "sms", "chat", "message"} {
		for _, code := range watched {
			m.requests.WithLabelValues("Send", c, code.String())
		}
	}
	for _, s := range stages {
		m.stages.WithLabelValues(s)
	}
	for _, h := range hooks {
		m.stages.WithLabelValues("hook_" + h.Name)
	}
	m.shed.WithLabelValues("in_flight")
	m.shed.WithLabelValues("watches")
	return m
}

// took observes a call, with its trace as an exemplar where that is kept.
func (m *metrics) took(ctx context.Context, method string, took time.Duration) {
	o := m.seconds.WithLabelValues(method)
	if span := trace.SpanContextFromContext(ctx); span.IsSampled() {
		o.(prometheus.ExemplarObserver).ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	o.Observe(took.Seconds())
}

// stage begins a part of a call; what it returns ends it.
func (m *metrics) stage(name string) func() {
	begin := time.Now()
	return func() { m.stages.WithLabelValues(name).Observe(time.Since(begin).Seconds()) }
}

func (s *Server) now() time.Time {
	if now := s.cfg.Mailboxes.Now; now != nil {
		return now()
	}
	return time.Now()
}

// unary counts, bounds and hooks a call.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	begin := time.Now()
	defer func() {
		s.metrics.took(ctx, method, time.Since(begin))
		s.metrics.requests.WithLabelValues(method, channelName(request), status.Code(err).String()).Inc()
	}()
	n := s.metrics.calls.Add(1)
	defer s.metrics.calls.Add(-1)
	s.metrics.inflight.Inc()
	defer s.metrics.inflight.Dec()
	if limit, _ := s.cfg.Bounds(); n > int64(cmp.Or(limit, s.cfg.MaxInFlight)) {
		s.metrics.shed.WithLabelValues("in_flight").Inc()
		return nil, shed("too many calls under way, nothing was done", 100*time.Millisecond)
	}
	ctx, span := s.tracer.Start(traced(ctx), method)
	defer span.End()
	return s.routed(ctx, info.FullMethod, request, func(ctx context.Context) (any, error) {
		return s.hooked(ctx, method, request, handler, s.cfg.Hooks)
	})
}

// traced is ctx with the trace that the call is part of, if its metadata names one.
func traced(ctx context.Context) context.Context {
	parent := metadata.ValueFromIncomingContext(ctx, "traceparent")
	if len(parent) == 0 {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(http.Header{
		"Traceparent": parent, "Tracestate": metadata.ValueFromIncomingContext(ctx, "tracestate")}))
}

func (s *Server) hooked(ctx context.Context, method string, request any, handler grpc.UnaryHandler, hooks []Hook) (any, error) {
	if len(hooks) == 0 {
		return handler(ctx, request)
	}
	h := hooks[0]
	u, _ := caller(ctx) // the handler refuses a call without one
	message, _ := request.(proto.Message)
	if h.Before != nil {
		end := s.metrics.stage("hook_" + h.Name)
		err := h.Before(ctx, method, u, message)
		end()
		if err != nil {
			return nil, err
		}
	}
	response, err := s.hooked(ctx, method, request, handler, hooks[1:])
	if h.After != nil {
		defer s.metrics.stage("hook_" + h.Name)()
		answer, _ := response.(proto.Message)
		h.After(ctx, method, u, message, answer, err)
	}
	return response, err
}

// stream bounds the streams.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !strings.HasPrefix(info.FullMethod, "/"+messagesv1.Messages_ServiceDesc.ServiceName+"/") {
		return handler(srv, ss) // reflection, health
	}
	n := s.metrics.watches.Add(1)
	defer s.metrics.watches.Add(-1)
	if _, limit := s.cfg.Bounds(); n > int64(cmp.Or(limit, s.cfg.MaxWatches)) {
		s.metrics.shed.WithLabelValues("watches").Inc()
		return shed("too many streams", time.Second)
	}
	err := s.routedWatch(ss)
	s.metrics.requests.WithLabelValues("Watch", "none", status.Code(err).String()).Inc()
	return err
}

// channelName is the channel of a message that is sent, for metrics.
func channelName(request any) string {
	r, ok := request.(*messagesv1.SendRequest)
	if !ok {
		return "none"
	}
	switch r.GetChannel() {
	case messagesv1.Channel_CHANNEL_EMAIL:
		return "email"
	case messagesv1.Channel_CHANNEL_SMS:
		return "sms"
	case messagesv1.Channel_CHANNEL_CHAT:
		return "chat"
	}
	return "message"
}
