package shadow

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"
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

// conn2 is a connection that speaks HTTP/2. What its streams have to say in one
// turn of the loop is written at one go.
type conn2 struct {
	b     *Backend
	link  link
	part  []byte // of a frame whose end has not come
	frame *http2.Framer
	src   bytes.Reader // of frame: one whole frame

	streams map[uint32]*stream
	free    []*stream
	nextID  uint32
	leaving bool  // GOAWAY came, or ids ran out: no new streams
	err     error // why the connection is over

	encoder *hpack.Encoder
	repeats repeats
	block   bytes.Buffer // what encoder writes to
	out     []byte       // frames to write
	dirty   bool         // the loop will flush it
	bodies  []*stream    // of which more is to be sent

	readyBy  time.Time // when it is given up without the peer's first SETTINGS
	full     time.Time // since when the link takes nothing; zero if it does
	idleFrom time.Time // since when there are no streams

	window       int64  // what we may send on the connection
	firstWindow  int64  // what we may send on a new stream
	maxFrame     int    // largest frame that the peer takes
	maxStreams   uint32 // that the peer takes
	settled      bool   // its first SETTINGS came
	unannounced  int64  // read and not given back to the connection's window
	idleFrames   int
	lastProgress time.Time // when the peer last sent something

	decoder *hpack.Decoder
	header  headerBlock
}

// stream is one call on a conn2.
type stream struct {
	conn    *conn2
	job     *Job
	id      uint32
	grpc    bool
	head    bool // answers have no body
	answer  *Answer
	window  int64       // what we may send
	unread  int64       // read, and not given back to its window
	length  int64       // content-length of the answer, or -1
	started bool        // the final header came
	sent    bool        // the request is written to its end
	rest    []byte      // of the body, to be sent
	last    []wireField // trailer to be sent after it
}

// newConn2 returns a connection of which the preface is still to be written.
func newConn2(b *Backend) *conn2 {
	c := &conn2{
		b: b, streams: map[uint32]*stream{}, nextID: 1,
		window: firstWindow, firstWindow: firstWindow, maxFrame: minFrame, maxStreams: math.MaxInt32,
		idleFrom: time.Now(),
	}
	c.frame = http2.NewFramer(io.Discard, &c.src)
	c.frame.SetReuseFrames()
	c.frame.SetMaxReadFrameSize(minFrame)
	c.encoder = hpack.NewEncoder(&c.block)
	c.repeats.fields = map[string]hpack.HeaderField{}
	head := b.cfg.MaxHead
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

// hasRoom reports whether another stream may be opened.
func (c *conn2) hasRoom() bool {
	return c.settled && c.err == nil && !c.leaving && len(c.streams) < min(c.b.cfg.MaxStreams, int(min(c.maxStreams, math.MaxInt32)))
}

// touch has the loop flush c at the end of its turn.
func (c *conn2) touch() {
	if !c.dirty {
		c.dirty = true
		c.b.loop.dirty = append(c.b.loop.dirty, c)
	}
}

// begin starts a stream with its header and, if the windows take it, its body.
func (c *conn2) begin(j *Job) {
	st := c.newStream()
	if !c.b.write(j, st) {
		c.free = append(c.free, st)
		return
	}
	call, l := &j.Copy.Calls[j.call], c.b.loop
	st.job, st.id, st.window, st.answer = j, c.nextID, c.firstWindow, j.answer
	st.grpc, st.head = call.GRPC, string(call.Method) == "HEAD"
	if c.nextID += 2; c.nextID > maxStreamID-2 {
		c.leaving = true
	}
	c.streams[st.id] = st
	l.wire.build(c.b, j.Copy, j.call)
	l.wire.encode(c, call, c.b.scheme)
	st.sent = len(call.Body) == 0 && len(l.wire.trailer) == 0
	c.appendHeaders(st.id, st.sent)
	switch n := int64(len(call.Body)); {
	case st.sent:
	case n <= min(c.window, st.window) && n <= wholeWrite:
		c.appendBody(st, call.Body, l.wire.trailer)
	default:
		st.rest = call.Body
		for _, f := range l.wire.trailer {
			st.last = append(st.last, wireField{bytes.Clone(f.name), f.value, f.kind})
		}
		c.bodies = append(c.bodies, st)
	}
	c.touch()
}

func (c *conn2) newStream() *stream {
	n := len(c.free)
	if n == 0 {
		return &stream{conn: c, length: -1}
	}
	st := c.free[n-1]
	c.free = c.free[:n-1]
	*st = stream{conn: c, length: -1, last: st.last[:0]}
	return st
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
func (c *conn2) appendBody(st *stream, p []byte, trailer []wireField) {
	c.window -= int64(len(p))
	st.window -= int64(len(p))
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), c.maxFrame)
		var flags http2.Flags
		if n == len(p) && len(trailer) == 0 {
			flags = http2.FlagDataEndStream
		}
		c.out = append(appendFrame(c.out, http2.FrameData, flags, st.id, n), p[:n]...)
		p = p[n:]
	}
	if len(trailer) > 0 {
		c.block.Reset()
		for _, f := range trailer {
			c.encoder.WriteField(hpack.HeaderField{Name: string(f.name), Value: string(f.value)})
		}
		c.appendHeaders(st.id, true)
	}
	st.sent = true
}

