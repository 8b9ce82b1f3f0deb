// Package proc starts server processes for tests, hurts them on purpose, and
// ends them with everything they started.
//
// A process runs in a process group of its own, which every signal reaches
// whole, and the kernel ends it when this process dies, however that happens.
// Servers start on Linux only; elsewhere the package compiles and Start fails
// with errors.ErrUnsupported.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// poll is the time between two questions to a server that is not ready yet.
const poll = 20 * time.Millisecond

// A Launcher starts processes from one thread. The kernel ties a process's
// parent-death signal to the thread that forked it, so that thread must live
// as long as the program; a goroutine's usual thread may not. It is safe for
// concurrent use.
type Launcher struct {
	temp   string
	starts chan func()
	done   chan struct{}
}

// NewLauncher returns a Launcher, to be closed after the last process that it
// started. Its groups make their directories in temp; empty means os.TempDir.
func NewLauncher(temp string) *Launcher {
	l := &Launcher{temp: temp, starts: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		for start := range l.starts {
			start()
		}
	}()
	return l
}

// Close ends the thread, and by that every process of the Launcher that still
// runs.
func (l *Launcher) Close() {
	close(l.starts)
	<-l.done
}

// StartCommand is cmd.Start for a process of the Launcher: one in a group of its
// own, which gets the signal death, or SIGKILL for zero, when this program dies.
// The caller waits for it.
func (l *Launcher) StartCommand(cmd *exec.Cmd, death syscall.Signal) error {
	attr, err := attributes(death)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = attr
	started := make(chan error)
	l.starts <- func() { started <- cmd.Start() }
	return <-started
}

// A Spec says how a process is started, asked and ended.
type Spec struct {
	Name string   // what reports call it
	Addr string   // host:port where it serves, for its users; may be empty
	Path string   // the program
	Args []string // without the program's name
	Env  []string // added to this process's environment
	Dir  string   // the working directory
	Log  string   // the file that takes stdout and stderr, appended to

	// Ports are what the process or its children listen on before it is ready.
	// To look makes no connection, which a proxy would pass on to what stands
	// behind it.
	Ports []int
	// Ready asks the server once whether it serves; nil means it does. Its
	// context ends when the process does. A nil Ready is always so.
	Ready func(context.Context) error
	// Within bounds the time until Ready. Zero means 30s.
	Within time.Duration

	// End asks the process to end; Close waits 10s before it kills. Zero means
	// SIGTERM.
	End syscall.Signal
	// Death is sent when this program dies. Zero means SIGKILL; a server with
	// child processes that outlive its own SIGKILL names a gentler one, as the
	// kernel tells only the process itself.
	Death syscall.Signal
}

// A Process is one that a Launcher started. It is safe for concurrent use.
type Process struct {
	spec     Spec
	launcher *Launcher

	mu sync.Mutex // held through each change, waiting included
	*life
	hurt bool // killed or stopped since it was last started
}

// A life is what a Process is between two starts.
type life struct {
	pid     int
	began   time.Time
	over    chan struct{} // closed when the process was waited for
	outcome error         // how it ended; read after over
}

// DiedError says that a process ended while something was expected of it.
type DiedError struct {
	Name    string
	Outcome error  // the end as os/exec tells it; nil for exit status 0
	Tail    string // the last lines of its log
}

func (e *DiedError) Error() string {
	outcome := "exit status 0"
	if e.Outcome != nil {
		outcome = e.Outcome.Error()
	}
	return fmt.Sprintf("%s ended (%s); its log ends with\n%s", e.Name, outcome, e.Tail)
}

