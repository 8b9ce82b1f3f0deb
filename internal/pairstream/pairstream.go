// Package pairstream frames the records of pair.v1 on a connection or in a file:
// a mirror writes them, a verdict reads them, and neither need import the other.
//
// A stream is Magic, then records, each its length as a varint and so many bytes
// of a pairv1.Record. The first is a Header. On a connection to who asks for it, a
// token comes before Magic.
package pairstream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
)

// Magic begins a stream. Another version of the framing has another last byte.
const Magic = "DLPAIRS1"

// MaxRecord is the largest record, in bytes.
const MaxRecord = 4 << 20

// keepBuffer is the largest buffer that a Reader keeps from record to record.
const keepBuffer = 256 << 10

var (
	// ErrMagic is returned by Next where a stream does not begin with Magic.
	ErrMagic = errors.New("not a pair stream")
	// ErrTooLarge is returned for a record of more than MaxRecord bytes.
	ErrTooLarge = errors.New("record too large")
	// ErrNoHeader is returned by Next where the first record is no Header, or a
	// later one is.
	ErrNoHeader = errors.New("pair stream: its first record, and no other, is a header")
)

// Append appends r, framed, to dst. ErrTooLarge: dst is unchanged.
func Append(dst []byte, r *pairv1.Record) ([]byte, error) {
	size := proto.Size(r)
	if size > MaxRecord {
		return dst, fmt.Errorf("record of %d bytes: %w", size, ErrTooLarge)
	}
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(protowire.AppendVarint(dst, uint64(size)), r)
	if err != nil {
		return dst, fmt.Errorf("record: %w", err)
	}
	return out, nil
}

// Reader reads a stream. It allocates what has come and not what is announced.
// It is not safe for concurrent use.
type Reader struct {
	r      *bufio.Reader
	begun  bool // Magic has been read
	header *pairv1.Header
	buf    []byte
	offset int64
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Header returns the stream's, once Next has returned it.
func (r *Reader) Header() *pairv1.Header { return r.header }

// Next returns the next record, which is the caller's. io.EOF: the stream ended
// between two records. Any other error says where it is; nothing can be read
// after it. io.ErrUnexpectedEOF: the stream was cut within a record, which is
// how a connection that broke ends.
func (r *Reader) Next() (*pairv1.Record, error) {
	record, err := r.next()
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("pair stream at byte %d: %w", r.offset, err)
	}
	return record, err
}

func (r *Reader) next() (*pairv1.Record, error) {
	raw, err := r.raw()
	if err != nil {
		return nil, err
	}
	record, err := Decode(raw)
	if err != nil {
		return nil, err
	}
	if h := record.GetHeader(); (h == nil) != (r.header != nil) {
		return nil, ErrNoHeader
	} else if h != nil {
		r.header = h
	}
	return record, nil
}

// Raw returns the next record as it came, for Peek and Decode: the caller may do
// with fewer than all. The bytes are the Reader's again at its next call. Errors
// are those of Next; the Header must be read by Next.
func (r *Reader) Raw() ([]byte, error) {
	raw, err := r.raw()
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("pair stream at byte %d: %w", r.offset, err)
	}
	return raw, err
}

// Buffered is how many bytes there are already of what comes next: 0 if the next
// call may have to wait.
func (r *Reader) Buffered() int { return r.r.Buffered() }

func (r *Reader) raw() ([]byte, error) {
	if !r.begun {
		if err := r.magic(); err != nil {
			return nil, err
		}
		r.begun = true
	}
	err := r.read()
	return r.buf, err
}

func (r *Reader) magic() error {
	var magic [len(Magic)]byte
	n, err := io.ReadFull(r.r, magic[:])
	r.offset += int64(n)
	if err == nil && string(magic[:]) != Magic {
		err = ErrMagic
	}
	return err
}

// read reads one record into buf.
func (r *Reader) read() error {
	size, err := binary.ReadUvarint(r.r)
	switch {
	case err != nil:
		return err
	case size > MaxRecord:
		return fmt.Errorf("%d bytes: %w", size, ErrTooLarge)
	}
	if cap(r.buf) > keepBuffer {
		r.buf = nil
	}
	r.buf = r.buf[:0]
	for len(r.buf) < int(size) {
		from := len(r.buf)
		n := min(int(size)-from, 64<<10)
		r.buf = append(r.buf, make([]byte, n)...)
		if _, err := io.ReadFull(r.r, r.buf[from:]); err != nil {
			return cut(err)
		}
	}
	r.offset += int64(protowire.SizeVarint(size)) + int64(size)
	return nil
}

// cut is the error of a stream that ends where it should not.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Histogram returns h as a window has it; nil if h is nil or empty.
func Histogram(h *hist.Hist) *pairv1.Histogram {
	if h == nil || h.Count() == 0 {
		return nil
	}
	out, last := new(pairv1.Histogram), 0
	for i, n := range h.Buckets() {
		out.Steps = append(out.Steps, uint32(i-last))
		out.Counts = append(out.Counts, uint64(n))
		last = i
	}
	return out
}

// Merge adds what w counts to h. It is an error if w is not what Histogram
// returns; h may then hold some of it.
func Merge(h *hist.Hist, w *pairv1.Histogram) error {
	if len(w.GetSteps()) != len(w.GetCounts()) {
		return fmt.Errorf("histogram: %d buckets with %d counts", len(w.GetSteps()), len(w.GetCounts()))
	}
	i := 0
	for k, step := range w.GetSteps() {
		if step == 0 && k > 0 {
			return errors.New("histogram: a bucket twice")
		}
		i += int(step)
		if n := w.Counts[k]; n > 1<<62 {
			return fmt.Errorf("histogram: %d durations, more than can be true", n)
		}
		if err := h.AddBucket(i, int64(w.Counts[k])); err != nil {
			return err
		}
	}
	return nil
}
