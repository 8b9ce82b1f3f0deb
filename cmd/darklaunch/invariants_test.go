package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver"
	"darklaunch/appserver/client"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/rows"
	"darklaunch/internal/faultnet"
)

// What must hold of mailboxes whatever happens to servers and stores:
//
//	A1   a user's mailbox is linearizable    porcupine, with strict reads
//	A2   nothing acknowledged is lost        A1, as it reads at the end
//	A3   nothing is done twice by a retry    A1, as a retry is one operation
//	A4   a row's fences are one chain        chainFaults
//	A5   a paused owner writes nothing       pauseOwner
//	A6   a mailbox loaded anew is the same   compareReloaded
//	A7   a row is written as a whole         wholeFaults, while it goes on
//	A8   recipients get a message once       onceFaults
//	A9   a store that refuses, no ack        TestInvariantsOnRows
//	A14  metadata equal the log              mailbox.Check; TestCheckFindsPlantedFault

// append is a message sent to oneself; its answer is the version. look is a read of
// all, whose answer is the version and the bodies by sequence.
type (
	input  struct{ body string } // empty: a look
	answer struct {
		unknown bool // of an append that nobody was told the end of
		version uint64
		bodies  []string
	}
)

// firstVersion is that of a mailbox with the thread and its first message.
const firstVersion = 2

// notebook is what a mailbox is to porcupine: an append-only list, each entry of which
// raises the version by one.
var notebook = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		s, i, o := state.(string), in.(input), out.(answer)
		if i.body != "" {
			next := s + i.body + "\n"
			return o.unknown || o.version == firstVersion+uint64(strings.Count(next, "\n")), next
		}
		return o.version == firstVersion+uint64(strings.Count(s, "\n")) && strings.Join(o.bodies, "\n")+"\n" == "first\n"+s, s
	},
}

// linear reports whether operations of one user are linearizable.
func linear(t *testing.T, ops []porcupine.Operation) bool {
	t.Helper()
	result := porcupine.CheckOperationsTimeout(notebook, ops, 30*time.Second)
	if result == porcupine.Unknown {
		t.Errorf("porcupine did not come to an end with %d operations", len(ops))
	}
	return result == porcupine.Ok
}

// put is a call of a store's Put.
type put struct {
	user      string
	cur, next store.Fence
	acked     bool
}

// witness is a store that remembers its puts, and holds those of a user up.
type witness struct {
	store.Store
	mu   *sync.Mutex
	puts *[]put
	hold *atomic.Pointer[hold]
}

// hold keeps the next put of a user's log from going on.
type hold struct {
	user    string
	arrived chan store.Fence // the fence that it was to write
	release chan struct{}
}

func (r witness) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if h := r.hold.Load(); h != nil && h.user == user && next.Seq > cur.Seq && r.hold.CompareAndSwap(h, nil) {
		h.arrived <- next
		<-h.release
	}
	err := r.Store.Put(ctx, user, cur, next, cells)
	r.mu.Lock()
	defer r.mu.Unlock()
	*r.puts = append(*r.puts, put{user, cur, next, err == nil})
	return err
}

// chainFaults follows a row's fences back from its last: each was written in place of
// the one before, and all that were acknowledged are among them.
func chainFaults(puts []put, user string, last store.Fence) (faults []string) {
	byNext := map[store.Fence]put{}
	for _, p := range puts {
		if p.user == user {
			if before, twice := byNext[p.next]; twice && before.cur != p.cur {
				faults = append(faults, fmt.Sprintf("fence %v was put in place of two", p.next))
			}
			byNext[p.next] = put{p.user, p.cur, p.next, p.acked || byNext[p.next].acked}
		}
	}
	for f := last; f != (store.Fence{}); {
		p, ok := byNext[f]
		if !ok {
			return append(faults, fmt.Sprintf("nobody put fence %v", f))
		}
		delete(byNext, f)
		f = p.cur
	}
	for _, p := range byNext {
		if p.acked {
			faults = append(faults, fmt.Sprintf("acknowledged fence %v is not in the chain", p.next))
		}
	}
	return faults
}

