package mailbox

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"darklaunch/appserver/fence"
	"darklaunch/appserver/store"
)

// errMoved says that a mailbox was handed over.
var errMoved = errors.New("mailbox was handed over")

// HandOver gives up the mailboxes in memory that are another server's by now: what they
// have under way is finished, what is not flushed is flushed, and the fence says by
// which ring they were left, so that no server that sees an older one claims them. It
// returns how many there were, when that is done; or ctx's error. Users of those
// mailboxes hear ErrLost from when they are another's.
func (p *Pool) HandOver(ctx context.Context) (int, error) {
	var leaving []*box
	p.mu.Lock()
	for _, u := range p.owned.Keys() {
		if !p.cfg.Mine(u) {
			p.owned.Remove(u) // it was flushed as far as it was to be
		}
	}
	for _, b := range p.boxes.Values() {
		if !p.cfg.Mine(b.user) {
			leaving = append(leaving, b)
		}
	}
	p.mu.Unlock()
	done := make(chan struct{})
	p.wg.Go(func() {
		defer close(done)
		var wg sync.WaitGroup
		for _, b := range leaving {
			wg.Go(b.leave)
		}
		wg.Wait()
	})
	select {
	case <-done:
		return len(leaving), nil
	case <-ctx.Done():
		return len(leaving), fmt.Errorf("hand over %d mailboxes: %w", len(leaving), ctx.Err())
	}
}

// moved reports whether a mailbox in memory is another server's.
func (p *Pool) moved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.boxes.Values() {
		if !p.cfg.Mine(b.user) {
			return true
		}
	}
	return false
}

// leave sees that the box is handed over, and returns when it is gone.
func (b *box) leave() {
	<-b.loaded
	if b.loadErr != nil {
		return
	}
	b.mu.Lock()
	if b.gone == nil {
		b.leaving, b.flushing = true, b.lag()
		b.kick()
	}
	b.mu.Unlock()
	b.idle()
}

// handOver gives the row up. It is called by write when there is nothing else to put.
func (b *box) handOver() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.p.ctx), b.p.cfg.StoreTimeout)
	defer cancel()
	var view store.Ring
	if b.p.cfg.View != nil {
		view = b.p.cfg.View()
	}
	b.mu.Lock()
	w := b.owner.HandOver(view, newTag())
	b.next = w.Next
	b.mu.Unlock()
	if step, err := b.settle(ctx, &b.owner, w, nil); step != fence.Won {
		b.p.cfg.Log.Debug("mailbox was left, not handed over", "user", b.user, "step", step, "err", err)
	}
	b.drop(errMoved)
}
