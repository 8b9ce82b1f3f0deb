package relay

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"darklaunch/internal/hist"
	"darklaunch/internal/nonblock"
)

// loops is the driver of epoll loops: each owns the sockets of its connections
// and moves their bytes on one goroutine.
type loops struct {
	r        *Relay
	listener int // all loops accept from it
	loops    []*loop
	wg       sync.WaitGroup

	accepting atomic.Int32  // loops that still do
	closed    chan struct{} // the listener is
}

func newLoops(r *Relay, ln net.Listener) (driver, error) {
	// Go's poller must not have it: each connection would wake it, too.
	fd, err := duplicate(ln.(*net.TCPListener))
	if err != nil {
		return nil, err
	}
	d := &loops{r: r, listener: fd, closed: make(chan struct{})}
	for range r.cfg.Loops {
		l, err := newLoop(d)
		if err != nil {
			for _, l := range d.loops {
				l.release()
			}
			unix.Close(fd)
			return nil, err
		}
		d.loops = append(d.loops, l)
	}
	ln.Close()
	return d, nil
}

func (d *loops) start() {
	d.accepting.Store(int32(len(d.loops)))
	for _, l := range d.loops {
		d.wg.Go(l.run)
	}
}

func (d *loops) poke() {
	for _, l := range d.loops {
		l.wake()
	}
}

func (d *loops) stopAccepting() {
	for _, l := range d.loops {
		l.stopping.Store(true)
	}
	d.poke()
	<-d.closed
}

func (d *loops) wait() { d.wg.Wait() }

// least returns the loop with the fewest connections, l if it is one of them.
func (d *loops) least(l *loop) *loop {
	for _, o := range d.loops {
		if o.load.Load() < l.load.Load() {
			l = o
		}
	}
	return l
}

// loop is one epoll loop. All but the fields named otherwise belong to its
// goroutine.
type loop struct {
	d        *loops
	r        *Relay
	ep       int
	wakeup   int       // eventfd
	sockets  []*socket // by descriptor
	pairs    []*pair
	waiting  map[*pair]struct{} // have a deadline
	gen      int32
	buf      *[blockSize]byte
	free     []*[blockSize]byte
	overhead *hist.Recorder
	listens  bool
	pause    time.Time // accept no more until then
	checked  time.Time // when checkTimes was last called
	swept    time.Time // when all pairs were last looked at
	awake    time.Time // when epoll_wait last returned

	load     atomic.Int32 // connections, those in the inbox included
	stopping atomic.Bool  // accept no more
	poked    atomic.Bool

	mu    sync.Mutex
	inbox []accepted
	gone  bool // its descriptors are closed
}

type accepted struct {
	fd   int
	peer netip.AddrPort
}

// maxFree bounds the blocks that a loop keeps for reuse.
const maxFree = 16

func newLoop(d *loops) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	wakeup, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &loop{
		d: d, r: d.r, ep: ep, wakeup: wakeup, listens: true,
		waiting:  make(map[*pair]struct{}),
		buf:      new([blockSize]byte),
		overhead: d.r.cfg.Metrics.overhead.Recorder(),
	}
	if err := l.watch(unix.EPOLL_CTL_ADD, wakeup, unix.EPOLLIN, ownEvents); err != nil {
		l.release()
		return nil, err
	}
	if err := l.watch(unix.EPOLL_CTL_ADD, d.listener, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownEvents); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
	unix.Close(l.wakeup)
	unix.Close(l.ep)
}

func (l *loop) watch(op, fd int, events uint32, gen int32) error {
	err := unix.EpollCtl(l.ep, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: gen})
	if err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// wake makes the loop look around. Any goroutine may call it.
func (l *loop) wake() {
	l.poked.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return // the descriptor may be another's by now
	}
	one := [8]byte{1}
	_, _ = unix.Write(l.wakeup, one[:]) // does not block: it fails when a wake-up waits already
}

