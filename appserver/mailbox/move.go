package mailbox

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/store"
)

// A user is moved by copying the log. While that is done, the old row is written to as
// ever; then it is sealed, which ends that for good, and what it has got meanwhile is
// copied too; then the new row is opened. Metadata and keywords are made anew from the
// log when the new row is first loaded. Whoever is stopped in the middle leaves
// nothing that another attempt could not go on from:
//
//	new row      old row                then
//	absent       open                   nothing has happened
//	sealed       open                   an attempt is under way, or was given up
//	sealed       sealed, to the new     nobody serves the user until an attempt is finished: who
//	                                    asks for the user begins one (Config.Departed)
//	open         sealed, to the new     done, but for the directory, which may say so later
//
// All of it rests on the rows' fences, generations among them: of two attempts, one
// finds the fence of the other, and a late one finds the row of a later generation.

// otherCell is the qualifier, before any entry of an outbox, of the cell of a sealed row
// that names where its user has gone; of one that is being moved to, from where.
const otherCell = "\x00"

// elsewhere is what a sealed row says of its user.
func elsewhere(row store.Row) *Moved {
	m := &Moved{Generation: row.Fence.Flags.Generation()}
	for _, c := range row.Of(store.Outbox) {
		if string(c.Qualifier) == otherCell {
			m.Cell = string(c.Value)
		}
	}
	if row.Fence.Flags&store.Arriving != 0 { // as far as this row knows, the move is not done
		m.Generation--
	}
	return m
}

// Seal closes u's row in this cell, as the user is moved to another as the given
// generation, and returns how many actions the log has. It does nothing if that has
// been done. A *Moved: the user has gone elsewhere, or as another generation. It is the
// owner's to call: another server that has the mailbox in memory may go on reading it.
func (p *Pool) Seal(ctx context.Context, u action.User, to string, generation uint64) (seq uint64, err error) {
	for {
		row, err := p.cfg.Store.Read(ctx, string(u), store.Span{Family: store.Outbox, To: action.Qualifier(1)})
		if err != nil {
			return 0, fmt.Errorf("seal %s: %w", u, err)
		}
		if row.Fence.Flags&store.Sealed != 0 {
			moved := elsewhere(row)
			if moved.Cell != to || moved.Generation != generation {
				return 0, fmt.Errorf("seal %s: %w", u, moved)
			}
			p.lose(u)
			return row.Fence.Seq, nil
		}
		if has := row.Fence.Flags.Generation(); has+1 != generation {
			return 0, fmt.Errorf("seal %s: it is here as generation %d, and cannot leave as %d: %w", u, has, generation, ErrLost)
		}
		// Whoever has the mailbox loses it by the claim, wherever that is.
		var owner fence.Owner
		w, err := owner.Force(row.Fence, row.Fence.Ring, newTag())
		if err != nil {
			return 0, fmt.Errorf("seal %s: %w", u, err)
		}
		step, err := settle(ctx, p.cfg.Store, string(u), &owner, w, nil)
		if step == fence.Won {
			cell := []store.Cell{{Family: store.Outbox, Qualifier: []byte(otherCell), Value: []byte(to)}}
			step, err = settle(ctx, p.cfg.Store, string(u), &owner, owner.Seal(newTag()), cell)
		}
		switch step {
		case fence.Won, fence.Lost, fence.Fenced: // in the end what the row says counts
		default:
			return 0, fmt.Errorf("seal %s: %w", u, err)
		}
	}
}

// Export returns what is to be copied of a user's row, in pieces that are each of a
// moment of its own: the log after a sequence, and what the outbox holds. It needs no
// hold on the row, which may be another server's.
func (p *Pool) Export(ctx context.Context, u action.User, after uint64) iter.Seq2[[]store.Cell, error] {
	return func(yield func([]store.Cell, error) bool) {
		spans := []store.Span{{Family: store.Actions, From: action.Qualifier(after + 1)}, {Family: store.Outbox, From: action.Qualifier(1)}}
		for len(spans) > 0 {
			row, err := p.cfg.Store.Read(ctx, string(u), spans...)
			if err != nil {
				yield(nil, fmt.Errorf("export %s: %w", u, err))
				return
			}
			if !yield(row.Cells, nil) {
				return
			}
			spans = row.Rest
		}
	}
}

