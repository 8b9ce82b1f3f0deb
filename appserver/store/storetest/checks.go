package storetest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"darklaunch/appserver/store"
)

func absentRow(ctx context.Context, r *rig) error {
	row, err := r.read(ctx, r.user("nobody"))
	if err != nil {
		return err
	}
	if row.User != r.user("nobody") {
		return fmt.Errorf("asked for %q, got a row of %q", r.user("nobody"), row.User)
	}
	return same(row, store.Fence{})
}

func putAndReadBack(ctx context.Context, r *rig) error {
	user := r.user("ann")
	cells := []store.Cell{
		cell(store.Actions, "1", "hello"),
		cell(store.Metadata, "folder", "inbox"),
		cell(store.Keywords, "hello", "1"),
		cell(store.Outbox, "1", "ben"),
	}
	fence := store.Fence{}
	for i := range 20 {
		cells[0].Value = fmt.Appendf(nil, "hello %d", i)
		var err error
		if fence, err = r.put(ctx, user, fence, cells...); err != nil {
			return err
		}
		row, err := r.read(ctx, user)
		if err != nil {
			return err
		}
		if err := same(row, fence, cells...); err != nil {
			return fmt.Errorf("after put %d: %w", i, err)
		}
	}
	return nil
}

func wholeFence(ctx context.Context, r *rig) error {
	user := r.user("ann")
	fence := store.Fence{Epoch: 5, Seq: 9, Tag: tag(), Ring: store.Ring{Incarnation: 3, Number: 4}, Flags: 2}
	if err := r.Put(ctx, user, store.Fence{}, fence, nil); err != nil {
		return err
	}
	for what, change := range map[string]func(*store.Fence){
		"no fence":    func(f *store.Fence) { *f = store.Fence{} },
		"epoch":       func(f *store.Fence) { f.Epoch-- },
		"seq":         func(f *store.Fence) { f.Seq-- },
		"tag":         func(f *store.Fence) { f.Tag[15]++ },
		"incarnation": func(f *store.Fence) { f.Ring.Incarnation++ },
		"number":      func(f *store.Fence) { f.Ring.Number++ },
		"flags":       func(f *store.Fence) { f.Flags ^= store.Sealed },
	} {
		cur := fence
		change(&cur)
		if err := r.Put(ctx, user, cur, after(fence), nil); !r.refused(err) {
			return fmt.Errorf("a put that expects another %s: got %v, want fenced", what, err)
		}
	}
	if err := r.Put(ctx, r.user("absent"), fence, after(fence), nil); !r.refused(err) {
		return fmt.Errorf("a put that expects a fence of an absent row: got %v, want fenced", err)
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence)
}

func fencedWritesNothing(ctx context.Context, r *rig) error {
	user := r.user("ann")
	before, err := r.put(ctx, user, store.Fence{}, cell(store.Actions, "1", "first"), cell(store.Outbox, "1", "first"))
	if err != nil {
		return err
	}
	fence, err := r.put(ctx, user, before, cell(store.Metadata, "m", "second"))
	if err != nil {
		return err
	}
	late := []store.Cell{cell(store.Actions, "1", "late"), cell(store.Keywords, "k", "late"), {Family: store.Outbox, Qualifier: []byte("1")}}
	for _, cur := range []store.Fence{before, {}} {
		if err := r.Put(ctx, user, cur, after(fence), late); !r.refused(err) {
			return fmt.Errorf("a late put: got %v, want fenced", err)
		}
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence, cell(store.Actions, "1", "first"), cell(store.Metadata, "m", "second"), cell(store.Outbox, "1", "first"))
}

