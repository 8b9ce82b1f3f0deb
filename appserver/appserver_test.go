package appserver

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/store/memstore"
)

// serve runs a server for the test, and returns a client of it.
func serve(t *testing.T, cfg Config) messagesv1.MessagesClient {
	t.Helper()
	if cfg.Mailboxes.Store == nil {
		cfg.Mailboxes.Store = &memstore.Store{}
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(s.Options()...)
	s.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, 2)
	go func() { _ = s.Run(ctx); done <- struct{}{} }()
	go func() { _ = g.Serve(l); done <- struct{}{} }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		cancel()
		<-done
		<-done
	})
	return messagesv1.NewMessagesClient(conn)
}

func as(t *testing.T, user string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "x-user", user)
}

func users(names ...string) []*messagesv1.Participant {
	var all []*messagesv1.Participant
	for _, n := range names {
		p := &messagesv1.Participant{Address: &messagesv1.Participant_User{User: n}}
		if strings.Contains(n, "@") {
			p = &messagesv1.Participant{Address: &messagesv1.Participant_Email{Email: n}}
		}
		all = append(all, p)
	}
	return all
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

// TestConversation: a thread is begun, answered and read by both. Rows B16, B17,
// F85-F87, I110-I114, I131.
func TestConversation(t *testing.T) {
	c := serve(t, Config{Name: "one"})
	sent, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob"), Subject: "Lunch", Body: "At noon?",
		Channel: messagesv1.Channel_CHANNEL_CHAT, Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob"), Subject: "Lunch", Body: "At noon?",
		Channel: messagesv1.Channel_CHANNEL_CHAT})
	if err != nil || again.MessageId != sent.MessageId || again.Version != sent.Version {
		t.Errorf("the same again: got %v, %v, want %v", again, err, sent)
	}
	_, err = c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob"), Body: "other"})
	wantCode(t, "the key with another request", err, codes.InvalidArgument)

	got, err := c.GetThread(as(t, "bob"), &messagesv1.GetThreadRequest{ThreadId: sent.ThreadId})
	if err != nil {
		t.Fatal(err)
	}
	if got.Thread.Subject != "Lunch" || got.Thread.UnreadCount != 1 || len(got.Messages) != 1 || got.Messages[0].Body != "At noon?" ||
		got.Messages[0].MessageId != sent.MessageId || got.Messages[0].Reply || !got.Thread.Subscribed || len(got.Thread.Members) != 2 {
		t.Errorf("bob's copy: got %v", got)
	}
	reply, err := c.Send(as(t, "bob"), &messagesv1.SendRequest{IdempotencyKey: "1", ThreadId: sent.ThreadId, Body: strings.Repeat("Yes. ", 100),
		Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.ListThreads(as(t, "ann"), &messagesv1.ListThreadsRequest{Folder: messagesv1.Folder_FOLDER_INBOX})
	if err != nil || len(list.Threads) != 1 || list.Threads[0].MessageCount != 2 || list.Threads[0].UnreadCount != 1 || len(list.Threads[0].Snippet) != 200 {
		t.Errorf("ann's inbox: got %v, %v", list, err)
	}
	got, err = c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: sent.ThreadId})
	if err != nil || len(got.Messages) != 2 || got.Messages[0].MessageId != reply.MessageId || got.Messages[0].Body != strings.Repeat("Yes. ", 100) || !got.Messages[0].Reply {
		t.Errorf("ann's copy: got %v, %v", got, err)
	}
	_, err = c.GetThread(as(t, "eve"), &messagesv1.GetThreadRequest{ThreadId: sent.ThreadId})
	wantCode(t, "another user's thread", err, codes.NotFound)
	_, err = c.Send(as(t, "eve"), &messagesv1.SendRequest{IdempotencyKey: "1", ThreadId: sent.ThreadId, Body: "hi"})
	wantCode(t, "a reply to another user's thread", err, codes.NotFound)
	_, err = c.GetThread(t.Context(), &messagesv1.GetThreadRequest{ThreadId: sent.ThreadId})
	wantCode(t, "nobody", err, codes.InvalidArgument)

	stats, err := c.MailboxStats(as(t, "ann"), &messagesv1.MailboxStatsRequest{})
	if err != nil || stats.Messages != 2 || stats.Threads != 1 || stats.Replies != 1 || stats.Friends != 1 {
		t.Errorf("ann's figures: got %v, %v", stats, err)
	}
	hits, err := c.Search(as(t, "ann"), &messagesv1.SearchRequest{Query: "noon"})
	if err != nil || len(hits.Hits) != 1 || hits.Hits[0].MessageId != sent.MessageId {
		t.Errorf("search: got %v, %v", hits, err)
	}
}

