package mailbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

func newTag() (t store.Tag) {
	_, _ = rand.Read(t[:]) // never fails
	return t
}

// load fills the box. owner is the hold on the row from before, if there is one. All
// who wait for the mailbox wait for this, so that it has a limit of its own.
func (b *box) load(ctx context.Context, owner fence.Owner) {
	ctx, cancel := context.WithTimeout(ctx, b.p.cfg.StoreTimeout)
	defer cancel()
	result, err := b.tryLoad(ctx, owner)
	b.p.metrics.loads.WithLabelValues(result).Inc()
	if err != nil {
		b.p.mu.Lock()
		b.loadErr = fmt.Errorf("load mailbox of %s: %w", b.user, err)
		b.p.forget(b) // before anyone can ask for it again
		b.p.mu.Unlock()
		close(b.loaded)
		return
	}
	b.mu.Lock()
	size := b.size()
	b.deliver() // whose goroutines have the box from here on
	b.mu.Unlock()
	close(b.loaded)
	b.p.grew(b, size)
}

func (b *box) tryLoad(ctx context.Context, owner fence.Owner) (result string, err error) {
	defer func() {
		// A row that makes the decoder panic is that user's misfortune alone.
		if v := recover(); v != nil {
			result, err = "corrupt", fmt.Errorf("%w: %v", ErrCorrupt, v)
		}
	}()
	result = "kept"
	if owner.State() == fence.Owning {
		whole, err := b.fill(ctx, &owner)
		if err != nil {
			return failure(err), err
		}
		if whole {
			b.owner, b.held = owner, owner.Held()
			return result, nil
		}
	}
	result = "claimed"
	for {
		owner = fence.Owner{}
		if err := b.claim(ctx, &owner); err != nil {
			return failure(err), err
		}
		whole, err := b.fill(ctx, &owner)
		if err != nil {
			return failure(err), err
		}
		if whole {
			b.owner, b.held = owner, owner.Held()
			return result, nil
		}
	}
}

func failure(err error) string {
	switch {
	case errors.Is(err, ErrCorrupt):
		return "corrupt"
	case errors.Is(err, ErrLost):
		return "lost"
	}
	return "failed"
}

// claim takes the row.
func (b *box) claim(ctx context.Context, owner *fence.Owner) error {
	for {
		row, err := b.p.cfg.Store.Read(ctx, string(b.user))
		if err != nil {
			return fmt.Errorf("read the fence: %w", err)
		}
		if row.Fence == (store.Fence{}) && b.p.cfg.Begin != nil {
			if err := b.p.cfg.Begin(ctx, b.user); err != nil {
				return fmt.Errorf("begin a mailbox: %w", err)
			}
		}
		claim, view := owner.Claim, row.Fence.Ring
		switch {
		case b.p.cfg.Job:
			claim = owner.Force
		case b.p.cfg.View != nil:
			view = b.p.cfg.View()
		}
		w, err := claim(row.Fence, view, newTag())
		if errors.Is(err, fence.ErrSealed) {
			row, err := b.p.cfg.Store.Read(ctx, string(b.user), store.Span{Family: store.Outbox, To: action.Qualifier(1)})
			if err != nil {
				return fmt.Errorf("claim: read where the user has gone: %w", err)
			}
			if row.Fence.Flags&store.Sealed == 0 { // it came back meanwhile
				continue
			}
			moved := elsewhere(row)
			if row.Fence.Flags&store.Arriving == 0 {
				b.p.cfg.Departed(b.user, moved)
			}
			return fmt.Errorf("claim: %w", moved)
		}
		if err != nil { // claimed by a newer ring
			return fmt.Errorf("claim: %w: %w", ErrLost, err)
		}
		step, err := b.settle(ctx, owner, w, nil)
		switch step {
		case fence.Won:
			return nil
		case fence.Lost, fence.Fenced: // another was faster
			if err := pause.For(ctx, time.Millisecond); err != nil {
				return fmt.Errorf("claim: %w", err)
			}
		case fence.NotWritten:
			return fmt.Errorf("claim: %w: %w", ErrOverloaded, err)
		default:
			return fmt.Errorf("claim: %w", err)
		}
	}
}

