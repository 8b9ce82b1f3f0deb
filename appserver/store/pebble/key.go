package pebble

import (
	"bytes"
	"fmt"

	"darklaunch/appserver/store"
)

// A cell's key is its row's key, escaped and ended, its family as one byte, and
// its qualifier. In a row's key 00 is written 00 FF, and 00 01 ends it: so keys
// are in the order of rows, families and qualifiers, and no row's are among
// another's. The fence is the first of its row, with an empty qualifier.

const rowEnds = "\x00\x01"

func escape(b, rowKey []byte) []byte {
	for _, c := range rowKey {
		b = append(b, c)
		if c == 0 {
			b = append(b, 0xff)
		}
	}
	return b
}

// rowPrefix begins all keys of a row, and no other.
func rowPrefix(rowKey []byte) []byte {
	return append(escape(make([]byte, 0, len(rowKey)+8), rowKey), rowEnds...)
}

// rowEnd is greater than all keys that begin with prefix, and less than the next row's.
func rowEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	end[len(end)-1]++
	return end
}

func fenceKey(prefix []byte) []byte {
	return append(bytes.Clone(prefix), byte(store.FenceFamily))
}

// splitKey returns what begins all keys of the row, and whose it is.
func splitKey(key []byte) (prefix []byte, user string, err error) {
	escaped, _, found := bytes.Cut(key, []byte(rowEnds))
	rowKey := bytes.ReplaceAll(escaped, []byte("\x00\xff"), []byte{0})
	user, ok := store.UserOf(rowKey)
	if !found || !ok {
		return nil, "", fmt.Errorf("key %x is of no row", key)
	}
	return bytes.Clone(key[:len(escaped)+len(rowEnds)]), user, nil
}
