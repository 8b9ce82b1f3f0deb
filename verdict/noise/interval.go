package noise

import (
	"math"

	"github.com/aclements/go-moremath/mathx"
	"github.com/aclements/go-moremath/stats"
)

// Wilson returns the share k of n with its score interval, z standard errors to
// each side (Wilson, "Probable inference, the law of succession, and statistical
// inference", JASA 22, 1927). n need not be whole. With n = 0 nothing is known.
func Wilson(k, n, z float64) Interval {
	if !(n > 0) {
		return Interval{0, 0, 1}
	}
	p := min(k/n, 1)
	middle := p + z*z/(2*n)
	half := z * math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	scale := 1 + z*z/n
	out := Interval{p, max(0, (middle-half)/scale), min(1, (middle+half)/scale)}
	// Which rounding would miss.
	if k <= 0 {
		out.Low = 0
	}
	if p == 1 {
		out.High = 1
	}
	return out
}

// normal returns the z of a two-sided interval of that confidence.
func normal(confidence float64) float64 { return math.Sqrt2 * math.Erfinv(confidence) }

// always returns the z of an interval that holds after every block at once, of
// which there are m: Robbins' normal mixture as an asymptotic confidence sequence
// (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory
// and asymptotic confidence sequences", Annals of Statistics 52, 2024), with its
// parameter set for some tens of blocks, and widened as Student's t is for few.
func always(confidence float64, m int) float64 {
	const eta = 0.3
	v := float64(m)*eta + 1
	z := math.Sqrt(2 * v / (float64(m) * eta) * math.Log(math.Sqrt(v)/(1-confidence)))
	t := stats.InvCDF(stats.TDist{V: float64(m - 1)})((1 + confidence) / 2)
	return z * t / normal(confidence)
}

// difference is the interval of the difference of two shares of n, z standard
// errors to each side, from their Wilson intervals (Newcombe, "Interval estimation
// for the difference between independent proportions", Statistics in Medicine 17,
// 1998, method 10). Events that exclude each other are not independent, but of
// shares as small as these are almost so.
func difference(b, c, n, z float64) Interval {
	x, y := Wilson(b, n, z), Wilson(c, n, z)
	d := x.Value - y.Value
	return Interval{d, d - math.Hypot(x.Value-x.Low, y.High-y.Value), d + math.Hypot(x.High-x.Value, y.Value-y.Low)}
}

// moments are sums over blocks, of the difference d in a block and its pairs n.
type moments struct {
	DD float64 `json:"dd"` // d²
	DN float64 `json:"dn"` // dn
}

// ratio is the interval of the sum of differences d per pair n over m blocks, z
// standard errors to each side. The error is that of a ratio estimate, from the
// residuals of blocks: d - (Σd/Σn)n.
func ratio(d, n, nn float64, m moments, blocks int, z float64) Interval {
	if blocks < 2 || !(n > 0) {
		return Interval{0, -1, 1}
	}
	r := d / n
	residual := max(0, m.DD-2*r*m.DN+r*r*nn)
	k := float64(blocks)
	half := z * math.Sqrt(residual*k/(k-1)) / n
	return Interval{r, r - half, r + half}
}

// upper is the upper bound of a probability of which k of n were seen, which is
// too low with probability alpha (Clopper and Pearson, "The use of confidence or
// fiducial limits illustrated in the case of the binomial", Biometrika 26, 1934).
func upper(k, n, alpha float64) float64 {
	if k >= n {
		return 1
	}
	low, high := k/n, 1.0
	for range 60 {
		p := (low + high) / 2
		if mathx.BetaInc(p, k+1, n-k) < 1-alpha {
			low = p
		} else {
			high = p
		}
	}
	return high
}
