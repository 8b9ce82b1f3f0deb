package shadow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
)

// The tests of this file are played on real sockets, where there is epoll on the
// poller that waits with it. Nothing in them depends on how long things take.

// realConn is the peer's end of a real connection.
type realConn struct {
	*net.TCPConn
	over chan struct{} // closed when the test is
}

// playReal is play on real sockets.
func playReal(t *testing.T, cfg Config, peer func(net.Conn), f func(r *rig)) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, account: new(account)}
	over := make(chan struct{})
	var peers sync.WaitGroup
	peers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.conns.Add(1)
			peers.Go(func() {
				defer c.Close()
				peer(&realConn{c.(*net.TCPConn), over})
			})
		}
	})
	cfg.Role, cfg.Address, cfg.Account = "shadow", l.Addr().String(), r.account
	if r.back, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	r.sender = newSender(t, LoopConfig{}, r.back)
	r.stop = r.sender.stop
	f(r)
	r.stop()
	close(over)
	l.Close()
	peers.Wait()
	if held := r.account.now.Load(); held != 0 {
		t.Errorf("got %d bytes of the account still held, want 0", held)
	}
	if n, m := r.back.http1.open, len(r.back.http2.conns); n+m > 0 {
		t.Errorf("got %d and %d connections at the end, want none", n, m)
	}
}

// TestHostileSockets is TestHostile without its times, and of fewer calls.
func TestHostileSockets(t *testing.T) {
	const calls = 4
	for _, tt := range shadows {
		for version, peer := range map[string]func(net.Conn){"http1": tt.peer1, "http2": tt.peer2} {
			if peer == nil {
				continue
			}
			c, code := get(), tt.code
			if version == "http2" {
				c = unary("hi")
				if tt.code2 != "" {
					code = tt.code2
				}
			}
			cfg := Config{MaxBody: 256 << 10, KeepBody: 16 << 10, Timeout: time.Minute, ConnectTimeout: time.Minute}
			if code == "timeout" { // which nothing but time brings about
				cfg.Timeout, cfg.ConnectTimeout = 300*time.Millisecond, 300*time.Millisecond
			}
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				t.Parallel()
				playReal(t, cfg, peer, func(r *rig) {
					var wg sync.WaitGroup
					var mu sync.Mutex
					codes := map[string]int{}
					for range calls {
						wg.Go(func() {
							a := r.one(c)
							mu.Lock()
							defer mu.Unlock()
							codes[a.Code()]++
							if a.Err != nil && a.Size > 256<<10+64<<10 {
								t.Errorf("read %d bytes, want at most 256 KiB", a.Size)
							}
						})
					}
					wg.Wait()
					if diff := cmp.Diff(map[string]int{code: calls}, codes); diff != "" {
						t.Errorf("codes (-want +got):\n%s", diff)
					}
					if peak := r.account.peak.Load(); peak > calls*2*(16<<10+64<<10) {
						t.Errorf("kept up to %d bytes", peak)
					}
				})
			})
		}
	}
}

// TestServerSockets makes calls of net/http's server, large both ways and many
// at once, by both protocols.
func TestServerSockets(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	})
	peer := func(c net.Conn) {
		s := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		l := &single{conn: c, gone: make(chan struct{})}
		s.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(l.gone)
			}
		}
		s.Serve(l)
	}
	playReal(t, Config{Timeout: time.Minute, ConnectTimeout: time.Minute, MaxCalls: 100, MaxConns2: 2, MaxStreams: 10}, peer, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				c := get()
				c.Method, c.HTTP2, c.Chunked = []byte("POST"), i%2 == 0, i%4 == 1
				c.Body = bytes.Repeat([]byte{byte(i)}, 1+i*10_000) // to 390 KB
				a := r.one(c)
				if a.Err != nil || a.Status != 200 || a.Size != int64(len(c.Body)) || !bytes.HasPrefix(c.Body, a.Body) {
					t.Errorf("call %d: got %v, status %d, %d bytes; want %d bytes", i, a.Err, a.Status, a.Size, len(c.Body))
				}
			})
		}
		wg.Wait()
	})
}

// TestUnreadSockets sends 32 MiB to a peer that reads none of it. That call times
// out, and no other is held up.
func TestUnreadSockets(t *testing.T) {
	for version, call := range map[string]Call{"http1": get(), "http2": unary("x")} {
		t.Run(version, func(t *testing.T) {
			var first sync.Once
			peer := func(c net.Conn) {
				mine := false
				first.Do(func() { mine = true })
				switch {
				case version == "http2":
					script(func(s *scripted) {
						for f, err := s.ReadFrame(); err == nil; f, err = s.ReadFrame() {
							if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
								s.header(d.StreamID, true, ":status", "200", "grpc-status", "0")
								s.WriteWindowUpdate(0, d.Length)
							}
						}
					}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 16 << 10})(c)
				case mine:
					hold(c)
				default:
					says("HTTP/1.1 204 No\r\n\r\n", false)(c)
				}
			}
			playReal(t, Config{Timeout: 2 * time.Second, ConnectTimeout: time.Minute}, peer, func(r *rig) {
				var wg sync.WaitGroup
				wg.Go(func() {
					c := call
					c.Body = make([]byte, 32<<20)
					if a := r.one(c); !errors.Is(a.Err, ErrTimeout) {
						t.Errorf("got %v, want a time-out", a.Err)
					}
				})
				for r.conns.Load() == 0 {
					time.Sleep(time.Millisecond)
				}
				answered := 0
				for range 10 {
					if a := r.one(call); a.Err == nil {
						answered++
					}
				}
				if answered == 0 { // on a machine that stands still for 2s some may not be
					t.Error("no other call was answered")
				}
				wg.Wait()
			})
		})
	}
}

// TestStopSockets cancels what is under way, what waits for a connection, and
// what could not be connected.
func TestStopSockets(t *testing.T) {
	for version, tt := range map[string]struct {
		call Call
		peer func(net.Conn)
	}{
		"http1": {get(), func(c net.Conn) { io.Copy(io.Discard, c) }},
		"http2": {unary("x"), script((*scripted).drain)},
	} {
		t.Run(version, func(t *testing.T) {
			playReal(t, Config{Timeout: time.Minute, MaxConns2: 1, MaxStreams: 2}, tt.peer, func(r *rig) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				codes := map[string]int{}
				for range 5 {
					wg.Go(func() {
						o, err := r.send(tt.call)
						code := fmt.Sprint(err)
						if err == nil {
							code = o.Answers[0].Code()
						}
						o.Release()
						mu.Lock()
						defer mu.Unlock()
						codes[code]++
					})
				}
				for r.conns.Load() == 0 {
					time.Sleep(time.Millisecond)
				}
				// Those that the loop has not taken yet are not its to end.
				for !r.sender.idle() {
					time.Sleep(time.Millisecond)
				}
				r.stop()
				wg.Wait()
				if diff := cmp.Diff(map[string]int{"canceled": 5}, codes); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}
