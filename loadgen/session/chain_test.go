package session

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"darklaunch/loadgen/population"
)

// messagesChat is a chain for Facebook Messages: its totals agree with published figures,
// its single cells are choices.
func messagesChat() Spec {
	ops := strings.Fields("list read mark reply send search move delete upload download end")
	rows := [][]float64{
		{.10, .70, 0, 0, .03, .03, .01, .01, .01, 0, .11},
		{.10, .09, .46, .17, 0, 0, .02, .015, .015, .06, .07},
		{.26, .27, 0, .28, 0, 0, .03, .02, .01, 0, .13},
		{.28, .40, 0, .10, 0, 0, 0, 0, 0, 0, .22},
		{.45, .20, 0, 0, 0, 0, 0, 0, 0, 0, .35},
		{.13, .70, 0, 0, 0, .12, 0, 0, 0, 0, .05},
		{.45, .40, 0, 0, 0, 0, 0, 0, 0, 0, .15},
		{.42, .38, 0, 0, 0, 0, 0, .10, 0, 0, .10},
		{0, 0, 0, .85, .15, 0, 0, 0, 0, 0, 0},
		{.25, .45, 0, .12, 0, 0, 0, 0, 0, 0, .18},
	}
	s := Spec{Start: "list", Think: population.ThinkTime()}
	for from, row := range rows {
		op := OpSpec{Name: ops[from], Next: map[string]float64{}}
		for to, p := range row {
			if p > 0 {
				op.Next[ops[to]] = p
			}
		}
		s.Ops = append(s.Ops, op)
	}
	return s
}

// without gives operations of s weight 0.
func without(s Spec, ops ...string) Spec {
	s.Weights = map[string]float64{}
	for _, op := range ops {
		s.Weights[op] = 0
	}
	return s
}

// TestStationaryMix holds the analysis against shares that were found by other means, and
// are rounded to 0.1 points.
func TestStationaryMix(t *testing.T) {
	want := map[string]float64{
		"list": 28.0, "read": 35.2, "mark": 16.2, "reply": 12.9, "send": 1.0, "search": 1.0, "move": 1.5, "delete": 1.3, "upload": 1.0, "download": 2.1,
	}
	c := newChain(t, messagesChat())
	stats := c.Stats()
	for op, share := range stats.Mix {
		if name := c.Name(Op(op)); math.Abs(100*share-want[name]) > 0.051 {
			t.Errorf("%s is %.2f %% of the calls, want %.1f", name, 100*share, want[name])
		}
	}
	if math.Abs(stats.Calls-8.6) > 0.05 {
		t.Errorf("%.3f calls a session, want 8.6", stats.Calls)
	}
	// Each but the first has a pause of the mean of a log-normal law that is cut at 60 s.
	if want := (stats.Calls - 1) * population.ThinkTime().Expect(); math.Abs(stats.Think.Seconds()-want) > 1e-6 {
		t.Errorf("%v of pauses a session, want %.3fs", stats.Think, want)
	}
}

// TestWeightsRenormalise: without uploads and downloads nobody makes any, and what followed
// them follows no more. Rows without them keep their proportions.
func TestWeightsRenormalise(t *testing.T) {
	c := newChain(t, without(messagesChat(), "upload", "download"))
	for op, share := range c.Stats().Mix {
		if gone := c.Name(Op(op)) == "upload" || c.Name(Op(op)) == "download"; gone != (share == 0) {
			t.Errorf("%s is %v of the calls", c.Name(Op(op)), share)
		}
	}
	read, mark := 1, Op(2)
	if got, want := c.rows[read][mark], 0.46/(1-0.075); math.Abs(got-want) > 1e-12 {
		t.Errorf("mark follows read with %v, want %v", got, want)
	}
	// A weight other than 0 or 1 shifts the mix.
	s := messagesChat()
	s.Weights = map[string]float64{"reply": 2}
	more, less := newChain(t, s).Stats().Mix[3], newChain(t, messagesChat()).Stats().Mix[3]
	if more < 1.5*less {
		t.Errorf("replies of weight 2 are %.3f of the calls, of weight 1 %.3f", more, less)
	}
}