// appendMore appends what windows and memory take of the bodies that are begun.
func (c *conn2) appendMore() {
	c.bodies = slices.DeleteFunc(c.bodies, func(st *stream) bool {
		for !st.sent {
			n := min(int64(len(st.rest)), c.window, st.window, int64(maxOut-len(c.out)))
			switch {
			case n == int64(len(st.rest)):
				c.appendBody(st, st.rest, st.last)
				st.rest = nil
			case n > 0:
				n = min(n, int64(c.maxFrame))
				c.window -= n
				st.window -= n
				c.out = append(appendFrame(c.out, http2.FrameData, 0, st.id, int(n)), st.rest[:n]...)
				st.rest = st.rest[n:]
			default:
				return false
			}
		}
		return true
	})
}

// flush writes what is due.
func (c *conn2) flush() {
	for c.err == nil {
		c.appendMore()
		if len(c.out) == 0 {
			return
		}
		n, err := c.link.write(c.out)
		if err != nil {
			c.fail(cut(err))
			return
		}
		left := copy(c.out, c.out[n:])
		c.out = c.out[:left]
		if left > 0 {
			if n > 0 || c.full.IsZero() {
				c.full = time.Now()
			}
			return
		}
		c.full = time.Time{}
		if cap(c.out) > 2*maxOut {
			c.out = nil
		}
	}
}

// room implements speaker.
func (c *conn2) room() { c.flush() }

// finish ends a stream.
func (c *conn2) finish(st *stream, err error) {
	delete(c.streams, st.id)
	if err == nil {
		st.answer.end(c.lastProgress, st.grpc)
	}
	if len(c.streams) == 0 {
		c.idleFrom = time.Now()
	}
	if !st.sent {
		c.bodies = slices.DeleteFunc(c.bodies, func(other *stream) bool { return other == st })
	}
	j := st.job
	st.job, st.answer, st.rest = nil, nil, nil
	c.free = append(c.free, st)
	c.leave()
	c.b.done(j, err)
	c.b.http2.dispatch(c.b)
}

// giveUp implements carrier. A peer that has said nothing since the call began
// may be gone without a word: it gets no other.
func (st *stream) giveUp(j *Job, err error) {
	c := st.conn
	if err == ErrTimeout {
		c.leaving = c.leaving || !c.lastProgress.After(j.answer.Sent)
	}
	c.reset(st, http2.ErrCodeCancel, err)
}

var errGoAway = fmt.Errorf("%w: peer goes away", ErrCut)

// leave closes a connection that takes no more calls after its last one.
func (c *conn2) leave() {
	if c.leaving && len(c.streams) == 0 {
		c.fail(errGoAway)
	}
}

// reset ends a stream by RST_STREAM.
func (c *conn2) reset(st *stream, code http2.ErrCode, err error) {
	c.out = appendReset(c.out, st.id, code)
	c.touch()
	c.finish(st, err)
}

// fail implements speaker.
func (c *conn2) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	c.link.close()
	c.b.http2.remove(c)
	for _, st := range c.streams {
		c.finish(st, err)
	}
}
