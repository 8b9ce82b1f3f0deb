// Package freeport finds ports for servers that are told where to listen.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken below Linux's default range for outgoing connections
// (32768–60999), so that none of those takes the port of a server while it is
// dead: it could not come back to its address.
const firstPort, ports = 20000, 12000

// Find returns n different TCP ports on 127.0.0.1 that nobody listens on now.
// Another may take one before it is used: try again with others then.
func Find(n int) ([]int, error) {
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
