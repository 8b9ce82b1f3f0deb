package population

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// Law is a distribution of numbers, in whatever unit its parameters have. The laws of this
// package are plain data, safe for concurrent use, and may be copied.
type Law interface {
	// Draw returns a number of the law. Law must have passed Check.
	Draw(r *rand.Rand) float64
	// Expect returns the mean; +Inf where there is none.
	Expect() float64
	// Check says which parameter makes no sense.
	Check() error
}

// Constant is always Value.
type Constant struct {
	Value float64 `yaml:"value"`
}

// LogNormal is a median times e to the power of a normal number of deviation Sigma. What is
// below Min is Min; what is above Max is Max, where Max is not zero.
type LogNormal struct {
	Median float64 `yaml:"median"`
	Sigma  float64 `yaml:"sigma"`
	Min    float64 `yaml:"min"`
	Max    float64 `yaml:"max"`
}

// Pareto has the density ∝ x^(−Alpha−1) from Xm on. Where Max is not zero, the law is cut
// there: nothing is above, and what would have been is spread over the rest.
type Pareto struct {
	Xm    float64 `yaml:"xm"`
	Alpha float64 `yaml:"alpha"`
	Max   float64 `yaml:"max"`
}

// Exponential has mean Mean; what is above Max is Max, where Max is not zero.
type Exponential struct {
	Mean float64 `yaml:"mean"`
	Max  float64 `yaml:"max"`
}

// Geometric counts trials up to the first success, 1, 2, 3, …, when each succeeds with
// probability P. Its mean is 1/P.
type Geometric struct {
	P float64 `yaml:"p"`
}

// Table is a cumulative distribution by points, linear in between. What the first point has
// below it is its own.
type Table struct {
	Points []Point `yaml:"points"`
}

// Point says that a share of a Table's numbers are at most Value.
type Point struct {
	Value float64 `yaml:"value"`
	Share float64 `yaml:"share"`
}

// Mixture draws from one of several laws. Weights need not add up to 1.
type Mixture struct {
	Parts []Part `yaml:"parts"`
}

// Part is one law of a Mixture.
type Part struct {
	Weight float64 `yaml:"weight"`
	Law    Law     `yaml:"law"`
}

// limit clamps x to [low, high], where a high of zero means none.
func limit(x, low, high float64) float64 {
	if high != 0 {
		x = min(x, high)
	}
	return max(x, low)
}

func (c Constant) Draw(*rand.Rand) float64 { return c.Value }

func (c Constant) Expect() float64 { return c.Value }

func (c Constant) Check() error {
	if math.IsNaN(c.Value) || math.IsInf(c.Value, 0) {
		return fmt.Errorf("constant %v: want a finite number", c.Value)
	}
	return nil
}

func (l LogNormal) Draw(r *rand.Rand) float64 { return l.at(r.NormFloat64()) }

// at returns the number that a normal number z stands for.
func (l LogNormal) at(z float64) float64 {
	return limit(l.Median*math.Exp(l.Sigma*z), l.Min, l.Max)
}

// Expect adds what lies at Min and at Max to the partial expectation in between.
func (l LogNormal) Expect() float64 {
	if l.Sigma == 0 {
		return l.at(0)
	}
	z := func(x float64) float64 { return (math.Log(x) - math.Log(l.Median)) / l.Sigma }
	low, high, top := math.Inf(-1), math.Inf(1), 0.0
	if l.Min > 0 {
		low = z(l.Min)
	}
	if l.Max != 0 {
		high = z(l.Max)
		top = l.Max * normal(-high)
	}
	return l.Min*normal(low) + top + l.Median*math.Exp(l.Sigma*l.Sigma/2)*(normal(high-l.Sigma)-normal(low-l.Sigma))
}

func (l LogNormal) Check() error {
	if !(l.Median > 0 && l.Sigma >= 0 && l.Min >= 0 && (l.Max == 0 || l.Max >= l.Min)) || math.IsInf(l.Median+l.Sigma+l.Min+l.Max, 0) {
		return fmt.Errorf("log-normal of median %v, sigma %v, min %v, max %v: want a median above 0, the rest finite and not negative, max not below min",
			l.Median, l.Sigma, l.Min, l.Max)
	}
	return nil
}

// normal is the standard normal distribution function.
func normal(z float64) float64 { return math.Erfc(-z/math.Sqrt2) / 2 }

// quantile is its inverse.
func quantile(p float64) float64 { return math.Sqrt2 * math.Erfinv(2*p-1) }

// kept is the share of the law without Max that lies below Max.
func (p Pareto) kept() float64 {
	if p.Max == 0 {
		return 1
	}
	return 1 - math.Pow(p.Xm/p.Max, p.Alpha)
}

