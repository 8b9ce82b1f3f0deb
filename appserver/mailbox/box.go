package mailbox

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// box is one mailbox in memory.
type box struct {
	p    *Pool
	user action.User

	pins  int   // who uses it; under p.mu
	bytes int64 // accounted for; under p.mu

	loaded  chan struct{} // closed when load has ended
	loadErr error         // then

	mu   sync.RWMutex
	gone error // why it is out of date; nil while it is not

	cells *index.Cells  // metadata as the store has it
	words *index.Cells  // keywords as the store has them
	meta  *index.Batch  // in front of cells: what is durable in the log and not flushed
	keys  *search.Batch // the same of words
	since time.Time     // of the oldest action not flushed; zero if there is none
	// repair is what cells and words have and the store has not, where they were made
	// anew: it is put piece by piece, before anything of meta and keys is flushed.
	repair []store.Cell
	log    *recent // actions, for bodies and repeated requests

	held, next store.Fence // the row's fence, and that of the put on its way, if there is one
	queue      []*mutation
	writing    bool          // a goroutine is in write
	quiet      chan struct{} // closed when it leaves; nil if nobody waits for that
	flushing   bool          // flush, however little there is
	leaving    bool          // then hand the mailbox over

	outbox   outbox
	watchers map[*watcher]struct{}

	owner fence.Owner // write's, or whoever holds mu while nobody writes
}

func newBox(p *Pool, u action.User) *box {
	return &box{p: p, user: u, loaded: make(chan struct{}), log: newRecent(), watchers: map[*watcher]struct{}{}}
}

// read calls f with what is durable.
func (b *box) read(f func(*State) error) (err error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	defer func() {
		// As for what is written: metadata that make a reader panic are one user's.
		if v := recover(); v != nil {
			b.p.cfg.Log.Error("mailbox cannot be read after a panic", "user", b.user, "panic", v)
			err = fmt.Errorf("mailbox of %s: %w: %v", b.user, ErrCorrupt, v)
		}
	}()
	if b.gone != nil {
		return errGone
	}
	view, err := index.Open(b.meta)
	if err != nil {
		return fmt.Errorf("mailbox of %s: %w: %w", b.user, ErrCorrupt, err)
	}
	return f(&State{View: view, Words: b.keys})
}

// confirm returns nil if the store says that the row is still this server's: so what
// the box holds now is not older than the row when confirm was called.
func (b *box) confirm(ctx context.Context) error {
	for {
		row, err := b.p.cfg.Store.Read(ctx, string(b.user))
		if err != nil {
			return fmt.Errorf("confirm mailbox of %s: %w", b.user, err)
		}
		b.mu.RLock()
		held, next, gone := b.held, b.next, b.gone
		b.mu.RUnlock()
		switch {
		case gone != nil:
			return errGone
		case row.Fence == held || row.Fence == next:
			return nil
		case row.Fence.Epoch < held.Epoch || row.Fence.Epoch == held.Epoch && row.Fence.Seq <= held.Seq:
			// A reader that is behind; or one that saw a put before the last, while that
			// was settled. Either is over soon.
			if err := pause.For(ctx, time.Millisecond); err != nil {
				return fmt.Errorf("confirm mailbox of %s: %w", b.user, err)
			}
		default:
			b.drop(ErrLost)
			return errGone
		}
	}
}

// drop makes the box out of date: whatever waits for it fails with what says that
// nothing was done.
func (b *box) drop(why error) {
	b.mu.Lock()
	if b.gone != nil {
		b.mu.Unlock()
		return
	}
	b.gone = why
	queue := b.queue
	b.queue = nil
	for w := range b.watchers {
		w.end()
	}
	clear(b.watchers)
	b.outbox.stop()
	b.mu.Unlock()
	again := errGone
	if why == ErrClosed {
		again = ErrClosed
	}
	for _, m := range queue {
		m.finish(Done{}, again)
	}
	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	b.p.forget(b)
	switch why {
	case ErrClosed:
	case errMoved:
		b.p.metrics.evictions.WithLabelValues("moved").Inc()
	default:
		b.p.metrics.evictions.WithLabelValues("lost").Inc()
	}
}

