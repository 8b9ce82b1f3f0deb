package verdict

import (
	"encoding/binary"
	"errors"
	"time"
)

// kind is what an entry of the journal tells of.
type kind byte

const (
	began    kind = 'b' // a mirror's stream; body: its Header
	window   kind = 'w' // body: the record as it came
	pair     kind = 'p' // body: the record as it came
	shed     kind = 's' // body: how many records, as a varint
	ended    kind = 'e' // a mirror's stream
	closed   kind = 'c' // the oldest open window of the comparison of that key
	renewed  kind = 'n' // the judgement of the comparison of that key begins anew
	notified kind = 'k' // of the comparison of that key, the change of that number was told
)

// entry is one thing that changes what is known. Everything does that is not
// configuration: state is what all entries come to, in order.
type entry struct {
	kind     kind
	at       time.Time
	who      string // a mirror's id or a comparison's key
	sequence uint64
	body     []byte
}

// append appends e as the journal has it.
func (e *entry) append(b []byte) []byte {
	b = append(b, byte(e.kind))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.at.UnixNano()))
	b = binary.AppendUvarint(b, uint64(len(e.who)))
	b = append(b, e.who...)
	b = binary.AppendUvarint(b, e.sequence)
	return append(b, e.body...)
}

var errEntry = errors.New("an entry of the journal that is none")

// parseEntry reads what append wrote; the body is b's.
func parseEntry(b []byte) (e entry, err error) {
	if len(b) < 9 {
		return e, errEntry
	}
	e.kind = kind(b[0])
	e.at = time.Unix(0, int64(binary.LittleEndian.Uint64(b[1:])))
	b = b[9:]
	size, n := binary.Uvarint(b)
	if n <= 0 || uint64(len(b)-n) < size {
		return e, errEntry
	}
	e.who, b = string(b[n:n+int(size)]), b[n+int(size):]
	if e.sequence, n = binary.Uvarint(b); n <= 0 {
		return e, errEntry
	}
	e.body = b[n:]
	return e, nil
}
