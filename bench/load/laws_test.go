package load

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/bench/rig"
	"darklaunch/bench/side"
	"darklaunch/internal/testenv"
)

// result is what the laws look at of a load/v1 document.
type result struct {
	Planned, Sent, Shed, OK float64
	Response                struct{ Mean, P50, P99 float64 } `json:"response_s"`
}

// plan runs darklaunch load against a server for d, with Poisson arrivals, and
// calls beside, if set, with the program while it runs.
func plan(b *testing.B, addr string, rate float64, d time.Duration, beside func(pid int, ended <-chan struct{})) result {
	b.Helper()
	path, err := rig.Darklaunch(b, "load")
	if err != nil {
		b.Fatal(err)
	}
	var out, errs strings.Builder
	cmd := exec.Command(path, "load", "http", "http://"+addr+"/", "--arrival", "poisson", "--seed", "1", "--conns", "64",
		"--rate", strconv.FormatFloat(rate, 'f', -1, 64)+"/s", "--for", d.String(), "--warmup", "0s", "--json", "-")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := testenv.Launcher(b).StartCommand(cmd, 0); err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	if beside != nil {
		wg.Go(func() { beside(cmd.Process.Pid, ended) })
	}
	err = cmd.Wait()
	close(ended)
	wg.Wait()
	if err != nil && cmd.ProcessState.ExitCode() != 11 {
		b.Fatalf("%v: %s", err, errs.String())
	}
	var r result
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		b.Fatal(err)
	}
	if r.OK != r.Planned {
		b.Errorf("got %v answers of %v planned, %v shed", r.OK, r.Planned, r.Shed)
	}
	return r
}

// note logs a text and records it in the results.
func note(b *testing.B, name, text string) {
	text = fmt.Sprintf("## Generator: %s\n\n%s. `%s`\n\n%s", name, side.Machine(), side.Command(), text)
	b.Log("\n" + text)
	if err := side.Record("../RESULTS.md", "load "+name, text); err != nil {
		b.Fatal(err)
	}
}

// serveOne answers one call at a time, in order of arrival, each after an
// exponential time: an M/M/1 queue, if calls come as a Poisson process.
func serveOne(b *testing.B, mean time.Duration) (addr string) {
	type call struct {
		at   int64
		done chan struct{}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	queue := make(chan call, 1<<16)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		c := call{monotonic(), make(chan struct{})}
		queue <- c
		<-c.done
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	wg.Go(func() {
		runtime.LockOSThread() // a timer of the runtime is late by a good part of a service
		defer runtime.UnlockOSThread()
		random := rand.New(rand.NewPCG(1, 2))
		var free int64
		for c := range queue {
			free = max(free, c.at) + int64(random.ExpFloat64()*float64(mean))
			until := unix.NsecToTimespec(free)
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil)
			close(c.done)
		}
	})
	b.Cleanup(func() {
		server.Close()
		close(queue)
		wg.Wait()
	})
	return l.Addr().String()
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano()
}

// BenchmarkQueueLaw is a run in real time against a queue whose response times
// are known: with one server and exponential times between arrivals and of
// service, they are exponential with mean service ÷ (1 − load).
func BenchmarkQueueLaw(b *testing.B) {
	const (
		service = 4 * time.Millisecond
		load    = 0.5
		within  = 0.15
	)
	for b.Loop() {
		got := plan(b, serveOne(b, service), load/service.Seconds(), 30**length, nil)
		mean := service.Seconds() / (1 - load)
		var t strings.Builder
		fmt.Fprintf(&t, "M/M/1 in real time, service %v, load %g, %.0f calls:\n\n| | measured ms | law ms | ÷ |\n|---|---:|---:|---:|\n", service, load, got.Planned)
		for _, row := range []struct {
			name           string
			measured, want float64
		}{
			{"mean", got.Response.Mean, mean},
			{"p50", got.Response.P50, mean * math.Ln2},
			{"p99", got.Response.P99, mean * math.Log(100)},
		} {
			ratio := row.measured / row.want
			fmt.Fprintf(&t, "| %s | %.2f | %.2f | %.3f |\n", row.name, row.measured*1e3, row.want*1e3, ratio)
			if math.Abs(ratio-1) > within {
				b.Errorf("%s: got %.3f of the law's, want it within %g", row.name, ratio, within)
			}
		}
		note(b, "the law of a queue", t.String())
	}
}

// BenchmarkDispersion is whether calls arrive at a server as a Poisson process:
// the variance of their number in windows of 100 ms is then its mean.
func BenchmarkDispersion(b *testing.B) {
	const (
		window = 100 * time.Millisecond
		rate   = 500
	)
	for b.Loop() {
		d := 100 * *length
		counts := make([]atomic.Int64, d/window+100)
		var start atomic.Int64
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			start.CompareAndSwap(0, monotonic())
			if i := (monotonic() - start.Load()) / int64(window); int(i) < len(counts) {
				counts[i].Add(1)
			}
		})}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(l) })
		plan(b, l.Addr().String(), rate, d, nil)
		server.Close()
		wg.Wait()
		n := int(d/window) - 1 // the last may be cut short
		var sum, squares float64
		for i := range n {
			x := float64(counts[i].Load())
			sum += x
			squares += x * x
		}
		mean := sum / float64(n)
		dispersion := (squares/float64(n) - mean*mean) / mean
		// Of n windows the index has a standard deviation of √(2/n); 0.08 at 4,000 is 3.6 of them.
		bound := max(0.08, 3.6*math.Sqrt(2/float64(n)))
		if math.Abs(dispersion-1) > bound {
			b.Errorf("got an index of dispersion of %.3f, want 1 ± %.2f", dispersion, bound)
		}
		note(b, "arrivals at the server", fmt.Sprintf("%d windows of %v at %d/s: index of dispersion %.3f (a Poisson process has 1; claimed 1 ± %.2f).\n", n, window, rate, dispersion, bound))
	}
}

// BenchmarkMemory is whether the generator grows with the length of its run, at
// the highest rate that it holds with a server beside it.
func BenchmarkMemory(b *testing.B) {
	const rate = 20_000
	for b.Loop() {
		server := rig.Web(b)
		d := 150 * *length
		var rss []float64
		plan(b, server.Addr, rate, d, func(pid int, ended <-chan struct{}) {
			tick := time.NewTicker(d / 20)
			defer tick.Stop()
			for {
				select {
				case <-ended:
					return
				case <-tick.C:
				}
				if u, err := side.UsageOf(pid); err == nil {
					rss = append(rss, float64(u.RSS)/(1<<20))
				}
			}
		})
		if len(rss) < 10 {
			b.Fatalf("got %d samples of its memory", len(rss))
		}
		// The first tenth fills pools and tables.
		first, last := rss[1], rss[len(rss)-1]
		if math.Abs(last/first-1) > 0.05 {
			b.Errorf("got %.1f MiB after a tenth of the run and %.1f at its end, want them within 5 %%", first, last)
		}
		note(b, "memory", fmt.Sprintf("%d/s for %v: %.1f MiB after a tenth of the run, %.1f at its end.\n", rate, d, first, last))
	}
}
