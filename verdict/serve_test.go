package verdict

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"darklaunch/verdict/judge"
)

// shown returns a server that knows of comparisons in those states, by name.
func shown(t *testing.T, cfg Config, states map[string]string) *Server {
	t.Helper()
	s, err := New(cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*Published{}
	for name, state := range states {
		p := &Published{Name: name, State: state}
		if state != "" && state != "warming" {
			p.Document = &judge.Document{Schema: judge.Schema, Comparison: name, Verdict: judge.Inconclusive, State: judge.Collecting, Reasons: []judge.Reason{{Code: "spans_margin", Text: "not yet"}}}
			p.Running = p.Document
		}
		all[name] = p
	}
	s.published.Store(&all)
	return s
}

func ask(h http.Handler, method, path string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Body.String()
}

func TestGate(t *testing.T) {
	all := map[string]string{"good": "pass", "bad": "fail", "new": "warming", "open": "collecting", "over": "inconclusive"}
	for _, tt := range []struct {
		path         string
		inconclusive judge.Verdict
		code         int
		answer       string
	}{
		{"?comparison=good", "", 200, "pass"},
		{"?comparison=bad", "", 412, "fail"},
		{"?comparison=new", "", 425, "not yet"},
		{"?comparison=open", "", 425, "not yet"},
		{"?comparison=over", "", 425, "not yet"},
		{"?comparison=over", judge.Fail, 412, "fail"},
		{"?comparison=over", judge.Pass, 200, "pass"},
		{"?comparison=nobody", "", 425, "not yet"},
		{"", "", 400, ""},
		{"?comparison=good&want=fail", "", 412, "pass"},
		{"?comparison=bad&want=fail", "", 200, "fail"},
		{"?comparison=open&want=fail", "", 425, "not yet"},
		{"?comparison=good&want=what", "", 400, ""},
	} {
		h := shown(t, Config{Inconclusive: tt.inconclusive}, all).Handler(nil)
		for _, method := range []string{"GET", "POST"} {
			code, body := ask(h, method, "/api/v1/gate"+tt.path)
			var got gateAnswer
			if err := json.Unmarshal([]byte(body), &got); err != nil || code != tt.code || got.Answer != tt.answer {
				t.Errorf("%s %s: got %d and %s, want %d and %q", method, tt.path, code, body, tt.code, tt.answer)
			}
		}
	}
	one := shown(t, Config{}, map[string]string{"good": "pass"}).Handler(nil)
	if code, body := ask(one, "GET", "/api/v1/gate"); code != 200 {
		t.Errorf("the only comparison: got %d and %s, want 200", code, body)
	}
	none := shown(t, Config{}, nil).Handler(nil)
	if code, body := ask(none, "GET", "/api/v1/gate"); code != 425 {
		t.Errorf("no comparison: got %d and %s, want 425", code, body)
	}
}

func TestHandler(t *testing.T) {
	render := func(d *judge.Document) ([]byte, error) { return []byte("<p>" + d.Comparison), nil }
	h := shown(t, Config{}, map[string]string{"good": "pass", "new": "warming"}).Handler(render)
	for _, tt := range []struct {
		method, path string
		code         int
		want         string
	}{
		{"GET", "/api/v1/verdict?comparison=good", 200, `"comparison": "good"`},
		{"GET", "/api/v1/verdict?comparison=new", 200, `"code": "no_data"`},
		{"GET", "/api/v1/verdict?comparison=x", 404, `no mirror has told`},
		{"GET", "/api/v1/verdict", 400, `there are several`},
		{"GET", "/api/v1/history?comparison=good", 200, `"changes": []`},
		{"GET", "/api/v1/comparisons", 200, `"state": "warming"`},
		{"POST", "/api/v1/judgements?comparison=x", 404, `no mirror has told`},
		{"GET", "/api/v1/judgements?comparison=good", 405, ""},
		{"GET", "/report?comparison=good", 200, "<p>good"},
		{"GET", "/report?comparison=new", 425, "nothing was measured"},
		{"GET", "/nothing", 404, ""},
	} {
		if code, body := ask(h, tt.method, tt.path); code != tt.code || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s: got %d and %s, want %d and %q", tt.method, tt.path, code, body, tt.code, tt.want)
		}
	}
}

