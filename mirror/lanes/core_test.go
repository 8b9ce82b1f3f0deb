package lanes

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

// world drives a core through a random history and checks, after every step,
// all that must hold. What it expects it derives from the copies alone.
type world struct {
	c    *core
	pick func(n int) int
	now  int64

	copies  []*Copy
	offered [NumRoles]uint64
	held    map[*Copy][NumRoles]bool // what the sender has
	seen    map[Reason]int
	judged  [2]int
	freed   map[*Copy]bool

	sabotage func(w *world) // a planted fault
}

const worldUsers = 8

func newWorld(pick func(n int) int) *world {
	cfg := Config{
		Sample: 600_000, Admit: 800_000, Unsafe: [NumRoles]bool{true, true}, InFlight: 3, LaneCopies: 5, MaxCopies: 20, MaxBytes: 300, MaxLanes: 7, MaxUsers: 100,
		MaxAge: 2 * time.Second, Timeout: time.Second, RecoverAfter: time.Second, Seed: 1,
	}
	w := &world{
		c: newCore(cfg), pick: pick, now: 1000 * sec,
		held: map[*Copy][NumRoles]bool{}, seen: map[Reason]int{}, freed: map[*Copy]bool{},
	}
	if _, _, err := openState(cfg, w.c, w.now); err != nil {
		panic(err)
	}
	return w
}

// userOf spreads users over the ranks; the first is on the allow list.
func userOf(id uint64) User { return User{ID: id, Rank: int32(id)*(1_000_000/worldUsers) - 1} }

func (w *world) newCopy() *Copy {
	cp := &Copy{
		Unsafe: w.pick(2) == 0, Live: Effect(w.pick(3)), Bytes: int64(w.pick(40)),
		Author: w.pick(4) > 0, Roles: [NumRoles]bool{w.pick(8) > 0, w.pick(4) > 0},
	}
	for range w.pick(4) {
		u := userOf(uint64(w.pick(worldUsers)))
		if u.Rank < w.c.admit { // now and then twice
			cp.Users = append(cp.Users, u)
		}
	}
	cp.Author = cp.Author && len(cp.Users) > 0
	cp.Release = func() {}
	if w.pick(12) == 0 {
		cp.Drop[w.pick(2)] = BodyTooLarge
	}
	cp.end = w.now - int64(w.pick(3))*ms // some arrive late
	cp.start = cp.end - int64(w.pick(6))*ms
	return cp
}

// step does one thing that may happen.
func (w *world) step() error {
	w.now += int64(w.pick(3)) * ms
	before, admin := w.moment(), false
	switch op := w.pick(40); {
	case op < 14:
		w.offer()
	case op < 22:
		w.take()
	case op < 34:
		if err := w.progress(); err != nil {
			return err
		}
	case op < 36:
		w.now += int64(w.pick(1500)) * ms
		w.c.tick(w.now)
	case op == 36:
		w.c.turn([]Reason{Killed, NotDropped, NotDropped}[w.pick(3)], w.now)
	case op == 37 && w.pick(2) == 0:
		w.c.hold(w.pick(3) == 0, w.now)
	case op == 37:
		sample := int32(w.pick(1_000_001))
		w.c.setShare(sample, int32(w.pick(1_000_001)), w.now)
		admin = true
	case op == 38:
		w.c.seed(userOf(uint64(w.pick(worldUsers))), w.now-int64(w.pick(3))*sec, w.now)
		admin = true
	case w.pick(4) == 0:
		w.c.taintAll(w.now)
		admin = true
	}
	if w.sabotage != nil {
		w.sabotage(w)
	}
	for ; w.c.freed != nil; w.c.freed = w.c.freed.nextFreed {
		if w.freed[w.c.freed] {
			return fmt.Errorf("a copy is released twice")
		}
		w.freed[w.c.freed] = true
	}
	return w.check(before, admin)
}

func (w *world) offer() {
	cp := w.newCopy()
	if !cp.offerable(w.c.admit) {
		return
	}
	w.c.offer(cp, w.now)
	for r := range cp.Roles {
		if cp.Roles[r] {
			w.offered[r]++
		}
	}
	w.copies = append(w.copies, cp)
}

