//go:build !linux

package transport

import "time"

// Waker lets other goroutines end a wait. Here the runtime's timers do the
// waiting, and may be a millisecond late.
type Waker struct{ c chan struct{} }

// NewWaker returns a Waker.
func NewWaker() (*Waker, error) { return &Waker{make(chan struct{}, 1)}, nil }

// Wake ends the present Wait, or else the next.
func (w *Waker) Wake() {
	select {
	case w.c <- struct{}{}:
	default: // the wait ends anyway
	}
}

// Wait returns after d or a Wake. Only one goroutine may wait.
func (w *Waker) Wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.c:
	case <-t.C:
	}
}

// Close does nothing.
func (w *Waker) Close() {}
