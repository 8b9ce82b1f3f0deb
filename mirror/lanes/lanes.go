// Package lanes keeps the copies of users' exchanges in order between live and
// the roles that try them again.
//
// Each sampled user has a lane. A copy has a place in the lane of each of its
// users and leaves for a role when everything that ended on live before it
// began has been answered there. Shadow and control leave together when both
// can; one that is behind does not hold the other. What is held is bounded in
// copies, bytes, lanes and age. When a role can't keep up, users leave whole:
// the threshold of who is in falls, and rises again when it has been calm.
//
// The package also knows whose state on a role is known to equal live's. A user
// is clean until a role misses something unsafe that they did; copies of
// tainted users are sent but not judged.
//
// The decisions are made by a deterministic core; Lanes puts a lock, a clock
// and a directory around it. Sending itself is up to the caller:
//
//	for d, ok := l.Take(); ok; d, ok = l.Take() { // copies that are due
//		for _, role := range d.Roles() {           // in this order
//			judged, ok := l.Sent(d.Copy, role) // just before the first byte
//			...
//			l.Done(d.Copy, role, lanes.Did)    // answered: more may be due
//		}
//	}
//
// Who offers copies is on the way of live and must not wait for who sends them:
// an offer is put down, and taken in by whoever uses the lanes next.
package lanes

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/internal/hist"
)

// Config describes the lanes of one mirror.
type Config struct {
	// Sample and Admit are the shares, in ppm, of users who are compared and
	// who are mirrored. Admit below Sample means as Sample.
	Sample, Admit int32
	// Unsafe says which roles are offered unsafe copies. Users can be tainted
	// on these alone.
	Unsafe [NumRoles]bool

	// State is the directory in which it is kept who is clean; "" keeps nothing,
	// and each run is an experiment of its own.
	State string
	// Salt names the experiment. Another one than State holds starts a new one.
	Salt string
	// Seed decides which role leaves first.
	Seed uint64

	// InFlight bounds the copies that one role has been sent and has not
	// answered. Zero means 64.
	InFlight int
	// LaneCopies bounds the copies in one user's lane. Zero means 64.
	LaneCopies int
	// MaxCopies, MaxBytes and MaxLanes bound what is held: copies until both
	// roles have ended with them, and lanes that are not empty. Zero means
	// 10,000, 64 MiB and 10,000.
	MaxCopies int
	MaxBytes  int64
	MaxLanes  int
	// MaxUsers bounds the records of users, about 100 bytes each. Users who
	// have none, for want of room, are taken for tainted. Zero means 200,000.
	MaxUsers int
	// MaxAge is how long a copy may wait after it was offered. Zero means 10s.
	MaxAge time.Duration
	// Timeout is how long a copy that was sent may hold its lanes. The sender
	// should have given up by then. Zero means 5s.
	Timeout time.Duration
	// Due is called when there may be something to Take, though it has been told
	// that there was nothing. It must not block. Nil tells nobody.
	Due func()
	// RecoverAfter is how long it must have been calm before users who were
	// shed come back, and between two steps. Zero means 10s.
	RecoverAfter time.Duration
}

func (cfg Config) withDefaults() Config {
	fill(&cfg.InFlight, 64)
	fill(&cfg.LaneCopies, 64)
	fill(&cfg.MaxCopies, 10_000)
	fill(&cfg.MaxBytes, 64<<20)
	fill(&cfg.MaxLanes, 10_000)
	fill(&cfg.MaxUsers, 200_000)
	fill(&cfg.MaxAge, 10*time.Second)
	fill(&cfg.Timeout, 5*time.Second)
	fill(&cfg.RecoverAfter, 10*time.Second)
	return cfg
}

