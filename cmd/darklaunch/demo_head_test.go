package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"darklaunch/verdict/judge"
)

// TestDemoHead puts this program on trial against itself, which is no worse, and then
// one like it whose servers are slow, which is: by the latency of the control.
func TestDemoHead(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs for more than a minute")
	}
	length := "40s" // too short for a pass
	if os.Getenv("DARKLAUNCH_FULL") != "" {
		length = "60s"
	}
	self := os.Args[0]
	slow := filepath.Join(t.TempDir(), "slow")
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$2\" = serve ]; then set -- \"$@\" --fault cache-forgets; fi\nexec %s \"$@\"\n", shell([]string{self}))
	if err := os.WriteFile(slow, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	slower := func(r judge.Reason) bool {
		return r.Code == judge.ReasonMargin && strings.HasPrefix(r.Metric, judge.MetricLatency)
	}
	t.Run("itself", func(t *testing.T) {
		code, text, d := rehearse(t, "--head", self, "--for", length)
		wantRight(t, text, d)
		if !strings.Contains(text, "is its control") || code == exitFail {
			t.Errorf("got %d, %+v; %s", code, d.Reasons, text)
		}
		if code != exitDone && os.Getenv("DARKLAUNCH_FULL") != "" {
			t.Errorf("on a machine that does nothing else: got %d, %+v, want a pass", code, d.Reasons)
		}
		t.Logf("ended with %d: %+v", code, d.Reasons)
	})
	t.Run("slow", func(t *testing.T) {
		code, _, d := rehearse(t, "--head", slow, "--for", length)
		if found := code == exitFail && slices.ContainsFunc(d.Reasons, slower); !found && trusted(d) {
			t.Errorf("got %d, %+v, want a fail for latency", code, d.Reasons)
		}
		i := slices.IndexFunc(d.Metrics, func(m judge.Metric) bool {
			return m.Name == judge.MetricLatency && m.Stat == "p50" && m.Route == "GET /threads"
		})
		if m := d.Metrics[i]; m.Against != judge.Control || m.Effect == nil || *m.Effect < 1 {
			t.Errorf("got %s against %s by %v, want more than twice the control's latency", m.Route, m.Against, m.Effect)
		}
		t.Logf("ended with %d: %+v", code, d.Reasons)
	})
}

// TestDemoHeadRefused: a program that is not there.
func TestDemoHeadRefused(t *testing.T) {
	code, _, stderr := start(t, "demo", "--head", filepath.Join(t.TempDir(), "none")).end()
	if code != exitUsage || !strings.Contains(stderr, "--head") {
		t.Errorf("got %d, %s, want %d and why", code, stderr, exitUsage)
	}
}
