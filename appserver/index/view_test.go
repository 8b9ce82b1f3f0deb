package index

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/appserver/action"
)

// model is a mailbox as one would write it down without an index: the log's meaning,
// done by looking at everything each time.
type model struct {
	threads  map[string]*modelThread
	messages map[string]*Message // by id
	friends  map[action.User]bool
	subjects int64
	closed   bool
}

type modelThread struct {
	id, subject, handler string
	folder               action.Folder
	muted                bool
	tags                 map[string]bool
	states               map[action.Participant]action.MemberState
}

func modelOf(log []action.Action) *model {
	m := &model{threads: map[string]*modelThread{}, messages: map[string]*Message{}, friends: map[action.User]bool{}}
	for _, a := range log {
		m.apply(a)
	}
	return m
}

func (m *model) apply(a action.Action) {
	each := func(target action.Target, do func(*Message)) {
		for _, x := range m.messages {
			if x.Thread == target.Thread && !x.Deleted && (len(target.Messages) == 0 || slices.Contains(target.Messages, x.ID)) &&
				(target.Through == 0 || x.Sequence <= target.Through) {
				do(x)
			}
		}
	}
	thread := func(id string, do func(*modelThread)) {
		if t := m.threads[id]; t != nil {
			do(t)
		}
	}
	merge := func(d action.Membership) {
		thread(d.Thread, func(t *modelThread) {
			t.handler = cmp.Or(d.ReplyHandler, t.handler)
			t.merge(d.States)
		})
	}
	retag := func(tags map[string]bool, d *action.Tagged) {
		for _, tag := range d.Add {
			tags[tag] = true
		}
		for _, tag := range d.Remove {
			delete(tags, tag)
		}
	}
	switch d := a.Do.(type) {
	case *action.ThreadCreated:
		if m.threads[d.Thread] == nil {
			t := &modelThread{d.Thread, d.Subject, d.ReplyHandler, d.Folder, false, map[string]bool{}, map[action.Participant]action.MemberState{}}
			t.merge(d.Members)
			m.threads[d.Thread] = t
			m.subjects += int64(len(d.Subject))
		}
	case *action.MessageCreated:
		m.add(a, &d.Message, true)
		for _, p := range d.Recipients {
			if p.User != "" && p != d.Author {
				m.friends[p.User] = true
			}
		}
	case *action.MessageDelivered:
		m.add(a, &d.Message, false)
	case *action.Read:
		each(d.Target, func(x *Message) { x.Read = d.Is })
	case *action.Archived:
		each(d.Target, func(x *Message) { x.Archived = d.Is })
	case *action.Deleted:
		each(d.Target, func(x *Message) { x.Deleted = true })
	case *action.Tagged:
		if len(d.Messages) == 0 {
			thread(d.Thread, func(t *modelThread) { retag(t.tags, d) })
			return
		}
		if m.threads[d.Thread] == nil {
			return
		}
		each(d.Target, func(x *Message) {
			tags := map[string]bool{}
			for _, tag := range x.Tags {
				tags[tag] = true
			}
			retag(tags, d)
			x.Tags = sorted(tags)
		})
	case *action.Moved:
		thread(d.Thread, func(t *modelThread) { t.folder = d.Folder })
	case *action.Muted:
		thread(d.Thread, func(t *modelThread) { t.muted = d.Is })
	case *action.Subscribed:
		merge(d.Membership)
	case *action.Unsubscribed:
		merge(d.Membership)
	case *action.AccountClosed:
		m.closed = true
	case *action.Purged:
		for _, id := range d.Messages {
			if x := m.messages[id]; x != nil && x.Deleted {
				x.Purged, x.Bytes, x.Snippet, x.Whole, x.Tags = true, 0, "", false, nil
			}
		}
	}
}

func (t *modelThread) merge(states []action.MemberState) {
	for _, s := range states {
		have, known := t.states[s.Participant]
		if !known || s.Stamp > have.Stamp || s.Stamp == have.Stamp && s.By.Compare(have.By) > 0 {
			t.states[s.Participant] = s
		}
	}
}

