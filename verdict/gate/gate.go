// Package gate compares two builds of a service by running both: it builds them,
// then starts them by turns, each time as fresh processes, loads them alike and
// judges what came of it.
//
// One run of each is a round. The first round is left out: it pays for cold
// caches. The order alternates, base head, head base, so that a machine that
// grows slower or faster is no one's advantage. The judge looks after 5, 10 and
// 15 rounds, and the gate ends as soon as there is an answer.
//
// What the builds start is ended with all that it started on every way out; see
// package family.
package gate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"darklaunch/internal/freeport"
	"darklaunch/loadgen"
	"darklaunch/verdict/gate/family"
	"darklaunch/verdict/judge"
)

// Config is a gate.
type Config struct {
	Base, Head Side
	// Quiet starts base a third time in each round, and compares it with itself: a rig
	// on which that fails gives no verdict.
	Quiet bool
	// Load loads what listens on port and tells what that came to. log is a file
	// that it may write to. It returns soon after ctx has ended.
	Load func(ctx context.Context, port int, log string) (*loadgen.Result, error)
	// Judge says what matters.
	Judge judge.Config
	// Looks is how often the judge may look: after 5 rounds, after 10, after 15. Zero
	// means 3.
	Looks int
	// Supervisor are the words that start this program as family.Supervise.
	Supervisor []string
	// Temp is a directory for worktrees, builds and logs, which the caller removes.
	Temp string
	// Ready bounds the time from start to the first answer. Zero means 60s.
	Ready time.Duration
	// Grace is how long a stopped service may take to end. Zero means 10s.
	Grace time.Duration
	// Progress, if set, is told what begins.
	Progress func(text string)
}

// Side is one of the two builds. In its commands {port} is where the service
// shall listen on 127.0.0.1, {dir} where the source is, and {out} a directory of
// the side's own for what is built. They are lines for sh, run in Dir.
type Side struct {
	// Dir has the source. Revision, if set, is checked out of the repository in Dir
	// into a worktree, which takes Dir's place.
	Dir, Revision string
	Build         string // may be empty
	Start         string // stays in the foreground
	// Probe is asked until it says yes: a URL that begins with http:// or https://
	// (status 200 to 399), tcp:HOST:PORT, or a command that ends with 0. Empty means
	// tcp:127.0.0.1:{port}.
	Probe string
	// Stop is the name of a signal, or a command to run before SIGTERM is sent.
	// Empty means SIGTERM.
	Stop string
	Env  []string // NAME=VALUE, added to this process's
}

// Outcome is what a gate came to.
type Outcome struct {
	Document *judge.Document
	// Quiet is base against base, if that was asked for.
	Quiet *judge.Document
	// Rounds is how many were run to their end, the first included.
	Rounds int
}

// An arm is a side that is built.
type arm struct {
	role judge.Role
	Side
	name    string // for people
	version string // the commit, if there is one
	out     string
	runs    int
}

// gate is one Run.
type gate struct {
	Config
	arms []*arm // base, head and perhaps base again
	done []window
}

// Run builds, starts, loads and judges. If ctx ends after some rounds, the outcome
// rests on those and is never a pass; before that the error is ctx's cause. Any
// other error says why the gate could not be run, with what the command at
// fault printed last.
func Run(ctx context.Context, cfg Config) (*Outcome, error) {
	if cfg.Looks == 0 {
		cfg.Looks = len(judge.Looks())
	}
	if cfg.Looks < 1 || cfg.Looks > len(judge.Looks()) {
		return nil, fmt.Errorf("gate: %d looks, want 1 to %d", cfg.Looks, len(judge.Looks()))
	}
	if cfg.Ready == 0 {
		cfg.Ready = time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	g := &gate{Config: cfg}
	defer g.removeWorktrees()
	if err := g.prepare(ctx); err != nil {
		return nil, causeOr(ctx, err)
	}
	return g.rounds(ctx)
}

// causeOr is why ctx ended, if it did, for then err only follows from that.
func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// rounds runs one round after the other until the judge has an answer.
func (g *gate) rounds(ctx context.Context) (*Outcome, error) {
	looks := judge.Looks()[:g.Looks]
	for n := 0; ; n++ {
		w, err := g.round(ctx, n)
		if ctx.Err() != nil {
			if len(g.done) == 0 {
				return nil, context.Cause(ctx)
			}
			return g.judge(true), nil
		}
		if err != nil {
			return nil, err
		}
		g.done = append(g.done, w)
		for i, look := range looks {
			if n != look {
				continue
			}
			g.Progress(fmt.Sprintf("look %d of at most %d", i+1, len(looks)))
			if o, more := g.look(false); !more || i == len(looks)-1 {
				return o, nil
			}
		}
	}
}

// round runs each arm once.
func (g *gate) round(ctx context.Context, n int) (window, error) {
	w := window{start: time.Now(), of: map[int]run{}}
	for _, i := range order(n, len(g.arms)) {
		a := g.arms[i]
		what := fmt.Sprintf("round %d: %s", n, a.role)
		if n == 0 {
			what += " (to warm up)"
		}
		g.Progress(what)
		r, err := g.once(ctx, a)
		if err != nil {
			return w, fmt.Errorf("round %d: %w", n, err)
		}
		w.of[i] = r
	}
	return w, nil
}

// order is who runs when in round n. Two take turns at being first; three go
// through their orders in pairs that mirror each other.
func order(n, arms int) []int {
	if arms == 2 {
		return [][]int{{0, 1}, {1, 0}}[n%2]
	}
	return [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}, {2, 0, 1}, {1, 0, 2}}[n%6]
}

