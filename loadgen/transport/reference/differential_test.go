package reference_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
	"darklaunch/loadgen/transport/reference"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// driver is what the transports have in common.
type driver interface {
	engine.Driver
	Close()
}

// transports are the ways to make a call that must agree.
var transports = []struct {
	name string
	make func(transport.Config, transport.Clock) (driver, error)
}{
	{"fast", func(c transport.Config, k transport.Clock) (driver, error) { return transport.New(c, k) }},
	{"portable", func(c transport.Config, k transport.Clock) (driver, error) {
		c.Portable = true
		return transport.New(c, k)
	}},
	{"reference", func(c transport.Config, k transport.Clock) (driver, error) { return reference.New(c, k) }},
}

// outcome is what a transport says of a call.
type outcome struct {
	Class    transport.Class
	Code     int
	Received int64
	Messages int
	Answer   string
}

// drive makes one call of each operation, one after the other, and gives each
// of them up after patience.
func drive(t *testing.T, cfg transport.Config, how int, patience time.Duration) []outcome {
	t.Helper()
	clock := transport.NewClock(time.Now())
	d, err := transports[how].make(cfg, clock)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var all []outcome
	for i := range cfg.Ops {
		c := &transport.Call{Op: i, Deadline: clock.Now() + patience}
		// The call's own time-out must not end it first where it is sent along.
		if cfg.Protocol == transport.GRPC {
			c.Deadline += time.Minute
		}
		begin := clock.Now()
		d.Start(c)
		for done := false; !done; {
			switch {
			case len(d.Poll(begin+patience)) > 0:
				done = true
			case clock.Now() >= begin+patience:
				d.Cancel(c)
				c.Class, c.Code = transport.Timeout, 0
				done = true
			}
		}
		o := outcome{c.Class, c.Code, c.Received, c.Messages, string(c.Answer)}
		if !c.Class.Answered() { // how much was read before it went wrong is nobody's business
			o.Received, o.Messages, o.Answer = 0, 0, ""
		}
		all = append(all, o)
	}
	return all
}

// log is what a server was asked, a line a call.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

func (l *log) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

func describe(h http.Header) string {
	var fields []string
	for name, values := range h {
		fields = append(fields, fmt.Sprintf("%s=%q", strings.ToLower(name), values))
	}
	slices.Sort(fields)
	return strings.Join(fields, " ")
}

// httpServer answers in all the ways that HTTP allows.
func httpServer(seen *log) http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d bytes", len(body))
	})
	m.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		var code int
		fmt.Sscan(r.PathValue("code"), &code)
		w.WriteHeader(code)
	})
	m.HandleFunc("/chunked", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		for range 3 {
			io.WriteString(w, "piece")
			w.(http.Flusher).Flush()
		}
		w.Header().Set("X-Sum", "15")
	})
	m.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 700_000))
	})
	m.HandleFunc("/close", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		io.WriteString(w, "bye")
	})
	m.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.WriteHeader(201)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		seen.add(fmt.Sprintf("%s %s %s host=%s length=%d te=%v body=%d/%x err=%v %s",
			r.Proto, r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, len(body), body[:min(len(body), 40)], err, describe(r.Header)))
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		m.ServeHTTP(w, r)
	})
}

var httpOps = []transport.Op{
	{Path: "/", Keep: 100},
	{Path: "/q?a=b&c=%20", Header: []transport.Header{{Name: "X-A", Value: "1"}, {Name: "X-A", Value: "2"}, {Name: "Accept", Value: "*/*"}}},
	{Method: "POST", Path: "/", Body: []byte("hello"), Keep: 4},
	{Method: "POST", Path: "/"},
	{Method: "PUT", Path: "/", Body: make([]byte, 300_000), Keep: 100},
	{Method: "DELETE", Path: "/x"},
	{Method: "PATCH", Path: "/", Body: []byte("p"), Header: []transport.Header{{Name: "Host", Value: "other.example"}, {Name: "User-Agent", Value: "me"}}},
	{Method: "HEAD", Path: "/large"},
	{Method: "OPTIONS", Path: "/"},
	{Path: "/status/204"},
	{Path: "/status/304"},
	{Path: "/status/302"},
	{Path: "/status/404"},
	{Path: "/status/503"},
	{Path: "/chunked", Keep: 100},
	{Path: "/large"},
	{Path: "/close", Keep: 100},
	{Path: "/hints"},
	{Path: "/", Keep: 100},
}