func (w *world) take() {
	d, ok := w.c.take()
	if !ok {
		return
	}
	h := w.held[d.Copy]
	for _, r := range d.Roles() {
		h[r] = true
	}
	w.held[d.Copy] = h
}

// progress lets the sender do something with what it has.
func (w *world) progress() error {
	for _, cp := range w.copies {
		for r := range NumRoles {
			if h := w.held[cp]; h[r] && w.pick(3) == 0 {
				if gone, err := w.send(cp, r); err != nil {
					return err
				} else if gone {
					h[r] = false
					w.held[cp] = h
				}
				return nil
			}
		}
	}
	return nil
}

// send brings a copy one step further, and reports whether the sender is rid of it.
func (w *world) send(cp *Copy, r Role) (gone bool, err error) {
	switch cp.legs[r].phase {
	case sent, overdue:
		w.c.done(cp, r, Effect(w.pick(3)), w.now)
		return true, nil
	case taken, cancelled:
		if w.pick(8) == 0 {
			w.c.giveBack(cp, r, BreakerOpen, w.now)
			return true, nil
		}
		judged, ok := w.c.begin(cp, r, w.now)
		if !ok {
			return true, nil
		}
		if judged {
			w.judged[0]++
		} else {
			w.judged[1]++
		}
		return false, w.checkOrder(cp, r)
	}
	return false, fmt.Errorf("the sender has a copy in phase %d", cp.legs[r].phase)
}

// checkOrder wants that all that a user did before cp has been answered on r.
func (w *world) checkOrder(cp *Copy, r Role) error {
	for _, other := range w.copies {
		l := other.legs[r]
		unanswered := l.phase.pending() || l.phase == sent
		if other == cp || !unanswered || !(other.end <= cp.start && other.start < cp.end) {
			continue
		}
		if slices.Index(w.copies, other) > slices.Index(w.copies, cp) {
			continue // it may have come too late to be put before cp
		}
		for _, u := range other.Users {
			if slices.Contains(cp.Users, u) && placed(other, u) && placed(cp, u) {
				return fmt.Errorf("user %d: on %s a copy of [%d %d] is sent before that of [%d %d] is answered", u.ID, r, cp.start, cp.end, other.start, other.end)
			}
		}
	}
	return nil
}

func placed(cp *Copy, u User) bool {
	return slices.ContainsFunc(cp.places, func(l *lane) bool { return l.id == u.ID })
}

// moment is what a step starts from.
type moment struct {
	phases map[*Copy][NumRoles]phase
	clean  map[uint64][NumRoles]bool
	cap    int32
}

func (w *world) moment() moment {
	m := moment{phases: map[*Copy][NumRoles]phase{}, clean: w.clean(), cap: w.c.cap}
	for _, cp := range w.copies {
		m.phases[cp] = [NumRoles]phase{cp.legs[0].phase, cp.legs[1].phase}
	}
	return m
}

func (w *world) clean() map[uint64][NumRoles]bool {
	clean := map[uint64][NumRoles]bool{}
	for id := range uint64(worldUsers) {
		if u := userOf(id); w.c.in(u) {
			clean[id] = [NumRoles]bool{w.c.condition(u, Shadow).clean, w.c.condition(u, Control).clean}
		}
	}
	return clean
}

