package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	"darklaunch/bench/side"
	testhbase "darklaunch/internal/testenv/hbase"
)

const (
	benchCallers = 32
	benchLeg     = 3 * time.Second
	benchRounds  = 3
)

// benchBody is a message of the usual length.
var benchBody = strings.Repeat("a few words ", 16)

// recordResult writes a section of bench/RESULTS.md.
func recordResult(b *testing.B, name, title, where, text string) {
	b.Helper()
	text = fmt.Sprintf("## Application server: %s\n\n%s. `%s`\n\n%s", title, where, side.Command(), text)
	b.Log("\n" + text)
	if err := side.Record("../../bench/RESULTS.md", "appserver "+name, text); err != nil {
		b.Fatal(err)
	}
}

// A leg is one kind of call, made by all callers for a while.
type leg struct {
	name string
	call func(caller, n int) error
}

// run has callers make calls, and returns what one costs: µs of the machine, µs of this
// process's processor time, and calls of the store.
func (l leg) run(r *benchServer) (map[string]float64, error) {
	r.settle()
	r.rounds.Add(1)
	runtime.GC()
	puts, reads := r.store.puts.Load(), r.store.reads.Load()
	cpu, err := side.CPU(os.Getpid())
	if err != nil {
		return nil, err
	}
	var calls atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	begin := time.Now()
	for c := range benchCallers {
		wg.Go(func() {
			for n := 0; time.Since(begin) < benchLeg && failed.Load() == nil; n++ {
				if err := l.call(c, n); err != nil {
					failed.Store(&err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	took, n := time.Since(begin), float64(calls.Load())
	after, err := side.CPU(os.Getpid())
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"cost": float64(took.Microseconds()) / n, "rate": n / took.Seconds(), "cpu": float64((after - cpu).Microseconds()) / n,
		"puts": float64(r.store.puts.Load()-puts) / n, "reads": float64(r.store.reads.Load()-reads) / n,
	}, nil
}

// benchLegs lets legs take turns.
func benchLegs(b *testing.B, r *benchServer, legs ...leg) (*side.Results, string) {
	b.Helper()
	where := side.Machine()
	var variants []side.Variant
	for _, l := range legs {
		variants = append(variants, side.Variant{Name: l.name, Run: func() (map[string]float64, error) { return l.run(r) }})
	}
	results, err := side.Interleave(benchRounds, variants...)
	if err != nil {
		b.Fatal(err)
	}
	for _, l := range legs {
		b.ReportMetric(results.Median(l.name, "rate"), strings.ReplaceAll(l.name, " ", "-")+"/s")
	}
	return results, fmt.Sprintf("%s. One server, %d callers in the same process on the same cores; legs of %v in turns, medians of %d rounds, the ratio's least and greatest in brackets",
		where, benchCallers, benchLeg, benchRounds)
}

var costColumns = []side.Column{
	{Measure: "cost", Title: "µs a call, all callers together", Format: "%.1f"},
	{Measure: "rate", Title: "calls/s", Format: "%.0f"},
	{Measure: "cpu", Title: "CPU µs a call, both sides", Format: "%.1f"},
	{Measure: "puts", Title: "puts a call", Format: "%.2f"},
	{Measure: "reads", Title: "reads of the store a call", Format: "%.2f"},
}

// claims tells of bounds of costs.
func claims(r *side.Results, all ...side.Claim) (text string) {
	for _, c := range all {
		text += c.Text(r, "cost")
	}
	return text
}

// benchServer is one server, and callers who have a thread each.
type benchServer struct {
	messagesv1.MessagesClient
	store   *counter
	users   []context.Context
	threads []string
	rounds  atomic.Int64
	strict  atomic.Bool
}

func newBenchServer(b *testing.B, opened store.Store) *benchServer {
	b.Helper()
	r := &benchServer{store: &counter{Store: opened}, users: make([]context.Context, benchCallers), threads: make([]string, benchCallers)}
	reg := prometheus.NewRegistry()
	server, err := appserver.New(appserver.Config{Registerer: reg, Mailboxes: mailbox.Config{
		Store: store.Instrument(r.store, reg, nil), Strict: r.strict.Load, CacheBytes: 1 << 30}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	conn, stop := benchServe(b, server.Register, server.Options()...)
	b.Cleanup(func() {
		stop()
		cancel()
		running.Wait()
	})
	r.MessagesClient = messagesv1.NewMessagesClient(conn)
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

// settle waits until the server has written what lags: else what one leg has left to do
// is done in the next one's time.
func (r *benchServer) settle() {
	const flushed = 4 * time.Second // without a call; mailboxes flush after two, and look every second
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(50 * time.Millisecond) {
		if time.Since(time.Unix(0, r.store.last.Load())) > flushed {
			return
		}
	}
}

// benchServe serves gRPC on loopback until stop is called, to a plain connection.
func benchServe(b *testing.B, register func(*grpc.Server), options ...grpc.ServerOption) (conn *grpc.ClientConn, stop func()) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	g := grpc.NewServer(options...)
	register(g)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	if conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		b.Fatal(err)
	}
	return conn, func() { conn.Close(); g.Stop(); running.Wait() }
}

func (r *benchServer) counts(caller, _ int) error {
	_, err := r.UnreadCounts(r.users[caller], &messagesv1.UnreadCountsRequest{})
	return err
}

func (r *benchServer) thread(caller, _ int) error {
	_, err := r.GetThread(r.users[caller], &messagesv1.GetThreadRequest{ThreadId: r.threads[caller], PageSize: 1})
	return err
}

// reads has a call's reads be strict, or not.
func (r *benchServer) reads(strict bool, call func(caller, n int) error) func(caller, n int) error {
	return func(caller, n int) error {
		if n == 0 {
			r.strict.Store(strict)
		}
		return call(caller, n)
	}
}

func (r *benchServer) request(caller, n int) *messagesv1.SendRequest {
	return &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(r.rounds.Load(), "-", n), ThreadId: r.threads[caller], Body: benchBody}
}

func (r *benchServer) send(caller, n int) error {
	_, err := r.Send(r.users[caller], r.request(caller, n))
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

// bare is what gRPC itself and the disk cost: it takes the same requests as a server of
// Messages and gives answers of the same bytes, and keeps a body by a put of its own.
type bare struct {
	messagesv1.UnimplementedMessagesServer
	thread *messagesv1.GetThreadResponse
	db     *pebbledb.DB
	puts   atomic.Uint64
}

func (s *bare) GetThread(context.Context, *messagesv1.GetThreadRequest) (*messagesv1.GetThreadResponse, error) {
	return s.thread, nil
}

func (s *bare) Send(_ context.Context, r *messagesv1.SendRequest) (*messagesv1.SendResponse, error) {
	return &messagesv1.SendResponse{ThreadId: r.ThreadId, MessageId: r.ThreadId, Time: s.thread.Messages[0].Time}, s.put(r.Body)
}

// put keeps a body, synced.
func (s *bare) put(body string) error {
	return s.db.Set(fmt.Appendf(nil, "%016d", s.puts.Add(1)), []byte(body), pebbledb.Sync)
}

// BenchmarkAppserver has one server on Pebble beside what could be had at most: reads
// beside a bare echo of gRPC, sends beside the same bytes put into Pebble with Sync by
// as many callers; and both beside gRPC with the same bytes, which is their floor.
func BenchmarkAppserver(b *testing.B) {
	r := newBenchServer(b, openPebble(b))
	thread, err := r.GetThread(r.users[0], &messagesv1.GetThreadRequest{ThreadId: r.threads[0]})
	if err != nil {
		b.Fatal(err)
	}
	db, err := pebbledb.Open(b.TempDir(), &pebbledb.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	least := &bare{thread: thread, db: db}
	conn, stop := benchServe(b, func(g *grpc.Server) {
		healthpb.RegisterHealthServer(g, health.NewServer())
		messagesv1.RegisterMessagesServer(g, least)
	})
	defer stop()
	echo, floor := healthpb.NewHealthClient(conn), messagesv1.NewMessagesClient(conn)
	for b.Loop() {
		results, what := benchLegs(b, r,
			leg{"echo", func(int, int) error { _, err := echo.Check(b.Context(), &healthpb.HealthCheckRequest{}); return err }},
			leg{"echo of a thread", func(caller, _ int) error {
				_, err := floor.GetThread(r.users[caller], &messagesv1.GetThreadRequest{ThreadId: r.threads[caller], PageSize: 1})
				return err
			}},
			leg{"UnreadCounts", r.reads(false, r.counts)},
			leg{"GetThread", r.reads(false, r.thread)},
			leg{"GetThread, strict", r.reads(true, r.thread)})
		text := results.Table("echo", costColumns...) + "\n" + claims(results,
			side.Claim{Over: "UnreadCounts", Base: "echo", Limit: 2}, side.Claim{Over: "GetThread", Base: "echo", Limit: 2}, side.Claim{Over: "GetThread", Base: "echo of a thread", Limit: 2})
		recordResult(b, "reads", "warm reads on Pebble", what, text)
		results, what = benchLegs(b, r,
			leg{"Pebble", func(int, int) error { return least.put(benchBody) }},
			leg{"gRPC and Pebble", func(caller, n int) error { _, err := floor.Send(r.users[caller], r.request(caller, n)); return err }},
			leg{"Send", r.send})
		text = results.Table("Pebble", costColumns...) + "\n" + claims(results,
			side.Claim{Over: "gRPC and Pebble", Base: "Pebble", Limit: 2}, side.Claim{Over: "Send", Base: "Pebble", Limit: 2}, side.Claim{Over: "Send", Base: "gRPC and Pebble", Limit: 2})
		recordResult(b, "sends", "sends on Pebble", what, text)
	}
}

// BenchmarkAppserverOnHBase has one server on HBase, beside plain puts of gohbase by as
// many callers and with the same bytes; and what a call costs in calls of the store.
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
	r := newBenchServer(b, opened)
	raw := gohbase.NewClient(cfg.Quorum, gohbase.RpcQueueSize(1))
	defer raw.Close()
	for b.Loop() {
		results, what := benchLegs(b, r,
			leg{"gohbase", func(caller, n int) error {
				put, err := hrpc.NewPutStr(b.Context(), cfg.Table, string(store.RowKey(fmt.Sprint("raw", caller))), map[string]map[string][]byte{
					"a": {fmt.Sprintf("%08d%04d", n, r.rounds.Load()): []byte(benchBody)}}, hrpc.Durability(hrpc.FsyncWal))
				if err != nil {
					return err
				}
				_, err = raw.Put(put)
				return err
			}},
			leg{"Send", r.send},
			leg{"GetThread, leased", r.reads(false, r.thread)},
			leg{"GetThread, strict", r.reads(true, r.thread)})
		recordResult(b, "HBase", "on HBase", what, results.Table("gohbase", costColumns...)+"\nThe calls of gohbase's own leg, one put each, are not among those counted.\n\n"+
			claims(results, side.Claim{Over: "GetThread, leased", Base: "GetThread, strict", Limit: 1}))
	}
}

// counter is a store that counts its calls.
type counter struct {
	store.Store
	puts, reads atomic.Int64
	last        atomic.Int64 // when the last began, as of time.Time.UnixNano
}

func (c *counter) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	c.puts.Add(1)
	c.last.Store(time.Now().UnixNano())
	return c.Store.Put(ctx, user, cur, next, cells)
}

func (c *counter) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	c.reads.Add(1)
	c.last.Store(time.Now().UnixNano())
	return c.Store.Read(ctx, user, spans...)
}

// BenchmarkCall is one kind of call at a time, for profiles: client and server are one
// process.
func BenchmarkCall(b *testing.B) {
	for _, call := range []struct {
		name string
		call func(r *benchServer) func(caller, n int) error
	}{
		{"echo", func(r *benchServer) func(caller, n int) error {
			conn, stop := benchServe(b, func(g *grpc.Server) { healthpb.RegisterHealthServer(g, health.NewServer()) })
			b.Cleanup(stop)
			echo := healthpb.NewHealthClient(conn)
			return func(int, int) error {
				_, err := echo.Check(context.Background(), &healthpb.HealthCheckRequest{})
				return err
			}
		}},
		{"Send", func(r *benchServer) func(caller, n int) error { return r.send }},
		{"GetThread", func(r *benchServer) func(caller, n int) error { return r.thread }},
		{"UnreadCounts", func(r *benchServer) func(caller, n int) error { return r.counts }},
	} {
		b.Run(call.name, func(b *testing.B) {
			r := newBenchServer(b, openPebble(b))
			do := call.call(r)
			var callers atomic.Int64
			b.SetParallelism(benchCallers / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				caller := int(callers.Add(1)-1) % benchCallers
				for n := 0; pb.Next(); n++ {
					if err := do(caller, n); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// fill has a user write messages, some hundred a put.
func fill(b *testing.B, pool *mailbox.Pool, user action.User, n int, body func(i int) string) {
	b.Helper()
	const together = 500
	self := action.Participant{User: user}
	for from := 0; from < n; from += together {
		do := []action.Do{&action.ThreadCreated{Thread: fmt.Sprint("t", from), Folder: action.FolderInbox}}
		for i := from; i < min(n, from+together); i++ {
			do = append(do, &action.MessageCreated{Message: action.Message{Thread: fmt.Sprint("t", from), ID: fmt.Sprint("m", i), Author: self,
				Channel: action.ChannelChat, Time: action.Time(i), Body: body(i)}, Recipients: []action.Participant{self}})
		}
		_, err := pool.Mutate(b.Context(), user, mailbox.Mutation{Origin: action.OriginUser,
			Decide: func(index.View, uint64, action.Time) ([]action.Do, error) { return do, nil }})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// runPool runs a pool until it is stopped.
func runPool(b *testing.B, cfg mailbox.Config) (pool *mailbox.Pool, stop func()) {
	b.Helper()
	pool, err := mailbox.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = pool.Run(ctx) })
	return pool, func() { cancel(); running.Wait() }
}

// BenchmarkCacheBound fills ten times as many mailboxes as the cache has room for, and
// tells the heap that the pool takes beside the cache's bound.
func BenchmarkCacheBound(b *testing.B) {
	const bound = 32 << 20
	where := side.Machine()
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for b.Loop() {
		s := openPebble(b)
		before := heap()
		reg := prometheus.NewRegistry()
		pool, stop := runPool(b, mailbox.Config{Store: s, CacheBytes: bound, Registerer: reg})
		const messages = 50
		mailboxes := 0
		// What a message takes, in the log and in what is made from it.
		for filled := 0; filled < 10*bound; filled += messages * (len(benchBody) + 512 + 1024) {
			fill(b, pool, action.User(fmt.Sprint("u", mailboxes)), messages, func(int) string { return benchBody })
			mailboxes++
		}
		over := float64(heap()-before) / bound
		stop()
		b.ReportMetric(over, "heap/bound")
		recordResult(b, "memory", "memory", where, fmt.Sprintf("%d mailboxes of %d messages, about ten times what the cache of %d MiB has room for, on Pebble. "+
			"The heap is %.2f times the cache's bound larger than before, after a collection; claimed is 1.1.\n", mailboxes, messages, bound>>20, over))
	}
}

// BenchmarkSearch asks a mailbox of many messages for words, drawn as those of the
// messages are, by gRPC; and for each of some messages right after its acknowledgement.
func BenchmarkSearch(b *testing.B) {
	const messages, queries, sends, user = 100_000, 2000, 200, "u0"
	where := side.Machine()
	s := openPebble(b)
	pool, stop := runPool(b, mailbox.Config{Store: s, CacheBytes: 1 << 30})
	words := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 3, 50_000)
	fill(b, pool, user, messages, func(int) string {
		var body strings.Builder
		for range 20 {
			fmt.Fprintf(&body, "w%d ", words.Uint64())
		}
		return body.String()
	})
	stop()
	r := newBenchServer(b, s)
	search := func(query string) (*messagesv1.SearchResponse, time.Duration) {
		begin := time.Now()
		found, err := r.Search(r.users[0], &messagesv1.SearchRequest{Query: query})
		if err != nil {
			b.Fatal(err)
		}
		return found, time.Since(begin)
	}
	for b.Loop() {
		var took []time.Duration
		for range queries {
			_, d := search(fmt.Sprint("w", words.Uint64()))
			took = append(took, d)
		}
		slices.Sort(took)
		late := 0
		for i := range sends {
			word := fmt.Sprintf("news%dof%d", i, r.rounds.Add(1))
			if _, err := r.Send(r.users[0], &messagesv1.SendRequest{IdempotencyKey: word, ThreadId: r.threads[0], Body: word}); err != nil {
				b.Fatal(err)
			}
			if found, _ := search(word); len(found.Hits) != 1 {
				late++
			}
		}
		p50, p99 := took[len(took)/2].Seconds()*1e3, took[len(took)*99/100].Seconds()*1e3
		b.ReportMetric(p50, "p50-ms")
		recordResult(b, "search", "search", where, fmt.Sprintf("%d queries of one word each, drawn like the words of the messages, of a mailbox of %d messages in memory; by gRPC, one at a time. "+
			"p50 %.2f ms (claimed 5), p99 %.2f ms. Of %d messages %d were not found at once by a search that began after the acknowledgement (claimed 0).\n",
			queries, messages, p50, p99, sends, late))
	}
}

// BenchmarkCache has a generator's sessions, and its independent calls, at a server whose
// cache has room for a tenth of the users.
func BenchmarkCache(b *testing.B) {
	const users = 2000
	where := side.Machine()
	scenario := func(base string, rate int, more string) string {
		return writeScenario(b, fmt.Sprintf("apiVersion: load/v1\nextends: %s\npopulation: {users: %d}\n"+
			"arrivals: {curve: [{phase: settle, for: 10s, hold: %d/s}, {phase: measure, for: 20s, hold: %d/s}]}\n%s", base, users, rate, rate, more))
	}
	for b.Loop() {
		// As large a share of the users are there at a time as in the scenario, for less long.
		chat := scenario("messages-chat", 20, "session: {think: {lognormal: {median: 150ms, sigma: 1, max: 2s}}}\n")
		all := runAgainst(b, chat, "1GiB") // how much a mailbox takes
		tenth := fmt.Sprint(int64(all.metrics[`cache_size_bytes{cache="mailbox"}`]/all.metrics[`mailbox_loads_total{result="claimed"}`]*users/10), "B")
		sessions, robot := runAgainst(b, chat, tenth), runAgainst(b, scenario("robot", 200, ""), tenth)
		b.ReportMetric(100*sessions.hitRate, "hit-%")
		b.ReportMetric(100*robot.hitRate, "robot-hit-%")
		text := fmt.Sprintf("%d users, a cache for a tenth of their mailboxes (%s), on Pebble. First uses of a mailbox are no look-ups in this.\n\n| | look-ups that found the mailbox in memory | calls | evictions |\n|---|---:|---:|---:|\n", users, tenth)
		for _, l := range []struct {
			name string
			loaded
		}{{"sessions of messages-chat", sessions}, {"robot: independent calls", robot}} {
			text += fmt.Sprintf("| %s | %.1f %% | %d | %.0f |\n", l.name, 100*l.hitRate, l.result.OK, l.metrics[`cache_evictions_total{cache="mailbox",reason="size"}`])
		}
		recordResult(b, "cache", "cache", where, text+"\nClaimed of sessions: 93 %.\n")
	}
}
