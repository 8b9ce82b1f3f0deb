package memnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// connect returns the ends of a connection from host a to host b.
func connect(t testing.TB, n *Network) (a, b *Conn) {
	t.Helper()
	l, err := n.Host("b").Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := n.Host("a").Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near.(*Conn), far.(*Conn)
}

func TestNettest(t *testing.T) {
	for _, buffer := range []int{0, 16} { // its echo needs 8
		t.Run(fmt.Sprint("buffer=", buffer), func(t *testing.T) {
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				a, b := connect(t, &Network{Buffer: buffer})
				return a, b, func() { a.Close(); b.Close() }, nil
			})
		})
	}
}

// bubble runs f under the fake clock, and fails when it does not end there.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// took fails when the time since start is not exactly want.
func took(t *testing.T, what string, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("%s: took %v, want %v", what, got, want)
	}
}

// wantErr fails when err is not want.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Errorf("got %q, %v, want %q", b, err, want)
	}
}

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); err != nil || n != len(text) {
		t.Errorf("write %q: got %d, %v", text, n, err)
	}
}

func TestLatency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := new(Network)
		n.SetLatency("a", "b", 30*time.Millisecond)
		n.SetLatency("b", "a", 5*time.Millisecond)
		start := time.Now()
		a, b := connect(t, n)
		took(t, "connecting", start, 35*time.Millisecond)

		start = time.Now()
		write(t, a, "ping")
		took(t, "a write that fits", start, 0)
		wantRead(t, b, "ping")
		took(t, "a to b", start, 30*time.Millisecond)
		write(t, b, "pong")
		wantRead(t, a, "pong")
		took(t, "there and back", start, 35*time.Millisecond)

		// Two writes on their way at once; the second is sent when the way has
		// become shorter, and does not overtake.
		start = time.Now()
		write(t, a, "one")
		time.Sleep(time.Millisecond)
		n.SetLatency("a", "b", 0)
		write(t, a, "two")
		wantRead(t, b, "onetwo")
		took(t, "two writes", start, 30*time.Millisecond)

		start = time.Now()
		a.Close()
		_, err := b.Read(make([]byte, 1))
		wantErr(t, "read after close", err, io.EOF)
		took(t, "close", start, 0)
		b.Close()
	})
}

func TestBackPressure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := connect(t, &Network{Buffer: 10})
		start := time.Now()
		go func() {
			for range 3 {
				time.Sleep(time.Second)
				wantRead(t, b, "01234")
			}
		}()
		write(t, a, "0123401234")
		took(t, "a write that fits", start, 0)
		write(t, a, "0")
		took(t, "one byte more", start, time.Second)
		write(t, a, "1234")
		took(t, "what fits again", start, time.Second)
		write(t, a, "0123401234")
		took(t, "two more reads", start, 3*time.Second)
		a.Close()
		wantRead(t, b, "0123401234")
		b.Close()
	})
}

// TestWritesDoNotMix has several writers on one full connection, at full speed.
func TestWritesDoNotMix(t *testing.T) {
	const size = 1000
	a, b := connect(t, &Network{Buffer: 3})
	var writers sync.WaitGroup
	for _, letter := range "abcdefgh" {
		writers.Go(func() { write(t, a, strings.Repeat(string(letter), size)) })
	}
	go func() {
		writers.Wait()
		a.Close()
	}()
	got, err := io.ReadAll(b)
	wantErr(t, "read", err, nil)
	if len(got) != 8*size {
		t.Fatalf("got %d bytes, want %d", len(got), 8*size)
	}
	for part := range slices.Chunk(got, size) {
		if string(part) != strings.Repeat(string(part[:1]), size) {
			t.Fatalf("got %q, want one letter", part)
		}
	}
	b.Close()
}

func TestDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := connect(t, &Network{Buffer: 4})
		start := time.Now()
		a.SetReadDeadline(start.Add(2 * time.Second))
		_, err := a.Read(make([]byte, 1))
		wantErr(t, "read", err, os.ErrDeadlineExceeded)
		if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
			t.Errorf("got %v, want a time-out", err)
		}
		took(t, "read", start, 2*time.Second)

		b.SetWriteDeadline(start.Add(5 * time.Second))
		n, err := b.Write([]byte("012345"))
		wantErr(t, "write", err, os.ErrDeadlineExceeded)
		if n != 4 {
			t.Errorf("got %d bytes written, want the 4 that fit", n)
		}
		took(t, "write", start, 5*time.Second)

		// A deadline in the past beats what is there to read; a later one lifts it.
		_, err = a.Read(make([]byte, 1))
		wantErr(t, "read after the deadline", err, os.ErrDeadlineExceeded)
		a.SetDeadline(time.Time{})
		wantRead(t, a, "0123")

		// Moving a deadline wakes one that waits.
		go func() {
			time.Sleep(time.Second)
			a.SetReadDeadline(time.Now())
		}()
		start = time.Now()
		_, err = a.Read(make([]byte, 1))
		wantErr(t, "read", err, os.ErrDeadlineExceeded)
		took(t, "read with a moved deadline", start, time.Second)
		a.Close()
		b.Close()
		wantErr(t, "deadline after close", a.SetDeadline(time.Now()), net.ErrClosed)
	})
}

func TestHalfClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := connect(t, new(Network))
		write(t, a, "request")
		wantErr(t, "half-close", a.CloseWrite(), nil)
		wantErr(t, "half-close again", a.CloseWrite(), nil)
		_, err := a.Write([]byte("x"))
		wantErr(t, "write after half-close", err, syscall.EPIPE)
		got, err := io.ReadAll(b)
		if string(got) != "request" || err != nil {
			t.Errorf("got %q, %v, want the request", got, err)
		}
		write(t, b, "response")
		b.Close()
		got, err = io.ReadAll(a)
		if string(got) != "response" || err != nil {
			t.Errorf("got %q, %v, want the response", got, err)
		}
		wantErr(t, "close", a.Close(), nil)
		wantErr(t, "close again", a.Close(), net.ErrClosed)
		wantErr(t, "half-close after close", a.CloseWrite(), net.ErrClosed)
		_, err = a.Read(make([]byte, 1))
		wantErr(t, "read after close", err, net.ErrClosed)
		_, err = a.Write(make([]byte, 1))
		wantErr(t, "write after close", err, net.ErrClosed)
	})
}

// TestCloseWakes closes an end on which a Read and a Write wait.
func TestCloseWakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := connect(t, &Network{Buffer: 1})
		errs := make(chan error)
		go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
		go func() { _, err := a.Write(make([]byte, 2)); errs <- err }()
		synctest.Wait()
		a.Close()
		wantErr(t, "first", <-errs, net.ErrClosed)
		wantErr(t, "second", <-errs, net.ErrClosed)
		b.Close()
	})
}

func TestWriteToClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := new(Network)
		n.SetLatency("b", "a", 50*time.Millisecond)
		a, b := connect(t, n)
		b.Close()
		write(t, a, "not known yet, lost")
		time.Sleep(50*time.Millisecond - 1)
		write(t, a, "lost")
		time.Sleep(time.Nanosecond)
		_, err := a.Write([]byte("x"))
		wantErr(t, "write", err, syscall.EPIPE)
		_, err = a.Read(make([]byte, 1))
		wantErr(t, "read", err, io.EOF)
		a.Close()
	})
}

func TestReset(t *testing.T) {
	for name, prepare := range map[string]func(a, b *Conn){
		"linger 0":      func(a, _ *Conn) { a.SetLinger(0) },
		"unread bytes":  func(_, b *Conn) { b.Write([]byte("x")) },
		"both, delayed": func(a, b *Conn) { b.Write([]byte("x")); a.SetLinger(0) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := new(Network)
				n.SetLatency("a", "b", time.Second)
				a, b := connect(t, n)
				prepare(a, b)
				write(t, a, "in time")
				time.Sleep(time.Second)
				write(t, a, "lost")
				start := time.Now()
				a.Close()
				wantRead(t, b, "in ")
				time.Sleep(time.Second)
				_, err := b.Read(make([]byte, 1))
				wantErr(t, "read", err, syscall.ECONNRESET)
				took(t, "the reset", start, time.Second)
				_, err = b.Write(make([]byte, 1))
				wantErr(t, "write", err, syscall.ECONNRESET)
				wantErr(t, "close", b.Close(), nil)
			})
		})
	}
	t.Run("overtakes nothing", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			n := new(Network)
			n.SetLatency("a", "b", time.Second)
			a, b := connect(t, n)
			start := time.Now()
			write(t, a, "on its way")
			n.SetLatency("a", "b", 0)
			a.SetLinger(0)
			a.Close()
			_, err := b.Read(make([]byte, 1))
			wantErr(t, "read", err, syscall.ECONNRESET)
			took(t, "the reset", start, time.Second)
			b.Close()
		})
	})
	t.Run("not with another linger", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			a, b := connect(t, new(Network))
			a.SetLinger(0)
			a.SetLinger(-1)
			a.Close()
			_, err := b.Read(make([]byte, 1))
			wantErr(t, "read", err, io.EOF)
			b.Close()
		})
	})
	t.Run("wakes a reader and a writer", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			n := &Network{Buffer: 1}
			n.SetLatency("a", "b", time.Second)
			a, b := connect(t, n)
			errs := make(chan error)
			go func() { _, err := b.Read(make([]byte, 1)); errs <- err }()
			go func() {
				var err error
				for err == nil {
					_, err = b.Write(make([]byte, 1))
					time.Sleep(time.Millisecond)
				}
				errs <- err
			}()
			synctest.Wait()
			start := time.Now()
			a.SetLinger(0)
			a.Close()
			wantErr(t, "first", <-errs, syscall.ECONNRESET)
			wantErr(t, "second", <-errs, syscall.ECONNRESET)
			if d := time.Since(start); d < time.Second || d > time.Second+time.Millisecond {
				t.Errorf("took %v, want 1 s", d)
			}
			b.Close()
		})
	})
}

