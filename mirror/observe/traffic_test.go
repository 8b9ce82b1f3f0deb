package observe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// This file observes real clients and servers: net/http and grpc-go.

// wire is a relay as small as it can be, with an observer on each connection.
type wire struct {
	net.Listener
	live string
	o    *Observer
	wg   sync.WaitGroup

	mu   sync.Mutex // guards sink, and every Conn
	sink *recorder
}

// newWire relays to live, and closes with the test.
func newWire(t *testing.T, live net.Listener, sink *recorder) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l, live: live.Addr().String(), o: New(Config{MaxBody: 4 << 20}), sink: sink}
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.serve(c) })
		}
	})
	return w
}

func (w *wire) serve(client net.Conn) {
	defer client.Close()
	live, err := net.Dial("tcp", w.live)
	if err != nil {
		return
	}
	defer live.Close()
	w.mu.Lock()
	c := w.o.Conn(w.sink)
	w.mu.Unlock()
	var both sync.WaitGroup
	pump := func(from, to net.Conn, feed func(time.Time, []byte), eof func(time.Time), side Side) {
		b := make([]byte, 8<<10)
		for {
			n, err := from.Read(b)
			w.mu.Lock()
			feed(time.Now(), b[:n])
			switch {
			case errors.Is(err, io.EOF):
				eof(time.Now())
			case err != nil:
				c.Close(side)
			}
			w.mu.Unlock()
			if _, werr := to.Write(b[:n]); werr != nil || err != nil {
				to.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}
	both.Go(func() { pump(client, live, c.FromClient, func(time.Time) { c.ClientEOF() }, Client) })
	both.Go(func() { pump(live, client, c.FromLive, c.LiveEOF, Live) })
	both.Wait()
	w.mu.Lock()
	c.Close(Live)
	checkEmpty(c)
	w.mu.Unlock()
}

// wait closes the wire when its connections are closed, and returns what was
// observed by the number that each request carries in x-call.
func (w *wire) wait(t *testing.T) map[string]exchange {
	t.Helper()
	w.Close()
	w.wg.Wait()
	if len(w.sink.gaveUp) > 0 {
		t.Errorf("abandoned: %+v, rule %v", w.sink.gaveUp, w.sink.rule())
	}
	byCall := map[string]exchange{}
	for _, x := range w.sink.done {
		for _, f := range x.Request.Header {
			if strings.EqualFold(f.Name, "x-call") {
				if _, twice := byCall[f.Value]; twice {
					t.Errorf("call %s was observed twice", f.Value)
				}
				byCall[f.Value] = x
			}
		}
	}
	return byCall
}

// call is one request as both ends of the connection know it.
type call struct {
	Line, Host      string // as the server got it
	Request         string
	RequestTrailer  string
	Status          int // as the client got it
	Answer          string
	AnswerTrailer   string
	AnswerType      string
	serverSaw       bool
	interim, expect bool
}

// TestRealHTTP sends varied requests with net/http's client and server,
// and holds what was observed against what both ends saw.
func TestRealHTTP(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) { testRealHTTP(t, proto == "HTTP/2") })
	}
}

