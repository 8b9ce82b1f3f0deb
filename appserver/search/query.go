package search

import (
	"cmp"
	"fmt"
	"slices"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// node is a part of a query; prepare looks up in the keywords what it needs.
type node interface {
	prepare(index.Reader) (matcher, error)
	ranges(add func(from, to []byte))
}

// matcher decides which messages a prepared node matches.
type matcher interface {
	// match decides by the message's sequence and entity.
	match(*candidate) bool
	// may returns the sequences, ascending, among which all matches are; false if there
	// is no saying.
	may() ([]uint64, bool)
}

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
	date   struct{ after, before *action.Time }
	meta   struct{ is func(*candidate) bool }
)

// candidate is a message that is looked at, with its thread when it is asked for.
type candidate struct {
	*index.Message
	run *run
}

// run is one evaluation; threads are looked up once.
type run struct {
	view    index.View
	threads map[string]*place
	err     error
}

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
	c.run.err = cmp.Or(c.run.err, err)
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
	m, err := q.root.prepare(cells)
	if err != nil {
		return nil, nil, err
	}
	r := &run{view: view, threads: map[string]*place{}}
	stats, err := view.Stats()
	if err != nil {
		return nil, nil, err
	}
	sequences, known := m.may()
	var page []index.Message
	var next *index.Cursor
	// Either read what is known and sort it, or walk all by time until the page is full:
	// after about limit x messages / matches steps.
	if n := uint64(len(sequences)); known && n*n <= uint64(limit)*stats.Messages+n {
		page, next, err = r.sorted(m, sequences, limit, from)
	} else {
		page, next, err = r.walk(m, q.root, sequences, known, limit, from)
	}
	return page, next, cmp.Or(err, r.err)
}

