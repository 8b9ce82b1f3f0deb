package population

import (
	"math"
	"slices"
	"strings"
	"testing"

	"darklaunch/loadgen/draw"
)

// sample draws n numbers of a law, sorted.
func sample(l Law, n int) []float64 {
	r := draw.New(11, draw.Steps, 0, 0)
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = l.Draw(r.Rand)
	}
	slices.Sort(xs)
	return xs
}

// below is the share of sorted xs under x.
func below(xs []float64, x float64) float64 {
	i, _ := slices.BinarySearch(xs, x)
	return float64(i) / float64(len(xs))
}

// moments returns the mean and the mean's standard error.
func moments(xs []float64) (mean, err float64) {
	n := float64(len(xs))
	for _, x := range xs {
		mean += x / n
	}
	for _, x := range xs {
		err += (x - mean) * (x - mean) / n
	}
	return mean, math.Sqrt(err / n)
}

// TestLawsHaveTheirMeans holds draws against Expect, within four standard errors of the
// sample.
func TestLawsHaveTheirMeans(t *testing.T) {
	laws := map[string]Law{
		"constant":            Constant{3},
		"log-normal":          LogNormal{Median: 60, Sigma: 1.2},
		"log-normal clamped":  LogNormal{Median: 60, Sigma: 1.2, Min: 40, Max: 100},
		"log-normal of one":   LogNormal{Median: 60},
		"Pareto":              Pareto{Xm: 2, Alpha: 3},
		"Pareto cut":          Pareto{Xm: 2, Alpha: 1.5, Max: 249},
		"Pareto cut, alpha 1": Pareto{Xm: 2, Alpha: 1, Max: 249},
		"exponential":         Exponential{Mean: 7},
		"exponential clamped": Exponential{Mean: 7, Max: 10},
		"geometric":           Geometric{0.85},
		"geometric of one":    Geometric{1},
		"table":               Table{[]Point{{1, 0.2}, {2, 0.2}, {10, 0.9}, {20, 1}}},
		"mixture":             Mixture{[]Part{{3, Constant{1}}, {0, Pareto{Xm: 1, Alpha: 0.5}}, {1, Exponential{Mean: 9}}}},
		"chat":                ChatBody(), "mail": MailBody(), "attachment": Attachments(), "think": ThinkTime(),
	}
	for name, l := range laws {
		if err := l.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		mean, err := moments(sample(l, 200_000))
		if want := l.Expect(); math.Abs(mean-want) > 4*err+1e-9*want {
			t.Errorf("%s: mean %.4f ± %.4f, want %.4f", name, mean, err, want)
		}
	}
	if got := (Pareto{Xm: 1, Alpha: 1}).Expect(); !math.IsInf(got, 1) {
		t.Errorf("mean of a Pareto of alpha 1 = %v, want +Inf", got)
	}
	// A clamp forgotten by Expect is seen.
	mean, err := moments(sample(LogNormal{Median: 60, Sigma: 1.2, Max: 100}, 200_000))
	if wrong := (LogNormal{Median: 60, Sigma: 1.2}).Expect(); math.Abs(mean-wrong) < 4*err {
		t.Errorf("the mean of a clamped law, %.2f ± %.2f, passes for that of the law, %.2f", mean, err, wrong)
	}
}

// TestLawsHaveTheirShapes holds shares of draws against those computed by hand, ± 4·√(¼/n).
func TestLawsHaveTheirShapes(t *testing.T) {
	const n = 200_000
	tests := []struct {
		name  string
		law   Law
		x     float64
		share float64
	}{
		{"log-normal, median", LogNormal{Median: 60, Sigma: 1.2}, 60, 0.5},
		{"log-normal, one sigma", LogNormal{Median: 60, Sigma: 1.2}, 60 * math.Exp(1.2), 0.8413},
		{"log-normal, at the clamp", LogNormal{Median: 60, Sigma: 1.2, Max: 60}, 59.999, 0.5},
		{"Pareto", Pareto{Xm: 2, Alpha: 1.5}, 8, 0.875},
		{"Pareto, cut", Pareto{Xm: 2, Alpha: 1.5, Max: 8}, 4, (1 - 0.353553) / 0.875},
		{"exponential", Exponential{Mean: 7}, 7, 1 - 1/math.E},
		{"geometric", Geometric{0.85}, 1.5, 0.85},
		{"geometric, two", Geometric{0.85}, 2.5, 0.9775},
		{"table, own share", Table{[]Point{{1, 0.2}, {2, 0.2}, {10, 0.9}, {20, 1}}}, 1.5, 0.2},
		{"table, within", Table{[]Point{{1, 0.2}, {2, 0.2}, {10, 0.9}, {20, 1}}}, 6, 0.55},
		{"mixture", Mixture{[]Part{{3, Constant{1}}, {1, Constant{2}}}}, 1.5, 0.75},
	}
	for _, tt := range tests {
		if got := below(sample(tt.law, n), tt.x); math.Abs(got-tt.share) > 4*math.Sqrt(0.25/n) {
			t.Errorf("%s: share below %v = %.4f, want %.4f", tt.name, tt.x, got, tt.share)
		}
	}
}

func TestLawsThatMakeNoSense(t *testing.T) {
	tests := map[string]struct {
		law  Law
		want string
	}{
		"constant":         {Constant{math.NaN()}, "finite"},
		"median":           {LogNormal{Sigma: 1}, "median above 0"},
		"sigma":            {LogNormal{Median: 1, Sigma: -1}, "not negative"},
		"clamp":            {LogNormal{Median: 1, Min: 3, Max: 2}, "max not below min"},
		"infinite":         {LogNormal{Median: math.Inf(1)}, "finite"},
		"xm":               {Pareto{Alpha: 1}, "xm"},
		"alpha":            {Pareto{Xm: 1, Alpha: math.NaN()}, "alpha"},
		"cut":              {Pareto{Xm: 3, Alpha: 1, Max: 3}, "max above xm"},
		"mean":             {Exponential{}, "mean above 0"},
		"p":                {Geometric{}, "above 0"},
		"p above":          {Geometric{1.1}, "at most 1"},
		"empty table":      {Table{}, "points"},
		"open table":       {Table{[]Point{{1, 0}, {2, 0.9}}}, "share of 1"},
		"falling table":    {Table{[]Point{{1, 0.5}, {2, 0.4}, {3, 1}}}, "point 1"},
		"unsorted table":   {Table{[]Point{{2, 0.5}, {1, 1}}}, "point 1"},
		"negative table":   {Table{[]Point{{2, -0.5}, {3, 1}}}, "point 0"},
		"empty mixture":    {Mixture{}, "above 0"},
		"weightless":       {Mixture{[]Part{{0, Constant{1}}}}, "add up to 0"},
		"negative weight":  {Mixture{[]Part{{-1, Constant{1}}, {2, Constant{1}}}}, "part 0"},
		"no law":           {Mixture{[]Part{{1, nil}}}, "part 0"},
		"bad part":         {Mixture{[]Part{{1, Constant{1}}, {1, Geometric{}}}}, "part 1: geometric"},
		"infinite weights": {Mixture{[]Part{{math.Inf(1), Constant{1}}}}, "+Inf"},
	}
	for name, tt := range tests {
		if err := tt.law.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, tt.want)
		}
	}
}
