package transport

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a server of both protocols.
func serve(t *testing.T, h http.HandlerFunc, change func(*http.Server)) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	if change != nil {
		change(s.Config)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func newPool(t *testing.T, cfg Config) (*Pool, Clock) {
	t.Helper()
	clock := NewClock(time.Now())
	if cfg.Ops == nil {
		cfg.Ops = []Op{{Name: "op", Path: "/", Keep: 100}}
	}
	p, err := New(cfg, clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, clock
}

// finish polls until n calls have ended, and returns them in that order.
func finish(t *testing.T, p *Pool, clock Clock, n int) []*Call {
	t.Helper()
	var all []*Call
	for end := clock.Now() + 10*time.Second; len(all) < n; {
		all = append(all, p.Poll(end)...)
		if clock.Now() > end {
			t.Fatalf("got %d calls ended in 10 s, want %d", len(all), n)
		}
	}
	return all
}

// one makes a call and waits for it.
func one(t *testing.T, p *Pool, clock Clock, c *Call) *Call {
	t.Helper()
	p.Start(c)
	return finish(t, p, clock, 1)[0]
}

// both runs a test over epoll and over goroutines, for two protocols.
func both(t *testing.T, f func(t *testing.T, cfg Config)) {
	for _, cfg := range []Config{{}, {Portable: true}, {Protocol: HTTP2}, {Protocol: HTTP2, Portable: true}} {
		t.Run(fmt.Sprintf("protocol %d portable %t", cfg.Protocol, cfg.Portable), func(t *testing.T) { f(t, cfg) })
	}
}

// whoAsks answers with the client's address.
func whoAsks(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RemoteAddr) }

// spread counts answers of whoAsks.
func spread(calls []*Call) map[string]int {
	n := map[string]int{}
	for _, c := range calls {
		n[string(c.Answer)]++
	}
	return n
}

func TestConnectionsTakeTurns(t *testing.T) {
	both(t, func(t *testing.T, cfg Config) {
		cfg.Addr, cfg.Conns = serve(t, whoAsks, nil), 4
		p, clock := newPool(t, cfg)
		p.Open(clock.Now() + 5*time.Second)
		if open, opening := p.Conns(); open != 4 || opening != 0 {
			t.Fatalf("got %d open and %d opening, want 4 and 0", open, opening)
		}
		var calls []*Call
		for range 40 {
			calls = append(calls, one(t, p, clock, new(Call)))
		}
		n := spread(calls)
		if len(n) != 4 {
			t.Errorf("got calls over %v, want over 4 connections", n)
		}
		for addr, k := range n {
			if k != 10 {
				t.Errorf("got %d calls from %s, want 10", k, addr)
			}
		}
	})
}

func TestEachUserHasAConnection(t *testing.T) {
	both(t, func(t *testing.T, cfg Config) {
		cfg.Addr, cfg.PerUser, cfg.Conns = serve(t, whoAsks, nil), true, 3
		p, clock := newPool(t, cfg)
		addrs := map[uint64]map[string]int{}
		for i := range uint64(30) {
			user := i % 3
			c := one(t, p, clock, &Call{User: user})
			if addrs[user] == nil {
				addrs[user] = map[string]int{}
			}
			addrs[user][string(c.Answer)]++
		}
		seen := map[string]bool{}
		for user, m := range addrs {
			if len(m) != 1 {
				t.Errorf("user %d: got %v, want one connection", user, m)
			}
			for a := range m {
				seen[a] = true
			}
		}
		if len(seen) != 3 {
			t.Errorf("got %d connections, want 3", len(seen))
		}
		for _, user := range []uint64{1, 2} {
			one(t, p, clock, &Call{User: user})
		}
		// A fourth takes the place of the one that was idle longest, which is 0's.
		one(t, p, clock, &Call{User: 9})
		if open, _ := p.Conns(); open != 3 {
			t.Errorf("got %d open, want 3", open)
		}
		for _, c := range []struct {
			user uint64
			kept bool
		}{{1, true}, {2, true}, {0, false}} {
			got := one(t, p, clock, &Call{User: c.user})
			if _, kept := addrs[c.user][string(got.Answer)]; kept != c.kept {
				t.Errorf("user %d: got its old connection %t, want %t", c.user, kept, c.kept)
			}
		}
	})
}

// More users than connections, all at once: each is served, in the end.
func TestUsersWaitForConnections(t *testing.T) {
	both(t, func(t *testing.T, cfg Config) {
		cfg.Addr, cfg.PerUser, cfg.Conns = serve(t, whoAsks, nil), true, 2
		p, clock := newPool(t, cfg)
		for i := range uint64(40) {
			p.Start(&Call{User: i % 10})
		}
		for _, c := range finish(t, p, clock, 40) {
			if c.Class != OK {
				t.Fatalf("got %v", c.Class)
			}
		}
		if open, opening := p.Conns(); open+opening > 2 {
			t.Errorf("got %d connections, want at most 2", open+opening)
		}
	})
}

func TestCallsPerConnection(t *testing.T) {
	both(t, func(t *testing.T, cfg Config) {
		cfg.Addr, cfg.CallsPerConn, cfg.Conns = serve(t, whoAsks, nil), 3, 2
		p, clock := newPool(t, cfg)
		var calls []*Call
		for range 9 {
			calls = append(calls, one(t, p, clock, new(Call)))
		}
		for addr, n := range spread(calls) {
			if n != 3 {
				t.Errorf("got %d calls from %s, want 3", n, addr)
			}
		}
		if len(spread(calls)) != 3 {
			t.Errorf("got %v, want 3 connections", spread(calls))
		}
		for range 50 { // at once: never more than 2 connections, nor more than 3 calls on one
			p.Start(new(Call))
		}
		for addr, n := range spread(finish(t, p, clock, 50)) {
			if n > 3 {
				t.Errorf("got %d calls from %s, want at most 3", n, addr)
			}
		}
	})
}

func TestStreamsAllowedByTheServer(t *testing.T) {
	for _, portable := range []bool{false, true} {
		var now, most atomic.Int64
		addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(5 * time.Millisecond)
			now.Add(-1)
		}, func(s *http.Server) { s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 2} })
		p, clock := newPool(t, Config{Protocol: HTTP2, Addr: addr, Conns: 1, Portable: portable})
		for range 20 {
			p.Start(new(Call))
		}
		for _, c := range finish(t, p, clock, 20) {
			if c.Class != OK || c.retried {
				t.Errorf("got %v, again %t", c.Class, c.retried)
			}
		}
		if most.Load() != 2 {
			t.Errorf("got %d streams at once, want 2", most.Load())
		}
	}
}

