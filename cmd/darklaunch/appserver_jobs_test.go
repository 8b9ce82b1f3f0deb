package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/action"
	"darklaunch/appserver/client"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/hbase"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/pebble"
	"darklaunch/appserver/store/rows"
	testhbase "darklaunch/internal/testenv/hbase"
)

// TestPurgeOnStores: a deleted message's body is gone from the log and from the search
// index of sender and recipient, with two workers for the rows and a server that has
// the mailboxes meanwhile and afterwards. Row I133.
func TestPurgeOnStores(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) store.Store{
		"memory": func(*testing.T) store.Store { return &memstore.Store{} },
		"pebble": func(t *testing.T) store.Store {
			s, err := pebble.Open(t.TempDir(), pebble.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"rows": func(t *testing.T) store.Store {
			_, addr, _ := startStore(t, "127.0.0.1:0", t.TempDir())
			s, err := rows.Open(t.Context(), addr, rows.Config{})
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		"hbase": func(t *testing.T) store.Store {
			if testing.Short() {
				t.Skip("-short: HBase takes seconds to start")
			}
			srv := testhbase.Standalone(t, testhbase.Shared)
			cfg := hbase.Config{Quorum: srv.Quorum, Table: fmt.Sprintf("purge-%d", time.Now().UnixNano()), Timeout: 20 * time.Second, ReadTimeout: 10 * time.Second}
			hbase.TakeLogs(nil)
			if _, err := hbase.Create(t.Context(), cfg, 2); err != nil {
				t.Fatal(err)
			}
			s, err := hbase.Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() { s.Close() })
			purgeOn(t, s)
		})
	}
}

func purgeOn(t *testing.T, s store.Store) {
	w := &world{t: t}
	c := w.serve(s, prometheus.NewRegistry())
	ann := client.As(t.Context(), "ann")
	send := func(key, thread, body string) *messagesv1.SendResponse {
		t.Helper()
		r := &messagesv1.SendRequest{IdempotencyKey: key, ThreadId: thread, Body: body, Wait: messagesv1.Wait_WAIT_DELIVERED}
		if thread == "" {
			r.Recipients = named("bob")
		}
		sent, err := c.Send(ann, r)
		if err != nil {
			t.Fatal(err)
		}
		return sent
	}
	kept := send("1", "", "the public words")
	secret := "the secretive words" + strings.Repeat(" more", 200) // longer than a snippet
	gone := send("2", kept.ThreadId, secret)
	for i, u := range []string{"ann", "bob"} {
		_, err := c.Delete(client.As(t.Context(), u), &messagesv1.DeleteRequest{IdempotencyKey: fmt.Sprint("d", i), ThreadId: kept.ThreadId, MessageIds: []string{gone.MessageId}})
		if err != nil {
			t.Fatal(err)
		}
	}
	holds := func(user, text string) (found []store.Family) {
		t.Helper()
		var spans []store.Span
		for _, f := range store.Families() {
			spans = append(spans, store.Span{Family: f})
		}
		row, _, err := store.ReadAll(t.Context(), s, user, spans...)
		if err != nil {
			t.Fatal(err)
		}
		for _, cell := range row.Cells {
			if strings.Contains(string(cell.Qualifier)+string(cell.Value), text) {
				found = append(found, cell.Family)
			}
		}
		return found
	}
	if len(holds("ann", "secretive")) == 0 {
		t.Error("the contents are gone before the purge")
	}
	// The entry of the delivery is removed some time after it was made.
	purge := func(olderThan time.Duration) (users int, removed mailbox.Purged) {
		t.Helper()
		for i := range 2 {
			j := &purgeJob{rowsJob: rowsJob{index: i, total: 2}, olderThan: olderThan}
			j.each = j.purge
			r, err := j.over(t.Context(), s)
			if err != nil || len(r.Failed) > 0 || !r.Whole {
				t.Errorf("part %d: got %+v, %v", i, r, err)
			}
			users += r.Users
			removed.Messages += j.removed.Messages
			removed.Bytes += j.removed.Bytes
		}
		return users, removed
	}
	if _, removed := purge(time.Hour); removed != (mailbox.Purged{}) {
		t.Errorf("of an hour ago: got %+v, want nothing", removed)
	}
	var all mailbox.Purged
	waitFor(t, "both copies to be purged", func() bool {
		users, removed := purge(0)
		if users != 2 {
			t.Errorf("%d users, want 2", users)
		}
		all.Messages += removed.Messages
		all.Bytes += removed.Bytes
		return all.Messages >= 2
	})
	if all.Messages != 2 || all.Bytes != int64(2*len(secret)) {
		t.Errorf("got %+v, want 2 messages of %d bytes", all, len(secret))
	}
	// What a server shows, before and after it has loaded them anew.
	for _, server := range []*client.Client{c, w.serve(s, prometheus.NewRegistry())} {
		for _, u := range []string{"ann", "bob"} {
			as := client.As(t.Context(), u)
			a, err := server.GetThread(as, &messagesv1.GetThreadRequest{ThreadId: kept.ThreadId})
			if err != nil || len(a.Messages) != 1 || a.Messages[0].Body != "the public words" {
				t.Errorf("%s: got %v, %v, want the message that was kept", u, a, err)
			}
			for word, want := range map[string]int{"public": 1, "secretive": 0} {
				found, err := server.Search(as, &messagesv1.SearchRequest{Query: word})
				if err != nil || len(found.Hits) != want {
					t.Errorf("%s searches %q: got %v, %v, want %d hits", u, word, found, err, want)
				}
			}
			stats, err := server.MailboxStats(as, &messagesv1.MailboxStatsRequest{})
			if err != nil || stats.CapacityUsedBytes != int64(len("the public words")) {
				t.Errorf("%s: got %v, %v, want the capacity of what is left", u, stats, err)
			}
		}
	}
	if again := send("2", kept.ThreadId, secret); again.MessageId != gone.MessageId {
		t.Errorf("the purged message sent again: got %v, want its id", again)
	}
	for _, u := range []string{"ann", "bob"} {
		if found := holds(u, "secretive"); len(found) > 0 {
			t.Errorf("%s: the contents are still in %v", u, found)
		}
		if _, err := mailbox.Check(t.Context(), s, u, ""); err != nil {
			t.Errorf("%s: %v", u, err)
		}
	}
	if _, removed := purge(0); removed != (mailbox.Purged{}) {
		t.Errorf("done again: got %+v, want nothing", removed)
	}
}

