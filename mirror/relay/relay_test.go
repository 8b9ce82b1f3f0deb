package relay

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestBytes sends random bytes in random chunks both ways at once: each side
// and the observer must get what was sent, in whichever order the sides end.
func TestBytes(t *testing.T) {
	sizes := []int{0, 1, 2047, 2048, 2049, blockSize - 1, blockSize, blockSize + 1, 1 << 20}
	if !testing.Short() {
		sizes = append(sizes, 64<<20)
	}
	eachWayAlone(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		for i, size := range sizes {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				client, live, o := g.connect()
				var wg sync.WaitGroup
				sums := make([][2][32]byte, 2) // by side: sent, received
				for side, c := range []half{client, live} {
					wg.Go(func() { sums[side][0] = sendRandom(t, c, uint64(2*i+side), size) })
					wg.Go(func() { sums[1-side][1] = receive(t, c, size) })
				}
				wg.Wait()
				o.wantEnd(t, Ended)
				for side := range sums {
					if sums[side][0] != sums[side][1] {
						t.Errorf("what side %d sent did not arrive as it was", side)
					}
					if got := sha256.Sum256(o.got(Side(side))); got != sums[side][0] {
						t.Errorf("the observer was handed other bytes than side %d sent", side)
					}
				}
				client.Close()
				live.Close()
			})
		}
		g.await(0, "mirror_connections_open")
		g.await(float64(len(sizes)), "mirror_connections_closed_total", "reason", "ended")
	})
}

// sendRandom sends size bytes and ends its side; it returns their hash.
func sendRandom(t *testing.T, c half, seed uint64, size int) (sum [32]byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := sha256.New()
	chunk := make([]byte, 128<<10)
	for size > 0 {
		n := min(size, 1+rnd.IntN(1<<rnd.IntN(18)))
		for i := 0; i < n; i += 8 {
			x := rnd.Uint64()
			for j := range min(8, n-i) {
				chunk[i+j] = byte(x >> (8 * j))
			}
		}
		h.Write(chunk[:n])
		if _, err := c.Write(chunk[:n]); err != nil {
			t.Errorf("send: %v", err)
			return
		}
		size -= n
	}
	if err := c.CloseWrite(); err != nil {
		t.Errorf("end the side: %v", err)
	}
	return [32]byte(h.Sum(nil))
}

func receive(t *testing.T, c half, size int) (sum [32]byte) {
	h := sha256.New()
	n, err := io.Copy(h, c)
	if err != nil || n != int64(size) {
		t.Errorf("got %d bytes, %v, want %d", n, err, size)
	}
	return [32]byte(h.Sum(nil))
}

func TestHalfClose(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		for _, first := range []Side{Client, Live} {
			client, live, o := g.connect()
			a, b := client, live
			if first == Live {
				a, b = live, client
			}
			mustWrite(t, a, "last words")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if err != nil || string(got) != "last words" {
				t.Fatalf("got %q, %v", got, err)
			}
			for range 3 { // the other direction goes on
				mustWrite(t, b, "still here")
				wantRead(t, a, "still here")
			}
			if err := b.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			wantEOF(t, a)
			o.wantEnd(t, Ended)
			if !o.eofs[Client] || !o.eofs[Live] {
				t.Errorf("got EOFs %v, want both", o.eofs)
			}
		}
	})
}

func TestReset(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		for _, by := range []Side{Client, Live} {
			client, live, o := g.connect()
			a, b := client, live
			if by == Live {
				a, b = live, client
			}
			mustWrite(t, a, "before")
			wantRead(t, b, "before")
			mustWrite(t, b, "answer")
			wantRead(t, a, "answer")
			a.reset()
			wantReset(t, b.raw)
			o.wantEnd(t, resetBy(by))
		}
	})
}