func fill[T int | int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// tickEvery is how late a bound in time may be noticed.
const tickEvery = 100 * time.Millisecond

// Lanes is safe for any number of goroutines. No method waits for anything but
// the lock, which is never held during I/O, and Close, which writes the state.
type Lanes struct {
	epoch time.Time // instants are measured from here, so that they never go back
	due   func()
	wait  prometheus.Histogram
	state *state // nil: none is kept
	start Start

	inbox inbox

	mu     sync.Mutex // before inbox.mu
	core   *core
	closed bool
	late   hist.Hist // since the last Lateness
}

// inbox holds copies that were offered and that the core has not seen. Its lock
// is held for no longer than an append, but while the share is changed.
type inbox struct {
	some atomic.Bool // false: list is empty

	mu    sync.Mutex
	admit int32 // the core's
	list  []*Copy
	spare []*Copy // the other list
}

// maxInbox bounds the copies that wait for the core: who offers one more takes
// them in.
const maxInbox = 256

// Departure is a copy that is due.
type Departure struct {
	Copy  *Copy
	roles [NumRoles]Role
	n     int
}

// Roles returns the roles that the copy leaves for now, in the order to begin
// with: one or both.
func (d *Departure) Roles() []Role { return d.roles[:d.n] }

// Open returns the lanes of a mirror. It reads who is clean from cfg.State, or
// starts an experiment there if it is empty or of another salt. If the last run
// did not end with Close, all users are tainted.
// It is an error if another mirror has the directory, or if it is corrupt.
func Open(cfg Config) (*Lanes, error) {
	cfg = cfg.withDefaults()
	l := &Lanes{
		epoch: time.Now(),
		due:   cfg.Due,
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mirror_copy_wait_seconds", Help: "From the end of live's exchange until a copy of it was sent.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10), NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
		}),
		core: newCore(cfg),
	}
	var err error
	if l.state, l.start, err = openState(cfg, l.core, l.now()); err != nil {
		return nil, fmt.Errorf("state %s: %w", cfg.State, err)
	}
	if l.due == nil {
		l.due = func() {}
	}
	l.inbox.admit = l.core.admit
	return l, nil
}

// Start returns how this run began.
func (l *Lanes) Start() Start { return l.start }

func (l *Lanes) now() int64 { return l.instant(time.Now()) }

func (l *Lanes) instant(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return l.epoch.UnixNano() + int64(t.Sub(l.epoch))
}

// locked runs f on the core, and does what follows from it.
func (l *Lanes) locked(f func(c *core, now int64)) {
	if l.run(f) {
		l.due()
	}
}

// run is locked for who will Take.
func (l *Lanes) run(f func(c *core, now int64)) (due bool) {
	freed, due := l.runCore(f)
	for freed != nil {
		cp := freed
		freed, cp.nextFreed = cp.nextFreed, nil
		cp.Release()
	}
	return due
}

func (l *Lanes) runCore(f func(c *core, now int64)) (freed *Copy, due bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.takeIn(now)
	f(l.core, now)
	freed, l.core.freed = l.core.freed, nil
	return freed, l.core.due()
}

// takeIn offers the core what has come in; mu is held.
func (l *Lanes) takeIn(now int64) {
	in := &l.inbox
	if !in.some.Load() {
		return
	}
	in.mu.Lock()
	list := in.list
	in.list, in.spare = in.spare, nil
	in.some.Store(false)
	in.mu.Unlock()
	for i, cp := range list {
		l.core.offer(cp, now)
		list[i] = nil
	}
	in.mu.Lock()
	in.spare = list[:0]
	in.mu.Unlock()
}

// Offer takes a copy whose exchange has ended on live. It returns false if no
// user of it is admitted any more; then the copy is the caller's still, and is
// not counted.
func (l *Lanes) Offer(cp *Copy) bool {
	cp.start, cp.end = l.instant(cp.Start), l.instant(cp.End)
	in := &l.inbox
	in.mu.Lock()
	taken := cp.offerable(in.admit)
	if taken {
		in.list = append(in.list, cp)
		in.some.Store(true)
	}
	full := len(in.list) >= maxInbox
	in.mu.Unlock()
	switch {
	case full:
		l.locked(func(*core, int64) {})
	case taken:
		l.due()
	}
	return taken
}

// Take returns a copy that is due, or false if there is none. The caller sends
// it to each of the departure's roles, and tells of each by Sent and Done, or by
// Drop instead of Sent. After these there may be more to take.
func (l *Lanes) Take() (d Departure, ok bool) {
	l.run(func(c *core, _ int64) { d, ok = c.take() })
	return d, ok
}

// Sent says that the first byte of a copy is about to be written to a role, or
// that its connect failed. If ok is false the copy was dropped in the meantime:
// nothing must be written, nor told by Done. judged says whether the pair tells
// something about the role: its users are clean, and sampled.
func (l *Lanes) Sent(cp *Copy, role Role) (judged, ok bool) {
	var waited int64
	l.run(func(c *core, now int64) {
		due := cp.legs[role].since
		if judged, ok = c.begin(cp, role, now); ok {
			l.late.Record(time.Duration(now - due))
		}
		waited = now - cp.end
	})
	if ok {
		l.wait.Observe(time.Duration(waited).Seconds())
	}
	return judged, ok
}

