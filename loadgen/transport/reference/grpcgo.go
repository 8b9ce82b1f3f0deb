package reference

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"darklaunch/loadgen/transport"
)

// viaGRPC calls through grpc-go, with messages that are bytes already.
type viaGRPC struct {
	cfg   transport.Config
	clock transport.Clock
	conns []*grpc.ClientConn
	turn  atomic.Uint64
}

func newGRPC(cfg transport.Config, clock transport.Clock) (*viaGRPC, error) {
	v := &viaGRPC{cfg: cfg, clock: clock}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS.Clone())
	}
	for range cfg.Conns {
		cc, err := grpc.NewClient("passthrough:///"+cfg.Addr,
			grpc.WithTransportCredentials(creds), grpc.WithAuthority(cfg.Host), grpc.WithUserAgent(transport.UserAgent),
			grpc.WithStatsHandler(watcher{}), grpc.WithDisableServiceConfig(),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(int(cfg.MaxAnswer))))
		if err != nil {
			v.close()
			return nil, fmt.Errorf("reference: %w", err)
		}
		v.conns = append(v.conns, cc)
	}
	return v, nil
}

func (v *viaGRPC) close() {
	for _, cc := range v.conns {
		cc.Close()
	}
}

func (v *viaGRPC) call(ctx context.Context, c *transport.Call, o *outcome) {
	op := &v.cfg.Ops[c.Op]
	if c.Deadline > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, c.Deadline-v.clock.Now())
		defer stop()
	}
	for _, h := range append(op.Fields(), c.Header...) {
		if !strings.EqualFold(h.Name, "user-agent") {
			ctx = metadata.AppendToOutgoingContext(ctx, h.Name, h.Value)
		}
	}
	seen := &sight{clock: v.clock}
	err := v.exchange(context.WithValue(ctx, sightKey{}, seen), c, op, o)
	if at := seen.sent.Load(); at > 0 {
		o.sent = time.Duration(at)
	}
	o.class, o.code = v.outcome(err, seen.status.Load())
}

func (v *viaGRPC) exchange(ctx context.Context, c *transport.Call, op *transport.Op, o *outcome) error {
	messages := op.Messages
	if c.Body != nil {
		messages = [][]byte{c.Body}
	}
	path := op.Path
	if c.Path != "" {
		path = c.Path
	}
	cc := v.conns[v.turn.Add(1)%uint64(len(v.conns))]
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: op.ServerStream, ClientStreams: len(messages) != 1}, path)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := s.SendMsg(m); err != nil {
			break // what was wrong is for RecvMsg to say
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		var m []byte
		err := s.RecvMsg(&m)
		if errors.Is(err, io.EOF) && op.ServerStream {
			return nil
		}
		if err != nil {
			return err
		}
		o.messages++
		o.received += int64(len(m)) + 5
		o.answer = append(o.answer, m[:max(0, min(len(m), op.Keep-len(o.answer)))]...)
		if op.OnMessage != nil {
			op.OnMessage(c, m, v.clock.Now())
		}
		if !op.ServerStream {
			return nil
		}
	}
}

// outcome puts grpc-go's error into transport's set. Codes that grpc-go made up
// itself are told from the server's by whether trailers were seen, and from one
// another by their text alone.
func (v *viaGRPC) outcome(err error, trailers bool) (transport.Class, int) {
	s := status.Convert(err)
	code, text := s.Code(), s.Message()
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case err == nil:
		return transport.OK, 0
	case code == codes.DeadlineExceeded:
		return transport.Timeout, int(code)
	case code == codes.ResourceExhausted && has("larger than max"):
		return transport.TooLarge, 0
	case trailers && !has("grpc: ", "cardinality violation"):
		if code > codes.Unauthenticated {
			code = codes.Unknown
		}
		return transport.Status, int(code)
	case has("unexpected HTTP status code received from server: 200"):
		return transport.Malformed, 0
	case has("unexpected HTTP status code received from server"):
		return transport.Status, int(code)
	case has("authentication handshake failed"):
		return transport.TLS, 0
	case has("error while dialing", "Error while dialing"):
		return transport.Connect, 0
	case code == codes.Unavailable, has("RST_STREAM"):
		return transport.Reset, 0
	}
	return transport.Malformed, 0
}

// sight is what a call's events told.
type sight struct {
	clock  transport.Clock
	sent   atomic.Int64
	status atomic.Bool
}

type sightKey struct{}

// watcher notes when a call's header left, and whether the server's status came.
type watcher struct{}

func (watcher) HandleRPC(ctx context.Context, e stats.RPCStats) {
	seen, ok := ctx.Value(sightKey{}).(*sight)
	if !ok {
		return
	}
	switch e.(type) {
	case *stats.OutHeader:
		seen.sent.CompareAndSwap(0, int64(max(1, seen.clock.Now())))
	case *stats.InTrailer:
		seen.status.Store(true)
	}
}

func (watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (watcher) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (watcher) HandleConn(context.Context, stats.ConnStats)                       {}

// raw passes bytes through. Its empty name leaves the content type at
// application/grpc.
type raw struct{}

func (raw) Name() string { return "" }

func (raw) Marshal(m any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(m.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, m any) error {
	*m.(*[]byte) = data.Materialize()
	return nil
}
