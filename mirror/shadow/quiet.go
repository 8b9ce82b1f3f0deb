package shadow

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quiet reports whether the peer of an idle connection has neither closed it
// nor said anything. Under TLS it may have sent session tickets, so that only a
// closed one is told. What can't be looked at is taken for quiet.
func quiet(conn net.Conn) bool {
	secured := false
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // *tls.Conn
		conn, secured = t.NetConn(), true
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var n int
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, peekErr = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	if err != nil {
		return false
	}
	return peekErr == unix.EAGAIN || secured && n > 0
}
