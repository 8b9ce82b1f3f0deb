package observe

import (
	"encoding/binary"
	"time"

	"golang.org/x/net/http2/hpack"
)

// connHTTP2 reads the two directions of an HTTP/2 connection. Frames are read here
// rather than by x/net/http2.Framer, which pulls whole frames from a Reader:
// the observer is fed with chunks that end anywhere, and must not hold a frame
// of DATA to look at it.
type connHTTP2 struct {
	from    [2]flow
	streams map[uint32]*Exchange
	newest  uint32 // highest stream the client opened
	goaway  uint32 // highest stream that live will process

	idle      int       // frames in a row that moved nothing
	idleSince time.Time // when that row began
}

// flow reads the frames that one side sends.
type flow struct {
	at      [frameHeader]byte
	got     int    // bytes of the frame header that have come
	left    int    // payload bytes to come
	collect int    // payload bytes wanted before the frame can be read
	part    []byte // of those, what came in earlier chunks

	typ     byte
	flags   byte
	stream  uint32
	pad     int       // DATA: trailing padding
	data    *Exchange // DATA: whose body; nil for one that is gone
	settled bool      // the first frame was SETTINGS

	maxFrame int // largest payload the receiver allows

	// The field block being read, if inBlock.
	inBlock  bool
	block    []byte    // fragments of a block that CONTINUATION ends
	blockOf  uint32    // stream
	blockEnd bool      // END_STREAM
	promise  bool      // the block is a PUSH_PROMISE's
	began    time.Time // when its first frame began

	dec  *hpack.Decoder
	list fieldList

	table      uint32    // dynamic table size the encoder of this side uses
	tableLimit uint32    // acknowledged limit on it
	shrinkTo   uint32    // the next block must begin with an update to at most this
	unacked    []setting // SETTINGS the other side sent and this one did not acknowledge
}

// setting is one SETTINGS frame, as far as HPACK goes.
type setting struct {
	table uint32
	has   bool
}

const (
	frameHeader  = 9
	frameData    = 0x0
	frameHeaders = 0x1
	frameRST     = 0x3
	frameSetting = 0x4
	framePush    = 0x5
	frameGoAway  = 0x7
	frameCont    = 0x9

	flagEndStream  = 0x1 // DATA, HEADERS
	flagAck        = 0x1 // SETTINGS
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTable    = 0x1
	settingMaxFrame = 0x5

	codeRefused = 0x7

	initialTable = 4096      // RFC 9113 §6.5.2
	mostTable    = 64 << 10  // what we follow
	initialFrame = 16 << 10  // RFC 9113 §6.5.2
	mostFrame    = 1<<24 - 1 // RFC 9113 §6.5.2
	noShrink     = 1<<32 - 1
	maxUnacked   = 64
	maxSettings  = 6 * 128 // bytes of one SETTINGS frame
	// maxIdle frames that move nothing within a second are a flood: no peer
	// needs that many PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown or empty
	// frames between two that carry something.
	maxIdle = 10_000
)

func newHTTP2(c *Conn) *connHTTP2 {
	h := &connHTTP2{streams: map[uint32]*Exchange{}, goaway: 1<<32 - 1}
	for side := range h.from {
		f := &h.from[side]
		f.maxFrame, f.table, f.tableLimit, f.shrinkTo = initialFrame, initialTable, initialTable, noShrink
		f.list.limit = c.o.maxHead
		f.dec = hpack.NewDecoder(initialTable, f.list.add)
		f.dec.SetMaxStringLength(c.o.maxHead)
		f.dec.SetAllowedMaxDynamicTableSize(0) // updates are read by tableUpdates
	}
	return h
}