// settle makes a put, again where that is called for, until it is known what came of
// it. The step is Won, NotWritten, Fenced or Lost; or zero with why it could not be
// learned before ctx ended, and the owner is Out then.
func (b *box) settle(ctx context.Context, owner *fence.Owner, w fence.Write, cells []store.Cell) (fence.Step, error) {
	return settle(ctx, b.p.cfg.Store, string(b.user), owner, w, cells)
}

func settle(ctx context.Context, s store.Store, user string, owner *fence.Owner, w fence.Write, cells []store.Cell) (fence.Step, error) {
	wait := time.Millisecond
	for {
		err := s.Put(ctx, user, w.Cur, w.Next, cells)
		step := owner.Answer(err)
		for step == fence.ReadBack {
			row, readErr := s.Read(ctx, user)
			if readErr == nil {
				step = owner.Saw(row.Fence)
				break
			}
			if pause.For(ctx, wait) != nil {
				owner.Drop()
				return 0, fmt.Errorf("%w: put: %v, and reading back: %v", ErrUnknown, err, readErr)
			}
			wait = min(2*wait, 200*time.Millisecond)
		}
		if step != fence.Again {
			return step, err
		}
		if pause.For(ctx, wait) != nil {
			owner.Drop()
			return 0, fmt.Errorf("%w: put: %v", ErrUnknown, err)
		}
		wait = min(2*wait, 200*time.Millisecond)
	}
}

// fill reads the row and folds what its metadata lags behind. It reports false if
// the row is another's by now.
func (b *box) fill(ctx context.Context, owner *fence.Owner) (whole bool, err error) {
	b.repair, b.log = nil, newRecent() // of an attempt before, which another server ended
	// The log is read from its end back, as far as metadata may lag: mostly all that
	// is to be replayed comes with the rest.
	first := uint64(1)
	if lag := uint64(4 * b.p.cfg.FlushActions); owner.Held().Seq > lag {
		first = owner.Held().Seq - lag + 1
	}
	spans := []store.Span{
		{Family: store.Actions, From: action.Qualifier(first)},
		{Family: store.Metadata}, {Family: store.Keywords}, {Family: store.Outbox, From: action.Qualifier(1)},
	}
	row, same, err := store.ReadAll(ctx, b.p.cfg.Store, string(b.user), spans...)
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if !owner.Loaded(row.Fence) || !same {
		owner.Drop()
		return false, nil
	}
	cells, words := index.NewCells(indexCells(row.Of(store.Metadata))...), index.NewCells(indexCells(row.Of(store.Keywords))...)
	logged, err := decodeLog(row.Of(store.Actions))
	if err != nil {
		return false, err
	}
	earlier := func(from uint64) error {
		if from >= first {
			return nil
		}
		more, same, err := store.ReadAll(ctx, b.p.cfg.Store, string(b.user),
			store.Span{Family: store.Actions, From: action.Qualifier(from), To: action.Qualifier(first)})
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
		if !same || more.Fence != row.Fence {
			return errGone
		}
		before, err := decodeLog(more.Cells)
		logged, first = append(before, logged...), from
		return err
	}
	if err := b.fold(cells, words, row.Fence.Seq, &logged, earlier); errors.Is(err, errGone) {
		owner.Drop()
		return false, nil
	} else if err != nil {
		return false, err
	}
	for _, c := range row.Of(store.Outbox) {
		e, err := action.DecodeEntry(c.Qualifier, c.Value)
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		b.outbox.add(b.p, e)
	}
	return true, nil
}

