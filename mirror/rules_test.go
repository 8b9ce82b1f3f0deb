package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/mirror/guard"
	"darklaunch/mirror/ids"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/process"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

func put(t *testing.T, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// TestTwoFronts lets a user go back and forth between two live services, one in
// HTTP/1.1 and one in gRPC, and by two connections: the shadow sees them in order.
func TestTwoFronts(t *testing.T) {
	inbox, chat := newService(t, nil), newService(t, nil)
	slow := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") == "" {
			time.Sleep(2 * time.Millisecond) // so that Chat would overtake Inbox
		}
		answerOK(w, r)
	})
	r := newRig(t, Config{Unsafe: true, Fronts: []Front{
		{Name: "inbox", Live: []string{inbox.addr()}}, {Name: "chat", Live: []string{chat.addr()}},
	}}, nil, slow)
	h1, h2 := clients(1, false), clients(1, true)
	defer closeIdle(append(h1, h2...))
	const steps = 40
	want := map[string][]int{}
	for seq := range steps {
		for _, u := range []string{"ann", "bob"} {
			c, front, grpc := h1[0], 0, seq%2 == 1
			if grpc {
				c, front = h2[0], 1
			}
			if err := step(c, r.addr(front), u, seq, grpc); err != nil {
				t.Fatal(err)
			}
			want[u] = append(want[u], seq)
		}
	}
	r.settled(2 * steps)
	if diff := cmp.Diff(want, byUser(slow.requests())); diff != "" {
		t.Errorf("order at the shadow (-want +got):\n%s", diff)
	}
	if len(inbox.requests()) != steps || len(chat.requests()) != steps {
		t.Errorf("live got %d and %d requests, want %d each", len(inbox.requests()), len(chat.requests()), steps)
	}
}