func (c *Conn) feed2(side Side, now time.Time, p []byte) {
	f := &c.h2.from[side]
	for c.state == speaksHTTP2 {
		if f.got < frameHeader {
			if f.got == 0 && !f.inBlock {
				f.began = now
			}
			n := copy(f.at[f.got:], p)
			f.got += n
			p = p[n:]
			if f.got < frameHeader || !c.frame(side, f, now) {
				return
			}
		}
		if f.collect > 0 {
			payload, rest, whole := f.gather(p)
			p = rest
			if !whole {
				return
			}
			if !c.payload(side, f, now, payload) {
				return
			}
			f.part = nil
		}
		if f.left > 0 {
			if len(p) == 0 {
				return
			}
			n := min(f.left, len(p))
			if !c.skip2(side, f, now, p[:n]) {
				return
			}
			p = p[n:]
			if f.left > 0 {
				return
			}
		}
		f.got = 0
		if len(p) == 0 {
			return
		}
	}
}

// gather returns the bytes that the frame wants at its start, once they are
// there: a slice of p where p has them all.
func (f *flow) gather(p []byte) (payload, rest []byte, whole bool) {
	need := f.collect - len(f.part)
	if len(p) < need {
		f.part = append(f.part, p...)
		return nil, nil, false
	}
	payload = p[:need]
	if len(f.part) > 0 {
		payload = append(f.part, payload...)
	}
	f.left -= f.collect
	f.collect = 0
	return payload, p[need:], true
}

// frame acts on a frame header. It reports false if the connection was
// abandoned, as do all methods below that return a bool.
func (c *Conn) frame(side Side, f *flow, now time.Time) bool {
	f.left = int(f.at[0])<<16 | int(f.at[1])<<8 | int(f.at[2])
	f.typ, f.flags = f.at[3], f.at[4]
	f.stream = binary.BigEndian.Uint32(f.at[5:]) & (1<<31 - 1)
	f.pad, f.data, f.collect = 0, nil, 0
	if r := c.frameRule(side, f); r != 0 {
		c.breaks(side, r)
		return false
	}
	f.settled = true
	switch f.typ {
	case frameData:
		f.data = c.h2.streams[f.stream]
		if f.flags&flagPadded != 0 {
			f.collect = 1
		}
	case frameHeaders, framePush:
		f.inBlock, f.blockOf, f.promise = true, f.stream, f.typ == framePush
		f.blockEnd = !f.promise && f.flags&flagEndStream != 0
		f.collect = f.left
	case frameCont, frameSetting, frameRST:
		f.collect = f.left
	case frameGoAway:
		f.collect = 8
	}
	if f.moves() {
		c.h2.idle = 0
	} else if !c.idle(side, now) {
		return false
	}
	if f.left > 0 {
		return true
	}
	return c.payload(side, f, now, nil)
}

// frameRule returns the rule that a frame header breaks, if any.
func (c *Conn) frameRule(side Side, f *flow) Rule {
	switch {
	case f.left > f.maxFrame:
		return H2FrameSize
	case !f.settled && (f.typ != frameSetting || f.flags&flagAck != 0):
		return H2Preface
	case f.inBlock != (f.typ == frameCont), f.inBlock && f.stream != f.blockOf:
		return H2Order
	}
	most := c.o.maxHead - len(f.block)
	switch f.typ {
	case frameData, frameRST:
		switch {
		case f.stream == 0 || c.unopened(f.stream):
			return H2StreamID
		case f.typ == frameRST && f.left != 4:
			return H2FrameSize
		case f.typ == frameData && f.flags&flagPadded != 0 && f.left == 0:
			return H2Padding
		}
	case frameHeaders, framePush:
		wrong := f.stream%2 == 0 || f.typ == framePush
		if side == Live {
			wrong = c.unopened(f.stream)
		}
		switch {
		case f.stream == 0 || wrong:
			return H2StreamID
		case f.left > most+256+5: // the most that padding and priority take
			return LimitHead
		}
	case frameCont:
		if f.left > most {
			return LimitHead
		}
	case frameSetting:
		switch {
		case f.stream != 0:
			return H2StreamID
		case f.left%6 != 0, f.flags&flagAck != 0 && f.left != 0:
			return H2FrameSize
		case f.left > maxSettings:
			return LimitSettings
		}
	case frameGoAway:
		switch {
		case f.stream != 0:
			return H2StreamID
		case f.left < 8:
			return H2FrameSize
		}
	}
	return 0
}

