// Package inbox is the old Inbox: mailboxes of users who write to each other, over
// HTTP/1.1 and JSON. docs/reference/legacy.md is its API. Each member of a thread has a
// copy of it; a message and its delivery to all members are one change.
package inbox

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/search"
)

// The folders.
const (
	FolderInbox = "INBOX"
	FolderOther = "OTHER"
)

var folders = []string{FolderInbox, FolderOther}

// Limits of requests.
const (
	MaxUser       = 256      // bytes
	MaxBody       = 64 << 10 // bytes
	MaxSubject    = 1 << 10  // bytes
	MaxRecipients = 100
	MaxMembers    = 250
	maxPreview    = 200 // bytes
	maxWords      = 16  // of a search
	maxLimit      = 100
	defaultLimit  = 20
	maxCount      = 100
)

// Inbox is the data and what can be done with them. Its methods may be called from any
// number of goroutines. Errors are legacy.ErrInvalid, ErrNotFound, ErrExists; any other
// is of the disk, and the outcome of a change is unknown then.
type Inbox struct {
	data     *legacy.Data
	analyzer *search.Analyzer
}

// Open opens the data in dir. ErrInUse and ErrKind of legacy.
func Open(dir string, cfg legacy.Config) (*Inbox, error) {
	analyzer, err := search.NewAnalyzer(search.None)
	if err != nil {
		return nil, err
	}
	data, err := legacy.Open(dir, legacy.Inbox, cfg)
	if err != nil {
		return nil, err
	}
	return &Inbox{data, analyzer}, nil
}

// Close lets go of the data. No call may be under way.
func (x *Inbox) Close() error { return x.data.Close() }

// Position returns how far the data went when they were opened.
func (x *Inbox) Position() legacy.Position { return x.data.Position() }

// Draft is a message to be sent.
type Draft struct {
	Thread  string   `json:"thread,omitempty"` // to reply to; empty begins one
	To      []string `json:"to,omitempty"`     // besides the author; of a reply, who joins
	Subject string   `json:"subject,omitempty"`
	Body    string   `json:"body"`
}

// Receipt answers a change. Fields that it does not have are absent.
type Receipt struct {
	ID      string   `json:"id"`
	Thread  string   `json:"thread"`
	Time    int64    `json:"time"`
	From    string   `json:"from"`
	To      []string `json:"to"`
	Subject *string  `json:"subject,omitempty"`
	Body    string   `json:"body,omitempty"`
	Message string   `json:"message,omitempty"`
	Read    *bool    `json:"read,omitempty"`
	Folder  string   `json:"folder,omitempty"`
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", legacy.ErrInvalid, fmt.Sprintf(format, args...))
}

// ValidUser reports whether s can be a user's name.
func ValidUser(s string) bool {
	return s != "" && len(s) <= MaxUser && !strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' })
}

func (d *Draft) check() error {
	switch {
	case d.Body == "" || len(d.Body) > MaxBody || !utf8.ValidString(d.Body) || strings.ContainsRune(d.Body, 0):
		return invalid("body: want 1 to %d bytes of UTF-8 without NUL", MaxBody)
	case len(d.Subject) > MaxSubject || !utf8.ValidString(d.Subject) || strings.ContainsFunc(d.Subject, unicode.IsControl):
		return invalid("subject: want at most %d bytes of UTF-8 without control characters", MaxSubject)
	case d.Thread != "" && d.Subject != "":
		return invalid("subject: a reply has its thread's")
	case d.Thread == "" && len(d.To) == 0:
		return invalid("to: want a user at least, or a thread")
	case len(d.To) > MaxRecipients:
		return invalid("to: %d users, want at most %d", len(d.To), MaxRecipients)
	}
	for _, u := range d.To {
		if !ValidUser(u) {
			return invalid("to: want users of 1 to %d bytes of printable ASCII", MaxUser)
		}
	}
	return nil
}

// Send puts a message into the copies of all members of its thread.
func (x *Inbox) Send(user string, d Draft, assigned *legacy.Stamp) (Receipt, error) {
	return x.deliver(user, d, arrival{folder: FolderInbox}, assigned)
}

// Import is Send of what was sent elsewhere: recipients get a new thread in folder, the
// message is read by them or not, and its author need not be in the thread.
func (x *Inbox) Import(user string, d Draft, folder string, read bool, assigned legacy.Stamp) (Receipt, error) {
	return x.deliver(user, d, arrival{folder, read, true}, &assigned)
}

// arrival is how a message comes to its recipients.
type arrival struct {
	folder   string // of a thread that it begins
	read     bool
	stranger bool // its author need not be in the thread
}

