package appserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// maxPiece bounds the bytes of cells in one message of Export, a single cell aside.
const maxPiece = 1 << 20

// Move implements messages.v1.Transfer.
func (s *Server) Move(ctx context.Context, r *messagesv1.MoveRequest) (*messagesv1.MoveResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case s.cfg.Router == nil || s.cfg.Directory == nil:
		return nil, status.Error(codes.FailedPrecondition, "this server knows no directory of cells")
	case r.GetGeneration() == 0 || r.GetGeneration() >= 1<<32:
		return nil, invalid("generation", "want 1 or more, below 1<<32")
	case r.GetFrom() == "" || r.GetFrom() == s.cfg.Cell:
		return nil, invalid("from", "want another cell than %s", s.cfg.Cell)
	}
	step := func(step) error { return nil }
	if s.moving != nil {
		step = s.moving
	}
	m := &move{step: step, s: s, user: u, from: r.GetFrom(), generation: r.GetGeneration(), old: messagesv1.NewTransferClient(s.cfg.Router.At(r.GetFrom()))}
	err = m.do(ctx)
	if err == nil {
		err = s.cfg.Directory.Publish(ctx, string(u), directory.Place{Cell: s.cfg.Cell, Generation: m.generation})
	}
	if err == nil {
		err = step(published)
	}
	if err != nil {
		s.cfg.Log.Warn("a user could not be moved here, yet", "user", u, "from", m.from, "generation", m.generation, "err", err)
		return nil, moveError(err)
	}
	s.cfg.Directory.Learn(string(u), directory.Place{Cell: s.cfg.Cell, Generation: m.generation})
	return &messagesv1.MoveResponse{Actions: m.seq, ClosedNanos: m.closed.Nanoseconds()}, nil
}

// moveError is what a caller is told.
func moveError(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
		return s.Err() // with the details of what was asked of the other cell
	}
	if m, ok := errors.AsType[*mailbox.Moved](err); ok {
		return grpcError(m, "")
	}
	if errors.Is(err, mailbox.ErrLost) || errors.Is(err, directory.ErrConflict) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

// step is what of a move is done.
type step int

const (
	begun step = iota
	copied
	sealed
	finished
	opened
	published
	steps
)

func (s step) String() string {
	return [...]string{"begun", "copied", "sealed", "finished", "opened", "published"}[s]
}

// move brings a user here.
type move struct {
	s          *Server
	step       func(step) error // called after each; an error ends the move there
	user       action.User
	from       string
	generation uint64
	old        messagesv1.TransferClient

	arrival *mailbox.Arrival
	copied  uint64 // the last action that is here
	seq     uint64 // the last that there is
	closed  time.Duration
}

func (m *move) do(ctx context.Context) error {
	out := metadata.AppendToOutgoingContext(ctx, "x-user", string(m.user))
	var err error
	m.arrival, err = m.s.pool.Arrive(ctx, m.user, m.from, m.generation)
	if errors.Is(err, mailbox.ErrArrived) {
		return nil // all that is left is to say so
	}
	if err != nil {
		return err
	}
	if err := m.step(begun); err != nil {
		return err
	}
	if err := m.copy(ctx, out, false); err != nil {
		return err
	}
	if err := m.step(copied); err != nil {
		return err
	}
	begin := time.Now()
	closed, err := m.old.Seal(out, &messagesv1.SealRequest{To: m.s.cfg.Cell, Generation: m.generation})
	if err != nil {
		return fmt.Errorf("seal in cell %s: %w", m.from, err)
	}
	m.seq = closed.GetActions()
	if err := m.step(sealed); err != nil {
		return err
	}
	if err := m.copy(ctx, out, true); err != nil {
		return err
	}
	if m.copied != m.seq {
		return fmt.Errorf("cell %s has sealed %d actions, and given %d: %w", m.from, m.seq, m.copied, mailbox.ErrCorrupt)
	}
	if err := m.step(finished); err != nil {
		return err
	}
	if err := m.arrival.Open(ctx, m.seq); err != nil {
		return err
	}
	m.closed = time.Since(begin)
	return m.step(opened)
}

// patience is how long a move that has closed the old row is given to be finished by who
// has begun it.
const patience = 2 * time.Second

// Bounds of finishing moves: how many wait, and how many are under way.
const (
	maxUnfinished = 256
	maxFinishing  = 8
)

// unfinished are moves from this cell that may have been given up half way: nobody
// serves their users, or the directory does not know where they are.
type unfinished struct {
	queue chan departure

	mu    sync.Mutex
	known map[action.User]bool // in queue, or being finished
}

// departure is a user who was found to have left.
type departure struct {
	user action.User
	to   *mailbox.Moved
	due  time.Time
}

// departed notes a user whose row here is sealed. One too many is dropped: the user is
// asked for again, if the move is not finished.
func (s *Server) departed(u action.User, to *mailbox.Moved) {
	if s.cfg.Directory == nil || s.cfg.Router == nil {
		return
	}
	s.unfinished.mu.Lock()
	defer s.unfinished.mu.Unlock()
	if s.unfinished.known[u] {
		return
	}
	select {
	case s.unfinished.queue <- departure{u, to, time.Now().Add(s.patience)}:
		s.unfinished.known[u] = true
	default:
	}
}

