package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen"
	"darklaunch/verdict/judge"
)

// resultOf is what a run of 2,000 calls of one operation came to, all around 20 ms
// times factor, of which some failed.
func resultOf(t *testing.T, factor float64, failed uint64) *loadgen.Result {
	t.Helper()
	h := hist.New()
	const n = 2000
	for i := range n {
		h.Record(time.Duration(factor * (20e6 + 5e6*math.Log(float64(i+1)/n))))
	}
	encode := func(h *hist.Hist) string {
		b, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	empty := encode(hist.New())
	f := loadgen.Figures{Planned: new(uint64(n)), Sent: n, OK: n - failed, Errors: map[string]uint64{}, Codes: map[string]uint64{}, ShedBy: map[string]uint64{}}
	if failed > 0 {
		f.Errors["status"] = failed
	}
	return &loadgen.Result{
		Schema: loadgen.Schema, Scenario: "test", Plan: "0123456789abcdef", Figures: f, Duration: 10, Rate: loadgen.Rate{Target: 200, Achieved: 200},
		Ops: map[string]loadgen.Figures{"read": f}, Seed: 1, Total: 1, Reasons: []string{}, Generator: loadgen.Generator{Version: "v1"},
		Histograms: map[string]loadgen.Histograms{"read": {Response: encode(h), ResponseCensored: empty, Service: encode(h), ServiceCensored: empty, Lag: empty, Pacing: empty, Delivery: empty}},
	}
}

// writeResults writes n results to a new directory. Each varies by a percent.
func writeResults(t *testing.T, n int, factor float64, change func(i int, r *loadgen.Result)) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		r := resultOf(t, factor*(1+0.01*float64(i%3)), 0)
		if change != nil {
			change(i, r)
		}
		writeJSON(t, filepath.Join(dir, fmt.Sprintf("run-%02d.json", i)), r)
	}
	return dir
}

func writeJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestVerdictCompare(t *testing.T) {
	t.Parallel()
	same := func(n int) string { return writeResults(t, n, 1, nil) }
	for _, c := range []struct {
		name       string
		base, head string
		code       int
		reason     string // a code
		text       string // in what is told
	}{
		{"same", same(8), same(8), 0, "", "verdict: pass"},
		{"slower", same(8), writeResults(t, 8, 1.3, nil), 10, judge.ReasonMargin, "verdict: fail"},
		{"more errors", same(8), writeResults(t, 8, 1, func(_ int, r *loadgen.Result) { *r = *resultOf(t, 1, 20) }), 10, judge.ReasonMargin, "errors"},
		{"too few", same(3), same(3), 11, judge.ReasonFewBlocks, "2 blocks more"},
		{"one file each", filepath.Join(same(1), "run-00.json"), filepath.Join(same(1), "run-00.json"), 11, judge.ReasonFewBlocks, "4 blocks more"},
		{"some without a counterpart", same(8), same(6), 11, judge.ReasonNoData, "run-06.json, run-07.json"},
		{"another plan", same(8), writeResults(t, 8, 1, func(_ int, r *loadgen.Result) { r.Plan = "fedcba9876543210" }), 11, judge.ReasonPlan, "plan fedcba9876543210"},
		{"another machine", same(8), writeResults(t, 8, 1, func(_ int, r *loadgen.Result) { r.Generator.Machine = map[string]string{"cpu": "another"} }), 11, judge.ReasonFingerprint, "cpu"},
		{"another generator", same(8), writeResults(t, 8, 1, func(_ int, r *loadgen.Result) { r.Generator.Version = "v2" }), 11, judge.ReasonFingerprint, "generator"},
		{"interrupted", same(8), writeResults(t, 8, 1, func(i int, r *loadgen.Result) { r.Interrupted = i == 4 }), 11, judge.ReasonInterrupted, "cut short"},
		{"a worker missing", same(8), writeResults(t, 8, 1, func(i int, r *loadgen.Result) { r.Total = 2 }), 11, judge.ReasonPlan, "1 of 2 workers"},
		{"an operation missing", same(8), writeResults(t, 8, 1, func(_ int, r *loadgen.Result) {
			r.Ops["write"], r.Histograms["write"] = r.Ops["read"], r.Histograms["read"]
		}), 11, judge.ReasonNoData, "of base"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "out")
			file := filepath.Join(t.TempDir(), "verdict.json")
			code, stdout, stderr := start(t, "verdict", "compare", c.base, c.head, "--out", out, "--json", file).end()
			if code != c.code || !strings.Contains(stdout+stderr, c.text) {
				t.Errorf("got %d, want %d and %q:\n%s%s", code, c.code, c.text, stdout, stderr)
			}
			text := readFile(t, file)
			checkSchema(t, "report", []byte(text))
			if kept := readFile(t, filepath.Join(out, "verdict.json")); kept != text {
				t.Error("--out and --json differ")
			}
			var d judge.Document
			if err := json.Unmarshal([]byte(text), &d); err != nil {
				t.Fatal(err)
			}
			found := c.reason == ""
			for _, r := range d.Reasons {
				found = found || r.Code == c.reason
				if d.Verdict == judge.Inconclusive && r.Cure == "" {
					t.Errorf("%s has no cure", r.Code)
				}
			}
			if !found || (len(d.Reasons) == 0) != (code == 0) {
				t.Errorf("got reasons %+v, want %q", d.Reasons, c.reason)
			}
		})
	}
}

