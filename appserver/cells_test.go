package appserver

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/ring"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/internal/faultnet"
)

// world is cells of servers on loopback, under one directory. Servers reach each other
// by proxies, which are their addresses but in benchmarks.
type world struct {
	t     testing.TB
	names *memstore.Store // the directory's
	down  atomic.Bool     // it is
	asked atomic.Int64    // how often it was while it was
	cells map[string]*testCell
}

type testCell struct {
	name    string
	store   *memstore.Store
	servers []*testServer
	changed atomic.Pointer[chan struct{}]
}

type testServer struct {
	cell   *testCell
	addr   string // of its proxy
	proxy  *faultnet.Proxy
	view   atomic.Pointer[cell.View]
	reg    *prometheus.Registry
	router *client.Router
	conn   *client.Client // for callers, past the proxy
	raw    *grpc.ClientConn
	server *Server
}

// newWorld starts cells with so many servers each.
func newWorld(t testing.TB, servers map[string]int) *world {
	t.Helper()
	w := &world{t: t, cells: map[string]*testCell{}}
	w.names = &memstore.Store{Faults: func(memstore.Op, string) memstore.Fault {
		if w.down.Load() {
			w.asked.Add(1)
		}
		return memstore.Fault{Before: w.down.Load()}
	}}
	var cells []directory.Cell
	for name, n := range servers {
		c := &testCell{name: name, store: &memstore.Store{}}
		changed := make(chan struct{})
		c.changed.Store(&changed)
		w.cells[name] = c
		entry := directory.Cell{Name: name}
		var listeners []net.Listener
		for range n {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			proxy, err := faultnet.Listen(l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = proxy.Close() })
			addr := proxy.Addr()
			if _, measured := t.(*testing.B); measured {
				addr = l.Addr().String()
			}
			c.servers = append(c.servers, &testServer{cell: c, addr: addr, proxy: proxy, reg: prometheus.NewRegistry()})
			entry.Servers = append(entry.Servers, addr)
			listeners = append(listeners, l)
		}
		c.see(t, 1, c.servers...)
		cells = append(cells, entry)
		for i, s := range c.servers {
			defer w.start(s, listeners[i]) // once the directory has its cells
		}
	}
	if err := w.directory().Edit(t.Context(), func([]directory.Cell) ([]directory.Cell, error) { return cells, nil }); err != nil {
		t.Fatal(err)
	}
	return w
}

// see gives all of the cell's servers a view of members.
func (c *testCell) see(t testing.TB, number uint64, members ...*testServer) {
	t.Helper()
	for _, s := range c.servers {
		s.see(t, number, members...)
	}
	next := make(chan struct{})
	close(*c.changed.Swap(&next))
}

func (s *testServer) see(t testing.TB, number uint64, members ...*testServer) {
	t.Helper()
	var all []ring.Member
	for _, m := range members {
		all = append(all, ring.Member{Name: m.addr, Addr: m.addr})
	}
	r, err := ring.New(all)
	if err != nil {
		t.Fatal(err)
	}
	s.view.Store(&cell.View{Ring: r, At: store.Ring{Incarnation: 1, Number: number}, Trusted: true})
}

// directory is one process's.
func (w *world) directory() *directory.Directory {
	return directory.New(directory.Rows(w.names, 10*time.Millisecond), directory.Config{})
}

func (w *world) start(s *testServer, l net.Listener) {
	w.t.Helper()
	d := w.directory()
	view := func() cell.View { return *s.view.Load() }
	s.router = client.NewRouter(client.RouterConfig{Directory: d, Cell: s.cell.name, Self: s.addr, View: view, Registerer: s.reg})
	server, err := New(Config{
		Name: s.addr, Cell: s.cell.name, Directory: d, Router: s.router, Registerer: s.reg, TrustedIDs: true,
		Changed: func() <-chan struct{} { return *s.cell.changed.Load() },
		Mailboxes: mailbox.Config{Store: s.cell.store, Strict: func() bool { return true }, FlushAfter: 200 * time.Millisecond,
			View: func() store.Ring { return view().At },
			Mine: func(u action.User) bool {
				m, ok := view().Ring.Owner(string(u))
				return ok && m.Addr == s.addr
			},
			Moved: func() <-chan struct{} { return *s.cell.changed.Load() }},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	s.server = server
	g := grpc.NewServer(server.Options()...)
	server.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	running.Go(func() { _ = g.Serve(l) })
	if s.conn, err = client.New(l.Addr().String(), client.Config{Timeout: time.Minute}); err != nil {
		w.t.Fatal(err)
	}
	if s.raw, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		s.conn.Close()
		s.raw.Close()
		server.EndStreams()
		cancel() // deliveries end
		g.Stop()
		running.Wait()
		s.router.Close()
	})
}

