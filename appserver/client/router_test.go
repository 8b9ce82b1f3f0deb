package client

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
)

// TestBudget: a server gets some calls again at once, and then as many as time and
// successes bring.
func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget()
		for i := range mostTokens {
			if wait := b.spend(); wait != 0 {
				t.Fatalf("call %d again has to wait for %v", i, wait)
			}
		}
		if wait := b.spend(); wait != 100*time.Millisecond {
			t.Errorf("one more waits for %v, want 100ms", wait)
		}
		time.Sleep(100 * time.Millisecond)
		for range 10 {
			b.earn()
		}
		if wait := b.spend(); wait != 0 {
			t.Errorf("after ten successes: waits for %v, want not at all", wait)
		}
		time.Sleep(time.Hour)
		for range mostTokens {
			b.spend()
		}
		if b.spend() == 0 {
			t.Error("an hour brings more than the bucket holds")
		}
	})
}

// TestRouterGivesUp: a call whose outcome is unknown is made again under its key until
// its time is up, within the budget; then it is UNAVAILABLE and says that it may have
// been done. A server's own refusal ends it at once.
func TestRouterGivesUp(t *testing.T) {
	for _, tc := range []struct {
		answer, want codes.Code
		least, most  int
	}{
		{codes.Unavailable, codes.Unavailable, 3, 100},
		{codes.NotFound, codes.NotFound, 1, 1},
		{codes.ResourceExhausted, codes.ResourceExhausted, 1, 1},
	} {
		f := &flaky{fails: 1 << 30, code: tc.answer}
		l := listen(t, "127.0.0.1:0")
		serve(t, f, l)
		r := NewRouter(RouterConfig{Servers: []string{l.Addr().String()}, Timeout: time.Second})
		_, err := r.Client().Send(As(t.Context(), "ann"), &messagesv1.SendRequest{IdempotencyKey: "k"})
		if status.Code(err) != tc.want || len(f.keys) < tc.least || len(f.keys) > tc.most {
			t.Errorf("%v: got %v after %d calls, want %v after %d to %d", tc.answer, err, len(f.keys), tc.want, tc.least, tc.most)
		}
		unknown := false
		for _, d := range status.Convert(err).Details() {
			if u, ok := d.(*messagesv1.OutcomeUnknown); ok && u.GetIdempotencyKey() == "k" {
				unknown = true
			}
		}
		if unknown != (tc.answer == codes.Unavailable) {
			t.Errorf("%v: says that the outcome is unknown: %v", tc.answer, unknown)
		}
		for _, k := range f.keys {
			if k != "k" {
				t.Errorf("called with key %q", k)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRouterNextServer: of several servers that are equally good one that is down is
// passed over, and the one that answers is remembered.
func TestRouterNextServer(t *testing.T) {
	down := listen(t, "127.0.0.1:0")
	gone := down.Addr().String()
	down.Close()
	f := &flaky{}
	l := listen(t, "127.0.0.1:0")
	serve(t, f, l)
	var dials atomic.Int64
	r := NewRouter(RouterConfig{Servers: []string{l.Addr().String(), gone}, Timeout: time.Minute, Dial: func(addr string) (*grpc.ClientConn, error) {
		dials.Add(1)
		return dialPlain(addr)
	}})
	defer r.Close()
	for range 5 {
		ctx, cancel := context.WithTimeout(As(t.Context(), "ann"), time.Minute)
		_, err := r.Client().Send(ctx, &messagesv1.SendRequest{IdempotencyKey: "k"})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(f.keys) != 5 || dials.Load() != 2 {
		t.Errorf("got %d calls by %d connections, want 5 by 2", len(f.keys), dials.Load())
	}
}
