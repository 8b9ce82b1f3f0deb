package observe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// fixed is a Sink that decides and forgets.
type fixed Mode

func (m fixed) Request(*Exchange) Mode { return Mode(m) }
func (m fixed) Answer(*Exchange) Mode  { return Mode(m) }
func (m fixed) Done(*Exchange)         {}
func (m fixed) Abandoned(a Abandonment) {
	panic("abandoned: " + a.Rule.String())
}

// measure runs f as a benchmark does, and reports CPU time beside the wall
// clock, which on a shared machine says more about the neighbours.
func measure(b *testing.B, bytes int, f func()) {
	b.ReportAllocs()
	b.SetBytes(int64(bytes))
	start := cpuTime(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// pour feeds p as a relay with buffers of 32 KiB reads it.
func pour(feed func(time.Time, []byte), now time.Time, p []byte) {
	for len(p) > 0 {
		n := min(len(p), 32<<10)
		feed(now, p[:n])
		p = p[n:]
	}
}

var modes = []struct {
	name string
	mode Mode
}{{"ignore", Ignore}, {"hash", Hash}, {"keep", Keep}}

// benchRequest is what a browser-like client sends.
const benchRequest = "GET /api/v1/threads?limit=20 HTTP/1.1\r\nHost: mail.example.org\r\nUser-Agent: bench/1.0 (linux; x86_64)\r\n" +
	"Accept: application/json\r\nAccept-Encoding: gzip\r\nX-User: ann\r\nCookie: session=0123456789abcdef\r\n\r\n"

func benchAnswer(size int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: Tue, 24 Nov 2026 18:00:00 GMT\r\nServer: bench\r\n\r\n%s",
		size, strings.Repeat("x", size))
}

func BenchmarkHTTP1(b *testing.B) {
	for _, size := range []int{200, 64 << 10} {
		request, answer := []byte(benchRequest), []byte(benchAnswer(size))
		for _, m := range modes {
			b.Run(fmt.Sprintf("%d/%s", size, m.name), func(b *testing.B) {
				c := New(Config{}).Conn(fixed(m.mode))
				now := at(1)
				measure(b, len(request)+len(answer), func() {
					pour(c.FromClient, now, request)
					pour(c.FromLive, now, answer)
				})
			})
		}
	}
}

// frames writes HTTP/2 frames, with one HPACK encoder a side.
type frames struct {
	out  bytes.Buffer
	fr   *http2.Framer
	head bytes.Buffer
	enc  *hpack.Encoder
}

func newFrames() *frames {
	f := &frames{}
	f.fr = http2.NewFramer(&f.out, nil)
	f.enc = hpack.NewEncoder(&f.head)
	return f
}

// take returns what was written since the last call.
func (f *frames) take() string {
	s := f.out.String()
	f.out.Reset()
	return s
}

// block encodes fields given as name, value, name, value.
func (f *frames) block(fields ...string) []byte {
	f.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(f.head.Bytes())
}

func (f *frames) headers(stream uint32, end bool, fields ...string) *frames {
	f.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: f.block(fields...), EndHeaders: true, EndStream: end})
	return f
}

func (f *frames) data(stream uint32, end bool, p string) *frames {
	for len(p) > 16<<10 {
		f.fr.WriteData(stream, false, []byte(p[:16<<10]))
		p = p[16<<10:]
	}
	f.fr.WriteData(stream, end, []byte(p))
	return f
}

// grpcMessage frames a message of n bytes.
func grpcMessage(n int) string {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(n))
	return string(b) + strings.Repeat("m", n)
}

var grpcRequest = []string{":method", "POST", ":scheme", "http", ":path", "/messages.v1.Messages/Send", ":authority", "127.0.0.1:8600",
	"content-type", "application/grpc", "user-agent", "grpc-go/1.85.0", "te", "trailers", "x-user", "ann"}

