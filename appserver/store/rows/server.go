package rows

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	rowsv1 "darklaunch/api/rows/v1"
	"darklaunch/appserver/store"
)

// Server answers rows.v1 with a store. It trusts who reaches it.
type Server struct {
	rowsv1.UnimplementedRowsServer
	store store.Store
	more  []func(grpc.ServiceRegistrar)
}

// NewServer returns a server in front of s, which stays the caller's. more adds services
// beside the rows.
func NewServer(s store.Store, more ...func(grpc.ServiceRegistrar)) *Server {
	return &Server{store: s, more: more}
}

// lastAnswers is how long answers may take to leave once the server ends: those
// of scans wait for readers who may be slow.
const lastAnswers = time.Second

// Serve answers on l until ctx ends, and owns l. Then it takes no new calls,
// finishes reads and puts, ends scans, and returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var calls store.Gate
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := calls.Enter(); err != nil {
				return nil, errorTo(err)
			}
			defer calls.Leave()
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			streamCtx, cancel := context.WithCancel(stream.Context())
			defer cancel()
			defer context.AfterFunc(ctx, cancel)()
			return handler(server, endingStream{stream, streamCtx})
		}),
	)
	rowsv1.RegisterRowsServer(srv, s)
	for _, register := range s.more {
		register(srv)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve rows on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	left := make(chan struct{})
	go func() { defer close(left); srv.GracefulStop() }()
	calls.Close()
	select {
	case <-left:
	case <-time.After(lastAnswers):
		srv.Stop()
		<-left
	}
	return <-served
}

// endingStream is a stream that ends with the server.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s endingStream) Context() context.Context { return s.ctx }

// Read implements rowsv1.RowsServer.
func (s *Server) Read(ctx context.Context, req *rowsv1.ReadRequest) (*rowsv1.ReadResponse, error) {
	row, err := s.store.Read(ctx, string(req.GetUser()), spansFrom(req.GetSpans())...)
	if err != nil {
		return nil, errorTo(err)
	}
	return &rowsv1.ReadResponse{Row: rowTo(row)}, nil
}

// Put implements rowsv1.RowsServer.
func (s *Server) Put(ctx context.Context, req *rowsv1.PutRequest) (*rowsv1.PutResponse, error) {
	cur, err := store.DecodeFence(req.GetCurrent())
	if err != nil {
		return nil, errorTo(fmt.Errorf("%w: current: %w", store.ErrInvalid, err))
	}
	next, err := store.DecodeFence(req.GetNext())
	if err != nil {
		return nil, errorTo(fmt.Errorf("%w: next: %w", store.ErrInvalid, err))
	}
	if err := s.store.Put(ctx, string(req.GetUser()), cur, next, cellsFrom(req.GetCells())); err != nil {
		return nil, errorTo(err)
	}
	return &rowsv1.PutResponse{}, nil
}

// Scan implements rowsv1.RowsServer.
func (s *Server) Scan(req *rowsv1.ScanRequest, stream rowsv1.Rows_ScanServer) error {
	r := store.Range{From: req.GetFrom(), To: req.GetTo()}
	for row, err := range s.store.Scan(stream.Context(), r, spansFrom(req.GetSpans())...) {
		if err != nil {
			return errorTo(err)
		}
		if err := stream.Send(&rowsv1.ScanResponse{Row: rowTo(row)}); err != nil {
			return err
		}
	}
	return nil
}
