package shadow

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// The windows that we grant. All that comes is read at once, so they bound
	// what a peer may send after a stream is given up, and no memory.
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	// The protocol's own (RFC 9113 §6.5.2, §6.9.2).
	firstWindow = 65535
	minFrame    = 16384
	maxFrame    = 1<<24 - 1
	maxWindow   = 1<<31 - 1
	maxStreamID = 1<<31 - 1
	frameHeader = 9
	maxTable    = 4096
	// maxIdleFrames bounds the frames of a peer that move nothing, one after
	// another: PING, SETTINGS, PRIORITY, and what comes for a stream that is over.
	maxIdleFrames = 4096
	// maxOut is how much may wait to be written before bodies wait, in bytes.
	maxOut = 256 << 10
	// maxPending is when a peer that makes us answer and reads nothing is given up.
	maxPending = 1 << 20
)

// conn2 is a connection that speaks HTTP/2. One goroutine reads it; calls write
// what they have by themselves, and whoever finds nobody writing writes for all.
type conn2 struct {
	conn  net.Conn
	limit int           // streams that we open at most
	ready chan struct{} // closed when the peer's first SETTINGS came, or it will not
	read  *batchReader
	br    *bufio.Reader
	frame *http2.Framer

	mu       sync.Mutex // guards the rest
	streams  map[uint32]*stream
	reserved int // streams that are about to be opened
	nextID   uint32
	leaving  bool   // GOAWAY came, or ids ran out: no new streams
	err      error  // why the connection is over
	freed    func() // tells those who wait that there is room

	encoder  *hpack.Encoder
	repeats  repeats
	block    bytes.Buffer // what encoder writes to
	out      []byte       // frames to write
	spare    []byte       // the other buffer
	writing  time.Time    // since when somebody writes; zero when nobody does
	idleFrom time.Time    // since when there are no streams

	window       int64  // what we may send on the connection
	firstWindow  int64  // what we may send on a new stream
	maxFrame     int    // largest frame that the peer takes
	maxStreams   uint32 // that the peer takes
	settled      bool   // its first SETTINGS came
	blocked      int    // streams that wait for a window, or to be written
	unannounced  int64  // read and not given back to the connection's window
	idleFrames   int
	lastProgress time.Time // when the peer last sent something

	// The reader's own.
	decoder *hpack.Decoder
	header  headerBlock
}

// stream is one call on a conn2, guarded by its mu until it is over.
type stream struct {
	conn    *conn2
	id      uint32
	due     time.Time
	grpc    bool
	head    bool // answers have no body
	answer  *Answer
	window  int64 // what we may send
	unread  int64 // read, and not given back to its window
	length  int64 // content-length of the answer, or -1
	started bool  // the final header came
	sent    bool  // the request is written to its end
	over    bool
	done    chan error    // of one; gets a value when over
	wake    chan struct{} // of one; window, room to write, or over
}

// batchReader notes when bytes came.
type batchReader struct {
	conn io.Reader
	now  time.Time
}

func (r *batchReader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	r.now = time.Now()
	return n, err
}

// newConn2 returns a connection of which the preface is still to be written.
func newConn2(conn net.Conn, limit, head int, freed func()) *conn2 {
	read := &batchReader{conn: conn}
	br := bufio.NewReaderSize(read, 32<<10)
	c := &conn2{
		conn: conn, limit: limit, read: read, br: br, frame: http2.NewFramer(io.Discard, br),
		streams: map[uint32]*stream{}, nextID: 1, freed: freed,
		window: firstWindow, firstWindow: firstWindow, maxFrame: minFrame, maxStreams: math.MaxInt32, ready: make(chan struct{}),
		idleFrom: time.Now(),
	}
	c.frame.SetReuseFrames()
	c.frame.SetMaxReadFrameSize(minFrame)
	c.encoder = hpack.NewEncoder(&c.block)
	c.repeats.fields = map[string]hpack.HeaderField{}
	c.header.max = head
	c.decoder = hpack.NewDecoder(maxTable, c.header.add)
	c.decoder.SetMaxStringLength(head)
	c.out = append(c.out, http2.ClientPreface...)
	c.out = appendFrame(c.out, http2.FrameSettings, 0, 0, 18)
	for _, s := range [...]http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(head)},
	} {
		c.out = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(c.out, uint16(s.ID)), s.Val)
	}
	c.out = appendWindowUpdate(c.out, 0, connWindow-firstWindow)
	return c
}

func appendFrame(dst []byte, t http2.FrameType, flags http2.Flags, id uint32, length int) []byte {
	dst = append(dst, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(dst, id)
}

func appendWindowUpdate(dst []byte, id uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, http2.FrameWindowUpdate, 0, id, 4), uint32(n))
}

func appendReset(dst []byte, id uint32, code http2.ErrCode) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(dst, http2.FrameRSTStream, 0, id, 4), uint32(code))
}

