package inbox

import (
	"bytes"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"darklaunch/appserver/legacy"
)

// Copy is all that a user's mailbox holds of a thread.
type Copy struct {
	ID      string
	Subject string
	Folder  string
	Members []Member // sorted by user
	Letters []Letter // by time, then id; deleted ones too
}

// Member is a user in a thread.
type Member struct {
	User   string
	Joined int64 // milliseconds since 1970
	By     string
}

// Letter is a message of a copy, and to whom it went.
type Letter struct {
	Message
	To      []string
	Deleted bool
}

// Users returns all users who have a mailbox, sorted.
func (x *Inbox) Users() (users []string, err error) {
	err = x.data.View(func(r pebble.Reader) error {
		it, err := r.NewIter(&pebble.IterOptions{LowerBound: []byte{keyCopy}, UpperBound: []byte{keyCopy + 1}})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; {
			user, _, _ := bytes.Cut(it.Key()[1:], []byte{0})
			users = append(users, string(user))
			ok = it.SeekGE(append([]byte{keyCopy}, append(slices.Clone(user), 1)...))
		}
		if err := it.Error(); err != nil {
			_ = it.Close()
			return err
		}
		return it.Close()
	})
	return users, err
}

// Copies returns a user's mailbox, by thread, empty threads too.
func (x *Inbox) Copies(user string) (all []Copy, err error) {
	err = x.data.View(func(r pebble.Reader) error {
		var ids []uint64
		if err := legacy.Scan(r, key(keyCopy, named(user)), nil, func(rest, _ []byte) error {
			ids = append(ids, idOf(rest))
			return nil
		}); err != nil {
			return err
		}
		for _, id := range ids {
			c, err := exported(r, user, id)
			if err != nil {
				return err
			}
			all = append(all, c)
		}
		return nil
	})
	return all, err
}

func exported(r pebble.Reader, user string, id uint64) (Copy, error) {
	have, t, _, err := copyOf(r, user, id)
	if err != nil {
		return Copy{}, err
	}
	c := Copy{ID: legacy.FormatID(id), Subject: t.subject, Folder: have.folder}
	for _, m := range t.members {
		c.Members = append(c.Members, Member{m.user, m.joined, m.by})
	}
	err = legacy.Scan(r, key(keyEntry, named(user), number(id)), nil, func(rest, value []byte) error {
		var e entry
		if err := decode(value, &e); err != nil {
			return err
		}
		m, err := messageOf(r, idAt(rest))
		c.Letters = append(c.Letters, Letter{Message{legacy.FormatID(idAt(rest)), c.ID, m.from, m.body, m.time, e.read}, m.to, e.deleted})
		return err
	})
	slices.Reverse(c.Letters) // they stand newest first
	return c, err
}