// TestWhatIsCopied goes through the rules of routes, methods, marks and keys.
func TestWhatIsCopied(t *testing.T) {
	live := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusConflict)
			return
		}
		w.Header().Set("x-owner", "owner")
		answerOK(w, r)
	})
	routes := []Route{
		{Pattern: "GET /health", Skip: true},
		{Pattern: "POST /send", Unsafe: true, Touch: []string{"json:$.to[*]"}},
		{Pattern: "POST /refuse", Unsafe: true},
		{Pattern: "POST /reply", Unsafe: true, Touch: []string{"answer:header:x-owner"}},
	}
	mine := sample.Bucket(salt, "ann") + 1 // ann is in, at the edge
	for _, tc := range []struct {
		name    string
		cfg     Config
		keys    []string
		method  string
		path    string
		user    string
		body    string
		header  []string
		copied  bool
		tainted int
	}{
		{name: "safe", method: "GET", path: "/inbox", user: "ann", copied: true},
		{name: "head", method: "HEAD", path: "/inbox", user: "ann", copied: true},
		{name: "unsafe", method: "POST", path: "/inbox", user: "ann"},
		{name: "unsafe everywhere", cfg: Config{Unsafe: true}, method: "POST", path: "/inbox", user: "ann", copied: true},
		{name: "unsafe by route", method: "POST", path: "/send", user: "ann", body: `{"to":[]}`, copied: true},
		{name: "not by route", method: "GET", path: "/health", user: "ann"},
		{name: "nobody", method: "GET", path: "/inbox"},
		{name: "random", cfg: Config{Missing: sample.MissingRandom}, method: "GET", path: "/inbox", copied: true},
		{name: "by address", cfg: Config{Missing: sample.MissingClient}, method: "GET", path: "/inbox", copied: true},
		{name: "not sampled", cfg: Config{Sample: mine - 1}, method: "GET", path: "/inbox", user: "ann"},
		{name: "sampled", cfg: Config{Sample: mine}, method: "GET", path: "/inbox", user: "ann", copied: true},
		{name: "admitted", cfg: Config{Sample: 1, Admit: mine}, method: "GET", path: "/inbox", user: "ann", copied: true},
		{name: "denied", cfg: Config{Deny: []string{"ann"}}, method: "GET", path: "/inbox", user: "ann"},
		{name: "allowed", cfg: Config{Sample: 1, Allow: []string{"ann"}}, method: "GET", path: "/inbox", user: "ann", copied: true},

		{name: "touched by the body", cfg: Config{Sample: 1, Allow: []string{"bob"}}, method: "POST", path: "/send", user: "ann", body: `{"to":["bob"]}`, copied: true},
		{name: "touches nobody", cfg: Config{Sample: 1, Allow: []string{"bob"}}, method: "POST", path: "/send", user: "ann", body: `{"to":["eve"]}`},
		{name: "touched by the answer", cfg: Config{Sample: 1, Allow: []string{"owner"}}, method: "POST", path: "/reply", user: "ann", copied: true},
		{name: "named by the body", keys: []string{"json:$.from"}, cfg: Config{Sample: mine, Unsafe: true}, method: "POST", path: "/inbox", body: `{"from":"ann"}`, copied: true},
		{name: "named by the body, not sampled", keys: []string{"json:$.from"}, cfg: Config{Sample: mine - 1, Unsafe: true}, method: "POST", path: "/inbox", body: `{"from":"ann"}`},
		{name: "named by the answer", keys: []string{"answer:header:x-owner"}, method: "GET", path: "/inbox", copied: true},

		{name: "marked", cfg: Config{Unsafe: true}, method: "GET", path: "/inbox", user: "ann", header: []string{"darklaunch-role", "shadow"}},
		{name: "marked and unsafe", cfg: Config{Unsafe: true}, method: "POST", path: "/inbox", user: "ann", header: []string{"darklaunch-role", "shadow"}, tainted: 1},
		{name: "marked, unsafe and refused", method: "POST", path: "/refuse", user: "ann", header: []string{"darklaunch-role", "shadow"}},
		{name: "recipients that can't be read", method: "POST", path: "/send", user: "ann", body: `{"to":`, copied: true, tainted: 1},
		{name: "too large", cfg: Config{Unsafe: true, MaxBody: 10}, method: "POST", path: "/inbox", user: "ann", body: "12345678901", tainted: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			other := newService(t, nil)
			tc.cfg.Fronts = []Front{{Keys: tc.keys, Routes: routes}}
			r := newRig(t, tc.cfg, live, other)
			r.do(tc.method, tc.user, tc.path, tc.body, tc.header...)
			// What follows on the connection is known to come later.
			waitFor(t, "the exchange to be seen", func() bool { return requests(r) == 1 })
			waitFor(t, "the copy to end", func() bool { return r.lanes.Snapshot().Copies == 0 })
			got := other.requests()
			if copied := len(got) == 1; copied != tc.copied || len(got) > 1 {
				t.Errorf("got %d copies, want copied %v; %+v", len(got), tc.copied, r.lanes.Snapshot())
			}
			if tc.copied && len(got) == 1 && (got[0].body != tc.body || got[0].path != tc.path) {
				t.Errorf("got %+v, want path %s and body %q", got[0], tc.path, tc.body)
			}
			if n := r.lanes.Snapshot().Tainted[lanes.Shadow]; n != tc.tainted {
				t.Errorf("got %d tainted, want %d", n, tc.tainted)
			}
			marked := 0.0
			if tc.header != nil {
				marked = 1
			}
			if got := r.metric("mirror_marked_requests_total"); got != marked {
				t.Errorf("got %v marked, want %v", got, marked)
			}
			if got := len(live.requests()); got == 0 {
				t.Error("live got nothing")
			}
		})
	}
}

// requests is how many exchanges have been counted.
func requests(r *rig) (n int) {
	for name, v := range scrape(r.t, r.registry) {
		if strings.HasPrefix(name, "mirror_requests_total{") {
			n += int(v)
		}
	}
	return n
}

