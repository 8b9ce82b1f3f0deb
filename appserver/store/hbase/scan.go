package hbase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/appserver/store"
)

// scanRows is how many rows a scan fetches at once. Each batch is a scan of its
// own, so that one who is slow with the rows holds no scanner on a server, where
// it would expire.
const scanRows = 64

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, r store.Range, spans ...store.Span) iter.Seq2[store.Row, error] {
	return func(yield func(store.Row, error) bool) {
		if err := store.CheckSpans(spans); err != nil {
			yield(store.Row{}, err)
			return
		}
		whole, parts := split(spans)
		for {
			rows, err := s.batch(ctx, r, whole)
			for _, row := range rows {
				if len(parts) > 0 { // a filter would apply to all families
					row, err = s.read(ctx, row.User, spans)
				}
				if err != nil {
					break
				}
				if !yield(row, nil) {
					return
				}
				r = r.After(row.User)
			}
			if err != nil {
				yield(store.Row{}, fmt.Errorf("scan table %s: %w", s.cfg.Table, err))
				return
			}
			if len(rows) < scanRows {
				return
			}
		}
	}
}

// batch returns the first rows of r, fewer than scanRows if there are no more.
func (s *Store) batch(ctx context.Context, r store.Range, spans []store.Span) ([]store.Row, error) {
	options := append(s.query(spans, nil), hrpc.NumberOfRows(scanRows))
	within := append(bytes.Clone(r.From), 0)
	return do(ctx, &s.clients, within, func(ctx context.Context, c gohbase.Client) ([]store.Row, error) {
		scan, err := hrpc.NewScanRange(ctx, s.table, r.From, r.To, options...)
		if err != nil {
			return nil, err
		}
		scanner := c.Scan(scan)
		defer scanner.Close()
		var rows []store.Row
		for len(rows) < scanRows {
			result, err := scanner.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			user, ok := store.UserOf(result.Cells[0].Row)
			if !ok {
				return nil, fmt.Errorf("key %x is of no row", result.Cells[0].Row)
			}
			row := store.Row{User: user}
			if err := collect(&row, result, spans); err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
		return rows, nil
	})
}
