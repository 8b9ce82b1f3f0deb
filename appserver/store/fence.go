package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// Fence says who may write a row now, and how far its log goes. It is compared
// as a whole: two fences are the same write exactly if all fields are equal.
type Fence struct {
	// Epoch rises by one with each claim of the row. All puts of one epoch are
	// of one owner.
	Epoch uint64
	// Seq is the sequence number of the newest action in the log, 0 if there is
	// none yet.
	Seq uint64
	// Tag is random and new for each put, so that no fence comes twice.
	Tag Tag
	// Ring is the newest view of the members by which the row was claimed or
	// handed over.
	Ring Ring
	// Flags are the states of the row beyond being owned.
	Flags Flags
}

// Tag tells one put from all others. Zero is no tag.
type Tag [16]byte

// Ring is a view of a cell's members: the incarnation of the ensemble that keeps
// them, and the number of the view within it. A larger one is newer. Safety does
// not rest on it; it decides who should claim, not who may.
type Ring struct {
	Incarnation, Number uint64
}

// Compare orders views by age: negative if r is older than s.
func (r Ring) Compare(s Ring) int {
	return cmp.Or(cmp.Compare(r.Incarnation, s.Incarnation), cmp.Compare(r.Number, s.Number))
}

// Flags of a fence. Bits that are not named here are kept as they are.
type Flags uint64

const (
	// Sealed says that the user has been moved to another cell, or may be on the way
	// from one: nobody claims the row, and only who moves the user writes it.
	Sealed Flags = 1 << iota
	// Arriving says of a sealed row that it is the latter.
	Arriving
)

// Generation returns how often the row's user has been moved between cells: the upper
// 32 bits.
func (f Flags) Generation() uint64 { return uint64(f >> 32) }

// WithGeneration returns f with another generation, which is below 1<<32.
func (f Flags) WithGeneration(g uint64) Flags { return f&(1<<32-1) | Flags(g<<32) }

// FenceSize is the length of an encoded fence.
const FenceSize = 56

// AppendFence appends the fence as it is stored: FenceSize bytes, all numbers big-endian.
//
//	 0  8  epoch
//	 8  8  seq
//	16 16  tag
//	32  8  ring incarnation
//	40  8  ring number
//	48  8  flags
func (f Fence) AppendFence(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, f.Epoch)
	b = binary.BigEndian.AppendUint64(b, f.Seq)
	b = append(b, f.Tag[:]...)
	b = binary.BigEndian.AppendUint64(b, f.Ring.Incarnation)
	b = binary.BigEndian.AppendUint64(b, f.Ring.Number)
	return binary.BigEndian.AppendUint64(b, uint64(f.Flags))
}

// DecodeFence is the inverse of AppendFence. No bytes are the zero fence, that of
// an absent row. A fence of another length was written by something newer.
func DecodeFence(b []byte) (Fence, error) {
	if len(b) == 0 {
		return Fence{}, nil
	}
	if len(b) != FenceSize {
		return Fence{}, fmt.Errorf("decode fence: %d bytes, want %d", len(b), FenceSize)
	}
	f := Fence{
		Epoch: binary.BigEndian.Uint64(b),
		Seq:   binary.BigEndian.Uint64(b[8:]),
		Tag:   Tag(b[16:32]),
		Ring:  Ring{binary.BigEndian.Uint64(b[32:]), binary.BigEndian.Uint64(b[40:])},
		Flags: Flags(binary.BigEndian.Uint64(b[48:])),
	}
	if f.Tag == (Tag{}) {
		return Fence{}, fmt.Errorf("decode fence: it has no tag")
	}
	return f, nil
}

func (f Fence) String() string {
	return fmt.Sprintf("epoch %d seq %d tag %x ring %d.%d flags %x", f.Epoch, f.Seq, f.Tag[:4], f.Ring.Incarnation, f.Ring.Number, uint64(f.Flags))
}
