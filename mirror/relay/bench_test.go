package relay

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// idleObserver is an Observer that does nothing.
type idleObserver struct{}

func (idleObserver) Chunk(Side, time.Time, []byte) {}
func (idleObserver) EOF(Side, time.Time)           {}
func (idleObserver) Close(Cause, time.Time)        {}
func (idleObserver) State() (string, bool)         { return HTTP1, true }

// BenchmarkRoundTrip is 200 bytes there and back, by one client and one server
// of this process. Next to the same without a relay it shows what the relay
// adds; bench/relay measures the relay's own CPU.
func BenchmarkRoundTrip(b *testing.B) {
	for _, bench := range []struct {
		name     string
		direct   bool
		portable bool
	}{{"direct", true, false}, {"loops", false, false}, {"goroutines", false, true}} {
		b.Run(bench.name, func(b *testing.B) {
			live, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer live.Close()
			addr := live.Addr().String()
			var wg sync.WaitGroup
			ctx, stop := context.WithCancel(context.Background())
			defer func() {
				stop()
				wg.Wait()
			}()
			if !bench.direct {
				r, err := New(Config{
					Listen: "127.0.0.1:0", Live: []string{addr}, Portable: bench.portable, DrainTimeout: time.Millisecond,
					Observe: func(Info) Observer { return idleObserver{} },
				})
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() { _ = r.Run(ctx) })
				addr = r.Addr().String()
			}
			client, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			server, err := live.Accept()
			if err != nil {
				b.Fatal(err)
			}
			wg.Go(func() {
				_, _ = io.CopyBuffer(struct{ io.Writer }{server}, struct{ io.Reader }{server}, make([]byte, 4096))
				server.Close()
			})
			buf := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(client, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
