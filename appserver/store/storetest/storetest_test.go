package storetest_test

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/storetest"
)

// faulty is a store of which a part is wrong. A nil func is right.
type faulty struct {
	store.Store
	put   func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error
	read  func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error)
	scan  func(s store.Store, ctx context.Context, r store.Range, spans []store.Span) iter.Seq2[store.Row, error]
	close func(s store.Store) error
}

func (f *faulty) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if f.put != nil {
		return f.put(f.Store, ctx, user, cur, next, cells)
	}
	return f.Store.Put(ctx, user, cur, next, cells)
}

func (f *faulty) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if f.read != nil {
		return f.read(f.Store, ctx, user, spans)
	}
	return f.Store.Read(ctx, user, spans...)
}

func (f *faulty) Scan(ctx context.Context, r store.Range, spans ...store.Span) iter.Seq2[store.Row, error] {
	if f.scan != nil {
		return f.scan(f.Store, ctx, r, spans)
	}
	return f.Store.Scan(ctx, r, spans...)
}

func (f *faulty) Close() error {
	if f.close != nil {
		return f.close(f.Store)
	}
	return f.Store.Close()
}

// onlyIf puts with whatever fence the row has, if holds says that it will do.
func onlyIf(holds func(row, cur store.Fence) bool) func(store.Store, context.Context, string, store.Fence, store.Fence, []store.Cell) error {
	return func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
		row, err := s.Read(ctx, user)
		if err == nil && holds(row.Fence, cur) && next.Epoch >= row.Fence.Epoch && next.Seq >= row.Fence.Seq {
			cur = row.Fence
		}
		return s.Put(ctx, user, cur, next, cells)
	}
}

// changed reads, and changes what was read.
func changed(change func(*store.Row)) func(store.Store, context.Context, string, []store.Span) (store.Row, error) {
	return func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
		row, err := s.Read(ctx, user, spans...)
		change(&row)
		return row, err
	}
}

// scanned changes each row of a scan; nil leaves it out.
func scanned(change func(*store.Row) *store.Row) func(store.Store, context.Context, store.Range, []store.Span) iter.Seq2[store.Row, error] {
	return func(s store.Store, ctx context.Context, r store.Range, spans []store.Span) iter.Seq2[store.Row, error] {
		return func(yield func(store.Row, error) bool) {
			for row, err := range s.Scan(ctx, r, spans...) {
				if changed := change(&row); changed != nil && !yield(*changed, err) {
					return
				}
			}
		}
	}
}

