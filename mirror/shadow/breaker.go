package shadow

import (
	"math"
	"time"
)

// A breaker stops sending to a role that fails, so that its time-outs do not
// fill the lanes. It opens when half of the calls of the last 10 s failed, and
// 20 did; after a while it lets one probe through at a time, and closes when
// some in a row succeeded. A failure is a call without an answer: one that
// says 500 is evidence, and worth more of its kind.
//
// It asks no clock and holds no lock.
type breaker struct {
	state  State
	slots  [slots]struct{ epoch, calls, failures int64 }
	until  int64 // when open ends, ns
	rest   time.Duration
	probes int  // that succeeded in a row
	probed bool // one is on its way
}

// State is that of a breaker.
type State uint8

const (
	Closed State = iota
	Open
	HalfOpen
)

func (s State) String() string { return [...]string{"closed", "open", "half_open"}[s] }

const (
	slots       = 10
	slotLength  = int64(time.Second)
	minFailures = 20
	firstRest   = time.Second
	mostRest    = 30 * time.Second
	needProbes  = 3
)

// allow says whether a call may be made at now. If so it is to be told of by
// done or forget.
func (b *breaker) allow(now int64) bool {
	if b.state == Open && now >= b.until {
		b.state, b.probes, b.probed = HalfOpen, 0, false
	}
	switch b.state {
	case Open:
		return false
	case HalfOpen:
		if b.probed {
			return false
		}
		b.probed = true
	}
	return true
}

// closedTo is until when allow lets nothing through, in ns; 0 if it does.
func (b *breaker) closedTo() int64 {
	switch {
	case b.state == Open:
		return b.until
	case b.state == HalfOpen && b.probed:
		return math.MaxInt64 // the probe will tell
	}
	return 0
}

// forget says that an allowed call was not made.
func (b *breaker) forget() { b.probed = false }

func (b *breaker) done(now int64, ok bool) {
	switch b.state {
	case HalfOpen:
		b.probed = false
		if !ok {
			b.open(now, min(2*b.rest, mostRest))
		} else if b.probes++; b.probes == needProbes {
			*b = breaker{}
		}
		return
	case Open:
		return // it was on its way when others failed
	}
	epoch := now / slotLength
	s := &b.slots[epoch%slots]
	if s.epoch != epoch {
		s.epoch, s.calls, s.failures = epoch, 0, 0
	}
	s.calls++
	if ok {
		return
	}
	s.failures++
	var calls, failures int64
	for _, s := range b.slots {
		if s.epoch > epoch-slots {
			calls, failures = calls+s.calls, failures+s.failures
		}
	}
	if failures >= minFailures && 2*failures >= calls {
		b.open(now, firstRest)
	}
}

func (b *breaker) open(now int64, rest time.Duration) {
	b.state, b.rest, b.until = Open, rest, now+int64(rest)
}