// ownersRace has owners put at once, round after round, all upon the same fence.
// Each put leaves a cell named by its tag that holds the fence it followed: one
// in a round is written, and all are on one chain.
func ownersRace(ctx context.Context, r *rig) error {
	const owners, rounds = 4, 15
	user := r.user("ann")
	acked := map[store.Tag]bool{}
	for range rounds {
		row, err := r.Read(ctx, user)
		if err != nil {
			return err
		}
		next := make([]store.Fence, owners)
		ends := make([]error, owners)
		var wg sync.WaitGroup
		for i := range owners {
			wg.Go(func() {
				next[i] = after(row.Fence)
				written := store.Cell{Family: store.Actions, Qualifier: next[i].Tag[:], Value: []byte{0}}
				if row.Fence != (store.Fence{}) {
					written.Value = row.Fence.AppendFence(written.Value)
				}
				ends[i] = r.Put(ctx, user, row.Fence, next[i], []store.Cell{written})
			})
		}
		wg.Wait()
		won := 0
		for i, err := range ends {
			if err == nil {
				acked[next[i].Tag] = true
				won++
			} else if !r.refused(err) {
				return err
			}
		}
		if won > 1 || won == 0 && !r.target.Vague {
			return fmt.Errorf("%d of %d puts upon the same fence were acknowledged, want one", won, owners)
		}
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	followed := map[store.Tag]store.Fence{}
	for _, c := range row.Cells {
		// A byte before it, as no value is empty.
		previous, err := store.DecodeFence(c.Value[1:])
		if err != nil {
			return err
		}
		followed[store.Tag(c.Qualifier)] = previous
	}
	length := 0
	for at := row.Fence; at != (store.Fence{}); length++ {
		previous, ok := followed[at.Tag]
		if !ok || previous.Epoch+1 != at.Epoch {
			return fmt.Errorf("%v has no predecessor", at)
		}
		delete(acked, at.Tag)
		delete(followed, at.Tag)
		at = previous
	}
	if len(acked)+len(followed) > 0 {
		return fmt.Errorf("%d puts were acknowledged and %d written beside the chain of %d", len(acked), len(followed), length)
	}
	return nil
}

// oneStep reads a row all the time while puts rewrite all its families: what is
// read is always of one put.
func oneStep(ctx context.Context, r *rig) error {
	user := r.user("ann")
	filler := strings.Repeat("x", 1000)
	fence := store.Fence{}
	write := func() (err error) {
		var cells []store.Cell
		number := fmt.Sprint(fence.Seq + 1)
		for _, f := range store.Families() {
			cells = append(cells, cell(f, "a", number), cell(f, "b", filler), cell(f, "c", number))
		}
		fence, err = r.put(ctx, user, fence, cells...)
		return err
	}
	if err := write(); err != nil {
		return err
	}
	read := func(asked []store.Span, want int) error {
		for range 60 {
			row, err := r.Read(ctx, user, asked...)
			if err != nil {
				return err
			}
			for _, c := range row.Cells {
				if string(c.Value) != filler && string(c.Value) != fmt.Sprint(row.Fence.Seq) {
					return fmt.Errorf("the fence is of put %d, %s", row.Fence.Seq, show(c))
				}
			}
			if len(row.Cells) != want {
				return fmt.Errorf("%d cells, want %d", len(row.Cells), want)
			}
		}
		return nil
	}
	within := everything()
	within[0].From = []byte("b")
	return beside(write, func() error { return read(everything(), 12) }, func() error { return read(within, 11) })
}

// beside calls write over and over until all of others have returned.
func beside(write func() error, others ...func() error) error {
	var g errgroup.Group
	for _, f := range others {
		g.Go(f)
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	for {
		select {
		case err := <-done:
			return err
		default:
		}
		if err := write(); err != nil {
			return errors.Join(err, <-done)
		}
	}
}

func deletion(ctx context.Context, r *rig) error {
	user := r.user("ann")
	fence, err := r.put(ctx, user, store.Fence{}, cell(store.Metadata, "a", "1"), cell(store.Metadata, "b", "2"), cell(store.Outbox, "a", "3"))
	if err != nil {
		return err
	}
	gone := store.Cell{Family: store.Metadata, Qualifier: []byte("a")}
	never := store.Cell{Family: store.Metadata, Qualifier: []byte("never")}
	for range 10 { // what is deleted can come back, however soon
		if fence, err = r.put(ctx, user, fence, gone, never, cell(store.Metadata, "c", "4")); err != nil {
			return err
		}
		row, err := r.read(ctx, user)
		if err != nil {
			return err
		}
		if err := same(row, fence, cell(store.Metadata, "b", "2"), cell(store.Metadata, "c", "4"), cell(store.Outbox, "a", "3")); err != nil {
			return fmt.Errorf("after the deletion: %w", err)
		}
		if fence, err = r.put(ctx, user, fence, cell(store.Metadata, "a", "5")); err != nil {
			return err
		}
		if row, err = r.read(ctx, user, store.Span{Family: store.Metadata, To: []byte("b")}); err != nil {
			return err
		}
		if err := same(row, fence, cell(store.Metadata, "a", "5")); err != nil {
			return fmt.Errorf("put again: %w", err)
		}
	}
	// Deleted cells are no obstacle between pages.
	var many []store.Cell
	for i := range 50 {
		many = append(many, cell(store.Keywords, fmt.Sprintf("%02d", i), "x"))
	}
	if fence, err = r.put(ctx, user, fence, many...); err != nil {
		return err
	}
	for i := range 49 {
		many[i].Value = nil
	}
	if fence, err = r.put(ctx, user, fence, many[:49]...); err != nil {
		return err
	}
	row, err := r.read(ctx, user, store.Span{Family: store.Keywords, Limit: 3})
	if err != nil {
		return err
	}
	return same(row, fence, many[49])
}

func twoAtOnePlace(ctx context.Context, r *rig) error {
	user := r.user("ann")
	fence, err := r.put(ctx, user, store.Fence{},
		cell(store.Actions, "a", "first"), cell(store.Actions, "a", "later"),
		cell(store.Actions, "b", "first"), store.Cell{Family: store.Actions, Qualifier: []byte("b")})
	if err != nil {
		return err
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence, cell(store.Actions, "a", "later"))
}

func familiesApart(ctx context.Context, r *rig) error {
	user := r.user("ann")
	var cells []store.Cell
	for _, f := range store.Families() {
		cells = append(cells, cell(f, "q", f.String()))
	}
	shuffled := slices.Clone(cells)
	slices.Reverse(shuffled)
	fence, err := r.put(ctx, user, store.Fence{}, shuffled...)
	if err != nil {
		return err
	}
	for i, f := range store.Families() {
		row, err := r.read(ctx, user, store.Span{Family: f})
		if err != nil {
			return err
		}
		if err := same(row, fence, cells[i]); err != nil {
			return fmt.Errorf("%v alone: %w", f, err)
		}
	}
	row, err := r.read(ctx, user, store.Span{Family: store.Outbox}, store.Span{Family: store.Actions})
	if err != nil {
		return err
	}
	return same(row, fence, cells[0], cells[3])
}

// binaryKeys uses names that are easily taken for one another.
func binaryKeys(ctx context.Context, r *rig) error {
	names := []string{"a", "a\x00", "a\x00\x00", "a\x00\x01", "a\x00\xff", "a\x01", "a\xff", "a\xff\xff", "\x00", "\xff", "é", "\xc3"}
	slices.Sort(names)
	fences := map[string]store.Fence{}
	for _, user := range names {
		var cells []store.Cell
		for _, q := range names {
			cells = append(cells, cell(store.Metadata, q, user+"|"+q+"\x00\xff"))
		}
		fence, err := r.put(ctx, r.user(user), store.Fence{}, cells...)
		if err != nil {
			return err
		}
		fences[user] = fence
	}
	for _, user := range names {
		var want []store.Cell
		for _, q := range names {
			want = append(want, cell(store.Metadata, q, user+"|"+q+"\x00\xff"))
		}
		row, err := r.read(ctx, r.user(user))
		if err != nil {
			return err
		}
		if err := same(row, fences[user], want...); err != nil {
			return fmt.Errorf("row of %q: %w", user, err)
		}
	}
	return nil
}

// spans compares random spans with what they should name.
func spans(ctx context.Context, r *rig) error {
	user := r.user("ann")
	rnd := rand.New(rand.NewPCG(1, 2))
	name := func() []byte {
		b := make([]byte, 1+rnd.IntN(3))
		for i := range b {
			b[i] = "\x00\x01az\xff"[rnd.IntN(5)]
		}
		return b
	}
	all := map[store.Family]map[string]string{}
	var cells []store.Cell
	for _, f := range store.Families() {
		all[f] = map[string]string{}
		for range 40 {
			q := string(name())
			all[f][q] = fmt.Sprintf("%v %x", f, q)
			cells = append(cells, cell(f, q, all[f][q]))
		}
	}
	fence, err := r.put(ctx, user, store.Fence{}, cells...)
	if err != nil {
		return err
	}
	for range 60 {
		var asked []store.Span
		var want []store.Cell
		for _, f := range store.Families() {
			s := store.Span{Family: f}
			switch rnd.IntN(4) {
			case 0:
				continue
			case 1:
				s.From = name()
			case 2:
				s.From, s.To = name(), name()
			}
			if s.Limit = rnd.IntN(5); s.Limit == 4 {
				s.Limit = 0
			}
			asked = append(asked, s)
			for q, v := range all[f] {
				if q >= string(s.From) && (len(s.To) == 0 || q < string(s.To)) {
					want = append(want, cell(f, q, v))
				}
			}
		}
		slices.SortFunc(want, func(a, b store.Cell) int {
			return cmp.Or(cmp.Compare(a.Family, b.Family), bytes.Compare(a.Qualifier, b.Qualifier))
		})
		if len(asked) == 0 {
			continue
		}
		row, err := r.read(ctx, user, asked...)
		if err != nil {
			return err
		}
		if err := same(row, fence, want...); err != nil {
			return fmt.Errorf("spans %v: %w", asked, err)
		}
	}
	return nil
}

// pages walks through a long log: no page is larger than it may be, none overlap.
func pages(ctx context.Context, r *rig) error {
	const length = 2500
	user := r.user("ann")
	fence := store.Fence{}
	var want []store.Cell
	for i := range length {
		want = append(want, store.Cell{Family: store.Actions, Qualifier: binary.BigEndian.AppendUint64(nil, uint64(i)), Value: fmt.Appendf(nil, "action %d", i)})
	}
	for chunk := range slices.Chunk(want, 500) {
		var err error
		if fence, err = r.put(ctx, user, fence, chunk...); err != nil {
			return err
		}
	}
	for _, limit := range []int{0, 1000, 7} {
		var got []store.Cell
		asked := []store.Span{{Family: store.Actions, Limit: limit}}
		if limit == 7 { // many pages take long: the last few
			asked[0].From = want[length-20].Qualifier
		}
		for len(asked) > 0 {
			row, err := r.Read(ctx, user, asked...)
			if err != nil {
				return err
			}
			if row.Fence != fence {
				return fmt.Errorf("a page has fence %v, want %v", row.Fence, fence)
			}
			if most := cmp.Or(limit, store.PageCells); len(row.Cells) > most {
				return fmt.Errorf("a page of %d cells, want at most %d", len(row.Cells), most)
			}
			if len(row.Cells) == 0 {
				return fmt.Errorf("an empty page before cell %d", len(got))
			}
			got = append(got, row.Cells...)
			asked = row.Rest
		}
		expect := want
		if limit == 7 {
			expect = want[length-20:]
		}
		if err := sameCells(got, expect); err != nil {
			return fmt.Errorf("pages of %d: %w", limit, err)
		}
	}
	return nil
}

// bigRows has the largest cell, the largest put, and a row that is larger than both.
func bigRows(ctx context.Context, r *rig) error {
	user := r.user("ann")
	value := func(n, size int) []byte {
		b := bytes.Repeat([]byte{byte(n)}, size)
		binary.BigEndian.PutUint64(b, uint64(n))
		return b
	}
	fence := store.Fence{}
	var want []store.Cell
	for i := range 3 {
		two := []store.Cell{
			{Family: store.Metadata, Qualifier: bytes.Repeat([]byte{byte(2 * i)}, store.MaxQualifier), Value: value(2*i+1, store.MaxValue)},
			{Family: store.Metadata, Qualifier: []byte{byte(2*i + 1)}, Value: value(2*i+2, store.MaxPut-store.MaxValue-store.MaxQualifier-1)},
		}
		var err error
		if fence, err = r.put(ctx, user, fence, two...); err != nil {
			return fmt.Errorf("put %d: %w", i, err)
		}
		want = append(want, two...)
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence, want...)
}

// limits goes to each limit and one beyond.
func limits(ctx context.Context, r *rig) error {
	user := r.user("ann")
	good := store.Fence{Epoch: 1, Tag: tag()}
	long := strings.Repeat("u", store.MaxUser)
	if _, err := r.put(ctx, long, store.Fence{}, cell(store.Actions, "a", "v")); err != nil && !errors.Is(err, store.ErrFenced) && !store.Unknown(err) {
		return fmt.Errorf("the longest user: %w", err)
	}
	big := make([]byte, store.MaxValue)
	for what, err := range map[string]error{
		"no user":        r.Put(ctx, "", store.Fence{}, good, nil),
		"long user":      r.Put(ctx, long+"u", store.Fence{}, good, nil),
		"no tag":         r.Put(ctx, user, store.Fence{}, store.Fence{Epoch: 1}, nil),
		"the same tag":   r.Put(ctx, user, good, store.Fence{Epoch: 2, Tag: good.Tag}, nil),
		"epoch falls":    r.Put(ctx, user, store.Fence{Epoch: 2, Tag: tag()}, good, nil),
		"seq falls":      r.Put(ctx, user, store.Fence{Epoch: 1, Seq: 1, Tag: tag()}, good, nil),
		"fence family":   r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(store.FenceFamily, "o", "v")}),
		"no family":      r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(0, "q", "v")}),
		"other family":   r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(store.Outbox+1, "q", "v")}),
		"no qualifier":   r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(store.Actions, "", "v")}),
		"long qualifier": r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(store.Actions, strings.Repeat("q", store.MaxQualifier+1), "v")}),
		"big value":      r.Put(ctx, user, store.Fence{}, good, []store.Cell{cell(store.Actions, "q", string(big)+"v")}),
		"big put": r.Put(ctx, user, store.Fence{}, good, []store.Cell{{Family: store.Actions, Qualifier: []byte("a"), Value: big},
			{Family: store.Actions, Qualifier: []byte("b"), Value: big}}),
		"many cells":     r.Put(ctx, user, store.Fence{}, good, slices.Repeat([]store.Cell{cell(store.Actions, "q", "")}, store.MaxPutCells+1)),
		"read no user":   readError(r.Read(ctx, "")),
		"read fence":     readError(r.Read(ctx, user, store.Span{Family: store.FenceFamily})),
		"read twice":     readError(r.Read(ctx, user, store.Span{Family: store.Actions}, store.Span{Family: store.Actions})),
		"read large":     readError(r.Read(ctx, user, store.Span{Family: store.Actions, Limit: store.PageCells + 1})),
		"read negative":  readError(r.Read(ctx, user, store.Span{Family: store.Actions, Limit: -1})),
		"scan of nought": firstError(r.Scan(ctx, store.Range{}, store.Span{})),
	} {
		if !errors.Is(err, store.ErrInvalid) {
			return fmt.Errorf("%s: got %v, want invalid", what, err)
		}
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, store.Fence{})
}

