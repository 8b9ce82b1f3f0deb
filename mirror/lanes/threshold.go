package lanes

import (
	"slices"
	"time"
)

const (
	shedEvery  = int64(250 * time.Millisecond) // between two steps down
	shedStep   = 4                             // a quarter of the users leave in one
	returnStep = 8                             // an eighth more come back in one
)

// threshold is who is in. Users leave in the order of their rank, the last to
// be let in first, and whole: their copies are not sent any more, and nobody
// else's is affected. They come back one step at a time once it has been calm
// for a while, so that the threshold does not swing.
type threshold struct {
	sample, admit int32 // as set, in ppm
	cap           int32 // at most admit; below it while the roles can't keep up
	shedAt        int64 // the last step down
	calmSince     int64 // 0: it is not calm
}

// in reports whether u is mirrored. Users of negative rank are never shed.
func (t *threshold) in(u User) bool { return u.Rank < t.cap }

// pressure is how near a bound is, 1 being at it. A role that can't keep up
// shows in copies that could leave and find no free place in flight.
func (c *core) pressure(now int64) float64 {
	p := max(float64(c.count.Bytes)/float64(c.cfg.MaxBytes), float64(c.count.Copies)/float64(c.cfg.MaxCopies), float64(len(c.lanes))/float64(c.cfg.MaxLanes))
	for r := range c.ready {
		if e := c.ready[r].head; e != nil && !c.held {
			waits := now - max(e.value.since, c.heldTo)
			p = max(p, float64(waits)/float64(c.cfg.MaxAge/2))
		}
	}
	return p
}

// relieve sheds users, now and then, while the pressure is high.
func (c *core) relieve(now int64) {
	if now-c.shedAt >= shedEvery && c.pressure(now) >= 0.75 {
		c.shed(now)
	}
}

// shed lowers the threshold by a step, and returns how many copies were
// dropped as all their users are out.
func (c *core) shed(now int64) (dropped int) {
	if c.cap <= 0 {
		return 0
	}
	c.shedAt, c.calmSince = now, 0
	c.lower(c.cap - max(c.cap/shedStep, 1))
	for e := c.aging.head; e != nil; {
		cp := e.value
		e = e.next
		if !c.anyIn(cp) {
			c.dropAll(cp, UserShed, now)
			dropped++
		}
	}
	return dropped
}

// anyIn reports whether somebody of cp is in. What is nobody's always is.
func (c *core) anyIn(cp *Copy) bool {
	return len(cp.Users) == 0 || slices.ContainsFunc(cp.Users, c.in)
}

// restore lets shed users back in after a calm while.
func (c *core) restore(now int64) {
	switch {
	case c.cap >= c.admit:
		return
	case c.pressure(now) > 0.25:
		c.calmSince = 0
	case c.calmSince == 0:
		c.calmSince = now
	case now-c.calmSince >= int64(c.cfg.RecoverAfter):
		c.calmSince = now
		c.raise(min(c.admit, c.cap+max(c.cap/returnStep, c.admit/100, 1)), now)
	}
}

// setShare sets who is sampled and who is admitted. Users who are admitted no
// more lose what is known of them; their copies that are pending still leave.
// New ones join, behind those who are shed if any are.
func (c *core) setShare(sample, admit int32, now int64) {
	sample = max(sample, 0)
	admit = max(sample, admit)
	shed := c.cap < c.admit
	c.sample, c.admit, c.stale = sample, admit, true
	c.forget(admit)
	switch {
	case admit <= c.cap:
		c.lower(admit)
	case !shed:
		c.raise(admit, now)
	}
}

func (c *core) lower(to int32) {
	c.cap = to
	c.users.lower(to)
}

func (c *core) raise(to int32, now int64) {
	c.users.raise(c.cap, to, now)
	c.cap = to
}
