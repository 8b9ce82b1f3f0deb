package board

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// moment is when the page is looked at in tests: pictures are the same each time.
var moment = time.Date(2026, 3, 1, 12, 2, 30, 0, time.UTC)

// site is a host with the page and all that it asks.
type site struct {
	*httptest.Server
	verdict []byte // the document
	events  http.HandlerFunc
	prom    http.HandlerFunc // instead of canned answers
	rules   []byte
	// mirrorSays is what it answers, instead of its state.
	mirrorSays string

	mu     sync.Mutex
	mirror mirrorState
	asked  []string // of the mirror
}

type mirrorState struct {
	Enabled bool
	PPM     int
}

// newSite serves the page by cfg, with canned data unless change says otherwise.
func newSite(t *testing.T, cfg Config, change func(*site)) *site {
	t.Helper()
	s := &site{verdict: read(t, "../../verdict/report/testdata/mirrored.json"), rules: []byte(rulesJSON), mirror: mirrorState{true, 100_000}}
	s.events = s.serveEvents
	s.prom = servePrometheus
	if change != nil {
		change(s)
	}
	page, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", page)
	mux.HandleFunc("/api/v1/rules", func(w http.ResponseWriter, r *http.Request) { w.Write(s.rules) })
	mux.HandleFunc("/api/v1/query_exemplars", serveExemplars)
	mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) { s.prom(w, r) })
	mux.HandleFunc("/darklaunch/verdict/api/v1/events", func(w http.ResponseWriter, r *http.Request) { s.events(w, r) })
	mux.HandleFunc("/darklaunch/verdict/api/v1/verdict", func(w http.ResponseWriter, r *http.Request) { w.Write(s.verdict) })
	mux.Handle("/darklaunch/mirror/", http.StripPrefix("/darklaunch/mirror", Actions(cfg.Mirror, nil, http.HandlerFunc(s.serveMirror))))
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.CloseClientConnections() // the page's stream of events has no end
		s.Close()
	})
	return s
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// summary is the few words that a verdict's events have of the document.
func (s *site) summary() string {
	var d struct {
		Comparison string          `json:"comparison"`
		Verdict    string          `json:"verdict"`
		State      string          `json:"state"`
		Reasons    json.RawMessage `json:"reasons"`
		Rig        struct{ Blocks, Pairs int }
	}
	if err := json.Unmarshal(s.verdict, &d); err != nil {
		return "{}"
	}
	state := d.Verdict
	if d.State == "warming" || d.State == "collecting" {
		state = d.State
	}
	b, _ := json.Marshal(map[string]any{"comparison": d.Comparison, "state": state, "verdict": d.Verdict, "blocks": d.Rig.Blocks, "pairs": d.Rig.Pairs,
		"reasons": d.Reasons, "mirrors": []any{map[string]any{"id": "mirror-1", "connected": true}}})
	return string(b)
}

func (s *site) serveEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "event: verdict\ndata: %s\n\n", s.summary())
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

func (s *site) serveMirror(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != "GET" {
		s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	}
	switch r.URL.Path {
	case "/api/v1/kill":
		s.mirror.Enabled = false
	case "/api/v1/resume":
		s.mirror.Enabled = true
	case "/api/v1/sample":
		var v struct{ PPM int }
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.mirror.PPM = v.PPM
		fmt.Fprintf(w, `{"sample_ppm":%d}`, v.PPM)
		return
	}
	if s.mirrorSays != "" {
		fmt.Fprint(w, s.mirrorSays)
		return
	}
	off := ""
	if !s.mirror.Enabled {
		off = "killed"
	}
	if r.Method != "GET" {
		json.NewEncoder(w).Encode(map[string]any{"enabled": s.mirror.Enabled, "off": off})
		return
	}
	json.NewEncoder(w).Encode(map[string]any{"mirror": map[string]any{
		"enabled": s.mirror.Enabled, "off": off, "salt": "messages", "experiment": "continued",
		"sample": map[string]any{"sample_ppm": s.mirror.PPM, "admit_ppm": s.mirror.PPM, "effective_ppm": s.mirror.PPM, "sampled_users": 204, "shed_users": 0,
			"user_fraction": 0.1013, "request_fraction": 0.0972, "touched_fraction": 0.1604},
		"guard": map[string]any{"evidence": "switchback"},
		"copies": []any{
			map[string]any{"role": "shadow", "offered": 120000, "sent": 119913, "dropped": map[string]int{"lane_full": 84}, "pending": 3, "tainted_users": 2},
			map[string]any{"role": "control", "offered": 120000, "sent": 119997, "dropped": map[string]int{}, "pending": 3, "tainted_users": 0},
		},
		"pending": map[string]any{"copies": 6, "bytes": 18432, "lanes": 5},
		"fronts":  []any{},
	}})
}

