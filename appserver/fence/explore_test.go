package fence

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"darklaunch/appserver/store"
)

// The explorer runs servers that use Owner against one row, over a network that
// may deliver a put at any later moment, lose its answer, and carry copies of it
// that nobody asked for. It visits every state that bounds allow, and holds the
// row and the servers' copies against what was acknowledged.

// A design is a way to write a row. All but the first are near misses.
type design int

const (
	whole       design = iota // package fence
	leaseOnly                 // no condition: a lease says who writes
	epochMoveOn               // the epoch is compared; a put without answer is given up
	epochResend               // the epoch is compared; a put is sent until it is answered
	epochClaim                // the epoch is compared; a put without answer is followed by a claim
	seqBlind                  // epoch and seq are compared; false is taken for not written
)

// accepts is the condition that the store checks.
func (d design) accepts(row, cur store.Fence, claim bool) bool {
	switch {
	case d == leaseOnly:
		return true
	case d == whole || claim:
		return row == cur
	case d == seqBlind:
		return row.Epoch == cur.Epoch && row.Seq == cur.Seq
	}
	return row.Epoch == cur.Epoch
}

// bounds make the state space finite.
type bounds struct {
	servers, ops int
	claims       int8 // a server
	writes       int8 // a server: commits, flushes, hand-overs and seals
	copies       int8 // of a put, on the asking of the server
	resend       bool // the client library sends every put once more, when it likes
	exact        bool // a store that refuses says so: nothing was written
	stale        bool // reads may find the row as it was
	leave        bool // servers hand over and seal
	flush        bool // servers write what was made from the log
}

const (
	maxServers = 3
	maxSeq     = 4 // also of ops
	maxMsgs    = 4
	maxChain   = 10
)

// id names a fence; a table has them.
type id uint16

type logCopy [maxSeq + 1]int8 // op by sequence number

func (l logCopy) top() int8 {
	for q := int8(maxSeq); q > 0; q-- {
		if l[q] != 0 {
			return q
		}
	}
	return 0
}

func (l logCopy) find(op int8) int8 {
	for q := int8(1); q <= maxSeq; q++ {
		if l[q] == op {
			return q
		}
	}
	return 0
}

type message struct {
	cur, next id // next 0: none
	from      int8
	claim     bool
	seq, op   int8 // op 0: no action
	meta      int8 // how far the metadata of the put covers the log
}

type server struct {
	state           State
	again           bool
	held, cur, next id
	loaded          bool
	reading         bool // the put's answer did not settle it
	copy            logCopy
	seq, op, meta   int8 // of the put on its way
	copies          int8
	resent          bool
	claims, writes  int8
	tags            int8
}

type state struct {
	row struct {
		fence id
		log   logCopy
		meta  int8
	}
	chain   [maxChain]id // fences that the row had, oldest first
	length  int8
	servers [maxServers]server
	network [maxMsgs]message
	acked   [maxSeq + 1]int8 // by op: sequence number + 1
}

// explorer is one exploration.
type explorer struct {
	design
	bounds
	fences []store.Fence
	ids    map[store.Fence]id
	seen   map[state]int32 // where in steps
	queue  []state
	steps  []step
	at     int32 // whose successors are being found
}

// step is how a state came to be, for the trace of a violation.
type step struct {
	from int32
	who  int8
	what string
	n    int64
}

func newExplorer(d design, b bounds) *explorer {
	return &explorer{design: d, bounds: b, fences: []store.Fence{{}}, ids: map[store.Fence]id{{}: 0}, seen: map[state]int32{}}
}

func (x *explorer) id(f store.Fence) id {
	i, ok := x.ids[f]
	if !ok {
		i = id(len(x.fences))
		x.ids[f], x.fences = i, append(x.fences, f)
	}
	return i
}

// owner makes the real thing of what a state says.
func (x *explorer) owner(s *server) *Owner {
	return &Owner{state: s.state, held: x.fences[s.held], write: Write{x.fences[s.cur], x.fences[s.next]}, again: s.again}
}

// keep is the inverse of owner.
func (x *explorer) keep(s *server, o *Owner) {
	s.state, s.held, s.again = o.state, x.id(o.held), o.again
	s.cur, s.next = x.id(o.write.Cur), x.id(o.write.Next)
	if o.state == Out {
		*s = server{claims: s.claims, writes: s.writes, tags: s.tags}
	}
	if o.state == Owning || o.state == Out {
		s.reading, s.copies, s.resent, s.seq, s.op, s.meta = false, 0, false, 0, 0, 0
	}
}

