package migrate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver"
	"darklaunch/appserver/action"
	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/chat"
	"darklaunch/appserver/legacy/inbox"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// old is what some users have done in both systems.
func old(t *testing.T) *Old {
	t.Helper()
	fs := vfs.NewMem()
	cfg := legacy.Config{FS: fs, AcceptAssigned: true, NoSync: true}
	x, err := inbox.Open("inbox", cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := chat.Open("chat", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(x.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var threads []string
	must(legacy.Generate(12, 7, 1_290_000_000_000, func(g legacy.Generated) error {
		if g.Kind == legacy.Chat {
			_, err := c.Send(g.From, g.To[0], g.Body, nil)
			return err
		}
		d := inbox.Draft{To: g.To, Subject: g.Subject, Body: g.Body}
		if g.Reply >= 0 {
			d.Thread = threads[g.Reply]
		}
		r, err := x.Import(g.From, d, inbox.FolderInbox, g.Read, legacy.Stamp{ID: uint64(len(threads)) + 1, Time: g.Time})
		threads = append(threads, r.Thread)
		return err
	}))
	send := func(user string, d inbox.Draft) inbox.Receipt {
		r, err := x.Send(user, d, nil)
		must(err)
		return r
	}
	first := send("ann", inbox.Draft{To: []string{"bob"}, Subject: "Lunch", Body: strings.Repeat("long ", 100)})
	send("bob", inbox.Draft{Thread: first.Thread, To: []string{"cid"}, Body: "Fine"})
	send("cid", inbox.Draft{Thread: first.Thread, Body: "Me too"})
	send("ann", inbox.Draft{To: []string{"ann"}, Body: "a note"})
	_, err = x.Mark("ann", first.Thread, "", false, nil)
	must(err)
	_, err = x.Move("bob", first.Thread, inbox.FolderOther, nil)
	must(err)
	_, err = x.Delete("cid", first.Thread, "", nil)
	must(err)
	gone := send("bob", inbox.Draft{To: []string{"ann"}, Body: "one"})
	more := send("bob", inbox.Draft{Thread: gone.Thread, Body: "two"})
	_, err = x.Delete("ann", gone.Thread, more.ID, nil)
	must(err)
	_, err = c.Send("bob", "ann", "hi", nil)
	must(err)
	o, err := NewOld(x, c)
	must(err)
	return o
}

func importAll(t *testing.T, o *Old, s store.Store, takes func(string) bool) (done []string) {
	t.Helper()
	w, err := NewWriter(s, "", time.Unix(1_300_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	users, err := o.Users()
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		if !takes(u) {
			continue
		}
		log, err := o.Log(u)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := w.Import(t.Context(), u, log); err != nil || r.Actions != len(log) {
			t.Fatalf("import %s: got %+v, %v, want %d actions", u, r, err, len(log))
		}
		done = append(done, u)
	}
	return done
}

func everybody(string) bool { return true }

// Each user is of one part, and the parts' imports together are the import of all.
func TestParts(t *testing.T) {
	o := old(t)
	s, whole := &memstore.Store{}, &memstore.Store{}
	var done []string
	for i := range 3 {
		part := importAll(t, o, s, func(u string) bool { return Part(u, i, 3) })
		if len(part) == 0 {
			t.Errorf("part %d has no users", i)
		}
		done = append(done, part...)
	}
	slices.Sort(done)
	want := importAll(t, o, whole, everybody)
	if diff := cmp.Diff(want, done); diff != "" {
		t.Errorf("users of the parts (-want +got):\n%s", diff)
	}
	for _, u := range want {
		a, errA := ReadLog(t.Context(), s, u)
		b, errB := ReadLog(t.Context(), whole, u)
		if diff := cmp.Diff(b, a); diff != "" || errors.Join(errA, errB) != nil {
			t.Errorf("%s: %v, %v (-want +got):\n%s", u, errA, errB, diff)
		}
	}
}

// dying is a store that fails all puts from a number on, one of them after it was done.
type dying struct {
	store.Store
	left int
}

var errDead = errors.New("dead")

func (d *dying) Put(ctx context.Context, u string, cur, next store.Fence, cells []store.Cell) error {
	if d.left--; d.left > 0 {
		return d.Store.Put(ctx, u, cur, next, cells)
	}
	if d.left == 0 {
		return errors.Join(errDead, d.Store.Put(ctx, u, cur, next, cells))
	}
	return errDead
}

func (d *dying) Read(ctx context.Context, u string, spans ...store.Span) (store.Row, error) {
	if d.left <= 0 {
		return store.Row{}, errDead
	}
	return d.Store.Read(ctx, u, spans...)
}

// An import that was ended at any put, whose outcome nobody learned, goes on.
func TestResumed(t *testing.T) {
	o := old(t)
	log, err := o.Log("u1")
	if err != nil {
		t.Fatal(err)
	}
	// As much as makes several puts.
	for i := len(log); i < 3000; i++ {
		log = append(log, action.Action{Sequence: uint64(i) + 1, Channel: action.ChannelMessage, Origin: action.OriginJob,
			Do: &action.Muted{Thread: "inbox:1", Is: i%2 == 0}})
	}
	for puts := 1; puts <= 4; puts++ {
		if testing.Short() && puts != 2 {
			continue
		}
		s := &memstore.Store{}
		ended, err := NewWriter(&dying{s, puts}, "", time.Unix(1, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ended.Import(t.Context(), "u1", log); !errors.Is(err, errDead) {
			t.Fatalf("after %d puts: got %v, want the store's end", puts, err)
		}
		w, err := NewWriter(s, "", time.Unix(2, 0))
		if err != nil {
			t.Fatal(err)
		}
		had, err := ReadLog(t.Context(), s, "u1")
		if err != nil || len(had) != 1000*(puts-1) {
			t.Errorf("after %d puts: got a log of %d, %v, want %d", puts, len(had), err, 1000*(puts-1))
		}
		for _, written := range []int{len(log) - len(had), 0} {
			if r, err := w.Import(t.Context(), "u1", log); err != nil || r.Written != written {
				t.Errorf("after %d puts: got %d written, %v, want %d", puts, r.Written, err, written)
			}
		}
		if c, err := mailbox.Check(t.Context(), s, "u1", ""); err != nil || c.Lag != 0 || c.Actions != uint64(len(log)) {
			t.Errorf("after %d puts: got %+v, %v, want metadata of all %d actions", puts, c, err, len(log))
		}
	}
}

// A mailbox that holds something else is left alone.
func TestOther(t *testing.T) {
	o := old(t)
	s := &memstore.Store{}
	w, err := NewWriter(s, "", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	log, err := o.Log("ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Import(t.Context(), "ann", log[:3]); err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(log)
	other[1].Channel = action.ChannelSMS
	if _, err := w.Import(t.Context(), "ann", other); !errors.Is(err, ErrOther) {
		t.Errorf("got %v, want ErrOther", err)
	}
	if have, err := ReadLog(t.Context(), s, "ann"); len(have) != 3 || err != nil {
		t.Errorf("got a log of %d, %v, want the 3 of before", len(have), err)
	}
}

// serveCell starts an application server on a store.
func serveCell(t *testing.T, s store.Store) messagesv1.MessagesClient {
	t.Helper()
	server, err := appserver.New(appserver.Config{Name: "one", TrustedIDs: true, ReplySecret: []byte("secret"), ReplyDomain: "reply.invalid",
		Mailboxes: mailbox.Config{Store: s}})
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(server.Options()...)
	server.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- server.Run(ctx) }()
	go func() { served <- g.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		g.GracefulStop()
		stop()
		if err := errors.Join(<-served, <-ran); err != nil {
			t.Error(err)
		}
	})
	return messagesv1.NewMessagesClient(conn)
}

var newFolders = map[string]messagesv1.Folder{"INBOX": messagesv1.Folder_FOLDER_INBOX, "OTHER": messagesv1.Folder_FOLDER_OTHER}

// What users read through the new API is what they read through the old ones.
func TestReadThroughMessages(t *testing.T) {
	o := old(t)
	s := &memstore.Store{}
	users := importAll(t, o, s, everybody)
	cell := serveCell(t, s)
	for _, u := range users {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-user", u)
		threads, err := o.Inbox.Threads(u, inbox.Filter{Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		list, err := cell.ListThreads(ctx, &messagesv1.ListThreadsRequest{PageSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, th := range threads {
			want = append(want, fmt.Sprint("inbox:", th.ID, th.Subject, newFolders[th.Folder], th.Messages, th.Unread, th.With, th.Time, th.Preview))
		}
		for _, th := range list.Threads {
			if strings.HasPrefix(th.ThreadId, "inbox:") {
				got = append(got, fmt.Sprint(th.ThreadId, th.Subject, th.Folder, th.MessageCount, th.UnreadCount, members(th), th.NewestTime.AsTime().UnixMilli(), th.Snippet))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("threads of %s (-old +new):\n%s", u, diff)
		}
		for _, th := range threads {
			_, messages, err := o.Inbox.Thread(u, th.ID, 0, 100)
			if err != nil {
				t.Fatal(err)
			}
			page, err := cell.GetThread(ctx, &messagesv1.GetThreadRequest{ThreadId: "inbox:" + th.ID, PageSize: 100})
			if err != nil {
				t.Fatal(err)
			}
			want, got := []string{}, []string{}
			for _, m := range messages {
				want = append(want, fmt.Sprint("inbox:", m.ID, m.From, m.Body, m.Time, m.Read))
			}
			for _, m := range page.Messages {
				got = append(got, fmt.Sprint(m.MessageId, m.Author.GetUser(), m.Body, m.Time.AsTime().UnixMilli(), m.Read))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("thread %s of %s (-old +new):\n%s", th.ID, u, diff)
			}
		}
		compareSearches(ctx, t, o, cell, u)
		for _, id := range o.conversations[u] {
			history, err := o.Chat.History(u, id, 100, 0)
			if err != nil {
				t.Fatal(err)
			}
			page, err := cell.GetThread(ctx, &messagesv1.GetThreadRequest{ThreadId: "chat:" + id, PageSize: 100})
			if err != nil {
				t.Fatal(err)
			}
			want, got := []string{}, []string{}
			for _, m := range history {
				want = append(want, fmt.Sprint("chat:", m.ID, m.From, m.Body, m.Time))
			}
			for _, m := range page.Messages {
				got = append(got, fmt.Sprint(m.MessageId, m.Author.GetUser(), m.Body, m.Time.AsTime().UnixMilli()))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("conversation %s of %s (-old +new):\n%s", id, u, diff)
			}
		}
	}
}

func members(t *messagesv1.Thread) (users []string) {
	for _, m := range t.Members {
		users = append(users, m.Participant.GetUser())
	}
	slices.Sort(users)
	return users
}

// compareSearches compares a search and the counts of unread messages.
func compareSearches(ctx context.Context, t *testing.T, o *Old, cell messagesv1.MessagesClient, u string) {
	t.Helper()
	word := "lunch"
	if threads, _ := o.Inbox.Threads(u, inbox.Filter{Limit: 1}); len(threads) > 0 {
		word = strings.Fields(threads[0].Preview)[0]
	}
	hits, err := o.Inbox.Search(u, word, 100)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := o.Inbox.Counts(u, "")
	if err != nil {
		t.Fatal(err)
	}
	found, err := cell.Search(ctx, &messagesv1.SearchRequest{Query: word + " channel:message", PageSize: 100})
	if err != nil {
		t.Fatal(err)
	}
	want, got := []string{}, []string{}
	for _, h := range hits {
		want = append(want, fmt.Sprint("inbox:", h.Thread, " inbox:", h.ID, h.From, h.Time))
	}
	for _, h := range found.Hits {
		got = append(got, fmt.Sprint(h.ThreadId, " ", h.MessageId, h.Author.GetUser(), h.Time.AsTime().UnixMilli()))
	}
	for _, c := range counts {
		unread, err := cell.Search(ctx, &messagesv1.SearchRequest{Query: "in:" + strings.ToLower(c.Folder) + " is:unread channel:message", PageSize: 100})
		if err != nil {
			t.Fatal(err)
		}
		want, got = append(want, fmt.Sprint(c.Folder, c.Unread)), append(got, fmt.Sprint(c.Folder, len(unread.Hits)))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("search for %q and counts of %s (-old +new):\n%s", word, u, diff)
	}
}

// Compare finds nothing after an import, and what the cell is told beyond it.
func TestCompare(t *testing.T) {
	o := old(t)
	s := &memstore.Store{}
	users := importAll(t, o, s, everybody)
	differences := func(us ...string) (what []string) {
		for _, u := range us {
			found, err := Compare(t.Context(), o, s, u, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range found {
				what = append(what, fmt.Sprintf("%s %s: %s", d.User, d.Thread, d.What))
			}
		}
		return what
	}
	if got := differences(users...); len(got) > 0 {
		t.Errorf("after the import: got %v, want no difference", got)
	}
	if got := differences("nobody"); len(got) > 0 {
		t.Errorf("of a user who is nowhere: got %v, want no difference", got)
	}
	cell := serveCell(t, s)
	copies, err := o.Inbox.Copies("bob")
	if err != nil {
		t.Fatal(err)
	}
	lunch := "inbox:" + copies[0].ID
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-user", "bob")
	read := true
	if _, err := cell.Update(ctx, &messagesv1.UpdateRequest{IdempotencyKey: "1", ThreadId: lunch,
		Change: &messagesv1.Change{Folder: messagesv1.Folder_FOLDER_INBOX, Read: &read}}); err != nil {
		t.Fatal(err)
	}
	first := "inbox:" + copies[0].Letters[0].ID
	if _, err := cell.Delete(ctx, &messagesv1.DeleteRequest{IdempotencyKey: "2", ThreadId: lunch, MessageIds: []string{first}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cell.Send(ctx, &messagesv1.SendRequest{IdempotencyKey: "3", ThreadId: lunch, Body: "x", Wait: messagesv1.Wait_WAIT_DELIVERED,
		Assigned: &messagesv1.Assigned{MessageId: "inbox:9999"}}); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(differences("bob"), "\n")
	for _, want := range []string{"folder: old 2, cell 1", "message " + first + " is missing in the cell", "message inbox:9999: the old data do not have it",
		"old read false, cell read true"} {
		if !strings.Contains(got, want) {
			t.Errorf("got %s\nwant %q in it", got, want)
		}
	}
	if got := differences("ann"); len(got) != 1 || !strings.Contains(got[0], "inbox:9999") {
		t.Errorf("got %v of ann, want the message that the cell alone has", got)
	}
	empty := &memstore.Store{}
	if found, err := Compare(t.Context(), o, empty, "ann", ""); err != nil || len(found) == 0 || !strings.Contains(found[0].What, "missing") {
		t.Errorf("an empty cell: got %v, %v, want threads missing", found, err)
	}
}
