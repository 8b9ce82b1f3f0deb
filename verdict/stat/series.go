package stat

import "math"

// Rho is the lag-1 autocorrelation of x within −0.99…0.99, raised by the 1/n that it
// falls short in a series without any. Of a correlated series it stays low by some
// 4·rho/n (Kendall 1954, Biometrika 41:403): what is made of it, Inflation, rises
// faster than rho, so that the whole correction would make intervals too wide on
// average. Of fewer than four values, or equal ones, it is 0.
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
	return min(0.99, max(-0.99, r+1/n))
}

// Trend is the slope of the least-squares line through x, a step of it, with its
// standard error for independent values; NaN of fewer than three.
func Trend(x []float64) (slope, se float64) {
	n := float64(len(x))
	m, square := Mean(x), (n*n*n-n)/12
	for i, v := range x {
		slope += (float64(i) - (n-1)/2) * (v - m) / square
	}
	rest := 0.0
	for _, v := range detrended(x, m, slope) {
		rest += v * v
	}
	return slope, math.Sqrt(rest / (n - 2) / square)
}

// Detrended is x without its least-squares line.
func Detrended(x []float64) []float64 {
	slope, _ := Trend(x)
	return detrended(x, Mean(x), slope)
}

func detrended(x []float64, mean, slope float64) []float64 {
	d := make([]float64, len(x))
	for i, v := range x {
		if d[i] = v - mean; len(x) > 1 {
			d[i] -= slope * (float64(i) - float64(len(x)-1)/2)
		}
	}
	return d
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
