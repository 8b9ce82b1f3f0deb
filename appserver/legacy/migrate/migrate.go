// Package migrate brings users of the old Inbox and Chat into a cell: what these hold
// becomes action logs, and metadata and keywords are made from those. It also compares
// the two. A user's log is a function of the old data, so that an import can be run
// again after it was ended at any point: what is there already is held against what
// there should be, and the rest appended.
package migrate

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/chat"
	"darklaunch/appserver/legacy/inbox"
)

// Old is the old data. Either may be nil.
type Old struct {
	Inbox *inbox.Inbox
	Chat  *chat.Chat
	// Name is what the cell calls a user: another name for who has no mailbox there. Nil:
	// everybody has the same name in both.
	Name func(user string) string

	conversations map[string][]string // by user
}

// NewOld returns the old data, which nobody may change meanwhile.
func NewOld(x *inbox.Inbox, c *chat.Chat) (*Old, error) {
	o := &Old{Inbox: x, Chat: c, conversations: map[string][]string{}}
	if c == nil {
		return o, nil
	}
	all, err := c.Conversations()
	if err != nil {
		return nil, fmt.Errorf("list conversations: %w", err)
	}
	for _, id := range all {
		a, b, _ := chat.Users(id)
		for _, u := range []string{a, b} {
			o.conversations[u] = append(o.conversations[u], id)
		}
	}
	return o, nil
}

