package judge

import (
	"fmt"
	"slices"
)

// rules are those for route, of each metric the first that fits.
func (e *evidence) rules(route string) []Rule {
	var fit []Rule
	for _, r := range e.cfg.Metrics {
		same := func(o Rule) bool { return o.Name == r.Name && o.Stat == r.Stat }
		if matches(r.Route, route) && !slices.ContainsFunc(fit, same) {
			fit = append(fit, r)
		}
	}
	return fit
}

// rows are all metrics compared.
func (e *evidence) rows() []*row {
	var all []*row
	e.gating = 0
	for _, route := range append(e.routes(), All) {
		for _, rule := range e.rules(route) {
			if rule.Use != UseWatch {
				e.gating++
			}
		}
	}
	for _, route := range e.routes() {
		for _, rule := range e.rules(route) {
			switch rule.Name {
			case MetricLatency:
				all = append(all, e.latency(route, rule))
			case MetricErrors:
				all = append(all, e.errors(route, rule))
			case MetricDifferences:
				if !e.comparison.Unpaired {
					all = append(all, e.differences(route, rule))
				}
			case MetricThroughput:
				if e.comparison.Unpaired {
					all = append(all, e.throughput(route, rule))
				}
			}
		}
	}
	for _, rule := range e.rules(All) {
		switch rule.Name {
		case MetricCPU, MetricAllocations, MetricMemory:
			// A watched cost that nobody reports is no row.
			if r := e.usage(rule); r.Use == UseGate || r.Blocks > 0 {
				all = append(all, r)
			}
		}
	}
	e.excuse(all)
	e.shapes(all)
	return all
}

// shapes gives the first latency of each route the comparison of its distributions.
func (e *evidence) shapes(rows []*row) {
	of, against := e.latencyRoles()
	shapes := map[string]*Shape{}
	for _, r := range rows {
		if r.Name != MetricLatency || e.totals[r.Route] == nil {
			continue
		}
		s, seen := shapes[r.Route]
		if !seen {
			s = shapeOf(e.totals[r.Route].Latency[of], e.totals[r.Route].Latency[against])
			r.Shape, shapes[r.Route] = s, s
			if s != nil {
				s.Changed = s.KS > changedShape
			}
		}
		if s != nil && r.Use == UseGate && r.Verdict == Fail {
			s.Changed = false // the gate says more
		}
	}
}

// stray is the share of all pairs below which the routes that have too little for
// rows of their own need not be decided.
const stray = 0.05

// excuse lets a remainder of traffic that is too little to tell anything be shown
// without standing against a pass.
func (e *evidence) excuse(rows []*row) {
	var all, rest uint64
	for name, t := range e.totals {
		n := t.count(Shadow) + t.count(Head)
		if all += n; name == Other {
			rest = n
		}
	}
	if e.layout.Rows == nil || float64(rest) > stray*float64(all) {
		return
	}
	for _, r := range rows {
		if r.Route == Other && r.Use == UseGate && (r.reason.Code == ReasonFewPairs || r.reason.Code == ReasonNoData || r.reason.Code == ReasonFewBlocks || r.reason.Code == ReasonSpans) {
			r.Use = UseWatch
			r.Note = fmt.Sprintf("not judged: all routes together that have too little for rows of their own are %s of the pairs", percent(float64(rest)/float64(max(1, all))))
		}
	}
}
