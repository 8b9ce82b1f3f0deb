// Package mailbox is the synchronisation point of the application server: the one
// place where a user's data is read and written. A Pool holds the mailboxes of the
// users that this server is serving now, each a fold of its action log.
//
// # One mailbox
//
// A mailbox is loaded on first use: its row is claimed, its metadata read, and what
// the metadata lags behind the log is replayed. From then on it is served from
// memory. Its mutations are put in a queue; those that wait while a put is under way
// go together in the next one (group commit). One put is on its way at a time, and a
// mutation is acknowledged when its put is durable, not before; until then no read
// shows it. Metadata and keywords are written later, in batches, and are no truth.
//
// # Whose mailbox
//
// Who may write a row is decided by its fence alone (package fence). A server that
// has lost a row notices by its next put, or by its next strict read, and drops what
// it holds in memory.
//
// # Isolation
//
// Mailboxes share the pool's cache and the store, and nothing else: one that is slow
// to load, corrupt, or has a long queue, delays no other.
package mailbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"darklaunch/appserver/action"
	"darklaunch/appserver/fence"
	"darklaunch/appserver/index"
	"darklaunch/appserver/search"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// What the methods of Pool return, wrapped.
var (
	// ErrUnknown: a mutation was begun, and its fate could not be learned. It may have
	// happened, or may yet. Its repetition under the same key finds out.
	ErrUnknown = errors.New("outcome unknown")
	// ErrLost: the mailbox is another server's, or was just now. Nothing was done.
	ErrLost = errors.New("mailbox is another server's")
	// ErrOverloaded: the mailbox's queue is full, or the store refuses writes. Nothing
	// was done.
	ErrOverloaded = errors.New("overloaded")
	// ErrKeyReused: the key was used for another request.
	ErrKeyReused = errors.New("idempotency key was used for another request")
	// ErrCorrupt: the row holds what no server wrote, or a newer one. It stays as it is.
	ErrCorrupt = errors.New("mailbox cannot be read")
	// ErrClosed: the pool is being closed. Nothing was done.
	ErrClosed = errors.New("pool is closed")
	// ErrLate: the watcher is too many events behind, or the mailbox has moved.
	ErrLate = errors.New("watch has ended")
)

// Moved is the error that says that the user is in another cell; it is an ErrLost.
// Nothing was done.
type Moved struct {
	// Cell where the user is, or to where it was.
	Cell string
	// Generation of that place: how often the user had been moved by then.
	Generation uint64
}

func (m *Moved) Error() string { return "mailbox is in cell " + m.Cell }

// Unwrap returns ErrLost.
func (*Moved) Unwrap() error { return ErrLost }

