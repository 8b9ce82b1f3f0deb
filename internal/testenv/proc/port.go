package proc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
)

// Ports are taken below Linux's default range for outgoing connections
// (32768–60999), so that none of those takes the port of a server while it is
// dead: it could not come back to its address.
const firstPort, ports = 20000, 12000

// FreePorts returns n different TCP ports on 127.0.0.1 that nobody listens on
// now. Another may take one before it is used: see Retry.
func FreePorts(n int) ([]int, error) {
	var free []int
	for tries := 0; len(free) < n; tries++ {
		if tries == 100*n {
			return nil, fmt.Errorf("find %d free ports: none left after %d tries", n, tries)
		}
		// Held until all are found, so that none is found twice.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(ports)))
		if err != nil {
			continue
		}
		defer l.Close()
		free = append(free, l.Addr().(*net.TCPAddr).Port)
	}
	return free, nil
}

// Retry calls start with n free ports, and again with others, at most five
// times in all, while it fails because a port was taken meanwhile.
func Retry(n int, start func(ports []int) (*Group, error)) (*Group, error) {
	for try := 1; ; try++ {
		ports, err := FreePorts(n)
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
