// Package ring says which server of a cell should serve a user. It is a function of
// the cell's members alone: whoever knows the same members, in whatever order it
// learned of them, has the same ring.
//
// # Two steps
//
// A user's id is hashed to one of 4,096 partitions, once and for all. Partitions are
// given to members by rendezvous with bounded loads: each pair of a partition and a
// member has a rank; a partition goes to the member that ranks highest for it, unless
// that has its fill of partitions that rank it higher still. The result is the stable
// matching of Gale and Shapley ("College Admissions and the Stability of Marriage",
// 1962), with ranks as in Thaler and Ravishankar ("Using Name-Based Mappings to
// Increase Hit Rates", 1998) and the bound of Mirrokni, Thorup and Zadimoghaddam
// ("Consistent Hashing with Bounded Loads", 2016).
//
// So no member has more than a tenth above its share of partitions, shares being by
// weight, and little but the partitions of who comes or goes move.
//
// # What it does not say
//
// A ring says who should serve a user, not who may: see package fence.
package ring

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// Partitions is how many parts users are divided into. It is the same in all cells
// and builds: to change it moves every user.
const Partitions = 4096

// MaxWeight is the largest weight of a member.
const MaxWeight = 100

// MaxMembers is how many members a ring takes at most. Above some 400 of them a
// partition is too large a part of a member's share for the bound of a tenth.
const MaxMembers = Partitions

// Member is a server of a cell.
type Member struct {
	// Name tells it from the other members: 1 to 128 bytes of printable ASCII without
	// blanks and slashes. What it ranks by is its name alone, so that a member that is
	// started again elsewhere under its name gets its users back.
	Name string
	// Addr is where the others reach it, host:port.
	Addr string
	// Build is what it runs. The ring does not depend on it.
	Build string
	// Zone is a part of the cell that may fail as one. It may be empty.
	Zone string
	// Weight is its share of users in relation to the others', up to MaxWeight. Zero is 1.
	Weight int
}

// Check returns what is wrong with a member, or nil.
func (m Member) Check() error {
	switch {
	case !isName(m.Name, 1):
		return fmt.Errorf("member %q: want a name of 1 to %d printable ASCII characters without blanks and slashes", m.Name, maxName)
	case !isName(m.Zone, 0):
		return fmt.Errorf("member %s: zone %q: want at most %d printable ASCII characters without blanks and slashes", m.Name, m.Zone, maxName)
	case m.Weight < 0 || m.Weight > MaxWeight:
		return fmt.Errorf("member %s: weight %d: want 0 to %d", m.Name, m.Weight, MaxWeight)
	}
	if colon := strings.LastIndexByte(m.Addr, ':'); colon < 1 || colon == len(m.Addr)-1 || len(m.Addr) > 2*maxName {
		return fmt.Errorf("member %s: address %q: want host:port", m.Name, m.Addr)
	}
	return nil
}

const maxName = 128

func isName(s string, least int) bool {
	return len(s) >= least && len(s) <= maxName && s != "." && s != ".." &&
		!strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '/' })
}

func (m Member) weight() int { return max(m.Weight, 1) }

// Ring is the members of a cell and who of them has which partition. It does not
// change and is safe for concurrent use. The nil Ring has no members.
type Ring struct {
	members []Member // by name
	owners  []uint16 // of each partition: an index of members; nil if there are none
	hash    string
}