func TestSameHTTPCalls(t *testing.T) {
	for _, c := range []struct {
		name  string
		proto transport.Protocol
		tls   bool
	}{
		{"HTTP/1.1", transport.HTTP1, false},
		{"HTTP/2", transport.HTTP2, false},
		{"HTTP/1.1 over TLS", transport.HTTP1, true},
		{"HTTP/2 over TLS", transport.HTTP2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := new(log)
			s := httptest.NewUnstartedServer(httpServer(seen))
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetHTTP1(true)
			s.Config.Protocols.SetUnencryptedHTTP2(!c.tls)
			cfg := transport.Config{Protocol: c.proto, Ops: httpOps, Conns: 2}
			if c.tls {
				s.EnableHTTP2 = true
				s.Config.Protocols.SetHTTP2(true)
				s.StartTLS()
				cfg.TLS = s.Client().Transport.(*http.Transport).TLSClientConfig
			} else {
				s.Start()
			}
			defer s.Close()
			cfg.Addr = s.Listener.Addr().String()
			agree(t, cfg, 5*time.Second, seen)
		})
	}
}

// agree makes the calls over all transports and compares what they say, and
// what the server saw.
func agree(t *testing.T, cfg transport.Config, patience time.Duration, seen *log) []outcome {
	t.Helper()
	var first []outcome
	var asked []string
	for how, tr := range transports {
		got := drive(t, cfg, how, patience)
		lines := seen.take()
		slices.Sort(lines)
		if how == 0 {
			first, asked = got, lines
			continue
		}
		if diff := cmp.Diff(first, got); diff != "" {
			t.Errorf("outcomes differ: (-%s +%s)\n%s", transports[0].name, tr.name, diff)
		}
		if diff := cmp.Diff(asked, lines); diff != "" {
			t.Errorf("calls differ: (-%s +%s)\n%s", transports[0].name, tr.name, diff)
		}
	}
	if len(asked) < len(cfg.Ops) {
		t.Errorf("got %d calls at the server, want at least %d", len(asked), len(cfg.Ops))
	}
	return first
}

// bytesCodec passes messages through as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "" }
func (bytesCodec) Marshal(m any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(m.([]byte))}, nil
}
func (bytesCodec) Unmarshal(b mem.BufferSlice, m any) error {
	*m.(*[]byte) = b.Materialize()
	return nil
}

// grpcServer answers any method by its name.
func grpcServer(seen *log, creds credentials.TransportCredentials) *grpc.Server {
	return grpc.NewServer(grpc.Creds(creds), grpc.ForceServerCodecV2(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		md, _ := metadata.FromIncomingContext(s.Context())
		agent, _, _ := strings.Cut(strings.Join(md.Get("user-agent"), ""), " ")
		md.Set("user-agent", agent) // grpc-go adds its own name
		_, deadline := s.Context().Deadline()
		var in [][]byte
		for {
			var m []byte
			err := s.RecvMsg(&m)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			in = append(in, m)
		}
		var fields []string
		for name, values := range md {
			fields = append(fields, fmt.Sprintf("%s=%q", name, values))
		}
		slices.Sort(fields)
		sizes := ""
		for _, m := range in {
			sizes += fmt.Sprintf(" %d:%x", len(m), m[:min(len(m), 20)])
		}
		seen.add(fmt.Sprintf("%s deadline=%t messages=%s %v", method, deadline, sizes, fields))
		answers := 1
		switch name := method[strings.LastIndexByte(method, '/')+1:]; {
		case strings.HasPrefix(name, "Fail"):
			var code codes.Code
			fmt.Sscan(name[4:], (*uint32)(&code))
			return status.Error(code, "as asked")
		case name == "Stream":
			answers = 3
		case name == "Nothing":
			answers = 0
		case name == "Large":
			return s.SendMsg(make([]byte, 900_000))
		case name == "Half":
			s.SendMsg([]byte("one"))
			return status.Error(codes.Aborted, "half way")
		}
		s.SetTrailer(metadata.Pairs("x-trailer", "t"))
		for i := range answers {
			if err := s.SendMsg(fmt.Appendf(nil, "answer %d to %d", i, len(in))); err != nil {
				return err
			}
		}
		return nil
	}))
}

