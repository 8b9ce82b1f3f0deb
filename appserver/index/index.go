// Package index folds a mailbox's log into what is asked of it: entities (the
// mailbox's figures, folders, threads, messages) and secondary indexes (threads by
// folder and time, unread ones, by tag, by author; messages by thread, by time, by
// id; idempotency keys). All of it can be made again from the log alone, and is the
// same however the log was cut into batches.
//
// A Batch takes actions and says what cells they change; it reads the cells that the
// actions are about and no others. A View answers queries. Both work on a Reader:
// Cells in memory, or a Batch, in which everything applied so far is seen. So a
// mailbox keeps the cells that its store has, and in front of them a batch of what
// is not flushed yet:
//
//	cells := index.NewCells(fromStore...)
//	batch, err := index.NewBatch(cells, index.Latest)
//	for _, a := range logAfter(batch.Version().Sequence) { err = batch.Apply(a) }
//	view, err := index.Open(batch)            // and answer
//	delta := batch.Delta()                    // put it, in one put; then
//	cells.Apply(delta)                        // and a new batch
//
// # The cells
//
// Names are text, numbers are uvarints, lists begin with their length (internal/wire).
// time is 8 bytes, big-endian, inverted, so that the newest comes first; seq is 8 bytes
// big-endian, ^seq the same inverted; folder is a byte.
//
//	qualifier                        value
//	v                                schema, sequence of the last action folded
//	s                                Stats
//	F folder                         Folder
//	T thread                         Thread
//	P thread                         Thread.Members, from V2 on; in T before
//	M seq                            Message
//	i message                        its sequence
//	m thread 0 time ^seq             1    messages of a thread, by time
//	d time ^seq                      1    messages of the mailbox, by time
//	f folder time thread             1    threads of a folder, by newest message
//	u folder time thread             1    those with an unread message, from V2 on
//	g tag 0 thread                   1    threads with a tag
//	a u|e author 0 thread            how many messages of the thread are by the author
//	p user                           1    friends: users written to
//	k origin key                     sequence, digest of the request
//	K seq                            origin, key, time: keys by age
//
// Messages that are deleted are in M and i alone, threads without messages in T and P.
package index

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/internal/wire"
)

// Schema is a version of the cells. A new one needs no migration: the log is folded
// anew, by a job or when a mailbox is loaded (see Upgrade).
type Schema uint8

// The schemas. V2 finds unread threads by an index of their own, where V1 reads all
// threads of a folder; and a message changes a thread's entity without writing its
// members again.
const (
	V1 Schema = iota + 1
	V2
	Latest = V2
)

var (
	// ErrNewer: the cells are of a schema that a newer program made. They are right, and
	// not to be touched.
	ErrNewer = errors.New("metadata of a newer schema")
	// ErrCorrupt: a cell holds what no fold wrote. The cells can be made again from the log.
	ErrCorrupt = errors.New("corrupt metadata")
	// ErrGap is returned by Apply: the action does not follow the last one folded.
	ErrGap = errors.New("gap in the log")
)

// Version says what the cells show.
type Version struct {
	Schema   Schema
	Sequence uint64 // of the last action folded; 0 before the first
}

func (v *Version) walk(c *wire.Coder) {
	wire.Uint(c, &v.Schema)
	wire.Uint(c, &v.Sequence)
}

// VersionOf returns the version of r's cells: zero if there are none. ErrNewer,
// ErrCorrupt.
func VersionOf(r Reader) (Version, error) {
	var v Version
	value := r.Get([]byte{cellVersion})
	if len(value) == 0 {
		return v, nil
	}
	if value[0] > byte(Latest) {
		return v, fmt.Errorf("metadata of schema %d, known are up to %d: %w", value[0], Latest, ErrNewer)
	}
	err := decode("version", value, func(c *wire.Coder) { v.walk(c) })
	if err == nil && v.Schema < V1 {
		err = fmt.Errorf("decode version: %w", ErrCorrupt)
	}
	return v, err
}

