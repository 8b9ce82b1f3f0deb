package mailbox

import (
	"context"
	"fmt"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
)

// maxPutBytes is how many bytes of mutations, or of what is flushed, go into one
// put, a single one of either aside: far below store.MaxPut, so that both fit.
const maxPutBytes = 2 << 20

// write makes puts, one after the other, until there is nothing to put.
func (b *box) write() {
	for b.writeOne() {
	}
}

func (b *box) writeOne() (more bool) {
	b.mu.Lock()
	if b.gone == nil && b.leaving && len(b.queue) == 0 && !b.flushing {
		b.mu.Unlock()
		b.handOver()
		return true // to leave as one does
	}
	if b.gone != nil || len(b.queue) == 0 && !b.flushing {
		b.writing = false
		if b.quiet != nil {
			close(b.quiet)
			b.quiet = nil
		}
		b.mu.Unlock()
		return false
	}
	n := min(len(b.queue), b.p.cfg.MaxCommit)
	ops := b.queue[:n:n]
	b.queue = b.queue[n:]
	b.mu.Unlock()
	fate := ErrCorrupt
	defer func() {
		// A mailbox that makes the fold panic is that user's misfortune alone.
		if v := recover(); v != nil {
			b.p.cfg.Log.Error("mailbox dropped after a panic", "user", b.user, "panic", v)
			for _, m := range ops {
				m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: %v", b.user, fate, v))
			}
			b.drop(ErrCorrupt)
			more = true // to leave as one does
		}
	}()
	c := b.decide(ops)
	b.flush(c)
	if len(c.cells) > 0 || len(c.actions) > 0 {
		fate = ErrUnknown
		b.put(c)
	} else {
		c.answer(nil)
	}
	return true
}

// commit is one put and those who wait for it.
type commit struct {
	actions []action.Action
	ahead   *index.Batch // in which they are folded, in front of the box's meta
	entries []action.Entry
	cells   []store.Cell
	strip   []action.Action // that lose their contents
	waiting []waiting

	meta     index.Delta // flushed with it
	keys     index.Delta
	flushed  bool
	repaired int            // how many cells of the repair
	settled  []action.Entry // deliveries whose entries it removes
}

// waiting is a mutation, and what it came to if the put is won.
type waiting struct {
	*mutation
	done Done
}

// answer ends all who wait.
func (c *commit) answer(err error) {
	for _, w := range c.waiting {
		if err != nil {
			w.finish(Done{}, err)
		} else {
			w.finish(w.done, nil)
		}
	}
}

// decide turns mutations into actions, each by the mailbox as those before leave it.
// What is decided is not seen by anyone until it is durable: it is folded in front of
// what is.
func (b *box) decide(ops []*mutation) *commit {
	c := &commit{}
	b.mu.RLock() // against nobody: only this goroutine changes meta
	meta := b.meta
	b.mu.RUnlock()
	ahead, err := index.NewBatch(meta, b.p.cfg.Schema)
	c.ahead = ahead
	for i, m := range ops {
		if err == nil && len(c.cells) > 0 && bytesOf(c.cells) > maxPutBytes {
			b.putBack(ops[i:])
			break
		}
		if err != nil {
			m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrCorrupt, err))
			continue
		}
		err = b.decideOne(c, ahead, m)
	}
	return c
}

