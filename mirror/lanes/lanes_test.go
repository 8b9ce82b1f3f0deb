package lanes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"darklaunch/internal/hist"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var both = [NumRoles]bool{true, true}

func mustOpen(t testing.TB, cfg Config) *Lanes {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// all admits every user, and lets unsafe copies go to both roles.
func all(cfg Config) Config {
	cfg.Sample, cfg.Unsafe = 1_000_000, both
	return cfg
}

func us(ids ...uint64) (out []User) {
	for _, id := range ids {
		out = append(out, User{ID: id, Rank: int32(id % 1_000_000)})
	}
	return out
}

// write is an unsafe exchange that live has just done.
func write(ids ...uint64) *Copy {
	now := time.Now()
	return &Copy{Users: us(ids...), Author: true, Unsafe: true, Live: Did, Start: now, End: now, Roles: both}
}

// due returns what is due now.
func due(l *Lanes) (ds []Departure) {
	for d, ok := l.Take(); ok; d, ok = l.Take() {
		ds = append(ds, d)
	}
	return ds
}

// bell wakes goroutines that take.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// next waits for a copy that is due; false is the end of ctx.
func (b bell) next(ctx context.Context, l *Lanes) (Departure, bool) {
	for {
		if d, ok := l.Take(); ok {
			return d, true
		}
		select {
		case <-b:
		case <-ctx.Done():
			return Departure{}, false
		}
	}
}

// sendAll sends what is due now, and returns the copies with the roles they left for.
func sendAll(t *testing.T, l *Lanes) map[*Copy][]Role {
	t.Helper()
	out := map[*Copy][]Role{}
	for _, d := range due(l) {
		for _, r := range d.Roles() {
			if _, ok := l.Sent(d.Copy, r); ok {
				out[d.Copy] = append(out[d.Copy], r)
			}
		}
	}
	return out
}

func finish(l *Lanes, cp *Copy, effect Effect) {
	for r := range NumRoles {
		l.Done(cp, r, effect)
	}
}

func TestOrderIsKeptByUserAndRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{}))
		first, apart := write(1), write(2)
		time.Sleep(time.Second)
		second, group := write(1), write(1, 2)
		for _, cp := range []*Copy{first, apart, second, group} {
			l.Offer(cp)
		}
		got := sendAll(t, l)
		if len(got[first]) != 2 || len(got[apart]) != 2 || len(got) != 2 {
			t.Fatalf("at first got %d copies under way, want the first of each user on both roles", len(got))
		}
		l.Done(first, Control, Did)
		if got := sendAll(t, l); !cmp.Equal(got[second], []Role{Control}) || len(got) != 1 {
			t.Errorf("after control answered user 1: got %d copies, the second on %v; want it on control alone", len(got), got[second])
		}
		l.Done(apart, Control, Did)
		if got := sendAll(t, l); !cmp.Equal(got[group], []Role{Control}) {
			t.Errorf("heading both lanes on control: got the group's copy on %v", got[group])
		}
		l.Done(first, Shadow, Did)
		l.Done(apart, Shadow, Did)
		got = sendAll(t, l)
		if !cmp.Equal(got[second], []Role{Shadow}) || !cmp.Equal(got[group], []Role{Shadow}) {
			t.Errorf("second and group overlapped on live: got %v and %v, want both on shadow at once", got[second], got[group])
		}
	})
}

func TestALateOfferIsPutInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{}))
		first := write(1)
		l.Offer(first)
		sendAll(t, l)
		time.Sleep(time.Second)
		second := write(1) // decoded late, on another connection
		time.Sleep(time.Second)
		third := write(1)
		l.Offer(third)
		l.Offer(second)
		finish(l, first, Did)
		if got := sendAll(t, l); len(got) != 1 || len(got[second]) != 2 {
			t.Errorf("got %v, want the second exchange before the third", got)
		}
		finish(l, second, Did)
		if got := sendAll(t, l); len(got[third]) != 2 {
			t.Errorf("got %v, want the third exchange", got)
		}
	})
}

