package engine

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/transport"
)

// BenchmarkLag compares how late calls leave at 2,000/s with how late a thread
// wakes that does nothing but sleep until the same times, a second of each in
// turn. The second is what the machine allows. A turn's connection has settled
// before it is measured: the handshake of its first call would be in the p99.
func BenchmarkLag(b *testing.B) {
	const (
		rate  = 2000
		slice = time.Second
	)
	s := newStub(b, time.Hour, 0, serveHTTP1)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(3, runtime.GOMAXPROCS(0))))
	defer Pin()()
	var lag, bare hist.Hist
	for b.Loop() {
		clock := transport.NewClock(time.Now())
		pool, err := transport.New(transport.Config{Addr: s.l.Addr().String(), Ops: []transport.Op{{Name: "op", Path: "/"}}}, clock)
		if err != nil {
			b.Fatal(err)
		}
		pool.Open(clock.Now() + time.Second)
		settle := clock.Now() + slice/5
		got := New(Config{
			Clock: clock, Driver: pool, Ops: 1, Settle: settle, Measure: slice,
			Source: NewPlan(&even{rate: rate, end: settle + slice}, nil),
		}).Run(context.Background())[Measure][0]
		pool.Close()
		lag.Merge(&got.Lag)
		sleepUntil(rate, slice, &bare)
	}
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		b.ReportMetric(us(lag.Quantile(q)), name+"-lag-us")
		b.ReportMetric(us(bare.Quantile(q)), name+"-bare-us")
	}
	b.ReportMetric(float64(lag.Quantile(0.99))/float64(bare.Quantile(0.99)), "p99-ratio")
}

// sleepUntil records how late absolute sleeps end.
func sleepUntil(rate int, whole time.Duration, late *hist.Hist) {
	var start unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &start)
	for i := range int(whole.Seconds() * float64(rate)) {
		due := start.Nano() + int64(i)*int64(time.Second)/int64(rate)
		ts := unix.NsecToTimespec(due)
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil)
		var now unix.Timespec
		unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
		late.Record(time.Duration(now.Nano() - due))
	}
}
