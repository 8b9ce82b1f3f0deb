package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// loaded is what a run against an application server showed.
type loaded struct {
	result struct {
		OK        int            `json:"ok"`
		Errors    map[string]int `json:"errors"`
		Codes     map[string]int `json:"codes"`
		DeliveryS struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
		} `json:"delivery_s"`
	}
	metrics map[string]float64
	hitRate float64 // of look-ups of mailboxes that had been in memory before
}

// runAgainst runs a scenario against a server with a cache of some size.
func runAgainst(t testing.TB, scenario, cache string) (l loaded) {
	t.Helper()
	server := start(t, "appserver", "serve", "--listen", "127.0.0.1:0", "--store", "pebble:"+t.TempDir(), "--cache", cache, "--metrics", "127.0.0.1:0")
	metrics, addr := server.ready("metrics"), server.ready("grpc")
	file := filepath.Join(t.TempDir(), "result.json")
	code, stdout, stderr := start(t, "load", "run", scenario, "--target", addr, "--json", file).end()
	if code != exitDone && code != exitInconclusive { // the latter where the machine is busy
		t.Fatalf("got %d; stdout: %s; stderr: %s", code, stdout, stderr)
	}
	if err := json.Unmarshal([]byte(readFile(t, file)), &l.result); err != nil {
		t.Fatal(err)
	}
	l.metrics = scrape(t, "http://"+metrics+"/metrics")
	hits, again := l.metrics[`cache_requests_total{cache="mailbox",result="hit"}`], l.metrics[`mailbox_loads_total{result="kept"}`]
	l.hitRate = hits / (hits + again)
	t.Logf("%s with --cache %s: %d ok, codes %v; hit rate %.1f%% (%.1f%% with first uses), %.0f evictions; cache %.1f of %.1f MB; "+
		"a message is seen on a stream after p50 %.0fms, p99 %.0fms", filepath.Base(scenario), cache, l.result.OK, l.result.Codes, 100*l.hitRate,
		100*hits/(hits+l.metrics[`cache_requests_total{cache="mailbox",result="miss"}`]), l.metrics[`cache_evictions_total{cache="mailbox",reason="size"}`],
		l.metrics[`cache_size_bytes{cache="mailbox"}`]/1e6, l.metrics[`cache_capacity_bytes{cache="mailbox"}`]/1e6, 1e3*l.result.DeliveryS.P50, 1e3*l.result.DeliveryS.P99)
	return l
}

// TestSessionsAgainstServer: sessions of users find their mailboxes in a cache for a
// tenth of them, nothing they do fails, and what they send is seen on streams. Rows
// B13, E58-E60, E65, E66, I131.
func TestSessionsAgainstServer(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for half a minute")
	}
	const users = 1000
	t.Parallel()
	// Sessions are as many of the users at a time as in the scenario, and shorter.
	chat := writeScenario(t, fmt.Sprintf("apiVersion: load/v1\nextends: messages-chat\npopulation: {users: %d}\n"+
		"arrivals: {curve: [{phase: settle, for: 4s, hold: 10/s}, {phase: measure, for: 8s, hold: 10/s}]}\n"+
		"session: {think: {lognormal: {median: 150ms, sigma: 1, max: 2s}}}\n", users))
	all := runAgainst(t, chat, "1GiB") // how much a mailbox takes
	tenth := int64(all.metrics[`cache_size_bytes{cache="mailbox"}`] / all.metrics[`mailbox_loads_total{result="claimed"}`] * users / 10)
	l := runAgainst(t, chat, fmt.Sprint(tenth, "B"))
	for code, n := range l.result.Codes {
		// A session may read again what it has deleted.
		if code != "0" && (code != "5" || n > l.result.OK/20) {
			t.Errorf("%d calls ended with code %s", n, code)
		}
	}
	for class, n := range l.result.Errors {
		if class != "status" {
			t.Errorf("%d calls failed: %s", n, class)
		}
	}
	if l.metrics[`cache_evictions_total{cache="mailbox",reason="size"}`] == 0 {
		t.Error("nothing was evicted: the cache is too large to tell")
	}
	if size := l.metrics[`cache_size_bytes{cache="mailbox"}`]; size > 1.1*float64(tenth) {
		t.Errorf("the cache takes %.0f bytes, its bound is %d", size, tenth)
	}
	if l.hitRate < 0.8 {
		t.Errorf("got a hit rate of %.1f%%, want most", 100*l.hitRate)
	}
	if l.result.DeliveryS.P50 <= 0 {
		t.Error("no message was seen on a stream")
	}
	if os.Getenv("DARKLAUNCH_FULL") == "" {
		return
	}
	// The naive generator, with the same mailboxes and cache, finds few in memory.
	robot := runAgainst(t, writeScenario(t, fmt.Sprintf("apiVersion: load/v1\nextends: robot\npopulation: {users: %d}\n"+
		"arrivals: {curve: [{phase: settle, for: 8s, hold: 200/s}, {phase: measure, for: 8s, hold: 200/s}]}\n", users)), fmt.Sprint(tenth, "B"))
	if robot.hitRate > l.hitRate/2 {
		t.Errorf("got a hit rate of %.1f%% of independent calls, %.1f%% of sessions, want far less", 100*robot.hitRate, 100*l.hitRate)
	}
}
