package transport

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Waker lets other goroutines end a wait. The wait itself is a system call with
// a time-out in nanoseconds: the runtime's timers are late by half a
// millisecond where nothing else wakes the process.
type Waker struct{ fd int }

// NewWaker returns a Waker; Close frees its descriptor.
func NewWaker() (*Waker, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return &Waker{fd}, nil
}

// Wake ends the present Wait, or else the next.
func (w *Waker) Wake() {
	// It fails only when the counter is full, and then the wait ends anyway.
	_, _ = unix.Write(w.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// Wait returns after d or a Wake. Only one goroutine may wait.
func (w *Waker) Wait(d time.Duration) {
	ts := unix.NsecToTimespec(int64(max(d, 0)))
	n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}, &ts, nil)
	if err == nil && n > 0 {
		var b [8]byte
		_, _ = unix.Read(w.fd, b[:])
	}
}

// Close frees the descriptor. Wake must not be called any more.
func (w *Waker) Close() { unix.Close(w.fd) }