func TestWaitingCallsGoInOrder(t *testing.T) {
	order := make(chan string, 20)
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { order <- r.URL.Path }, nil)
	p, clock := newPool(t, Config{Addr: addr, Conns: 1})
	var want []string
	for i := range 20 {
		c := &Call{Path: fmt.Sprintf("/%d", i)}
		want = append(want, c.Path)
		p.Start(c)
	}
	calls := finish(t, p, clock, 20)
	var got []string
	for range calls {
		got = append(got, <-order)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for i := 1; i < len(calls); i++ {
		if calls[i].Sent < calls[i-1].Done {
			t.Errorf("call %d: got sent at %v, want after %v", i, calls[i].Sent, calls[i-1].Done)
		}
	}
}

func TestCancel(t *testing.T) {
	both(t, func(t *testing.T, cfg Config) {
		arrived, gone := make(chan struct{}), make(chan struct{})
		cfg.Addr = serve(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/hang" {
				close(arrived)
				<-r.Context().Done()
				close(gone)
			}
		}, nil)
		cfg.Conns, cfg.Streams = 1, 2
		p, clock := newPool(t, cfg)
		hung, waiting := &Call{Path: "/hang"}, &Call{Path: "/waits"}
		p.Start(hung)
		if cfg.Protocol == HTTP1 {
			p.Start(waiting) // for the one connection
		}
		for there := false; !there; {
			if ended := p.Poll(clock.Now() + time.Millisecond); len(ended) > 0 {
				t.Fatalf("got %v ended", ended[0].Class)
			}
			select {
			case <-arrived:
				there = true
			default:
			}
		}
		if !hung.Tried || hung.Sent < 0 {
			t.Fatalf("got tried %t, sent %v, want both", hung.Tried, hung.Sent)
		}
		if cfg.Protocol == HTTP1 {
			if waiting.Tried || waiting.Sent >= 0 {
				t.Errorf("got tried %t, sent %v for a call that waits", waiting.Tried, waiting.Sent)
			}
			p.Cancel(waiting)
		}
		p.Cancel(hung)
		if c := one(t, p, clock, new(Call)); c.Class != OK {
			t.Errorf("got %v after it, want ok", c.Class)
		}
		select {
		case <-gone:
		case <-time.After(10 * time.Second):
			t.Error("the server was not told")
		}
	})
}

