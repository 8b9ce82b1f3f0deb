package mirror

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/mirror/guard"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// sharedFault is a live service and a shadow that hurt one another: once armed,
// live fails as often as the shadow is asked.
type sharedFault struct {
	armed     atomic.Bool
	asked     atomic.Int64 // of the shadow, not yet paid for
	committed atomic.Int64 // live's failures
}

func (f *sharedFault) live(w http.ResponseWriter, r *http.Request) {
	if f.armed.Load() && f.asked.Load() > 0 {
		f.asked.Add(-1)
		f.committed.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	answerOK(w, r)
}

func (f *sharedFault) shadow(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	answerOK(w, r)
}

// ask does n requests of different users and returns how many live failed.
func (r *rig) ask(n int) (failed int) {
	r.t.Helper()
	for i := range n {
		if r.get(user(i), "/inbox") == http.StatusServiceUnavailable {
			failed++
		}
		waitFor(r.t, "the copy to end", func() bool { return r.lanes.Snapshot().Copies == 0 })
	}
	return failed
}

// block does n requests, has them judged as one block, and returns how many failed.
func (r *rig) block(n int, held bool) (failed int) {
	r.t.Helper()
	before, seen := r.Mirror.harm.sums(), requests(r)
	failed = r.ask(n)
	waitFor(r.t, "the exchanges to be seen", func() bool { return requests(r) == seen+n })
	r.judgeBlock(before, r.Mirror.harm.sums(), hist.New(), held)
	return failed
}

// TestGuard lets live fail because copies are sent, under a switchback: the third
// bad block in a row switches mirroring off, until it is resumed.
func TestGuard(t *testing.T) {
	var fault sharedFault
	live, shadow := newService(t, fault.live), newService(t, fault.shadow)
	r := newRig(t, Config{Guard: guard.Config{Blocks: 3}, blockLength: time.Hour}, live, shadow)
	block := func(held bool) int {
		r.hold(held)
		return r.block(60, held)
	}
	for range 3 {
		block(true)
		block(false)
	}
	if s := r.Status(); !s.Enabled || s.Guard != (GuardStatus{Active: true, Evidence: guard.Switchback}) {
		t.Fatalf("got %+v, want it on, and a switchback to compare with", s.Guard)
	}
	fault.armed.Store(true)
	failed := 0
	for i := range 3 {
		if !r.Status().Enabled {
			t.Fatalf("off after %d bad blocks", i)
		}
		failed += block(false)
	}
	if n := fault.committed.Load(); n < 100 || int(n) != failed {
		t.Fatalf("live failed %d times, clients saw %d: the fault did not happen", n, failed)
	}
	s := r.Status()
	if s.Enabled || s.Off != "guard" || !strings.Contains(s.Why, "while nothing is sent, in 3 blocks in a row") || s.Guard.Trips != 1 {
		t.Errorf("got off %q, why %q, %+v", s.Off, s.Why, s.Guard)
	}
	if got := r.metric(`mirror_guard_trips_total{symptom="errors"}`); got != 1 {
		t.Errorf("got %v trips counted, want 1", got)
	}
	fault.asked.Store(0)
	if failed := block(false); failed != 0 {
		t.Errorf("live still fails %d times with mirroring off", failed)
	}
	if got := r.lanes.Snapshot().Dropped[lanes.Shadow][lanes.Killed]; got != 60 {
		t.Errorf("got %d dropped as killed, want all 60", got)
	}
	fault.armed.Store(false)
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	block(false)
	if s := r.Status(); !s.Enabled || s.Why != "" {
		t.Errorf("after a resume: got %q, %q, want it on", s.Off, s.Why)
	}
}

// TestGuardBaseline lets live fail for sampled users alone once copies are sent:
// what was seen before they were tells that from a live that fails for all.
func TestGuardBaseline(t *testing.T) {
	const half = 500_000
	var ofSampled, ofAll atomic.Bool
	var committed atomic.Int64
	live := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if ofAll.Load() || ofSampled.Load() && sample.Bucket(salt, r.Header.Get("x-user")) < half {
			committed.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		answerOK(w, r)
	})
	r := newRig(t, Config{Sample: half, Guard: guard.Config{Blocks: 2}, blockLength: time.Hour}, live, newService(t, nil))
	r.Kill()
	for range 3 {
		r.block(150, false)
	}
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	if got := r.Status().Guard.Evidence; got != guard.Baseline {
		t.Fatalf("got evidence %q, want a baseline", got)
	}
	ofAll.Store(true)
	for range 3 {
		r.block(150, false)
	}
	if s := r.Status(); !s.Enabled || committed.Load() != 450 {
		t.Fatalf("off by %d failures of all users: %s", committed.Load(), s.Why)
	}
	ofAll.Store(false)
	ofSampled.Store(true)
	for range 2 {
		r.block(150, false)
	}
	if s := r.Status(); s.Off != "guard" || !strings.Contains(s.Why, "more often than others'") || committed.Load() < 450+100 {
		t.Errorf("got off %q, why %q after %d failures of sampled users", s.Off, s.Why, committed.Load()-450)
	}
}

// TestGuardByItself leaves the blocks to the mirror. There is no baseline, and
// live fails more than may be.
func TestGuardByItself(t *testing.T) {
	var fault sharedFault
	fault.armed.Store(true)
	live, shadow := newService(t, fault.live), newService(t, fault.shadow)
	r := newRig(t, Config{Guard: guard.Config{Blocks: 2}, blockLength: time.Second}, live, shadow)
	for deadline := time.Now().Add(time.Minute); r.Status().Enabled; {
		if time.Now().After(deadline) {
			t.Fatalf("still on though live failed %d times", fault.committed.Load())
		}
		r.ask(20)
	}
	if s := r.Status(); s.Off != "guard" || s.Guard.Evidence != guard.None || !strings.Contains(s.Why, "over the limit of 25.00 %") {
		t.Errorf("got off %q, why %q, %+v", s.Off, s.Why, s.Guard)
	}
}

// TestGuardSeesOverhead takes the relay's own measure: it rises above a limit of
// a nanosecond, and a block in which sending changed is no evidence.
func TestGuardSeesOverhead(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Guard: guard.Config{Blocks: 1, Overhead: time.Nanosecond}, blockLength: time.Hour}, live, shadow)
	tap := r.Mirror.harm.overhead
	overhead := hist.New()
	before := r.Mirror.harm.sums()
	for range 200 {
		r.get("ann", "/inbox")
	}
	waitFor(t, "chunks to be measured", func() bool { tap(overhead); return overhead.Count() >= 200 })
	r.hold(true)
	r.hold(false)
	r.judgeBlock(before, r.Mirror.harm.sums(), overhead, false)
	if s := r.Status(); !s.Enabled {
		t.Fatalf("off by a block in which sending changed: %s", s.Why)
	}
	r.judgeBlock(r.Mirror.harm.sums(), r.Mirror.harm.sums(), overhead, false)
	if s := r.Status(); s.Off != "guard" || !strings.Contains(s.Why, "the relay holds bytes back for") {
		t.Errorf("got off %q, why %q, want it off for overhead", s.Off, s.Why)
	}
}
