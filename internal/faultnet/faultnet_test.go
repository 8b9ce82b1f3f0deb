package faultnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds each wait for what must come.
const patience = 30 * time.Second

// A rig is a target behind a proxy. The target's end of each connection, in
// order, is on accepted.
type rig struct {
	*Proxy
	accepted chan *net.TCPConn
}

func newRig(t testing.TB) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{p, make(chan *net.TCPConn, 100)}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.accepted <- small(c)
		}
	})
	t.Cleanup(func() {
		p.Close()
		l.Close()
		accepting.Wait()
		close(r.accepted)
		for c := range r.accepted {
			c.Close()
		}
	})
	return r
}

// dial connects to the proxy.
func (r *rig) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return small(c)
}

// small leaves c little room in the kernel, so that it is full soon.
func small(c net.Conn) *net.TCPConn {
	tcp := c.(*net.TCPConn)
	tcp.SetReadBuffer(64 << 10)
	tcp.SetWriteBuffer(64 << 10)
	return tcp
}

// target returns the target's end of the next connection.
func (r *rig) target(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case c := <-r.accepted:
		c.SetDeadline(time.Now().Add(patience))
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		t.Fatal("the target was not connected to")
		return nil
	}
}

// dialReset wants a connection that is reset. The reset may be faster than the
// return from connect.
func dialReset(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
}

// await waits until k has bitten n times.
func (r *rig) await(t testing.TB, k Kind, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Await(ctx, k, n); err != nil {
		t.Fatal(err)
	}
}

// oldAndNew runs f with a connection that was there, and in use, before inject,
// and with one that was made after it. It returns the ends in the order from,
// to of the direction.
func oldAndNew(t *testing.T, d Direction, inject func(r *rig), f func(t *testing.T, r *rig, from, to *net.TCPConn)) {
	for _, name := range []string{"existing", "new"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if name == "new" {
				inject(r)
			}
			client := r.dial(t)
			target := r.target(t)
			if name == "existing" {
				send(t, client, "hello")
				receive(t, target, "hello")
				send(t, target, "hello to you")
				receive(t, client, "hello to you")
				for _, k := range []Kind{Delayed, Limited, Stalled, Swallowed, SlowClosed, Corrupted, WasCut, WasReset, Unreachable} {
					if n := r.Count(k); n != 0 {
						t.Errorf("%s %d times without a fault", k, n)
					}
				}
				inject(r)
			}
			if d == ToTarget {
				f(t, r, client, target)
			} else {
				f(t, r, target, client)
			}
		})
	}
}

// eachWay runs f for both directions, too.
func eachWay(t *testing.T, fault Faults, f func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn)) {
	for d, name := range []string{ToTarget: "to target", ToClient: "to client"} {
		t.Run(name, func(t *testing.T) {
			d := Direction(d)
			oldAndNew(t, d, func(r *rig) { r.Set(d, fault) }, func(t *testing.T, r *rig, from, to *net.TCPConn) {
				// The other way is free of it.
				send(t, to, "the other way")
				receive(t, from, "the other way")
				f(t, r, d, from, to)
			})
		})
	}
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("send %.20q: %v", text, err)
	}
}

func receive(t testing.TB, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("got %.40q, %v, want %.40q", b[:n], err, want)
	}
}

// wantEnd reads one byte too many.
func wantEnd(t testing.TB, what string, c net.Conn, want error) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, want) {
		t.Errorf("%s: got %d bytes, %v, want %v", what, n, err, want)
	}
}

// wantNothing shows that nothing arrives for a while.
func wantNothing(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	wantEnd(t, "nothing expected", c, os.ErrDeadlineExceeded)
	c.SetReadDeadline(time.Now().Add(patience))
}

func wantCount(t testing.TB, r *rig, k Kind, want int64) {
	t.Helper()
	if got := r.Count(k); got != want {
		t.Errorf("%s: got %d times, want %d", k, got, want)
	}
}

func wantAtLeast(t testing.TB, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got < want {
		t.Errorf("took %v, want at least %v", got, want)
	}
}

