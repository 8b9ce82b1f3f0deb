package gate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"darklaunch/bench/rig"
	"darklaunch/bench/side"
	"darklaunch/internal/freeport"
	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/proc"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/report"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var (
	runs   = flag.Int("runs", 10, "gates for each difference")
	length = flag.Duration("length", 3*time.Second, "of one version's part of a round")
)

const (
	service = "darklaunch/cmd/darklaunch/testdata/gateserver"
	rate    = 100
	work    = 20_000 // rounds of SHA-256 a request of base
)

// BenchmarkGate counts what gates say; it fails where one is wrong. Its time says
// nothing; -benchtime 1x.
func BenchmarkGate(b *testing.B) {
	program, err := rig.Darklaunch(b, "gate")
	if err != nil {
		b.Skip(err)
	}
	server := rig.Build(b, service)
	fixed, each := costs(b, server)
	b.Logf("a request costs %v and %v for each 1000 rounds", fixed, 1000*each)
	disturb(b)

	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n%d gates for each difference, rounds of %v at %d/s, one request of base %v of CPU time; one core is kept busy by another process.\n\n", side.Machine()+", `"+side.Command()+"`", *runs, *length, rate, (fixed + work*each).Round(10*time.Microsecond))
	fmt.Fprintf(&text, "| CPU time a request | pass | inconclusive | fail | effect seen, median of gates |\n|---|---|---|---|---|\n")
	for _, tc := range []struct {
		more  float64
		check func(o outcomes) string
	}{
		{0, func(o outcomes) string { return o.want(o.fail == 0, "no fail") }},
		{0.15, func(o outcomes) string { return o.want(o.pass == 0, "no pass") }},
		{0.30, func(o outcomes) string { return o.want(10*o.fail >= 9**runs, "fail in 9 of 10") }},
	} {
		o := outcomes{}
		rounds := work + int(tc.more*float64(fixed+work*each)/float64(each))
		for i := range *runs {
			if err := o.gate(b, program, server, rounds); err != nil {
				b.Fatal(err)
			}
			b.Logf("%+.0f %%, gate %d: %+v", 100*tc.more, i+1, o)
		}
		fmt.Fprintf(&text, "| %+.0f %% | %d | %d | %d | %+.1f %% |\n", 100*tc.more, o.pass, o.inconclusive, o.fail, 100*median(o.effects))
		if wrong := tc.check(o); wrong != "" {
			b.Errorf("%+.0f %%: %s", 100*tc.more, wrong)
		}
	}
	b.Log("\n" + text.String())
	if err := side.Record("../RESULTS.md", "gate", text.String()); err != nil {
		b.Error(err)
	}
}

// costs measures what a request costs beside its rounds, and a round.
func costs(b *testing.B, server string) (fixed, each time.Duration) {
	of := func(rounds int) time.Duration {
		ports, err := freeport.Find(1)
		if err != nil {
			b.Fatal(err)
		}
		addr := fmt.Sprintf("127.0.0.1:%d", ports[0])
		p, err := testenv.Launcher(b).Start(b.Context(), proc.Spec{Name: "service", Path: server, Args: []string{"-listen", addr, "-work", strconv.Itoa(rounds)}, Ports: ports, Log: filepath.Join(b.TempDir(), "log")})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Close()
		before, err := side.CPU(p.Pid())
		if err != nil {
			b.Fatal(err)
		}
		const n = 300
		for range n {
			resp, err := http.Get("http://" + addr)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			time.Sleep(5 * time.Millisecond) // at the rate of a gate's load, a request wakes what has gone to sleep
		}
		after, err := side.CPU(p.Pid())
		if err != nil {
			b.Fatal(err)
		}
		return (after - before) / n
	}
	var one, two []float64
	for range 3 {
		one, two = append(one, float64(of(work))), append(two, float64(of(2*work)))
	}
	each = time.Duration((median(two) - median(one)) / work)
	return time.Duration(median(one)) - work*each, each
}

// disturb keeps a core busy until the benchmark ends.
func disturb(b *testing.B) {
	cmd := exec.Command("/bin/sh", "-c", "while :; do :; done")
	if err := testenv.Launcher(b).StartCommand(cmd, 0); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// outcomes are what gates of one kind came to.
type outcomes struct {
	pass, inconclusive, fail int
	effects                  []float64
}

func (o *outcomes) want(ok bool, what string) string {
	if ok {
		return ""
	}
	return fmt.Sprintf("%d passed, %d undecided, %d failed: want %s", o.pass, o.inconclusive, o.fail, what)
}

// gate runs one gate of head, whose requests take that many rounds, against base.
func (o *outcomes) gate(b *testing.B, program, server string, rounds int) error {
	dir := b.TempDir()
	config := fmt.Sprintf(`
base: {start: "exec %[1]s -work %[2]d -listen 127.0.0.1:{port}"}
head: {start: "exec %[1]s -work %[3]d -listen 127.0.0.1:{port}"}
load: http http://127.0.0.1:{port}/ --rate %[4]d/s --for %[5]v
metrics:
  - {name: latency, stat: p50, margin: 5%%, use: watch}
  - {name: latency, stat: p99, margin: 10%%, use: watch}
  - {name: errors, margin: 0.1pt}
  - {name: cpu_per_request, margin: 10%%}
`, server, work, rounds, rate, *length)
	file := filepath.Join(dir, "gate.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	defer cancel()
	out, err := testenv.Launcher(b).Output(ctx, program, "gate", "--config", file, "--out", dir)
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		return err
	}
	switch code {
	case 0:
		o.pass++
	case 10:
		o.fail++
	case 11:
		o.inconclusive++
	default:
		return fmt.Errorf("the gate could not run: %s", out)
	}
	text, err := os.ReadFile(filepath.Join(dir, "verdict.json"))
	if err != nil {
		return err
	}
	d, err := report.Read(text)
	if err != nil {
		return err
	}
	for _, m := range d.Metrics {
		if m.Name == judge.MetricCPU && m.Effect != nil {
			o.effects = append(o.effects, *m.Effect)
		}
	}
	return nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
