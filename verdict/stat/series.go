package stat

import "math"

// Rho is the lag-1 autocorrelation of x, corrected for the bias that a short series
// has if it is autoregressive (Kendall 1954, Biometrika 41:403), within −0.99…0.99.
// Of fewer than four values, or equal ones, it is 0.
func Rho(x []float64) float64 {
	n := float64(len(x))
	m := Mean(x)
	var lagged, square float64
	for i, v := range x {
		square += (v - m) * (v - m)
		if i > 0 {
			lagged += (v - m) * (x[i-1] - m)
		}
	}
	if n < 4 || !(square > 0) {
		return 0
	}
	r := lagged / square
	return min(0.99, max(-0.99, r+(1+3*r)/n))
}

// BlockLength is how many of windows in a row make a block of which the next depends
// little: four times the ratio by which autocorrelation rho stretches the variance
// of a mean, and at most an eighth of all windows.
func BlockLength(rho float64, windows int) int {
	rho = min(0.99, max(0, rho))
	return max(1, min(int(math.Ceil(4*(1+rho)/(1-rho)-1e-9)), windows/8))
}

// Inflation is the ratio of the variance of the mean of blocks, each the mean of
// length windows of a first-order autoregressive series with correlation rho, to
// what the sample variance of the blocks says it is. It is 1 for rho ≤ 0, and near
// it where blocks are long.
func Inflation(rho float64, length, blocks int) float64 {
	if rho <= 0 || blocks < 2 {
		return 1
	}
	rho = min(rho, 0.99)
	// meanVariance is that of the mean of n windows of variance 1.
	meanVariance := func(n float64) float64 {
		return ((1+rho)/(1-rho) - 2*rho*(1-math.Pow(rho, n))/(n*(1-rho)*(1-rho))) / n
	}
	all, block := meanVariance(float64(length*blocks)), meanVariance(float64(length))
	return max(1, float64(blocks-1)*all/(block-all))
}

// tuned is the width of the mixture: the sequence is tightest at some twenty values.
const tuned = 0.3

// SequenceRadius is half the width of a confidence sequence for the mean of the
// first n values of a series with standard deviation sd, at n: with probability
// 1−alpha the mean is within the radius at every n from the first look on, so that
// one may look at each (Robbins 1970, Annals of Mathematical Statistics 41:1397;
// with an estimated sd Waudby-Smith et al. 2024, Annals of Statistics 52:2613),
// widened for small n as Student's t is.
func SequenceRadius(sd float64, n int, alpha float64) float64 {
	if n < 2 {
		return math.Inf(1)
	}
	m := float64(n)
	a := m*tuned + 1
	return sd * small(n, alpha) * math.Sqrt(2*a/(m*m*tuned)*math.Log(math.Sqrt(a)/alpha))
}

func small(n int, alpha float64) float64 { return T(alpha, float64(n-1)) / Z(alpha) }

// SequenceTest is half the least alpha at which the sequence excludes mu from below,
// with the widening of alpha: a p-value at all looks at once.
func SequenceTest(mean, sd float64, n int, mu, alpha float64) float64 {
	if n < 2 || !(mean > mu) {
		return 1
	}
	m := float64(n)
	a := m*tuned + 1
	r := (mean - mu) / (sd * small(n, alpha))
	return min(1, math.Sqrt(a)*math.Exp(-r*r*m*m*tuned/(2*a))/2)
}
