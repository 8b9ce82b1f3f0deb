package shadow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/xxh3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// scripted is the server's end of an HTTP/2 connection, for peers that do what
// no server does.
type scripted struct {
	*http2.Framer
	conn  net.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
	last  map[string]string // header of the last request

	writing sync.Mutex // held by header
}

// script returns a peer that reads the preface, sends settings, and runs f.
func script(f func(s *scripted), settings ...http2.Setting) func(net.Conn) {
	return func(c net.Conn) {
		preface := make([]byte, len(http2.ClientPreface))
		if _, err := io.ReadFull(c, preface); err != nil || string(preface) != http2.ClientPreface {
			return
		}
		s := &scripted{Framer: http2.NewFramer(c, c), conn: c}
		s.enc = hpack.NewEncoder(&s.block)
		s.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) { s.last[f.Name] += f.Value })
		s.AllowIllegalWrites = true
		s.WriteSettings(settings...)
		f(s)
	}
}

// request reads frames until a request has ended, and returns its stream, or 0.
func (s *scripted) request() uint32 {
	for {
		f, err := s.ReadFrame()
		if err != nil {
			return 0
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			s.last = map[string]string{}
			s.dec.Write(f.HeaderBlockFragment())
			if f.StreamEnded() {
				return f.StreamID
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return f.StreamID
			}
		}
	}
}

func (s *scripted) encode(nv ...string) []byte {
	s.block.Reset()
	for i := 0; i < len(nv); i += 2 {
		s.enc.WriteField(hpack.HeaderField{Name: nv[i], Value: nv[i+1]})
	}
	return bytes.Clone(s.block.Bytes())
}

func (s *scripted) header(id uint32, end bool, nv ...string) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.encode(nv...), EndHeaders: true, EndStream: end})
}

// drain reads until the backend closes.
func (s *scripted) drain() { io.Copy(io.Discard, s.conn) }

// each answers every request by f.
func each(f func(s *scripted, id uint32)) func(*scripted) {
	return func(s *scripted) {
		for id := s.request(); id != 0; id = s.request() {
			f(s, id)
		}
	}
}

func TestAnswerHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name    string
		grpc    bool
		says    func(s *scripted, id uint32)
		status  int
		code    int
		header  string
		trailer string
		body    string
		err     error
		alone   bool // the connection is given up
	}{
		{name: "gRPC", grpc: true, says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200", "content-type", "application/grpc")
			s.WriteDataPadded(id, false, []byte("\x00\x00\x00\x00\x02hi"), make([]byte, 7))
			s.header(id, true, "grpc-status", "5", "grpc-message", "no")
		}, status: 200, code: 5, header: "content-type: application/grpc\n", trailer: "grpc-status: 5\ngrpc-message: no\n", body: "\x00\x00\x00\x00\x02hi"},
		{name: "gRPC stream", grpc: true, says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200")
			for range 3 {
				s.WriteData(id, false, []byte("\x00\x00\x00\x00\x01a"))
			}
			s.header(id, true, "grpc-status", "0")
		}, status: 200, trailer: "grpc-status: 0\n", body: strings.Repeat("\x00\x00\x00\x00\x01a", 3)},
		{name: "trailers only", grpc: true, says: func(s *scripted, id uint32) {
			s.header(id, true, ":status", "200", "grpc-status", "14")
		}, status: 200, code: 14, header: "grpc-status: 14\n"},
		{name: "no gRPC status", grpc: true, says: func(s *scripted, id uint32) { s.header(id, true, ":status", "200") }, status: 200, code: 2},
		{name: "odd gRPC status", grpc: true, says: func(s *scripted, id uint32) { s.header(id, true, ":status", "200", "grpc-status", "-1") },
			status: 200, code: 2, header: "grpc-status: -1\n"},
		{name: "HTTP", says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "404", "content-length", "2")
			s.WriteData(id, true, []byte("no"))
		}, status: 404, code: -1, header: "content-length: 2\n", body: "no"},
		{name: "interim", says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "103", "link", "x")
			s.header(id, true, ":status", "204")
		}, status: 204, code: -1},
		{name: "continuation", says: func(s *scripted, id uint32) {
			b := s.encode(":status", "200", "x", "y")
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b[:1], EndStream: true})
			s.WriteContinuation(id, true, b[1:])
		}, status: 200, code: -1, header: "x: y\n"},
		{name: "settings and pings between", says: func(s *scripted, id uint32) {
			s.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
			s.WritePing(false, [8]byte{1})
			s.header(id, true, ":status", "200")
		}, status: 200, code: -1},

		{name: "reset", says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200")
			s.WriteRSTStream(id, http2.ErrCodeInternal)
		}, status: 200, code: -1, err: ErrCut},
		{name: "content-length", says: func(s *scripted, id uint32) {
			s.header(id, false, ":status", "200", "content-length", "3")
			s.WriteData(id, true, []byte("no"))
		}, status: 200, code: -1, header: "content-length: 3\n", body: "no", err: ErrProtocol},
		{name: "data first", says: func(s *scripted, id uint32) { s.WriteData(id, true, []byte("no")) }, code: -1, err: ErrProtocol},
		{name: "no status", says: func(s *scripted, id uint32) { s.header(id, true, "x", "y") }, code: -1, header: "x: y\n", err: ErrProtocol},
		{name: "101", says: func(s *scripted, id uint32) { s.header(id, false, ":status", "101") }, status: 101, code: -1, err: ErrProtocol},
		{name: "interim flood", says: func(s *scripted, id uint32) {
			for range 20 {
				s.header(id, false, ":status", "100")
			}
			s.header(id, true, ":status", "200")
		}, status: 100, code: -1, err: ErrProtocol},
		{name: "large header", says: func(s *scripted, id uint32) {
			s.header(id, true, append([]string{":status", "200"}, strings.Split(strings.Repeat("x,y,", 2000), ",")[:4000]...)...)
		}, code: -1, err: ErrTooLarge},
		{name: "frame for no stream", says: func(s *scripted, id uint32) { s.header(id+2, true, ":status", "200") }, code: -1, err: ErrProtocol, alone: true},
		{name: "push", says: func(s *scripted, id uint32) {
			s.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: s.encode(":path", "/"), EndHeaders: true})
		}, code: -1, err: ErrProtocol, alone: true},
		{name: "bad block", says: func(s *scripted, id uint32) {
			s.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}, code: -1, err: ErrProtocol, alone: true},
		{name: "frame size 0", says: func(s *scripted, id uint32) { s.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 0}) }, code: -1, err: ErrProtocol, alone: true},
		{name: "window overflow", says: func(s *scripted, id uint32) { s.WriteWindowUpdate(0, maxWindow) }, code: -1, err: ErrProtocol, alone: true},
		{name: "stream window overflow", says: func(s *scripted, id uint32) { s.WriteWindowUpdate(id, maxWindow) }, code: -1, err: ErrProtocol},
		{name: "going away", says: func(s *scripted, id uint32) { s.WriteGoAway(0, http2.ErrCodeNo, nil) }, code: -1, err: ErrCut, alone: true},
		{name: "going away after it", says: func(s *scripted, id uint32) {
			s.WriteGoAway(id, http2.ErrCodeNo, nil)
			s.header(id, true, ":status", "200")
		}, status: 200, code: -1, alone: true},
		{name: "HTTP/1.1", says: func(s *scripted, id uint32) { io.WriteString(s.conn, "HTTP/1.1 400 Bad Request\r\n\r\n") }, code: -1, err: ErrProtocol, alone: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, Config{}, script(each(tt.says)), func(r *rig) {
				c := unary("hi")
				c.GRPC = tt.grpc
				a := r.one(c)
				if !errors.Is(a.Err, tt.err) || a.Status != tt.status || a.Err == nil && a.GRPC != tt.code {
					t.Errorf("got status %d, code %d and %v; want %d, %d and %v", a.Status, a.GRPC, a.Err, tt.status, tt.code, tt.err)
				}
				if diff := cmp.Diff(tt.header, dump(&a.Header)); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.trailer, dump(&a.Trailer)); diff != "" {
					t.Errorf("trailer (-want +got):\n%s", diff)
				}
				if string(a.Body) != tt.body {
					t.Errorf("got body %q, want %q", a.Body, tt.body)
				}
				if want := xxh3.HashString128(tt.body).Bytes(); tt.err == nil && a.Hash != want {
					t.Errorf("got hash %x, want %x", a.Hash, want)
				}
				r.one(c)
				if got := r.conns.Load() == 2; got != tt.alone {
					t.Errorf("got the connection given up: %v, want %v", got, tt.alone)
				}
			})
		})
	}
}

