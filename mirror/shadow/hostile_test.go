package shadow

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"darklaunch/internal/memnet"
)

// again writes text until the peer is gone.
func again(c net.Conn, text string) {
	for {
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

// once1 runs f after the first request, of any size.
func once1(f func(c net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := readRequest(c); err == nil {
			f(c)
		}
	}
}

// once2 runs f after the first request.
func once2(f func(s *scripted, id uint32)) func(net.Conn) {
	return script(func(s *scripted) {
		if id := s.request(); id != 0 {
			f(s, id)
		}
	})
}

func reset(c net.Conn) {
	c.(interface{ SetLinger(sec int) error }).SetLinger(0)
	c.Close()
}

// rest lets time pass: all of it on the fake clock, little on the real one.
func rest(c net.Conn, d time.Duration) {
	k, ok := c.(*realConn)
	if !ok {
		time.Sleep(d)
		return
	}
	select {
	case <-k.over:
	case <-time.After(min(d, max(d/20, time.Millisecond))):
	}
}

// hold keeps a connection without doing anything on it.
func hold(c net.Conn) {
	if k, ok := c.(*realConn); ok {
		<-k.over
	} else {
		time.Sleep(time.Minute)
	}
}

func bomb() string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(make([]byte, 2<<20))
	z.Close()
	return b.String()
}

// late is how much later than due the end of a call may come.
const late = 100 * time.Millisecond

// shadows are what a role may do, or leave undone.
var shadows = []struct {
	name  string
	peer1 func(net.Conn) // HTTP/1.1; nil is not applicable
	peer2 func(net.Conn) // HTTP/2
	code  string         // that each call ends with; of gRPC calls where it differs
	code2 string
	took  time.Duration // at least; at most a sweep more, or a connect's time-out
}{
	{name: "fast", code: "200", code2: "0",
		peer1: says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false),
		peer2: script(each(func(s *scripted, id uint32) { s.header(id, true, ":status", "200", "grpc-status", "0") }))},
	{name: "slow", code: "200", code2: "0", took: 2 * time.Second,
		peer1: once1(func(c net.Conn) {
			rest(c, 2*time.Second)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
		}),
		peer2: script(func(s *scripted) {
			for id := s.request(); id != 0; id = s.request() {
				id := id
				go func() {
					rest(s.conn, 2*time.Second)
					s.header(id, true, ":status", "200", "grpc-status", "0")
				}()
			}
		})},
	{name: "500s", code: "500", code2: "13",
		peer1: says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", false),
		peer2: script(each(func(s *scripted, id uint32) { s.header(id, true, ":status", "200", "grpc-status", "13") }))},
	{name: "never reads nor says SETTINGS", code: "timeout", took: 2 * time.Second,
		peer2: hold},
	{name: "never reads", code: "timeout", took: 5 * time.Second,
		peer1: hold,
		peer2: func(c net.Conn) {
			http2.NewFramer(c, nil).WriteSettings()
			hold(c)
		}},
	{name: "never answers", code: "timeout", took: 5 * time.Second,
		peer1: func(c net.Conn) { io.Copy(io.Discard, c) },
		peer2: script((*scripted).drain)},
	{name: "trickles", code: "timeout", took: 5 * time.Second,
		peer1: once1(func(c net.Conn) {
			for range 1000 {
				if _, err := io.WriteString(c, "H"); err != nil {
					return
				}
				rest(c, 100*time.Millisecond)
			}
		}),
		peer2: once2(func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200")
			for s.WriteData(id, false, []byte("x")) == nil {
				rest(s.conn, 100*time.Millisecond)
			}
		})},
	{name: "resets within the body", code: "error",
		peer1: once1(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
			reset(c)
		}),
		peer2: once2(func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200")
			s.WriteData(id, false, []byte("he"))
			reset(s.conn)
		})},
	{name: "closes at once", code: "error", peer1: func(net.Conn) {}, peer2: func(net.Conn) {}},
	{name: "garbage", code: "error",
		peer1: once1(func(c net.Conn) { again(c, "\x00\xff\x10garbage\r\n") }),
		peer2: func(c net.Conn) { again(c, "\x00\xff\x10garbage\r\n") }},
	{name: "endless header", code: "error",
		peer1: once1(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"); again(c, strings.Repeat("X: y\r\n", 500)) }),
		peer2: once2(func(s *scripted, id uint32) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.encode(":status", "200")})
			for s.WriteContinuation(id, false, s.encode("x", "y")) == nil {
			}
		})},
	{name: "empty continuations", code: "error",
		peer2: once2(func(s *scripted, id uint32) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.encode(":status", "200")})
			for s.WriteContinuation(id, false, nil) == nil {
			}
		})},
	{name: "endless body", code: "error",
		peer1: once1(func(c net.Conn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); again(c, strings.Repeat("x", 1<<16)) }),
		peer2: once2(func(s *scripted, id uint32) {
			go s.drain()
			s.header(id, false, ":status", "200")
			for s.WriteData(id, false, make([]byte, 1<<14)) == nil {
			}
		})},
	{name: "endless tiny chunks", code: "error",
		peer1: once1(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			again(c, strings.Repeat("1\r\nx\r\n", 1000))
		}),
		peer2: once2(func(s *scripted, id uint32) {
			go s.drain()
			s.header(id, false, ":status", "200")
			for s.WriteData(id, false, nil) == nil {
			}
		})},
	{name: "endless trailer", code: "error",
		peer1: once1(func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
			again(c, strings.Repeat("X: y\r\n", 500))
		})},
	{name: "1xx flood", code: "error",
		peer1: once1(func(c net.Conn) { again(c, strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100)) }),
		peer2: once2(func(s *scripted, id uint32) {
			go s.drain()
			for s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.encode(":status", "100"), EndHeaders: true}) == nil {
			}
		})},
	{name: "GOAWAY storm", code: "error",
		peer2: script(func(s *scripted) {
			for s.WriteGoAway(0, http2.ErrCodeNo, nil) == nil {
			}
		})},
	{name: "SETTINGS_MAX_FRAME_SIZE=0", code: "error", peer2: script((*scripted).drain, http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0})},
	{name: "SETTINGS flood", code: "error",
		peer2: once2(func(s *scripted, id uint32) {
			for s.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1}) == nil {
			}
		})},
	{name: "PING flood", code: "error",
		peer2: once2(func(s *scripted, id uint32) {
			go s.drain()
			for s.WritePing(false, [8]byte{}) == nil {
			}
		})},
	{name: "window never opens", code: "timeout", took: 5 * time.Second,
		peer2: script((*scripted).drain, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})},
	{name: "no streams", code: "timeout", took: 5 * time.Second,
		peer2: script((*scripted).drain, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 0})},
	{name: "resets streams", code: "error",
		peer2: script(each(func(s *scripted, id uint32) { s.WriteRSTStream(id, http2.ErrCodeRefusedStream) }))},
}

