package draw

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"
)

// A change of these values changes every plan that was ever made: it must be meant.
func TestGolden(t *testing.T) {
	hashes := []struct {
		seed uint64
		s    Stream
		n, k uint64
		want uint64
	}{
		{0, 0, 0, 0, 0},
		{1, Gaps, 0, 0, 0xa385ef24fa6a992},
		{42, Users, 7, 0, 0xc3e0857cf3656691},
		{42, Users, 8, 0, 0x5e5bdfe689cc09e5},
		{42, Steps, 7, 3, 0xf5e19d4442120c6a},
		{math.MaxUint64, Contacts, math.MaxUint64, math.MaxUint64, 0x16e8175f146844a0},
	}
	for _, tt := range hashes {
		if got := Hash(tt.seed, tt.s, tt.n, tt.k); got != tt.want {
			t.Errorf("Hash(%d, %d, %d, %d) = %#x, want %#x", tt.seed, tt.s, tt.n, tt.k, got, tt.want)
		}
	}
	r := New(42, Steps, 7, 3)
	if got, want := fmt.Sprintf("%#x %.17g %.17g", r.Uint64(), r.ExpFloat64(), r.NormFloat64()), "0xe5a9ac02b39a41b6 2.5141796328597836 -0.62490910041282"; got != want {
		t.Errorf("draws at (42, Steps, 7, 3) = %s, want %s", got, want)
	}
}

func TestSeekGivesTheSameNumbersAsNew(t *testing.T) {
	r := New(1, Gaps, 0, 0)
	r.Uint64()
	r.Seek(9, Steps, 4, 2)
	if got, want := r.Uint64(), New(9, Steps, 4, 2).Uint64(); got != want {
		t.Errorf("first number after Seek = %#x, want %#x", got, want)
	}
	if n := testing.AllocsPerRun(100, func() { r.Seek(9, Steps, 4, 2) }); n != 0 {
		t.Errorf("Seek allocates %v times, want 0", n)
	}
}

// TestNeighboursAreIndependent looks at the first number of generators whose address
// differs by one in one coordinate: half of the bits must differ, as for any two random
// numbers.
func TestNeighboursAreIndependent(t *testing.T) {
	const n = 20_000
	first := func(seed uint64, s Stream, n, k uint64) uint64 { return New(seed, s, n, k).Uint64() }
	neighbours := map[string]func(i uint64) uint64{
		"seed":   func(i uint64) uint64 { return first(i, Steps, 1, 1) ^ first(i+1, Steps, 1, 1) },
		"stream": func(i uint64) uint64 { return first(i, Steps, 1, 1) ^ first(i, Operations, 1, 1) },
		"n":      func(i uint64) uint64 { return first(1, Steps, i, 1) ^ first(1, Steps, i+1, 1) },
		"k":      func(i uint64) uint64 { return first(1, Steps, 1, i) ^ first(1, Steps, 1, i+1) },
		"n by k": func(i uint64) uint64 { return first(1, Steps, i+1, i) ^ first(1, Steps, i, i+1) },
	}
	// excess is how far the mean number of differing bits is from 32, in standard
	// deviations (4/√n: n binomials (64, ½)).
	excess := func(f func(uint64) uint64) float64 {
		sum := 0
		for i := range uint64(n) {
			sum += bits.OnesCount64(f(i))
		}
		return math.Abs(float64(sum)/n-32) * math.Sqrt(n) / 4
	}
	for name, f := range neighbours {
		if got := excess(f); got > 4 {
			t.Errorf("%s: the bits in which neighbours differ are %.1f standard deviations from half, want at most 4", name, got)
		}
	}
	// The check must see generators that are seeded with the sum of n and k.
	sum := func(n, k uint64) uint64 { return rand.NewPCG(1, n+k).Uint64() }
	if got := excess(func(i uint64) uint64 { return sum(i+1, i) ^ sum(i, i+1) }); got < 4 {
		t.Errorf("summed address: %.1f standard deviations, want more than 4: the check is blind", got)
	}
}

func TestUnitAndBelow(t *testing.T) {
	if lo, hi := Unit(0), Unit(math.MaxUint64); lo <= 0 || hi >= 1 || 1-hi != lo {
		t.Errorf("Unit spans [%g, %g], want the same distance from 0 and from 1", lo, hi)
	}
	const n, cells = 100_000, 7
	var count [cells]float64
	rests := 0.0
	for i := range uint64(n) {
		c, rest := Below(Hash(1, Users, i, 0), cells)
		count[c]++
		rests += Unit(rest) / n
	}
	chi2 := 0.0
	for _, c := range count {
		chi2 += (c - n/cells) * (c - n/cells) / (n / cells)
	}
	// The 99.9 % point of χ² with 6 degrees of freedom; the mean of n uniform numbers ± 4
	// deviations.
	if chi2 > 22.46 || math.Abs(rests-0.5) > 4/math.Sqrt(12*n) {
		t.Errorf("Below: χ² %.2f, mean rest %.4f, want at most 22.46, and 0.5", chi2, rests)
	}
}

func ExampleRand_Seek() {
	// What arrival 7 does in its third step, computed by two who never talked.
	a, b := New(42, Gaps, 0, 0), New(42, Users, 99, 0)
	a.Seek(42, Steps, 7, 3)
	b.Seek(42, Steps, 7, 3)
	fmt.Println(a.IntN(100) == b.IntN(100))
	// Output: true
}

func BenchmarkSeek(b *testing.B) {
	b.ReportAllocs()
	r := New(1, Steps, 0, 0)
	var sum uint64
	for i := 0; b.Loop(); i++ {
		r.Seek(1, Steps, uint64(i), 0)
		sum += r.Uint64()
	}
	_ = sum
}