// in returns users of a cell, as the directory places them.
func (w *world) in(name string, n int) []string {
	w.t.Helper()
	d := w.directory()
	var users []string
	for i := 0; len(users) < n; i++ {
		u := fmt.Sprintf("user%d", i)
		p, err := d.Lookup(w.t.Context(), u)
		if err != nil {
			w.t.Fatal(err)
		}
		if p.Cell == name {
			users = append(users, u)
		}
	}
	return users
}

// owned returns a user of a server by its ring.
func (w *world) owned(s *testServer) string {
	for _, u := range w.in(s.cell.name, 100) {
		if m, _ := s.view.Load().Ring.Owner(u); m.Addr == s.addr {
			return u
		}
	}
	w.t.Fatal("a server owns none of 100 users")
	return ""
}

func (w *world) as(user string) context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	w.t.Cleanup(cancel)
	return client.As(ctx, user)
}

func (s *testServer) count(t *testing.T, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == name })
	for _, m := range families[i].GetMetric() {
		if len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() == label {
			return m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()) + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("%s has no %q", name, label)
	return 0
}

func note(key, body string) *messagesv1.SendRequest {
	return &messagesv1.SendRequest{IdempotencyKey: key, Body: body}
}

func to(r *messagesv1.SendRequest, names ...string) *messagesv1.SendRequest {
	r.Recipients = users(names...)
	return r
}

// TestForwarding: any server takes any call, and the one that serves the user answers
// it; what was forwarded once is served or refused. Rows D45, D46, D49, D52, B15.
func TestForwarding(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2, "b": 1})
	one, two, far := w.cells["a"].servers[0], w.cells["a"].servers[1], w.cells["b"].servers[0]
	user := w.owned(two)
	for i, s := range []*testServer{one, two, far} {
		var header metadata.MD
		if _, err := s.conn.Send(w.as(user), to(note(fmt.Sprint(i), "hello"), user), grpc.Header(&header)); err != nil {
			t.Fatal(err)
		}
		if by := header.Get("x-served-by"); len(by) != 1 || by[0] != two.addr {
			t.Errorf("asked of %s: served by %v, want %s", s.addr, by, two.addr)
		}
	}
	if got := one.count(t, "appserver_forwarded_total", "ok"); got != 1 {
		t.Errorf("one: forwarded %v, want 1", got)
	}
	if got := one.count(t, "appserver_forward_seconds", ""); got != 1 {
		t.Errorf("one: %v times of forwarding, want 1", got)
	}
	if got := two.count(t, "appserver_forwarded_total", "ok"); got != 0 {
		t.Errorf("the owner: forwarded %v, want 0", got)
	}
	// A cell whose ring is not known here says who the owner is, or is it at once.
	if ok, redirected := far.count(t, "appserver_forwarded_total", "ok"), far.count(t, "appserver_forwarded_total", "not_owner"); ok != 1 || redirected > 1 {
		t.Errorf("the other cell: forwarded %v, redirected %v", ok, redirected)
	}
	list, err := far.conn.ListThreads(w.as(user), &messagesv1.ListThreadsRequest{})
	if err != nil || len(list.Threads) != 3 {
		t.Errorf("read by another cell: got %v, %v, want 3 threads", list, err)
	}
	// What a user may not do is refused by the server that serves the user, as if asked.
	_, err = one.conn.GetThread(w.as(user), &messagesv1.GetThreadRequest{ThreadId: "t-none"})
	wantCode(t, "a thread that is not there", err, codes.NotFound)

	// Marked as forwarded it is served by the owner alone.
	marked := metadata.AppendToOutgoingContext(w.as(user), "x-forwarded-by", "somebody")
	raw := messagesv1.NewMessagesClient(one.raw)
	_, err = raw.ListThreads(marked, &messagesv1.ListThreadsRequest{})
	wantCode(t, "forwarded to who is not the owner", err, codes.FailedPrecondition)
	want := &messagesv1.NotOwner{Cell: "a", Server: two.addr, Address: two.addr, RingIncarnation: 1, RingNumber: 1}
	if diff := cmp.Diff([]any{want}, status.Convert(err).Details(), protocmp.Transform()); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
	_, err = messagesv1.NewMessagesClient(far.raw).ListThreads(metadata.AppendToOutgoingContext(w.as("user-of-nobody-"+user), "x-forwarded-by", "x"), &messagesv1.ListThreadsRequest{})
	if c := status.Code(err); c != codes.OK && c != codes.FailedPrecondition {
		t.Errorf("a new user: got %v", err)
	}
	_, err = messagesv1.NewMessagesClient(far.raw).ListThreads(metadata.AppendToOutgoingContext(w.as(w.in("a", 30)[29]), "x-forwarded-by", "x"), &messagesv1.ListThreadsRequest{})
	wantCode(t, "forwarded to a cell that is not the user's", err, codes.FailedPrecondition)
	if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*messagesv1.WrongCell).GetCell() != "a" {
		t.Errorf("details: got %v, want WrongCell of a", d)
	}
	if two.count(t, "appserver_forwarded_total", "ok")+two.count(t, "appserver_forwarded_total", "not_owner") != 0 {
		t.Error("the owner has forwarded something")
	}
}

