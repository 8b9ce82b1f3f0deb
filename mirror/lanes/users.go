package lanes

import "maps"

// maxCohorts bounds the list of cohorts; the two youngest are merged then.
const maxCohorts = 64

// users is what is known of each user's state on each role. A user is clean
// from a point on, or tainted. What holds for all who came in together is kept
// once for their cohort; a user seen has a record of their own, as theirs may
// differ from then on.
type users struct {
	tracked [NumRoles]bool // roles that take unsafe copies: elsewhere nobody is ever tainted
	limit   int            // of records
	known   map[uint64]user
	cohorts []cohort // by rank, up to the threshold; at least one once started

	sampled, away int
	tainted       [NumRoles]int
	stale         bool // the three have to be counted anew: the threshold has moved
}

type user struct {
	rank int32
	on   [NumRoles]condition
}

// condition is a user's on one role.
type condition struct {
	clean bool
	// mark is, for a clean user, from when on they are; for a tainted one, when
	// the first exchange began that the role missed. Exchanges before that are
	// judged still. 0: tainted from the beginning.
	mark int64
	// missed is when the last exchange ended that the role missed. Only a
	// state imported after it can make the user clean.
	missed int64
}

// cohort is the users who came in together: those below a rank who are in no
// earlier cohort.
type cohort struct {
	below int32
	on    [NumRoles]condition
}

// start begins an experiment: all who are admitted are clean.
func (us *users) start(admit int32, now int64) {
	first := cohort{below: admit}
	for r := range first.on {
		first.on[r] = condition{clean: true, mark: now}
	}
	us.cohorts = []cohort{first}
}

// cohort returns the condition of users of a rank of whom nothing else is known.
func (us *users) cohort(rank int32) [NumRoles]condition {
	for i := range us.cohorts {
		if rank < us.cohorts[i].below {
			return us.cohorts[i].on
		}
	}
	return [NumRoles]condition{}
}

func (us *users) condition(u User, r Role) condition {
	if known, ok := us.known[u.ID]; ok {
		return known.on[r]
	}
	return us.cohort(u.Rank)[r]
}

// meet makes records of the users of a copy who are in.
func (c *core) meet(cp *Copy, now int64) {
	for _, u := range cp.Users {
		if c.in(u) {
			c.meetUser(u, now)
		}
	}
}

func (c *core) meetUser(u User, now int64) {
	if _, ok := c.known[u.ID]; !ok {
		c.know(u, user{rank: u.Rank, on: c.cohort(u.Rank)}, now)
	}
}

// know keeps a new record. When there is no room, what befalls the user would
// be forgotten: then all who have no record are tainted, this one included.
func (c *core) know(u User, rec user, now int64) bool {
	if len(c.known) >= c.limit {
		c.distrust(now)
		return false
	}
	c.known[u.ID] = rec
	c.tally(rec, c.threshold, 1)
	return true
}

// distrust taints all cohorts.
func (us *users) distrust(now int64) {
	for i := range us.cohorts {
		us.cohorts[i].on = tainted(now)
	}
}

func tainted(now int64) (on [NumRoles]condition) {
	for r := range on {
		on[r].missed = now
	}
	return on
}

// taintAll taints everybody: nobody knows what has been missed until now.
func (c *core) taintAll(now int64) {
	c.distrust(now)
	for id, rec := range c.known {
		rec.on = tainted(now)
		c.known[id] = rec
	}
	c.stale = true
}

// miss notes that a role did not do, or may not have done, what a user did on
// live between two instants.
func (c *core) miss(u User, r Role, start, end int64) {
	rec, ok := c.known[u.ID]
	if !c.tracked[r] || !ok {
		return
	}
	on := &rec.on[r]
	c.tally(rec, c.threshold, -1)
	if on.clean {
		on.clean, on.mark = false, start
	}
	on.mark = min(on.mark, start)
	on.missed = max(on.missed, end)
	c.tally(rec, c.threshold, 1)
	c.known[u.ID] = rec
}

