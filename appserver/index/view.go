package index

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/internal/wire"
)

// View answers queries on the cells of a Reader. It holds no state of its own, so
// it is right for as long as the cells are. Every method returns ErrCorrupt for cells
// that no fold wrote.
type View struct {
	cells   Reader
	version Version
}

// Open returns a view of r's cells. ErrNewer, ErrCorrupt.
func Open(r Reader) (View, error) {
	v, err := VersionOf(r)
	return View{r, v}, err
}

func (b *Batch) view() View { return View{b, b.version} }

// Version returns what the view shows.
func (v View) Version() Version { return v.version }

// Stats returns the mailbox's figures.
func (v View) Stats() (Stats, error) {
	var s Stats
	if value := v.cells.Get([]byte{cellStats}); value != nil {
		return s, decode("stats", value, s.walk)
	}
	return s, nil
}

// Folder returns a folder's figures.
func (v View) Folder(f action.Folder) (Folder, error) {
	var e Folder
	if value := v.cells.Get([]byte{cellFolder, byte(f)}); value != nil {
		return e, decode("folder", value, e.walk)
	}
	return e, nil
}

// NewestIn returns the display time of a folder's newest message; false if the folder
// is empty.
func (v View) NewestIn(f action.Folder) (action.Time, bool) {
	prefix := []byte{byFolder, byte(f)}
	for q := range v.cells.Scan(prefix, after(prefix)) {
		return uninverted(q[2:]), true
	}
	return 0, false
}

// Thread returns a thread, one without messages too; nil if the mailbox never had it.
func (v View) Thread(id string) (*Thread, error) {
	value := v.cells.Get(qualifier(cellThread, id))
	if value == nil {
		return nil, nil
	}
	return v.decodeThread(id, value)
}

func (v View) decodeThread(id string, value []byte) (*Thread, error) {
	t := &Thread{ID: id}
	return t, decode("thread", value, func(c *wire.Coder) { t.walk(c, v.version.Schema) })
}

// Members returns all that is known of who is or was in a thread, by participant. It
// is not the caller's to change.
func (v View) Members(t *Thread) ([]action.MemberState, error) {
	if v.version.Schema < V2 {
		return t.Members, nil
	}
	value := v.cells.Get(qualifier(cellMembers, t.ID))
	if value == nil {
		return nil, nil
	}
	var states []action.MemberState
	return states, decode("members", value, func(c *wire.Coder) { action.WalkMemberStates(c, &states) })
}

// Present returns who of states is a member now, by time of joining, then address.
func Present(states []action.MemberState) []action.Member {
	var members []action.Member
	for _, s := range states {
		if !s.Left {
			members = append(members, s.Member)
		}
	}
	slices.SortFunc(members, action.CompareMembers)
	return members
}

// Message returns a message by id, a deleted one too; nil if the mailbox never had it.
func (v View) Message(id string) (*Message, error) {
	seq, err := v.sequenceOf(id)
	if seq == 0 || err != nil {
		return nil, err
	}
	return v.MessageAt(seq)
}

// MessageAt returns the message that the action of a sequence brought, a deleted one
// too; nil if it brought none.
func (v View) MessageAt(sequence uint64) (*Message, error) {
	value := v.cells.Get(sequenced(cellMessage, sequence))
	if value == nil {
		return nil, nil
	}
	m := &Message{Sequence: sequence}
	return m, decode("message", value, m.walk)
}

// sequenceOf returns 0 for an id that the mailbox never had.
func (v View) sequenceOf(id string) (seq uint64, err error) {
	if value := v.cells.Get(qualifier(byMessageID, id)); value != nil {
		err = decode("message id", value, func(c *wire.Coder) { wire.Uint(c, &seq) })
	}
	return seq, err
}

// Receipt is what is remembered of a mutation: the sequence of its last action, which
// holds what is to be answered, and the digest of its request.
type Receipt struct {
	Sequence uint64
	Request  action.Digest
}

func (r *Receipt) walk(c *wire.Coder) {
	wire.Uint(c, &r.Sequence)
	wire.Bytes(c, r.Request[:])
}

// Receipt returns what is remembered of a key; zero if it is not known, or no longer.
func (v View) Receipt(origin action.Origin, key string) (Receipt, error) {
	var r Receipt
	if value := v.cells.Get(keyCell(origin, key)); value != nil {
		return r, decode("receipt", value, r.walk)
	}
	return r, nil
}