// noise is n ≤ 64 Mi bytes that no mix-up leaves the same.
func noise(n int) string { return allNoise()[:n] }

var allNoise = sync.OnceValue(func() string {
	b := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return string(b)
})

// fill writes to c until that blocks, and returns what it wrote.
func fill(t testing.TB, c net.Conn) string {
	t.Helper()
	data := noise(48 << 20) // more than the proxy and all kernel buffers hold
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := io.WriteString(c, data)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes, got %v, want the write to block", n, err)
	}
	c.SetWriteDeadline(time.Now().Add(patience))
	return data[:n]
}

func TestTransparent(t *testing.T) {
	r := newRig(t)
	client := r.dial(t)
	target := r.target(t)
	data := noise(3 << 20)
	var echo sync.WaitGroup
	echo.Go(func() {
		io.Copy(target, target)
		target.CloseWrite() // after the client's half-close came through
	})
	echo.Go(func() {
		send(t, client, data)
		client.CloseWrite()
	})
	got, err := io.ReadAll(client)
	if err != nil || string(got) != data {
		t.Errorf("got %d bytes, %v, want the %d sent", len(got), err, len(data))
	}
	echo.Wait()
}

func TestHalfClose(t *testing.T) {
	for d := range []Direction{ToTarget, ToClient} {
		oldAndNew(t, Direction(d), func(*rig) {}, func(t *testing.T, _ *rig, from, to *net.TCPConn) {
			send(t, from, "last words")
			from.CloseWrite()
			receive(t, to, "last words")
			wantEnd(t, "after the half-close", to, io.EOF)
			send(t, to, "still open")
			receive(t, from, "still open")
			to.Close()
			wantEnd(t, "after both", from, io.EOF)
		})
	}
}

func TestResetPasses(t *testing.T) {
	for d := range []Direction{ToTarget, ToClient} {
		oldAndNew(t, Direction(d), func(*rig) {}, func(t *testing.T, r *rig, from, to *net.TCPConn) {
			reset(from)
			wantEnd(t, "the other end", to, syscall.ECONNRESET)
			wantCount(t, r, WasReset, 0)
		})
	}
}

func TestBackPressurePasses(t *testing.T) {
	r := newRig(t)
	client := r.dial(t)
	target := r.target(t)
	receive(t, target, fill(t, client))
}

func TestDelay(t *testing.T) {
	const delay = 60 * time.Millisecond
	eachWay(t, Faults{Delay: delay}, func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn) {
		start := time.Now()
		send(t, from, "a")
		receive(t, to, "a")
		wantAtLeast(t, start, delay)
		wantCount(t, r, Delayed, 1)

		// What waits follows the fault: an hour becomes nothing.
		r.Set(d, Faults{Delay: time.Hour})
		send(t, from, "b")
		r.await(t, Delayed, 2)
		r.Set(d, Faults{})
		receive(t, to, "b")
		wantCount(t, r, Delayed, 2)
	})
}

// TestDelayKeepsThroughput sends what would take a minute if each read waited
// for the one before.
func TestDelayKeepsThroughput(t *testing.T) {
	const delay = 100 * time.Millisecond
	r := newRig(t)
	r.Set(ToTarget, Faults{Delay: delay})
	client := r.dial(t)
	target := r.target(t)
	data := noise(10 << 20)
	start := time.Now()
	var sending sync.WaitGroup
	sending.Go(func() { send(t, client, data) })
	receive(t, target, data)
	sending.Wait()
	wantAtLeast(t, start, delay)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %v: delays add up", took)
	}
	if n := r.Count(Delayed); n == 0 {
		t.Error("nothing was delayed")
	}
}

func TestRate(t *testing.T) {
	eachWay(t, Faults{Rate: 100_000}, func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn) {
		data := noise(20_000)
		start := time.Now()
		send(t, from, data)
		receive(t, to, data)
		wantAtLeast(t, start, 200*time.Millisecond)
		if n := r.Count(Limited); n < 4 {
			t.Errorf("got %d waits, want at least one for each 50 ms", n)
		}
		r.Set(d, Faults{Rate: 1})
		n := r.Count(Limited)
		send(t, from, data)
		r.await(t, Limited, n+1)
		r.Set(d, Faults{}) // or it takes hours
		receive(t, to, data)
	})
}