var grpcOps = []transport.Op{
	{Path: "/t.T/Unary", Messages: [][]byte{[]byte("hello")}, Keep: 100},
	{Path: "/t.T/Unary", Messages: [][]byte{{}}},
	{Path: "/t.T/Unary", Messages: [][]byte{make([]byte, 200_000)}, Header: []transport.Header{{Name: "X-User", Value: "ann"}, {Name: "x-user", Value: "bob"}}},
	{Path: "/t.T/Stream", Messages: [][]byte{[]byte("q")}, ServerStream: true, Keep: 1000},
	{Path: "/t.T/Nothing", Messages: [][]byte{[]byte("q")}, ServerStream: true},
	{Path: "/t.T/Client", Messages: [][]byte{[]byte("a"), []byte("bb"), make([]byte, 100_000), {}}, Keep: 100},
	{Path: "/t.T/Client", Keep: 100}, // a client stream of no messages
	{Path: "/t.T/Fail5", Messages: [][]byte{nil}},
	{Path: "/t.T/Fail14", Messages: [][]byte{nil}},
	{Path: "/t.T/Fail4", Messages: [][]byte{nil}},
	{Path: "/t.T/Fail77", Messages: [][]byte{nil}},
	{Path: "/t.T/Half", Messages: [][]byte{nil}, ServerStream: true},
	{Path: "/t.T/Large", Messages: [][]byte{nil}},
	{Path: "/t.T/Nothing", Messages: [][]byte{nil}}, // no answer to a unary call
	{Path: "/t.T/Stream", Messages: [][]byte{nil}},  // too many
	{Path: "/t.T/Unary", Messages: [][]byte{[]byte("last")}},
}

func TestSameGRPCCalls(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS %t", secure), func(t *testing.T) {
			seen := new(log)
			creds := insecure.NewCredentials()
			cfg := transport.Config{Protocol: transport.GRPC, Ops: grpcOps, Conns: 2}
			if secure {
				helper := httptest.NewUnstartedServer(nil) // for its certificate
				helper.StartTLS()
				defer helper.Close()
				creds = credentials.NewTLS(&tls.Config{Certificates: helper.TLS.Certificates})
				cfg.TLS = helper.Client().Transport.(*http.Transport).TLSClientConfig
			}
			s := grpcServer(seen, creds)
			l := listen(t)
			var wg sync.WaitGroup
			wg.Go(func() { s.Serve(l) })
			defer wg.Wait()
			defer s.Stop()
			cfg.Addr = l.Addr().String()
			got := agree(t, cfg, 5*time.Second, seen)
			if got[0] != (outcome{transport.OK, 0, int64(len("answer 0 to 1")) + 5, 1, "answer 0 to 1"}) || got[7].Code != 5 || got[13].Class != transport.Malformed {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func listen(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// hostile serves each connection by f until the test ends.
func hostile(t *testing.T, f func(net.Conn, *bufio.Reader)) string {
	l := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				f(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		stop()
		wg.Wait()
	})
	return l.Addr().String()
}

// request reads one HTTP/1.1 request without a body and returns its path.
func request(r *bufio.Reader) (string, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return "", err
	}
	return req.URL.Path, nil
}

// reset closes c so that the peer sees a reset.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// hang reads until the peer goes.
func hang(c net.Conn) { io.Copy(io.Discard, c) }

// flood sends p until the peer goes.
func flood(c net.Conn, p string) {
	for {
		if _, err := io.WriteString(c, p); err != nil {
			return
		}
	}
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"

func say(s string) func(net.Conn) { return func(c net.Conn) { io.WriteString(c, s) } }

// netHTTP is where net/http sees an answer otherwise, with some right.
var netHTTP = map[string]transport.Class{
	"half a header": transport.Malformed, // it parses the half line
	"HTTP/2":        transport.OK,        // it does not insist on the version
}

// TestHostileHTTP1 has servers misbehave once, and then well: every transport
// says the same of it, within its time, and the run goes on.
func TestHostileHTTP1(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(net.Conn)
		want transport.Class
	}{
		{"garbage", say("SSH-2.0-OpenSSH_9.2\r\n"), transport.Malformed},
		{"binary", say("\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n"), transport.Malformed},
		{"closed without a word", func(net.Conn) {}, transport.Reset},
		{"reset", reset, transport.Reset},
		{"half a header", say("HTTP/1.1 200 OK\r\nContent-"), transport.Reset},
		{"half a body", say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"), transport.Reset},
		{"half a chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf"), transport.Reset},
		{"never answers", hang, transport.Timeout},
		{"endless body", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			flood(c, strings.Repeat("x", 10_000))
		}, transport.TooLarge},
		{"endless chunks", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			flood(c, "400\r\n"+strings.Repeat("x", 0x400)+"\r\n")
		}, transport.TooLarge},
		{"endless headers", func(c net.Conn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			flood(c, "X-Header: of no use at all\r\n")
		}, transport.Malformed},
		{"bad chunk", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), transport.Malformed},
		{"two lengths", say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), transport.Malformed},
		{"negative length", say("HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nxx"), transport.Malformed},
		{"upgrade", say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"), transport.Malformed},
		{"HTTP/2", say("HTTP/2.0 200 OK\r\n\r\n"), transport.Malformed},
		{"until the close", say("HTTP/1.1 200 OK\r\n\r\nall"), transport.OK},
		{"HTTP/1.0", say("HTTP/1.0 200 OK\r\n\r\nall"), transport.OK},
		{"more than the answer", say(fine + "HTTP/1.1 200 OK\r\n\r\n"), transport.OK},
		{"an error in full", say("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"), transport.Status},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := hostile(t, func(conn net.Conn, r *bufio.Reader) {
				for {
					path, err := request(r)
					if err != nil {
						return
					}
					if path == "/bad" {
						c.do(conn)
						return
					}
					io.WriteString(conn, fine)
				}
			})
			cfg := transport.Config{Addr: addr, Conns: 1, MaxAnswer: 100_000, Ops: []transport.Op{{Path: "/good"}, {Path: "/bad"}, {Path: "/good"}}}
			for how, tr := range transports {
				patience := 2 * time.Second
				if c.want == transport.Timeout {
					patience = 100 * time.Millisecond
				}
				got := drive(t, cfg, how, patience)
				want := c.want
				if other, ok := netHTTP[c.name]; ok && tr.name == "reference" {
					want = other
				}
				if got[1].Class != want {
					t.Errorf("%s: got %v, want %v", tr.name, got[1].Class, want)
				}
				if good := (outcome{Class: transport.OK, Code: 200, Received: 4}); got[0] != good || got[2] != good {
					t.Errorf("%s: got %+v and %+v around it, want %+v", tr.name, got[0], got[2], good)
				}
			}
		})
	}
}