// moves reports whether the frame carries something.
func (f *flow) moves() bool {
	switch f.typ {
	case frameHeaders, framePush, frameRST:
		return true
	case frameData:
		return f.left > f.collect || f.flags&flagEndStream != 0
	case frameCont:
		return f.left > 0
	}
	return false
}

// idle counts a frame that moves nothing.
func (c *Conn) idle(side Side, now time.Time) bool {
	h := c.h2
	if h.idle == 0 || now.Sub(h.idleSince) > time.Second {
		h.idle, h.idleSince = 0, now
	}
	h.idle++
	return h.idle <= maxIdle || !c.breaks(side, LimitIdle)
}

// unopened reports whether id is a stream that the client has not opened.
// Streams of even number are live's pushes: they are not observed.
func (c *Conn) unopened(id uint32) bool { return id%2 == 1 && id > c.h2.newest }

// payload acts on the part of a frame that had to be whole, or on a frame
// without payload.
func (c *Conn) payload(side Side, f *flow, now time.Time, p []byte) bool {
	switch f.typ {
	case frameData:
		if len(p) > 0 {
			f.pad = int(p[0])
		}
		if f.pad > f.left {
			return !c.breaks(side, H2Padding)
		}
		if f.left == f.pad && f.flags&flagEndStream != 0 {
			return c.data(side, f, now, nil)
		}
	case frameHeaders, framePush:
		fragment, ok := f.fragment(p)
		if !ok {
			return !c.breaks(side, H2Padding)
		}
		return c.blockPart(side, f, now, fragment)
	case frameCont:
		return c.blockPart(side, f, now, p)
	case frameRST:
		if x := c.h2.streams[f.stream]; x != nil {
			c.reset2(side, x, binary.BigEndian.Uint32(p))
		}
		return c.state != over
	case frameSetting:
		return c.settings(side, f, p)
	case frameGoAway:
		if side == Live {
			c.goaway(binary.BigEndian.Uint32(p) & (1<<31 - 1))
		}
	}
	return c.state != over
}

// fragment takes padding and priority off a HEADERS payload, padding and the
// promised stream off a PUSH_PROMISE.
func (f *flow) fragment(p []byte) ([]byte, bool) {
	pad, skip := 0, 0
	if f.flags&flagPadded != 0 {
		if len(p) == 0 {
			return nil, false
		}
		pad, skip = int(p[0]), 1
	}
	switch {
	case f.typ == framePush:
		skip += 4
	case f.flags&flagPriority != 0:
		skip += 5
	}
	if skip+pad > len(p) {
		return nil, false
	}
	return p[skip : len(p)-pad], true
}

// skip2 takes payload that need not be whole: of DATA, and of frames that say
// nothing about exchanges.
func (c *Conn) skip2(side Side, f *flow, now time.Time, p []byte) bool {
	f.left -= len(p)
	if f.typ != frameData {
		return true
	}
	// What is padding at the end of p is not content.
	if tail := f.pad - f.left; tail > 0 {
		p = p[:max(0, len(p)-tail)]
	}
	last := f.left <= f.pad && f.flags&flagEndStream != 0
	if len(p) == 0 {
		return true // padding, or the end was seen before it
	}
	if last {
		return c.data(side, f, now, p)
	}
	if f.data == nil {
		return true
	}
	return c.content2(side, f, now, p, false)
}

// content2 adds DATA to the body of the stream's message, which must be open.
func (c *Conn) content2(side Side, f *flow, now time.Time, p []byte, last bool) bool {
	x := f.data
	m := x.message(side)
	if m.Complete || side == Live && !x.final {
		c.spoil(x, side, H2Message) // DATA before the header, or after the end
		return true
	}
	m.Last = now
	if !c.body(side, m, p, m.declared-m.Body.Size, last) {
		return false
	}
	if side == Live && x.tookLong(now, last) {
		c.goesOn(x, true)
	}
	return true
}

