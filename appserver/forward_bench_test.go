package appserver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
)

// BenchmarkDistribution is what a call costs in CPU time, callers' included, that asks
// one server alone, the owner of two, and the other of two, which forwards. The legs take
// turns; the ratios are what to look at.
func BenchmarkDistribution(b *testing.B) {
	one := newWorld(b, map[string]int{"a": 1}).cells["a"].servers[0]
	w := newWorld(b, map[string]int{"a": 2})
	two := w.cells["a"].servers
	const callers = 16
	users := w.in("a", callers)
	leg := func(send bool, server func(user string) *testServer, round int) float64 {
		var calls atomic.Int64
		var wg sync.WaitGroup
		before := cpu(b)
		begin := time.Now()
		for _, u := range users {
			s := server(u)
			ctx, cancel := context.WithCancel(client.As(b.Context(), u))
			defer cancel()
			wg.Go(func() {
				for n := 0; time.Since(begin) < 500*time.Millisecond; n++ {
					var err error
					if send {
						_, err = s.conn.Send(ctx, to(note(fmt.Sprint(round, "-", n), "hello"), u))
					} else {
						_, err = s.conn.UnreadCounts(ctx, &messagesv1.UnreadCountsRequest{})
					}
					if err != nil {
						b.Error(err)
						return
					}
					calls.Add(1)
				}
			})
		}
		wg.Wait()
		return float64((cpu(b) - before).Microseconds()) / float64(calls.Load())
	}
	owner := func(user string) (owner, other *testServer) {
		if m, _ := two[0].view.Load().Ring.Owner(user); m.Addr == two[0].addr {
			return two[0], two[1]
		}
		return two[1], two[0]
	}
	servers := map[string]func(string) *testServer{
		"one":       func(string) *testServer { return one },
		"owner":     func(u string) *testServer { s, _ := owner(u); return s },
		"forwarded": func(u string) *testServer { _, s := owner(u); return s },
	}
	total := map[string]float64{}
	round := 0
	for b.Loop() {
		for range 4 {
			for name, server := range servers {
				round++
				total["read-"+name] += leg(false, server, round) / 4
				total["send-"+name] += leg(true, server, round) / 4
			}
		}
	}
	for name, us := range total {
		b.ReportMetric(us/float64(b.N), name+"-us")
	}
	for _, kind := range []string{"read-", "send-"} {
		b.ReportMetric(total[kind+"owner"]/total[kind+"one"], kind+"owner/one")
		b.ReportMetric(total[kind+"forwarded"]/total[kind+"one"], kind+"forwarded/one")
	}
}

func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