func (l *loop) run() {
	defer l.release()
	events := make([]unix.EpollEvent, 256)
	var yielder nonblock.Yielder
	for l.d.accepting.Load() > 0 || l.load.Load() > 0 {
		n, err := nonblock.EpollWait(l.ep, events, l.timeout())
		if err != nil {
			panic(fmt.Sprintf("relay: epoll_wait: %v", err)) // a bug: the arguments are ours
		}
		l.awake = time.Now()
		for _, e := range events[:n] {
			l.handle(e)
		}
		l.lookAround()
		yielder.Yield(l.awake)
	}
}

// ownEvents marks the events of the loop's own descriptors, which are no
// socket's; see socket.gen.
const ownEvents = 0

func (l *loop) handle(e unix.EpollEvent) {
	fd := int(e.Fd)
	switch {
	case e.Pad != ownEvents:
		// The descriptor may have been closed and used anew within this batch.
		if s := l.sockets[fd]; s != nil && s.gen == e.Pad {
			s.handle(e.Events)
		}
	case fd == l.wakeup:
		var count [8]byte
		_, _ = unix.Read(fd, count[:])
	case l.listens:
		l.accept()
	}
}

// timeout is how long epoll_wait may wait, in ms.
func (l *loop) timeout() int {
	if len(l.waiting) > 0 || !l.pause.IsZero() {
		return int(sweepEvery / time.Millisecond)
	}
	if period := l.r.sweepPeriod(); period > 0 && len(l.pairs) > 0 {
		return int(period / time.Millisecond)
	}
	return -1
}

// lookAround does what no socket asks for: what others put before the loop, and
// what time does.
func (l *loop) lookAround() {
	poked := l.poked.Load() && l.poked.Swap(false)
	if poked {
		l.takeInbox()
		if l.listens && l.stopping.Load() {
			l.stopListening()
		}
	}
	if l.awake.Sub(l.checked) >= sweepEvery {
		l.checked = l.awake
		l.checkTimes()
	}
	period := l.r.sweepPeriod()
	if poked || period > 0 && l.awake.Sub(l.swept) >= period {
		l.swept = l.awake
		for i := len(l.pairs) - 1; i >= 0; i-- { // closing one moves the last into its place
			l.pairs[i].sweep(l.awake)
		}
	}
}

func (l *loop) checkTimes() {
	if !l.pause.IsZero() && l.awake.After(l.pause) {
		l.pause = time.Time{}
		if l.listens {
			_ = l.watch(unix.EPOLL_CTL_ADD, l.d.listener, unix.EPOLLIN|unix.EPOLLEXCLUSIVE, ownEvents)
		}
	}
	for p := range l.waiting {
		if l.awake.After(p.deadline) {
			p.expire()
		}
	}
}

// acceptAtOnce bounds the connections accepted in one turn.
const acceptAtOnce = 64

func (l *loop) accept() {
	for range acceptAtOnce {
		if !l.acceptOne() {
			return
		}
	}
}

// acceptOne reports whether there may be more.
func (l *loop) acceptOne() bool {
	fd, sa, err := unix.Accept4(l.d.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch err {
	case nil:
	case unix.EAGAIN:
		return false
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
		// More come as connections end; meanwhile epoll would report the queue
		// again and again.
		l.r.metrics.acceptFailures.Inc()
		_ = l.watch(unix.EPOLL_CTL_DEL, l.d.listener, 0, 0)
		l.pause = time.Now().Add(sweepEvery)
		return false
	default: // the connection died in the queue
		return true
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	to := l.d.least(l)
	to.load.Add(1)
	if to == l {
		l.open(accepted{fd, fromSockaddr(sa)})
		return true
	}
	to.mu.Lock()
	to.inbox = append(to.inbox, accepted{fd, fromSockaddr(sa)})
	to.mu.Unlock()
	to.wake()
	return true
}

// stopListening empties the queue and, if it is the last to do so, closes the
// listener.
func (l *loop) stopListening() {
	for l.acceptOne() {
	}
	_ = l.watch(unix.EPOLL_CTL_DEL, l.d.listener, 0, 0)
	l.listens = false
	if l.d.accepting.Add(-1) == 0 {
		unix.Close(l.d.listener)
		close(l.d.closed)
		l.d.poke() // no loop gets another connection: those without may end
	}
}

func (l *loop) takeInbox() {
	l.mu.Lock()
	in := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, a := range in {
		l.open(a)
	}
}