// TestWriteHTTP2 reads what is written, several times on a connection, so that
// the table is used.
func TestWriteHTTP2(t *testing.T) {
	var got []map[string]string
	peer := script(each(func(s *scripted, id uint32) {
		got = append(got, s.last)
		s.header(id, true, ":status", "200")
	}))
	c := unary("hi")
	c.Header = append(c.Header, fields("Connection", "x", "Host", "no", "expect", "100-continue", "X-Upper", "A", "cookie", "s=1", "transfer-encoding", "chunked", "te", "gzip")...)
	c.Authority = []byte("live")
	play(t, Config{Rules: []Rule{{"Cookie", Remove, ""}, {"X-Set", Set, "1"}}}, peer, func(r *rig) {
		for range 3 {
			r.one(c)
		}
	})
	want := map[string]string{":method": "POST", ":scheme": "http", ":authority": "live", ":path": "/p.S/M", "content-type": "application/grpc", "te": "trailers",
		"x-user": "ann", "x-upper": "A", "x-set": "1", RoleHeader: "shadow", IDHeader: "01020000000000000000000000000003", KeyHeader: "0000000000000abc"}
	if diff := cmp.Diff([]map[string]string{want, want, want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestServerHTTP2 makes calls of net/http's server, large both ways and many at
// once: flow control, trailers, batches.
func TestServerHTTP2(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Grpc-Status")
		w.Header().Set("Content-Type", "application/grpc")
		w.Write(body)
		w.Header().Set("Grpc-Status", "7")
	})
	peer := func(c net.Conn) {
		s := &http.Server{Handler: handler, Protocols: new(http.Protocols),
			HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 5, MaxReceiveBufferPerStream: 16 << 10, MaxReceiveBufferPerConnection: 64 << 10}}
		s.Protocols.SetUnencryptedHTTP2(true)
		l := &single{conn: c, gone: make(chan struct{})}
		s.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(l.gone)
			}
		}
		s.Serve(l)
	}
	play(t, Config{MaxConns2: 2, MaxCalls: 50}, peer, func(r *rig) {
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				c := unary("")
				c.Body = bytes.Repeat([]byte{byte(i)}, 1+i*10_000)
				a := r.one(c)
				if want := xxh3.Hash128(c.Body).Bytes(); a.Err != nil || a.GRPC != 7 || a.Size != int64(len(c.Body)) || a.Hash != want {
					t.Errorf("call %d: got %v, code %d, %d bytes; want code 7, %d bytes", i, a.Err, a.GRPC, a.Size, len(c.Body))
				}
			})
		}
		wg.Wait()
		if got := r.conns.Load(); got > 2 {
			t.Errorf("got %d connections, want at most 2", got)
		}
	})
}

// single is a listener for one connection.
type single struct {
	conn net.Conn
	gone chan struct{}
}

func (l *single) Accept() (c net.Conn, err error) {
	if c, l.conn = l.conn, nil; c == nil {
		<-l.gone
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *single) Close() error   { return nil }
func (l *single) Addr() net.Addr { return &net.TCPAddr{} }

// TestEarlyAnswer ends a call whose body the peer does not want.
func TestEarlyAnswer(t *testing.T) {
	var reset bool
	peer := script(func(s *scripted) {
		for {
			f, err := s.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.HeadersFrame:
				s.header(f.StreamID, true, ":status", "413")
			case *http2.RSTStreamFrame:
				reset = f.ErrCode == http2.ErrCodeCancel
			}
		}
	})
	play(t, Config{}, peer, func(r *rig) {
		c := unary("")
		c.GRPC, c.Body = false, make([]byte, 1<<20)
		if a := r.one(c); a.Err != nil || a.Status != 413 {
			t.Errorf("got %v and status %d, want 413", a.Err, a.Status)
		}
		synctest.Wait()
		r.one(unary("next")) // which flushes
	})
	if !reset {
		t.Error("got no RST_STREAM for the stream that was answered early")
	}

	early := func(c net.Conn) {
		buf := make([]byte, 1000)
		c.Read(buf)
		io.WriteString(c, "HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
		buf[0] = 0
		time.Sleep(time.Second)
	}
	play(t, Config{}, early, func(r *rig) {
		c := get()
		c.Body = make([]byte, 1<<20)
		start := time.Now()
		if a := r.one(c); a.Err != nil || a.Status != 413 || time.Since(start) != 0 {
			t.Errorf("got %v and status %d after %v, want 413 at once", a.Err, a.Status, time.Since(start))
		}
	})
}

// TestOneConnection makes calls one by one and together: as long as there is
// room they share a connection.
func TestOneConnection(t *testing.T) {
	peer := script(each(func(s *scripted, id uint32) { s.header(id, true, ":status", "200") }))
	play(t, Config{}, peer, func(r *rig) {
		var wg sync.WaitGroup
		for range 60 {
			wg.Go(func() { r.one(unary("x")) })
		}
		wg.Wait()
		if got := r.conns.Load(); got != 1 {
			t.Errorf("got %d connections, want 1", got)
		}
	})
}

// TestNoRoom waits for a stream as long as a call may take.
func TestNoRoom(t *testing.T) {
	settings := http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1}
	peer := script(func(s *scripted) {
		for id := s.request(); id != 0; id = s.request() {
			time.Sleep(300 * time.Millisecond)
			s.header(id, true, ":status", "200")
		}
	}, settings)
	play(t, Config{MaxConns2: 1, Timeout: time.Second}, peer, func(r *rig) {
		r.one(unary("x")) // learns the limit
		start := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		ends := map[string]int{}
		for range 6 {
			wg.Go(func() {
				a := r.one(unary("x"))
				mu.Lock()
				defer mu.Unlock()
				ends[fmt.Sprint(time.Since(start), " ", a.Code())]++
			})
		}
		wg.Wait()
		// All but the first wait; those of whom the turn had not come after 1s
		// are given up.
		want := map[string]int{"300ms 2": 1, "600ms 2": 1, "900ms 2": 1, "1.2s 2": 1, "1s timeout": 2}
		if diff := cmp.Diff(want, ends); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
