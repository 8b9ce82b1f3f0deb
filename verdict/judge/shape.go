package judge

import (
	"math"

	"darklaunch/internal/hist"
)

// changedShape is the distance of distribution functions from which on a change of
// shape is worth a look.
const changedShape = 0.05

var curve = [...]float64{0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999}

// shapeOf compares two distributions; nil if one is empty. Time-outs are left out.
func shapeOf(of, against *dist) *Shape {
	if of == nil || against == nil || of.Hist.Count() == 0 || against.Hist.Count() == 0 {
		return nil
	}
	s := walk(&of.Hist.Hist, &against.Hist.Hist)
	for _, q := range curve {
		s.Curve = append(s.Curve, QuantilePair{q, of.Hist.Quantile(q).Seconds(), against.Hist.Quantile(q).Seconds()})
	}
	return s
}

type step struct {
	bucket int
	count  int64
}

func steps(h *hist.Hist) []step {
	var all []step
	for i, n := range h.Buckets() {
		all = append(all, step{i, n})
	}
	return append(all, step{math.MaxInt, 0})
}

// walk goes up both distribution functions at once. Calls of one bucket are ties.
func walk(of, against *hist.Hist) *Shape {
	s := new(Shape)
	x, y := steps(of), steps(against)
	nx, ny := float64(of.Count()), float64(against.Count())
	var below float64 // the share of against below the bucket
	var fx, fy float64
	for x[0].bucket != math.MaxInt || y[0].bucket != math.MaxInt {
		at := min(x[0].bucket, y[0].bucket)
		var px, py float64
		if x[0].bucket == at {
			px, x = float64(x[0].count)/nx, x[1:]
		}
		if y[0].bucket == at {
			py, y = float64(y[0].count)/ny, y[1:]
		}
		s.Slower += px * (below + py/2)
		below += py
		fx, fy = fx+px, fy+py
		s.KS = max(s.KS, math.Abs(fx-fy))
	}
	const parts = 200
	for i := range parts {
		q := (float64(i) + 0.5) / parts
		s.Wasserstein += math.Abs(of.Quantile(q).Seconds()-against.Quantile(q).Seconds()) / parts
	}
	return s
}
