// Package wire is the binary form of what the application server keeps: numbers
// as varints, strings with their length before them, fields in a fixed order
// without names. One walk over a structure's fields writes and reads it, so that
// the two cannot differ:
//
//	func (p *point) walk(c *wire.Coder) { wire.Int(c, &p.x); wire.Int(c, &p.y) }
//
// Every value has one form: what decodes without error encodes to the same bytes.
// Which version of a structure the bytes hold is the caller's to write before them.
package wire

import (
	"encoding/binary"
	"errors"
)

// ErrCorrupt is returned by Close for bytes that no Coder wrote.
var ErrCorrupt = errors.New("corrupt record")

// A Coder writes a structure or reads one. Its first error stays; what is read
// after it is zero. It is not safe for concurrent use.
type Coder struct {
	buf     []byte // written so far, or left to read
	reading bool
	err     error
}

// Writer returns a Coder that appends to dst.
func Writer(dst []byte) *Coder { return &Coder{buf: dst} }

// Reader returns a Coder that reads all of src. It keeps no part of it.
func Reader(src []byte) *Coder { return &Coder{buf: src, reading: true} }

// Reading reports whether values are read, not written.
func (c *Coder) Reading() bool { return c.reading }

// Err returns the error so far.
func (c *Coder) Err() error { return c.err }

// Fail makes err the Coder's error, if it has none.
func (c *Coder) Fail(err error) {
	if c.err == nil {
		c.err = err
	}
	if c.reading {
		c.buf = nil
	}
}

// Close returns what was written, or nil after a read. ErrCorrupt: bytes were
// missing, left over, or not as a Coder writes them; or the error of Fail.
func (c *Coder) Close() ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	if !c.reading {
		return c.buf, nil
	}
	if len(c.buf) > 0 {
		return nil, ErrCorrupt
	}
	return nil, nil
}

// Uint walks an unsigned number.
func Uint[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *Coder, v *T) {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, uint64(*v))
		return
	}
	u := c.uvarint()
	if *v = T(u); uint64(*v) != u {
		c.Fail(ErrCorrupt)
		*v = 0
	}
}

// Int walks a signed number; those near zero are short.
func Int[T ~int | ~int32 | ~int64](c *Coder, v *T) {
	u := uint64(*v)<<1 ^ uint64(int64(*v)>>63)
	Uint(c, &u)
	i := int64(u>>1) ^ -int64(u&1)
	if *v = T(i); int64(*v) != i {
		c.Fail(ErrCorrupt)
		*v = 0
	}
}

// Bool walks a truth value.
func Bool(c *Coder, v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	if Uint(c, &b); b > 1 {
		c.Fail(ErrCorrupt)
	}
	*v = b == 1
}

// String walks a string of any bytes.
func String[T ~string](c *Coder, v *T) {
	n := uint64(len(*v))
	Uint(c, &n)
	if c.reading {
		*v = T(c.take(n))
		return
	}
	c.buf = append(c.buf, *v...)
}

// Bytes walks bytes whose number is given by the structure: len(v) of them.
func Bytes(c *Coder, v []byte) {
	if c.reading {
		copy(v, c.take(uint64(len(v))))
		return
	}
	c.buf = append(c.buf, v...)
}

// List walks a list, each element by a walk that writes at least a byte. An empty
// list is read as nil.
func List[T any](c *Coder, list *[]T, each func(*Coder, *T)) {
	n := uint64(len(*list))
	Uint(c, &n)
	if !c.reading {
		for i := range *list {
			each(c, &(*list)[i])
		}
		return
	}
	*list = nil
	if n > uint64(len(c.buf)) {
		c.Fail(ErrCorrupt)
		return
	}
	// The number is believed only as far as elements follow.
	for range n {
		if c.err != nil {
			return
		}
		var v T
		each(c, &v)
		*list = append(*list, v)
	}
}

// Strings walks a list of strings.
func Strings(c *Coder, list *[]string) { List(c, list, String[string]) }

func (c *Coder) uvarint() uint64 {
	u, n := binary.Uvarint(c.buf)
	if n <= 0 || n > 1 && c.buf[n-1] == 0 { // cut off, too large, or longer than need be
		c.Fail(ErrCorrupt)
		return 0
	}
	c.buf = c.buf[n:]
	return u
}

func (c *Coder) take(n uint64) []byte {
	if n > uint64(len(c.buf)) {
		c.Fail(ErrCorrupt)
		return nil
	}
	taken := c.buf[:n]
	c.buf = c.buf[n:]
	return taken
}