// data takes the last bytes of a message.
func (c *Conn) data(side Side, f *flow, now time.Time, p []byte) bool {
	if f.data == nil {
		return true
	}
	if len(p) > 0 && !c.content2(side, f, now, p, true) {
		return false
	}
	c.end2(side, f.data, now)
	return c.state != over
}

// spoil marks x as malformed, by the first rule that it breaks.
func (c *Conn) spoil(x *Exchange, side Side, r Rule) {
	if x.Broken == 0 && c.o.waived != r {
		x.Broken, x.refusable = r, side == Client
	}
}

// end2 ends a message.
func (c *Conn) end2(side Side, x *Exchange, now time.Time) {
	m := x.message(side)
	switch {
	case m.Complete, side == Live && !x.final:
		c.spoil(x, side, H2Message)
	case m.declared >= 0 && m.declared != m.Body.Size && !(side == Live && (x.headOnly || x.Status == 304)):
		c.spoil(x, side, H2Length)
	}
	c.complete(m, now)
	switch {
	case !c.agrees(x):
	case x.Request.Complete && x.Answer.Complete:
		c.finish2(x, Complete)
	case side == Live && c.ended:
		c.finish2(x, ClientCut)
	case side == Client:
		c.goesOn(x, false)
	}
}

// finish2 ends an exchange and forgets its stream.
func (c *Conn) finish2(x *Exchange, o Outcome) {
	delete(c.h2.streams, x.Stream)
	for side := range c.h2.from {
		if c.h2.from[side].data == x {
			c.h2.from[side].data = nil
		}
	}
	c.finish(x, o)
}

// agrees reports whether live can have read x as we did. If it serves what the
// standard tells it to reject, it reads requests differently, and the
// connection is abandoned.
func (c *Conn) agrees(x *Exchange) bool {
	served := x.Status != 0 && x.Status/100 != 4
	return x.Broken == 0 || !x.refusable || !served || !c.breaks(Client, x.Broken)
}

// reset2 acts on RST_STREAM.
func (c *Conn) reset2(side Side, x *Exchange, code uint32) {
	o := c.cutOutcome(x, side)
	if side == Live && code == codeRefused && !x.final {
		o = Refused
	}
	c.finish2(x, o)
}

// goaway ends the exchanges that live will not process (RFC 9113 §6.8).
func (c *Conn) goaway(last uint32) {
	if last >= c.h2.goaway {
		return
	}
	c.h2.goaway = last
	for x := c.last; x != nil && x.Stream > last; x = c.last {
		o := Refused
		if x.final { // it was processed, whatever live says now
			o = c.cutOutcome(x, Live)
		}
		c.finish2(x, o)
	}
}

// settings acts on SETTINGS of side, which bind what the other side sends.
func (c *Conn) settings(side Side, f *flow, p []byte) bool {
	if f.flags&flagAck != 0 {
		return c.acknowledge(side, f)
	}
	peer := &c.h2.from[1-side]
	var s setting
	for ; len(p) >= 6; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch binary.BigEndian.Uint16(p) {
		case settingTable:
			s = setting{v, true}
		case settingMaxFrame:
			if v < initialFrame || v > mostFrame {
				return !c.breaks(side, H2Settings)
			}
			// The peer may use it as soon as it has read it, and its
			// acknowledgement may come later. Never lowered, for the same reason.
			peer.maxFrame = max(peer.maxFrame, int(v))
		}
	}
	if len(peer.unacked) >= maxUnacked {
		return !c.breaks(side, LimitSettings)
	}
	peer.unacked = append(peer.unacked, s)
	return true
}