// TestHostile makes a burst of calls of each. Each ends as it should and when it
// should, what is kept is within bounds, and at the end nothing is left: no
// goroutine, or the bubble would not end, and nothing of the account.
func TestHostile(t *testing.T) {
	const calls = 15 // too few to open the breaker
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
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				play(t, Config{MaxBody: 256 << 10, KeepBody: 16 << 10}, peer, func(r *rig) {
					var wg sync.WaitGroup
					var mu sync.Mutex
					codes := map[string]int{}
					for range calls {
						wg.Go(func() {
							start := time.Now()
							a := r.one(c)
							took := time.Since(start)
							mu.Lock()
							defer mu.Unlock()
							codes[a.Code()]++
							if took < tt.took || took > tt.took+late {
								t.Errorf("took %v, want %v (%v)", took, tt.took, a.Err)
							}
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

// TestUnreachable tries to connect where nobody is: refused, or never answered.
func TestUnreachable(t *testing.T) {
	for _, tt := range []struct {
		name string
		dial func(ctx context.Context, network, address string) (net.Conn, error)
		code string
		took time.Duration
	}{
		{"refused", func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }, "error", 0},
		{"SYN black hole", func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, "timeout", 2 * time.Second},
	} {
		for version, c := range map[string]Call{"http1": get(), "http2": unary("x")} {
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				play(t, Config{Dial: tt.dial}, nil, func(r *rig) {
					start := time.Now()
					a := r.one(c) // which counts as sent
					if took := time.Since(start); !errors.Is(a.Err, ErrConnect) || a.Code() != tt.code || took != tt.took {
						t.Errorf("got %v, %s after %v; want %v, %s after %v", a.Err, a.Code(), took, ErrConnect, tt.code, tt.took)
					}
				})
			})
		}
	}
}

// TestTLSStall connects to a peer that never shakes hands, or says no.
func TestTLSStall(t *testing.T) {
	for _, tt := range []struct {
		name string
		peer func(net.Conn)
		code string
		took time.Duration
	}{
		{"stalls", func(c net.Conn) { io.Copy(io.Discard, c) }, "timeout", 2 * time.Second},
		{"speaks plain HTTP", func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); io.Copy(io.Discard, c) }, "error", 0},
	} {
		for version, c := range map[string]Call{"http1": get(), "http2": unary("x")} {
			t.Run(tt.name+"/"+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var network memnet.Network
					l, err := network.Host("peer").Listen(443)
					if err != nil {
						t.Fatal(err)
					}
					var wg sync.WaitGroup
					wg.Go(func() {
						c, err := l.Accept()
						if err == nil {
							tt.peer(c)
							c.Close()
						}
					})
					b, err := New(Config{Role: "shadow", Address: "https://peer:443", Dial: network.Host("mirror").Dial})
					if err != nil {
						t.Fatal(err)
					}
					s := newSender(t, LoopConfig{Portable: true}, b)
					o, start := b.NewOutcome(), time.Now()
					if err := s.send(b, &Copy{Calls: []Call{c}}, begun, o); err != nil {
						t.Fatal(err)
					}
					if a, took := o.Answers[0], time.Since(start); a.Code() != tt.code || took != tt.took {
						t.Errorf("got %v after %v, want %s after %v", a.Err, took, tt.code, tt.took)
					}
					o.Release()
					s.stop()
					l.Close()
					wg.Wait()
				})
			})
		}
	}
}