func (x *explorer) push(s state, who int, what string, n int) {
	x.forget(&s)
	if _, known := x.seen[s]; known {
		return
	}
	x.seen[s] = int32(len(x.steps))
	x.queue = append(x.queue, s)
	x.steps = append(x.steps, step{x.at, int8(who), what, int64(n)})
}

// forget drops puts that change nothing however late they come: their fence has
// been replaced, and as no two fences are equal it never comes again; and nobody
// waits for their answer. It holds for the whole compare alone.
func (x *explorer) forget(s *state) {
	if x.design != whole {
		return
	}
	for i, m := range s.network {
		if m.next != 0 && m.cur != s.row.fence && (s.servers[m.from].next != m.next || s.servers[m.from].reading) {
			s.network[i] = message{}
		}
	}
	s.sort()
}

// run visits all states, or those up to the first that is wrong. It returns how
// many, what is wrong, and how it came to that.
func (x *explorer) run() (states int, wrong, trace string) {
	x.at = -1
	x.push(state{}, 0, "starts", 0)
	for i := 0; i < len(x.queue); i++ {
		s := x.queue[i]
		x.at = int32(i)
		if wrong = x.violation(&s); wrong != "" {
			return len(x.queue), wrong, x.trace(x.at)
		}
		for m := range s.network {
			if s.network[m].next != 0 {
				x.deliver(s, m)
			}
		}
		for k := range x.servers {
			x.act(s, k)
		}
	}
	return len(x.queue), "", ""
}

func (x *explorer) trace(at int32) string {
	var lines []string
	for ; at >= 0; at = x.steps[at].from {
		t := x.steps[at]
		lines = append(lines, fmt.Sprintf("%s %s %d", name(int(t.who)), t.what, t.n))
	}
	var b strings.Builder
	for i := len(lines) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%3d. %s\n", len(lines)-1-i, lines[i])
	}
	return b.String()
}

// violation says what is wrong with a state.
func (x *explorer) violation(s *state) string {
	count := map[int8]int{}
	for q := int8(1); q <= maxSeq; q++ {
		if op := s.row.log[q]; op != 0 {
			if count[op]++; count[op] > 1 {
				return fmt.Sprintf("DUPLICATE: op %d is in the log twice", op)
			}
			if q > 1 && s.row.log[q-1] == 0 {
				return fmt.Sprintf("GAP: the log has %d and lacks %d", q, q-1)
			}
		}
	}
	for op, at := range s.acked {
		if at != 0 && s.row.log[at-1] != int8(op) {
			return fmt.Sprintf("LOST: op %d was acknowledged at %d, where there is op %d", op, at-1, s.row.log[at-1])
		}
	}
	if top := s.row.log.top(); s.row.meta > top || !x.flush && s.row.meta != top {
		return fmt.Sprintf("TORN: the log ends at %d, its metadata at %d", top, s.row.meta)
	}
	if x.design != whole {
		return ""
	}
	if f := x.fences[s.row.fence]; int8(f.Seq) != s.row.log.top() {
		return fmt.Sprintf("FENCE: it says %d, the log ends at %d", f.Seq, s.row.log.top())
	}
	for k, v := range s.servers {
		if v.state == Owning && v.loaded && v.held == s.row.fence && v.copy != s.row.log {
			return fmt.Sprintf("COPY: %s has %v, the row %v", name(k), v.copy, s.row.log)
		}
	}
	return ""
}

func name(k int) string { return string(rune('A' + k)) }

// deliver lets the store run a put.
func (x *explorer) deliver(s state, at int) {
	m := s.network[at]
	s.network[at] = message{}
	s.sort()
	accepted := x.accepts(x.fences[s.row.fence], x.fences[m.cur], m.claim)
	if accepted {
		x.apply(&s, m)
	}
	if x.fences[m.cur].Flags&store.Sealed != 0 && accepted {
		s.row.meta = 99 // written after the seal: a violation that the check sees
	}
	what := "'s put is refused"
	if accepted {
		what = "'s put is written"
	}
	x.push(s, int(m.from), what+", the answer is lost; op", int(m.op))
	v := &s.servers[m.from]
	if v.next != m.next || v.reading {
		return // nobody waits
	}
	x.answer(&s, int(m.from), accepted)
	x.push(s, int(m.from), what+", the answer arrives; op", int(m.op))
}

func (x *explorer) apply(s *state, m message) {
	s.row.fence = m.next
	if x.stale {
		s.chain[s.length] = m.next
		s.length++
	}
	if m.op != 0 {
		s.row.log[m.seq] = m.op
	}
	if !m.claim {
		s.row.meta = m.meta
	}
}

