package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"darklaunch/appserver/action"
)

// ErrBeyond is returned by Watch: there is no such sequence yet.
var ErrBeyond = errors.New("sequence is beyond the log's end")

// maxLate is how many actions a watcher may be behind.
const maxLate = 1000

// watcher is told of actions as they become durable.
type watcher struct {
	actions chan action.Action
	ended   chan struct{}
	once    sync.Once
}

func (w *watcher) end() { w.once.Do(func() { close(w.ended) }) }

// tell does not wait: a watcher that is too late is let go.
func (w *watcher) tell(actions []action.Action) {
	for _, a := range actions {
		select {
		case w.actions <- a:
		default: // it resumes from what it has seen
			w.end()
			return
		}
	}
}

// Watch calls started with the sequence after which events begin, and then event for
// each action of u's mailbox that follows: those after a sequence, or after now if
// that is nil. It returns when ctx ends or a function does, with that error; with
// ErrLate when the mailbox has moved, or event was too slow: then what was seen last
// is where to resume. ErrBeyond.
func (p *Pool) Watch(ctx context.Context, u action.User, after *uint64, started func(uint64) error, event func(action.Action) error) error {
	return p.with(ctx, u, func(b *box) error {
		if p.cfg.Strict() {
			if err := b.confirm(ctx); err != nil {
				return err
			}
		}
		w := &watcher{actions: make(chan action.Action, maxLate), ended: make(chan struct{})}
		b.mu.Lock()
		if b.gone != nil {
			b.mu.Unlock()
			return errGone
		}
		end := b.meta.Version().Sequence
		b.watchers[w] = struct{}{}
		b.mu.Unlock()
		defer func() {
			b.mu.Lock()
			delete(b.watchers, w)
			b.mu.Unlock()
		}()
		at := end
		if after != nil {
			at = *after
		}
		if at > end {
			return fmt.Errorf("watch %s after %d, the last is %d: %w", u, at, end, ErrBeyond)
		}
		if err := started(at); err != nil {
			return err
		}
		if err := b.replay(ctx, at, end, event); err != nil {
			return err
		}
		for {
			select {
			case a := <-w.actions:
				if err := event(a); err != nil {
					return err
				}
			case <-w.ended:
				return fmt.Errorf("watch %s: %w", u, ErrLate)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}

// replay calls event for the actions after one sequence up to another.
func (b *box) replay(ctx context.Context, after, end uint64, event func(action.Action) error) error {
	const page = 256
	for after < end {
		upTo := min(after+page, end)
		var sequences []uint64
		for seq := after + 1; seq <= upTo; seq++ {
			sequences = append(sequences, seq)
		}
		found := make(map[uint64]action.Action, len(sequences))
		if err := b.fetch(ctx, sequences, found); err != nil {
			return err
		}
		for _, seq := range sequences {
			if a, ok := found[seq]; ok {
				if err := event(a); err != nil {
					return err
				}
			}
		}
		after = upTo
	}
	return nil
}
