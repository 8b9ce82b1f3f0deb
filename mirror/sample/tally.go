package sample

import (
	"math"
	"math/bits"
)

// Tally counts what share of the traffic a sample really is. One figure would
// not do: with 10 % of users in and two users to a message, 19 % of the
// messages are mirrored, and they touch more users than are sampled.
//
// Distinct users are counted by linear counting (Whang, Vander-Zanden and
// Taylor, 1990) over the buckets that sampling hashes into anyway: one bit a
// bucket, 2 × 125 kB whatever the traffic. The error of one figure is below
// 0.1 % up to a million users, 0.3 % up to five million, 2 % at ten million.
// A table of users would be exact, and unbounded; a HyperLogLog is smaller,
// but ten times as far off at the sizes that a mirror sees.
//
// The zero Tally is ready. Not safe for concurrent use.
type Tally struct {
	requests, mirrored uint64
	users              bitmap // authors and touched
	touched            bitmap // those of mirrored exchanges
}

// Fractions are what a Tally knows, each between 0 and 1, 0 when there was none.
type Fractions struct {
	Users    float64 // of the distinct users seen, those that are in
	Requests float64 // of the exchanges, those that are mirrored
	Touched  float64 // of the distinct users seen, those that a mirrored exchange touches
	Seen     float64 // distinct users seen, estimated
}

// Add counts one exchange.
func (t *Tally) Add(d *Decision) {
	t.requests++
	if d.Admitted {
		t.mirrored++
	}
	if d.Author.Key != "" {
		t.user(d.Author.ID, d.Admitted)
	}
	for i := range d.Touched {
		t.user(d.Touched[i].ID, d.Admitted)
	}
}

func (t *Tally) user(id uint64, mirrored bool) {
	t.users.set(bucket(id))
	if mirrored {
		t.touched.set(bucket(id))
	}
}

// Fractions returns the shares so far. share is the one in force: users are in
// by their buckets, lists aside.
func (t *Tally) Fractions(share Share) Fractions {
	admit := min(max(share.Sample, share.Admit), Buckets)
	seen := t.users.estimate(Buckets)
	return Fractions{
		Users:    ratio(t.users.estimate(admit), seen),
		Requests: ratio(float64(t.mirrored), float64(t.requests)),
		Touched:  ratio(t.touched.estimate(Buckets), seen),
		Seen:     seen,
	}
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

type bitmap struct {
	bits [Buckets / 64]uint64
}

func (m *bitmap) set(b int32) { m.bits[b/64] |= 1 << (b % 64) }

// estimate returns how many users the buckets under limit have seen.
func (m *bitmap) estimate(limit int32) float64 {
	occupied := 0
	for i := range limit / 64 {
		occupied += bits.OnesCount64(m.bits[i])
	}
	if limit%64 != 0 {
		occupied += bits.OnesCount64(m.bits[limit/64] & (1<<(limit%64) - 1))
	}
	all := float64(limit)
	empty := max(all-float64(occupied), 1) // no bucket empty: more users than can be told
	return all * math.Log(max(all, 1)/empty)
}
