package inbox

import (
	"encoding/binary"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cockroachdb/pebble/v2"

	"darklaunch/appserver/legacy"
)

// Thread is a user's copy of a thread.
type Thread struct {
	ID       string   `json:"id"`
	Subject  string   `json:"subject"`
	Folder   string   `json:"folder"`
	Messages int      `json:"messages"`
	Unread   int      `json:"unread"`
	With     []string `json:"with"`
	Time     int64    `json:"time"`
	Preview  string   `json:"preview"`
}

// Message is a user's copy of a message.
type Message struct {
	ID     string `json:"id"`
	Thread string `json:"thread"`
	From   string `json:"from"`
	Body   string `json:"body"`
	Time   int64  `json:"time"`
	Read   bool   `json:"read"`
}

// Hit is a message that was found.
type Hit struct {
	ID     string `json:"id"`
	Thread string `json:"thread"`
	From   string `json:"from"`
	Time   int64  `json:"time"`
}

// Count is how many messages of a folder are not read, counted to 100.
type Count struct {
	Folder string `json:"folder"`
	Unread int    `json:"unread"`
}

// Filter says which threads to list. Zero fields do not restrict.
type Filter struct {
	Folder string
	Unread *bool
	Before int64
	Limit  int
}

func limit(n int) (int, error) {
	if n == 0 {
		return defaultLimit, nil
	}
	if n < 0 || n > maxLimit {
		return 0, invalid("limit: want 1 to %d", maxLimit)
	}
	return n, nil
}

// Threads lists a user's threads, newest first.
func (x *Inbox) Threads(user string, f Filter) ([]Thread, error) {
	most, err := limit(f.Limit)
	if err != nil {
		return nil, err
	}
	found := []Thread{}
	err = x.data.View(func(r pebble.Reader) error {
		return legacy.Scan(r, key(keyThreadList, named(user)), before(f.Before), func(rest, _ []byte) error {
			id, _ := legacy.ParseID(string(rest[8:]))
			have, t, _, err := copyOf(r, user, id)
			if err != nil {
				return err
			}
			if f.Folder != "" && have.folder != f.Folder || f.Unread != nil && *f.Unread != (have.unread > 0) {
				return nil
			}
			shown, err := show(r, id, have, t)
			if found = append(found, shown); err == nil && len(found) == most {
				err = io.EOF
			}
			return err
		})
	})
	return found, err
}

func show(r pebble.Reader, id uint64, have threadCopy, t thread) (Thread, error) {
	m, err := messageOf(r, have.newestID)
	return Thread{ID: legacy.FormatID(id), Subject: t.subject, Folder: have.folder, Messages: int(have.messages), Unread: int(have.unread),
		With: t.users(), Time: have.newest, Preview: Cut(m.body, maxPreview)}, err
}

// Cut returns at most n bytes of s, cut between characters.
func Cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Thread returns a thread and a page of its messages, newest first.
func (x *Inbox) Thread(user, threadID string, beforeTime int64, most int) (shown Thread, messages []Message, err error) {
	if most, err = limit(most); err != nil {
		return shown, nil, err
	}
	id, ok := legacy.ParseID(threadID)
	if !ok {
		return shown, nil, notFound("thread", threadID)
	}
	messages = []Message{}
	err = x.data.View(func(r pebble.Reader) error {
		have, t, _, err := copyOf(r, user, id)
		if err != nil || have.messages == 0 {
			return cmpErr(err, notFound("thread", threadID))
		}
		if shown, err = show(r, id, have, t); err != nil {
			return err
		}
		return legacy.Scan(r, key(keyEntry, named(user), number(id)), before(beforeTime), func(rest, value []byte) error {
			var e entry
			if err := decode(value, &e); err != nil || e.deleted {
				return err
			}
			m, err := messageOf(r, idAt(rest))
			messages = append(messages, Message{legacy.FormatID(idAt(rest)), threadID, m.from, m.body, m.time, e.read})
			if err == nil && len(messages) == most {
				err = io.EOF
			}
			return err
		})
	})
	return shown, messages, err
}

// Search returns the messages in which, or in whose subject, all words of q are, newest
// first.
func (x *Inbox) Search(user, q string, most int) ([]Hit, error) {
	most, err := limit(most)
	if err != nil {
		return nil, err
	}
	words := strings.Fields(q)
	if len(words) == 0 || len(words) > maxWords || len(q) > MaxSubject {
		return nil, invalid("q: want 1 to %d words", maxWords)
	}
	for i, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return !unicode.In(r, unicode.L, unicode.M, unicode.N) }) || w == "AND" || w == "OR" || w == "NOT" {
			return nil, invalid("q: want words of letters and digits, none of them AND, OR or NOT")
		}
		words[i] = x.words(w)
	}
	hits := []Hit{}
	err = x.data.View(func(r pebble.Reader) error {
		return legacy.Scan(r, key(keyMessageList, named(user)), nil, func(rest, value []byte) error {
			m, err := messageOf(r, idAt(rest))
			if err != nil {
				return err
			}
			for _, w := range words {
				if !strings.Contains(m.words, w) {
					return nil
				}
			}
			id, thread := legacy.FormatID(idAt(rest)), legacy.FormatID(binary.BigEndian.Uint64(value))
			if hits = append(hits, Hit{id, thread, m.from, m.time}); len(hits) == most {
				return io.EOF
			}
			return nil
		})
	})
	return hits, err
}

// Counts returns the counts of a folder, or of all.
func (x *Inbox) Counts(user, folder string) ([]Count, error) {
	unread := map[string]uint64{}
	err := x.data.View(func(r pebble.Reader) error {
		return legacy.Scan(r, key(keyCopy, named(user)), nil, func(_, value []byte) error {
			var have threadCopy
			err := decode(value, &have)
			unread[have.folder] += have.unread
			return err
		})
	})
	counts := []Count{}
	for _, f := range folders {
		if folder == "" || f == folder {
			counts = append(counts, Count{f, int(min(unread[f], maxCount))})
		}
	}
	return counts, err
}