// TestResetAfterHalfClose: a reset passes although that side has ended already.
func TestResetAfterHalfClose(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.tls {
			return // an end of TLS that is followed by a reset of TCP is one or the other, as it comes
		}
		g := newRig(t, v, nil)
		client, live, o := g.connect()
		mustWrite(t, client, "request")
		client.CloseWrite()
		wantRead(t, live, "request")
		wantEOF(t, live)
		client.reset()
		// With nothing to read from it, only writing shows the reset to goroutines.
		until(t, func() bool {
			_, err := live.Write([]byte("answer"))
			return err != nil
		}, func() { t.Fatal("live is not told of the reset") })
		o.wantEnd(t, ClientReset)
	})
}

// TestEarlyAnswer: live answers and closes while the client still uploads. Live
// resets, as it has not read all; the answer must arrive nevertheless.
func TestEarlyAnswer(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		for range 20 {
			client, live, _ := g.connect()
			mustWrite(t, client, strings.Repeat("u", 1000))
			wantRead(t, live, "uuu")
			mustWrite(t, live, "413 too large")
			wantRead(t, client, "413 too large")
			live.raw.Close() // with bytes unread: a reset
			until(t, func() bool {
				_, err := client.Write(make([]byte, 1000))
				return err != nil
			}, func() { t.Fatal("the client can go on sending to nobody") })
		}
		g.await(0, "mirror_connections_open")
	})
}

// TestCutTLS: a TLS connection that ends without the closing alert must not look whole.
func TestCutTLS(t *testing.T) {
	g := newRig(t, variant{name: "tls", tls: true}, nil)
	client, live, o := g.connect()
	mustWrite(t, live, "half an answer")
	wantRead(t, client, "half an answer")
	live.raw.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("got %v, want an error that is no EOF", err)
	}
	o.wantEnd(t, LiveReset)
}

// TestBackPressure: a side that does not read stops the other, at a bound.
func TestBackPressure(t *testing.T) {
	eachWayAlone(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.Observe = nil })
		for _, slow := range []Side{Live, Client} {
			from, to := g.pair()
			if slow == Client {
				from, to = to, from
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			chunk := bytes.Repeat([]byte("0123456789abcdef"), 4096)
			sent := 0
			for sent < 256<<20 {
				_ = from.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				n, err := from.Write(chunk)
				sent += n
				if err != nil {
					if !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal(err)
					}
					break
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			// What fits is the kernel's buffers, four of up to a few MiB each.
			if sent >= 64<<20 {
				t.Errorf("the sender was not blocked after %d MiB", sent>>20)
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 {
				t.Errorf("the heap grew by %d bytes", grown)
			}
			if v.tls {
				from.raw.Close() // crypto/tls writes no more after a time-out
				to.raw.Close()
				continue
			}
			// What was blocked goes on, and nothing is lost.
			from.CloseWrite()
			got, err := io.Copy(io.Discard, to)
			if err != nil || got != int64(sent) {
				t.Errorf("got %d bytes, %v, want %d", got, err, sent)
			}
			from.Close()
			to.Close()
		}
		g.await(0, "mirror_connections_open")
	})
}

// TestResetWhileBlocked: a reset passes while live takes no more bytes.
func TestResetWhileBlocked(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.name != "loops" {
			t.Skip("only loops promise this; see the package comment")
		}
		g := newRig(t, v, nil)
		client, _, o := g.connect()
		chunk := make([]byte, 1<<20)
		for {
			_ = client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			if _, err := client.Write(chunk); err != nil {
				break
			}
		}
		client.reset()
		o.wantEnd(t, ClientReset)
	})
}

// TestFairness: one connection that carries all it can does not keep a small
// one of the same loop waiting.
func TestFairness(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.Loops, cfg.Observe = 1, nil })
		var wg sync.WaitGroup
		var moved atomic.Int64
		big, bigLive := g.pair()
		wg.Go(func() {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := big.Write(chunk); err != nil {
					return
				}
			}
		})
		wg.Go(func() {
			for buf := make([]byte, 256<<10); ; {
				n, err := bigLive.Read(buf)
				moved.Add(int64(n))
				if err != nil {
					return
				}
			}
		})
		small, smallLive := g.pair()
		wg.Go(func() { _, _ = io.Copy(smallLive, smallLive) })
		enough := int64(64 << 20)
		if testing.Short() {
			enough = 8 << 20
		}
		var worst time.Duration
		for moved.Load() < enough {
			begun := time.Now()
			mustWrite(t, small, "ping")
			wantRead(t, small, "ping")
			worst = max(worst, time.Since(begun))
		}
		if worst > 2*time.Second {
			t.Errorf("a ping took %v beside an upload", worst)
		}
		big.reset()
		small.Close()
		wg.Wait()
	})
}