// check wants all invariants to hold.
func (w *world) check(before moment, admin bool) error {
	s := w.c.snapshot()
	var pending [NumRoles]int
	var flights [NumRoles]int
	copies, bytes, aging := 0, int64(0), 0
	waitingOn, movingOn := [NumRoles]int{}, [NumRoles]int{}
	places := map[uint64]int{}
	for _, cp := range w.copies {
		alive, undecided := false, false
		for r := range cp.legs {
			l := &cp.legs[r]
			alive = alive || l.phase != absent && l.phase != ended
			switch l.phase {
			case waiting:
				waitingOn[r]++
			case ready, taken, sent:
				movingOn[r]++
			}
			if w.c.held && l.phase.pending() && !cp.Unsafe {
				return fmt.Errorf("a safe copy is pending in a slice in which nothing is sent")
			}
			if l.phase.pending() {
				pending[r]++
				undecided = true
				if !w.c.anyIn(cp) && w.shedNow(cp) {
					return fmt.Errorf("a copy is pending although all its users are shed")
				}
			}
			if l.phase == taken || l.phase == cancelled || l.phase == sent || l.phase == overdue {
				flights[r]++
			}
			if l.phase == waiting && l.blockers != blockersOf(cp, Role(r)) || l.blockers < 0 {
				return fmt.Errorf("a leg counts %d predecessors and has %d", l.blockers, blockersOf(cp, Role(r)))
			}
			if l.phase == waiting && l.blockers == 0 {
				return fmt.Errorf("a leg waits for nobody")
			}
			if l.holds != (l.phase.pending() || l.phase == sent) {
				return fmt.Errorf("a leg in phase %d holds its place: %v", l.phase, l.holds)
			}
		}
		if alive == w.freed[cp] {
			return fmt.Errorf("a copy is needed %v, and released %v", alive, w.freed[cp])
		}
		if alive {
			copies++
			bytes += cp.Bytes
		}
		if undecided {
			aging++
		}
		for _, p := range cp.places {
			places[p.id]++
			if w.c.lanes[p.id] != p || !slices.Contains(p.copies, cp) {
				return fmt.Errorf("a copy's place is in no lane")
			}
		}
	}
	for r := range NumRoles {
		dropped := uint64(0)
		for why, n := range s.Dropped[r] {
			dropped += n
			w.seen[Reason(why)] += int(n)
		}
		if s.Offered[r] != w.offered[r] || s.Offered[r] != s.Sent[r]+dropped+uint64(s.Pending[r]) || s.Pending[r] != pending[r] {
			return fmt.Errorf("%s: offered %d (want %d) = sent %d + dropped %d + pending %d (want %d)", r, s.Offered[r], w.offered[r], s.Sent[r], dropped, s.Pending[r], pending[r])
		}
		if flights[r] != w.c.flights[r] || flights[r] > w.c.cfg.InFlight {
			return fmt.Errorf("%s: %d in flight, want %d, at most %d", r, w.c.flights[r], flights[r], w.c.cfg.InFlight)
		}
		if waitingOn[r] > 0 && movingOn[r] == 0 {
			return fmt.Errorf("%s: deadlock: %d copies wait and none moves", r, waitingOn[r])
		}
	}
	if s.Copies != copies || s.Bytes != bytes || w.c.aging.len != aging {
		return fmt.Errorf("got %d copies, %d bytes, %d aging; want %d, %d, %d", s.Copies, s.Bytes, w.c.aging.len, copies, bytes, aging)
	}
	if cfg := w.c.cfg; copies > cfg.MaxCopies || bytes > cfg.MaxBytes || s.Lanes > cfg.MaxLanes {
		return fmt.Errorf("over a bound: %d copies, %d bytes, %d lanes", copies, bytes, s.Lanes)
	}
	if len(w.c.lanes) != len(places) {
		return fmt.Errorf("%d lanes, want %d", len(w.c.lanes), len(places))
	}
	for id, n := range places {
		if n > w.c.cfg.LaneCopies {
			return fmt.Errorf("user %d has %d copies in the lane", id, n)
		}
	}
	tallied := s
	w.c.recount(w.c.threshold)
	if recounted := w.c.snapshot(); tallied != recounted {
		return fmt.Errorf("users: counted %+v, recounted %+v", tallied, recounted)
	}
	return w.checkTaint(before, admin)
}

// shedNow reports whether all users of cp are admitted ones who are shed.
func (w *world) shedNow(cp *Copy) bool {
	for _, u := range cp.Users {
		if u.Rank >= w.c.admit {
			return false // lowered by the operator: what is pending still leaves
		}
	}
	return true
}

