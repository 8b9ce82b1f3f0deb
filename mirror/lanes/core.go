package lanes

import (
	"math/rand/v2"
	"slices"
)

// core decides: which copies wait, which are due, who is in and who is clean.
// It is a deterministic function of the calls made to it; the time is an
// argument, in nanoseconds since 1970 on a clock that never goes back. It
// neither locks nor waits.
//
// A copy is in the lane of each of its users at once, and waits on a role for
// every earlier copy in them that still holds its place there. As precedes has
// no cycles, some copy never waits: lanes do not deadlock.
type core struct {
	cfg Config
	rnd *rand.Rand
	off Reason // why nothing is sent; NotDropped when on

	held   bool  // nothing leaves for a while
	heldTo int64 // when that last ended

	lanes   map[uint64]*lane
	spare   []*lane // empty ones, for the next user
	aging   list[*Copy]
	ready   [NumRoles]list[*leg]
	sent    [NumRoles]list[*leg]
	flights [NumRoles]int // legs that the sender has

	threshold
	users

	count Snapshot
	freed *Copy // released, their callers not yet told
}

func newCore(cfg Config) *core {
	return &core{
		cfg:   cfg,
		rnd:   rand.New(rand.NewPCG(cfg.Seed, 0)),
		lanes: map[uint64]*lane{},
		users: users{
			known:   map[uint64]user{},
			limit:   cfg.MaxUsers,
			tracked: cfg.Unsafe,
		},
	}
}

// offerable reports whether a copy is for somebody, and some user of it among
// the first admit.
func (cp *Copy) offerable(admit int32) bool {
	return cp.Roles != [NumRoles]bool{} &&
		(len(cp.Users) == 0 || slices.ContainsFunc(cp.Users, func(u User) bool { return u.Rank < admit }))
}

// offer takes a copy of an exchange that live has ended, and that is offerable.
func (c *core) offer(cp *Copy, now int64) {
	c.relieve(now)
	cp.offered = now
	cp.start = min(cp.start, cp.end)
	for r := range NumRoles {
		if !cp.Roles[r] {
			continue
		}
		cp.legs[r] = leg{copy: cp, role: r, phase: waiting}
		cp.undecided++
		c.count.Offered[r]++
		c.count.Pending[r]++
	}
	c.aging.push(&cp.aging, cp)
	c.count.Copies++
	c.count.Bytes += cp.Bytes
	c.meet(cp, now)

	why := c.refuse(cp)
	for why == Budget && len(cp.Users) > 0 && cp.Bytes <= c.cfg.MaxBytes && c.shed(now) > 0 {
		why = c.refuse(cp) // users leave before anything else is dropped
	}
	if why != NotDropped {
		c.dropAll(cp, why, now)
		return
	}
	for r := range cp.legs {
		if cp.legs[r].phase == waiting && cp.Drop[r] != NotDropped {
			c.drop(&cp.legs[r], cp.Drop[r], now)
		}
	}
	if cp.undecided > 0 {
		c.enter(cp, now)
	}
}

// refuse says why cp can have no place at all.
func (c *core) refuse(cp *Copy) Reason {
	if c.off != NotDropped {
		return c.off
	}
	if c.held && !cp.Unsafe {
		return Switchback
	}
	if !c.anyIn(cp) {
		return UserShed
	}
	lanes := len(c.lanes)
	for _, u := range cp.Users {
		if !c.in(u) {
			continue
		}
		l := c.lanes[u.ID]
		if l == nil {
			lanes++
		} else if len(l.copies) >= c.cfg.LaneCopies {
			return LaneFull
		}
	}
	if c.count.Bytes > c.cfg.MaxBytes || c.count.Copies > c.cfg.MaxCopies || lanes > c.cfg.MaxLanes {
		return Budget
	}
	return NotDropped
}

// enter gives cp its place in the lanes of its users.
func (c *core) enter(cp *Copy, now int64) {
	cp.places = slices.Grow(cp.onePlace[:0], len(cp.Users))
	for r := range cp.legs {
		cp.legs[r].holds = cp.legs[r].phase == waiting
	}
	for _, u := range cp.Users {
		if !c.in(u) {
			continue
		}
		l := c.lane(u.ID)
		if n := len(l.copies); n > 0 && l.copies[n-1] == cp {
			continue // named twice
		}
		for _, other := range l.copies {
			other.block(cp)
			cp.block(other) // cp may have come late: connections are decoded at their own pace
		}
		l.copies = append(l.copies, cp)
		cp.places = append(cp.places, l)
	}
	for r := range cp.legs {
		c.advance(&cp.legs[r], now)
	}
}