// Start starts a process and returns once it is ready. A process that ends
// first is a *DiedError, at once; one that is not ready in time is killed.
func (l *Launcher) Start(ctx context.Context, spec Spec) (*Process, error) {
	p, err := l.Spawn(spec)
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Output runs a program to its end, or that of ctx, and returns what it printed
// to stdout and stderr.
func (l *Launcher) Output(ctx context.Context, path string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := l.StartCommand(cmd, 0)
	if err == nil {
		err = cmd.Wait()
	}
	return out.Bytes(), err
}

// Spawn starts a process and does not wait for it to be ready.
func (l *Launcher) Spawn(spec Spec) (*Process, error) {
	p := &Process{spec: spec, launcher: l}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.spawn(); err != nil {
		return nil, err
	}
	return p, nil
}

// spawn needs p.mu.
func (p *Process) spawn() error {
	log, err := os.OpenFile(p.spec.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.spec.Path, p.spec.Args...)
	cmd.Env = append(os.Environ(), p.spec.Env...)
	cmd.Dir = p.spec.Dir
	cmd.Stdout, cmd.Stderr = log, log
	began := time.Now()
	if err := p.launcher.StartCommand(cmd, p.spec.Death); err != nil {
		return fmt.Errorf("start %s: %w", p.spec.Name, err)
	}
	l := &life{pid: cmd.Process.Pid, began: began, over: make(chan struct{})}
	p.life, p.hurt = l, false
	go func() { // ends with the process, which Close waits for
		l.outcome = cmd.Wait()
		close(l.over)
	}()
	return nil
}

// Await returns once the process is ready: Start does so, Spawn does not.
func (p *Process) Await(ctx context.Context) error {
	return await(ctx, p.spec.Name, p.spec.Within, p.ready, []*Process{p})
}

func (p *Process) ready(ctx context.Context) error {
	if err := p.listens(); err != nil {
		return err
	}
	if p.spec.Ready == nil {
		return nil
	}
	return p.spec.Ready(ctx)
}

// await asks ready until it says yes, and gives up when one of ps ends.
func await(ctx context.Context, name string, within time.Duration, ready func(context.Context) error, ps []*Process) error {
	if within == 0 {
		within = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, p := range ps {
		over := p.now().over
		wg.Go(func() {
			select {
			case <-over:
				cancel() // an answer can no longer come
			case <-ctx.Done():
			}
		})
	}
	start := time.Now()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := ready(ctx)
		over := ctx.Err() != nil // before asking who died: a death ends ctx
		for _, p := range ps {
			if died := p.Died(); died != nil {
				return died
			}
		}
		if err == nil {
			return nil
		}
		if over {
			return fmt.Errorf("%s is not ready after %.1fs: %w", name, time.Since(start).Seconds(), err)
		}
		select {
		case <-ctx.Done(): // once more, to tell why
		case <-tick.C:
		}
	}
}

// Name returns the name given at the start.
func (p *Process) Name() string { return p.spec.Name }

// Addr returns the address given at the start.
func (p *Process) Addr() string { return p.spec.Addr }

// Log returns the path of the log file.
func (p *Process) Log() string { return p.spec.Log }

// Pid returns the process id, which is the group's too. A Restart changes it.
func (p *Process) Pid() int { return p.now().pid }

// Began returns when the process was last started.
func (p *Process) Began() time.Time { return p.now().began }

func (p *Process) now() *life {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.life
}

// Died returns nil while the process runs (stopped counts as running), else a
// *DiedError.
func (p *Process) Died() error {
	l := p.now()
	select {
	case <-l.over:
		return p.died(l)
	default:
		return nil
	}
}

func (p *Process) died(l *life) error {
	return &DiedError{Name: p.spec.Name, Outcome: l.outcome, Tail: Tail(p.spec.Log, 30)}
}

// Kill ends the process and its group with SIGKILL and returns when they are
// gone. Killing a dead process is an error.
func (p *Process) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	p.hurt = true
	<-p.over
	return p.clearGroup()
}

// Stop stops the process with SIGSTOP and returns once the kernel reports it
// stopped.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.signal(sigStop); err != nil {
		return err
	}
	p.hurt = true
	return p.awaitStopped(true)
}

// Continue lets a stopped process go on with SIGCONT.
func (p *Process) Continue() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.signal(sigCont); err != nil {
		return err
	}
	return p.awaitStopped(false)
}

// Restart ends the process where it still runs, and starts it again with the
// same arguments, hence on the same ports. It returns once it is ready.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.respawn(); err != nil {
		return err
	}
	return p.Await(ctx)
}

func (p *Process) respawn() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.end(); err != nil {
		return err
	}
	return p.spawn()
}

// Close ends the process, asking first, and returns when its whole group is
// gone. Closing a dead process is no error.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end()
}

// end needs p.mu.
func (p *Process) end() error {
	ask := p.spec.End
	if ask == 0 {
		ask = syscall.SIGTERM
	}
	if p.signal(ask) == nil {
		_ = p.signal(sigCont) // a stopped process would not hear the first
	}
	select {
	case <-p.over:
	case <-time.After(10 * time.Second):
		_ = p.signal(syscall.SIGKILL)
		<-p.over
	}
	return p.clearGroup()
}

// signal sends sig to the group while its leader is alive, and thus while the
// group's number cannot belong to anyone else. It needs p.mu.
func (p *Process) signal(sig syscall.Signal) error {
	select {
	case <-p.over:
		return fmt.Errorf("send %v to %s: it has ended", sig, p.spec.Name)
	default:
	}
	if err := signalGroup(p.pid, sig); err != nil {
		return fmt.Errorf("send %v to %s (process %d): %w", sig, p.spec.Name, p.pid, err)
	}
	return nil
}

// clearGroup ends what the dead leader left in its group, giving it a moment
// to leave by itself: a browser's helpers notice that their parent is gone.
func (p *Process) clearGroup() error {
	deadline := time.Now().Add(10 * time.Second)
	kill := time.Now().Add(time.Second)
	for {
		members, err := groupMembers(p.pid)
		if err != nil {
			return fmt.Errorf("list what %s started: %w", p.spec.Name, err)
		}
		switch {
		case len(members) == 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s left processes %v, which do not end", p.spec.Name, members)
		case time.Now().After(kill):
			_ = signalGroup(p.pid, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// awaitStopped needs p.mu.
func (p *Process) awaitStopped(want bool) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		select {
		case <-p.over:
			return p.died(p.life)
		default:
		}
		got, err := stopped(p.pid)
		if err == nil && got == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s (process %d): stopped is %v, want %v (%v)", p.spec.Name, p.pid, got, want, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// Tail returns the last n lines of a log file, or why it cannot.
func Tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
