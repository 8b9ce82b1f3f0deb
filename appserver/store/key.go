package store

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

// RowKey is the key under which stores keep a user's row: the first two bytes of
// the user's XXH3 hash (64 bits, seed 0, big-endian), then the user as it is.
// The hash spreads users evenly over regions from the first on, whatever their
// names have in common, so that the keys to split a table at are known before
// there is data. A stored table depends on it: it never changes.
func RowKey(user string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(xxh3.HashString(user)>>48)), user...)
}

// UserOf is the inverse of RowKey. It reports false for what is none.
func UserOf(key []byte) (user string, ok bool) {
	if len(key) < 3 {
		return "", false
	}
	user = string(key[2:])
	return user, binary.BigEndian.Uint16(key) == uint16(xxh3.HashString(user)>>48)
}

// Range is the rows whose keys are in [From, To). An empty From or To is no bound.
type Range struct {
	From, To []byte
}

// Contains reports whether the row of a key is in r.
func (r Range) Contains(key []byte) bool {
	return string(key) >= string(r.From) && (len(r.To) == 0 || string(key) < string(r.To))
}

// After is what is left of r once the user's row has been dealt with.
func (r Range) After(user string) Range {
	return Range{append(RowKey(user), 0), r.To}
}

// Slice is part index of total of all rows, for a job of total workers that
// share nothing: the parts are disjoint, of about equal size, and together
// everything. It panics unless 0 ≤ index < total ≤ 65536.
func Slice(index, total int) Range {
	if index < 0 || index >= total || total > 1<<16 {
		panic("store: slice out of range")
	}
	return Range{bound(index, total), bound(index+1, total)}
}

// bound is the key at which part index of total begins; nil at either end.
func bound(index, total int) []byte {
	if index == 0 || index == total {
		return nil
	}
	return binary.BigEndian.AppendUint16(nil, uint16(index<<16/total))
}

// SplitKeys are the keys at which to split a table into so many regions of about
// equal size.
func SplitKeys(regions int) [][]byte {
	var keys [][]byte
	for i := 1; i < regions; i++ {
		keys = append(keys, bound(i, regions))
	}
	return keys
}
