package mirror

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/process"
)

// TestScrape tells in the stream what processes say, and counts one that says garbage.
func TestScrape(t *testing.T) {
	asked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/garbage" {
			io.WriteString(w, "<html>")
			return
		}
		fmt.Fprint(w, "process_cpu_seconds_total 2.5\nprocess_start_time_seconds 10\ngo_memstats_mallocs_total 7\nhttp_requests_total 3\n")
	}))
	defer asked.Close()
	live, shadow := newService(t, nil), newService(t, nil)
	file := filepath.Join(t.TempDir(), "pairs")
	r := newRig(t, Config{Pairs: file, Scrape: process.Config{Targets: []process.Target{
		{Role: "live", URL: asked.URL}, {Role: "shadow", URL: asked.URL + "/garbage"},
	}}}, live, shadow)
	waitFor(t, "both to be asked", func() bool {
		return r.metric(`mirror_scrapes_total{result="ok",role="live"}`) > 0 && r.metric(`mirror_scrapes_total{result="garbage",role="shadow"}`) > 0
	})
	r.stop()
	_, windows, _ := readPairs(t, file)
	var told []*pairv1.Process
	for _, w := range windows {
		told = append(told, w.Processes...)
	}
	if len(told) == 0 {
		t.Fatal("the stream tells of no process")
	}
	p := told[0]
	if p.Role != pairv1.Role_ROLE_LIVE || p.Name != asked.URL || p.CpuSeconds != 2.5 || p.Allocations != 7 || p.Requests != 3 || p.StartSeconds != 10 || p.Time == 0 {
		t.Errorf("got %v", p)
	}
}