// h2 is a server's end of an HTTP/2 connection: it answers the first calls by
// a script, and later ones well.
type h2 struct {
	conn net.Conn
	*http2.Framer
}

func (h h2) header(id uint32, end bool, fields ...string) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	e.SetMaxDynamicTableSizeLimit(0)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1], Sensitive: true})
	}
	h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: end})
}

// serveH2 reads frames and calls do for each stream that was opened.
func serveH2(do func(h h2, id uint32)) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		if _, err := io.ReadFull(r, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		h := h2{c, http2.NewFramer(c, r)}
		h.WriteSettings()
		for {
			f, err := h.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					h.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				do(h, f.StreamID)
			}
		}
	}
}

// TestHostileHTTP2 is TestHostileHTTP1 for frames. Where a whole connection is
// at fault, net/http does not say enough to be compared.
func TestHostileHTTP2(t *testing.T) {
	answer := func(h h2, id uint32) {
		h.header(id, false, ":status", "200")
		h.WriteData(id, true, []byte("fine"))
	}
	for _, c := range []struct {
		name     string
		do       func(h h2, id uint32)
		want     transport.Class
		compared bool
	}{
		{"reset", func(h h2, id uint32) { h.WriteRSTStream(id, http2.ErrCodeInternal) }, transport.Reset, true},
		{"connection reset", func(h h2, id uint32) { reset(h.conn) }, transport.Reset, true},
		{"closed", func(h h2, id uint32) { h.conn.Close() }, transport.Reset, true},
		{"half a body", func(h h2, id uint32) {
			h.header(id, false, ":status", "200")
			h.WriteData(id, false, []byte("half"))
			h.WriteRSTStream(id, http2.ErrCodeInternal)
		}, transport.Reset, true},
		{"never answers", func(h h2, id uint32) {}, transport.Timeout, true},
		{"larger than allowed", func(h h2, id uint32) {
			h.header(id, false, ":status", "200")
			for range 30 {
				h.WriteData(id, false, make([]byte, 10_000))
			}
		}, transport.TooLarge, true},
		{"endless headers", func(h h2, id uint32) {
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte("\x10\x01a\x01b")})
			for h.WriteContinuation(id, false, []byte(strings.Repeat("\x10\x01a\x01b", 1000))) == nil {
			}
		}, transport.Malformed, false},
		{"garbage in the header", func(h h2, id uint32) {
			h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true, EndStream: true})
		}, transport.Malformed, true},
		{"no status", func(h h2, id uint32) { h.header(id, true, "x", "y") }, transport.Malformed, true},
		{"data first", func(h h2, id uint32) { h.WriteData(id, true, []byte("x")) }, transport.Malformed, false},
		{"garbage", func(h h2, id uint32) { io.WriteString(h.conn, strings.Repeat("garbage ", 10_000)) }, transport.Malformed, false},
		{"pings without end", func(h h2, id uint32) {
			for h.WritePing(false, [8]byte{}) == nil {
			}
		}, transport.Malformed, false},
		{"window overflow", func(h h2, id uint32) {
			h.WriteWindowUpdate(0, 1<<31-1)
			h.WriteWindowUpdate(0, 1<<31-1)
		}, transport.Malformed, false},
		{"going away, and done", func(h h2, id uint32) {
			h.WriteGoAway(id, http2.ErrCodeNo, nil)
			answer(h, id)
		}, transport.OK, true},
		{"an error in full", func(h h2, id uint32) { h.header(id, true, ":status", "500") }, transport.Status, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int32
			addr := hostile(t, serveH2(func(h h2, id uint32) {
				if calls.Add(1) == 2 {
					c.do(h, id)
					return
				}
				answer(h, id)
			}))
			op := transport.Op{Method: "POST", Path: "/"} // never sent twice
			cfg := transport.Config{Protocol: transport.HTTP2, Addr: addr, Conns: 1, MaxAnswer: 100_000, Ops: []transport.Op{op, op, op}}
			for how, tr := range transports {
				if tr.name == "reference" && !c.compared {
					continue
				}
				calls.Store(0)
				patience := 2 * time.Second
				if c.want == transport.Timeout {
					patience = 100 * time.Millisecond
				}
				got := drive(t, cfg, how, patience)
				if got[1].Class != c.want {
					t.Errorf("%s: got %v, want %v", tr.name, got[1].Class, c.want)
				}
				if good := (outcome{Class: transport.OK, Code: 200, Received: 4}); got[0] != good || got[2] != good {
					t.Errorf("%s: got %+v and %+v around it, want %+v", tr.name, got[0], got[2], good)
				}
			}
		})
	}
}

