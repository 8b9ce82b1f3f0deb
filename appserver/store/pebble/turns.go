package pebble

import (
	"context"
	"sync"
)

// turns lets one call at a time have a row. The zero turns is ready.
type turns struct {
	mu   sync.Mutex
	busy map[string]chan struct{} // by user; closed when the turn ends
}

// take waits until the row is free, and has it until give.
func (t *turns) take(ctx context.Context, user string) error {
	for {
		// A turn that could be had at once is not for a caller who has gone.
		if err := ctx.Err(); err != nil {
			return err
		}
		ended := t.try(user)
		if ended == nil {
			return nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try takes the turn, or returns what is closed at the end of the one under way.
func (t *turns) try(user string) (ended chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ended := t.busy[user]; ended != nil {
		return ended
	}
	if t.busy == nil {
		t.busy = map[string]chan struct{}{}
	}
	t.busy[user] = make(chan struct{})
	return nil
}

func (t *turns) give(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.busy[user])
	delete(t.busy, user)
}
