package migrate

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
)

// Difference is one way in which a user's mailbox in a cell is not what the old data
// say.
type Difference struct {
	User   string `json:"user"`
	Thread string `json:"thread,omitempty"`
	What   string `json:"what"`
}

// Compare holds the mailbox of u in a cell against the old data: threads, their folders,
// subjects, members and unread messages, and each message with its author, time and body;
// and the cell's metadata and keywords against its log, which may be ahead of them. What
// Chat does not know, whether a message was read, is not compared. language is that of
// the servers' search.
func Compare(ctx context.Context, o *Old, s store.Store, u, language string) ([]Difference, error) {
	log, err := o.Log(u)
	if err != nil {
		return nil, err
	}
	want, err := mailboxOf(log)
	if err != nil {
		return nil, err
	}
	var found []Difference
	if _, err := mailbox.Check(ctx, s, u, language); errors.Is(err, context.Canceled) {
		return nil, err
	} else if err != nil {
		found = append(found, Difference{u, "", err.Error()})
	}
	have, err := ReadLog(ctx, s, u)
	if err != nil {
		return append(found, Difference{u, "", err.Error()}), ctx.Err()
	}
	got, err := mailboxOf(have)
	if err != nil {
		return append(found, Difference{u, "", err.Error()}), nil
	}
	for _, id := range union(want, got) {
		for _, what := range differ(want[id], got[id]) {
			found = append(found, Difference{u, id, what})
		}
	}
	return found, nil
}

// shown is a thread as its user sees it.
type shown struct {
	index.Thread
	members  []action.Participant
	messages map[string]shownMessage
}

type shownMessage struct {
	index.Message
	body [sha256.Size]byte
}

func union(a, b map[string]shown) (ids []string) {
	for _, m := range []map[string]shown{a, b} {
		for id := range m {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// mailboxOf folds a log and returns what its user sees, by thread.
func mailboxOf(log []action.Action) (map[string]shown, error) {
	if len(log) == 0 {
		return nil, nil
	}
	cells, err := index.Rebuild(index.Latest, slices.Values(log))
	if err != nil {
		return nil, err
	}
	view, err := index.Open(cells)
	if err != nil {
		return nil, err
	}
	all := map[string]shown{}
	threads, _, err := view.Threads(index.Filter{Limit: len(log)})
	if err != nil {
		return nil, err
	}
	for _, t := range threads {
		v := shown{Thread: t, messages: map[string]shownMessage{}}
		states, err := view.Members(&t)
		if err != nil {
			return nil, err
		}
		for _, m := range index.Present(states) {
			v.members = append(v.members, m.Participant)
		}
		slices.SortFunc(v.members, action.Participant.Compare)
		messages, _, err := view.Messages(t.ID, false, len(log), nil)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			v.messages[m.ID] = shownMessage{m, sha256.Sum256([]byte(action.MessageOf(log[m.Sequence-1].Do).Body))}
		}
		all[t.ID] = v
	}
	return all, nil
}

// differ says how a thread of the cell is not that of the old data.
func differ(want, got shown) (what []string) {
	say := func(format string, args ...any) { what = append(what, fmt.Sprintf(format, args...)) }
	switch {
	case got.ID == "":
		say("it is missing in the cell")
		return what
	case want.ID == "":
		say("the old data do not have it")
		return what
	}
	if want.Subject != got.Subject {
		say("subject: %d and %d bytes, not the same", len(want.Subject), len(got.Subject))
	}
	if want.Folder != got.Folder {
		say("folder: old %d, cell %d", want.Folder, got.Folder)
	}
	if !slices.Equal(want.members, got.members) {
		say("members: old %v, cell %v", want.members, got.members)
	}
	var ids []string
	for _, m := range []map[string]shownMessage{want.messages, got.messages} {
		for id := range m {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		w, g := want.messages[id], got.messages[id]
		switch {
		case g.ID == "":
			say("message %s is missing in the cell", id)
		case w.ID == "":
			say("message %s: the old data do not have it", id)
		case w.Author != g.Author || w.Time != g.Time:
			say("message %s: old by %v at %d, cell by %v at %d", id, w.Author, w.Time, g.Author, g.Time)
		case w.body != g.body:
			say("message %s: the bodies differ", id)
		case w.Read != g.Read && cmp.Or(w.Channel, g.Channel) != action.ChannelChat:
			say("message %s: old read %v, cell read %v", id, w.Read, g.Read)
		}
	}
	return what
}
