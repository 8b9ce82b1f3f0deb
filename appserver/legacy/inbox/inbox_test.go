package inbox

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"

	"darklaunch/appserver/legacy"
)

func open(t testing.TB, dir string, cfg legacy.Config) *Inbox {
	t.Helper()
	x, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// client calls an Inbox as users do.
type client struct {
	t   testing.TB
	url string
}

func serve(t testing.TB, x *Inbox) client {
	s := httptest.NewServer(NewServer(x, nil, nil))
	t.Cleanup(s.Close)
	return client{t, s.URL}
}

// do makes a call and returns the status and the body of its answer. header are pairs.
func (c client) do(user, call, body string, header ...string) (int, string) {
	c.t.Helper()
	method, path, _ := strings.Cut(call, " ")
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return a.StatusCode, strings.TrimSpace(string(b))
}

// want makes a call and holds its answer against want, as `STATUS BODY`.
func (c client) want(user, call, body, want string) {
	c.t.Helper()
	code, got := c.do(user, call, body)
	if diff := cmp.Diff(want, fmt.Sprintf("%d %s", code, got)); diff != "" {
		c.t.Fatalf("%s: %s %s (-want +got):\n%s", user, call, body, diff)
	}
}

func fixed(millis int64) func() time.Time {
	return func() time.Time { return time.UnixMilli(millis) }
}

func TestMailbox(t *testing.T) {
	x := open(t, "data", legacy.Config{FS: vfs.NewMem(), Now: fixed(1000)})
	defer x.Close()
	c := serve(t, x)
	c.want("ann", "POST /messages", `{"to":["bob","cid","ann"],"subject":"Lunch","body":"Half past <one>?"}`,
		`200 {"id":"1","thread":"1","time":1000,"from":"ann","to":["bob","cid"],"subject":"Lunch","body":"Half past <one>?"}`)
	c.want("bob", "POST /messages", `{"thread":"1","body":"Fine."}`,
		`200 {"id":"2","thread":"1","time":1001,"from":"bob","to":["ann","cid"],"subject":"Lunch","body":"Fine."}`)
	c.want("bob", "POST /messages", `{"to":["bob"],"body":"a note"}`,
		`200 {"id":"3","thread":"3","time":1002,"from":"bob","to":["bob"],"subject":"","body":"a note"}`)
	c.want("ann", "GET /threads", "",
		`200 {"threads":[{"id":"1","subject":"Lunch","folder":"INBOX","messages":2,"unread":1,"with":["ann","bob","cid"],"time":1001,"preview":"Fine."}]}`)
	c.want("bob", "GET /threads?limit=1", "",
		`200 {"threads":[{"id":"3","subject":"","folder":"INBOX","messages":1,"unread":0,"with":["bob"],"time":1002,"preview":"a note"}]}`)
	c.want("bob", "GET /threads?limit=1&before=1002&unread=true", "",
		`200 {"threads":[{"id":"1","subject":"Lunch","folder":"INBOX","messages":2,"unread":1,"with":["ann","bob","cid"],"time":1001,"preview":"Fine."}]}`)
	c.want("cid", "GET /threads/1?limit=1", "",
		`200 {"messages":[{"id":"2","thread":"1","from":"bob","body":"Fine.","time":1001,"read":false}],"thread":{"id":"1","subject":"Lunch","folder":"INBOX","messages":2,"unread":2,"with":["ann","bob","cid"],"time":1001,"preview":"Fine."}}`)
	c.want("cid", "GET /search?q=LUNCH+fine", "", `200 {"hits":[{"id":"2","thread":"1","from":"bob","time":1001}]}`)
	c.want("cid", "GET /search?q=one", "", `200 {"hits":[{"id":"1","thread":"1","from":"ann","time":1000}]}`)
	c.want("cid", "GET /search?q=note", "", `200 {"hits":[]}`)
	c.want("cid", "GET /count", "", `200 {"folders":[{"folder":"INBOX","unread":2},{"folder":"OTHER","unread":0}]}`)
	c.want("cid", "POST /threads/1/messages/1/read", `{"read":true}`,
		`200 {"id":"4","thread":"1","time":1003,"from":"cid","to":["cid"],"message":"1","read":true}`)
	c.want("cid", "POST /threads/1/move", `{"folder":"OTHER"}`,
		`200 {"id":"5","thread":"1","time":1004,"from":"cid","to":["cid"],"folder":"OTHER"}`)
	c.want("cid", "GET /count?folder=OTHER", "", `200 {"folders":[{"folder":"OTHER","unread":1}]}`)
	c.want("cid", "DELETE /threads/1/messages/2", "", `200 {"id":"6","thread":"1","time":1005,"from":"cid","to":["cid"],"message":"2"}`)
	c.want("cid", "GET /threads?folder=OTHER&unread=false", "",
		`200 {"threads":[{"id":"1","subject":"Lunch","folder":"OTHER","messages":1,"unread":0,"with":["ann","bob","cid"],"time":1000,"preview":"Half past <one>?"}]}`)
	c.want("cid", "GET /search?q=fine", "", `200 {"hits":[]}`)
	c.want("cid", "DELETE /threads/1", "", `200 {"id":"7","thread":"1","time":1006,"from":"cid","to":["cid"]}`)
	c.want("cid", "DELETE /threads/1", "", `200 {"id":"8","thread":"1","time":1007,"from":"cid","to":["cid"]}`)
	c.want("cid", "GET /threads", "", `200 {"threads":[]}`)
	c.want("cid", "GET /threads/1", "", `404 {"error":"thread \"1\": not found"}`)
	c.want("cid", "POST /threads/1/read", `{"read":true}`, `404 {"error":"thread \"1\": not found"}`)
	// Who deletes does not leave: a reply goes through, with who joins, and moves the thread.
	c.want("cid", "POST /messages", `{"thread":"1","to":["dan"],"body":"Late"}`,
		`200 {"id":"9","thread":"1","time":1008,"from":"cid","to":["ann","bob","dan"],"subject":"Lunch","body":"Late"}`)
	c.want("cid", "GET /threads", "",
		`200 {"threads":[{"id":"1","subject":"Lunch","folder":"INBOX","messages":1,"unread":0,"with":["ann","bob","cid","dan"],"time":1008,"preview":"Late"}]}`)
	c.want("dan", "GET /threads", "",
		`200 {"threads":[{"id":"1","subject":"Lunch","folder":"INBOX","messages":1,"unread":1,"with":["ann","bob","cid","dan"],"time":1008,"preview":"Late"}]}`)
	// All of a thread marked unread, own messages too.
	c.want("dan", "POST /messages", `{"thread":"1","body":"Hi"}`,
		`200 {"id":"10","thread":"1","time":1009,"from":"dan","to":["ann","bob","cid"],"subject":"Lunch","body":"Hi"}`)
	c.want("dan", "POST /threads/1/read", `{"read":false}`, `200 {"id":"11","thread":"1","time":1010,"from":"dan","to":["dan"],"read":false}`)
	c.want("dan", "GET /count?folder=INBOX", "", `200 {"folders":[{"folder":"INBOX","unread":2}]}`)
}

func TestRefused(t *testing.T) {
	x := open(t, "data", legacy.Config{FS: vfs.NewMem()})
	defer x.Close()
	c := serve(t, x)
	c.do("ann", "POST /messages", `{"to":["bob"],"body":"x"}`)
	for _, tt := range []struct {
		user, call, body string
		code             int
		says             string
	}{
		{"", "GET /threads", "", 400, "X-User"},
		{"a b", "GET /threads", "", 400, "X-User"},
		{"ann", "GET /threads?folder=SENT", "", 400, "folder"},
		{"ann", "GET /threads?unread=maybe", "", 400, "unread"},
		{"ann", "GET /threads?limit=101", "", 400, "limit"},
		{"ann", "GET /threads?limit=0", "", 400, "limit"},
		{"ann", "GET /threads?before=-1", "", 400, "before"},
		{"ann", "GET /threads?page=1", "", 400, "page"},
		{"ann", "GET /threads/01", "", 404, "not found"},
		{"ann", "GET /threads/7", "", 404, "not found"},
		{"cid", "GET /threads/1", "", 404, "not found"},
		{"ann", "GET /search?q=", "", 400, "q:"},
		{"ann", "GET /search?q=a+OR+b", "", 400, "OR"},
		{"ann", "GET /search?q=-a", "", 400, "letters"},
		{"ann", "GET /count?folder=x", "", 400, "folder"},
		{"ann", "POST /messages", `{"to":["bob"]}`, 400, "body"},
		{"ann", "POST /messages", `{"body":"x"}`, 400, "to"},
		{"ann", "POST /messages", `{"to":["b b"],"body":"x"}`, 400, "to"},
		{"ann", "POST /messages", `{"to":["bob"],"subject":"a\nb","body":"x"}`, 400, "subject"},
		{"ann", "POST /messages", `{"thread":"1","subject":"a","body":"x"}`, 400, "subject"},
		{"ann", "POST /messages", `{"to":["bob"],"body":"x","cc":[]}`, 400, "cc"},
		{"ann", "POST /messages", `{"to":["bob"],"body":"x"} {}`, 400, "body"},
		{"ann", "POST /messages", `{`, 400, "body"},
		{"ann", "POST /messages", `{"to":["bob"],"body":"` + strings.Repeat("x", MaxBody+1) + `"}`, 400, "body"},
		{"ann", "POST /messages", `{"to":["bob"],"body":"` + strings.Repeat("x", maxRequest) + `"}`, 413, "large"},
		{"cid", "POST /messages", `{"thread":"1","body":"x"}`, 404, "not found"},
		{"ann", "POST /threads/1/read", `{}`, 400, "read"},
		{"ann", "POST /threads/1/messages/7/read", `{"read":true}`, 404, "message"},
		{"ann", "POST /threads/1/move", `{"folder":"Inbox"}`, 400, "folder"},
		{"ann", "DELETE /threads/2", "", 404, "thread"},
		{"ann", "DELETE /threads/1/messages/2", "", 404, "message"},
		{"ann", "PUT /messages", "", 405, ""},
	} {
		if code, got := c.do(tt.user, tt.call, tt.body); code != tt.code || !strings.Contains(got, tt.says) {
			t.Errorf("%s: %s %.40s: got %d %s, want %d with %q", tt.user, tt.call, tt.body, code, got, tt.code, tt.says)
		}
	}
	if code, got := c.do("ann", "POST /messages", `{"to":["bob"],"body":"x"}`, "X-Assign-Id", "9", "X-Assign-Time", "9"); code != 400 || !strings.Contains(got, "--accept-assigned") {
		t.Errorf("assigned: got %d %s, want it refused", code, got)
	}
	if _, got := c.do("bob", "GET /threads", ""); strings.Count(got, `"id"`) != 1 {
		t.Errorf("got %s, want that nothing of what was refused was done", got)
	}
}

// users write to each other at once; what each was answered is there afterwards, and
// after a restart, and a control that is told each user's calls and the answers in the
// order in which live gave them answers the same.
func TestConcurrentUsersRestartAndControl(t *testing.T) {
	fs := vfs.NewMem()
	x := open(t, "data", legacy.Config{FS: fs})
	c := serve(t, x)
	const users, each = 8, 40
	type exchange struct{ user, call, body, answer string }
	var mu sync.Mutex
	var done []exchange
	// Calls that touch a mailbox must keep their order for it, as the mirror's lanes do.
	locks := make([]sync.Mutex, users)
	name := func(i int) string { return "user" + strconv.Itoa(i) }
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			for n := range each {
				peer := (i + 1 + n%(users-1)) % users
				e := exchange{user: name(i)}
				locks[min(i, peer)].Lock()
				locks[max(i, peer)].Lock()
				switch n % 5 {
				case 3:
					_, list := c.do(e.user, "GET /threads?limit=1", "")
					var got struct{ Threads []Thread }
					if err := json.Unmarshal([]byte(list), &got); err != nil || len(got.Threads) == 0 {
						t.Errorf("list %s: %v", list, err)
					} else {
						e.call, e.body = "POST /threads/"+got.Threads[0].ID+"/read", `{"read":true}`
					}
				default:
					e.call, e.body = "POST /messages", fmt.Sprintf(`{"to":[%q],"subject":"s","body":"message %d of %d"}`, name(peer), n, i)
				}
				if e.call != "" {
					var code int
					if code, e.answer = c.do(e.user, e.call, e.body); code != 200 {
						t.Errorf("%s: got %d %s", e.call, code, e.answer)
					}
				}
				mu.Lock()
				done = append(done, e)
				mu.Unlock()
				locks[max(i, peer)].Unlock()
				locks[min(i, peer)].Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	reading := func(c client) (all []string) {
		for i := range users {
			for _, call := range []string{"GET /threads?limit=100", "GET /count", "GET /search?q=message&limit=100", "GET /threads/" + firstThread(t, c, name(i))} {
				_, got := c.do(name(i), call, "")
				all = append(all, got)
			}
		}
		return all
	}
	want := reading(c)
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	x = open(t, "data", legacy.Config{FS: fs})
	defer x.Close()
	if p := x.Position(); !p.Closed || p.ID != uint64(len(done)) {
		t.Errorf("got position %+v, want it closed at %d changes", p, len(done))
	}
	if diff := cmp.Diff(want, reading(serve(t, x))); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}

	control := open(t, "control", legacy.Config{FS: fs, AcceptAssigned: true})
	defer control.Close()
	cc := serve(t, control)
	for _, e := range done {
		var assigned Receipt
		if err := json.Unmarshal([]byte(e.answer), &assigned); err != nil {
			t.Fatal(err)
		}
		code, got := cc.do(e.user, e.call, e.body, "X-Assign-Id", assigned.ID, "X-Assign-Time", strconv.FormatInt(assigned.Time, 10))
		if code != 200 || got != e.answer {
			t.Fatalf("control: %s %s: got %d %s, want %s", e.call, e.body, code, got, e.answer)
		}
	}
	if diff := cmp.Diff(want, reading(cc)); diff != "" {
		t.Errorf("control (-want +got):\n%s", diff)
	}
	first := done[0]
	var assigned Receipt
	if err := json.Unmarshal([]byte(first.answer), &assigned); err != nil {
		t.Fatal(err)
	}
	if code, got := cc.do(first.user, first.call, first.body, "X-Assign-Id", assigned.ID, "X-Assign-Time", "1"); code != 409 {
		t.Errorf("an assigned id again: got %d %s, want 409", code, got)
	}
}

func firstThread(t *testing.T, c client, user string) string {
	t.Helper()
	_, list := c.do(user, "GET /threads?limit=1", "")
	var got struct{ Threads []Thread }
	if err := json.Unmarshal([]byte(list), &got); err != nil || len(got.Threads) == 0 {
		t.Fatalf("list %s: %v", list, err)
	}
	return got.Threads[0].ID
}

// Ids whose last byte is the greatest are found like others.
func TestGreatBytes(t *testing.T) {
	x := open(t, "data", legacy.Config{FS: vfs.NewMem(), AcceptAssigned: true})
	defer x.Close()
	for _, id := range []uint64{255, 1<<16 - 1, 1<<64 - 1} {
		r, err := x.Send("ann", Draft{To: []string{"bob"}, Body: "x"}, &legacy.Stamp{ID: id, Time: int64(id >> 20)})
		if err != nil {
			t.Fatal(err)
		}
		if _, messages, err := x.Thread("bob", r.Thread, 0, 0); err != nil || len(messages) != 1 {
			t.Errorf("thread %d: got %v, %v, want its message", id, messages, err)
		}
	}
}