func blockersOf(cp *Copy, r Role) (n int) {
	for _, p := range cp.places {
		for _, other := range p.copies {
			if l := other.legs[r]; other != cp && (l.phase.pending() || l.phase == sent) && other.precedes(cp) {
				n++
			}
		}
	}
	return n
}

// checkTaint wants that users are tainted when and only when they lost
// something: an unsafe copy of theirs that a role did not do as live did.
func (w *world) checkTaint(before moment, admin bool) error {
	may := map[uint64][NumRoles]bool{} // have lost something
	for _, cp := range w.copies {
		for r := range cp.legs {
			was, is := before.phases[cp][r], cp.legs[r].phase
			dropped := (is == ended || is == cancelled) && (was.pending() || was == absent && cp.Roles[r])
			answered := is == ended && was == sent || is == ended && was == taken
			if !cp.Unsafe || !dropped && !answered && !(is == overdue && was == sent) {
				continue
			}
			for _, u := range cp.Users {
				m := may[u.ID]
				m[r] = true
				may[u.ID] = m
				must := is == overdue || dropped && cp.Live != DidNot && !answered
				if must && w.c.in(u) && w.c.condition(u, Role(r)).clean {
					return fmt.Errorf("user %d is clean on %s, which missed a copy", u.ID, Role(r))
				}
			}
		}
	}
	if admin || before.cap != w.c.cap {
		return nil
	}
	for id, now := range w.clean() {
		for r := range now {
			if before.clean[id][r] && !now[r] && !may[id][r] {
				return fmt.Errorf("user %d lost nothing and is tainted on %s", id, Role(r))
			}
			if !before.clean[id][r] && now[r] {
				return fmt.Errorf("user %d became clean on %s without being seeded", id, Role(r))
			}
		}
	}
	return nil
}

// drain lets the sender finish and wants everything to leave: nothing waits for ever.
func (w *world) drain() error {
	w.c.hold(false, w.now)
	for range 10_000 {
		w.take()
		busy := false
		for _, cp := range w.copies {
			for r := range NumRoles {
				if h := w.held[cp]; h[r] {
					busy = true
					gone, err := w.send(cp, r)
					if err != nil {
						return err
					}
					h[r] = !gone
					w.held[cp] = h
				}
			}
		}
		if !busy && !w.c.due() {
			break
		}
	}
	if s := w.c.snapshot(); s.Pending != [NumRoles]int{} || s.Copies != 0 || s.Bytes != 0 || s.Lanes != 0 || w.c.aging.len != 0 {
		return fmt.Errorf("left over when all was answered: %+v", s)
	}
	return nil
}

func (w *world) run(steps int) error {
	for i := range steps {
		if err := w.step(); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return w.drain()
}

func TestRandomHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "") })
		if err := w.run(rapid.IntRange(1, 120).Draw(t, "steps")); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLongHistories goes on for long, and wants to have seen every kind of end.
func TestLongHistories(t *testing.T) {
	seen := map[Reason]int{}
	var judged [2]int
	runs := 1000
	if testing.Short() {
		runs = 50
	}
	for seed := range runs {
		rnd := rand.New(rand.NewPCG(uint64(seed), 7))
		w := newWorld(rnd.IntN)
		if err := w.run(400); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for why, n := range w.seen {
			seen[why] += n
		}
		judged[0] += w.judged[0]
		judged[1] += w.judged[1]
	}
	for _, why := range []Reason{LaneFull, Budget, Expired, UserShed, BreakerOpen, Killed, BodyTooLarge, Switchback} {
		if seen[why] == 0 {
			t.Errorf("no copy was dropped for %s", why)
		}
	}
	if judged[0] == 0 || judged[1] == 0 {
		t.Errorf("got %d judged pairs and %d others, want both", judged[0], judged[1])
	}
}

