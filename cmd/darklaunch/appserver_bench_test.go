package main

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pebbledb "github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver"
	"darklaunch/appserver/action"
	"darklaunch/appserver/client"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/hbase"
	"darklaunch/appserver/store/pebble"
	testhbase "darklaunch/internal/testenv/hbase"
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

// benchServer is one server, and callers who have a thread each.
type benchServer struct {
	*client.Client
	users   []context.Context
	threads []string
	rounds  atomic.Int64
	strict  atomic.Bool
}

func newBenchServer(b *testing.B, opened store.Store) *benchServer {
	b.Helper()
	r := &benchServer{users: make([]context.Context, benchCallers), threads: make([]string, benchCallers)}
	reg := prometheus.NewRegistry()
	server, err := appserver.New(appserver.Config{Registerer: reg, Mailboxes: mailbox.Config{Store: store.Instrument(opened, reg, nil), Strict: r.strict.Load}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	addr, stop := benchServe(b, server.Register, server.Options()...)
	b.Cleanup(func() {
		stop()
		cancel()
		running.Wait()
	})
	if r.Client, err = client.New(addr, client.Config{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	for i := range r.users {
		user := fmt.Sprint("u", i)
		r.users[i] = client.As(context.Background(), user)
		sent, err := r.Send(r.users[i], &messagesv1.SendRequest{IdempotencyKey: "first", Recipients: named(user), Body: benchBody})
		if err != nil {
			b.Fatal(err)
		}
		r.threads[i] = sent.ThreadId
	}
	return r
}

// benchServe serves gRPC on loopback until stop is called.
func benchServe(b *testing.B, register func(*grpc.Server), options ...grpc.ServerOption) (addr string, stop func()) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(options...)
	register(g)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	return l.Addr().String(), func() { g.Stop(); running.Wait() }
}

func (r *benchServer) counts(caller, _ int) error {
	_, err := r.UnreadCounts(r.users[caller], &messagesv1.UnreadCountsRequest{})
	return err
}

func (r *benchServer) thread(caller, _ int) error {
	_, err := r.GetThread(r.users[caller], &messagesv1.GetThreadRequest{ThreadId: r.threads[caller], PageSize: 1})
	return err
}

func (r *benchServer) send(caller, n int) error {
	_, err := r.Send(r.users[caller], &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(r.rounds.Load(), "-", n), ThreadId: r.threads[caller], Body: benchBody})
	return err
}

func openPebble(b *testing.B) store.Store {
	b.Helper()
	opened, err := pebble.Open(b.TempDir(), pebble.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { opened.Close() })
	return opened
}

// BenchmarkAppserver has one server on Pebble, its load on the same cores, beside what
// could be had at most: reads beside a bare echo of gRPC, sends beside the same bytes
// put into Pebble with Sync by as many callers. The legs take turns, so that only the
// ratios mean something on a shared machine.
func BenchmarkAppserver(b *testing.B) {
	r := newBenchServer(b, openPebble(b))
	addr, stop := benchServe(b, func(g *grpc.Server) { healthpb.RegisterHealthServer(g, health.NewServer()) })
	defer stop()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
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
	benchLegs(b, r, map[string]func(caller, n int) error{
		"echo":   func(int, int) error { _, err := bare.Check(b.Context(), &healthpb.HealthCheckRequest{}); return err },
		"counts": r.counts,
		"threads": func(caller, n int) error {
			r.strict.Store(false)
			return r.thread(caller, n)
		},
		"puts": func(caller, n int) error {
			return raw.Set(fmt.Appendf(nil, "%04d%08d%04d", caller, n, r.rounds.Load()), []byte(benchBody), pebbledb.Sync)
		},
		"sends":  r.send,
		"strict": r.strictly(r.thread),
	}, []string{"echo", "threads", "counts", "echo", "strict", "puts", "sends"}, "counts/echo", "threads/echo", "strict/threads", "sends/puts")
}

// strictly has a call's reads be strict.
func (r *benchServer) strictly(call func(caller, n int) error) func(caller, n int) error {
	return func(caller, n int) error {
		r.strict.Store(true)
		return call(caller, n)
	}
}

// BenchmarkAppserverOnHBase has one server on HBase, beside plain puts of gohbase by as
// many callers and with the same bytes; and what a send costs in calls of the store.
func BenchmarkAppserverOnHBase(b *testing.B) {
	srv := testhbase.Standalone(b, testhbase.Shared)
	cfg := hbase.Config{Quorum: srv.Quorum, Table: fmt.Sprintf("bench-%d", time.Now().UnixNano()), Timeout: 20 * time.Second, ReadTimeout: 10 * time.Second}
	hbase.TakeLogs(nil)
	if _, err := hbase.Create(b.Context(), cfg, 4); err != nil {
		b.Fatal(err)
	}
	opened, err := hbase.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { opened.Close() })
	counted := &counter{Store: opened}
	r := newBenchServer(b, counted)
	raw := gohbase.NewClient(cfg.Quorum, gohbase.RpcQueueSize(1))
	defer raw.Close()
	var sends atomic.Int64
	benchLegs(b, r, map[string]func(caller, n int) error{
		"puts": func(caller, n int) error {
			put, err := hrpc.NewPutStr(b.Context(), cfg.Table, string(store.RowKey(fmt.Sprint("raw", caller))), map[string]map[string][]byte{
				"a": {fmt.Sprintf("%08d%04d", n, r.rounds.Load()): []byte(benchBody)}}, hrpc.Durability(hrpc.FsyncWal))
			if err != nil {
				return err
			}
			_, err = raw.Put(put)
			return err
		},
		"sends": func(caller, n int) error {
			counted.on.Store(true)
			sends.Add(1)
			return r.send(caller, n)
		},
		"leased": func(caller, n int) error {
			counted.on.Store(false)
			r.strict.Store(false)
			return r.thread(caller, n)
		},
		"strict": r.strictly(r.thread),
	}, []string{"puts", "sends", "leased", "strict"}, "sends/puts", "strict/leased")
	b.ReportMetric(float64(counted.puts.Load())/float64(sends.Load()), "puts/send")
	b.ReportMetric(float64(counted.reads.Load())/float64(sends.Load()), "gets/send")
}

// counter is a store that counts its calls while it is on.
type counter struct {
	store.Store
	on          atomic.Bool
	puts, reads atomic.Int64
}

func (c *counter) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if c.on.Load() {
		c.puts.Add(1)
	}
	return c.Store.Put(ctx, user, cur, next, cells)
}

