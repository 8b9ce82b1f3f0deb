package scenario

import (
	"container/heap"
	"slices"
	"time"

	"darklaunch/loadgen/arrival"
	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/population"
	"darklaunch/loadgen/session"
	"darklaunch/loadgen/transport"
)

// visit is a session under way, or a single call.
type visit struct {
	session.Session
	step uint64 // operations begun, as package session counts them
	op   int    // the next one
	at   time.Duration
	vars [][]string // values by variable, the newest or only one first
	body []byte     // of the call under way
	path []byte
	held []*transport.Call // streams under way
	next int               // the stream that is to be opened before the next step
}

// visits is the Source of one shard, and learns as its Observer how calls ended.
// It belongs to the shard's goroutine.
type visits struct {
	s        *Scenario
	run      *run
	arrivals *arrival.Arrivals
	next     time.Duration // arrival
	more     bool
	due      byTime
	last     time.Duration              // nothing is due before what was taken
	calls    map[*transport.Call]*visit // by address, which no two under way share
	over     []*transport.Call          // streams of sessions that have ended
	free     []*visit
	steps    draw.Rand
	env      env
}

func (s *Scenario) source(r *run, index, total int) (*visits, error) {
	a, err := r.plan.Arrivals(index, total)
	if err != nil {
		return nil, err
	}
	v := &visits{s: s, run: r, arrivals: a, calls: map[*transport.Call]*visit{}, steps: draw.New(r.Seed, draw.Steps, 0, 0)}
	v.env = env{s: s, run: r, rand: draw.New(r.Seed, draw.Content, 0, 0)}
	v.next, v.more = a.Next()
	return v, nil
}

// Peek implements engine.Source.
func (v *visits) Peek() (time.Duration, bool) {
	for v.more && (len(v.due) == 0 || v.next <= v.due[0].at) {
		x := v.visit()
		v.run.Stats.sessions.Add(1)
		x.Session, x.at = v.run.walk.Start(v.arrivals.N()), v.next
		v.next, v.more = v.arrivals.Next()
		x.next = v.stream(x, 0)
		v.goOn(x)
	}
	if len(v.due) == 0 {
		return 0, false
	}
	return max(v.last, v.due[0].at), true
}

func (v *visits) visit() *visit {
	if n := len(v.free); n > 0 {
		x := v.free[n-1]
		v.free = v.free[:n-1]
		return x
	}
	return &visit{vars: make([][]string, len(v.s.vars))}
}

// stream returns the first of the streams from i on that x's user holds, or how
// many there are.
func (v *visits) stream(x *visit, i int) int {
	for ; i < len(v.s.streams); i++ {
		if draw.Unit(draw.Hash(v.run.Seed, draw.Streams, uint64(x.User), uint64(i))) < v.s.streams[i].share {
			break
		}
	}
	return i
}

// end lets go of x's streams, and lets its memory be used again.
func (v *visits) end(x *visit) {
	v.run.Stats.sessions.Add(-1)
	for _, c := range x.held {
		delete(v.calls, c)
	}
	v.over = append(v.over, x.held...)
	x.held = x.held[:0]
	clear(x.vars)
	if cap(x.body) > 64<<10 {
		x.body = nil
	}
	x.step = 0
	v.free = append(v.free, x)
}

// goOn puts x where its next step is due, which it can make, or ends it.
func (v *visits) goOn(x *visit) {
	for {
		op, pause, ok := v.run.walk.Next(&x.Session, v.steps)
		if !ok {
			v.end(x)
			return
		}
		x.step++
		x.at += pause
		if x.op = v.possible(x, int(op)); x.op >= 0 {
			heap.Push(&v.due, x)
			return
		}
		v.run.Stats.passed.Add(1)
	}
}

// possible returns op, or what is to be done in its place, or -1 for neither.
func (v *visits) possible(x *visit, op int) int {
	for range 8 { // operations may stand for each other
		if op < 0 || v.can(x, &v.s.ops[op]) {
			return op
		}
		op = v.s.ops[op].otherwise
	}
	return -1
}

