package main

import (
	"fmt"
	"strings"
	"time"

	"darklaunch/verdict/judge"
)

// judgeSettings is what a file says of how it is judged.
type judgeSettings struct {
	Confidence    float64        `yaml:"confidence"`
	MinDuration   time.Duration  `yaml:"min-duration"`
	MaxDuration   time.Duration  `yaml:"max-duration"`
	WarmUp        *time.Duration `yaml:"warm-up"`
	WarmUpShare   *share         `yaml:"warm-up-share"`
	MinBlocks     int            `yaml:"min-blocks"`
	MaxDropped    share          `yaml:"max-dropped"`
	MaxStreamLost share          `yaml:"max-stream-lost"`
	MaxLate       time.Duration  `yaml:"max-late"`
	Metrics       []ruleSettings `yaml:"metrics"`
	Limits        []limit        `yaml:"limits"`
	HarmLimits    []limit        `yaml:"harm-limits"`
}

type ruleSettings struct {
	Name   string `yaml:"name"`
	Stat   string `yaml:"stat"`
	Route  string `yaml:"route"`
	Margin margin `yaml:"margin"`
	Floor  floor  `yaml:"floor"`
	Use    string `yaml:"use"`
	NoData noData `yaml:"no-data"`
}

// noData is a judge.Verdict by the name that files use.
type noData judge.Verdict

// UnmarshalText reads pass, fail, inconclusive or ignore, which leaves a metric out.
func (v *noData) UnmarshalText(text []byte) error {
	if *v = noData(text); *v == "ignore" {
		*v = noData(judge.Pass)
	}
	return nil
}

// config is the judge's. The schema has seen to it that all names are known.
func (s *judgeSettings) config() judge.Config {
	c := judge.Config{
		Confidence: s.Confidence, MinDuration: s.MinDuration, MaxDuration: s.MaxDuration, MinBlocks: s.MinBlocks, MaxLate: s.MaxLate,
		MaxDropped: float64(s.MaxDropped) / 1e6, MaxStreamLost: float64(s.MaxStreamLost) / 1e6,
	}
	if s.WarmUp != nil {
		if c.WarmUp = *s.WarmUp; c.WarmUp == 0 {
			c.WarmUp = -1 // none, where the judge takes 0 for its default
		}
	}
	if s.WarmUpShare != nil {
		if c.WarmUpShare = float64(*s.WarmUpShare) / 1e6; c.WarmUpShare == 0 {
			c.WarmUpShare = -1
		}
	}
	for _, r := range s.Metrics {
		c.Metrics = append(c.Metrics, judge.Rule{
			Name: r.Name, Stat: r.Stat, Route: r.Route, Margin: float64(r.Margin), Floor: float64(r.Floor), Use: judge.Use(r.Use), NoData: judge.Verdict(r.NoData),
		})
	}
	if c.Metrics != nil { // what the file does not mention is as by default
		c.Metrics = append(c.Metrics, judge.DefaultRules()...)
	}
	for _, l := range s.Limits {
		c.Limits = append(c.Limits, judge.Limit(l))
	}
	for _, l := range s.HarmLimits {
		c.HarmLimits = append(c.HarmLimits, judge.Limit(l))
	}
	return c
}

// margin is a share of one: 10% of a ratio, 0.1pt (points) of a share.
type margin float64

// UnmarshalText reads 10% or 0.1pt.
func (m *margin) UnmarshalText(text []byte) error {
	for _, unit := range []string{"%", "pt"} {
		if n, ok := strings.CutSuffix(string(text), unit); ok {
			if v, err := parseDecimal(n); err == nil {
				*m = margin(v / 100)
				return nil
			}
		}
	}
	return fmt.Errorf("%q is not a margin: want 10%% of a ratio, or 0.1pt of a share", text)
}

// floor is a least difference: a duration in seconds, or a plain number.
type floor float64

// UnmarshalText reads 500us or 12.
func (f *floor) UnmarshalText(text []byte) error {
	v, err := parseQuantity(string(text))
	*f = floor(v)
	return err
}

// parseQuantity reads a duration, in seconds, a share, or a number.
func parseQuantity(s string) (float64, error) {
	if n, ok := strings.CutSuffix(s, "%"); ok {
		v, err := parseDecimal(n)
		return v / 100, err
	}
	if v, err := parseDecimal(s); err == nil {
		return v, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q: want a duration as 250ms, a share as 1%%, or a number", s)
	}
	return d.Seconds(), nil
}

// limit is an absolute limit, "shadow.latency.p99 < 250ms on GET /inbox".
type limit judge.Limit

// UnmarshalText reads one.
func (l *limit) UnmarshalText(text []byte) error {
	want := fmt.Errorf("%q is not a limit: want ROLE.METRIC[.STAT] < VALUE [on ROUTE], as shadow.latency.p99 < 250ms", text)
	what, rest, ok := strings.Cut(string(text), "<")
	if !ok {
		return want
	}
	value, route, _ := strings.Cut(rest, " on ")
	parts := strings.Split(strings.TrimSpace(what), ".")
	if len(parts) < 2 || len(parts) > 3 {
		return want
	}
	l.Role, l.Name, l.Route = judge.Role(parts[0]), parts[1], strings.TrimSpace(route)
	if len(parts) == 3 {
		l.Stat = parts[2]
	}
	switch l.Role {
	case judge.Live, judge.Shadow, judge.Control, judge.Base, judge.Head:
	default:
		return want
	}
	switch {
	case l.Name == judge.MetricLatency && isStat(l.Stat):
	case l.Name != judge.MetricLatency && isMetric(l.Name) && l.Stat == "":
	default:
		return want
	}
	v, err := parseQuantity(strings.TrimSpace(value))
	l.Limit = v
	return err
}

func isStat(s string) bool {
	switch s {
	case "mean", "p50", "p90", "p95", "p99", "p999":
		return true
	}
	return false
}

func isMetric(s string) bool {
	switch s {
	case judge.MetricErrors, judge.MetricThroughput, judge.MetricCPU, judge.MetricAllocations, judge.MetricMemory:
		return true
	}
	return false
}
