// Package storetest is the one suite that every store passes: what package store
// promises, as checks. A check returns what is wrong instead of failing a test, so
// that checks are checked too: against stores that are faulty on purpose.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"darklaunch/appserver/store"
)

// Target is a store to check.
type Target struct {
	// Open opens the store with all that was put into it before, if it is Lasting.
	// The suite closes what it opens, and has one open at a time.
	Open func(context.Context) (store.Store, error)

	// Lasting says that rows outlive Close.
	Lasting bool

	// Vague says that the store can't tell a put that was fenced from one whose
	// outcome is unknown.
	Vague bool
}

// Run runs all checks against the target.
func Run(t *testing.T, target Target) {
	for _, c := range Checks() {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.Run(ctx, target); err != nil {
				t.Error(err)
			}
		})
	}
}

// Check is one promise.
type Check struct {
	Name  string
	check func(context.Context, *rig) error
}

// Run opens the target, and returns how it breaks the promise.
func (c Check) Run(ctx context.Context, target Target) error {
	s, err := target.Open(ctx)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	r := &rig{Store: s, target: target, name: c.Name}
	err = c.check(ctx, r)
	return errors.Join(err, r.Close())
}

// Checks are all of them.
func Checks() []Check {
	return []Check{
		{"absent row", absentRow},
		{"put and read back", putAndReadBack},
		{"the whole fence is compared", wholeFence},
		{"a fenced put writes nothing", fencedWritesNothing},
		{"owners race", ownersRace},
		{"one step over families", oneStep},
		{"deletion", deletion},
		{"two cells at one place", twoAtOnePlace},
		{"families are apart", familiesApart},
		{"binary keys", binaryKeys},
		{"spans", spans},
		{"pages", pages},
		{"big rows", bigRows},
		{"limits", limits},
		{"many rows at once", manyRows},
		{"scan", scan},
		{"scan beside puts", scanBesidePuts},
		{"ended contexts", endedContexts},
		{"unknown is settled by reading back", unknownSettled},
		{"close and open again", closeAndOpen},
	}
}

// rig is a store with what checks do over and over.
type rig struct {
	store.Store
	target Target
	name   string
}

// tag is one that nothing has had.
func tag() (t store.Tag) {
	rand.Read(t[:]) // crypto/rand's: it does not fail
	return t
}

// user is a name of the check's own.
func (r *rig) user(name string) string { return r.name + "/" + name }

// after is a fence that may follow cur.
func after(cur store.Fence) store.Fence {
	return store.Fence{Epoch: cur.Epoch + 1, Seq: cur.Seq + 1, Tag: tag(), Ring: cur.Ring, Flags: cur.Flags}
}

// put writes cells after cur, and settles what is unknown, as an owner does. The
// error is of a put that was not written.
func (r *rig) put(ctx context.Context, user string, cur store.Fence, cells ...store.Cell) (store.Fence, error) {
	next := after(cur)
	for {
		err := r.Put(ctx, user, cur, next, cells)
		if err == nil {
			return next, nil
		}
		if !store.Unknown(err) {
			return cur, err
		}
		row, readErr := r.Read(ctx, user)
		switch {
		case readErr != nil:
			return cur, fmt.Errorf("settle %w: %w", err, readErr)
		case row.Fence == next:
			return next, nil
		case row.Fence != cur:
			return cur, fmt.Errorf("%w, the row has %v", err, row.Fence)
		}
	}
}

// refused reports whether a put ended as one must whose fence is another.
func (r *rig) refused(err error) bool {
	return errors.Is(err, store.ErrFenced) || r.target.Vague && store.Unknown(err)
}

// read reads all of a row that is at rest.
func (r *rig) read(ctx context.Context, user string, spans ...store.Span) (store.Row, error) {
	if len(spans) == 0 {
		spans = everything()
	}
	row, whole, err := store.ReadAll(ctx, r.Store, user, spans...)
	if err == nil && !whole {
		err = fmt.Errorf("row of %q at rest has another fence on another page", user)
	}
	return row, err
}

// everything is a whole row.
func everything() []store.Span {
	var all []store.Span
	for _, f := range store.Families() {
		all = append(all, store.Span{Family: f})
	}
	return all
}

func cell(f store.Family, qualifier, value string) store.Cell {
	return store.Cell{Family: f, Qualifier: []byte(qualifier), Value: []byte(value)}
}

// same returns how a row differs from what it should be.
func same(row store.Row, fence store.Fence, cells ...store.Cell) error {
	if row.Fence != fence {
		return fmt.Errorf("row of %.40q has fence %v, want %v", row.User, row.Fence, fence)
	}
	return sameCells(row.Cells, cells)
}

func sameCells(got, want []store.Cell) error {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("cell %d of %d is missing: %s", i, len(want), show(want[i]))
		case i >= len(want):
			return fmt.Errorf("cell %d is one too many: %s", i, show(got[i]))
		case got[i].Family != want[i].Family || string(got[i].Qualifier) != string(want[i].Qualifier) || string(got[i].Value) != string(want[i].Value):
			return fmt.Errorf("cell %d: got %s, want %s", i, show(got[i]), show(want[i]))
		}
	}
	return nil
}

func show(c store.Cell) string {
	return fmt.Sprintf("%v %.40q %.40q (%d bytes)", c.Family, c.Qualifier, c.Value, len(c.Value))
}
