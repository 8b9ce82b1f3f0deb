package pebble

import (
	"context"
	"sync"

	"darklaunch/appserver/store"
)

// turns lets one call at a time have a row, and closes when all have ended. The
// zero turns is open.
type turns struct {
	calls sync.WaitGroup

	mu     sync.Mutex
	closed bool
	busy   map[string]chan struct{} // by user; closed when the turn ends
}

// take waits until the row is free and returns what gives it back.
func (t *turns) take(ctx context.Context, user string) (release func(), err error) {
	for {
		// A turn that could be had at once is not for a caller who has gone.
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ended, err := t.try(user)
		if err != nil {
			return nil, err
		}
		if ended == nil {
			return func() { t.give(user) }, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// try takes the turn, or returns what is closed at the end of the one under way.
func (t *turns) try(user string) (ended chan struct{}, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, store.ErrClosed
	}
	if ended := t.busy[user]; ended != nil {
		return ended, nil
	}
	if t.busy == nil {
		t.busy = map[string]chan struct{}{}
	}
	t.busy[user] = make(chan struct{})
	t.calls.Add(1)
	return nil, nil
}

func (t *turns) give(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.busy[user])
	delete(t.busy, user)
	t.calls.Done()
}

// enter is for a call that takes no row.
func (t *turns) enter() (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, store.ErrClosed
	}
	t.calls.Add(1)
	return t.calls.Done, nil
}

// close waits for the calls under way, and reports whether it was the first.
func (t *turns) close() bool {
	t.mu.Lock()
	was := t.closed
	t.closed = true
	t.mu.Unlock()
	t.calls.Wait()
	return !was
}
