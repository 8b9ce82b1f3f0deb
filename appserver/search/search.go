// Package search is full-text search in one mailbox: an inverted index from keywords
// to messages, kept as cells, added to with each message and never rewritten for it;
// and queries on it. Analysis is that of bleve.
//
// A Batch takes the log's actions, as index.Batch does, and in its wake, as it asks it
// for subjects. It is read like cells, so that a message is found as soon as it is
// applied:
//
//	words, err := search.NewBatch(keywordCells, analyzer)
//	err = words.Apply(a, view)                  // of an index in which a is folded
//	query, err := search.Parse(text, analyzer)
//	hits, next, err := query.Run(view, words, 20, nil)
//	delta := words.Delta()                      // put it with the index's
//
// # The cells
//
//	qualifier                         value
//	v                                 Version
//	field term 0 first                (message, positions) of the term, from first on
//
// field is a byte: s subject, b body, f name of an attachment, a author's address,
// whole. first is 8 bytes, big-endian: the first sequence of the batch that made the
// cell. So each keyword has columns of its own, next to each other in the order of
// time, and a new batch adds one more. A keyword with more than MaxParts of them has
// the small ones made one by the Delta that would add another.
//
// A value is a list, to its end, of: sequence of the message less that of the one
// before (less first, at the beginning), length of its positions in bytes, positions,
// each less the one before. All are uvarints. A subject's words are those of every
// message of its thread.
//
// Deleted messages stay in the cells, and are left out of results by their entities,
// until a purge (see Purge).
package search

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/internal/wire"
)

var (
	// ErrNewer: a newer program made the cells.
	ErrNewer = errors.New("keywords of a newer schema")
	// ErrLanguage: the cells were made by the analyzer of another language. They are to
	// be made again from the log.
	ErrLanguage = errors.New("keywords of another language")
	// ErrCorrupt: a cell holds what no batch wrote. The cells can be made again from the log.
	ErrCorrupt = errors.New("corrupt keywords")
	// ErrGap is returned by Apply: the action does not follow the last one applied.
	ErrGap = errors.New("gap in the log")
	// ErrDiffers is returned by Check: the cells are not what the log says.
	ErrDiffers = errors.New("keywords differ from the log")
)

// MaxParts is how many cells a keyword has before they are merged.
const MaxParts = 16

// partBytes is the size from which a cell is left alone by merges, so that a word in
// every message is not written again and again.
const partBytes = 16 << 10

// The fields.
const (
	fieldAuthor  = 'a'
	fieldBody    = 'b'
	fieldFile    = 'f'
	fieldSubject = 's'
)

const schema = 1

// Version says what the cells show.
type Version struct {
	Language string
	Sequence uint64 // of the last action applied
}

var versionCell = []byte{'v'}

func (v *Version) walk(c *wire.Coder) {
	wire.String(c, &v.Language)
	wire.Uint(c, &v.Sequence)
}

// VersionOf returns the version of r's cells: zero if there are none. ErrNewer,
// ErrCorrupt.
func VersionOf(r index.Reader) (Version, error) {
	var v Version
	value := r.Get(versionCell)
	if len(value) == 0 {
		return v, nil
	}
	if value[0] > schema {
		return v, fmt.Errorf("keywords of schema %d, known are up to %d: %w", value[0], schema, ErrNewer)
	}
	c := wire.Reader(value[1:])
	v.walk(c)
	if _, err := c.Close(); err != nil || value[0] != schema {
		return v, fmt.Errorf("decode version of keywords: %w", ErrCorrupt)
	}
	return v, nil
}

// Batch adds messages to what is in front of a Reader. It is itself a Reader that
// shows them. Applying needs exclusive use; reading does not.
type Batch struct {
	*index.Overlay
	analyzer *Analyzer
	version  Version
	first    uint64            // sequence of its first action
	last     map[string]uint64 // keyword → the last message in the batch's own cell
}