func testRealHTTP(t *testing.T, h2 bool) {
	var mu sync.Mutex
	calls := map[string]*call{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Early") != "" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("%s: %v", r.URL, err)
		}
		mu.Lock()
		c := calls[r.Header.Get("X-Call")]
		c.Line, c.Host, c.Request, c.RequestTrailer, c.serverSaw = r.Method+" "+r.RequestURI, r.Host, string(body), r.Trailer.Get("Sum"), true
		mu.Unlock()
		if c.interim {
			w.Header().Set("Link", "</style.css>")
			w.WriteHeader(http.StatusEarlyHints)
		}
		w.Header().Set("Content-Type", "text/"+r.Header.Get("X-Call"))
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/unchanged":
			w.WriteHeader(http.StatusNotModified)
		case "/flushed":
			w.Header().Set("Trailer", "Sum")
			for chunk := range slices.Chunk(body, 1000) {
				w.Write(chunk)
				w.(http.Flusher).Flush()
			}
			w.Header().Set("Sum", fmt.Sprint(len(body)))
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.Write(body)
		}
	})
	live, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sink := &recorder{mode: Keep}
	wire := newWire(t, live, sink)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	server := &http.Server{Handler: handler, Protocols: protocols}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(live) })
	rt := &http.Transport{Protocols: protocols, ExpectContinueTimeout: time.Second}

	rng := rand.New(rand.NewPCG(1, 2))
	count := 400
	if testing.Short() {
		count = 60
	}
	var wg sync.WaitGroup
	queue := make(chan func())
	for range 4 {
		wg.Go(func() {
			for f := range queue {
				f()
			}
		})
	}
	for i := range count {
		id := fmt.Sprint(i)
		method := []string{"GET", "HEAD", "POST", "PUT", "POST"}[rng.IntN(5)]
		path := []string{"/", "/none", "/unchanged", "/flushed", "/a%20b?c=%zz&d"}[rng.IntN(5)]
		body := strings.Repeat(id+" ", []int{0, 1, 50, 5000, 60000}[rng.IntN(5)])
		known, trailer, early := rng.IntN(2) == 0, rng.IntN(3) == 0, rng.IntN(20) == 0
		c := &call{interim: rng.IntN(4) == 0, expect: !h2 && rng.IntN(4) == 0}
		mu.Lock()
		calls[id] = c
		mu.Unlock()
		queue <- func() {
			var reader io.Reader
			if method == "POST" || method == "PUT" {
				reader = strings.NewReader(body)
				if !known {
					reader = io.MultiReader(reader) // hides the length
				}
			}
			ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil }})
			r, err := http.NewRequestWithContext(ctx, method, "http://"+wire.Addr().String()+path, reader)
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("X-Call", id)
			// A server that has answered early has forgotten the stream, and takes its
			// trailers for a breach of the protocol.
			if trailer && reader != nil && !known && !early {
				r.Trailer = http.Header{"Sum": {id}}
			}
			if c.expect && reader != nil {
				r.Header.Set("Expect", "100-continue")
			}
			if early && h2 {
				r.Header.Set("X-Early", "1")
			}
			a, err := rt.RoundTrip(r)
			if err != nil {
				t.Errorf("call %s: %v", id, err)
				return
			}
			got, err := io.ReadAll(a.Body)
			a.Body.Close()
			if err != nil {
				t.Errorf("call %s: %v", id, err)
			}
			mu.Lock()
			defer mu.Unlock()
			c.Status, c.Answer, c.AnswerTrailer, c.AnswerType = a.StatusCode, string(got), a.Trailer.Get("Sum"), a.Header.Get("Content-Type")
		}
	}
	close(queue)
	wg.Wait()
	rt.CloseIdleConnections()
	server.Close()
	serving.Wait()
	seen := wire.wait(t)
	if len(seen) != count {
		t.Errorf("observed %d calls of %d", len(seen), count)
	}
	outcomes := map[Outcome]int{}
	for id, c := range calls {
		x := seen[id]
		outcomes[x.Outcome]++
		if !c.serverSaw { // answered early: the server read nothing to compare with
			if x.Status != c.Status {
				t.Errorf("call %s: observed status %d, the client got %d", id, x.Status, c.Status)
			}
			continue
		}
		get := func(fields []pair, name string) string { return httpHeader(fields).Get(name) }
		got := call{
			Line: x.Method + " " + x.Target, Host: x.Authority, Request: x.Request.Body, RequestTrailer: get(x.Request.Trailer, "Sum"),
			Status: x.Status, Answer: x.Answer.Body, AnswerTrailer: get(x.Answer.Trailer, "Sum"), AnswerType: get(x.Answer.Header, "Content-Type"),
			serverSaw: true, interim: c.interim, expect: c.expect,
		}
		if got != *c {
			t.Errorf("call %s: observed\n%.300v\nboth ends saw\n%.300v", id, got, *c)
		}
		if x.Outcome != Complete {
			t.Errorf("call %s ended %v", id, x.Outcome)
		}
	}
	t.Logf("outcomes: %v", outcomes)
}

// echo is a gRPC service of one unary and one bidirectional method.
var echo = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := dec(in); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		if len(md["x-fail"]) > 0 {
			return nil, status.Error(codes.FailedPrecondition, "no: ümlaut, 100 % \n")
		}
		grpc.SetHeader(ctx, metadata.Pairs("x-header", "h"))
		grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
		return in, nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := new(wrapperspb.BytesValue)
			if err := s.RecvMsg(in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
	}}},
}

// prefixed is a message as gRPC frames it.
func prefixed(m proto.Message) string {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(append([]byte{0, byte(len(b) >> 24), byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}, b...))
}

