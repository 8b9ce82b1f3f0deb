package action

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"darklaunch/internal/wire"
)

// Folder is where a thread lies; the numbers are those of messages.v1.
type Folder uint8

// The folders. FolderNone is no folder: in a filter, any.
const (
	FolderNone Folder = iota
	FolderInbox
	FolderOther
)

// Folders are all folders, by number.
var Folders = [...]Folder{FolderInbox, FolderOther}

// Attachment refers to a blob, or to what a blob holds.
type Attachment struct {
	Blob      string // the blob store's handle
	Name      string
	MediaType string
	Size      int64  // bytes
	SHA256    string // 32 bytes, or empty
}

func walkAttachment(c *wire.Coder, a *Attachment) {
	wire.String(c, &a.Blob)
	wire.String(c, &a.Name)
	wire.String(c, &a.MediaType)
	wire.Int(c, &a.Size)
	wire.String(c, &a.SHA256)
}

func (a Attachment) check() error {
	if a.Blob == "" || a.Size < 0 || len(a.SHA256) != 0 && len(a.SHA256) != 32 || !text(a.Blob, a.Name, a.MediaType) {
		return errors.New("attachment")
	}
	return nil
}

// Message is one mailbox's copy of a message, as it came.
type Message struct {
	Thread string
	ID     string
	Author Participant
	// Channel by which it came into the system, at its author's.
	Channel Channel
	// Time is when it was sent, for display and the order of lists.
	Time Time
	// Reply: it was sent into a thread that existed.
	Reply bool
	// Body is plain text; of a large body, its beginning.
	Body string
	// LargeBody names the whole of a large body; none or one.
	LargeBody []Attachment
	// Attachments are in the author's order.
	Attachments []Attachment
	// Stripped: a purge took the contents away (see Strip). StrippedBytes is how much.
	Stripped      bool
	StrippedBytes int64
}

// ContentBytes is what the message counts against its mailbox's capacity until its
// contents are purged: body, large body and attachments. It survives Strip.
func (m *Message) ContentBytes() int64 {
	n := int64(len(m.Body)) + m.StrippedBytes
	for _, a := range m.Attachments {
		n += a.Size
	}
	for _, a := range m.LargeBody {
		n += a.Size - int64(len(m.Body)) // its beginning is counted already
	}
	return max(n, 0)
}

func (m *Message) walk(c *wire.Coder) {
	wire.String(c, &m.Thread)
	wire.String(c, &m.ID)
	walkParticipant(c, &m.Author)
	wire.Uint(c, &m.Channel)
	wire.Int(c, &m.Time)
	wire.Bool(c, &m.Reply)
	if wire.Bool(c, &m.Stripped); m.Stripped {
		wire.Int(c, &m.StrippedBytes)
		return
	}
	wire.String(c, &m.Body)
	wire.List(c, &m.LargeBody, walkAttachment)
	wire.List(c, &m.Attachments, walkAttachment)
}

func (m *Message) check() error {
	switch {
	case !ValidID(m.Thread) || !ValidID(m.ID):
		return errors.New("thread or message id: want 1 to 128 bytes of printable ASCII")
	case m.Channel == ChannelNone || m.Channel > ChannelMessage:
		return fmt.Errorf("message of channel %d", m.Channel)
	case !text(m.Body):
		return errors.New("body: want UTF-8")
	case len(m.LargeBody) > 1:
		return errors.New("more than one large body")
	case m.Stripped && (m.Body != "" || m.LargeBody != nil || m.Attachments != nil), !m.Stripped && m.StrippedBytes != 0, m.StrippedBytes < 0:
		return errors.New("stripped, but not of all")
	}
	for _, list := range [][]Attachment{m.LargeBody, m.Attachments} {
		for _, a := range list {
			if err := a.check(); err != nil {
				return err
			}
		}
	}
	return m.Author.check()
}

// Target is what an attribute of is changed: a thread, or messages of it.
type Target struct {
	Thread string
	// Messages of the thread, by id; none means the thread.
	Messages []string
	// Through: of a thread, its messages up to this sequence; 0 means all there are.
	Through uint64
}

func (t *Target) walk(c *wire.Coder) {
	wire.String(c, &t.Thread)
	wire.Strings(c, &t.Messages)
	wire.Uint(c, &t.Through)
}

func (t *Target) check() error {
	for _, id := range append([]string{t.Thread}, t.Messages...) {
		if !ValidID(id) {
			return errors.New("thread or message id: want 1 to 128 bytes of printable ASCII")
		}
	}
	if len(t.Messages) > 0 && t.Through > 0 {
		return errors.New("through, and messages")
	}
	return nil
}

