package action

import (
	"encoding/binary"
	"fmt"
	"slices"

	"darklaunch/internal/wire"
)

// Entry is a delivery that a mailbox owes: one action of its log to one participant.
// Entries are cells of the outbox family, put together with their action, so that
// neither is there without the other. What is to be delivered is not repeated here:
// it is in the log at Sequence, and the members that go with it are the thread's.
//
// An entry is done when the delivery was acknowledged under Key; then its cell may be
// deleted for good, as its qualifier never comes back. Delivering twice is delivering
// once, because the receiver knows Key.
type Entry struct {
	// Sequence of the action.
	Sequence uint64
	// To whom.
	To Participant
	// Key for Deliver, the same on each attempt and no other mailbox's.
	Key string
	// Time of the action; how old the duty is.
	Time Time
}

// Entries returns what u's mailbox owes by a, which is part of the same put. They
// follow from the log: replaying it gives them again.
func Entries(u User, a Action) []Entry {
	var to []Participant
	var key string
	switch d := a.Do.(type) {
	case *MessageCreated:
		to, key = d.Recipients, d.ID
	case *MessageDelivered:
		to, key = d.Relay, d.ID
	case *Subscribed:
		to, key = d.Notify, eventKey(u, a.Sequence)
	case *Unsubscribed:
		to, key = d.Notify, eventKey(u, a.Sequence)
	}
	var entries []Entry
	for _, p := range to {
		e := Entry{Sequence: a.Sequence, To: p, Key: key, Time: a.Time}
		if p != (Participant{User: u}) && !slices.Contains(entries, e) {
			entries = append(entries, e)
		}
	}
	return entries
}

// eventKey names a change of members in whatever mailbox hears of it.
func eventKey(u User, sequence uint64) string {
	return "e-" + made("event", string(u), string(Qualifier(sequence)))
}

// Qualifier returns the qualifier of the entry's cell: the action's sequence in 8
// bytes, 'u' or 'e', the address. So entries are in the order of the log.
func (e Entry) Qualifier() []byte {
	kind := byte('u')
	if e.To.Email != "" {
		kind = 'e'
	}
	return append(append(Qualifier(e.Sequence), kind), e.To.String()...)
}

// Value returns the value of the entry's cell, which is never empty.
func (e Entry) Value() []byte {
	c := wire.Writer([]byte{version})
	e.walk(c)
	value, _ := c.Close() // a writer has no errors of its own
	return value
}

func (e *Entry) walk(c *wire.Coder) {
	wire.String(c, &e.Key)
	wire.Int(c, &e.Time)
}

// DecodeEntry returns the entry of a cell; ErrNewer, ErrCorrupt.
func DecodeEntry(qualifier, value []byte) (Entry, error) {
	if len(value) > 0 && value[0] > version {
		return Entry{}, fmt.Errorf("decode outbox entry: version %d: %w", value[0], ErrNewer)
	}
	if len(qualifier) < 10 || len(value) == 0 || value[0] != version {
		return Entry{}, fmt.Errorf("decode outbox entry: %w", ErrCorrupt)
	}
	e := Entry{Sequence: binary.BigEndian.Uint64(qualifier)}
	switch address := string(qualifier[9:]); qualifier[8] {
	case 'u':
		e.To.User = User(address)
	case 'e':
		e.To.Email = address
	}
	c := wire.Reader(value[1:])
	e.walk(c)
	if _, err := c.Close(); err != nil || e.To.check() != nil || e.Sequence == 0 || !ValidID(e.Key) {
		return Entry{}, fmt.Errorf("decode outbox entry of action %d: %w", e.Sequence, ErrCorrupt)
	}
	return e, nil
}