// retire makes the box out of date if nothing is under way in it, and returns the
// hold on the row that is kept. The caller holds p.mu, so that nobody begins to use it.
func (b *box) retire() (fence.Owner, bool) {
	select {
	case <-b.loaded:
	default:
		return fence.Owner{}, false
	}
	if !b.mu.TryLock() { // somebody uses it after all, whom p.mu must not wait for
		return fence.Owner{}, false
	}
	defer b.mu.Unlock()
	if b.gone != nil || b.writing || len(b.watchers) > 0 || b.outbox.busy() {
		return fence.Owner{}, false
	}
	b.gone = errGone
	if len(b.outbox.entries) > 0 {
		b.p.owing.Store(true) // it is found in the row again
	}
	b.outbox.stop()
	return b.owner, true
}

// size is about how much memory the box takes. The caller holds b.mu.
func (b *box) size() int64 {
	const overhead = 4 << 10
	return overhead + int64(b.cells.Bytes()+b.words.Bytes()+b.meta.Bytes()+b.keys.Bytes()) + b.log.size()
}

// Mutation is something to be done to a mailbox.
type Mutation struct {
	// Origin, Key and Request as in action.Action. With a key that the mailbox
	// remembers nothing is done again.
	Origin  action.Origin
	Key     string
	Request action.Digest
	// Channel by which it comes.
	Channel action.Channel
	// Decide returns what is to be appended to the log, at least one, by the mailbox as
	// it is when the mutation's turn has come; first is the sequence that the first of
	// them will have. An error of it is Mutate's, and nothing is done. It may be called
	// more than once, must not wait, and is only to use the view until it returns.
	Decide func(v index.View, first uint64, now action.Time) ([]action.Do, error)

	strip []action.Action // records that lose their contents by it
}

// Done says what a mutation came to.
type Done struct {
	// Last is its last action: the one with its key.
	Last action.Action
	// Repeated: it was done before, under the same key.
	Repeated bool
}

// mutation is a Mutation on its way.
type mutation struct {
	Mutation
	ctx  context.Context // of who waits
	done chan struct{}
	once sync.Once
	res  Done
	err  error

	refused bool // by what the mailbox was; set before done is closed
}

// refuse ends a mutation that the mailbox as it is does not allow.
func (m *mutation) refuse(err error) {
	m.refused = true
	m.finish(Done{}, err)
}

func (m *mutation) finish(d Done, err error) {
	m.once.Do(func() {
		m.res, m.err = d, err
		close(m.done)
	})
}

// Mutate does m to u's mailbox, and returns when it is durable. ErrUnknown, ErrLost,
// ErrOverloaded, ErrKeyReused, ErrCorrupt, ErrClosed, what Decide returned, and why
// the store could not be asked: only after the first, and after the end of ctx, may it
// have been done.
func (p *Pool) Mutate(ctx context.Context, u action.User, m Mutation) (Done, error) {
	var done Done
	err := p.with(ctx, u, func(b *box) error {
		var err error
		done, err = b.mutate(ctx, m)
		return err
	})
	return done, err
}

func (b *box) mutate(ctx context.Context, m Mutation) (Done, error) {
	w := &mutation{Mutation: m, ctx: ctx, done: make(chan struct{})}
	b.mu.Lock()
	switch {
	case b.gone != nil:
		b.mu.Unlock()
		return Done{}, errGone
	case len(b.queue) >= b.p.cfg.MaxQueue:
		b.mu.Unlock()
		return Done{}, fmt.Errorf("mailbox of %s: %d mutations wait: %w", b.user, len(b.queue), ErrOverloaded)
	}
	b.queue = append(b.queue, w)
	b.kick()
	b.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		if b.withdraw(w) {
			return Done{}, ctx.Err()
		}
		// Its put may be on its way, or have been made.
		select {
		case <-w.done:
		default:
			return Done{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
		}
	}
	if w.refused && b.p.cfg.Strict() {
		// A refusal tells what the mailbox is, as a read does.
		if err := b.confirm(ctx); err != nil {
			return Done{}, err
		}
	}
	return w.res, w.err
}

// withdraw takes a mutation out of the queue, and reports false if it is not there.
func (b *box) withdraw(w *mutation) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.queue, w)
	if i < 0 {
		return false
	}
	b.queue = slices.Delete(b.queue, i, i+1)
	return true
}

// kick sees that somebody writes what there is. The caller holds b.mu.
func (b *box) kick() {
	if !b.writing && b.gone == nil {
		b.writing = true
		b.p.wg.Go(b.write)
	}
}

