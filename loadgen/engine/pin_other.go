//go:build !linux

package engine

import "runtime"

// Pin ties the goroutine to its thread. The returned function undoes it.
func Pin() (release func()) {
	runtime.LockOSThread()
	return runtime.UnlockOSThread
}
