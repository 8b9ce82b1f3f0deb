package verdict

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/compare"
	"darklaunch/verdict/join"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/noise"
)

// maxFindings is how many fields a document names: those that gate, and then those
// that differ most.
const maxFindings = 200

// compared is a pair of which the answers are not needed any more.
type compared struct {
	outcome *compare.Outcome
	entry   []byte // as the journal has it
}

// comparedEntry is the journal's form of a pair: a tenth of the pair.
type comparedEntry struct {
	Pair    []byte // a pairv1.Pair without answers
	Skip    compare.Skip
	Shadow  compare.Result
	Control *compare.Result
}

// compare is called by many goroutines, for each pair that is not shed.
func (s *Server) compare(p *pairv1.Pair) (any, error) {
	o := s.comparer.Pair(p)
	if o.Skip == compare.Untranslated {
		s.untranslated(p.GetRoute())
	}
	for i, side := range p.GetSides() {
		for _, x := range side.GetExchanges() {
			x.Answer = nil
			if i > 0 {
				x.Request = nil
			}
		}
	}
	c := compared{outcome: &o}
	if s.cfg.State == "" {
		return c, nil
	}
	b, err := proto.Marshal(p)
	if err != nil {
		return nil, err
	}
	c.entry, err = json.Marshal(comparedEntry{b, o.Skip, o.Shadow, o.Control})
	return c, err
}

// untranslated tells, once a minute at most, that pairs can't go back.
func (s *Server) untranslated(route string) {
	now, last := time.Now().Unix(), s.toldRules.Load()
	if now-last >= 60 && s.toldRules.CompareAndSwap(last, now) {
		s.log.Warn("pairs are not compared: they were made by rules of translation that this verdict has not, or not kept whole", "route", route)
	}
}

// parseCompared reads an entry's body.
func parseCompared(b []byte) (*compare.Outcome, error) {
	var e comparedEntry
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, err
	}
	o := &compare.Outcome{Pair: new(pairv1.Pair), Skip: e.Skip, Shadow: e.Shadow, Control: e.Control}
	return o, proto.Unmarshal(e.Pair, o.Pair)
}

// pair takes what was found of a pair.
func (s *Server) pair(e entry, o *compare.Outcome) error {
	c := s.mirrors[e.who]
	if c == nil {
		return join.ErrUnknown
	}
	c.last = e.at
	evidence, err := c.mirrors.Pair(e.who, e.sequence, join.Pair{
		Route: o.Pair.GetRoute(), Key: o.Pair.GetKeyHash(), Shipped: o.Pair.GetReason() == pairv1.Reason_REASON_SHIPPED,
		Judged:         o.Skip == compare.Compared,
		ShadowDiffers:  len(o.Shadow.Differences) > 0,
		ControlDiffers: o.Control != nil && len(o.Control.Differences) > 0,
	}, e.at)
	if err != nil {
		return err
	}
	if evidence || o.Skip != compare.Compared { // the ledger counts why it was not
		c.ledger.Add(o)
	}
	return nil
}

// newLedger returns an empty one.
func (c *comparison) newLedger() *noise.Ledger { return noise.New(c.noiseConfig()) }

func (c *comparison) noiseConfig() noise.Config {
	cfg := c.cfg.Noise
	cfg.Control = c.roles[judge.Control]
	cfg.Rules = c.cfg.Rules
	return cfg
}

// findings are what is known of fields, as the judge takes it.
func (c *comparison) findings(at time.Time) judge.Findings {
	report := c.ledger.Report()
	var f judge.Findings
	for i := range report.Fields[:min(len(report.Fields), maxFindings)] {
		f.Differences = append(f.Differences, c.difference(&report.Fields[i]))
	}
	for _, u := range report.Rules {
		f.Rules = append(f.Rules, rule(&u, at))
	}
	if c.cfg.Rules != nil {
		if err := c.cfg.Rules.Check(at); err != nil {
			f.Reasons = append(f.Reasons, judge.Reason{Code: judge.ReasonExpiredRule, Text: "a rule that hides differences is past its date: line " + err.Error(), Cure: "drop the rule, or give it another date"})
		}
	}
	if n := c.mirrors.Counts(); n.Unordered > (n.Compared+n.Unordered)/100 {
		f.Reasons = append(f.Reasons, judge.Reason{
			Code: reasonUnordered,
			Text: fmt.Sprintf("%d of %d pairs on the streams are of users who were seen on two mirrors, so that the order of their requests is not known", n.Unordered, n.Compared+n.Unordered),
			Cure: "put a user on one mirror",
		})
	}
	return f
}

// reasonUnordered is the code of a reason that the judge does not know of.
const reasonUnordered = "two_mirrors"

func (c *comparison) difference(n *noise.Field) judge.Difference {
	d := judge.Difference{
		Route: n.Route, Field: n.Path, Kind: n.Kind.String(), Tier: judge.Observed, Use: judge.UseWatch,
		Pairs: uint64(n.Pairs), ShadowOnly: n.ShadowOnly, ControlOnly: n.ControlOnly, Both: n.Both,
		Rate: n.Rate.Value, Effect: n.Excess.Value, CI: &judge.Interval{Lower: n.Excess.Low, Upper: n.Excess.High}, Margin: n.Margin,
	}
	if c.roles[judge.Control] {
		d.Noise, d.E = &n.Noise.Value, evalue(n.Evidence)
	}
	switch {
	case n.Tier == noise.Confirmed:
		d.Tier = judge.Confirmed
	case n.ShadowOnly == 0 && c.roles[judge.Control]:
		d.Tier = judge.Noise
	}
	if n.Gates {
		d.Use, d.Verdict = judge.UseGate, judge.Fail
	}
	for _, e := range n.Examples {
		d.Examples = append(d.Examples, c.example(&e))
	}
	return d
}

// evalue is 10 to the power of log, and the largest number there is beyond that.
func evalue(log float64) *float64 {
	v := min(math.Pow(10, log), math.MaxFloat64)
	return &v
}

func (c *comparison) example(e *noise.Example) judge.Example {
	out := judge.Example{ID: hex.EncodeToString(e.ID), Live: e.Live, Shadow: e.Shadow}
	if e.Time != 0 {
		out.Time = time.Unix(0, e.Time).UTC()
	}
	if e.Request != nil && c.cfg.Command != nil {
		out.Command = c.cfg.Command(e.Request)
	}
	return out
}

func rule(u *noise.RuleUse, at time.Time) judge.DifferenceRule {
	r := judge.DifferenceRule{Path: u.Rule.Path.String(), Owner: u.Rule.Owner, Hid: u.Hid}
	if !u.Rule.Expires.IsZero() {
		r.Expires = u.Rule.Expires.Format(time.DateOnly)
		r.Expired = !at.Before(u.Rule.Expires.AddDate(0, 0, 1))
	}
	return r
}

// field and kind of what exceeds a bound on series.
const otherSeries = "(other)"

// seriesKey are the labels of verdict_differences_total.
type seriesKey struct{ route, field, kind string }

// differenceSeries are the counts of differences of one document, of which there are
// at most so many.
func differenceSeries(into map[seriesKey]uint64, d *judge.Document, most int) {
	for i := range d.Differences {
		f := &d.Differences[i]
		key := seriesKey{f.Route, f.Field, f.Kind}
		if _, ok := into[key]; !ok && len(into) >= most {
			key = seriesKey{otherSeries, otherSeries, otherSeries}
		}
		into[key] += f.ShadowOnly + f.Both
	}
}