// A connection that is not made when its call is given up is not waited for.
func TestCancelWhileConnecting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, clock := newPool(t, Config{Addr: l.Addr().String(), TLS: new(tls.Config), Conns: 1}) // nobody shakes hands
	c := new(Call)
	p.Start(c)
	p.Poll(clock.Now() + 20*time.Millisecond)
	if _, opening := p.Conns(); opening != 1 {
		t.Fatalf("got %d opening, want 1", opening)
	}
	p.Cancel(c)
	if open, opening := p.Conns(); open+opening != 0 {
		t.Errorf("got %d open and %d opening, want none", open, opening)
	}
}

// A call that is sent again counts from when it was sent first.
func TestSentAgain(t *testing.T) {
	const wait = 30 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			http.ReadRequest(r)
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			if i == 0 {
				http.ReadRequest(r)
				time.Sleep(wait)
			}
			c.Close()
		}
	})
	p, clock := newPool(t, Config{Addr: l.Addr().String(), Conns: 1})
	one(t, p, clock, new(Call))
	c := one(t, p, clock, new(Call))
	if c.Class != OK || !c.retried || c.Done-c.Sent < wait {
		t.Errorf("got %v, again %t, %v after it was sent, want ok, true, at least %v", c.Class, c.retried, c.Done-c.Sent, wait)
	}
}

// A server that takes connections and nothing more costs a call a connection,
// not its patience.
func TestNoGreeting(t *testing.T) {
	for name, say := range map[string]string{"closes": "", "speaks HTTP/1.1": "HTTP/1.1 400 Bad Request\r\n\r\n"} {
		for _, portable := range []bool{false, true} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			var conns atomic.Int64
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					conns.Add(1)
					wg.Go(func() {
						defer c.Close()
						io.WriteString(c, say)
						io.CopyN(io.Discard, c, int64(len(preface)))
					})
				}
			})
			p, clock := newPool(t, Config{Protocol: HTTP2, Addr: l.Addr().String(), Conns: 1, Portable: portable})
			want := Reset
			if say != "" {
				want = Malformed
			}
			for range 3 {
				p.Start(new(Call))
			}
			for _, c := range finish(t, p, clock, 3) {
				if c.Class != want {
					t.Errorf("%s, portable %t: got %v, want %v", name, portable, c.Class, want)
				}
			}
			l.Close()
			wg.Wait()
			if n := conns.Load(); n != 3 {
				t.Errorf("%s, portable %t: got %d connections for 3 calls", name, portable, n)
			}
		}
	}
}

