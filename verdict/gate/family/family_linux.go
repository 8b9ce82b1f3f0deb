package family

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// ownGroup keeps a terminal's signals from the supervisor: it is this program
// that decides.
func ownGroup() (*syscall.SysProcAttr, error) { return &syscall.SysProcAttr{Setpgid: true}, nil }

// userHZ is the unit of times in /proc/PID/stat.
const userHZ = 100

// usageBelow sums up all descendants of pid, and the processor times of those
// that it has waited for.
func usageBelow(pid int) (Usage, error) {
	for try := 0; ; try++ {
		sum, err := usageOnce(pid)
		// One that ends between the listing and the reading is found in its
		// parent's time by the next try.
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist) {
			if try < 100 {
				continue
			}
		}
		return sum, err
	}
}

func usageOnce(pid int) (sum Usage, err error) {
	all, err := stats()
	if err != nil {
		return sum, err
	}
	tree := below(all, pid)
	for _, s := range all {
		if s.PID == pid {
			sum.CPU += reaped(s)
		}
	}
	for _, s := range tree {
		sum.CPU += reaped(s)
		if s.State == "Z" {
			sum.CPU += time.Duration(s.UTime+s.STime) * time.Second / userHZ
			continue
		}
		own, err := clock(s.PID)
		if err != nil {
			return sum, err
		}
		sum.CPU += own
		sum.Memory += int64(s.ResidentMemory())
	}
	return sum, nil
}

func reaped(s procfs.ProcStat) time.Duration {
	return time.Duration(s.CUTime+s.CSTime) * time.Second / userHZ
}

// clock reads a process's own processor clock, which counts ns where
// /proc/PID/stat counts 10 ms: see clock_getcpuclockid(3).
func clock(pid int) (time.Duration, error) {
	const schedulerClock = 2
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &t)
	return time.Duration(t.Nano()), err
}

// stats lists the processes of this machine, zombies too.
func stats() ([]procfs.ProcStat, error) {
	procs, err := procfs.AllProcs()
	if err != nil {
		return nil, err
	}
	var all []procfs.ProcStat
	for _, p := range procs {
		if s, err := p.Stat(); err == nil { // else it ended since it was listed
			all = append(all, s)
		}
	}
	return all, nil
}

// below selects the descendants of pid.
func below(all []procfs.ProcStat, pid int) (tree []procfs.ProcStat) {
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		for _, s := range all {
			if s.PPID == family[i] {
				family = append(family, s.PID)
				tree = append(tree, s)
			}
		}
	}
	return tree
}

func supervise(line string, stop syscall.Signal, grace time.Duration, stdin io.Reader) (code int, err error) {
	// What the command leaves becomes a child of this process, not of init.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("supervise: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("supervise: %w", err)
	}
	leader := cmd.Process.Pid
	ended := make(chan syscall.WaitStatus, 1)
	childless := make(chan struct{})
	go func() { // ends when no child is left, which kill sees to
		defer close(childless)
		reap(leader, ended)
	}()
	told := make(chan struct{})
	go func() { // ends with this process
		_, _ = io.Copy(io.Discard, stdin)
		close(told)
	}()

	var status syscall.WaitStatus
	select {
	case status = <-ended:
		return exitCode(status), kill(childless)
	case <-told:
	case <-signals:
	}
	_ = syscall.Kill(-leader, stop)            // not waited for yet, or about to: it is ours
	_ = syscall.Kill(-leader, syscall.SIGCONT) // a stopped one would not hear it
	select {
	case status = <-ended:
	case <-time.After(grace):
		_ = syscall.Kill(-leader, syscall.SIGKILL)
		status = <-ended
	}
	return exitCode(status), kill(childless)
}

// reap waits for children until there is none, and hands out how the leader ended.
func reap(leader int, ended chan<- syscall.WaitStatus) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return
		case pid == leader:
			ended <- status
		}
	}
}

// kill ends all descendants: what one of them starts meanwhile is ended in the
// next round.
func kill(childless <-chan struct{}) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-childless:
			return nil
		default:
		}
		all, err := stats()
		if err != nil {
			return fmt.Errorf("supervise: %w", err)
		}
		for _, s := range below(all, os.Getpid()) {
			// A number that has been given to another meanwhile would have to
			// come round within this loop.
			_ = syscall.Kill(s.PID, syscall.SIGKILL)
		}
		select {
		case <-childless:
			return nil
		case <-tick.C:
		}
	}
}

// exitCode is the code as a shell tells it.
func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}
