// Package action is the log record of a mailbox: what was done to it, one action
// after the other. The log is the only truth about a mailbox; folders, threads,
// counters and the search index are folds of it (see index and search). It is also
// how mailboxes are exchanged: backup, migration and move read and write these
// records and nothing else.
//
// A record holds decisions, never questions: ids, times, folders and recipients are
// settled before an action is appended, so that whoever replays it asks no clock, no
// neighbour and no configuration, and every replay comes out the same.
//
// # The row
//
// In the family of actions a cell's qualifier is Qualifier(sequence) and its value is
// what Append wrote. Sequences of a mailbox begin at 1 and have no gaps. A mutation is
// one action or several next to each other, written in one put; the last of them, and
// no other, carries the mutation's idempotency key. The same put holds the mutation's
// outbox entries (see Entry).
//
// # The record
//
//	version      1 byte; this package writes 1. A greater one is ErrNewer
//	kind         which of the closed list; one beyond it is ErrNewer too
//	sequence     equal to the qualifier's
//	time         nanoseconds since 1970, zigzag
//	channel      1 email, 2 sms, 3 chat, 4 message, 0 none
//	origin       1 user, 2 delivery, 3 job
//	key          idempotency key, may be empty
//	request      16 bytes, only after a key
//	             then the fields of the kind, in the order of its Go type
//
// Numbers and strings are those of internal/wire. Each action has one form: what
// Decode takes, Append writes again byte by byte.
package action

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"darklaunch/internal/wire"
)

var (
	// ErrNewer is returned by Decode and DecodeEntry: a newer program wrote the
	// record. Nothing may be concluded from it, and nothing appended after it.
	ErrNewer = errors.New("record of a newer version")
	// ErrCorrupt is returned by Decode and DecodeEntry: no program wrote this.
	ErrCorrupt = errors.New("corrupt record")
	// ErrInvalid is returned by Append: the action breaks a rule of this package.
	ErrInvalid = errors.New("invalid action")
	// ErrBodyTooLarge is returned by Append: the body belongs in the blob store,
	// with its beginning here and Message.LargeBody naming the whole.
	ErrBodyTooLarge = errors.New("body too large for the log")
)

// version of the encoding that Append writes and the greatest that Decode reads.
const version = 1

// DefaultMaxBody is the limit of a body in bytes where none is configured.
const DefaultMaxBody = 64 << 10

// Time is nanoseconds since 1970 UTC: from 1678 to 2262.
type Time int64

// TimeOf returns t; false if it is outside what Time can hold.
func TimeOf(t time.Time) (Time, bool) {
	at := Time(t.UnixNano())
	return at, at.Time().Equal(t)
}

// Time returns t in UTC.
func (t Time) Time() time.Time { return time.Unix(0, int64(t)).UTC() }

// Channel is the way by which something came into the system; the numbers are those
// of messages.v1.
type Channel uint8

// The channels. An action that no message or caller brought, as of a job, has none.
const (
	ChannelNone Channel = iota
	ChannelEmail
	ChannelSMS
	ChannelChat
	ChannelMessage
)

var channelNames = [...]string{"none", "email", "sms", "chat", "message"}

func (c Channel) String() string { return name(channelNames[:], int(c)) }

// Origin is who had the action done. It is also the name space of its idempotency
// key: keys of different origins are apart.
type Origin uint8

// The origins.
const (
	OriginUser     Origin = iota + 1 // the mailbox's user, by a client
	OriginDelivery                   // another mailbox, or the mail proxy
	OriginJob                        // an offline job: import, purge
)

var originNames = [...]string{"none", "user", "delivery", "job"}

func (o Origin) String() string { return name(originNames[:], int(o)) }

// Kind tells actions apart.
type Kind uint8

// The closed list. Numbers are part of the encoding: never reuse one.
const (
	KindThreadCreated Kind = iota + 1
	KindMessageCreated
	KindMessageDelivered
	KindMessageRefused
	KindRead
	KindArchived
	KindTagged
	KindMoved
	KindMuted
	KindDeleted
	KindSubscribed
	KindUnsubscribed
	KindAccountClosed
	KindPurged
	kindEnd
)

var kindNames = [...]string{"none", "thread created", "message created", "message delivered", "message refused",
	"read", "archived", "tagged", "moved", "muted", "deleted", "subscribed", "unsubscribed", "account closed", "purged"}

