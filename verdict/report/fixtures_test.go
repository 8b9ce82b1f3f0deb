package report

import (
	"math"
	"time"

	"darklaunch/verdict/judge"
)

// hostile is a name that is something in every format, and must be text in each.
const hostile = "</script><script>alert(1)</script><!-- ]]> `|*_[x](http://evil.example)@all #1 \x1b[31m\r\n::error::%0A \u202e'\"&"

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func latency(route, stat string, v judge.Verdict, effect, lower, upper float64) judge.Metric {
	m := judge.Metric{
		Name: judge.MetricLatency, Stat: stat, Route: route, Use: judge.UseGate, Verdict: v, Unit: "s", Of: judge.Shadow, Against: judge.Control,
		Values: judge.Values{Live: new(0.0415), Control: new(0.0412), Shadow: new(0.0412 * (1 + effect))},
		Effect: new(effect), CI: &judge.Interval{Lower: lower, Upper: upper}, Difference: new(0.0412 * effect),
		Confidence: 0.95, Margin: 0.1, Floor: 0.0005, P: new(0.31), PAdj: new(0.62), Blocks: 14, Pairs: 118432, Load: &judge.Load{Route: 210, Total: 1900},
	}
	for i := range 14 {
		wave := 1 + 0.05*math.Sin(float64(i))
		m.Series = append(m.Series, judge.Point{
			Start:  start().Add(time.Duration(i) * 10 * time.Second),
			Values: judge.Values{Control: new(0.0412 * wave), Shadow: new(0.0412 * wave * (1 + effect))}, Effect: new(effect),
		})
	}
	return m
}

