package transport

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Frame types, flags, settings and codes of HTTP/2 (RFC 9113).
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePush         = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEnd        = 0x1 // END_STREAM; ACK on SETTINGS and PING
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize  = 1
	settingPush       = 2
	settingStreams    = 3
	settingWindow     = 4
	settingFrameSize  = 5
	frameHeader       = 9
	defaultWindow     = 65535
	maxWindow         = 1<<31 - 1
	minFrameSize      = 16384
	codeRefused       = 7
	codeCancel        = 8
	codeProtocolError = 1

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

func appendFrameHeader(b []byte, n int, kind, flags byte, id uint32) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendFrame(b []byte, kind, flags byte, id uint32, payload []byte) []byte {
	return append(appendFrameHeader(b, len(payload), kind, flags, id), payload...)
}

func appendWord(b []byte, kind byte, id, word uint32) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHeader(b, 4, kind, 0, id), word)
}

func appendSetting(b []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), v)
}

// appendField adds a literal that is never indexed (RFC 7541 §6.2.3), so that
// the block means the same whatever table the peer keeps.
func appendField(b []byte, name, value string) []byte {
	b = append(b, 0x10)
	b = appendString(b, name)
	return appendString(b, value)
}

// appendNamed is appendField with a name of the static table, below index 15.
func appendNamed(b []byte, index byte, value string) []byte {
	return appendString(append(b, 0x10|index), value)
}

func appendString(b []byte, s string) []byte {
	if n := len(s); n < 127 {
		b = append(b, byte(n))
	} else {
		b = append(b, 127)
		for n -= 127; n >= 128; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
	}
	return append(b, s...)
}

// request2 is an operation encoded for HTTP/2: its header block in the parts
// between which a call's own path goes, and its body.
type request2 struct {
	op     *Op
	grpc   bool
	before []byte // pseudo-header fields without the path
	path   []byte
	after  []byte
	body   []byte
	length bool // content-length is sent
	isHead bool
}

func newRequest2(o *Op, p Protocol, scheme, host string) request2 {
	m := o.method(p)
	r := request2{op: o, grpc: p == GRPC, isHead: m == "HEAD"}
	switch m {
	case "GET":
		r.before = append(r.before, 0x82)
	case "POST":
		r.before = append(r.before, 0x83)
	default:
		r.before = appendNamed(r.before, 2, m)
	}
	if scheme == "http" {
		r.before = append(r.before, 0x86)
	} else {
		r.before = append(r.before, 0x87)
	}
	r.before = appendNamed(r.before, 1, o.host(host))
	r.path = appendNamed(nil, 4, o.Path)
	if r.grpc {
		r.after = appendField(r.after, "content-type", "application/grpc")
		r.after = appendField(r.after, "te", "trailers")
	}
	for _, h := range o.Fields() {
		name := strings.ToLower(h.Name)
		if r.grpc && (name == "content-type" || name == "te" || name == "grpc-timeout") {
			continue
		}
		r.after = appendField(r.after, name, h.Value)
	}
	for _, msg := range o.Messages {
		r.body = appendMessage(r.body, msg)
	}
	if !r.grpc {
		r.body = o.Body
		r.length = m == "POST" || m == "PUT" || m == "PATCH" || len(r.body) > 0
	}
	return r
}

// appendMessage adds a gRPC message with its prefix, not compressed.
func appendMessage(b, msg []byte) []byte {
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(len(msg)))
	return append(b, msg...)
}

// payload returns the body of c.
func (r *request2) payload(c *Call) []byte {
	switch {
	case c.Body == nil:
		return r.body
	case r.grpc:
		c.body = appendMessage(c.body[:0], c.Body)
		return c.body
	}
	return c.Body
}

// appendBlock adds the header block of c.
func (r *request2) appendBlock(b []byte, c *Call, body int, now time.Duration) []byte {
	b = append(b, r.before...)
	if c.Path != "" {
		b = appendNamed(b, 4, c.Path)
	} else {
		b = append(b, r.path...)
	}
	b = append(b, r.after...)
	for _, h := range c.Header {
		b = appendField(b, strings.ToLower(h.Name), h.Value)
	}
	if r.length || !r.grpc && body > 0 {
		b = appendField(b, "content-length", strconv.Itoa(body))
	}
	if r.grpc && c.Deadline > 0 {
		b = appendTimeout(b, c.Deadline-now)
	}
	return b
}

