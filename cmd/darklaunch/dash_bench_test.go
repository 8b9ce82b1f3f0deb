package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"darklaunch/internal/hist"
)

// BenchmarkDash scrapes ten programs each second, each with as many series as a
// mirror of 20 routes has, and tells how soon it was ready, also over what it
// has kept, and the most memory that it took. It runs half a minute, or ten with
// DARKLAUNCH_FULL=1.
func BenchmarkDash(b *testing.B) {
	length := 30 * time.Second
	if os.Getenv("DARKLAUNCH_FULL") != "" {
		length = 10 * time.Minute
	}
	args := []string{"--data", filepath.Join(b.TempDir(), "data"), "--interval", "1s"}
	for range 10 {
		args = append(args, "--scrape", "app="+benchTarget(b))
	}
	run := func(unit string) *running {
		begin := time.Now()
		r := start(b, append([]string{"dash", "--listen", "127.0.0.1:0"}, args...)...)
		r.ready("dash")
		b.ReportMetric(time.Since(begin).Seconds()*1e3, unit)
		return r
	}
	for b.Loop() {
		r := run("ready-ms")
		time.Sleep(length)
		b.ReportMetric(float64(peakMemory(b, r.cmd.Process.Pid))/(1<<20), "peak-MiB")
		r.signal(syscall.SIGTERM)
		if code, _, stderr := r.end(); code != exitDone {
			b.Fatalf("got %d: %s", code, stderr)
		}
		r = run("ready-again-ms")
		r.signal(syscall.SIGTERM)
		r.end()
	}
}

func benchTarget(b *testing.B) string {
	reg := prometheus.NewRegistry()
	counters := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bench_requests_total", Help: "Requests."}, []string{"route", "role", "code"})
	took := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bench_seconds", Help: "Durations.", Buckets: hist.Buckets(), NativeHistogramBucketFactor: 1.1}, []string{"route", "role"})
	reg.MustRegister(counters, took)
	metrics := promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for route := range 20 {
			for _, role := range []string{"live", "shadow"} {
				n++
				took.WithLabelValues(fmt.Sprint(route), role).Observe(float64(n%1000) / 1000)
				for _, code := range []string{"200", "404", "500", "503"} {
					counters.WithLabelValues(fmt.Sprint(route), role, code).Inc()
				}
			}
		}
		metrics.ServeHTTP(w, r)
	}))
	b.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// peakMemory is the most that a process had resident.
func peakMemory(b *testing.B, pid int) (bytes int64) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(rest, &bytes); err != nil {
		b.Fatal(err)
	}
	return bytes << 10
}