func TestRolesLeaveTogetherInRandomOrder(t *testing.T) {
	l := mustOpen(t, all(Config{Seed: 5}))
	first := [NumRoles]int{}
	for i := range uint64(1000) {
		cp := write(i)
		l.Offer(cp)
		ds := due(l)
		if len(ds) != 1 || len(ds[0].Roles()) != 2 {
			t.Fatalf("got %d departures, want one for both roles", len(ds))
		}
		first[ds[0].Roles()[0]]++
		for _, r := range ds[0].Roles() {
			l.Sent(cp, r)
		}
		finish(l, cp, Did)
	}
	if first[Shadow] < 400 || first[Control] < 400 {
		t.Errorf("got shadow first %d times and control %d times, want about as often", first[Shadow], first[Control])
	}
}

func TestARoleThatIsBehindDoesNotHoldTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{InFlight: 2}))
		for i := range uint64(5) {
			l.Offer(write(i))
		}
		stalled := 0
		for range 10 {
			for cp, roles := range sendAll(t, l) {
				for _, r := range roles {
					if r == Control {
						l.Done(cp, r, Did)
					} else {
						stalled++ // shadow never answers
					}
				}
			}
		}
		s := l.Snapshot()
		if s.Sent != [NumRoles]uint64{2, 5} || stalled != 2 {
			t.Errorf("got %v sent to shadow and control, want [2 5]", s.Sent)
		}
	})
}

// TestAWideTicketFreesEveryLaneInTime has a copy of 250 users wait behind one
// that is not answered. Whichever bound comes first, everybody goes on.
func TestAWideTicketFreesEveryLaneInTime(t *testing.T) {
	const members = 250
	ids := make([]uint64, members)
	for i := range ids {
		ids[i] = uint64(i)
	}
	for _, c := range []struct {
		name            string
		maxAge, timeout time.Duration
		free            time.Duration // when the members go on
		wideSent        uint64
		dropped         uint64
		tainted         int
	}{
		{"the predecessor is given up", 10 * time.Second, 3 * time.Second, 3 * time.Second, 1, 0, 1},
		{"the ticket expires", 2 * time.Second, 8 * time.Second, 2 * time.Second, 0, 1, members},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := mustOpen(t, all(Config{MaxAge: c.maxAge, Timeout: c.timeout, InFlight: members + 2}))
				ctx, stop := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() { l.Run(ctx) })
				stalled := write(7)
				l.Offer(stalled)
				sendAll(t, l)
				time.Sleep(time.Millisecond)
				wide := write(ids...)
				l.Offer(wide)
				if got := sendAll(t, l); len(got) != 0 {
					t.Fatalf("the wide ticket left before its predecessor was answered")
				}
				// Each member but the one with the stall does something every
				// half a second, well inside the bound of age.
				var seen int
				var followers []*Copy
				begin := time.Now()
				for time.Since(begin) < c.free+tickEvery && seen < members-1 {
					time.Sleep(100 * time.Millisecond)
					if len(followers) == 0 && time.Since(begin) > time.Second {
						for _, id := range ids {
							if id != 7 {
								cp := write(id)
								followers = append(followers, cp)
								l.Offer(cp)
							}
						}
					}
					for cp := range sendAll(t, l) {
						if cp != wide {
							seen++
						}
						finish(l, cp, Did)
					}
				}
				if seen != members-1 {
					t.Errorf("%d of %d members went on within %v", seen, members-1, c.free+tickEvery)
				}
				s := l.Snapshot()
				if got := s.Sent[Shadow] - 1 - uint64(seen); got != c.wideSent || s.Dropped[Shadow][Expired] != c.dropped {
					t.Errorf("got the wide ticket sent %d times and dropped %d times, want %d and %d", got, s.Dropped[Shadow][Expired], c.wideSent, c.dropped)
				}
				if s.Tainted[Shadow] != c.tainted || s.Tainted[Control] != c.tainted {
					t.Errorf("got %v users tainted, want %d on each role", s.Tainted, c.tainted)
				}
				finish(l, stalled, Did) // the answer comes after all, too late
				if s := l.Snapshot(); s.Lanes != 0 || s.Bytes != 0 || s.Copies != 0 {
					t.Errorf("left over: %d lanes, %d bytes, %d copies", s.Lanes, s.Bytes, s.Copies)
				}
				stop()
				wg.Wait()
			})
		})
	}
}

func TestOffTakesEffectAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{}))
		released := 0
		cps := []*Copy{write(1), write(2), write(3)}
		for _, cp := range cps {
			cp.Bytes, cp.Release = 10, func() { released++ }
		}
		l.Offer(cps[0])
		l.Offer(cps[1])
		sent := due(l)[0]
		for _, r := range sent.Roles() {
			l.Sent(sent.Copy, r)
		}
		l.Off(Killed)
		l.Offer(cps[2])
		// cps[1] was taken, and nothing of it written yet.
		if _, ok := l.Sent(cps[1], Shadow); ok {
			t.Error("a copy was sent after mirroring was switched off")
		}
		l.Drop(cps[1], Control, BreakerOpen) // too late to be the reason
		finish(l, sent.Copy, Did)
		s := l.Snapshot()
		if s.Offered[Shadow] != 3 || s.Sent[Shadow] != 1 || s.Dropped[Shadow][Killed] != 2 || s.Dropped[Control][Killed] != 2 || s.Dropped[Control][BreakerOpen] != 0 {
			t.Errorf("got offered %d, sent %d, killed %d and %d; want 3, 1, 2 and 2", s.Offered[Shadow], s.Sent[Shadow], s.Dropped[Shadow][Killed], s.Dropped[Control][Killed])
		}
		if released != 3 || s.Bytes != 0 {
			t.Errorf("got %d copies released and %d bytes held, want 3 and 0", released, s.Bytes)
		}
		if s.Tainted != [NumRoles]int{2, 2} {
			t.Errorf("got %v tainted, want the two users whose writes were not sent", s.Tainted)
		}
		l.On()
		cp := write(9)
		l.Offer(cp)
		if got := sendAll(t, l); len(got[cp]) != 2 {
			t.Errorf("after resuming got %v, want the copy on both roles", got[cp])
		}
	})
}

func TestASwitchbackHoldsUnsafeCopiesAndSkipsSafeOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{}))
		safe, unsafe := write(1), write(2)
		safe.Unsafe = false
		l.Offer(safe)
		l.Offer(unsafe)
		l.Hold(true)
		skipped, waits := write(3), write(4)
		skipped.Unsafe = false
		l.Offer(skipped)
		l.Offer(waits)
		time.Sleep(5 * time.Second)
		if got := sendAll(t, l); len(got) != 0 {
			t.Errorf("%d copies left in a slice in which nothing is sent", len(got))
		}
		l.Hold(false)
		l.run(func(c *core, now int64) { c.tick(now) })
		got := sendAll(t, l)
		if len(got[unsafe]) != 2 || len(got[waits]) != 2 || len(got) != 2 {
			t.Errorf("after the slice got %d copies, want the two unsafe ones", len(got))
		}
		s := l.Snapshot()
		if s.Dropped[Shadow][Switchback] != 2 || s.Effective != 1_000_000 || s.Tainted != [NumRoles]int{} {
			t.Errorf("got %d skipped, threshold %d, %v tainted; want 2, nobody shed and nobody tainted", s.Dropped[Shadow][Switchback], s.Effective, s.Tainted)
		}
	})
}

