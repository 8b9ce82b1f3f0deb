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
	Dir       string // removed by Close
	Processes []*Process

	// Ready asks once whether the whole serves, as Spec.Ready does for one
	// process. Within bounds the time until it does; zero means 30s.
	Ready  func(context.Context) error
	Within time.Duration
}

// Await returns once the group is ready, or fails: at once when a process has
// ended.
func (g *Group) Await(ctx context.Context) error {
	return await(ctx, g.Name, g.Within, g.Ready, g.Processes)
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
	for _, p := range broken {
		if err := p.await(ctx); err != nil {
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
