package relay

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/internal/nonblock"
)

// pair is one connection of a loop.
type pair struct {
	conn
	l     *loop
	index int // in l.pairs
	ends  [2]socket
	stage stage

	deadline time.Time // of the stages before relaying
	header   proxyHeader
	tried    []*backend
	lastErr  error
}

type stage uint8

const (
	readingHeader stage = iota
	dialing
	relaying
	over
)

// socket is one end of a pair.
type socket struct {
	pair    *pair
	side    Side
	fd      int    // -1 when there is none
	gen     int32  // tells its events from those of an earlier socket of that number
	watched bool   // by epoll
	events  uint32 // that epoll reports

	pending []byte           // what the other side sent and this one has not taken yet
	block   *[blockSize]byte // holds pending
	ended   bool             // it has sent its last byte
	shut    bool             // it has been told that there is no more
	broken  bool             // it takes no more bytes
	hungUp  bool             // both directions have ended, as the kernel has it; the last of what it sent may be unread
}

// open begins a connection that was accepted.
func (l *loop) open(a accepted) {
	p := &pair{l: l}
	if l.r.admit(&p.conn, a.peer) != 0 {
		l.load.Add(-1)
		unix.Close(a.fd)
		return
	}
	for i := range p.ends {
		p.ends[i] = socket{pair: p, side: Side(i), fd: -1}
	}
	p.index = len(l.pairs)
	l.pairs = append(l.pairs, p)
	client := &p.ends[Client]
	client.attach(a.fd)
	if l.r.cfg.ProxyOut {
		p.local = localAddr(a.fd)
	}
	if l.r.cfg.ProxyIn {
		p.stage = readingHeader
		p.waitUntil(time.Now().Add(l.r.cfg.HandshakeTimeout))
		client.want(unix.EPOLLIN)
		return
	}
	p.admitAndDial()
}

func localAddr(fd int) (addr netip.AddrPort) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return addr
	}
	return fromSockaddr(sa)
}

// attach makes fd s's, which is not watched yet.
func (s *socket) attach(fd int) {
	l := s.pair.l
	if l.gen++; l.gen == ownEvents {
		l.gen++
	}
	s.fd, s.gen = fd, l.gen
	if fd >= len(l.sockets) {
		l.sockets = append(l.sockets, make([]*socket, fd+1-len(l.sockets))...)
	}
	l.sockets[fd] = s
}

// want makes epoll report events, errors and hang-ups besides.
func (s *socket) want(events uint32) {
	if s.watched && s.events == events {
		return
	}
	op := unix.EPOLL_CTL_MOD
	if !s.watched {
		op = unix.EPOLL_CTL_ADD
	}
	if err := s.pair.l.watch(op, s.fd, events, s.gen); err != nil {
		// Out of kernel memory: nobody would ever hear of this socket again.
		s.pair.close(resetBy(s.side))
		return
	}
	s.watched, s.events = true, events
}

// forget makes epoll report nothing more of s: else it would report the hang-up
// again and again until the other side's business is done.
func (s *socket) forget() {
	if s.watched {
		_ = s.pair.l.watch(unix.EPOLL_CTL_DEL, s.fd, 0, 0)
		s.watched = false
	}
}

func (s *socket) peer() *socket { return &s.pair.ends[s.side.other()] }

func (p *pair) waitUntil(deadline time.Time) {
	p.deadline = deadline
	p.l.waiting[p] = struct{}{}
}

func (s *socket) handle(events uint32) {
	switch p := s.pair; {
	case p.stage == relaying:
		s.move(events)
	case p.stage == dialing && s.side == Live:
		p.connected()
	case p.stage == readingHeader:
		p.readHeader()
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0: // the client went while we dial
		p.close(ClientReset)
	}
}

// expire ends a stage that took too long.
func (p *pair) expire() {
	if p.stage == readingHeader {
		p.close(BadProxyHeader)
		return
	}
	p.dialFailed(unix.ETIMEDOUT)
}