// TestAbruptClose closes a TLS connection whose peer has stopped reading.
func TestAbruptClose(t *testing.T) {
	srv := httptest.NewTLSServer(nil)
	defer srv.Close()
	synctest.Test(t, func(t *testing.T) {
		network := memnet.Network{Buffer: 16 << 10}
		l, err := network.Host("peer").Listen(443)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			if err := tls.Server(c, &tls.Config{Certificates: srv.TLS.Certificates}).Handshake(); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Minute)
			c.Close()
		})
		b, err := New(Config{Role: "shadow", Address: "https://peer:443", Dial: network.Host("mirror").Dial, TLS: &tls.Config{InsecureSkipVerify: true}})
		if err != nil {
			t.Fatal(err)
		}
		NewLoop(LoopConfig{}, b)
		c, err := b.dial(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		raw := c.(abrupt).NetConn()
		raw.SetWriteDeadline(time.Now().Add(time.Second))
		for err == nil {
			_, err = raw.Write(make([]byte, 1<<10)) // until the peer's buffer is full
		}
		raw.SetWriteDeadline(time.Time{})
		start := time.Now()
		c.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("closing took %v, want no time", took)
		}
		wg.Wait()
		l.Close()
	})
}

// TestSilence times one call out on a connection on which nothing came since.
// Another that is under way there has its own time; new ones go elsewhere.
func TestSilence(t *testing.T) {
	peer := script(func(s *scripted) {
		s.request() // of which it thinks forever
		for id := s.request(); id != 0; id = s.request() {
			time.Sleep(2 * time.Second)
			s.header(id, true, ":status", "200")
		}
	})
	play(t, Config{}, peer, func(r *rig) {
		var wg sync.WaitGroup
		wg.Go(func() {
			if a := r.one(unary("x")); !errors.Is(a.Err, ErrTimeout) {
				t.Errorf("got %v, want %v", a.Err, ErrTimeout)
			}
		})
		time.Sleep(4 * time.Second)
		if a := r.one(unary("y")); a.Err != nil {
			t.Errorf("the second call: %v", a.Err)
		}
		wg.Wait()
		wg.Go(func() { r.one(unary("z")) })
		synctest.Wait()
		if got := r.conns.Load(); got != 2 {
			t.Errorf("got %d connections, want another", got)
		}
		wg.Wait()
	})
}

