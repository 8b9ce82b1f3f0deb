package chat

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	chatv1 "darklaunch/api/legacy/chat/v1"
	"darklaunch/appserver/legacy"
)

type rig struct {
	chat   *Chat
	server *Server
	stop   func()
	chatv1.ChatClient
}

func start(t *testing.T, dir string, cfg legacy.Config) *rig {
	t.Helper()
	c, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	server := NewServer(c, nil, nil)
	g := grpc.NewServer(server.Options()...)
	server.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{chat: c, server: server, ChatClient: chatv1.NewChatClient(conn)}
	r.stop = sync.OnceFunc(func() {
		server.EndStreams()
		g.GracefulStop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func as(t *testing.T, user string, pairs ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, append([]string{"x-user", user}, pairs...)...)
}

func TestChat(t *testing.T) {
	r := start(t, "data", legacy.Config{FS: vfs.NewMem(), Now: func() time.Time { return time.UnixMilli(1000) }})
	send := func(from, to, body string, want *chatv1.SendResponse) {
		t.Helper()
		got, err := r.Send(as(t, from), &chatv1.SendRequest{To: to, Body: body})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("send (-want +got):\n%s", diff)
		}
	}
	send("bob", "ann", "hi", &chatv1.SendResponse{Id: "1", Conversation: "ann:bob", SentAtMs: 1000, Recipients: []string{"ann"}})
	send("ann", "bob", "hello", &chatv1.SendResponse{Id: "2", Conversation: "ann:bob", SentAtMs: 1001, Recipients: []string{"bob"}})
	send("ann", "cid", "you?", &chatv1.SendResponse{Id: "3", Conversation: "ann:cid", SentAtMs: 1002, Recipients: []string{"cid"}})
	first := &chatv1.Message{Id: "1", Conversation: "ann:bob", From: "bob", To: "ann", Body: "hi", SentAtMs: 1000}
	second := &chatv1.Message{Id: "2", Conversation: "ann:bob", From: "ann", To: "bob", Body: "hello", SentAtMs: 1001}
	for _, tt := range []struct {
		user string
		r    *chatv1.HistoryRequest
		want []*chatv1.Message
	}{
		{"ann", &chatv1.HistoryRequest{Conversation: "ann:bob"}, []*chatv1.Message{second, first}},
		{"bob", &chatv1.HistoryRequest{Conversation: "ann:bob", Limit: 1}, []*chatv1.Message{second}},
		{"bob", &chatv1.HistoryRequest{Conversation: "ann:bob", Limit: 1, BeforeMs: 1001}, []*chatv1.Message{first}},
		{"bob", &chatv1.HistoryRequest{Conversation: "ann:bob", BeforeMs: 1000}, nil},
	} {
		got, err := r.History(as(t, tt.user), tt.r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got.Messages, protocmp.Transform()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.r, diff)
		}
	}
	got, err := r.Presence(as(t, "cid"), &chatv1.PresenceRequest{Users: []string{"ann", "cid"}})
	if err != nil {
		t.Fatal(err)
	}
	want := &chatv1.PresenceResponse{Users: []*chatv1.PresenceResponse_User{{User: "ann", LastSentMs: 1002}, {User: "cid"}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("presence (-want +got):\n%s", diff)
	}
}

func TestRefused(t *testing.T) {
	r := start(t, "data", legacy.Config{FS: vfs.NewMem()})
	send := func(to, body string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := r.Send(ctx, &chatv1.SendRequest{To: to, Body: body})
			return err
		}
	}
	history := func(h *chatv1.HistoryRequest) func(context.Context) error {
		return func(ctx context.Context) error { _, err := r.History(ctx, h); return err }
	}
	if err := send("bob", "x")(as(t, "ann")); err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		ctx  context.Context
		call func(context.Context) error
		want codes.Code
	}{
		{t.Context(), send("bob", "x"), codes.InvalidArgument},
		{as(t, "a:b"), send("bob", "x"), codes.InvalidArgument},
		{as(t, "ann", "x-user", "bob"), send("bob", "x"), codes.InvalidArgument},
		{as(t, "ann"), send("ann", "x"), codes.InvalidArgument},
		{as(t, "ann"), send("b b", "x"), codes.InvalidArgument},
		{as(t, "ann"), send("bob", ""), codes.InvalidArgument},
		{as(t, "ann"), send("bob", string(make([]byte, 1))), codes.InvalidArgument},
		{as(t, "ann", "x-assign-id", "7", "x-assign-time", "7"), send("bob", "x"), codes.InvalidArgument},
		{as(t, "ann", "x-assign-id", "7"), send("bob", "x"), codes.InvalidArgument},
		{as(t, "ann"), history(&chatv1.HistoryRequest{Conversation: "ann:bob", Limit: 101}), codes.InvalidArgument},
		{as(t, "ann"), history(&chatv1.HistoryRequest{Conversation: "ann:bob", BeforeMs: -1}), codes.InvalidArgument},
		{as(t, "ann"), history(&chatv1.HistoryRequest{Conversation: "bob:ann"}), codes.NotFound},
		{as(t, "ann"), history(&chatv1.HistoryRequest{Conversation: "ann:cid"}), codes.NotFound},
		{as(t, "cid"), history(&chatv1.HistoryRequest{Conversation: "ann:bob"}), codes.NotFound},
		{as(t, "ann"), func(ctx context.Context) error {
			_, err := r.Presence(ctx, &chatv1.PresenceRequest{})
			return err
		}, codes.InvalidArgument},
	} {
		if err := tt.call(tt.ctx); status.Code(err) != tt.want {
			t.Errorf("call %d: got %v, want %v", i, err, tt.want)
		}
	}
}