// Batch folds actions into what is in front of a Reader. It is itself a Reader that
// shows them. Applying needs exclusive use; reading does not.
type Batch struct {
	*Overlay
	version Version
	err     error // the first; the batch is of no use then
	at      *action.Action
	stats   Stats
}

// NewBatch returns an empty batch in front of base. New mailboxes are begun in schema;
// others keep the schema they are of. The base must not change while the batch is in
// use. ErrNewer, ErrCorrupt.
func NewBatch(base Reader, schema Schema) (*Batch, error) {
	v, err := VersionOf(base)
	if err != nil {
		return nil, err
	}
	if v.Schema == 0 {
		v.Schema = schema
	}
	return &Batch{Overlay: NewOverlay(base), version: v}, nil
}

// Version returns what the batch shows.
func (b *Batch) Version() Version { return b.version }

// Apply folds the next action. An action on what the mailbox does not have changes
// nothing but the version: whoever appends to the log decides, and a log must never
// make its mailbox unreadable. ErrGap: nothing happened. ErrCorrupt: the batch is to
// be thrown away.
func (b *Batch) Apply(a action.Action) error {
	if b.err != nil {
		return b.err
	}
	if a.Sequence != b.version.Sequence+1 {
		return fmt.Errorf("action %d after %d: %w", a.Sequence, b.version.Sequence, ErrGap)
	}
	b.at = &a
	statsCell := []byte{cellStats}
	was := b.Get(statsCell)
	if b.stats = (Stats{}); was != nil {
		b.fail(decode("stats", was, b.stats.walk))
	}
	b.do(a.Do)
	b.remember()
	b.put(statsCell, was, encode(b.stats.walk))
	b.version.Sequence = a.Sequence
	b.put([]byte{cellVersion}, b.Get([]byte{cellVersion}), encode(b.version.walk))
	return b.err
}

// Absorb applies what another batch has folded in front of the cells that this one
// shows. The other is of no use afterwards. The error is the other's: nothing happened.
func (b *Batch) Absorb(front *Batch) error {
	if front.err != nil {
		return front.err
	}
	b.absorb(front.Overlay)
	b.version = front.version
	return nil
}

// Fold applies actions in a batch of their own and returns its delta.
func Fold(base Reader, schema Schema, actions []action.Action) (Delta, error) {
	b, err := NewBatch(base, schema)
	if err != nil {
		return nil, err
	}
	for _, a := range actions {
		if err := b.Apply(a); err != nil {
			return nil, err
		}
	}
	return b.Delta(), nil
}

func (b *Batch) fail(err error) {
	if b.err == nil && err != nil {
		b.err = fmt.Errorf("fold action %d: %w", b.at.Sequence, err)
	}
}

func (b *Batch) do(do action.Do) {
	switch d := do.(type) {
	case *action.ThreadCreated:
		b.createThread(d)
	case *action.MessageCreated:
		b.addMessage(&d.Message, true)
		for _, p := range d.Recipients {
			b.befriend(p, d.Author)
		}
	case *action.MessageDelivered:
		b.addMessage(&d.Message, false)
	case *action.Read:
		b.mark(&d.Target, func(m *Message) bool { return m.Read != d.Is }, func(m *Message) { m.Read = d.Is },
			func(t *Thread) uint64 { return open(t, t.Unread, d.Is) })
	case *action.Archived:
		b.mark(&d.Target, func(m *Message) bool { return m.Archived != d.Is }, func(m *Message) { m.Archived = d.Is },
			func(t *Thread) uint64 { return open(t, t.Messages-t.Archived, d.Is) })
	case *action.Tagged:
		b.tag(d)
	case *action.Moved:
		b.edit(d.Thread, func(t *Thread) { t.Folder = d.Folder })
	case *action.Muted:
		b.edit(d.Thread, func(t *Thread) { t.Muted = d.Is })
	case *action.Deleted:
		b.mark(&d.Target, func(m *Message) bool { return !m.Deleted }, func(m *Message) { m.Deleted = true },
			func(t *Thread) uint64 { return t.Messages })
	case *action.Subscribed:
		b.merge(&d.Membership)
	case *action.Unsubscribed:
		b.merge(&d.Membership)
	case *action.AccountClosed:
		b.stats.Closed = true
	case *action.Purged:
		for _, id := range d.Messages {
			b.purge(id)
		}
	}
}

