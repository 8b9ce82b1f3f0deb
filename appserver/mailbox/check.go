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
	if cells.Len() == 0 && words.Len() == 0 {
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
