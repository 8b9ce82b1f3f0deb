package prom

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// A serving is a Server that runs, and its API.
type serving struct {
	*Server
	t    *testing.T
	api  string
	stop func()
}

// serve opens a server and runs it until stop or the end of the test.
func serve(t *testing.T, cfg Config) *serving {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return runServer(t, s)
}

func runServer(t *testing.T, s *Server) *serving {
	api := httptest.NewServer(s.Handler())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		api.Close()
	})
	t.Cleanup(stop)
	return &serving{s, t, api.URL, stop}
}

// ask asks the API and returns its data.
func (s *serving) ask(path string) json.RawMessage {
	s.t.Helper()
	return askAPI(s.t, s.api, path)
}

func askAPI(t *testing.T, base, path string) json.RawMessage {
	t.Helper()
	resp, err := http.Get(base + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Status string
		Data   json.RawMessage
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: got %s: %s, want a success", path, resp.Status, body)
	}
	return answer.Data
}

// value is the one value that a query has now, and whether it has one.
func (s *serving) value(query string) (v string, ok bool) {
	s.t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := json.Unmarshal(s.ask("/api/v1/query?query="+url.QueryEscape(query)), &data); err != nil {
		s.t.Fatal(err)
	}
	if len(data.Result) != 1 {
		return "", false
	}
	v, ok = data.Result[0].Value[1].(string)
	return v, ok
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 60 s for %s", what)
		}
	}
}

// target serves the metrics that a program of ours has: a counter and a
// histogram of both kinds.
func target(t *testing.T) Target {
	t.Helper()
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "test_requests_total", Help: "Requests."})
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "test_seconds", Help: "Durations.", Buckets: []float64{0.1, 1}, NativeHistogramBucketFactor: 1.1})
	reg.MustRegister(c, h)
	h.Observe(0.5)
	metrics := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	return answering(t, func(w http.ResponseWriter, r *http.Request) {
		c.Inc()
		metrics.ServeHTTP(w, r)
	})
}

func answering(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return Target{Job: "test", Address: srv.Listener.Addr().String()}
}

func fast(dir string, targets ...Target) Config {
	return Config{Dir: dir, Interval: 100 * time.Millisecond, Targets: targets}
}

func (s *serving) kinds() (kinds []Kind) {
	for _, c := range s.Conditions() {
		kinds = append(kinds, c.Kind)
	}
	return kinds
}

// condition waits for a condition of a kind and returns its text.
func (s *serving) condition(k Kind) (text string) {
	s.t.Helper()
	waitFor(s.t, string(k), func() bool {
		all := s.Conditions()
		i := slices.IndexFunc(all, func(c Condition) bool { return c.Kind == k })
		if i >= 0 {
			text = all[i].Text
			if all[i].Since.IsZero() {
				s.t.Errorf("got %+v, want a time", all[i])
			}
		}
		return i >= 0
	})
	return text
}

// TestScrapeAndRestart scrapes both kinds of histogram, evaluates a rule, and
// finds after a restart every sample that was there before.
func TestScrapeAndRestart(t *testing.T) {
	dir := t.TempDir()
	cfg := fast(dir, target(t))
	cfg.Rules = []Rules{{Name: "test", Text: []byte("groups: [{name: g, interval: 100ms, rules: [{record: 'test:twice', expr: '2 * test_requests_total'}]}]")}}
	s := serve(t, cfg)
	for _, query := range []string{
		`up{job="test"} == 1`, `test_requests_total > 3`, `histogram_count(test_seconds) == 1`, `test_seconds_bucket{le="1.0"} == 1`, `test:twice > 3`,
	} {
		waitFor(t, query, func() bool { _, ok := s.value(query); return ok })
	}
	// A rule that is evaluated ten times a second may come twice in one instant of a busy machine.
	waitFor(t, "all to be well", func() bool { return len(s.Conditions()) == 0 })
	before := s.samples()
	s.stop()

	cfg.Targets, cfg.Rules = nil, nil // nothing is added from here on
	again := serve(t, cfg)
	first := again.samples()
	if len(before) < 20 {
		t.Errorf("got %d samples before the restart, want some to lose", len(before))
	}
	for sample := range before {
		if !first[sample] {
			t.Errorf("after a restart: %s is gone", sample)
		}
	}
	again.stop()
	if diff := cmp.Diff(first, serve(t, cfg).samples()); diff != "" {
		t.Errorf("after another restart (-before +after):\n%s", diff)
	}
}

