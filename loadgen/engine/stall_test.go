package engine

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/transport"
	"darklaunch/loadgen/transport/reference"
)

// stub is a real server that stands still once, whatever it is asked, and notes
// when it answered.
type stub struct {
	l       net.Listener
	stalled chan struct{} // closed when the stall begins
	resume  chan struct{} // closed when it ends

	mu             sync.Mutex
	began, resumed time.Time   // of the stall, as it really was
	times          []time.Time // of answers
}

// newStub serves HTTP/1.1 or gRPC until the test ends. It stalls from from on,
// for length.
func newStub(t testing.TB, from, length time.Duration, serve func(*stub, net.Conn) error) *stub {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &stub{l: l, stalled: make(chan struct{}), resume: make(chan struct{}), times: make([]time.Time, 0, 100_000)}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				if err := serve(s, c); err != nil && err != io.EOF {
					t.Errorf("stub: %v", err)
				}
			})
		}
	})
	begin := time.AfterFunc(from, func() {
		s.mu.Lock()
		s.began = time.Now()
		s.mu.Unlock()
		close(s.stalled)
		time.AfterFunc(length, func() {
			s.mu.Lock()
			s.resumed = time.Now()
			s.mu.Unlock()
			close(s.resume)
		})
	})
	t.Cleanup(func() {
		begin.Stop()
		l.Close()
		conns.Wait()
	})
	return s
}

// answer waits for the end of a stall, and notes that an answer is given.
func (s *stub) answer() {
	select {
	case <-s.stalled:
		<-s.resume
	default:
	}
	s.mu.Lock()
	s.times = append(s.times, time.Now())
	s.mu.Unlock()
}

// count is how many answers were given.
func (s *stub) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

// stall returns what the stub really did in a run at a rate: how long it stood
// still, and how fast it then answered the calls that this had held up.
func (s *stub) stall(rate float64, run time.Duration) stall {
	s.mu.Lock()
	defer s.mu.Unlock()
	length := s.resumed.Sub(s.began)
	n := int(rate * length.Seconds())
	i, _ := slices.BinarySearchFunc(s.times, s.resumed, time.Time.Compare)
	n = min(n, len(s.times)-i)
	mu := float64(n) / s.times[i+n-1].Sub(s.resumed).Seconds()
	return stall{lambda: rate, mu: mu, run: run, length: length}
}

func serveHTTP1(s *stub, c net.Conn) error {
	r := bufio.NewReader(c)
	for {
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return io.EOF // the client closes when it likes
			}
			if len(line) == 2 {
				break
			}
		}
		s.answer()
		if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")); err != nil {
			return io.EOF
		}
	}
}

func serveGRPC(s *stub, c net.Conn) error {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return io.EOF
	}
	r := bufio.NewReaderSize(c, 64<<10)
	w := bufio.NewWriterSize(c, 64<<10)
	f := http2.NewFramer(w, r)
	if err := f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10000}); err != nil {
		return err
	}
	head := append([]byte{0x88}, "\x10\x0ccontent-type\x10application/grpc"...)
	tail := []byte("\x10\x0bgrpc-status\x010")
	var due uint32
	for {
		if r.Buffered() == 0 {
			if err := w.Flush(); err != nil {
				return io.EOF
			}
		}
		frame, err := f.ReadFrame()
		if err != nil {
			return io.EOF
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				f.WriteSettingsAck()
			}
		case *http2.DataFrame:
			if due += frame.Length; due > 10000 {
				f.WriteWindowUpdate(0, due)
				due = 0
			}
			if !frame.StreamEnded() {
				return fmt.Errorf("got a body in pieces")
			}
			id := frame.StreamID
			s.answer()
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true})
			f.WriteData(id, false, []byte{0, 0, 0, 0, 0})
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: tail, EndHeaders: true, EndStream: true})
		}
	}
}