// decideOne returns an error if ahead is of no use any more.
func (b *box) decideOne(c *commit, ahead *index.Batch, m *mutation) error {
	if m.ctx.Err() != nil {
		m.finish(Done{}, m.ctx.Err()) // nobody waits any more, and nothing was done
		return nil
	}
	view, err := index.Open(ahead)
	if err != nil {
		m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrCorrupt, err))
		return err
	}
	if m.Key != "" {
		seen, err := view.Receipt(m.Origin, m.Key)
		if err != nil {
			m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrCorrupt, err))
			return err
		}
		if seen.Sequence > 0 {
			b.repeat(c, m, seen)
			return nil
		}
	}
	now := b.p.cfg.Now()
	at, _ := action.TimeOf(now)
	first := ahead.Version().Sequence + 1
	todo, err := m.Decide(view, first, at)
	if err != nil {
		m.refuse(err)
		return nil
	}
	var actions []action.Action
	var cells []store.Cell
	var entries []action.Entry
	for i, do := range todo {
		a := action.Action{Sequence: first + uint64(i), Time: at, Channel: m.Channel, Origin: m.Origin, Do: do}
		if i == len(todo)-1 {
			a.Key, a.Request = m.Key, m.Request
		}
		record, err := action.Append(nil, a, b.p.cfg.MaxBody)
		if err != nil {
			m.finish(Done{}, fmt.Errorf("mailbox of %s: %w", b.user, err))
			return nil
		}
		actions = append(actions, a)
		cells = append(cells, store.Cell{Family: store.Actions, Qualifier: action.Qualifier(a.Sequence), Value: record})
		for _, e := range action.Entries(b.user, a) {
			entries = append(entries, e)
			cells = append(cells, store.Cell{Family: store.Outbox, Qualifier: e.Qualifier(), Value: e.Value()})
		}
	}
	stripped, err := b.stripped(m.strip)
	if err != nil {
		m.finish(Done{}, fmt.Errorf("mailbox of %s: %w", b.user, err))
		return nil
	}
	for _, a := range actions {
		if err := ahead.Apply(a); err != nil {
			m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrCorrupt, err))
			return err
		}
	}
	c.actions = append(c.actions, actions...)
	c.cells = append(append(c.cells, cells...), stripped...)
	c.strip = append(c.strip, m.strip...)
	c.entries = append(c.entries, entries...)
	c.waiting = append(c.waiting, waiting{m, Done{Last: actions[len(actions)-1]}})
	return nil
}

// repeat answers a mutation that was done before: as it was then, or by the put at
// hand.
func (b *box) repeat(c *commit, m *mutation, seen index.Receipt) {
	if seen.Request != m.Request {
		m.refuse(fmt.Errorf("mailbox of %s: %w", b.user, ErrKeyReused))
		return
	}
	for _, a := range c.actions {
		if a.Sequence == seen.Sequence {
			c.waiting = append(c.waiting, waiting{m, Done{Last: a, Repeated: true}})
			return
		}
	}
	// The log may have to be read, which nobody else is to wait for.
	b.p.wg.Go(func() {
		found := map[uint64]action.Action{}
		err := b.fetch(m.ctx, []uint64{seen.Sequence}, found)
		if a, ok := found[seen.Sequence]; ok {
			m.finish(Done{Last: a, Repeated: true}, nil)
		} else if err == nil {
			m.finish(Done{}, fmt.Errorf("mailbox of %s: %w: action %d is missing", b.user, ErrCorrupt, seen.Sequence))
		} else {
			m.finish(Done{}, err)
		}
	})
}

// putBack returns mutations to the front of the queue.
func (b *box) putBack(ops []*mutation) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(append(make([]*mutation, 0, len(ops)+len(b.queue)), ops...), b.queue...)
}

func bytesOf(cells []store.Cell) (n int) {
	for _, c := range cells {
		n += len(c.Qualifier) + len(c.Value)
	}
	return n
}

// flush adds to a put what metadata lags behind, if it is time for that.
func (b *box) flush(c *commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	due := b.flushing || len(b.repair) > 0 && len(c.actions) == 0 ||
		b.meta.Version().Sequence-flushed(b.cells) >= uint64(b.p.cfg.FlushActions) || b.meta.Bytes()+b.keys.Bytes() > maxPutBytes
	if !due || len(c.strip) > 0 { // whose put takes the keywords' version away
		return
	}
	c.settled = b.outbox.settled()
	for _, e := range c.settled {
		c.cells = append(c.cells, store.Cell{Family: store.Outbox, Qualifier: e.Qualifier()})
	}
	if len(b.repair) > 0 {
		for size := 0; c.repaired < len(b.repair) && size < maxPutBytes; c.repaired++ {
			cell := b.repair[c.repaired]
			size += len(cell.Qualifier) + len(cell.Value)
			c.cells = append(c.cells, cell)
		}
		return
	}
	b.flushing = false
	keys, err := b.keys.Delta()
	if err != nil {
		b.p.cfg.Log.Error("keywords cannot be written", "user", b.user, "err", err)
		return
	}
	c.meta, c.keys, c.flushed = b.meta.Delta(), keys, true
	for _, cell := range c.meta {
		c.cells = append(c.cells, store.Cell{Family: store.Metadata, Qualifier: cell.Qualifier, Value: cell.Value})
	}
	for _, cell := range c.keys {
		c.cells = append(c.cells, store.Cell{Family: store.Keywords, Qualifier: cell.Qualifier, Value: cell.Value})
	}
}

