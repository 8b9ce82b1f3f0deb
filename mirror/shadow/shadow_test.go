package shadow

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"

	"darklaunch/internal/memnet"
	"darklaunch/mirror/observe"
)

func TestMain(m *testing.M) {
	if os.Getenv(servesEnv) != "" {
		serve()
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a backend whose peer is a function, in a bubble with a fake clock.
type rig struct {
	t       *testing.T
	back    *Backend
	sender  *sender
	account *account
	conns   atomic.Int64 // accepted
	stop    func()
}

// sender lets goroutines send copies by a loop and wait for them.
type sender struct {
	loop *Loop
	stop func()

	mu   sync.Mutex
	jobs []*Job
}

// newSender runs a loop until stop, or the end of the test.
func newSender(tb testing.TB, cfg LoopConfig, backs ...*Backend) *sender {
	tb.Helper()
	s := &sender{}
	cfg.Next = s.next
	s.loop = NewLoop(cfg, backs...)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.loop.Run(ctx) })
	s.stop = func() { stop(); running.Wait() }
	return s
}

func (s *sender) next() *Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 {
		return nil
	}
	j := s.jobs[0]
	s.jobs = s.jobs[1:]
	return j
}

// idle reports whether the loop has taken all jobs.
func (s *sender) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.jobs) == 0
}

// on runs f on the loop's goroutine.
func (s *sender) on(f func()) {
	done := make(chan struct{})
	s.loop.post(func() { f(); close(done) })
	<-done
}

func (s *sender) send(b *Backend, cp *Copy, begin func() bool, o *Outcome) error {
	h := waiter{begin, make(chan error, 1)}
	s.mu.Lock()
	s.jobs = append(s.jobs, &Job{Backend: b, Copy: cp, Outcome: o, Handler: h})
	s.mu.Unlock()
	s.loop.Wake()
	return <-h.ended
}

type waiter struct {
	begin func() bool
	ended chan error
}

func (w waiter) Begin() bool   { return w.begin() }
func (w waiter) End(err error) { w.ended <- err }

func begun() bool { return true }

// account is a budget that counts.
type account struct {
	most, now, peak atomic.Int64
	panics          atomic.Bool
}

func (a *account) Reserve(n int) bool {
	if a.panics.Load() {
		panic("planted")
	}
	now := a.now.Add(int64(n))
	if most := a.most.Load(); most > 0 && now > most {
		a.now.Add(-int64(n))
		return false
	}
	for peak := a.peak.Load(); now > peak && !a.peak.CompareAndSwap(peak, now); peak = a.peak.Load() {
	}
	return true
}

func (a *account) Release(n int) { a.now.Add(-int64(n)) }

// play runs f with a backend and a peer, which gets each connection in a
// goroutine of its own; the connection is closed when peer returns.
func play(t *testing.T, cfg Config, peer func(net.Conn), f func(r *rig)) {
	t.Helper()
	playGuarded(t, cfg, nil, peer, f)
}

func playGuarded(t *testing.T, cfg Config, panicked func(any), peer func(net.Conn), f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var network memnet.Network
		l, err := network.Host("peer").Listen(80)
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, account: new(account)}
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
					peer(c)
				})
			}
		})
		cfg.Role, cfg.Address, cfg.Account = "shadow", "peer:80", r.account
		if cfg.Dial == nil {
			cfg.Dial = network.Host("mirror").Dial
		}
		if r.back, err = New(cfg); err != nil {
			t.Fatal(err)
		}
		r.sender = newSender(t, LoopConfig{Panicked: panicked, Portable: true}, r.back)
		r.stop = r.sender.stop
		f(r)
		r.stop()
		l.Close()
		peers.Wait()
		if held := r.account.now.Load(); held != 0 {
			t.Errorf("got %d bytes of the account still held, want 0", held)
		}
	})
}

// get is a call without a body.
func get() Call { return Call{Route: "/x", Method: []byte("GET"), Target: []byte("/x")} }