func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := new(Network)
		n.SetLatency("a", "b", 2*time.Millisecond)
		n.SetLatency("b", "a", 3*time.Millisecond)
		start := time.Now()
		_, err := n.Host("a").Dial(t.Context(), "tcp", "b:80")
		wantErr(t, "dial", err, syscall.ECONNREFUSED)
		took(t, "refusing", start, 5*time.Millisecond)

		l, err := n.Host("b").Listen(80)
		wantErr(t, "listen", err, nil)
		_, err = n.Host("b").Listen(80)
		wantErr(t, "listen twice", err, syscall.EADDRINUSE)
		_, err = n.Host("a").Dial(t.Context(), "udp", "b:80")
		wantErr(t, "dial udp", err, net.UnknownNetworkError("udp"))
		waiting, err := n.Host("a").Dial(t.Context(), "tcp", "b:80")
		wantErr(t, "dial", err, nil)
		accepted := make(chan error)
		wantErr(t, "close", l.Close(), nil)
		go func() { _, err := l.Accept(); accepted <- err }()
		wantErr(t, "accept", <-accepted, net.ErrClosed)
		_, err = waiting.Read(make([]byte, 1))
		wantErr(t, "read of what was not accepted", err, syscall.ECONNRESET)
		waiting.Close()
		_, err = n.Host("a").Dial(t.Context(), "tcp", "b:80")
		wantErr(t, "dial", err, syscall.ECONNREFUSED)
		wantErr(t, "close again", l.Close(), net.ErrClosed)
		l, err = n.Host("b").Listen(80)
		wantErr(t, "listen again", err, nil)
		l.Close()
	})
}

func TestDialGivesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := new(Network)
		l, _ := n.Host("b").Listen(80)
		dial := func(want error, after time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
			defer cancel()
			start := time.Now()
			c, err := n.Host("a").Dial(ctx, "tcp", "b:80")
			wantErr(t, "dial", err, want)
			took(t, "dial", start, after)
			if err == nil {
				t.Cleanup(func() { c.Close() })
			}
		}
		for range backlog {
			dial(nil, 0)
		}
		dial(context.DeadlineExceeded, 7*time.Second) // no room in the backlog
		n.SetLatency("b", "a", time.Hour)
		first, _ := l.Accept()
		dial(context.DeadlineExceeded, 7*time.Second) // taken in, but the answer is late
		first.Close()
		for range backlog - 1 {
			c, _ := l.Accept()
			c.Close()
		}
		last, _ := l.Accept()
		_, err := last.Read(make([]byte, 1))
		wantErr(t, "read of a connection given up", err, io.EOF)
		last.Close()
		l.Close()
	})
}

func TestAddresses(t *testing.T) {
	n := new(Network)
	for _, c := range []struct{ server, client, want string }{
		{"live", "client", "live:80 client:49152"},
		{"10.0.0.1", "10.0.0.2", "10.0.0.1:80 10.0.0.2:49152"},
		{"fe80::1", "::1", "[fe80::1]:80 [::1]:49152"},
	} {
		l, err := n.Host(c.server).Listen(80)
		if err != nil {
			t.Fatal(err)
		}
		near, err := n.Host(c.client).Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(near.RemoteAddr(), " ", near.LocalAddr()); got != c.want {
			t.Errorf("near end: got %q, want %q", got, c.want)
		}
		if got := fmt.Sprint(far.LocalAddr(), " ", far.RemoteAddr()); got != c.want {
			t.Errorf("far end: got %q, want %q", got, c.want)
		}
		if _, isTCP := near.RemoteAddr().(*net.TCPAddr); isTCP == (c.server == "live") {
			t.Errorf("got a %T for %s", near.RemoteAddr(), c.server)
		}
		near.Close()
		far.Close()
		l.Close()
	}
}

func BenchmarkPingPong(b *testing.B) {
	near, far := connect(b, new(Network))
	defer near.Close()
	go func() {
		defer far.Close()
		io.Copy(far, far)
	}()
	buf := make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		near.Write(buf)
		io.ReadFull(near, buf)
	}
}
