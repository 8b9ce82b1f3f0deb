package rows

import (
	rowsv1 "darklaunch/api/rows/v1"
	"darklaunch/appserver/store"
)

// Families have the same numbers on both sides; limits are below any that a
// number of the wire can't hold.

func fenceTo(f store.Fence) []byte {
	if f == (store.Fence{}) {
		return nil
	}
	return f.AppendFence(nil)
}

func cellsTo(cells []store.Cell) []*rowsv1.Cell {
	to := make([]*rowsv1.Cell, len(cells))
	for i, c := range cells {
		to[i] = &rowsv1.Cell{Family: rowsv1.Family(c.Family), Qualifier: c.Qualifier, Value: c.Value}
	}
	return to
}

func cellsFrom(cells []*rowsv1.Cell) []store.Cell {
	from := make([]store.Cell, len(cells))
	for i, c := range cells {
		from[i] = store.Cell{Family: familyFrom(c.GetFamily()), Qualifier: c.GetQualifier(), Value: c.GetValue()}
	}
	return from
}

// familyFrom is 0, of which nothing is, for a family that this side doesn't know.
func familyFrom(f rowsv1.Family) store.Family {
	if f < 0 || f > rowsv1.Family(store.Outbox) {
		return 0
	}
	return store.Family(f)
}

func spansTo(spans []store.Span) []*rowsv1.Span {
	to := make([]*rowsv1.Span, len(spans))
	for i, s := range spans {
		to[i] = &rowsv1.Span{Family: rowsv1.Family(s.Family), From: s.From, To: s.To, Limit: uint32(s.Limit)}
	}
	return to
}

func spansFrom(spans []*rowsv1.Span) []store.Span {
	from := make([]store.Span, len(spans))
	for i, s := range spans {
		from[i] = store.Span{Family: familyFrom(s.GetFamily()), From: s.GetFrom(), To: s.GetTo(), Limit: int(s.GetLimit())}
	}
	return from
}

func rowTo(r store.Row) *rowsv1.Row {
	return &rowsv1.Row{User: []byte(r.User), Fence: fenceTo(r.Fence), Cells: cellsTo(r.Cells), Rest: spansTo(r.Rest)}
}

func rowFrom(r *rowsv1.Row) (store.Row, error) {
	fence, err := store.DecodeFence(r.GetFence())
	if err != nil {
		return store.Row{}, err
	}
	return store.Row{User: string(r.GetUser()), Fence: fence, Cells: cellsFrom(r.GetCells()), Rest: spansFrom(r.GetRest())}, nil
}