func (p *pair) sweep(now time.Time) {
	if p.stage != relaying {
		if p.r.cutting.Load() {
			p.close(Cut)
		}
		return
	}
	cause := p.due(now)
	if (cause == Drained || cause == Recycled) && len(p.ends[Client].pending)+len(p.ends[Live].pending) > 0 {
		return
	}
	if cause != 0 {
		p.close(cause)
	}
}

func (p *pair) readHeader() {
	client := &p.ends[Client]
	for {
		n, err := p.header.missing()
		if err == nil && n == 0 {
			err = p.header.accept(&p.conn)
		}
		if err != nil {
			p.close(BadProxyHeader)
			return
		}
		if n == 0 {
			delete(p.l.waiting, p)
			p.header = nil
			client.want(0)
			p.admitAndDial()
			return
		}
		got, err := nonblock.Read(client.fd, p.l.buf[:n])
		if err == unix.EAGAIN {
			return
		}
		if err != nil || got == 0 {
			p.close(BadProxyHeader)
			return
		}
		p.header = append(p.header, p.l.buf[:got]...)
	}
}

func (p *pair) admitAndDial() {
	if cause := p.admitClient(); cause != 0 {
		p.close(cause)
		return
	}
	p.stage = dialing
	p.ends[Client].want(0)
	p.dial()
}

// dial begins to connect to the next address of live.
func (p *pair) dial() {
	for p.stage == dialing {
		now := time.Now()
		p.live = p.r.live.pick(p.tried, now)
		if p.live == nil {
			p.r.down(p.lastErr, now)
			p.close(LiveDown)
			return
		}
		p.tried = append(p.tried, p.live)
		fd, err := connect(p.live.addr)
		if fd >= 0 {
			live := &p.ends[Live]
			live.attach(fd)
			p.waitUntil(now.Add(p.r.cfg.DialTimeout))
			if err == nil {
				p.connected()
				return
			}
			live.want(unix.EPOLLOUT)
			return
		}
		p.attemptFailed(err)
	}
}

// attemptFailed gives up on the address that is being dialled.
func (p *pair) attemptFailed(err error) {
	p.r.dialFailed(p.live, dialReason(err), time.Now())
	p.live, p.lastErr = nil, err
	p.ends[Live].detach(true)
}

func (p *pair) dialFailed(err error) {
	p.attemptFailed(err)
	p.dial()
}

// connected is called when the connect to live has ended, one way or another.
func (p *pair) connected() {
	live := &p.ends[Live]
	if err := socketError(live.fd); err != nil {
		p.dialFailed(err)
		return
	}
	p.r.live.took(p.live)
	delete(p.l.waiting, p)
	p.tried, p.lastErr = nil, nil
	p.stage = relaying
	p.opened("", "", time.Now())
	if p.r.cfg.ProxyOut {
		header, err := p.proxyOut()
		if err != nil {
			p.close(LiveDown)
			return
		}
		live.send(header)
	}
	p.settle()
}

// settle makes epoll report what the state of p calls for. A side is read only
// while the other takes what it sends: this is how back-pressure passes
// through, and why a pair holds at most one block for each direction.
func (p *pair) settle() {
	for i := range p.ends {
		if p.stage != relaying {
			return
		}
		s := &p.ends[i]
		to := s.peer()
		var events uint32
		if !s.ended && !to.broken && len(to.pending) == 0 {
			events |= unix.EPOLLIN
		}
		if len(s.pending) > 0 {
			events |= unix.EPOLLOUT
		}
		if s.ended && s.shut || s.hungUp && events == 0 {
			s.forget()
			continue
		}
		s.want(events)
	}
}

// move does what events say can be done, one turn of it.
func (s *socket) move(events uint32) {
	p := s.pair
	if len(s.pending) > 0 && events&unix.EPOLLOUT != 0 {
		s.flush()
	}
	const gone = unix.EPOLLERR | unix.EPOLLHUP
	switch {
	case p.stage != relaying || events&(unix.EPOLLIN|gone) == 0:
	case s.events&unix.EPOLLIN != 0:
		// What it sent before it went is still to be read.
		s.read()
	case events&unix.EPOLLERR != 0:
		p.close(resetBy(s.side))
	default:
		// It was told that there is no more and has sent its last byte, which is
		// read when the other side has taken what came before.
		s.hungUp = true
	}
	p.settle()
}

