package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestDrain: after the end of Run's context nobody new is accepted, connections
// between exchanges are closed, an exchange may end, and the rest is cut.
func TestDrain(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.DrainTimeout = 2 * time.Second })
		exchange := func() (half, half, *recorder) {
			client, live, o := g.connect()
			mustWrite(t, client, "request")
			wantRead(t, live, "request")
			mustWrite(t, live, "answer")
			wantRead(t, client, "answer")
			o.await(t, Live, "answer")
			return client, live, o
		}
		idle, idleLive, idleBy := exchange()
		busy, busyLive, busyBy := exchange()
		busyBy.setBusy(true)
		stuck, stuckLive, stuckBy := exchange()
		stuckBy.setBusy(true)

		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			g.stop()
		}()
		wantEOF(t, idle.raw)
		wantEOF(t, idleLive.raw)
		idleBy.wantEnd(t, Drained)
		until(t, func() bool {
			c, err := net.Dial("tcp", g.r.Addr().String())
			if err == nil {
				c.Close()
			}
			return err != nil
		}, func() { t.Fatal("connections are still accepted") })

		mustWrite(t, busyLive, "the end")
		wantRead(t, busy, "the end")
		busyBy.setBusy(false)
		wantEOF(t, busy.raw)
		busyBy.wantEnd(t, Drained)

		select {
		case <-stopped:
			t.Error("Run returned while an exchange was open")
		default:
		}
		wantReset(t, stuck.raw)
		wantReset(t, stuckLive.raw)
		stuckBy.wantEnd(t, Cut)
		<-stopped
	})
}

// TestDrainUnread: a connection that no one reads is closed once it looks quiet.
func TestDrainUnread(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.Observe, cfg.DrainTimeout = nil, patience })
		client, live := g.pair()
		mustWrite(t, client, "request")
		wantRead(t, live, "request")
		mustWrite(t, live, "answer")
		wantRead(t, client, "answer")
		g.stop()
		wantEOF(t, client.raw)
		if n := g.value("mirror_connections_closed_total", "reason", "drained"); n != 1 {
			t.Errorf("got %v drained, want 1", n)
		}
	})
}

// TestHandOver: while connections come one after the other, a second Relay
// takes over the address, and then a third. No connect is refused, no request
// lost.
func TestHandOver(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("listeners do not share an address here")
	}
	eachWay(t, func(t *testing.T, v variant) {
		served := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "answer") })}
		t.Cleanup(func() { served.Close() })
		start := func(listen, live string) *rig {
			return newRig(t, v, func(g *rig, cfg *Config) {
				cfg.Listen, cfg.DrainTimeout = listen, patience
				cfg.Observe = func(Info) Observer { return &recorder{ended: make(chan struct{})} }
				if live != "" {
					cfg.Live = []string{live}
				}
			})
		}
		generation := []*rig{start("127.0.0.1:0", "")}
		go served.Serve(generation[0].live)
		var done, failed atomic.Int64
		var stop atomic.Bool
		var wg sync.WaitGroup
		first := generation[0]
		for range 4 {
			wg.Go(func() {
				for !stop.Load() {
					if err := askOnce(first); err != nil {
						failed.Add(1)
						t.Error(err)
						return
					}
					done.Add(1)
				}
			})
		}
		more := func() {
			n := done.Load()
			until(t, func() bool { return done.Load() >= n+50 || failed.Load() > 0 }, func() { t.Fatal("no requests are answered") })
		}
		more()
		for range 2 {
			old := generation[len(generation)-1]
			next := start(first.r.Addr().String(), first.r.cfg.Live[0])
			if v.tls { // which the first one's clients trust
				next.r.tls.loaded.Store(first.r.tls.loaded.Load())
			}
			generation = append(generation, next)
			more()
			old.stop()
			more()
		}
		stop.Store(true)
		wg.Wait()
		for i, g := range generation {
			for _, c := range []Cause{ClientReset, LiveReset, LiveDown, Cut} {
				if n := g.value("mirror_connections_closed_total", "reason", c.String()); n > 0 {
					t.Errorf("relay %d ended %v connections as %v", i, n, c)
				}
			}
			if got := g.value("mirror_connections_closed_total", "reason", "ended"); got < 20 {
				t.Errorf("relay %d served %v connections, want a share of them", i, got)
			}
		}
	})
}

// askOnce makes one request on a connection of its own.
func askOnce(g *rig) error {
	c, err := g.tryDial("relay.test")
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "answer" {
		return fmt.Errorf("got %q, %v", body, err)
	}
	return nil
}

// TestQueueAtStop: what has connected before Run ends is served, although the
// Relay had not accepted it yet.
func TestQueueAtStop(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.tls {
			return // its clients wait for a handshake
		}
		live, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer live.Close()
		r, err := New(Config{Listen: "127.0.0.1:0", Live: []string{live.Addr().String()}, Portable: v.portable, DrainTimeout: patience})
		if err != nil {
			t.Fatal(err)
		}
		const queued = 20
		var clients [queued]net.Conn
		for i := range clients {
			if clients[i], err = net.Dial("tcp", r.Addr().String()); err != nil {
				t.Fatal(err)
			}
			mustWrite(t, clients[i], "request")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		for range queued {
			c, err := live.Accept()
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				wantRead(t, c, "request")
				mustWrite(t, c, "answer")
				c.Close()
			})
		}
		for _, c := range clients {
			wantRead(t, c, "answer")
			c.Close()
		}
		wg.Wait()
	})
}