func TestStatsByHand(t *testing.T) {
	// a happens 1/(1 − 0.5) = 2 times if it may follow itself half the time, b follows once
	// in the other half of the cases.
	c := newChain(t, Spec{Start: "a", Ops: []OpSpec{
		{Name: "a", Next: map[string]float64{"a": 0.5, "b": 0.25, End: 0.25}, Think: population.Constant{Value: 3}},
		{Name: "b", Next: map[string]float64{End: 1}, Think: population.Constant{Value: 10}},
	}})
	s := c.Stats()
	// Pauses: one more a of 3 s, half a b of 10 s.
	if got, want := fmt.Sprintf("%.6f %.6f %v", s.Calls, s.Mix, s.Think), "2.500000 [0.800000 0.200000] 8s"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestChainsThatMakeNoSense(t *testing.T) {
	op := func(name string, next map[string]float64) OpSpec { return OpSpec{Name: name, Next: next} }
	ends := map[string]float64{End: 1}
	tests := map[string]struct {
		spec Spec
		want string
	}{
		"empty":        {Spec{Start: "a"}, "0 operations"},
		"start":        {Spec{Start: "b", Ops: []OpSpec{op("a", ends)}}, `starts with "b"`},
		"no name":      {Spec{Start: "a", Ops: []OpSpec{op("a", ends), op("", ends)}}, "operation 1 is named"},
		"twice":        {Spec{Start: "a", Ops: []OpSpec{op("a", ends), op("a", ends)}}, "operation 1 is named"},
		"end":          {Spec{Start: "a", Ops: []OpSpec{op("a", ends), op(End, ends)}}, "operation 1 is named"},
		"unknown":      {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"raed": 1})}}, `operation "a": next is "raed"`},
		"sum":          {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"a": 0.5, End: 0.49})}}, "add up to 0.99"},
		"negative":     {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"a": -0.5, End: 1.5})}}, "want 0 or more"},
		"nan":          {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{End: math.NaN()})}}, "want 0 or more"},
		"no end":       {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"a": 1})}}, "no way leads from there to the end"},
		"trap":         {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"b": 0.5, End: 0.5}), op("b", map[string]float64{"b": 1})}}, `operation "b": no way leads from there`},
		"out of reach": {Spec{Start: "a", Ops: []OpSpec{op("a", ends), op("b", ends)}}, `operation "b": no way leads there`},
		"think":        {Spec{Start: "a", Think: population.Geometric{}, Ops: []OpSpec{op("a", ends)}}, "think time: geometric"},
		"weight":       {Spec{Start: "a", Ops: []OpSpec{op("a", ends)}, Weights: map[string]float64{"b": 0}}, `weight of "b"`},
		"weight below": {Spec{Start: "a", Ops: []OpSpec{op("a", ends)}, Weights: map[string]float64{"a": -1}}, "want 0 or more"},
		"no end left":  {Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"a": 0.5, End: 0.5})}, Weights: map[string]float64{End: 0}}, "no way leads"},
		"no start":     {Spec{Start: "a", Ops: []OpSpec{op("a", ends)}, Weights: map[string]float64{"a": 0}}, "weight 0"},
		"stranded": {Spec{Start: "a", Weights: map[string]float64{"b": 0}, Ops: []OpSpec{
			op("a", map[string]float64{"c": 1}), op("c", map[string]float64{"b": 1}), op("b", ends)}}, `no way leads from there to the end`},
	}
	for name, tt := range tests {
		if _, err := NewChain(tt.spec); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, tt.want)
		}
	}
	// Rounding in a table of three digits is no mistake.
	if _, err := NewChain(Spec{Start: "a", Ops: []OpSpec{op("a", map[string]float64{"a": 0.333, End: 0.666})}}); err != nil {
		t.Errorf("a sum of 0.999: %v", err)
	}
}