// The types of Do. Each names what is there after it, so that doing it twice is doing
// it once. An action on what its mailbox does not have changes nothing.
type (
	// ThreadCreated begins a thread in this mailbox, in front of its first message.
	ThreadCreated struct {
		Thread       string
		Subject      string
		Folder       Folder
		ReplyHandler string
		Members      []MemberState
	}
	// MessageCreated is a message that the mailbox's user sent. It is read.
	MessageCreated struct {
		Message
		// Recipients are the thread's members when it was sent, without the author
		// unless alone: an outbox entry for each but the author, and the answer to a
		// repeated request.
		Recipients []Participant
	}
	// MessageDelivered is a message that somebody else sent.
	MessageDelivered struct {
		Message
		// Relay are those to whom this mailbox delivers it in turn, as it came by mail to
		// the thread's reply handler: an outbox entry each.
		Relay []Participant
	}
	// MessageRefused remembers, for the sake of its key, a delivery that was not
	// taken: the mailbox's user has left the thread.
	MessageRefused struct{ Thread, Message string }
	// Read sets or clears the read attribute of messages.
	Read struct {
		Target
		Is bool
	}
	// Archived sets or clears the archived attribute of messages.
	Archived struct {
		Target
		Is bool
	}
	// Tagged adds and removes tags, of a thread or of messages.
	Tagged struct {
		Target
		Add, Remove []string
	}
	// Moved lays a thread into another folder.
	Moved struct {
		Thread string
		Folder Folder
	}
	// Muted sets or clears a thread's muted attribute.
	Muted struct {
		Thread string
		Is     bool
	}
	// Deleted marks messages as deleted.
	Deleted struct{ Target }
	// Subscribed merges states of members who joined a thread.
	Subscribed struct{ Membership }
	// Unsubscribed merges states of members who left a thread.
	Unsubscribed struct{ Membership }
	// AccountClosed marks the mailbox as closed: its user has gone.
	AccountClosed struct{}
	// Purged says that the contents of messages deleted before were removed: from the
	// log by Strip, from entities and postings by the fold.
	Purged struct{ Messages []string }
)

// Membership is a change of a thread's members.
type Membership struct {
	Thread string
	// States to merge into the thread's; none of them may be news.
	States []MemberState
	// ReplyHandler of the thread, if it has got one by this.
	ReplyHandler string
	// After are the members after it, where the mailbox's user asked for it: the answer
	// to a repeated request.
	After []Member
	// Notify are those whose copies are to hear of it: an outbox entry each.
	Notify []Participant
}

func (m *Membership) walk(c *wire.Coder) {
	wire.String(c, &m.Thread)
	wire.List(c, &m.States, walkMemberState)
	wire.String(c, &m.ReplyHandler)
	wire.List(c, &m.After, walkMember)
	wire.List(c, &m.Notify, walkParticipant)
}

func (m *Membership) check() error {
	if !ValidID(m.Thread) || !text(m.ReplyHandler) {
		return errors.New("membership")
	}
	return errors.Join(checkStates(m.States), checkMembers(m.After), checkAll(m.Notify))
}

// Kind implements Do.
func (*ThreadCreated) Kind() Kind { return KindThreadCreated }

// Kind implements Do.
func (*MessageCreated) Kind() Kind { return KindMessageCreated }

// Kind implements Do.
func (*MessageDelivered) Kind() Kind { return KindMessageDelivered }

// Kind implements Do.
func (*MessageRefused) Kind() Kind { return KindMessageRefused }

// Kind implements Do.
func (*Read) Kind() Kind { return KindRead }

// Kind implements Do.
func (*Archived) Kind() Kind { return KindArchived }

// Kind implements Do.
func (*Tagged) Kind() Kind { return KindTagged }

// Kind implements Do.
func (*Moved) Kind() Kind { return KindMoved }

// Kind implements Do.
func (*Muted) Kind() Kind { return KindMuted }

// Kind implements Do.
func (*Deleted) Kind() Kind { return KindDeleted }

// Kind implements Do.
func (*Subscribed) Kind() Kind { return KindSubscribed }

// Kind implements Do.
func (*Unsubscribed) Kind() Kind { return KindUnsubscribed }

// Kind implements Do.
func (*AccountClosed) Kind() Kind { return KindAccountClosed }

// Kind implements Do.
func (*Purged) Kind() Kind { return KindPurged }

func newDo(k Kind) Do {
	switch k {
	case KindThreadCreated:
		return &ThreadCreated{}
	case KindMessageCreated:
		return &MessageCreated{}
	case KindMessageDelivered:
		return &MessageDelivered{}
	case KindMessageRefused:
		return &MessageRefused{}
	case KindRead:
		return &Read{}
	case KindArchived:
		return &Archived{}
	case KindTagged:
		return &Tagged{}
	case KindMoved:
		return &Moved{}
	case KindMuted:
		return &Muted{}
	case KindDeleted:
		return &Deleted{}
	case KindSubscribed:
		return &Subscribed{}
	case KindUnsubscribed:
		return &Unsubscribed{}
	case KindAccountClosed:
		return &AccountClosed{}
	case KindPurged:
		return &Purged{}
	}
	panic(fmt.Sprintf("action: kind %d without a type", k))
}

