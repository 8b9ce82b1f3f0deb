// Package chat is the old Chat: one-to-one conversations over gRPC.
// api/legacy/chat/v1/chat.proto is its API.
package chat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"darklaunch/appserver/legacy"
	"darklaunch/internal/wire"
)

// Limits of requests.
const (
	MaxUser      = 60       // bytes
	MaxBody      = 64 << 10 // bytes
	maxLimit     = 100
	defaultLimit = 20
	maxUsers     = 100 // of a Presence
)

// The keys. Numbers are 8 bytes big-endian, ^n inverted.
//
//	M conversation 0 ^time ^id   message
//	I id                         its conversation
//	P user                       time of the last message that the user sent
const (
	keyMessage = 'M'
	keyID      = 'I'
	keySent    = 'P'
)

// Chat is the data and what can be done with them. Its methods may be called from any
// number of goroutines. Errors are legacy.ErrInvalid, ErrNotFound, ErrExists; any other
// is of the disk, and the outcome of a Send is unknown then.
type Chat struct{ data *legacy.Data }

// Open opens the data in dir. ErrInUse and ErrKind of legacy.
func Open(dir string, cfg legacy.Config) (*Chat, error) {
	data, err := legacy.Open(dir, legacy.Chat, cfg)
	if err != nil {
		return nil, err
	}
	return &Chat{data}, nil
}

// Close lets go of the data. No call may be under way.
func (c *Chat) Close() error { return c.data.Close() }

// Position returns how far the data went when they were opened.
func (c *Chat) Position() legacy.Position { return c.data.Position() }

// Message is one thing said.
type Message struct {
	ID           uint64
	Time         int64 // milliseconds since 1970
	Conversation string
	From, To     string
	Body         string
}

func (m *Message) walk(c *wire.Coder) {
	wire.String(c, &m.From)
	wire.String(c, &m.To)
	wire.String(c, &m.Body)
}

// Conversation is the id of the conversation of two users.
func Conversation(a, b string) string { return min(a, b) + ":" + max(a, b) }

// Users are the two users of a conversation.
func Users(conversation string) (a, b string, ok bool) {
	a, b, _ = strings.Cut(conversation, ":")
	return a, b, ValidUser(a) && ValidUser(b) && a < b
}

// ValidUser reports whether s can be a user's name.
func ValidUser(s string) bool {
	return s != "" && len(s) <= MaxUser && !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' || r == ':' })
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", legacy.ErrInvalid, fmt.Sprintf(format, args...))
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func prefix(conversation string) []byte { return append([]byte{keyMessage}, conversation+"\x00"...) }

// Send says something to another user.
func (c *Chat) Send(from, to, body string, assigned *legacy.Stamp) (Message, error) {
	switch {
	case !ValidUser(to):
		return Message{}, invalid("to: want 1 to %d bytes of printable ASCII without colon", MaxUser)
	case to == from:
		return Message{}, invalid("to: want somebody else")
	case body == "" || len(body) > MaxBody || !utf8.ValidString(body) || strings.ContainsRune(body, 0):
		return Message{}, invalid("body: want 1 to %d bytes of UTF-8 without NUL", MaxBody)
	}
	m := Message{Conversation: Conversation(from, to), From: from, To: to, Body: body}
	_, err := c.data.Do(assigned, func(b *pebble.Batch, s legacy.Stamp) error {
		m.ID, m.Time = s.ID, s.Time
		id := append([]byte{keyID}, number(s.ID)...)
		if used, err := legacy.Get(b, id); err != nil {
			return err
		} else if used != nil {
			return fmt.Errorf("message %s: %w", s.Text(), legacy.ErrExists)
		}
		last, err := lastSent(b, from)
		if err != nil {
			return err
		}
		w := wire.Writer(nil)
		m.walk(w)
		value, _ := w.Close()                      // a writer has no errors of its own
		_ = b.Set(id, []byte(m.Conversation), nil) // a batch in memory takes all
		_ = b.Set(bytes.Join([][]byte{prefix(m.Conversation), number(^uint64(s.Time)), number(^s.ID)}, nil), value, nil)
		_ = b.Set(sentKey(from), number(uint64(max(last, s.Time))), nil)
		return nil
	})
	return m, err
}

func sentKey(user string) []byte { return append([]byte{keySent}, user...) }

func lastSent(r pebble.Reader, user string) (int64, error) {
	value, err := legacy.Get(r, sentKey(user))
	if err != nil || len(value) != 8 {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(value)), nil
}

// History returns messages of one of the user's conversations, newest first: at most
// limit, 0 meaning 20, and only those before a time if that is not 0.
func (c *Chat) History(user, conversation string, limit int, before int64) ([]Message, error) {
	if limit == 0 {
		limit = defaultLimit
	}
	if limit < 0 || limit > maxLimit || before < 0 {
		return nil, invalid("limit: want 1 to %d; before_ms: want milliseconds since 1970", maxLimit)
	}
	a, b, ok := Users(conversation)
	if !ok || user != a && user != b {
		return nil, fmt.Errorf("conversation %q: %w", conversation, legacy.ErrNotFound)
	}
	var from []byte
	if before > 0 {
		from = number(^uint64(before - 1))
	}
	var all []Message
	err := c.data.View(func(r pebble.Reader) error {
		some := false
		err := legacy.Scan(r, prefix(conversation), nil, func([]byte, []byte) error {
			some = true
			return io.EOF
		})
		if err == nil && !some {
			err = fmt.Errorf("conversation %q: %w", conversation, legacy.ErrNotFound)
		}
		if err != nil {
			return err
		}
		return legacy.Scan(r, prefix(conversation), from, func(rest, value []byte) error {
			m, err := decode(conversation, rest, value)
			if all = append(all, m); err == nil && len(all) == limit {
				err = io.EOF
			}
			return err
		})
	})
	return all, err
}

func decode(conversation string, rest, value []byte) (Message, error) {
	m := Message{Conversation: conversation, Time: int64(^binary.BigEndian.Uint64(rest)), ID: ^binary.BigEndian.Uint64(rest[8:])}
	c := wire.Reader(value)
	m.walk(c)
	if _, err := c.Close(); err != nil {
		return m, fmt.Errorf("message %d: %w", m.ID, err)
	}
	return m, nil
}

// LastSent returns when a user last sent something, 0 for never.
func (c *Chat) LastSent(user string) (at int64, err error) {
	err = c.data.View(func(r pebble.Reader) error {
		at, err = lastSent(r, user)
		return err
	})
	return at, err
}

// Conversations returns all conversations, sorted.
func (c *Chat) Conversations() (all []string, err error) {
	err = c.data.View(func(r pebble.Reader) error {
		it, err := r.NewIter(&pebble.IterOptions{LowerBound: []byte{keyMessage}, UpperBound: []byte{keyMessage + 1}})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; {
			id, _, _ := bytes.Cut(it.Key()[1:], []byte{0})
			all = append(all, string(id))
			ok = it.SeekGE([]byte("M" + string(id) + "\x01"))
		}
		if err := it.Error(); err != nil {
			_ = it.Close()
			return err
		}
		return it.Close()
	})
	return all, err
}

// Messages returns a conversation, by time, then id.
func (c *Chat) Messages(conversation string) (all []Message, err error) {
	err = c.data.View(func(r pebble.Reader) error {
		return legacy.Scan(r, prefix(conversation), nil, func(rest, value []byte) error {
			m, err := decode(conversation, rest, value)
			all = append(all, m)
			return err
		})
	})
	slices.Reverse(all) // they stand newest first
	return all, err
}