func TestStall(t *testing.T) {
	eachWay(t, Faults{Stall: true}, func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn) {
		send(t, from, "held")
		r.await(t, Stalled, 1)
		wantNothing(t, to)
		sent := fill(t, from) // back-pressure
		wantCount(t, r, Stalled, 1)
		r.Set(d, Faults{})
		receive(t, to, "held"+sent)

		r.Set(d, Faults{Stall: true})
		from.CloseWrite()
		r.await(t, Stalled, 2)
		wantNothing(t, to)
		r.Set(d, Faults{})
		wantEnd(t, "the end", to, io.EOF)
	})
}

func TestSwallow(t *testing.T) {
	eachWay(t, Faults{Swallow: true}, func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn) {
		lost := noise(32 << 20) // more than all buffers hold: no back-pressure
		send(t, from, lost)
		if n := r.Count(Swallowed); n == 0 {
			t.Error("nothing was swallowed")
		}
		wantNothing(t, to)
		before := r.Count(Swallowed)
		from.CloseWrite()
		for r.Count(Swallowed) < before+1 {
			before = r.Count(Swallowed)
			r.await(t, Swallowed, before+1)
		}
		wantNothing(t, to)
		r.Set(d, Faults{})
		wantEnd(t, "the end, when it is lifted", to, io.EOF)
		send(t, to, "the other way")
		receive(t, from, "the other way")
	})
}

// TestSwallowHoldsReset resets a connection into a black hole.
func TestSwallowHoldsReset(t *testing.T) {
	eachWay(t, Faults{Swallow: true}, func(t *testing.T, r *rig, d Direction, from, to *net.TCPConn) {
		reset(from)
		r.await(t, Swallowed, 1)
		send(t, to, "into nothing") // or this brings the news
		wantNothing(t, to)
		wantCount(t, r, Swallowed, 1)
		r.Set(d, Faults{})
		wantEnd(t, "when it is lifted", to, syscall.ECONNRESET)
	})
}

func TestSlowClose(t *testing.T) {
	const slow = 80 * time.Millisecond
	eachWay(t, Faults{SlowClose: slow}, func(t *testing.T, r *rig, _ Direction, from, to *net.TCPConn) {
		start := time.Now()
		send(t, from, "bye")
		from.CloseWrite()
		receive(t, to, "bye")
		wantEnd(t, "the end", to, io.EOF)
		wantAtLeast(t, start, slow)
		wantCount(t, r, SlowClosed, 1)
	})
}

func TestCorrupt(t *testing.T) {
	for d := range []Direction{ToTarget, ToClient} {
		d := Direction(d)
		oldAndNew(t, d, func(r *rig) { r.Corrupt(d, 70_000) }, func(t *testing.T, r *rig, from, to *net.TCPConn) {
			data := []byte(noise(100_000))
			send(t, from, string(data[:60_000]))
			receive(t, to, string(data[:60_000]))
			wantCount(t, r, Corrupted, 0)
			send(t, from, string(data[60_000:]))
			data[70_000-1] ^= 1
			receive(t, to, string(data[60_000:]))
			wantCount(t, r, Corrupted, 1)
		})
	}
}

func TestSwallowAndCut(t *testing.T) {
	oldAndNew(t, ToClient, func(r *rig) { r.SwallowAndCut(ToClient) }, func(t *testing.T, r *rig, target, client *net.TCPConn) {
		send(t, client, "add 1")
		receive(t, target, "add 1") // it is done
		send(t, target, "added")
		wantEnd(t, "the client", client, io.EOF) // and cannot be known
		wantEnd(t, "the target", target, io.EOF)
		wantCount(t, r, Swallowed, 1)
		wantCount(t, r, WasCut, 1)

		// It bites once.
		client = r.dial(t)
		target = r.target(t)
		send(t, target, "again")
		receive(t, client, "again")
	})
	oldAndNew(t, ToTarget, func(r *rig) { r.SwallowAndCut(ToTarget) }, func(t *testing.T, r *rig, client, target *net.TCPConn) {
		send(t, client, "add 1")
		wantEnd(t, "the target", target, io.EOF)
		wantEnd(t, "the client", client, io.EOF)
		wantCount(t, r, Swallowed, 1)
		wantCount(t, r, WasCut, 1)
	})
}