// once starts the arm, loads it and ends it.
func (g *gate) once(ctx context.Context, a *arm) (r run, err error) {
	a.runs++
	f, port, log, err := g.start(ctx, a)
	if err != nil {
		return r, err
	}
	defer f.Stop()
	before, err := f.Usage()
	if err != nil {
		return r, err
	}
	loading, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-f.Over():
			cancel() // there is nobody to load
		case <-loading.Done():
		}
	})
	r.result, err = g.Load(loading, port, filepath.Join(a.out, fmt.Sprintf("load-%d.log", a.runs)))
	select {
	case <-f.Over():
		return r, ended(fmt.Sprintf("load %s", a.role), f, log)
	default:
	}
	if err != nil {
		return r, fmt.Errorf("load %s: %w", a.role, err)
	}
	after, err := f.Usage()
	if err != nil {
		return r, err
	}
	r.cpu, r.memory = after.CPU-before.CPU, after.Memory
	if line, _ := a.stop(); line != "" {
		g.runStop(ctx, a, line, port)
	}
	return r, nil
}

// start starts the arm on a free port and returns when it answers. Another may
// take the port in between: then it is started on another one.
func (g *gate) start(ctx context.Context, a *arm) (f *family.Family, port int, log string, err error) {
	const tries = 5
	for try := 1; ; try++ {
		ports, err := freeport.Find(1)
		if err != nil {
			return nil, 0, "", err
		}
		// What an earlier try printed must not be taken for this one's.
		log := filepath.Join(a.out, fmt.Sprintf("run-%d-%d.log", a.runs, try))
		_, signal := a.stop()
		f, err := family.Start(g.Supervisor, g.command(a, a.Start, ports[0], log, signal))
		if err != nil {
			return nil, 0, "", fmt.Errorf("start %s: %w", a.role, err)
		}
		if err = g.await(ctx, a, f, ports[0], log); err == nil {
			return f, ports[0], log, nil
		}
		f.Stop()
		if try == tries || !strings.Contains(strings.ToLower(family.Tail(log, 20)), "address already in use") {
			return nil, 0, "", err
		}
	}
}

// command is a line of a, with its places filled in.
func (g *gate) command(a *arm, line string, port int, log string, stop syscall.Signal) family.Command {
	return family.Command{Line: a.fill(line, port), Dir: a.Dir, Env: a.Env, Log: log, Stop: stop, Grace: g.Grace}
}

// fill puts what {port}, {dir} and {out} stand for in their places. All other
// braces mean what they mean to sh.
func (a *arm) fill(line string, port int) string {
	return strings.NewReplacer("{port}", strconv.Itoa(port), "{dir}", a.Dir, "{out}", a.out).Replace(line)
}

// stop splits Stop into a command and the signal that ends the service.
func (a *arm) stop() (command string, signal syscall.Signal) {
	if s, ok := signals[a.Stop]; ok {
		return "", s
	}
	return a.Stop, syscall.SIGTERM
}

// signals are those that ask a service to end.
var signals = map[string]syscall.Signal{
	"": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGHUP": syscall.SIGHUP, "SIGKILL": syscall.SIGKILL,
}

// runStop runs the command that stops a service. If it does not work the
// signal that follows does.
func (g *gate) runStop(ctx context.Context, a *arm, line string, port int) {
	ctx, cancel := context.WithTimeout(ctx, g.Grace)
	defer cancel()
	log := filepath.Join(a.out, "stop.log")
	if err := family.Output(g.Supervisor, g.command(a, line, port, log, syscall.SIGTERM), ctx.Done()); err != nil {
		g.Progress(fmt.Sprintf("stop %s: %v", a.role, err))
	}
}

// A CommandError says that a command of a side did not do what it is there for.
type CommandError struct {
	What    string // "build head"
	Err     error  // why that is, an *family.ExitError or ErrNoAnswer
	Printed string // the last lines of what it printed
}

func (e *CommandError) Error() string { return e.What + ": " + e.Err.Error() }
func (e *CommandError) Unwrap() error { return e.Err }

// ErrNoAnswer is why a side that was started in vain is given up.
var ErrNoAnswer = errors.New("no answer")

// ended says that a command ended that should not have, or not so.
func ended(what string, f *family.Family, log string) error {
	err := f.Err()
	if err == nil {
		err = errors.New("it ended, with exit status 0")
	}
	return failed(what, err, log)
}

func failed(what string, err error, log string) error {
	return &CommandError{what, err, family.Tail(log, 20)}
}

// prepare checks out and builds what is to be compared.
func (g *gate) prepare(ctx context.Context) error {
	sides := []struct {
		role judge.Role
		Side
	}{{judge.Base, g.Base}, {judge.Head, g.Head}}
	for _, s := range sides {
		a := &arm{role: s.role, Side: s.Side, out: filepath.Join(g.Temp, string(s.role))}
		if err := os.MkdirAll(a.out, 0o700); err != nil {
			return err
		}
		if a.Start == "" {
			return fmt.Errorf("gate: %s has no command to start it", a.role)
		}
		g.arms = append(g.arms, a)
		if err := g.checkOut(ctx, a); err != nil {
			return err
		}
		if a.Build == "" {
			continue
		}
		g.Progress(fmt.Sprintf("build %s", a.role))
		log := filepath.Join(a.out, "build.log")
		if err := family.Output(g.Supervisor, g.command(a, a.Build, 0, log, syscall.SIGTERM), ctx.Done()); err != nil {
			return failed(fmt.Sprintf("build %s", a.role), err, log)
		}
	}
	if g.Quiet {
		again := *g.arms[0]
		again.role, again.out = judge.Control, filepath.Join(g.Temp, "again")
		if err := os.MkdirAll(again.out, 0o700); err != nil {
			return err
		}
		g.arms = append(g.arms, &again)
	}
	return nil
}