// plants are what can be wrong with a store, and the checks that must see it.
// They may see it in more.
var plants = []struct {
	name   string
	caught []string
	make   func() *faulty // around Store
}{
	{"loses every seventh put", []string{"put and read back"}, func() *faulty {
		var n atomic.Int64
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if n.Add(1)%7 == 0 {
				return nil
			}
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"loses every seventh put's cells", []string{"put and read back", "unknown is settled by reading back"}, func() *faulty {
		var n atomic.Int64
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if n.Add(1)%7 == 0 {
				cells = nil
			}
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"reads what was", []string{"put and read back"}, func() *faulty {
		var mu sync.Mutex
		was := map[string]store.Row{}
		return &faulty{read: func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			row, err := s.Read(ctx, user, spans...)
			mu.Lock()
			defer mu.Unlock()
			old, known := was[user]
			was[user] = row
			if known && len(spans) > 1 {
				return old, err
			}
			return row, err
		}}
	}},
	{"does not compare", []string{"the whole fence is compared", "a fenced put writes nothing", "owners race"}, func() *faulty {
		return &faulty{put: onlyIf(func(_, _ store.Fence) bool { return true })}
	}},
	{"compares the epoch", []string{"the whole fence is compared"}, func() *faulty {
		return &faulty{put: onlyIf(func(row, cur store.Fence) bool { return row.Epoch == cur.Epoch })}
	}},
	{"compares epoch and sequence", []string{"the whole fence is compared"}, func() *faulty {
		return &faulty{put: onlyIf(func(row, cur store.Fence) bool { return row.Epoch == cur.Epoch && row.Seq == cur.Seq })}
	}},
	{"compares and writes in two steps", []string{"owners race"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if row, err := s.Read(ctx, user); err != nil || row.Fence != cur {
				return store.ErrFenced
			}
			time.Sleep(time.Millisecond)
			for {
				row, err := s.Read(ctx, user)
				if err != nil {
					return err
				}
				next.Epoch, next.Seq = max(next.Epoch, row.Fence.Epoch), max(next.Seq, row.Fence.Seq)
				if err := s.Put(ctx, user, row.Fence, next, cells); !errors.Is(err, store.ErrFenced) {
					return err
				}
			}
		}}
	}},
	{"writes what it refuses", []string{"a fenced put writes nothing"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			err := s.Put(ctx, user, cur, next, cells)
			if row, _ := s.Read(ctx, user); errors.Is(err, store.ErrFenced) {
				again := next
				again.Epoch, again.Seq = max(next.Epoch, row.Fence.Epoch), max(next.Seq, row.Fence.Seq)
				_ = s.Put(ctx, user, row.Fence, again, cells)
			}
			return err
		}}
	}},
	{"writes and says that it refused", []string{"put and read back"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			_ = s.Put(ctx, user, cur, next, cells)
			return store.ErrFenced
		}}
	}},
	{"writes families one by one", []string{"one step over families"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			for i, c := range cells {
				step := next
				if i < len(cells)-1 {
					step.Tag[0] ^= byte(1 + i)
				}
				if err := s.Put(ctx, user, cur, step, []store.Cell{c}); err != nil {
					return err
				}
				time.Sleep(100 * time.Microsecond)
				cur = step
			}
			if len(cells) == 0 {
				return s.Put(ctx, user, cur, next, nil)
			}
			return nil
		}}
	}},
	{"reads families one by one", []string{"one step over families"}, func() *faulty {
		return &faulty{read: func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			row, err := s.Read(ctx, user)
			for _, span := range spans {
				time.Sleep(100 * time.Microsecond)
				part, partErr := s.Read(ctx, user, span)
				row.Cells, row.Rest, err = append(row.Cells, part.Cells...), append(row.Rest, part.Rest...), errors.Join(err, partErr)
			}
			return row, err
		}}
	}},
	{"fence and cells of a scan are of two moments", []string{"scan beside puts"}, func() *faulty {
		f := &faulty{}
		f.scan = func(s store.Store, ctx context.Context, r store.Range, spans []store.Span) iter.Seq2[store.Row, error] {
			return func(yield func(store.Row, error) bool) {
				for row, err := range s.Scan(ctx, r, spans...) {
					time.Sleep(time.Millisecond)
					later, _ := s.Read(ctx, row.User)
					row.Fence = later.Fence
					if !yield(row, err) {
						return
					}
				}
			}
		}
		return f
	}},
	{"does not delete", []string{"deletion"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			cells = slices.DeleteFunc(slices.Clone(cells), func(c store.Cell) bool { return len(c.Value) == 0 })
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"returns deleted cells", []string{"deletion"}, func() *faulty {
		return &faulty{read: changed(func(r *store.Row) {
			for i, c := range r.Cells {
				if string(c.Qualifier) == "b" && c.Family == store.Metadata {
					r.Cells = slices.Insert(r.Cells, i, store.Cell{Family: store.Metadata, Qualifier: []byte("a")})
					return
				}
			}
		})}
	}},
	{"keeps the first of two cells", []string{"two cells at one place"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			cells = slices.Clone(cells)
			slices.Reverse(cells)
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"makes an outbox of actions", []string{"families are apart"}, func() *faulty {
		return &faulty{read: func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			return s.Read(ctx, user, slices.DeleteFunc(slices.Clone(spans), func(s store.Span) bool { return s.Family == store.Outbox && len(spans) == 2 })...)
		}}
	}},
	{"ends names at a zero byte", []string{"binary keys"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			user, _, _ = strings.Cut(user, "\x00")
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"orders qualifiers as text", []string{"binary keys", "spans"}, func() *faulty {
		return &faulty{read: changed(func(r *store.Row) {
			slices.SortStableFunc(r.Cells, func(a, b store.Cell) int {
				return strings.Compare(strings.ToValidUTF8(string(a.Qualifier), ""), strings.ToValidUTF8(string(b.Qualifier), ""))
			})
		})}
	}},
	{"includes the end of a span", []string{"spans"}, func() *faulty {
		return &faulty{read: func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			spans = slices.Clone(spans)
			for i := range spans {
				if len(spans[i].To) > 0 {
					spans[i].To = append(bytes.Clone(spans[i].To), 0)
				}
			}
			return s.Read(ctx, user, spans...)
		}}
	}},
	{"ends at the first page", []string{"pages", "spans"}, func() *faulty {
		return &faulty{read: changed(func(r *store.Row) { r.Rest = nil })}
	}},
	{"has the last cell of a page twice", []string{"pages"}, func() *faulty {
		return &faulty{read: changed(func(r *store.Row) {
			if len(r.Rest) > 0 && len(r.Cells) > 0 {
				r.Rest[0].From = r.Cells[len(r.Cells)-1].Qualifier
			}
		})}
	}},
	{"refuses large values", []string{"big rows"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if slices.ContainsFunc(cells, func(c store.Cell) bool { return len(c.Value) > 1<<20 }) {
				return store.ErrInvalid
			}
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"cuts large values", []string{"big rows"}, func() *faulty {
		return &faulty{read: changed(func(r *store.Row) {
			for i := range r.Cells {
				r.Cells[i].Value = r.Cells[i].Value[:min(len(r.Cells[i].Value), 1<<20)]
			}
		})}
	}},
	{"takes a put without a tag", []string{"limits"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if next.Tag == (store.Tag{}) {
				return nil
			}
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"mixes rows up that are put at once", []string{"many rows at once"}, func() *faulty {
		var mu sync.Mutex
		var last []store.Cell
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			time.Sleep(100 * time.Microsecond)
			mu.Lock()
			cells, last = append(slices.Clone(cells), last...), cells
			mu.Unlock()
			return s.Put(ctx, user, cur, next, cells)
		}}
	}},
	{"scans past some rows", []string{"scan"}, func() *faulty {
		n := 0
		return &faulty{scan: scanned(func(r *store.Row) *store.Row {
			if n++; n%50 == 0 {
				return nil
			}
			return r
		})}
	}},
	{"scans past rows without cells", []string{"scan"}, func() *faulty {
		return &faulty{scan: scanned(func(r *store.Row) *store.Row {
			if len(r.Cells) == 0 {
				return nil
			}
			return r
		})}
	}},
	{"scans beyond the range", []string{"scan"}, func() *faulty {
		return &faulty{scan: func(s store.Store, ctx context.Context, r store.Range, spans []store.Span) iter.Seq2[store.Row, error] {
			r.To = nil
			return s.Scan(ctx, r, spans...)
		}}
	}},
	{"takes no notice of contexts", []string{"ended contexts"}, func() *faulty {
		return &faulty{read: func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			return s.Read(context.WithoutCancel(ctx), user, spans...)
		}}
	}},
	{"fails every put whose context ends, and forgets that it wrote", []string{"unknown is settled by reading back"}, func() *faulty {
		return &faulty{put: func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			err := s.Put(context.WithoutCancel(ctx), user, cur, next, cells)
			if _, limited := ctx.Deadline(); limited && err == nil && ctx.Err() != nil {
				return store.ErrRefused
			}
			return err
		}}
	}},
	{"works when it is closed", []string{"close and open again"}, func() *faulty {
		return &faulty{close: func(store.Store) error { return nil }}
	}},
}