func (x *Inbox) deliver(user string, d Draft, how arrival, assigned *legacy.Stamp) (Receipt, error) {
	if err := d.check(); err != nil {
		return Receipt{}, err
	}
	var r Receipt
	_, err := x.data.Do(assigned, func(b *pebble.Batch, s legacy.Stamp) error {
		id, t, err := threadFor(b, user, d, s, how.stranger)
		if err != nil {
			return err
		}
		if used, err := legacy.Get(b, key(keyMessage, number(s.ID))); err != nil || used != nil {
			return orExists(err, s)
		}
		if t.join(user, d.To, s.Time) {
			save(b, key(keyThread, number(id)), &t)
		}
		if len(t.members) > MaxMembers {
			return invalid("to: the thread would have %d members, want at most %d", len(t.members), MaxMembers)
		}
		m := message{thread: id, from: user, to: t.without(user), time: s.Time, body: d.Body, words: x.words(t.subject) + "\n" + x.words(d.Body)}
		save(b, key(keyMessage, number(s.ID)), &m)
		for _, to := range t.members {
			if err := add(b, to.user, s, &m, how); err != nil {
				return err
			}
		}
		r = Receipt{ID: s.Text(), Thread: legacy.FormatID(id), Time: s.Time, From: user, To: m.to, Subject: &t.subject, Body: d.Body}
		return nil
	})
	return r, err
}

func orExists(err error, s legacy.Stamp) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("message %s: %w", s.Text(), legacy.ErrExists)
}

// threadFor returns the thread that a draft goes to: the user's, or a new one.
func threadFor(b *pebble.Batch, user string, d Draft, s legacy.Stamp, stranger bool) (uint64, thread, error) {
	if d.Thread == "" {
		return s.ID, thread{subject: d.Subject}, nil
	}
	id, ok := legacy.ParseID(d.Thread)
	if !ok {
		return 0, thread{}, notFound("thread", d.Thread)
	}
	var t thread
	var err error
	if stranger {
		ok, err = load(b, key(keyThread, number(id)), &t)
	} else {
		_, t, ok, err = copyOf(b, user, id)
	}
	if err == nil && !ok {
		err = notFound("thread", d.Thread)
	}
	return id, t, err
}

func notFound(what, id string) error { return fmt.Errorf("%s %q: %w", what, id, legacy.ErrNotFound) }

// join adds who is no member, the author too, and reports whether there was one.
func (t *thread) join(author string, to []string, time int64) (changed bool) {
	for _, u := range append([]string{author}, to...) {
		i, in := slices.BinarySearchFunc(t.members, u, func(m member, u string) int { return strings.Compare(m.user, u) })
		if !in {
			t.members = slices.Insert(t.members, i, member{u, time, author})
			changed = true
		}
	}
	return changed
}

func (t *thread) users() []string {
	users := make([]string, len(t.members))
	for i, m := range t.members {
		users[i] = m.user
	}
	return users
}

// without is the members besides the author, unless alone.
func (t *thread) without(author string) []string {
	users := t.users()
	if len(users) == 1 {
		return users
	}
	return slices.DeleteFunc(users, func(u string) bool { return u == author })
}

// add puts a message into a user's copy of its thread.
func add(b *pebble.Batch, user string, s legacy.Stamp, m *message, how arrival) error {
	var was threadCopy
	known, err := load(b, key(keyCopy, named(user), number(m.thread)), &was)
	if err != nil {
		return err
	}
	is := was
	own := user == m.from
	switch {
	case own:
		is.folder = FolderInbox
	case !known:
		is.folder = how.folder
	}
	is.messages++
	if !own && !how.read {
		is.unread++
	}
	if is.messages == 1 || s.Time > is.newest || s.Time == is.newest && s.ID > is.newestID {
		is.newest, is.newestID = s.Time, s.ID
	}
	change(b, user, m.thread, was, is)
	save(b, key(keyEntry, named(user), number(m.thread), at(s.Time, s.ID)), &entry{read: own || how.read})
	_ = b.Set(key(keyMessageList, named(user), at(s.Time, s.ID)), number(m.thread), nil)
	return nil
}

// words are the terms of a text, each between spaces, in the order of the text; email
// addresses, which stand whole beside their parts, behind a mark.
func (x *Inbox) words(text string) string {
	var parts, whole strings.Builder
	parts.WriteByte(' ')
	for _, t := range x.analyzer.Tokens(text) {
		to := &parts
		if strings.ContainsRune(t.Term, '@') {
			to = &whole
		}
		to.WriteString(t.Term)
		to.WriteByte(' ')
	}
	return parts.String() + whole.String()
}

