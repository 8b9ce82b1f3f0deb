package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/client"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/ring"
	"darklaunch/internal/testenv"
)

// cellSession is the sessions' timeout in these tests, and cellTick that of signs of life.
const (
	cellSession = 4 * time.Second
	cellTick    = 500 * time.Millisecond
)

// TestCellOnRows and TestCellOnZooKeeper run a cell of two servers as processes.
func TestCellOnRows(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: sessions have to expire")
	}
	_, rows, _ := startStore(t, "127.0.0.1:0", t.TempDir(), "--session", cellSession.String())
	testCell(t, rows, "rows:"+rows)
}

func TestCellOnZooKeeper(t *testing.T) {
	zk := testenv.ZooKeeper(t)
	_, rows, _ := startStore(t, "127.0.0.1:0", t.TempDir())
	testCell(t, rows, fmt.Sprintf("zk:%s/cell-%d", zk.Addr, time.Now().UnixNano()))
}

// cellServer is a server of a cell.
type cellServer struct {
	*running
	metrics  string // address
	messages messagesv1.MessagesClient
}

func startCellServer(t *testing.T, name, rows, coordinator string) *cellServer {
	t.Helper()
	s := &cellServer{running: start(t, "appserver", "serve", "--cell", "one", "--name", name, "--listen", "127.0.0.1:0", "--store", "rows:"+rows,
		"--coordinator", coordinator, "--session", cellSession.String(), "--metrics", "127.0.0.1:0", "--drain-timeout", "1m")}
	s.metrics = s.ready("metrics")
	conn, err := grpc.NewClient("passthrough:///"+s.ready("grpc"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.messages = messagesv1.NewMessagesClient(conn)
	return s
}

// newCellUsers returns users of servers that are a cell, each with a first message.
func newCellUsers(t *testing.T, n int, servers ...*cellServer) *cellUsers {
	t.Helper()
	c := &cellUsers{t: t, servers: servers, threads: make([]string, n), at: make([]int, n), sent: make([]int, n), refused: make([]int, n), worst: make([]time.Duration, n)}
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("user-%d", i))
	}
	for _, s := range servers {
		s.awaitMembers(len(servers))
	}
	c.each(c.send)
	return c
}

// TestZooKeeperDown has ZooKeeper hang, and then end, for longer than a session: the
// servers say so and go on with the members that they know, without a single refusal.
func TestZooKeeperDown(t *testing.T) {
	zk := testenv.ZooKeeper(t)
	_, rows, _ := startStore(t, "127.0.0.1:0", t.TempDir())
	coordinator := fmt.Sprintf("zk:%s/down-%d", zk.Addr, time.Now().UnixNano())
	if code, _, stderr := start(t, "appserver", "init", "--coordinator", coordinator).end(); code != 0 {
		t.Fatal(stderr)
	}
	a, b := startCellServer(t, "a", rows, coordinator), startCellServer(t, "b", rows, coordinator)
	c := newCellUsers(t, 8, a, b)
	for what, outage := range map[string]struct{ begin, end func() }{
		"hangs": {zk.Stop, zk.Continue},
		"ends":  {zk.Kill, zk.Restart},
	} {
		for _, s := range c.servers {
			s.awaitMembers(2)
		}
		c.each(c.send)
		clear(c.refused)
		outage.begin()
		for _, s := range c.servers {
			waitFor(t, "a server that is not ready while ZooKeeper "+what, func() bool {
				code, body := s.get("/readyz")
				return code == http.StatusServiceUnavailable && strings.Contains(body, "cell one")
			})
		}
		for range 5 {
			c.each(c.send)
		}
		c.check()
		for i, n := range c.refused {
			if n > 0 {
				t.Errorf("while ZooKeeper %s %s was refused %d times", what, c.names[i], n)
			}
		}
		outage.end()
	}
	for _, s := range c.servers {
		s.awaitMembers(2)
	}
	c.each(c.send)
	c.check()
}