// TestLargeCopyNeverRead sends 32 MiB to a peer that reads none of it. That
// call times out, and no other is held up.
func TestLargeCopyNeverRead(t *testing.T) {
	large := make([]byte, 32<<20)
	first := true
	for version, tt := range map[string]struct {
		call Call
		peer func(net.Conn)
	}{
		"http1": {get(), func(c net.Conn) {
			if first {
				first = false
				time.Sleep(time.Minute)
				return
			}
			says("HTTP/1.1 204 No\r\n\r\n", false)(c)
		}},
		// Flow control keeps the connection free for others.
		"http2": {unary("x"), script(func(s *scripted) {
			for {
				f, err := s.ReadFrame()
				if err != nil {
					return
				}
				if d, ok := f.(*http2.DataFrame); ok && d.StreamEnded() {
					s.header(d.StreamID, true, ":status", "200")
					s.WriteWindowUpdate(0, d.Length)
				}
			}
		}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 16 << 10})},
	} {
		t.Run(version, func(t *testing.T) {
			first = true
			play(t, Config{}, tt.peer, func(r *rig) {
				start := time.Now()
				var wg sync.WaitGroup
				wg.Go(func() {
					c := tt.call
					c.Body = large
					a := r.one(c)
					if took := time.Since(start); !errors.Is(a.Err, ErrTimeout) || took < 5*time.Second || took > 5*time.Second+late {
						t.Errorf("got %v after %v, want a time-out after 5s", a.Err, took)
					}
				})
				synctest.Wait()
				for range 10 {
					if a := r.one(tt.call); a.Err != nil {
						t.Errorf("another call: %v", a.Err)
					}
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("others took %v, want none", took)
				}
				wg.Wait()
			})
		})
	}
}

// TestBomb gets 2 MiB of zeros in 2 KiB of gzip, and leaves them there.
func TestBomb(t *testing.T) {
	text := bomb()
	peer := once1(func(c net.Conn) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"+text)
	})
	play(t, Config{}, peer, func(r *rig) {
		if a := r.one(get()); a.Err != nil || string(a.Body) != text {
			t.Errorf("got %v and %d bytes, want the %d that were sent", a.Err, a.Size, len(text))
		}
	})
}

// TestBudget refuses what the account does not have.
func TestBudget(t *testing.T) {
	body := strings.Repeat("x", 100<<10)
	peer := says("HTTP/1.1 200 OK\r\nContent-Length: 102400\r\n\r\n"+body, false)
	play(t, Config{}, peer, func(r *rig) {
		r.account.most.Store(50 << 10)
		a := r.one(get())
		if a.Err != nil || !a.Truncated || a.Size != 100<<10 || len(a.Body) > 50<<10 || len(a.Body) == 0 {
			t.Errorf("got %v, %d bytes of %d kept, truncated %v; want at most 50 KiB of all", a.Err, len(a.Body), a.Size, a.Truncated)
		}
		whole := a.Hash
		r.account.most.Store(0)
		if b := r.one(get()); b.Truncated || b.Hash != whole {
			t.Errorf("got hash %x of the whole, want that of the truncated, %x", b.Hash, whole)
		}
		r.account.most.Store(1)
		if a := r.one(get()); !errors.Is(a.Err, ErrTooLarge) {
			t.Errorf("got %v, want %v", a.Err, ErrTooLarge)
		}
	})
}

// TestPanic plants a panic where an answer is read. It is told of, ends that
// connection's calls and no other.
func TestPanic(t *testing.T) {
	var told any
	peer := script(each(func(s *scripted, id uint32) { s.header(id, true, ":status", "200", "x", s.last["x-user"]) }))
	playGuarded(t, Config{}, func(v any) { told = v }, peer, func(r *rig) {
		r.account.panics.Store(true)
		if a := r.one(unary("x")); !errors.Is(a.Err, ErrCanceled) {
			t.Errorf("got %v, want the call canceled", a.Err)
		}
		if told != "planted" {
			t.Errorf("told of %v, want of the panic", told)
		}
		r.account.panics.Store(false)
		if a := r.one(unary("x")); a.Err != nil {
			t.Errorf("after it: %v", a.Err)
		}
	})
}

// TestStaleConnection finds that the peer closed an idle connection: over real
// sockets it is seen without a call that is lost on it.
func TestStaleConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	closed := make(chan struct{})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			readRequest(c)
			io.WriteString(c, "HTTP/1.1 204 No\r\n\r\n")
			c.Close()
			closed <- struct{}{}
		}
	}()
	b, err := New(Config{Role: "shadow", Address: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t, LoopConfig{}, b)
	defer s.stop()
	for i := range 3 {
		o := b.NewOutcome()
		if err := s.send(b, &Copy{Calls: []Call{get()}}, begun, o); err != nil || o.Answers[0].Err != nil {
			t.Errorf("call %d: got %v and %v, want an answer", i, err, o.Answers[0].Err)
		}
		o.Release()
		<-closed
		for open := 1; open > 0; {
			s.on(func() { open = b.http1.open })
		}
	}
}

