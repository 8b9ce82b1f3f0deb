// Package rows keeps the members of a small cell in its row-store process: Server
// answers cell.v1 with a cell.Registry, and Coordinator asks one. A cell without
// ZooKeeper has one such process, which is all that its members can lose: while it is
// down there are no rows either.
package rows

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	cellv1 "darklaunch/api/cell/v1"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/store"
	"darklaunch/internal/refusal"
)

// Coordinator is a cell.Coordinator that asks the row-store process at an address.
type Coordinator struct{ addr string }

// New returns a Coordinator. It connects when a session is opened.
func New(addr string) *Coordinator { return &Coordinator{addr} }

// openTimeout is how long Open waits for an answer.
const openTimeout = 4 * time.Second

func (c *Coordinator) connect() (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
	)
	if err != nil {
		return nil, fmt.Errorf("members at %s: %w", c.addr, err)
	}
	return conn, nil
}

// Open implements cell.Coordinator.
func (c *Coordinator) Open(ctx context.Context) (cell.Session, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	asked, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	members := cellv1.NewMembersClient(conn)
	opened, err := members.Open(asked, &cellv1.OpenRequest{})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("members at %s: %w", c.addr, err), conn.Close())
	}
	s := &session{
		conn: conn, members: members, id: opened.GetSession(),
		timeout: time.Duration(opened.GetTimeoutMs()) * time.Millisecond, changed: make(chan struct{}),
	}
	watching, stop := context.WithCancel(context.Background()) // for as long as the session
	s.stop = stop
	s.wg.Go(func() { s.watch(watching) })
	return s, nil
}

// SetConfig replaces the live configuration.
func (c *Coordinator) SetConfig(ctx context.Context, b []byte) error {
	conn, err := c.connect()
	if err != nil {
		return err
	}
	_, err = cellv1.NewMembersClient(conn).SetConfig(ctx, &cellv1.SetConfigRequest{Config: b})
	return errors.Join(errorFrom(err), conn.Close())
}

// session implements cell.Session.
type session struct {
	conn    *grpc.ClientConn
	members cellv1.MembersClient
	id      uint64
	timeout time.Duration
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed when it is time to read
	woken   bool          // it is closed
}

func (s *session) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.woken {
		close(s.changed)
		s.woken = true
	}
}

// watch wakes at each change, and when it may have missed one.
func (s *session) watch(ctx context.Context) {
	for ctx.Err() == nil {
		stream, err := s.members.Watch(ctx, &cellv1.WatchRequest{})
		for err == nil {
			if _, err = stream.Recv(); err == nil {
				s.wake()
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (s *session) Timeout() time.Duration { return s.timeout }

func (s *session) Touch(ctx context.Context) error {
	_, err := s.members.Touch(ctx, &cellv1.TouchRequest{Session: s.id})
	return errorFrom(err)
}

func (s *session) Register(ctx context.Context, name string, record []byte) error {
	_, err := s.members.Register(ctx, &cellv1.RegisterRequest{Session: s.id, Name: name, Record: record})
	return errorFrom(err)
}

func (s *session) Deregister(ctx context.Context, name string) error {
	_, err := s.members.Deregister(ctx, &cellv1.DeregisterRequest{Session: s.id, Name: name})
	return errorFrom(err)
}

func (s *session) Read(ctx context.Context) (cell.Snapshot, <-chan struct{}, error) {
	s.mu.Lock()
	if s.woken {
		s.changed, s.woken = make(chan struct{}), false
	}
	changed := s.changed
	s.mu.Unlock()
	r, err := s.members.Read(ctx, &cellv1.ReadRequest{Session: s.id})
	if err != nil {
		return cell.Snapshot{}, nil, errorFrom(err)
	}
	return cell.Snapshot{
		At:      store.Ring{Incarnation: r.GetIncarnation(), Number: r.GetNumber()},
		Records: r.GetRecords(), Config: r.GetConfig(),
	}, changed, nil
}

// lastWord is how long the server may take to hear of a session's end.
const lastWord = time.Second

func (s *session) Close() error {
	s.stop()
	s.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastWord)
	defer cancel()
	_, err := s.members.Close(ctx, &cellv1.CloseRequest{Session: s.id}, grpc.WaitForReady(false))
	return errors.Join(errorFrom(err), s.conn.Close())
}

// refusals are the errors that cross the connection as themselves.
var refusals = refusal.Domain{Name: "cell.v1", Refusals: []refusal.Refusal{
	{Err: cell.ErrTaken, Code: codes.AlreadyExists, Reason: "TAKEN"},
	{Err: cell.ErrExpired, Code: codes.FailedPrecondition, Reason: "EXPIRED"},
}}

func errorFrom(err error) error {
	if refused := refusals.Of(err); refused != nil {
		return refused
	}
	return err
}

func errorTo(err error) error {
	if err == nil {
		return nil
	}
	if refused := refusals.Status(err); refused != nil {
		return refused
	}
	return status.Error(codes.Unavailable, err.Error())
}
