// Package hbase keeps rows in a table of Apache HBase, through gohbase.
//
// A put is one CheckAndPut over all families, its condition the whole fence
// cell. HBase takes the row's lock, compares, and writes all cells under it;
// and as the cells get a time stamp that is not below that of the cell compared,
// a server whose clock is behind can't hide a newer cell under an older one.
//
// gohbase sends a call again when its connection breaks, and does not say so.
// So its false answer may be that to the second copy of a put that has won; Put
// takes it for unknown. For the same reason nothing here uses Increment, Append
// or Delete. A deleted cell is one with an empty value, which reads leave out: a
// Delete's marker hides what is put at the same place within the millisecond. An
// empty value costs some thirty bytes until the place is used again.
package hbase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/filter"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/appserver/store"
)

// Config says where a table is.
type Config struct {
	Quorum string // host:port of the ZooKeeper servers, with commas between
	Table  string // in namespace default

	// Timeout bounds each call; a context that ends sooner does too. Zero means 4s.
	Timeout time.Duration

	// ReadTimeout is for how long a region server may be silent while calls to it
	// are open, before its connection is given up. It is well below Timeout: gohbase
	// pushes it back with every call that it sends, so that it only passes once
	// all callers wait. It is also when the client itself comes under suspicion, and
	// another is tried. Zero means 1.5s.
	ReadTimeout time.Duration

	// Log gets what an operator should know. Nil means nobody.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 4 * time.Second
	}
	if c.ReadTimeout == 0 {
		c.ReadTimeout = 1500 * time.Millisecond
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// ErrNoTable is returned by Open where there is no such table: Create makes it.
var ErrNoTable = errors.New("there is no such table")

// Store is a store.Store.
type Store struct {
	cfg     Config
	table   []byte
	clients clients
}

// Open connects to a table that is there. It returns within cfg.Timeout.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{cfg: cfg.withDefaults(), table: []byte(cfg.Table)}
	s.clients.fresh = func() gohbase.Client { return dial(s.cfg) }
	s.clients.look = s.look
	s.clients.open(s.cfg)
	if _, err := s.Read(ctx, "?"); err != nil {
		if errors.Is(err, gohbase.TableNotFound) {
			err = ErrNoTable
		}
		return nil, errors.Join(fmt.Errorf("open table %s at %s: %w", cfg.Table, cfg.Quorum, err), s.Close())
	}
	return s, nil
}

// Names in the table. They are in every cell, so they are short.
var familyNames = [...]string{
	store.FenceFamily: "f", store.Actions: "a", store.Metadata: "m", store.Keywords: "k", store.Outbox: "o",
}

const fenceQualifier = "o"

func familyOf(name []byte) store.Family {
	return store.Family(max(0, slices.Index(familyNames[:], string(name))))
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if err := store.CheckPut(user, cur, next, cells); err != nil {
		return err
	}
	values := map[string]map[string][]byte{
		familyNames[store.FenceFamily]: {fenceQualifier: next.AppendFence(nil)},
	}
	for _, c := range cells {
		name := familyNames[c.Family]
		if values[name] == nil {
			values[name] = map[string][]byte{}
		}
		if c.Value == nil {
			c.Value = []byte{} // nil is no value at all to HBase, which it refuses
		}
		values[name][string(c.Qualifier)] = c.Value
	}
	var expected []byte // none: the cell is absent, as it is never empty
	if cur != (store.Fence{}) {
		expected = cur.AppendFence(nil)
	}
	written, err := do(ctx, &s.clients, store.RowKey(user), func(ctx context.Context, c gohbase.Client) (bool, error) {
		// Acknowledged means on the disks, not in the memory of the data nodes.
		put, err := hrpc.NewPut(ctx, s.table, store.RowKey(user), values, hrpc.Durability(hrpc.FsyncWal))
		if err != nil {
			return false, err
		}
		return c.CheckAndPut(put, familyNames[store.FenceFamily], fenceQualifier, expected)
	})
	if err == nil && !written {
		err = errFalse
	}
	if err != nil {
		return fmt.Errorf("put to row of %q: %w", user, err)
	}
	return nil
}

var errFalse = errors.New("another fence was found, perhaps by a second copy of this put")

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if err := store.CheckRead(user, spans); err != nil {
		return store.Row{}, err
	}
	row, err := s.read(ctx, user, spans)
	if err != nil {
		return store.Row{}, fmt.Errorf("read row of %q: %w", user, err)
	}
	return row, nil
}

// tries is how often a read begins again because the row changed meanwhile: a
// row that is written without a pause lets one of a few through.
const tries = 500

