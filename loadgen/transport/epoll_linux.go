package transport

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newPoller returns the poller for a pool's connections: an epoll loop where
// there is nothing but TCP beneath the protocol.
func newPoller(p *Pool, addrs []*net.TCPAddr) (poller, error) {
	if p.cfg.TLS != nil || p.cfg.Portable {
		return newNetPoller(p, addrs)
	}
	return newEpoll(p.clock, addrs)
}

// epoll moves bytes by system calls made without the scheduler's knowledge.
//
// Those that do not block are too short, at 0.3 to 3 µs, to hand the processor
// over. The wait is not announced either: it would have the runtime's monitor
// look in up to 50,000 times a second to see whether to take the processor
// away, which cost a fifth of all the processor time of a run and half of its
// context switches. Instead the wait keeps its processor, so there must be one
// more for everybody else; where the runtime wants this one, to collect garbage
// or because 10 ms are over, its signal ends the wait.
type epoll struct {
	clock  Clock
	fd     int
	addrs  []unix.Sockaddr
	family []int
	turn   int
	slots  []*conn
	free   []int
	events []unix.EpollEvent
	buf    []byte
	coarse bool // the kernel has no epoll_pwait2 (before 5.11)
}

func newEpoll(clock Clock, addrs []*net.TCPAddr) (*epoll, error) {
	e := &epoll{clock: clock, events: make([]unix.EpollEvent, 256), buf: make([]byte, 32<<10)}
	for _, a := range addrs {
		if ip := a.IP.To4(); ip != nil {
			s := &unix.SockaddrInet4{Port: a.Port}
			copy(s.Addr[:], ip)
			e.addrs, e.family = append(e.addrs, s), append(e.family, unix.AF_INET)
			continue
		}
		s := &unix.SockaddrInet6{Port: a.Port}
		copy(s.Addr[:], a.IP.To16())
		if a.Zone != "" {
			if i, err := net.InterfaceByName(a.Zone); err == nil {
				s.ZoneId = uint32(i.Index)
			} else if n, err := strconv.ParseUint(a.Zone, 10, 32); err == nil {
				s.ZoneId = uint32(n)
			}
		}
		e.addrs, e.family = append(e.addrs, s), append(e.family, unix.AF_INET6)
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	e.fd = fd
	return e, nil
}

func (e *epoll) dial(k *conn) error {
	i := e.turn % len(e.addrs)
	e.turn++
	fd, err := unix.Socket(e.family[i], unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	// Without it the second write of a call would wait for the peer's ACK.
	if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err == nil {
		if err = unix.Connect(fd, e.addrs[i]); errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
			err = nil
		}
	}
	if err == nil {
		k.fd, k.slot = fd, e.slot(k)
		if err = e.control(unix.EPOLL_CTL_ADD, k, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
			e.slots[k.slot] = nil
			e.free = append(e.free, k.slot)
		}
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("connect: %w", err)
	}
	k.link = &socket{e, k}
	return nil
}

func (e *epoll) slot(k *conn) int {
	if n := len(e.free); n > 0 {
		i := e.free[n-1]
		e.free = e.free[:n-1]
		e.slots[i] = k
		return i
	}
	e.slots = append(e.slots, k)
	return len(e.slots) - 1
}

func (e *epoll) control(op int, k *conn, events uint32) error {
	// The descriptor beside the slot tells an event of a connection closed in
	// the same batch from one of its successor in the slot.
	return unix.EpollCtl(e.fd, op, k.fd, &unix.EpollEvent{Events: events, Fd: int32(k.slot), Pad: int32(k.fd)})
}

func (e *epoll) wait(until time.Duration) {
	n := e.poll()
	if n == 0 {
		if d := until - e.clock.Now(); d > 0 {
			n = e.sleep(d)
		}
	}
	for _, ev := range e.events[:n] {
		k := e.slots[ev.Fd]
		if k != nil && k.fd == int(ev.Pad) && k.state != closed {
			e.serve(k, ev.Events)
		}
	}
}

// poll looks for events without waiting.
func (e *epoll) poll() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.fd), uintptr(unsafe.Pointer(&e.events[0])), uintptr(len(e.events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// sleep waits for events, up to d. It may return sooner without any.
func (e *epoll) sleep(d time.Duration) int {
	if e.coarse {
		return e.sleepCoarse(d)
	}
	ts := unix.NsecToTimespec(int64(d))
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(e.fd), uintptr(unsafe.Pointer(&e.events[0])), uintptr(len(e.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
	switch errno {
	case 0:
		return int(n)
	case unix.ENOSYS:
		e.coarse = true
	}
	return 0
}

// sleepCoarse waits on the epoll descriptor itself, by a call that has always
// counted in nanoseconds.
func (e *epoll) sleepCoarse(d time.Duration) int {
	ts := unix.NsecToTimespec(int64(d))
	if n, err := unix.Ppoll([]unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLIN}}, &ts, nil); err != nil || n == 0 {
		return 0
	}
	return e.poll()
}

func (e *epoll) serve(k *conn, events uint32) {
	if k.state == dialing {
		errno, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || errno != 0 {
			k.lose(Connect)
			return
		}
		if events&unix.EPOLLOUT == 0 {
			return
		}
		if err := e.control(unix.EPOLL_CTL_MOD, k, unix.EPOLLIN); err != nil {
			k.lose(Connect)
			return
		}
		k.connected()
		return
	}
	if events&unix.EPOLLOUT != 0 {
		if err := e.control(unix.EPOLL_CTL_MOD, k, unix.EPOLLIN); err != nil {
			k.lose(Reset)
			return
		}
		k.writable()
	}
	if events&^unix.EPOLLOUT == 0 {
		return
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(k.fd), uintptr(unsafe.Pointer(&e.buf[0])), uintptr(len(e.buf)), 0, 0, 0)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
	case errno != 0:
		k.lose(Reset)
	case n == 0:
		k.eof()
	default:
		k.received(e.buf[:n])
	}
}

func (e *epoll) close() {
	for _, k := range e.slots {
		if k != nil {
			unix.Close(k.fd)
		}
	}
	unix.Close(e.fd)
}

// socket is one connection's descriptor.
type socket struct {
	e *epoll
	k *conn
}

func (s *socket) send(p []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.k.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		n = 0
	case errno != 0:
		return 0, errno
	}
	if int(n) < len(p) {
		return int(n), s.e.control(unix.EPOLL_CTL_MOD, s.k, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return int(n), nil
}

func (s *socket) close() {
	unix.Close(s.k.fd)
	s.e.slots[s.k.slot] = nil
	s.e.free = append(s.e.free, s.k.slot)
}
