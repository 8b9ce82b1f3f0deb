package transport

import (
	"encoding/binary"
	"slices"
)

// What this end lets the peer send before it hears of more room, on a stream
// and on a connection. Half of it is given back at once, when it is used up.
const (
	streamWindow = 4 << 20
	connWindow   = 64 << 20
)

// maxIdleFrames bounds the frames in a row that bring no answer further (PING,
// SETTINGS, empty DATA, …) and the bytes they make this end say: a peer that
// floods is cut off.
const maxIdleFrames = 10000

// lastStream is after which stream a connection is given up, well before the
// identifiers end.
const lastStream = 1 << 30

// http2 is the client's side of one HTTP/2 connection (RFC 9113), without I/O.
type http2 struct {
	duplex
	requests []request2
	blocks   *blockCache
	clock    Clock
	limit    int64 // of an answer's body
	most     int   // streams at once, by configuration

	rest     []byte // the start of a frame
	greeted  bool   // the peer's SETTINGS came
	going    bool   // GOAWAY came, or streams ran out
	streams  map[uint32]*Call
	next     uint32
	window   int64 // what the peer still takes on the connection
	initial  int64 // and on a new stream
	frame    int   // and in a frame
	allowed  int64 // streams at once, by the peer
	blocked  []*Call
	unread   int64
	idle     int    // frames since the last that mattered
	block    []byte // a header block without its end
	blockID  uint32 // whose; 0 for none
	blockEnd bool   // END_STREAM was on its HEADERS
}

func newHTTP2(requests []request2, cfg Config, blocks *blockCache, clock Clock) *http2 {
	h := &http2{
		requests: requests, blocks: blocks, clock: clock, limit: cfg.MaxAnswer, most: cfg.Streams,
		streams: map[uint32]*Call{}, next: 1,
		window: defaultWindow, initial: defaultWindow, frame: minFrameSize, allowed: maxWindow,
	}
	var s []byte
	s = appendSetting(s, settingTableSize, 0)
	s = appendSetting(s, settingPush, 0)
	s = appendSetting(s, settingWindow, streamWindow)
	h.out = append(h.out, preface...)
	h.out = appendFrame(h.out, frameSettings, 0, 0, s)
	h.out = appendWord(h.out, frameWindow, 0, connWindow-defaultWindow)
	return h
}

func (h *http2) ready() bool   { return h.greeted }
func (h *http2) retired() bool { return h.going }
func (h *http2) eof()          {}

func (h *http2) room() int {
	if h.going || !h.greeted {
		return 0
	}
	return int(min(int64(h.most), h.allowed)) - len(h.streams)
}

func (h *http2) start(c *Call) {
	r := &h.requests[c.Op]
	c.id = h.next
	h.next += 2
	h.going = h.next > lastStream
	h.streams[c.id] = c
	c.window = h.initial
	c.rest = r.payload(c)

	at := len(h.out)
	h.out = appendFrameHeader(h.out, 0, frameHeaders, flagEndHeaders, c.id)
	h.out = r.appendBlock(h.out, c, len(c.rest), h.clock.Now())
	h.closeBlock(at, c.id, len(c.rest) == 0 && !r.grpc)
	if len(c.rest) > 0 || r.grpc {
		h.send(c)
	}
}

// closeBlock writes the length of the HEADERS frame that begins at h.out[at],
// and cuts it up where it is larger than the peer takes.
func (h *http2) closeBlock(at int, id uint32, end bool) {
	n := len(h.out) - at - frameHeader
	var flags byte
	if end {
		flags = flagEnd
	}
	if n <= h.frame {
		h.out[at], h.out[at+1], h.out[at+2] = byte(n>>16), byte(n>>8), byte(n)
		h.out[at+4] = flags | flagEndHeaders
		return
	}
	block := slices.Clone(h.out[at+frameHeader:])
	h.out = appendFrame(h.out[:at], frameHeaders, flags, id, block[:h.frame])
	for block = block[h.frame:]; len(block) > 0; {
		n := min(len(block), h.frame)
		flags = 0
		if n == len(block) {
			flags = flagEndHeaders
		}
		h.out = appendFrame(h.out, frameContinuation, flags, id, block[:n])
		block = block[n:]
	}
}