// A server that floods for ever, and reads nothing, costs the calls on that
// connection and no more.
func TestEndlessHTTP2(t *testing.T) {
	for how, tr := range transports[:2] {
		var conns atomic.Int32
		addr := hostile(t, func(c net.Conn, r *bufio.Reader) {
			bad := conns.Add(1) == 1
			serveH2(func(h h2, id uint32) {
				h.header(id, false, ":status", "200")
				for bad && h.WriteData(id, false, make([]byte, 10_000)) == nil {
				}
				h.WriteData(id, true, nil)
			})(c, r)
		})
		op := transport.Op{Method: "POST", Path: "/"}
		got := drive(t, transport.Config{Protocol: transport.HTTP2, Addr: addr, Conns: 1, MaxAnswer: 100_000, Ops: []transport.Op{op, op, op}}, how, 10*time.Second)
		if got[0].Class != transport.TooLarge || got[1].Class != transport.Malformed || got[2].Class != transport.OK {
			t.Errorf("%s: got %v, want too large, protocol, ok", tr.name, got)
		}
	}
}

// What a server is known not to have acted on is called once more.
func TestRefusedIsCalledAgain(t *testing.T) {
	for name, refuse := range map[string]func(h2, uint32){
		"REFUSED_STREAM": func(h h2, id uint32) { h.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		"GOAWAY":         func(h h2, id uint32) { h.WriteGoAway(id-2, http2.ErrCodeNo, nil) },
	} {
		var calls atomic.Int32
		addr := hostile(t, serveH2(func(h h2, id uint32) {
			if calls.Add(1) == 2 {
				refuse(h, id)
				return
			}
			h.header(id, true, ":status", "200")
		}))
		op := transport.Op{Path: "/"}
		for how, tr := range transports {
			calls.Store(0)
			got := drive(t, transport.Config{Protocol: transport.HTTP2, Addr: addr, Conns: 1, Ops: []transport.Op{op, op}}, how, 5*time.Second)
			if got[1].Class != transport.OK || calls.Load() != 3 {
				t.Errorf("%s over %s: got %v after %d calls, want ok after 3", name, tr.name, got[1].Class, calls.Load())
			}
		}
	}
}

// A server that never says SETTINGS never gets a call.
func TestSilentServer(t *testing.T) {
	addr := hostile(t, func(c net.Conn, r *bufio.Reader) { hang(c) })
	for how, tr := range transports {
		if tr.name == "reference" {
			continue // net/http does not wait
		}
		got := drive(t, transport.Config{Protocol: transport.HTTP2, Addr: addr, Ops: []transport.Op{{Path: "/"}}}, how, 100*time.Millisecond)
		if got[0].Class != transport.Timeout {
			t.Errorf("%s: got %v, want timeout", tr.name, got[0].Class)
		}
	}
}

// A server may close an idle connection while a request is on its way. What
// may be sent twice is; what may not is a reset.
func TestClosedBetweenCalls(t *testing.T) {
	addr := hostile(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := request(r); err != nil {
			return
		}
		io.WriteString(c, fine)
		request(r) // the next is read, and never answered
	})
	for how, tr := range transports {
		cfg := transport.Config{Addr: addr, Conns: 1, Ops: []transport.Op{{Path: "/"}, {Path: "/"}, {Path: "/"}, {Method: "POST", Path: "/"}}}
		got := drive(t, cfg, how, 2*time.Second)
		want := []transport.Class{transport.OK, transport.OK, transport.OK, transport.Reset}
		for i := range got {
			if got[i].Class != want[i] {
				t.Errorf("%s, call %d: got %v, want %v", tr.name, i, got[i].Class, want[i])
			}
		}
	}
}

