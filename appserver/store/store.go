// Package store is the contract between the application server and what keeps
// its rows: one row a user, written by one fenced put at a time.
//
// # Rows
//
// A row is a fence and cells. A cell is a value under a family and a qualifier,
// both it and the value bytes of any kind. An absent row is one with a zero
// fence and no cells: every user has a row, and its first put makes it.
//
// # Order
//
// The fence orders a row's writers without clocks or locks. Every put names the
// whole fence that it expects and the one that takes its place, in the same
// atomic step as the cells. As no two fences of a row are ever equal (each
// carries a tag of its own), accepted puts form one chain, and a copy of a put
// that arrives late, or twice, finds another fence and writes nothing. What a
// server has to do with that is package appserver/fence.
//
// A row has no other writer. Jobs that change rows claim them like any server.
//
// # Bytes
//
// Nobody changes the bytes of a cell: not the caller those it puts, as a put may
// return before it has let go of them, nor those it has read, nor a store.
//
// # Outcomes
//
// A call that changes nothing (Read, Scan) succeeds or fails. A Put has three
// outcomes, and the third is as ordinary as the others:
//
//	nil                                the cells and the fence are durable
//	ErrFenced, ErrRefused, ErrInvalid  nothing was written, and nothing will be
//	any other error                    unknown: it may be written, or be written later
//
// Unknown is settled by reading the fence back, never by guessing and never by
// time. Unknown tells the cases apart.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// A Store keeps rows. Its methods may be called from any number of goroutines.
// There are four: memstore, pebble, rows and hbase; one suite, storetest, holds
// what is written here against all of them.
type Store interface {
	// Read returns the parts of a user's row that spans name, and its fence: all
	// of one moment, so that what a put wrote together is seen together or not
	// at all. Without spans it reads the fence alone. Spans are of different
	// families. A page is bounded: what did not fit is named in Row.Rest, and
	// the next Read takes that as its spans. Between pages the row may change,
	// which shows in the fence.
	//
	// What Read returns was durable when it was read. It may be out of date if
	// the store's own server has been deposed and does not know it yet; that
	// shows in the fence too, as an older one. It is never a state that the
	// row has not had.
	//
	// An error says nothing about the row.
	Read(ctx context.Context, user string, spans ...Span) (Row, error)

	// Put writes cells to the user's row if its fence still equals cur, and
	// replaces the fence by next in the same step. It returns nil once both are
	// durable. A zero cur stands for an absent row.
	//
	// ErrFenced: the row carries another fence; nothing was written by this call.
	// ErrRefused: the store takes no writes now, for want of room; nothing was
	// written. ErrInvalid: the call is against the contract; nothing was sent.
	// Any other error, the end of ctx included, means the outcome is unknown:
	// read the fence back before deciding. A store that can't know whether its
	// own library has sent the put twice (hbase) never says ErrFenced: its false
	// answer is unknown too.
	//
	// Cells come in any order; of two at one place the later holds. An empty
	// value deletes the cell. A put may return before it has let go of the cells' bytes, so that
	// the caller never changes them.
	Put(ctx context.Context, user string, cur, next Fence, cells []Cell) error

	// Scan reads the rows of r in the order of their keys, each as Read would
	// read it and of a moment of its own. Rows that are written meanwhile are
	// seen as they were before or after. A row of which the spans name nothing
	// is yielded with its fence. After an error the sequence ends; to go on, scan
	// again from After the last user.
	Scan(ctx context.Context, r Range, spans ...Span) iter.Seq2[Row, error]

	// Close lets go of the store. Calls under way end first, those that follow
	// fail. A second Close does nothing.
	Close() error
}

// What a Put returns when it is known that nothing was written.
var (
	ErrFenced  = errors.New("fenced")
	ErrRefused = errors.New("store refuses writes")
	ErrInvalid = errors.New("invalid")
)

// ErrClosed is what calls return after Close. Nothing was written.
var ErrClosed = errors.New("store is closed")

// Unknown reports whether err, of a Put, leaves it open whether the put was
// written or will be.
func Unknown(err error) bool {
	return err != nil && !errors.Is(err, ErrFenced) && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrClosed)
}

// Family is a part of a row that is read, kept and sized apart from the others.
type Family uint8

// The families. Their order is that of cells in a Row.
const (
	FenceFamily Family = iota + 1 // the fence; written by Put's next alone
	Actions                       // the action log, the only truth
	Metadata                      // entities and secondary indexes, made from the log
	Keywords                      // postings of the search index, made from the log
	Outbox                        // deliveries that are due, and keys of those done
	families
)

// Families are all that cells may be of: every one but the fence's.
func Families() []Family { return []Family{Actions, Metadata, Keywords, Outbox} }

func (f Family) String() string {
	names := [...]string{FenceFamily: "fence", Actions: "actions", Metadata: "metadata", Keywords: "keywords", Outbox: "outbox"}
	if f == 0 || f >= families {
		return fmt.Sprintf("family %d", uint8(f))
	}
	return names[f]
}