// wholeFaults says what of a row is of different puts.
func wholeFaults(row store.Row) (faults []string) {
	if n := len(row.Of(store.Actions)); uint64(n) != row.Fence.Seq {
		faults = append(faults, fmt.Sprintf("the fence says %d actions, the log has %d", row.Fence.Seq, n))
	}
	return faults
}

// onceFaults compares what a recipient has with what was sent.
func onceFaults(sent, got []string) (faults []string) {
	count := map[string]int{}
	for _, id := range got {
		count[id]++
	}
	for _, id := range sent {
		if count[id] != 1 {
			faults = append(faults, fmt.Sprintf("%s is there %d times", id, count[id]))
		}
	}
	if len(got) != len(sent) {
		faults = append(faults, fmt.Sprintf("%d messages, %d were sent", len(got), len(sent)))
	}
	return faults
}

// A liar is a store that, while it lies, says of every third put that its fate is not
// known: of one that was made, of one that was not, and of one that was made twice, the
// second time in vain.
type liar struct {
	store.Store
	lies     *atomic.Bool
	puts     *atomic.Int64
	made, no *atomic.Int64 // lies, by what was true
}

var errLie = errors.New("connection lost")

func (l liar) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	n := l.puts.Add(1)
	if !l.lies.Load() || n%3 > 0 {
		return l.Store.Put(ctx, user, cur, next, cells)
	}
	if n%9 == 0 {
		l.no.Add(1)
		return errLie
	}
	for range n / 3 % 3 { // once or twice
		if err := l.Store.Put(ctx, user, cur, next, cells); err == nil {
			l.made.Add(1)
		}
	}
	return errLie
}

// world is two servers on one store, and their clients.
type world struct {
	t       *testing.T
	store   store.Store // as the checks read it
	clients [2]*client.Client
	regs    [2]*prometheus.Registry
	holds   [2]*atomic.Pointer[hold]
	owner   atomic.Int32 // whom clients ask for the most part
	done    atomic.Int64 // operations
	over    atomic.Bool

	mu      sync.Mutex
	puts    []put
	threads map[string]string
	history map[string][]porcupine.Operation
	sent    []string // by the one who writes to many
	begin   time.Time
}

const (
	writers      = 3  // users with notebooks, two clients each
	mostAppends  = 35 // of a client, so that a notebook fits a page
	sender       = "wes"
	sharedThread = "all"
)

var recipients = []string{"r0", "r1", "r2", "r3"}

// newWorld serves stores, one for each server and one for the checks.
func newWorld(t *testing.T, open func() store.Store) *world {
	t.Helper()
	w := &world{t: t, store: open(), threads: map[string]string{}, history: map[string][]porcupine.Operation{}, begin: time.Now()}
	for i := range w.clients {
		w.holds[i], w.regs[i] = new(atomic.Pointer[hold]), prometheus.NewRegistry()
		w.clients[i] = w.serve(witness{open(), &w.mu, &w.puts, w.holds[i]}, w.regs[i])
	}
	return w
}

func (w *world) serve(s store.Store, reg *prometheus.Registry) *client.Client {
	w.t.Helper()
	server, err := appserver.New(appserver.Config{Registerer: reg, Mailboxes: mailbox.Config{
		Store: s, Strict: func() bool { return true }, FlushActions: 8, FlushAfter: 200 * time.Millisecond, StoreTimeout: 5 * time.Second}})
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	g := grpc.NewServer(server.Options()...)
	server.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = server.Run(ctx) })
	running.Go(func() { _ = g.Serve(l) })
	c, err := client.New(l.Addr().String(), client.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		c.Close()
		g.Stop()
		cancel()
		running.Wait()
	})
	return c
}

// any is the client of the owner, or now and then the other.
func (w *world) any() *client.Client {
	i := w.owner.Load()
	if rand.IntN(5) == 0 {
		i = 1 - i
	}
	return w.clients[i]
}

// send repeats a message under its key, at whichever server, until it is acknowledged;
// false if that was not to be.
func (w *world) send(user string, r *messagesv1.SendRequest) (*messagesv1.SendResponse, bool) {
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(client.As(context.Background(), user), 3*time.Second)
		sent, err := w.any().Send(ctx, r)
		cancel()
		switch status.Code(err) {
		case codes.OK:
			w.done.Add(1)
			return sent, true
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		default:
			w.t.Errorf("send of %s: %v", user, err)
			return nil, false
		}
	}
	return nil, false
}

