//go:build !linux

package shadow

func newPoller(l *Loop, _ bool) poller { return newGoroutines(l) }