// acknowledge applies the oldest SETTINGS that the sender f had not
// acknowledged. The table limit that they set binds field blocks from here on
// (RFC 9113 §4.3.1): where it is below the size in use, the next block begins
// with an update (RFC 7541 §4.2).
func (c *Conn) acknowledge(side Side, f *flow) bool {
	if len(f.unacked) == 0 {
		return !c.breaks(side, H2Settings)
	}
	s := f.unacked[0]
	f.unacked = append(f.unacked[:0], f.unacked[1:]...)
	if len(f.unacked) == 0 {
		f.unacked = nil
	}
	if s.has {
		f.tableLimit = s.table
		if s.table < f.table {
			f.shrinkTo = min(f.shrinkTo, s.table)
		}
	}
	return true
}

// allowedTable is the largest table the sender may use now. Before it
// acknowledges a larger one it may have read it already.
func (f *flow) allowedTable() uint32 {
	n := f.tableLimit
	for _, s := range f.unacked {
		if s.has {
			n = max(n, s.table)
		}
	}
	return n
}

// blockPart takes a fragment of a field block and decodes the block when it is
// whole.
func (c *Conn) blockPart(side Side, f *flow, now time.Time, p []byte) bool {
	if f.flags&flagEndHeaders == 0 {
		f.block = append(f.block, p...)
		return true
	}
	if len(f.block) > 0 {
		p = append(f.block, p...)
		f.block = nil
	}
	f.inBlock = false
	p, r := f.tableUpdates(p)
	if r != 0 && c.breaks(side, r) {
		return false
	}
	if side == Client && f.blockOf > c.h2.newest {
		return c.opening(f, now, p)
	}
	x := c.h2.streams[f.blockOf]
	if x == nil || f.promise {
		return c.stray(side, f, p)
	}
	var dst *Fields
	switch {
	case side == Live && !x.final:
		dst = &x.Answer.Header
		dst.reset()
		x.Answer.First = f.began
	case x.message(side).Trailer.size > 0:
		c.spoil(x, side, H2Message) // a third field section
	default:
		dst = &x.message(side).Trailer
	}
	if !c.decode(side, f, p, dst) || dst != nil && !c.charge(side, x, dst) {
		return false
	}
	if dst == &x.Answer.Header {
		c.answer2(f, x)
	} else {
		c.trailer2(side, f, x)
	}
	if !c.agrees(x) {
		return false
	}
	if f.blockEnd {
		c.end2(side, x, now)
	}
	return c.state != over
}

// opening reads a field block that opens a stream.
func (c *Conn) opening(f *flow, now time.Time, p []byte) bool {
	c.h2.newest = f.blockOf
	x := c.open(HTTP2, f.began)
	x.Stream = f.blockOf
	x.Request.declared, x.Answer.declared = -1, -1
	c.h2.streams[x.Stream] = x
	if !c.decode(Client, f, p, &x.Request.Header) || !c.charge(Client, x, &x.Request.Header) {
		return false
	}
	c.request2(&f.list, x)
	switch {
	case x.Stream > c.h2.goaway:
		c.finish2(x, Refused)
	case f.blockEnd:
		c.end2(Client, x, now)
	}
	return c.state != over
}

// stray reads a field block of no exchange: a promise, or one that crossed the
// end of its stream. HPACK needs it. A request on a stream that is closed is
// none that live may serve, but one that we would miss.
func (c *Conn) stray(side Side, f *flow, p []byte) bool {
	var unused Fields
	if !c.decode(side, f, p, &unused) {
		return false
	}
	if side == Client && f.list.seen != 0 {
		return !c.breaks(side, H2StreamID)
	}
	return true
}

// decode decodes a field block into dst; nil follows the table alone.
func (c *Conn) decode(side Side, f *flow, p []byte, dst *Fields) bool {
	f.list.start(dst)
	f.dec.SetEmitEnabled(dst != nil)
	_, err := f.dec.Write(p)
	if err == nil {
		err = f.dec.Close()
	}
	// The decoder remembers the slice that it was given last, and we must not
	// keep the caller's: give it another one, a field of the static table.
	f.dec.SetEmitEnabled(false)
	f.dec.Write(staticField)
	f.list.dst = nil
	switch {
	case f.list.over || err == hpack.ErrStringLength:
		return !c.breaks(side, LimitHead)
	case err != nil:
		return !c.breaks(side, H2Block)
	}
	return true
}

