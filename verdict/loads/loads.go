// Package loads makes results of load runs evidence for the judge: a run of each side
// is a block.
package loads

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen"
	"darklaunch/verdict/judge"
)

// Run is one result with the name of where it came from.
type Run struct {
	Name   string
	Result *loadgen.Result
}

// Window is a run of base and one of head under the same load, by operation. Calls
// that were given up, or never made, are known to be longer than the others. It is
// an error if a histogram is damaged.
func Window(base, head Run) (judge.Window, error) {
	w := judge.Window{
		Length: time.Duration(min(base.Result.Duration, head.Result.Duration) * float64(time.Second)),
		Routes: map[string]judge.Route{},
		Rig:    judge.RigWindow{Lateness: hist.New()},
	}
	if err := add(&w, judge.Base, base); err != nil {
		return w, err
	}
	return w, add(&w, judge.Head, head)
}

func add(w *judge.Window, role judge.Role, run Run) error {
	for op, f := range run.Result.Ops {
		h := run.Result.Histograms[op]
		route, ok := w.Routes[op]
		if !ok {
			route = judge.Route{Latency: map[judge.Role]judge.Latency{}, Calls: map[judge.Role]judge.Calls{}}
			w.Routes[op] = route
		}
		var decoded [3]*hist.Hist
		for i, text := range []string{h.Response, h.ResponseCensored, h.Pacing} {
			d, err := hist.Decode([]byte(text))
			if err != nil {
				return fmt.Errorf("%s: operation %s: %w", run.Name, op, err)
			}
			decoded[i] = d
		}
		n := decoded[0].Count() + decoded[1].Count()
		if uint64(n) != f.Sent+f.Shed || f.OK > f.Sent {
			return fmt.Errorf("%s: operation %s: %d response times for %d calls, of which %d went well", run.Name, op, n, f.Sent+f.Shed, f.OK)
		}
		route.Latency[role] = judge.Latency{Durations: decoded[0], Timeouts: uint64(decoded[1].Count())}
		route.Calls[role] = judge.Calls{Total: f.Sent, Failed: f.Sent - f.OK}
		w.Rig.Lateness.Merge(decoded[2])
	}
	return nil
}

// Judge compares the runs of head with those of base, in pairs: by name where both
// have the same ones, else in order. What has no counterpart is left out, and is a
// reason not to pass. at is put in the document. It is an error if a side has no run or
// a result is damaged.
func Judge(name string, cfg judge.Config, base, head []Run, at time.Time) (*judge.Document, error) {
	if len(base) == 0 || len(head) == 0 {
		return nil, fmt.Errorf("%d runs of base and %d of head, want some of each", len(base), len(head))
	}
	var found judge.Findings
	pairs, left := pair(base, head)
	if len(left) > 0 {
		found.Reasons = append(found.Reasons, judge.Reason{
			Code: judge.ReasonNoData, Text: "without a counterpart on the other side: " + list(left), Cure: "as many runs of both, with the same names",
		})
	}
	c := judge.Comparison{Name: name, Unpaired: true, Whole: true}
	var windows []judge.Window
	var baseRuns, headRuns []Run
	interrupted := false
	for _, p := range pairs {
		w, err := Window(p[0], p[1])
		if err != nil {
			return nil, err
		}
		windows = append(windows, w)
		baseRuns, headRuns = append(baseRuns, p[0]), append(headRuns, p[1])
		for _, run := range p {
			interrupted = interrupted || run.Result.Interrupted
			if have := max(1, len(run.Result.Workers)); have != run.Result.Total {
				found.Reasons = append(found.Reasons, judge.Reason{
					Code: judge.ReasonPlan, Text: fmt.Sprintf("%s: %d of %d workers", run.Name, have, run.Result.Total), Cure: "all workers, merged by load merge",
				})
			}
		}
	}
	c.Arms = []judge.Arm{arm(judge.Base, baseRuns), arm(judge.Head, headRuns)}
	return judge.Judge(c, cfg, windows, found, at, interrupted), nil
}

func pair(base, head []Run) (pairs [][2]Run, left []string) {
	byName := map[string]Run{}
	for _, r := range head {
		byName[r.Name] = r
	}
	common := func(r Run) bool { _, ok := byName[r.Name]; return ok }
	if len(base) == len(head) && !slices.ContainsFunc(base, common) {
		for i := range base {
			pairs = append(pairs, [2]Run{base[i], head[i]})
		}
		return pairs, nil
	}
	for _, r := range base {
		if h, ok := byName[r.Name]; ok {
			pairs = append(pairs, [2]Run{r, h})
			delete(byName, r.Name)
		} else {
			left = append(left, r.Name)
		}
	}
	for _, r := range head {
		if common(r) {
			left = append(left, r.Name)
		}
	}
	return pairs, left
}

// arm says of a side what must be alike on both.
func arm(role judge.Role, runs []Run) judge.Arm {
	a := judge.Arm{Role: role, Fingerprint: map[string]string{}}
	var plans []string
	facts := map[string][]string{}
	for _, r := range runs {
		plans = append(plans, r.Result.Plan)
		generators := []loadgen.Generator{r.Result.Generator}
		for _, w := range r.Result.Workers {
			generators = append(generators, w.Generator)
		}
		for _, g := range generators {
			facts["generator"] = append(facts["generator"], g.Version)
			for name, fact := range g.Machine {
				facts[name] = append(facts[name], fact)
			}
		}
	}
	// Runs may be of one plan or, with a seed each, of many: then of the same many.
	a.Plan = strings.Join(slices.Compact(plans), " ")
	for name, all := range facts {
		slices.Sort(all)
		a.Fingerprint[name] = strings.Join(slices.Compact(all), ", ")
	}
	return a
}

func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