const rulesJSON = `{"status":"success","data":{"groups":[{"name":"darklaunch","rules":[
 {"type":"alerting","name":"VerdictFailed","state":"firing","health":"ok","annotations":{"summary":"A comparison has failed."},"alerts":[
  {"state":"firing","activeAt":"2026-03-01T12:01:10Z","labels":{"severity":"critical"},"annotations":{"summary":"A comparison has failed.","description":"messages: shadow is worse than the margin allows."}}]},
 {"type":"alerting","name":"MirrorDropsHigh","state":"inactive","health":"ok","alerts":[]},
 {"type":"alerting","name":"LoadgenCannotKeepSchedule","state":"inactive","health":"ok","alerts":[]}]}]}}`

// canned is what the fake Prometheus answers to queries that hold all of has.
type canned struct {
	has    []string
	series []line
}

// line is one series about level, give or take noise, a share of it.
type line struct {
	labels map[string]string
	level  float64
	noise  float64
}

func l(level, noise float64, labels ...string) line {
	m := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		m[labels[i]] = labels[i+1]
	}
	return line{m, level, noise}
}

// answers are made up, of the size that a mirror in front of a few servers has.
var answers = []canned{
	{[]string{"verdict_state"}, []line{l(2, 0, "comparison", "messages")}},
	{[]string{`by (route) (rate(mirror_pairs_total`, "[5m]", "shadow_only_failed"}, []line{l(0.0003, 0, "route", "/threads"), l(0.0036, 0, "route", "/send"), l(0, 0, "route", "/search")}},
	{[]string{`by (route) (rate(mirror_pairs_total`}, []line{l(141, 0.03, "route", "/threads"), l(38, 0.03, "route", "/send"), l(11.2, 0.03, "route", "/search")}},
	{[]string{`by (route) (rate(verdict_pairs_total`, "[5m]"}, []line{l(0.00104, 0, "route", "/threads"), l(0, 0, "route", "/send"), l(0.006, 0, "route", "/search")}},
	{[]string{`by (route) (rate(mirror_pair_request_duration`, "[5m]", `"live"`}, []line{l(0.0415, 0, "route", "/threads"), l(0.0182, 0, "route", "/send"), l(0.0631, 0, "route", "/search")}},
	{[]string{`by (route) (rate(mirror_pair_request_duration`, "[5m]", `"shadow"`}, []line{l(0.0447, 0, "route", "/threads"), l(0.0171, 0, "route", "/send"), l(0.0588, 0, "route", "/search")}},
	{[]string{`by (route) (rate(mirror_pair_request_duration`, "[5m]", `"control"`}, []line{l(0.0412, 0, "route", "/threads"), l(0.0184, 0, "route", "/send"), l(0.0627, 0, "route", "/search")}},
	{[]string{"0.99", "by (route)", `role="shadow"`}, []line{l(0.086, 0.2, "route", "/threads")}},
	{[]string{"verdict_margin_ratio", "latency"}, []line{l(0.1, 0, "route", "/threads")}},
	{[]string{"verdict_margin_ratio", "errors"}, []line{l(0.001, 0)}},
	{[]string{"mirror_requests_total", "process_cpu"}, []line{l(0.00021, 0.06)}},
	{[]string{"mirror_backend_requests_total", "process_cpu", "shadow"}, []line{l(0.00018, 0.06)}},
	{[]string{"mirror_backend_requests_total", "process_cpu"}, []line{l(0.00022, 0.06)}},
	{[]string{"sum(rate(mirror_requests_total"}, []line{l(1904, 0.02)}},
	{[]string{"mirror_backend_requests_total", `role="shadow"`}, []line{l(190, 0.04)}},
	{[]string{"mirror_backend_requests_total", `role="control"`}, []line{l(191, 0.04)}},
	{[]string{"mirror_pairs_total", "live_only_failed|both_failed"}, []line{l(0.0002, 0.6)}},
	{[]string{"mirror_pairs_total", "shadow_only_failed|both_failed"}, []line{l(0.0036, 0.25)}},
	{[]string{"mirror_pairs_total"}, []line{l(0.0034, 0.25)}},
	{[]string{"0.50", "mirror_pair_request_duration", `"live"`}, []line{l(0.0058, 0.04)}},
	{[]string{"0.50", "mirror_pair_request_duration", `"shadow"`}, []line{l(0.0051, 0.04)}},
	{[]string{"0.50", "mirror_pair_request_duration", `"control"`}, []line{l(0.0057, 0.04)}},
	{[]string{"0.99", "mirror_pair_request_duration", `"live"`}, []line{l(0.0415, 0.07)}},
	{[]string{"0.99", "mirror_pair_request_duration", `"shadow"`}, []line{l(0.0447, 0.09)}},
	{[]string{"0.99", "mirror_pair_request_duration", `"control"`}, []line{l(0.0412, 0.07)}},
	{[]string{"verdict_pairs_total", `"shadow_only|both"`}, []line{l(0.00104, 0.3, "route", "/threads"), l(0.006, 0.2, "route", "/search")}},
	{[]string{"verdict_pairs_total", `"control_only|both"`}, []line{l(0.00003, 0.5, "route", "/threads"), l(0.006, 0.2, "route", "/search")}},
	{[]string{"verdict_pairs_total", `result="shadow_only"`}, []line{l(0.15, 0.3)}},
	{[]string{"verdict_pairs_total", `result="control_only"`}, []line{l(0.01, 0.5)}},
	{[]string{"verdict_pairs_total", "unjudged"}, []line{l(0.02, 0.4, "result", "unjudged"), l(0, 0, "result", "incomplete"), l(0, 0, "result", "unknown_ids")}},
	{[]string{"0.50", "mirror_relay_overhead"}, []line{l(0.000009, 0.1)}},
	{[]string{"0.99", "mirror_relay_overhead"}, []line{l(0.00021, 0.15)}},
	{[]string{"mirror_request_duration_seconds", `sampled="true"`}, []line{l(0.0421, 0.08)}},
	{[]string{"mirror_request_duration_seconds", `sampled="false"`}, []line{l(0.0418, 0.04)}},
	{[]string{"mirror_copies_dropped_total", "reason=~"}, dropped("lane_full", "budget", "expired", "user_shed", "breaker_open", "memory", "panic")},
	{[]string{"mirror_copies_dropped_total", "reason!~"}, dropped("switchback", "killed", "body_too_large", "streaming")},
	{[]string{"mirror_sample_ppm"}, []line{l(100000, 0)}},
	{[]string{"mirror_sample_effective_ppm"}, []line{l(100000, 0)}},
	{[]string{"mirror_users_tainted", "shadow"}, []line{l(2, 0)}},
	{[]string{"mirror_users_tainted", "control"}, []line{l(0, 0)}},
	{[]string{"0.50", "mirror_copy_wait"}, []line{l(0.00004, 0.1)}},
	{[]string{"0.99", "mirror_copy_wait"}, []line{l(0.0031, 0.3)}},
	{[]string{"mirror_copies_pending"}, []line{l(3, 0.5)}},
	{[]string{"mirror_lanes"}, []line{l(5, 0.4)}},
	{[]string{"mirror_connections_open"}, []line{l(64, 0.02)}},
	{[]string{"mirror_connections_unobserved"}, []line{l(0, 0)}},
	{[]string{"mirror_breaker_state"}, []line{l(1, 0, "role", "shadow"), l(1, 0, "role", "control")}},
	{[]string{"loadgen_target"}, []line{l(1900, 0, "scenario", "messages")}},
	{[]string{"loadgen_requests_total", "outcome!"}, []line{l(0.0002, 0.5, "scenario", "messages")}},
	{[]string{"loadgen_requests_total", "by (scenario)"}, []line{l(1898, 0.015, "scenario", "messages")}},
	{[]string{"0.99", "loadgen_response"}, []line{l(0.0442, 0.07, "scenario", "messages")}},
	{[]string{"0.99", "loadgen_service"}, []line{l(0.0428, 0.07, "scenario", "messages")}},
	{[]string{"0.50", "loadgen_lag"}, []line{l(0.00005, 0.1, "scenario", "messages")}},
	{[]string{"0.99", "loadgen_lag"}, []line{l(0.0007, 0.25, "scenario", "messages")}},
	{[]string{"loadgen_shed"}, []line{l(0, 0, "reason", "connections"), l(0, 0, "reason", "late")}},
	{[]string{"loadgen_phase"}, []line{l(2, 0, "scenario", "messages")}},
	{[]string{"appserver_requests_total"}, methods(1200, 340, 180, 90, 60, 30)},
	{[]string{"0.99", "appserver_request_seconds"}, methods(0.021, 0.034, 0.018, 0.058, 0.019, 0.004)},
	{[]string{"appserver_stage_seconds"}, []line{l(0.31, 0.05, "stage", "load"), l(0.22, 0.05, "stage", "commit"), l(0.11, 0.05, "stage", "fold"), l(0.05, 0.05, "stage", "reply")}},
	{[]string{"0.99", "store_operation_seconds"}, []line{l(0.0061, 0.1, "op", "put"), l(0.0019, 0.1, "op", "get"), l(0.0042, 0.1, "op", "scan")}},
	{[]string{"store_operations_total", `!="ok"`}, []line{l(0, 0, "op", "put", "result", "unknown"), l(0, 0, "op", "put", "result", "fenced"), l(0, 0, "op", "get", "result", "error")}},
	{[]string{"cache_requests_total"}, []line{l(0.957, 0.003, "cache", "mailbox"), l(0.974, 0.002, "cache", "unread")}},
	{[]string{"ring_members"}, []line{l(3, 0, "cell", "one")}},
	{[]string{"process_resident", "shadow"}, []line{l(212<<20, 0.01)}},
	{[]string{"process_resident", "control"}, []line{l(188<<20, 0.01)}},
	{[]string{"process_resident", "live"}, []line{l(190<<20, 0.01)}},
}

