package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
	testhbase "darklaunch/internal/testenv/hbase"
)

// startServer runs an application server on a store.
func startServer(t *testing.T, listen, store string, args ...string) (*running, string) {
	t.Helper()
	r := start(t, append([]string{"appserver", "serve", "--listen", listen, "--store", store}, args...)...)
	return r, r.ready("grpc")
}

// msg runs darklaunch msg as a user and returns the lines that it prints.
func msg(t *testing.T, addr, user string, args ...string) []map[string]any {
	t.Helper()
	r := start(t, append([]string{"msg", "--cell", addr, "--as", user, "--timeout", "1m"}, args...)...)
	code, stdout, stderr := r.end()
	if code != exitDone {
		t.Fatalf("msg %v: got %d, want %d; stderr: %s", args, code, exitDone, stderr)
	}
	return jsonLines(t, stdout)
}

func jsonLines(t *testing.T, text string) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(text) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, v)
	}
	return all
}

// column is one value of each line.
func column(lines []map[string]any, name string) string {
	var all []string
	for _, l := range lines {
		all = append(all, fmt.Sprint(l[name]))
	}
	return strings.Join(all, ",")
}

func wantColumn(t *testing.T, what string, lines []map[string]any, name, want string) {
	t.Helper()
	if got := column(lines, name); got != want {
		t.Errorf("%s: got %s %q, want %q", what, name, got, want)
	}
}