// unary writes the frames of one gRPC call as grpc-go sends them, with what
// keeps its windows open.
func unary(cl, lv *frames, stream uint32, size int) (string, string) {
	cl.headers(stream, false, grpcRequest...).data(stream, true, grpcMessage(size))
	lv.fr.WriteWindowUpdate(0, uint32(size+5))
	lv.headers(stream, false, ":status", "200", "content-type", "application/grpc").data(stream, false, grpcMessage(size)).
		headers(stream, true, "grpc-status", "0", "grpc-message", "")
	return cl.take(), lv.take()
}

func BenchmarkGRPC(b *testing.B) {
	for _, size := range []int{100, 1 << 10, 64 << 10} {
		cl, lv := newFrames(), newFrames()
		cl.out.WriteString(clientPreface)
		cl.fr.WriteSettings()
		lv.fr.WriteSettings()
		first, second := cl.take(), lv.take()
		one, two := unary(cl, lv, 1, size) // fills the HPACK tables
		request, answer := unary(cl, lv, 3, size)
		for _, m := range modes {
			b.Run(fmt.Sprintf("%d/%s", size, m.name), func(b *testing.B) {
				c := New(Config{}).Conn(fixed(m.mode))
				now := at(1)
				c.FromClient(now, []byte(first+one))
				c.FromLive(now, []byte(second+two))
				rq, an := []byte(request), []byte(answer)
				ids := append(streamIDs(rq), streamIDs(an)...)
				stream := uint32(3)
				measure(b, len(rq)+len(an), func() {
					for _, id := range ids {
						binary.BigEndian.PutUint32(id, stream)
					}
					stream += 2
					pour(c.FromClient, now, rq)
					pour(c.FromLive, now, an)
				})
			})
		}
	}
}

// streamIDs returns the places of the stream number in the frames of p, but
// for frames of the connection.
func streamIDs(p []byte) (at [][]byte) {
	for len(p) > 0 {
		n := 9 + (int(p[0])<<16 | int(p[1])<<8 | int(p[2]))
		if binary.BigEndian.Uint32(p[5:9]) != 0 {
			at = append(at, p[5:9])
		}
		p = p[n:]
	}
	return at
}

// BenchmarkFramer reads the frames of the same gRPC call with x/net's Framer
// and HPACK, to show what reading frames ourselves saves. It tells nothing of
// what they mean.
func BenchmarkFramer(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			cl, lv := newFrames(), newFrames()
			one, two := unary(cl, lv, 1, size)
			request, answer := unary(cl, lv, 3, size)
			readers := [2]*bytes.Reader{bytes.NewReader([]byte(one)), bytes.NewReader([]byte(two))}
			var fr [2]*http2.Framer
			read := func(i int) {
				for {
					_, err := fr[i].ReadFrame()
					if err == io.EOF {
						return
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			for i := range fr {
				fr[i] = http2.NewFramer(io.Discard, readers[i])
				fr[i].SetReuseFrames()
				fr[i].ReadMetaHeaders = hpack.NewDecoder(4096, nil)
				read(i)
			}
			chunks := [2][]byte{[]byte(request), []byte(answer)}
			measure(b, len(request)+len(answer), func() {
				for i := range fr {
					readers[i].Reset(chunks[i])
					read(i)
				}
			})
		})
	}
}

// takes is a Sink that takes each exchange, as one does that sends it on.
type takes struct{ fixed }

func (takes) Done(x *Exchange) {
	own, ok := x.Take()
	if !ok {
		panic("refused")
	}
	own.Release()
}

func BenchmarkTake(b *testing.B) {
	c := New(Config{}).Conn(takes{fixed(Keep)})
	request, answer, now := []byte(benchRequest), []byte(benchAnswer(200)), at(1)
	measure(b, len(request)+len(answer), func() {
		c.FromClient(now, request)
		c.FromLive(now, answer)
	})
}

func (fixed) Ongoing(*Exchange, bool) bool { return false }