// TestLiveFirst: live may speak before the client does.
func TestLiveFirst(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		client, live, o := g.connect()
		mustWrite(t, live, "220 ready\r\n")
		wantRead(t, client, "220 ready\r\n")
		mustWrite(t, client, "QUIT\r\n")
		wantRead(t, live, "QUIT\r\n")
		live.Close()
		wantEOF(t, client)
		client.Close()
		o.wantEnd(t, Ended)
	})
}

// TestManyConnections: all are served at once, and leave nothing behind.
func TestManyConnections(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		conns := 200
		if v.tls {
			conns = 40
		}
		g := newRig(t, v, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			for range conns {
				c := g.accept()
				wg.Go(func() {
					_, _ = io.Copy(c, c)
					c.Close()
				})
			}
		})
		clients := make([]half, conns)
		var dials sync.WaitGroup
		for i := range clients {
			dials.Go(func() {
				var err error
				if clients[i], err = g.tryDial("relay.test"); err != nil {
					t.Error(err)
				}
			})
		}
		dials.Wait()
		if t.Failed() {
			t.FailNow()
		}
		g.await(float64(conns), "mirror_connections_open")
		for i, c := range clients {
			text := fmt.Sprintf("client %d", i)
			mustWrite(t, c, text)
			wantRead(t, c, text)
		}
		for i, c := range clients {
			if i%2 == 0 {
				c.Close()
			} else {
				c.reset()
			}
		}
		wg.Wait()
		g.await(0, "mirror_connections_open")
		if got := g.value("mirror_connections_total", "protocol", HTTP1); got != float64(conns) {
			t.Errorf("got %v connections counted as HTTP/1.1, want %d", got, conns)
		}
	})
}

// TestDescriptors: a Relay that has run leaves no descriptor open.
func TestDescriptors(t *testing.T) {
	before := descriptors(t)
	t.Run("all", func(t *testing.T) { useAndStop(t) })
	until(t, func() bool { return descriptors(t) <= before }, func() {
		t.Errorf("got %d descriptors, want %d", descriptors(t), before)
	})
}

func useAndStop(t *testing.T) {
	eachWayAlone(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		for i := range 30 {
			client, live, _ := g.connect()
			mustWrite(t, client, "request")
			wantRead(t, live, "request")
			switch i % 3 { // and some are open to the end
			case 0:
				client.reset()
			case 1:
				live.Close()
			}
		}
		g.stop()
	})
}

// deadAddr is an address that refuses: that of a client, so that nobody else
// gets it meanwhile.
func deadAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return c.LocalAddr().String()
}

func scheme(v variant) string {
	if v.tls {
		return "https://"
	}
	return ""
}