func TestPlants(t *testing.T) {
	seen := map[string]bool{}
	for _, plant := range plants {
		t.Run(plant.name, func(t *testing.T) {
			for _, c := range storetest.Checks() {
				if !slices.Contains(plant.caught, c.Name) {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := c.Run(ctx, storetest.Target{Open: func(context.Context) (store.Store, error) {
					f := plant.make()
					f.Store = &memstore.Store{}
					return f, nil
				}})
				if err == nil {
					t.Errorf("%q finds nothing", c.Name)
				}
				t.Logf("%s: %v", c.Name, err)
				seen[c.Name] = true
			}
		})
	}
	for _, c := range storetest.Checks() {
		if !seen[c.Name] && c.Name != "absent row" {
			t.Errorf("nothing is planted for %q", c.Name)
		}
	}
}

// TestPlantsThatLast are wrong from one opening of the store to the next.
func TestPlantsThatLast(t *testing.T) {
	kept := &memstore.Store{}
	opened := 0
	target := storetest.Target{Lasting: true, Open: func(context.Context) (store.Store, error) {
		opened++
		f := &faulty{Store: kept}
		closed := false
		f.close = func(store.Store) error { closed = true; return nil }
		f.put = func(s store.Store, ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
			if closed {
				return store.ErrClosed
			}
			return s.Put(ctx, user, cur, next, cells)
		}
		f.read = func(s store.Store, ctx context.Context, user string, spans []store.Span) (store.Row, error) {
			if closed {
				return store.Row{}, store.ErrClosed
			}
			row, err := s.Read(ctx, user, spans...)
			if opened == 2 && len(row.Cells) > 0 { // the last was in memory alone
				row.Cells = row.Cells[:len(row.Cells)-1]
			}
			return row, err
		}
		f.scan = func(s store.Store, ctx context.Context, r store.Range, spans []store.Span) iter.Seq2[store.Row, error] {
			return func(yield func(store.Row, error) bool) { yield(store.Row{}, store.ErrClosed) }
		}
		return f, nil
	}}
	for _, c := range storetest.Checks() {
		if c.Name != "close and open again" {
			continue
		}
		err := c.Run(t.Context(), target)
		if err == nil || opened != 2 {
			t.Errorf("a put that is lost at the close: got %v after %d openings, want it found", err, opened)
		}
	}
}

// TestStrangersRow has a store answer with somebody's row for an absent one.
func TestStrangersRow(t *testing.T) {
	for _, c := range storetest.Checks() {
		if c.Name != "absent row" {
			continue
		}
		err := c.Run(t.Context(), storetest.Target{Open: func(context.Context) (store.Store, error) {
			return &faulty{Store: &memstore.Store{}, read: changed(func(r *store.Row) { r.Fence.Epoch = 1 })}, nil
		}})
		if err == nil {
			t.Error("nothing is found")
		}
	}
}
