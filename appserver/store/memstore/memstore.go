// Package memstore keeps rows in memory: for tests, simulations and a first
// look. All is lost with the process. On request it misbehaves as real stores
// do: slow, silent, late, twice or out of date.
package memstore

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"sync"

	"github.com/RaduBerinde/btreemap"

	"darklaunch/appserver/store"
)

// Store is a store.Store. The zero Store is empty and ready for use.
type Store struct {
	// Faults says what becomes of each call; nil means nothing does. It is
	// called from the caller's goroutine, with no lock held, once a call. It is
	// set before the first one.
	Faults func(op Op, user string) Fault

	gate store.Gate     // of calls
	late sync.WaitGroup // puts that come after their call has returned

	mu     sync.Mutex
	rows   *btreemap.BTreeMap[string, *row] // by row key
	counts map[Kind]int
}

// A row is what it is now and what it was before, newest first. Versions share
// all that is equal in them.
type row struct {
	user     string
	versions []version
}

type version struct {
	fence store.Fence
	cells *btreemap.BTreeMap[place, []byte]
}

type place struct {
	family    store.Family
	qualifier string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.family, q.family), cmp.Compare(p.qualifier, q.qualifier))
}

// kept is how many versions of a row can be served as stale ones.
const kept = 8

const degree = 16 // of the trees

func (r *row) now() version {
	if r == nil || len(r.versions) == 0 {
		return version{cells: btreemap.New[place, []byte](degree, place.compare)}
	}
	return r.versions[0]
}

// Read implements store.Store.
func (s *Store) Read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if err := store.CheckRead(user, spans); err != nil {
		return store.Row{}, err
	}
	if err := s.gate.Enter(); err != nil {
		return store.Row{}, err
	}
	defer s.gate.Leave()
	f := s.fault(OpRead, user)
	if err := s.before(ctx, f); err != nil {
		return store.Row{}, err
	}
	v := s.version(user, f.Stale)
	if err := s.after(ctx, f); err != nil {
		return store.Row{}, err
	}
	return v.read(user, spans), nil
}

// version is the user's row as it was back puts ago, or as far back as is known.
func (s *Store) version(user string, back int) version {
	s.mu.Lock()
	defer s.mu.Unlock()
	var r *row
	if s.rows != nil {
		_, r, _ = s.rows.Get(string(store.RowKey(user)))
	}
	if r == nil || back <= 0 {
		return r.now()
	}
	s.count(Stale)
	if back >= len(r.versions) {
		if len(r.versions) < kept {
			return (*row)(nil).now() // before its first put
		}
		back = len(r.versions) - 1
	}
	return r.versions[back]
}

func (v version) read(user string, spans []store.Span) store.Row {
	r := store.Row{User: user, Fence: v.fence}
	// Walking through memory does not fail.
	_ = r.Fill(spans, func(s store.Span) iter.Seq2[store.Cell, error] {
		return func(yield func(store.Cell, error) bool) {
			to := btreemap.LT(place{s.Family, string(s.To)})
			if len(s.To) == 0 {
				to = btreemap.LT(place{s.Family + 1, ""})
			}
			for at, value := range v.cells.Ascend(btreemap.GE(place{s.Family, string(s.From)}), to) {
				if !yield(store.Cell{Family: at.family, Qualifier: []byte(at.qualifier), Value: value}, nil) {
					return
				}
			}
		}
	})
	return r
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, user string, cur, next store.Fence, cells []store.Cell) error {
	if err := store.CheckPut(user, cur, next, cells); err != nil {
		return err
	}
	if err := s.gate.Enter(); err != nil {
		return err
	}
	defer s.gate.Leave()
	f := s.fault(OpPut, user)
	if f.Straggle > 0 {
		return s.straggle(f, user, cur, next, cells)
	}
	if err := s.before(ctx, f); err != nil {
		return err
	}
	err := s.apply(user, cur, next, cells)
	if err == nil && f.Twice {
		s.counted(Twice)
		_ = s.apply(user, cur, next, cells)
		return ErrInjected // what the second copy found says nothing of the first
	}
	if failed := s.after(ctx, f); failed != nil {
		return failed
	}
	return err
}

// apply compares and writes.
func (s *Store) apply(user string, cur, next store.Fence, cells []store.Cell) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		s.rows = btreemap.New[string, *row](degree, cmp.Compare[string])
	}
	key := string(store.RowKey(user))
	_, r, _ := s.rows.Get(key)
	now := r.now()
	if now.fence != cur {
		return store.ErrFenced
	}
	if r == nil {
		r = &row{user: user}
		s.rows.ReplaceOrInsert(key, r)
	}
	// A reader may still walk through the old tree.
	v := version{next, now.cells.Clone()}
	for _, c := range cells {
		at := place{c.Family, string(c.Qualifier)}
		if len(c.Value) == 0 {
			v.cells.Delete(at)
		} else {
			v.cells.ReplaceOrInsert(at, c.Value)
		}
	}
	if s.Faults == nil {
		r.versions = nil // nobody will ask for them
	}
	r.versions = append([]version{v}, r.versions[:min(len(r.versions), kept-1)]...)
	return nil
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range, spans ...store.Span) iter.Seq2[store.Row, error] {
	return func(yield func(store.Row, error) bool) {
		if err := store.CheckSpans(spans); err != nil {
			yield(store.Row{}, err)
			return
		}
		if err := s.gate.Enter(); err != nil {
			yield(store.Row{}, err)
			return
		}
		defer s.gate.Leave()
		for {
			f := s.fault(OpScan, "")
			err := s.before(ctx, f)
			if err == nil {
				err = s.after(ctx, f)
			}
			if err != nil {
				yield(store.Row{}, err)
				return
			}
			user, v, ok := s.first(r)
			if !ok || !yield(v.read(user, spans), nil) {
				return
			}
			r = r.After(user)
		}
	}
}

// first is the first row in r.
func (s *Store) first(r store.Range) (user string, v version, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows == nil {
		return "", version{}, false
	}
	to := btreemap.LT(string(r.To))
	if len(r.To) == 0 {
		to = btreemap.Max[string]()
	}
	for _, found := range s.rows.Ascend(btreemap.GE(string(r.From)), to) {
		return found.user, found.now(), true
	}
	return "", version{}, false
}

// Close implements store.Store. It waits for puts that come late.
func (s *Store) Close() error {
	s.gate.Close()
	s.late.Wait()
	return nil
}

// Injected is how many faults of each kind have happened so far.
func (s *Store) Injected() map[Kind]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}
