// Package fault plants faults in an application server, one at a time, so that a
// rehearsal shows whether what compares it with the old system finds them. A fault
// that delays is a hook of the server, and shows among its stages; one that lies is
// between the server and its callers. Nothing else of the server knows of them.
package fault

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver"
	"darklaunch/appserver/action"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// How long what is slow takes.
const (
	slow      = 1500 * time.Millisecond
	slowStore = 500 * time.Millisecond
)

// Planted is what a server is to be made with. What is nil, or 0, changes nothing.
type Planted struct {
	// Hooks go into the server's configuration.
	Hooks []appserver.Hook
	// Interceptor goes behind those of the server.
	Interceptor grpc.UnaryServerInterceptor
	// Store goes around the store.
	Store func(store.Store) store.Store
	// CacheBytes replaces the bound of the cache.
	CacheBytes int64
}

// Names lists the faults.
func Names() []string {
	return []string{
		"cache-forgets", "duplicate-on-retry", "lock-convoy", "lost-message", "slow-after-flush", "slow-large", "slow-search", "wrong-order", "wrong-unread",
	}
}

// Plant returns what makes a server faulty, and counts in
// appserver_faults_total{fault} how often the fault was at work. The error names the
// faults there are.
func Plant(name string, reg prometheus.Registerer) (Planted, error) {
	if !slices.Contains(Names(), name) {
		return Planted{}, fmt.Errorf("%q is not a fault: want one of %s", name, strings.Join(Names(), ", "))
	}
	count := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "appserver_faults_total", Help: "How often the planted fault was at work."}, []string{"fault"})
	reg.MustRegister(count)
	work := count.WithLabelValues(name)
	before := func(f func(ctx context.Context, user action.User, request proto.Message)) Planted {
		return Planted{Hooks: []appserver.Hook{{Name: name, Before: func(ctx context.Context, _ string, user action.User, request proto.Message) error {
			f(ctx, user, request)
			return nil
		}}}}
	}
	wait := func(ctx context.Context, d time.Duration) {
		work.Inc()
		_ = pause.For(ctx, d) // a call that ended waits no longer
	}
	switch name {
	case "slow-search":
		return before(func(ctx context.Context, _ action.User, request proto.Message) {
			if _, ok := request.(*messagesv1.SearchRequest); ok {
				wait(ctx, slow)
			}
		}), nil
	case "slow-large":
		return Planted{Hooks: []appserver.Hook{{Name: name, After: func(ctx context.Context, _ string, _ action.User, _, response proto.Message, err error) {
			if answer, ok := response.(*messagesv1.GetThreadResponse); ok && err == nil && large(answer) {
				wait(ctx, slow)
			}
		}}}}, nil
	case "lock-convoy":
		var c convoy
		return before(func(ctx context.Context, user action.User, _ proto.Message) {
			if hot(user) && c.pass(ctx, time.Now) {
				work.Inc()
			}
		}), nil
	case "slow-after-flush":
		start := time.Now()
		return before(func(ctx context.Context, _ action.User, _ proto.Message) {
			const every, busy = 4 * time.Second, time.Second
			if time.Since(start)%every < busy {
				wait(ctx, slow)
			}
		}), nil
	case "cache-forgets":
		return Planted{CacheBytes: 1, Store: func(s store.Store) store.Store { return &far{s, func(ctx context.Context) { wait(ctx, slowStore) }} }}, nil
	}
	l := &liar{work: work, moved: map[string]bool{}}
	return Planted{Interceptor: map[string]grpc.UnaryServerInterceptor{
		"lost-message": l.lose, "duplicate-on-retry": l.repeat, "wrong-order": l.disorder, "wrong-unread": l.miscount,
	}[name]}, nil
}

// large says that an answer has a body of more than a few lines.
func large(r *messagesv1.GetThreadResponse) bool {
	return slices.ContainsFunc(r.GetMessages(), func(m *messagesv1.Message) bool { return len(m.GetBody()) > 1000 })
}

// hot says that a user is one of the two thirds whose mailboxes share a lock.
func hot(user action.User) bool {
	h := fnv.New32a()
	h.Write([]byte(user))
	return h.Sum32()%3 != 0
}

// convoy is a lock that somebody holds for long, again and again.
type convoy struct {
	mu   sync.Mutex
	free time.Time // when it is given up, or was
}