// TestUsersLeaveWholeAndComeBackLater overloads a role, and wants a part of the
// users out and the others served in full; then calm, and all back, in steps.
func TestUsersLeaveWholeAndComeBackLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, Config{Sample: 100_000, MaxBytes: 4000, InFlight: 1, Unsafe: both})
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { l.Run(ctx) })
		var busy []*Copy
		offer := func() {
			for id := uint64(0); id < 100_000; id += 10_000 {
				cp := write(id)
				cp.Bytes = 100
				l.Offer(cp)
			}
		}
		lowest := l.Snapshot().Effective
		for range 40 {
			offer()
			time.Sleep(50 * time.Millisecond)
			synctest.Wait() // no tick may shed a user between the two roles of a copy
			for cp := range sendAll(t, l) {
				busy = append(busy, cp)
			}
			if len(busy) > 0 { // one copy in 50 ms, of ten
				finish(l, busy[0], Did)
				busy = busy[1:]
			}
			s := l.Snapshot()
			if s.Effective > lowest {
				t.Fatalf("the threshold rose from %d to %d under load", lowest, s.Effective)
			}
			lowest = s.Effective
		}
		s := l.Snapshot()
		if lowest == 100_000 || s.Shed == 0 || s.Dropped[Shadow][UserShed] == 0 {
			t.Fatalf("got threshold %d, %d users shed, %d copies dropped for it; want users to leave", lowest, s.Shed, s.Dropped[Shadow][UserShed])
		}
		if s.Shed+s.Sampled != 10 || s.Dropped[Shadow][Budget] > 0 {
			t.Errorf("got %d users shed and %d in of 10, %d copies over budget; want none dropped while users can leave", s.Shed, s.Sampled, s.Dropped[Shadow][Budget])
		}
		rose := 0
		for range 600 {
			time.Sleep(time.Second)
			synctest.Wait()
			for cp := range sendAll(t, l) {
				busy = append(busy, cp)
			}
			for _, cp := range busy {
				finish(l, cp, Did)
			}
			busy = nil
			if now := l.Snapshot().Effective; now != lowest {
				rose, lowest = rose+1, now
			}
		}
		if lowest != 100_000 || rose < 3 {
			t.Errorf("after ten calm minutes the threshold is %d, reached in %d steps; want 100000 in several", lowest, rose)
		}
		if s := l.Snapshot(); s.Shed != 0 || s.Tainted[Shadow] == 0 {
			t.Errorf("got %d users shed and %d tainted, want none and those who came back", s.Shed, s.Tainted[Shadow])
		}
		stop()
		wg.Wait()
	})
}

func TestACopyStaysWhileOneOfItsUsersIsIn(t *testing.T) {
	c := newCore(Config{Sample: 1_000_000, Unsafe: both}.withDefaults())
	if _, _, err := openState(c.cfg, c, sec); err != nil {
		t.Fatal(err)
	}
	offer := func(ids ...uint64) *Copy {
		cp := &Copy{Users: us(ids...), Author: true, Unsafe: true, Live: Did, Roles: both, start: sec, end: sec}
		c.offer(cp, sec)
		return cp
	}
	mixed, gone, stays := offer(900_000, 10), offer(900_000, 950_000), offer(20)
	c.shedAt, c.cfg.MaxCopies = -sec, 3 // at the bound
	c.relieve(2 * sec)
	if c.cap != 750_000 {
		t.Fatalf("got threshold %d, want a quarter off", c.cap)
	}
	for _, x := range []struct {
		cp   *Copy
		want phase
	}{{mixed, ready}, {gone, ended}, {stays, ready}} {
		if got := x.cp.legs[Shadow].phase; got != x.want {
			t.Errorf("copy of %v: got phase %d, want %d", x.cp.Users, got, x.want)
		}
	}
	if n := c.count.Dropped[Shadow][UserShed]; n != 1 {
		t.Errorf("got %d copies dropped, want 1", n)
	}
	// The one who is out takes no new lanes, and is not judged.
	later := offer(10, 900_000)
	if len(later.places) != 1 || c.judged(mixed, Shadow) {
		t.Errorf("got %d places and a shed author judged %v, want 1 and false", len(later.places), c.judged(mixed, Shadow))
	}
}

func TestACopyTooLargeShedsNobody(t *testing.T) {
	l := mustOpen(t, all(Config{MaxBytes: 1000}))
	l.Offer(write(999_999))
	large := write(1)
	large.Bytes = 1001
	l.Offer(large)
	s := l.Snapshot()
	if s.Dropped[Shadow][Budget] != 1 || s.Pending[Shadow] != 1 || s.Effective != 1_000_000 {
		t.Errorf("got %d dropped, %d pending, threshold %d; want the large one dropped and nothing else", s.Dropped[Shadow][Budget], s.Pending[Shadow], s.Effective)
	}
}

func TestTellsOfWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := make(bell, 1)
		l := mustOpen(t, all(Config{Due: b.ring}))
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		got := 0
		wg.Go(func() {
			for d, ok := b.next(ctx, l); ok; d, ok = b.next(ctx, l) {
				got++
				for _, r := range d.Roles() {
					l.Sent(d.Copy, r)
					l.Done(d.Copy, r, Did)
				}
			}
		})
		synctest.Wait()
		for i := range 50 {
			l.Offer(write(uint64(i % 5)))
			synctest.Wait()
			if got != i+1 {
				t.Fatalf("got %d departures of %d offers", got, i+1)
			}
		}
		l.Hold(true)
		l.Offer(write(1))
		synctest.Wait()
		l.Hold(false)
		synctest.Wait()
		if got != 51 {
			t.Errorf("got %d departures after a hold, want 51", got)
		}
		stop()
		wg.Wait()
	})
}

// TestOffersAreTakenIn offers without anybody who takes: offers wait for the
// core up to their bound, and every look at the lanes takes them in.
func TestOffersAreTakenIn(t *testing.T) {
	l := mustOpen(t, all(Config{MaxCopies: 10 * maxInbox}))
	for i := range 2*maxInbox + 5 {
		if !l.Offer(write(uint64(i))) {
			t.Fatal("an offer is not taken")
		}
		if n := len(l.inbox.list); n >= maxInbox {
			t.Fatalf("%d copies wait for the core, want fewer than %d", n, maxInbox)
		}
	}
	if len(l.inbox.list) != 5 {
		t.Errorf("got %d copies that wait, want 5", len(l.inbox.list))
	}
	if s := l.Snapshot(); s.Offered[Shadow] != 2*maxInbox+5 || s.Pending[Shadow] != 2*maxInbox+5 {
		t.Errorf("got %d offered, %d pending, want %d", s.Offered[Shadow], s.Pending[Shadow], 2*maxInbox+5)
	}
	// Those who were admitted when they offered are counted, whoever comes later is not.
	l.Offer(write(7))
	l.SetShare(5, 5)
	if l.Offer(write(7)) {
		t.Error("a user who is not admitted any more is taken")
	}
	if s := l.Snapshot(); s.Offered[Shadow] != 2*maxInbox+6 {
		t.Errorf("got %d offered, want %d", s.Offered[Shadow], 2*maxInbox+6)
	}
}

// TestEveryScrapeAddsUp scrapes while copies are offered, sent, dropped and
// killed by several goroutines: in each scrape the sum is exact.
func TestEveryScrapeAddsUp(t *testing.T) {
	b := make(bell, 1)
	l := mustOpen(t, all(Config{Due: b.ring, InFlight: 8, LaneCopies: 4, MaxBytes: 20_000, MaxAge: 5 * time.Millisecond, Timeout: 2 * time.Millisecond}))
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(l); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var senders, traffic sync.WaitGroup
	senders.Go(func() { l.Run(ctx) })
	for i := range 3 {
		senders.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			for d, ok := b.next(ctx, l); ok; d, ok = b.next(ctx, l) {
				for _, r := range d.Roles() {
					if rnd.IntN(10) == 0 {
						l.Drop(d.Copy, r, BreakerOpen)
					} else if _, ok := l.Sent(d.Copy, r); ok {
						l.Done(d.Copy, r, Effect(rnd.IntN(3)))
					}
				}
			}
		})
	}
	var offered, released atomic.Int64
	for i := range 2 {
		traffic.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 1))
			for ctx.Err() == nil {
				cp := write(rnd.Uint64N(50), 50+rnd.Uint64N(50))
				for u := range cp.Users {
					cp.Users[u].Rank = int32(u) - 1 // half of them are never shed
				}
				cp.Bytes, cp.Release = 100, func() { released.Add(1) }
				if l.Offer(cp) {
					offered.Add(1)
				}
			}
		})
	}
	seen := func(why Reason) bool { return l.Snapshot().Dropped[Shadow][why] > 0 }
	scrapes := 0
	for ; scrapes < 100 || !seen(Killed) || !seen(BreakerOpen) || !seen(LaneFull); scrapes++ {
		checkScrape(t, reg)
		if scrapes%10 == 0 {
			l.Off(Killed)
			checkScrape(t, reg)
			l.On()
		}
	}
	l.Off(Shutdown)
	stop()
	traffic.Wait()
	senders.Wait()
	checkScrape(t, reg)
	s := l.Snapshot()
	if s.Pending != [NumRoles]int{} || s.Bytes != 0 || released.Load() != offered.Load() || s.Offered[Shadow] != uint64(offered.Load()) {
		t.Errorf("at the end %d pending, %d bytes, %d of %d released", s.Pending, s.Bytes, released.Load(), offered.Load())
	}
	if s.Sent[Shadow] == 0 {
		t.Error("nothing was sent")
	}
}

