package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"

	"darklaunch/dashboards/prom"
	"darklaunch/internal/testenv/browser"
)

// startDash starts darklaunch dash and returns where it is.
func startDash(t *testing.T, args ...string) (*running, string) {
	t.Helper()
	r := start(t, append([]string{"dash", "--listen", "127.0.0.1:0"}, args...)...)
	return r, "http://" + r.ready("dash")
}

// queried is the JSON of the values that a query has now, [] for none.
func queried(t *testing.T, base, query string) string {
	t.Helper()
	var answer struct {
		Status, Error string
		Data          struct{ Result json.RawMessage }
	}
	get(t, base+"/api/v1/query?query="+url.QueryEscape(query), &answer)
	if answer.Status != "success" {
		t.Fatalf("%s: got %+v", query, answer)
	}
	return string(answer.Data.Result)
}

// conditions are the kinds of what is wrong.
func conditions(t *testing.T, base string) (kinds []prom.Kind) {
	t.Helper()
	var s dashState
	get(t, base+"/darklaunch/state", &s)
	for _, c := range s.Conditions {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

func stopped(t *testing.T, r *running) {
	t.Helper()
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone || strings.Contains(stderr, "level=ERROR") {
		t.Errorf("got %d and %q on stderr, want %d and no error", code, stderr, exitDone)
	}
}

// TestDash shows a real mirror: its metrics are scraped, its API is passed on
// with the token that it wants, orders included, and after a restart every
// sample of before is there.
func TestDash(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts several processes")
	}
	live, shadow := madeUpService(t, 0, 0), madeUpService(t, 0, 0)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.Listener.Addr().String(), "--shadow", shadow.Listener.Addr().String(),
		"--key", "header:x-user", "--sample", "100%", "--admin", "127.0.0.1:0", "--admin-token", "@"+token)
	admin := m.ready("admin")
	front := m.ready("mirror")
	dir := filepath.Join(t.TempDir(), "data")
	args := []string{"--data", dir, "--interval", "1s", "--mirror", admin, "--mirror-token", "@" + token}
	r, base := startDash(t, args...)

	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+front+"/inbox", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User", "ann")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, query := range []string{
		`sum(mirror_requests_total{job="mirror"}) > 0`, `mirror_enabled == 1`, `up{job="dash"} == 1`,
		`histogram_count(sum(mirror_relay_overhead_seconds)) > 0`, `role_route:mirror_backend_requests:rate1m{role="shadow"}`,
	} {
		waitFor(t, query, func() bool { return queried(t, base, query) != "[]" })
	}
	waitFor(t, "all to be well", func() bool { return len(conditions(t, base)) == 0 })
	checkSchema(t, "dash-state", []byte(page(t, base+"/darklaunch/state")))
	if got := page(t, base+"/"); !strings.Contains(got, "board/page.js") {
		t.Errorf("/: got %q, want the board", got)
	}
	if got := page(t, base+"/metrics"); !strings.Contains(got, "go_goroutines") || strings.Contains(got, "prometheus_tsdb") {
		t.Errorf("/metrics: got %.200s, want those of the program and none of upstream's", got)
	}

	var state struct{ Mirror json.RawMessage }
	if code := get(t, base+"/darklaunch/mirror/api/v1/state", &state); code != http.StatusOK || len(state.Mirror) < 10 {
		t.Errorf("the mirror's state: got %d, %s", code, state.Mirror)
	}
	for _, tc := range []struct {
		path, contentType, origin string
		want                      int
	}{
		{"/darklaunch/mirror/api/v1/kill", "text/plain", "", 415},
		{"/darklaunch/mirror/api/v1/kill", "application/json", "http://evil.example", 403},
		{"/darklaunch/mirror/debug/pprof/", "application/json", "", 404},
		{"/darklaunch/mirror/api/v1/../../debug/pprof/", "application/json", "", 404},
		{"/darklaunch/mirror/api/v1/kill", "application/json", "", 200},
	} {
		if got := post(t, base+tc.path, tc.contentType, tc.origin, "{}"); got != tc.want && !(tc.want == 404 && got == 307) {
			t.Errorf("POST %s as %s from %q: got %d, want %d", tc.path, tc.contentType, tc.origin, got, tc.want)
		}
	}
	waitFor(t, "the order to reach the mirror", func() bool { return queried(t, base, "mirror_enabled == 0") != "[]" })

	const all = `count_over_time(mirror_enabled[1h])`
	before := queried(t, base, `mirror_enabled[1h]`)
	stopped(t, r)
	stopped(t, m)
	r, base = startDash(t, "--data", dir, "--rules", "none")
	after := queried(t, base, `mirror_enabled[1h]`)
	var was, is []struct{ Values []json.RawMessage }
	if json.Unmarshal([]byte(before), &was) != nil || json.Unmarshal([]byte(after), &is) != nil || len(was) != 1 || len(is) != 1 {
		t.Fatalf("got %s before and %s after a restart", before, after)
	}
	for _, sample := range was[0].Values {
		if !slices.ContainsFunc(is[0].Values, func(v json.RawMessage) bool { return string(v) == string(sample) }) {
			t.Errorf("sample %s is gone after a restart", sample)
		}
	}
	// Killed, not stopped: what was acknowledged is in the log.
	waitFor(t, "a scrape of its own", func() bool { return queried(t, base, `up{job="dash"}`) != "[]" })
	counted := queried(t, base, all)
	r.signal(syscall.SIGKILL)
	r.end()
	r, base = startDash(t, "--data", dir, "--rules", "none")
	if got := queried(t, base, all); got[strings.LastIndex(got, ","):] != counted[strings.LastIndex(counted, ","):] {
		t.Errorf("after kill -9: got %s samples, want %s", got, counted)
	}
	stopped(t, r)
}

