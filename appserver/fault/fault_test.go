package fault

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/store/memstore"
)

// rig is a faulty server that answers what it is told to.
type rig struct {
	t       *testing.T
	planted Planted
	reg     *prometheus.Registry
	answer  func(request proto.Message) proto.Message
	calls   []proto.Message // that reached the server
}

func plant(t *testing.T, name string, answer func(proto.Message) proto.Message) *rig {
	t.Helper()
	r := &rig{t: t, reg: prometheus.NewRegistry(), answer: answer}
	var err error
	if r.planted, err = Plant(name, r.reg); err != nil {
		t.Fatal(err)
	}
	return r
}

// call makes a call as the server would, and returns the answer and how long it took.
func (r *rig) call(user string, request proto.Message) (proto.Message, time.Duration) {
	r.t.Helper()
	start := time.Now()
	ctx := metadata.NewIncomingContext(r.t.Context(), metadata.Pairs("x-user", user))
	serve := func(_ context.Context, request any) (any, error) {
		r.calls = append(r.calls, request.(proto.Message))
		return r.answer(request.(proto.Message)), nil
	}
	for _, h := range r.planted.Hooks {
		if h.Before != nil {
			if err := h.Before(ctx, "", action.User(user), request); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	var response any
	var err error
	if r.planted.Interceptor != nil {
		response, err = r.planted.Interceptor(ctx, request, nil, serve)
	} else {
		response, err = serve(ctx, request)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range r.planted.Hooks {
		if h.After != nil {
			h.After(ctx, "", action.User(user), request, response.(proto.Message), nil)
		}
	}
	return response.(proto.Message), time.Since(start)
}

// worked wants the fault to have been at work so often.
func (r *rig) worked(n int) {
	r.t.Helper()
	got, err := testutil.GatherAndCount(r.reg, "appserver_faults_total")
	if err != nil || got != 1 {
		r.t.Fatalf("got %d series of appserver_faults_total, %v", got, err)
	}
	families, _ := r.reg.Gather()
	if v := families[0].GetMetric()[0].GetCounter().GetValue(); v != float64(n) {
		r.t.Errorf("the fault was at work %v times, want %d", v, n)
	}
}

func TestNames(t *testing.T) {
	for _, name := range Names() {
		if p, err := Plant(name, prometheus.NewRegistry()); err != nil || p.Hooks == nil && p.Interceptor == nil && p.Store == nil {
			t.Errorf("%s: got %+v, %v, want something that changes a server", name, p, err)
		}
	}
	if _, err := Plant("none", prometheus.NewRegistry()); err == nil {
		t.Error("an unknown name: got no error")
	}
}

func TestSlow(t *testing.T) {
	thread := func(n int) func(proto.Message) proto.Message {
		return func(proto.Message) proto.Message {
			return &messagesv1.GetThreadResponse{Messages: []*messagesv1.Message{{Body: string(make([]byte, n))}}}
		}
	}
	for _, c := range []struct {
		fault   string
		request proto.Message
		answer  func(proto.Message) proto.Message
		want    time.Duration
	}{
		{"slow-search", &messagesv1.SearchRequest{}, thread(1), slow},
		{"slow-search", &messagesv1.GetThreadRequest{}, thread(1), 0},
		{"slow-large", &messagesv1.GetThreadRequest{}, thread(1001), slow},
		{"slow-large", &messagesv1.GetThreadRequest{}, thread(1000), 0},
		{"slow-after-flush", &messagesv1.GetThreadRequest{}, thread(1), slow},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := plant(t, c.fault, c.answer)
			_, took := r.call("ann", c.request)
			if took != c.want {
				t.Errorf("%s, %T: took %v, want %v", c.fault, c.request, took, c.want)
			}
			r.worked(min(1, int(c.want)))
		})
	}
}

func TestConvoy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := plant(t, "lock-convoy", func(proto.Message) proto.Message { return &messagesv1.SearchResponse{} })
		took := map[bool]time.Duration{}
		for i := range 9 {
			user := fmt.Sprint("u", i)
			_, d := r.call(user, &messagesv1.SearchRequest{})
			took[hot(action.User(user))] = max(took[hot(action.User(user))], d)
		}
		if took[true] != slow || took[false] != 0 {
			t.Errorf("got %v by being hot, want %v and 0", took, slow)
		}
		r.worked(1)
	})
}

func TestFarStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := plant(t, "cache-forgets", nil)
		s := new(memstore.Store)
		defer s.Close()
		start := time.Now()
		if _, err := r.planted.Store(s).Read(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != slowStore || r.planted.CacheBytes != 1 {
			t.Errorf("took %v with a cache of %d bytes, want %v with 1", took, r.planted.CacheBytes, slowStore)
		}
		r.worked(1)
	})
}

func send(n int) *messagesv1.SendRequest {
	return &messagesv1.SendRequest{IdempotencyKey: fmt.Sprint(n), Body: "b", Assigned: &messagesv1.Assigned{ThreadId: "t", MessageId: fmt.Sprint("m", n)}}
}

func TestLies(t *testing.T) {
	sent := func(proto.Message) proto.Message { return &messagesv1.SendResponse{ThreadId: "t"} }
	lost := plant(t, "lost-message", sent)
	for i := range 400 {
		lost.call("ann", send(i))
	}
	if len(lost.calls) != 398 {
		t.Errorf("of 400 messages %d reached the server, want 398", len(lost.calls))
	}
	lost.worked(2)

	twice := plant(t, "duplicate-on-retry", sent)
	for i := range 40 {
		twice.call("ann", send(i))
	}
	if len(twice.calls) != 42 {
		t.Errorf("40 messages became %d, want 42", len(twice.calls))
	} else if a := twice.calls[20].(*messagesv1.SendRequest); a.GetThreadId() != "t" || a.GetIdempotencyKey() != "19:again" || a.GetAssigned().GetMessageId() != "m19:again" {
		t.Errorf("got %v again, want it in the thread under another key", a)
	}
	twice.worked(2)

	at := func(s int64) *messagesv1.Thread {
		return &messagesv1.Thread{ThreadId: fmt.Sprint(s), NewestTime: &timestamppb.Timestamp{Seconds: s}, UnreadCount: 1}
	}
	list := func(proto.Message) proto.Message {
		return &messagesv1.ListThreadsResponse{Threads: []*messagesv1.Thread{at(3), at(2), {ThreadId: "other", NewestTime: &timestamppb.Timestamp{Seconds: 2}}, at(1)}}
	}
	order := plant(t, "wrong-order", list)
	got, _ := order.call("ann", &messagesv1.ListThreadsRequest{})
	if l := got.(*messagesv1.ListThreadsResponse); l.Threads[1].ThreadId != "other" || l.Threads[2].ThreadId != "2" {
		t.Errorf("got %v, want the two of one second exchanged", l)
	}
	order.worked(1)

	count := plant(t, "wrong-unread", func(request proto.Message) proto.Message {
		if _, ok := request.(*messagesv1.UpdateRequest); ok {
			return &messagesv1.UpdateResponse{}
		}
		return list(request)
	})
	unread := func(user string) int32 {
		got, _ := count.call(user, &messagesv1.ListThreadsRequest{})
		return got.(*messagesv1.ListThreadsResponse).Threads[0].UnreadCount
	}
	before := unread("ann")
	count.call("ann", &messagesv1.UpdateRequest{Change: &messagesv1.Change{Folder: messagesv1.Folder_FOLDER_OTHER}})
	if a, b := unread("ann"), unread("bob"); before != 1 || a != 2 || b != 1 {
		t.Errorf("got %d unread before a move, %d after it, %d without one; want 1, 2, 1", before, a, b)
	}
	count.worked(4)
}
