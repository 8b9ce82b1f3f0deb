package store

import (
	"cmp"
	"context"
	"iter"
	"slices"
)

// Fill reads spans into r up to the bounds of a page, and the rest into r.Rest.
// It is for stores that walk through cells one by one: cells yields those of a
// span in the order of their qualifiers, and is left early where the page ends.
func (r *Row) Fill(spans []Span, cells func(Span) iter.Seq2[Cell, error]) error {
	size := 0
	for _, s := range inOrder(spans) {
		if size >= PageBytes {
			r.Rest = append(r.Rest, s)
			continue
		}
		left := s.Limit
		if left == 0 {
			left = PageCells
		}
		for c, err := range cells(s) {
			if err != nil {
				return err
			}
			if left == 0 || size >= PageBytes {
				s.From = c.Qualifier
				r.Rest = append(r.Rest, s)
				break
			}
			r.Cells = append(r.Cells, c)
			size += c.size()
			left--
		}
	}
	return nil
}

func inOrder(spans []Span) []Span {
	byFamily := func(a, b Span) int { return cmp.Compare(a.Family, b.Family) }
	if slices.IsSortedFunc(spans, byFamily) {
		return spans
	}
	return slices.SortedFunc(slices.Values(spans), byFamily)
}

// ReadAll reads all that spans name, page by page, and reports whether it is of
// one moment: whether no put came between. If not, the row's fence is that of
// the last page.
func ReadAll(ctx context.Context, s Store, user string, spans ...Span) (row Row, whole bool, err error) {
	whole = true
	for page := 0; ; page++ {
		got, err := s.Read(ctx, user, spans...)
		if err != nil {
			return Row{}, false, err
		}
		if page > 0 && got.Fence != row.Fence {
			whole = false
		}
		row.User, row.Fence, row.Cells = got.User, got.Fence, append(row.Cells, got.Cells...)
		if spans = got.Rest; len(spans) == 0 {
			break
		}
	}
	// Pages go through several families side by side.
	slices.SortStableFunc(row.Cells, func(a, b Cell) int { return cmp.Compare(a.Family, b.Family) })
	return row, whole, nil
}
