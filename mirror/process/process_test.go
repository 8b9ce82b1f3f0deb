package process

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

// once asks a handler once, and returns what was learned and how it went.
func once(t *testing.T, cfg Config, h http.HandlerFunc) (Process, string) {
	t.Helper()
	server := httptest.NewServer(h)
	defer server.Close()
	target := Target{Role: "shadow", URL: server.URL + "/metrics"}
	cfg.Targets = []Target{target}
	s, err := New(cfg, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.CloseIdleConnections()
	s.ask(t.Context(), target)
	got := Process{}
	if fresh := s.Take(); len(fresh) == 1 {
		got = fresh[0]
	}
	if again := s.Take(); len(again) > 0 {
		t.Errorf("got %v a second time", again)
	}
	for _, result := range []string{OK, Refused, TooLate, TooLarge, Garbage} {
		if testutil.ToFloat64(s.results.WithLabelValues("shadow", result)) == 1 {
			return got, result
		}
	}
	t.Fatal("nothing was counted")
	return got, ""
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
}

func TestAnswers(t *testing.T) {
	const usual = "# HELP process_cpu_seconds_total x\n# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 1.5\n" +
		"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.7e9\n"
	for _, tt := range []struct {
		name   string
		cfg    Config
		answer http.HandlerFunc
		want   Process
		result string
	}{
		{"usual", Config{}, says(usual + "# TYPE go_memstats_mallocs_total counter\ngo_memstats_mallocs_total 12\n" +
			"# TYPE http_requests_total counter\nhttp_requests_total{code=\"200\"} 3\nhttp_requests_total{code=\"500\"} 4\n"),
			Process{CPU: 1.5, Allocations: 12, Requests: 7, Start: 1.7e9}, OK},
		{"the runtime's other name", Config{}, says(usual + "go_gc_heap_allocs_objects_total 5\n"), Process{CPU: 1.5, Allocations: 5, Start: 1.7e9}, OK},
		{"a histogram", Config{}, says(usual + "# TYPE http_request_duration_seconds histogram\nhttp_request_duration_seconds_bucket{le=\"+Inf\"} 9\nhttp_request_duration_seconds_sum 1\nhttp_request_duration_seconds_count 9\n"),
			Process{CPU: 1.5, Requests: 9, Start: 1.7e9}, OK},
		{"a name of one's own", Config{Requests: "mine_total"}, says(usual + "http_requests_total 1\nmine_total 2\n"), Process{CPU: 1.5, Requests: 2, Start: 1.7e9}, OK},
		{"without an end of line", Config{}, says("process_cpu_seconds_total 2"), Process{CPU: 2}, OK},
		{"without CPU", Config{}, says("go_goroutines 5\n"), Process{}, Garbage},
		{"garbage", Config{}, says("process_cpu_seconds_total one\n"), Process{}, Garbage},
		{"a page", Config{}, says("<html>"), Process{}, Garbage},
		{"one line without end", Config{}, says(strings.Repeat("x", 1<<20)), Process{}, Garbage},
		{"not there", Config{}, http.NotFound, Process{}, Refused},
		{"elsewhere", Config{}, http.RedirectHandler("/other", http.StatusFound).ServeHTTP, Process{}, Refused},
		{"too late", Config{Timeout: 50 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, Process{}, TooLate},
		{"too late within", Config{Timeout: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, usual)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, Process{}, TooLate},
		{"too many of the wanted", Config{}, func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100_000 {
				fmt.Fprintf(w, "http_requests_total{n=\"%d\"} 1\n", i)
			}
		}, Process{}, TooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, result := once(t, tt.cfg, tt.answer)
			got.Target, got.Time = Target{}, time.Time{}
			if diff := cmp.Diff(tt.want, got); diff != "" || result != tt.result {
				t.Errorf("got result %s, want %s (-want +got):\n%s", result, tt.result, diff)
			}
		})
	}
}

// TestMillions cuts an answer off that would have ten million series: it costs
// neither memory nor time.
func TestMillions(t *testing.T) {
	written := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, result := once(t, Config{Timeout: 30 * time.Second}, func(w http.ResponseWriter, _ *http.Request) {
		line := []byte(strings.Repeat("some_metric_of_many{label=\"value\"} 1\n", 1000))
		for range 10_000 {
			n, err := w.Write(line)
			written += n
			if err != nil {
				return
			}
		}
	})
	runtime.ReadMemStats(&after)
	if result != TooLarge || written > 64<<20 {
		t.Errorf("got %s after %d bytes, want it cut off", result, written)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("allocated %d bytes for what is not kept", grown)
	}
}

// TestRun asks a real process, this one, again and again, and leaves nothing behind.
func TestRun(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server := httptest.NewServer(promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	defer server.Close()
	s, err := New(Config{Targets: []Target{{"live", server.URL}}, Every: time.Millisecond}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	var seen []Process
	for deadline := time.Now().Add(30 * time.Second); len(seen) < 3 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		seen = append(seen, s.Take()...)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(seen) < 3 || seen[0].CPU <= 0 || seen[0].Allocations <= 0 || seen[2].Allocations <= seen[0].Allocations || seen[0].Start <= 0 {
		t.Errorf("got %+v, want CPU time and allocations that grow", seen)
	}
}

func TestRefuses(t *testing.T) {
	for _, bad := range []Target{{"live", "nowhere"}, {"live", "ftp://x/"}, {"live", "http://"}, {"", "http://x/"}, {"other", "http://x/"}} {
		if _, err := New(Config{Targets: []Target{bad}}, prometheus.NewRegistry()); err == nil {
			t.Errorf("%v: want an error", bad)
		}
	}
}