// Mark sets or clears the read attribute of a thread's messages, or of one of them.
func (x *Inbox) Mark(user, threadID, messageID string, read bool, assigned *legacy.Stamp) (Receipt, error) {
	r, err := x.edit(user, threadID, messageID, false, assigned, func(is *threadCopy, e *entry) bool {
		if e.deleted || e.read == read {
			return false
		}
		e.read = read
		if read {
			is.unread--
		} else {
			is.unread++
		}
		return true
	})
	r.Read = &read
	return r, err
}

// Delete deletes a thread's messages, or one of them, from the user's copy.
func (x *Inbox) Delete(user, threadID, messageID string, assigned *legacy.Stamp) (Receipt, error) {
	return x.edit(user, threadID, messageID, true, assigned, func(is *threadCopy, e *entry) bool {
		if e.deleted {
			return false
		}
		if !e.read {
			is.unread--
		}
		is.messages--
		e.deleted = true
		return true
	})
}

// Move lays a thread into a folder.
func (x *Inbox) Move(user, threadID, folder string, assigned *legacy.Stamp) (Receipt, error) {
	if !slices.Contains(folders, folder) {
		return Receipt{}, invalid("folder: want %s or %s", FolderInbox, FolderOther)
	}
	r, err := x.changeCopy(user, threadID, assigned, func(_ *pebble.Batch, _ uint64, is *threadCopy) error {
		if is.messages == 0 {
			return notFound("thread", threadID)
		}
		is.folder = folder
		return nil
	})
	r.Folder = folder
	return r, err
}

func (x *Inbox) changeCopy(user, threadID string, assigned *legacy.Stamp, do func(*pebble.Batch, uint64, *threadCopy) error) (Receipt, error) {
	id, ok := legacy.ParseID(threadID)
	if !ok {
		return Receipt{}, notFound("thread", threadID)
	}
	s, err := x.data.Do(assigned, func(b *pebble.Batch, _ legacy.Stamp) error {
		was, _, ok, err := copyOf(b, user, id)
		if err != nil || !ok {
			return cmpErr(err, notFound("thread", threadID))
		}
		is := was
		if err := do(b, id, &is); err != nil {
			return err
		}
		change(b, user, id, was, is)
		return nil
	})
	return Receipt{ID: s.Text(), Thread: threadID, Time: s.Time, From: user, To: []string{user}}, err
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// edit changes entries of a thread, or of one message of it. If deleted is not set a
// thread or message that is deleted is not found.
func (x *Inbox) edit(user, threadID, messageID string, deleted bool, assigned *legacy.Stamp, set func(*threadCopy, *entry) bool) (Receipt, error) {
	r, err := x.changeCopy(user, threadID, assigned, func(b *pebble.Batch, id uint64, is *threadCopy) error {
		if is.messages == 0 && !deleted {
			return notFound("thread", threadID)
		}
		entries, err := entriesOf(b, user, id, messageID, deleted)
		if err != nil {
			return err
		}
		for _, at := range entries {
			if !set(is, &at.entry) {
				continue
			}
			save(b, key(keyEntry, named(user), number(id), at.place), &at.entry)
			if at.deleted {
				remove(b, key(keyMessageList, named(user), at.place))
			}
		}
		return renew(b, user, id, is)
	})
	r.Message = messageID
	return r, err
}

type placed struct {
	entry
	place []byte // as at makes it
}

// entriesOf returns all entries of a copy, or that of one message.
func entriesOf(r pebble.Reader, user string, id uint64, messageID string, deleted bool) (all []placed, err error) {
	err = legacy.Scan(r, key(keyEntry, named(user), number(id)), nil, func(rest, value []byte) error {
		if messageID != "" && legacy.FormatID(idAt(rest)) != messageID {
			return nil
		}
		p := placed{place: slices.Clone(rest)}
		if err := decode(value, &p.entry); err != nil {
			return err
		}
		if messageID == "" || deleted || !p.deleted {
			all = append(all, p)
		}
		return nil
	})
	if err == nil && messageID != "" && len(all) == 0 {
		err = notFound("message", messageID)
	}
	return all, err
}

// renew finds the newest message of a copy again.
func renew(r pebble.Reader, user string, id uint64, is *threadCopy) error {
	is.newest, is.newestID = 0, 0
	return legacy.Scan(r, key(keyEntry, named(user), number(id)), nil, func(rest, value []byte) error {
		var e entry
		if err := decode(value, &e); err != nil || e.deleted {
			return err
		}
		is.newest, is.newestID = timeAt(rest), idAt(rest)
		return io.EOF
	})
}
