package shadow

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Handler is told what becomes of a Job, on the goroutine of its Loop. It must
// not block.
type Handler interface {
	// Begin is called once, just before the first byte is written, or when a
	// connection could not be made. Where it returns false nothing is written.
	Begin() bool
	// End is the last call. An error means that nothing was sent: ErrOpen,
	// ErrBusy, ErrDropped, ErrCanceled, or one that says which call can't be
	// written. Otherwise the copy is sent, and each answer of the outcome says
	// how its call ended.
	End(err error)
}

// Job is a copy that is to be sent to one role. The caller fills in the exported
// fields, and changes neither them nor what they refer to until End.
type Job struct {
	Backend *Backend
	Copy    *Copy
	Outcome *Outcome
	Handler Handler

	call   int     // number of the one that is made
	answer *Answer // its
	begun  bool
	due    int64 // when it has taken too long, ns of the Unix epoch
	on     carrier
	queued element
}

// carrier is the connection, or the stream, that a call is on.
type carrier interface {
	// giveUp ends the call, and tells of err as its end.
	giveUp(j *Job, err error)
}

// LoopConfig describes a Loop.
type LoopConfig struct {
	// Next returns a copy that is to be sent now, or nil. It is called on the
	// goroutine of the Loop: after Wake, and when calls have ended.
	Next func() *Job
	// Panicked is told of a panic in what the Loop does, which then goes on
	// without the connection at fault. Nil lets it panic.
	Panicked func(v any)
	// Portable reads and writes by goroutines even where there is epoll.
	Portable bool
}

// Loop sends the copies of a mirror, and reads what is answered, all on one
// goroutine: copies that are due together leave together, and what one wake-up
// finds to do it does, so that a copy costs little more than its system calls.
type Loop struct {
	cfg      LoopConfig
	backends []*Backend
	poller   poller // from Run on
	// life ends with Run, and with it the connects under way.
	life context.Context
	stop context.CancelFunc

	poked atomic.Bool // there is something for Next
	sleep atomic.Bool // a poke has to wake the loop

	mu    sync.Mutex
	inbox []func() // what other goroutines want done
	ended bool     // nothing is done any more

	// The rest belongs to the goroutine of Run.
	now     int64 // when poller last returned, ns of the Unix epoch
	helpers int   // goroutines that will come back by the inbox
	wire    wire
	out     []byte
	dirty   []*conn2
	recent  int64 // when a copy was last taken
}

// poller waits for what connections bring. Only the goroutine of Run calls it,
// but for wake.
type poller interface {
	// attach takes over a connection, of which it tells s from then on.
	attach(conn net.Conn, s speaker) (link, error)
	// wait returns when it has told of something, at wake, or after most;
	// negative is without end. It sets Loop.now before it tells of anything.
	wait(most time.Duration)
	wake()
	close()
	// lull is how long a copy may wait for others to leave with.
	lull() time.Duration
}

// link moves the bytes of a connection.
type link interface {
	// write takes what it can of p at once, and returns how much that was. When
	// it was not all, its speaker is told when there is room. It keeps nothing of p.
	write(p []byte) (int, error)
	// close ends the connection, of which nothing more is told.
	close()
}

// speaker speaks a protocol on a link.
type speaker interface {
	// take takes bytes that came at at. They are only lent.
	take(p []byte, at time.Time)
	// end says that no more come: io.EOF, or why.
	end(err error)
	// room says that the link may take more.
	room()
	// fail gives the connection up, and ends its calls with err.
	fail(err error)
}

// NewLoop returns the Loop of backends that are in no other.
func NewLoop(cfg LoopConfig, backends ...*Backend) *Loop {
	l := &Loop{cfg: cfg, backends: backends}
	l.life, l.stop = context.WithCancel(context.Background())
	for _, b := range backends {
		b.loop = l
	}
	return l
}

// Wake says that Next has something, and costs little if the loop is awake. Any
// goroutine may call it.
func (l *Loop) Wake() {
	if !l.poked.Load() && !l.poked.Swap(true) && l.sleep.Load() {
		l.wakeAnyway()
	}
}

