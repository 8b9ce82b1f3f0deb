// Package engine paces a load run and records what became of it. It makes every
// call at the time the plan intends, whatever happened to the calls before, and
// measures from that time: response = done − intended, service = done − sent,
// lag = sent − intended. What was not answered is not forgotten: it counts as
// having taken at least as long as it was waited for.
//
// A Shard is one goroutine with its plan, its connections and its counts; shards
// share nothing. The clock is handed in, and waiting is the driver's, so that a
// simulated server runs in virtual time under the very same code.
package engine

import (
	"context"
	"time"

	"darklaunch/loadgen/transport"
)

// Clock tells the time since the start of the run.
type Clock interface{ Now() time.Duration }

// A Driver makes calls. *transport.Pool is one.
type Driver interface {
	// Start begins a call and keeps it until Poll returns it or Cancel is called.
	Start(c *transport.Call)
	// Poll waits until something happens, or until the given time, and returns
	// the calls that ended. The slice is valid until the next Poll.
	Poll(until time.Duration) []*transport.Call
	// Cancel gives up a call that Start was given and Poll has not returned.
	Cancel(c *transport.Call)
}

// A Source says when calls are due and what they are. It is asked by the shard's
// goroutine alone.
type Source interface {
	// Peek returns when the next call is due; false means that there is none, or
	// none before a call under way has ended. Times never decrease.
	Peek() (time.Duration, bool)
	// Take fills in the call that Peek spoke of, whose Intended is set, and goes on
	// to the next.
	Take(c *transport.Call)
}

// A Holder is a Source some of whose calls are streams that last until it lets
// go of them; Config.Held says which operations these are.
type Holder interface {
	Source
	// LetGo returns a held call that has served its time and has not ended, or
	// nil. It is asked until there is none, after each Poll.
	LetGo() *transport.Call
}

// Phase is a stretch of a run. A call belongs to the phase of its intended time.
type Phase uint8

// The phases. What is intended in Settle is made and counted, and judged by nobody.
const (
	Settle Phase = iota
	Measure
	Phases
)

// Config is what a Shard needs. Durations are on Clock.
type Config struct {
	Clock  Clock
	Driver Driver
	Source Source
	// Ops is how many operations there are.
	Ops int
	// Settle and Measure are the lengths of the two phases, from time 0.
	Settle, Measure time.Duration
	// Drain is how long calls under way at the end are waited for. Zero means as
	// long as the longest time-out; negative means not at all.
	Drain time.Duration
	// Timeout ends a call that long after its intended time. Zero means 10 s.
	Timeout time.Duration
	// Timeouts replaces Timeout for single operations; negative means none.
	Timeouts map[int]time.Duration
	// Held are the operations whose calls are streams that the Source, a Holder,
	// ends. They have no time-out and are not waited for when all else is over. A
	// held call is done when its first message has come, and went well if it was let
	// go of after that; one that was let go of before counts as in flight.
	Held map[int]bool
	// MaxInFlight bounds the calls that are made and not ended, waiting for a
	// connection included; what is due beyond is shed. Zero means 131,072.
	MaxInFlight int
	// CatchUp bounds how fast late calls are made up for, as a multiple of the
	// planned rate, at least 1. Zero means at once.
	CatchUp float64
	// Closed, if not 0, keeps that many calls under way while the source has any,
	// and ignores its times: a measure of cost. Response is service then, and
	// there is no plan.
	Closed int
	// Observer, if set, is told of every call.
	Observer Observer
}

// An Observer sees the calls of one shard, in the shard's goroutine. Each call
// that is released comes to exactly one of the other two.
type Observer interface {
	// Released: a call was due, and is late by so much.
	Released(op int, late time.Duration)
	// Ended: a call that was made has ended, or was given up when the drain was
	// over; then it is not final.
	Ended(c *transport.Call, phase Phase, final bool)
	// Shed: a call was not made.
	Shed(c *transport.Call, why Shed)
}

const (
	defaultTimeout  = 10 * time.Second
	defaultInFlight = 1 << 17
	// batch bounds the calls released between two looks at the connections.
	batch = 1024
	// tick bounds a wait, and so how late the end of a context is seen.
	tick = 50 * time.Millisecond
)

// flight is a call under way.
type flight struct {
	call       transport.Call
	phase      Phase
	prev, next *flight
}

// Shard runs a share of the load. It belongs to one goroutine.
type Shard struct {
	cfg     Config
	holder  Holder        // nil if no call is held
	end     time.Duration // no call is intended from here on
	tallies [Phases][]Tally

	flights  []flights // under way, by operation, in order of intended time
	count    int
	free     *flight
	expiry   time.Duration // no call expires sooner
	released time.Duration // when the last call was released
	planned  time.Duration // and when it was intended
	behind   bool          // more was due than a batch
}