// Connections that do not come up in time are made again for calls, which
// then know why they failed.
func TestOpenGivesUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, clock := newPool(t, Config{Protocol: HTTP2, Addr: l.Addr().String(), Conns: 3}) // nobody greets
	p.Open(clock.Now() + 20*time.Millisecond)
	if open, opening := p.Conns(); open+opening != 0 {
		t.Errorf("got %d open and %d opening, want none", open, opening)
	}
	c := new(Call)
	p.Start(c)
	p.Poll(clock.Now() + 10*time.Millisecond)
	if p.Cancel(c); !c.Tried {
		t.Error("got a call that was not tried")
	}
}

// Bodies that no buffer holds arrive whole, both ways, and the server's reading
// holds the client's writing back.
func TestLargeBodies(t *testing.T) {
	body := make([]byte, 5<<20)
	for i := range body {
		body[i] = byte(i * i >> 8)
	}
	sum := sha256.Sum256(body)
	both(t, func(t *testing.T, cfg Config) {
		cfg.Addr = serve(t, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(20 * time.Millisecond)
			b, err := io.ReadAll(r.Body)
			got := sha256.Sum256(b)
			w.Header().Set("X-Length", fmt.Sprint(len(b)))
			fmt.Fprintf(w, "%s %v", hex.EncodeToString(got[:]), err)
			w.Write(b)
		}, nil)
		cfg.Ops = []Op{{Name: "op", Method: "POST", Path: "/", Body: body, Keep: 70}}
		cfg.Conns = 2
		p, clock := newPool(t, cfg)
		for range 2 {
			p.Start(new(Call))
		}
		for _, c := range finish(t, p, clock, 2) {
			if want := hex.EncodeToString(sum[:]) + " <nil>"; c.Class != OK || c.Received != int64(len(body)+len(want)) || !strings.HasPrefix(string(c.Answer), want) {
				t.Errorf("got %v, %d bytes, %q", c.Class, c.Received, c.Answer)
			}
		}
	})
}

// All that is due on a connection leaves in one write.
func TestOneWriteABatch(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	calls := make(chan int, 10)
	settled := make(chan struct{})
	wg.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.Write(frames(nil).settings())
		buf := make([]byte, 64<<10)
		for got := 0; got == 0; { // the preface, SETTINGS and its acknowledgement
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if strings.Contains(string(buf[:n]), string(frames(nil).add(frameSettings, flagEnd, 0))) {
				got = n
			}
		}
		close(settled)
		n, err := c.Read(buf)
		if err == nil {
			calls <- len(slices.DeleteFunc(sent(buf[:n]), func(l string) bool { return !strings.HasPrefix(l, "1/") }))
		}
	})
	p, clock := newPool(t, Config{Protocol: HTTP2, Addr: l.Addr().String(), Conns: 1})
	p.Open(clock.Now() + 5*time.Second)
	p.Poll(clock.Now()) // writes the acknowledgement
	<-settled
	for range 20 {
		p.Start(new(Call))
	}
	p.Poll(clock.Now())
	select {
	case n := <-calls:
		if n != 20 {
			t.Errorf("got %d calls in one read, want 20", n)
		}
	case <-time.After(10 * time.Second):
		t.Error("got no calls")
	}
}

// A call costs no memory once there were as many at once.
func TestCallsAllocateNothing(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, GRPC} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer context.AfterFunc(ctx, func() { c.Close() })()
					echo(c, proto)
				})
			}
		})
		cfg := Config{Protocol: proto, Addr: l.Addr().String(), Conns: 1, Ops: []Op{{Name: "op", Path: "/s/m"}}}
		if proto == GRPC {
			cfg.Ops[0].Messages = [][]byte{[]byte("hello")}
		}
		p, clock := newPool(t, cfg)
		c := new(Call)
		call := func() {
			p.Start(c)
			for len(p.Poll(clock.Now()+time.Second)) == 0 {
			}
			if c.Class != OK {
				t.Fatalf("got %v", c.Class)
			}
		}
		for range 100 {
			call()
		}
		// The server is in this process: it allocates nothing either. (AllocsPerRun
		// would leave it no processor.) The runtime's own few do not count.
		const calls = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range calls {
			call()
		}
		runtime.ReadMemStats(&after)
		if n := after.Mallocs - before.Mallocs; n > calls/20 {
			t.Errorf("protocol %d: got %d allocations in %d calls, want none", proto, n, calls)
		}
		stop()
		l.Close()
		wg.Wait()
	}
}

