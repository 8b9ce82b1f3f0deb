package inbox

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"darklaunch/appserver/legacy"
	"darklaunch/internal/wire"
)

// The keys. Numbers are 8 bytes big-endian, ^n inverted; a user ends with a zero byte.
//
//	T thread                          thread: subject, members
//	M id                              message
//	C user thread                     the user's copy of a thread
//	c user thread ^time ^id           their copy of a message: flags
//	F user ^time text of thread       threads that have messages, by their newest
//	S user ^time ^id                  messages that are not deleted, by time: their thread
const (
	keyThread      = 'T'
	keyMessage     = 'M'
	keyCopy        = 'C'
	keyEntry       = 'c'
	keyThreadList  = 'F'
	keyMessageList = 'S'
)

type thread struct {
	subject string
	members []member // sorted by user
}

type member struct {
	user   string
	joined int64 // milliseconds: the time of the message that brought it in
	by     string
}

func (t *thread) walk(c *wire.Coder) {
	wire.String(c, &t.subject)
	wire.List(c, &t.members, func(c *wire.Coder, m *member) {
		wire.String(c, &m.user)
		wire.Int(c, &m.joined)
		wire.String(c, &m.by)
	})
}

type message struct {
	thread uint64
	from   string
	to     []string // all recipients, sorted
	time   int64
	body   string
	words  string // of subject and body: each between spaces, in order
}

func (m *message) walk(c *wire.Coder) {
	wire.Uint(c, &m.thread)
	wire.String(c, &m.from)
	wire.Strings(c, &m.to)
	wire.Int(c, &m.time)
	wire.String(c, &m.body)
	wire.String(c, &m.words)
}

type threadCopy struct {
	folder   string
	messages uint64
	unread   uint64
	newest   int64 // time and id of the newest message; of none if there are no messages
	newestID uint64
}

func (t *threadCopy) walk(c *wire.Coder) {
	wire.String(c, &t.folder)
	wire.Uint(c, &t.messages)
	wire.Uint(c, &t.unread)
	wire.Int(c, &t.newest)
	wire.Uint(c, &t.newestID)
}

type entry struct{ read, deleted bool }

func (e *entry) walk(c *wire.Coder) {
	wire.Bool(c, &e.read)
	wire.Bool(c, &e.deleted)
}

type record interface{ walk(*wire.Coder) }

func key(kind byte, parts ...[]byte) []byte {
	return append([]byte{kind}, bytes.Join(parts, nil)...)
}

func number(n uint64) []byte   { return binary.BigEndian.AppendUint64(nil, n) }
func inverted(n uint64) []byte { return number(^n) }
func named(user string) []byte { return append([]byte(user), 0) }

func at(time int64, id uint64) []byte { return append(inverted(uint64(time)), inverted(id)...) }

// before is a part of a key from which on times are less than time.
func before(time int64) []byte {
	if time == 0 {
		return nil
	}
	return inverted(uint64(time) - 1)
}

func timeAt(rest []byte) int64 { return int64(^binary.BigEndian.Uint64(rest)) }
func idAt(rest []byte) uint64  { return ^binary.BigEndian.Uint64(rest[8:]) }
func idOf(rest []byte) uint64  { return binary.BigEndian.Uint64(rest) }

// load reads a record; false if there is none.
func load(r pebble.Reader, key []byte, into record) (bool, error) {
	value, err := legacy.Get(r, key)
	if err != nil || value == nil {
		return false, err
	}
	return true, decode(value, into)
}

func decode(value []byte, into record) error {
	c := wire.Reader(value)
	into.walk(c)
	if _, err := c.Close(); err != nil {
		return fmt.Errorf("%T: %w", into, err)
	}
	return nil
}

func save(b *pebble.Batch, key []byte, from record) {
	c := wire.Writer(nil)
	from.walk(c)
	value, _ := c.Close()      // a writer has no errors of its own
	_ = b.Set(key, value, nil) // a batch in memory takes all
}

func remove(b *pebble.Batch, key []byte) { _ = b.Delete(key, nil) }

// copyOf reads a user's copy of a thread and the thread; false if there is none.
func copyOf(r pebble.Reader, user string, id uint64) (threadCopy, thread, bool, error) {
	var have threadCopy
	var t thread
	ok, err := load(r, key(keyCopy, named(user), number(id)), &have)
	if err != nil || !ok {
		return have, t, false, err
	}
	if ok, err = load(r, key(keyThread, number(id)), &t); err == nil && !ok {
		err = fmt.Errorf("thread %d is missing", id)
	}
	return have, t, ok, err
}

func messageOf(r pebble.Reader, id uint64) (message, error) {
	var m message
	ok, err := load(r, key(keyMessage, number(id)), &m)
	if err == nil && !ok {
		err = fmt.Errorf("message %d is missing", id)
	}
	return m, err
}

// listed is where a copy stands in the list of threads.
func listed(user string, id uint64, t threadCopy) []byte {
	return key(keyThreadList, named(user), inverted(uint64(t.newest)), []byte(legacy.FormatID(id)))
}

// change writes a copy of a thread, and with it its place in the list.
func change(b *pebble.Batch, user string, id uint64, was, is threadCopy) {
	if was.messages > 0 {
		remove(b, listed(user, id, was))
	}
	if is.messages > 0 {
		_ = b.Set(listed(user, id, is), nil, nil)
	}
	save(b, key(keyCopy, named(user), number(id)), &is)
}
