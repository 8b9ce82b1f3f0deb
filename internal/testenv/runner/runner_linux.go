package runner

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// Run is described in runner.go. The calling process becomes the parent of all
// orphans among its descendants.
func (r *Runner) Run() (code int, err error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("adopt orphans: %w", err)
	}
	root, err := os.MkdirTemp("", "testenv-run-")
	if err != nil {
		return 1, err
	}
	dirs := []string{filepath.Join(root, "tmp"), filepath.Join(root, "servers")}
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 1, errors.Join(err, os.RemoveAll(root))
		}
	}
	// An abstract address: a path is limited to 107 bytes, and TMPDIR is not.
	socket := fmt.Sprintf("@%s-%d", filepath.Base(root), os.Getpid())
	code, err = r.command(socket, dirs[0], dirs[1])
	left, leftErr := leftBehind(dirs, cmp.Or(r.Grace, 2*time.Second))
	for _, l := range left {
		r.report("left behind: %s", l)
	}
	err = errors.Join(err, leftErr, os.RemoveAll(root))
	if code == 0 && (len(left) > 0 || err != nil) {
		code = 1
	}
	return code, err
}

// command runs the command with a keeper beside it.
func (r *Runner) command(socket, tmp, servers string) (code int, err error) {
	l := proc.NewLauncher(servers)
	defer l.Close()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return 1, err
	}
	k := keeper.New(r.Starts(l), r.report)
	var wg sync.WaitGroup
	wg.Go(func() { k.Serve(listener) })
	defer func() {
		err = errors.Join(err, listener.Close())
		wg.Wait()
		err = errors.Join(err, k.Close())
	}()
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp, keeper.Socket+"="+socket)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := l.StartCommand(cmd, syscall.SIGKILL); err != nil {
		return 1, err
	}
	return r.wait(cmd)
}

// wait passes signals on until the command has ended. They go to its whole
// group, as from a terminal: go leaves it to that to tell the test binaries.
func (r *Runner) wait(cmd *exec.Cmd) (code int, err error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // received below, always
	for {
		select {
		case s := <-r.Signals:
			if s, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(-cmd.Process.Pid, s)
			}
		case err := <-ended:
			exit, failed := errors.AsType[*exec.ExitError](err)
			switch {
			case err == nil:
				return 0, nil
			case !failed:
				return 1, err
			}
			if status := exit.Sys().(syscall.WaitStatus); status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return exit.ExitCode(), nil
		}
	}
}