// samples are all there are of the last hour, floats and histograms.
func (s *serving) samples() map[string]bool {
	s.t.Helper()
	var data struct {
		Result []struct {
			Metric             json.RawMessage
			Values, Histograms []json.RawMessage
		}
	}
	if err := json.Unmarshal(s.ask("/api/v1/query?query="+url.QueryEscape(`{__name__=~".+"}[1h]`)), &data); err != nil {
		s.t.Fatal(err)
	}
	all := map[string]bool{}
	for _, r := range data.Result {
		for _, v := range append(r.Values, r.Histograms...) {
			all[string(r.Metric)+" "+string(v)] = true
		}
	}
	return all
}

// TestAPI asks for all that Grafana does.
func TestAPI(t *testing.T) {
	s := serve(t, fast(t.TempDir(), target(t)))
	waitFor(t, "a scrape", func() bool { _, ok := s.value("test_requests_total"); return ok })
	for _, tc := range []struct{ path, want string }{
		{"/api/v1/status/buildinfo", `"version":"3`},
		{"/api/v1/metadata", `"test_requests_total":[{"type":"counter"`},
		{"/api/v1/labels", `"job"`},
		{"/api/v1/label/job/values", `"test"`},
		{"/api/v1/series?match[]=test_requests_total", `"__name__":"test_requests_total"`},
		{"/api/v1/query?query=1%2B1", `"2"`},
		{"/api/v1/query_range?query=up&start=0&end=10&step=5", `"matrix"`},
		{"/api/v1/query_exemplars?query=up&start=0&end=1", `[]`},
		{"/api/v1/rules", `"groups":[]`},
		{"/api/v1/alerts", `"alerts":[]`},
		{"/api/v1/targets", `"health":"up"`},
		{"/api/v1/alertmanagers", `"activeAlertmanagers":[]`},
		{"/api/v1/status/config", `scrape_interval`},
		{"/api/v1/status/flags", `storage.tsdb.path`},
		{"/api/v1/status/runtimeinfo", `"storageRetention":"15d"`},
		{"/api/v1/status/tsdb", `headStats`},
	} {
		if got := string(s.ask(tc.path)); !strings.Contains(got, tc.want) {
			t.Errorf("%s: got %.300s, want %s in it", tc.path, got, tc.want)
		}
	}
	form, err := http.PostForm(s.api+"/api/v1/query", url.Values{"query": {"1+1"}})
	if err != nil {
		t.Fatal(err)
	}
	form.Body.Close()
	if form.StatusCode != http.StatusOK {
		t.Errorf("a query as a form: got %s, want 200", form.Status)
	}
	for _, path := range []string{"/api/v1/admin/tsdb/delete_series?match[]=up", "/api/v1/write", "/api/v1/otlp/v1/metrics", "/api/v1/read"} {
		resp, err := http.Post(s.api+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%s: got %s, want it refused", path, resp.Status)
		}
	}
}