// TestVerdictCompareConfig holds that the file decides, and that one that is wrong is
// an error that says where.
func TestVerdictCompareConfig(t *testing.T) {
	t.Parallel()
	base, head := writeResults(t, 8, 1, nil), writeResults(t, 8, 1.3, nil)
	few := writeResults(t, 2, 1, nil)
	broken := writeResults(t, 1, 1, func(_ int, r *loadgen.Result) {
		h := r.Histograms["read"]
		h.Response = "AAAA"
		r.Histograms["read"] = h
	})
	short := writeResults(t, 1, 1, func(_ int, r *loadgen.Result) { f := r.Ops["read"]; f.Sent++; r.Ops["read"] = f })
	other := t.TempDir()
	writeJSON(t, filepath.Join(other, "a.json"), map[string]any{"schema": "load/v2"})
	for _, c := range []struct {
		name, config string
		base, head   string
		code         int
		want         string
	}{
		{"wide margins", "metrics:\n  - {name: latency, stat: p50, margin: 50%}\n  - {name: latency, stat: p99, margin: 50%}\n", base, head, 0, "verdict: pass"},
		{"an absolute limit", "metrics:\n  - {name: latency, stat: p50, margin: 50%}\n  - {name: latency, stat: p99, margin: 50%}\nlimits: [\"head.latency.p99 < 10ms\"]\n", base, head, 10, "is broken"},
		{"inconclusive passes", "on-inconclusive: pass\n", few, few, 0, "verdict: inconclusive"},
		{"inconclusive fails", "on-inconclusive: fail\n", few, few, 10, "verdict: inconclusive"},
		{"unknown key", "margins: 1\n", base, head, 2, ":1: margins"},
		{"no margin", "metrics:\n  - {name: latency, stat: p50, margin: wide}\n", base, head, 2, ":2: metrics[0].margin"},
		{"damaged", "", base, broken, 2, "operation read"},
		{"does not add up", "", base, short, 2, "2000 response times for 2001 calls"},
		{"no result", "", base, other, 2, "not a result of load"},
		{"empty", "", base, t.TempDir(), 2, "there is no result"},
		{"not there", "", base, filepath.Join(other, "none"), 2, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := filepath.Join(t.TempDir(), "verdict.yaml")
			if err := os.WriteFile(config, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := start(t, "verdict", "compare", c.base, c.head, "--config", config).end()
			if code != c.code || !strings.Contains(stdout+stderr, c.want) {
				t.Errorf("got %d, want %d and %q:\n%s%s", code, c.code, c.want, stdout, stderr)
			}
		})
	}
}

// TestVerdictCompareLoad compares what load has written of two services, one of which
// fails: a run of each is too little to decide, and what it shows is told all the same.
func TestVerdictCompareLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, status := range map[string]int{"base": 200, "head": 500} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(server.Close)
		if code, _, stderr := start(t, "load", "http", server.URL, "--rate", "200/s", "--for", "500ms", "--json", filepath.Join(dir, name)).end(); code != 0 && code != exitInconclusive {
			t.Fatalf("load: %d %s", code, stderr)
		}
	}
	code, stdout, stderr := start(t, "verdict", "compare", filepath.Join(dir, "base"), filepath.Join(dir, "head"), "--json", "-").end()
	if code != exitInconclusive {
		t.Errorf("got %d, want %d: %s", code, exitInconclusive, stderr)
	}
	checkSchema(t, "report", []byte(stdout))
	var d judge.Document
	if err := json.Unmarshal([]byte(stdout), &d); err != nil {
		t.Fatal(err)
	}
	seen := false
	for _, m := range d.Metrics {
		seen = seen || m.Name == judge.MetricErrors && *m.Base == 0 && *m.Head == 1
	}
	if !seen {
		t.Errorf("the errors of head are not told: %+v", d.Metrics)
	}
}
