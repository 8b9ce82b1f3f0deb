//go:build !linux

// Package runner runs a test command beside the servers that its packages
// share, and demands that the command leaves nothing behind. That needs Linux;
// elsewhere the command runs alone.
package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// A Runner's fields say what to run.
type Runner struct {
	Command []string
	Starts  func(*proc.Launcher) keeper.Starts
	Signals <-chan os.Signal
	Out     io.Writer
	Grace   time.Duration
}

// Run runs the command and returns its exit code.
func (r *Runner) Run() (code int, err error) {
	fmt.Fprintln(r.Out, "testenv: servers start on Linux only; tests that need them are skipped")
	cmd := exec.Command(r.Command[0], r.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}