// TestTaintAndSeeds: who misses something unsafe is tainted, is sent and not
// judged, and is clean again once seeded with a state from later.
func TestTaintAndSeeds(t *testing.T) {
	live, other := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true}, live, other)
	pairs := func() float64 { return r.metric(`mirror_pairs_total{outcome="both_ok",route="POST /box/{}"}`) }
	r.do("POST", "ann", "/box/1", "")
	r.settled(1)
	r.Kill()
	r.do("POST", "ann", "/box/2", "")
	r.settled(2)
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	r.do("POST", "ann", "/box/3", "")
	r.settled(3)
	if s := r.lanes.Snapshot(); s.Tainted[lanes.Shadow] != 1 || s.Dropped[lanes.Shadow][lanes.Killed] != 1 || pairs() != 1 {
		t.Errorf("got %+v and %v pairs, want ann tainted, one killed, and the pair before that", s, pairs())
	}
	post := func(path, body string) (int, string) {
		w := httptest.NewRecorder()
		r.Handlers()["POST "+path].ServeHTTP(w, httptest.NewRequest("POST", "/", strings.NewReader(body)))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	seed := func(body string) (int, string) { return post("/api/v1/users/seeded", body) }
	clean := func(want string) {
		t.Helper()
		if code, got := post("/api/v1/users/clean", `{"keys":["ann"]}`); code != 200 || got != want {
			t.Errorf("who is clean: got %d %s, want %s", code, got, want)
		}
	}
	clean(`{"clean":[]}`)
	stale := time.Now().Add(-time.Hour).Format(time.RFC3339Nano)
	if code, got := seed(`{"keys":["ann"],"at":"` + stale + `"}`); code != 200 || got != `{"clean":0,"of":1}` {
		t.Errorf("a state from before: got %d %s", code, got)
	}
	if code, got := seed(`{"keys":["ann"],"at":"` + time.Now().Format(time.RFC3339Nano) + `"}`); code != 200 || got != `{"clean":1,"of":1}` {
		t.Errorf("a state from now: got %d %s", code, got)
	}
	clean(`{"clean":["ann"]}`)
	r.do("POST", "ann", "/box/4", "")
	r.settled(4)
	if pairs() != 2 {
		t.Errorf("got %v pairs, want that of the seeded user too", pairs())
	}
	for _, bad := range []string{`{}`, `{"all":true}`, `{"keys":["a"],"all":true,"at":"` + stale + `"}`, `{"users":[]}`, `x`} {
		if code, got := seed(bad); code != 400 {
			t.Errorf("%s: got %d %s, want 400", bad, code, got)
		}
	}
}

func TestPutSample(t *testing.T) {
	live, other := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Sample: 1}, live, other)
	set := func(body string) int {
		w := httptest.NewRecorder()
		r.Handlers()["PUT /api/v1/sample"].ServeHTTP(w, httptest.NewRequest("PUT", "/", strings.NewReader(body)))
		return w.Code
	}
	r.get("ann", "/")
	if got := set(`{"ppm":1000000}`); got != 200 {
		t.Fatalf("got %d", got)
	}
	r.get("ann", "/")
	r.settled(1)
	if got := r.metric("mirror_sample_ppm"); got != 1_000_000 {
		t.Errorf("got %v ppm", got)
	}
	for _, bad := range []string{`{}`, `{"ppm":-1}`, `{"ppm":1000001}`, `{"ppm":"x"}`, `{"ppm":1,"x":2}`} {
		if got := set(bad); got != 400 {
			t.Errorf("%s: got %d, want 400", bad, got)
		}
	}
}