func (p Pareto) Draw(r *rand.Rand) float64 {
	return limit(p.Xm*math.Pow(1-r.Float64()*p.kept(), -1/p.Alpha), p.Xm, p.Max)
}

func (p Pareto) Expect() float64 {
	switch {
	case p.Max == 0 && p.Alpha <= 1:
		return math.Inf(1)
	case p.Max == 0:
		return p.Xm * p.Alpha / (p.Alpha - 1)
	case p.Alpha == 1:
		return p.Xm * math.Log(p.Max/p.Xm) / p.kept()
	}
	return p.Xm * p.Alpha / (p.Alpha - 1) * (1 - math.Pow(p.Max/p.Xm, 1-p.Alpha)) / p.kept()
}

func (p Pareto) Check() error {
	if !(p.Xm > 0 && p.Alpha > 0 && (p.Max == 0 || p.Max > p.Xm)) || math.IsInf(p.Xm+p.Alpha+p.Max, 0) {
		return fmt.Errorf("Pareto of xm %v, alpha %v, max %v: want xm and alpha above 0, max above xm", p.Xm, p.Alpha, p.Max)
	}
	return nil
}

func (e Exponential) Draw(r *rand.Rand) float64 { return limit(e.Mean*r.ExpFloat64(), 0, e.Max) }

func (e Exponential) Expect() float64 {
	if e.Max == 0 {
		return e.Mean
	}
	return -e.Mean * math.Expm1(-e.Max/e.Mean)
}

func (e Exponential) Check() error {
	if !(e.Mean > 0 && e.Max >= 0) || math.IsInf(e.Mean+e.Max, 0) {
		return fmt.Errorf("exponential of mean %v, max %v: want a mean above 0, a max that is not negative", e.Mean, e.Max)
	}
	return nil
}

func (g Geometric) Draw(r *rand.Rand) float64 {
	return 1 + math.Floor(-r.ExpFloat64()/math.Log1p(-g.P))
}

func (g Geometric) Expect() float64 { return 1 / g.P }

func (g Geometric) Check() error {
	if !(g.P > 0 && g.P <= 1) {
		return fmt.Errorf("geometric of p %v: want above 0, at most 1", g.P)
	}
	return nil
}

func (t Table) Draw(r *rand.Rand) float64 {
	u := r.Float64()
	i := sort.Search(len(t.Points)-1, func(i int) bool { return u < t.Points[i].Share })
	b := t.Points[i]
	if i == 0 {
		return b.Value
	}
	a := t.Points[i-1]
	return a.Value + (b.Value-a.Value)*(u-a.Share)/(b.Share-a.Share)
}

func (t Table) Expect() float64 {
	a := t.Points[0]
	sum := a.Value * a.Share
	for _, b := range t.Points[1:] {
		sum += (a.Value + b.Value) / 2 * (b.Share - a.Share)
		a = b
	}
	return sum
}

func (t Table) Check() error {
	n := len(t.Points)
	if n == 0 || t.Points[n-1].Share != 1 {
		return errors.New("table: want points, the last with a share of 1")
	}
	for i, b := range t.Points {
		a := Point{Value: math.Inf(-1)}
		if i > 0 {
			a = t.Points[i-1]
		}
		if !(b.Value > a.Value && b.Value < math.Inf(1) && b.Share >= a.Share) {
			return fmt.Errorf("table: point %d is (%v, %v) after (%v, %v): want both to rise from a share of 0", i, b.Value, b.Share, a.Value, a.Share)
		}
	}
	return nil
}

func (m Mixture) Draw(r *rand.Rand) float64 {
	u := r.Float64() * m.weight()
	for _, p := range m.Parts {
		if u -= p.Weight; u < 0 {
			return p.Law.Draw(r)
		}
	}
	// Only rounding leads here.
	return m.Parts[0].Law.Draw(r)
}

func (m Mixture) Expect() float64 {
	sum := 0.0
	for _, p := range m.Parts {
		if p.Weight > 0 {
			sum += p.Weight / m.weight() * p.Law.Expect()
		}
	}
	return sum
}

func (m Mixture) Check() error {
	for i, p := range m.Parts {
		if !(p.Weight >= 0) || p.Law == nil {
			return fmt.Errorf("mixture: part %d has weight %v and law %v: want a law, and a weight that is not negative", i, p.Weight, p.Law)
		}
		if err := p.Law.Check(); err != nil {
			return fmt.Errorf("mixture: part %d: %w", i, err)
		}
	}
	if w := m.weight(); !(w > 0 && w < math.Inf(1)) {
		return fmt.Errorf("mixture: the weights add up to %v: want above 0", w)
	}
	return nil
}

func (m Mixture) weight() float64 {
	sum := 0.0
	for _, p := range m.Parts {
		sum += p.Weight
	}
	return sum
}