func dropped(reasons ...string) []line {
	var all []line
	for i, r := range reasons {
		level := 0.0
		if i == 0 {
			level = 0.13
		}
		all = append(all, l(level, 0.6, "role", "shadow", "reason", r))
	}
	return all
}

func methods(levels ...float64) []line {
	var all []line
	for i, name := range []string{"ListThreads", "GetThread", "Send", "Search", "Update", "UnreadCounts"} {
		all = append(all, l(levels[i], 0.06, "method", name))
	}
	return all
}

// find returns the series of a query, none if it is not canned.
func find(query string) []line {
next:
	for _, c := range answers {
		for _, part := range c.has {
			if !strings.Contains(query, part) {
				continue next
			}
		}
		return c.series
	}
	return nil
}

// at is the line's value in the nth step: noise that hangs together, the same in
// each run.
func (l line) at(query string, n int64) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, query, l.labels)
	draw := func(n int64) float64 { return rand.New(rand.NewPCG(h.Sum64(), uint64(n))).NormFloat64() }
	v := 0.0
	for k := range int64(6) {
		v += draw(n-k) / 6
	}
	return math.Max(0, l.level*(1+l.noise*v*1.6))
}

// servePrometheus answers as Prometheus would, from answers.
func servePrometheus(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	w.Header().Set("Content-Type", "application/json")
	kind, result := "vector", []any{}
	start, _ := strconv.ParseInt(r.FormValue("start"), 10, 64)
	end, _ := strconv.ParseInt(r.FormValue("end"), 10, 64)
	step, _ := strconv.ParseInt(r.FormValue("step"), 10, 64)
	switch {
	case strings.HasPrefix(query, "max by (scenario, phase)"), strings.HasPrefix(query, "max by (comparison, state)"):
		kind, result = "matrix", marked(query, start, end, step)
	case query == "up == 0":
		result = append(result, map[string]any{"metric": map[string]string{"job": "appserver", "instance": "127.0.0.1:7001"}, "value": []any{moment.Unix(), "0"}})
	case r.URL.Path == "/api/v1/query":
		at, _ := strconv.ParseInt(r.FormValue("time"), 10, 64)
		for _, l := range find(query) {
			result = append(result, map[string]any{"metric": l.labels, "value": []any{at, decimal(l.at(query, at))}})
		}
	case !strings.Contains(query, "histogram_") && strings.HasPrefix(query, "sum(rate(") && strings.Contains(query, "_seconds{") && !strings.Contains(query, "process_"):
		kind = "matrix"
		var points []any
		for t := start; t <= end; t += step {
			points = append(points, []any{t, distribution(query, t)})
		}
		result = append(result, map[string]any{"metric": map[string]string{}, "histograms": points})
	default:
		kind = "matrix"
		for _, l := range find(query) {
			var points []any
			for t := start; t <= end; t += step {
				points = append(points, []any{t, decimal(l.at(query, t/step))})
			}
			result = append(result, map[string]any{"metric": l.labels, "values": points})
		}
	}
	json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": result}})
}