func TestStream(t *testing.T) {
	r := start(t, "data", legacy.Config{FS: vfs.NewMem()})
	stream, err := r.Stream(as(t, "bob"), &chatv1.StreamRequest{})
	if err == nil {
		_, err = stream.Header() // it has begun
	}
	if err != nil {
		t.Fatal(err)
	}
	online := func() bool {
		got, err := r.Presence(as(t, "ann"), &chatv1.PresenceRequest{Users: []string{"bob"}})
		if err != nil {
			t.Fatal(err)
		}
		return got.Users[0].Online
	}
	if !online() {
		t.Error("got bob offline, want online with a stream open")
	}
	for _, from := range []string{"ann", "bob"} {
		to := map[string]string{"ann": "bob", "bob": "ann"}[from]
		if _, err := r.Send(as(t, from), &chatv1.SendRequest{To: to, Body: "from " + from}); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil || got.Message.Body != "from "+from {
			t.Errorf("got %v, %v, want the message from %s", got, err, from)
		}
	}
	slow := &reader{messages: make(chan *chatv1.Message, 1)}
	r.server.mu.Lock()
	r.server.readers["cid"] = map[*reader]bool{slow: true}
	r.server.mu.Unlock()
	for range 3 {
		if _, err := r.Send(as(t, "ann"), &chatv1.SendRequest{To: "cid", Body: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.server.cutOff(slow); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a slow reader: got %v, want RESOURCE_EXHAUSTED", err)
	}
	r.server.EndStreams()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("at the end: got %v, want UNAVAILABLE", err)
	}
}

// What users were answered is there after a restart, and a control that is told the
// same answers the same.
func TestConcurrentUsersRestartAndControl(t *testing.T) {
	fs := vfs.NewMem()
	r := start(t, "data", legacy.Config{FS: fs})
	const users, each = 8, 40
	name := func(i int) string { return "user" + strconv.Itoa(i) }
	var mu sync.Mutex
	type exchange struct {
		from string
		r    *chatv1.SendRequest
		a    *chatv1.SendResponse
	}
	var done []exchange
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			for n := range each {
				e := exchange{from: name(i), r: &chatv1.SendRequest{To: name((i + 1 + n%(users-1)) % users), Body: fmt.Sprint(i, " says ", n)}}
				var err error
				if e.a, err = r.Send(as(t, e.from), e.r); err != nil {
					t.Error(err)
				}
				mu.Lock()
				done = append(done, e)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	reading := func(r *rig) (all []*chatv1.HistoryResponse) {
		for i := range users {
			for j := i + 1; j < users; j++ {
				a, err := r.History(as(t, name(j)), &chatv1.HistoryRequest{Conversation: Conversation(name(i), name(j)), Limit: 100})
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, a)
			}
		}
		return all
	}
	want := reading(r)
	total := 0
	for _, h := range want {
		total += len(h.Messages)
	}
	if total != users*each {
		t.Errorf("got %d messages, want %d", total, users*each)
	}
	r.stop()
	if diff := cmp.Diff(want, reading(start(t, "data", legacy.Config{FS: fs})), protocmp.Transform()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	control := start(t, "control", legacy.Config{FS: fs, AcceptAssigned: true})
	for _, e := range done {
		ctx := as(t, e.from, "x-assign-id", e.a.Id, "x-assign-time", strconv.FormatInt(e.a.SentAtMs, 10))
		got, err := control.Send(ctx, e.r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e.a, got, protocmp.Transform()); diff != "" {
			t.Fatalf("control (-want +got):\n%s", diff)
		}
		if _, err := control.Send(ctx, e.r); status.Code(err) != codes.AlreadyExists {
			t.Fatalf("an assigned id again: got %v, want ALREADY_EXISTS", err)
		}
	}
	if diff := cmp.Diff(want, reading(control), protocmp.Transform()); diff != "" {
		t.Errorf("control (-want +got):\n%s", diff)
	}
}