func flushed(cells *index.Cells) uint64 {
	v, _ := index.VersionOf(cells) // a batch in front of them was opened
	return v.Sequence
}

// put makes the put, and does what its outcome calls for.
func (b *box) put(c *commit) {
	// What has been begun is finished, whoever has stopped waiting for it.
	ctx := context.WithoutCancel(b.p.ctx)
	if len(c.waiting) > 0 { // of those whose put it is, the first has it in its trace
		ctx = inTrace(ctx, c.waiting[0].ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, b.p.cfg.StoreTimeout)
	defer cancel()
	b.mu.Lock()
	w := b.owner.Commit(uint64(len(c.actions)), newTag())
	b.next = w.Next
	b.mu.Unlock()
	step, err := b.settle(ctx, &b.owner, w, c.cells)
	switch step {
	case fence.Won:
		b.p.metrics.commits.WithLabelValues("won").Inc()
		b.p.metrics.actions.Observe(float64(len(c.actions)))
		b.won(c)
	case fence.NotWritten:
		b.p.metrics.commits.WithLabelValues("refused").Inc()
		b.mu.Lock()
		b.next = store.Fence{}
		b.flushing = false
		b.mu.Unlock()
		c.answer(fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrOverloaded, err))
	case fence.Fenced:
		b.p.metrics.commits.WithLabelValues("fenced").Inc()
		b.p.metrics.fenced.Inc()
		b.drop(ErrLost)
		c.answer(errGone) // nothing was written: they are tried again, elsewhere if need be
	default:
		b.p.metrics.commits.WithLabelValues("unknown").Inc()
		if step == fence.Lost {
			b.p.metrics.fenced.Inc()
			err = fmt.Errorf("%w: another server has the row", ErrUnknown)
		}
		b.drop(ErrLost)
		c.answer(fmt.Errorf("mailbox of %s: %w", b.user, err))
	}
}

// won makes what a put has written what the mailbox is.
func (b *box) won(c *commit) {
	b.p.grew(b, b.apply(c))
	c.answer(nil)
}

// apply folds what was written, and returns the box's size then.
func (b *box) apply(c *commit) int64 {
	b.mu.Lock()
	defer b.mu.Unlock() // also where a fold panics
	b.held, b.next = b.owner.Held(), store.Fence{}
	b.repair = b.repair[c.repaired:]
	if c.flushed {
		b.cells.Apply(c.meta)
		b.words.Apply(c.keys)
		b.meta, b.keys, b.since = b.batches()
	}
	if len(c.actions) > 0 && b.since.IsZero() {
		b.since = time.Now()
	}
	b.outbox.remove(c.settled)
	if len(c.actions) > 0 {
		must(b.meta.Absorb(c.ahead))
		view, err := index.Open(b.meta)
		must(err)
		for _, a := range c.actions {
			must(b.keys.Apply(a, view))
			b.log.add(a)
		}
	}
	if len(c.strip) > 0 {
		b.strip(c.strip)
	}
	for _, e := range c.entries {
		b.outbox.add(b.p, e)
	}
	b.deliver()
	for w := range b.watchers {
		w.tell(c.actions)
	}
	return b.size()
}

// batches returns empty ones in front of what the store has.
func (b *box) batches() (*index.Batch, *search.Batch, time.Time) {
	meta, err := index.NewBatch(b.cells, b.p.cfg.Schema)
	must(err)
	keys, err := search.NewBatch(b.words, b.p.analyzer)
	must(err)
	return meta, keys, time.Time{}
}

// must panics for an error that only a bug can be the cause of; whoever commits
// drops the mailbox then.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
