package search

import (
	"cmp"
	"math"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// node is a part of a query; prepare finds in the keywords what it needs.
type node interface {
	prepare(*run) matcher
	ranges(add func(from, to []byte))
}

// matcher decides which messages a prepared node matches.
type matcher interface {
	// has is false if no message of this sequence matches, whatever it is.
	has(sequence uint64) bool
	// match decides.
	match(*candidate) bool
	// estimate is how many sequences has is true of at most; unknown if there is no saying.
	estimate() int
	// sequences are those, and maybe others, ascending; of no use if estimate is unknown.
	sequences() []uint64
}

const unknown = math.MaxInt

type (
	allOf []node
	anyOf []node
	not   struct{ node }
	words struct { // side by side, in one of the fields
		fields []byte
		terms  []Token
		prefix bool // the last of them is the beginning of one
	}
	author struct{ address string }
	date   struct {
		open
		after, before *action.Time
	}
	meta struct {
		open
		is func(*candidate) bool
	}
)

// candidate is a message that is looked at, with its thread when it is asked for.
type candidate struct {
	*index.Message
	run *run
}

// run is one evaluation; threads are looked up once. Its first error ends it.
type run struct {
	view    index.View
	cells   index.Reader
	threads map[string]*place
	err     error
}

func (r *run) fail(err error) { r.err = cmp.Or(r.err, err) }

// place is what a query asks about a thread.
type place struct {
	folder  action.Folder
	members []action.Member
}

func (c *candidate) place() *place {
	p := c.run.threads[c.Thread]
	if p != nil {
		return p
	}
	p = &place{}
	t, err := c.run.view.Thread(c.Thread)
	if err == nil && t != nil {
		var states []action.MemberState
		states, err = c.run.view.Members(t)
		p.folder, p.members = t.Folder, index.Present(states)
	}
	c.run.fail(err)
	c.run.threads[c.Thread] = p
	return p
}

func (c *candidate) folder() action.Folder { return c.place().folder }

func (c *candidate) with(address string) bool {
	return slices.ContainsFunc(c.place().members, func(m action.Member) bool { return m.Participant.String() == address })
}

func (c *candidate) tagged(tag string) bool { return slices.Contains(c.Tags, tag) }

// Run returns a page of the messages that q matches, by time, newest first, then
// sequence; and where the next page begins, nil after the last. view and cells are
// those of one version. Deleted messages never match, and a walk over pages shows no
// message that came after it began. ErrCorrupt, of this package or of index.
func (q *Query) Run(view index.View, cells index.Reader, limit int, from *index.Cursor) ([]index.Message, *index.Cursor, error) {
	r := &run{view: view, cells: cells, threads: map[string]*place{}}
	m := q.root.prepare(r)
	stats, err := view.Stats()
	if r.fail(err); r.err != nil {
		return nil, nil, r.err
	}
	var page []index.Message
	var next *index.Cursor
	// Either read all that may match and sort it, or walk the mailbox by time until the
	// page is full, after about limit x messages / matches steps: whichever is less.
	if n := m.estimate(); n < 64 || n < 1<<20 && uint64(n)*uint64(n) <= uint64(limit)*stats.Messages {
		page, next, err = r.sorted(m, limit, from)
	} else {
		since, until := bounds(q.root)
		page, next, err = view.Newest(since, until, limit, from, m.has, func(e *index.Message) bool { return m.match(&candidate{e, r}) })
	}
	if r.fail(err); r.err != nil {
		return nil, nil, r.err
	}
	return page, next, nil
}

func (r *run) sorted(m matcher, limit int, from *index.Cursor) ([]index.Message, *index.Cursor, error) {
	started := r.view.Version().Sequence
	if from != nil {
		started = from.Version
	}
	var found []index.Message
	for _, seq := range m.sequences() {
		if seq > started || !m.has(seq) {
			continue
		}
		e, err := r.view.MessageAt(seq)
		if err != nil {
			return nil, nil, err
		}
		if e != nil && !e.Deleted && (from == nil || newestFirst(index.Message{Time: from.Time, Sequence: from.Sequence}, *e) < 0) &&
			m.match(&candidate{e, r}) {
			found = append(found, *e)
		}
	}
	slices.SortFunc(found, newestFirst)
	if len(found) <= limit {
		return found, nil, nil
	}
	last := found[limit-1]
	return found[:limit:limit], &index.Cursor{Time: last.Time, Sequence: last.Sequence, Version: started}, nil
}

func newestFirst(a, b index.Message) int {
	return cmp.Or(cmp.Compare(b.Time, a.Time), cmp.Compare(b.Sequence, a.Sequence))
}

// bounds are those of the dates that a query demands.
func bounds(n node) (since, until *action.Time) {
	switch n := n.(type) {
	case date:
		return n.after, n.before
	case allOf:
		for _, part := range n {
			s, u := bounds(part)
			if s != nil && (since == nil || *s > *since) {
				since = s
			}
			if u != nil && (until == nil || *u < *until) {
				until = u
			}
		}
	}
	return since, until
}

// list is the postings of one keyword, or of all that begin alike, decoded a cell at a
// time when they are looked at: a page of a common word needs few of them.
type list struct {
	run   *run
	cells []listed // in the order of their messages, which do not overlap
	bytes int
}

// listed is one cell of a list.
type listed struct {
	qualifier, value []byte
	first            uint64
	postings         []posting // nil until decoded
}

// read returns the list of a range of cells; alike, of more keywords than one.
func (r *run) read(from, to []byte, alike bool) *list {
	l := &list{run: r}
	for q, v := range r.cells.Scan(from, to) {
		_, first, _ := firstOf(q)
		l.cells = append(l.cells, listed{qualifier: q, value: v, first: first})
		l.bytes += len(v)
	}
	if alike && len(l.cells) > 0 {
		var all []posting
		for i := range l.cells {
			all = append(all, l.decode(i)...)
		}
		slices.SortStableFunc(all, compare)
		l.cells = []listed{{postings: all}}
	}
	return l
}

// decode returns the postings of the i-th cell.
func (l *list) decode(i int) []posting {
	c := &l.cells[i]
	if c.postings == nil {
		// No posting takes less than three bytes.
		all, err := decodePart(make([]posting, 0, len(c.value)/3), c.qualifier, c.value)
		if l.run.fail(err); err != nil {
			all = []posting{}
		}
		c.postings = all
	}
	return c.postings
}

// of returns the postings of a message: one, or of words that begin alike several.
func (l *list) of(sequence uint64) []posting {
	i, exact := slices.BinarySearchFunc(l.cells, sequence, func(c listed, s uint64) int { return cmp.Compare(c.first, s) })
	if !exact {
		i--
	}
	if i < 0 {
		return nil
	}
	all := l.decode(i)
	from, _ := slices.BinarySearchFunc(all, sequence, func(p posting, s uint64) int { return cmp.Compare(p.sequence, s) })
	to := from
	for to < len(all) && all[to].sequence == sequence {
		to++
	}
	return all[from:to]
}

func (l *list) has(sequence uint64) bool { return len(l.of(sequence)) > 0 }
func (l *list) match(c *candidate) bool  { return l.has(c.Sequence) }
func (l *list) estimate() int            { return l.bytes / 3 }

func (l *list) sequences() []uint64 {
	all := make([]uint64, 0, l.estimate())
	for i := range l.cells {
		for _, p := range l.decode(i) {
			all = append(all, p.sequence)
		}
	}
	return slices.Compact(all)
}

// phrase is lists of terms that stand side by side in one field.
type phrase struct {
	run   *run
	terms []Token
	lists []*list
}

func (w words) prepare(r *run) matcher {
	var fields alternatives
	for _, field := range w.fields {
		p := phrase{run: r, terms: w.terms}
		for i, t := range w.terms {
			from, to := w.span(field, i, t.Term)
			p.lists = append(p.lists, r.read(from, to, w.open(i)))
		}
		if len(p.lists) == 1 {
			fields = append(fields, p.lists[0])
		} else {
			fields = append(fields, p)
		}
	}
	return fields
}

// open reports whether the i-th term is the beginning of a word.
func (w words) open(i int) bool { return w.prefix && i == len(w.terms)-1 }

// span is where the cells of the i-th term are.
func (w words) span(field byte, i int, term string) (from, to []byte) {
	word := string(field) + term
	if w.open(i) {
		return []byte(word), append([]byte(word), 0xff) // which no term has in it
	}
	return parts(word)
}

func (w words) ranges(add func(from, to []byte)) {
	for _, field := range w.fields {
		for i, t := range w.terms {
			add(w.span(field, i, t.Term))
		}
	}
}

func (p phrase) match(c *candidate) bool { return p.has(c.Sequence) }
func (p phrase) estimate() int           { return p.rarest().estimate() }
func (p phrase) sequences() []uint64     { return p.rarest().sequences() }

func (p phrase) rarest() *list {
	return slices.MinFunc(p.lists, func(a, b *list) int { return cmp.Compare(a.bytes, b.bytes) })
}

// has reports whether the terms stand in a message as far apart as in the query.
func (p phrase) has(sequence uint64) bool {
	if !p.rarest().has(sequence) {
		return false
	}
	var starts []uint32 // where the query would begin
	for i, l := range p.lists {
		here := p.starts(i, l.of(sequence))
		if i > 0 {
			here = slices.DeleteFunc(here, func(s uint32) bool { return !slices.Contains(starts, s) })
		}
		if starts = here; len(starts) == 0 {
			return false
		}
	}
	return true
}

// starts are where the query would begin for its i-th term to stand where it does;
// before the text for some, where its first term cannot be.
func (p phrase) starts(i int, postings []posting) []uint32 {
	var all []uint32
	for _, posting := range postings {
		positions, err := posting.positions()
		p.run.fail(err)
		for _, at := range positions {
			all = append(all, at-p.terms[i].Position)
		}
	}
	return all
}

func (a author) prepare(r *run) matcher {
	from, to := a.span()
	return r.read(from, to, false)
}

func (a author) span() (from, to []byte) { return parts(string(byte(fieldAuthor)) + a.address) }

func (a author) ranges(add func(from, to []byte)) { add(a.span()) }

// conjunction is a prepared allOf.
type conjunction []matcher

func (a allOf) prepare(r *run) matcher {
	var parts conjunction
	for _, n := range a {
		parts = append(parts, n.prepare(r))
	}
	return parts
}

func (c conjunction) has(sequence uint64) bool {
	for _, m := range c {
		if !m.has(sequence) {
			return false
		}
	}
	return true
}

func (c conjunction) match(x *candidate) bool {
	for _, m := range c {
		if !m.match(x) {
			return false
		}
	}
	return true
}

func (c conjunction) rarest() matcher {
	return slices.MinFunc(c, func(a, b matcher) int { return cmp.Compare(a.estimate(), b.estimate()) })
}

func (c conjunction) estimate() int       { return c.rarest().estimate() }
func (c conjunction) sequences() []uint64 { return c.rarest().sequences() }

func (a allOf) ranges(add func(from, to []byte)) {
	for _, n := range a {
		n.ranges(add)
	}
}

// alternatives is a prepared anyOf.
type alternatives []matcher

func (a anyOf) prepare(r *run) matcher {
	var parts alternatives
	for _, n := range a {
		parts = append(parts, n.prepare(r))
	}
	return parts
}

func (a alternatives) has(sequence uint64) bool {
	return slices.ContainsFunc(a, func(m matcher) bool { return m.has(sequence) })
}

func (a alternatives) match(x *candidate) bool {
	return slices.ContainsFunc(a, func(m matcher) bool { return m.match(x) })
}

func (a alternatives) estimate() int {
	sum := 0
	for _, m := range a {
		n := m.estimate()
		if n == unknown {
			return unknown
		}
		sum += n
	}
	return sum
}

func (a alternatives) sequences() []uint64 {
	var union []uint64
	for _, m := range a {
		union = append(union, m.sequences()...)
	}
	slices.Sort(union)
	return slices.Compact(union)
}

func (a anyOf) ranges(add func(from, to []byte)) { allOf(a).ranges(add) }

// open is a matcher that says nothing by sequence.
type open struct{}

func (open) has(uint64) bool     { return true }
func (open) estimate() int       { return unknown }
func (open) sequences() []uint64 { return nil }

// negation is a prepared not.
type negation struct {
	open
	of matcher
}

func (n not) prepare(r *run) matcher       { return negation{of: n.node.prepare(r)} }
func (n negation) match(x *candidate) bool { return !n.of.match(x) }
func (m meta) prepare(*run) matcher        { return m }
func (m meta) match(x *candidate) bool     { return m.is(x) }
func (meta) ranges(func(from, to []byte))  {}
func (d date) prepare(*run) matcher        { return d }
func (date) ranges(func(from, to []byte))  {}

func (d date) match(x *candidate) bool {
	return (d.after == nil || x.Time >= *d.after) && (d.before == nil || x.Time < *d.before)
}

// threads returns the threads of the messages that have words.
func threads(view index.View, cells index.Reader, w words) (map[string]bool, error) {
	r := &run{view: view, cells: cells}
	m := w.prepare(r)
	found := map[string]bool{}
	for _, seq := range m.sequences() {
		if !m.has(seq) {
			continue
		}
		e, err := view.MessageAt(seq)
		r.fail(err)
		if e != nil && !e.Deleted {
			found[e.Thread] = true
		}
	}
	return found, r.err
}