// IsFriend reports whether the mailbox's user has ever sent a message to u.
func (v View) IsFriend(u action.User) bool {
	return v.cells.Get(qualifier(byFriend, string(u))) != nil
}

// Filter says which threads are listed: those that meet all that is given.
type Filter struct {
	Folder   action.Folder // FolderNone: any
	Unread   *bool
	Archived *bool
	Tags     []string             // all of them, of the thread's own
	Authors  []action.Participant // a message by any of them
	// Within, if not nil, holds the threads that may be listed: of keywords, see
	// search.Threads.
	Within map[string]bool
	Since  *action.Time // newest message not before
	Until  *action.Time // newest message before
	// OldestFirst turns the order round.
	OldestFirst bool
	// Limit is how many at most; at least 1.
	Limit int
	// After continues a walk; nil begins one.
	After *Cursor
}

// Threads returns the threads of a filter, by time of the newest message, then id,
// and where the next page begins; nil after the last.
//
// It first looks the threads up in an index (of tags and authors where given, else
// of the folder by time, of unread threads alone if those are asked for), then reads
// the entities of those.
func (v View) Threads(f Filter) ([]Thread, *Cursor, error) {
	start := Cursor{Version: v.version.Sequence}
	if f.After != nil {
		start = *f.After
	}
	l := listing{view: v, Filter: f, started: start.Version}
	if sets := v.sets(f); len(sets) > 0 {
		l.intersect(sets)
	} else {
		for _, prefix := range v.prefixes(f) {
			l.walk(prefix)
		}
	}
	slices.SortFunc(l.found, l.compare)
	if len(l.found) <= f.Limit || l.err != nil {
		return l.found, nil, l.err
	}
	last := l.found[f.Limit-1]
	return l.found[:f.Limit], &Cursor{Time: last.Newest, Thread: last.ID, Version: start.Version}, nil
}

// listing is one run of Threads.
type listing struct {
	Filter
	view    View
	started uint64
	found   []Thread
	err     error
}

// prefixes are the indexes by time that hold all threads of f.
func (v View) prefixes(f Filter) [][]byte {
	kind := byte(byFolder)
	if f.Unread != nil && *f.Unread && v.version.Schema >= V2 {
		kind = byUnread
	}
	var all [][]byte
	for _, folder := range action.Folders {
		if f.Folder == action.FolderNone || f.Folder == folder {
			all = append(all, []byte{kind, byte(folder)})
		}
	}
	return all
}

// walk takes threads of one index in order until there are enough for a page and
// for knowing that there is another.
func (l *listing) walk(prefix []byte) {
	from, to := prefix, after(prefix)
	bound := func(key string) []byte { return append(bytes.Clone(prefix), key...) }
	if l.Until != nil { // before: what is inverted is greater
		from = after(bound(inverted(*l.Until)))
	}
	if l.Since != nil {
		to = after(bound(inverted(*l.Since)))
	}
	scan := l.view.cells.Scan
	if l.OldestFirst {
		scan = l.view.cells.ScanBack
	}
	if l.After != nil {
		last := bound(inverted(l.After.Time) + l.After.Thread)
		if l.OldestFirst {
			to = least(to, last)
		} else if end := next(last); bytes.Compare(end, from) > 0 {
			from = end
		}
	}
	enough := len(l.found) + l.Limit + 1
	for q := range scan(from, to) {
		if l.take(string(q[len(prefix)+8:])); len(l.found) >= enough || l.err != nil {
			return
		}
	}
}

func least(to, other []byte) []byte {
	if to == nil || bytes.Compare(other, to) < 0 {
		return other
	}
	return to
}

// take adds a thread that meets the filter.
func (l *listing) take(id string) {
	t, err := l.view.Thread(id)
	if err != nil {
		l.err = err
		return
	}
	if t != nil && l.meets(t) {
		l.found = append(l.found, *t)
	}
}

func (l *listing) meets(t *Thread) bool {
	is := func(asked *bool, is bool) bool { return asked == nil || *asked == is }
	return t.Messages > 0 &&
		(l.Folder == action.FolderNone || l.Folder == t.Folder) &&
		is(l.Unread, t.Unread > 0) && is(l.Archived, t.IsArchived()) &&
		(l.Since == nil || t.Newest >= *l.Since) && (l.Until == nil || t.Newest < *l.Until) &&
		(l.After == nil || l.beyond(t) && t.Placed <= l.started)
}