// TestPlantedFaultsAreNoticed breaks the core in ways that a slip could, and
// wants each to be caught by the checks.
func TestPlantedFaultsAreNoticed(t *testing.T) {
	legs := func(w *world, p phase, f func(l *leg)) {
		for _, cp := range w.copies {
			for r := range cp.legs {
				if cp.legs[r].phase == p {
					f(&cp.legs[r])
					return
				}
			}
		}
	}
	for name, sabotage := range map[string]func(w *world){
		"a copy jumps the queue": func(w *world) {
			legs(w, waiting, func(l *leg) { l.blockers = 0; w.c.advance(l, w.now) })
		},
		"a successor is not let go": func(w *world) {
			legs(w, ready, func(l *leg) { w.c.ready[l.role].remove(&l.queued); l.phase = waiting })
		},
		"a drop is not counted":         func(w *world) { w.c.count.Dropped[0][LaneFull] = 0 },
		"a send is counted twice":       func(w *world) { legs(w, sent, func(l *leg) { w.c.count.Sent[l.role]++ }) },
		"bytes are released too early":  func(w *world) { legs(w, sent, func(l *leg) { w.c.count.Bytes -= l.copy.Bytes }) },
		"a slot in flight is lost":      func(w *world) { legs(w, sent, func(l *leg) { w.c.flights[l.role]++ }) },
		"a tainted user is forgiven":    func(w *world) { w.c.known = map[uint64]user{}; w.c.start(w.c.admit, w.now) },
		"a user is tainted for nothing": func(w *world) { legs(w, sent, func(l *leg) { w.c.miss(userOf(1), l.role, w.now, w.now) }) },
		"a shed user keeps some copies": func(w *world) { w.c.cap = min(w.c.cap, 100_000) },
		"a copy is released too early": func(w *world) {
			legs(w, sent, func(l *leg) { l.copy.nextFreed, w.c.freed = w.c.freed, l.copy })
		},
		"a lane is not given up": func(w *world) {
			if len(w.c.lanes) == 0 {
				w.c.lane(99)
			}
		},
	} {
		caught := false
		for seed := uint64(0); seed < 20 && !caught; seed++ {
			w := newWorld(rand.New(rand.NewPCG(seed, 9)).IntN)
			w.sabotage = sabotage
			caught = runs(w) != nil
		}
		if !caught {
			t.Errorf("planted fault %q was not noticed", name)
		}
	}
}

// runs runs w, and takes a panic of the core for a finding too.
func runs(w *world) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.run(200)
}

// TestPlantedDisorder proves that checkOrder itself sees a wrong order, without
// the help of the other checks.
func TestPlantedDisorder(t *testing.T) {
	w := newWorld(func(int) int { return 1 })
	u := userOf(1)
	first := &Copy{Users: []User{u}, start: w.now - 9*ms, end: w.now - 8*ms, Roles: [NumRoles]bool{true, true}}
	second := &Copy{Users: []User{u}, start: w.now - 5*ms, end: w.now - 4*ms, Roles: [NumRoles]bool{true, true}}
	for _, cp := range []*Copy{first, second} {
		w.c.offer(cp, w.now)
		w.copies = append(w.copies, cp)
	}
	if err := w.checkOrder(second, Shadow); err == nil {
		t.Error("the second copy of a user passes before the first")
	}
	if err := w.checkOrder(first, Shadow); err != nil {
		t.Errorf("the first copy: %v", err)
	}
}

// TestTheCoreIsDeterministic wants the same calls to give the same departures.
func TestTheCoreIsDeterministic(t *testing.T) {
	trace := func() (out []string) {
		rnd := rand.New(rand.NewPCG(3, 3))
		w := newWorld(rnd.IntN)
		for range 500 {
			if err := w.step(); err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprintf("%+v", w.c.snapshot()))
			if d, ok := w.c.take(); ok {
				out = append(out, fmt.Sprint(slices.Index(w.copies, d.Copy), d.Roles()))
				h := w.held[d.Copy]
				for _, r := range d.Roles() {
					h[r] = true
				}
				w.held[d.Copy] = h
			}
		}
		return out
	}
	if diff := cmp.Diff(trace(), trace()); diff != "" {
		t.Errorf("the same calls gave different departures:\n%s", diff)
	}
}
