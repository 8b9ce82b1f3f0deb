package rows_test

import (
	"context"
	"errors"
	"iter"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	rowsv1 "darklaunch/api/rows/v1"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/rows"
	"darklaunch/appserver/store/storetest"
)

// serve answers with s until the test ends or stop is called, which returns when
// the server has ended.
func serve(t *testing.T, s store.Store, addr string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rows.NewServer(s).Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-ended; err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func open(t *testing.T, addr string, timeout time.Duration) *rows.Store {
	t.Helper()
	s, err := rows.Open(t.Context(), addr, rows.Config{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestConformance: the store keeps the contract as all of them do. Rows B14, D55, F74-F76.
func TestConformance(t *testing.T) {
	addr, _ := serve(t, &memstore.Store{}, "127.0.0.1:0")
	storetest.Run(t, storetest.Target{Lasting: true, Open: func(ctx context.Context) (store.Store, error) {
		return rows.Open(ctx, addr, rows.Config{Timeout: 30 * time.Second})
	}})
}

var first = store.Fence{Epoch: 1, Tag: store.Tag{1}}

// TestErrors has the store behind the server end in each way, and looks at what
// comes out at the other side.
func TestErrors(t *testing.T) {
	var behind error // set between calls
	addr, _ := serve(t, failing{&behind}, "127.0.0.1:0")
	s := open(t, addr, 30*time.Second)
	for _, tt := range []struct {
		behind error
		want   error // nil: unknown
	}{
		{store.ErrFenced, store.ErrFenced},
		{store.ErrRefused, store.ErrRefused},
		{store.ErrInvalid, store.ErrInvalid},
		{store.ErrClosed, nil}, // of the server's store: this one is not
		{context.DeadlineExceeded, context.DeadlineExceeded},
		{context.Canceled, context.Canceled},
		{errors.New("disk on fire"), nil},
		// The codes alone say nothing: they come from whatever is on the way.
		{status.Error(codes.FailedPrecondition, "of another"), nil},
		{status.Error(codes.ResourceExhausted, "of another"), nil},
	} {
		behind = tt.behind
		err := s.Put(t.Context(), "ann", store.Fence{}, first, nil)
		if tt.want == nil && !store.Unknown(err) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%v became %v, want %v", tt.behind, err, tt.want)
		}
		if _, err := s.Read(t.Context(), "ann"); err == nil {
			t.Errorf("a read that failed with %v is well", tt.behind)
		}
	}
}

// failing fails all its calls.
type failing struct{ err *error }

func (f failing) Read(context.Context, string, ...store.Span) (store.Row, error) {
	return store.Row{}, *f.err
}

func (f failing) Put(context.Context, string, store.Fence, store.Fence, []store.Cell) error {
	return *f.err
}

func (f failing) Scan(context.Context, store.Range, ...store.Span) iter.Seq2[store.Row, error] {
	return func(yield func(store.Row, error) bool) { yield(store.Row{}, *f.err) }
}

func (failing) Close() error { return nil }

// TestConnectsAgain has the server go and come back: calls wait for it within
// their time, and fail beyond.
func TestConnectsAgain(t *testing.T) {
	kept := &memstore.Store{}
	addr, stop := serve(t, kept, "127.0.0.1:0")
	s := open(t, addr, time.Minute)
	stop()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Put(short, "ann", store.Fence{}, first, nil); !errors.Is(err, context.DeadlineExceeded) || !store.Unknown(err) {
		t.Errorf("without a server: got %v, want the deadline, and unknown", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Put(t.Context(), "ann", store.Fence{}, first, nil) }()
	serve(t, kept, addr)
	if err := <-done; err != nil {
		t.Errorf("a put that waited: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, err = rows.Open(t.Context(), addr, rows.Config{Timeout: 200 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "row store at "+addr+" does not answer") {
		t.Errorf("got %v, want that it does not answer", err)
	}
}

// TestStopEndsScans has a scan under way whose reader is slow: it does not hold up
// the server's end.
func TestStopEndsScans(t *testing.T) {
	kept := &memstore.Store{}
	for i := range 200 { // more than the connection's window holds
		cells := []store.Cell{{Family: store.Actions, Qualifier: []byte("a"), Value: make([]byte, 64<<10)}}
		if err := kept.Put(t.Context(), string(rune('a'+i)), store.Fence{}, first, cells); err != nil {
			t.Fatal(err)
		}
	}
	addr, stop := serve(t, kept, "127.0.0.1:0")
	s := open(t, addr, 30*time.Second)
	var failed error
	for _, err := range s.Scan(t.Context(), store.Range{}, store.Span{Family: store.Actions}) {
		if err != nil {
			failed = err
			break
		}
		stop()
	}
	if failed == nil {
		t.Error("the scan came to its end")
	}
}

// TestHostileRequests sends what no Store of ours would.
func TestHostileRequests(t *testing.T) {
	addr, _ := serve(t, &memstore.Store{}, "127.0.0.1:0")
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := rowsv1.NewRowsClient(conn)
	next := first.AppendFence(nil)
	for what, req := range map[string]*rowsv1.PutRequest{
		"nothing":        {},
		"no fence":       {User: []byte("ann")},
		"short fence":    {User: []byte("ann"), Next: next[:55]},
		"short current":  {User: []byte("ann"), Next: next, Current: next[:1]},
		"unknown family": {User: []byte("ann"), Next: next, Cells: []*rowsv1.Cell{{Family: 99, Qualifier: []byte("q"), Value: []byte("v")}}},
		"family of 2^31": {User: []byte("ann"), Next: next, Cells: []*rowsv1.Cell{{Family: -1 << 31, Qualifier: []byte("q"), Value: []byte("v")}}},
		"family + 256":   {User: []byte("ann"), Next: next, Cells: []*rowsv1.Cell{{Family: 256 + 2, Qualifier: []byte("q"), Value: []byte("v")}}},
		"nil cell":       {User: []byte("ann"), Next: next, Cells: []*rowsv1.Cell{{}}},
	} {
		if _, err := client.Put(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("put of %s: got %v, want INVALID_ARGUMENT", what, err)
		}
	}
	for what, req := range map[string]*rowsv1.ReadRequest{
		"nothing":    {},
		"huge limit": {User: []byte("ann"), Spans: []*rowsv1.Span{{Family: rowsv1.Family_FAMILY_ACTIONS, Limit: 1<<32 - 1}}},
		"fence":      {User: []byte("ann"), Spans: []*rowsv1.Span{{Family: rowsv1.Family_FAMILY_FENCE}}},
	} {
		if _, err := client.Read(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("read of %s: got %v, want INVALID_ARGUMENT", what, err)
		}
	}
	if _, err := client.Put(t.Context(), &rowsv1.PutRequest{User: []byte("ann"), Next: next}); err != nil {
		t.Errorf("a good put after them: %v", err)
	}
}