func TestLiveDown(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		var log lockedBuffer
		g := newRig(t, v, func(g *rig, cfg *Config) {
			cfg.Live = []string{scheme(v) + deadAddr(t), scheme(v) + deadAddr(t)}
			cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		})
		const conns = 20
		begun := time.Now()
		for range conns {
			c, err := g.tryDial("relay.test")
			switch {
			case v.tls && err == nil:
				t.Error("the handshake came about without live")
			case !v.tls && err == nil:
				wantReset(t, c)
			case !v.tls && !errors.Is(err, syscall.ECONNRESET):
				t.Error(err)
			}
		}
		g.await(conns, "mirror_connections_closed_total", "reason", "live_down")
		g.await(2*conns, "mirror_live_dial_failures_total", "reason", "refused")
		g.await(0, "mirror_connections_open")
		most := 1 + int(time.Since(begun)/time.Second)
		if n := strings.Count(log.String(), "no address of live"); n < 1 || n > most {
			t.Errorf("logged %d times, want 1 to %d", n, most)
		}
	})
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestNextAddress: a connection that one address refuses goes to the next.
func TestNextAddress(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(g *rig, cfg *Config) {
			cfg.Live = []string{scheme(v) + deadAddr(t), cfg.Live[0], scheme(v) + deadAddr(t)}
		})
		for range 10 {
			client, live, _ := g.connect()
			mustWrite(t, client, "x")
			wantRead(t, live, "x")
			client.Close()
			live.Close()
		}
		if n := g.value("mirror_live_dial_failures_total", "reason", "refused"); n < 1 || n > 4 {
			t.Errorf("got %v refused connects, want a few: an address that refused is tried last", n)
		}
	})
}

func TestLiveHangs(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		hanging := scheme(v) + hangingAddr(t)
		g := newRig(t, v, func(g *rig, cfg *Config) {
			cfg.Live, cfg.DialTimeout = []string{hanging}, 100*time.Millisecond
		})
		c, err := g.tryDial("relay.test")
		if err == nil && !v.tls {
			wantReset(t, c)
		}
		g.await(1, "mirror_live_dial_failures_total", "reason", "timeout")
		g.await(1, "mirror_connections_closed_total", "reason", "live_down")

		g = newRig(t, v, func(g *rig, cfg *Config) {
			cfg.Live, cfg.DialTimeout = append(cfg.Live, hanging), time.Second
		})
		for range 4 {
			client, live, _ := g.connect()
			mustWrite(t, client, "x")
			wantRead(t, live, "x")
		}
		// Were it not tried last for a while, it would be the least loaded for all
		// four; on a busy machine the while may pass between two of them.
		if n := g.value("mirror_live_dial_failures_total", "reason", "timeout"); n < 1 || n > 3 {
			t.Errorf("got %v timed out connects of 4, want fewer: an address that hung is tried last", n)
		}
	})
}

// TestLeastLoaded: connections spread over the addresses by what is open.
func TestLeastLoaded(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.tls {
			return // the choice is made in the same place
		}
		second, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close()
		g := newRig(t, v, func(g *rig, cfg *Config) { cfg.Live = append(cfg.Live, second.Addr().String()) })
		open := make(map[string][]half)
		connect := func() string {
			c := g.dial()
			at := g.observer().info.Live.String()
			open[at] = append(open[at], c)
			return at
		}
		for range 10 {
			connect()
		}
		a, b := g.live.Addr().String(), second.Addr().String()
		if len(open[a]) != 5 || len(open[b]) != 5 {
			t.Fatalf("got %d and %d connections, want 5 and 5", len(open[a]), len(open[b]))
		}
		for _, c := range open[a][:3] {
			c.reset()
		}
		g.await(7, "mirror_connections_open")
		for range 3 {
			if at := connect(); at != a {
				t.Errorf("a connection went to %s, want the less loaded %s", at, a)
			}
		}
	})
}

// TestLimits: what is too much is closed at once and counted.
func TestLimits(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		for _, limit := range []struct {
			reason string
			set    func(*Config)
		}{
			{"limit_total", func(cfg *Config) { cfg.MaxConns = 2 }},
			{"limit_client", func(cfg *Config) { cfg.MaxConnsPerClient = 2 }},
		} {
			g := newRig(t, v, func(_ *rig, cfg *Config) { limit.set(cfg) })
			first, _, _ := g.connect()
			g.connect()
			c, err := g.tryDial("relay.test")
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%s: the third connection was not closed: %v", limit.reason, err)
			}
			g.await(1, "mirror_connections_closed_total", "reason", limit.reason)
			g.await(2, "mirror_connections_open")
			first.reset()
			g.await(1, "mirror_connections_open")
			client, live, _ := g.connect() // there is room again
			mustWrite(t, client, "x")
			wantRead(t, live, "x")
		}
	})
}