var staticField = []byte{0x80 | 2} // ":method: GET"

// tableUpdates applies the dynamic table size updates that begin a field block
// (RFC 7541 §6.3). It returns the rest of the block, and the rule that they
// break, if any.
func (f *flow) tableUpdates(p []byte) ([]byte, Rule) {
	for len(p) > 0 && p[0]&0xe0 == 0x20 {
		size, n := prefixInt(p, 5)
		p = p[n:]
		switch {
		case n == 0:
			return p, H2Block
		case size > uint64(f.allowedTable()), size > uint64(f.shrinkTo):
			return p, H2TableSize
		case size > mostTable:
			return p, LimitTable
		}
		f.table, f.shrinkTo = uint32(size), noShrink
		f.dec.SetMaxDynamicTableSize(f.table)
	}
	if f.shrinkTo != noShrink {
		return p, H2TableSize
	}
	return p, 0
}

// prefixInt reads an integer of RFC 7541 §5.1 and how many bytes it took, 0 if
// it is cut or larger than a table size can be.
func prefixInt(p []byte, bits uint) (uint64, int) {
	most := uint64(1)<<bits - 1
	v := uint64(p[0]) & most
	if v < most {
		return v, 1
	}
	for i, shift := 1, uint(0); i < len(p) && shift <= 28; i, shift = i+1, shift+7 {
		v += uint64(p[i]&0x7f) << shift
		if p[i]&0x80 == 0 {
			return v, i + 1
		}
	}
	return 0, 0
}

// request2 acts on a complete request header.
func (c *Conn) request2(l *fieldList, x *Exchange) {
	x.method, x.scheme, x.authority, x.target = l.pseudo[pMethod], l.pseudo[pScheme], l.pseudo[pAuthority], l.pseudo[pPath]
	x.headOnly = string(x.Method()) == "HEAD"
	x.Request.declared = l.length
	x.tunnel = string(x.Method()) == "CONNECT"
	if x.tunnel {
		return
	}
	if r := l.request(x); r != 0 {
		c.spoil(x, Client, r)
	}
	if l.seen&(1<<pAuthority) == 0 {
		x.authority = l.host
	}
	if x.Broken == 0 && x.Stream <= c.h2.goaway {
		c.announce(x)
	}
}

// answer2 acts on an answer header, interim or final.
func (c *Conn) answer2(f *flow, x *Exchange) {
	l := &f.list
	status := 0
	if s := x.Answer.Header.cut(l.pseudo[pStatus]); len(s) == 3 {
		n, ok := decimal(s)
		if ok && n >= 100 {
			status = int(n)
		}
	}
	switch {
	case status == 0 || status == 101:
		c.spoil(x, Live, H2Target)
	case l.rule != 0:
		c.spoil(x, Live, l.rule)
	case l.seen&^(1<<pStatus) != 0:
		c.spoil(x, Live, H2Pseudo)
	case status < 200 && f.blockEnd:
		c.spoil(x, Live, H2Message)
	}
	if 100 <= status && status < 200 {
		x.charge -= x.Answer.Header.size
		c.hold(-x.Answer.Header.size)
		return
	}
	x.Status, x.final = status, true
	x.Answer.declared = l.length
	if x.announced && x.Broken == 0 {
		c.answered(x)
	}
}

// trailer2 acts on a field section after the header.
func (c *Conn) trailer2(side Side, f *flow, x *Exchange) {
	switch l := &f.list; {
	case x.tunnel:
	case l.rule != 0:
		c.spoil(x, side, l.rule)
	case l.seen != 0:
		c.spoil(x, side, H2Pseudo)
	case !f.blockEnd || x.message(side).Complete:
		c.spoil(x, side, H2Message)
	}
}