// Cell is a value at a place in a row.
type Cell struct {
	Family    Family
	Qualifier []byte // 1 to MaxQualifier bytes
	Value     []byte // at most MaxValue bytes; none deletes the cell
}

func (c Cell) size() int { return len(c.Qualifier) + len(c.Value) }

// Span names the cells of a family whose qualifiers are in [From, To).
type Span struct {
	Family   Family
	From, To []byte // no To: to the family's end
	// Limit is the most cells that a page holds of this span. Zero means
	// PageCells, which is also the most.
	Limit int
}

// Row is a user's row, or what was read of it.
type Row struct {
	User  string
	Fence Fence  // zero if the row is absent
	Cells []Cell // by family, then qualifier; each with a value
	// Rest is what the spans name beyond Cells. It is empty when all has been
	// read. A Rest may turn out to name nothing.
	Rest []Span
}

// Size is the row's payload in bytes: qualifiers and values.
func (r Row) Size() int {
	n := 0
	for _, c := range r.Cells {
		n += c.size()
	}
	return n
}

// Of returns the cells of one family, a part of r.Cells.
func (r Row) Of(f Family) []Cell {
	lo := 0
	for lo < len(r.Cells) && r.Cells[lo].Family < f {
		lo++
	}
	hi := lo
	for hi < len(r.Cells) && r.Cells[hi].Family == f {
		hi++
	}
	return r.Cells[lo:hi]
}

// The limits. They are far below those of HBase (32 KiB a row key, 10 MiB a
// cell), so that all stores take the same.
const (
	MaxUser      = 1 << 10 // bytes of a user's name; at least 1
	MaxQualifier = 4 << 10 // bytes
	MaxValue     = 4 << 20 // bytes
	MaxPut       = 8 << 20 // bytes of qualifiers and values in one put
	MaxPutCells  = 1 << 16

	// PageCells and PageBytes bound what Read returns at once: at most so many
	// cells a span, and no further cell once a page has so many bytes. A store
	// that can't count bytes where the row lies (hbase) goes by cells alone.
	PageCells = 1024
	PageBytes = 4 << 20
)

// CheckPut returns why a put is against the contract, as an error that wraps
// ErrInvalid, or nil. Every store calls it before anything else.
func CheckPut(user string, cur, next Fence, cells []Cell) error {
	if err := checkUser(user); err != nil {
		return err
	}
	switch {
	case next.Tag == (Tag{}) || next.Tag == cur.Tag:
		return fmt.Errorf("put to %q: the next fence has the tag of the current one, or none: %w", user, ErrInvalid)
	case next.Epoch < cur.Epoch || next.Seq < cur.Seq:
		return fmt.Errorf("put to %q: the next fence is behind the current one: %w", user, ErrInvalid)
	case len(cells) > MaxPutCells:
		return fmt.Errorf("put to %q: %d cells, more than %d: %w", user, len(cells), MaxPutCells, ErrInvalid)
	}
	size := 0
	for _, c := range cells {
		switch {
		case c.Family <= FenceFamily || c.Family >= families:
			return fmt.Errorf("put to %q: cell of %v: %w", user, c.Family, ErrInvalid)
		case len(c.Qualifier) == 0 || len(c.Qualifier) > MaxQualifier:
			return fmt.Errorf("put to %q: qualifier of %d bytes, want 1 to %d: %w", user, len(c.Qualifier), MaxQualifier, ErrInvalid)
		case len(c.Value) > MaxValue:
			return fmt.Errorf("put to %q: value of %d bytes, more than %d: %w", user, len(c.Value), MaxValue, ErrInvalid)
		}
		size += c.size()
	}
	if size > MaxPut {
		return fmt.Errorf("put to %q: %d bytes, more than %d: %w", user, size, MaxPut, ErrInvalid)
	}
	return nil
}

// CheckRead returns why a read is against the contract, as an error that wraps
// ErrInvalid, or nil. Every store calls it before anything else.
func CheckRead(user string, spans []Span) error {
	if err := checkUser(user); err != nil {
		return err
	}
	return CheckSpans(spans)
}

// CheckSpans is CheckRead for a scan.
func CheckSpans(spans []Span) error {
	var seen [families]bool
	for _, s := range spans {
		switch {
		case s.Family <= FenceFamily || s.Family >= families:
			return fmt.Errorf("read of %v: %w", s.Family, ErrInvalid)
		case seen[s.Family]:
			return fmt.Errorf("read of two spans of %v: %w", s.Family, ErrInvalid)
		case s.Limit < 0 || s.Limit > PageCells:
			return fmt.Errorf("read of %v: limit %d, want 0 to %d: %w", s.Family, s.Limit, PageCells, ErrInvalid)
		}
		seen[s.Family] = true
	}
	return nil
}

func checkUser(user string) error {
	if user == "" || len(user) > MaxUser {
		return fmt.Errorf("user of %d bytes, want 1 to %d: %w", len(user), MaxUser, ErrInvalid)
	}
	return nil
}