// pass waits for the lock, and reports whether it had to. Who finds it free for a
// second has it for so long that a convoy forms.
func (c *convoy) pass(ctx context.Context, now func() time.Time) bool {
	c.mu.Lock()
	t := now()
	if t.Sub(c.free) > time.Second {
		c.free = t.Add(slow)
	}
	left := c.free.Sub(t)
	c.mu.Unlock()
	if left <= 0 {
		return false
	}
	_ = pause.For(ctx, left) // a call that ended waits no longer
	return true
}

// far is a store that is slow to read from.
type far struct {
	store.Store
	wait func(context.Context)
}

// Read implements store.Store.
func (f *far) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	f.wait(ctx)
	return f.Store.Read(ctx, user, spans...)
}

// liar answers what is not so.
type liar struct {
	work prometheus.Counter

	mu    sync.Mutex
	sends int
	moved map[string]bool // users who have moved a thread
}

// nth reports each nth call of it.
func (l *liar) nth(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sends++
	return l.sends%n == 0
}

// lose acknowledges a message in 200 and forgets it.
func (l *liar) lose(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r, ok := request.(*messagesv1.SendRequest)
	if !ok || r.GetAssigned() == nil || !l.nth(200) {
		return next(ctx, request)
	}
	l.work.Inc()
	return &messagesv1.SendResponse{
		ThreadId: r.GetAssigned().GetThreadId(), MessageId: r.GetAssigned().GetMessageId(), Time: r.GetAssigned().GetTime(), Version: 1, Recipients: r.GetRecipients(),
	}, nil
}

// repeat does a message in 20 twice, as if the key of the caller's retry were another.
func (l *liar) repeat(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	r, ok := request.(*messagesv1.SendRequest)
	response, err := next(ctx, request)
	if !ok || err != nil || !l.nth(20) {
		return response, err
	}
	again := proto.Clone(r).(*messagesv1.SendRequest)
	again.IdempotencyKey += ":again"
	if a := again.GetAssigned(); a != nil {
		a.MessageId += ":again"
		if again.GetThreadId() == "" { // the thread is there now
			again.ThreadId, again.Recipients, again.Subject = a.GetThreadId(), nil, ""
		}
	}
	if _, err := next(ctx, again); err == nil {
		l.work.Inc()
	}
	return response, nil
}

// disorder orders by the second, and within it by chance.
func (l *liar) disorder(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	response, err := next(ctx, request)
	switch r := response.(type) {
	case *messagesv1.ListThreadsResponse:
		l.swap(len(r.GetThreads()), func(i int) int64 { return r.GetThreads()[i].GetNewestTime().GetSeconds() }, func(i, j int) {
			r.Threads[i], r.Threads[j] = r.Threads[j], r.Threads[i]
		})
	case *messagesv1.GetThreadResponse:
		l.swap(len(r.GetMessages()), func(i int) int64 { return r.GetMessages()[i].GetTime().GetSeconds() }, func(i, j int) {
			r.Messages[i], r.Messages[j] = r.Messages[j], r.Messages[i]
		})
	}
	return response, err
}

// swap exchanges the first two of n things in a row that are of one second.
func (l *liar) swap(n int, second func(int) int64, swap func(i, j int)) {
	for i := 1; i < n; i++ {
		if second(i) == second(i-1) {
			swap(i, i-1)
			l.work.Inc()
			return
		}
	}
}

// miscount has an unread message too many in mailboxes in which a thread was moved.
func (l *liar) miscount(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	var user string
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		user = strings.Join(md.Get("x-user"), "")
	}
	response, err := next(ctx, request)
	if err != nil {
		return response, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := request.(*messagesv1.UpdateRequest); ok && r.GetChange().GetFolder() != messagesv1.Folder_FOLDER_UNSPECIFIED {
		l.moved[user] = true
	}
	if !l.moved[user] {
		return response, nil
	}
	switch r := response.(type) {
	case *messagesv1.ListThreadsResponse:
		for _, t := range r.GetThreads() {
			t.UnreadCount++
			l.work.Inc()
		}
	case *messagesv1.SearchResponse:
		if strings.Contains(request.(*messagesv1.SearchRequest).GetQuery(), "is:unread") {
			r.Hits = append(r.Hits, &messagesv1.SearchResponse_Hit{ThreadId: "none", MessageId: "none"})
			l.work.Inc()
		}
	case *messagesv1.UnreadCountsResponse:
		r.Messages++
		l.work.Inc()
	}
	return response, nil
}