func named(users ...string) (all []*messagesv1.Participant) {
	for _, u := range users {
		all = append(all, &messagesv1.Participant{Address: &messagesv1.Participant_User{User: u}})
	}
	return all
}

// prepare begins the threads.
func (w *world) prepare(users []string) {
	w.t.Helper()
	for _, u := range users {
		sent, ok := w.send(u, &messagesv1.SendRequest{IdempotencyKey: "first", Recipients: named(u), Body: "first"})
		if !ok {
			w.t.Fatalf("%s's thread could not be begun", u)
		}
		w.threads[u] = sent.ThreadId
	}
	sent, ok := w.send(sender, &messagesv1.SendRequest{IdempotencyKey: "first", Recipients: named(recipients...), Body: "first"})
	if !ok {
		w.t.Fatal("the thread of all could not be begun")
	}
	w.threads[sharedThread], w.sent = sent.ThreadId, []string{sent.MessageId}
}

// write is a client of a notebook.
func (w *world) write(user string, id int) {
	for n := 0; !w.over.Load(); n++ {
		op := porcupine.Operation{ClientId: id, Call: int64(time.Since(w.begin))}
		if n < mostAppends*2 && n%2 == 0 {
			body := fmt.Sprintf("%d-%d", id, n)
			op.Input = input{body}
			sent, ok := w.send(user, &messagesv1.SendRequest{IdempotencyKey: body, ThreadId: w.threads[user], Body: body})
			op.Return, op.Output = math.MaxInt64, answer{unknown: true}
			if ok {
				op.Return, op.Output = int64(time.Since(w.begin)), answer{version: sent.Version}
			}
		} else {
			version, bodies, err := w.look(w.any(), user)
			if err != nil {
				continue // it has seen nothing, and changed nothing
			}
			op.Input, op.Output, op.Return = input{}, answer{version: version, bodies: bodies}, int64(time.Since(w.begin))
			w.done.Add(1)
		}
		w.mu.Lock()
		w.history[user] = append(w.history[user], op)
		w.mu.Unlock()
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) // as users do
	}
}

func (w *world) look(c *client.Client, user string) (uint64, []string, error) {
	ctx, cancel := context.WithTimeout(client.As(context.Background(), user), 3*time.Second)
	defer cancel()
	a, err := c.GetThread(ctx, &messagesv1.GetThreadRequest{ThreadId: w.threads[user], PageSize: 100})
	if err != nil {
		return 0, nil, err
	}
	slices.SortFunc(a.Messages, func(x, y *messagesv1.Message) int { return int(x.Sequence) - int(y.Sequence) })
	var bodies []string
	for _, m := range a.Messages {
		bodies = append(bodies, m.Body)
	}
	return a.Version, bodies, nil
}

// post is the one who writes to many.
func (w *world) post() {
	for n := 0; !w.over.Load(); n++ {
		sent, ok := w.send(sender, &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(n), ThreadId: w.threads[sharedThread], Body: fmt.Sprint("news ", n)})
		if !ok {
			w.t.Errorf("message %d to all was never acknowledged", n)
			return
		}
		w.sent = append(w.sent, sent.MessageId)
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
	}
}