// TestEvents holds that who listens gets what there is and then what is new, that one
// who does not read holds up nobody, and that there are not too many.
func TestEvents(t *testing.T) {
	s := shown(t, Config{}, map[string]string{"a": "pass", "b": "warming"})
	server := httptest.NewServer(s.Handler(nil))
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "GET", server.URL+"/api/v1/events?comparison=a", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	next := func() (sum Summary) {
		t.Helper()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(data), &sum); err != nil {
					t.Fatal(err)
				}
				return sum
			}
		}
		t.Fatalf("no event: %v", lines.Err())
		return sum
	}
	if got := next(); got.Comparison != "a" || got.State != "pass" {
		t.Errorf("got %+v, want what there is", got)
	}
	s.events.publish(&Published{Name: "b", State: "fail"}) // nobody asked
	s.events.publish(&Published{Name: "a", State: "fail"})
	if got := next(); got.State != "fail" {
		t.Errorf("got %+v, want what is new", got)
	}
	for range maxListeners - 1 {
		if s.events.listen() == nil {
			t.Fatal("a listener was refused too early")
		}
	}
	for range 1000 {
		s.events.publish(&Published{Name: "a"}) // which nobody of these reads
	}
	if code, _ := ask(s.Handler(nil), "GET", "/api/v1/events"); code != http.StatusServiceUnavailable {
		t.Errorf("one too many: got %d, want 503", code)
	}
}

// hooked returns a webhook that a handler answers, and runs it.
func hooked(t *testing.T, answer http.HandlerFunc) (*webhook, *serverMetrics, chan Change) {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	s := shown(t, Config{}, nil)
	told := make(chan Change, 100)
	h := newWebhook(server.URL, s.log, s.metrics, func(c Change) { told <- c })
	h.pause = time.Millisecond
	return h, s.metrics, told
}

func TestWebhook(t *testing.T) {
	var tries atomic.Int64
	h, m, told := hooked(t, func(w http.ResponseWriter, r *http.Request) {
		var c Change
		if err := json.NewDecoder(r.Body).Decode(&c); err != nil || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %v, %v", c, err)
		}
		n := tries.Add(1)
		switch {
		case c.State == "fail" && n < 3: // it comes in the end
			w.WriteHeader(http.StatusInternalServerError)
		case c.State == "pass": // never
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.run(ctx); close(done) }()
	h.tell(Change{Comparison: "a", State: "fail"})
	if c := <-told; c.State != "fail" || tries.Load() != 3 {
		t.Errorf("got %v after %d tries, want it told at the third", c, tries.Load())
	}
	h.tell(Change{Comparison: "a", State: "pass"})
	if c := <-told; c.State != "pass" || tries.Load() != 3+hookTries {
		t.Errorf("got %v after %d tries, want it given up after %d", c, tries.Load()-3, hookTries)
	}
	stop()
	<-done
	if sent, failed := value(t, m.hookSent), value(t, m.hookFailed); sent != 1 || failed != 1 {
		t.Errorf("got %v sent and %v failed, want one of each", sent, failed)
	}
}

// TestWebhookDead holds that an address which never answers costs its changes and
// holds up nobody.
func TestWebhookDead(t *testing.T) {
	block := make(chan struct{})
	h, m, _ := hooked(t, func(http.ResponseWriter, *http.Request) { <-block })
	defer close(block)
	for range hookQueue + 5 {
		h.tell(Change{Comparison: "a"})
	}
	if got := value(t, m.hookDropped); got != 5 {
		t.Errorf("got %v dropped, want 5", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { h.run(ctx); close(done) }()
	stop()
	<-done // which it does though the address holds the request
}

func value(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	return testutil.ToFloat64(c)
}

// TestFollows holds that a judgement whose time is over is followed by the next, and
// that what it came to stands until that one is decided; and that one can be begun
// anew.
func TestFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick()
		cfg.Judge.MinDuration, cfg.Judge.MaxDuration, cfg.Judge.WarmUp, cfg.Judge.WarmUpShare = 2*time.Minute, 8*time.Minute, -1, -1
		cfg.Join.Window = 5 * time.Second
		cfg.Retention = time.Hour
		r := newRig(t, cfg)
		m := newFakeMirror(t, "m1", 7, fakeRoute{name: "GET /x", pairs: 20, errors: 0.05})
		m.connect(r)
		pass(7 * time.Minute)
		first := r.Comparison("s1")
		if first.State != "fail" {
			t.Fatalf("got %s, want fail", first.State)
		}
		pass(90 * time.Second)
		c := r.Comparison("s1")
		if c.State != "fail" || c.Document == c.Running || c.Running.Rig.Windows > 30 {
			t.Errorf("got %s after %d windows, want the last verdict to stand while the next is reached", c.State, c.Running.Rig.Windows)
		}
		if ok, err := r.Renew("s1"); !ok || err != nil {
			t.Fatalf("got %v, %v", ok, err)
		}
		if c := r.Comparison("s1"); c.State != "warming" || c.Document != nil {
			t.Errorf("got %s, want what was known forgotten", c.State)
		}
		if ok, err := r.Renew("nobody"); ok || err != nil {
			t.Errorf("got %v, %v, want no such comparison", ok, err)
		}
		pass(11 * time.Second)
		changes := r.Comparison("s1").Changes
		var states []string
		for _, c := range changes {
			states = append(states, c.State)
		}
		if n := len(states); n < 3 || states[n-1] != "collecting" && states[n-1] != "warming" || states[n-2] != "fail" {
			t.Errorf("got changes to %q, want fail and then what begins anew", states)
		}
		m.disconnect()
		pass(2 * time.Hour)
		if c := r.Comparison("s1"); c != nil {
			t.Errorf("got %+v after the retention, want it forgotten", c)
		}
		r.close()
		if _, err := r.Renew("s1"); err != ErrStopped {
			t.Errorf("got %v, want %v", err, ErrStopped)
		}
	})
}