// open is how many messages of t an attribute can be set on, or cleared.
func open(t *Thread, without uint64, set bool) uint64 {
	if set {
		return without
	}
	return t.Messages - without
}

func (b *Batch) createThread(d *action.ThreadCreated) {
	if b.Get(qualifier(cellThread, d.Thread)) != nil {
		return
	}
	t := &Thread{ID: d.Thread, Subject: d.Subject, Folder: d.Folder, ReplyHandler: d.ReplyHandler}
	t.Members, _ = action.MergeMembers(nil, d.Members)
	if b.version.Schema >= V2 {
		b.Add(qualifier(cellMembers, t.ID), encode(func(c *wire.Coder) { action.WalkMemberStates(c, &t.Members) }))
	}
	b.Add(qualifier(cellThread, t.ID), b.encodeThread(t))
	b.stats.Bytes += int64(len(t.Subject))
}

func (b *Batch) encodeThread(t *Thread) []byte {
	return encode(func(c *wire.Coder) { t.walk(c, b.version.Schema) })
}

// edit changes a thread, and with it its folder's figures and the indexes it is in:
// what the thread gave before is taken away, and what it gives now is added.
func (b *Batch) edit(id string, change func(*Thread)) {
	view := b.view()
	value := b.Get(qualifier(cellThread, id))
	if value == nil {
		return
	}
	t, err := view.decodeThread(id, value)
	if err != nil {
		b.fail(err)
		return
	}
	was := *t
	was.Tags = slices.Clone(t.Tags)
	change(t)
	b.put(qualifier(cellThread, id), value, b.encodeThread(t))
	b.reindex(was.cells(b.version.Schema), t.cells(b.version.Schema))
	b.countFolder(&was, -1)
	b.countFolder(t, 1)
	b.stats.Threads += has(t) - has(&was)
}

func has(t *Thread) uint64 { return min(t.Messages, 1) }

func (b *Batch) reindex(was, is [][]byte) {
	holds := func(list [][]byte, q []byte) bool {
		return slices.ContainsFunc(list, func(other []byte) bool { return bytes.Equal(q, other) })
	}
	for _, q := range was {
		if !holds(is, q) {
			b.Remove(q)
		}
	}
	for _, q := range is {
		if !holds(was, q) {
			b.Add(q, present)
		}
	}
}

func (b *Batch) countFolder(t *Thread, n int) {
	if t.Messages == 0 {
		return
	}
	q := []byte{cellFolder, byte(t.Folder)}
	was := b.Get(q)
	var f Folder
	if was != nil {
		b.fail(decode("folder", was, f.walk))
	}
	f.count(t, n)
	b.put(q, was, encode(f.walk))
}

// addMessage adds the message that came with the action at hand, unless the mailbox
// has one of its id, or has not the thread.
func (b *Batch) addMessage(from *action.Message, own bool) {
	id := qualifier(byMessageID, from.ID)
	if b.Get(id) != nil {
		return
	}
	seq := b.at.Sequence
	b.edit(from.Thread, func(t *Thread) {
		m := messageOf(from, b.at)
		m.Read = own
		b.Add(id, encode(func(c *wire.Coder) { wire.Uint(c, &seq) }))
		b.Add(sequenced(cellMessage, seq), encode(m.walk))
		b.list(t, m, 1)
		b.stats.Bytes += m.Bytes
		if t.Messages == 1 || cmp.Or(cmp.Compare(m.Time, t.Newest), cmp.Compare(seq, t.NewestSequence)) > 0 {
			t.Newest, t.NewestSequence, t.Placed = m.Time, seq, seq
		}
	})
}

