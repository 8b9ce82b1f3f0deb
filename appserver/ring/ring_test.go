package ring_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"darklaunch/appserver/ring"
)

func members(n int) []ring.Member {
	out := make([]ring.Member, n)
	for i := range out {
		out[i] = ring.Member{Name: fmt.Sprintf("app-%d", i), Addr: fmt.Sprintf("10.0.0.%d:7500", i)}
	}
	return out
}

func newRing(t interface {
	Helper()
	Fatal(...any)
}, m []ring.Member) *ring.Ring {
	t.Helper()
	r, err := ring.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// held returns how many partitions each member has.
func held(r *ring.Ring) map[string]int {
	n := map[string]int{}
	for p := range ring.Partitions {
		m, _ := r.OwnerOf(p)
		n[m.Name]++
	}
	return n
}

// TestBalanceAndMovement measures rings of several sizes: how much more than its share
// the fullest member has, in partitions and in users, and how many more partitions
// than those of the member that leaves get another owner, the mean over all members.
// Read the other way round that is what a member that joins moves.
func TestBalanceAndMovement(t *testing.T) {
	n := 1_000_000
	if testing.Short() {
		n = 200_000
	}
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("user-%d", i)
	}
	for _, tt := range []struct {
		members  int
		movement float64
	}{{2, 1}, {5, 1.15}, {20, 1.15}, {50, 1.15}, {100, 1.25}} {
		if testing.Short() && tt.members > 20 {
			t.Logf("-short: %d members are left out", tt.members)
			continue
		}
		m := members(tt.members)
		r := newRing(t, m)
		has := held(r)
		fullest := 0
		for _, n := range has {
			fullest = max(fullest, n)
		}
		balance := float64(fullest*tt.members) / ring.Partitions
		moved, worst := 0, 0.0
		for i := range m {
			n := newRing(t, slices.Delete(slices.Clone(m), i, i+1)).Moved(r)
			moved += n
			worst = max(worst, float64(n)/float64(has[m[i].Name]))
		}
		movement := float64(moved) / ring.Partitions
		serves := map[string]int{}
		for _, u := range users {
			o, _ := r.Owner(u)
			serves[o.Name]++
		}
		busiest := 0
		for _, n := range serves {
			busiest = max(busiest, n)
		}
		userBalance := float64(busiest*tt.members) / float64(len(users))
		t.Logf("%d members: partitions max/mean %.3f, users max/mean %.3f, movement %.3f of the least (worst member %.3f)",
			tt.members, balance, userBalance, movement, worst)
		if balance > 1.10 {
			t.Errorf("%d members: the fullest has %.3f of its share of partitions, want at most 1.10", tt.members, balance)
		}
		if userBalance > 1.15 {
			t.Errorf("%d members: the fullest has %.3f of its share of users, want at most 1.15", tt.members, userBalance)
		}
		if movement > tt.movement {
			t.Errorf("%d members: %.3f of the least moved, want at most %.2f", tt.members, movement, tt.movement)
		}
	}
}

var anyMember = rapid.Custom(func(t *rapid.T) ring.Member {
	return ring.Member{
		Name:   rapid.StringMatching(`[a-z]{1,3}-[0-9]{1,2}`).Draw(t, "name"),
		Addr:   "h:1",
		Zone:   rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "zone"),
		Weight: rapid.IntRange(0, 9).Draw(t, "weight"),
	}
})

func drawMembers(t *rapid.T, least, most int) []ring.Member {
	return rapid.SliceOfNDistinct(anyMember, least, most, func(m ring.Member) string { return m.Name }).Draw(t, "members")
}

func weight(m ring.Member) int { return max(1, m.Weight) }

// TestShares: no member has more than a tenth, or a part of a partition, above its share.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMembers(t, 1, 24)
		total := 0
		for _, m := range m {
			total += weight(m)
		}
		has, sum := held(newRing(t, m)), 0
		for _, m := range m {
			share := float64(ring.Partitions*weight(m)) / float64(total)
			if n := has[m.Name]; float64(n) > max(1.1*share, share+1) {
				t.Fatalf("%s has %d partitions, its share is %.1f", m.Name, n, share)
			}
			sum += has[m.Name]
		}
		if sum != ring.Partitions {
			t.Fatalf("%d partitions have an owner among the members, want all", sum)
		}
	})
}

// TestMembersAlone: a ring depends on who is in it, and on no order, build or address.
func TestMembersAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMembers(t, 1, 12)
		r := newRing(t, m)
		other := slices.Clone(m)
		rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)).Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		for i := range other {
			other[i].Build = "other"
		}
		s := newRing(t, other)
		if n := s.Moved(r); n > 0 {
			t.Fatalf("%d partitions are another's after a shuffle", n)
		}
		if r.Hash() != s.Hash() {
			t.Fatalf("hash %s after a shuffle, want %s", s.Hash(), r.Hash())
		}
		other[0].Addr = "h:2"
		moved := newRing(t, other)
		if moved.Hash() == r.Hash() {
			t.Fatal("another address, the same hash")
		}
		if n := moved.Moved(r); n > 0 {
			t.Fatalf("%d partitions are another's after a change of address", n)
		}
	})
}

// TestLeave: whoever leaves, of up to a dozen members its partitions move and few others.
func TestLeave(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawMembers(t, 2, 12)
		r := newRing(t, m)
		i := rapid.IntRange(0, len(m)-1).Draw(t, "leaves")
		least := held(r)[m[i].Name]
		moved := newRing(t, slices.Delete(slices.Clone(m), i, i+1)).Moved(r)
		// Members of small weight have few partitions, of which some more is much.
		if limit := 1.15*float64(least) + 0.02*ring.Partitions; float64(moved) > limit {
			t.Fatalf("%d partitions moved, want at most %.0f: %d were the member's", moved, limit, least)
		}
	})
}