// sort puts messages in an order, so that states which differ in nothing else are one.
func (s *state) sort() {
	for i := 1; i < maxMsgs; i++ {
		for j := i; j > 0 && s.network[j].next > s.network[j-1].next; j-- {
			s.network[j], s.network[j-1] = s.network[j-1], s.network[j]
		}
	}
}

func (s *state) send(k int) bool {
	v := &s.servers[k]
	m := message{cur: v.cur, next: v.next, from: int8(k), claim: v.state == Claiming, seq: v.seq, op: v.op, meta: v.meta}
	if s.network[maxMsgs-1].next != 0 {
		return false
	}
	s.network[maxMsgs-1] = m
	s.sort()
	return true
}

var errAny = errors.New("no answer")

// answer is what a server makes of an answer.
func (x *explorer) answer(s *state, k int, accepted bool) {
	v := &s.servers[k]
	o := x.owner(v)
	var err error
	switch {
	case accepted:
	case x.exact:
		err = store.ErrFenced
	default:
		err = errAny
	}
	if !accepted && x.design != whole && o.state != Claiming {
		if row := x.fences[s.row.fence]; x.design == seqBlind && row.Epoch == o.held.Epoch {
			o.back()
			o.held = row
		} else {
			o.Drop()
		}
		x.keep(v, o)
		return
	}
	x.take(s, k, o, o.Answer(err))
}

// take does what a step asks for.
func (x *explorer) take(s *state, k int, o *Owner, next Step) {
	v := &s.servers[k]
	op, seq := v.op, v.seq
	x.keep(v, o)
	switch next {
	case ReadBack:
		v.reading = true
	case Won:
		if op != 0 {
			v.copy[seq] = op
			s.acked[op] = seq + 1
		}
	}
}

// act lets a server do each thing that it may do.
func (x *explorer) act(s state, k int) {
	switch v := &s.servers[k]; {
	case v.state == Out:
		x.claim(s, k)
	case v.state == Owning && !v.loaded:
		for _, f := range x.reads(&s) {
			n := s
			v := &n.servers[k]
			o := x.owner(v)
			if o.Loaded(x.fences[f]) {
				v.loaded, v.copy = true, n.row.log
			} else {
				x.keep(v, o)
			}
			x.push(n, k, "loads the row at seq", int(x.fences[f].Seq))
		}
	case v.state == Owning:
		x.serve(s, k)
	case v.reading:
		x.readBack(s, k)
	default:
		x.wait(s, k)
	}
	if s.servers[k].state != Out {
		x.keep(&s.servers[k], &Owner{})
		x.push(s, k, "restarts", 0)
	}
}

// reads are the fences that a read may find.
func (x *explorer) reads(s *state) []id {
	found := []id{s.row.fence}
	if x.stale {
		found = append(found, 0)
		found = append(found, s.chain[:max(0, s.length-1)]...)
	}
	return found
}

func (x *explorer) claim(s state, k int) {
	if s.servers[k].claims == x.claims {
		return
	}
	for _, f := range x.reads(&s) {
		n := s
		v := &n.servers[k]
		v.claims++
		if x.design == leaseOnly {
			v.state, v.held, v.loaded, v.copy = Owning, f, true, n.row.log
			x.push(n, k, "gets the lease and loads the row", 0)
			continue
		}
		o := x.owner(v)
		if _, err := o.Claim(x.fences[f], store.Ring{Number: 1}, v.tag(k)); err != nil {
			continue // sealed
		}
		x.keep(v, o)
		if n.send(k) {
			x.push(n, k, "claims epoch", int(x.fences[v.next].Epoch))
		}
	}
}

func (s *server) tag(k int) store.Tag {
	s.tags++
	return store.Tag{byte(k + 1), byte(s.tags)}
}

// serve writes what there is to write.
func (x *explorer) serve(s state, k int) {
	v := s.servers[k]
	for op := int8(1); op <= int8(x.ops); op++ {
		n := s
		if n.acked[op] != 0 {
			continue
		}
		if at := v.copy.find(op); at != 0 {
			n.acked[op] = at + 1
			x.push(n, k, "has in its copy, and acknowledges, op", int(op))
			continue
		}
		seq := v.copy.top() + 1
		if x.design == whole || x.design == seqBlind {
			seq = int8(x.fences[v.held].Seq) + 1
		}
		if seq > maxSeq {
			continue
		}
		x.write(n, k, seq, op, func(o *Owner, tag store.Tag) { o.Commit(1, tag) }, "sends op")
	}
	if x.flush && s.row.meta < v.copy.top() {
		x.write(s, k, 0, 0, func(o *Owner, tag store.Tag) { o.Commit(0, tag) }, "flushes")
	}
	if x.leave {
		x.write(s, k, 0, 0, func(o *Owner, tag store.Tag) { o.HandOver(store.Ring{Number: 1}, tag) }, "hands over")
		x.write(s, k, 0, 0, func(o *Owner, tag store.Tag) { o.Seal(tag) }, "seals")
	}
}

