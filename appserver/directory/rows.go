package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"darklaunch/appserver/store"
)

// rowsKeeper keeps documents in a store of rows: each is the only cell of a row, and
// the sequence of the row's fence is its version.
type rowsKeeper struct {
	store store.Store
	every time.Duration
}

// Rows returns a Keeper in a store of rows, whose other rows it leaves alone: no user
// has the name of a document. Wait asks the store every so often; zero means each
// second.
func Rows(s store.Store, every time.Duration) Keeper {
	if every == 0 {
		every = time.Second
	}
	return rowsKeeper{s, every}
}

// rowOf is no user id, as it has a byte that is not printed.
func rowOf(name string) string { return "\x00directory/" + name }

// IsDocument reports whether a row of a store is one of Rows, and no user's.
func IsDocument(user string) bool { return len(user) > 0 && user[0] == 0 }

// qualifier of a document's cell.
const qualifier = "document"

func (k rowsKeeper) Get(ctx context.Context, name string) ([]byte, uint64, error) {
	row, err := k.store.Read(ctx, rowOf(name), store.Span{Family: store.Metadata})
	if err != nil {
		return nil, 0, err
	}
	for _, c := range row.Cells {
		if string(c.Qualifier) == qualifier {
			return c.Value, row.Fence.Seq, nil
		}
	}
	return nil, row.Fence.Seq, nil
}

func (k rowsKeeper) Put(ctx context.Context, name string, document []byte, version uint64) (uint64, error) {
	row, err := k.store.Read(ctx, rowOf(name))
	if err != nil {
		return 0, err
	}
	if row.Fence.Seq != version {
		return 0, fmt.Errorf("%s has version %d, not %d: %w", name, row.Fence.Seq, version, ErrConflict)
	}
	next := store.Fence{Epoch: row.Fence.Epoch, Seq: version + 1}
	_, _ = rand.Read(next.Tag[:]) // never fails
	cell := store.Cell{Family: store.Metadata, Qualifier: []byte(qualifier), Value: document}
	err = k.store.Put(ctx, rowOf(name), row.Fence, next, []store.Cell{cell})
	if store.Unknown(err) {
		// A store may say so of a put that another's was faster than.
		now, readErr := k.store.Read(ctx, rowOf(name))
		switch {
		case readErr != nil:
			return 0, errors.Join(err, readErr)
		case now.Fence == next:
			return next.Seq, nil
		case now.Fence.Seq > version: // which says nothing of ours, but it may be read
			return 0, fmt.Errorf("%s has changed: %w", name, ErrConflict)
		}
		return 0, err
	}
	if errors.Is(err, store.ErrFenced) {
		return 0, fmt.Errorf("%s has changed: %w", name, ErrConflict)
	}
	if err != nil {
		return 0, err
	}
	return next.Seq, nil
}

func (k rowsKeeper) Wait(ctx context.Context, name string, version uint64) error {
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		row, err := k.store.Read(ctx, rowOf(name))
		if err != nil {
			return err
		}
		if row.Fence.Seq != version {
			return nil
		}
	}
}

func (k rowsKeeper) Close() error { return k.store.Close() }
