//go:build !linux

package transport

import "net"

func newPoller(p *Pool, addrs []*net.TCPAddr) (poller, error) { return newNetPoller(p, addrs) }
