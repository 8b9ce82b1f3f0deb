package noise

import (
	"math"

	"darklaunch/verdict/stat"
)

// Wilson returns the share k of n with its score interval, of which alpha is the
// error of both sides. n need not be whole. With n = 0 nothing is known.
func Wilson(k, n, alpha float64) Interval {
	if !(n > 0) {
		return Interval{0, 0, 1}
	}
	k = min(k, n)
	low, high := stat.Wilson(k, n, alpha)
	return Interval{k / n, low, high}
}

// always returns the z of an interval that holds after every block at once, of
// which there are m.
func always(confidence float64, m int) float64 {
	return stat.SequenceRadius(1, m, 1-confidence) * math.Sqrt(float64(m))
}

// difference is the score interval of the difference of two shares of n, z standard
// errors to each side. Events that exclude each other are not independent, but of
// shares as small as these are almost so.
func difference(b, c, n, z float64) Interval {
	low, high := stat.Newcombe(b, n, c, n, math.Erfc(z/math.Sqrt2))
	return Interval{(b - c) / n, low, high}
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
