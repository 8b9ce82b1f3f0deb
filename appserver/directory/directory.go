// Package directory says which cell a user's mailbox is in: a kind of DNS for users
// that sits above the cells.
//
// # What it keeps
//
// One document names the cells. Users are divided into 1,024 slices by the hash of
// their ids, and a document for each slice names the cell of those of its users who
// were placed one by one, and the cell of all others, if there is one. Adjacent slices
// with the same cell are a range. A user whom neither names is new: the first who asks
// places it, in the emptiest cell of the slice that accepts users. As the slice's
// document is replaced as a whole, and only in its last version, all who ask agree.
//
// # How far it is trusted
//
// An answer is a place and its generation, which rises by one with each move. Clients
// keep what they were told for as long as they like: a cell that a user has left knows
// where to, and says so to whoever comes (WrongCell), with a greater generation. So
// users who are known are found while the directory is down, and nothing that is
// written rests on an answer being new: who may write a row is said by the row.
//
// The one thing that the directory alone decides is in which cell a mailbox begins. It
// is never changed for users without a mailbox but by a move, which seals the place that
// they might have begun in.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/zeebo/xxh3"

	"darklaunch/internal/pause"
)

// What the methods of Directory return, wrapped.
var (
	// ErrConflict: a document has another version than the one to be replaced, or a user
	// another place. Nothing was written.
	ErrConflict = errors.New("directory has changed")
	// ErrCorrupt: a document holds what nobody here wrote.
	ErrCorrupt = errors.New("directory cannot be read")
	// ErrNoCell: a cell is named that the directory does not have, or none accepts users.
	ErrNoCell = errors.New("no such cell")
	// ErrFull: a document would be larger than keepers take.
	ErrFull = errors.New("directory is full")
)

// A Keeper keeps documents. Its methods may be called from any number of goroutines.
type Keeper interface {
	// Get returns a document and its version; version 0 if there is none. It may lag
	// behind a Put for a moment, never behind one of its own.
	Get(ctx context.Context, name string) (document []byte, version uint64, err error)
	// Put replaces the document of a version, 0 for one that is not there, and returns
	// the new version, which is greater. ErrConflict: it has another version. After any
	// other error it may have been replaced.
	Put(ctx context.Context, name string, document []byte, version uint64) (uint64, error)
	// Wait returns nil when the document may have another version than a given one.
	Wait(ctx context.Context, name string, version uint64) error
	// Close lets go of what keeps the documents.
	Close() error
}

// Place is where a user's mailbox is.
type Place struct {
	Cell string
	// Generation is how often the user has been moved, and below 1<<32.
	Generation uint64
}

// Slices is how many parts users are divided into. A stored directory depends on it.
const Slices = 1024

// SliceOf returns the slice of a user: the leading bits of XXH3 (64 bits, seed 0).
func SliceOf(user string) int { return int(xxh3.HashString(user) >> 54) }

// Config of a Directory.
type Config struct {
	// CacheBytes bounds the slices in memory, by the size of their documents. Zero
	// means 64 MiB.
	CacheBytes int
	// Timeout bounds what asks the keeper. Zero means 3s.
	Timeout time.Duration
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
	// Log may be nil.
	Log *slog.Logger
}

// Directory is a keeper's directory as one process knows it. Its methods may be called
// from any number of goroutines.
type Directory struct {
	keeper  Keeper
	cfg     Config
	lookups *prometheus.CounterVec

	mu      sync.Mutex
	cells   cellsDocument
	cached  *simplelru.LRU[int, *slice]
	bytes   int                              // of cached
	learned *simplelru.LRU[string, Place]    // newer than what slices said when they were read
	reading map[int]*reading                 // slices that are being read
	warned  *simplelru.LRU[string, struct{}] // what was logged already
}

// reading is a slice on its way; its fields hold once done is closed.
type reading struct {
	done  chan struct{}
	slice *slice
	err   error
}

// maxLearned bounds the users about whom the directory was corrected and does not
// know yet.
const maxLearned = 1 << 16