func (x *explorer) write(s state, k int, seq, op int8, begin func(*Owner, store.Tag), what string) {
	v := &s.servers[k]
	if v.writes == x.writes {
		return
	}
	v.writes++
	o := x.owner(v)
	begin(o, v.tag(k))
	x.keep(v, o)
	v.seq, v.op, v.copies = seq, op, 1
	v.meta = max(seq, v.copy.top())
	if x.flush && op != 0 {
		v.meta = s.row.meta // as of the owner's copy; a commit leaves it to the flush
	}
	if s.send(k) {
		x.push(s, k, what, int(op))
	}
}

// wait is for an answer that may not come.
func (x *explorer) wait(s state, k int) {
	if x.resend && !s.servers[k].resent {
		n := s
		n.servers[k].resent = true
		if n.send(k) {
			x.push(n, k, "'s client library sends the put again; op", int(n.servers[k].op))
		}
	}
	v := &s.servers[k]
	o := x.owner(v)
	switch {
	case x.design == whole || o.state == Claiming:
		x.take(&s, k, o, o.Answer(errAny))
	case x.design == leaseOnly || x.design == epochMoveOn:
		o.back()
		x.keep(v, o)
	case x.design == epochClaim:
		o.Drop()
		x.keep(v, o)
	default:
		return // goes on waiting
	}
	x.push(s, k, "waits no longer", 0)
}

func (x *explorer) readBack(s state, k int) {
	for _, f := range x.reads(&s) {
		n := s
		v := &n.servers[k]
		o := x.owner(v)
		next := o.Saw(x.fences[f])
		x.take(&n, k, o, next)
		if next == Again {
			if v.copies++; v.copies > x.copies || !n.send(k) {
				continue
			}
			v.reading = false
		}
		x.push(n, k, "reads back: "+next.String(), 0)
	}
}

// TestProtocol visits all that can happen to a row within bounds: what the fence lets
// through is one server's. Row B19.
func TestProtocol(t *testing.T) {
	for _, tt := range []struct {
		name  string
		b     bounds
		long  bool
		least int // states, so that a bound which cuts all off is noticed
	}{
		{"two servers, copies by the library", bounds{servers: 2, ops: 1, claims: 2, writes: 2, copies: 2, resend: true}, true, 1000},
		{"two operations", bounds{servers: 2, ops: 2, claims: 1, writes: 2, copies: 1, resend: true}, false, 1000},
		{"a store that says no", bounds{servers: 2, ops: 2, claims: 1, writes: 2, copies: 2, exact: true}, false, 1000},
		{"stale reads", bounds{servers: 2, ops: 1, claims: 2, writes: 1, copies: 1, resend: true, stale: true}, true, 1000},
		{"hand over and seal", bounds{servers: 2, ops: 1, claims: 1, writes: 2, copies: 1, resend: true, leave: true}, false, 1000},
		{"metadata lags", bounds{servers: 2, ops: 1, claims: 1, writes: 2, copies: 1, resend: true, flush: true}, false, 1000},
		{"three servers", bounds{servers: 3, ops: 1, claims: 1, writes: 1, copies: 1, resend: true}, true, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.long && testing.Short() {
				t.Skip("-short: takes seconds")
			}
			x := newExplorer(whole, tt.b)
			states, wrong, trace := x.run()
			if wrong != "" {
				t.Errorf("after %d states: %s\n%s", states, wrong, trace)
			}
			if states < tt.least {
				t.Errorf("%d states, want at least %d", states, tt.least)
			}
			t.Logf("holds in all %d states", states)
		})
	}
}

// TestNearMisses explores designs that differ little, and finds what each does wrong.
func TestNearMisses(t *testing.T) {
	for _, tt := range []struct {
		name string
		design
		want string
	}{
		{"a lease alone", leaseOnly, "LOST"},
		{"epoch; gives up without answer", epochMoveOn, "LOST"},
		{"epoch; sends until answered", epochResend, "TORN"},
		{"epoch; claims again without answer", epochClaim, "TORN"},
		{"epoch and sequence; false is not written", seqBlind, "DUPLICATE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := newExplorer(tt.design, bounds{servers: 2, ops: 2, claims: 2, writes: 3, copies: 1, resend: true})
			states, wrong, trace := x.run()
			if !strings.HasPrefix(wrong, tt.want) {
				t.Errorf("after %d states: got %q, want %s\n%s", states, wrong, tt.want, trace)
			}
			t.Logf("%s after %d states", wrong, states)
		})
	}
}
