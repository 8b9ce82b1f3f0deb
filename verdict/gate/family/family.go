// Package family runs a command line together with everything that it starts,
// knows what all of them cost, and ends them together.
//
// Between this program and the command stands a supervisor, this program run
// once more. It adopts what the command leaves behind, a process that has put
// itself in a group or session of its own too, and it ends when nothing is left.
// It stops the command when told to, and when this program is gone, however
// that happened: it then reads the end of its standard input. So there is no
// way out of this program that leaves a process behind, but for the death of
// the supervisor itself by SIGKILL.
//
// It works on Linux; elsewhere it compiles, and Start fails with
// errors.ErrUnsupported.
package family

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Command is a line for sh.
type Command struct {
	Line string
	Dir  string   // working directory; empty means this process's
	Env  []string // added to this process's environment
	Log  string   // the file that stdout and stderr are added to

	// Stop asks the command's process group to end. Zero means SIGTERM.
	Stop syscall.Signal
	// Grace is how long it may take to obey; then all are killed. Zero means 5s.
	Grace time.Duration
}

// A Family is a command that was started. It is safe for concurrent use.
type Family struct {
	supervisor int
	stdin      io.Closer // its end tells the supervisor to stop the command
	over       chan struct{}
	err        error // how the command ended; read after over
}

// An ExitError says that a command ended with something else than 0.
type ExitError struct{ Status string } // as the shell tells it: "exit status 2"

func (e *ExitError) Error() string { return e.Status }

// Start runs c below a supervisor, which is started by the words of self: they
// must lead to Supervise in this very program. The caller ends it with Stop.
func Start(self []string, c Command) (*Family, error) {
	if c.Stop == 0 {
		c.Stop = syscall.SIGTERM
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := append(self[1:len(self):len(self)], strconv.Itoa(int(c.Stop)), c.Grace.String(), c.Line)
	cmd := exec.Command(self[0], args...)
	cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr, err = ownGroup(); err != nil {
		return nil, err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	f := &Family{supervisor: cmd.Process.Pid, stdin: stdin, over: make(chan struct{})}
	go func() { // ends with the supervisor, which Stop waits for
		defer close(f.over)
		if err := cmd.Wait(); err != nil {
			f.err = &ExitError{err.Error()}
		}
	}()
	return f, nil
}

// Over is closed when the command and all that it started have ended.
func (f *Family) Over() <-chan struct{} { return f.over }

// Err is how the command ended: nil for exit status 0, else an *ExitError. It
// must not be called before Over is closed.
func (f *Family) Err() error { return f.err }

// Stop asks the command to end and returns when it and all that it started are
// gone. Stopping what has ended does nothing.
func (f *Family) Stop() {
	_ = f.stdin.Close() // it fails if the supervisor is gone
	<-f.over
}

// Usage is what the command and all that it started have used.
type Usage struct {
	CPU    time.Duration // so far, by those that have ended too
	Memory int64         // resident now, bytes; what processes share counts for each
}

// Usage reads what has been used up to now.
func (f *Family) Usage() (Usage, error) {
	u, err := usageBelow(f.supervisor)
	if err != nil {
		return Usage{}, fmt.Errorf("read what is used below process %d: %w", f.supervisor, err)
	}
	return u, nil
}

// Output runs c to its end or until stop is closed, and returns how it ended.
func Output(self []string, c Command, stop <-chan struct{}) error {
	f, err := Start(self, c)
	if err != nil {
		return err
	}
	select {
	case <-f.Over():
	case <-stop:
		f.Stop()
	}
	return f.Err()
}

// Tail returns the last n lines of the log file at path, at most 8 KiB.
func Tail(path string, n int) string {
	const most = 8 << 10
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-most), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, most)) // what can be read is what can be told
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return strings.ToValidUTF8(strings.Join(lines[max(0, len(lines)-n):], "\n"), "?")
}

// Supervise is the supervisor: it runs the command that args tell of, as Start
// gave them, and returns the code to exit with. stdin is read to its end.
func Supervise(args []string, stdin io.Reader) (code int, err error) {
	if len(args) != 3 {
		return 0, errors.New("supervise: want a signal, a time and a command")
	}
	number, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, fmt.Errorf("supervise: signal: %w", err)
	}
	grace, err := time.ParseDuration(args[1])
	if err != nil {
		return 0, fmt.Errorf("supervise: %w", err)
	}
	return supervise(args[2], syscall.Signal(number), grace, stdin)
}