// block makes d wait for c where it must.
func (c *Copy) block(d *Copy) {
	if !c.precedes(d) {
		return
	}
	for r := range c.legs {
		if c.legs[r].holds && d.legs[r].phase == waiting {
			d.legs[r].blockers++
		}
	}
}

func (c *core) lane(id uint64) *lane {
	if l := c.lanes[id]; l != nil {
		return l
	}
	var l *lane
	if n := len(c.spare); n > 0 {
		l, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		l = &lane{}
	}
	l.id = id
	c.lanes[id] = l
	return l
}

// advance makes a leg ready once it heads all its lanes.
func (c *core) advance(l *leg, now int64) {
	if l.phase == waiting && l.blockers == 0 {
		l.phase, l.since = ready, now
		c.ready[l.role].push(&l.queued, l)
	}
}

// unhold gives up a leg's place: its successors on that role may go.
func (c *core) unhold(l *leg, now int64) {
	if !l.holds {
		return
	}
	l.holds = false
	cp := l.copy
	for _, place := range cp.places {
		for _, other := range place.copies {
			o := &other.legs[l.role]
			if o.phase == waiting && cp.precedes(other) {
				o.blockers--
				c.advance(o, now)
			}
		}
	}
	for r := range cp.legs {
		if cp.legs[r].holds {
			return
		}
	}
	c.leave(cp)
}

// leave takes cp out of its lanes.
func (c *core) leave(cp *Copy) {
	for _, l := range cp.places {
		l.copies = slices.DeleteFunc(l.copies, func(other *Copy) bool { return other == cp })
		if len(l.copies) == 0 {
			delete(c.lanes, l.id)
			c.spare = append(c.spare, l)
		}
	}
	cp.places = nil
}

// take returns a copy that is due and the roles it leaves for, in the order to
// begin with. Both leave together if both can: neither waits for the other.
func (c *core) take() (Departure, bool) {
	first := Role(c.rnd.IntN(int(NumRoles)))
	for _, r := range [...]Role{first, 1 - first} {
		if !c.free(r) || c.ready[r].len == 0 {
			continue
		}
		d := Departure{Copy: c.ready[r].head.value.copy}
		for _, r := range c.order() {
			if l := &d.Copy.legs[r]; l.phase == ready && c.free(r) {
				c.ready[r].remove(&l.queued)
				l.phase = taken
				c.flights[r]++
				d.roles[d.n] = r
				d.n++
			}
		}
		return d, true
	}
	return Departure{}, false
}

func (c *core) order() [NumRoles]Role {
	if c.rnd.IntN(2) == 0 {
		return [NumRoles]Role{Shadow, Control}
	}
	return [NumRoles]Role{Control, Shadow}
}

// free reports whether a copy may leave for r.
func (c *core) free(r Role) bool { return !c.held && c.flights[r] < c.cfg.InFlight }

// due reports whether take has something to give.
func (c *core) due() bool {
	for r := range NumRoles {
		if c.free(r) && c.ready[r].len > 0 {
			return true
		}
	}
	return false
}

// begin is told that the first byte is about to be written. It returns false
// if the copy was dropped while the sender had it.
func (c *core) begin(cp *Copy, r Role, now int64) (judged, ok bool) {
	l := &cp.legs[r]
	if l.phase == cancelled {
		c.land(l)
		return false, false
	}
	if l.phase != taken {
		panic("lanes: a copy is sent that was not taken")
	}
	c.decided(l, sent)
	l.since = now
	c.count.Sent[r]++
	judged = c.judged(cp, r)
	if cp.Stream {
		c.flights[r]--
		c.overdue(l, now)
	} else {
		c.sent[r].push(&l.queued, l)
	}
	return judged, true
}

// done is told that the role has answered, or will not.
func (c *core) done(cp *Copy, r Role, effect Effect, now int64) {
	l := &cp.legs[r]
	switch l.phase {
	case sent:
		c.sent[r].remove(&l.queued)
		c.settle(l, effect)
		c.unhold(l, now)
	case overdue: // settled when it was given up
	default:
		panic("lanes: a copy is done that was not sent")
	}
	c.land(l)
}