// seed makes a user clean from at on, where nothing has been missed since. It
// reports whether they are clean now on every role.
func (c *core) seed(u User, at, now int64) bool {
	if !c.in(u) {
		return false
	}
	rec, ok := c.known[u.ID]
	if ok {
		c.tally(rec, c.threshold, -1)
		delete(c.known, u.ID)
	} else {
		rec = user{rank: u.Rank, on: c.cohort(u.Rank)}
	}
	clean := c.seedRoles(&rec.on, at)
	return c.know(u, rec, now) && clean
}

func (us *users) seedRoles(on *[NumRoles]condition, at int64) (clean bool) {
	clean = true
	for r := range on {
		if !on[r].clean && on[r].missed <= at {
			on[r].clean, on[r].mark = true, at
		}
		clean = clean && (on[r].clean || !us.tracked[r])
	}
	return clean
}

// seedAll seeds everybody who is in, and returns how many of those seen are not clean.
func (c *core) seedAll(at int64) (left int) {
	for i := range c.cohorts {
		c.seedRoles(&c.cohorts[i].on, at)
	}
	for id, rec := range c.known {
		if rec.rank >= c.cap {
			continue
		}
		if !c.seedRoles(&rec.on, at) {
			left++
		}
		c.known[id] = rec
	}
	c.stale = true
	return left
}

// judged reports whether the pair of a copy on a role tells something about the
// role rather than about its state: the author is sampled, and clean as are all
// its sampled users.
func (c *core) judged(cp *Copy, r Role) bool {
	if len(cp.Users) == 0 {
		return true
	}
	if !cp.Author || cp.Users[0].Rank >= c.sample {
		return false
	}
	for _, u := range cp.Users {
		if u.Rank < c.sample && !c.cleanFor(cp, u, r) {
			return false
		}
	}
	return true
}

func (c *core) cleanFor(cp *Copy, u User, r Role) bool {
	if !c.in(u) {
		return false
	}
	on := c.condition(u, r)
	switch {
	case !c.tracked[r]:
		return true
	case on.clean:
		return cp.start >= on.mark
	default:
		return cp.end <= on.mark // the users diverged later
	}
}

// lower and raise move the threshold. Who comes back is as good as new: what
// they did while away was not sent.

func (us *users) lower(to int32) {
	us.stale = true
	for i := range us.cohorts {
		if us.cohorts[i].below >= to {
			us.cohorts[i].below = to
			us.cohorts = us.cohorts[:i+1]
			return
		}
	}
}

func (us *users) raise(from, to int32, now int64) {
	us.stale = true
	us.cohorts = append(us.cohorts, cohort{below: to, on: tainted(now)})
	if n := len(us.cohorts); n > maxCohorts {
		us.cohorts[n-2] = us.cohorts[n-1]
		us.cohorts = us.cohorts[:n-1]
	}
	for id, rec := range us.known {
		if rec.rank >= from && rec.rank < to {
			rec.on = tainted(now)
			us.known[id] = rec
		}
	}
}

// forget drops the records of users at or above a rank.
func (us *users) forget(rank int32) {
	maps.DeleteFunc(us.known, func(_ uint64, rec user) bool { return rec.rank >= rank })
}

// recount counts all records anew; tally adds or takes one.
func (us *users) recount(t threshold) {
	us.sampled, us.away, us.tainted, us.stale = 0, 0, [NumRoles]int{}, false
	for _, rec := range us.known {
		us.tally(rec, t, 1)
	}
}

func (us *users) tally(rec user, t threshold, n int) {
	switch {
	case rec.rank >= t.cap:
		us.away += n
		return
	case rec.rank < t.sample:
		us.sampled += n
	}
	for r := range rec.on {
		if us.tracked[r] && !rec.on[r].clean {
			us.tainted[r] += n
		}
	}
}