func (r *run) sorted(m matcher, sequences []uint64, limit int, from *index.Cursor) ([]index.Message, *index.Cursor, error) {
	started := r.view.Version().Sequence
	if from != nil {
		started = from.Version
	}
	var found []index.Message
	for _, seq := range sequences {
		if seq > started {
			break
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

func (r *run) walk(m matcher, root node, sequences []uint64, known bool, limit int, from *index.Cursor) ([]index.Message, *index.Cursor, error) {
	since, until := bounds(root)
	among := func(uint64) bool { return true }
	if known {
		among = func(seq uint64) bool { return contains(sequences, seq) }
	}
	return r.view.Newest(since, until, limit, from, among, func(e *index.Message) bool { return m.match(&candidate{e, r}) })
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

func contains(sequences []uint64, seq uint64) bool {
	_, found := slices.BinarySearch(sequences, seq)
	return found
}

// set is a matcher that knows its messages, ascending.
type set []uint64

func (s set) match(c *candidate) bool { return contains(s, c.Sequence) }
func (s set) may() ([]uint64, bool)   { return s, true }

func (w words) ranges(add func(from, to []byte)) {
	for _, field := range w.fields {
		for i, t := range w.terms {
			from, to := w.span(field, i, t.Term)
			add(from, to)
		}
	}
}

// span is where the cells of the i-th term are.
func (w words) span(field byte, i int, term string) (from, to []byte) {
	word := string(field) + term
	if w.prefix && w.terms[i].Position == w.terms[len(w.terms)-1].Position {
		return []byte(word), append([]byte(word), 0xff) // which no term has in it
	}
	return parts(word)
}

func (w words) prepare(cells index.Reader) (matcher, error) {
	var found set
	for _, field := range w.fields {
		in, err := w.in(field, cells)
		if err != nil {
			return nil, err
		}
		if found = append(found, in...); len(found) > len(in) {
			slices.Sort(found)
			found = slices.Compact(found)
		}
	}
	return found, nil
}

// in returns the messages that have the terms side by side in a field.
func (w words) in(field byte, cells index.Reader) (set, error) {
	lists := make([][]posting, len(w.terms))
	for i, t := range w.terms {
		from, to := w.span(field, i, t.Term)
		var err error
		if lists[i], err = read(cells, from, to); err != nil {
			return nil, err
		}
	}
	var found set
	for i, p := range lists[0] {
		if i > 0 && lists[0][i-1].sequence == p.sequence {
			continue // another word of the same beginning
		}
		is, err := len(lists) == 1, error(nil)
		if !is {
			is, err = w.adjacent(p.sequence, lists)
		}
		if err != nil {
			return nil, err
		}
		if is {
			found = append(found, p.sequence)
		}
	}
	return found, nil
}

// read returns the postings of a range of cells, by message.
func read(cells index.Reader, from, to []byte) ([]posting, error) {
	var all []posting
	var err error
	for q, v := range cells.Scan(from, to) {
		if all, err = decodePart(all, q, v); err != nil {
			return nil, err
		}
	}
	if !slices.IsSortedFunc(all, compare) {
		slices.SortStableFunc(all, compare)
	}
	return all, nil
}

// adjacent reports whether the terms stand in a message as far apart as in the query.
func (w words) adjacent(sequence uint64, lists [][]posting) (bool, error) {
	var starts []uint32 // where the query would begin
	for i, list := range lists {
		at, _ := slices.BinarySearchFunc(list, sequence, func(p posting, s uint64) int { return cmp.Compare(p.sequence, s) })
		var here []uint32
		for ; at < len(list) && list[at].sequence == sequence; at++ {
			positions, err := list[at].positions()
			if err != nil {
				return false, err
			}
			for _, p := range positions {
				if p >= w.terms[i].Position {
					here = append(here, p-w.terms[i].Position)
				}
			}
		}
		if slices.Sort(here); i > 0 {
			starts = slices.DeleteFunc(starts, func(s uint32) bool {
				_, found := slices.BinarySearch(here, s)
				return !found
			})
		} else {
			starts = here
		}
		if len(starts) == 0 {
			return false, nil
		}
	}
	return true, nil
}

func (a author) prepare(cells index.Reader) (matcher, error) {
	from, to := a.span()
	postings, err := read(cells, from, to)
	found := make(set, len(postings))
	for i, p := range postings {
		found[i] = p.sequence
	}
	return found, err
}

func (a author) span() (from, to []byte) { return parts(string(byte(fieldAuthor)) + a.address) }

func (a author) ranges(add func(from, to []byte)) { add(a.span()) }

// conjunction is a prepared allOf.
type conjunction struct {
	parts     []matcher
	sequences []uint64
	known     bool
}

func (a allOf) prepare(cells index.Reader) (matcher, error) {
	c := &conjunction{}
	for _, n := range a {
		m, err := n.prepare(cells)
		if err != nil {
			return nil, err
		}
		c.parts = append(c.parts, m)
		if sequences, known := m.may(); known && c.known {
			c.sequences = intersect(c.sequences, sequences)
		} else if known {
			c.sequences, c.known = sequences, true
		}
	}
	if len(c.parts) == 1 {
		return c.parts[0], nil
	}
	return c, nil
}

func (c *conjunction) may() ([]uint64, bool) { return c.sequences, c.known }

func (c *conjunction) match(x *candidate) bool {
	for _, m := range c.parts {
		if !m.match(x) {
			return false
		}
	}
	return true
}

func intersect(a, b []uint64) []uint64 {
	var both []uint64
	for len(a) > 0 && len(b) > 0 {
		switch order := cmp.Compare(a[0], b[0]); {
		case order < 0:
			a = a[1:]
		case order > 0:
			b = b[1:]
		default:
			both = append(both, a[0])
			a, b = a[1:], b[1:]
		}
	}
	return both
}

func (a allOf) ranges(add func(from, to []byte)) {
	for _, n := range a {
		n.ranges(add)
	}
}

// alternatives is a prepared anyOf.
type alternatives []matcher

func (a anyOf) prepare(cells index.Reader) (matcher, error) {
	var parts alternatives
	for _, n := range a {
		m, err := n.prepare(cells)
		if err != nil {
			return nil, err
		}
		parts = append(parts, m)
	}
	return parts, nil
}

func (a alternatives) match(x *candidate) bool {
	return slices.ContainsFunc(a, func(m matcher) bool { return m.match(x) })
}

func (a alternatives) may() ([]uint64, bool) {
	var union []uint64
	for _, m := range a {
		sequences, known := m.may()
		if !known {
			return nil, false
		}
		union = append(union, sequences...)
	}
	slices.Sort(union)
	return slices.Compact(union), true
}

func (a anyOf) ranges(add func(from, to []byte)) { allOf(a).ranges(add) }

// negation is a prepared not.
type negation struct{ matcher }

func (n not) prepare(cells index.Reader) (matcher, error) {
	m, err := n.node.prepare(cells)
	return negation{m}, err
}

func (n negation) match(x *candidate) bool { return !n.matcher.match(x) }
func (negation) may() ([]uint64, bool)     { return nil, false }

func (m meta) prepare(index.Reader) (matcher, error) { return m, nil }
func (m meta) match(x *candidate) bool               { return m.is(x) }
func (meta) may() ([]uint64, bool)                   { return nil, false }
func (meta) ranges(func(from, to []byte))            {}

func (d date) prepare(index.Reader) (matcher, error) { return d, nil }
func (date) may() ([]uint64, bool)                   { return nil, false }
func (date) ranges(func(from, to []byte))            {}

func (d date) match(x *candidate) bool {
	return (d.after == nil || x.Time >= *d.after) && (d.before == nil || x.Time < *d.before)
}

// threads returns the threads of the messages that have words.
func threads(view index.View, cells index.Reader, w words) (map[string]bool, error) {
	m, err := w.prepare(cells)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	sequences, _ := m.may()
	for _, seq := range sequences {
		e, err := view.MessageAt(seq)
		if err != nil {
			return nil, fmt.Errorf("threads of a keyword: %w", err)
		}
		if e != nil && !e.Deleted {
			found[e.Thread] = true
		}
	}
	return found, nil
}