// TestCut cuts two connections, of which one is full of bytes: both ends still
// read EOF, not a reset.
func TestCut(t *testing.T) {
	r := newRig(t)
	r.Cut() // bites nobody
	wantCount(t, r, WasCut, 0)
	busy, idle := r.dial(t), (*net.TCPConn)(nil)
	busyTarget := r.target(t)
	idle = r.dial(t)
	idleTarget := r.target(t)
	fill(t, busy)
	fill(t, busyTarget)
	r.Cut()
	wantCount(t, r, WasCut, 2)
	wantEnd(t, "idle client", idle, io.EOF)
	wantEnd(t, "idle target", idleTarget, io.EOF)
	for what, c := range map[string]*net.TCPConn{"busy client": busy, "busy target": busyTarget} {
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("%s: got %v, want EOF after what had arrived", what, err)
		}
	}
	after := r.dial(t)
	send(t, after, "not affected")
	receive(t, r.target(t), "not affected")
	wantCount(t, r, WasCut, 2)
}

// TestEndingIsNoBite brings connections down that suffer from another fault.
func TestEndingIsNoBite(t *testing.T) {
	r := newRig(t)
	r.Set(ToTarget, Faults{Stall: true})
	r.Set(ToClient, Faults{Swallow: true})
	for range 10 {
		client := r.dial(t)
		r.target(t)
		r.Reset()
		wantEnd(t, "client", client, syscall.ECONNRESET)
	}
	r.Close()
	wantCount(t, r, WasReset, 10)
	wantCount(t, r, Stalled, 0)
	wantCount(t, r, Swallowed, 0)
}

func TestReset(t *testing.T) {
	r := newRig(t)
	r.Reset() // bites nobody
	wantCount(t, r, WasReset, 0)
	client := r.dial(t)
	target := r.target(t)
	r.Reset()
	wantCount(t, r, WasReset, 1)
	wantEnd(t, "client", client, syscall.ECONNRESET)
	wantEnd(t, "target", target, syscall.ECONNRESET)
	r.Reset()
	r.Cut() // it is down already
	wantCount(t, r, WasReset, 1)
	wantCount(t, r, WasCut, 0)
}

