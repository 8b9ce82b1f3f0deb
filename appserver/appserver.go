// Package appserver is the application server of Messages: the service
// messages.v1.Messages in front of the mailboxes that this server serves, and
// messages.v1.Delivery, by which mailboxes reach each other.
//
// A call is validated, decided by the mailbox in its turn, and answered from what
// the log holds then; what answers is said in package mailbox, and the contract with
// callers in messages.proto.
package appserver

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/search"
)

// Config of a Server.
type Config struct {
	// Name of this server, for x-served-by.
	Name string
	// Mailboxes is the configuration of the pool; Deliver and Delivers are the server's.
	Mailboxes mailbox.Config
	// Limits of requests. Zero fields are defaults.
	Limits Limits
	// Capacity is the most bytes of a mailbox above which Send is refused. Zero is no limit.
	Capacity int64
	// TrustedIDs lets callers assign ids and times.
	TrustedIDs bool
	// ReplySecret is what addresses of reply handlers are made from, the same on all
	// servers; ReplyDomain is their domain. Empty means "reply.invalid".
	ReplySecret []byte
	ReplyDomain string
	// MaxInFlight bounds the calls under way, streams aside; more are shed. Zero means 1024.
	MaxInFlight int
	// MaxWatches bounds the streams of Watch. Zero means 10,000.
	MaxWatches int
	// Router reaches the servers of other users, and knows which are this one's. Nil: it
	// serves all users. Changed returns a channel that is closed when the Router's View
	// is replaced by another; nil: it never is.
	Router  *client.Router
	Changed func() <-chan struct{}
	// Directory is told of users who have been moved here. Nil: none can be.
	Directory *directory.Directory
	// Cell is the name of this server's.
	Cell string
	// Bounds returns what is to be used in place of MaxInFlight and MaxWatches just now;
	// zeros for these themselves. Nil: they hold.
	Bounds func() (inFlight, watches int)
	// Hooks run around each call, the first outermost.
	Hooks []Hook
	// Tracer makes the spans of a call. Nil: none.
	Tracer trace.Tracer
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
	// Log may be nil.
	Log *slog.Logger
}

// A Hook is something that is done before and after each call, pre- and
// post-processing: its time is appserver_stage_seconds{stage="hook_NAME"}.
type Hook struct {
	Name string
	// Before may refuse the call by an error of status; nil does nothing.
	Before func(ctx context.Context, method string, user action.User, request proto.Message) error
	// After sees what was answered; nil does nothing.
	After func(ctx context.Context, method string, user action.User, request, response proto.Message, err error)
}

// Server serves mailboxes over gRPC. It is made by New, and serves while Run runs.
type Server struct {
	messagesv1.UnimplementedMessagesServer
	messagesv1.UnimplementedDeliveryServer
	messagesv1.UnimplementedTransferServer

	cfg      Config
	pool     *mailbox.Pool
	analyzer *search.Analyzer
	metrics  *metrics
	tracer   trace.Tracer
	answers  map[string]protoreflect.MessageType // of methods that are forwarded, by their full names

	// moving is called after each step of a move, which its error ends. Nil but in tests.
	moving     func(step) error
	unfinished unfinished
	patience   time.Duration

	ended   chan struct{} // closed by EndStreams
	endOnce sync.Once
}

// New returns a Server. The error is of the configuration.
func New(cfg Config) (*Server, error) {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = 1024
	}
	if cfg.MaxWatches == 0 {
		cfg.MaxWatches = 10_000
	}
	if cfg.Bounds == nil {
		cfg.Bounds = func() (int, int) { return 0, 0 }
	}
	if cfg.ReplyDomain == "" {
		cfg.ReplyDomain = "reply.invalid"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Tracer == nil {
		cfg.Tracer = noop.NewTracerProvider().Tracer("")
	}
	s := &Server{
		cfg: cfg, tracer: cfg.Tracer, answers: answers(), ended: make(chan struct{}), patience: patience,
		unfinished: unfinished{queue: make(chan departure, maxUnfinished), known: map[action.User]bool{}},
	}
	if cfg.Router != nil {
		cfg.Mailboxes.Begin = s.begin
	}
	cfg.Mailboxes.Departed = s.departed
	cfg.Mailboxes.Deliver = s.deliverEntry
	cfg.Mailboxes.Delivers = func(p action.Participant) bool { return p.User != "" }
	cfg.Mailboxes.MaxBody = cfg.Limits.Body
	cfg.Mailboxes.Registerer, cfg.Mailboxes.Log = cfg.Registerer, cfg.Log
	var err error
	if s.pool, err = mailbox.New(cfg.Mailboxes); err != nil {
		return nil, err
	}
	if s.analyzer, err = search.NewAnalyzer(cfg.Mailboxes.Language); err != nil {
		return nil, err
	}
	s.metrics = newMetrics(cfg.Registerer, cfg.Hooks)
	return s, nil
}

// Run serves until ctx ends, and returns when mailboxes have been written and nothing
// is under way. The gRPC server is to be stopped before.
func (s *Server) Run(ctx context.Context) error {
	var following sync.WaitGroup
	following.Go(func() { s.follow(ctx) })
	following.Go(func() { s.finishMoves(ctx) })
	defer following.Wait()
	return s.pool.Run(ctx)
}

// HandOver gives up the mailboxes that are another server's by now; see mailbox.Pool.
func (s *Server) HandOver(ctx context.Context) (int, error) { return s.pool.HandOver(ctx) }