func (m *model) add(a action.Action, from *action.Message, read bool) {
	if m.threads[from.Thread] == nil || m.messages[from.ID] != nil {
		return
	}
	snippet := from.Body
	for len(snippet) > 200 {
		runes := []rune(snippet)
		snippet = string(runes[:len(runes)-1])
	}
	m.messages[from.ID] = &Message{Sequence: a.Sequence, Thread: from.Thread, ID: from.ID, Author: from.Author, Channel: from.Channel,
		Time: from.Time, LogTime: a.Time, Reply: from.Reply, Read: read, Bytes: from.ContentBytes(), Snippet: snippet,
		Whole: snippet == from.Body && from.Attachments == nil}
}

func sorted(set map[string]bool) []string {
	var all []string
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

// of returns the messages of a thread that are not deleted, newest first; of all
// threads for "".
func (m *model) of(thread string) []Message {
	var all []Message
	for _, x := range m.messages {
		if !x.Deleted && (thread == "" || x.Thread == thread) {
			all = append(all, *x)
		}
	}
	slices.SortFunc(all, func(a, b Message) int {
		return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(b.Sequence, a.Sequence))
	})
	return all
}

// entity is a thread as the index is to show it, members and Placed aside.
func (m *model) entity(t *modelThread) Thread {
	e := Thread{ID: t.id, Subject: t.subject, Folder: t.folder, ReplyHandler: t.handler, Muted: t.muted, Tags: sorted(t.tags)}
	all := m.of(t.id)
	for _, x := range all {
		e.Messages++
		e.Unread += one(!x.Read)
		e.Archived += one(x.Archived)
		e.Counted += one(!x.Read && !x.Archived)
	}
	if len(all) > 0 {
		e.Newest, e.NewestSequence = all[0].Time, all[0].Sequence
	}
	return e
}

func one(is bool) uint64 {
	if is {
		return 1
	}
	return 0
}

// figures counts a folder's.
func (m *model) figures(folder action.Folder) (f Folder) {
	for _, t := range m.list(Filter{Folder: folder}) {
		f.Threads++
		f.Messages += t.Messages
		f.UnreadMessages += t.Unread
		f.UnreadThreads += one(t.Unread > 0)
		f.ArchivedThreads += one(t.Archived == t.Messages)
		if !t.Muted {
			f.CountedMessages += t.Counted
			f.CountedThreads += one(t.Counted > 0)
		}
	}
	return f
}

func (m *model) list(f Filter) []Thread {
	var all []Thread
	for _, t := range m.threads {
		e := m.entity(t)
		by := slices.ContainsFunc(m.of(t.id), func(x Message) bool { return slices.Contains(f.Authors, x.Author) })
		tagged := !slices.ContainsFunc(f.Tags, func(tag string) bool { return !t.tags[tag] })
		if e.Messages > 0 && tagged && (by || len(f.Authors) == 0) && (f.Within == nil || f.Within[t.id]) &&
			(f.Folder == 0 || f.Folder == t.folder) && (f.Unread == nil || *f.Unread == (e.Unread > 0)) &&
			(f.Archived == nil || *f.Archived == (e.Archived == e.Messages)) &&
			(f.Since == nil || e.Newest >= *f.Since) && (f.Until == nil || e.Newest < *f.Until) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Thread) int {
		return cmp.Or(cmp.Compare(b.Newest, a.Newest), strings.Compare(a.ID, b.ID))
	})
	if f.OldestFirst {
		slices.Reverse(all)
	}
	return all
}

func drawFilter(r *rand.Rand) Filter {
	yes := true
	maybe := func() *bool {
		return pick(r, []*bool{nil, nil, new(bool), &yes})
	}
	at := func() *action.Time {
		if at := action.Time(between(r, -4, 8)); flip(r) {
			return &at
		}
		return nil
	}
	f := Filter{Folder: action.Folder(between(r, 0, 2)), Unread: maybe(), Archived: maybe(),
		Since: at(), Until: at(), OldestFirst: flip(r), Limit: between(r, 1, 3)}
	switch between(r, 0, 5) {
	case 0:
		f.Tags = []string{"red"}
	case 1:
		f.Tags = []string{"red", "blue"}
	case 2:
		f.Authors = []action.Participant{drawWho(r), drawWho(r)}
	case 3:
		f.Within = map[string]bool{"t0": true, "t2": true, "t9": true}
	}
	return f
}

