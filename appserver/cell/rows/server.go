package rows

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cellv1 "darklaunch/api/cell/v1"
	"darklaunch/appserver/cell"
)

// Limits of what is registered.
const (
	maxName   = 128      // bytes
	maxRecord = 64 << 10 // bytes
)

// Server answers cell.v1 with a registry. It trusts who reaches it.
type Server struct {
	cellv1.UnimplementedMembersServer
	registry *cell.Registry
}

// NewServer returns a Server.
func NewServer(r *cell.Registry) *Server { return &Server{registry: r} }

// RegisterTo adds the service to a gRPC server.
func (s *Server) RegisterTo(g grpc.ServiceRegistrar) { cellv1.RegisterMembersServer(g, s) }

// Open implements cellv1.MembersServer.
func (s *Server) Open(context.Context, *cellv1.OpenRequest) (*cellv1.OpenResponse, error) {
	id, err := s.registry.Begin()
	if err != nil {
		return nil, errorTo(err)
	}
	return &cellv1.OpenResponse{Session: id, TimeoutMs: s.registry.Timeout().Milliseconds()}, nil
}

// Touch implements cellv1.MembersServer.
func (s *Server) Touch(_ context.Context, r *cellv1.TouchRequest) (*cellv1.TouchResponse, error) {
	return &cellv1.TouchResponse{}, errorTo(s.registry.Touch(r.GetSession()))
}

// Register implements cellv1.MembersServer.
func (s *Server) Register(_ context.Context, r *cellv1.RegisterRequest) (*cellv1.RegisterResponse, error) {
	if n := len(r.GetName()); n == 0 || n > maxName || len(r.GetRecord()) > maxRecord {
		return nil, status.Errorf(codes.InvalidArgument, "name of %d bytes and record of %d: want 1 to %d and at most %d", n, len(r.GetRecord()), maxName, maxRecord)
	}
	return &cellv1.RegisterResponse{}, errorTo(s.registry.Register(r.GetSession(), r.GetName(), r.GetRecord()))
}

// Deregister implements cellv1.MembersServer.
func (s *Server) Deregister(_ context.Context, r *cellv1.DeregisterRequest) (*cellv1.DeregisterResponse, error) {
	return &cellv1.DeregisterResponse{}, errorTo(s.registry.Deregister(r.GetSession(), r.GetName()))
}

// Close implements cellv1.MembersServer.
func (s *Server) Close(_ context.Context, r *cellv1.CloseRequest) (*cellv1.CloseResponse, error) {
	return &cellv1.CloseResponse{}, errorTo(s.registry.End(r.GetSession()))
}

// Read implements cellv1.MembersServer.
func (s *Server) Read(_ context.Context, r *cellv1.ReadRequest) (*cellv1.ReadResponse, error) {
	if err := s.registry.Touch(r.GetSession()); err != nil {
		return nil, errorTo(err)
	}
	snapshot, _ := s.registry.Snapshot()
	return &cellv1.ReadResponse{
		Incarnation: snapshot.At.Incarnation, Number: snapshot.At.Number, Records: snapshot.Records, Config: snapshot.Config,
	}, nil
}

// Watch implements cellv1.MembersServer.
func (s *Server) Watch(_ *cellv1.WatchRequest, stream grpc.ServerStreamingServer[cellv1.WatchResponse]) error {
	for {
		_, changed := s.registry.Snapshot()
		if err := stream.Send(&cellv1.WatchResponse{}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// SetConfig implements cellv1.MembersServer.
func (s *Server) SetConfig(_ context.Context, r *cellv1.SetConfigRequest) (*cellv1.SetConfigResponse, error) {
	if len(r.GetConfig()) > maxRecord {
		return nil, status.Errorf(codes.InvalidArgument, "configuration of %d bytes: want at most %d", len(r.GetConfig()), maxRecord)
	}
	return &cellv1.SetConfigResponse{}, errorTo(s.registry.SetConfig(r.GetConfig()))
}
