package shadow

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// TestBreaker takes one breaker through its states.
func TestBreaker(t *testing.T) {
	var b breaker
	now := int64(1_000_000) * int64(time.Second)
	after := func(d time.Duration) { now += int64(d) }
	call := func(ok bool) {
		t.Helper()
		if !b.allow(now) {
			t.Fatalf("not allowed when %v", b.state)
		}
		b.done(now, ok)
	}
	state := func(want State) {
		t.Helper()
		if b.state != want {
			t.Fatalf("got %v, want %v", b.state, want)
		}
	}
	times := func(n int, ok bool) {
		t.Helper()
		for range n {
			call(ok)
		}
	}

	ready := func() bool { return b.closedTo() <= now }

	times(19, false)
	state(Closed) // too few to tell
	after(11 * time.Second)
	times(19, false)
	state(Closed) // the others are too old
	times(21, true)
	call(false)
	state(Closed) // 20 failures of 41
	times(1, false)
	state(Open) // 21 of 42

	if b.allow(now) || ready() {
		t.Fatal("open breaker lets a call through")
	}
	b.done(now, true) // on its way when it opened
	state(Open)
	after(time.Second)
	if !ready() || !b.allow(now) {
		t.Fatal("no probe after a second")
	}
	state(HalfOpen)
	if b.allow(now) || ready() {
		t.Fatal("two probes at a time")
	}
	b.forget()
	call(false) // another probe took the place of the one that was not made
	state(Open)
	after(time.Second)
	if b.allow(now) {
		t.Fatal("rests for 1s after a failed probe, want 2s")
	}
	after(time.Second)
	times(2, true)
	state(HalfOpen)
	call(true)
	state(Closed)
	times(19, false)
	state(Closed) // it counts afresh
	call(false)
	state(Open)
}

// TestBreakerOpens stops sending to a role that answers nothing, and comes back
// when it does.
func TestBreakerOpens(t *testing.T) {
	broken := true
	peer := func(c net.Conn) {
		for {
			if _, err := readRequest(c); err != nil || broken {
				return
			}
			io.WriteString(c, "HTTP/1.1 204 No\r\n\r\n")
		}
	}
	play(t, Config{}, peer, func(r *rig) {
		for range minFailures {
			if !r.back.Ready() {
				t.Fatal("not ready before it failed")
			}
			if a := r.one(get()); a.Err == nil {
				t.Fatal("no error")
			}
		}
		before := r.conns.Load()
		if _, err := r.send(get()); !errors.Is(err, ErrOpen) || r.back.State() != Open || r.back.Ready() || r.conns.Load() != before {
			t.Errorf("got %v, state %v and %d connections more; want %v, open and none", err, r.back.State(), r.conns.Load()-before, ErrOpen)
		}
		broken = false
		time.Sleep(firstRest)
		for range needProbes {
			if a := r.one(get()); a.Err != nil {
				t.Error(a.Err)
			}
		}
		if got := r.back.State(); got != Closed {
			t.Errorf("got %v after probes, want closed", got)
		}
	})
}