// TestForwardedWatch: a stream comes from the owner by any server, of any cell.
func TestForwardedWatch(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2, "b": 1})
	two, far := w.cells["a"].servers[1], w.cells["b"].servers[0]
	user := w.owned(two)
	for i, s := range []*testServer{w.cells["a"].servers[0], two, far} {
		stream, err := s.conn.Watch(w.as(user), &messagesv1.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if first, err := stream.Recv(); err != nil || first.GetStarted() == nil {
			t.Fatalf("got %v, %v, want the start", first, err)
		}
		if header, err := stream.Header(); err != nil || fmt.Sprint(header.Get("x-served-by")) != "["+two.addr+"]" {
			t.Errorf("served by %v, %v, want %s", header.Get("x-served-by"), err, two.addr)
		}
		if _, err := two.conn.Send(w.as(user), to(note(fmt.Sprint("w", i), "seen"), user)); err != nil {
			t.Fatal(err)
		}
		for {
			event, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if event.GetMessage() != nil {
				break
			}
		}
	}
}

// TestViewsDiffer: servers that see different members send calls to and fro until they
// agree; nothing is done twice, no row is fought for, and a call whose time is up before
// is UNAVAILABLE. Row D4 of the invariants.
func TestViewsDiffer(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2})
	c := w.cells["a"]
	one, two := c.servers[0], c.servers[1]
	user := w.owned(two)
	if _, err := one.conn.Send(w.as(user), to(note("0", "first"), user)); err != nil {
		t.Fatal(err)
	}
	before, err := c.store.Read(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	one.see(t, 1, one, two)
	two.see(t, 2, one) // two has heard that it is out, one has not
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = messagesv1.NewMessagesClient(one.raw).Send(client.As(short, user), to(note("1", "second"), user))
	if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
		t.Errorf("while they differ: got %v, want %v", err, codes.Unavailable)
	}
	if n := one.count(t, "appserver_forwarded_total", "not_owner"); n < 2 {
		t.Errorf("refused %v times, want several", n)
	}
	after, err := c.store.Read(t.Context(), user)
	if err != nil || after.Fence.Epoch-before.Fence.Epoch > 3 {
		t.Errorf("the row went from epoch %d to %d, %v: it was fought for", before.Fence.Epoch, after.Fence.Epoch, err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := one.conn.Send(w.as(user), to(note("1", "second"), user))
		done <- err
	}()
	c.see(t, 2, one)
	if err := <-done; err != nil {
		t.Errorf("once they agree: %v", err)
	}
	stats, err := two.conn.MailboxStats(w.as(user), &messagesv1.MailboxStatsRequest{})
	if err != nil || stats.Messages != 2 {
		t.Errorf("got %v, %v, want 2 messages", stats, err)
	}
	// An older view does not take the row back.
	two.see(t, 1, two)
	marked, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(client.As(t.Context(), user), "x-forwarded-by", "x"), 30*time.Second)
	defer cancel()
	_, err = messagesv1.NewMessagesClient(two.raw).ListThreads(marked, &messagesv1.ListThreadsRequest{})
	wantCode(t, "a claim by an older ring", err, codes.FailedPrecondition)
}