// New returns a shard that has not begun.
func New(cfg Config) *Shard {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = defaultInFlight
	}
	s := &Shard{cfg: cfg, end: cfg.Settle + cfg.Measure, flights: make([]flights, cfg.Ops), expiry: never}
	longest := cfg.Timeout
	for op := range s.flights {
		longest = max(longest, s.timeout(op))
	}
	if cfg.Drain == 0 {
		s.cfg.Drain = longest
	}
	s.holder, _ = cfg.Source.(Holder)
	for p := range s.tallies {
		s.tallies[p] = make([]Tally, cfg.Ops)
	}
	return s
}

const never = time.Duration(1<<63 - 1)

func (s *Shard) timeout(op int) time.Duration {
	if s.cfg.Held[op] {
		return -1
	}
	if d, ok := s.cfg.Timeouts[op]; ok {
		return d
	}
	return s.cfg.Timeout
}

// Run makes the calls, waits for those under way, and returns what it counted,
// by phase and operation. When ctx ends, the plan ends with it: nothing more is
// made, and the drain follows.
func (s *Shard) Run(ctx context.Context) [Phases][]Tally {
	for {
		now := s.cfg.Clock.Now()
		if now < s.end && ctx.Err() != nil {
			s.end = now
		}
		s.release(now)
		s.expire(now)
		if s.over(now) {
			break
		}
		for _, c := range s.cfg.Driver.Poll(s.wake(now)) {
			s.ended(c.Data.(*flight))
		}
		s.letGo()
	}
	s.abandon(s.cfg.Clock.Now())
	return s.tallies
}

// Delivered records that a stream of the operation op told, at at, of what was
// sent at sent. It is for the driver's callbacks, within Run.
func (s *Shard) Delivered(op int, sent, at time.Duration) {
	if sent < s.end {
		s.tallies[s.phase(sent)][op].Delivery.Record(at - sent)
	}
}

func (s *Shard) phase(at time.Duration) Phase {
	if at < s.cfg.Settle {
		return Settle
	}
	return Measure
}

// End returns where the plan ended: before Settle+Measure only if Run's context did.
func (s *Shard) End() time.Duration { return s.end }

// more says that a closed loop goes on.
func (s *Shard) more(now time.Duration) bool {
	_, ok := s.cfg.Source.Peek()
	return ok && now < s.end
}

// due returns when the next call is to be made.
func (s *Shard) due() (time.Duration, bool) {
	at, ok := s.cfg.Source.Peek()
	if !ok || at >= s.end {
		return 0, false
	}
	if s.cfg.CatchUp > 0 {
		at = max(at, s.released+time.Duration(float64(at-s.planned)/s.cfg.CatchUp))
	}
	return at, true
}

// release makes the calls that are due.
func (s *Shard) release(now time.Duration) {
	s.behind = false
	if s.cfg.Closed > 0 {
		for s.count < s.cfg.Closed && s.more(now) {
			s.make(now, now)
		}
		return
	}
	for range batch {
		at, ok := s.due()
		if !ok || at > now {
			return
		}
		at, _ = s.cfg.Source.Peek()
		s.released, s.planned = now, at
		s.make(at, now)
	}
	s.behind = true
}

// make makes the source's next call, which was intended at at.
func (s *Shard) make(at, now time.Duration) {
	f := s.take()
	c := &f.call
	c.Op, c.User, c.Path, c.Header, c.Body, c.Channel = 0, 0, "", nil, nil, ""
	c.Intended, c.Data = at, f
	s.cfg.Source.Take(c)
	f.phase = s.phase(at)
	t := s.tally(f)
	t.Planned++
	if s.cfg.Closed == 0 {
		t.Pacing.Record(now - at)
	}
	if s.cfg.Observer != nil {
		s.cfg.Observer.Released(c.Op, now-at)
	}
	if s.count >= s.cfg.MaxInFlight {
		s.shed(f, ShedInFlight, now)
		return
	}
	c.Deadline = 0
	if d := s.timeout(c.Op); d >= 0 {
		c.Deadline = at + d
		s.expiry = min(s.expiry, c.Deadline)
	}
	s.flights[c.Op].push(f)
	s.count++
	s.cfg.Driver.Start(c)
}

func (s *Shard) tally(f *flight) *Tally { return &s.tallies[f.phase][f.call.Op] }

