package rig

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseWrk(t *testing.T) {
	got, err := ParseWrk(`Running 4s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Latency Distribution
     50%  612.00us
     75%    1.20ms
     99%    2.50ms
  1234 requests in 4.00s, 5.00MB read
  Socket errors: connect 0, read 1, write 0, timeout 2
  Non-2xx or 3xx responses: 7
Requests/sec:    308.50
`)
	want := Load{Requests: 1234, Failed: 10, Rate: 308.5, P50: 612 * time.Microsecond, P99: 2500 * time.Microsecond}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got), %v:\n%s", err, diff)
	}
	if _, err := ParseWrk("unable to connect"); err == nil {
		t.Error("a run without an answer was taken for one")
	}
}

func TestParseH2load(t *testing.T) {
	got, err := ParseH2load(`finished in 4.00s, 2995.50 req/s, 1.20MB/s
requests: 12000 total, 12000 started, 11990 done, 11982 succeeded, 8 failed, 0 errored, 0 timeout
`)
	want := Load{Requests: 11982, Failed: 8, Rate: 2995.5}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got), %v:\n%s", err, diff)
	}
}

func TestParseLedger(t *testing.T) {
	got, err := parseLedger(strings.NewReader(`
# TYPE mirror_copies_offered_total counter
mirror_copies_offered_total{role="shadow"} 10
mirror_copies_offered_total{role="control"} 99
# TYPE mirror_copies_sent_total counter
mirror_copies_sent_total{role="shadow"} 6
# TYPE mirror_copies_dropped_total counter
mirror_copies_dropped_total{role="shadow",reason="lane_full"} 1
mirror_copies_dropped_total{role="shadow",reason="budget"} 2
# TYPE mirror_copies_pending gauge
mirror_copies_pending{role="shadow"} 1
`))
	want := Ledger{Offered: 10, Sent: 6, Dropped: 3, Pending: 1}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got), %v:\n%s", err, diff)
	}
	if _, err := parseLedger(strings.NewReader("up 1\n")); err == nil {
		t.Error("metrics without the account were taken for one")
	}
}