// TestLeasedReads: a leased read asks the store while the server is not trusted, and in
// the share that the live configuration says.
func TestLeasedReads(t *testing.T) {
	registry, err := cell.NewRegistry(cell.RegistryConfig{Timeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	members, err := cell.New(registry, cell.Options{Name: "one", Member: &ring.Member{Name: "a", Addr: "h:1"}})
	if err != nil {
		t.Fatal(err)
	}
	leased := (&serveCommand{reads: "leased"}).owned(members, mailbox.Config{}).Strict
	strict := (&serveCommand{reads: "strict"}).owned(members, mailbox.Config{}).Strict
	if !leased() || !strict() {
		t.Error("a server that is not in the ring yet does not ask the store")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = members.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	waitFor(t, "membership", func() bool { return members.Ready() == nil })
	if leased() || !strict() {
		t.Errorf("a member's reads ask the store: leased %v, strict %v", leased(), strict())
	}
	if err := registry.SetConfig([]byte(`{"strict_reads":0.5}`)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the configuration", func() bool { return members.View().Config.StrictReads > 0 })
	asked := 0
	for range 1000 {
		if leased() {
			asked++
		}
	}
	if asked < 300 || asked > 700 {
		t.Errorf("%d of 1000 reads ask the store, want half", asked)
	}
}

func (s *cellServer) get(path string) (code int, body string) {
	resp, err := http.Get("http://" + s.metrics + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

func (s *cellServer) awaitMembers(n int) {
	s.t.Helper()
	waitFor(s.t, fmt.Sprintf("%d members", n), func() bool {
		code, _ := s.get("/readyz")
		_, metrics := s.get("/metrics")
		return code == http.StatusOK && strings.Contains(metrics, fmt.Sprintf(`ring_members{cell="one"} %d`, n))
	})
}

// cellUsers write to themselves by whichever server takes it.
type cellUsers struct {
	t       *testing.T
	names   []string
	servers []*cellServer

	threads []string
	at      []int // the server that served a user last
	sent    []int // messages acknowledged
	refused []int // answers that were to be repeated elsewhere
	worst   []time.Duration
}

// unforwarded is a context of calls that are served by the server asked, or refused.
func unforwarded(ctx context.Context, user string) context.Context {
	return metadata.AppendToOutgoingContext(client.As(ctx, user), "x-forwarded-by", "a test")
}

// send sends the next message of a user, at the other server where one does not serve
// it, and notes how long that took.
func (c *cellUsers) send(i int) {
	r := &messagesv1.SendRequest{IdempotencyKey: strconv.Itoa(c.sent[i]), ThreadId: c.threads[i], Body: "hello"}
	if c.threads[i] == "" {
		r.Recipients = named(c.names[i])
	}
	for begin := time.Now(); ; {
		ctx, cancel := context.WithTimeout(unforwarded(context.Background(), c.names[i]), 10*time.Second)
		sent, err := c.servers[c.at[i]].messages.Send(ctx, r)
		cancel()
		switch status.Code(err) {
		case codes.OK:
			c.threads[i] = sent.ThreadId
			c.sent[i]++
			c.worst[i] = max(c.worst[i], time.Since(begin))
			return
		case codes.Unavailable, codes.FailedPrecondition:
			c.refused[i]++
			c.at[i] = (c.at[i] + 1) % len(c.servers)
			time.Sleep(5 * time.Millisecond) // as clients do
		default:
			c.t.Errorf("send of %s at server %d: %v", c.names[i], c.at[i], err)
			return
		}
		if time.Since(begin) > time.Minute {
			c.t.Errorf("%s is not served: %v", c.names[i], err)
			return
		}
	}
}

// each calls f for each user at once.
func (c *cellUsers) each(f func(i int)) {
	var wg sync.WaitGroup
	for i := range c.names {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

// during has users write without a pause while f runs, and returns how long each of
// them waited at most.
func (c *cellUsers) during(f func()) []time.Duration {
	clear(c.worst)
	clear(c.refused)
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		c.each(func(i int) {
			for !over.Load() && !c.t.Failed() {
				c.send(i)
				time.Sleep(2 * time.Millisecond)
			}
		})
	})
	f()
	over.Store(true)
	wg.Wait()
	c.each(c.send)
	return slices.Clone(c.worst)
}

// check reads each user's messages at the server that serves it: all that were
// acknowledged, each once.
func (c *cellUsers) check() {
	c.t.Helper()
	c.each(func(i int) {
		ids := map[string]bool{}
		r := &messagesv1.GetThreadRequest{ThreadId: c.threads[i], PageSize: 100}
		for n := 0; ; n++ {
			a, err := c.servers[c.at[i]].messages.GetThread(unforwarded(c.t.Context(), c.names[i]), r)
			if err != nil {
				c.t.Errorf("read of %s: %v", c.names[i], err)
				return
			}
			for _, m := range a.Messages {
				if ids[m.MessageId] {
					c.t.Errorf("%s has message %s twice", c.names[i], m.MessageId)
				}
				ids[m.MessageId] = true
			}
			if r.PageToken = a.NextPageToken; r.PageToken == "" {
				break
			}
		}
		if len(ids) != c.sent[i] {
			c.t.Errorf("%s has %d messages, %d were acknowledged", c.names[i], len(ids), c.sent[i])
		}
	})
}

func (c *cellUsers) servedBy(server int) (users []int) {
	for i, at := range c.at {
		if at == server {
			users = append(users, i)
		}
	}
	return users
}

// testCell has one of two servers stop in order, be killed, and be paused for longer
// than its session, while users write.
func testCell(t *testing.T, rows, coordinator string) {
	begin := start(t, "appserver", "init", "--store", "rows:"+rows, "--coordinator", coordinator)
	if code, stdout, stderr := begin.end(); code != 0 || !strings.Contains(stdout, "cell one at "+coordinator) {
		t.Fatalf("init ends with %d: %s%s", code, stdout, stderr)
	}
	const n = 32
	c := newCellUsers(t, n, startCellServer(t, "a", rows, coordinator), startCellServer(t, "b", rows, coordinator))
	if a, b := len(c.servedBy(0)), len(c.servedBy(1)); a < n/5 || b < n/5 {
		t.Errorf("%d and %d of %d users are served by the two servers", a, b, n)
	}
	again := func() { // a comes back under its name, and to its users
		c.servers[0] = startCellServer(t, "a", rows, coordinator)
		c.servers[0].awaitMembers(2)
		c.servers[1].awaitMembers(2)
		c.each(c.send)
	}

	// In order: whoever tries again elsewhere sees no error and little of a pause.
	moving := c.servedBy(0)
	before := slices.Clone(c.at)
	pauses := c.during(func() {
		c.servers[0].signal(syscall.SIGTERM)
		if code, _, stderr := c.servers[0].end(); code != 0 || !strings.Contains(stderr, "mailboxes handed over") {
			t.Errorf("on SIGTERM a server ended with %d: %s", code, stderr)
		}
		c.servers[1].awaitMembers(1)
	})
	reportPauses(t, "handed over", pauses, moving)
	c.check()
	for i := range n {
		if before[i] == 1 && c.refused[i] > 0 {
			t.Errorf("%s was refused though its server stayed", c.names[i])
		}
	}
	again()

	// Killed: the session's end, two ticks and half a second, and what a busy machine adds.
	moving = c.servedBy(0)
	before = slices.Clone(c.at)
	pauses = c.during(func() {
		c.servers[0].signal(syscall.SIGKILL)
		c.servers[1].awaitMembers(1)
	})
	bound := cellSession + 2*cellTick + 500*time.Millisecond
	if worst := reportPauses(t, fmt.Sprintf("killed, bound %v", bound), pauses, moving); worst > 5*bound {
		t.Errorf("after a kill users wait for up to %v, want some %v", worst, bound)
	}
	for i := range n {
		if before[i] == 1 && c.refused[i] > 0 {
			t.Errorf("%s was refused though its server stayed", c.names[i])
		}
	}
	_, _, _ = c.servers[0].end()
	c.check()
	again()

	// Paused for longer than its session: the other serves, and what the first has in
	// memory is worth nothing when it goes on.
	c.servers[0].pause()
	c.servers[1].awaitMembers(1)
	c.at = slices.Repeat([]int{1}, n) // who asked the paused one would wait for it
	c.each(c.send)
	c.servers[0].signal(syscall.SIGCONT)
	for i := range c.at {
		c.at[i] = 0
	}
	c.each(c.send)
	for _, s := range c.servers {
		s.awaitMembers(2)
	}
	c.each(c.send)
	c.check()
	if !strings.Contains(c.servers[0].stderr(), "cell is not well") {
		t.Errorf("the paused server has not noticed: %s", c.servers[0].stderr())
	}

	// The live configuration, taken without a restart.
	live := filepath.Join(t.TempDir(), "live.json")
	if err := os.WriteFile(live, []byte(`{"strict_reads": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := start(t, "appserver", "init", "--coordinator", coordinator, "--live", live).end(); code != 0 {
		t.Errorf("init --live ended with %d: %s", code, stderr)
	}
	for _, s := range c.servers {
		waitFor(t, "the live configuration", func() bool {
			_, metrics := s.get("/metrics")
			return strings.Contains(metrics, `ring_changes_total{cell="one",type="config"} 1`)
		})
	}
	for i, s := range c.servers {
		s.signal(syscall.SIGTERM)
		if code, _, stderr := s.end(); code != 0 {
			t.Errorf("server %d ended with %d: %s", i, code, stderr)
		}
	}
}

// reportPauses logs the pauses of users who moved, and returns the longest.
func reportPauses(t *testing.T, what string, pauses []time.Duration, users []int) time.Duration {
	t.Helper()
	var of []time.Duration
	for _, i := range users {
		of = append(of, pauses[i])
	}
	slices.Sort(of)
	if len(of) == 0 {
		t.Fatal("nobody moved")
	}
	t.Logf("%s: %d users waited for %v in the middle, %v at most", what, len(of), of[len(of)/2], of[len(of)-1])
	return of[len(of)-1]
}
