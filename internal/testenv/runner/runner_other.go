//go:build !linux

package runner

import (
	"errors"
	"os"
	"os/exec"
)

// Run is described in runner.go.
func (r *Runner) Run() (code int, err error) {
	r.report("servers start on Linux only; tests that need them are skipped")
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
