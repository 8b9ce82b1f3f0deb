package chat

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	chatv1 "darklaunch/api/legacy/chat/v1"
	"darklaunch/appserver/legacy"
)

// late is how many messages a reader of a stream may be behind.
const late = 1000

// Server answers legacy.chat.v1.Chat.
type Server struct {
	chatv1.UnimplementedChatServer
	chat    *Chat
	metrics *legacy.Metrics
	log     *slog.Logger

	mu      sync.Mutex
	readers map[string]map[*reader]bool // by user
	ended   bool
}

// A reader is a stream. Its channel is closed, under the server's lock, when it is cut
// off.
type reader struct {
	messages chan *chatv1.Message
	slow     bool
}

// NewServer returns the API of a Chat. reg and log may be nil.
func NewServer(c *Chat, reg prometheus.Registerer, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{chat: c, log: log, readers: map[string]map[*reader]bool{},
		metrics: legacy.NewMetrics(reg, legacy.Chat, codes.OK.String(), "Send", "History", "Presence", "Stream")}
}

// Options are what the gRPC server is to be made with.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.UnaryInterceptor(s.unary), grpc.MaxRecvMsgSize(1 << 20)}
}

// Register adds the API to a gRPC server made with Options.
func (s *Server) Register(g grpc.ServiceRegistrar) { chatv1.RegisterChatServer(g, s) }

// unary counts a call, and gives its error a code.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	answer, err := handler(ctx, request)
	err = s.grpcError(err)
	s.metrics.Answered(info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:], status.Code(err).String(), begin)
	return answer, err
}

func (s *Server) grpcError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, legacy.ErrInvalid):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, legacy.ErrNotFound):
		return status.Error(codes.NotFound, err.Error())
	case errors.Is(err, legacy.ErrExists):
		return status.Error(codes.AlreadyExists, err.Error())
	}
	if st, ok := status.FromError(err); ok {
		return st.Err()
	}
	s.log.Error("chat", "err", err)
	return status.Error(codes.Unavailable, "the outcome is unknown")
}

// caller is the acting user.
func caller(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if u := md.Get("x-user"); len(u) == 1 && ValidUser(u[0]) {
		return u[0], nil
	}
	return "", invalid("x-user: want one, 1 to %d bytes of printable ASCII without colon", MaxUser)
}

func assigned(ctx context.Context) (*legacy.Stamp, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string {
		if values := md.Get(name); len(values) > 0 {
			return values[0]
		}
		return ""
	}
	return legacy.ParseStamp(first("x-assign-id"), first("x-assign-time"))
}

// Send implements legacy.chat.v1.Chat.
func (s *Server) Send(ctx context.Context, r *chatv1.SendRequest) (*chatv1.SendResponse, error) {
	user, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	stamp, err := assigned(ctx)
	if err != nil {
		return nil, err
	}
	m, err := s.chat.Send(user, r.GetTo(), r.GetBody(), stamp)
	if err != nil {
		return nil, err
	}
	s.publish(m)
	return &chatv1.SendResponse{Id: legacy.FormatID(m.ID), Conversation: m.Conversation, SentAtMs: m.Time, Recipients: []string{m.To}}, nil
}

func toMessage(m Message) *chatv1.Message {
	return &chatv1.Message{Id: legacy.FormatID(m.ID), Conversation: m.Conversation, From: m.From, To: m.To, Body: m.Body, SentAtMs: m.Time}
}

// publish hands a message to the streams of both users.
func (s *Server) publish(m Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := toMessage(m)
	for _, user := range []string{m.From, m.To} {
		for r := range s.readers[user] {
			select {
			case r.messages <- w:
			default: // a slow reader must not slow the sender
				r.slow = true
				s.cut(user, r)
			}
		}
	}
}

// cut ends a stream. The lock is held.
func (s *Server) cut(user string, r *reader) {
	if !s.readers[user][r] {
		return
	}
	close(r.messages)
	if delete(s.readers[user], r); len(s.readers[user]) == 0 {
		delete(s.readers, user)
	}
}

// EndStreams ends all streams, also those that begin later.
func (s *Server) EndStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for user, all := range s.readers {
		for r := range all {
			s.cut(user, r)
		}
	}
}

// History implements legacy.chat.v1.Chat.
func (s *Server) History(ctx context.Context, r *chatv1.HistoryRequest) (*chatv1.HistoryResponse, error) {
	user, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	all, err := s.chat.History(user, r.GetConversation(), int(r.GetLimit()), r.GetBeforeMs())
	if err != nil {
		return nil, err
	}
	a := &chatv1.HistoryResponse{}
	for _, m := range all {
		a.Messages = append(a.Messages, toMessage(m))
	}
	return a, nil
}

// Presence implements legacy.chat.v1.Chat.
func (s *Server) Presence(ctx context.Context, r *chatv1.PresenceRequest) (*chatv1.PresenceResponse, error) {
	if _, err := caller(ctx); err != nil {
		return nil, err
	}
	if n := len(r.GetUsers()); n == 0 || n > maxUsers {
		return nil, invalid("users: want 1 to %d", maxUsers)
	}
	a := &chatv1.PresenceResponse{}
	for _, u := range r.GetUsers() {
		if !ValidUser(u) {
			return nil, invalid("users: want 1 to %d bytes of printable ASCII without colon", MaxUser)
		}
		at, err := s.chat.LastSent(u)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		online := len(s.readers[u]) > 0
		s.mu.Unlock()
		a.Users = append(a.Users, &chatv1.PresenceResponse_User{User: u, Online: online, LastSentMs: at})
	}
	return a, nil
}

// Stream implements legacy.chat.v1.Chat.
func (s *Server) Stream(_ *chatv1.StreamRequest, stream chatv1.Chat_StreamServer) error {
	begin := time.Now()
	err := s.grpcError(s.stream(stream))
	s.metrics.Answered("Stream", status.Code(err).String(), begin)
	return err
}

func (s *Server) stream(stream chatv1.Chat_StreamServer) error {
	user, err := caller(stream.Context())
	if err != nil {
		return err
	}
	r := &reader{messages: make(chan *chatv1.Message, late)}
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, "the server is going")
	}
	if s.readers[user] == nil {
		s.readers[user] = map[*reader]bool{}
	}
	s.readers[user][r] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cut(user, r)
	}()
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil // the reader has left
		case m, ok := <-r.messages:
			if !ok {
				return s.cutOff(r)
			}
			if err := stream.Send(&chatv1.StreamResponse{Message: m}); err != nil {
				return err
			}
		}
	}
}

func (s *Server) cutOff(r *reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.slow {
		return status.Errorf(codes.ResourceExhausted, "the reader is %d messages late", late)
	}
	return status.Error(codes.Unavailable, "the server is going")
}