// TestUnreadOfOtherSecondPage is the worked example of the engineers: unread threads
// on the second page of the Other folder. Rows F82-F84.
func TestUnreadOfOtherSecondPage(t *testing.T) {
	c := serve(t, Config{})
	for i := range 30 {
		key := fmt.Sprint(i)
		sent, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: key, Recipients: users("bob"), Subject: "No " + key, Body: "hello",
			Wait: messagesv1.Wait_WAIT_DELIVERED})
		if err != nil {
			t.Fatal(err)
		}
		change := &messagesv1.Change{Folder: messagesv1.Folder_FOLDER_OTHER}
		if i%3 == 0 {
			read := true
			change.Read = &read
		}
		if _, err := c.Update(as(t, "bob"), &messagesv1.UpdateRequest{IdempotencyKey: "u" + key, ThreadId: sent.ThreadId, Change: change}); err != nil {
			t.Fatal(err)
		}
	}
	unread := true
	r := &messagesv1.ListThreadsRequest{Folder: messagesv1.Folder_FOLDER_OTHER, Unread: &unread, PageSize: 8}
	first, err := c.ListThreads(as(t, "bob"), r)
	if err != nil || len(first.Threads) != 8 || first.NextPageToken == "" {
		t.Fatalf("first page: got %v, %v", first, err)
	}
	r.PageToken = first.NextPageToken
	second, err := c.ListThreads(as(t, "bob"), r)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range second.Threads {
		got = append(got, x.Subject)
	}
	if want := "[No 17 No 16 No 14 No 13 No 11 No 10 No 8 No 7]"; fmt.Sprint(got) != want {
		t.Errorf("second page: got %v, want %s", got, want)
	}
	r.Folder = messagesv1.Folder_FOLDER_INBOX
	_, err = c.ListThreads(as(t, "bob"), r)
	wantCode(t, "a token of another request", err, codes.InvalidArgument)
}

// TestGroup: members join and leave, and all copies hear of it. Row I136.
func TestGroup(t *testing.T) {
	c := serve(t, Config{})
	sent, err := c.Send(as(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("bob"), Body: "hello", Wait: messagesv1.Wait_WAIT_DELIVERED})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.Watch(as(t, "cy"), &messagesv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if started, err := stream.Recv(); err != nil || started.GetStarted() == nil {
		t.Fatalf("got %v, %v, want the stream's start", started, err)
	}
	joined, err := c.Subscribe(as(t, "bob"), &messagesv1.SubscribeRequest{IdempotencyKey: "2", ThreadId: sent.ThreadId, Members: users("cy", "dee@Example.org")})
	if err != nil || len(joined.Members) != 4 {
		t.Fatalf("got %v, %v, want four members", joined, err)
	}
	if event, err := stream.Recv(); err != nil || len(event.GetMembership().GetJoined()) != 4 {
		t.Errorf("cy hears: got %v, %v, want the thread's members", event, err)
	}
	if _, err := c.Send(as(t, "cy"), &messagesv1.SendRequest{IdempotencyKey: "3", ThreadId: sent.ThreadId, Body: "thanks", Wait: messagesv1.Wait_WAIT_DELIVERED}); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetThread(as(t, "ann"), &messagesv1.GetThreadRequest{ThreadId: sent.ThreadId})
	if err != nil || len(got.Messages) != 2 || len(got.Thread.Members) != 4 || got.Thread.ReplyHandler == "" {
		t.Errorf("ann's copy: got %v, %v", got, err)
	}
	if _, err := c.Unsubscribe(as(t, "cy"), &messagesv1.UnsubscribeRequest{IdempotencyKey: "4", ThreadId: sent.ThreadId}); err != nil {
		t.Fatal(err)
	}
	_, err = c.Send(as(t, "cy"), &messagesv1.SendRequest{IdempotencyKey: "5", ThreadId: sent.ThreadId, Body: "me again"})
	wantCode(t, "who has left", err, codes.FailedPrecondition)
}