// scan reads rows while they are written.
func (w *world) scan(users []string) {
	for !w.over.Load() {
		for _, u := range users {
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			row, whole, err := store.ReadAll(ctx, w.store, u, store.Span{Family: store.Actions})
			cancel()
			if err != nil || !whole {
				continue
			}
			for _, f := range wholeFaults(row) {
				w.t.Errorf("%s: %s", u, f)
			}
			w.done.Add(1)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// more waits until so many operations have been done since.
func (w *world) more(n int64) {
	w.t.Helper()
	from := w.done.Load()
	for deadline := time.Now().Add(2 * time.Minute); w.done.Load() < from+n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%d operations in two minutes, want %d", w.done.Load()-from, n)
		}
	}
}

// recovers holds that messages are acknowledged soon after the store is there again, by
// either server. Five seconds are what is promised; a machine that all tests run on at
// once may take longer.
func (w *world) recovers(what string) {
	w.t.Helper()
	begin := time.Now()
	for i, c := range w.clients {
		r := &messagesv1.SendRequest{IdempotencyKey: fmt.Sprintf("%s-%d-%d", what, begin.UnixNano(), i), Recipients: named("rae"), Body: what}
		for err := errors.New("never asked"); err != nil; {
			ctx, cancel := context.WithTimeout(client.As(context.Background(), "rae"), 3*time.Second)
			_, err = c.Send(ctx, r)
			cancel()
			if time.Since(begin) > time.Minute {
				w.t.Fatalf("a minute after a store that was %s is back: %v", what, err)
			}
		}
	}
	took := time.Since(begin)
	w.t.Logf("%.2fs after a store that was %s is back both servers acknowledge", took.Seconds(), what)
	if took > 5*time.Second && os.Getenv("DARKLAUNCH_FULL") != "" {
		w.t.Errorf("the servers are back %v after a store that was %s, want 5s", took, what)
	}
}

// pauseOwner holds an owner up between its decision and its put, lets the other server
// take the mailbox and write, and lets the first go on: its put writes nothing.
func (w *world) pauseOwner() {
	w.t.Helper()
	const user = "paul"
	first, ok := w.send(user, &messagesv1.SendRequest{IdempotencyKey: "first", Recipients: named(user), Body: "first"})
	if !ok {
		w.t.Fatal("paul's thread could not be begun")
	}
	try := func(c *client.Client, key string) error {
		for {
			ctx, cancel := context.WithTimeout(client.As(context.Background(), user), 30*time.Second)
			_, err := c.Send(ctx, &messagesv1.SendRequest{IdempotencyKey: key, ThreadId: first.ThreadId, Body: key})
			cancel()
			if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
				return err
			}
		}
	}
	if err := try(w.clients[0], "owned"); err != nil {
		w.t.Fatal(err)
	}
	h := &hold{user: user, arrived: make(chan store.Fence, 1), release: make(chan struct{})}
	w.holds[0].Store(h)
	held := make(chan error, 1)
	go func() { held <- try(w.clients[0], "paused") }()
	never := <-h.arrived
	if err := try(w.clients[1], "meanwhile"); err != nil {
		w.t.Error(err)
	}
	close(h.release)
	if err := <-held; err != nil {
		w.t.Errorf("the message of the paused owner: %v", err)
	}
	last, err := w.store.Read(context.Background(), user)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	puts := slices.Clone(w.puts)
	w.mu.Unlock()
	if faults := chainFaults(append(puts, put{user, store.Fence{}, never, true}), user, last.Fence); len(faults) == 0 {
		w.t.Error("the put of the paused owner is in the chain")
	}
	if faults := chainFaults(puts, user, last.Fence); len(faults) > 0 {
		w.t.Errorf("paul: %q", faults)
	}
}

// run has clients at work while faults happen, each after some operations, and checks
// all there is to check.
func (w *world) run(faults ...func()) {
	w.t.Helper()
	var notebooks []string
	for i := range writers {
		notebooks = append(notebooks, fmt.Sprint("u", i))
	}
	w.prepare(notebooks)
	var wg sync.WaitGroup
	for i, u := range notebooks {
		wg.Go(func() { w.write(u, 2*i) })
		wg.Go(func() { w.write(u, 2*i+1) })
	}
	wg.Go(w.post)
	wg.Go(func() { w.scan(append(slices.Clone(notebooks), sender)) })
	end := sync.OnceFunc(func() { w.over.Store(true); wg.Wait() })
	defer end() // a fault that can't be made ends the test
	for _, fault := range faults {
		for range 2 {
			w.more(25)
			w.owner.Store(1 - w.owner.Load())
		}
		fault()
	}
	w.more(50)
	w.pauseOwner()
	end()
	for _, u := range notebooks {
		w.finish(u)
		if !linear(w.t, w.history[u]) {
			w.t.Errorf("%s: what clients saw is not linearizable: %v", u, w.history[u])
		}
	}
	w.checkRecipients()
	users := slices.Concat(notebooks, recipients, []string{sender, "paul"})
	w.compareReloaded(users)
	w.checkRows(users)
	appends := 0
	for _, ops := range w.history {
		for _, op := range ops {
			if op.Input.(input).body != "" {
				appends++
			}
		}
	}
	fenced := w.sum("mailbox_fenced_total")
	w.t.Logf("%d operations in %.1fs: %d appends to %d notebooks, %d messages to %d recipients; %.0f puts fenced, %.0f claims",
		w.done.Load(), time.Since(w.begin).Seconds(), appends, writers, len(w.sent), len(recipients), fenced, w.sum("mailbox_loads_total"))
	if fenced == 0 {
		w.t.Error("no put was fenced though the mailboxes moved")
	}
}