// unary is a gRPC call.
func unary(message string) Call {
	body := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
	return Call{Route: "/p.S/M", HTTP2: true, GRPC: true, Method: []byte("POST"), Target: []byte("/p.S/M"), Body: body,
		Header: fields("content-type", "application/grpc", "te", "trailers", "x-user", "ann")}
}

func fields(nv ...string) (fs []Field) {
	for i := 0; i < len(nv); i += 2 {
		fs = append(fs, Field{[]byte(nv[i]), []byte(nv[i+1])})
	}
	return fs
}

// send makes one copy and returns what became of it. It checks what holds for
// all: begin is called once if the copy was sent, and never after an error.
func (r *rig) send(calls ...Call) (*Outcome, error) {
	r.t.Helper()
	o, begun := r.back.NewOutcome(), 0
	err := r.sender.send(r.back, &Copy{Calls: calls, ID: [16]byte{1, 2, 15: 3}, Key: 0xabc}, func() bool { begun++; return true }, o)
	switch {
	case err == nil && (begun != 1 || len(o.Answers) == 0):
		r.t.Errorf("sent: begin called %d times and %d answers, want 1 and some", begun, len(o.Answers))
	case err != nil && (begun != 0 || len(o.Answers) != 0):
		r.t.Errorf("%v: begin called %d times and %d answers, want none", err, begun, len(o.Answers))
	}
	return o, err
}

// one makes a copy of one call that is sent, and returns its answer, which is
// released with the test.
func (r *rig) one(c Call) *Answer {
	r.t.Helper()
	o, err := r.send(c)
	if err != nil {
		r.t.Fatalf("got %v, want the copy to be sent", err)
	}
	a := *o.Answers[0]
	a.Body, a.Header, a.Trailer = bytes.Clone(a.Body), clone(a.Header), clone(a.Trailer)
	o.Release()
	return &a
}

func clone(f Fields) Fields { return Fields{bytes.Clone(f.text), append([]span(nil), f.list...)} }

func dump(f *Fields) string {
	var b strings.Builder
	for name, value := range f.All() {
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	return b.String()
}

// readRequest reads a request without a body, to the empty line.
func readRequest(c net.Conn) (string, error) {
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil || bytes.HasSuffix(got, []byte("\r\n\r\n")) {
			return string(got), err
		}
	}
}

// says returns a peer that answers each request with text, or the first one.
func says(text string, once bool) func(net.Conn) {
	return func(c net.Conn) {
		for {
			if _, err := readRequest(c); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
			if once {
				return
			}
		}
	}
}

