package mirror

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror/relay"
)

// cost tells, window by window, what the mirror costs and how late it is. It is
// used by one goroutine.
type cost struct {
	relay    *relay.Metrics
	overhead func(into *hist.Hist)
	cpus     float64
	cpu      time.Duration // until the last window
	scratch  hist.Hist
}

func newCost(metrics *relay.Metrics) cost {
	return cost{relay: metrics, overhead: metrics.Overhead(), cpus: cpuQuota("/sys/fs/cgroup/cpu.max"), cpu: cpuTime()}
}

// rig is the cost of a window of that length.
func (c *cost) rig(length time.Duration, lateness *hist.Hist) *pairv1.Rig {
	c.scratch.Reset()
	c.overhead(&c.scratch)
	now := cpuTime()
	r := &pairv1.Rig{
		RelayOverhead: pairstream.Histogram(&c.scratch), SendLateness: pairstream.Histogram(lateness),
		Cpu: int64(now - c.cpu), CpuQuota: int64(c.cpus * float64(length)), ConnectionsUnobserved: uint64(c.relay.Unobserved()),
	}
	c.cpu = now
	return r
}

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpuQuota is how many CPUs this process may use at once, by the control group's
// file if there is one.
func cpuQuota(file string) float64 {
	all := float64(runtime.NumCPU())
	text, err := os.ReadFile(file)
	if err != nil {
		return all
	}
	quota, period, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	q, err1 := strconv.ParseFloat(quota, 64) // "max" is no number
	p, err2 := strconv.ParseFloat(period, 64)
	if err1 != nil || err2 != nil || p <= 0 || q <= 0 {
		return all
	}
	return min(all, q/p)
}
