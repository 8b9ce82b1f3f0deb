package stat

import (
	"math"

	"github.com/aclements/go-moremath/mathx"
	"github.com/aclements/go-moremath/stats"
)

// Wilson is Wilson's score interval for a share of which k of n were seen (Wilson
// 1927, JASA 22:209). Of n = 0 it is 0…1.
func Wilson(k, n, alpha float64) (lower, upper float64) {
	if !(n > 0) {
		return 0, 1
	}
	z := Z(alpha)
	p, zz := k/n, z*z
	centre := (k + zz/2) / (n + zz)
	half := z / (n + zz) * math.Sqrt(n*p*(1-p)+zz/4)
	lower, upper = max(0, centre-half), min(1, centre+half)
	if k == 0 { // the formula's own answers there, without rounding
		lower = 0
	}
	if k == n {
		upper = 1
	}
	return lower, upper
}

// Newcombe is the score interval for the difference of two independent shares,
// kx/nx − ky/ny: method 10 of Newcombe 1998, Statistics in Medicine 17:873.
func Newcombe(kx, nx, ky, ny, alpha float64) (lower, upper float64) {
	return newcombe(kx, nx, ky, ny, 0, alpha)
}

// NewcombePaired is the score interval for the difference of two shares of the same n
// pairs, of which in both both, in x alone the first and in y alone the second is so:
// method 10 of Newcombe 1998, Statistics in Medicine 17:2635.
func NewcombePaired(both, x, y, n, alpha float64) (lower, upper float64) {
	neither := n - both - x - y
	phi := 0.0
	if a := (both + x) * (y + neither) * (both + y) * (x + neither); a > 0 {
		switch det := both*neither - x*y; {
		case det > n/2:
			phi = (det - n/2) / math.Sqrt(a)
		case det < 0:
			phi = det / math.Sqrt(a)
		}
	}
	return newcombe(both+x, n, both+y, n, phi, alpha)
}

func newcombe(kx, nx, ky, ny, phi, alpha float64) (lower, upper float64) {
	if !(nx > 0 && ny > 0) {
		return -1, 1
	}
	lx, ux := Wilson(kx, nx, alpha)
	ly, uy := Wilson(ky, ny, alpha)
	px, py := kx/nx, ky/ny
	distance := func(a, b float64) float64 {
		return math.Sqrt(max(0, a*a-2*phi*a*b+b*b))
	}
	return px - py - distance(px-lx, uy-py), px - py + distance(ux-px, py-ly)
}

// AgrestiMin is the adjusted Wald interval for the same difference as
// NewcombePaired: half a pair is added to each of the four cells (Agresti and Min
// 2005, Statistics in Medicine 24:729).
func AgrestiMin(x, y, n, alpha float64) (lower, upper float64) {
	if !(n > 0) {
		return -1, 1
	}
	x, y, n = x+0.5, y+0.5, n+2
	d := (x - y) / n
	half := Z(alpha) * math.Sqrt(max(0, (x+y)/n-d*d)/n)
	return d - half, d + half
}

// ShareBelow is an upper bound of a share of which k of n were seen, which is too low
// with probability alpha at most (Clopper and Pearson 1934, Biometrika 26:404).
func ShareBelow(k, n, alpha float64) float64 {
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

// manyPairs is from where on the binomial distribution is taken as normal.
const manyPairs = 10000

// McNemar is the mid-p value that x discordant pairs against y are no more than
// chance makes them (Fagerland, Lydersen and Laake 2013, BMC Medical Research
// Methodology 13:91). Twice the smaller of McNemar(x, y) and McNemar(y, x) is their
// two-sided one.
func McNemar(x, y uint64) float64 {
	n := x + y
	if n == 0 {
		return 1
	}
	if n > manyPairs {
		return stats.StdNormal.CDF((float64(y) - float64(x)) / math.Sqrt(float64(n)))
	}
	d := stats.BinomialDist{N: int(n), P: 0.5}
	return (d.CDF(float64(y)-1) + d.CDF(float64(y))) / 2
}

// Overdispersed says whether differences x[i]−y[i] of counts of blocks of n[i] pairs
// vary more between blocks than independent pairs would, at a one-sided level: then
// errors come in bursts, and pairs are no evidence of their own. It is Pearson's X²,
// with a gamma distribution that has its mean and variance for rare events. Fewer
// than three blocks can't tell.
func Overdispersed(x, y, n []float64, level float64) bool {
	var sx, sy, sn float64
	for i := range x {
		sx, sy, sn = sx+x[i], sy+y[i], sn+n[i]
	}
	m := 0.0
	for i := range n {
		if n[i] > 0 {
			m++
		}
	}
	if m < 3 || sx+sy == 0 {
		return false
	}
	mean, variance := (sx-sy)/sn, (sx+sy)/sn-(sx-sy)*(sx-sy)/(sn*sn)
	if variance <= 0 {
		return false
	}
	chi := 0.0
	for i := range x {
		if n[i] > 0 {
			d := x[i] - y[i] - mean*n[i]
			chi += d * d / (n[i] * variance)
		}
	}
	// A term's variance is 2 + 1/(events a block) where events are Poisson's.
	scale := 1 + m/(2*(sx+sy))
	return 1-chiSquared(chi/scale, (m-1)/scale) < level
}

// chiSquared is the distribution function of chi-squared with df degrees of freedom,
// by the cube root of Wilson and Hilferty (1931, PNAS 17:684): within 0.005.
func chiSquared(x, df float64) float64 {
	v := 2 / (9 * df)
	return stats.StdNormal.CDF((math.Cbrt(x/df) - (1 - v)) / math.Sqrt(v))
}
