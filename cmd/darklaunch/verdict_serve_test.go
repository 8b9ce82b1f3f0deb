package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"darklaunch/internal/strictyaml"
	"darklaunch/verdict"
	"darklaunch/verdict/judge"
)

// hurried judges in half a minute what should take ten, and takes noise for what it
// is even on a machine that does much else.
const hurried = `
window: 1s
grace: 3s
noise-block: 1s
min-duration: 20s
warm-up: 0s
warm-up-share: 0%
min-blocks: 3
max-stream-lost: 20%
max-dropped: 20%
metrics:
  - {name: latency, stat: p50, margin: 100%, floor: 20ms}
  - {name: latency, stat: p95, margin: 100%, use: watch}
  - {name: latency, stat: p99, margin: 100%, use: watch}
  - {name: latency, stat: p999, margin: 100%, use: watch}
  - {name: latency, stat: mean, margin: 100%, use: watch}
  - {name: errors, margin: 5pt}
  - {name: differences, margin: 1pt}
harm-limits: []
`

// madeUpService answers as a build of one would: slow and wrong as it is told.
func madeUpService(t *testing.T, slow time.Duration, wrong int) *httptest.Server {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		total := 7
		if wrong > 0 && n%wrong == 0 && r.URL.Path == "/inbox" {
			total = 8
		}
		mu.Unlock()
		if r.URL.Path == "/threads" {
			time.Sleep(slow)
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"total": %d, "subject": "hello"}`, total)
	}))
	t.Cleanup(s.Close)
	return s
}

// traffic sends requests of some users to the mirror at addr until ctx ends.
func traffic(ctx context.Context, wg *sync.WaitGroup, addr string) {
	for worker := range 2 {
		wg.Go(func() {
			for i := worker; ctx.Err() == nil; i += 2 {
				path := []string{"/inbox", "/threads"}[i/2%2]
				req, err := http.NewRequestWithContext(ctx, "GET", "http://"+addr+path, nil)
				if err != nil {
					return
				}
				req.Header.Set("X-User", fmt.Sprint("u", i%97))
				if resp, err := http.DefaultClient.Do(req); err == nil {
					resp.Body.Close()
				}
				time.Sleep(10 * time.Millisecond) // a pace, not a wait
			}
		})
	}
}

// get reads JSON and returns the status.
func get(t *testing.T, url string, into any) int {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return resp.StatusCode
}

// waitForVerdict is waitFor with the time that a judgement takes.
func waitForVerdict(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !cond(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 3 min for %s", what)
		}
	}
}

// TestVerdictServe has two mirrors, before one and the same live service: one with a
// shadow that is as good, and one with a shadow that is slow on one route and
// sometimes wrong on another. The verdict of the first is not fail, that of the second
// is and names both; and a server that is killed in between knows what it knew.
func TestVerdictServe(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute: the windows of a mirror are of a second")
	}
	live, control, equal, bad := madeUpService(t, 0, 0), madeUpService(t, 0, 0), madeUpService(t, 0, 0), madeUpService(t, 60*time.Millisecond, 5)
	dir := t.TempDir()
	config := filepath.Join(dir, "verdict.yaml")
	allow := filepath.Join(dir, "mirror.yaml")
	for name, text := range map[string]string{config: hurried, allow: "record: [\"json:$.total\"]\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var told changes
	hook := httptest.NewServer(&told)
	defer hook.Close()
	serve := func(listen string) (*running, string, string) {
		r := start(t, "verdict", "serve", "--listen", listen, "--state", filepath.Join(dir, "state"), "--config", config,
			"--webhook", hook.URL, "--admin", "127.0.0.1:0")
		admin, addr := r.ready("admin"), r.ready("verdict")
		return r, "http://" + admin, addr
	}
	r, admin, addr := serve("127.0.0.1:0")

	var gate struct{ Answer, State string }
	if code := get(t, "http://"+addr+"/api/v1/gate?comparison=equal", &gate); code != http.StatusTooEarly {
		t.Errorf("the gate before anything is known: got %d, %+v, want 425", code, gate)
	}

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for salt, shadow := range map[string]*httptest.Server{"equal": equal, "bad": bad} {
		m := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.Listener.Addr().String(), "--shadow", shadow.Listener.Addr().String(),
			"--control", control.Listener.Addr().String(), "--key", "header:x-user", "--sample", "100%", "--salt", salt, "--config", allow,
			"--verdict", addr, "--admin", "127.0.0.1:0")
		m.ready("admin")
		traffic(ctx, &wg, m.ready("mirror"))
	}

	summary := func(name string) (s verdict.Summary) {
		var all struct{ Comparisons []verdict.Summary }
		get(t, "http://"+addr+"/api/v1/comparisons", &all)
		if i := slices.IndexFunc(all.Comparisons, func(s verdict.Summary) bool { return s.Comparison == name }); i >= 0 {
			s = all.Comparisons[i]
		}
		return s
	}
	pairs := func(comparison string) (sum float64) {
		for _, line := range strings.Split(page(t, admin+"/metrics"), "\n") {
			var n float64
			if i := strings.LastIndexByte(line, ' '); strings.HasPrefix(line, "verdict_pairs_total{comparison=\""+comparison) && i > 0 {
				fmt.Sscan(line[i+1:], &n)
				sum += n
			}
		}
		return sum
	}
	waitForVerdict(t, "both mirrors to be heard", func() bool { return pairs("equal") > 0 && pairs("bad") > 0 })

	// Killed before there is a verdict.
	before, seen := summary("bad"), pairs("bad")
	r.signal(syscall.SIGKILL)
	if _, err := r.cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	r, admin, addr = serve(addr) // where the mirrors look for it
	if after := summary("bad"); after.Pairs < before.Pairs || after.Blocks < before.Blocks {
		t.Errorf("after a restart: got %d pairs in %d blocks, want at least %d in %d", after.Pairs, after.Blocks, before.Pairs, before.Blocks)
	}
	if now := pairs("bad"); now < seen || seen == 0 {
		t.Errorf("verdict_pairs_total: got %v after a restart, want at least the %v of before, and some", now, seen)
	}

	waitForVerdict(t, "the bad shadow to fail and the equal one to pass", func() bool {
		return summary("bad").State == "fail" && summary("equal").State != "warming" && summary("equal").Blocks >= 3
	})
	if s := summary("equal"); s.State == "fail" {
		t.Errorf("an equal shadow: got %+v", s)
	}
	var d judge.Document
	named := func(what string) bool {
		return slices.ContainsFunc(d.Reasons, func(r judge.Reason) bool { return strings.Contains(r.Text+" "+r.Route+" "+r.Metric, what) })
	}
	waitForVerdict(t, "the reasons to name what is wrong", func() bool {
		d = judge.Document{}
		get(t, "http://"+addr+"/api/v1/verdict?comparison=bad", &d)
		return named("GET /threads") && named("json:$.total")
	})
	if code := get(t, "http://"+addr+"/api/v1/gate?comparison=bad", &gate); code != http.StatusPreconditionFailed || gate.Answer != "fail" {
		t.Errorf("the gate: got %d, %+v, want 412", code, gate)
	}
	if html := page(t, "http://"+addr+"/report?comparison=bad"); !strings.Contains(html, "GET /threads") || !strings.Contains(html, "curl -g") || !strings.Contains(html, "Content-Security-Policy") {
		t.Errorf("the report: got %.2000s, want the slow route, and a difference as a curl line", html)
	}
	metrics := page(t, admin+"/metrics")
	for _, want := range []string{`verdict_state{comparison="bad",state="fail"} 1`, `verdict_differences_total{field="json:$.total",kind="value",route="GET /inbox"}`, `verdict_last_evaluation_timestamp_seconds`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	waitForVerdict(t, "the webhook to be told", func() bool { return told.has("bad", "fail") })

	// Killed with a verdict, which stands at once.
	r.signal(syscall.SIGKILL)
	if _, err := r.cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	r, _, addr = serve(addr)
	if s := summary("bad"); s.State != "fail" {
		t.Errorf("after another restart: got %+v, want fail", s)
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d; stderr: %s", code, stderr)
	}
}

// changes are those that a webhook was told.
type changes struct {
	mu  sync.Mutex
	all []verdict.Change
}

func (c *changes) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var change verdict.Change
	if json.NewDecoder(r.Body).Decode(&change) == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, change)
	}
}

func (c *changes) has(comparison, state string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.all, func(x verdict.Change) bool { return x.Comparison == comparison && x.State == state })
}

// TestVerdictStarter holds that what init prints is valid, and means something.
func TestVerdictStarter(t *testing.T) {
	code, stdout, _ := start(t, "verdict", "init").end()
	var s verdictSettings
	if err := strictyaml.Parse([]byte(stdout), schemaText("verdict"), &s); err != nil || code != exitDone {
		t.Fatalf("got %d, %v", code, err)
	}
	cfg, err := s.serverConfig()
	if err != nil || cfg.Judge.MinDuration != 10*time.Minute || cfg.Judge.Metrics[0].Margin != 0.1 || cfg.State == "" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

// TestVerdictRefuses what can't be meant, as a usage error of one line.
func TestVerdictRefuses(t *testing.T) {
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := "--listen 127.0.0.1:0 --admin 127.0.0.1:0"
	for _, tc := range []struct{ args, want string }{
		{"", "no address to listen on"},
		{"--listen 0.0.0.0:0 --admin 127.0.0.1:0", "needs --tls-cert, --tls-key and --token"},
		{"--listen 0.0.0.0:0 --admin 127.0.0.1:0 --token x", "needs --tls-cert, --tls-key and --token"},
		{"--listen unix:", "is not an address to listen on"},
		{good + " --tls-cert x", "go together"},
		{good + " --webhook ftp://x/", "want a URL"},
		{good + " --config " + file("windw: 1s\n"), "windw: unknown key"},
		{good + " --config " + file("metrics: [{name: latency, margin: ten}]\n"), "metrics[0].margin"},
		{good + " --config " + file("limits: [\"shadow.latency < 1s\"]\n"), "is not a limit"},
	} {
		code, _, stderr := start(t, append([]string{"verdict", "serve"}, strings.Fields(tc.args)...)...).end()
		if code != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: got %d and %q, want %d and one line with %q", tc.args, code, stderr, exitUsage, tc.want)
		}
	}
}

// TestVerdictReached holds by which ways a mirror reaches a verdict: over TLS with the
// token that it asks for, and by a unix socket; and by which it does not.
func TestVerdictReached(t *testing.T) {
	live, shadow := newRecorder(t), newRecorder(t)
	cert, key, trusted := certificateFiles(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mirrorTo := func(salt string, args ...string) *running {
		m := start(t, append([]string{"mirror", "--listen", "127.0.0.1:0", "--live", live.addr(), "--shadow", shadow.addr(),
			"--key", "header:x-user", "--salt", salt, "--admin", "127.0.0.1:0"}, args...)...)
		m.ready("admin")
		m.ready("mirror")
		return m
	}
	secure := start(t, "verdict", "serve", "--listen", "0.0.0.0:0", "--tls-cert", cert, "--tls-key", key, "--token", "@"+token, "--admin", "127.0.0.1:0")
	admin := secure.ready("admin")
	_, port, err := net.SplitHostPort(secure.ready("verdict"))
	if err != nil {
		t.Fatal(err)
	}
	addr := "https://127.0.0.1:" + port
	mirrorTo("with-token", "--verdict", addr, "--verdict-ca", cert, "--verdict-token", "@"+token)
	mirrorTo("without", "--verdict", addr, "--verdict-ca", cert)
	mirrorTo("plain", "--verdict", "127.0.0.1:"+port, "--verdict-token", "@"+token)
	waitFor(t, "the mirror with the token to be heard, and the one without to be cut off", func() bool {
		state := page(t, "http://"+admin+"/api/v1/state")
		return strings.Contains(state, `"with-token"`) && strings.Contains(secure.stderr(), "reason=token")
	})
	if state := page(t, "http://"+admin+"/api/v1/state"); strings.Contains(state, `"without"`) || strings.Contains(state, `"plain"`) {
		t.Errorf("got %s, want no other mirror heard", state)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}}
	defer client.CloseIdleConnections()
	for given, want := range map[string]int{"": http.StatusUnauthorized, "guess": http.StatusUnauthorized, "secret": http.StatusTooEarly} {
		req, err := http.NewRequest("POST", addr+"/api/v1/gate", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if given != "" {
			req.Header.Set("Authorization", "Bearer "+given)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("the gate with token %q: got %s, want %d", given, resp.Status, want)
		}
	}

	socket := filepath.Join(t.TempDir(), "verdict")
	local := start(t, "verdict", "serve", "--listen", "unix:"+socket, "--admin", "127.0.0.1:0")
	admin = local.ready("admin")
	local.ready("verdict")
	mirrorTo("by-socket", "--verdict", "unix:"+socket)
	waitFor(t, "the mirror to be heard by the socket", func() bool {
		return strings.Contains(page(t, "http://"+admin+"/api/v1/state"), `"by-socket"`)
	})
	if code, _, stderr := start(t, "verdict", "serve", "--listen", "unix:"+socket, "--admin", "127.0.0.1:0").end(); code != exitCouldNotRun || !strings.Contains(stderr, "in use") {
		t.Errorf("a socket that is in use: got %d and %q", code, stderr)
	}
	local.signal(syscall.SIGKILL)
	if _, err := local.cmd.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	again := start(t, "verdict", "serve", "--listen", "unix:"+socket, "--admin", "127.0.0.1:0")
	again.ready("admin")
	again.ready("verdict") // though the socket of the one that was killed is still there
}

// TestRolloutsPage holds that the page on rollout controllers is YAML, with fields that
// they have, and asks for what the verdict answers.
func TestRolloutsPage(t *testing.T) {
	text := readFile(t, "../../docs/rollouts.md")
	var asked int
	s, err := verdict.New(verdict.Config{}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range regexp.MustCompile(`https?://[^"\s]*(/api/v1/[^"\s]*)`).FindAllStringSubmatch(text, -1) {
		asked++
		w := httptest.NewRecorder()
		s.Handler(nil).ServeHTTP(w, httptest.NewRequest("GET", strings.ReplaceAll(url[1], "{{args.comparison}}", "x"), nil))
		if !strings.Contains(w.Header().Get("Content-Type"), "application/json") {
			t.Errorf("%s: got %d and no JSON", url[0], w.Code)
		}
	}
	if asked < 4 {
		t.Errorf("found %d addresses, want those of both controllers", asked)
	}
	// The fields of the resources, as far as they are used.
	var used struct {
		Spec struct {
			Metrics []struct {
				Name, Interval, SuccessCondition, FailureCondition              string
				Count, ConsecutiveSuccessLimit, InconclusiveLimit, FailureLimit int
				Provider                                                        struct {
					Web struct {
						URL, JSONPath  string
						TimeoutSeconds int
						Headers        []struct{ Key, Value string }
					}
				}
			}
		}
	}
	blocks := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	for i, b := range blocks {
		var any map[string]any
		if err := yaml.Unmarshal([]byte(b[1]), &any); err != nil {
			t.Errorf("block %d: %v", i, err)
			continue
		}
		if any["kind"] == "AnalysisTemplate" {
			// yaml lowers names of fields; the resource has camel case.
			if err := yaml.Unmarshal([]byte(strings.ToLower(b[1])), &used); err != nil {
				t.Error(err)
			}
		}
	}
	m := used.Spec.Metrics
	if len(blocks) < 5 || len(m) != 1 || m[0].ConsecutiveSuccessLimit != 1 || m[0].InconclusiveLimit != m[0].Count-1 || m[0].Provider.Web.JSONPath != "{$.verdict}" {
		t.Errorf("got %d blocks and %+v", len(blocks), m)
	}
}