// finish reads a notebook once more, from either server.
func (w *world) finish(user string) {
	w.t.Helper()
	for i, c := range w.clients {
		op := porcupine.Operation{ClientId: 2*writers + i, Input: input{}, Call: int64(time.Since(w.begin))}
		var version uint64
		var bodies []string
		err := errors.New("never asked")
		for range 20 {
			if version, bodies, err = w.look(c, user); err == nil {
				break
			}
		}
		if err != nil {
			w.t.Fatal(err)
		}
		op.Output, op.Return = answer{version: version, bodies: bodies}, int64(time.Since(w.begin))
		w.history[user] = append(w.history[user], op)
	}
}

// messages is a walk over a thread; nil while it can't be made.
func (w *world) messages(c *client.Client, user, thread string) (all []*messagesv1.Message) {
	r := &messagesv1.GetThreadRequest{ThreadId: thread, PageSize: 100}
	for {
		a, err := c.GetThread(client.As(w.t.Context(), user), r)
		if err != nil {
			return nil
		}
		all = append(all, a.Messages...)
		if r.PageToken = a.NextPageToken; r.PageToken == "" {
			return all
		}
	}
}

func (w *world) checkRecipients() {
	w.t.Helper()
	for _, u := range recipients {
		var got []string
		waitFor(w.t, u+"'s messages", func() bool {
			got = nil
			for _, m := range w.messages(w.clients[0], u, w.threads[sharedThread]) {
				got = append(got, m.MessageId)
			}
			return len(got) >= len(w.sent)
		})
		for _, f := range onceFaults(w.sent, got) {
			w.t.Errorf("%s: %s", u, f)
		}
	}
}

// compareReloaded reads mailboxes from a server that has them, and from a new one.
func (w *world) compareReloaded(users []string) {
	w.t.Helper()
	read := func(c *client.Client) map[string]any {
		all := map[string]any{}
		for _, u := range users {
			for {
				list, err := c.ListThreads(client.As(w.t.Context(), u), &messagesv1.ListThreadsRequest{PageSize: 100})
				if status.Code(err) == codes.Unavailable {
					continue
				}
				if err != nil {
					w.t.Fatal(err)
				}
				all[u] = list
				for _, thread := range list.Threads {
					all[u+" "+thread.ThreadId] = w.messages(c, u, thread.ThreadId)
				}
				break
			}
		}
		return all
	}
	live := read(w.clients[0])
	again := read(w.serve(witness{w.store, &w.mu, &w.puts, new(atomic.Pointer[hold])}, prometheus.NewRegistry()))
	if diff := cmp.Diff(live, again, protocmp.Transform()); diff != "" || len(live) <= len(users) {
		w.t.Errorf("a server that loads the mailboxes shows them otherwise (-live +loaded):\n%s", diff)
	}
}

// checkRows holds rows against their logs, and their fences against the puts.
func (w *world) checkRows(users []string) {
	w.t.Helper()
	for _, u := range users {
		found, err := mailbox.Check(w.t.Context(), w.store, u, "")
		if err != nil || found.Actions == 0 {
			w.t.Errorf("%s: got %+v, %v", u, found, err)
		}
	}
	for _, u := range users { // flushes may go on: the chain up to some moment
		w.mu.Lock()
		row, err := w.store.Read(w.t.Context(), u)
		puts := slices.Clone(w.puts)
		w.mu.Unlock()
		if err != nil {
			w.t.Fatal(err)
		}
		waitFor(w.t, "the last put to be answered", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			puts = slices.Clone(w.puts)
			return slices.ContainsFunc(puts, func(p put) bool { return p.next == row.Fence })
		})
		// What was put after the read is no fault.
		puts = slices.DeleteFunc(puts, func(p put) bool {
			return p.next.Epoch > row.Fence.Epoch || p.cur == row.Fence || p.next.Epoch == row.Fence.Epoch && p.next.Seq > row.Fence.Seq
		})
		for _, f := range chainFaults(puts, u, row.Fence) {
			w.t.Errorf("%s: %s", u, f)
		}
	}
}

