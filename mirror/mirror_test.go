package mirror

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// TestSampledUsersAreMirroredWhole plays users who move between connections to
// two mirrors, in HTTP/1.1 and in gRPC: every sampled user is whole and in order
// at both shadows, and nobody else is there at all.
func TestSampledUsersAreMirroredWhole(t *testing.T) {
	const steps, share = 5, 100_000
	users := 2_000
	switch {
	case fullSize():
		users = 20_000
	case testing.Short():
		users = 400
	}
	for _, grpc := range []bool{false, true} {
		t.Run(map[bool]string{false: "http1", true: "grpc"}[grpc], func(t *testing.T) {
			live := newService(t, nil)
			live.forgets = true
			var sets [2]map[string][]int
			for i := range sets {
				shadow := newService(t, func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond) // lets what has no order lose it
					answerOK(w, r)
				})
				r := newRig(t, Config{Sample: share, Unsafe: true, InFlight: 32}, live, shadow)
				play(t, r.addr(0), users, steps, grpc)
				want := wanted(users, steps, share)
				s := r.settled(uint64(len(want) * steps))
				if s.Sent[lanes.Shadow] != s.Offered[lanes.Shadow] {
					t.Fatalf("dropped: %v", s.Dropped[lanes.Shadow])
				}
				sets[i] = byUser(shadow.requests())
				if diff := cmp.Diff(want, sets[i]); diff != "" {
					t.Errorf("mirror %d: users at the shadow, and the order of what they did (-want +got):\n%.2000s", i, diff)
				}
				for _, got := range shadow.requests() {
					if !strings.HasSuffix(got.body, "body of "+got.user) || got.role != "shadow" {
						t.Fatalf("mirror %d: got %+v, want the user's body and the role", i, got)
					}
				}
				if got := r.metric(`mirror_pairs_total{outcome="both_ok",route="` + map[bool]string{false: "POST /box/{}", true: "/pkg.Box/Step"}[grpc] + `"}`); got != float64(len(want)*steps) {
					t.Errorf("got %v pairs that are both ok, want %d", got, len(want)*steps)
				}
				r.stop()
			}
			if diff := cmp.Diff(sets[0], sets[1]); diff != "" {
				t.Errorf("the mirrors differ:\n%.2000s", diff)
			}
		})
	}
}

// play lets each user do steps, one after the other, each on another of eight
// connections.
func play(t *testing.T, addr string, users, steps int, grpc bool) {
	t.Helper()
	cs := clients(8, grpc)
	defer closeIdle(cs)
	for seq := range steps {
		var wg sync.WaitGroup
		for i, c := range cs {
			wg.Go(func() {
				for u := (i + seq) % len(cs); u < users; u += len(cs) {
					if err := step(c, addr, user(u), seq, grpc); err != nil {
						t.Errorf("live: user %d, step %d: %v", u, seq, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func user(n int) string { return fmt.Sprintf("user-%d", n) }

func wanted(users, steps int, share int32) map[string][]int {
	want := map[string][]int{}
	for u := range users {
		if sample.Bucket(salt, user(u)) < share {
			for seq := range steps {
				want[user(u)] = append(want[user(u)], seq)
			}
		}
	}
	return want
}

func byUser(rs []request) map[string][]int {
	got := map[string][]int{}
	for _, r := range rs {
		got[r.user] = append(got[r.user], r.seq)
	}
	return got
}

// TestWholenessIsChecked plants faults in what a shadow has seen.
func TestWholenessIsChecked(t *testing.T) {
	good := func() (rs []request) {
		for u, seqs := range wanted(200, 3, 100_000) {
			for _, seq := range seqs {
				rs = append(rs, request{user: u, seq: seq})
			}
		}
		return rs
	}
	want := wanted(200, 3, 100_000)
	if len(want) == 0 || !cmp.Equal(want, byUser(good())) {
		t.Fatal("what is right is not found right")
	}
	for name, plant := range map[string]func([]request) []request{
		"a request is missing":  func(rs []request) []request { return rs[1:] },
		"two are swapped":       func(rs []request) []request { rs[0].seq, rs[1].seq = rs[1].seq, rs[0].seq; return rs },
		"one came twice":        func(rs []request) []request { return append(rs, rs[0]) },
		"another user is there": func(rs []request) []request { return append(rs, request{user: "stranger"}) },
	} {
		if cmp.Equal(want, byUser(plant(good()))) {
			t.Errorf("not noticed: %s", name)
		}
	}
}