var errChanging = errors.New("it does not stop changing")

// read gets the fence and all families that are asked for as a whole in one
// call, which HBase answers from one moment. A span within a family is a call of
// its own, as a filter would apply to all families; then the fence, seen again
// after it, says whether all was of one moment.
func (s *Store) read(ctx context.Context, user string, spans []store.Span) (store.Row, error) {
	whole, parts := split(spans)
	for range tries {
		row := store.Row{User: user}
		result, err := s.get(ctx, user, whole, nil)
		if err != nil {
			return store.Row{}, err
		}
		if err := collect(&row, result, whole); err != nil {
			return store.Row{}, err
		}
		if len(parts) == 0 {
			return row, nil
		}
		for _, span := range parts {
			columns := filter.NewColumnRangeFilter(span.From, span.To, true, false)
			result, err := s.get(ctx, user, []store.Span{span}, columns)
			if err != nil {
				return store.Row{}, err
			}
			if err := collect(&row, result, []store.Span{span}); err != nil {
				return store.Row{}, err
			}
		}
		after, err := s.get(ctx, user, nil, nil)
		if err != nil {
			return store.Row{}, err
		}
		check := store.Row{}
		if err := collect(&check, after, nil); err != nil {
			return store.Row{}, err
		}
		if check.Fence == row.Fence {
			slices.SortStableFunc(row.Cells, func(a, b store.Cell) int { return int(a.Family) - int(b.Family) })
			return row, nil
		}
	}
	return store.Row{}, errChanging
}

// split tells spans of whole families from others.
func split(spans []store.Span) (whole, parts []store.Span) {
	for _, span := range spans {
		if len(span.From) == 0 && len(span.To) == 0 {
			whole = append(whole, span)
		} else {
			parts = append(parts, span)
		}
	}
	return whole, parts
}

// get gets the families of spans; those of a filter alone, else with the fence.
func (s *Store) get(ctx context.Context, user string, spans []store.Span, columns filter.Filter) (*hrpc.Result, error) {
	options := s.query(spans, columns)
	return do(ctx, &s.clients, store.RowKey(user), func(ctx context.Context, c gohbase.Client) (*hrpc.Result, error) {
		get, err := hrpc.NewGet(ctx, s.table, store.RowKey(user), options...)
		if err != nil {
			return nil, err
		}
		return c.Get(get)
	})
}

// look reads next to nothing of a row.
func (s *Store) look(ctx context.Context, c gohbase.Client, row []byte) error {
	get, err := hrpc.NewGet(ctx, s.table, row, s.query(nil, nil)...)
	if err != nil {
		return err
	}
	_, err = c.Get(get)
	return err
}

func (s *Store) query(spans []store.Span, columns filter.Filter) []func(hrpc.Call) error {
	families := map[string][]string{}
	if columns == nil {
		families[familyNames[store.FenceFamily]] = []string{fenceQualifier}
	}
	most := 0
	for _, span := range spans {
		families[familyNames[span.Family]] = nil
		most = max(most, limit(span))
	}
	// One cell more tells whether there is more.
	options := []func(hrpc.Call) error{hrpc.Families(families), hrpc.MaxResultsPerColumnFamily(uint32(most + 1))}
	if columns != nil {
		options = append(options, hrpc.Filters(columns))
	}
	return options
}

func limit(span store.Span) int {
	if span.Limit == 0 {
		return store.PageCells
	}
	return span.Limit
}

// collect sorts the cells of a result into row, within the spans' limits.
func collect(row *store.Row, result *hrpc.Result, spans []store.Span) error {
	left := map[store.Family]int{}
	for _, span := range spans {
		left[span.Family] = limit(span)
	}
	cells := slices.Clone(result.Cells)
	slices.SortStableFunc(cells, func(a, b *hrpc.Cell) int { return int(familyOf(a.Family)) - int(familyOf(b.Family)) })
	for _, c := range cells {
		f := familyOf(c.Family)
		if f == store.FenceFamily {
			fence, err := store.DecodeFence(c.Value)
			if err != nil {
				return err
			}
			row.Fence = fence
			continue
		}
		if left[f]--; left[f] == -1 {
			i := slices.IndexFunc(spans, func(s store.Span) bool { return s.Family == f })
			rest := spans[i]
			rest.From = bytes.Clone(c.Qualifier)
			row.Rest = append(row.Rest, rest)
		}
		if left[f] >= 0 && len(c.Value) > 0 {
			row.Cells = append(row.Cells, store.Cell{Family: f, Qualifier: c.Qualifier, Value: c.Value})
		}
	}
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.clients.close()
	return nil
}
