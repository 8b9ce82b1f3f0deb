package observe

import (
	"encoding/binary"
	"unsafe"

	"github.com/zeebo/xxh3"
)

// Mode says what is to become of the bodies of an exchange.
type Mode uint8

const (
	// Ignore counts the bytes of a body and nothing more.
	Ignore Mode = iota
	// Hash counts and hashes them, and reads gRPC message lengths.
	Hash
	// Keep does that and keeps them, as far as the budgets allow.
	Keep
)

// Account is a budget of bytes that several connections share. Its methods are
// called from whatever goroutine feeds a Conn, often, and must not block.
type Account interface {
	// Reserve takes n bytes, or takes none and reports false.
	Reserve(n int) bool
	// Release gives back n bytes that were reserved.
	Release(n int)
}

func reserve(a Account, n int) bool { return a == nil || a.Reserve(n) }

// Body is the content of a message: chunked coding and HTTP/2 padding are
// taken off, content codings (gzip) are not.
type Body struct {
	// Mode is what was decided for this body.
	Mode Mode
	// Size counts all bytes seen, kept or not.
	Size int64
	// Bytes is the content under Keep: all of it, or its beginning if
	// Truncated. Its capacity is charged to the account.
	Bytes []byte
	// Truncated says that Config.MaxBody or the account ended the keeping.
	Truncated bool
	// Hash is XXH3-128 (big-endian) of all Size bytes, unseeded, once the body
	// has ended; zero under Ignore and for a body that was cut.
	Hash [16]byte
	// Messages counts the gRPC messages that began, and Lengths describes the
	// first of them, at most 32. Both are empty under Ignore.
	Messages int64
	Lengths  []GRPCMessage

	spare  []byte // memory of another's Bytes, which is not charged
	hasher *xxh3.Hasher
	prefix [5]byte // of a gRPC message, as far as it has come
	have   uint8   // bytes of prefix
	rest   uint32  // bytes to come of the message
	grpc   bool
}

// GRPCMessage is the length-prefix of a gRPC message.
type GRPCMessage struct {
	Length     uint32
	Compressed bool
}

const (
	maxLengths = 32
	// firstGrowth bounds what a declared length can make us allocate before
	// its bytes have come.
	firstGrowth = 128 << 10
	hasherSize  = int(unsafe.Sizeof(xxh3.Hasher{}))
	lengthSize  = int(unsafe.Sizeof(GRPCMessage{}))
)

// small is the content up to which a body is copied rather than moved, and up to
// which its memory is used again, in bytes.
const small = 4 << 10

// large is the size up to which the memory of others is pooled, in bytes.
const large = 128 << 10

// write takes the next bytes of a body. expect is how many the message says
// are still to come, p included, or negative; last says that p ends the body.
func (b *Body) write(c *Conn, p []byte, expect int64, last bool) {
	whole := b.Size == 0 && last
	b.Size += int64(len(p))
	if b.Mode == Ignore || len(p) == 0 {
		return
	}
	if b.grpc {
		b.scan(p)
	}
	if b.Mode == Keep && !b.Truncated {
		if b.rest > 0 {
			expect = max(expect, int64(len(p))+int64(b.rest))
		}
		n := b.keep(c.o, p, expect)
		if n == len(p) {
			return // hashed at the end, in one go
		}
		b.Truncated = true
		b.hash(c, b.Bytes)
		b.hasher.Write(p[n:])
		return
	}
	if whole {
		b.Hash = xxh3.Hash128(p).Bytes()
		return
	}
	b.hash(c, p)
}

func (b *Body) hash(c *Conn, p []byte) {
	if b.hasher == nil {
		b.hasher = c.o.hashers.Get().(*xxh3.Hasher)
		b.hasher.Reset()
		c.hold(hasherSize)
	}
	b.hasher.Write(p)
}

// end completes the hash.
func (b *Body) end(c *Conn) {
	switch {
	case b.Mode == Ignore:
	case b.hasher != nil:
		b.Hash = b.hasher.Sum128().Bytes()
		b.dropHasher(c)
	case b.Mode == Keep || b.Size == 0:
		b.Hash = xxh3.Hash128(b.Bytes).Bytes()
	}
}

func (b *Body) dropHasher(c *Conn) {
	if b.hasher != nil {
		c.o.hashers.Put(b.hasher)
		b.hasher = nil
		c.memory -= hasherSize
	}
}

// keep appends as much of p as the budgets allow and returns how much.
func (b *Body) keep(o *Observer, p []byte, expect int64) int {
	n := min(len(p), o.maxBody-len(b.Bytes))
	need := len(b.Bytes) + n
	if need > cap(b.Bytes) {
		size := max(2*cap(b.Bytes), firstGrowth)
		if expect < 0 {
			size = 2 * cap(b.Bytes)
		} else if all := int64(len(b.Bytes)) + expect; all < int64(size) {
			size = int(all)
		}
		size = min(max(size, need), o.maxBody)
		fresh := b.fresh(o, size)
		if !reserve(o.account, cap(fresh)) {
			return 0
		}
		old := b.Bytes
		b.Bytes = append(fresh, old...)
		if o.account != nil {
			o.account.Release(cap(old))
		}
	}
	b.Bytes = append(b.Bytes, p[:n]...)
	return n
}

// fresh returns empty memory of at least size bytes, and of less than twice as
// many unless that is little.
func (b *Body) fresh(o *Observer, size int) []byte {
	if p := b.spare; size <= cap(p) {
		b.spare = nil
		return p
	}
	if size > small && size <= large {
		if p, ok := o.large.Get().(*[]byte); ok && size <= cap(*p) && cap(*p) < 2*size {
			return *p
		}
	}
	return make([]byte, 0, size)
}

// reuse takes back memory that nobody uses any more.
func (o *Observer) reuse(p []byte) {
	if cap(p) > small && cap(p) <= large {
		p = p[:0]
		o.large.Put(&p)
	}
}

// scan follows the length-prefixed messages of gRPC over HTTP/2: a byte that
// is 1 for compressed, four of length, then the message.
func (b *Body) scan(p []byte) {
	for len(p) > 0 {
		if b.rest > 0 {
			n := min(len(p), int(b.rest))
			b.rest -= uint32(n)
			p = p[n:]
			continue
		}
		n := copy(b.prefix[b.have:], p)
		b.have += uint8(n)
		p = p[n:]
		if b.have < 5 {
			return
		}
		b.have = 0
		b.rest = binary.BigEndian.Uint32(b.prefix[1:])
		b.Messages++
		if len(b.Lengths) < maxLengths {
			b.Lengths = append(b.Lengths, GRPCMessage{b.rest, b.prefix[0] == 1})
		}
	}
}