// TestMsg uses a mailbox as a new user would, by the program alone, and holds it against
// its log when the server has been drained. Row B13.
func TestMsg(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts some fifty processes")
	}
	dir := t.TempDir()
	server, addr := startServer(t, "127.0.0.1:0", "pebble:"+dir)
	ann := func(args ...string) []map[string]any { t.Helper(); return msg(t, addr, "ann", args...) }
	bob := func(args ...string) []map[string]any { t.Helper(); return msg(t, addr, "bob", args...) }

	sent := ann("send", "--to", "bob", "--to", "mail:cy@example.org", "--subject", "Lunch", "--body", "At noon?", "--key", "one", "--wait", "delivered")
	wantColumn(t, "sent", sent, "from", "ann")
	wantColumn(t, "sent", sent, "to", "[bob mail:cy@example.org]")
	thread, id := column(sent, "thread"), column(sent, "id")
	again := ann("send", "--to", "bob", "--to", "mail:cy@example.org", "--subject", "Lunch", "--body", "At noon?", "--key", "one")
	wantColumn(t, "sent again", again, "id", id)
	other := bob("send", "--to", "ann", "--body", "Something else entirely", "--wait", "delivered")
	reply := bob("send", "--thread", thread, "--body", "Yes, at noon.", "--wait", "delivered")
	wantColumn(t, "the reply", reply, "to", "[ann mail:cy@example.org]")

	wantColumn(t, "ann's threads", ann("list"), "thread", thread+","+column(other, "thread"))
	wantColumn(t, "one of ann's threads", ann("list", "--limit", "1"), "thread", thread)
	wantColumn(t, "ann's threads about noon", ann("list", "--query", "noon yes"), "subject", "Lunch")
	read := ann("read", "--thread", thread)
	wantColumn(t, "the thread", read, "body", "Yes, at noon.,At noon?")
	wantColumn(t, "the thread", read, "from", "bob,ann")
	wantColumn(t, "the thread", read, "read", "false,true")
	wantColumn(t, "noon", ann("search", "--query", "noon from:ann"), "id", id)
	wantColumn(t, "unread", ann("unread"), "messages", "2")
	ann("mark", "--thread", thread, "--read", "--tag", "food", "--folder", "other")
	wantColumn(t, "unread", ann("unread"), "messages", "1")
	wantColumn(t, "tagged", ann("list", "--tag", "food", "--folder", "other"), "thread", thread)
	stats := ann("stats")
	wantColumn(t, "stats", stats, "messages", "3,1,2")
	wantColumn(t, "stats", stats, "folder", "<nil>,inbox,other")
	wantColumn(t, "stats", stats[:1], "friends", "1")
	wantColumn(t, "a new member", ann("subscribe", "--thread", thread, "--to", "dee"), "members", "[ann bob mail:cy@example.org dee]")
	wantColumn(t, "without mail", ann("unsubscribe", "--thread", thread, "--to", "mail:cy@example.org"), "members", "[ann bob dee]")
	wantColumn(t, "bob leaves", bob("unsubscribe", "--thread", thread), "members", "[ann dee]")
	ann("delete", "--thread", thread, "--id", id)
	wantColumn(t, "after the deletion", ann("read", "--thread", thread), "id", column(reply, "id"))
	events := ann("watch", "--after", "0", "--limit", "3")
	wantColumn(t, "events", events, "event", "started,members,message")
	wantColumn(t, "events", events, "sequence", "0,1,2")

	watcher := start(t, "msg", "--cell", addr, "--as", "ann", "watch")
	if line, err := watcher.stdout.ReadString('\n'); err != nil || !strings.Contains(line, `"started"`) {
		t.Fatalf("got %q, %v, want the stream's start", line, err)
	}
	bob("send", "--to", "ann", "--body", "Are you there?")
	for { // a thread's members first
		line, err := watcher.stdout.ReadString('\n')
		if err != nil {
			t.Fatalf("%v; stderr: %s", err, watcher.stderr())
		}
		if strings.Contains(line, "Are you there?") {
			break
		}
	}
	watcher.signal(syscall.SIGINT)
	if code, _, stderr := watcher.end(); code != exitDone {
		t.Errorf("a watch that was interrupted: got %d, want %d; stderr: %s", code, exitDone, stderr)
	}

	// What has the directory is told to whoever wants it too.
	code, _, stderr := start(t, "appserver", "serve", "--listen", "127.0.0.1:0", "--store", "pebble:"+dir).end()
	if code != exitCouldNotRun || !strings.Contains(stderr, dir) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("a second server on the directory: got %d, %q, want %d and one line that names it", code, stderr, exitCouldNotRun)
	}
	server.signal(syscall.SIGTERM)
	if code, _, stderr := server.end(); code != exitDone {
		t.Errorf("drained: got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
	wantChecked(t, "pebble:"+dir, 3)
}

// TestMsgOnHBase makes a table, serves it and uses a mailbox, by the program alone.
func TestMsgOnHBase(t *testing.T) {
	srv := testhbase.Standalone(t, testhbase.Shared)
	place := fmt.Sprintf("hbase:%s/msg-%d", srv.Quorum, time.Now().UnixNano())
	if code, _, stderr := start(t, "appserver", "serve", "--listen", "127.0.0.1:0", "--store", place).end(); code != exitCouldNotRun || !strings.Contains(stderr, "appserver init") {
		t.Errorf("without a table: got %d, %q, want %d and how to make it", code, stderr, exitCouldNotRun)
	}
	if code, _, stderr := start(t, "appserver", "init", "--store", place, "--regions", "2").end(); code != exitDone {
		t.Fatalf("init: got %d; stderr: %s", code, stderr)
	}
	server, addr := startServer(t, "127.0.0.1:0", place, "--reads", "strict")
	sent := msg(t, addr, "ann", "send", "--to", "bob", "--subject", "Lunch", "--body", "At noon?", "--wait", "delivered")
	wantColumn(t, "bob's threads", msg(t, addr, "bob", "list"), "thread", column(sent, "thread"))
	wantColumn(t, "noon", msg(t, addr, "bob", "search", "--query", "noon"), "id", column(sent, "id"))
	server.signal(syscall.SIGTERM)
	if code, _, stderr := server.end(); code != exitDone {
		t.Errorf("drained: got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
	wantChecked(t, place, 2)
}

// wantChecked runs appserver check.
func wantChecked(t *testing.T, store string, users int) {
	t.Helper()
	code, stdout, stderr := start(t, "appserver", "check", "--store", store, "--json", "-").end()
	var got checkResult
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitDone || got.Users != users || !got.Complete || len(got.Broken) > 0 {
		t.Errorf("check: got %d, %+v, %v, want %d mailboxes in order; stderr: %s", code, got, err, users, stderr)
	}
}

// TestServerKilled kills the server under load again and again: whoever waited goes
// on with the next one, nothing acknowledged is lost and nothing is twice. Row B20; A2, A3.
func TestServerKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for seconds")
	}
	dir := t.TempDir()
	server, addr := startServer(t, "127.0.0.1:0", "pebble:"+dir)
	c, err := client.New(addr, client.Config{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const senders, each = 4, 60
	var wg sync.WaitGroup
	var mu sync.Mutex
	var killed atomic.Bool              // as often as is meant: until then there is load
	acknowledged := map[string]string{} // key to message
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	for s := range senders {
		wg.Go(func() {
			for i := 0; i < each || !killed.Load(); i++ {
				key := fmt.Sprintf("%d-%d", s, i)
				// The client's own repetitions end after seconds; a start under load may take longer.
				for {
					sent, err := c.Send(client.As(t.Context(), "ann"), &messagesv1.SendRequest{IdempotencyKey: key, Body: "body " + key,
						Recipients: []*messagesv1.Participant{{Address: &messagesv1.Participant_User{User: "bob"}}}})
					if err == nil {
						mu.Lock()
						acknowledged[key] = sent.MessageId
						mu.Unlock()
						break
					}
					if t.Context().Err() != nil {
						return
					}
				}
			}
		})
	}
	for kill := 1; kill <= 2; kill++ {
		waitFor(t, "acknowledged sends", func() bool { return count() >= kill*senders*each/4 })
		server.signal(syscall.SIGKILL)
		server.end()
		server, _ = startServer(t, addr, "pebble:"+dir)
	}
	killed.Store(true)
	wg.Wait()
	t.Logf("%d sends acknowledged", count())
	for _, user := range []string{"ann", "bob"} {
		waitFor(t, user+"'s messages", func() bool {
			stats, err := c.MailboxStats(client.As(t.Context(), user), &messagesv1.MailboxStatsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			return int(stats.Messages) >= count()
		})
		seen := map[string]int{}
		r := &messagesv1.SearchRequest{Query: "body", PageSize: 100}
		for {
			a, err := c.Search(client.As(t.Context(), user), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range a.Hits {
				seen[h.MessageId]++
			}
			if r.PageToken = a.NextPageToken; r.PageToken == "" {
				break
			}
		}
		for key, id := range acknowledged {
			if seen[id] != 1 {
				t.Errorf("%s: %s was acknowledged and is there %d times", user, key, seen[id])
			}
		}
		if len(seen) != len(acknowledged) {
			t.Errorf("%s: got %d messages, want %d", user, len(seen), len(acknowledged))
		}
	}
	server.signal(syscall.SIGTERM)
	if code, _, stderr := server.end(); code != exitDone {
		t.Errorf("drained: got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
	wantChecked(t, "pebble:"+dir, 2)
}

// TestMsgErrors: what a command line or a server can get wrong, by its exit code and
// one line.
func TestMsgErrors(t *testing.T) {
	_, addr := startServer(t, "127.0.0.1:0", "memory:")
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"msg --cell " + addr + " --as ann send --to bob@example.org --body x", 2, "want user:bob@example.org or mail:bob@example.org"},
		{"msg --cell " + addr + " --as ann send --to bob", 2, "body: want text"},
		{"msg --cell " + addr + " --as ann send --to bob --body @/nowhere/b", 2, "/nowhere/b"},
		{"msg --cell " + addr + " --as ann send --to bob --body x --wait long", 2, "want durable or delivered"},
		{"msg --cell " + addr + " --as ann send --body x", 2, "recipients"},
		{"msg --cell " + addr + " --as ann list --folder sent", 2, "want inbox or other"},
		{"msg --cell " + addr + " --as ann list --limit -1", 2, "--limit"},
		{"msg --cell " + addr + " --as ann list --page x", 2, "page_token"},
		{"msg --cell " + addr + " --as ann read", 2, "thread"},
		{"msg --cell " + addr + " --as ann mark --thread t", 2, "want something to change"},
		{"msg --cell " + addr + " list", 2, `"as" not set`},
		{"msg --as ann list", 2, "want either --cell or --directory"},
		{"msg --cell nowhere --as ann list", 2, "is not an address"},
		{"msg --cell " + addr + " --as ann read --thread t-none", 1, "read: NotFound: no such thread"},
		{"msg --cell 127.0.0.1:1 --as ann --timeout 100ms list", 1, "list: DeadlineExceeded"},

		{"appserver serve --store nothing:", 2, "is not a store"},
		{"appserver serve --store memory: --reads fast", 2, "want strict or leased"},
		{"appserver serve --store memory: --coordinator zk:x", 2, "want local:, rows:HOST:PORT or zk:"},
		{"appserver serve --store memory: --cache 5", 2, "is not a size"},
		{"appserver serve --listen " + addr + " --store memory:", 1, "the port is in use"},
		{"appserver serve --listen 127.0.0.1:0 --store rows:127.0.0.1:1", 1, "(--store)"},
		{"appserver check --store rows:127.0.0.1:1", 1, "(--store)"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := start(t, strings.Fields(tc.args)...).end()
			if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("got %d, %q on stdout, %q on stderr, want %d and one line with %q", code, stdout, stderr, tc.code, tc.want)
			}
		})
	}
}

// TestServerMetrics reads the values of what calls have counted, by the names of the
// contract.
func TestServerMetrics(t *testing.T) {
	r := start(t, "appserver", "serve", "--listen", "127.0.0.1:0", "--store", "pebble:"+t.TempDir(), "--metrics", "127.0.0.1:0")
	metrics := r.ready("metrics")
	addr := r.ready("grpc")
	thread := column(msg(t, addr, "ann", "send", "--to", "bob", "--body", "x", "--wait", "delivered"), "thread")
	msg(t, addr, "bob", "read", "--thread", thread)
	resp, err := http.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{
		`appserver_requests_total{channel="message",code="OK",method="Send"} 1`,
		`appserver_requests_total{channel="none",code="OK",method="GetThread"} 1`,
		`appserver_request_seconds_count{method="Send"} 1`,
		`appserver_inflight_requests 0`,
		`appserver_shed_total{reason="in_flight"} 0`,
		`appserver_stage_seconds_count{stage="deliver"} 1`,
		`mailbox_loads_total{result="claimed"} 2`,
		`mailbox_fenced_total 0`,
		`mailbox_replayed_actions_total 0`,
		`mailbox_commits_total{result="won"} `,
		`mailbox_commit_actions_count `,
		`store_operations_total{op="put",result="ok"} `,
		`store_operation_seconds_count{op="read"} `,
		`store_cells_written_total{family="actions"} 4`,
		`store_bytes_total{op="put"} `,
		`cache_requests_total{cache="mailbox",result="miss"} 2`,
		`cache_size_bytes{cache="mailbox"} `,
		`cache_capacity_bytes{cache="mailbox"} 2.68435456e+08`,
		`cache_evictions_total{cache="mailbox",reason="size"} 0`,
		`outbox_entries 0`,
		`outbox_delivery_seconds_count 1`,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
	if t.Failed() {
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, "store_") || strings.HasPrefix(line, "mailbox_") || strings.HasPrefix(line, "cache_") {
				t.Log(strings.TrimSpace(line))
			}
		}
	}
}