func post(t *testing.T, url, contentType, origin, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestDashPassesOn has made-up servers behind it: a stream of events comes
// through while it goes on, and what a page could tell of its origin does not.
func TestDashPassesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts several processes")
	}
	gone := make(chan struct{})
	verdict := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hidden" || r.Header.Get("Cookie") != "" || r.Header.Get("Origin") != "" {
			http.Error(w, "wrong headers", http.StatusTeapot)
			return
		}
		if r.URL.Path != "/api/v1/events" {
			fmt.Fprintf(w, "{%q: %q}", "path", r.URL.String())
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: one\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	defer verdict.Close()
	r, base := startDash(t, "--verdict", verdict.Listener.Addr().String(), "--verdict-token", "hidden", "--token", "ours", "--rules", "none")
	ask := func(ctx context.Context, path string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, "GET", base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer ours")
		req.Header.Set("Cookie", "a=b")
		req.Header.Set("Origin", base)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	resp, err := http.Get(base + "/darklaunch/verdict/api/v1/verdict")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: got %s, want 401", resp.Status)
	}
	body, err := io.ReadAll(ask(t.Context(), "/darklaunch/verdict/api/v1/verdict?comparison=x").Body)
	if err != nil || !strings.Contains(string(body), `"/api/v1/verdict?comparison=x"`) {
		t.Errorf("got %s, %v, want the path behind the prefix", body, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	line, err := bufio.NewReader(ask(ctx, "/darklaunch/verdict/api/v1/events").Body).ReadString('\n')
	if err != nil || line != "data: one\n" {
		t.Errorf("events: got %q, %v, want the first while the stream is open", line, err)
	}
	cancel()
	<-gone // the end of the asker ends the stream behind
	stopped(t, r)
}

// TestDashWithAnotherPrometheus passes the API on, questions by POST too, and says
// when the other one fails.
func TestDashWithAnotherPrometheus(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts several processes")
	}
	broken := false
	wait := make(chan struct{}, 1)
	wait <- struct{}{}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-wait
		defer func() { wait <- struct{}{} }()
		if broken {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{"status": "success", "data": {"result": [%q, %q]}}`, r.Method+r.URL.Path, r.FormValue("query"))
	}))
	defer other.Close()
	r, base := startDash(t, "--prometheus", other.URL+"/sub")
	if got := queried(t, base, "up"); got != `["GET/sub/api/v1/query", "up"]` {
		t.Errorf("got %s, want what the other one says", got)
	}
	resp, err := http.PostForm(base+"/api/v1/query", url.Values{"query": {"1+1"}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(body), `["POST/sub/api/v1/query", "1+1"]`) {
		t.Errorf("a question by POST: got %s %s", resp.Status, body)
	}
	for path, origin := range map[string]string{"/api/v1/query": "http://evil.example", "/api/v1/admin/tsdb/delete_series": ""} {
		if got := post(t, base+path, "application/x-www-form-urlencoded", origin, "query=1"); got != 403 && got != 415 {
			t.Errorf("POST %s from %q: got %d, want it refused", path, origin, got)
		}
	}
	if got := conditions(t, base); len(got) != 0 {
		t.Errorf("got conditions %v, want none", got)
	}
	<-wait
	broken = true
	wait <- struct{}{}
	waitFor(t, "it to be said that the other one fails", func() bool { return slices.Contains(conditions(t, base), "prometheus_down") })
	other.CloseClientConnections()
	stopped(t, r)
}

// TestDashSignIn signs in by browser where a token is asked for, and out again: the page
// comes, neither scripts nor the log have the token, and a link from elsewhere
// finds who is signed in.
func TestDashSignIn(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a browser")
	}
	tab := browser.Open(t)
	r, base := startDash(t, "--token", "open-sesame", "--rules", "none", "--log-level", "debug")
	if err := chromedp.Do(tab.Ctx, chromedp.EmulateViewport(360, 800), chromedp.Navigate(base+"/?range=1h")); err != nil {
		t.Fatal(err)
	}
	await := func(condition string) { // from one page to the next, where tab.Await would end with the first
		t.Helper()
		waitFor(t, condition, func() bool {
			is, err := chromedp.Run(tab.Ctx, chromedp.Evaluate[bool]("!!("+condition+")"))
			return err == nil && is
		})
	}
	give := func(token string) {
		t.Helper()
		await(`document.querySelector("#token")`)
		browser.Eval[bool](t, tab, fmt.Sprintf(`(() => { document.querySelector("#token").value = %q; setTimeout(() => document.querySelector("form").requestSubmit()); return true })()`, token))
	}
	give("open-barley")
	await(`document.body.innerText.includes("That is not the token.")`)
	if n := tab.Overflow(t); n > 0 {
		t.Errorf("%d px too wide", n)
	}
	give("open-sesame")
	await(`location.search === "?range=1h" && document.body.innerText.includes("No verdict is asked for.") && document.documentElement.dataset.drawn`)
	if got := browser.Eval[string](t, tab, "document.cookie"); got != "" {
		t.Errorf("got the cookies %q by script, want none", got)
	}
	// A link on another site: the browser keeps the cookie back, for that one request.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<link rel="icon" href="data:,"><a href="%s/?range=5m">the board</a>`, base)
	}))
	defer elsewhere.Close()
	if err := chromedp.Do(tab.Ctx, chromedp.Navigate(strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1))); err != nil {
		t.Fatal(err)
	}
	browser.Eval[bool](t, tab, `(() => { setTimeout(() => document.querySelector("a").click()); return true })()`)
	await(`location.search === "?range=5m" && document.documentElement.dataset.drawn`)
	browser.Eval[bool](t, tab, `(() => { setTimeout(() => document.querySelector("footer form").requestSubmit()); return true })()`)
	await(`document.querySelector("#token")`)
	for _, path := range []string{"/board/page.json", "/api/v1/query?query=1", "/darklaunch/state"} {
		if status := browser.Eval[int](t, tab, fmt.Sprintf("fetch(%q).then(r => r.status)", path)); status != http.StatusUnauthorized {
			t.Errorf("%s after signing out: got %d, want 401", path, status)
		}
	}
	for _, c := range tab.Complaints() {
		if !strings.HasPrefix(c, "Failed to load resource") { // the browser's own word for an answer that is no
			t.Error(c)
		}
	}
	if err := chromedp.Do(tab.Ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGTERM)
	code, _, stderr := r.end()
	if code != exitDone || strings.Contains(stderr, "open-") || !strings.Contains(stderr, "sign-in refused") || !strings.Contains(stderr, "signed in") {
		t.Errorf("got %d and the log %q, want both attempts and no token", code, stderr)
	}
}

func TestDashRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("groups: [{name: g, rules: [{alert: A, expr: 'sum('}]}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"--scrape x", 2, "--scrape"},
		{"--scrape =127.0.0.1:1", 2, "want NAME=host:port"},
		{"--scrape x=127.0.0.1", 2, "want NAME=host:port"},
		{"--alertmanager nowhere", 2, "--alertmanager: want a URL"},
		{"--prometheus ftp://x", 2, "--prometheus: want a URL"},
		{"--prometheus http://127.0.0.1:1 --data " + dir, 2, "--data is for the built-in Prometheus"},
		{"--mirror-token x", 2, "--mirror-token is for --mirror"},
		{"--rules " + file, 2, "rules " + file},
		{"--rules /nowhere/rules.yml", 1, "/nowhere/rules.yml"},
		{"--listen 0.0.0.0:0", 2, "off loopback"},
		{"--data " + file, 1, file},
		{"--ca /nowhere/ca.pem", 1, "/nowhere/ca.pem"},
		{"--ca " + file, 2, "no certificate"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := start(t, append([]string{"dash", "--listen", "127.0.0.1:0"}, strings.Fields(tc.args)...)...).end()
			if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
				t.Errorf("got %d, %q, stderr %q; want %d and one line with %q", code, stdout, stderr, tc.code, tc.want)
			}
		})
	}
}

// TestDashSaysWhatIsWrong has a target that is down and a mirror that is not there.
func TestDashSaysWhatIsWrong(t *testing.T) {
	r, base := startDash(t, "--scrape", "app=127.0.0.1:1", "--mirror", "127.0.0.1:1", "--interval", "1s", "--rules", "demo")
	for _, want := range []prom.Kind{prom.TargetDown, "mirror_down"} {
		waitFor(t, string(want), func() bool { return slices.Contains(conditions(t, base), want) })
	}
	checkSchema(t, "dash-state", []byte(page(t, base+"/darklaunch/state")))
	var answer struct{ Status, Error string }
	if code := get(t, base+"/darklaunch/mirror/api/v1/state", &answer); code != http.StatusBadGateway || !strings.Contains(answer.Error, "connection refused") {
		t.Errorf("a mirror that is down: got %d, %+v, want 502 and why", code, answer)
	}
	stopped(t, r)
}