// TestReconfigures holds that other margins judge the same evidence.
func TestReconfigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick()
		cfg.Judge.MinDuration, cfg.Judge.WarmUp, cfg.Judge.WarmUpShare = 2*time.Minute, -1, -1
		cfg.Join.Window = 5 * time.Second
		r := newRig(t, cfg)
		m := newFakeMirror(t, "m1", 7, fakeRoute{name: "GET /x", pairs: 20, errors: 0.05})
		m.connect(r)
		pass(6 * time.Minute)
		if got := r.Comparison("s1").State; got != "fail" {
			t.Fatalf("got %s, want fail", got)
		}
		other := cfg.Judge
		other.Metrics = []judge.Rule{{Name: judge.MetricErrors, Margin: 0.5}, {Name: judge.MetricLatency, Use: judge.UseWatch}, {Name: judge.MetricDifferences, Margin: 0.5}}
		if err := r.Reconfigure(other); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if got := r.Comparison("s1"); got.State == "fail" {
			t.Errorf("got %s, %+v, want no failure by margins of a half", got.State, got.Document.Reasons)
		}
		m.disconnect()
		r.close()
	})
}

// TestComparisons holds how experiments are told apart, named and bounded.
func TestComparisons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick()
		cfg.MaxComparisons = 3
		r := newRig(t, cfg)
		var mirrors []*fakeMirror
		for i, salt := range []string{"s1", "s2", "a\nb", "s4", "s1"} {
			m := newFakeMirror(t, []string{"m1", "m2", "m3", "m4", "m5"}[i], uint64(i), fakeRoute{name: "GET /x", pairs: 1})
			m.salt = salt
			m.connect(r)
			synctest.Wait()
			mirrors = append(mirrors, m)
		}
		pass(3 * time.Second)
		var names []string
		for _, c := range r.Comparisons() {
			names = append(names, c.Name)
		}
		if diff := cmp.Diff([]string{"a_b", "s1", "s2"}, names); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if n := len(r.Comparison("s1").Mirrors); n != 2 {
			t.Errorf("got %d mirrors of s1, want 2", n)
		}
		if got := r.metric("verdict_streams_cut_total", "reason", "refused"); got != 1 {
			t.Errorf("got %v refused, want one", got)
		}
		for _, m := range mirrors {
			m.disconnect()
		}
		r.close()
	})
}

// TestShortOfMemory holds that pairs are shed, and then windows, once live objects take
// what they may, and that what is missing is known.
func TestShortOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick()
		cfg.MaxMemory = 1
		r := newRig(t, cfg)
		m := newFakeMirror(t, "m1", 7, fakeRoute{name: "GET /x", pairs: 20, wrong: 0.5})
		runtime.GC() // which is when live objects are counted
		pass(2 * time.Second)
		m.connect(r)
		pass(20 * time.Second)
		if got := r.metric("verdict_records_discarded_total", "reason", discardMemory); got < 15 {
			t.Errorf("got %v windows discarded, want all", got)
		}
		if got := r.metric("verdict_stream_shed_total", "reason", "memory"); got < 50 {
			t.Errorf("got %v pairs shed, want all", got)
		}
		if c := r.Comparison("s1"); c == nil || c.Document != nil {
			t.Errorf("got %+v, want nothing judged", c)
		}
		m.disconnect()
		r.close()
	})
}

// TestTwoMirrors holds that users of two mirrors make no verdict, and that it says so.
func TestTwoMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := quick()
		cfg.Judge.MinDuration, cfg.Judge.WarmUp, cfg.Judge.WarmUpShare = 2*time.Minute, -1, -1
		cfg.Join.Window = 5 * time.Second
		r := newRig(t, cfg)
		var mirrors []*fakeMirror
		for i, id := range []string{"m1", "m2"} {
			m := newFakeMirror(t, id, uint64(i), fakeRoute{name: "GET /x", pairs: 10, noisy: 0.5}) // of the same 2000 users
			m.connect(r)
			mirrors = append(mirrors, m)
		}
		pass(4 * time.Minute)
		c := r.Comparison("s1")
		if c.State == "pass" || !slices.ContainsFunc(c.Document.Reasons, func(r judge.Reason) bool { return r.Code == reasonUnordered }) {
			t.Errorf("got %s, %+v, want no pass and the reason", c.State, c.Document.Reasons)
		}
		if got := r.metric("verdict_pairs_unordered_total"); got == 0 {
			t.Error("no pair was left out, so that nothing is tested")
		}
		for _, m := range mirrors {
			m.disconnect()
		}
		r.close()
	})
}