func TestAnswerHTTP1(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 20<<10) // 320 KiB
	for _, tt := range []struct {
		name, method, says string
		status             int
		header, trailer    string
		body               string
		err                error
		reused             bool
	}{
		{name: "length", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b \r\n\r\nhello", status: 200, header: "Content-Length: 5\nX-A: b\n", body: "hello", reused: true},
		{name: "no body", says: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, header: "Content-Length: 0\n", reused: true},
		{name: "no reason", says: "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", status: 404, header: "Content-Length: 0\n", reused: true},
		{name: "chunked", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n",
			status: 200, header: "Transfer-Encoding: chunked\n", trailer: "X-Sum: 7\n", body: "abc0123456789", reused: true},
		{name: "until close", says: "HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello", status: 200, header: "X: y\n", body: "hello"},
		{name: "HTTP/1.0", says: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, header: "Content-Length: 5\n", body: "hello"},
		{name: "close", says: "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nhi", status: 200, header: "Connection: x, Close\nContent-Length: 2\n", body: "hi"},
		{name: "HEAD", method: "HEAD", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", status: 200, header: "Content-Length: 5\n", reused: true},
		{name: "304", says: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", status: 304, header: "Content-Length: 5\n", reused: true},
		{name: "redirect is not followed", says: "HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n", status: 302, header: "Location: /y\nContent-Length: 0\n", reused: true},
		{name: "interim", says: "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", status: 200, header: "Content-Length: 2\n", body: "hi", reused: true},
		{name: "gzip stays", says: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", status: 200, header: "Content-Encoding: gzip\nContent-Length: 4\n", body: "\x1f\x8b\x08\x00", reused: true},
		{name: "large", says: "HTTP/1.1 200 OK\r\nContent-Length: 327680\r\n\r\n" + long, status: 200, header: "Content-Length: 327680\n", body: long, reused: true},
		{name: "large chunked", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50000\r\n" + long + "\r\n0\r\n\r\n", status: 200, header: "Transfer-Encoding: chunked\n", body: long, reused: true},
		{name: "more than was said", says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi, and more", status: 200, header: "Content-Length: 2\n", body: "hi"},

		{name: "nothing", says: "", err: ErrCut},
		{name: "cut in the header", says: "HTTP/1.1 200 OK\r\nX", status: 200, err: ErrCut},
		{name: "cut in the body", says: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", status: 200, header: "Content-Length: 5\n", body: "hel", err: ErrCut},
		{name: "cut in a chunk", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", status: 200, header: "Transfer-Encoding: chunked\n", body: "hel", err: ErrCut},
		{name: "garbage", says: "\x16\x03\x01\x02\x00\r\n\r\n", err: ErrProtocol},
		{name: "no CR", says: "HTTP/1.1 200 OK\nContent-Length: 0\n\n", err: ErrProtocol},
		{name: "status 600", says: "HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", err: ErrProtocol},
		{name: "two lengths", says: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", status: 200, header: "Content-Length: 1\nContent-Length: 1\n", err: ErrProtocol},
		{name: "signed length", says: "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", status: 200, header: "Content-Length: +1\n", err: ErrProtocol},
		{name: "both lengths", says: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 200, header: "Content-Length: 1\nTransfer-Encoding: chunked\n", err: ErrProtocol},
		{name: "chunk size", says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", status: 200, header: "Transfer-Encoding: chunked\n", err: ErrProtocol},
		{name: "switches", says: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n", status: 101, header: "Upgrade: x\nContent-Length: 0\n", err: ErrProtocol},
		{name: "interim flood", says: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 100, err: ErrProtocol},
		{name: "long line", says: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 20<<10), status: 200, err: ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, Config{}, says(tt.says, errors.Is(tt.err, ErrCut) || tt.name == "until close"), func(r *rig) {
				c := get()
				if tt.method != "" {
					c.Method = []byte(tt.method)
				}
				a := r.one(c)
				if !errors.Is(a.Err, tt.err) || a.Status != tt.status {
					t.Errorf("got status %d and %v, want %d and %v", a.Status, a.Err, tt.status, tt.err)
				}
				if diff := cmp.Diff(tt.header, dump(&a.Header)); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tt.trailer, dump(&a.Trailer)); diff != "" {
					t.Errorf("trailer (-want +got):\n%s", diff)
				}
				kept := tt.body[:min(len(tt.body), 256<<10)]
				if string(a.Body) != kept || a.Size != int64(len(tt.body)) || a.Truncated != (len(kept) < len(tt.body)) {
					t.Errorf("got %d bytes kept of %d, truncated %v; want %d of %d", len(a.Body), a.Size, a.Truncated, len(kept), len(tt.body))
				}
				if want := xxh3.HashString128(tt.body).Bytes(); tt.err == nil && a.Hash != want {
					t.Errorf("got hash %x, want %x", a.Hash, want)
				}
				r.one(c)
				if got := r.conns.Load() == 1; got != tt.reused {
					t.Errorf("got the connection reused: %v, want %v", got, tt.reused)
				}
			})
		})
	}
}

// TestWriteHTTP1 compares what a peer reads, byte by byte.
func TestWriteHTTP1(t *testing.T) {
	const mark = "darklaunch-role: shadow\r\ndarklaunch-id: 01020000000000000000000000000003\r\ndarklaunch-key: 0000000000000abc\r\n"
	for _, tt := range []struct {
		name  string
		rules []Rule
		call  Call
		want  string
	}{
		{name: "bare", call: get(), want: "GET /x HTTP/1.1\r\nHost: peer:80\r\n" + mark + "\r\n"},
		{name: "as it came", call: Call{Method: []byte("GET"), Target: []byte("/a?b=%20"), Authority: []byte("live.example"), Header: fields("X-User", "ann", "Cookie", "a=b", "Authorization", "Bearer x", "X-User", "")},
			want: "GET /a?b=%20 HTTP/1.1\r\nHost: live.example\r\nX-User: ann\r\nCookie: a=b\r\nAuthorization: Bearer x\r\nX-User: \r\n" + mark + "\r\n"},
		{name: "hop by hop", call: Call{Method: []byte("GET"), Target: []byte("/"), Header: fields("Connection", "keep-alive, X-Hop", "Keep-Alive", "5", "X-HOP", "1", "TE", "trailers", "Expect", "100-continue",
			"Upgrade", "h2c", "HTTP2-Settings", "x", "Proxy-Authorization", "y", "Host", "other", "X-Stay", "z")},
			want: "GET / HTTP/1.1\r\nHost: peer:80\r\nX-Stay: z\r\n" + mark + "\r\n"},
		{name: "length", call: Call{Method: []byte("POST"), Target: []byte("/"), Header: fields("Content-Length", "77"), Body: []byte("hello")},
			want: "POST / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "Content-Length: 5\r\n\r\nhello"},
		{name: "empty body", call: Call{Method: []byte("PUT"), Target: []byte("/")}, want: "PUT / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "Content-Length: 0\r\n\r\n"},
		{name: "chunked", call: Call{Method: []byte("POST"), Target: []byte("/"), Chunked: true, Header: fields("Transfer-Encoding", "chunked", "Trailer", "X-Sum"), Body: []byte("hello, hello, hello"), Trailer: fields("X-Sum", "9", "Content-Length", "3")},
			want: "POST / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n13\r\nhello, hello, hello\r\n0\r\nx-sum: 9\r\n\r\n"},
		{name: "chunked and empty", call: Call{Method: []byte("POST"), Target: []byte("/"), Chunked: true}, want: "POST / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{name: "trace", call: Call{Method: []byte("GET"), Target: []byte("/"), Header: fields("TraceParent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate", "v=1")},
			want: "GET / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "traceparent: 00-01020000000000000000000000000003-7300010000000003-01\r\n\r\n"},
		{name: "marks of another", call: Call{Method: []byte("GET"), Target: []byte("/"), Header: fields("Darklaunch-Role", "control", "darklaunch-id", "ff", "Darklaunch-Key", "ee")},
			want: "GET / HTTP/1.1\r\nHost: peer:80\r\n" + mark + "\r\n"},
		{name: "rules", rules: []Rule{{"authorization", Set, "Bearer shadow"}, {"COOKIE", Remove, ""}, {"X-Env", Replace, "shadow"}, {"X-None", Replace, "y"}, {"Host", Set, "shadow.example"}},
			call: Call{Method: []byte("GET"), Target: []byte("/"), Authority: []byte("live"), Header: fields("Authorization", "Bearer secret", "Cookie", "c=1", "cookie", "d=2", "X-ENV", "live", "X-Other", "1")},
			want: "GET / HTTP/1.1\r\nHost: shadow.example\r\nX-ENV: shadow\r\nX-Other: 1\r\nauthorization: Bearer shadow\r\n" + mark + "\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			peer := func(c net.Conn) {
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				got = string(buf[:n])
				io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}
			play(t, Config{Rules: tt.rules}, peer, func(r *rig) {
				if a := r.one(tt.call); a.Err != nil {
					t.Error(a.Err)
				}
			})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Call)
	}{
		{"method", func(c *Call) { c.Method = []byte("GET /evil") }},
		{"no target", func(c *Call) { c.Target = nil }},
		{"space in target", func(c *Call) { c.Target = []byte("/a HTTP/1.1\r\nx: y") }},
		{"relative target", func(c *Call) { c.Target = []byte("a") }},
		{"authority", func(c *Call) { c.Authority = []byte("a\r\nb") }},
		{"name", func(c *Call) { c.Header = fields("a b", "c") }},
		{"value", func(c *Call) { c.Header = fields("a", "b\r\nc: d") }},
		{"trailer", func(c *Call) { c.Trailer = fields("a", "b\nc") }},
		{"gRPC over HTTP/1.1", func(c *Call) { c.GRPC = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, Config{}, says("HTTP/1.1 204 No Content\r\n\r\n", false), func(r *rig) {
				c := get()
				tt.change(&c)
				if _, err := r.send(get(), c); !errors.Is(err, errInvalid) || r.conns.Load() != 0 {
					t.Errorf("got %v and %d connections, want the copy refused before any", err, r.conns.Load())
				}
			})
		})
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Role: "live", Address: "a:1"}, `role "live": want shadow or control`},
		{Config{Role: "shadow", Address: "a"}, `shadow address "a": want host:port or https://host:port`},
		{Config{Role: "shadow", Address: "https://a:1/x"}, `shadow address "https://a:1/x": want host:port or https://host:port`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "a b"}}}, `header rule "a b": want a field name`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "Darklaunch-Role"}}}, `header rule "Darklaunch-Role": that field is not for rules to change`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "Content-Length", Action: Set, Value: "1"}}}, `header rule "Content-Length": that field is not for rules to change`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "host"}}}, `header rule "host": a request needs one`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "a"}, {Name: "A"}}}, `header rule "A": want one rule a field`},
		{Config{Role: "shadow", Address: "a:1", Rules: []Rule{{Name: "a", Action: Set, Value: "b\r\nc"}}}, `header rule "a": control in its value`},
	} {
		if _, err := New(tt.cfg); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		address string
		rules   []Rule
		want    int
	}{
		{"127.0.0.1:1", nil, 0}, {"localhost:1", nil, 0}, {"[::1]:1", nil, 0},
		{"10.0.0.1:1", nil, 2}, {"https://shadow.example:443", nil, 2},
		{"shadow:1", []Rule{{"Cookie", Remove, ""}}, 1},
		{"shadow:1", []Rule{{"Cookie", Remove, ""}, {"authorization", Set, "x"}}, 0},
	} {
		b, err := New(Config{Role: "shadow", Address: tt.address, Rules: tt.rules})
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Warnings(); len(got) != tt.want {
			t.Errorf("%s %v: got warnings %q, want %d", tt.address, tt.rules, got, tt.want)
		}
	}
}

