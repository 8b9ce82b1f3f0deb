package main

import (
	"fmt"
	"strings"
	"time"

	"darklaunch/verdict/judge"
)

// metricSettings is one item of metrics: in a file that says what a verdict
// rests on.
type metricSettings struct {
	Name   string `yaml:"name"`
	Stat   string `yaml:"stat"`
	Route  string `yaml:"route"`
	Margin string `yaml:"margin"`
	Floor  string `yaml:"floor"`
	Role   string `yaml:"role"`
	NoData string `yaml:"no-data"`
}

// rule is the setting as the judge takes it; what it leaves out is as in the first
// of defaults for the metric.
func (s *metricSettings) rule(defaults []judge.Rule) (judge.Rule, error) {
	r := judge.Rule{Name: s.Name, Stat: s.Stat, Route: s.Route}
	for _, d := range defaults {
		if d.Name == s.Name && d.Stat == s.Stat {
			r.Margin, r.Floor, r.Use = d.Margin, d.Floor, d.Use
			break
		}
	}
	if s.Margin != "" {
		m, err := parseMargin(s.Margin)
		if err != nil {
			return r, err
		}
		r.Margin = m
	}
	if s.Floor != "" {
		f, err := parseFloor(s.Floor)
		if err != nil {
			return r, err
		}
		r.Floor = f
	}
	r.Use = judge.UseGate
	if s.Role != "" {
		r.Use = judge.Use(s.Role)
	}
	switch s.NoData {
	case "fail":
		r.NoData = judge.Fail
	case "ignore":
		r.NoData = judge.Pass
	}
	if (s.Name == judge.MetricLatency) != (s.Stat != "") {
		return r, fmt.Errorf("%s: latency has a stat, and nothing else has", s.Name)
	}
	return r, nil
}

// parseMargin reads 10% or, of a share, 0.1pt.
func parseMargin(s string) (float64, error) {
	n, ok := strings.CutSuffix(s, "%")
	if !ok {
		n, ok = strings.CutSuffix(s, "pt")
	}
	v, err := parseDecimal(n)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q is not a margin: want a percentage, as 10%%, or points of a share, as 0.1pt", s)
	}
	return v / 100, nil
}

// parseFloor reads a duration, a size or a number.
func parseFloor(s string) (float64, error) {
	if v, err := parseDecimal(s); err == nil {
		return v, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d.Seconds(), nil
	}
	if b, err := parseSize(s); err == nil {
		return float64(b), nil
	}
	return 0, fmt.Errorf("%q is not a floor: want a time, as 500us, a size, as 16MiB, or a number", s)
}