// TestVerdictReload changes how it is judged by file and SIGHUP, and nothing by a file
// that asks for more than can change, or is wrong.
func TestVerdictReload(t *testing.T) {
	config := filepath.Join(t.TempDir(), "verdict.yaml")
	token := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("min-duration: 10m\n")
	r := start(t, "verdict", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config", config, "--token", "@"+token)
	admin := "http://" + r.ready("admin")
	r.ready("verdict")
	for _, step := range []struct{ text, want string }{
		{"min-duration: soon\n", "min-duration"},
		{"min-duration: 5m\nwindow: 5s\n", "only how it is judged can change"},
		{"min-duration: 5m\nmetrics: [{name: errors, margin: 1pt}]\n", ""},
	} {
		write(step.text)
		loaded := func() (s struct {
			Config struct{ Loaded, Failed, Error string }
		}) {
			get(t, admin+"/api/v1/state", &s)
			return s
		}
		before := loaded()
		r.signal(syscall.SIGHUP)
		waitFor(t, "the file to be read", func() bool { return loaded() != before })
		if got := loaded().Config.Error; !strings.Contains(got, step.want) || step.want == "" && got != "" {
			t.Errorf("%q: got %q, want %q in it", step.text, got, step.want)
		}
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d; stderr: %s", code, stderr)
	}
}