// room reports whether another stream may be opened; mu is held.
func (c *conn2) room() bool {
	return c.settled && c.err == nil && !c.leaving && len(c.streams)+c.reserved < min(c.limit, int(min(c.maxStreams, math.MaxInt32)))
}

// call makes one call on a stream that was reserved.
func (c *conn2) call(b *Backend, call *Call, s *scratch, a *Answer) error {
	st := &s.stream
	*st = stream{conn: c, due: a.Sent.Add(b.cfg.Timeout), grpc: call.GRPC, head: string(call.Method) == "HEAD",
		answer: a, length: -1, done: st.done, wake: st.wake}
	rest, err := c.open(st, call, s, b.scheme)
	if err == nil {
		c.flush()
		for rest != nil {
			rest = c.send(st, s, rest)
			c.flush()
		}
		err = <-st.done
	}
	select {
	case <-st.wake: // one too many, which is not for the next call
	default:
	}
	return err
}

// open starts a stream with its header and, if the windows take it, its body.
// It returns what is left of the body.
func (c *conn2) open(st *stream, call *Call, s *scratch, scheme string) (rest []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved--
	switch {
	case c.err != nil:
		return nil, c.err
	case c.leaving:
		c.leave()
		return nil, errGoAway
	}
	st.id, st.window = c.nextID, c.firstWindow
	if c.nextID += 2; c.nextID > maxStreamID-2 {
		c.leaving = true
	}
	c.streams[st.id] = st
	s.wire.encode(c, call, scheme)
	alone := len(call.Body) == 0 && len(s.wire.trailer) == 0
	c.appendHeaders(st.id, alone)
	st.sent = alone
	if n := int64(len(call.Body)); !alone && n <= min(c.window, st.window) && n <= wholeWrite {
		c.appendBody(st, s, call.Body)
		return nil, nil
	}
	return call.Body, nil
}

// encode puts the header of a call into c.block; c.mu is held.
func (w *wire) encode(c *conn2, call *Call, scheme string) {
	c.block.Reset()
	// The encoder, which may have a table size to tell first, begins each block.
	c.encoder.WriteField(hpack.HeaderField{Name: ":scheme", Value: scheme})
	c.encode(methodName, call.Method, plain)
	c.encode(authorityName, w.authority, plain)
	c.encode(pathName, call.Target, plain)
	for i := range w.fields {
		c.encode(w.fields[i].name, w.fields[i].value, w.fields[i].kind)
	}
}

var methodName, authorityName, pathName = []byte(":method"), []byte(":authority"), []byte(":path")

// repeats tells fields that come again from those that are new with each call.
// Only the former are worth a place in the table that the peer keeps, and a
// string of ours.
type repeats struct {
	fields map[string]hpack.HeaderField // by "name:value"
	seen   [256]uint64                  // hashes of fields seen once
	key    []byte
}

const maxRepeats = 256

// find returns the field if it has come before.
func (r *repeats) find(name, value []byte) (f hpack.HeaderField, ok bool) {
	r.key = append(append(append(r.key[:0], name...), ':'), value...)
	if f, ok = r.fields[string(r.key)]; ok || len(r.fields) == maxRepeats {
		return f, ok
	}
	hash := xxh3.Hash(r.key)
	slot := &r.seen[hash%uint64(len(r.seen))]
	if *slot != hash {
		*slot = hash
		return f, false
	}
	f = hpack.HeaderField{Name: string(name), Value: string(value)}
	r.fields[string(r.key)] = f
	return f, true
}

// encode appends a field to c.block: by the table if it has come before, as a
// literal without one (RFC 7541 §6.2.2, §6.2.3) if it is new or secret.
func (c *conn2) encode(name, value []byte, k kind) {
	literal := byte(0)
	if k == secret {
		literal = 0x10
	} else if f, ok := c.repeats.find(name, value); ok {
		c.encoder.WriteField(f)
		return
	}
	c.block.WriteByte(literal)
	c.writeString(name)
	c.writeString(value)
}

// writeString appends a string literal (RFC 7541 §5.2), as it is.
func (c *conn2) writeString(s []byte) {
	n := len(s)
	if n < 127 {
		c.block.WriteByte(byte(n))
	} else {
		c.block.WriteByte(127)
		for n -= 127; n >= 128; n >>= 7 {
			c.block.WriteByte(byte(n) | 128)
		}
		c.block.WriteByte(byte(n))
	}
	c.block.Write(s)
}

// appendHeaders appends c.block as HEADERS and CONTINUATION.
func (c *conn2) appendHeaders(id uint32, end bool) {
	block := c.block.Bytes()
	t, flags := http2.FrameHeaders, http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	for {
		n := min(len(block), c.maxFrame)
		if n == len(block) {
			flags |= http2.FlagHeadersEndHeaders
		}
		c.out = append(appendFrame(c.out, t, flags, id, n), block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return
		}
		t, flags = http2.FrameContinuation, 0
	}
}

