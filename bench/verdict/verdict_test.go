package verdict

import (
	"bufio"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"darklaunch/bench/rig"
	"darklaunch/bench/side"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var length = flag.Duration("length", time.Minute, "of the load")

// asked is what a verdict is held to: at most a core, and 256 MiB.
var asked = Load{Mirrors: 8, Routes: 50, Pairs: 2000, PairBytes: 4 << 10, Calls: 40}

// often makes all of judging happen within a minute: windows are joined, judged and
// written down ten times as often as by default.
const often = "window: 1s\nnoise-block: 5s\nmin-duration: 30s\nwarm-up: 0s\nwarm-up-share: 0%\n"

// serve starts a verdict that keeps its state on the disk.
func serve(t testing.TB) *rig.Server {
	t.Helper()
	program, err := rig.Darklaunch(t, "verdict")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "verdict.yaml")
	if err := os.WriteFile(config, []byte(often), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := rig.Start(t, program, "verdict", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state", filepath.Join(dir, "state"), "--config", config)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// counters reads the sum of each metric of the verdict's.
func counters(s *rig.Server) (map[string]float64, error) {
	resp, err := http.Get("http://" + s.Admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	sums := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if labels := strings.IndexByte(name, '{'); labels >= 0 {
			end := strings.LastIndexByte(lines.Text(), '}')
			key := name[:labels]
			if strings.Contains(lines.Text(), `kind="window"`) {
				key += " window"
			}
			name, value = key, strings.TrimSpace(lines.Text()[end+1:])
		}
		var v float64
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if _, err := fmt.Sscan(value, &v); err == nil {
			sums[name] += v
		}
	}
	return sums, lines.Err()
}

// measure feeds a verdict for so long. "cores" is the CPU time of each second of load:
// how long that second takes to be sent on a machine that does other things is of no
// account.
func measure(b testing.TB, load Load, length time.Duration) (sent Sent, measures map[string]float64, err error) {
	s := serve(b)
	before, err := side.CPU(s.Pid)
	if err != nil {
		return sent, nil, err
	}
	type result struct {
		sent Sent
		err  error
	}
	fed := make(chan result, 1)
	go func() {
		sent, err := Feed(b.Context(), s.Addr, load, length)
		fed <- result{sent, err}
	}()
	peak := int64(0)
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	var r result
	for feeding := true; feeding; {
		select {
		case r = <-fed:
			feeding = false
		case <-t.C:
			u, err := side.UsageOf(s.Pid)
			if err != nil {
				return sent, nil, err
			}
			peak = max(peak, u.RSS)
		}
	}
	if r.err != nil {
		return r.sent, nil, r.err
	}
	// What was sent last may still be on its way.
	var c map[string]float64
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if c, err = counters(s); err != nil {
			return r.sent, nil, err
		}
		if c["verdict_streams"] == 0 || time.Now().After(deadline) {
			break
		}
	}
	after, err := side.CPU(s.Pid)
	if err != nil {
		return r.sent, nil, err
	}
	cores := (after - before).Seconds() * float64(load.Mirrors) / float64(max(r.sent.Windows, 1))
	return r.sent, map[string]float64{
		"cores": cores, "rss": float64(peak) / (1 << 20),
		"windows": c["verdict_stream_records_total window"], "pairs": c["verdict_stream_records_total"], "shed": c["verdict_stream_shed_total"],
		"discarded": c["verdict_records_discarded_total"], "cut": c["verdict_streams_cut_total"],
	}, nil
}

// BenchmarkServe is what judging costs: at the rate that is asked for, and at five
// times as many pairs.
func BenchmarkServe(b *testing.B) {
	for _, tt := range []struct {
		name string
		load Load
	}{
		{"asked", asked},
		{"five times the pairs", Load{Mirrors: asked.Mirrors, Routes: asked.Routes, Pairs: 5 * asked.Pairs, PairBytes: asked.PairBytes, Calls: asked.Calls}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				where := side.Machine()
				sent, m, err := measure(b, tt.load, *length)
				if err != nil {
					b.Fatal(err)
				}
				text := fmt.Sprintf("## Verdict served: %s\n\n%s. %d mirrors × %d routes × 3 roles of windows a second, %d unequal pairs/s of about %d bytes, state on disk; %v. `%s`\n\n"+
					"| CPU s a second of load | RSS MB at most | windows sent | taken | pairs sent | taken | shed |\n|---|---|---|---|---|---|---|\n| %.2f | %.0f | %d | %.0f | %d | %.0f | %.0f |\n",
					tt.name, where, tt.load.Mirrors, tt.load.Routes, tt.load.Pairs, sentBytes(sent, tt.load), *length, side.Command(),
					m["cores"], m["rss"], sent.Windows, m["windows"], sent.Pairs, m["pairs"], m["shed"])
				b.Log("\n" + text)
				b.ReportMetric(m["cores"], "cores")
				b.ReportMetric(m["rss"], "MB")
				if err := side.Record("../RESULTS.md", "verdict "+tt.name, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// sentBytes is how large a pair was.
func sentBytes(Sent, Load) int { return len(asked.pairs()[0]) }

// TestServe feeds a verdict for a moment: all that was sent was taken or shed, and
// counted, and nothing was cut off.
func TestServe(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs the program")
	}
	sent, m, err := measure(t, Load{Mirrors: 3, Routes: 20, Pairs: 300, PairBytes: 4 << 10, Calls: 10}, 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.2f cores, %.0f MB", m["cores"], m["rss"])
	if m["windows"] != float64(sent.Windows) || m["pairs"]+m["shed"] != float64(sent.Pairs) || m["cut"] != 0 || sent.Pairs == 0 {
		t.Errorf("got %v, want all of %+v taken or shed, and no stream cut off", m, sent)
	}
}
