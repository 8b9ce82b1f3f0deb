// Package runner runs a test command beside the servers that its packages
// share, and demands that the command leaves nothing behind: no process, no
// file in its temporary directory, no listening port.
package runner

import (
	"fmt"
	"io"
	"os"
	"time"

	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// A Runner says what to run. Its method Run runs the command to its end and
// ends the servers. It returns the command's exit code, 128 + n if signal n
// ended it, or 1 where that would be 0 but something was left behind: that is
// reported, ended and removed. The error is of the runner's own means; the code
// is not 0 then. The calling process must have no other children.
//
// Where no servers start, which is everywhere but on Linux, the command runs
// alone.
type Runner struct {
	Command []string                           // program and arguments
	Starts  func(*proc.Launcher) keeper.Starts // the servers to lend
	Signals <-chan os.Signal                   // passed on to the command
	Out     io.Writer                          // takes reports; the command has the program's own
	Grace   time.Duration                      // for processes that end by themselves; zero means 2s
}

func (r *Runner) report(format string, args ...any) {
	fmt.Fprintf(r.Out, "testenv: "+format+"\n", args...)
}