func (c *counter) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if c.on.Load() {
		c.reads.Add(1)
	}
	return c.Store.Read(ctx, user, spans...)
}

// BenchmarkCacheBound fills ten times as many mailboxes as the cache has room for, and
// reports the heap that the pool takes beside the cache's bound.
func BenchmarkCacheBound(b *testing.B) {
	const bound = 32 << 20
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for b.Loop() {
		s := openPebble(b)
		before := heap()
		pool, err := mailbox.New(mailbox.Config{Store: s, CacheBytes: bound})
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = pool.Run(ctx) })
		mailboxes := 0
		for filled := int64(0); filled < 10*bound; mailboxes++ {
			filled += benchFill(b, pool, fmt.Sprint("u", mailboxes))
		}
		b.ReportMetric(float64(heap()-before)/bound, "heap/bound")
		b.ReportMetric(float64(mailboxes), "mailboxes")
		stop()
		running.Wait()
	}
}

// benchFill has a user write fifty messages and returns about how much memory the
// mailbox takes.
func benchFill(b *testing.B, pool *mailbox.Pool, user string) int64 {
	b.Helper()
	self := action.Participant{User: action.User(user)}
	do := []action.Do{&action.ThreadCreated{Thread: "t", Folder: action.FolderInbox}}
	for i := range 50 {
		do = append(do, &action.MessageCreated{Message: action.Message{Thread: "t", ID: fmt.Sprint("m", i), Author: self, Channel: action.ChannelChat, Body: benchBody},
			Recipients: []action.Participant{self}})
	}
	_, err := pool.Mutate(b.Context(), self.User, mailbox.Mutation{Origin: action.OriginUser,
		Decide: func(index.View, uint64, action.Time) ([]action.Do, error) { return do, nil }})
	if err != nil {
		b.Fatal(err)
	}
	return int64(50 * (len(benchBody) + 512 + 1024)) // in the log, and made from it
}

// benchLegs lets legs take turns in some order, and reports each as calls a second, and
// ratios of two.
func benchLegs(b *testing.B, r *benchServer, legs map[string]func(caller, n int) error, order []string, ratios ...string) {
	b.Helper()
	total, ran := map[string]float64{}, map[string]float64{}
	for b.Loop() {
		for range 2 {
			r.rounds.Add(1)
			for _, leg := range order {
				total[leg] += perSecond(b, legs[leg])
				ran[leg]++
			}
		}
	}
	for leg := range total {
		total[leg] /= ran[leg]
		b.ReportMetric(total[leg], leg+"/s")
	}
	for _, ratio := range ratios {
		leg, beside, _ := strings.Cut(ratio, "/")
		b.ReportMetric(total[leg]/total[beside], ratio)
	}
}

// BenchmarkSend is sends alone, for profiles: what one costs of both sides' processor
// time, client and server being one process.
func BenchmarkSend(b *testing.B) {
	r := newBenchServer(b, openPebble(b))
	for b.Loop() {
		r.rounds.Add(1)
		before := processorTime(b)
		n := perSecond(b, r.send)
		b.ReportMetric(float64((processorTime(b)-before).Microseconds())/(n*benchLeg.Seconds()), "cpu-µs/send")
		b.ReportMetric(n, "sends/s")
	}
}

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