// TestIdle closes what is not used.
func TestIdle(t *testing.T) {
	gone := 0
	peer1 := func(c net.Conn) { says("HTTP/1.1 204 No\r\n\r\n", false)(c); gone++ }
	peer2 := script(func(s *scripted) {
		each(func(s *scripted, id uint32) { s.header(id, true, ":status", "200") })(s)
		gone++
	})
	play(t, Config{IdleTimeout: 10 * time.Second}, peer1, func(r *rig) {
		r.one(get())
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if gone != 1 || r.back.http1.open != 0 {
			t.Errorf("got %d connections closed and %d held after 11s, want 1 and 0", gone, r.back.http1.open)
		}
	})
	gone = 0
	play(t, Config{IdleTimeout: 10 * time.Second}, peer2, func(r *rig) {
		r.one(unary("x"))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if gone != 1 || len(r.back.http2.conns) != 0 {
			t.Errorf("got %d connections closed and %d held after 11s, want 1 and 0", gone, len(r.back.http2.conns))
		}
	})
}

// FuzzAnswer1 reads anything as an answer, in pieces of any size: it ends, and
// what is kept is within bounds.
func FuzzAnswer1(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), uint8(3))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n"), uint8(1))
	f.Add([]byte("HTTP/1.0 200 OK\r\n\r\nrest"), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		whole, pieces := read1With(data, len(data)), read1With(data, int(piece))
		if diff := cmp.Diff(whole, pieces); diff != "" {
			t.Errorf("in pieces of %d (-whole +pieces):\n%s", piece, diff)
		}
	})
}

type read struct {
	Status          int
	Header, Trailer string
	Body            string
	Hash            [16]byte
	Err             string
}

func read1With(data []byte, piece int) read {
	a := new(Answer)
	a.reset(&limits{keep: 1 << 10, read: 1 << 16, head: 1 << 12})
	var r reader1
	r.begin(a, nil)
	done, err := false, error(nil)
	for len(data) > 0 && !done && err == nil {
		n := min(max(piece, 1), len(data))
		_, done, err = r.take(data[:n], time.Time{})
		data = data[n:]
	}
	switch {
	case err == nil && (done || r.end()):
		a.end(time.Time{}, false)
	case err == nil:
		err = ErrCut
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	return read{a.Status, dump(&a.Header), dump(&a.Trailer), string(a.Body), a.Hash, text}
}

// FuzzConn2 reads anything as what an HTTP/2 peer sends.
func FuzzConn2(f *testing.F) {
	var b, block bytes.Buffer
	fr := http2.NewFramer(&b, nil)
	fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15})
	enc := hpack.NewEncoder(&block)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	fr.WriteData(1, true, []byte("hello"))
	fr.WriteGoAway(1, 0, nil)
	f.Add(b.Bytes(), uint8(200))
	f.Add(b.Bytes(), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		b, err := New(Config{Role: "shadow", Address: "peer:80", KeepBody: 1 << 10, MaxBody: 1 << 16, MaxHead: 1 << 12})
		if err != nil {
			t.Fatal(err)
		}
		b.loop = &Loop{}
		c := newConn2(b)
		c.link = nowhere{}
		b.http2.conns = append(b.http2.conns, c)
		ended := make(chan error, 1)
		call := unary("x")
		j := &Job{Backend: b, Copy: &Copy{Calls: []Call{call}}, Outcome: b.NewOutcome(), Handler: waiter{begun, ended}}
		j.answer = j.Outcome.next(&b.limits)
		c.begin(j)
		for len(data) > 0 && c.err == nil {
			n := min(max(int(piece), 1), len(data))
			c.take(data[:n], time.Time{})
			data = data[n:]
		}
		c.end(io.EOF)
		select {
		case <-ended:
		default:
			t.Error("the connection ended and its stream did not")
		}
		if a := j.Outcome.Answers[0]; len(a.Body) > 1<<10 {
			t.Errorf("kept %d bytes, want at most 1 KiB", len(a.Body))
		}
	})
}

// nowhere is a link that takes anything.
type nowhere struct{}

func (nowhere) write(p []byte) (int, error) { return len(p), nil }
func (nowhere) close()                      {}