// appendTimeout adds grpc-timeout: at most eight digits and a unit, rounded up.
func appendTimeout(b []byte, d time.Duration) []byte {
	b = append(b, 0x10)
	b = appendString(b, "grpc-timeout")
	unit, mark := time.Microsecond, byte('u')
	switch {
	case d >= 1e8*time.Millisecond:
		unit, mark = time.Second, 'S'
	case d >= 1e8*time.Microsecond:
		unit, mark = time.Millisecond, 'm'
	}
	n := min((max(d, 1)-1)/unit+1, 1e8-1)
	at := len(b)
	b = strconv.AppendInt(append(b, 0), int64(n), 10)
	b = append(b, mark)
	b[at] = byte(len(b) - at - 1)
	return b
}

// head is what a response's header block or trailers say of its outcome.
type head struct {
	status  int  // :status, 0 if absent
	rpc     int  // grpc-status, -1 if absent
	grpc    bool // content-type is gRPC's
	coding  bool // grpc-encoding is something else than identity
	invalid bool
}

// maxBlock bounds a response's header block, and so what one connection holds.
const maxBlock = 64 << 10

// blockCache remembers what header blocks mean. That is a function of their
// bytes alone, because the peer is told to keep no dynamic table: answers to
// one operation repeat, and so are decoded once.
type blockCache struct {
	known map[string]head
	dec   *hpack.Decoder
	last  head
	size  int
	body  bool // a regular field was seen
}

const maxBlocks = 512

func newBlockCache() *blockCache {
	c := &blockCache{known: map[string]head{}}
	c.dec = hpack.NewDecoder(0, c.field)
	c.dec.SetMaxStringLength(maxBlock)
	return c
}

func (c *blockCache) read(block []byte) (head, error) {
	if h, ok := c.known[string(block)]; ok {
		return h, nil
	}
	c.last, c.size, c.body = head{rpc: -1}, 0, false
	_, err := c.dec.Write(block)
	if err == nil {
		err = c.dec.Close()
	}
	if err != nil {
		// The decoder may hold half a field.
		c.dec = hpack.NewDecoder(0, c.field)
		c.dec.SetMaxStringLength(maxBlock)
		return head{}, errProtocol
	}
	if len(c.known) >= maxBlocks {
		clear(c.known)
	}
	if len(block) < 1024 {
		c.known[string(block)] = c.last
	}
	return c.last, nil
}

func (c *blockCache) field(f hpack.HeaderField) {
	h := &c.last
	if c.size += int(f.Size()); c.size > maxBlock*2 {
		h.invalid = true
	}
	if strings.HasPrefix(f.Name, ":") {
		n, err := strconv.Atoi(f.Value)
		if f.Name != ":status" || c.body || h.status != 0 || err != nil || len(f.Value) != 3 || n < 100 {
			h.invalid = true
		}
		h.status = n
		return
	}
	c.body = true
	switch f.Name {
	case "grpc-status":
		n, err := strconv.ParseUint(f.Value, 10, 31)
		if err != nil {
			h.invalid = true
		}
		h.rpc = int(n)
	case "content-type":
		rest, ok := strings.CutPrefix(f.Value, "application/grpc")
		h.grpc = ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
	case "grpc-encoding":
		h.coding = f.Value != "identity"
	case "connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection":
		h.invalid = true
	}
	if f.Name != strings.ToLower(f.Name) || f.Name == "" {
		h.invalid = true
	}
}

// messageReader splits a gRPC body into its messages.
type messageReader struct {
	prefix [5]byte
	have   int   // bytes of the prefix
	left   int64 // of the message
	held   []byte
	packed bool // some message was compressed
}

// feed reads p and calls each for every message that is complete; the bytes of
// messages are kept only if wanted.
func (m *messageReader) feed(p []byte, limit int64, wanted bool, each func([]byte)) error {
	for len(p) > 0 || m.have == 5 && m.left == 0 {
		if m.have < 5 {
			n := copy(m.prefix[m.have:], p)
			m.have += n
			p = p[n:]
			if m.have < 5 {
				return nil
			}
			if m.prefix[0] > 1 {
				return errProtocol
			}
			m.packed = m.packed || m.prefix[0] == 1
			if m.left = int64(binary.BigEndian.Uint32(m.prefix[1:])); m.left > limit {
				return errTooLarge
			}
			continue
		}
		n := min(int64(len(p)), m.left)
		if wanted {
			m.held = append(m.held, p[:n]...)
		}
		p = p[n:]
		if m.left -= n; m.left == 0 {
			m.have = 0
			each(m.held)
			m.held = m.held[:0]
		}
	}
	return nil
}

// whole says that no message is cut short.
func (m *messageReader) whole() bool { return m.have == 0 }