// panicking panics in the call that is due.
type panicking struct{ at int32 }

func (p *panicking) call(n int32) {
	if p.at == n {
		panic("planted")
	}
}
func (p *panicking) Chunk(side Side, _ time.Time, _ []byte) { p.call(int32(side)) }
func (p *panicking) EOF(Side, time.Time)                    { p.call(2) }
func (p *panicking) Close(Cause, time.Time)                 { p.call(3) }
func (p *panicking) State() (string, bool)                  { p.call(4); return "", true }

// TestPanics: a thousand panics, in every call, and whoever is told panics as
// well: no connection notices.
func TestPanics(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		panics := 1000
		if testing.Short() {
			panics = 200
		}
		if v.tls {
			panics = 60 // handshakes take their time
		}
		var told, made atomic.Int32
		g := newRig(t, v, func(_ *rig, cfg *Config) {
			cfg.Observe = func(Info) Observer {
				p := &panicking{at: made.Add(1) % 6}
				p.call(5)
				return p
			}
			cfg.OnPanic = func(value any, stack []byte) {
				if value != "planted" || !bytes.Contains(stack, []byte("panicking")) {
					t.Errorf("told of %v at %s", value, stack)
				}
				told.Add(1)
				panic("again")
			}
		})
		var wg sync.WaitGroup
		wg.Go(func() {
			for range panics {
				c := g.accept()
				wg.Go(func() {
					_, _ = io.Copy(c, c)
					c.Close()
				})
			}
		})
		for range 10 {
			wg.Go(func() {
				for range panics / 10 {
					c, err := g.tryDial("relay.test")
					if err != nil {
						t.Error(err)
						return
					}
					for range 2 {
						mustWrite(t, c, "request")
						wantRead(t, c, "request")
					}
					c.CloseWrite()
					wantEOF(t, c)
					c.Close()
				}
			})
		}
		wg.Wait()
		g.await(float64(panics), "mirror_observer_panics_total")
		g.await(float64(panics), "mirror_connections_closed_total", "reason", "ended")
		g.await(0, "mirror_connections_unobserved")
		if int(told.Load()) != panics {
			t.Errorf("told of %d panics, want %d", told.Load(), panics)
		}
	})
}

func TestIdleTimeout(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.IdleTimeout = time.Second })
		client, live, o := g.connect()
		for range 4 { // what passes keeps it open
			time.Sleep(300 * time.Millisecond)
			mustWrite(t, client, "x")
			wantRead(t, live, "x")
		}
		wantEOF(t, client.raw)
		wantEOF(t, live.raw)
		o.wantEnd(t, Idle)
	})
}

func TestDarkenAndRecycle(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		exchange := func(client, live half) {
			mustWrite(t, client, "request")
			wantRead(t, live, "request")
			mustWrite(t, live, "answer")
			wantRead(t, client, "answer")
		}
		client, live, o := g.connect()
		exchange(client, live)
		waiting, waitingLive, _ := g.connect()
		mustWrite(t, waiting, "request")
		wantRead(t, waitingLive, "request")

		g.r.Darken()
		o.wantEnd(t, Darkened)
		exchange(client, live)
		if got := string(o.got(Client)); got != "request" {
			t.Errorf("the observer was told %q after the end", got)
		}
		g.await(2, "mirror_connections_unobserved")
		seen, seenLive, seenBy := g.connect() // opened later, it is observed
		exchange(seen, seenLive)
		seenBy.await(t, Live, "answer")

		g.r.Recycle(true)
		wantEOF(t, client.raw)
		wantEOF(t, live.raw)
		g.await(1, "mirror_connections_closed_total", "reason", "recycled")
		mustWrite(t, waitingLive, "answer") // its answer was still to come
		wantRead(t, waiting, "answer")
		wantEOF(t, waiting.raw)
		g.await(0, "mirror_connections_unobserved")
		exchange(seen, seenLive)
	})
}
