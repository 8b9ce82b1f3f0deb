package mirror

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/relay"
)

// BenchmarkExchange is what an exchange costs beside its relaying, up to where
// its copy would be sent: of users who are out, and of users who are in while
// mirroring is off.
func BenchmarkExchange(b *testing.B) {
	request := []byte("GET /users/42/inbox HTTP/1.1\r\nHost: mail.example.org\r\nX-User: ann\r\nAccept: */*\r\n\r\n")
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
	for name, sampled := range map[string]int32{"out": 0, "in": 1_000_000} {
		b.Run(name, func(b *testing.B) {
			m, err := New(Config{
				Salt: salt, Sample: sampled, Shadow: "127.0.0.1:1",
				Fronts: []Front{{Listen: "127.0.0.1:0", Live: []string{"127.0.0.1:2"}, Keys: []string{"header:x-user"}}},
			}, prometheus.NewRegistry())
			if err != nil {
				b.Fatal(err)
			}
			defer m.lanes.Close()
			defer m.fronts[0].abort()
			m.lanes.Off(lanes.Killed) // nobody sends: each copy ends at once
			c := m.fronts[0].observe(relay.Info{})
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				c.Chunk(relay.Client, now, request)
				c.Chunk(relay.Live, now, answer)
			}
		})
	}
}