// TestOwnerGone: a server that vanishes in the middle of calls costs none of them: they
// are made again at who has its users then. Rows B15, D41; invariant A2, A3.
func TestOwnerGone(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 3})
	c := w.cells["a"]
	gone := c.servers[2]
	user := w.owned(gone)
	gone.proxy.Set(faultnet.ToClient, faultnet.Faults{Stall: true}) // it does what it is told, and nobody hears
	done := make(chan error, 8)
	for i := range cap(done) {
		go func() {
			_, err := c.servers[i%2].conn.Send(w.as(user), to(note(fmt.Sprint(i), fmt.Sprint("body ", i)), user))
			done <- err
		}()
	}
	wait, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := gone.proxy.Await(wait, faultnet.Stalled, 1); err != nil {
		t.Fatal(err)
	}
	c.see(t, 2, c.servers[:2]...)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Errorf("a call to a server that has gone: %v", err)
		}
	}
	stats, err := c.servers[0].conn.MailboxStats(w.as(user), &messagesv1.MailboxStatsRequest{})
	if err != nil || stats.Messages != int32(cap(done)) {
		t.Errorf("got %v, %v, want %d messages", stats, err, cap(done))
	}
}

// copies returns what users have of a thread: members and bodies, in the order of each
// copy's log.
func (w *world) copies(s *testServer, thread string, users ...string) []string {
	w.t.Helper()
	var all []string
	for _, u := range users {
		got, err := s.conn.GetThread(w.as(u), &messagesv1.GetThreadRequest{ThreadId: thread, PageSize: 100})
		if status.Code(err) == codes.NotFound {
			all = append(all, "none")
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		var members, bodies []string
		for _, m := range got.Thread.Members {
			members = append(members, m.Participant.GetUser()+m.Participant.GetEmail())
		}
		slices.Sort(members)
		slices.SortFunc(got.Messages, func(a, b *messagesv1.Message) int { return int(a.Sequence) - int(b.Sequence) })
		for _, m := range got.Messages {
			bodies = append(bodies, m.Body)
		}
		all = append(all, fmt.Sprintf("%s %v: %s", got.Thread.ReplyHandler, members, strings.Join(bodies, ",")))
	}
	return all
}

func (w *world) agree(s *testServer, thread, want string, users ...string) {
	w.t.Helper()
	var got []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = w.copies(s, thread, users...)
		if !slices.ContainsFunc(got, func(c string) bool { return c != got[0] || !strings.HasSuffix(c, want) }) {
			return
		}
	}
	w.t.Fatalf("copies do not agree on %q within a minute:\n%s", want, strings.Join(got, "\n"))
}

// TestGroupAcrossCells: a thread's copies in several cells hear of messages and members,
// in order, and agree; an address among the members gives it a reply handler. Rows D47,
// J137-J144.
func TestGroupAcrossCells(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2, "b": 2})
	as, bs := w.in("a", 2), w.in("b", 2)
	s := w.cells["a"].servers[0]
	sent, err := s.conn.Send(w.as(as[0]), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users(bs[0]), Body: "one", Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	w.agree(s, sent.ThreadId, "one", as[0], bs[0])
	// The recipient, in another cell, adds somebody of each, and an address.
	if _, err := s.conn.Subscribe(w.as(bs[0]), &messagesv1.SubscribeRequest{IdempotencyKey: "2", ThreadId: sent.ThreadId, Members: users(as[1], bs[1], "x@example.org")}); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		// Whoever writes sees what was written before: the order is one for all.
		if _, err := s.conn.Send(w.as(bs[0]), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint("m", i), ThreadId: sent.ThreadId, Body: fmt.Sprint("m", i), Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint("m", i))
	}
	w.agree(s, sent.ThreadId, "one,"+strings.Join(want, ","), as[0], bs[0])
	w.agree(s, sent.ThreadId, "]: "+strings.Join(want, ","), as[1], bs[1]) // from the join on
	got := w.copies(s, sent.ThreadId, as[0])[0]
	if !strings.HasPrefix(got, "r-") || !strings.Contains(got, "x@example.org") {
		t.Errorf("got %q, want a reply handler and the address", got)
	}
	if _, err := s.conn.Unsubscribe(w.as(bs[1]), &messagesv1.UnsubscribeRequest{IdempotencyKey: "3", ThreadId: sent.ThreadId}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); strings.Contains(strings.Join(w.copies(s, sent.ThreadId, as[0], as[1], bs[0]), ""), bs[1]+" "); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("who has left is a member of somebody's copy after a minute")
		}
	}
	if _, err := s.conn.Send(w.as(as[1]), &messagesv1.SendRequest{IdempotencyKey: "4", ThreadId: sent.ThreadId, Body: "gone?", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
		t.Fatal(err)
	}
	w.agree(s, sent.ThreadId, ",m19,gone?", as[0], bs[0])
	if c := w.copies(s, sent.ThreadId, bs[1])[0]; strings.Contains(c, "gone?") {
		t.Errorf("who has left got %q", c)
	}
}

