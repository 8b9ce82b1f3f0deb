// Package runner runs a test command beside the servers that its packages
// share, and demands that the command leaves nothing behind.
package runner

import (
	"cmp"
	"errors"
	"fmt"
	"io"
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

// A Runner's fields say what to run.
type Runner struct {
	Command []string                           // program and arguments
	Starts  func(*proc.Launcher) keeper.Starts // the servers to lend
	Signals <-chan os.Signal                   // passed on to the command
	Out     io.Writer                          // takes reports; the command has the program's own
	Grace   time.Duration                      // for processes that end by themselves; zero means 2s
}

// Run runs the command to its end and ends the servers. It returns the
// command's exit code, 128 + n if signal n ended it, or 1 where that would be
// 0 but something was left behind: that is reported, ended and removed. The
// error is of the runner's own means; the code is 1 then.
//
// The calling process becomes the parent of all orphans among its descendants.
// It must have no other children.
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

func (r *Runner) report(format string, args ...any) {
	fmt.Fprintf(r.Out, "testenv: "+format+"\n", args...)
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
