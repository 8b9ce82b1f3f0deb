//go:build !linux

package relay

import (
	"errors"
	"net"
)

func listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// steerAway has nothing to do where listeners don't share an address.
func steerAway(net.Listener) {}

func newLoops(*Relay, net.Listener) (driver, error) { return nil, errors.ErrUnsupported }