// TestCellDown: while a cell is out of reach, its users' copies wait and the other
// cell's are served; when it is back all copies agree, each message once and in order.
// Rows C31, J143, J144; invariants A8, C1.
func TestCellDown(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 2, "b": 2})
	as, bs := w.in("a", 2), w.in("b", 2)
	s := w.cells["a"].servers[0]
	sent, err := s.conn.Send(w.as(as[0]), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users(as[1], bs[0], bs[1]), Body: "0", Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range w.cells["b"].servers {
		if err := b.proxy.SetDoor(faultnet.ResetNew); err != nil {
			t.Fatal(err)
		}
		b.proxy.Cut()
	}
	want := []string{"0"}
	for i := 1; i <= 10; i++ {
		want = append(want, fmt.Sprint(i))
		if _, err := s.conn.Send(w.as(as[0]), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint("m", i), ThreadId: sent.ThreadId, Body: fmt.Sprint(i)}); err != nil {
			t.Fatalf("a user of a cell that is up: %v", err)
		}
	}
	w.agree(s, sent.ThreadId, strings.Join(want, ","), as...)
	// To wait for who cannot be reached ends with an answer that says what is not known.
	short, cancel := context.WithTimeout(client.As(t.Context(), as[0]), 500*time.Millisecond)
	defer cancel()
	_, err = messagesv1.NewMessagesClient(s.raw).Send(short, &messagesv1.SendRequest{IdempotencyKey: "m10", ThreadId: sent.ThreadId, Body: "10", Wait: messagesv1.Wait_WAIT_DELIVERED})
	wantCode(t, "waiting for delivery to a cell that is down", err, codes.DeadlineExceeded)
	due := w.cells["a"].servers[0].count(t, "outbox_entries", "") + w.cells["a"].servers[1].count(t, "outbox_entries", "")
	if due != 20 {
		t.Errorf("outbox_entries: got %v, want 20: 10 messages to two", due)
	}
	if w.cells["b"].servers[0].proxy.Count(faultnet.WasReset)+w.cells["b"].servers[1].proxy.Count(faultnet.WasReset) == 0 {
		t.Error("no connection to the cell was refused")
	}
	for _, b := range w.cells["b"].servers {
		if err := b.proxy.SetDoor(faultnet.Open); err != nil {
			t.Fatal(err)
		}
	}
	back := time.Now()
	w.agree(s, sent.ThreadId, strings.Join(want, ","), as[0], as[1], bs[0], bs[1])
	t.Logf("all copies agree %v after the cell was back", time.Since(back).Round(time.Millisecond))
	if _, err := s.conn.Send(w.as(as[0]), &messagesv1.SendRequest{IdempotencyKey: "m10", ThreadId: sent.ThreadId, Body: "10", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
		t.Errorf("waiting for delivery once it is back: %v", err)
	}
}

// TestDirectoryDown: while the directory is down, users who are known are served, in
// either cell; others are not, and the status says so. Invariant D3.
func TestDirectoryDown(t *testing.T) {
	w := newWorld(t, map[string]int{"a": 1, "b": 1})
	a, b := w.in("a", 1)[0], w.in("b", 1)[0]
	s := w.cells["a"].servers[0]
	for _, u := range []string{a, b} {
		if _, err := s.conn.Send(w.as(u), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users(a, b), Body: "hello", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
			t.Fatal(err)
		}
	}
	w.down.Store(true)
	for i := range 50 {
		for _, u := range []string{a, b} {
			if _, err := s.conn.Send(w.as(u), &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint("k", i), Recipients: users(a, b), Body: "hello", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
				t.Fatalf("%s while the directory is down: %v", u, err)
			}
		}
	}
	short, cancel := context.WithTimeout(client.As(t.Context(), "stranger"), 300*time.Millisecond)
	defer cancel()
	_, err := messagesv1.NewMessagesClient(s.raw).ListThreads(short, &messagesv1.ListThreadsRequest{})
	if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
		t.Errorf("a user who is not known: got %v, want %v", err, codes.Unavailable)
	}
	if w.asked.Load() == 0 {
		t.Error("no fault was injected")
	}
	w.down.Store(false)
	if _, err := s.conn.ListThreads(w.as("stranger"), &messagesv1.ListThreadsRequest{}); err != nil {
		t.Errorf("once it is back: %v", err)
	}
}
