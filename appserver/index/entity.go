package index

import (
	"fmt"

	"darklaunch/appserver/action"
	"darklaunch/internal/wire"
)

// Stats are the figures of a mailbox: what MailboxStats answers. Messages are those
// not deleted; threads, those that have one.
type Stats struct {
	Bytes    int64 // capacity used: contents until they are purged, and subjects
	Messages uint64
	Threads  uint64
	Replies  uint64
	Friends  uint64 // users, not addresses, to whom the user has ever sent a message
	Keys     uint64 // idempotency keys remembered
	Closed   bool   // the account is
}

func (s *Stats) walk(c *wire.Coder) {
	wire.Int(c, &s.Bytes)
	wire.Uint(c, &s.Messages)
	wire.Uint(c, &s.Threads)
	wire.Uint(c, &s.Replies)
	wire.Uint(c, &s.Friends)
	wire.Uint(c, &s.Keys)
	wire.Bool(c, &s.Closed)
}

// Folder is the entity of a folder: its figures. All are sums over its threads that
// have a message.
type Folder struct {
	Threads         uint64
	Messages        uint64
	UnreadThreads   uint64
	UnreadMessages  uint64
	ArchivedThreads uint64
	// Counted are unread messages neither archived nor in a muted thread, and the
	// threads that have one: of the Inbox, the home page's numbers.
	CountedMessages uint64
	CountedThreads  uint64
}

func (f *Folder) walk(c *wire.Coder) {
	for _, n := range []*uint64{&f.Threads, &f.Messages, &f.UnreadThreads, &f.UnreadMessages,
		&f.ArchivedThreads, &f.CountedMessages, &f.CountedThreads} {
		wire.Uint(c, n)
	}
}

// count adds t's share to f, n times; -1 takes it away.
func (f *Folder) count(t *Thread, n int) {
	if t.Messages == 0 {
		return
	}
	d := uint64(n) // two's complement: adding it takes away
	f.Threads += d
	f.Messages += d * t.Messages
	f.UnreadMessages += d * t.Unread
	if t.Unread > 0 {
		f.UnreadThreads += d
	}
	if t.IsArchived() {
		f.ArchivedThreads += d
	}
	if t.Counted > 0 && !t.Muted {
		f.CountedMessages += d * t.Counted
		f.CountedThreads += d
	}
}

// Thread is the entity of a thread. Messages counted are those not deleted.
type Thread struct {
	ID           string // in the qualifier, not in the value
	Subject      string
	Folder       action.Folder
	ReplyHandler string
	Muted        bool
	Tags         []string // sorted
	Messages     uint64
	Unread       uint64
	Archived     uint64 // messages archived
	Counted      uint64 // messages neither read nor archived
	// Newest is the display time of its newest message, NewestSequence that message.
	Newest         action.Time
	NewestSequence uint64
	// Placed is the sequence of the action that last changed Newest.
	Placed uint64
	// Members are all that is known of who is or was in it, by participant. Under V2
	// they are a cell of their own: see View.Members.
	Members []action.MemberState
}

// IsArchived reports whether all messages are archived.
func (t *Thread) IsArchived() bool { return t.Archived == t.Messages }

func (t *Thread) walk(c *wire.Coder, schema Schema) {
	wire.String(c, &t.Subject)
	wire.Uint(c, &t.Folder)
	wire.String(c, &t.ReplyHandler)
	wire.Bool(c, &t.Muted)
	wire.Strings(c, &t.Tags)
	wire.Uint(c, &t.Messages)
	wire.Uint(c, &t.Unread)
	wire.Uint(c, &t.Archived)
	wire.Uint(c, &t.Counted)
	wire.Int(c, &t.Newest)
	wire.Uint(c, &t.NewestSequence)
	wire.Uint(c, &t.Placed)
	if schema < V2 {
		action.WalkMemberStates(c, &t.Members)
	}
}

// count adds m's share to t, n times.
func (t *Thread) count(m *Message, n int) {
	if m.Deleted {
		return
	}
	d := uint64(n)
	t.Messages += d
	if !m.Read {
		t.Unread += d
	}
	if m.Archived {
		t.Archived += d
	}
	if !m.Read && !m.Archived {
		t.Counted += d
	}
}

// cells are the qualifiers of the indexes that t is in.
func (t *Thread) cells(schema Schema) [][]byte {
	if t.Messages == 0 {
		return nil
	}
	folder, newest := string([]byte{byte(t.Folder)}), inverted(t.Newest)
	all := [][]byte{qualifier(byFolder, folder, newest, t.ID)}
	if t.Unread > 0 && schema >= V2 {
		all = append(all, qualifier(byUnread, folder, newest, t.ID))
	}
	for _, tag := range t.Tags {
		all = append(all, qualifier(byTag, tag, "\x00", t.ID))
	}
	return all
}

// MaxSnippet is how much of a body a message's entity holds, in bytes.
const MaxSnippet = 200

// Message is the entity of a message. It stays, with little in it, when the message
// is purged: its id is never free again.
type Message struct {
	Sequence uint64 // in the qualifier, not in the value
	Thread   string
	ID       string
	Author   action.Participant
	Channel  action.Channel
	Time     action.Time
	LogTime  action.Time
	Reply    bool
	Read     bool
	Archived bool
	Deleted  bool
	Purged   bool
	Tags     []string // sorted
	Bytes    int64    // of contents; 0 when purged
	// Snippet is the body's beginning, at most MaxSnippet bytes cut between characters.
	// Whole: it is all of the contents, so that the log need not be read for them.
	Snippet string
	Whole   bool
}

func (m *Message) walk(c *wire.Coder) {
	wire.String(c, &m.Thread)
	wire.String(c, &m.ID)
	wire.String(c, &m.Author.User)
	wire.String(c, &m.Author.Email)
	wire.Uint(c, &m.Channel)
	wire.Int(c, &m.Time)
	wire.Int(c, &m.LogTime)
	flags := []*bool{&m.Reply, &m.Read, &m.Archived, &m.Deleted, &m.Purged, &m.Whole}
	var bits uint8
	for i, f := range flags {
		if *f {
			bits |= 1 << i
		}
	}
	wire.Uint(c, &bits)
	for i, f := range flags {
		*f = bits>>i&1 == 1
	}
	wire.Strings(c, &m.Tags)
	wire.Int(c, &m.Bytes)
	wire.String(c, &m.Snippet)
}

// encode returns what walk writes.
func encode(walk func(*wire.Coder)) []byte {
	c := wire.Writer(nil)
	walk(c)
	b, _ := c.Close() // a writer has no errors of its own
	return b
}

// decode reads value by walk. ErrCorrupt.
func decode(what string, value []byte, walk func(*wire.Coder)) error {
	c := wire.Reader(value)
	walk(c)
	if _, err := c.Close(); err != nil {
		return fmt.Errorf("decode %s: %w", what, ErrCorrupt)
	}
	return nil
}