// post has f done on the goroutine of Run.
func (l *Loop) post(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.inbox = append(l.inbox, f)
	l.poller.wake()
}

// Run sends until ctx ends. Then it cancels the calls under way, closes all
// connections, and returns when nothing of it runs any more. It may be run again
// after a panic, not after its end.
func (l *Loop) Run(ctx context.Context) error {
	l.open()
	defer context.AfterFunc(ctx, l.wakeAnyway)()
	for ctx.Err() == nil {
		l.poll()
		l.poked.Store(false)
		l.takeInbox()
		l.expire()
		l.send()
		l.flush()
	}
	l.stop()
	for _, b := range l.backends {
		b.shut()
	}
	for l.helpers > 0 {
		l.poller.wait(-1)
		l.takeInbox()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.poller.close()
	return nil
}

func (l *Loop) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.poller == nil {
		l.poller = newPoller(l, l.cfg.Portable)
	}
}

func (l *Loop) wakeAnyway() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.poller.wake()
	}
}

// busyFor is for how long after a copy the loop looks for the next by itself
// rather than have each wake it, which costs whoever offers one.
const busyFor = 10 * time.Millisecond

// poll waits for something to do.
func (l *Loop) poll() {
	most := l.untilDue()
	if lull := l.poller.lull(); lull > 0 && l.now-l.recent < int64(busyFor) {
		if most < 0 || most > lull {
			most = lull
		}
		l.poller.wait(most)
	} else {
		l.sleep.Store(true)
		if l.poked.Load() {
			most = 0
		}
		l.poller.wait(most)
		l.sleep.Store(false)
	}
}

func (l *Loop) takeInbox() {
	l.mu.Lock()
	in := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, f := range in {
		f()
	}
}

// send begins what is to be sent now.
func (l *Loop) send() {
	if l.cfg.Next == nil {
		return
	}
	taken := false
	for j := l.cfg.Next(); j != nil; j = l.cfg.Next() {
		j.Backend.begin(j)
		taken = true
	}
	if taken {
		l.recent = l.now
	}
}

// flush writes what is due on the connections that calls share.
func (l *Loop) flush() {
	for len(l.dirty) > 0 {
		dirty := l.dirty
		l.dirty = nil
		for _, c := range dirty {
			c.dirty = false
			l.roomy(c)
		}
		if l.dirty == nil {
			l.dirty = dirty[:0]
		}
	}
}

// guard runs f on behalf of a connection, which a panic ends.
func (l *Loop) guard(s speaker, f func()) {
	defer l.recovered(s)
	f()
}

func (l *Loop) recovered(s speaker) {
	if l.cfg.Panicked == nil {
		return
	}
	if v := recover(); v != nil {
		l.cfg.Panicked(v)
		s.fail(ErrCanceled)
	}
}

// taken, over and roomy tell a speaker what its link has to say.

func (l *Loop) taken(s speaker, p []byte, at time.Time) {
	defer l.recovered(s)
	s.take(p, at)
}

func (l *Loop) over(s speaker, err error) {
	defer l.recovered(s)
	s.end(err)
}

func (l *Loop) roomy(s speaker) {
	defer l.recovered(s)
	s.room()
}

// untilDue is how long nothing has to be given up, negative for ever.
func (l *Loop) untilDue() time.Duration {
	at := int64(0)
	for _, b := range l.backends {
		at = sooner(at, b.nextDue())
	}
	if at == 0 {
		return -1
	}
	return max(0, time.Duration(at-time.Now().UnixNano()))
}

