// Package rows is the contract of package store over gRPC: Server answers with any
// store there is, and Store is a store that asks one. The row-store process of a
// small cell is a Server in front of Pebble.
package rows

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	rowsv1 "darklaunch/api/rows/v1"
	"darklaunch/appserver/store"
	"darklaunch/internal/refusal"
)

// maxMessage bounds a message both ways. The largest put and the largest page,
// with what encoding adds, are below it.
const maxMessage = 16 << 20

// pingEvery is how long a connection may be silent before the client asks
// whether it still works, and pingTimeout how long the answer may take: so a
// server that has vanished without a word is noticed.
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// Config says how a Store calls.
type Config struct {
	// Timeout bounds Read and Put; a context that ends sooner does too. A Scan is
	// bounded by its context and the connection's life. Zero means 4s.
	Timeout time.Duration
}

// Store is a store.Store that asks a row-store process. It connects again by
// itself when the process is back; calls wait for that within their time.
type Store struct {
	addr    string
	timeout time.Duration
	conn    *grpc.ClientConn
	rows    rowsv1.RowsClient
	gate    store.Gate
}

// Open connects to the row store at addr, a host:port, and returns when it has
// answered or cfg.Timeout has passed.
func Open(ctx context.Context, addr string, cfg Config) (*Store, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 4 * time.Second
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("row store at %s: %w", addr, err)
	}
	s := &Store{addr: addr, timeout: cfg.Timeout, conn: conn, rows: rowsv1.NewRowsClient(conn)}
	if _, err := s.Read(ctx, "?"); err != nil {
		return nil, errors.Join(fmt.Errorf("row store at %s does not answer: %w", addr, err), s.Close())
	}
	return s, nil
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if err := store.CheckRead(user, spans); err != nil {
		return store.Row{}, err
	}
	if err := s.gate.Enter(); err != nil {
		return store.Row{}, err
	}
	defer s.gate.Leave()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	resp, err := s.rows.Read(ctx, &rowsv1.ReadRequest{User: []byte(user), Spans: spansTo(spans)})
	var row store.Row
	if err == nil {
		row, err = rowFrom(resp.GetRow())
	}
	if err != nil {
		return store.Row{}, fmt.Errorf("read row of %q: %w", user, errorFrom(err))
	}
	return row, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if err := store.CheckPut(user, cur, next, cells); err != nil {
		return err
	}
	if err := s.gate.Enter(); err != nil {
		return err
	}
	defer s.gate.Leave()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req := &rowsv1.PutRequest{User: []byte(user), Current: fenceTo(cur), Next: fenceTo(next), Cells: cellsTo(cells)}
	if _, err := s.rows.Put(ctx, req); err != nil {
		return fmt.Errorf("put to row of %q: %w", user, errorFrom(err))
	}
	return nil
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range, spans ...store.Span) iter.Seq2[store.Row, error] {
	return func(yield func(store.Row, error) bool) {
		if err := store.CheckSpans(spans); err != nil {
			yield(store.Row{}, err)
			return
		}
		if err := s.gate.Enter(); err != nil {
			yield(store.Row{}, err)
			return
		}
		defer s.gate.Leave()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // of a stream that is left early
		stream, err := s.rows.Scan(ctx, &rowsv1.ScanRequest{From: r.From, To: r.To, Spans: spansTo(spans)})
		for err == nil {
			var resp *rowsv1.ScanResponse
			if resp, err = stream.Recv(); err != nil {
				break
			}
			var row store.Row
			if row, err = rowFrom(resp.GetRow()); err == nil && !yield(row, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(store.Row{}, fmt.Errorf("scan: %w", errorFrom(err)))
		}
	}
}

// Close implements store.Store.
func (s *Store) Close() error {
	if !s.gate.Close() {
		return nil
	}
	return s.conn.Close()
}

// refusals are the errors that cross the connection as themselves.
var refusals = refusal.Domain{Name: "rows.v1", Refusals: []refusal.Refusal{
	{Err: store.ErrFenced, Code: codes.FailedPrecondition, Reason: "FENCED"},
	{Err: store.ErrRefused, Code: codes.ResourceExhausted, Reason: "REFUSED"},
	{Err: store.ErrInvalid, Code: codes.InvalidArgument, Reason: "INVALID"},
}}

// errorFrom turns what a call ended with into the contract's errors.
func errorFrom(err error) error {
	if refused := refusals.Of(err); refused != nil {
		return refused
	}
	st, ok := status.FromError(err)
	switch {
	case !ok:
	case st.Code() == codes.Canceled:
		return fmt.Errorf("%s: %w", st.Message(), context.Canceled)
	case st.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", st.Message(), context.DeadlineExceeded)
	}
	return err
}

// errorTo is the inverse of errorFrom.
func errorTo(err error) error {
	if refused := refusals.Status(err); refused != nil {
		return refused
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}
