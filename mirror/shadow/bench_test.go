package shadow

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The benchmarks measure the CPU time of a client alone: the server is another
// process, this program again under servesEnv.
const servesEnv = "DARKLAUNCH_SHADOW_TEST_SERVES"

var payload = strings.Repeat("x", 200)

// serve answers HTTP/1.1 on one listener and gRPC on another, until stdin ends.
func serve() {
	l1, err1 := net.Listen("tcp", "127.0.0.1:0")
	l2, err2 := net.Listen("tcp", "127.0.0.1:0")
	if err1 != nil || err2 != nil {
		os.Exit(1)
	}
	go acceptAll(l1, serveHTTP1)
	go acceptAll(l2, serveGRPC)
	fmt.Println(l1.Addr(), l2.Addr())
	io.Copy(io.Discard, os.Stdin)
}

func acceptAll(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go f(c)
	}
}

// serveHTTP1 answers each read that ends a request without a body.
func serveHTTP1(c net.Conn) {
	defer c.Close()
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Tue, 24 Nov 2026 19:07:04 GMT\r\nContent-Length: 200\r\n\r\n" + payload)
	buf := make([]byte, 8<<10)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
			c.Write(answer)
		}
	}
}

// serveGRPC answers all requests that one read brought by one write, so that the
// client is what is measured.
func serveGRPC(c net.Conn) {
	defer c.Close()
	br := bufio.NewReaderSize(c, 64<<10)
	if _, err := br.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	out := appendFrame(nil, http2.FrameSettings, 0, 0, 0)
	out = appendWindowUpdate(out, 0, 1<<30)
	fr := http2.NewFramer(nil, br)
	fr.SetReuseFrames()
	const header, trailer = "\x88\x0f\x10\x10application/grpc", "\x00\x0bgrpc-status\x010"
	for {
		if br.Buffered() == 0 {
			if _, err := c.Write(out); err != nil {
				return
			}
			out = out[:0]
		}
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				out = appendFrame(out, http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
			}
		case *http2.DataFrame:
			out = appendWindowUpdate(out, 0, int64(f.Length))
			out = append(appendFrame(out, http2.FrameHeaders, http2.FlagHeadersEndHeaders, f.StreamID, len(header)), header...)
			out = append(append(appendFrame(out, http2.FrameData, 0, f.StreamID, 205), 0, 0, 0, 0, 200), payload...)
			out = append(appendFrame(out, http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, f.StreamID, len(trailer)), trailer...)
		}
	}
}

func startServer(tb testing.TB) (http1, grpc string) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), servesEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := fmt.Sscan(line, &http1, &grpc); err != nil {
		tb.Fatal(err)
	}
	return http1, grpc
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs f from 64 goroutines.
func measure(b *testing.B, f func() error) {
	b.ReportAllocs()
	b.SetParallelism(64 / 2)
	var failed atomic.Int64
	start := cpuTime(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if f() != nil {
				failed.Add(1)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
	if n := failed.Load(); n > 0 {
		b.Fatalf("%d of %d calls failed", n, b.N)
	}
}

// feeder keeps 64 copies under way. It belongs to the loop's goroutine.
type feeder struct {
	back   *Backend
	copy   *Copy
	idle   []*fed
	more   int // to be sent
	left   int // to end
	failed int
	done   chan struct{}
}

type fed struct {
	*feeder
	job Job
}

func (f *feeder) next() *Job {
	n := len(f.idle) - 1
	if n < 0 || f.more == 0 {
		return nil
	}
	f.more--
	s := f.idle[n]
	f.idle = f.idle[:n]
	s.job = Job{Backend: f.back, Copy: f.copy, Outcome: f.back.NewOutcome(), Handler: s}
	return &s.job
}

func (s *fed) Begin() bool { return true }

func (s *fed) End(err error) {
	o := s.job.Outcome
	if a := o.Answers[0]; err != nil || a.Err != nil || a.Size < 200 || a.Status != 200 || a.GRPC > 0 {
		s.failed++
	}
	o.Release()
	s.idle = append(s.idle, s)
	if s.left--; s.left == 0 {
		close(s.done)
	}
}

var benchHeader = []Field{
	{[]byte("User-Agent"), []byte("curl/8.5.0")}, {[]byte("Accept"), []byte("*/*")}, {[]byte("X-User"), []byte("user-4711")},
	{[]byte("traceparent"), []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")},
}

var benchGRPCHeader = []Field{
	{[]byte("content-type"), []byte("application/grpc")}, {[]byte("te"), []byte("trailers")}, {[]byte("user-agent"), []byte("grpc-go/1.85.0")},
	{[]byte("grpc-timeout"), []byte("4999m")}, {[]byte("x-user"), []byte("user-4711")},
	{[]byte("traceparent"), []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")},
}

// BenchmarkSend measures what a copy costs, beside the transports that are
// usual. 64 calls are under way at any time. cpu-ns/op is this process's.
func BenchmarkSend(b *testing.B) {
	http1, grpc := startServer(b)
	message := append([]byte{0, 0, 0, 0, 200}, payload...)
	for _, t := range []struct {
		name, address string
		call          Call
	}{
		{"http1/shadow", http1, Call{Route: "/x", Method: []byte("GET"), Target: []byte("/inbox/threads?limit=20"), Header: benchHeader}},
		{"grpc/shadow", grpc, Call{Route: "/x", HTTP2: true, GRPC: true, Method: []byte("POST"), Target: []byte("/pkg.Service/Method"), Header: benchGRPCHeader, Body: message}},
	} {
		b.Run(t.name, func(b *testing.B) {
			back, err := New(Config{Role: "shadow", Address: t.address})
			if err != nil {
				b.Fatal(err)
			}
			f := &feeder{back: back, left: b.N, more: b.N, copy: &Copy{Calls: []Call{t.call}, Key: 1}, done: make(chan struct{})}
			for range 64 {
				f.idle = append(f.idle, &fed{feeder: f})
			}
			loop := NewLoop(LoopConfig{Next: f.next}, back)
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			b.ReportAllocs()
			start := cpuTime(b)
			b.ResetTimer()
			loop.Wake()
			go func() { ended <- loop.Run(ctx) }()
			<-f.done
			b.StopTimer()
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
			stop()
			<-ended
			if f.failed > 0 {
				b.Fatalf("%d of %d calls failed", f.failed, b.N)
			}
		})
	}
	b.Run("http1/nethttp", func(b *testing.B) {
		t := &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}
		defer t.CloseIdleConnections()
		measure(b, func() error { return roundTrip(t, "GET", "http://"+http1+"/inbox/threads?limit=20", benchHeader, nil) })
	})
	b.Run("grpc/nethttp", func(b *testing.B) {
		t := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
		t.Protocols.SetUnencryptedHTTP2(true)
		defer t.CloseIdleConnections()
		measure(b, func() error {
			return roundTrip(t, "POST", "http://"+grpc+"/pkg.Service/Method", benchGRPCHeader, message)
		})
	})
}

func roundTrip(t http.RoundTripper, method, url string, header []Field, body []byte) error {
	r, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for _, f := range header {
		r.Header.Add(string(f.Name), string(f.Value))
	}
	r.Header.Set(RoleHeader, "shadow")
	res, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && n < 200 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