// TestBadTargets has targets that can't be taken: each is said to be down, why,
// and nothing of it is kept.
func TestBadTargets(t *testing.T) {
	many := func(n int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for i := range n {
				if _, err := fmt.Fprintf(w, "many_total{n=\"%d\"} 1\n", i); err != nil || r.Context().Err() != nil {
					return // cut off
				}
			}
		}
	}
	down := answering(t, nil)
	down.Address = "127.0.0.1:1"
	for _, tc := range []struct {
		name, want string
		target     Target
	}{
		{"down", "connection refused", down},
		{"garbage", "expected", answering(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			fmt.Fprint(w, "<html>\x00 what?")
		})},
		{"error", "500", answering(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) })},
		{"many samples", "sample limit exceeded", answering(t, many(2000))},
		{"much text", "body size limit exceeded", answering(t, many(10_000_000))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cfg := fast(t.TempDir(), tc.target)
			cfg.Interval, cfg.MaxSamples, cfg.MaxBody = 10*time.Second, 1000, 1<<20 // by when even a busy machine has answered
			s := serve(t, cfg)
			if got := s.condition(TargetDown); !strings.Contains(got, tc.want) || !strings.Contains(got, tc.target.Address) {
				t.Errorf("got %q, want it to name the target, and %q", got, tc.want)
			}
			if v, ok := s.value(`count({__name__=~"many_total.*"})`); ok {
				t.Errorf("%s series were kept, want none", v)
			}
			if state := s.Targets()[0]; state.Health != "down" || len(state.Error) > maxText+10 {
				t.Errorf("got %+v, want it down and the error bounded", state)
			}
		})
	}
}

func TestNoTargets(t *testing.T) {
	s := serve(t, Config{Dir: t.TempDir()})
	if got := s.condition(NoTargets); got == "" {
		t.Error("want a word about it")
	}
}

// TestManySeries has a target with new series at each scrape.
func TestManySeries(t *testing.T) {
	n := 0
	cfg := fast(t.TempDir(), answering(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 20 {
			n++
			fmt.Fprintf(w, "new{n=\"%d\"} 1\n", n)
		}
	}))
	cfg.MaxSeries = 100
	s := serve(t, cfg)
	if got := s.condition(ManySeries); !strings.Contains(got, "100") {
		t.Errorf("got %q, want the number of series", got)
	}
	if got := s.store.series.Load(); got > 100 {
		t.Errorf("got %d series, want at most 100", got)
	}
	if got := s.condition(TargetDown); !strings.Contains(got, errManySeries.Error()) {
		t.Errorf("got %q, want why", got)
	}
	// What the log holds is read, whatever the bound is by then.
	s.stop()
	cfg.MaxSeries, cfg.Targets = 10, nil
	again, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestStopAtOnce stops servers that have hardly begun, with all that they do, and
// holds that nothing of theirs goes on.
func TestStopAtOnce(t *testing.T) {
	cfg := fast(t.TempDir(), target(t))
	cfg.Rules = []Rules{{Name: "test", Text: []byte("groups: [{name: g, interval: 100ms, rules: [{alert: Always, expr: vector(1)}]}]")}}
	for range 20 {
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(cfg); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "what was started to end", func() bool {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !bytes.Contains(stacks, []byte("scrape.(*scrapeLoop).run")) && !bytes.Contains(stacks, []byte("rules.(*Group).run"))
	})
}

// TestFullDisk takes the room away and gives it back: meanwhile samples are
// refused, in words, and old ones are still shown; afterwards it goes on, and a
// restart finds both sides.
func TestFullDisk(t *testing.T) {
	var mu sync.Mutex
	room := uint64(1 << 40)
	give := func(n uint64) { mu.Lock(); room = n; mu.Unlock() }
	cfg := fast(t.TempDir(), target(t))
	opened, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	opened.store.free = func(string) (uint64, error) { mu.Lock(); defer mu.Unlock(); return room, nil }
	s := runServer(t, opened)
	waitFor(t, "a sample", func() bool { _, ok := s.value("test_requests_total"); return ok })
	give(1 << 20)
	if got := s.condition(DiskFull); !strings.Contains(got, "1 MiB free") {
		t.Errorf("got %q, want how much is free", got)
	}
	if got := s.condition(TargetDown); !strings.Contains(got, errNoRoom.Error()) {
		t.Errorf("the target: got %q, want why nothing of it is kept", got)
	}
	if _, ok := s.value("count_over_time(test_requests_total[1h])"); !ok {
		t.Error("what was taken before is no longer shown")
	}
	give(1 << 40)
	waitFor(t, "it to go on", func() bool {
		_, ok := s.value("test_requests_total")
		return ok && !slices.Contains(s.kinds(), DiskFull) && !slices.Contains(s.kinds(), TargetDown)
	})
	before, _ := s.value("count_over_time(test_requests_total[1h])")
	s.stop()
	cfg.Targets = nil
	if after, _ := serve(t, cfg).value("count_over_time(test_requests_total[1h])"); len(after) < len(before) || after == "" {
		t.Errorf("after a restart: got %s samples, want at least %s", after, before)
	}
}

