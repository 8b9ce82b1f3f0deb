package mailbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
)

// Checked is what Check found.
type Checked struct {
	Actions uint64 // in the log
	Lag     uint64 // actions that metadata or keywords are behind
}

// Check holds the metadata and keywords of a user's row against its log. They may be
// behind. It changes nothing, and reads again if the row changes under it. language is
// that of the keywords.
func Check(ctx context.Context, s store.Store, user, language string) (Checked, error) {
	analyzer, err := search.NewAnalyzer(language)
	if err != nil {
		return Checked{}, err
	}
	for {
		row, whole, err := store.ReadAll(ctx, s, user,
			store.Span{Family: store.Actions}, store.Span{Family: store.Metadata}, store.Span{Family: store.Keywords})
		if err != nil {
			return Checked{}, fmt.Errorf("read: %w", err)
		}
		if whole {
			return check(row, analyzer)
		}
	}
}

func check(row store.Row, analyzer *search.Analyzer) (c Checked, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, v)
		}
	}()
	log, err := decodeLog(row.Of(store.Actions))
	if err != nil {
		return c, err
	}
	c.Actions = uint64(len(log))
	if row.Fence.Seq != c.Actions || c.Actions > 0 && log[c.Actions-1].Sequence != c.Actions {
		return c, fmt.Errorf("%w: the fence says %d actions, the log has %d", ErrCorrupt, row.Fence.Seq, c.Actions)
	}
	cells, words := index.NewCells(indexCells(row.Of(store.Metadata))...), index.NewCells(indexCells(row.Of(store.Keywords))...)
	// Without a version they are there in part, and made anew when they are loaded.
	if cells.Get([]byte{versionCell}) == nil || words.Get([]byte{versionCell}) == nil {
		c.Lag = c.Actions
		return c, nil
	}
	if err := index.Check(slices.Values(log), cells); err != nil {
		return c, fmt.Errorf("metadata: %w", err)
	}
	// Keywords may be ahead of metadata, never of the log.
	meta, err := index.Rebuild(index.Latest, slices.Values(log))
	if err != nil {
		return c, err
	}
	view, err := index.Open(meta)
	if err != nil {
		return c, err
	}
	if err := search.Check(analyzer, slices.Values(log), view, words); err != nil && !errors.Is(err, search.ErrLanguage) {
		return c, fmt.Errorf("keywords: %w", err)
	}
	v, err := index.VersionOf(cells)
	if err != nil {
		return c, err
	}
	w, err := search.VersionOf(words)
	c.Lag = c.Actions - min(v.Sequence, w.Sequence)
	return c, err
}

// Outdated reports whether a row has metadata of an older schema than index.Latest, or
// metadata or keywords that are written in part: Flush makes them anew.
func Outdated(ctx context.Context, s store.Store, user string) (bool, error) {
	version := func(f store.Family) store.Span {
		return store.Span{Family: f, From: []byte{versionCell}, To: []byte{versionCell + 1}, Limit: 1}
	}
	row, err := s.Read(ctx, user, version(store.Metadata), version(store.Keywords))
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	for _, f := range []store.Family{store.Metadata, store.Keywords} {
		if len(row.Of(f)) > 0 {
			continue
		}
		part, err := s.Read(ctx, user, store.Span{Family: f, Limit: 1})
		if err != nil {
			return false, fmt.Errorf("read: %w", err)
		}
		if len(part.Cells) > 0 {
			return true, nil
		}
	}
	v, err := index.VersionOf(index.NewCells(indexCells(row.Of(store.Metadata))...))
	return v.Schema != 0 && v.Schema < index.Latest, err
}