// mirrored is what a mirror of two routes comes to, with one of everything.
func mirrored() *judge.Document {
	undecided := latency("/threads", "p99", judge.Inconclusive, 0.086, 0.021, 0.155)
	undecided.BlocksNeeded, undecided.NeededFor, undecided.Allowed = 31, 170, 0.1
	undecided.Offset = &judge.Offset{Of: judge.Control, Against: judge.Live, Effect: -0.007, CI: &judge.Interval{Lower: -0.02, Upper: 0.006}}
	undecided.Shape = &judge.Shape{KS: 0.08, Slower: 0.54, Wasserstein: 0.0021, Changed: true, Curve: []judge.QuantilePair{
		{Q: 0.5, Of: 0.012, Against: 0.011}, {Q: 0.9, Of: 0.022, Against: 0.02}, {Q: 0.99, Of: 0.0447, Against: 0.0412}, {Q: 0.999, Of: 0.09, Against: 0.088}}}
	faster := latency("/threads", "p50", judge.Pass, -0.12, -0.16, -0.08)
	faster.Improved, faster.Margin = true, 0.05
	watched := latency("/send", "p999", judge.Inconclusive, 0.4, -0.2, 1.3)
	watched.Use = judge.UseWatch
	silent := judge.Metric{Name: judge.MetricLatency, Stat: "p99", Route: "/admin", Use: judge.UseGate, Verdict: judge.Inconclusive, Unit: "s",
		Of: judge.Shadow, Against: judge.Control, Margin: 0.1, Note: "no calls on either side"}
	return &judge.Document{
		Schema: judge.Schema, Comparison: "messages", Verdict: judge.Fail, State: judge.Decided, Mode: judge.Continuous,
		Arms: []judge.Arm{
			{Role: judge.Live, Name: "10.0.0.1:80", Version: "v41"}, {Role: judge.Control, Name: "10.0.0.2:80", Version: "v41"},
			{Role: judge.Shadow, Name: "10.0.0.3:80", Version: "v42", Plan: "1f2e", Fingerprint: map[string]string{"cpu": "EPYC", "go": "go1.26.8"}}},
		Start: start(), End: start().Add(150 * time.Second), JudgedAt: start().Add(151 * time.Second),
		Reasons: []judge.Reason{
			{Code: judge.ReasonMargin, Metric: "errors", Route: "/send", Text: "worse by more than the margin: +0.36 points (0.26 to 0.46), margin 0.1 points"},
			{Code: judge.ReasonSpans, Metric: "latency p99", Route: "/threads", Text: "the interval has the margin in it: +8.6 % (2.1 to 15.5), margin 10 %", Cure: "17 more blocks, about 3m"}},
		Notes: []string{"3 users were seen on two mirrors and are not compared"},
		Rig: judge.Rig{Pairs: 118432, Windows: 20, Trimmed: 6, Blocks: 14, BlockWindows: 1, BlockLength: 10, Rho: 0.41, Gates: []judge.Gate{
			{Name: judge.ReasonDropped, Role: judge.Shadow, Value: new(0.0007), Limit: 0.01, Unit: "share", OK: true, Text: "0.07 % of the copies to shadow were dropped by load, at most 1 %"},
			{Name: judge.ReasonLate, Limit: 0.002, Unit: "s", OK: false, Text: "the mirror's lateness is not known"}}},
		Metrics: []judge.Metric{
			faster, undecided, watched, silent,
			{Name: judge.MetricErrors, Route: "/send", Use: judge.UseGate, Verdict: judge.Fail, Unit: "share", Of: judge.Shadow, Against: judge.Live, Absolute: true,
				Values: judge.Values{Live: new(0.0045), Shadow: new(0.0081)}, Effect: new(0.0036), CI: &judge.Interval{Lower: 0.0026, Upper: 0.0046}, Confidence: 0.95, Margin: 0.001,
				Blocks: 14, Pairs: 20000, Discordant: &judge.Discordant{Of: 90, Against: 18, Both: 72, Pairs: 20000, MidP: 1e-13}},
			{Name: judge.MetricThroughput, Route: "*", Use: judge.UseGate, Verdict: judge.Pass, Unit: "1/s", Of: judge.Shadow, Against: judge.Control,
				Values: judge.Values{Control: new(1900.0), Shadow: new(1893.0)}, Effect: new(-0.0037), CI: &judge.Interval{Lower: -0.012, Upper: 0.004}, Margin: 0.05, Blocks: 14, Pairs: 118432},
			{Name: judge.MetricMemory, Route: "*", Use: judge.UseWatch, Verdict: judge.Inconclusive, Unit: "B", Of: judge.Shadow, Against: judge.Control,
				Values: judge.Values{Control: new(3.1e8), Shadow: new(3.6e8)}, Effect: new(0.16), CI: &judge.Interval{Lower: math.Inf(-1), Upper: math.Inf(1)}, Margin: 0.1, Blocks: 14}},
		Objectives: []judge.Objective{{Text: "shadow.latency.p99 < 250ms", Role: judge.Shadow, Name: judge.MetricLatency, Stat: "p99", Route: "*", Limit: 0.25,
			Value: new(0.0447), CI: &judge.Interval{Lower: 0.044, Upper: 0.046}, Unit: "s", Blocks: 14, Verdict: judge.Pass}},
		Differences: []judge.Difference{
			{Route: "/threads", Field: "$.threads[*].snippet", Kind: "value", Tier: judge.Confirmed, Use: judge.UseGate, Verdict: judge.Fail, Pairs: 118432, ShadowOnly: 122, ControlOnly: 3, Both: 1,
				Rate: 0.00104, Noise: new(0.00003), Effect: 0.001, CI: &judge.Interval{Lower: 0.0009, Upper: 0.0012}, Margin: 0.0005, Hid: 7,
				Examples: []judge.Example{{ID: "0f3a", Time: start(), Command: "curl -g -H 'x-user: ann' 'http://127.0.0.1:9000/threads?limit=20'", Live: `"Re: hello"`, Control: `"Re: hello"`, Shadow: `"hello"`}}},
			{Route: "/threads", Field: "header:date", Kind: "value", Tier: judge.Noise, Use: judge.UseWatch, Pairs: 118432, ShadowOnly: 600, ControlOnly: 590, Both: 100, Rate: 0.006, Noise: new(0.006)}},
		Rules: []judge.DifferenceRule{{Path: "$.ts", Kind: "value", Owner: "mail team", Expires: "2026-06-01", Hid: 118000}, {Path: "$.old", Hid: 0}, {Path: "$.gone", Expires: "2025-01-01", Expired: true, Hid: 3}},
		LiveHarm: &judge.LiveHarm{Verdict: judge.Pass, Sampled: []judge.Metric{}, Objectives: []judge.Objective{}, Reasons: []judge.Reason{{Code: judge.ReasonNoBaseline, Text: "sampled users have no baseline", Cure: "start the mirror with the sample set and sending off"}},
			Switchback: []judge.Metric{{Name: judge.MetricLatency, Stat: "p99", Route: "*", Use: judge.UseGate, Verdict: judge.Pass, Unit: "s", Of: judge.Head, Against: judge.Base,
				Values: judge.Values{Base: new(0.0415), Head: new(0.0416)}, Effect: new(0.002), CI: &judge.Interval{Lower: -0.01, Upper: 0.014}, Margin: 0.05, Blocks: 30, Pairs: 90000}}},
		Coverage: judge.Coverage{
			Roles:      []judge.RoleCoverage{{Role: judge.Shadow, Offered: 120000, Sent: 119916, Dropped: map[string]uint64{"lane_full": 84}, Chosen: map[string]uint64{"switchback": 1200, "body_too_large": 2}}},
			Routes:     []judge.RouteCoverage{{Route: "/threads", Requests: 130000, Pairs: 118432, Unjudged: 12}, {Route: "/rare", FoldedInto: "other", Requests: 12, Pairs: 3}},
			StreamSent: 500, StreamLost: 1},
	}
}

