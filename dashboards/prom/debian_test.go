package prom

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb"

	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// recorded is when the samples of writeHistory begin.
var recorded = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// writeHistory writes three blocks of two hours as a mirror might have left them:
// counters that restart, gauges that pause, classic histograms, each 15 s.
func writeHistory(t *testing.T, dir string) {
	t.Helper()
	roles, routes := []string{"live", "shadow", "control"}, []string{"/inbox", "/threads", "/send"}
	for b := range 3 {
		w, err := tsdb.NewBlockWriter(slog.New(slog.DiscardHandler), dir, 2*time.Hour.Milliseconds())
		if err != nil {
			t.Fatal(err)
		}
		app := w.Appender(t.Context())
		add := func(at time.Time, v float64, name string, set ...string) {
			if _, err := app.Append(0, labels.FromStrings(append(set, "__name__", name, "job", "mirror", "instance", "a:1")...), at.UnixMilli(), v); err != nil {
				t.Fatal(err)
			}
		}
		for i := b * 480; i < (b+1)*480; i++ {
			at, x := recorded.Add(time.Duration(i)*15*time.Second), float64(i)
			for r, role := range roles {
				for u, route := range routes {
					since := math.Mod(x, 700) * float64(3*r+u+1) // restarts after 700 samples
					add(at, since, "mirror_backend_requests_total", "role", role, "route", route, "code", "200")
					add(at, math.Floor(since/50), "mirror_backend_requests_total", "role", role, "route", route, "code", "500")
					for k, le := range []string{"0.1", "0.5", "1", "+Inf"} {
						add(at, math.Floor(since*float64(k+1)/4), "mirror_backend_request_duration_seconds_bucket", "role", role, "route", route, "le", le)
					}
					add(at, since, "mirror_backend_request_duration_seconds_count", "role", role, "route", route)
					add(at, since/3, "mirror_backend_request_duration_seconds_sum", "role", role, "route", route)
				}
			}
			if i%100 < 60 { // and then it pauses
				add(at, math.Sin(x/20)*100, "mirror_lanes")
			}
			add(at, 1, "up")
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// instant are asked at a time between two samples.
var instant = []string{
	`up`, `1+1`, `time()`, `vector(3)`, `mirror_lanes`, `mirror_backend_requests_total{role="shadow"}`,
	`sum(mirror_backend_requests_total)`, `sum by (role) (rate(mirror_backend_requests_total[5m]))`,
	`sum without (instance, code) (rate(mirror_backend_requests_total[1m]))`, `increase(mirror_backend_requests_total{code="500"}[1h])`,
	`irate(mirror_backend_requests_total[5m])`, `delta(mirror_lanes[10m])`, `deriv(mirror_lanes[10m])`, `predict_linear(mirror_lanes[10m], 600)`,
	`histogram_quantile(0.99, sum by (le, role) (rate(mirror_backend_request_duration_seconds_bucket[5m])))`,
	`histogram_quantile(0.5, rate(mirror_backend_request_duration_seconds_bucket[10m]))`,
	`avg_over_time(mirror_lanes[1h])`, `max_over_time(mirror_lanes[1h])`, `stddev_over_time(mirror_lanes[1h])`, `quantile_over_time(0.9, mirror_lanes[1h])`,
	`count_over_time(mirror_lanes[1h])`, `changes(up[1h])`, `resets(mirror_backend_requests_total[3h])`, `absent(nothing)`, `absent_over_time(nothing[5m])`,
	`topk(2, sum by (route) (rate(mirror_backend_requests_total[5m])))`, `bottomk(1, mirror_lanes)`, `count_values("v", up)`, `quantile(0.5, mirror_backend_requests_total)`,
	`label_replace(up, "host", "$1", "instance", "(.*):.*")`, `label_join(up, "x", "-", "job", "instance")`,
	`mirror_backend_requests_total{code="500"} / ignoring (code) mirror_backend_requests_total{code="200"}`,
	`mirror_backend_requests_total > 1000`, `mirror_backend_requests_total > bool 1000`, `up and on (job) mirror_lanes`, `up unless nothing`, `mirror_lanes or up`,
	`max_over_time(sum(mirror_backend_requests_total)[1h:1m])`, `mirror_lanes offset 1h`, `up @ 1767229200`, `mirror_lanes * 2 ^ 3 % 7`, `-mirror_lanes`,
	`clamp(mirror_lanes, -10, 10)`, `round(mirror_lanes, 0.5)`, `sgn(mirror_lanes)`, `day_of_week()`, `timestamp(up)`,
	`group(up)`, `stdvar(mirror_backend_requests_total)`, `scalar(sum(up))`, `{__name__=~"mirror_l.*"}`, `mirror_backend_requests_total{route!~"/in.*"}`, `"text"`,
}

// ranged are asked over an hour.
var ranged = []string{
	`up`, `mirror_lanes`, `sum by (role) (rate(mirror_backend_requests_total[5m]))`,
	`histogram_quantile(0.9, sum by (le) (rate(mirror_backend_request_duration_seconds_bucket[5m])))`,
	`avg_over_time(mirror_lanes[10m])`, `absent(mirror_lanes)`, `sum(rate(mirror_backend_requests_total{code="500"}[5m])) / sum(rate(mirror_backend_requests_total[5m]))`,
}

// Debian's is of 2023, and what is answered otherwise since is listed, each with
// what changed. A query of these must differ.
var changedSince = map[string]string{
	asked("count_over_time(up[5m])", recorded.Add(time.Hour)):                                              "3.0: a range no longer holds the sample at its very beginning",
	asked("holt_winters(mirror_lanes[10m], 0.5, 0.5)", recorded.Add(time.Hour)):                            "3.0: it is called double_exponential_smoothing, and an experiment",
	asked(`max_over_time(sum(rate(mirror_backend_requests_total[5m]))[1h:1m])`, recorded.Add(3*time.Hour)): "3.0: the same, for a subquery runs at whole minutes, when there is a sample",
	"/api/v1/status/buildinfo": "the version",
}

func asked(query string, at time.Time) string {
	return fmt.Sprintf("/api/v1/query?query=%s&time=%d", url.QueryEscape(query), at.Unix())
}

func paths() (all []string) {
	at := recorded.Add(3*time.Hour + 7*time.Second) // no sample is 5 or 10 minutes before it
	for _, q := range instant {
		all = append(all, asked(q, at))
	}
	for _, q := range ranged {
		all = append(all, fmt.Sprintf("/api/v1/query_range?query=%s&start=%d&end=%d&step=60", url.QueryEscape(q), at.Unix(), at.Add(time.Hour).Unix()))
	}
	span := fmt.Sprintf("start=%d&end=%d", recorded.Unix(), recorded.Add(6*time.Hour).Unix())
	return append(all,
		"/api/v1/labels?"+span, "/api/v1/labels?match[]=up&"+span, "/api/v1/label/role/values?"+span, "/api/v1/label/__name__/values?"+span,
		"/api/v1/label/route/values?match[]=mirror_backend_requests_total&"+span, "/api/v1/series?match[]=up&match[]=mirror_lanes&"+span,
		`/api/v1/series?match[]=mirror_backend_requests_total{role="live"}&`+span, "/api/v1/metadata", "/api/v1/rules", "/api/v1/alerts",
		"/api/v1/query_exemplars?query=up&"+span, "/api/v1/query?query=sum(&time=1", "/api/v1/query_range?query=up&start=2&end=1&step=1", "/api/v1/nothing")
}

// TestDebiansAnswers asks Debian's Prometheus and ours the same over the same
// blocks.
func TestDebiansAnswers(t *testing.T) {
	theirs, ours := t.TempDir(), t.TempDir()
	writeHistory(t, theirs)
	debian := testenv.Prometheus(t, theirs, "global: {scrape_interval: 1m}\n")
	if err := os.CopyFS(ours, os.DirFS(theirs)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "queries.active", "wal", "chunks_head"} {
		if err := os.RemoveAll(ours + "/" + name); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, Config{Dir: ours, Retention: 100 * 365 * 24 * time.Hour})
	near := cmp.Comparer(func(a, b float64) bool {
		return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-9*math.Max(math.Abs(a), math.Abs(b))
	})
	all := paths()
	for _, path := range all {
		got, want := answer(t, s.api+path), answer(t, "http://"+debian.Addr+path)
		if diff := cmp.Diff(want, got, near); diff != "" {
			t.Errorf("%s (-Debian +ours):\n%s", path, diff)
		}
	}
	if len(all) < 50 {
		t.Errorf("got %d questions, want at least 50", len(all))
	}
	for path, why := range changedSince {
		if cmp.Equal(answer(t, s.api+path), answer(t, "http://"+debian.Addr+path), near) {
			t.Errorf("%s: the answers are the same; it is listed as changed: %s", path, why)
		}
	}
}

// answer is what an API says: status, kind of error, and data, with values as
// numbers and series in order.
func answer(t *testing.T, url string) any {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a struct {
		Status    string
		ErrorType string
		Error     string
		Data      any
	}
	if resp.StatusCode == http.StatusNotFound {
		return resp.StatusCode
	}
	if err := json.Unmarshal(b, &a); err != nil {
		t.Fatalf("%s: %s: %v", url, b, err)
	}
	if a.ErrorType == "bad_data" {
		a.Error = "" // its wording
	}
	return []any{resp.StatusCode, a.Status, a.ErrorType, a.Error, normal(a.Data)}
}

// normal turns strings that are numbers into numbers, and orders lists of
// objects.
func normal(v any) any {
	switch v := v.(type) {
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return f
		}
	case []any:
		objects := true
		for i := range v {
			_, object := v[i].(map[string]any)
			objects = objects && object
			v[i] = normal(v[i])
		}
		if objects {
			slices.SortFunc(v, func(a, b any) int { return slices.Compare(marshal(a), marshal(b)) })
		}
	case map[string]any:
		for k := range v {
			v[k] = normal(v[k])
		}
	}
	return v
}

func marshal(v any) []byte {
	b, err := json.Marshal(v.(map[string]any)["metric"])
	if err != nil {
		return nil
	}
	return b
}