func TestNobodyThere(t *testing.T) {
	l := listen(t)
	l.Close()
	for _, p := range []transport.Protocol{transport.HTTP1, transport.HTTP2, transport.GRPC} {
		op := transport.Op{Path: "/s/m"}
		if p == transport.GRPC {
			op.Messages = [][]byte{nil}
		}
		for how, tr := range transports {
			got := drive(t, transport.Config{Protocol: p, Addr: l.Addr().String(), Ops: []transport.Op{op, op}}, how, 2*time.Second)
			if got[0].Class != transport.Connect || got[1].Class != transport.Connect {
				t.Errorf("protocol %d over %s: got %v, want connect", p, tr.name, got)
			}
		}
	}
}

func TestTLSThatFails(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = nil
	s.StartTLS() // speaks HTTP/1.1 alone
	defer s.Close()
	plain := hostile(t, func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		hang(c)
	})
	trusted := s.Client().Transport.(*http.Transport).TLSClientConfig
	for _, c := range []struct {
		name  string
		addr  string
		proto transport.Protocol
		cfg   *tls.Config
	}{
		{"unknown authority", s.Listener.Addr().String(), transport.HTTP1, new(tls.Config)},
		{"another name", s.Listener.Addr().String(), transport.HTTP1, &tls.Config{RootCAs: trusted.RootCAs, ServerName: "other.test"}},
		{"no TLS there", plain, transport.HTTP1, trusted},
		{"no HTTP/2 there", s.Listener.Addr().String(), transport.HTTP2, trusted},
	} {
		for how, tr := range transports {
			if c.proto == transport.HTTP2 && tr.name == "reference" {
				continue // net/http falls back to HTTP/1.1
			}
			got := drive(t, transport.Config{Protocol: c.proto, Addr: c.addr, TLS: c.cfg, Ops: []transport.Op{{Path: "/"}}}, how, 2*time.Second)
			if got[0].Class != transport.TLS {
				t.Errorf("%s over %s: got %v, want tls", c.name, tr.name, got[0].Class)
			}
		}
	}
}

func TestReferenceRefuses(t *testing.T) {
	ops := []transport.Op{{Path: "/"}}
	for _, cfg := range []transport.Config{{}, {Ops: ops, PerUser: true}, {Ops: ops, CallsPerConn: 1}} {
		if d, err := reference.New(cfg, transport.NewClock(time.Now())); err == nil {
			d.Close()
			t.Errorf("got no error for %+v", cfg)
		}
	}
}
