package appserver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// TestHooks: what is done before and after each call, in order, with a time of its
// own; one before may refuse. Row I122.
func TestHooks(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, s)
	}
	hook := func(name string) Hook {
		return Hook{Name: name,
			Before: func(_ context.Context, method string, u action.User, _ proto.Message) error {
				note(fmt.Sprint(name, " before ", method, " of ", u))
				if u == "eve" && name == "inner" {
					return status.Error(codes.PermissionDenied, "planted")
				}
				return nil
			},
			After: func(_ context.Context, _ string, _ action.User, _, _ proto.Message, err error) {
				note(fmt.Sprint(name, " after ", status.Code(err)))
			}}
	}
	reg := prometheus.NewRegistry()
	c := serve(t, Config{Hooks: []Hook{hook("outer"), hook("inner")}, Registerer: reg})
	if _, err := c.UnreadCounts(as(t, "ann"), &messagesv1.UnreadCountsRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := c.UnreadCounts(as(t, "eve"), &messagesv1.UnreadCountsRequest{})
	wantCode(t, "refused by a hook", err, codes.PermissionDenied)
	want := "outer before UnreadCounts of ann; inner before UnreadCounts of ann; inner after OK; outer after OK; " +
		"outer before UnreadCounts of eve; inner before UnreadCounts of eve; outer after PermissionDenied"
	if got := strings.Join(seen, "; "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]uint64{}
	for _, f := range families {
		if f.GetName() == "appserver_stage_seconds" {
			for _, m := range f.GetMetric() {
				times[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	if times["hook_outer"] != 4 || times["hook_inner"] != 3 {
		t.Errorf("got %v, want 4 times of the outer hook and 3 of the inner", times)
	}
}

// deliverer is a client of Delivery in process, as the mail proxy is one.
func deliverer(t *testing.T) (*Server, func(user string, r *messagesv1.DeliverRequest) (*messagesv1.DeliverResponse, error)) {
	t.Helper()
	s, err := New(Config{Mailboxes: mailbox.Config{Store: &memstore.Store{}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s, func(user string, r *messagesv1.DeliverRequest) (*messagesv1.DeliverResponse, error) {
		return s.Deliver(incoming(t, user), r)
	}
}

func incoming(t *testing.T, user string) context.Context {
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-user", user))
}

// letter is a message from outside in a thread of its own.
func letter(key, from, to string) *messagesv1.DeliverRequest {
	author := users(from)[0]
	var members []*messagesv1.MembershipState
	for _, p := range append(users(from), users(to)...) {
		members = append(members, &messagesv1.MembershipState{Member: &messagesv1.Member{Participant: p, AddedBy: author}, Stamp: 1, By: author})
	}
	return &messagesv1.DeliverRequest{IdempotencyKey: key, ThreadId: "t-" + key, Members: members,
		Message: &messagesv1.Message{MessageId: key, Author: author, Channel: messagesv1.Channel_CHANNEL_EMAIL, Body: "hello"}}
}

// TestRouting: the signals by which a new thread is put into a folder. Rows I121, I123.
func TestRouting(t *testing.T) {
	s, deliver := deliverer(t)
	folder := func(user, thread string) (f messagesv1.Folder) {
		t.Helper()
		err := s.pool.Read(t.Context(), action.User(user), func(m *mailbox.State) error {
			got, err := m.View.Thread(thread)
			if err != nil || got == nil {
				return errors.Join(errors.New("no thread"), err)
			}
			f = messagesv1.Folder(got.Folder)
			return nil
		})
		if err != nil {
			t.Fatalf("%s's %s: %v", user, thread, err)
		}
		return f
	}
	take := func(user string, r *messagesv1.DeliverRequest) {
		t.Helper()
		if a, err := deliver(user, r); err != nil || a.Outcome != messagesv1.DeliverResponse_OUTCOME_TAKEN {
			t.Fatalf("got %v, %v", a, err)
		}
	}
	take("ann", letter("stranger", "x@example.org", "ann"))
	if _, err := s.Send(incoming(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "1", Recipients: users("friend@example.org"), Body: "hello"}); err != nil {
		t.Fatal(err)
	}
	take("ann", letter("user", "bob", "ann"))
	event := letter("event", "bob", "ann")
	event.Message = nil
	take("ann", event)
	for thread, want := range map[string]messagesv1.Folder{
		"t-stranger": messagesv1.Folder_FOLDER_OTHER,
		"t-user":     messagesv1.Folder_FOLDER_INBOX,
		"t-event":    messagesv1.Folder_FOLDER_INBOX,
	} {
		if got := folder("ann", thread); got != want {
			t.Errorf("%s lies in %v, want %v", thread, got, want)
		}
	}
	// What is there stays where it is; a reply of the mailbox's user moves it.
	more := letter("stranger", "x@example.org", "ann")
	more.IdempotencyKey, more.Message.MessageId = "more", "more"
	take("ann", more)
	if got := folder("ann", "t-stranger"); got != messagesv1.Folder_FOLDER_OTHER {
		t.Errorf("after more mail it lies in %v", got)
	}
	if _, err := s.Send(incoming(t, "ann"), &messagesv1.SendRequest{IdempotencyKey: "2", ThreadId: "t-stranger", Body: "who are you?"}); err != nil {
		t.Fatal(err)
	}
	if got := folder("ann", "t-stranger"); got != messagesv1.Folder_FOLDER_INBOX {
		t.Errorf("after a reply it lies in %v", got)
	}
	take("ann", letter("again", "x@example.org", "ann"))
	if got := folder("ann", "t-again"); got != messagesv1.Folder_FOLDER_INBOX {
		t.Errorf("mail from one whom the user has answered lies in %v", got)
	}
	// However often it comes, it is there once, and who has left gets none.
	for range 2 {
		take("ann", letter("user", "bob", "ann"))
	}
	if _, err := s.Unsubscribe(incoming(t, "ann"), &messagesv1.UnsubscribeRequest{IdempotencyKey: "3", ThreadId: "t-user"}); err != nil {
		t.Fatal(err)
	}
	late := letter("user", "bob", "ann")
	late.IdempotencyKey, late.Message.MessageId = "late", "late"
	for range 2 {
		if a, err := deliver("ann", late); err != nil || a.Outcome != messagesv1.DeliverResponse_OUTCOME_LEFT {
			t.Errorf("a message to who has left: got %v, %v", a, err)
		}
	}
	err := s.pool.Read(t.Context(), "ann", func(m *mailbox.State) error {
		found, _, err := m.View.Threads(index.Filter{Authors: []action.Participant{{User: "bob"}}, Limit: 10})
		if err != nil || len(found) != 1 || found[0].Messages != 1 {
			t.Errorf("bob's threads: got %v, %v, want one with one message", found, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPreload: when the Inbox is opened the bodies that are read next are fetched.
// That they are in memory then is shown in package mailbox. Rows E57, E70.
func TestPreload(t *testing.T) {
	rows := &memstore.Store{}
	body := strings.Repeat("a body that is longer than its beginning. ", 100)
	first := serve(t, Config{Mailboxes: mailbox.Config{Store: rows, FlushActions: 1}})
	begin(t, first, "ann", "old", body, "ann")
	for i := range 10 { // so that a load does not find it in what it replays
		begin(t, first, "ann", fmt.Sprint(i), "x", "ann")
	}
	reg := prometheus.NewRegistry()
	c := serve(t, Config{Mailboxes: mailbox.Config{Store: store.Instrument(rows, reg, nil), FlushActions: 1}})
	if _, err := c.ListThreads(as(t, "ann"), &messagesv1.ListThreadsRequest{Folder: messagesv1.Folder_FOLDER_INBOX}); err != nil {
		t.Fatal(err)
	}
	// A scan for what outboxes hold at the start; two for the claim, one for the load; the preload is the fifth.
	for t.Context().Err() == nil && trips(t, reg) < 5 {
	}
	if n := trips(t, reg); n != 5 {
		t.Errorf("got %.0f calls of the store, want 5", n)
	}
}