// writeBlock makes a block of some series from at to at+2h.
func writeBlock(t *testing.T, dir string, at time.Time) string {
	t.Helper()
	w, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), dir, 2*time.Hour.Milliseconds())
	if err != nil {
		t.Fatal(err)
	}
	app := w.Appender(t.Context())
	for i := range 50 {
		set := labels.FromStrings("__name__", "old_total", "n", fmt.Sprint(i))
		for s := 0; s < 7200; s += 60 {
			if _, err := app.Append(0, set, at.Add(time.Duration(s)*time.Second).UnixMilli(), float64(s)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	id, err := w.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// TestDamagedBlocks damages one of two blocks in every way a disk may: it is set
// aside, that is said until someone removes it, and the other is shown.
func TestDamagedBlocks(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts a dozen Prometheuses")
	}
	now := time.Now().Truncate(2 * time.Hour)
	flip := func(file string) func(string) error {
		return func(block string) error {
			name := filepath.Join(block, file)
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			b[len(b)/2] ^= 0xff
			return os.WriteFile(name, b, 0o644)
		}
	}
	for name, damage := range map[string]func(block string) error{
		"no meta":      func(b string) error { return os.Remove(filepath.Join(b, "meta.json")) },
		"no index":     func(b string) error { return os.Remove(filepath.Join(b, "index")) },
		"short index":  func(b string) error { return os.Truncate(filepath.Join(b, "index"), 20) },
		"index":        flip("index"),
		"chunks":       flip("chunks/000001"),
		"short chunks": func(b string) error { return os.Truncate(filepath.Join(b, "chunks/000001"), 100) },
		"meta":         func(b string) error { return os.WriteFile(filepath.Join(b, "meta.json"), []byte("{"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bad := writeBlock(t, dir, now.Add(-4*time.Hour))
			good := writeBlock(t, dir, now.Add(-2*time.Hour))
			if err := damage(filepath.Join(dir, bad)); err != nil {
				t.Fatal(err)
			}
			s := serve(t, Config{Dir: dir})
			if got := s.condition(BlockSetAside); !strings.Contains(got, bad) {
				t.Errorf("got %q, want the block %s", got, bad)
			}
			if metas := s.db.BlockMetas(); len(metas) != 1 || metas[0].ULID.String() != good {
				t.Errorf("got blocks %v, want %s alone", metas, good)
			}
			query := "/api/v1/query?query=" + url.QueryEscape("count(old_total)") + fmt.Sprintf("&time=%d", now.Add(-time.Hour).Unix())
			if got := string(s.ask(query)); !strings.Contains(got, `"50"`) {
				t.Errorf("the other block: got %s, want its 50 series", got)
			}
			s.stop()
			again := serve(t, Config{Dir: dir})
			if got := again.condition(BlockSetAside); !strings.Contains(got, bad) {
				t.Errorf("after a restart: got %q, want the block to be named still", got)
			}
			if err := os.RemoveAll(filepath.Join(dir, lostAndFound)); err != nil {
				t.Fatal(err)
			}
			again.stop()
			if kinds := serve(t, Config{Dir: dir}).kinds(); slices.Contains(kinds, BlockSetAside) {
				t.Errorf("after it was removed: got %v", kinds)
			}
		})
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := serve(t, Config{Dir: t.TempDir()})
	for name, tc := range map[string]struct {
		cfg   Config
		usage bool
		want  string
	}{
		"a file":      {Config{Dir: file}, false, file},
		"in use":      {Config{Dir: taken.cfg.Dir}, false, taken.cfg.Dir},
		"bad rules":   {Config{Dir: t.TempDir(), Rules: []Rules{{"mine", []byte("groups: [{name: g, rules: [{record: a, expr: 'sum('}]}]")}}}, true, "rules mine"},
		"bad manager": {Config{Dir: t.TempDir(), Alertmanagers: []*url.URL{{Scheme: "ftp", Host: "x"}}}, true, "ftp"},
		"bad CA":      {Config{Dir: t.TempDir(), CA: file, Targets: []Target{{Job: "a", Address: "127.0.0.1:1", TLS: true}}}, true, "CA"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(tc.cfg)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if errors.Is(err, ErrConfig) != tc.usage || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it, and a configuration error: %v", err, tc.want, tc.usage)
			}
		})
	}
}

// TestAlertsReachPeople has an Alertmanager that hears of an alert.
func TestAlertsReachPeople(t *testing.T) {
	told := make(chan string, 100)
	manager := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		told <- r.URL.Path + " " + string(b)
	}))
	defer manager.Close()
	at, err := url.Parse(manager.URL + "/prefix")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, Config{Dir: t.TempDir(), Alertmanagers: []*url.URL{at}, ExternalURL: &url.URL{Scheme: "http", Host: "dash:8600"},
		Rules: []Rules{{Name: "test", Text: []byte("groups: [{name: g, interval: 100ms, rules: [{alert: Always, expr: vector(1)}]}]")}}})
	select {
	case got := <-told:
		if !strings.HasPrefix(got, "/prefix/api/v2/alerts ") || !strings.Contains(got, `"alertname":"Always"`) || !strings.Contains(got, "http://dash:8600") {
			t.Errorf("got %s, want the alert, with a link", got)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("no alert came")
	}
	s.stop()
}