// TestThreads: every listing, page after page, is what looking at all threads gives,
// under both schemas. Rows: I129 the list of threads by search criteria, I130 folder,
// attributes, authors, keywords, F81 indexes as key/value cells, F80 they are kept by the application.
func TestThreads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log := draw(r, between(r, 0, 60))
		m := modelOf(log)
		cells, err := Rebuild(drawSchema(r), slices.Values(log))
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(cells)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			f := drawFilter(r)
			got := pages(t, func(c *Cursor) ([]Thread, *Cursor, error) {
				f.After = c
				return v.Threads(f)
			}, f.Limit)
			for i := range got {
				got[i].Members, got[i].Placed = nil, 0
			}
			if diff := gocmp.Diff(m.list(f), got); diff != "" {
				t.Fatalf("threads of %+v (-want +got):\n%s", f, diff)
			}
		}
	})
}

// pages walks over all pages, each cursor as its token.
func pages[T any](t *rapid.T, page func(*Cursor) ([]T, *Cursor, error), limit int) []T {
	request := action.DigestOf([]byte("this request"))
	var all []T
	var cursor *Cursor
	for {
		got, next, err := page(cursor)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, got...); next == nil {
			return all
		}
		if len(got) != limit {
			t.Fatalf("%d on a page that is not the last, want %d", len(got), limit)
		}
		c, err := ParseCursor(next.Token(request), request)
		if err != nil || c != *next {
			t.Fatalf("cursor %+v became %+v, %v", *next, c, err)
		}
		cursor = &c
	}
}

// TestMailbox: figures, folders, threads with their members, messages and friends are
// what counting everything gives. Rows: I124 statistics, I125 capacity, I126 messages,
// threads and replies, I127 friends, I128 folder statistics, I131 thread attributes
// and messages, I134-I135 attributes of both levels, F77-F78 entities a cell each.
func TestMailbox(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log := draw(r, between(r, 0, 60))
		m := modelOf(log)
		cells, err := Rebuild(drawSchema(r), slices.Values(log))
		if err != nil {
			t.Fatal(err)
		}
		v, _ := Open(cells)
		got, err := v.Stats()
		want := Stats{Bytes: m.subjects, Friends: uint64(len(m.friends)), Closed: m.closed, Keys: got.Keys}
		for _, x := range m.messages {
			want.Bytes += x.Bytes
			if !x.Deleted && x.Reply {
				want.Replies++
			}
		}
		for _, modelled := range m.threads {
			e := m.entity(modelled)
			want.Threads += one(e.Messages > 0)
			want.Messages += e.Messages
			checkThread(t, v, e, modelled, m.of(e.ID))
		}
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("stats: %v (-want +got):\n%s", err, diff)
		}
		for _, f := range action.Folders {
			if got, err := v.Folder(f); got != m.figures(f) || err != nil {
				t.Fatalf("folder %d: got %+v, %v, want %+v", f, got, err, m.figures(f))
			}
			newest, any := v.NewestIn(f)
			if list := m.list(Filter{Folder: f}); any != (len(list) > 0) || any && newest != list[0].Newest {
				t.Fatalf("newest of folder %d: %d %v", f, newest, any)
			}
		}
		for u := range m.friends {
			if !v.IsFriend(u) {
				t.Fatalf("%s is no friend", u)
			}
		}
		since, until := action.Time(-1), action.Time(4)
		all := pages(t, func(c *Cursor) ([]Message, *Cursor, error) {
			return v.Newest(&since, &until, 2, c, func(seq uint64) bool { return seq%3 > 0 }, func(m *Message) bool { return !m.Read })
		}, 2)
		wantAll := slices.DeleteFunc(m.of(""), func(x Message) bool { return x.Time < since || x.Time >= until || x.Read || x.Sequence%3 == 0 })
		if diff := gocmp.Diff(append([]Message(nil), wantAll...), all); diff != "" {
			t.Fatalf("newest messages (-want +got):\n%s", diff)
		}
	})
}