// EndStreams ends all streams under way, and those that begin after it, with
// UNAVAILABLE, so that their readers go elsewhere.
func (s *Server) EndStreams() { s.endOnce.Do(func() { close(s.ended) }) }

// Register adds the services to a gRPC server that was made with Options.
func (s *Server) Register(g *grpc.Server) {
	messagesv1.RegisterMessagesServer(g, s)
	messagesv1.RegisterDeliveryServer(g, s)
	messagesv1.RegisterTransferServer(g, s)
}

// streamWorkers are goroutines that take calls, so that not each call makes a stack of
// its own and lets it grow. Calls for which none is free get one of their own.
const streamWorkers = 64

// Options are those of the gRPC server.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(maxHeaders), grpc.NumStreamWorkers(streamWorkers),
	}
}

// caller is the user in whose name a call is made.
func caller(ctx context.Context) (action.User, error) {
	users := metadata.ValueFromIncomingContext(ctx, "x-user")
	if len(users) != 1 || !action.User(users[0]).Valid() {
		return "", invalid("metadata x-user", "want one user id, 1 to %d bytes of printable ASCII", maxUser)
	}
	return action.User(users[0]), nil
}

// digest is what a request is known by: all of it, but for named fields.
func digest(r proto.Message, without ...protoreflect.Name) action.Digest {
	m := r.ProtoReflect()
	kept := m.New() // shares what is in the fields
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if !slices.Contains(without, f.Name()) {
			kept.Set(f, v)
		}
		return true
	})
	kept.SetUnknown(m.GetUnknown())
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte(m.Descriptor().FullName()+"\x00"), kept.Interface())
	if err != nil {
		panic(err) // it has come over the wire
	}
	return action.DigestOf(b)
}

// pageDigest binds a page token to its request and mailbox.
func pageDigest(u action.User, r proto.Message) action.Digest {
	d := digest(r, "page_size", "page_token")
	return action.DigestOf(append(d[:], u...))
}

// cursor is where a page begins; nil for the first.
func cursor(u action.User, r interface {
	proto.Message
	GetPageToken() string
}) (*index.Cursor, error) {
	if r.GetPageToken() == "" {
		return nil, nil
	}
	c, err := index.ParseCursor(r.GetPageToken(), pageDigest(u, r))
	if err != nil {
		return nil, invalid("page_token", "want the next_page_token of this request's last answer")
	}
	return &c, nil
}

func token(u action.User, r proto.Message, c *index.Cursor) string {
	if c == nil {
		return ""
	}
	return c.Token(pageDigest(u, r))
}

// mutate does a mutation for a user, and maps its error.
func (s *Server) mutate(ctx context.Context, u action.User, origin action.Origin, key string, request action.Digest, channel action.Channel,
	decide func(v index.View, first uint64, now action.Time) ([]action.Do, error)) (mailbox.Done, error) {
	ctx, span := s.tracer.Start(ctx, "commit")
	defer span.End()
	defer s.metrics.stage("commit")()
	done, err := s.pool.Mutate(ctx, u, mailbox.Mutation{Origin: origin, Key: key, Request: request, Channel: channel, Decide: decide})
	return done, grpcError(err, key)
}

// read answers from a mailbox, and maps its error.
func (s *Server) read(ctx context.Context, u action.User, stage string, f func(*mailbox.State) error) error {
	ctx, span := s.tracer.Start(ctx, stage)
	defer span.End()
	defer s.metrics.stage(stage)()
	return grpcError(s.pool.Read(ctx, u, f), "")
}

// replyHandler is the address at which a thread takes mail: made from its id and the
// installation's secret, so that nobody guesses it and all copies make the same.
func (s *Server) replyHandler(thread string) string {
	mac := hmac.New(sha256.New, s.cfg.ReplySecret)
	mac.Write([]byte(thread))
	return fmt.Sprintf("r-%s@%s", strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)))[:26], s.cfg.ReplyDomain)
}

// present returns a thread, who is or was in it, and whether u is; the thread is nil
// if the mailbox never had it.
func present(v index.View, u action.User, id string) (t *index.Thread, states []action.MemberState, member bool, err error) {
	if t, err = v.Thread(id); err != nil || t == nil {
		return nil, nil, false, err
	}
	states, err = v.Members(t)
	return t, states, isMember(states, action.Participant{User: u}), err
}

func isMember(states []action.MemberState, p action.Participant) bool {
	for _, s := range states {
		if s.Participant == p {
			return !s.Left
		}
	}
	return false
}

// stampAfter is one more than the greatest stamp of a copy.
func stampAfter(states []action.MemberState) uint64 {
	stamp := uint64(0)
	for _, s := range states {
		stamp = max(stamp, s.Stamp)
	}
	return stamp + 1
}

func kindOf(p action.Participant) action.MemberKind {
	if p.Email != "" {
		return action.MemberEmail
	}
	return action.MemberCellUser
}

// deliverEntry brings what a mailbox owes to a recipient.
func (s *Server) deliverEntry(ctx context.Context, from action.User, e action.Entry, a action.Action, states []action.MemberState, t index.Thread) error {
	defer s.metrics.stage("deliver")()
	r := &messagesv1.DeliverRequest{
		IdempotencyKey: e.Key, ThreadId: t.ID, Subject: t.Subject, ReplyHandler: t.ReplyHandler, Members: toStates(states),
	}
	if m := action.MessageOf(a.Do); m != nil {
		r.Message = toMessage(m, 0, 0)
		r.Message.LogTime = nil
	}
	return s.bring(ctx, e.To.User, r)
}