// twoMoments is a collector that a slip would make: what it reports is of two
// moments, with an offer in between.
type twoMoments struct{ *Lanes }

func (c twoMoments) Collect(ch chan<- prometheus.Metric) {
	early := c.Snapshot()
	c.Offer(write(1))
	all := make(chan prometheus.Metric, 1000)
	c.Lanes.Collect(all)
	close(all)
	for m := range all {
		if m.Desc() != offeredDesc {
			ch <- m
		}
	}
	for r := range NumRoles {
		ch <- prometheus.MustNewConstMetric(offeredDesc, prometheus.CounterValue, float64(early.Offered[r]), r.String())
	}
}

func TestPlantedCollectorIsNoticed(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(twoMoments{mustOpen(t, all(Config{}))})
	if sumScrape(reg) == nil {
		t.Error("a scrape of two moments was not noticed")
	}
}

func checkScrape(t *testing.T, g prometheus.Gatherer) {
	t.Helper()
	if err := sumScrape(g); err != nil {
		t.Fatal(err)
	}
}

// sumScrape says which role's sum is wrong in one scrape.
func sumScrape(g prometheus.Gatherer) error {
	families, err := g.Gather()
	if err != nil {
		return err
	}
	sums := map[string]map[string]float64{}
	for _, f := range families {
		sums[f.GetName()] = map[string]float64{}
		for _, m := range f.GetMetric() {
			role := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "role" {
					role = l.GetValue()
				}
			}
			sums[f.GetName()][role] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for r := range NumRoles {
		get := func(name string) float64 { return sums[name][r.String()] }
		left, right := get("mirror_copies_offered_total"), get("mirror_copies_sent_total")+get("mirror_copies_dropped_total")+get("mirror_copies_pending")
		if left != right {
			return fmt.Errorf("%s: offered %v, and sent + dropped + pending is %v", r, left, right)
		}
	}
	return nil
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, Config{Sample: 200_000, Admit: 500_000, Unsafe: both})
		sent, held, ahead := write(1), write(2), write(300_000)
		held.Bytes = 77
		for _, cp := range []*Copy{sent, ahead} {
			l.Offer(cp)
		}
		time.Sleep(time.Second)
		for cp := range sendAll(t, l) {
			l.Done(cp, Shadow, Did)
			l.Done(cp, Control, Unknown)
		}
		l.Offer(held)
		if l.Offer(write(600_000)) {
			t.Error("a copy of nobody who is admitted was taken")
		}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(l)
		values := map[string]float64{}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, lp := range m.GetLabel() {
					name += " " + lp.GetValue()
				}
				if h := m.GetHistogram(); h != nil {
					values[name] = h.GetSampleSum() / float64(h.GetSampleCount())
				} else if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 || f.GetName() != "mirror_copies_dropped_total" {
					values[name] = v
				}
			}
		}
		want := map[string]float64{
			"mirror_copies_offered_total shadow": 3, "mirror_copies_offered_total control": 3, "mirror_copies_sent_total shadow": 2, "mirror_copies_sent_total control": 2,
			"mirror_copies_pending shadow": 1, "mirror_copies_pending control": 1, "mirror_copies_pending_bytes": 77, "mirror_lanes": 1,
			"mirror_sample_ppm": 200_000, "mirror_sample_effective_ppm": 200_000, "mirror_users_sampled": 2, "mirror_users_shed": 0,
			"mirror_users_tainted shadow": 0, "mirror_users_tainted control": 2, "mirror_enabled": 1, "mirror_copy_wait_seconds": 1,
		}
		if diff := cmp.Diff(want, values); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		if n := testutil.CollectAndCount(l, "mirror_copies_dropped_total"); n != int(NumRoles)*(int(NumReasons)-1) {
			t.Errorf("got %d series of drops, want one for each role and reason from the start", n)
		}
		if problems, err := testutil.CollectAndLint(l); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v %v", problems, err)
		}
	})
}