// read carries at most one block to the other side.
func (s *socket) read() {
	p, l := s.pair, s.pair.l
	n, err := nonblock.Read(s.fd, l.buf[:])
	switch {
	case err == unix.EAGAIN:
		return
	case err != nil:
		p.close(resetBy(s.side))
		return
	case n == 0:
		s.end()
		return
	}
	at := time.Now()
	buf, to := l.buf, s.peer()
	// What a client does once it has an answer may come by another loop, and must
	// not be observed first.
	first := s.side == Live
	if first {
		p.chunk(s.side, at, buf[:n])
	}
	sent := to.send(buf[:n])
	if sent == n {
		l.overhead.Record(time.Since(l.awake))
	} else if !to.broken {
		to.keep(buf, sent, n)
	}
	if !first {
		p.chunk(s.side, at, buf[:n])
	}
}

// send writes what s takes at once of p, and returns how much that is.
func (s *socket) send(p []byte) int {
	n, err := nonblock.Write(s.fd, p)
	if err == nil {
		return n
	}
	if err != unix.EAGAIN {
		// What it sent before it went away is still to be read; the end of that
		// ends the pair.
		s.broken = true
	}
	return 0
}

// keep makes buf[from:to] pending and buf, the loop's, s's own.
func (s *socket) keep(buf *[blockSize]byte, from, to int) {
	s.block, s.pending = buf, buf[from:to]
	s.pair.l.buf = s.pair.l.newBlock()
}

func (l *loop) newBlock() *[blockSize]byte {
	if n := len(l.free); n > 0 {
		b := l.free[n-1]
		l.free = l.free[:n-1]
		return b
	}
	return new([blockSize]byte)
}

// drop lets go of what is pending.
func (s *socket) drop() {
	if l := s.pair.l; s.block != nil && len(l.free) < maxFree {
		l.free = append(l.free, s.block)
	}
	s.block, s.pending = nil, nil
}

func (s *socket) flush() {
	s.pending = s.pending[s.send(s.pending):]
	if s.broken || len(s.pending) == 0 {
		s.drop()
	}
	if len(s.pending) == 0 && s.peer().ended {
		s.shutdown()
	}
}

// end is called when s has sent its last byte.
func (s *socket) end() {
	p := s.pair
	if s.broken {
		p.close(resetBy(s.side))
		return
	}
	s.ended = true
	p.eof(s.side, time.Now())
	if to := s.peer(); len(to.pending) == 0 {
		to.shutdown()
	}
}

// shutdown tells s that the other side has sent its last byte, all of which s
// has got; when both have been told so, the pair has ended.
func (s *socket) shutdown() {
	p := s.pair
	if s.broken && s.ended {
		p.close(resetBy(s.side))
		return
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_WR)
	s.shut = true
	if s.peer().shut {
		p.close(Ended)
	}
}

// detach closes s.
func (s *socket) detach(reset bool) {
	if s.fd < 0 {
		return
	}
	s.drop()
	s.pair.l.sockets[s.fd] = nil
	closeSocket(s.fd, reset) // which takes it out of epoll, too
	s.fd, s.watched = -1, false
}

// close ends the pair.
func (p *pair) close(cause Cause) {
	if p.stage == over {
		return
	}
	p.stage = over
	delete(p.l.waiting, p)
	for i := range p.ends {
		p.ends[i].detach(cause.resets())
	}
	p.closed(cause, time.Now())
	l := p.l
	last := len(l.pairs) - 1
	l.pairs[p.index] = l.pairs[last]
	l.pairs[p.index].index = p.index
	l.pairs[last] = nil
	l.pairs = l.pairs[:last]
	l.load.Add(-1)
}
