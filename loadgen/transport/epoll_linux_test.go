package transport

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// Kernels before 5.11 have no epoll_pwait2.
func TestCoarseWait(t *testing.T) {
	p, clock := newPool(t, Config{Addr: serve(t, func(http.ResponseWriter, *http.Request) {}, nil)})
	p.poller.(*epoll).coarse = true
	for range 20 {
		if c := one(t, p, clock, new(Call)); c.Class != OK {
			t.Fatalf("got %v", c.Class)
		}
	}
	begin := clock.Now()
	if ended := p.Poll(begin + 20*time.Millisecond); len(ended) != 0 || clock.Now() < begin+20*time.Millisecond {
		t.Errorf("got %d calls after %v, want none after 20ms", len(ended), clock.Now()-begin)
	}
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine: ", err)
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	defer func() { s.Close(); <-done }()
	p, clock := newPool(t, Config{Addr: l.Addr().String()})
	if c := one(t, p, clock, new(Call)); c.Class != Status || c.Code != 404 {
		t.Errorf("got %v %d, want status 404", c.Class, c.Code)
	}
}
