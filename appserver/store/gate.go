package store

import "sync"

// Gate is how a store closes: calls that are in end first, later ones are not let
// in. The zero Gate is open.
type Gate struct {
	calls sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// Enter lets a call in, which is to Leave; or returns ErrClosed.
func (g *Gate) Enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.calls.Add(1)
	return nil
}

// Leave is the end of a call that was let in.
func (g *Gate) Leave() { g.calls.Done() }

// Close waits for the calls that are in, and reports whether it was the first Close.
func (g *Gate) Close() bool {
	g.mu.Lock()
	first := !g.closed
	g.closed = true
	g.mu.Unlock()
	g.calls.Wait()
	return first
}