// Lateness adds to into how long copies were due until they were sent, of those
// since the last call.
func (l *Lanes) Lateness(into *hist.Hist) {
	l.mu.Lock()
	defer l.mu.Unlock()
	into.Merge(&l.late)
	l.late.Reset()
}

// Done says how a copy ended that was sent: Did or DidNot by the role's answer,
// Unknown when it failed, timed out or stopped between calls.
func (l *Lanes) Done(cp *Copy, role Role, effect Effect) {
	l.run(func(c *core, now int64) { c.done(cp, role, effect, now) })
}

// Drop says that a copy that was due will not be sent.
func (l *Lanes) Drop(cp *Copy, role Role, why Reason) {
	l.run(func(c *core, now int64) { c.giveBack(cp, role, why, now) })
}

// Off stops sending: what is pending is dropped for why, and so is what is
// offered until On. It takes effect before it returns.
func (l *Lanes) Off(why Reason) {
	l.locked(func(c *core, now int64) { c.turn(why, now) })
}

// On resumes after Off.
func (l *Lanes) On() {
	l.locked(func(c *core, now int64) {
		if !l.closed {
			c.turn(NotDropped, now)
		}
	})
}

// Hold keeps everything from leaving while on, for a slice of a switchback:
// unsafe copies wait, safe ones are dropped. A hold should be well shorter than
// MaxAge. What has left already goes on.
func (l *Lanes) Hold(on bool) {
	l.locked(func(c *core, now int64) { c.hold(on, now) })
}

// SetShare changes who is in. Users who come in are tainted until seeded.
func (l *Lanes) SetShare(sample, admit int32) {
	l.locked(func(c *core, now int64) {
		in := &l.inbox
		in.mu.Lock()
		defer in.mu.Unlock()
		for _, cp := range in.list { // offered while others were admitted
			c.offer(cp, now)
		}
		clear(in.list)
		in.list = in.list[:0]
		c.setShare(sample, admit, now)
		in.admit = c.admit
	})
}

// Missed says that live did, or may have done, something unsafe of users that
// was never offered: it came marked, could not be attributed, or was on a
// connection that is no longer read. start may be zero when it is not known.
func (l *Lanes) Missed(us []User, start, end time.Time) {
	l.locked(func(c *core, now int64) {
		for _, u := range us {
			if c.in(u) {
				c.meetUser(u, now)
				for r := range NumRoles {
					c.miss(u, r, l.instant(start), l.instant(end))
				}
			}
		}
	})
}

// MissedAll says that anything may have been missed of anybody until now.
func (l *Lanes) MissedAll() {
	l.locked(func(c *core, now int64) { c.taintAll(now) })
}

// Seed says that the roles' state of users was made equal to live's as of at,
// and returns how many of them are clean now. A user who is not admitted, or of
// whom a role missed something after at, is not.
func (l *Lanes) Seed(us []User, at time.Time) (clean int) {
	l.locked(func(c *core, now int64) {
		for _, u := range us {
			if c.seed(u, min(l.instant(at), now), now) {
				clean++
			}
		}
	})
	return clean
}

// Clean returns those of us who are in and whose state on r is known to equal live's.
func (l *Lanes) Clean(us []User, r Role) (clean []User) {
	l.locked(func(c *core, _ int64) {
		for _, u := range us {
			if c.in(u) && (!c.tracked[r] || c.condition(u, r).clean) {
				clean = append(clean, u)
			}
		}
	})
	return clean
}

// SeedAll seeds all users who are in, those included who have not been seen
// yet. It returns how many of those seen are tainted all the same.
func (l *Lanes) SeedAll(at time.Time) (tainted int) {
	l.locked(func(c *core, now int64) { tainted = c.seedAll(min(l.instant(at), now)) })
	return tainted
}

// Run watches the bounds in time until ctx ends.
func (l *Lanes) Run(ctx context.Context) error {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.locked(func(c *core, now int64) { c.tick(now) })
		case <-ctx.Done():
			return nil
		}
	}
}

// Close drops what is pending, gives up what is not answered, and writes the
// state as that of a run that ended well. Nothing may be offered afterwards
// that live served. The error means that the next run finds all users tainted.
func (l *Lanes) Close() error {
	var saved *savedState
	again := false
	l.locked(func(c *core, now int64) {
		again, l.closed = l.closed, true
		c.turn(Shutdown, now)
		c.giveUp(now, now)
		if l.state != nil && !again {
			saved = c.save(l.state.salt, now)
		}
	})
	if saved == nil {
		return nil
	}
	if err := l.state.close(saved); err != nil {
		return fmt.Errorf("state %s: %w", l.state.dir, err)
	}
	return nil
}