// brief is a gate that passed after one short round of everything.
func brief() *judge.Document {
	m := latency("GET /", "p99", judge.Pass, 0.001, -0.01, 0.012)
	m.Of, m.Against = judge.Head, judge.Base
	m.Values = judge.Values{Base: new(0.0002), Head: new(0.0002)}
	m.Blocks, m.Series, m.Load = 1, []judge.Point{{Values: judge.Values{Base: new(0.0002), Head: new(0.0002)}, Effect: new(0.001)}}, nil
	return &judge.Document{
		Schema: judge.Schema, Comparison: "gate", Verdict: judge.Pass, State: judge.Decided, Mode: judge.Rounds,
		Arms:    []judge.Arm{{Role: judge.Base, Name: "main"}, {Role: judge.Head, Name: "change"}},
		Rig:     judge.Rig{Pairs: 1000, Windows: 2, Trimmed: 1, Blocks: 1, BlockWindows: 1, BlockLength: 5},
		Metrics: []judge.Metric{m},
	}
}

// nothing is what no evidence comes to.
func nothing() *judge.Document {
	return &judge.Document{Schema: judge.Schema, Verdict: judge.Inconclusive, State: judge.Collecting, Mode: judge.Fixed,
		Reasons: []judge.Reason{{Code: judge.ReasonNoData, Text: "nothing was measured", Cure: "send requests"}}}
}

// attack has hostile text wherever traffic or files can put some.
func attack() *judge.Document {
	d := mirrored()
	d.Comparison, d.Reasons[0].Text, d.Reasons[0].Cure, d.Reasons[0].Metric, d.Reasons[0].Route = hostile, hostile, hostile, hostile, hostile
	for i := range d.Arms {
		d.Arms[i].Name, d.Arms[i].Version, d.Arms[i].Plan = hostile, hostile, hostile
		d.Arms[i].Fingerprint = map[string]string{hostile: hostile}
	}
	for i := range d.Metrics {
		d.Metrics[i].Route, d.Metrics[i].Note, d.Notes[0] = hostile, hostile, hostile
	}
	d.Metrics[0].Improved, d.Objectives[0].Verdict, d.Differences[1].Tier = false, hostile, hostile
	d.Metrics[0].Verdict, d.Metrics[0].Use, d.Metrics[0].Name, d.Metrics[0].Unit = hostile, judge.UseGate, hostile, hostile
	d.Rig.Gates[0].Text, d.Rig.Gates[0].Name, d.Rig.Gates[0].Role = hostile, hostile, hostile
	d.Objectives[0].Text, d.Objectives[0].Route, d.Objectives[0].Note = hostile, hostile, hostile
	f := &d.Differences[0]
	f.Route, f.Field, f.Kind, f.Note = hostile, hostile, hostile, hostile
	f.Examples[0] = judge.Example{ID: hostile, Command: hostile, Live: hostile, Control: hostile, Shadow: hostile}
	d.Rules[0] = judge.DifferenceRule{Path: hostile, Kind: hostile, Owner: hostile, Expires: hostile, Expired: true}
	d.LiveHarm.Reasons[0].Text, d.LiveHarm.Switchback[0].Route = hostile, hostile
	d.Coverage.Routes[0].Route, d.Coverage.Routes[0].FoldedInto = hostile, hostile
	d.Coverage.Roles[0].Chosen[hostile] = 1
	return d
}
