// Package stat has the statistics of a verdict: intervals and one-sided tests for
// a mean of few values, for shares and for differences of shares, their use on
// values that depend on the ones before, and corrections for many questions and
// many looks.
//
// The package is pure and its functions do not panic. An alpha is the error of
// both sides of an interval together, in 0…1; a p-value is one-sided: small where
// the quantity is larger than what it is tested against.
package stat

import (
	"math"
	"slices"

	"github.com/aclements/go-moremath/stats"
)

// Mean returns the mean of x, NaN of nothing.
func Mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

// Variance returns the sample variance of x; NaN of fewer than two.
func Variance(x []float64) float64 {
	m, sum := Mean(x), 0.0
	for _, v := range x {
		sum += (v - m) * (v - m)
	}
	return sum / float64(len(x)-1)
}

// Z is the quantile of the standard normal distribution that alpha/2 lies above.
func Z(alpha float64) float64 { return -stats.StdNormal.InvCDF(alpha / 2) }

// manyDegrees are enough for Student's t to be normal to within 1e-5.
const manyDegrees = 1e5

// T is the quantile of Student's t with df degrees of freedom that alpha/2 lies above.
func T(alpha, df float64) float64 {
	if !(alpha > 0 && alpha < 1) || !(df > 0) {
		return math.Inf(1)
	}
	if df > manyDegrees {
		return Z(alpha)
	}
	return -stats.InvCDF(stats.TDist{V: df})(alpha / 2)
}

// MeanInterval is Student's interval for the mean of x, whose variance is inflated
// by the factor of Inflation: 1 for independent values. With fewer than two values
// it is infinite.
func MeanInterval(x []float64, inflation, alpha float64) (lower, upper float64) {
	if len(x) < 2 {
		return math.Inf(-1), math.Inf(1)
	}
	m := Mean(x)
	half := T(alpha, float64(len(x)-1)) * math.Sqrt(inflation*Variance(x)/float64(len(x)))
	return m - half, m + half
}

// MeanTest is the p-value of Student's test that the mean of x is at most mu.
func MeanTest(x []float64, inflation, mu float64) float64 {
	if len(x) < 2 {
		return 1
	}
	return StudentTest(Mean(x), math.Sqrt(inflation*Variance(x)/float64(len(x))), float64(len(x)-1), mu)
}

// StudentTest is the p-value of a mean with standard error se, known from df degrees
// of freedom, being at most mu.
func StudentTest(mean, se, df, mu float64) float64 {
	t := (mean - mu) / se
	switch {
	case !(df > 0) || math.IsNaN(mean) || math.IsNaN(mu) || math.IsInf(mean, 0):
		return 1
	case !(se > 0) || math.IsInf(t, 0): // all values are equal
		return certain(mean > mu)
	case df > manyDegrees:
		return stats.StdNormal.CDF(-t)
	}
	return stats.TDist{V: df}.CDF(-t)
}

func certain(larger bool) float64 {
	if larger {
		return 0
	}
	return 1
}

// maxRanked is the number of values up to which signed ranks are used: sorting
// the averages of all pairs takes 20 ms there, and t is as good long before.
const maxRanked = 400

// RankInterval is the interval of Wilcoxon's signed-rank test for the centre of x,
// by Walsh averages (Hollander, Wolfe and Chicken: Nonparametric Statistical
// Methods, 3rd ed., 3.3). Where x is too short for alpha, or longer than 400, ok is
// false.
func RankInterval(x []float64, alpha float64) (lower, upper float64, ok bool) {
	n := len(x)
	if n > maxRanked {
		return math.Inf(-1), math.Inf(1), false
	}
	below := -1 // the largest count whose probability is at most alpha/2
	for i, p := range rankCDF(n) {
		if p > alpha/2 {
			break
		}
		below = i
	}
	if below < 0 {
		return math.Inf(-1), math.Inf(1), false
	}
	w := walsh(x)
	slices.Sort(w)
	return w[below], w[len(w)-1-below], true
}

// RankTest is the p-value of Wilcoxon's signed-rank test that the centre of x is at
// most mu. It is below alpha/2 just where RankInterval is above mu; where that has no
// interval, ok is false.
func RankTest(x []float64, mu, alpha float64) (p float64, ok bool) {
	n := len(x)
	if n > maxRanked || math.Exp2(-float64(n)) > alpha/2 {
		return 1, false
	}
	count := 0
	for _, v := range walsh(x) {
		if v <= mu {
			count++
		}
	}
	return rankCDF(n)[count], true
}

// walsh are the averages of all pairs of x, each with itself included.
func walsh(x []float64) []float64 {
	w := make([]float64, 0, len(x)*(len(x)+1)/2)
	for i, a := range x {
		for _, b := range x[i:] {
			w = append(w, (a+b)/2)
		}
	}
	return w
}

// exactRanks is the sample size up to which the distribution is counted out.
const exactRanks = 60

// rankCDF is the distribution of the signed-rank statistic of n values: P(W ≤ i) at
// i, exact up to 60 values, normal with a continuity correction above.
func rankCDF(n int) []float64 {
	top := n * (n + 1) / 2
	cdf := make([]float64, top+1)
	if n > exactRanks {
		mean, sd := float64(top)/2, math.Sqrt(float64(n)*float64(n+1)*float64(2*n+1)/24)
		for i := range cdf {
			cdf[i] = stats.StdNormal.CDF((float64(i) + 0.5 - mean) / sd)
		}
		return cdf
	}
	cdf[0] = math.Exp2(-float64(n))
	for rank := 1; rank <= n; rank++ {
		for sum := rank * (rank + 1) / 2; sum >= rank; sum-- {
			cdf[sum] += cdf[sum-rank]
		}
	}
	for i := 1; i <= top; i++ {
		cdf[i] += cdf[i-1]
	}
	return cdf
}

// Holm returns the p-values adjusted for their number (Holm 1979, Scandinavian
// Journal of Statistics 6:65): rejecting those at most alpha is wrong anywhere with
// probability alpha at most, however they depend on each other. Order is kept; NaN
// counts as 1.
func Holm(p []float64) []float64 {
	order := make([]int, len(p))
	adjusted := make([]float64, len(p))
	for i, v := range p {
		order[i] = i
		if adjusted[i] = v; math.IsNaN(v) {
			adjusted[i] = 1
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case adjusted[a] < adjusted[b]:
			return -1
		case adjusted[a] > adjusted[b]:
			return 1
		}
		return 0
	})
	least := 0.0
	for rank, i := range order {
		least = min(1, max(least, adjusted[i]*float64(len(p)-rank)))
		adjusted[i] = least
	}
	return adjusted
}
