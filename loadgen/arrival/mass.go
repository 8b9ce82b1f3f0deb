package arrival

import "math"

// mass is an amount of arrivals, the value of Λ, in fixed point: n + frac/2^52. Sums of it
// are exact, so that a billion gaps add up without drift and in any grouping. One unit of
// frac at one arrival a second is 0.2 femtoseconds.
type mass struct {
	n    uint64
	frac uint64 // below 2^52
}

// toMass converts x, cutting what is below 2^-52. What rounding has made negative is zero.
func toMass(x float64) mass {
	x = max(0, x)
	n := math.Floor(x)
	return mass{uint64(n), uint64((x - n) * 0x1p52)}
}

func (m mass) add(o mass) mass {
	frac := m.frac + o.frac
	return mass{m.n + o.n + frac>>52, frac & (1<<52 - 1)}
}

// since returns m − o as a float; negative where o is the greater.
func (m mass) since(o mass) float64 {
	return float64(int64(m.n-o.n)) + float64(int64(m.frac-o.frac))*0x1p-52
}

func (m mass) less(o mass) bool {
	return m.n < o.n || m.n == o.n && m.frac < o.frac
}

// snap returns the whole number that m differs from by no more than rounding of floats may
// explain. Two seconds at 333.3/s and two at 0.7/s are 668 arrivals: a little more would
// let a constant process make one too many.
func (m mass) snap() mass {
	near := 1<<20 + m.n<<2 // 2^-32, or 2^-50 of m
	switch {
	case near >= 1<<51:
		return m
	case m.frac <= near:
		return mass{n: m.n}
	case m.frac >= 1<<52-near:
		return mass{n: m.n + 1}
	}
	return m
}

func (m mass) float() float64 { return m.since(mass{}) }

// sub returns m − o, or zero where o is the greater.
func (m mass) sub(o mass) mass {
	if m.less(o) {
		return mass{}
	}
	frac := m.frac - o.frac
	borrow := frac >> 63
	return mass{m.n - o.n - borrow, frac & (1<<52 - 1)}
}