// NewBatch returns an empty batch in front of base. ErrNewer, ErrLanguage, ErrCorrupt.
func NewBatch(base index.Reader, a *Analyzer) (*Batch, error) {
	v, err := VersionOf(base)
	if err != nil {
		return nil, err
	}
	if v.Sequence > 0 && v.Language != a.language {
		return nil, fmt.Errorf("%w: %q, want %q", ErrLanguage, v.Language, a.language)
	}
	return &Batch{Overlay: index.NewOverlay(base), analyzer: a, version: Version{a.language, v.Sequence},
		first: v.Sequence + 1, last: map[string]uint64{}}, nil
}

// Version returns what the batch shows.
func (b *Batch) Version() Version { return b.version }

// Apply adds the message that came with the next action, if one did and the mailbox
// took it, as meta says: an index in which the action is folded, and maybe later ones.
// ErrGap: nothing happened.
func (b *Batch) Apply(a action.Action, meta index.View) error {
	if a.Sequence != b.version.Sequence+1 {
		return fmt.Errorf("action %d after %d: %w", a.Sequence, b.version.Sequence, ErrGap)
	}
	was := b.version.Sequence
	b.version.Sequence = a.Sequence
	value := wire.Writer([]byte{schema})
	b.version.walk(value)
	encoded, _ := value.Close() // a writer has no errors of its own
	if was == 0 {
		b.Add(versionCell, encoded)
	} else {
		b.Set(versionCell, encoded)
	}
	m := action.MessageOf(a.Do)
	if m == nil || m.Stripped {
		return nil
	}
	entity, err := meta.MessageAt(a.Sequence)
	if err != nil || entity == nil {
		return err
	}
	thread, err := meta.Thread(m.Thread)
	if err != nil || thread == nil {
		return err
	}
	for _, k := range b.analyzer.keywords(m, thread.Subject) {
		b.post(k.keyword, a.Sequence, k.positions)
	}
	return nil
}

// keyword is a field and a term with its positions in one message.
type keyword struct {
	keyword   string
	positions []uint32
}

// keywords returns those of a message, in no order.
func (a *Analyzer) keywords(m *action.Message, subject string) []keyword {
	at := map[string]int{}
	var all []keyword
	add := func(word string, position uint32) {
		i, known := at[word]
		if !known {
			i = len(all)
			at[word] = i
			all = append(all, keyword{keyword: word})
		}
		all[i].positions = append(all[i].positions, position)
	}
	text := func(field byte, text string) {
		for _, t := range a.Tokens(text) {
			add(string(field)+t.Term, t.Position)
		}
	}
	text(fieldSubject, subject)
	text(fieldBody, m.Body)
	// Names of several attachments are one text, with gaps that no phrase spans.
	var gap uint32
	for _, attached := range m.Attachments {
		for _, t := range a.Tokens(attached.Name) {
			add(string(byte(fieldFile))+t.Term, gap+t.Position)
		}
		gap += 1000
	}
	add(string(byte(fieldAuthor))+m.Author.String(), 1)
	return all
}

// post appends a message to the batch's own cell of a keyword.
func (b *Batch) post(word string, sequence uint64, positions []uint32) {
	q := part(word, b.first)
	last, have := b.last[word]
	var value []byte
	if have {
		value = b.Get(q)
	} else {
		last = b.first
	}
	value = appendPosting(value, last, sequence, positions)
	if b.last[word] = sequence; have {
		b.Set(q, value)
	} else {
		b.Add(q, value)
	}
}

func appendPosting(value []byte, last, sequence uint64, positions []uint32) []byte {
	value = binary.AppendUvarint(value, sequence-last)
	var at [64]byte
	packed := at[:0]
	slices.Sort(positions)
	var before uint32
	for _, p := range positions {
		packed = binary.AppendUvarint(packed, uint64(p-before))
		before = p
	}
	value = binary.AppendUvarint(value, uint64(len(packed)))
	return append(value, packed...)
}

// part is the qualifier of a keyword's cell.
func part(word string, first uint64) []byte {
	q := append(make([]byte, 0, len(word)+9), word...)
	return binary.BigEndian.AppendUint64(append(q, 0), first)
}

