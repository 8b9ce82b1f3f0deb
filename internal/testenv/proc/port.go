package proc

import (
	"errors"
	"strings"

	"darklaunch/internal/freeport"
)

// Retry calls start with n free ports, and again with others, at most five
// times in all, while it fails because a port was taken meanwhile.
func Retry(n int, start func(ports []int) (*Group, error)) (*Group, error) {
	for try := 1; ; try++ {
		ports, err := freeport.Find(n)
		if err != nil {
			return nil, err
		}
		g, err := start(ports)
		if err == nil || try == 5 || !PortTaken(err) {
			return g, err
		}
	}
}

// PortTaken reports whether err is the death of a process that could not
// listen, as the servers known here word it.
func PortTaken(err error) bool {
	died, ok := errors.AsType[*DiedError](err)
	if !ok {
		return false
	}
	log := strings.ToLower(died.Tail)
	for _, s := range []string{"address already in use", "bindexception", "cannot bind socket", "failed to listen on"} {
		if strings.Contains(log, s) {
			return true
		}
	}
	return false
}