// lose drops a mailbox whose row is another's, and returns when nobody is answered from
// it any more.
func (p *Pool) lose(u action.User) {
	p.mu.Lock()
	b, ok := p.boxes.Peek(u)
	p.owned.Remove(u)
	p.mu.Unlock()
	if !ok {
		return
	}
	if <-b.loaded; b.loadErr == nil {
		b.drop(ErrLost)
	}
}

// Row is a user who has a row in this cell.
type Row struct {
	User action.User
	// Gone is the cell that the user was moved to; empty: the user is here.
	Gone       string
	Generation uint64
}

// Rows returns the users who have a row in this cell; those who are on the way here are
// left out.
func (p *Pool) Rows(ctx context.Context) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		span := store.Span{Family: store.Outbox, To: action.Qualifier(1)}
		for row, err := range p.cfg.Store.Scan(ctx, store.Range{}, span) {
			if err != nil {
				yield(Row{}, fmt.Errorf("users of the cell: %w", err))
				return
			}
			r := Row{User: action.User(row.User), Generation: row.Fence.Flags.Generation()}
			if !r.User.Valid() || row.Fence.Flags&store.Arriving != 0 {
				continue
			}
			if row.Fence.Flags&store.Sealed != 0 {
				r.Gone = elsewhere(row).Cell
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Arrival is a row in this cell that a user is being moved to. It is not safe for
// concurrent use. What it returns errors for is over, and may be begun again.
type Arrival struct {
	p     *Pool
	user  action.User
	owner fence.Owner
}

// ErrArrived is returned by Arrive: the user is here already as that generation, or was.
var ErrArrived = errors.New("user has arrived")

// Arrive begins to move a user to this cell from another, as the given generation, or
// begins anew. Any other attempt finds that it is over.
func (p *Pool) Arrive(ctx context.Context, u action.User, from string, generation uint64) (*Arrival, error) {
	a := &Arrival{p: p, user: u}
	row, err := p.cfg.Store.Read(ctx, string(u), store.Span{Family: store.Outbox, To: action.Qualifier(1)})
	if err != nil {
		return nil, fmt.Errorf("arrive of %s: %w", u, err)
	}
	w, err := a.owner.Arrive(row.Fence, generation, newTag())
	switch has := row.Fence.Flags.Generation(); {
	case err != nil && row.Fence.Flags&store.Sealed == 0 && has == generation:
		return nil, fmt.Errorf("arrive of %s: %w", u, ErrArrived)
	case err != nil && row.Fence.Flags&store.Sealed != 0:
		return nil, fmt.Errorf("arrive of %s as generation %d: %w", u, generation, elsewhere(row))
	case err != nil:
		return nil, fmt.Errorf("arrive of %s as generation %d: it is here as generation %d: %w", u, generation, has, ErrLost)
	}
	if err := a.settle(ctx, w, []store.Cell{{Family: store.Outbox, Qualifier: []byte(otherCell), Value: []byte(from)}}); err != nil {
		return nil, err
	}
	return a, a.clear(ctx)
}

// clear removes what is left of an earlier stay: all but the log, which is a beginning
// of the one that comes.
func (a *Arrival) clear(ctx context.Context) error {
	spans := []store.Span{{Family: store.Metadata}, {Family: store.Keywords}, {Family: store.Outbox, From: action.Qualifier(1)}}
	for {
		row, err := a.p.cfg.Store.Read(ctx, string(a.user), spans...)
		if err != nil {
			return fmt.Errorf("arrive of %s: %w", a.user, err)
		}
		if len(row.Cells) == 0 && len(row.Rest) == 0 {
			return nil
		}
		for i := range row.Cells {
			row.Cells[i].Value = nil
		}
		if err := a.Put(ctx, row.Cells); err != nil {
			return err
		}
	}
}

// Put writes cells of the old row.
func (a *Arrival) Put(ctx context.Context, cells []store.Cell) error {
	return a.settle(ctx, a.owner.Commit(0, newTag()), cells)
}

// Open makes the row the user's, whose log has so many actions.
func (a *Arrival) Open(ctx context.Context, seq uint64) error {
	return a.settle(ctx, a.owner.Open(seq, newTag()), []store.Cell{{Family: store.Outbox, Qualifier: []byte(otherCell)}})
}

func (a *Arrival) settle(ctx context.Context, w fence.Write, cells []store.Cell) error {
	step, err := settle(ctx, a.p.cfg.Store, string(a.user), &a.owner, w, cells)
	if step != fence.Won {
		return fmt.Errorf("arrive of %s: %w", a.user, errors.Join(err, ErrLost))
	}
	return nil
}
