package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"darklaunch/appserver/store"
)

func firstError(rows iter.Seq2[store.Row, error]) error {
	for _, err := range rows {
		return err
	}
	return nil
}

// fill makes rows of the check's own and returns their users in the order of keys.
func fill(ctx context.Context, r *rig, n int) ([]string, map[string]store.Row, error) {
	rows := map[string]store.Row{}
	for i := range n {
		user := r.user(fmt.Sprintf("user %d\x00%d", i, i%3))
		var cells []store.Cell
		if i%5 != 4 { // some have a fence alone
			cells = append(cells, cell(store.Actions, "1", user), cell(store.Metadata, "a", user), cell(store.Metadata, "b", user))
		}
		fence, err := r.put(ctx, user, store.Fence{}, cells...)
		if err != nil {
			return nil, nil, err
		}
		rows[user] = store.Row{User: user, Fence: fence, Cells: cells}
	}
	users := slices.SortedFunc(maps.Keys(rows), func(a, b string) int {
		return strings.Compare(string(store.RowKey(a)), string(store.RowKey(b)))
	})
	return users, rows, nil
}

// collect scans, and holds that rows come in order and once. Other checks' rows
// are left out.
func collect(ctx context.Context, r *rig, rng store.Range, spans ...store.Span) ([]store.Row, error) {
	var found []store.Row
	last := ""
	for row, err := range r.Scan(ctx, rng, spans...) {
		if err != nil {
			return nil, err
		}
		key := store.RowKey(row.User)
		if last != "" && string(key) <= string(store.RowKey(last)) {
			return nil, fmt.Errorf("%q comes after %q", row.User, last)
		}
		if !rng.Contains(key) {
			return nil, fmt.Errorf("%q is not in the range", row.User)
		}
		last = row.User
		if strings.HasPrefix(row.User, r.name+"/") {
			found = append(found, row)
		}
	}
	return found, nil
}

func scan(ctx context.Context, r *rig) error {
	users, rows, err := fill(ctx, r, 150)
	if err != nil {
		return err
	}
	check := func(what string, rng store.Range, pick func(store.Cell) bool, spans ...store.Span) error {
		found, err := collect(ctx, r, rng, spans...)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		at := 0
		for _, user := range users {
			if !rng.Contains(store.RowKey(user)) {
				continue
			}
			if at == len(found) || found[at].User != user {
				return fmt.Errorf("%s: row %d is not that of %q", what, at, user)
			}
			want := slices.DeleteFunc(slices.Clone(rows[user].Cells), func(c store.Cell) bool { return !pick(c) })
			if err := same(found[at], rows[user].Fence, want...); err != nil {
				return fmt.Errorf("%s: row of %q: %w", what, user, err)
			}
			at++
		}
		if at != len(found) {
			return fmt.Errorf("%s: %d rows, want %d", what, len(found), at)
		}
		return nil
	}
	all := func(store.Cell) bool { return true }
	err = errors.Join(
		check("everything", store.Range{}, all, everything()...),
		check("fences", store.Range{}, func(store.Cell) bool { return false }),
		check("one family", store.Range{}, func(c store.Cell) bool { return c.Family == store.Metadata }, store.Span{Family: store.Metadata}),
		check("within a family", store.Range{}, func(c store.Cell) bool { return c.Family == store.Metadata && string(c.Qualifier) == "b" },
			store.Span{Family: store.Metadata, From: []byte("b"), To: []byte("c")}),
		check("after the 70th", store.Range{}.After(users[70]), all, everything()...),
		check("up to the 70th", store.Range{To: store.RowKey(users[70])}, all, everything()...),
	)
	for i := range 3 {
		err = errors.Join(err, check(fmt.Sprintf("part %d of 3", i), store.Slice(i, 3), all, everything()...))
	}
	if err != nil {
		return err
	}
	// One that is left early lets go of the store.
	for range 3 {
		for _, err := range r.Scan(ctx, store.Range{}, everything()...) {
			if err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// scanBesidePuts scans while rows are rewritten: each row that comes is of one put.
func scanBesidePuts(ctx context.Context, r *rig) error {
	const users = 10
	fences := make([]store.Fence, users)
	write := func(u int) (err error) {
		n := fmt.Sprint(fences[u].Seq + 1)
		fences[u], err = r.put(ctx, r.user(fmt.Sprint(u)), fences[u], cell(store.Actions, "n", n), cell(store.Outbox, "n", n))
		return err
	}
	for u := range users {
		if err := write(u); err != nil {
			return err
		}
	}
	u := 0
	next := func() error { u = (u + 1) % users; return write(u) }
	return beside(next, func() error {
		for range 10 {
			found, err := collect(ctx, r, store.Range{}, everything()...)
			if err != nil {
				return err
			}
			if len(found) != users {
				return fmt.Errorf("%d rows, want %d", len(found), users)
			}
			for _, row := range found {
				n := fmt.Sprint(row.Fence.Seq)
				if err := sameCells(row.Cells, []store.Cell{cell(store.Actions, "n", n), cell(store.Outbox, "n", n)}); err != nil {
					return fmt.Errorf("row of %q at %v: %w", row.User, row.Fence, err)
				}
			}
		}
		return nil
	})
}