func readError(_ store.Row, err error) error { return err }

func manyRows(ctx context.Context, r *rig) error {
	const users, puts = 40, 5
	var g errgroup.Group
	for u := range users {
		g.Go(func() error {
			user := r.user(fmt.Sprint(u))
			fence := store.Fence{}
			var want []store.Cell
			for i := range puts {
				c := cell(store.Actions, fmt.Sprint(i), fmt.Sprintf("%s %d", user, i))
				next, err := r.put(ctx, user, fence, c)
				if err != nil {
					return fmt.Errorf("row of %q: %w", user, err)
				}
				fence, want = next, append(want, c)
			}
			row, err := r.read(ctx, user)
			if err != nil {
				return err
			}
			return same(row, fence, want...)
		})
	}
	return g.Wait()
}

// endedContexts gives calls a context that has ended, or ends soon: they return,
// and the row is as if they had been made or not.
func endedContexts(ctx context.Context, r *rig) error {
	user := r.user("ann")
	fence, err := r.put(ctx, user, store.Fence{}, cell(store.Actions, "a", "1"))
	if err != nil {
		return err
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	next := after(fence)
	began := time.Now()
	putErr := r.Put(ended, user, fence, next, []store.Cell{cell(store.Actions, "a", "2")})
	_, readErr := r.Read(ended, user)
	scanErr := firstError(r.Scan(ended, store.Range{}))
	for what, err := range map[string]error{"put": putErr, "read": readErr, "scan": scanErr} {
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s with a context that has ended: got %v, want %v", what, err, context.Canceled)
		}
	}
	if took := time.Since(began); took > 20*time.Second {
		return fmt.Errorf("calls with a context that has ended took %v", took)
	}
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	if row.Fence == next {
		return same(row, next, cell(store.Actions, "a", "2"))
	}
	return same(row, fence, cell(store.Actions, "a", "1"))
}