// parts is the range of a keyword's cells, and of no other's: no term has a zero byte.
func parts(word string) (from, to []byte) {
	return append([]byte(word), 0), append([]byte(word), 1)
}

// firstOf splits a qualifier.
func firstOf(q []byte) (word []byte, first uint64, ok bool) {
	n := len(q) - 9
	if n < 1 || q[n] != 0 {
		return nil, 0, false
	}
	return q[:n], binary.BigEndian.Uint64(q[n+1:]), true
}

// Delta returns what the batch changes, with the cells of keywords merged that have
// too many. Of keywords that it did not add to it reads nothing.
func (b *Batch) Delta() (index.Delta, error) {
	var d index.Delta
	merged := map[string]bool{} // of the batch's own cells, those that are not put
	for word := range b.last {
		cells, err := b.merge(word)
		if err != nil {
			return nil, err
		}
		if cells != nil {
			d = append(d, cells...)
			merged[string(part(word, b.first))] = true
		}
	}
	for _, c := range b.Overlay.Delta() {
		if !merged[string(c.Qualifier)] {
			d = append(d, c)
		}
	}
	slices.SortFunc(d, func(x, y index.Cell) int { return bytes.Compare(x.Qualifier, y.Qualifier) })
	return d, nil
}

// merge returns what makes one cell of the small ones that a keyword ends with, if
// there are too many. The batch's own is the last of them.
func (b *Batch) merge(word string) (index.Delta, error) {
	var small []index.Cell
	from, to := parts(word)
	for q, v := range b.Scan(from, to) {
		if len(v) >= partBytes {
			small = nil // so that cells do not overlap in time
			continue
		}
		small = append(small, index.Cell{Qualifier: q, Value: v})
	}
	if len(small) <= MaxParts {
		return nil, nil
	}
	var all []posting
	var err error
	for _, c := range small {
		if all, err = decodePart(all, c.Qualifier, c.Value); err != nil {
			return nil, err
		}
	}
	_, first, _ := firstOf(small[0].Qualifier)
	d := index.Delta{{Qualifier: small[0].Qualifier, Value: encodeAll(first, all)}}
	for _, c := range small[1 : len(small)-1] {
		d = append(d, index.Cell{Qualifier: c.Qualifier})
	}
	return d, nil
}

// posting is a message in which a keyword is; its positions are still packed.
type posting struct {
	sequence uint64
	packed   []byte
}

func (p posting) positions() ([]uint32, error) {
	var all []uint32
	var at uint32
	for rest := p.packed; len(rest) > 0; {
		d, n := binary.Uvarint(rest)
		if n <= 0 {
			return nil, fmt.Errorf("decode positions in message %d: %w", p.sequence, ErrCorrupt)
		}
		at += uint32(d)
		all = append(all, at)
		rest = rest[n:]
	}
	return all, nil
}

// decodePart appends the postings of one cell to all; they refer to its value.
func decodePart(all []posting, q, value []byte) ([]posting, error) {
	_, last, ok := firstOf(q)
	for rest := value; ok && len(rest) > 0; {
		d, n := binary.Uvarint(rest)
		if n <= 0 {
			ok = false
			break
		}
		length, k := binary.Uvarint(rest[n:])
		if n += k; k <= 0 || length > uint64(len(rest)-n) {
			ok = false
			break
		}
		last += d
		end := n + int(length)
		all = append(all, posting{last, rest[n:end]})
		rest = rest[end:]
	}
	if !ok {
		return nil, fmt.Errorf("decode keyword: %w", ErrCorrupt)
	}
	return all, nil
}

func compare(a, b posting) int { return cmp.Compare(a.sequence, b.sequence) }

func encodeAll(first uint64, all []posting) []byte {
	var value []byte
	for _, p := range all {
		value = binary.AppendUvarint(value, p.sequence-first)
		value = binary.AppendUvarint(value, uint64(len(p.packed)))
		value = append(value, p.packed...)
		first = p.sequence
	}
	return value
}