func (v *visits) can(x *visit, o *op) bool {
	for _, need := range o.needs {
		if len(x.vars[need]) == 0 {
			return false
		}
	}
	if o.when == nil {
		return true
	}
	v.env.v = x
	yes, _ := o.when.eval(&v.env)
	return yes == true
}

// Take implements engine.Source.
func (v *visits) Take(c *transport.Call) {
	x := v.due[0]
	v.last = max(v.last, x.at)
	v.calls[c] = x
	c.Op, c.User = x.op, uint64(x.User)
	e := &v.env
	e.v, e.due = x, c.Intended
	if x.next < len(v.s.streams) {
		// The step itself comes after.
		c.Op = v.s.streams[x.next].op
		x.held = append(x.held, c)
		x.next = v.stream(x, x.next+1)
		e.rand.Seek(v.run.Seed, draw.Content, x.N, 0)
	} else {
		heap.Pop(&v.due)
		e.rand.Seek(v.run.Seed, draw.Content, x.N, x.step)
	}
	v.fill(c, &v.s.ops[c.Op])
}

// fill makes what differs from one call of an operation to the next.
func (v *visits) fill(c *transport.Call, o *op) {
	e := &v.env
	x := e.v
	if o.drafts {
		e.draft = v.s.limited(v.s.mix.Draw(e.rand.Rand))
		c.Channel = e.draft.Channel.String()
	}
	for _, l := range o.let {
		x.vars[l.to] = []string{string(l.value.append(nil, e))}
	}
	if o.path != nil {
		x.path = o.path.append(x.path[:0], e)
		c.Path = string(x.path)
	}
	for _, h := range o.headers {
		c.Header = append(c.Header, transport.Header{Name: h.name, Value: string(h.value.append(nil, e))})
	}
	switch {
	case o.body == nil:
	case o.held: // the session's next calls have bodies while this one lasts
		c.Body = o.body.append(nil, e)
	default:
		x.body = o.body.append(x.body[:0], e)
		c.Body = x.body
	}
}

// limited is d within what the service takes.
func (s *Scenario) limited(d population.Draft) population.Draft {
	if s.limit.Body > 0 {
		d.Body = min(d.Body, s.limit.Body)
	}
	if s.limit.Recipients > 0 {
		d.Recipients = min(d.Recipients, s.limit.Recipients)
	}
	return d
}

// Released implements engine.Observer.
func (v *visits) Released(int, time.Duration) {}

// Shed implements engine.Observer: a session ends with a call that was not made,
// and goes on without a stream that was not opened.
func (v *visits) Shed(c *transport.Call, _ engine.Shed) {
	if v.closed(c) {
		return
	}
	if x := v.calls[c]; x != nil {
		delete(v.calls, c)
		v.end(x)
	}
}

// closed takes a stream off the books, and says whether c is one.
func (v *visits) closed(c *transport.Call) bool {
	if !v.s.ops[c.Op].held {
		return false
	}
	same := func(h *transport.Call) bool { return h == c }
	v.over = slices.DeleteFunc(v.over, same)
	if x := v.calls[c]; x != nil {
		x.held = slices.DeleteFunc(x.held, same)
		delete(v.calls, c)
	}
	return true
}

// LetGo implements engine.Holder.
func (v *visits) LetGo() *transport.Call {
	if len(v.over) == 0 {
		return nil
	}
	c := v.over[len(v.over)-1]
	v.over = v.over[:len(v.over)-1]
	return c
}

// Ended implements engine.Observer: the user of the call goes on, whether the
// call went well or not.
func (v *visits) Ended(c *transport.Call, _ engine.Phase, final bool) {
	if v.closed(c) {
		return
	}
	x := v.calls[c]
	delete(v.calls, c)
	if x == nil || !final {
		return
	}
	if c.Class == transport.OK {
		for _, s := range v.s.ops[x.op].save {
			if found := s.from.find(c.Answer); len(found) > 0 {
				x.vars[s.to] = found
			}
		}
	}
	x.at = c.Done
	v.goOn(x)
}

// byTime is a heap of visits; at one time the older session goes first.
type byTime []*visit

func (h byTime) Len() int { return len(h) }
func (h byTime) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].N < h[j].N
}
func (h byTime) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)   { *h = append(*h, x.(*visit)) }
func (h *byTime) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