// Users returns the users of both, sorted.
func (o *Old) Users() ([]string, error) {
	users := slices.Collect(maps.Keys(o.conversations))
	if o.Inbox != nil {
		more, err := o.Inbox.Users()
		if err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		users = append(users, more...)
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// Part reports whether a user is of the part index of total: each is of exactly one.
func Part(user string, index, total int) bool {
	h := fnv.New64a()
	_, _ = h.Write([]byte(user)) // never fails
	return h.Sum64()%uint64(total) == uint64(index)
}

// conversation is a thread of either system.
type conversation struct {
	thread  string
	subject string
	folder  action.Folder
	members []action.MemberState
	letters []letter
}

type letter struct {
	action.Message
	old     uint64 // id
	to      []action.Participant
	read    bool
	deleted bool
}

func (o *Old) user(u string) action.Participant {
	if o.Name != nil {
		u = o.Name(u)
	}
	return action.Participant{User: action.User(u)}
}

func (o *Old) users(all []string) (to []action.Participant) {
	for _, u := range all {
		to = append(to, o.user(u))
	}
	return to
}

func timeOf(millis int64) action.Time { return action.Time(millis * 1e6) }

var folders = map[string]action.Folder{inbox.FolderInbox: action.FolderInbox, inbox.FolderOther: action.FolderOther}

// threads returns what a user has in both systems.
func (o *Old) threads(u string) (all []*conversation, err error) {
	if o.Inbox != nil {
		copies, err := o.Inbox.Copies(u)
		if err != nil {
			return nil, fmt.Errorf("read the Inbox: %w", err)
		}
		for i := range copies {
			all = append(all, o.ofInbox(&copies[i]))
		}
	}
	for _, id := range o.conversations[u] {
		messages, err := o.Chat.Messages(id)
		if err != nil {
			return nil, fmt.Errorf("read the Chat: %w", err)
		}
		all = append(all, o.ofChat(id, messages))
	}
	return all, nil
}

func (o *Old) ofInbox(c *inbox.Copy) *conversation {
	thread := legacy.Name(legacy.Inbox, c.ID)
	v := &conversation{thread: thread, subject: c.Subject, folder: folders[c.Folder], members: o.states(c.Members)}
	for _, l := range c.Letters {
		old, _ := legacy.ParseID(l.ID)
		v.letters = append(v.letters, letter{old: old, to: o.users(l.To), read: l.Read, deleted: l.Deleted, Message: action.Message{
			Thread: thread, ID: legacy.Name(legacy.Inbox, l.ID), Author: o.user(l.From), Channel: action.ChannelMessage, Time: timeOf(l.Time),
			Reply: l.ID != c.ID, Body: l.Body}})
	}
	return v
}

// states are members as every copy of the thread knows them: who joined together has
// one stamp.
func (o *Old) states(members []inbox.Member) (all []action.MemberState) {
	var joins []int64
	for _, m := range members {
		joins = append(joins, m.Joined)
	}
	slices.Sort(joins)
	joins = slices.Compact(joins)
	for _, m := range members {
		stamp, _ := slices.BinarySearch(joins, m.Joined)
		all = append(all, action.MemberState{Stamp: uint64(stamp) + 1, By: o.user(m.By),
			Member: action.Member{Participant: o.user(m.User), Kind: action.MemberCellUser, Joined: timeOf(m.Joined), AddedBy: o.user(m.By)}})
	}
	return all
}

// ofChat is a conversation. It was read, as far as Chat knows of reading.
func (o *Old) ofChat(id string, messages []chat.Message) *conversation {
	a, b, _ := chat.Users(id)
	first := messages[0]
	thread := legacy.Name(legacy.Chat, id)
	v := &conversation{thread: thread, folder: action.FolderInbox,
		members: o.states([]inbox.Member{{User: a, Joined: first.Time, By: first.From}, {User: b, Joined: first.Time, By: first.From}})}
	for i, m := range messages {
		v.letters = append(v.letters, letter{old: m.ID, to: o.users([]string{m.To}), read: true, Message: action.Message{
			Thread: thread, ID: legacy.Name(legacy.Chat, legacy.FormatID(m.ID)), Author: o.user(m.From), Channel: action.ChannelChat,
			Time: timeOf(m.Time), Reply: i > 0, Body: m.Body}})
	}
	return v
}

// Log returns the log of a user's mailbox as the old data make it: messages in order of
// time, then what was read and deleted. Its actions have no times: those are when they
// were imported.
func (o *Old) Log(u string) ([]action.Action, error) {
	threads, err := o.threads(u)
	if err != nil {
		return nil, err
	}
	type entry struct {
		*conversation
		*letter
	}
	var all []entry
	for _, t := range threads {
		if len(t.letters) == 0 {
			return nil, fmt.Errorf("thread %s has no messages", t.thread)
		}
		for i := range t.letters {
			all = append(all, entry{t, &t.letters[i]})
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.thread, b.thread), cmp.Compare(a.old, b.old))
	})
	l := &log{}
	self := o.user(u)
	for _, e := range all {
		if e.letter == &e.letters[0] {
			l.add(e.Channel, &action.ThreadCreated{Thread: e.thread, Subject: e.subject, Folder: e.folder, Members: e.members})
		}
		if e.Author == self {
			l.add(e.Channel, &action.MessageCreated{Message: e.Message, Recipients: e.to})
		} else {
			l.add(e.Channel, &action.MessageDelivered{Message: e.Message})
		}
	}
	for _, t := range threads {
		l.states(t, self)
	}
	return l.actions, nil
}

type log struct{ actions []action.Action }

func (l *log) add(c action.Channel, do action.Do) {
	l.actions = append(l.actions, action.Action{Sequence: uint64(len(l.actions)) + 1, Channel: c, Origin: action.OriginJob, Do: do})
}

// maxTargets is how many messages one action names.
const maxTargets = 100

// states adds what became of a thread's messages after they came.
func (l *log) states(t *conversation, self action.Participant) {
	var read, unread, deleted []string
	for _, m := range t.letters {
		if m.deleted {
			deleted = append(deleted, m.ID)
		}
		switch own := m.Author == self; {
		case m.read && !own:
			read = append(read, m.ID)
		case !m.read && own:
			unread = append(unread, m.ID)
		}
	}
	channel := t.letters[0].Channel
	for ids := range slices.Chunk(read, maxTargets) {
		l.add(channel, &action.Read{Target: action.Target{Thread: t.thread, Messages: ids}, Is: true})
	}
	for ids := range slices.Chunk(unread, maxTargets) {
		l.add(channel, &action.Read{Target: action.Target{Thread: t.thread, Messages: ids}})
	}
	for ids := range slices.Chunk(deleted, maxTargets) {
		l.add(channel, &action.Deleted{Target: action.Target{Thread: t.thread, Messages: ids}})
	}
}