// Config of a Pool.
type Config struct {
	// Store keeps the rows. It is the caller's to close, after Run has returned.
	Store store.Store
	// View is the members as this server sees them, for claims. Nil: it is alone, and
	// claims whatever the members were by whom a row was claimed before.
	View func() store.Ring
	// Begin is asked before the first claim of a row that nobody has written yet, and may
	// refuse with an error: a *Moved, if the user is another cell's. Nil: any may begin.
	Begin func(ctx context.Context, u action.User) error
	// Mine reports whether this server should serve a user, as it sees the members; for
	// others it answers ErrLost. Nil: it serves everybody.
	Mine func(action.User) bool
	// Moved returns a channel that is closed when Mine may have changed. Mailboxes that
	// are another's are handed over then. Nil: it never does.
	Moved func() <-chan struct{}
	// Departed is told of a user who was asked for and has left this cell: to where, and
	// as which generation. It returns at once. Nil: nobody wants to know.
	Departed func(u action.User, to *Moved)
	// Job: the pool is an offline job's. It claims a row by whichever ring that was
	// claimed, so that any server takes it back as soon as it is asked for it.
	Job bool
	// Deliver brings an entry of a mailbox's outbox to its recipient, and returns when
	// the recipient's mailbox holds it durably. It is repeated until it returns nil, so
	// that it must not matter how often. Nil: there are no deliveries.
	Deliver func(ctx context.Context, from action.User, e action.Entry, a action.Action, members []action.MemberState, t index.Thread) error
	// Delivers reports whether Deliver knows how to reach somebody; entries for others
	// stay in the outbox. Nil: everybody.
	Delivers func(action.Participant) bool

	// Strict makes each read compare the row's fence in the store first, so that no
	// answer is older than another server's write. Nil: reads trust the last put.
	Strict func() bool
	// CacheBytes bounds the mailboxes in memory. Zero means 256 MiB.
	CacheBytes int64
	// Schema of metadata that is made. Zero means index.Latest.
	Schema index.Schema
	// Language of keywords; see search.NewAnalyzer.
	Language string
	// MaxBody is the limit of a body in the log, in bytes. Zero means action.DefaultMaxBody.
	MaxBody int
	// MaxQueue bounds the mutations of one mailbox that wait. Zero means 1024.
	MaxQueue int
	// MaxCommit bounds the mutations in one put. Zero means 128.
	MaxCommit int
	// FlushActions is how many actions metadata may lag behind before it is written
	// with the next put, and FlushAfter how long. Zero means 256 and 2s.
	FlushActions int
	FlushAfter   time.Duration
	// StoreTimeout bounds a put with all its repetitions, and a load. Zero means 10s.
	StoreTimeout time.Duration
	// Now is the clock of log times. Nil means time.Now.
	Now func() time.Time
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
	// Log may be nil.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.CacheBytes == 0 {
		c.CacheBytes = 256 << 20
	}
	if c.Schema == 0 {
		c.Schema = index.Latest
	}
	if c.MaxQueue == 0 {
		c.MaxQueue = 1024
	}
	if c.MaxCommit == 0 {
		c.MaxCommit = 128
	}
	if c.FlushActions == 0 {
		c.FlushActions = 256
	}
	if c.FlushAfter == 0 {
		c.FlushAfter = 2 * time.Second
	}
	if c.StoreTimeout == 0 {
		c.StoreTimeout = 10 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Mine == nil {
		c.Mine = func(action.User) bool { return true }
	}
	if c.Moved == nil {
		c.Moved = func() <-chan struct{} { return nil }
	}
	if c.Departed == nil {
		c.Departed = func(action.User, *Moved) {}
	}
	if c.Strict == nil {
		c.Strict = func() bool { return false }
	}
	if c.Delivers == nil {
		c.Delivers = func(action.Participant) bool { return c.Deliver != nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// A Pool is the mailboxes of a server. Its methods may be called from any number of
// goroutines, while Run runs.
type Pool struct {
	cfg      Config
	analyzer *search.Analyzer
	metrics  *metrics
	ctx      context.Context // of all that the pool does by itself
	stop     context.CancelFunc
	wg       sync.WaitGroup // all goroutines

	mu     sync.Mutex
	boxes  *simplelru.LRU[action.User, *box]
	owned  *simplelru.LRU[action.User, fence.Owner] // rows of mailboxes no longer in memory
	bytes  int64                                    // of boxes
	closed bool

	preloads int // under way

	rescan chan struct{} // asks redeliver for another round; holds one
	owing  atomic.Bool   // mailboxes have left memory before their outboxes were empty
}

// maxOwned bounds the rows that the pool remembers owning, some 200 bytes each.
const maxOwned = 1 << 16

// New returns a Pool. The error is of the configuration.
func New(cfg Config) (*Pool, error) {
	cfg = cfg.withDefaults()
	analyzer, err := search.NewAnalyzer(cfg.Language)
	if err != nil {
		return nil, fmt.Errorf("mailbox: %w", err)
	}
	p := &Pool{cfg: cfg, analyzer: analyzer, metrics: newMetrics(cfg.Registerer, cfg.CacheBytes), rescan: make(chan struct{}, 1)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	// The bounds of both are kept here; those of the library count entries alone.
	p.boxes, _ = simplelru.NewLRU[action.User, *box](1<<31-1, nil)
	p.owned, _ = simplelru.NewLRU[action.User, fence.Owner](maxOwned, nil)
	return p, nil
}

// Run delivers what outboxes hold from before, writes metadata that has waited long
// enough, and returns nil after ctx has ended and all that the pool has begun has too.
// Mutations under way are finished first.
func (p *Pool) Run(ctx context.Context) error {
	if p.cfg.Deliver != nil {
		p.wg.Go(p.redeliver)
	}
	tick := time.NewTicker(p.cfg.FlushAfter / 2)
	defer tick.Stop()
	for {
		moved := p.cfg.Moved()
		if p.moved() {
			p.wg.Go(func() { _, _ = p.HandOver(p.ctx) }) // which is the end of this pool, or not
		}
		select {
		case <-ctx.Done():
			p.close()
			return nil
		case <-moved:
			select {
			case p.rescan <- struct{}{}: // for users who are this server's now
			default:
			}
		case <-tick.C:
			p.flushOld()
		}
	}
}

func (p *Pool) close() {
	p.mu.Lock()
	p.closed = true
	boxes := p.boxes.Values()
	p.mu.Unlock()
	for _, b := range boxes {
		b.flushNow()
	}
	for _, b := range boxes {
		b.idle()
	}
	p.stop()
	for _, b := range boxes {
		if <-b.loaded; b.loadErr == nil {
			b.drop(ErrClosed)
		}
	}
	p.wg.Wait()
}

func (p *Pool) flushOld() {
	p.mu.Lock()
	boxes := p.boxes.Values()
	p.mu.Unlock()
	for _, b := range boxes {
		b.flushIfOld(time.Now())
	}
}

// redeliver delivers what outboxes hold: at the start, whenever members have changed, and
// after mailboxes had to leave memory before all was delivered.
func (p *Pool) redeliver() {
	tick := time.NewTicker(lastPause)
	defer tick.Stop()
	for again := true; ; {
		if again {
			p.redeliverAll()
		}
		select {
		case <-p.rescan:
			again = true
		case <-tick.C:
			again = p.owing.Swap(false)
		case <-p.ctx.Done():
			return
		}
	}
}

// overfull reports whether mailboxes take more memory than they may.
func (p *Pool) overfull() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.evict()
	return p.bytes > p.cfg.CacheBytes
}

// redeliverAll loads the mailboxes whose outboxes hold something, so that it is
// delivered though their users stay away.
func (p *Pool) redeliverAll() {
	// What precedes the first entry is no entry.
	span := store.Span{Family: store.Outbox, From: action.Qualifier(1), Limit: 1}
	for left := (store.Range{}); p.ctx.Err() == nil; {
		var err error
		var row store.Row
		for row, err = range p.cfg.Store.Scan(p.ctx, left, span) {
			if err != nil {
				break
			}
			left = left.After(row.User)
			u := action.User(row.User)
			if len(row.Of(store.Outbox)) == 0 || row.Fence.Flags&store.Sealed != 0 || !u.Valid() {
				continue
			}
			// Those whose recipients cannot be reached come and go, not all at once.
			for wait := 0; wait < 30 && p.overfull(); wait++ {
				_ = pause.For(p.ctx, 100*time.Millisecond)
			}
			err := p.Read(p.ctx, u, func(*State) error { return nil })
			if errors.Is(err, ErrClosed) {
				return
			}
			if errors.Is(err, ErrLost) { // whose it is delivers
				continue
			}
			if err != nil && p.ctx.Err() == nil {
				p.cfg.Log.Warn("outbox cannot be delivered", "user", row.User, "err", err)
			}
		}
		if err == nil {
			return
		}
		p.cfg.Log.Warn("outboxes cannot be read, trying again", "err", err)
		_ = pause.For(p.ctx, time.Second)
	}
}

// State is a mailbox as a read sees it.
type State struct {
	// View answers by metadata, Words finds keywords.
	View  index.View
	Words index.Reader
}

// Read loads u's mailbox if need be and calls f with its state, which is f's until it
// returns. f must not wait for anything. It returns what f does, or ErrLost, ErrCorrupt,
// ErrClosed, or why the store could not be asked.
func (p *Pool) Read(ctx context.Context, u action.User, f func(*State) error) error {
	return p.with(ctx, u, func(b *box) error {
		if p.cfg.Strict() {
			if err := b.confirm(ctx); err != nil {
				return err
			}
		}
		return b.read(f)
	})
}

// with calls f with a loaded mailbox; again, if that turns out to be another's by
// then.
func (p *Pool) with(ctx context.Context, u action.User, f func(*box) error) error {
	for attempt := 0; ; attempt++ {
		b, err := p.get(ctx, u)
		if err == nil {
			err = f(b)
			p.release(b)
		}
		if !errors.Is(err, errGone) {
			return err
		}
		if attempt >= 3 {
			return fmt.Errorf("mailbox of %s: %w", u, ErrLost)
		}
		if err := pause.For(ctx, time.Duration(attempt)*20*time.Millisecond); err != nil {
			return err
		}
	}
}

// errGone says that a box is out of date and the mailbox is to be loaded anew.
// Nothing was done.
var errGone = errors.New("mailbox was dropped from memory")

// get returns u's mailbox, loaded, and keeps it in memory until it is released.
func (p *Pool) get(ctx context.Context, u action.User) (*box, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	if !p.cfg.Mine(u) {
		p.mu.Unlock()
		return nil, fmt.Errorf("mailbox of %s: %w", u, ErrLost)
	}
	b, hit := p.boxes.Get(u)
	if !hit {
		b = newBox(p, u)
		p.boxes.Add(u, b)
		owner, _ := p.owned.Peek(u)
		p.owned.Remove(u)
		traced := inTrace(p.ctx, ctx)
		p.wg.Go(func() { b.load(traced, owner) })
	}
	b.pins++
	p.mu.Unlock()
	p.metrics.lookup(hit)
	select {
	case <-b.loaded:
	case <-ctx.Done():
		p.release(b)
		return nil, fmt.Errorf("load mailbox of %s: %w", u, ctx.Err())
	}
	if b.loadErr != nil {
		err := b.loadErr
		p.release(b)
		return nil, err
	}
	return b, nil
}

func (p *Pool) release(b *box) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b.pins--
	p.evict()
}

// grew accounts for what a mailbox holds now.
func (p *Pool) grew(b *box, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at, ok := p.boxes.Peek(b.user); !ok || at != b {
		return
	}
	p.bytes += bytes - b.bytes
	b.bytes = bytes
	p.metrics.size.Set(float64(p.bytes))
	p.evict()
}

// evict lets the mailboxes go that were used least recently until the cache is
// within its bound; those in use stay. What was not flushed is replayed when it is
// loaded again. The caller holds p.mu.
func (p *Pool) evict() {
	if p.bytes <= p.cfg.CacheBytes {
		return
	}
	for _, u := range p.boxes.Keys() { // oldest first
		b, _ := p.boxes.Peek(u)
		if b.pins > 0 {
			continue
		}
		owner, ok := b.retire()
		if !ok {
			continue
		}
		p.forget(b)
		p.owned.Add(u, owner)
		p.metrics.evictions.WithLabelValues("size").Inc()
		if p.bytes <= p.cfg.CacheBytes {
			return
		}
	}
}

// forget takes b out of the pool. The caller holds p.mu.
func (p *Pool) forget(b *box) {
	if at, ok := p.boxes.Peek(b.user); ok && at == b {
		p.boxes.Remove(b.user)
		p.bytes -= b.bytes
		p.metrics.size.Set(float64(p.bytes))
	}
}

// inTrace is ctx in the trace of a call, for what is done on its behalf and outlives it.
func inTrace(ctx, call context.Context) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.SpanContextFromContext(call))
}