// appendBody appends the end of a body, for which there is room in the windows.
func (c *conn2) appendBody(st *stream, s *scratch, p []byte) {
	c.window -= int64(len(p))
	st.window -= int64(len(p))
	trailer := len(s.wire.trailer) > 0
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), c.maxFrame)
		var flags http2.Flags
		if n == len(p) && !trailer {
			flags = http2.FlagDataEndStream
		}
		c.out = append(appendFrame(c.out, http2.FrameData, flags, st.id, n), p[:n]...)
		p = p[n:]
	}
	if trailer {
		c.block.Reset()
		for _, f := range s.wire.trailer {
			c.encoder.WriteField(hpack.HeaderField{Name: string(f.name), Value: string(f.value)})
		}
		c.appendHeaders(st.id, true)
	}
	st.sent = true
}

// send appends more of a large body, and waits until it can. It returns what
// is left: nil if there is nothing, or if the stream is over.
func (c *conn2) send(st *stream, s *scratch, rest []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !st.over {
		n := min(int64(len(rest)), c.window, st.window, int64(maxOut-len(c.out)))
		switch {
		case n == int64(len(rest)):
			c.appendBody(st, s, rest)
			return nil
		case n > 0:
			n = min(n, int64(c.maxFrame))
			c.window -= n
			st.window -= n
			c.out = append(appendFrame(c.out, http2.FrameData, 0, st.id, int(n)), rest[:n]...)
			return rest[n:]
		}
		c.blocked++
		c.mu.Unlock()
		<-st.wake
		c.mu.Lock()
		c.blocked--
	}
	return nil
}

// unblock wakes the streams that wait to send; mu is held.
func (c *conn2) unblock() {
	if c.blocked == 0 {
		return
	}
	for _, st := range c.streams {
		st.poke()
	}
}

func (st *stream) poke() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// flush writes what is due, unless somebody does so already. It first gives way
// once: other calls that are due then get on the same write, of which each costs
// more than all the rest of a call. (A third more calls a second in BenchmarkSend.)
func (c *conn2) flush() {
	runtime.Gosched()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writing.IsZero() {
		return
	}
	for len(c.out) > 0 && c.err == nil {
		out := c.out
		c.out, c.spare = c.spare[:0], nil
		c.writing = time.Now()
		err := c.write(out)
		if cap(out) <= 2*maxOut {
			c.spare = out[:0]
		}
		if err != nil {
			c.fail(cut(err))
		}
		c.unblock()
	}
	c.writing = time.Time{}
}

// write writes without mu, which is held before and after.
func (c *conn2) write(out []byte) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	_, err := c.conn.Write(out)
	return err
}

// finish ends a stream; mu is held.
func (c *conn2) finish(st *stream, err error) {
	delete(c.streams, st.id)
	if err == nil {
		st.answer.end(c.read.now, st.grpc)
	}
	if len(c.streams) == 0 {
		c.idleFrom = time.Now()
	}
	st.over = true
	st.done <- err
	if !st.sent {
		st.poke()
	}
	c.leave()
	c.freed()
}

var errGoAway = fmt.Errorf("%w: peer goes away", ErrCut)

// leave closes a connection that takes no more calls after its last one; mu is
// held.
func (c *conn2) leave() {
	if c.leaving && len(c.streams)+c.reserved == 0 {
		c.fail(errGoAway)
	}
}

// reset ends a stream by RST_STREAM; mu is held.
func (c *conn2) reset(st *stream, code http2.ErrCode, err error) {
	c.out = appendReset(c.out, st.id, code)
	c.finish(st, err)
}

// fail ends the connection and all that is on it; mu is held.
func (c *conn2) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.conn.Close()
	c.settle()
	for _, st := range c.streams {
		c.finish(st, err)
	}
	c.freed()
}

// end is fail for who does not hold mu.
func (c *conn2) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail(err)
}

// settle closes ready, once; mu is held.
func (c *conn2) settle() {
	if !c.settled {
		c.settled = true
		close(c.ready)
	}
}

// sweep ends streams that are overdue. If the peer has said nothing since such
// a stream was opened, no others are opened: it may be gone without a word. It
// reports whether something is left to be written.
func (c *conn2) sweep(now time.Time, timeout, idleFor time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, st := range c.streams {
		if !now.Before(st.due) {
			c.leaving = c.leaving || !c.lastProgress.After(st.answer.Sent)
			c.reset(st, http2.ErrCodeCancel, ErrTimeout)
		}
	}
	switch {
	case !c.writing.IsZero() && now.Sub(c.writing) >= timeout:
		c.fail(ErrTimeout) // it takes nothing
	case len(c.streams)+c.reserved == 0 && now.Sub(c.idleFrom) > idleFor:
		c.fail(ErrCanceled)
	}
	return len(c.out) > 0 && c.writing.IsZero() && c.err == nil
}