func checkThread(t *rapid.T, v View, want Thread, modelled *modelThread, messages []Message) {
	got, err := v.Thread(want.ID)
	if err != nil || got == nil {
		t.Fatalf("thread %s: got %v, %v", want.ID, got, err)
	}
	states, err := v.Members(got)
	if err != nil || len(states) != len(modelled.states) {
		t.Fatalf("members of %s: got %v, %v, want %v", want.ID, states, err, modelled.states)
	}
	present := 0
	for _, s := range states {
		if s != modelled.states[s.Participant] {
			t.Fatalf("member of %s: got %+v, want %+v", want.ID, s, modelled.states[s.Participant])
		}
		if !s.Left {
			present++
		}
	}
	if now := Present(states); len(now) != present || !slices.IsSortedFunc(now, action.CompareMembers) {
		t.Fatalf("present in %s: got %v of %v", want.ID, now, states)
	}
	if got.Messages > 0 { // else its place says nothing
		got.Members, got.Placed = nil, 0
		if diff := gocmp.Diff(want, *got); diff != "" {
			t.Fatalf("thread (-want +got):\n%s", diff)
		}
	}
	for _, oldest := range []bool{false, true} {
		all := pages(t, func(c *Cursor) ([]Message, *Cursor, error) { return v.Messages(want.ID, oldest, 3, c) }, 3)
		if oldest {
			slices.Reverse(all)
		}
		if diff := gocmp.Diff(messages, all); diff != "" {
			t.Fatalf("messages of %s (-want +got):\n%s", want.ID, diff)
		}
	}
	for _, want := range messages {
		if got, err := v.Message(want.ID); err != nil || !gocmp.Equal(got, &want) {
			t.Fatalf("message %s: got %+v, %v, want %+v", want.ID, got, err, want)
		}
	}
}

// TestWalkWhileWritten: a walk over pages shows nothing twice and leaves out nothing
// that has not moved, whatever is done between its pages.
func TestWalkWhileWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := dice(t)
		log := draw(r, 120)
		start := between(r, 20, 60)
		batch, _ := NewBatch(NewCells(), Latest)
		apply := func(n int) {
			for ; n > 0 && int(batch.Version().Sequence) < len(log); n-- {
				if err := batch.Apply(log[batch.Version().Sequence]); err != nil {
					t.Fatal(err)
				}
			}
		}
		apply(start)
		f := Filter{Limit: 1, OldestFirst: flip(r)}
		began := map[string]Thread{}
		for _, th := range modelOf(log[:start]).list(f) {
			began[th.ID] = th
		}
		shown := map[string]bool{}
		for _, th := range pages(t, func(c *Cursor) ([]Thread, *Cursor, error) {
			f.After = c
			threads, next, err := batch.view().Threads(f)
			apply(between(r, 0, 6))
			return threads, next, err
		}, 1) {
			if shown[th.ID] {
				t.Fatalf("%s is shown twice", th.ID)
			}
			shown[th.ID] = true
		}
		version := batch.Version().Sequence
		for _, x := range pages(t, func(c *Cursor) ([]Message, *Cursor, error) {
			messages, next, err := batch.view().Messages("t1", f.OldestFirst, 1, c)
			apply(between(r, 0, 6))
			return messages, next, err
		}, 1) {
			if x.Sequence > version {
				t.Fatalf("message %d came after the walk began, at %d", x.Sequence, version)
			}
		}
		for id := range began {
			if now, _ := batch.view().Thread(id); now.Messages > 0 && now.Placed <= uint64(start) && !shown[id] {
				t.Fatalf("%s was there, has not moved, and is not shown", id)
			}
		}
	})
}