func messageOf(from *action.Message, a *action.Action) *Message {
	m := &Message{Sequence: a.Sequence, Thread: from.Thread, ID: from.ID, Author: from.Author, Channel: from.Channel,
		Time: from.Time, LogTime: a.Time, Reply: from.Reply, Bytes: from.ContentBytes()}
	m.Snippet = cut(from.Body, MaxSnippet)
	m.Whole = len(m.Snippet) == len(from.Body) && !from.Stripped && len(from.Attachments) == 0 && len(from.LargeBody) == 0
	return m
}

// cut returns at most n bytes of s, cut between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// list adds m to the indexes of messages and to the figures of t and the mailbox, or
// with n = -1 takes it away.
func (b *Batch) list(t *Thread, m *Message, n int) {
	at := place(m.Time, m.Sequence)
	for _, q := range [][]byte{qualifier(byThread, t.ID, "\x00", at), qualifier(byTime, at)} {
		if n > 0 {
			b.Add(q, present)
		} else {
			b.Remove(q)
		}
	}
	b.countAuthor(qualifier(byAuthor, author(m.Author), "\x00", t.ID), n)
	t.count(m, n)
	b.stats.Messages += uint64(n)
	if m.Reply {
		b.stats.Replies += uint64(n)
	}
}

func (b *Batch) countAuthor(q []byte, n int) {
	was := b.Get(q)
	var count uint64
	walk := func(c *wire.Coder) { wire.Uint(c, &count) }
	if was != nil {
		b.fail(decode("author", was, walk))
	}
	if count += uint64(n); count == 0 {
		b.Remove(q)
		return
	}
	b.put(q, was, encode(walk))
}

func (b *Batch) befriend(p, self action.Participant) {
	q := qualifier(byFriend, string(p.User))
	if p.User == "" || p == self || b.Get(q) != nil {
		return
	}
	b.Add(q, present)
	b.stats.Friends++
}

// mark changes the messages of a target that are due, until none is left in the
// thread: left is how many can be.
func (b *Batch) mark(target *action.Target, due func(*Message) bool, set func(*Message), left func(*Thread) uint64) {
	b.edit(target.Thread, func(t *Thread) {
		for _, m := range b.targets(t, target, due, left(t)) {
			was := *m
			set(m)
			b.Set(sequenced(cellMessage, m.Sequence), encode(m.walk))
			if m.Deleted {
				b.list(t, &was, -1)
			} else {
				t.count(&was, -1)
				t.count(m, 1)
			}
		}
		b.renew(t)
	})
}

// targets returns the messages of t that are meant and due, newest first; of a thread
// it stops looking when it has found most.
func (b *Batch) targets(t *Thread, target *action.Target, due func(*Message) bool, most uint64) []*Message {
	var found []*Message
	take := func(seq uint64) {
		m, err := b.view().MessageAt(seq)
		b.fail(err)
		if m != nil && m.Thread == t.ID && !m.Deleted && due(m) {
			found = append(found, m)
		}
	}
	if len(target.Messages) > 0 {
		for _, id := range unique(target.Messages) {
			seq, err := b.view().sequenceOf(id)
			if b.fail(err); seq > 0 {
				take(seq)
			}
		}
		return found
	}
	prefix := qualifier(byThread, t.ID, "\x00")
	for q := range b.Scan(prefix, after(prefix)) {
		if uint64(len(found)) >= most {
			break
		}
		if seq := sequenceAt(q); target.Through == 0 || seq <= target.Through {
			take(seq)
		}
	}
	return found
}

