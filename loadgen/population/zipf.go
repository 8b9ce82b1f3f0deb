package population

import (
	"math"
	"math/rand/v2"
)

// zipf draws ranks 0 … n−1 with probability ∝ (rank+1)^−q in constant time and without
// tables, for any n, by rejection-inversion (Hörmann and Derflinger 1996). The names below
// are theirs: h is the density, bigH an integral of it.
type zipf struct {
	q     float64
	first float64 // bigH(3/2) − h(1)
	s     float64 // a rank that is at most s above its x needs no test
}

func newZipf(q float64) zipf {
	z := zipf{q: q}
	z.first = z.bigH(1.5) - 1
	z.s = 2 - z.inverse(z.bigH(2.5)-z.h(2))
	return z
}

func (z zipf) h(x float64) float64 { return math.Exp(-z.q * math.Log(x)) }

// bigH is (x^(1−q) − 1)/(1−q), and log x where q is 1.
func (z zipf) bigH(x float64) float64 {
	log := math.Log(x)
	t := (1 - z.q) * log
	if math.Abs(t) < 1e-8 {
		return log * (1 + t/2)
	}
	return math.Expm1(t) / (1 - z.q)
}

func (z zipf) inverse(y float64) float64 {
	t := max(-1, y*(1-z.q))
	if math.Abs(t) < 1e-8 {
		return math.Exp(y * (1 - t/2))
	}
	return math.Exp(math.Log1p(t) / (1 - z.q))
}

func (z zipf) draw(n int, r *rand.Rand) int {
	last := z.bigH(float64(n) + 0.5)
	for {
		u := last + r.Float64()*(z.first-last)
		x := z.inverse(u)
		k := min(max(math.Floor(x+0.5), 1), float64(n))
		if k-x <= z.s || u >= z.bigH(k+0.5)-z.h(k) {
			return int(k) - 1
		}
	}
}