// TestObserved makes calls of what the observer saw.
func TestObserved(t *testing.T) {
	var got Call
	sink := taker{func(x *observe.Exchange) { got.Observed(x, "/r") }}
	c := observe.New(observe.Config{}).Conn(sink)
	now := time.Now()
	c.FromClient(now, []byte("POST http://h.example:8080?a=b HTTP/1.1\r\nHost: h.example:8080\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: 2\r\n\r\n"))
	c.FromLive(now, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	want := Call{Route: "/r", Chunked: true, Method: []byte("POST"), Authority: []byte("h.example:8080"), Target: []byte("/?a=b"), Body: []byte("hi"),
		Header: fields("Host", "h.example:8080", "X-A", "1", "Transfer-Encoding", "chunked"), Trailer: fields("X-T", "2")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.Check(); err != nil {
		t.Error(err)
	}
}

type taker struct{ done func(*observe.Exchange) }

func (taker) Request(*observe.Exchange) observe.Mode { return observe.Keep }
func (taker) Answer(*observe.Exchange) observe.Mode  { return observe.Keep }
func (k taker) Done(x *observe.Exchange)             { k.done(x) }
func (taker) Abandoned(a observe.Abandonment)        { panic(a.Rule.String()) }

// TestCalls makes copies of several calls.
func TestCalls(t *testing.T) {
	n := 0
	peer := func(c net.Conn) {
		for {
			if _, err := readRequest(c); err != nil {
				return
			}
			if n++; n == 5 {
				return // cuts the second call of the third copy
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", n)
		}
	}
	play(t, Config{}, peer, func(r *rig) {
		o, err := r.send(get(), get())
		if err != nil || len(o.Answers) != 2 || string(o.Answers[0].Body)+string(o.Answers[1].Body) != "12" || o.Stopped {
			t.Fatalf("got %v and %d answers, want two", err, len(o.Answers))
		}
		o.Release()
		r.one(get())
		o, err = r.send(get(), get(), get())
		if err != nil || len(o.Answers) != 2 || !errors.Is(o.Answers[1].Err, ErrCut) || !o.Stopped {
			t.Fatalf("got %v and %d answers, stopped %v; want two of three, the second cut", err, len(o.Answers), o.Stopped)
		}
		o.Release()
	})
}

// TestBeginRefuses drops a copy at the last moment.
func TestBeginRefuses(t *testing.T) {
	seen := ""
	for name, tt := range map[string]struct {
		call Call
		peer func(net.Conn)
	}{
		"http1": {get(), func(c net.Conn) { got, _ := readRequest(c); seen += got }},
		"http2": {unary("x"), script(func(s *scripted) { seen += fmt.Sprint(s.request() != 0) })},
	} {
		t.Run(name, func(t *testing.T) {
			seen = ""
			play(t, Config{}, tt.peer, func(r *rig) {
				o := r.back.NewOutcome()
				err := r.sender.send(r.back, &Copy{Calls: []Call{tt.call}}, func() bool { return false }, o)
				if !errors.Is(err, ErrDropped) || len(o.Answers) != 0 {
					t.Errorf("got %v and %d answers, want %v and none", err, len(o.Answers), ErrDropped)
				}
				o.Release()
			})
			if seen != "" && seen != "false" {
				t.Errorf("peer read %q, want nothing of the copy", seen)
			}
		})
	}
}

// TestBusy holds as many calls as may be under way.
func TestBusy(t *testing.T) {
	play(t, Config{MaxCalls: 3, Timeout: time.Second}, func(c net.Conn) { io.Copy(io.Discard, c) }, func(r *rig) {
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { r.one(get()) })
		}
		synctest.Wait()
		if _, err := r.send(get()); !errors.Is(err, ErrBusy) {
			t.Errorf("got %v, want %v", err, ErrBusy)
		}
		wg.Wait()
	})
}

// TestStop cancels what is under way.
func TestStop(t *testing.T) {
	for name, c := range map[string]Call{"http1": get(), "http2": unary("x")} {
		t.Run(name, func(t *testing.T) {
			play(t, Config{}, func(c net.Conn) { io.Copy(io.Discard, c) }, func(r *rig) {
				var wg sync.WaitGroup
				wg.Go(func() {
					if a := r.one(c); !errors.Is(a.Err, ErrCanceled) || a.Code() != "canceled" {
						t.Errorf("got %v, want %v", a.Err, ErrCanceled)
					}
				})
				synctest.Wait()
				start := time.Now()
				r.stop()
				wg.Wait()
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v, want none", took)
				}
			})
		})
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	n := 0
	peer := func(c net.Conn) {
		for {
			if _, err := readRequest(c); err != nil {
				return
			}
			switch n++; n {
			case 1, 2:
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			case 3:
				io.WriteString(c, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
			case 4:
				io.Copy(io.Discard, c)
			case 5:
				return
			}
		}
	}
	play(t, Config{Metrics: NewMetrics(reg)}, peer, func(r *rig) {
		for range 5 {
			r.one(get())
		}
		want := `
# HELP mirror_backend_requests_total Calls made to a role. code is the HTTP status, of gRPC calls the gRPC status, or error, timeout or canceled.
# TYPE mirror_backend_requests_total counter
mirror_backend_requests_total{code="200",role="shadow",route="/x"} 2
mirror_backend_requests_total{code="503",role="shadow",route="/x"} 1
mirror_backend_requests_total{code="canceled",role="shadow",route="/x"} 0
mirror_backend_requests_total{code="error",role="shadow",route="/x"} 1
mirror_backend_requests_total{code="timeout",role="shadow",route="/x"} 1
# HELP mirror_breaker_state 1 for the state that a role's breaker is in, or the worst where the fronts' roles differ.
# TYPE mirror_breaker_state gauge
mirror_breaker_state{role="shadow",state="closed"} 1
mirror_breaker_state{role="shadow",state="half_open"} 0
mirror_breaker_state{role="shadow",state="open"} 0
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "mirror_backend_requests_total", "mirror_breaker_state"); err != nil {
			t.Error(err)
		}
		if got := testutil.CollectAndCount(r.back.cfg.Metrics.duration); got != 1 {
			t.Errorf("got %d duration series, want 1", got)
		}
	})
}

// TestNetHTTP sends through TLS, by ALPN, to a server of the standard library.
func TestNetHTTP(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Trailer")
		w.Header().Set("X-Role", r.Header.Get(RoleHeader))
		fmt.Fprintf(w, "%s %s %s %d %s", r.Proto, r.Method, r.URL, len(body), r.Trailer.Get("X-Sum"))
		w.Header().Set("X-Trailer", "end")
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	cfg := &tls.Config{RootCAs: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}
	b, err := New(Config{Role: "control", Address: srv.URL, TLS: cfg})
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t, LoopConfig{}, b)
	defer s.stop()

	big := bytes.Repeat([]byte("0123456789"), 100<<10)
	for _, tt := range []struct {
		name string
		call Call
		want string
	}{
		{"h1", Call{Method: []byte("GET"), Target: []byte("/a?b")}, "HTTP/1.1 GET /a?b 0 "},
		{"h1 big", Call{Method: []byte("POST"), Target: []byte("/"), Body: big}, "HTTP/1.1 POST / 1024000 "},
		{"h1 big chunked", Call{Method: []byte("POST"), Target: []byte("/"), Chunked: true, Body: big, Trailer: fields("X-Sum", "7")}, "HTTP/1.1 POST / 1024000 7"},
		{"h2", Call{HTTP2: true, Method: []byte("GET"), Target: []byte("/a?b")}, "HTTP/2.0 GET /a?b 0 "},
		{"h2 trailer", Call{HTTP2: true, Method: []byte("POST"), Target: []byte("/"), Header: fields("trailer", "x-sum"), Trailer: fields("x-sum", "7")}, "HTTP/2.0 POST / 0 7"},
		{"h2 big", Call{HTTP2: true, Method: []byte("POST"), Target: []byte("/"), Body: big, Header: fields("trailer", "x-sum"), Trailer: fields("x-sum", "7")}, "HTTP/2.0 POST / 1024000 7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					o := b.NewOutcome()
					defer o.Release()
					if err := s.send(b, &Copy{Calls: []Call{tt.call}}, begun, o); err != nil {
						t.Error(err)
						return
					}
					a := o.Answers[0]
					role, _ := a.Header.Get("x-role")
					trailer, _ := a.Trailer.Get("x-trailer")
					if got := string(a.Body); a.Err != nil || got != tt.want || string(role) != "control" || string(trailer) != "end" {
						t.Errorf("got %q, role %q, trailer %q, %v; want %q", got, role, trailer, a.Err, tt.want)
					}
				})
			}
			wg.Wait()
		})
	}
}

func (taker) Ongoing(*observe.Exchange, bool) bool { return false }
