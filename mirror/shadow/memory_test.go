package shadow

import (
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestMemory has 64 calls under way at a role that sends without end, and 64 at
// one that reads nothing of 1 MiB, over real sockets: what they take in memory
// stays under what the configuration allows, and so do their goroutines.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var peers sync.WaitGroup
	quit := make(chan struct{})
	flood := make([]byte, 64<<10)
	peers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			peers.Go(func() {
				defer c.Close()
				first := make([]byte, 1)
				c.Read(first)
				if first[0] == 'P' {
					<-quit
					return
				}
				io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
				for err := error(nil); err == nil; {
					_, err = c.Write(flood)
				}
			})
		}
	})
	b, err := New(Config{Role: "shadow", Address: l.Addr().String(), MaxCalls: 128, Timeout: time.Second, MaxBody: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	s := newSender(t, LoopConfig{}, b)

	post := get()
	post.Method, post.Body = []byte("POST"), make([]byte, 1<<20)
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	var calls sync.WaitGroup
	for i := range 128 {
		calls.Go(func() {
			o, c := b.NewOutcome(), get()
			if i%2 == 0 {
				c = post
			}
			if err := s.send(b, &Copy{Calls: []Call{c}}, begun, o); err != nil {
				t.Error(err)
			} else if code := o.Answers[0].Code(); code != "timeout" {
				t.Errorf("got %s (%v), want a time-out", code, o.Answers[0].Err)
			}
			o.Release()
		})
	}
	var heap uint64
	most := 0
	for range 9 {
		time.Sleep(100 * time.Millisecond)
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		heap, most = max(heap, now.HeapAlloc-min(before.HeapAlloc, now.HeapAlloc)), max(most, runtime.NumGoroutine())
	}
	calls.Wait()
	// 64 kept bodies with room to grow in, buffers for 128 calls, and garbage.
	if limit := uint64(64*(3*256<<10) + 128*(200<<10)); heap > limit {
		t.Errorf("the heap grew by %d KiB, want at most %d", heap>>10, limit>>10)
	}
	// A call, its peer, and a writer for half of the calls.
	if limit := goroutines + 128*2 + 64; most > limit {
		t.Errorf("got %d goroutines, want at most %d", most, limit)
	}
	close(quit)
	s.stop()
	l.Close()
	peers.Wait()
	t.Logf("heap %d KiB more, %d goroutines at most, %d before", heap>>10, most, goroutines)
}
