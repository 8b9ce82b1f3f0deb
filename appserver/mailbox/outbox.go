package mailbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// outbox is what a mailbox owes: deliveries to others, in the order of its log. Each
// recipient's are made one after the other, so that a thread's messages reach every
// copy in order; those of different recipients do not wait for each other. All of it
// is guarded by the box's mu.
type outbox struct {
	entries []action.Entry              // due
	done    []action.Entry              // delivered; their cells are to be removed
	active  map[action.Participant]bool // recipients who have a goroutine
	waiting int                         // of those, who are waiting to try again for long
	changed chan struct{}               // closed when an entry is done, or the box dropped
	ended   chan struct{}               // closed when the box is dropped
	metrics *metrics
}

// maxDelivering bounds the recipients of a mailbox to whom it delivers at once.
const maxDelivering = 16

// The pause before a delivery is tried again grows from the first to the second.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 5 * time.Second
)

func (o *outbox) add(p *Pool, e action.Entry) {
	if !p.cfg.Delivers(e.To) {
		return // it stays in the row, for whoever does
	}
	if o.active == nil {
		o.active, o.metrics = map[action.Participant]bool{}, p.metrics
		o.changed, o.ended = make(chan struct{}), make(chan struct{})
	}
	o.entries = append(o.entries, e)
	o.metrics.entries.Inc()
}

// busy reports whether something is being delivered, rather than waiting for somebody
// who cannot be reached.
func (o *outbox) busy() bool { return len(o.active) > o.waiting }

// stale reports whether cells of the row are to be removed.
func (o *outbox) stale() bool { return len(o.done) > 0 }

// settled returns the entries whose cells are to be removed.
func (o *outbox) settled() []action.Entry { return slices.Clone(o.done) }

// remove forgets entries whose cells have been removed: the first there are.
func (o *outbox) remove(settled []action.Entry) { o.done = o.done[len(settled):] }

func (o *outbox) stop() {
	if o.ended != nil {
		o.metrics.entries.Sub(float64(len(o.entries)))
		o.entries = nil
		close(o.ended)
		close(o.changed)
	}
}

// first returns the oldest entry for somebody.
func (o *outbox) first(to action.Participant) (action.Entry, bool) {
	i := slices.IndexFunc(o.entries, func(e action.Entry) bool { return e.To == to })
	if i < 0 {
		return action.Entry{}, false
	}
	return o.entries[i], true
}

// deliver starts to deliver to those who are owed something. The caller holds b.mu.
func (b *box) deliver() {
	o := &b.outbox
	for _, e := range o.entries {
		if len(o.active) >= maxDelivering || b.gone != nil {
			return
		}
		if !o.active[e.To] {
			o.active[e.To] = true
			b.p.wg.Go(func() { b.deliverTo(e.To) })
		}
	}
}

// deliverTo makes the deliveries to one recipient until there are none.
func (b *box) deliverTo(to action.Participant) {
	ctx := b.p.ctx
	pause := firstPause
	for {
		b.mu.Lock()
		e, due := b.outbox.first(to)
		if !due || b.gone != nil {
			delete(b.outbox.active, to)
			b.deliver()
			b.mu.Unlock()
			return
		}
		ended := b.outbox.ended
		b.mu.Unlock()
		err := b.deliverOne(ctx, e)
		if err == nil {
			pause = firstPause
			b.delivered(e)
			continue
		}
		b.p.cfg.Log.Debug("delivery has to wait", "action", e.Sequence, "err", err)
		t := time.NewTimer(pause)
		b.patient(pause, 1)
		select {
		case <-t.C:
			b.patient(pause, -1)
		case <-ended:
			b.patient(pause, -1)
		case <-ctx.Done():
			b.patient(pause, -1)
			b.mu.Lock()
			delete(b.outbox.active, to)
			b.mu.Unlock()
			t.Stop()
			return
		}
		t.Stop()
		pause = min(2*pause, lastPause)
	}
}

// patient notes that one more recipient, or one less, waits for a pause that is long
// enough to let the mailbox go meanwhile.
func (b *box) patient(pause time.Duration, n int) {
	if pause < time.Second {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.outbox.waiting += n
}

func (b *box) deliverOne(ctx context.Context, e action.Entry) error {
	ctx, cancel := context.WithTimeout(ctx, b.p.cfg.StoreTimeout)
	defer cancel()
	found := map[uint64]action.Action{}
	if err := b.fetch(ctx, []uint64{e.Sequence}, found); err != nil {
		return err
	}
	a, ok := found[e.Sequence]
	if !ok {
		return fmt.Errorf("action %d is missing: %w", e.Sequence, ErrCorrupt)
	}
	var thread index.Thread
	var members []action.MemberState
	err := b.read(func(s *State) error {
		t, err := s.View.Thread(threadOf(a.Do))
		if err != nil || t == nil {
			return fmt.Errorf("thread of action %d: %w", e.Sequence, ErrCorrupt)
		}
		thread = *t
		members, err = s.View.Members(t)
		return err
	})
	if err != nil {
		return err
	}
	return b.p.cfg.Deliver(ctx, b.user, e, a, members, thread)
}

// threadOf is the thread that an action with deliveries is about.
func threadOf(do action.Do) string {
	switch d := do.(type) {
	case *action.Subscribed:
		return d.Thread
	case *action.Unsubscribed:
		return d.Thread
	}
	if m := action.MessageOf(do); m != nil {
		return m.Thread
	}
	return ""
}

func (b *box) delivered(e action.Entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := &b.outbox
	i := slices.Index(o.entries, e)
	if i < 0 { // the box was dropped meanwhile
		return
	}
	o.entries = slices.Delete(o.entries, i, i+1)
	o.done = append(o.done, e)
	if b.since.IsZero() {
		b.since = time.Now()
	}
	o.metrics.entries.Dec()
	o.metrics.delivery.Observe(b.p.cfg.Now().Sub(e.Time.Time()).Seconds())
	close(o.changed)
	o.changed = make(chan struct{})
}

// Delivered waits until all that the action of a sequence owes to those that Deliver
// reaches has been delivered, or ctx ends.
func (p *Pool) Delivered(ctx context.Context, u action.User, sequence uint64) error {
	return p.with(ctx, u, func(b *box) error {
		for {
			b.mu.RLock()
			due := slices.ContainsFunc(b.outbox.entries, func(e action.Entry) bool { return e.Sequence == sequence })
			changed, gone := b.outbox.changed, b.gone
			b.mu.RUnlock()
			switch {
			case gone != nil:
				return errGone
			case !due:
				return nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
}