// giveBack is told that the sender will not send what it has taken.
func (c *core) giveBack(cp *Copy, r Role, why Reason, now int64) {
	l := &cp.legs[r]
	switch l.phase {
	case taken:
		c.drop(l, why, now)
	case cancelled:
	default:
		panic("lanes: a copy is given back that was not taken")
	}
	c.land(l)
}

// settle taints the users of a leg whose role may not have done what live did.
func (c *core) settle(l *leg, effect Effect) {
	cp := l.copy
	if !cp.Unsafe || cp.Harmless[l.role] || effect == cp.Live && effect != Unknown {
		return
	}
	for _, u := range cp.Users {
		if c.in(u) {
			c.miss(u, l.role, cp.start, cp.end)
		}
	}
}

// dropAll drops what is pending of cp.
func (c *core) dropAll(cp *Copy, why Reason, now int64) {
	for r := range cp.legs {
		if cp.legs[r].phase.pending() {
			c.drop(&cp.legs[r], why, now)
		}
	}
}

// drop ends a pending leg unsent. If the sender has it, it is theirs until they
// say so, but its place in the lanes is free at once.
func (c *core) drop(l *leg, why Reason, now int64) {
	held := l.phase == taken
	if l.phase == ready {
		c.ready[l.role].remove(&l.queued)
	}
	c.decided(l, cancelled)
	c.count.Dropped[l.role][why]++
	c.settle(l, DidNot)
	c.unhold(l, now)
	if !held {
		c.end(l)
	}
}

// decided takes a leg out of what is pending.
func (c *core) decided(l *leg, p phase) {
	l.phase = p
	c.count.Pending[l.role]--
	if l.copy.undecided--; l.copy.undecided == 0 {
		c.aging.remove(&l.copy.aging)
	}
}

// land takes a leg back from the sender.
func (c *core) land(l *leg) {
	if l.phase != overdue || !l.copy.Stream {
		c.flights[l.role]--
	}
	c.end(l)
}

// end lets go of a leg, and of its copy with the last one.
func (c *core) end(l *leg) {
	l.phase = ended
	cp := l.copy
	for r := range cp.legs {
		if p := cp.legs[r].phase; p != absent && p != ended {
			return
		}
	}
	c.count.Copies--
	c.count.Bytes -= cp.Bytes
	if cp.Release != nil {
		cp.nextFreed, c.freed = c.freed, cp
	}
}

// tick drops what is too old, gives up what is not answered in time, and lets
// users in or out.
func (c *core) tick(now int64) {
	for e := c.aging.head; e != nil && e.value.offered <= now-int64(c.cfg.MaxAge); e = c.aging.head {
		c.dropAll(e.value, Expired, now)
	}
	c.giveUp(now-int64(c.cfg.Timeout), now)
	c.relieve(now)
	c.restore(now)
}

// giveUp stops waiting for the answers to what was sent until an instant.
func (c *core) giveUp(until, now int64) {
	for r := range c.sent {
		for e := c.sent[r].head; e != nil && e.value.since <= until; e = c.sent[r].head {
			l := e.value
			c.sent[r].remove(e)
			c.overdue(l, now)
		}
	}
}

// overdue stops waiting for the answer to what was sent.
func (c *core) overdue(l *leg, now int64) {
	l.phase = overdue
	c.settle(l, Unknown)
	c.unhold(l, now)
}

// hold keeps everything from leaving, or lets it again. Unsafe copies wait, as
// the roles must do what live does; safe ones are skipped.
func (c *core) hold(on bool, now int64) {
	if c.held && !on {
		c.heldTo = now
	}
	c.held = on
	for e := c.aging.head; on && e != nil; {
		cp := e.value
		e = e.next
		if !cp.Unsafe {
			c.dropAll(cp, Switchback, now)
		}
	}
}

// turn switches mirroring off, and drops all that is pending for that reason,
// or on again with NotDropped.
func (c *core) turn(off Reason, now int64) {
	c.off = off
	if off == NotDropped {
		return
	}
	for c.aging.len > 0 {
		c.dropAll(c.aging.head.value, off, now)
	}
}