// TestZones: when a zone is lost its users are spread over all others, and most are
// then served by whom Standby named.
func TestZones(t *testing.T) {
	m := members(12)
	for i := range m {
		m[i].Zone = string(rune('a' + i%3))
	}
	before := newRing(t, m)
	after := newRing(t, slices.DeleteFunc(slices.Clone(m), func(m ring.Member) bool { return m.Zone == "b" }))
	lost, foreseen := 0, 0
	took := map[string]int{}
	for i := range 10_000 {
		u := fmt.Sprintf("user-%d", i)
		was, _ := before.Owner(u)
		is, _ := after.Owner(u)
		standby, ok := before.Standby(u)
		if !ok || standby.Zone == was.Zone {
			t.Fatalf("standby of %s is %v, its owner %v", u, standby, was)
		}
		if was.Zone != "b" {
			continue
		}
		lost++
		took[is.Name]++
		if is.Name == standby.Name {
			foreseen++
		}
	}
	if lost < 3000 {
		t.Fatalf("%d of 10,000 users were in the zone, want about a third", lost)
	}
	if len(took) != 8 {
		t.Errorf("%d members took over, want 8: %v", len(took), took)
	}
	if foreseen < lost*9/10 {
		t.Errorf("%d of %d users are at their standby, want 9 in 10", foreseen, lost)
	}
}

// TestWeights: users follow weights.
func TestWeights(t *testing.T) {
	m := members(4)
	m[0].Weight, m[1].Weight, m[2].Weight = 4, 2, 0
	has := held(newRing(t, m))
	for name, share := range map[string]float64{"app-0": 0.5, "app-1": 0.25, "app-2": 0.125, "app-3": 0.125} {
		if got := float64(has[name]) / ring.Partitions; got < share*0.9 || got > share*1.1 {
			t.Errorf("%s has %.3f of the partitions, want %.3f", name, got, share)
		}
	}
}

// TestGolden holds what must not change between builds of one cell: they would not
// agree on who serves whom.
func TestGolden(t *testing.T) {
	partitions := map[string]int{}
	for _, u := range []string{"", "ann", "user-42", "ann@example.org", "日本語"} {
		partitions[u] = ring.Partition(u)
	}
	want := map[string]int{"": 1218, "ann": 712, "user-42": 2509, "ann@example.org": 1844, "日本語": 183}
	if diff := cmp.Diff(want, partitions); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	m := members(5)
	m[1].Weight, m[2].Zone = 3, "a"
	r := newRing(t, m)
	if want := "5c9f5742f6769241"; r.Hash() != want {
		t.Errorf("hash %s, want %s", r.Hash(), want)
	}
	var owners strings.Builder
	for p := 0; p < ring.Partitions; p += 64 {
		m, _ := r.OwnerOf(p)
		owners.WriteString(strings.TrimPrefix(m.Name, "app-"))
	}
	if want := "0441341242133101112113344101121321111100300244411340002132311123"; owners.String() != want {
		t.Errorf("owners %s, want %s", owners.String(), want)
	}
}

func TestNobody(t *testing.T) {
	for _, r := range []*ring.Ring{nil, newRing(t, nil)} {
		if m, ok := r.Owner("ann"); ok {
			t.Errorf("owner %v of a ring without members", m)
		}
		if _, ok := r.Standby("ann"); ok || r.Len() != 0 || len(r.Members()) != 0 || r.Hash() == "" {
			t.Error("a ring without members has some")
		}
	}
	one := newRing(t, members(1))
	if m, ok := one.Standby("ann"); ok {
		t.Errorf("standby %v of the only member", m)
	}
	if n := one.Moved(nil); n != ring.Partitions {
		t.Errorf("%d partitions are new, want all", n)
	}
	if m, ok := one.Member("app-0"); !ok || m.Name != "app-0" {
		t.Errorf("member %v %v", m, ok)
	}
	if _, ok := one.Member("app-1"); ok {
		t.Error("found a member that is not there")
	}
}

func TestRefused(t *testing.T) {
	good := ring.Member{Name: "a", Addr: "h:1"}
	for what, m := range map[string][]ring.Member{
		"no name":       {{Addr: "h:1"}},
		"a path":        {{Name: "a/b", Addr: "h:1"}},
		"a parent":      {{Name: "..", Addr: "h:1"}},
		"a blank":       {{Name: "a b", Addr: "h:1"}},
		"a long name":   {{Name: strings.Repeat("a", 129), Addr: "h:1"}},
		"no ASCII":      {{Name: "ä", Addr: "h:1"}},
		"no address":    {{Name: "a"}},
		"no port":       {{Name: "a", Addr: "h"}},
		"no host":       {{Name: "a", Addr: ":1"}},
		"negative":      {{Name: "a", Addr: "h:1", Weight: -1}},
		"heavy":         {{Name: "a", Addr: "h:1", Weight: 101}},
		"a zone's path": {{Name: "a", Addr: "h:1", Zone: "z/1"}},
		"twins":         {good, good},
		"a crowd":       make([]ring.Member, ring.MaxMembers+1),
	} {
		if _, err := ring.New(m); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
}

func BenchmarkNew100(b *testing.B) {
	m := members(100)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.New(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOwner(b *testing.B) {
	r := newRing(b, members(100))
	b.ReportAllocs()
	for b.Loop() {
		r.Owner("user-42")
	}
}