// New returns the ring of members, which may be none. The error is of Member.Check, of
// a name that comes twice, or of too many.
func New(members []Member) (*Ring, error) {
	r := &Ring{members: slices.Clone(members)}
	if len(members) > MaxMembers {
		return nil, fmt.Errorf("ring of %d members: want at most %d", len(members), MaxMembers)
	}
	slices.SortFunc(r.members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	for i, m := range r.members {
		if err := m.Check(); err != nil {
			return nil, fmt.Errorf("ring: %w", err)
		}
		if i > 0 && m.Name == r.members[i-1].Name {
			return nil, fmt.Errorf("ring: two members are called %s", m.Name)
		}
	}
	if len(members) > 0 {
		r.owners = match(r.members)
	}
	r.hash = hash(r.members)
	return r, nil
}

// Partition returns the partition of a user.
func Partition(user string) int { return int(xxh3.HashString(user) % Partitions) }

// Owner returns the member that should serve a user; false if there are no members.
func (r *Ring) Owner(user string) (Member, bool) { return r.OwnerOf(Partition(user)) }

// OwnerOf returns the member that has a partition; false if there are no members.
func (r *Ring) OwnerOf(partition int) (Member, bool) {
	if r.Len() == 0 {
		return Member{}, false
	}
	return r.members[r.owners[partition]], true
}

// Standby returns the member of another zone than the owner's that ranks highest for
// a user: most likely the next owner if the owner's zone is lost as a whole. Without
// zones each member is a zone of its own. False if there is no other zone.
func (r *Ring) Standby(user string) (Member, bool) {
	owner, ok := r.Owner(user)
	if !ok {
		return Member{}, false
	}
	var best Member
	var highest uint64
	for _, m := range r.members {
		if m.Name == owner.Name || m.Zone != "" && m.Zone == owner.Zone {
			continue
		}
		if s := rank(m, Partition(user)); best.Name == "" || s > highest {
			best, highest = m, s
		}
	}
	return best, best.Name != ""
}

// Members returns the members by name. The slice is the caller's.
func (r *Ring) Members() []Member {
	if r == nil {
		return nil
	}
	return slices.Clone(r.members)
}

// Len returns how many members there are.
func (r *Ring) Len() int {
	if r == nil {
		return 0
	}
	return len(r.members)
}

// Member returns the member of a name.
func (r *Ring) Member(name string) (Member, bool) {
	if r == nil {
		return Member{}, false
	}
	i, ok := slices.BinarySearchFunc(r.members, name, func(m Member, name string) int { return cmp.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return r.members[i], true
}

// Hash tells rings apart: it is that of the members with their addresses, zones and
// weights, but not their builds.
func (r *Ring) Hash() string {
	if r == nil {
		return hash(nil)
	}
	return r.hash
}

// Moved returns how many partitions have another owner in a ring than in one before;
// all that have one, if the ring before had no members.
func (r *Ring) Moved(before *Ring) int {
	n := 0
	for p := range Partitions {
		was, _ := before.OwnerOf(p)
		is, _ := r.OwnerOf(p)
		if is.Name != was.Name {
			n++
		}
	}
	return n
}

func hash(members []Member) string {
	h := xxh3.New()
	for _, m := range members {
		fmt.Fprintf(h, "%s %s %s %d\n", m.Name, m.Addr, m.Zone, m.weight())
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

func rank(m Member, partition int) uint64 {
	seed := xxh3.HashString(m.Name)
	best := uint64(0)
	for i := range m.weight() {
		// A draw's leading bits are a permutation of all partitions: each member has one
		// of every value, and those that it wins are a tenth as scattered in number as
		// with independent draws. The rest decides between members of equal values.
		key := mix(seed + uint64(i))
		place := (uint64(partition)*(key|1) + key>>32) % Partitions
		best = max(best, place<<52|mix(key+uint64(partition))>>12)
	}
	return best
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast Splittable
// Pseudorandom Number Generators", 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// limits returns how many partitions each member takes: a tenth above its share, and
// at least its share rounded up, so that all partitions find a place.
func limits(members []Member) []int {
	total := 0
	for _, m := range members {
		total += m.weight()
	}
	limits := make([]int, len(members))
	for i, m := range members {
		share := Partitions * m.weight()
		limits[i] = max(share*11/(total*10), (share+total-1)/total)
	}
	return limits
}

// match returns the owner of each partition, as an index of members. Partitions ask
// members in the order of their ranks, and a member that has its fill gives up the one
// that it wants least. It wants those more whose wish it was sooner: so partitions that
// lose their member push no others out of where these wanted to be.
func match(members []Member) []uint16 {
	var (
		n       = len(members)
		ranks   = make([]uint64, n*Partitions) // by partition, then member
		wish    = make([]uint64, Partitions)   // of each partition, which one it asked for last, from 1
		last    = make([]uint64, Partitions)   // and the rank of that
		holds   = make([][]int, n)             // partitions that a member has, the most wanted first
		limits  = limits(members)
		waiting = make([]int, Partitions)
	)
	for p := range Partitions {
		for i, m := range members {
			ranks[p*n+i] = rank(m, p)
		}
		last[p], waiting[p] = math.MaxUint64, p
	}
	for len(waiting) > 0 {
		p := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		i := next(ranks[p*n:(p+1)*n], last[p])
		wish[p], last[p] = wish[p]+1, ranks[p*n+i]
		at, _ := slices.BinarySearchFunc(holds[i], p, func(a, b int) int {
			return cmp.Or(cmp.Compare(wish[a], wish[b]), cmp.Compare(last[b], last[a]))
		})
		holds[i] = slices.Insert(holds[i], at, p)
		if len(holds[i]) > limits[i] {
			waiting = append(waiting, holds[i][limits[i]])
			holds[i] = holds[i][:limits[i]]
		}
	}
	owners := make([]uint16, Partitions)
	for i, partitions := range holds {
		for _, p := range partitions {
			owners[p] = uint16(i)
		}
	}
	return owners
}

// next returns the member with the highest rank below another's. Limits add up to all
// partitions, so that there is one.
func next(ranks []uint64, below uint64) int {
	best := -1
	for i, r := range ranks {
		if r < below && (best < 0 || r > ranks[best]) {
			best = i
		}
	}
	return best
}
