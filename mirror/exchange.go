package mirror

import (
	"strings"
	"sync/atomic"
	"time"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// candidate is an exchange that may be copied, or whose users may miss it.
type candidate struct {
	passing
	decision sample.Decision
	final    bool // nothing that comes later changes the decision
	marked   bool // it is a copy of another mirror's
	unsafe   bool
	offered  bool         // before its end, as a stream
	author   string       // kept where pairs of some alone are shipped
	nobody   bool         // it is sampled by itself, and has no author
	unkept   lanes.Reason // why its bodies were not kept
	id       uint64
}

// Request implements observe.Sink. It finds out as early as possible that an
// exchange is not copied, as most are not.
func (c *connection) Request(x *observe.Exchange) observe.Mode {
	c.m.at(stageRequest)
	c.open++
	c.begun = false
	c.head(x)
	r := c.f.route(c.exchange.Method, c.exchange.Path, x.GRPC())
	_, marked := x.Request.Header.Get(shadow.RoleHeader)
	if marked {
		c.m.metrics.marked.Inc()
	}
	unsafe := sample.Unsafe(&c.exchange, c.m.cfg.Descriptors)
	c.exchange.Unsafe = unsafe && r.unsafe && !r.skip
	if c.m.cfg.Missing == sample.MissingRandom {
		c.exchange.ID = c.m.ids.Add(1)
	}
	d, final := c.decideEarly(r)
	copied := !r.skip && (r.unsafe || !unsafe) && (!marked || unsafe) && c.f.copies()
	if final || !copied {
		d.Admitted = d.Admitted && copied
		c.m.tally.add(&d)
	}
	if !copied || final && !d.Admitted && d.Unattributed == "" {
		x.Tag = &r.passing[b2i(d.Author.Sampled)]
		return observe.Ignore
	}
	t := c.newCandidate()
	*t = candidate{passing: r.passing[b2i(d.Author.Sampled)], decision: d, final: final, marked: marked, unsafe: unsafe, id: c.exchange.ID}
	x.Tag = t
	if !final {
		return observe.Keep
	}
	t.settle()
	t.unkept = lanes.Reason(c.m.off.Load())
	if marked || !d.Admitted || t.unkept != lanes.NotDropped {
		return observe.Ignore
	}
	return observe.Keep
}

func (c *connection) newCandidate() *candidate {
	n := len(c.spare)
	if n == 0 {
		return new(candidate)
	}
	t := c.spare[n-1]
	c.spare = c.spare[:n-1]
	return t
}

// settle lets go of keys, which lie in the exchange's memory.
func (t *candidate) settle() {
	d := &t.decision
	t.nobody = d.Author.Key == ""
	if t.route.stats.pairs.Partial() {
		t.author = strings.Clone(d.Author.Key)
	}
	d.Author.Key = ""
	for i := range d.Touched {
		d.Touched[i].Key = ""
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// copies reports whether there is anybody to copy to.
func (f *front) copies() bool {
	return f.backends[lanes.Shadow] != nil || f.backends[lanes.Control] != nil
}

// head reads x's request header into the scratch exchange.
func (c *connection) head(x *observe.Exchange) {
	query, _ := x.Query()
	c.exchange = sample.Exchange{
		Method: text(x.Method()), Path: text(x.Path()), Query: text(query), Client: c.exchange.Client,
		Request: sample.Message{Header: (*fields)(&x.Request.Header)},
	}
}

// decideEarly decides by the header of the request. final says that what comes
// later can't change it.
func (c *connection) decideEarly(r *route) (d sample.Decision, final bool) {
	if !r.wants.any() {
		return c.m.sampler.Decide(&c.exchange, c.f.keys, r.touch, c.m.Share()), true
	}
	d = c.m.early.Decide(&c.exchange, c.f.keys[:c.f.early], r.early, c.m.Share())
	return d, d.Author.Key != "" && len(r.early) == len(r.touch)
}

// Answer implements observe.Sink.
func (c *connection) Answer(x *observe.Exchange) observe.Mode {
	c.m.at(stageAnswer)
	t, ok := x.Tag.(*candidate)
	switch {
	case !ok || t.final && (t.marked || !t.decision.Admitted || t.unkept != lanes.NotDropped):
		return observe.Ignore
	case !t.final && t.route.wants.answerBody, t.unsafe && len(c.f.assign) > 0, c.f.translates, c.m.told:
		return observe.Keep
	}
	return observe.Hash
}

// Ongoing implements observe.Sink. What streams from live is copied before it ends.
func (c *connection) Ongoing(x *observe.Exchange, long bool) (taken bool) {
	t, ok := x.Tag.(*candidate)
	if !ok || !long && !t.route.stream && !c.m.cfg.Descriptors.ServerStreams(text(x.Path())) {
		return false
	}
	request := &x.Request.Body
	if request.Messages > 1 || request.Truncated || t.unkept != lanes.NotDropped || !t.final && t.route.wants.answer {
		return false // for its end to decide
	}
	c.decide(x, t)
	if t.marked || !t.decision.Admitted || t.unsafe && t.decision.Unattributed != "" || c.m.off.Load() != uint32(lanes.NotDropped) {
		return false
	}
	p := c.pending(x, t, lanes.Unknown, x.Request.Last)
	p.copy.Stream = true
	taken = c.m.offer(x, p, lanes.NotDropped)
	t.offered = taken
	return taken
}

// Done implements observe.Sink.
func (c *connection) Done(x *observe.Exchange) {
	c.m.at(stageDone)
	switch t := x.Tag.(type) {
	case *passing:
		c.open--
		c.m.count(x, t)
	case *candidate:
		c.open--
		c.decide(x, t)
		c.m.count(x, &t.passing)
		c.judge(x, t)
		c.spare = append(c.spare, t)
	default: // malformed, and its request was never told
	}
}

// decide completes the decision by what came after the header.
func (c *connection) decide(x *observe.Exchange, t *candidate) {
	if t.final {
		return
	}
	c.head(x)
	c.exchange.ID = t.id
	c.exchange.Unsafe = t.unsafe && t.route.unsafe
	c.exchange.Refused = effect(x) == lanes.DidNot
	c.exchange.Request.Body, c.exchange.Request.Truncated = x.Request.Body.Bytes, x.Request.Body.Truncated || !x.Request.Complete
	c.exchange.Answer = sample.Message{
		Header: (*fields)(&x.Answer.Header), Body: x.Answer.Body.Bytes, Truncated: x.Answer.Body.Truncated || !x.Answer.Complete,
	}
	t.decision = c.m.sampler.Decide(&c.exchange, c.f.keys, t.route.touch, c.m.Share())
	t.passing.sampled = t.decision.Author.Sampled
	c.m.tally.add(&t.decision)
	t.settle()
	t.final = true
}

// judge says what becomes of an exchange that live has ended.
func (c *connection) judge(x *observe.Exchange, t *candidate) {
	if t.offered {
		return
	}
	live := effect(x)
	end := x.Answer.Last
	if end.Before(x.Request.Last) {
		end = x.Request.Last
	}
	if x.Outcome != observe.Complete {
		end = time.Now() // no chunk tells when it was cut
	}
	p := c.pending(x, t, live, end)
	if t.unsafe && live != lanes.DidNot {
		if t.decision.Unattributed != "" {
			c.m.metrics.unattributed[t.decision.Unattributed].Inc()
		}
		if t.marked || t.decision.Unattributed != "" || unread(x) {
			c.m.lanes.Missed(p.copy.Users, x.Request.First, end)
		}
	}
	if t.marked || !t.decision.Admitted || unread(x) {
		p.recycle()
		return
	}
	c.m.offer(x, p, t.unkept)
}

// pending is what a copy of x would be: live did what live says, until end.
func (c *connection) pending(x *observe.Exchange, t *candidate, live lanes.Effect, end time.Time) *pending {
	p := c.m.pendings.Get().(*pending)
	p.route, p.front = t.route, c.f
	p.copy.Users = t.users(p.one[:0])
	c.meet(p.copy.Users)
	p.copy.Author, p.copy.Unsafe, p.copy.Live = t.decision.Author.Admitted && !t.nobody, t.unsafe, live
	p.copy.Start, p.copy.End = x.Request.First, end
	p.author, p.pair.Author = t.decision.Author.ID, t.author
	return p
}

// users are those of t who are admitted, the author first.
func (t *candidate) users(us []lanes.User) []lanes.User {
	d := &t.decision
	if d.Author.Admitted && !t.nobody {
		us = append(us, lanes.User{ID: d.Author.ID, Rank: d.Author.Rank})
	}
	for i := range d.Touched {
		if u := &d.Touched[i]; u.Admitted {
			us = append(us, lanes.User{ID: u.ID, Rank: u.Rank})
		}
	}
	return us
}

// unread reports whether what x did can't be known.
func unread(x *observe.Exchange) bool {
	switch x.Outcome {
	case observe.Malformed, observe.Tunnelled, observe.Upgraded, observe.Unobserved:
		return true
	}
	return false
}

// effect is what live's answer says of what it did.
func effect(x *observe.Exchange) lanes.Effect {
	if x.Outcome == observe.Refused {
		return lanes.DidNot
	}
	if !x.Answer.Complete {
		return lanes.Unknown
	}
	grpc := -1
	if x.GRPC() {
		code, _, ok := x.GRPCStatus()
		if grpc = code; !ok {
			grpc = grpcUnknown
		}
	}
	return effectOf(x.Status, grpc)
}

const grpcUnknown = 2

// effectOf is what an answer says of its request's effect; grpc is -1 outside gRPC.
func effectOf(status, grpc int) lanes.Effect {
	text := ""
	if grpc > 0 {
		text = codeName(grpc)
	}
	switch {
	case sample.Refused(status, text):
		return lanes.DidNot
	case status < 400 && grpc <= 0:
		return lanes.Did
	}
	return lanes.Unknown
}

// pending is a copy with what is needed to send it.
type pending struct {
	copy   lanes.Copy
	one    [1]lanes.User // backs copy.Users of most copies
	front  *front
	route  *route
	x      *observe.Exchange // nil if dropped at once
	author uint64
	pair   pairs.Pair

	legs [lanes.NumRoles]leg

	// What is sent, once a leg is due.
	built      bool
	unassigned bool // the role decides something that live decided otherwise
	calls      [1]shadow.Call
	sent       shadow.Copy
	other      *translated // what roles get that speak another API; made once

	release func()       // end, made once
	uses    atomic.Int32 // by the lanes, and by each leg that the loop has
}

func newPending() any {
	p := new(pending)
	p.release = p.end
	return p
}

// end is lanes.Copy.Release.
func (p *pending) end() {
	if p.x != nil {
		p.front.m.pairs.End(&p.pair)
		p.x.Release()
	}
	p.unused()
}

// unused says that one of those who use p does so no more. The lanes let go of a
// copy that was dropped when the loop learns of it, which still has its job then.
func (p *pending) unused() {
	if p.uses.Add(-1) == 0 {
		p.recycle()
	}
}

// recycle gives p back, of which nobody knows any more.
func (p *pending) recycle() {
	pool, call := &p.front.m.pendings, p.calls[0]
	release := p.release
	*p = pending{}
	p.release = release
	if cap(call.Header)+cap(call.Trailer) <= spareFields {
		p.calls[0].Header, p.calls[0].Trailer = call.Header[:0], call.Trailer[:0]
	}
	pool.Put(p)
}

// spareFields is how many fields a pending in the pool has room for at most.
const spareFields = 64

// offer hands a copy to the lanes, and reports whether it took x to be sent.
func (m *Mirror) offer(x *observe.Exchange, p *pending, unkept lanes.Reason) (took bool) {
	m.at(stageOffer)
	take, drop := x.Take, lanes.NotDropped
	if p.copy.Stream {
		take = x.TakeRequest
	} else {
		drop = m.whyNot(x, unkept)
	}
	if drop == lanes.NotDropped {
		var ok bool
		if p.x, ok = take(); !ok {
			drop = lanes.Budget
		} else {
			p.copy.Bytes = int64(p.x.Held())
			p.sent.ID, p.sent.Key = newID(), p.author
			p.pair = pairs.Pair{Route: p.route.stats.pairs, ID: p.sent.ID, Key: p.author, Author: p.pair.Author, Unsafe: p.copy.Unsafe, Live: p.x}
			if rules := p.front.cfg.Translate.Rules; rules != nil {
				p.pair.Documents = rules
			}
		}
	}
	for r, b := range p.front.backends {
		if b == nil {
			continue
		}
		p.copy.Roles[r], p.copy.Drop[r] = true, drop
		if drop == lanes.NotDropped && !b.Ready() {
			p.copy.Drop[r] = lanes.BreakerOpen
		}
		if t := &p.front.cfg.Translate; t.speaks(lanes.Role(r)) && !t.Rules.Handles(p.route.name) {
			p.copy.Drop[r], p.copy.Harmless[r] = lanes.NoCounterpart, t.Rules.Harmless(p.route.name)
		}
	}
	p.pair.Roles = p.copy.Roles
	p.copy.Payload, p.copy.Release = p, p.release
	p.uses.Store(1)
	took = p.x != nil
	if !m.lanes.Offer(&p.copy) {
		if p.x != nil {
			p.x.Release()
		}
		p.recycle()
	}
	return took
}

// whyNot says why x can't be sent again though it is admitted.
func (m *Mirror) whyNot(x *observe.Exchange, unkept lanes.Reason) lanes.Reason {
	body := &x.Request.Body
	stream := x.GRPC() && (body.Messages > 1 || x.Answer.Body.Messages > 1)
	switch {
	case x.Outcome != observe.Complete && stream:
		return lanes.Streaming
	case x.Outcome != observe.Complete:
		return lanes.LiveAborted
	case unkept != lanes.NotDropped: // it was off when the request came
		return unkept
	case body.Truncated && stream:
		return lanes.Streaming
	case body.Truncated && len(body.Bytes) >= m.cfg.MaxBody:
		return lanes.BodyTooLarge
	case body.Truncated:
		return lanes.Budget
	}
	return lanes.NotDropped
}

// call returns the copy as a backend takes it.
func (p *pending) call() *shadow.Copy {
	if p.built {
		return &p.sent
	}
	p.built = true
	p.calls[0].Observed(p.x, p.route.name)
	p.calls[0].Stream = p.copy.Stream
	p.sent.Calls = p.calls[:]
	if !p.copy.Unsafe {
		return &p.sent // live decided nothing
	}
	for _, a := range p.front.assign {
		p.unassigned = !a.Apply(p.x, &p.calls[0]) || p.unassigned
	}
	return &p.sent
}
