package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver"
	"darklaunch/appserver/client"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/pebble"
)

const (
	benchCallers = 32
	benchLeg     = 3 * time.Second
)

// benchBody is a message of the usual length.
var benchBody = strings.Repeat("a few words ", 16)

// perSecond has callers make calls for a while and returns how many a second ended.
func perSecond(b *testing.B, call func(caller, n int) error) float64 {
	b.Helper()
	var calls atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for c := range benchCallers {
		wg.Go(func() {
			for n := 0; time.Since(begin) < benchLeg; n++ {
				if err := call(c, n); err != nil {
					b.Error(err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(calls.Load()) / time.Since(begin).Seconds()
}

// BenchmarkAppserver has one server on Pebble, its load on the same cores, beside what
// could be had at most: reads beside a bare echo of gRPC, sends beside the same bytes
// put into Pebble with Sync by as many callers. The legs take turns, so that only the
// ratios mean something on a shared machine.
func BenchmarkAppserver(b *testing.B) {
	opened, err := pebble.Open(b.TempDir(), pebble.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer opened.Close()
	reg := prometheus.NewRegistry()
	server, err := appserver.New(appserver.Config{Registerer: reg, Mailboxes: mailbox.Config{Store: store.Instrument(opened, reg, nil)}})
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(server.Options()...)
	server.Register(g)
	echo := grpc.NewServer()
	healthpb.RegisterHealthServer(echo, health.NewServer())
	m, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	running.Go(func() { _ = g.Serve(l) })
	running.Go(func() { _ = echo.Serve(m) })
	defer running.Wait()
	defer cancel()
	defer g.Stop()
	defer echo.Stop()
	c, err := client.New(l.Addr().String(), client.Config{})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	conn, err := grpc.NewClient(m.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	bare := healthpb.NewHealthClient(conn)
	raw, err := pebbledb.Open(b.TempDir(), &pebbledb.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer raw.Close()

	users, threads := make([]context.Context, benchCallers), make([]string, benchCallers)
	for i := range users {
		user := fmt.Sprint("u", i)
		users[i] = client.As(b.Context(), user)
		sent, err := c.Send(users[i], &messagesv1.SendRequest{IdempotencyKey: "first", Recipients: named(user), Body: benchBody})
		if err != nil {
			b.Fatal(err)
		}
		threads[i] = sent.ThreadId
	}
	var rounds atomic.Int64
	legs := map[string]func(caller, n int) error{
		"echo": func(int, int) error { _, err := bare.Check(b.Context(), &healthpb.HealthCheckRequest{}); return err },
		"counts": func(caller, _ int) error {
			_, err := c.UnreadCounts(users[caller], &messagesv1.UnreadCountsRequest{})
			return err
		},
		"threads": func(caller, _ int) error {
			_, err := c.GetThread(users[caller], &messagesv1.GetThreadRequest{ThreadId: threads[caller], PageSize: 1})
			return err
		},
		"puts": func(caller, n int) error {
			key := fmt.Appendf(nil, "%04d%08d%04d", caller, n, rounds.Load())
			return raw.Set(key, []byte(benchBody), pebbledb.Sync)
		},
		"sends": func(caller, n int) error {
			_, err := c.Send(users[caller], &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(rounds.Load(), "-", n), ThreadId: threads[caller], Body: benchBody})
			return err
		},
	}
	total := map[string]float64{}
	for b.Loop() {
		for range 2 {
			rounds.Add(1)
			for _, leg := range []string{"echo", "counts", "threads", "puts", "sends"} {
				total[leg] += perSecond(b, legs[leg]) / 2
			}
		}
	}
	for leg, n := range total {
		b.ReportMetric(n/float64(b.N), leg+"/s")
	}
	b.ReportMetric(total["counts"]/total["echo"], "counts/echo")
	b.ReportMetric(total["threads"]/total["echo"], "threads/echo")
	b.ReportMetric(total["sends"]/total["puts"], "sends/puts")
}