func (d *ThreadCreated) walk(c *wire.Coder) {
	wire.String(c, &d.Thread)
	wire.String(c, &d.Subject)
	wire.Uint(c, &d.Folder)
	wire.String(c, &d.ReplyHandler)
	wire.List(c, &d.Members, walkMemberState)
}

func (d *MessageCreated) walk(c *wire.Coder) {
	d.Message.walk(c)
	wire.List(c, &d.Recipients, walkParticipant)
}

func (d *MessageDelivered) walk(c *wire.Coder) {
	d.Message.walk(c)
	wire.List(c, &d.Relay, walkParticipant)
}

func (d *MessageRefused) walk(c *wire.Coder) {
	wire.String(c, &d.Thread)
	wire.String(c, &d.Message)
}

func (d *Read) walk(c *wire.Coder) {
	d.Target.walk(c)
	wire.Bool(c, &d.Is)
}

func (d *Archived) walk(c *wire.Coder) {
	d.Target.walk(c)
	wire.Bool(c, &d.Is)
}

func (d *Tagged) walk(c *wire.Coder) {
	d.Target.walk(c)
	wire.Strings(c, &d.Add)
	wire.Strings(c, &d.Remove)
}

func (d *Moved) walk(c *wire.Coder) {
	wire.String(c, &d.Thread)
	wire.Uint(c, &d.Folder)
}

func (d *Muted) walk(c *wire.Coder) {
	wire.String(c, &d.Thread)
	wire.Bool(c, &d.Is)
}

func (*AccountClosed) walk(*wire.Coder) {}

func (d *Purged) walk(c *wire.Coder) { wire.Strings(c, &d.Messages) }

func (d *ThreadCreated) check() error {
	if !ValidID(d.Thread) || !text(d.Subject, d.ReplyHandler) {
		return errors.New("thread")
	}
	return errors.Join(d.Folder.check(), checkStates(d.Members))
}

func (d *MessageCreated) check() error {
	return errors.Join(d.Message.check(), checkAll(d.Recipients))
}

func (d *MessageDelivered) check() error {
	return errors.Join(d.Message.check(), checkAll(d.Relay))
}

func (d *MessageRefused) check() error {
	return (&Target{Thread: d.Thread, Messages: []string{d.Message}}).check()
}

func (d *Tagged) check() error {
	for _, tags := range [][]string{d.Add, d.Remove} {
		for _, tag := range tags {
			if !ValidTag(tag) {
				return errors.New("tag: want 1 to 64 bytes of UTF-8 without control characters")
			}
		}
	}
	return d.Target.check()
}

func (d *Deleted) check() error { return d.Target.check() }

func (d *Moved) check() error {
	return errors.Join((&Target{Thread: d.Thread}).check(), d.Folder.check())
}

func (d *Muted) check() error { return (&Target{Thread: d.Thread}).check() }

func (*AccountClosed) check() error { return nil }

func (d *Purged) check() error {
	if len(d.Messages) == 0 {
		return errors.New("nothing purged")
	}
	for _, id := range d.Messages {
		if !ValidID(id) {
			return errors.New("message id: want 1 to 128 bytes of printable ASCII")
		}
	}
	return nil
}

func (f Folder) check() error {
	if f != FolderInbox && f != FolderOther {
		return fmt.Errorf("folder %d", f)
	}
	return nil
}

// MessageOf returns the message that came with an action, or nil.
func MessageOf(d Do) *Message {
	switch d := d.(type) {
	case *MessageCreated:
		return &d.Message
	case *MessageDelivered:
		return &d.Message
	}
	return nil
}

// Strip returns a without the contents of its message: body, attachments. A purge
// rewrites the log's record so, in its place. Replaying a stripped log together with
// the Purged that goes with it gives the same mailbox as the log before.
func Strip(a Action) Action {
	strip := func(m Message) Message {
		return Message{Thread: m.Thread, ID: m.ID, Author: m.Author, Channel: m.Channel, Time: m.Time,
			Reply: m.Reply, Stripped: true, StrippedBytes: m.ContentBytes()}
	}
	switch d := a.Do.(type) {
	case *MessageCreated:
		a.Do = &MessageCreated{Message: strip(d.Message), Recipients: d.Recipients}
	case *MessageDelivered:
		a.Do = &MessageDelivered{Message: strip(d.Message), Relay: d.Relay}
	}
	return a
}

func text(all ...string) bool {
	for _, s := range all {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}