// finishMoves finishes those moves that are not by the time that they are due, until ctx
// ends.
func (s *Server) finishMoves(ctx context.Context) {
	var under errgroup.Group
	under.SetLimit(maxFinishing)
	defer func() { _ = under.Wait() }() // which has no errors
	for {
		select {
		case d := <-s.unfinished.queue:
			if pause.For(ctx, time.Until(d.due)) != nil {
				return
			}
			under.Go(func() error {
				s.finishMove(ctx, d)
				s.unfinished.mu.Lock()
				defer s.unfinished.mu.Unlock()
				delete(s.unfinished.known, d.user)
				return nil
			})
		case <-ctx.Done():
			return
		}
	}
}

// finishMove has the cell to which a user has left take the user in, unless the directory
// says that this is done. It may come beside another attempt, or late: see package
// mailbox.
func (s *Server) finishMove(ctx context.Context, d departure) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := s.cfg.Directory.Fresh(ctx, string(d.user))
	if err == nil && at.Generation >= d.to.Generation {
		return
	}
	if err == nil {
		r := &messagesv1.MoveRequest{From: s.cfg.Cell, Generation: d.to.Generation}
		_, err = messagesv1.NewTransferClient(s.cfg.Router.At(d.to.Cell)).Move(client.As(ctx, string(d.user)), r)
	}
	if err != nil {
		s.cfg.Log.Warn("a move that was given up half way could not be finished, yet", "user", d.user, "to", d.to.Cell, "generation", d.to.Generation, "err", err)
		return
	}
	s.cfg.Log.Info("a move that was given up half way is finished", "user", d.user, "to", d.to.Cell, "generation", d.to.Generation)
}

// copy copies what the old row's log has beyond what is here; all is with the outbox, of a
// sealed row.
func (m *move) copy(ctx, out context.Context, all bool) error {
	stream, err := m.old.Export(out, &messagesv1.ExportRequest{After: m.copied}, grpc.MaxCallRecvMsgSize(store.MaxPut))
	if err != nil {
		return fmt.Errorf("export of cell %s: %w", m.from, err)
	}
	for {
		piece, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("export of cell %s: %w", m.from, err)
		}
		var cells []store.Cell
		for _, c := range piece.GetCells() {
			cell := store.Cell{Family: store.Family(c.GetFamily()), Qualifier: c.GetQualifier(), Value: c.GetValue()}
			switch {
			case cell.Family == store.Actions && string(cell.Qualifier) == string(action.Qualifier(m.copied+1)):
				m.copied++
			case cell.Family == store.Outbox:
				if !all { // what is due may have been delivered when the row is sealed
					continue
				}
			default:
				return fmt.Errorf("cell %s has given %v %x after action %d: %w", m.from, cell.Family, cell.Qualifier, m.copied, mailbox.ErrCorrupt)
			}
			cells = append(cells, cell)
		}
		if len(cells) == 0 {
			continue
		}
		if err := m.arrival.Put(ctx, cells); err != nil {
			return err
		}
	}
}

// Export implements messages.v1.Transfer.
func (s *Server) Export(r *messagesv1.ExportRequest, stream grpc.ServerStreamingServer[messagesv1.ExportResponse]) error {
	u, err := caller(stream.Context())
	if err != nil {
		return err
	}
	for piece, err := range s.pool.Export(stream.Context(), u, r.GetAfter()) {
		if err != nil {
			return moveError(err)
		}
		out, size := &messagesv1.ExportResponse{}, 0
		for i, c := range piece {
			out.Cells = append(out.Cells, &messagesv1.ExportResponse_Cell{Family: uint32(c.Family), Qualifier: c.Qualifier, Value: c.Value})
			if size += len(c.Qualifier) + len(c.Value); size < maxPiece && i < len(piece)-1 {
				continue
			}
			if err := stream.Send(out); err != nil {
				return err
			}
			out, size = &messagesv1.ExportResponse{}, 0
		}
	}
	return nil
}

// Seal implements messages.v1.Transfer.
func (s *Server) Seal(ctx context.Context, r *messagesv1.SealRequest) (*messagesv1.SealResponse, error) {
	u, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	if r.GetTo() == "" || r.GetTo() == s.cfg.Cell {
		return nil, invalid("to", "want another cell than %s", s.cfg.Cell)
	}
	if s.cfg.Router != nil && !forwarded(ctx) {
		// Who has the mailbox in memory is to answer no more from it.
		if owner := s.cfg.Router.OwnerConn(string(u)); owner != nil {
			return messagesv1.NewTransferClient(owner).Seal(onward(ctx), r)
		}
	}
	seq, err := s.pool.Seal(ctx, u, r.GetTo(), r.GetGeneration())
	if err != nil {
		return nil, moveError(err)
	}
	return &messagesv1.SealResponse{Actions: seq}, nil
}

// Users implements messages.v1.Transfer.
func (s *Server) Users(_ *messagesv1.UsersRequest, stream grpc.ServerStreamingServer[messagesv1.UsersResponse]) error {
	for row, err := range s.pool.Rows(stream.Context()) {
		if err != nil {
			return moveError(err)
		}
		if err := stream.Send(&messagesv1.UsersResponse{User: string(row.User), Gone: row.Gone, Generation: row.Generation}); err != nil {
			return err
		}
	}
	return nil
}