// sum adds up a metric of both servers.
func (w *world) sum(name string) (total float64) {
	for _, reg := range w.regs {
		families, err := reg.Gather()
		if err != nil {
			w.t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				for _, m := range f.GetMetric() {
					total += m.GetCounter().GetValue()
				}
			}
		}
	}
	return total
}

// TestInvariantsOnRows: the row store is gone (killed, cut off), slow (stopped), full,
// and lies. No message is acknowledged that is not durable, none is lost, and soon after
// it is back so are the servers. Rows B19, D52, D56, I114.
func TestInvariantsOnRows(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for seconds")
	}
	dir := t.TempDir()
	process, addr, _ := startStore(t, "127.0.0.1:0", dir)
	proxy, err := faultnet.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	var lies atomic.Bool
	var puts, made, no atomic.Int64
	w := newWorld(t, func() store.Store {
		s, err := rows.Open(t.Context(), proxy.Addr(), rows.Config{Timeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return liar{s, &lies, &puts, &made, &no}
	})
	again := func(args ...string) {
		process.signal(syscall.SIGKILL)
		process.end()
		process = start(t, append([]string{"appserver", "store", "--listen", addr, "--data", dir}, args...)...)
		process.ready("rows")
	}
	cuts := func() {
		for range 5 {
			proxy.Cut()
			w.more(5)
		}
		proxy.SwallowAndCut(faultnet.ToClient) // an answer that nobody gets
		w.more(20)
	}
	stopped := func() { // as long as callers wait, and longer
		process.pause()
		time.Sleep(2500 * time.Millisecond)
		process.signal(syscall.SIGCONT)
		w.recovers("stopped")
	}
	killed := func() {
		again()
		w.recovers("killed")
	}
	lying := func() {
		lies.Store(true)
		w.more(60)
		lies.Store(false)
		w.recovers("lying")
		if made.Load() == 0 || no.Load() == 0 {
			t.Errorf("got %d lies of puts that were made and %d of others, want both", made.Load(), no.Load())
		}
	}
	full := func() {
		again("--min-free", "1000000GiB")
		for i := range 5 {
			var err error
			waitFor(t, "the full store to answer", func() bool {
				ctx, cancel := context.WithTimeout(client.As(t.Context(), "fay"), 20*time.Second)
				defer cancel()
				_, err = w.clients[i%2].Send(ctx, &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(i), Recipients: named("fay"), Body: "x"})
				return status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded
			})
			if status.Code(err) != codes.ResourceExhausted {
				t.Errorf("a message while the store was full: got %v, want it refused", err)
			}
		}
		again()
		w.recovers("full")
	}
	w.run(cuts, killed, stopped, full, lying, killed, cuts)
	if n := proxy.Count(faultnet.WasCut); n == 0 {
		t.Error("no connection was cut")
	}
}

