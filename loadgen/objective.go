package loadgen

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Objective is a limit that a run must keep: of a response time, or of the share
// of calls that failed.
type Objective struct {
	stat  string        // a name of Times, or "errors"
	limit time.Duration // of a response time
	share float64       // of errors
}

var quantiles = []struct {
	name string
	q    float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}}

// ParseObjective reads STAT<LIMIT: mean, p50, p90, p95, p99, p999 or max of the
// response time with a duration, as in p99<250ms, or errors with a share, as in
// errors<0.1%.
func ParseObjective(s string) (Objective, error) {
	stat, limit, ok := strings.Cut(strings.ReplaceAll(s, " ", ""), "<")
	if !ok {
		return Objective{}, fmt.Errorf("objective %q: want STAT<LIMIT, as in p99<250ms", s)
	}
	if stat == "errors" {
		number, ok := strings.CutSuffix(limit, "%")
		percent, err := strconv.ParseFloat(number, 64)
		if !ok || err != nil || !(percent > 0 && percent <= 100) {
			return Objective{}, fmt.Errorf("objective %q: want a share of more than 0%% and at most 100%%, as in errors<0.1%%", s)
		}
		return Objective{stat: stat, share: percent / 100}, nil
	}
	if stat == "p99.9" {
		stat = "p999"
	}
	known := stat == "mean" || stat == "max"
	for _, q := range quantiles {
		known = known || stat == q.name
	}
	if !known {
		return Objective{}, fmt.Errorf("objective %q: want mean, p50, p90, p95, p99, p999, max or errors", s)
	}
	d, err := time.ParseDuration(limit)
	if err != nil || d <= 0 {
		return Objective{}, fmt.Errorf("objective %q: want a duration, as in 250ms", s)
	}
	return Objective{stat: stat, limit: d}, nil
}

// String returns the objective as ParseObjective reads it.
func (o Objective) String() string {
	if o.stat == "errors" {
		return "errors<" + strconv.FormatFloat(o.share*100, 'g', -1, 64) + "%"
	}
	return o.stat + "<" + o.limit.String()
}

// MarshalText and UnmarshalText write and read String's form.
func (o Objective) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Objective) UnmarshalText(text []byte) (err error) {
	*o, err = ParseObjective(string(text))
	return err
}

// Verdict is what the objectives come to. The empty Verdict is none: there were
// no objectives, and no reason to distrust the figures.
type Verdict string

// The verdicts.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive"
)

// judge sets r's verdict and reasons from its figures.
//
// A generator that was late says nothing of the service, either way: what it saw
// is told and not judged. One that
// made fewer calls than planned has asked for less than it should: a service
// that fails even so has failed, one that does not has not passed. A lower bound
// above its limit is a failure, one below it decides nothing.
func (r *Result) judge() {
	r.Verdict, r.Reasons = "", []string{}
	var doubts, breaches []string
	late := r.lateness()
	if late != "" {
		doubts = append(doubts, late)
	}
	for _, o := range r.Objectives {
		breach, doubt := o.judge(&r.Figures)
		if breach != "" {
			breaches = append(breaches, breach)
		}
		if doubt != "" {
			doubts = append(doubts, doubt)
		}
	}
	if r.Planned != nil && float64(r.Shed) > 0.001*float64(*r.Planned) {
		doubts = append(doubts, fmt.Sprintf("%d of %d planned calls were not made", r.Shed, *r.Planned))
	}
	if r.Interrupted && len(r.Objectives) > 0 {
		doubts = append(doubts, "the run was interrupted")
	}
	switch {
	case len(breaches) > 0 && !r.Interrupted && late == "":
		r.Verdict, r.Reasons = Fail, breaches
	case len(doubts) > 0:
		r.Verdict, r.Reasons = Inconclusive, append(doubts, breaches...)
	case len(r.Objectives) > 0:
		r.Verdict = Pass
	}
}

// lateness says that the generator was too late to be believed, if it was: the
// 99th percentile of how late it released calls is above 1 ms and above 5 % of
// the smallest objective, or of the median response where there is none. What a
// call waits for a connection is not counted: the service holds those.
func (r *Result) lateness() string {
	if r.Pacing == nil {
		return ""
	}
	scale := r.Response.P50
	for i, o := range r.Objectives {
		if s := o.limit.Seconds(); o.stat != "errors" && (i == 0 || s < scale) {
			scale = s
		}
	}
	if limit := max(1e-3, scale*0.05); r.Pacing.P99 > limit {
		return fmt.Sprintf("the generator released calls late: p99 %s, allowed %s", seconds(r.Pacing.P99), seconds(limit))
	}
	return ""
}

// judge says how f breaks o, or why it cannot be told.
func (o Objective) judge(f *Figures) (breach, doubt string) {
	if f.Sent+f.Shed == 0 {
		return "", fmt.Sprintf("%s: no calls", o)
	}
	if o.stat == "errors" {
		bad := f.Sent - f.OK
		if f.Sent == 0 {
			return "", fmt.Sprintf("%s: no calls were made", o)
		}
		if got := float64(bad) / float64(f.Sent); got >= o.share {
			return fmt.Sprintf("%s: %.4g%%, %d of %d", o, got*100, bad, f.Sent), ""
		}
		return "", ""
	}
	got, censored := f.Response.get(o.stat)
	switch limit := o.limit.Seconds(); {
	case got >= limit && censored:
		return fmt.Sprintf("%s: at least %s", o, seconds(got)), ""
	case got >= limit:
		return fmt.Sprintf("%s: %s", o, seconds(got)), ""
	case censored:
		return "", fmt.Sprintf("%s: at least %s, more is not known", o, seconds(got))
	}
	return "", ""
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Microsecond).String()
}
