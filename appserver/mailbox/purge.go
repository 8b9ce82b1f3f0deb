package mailbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
)

// Purged is what a purge came to.
type Purged struct {
	Messages int
	Bytes    int64 // of their contents: bodies and attachments
}

// maxPurge bounds the messages whose contents one put removes.
const maxPurge = 256

// Purgeable returns what Purge would remove from a user's row, and changes nothing.
func Purgeable(ctx context.Context, s store.Store, user string, before time.Time) (Purged, error) {
	found, err := purgeable(ctx, s, user, before)
	return sum(found), err
}

// Purge removes the contents of u's messages that the log says were deleted before a
// time: from the log, whose records are written again without them, from metadata,
// keywords and memory. Messages that are still to be delivered to somebody are left for
// later. It returns what it has removed, also where it fails in the middle; repeated,
// it goes on. The errors are those of Mutate.
//
// The record of a purge and the stripped records are one put. So are they and the mark
// that the keywords are to be made anew, which follow piece by piece: whoever loads the
// mailbox after a crash in between makes them from a log that has no such words.
func (p *Pool) Purge(ctx context.Context, u action.User, before time.Time) (Purged, error) {
	var all Purged
	for {
		var some []action.Action
		err := p.with(ctx, u, func(b *box) (err error) {
			if some, err = purgeable(ctx, p.cfg.Store, string(u), before); err != nil || len(some) == 0 {
				return err
			}
			some = some[:min(len(some), maxPurge)]
			purge := &action.Purged{}
			for _, a := range some {
				purge.Messages = append(purge.Messages, action.MessageOf(a.Do).ID)
			}
			_, err = b.mutate(ctx, Mutation{Origin: action.OriginJob, strip: some,
				Decide: func(index.View, uint64, action.Time) ([]action.Do, error) { return []action.Do{purge}, nil }})
			return err
		})
		if err != nil {
			return all, err
		}
		if len(some) == 0 {
			return all, p.Flush(ctx, u)
		}
		all.Messages += sum(some).Messages
		all.Bytes += sum(some).Bytes
	}
}

func sum(all []action.Action) Purged {
	r := Purged{Messages: len(all)}
	for _, a := range all {
		r.Bytes += action.MessageOf(a.Do).ContentBytes()
	}
	return r
}

// Flush loads u's mailbox if need be, which makes metadata of an older schema anew, and
// writes all that metadata and keywords lag behind. The errors are those of Read, and
// ErrOverloaded if the store refused.
func (p *Pool) Flush(ctx context.Context, u action.User) error {
	return p.with(ctx, u, func(b *box) error {
		b.flushNow()
		b.idle()
		b.mu.RLock()
		defer b.mu.RUnlock()
		switch {
		case b.gone != nil:
			return errGone
		case b.lag():
			return fmt.Errorf("flush mailbox of %s: %w", u, ErrOverloaded)
		}
		return nil
	})
}

// purgeable returns the records of a row whose contents are to go.
func purgeable(ctx context.Context, s store.Store, user string, before time.Time) ([]action.Action, error) {
	for {
		row, whole, err := store.ReadAll(ctx, s, user, store.Span{Family: store.Actions}, store.Span{Family: store.Outbox})
		if err != nil {
			return nil, fmt.Errorf("read the log of %s: %w", user, err)
		}
		if whole {
			return deletedIn(row, before)
		}
	}
}

func deletedIn(row store.Row, before time.Time) ([]action.Action, error) {
	log, err := decodeLog(row.Of(store.Actions))
	if err != nil {
		return nil, err
	}
	// Times of a log may fall: what comes after a younger action is left for later.
	young := slices.IndexFunc(log, func(a action.Action) bool { return !a.Time.Time().Before(before) })
	if young < 0 {
		young = len(log)
	}
	cells, err := index.Rebuild(index.Latest, slices.Values(log[:young]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	view, err := index.Open(cells)
	if err != nil {
		return nil, err
	}
	due := map[uint64]bool{} // whose contents somebody is still to get
	for _, c := range row.Of(store.Outbox) {
		e, err := action.DecodeEntry(c.Qualifier, c.Value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		due[e.Sequence] = true
	}
	var found []action.Action
	for _, a := range log[:young] {
		m := action.MessageOf(a.Do)
		if m == nil || m.Stripped || due[a.Sequence] {
			continue
		}
		if entity, err := view.MessageAt(a.Sequence); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		} else if entity != nil && entity.Deleted {
			found = append(found, a)
		}
	}
	return found, nil
}

// stripped returns the cells that a put removes the contents of records with. The
// keywords lose their version, and are to be made anew.
func (b *box) stripped(all []action.Action) (cells []store.Cell, err error) {
	for _, a := range all {
		record, err := action.Append(nil, action.Strip(a), b.p.cfg.MaxBody)
		if err != nil {
			return nil, err
		}
		cells = append(cells, store.Cell{Family: store.Actions, Qualifier: action.Qualifier(a.Sequence), Value: record})
	}
	if len(all) > 0 {
		cells = append(cells, store.Cell{Family: store.Keywords, Qualifier: []byte{versionCell}})
	}
	return cells, nil
}

// strip takes contents that are gone from the log out of memory and out of the
// keywords, which are put from now on. The caller holds b.mu.
func (b *box) strip(all []action.Action) {
	gone := map[uint64]bool{}
	for _, a := range all {
		gone[a.Sequence] = true
		b.log.add(action.Strip(a))
	}
	have := index.NewCells()
	for q, v := range b.keys.Scan(nil, nil) {
		have.Apply(index.Delta{{Qualifier: q, Value: v}})
	}
	d, err := search.Purge(have, func(sequence uint64) bool { return gone[sequence] })
	must(err)
	have.Apply(d)
	// What was to be put before now ends without a version.
	b.repair = slices.DeleteFunc(slices.Clone(b.repair), func(c store.Cell) bool {
		return c.Family == store.Keywords && len(c.Value) > 0 && string(c.Qualifier) == string(versionCell)
	})
	b.repair = append(b.repair, repair(store.Keywords, b.words, have)...)
	b.words = have
	b.keys, err = search.NewBatch(have, b.p.analyzer)
	must(err)
	b.flushing = true
}
