package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// quotaPeriod is the kernel's default period of a CPU quota.
const quotaPeriod = 100 * time.Millisecond

// Quota lets a process run for a share of one core's time until undo is called,
// and says how: by a cgroup's quota, or, where cgroups can't be written, by being
// stopped and continued in turns. The process must be one that the caller may
// signal and has not waited for.
func Quota(pid int, share float64) (how string, undo func() error) {
	run := time.Duration(share * float64(quotaPeriod))
	for _, q := range []struct{ root, file, value string }{
		{"/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", strconv.FormatInt(run.Microseconds(), 10)},               // version 1
		{"/sys/fs/cgroup", "cpu.max", fmt.Sprintf("%d %d", run.Microseconds(), quotaPeriod.Microseconds())}, // version 2
	} {
		if undo, err := cgroup(q.root, pid, q.file, q.value); err == nil {
			return fmt.Sprintf("a cgroup's quota of %v in %v", run, quotaPeriod), undo
		}
	}
	return fmt.Sprintf("SIGSTOP and SIGCONT, to run for %v in %v", run, quotaPeriod), turns(pid, run)
}

// cgroup puts a process into a new group below root that has a setting.
func cgroup(root string, pid int, file, value string) (undo func() error, err error) {
	dir := filepath.Join(root, fmt.Sprintf("darklaunch-bench-%d", pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	undo = func() error {
		_ = write(filepath.Join(root, "cgroup.procs"), strconv.Itoa(pid)) // it may have ended
		return os.Remove(dir)
	}
	err = write(filepath.Join(dir, file), value)
	if err == nil {
		err = write(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
	}
	if err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// write writes to a file that is there: where a group has no such setting there
// is none, and none is made.
func write(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// turns stops and continues a process.
func turns(pid int, run time.Duration) (undo func() error) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, turn := range []struct {
				signal syscall.Signal
				d      time.Duration
			}{{syscall.SIGCONT, run}, {syscall.SIGSTOP, quotaPeriod - run}} {
				_ = syscall.Kill(pid, turn.signal) // it may have ended
				select {
				case <-end:
					_ = syscall.Kill(pid, syscall.SIGCONT)
					return
				case <-time.After(turn.d):
				}
			}
		}
	})
	return func() error {
		close(end)
		wg.Wait()
		return nil
	}
}