// unknownSettled ends puts at random moments and goes on from what is read back:
// everything that a put wrote is there if its fence is, and nothing if it is not.
func unknownSettled(ctx context.Context, r *rig) error {
	user := r.user("ann")
	rnd := rand.New(rand.NewPCG(3, 4))
	fence := store.Fence{}
	var want []store.Cell
	unknown := 0
	for i := range 150 {
		next := after(fence)
		cells := []store.Cell{
			cell(store.Actions, fmt.Sprintf("%04d", i), "a"),
			cell(store.Outbox, fmt.Sprintf("%04d", i), "o"),
		}
		limit := time.Duration(rnd.IntN(2_000_000))
		if i%5 == 0 {
			limit = 0 // for stores that are always faster
		}
		short, cancel := context.WithTimeout(ctx, limit)
		err := r.Put(short, user, fence, next, cells)
		cancel()
		if err != nil && !store.Unknown(err) {
			return fmt.Errorf("put %d of the only owner: %w", i, err)
		}
		if err != nil {
			unknown++
		}
		for { // the put is written until a read shows it, or again
			row, readErr := r.Read(ctx, user)
			if readErr != nil {
				return readErr
			}
			if row.Fence == next {
				break
			}
			if row.Fence != fence {
				return fmt.Errorf("after put %d the row has %v, which nobody put", i, row.Fence)
			}
			if err == nil {
				return fmt.Errorf("put %d was acknowledged and is not there", i)
			}
			if again := r.Put(ctx, user, fence, next, cells); again != nil && !store.Unknown(again) && !errors.Is(again, store.ErrFenced) {
				return again
			}
		}
		fence, want = next, append(want, cells...)
	}
	if unknown == 0 {
		return errors.New("no put ended as unknown")
	}
	slices.SortStableFunc(want, func(a, b store.Cell) int { return cmp.Compare(a.Family, b.Family) })
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence, want...)
}

func closeAndOpen(ctx context.Context, r *rig) error {
	user := r.user("ann")
	fence := store.Fence{}
	var want []store.Cell
	for i := range 20 {
		c := cell(store.Actions, fmt.Sprintf("%02d", i), strings.Repeat("v", 1000))
		next, err := r.put(ctx, user, fence, c)
		if err != nil {
			return err
		}
		fence, want = next, append(want, c)
	}
	for range 2 {
		if err := r.Close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	putErr := r.Put(ctx, user, fence, after(fence), nil)
	_, readErr := r.Read(ctx, user)
	scanErr := firstError(r.Scan(ctx, store.Range{}))
	for what, err := range map[string]error{"put": putErr, "read": readErr, "scan": scanErr} {
		if !errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("%s of a closed store: got %v, want %v", what, err, store.ErrClosed)
		}
	}
	if !r.target.Lasting {
		return nil
	}
	again, err := r.target.Open(ctx)
	if err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	r.Store = again
	row, err := r.read(ctx, user)
	if err != nil {
		return err
	}
	return same(row, fence, want...)
}