func (k Kind) String() string { return name(kindNames[:], int(k)) }

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("number %d", i)
}

// Action is one entry of a mailbox's log. It is a value: nobody changes what its
// slices hold after it was appended.
type Action struct {
	// Sequence is its place in the log, from 1.
	Sequence uint64
	// Time is when the mailbox's server logged it. It may fall; sequence does not.
	Time Time
	// Channel by which the caller came.
	Channel Channel
	// Origin is who had it done.
	Origin Origin
	// Key is the idempotency key of the mutation that ends with this action: 1-128
	// bytes of printable ASCII, or empty.
	Key string
	// Request is the Digest of the request under Key, so that the key's reuse with
	// another request is recognised.
	Request Digest
	// Do is what was done.
	Do Do
}

// Do is what an action does: one of the types of this package that KindOf knows.
type Do interface {
	Kind() Kind
	walk(*wire.Coder)
	check() error
}

// Qualifier returns the qualifier of an action's cell: 8 bytes, big-endian, so that
// cells are in the order of the log.
func Qualifier(sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(nil, sequence)
}

// Append appends a's record to dst. maxBody is the limit of a body in bytes; zero
// means DefaultMaxBody. ErrBodyTooLarge and ErrInvalid: dst is not to be used.
func Append(dst []byte, a Action, maxBody int) ([]byte, error) {
	if maxBody == 0 {
		maxBody = DefaultMaxBody
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("append action %d: %w: %v", a.Sequence, ErrInvalid, err)
	}
	if m := MessageOf(a.Do); m != nil && len(m.Body) > maxBody {
		return nil, fmt.Errorf("append action %d: body of %d bytes, limit %d: %w", a.Sequence, len(m.Body), maxBody, ErrBodyTooLarge)
	}
	c := wire.Writer(append(dst, version))
	kind := a.Do.Kind()
	wire.Uint(c, &kind)
	a.walk(c)
	return c.Close()
}

// Decode returns the action that Append wrote. It keeps no part of record, checks the
// same rules as Append except for the limit of bodies, which may have changed since,
// and returns ErrNewer or ErrCorrupt.
func Decode(record []byte) (Action, error) {
	if len(record) == 0 {
		return Action{}, fmt.Errorf("decode action: empty: %w", ErrCorrupt)
	}
	if record[0] > version {
		return Action{}, fmt.Errorf("decode action: version %d, known are up to %d: %w", record[0], version, ErrNewer)
	}
	c := wire.Reader(record[1:])
	var kind uint64
	wire.Uint(c, &kind)
	if record[0] == 0 || c.Err() != nil || kind == 0 {
		return Action{}, fmt.Errorf("decode action: %w", ErrCorrupt)
	}
	if kind >= uint64(kindEnd) {
		return Action{}, fmt.Errorf("decode action: kind %d, known are up to %d: %w", kind, kindEnd-1, ErrNewer)
	}
	a := Action{Do: newDo(Kind(kind))}
	a.walk(c)
	if _, err := c.Close(); err != nil {
		return Action{}, fmt.Errorf("decode action %d (%v): %w", a.Sequence, Kind(kind), ErrCorrupt)
	}
	if err := a.check(); err != nil {
		return Action{}, fmt.Errorf("decode action %d (%v): %w: %v", a.Sequence, Kind(kind), ErrCorrupt, err)
	}
	return a, nil
}

func (a *Action) walk(c *wire.Coder) {
	wire.Uint(c, &a.Sequence)
	wire.Int(c, &a.Time)
	wire.Uint(c, &a.Channel)
	wire.Uint(c, &a.Origin)
	wire.String(c, &a.Key)
	if a.Key != "" {
		wire.Bytes(c, a.Request[:])
	}
	a.Do.walk(c)
}

func (a *Action) check() error {
	switch {
	case a.Sequence == 0:
		return errors.New("sequence 0")
	case a.Channel > ChannelMessage:
		return fmt.Errorf("channel %d", a.Channel)
	case a.Origin < OriginUser || a.Origin > OriginJob:
		return fmt.Errorf("origin %d", a.Origin)
	case a.Key != "" && !printable(a.Key, maxID):
		return errors.New("key: want 1 to 128 bytes of printable ASCII")
	case a.Key == "" && a.Request != Digest{}:
		return errors.New("request without a key")
	case a.Do == nil:
		return errors.New("nothing done")
	}
	return a.Do.check()
}