func TestAlertmanagerDown(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	defer down.Close()
	at, err := url.Parse(down.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, Config{Dir: t.TempDir(), Alertmanagers: []*url.URL{at},
		Rules: []Rules{{Name: "test", Text: []byte("groups: [{name: g, interval: 100ms, rules: [{alert: Always, expr: vector(1)}]}]")}}})
	s.condition(AlertsNotTold)
}

func TestRuleThatFails(t *testing.T) {
	s := serve(t, Config{Dir: t.TempDir(), Rules: []Rules{{Name: "test", Text: []byte(
		"groups: [{name: g, interval: 100ms, rules: [{record: bad, expr: 'label_replace(vector(1), \"a\", \"$1\", \"b\", \"(\")'}]}]")}}})
	if got := s.condition(RuleFailed); !strings.Contains(got, "bad") {
		t.Errorf("got %q, want the rule's name", got)
	}
}

// TestUpstreamsOwn runs Prometheus's own tests of its language, native histograms
// among them, with the store and the engine as we set them up.
func TestUpstreamsOwn(t *testing.T) {
	if testing.Short() {
		t.Skip("upstream's whole suite takes a while")
	}
	s, err := Open(Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	opts := s.engineOptions(nil)
	opts.Reg = nil
	// What the suite counts on, experiments of upstream's that are off by default among it.
	opts.NoStepSubqueryIntervalFn = func(int64) int64 { return time.Minute.Milliseconds() }
	opts.Parser = parser.NewParser(promqltest.TestParserOpts)
	opts.EnableDelayedNameRemoval, opts.UseStartTimestamps = true, true
	engine := promqltest.NewTestEngineWithOpts(t, opts)
	promqltest.RunBuiltinTestsWithStorage(t, engine, func(t testing.TB) storage.Storage {
		cfg := Config{}
		cfg.setDefaults()
		opts := storeOptions(cfg)
		opts.RetentionDuration = 0 // its samples are of 1970
		opts.MaxBlockDuration, opts.MinBlockDuration = 24*time.Hour.Milliseconds(), 24*time.Hour.Milliseconds()
		opts.EnableSTStorage, opts.FloatChunkEncoding = true, chunkenc.EncXOR2
		db, err := tsdb.Open(t.TempDir(), nil, nil, opts, nil)
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
}
