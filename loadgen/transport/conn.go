package transport

// duplex is what every protocol's connection has: bytes to write, calls that ended.
type duplex struct {
	out   []byte
	ended []*Call
}

func (d *duplex) io() *duplex { return d }

// A protocol is the client's side of one connection, without the I/O.
type protocol interface {
	io() *duplex
	// ready says that calls may start.
	ready() bool
	// room is how many more calls may start now.
	room() int
	// retired says that no more calls may ever start.
	retired() bool
	// start encodes a call. There must be room.
	start(c *Call)
	// receive reads what came. After an error the connection must be closed.
	receive(b []byte) error
	// written says that all output was taken.
	written()
	// eof says that the peer sends no more.
	eof()
	// lost ends all calls: the connection is gone.
	lost(class Class)
	// cancel forgets a call; the caller has given it up.
	cancel(c *Call)
}

// A link carries a connection's bytes.
type link interface {
	// send takes what it can of p without waiting.
	send(p []byte) (int, error)
	close()
}

type connState uint8

const (
	dialing connState = iota
	greeting
	open
	closed
)

// conn is one connection of a Pool.
type conn struct {
	pool   *Pool
	state  connState
	proto  protocol
	link   link
	user   uint64
	queue  list[Call, *Call] // waits for this connection and no other
	active int
	begun  int // calls started in its life

	written uint64 // bytes handed to the link in its life
	unsent  []*Call
	dirty   bool        // on pool.dirty
	blocked bool        // the link takes no more until writable
	links   links[conn] // of pool.ready

	// The poller's own.
	fd   int
	slot int
}

// room is how many more calls k may take now.
func (k *conn) room() int {
	if k.state != open || k.worn() {
		return 0
	}
	n := k.proto.room()
	if most := k.pool.cfg.CallsPerConn; most > 0 {
		n = min(n, most-k.begun)
	}
	return n
}

// worn says that k takes no more calls.
func (k *conn) worn() bool {
	most := k.pool.cfg.CallsPerConn
	return k.proto.retired() || most > 0 && k.begun >= most
}

func (k *conn) start(c *Call) {
	d := k.proto.io()
	c.conn = k
	c.Tried = true
	c.offset = k.written + uint64(len(d.out))
	k.active++
	k.begun++
	k.unsent = append(k.unsent, c)
	k.proto.start(c)
	k.touch()
	k.pool.busier(k)
}

// touch has k's output written at the next flush.
func (k *conn) touch() {
	if !k.dirty && !k.blocked && len(k.proto.io().out) > 0 {
		k.dirty = true
		k.pool.dirty = append(k.pool.dirty, k)
	}
}

// flush writes what it can.
func (k *conn) flush() {
	k.dirty = false
	if k.state == closed || k.blocked {
		return
	}
	d := k.proto.io()
	if len(d.out) == 0 {
		return
	}
	now := k.pool.clock.Now()
	n, err := k.link.send(d.out)
	k.written += uint64(n)
	i := 0
	for ; i < len(k.unsent) && k.unsent[i].offset < k.written; i++ {
		if c := k.unsent[i]; c.Sent < 0 { // one that is sent again keeps its first time
			c.Sent = now
		}
	}
	k.unsent = k.unsent[:copy(k.unsent, k.unsent[i:])]
	switch {
	case err != nil:
		k.lose(Reset)
	case n < len(d.out):
		d.out = d.out[:copy(d.out, d.out[n:])]
		k.blocked = true
	default:
		d.out = d.out[:0]
		k.proto.written()
		k.touch()
	}
}

// writable says that the link takes bytes again.
func (k *conn) writable() {
	k.blocked = false
	k.touch()
}

// connected says that the link is up.
func (k *conn) connected() {
	k.state = greeting
	k.proto = k.pool.speak()
	k.settle()
}

// received hands over what came.
func (k *conn) received(b []byte) {
	if k.state == closed {
		return
	}
	if err := k.proto.receive(b); err != nil {
		k.refuse(Malformed)
		k.proto.lost(Malformed)
		k.flush() // what the protocol wants to say last; an error changes nothing
		k.shut()
		return
	}
	k.settle()
}

// eof says that the peer has closed its side, which ends the connection.
func (k *conn) eof() {
	if k.state != closed && k.proto != nil {
		k.proto.eof()
	}
	k.lose(Reset)
}

// lose closes k, whose link has failed.
func (k *conn) lose(class Class) {
	if k.state == closed {
		return
	}
	k.refuse(class)
	if k.proto != nil {
		k.proto.lost(class)
	}
	k.shut()
}

// refuse ends the call that k was opened for, if it never got as far. Others
// that wait for k may try another connection.
func (k *conn) refuse(class Class) {
	if k.state == open {
		return
	}
	if c := k.queue.pop(); c != nil {
		c.Class = class
		k.pool.finish(c)
	}
}

// shut closes k and finds another place for the calls that waited for it.
func (k *conn) shut() {
	if k.state == closed {
		return
	}
	if k.proto != nil {
		k.report()
	}
	was := k.state
	k.state = closed
	k.link.close()
	k.pool.gone(k, was)
	for c := k.queue.pop(); c != nil; c = k.queue.pop() {
		k.pool.again(c)
	}
}

// report hands back the calls that ended.
func (k *conn) report() {
	d := k.proto.io()
	for i, c := range d.ended {
		d.ended[i] = nil
		k.active--
		k.forget(c)
		c.conn = nil
		if c.refused && !c.retried && c.Class == Reset {
			c.retried, c.refused = true, false
			k.pool.again(c)
			continue
		}
		k.pool.finish(c)
	}
	d.ended = d.ended[:0]
}

// forget drops c from the calls whose first byte has not been written.
func (k *conn) forget(c *Call) {
	for i, u := range k.unsent {
		if u == c {
			k.unsent = append(k.unsent[:i], k.unsent[i+1:]...)
			return
		}
	}
}

// settle brings k's affairs in order after anything happened to it.
func (k *conn) settle() {
	k.report()
	if k.state == closed {
		return
	}
	if k.state == greeting && k.proto.ready() {
		k.state = open
		k.pool.opened.Add(1)
	}
	for k.queue.head != nil && k.room() > 0 {
		k.start(k.queue.pop())
	}
	if k.state == open && k.worn() && k.active == 0 {
		k.touch()
		if k.dirty {
			k.flush()
		}
		k.shut()
		return
	}
	k.touch()
	k.pool.offer(k)
}

// cancel takes back a call that k has started.
func (k *conn) cancel(c *Call) {
	k.active--
	k.forget(c)
	k.proto.cancel(c)
	c.conn = nil
	k.settle()
}

func (c *Call) keep(p []byte, most int) {
	if n := min(len(p), most-len(c.Answer)); n > 0 {
		c.Answer = append(c.Answer, p[:n]...)
	}
}
