package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// A Group is the processes that make up one server, in the order of their
// start, and its directory. Its fields do not change once it is in use.
type Group struct {
	Name      string
	Addr      string // host:port for clients, or several with commas between
	Dir       string // removed by Close
	Processes []*Process

	// Ready asks once whether the whole serves, when each process is ready. A
	// nil Ready is always so. Within bounds the time until then; zero means 30s.
	Ready  func(context.Context) error
	Within time.Duration
}

// Build makes g's directory, calls fill to start its processes there, and waits
// until the whole is ready. If any of it fails, what was started is ended and
// the directory removed.
func (l *Launcher) Build(ctx context.Context, g *Group, fill func() error) (_ *Group, err error) {
	g.Dir, err = os.MkdirTemp(l.temp, "testenv-"+g.Name+"-")
	if err != nil {
		return nil, err
	}
	err = fill()
	if err == nil {
		err = g.Await(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Await returns once every process is ready and so is the whole, or fails: at
// once when a process has ended.
func (g *Group) Await(ctx context.Context) error {
	return await(ctx, g.Name, g.Within, func(ctx context.Context) error {
		for _, p := range g.Processes {
			if err := p.ready(ctx); err != nil {
				return err
			}
		}
		if g.Ready == nil {
			return nil
		}
		return g.Ready(ctx)
	}, g.Processes)
}

// Process returns the process of that name, or nil.
func (g *Group) Process(name string) *Process {
	i := slices.IndexFunc(g.Processes, func(p *Process) bool { return p.Name() == name })
	if i < 0 {
		return nil
	}
	return g.Processes[i]
}

// Died returns the first process's *DiedError, or nil when all run.
func (g *Group) Died() error {
	for _, p := range g.Processes {
		if err := p.Died(); err != nil {
			return err
		}
	}
	return nil
}

// Heal makes the group whole again: what is dead, or was killed or stopped
// since its start, is started anew, and the whole is waited for. A process
// that was stopped is not trusted even if it goes on: it may have lost a
// session meanwhile and be about to end itself.
func (g *Group) Heal(ctx context.Context) error {
	var broken []*Process
	for _, p := range g.Processes {
		if p.wounded() {
			broken = append(broken, p)
		}
	}
	for _, p := range broken {
		if err := p.respawn(); err != nil {
			return err
		}
	}
	return g.Await(ctx)
}

func (p *Process) wounded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.over:
		return true
	default:
		return p.hurt
	}
}

// Close ends the processes, last started first, and removes the directory.
func (g *Group) Close() error {
	var errs []error
	for _, p := range slices.Backward(g.Processes) {
		errs = append(errs, p.Close())
	}
	if g.Dir != "" {
		errs = append(errs, os.RemoveAll(g.Dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end %s: %w", g.Name, err)
	}
	return nil
}
