package noise

import (
	"cmp"
	"math"
	"slices"
)

// shares are how often, of the events of a faulty field, shadow would be the one
// that differs: a bet is laid on each.
var shares = [...]float64{.53, .56, .6, .65, .7, .75, .8, .85, .9, .95, .99}

// wealth is the logarithm of what the bets on each share have come to, from 1.
type wealth [len(shares)]float64

// maxBlock bounds what one block says, so that a burst on control, which hits many
// users at a time, does not outweigh all that other blocks say.
const maxBlock = 3

// bet lays the bets of one event, or of a block of events that need not be
// independent, whose score is as likely as its opposite if shadow is no worse than
// control.
//
// Each is twice the probability that it was score and not its opposite, if their
// odds are exp(θ·score), θ = ln(q/(1-q)): of one event, whose score is 1 or -1, that
// is 2q or 2(1-q).
func (w *wealth) bet(score float64) {
	if score == 0 {
		return
	}
	for i, q := range shares {
		w[i] += math.Ln2 - math.Log1p(math.Exp(-math.Log(q/(1-q))*score))
	}
}

// scoreOf is that of a block in which shadow had more events with so many users and
// control with so many: in standard errors, were they independent.
func scoreOf(shadow, control int) float64 {
	if shadow == control {
		return 0
	}
	z := float64(shadow-control) / math.Sqrt(float64(shadow+control))
	return max(-maxBlock, min(maxBlock, z))
}

// log returns the natural logarithm of the mean wealth: the e-value's.
func (w *wealth) log() float64 { return logMean(w[:]) }

// logMean is the logarithm of the mean of what logs are of.
func logMean(logs []float64) float64 {
	most := slices.Max(logs)
	if math.IsInf(most, -1) {
		return most
	}
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(l - most)
	}
	return most + math.Log(sum/float64(len(logs)))
}

// confirmed picks those of e-values, given by their natural logarithms, that the
// e-BH procedure picks at a level: with K values, the k largest for the largest k
// of which all are K/(level·k) or more.
func confirmed(logs []float64, level float64) []bool {
	order := make([]int, len(logs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(logs[b], logs[a]) })
	picked := make([]bool, len(logs))
	for k := len(order); k > 0; k-- {
		if logs[order[k-1]] < math.Log(float64(len(logs))/(level*float64(k))) {
			continue
		}
		for _, i := range order[:k] {
			picked[i] = true
		}
		break
	}
	return picked
}