// TestRefusals are configurations that can't be meant.
func TestRefusals(t *testing.T) {
	front := func(change func(*Front)) []Front {
		f := Front{Listen: "127.0.0.1:8080", Live: []string{"127.0.0.1:9000"}, Keys: []string{"header:x-user"}}
		if change != nil {
			change(&f)
		}
		return []Front{f}
	}
	twice := append(front(nil), front(nil)...)
	for _, tc := range []struct {
		want string
		cfg  Config
	}{
		{"no front", Config{}},
		{"no address of live", Config{Fronts: front(func(f *Front) { f.Live = nil })}},
		{"no address to listen on", Config{Fronts: front(func(f *Front) { f.Listen = "" })}},
		{"no key", Config{Fronts: front(func(f *Front) { f.Keys = nil })}},
		{`extractor "haeder:x"`, Config{Fronts: front(func(f *Front) { f.Keys = []string{"haeder:x"} })}},
		{"a name of its own", Config{Fronts: twice}},
		{"a name of its own", Config{Fronts: front(func(f *Front) { f.Name = "admin" })}},
		{"go together", Config{Fronts: front(func(f *Front) { f.Certificate = "x" })}},
		{"is live of mirror", Config{Shadow: "127.0.0.1:9000", Fronts: front(nil)}},
		{"is live of mirror", Config{Shadow: "localhost:9000", Fronts: front(nil)}},
		{"is live of mirror", Config{Fronts: front(func(f *Front) { f.Control = "localhost:9000" })}},
		{"is front mirror", Config{Shadow: "127.0.0.1:8080", Fronts: front(nil)}},
		{"is front mirror", Config{Shadow: "127.0.0.1:8080", Fronts: front(func(f *Front) { f.Listen = ":8080" })}},
		{"is the shadow", Config{Shadow: "127.0.0.1:9001", Fronts: front(func(f *Front) { f.Control = "localhost:9001" })}},
		{"want host:port", Config{Shadow: "nowhere", Fronts: front(nil)}},
		{"salt", Config{Salt: "a\x00b", Fronts: front(nil)}},
		{"salt", Config{Salt: strings.Repeat("s", 257), Fronts: front(nil)}},
		{"sample", Config{Sample: 1_000_001, Fronts: front(nil)}},
		{"switchback", Config{Switchback: 600_000, Fronts: front(nil)}},
		{"in-flight", Config{InFlight: -1, Fronts: front(nil)}},
		{`route "nowhere"`, Config{Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "nowhere"}} })}},
		{"neither is the more specific", Config{Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "/a/{}"}, {Pattern: "/a/{x}"}} })}},
		{`extractor "json:"`, Config{Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "/a", Touch: []string{"json:"}}} })}},
		{"no such method", Config{Descriptors: watchDescriptors(t), Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "/pkg.Box/Wach"}} })}},
		{"methods are in capitals", Config{Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "post /a"}} })}},
		{"neither query nor fragment", Config{Fronts: front(func(f *Front) { f.Routes = []Route{{Pattern: "/a#b"}} })}},
		{"guard", Config{Guard: guard.Config{Errors: 1.5}, Fronts: front(nil)}},
		{"ids", Config{Fronts: front(func(f *Front) { f.IDs[lanes.Control] = ids.Config{Learn: []string{"query:id"}} })}},
		{"scrape", Config{Scrape: process.Config{Targets: []process.Target{{Role: "live"}}}, Fronts: front(nil)}},
		{"assign", Config{Fronts: front(func(f *Front) { f.Assign = []Assign{{"json:$.id", "nowhere"}} })}},
		{"header rule", Config{Shadow: "127.0.0.1:9001", Headers: []shadow.Rule{{Name: "host"}}, Fronts: front(nil)}},
	} {
		m, err := New(tc.cfg, prometheus.NewRegistry())
		if err == nil {
			m.fronts[0].abort()
		}
		if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("got %v, want ErrConfig with %q", err, tc.want)
		}
	}
}

// TestAssign gives the shadow the id that live made. Where live made none, the
// copy is sent as it came and is not judged.
func TestAssign(t *testing.T) {
	live := newService(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/send" {
			fmt.Fprint(w, `{"id":"m-7"}`)
		}
	})
	assigned := make(chan string, 3)
	other := newService(t, func(w http.ResponseWriter, r *http.Request) {
		assigned <- r.Method + " " + r.URL.Path + " " + r.Header.Get("x-assigned-id")
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"m-7"}`)
	})
	r := newRig(t, Config{Unsafe: true, Fronts: []Front{{Assign: []Assign{{"json:$.id", "header:x-assigned-id"}}}}}, live, other)
	for i, tc := range []struct{ method, path, want string }{
		{"POST", "/send", "POST /send m-7"}, {"GET", "/send", "GET /send "}, {"POST", "/none", "POST /none "},
	} {
		r.do(tc.method, "ann", tc.path, "x")
		r.settled(uint64(i + 1))
		if got := <-assigned; got != tc.want {
			t.Errorf("the shadow got %q, want %q", got, tc.want)
		}
	}
}

// TestFractions: of who and what was seen, how much is mirrored.
func TestFractions(t *testing.T) {
	live, other := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Sample: 100_000, Fronts: []Front{{Routes: []Route{{Pattern: "POST /send", Unsafe: true, Touch: []string{"json:$.to"}}}}}}, live, other)
	in, out := 0, 0
	for u := range 400 {
		r.get(user(u), "/inbox")
		if sample.Bucket(salt, user(u)) < 100_000 {
			in++
		} else {
			out++
			r.do("POST", user(u), "/inbox", "") // unsafe, and not mirrored
		}
	}
	to := 0
	for sample.Bucket(salt, user(to)) >= 100_000 {
		to++
	}
	from := 0
	for sample.Bucket(salt, user(from)) < 100_000 {
		from++
	}
	r.do("POST", user(from), "/send", `{"to":"`+user(to)+`"}`)
	r.settled(uint64(in + 1))
	got := r.Status().Sample
	near := func(what string, got, want float64) {
		t.Helper()
		if got < want-0.002 || got > want+0.002 {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	near("users", got.Users, float64(in)/400)
	near("requests", got.Requests, float64(in+1)/float64(400+out+1))
	near("touched", got.Touched, float64(in+1)/400)
}