// TestInvariantChecks plants a fault for each of the checks.
func TestInvariantChecks(t *testing.T) {
	send := func(body string, version uint64, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: input{body}, Output: answer{version: version}, Call: call, Return: end}
	}
	look := func(version uint64, call, end int64, bodies ...string) porcupine.Operation {
		return porcupine.Operation{Input: input{}, Output: answer{version: version, bodies: bodies}, Call: call, Return: end}
	}
	for what, tc := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"in order":          {[]porcupine.Operation{send("a", 3, 0, 1), send("b", 4, 2, 5), look(4, 6, 7, "first", "a", "b")}, true},
		"at once":           {[]porcupine.Operation{send("a", 4, 0, 9), send("b", 3, 0, 9), look(3, 1, 8, "first", "b")}, true},
		"never told":        {[]porcupine.Operation{{Input: input{"a"}, Output: answer{unknown: true}, Call: 0, Return: math.MaxInt64}, look(3, 6, 7, "first", "a")}, true},
		"A1: a stale read":  {[]porcupine.Operation{send("a", 3, 0, 1), look(2, 2, 3, "first")}, false},
		"A1: back in time":  {[]porcupine.Operation{send("a", 3, 0, 9), look(3, 1, 2, "first", "a"), look(2, 3, 4, "first")}, false},
		"A2: a lost one":    {[]porcupine.Operation{send("a", 3, 0, 1), send("b", 3, 2, 3), look(3, 4, 5, "first", "b")}, false},
		"A3: a double":      {[]porcupine.Operation{send("a", 3, 0, 1), look(4, 2, 3, "first", "a", "a")}, false},
		"A2: another order": {[]porcupine.Operation{send("a", 3, 0, 1), send("b", 4, 2, 3), look(4, 4, 5, "first", "b", "a")}, false},
	} {
		if got := linear(t, tc.ops); got != tc.ok {
			t.Errorf("%s: got linearizable %t, want %t", what, got, tc.ok)
		}
	}
	f := func(n byte) store.Fence { return store.Fence{Epoch: 1, Seq: uint64(n), Tag: store.Tag{n}} }
	chain := []put{{"ann", store.Fence{}, f(1), true}, {"ann", f(1), f(2), false}, {"ann", f(2), f(3), true}, {"bob", store.Fence{}, f(9), true}}
	if faults := chainFaults(chain, "ann", f(3)); len(faults) > 0 {
		t.Errorf("a chain: %q", faults)
	}
	for what, puts := range map[string][]put{
		"A4: a fork":            append(slices.Clone(chain), put{"ann", f(1), f(4), true}),
		"A4: a missing link":    chain[1:],
		"A4: a put that nobody": chain[:2],
		"A4: of two":            append(slices.Clone(chain), put{"ann", f(1), f(3), false}),
	} {
		if faults := chainFaults(puts, "ann", f(3)); len(faults) == 0 {
			t.Errorf("%s: nothing was found", what)
		}
	}
	row := store.Row{Fence: f(2), Cells: []store.Cell{{Family: store.Actions}}}
	if faults := wholeFaults(row); len(faults) == 0 {
		t.Error("A7: a fence without its action: nothing was found")
	}
	for what, got := range map[string][]string{"A8: twice": {"a", "b", "b"}, "A8: not at all": {"a"}, "A8: unsent": {"a", "b", "c"}} {
		if faults := onceFaults([]string{"a", "b"}, got); len(faults) == 0 {
			t.Errorf("%s: nothing was found", what)
		}
	}
	if faults := onceFaults([]string{"a", "b"}, []string{"b", "a"}); len(faults) > 0 {
		t.Errorf("once: %q", faults)
	}
}

// TestCheckFindsPlantedFault: a cell of metadata, of keywords or of the log that no
// server wrote there is told by check.
func TestCheckFindsPlantedFault(t *testing.T) {
	for _, family := range []store.Family{store.Metadata, store.Keywords, store.Actions} {
		s := &memstore.Store{}
		w := &world{t: t}
		c := w.serve(s, prometheus.NewRegistry())
		if _, err := c.Send(client.As(t.Context(), "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: named("ann"), Body: "hello there"}); err != nil {
			t.Fatal(err)
		}
		var row store.Row
		waitFor(t, "metadata in the store", func() (whole bool) {
			var err error
			row, whole, err = store.ReadAll(t.Context(), s, "ann",
				store.Span{Family: store.Actions}, store.Span{Family: store.Metadata}, store.Span{Family: store.Keywords})
			if err != nil {
				t.Fatal(err)
			}
			return whole && len(row.Of(store.Metadata)) > 0 // after which nothing is put any more
		})
		if _, err := mailbox.Check(t.Context(), s, "ann", ""); err != nil {
			t.Fatalf("before the fault: %v", err)
		}
		cell := row.Of(family)[len(row.Of(family))-1]
		next := row.Fence
		next.Tag[0]++
		planted := store.Cell{Family: family, Qualifier: cell.Qualifier, Value: append(slices.Clone(cell.Value), 1)}
		if err := s.Put(t.Context(), "ann", row.Fence, next, []store.Cell{planted}); err != nil {
			t.Fatal(err)
		}
		if _, err := mailbox.Check(t.Context(), s, "ann", ""); err == nil {
			t.Errorf("%v: nothing was found", family)
		}
	}
}
