package rules_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	engine "github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"

	"darklaunch/dashboards/rules"
)

// A testFile is one of promtool's, as far as ours use it:
// https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
// promtool's own reader can't be imported.
type testFile struct {
	RuleFiles []string       `yaml:"rule_files"`
	Every     model.Duration `yaml:"evaluation_interval"`
	Tests     []ruleTest     `yaml:"tests"`
}

type ruleTest struct {
	Name     string         `yaml:"name"`
	Interval model.Duration `yaml:"interval"`
	Series   []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	Alerts []struct {
		Name string         `yaml:"alertname"`
		At   model.Duration `yaml:"eval_time"`
		Want []struct {
			Labels map[string]string `yaml:"exp_labels"`
		} `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
}

func readTests(t *testing.T, name string) testFile {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var file testFile
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil {
		t.Fatal(err)
	}
	return file
}

// fires evaluates the rules in file on a test's series until at, by upstream's
// loader and rules, and returns the labels of the alerts called name that fire.
func (tc ruleTest) fires(t *testing.T, file, name string, at, every time.Duration) []map[string]string {
	t.Helper()
	var load strings.Builder
	fmt.Fprintf(&load, "load %v\n", tc.Interval)
	for _, s := range tc.Series {
		fmt.Fprintf(&load, "  %s %s\n", s.Series, s.Values)
	}
	suite, err := promqltest.NewLazyLoader(load.String(), promqltest.LazyLoaderOpts{EnableAtModifier: true, EnableNegativeOffset: true})
	if err != nil {
		t.Fatal(err)
	}
	defer suite.Close()
	suite.SubqueryInterval = every
	m := engine.NewManager(&engine.ManagerOptions{
		QueryFunc:  engine.EngineQueryFunc(suite.QueryEngine(), suite.Storage()),
		Appendable: suite.Storage(), Queryable: suite.Storage(), Context: t.Context(),
		NotifyFunc: func(context.Context, string, ...*engine.Alert) {},
		Logger:     slog.New(slog.DiscardHandler),
		Parser:     parser.NewParser(parser.Options{}),
	})
	byName, errs := m.LoadGroups(every, labels.EmptyLabels(), "", nil, false, file)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	// An alert's records are in its own group, as the order of groups is nobody's promise.
	groups := slices.DeleteFunc(slices.Collect(maps.Values(byName)), func(g *engine.Group) bool {
		return !slices.ContainsFunc(g.Rules(), func(r engine.Rule) bool { return r.Name() == name })
	})
	for ts := time.Unix(0, 0).UTC(); !ts.After(time.Unix(0, 0).Add(at)); ts = ts.Add(every) {
		suite.WithSamplesTill(ts, func(err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range groups {
				g.Eval(suite.Context(), ts)
			}
		})
	}
	var firing []map[string]string
	for _, g := range groups {
		for _, r := range g.Rules() {
			if err := r.LastError(); err != nil {
				t.Errorf("%s: %v", r.Name(), err)
			}
			a, ok := r.(*engine.AlertingRule)
			if !ok || a.Name() != name {
				continue
			}
			for _, alert := range a.ActiveAlerts() {
				if alert.State != engine.StateFiring {
					continue
				}
				set := alert.Labels.Map()
				delete(set, "alertname")
				firing = append(firing, set)
				if d := alert.Annotations.Get("description"); strings.Contains(d, "<no value>") || strings.Contains(d, "<error") {
					t.Errorf("%s: got description %q: a label in it is not there", name, d)
				}
			}
		}
	}
	return firing
}

// TestAlerts runs the test file, and holds that it shows each alert to fire and
// to be quiet.
func TestAlerts(t *testing.T) {
	file := readTests(t, "testdata/alerts.test.yml")
	shown := map[string]map[bool]bool{}
	for _, tc := range file.Tests {
		for _, a := range tc.Alerts {
			if shown[a.Name] == nil {
				shown[a.Name] = map[bool]bool{}
			}
			shown[a.Name][len(a.Want) > 0] = true
		}
		t.Run(tc.Name, func(t *testing.T) {
			t.Parallel()
			if testing.Short() && time.Duration(tc.Alerts[0].At) > 2*time.Hour {
				t.Skip("days of evaluations take seconds")
			}
			for _, a := range tc.Alerts {
				every := max(time.Duration(file.Every), time.Duration(tc.Interval))
				var want []map[string]string
				for _, w := range a.Want {
					want = append(want, w.Labels)
				}
				got := tc.fires(t, filepath.Join("testdata", file.RuleFiles[0]), a.Name, time.Duration(a.At), every)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s at %v (-want +got):\n%s", a.Name, a.At, diff)
				}
			}
		})
	}
	for _, r := range alerts(t, rules.Standard()) {
		if s := shown[r.Alert]; !s[true] || !s[false] {
			t.Errorf("%s: shown to fire: %v, to be quiet: %v; want both", r.Alert, s[true], s[false])
		}
	}
}

// parse reads a rules file as Prometheus does.
func parse(t *testing.T, text []byte) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return groups
}

func alerts(t *testing.T, text []byte) (all []rulefmt.Rule) {
	t.Helper()
	for _, g := range parse(t, text).Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				all = append(all, r)
			}
		}
	}
	return all
}

// TestRunBooks holds that each alert says what it is, how bad, and where it is
// written what to do, and that it is written there.
func TestRunBooks(t *testing.T) {
	book, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllSubmatch(book, -1) {
		sections[strings.ReplaceAll(strings.ToLower(string(m[1])), " ", "-")] = true
	}
	for _, r := range alerts(t, rules.Standard()) {
		page, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
		if page != "docs/operating.md" || !sections[anchor] {
			t.Errorf("%s: got run book %q, want a section of docs/operating.md that is there", r.Alert, r.Annotations["runbook_url"])
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: got severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" || strings.Contains(r.Annotations["summary"], "{{") || r.Annotations["description"] == "" {
			t.Errorf("%s: got annotations %v, want a fixed summary, and a description", r.Alert, r.Annotations)
		}
	}
}

// longest is the longest window in an expression.
func longest(t *testing.T, expr string) (w time.Duration) {
	t.Helper()
	e, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Fatal(err)
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if m, ok := n.(*parser.MatrixSelector); ok {
			w = max(w, m.Range)
		}
		return nil
	})
	return w
}

// TestShrunk holds that every alert can fire within a run of fifteen minutes,
// and that what names its window keeps it.
func TestShrunk(t *testing.T) {
	before, after := parse(t, rules.Standard()), parse(t, rules.Shrunk(288))
	for i, g := range after.Groups {
		for j, r := range g.Rules {
			was := before.Groups[i].Rules[j]
			window := longest(t, r.Expr)
			switch {
			case r.Alert != was.Alert || r.Record != was.Record:
				t.Errorf("got %s%s, want %s%s", r.Alert, r.Record, was.Alert, was.Record)
			case r.Alert == "" && !strings.Contains(r.Record, "_budget_"):
				if window != longest(t, was.Expr) {
					t.Errorf("%s: got a window of %v, want that of its name", r.Record, window)
				}
			case window+time.Duration(r.For) > 15*time.Minute:
				t.Errorf("%s%s: got a window of %v and a wait of %v, want both within 15 minutes", r.Alert, r.Record, window, r.For)
			}
		}
	}
	name := filepath.Join(t.TempDir(), "shrunk.yml")
	if err := os.WriteFile(name, rules.Shrunk(288), 0o644); err != nil {
		t.Fatal(err)
	}
	tc := ruleTest{Interval: model.Duration(time.Second)}
	add := func(code, values string) {
		tc.Series = append(tc.Series, struct {
			Series string `yaml:"series"`
			Values string `yaml:"values"`
		}{`mirror_requests_total{job="mirror",code="` + code + `"}`, values})
	}
	add("200", "0+98x300 29498+100x600")
	add("500", "0+2x300 602x600")
	for at, want := range map[time.Duration]int{4 * time.Minute: 1, 14 * time.Minute: 0} {
		if got := tc.fires(t, name, "LiveErrorBudgetBurnsFast", at, 5*time.Second); len(got) != want {
			t.Errorf("the error budget after %v: got %v, want %d alerts", at, got, want)
		}
	}
}