func TestDoor(t *testing.T) {
	r := newRig(t)
	before := r.dial(t)
	beforeTarget := r.target(t)
	door := func(d Door) {
		t.Helper()
		if err := r.SetDoor(d); err != nil {
			t.Fatal(err)
		}
	}

	door(CutNew)
	for range 2 {
		c := r.dial(t)
		send(t, c, "request")
		wantEnd(t, "cut", c, io.EOF)
	}
	wantCount(t, r, WasCut, 2)

	door(ResetNew)
	for range 2 {
		dialReset(t, r.Addr())
	}
	r.await(t, WasReset, 2)

	for range 3 {
		door(RefuseNew)
		door(RefuseNew)
		if c, err := net.Dial("tcp", r.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v, %v, want it refused", c, err)
		}
		door(Open)
		c := r.dial(t)
		send(t, c, "open again")
		receive(t, r.target(t), "open again")
	}
	send(t, before, "not affected")
	receive(t, beforeTarget, "not affected")
	wantCount(t, r, WasCut, 2)
	wantCount(t, r, WasReset, 2)
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, err := Listen(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dialReset(t, p.Addr())
	if n := p.Count(Unreachable); n != 1 {
		t.Errorf("got %d, want 1", n)
	}
}

// TestCloseWaits closes a proxy with connections in all states; that no goroutine
// is left is seen when the tests end, and here by what Close waits for.
func TestCloseWaits(t *testing.T) {
	for name, inject := range map[string]func(r *rig){
		"idle":        func(*rig) {},
		"delayed":     func(r *rig) { r.Set(ToTarget, Faults{Delay: time.Hour}) },
		"limited":     func(r *rig) { r.Set(ToTarget, Faults{Rate: 1}) },
		"stalled":     func(r *rig) { r.Set(ToTarget, Faults{Stall: true}) },
		"swallowed":   func(r *rig) { r.Set(ToTarget, Faults{Swallow: true}) },
		"slow close":  func(r *rig) { r.Set(ToTarget, Faults{SlowClose: time.Hour}) },
		"refused":     func(r *rig) { r.SetDoor(RefuseNew) },
		"being cut":   func(r *rig) { r.Cut() },
		"being reset": func(r *rig) { r.Reset() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			client := r.dial(t)
			r.target(t)
			inject(r)
			client.Write([]byte("x"))
			if name != "being cut" {
				client.CloseWrite()
			}
			start := time.Now()
			if err := r.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if len(r.conns) != 0 {
				t.Errorf("%d connections left", len(r.conns))
			}
			if err := r.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("close again: got %v, want net.ErrClosed", err)
			}
			if err := r.SetDoor(Open); !errors.Is(err, net.ErrClosed) {
				t.Errorf("door: got %v, want net.ErrClosed", err)
			}
			if c, err := net.Dial("tcp", r.Addr()); err == nil {
				c.Close()
				t.Error("it still accepts")
			}
		})
	}
}

func TestAwaitGivesUp(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := r.Await(ctx, WasCut, 1); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cut") {
		t.Errorf("got %v, want the end of the context, and of what", err)
	}
	if err := r.Await(ctx, WasCut, 0); err != nil {
		t.Errorf("got %v, want what is already so", err)
	}
}

// TestManyAtOnce switches faults while connections come, talk and go.
func TestManyAtOnce(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case c := <-r.accepted:
				wg.Go(func() { io.Copy(c, c); c.Close() })
			case <-done:
				return
			}
		}
	})
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 30 {
				c, err := net.Dial("tcp", r.Addr())
				if err != nil {
					continue
				}
				c.SetDeadline(time.Now().Add(50 * time.Millisecond))
				c.Write(bytes.Repeat([]byte("x"), 1000))
				io.ReadFull(c, make([]byte, 1000))
				c.Close()
			}
		})
	}
	faults := []Faults{{}, {Delay: time.Millisecond}, {Rate: 1 << 20}, {Stall: true}, {Swallow: true}, {SlowClose: time.Millisecond}}
	for i := range 300 {
		r.Set(Direction(i%2), faults[i%len(faults)])
		r.SetDoor(Door(i / 2 % 4))
		r.Corrupt(Direction(i%2), int64(i))
		switch i % 10 {
		case 0:
			r.Cut()
		case 5:
			r.Reset()
		case 7:
			r.SwallowAndCut(ToClient)
		}
		time.Sleep(100 * time.Microsecond)
	}
	r.SetDoor(Open)
	clients.Wait()
	r.Close()
	close(done)
	wg.Wait()
}

func BenchmarkThroughput(b *testing.B) {
	r := newRig(b)
	client := r.dial(b)
	target := r.target(b)
	client.SetDeadline(time.Time{})
	target.SetDeadline(time.Time{})
	go func() {
		io.Copy(io.Discard, target)
	}()
	buf := make([]byte, 64<<10)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// TestRetarget: connections that are there stay with their target, later ones go to the
// other.
func TestRetarget(t *testing.T) {
	first, second := newRig(t), newRig(t)
	old := first.dial(t)
	was := first.target(t)
	first.Retarget(second.Addr())
	next := first.dial(t)
	is := second.target(t)
	send(t, old, "to the first")
	receive(t, was, "to the first")
	send(t, next, "to the second")
	receive(t, is, "to the second")
}