// flushNow writes metadata, however little it lags.
func (b *box) flushNow() {
	select {
	case <-b.loaded:
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loadErr == nil && b.gone == nil && b.lag() {
		b.flushing = true
		b.kick()
	}
}

func (b *box) flushIfOld(now time.Time) {
	select {
	case <-b.loaded:
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.loadErr == nil && b.gone == nil && b.lag() && now.Sub(b.since) >= b.p.cfg.FlushAfter {
		b.flushing = true
		b.kick()
	}
}

// idle waits until nobody writes.
func (b *box) idle() {
	b.mu.Lock()
	if !b.writing {
		b.mu.Unlock()
		return
	}
	if b.quiet == nil {
		b.quiet = make(chan struct{})
	}
	quiet := b.quiet
	b.mu.Unlock()
	<-quiet
}

// lag reports whether there is something to flush. The caller holds b.mu.
func (b *box) lag() bool {
	return len(b.repair) > 0 || b.meta.Len() > 0 || b.keys.Len() > 0 || b.outbox.stale()
}

// recent is the newest actions of a mailbox that were read or written. It is bounded
// by bytes, and safe for concurrent use.
type recent struct {
	mu      sync.Mutex
	actions *simplelru.LRU[uint64, action.Action]
	bytes   int64
}

// maxRecent bounds the actions kept of one mailbox, in bytes.
const maxRecent = 512 << 10

func newRecent() *recent {
	l, _ := simplelru.NewLRU[uint64, action.Action](1<<31-1, nil)
	return &recent{actions: l}
}

func weight(a action.Action) int64 {
	const overhead = 512
	n := int64(overhead)
	if m := action.MessageOf(a.Do); m != nil {
		n += int64(len(m.Body))
	}
	return n
}

func (r *recent) add(a action.Action) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.actions.Peek(a.Sequence); ok { // from before a purge, maybe
		r.bytes -= weight(old)
	}
	r.bytes += weight(a)
	r.actions.Add(a.Sequence, a)
	for r.bytes > maxRecent && r.actions.Len() > 1 {
		_, old, _ := r.actions.RemoveOldest()
		r.bytes -= weight(old)
	}
}

func (r *recent) size() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

func (r *recent) get(seq uint64) (action.Action, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.actions.Get(seq)
}

// Actions returns actions of u's log: from memory, or else by reads of the store, one
// for each stretch of the log that they are in. An action that was never there, or
// that was purged, is absent.
func (p *Pool) Actions(ctx context.Context, u action.User, sequences []uint64) (map[uint64]action.Action, error) {
	found := make(map[uint64]action.Action, len(sequences))
	err := p.with(ctx, u, func(b *box) error { return b.fetch(ctx, sequences, found) })
	return found, err
}

// near is how far apart two actions may be to be read at once.
const near = 16

func (b *box) fetch(ctx context.Context, sequences []uint64, found map[uint64]action.Action) error {
	var missing []uint64
	for _, seq := range sequences {
		if a, ok := b.log.get(seq); ok {
			found[seq] = a
		} else {
			missing = append(missing, seq)
		}
	}
	slices.Sort(missing)
	read := len(missing) > 0
	for len(missing) > 0 {
		n := 1
		for n < len(missing) && missing[n]-missing[n-1] <= near {
			n++
		}
		span := store.Span{Family: store.Actions, From: action.Qualifier(missing[0]), To: action.Qualifier(missing[n-1] + 1)}
		row, _, err := store.ReadAll(ctx, b.p.cfg.Store, string(b.user), span)
		if err != nil {
			return fmt.Errorf("read the log of %s: %w", b.user, err)
		}
		for _, c := range row.Cells {
			a, err := action.Decode(c.Value)
			if err != nil {
				return fmt.Errorf("log of %s: %w: %w", b.user, ErrCorrupt, err)
			}
			b.log.add(a)
			found[a.Sequence] = a
		}
		missing = missing[n:]
	}
	if read {
		b.mu.RLock()
		size := b.size()
		b.mu.RUnlock()
		b.p.grew(b, size)
	}
	return nil
}

// maxPreloads bounds the preloads under way.
const maxPreloads = 64

// Preload reads actions of u's log into memory, if they are not there, so that the
// next reads of them need no store. Nobody waits for it, and nobody hears if it fails,
// or if it is not begun because too many are under way.
func (p *Pool) Preload(u action.User, sequences []uint64) {
	if len(sequences) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.preloads >= maxPreloads {
		return
	}
	p.preloads++
	p.wg.Go(func() {
		defer func() {
			p.mu.Lock()
			p.preloads--
			p.mu.Unlock()
		}()
		ctx, cancel := context.WithTimeout(p.ctx, p.cfg.StoreTimeout)
		defer cancel()
		if _, err := p.Actions(ctx, u, sequences); err != nil {
			p.cfg.Log.Debug("not preloaded", "user", u, "err", err)
		}
	})
}