// marked is what annotations find: a load that goes on to measure in the middle of the
// time, and a comparison that fails at two thirds.
func marked(query string, start, end, step int64) (result []any) {
	of := func(from, to int64, labels ...string) {
		var points []any
		for t := start + from*(end-start)/12/step*step; t <= start+to*(end-start)/12; t += step {
			points = append(points, []any{t, "1"})
		}
		result = append(result, map[string]any{"metric": l(1, 0, labels...).labels, "values": points})
	}
	if strings.Contains(query, "loadgen_phase") {
		of(0, 5, "scenario", "messages", "phase", "settle")
		of(6, 12, "scenario", "messages", "phase", "measure")
		return result
	}
	of(8, 8, "comparison", "messages", "state", "fail")
	return result
}

// serveExemplars names a trace of each role.
func serveExemplars(w http.ResponseWriter, r *http.Request) {
	var all []any
	for role, value := range map[string]string{"live": "0.0391", "shadow": "0.0452"} {
		if strings.Contains(r.FormValue("query"), `role="`+role+`"`) {
			all = append(all, map[string]any{"seriesLabels": map[string]string{"role": role, "route": "/threads"}, "exemplars": []any{
				map[string]any{"labels": map[string]string{"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, "value": value, "timestamp": float64(moment.Unix() - 100)},
			}})
		}
	}
	json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": all})
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }

// distribution is a native histogram of latencies, of two kinds of calls.
func distribution(query string, t int64) any {
	const growth = 1.0905 // schema 3
	noise := l(1, 0.1).at(query, t)
	var buckets []any
	total := 0.0
	for i := -110; i < -20; i++ {
		low, high := math.Pow(growth, float64(i)), math.Pow(growth, float64(i+1))
		mode := func(center, width, weight float64) float64 {
			d := (math.Log(low) - math.Log(center*noise)) / width
			return weight * math.Exp(-d*d/2)
		}
		slow := 0.0085
		if strings.Contains(query, "shadow") {
			slow = 0.0125
		}
		n := mode(0.0048, 0.35, 22) + mode(slow*2.2, 0.4, 3)
		if n < 0.05 {
			continue
		}
		total += n
		buckets = append(buckets, []any{0, decimal(low), decimal(high), decimal(n)})
	}
	return map[string]any{"count": decimal(total), "sum": "1", "buckets": buckets}
}