// Rebuild makes the cells of a log from nothing. meta is the index of the whole log.
func Rebuild(a *Analyzer, log iter.Seq[action.Action], meta index.View) (*index.Cells, error) {
	return rebuild(a, log, meta, 0)
}

func rebuild(a *Analyzer, log iter.Seq[action.Action], meta index.View, through uint64) (*index.Cells, error) {
	cells := index.NewCells()
	b, err := NewBatch(cells, a)
	for x := range log {
		if err != nil || through > 0 && x.Sequence > through {
			break
		}
		err = b.Apply(x, meta)
	}
	if err != nil {
		return nil, err
	}
	d, err := b.Delta()
	cells.Apply(d)
	return cells, err
}

// Purge returns the delta that takes the messages for which gone is true out of all
// cells. It reads all of them: it is a job's.
func Purge(cells index.Reader, gone func(sequence uint64) bool) (index.Delta, error) {
	var d index.Delta
	for q, v := range cells.Scan(nil, nil) {
		if bytes.Equal(q, versionCell) {
			continue
		}
		all, err := decodePart(nil, q, v)
		if err != nil {
			return nil, err
		}
		n := len(all)
		if all = slices.DeleteFunc(all, func(p posting) bool { return gone(p.sequence) }); len(all) < n {
			_, first, _ := firstOf(q)
			d = append(d, index.Cell{Qualifier: q, Value: encodeAll(first, all)})
		}
	}
	return d, nil
}

// Check reports whether cells hold what the log up to their version says, however it
// was cut into batches and merged. What they hold of messages whose contents are
// purged is passed over: a purge comes later. meta is an index of the log that is not
// behind the cells. ErrDiffers, ErrNewer, ErrLanguage, ErrCorrupt.
func Check(a *Analyzer, log iter.Seq[action.Action], meta index.View, cells index.Reader) error {
	b, err := NewBatch(cells, a)
	if err != nil {
		return err
	}
	want := index.NewCells()
	if b.version.Sequence > 0 {
		if want, err = rebuild(a, log, meta, b.version.Sequence); err != nil {
			return err
		}
	}
	// VersionOf cannot fail: rebuild made the cell.
	if v, _ := VersionOf(want); v.Sequence != b.version.Sequence {
		return fmt.Errorf("keywords of version %d, the log ends at %d: %w", b.version.Sequence, v.Sequence, ErrDiffers)
	}
	got, err := canonical(cells, meta)
	if err != nil {
		return err
	}
	wanted, err := canonical(want, meta)
	if err != nil {
		return err
	}
	if d := index.Diff(got, wanted); len(d) > 0 {
		return fmt.Errorf("%d keywords: %w", len(d), ErrDiffers)
	}
	return nil
}

// canonical returns one cell a keyword, as if there had been one batch, without
// messages that are purged.
func canonical(cells index.Reader, meta index.View) (*index.Cells, error) {
	merged := index.NewCells()
	for q, v := range cells.Scan(nil, nil) {
		word, _, ok := firstOf(q)
		if !ok {
			if !bytes.Equal(q, versionCell) {
				return nil, fmt.Errorf("cell of no keyword: %w", ErrCorrupt)
			}
			continue
		}
		all, err := decodePart(nil, q, v)
		if err != nil {
			return nil, err
		}
		one := part(string(word), 0)
		if old := merged.Get(one); old != nil {
			before, err := decodePart(nil, one, old)
			if err != nil {
				return nil, err
			}
			all = append(before, all...)
		}
		slices.SortStableFunc(all, compare)
		all = slices.DeleteFunc(all, func(p posting) bool {
			m, e := meta.MessageAt(p.sequence)
			err = cmp.Or(err, e)
			return m != nil && m.Purged
		})
		if err != nil {
			return nil, err
		}
		merged.Apply(index.Delta{{Qualifier: one, Value: encodeAll(0, all)}})
	}
	return merged, nil
}