// ended counts a call that the driver has ended.
func (s *Shard) ended(f *flight) {
	c := &f.call
	if s.cfg.Closed > 0 && c.Sent >= 0 {
		c.Intended = c.Sent
	}
	if s.cfg.Held[c.Op] && c.First > 0 {
		c.Done = c.First
	}
	s.tally(f).end(c)
	s.leave(f, true)
}

// letGo ends the streams that have served their time.
func (s *Shard) letGo() {
	if s.holder == nil {
		return
	}
	for c := s.holder.LetGo(); c != nil; c = s.holder.LetGo() {
		s.stop(c.Data.(*flight), s.cfg.Clock.Now(), ShedNoConnection)
	}
}

// stop takes back a call that nobody waits for any longer; one that was never
// tried is shed.
func (s *Shard) stop(f *flight, now time.Duration, why Shed) {
	c := &f.call
	s.cfg.Driver.Cancel(c)
	c.Done = now
	switch {
	case !c.Tried:
		s.flights[c.Op].remove(f)
		s.count--
		s.shed(f, why, now)
	case s.cfg.Held[c.Op] && c.First > 0:
		c.Class, c.Code = transport.OK, 0
		s.ended(f)
	default:
		s.tally(f).abandon(c)
		s.leave(f, false)
	}
}

// expire gives up the calls whose time is over.
func (s *Shard) expire(now time.Duration) {
	if now < s.expiry {
		return
	}
	s.expiry = never
	for op := range s.flights {
		for f := s.flights[op].head; f != nil; f = s.flights[op].head {
			if f.call.Deadline == 0 {
				break
			}
			if f.call.Deadline > now {
				s.expiry = min(s.expiry, f.call.Deadline)
				break
			}
			s.giveUp(f, now, transport.Timeout)
		}
	}
}

// giveUp takes a call back from the driver. One that was never tried is shed.
func (s *Shard) giveUp(f *flight, now time.Duration, class transport.Class) {
	c := &f.call
	s.cfg.Driver.Cancel(c)
	if !c.Tried {
		s.flights[c.Op].remove(f)
		s.count--
		s.shed(f, ShedNoConnection, now)
		return
	}
	c.Class, c.Code, c.Done = class, 0, now
	s.ended(f)
}

// shed counts a call that could not be made.
func (s *Shard) shed(f *flight, why Shed, now time.Duration) {
	t := s.tally(f)
	t.Shed[why]++
	t.Response.Censored.Record(now - f.call.Intended)
	if s.cfg.Observer != nil {
		s.cfg.Observer.Shed(&f.call, why)
	}
	s.put(f)
}

// abandon counts what is still under way when the drain is over.
func (s *Shard) abandon(now time.Duration) {
	for op := range s.flights {
		for f := s.flights[op].head; f != nil; f = s.flights[op].head {
			s.stop(f, now, ShedEnd)
		}
	}
}

// leave takes a counted call off the books.
func (s *Shard) leave(f *flight, final bool) {
	s.flights[f.call.Op].remove(f)
	s.count--
	if s.cfg.Observer != nil {
		s.cfg.Observer.Ended(&f.call, f.phase, final)
	}
	s.put(f)
}

// over says that nothing is left to do or to wait for.
func (s *Shard) over(now time.Duration) bool {
	if s.count == s.held() {
		if s.cfg.Closed > 0 {
			return !s.more(now)
		}
		_, more := s.due()
		return !more
	}
	return now >= s.end && now >= s.end+s.cfg.Drain
}

// held is how many streams are held.
func (s *Shard) held() (n int) {
	for op := range s.cfg.Held {
		n += s.flights[op].n
	}
	return n
}

// wake returns until when there is nothing to do but wait.
func (s *Shard) wake(now time.Duration) time.Duration {
	if s.behind {
		return now
	}
	until := min(now+tick, s.expiry)
	if s.cfg.Closed == 0 {
		if at, ok := s.due(); ok {
			return min(until, at)
		}
	} else if s.more(now) {
		return min(until, s.end)
	}
	return min(until, max(s.end, now)+max(0, s.cfg.Drain))
}

func (s *Shard) take() *flight {
	f := s.free
	if f == nil {
		return new(flight)
	}
	s.free, f.next = f.next, nil
	return f
}

func (s *Shard) put(f *flight) { f.next, s.free = s.free, f }

// flights is a queue that any of its members can leave.
type flights struct {
	head, tail *flight
	n          int
}

func (l *flights) push(f *flight) {
	l.n++
	f.prev, f.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = f
	} else {
		l.head = f
	}
	l.tail = f
}

func (l *flights) remove(f *flight) {
	l.n--
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		l.head = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		l.tail = f.prev
	}
	f.prev, f.next = nil, nil
}