// fold makes what the box serves from what the store has and the log. earlier sees
// that the log is there from a sequence on.
func (b *box) fold(cells, words *index.Cells, end uint64, logged *[]action.Action, earlier func(from uint64) error) error {
	corrupt := func(err error) error { return fmt.Errorf("%w: %w", ErrCorrupt, err) }
	have, err := index.VersionOf(cells)
	if err != nil {
		return corrupt(err)
	}
	// Metadata of an older schema, and what was left half written of a newer one, is
	// made anew from the whole log.
	if have.Schema < b.p.cfg.Schema && cells.Len() > 0 {
		if err := earlier(1); err != nil {
			return err
		}
		made, err := index.Rebuild(b.p.cfg.Schema, slices.Values(*logged))
		if err != nil {
			return corrupt(err)
		}
		b.repair = append(b.repair, repair(store.Metadata, cells, made)...)
		cells = made
	}
	meta, err := index.NewBatch(cells, b.p.cfg.Schema)
	if err != nil {
		return corrupt(err)
	}
	found, err := search.VersionOf(words)
	if err == nil && words.Len() > 0 && (found.Sequence == 0 || found.Language != b.p.cfg.Language) {
		err = search.ErrLanguage
	}
	again := errors.Is(err, search.ErrLanguage)
	if err != nil && !again {
		return corrupt(err)
	}
	from := meta.Version().Sequence + 1
	if again {
		from = 1
	} else {
		from = min(from, found.Sequence+1)
	}
	if err := earlier(from); err != nil {
		return err
	}
	replayed := 0
	for _, a := range *logged {
		b.log.add(a)
		if a.Sequence == meta.Version().Sequence+1 {
			if err := meta.Apply(a); err != nil {
				return corrupt(err)
			}
			replayed++
		}
	}
	view, err := index.Open(meta)
	if err != nil {
		return corrupt(err)
	}
	if again {
		made, err := search.Rebuild(b.p.analyzer, slices.Values(*logged), view)
		if err != nil {
			return corrupt(err)
		}
		b.repair = append(b.repair, repair(store.Keywords, words, made)...)
		words = made
	}
	keys, err := search.NewBatch(words, b.p.analyzer)
	if err != nil {
		return corrupt(err)
	}
	for _, a := range *logged {
		if a.Sequence == keys.Version().Sequence+1 {
			if err := keys.Apply(a, view); err != nil {
				return corrupt(err)
			}
		}
	}
	if meta.Version().Sequence != end || keys.Version().Sequence != end {
		return fmt.Errorf("%w: the fence says %d actions, metadata and log %d, keywords and log %d",
			ErrCorrupt, end, meta.Version().Sequence, keys.Version().Sequence)
	}
	b.cells, b.words, b.meta, b.keys = cells, words, meta, keys
	if len(b.repair) > 0 || meta.Len() > 0 || keys.Len() > 0 {
		b.since = time.Now()
	}
	b.p.metrics.replayed.Add(float64(replayed))
	return nil
}

// versionCell is where metadata and keywords have their versions: without one they are
// made anew when they are loaded.
const versionCell = 'v'

// repair returns what turns the cells of a family into others, in an order in which
// they may be put piece by piece: without their version while that is under way, so
// that a load in between begins anew.
func repair(f store.Family, from, to *index.Cells) []store.Cell {
	version := []byte{versionCell}
	cells := []store.Cell{{Family: f, Qualifier: version}}
	for _, c := range index.Diff(from, to) {
		if string(c.Qualifier) != string(version) {
			cells = append(cells, store.Cell{Family: f, Qualifier: c.Qualifier, Value: c.Value})
		}
	}
	return append(cells, store.Cell{Family: f, Qualifier: version, Value: to.Get(version)})
}

func decodeLog(cells []store.Cell) ([]action.Action, error) {
	logged := make([]action.Action, 0, len(cells))
	for _, c := range cells {
		a, err := action.Decode(c.Value)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if string(action.Qualifier(a.Sequence)) != string(c.Qualifier) {
			return nil, fmt.Errorf("%w: action %d stands at another's place", ErrCorrupt, a.Sequence)
		}
		logged = append(logged, a)
	}
	return logged, nil
}

func indexCells(cells []store.Cell) []index.Cell {
	out := make([]index.Cell, len(cells))
	for i, c := range cells {
		out[i] = index.Cell{Qualifier: c.Qualifier, Value: c.Value}
	}
	return out
}