// send writes as much of c's body as the windows allow, and its end.
func (h *http2) send(c *Call) {
	for {
		n := min(int64(len(c.rest)), c.window, h.window, int64(h.frame))
		if len(c.rest) > 0 && (n <= 0 || len(h.out) > maxQueued) {
			if !c.waiting {
				c.waiting = true
				h.blocked = append(h.blocked, c)
			}
			return
		}
		n = max(n, 0)
		h.idle = 0
		var flags byte
		if int(n) == len(c.rest) {
			flags = flagEnd
		}
		h.out = appendFrame(h.out, frameData, flags, c.id, c.rest[:n])
		c.rest = c.rest[n:]
		c.window -= n
		h.window -= n
		if flags != 0 {
			c.rest = nil
			return
		}
	}
}

// written goes on with what would not fit before.
func (h *http2) written() {
	if len(h.blocked) > 0 {
		h.unblock()
	}
}

// unblock goes on with the bodies that waited for window, in order.
func (h *http2) unblock() {
	waiting := h.blocked
	h.blocked = nil
	for _, c := range waiting {
		c.waiting = false
		h.send(c)
	}
}

func (h *http2) receive(b []byte) error {
	if len(h.rest) > 0 {
		h.rest = append(h.rest, b...)
		b = h.rest
	}
	for len(b) >= frameHeader {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if n > minFrameSize {
			return errProtocol
		}
		if !h.greeted && b[3] != frameSettings {
			return errProtocol
		}
		if len(b) < frameHeader+n {
			break
		}
		id := binary.BigEndian.Uint32(b[5:]) & maxWindow
		if err := h.take(b[3], b[4], id, b[frameHeader:frameHeader+n]); err != nil {
			return err
		}
		b = b[frameHeader+n:]
	}
	h.rest = append(h.rest[:0], b...)
	return nil
}

func (h *http2) take(kind, flags byte, id uint32, p []byte) error {
	if h.blockID != 0 && (kind != frameContinuation || id != h.blockID) {
		return errProtocol
	}
	if h.idle++; h.idle > maxIdleFrames || len(h.out) > maxQueued+maxControl {
		return errProtocol
	}
	switch kind {
	case frameData:
		return h.takeData(flags, id, p)
	case frameHeaders:
		return h.takeHeaders(flags, id, p)
	case frameContinuation:
		if h.blockID == 0 || len(h.block)+len(p) > maxBlock {
			return errProtocol
		}
		h.block = append(h.block, p...)
		if flags&flagEndHeaders != 0 {
			h.blockID = 0
			return h.takeBlock(id, h.blockEnd, h.block)
		}
	case frameReset:
		if id == 0 || len(p) != 4 || id >= h.next {
			return errProtocol
		}
		if c := h.streams[id]; c != nil {
			h.idle = 0
			c.refused = binary.BigEndian.Uint32(p) == codeRefused
			h.finish(c, Reset, 0)
		}
	case frameSettings:
		return h.takeSettings(flags, id, p)
	case framePing:
		if id != 0 || len(p) != 8 {
			return errProtocol
		}
		if flags&flagEnd == 0 {
			h.out = appendFrame(h.out, framePing, flagEnd, 0, p)
		}
	case frameGoAway:
		return h.takeGoAway(id, p)
	case frameWindow:
		return h.takeWindow(id, p)
	case framePush:
		return errProtocol // it was told not to
	}
	return nil
}

// How much may wait to be written: bodies queue up to the first; past both, the
// peer asks for more answers than it reads.
const (
	maxQueued  = 256 << 10
	maxControl = 1 << 20
)

// unpad returns the payload without its padding.
func unpad(flags byte, p []byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return p, true
	}
	if len(p) == 0 || int(p[0]) > len(p)-1 {
		return nil, false
	}
	return p[1 : len(p)-int(p[0])], true
}