// Pseudo-header fields (RFC 9113 §8.3).
const (
	pMethod = iota
	pScheme
	pAuthority
	pPath
	pStatus
	pseudos
)

// fieldList takes the fields of one block from the HPACK decoder, and notes
// what they break.
type fieldList struct {
	limit int // of Fields.size

	dst     *Fields
	over    bool
	rule    Rule
	regular bool // a field that is no pseudo-header field was seen
	seen    uint8
	pseudo  [pseudos]span
	hosts   int
	host    span
	length  int64 // content-length, -1 without
}

func (l *fieldList) start(dst *Fields) {
	*l = fieldList{limit: l.limit, dst: dst, length: -1}
}

// add is called by the decoder for each field.
func (l *fieldList) add(f hpack.HeaderField) {
	if l.over {
		return
	}
	l.dst.size += int(f.Size())
	if l.dst.size > l.limit {
		l.over = true
		return
	}
	if f.IsPseudo() {
		l.addPseudo(f)
		return
	}
	l.regular = true
	l.dst.add(f.Name, f.Value)
	e := l.dst.list[len(l.dst.list)-1]
	name, value := l.dst.cut(e.name), l.dst.cut(e.value)
	r := Rule(0)
	switch {
	case !isToken(name) || hasUpper(name):
		r = H2FieldName
	case hasControl(value) || trimSpace(l.dst.text, e.value) != e.value:
		r = H2FieldValue
	default:
		r = l.interpret(f.Name, value, e.value)
	}
	if l.rule == 0 {
		l.rule = r
	}
}

func hasUpper(b []byte) bool {
	for _, c := range b {
		if classes[c]&upper != 0 {
			return true
		}
	}
	return false
}

// interpret notes what a field means to the message, and returns the rule it
// breaks, if any.
func (l *fieldList) interpret(name string, value []byte, at span) Rule {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return H2ConnectionField
	case "te":
		if !EqualName(value, "trailers") {
			return H2ConnectionField
		}
	case "host":
		l.hosts++
		l.host = at
	case "content-length":
		n, ok := decimal(value)
		if !ok || l.length >= 0 {
			return H2Length
		}
		l.length = n
	}
	return 0
}

func (l *fieldList) addPseudo(f hpack.HeaderField) {
	i := pseudos
	switch f.Name {
	case ":method":
		i = pMethod
	case ":scheme":
		i = pScheme
	case ":authority":
		i = pAuthority
	case ":path":
		i = pPath
	case ":status":
		i = pStatus
	case ":protocol": // RFC 8441, with CONNECT alone
		return
	}
	if i == pseudos || l.regular || l.seen&(1<<i) != 0 {
		l.rule = H2Pseudo
		return
	}
	l.seen |= 1 << i
	l.pseudo[i] = l.dst.put(f.Value)
}

// request returns the rule that a request header breaks, if any.
func (l *fieldList) request(x *Exchange) Rule {
	const needed = 1<<pMethod | 1<<pScheme | 1<<pPath
	method, path, authority := x.Method(), x.Target(), x.Authority()
	switch {
	case l.rule != 0:
		return l.rule
	case l.seen&needed != needed || l.seen&(1<<pStatus) != 0:
		return H2Pseudo
	case !isToken(method) || EqualName(method, "connect") || !x.headOnly && EqualName(method, "head"),
		!EqualName(x.Scheme(), "http") && !EqualName(x.Scheme(), "https"),
		!validPath(path) && !(string(path) == "*" && string(method) == "OPTIONS"):
		return H2Target
	case !validHost(authority),
		l.hosts > 1,
		l.hosts == 1 && !validHost(x.Request.Header.cut(l.host)),
		l.hosts == 1 && l.seen&(1<<pAuthority) != 0 && string(x.Request.Header.cut(l.host)) != string(authority),
		l.hosts == 0 && l.seen&(1<<pAuthority) == 0:
		return H2Authority
	}
	return 0
}
