package index

import (
	"encoding/base64"
	"encoding/binary"
	"errors"

	"darklaunch/appserver/action"
	"darklaunch/internal/wire"
)

// The first byte of a qualifier.
const (
	cellVersion   = 'v'
	cellStats     = 's'
	cellFolder    = 'F'
	cellThread    = 'T'
	cellMembers   = 'P'
	cellMessage   = 'M'
	byMessageID   = 'i'
	byThread      = 'm'
	byTime        = 'd'
	byFolder      = 'f'
	byUnread      = 'u'
	byTag         = 'g'
	byAuthor      = 'a'
	byFriend      = 'p'
	byKey         = 'k'
	byKeySequence = 'K'
)

// present is the value of a cell whose qualifier says all.
var present = []byte{1}

func qualifier(kind byte, parts ...string) []byte {
	n := 1
	for _, p := range parts {
		n += len(p)
	}
	q := append(make([]byte, 0, n), kind)
	for _, p := range parts {
		q = append(q, p...)
	}
	return q
}

// sequenced is kind ‖ sequence.
func sequenced(kind byte, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, sequence)
}

// inverted is t in 8 bytes that sort newest first: so the columns of one folder or
// thread begin with what is asked for most.
func inverted(t action.Time) string {
	return string(binary.BigEndian.AppendUint64(nil, ^(uint64(t) ^ 1<<63)))
}

func uninverted(b []byte) action.Time {
	return action.Time(^binary.BigEndian.Uint64(b) ^ 1<<63)
}

// place is inverted time ‖ inverted sequence: of a message in a list.
func place(t action.Time, sequence uint64) string {
	return inverted(t) + string(binary.BigEndian.AppendUint64(nil, ^sequence))
}

// sequenceAt is the sequence at the end of a qualifier with a place.
func sequenceAt(q []byte) uint64 { return ^binary.BigEndian.Uint64(q[len(q)-8:]) }

// author is a participant as part of a qualifier.
func author(p action.Participant) string {
	if p.Email != "" {
		return "e" + p.Email
	}
	return "u" + string(p.User)
}

// after is the least qualifier above all that begin with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// next is the least qualifier above q.
func next(q []byte) []byte { return append(append(make([]byte, 0, len(q)+1), q...), 0) }

// Cursor is a place in a list: after the last thing shown. It stays right whatever
// happens to the mailbox between pages.
type Cursor struct {
	// Time and Thread, or Time and Sequence of a message, of what was shown last.
	Time     action.Time
	Thread   string
	Sequence uint64
	// Version of the mailbox when the walk began: a thread that has moved since is
	// passed over, as it may have been shown already.
	Version uint64
}

// ErrCursor is returned by ParseCursor: the token is not one, or of another request.
var ErrCursor = errors.New("page token is not of this request")

func (c *Cursor) walk(w *wire.Coder) {
	wire.Int(w, &c.Time)
	wire.String(w, &c.Thread)
	wire.Uint(w, &c.Sequence)
	wire.Uint(w, &c.Version)
}

// Token returns c for the client to hand back with the same request.
func (c Cursor) Token(request action.Digest) string {
	w := wire.Writer(append([]byte(nil), request[:8]...))
	c.walk(w)
	token, _ := w.Close() // a writer has no errors of its own
	return base64.RawURLEncoding.EncodeToString(token)
}

// ParseCursor returns the cursor of a token that Token made for the same request.
func ParseCursor(token string, request action.Digest) (Cursor, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 8 || string(b[:8]) != string(request[:8]) {
		return Cursor{}, ErrCursor
	}
	var c Cursor
	r := wire.Reader(b[8:])
	c.walk(r)
	if _, err := r.Close(); err != nil {
		return Cursor{}, ErrCursor
	}
	return c, nil
}
