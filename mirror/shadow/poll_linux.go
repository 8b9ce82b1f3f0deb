package shadow

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/internal/nonblock"
)

// epoll is the poller of plain TCP connections on Linux: the loop waits for all
// of them at once, and reads and writes by itself. Others are attached as pipes.
type epoll struct {
	l       *Loop
	fd      int
	wakeup  int // eventfd
	events  []unix.EpollEvent
	sockets []*socket // by descriptor
	gen     int32
	buf     []byte
	yielder nonblock.Yielder
}

// lullTime is how long copies wait for others to leave with: it bounds how often
// a thread has to be woken for them, and is little beside what lanes wait for.
const lullTime = time.Millisecond

// blockSize bounds the bytes of one turn of a connection.
const blockSize = 64 << 10

// newPoller returns an epoll, or what needs none if there can be no other.
func newPoller(l *Loop, portable bool) poller {
	if !portable {
		if p, err := newEpoll(l); err == nil {
			return p
		}
	}
	return newGoroutines(l)
}

func newEpoll(l *Loop) (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	p := &epoll{l: l, fd: fd, events: make([]unix.EpollEvent, 128), buf: make([]byte, blockSize)}
	if p.wakeup, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := p.control(unix.EPOLL_CTL_ADD, p.wakeup, unix.EPOLLIN, ownEvents); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *epoll) close() {
	unix.Close(p.wakeup)
	unix.Close(p.fd)
}

func (p *epoll) lull() time.Duration { return lullTime }

func (p *epoll) control(op, fd int, events uint32, gen int32) error {
	err := unix.EpollCtl(p.fd, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: gen})
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

func (p *epoll) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(p.wakeup, one[:]) // does not block: it fails when a wake-up waits already
}

// ownEvents marks the events of the wake-up, which are no socket's; see
// socket.gen.
const ownEvents = 0

func (p *epoll) wait(most time.Duration) {
	ms := -1
	if most >= 0 {
		ms = int((most + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := nonblock.EpollWait(p.fd, p.events, ms)
	if err != nil {
		panic(fmt.Sprintf("shadow: epoll_wait: %v", err)) // a bug: the arguments are ours
	}
	now := time.Now()
	p.l.now = now.UnixNano()
	p.yielder.Yield(now)
	for _, e := range p.events[:n] {
		if e.Pad == ownEvents {
			var count [8]byte
			_, _ = unix.Read(p.wakeup, count[:])
			continue
		}
		// The descriptor may have been closed and used anew within this batch.
		if s := p.sockets[e.Fd]; s != nil && s.gen == e.Pad {
			s.handle(e.Events)
		}
	}
}

// attach makes a socket of a plain connection. Go's poller must not have it: each
// answer would wake it, too.
func (p *epoll) attach(conn net.Conn, s speaker) (link, error) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return attachPipe(p.l, conn, s), nil
	}
	defer conn.Close()
	fd, err := duplicate(tcp)
	if err != nil {
		return nil, err
	}
	if p.gen++; p.gen == ownEvents {
		p.gen++
	}
	k := &socket{p: p, fd: fd, gen: p.gen, s: s}
	if err := p.control(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, k.gen); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if fd >= len(p.sockets) {
		p.sockets = append(p.sockets, make([]*socket, fd+1-len(p.sockets))...)
	}
	p.sockets[fd] = k
	return k, nil
}

// duplicate returns a descriptor of c's own, which the caller must close.
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

// socket is a link that the loop reads and writes.
type socket struct {
	p     *epoll
	s     speaker
	fd    int   // -1 when closed
	gen   int32 // tells its events from those of an earlier socket of that number
	wants bool  // to be told of room
}

func (k *socket) handle(events uint32) {
	if events&unix.EPOLLOUT != 0 && k.wants {
		k.want(false)
		k.p.l.roomy(k.s)
	}
	if k.fd >= 0 && events&(unix.EPOLLIN|unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		k.read()
	}
}

// read tells of at most one block.
func (k *socket) read() {
	n, err := nonblock.Read(k.fd, k.p.buf)
	switch {
	case n > 0:
		k.p.l.taken(k.s, k.p.buf[:n], time.Now())
	case n == 0 && err == nil:
		k.p.l.over(k.s, io.EOF)
	case err != unix.EAGAIN:
		k.p.l.over(k.s, err)
	}
}

func (k *socket) write(p []byte) (int, error) {
	if k.fd < 0 {
		return 0, net.ErrClosed
	}
	n, err := nonblock.Write(k.fd, p)
	if err == unix.EAGAIN {
		err = nil
	}
	if err == nil && n < len(p) {
		k.want(true)
	}
	return n, err
}

// want has epoll tell of room, or not.
func (k *socket) want(room bool) {
	if k.wants == room {
		return
	}
	events := uint32(unix.EPOLLIN)
	if room {
		events |= unix.EPOLLOUT
	}
	if k.p.control(unix.EPOLL_CTL_MOD, k.fd, events, k.gen) == nil {
		k.wants = room
	}
}

func (k *socket) close() {
	if k.fd >= 0 {
		k.p.sockets[k.fd] = nil
		unix.Close(k.fd) // which takes it out of epoll, too
		k.fd = -1
	}
}
