package noise

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

func compareKeys(a, b fieldKey) int {
	return cmp.Or(cmp.Compare(a.Route, b.Route), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind))
}

// Report returns what is known now. It shares the examples' memory with l, which
// does not change them, only replaces them.
func (l *Ledger) Report() Report {
	r := Report{Blocks: l.blocks, Skipped: maps.Clone(l.skipped), Crowded: l.crowded, Cut: l.cut}
	keys := l.keys()
	logs := make([]float64, len(keys))
	for i, key := range keys {
		logs[i] = l.evidence(key, l.fields[key])
	}
	picked := confirmed(logs, l.cfg.Level)
	z := multipliers{confidence: l.cfg.Confidence}
	for i, key := range keys {
		r.Fields = append(r.Fields, l.report(key, l.fields[key], logs[i], l.cfg.Control && picked[i], &z))
	}
	slices.SortStableFunc(r.Fields, func(a, b Field) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.Rate.Value, a.Rate.Value))
	})
	for _, name := range slices.Sorted(maps.Keys(l.routes)) {
		d := l.routes[name]
		r.Routes = append(r.Routes, Route{name, d.Pairs + d.Shipped, d.Unequal, d.Seen, d.Shipped})
	}
	for i := range l.cfg.Rules.Rules {
		u := &l.cfg.Rules.Rules[i]
		hid := l.hid[u.String()]
		r.Rules = append(r.Rules, RuleUse{u, uint64(hid.Hid), uint64(hid.Unread)})
	}
	return r
}

func rank(f Field) int {
	switch {
	case f.Gates:
		return 0
	case f.Tier == Confirmed:
		return 1
	case f.ShadowOnly > 0:
		return 2
	}
	return 3
}

// multipliers remembers what always returns.
type multipliers struct {
	confidence float64
	of         map[int]float64
}

func (z *multipliers) at(blocks int) float64 {
	if z.of == nil {
		z.of = map[int]float64{}
	}
	v, ok := z.of[blocks]
	if !ok {
		v = always(z.confidence, blocks)
		z.of[blocks] = v
	}
	return v
}

// evidence is the natural logarithm of a field's e-value. The mean of two e-values
// is one, and so is the smaller.
func (l *Ledger) evidence(key fieldKey, f *field) float64 {
	log := logMean([]float64{min(f.ByBlock.log(), f.ByUser.log()), f.ByBoth.log()})
	if h, ok := l.history(key, f, l.route(key.Route).Blocks); ok {
		log = logMean([]float64{log, h})
	}
	return log
}

func (l *Ledger) report(key fieldKey, f *field, log float64, picked bool, z *multipliers) Field {
	out := Field{
		Route: key.Route, Path: key.Path, Kind: key.Kind, Tier: Observed,
		ShadowOnly: f.ShadowOnly, ControlOnly: f.ControlOnly, Both: f.Both,
		ShadowBlocks: f.ShadowBlocks, ControlBlocks: f.ControlBlocks, Users: f.Users,
		Examples: slices.Clone(f.examples),
	}
	r := l.route(key.Route)
	share := r.share()
	out.Pairs = max(share*float64(r.Pairs)+float64(r.Shipped), float64(f.ShadowOnly+f.ControlOnly+f.Both))
	shadow, control := float64(f.ShadowOnly+f.Both), float64(f.ControlOnly+f.Both)
	out.Rate = Wilson(shadow, out.Pairs, 1-l.cfg.Confidence)
	out.Noise = Wilson(control, out.Pairs, 1-l.cfg.Confidence)
	out.Margin, out.Marked = l.cfg.Rules.Margin(key.Route, key.Path)
	if !out.Marked {
		out.Margin = l.cfg.Margin
	}
	if !l.cfg.Control {
		out.Excess, out.Noise = out.Rate, Interval{}
		out.Gates = out.Marked && out.Excess.Low > out.Margin
	} else {
		out.Evidence = log / math.Ln10
		out.Excess = f.excess(r, out.Pairs, share, z)
		if picked {
			out.Tier = Confirmed
		}
		out.Gates = picked && out.Excess.Low > out.Margin
	}
	out.Clear = out.Excess.High < out.Margin
	return out
}

// share is how much of the unequal pairs came here: what is counted of pairs that
// were lost on the way is as of so much fewer.
func (r *route) share() float64 {
	if r.Unequal <= r.Seen {
		return 1
	}
	return float64(r.Seen) / float64(r.Unequal)
}

// excess is how much more often shadow differs: as its pairs tell, or its blocks
// where that is less sure.
func (f *field) excess(r *route, pairs, share float64, z *multipliers) Interval {
	d := float64(f.ShadowOnly) - float64(f.ControlOnly)
	if r.Blocks < 2 {
		return Interval{d / max(pairs, 1), -1, 1}
	}
	k := z.at(r.Blocks)
	byPair := difference(float64(f.ShadowOnly), float64(f.ControlOnly), pairs, k)
	byBlock := ratio(d-float64(f.Now), r.N, r.NN, f.Moments, r.Blocks, k)
	if share > 0 {
		// The loss thins out what was counted, not the pairs that it is of.
		byBlock = Interval{byBlock.Value / share, byBlock.Low / share, byBlock.High / share}
	}
	return Interval{byPair.Value, min(byPair.Low, byBlock.Low), max(byPair.High, byBlock.High)}
}
