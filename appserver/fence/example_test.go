package fence_test

import (
	"context"
	"fmt"

	"darklaunch/appserver/fence"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/memstore"
)

// A server claims a row, appends an action to its log, and reads it back.
func Example() {
	ctx := context.Background()
	rows := &memstore.Store{} // or what pebble.Open, rows.Open or hbase.Open return
	view := store.Ring{Incarnation: 1, Number: 7}

	var o fence.Owner
	seen, err := rows.Read(ctx, "ann") // without spans: the fence alone
	if err != nil {
		panic(err)
	}
	claim, err := o.Claim(seen.Fence, view, store.Tag{1}) // a real tag is random
	if err != nil {
		panic(err)
	}
	if err := settle(ctx, rows, &o, claim); err != nil {
		panic(err)
	}
	row, err := rows.Read(ctx, "ann", store.Span{Family: store.Actions}, store.Span{Family: store.Outbox})
	if err != nil || !o.Loaded(row.Fence) {
		panic("somebody else has the row")
	}

	commit := o.Commit(1, store.Tag{2})
	hello := store.Cell{Family: store.Actions, Qualifier: fmt.Appendf(nil, "%08d", commit.Next.Seq), Value: []byte("hello")}
	if err := settle(ctx, rows, &o, commit, hello); err != nil {
		panic(err)
	}

	row, err = rows.Read(ctx, "ann", store.Span{Family: store.Actions})
	if err != nil {
		panic(err)
	}
	for _, c := range row.Cells {
		fmt.Printf("epoch %d, action %s: %s\n", row.Fence.Epoch, c.Qualifier, c.Value)
	}
	// Output: epoch 1, action 00000001: hello
}

// settle makes a put and finds out what became of it.
func settle(ctx context.Context, rows store.Store, o *fence.Owner, w fence.Write, cells ...store.Cell) error {
	for {
		err := rows.Put(ctx, "ann", w.Cur, w.Next, cells)
		step := o.Answer(err)
		if step == fence.ReadBack {
			row, readErr := rows.Read(ctx, "ann")
			if readErr != nil {
				o.Drop() // nobody knows: the caller answers UNKNOWN
				return readErr
			}
			step = o.Saw(row.Fence)
		}
		switch step {
		case fence.Won:
			return nil
		case fence.Again: // until ctx ends
		default:
			return fmt.Errorf("%v: %w", step, err)
		}
	}
}