// bystander wakes every millisecond until its result is asked for: how late it
// was at worst.
func bystander() func() time.Duration {
	stop, stopped := make(chan struct{}), make(chan struct{})
	var late hist.Hist
	go func() {
		defer close(stopped)
		for due := time.Now(); ; {
			due = due.Add(time.Millisecond)
			time.Sleep(time.Until(due))
			late.Record(time.Since(due))
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		<-stopped
		return late.Max()
	}
}

var full = flag.Bool("full", false, "stall for 1 s in 10 s, not for 0.5 s in 3 s")

// TestStallInRealTime runs against real servers on real connections. The length
// of a run is a compromise: 2 % of the smallest quantile that is judged is 6 ms.
func TestStallInRealTime(t *testing.T) {
	if testing.Short() {
		t.Skip("runs for 45 s of real time")
	}
	length, whole := 500*time.Millisecond, 3*time.Second
	if *full {
		length, whole = time.Second, 10*time.Second
	}
	for _, c := range []struct {
		name  string
		rate  float64
		cfg   transport.Config
		serve func(*stub, net.Conn) error
		users uint64
	}{
		{"HTTP/1.1 pool", 500, transport.Config{}, serveHTTP1, 0},
		{"HTTP/1.1 pool", 2000, transport.Config{}, serveHTTP1, 0},
		{"HTTP/1.1 per user", 500, transport.Config{PerUser: true}, serveHTTP1, 50},
		{"HTTP/1.1 per user", 2000, transport.Config{PerUser: true}, serveHTTP1, 50},
		{"HTTP/1.1 churn", 500, transport.Config{CallsPerConn: 1}, serveHTTP1, 0},
		{"gRPC pool", 500, transport.Config{Protocol: transport.GRPC}, serveGRPC, 0},
		{"gRPC pool", 2000, transport.Config{Protocol: transport.GRPC}, serveGRPC, 0},
		{"gRPC per user", 500, transport.Config{Protocol: transport.GRPC, PerUser: true}, serveGRPC, 50},
		{"gRPC per user", 2000, transport.Config{Protocol: transport.GRPC, PerUser: true}, serveGRPC, 50},
		{"gRPC churn", 500, transport.Config{Protocol: transport.GRPC, CallsPerConn: 1, Conns: 64}, serveGRPC, 0},
		{"HTTP/1.1 portable", 2000, transport.Config{Portable: true}, serveHTTP1, 0},
		{"gRPC portable", 2000, transport.Config{Protocol: transport.GRPC, Portable: true}, serveGRPC, 0},
		{"HTTP/1.1 reference", 500, transport.Config{Conns: 600}, serveHTTP1, 0},
		{"gRPC reference", 500, transport.Config{Protocol: transport.GRPC}, serveGRPC, 0},
	} {
		t.Run(fmt.Sprintf("%s at %.0f", c.name, c.rate), func(t *testing.T) {
			server := newStub(t, time.Second, length, c.serve)
			c.cfg.Addr = server.l.Addr().String()
			c.cfg.Ops = []transport.Op{{Name: "op", Path: "/s/m"}}
			if c.cfg.Protocol == transport.GRPC {
				c.cfg.Ops[0].Messages = [][]byte{[]byte("hello")}
			}
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(3, runtime.GOMAXPROCS(0))))
			defer Pin()()
			clock := transport.NewClock(time.Now())
			make := func() (interface {
				Driver
				Close()
			}, error) {
				if strings.HasSuffix(c.name, "reference") {
					return reference.New(c.cfg, clock)
				}
				return transport.New(c.cfg, clock)
			}
			driver, err := make()
			if err != nil {
				t.Fatal(err)
			}
			defer driver.Close()
			n := uint64(0)
			plan := NewPlan(&even{rate: c.rate, end: whole}, func(call *transport.Call) {
				if n++; c.users > 0 {
					call.User = n % c.users
				}
			})
			late := bystander()
			got := New(Config{Clock: clock, Driver: driver, Ops: 1, Source: plan, Measure: whole}).Run(context.Background())[Measure][0]

			want := uint64(math.Round(c.rate * whole.Seconds()))
			if got.Planned != want || got.Sent()+got.Dropped() != want || got.Ended[transport.OK] != want || server.count() != int(want) {
				t.Errorf("got planned %d, sent %d, shed %d, ok %d, answered by the server %d, want %d sent and answered",
					got.Planned, got.Sent(), got.Dropped(), got.Ended[transport.OK], server.count(), want)
			}
			s := server.stall(c.rate, whole)
			t.Logf("got %v, fluid %v of %v at %.0f/s drained; lag p50 %v p99 %v",
				got.Response.Quantiles(judged...), s.fluid(judged...), s.length, s.mu, got.Lag.Quantile(0.5), got.Lag.Quantile(0.99))
			within := 0.02
			if strings.HasSuffix(c.name, "reference") {
				within = 0.05 // hundreds of its goroutines wake at once, and read their clocks when they have
			}
			// What a bystander was held up by, the generator may have been too.
			held := max(late(), got.Pacing.Max())
			t.Logf("the machine held goroutines up by %v at most", held)
			if s.mu < 3*c.rate || held > length/4 {
				t.Skipf("the machine is too busy for the rate: the server drained %.0f/s at %.0f/s, and goroutines were held up by %v", s.mu, c.rate, held)
			}
			for _, f := range s.check(&got.Response, within, held) {
				t.Error(f)
			}
			if c.cfg.Protocol == transport.HTTP1 && c.cfg.Conns == 0 && s.check(&got.Service, within, 0) == nil {
				t.Errorf("a clock started at the send passes too: %v", got.Service.Quantiles(judged...))
			}
		})
	}
}