func TestRealGRPC(t *testing.T) {
	live, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(&echo, nil)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(live) })

	// The gRPC view of an exchange, read while it may be.
	type view struct {
		grpc    bool
		code    int
		message string
		ok      bool
	}
	views := map[uint64]view{}
	wire := newWire(t, live, &recorder{mode: Keep, look: func(x *Exchange) {
		v := view{grpc: x.GRPC()}
		v.code, v.message, v.ok = x.GRPCStatus()
		views[x.Seq] = v
	}})
	conn, err := grpc.NewClient(wire.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}

	type sent struct {
		method   string
		messages []*wrapperspb.BytesValue
		code     codes.Code
		fail     bool
		gzip     bool
		cancel   bool
	}
	calls := map[string]*sent{}
	rng := rand.New(rand.NewPCG(3, 4))
	count := 300
	if testing.Short() {
		count = 50
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range count {
		id := fmt.Sprint(i)
		s := &sent{method: "/test.Echo/Unary", fail: rng.IntN(6) == 0, gzip: rng.IntN(5) == 0}
		n := 1
		if rng.IntN(4) == 0 {
			s.method, s.fail, n = "/test.Echo/Stream", false, rng.IntN(6)
			s.cancel = rng.IntN(4) == 0
		}
		for range n {
			size := []int{0, 100, 1 << 10, 64 << 10, 300 << 10}[rng.IntN(5)]
			s.messages = append(s.messages, wrapperspb.Bytes(bytes.Repeat([]byte(id), size/len(id))))
		}
		calls[id] = s
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "x-call", id))
			defer cancel()
			if s.fail {
				ctx = metadata.AppendToOutgoingContext(ctx, "x-fail", "1")
			}
			var opts []grpc.CallOption
			if s.gzip {
				opts = append(opts, grpc.UseCompressor("gzip"))
			}
			if s.method == "/test.Echo/Unary" {
				out := new(wrapperspb.BytesValue)
				err := conn.Invoke(ctx, s.method, s.messages[0], out, opts...)
				s.code = status.Code(err)
				if err == nil && !proto.Equal(out, s.messages[0]) {
					t.Errorf("call %s: wrong echo", id)
				}
				return
			}
			stream, err := conn.NewStream(ctx, &echo.Streams[0], s.method, opts...)
			if err != nil {
				t.Errorf("call %s: %v", id, err)
				return
			}
			for _, m := range s.messages {
				out := new(wrapperspb.BytesValue)
				if err := cmp.Or(stream.SendMsg(m), stream.RecvMsg(out)); err != nil {
					t.Errorf("call %s: %v", id, err)
				}
			}
			if s.cancel {
				cancel()
			} else {
				stream.CloseSend()
			}
			err = stream.RecvMsg(new(wrapperspb.BytesValue))
			if err == io.EOF {
				err = nil
			}
			s.code = status.Code(err)
		})
	}
	wg.Wait()
	conn.Close()
	server.GracefulStop()
	serving.Wait()
	seen := wire.wait(t)
	if len(seen) != count {
		t.Errorf("observed %d calls of %d", len(seen), count)
	}
	cancelled := 0
	for id, s := range calls {
		x := seen[id]
		v := views[x.Seq]
		if x.Target != s.method || x.Protocol != HTTP2 || !v.grpc {
			t.Errorf("call %s: got %s, protocol %d, gRPC %v", id, x.Target, x.Protocol, v.grpc)
		}
		var body string
		for _, m := range s.messages {
			body += prefixed(m)
		}
		if got := x.Request.Messages; got != int64(len(s.messages)) && !s.cancel {
			t.Errorf("call %s: got %d messages, sent %d", id, got, len(s.messages))
		}
		for i, l := range x.Request.Lengths {
			size := proto.Size(s.messages[i])
			packed := s.gzip && size > 0 // grpc-go does not compress nothing
			if l.Compressed != packed || !packed && int(l.Length) != size {
				t.Errorf("call %s: message %d: got %+v, sent %d bytes", id, i, l, size)
			}
		}
		if !s.gzip && x.Request.Complete && x.Request.Body != body {
			t.Errorf("call %s: got a request of %d bytes, sent %d", id, len(x.Request.Body), len(body))
		}
		if s.cancel {
			cancelled++
			if x.Outcome == Complete {
				t.Errorf("call %s was cancelled and ended %v", id, x.Outcome)
			}
			continue
		}
		if x.Outcome != Complete || !v.ok || codes.Code(v.code) != s.code {
			t.Errorf("call %s: got %v, status %d; want complete, %d", id, x.Outcome, v.code, s.code)
		}
		if s.fail && v.message != "no: ümlaut, 100 % \n" {
			t.Errorf("call %s: got message %q", id, v.message)
		}
		if !s.fail && !s.gzip && x.Answer.Body != body {
			t.Errorf("call %s: got an answer of %d bytes, want %d", id, len(x.Answer.Body), len(body))
		}
		if unary := s.method == "/test.Echo/Unary"; unary && !s.fail {
			if httpHeader(x.Answer.Trailer).Get("X-Trailer") != "t" || httpHeader(x.Answer.Header).Get("X-Header") != "h" {
				t.Errorf("call %s: got header %v, trailer %v", id, x.Answer.Header, x.Answer.Trailer)
			}
		}
	}
	if cancelled == 0 {
		t.Error("no call was cancelled")
	}
}
