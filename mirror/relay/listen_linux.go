package relay

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listen opens a listener on an address that other processes of the same user
// may listen on as well.
func listen(addr string) (net.Listener, error) {
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		if err != nil {
			return err
		}
		return failed
	}}
	return cfg.Listen(context.Background(), "tcp", addr)
}

// steerAway sends new connections to the second listener of l's address, if
// there is one: that of the process which is to take over.
func steerAway(l net.Listener) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { steerToSecond(int(fd)) })
}

// steerToSecond gives the listeners of fd's address a filter that picks the
// second of them, in the order in which they came; where there is none, the
// usual hash goes on (socket(7), SO_ATTACH_REUSEPORT_CBPF). Without this,
// handshakes that complete between the last accept and the close are reset.
func steerToSecond(fd int) {
	second := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}
	program := unix.SockFprog{Len: uint16(len(second)), Filter: &second[0]}
	// Where it can't be attached the hash goes on, too.
	_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &program)
}