func TestReasonsAreTheClosedSet(t *testing.T) {
	var load, chosen []string
	for why := NotDropped + 1; why < NumReasons; why++ {
		if why.Chosen() {
			chosen = append(chosen, why.String())
		} else {
			load = append(load, why.String())
		}
	}
	if want := []string{"lane_full", "budget", "expired", "user_shed", "breaker_open", "memory", "panic"}; !slices.Equal(load, want) {
		t.Errorf("by load: got %v, want %v", load, want)
	}
	if want := []string{"killed", "switchback", "body_too_large", "streaming", "no_counterpart", "translate", "live_aborted", "shutdown"}; !slices.Equal(chosen, want) {
		t.Errorf("chosen: got %v, want %v", chosen, want)
	}
}

func BenchmarkOfferSendDone(b *testing.B) {
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("users=%d", members), func(b *testing.B) {
			l := mustOpen(b, all(Config{}))
			now := time.Now()
			users := make([][]User, 1000)
			for i := range users {
				for m := range members {
					users[i] = append(users[i], us(uint64(i*members+m))...)
				}
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				i++
				l.Offer(&Copy{Users: users[i%1000], Author: true, Unsafe: true, Live: Did, Start: now, End: now, Bytes: 100, Roles: both})
				d, ok := l.Take()
				if !ok {
					b.Fatal("nothing is due")
				}
				for _, r := range d.Roles() {
					l.Sent(d.Copy, r)
					l.Done(d.Copy, r, Did)
				}
			}
		})
	}
}

func BenchmarkCore(b *testing.B) {
	c := newCore(all(Config{}).withDefaults())
	if _, _, err := openState(c.cfg, c, 1); err != nil {
		b.Fatal(err)
	}
	users := make([][]User, 1000)
	for i := range users {
		users[i] = us(uint64(i))
	}
	now := int64(sec)
	b.ReportAllocs()
	for b.Loop() {
		now++
		c.offer(&Copy{Users: users[now%1000], Author: true, Unsafe: true, Live: Did, start: now, end: now, Bytes: 100, Roles: both}, now)
		d, _ := c.take()
		for _, r := range d.Roles() {
			c.begin(d.Copy, r, now)
			c.done(d.Copy, r, Did, now)
		}
	}
}

// TestStreamsHoldNothing lets a user's next copy leave while a stream of theirs is
// under way, in a place of its own.
func TestStreamsHoldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustOpen(t, all(Config{InFlight: 1}))
		stream := write(1)
		stream.Stream = true
		time.Sleep(time.Second)
		next := write(1)
		l.Offer(stream)
		l.Offer(next)
		if got := sendAll(t, l); len(got[stream]) != 2 || len(got[next]) != 0 {
			t.Fatalf("got %d and %d sent, want the stream first", len(got[stream]), len(got[next]))
		}
		if got := sendAll(t, l); len(got[next]) != 2 {
			t.Errorf("got the next copy sent to %d roles while the stream goes on, want 2", len(got[next]))
		}
		finish(l, next, Did)
		if s := l.Snapshot(); s.Copies != 1 || s.Lanes != 0 || s.Tainted != [NumRoles]int{1, 1} {
			t.Errorf("got %+v, want the stream held, in no lane, and its user tainted by what may have come of it", s)
		}
		finish(l, stream, Unknown)
		if s := l.Snapshot(); s.Copies != 0 || s.Sent != [NumRoles]uint64{2, 2} {
			t.Errorf("got %+v, want nothing held", s)
		}
		late := hist.New()
		l.Lateness(late)
		if late.Count() != 4 {
			t.Errorf("got the lateness of %d, want 4", late.Count())
		}
	})
}