func unique(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// renew finds t's newest message again, if it was deleted.
func (b *Batch) renew(t *Thread) {
	prefix := qualifier(byThread, t.ID, "\x00")
	if t.Messages == 0 || b.Get(append(bytes.Clone(prefix), place(t.Newest, t.NewestSequence)...)) != nil {
		return
	}
	for q := range b.Scan(prefix, after(prefix)) {
		t.Newest, t.NewestSequence = uninverted(q[len(prefix):]), sequenceAt(q)
		t.Placed = b.at.Sequence
		return
	}
}

func (b *Batch) tag(d *action.Tagged) {
	if len(d.Messages) == 0 {
		b.edit(d.Thread, func(t *Thread) { t.Tags = retag(t.Tags, d) })
		return
	}
	all := func(*Message) bool { return true }
	b.mark(&d.Target, all, func(m *Message) { m.Tags = retag(m.Tags, d) },
		func(t *Thread) uint64 { return t.Messages })
}

func retag(tags []string, d *action.Tagged) []string {
	tags = append(slices.Clone(tags), d.Add...)
	slices.Sort(tags)
	tags = slices.Compact(tags)
	tags = slices.DeleteFunc(tags, func(t string) bool { return slices.Contains(d.Remove, t) })
	if len(tags) == 0 {
		return nil
	}
	return tags
}

func (b *Batch) merge(d *action.Membership) {
	b.edit(d.Thread, func(t *Thread) {
		if d.ReplyHandler != "" {
			t.ReplyHandler = d.ReplyHandler
		}
		have, err := b.view().Members(t)
		b.fail(err)
		t.Members, _ = action.MergeMembers(have, d.States)
		if q := qualifier(cellMembers, t.ID); b.version.Schema >= V2 {
			b.put(q, b.Get(q), encode(func(c *wire.Coder) { action.WalkMemberStates(c, &t.Members) }))
		}
	})
}

func (b *Batch) purge(id string) {
	m, err := b.view().Message(id)
	b.fail(err)
	if m == nil || !m.Deleted || m.Purged {
		return
	}
	b.stats.Bytes -= m.Bytes
	m.Purged, m.Whole, m.Bytes, m.Snippet, m.Tags = true, false, 0, "", nil
	b.Set(sequenced(cellMessage, m.Sequence), encode(m.walk))
}

// Keys are remembered while they are among the last KeepKeys, or younger than
// KeepKeysFor by the log's times.
const (
	KeepKeys    = 10_000
	KeepKeysFor = 7 * 24 * 3600 * 1e9 // nanoseconds
)

// keyAge is the value of a K cell.
type keyAge struct {
	origin action.Origin
	key    string
	time   action.Time
}

func (k *keyAge) walk(c *wire.Coder) {
	wire.Uint(c, &k.origin)
	wire.String(c, &k.key)
	wire.Int(c, &k.time)
}

func keyCell(origin action.Origin, key string) []byte {
	return qualifier(byKey, string([]byte{byte(origin)}), key)
}

// remember keeps the action's idempotency key, and forgets those too old.
func (b *Batch) remember() {
	a := b.at
	if a.Key == "" {
		return
	}
	receipt := Receipt{a.Sequence, a.Request}
	q := keyCell(a.Origin, a.Key)
	was, err := b.view().Receipt(a.Origin, a.Key)
	b.fail(err)
	if was != (Receipt{}) {
		b.Remove(sequenced(byKeySequence, was.Sequence))
		b.stats.Keys--
	}
	b.put(q, b.Get(q), encode(receipt.walk))
	age := keyAge{a.Origin, a.Key, a.Time}
	b.Add(sequenced(byKeySequence, a.Sequence), encode(age.walk))
	for b.stats.Keys++; b.stats.Keys > KeepKeys && b.forget(a.Time-KeepKeysFor); b.stats.Keys-- {
	}
}

// forget drops the oldest key if it is of before a time.
func (b *Batch) forget(before action.Time) bool {
	for q, value := range b.Scan([]byte{byKeySequence}, after([]byte{byKeySequence})) {
		var oldest keyAge
		if err := decode("key", value, oldest.walk); err != nil {
			b.fail(err)
			return false
		}
		if oldest.time >= before {
			return false
		}
		b.Remove(keyCell(oldest.origin, oldest.key))
		b.Remove(bytes.Clone(q))
		return true
	}
	return false
}

// Rebuild folds a log from nothing.
func Rebuild(schema Schema, log iter.Seq[action.Action]) (*Cells, error) {
	return rebuild(schema, log, 0)
}

// rebuild folds a log up to a sequence; 0 means all.
func rebuild(schema Schema, log iter.Seq[action.Action], through uint64) (*Cells, error) {
	cells := NewCells()
	b, err := NewBatch(cells, schema)
	for a := range log {
		if err != nil || through > 0 && a.Sequence > through {
			break
		}
		if err = b.Apply(a); err == nil && b.Len() > 4096 {
			cells.Apply(b.Delta())
			b, err = NewBatch(cells, schema)
		}
	}
	if err != nil {
		return nil, err
	}
	cells.Apply(b.Delta())
	return cells, nil
}

// Upgrade returns the delta that turns old cells, of whatever schema and however far
// behind the log, into those of another: what Rebuild makes. A job puts it, or a
// mailbox that is being loaded. It reads the whole log. An old schema is not looked at,
// so that cells of a newer or corrupt one can be replaced; whoever may not checks first.
func Upgrade(old Reader, schema Schema, log iter.Seq[action.Action]) (Delta, error) {
	made, err := Rebuild(schema, log)
	if err != nil {
		return nil, err
	}
	return Diff(old, made), nil
}

// Diff returns the delta that turns the cells of one reader into those of another.
func Diff(from, to Reader) Delta {
	var d Delta
	for q := range from.Scan(nil, nil) {
		if to.Get(q) == nil {
			d = append(d, Cell{Qualifier: q})
		}
	}
	for q, v := range to.Scan(nil, nil) {
		if !bytes.Equal(from.Get(q), v) {
			d = append(d, Cell{q, v})
		}
	}
	slices.SortFunc(d, func(a, b Cell) int { return bytes.Compare(a.Qualifier, b.Qualifier) })
	return d
}

// ErrDiffers is returned by Check: the cells are not what the log says.
var ErrDiffers = errors.New("metadata differs from the log")

// Check reports whether cells are what the log up to their version folds into: the
// log may be ahead of them, and have lost contents by a purge that they do not know of.
// It goes through log twice. ErrDiffers names the first cells that are missing, extra
// or stale, by what they are for and never by what they hold; ErrNewer, ErrCorrupt.
func Check(log iter.Seq[action.Action], cells Reader) error {
	v, err := VersionOf(cells)
	if err != nil {
		return err
	}
	want := NewCells()
	if v.Sequence > 0 {
		if want, err = rebuild(v.Schema, log, v.Sequence); err != nil {
			return err
		}
		if got, _ := VersionOf(want); got != v {
			return fmt.Errorf("cells of version %d, the log ends at %d: %w", v.Sequence, got.Sequence, ErrDiffers)
		}
	}
	var purged []string // since
	for a := range log {
		if d, ok := a.Do.(*action.Purged); ok && a.Sequence > v.Sequence {
			purged = append(purged, d.Messages...)
		}
	}
	if len(purged) == 0 {
		return Differences(cells, want)
	}
	got, err := without(cells, purged)
	if err != nil {
		return err
	}
	wanted, err := without(want, purged)
	if err != nil {
		return err
	}
	return Differences(got, wanted)
}

// without returns cells in which messages have no contents.
func without(cells Reader, ids []string) (Reader, error) {
	v, err := Open(cells)
	if err != nil {
		return nil, err
	}
	o := NewOverlay(cells)
	for _, id := range ids {
		m, err := v.Message(id)
		if err != nil {
			return nil, err
		}
		if m != nil {
			m.Whole, m.Snippet = false, ""
			o.Set(sequenced(cellMessage, m.Sequence), encode(m.walk))
		}
	}
	return o, nil
}

// Differences returns nil if got has the cells of want; else ErrDiffers, with their
// number and the first few by kind.
func Differences(got, want Reader) error {
	d := Diff(got, want)
	if len(d) == 0 {
		return nil
	}
	var errs []error
	for _, c := range d[:min(len(d), 5)] {
		how := "stale"
		switch {
		case len(c.Value) == 0:
			how = "extra"
		case got.Get(c.Qualifier) == nil:
			how = "missing"
		}
		errs = append(errs, fmt.Errorf("%s %c cell", how, c.Qualifier[0]))
	}
	return fmt.Errorf("%d cells: %w: %w", len(d), ErrDiffers, errors.Join(errs...))
}