// New returns what keeper keeps. The keeper is the caller's to close.
func New(keeper Keeper, cfg Config) *Directory {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 3 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	reg := cfg.Registerer
	if reg == nil {
		reg = prometheus.NewRegistry()
	}
	d := &Directory{keeper: keeper, cfg: cfg, reading: map[int]*reading{}}
	d.cached, _ = simplelru.NewLRU[int, *slice](Slices, nil) // sizes above 0 are no errors
	d.learned, _ = simplelru.NewLRU[string, Place](maxLearned, nil)
	d.warned, _ = simplelru.NewLRU[string, struct{}](256, nil)
	d.lookups = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "directory_lookups_total", Help: "Users looked up, by how they were found."}, []string{"result"})
	reg.MustRegister(d.lookups)
	for _, result := range []string{"hit", "read", "placed", "corrected", "failed"} {
		d.lookups.WithLabelValues(result)
	}
	return d
}

// Run follows the document of the cells until ctx ends, and returns nil. While it
// cannot be read, or is of no use, what was known before holds.
func (d *Directory) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		version, err := d.Refresh(ctx)
		if err == nil {
			d.calm("cells")
			err = d.keeper.Wait(ctx, cellsName, version)
		}
		if err != nil && ctx.Err() == nil {
			d.warn("cells", "directory cannot be followed, going by what is known", "err", err)
			_ = pause.For(ctx, time.Second) // the loop sees that ctx has ended
		}
	}
	return nil
}

// Refresh reads the document of the cells, and returns its version.
func (d *Directory) Refresh(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	got, err := d.readCells(ctx)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if got.version > d.cells.version {
		d.cells = got
	}
	return got.version, nil
}

// Cells returns the cells as they were last read, by name.
func (d *Directory) Cells() []Cell {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.cells.Cells)
}

// Cell returns a cell, and reads the directory anew if it does not know it.
// ErrNoCell, or why the directory could not be asked.
func (d *Directory) Cell(ctx context.Context, name string) (Cell, error) {
	if c, ok := find(d.Cells(), name); ok {
		return c, nil
	}
	if _, err := d.Refresh(ctx); err != nil {
		return Cell{}, fmt.Errorf("cell %s: %w", name, err)
	}
	c, ok := find(d.Cells(), name)
	if !ok {
		d.warn("cell "+name, "directory names a cell that it does not have", "cell", name)
		return Cell{}, fmt.Errorf("cell %s: %w", name, ErrNoCell)
	}
	return c, nil
}