// TestJobCommands runs purge and rebuild on the rows of a stopped server, whose
// metadata is of the first schema.
func TestJobCommands(t *testing.T) {
	dir := t.TempDir()
	opened, err := pebble.Open(dir, pebble.Config{})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := mailbox.New(mailbox.Config{Store: opened, Schema: index.V1})
	if err != nil {
		t.Fatal(err)
	}
	users := []string{"ann", "bob", "eve"}
	fillMailboxes(t, pool, users)
	if err := opened.Close(); err != nil {
		t.Fatal(err)
	}
	job := func(args ...string) (r purgeResult) {
		t.Helper()
		code, stdout, stderr := start(t, append([]string{"appserver", args[0], "--store", "pebble:" + dir, "--json", "-"}, args[1:]...)...).end()
		if code != exitDone {
			t.Fatalf("%q: got %d; %s", args, code, stderr)
		}
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := job("rebuild", "--index", "0", "--total", "1"); r.Schema != "appserver-rebuild/v1" || r.Users != 3 || r.Done != 3 || !r.Whole {
		t.Errorf("rebuild: got %+v, want 3 of 3", r)
	}
	if r := job("rebuild"); r.Users != 3 || r.Done != 0 {
		t.Errorf("rebuild again: got %+v, want nothing to do", r)
	}
	if r := job("purge"); r.Schema != "appserver-purge/v1" || r.Users != 3 || r.Messages != 0 {
		t.Errorf("purge: got %+v, want nothing that is 30 days old", r)
	}
	if r := job("purge", "--older-than", "0s"); r.Done != 3 || r.Messages != 3 || r.Bytes != int64(3*len("dropped")) {
		t.Errorf("purge: got %+v, want 3 messages", r)
	}
	if code, stdout, stderr := start(t, "appserver", "check", "--store", "pebble:"+dir).end(); code != exitDone {
		t.Errorf("check: got %d; %s%s", code, stdout, stderr)
	}
	if code, _, _ := start(t, "appserver", "purge", "--store", "pebble:"+dir, "--index", "2", "--total", "2").end(); code != exitUsage {
		t.Errorf("part 2 of 2: got %d, want %d", code, exitUsage)
	}
}

// fillMailboxes has each user write two messages into a thread of their own, and delete
// the second; it returns when all is in the store.
func fillMailboxes(t *testing.T, pool *mailbox.Pool, users []string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- pool.Run(ctx) }()
	for _, u := range users {
		self := action.Participant{User: action.User(u)}
		message := func(id, body string) *action.MessageCreated {
			return &action.MessageCreated{Message: action.Message{Thread: "t", ID: id, Author: self, Channel: action.ChannelChat, Body: body}, Recipients: []action.Participant{self}}
		}
		_, err := pool.Mutate(ctx, action.User(u), mailbox.Mutation{Origin: action.OriginUser, Decide: func(index.View, uint64, action.Time) ([]action.Do, error) {
			return []action.Do{&action.ThreadCreated{Thread: "t", Folder: action.FolderInbox}, message("m1", "kept"), message("m2", "dropped"),
				&action.Deleted{Target: action.Target{Thread: "t", Messages: []string{"m2"}}}}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