// sooner is the earlier of two instants, of which 0 is none.
func sooner(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// expire gives up what has taken too long.
func (l *Loop) expire() {
	for _, b := range l.backends {
		b.expire(l.now)
	}
}

// dial makes a connection beside the loop, which is then told of it.
func (l *Loop) dial(b *Backend, http2 bool, then func(conn net.Conn, err error)) {
	l.helpers++
	go func() {
		ctx, cancel := context.WithTimeout(l.life, b.cfg.ConnectTimeout)
		defer cancel()
		conn, err := b.dial(ctx, http2)
		l.post(func() {
			l.helpers--
			if err == nil && l.life.Err() != nil {
				conn.Close()
				conn, err = nil, ErrCanceled
			}
			then(conn, err)
		})
	}()
}

// list is of jobs, in the order in which they are due.
type list struct{ head, tail *Job }

type element struct {
	in         *list
	prev, next *Job
}

func (l *list) push(j *Job) {
	j.queued = element{in: l, prev: l.tail}
	if l.tail == nil {
		l.head = j
	} else {
		l.tail.queued.next = j
	}
	l.tail = j
}

// leave takes j out of the list that it is in, if it is in one.
func (j *Job) leave() {
	l, e := j.queued.in, j.queued
	if l == nil {
		return
	}
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.queued.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.queued.prev = e.prev
	}
	j.queued = element{}
}

// goroutines is the poller for connections of any kind, on any system: a
// goroutine reads each, and another writes it.
type goroutines struct {
	l     *Loop
	awake chan struct{} // of one
	timer *time.Timer
}

func newGoroutines(l *Loop) *goroutines {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return &goroutines{l, make(chan struct{}, 1), t}
}

func (g *goroutines) lull() time.Duration { return 0 }
func (g *goroutines) close()              {}

func (g *goroutines) wake() {
	select {
	case g.awake <- struct{}{}:
	default: // it is being woken
	}
}

func (g *goroutines) wait(most time.Duration) {
	defer func() { g.l.now = time.Now().UnixNano() }()
	if most < 0 {
		<-g.awake
		return
	}
	g.timer.Reset(most)
	select {
	case <-g.awake:
		g.timer.Stop()
	case <-g.timer.C:
	}
}

func (g *goroutines) attach(conn net.Conn, s speaker) (link, error) {
	return attachPipe(g.l, conn, s), nil
}

// pipe is a link of two goroutines.
type pipe struct {
	l      *Loop
	s      speaker
	conn   net.Conn
	writes chan []byte   // of one
	resume chan struct{} // of one; the reader may use its buffer again

	busy   bool   // the writer has buf
	buf    []byte // what is written
	err    error  // of writing
	closed bool
}

const (
	// pipeRead and pipeWrite bound the bytes of one turn.
	pipeRead  = 16 << 10
	pipeWrite = 64 << 10
)

func attachPipe(l *Loop, conn net.Conn, s speaker) *pipe {
	k := &pipe{l: l, s: s, conn: conn, writes: make(chan []byte, 1), resume: make(chan struct{}, 1)}
	l.helpers += 2
	go k.readAll()
	go k.writeAll()
	return k
}

func (k *pipe) readAll() {
	buf := make([]byte, pipeRead)
	for err := error(nil); err == nil; {
		var n int
		n, err = k.conn.Read(buf)
		at := time.Now()
		k.l.post(func() { k.have(buf[:n], at, err) })
		<-k.resume
	}
}

// have takes what was read.
func (k *pipe) have(p []byte, at time.Time, err error) {
	if len(p) > 0 && !k.closed {
		k.l.taken(k.s, p, at)
	}
	if err != nil && !k.closed {
		k.l.over(k.s, err)
	}
	if err != nil {
		k.l.helpers--
	}
	k.resume <- struct{}{}
}

func (k *pipe) writeAll() {
	for p := range k.writes {
		_, err := k.conn.Write(p)
		k.l.post(func() { k.wrote(err) })
	}
	k.l.post(func() { k.l.helpers-- })
}

func (k *pipe) wrote(err error) {
	k.busy, k.err = false, err
	if !k.closed {
		k.l.roomy(k.s)
	}
}

func (k *pipe) write(p []byte) (int, error) {
	if k.err != nil || k.closed {
		return 0, io.ErrClosedPipe
	}
	if k.busy {
		return 0, nil
	}
	n := min(len(p), pipeWrite)
	k.buf, k.busy = append(k.buf[:0], p[:n]...), true
	k.writes <- k.buf
	return n, nil
}

func (k *pipe) close() {
	if !k.closed {
		k.closed = true
		k.conn.Close()
		close(k.writes)
	}
}