// Lookup returns where a user's mailbox is; a new user's is placed. ErrNoCell,
// ErrCorrupt, ErrFull, or why the directory could not be asked: then the user is not
// known here.
func (d *Directory) Lookup(ctx context.Context, user string) (Place, error) {
	if p, ok := d.Known(user); ok {
		d.lookups.WithLabelValues("hit").Inc()
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	result := "read"
	s, err := d.read(ctx, SliceOf(user))
	var p Place
	if err == nil {
		var ok bool
		if p, ok = s.place(user); !ok {
			result = "placed"
			p, err = d.placeNew(ctx, user)
		}
	}
	if err != nil {
		d.lookups.WithLabelValues("failed").Inc()
		return Place{}, fmt.Errorf("look up %s: %w", user, err)
	}
	d.lookups.WithLabelValues(result).Inc()
	return p, nil
}

// Fresh is Lookup by what the keeper has now, for who is about to move a user.
func (d *Directory) Fresh(ctx context.Context, user string) (Place, error) {
	s, err := d.readSlice(ctx, SliceOf(user))
	if err != nil {
		return Place{}, fmt.Errorf("look up %s: %w", user, err)
	}
	d.mu.Lock()
	d.cache(s)
	d.mu.Unlock()
	if p, ok := s.place(user); ok {
		return p, nil
	}
	return d.Lookup(ctx, user)
}

// Known returns what Lookup would without asking anybody.
func (d *Directory) Known(user string) (p Place, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, cached := d.cached.Get(SliceOf(user)); cached {
		p, ok = s.place(user)
	}
	if l, corrected := d.learned.Get(user); corrected && (!ok || l.Generation > p.Generation) {
		p, ok = l, true
	}
	return p, ok
}

// Learn takes what a cell has said about a user who has left it. It reports whether
// that is news: it is, if its generation is greater than what is known.
func (d *Directory) Learn(user string, p Place) bool {
	known, ok := d.Known(user)
	if ok && known.Generation >= p.Generation {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned.Add(user, p)
	d.lookups.WithLabelValues("corrected").Inc()
	return true
}

// Doubt forgets what a cell has said about a user, as another does not agree.
func (d *Directory) Doubt(user string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.learned.Remove(user)
}

// read reads a slice, once for all who ask for it meanwhile.
func (d *Directory) read(ctx context.Context, i int) (*slice, error) {
	d.mu.Lock()
	r, under := d.reading[i]
	if !under {
		r = &reading{done: make(chan struct{})}
		d.reading[i] = r
	}
	d.mu.Unlock()
	if !under {
		// Others may wait for it, so that the end of one call does not end it.
		own, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Timeout)
		r.slice, r.err = d.readSlice(own, i)
		cancel()
		d.mu.Lock()
		if r.err == nil {
			r.slice = d.cache(r.slice)
		}
		delete(d.reading, i)
		d.mu.Unlock()
		close(r.done)
		d.tell(i, r.err)
	}
	select {
	case <-r.done:
		return r.slice, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tell logs that a slice cannot be used, once until it can.
func (d *Directory) tell(i int, err error) {
	what := sliceName(i)
	if err == nil {
		d.calm(what)
		return
	}
	d.warn(what, "directory cannot be read", "document", what, "err", err)
}

// cache keeps a slice, unless a later version is there, and returns the later. The
// caller holds d.mu.
func (d *Directory) cache(s *slice) *slice {
	if old, ok := d.cached.Peek(s.index); ok {
		if old.version >= s.version {
			return old
		}
		d.bytes -= old.bytes
	}
	d.cached.Add(s.index, s)
	d.bytes += s.bytes
	for d.bytes > d.cfg.CacheBytes && d.cached.Len() > 1 {
		_, old, _ := d.cached.RemoveOldest()
		d.bytes -= old.bytes
	}
	return s
}

// placeNew places a user whom the directory does not have.
func (d *Directory) placeNew(ctx context.Context, user string) (placed Place, err error) {
	if len(d.Cells()) == 0 {
		if _, err := d.Refresh(ctx); err != nil {
			return Place{}, err
		}
	}
	err = d.change(ctx, SliceOf(user), func(s *slice) error {
		if p, ok := s.place(user); ok { // another was faster
			placed = p
			return errSame
		}
		cell, ok := s.emptiest(d.Cells())
		if !ok {
			return fmt.Errorf("no cell accepts users: %w", ErrNoCell)
		}
		placed = Place{Cell: cell}
		s.put(user, placed)
		return nil
	})
	return placed, err
}

// Emptiest returns the cell that accepts users and has the fewest of a user's slice, as
// far as is known, but for one; false if there is none.
func (d *Directory) Emptiest(user, except string) (name string, ok bool) {
	cells := slices.DeleteFunc(d.Cells(), func(c Cell) bool { return c.Name == except })
	d.mu.Lock()
	defer d.mu.Unlock()
	s, cached := d.cached.Get(SliceOf(user))
	if !cached {
		s = &slice{index: SliceOf(user)}
	}
	return s.emptiest(cells)
}

// Publish says that a user has been moved. It does nothing if the directory says so
// already. ErrConflict: the user is at another place of that generation, or a later.
func (d *Directory) Publish(ctx context.Context, user string, to Place) error {
	err := d.change(ctx, SliceOf(user), func(s *slice) error {
		p, ok := s.place(user)
		switch {
		case p == to:
			return errSame
		case ok && p.Generation >= to.Generation:
			return fmt.Errorf("it is in cell %s, generation %d: %w", p.Cell, p.Generation, ErrConflict)
		}
		s.put(user, to)
		return nil
	})
	if err != nil {
		return fmt.Errorf("publish %s in cell %s, generation %d: %w", user, to.Cell, to.Generation, err)
	}
	return nil
}

// Assign gives the users of slices [from, to) who were not placed to a cell, for good.
// ErrConflict: a slice is another cell's; those before it have been assigned.
func (d *Directory) Assign(ctx context.Context, from, to int, cell string) error {
	for i := from; i < to; i++ {
		err := d.change(ctx, i, func(s *slice) error {
			switch s.Cell {
			case cell:
				return errSame
			case "":
				s.Cell = cell
				return nil
			}
			return fmt.Errorf("it is cell %s's: %w", s.Cell, ErrConflict)
		})
		if err != nil {
			return fmt.Errorf("assign slice %d to cell %s: %w", i, cell, err)
		}
	}
	return nil
}

// Edit changes the cells: change gets them by name, and returns what they are to be. It
// may be called more than once.
func (d *Directory) Edit(ctx context.Context, change func([]Cell) ([]Cell, error)) error {
	for {
		doc, err := d.readCells(ctx)
		if err != nil {
			return err
		}
		if doc.Cells, err = change(slices.Clone(doc.Cells)); err != nil {
			return err
		}
		b, err := encodeCells(&doc)
		if err != nil {
			return err
		}
		version, err := d.keeper.Put(ctx, cellsName, b, doc.version)
		if errors.Is(err, ErrConflict) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write the cells: %w", err)
		}
		doc.version = version
		d.mu.Lock()
		defer d.mu.Unlock()
		if version > d.cells.version {
			d.cells = doc
		}
		return nil
	}
}

// Filled returns how many users were placed in each cell, one by one, and how many
// slices are each cell's. It reads the whole directory.
func (d *Directory) Filled(ctx context.Context) (users, ranges map[string]int, err error) {
	users, ranges = map[string]int{}, map[string]int{}
	for i := range Slices {
		s, err := d.readSlice(ctx, i)
		if err != nil {
			return nil, nil, err
		}
		for cell, n := range s.counts() {
			users[cell] += n
		}
		if s.Cell != "" {
			ranges[s.Cell]++
		}
	}
	return users, ranges, nil
}

// errSame ends a change that there is no need for.
var errSame = errors.New("nothing to change")

// change replaces a slice by what f makes of it, again if another was faster.
func (d *Directory) change(ctx context.Context, i int, f func(*slice) error) error {
	for {
		s, err := d.readSlice(ctx, i)
		if err != nil {
			return err
		}
		switch err := f(s); {
		case errors.Is(err, errSame):
		case err != nil:
			return err
		default:
			b, err := s.encode()
			if err != nil {
				return err
			}
			s.bytes = len(b)
			s.version, err = d.keeper.Put(ctx, sliceName(i), b, s.version)
			if errors.Is(err, ErrConflict) {
				continue
			}
			if err != nil {
				return fmt.Errorf("write %s: %w", sliceName(i), err)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.cache(s)
		return nil
	}
}

func (d *Directory) readSlice(ctx context.Context, i int) (*slice, error) {
	b, version, err := d.keeper.Get(ctx, sliceName(i))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", sliceName(i), err)
	}
	s, err := decodeSlice(i, b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", sliceName(i), err)
	}
	s.version = version
	return s, nil
}

func (d *Directory) readCells(ctx context.Context) (cellsDocument, error) {
	b, version, err := d.keeper.Get(ctx, cellsName)
	if err != nil {
		return cellsDocument{}, fmt.Errorf("read the cells: %w", err)
	}
	doc, err := decodeCells(b)
	if err != nil {
		return cellsDocument{}, fmt.Errorf("read the cells: %w", err)
	}
	doc.version = version
	return doc, nil
}

// warn logs something once, until calm is called for it.
func (d *Directory) warn(what, message string, args ...any) {
	d.mu.Lock()
	_, known := d.warned.Get(what)
	d.warned.Add(what, struct{}{})
	d.mu.Unlock()
	if !known {
		d.cfg.Log.Warn(message, args...)
	}
}

func (d *Directory) calm(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.warned.Remove(what)
}
