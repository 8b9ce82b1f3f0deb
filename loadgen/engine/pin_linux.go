package engine

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Pin ties the goroutine to its thread and has the kernel wake it without the
// 50 µs that it may otherwise add to a wait. The returned function undoes it.
func Pin() (release func()) {
	runtime.LockOSThread()
	// Refused, waits are a little late, which the lag shows.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
		runtime.UnlockOSThread()
	}
}