func (l *listing) beyond(t *Thread) bool {
	return l.compare(Thread{Newest: l.After.Time, ID: l.After.Thread}, *t) < 0
}

func (l *listing) compare(a, b Thread) int {
	order := cmp.Or(cmp.Compare(b.Newest, a.Newest), cmp.Compare(a.ID, b.ID))
	if l.OldestFirst {
		return -order
	}
	return order
}

// sets are the threads of each condition of f that an index other than time knows.
func (v View) sets(f Filter) []map[string]bool {
	var sets []map[string]bool
	collect := func(set map[string]bool, prefix []byte) map[string]bool {
		for q := range v.cells.Scan(prefix, after(prefix)) {
			set[string(q[len(prefix):])] = true
		}
		return set
	}
	for _, tag := range f.Tags {
		sets = append(sets, collect(map[string]bool{}, qualifier(byTag, tag, "\x00")))
	}
	if len(f.Authors) > 0 {
		by := map[string]bool{}
		for _, p := range f.Authors {
			collect(by, qualifier(byAuthor, author(p), "\x00"))
		}
		sets = append(sets, by)
	}
	if f.Within != nil {
		sets = append(sets, f.Within)
	}
	slices.SortFunc(sets, func(a, b map[string]bool) int { return cmp.Compare(len(a), len(b)) })
	return sets
}

// intersect takes the threads that are in all sets; the first is the smallest.
func (l *listing) intersect(sets []map[string]bool) {
	for id := range sets[0] {
		in := func(set map[string]bool) bool { return !set[id] }
		if l.err == nil && !slices.ContainsFunc(sets[1:], in) {
			l.take(id)
		}
	}
}

// Messages returns a page of a thread's messages, those not deleted, by time, then
// sequence, newest first unless oldestFirst; and where the next page begins, nil
// after the last. A walk shows no message that came after it began.
func (v View) Messages(thread string, oldestFirst bool, limit int, from *Cursor) ([]Message, *Cursor, error) {
	prefix := qualifier(byThread, thread, "\x00")
	return v.messagesIn(prefix, prefix, after(prefix), oldestFirst, from, limit,
		func(uint64) bool { return true }, func(*Message) bool { return true })
}

// Newest is Messages of the whole mailbox, newest first, with a display time of
// since <= time < until where these are not nil, that meet two conditions: among by
// sequence, asked before the entity is read, and meets.
func (v View) Newest(since, until *action.Time, limit int, from *Cursor, among func(uint64) bool, meets func(*Message) bool) ([]Message, *Cursor, error) {
	prefix := []byte{byTime}
	first, end := prefix, after(prefix)
	if until != nil {
		first = after(qualifier(byTime, inverted(*until)))
	}
	if since != nil {
		end = after(qualifier(byTime, inverted(*since)))
	}
	return v.messagesIn(prefix, first, end, false, from, limit, among, meets)
}

func (v View) messagesIn(prefix, first, end []byte, back bool, from *Cursor, limit int,
	among func(uint64) bool, meets func(*Message) bool) ([]Message, *Cursor, error) {
	started := v.version.Sequence
	scan := v.cells.Scan
	if back {
		scan = v.cells.ScanBack
	}
	if from != nil {
		started = from.Version
		last := append(bytes.Clone(prefix), place(from.Time, from.Sequence)...)
		if back {
			end = least(end, last)
		} else if n := next(last); bytes.Compare(n, first) > 0 {
			first = n
		}
	}
	var page []Message
	for q := range scan(first, end) {
		seq := sequenceAt(q)
		if seq > started || !among(seq) {
			continue
		}
		m, err := v.MessageAt(seq)
		if err != nil || m == nil {
			return nil, nil, cmp.Or(err, fmt.Errorf("message %d is listed and not there: %w", seq, ErrCorrupt))
		}
		if !meets(m) {
			continue
		}
		if len(page) == limit {
			last := page[limit-1]
			return page, &Cursor{Time: last.Time, Sequence: last.Sequence, Version: started}, nil
		}
		page = append(page, *m)
	}
	return page, nil, nil
}