func (h *http2) takeData(flags byte, id uint32, p []byte) error {
	size := int64(len(p))
	p, ok := unpad(flags, p)
	if !ok || id == 0 || id >= h.next {
		return errProtocol
	}
	if h.unread += size; h.unread >= connWindow/2 {
		h.out = appendWord(h.out, frameWindow, 0, uint32(h.unread))
		h.unread = 0
	}
	c := h.streams[id]
	if c == nil {
		return nil // of a stream that was given up
	}
	if !c.opened {
		h.giveUp(c, Malformed)
		return nil
	}
	if len(p) > 0 {
		h.idle = 0
	}
	if !h.body(c, p) {
		return nil
	}
	if flags&flagEnd != 0 {
		h.end(c, nil)
		return nil
	}
	if c.unread += size; c.unread >= streamWindow/2 {
		h.out = appendWord(h.out, frameWindow, id, uint32(c.unread))
		c.unread = 0
	}
	return nil
}

// body takes a piece of c's answer, and says whether more may come.
func (h *http2) body(c *Call, p []byte) bool {
	r := &h.requests[c.Op]
	c.Received += int64(len(p))
	if c.Received > h.limit {
		h.giveUp(c, TooLarge)
		return false
	}
	if keep := r.op.Keep; keep > 0 && !r.grpc {
		c.keep(p, keep)
	}
	if !r.grpc || c.status != 200 {
		return true
	}
	each := r.op.OnMessage
	err := c.framing.feed(p, h.limit, each != nil || r.op.Keep > 0, func(msg []byte) {
		if c.Messages++; c.Messages == 1 && r.op.ServerStream {
			c.First = h.clock.Now()
		}
		c.keep(msg, r.op.Keep)
		if each != nil {
			each(c, msg, h.clock.Now())
		}
	})
	switch err {
	case nil:
		return true
	case errTooLarge:
		h.giveUp(c, TooLarge)
	default:
		h.giveUp(c, Malformed)
	}
	return false
}

func (h *http2) takeHeaders(flags byte, id uint32, p []byte) error {
	p, ok := unpad(flags, p)
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return errProtocol
		}
		p = p[5:]
	}
	if !ok || id == 0 || id&1 == 0 || id >= h.next {
		return errProtocol
	}
	end := flags&flagEnd != 0
	if flags&flagEndHeaders == 0 {
		h.block = append(h.block[:0], p...)
		h.blockID, h.blockEnd = id, end
		return nil
	}
	return h.takeBlock(id, end, p)
}

// takeBlock reads a complete header block. Blocks of streams that were given up
// are not read: there is no table that they could change.
func (h *http2) takeBlock(id uint32, end bool, block []byte) error {
	c := h.streams[id]
	if c == nil {
		return nil
	}
	head, err := h.blocks.read(block)
	if err != nil {
		return err
	}
	if head.status == 0 || head.status >= 200 {
		h.idle = 0
	}
	switch {
	case head.invalid || c.opened && (!end || head.status != 0) || !c.opened && head.status == 0:
		h.giveUp(c, Malformed)
	case !c.opened && head.status < 200:
		if end || head.status == 101 {
			h.giveUp(c, Malformed)
			return nil
		}
		// A server that sends interim answers for ever is cut by the limit.
		if c.Received += int64(len(block)); c.Received > h.limit {
			h.giveUp(c, TooLarge)
		}
	case !c.opened:
		c.opened, c.status, c.Received = true, head.status, 0
		if h.requests[c.Op].grpc && !head.grpc {
			h.foreign(c, end)
		} else if h.requests[c.Op].grpc {
			c.status = 200 // gRPC reads no further than its content type
		}
		if end && h.streams[id] != nil {
			h.end(c, &head)
		}
	default:
		h.end(c, &head)
	}
	return nil
}

// foreign ends a gRPC call whose answer is not gRPC, by its HTTP status.
func (h *http2) foreign(c *Call, end bool) {
	if !end {
		h.out = appendWord(h.out, frameReset, c.id, codeCancel)
		c.rest = nil
	}
	if c.status == 200 {
		h.finish(c, Malformed, 0)
		return
	}
	h.conclude(c, RPCCode(c.status))
}