// echo answers every request on c, and allocates nothing for it.
func echo(c net.Conn, p Protocol) {
	r := bufio.NewReader(c)
	if p == HTTP1 {
		answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				c.Write(answer)
			}
		}
	}
	io.CopyN(io.Discard, r, int64(len(preface)))
	c.Write(frames(nil).settings())
	head, tail, msg := block(grpcHead...), block("grpc-status", "0"), message(5)
	var out []byte
	h, skip := make([]byte, frameHeader), make([]byte, minFrameSize)
	for {
		if _, err := io.ReadFull(r, h); err != nil {
			return
		}
		n := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		io.ReadFull(r, skip[:n])
		if h[3] == frameData && h[4]&flagEnd != 0 {
			id := uint32(h[5])<<24 | uint32(h[6])<<16 | uint32(h[7])<<8 | uint32(h[8])
			out = appendFrame(out[:0], frameHeaders, flagEndHeaders, id, head)
			out = appendFrame(out, frameData, 0, id, msg)
			c.Write(appendFrame(out, frameHeaders, flagEndHeaders|flagEnd, id, tail))
		}
	}
}

// slowly is a poller and its clock, which notes when connections are begun.
type slowly struct {
	now    time.Duration
	dialed []time.Duration
	err    error
	made   []*conn
}

func (s *slowly) Now() time.Duration { return s.now }

func (s *slowly) dial(k *conn) error {
	s.dialed = append(s.dialed, s.now)
	k.link = deaf{}
	s.made = append(s.made, k)
	return s.err
}

func (s *slowly) wait(until time.Duration) {
	for _, k := range s.made {
		if k.state == dialing {
			k.connected()
		}
	}
	s.now = max(s.now, until)
}

func (s *slowly) close() {}

type deaf struct{}

func (deaf) send(p []byte) (int, error) { return len(p), nil }
func (deaf) close()                     {}

// TestOpenIsGentle opens connections one after the other, and all in time.
func TestOpenIsGentle(t *testing.T) {
	for _, c := range []struct {
		conns     int
		until     time.Duration
		err       error
		want      int
		gap, took time.Duration
	}{
		{64, time.Second, nil, 64, time.Millisecond, 63 * time.Millisecond},
		{5000, time.Second, nil, 5000, 100 * time.Microsecond, 500 * time.Millisecond},
		{64, 0, nil, 0, 0, 0},
		{64, time.Second, errors.New("no descriptor"), 1, 0, time.Second},
	} {
		s := &slowly{err: c.err}
		p := &Pool{cfg: Config{Conns: c.conns, MaxAnswer: 1}, clock: s, poller: s}
		p.Open(c.until)
		if len(s.dialed) != c.want || p.conns > c.conns || c.err == nil && p.opened.Load() != int64(c.want) {
			t.Errorf("%d connections until %v: got %d begun, %d open, want %d", c.conns, c.until, len(s.dialed), p.opened.Load(), c.want)
		}
		for i, at := range s.dialed {
			if i > 0 && at-s.dialed[i-1] < c.gap {
				t.Fatalf("%d connections: got the %dth %v after the one before, want %v", c.conns, i, at-s.dialed[i-1], c.gap)
			}
		}
		if c.want > 0 && c.err == nil && s.dialed[len(s.dialed)-1] > c.took {
			t.Errorf("%d connections: got the last begun at %v, want %v", c.conns, s.dialed[len(s.dialed)-1], c.took)
		}
	}
}
