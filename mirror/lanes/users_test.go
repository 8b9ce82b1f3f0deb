package lanes

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// started returns a core in which users below 600,000 are sampled and below
// 800,000 admitted, from instant 100 s on.
func started(t *testing.T, cfg Config) *core {
	t.Helper()
	if cfg.Sample == 0 {
		cfg.Sample, cfg.Admit = 600_000, 800_000
	}
	if cfg.Unsafe == [NumRoles]bool{} {
		cfg.Unsafe = both
	}
	c := newCore(cfg.withDefaults())
	if _, _, err := openState(c.cfg, c, 100*sec); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange offers an unsafe exchange of users that live did between two instants.
func exchange(c *core, start, end int64, us ...User) *Copy {
	cp := &Copy{Users: us, Author: true, Unsafe: true, Live: Did, Roles: both, start: start, end: end}
	c.offer(cp, end)
	return cp
}

// play sends cp to both roles, which end it so, and returns whether each pair is judged.
func play(t *testing.T, c *core, cp *Copy, effect Effect, now int64) (judged [NumRoles]bool) {
	t.Helper()
	for r := range NumRoles {
		for {
			if p := cp.legs[r].phase; p == taken {
				break
			} else if p != ready {
				t.Fatalf("the copy is in phase %d, want it ready", p)
			}
			if _, ok := c.take(); !ok {
				t.Fatal("nothing is due")
			}
		}
		judged[r], _ = c.begin(cp, r, now)
	}
	for r := range NumRoles {
		c.done(cp, r, effect, now)
	}
	return judged
}

var (
	ann   = User{ID: 1, Rank: 10}
	bob   = User{ID: 2, Rank: 20}
	ahead = User{ID: 3, Rank: 700_000} // admitted, not sampled
	out   = User{ID: 4, Rank: 900_000} // not admitted
)

func TestWhatTaints(t *testing.T) {
	for _, c := range []struct {
		name   string
		unsafe bool
		live   Effect
		fate   func(c *core, cp *Copy)
		want   bool
	}{
		{"done by both", true, Did, func(c *core, cp *Copy) { c.done(cp, Shadow, Did, 0) }, false},
		{"refused by both", true, DidNot, func(c *core, cp *Copy) { c.done(cp, Shadow, DidNot, 0) }, false},
		{"refused by the role", true, Did, func(c *core, cp *Copy) { c.done(cp, Shadow, DidNot, 0) }, true},
		{"refused by live alone", true, DidNot, func(c *core, cp *Copy) { c.done(cp, Shadow, Did, 0) }, true},
		{"failed", true, Did, func(c *core, cp *Copy) { c.done(cp, Shadow, Unknown, 0) }, true},
		{"failed on live and on the role", true, Unknown, func(c *core, cp *Copy) { c.done(cp, Shadow, Unknown, 0) }, true},
		{"may have failed on live", true, Unknown, func(c *core, cp *Copy) { c.done(cp, Shadow, Did, 0) }, true},
		{"timed out", true, Did, func(c *core, cp *Copy) { c.tick(1000 * sec) }, true},
		{"safe and failed", false, Did, func(c *core, cp *Copy) { c.done(cp, Shadow, Unknown, 0) }, false},
	} {
		core := started(t, Config{})
		cp := &Copy{Users: []User{ann}, Author: true, Unsafe: c.unsafe, Live: c.live, Roles: [NumRoles]bool{true, false}, start: 101 * sec, end: 101 * sec}
		core.offer(cp, 101*sec)
		core.take()
		core.begin(cp, Shadow, 101*sec)
		c.fate(core, cp)
		if got := !core.condition(ann, Shadow).clean; got != c.want {
			t.Errorf("%s: got tainted %v, want %v", c.name, got, c.want)
		}
		if !core.condition(ann, Control).clean {
			t.Errorf("%s: tainted on a role that was offered nothing", c.name)
		}
	}
	for why := NotDropped + 1; why < NumReasons; why++ {
		for live, want := range map[Effect]bool{Did: true, Unknown: true, DidNot: false} {
			core := started(t, Config{})
			core.offer(&Copy{Users: []User{ann}, Unsafe: true, Live: live, Roles: both, Drop: [NumRoles]Reason{Control: why}, start: 101 * sec, end: 101 * sec}, 101*sec)
			if got := !core.condition(ann, Control).clean; got != want || !core.condition(ann, Shadow).clean {
				t.Errorf("dropped for %s, live %d: got tainted %v, want %v, and on control alone", why, live, got, want)
			}
		}
	}
}

func TestThePairThatTaintsIsJudgedAndLaterOnesAreNot(t *testing.T) {
	c := started(t, Config{})
	overlapping := exchange(c, 100*sec+1, 100*sec+5, ann)
	failing := exchange(c, 100*sec+4, 100*sec+9, ann)
	if got := play(t, c, failing, Unknown, 101*sec); got != both {
		t.Errorf("the pair that taints: got judged %v, want both", got)
	}
	if got := play(t, c, overlapping, Did, 101*sec); got == both {
		t.Errorf("one that overlapped the lost exchange: got judged %v, want none", got)
	}
	later := exchange(c, 102*sec, 102*sec, ann)
	if got := play(t, c, later, Did, 102*sec); got != [NumRoles]bool{} {
		t.Errorf("a later pair: got judged %v, want none", got)
	}
	if got := play(t, c, exchange(c, 102*sec, 102*sec, bob), Did, 102*sec); got != both {
		t.Errorf("another user's pair: got judged %v, want both", got)
	}
}

func TestPairsBeforeTheLossAreJudgedStill(t *testing.T) {
	c := started(t, Config{LaneCopies: 2})
	first, second := exchange(c, 101*sec, 102*sec, ann), exchange(c, 103*sec, 104*sec, ann)
	if lost := exchange(c, 105*sec, 106*sec, ann); lost.legs[Shadow].phase != ended {
		t.Fatal("the third copy found room in the lane")
	}
	if got := play(t, c, first, Did, 107*sec); got != both {
		t.Errorf("the first: got judged %v, want both", got)
	}
	if got := play(t, c, second, Did, 107*sec); got != both {
		t.Errorf("the second: got judged %v, want both", got)
	}
	if got := play(t, c, exchange(c, 108*sec, 109*sec, ann), Did, 109*sec); got != [NumRoles]bool{} {
		t.Errorf("after the lost one: got judged %v, want none", got)
	}
}

func TestWhoIsJudged(t *testing.T) {
	c := started(t, Config{})
	spoil := func(u User) { c.meetUser(u, 100*sec); c.miss(u, Shadow, 101*sec, 101*sec) }
	cleanFriend, spoiltFriend, spoiltAhead := User{ID: 5, Rank: 50}, User{ID: 6, Rank: 60}, User{ID: 7, Rank: 700_001}
	spoil(spoiltFriend)
	spoil(spoiltAhead)
	for _, x := range []struct {
		name   string
		author bool
		users  []User
		want   bool
	}{
		{"alone", true, []User{ann}, true},
		{"with a clean friend", true, []User{ann, cleanFriend}, true},
		{"with a tainted friend", true, []User{ann, spoiltFriend}, false},
		{"with a tainted friend who is not sampled", true, []User{ann, spoiltAhead}, true},
		{"tainted author", true, []User{spoiltFriend, ann}, false},
		{"author admitted only", true, []User{ahead, ann}, false},
		{"author not admitted", false, []User{ann}, false},
		{"nobody's", false, nil, true},
	} {
		cp := &Copy{Users: x.users, Author: x.author, Roles: both, start: 102 * sec, end: 102 * sec}
		c.offer(cp, 102*sec)
		got := play(t, c, cp, Did, 102*sec)
		if got[Shadow] != x.want {
			t.Errorf("%s: got judged %v, want %v", x.name, got[Shadow], x.want)
		}
	}
	if play(t, c, exchange(c, 103*sec, 103*sec, spoiltFriend), Did, 103*sec)[Control] != true {
		t.Error("a user tainted on shadow alone is not judged on control")
	}
	// The ramp reaches a user who was mirrored ahead: they are judged at once.
	c.setShare(800_000, 800_000, 104*sec)
	if got := play(t, c, exchange(c, 105*sec, 105*sec, ahead), Did, 105*sec); got != both {
		t.Errorf("reached by the ramp: got judged %v, want both", got)
	}
}

func TestOnlyUnsafeCopiesTaint(t *testing.T) {
	c := started(t, Config{Unsafe: [NumRoles]bool{Shadow: true}})
	for r := range NumRoles {
		c.meetUser(ann, 100*sec)
		c.miss(ann, r, 101*sec, 102*sec)
	}
	c.setShare(600_000, 950_000, 103*sec)
	c.meetUser(out, 103*sec) // has just joined
	if got, want := c.snapshot().Tainted, [NumRoles]int{Shadow: 2}; got != want {
		t.Errorf("got %v tainted, want %v", got, want)
	}
	if got := play(t, c, exchange(c, 104*sec, 104*sec, ann), Did, 104*sec); got != [NumRoles]bool{Control: true} {
		t.Errorf("got judged %v, want it on the role that takes no unsafe copies", got)
	}
}

func TestJoiningTaintsUntilSeeded(t *testing.T) {
	c := started(t, Config{})
	c.setShare(950_000, 950_000, 200*sec)
	joins := exchange(c, 201*sec, 201*sec, out)
	if got := play(t, c, joins, Did, 202*sec); got != [NumRoles]bool{} {
		t.Errorf("a user who joins: got judged %v, want none", got)
	}
	if c.seed(out, 199*sec, 203*sec) {
		t.Error("a state from before the user joined made them clean: what they did until then was not sent")
	}
	if !c.seed(out, 202*sec, 203*sec) {
		t.Error("a state from after the user joined did not make them clean")
	}
	if got := play(t, c, exchange(c, 201*sec, 201*sec, out), Did, 204*sec); got != [NumRoles]bool{} {
		t.Errorf("an exchange from before the import: got judged %v, want none", got)
	}
	if got := play(t, c, exchange(c, 205*sec, 205*sec, out), Did, 206*sec); got != both {
		t.Errorf("once seeded: got judged %v, want both", got)
	}
	// Leaving and coming back loses it again; users below are not concerned.
	c.setShare(500_000, 500_000, 300*sec)
	if len(c.known) != 0 {
		t.Errorf("%d users are known who left", len(c.known))
	}
	c.setShare(950_000, 950_000, 310*sec)
	if c.condition(out, Shadow).clean || !c.condition(ann, Shadow).clean || c.condition(User{ID: 8, Rank: 550_000}, Shadow).clean {
		t.Error("after a ramp down and up: want those who left tainted, and those who stayed clean")
	}
}

func TestSeedingAfterALoss(t *testing.T) {
	c := started(t, Config{})
	c.meetUser(ann, 100*sec)
	c.miss(ann, Shadow, 110*sec, 111*sec)
	c.miss(ann, Shadow, 120*sec, 121*sec)
	for _, x := range []struct {
		at   int64
		want bool
	}{{110 * sec, false}, {115 * sec, false}, {121 * sec, true}} {
		if got := c.seed(ann, x.at, 130*sec); got != x.want {
			t.Errorf("seeded as of %d s: got clean %v, want %v", x.at/sec, got, x.want)
		}
	}
	if c.seed(out, 125*sec, 130*sec) {
		t.Error("a user who is not admitted became clean")
	}
	c.meetUser(bob, 100*sec)
	c.miss(bob, Control, 140*sec, 141*sec)
	c.miss(ann, Control, 130*sec, 131*sec)
	if left := c.seedAll(135 * sec); left != 1 || !c.condition(ann, Control).clean || c.condition(bob, Control).clean {
		t.Errorf("all seeded as of 135 s: got %d left over, want bob alone, who lost something later", left)
	}
}

func TestSeedAllReachesUsersNotSeenYet(t *testing.T) {
	c := started(t, Config{})
	c.taintAll(200 * sec)
	if c.seedAll(150 * sec); c.condition(ann, Shadow).clean {
		t.Error("a state from before everybody was tainted made a user clean")
	}
	c.seedAll(250 * sec)
	if got := play(t, c, exchange(c, 251*sec, 251*sec, ann), Did, 251*sec); got != both {
		t.Errorf("got judged %v, want both", got)
	}
}

func TestUsersWithoutRoomAreTainted(t *testing.T) {
	c := started(t, Config{MaxUsers: 2})
	third := User{ID: 9, Rank: 30}
	exchange(c, 101*sec, 101*sec, ann)
	exchange(c, 101*sec, 101*sec, bob)
	if got := play(t, c, exchange(c, 102*sec, 102*sec, third), Did, 103*sec); got != [NumRoles]bool{} {
		t.Errorf("a user whose losses can't be noted: got judged %v, want none", got)
	}
	if !c.condition(ann, Shadow).clean || c.condition(User{ID: 10, Rank: 40}, Shadow).clean {
		t.Error("want those with a record as they were, and all others tainted")
	}
	if c.seed(third, 103*sec, 104*sec) {
		t.Error("a user without a record became clean")
	}
	if len(c.known) != 2 {
		t.Errorf("got %d records, want 2", len(c.known))
	}
}

func TestCohortsAreBounded(t *testing.T) {
	c := started(t, Config{Sample: 1, Admit: 1})
	for i := range int32(200) {
		c.setShare(1, 2+i, 200*sec+int64(i))
	}
	if n := len(c.cohorts); n > maxCohorts {
		t.Errorf("got %d cohorts, want at most %d", n, maxCohorts)
	}
	last := User{ID: 1, Rank: 200}
	if !c.in(last) || c.condition(last, Shadow).clean || !c.condition(User{ID: 2, Rank: 0}, Shadow).clean {
		t.Error("merging lost who is in or who is clean")
	}
	c.setShare(0, 0, 300*sec)
	if diff := cmp.Diff(1, len(c.cohorts)); diff != "" {
		t.Errorf("cohorts when nobody is in: %s", diff)
	}
	if listed := (User{ID: 3, Rank: -1}); !c.in(listed) || !c.condition(listed, Shadow).clean {
		t.Error("a user on the allow list is out, or lost a clean state, when the share falls to 0")
	}
}

func TestExchangesThatAreNeverOffered(t *testing.T) {
	l := mustOpen(t, Config{Sample: 600_000, Unsafe: both})
	now := time.Now()
	l.Missed([]User{ann, out}, now, now)
	if s := l.Snapshot(); s.Tainted != [NumRoles]int{1, 1} || s.Offered[Shadow] != 0 {
		t.Errorf("got %v tainted and %d offered, want the one user who is in, and none", s.Tainted, s.Offered[Shadow])
	}
	l.Offer(write(bob.ID))
	l.MissedAll()
	if s := l.Snapshot(); s.Tainted != [NumRoles]int{2, 2} {
		t.Errorf("got %v tainted, want both users seen", s.Tainted)
	}
	if clean := l.Clean([]User{ann, bob, out}, Shadow); len(clean) != 0 {
		t.Errorf("got %v clean, want nobody", clean)
	}
	if n := l.Seed([]User{ann, out}, time.Now()); n != 1 {
		t.Errorf("got %d users clean by seeding, want 1", n)
	}
	if clean := l.Clean([]User{ann, bob, out}, Shadow); !slices.Equal(clean, []User{ann}) {
		t.Errorf("got %v clean, want the one that was seeded", clean)
	}
	if n := l.SeedAll(time.Now().Add(time.Hour)); n != 0 { // as of now: nobody can import the future
		t.Errorf("got %d users tainted after all were seeded", n)
	}
	l.Missed([]User{ann}, time.Time{}, time.Now())
	if s := l.Snapshot(); s.Tainted != [NumRoles]int{1, 1} {
		t.Errorf("got %v tainted, want the user who lost something since", s.Tainted)
	}
}