// TestUnreadOnSecondPageOfOther is the worked example of the engineers' text: "loading
// unread threads on the second page of the Other folder". Rows: F82; F83 "first looks
// up the metadata index", F84 "then fetches the metadata entities of the specified
// threads", E61 each of which is a read of its own.
func TestUnreadOnSecondPageOfOther(t *testing.T) {
	var log []action.Action
	add := func(do action.Do) {
		log = append(log, action.Action{Sequence: uint64(len(log) + 1), Origin: action.OriginDelivery, Do: do})
	}
	for i := range 100 {
		thread := fmt.Sprintf("t%02d", i)
		add(&action.ThreadCreated{Thread: thread, Folder: action.Folders[i%2]})
		add(&action.MessageDelivered{Message: action.Message{Thread: thread, ID: "m" + thread, Author: me, Channel: action.ChannelEmail, Time: action.Time(i)}})
		if i%4 == 1 {
			add(&action.Read{Target: action.Target{Thread: thread}, Is: true})
		}
	}
	unread := true
	for _, schema := range []Schema{V1, V2} {
		cells := counting{rebuilt(t, schema, log), map[string]bool{}}
		v, _ := Open(cells)
		f := Filter{Folder: action.FolderOther, Unread: &unread, Limit: 5}
		_, next, err := v.Threads(f)
		if err != nil || next == nil {
			t.Fatalf("first page: %v, next %v", err, next)
		}
		clear(cells.got)
		f.After = next
		second, _, err := v.Threads(f)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, th := range second {
			got = append(got, th.ID)
		}
		if diff := gocmp.Diff([]string{"t79", "t75", "t71", "t67", "t63"}, got); diff != "" {
			t.Errorf("schema %d: second page (-want +got):\n%s", schema, diff)
		}
		// Six entities, to know that there is a third page; without an index of its
		// own every other thread is read in vain.
		if want := map[Schema]int{V1: 12, V2: 6}[schema]; len(cells.got) != want {
			t.Errorf("schema %d: %d entities read, want %d", schema, len(cells.got), want)
		}
	}
}

func TestParseCursor(t *testing.T) {
	mine, other := action.DigestOf([]byte("mine")), action.DigestOf([]byte("other"))
	token := Cursor{Time: -5, Thread: "t1", Version: 9}.Token(mine)
	for name, bad := range map[string]string{"empty": "", "cut": token[:len(token)-2], "longer": token + "AA", "not base64": token + "!"} {
		if _, err := ParseCursor(bad, mine); !errors.Is(err, ErrCursor) {
			t.Errorf("%s: got %v, want ErrCursor", name, err)
		}
	}
	if _, err := ParseCursor(token, other); !errors.Is(err, ErrCursor) {
		t.Errorf("of another request: got %v, want ErrCursor", err)
	}
}

func FuzzParseCursor(f *testing.F) {
	request := action.DigestOf(nil)
	f.Add(Cursor{Time: 1, Thread: "t", Sequence: 3, Version: 4}.Token(request))
	f.Fuzz(func(t *testing.T, token string) {
		c, err := ParseCursor(token, request)
		if err == nil && c.Token(request) != token {
			t.Errorf("%q is read as %+v, whose token is %q", token, c, c.Token(request))
		}
	})
}

func BenchmarkThreads(b *testing.B) {
	var log []action.Action
	add := func(do action.Do) {
		log = append(log, action.Action{Sequence: uint64(len(log) + 1), Origin: action.OriginDelivery, Do: do})
	}
	for i := range 1000 {
		thread := fmt.Sprint("t", i)
		add(&action.ThreadCreated{Thread: thread, Subject: "on the weekend", Folder: action.FolderInbox})
		add(&action.MessageDelivered{Message: action.Message{Thread: thread, ID: fmt.Sprint("m", i), Author: me, Channel: action.ChannelChat, Time: action.Time(i)}})
	}
	v, _ := Open(rebuilt(b, Latest, log))
	b.ReportAllocs()
	for b.Loop() {
		if page, _, err := v.Threads(Filter{Folder: action.FolderInbox, Limit: 20}); len(page) != 20 || err != nil {
			b.Fatal(len(page), err)
		}
	}
}
