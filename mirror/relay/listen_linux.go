package relay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// heir passes a listening socket on to the process that is to take over. Both
// then accept from one queue, and when the elder closes its descriptor nothing
// is lost. (With SO_REUSEPORT each has a queue of its own, and what is in the
// elder's when it closes is reset, a handshake that completes between its last
// accept and the close included.)
//
// The socket is asked for at a Unix socket with an abstract name, which is
// passed on as well, so that the successor can have one in turn. Only processes
// of the same user are answered, and believed.
type heir struct {
	tcp int // a duplicate of the listener
	at  *net.UnixListener
}

// askTimeout bounds how long the elder may take to answer.
const askTimeout = time.Second

// listen opens a listener on addr, or takes over that of another process of
// this program and user.
func listen(addr string) (net.Listener, *heir, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		h, err := newHeir(ln)
		if err != nil {
			ln.Close()
		}
		return ln, h, err
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, nil, err
	}
	want, resolveErr := net.ResolveTCPAddr("tcp", addr)
	if resolveErr != nil {
		return nil, nil, err
	}
	ln, h, inheritErr := inherit(want)
	if inheritErr != nil {
		return nil, nil, fmt.Errorf("%w, and not by one that passes it on: %v", err, inheritErr)
	}
	return ln, h, nil
}

func heirAddr(port int) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("@darklaunch-relay-%d-%d", os.Getuid(), port)}
}

func newHeir(ln net.Listener) (*heir, error) {
	fd, err := duplicate(ln.(*net.TCPListener))
	if err != nil {
		return nil, err
	}
	// Two addresses may share a port: the second has no heir.
	at, err := net.ListenUnix("unix", heirAddr(ln.Addr().(*net.TCPAddr).Port))
	if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
		unix.Close(fd)
		return nil, err
	}
	return &heir{tcp: fd, at: at}, nil
}

func duplicate(c syscall.Conn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var failed error
	err = raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, failed); err != nil {
		return -1, fmt.Errorf("duplicate a descriptor: %w", err)
	}
	return fd, nil
}

// serve answers those who ask, until close.
func (h *heir) serve() {
	if h.at == nil {
		return
	}
	for {
		c, err := h.at.AcceptUnix()
		if err != nil {
			return
		}
		_ = c.SetDeadline(time.Now().Add(askTimeout))
		_ = h.pass(c) // who asked finds out
		c.Close()
	}
}

func (h *heir) pass(c *net.UnixConn) error {
	if err := sameUser(c); err != nil {
		return err
	}
	at, err := duplicate(h.at)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	_, _, err = c.WriteMsgUnix([]byte{1}, unix.UnixRights(h.tcp, at), nil)
	return err
}

func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if int(peer.Uid) != os.Getuid() {
		return fmt.Errorf("the process there is of user %d", peer.Uid)
	}
	return nil
}

// inherit asks the process that listens on want for its listener.
func inherit(want *net.TCPAddr) (net.Listener, *heir, error) {
	c, err := net.DialUnix("unix", nil, heirAddr(want.Port))
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(askTimeout))
	if err := sameUser(c); err != nil {
		return nil, nil, err
	}
	fds, err := receive2(c)
	if err != nil {
		return nil, nil, err
	}
	ln, err := adopt(fds[0])
	at, err2 := adopt(fds[1])
	if err := errors.Join(err, err2); err != nil {
		return nil, nil, err
	}
	tcp, ok := ln.(*net.TCPListener)
	heirAt, ok2 := at.(*net.UnixListener)
	if !ok || !ok2 || !sameAddr(tcp.Addr().(*net.TCPAddr), want) {
		ln.Close()
		at.Close()
		return nil, nil, fmt.Errorf("it listens on %s", ln.Addr())
	}
	fd, err := duplicate(tcp)
	if err != nil {
		ln.Close()
		at.Close()
		return nil, nil, err
	}
	return ln, &heir{tcp: fd, at: heirAt}, nil
}

func sameAddr(a, b *net.TCPAddr) bool {
	return a.Port == b.Port && (a.IP.Equal(b.IP) || unspecified(a.IP) && unspecified(b.IP))
}

func unspecified(ip net.IP) bool { return ip == nil || ip.IsUnspecified() }

// receive2 takes two descriptors from c.
func receive2(c *net.UnixConn) (fds [2]int, err error) {
	control := make([]byte, unix.CmsgSpace(2*4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return fds, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return fds, err
	}
	var all []int
	for _, m := range messages {
		if rights, err := unix.ParseUnixRights(&m); err == nil {
			all = append(all, rights...)
		}
	}
	if len(all) != 2 {
		for _, fd := range all {
			unix.Close(fd)
		}
		return fds, fmt.Errorf("got %d descriptors", len(all))
	}
	return [2]int(all), nil
}

// adopt makes a listener of fd.
func adopt(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// close ends serve. Who has taken over keeps what it got.
func (h *heir) close() {
	unix.Close(h.tcp)
	if h.at != nil {
		h.at.Close()
	}
}
