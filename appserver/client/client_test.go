package client

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
)

// flaky answers its first calls with a code and the rest as they should be.
type flaky struct {
	messagesv1.UnimplementedMessagesServer
	mu    sync.Mutex
	fails int
	code  codes.Code
	keys  []string
	users []string
}

func (f *flaky) Send(ctx context.Context, r *messagesv1.SendRequest) (*messagesv1.SendResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	f.keys, f.users = append(f.keys, r.GetIdempotencyKey()), append(f.users, md.Get("x-user")...)
	if len(f.keys) <= f.fails {
		return nil, status.Error(f.code, "planted")
	}
	return &messagesv1.SendResponse{MessageId: "m"}, nil
}

func serve(t *testing.T, f *flaky, l net.Listener) {
	g := grpc.NewServer()
	messagesv1.RegisterMessagesServer(g, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() { g.Stop(); <-done })
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRepeats: what is UNAVAILABLE is repeated under the same key, a few times; what
// was refused is not.
func TestRepeats(t *testing.T) {
	for _, tc := range []struct {
		fails int
		code  codes.Code
		want  codes.Code
		calls int
	}{
		{3, codes.Unavailable, codes.OK, 4},
		{100, codes.Unavailable, codes.Unavailable, attempts},
		{1, codes.InvalidArgument, codes.InvalidArgument, 1},
		{1, codes.ResourceExhausted, codes.ResourceExhausted, 1},
	} {
		f := &flaky{fails: tc.fails, code: tc.code}
		l := listen(t, "127.0.0.1:0")
		serve(t, f, l)
		c, err := New(l.Addr().String(), Config{Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Send(As(t.Context(), "ann"), &messagesv1.SendRequest{IdempotencyKey: "k"})
		if got := status.Code(err); got != tc.want || len(f.keys) != tc.calls {
			t.Errorf("%d times %v: got %v after %d calls, want %v after %d", tc.fails, tc.code, got, len(f.keys), tc.want, tc.calls)
		}
		for i := range f.keys {
			if f.keys[i] != "k" || f.users[i] != "ann" {
				t.Errorf("call %d: got key %q of %q", i, f.keys[i], f.users[i])
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWaitsForServer: a call made before its server is there is answered when it is;
// one whose server never comes ends with its time.
func TestWaitsForServer(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	c, err := New(addr, Config{Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(t.Context(), &messagesv1.SendRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("without a server: got %v, want %v", err, codes.DeadlineExceeded)
	}
	patient, err := New(addr, Config{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	done := make(chan error, 1)
	go func() {
		_, err := patient.Send(t.Context(), &messagesv1.SendRequest{})
		done <- err
	}()
	serve(t, &flaky{}, listen(t, addr))
	if err := <-done; err != nil {
		t.Errorf("with a server that came later: %v", err)
	}
}
