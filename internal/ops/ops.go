// Package ops is what every long-running command has beside its work: an
// orderly start and stop, listeners that say why they could not listen, the
// admin pages, a logger, spans and a configuration that can be read again.
//
// Nothing here knows what a command does. A command hands in its parts, its
// metrics registry and its state, and keeps everything else.
package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"
)

// Part is a piece of a program that works for as long as the program does.
type Part struct {
	// Name says in logs and errors which part it was.
	Name string

	// Run works until ctx ends or its work is done, and has stopped all it
	// started when it returns. The end of ctx means drain: take no new work,
	// finish what is under way. A Run that returns nil after the end of ctx
	// has drained.
	Run func(ctx context.Context) error
}

// ErrDrain is returned by Run when parts still ran at the end of the drain
// limit: the caller must exit, as it can't wait for them.
var ErrDrain = errors.New("not drained in time")

// PanicError is what a part's panic becomes. It is a failure of that part and
// stops the others in order, as any failure does.
type PanicError struct {
	Part  string
	Value any    // what was given to panic
	Stack []byte // of the goroutine that panicked, as debug.Stack formats it
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("internal error in %s: %v", e.Part, e.Value)
}

// Run starts the parts in order and waits until all have returned. The first
// part that returns, for whatever reason, and the end of ctx stop the rest:
// last started, first stopped, each only when the one after it has returned,
// so that a listener is closed before what serves its requests is.
//
// It returns the first failure, or nil if there was none. If stopping takes
// longer than drain, it returns an error that wraps ErrDrain and names the
// parts that still run, their contexts ended. Zero drain means no limit.
func Run(ctx context.Context, log *slog.Logger, drain time.Duration, parts ...Part) error {
	log = logger(log)
	returned := make(chan outcome, len(parts))
	stops := make([]context.CancelFunc, len(parts))
	s := stopping{log: log, parts: parts, told: make([]bool, len(parts)), stopped: make([]bool, len(parts))}
	for i, p := range parts {
		// Parts are stopped one by one, so the end of ctx must not reach them all at once.
		partCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		defer stop()
		stops[i] = stop
		go func() { returned <- outcome{i, runPart(partCtx, p)} }()
		log.Debug("part started", "part", p.Name)
	}

	select {
	case <-ctx.Done():
	case o := <-returned:
		s.note(o)
	}

	var limit <-chan time.Time
	if drain > 0 {
		t := time.NewTimer(drain)
		defer t.Stop()
		limit = t.C
	}
	for i := len(parts) - 1; i >= 0; i-- {
		s.told[i] = true
		stops[i]()
		for !s.stopped[i] {
			select {
			case o := <-returned:
				s.note(o)
			case <-limit:
				return fmt.Errorf("stop %s: %w after %v", s.running(), ErrDrain, drain)
			}
		}
	}
	return s.failure
}

type outcome struct {
	part int
	err  error
}

// stopping is what Run knows of its parts while they end. Run's goroutine owns it.
type stopping struct {
	log     *slog.Logger
	parts   []Part
	told    []bool // to stop
	stopped []bool
	failure error // the first
}

func (s *stopping) note(o outcome) {
	s.stopped[o.part] = true
	// A part that was told to stop may say so. Before that, it is a failure:
	// some other context of the part's has ended under it.
	if o.err == nil || s.told[o.part] && errors.Is(o.err, context.Canceled) {
		s.log.Debug("part stopped", "part", s.parts[o.part].Name)
		return
	}
	if s.failure == nil {
		s.failure = o.err
		return
	}
	// Only one error can be returned; the others would be lost.
	s.log.Error("part failed while stopping", "part", s.parts[o.part].Name, "err", o.err)
}

func (s *stopping) running() string {
	var names []string
	for i, p := range s.parts {
		if !s.stopped[i] {
			names = append(names, p.Name)
		}
	}
	return strings.Join(names, ", ")
}

func runPart(ctx context.Context, p Part) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Part: p.Name, Value: v, Stack: debug.Stack()}
		}
	}()
	return p.Run(ctx)
}