// RPCCode is the gRPC status that stands for an HTTP status without one
// (grpc/doc/http-grpc-status-mapping.md).
func RPCCode(status int) int {
	switch status {
	case 400:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// end ends c with a complete answer; trailers is nil if there were none.
func (h *http2) end(c *Call, trailers *head) {
	r := &h.requests[c.Op]
	switch {
	case !r.grpc && c.status >= 400:
		h.finish(c, Status, c.status)
	case !r.grpc:
		h.finish(c, OK, c.status)
	case trailers == nil:
		h.finish(c, Malformed, 0)
	case trailers.rpc < 0:
		h.finish(c, Status, rpcUnknown)
	case trailers.rpc == 0 && (!c.framing.whole() || c.framing.packed || c.Messages != 1 && !r.op.ServerStream):
		h.finish(c, Malformed, 0)
	default:
		h.conclude(c, trailers.rpc)
	}
}

// gRPC statuses that are more than a number here.
const (
	rpcUnknown       = 2
	deadlineExceeded = 4 // time ran out, at either end
	rpcHighest       = 16
)

// conclude ends a gRPC call by its status.
func (h *http2) conclude(c *Call, code int) {
	switch code {
	case 0:
		h.finish(c, OK, 0)
	case deadlineExceeded:
		h.finish(c, Timeout, code)
	default:
		if code > rpcHighest { // codes that nobody knows are UNKNOWN
			code = rpcUnknown
		}
		h.finish(c, Status, code)
	}
}

// giveUp resets c's stream and ends the call.
func (h *http2) giveUp(c *Call, class Class) {
	h.out = appendWord(h.out, frameReset, c.id, codeCancel)
	c.rest = nil
	h.finish(c, class, 0)
}

func (h *http2) finish(c *Call, class Class, code int) {
	if len(c.rest) > 0 { // the answer came before the question was over
		h.out = appendWord(h.out, frameReset, c.id, codeCancel)
	}
	h.drop(c)
	c.Class, c.Code = class, code
	h.ended = append(h.ended, c)
}

// drop forgets c's stream.
func (h *http2) drop(c *Call) {
	delete(h.streams, c.id)
	c.rest = nil
	if c.waiting {
		c.waiting = false
		h.blocked = slices.DeleteFunc(h.blocked, func(b *Call) bool { return b == c })
	}
}

func (h *http2) cancel(c *Call) {
	h.out = appendWord(h.out, frameReset, c.id, codeCancel)
	h.drop(c)
}

func (h *http2) lost(class Class) {
	h.going = true
	for _, c := range h.streams {
		h.drop(c)
		c.Class = class
		h.ended = append(h.ended, c)
	}
}

func (h *http2) takeSettings(flags byte, id uint32, p []byte) error {
	if id != 0 || len(p)%6 != 0 {
		return errProtocol
	}
	if flags&flagEnd != 0 {
		if len(p) > 0 || !h.greeted {
			return errProtocol
		}
		return nil
	}
	for ; len(p) > 0; p = p[6:] {
		v := int64(binary.BigEndian.Uint32(p[2:]))
		switch binary.BigEndian.Uint16(p) {
		case settingStreams:
			h.allowed = v
		case settingWindow:
			if v > maxWindow {
				return errProtocol
			}
			for _, c := range h.streams {
				if c.window += v - h.initial; c.window > maxWindow {
					return errProtocol
				}
			}
			h.initial = v
		case settingFrameSize:
			if v < minFrameSize || v > 1<<24-1 {
				return errProtocol
			}
			h.frame = int(v)
		}
	}
	h.greeted = true
	h.out = appendFrame(h.out, frameSettings, flagEnd, 0, nil)
	h.unblock()
	return nil
}

// takeGoAway stops new calls. Those that the peer will not act on may be made
// elsewhere; it finishes the others.
func (h *http2) takeGoAway(id uint32, p []byte) error {
	if id != 0 || len(p) < 8 {
		return errProtocol
	}
	h.going = true
	last := binary.BigEndian.Uint32(p) & maxWindow
	for sid, c := range h.streams {
		if sid > last {
			c.refused = true
			c.rest = nil
			h.finish(c, Reset, 0)
		}
	}
	return nil
}

func (h *http2) takeWindow(id uint32, p []byte) error {
	if len(p) != 4 || id >= h.next {
		return errProtocol
	}
	n := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if n == 0 {
		return errProtocol
	}
	if id == 0 {
		if h.window += n; h.window > maxWindow {
			return errProtocol
		}
	} else if c := h.streams[id]; c != nil {
		if c.window += n; c.window > maxWindow {
			h.giveUp(c, Malformed)
			return nil
		}
	}
	if len(h.blocked) > 0 {
		h.unblock()
	}
	return nil
}
