package grafana

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"darklaunch/dashboards"
)

// The files are what Render makes, and no others are there.
func TestFresh(t *testing.T) {
	want := map[string]bool{}
	for _, d := range dashboards.All() {
		want[File(&d)] = true
		made, err := Render(&d)
		if err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Join("json", File(&d)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(kept), string(made)); diff != "" {
			t.Errorf("%s is stale, run make generate (-kept +made):\n%.2000s", File(&d), diff)
		}
	}
	files, err := os.ReadDir("json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !want[f.Name()] {
			t.Errorf("%s is no dashboard's: delete it", f.Name())
		}
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, p := range []dashboards.Panel{
		{Kind: "pie", Unit: dashboards.None},
		{Kind: dashboards.Stat, Unit: "ms"},
		{Kind: dashboards.Stat, Unit: dashboards.None, Queries: []dashboards.Query{{Unit: "ms"}}},
	} {
		d := &dashboards.Dashboard{Rows: []dashboards.Row{{Panels: []dashboards.Panel{p}}}}
		if _, err := Render(d); err == nil {
			t.Errorf("%+v: got no error", p)
		}
	}
	for _, u := range dashboards.Units() {
		if _, err := unitOf(u); err != nil {
			t.Error(err)
		}
	}
}

// What the linter looks at of a dashboard.
type file struct {
	UID         string
	Title       string
	Description string
	Tags        []string
	Editable    bool
	Templating  struct{ List []model }
	Annotations struct {
		List []struct {
			Name, Expr, TitleFormat string
			Datasource              sourceRef
		}
	}
	Panels []linted
}

type model struct {
	Name, Type, Label string
	Multi             bool
	AllValue          string
	Query             any
	Datasource        sourceRef
}

type sourceRef struct{ Type, UID string }

type linted struct {
	ID                       int
	Type, Title, Description string
	Datasource               sourceRef
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct {
		Expr, LegendFormat, RefID string
		Instant                   bool
		Datasource                sourceRef
	}
	FieldConfig struct{ Defaults struct{ Unit string } }
}

// The rules of Grafana's dashboard-linter that apply, and our own.
func TestLint(t *testing.T) {
	exported := reference(t)
	for _, d := range dashboards.All() {
		b, err := os.ReadFile(filepath.Join("json", File(&d)))
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range lint(b, &d, exported) {
			t.Errorf("%s: %s", File(&d), fault)
		}
	}
}

// reference are the metrics of docs/reference/metrics.md, which a test of the
// program holds against what it exports.
func reference(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)").FindAllStringSubmatch(string(b), -1) {
		names[m[1]] = true
	}
	return names
}

func lint(b []byte, d *dashboards.Dashboard, exported map[string]bool) (faults []string) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return []string{err.Error()}
	}
	say := func(broken bool, format string, args ...any) {
		if broken {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	ours := sourceRef{"prometheus", "${datasource}"}
	sources := 0
	for _, v := range f.Templating.List {
		switch v.Type {
		case "datasource":
			sources++
			say(v.Name != "datasource" || v.Label != "Data source" || v.Query != "prometheus", "the data source is chosen by %+v", v)
		case "query":
			say(v.Datasource != ours || !v.Multi || v.AllValue != ".+", "variable %s: %+v", v.Name, v)
			m := regexp.MustCompile(`^label_values\((\w+)`).FindStringSubmatch(fmt.Sprint(v.Query))
			say(m == nil || !exported[m[1]], "variable %s: nobody exports what %v asks for", v.Name, v.Query)
		}
	}
	say(sources != 1, "%d variables choose a data source", sources)
	say(f.UID != d.UID || f.Title == "" || f.Description == "" || f.Editable || !slices.Contains(f.Tags, Tag), "uid, title, description, tag, or not read-only")
	for _, a := range f.Annotations.List {
		say(a.Datasource != ours || a.TitleFormat == "", "annotation %s: %+v", a.Name, a)
		faults = append(faults, lintExpr("annotation "+a.Name, a.Expr, true, d, exported)...)
	}
	say(len(f.Annotations.List) != len(dashboards.Annotations()), "annotations are missing")
	ids, panels := map[int]bool{}, 0
	taken := map[[2]int]string{}
	for _, p := range f.Panels {
		say(ids[p.ID], "id %d is there twice", p.ID)
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				say(taken[[2]int{x, y}] != "", "%s lies on %s", p.Title, taken[[2]int{x, y}])
				taken[[2]int{x, y}] = p.Title
			}
		}
		say(p.GridPos.X+p.GridPos.W > dashboards.Columns, "%s is out of the page", p.Title)
		if p.Type == "row" {
			continue
		}
		panels++
		say(p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource != ours, "panel %q: title, description, unit or data source", p.Title)
		say(len(p.Targets) == 0, "panel %q asks nothing", p.Title)
		refs := map[string]bool{}
		for _, q := range p.Targets {
			say(q.Datasource != ours || refs[q.RefID] || q.LegendFormat == "", "panel %q: target %+v", p.Title, q)
			refs[q.RefID] = true
			faults = append(faults, lintExpr("panel "+p.Title, q.Expr, q.Instant, d, exported)...)
		}
	}
	say(panels != len(d.Panels()), "%d panels of %d", panels, len(d.Panels()))
	return faults
}

// lintExpr parses an expression as a server will get it. total says that a
// counter may be shown as it is.
func lintExpr(where, expr string, total bool, d *dashboards.Dashboard, exported map[string]bool) (faults []string) {
	expanded := dashboards.Expand(expr, d.Defaults("1m"))
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(expanded)
	if err != nil {
		return []string{fmt.Sprintf("%s: %s: %v", where, expanded, err)}
	}
	parser.Inspect(tree, func(n parser.Node, path []parser.Node) error {
		s, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		say := func(what string) { faults = append(faults, where+": "+s.Name+": "+what) }
		if !slices.ContainsFunc(s.LabelMatchers, func(m *labels.Matcher) bool { return m.Name == "job" }) {
			say("of all jobs")
		}
		name := strings.TrimSuffix(strings.TrimSuffix(s.Name, "_bucket"), "_count")
		if !exported[s.Name] && !exported[name] && !strings.HasPrefix(s.Name, "ALERTS") {
			say("nobody exports it")
		}
		rated := false
		for _, over := range path {
			if c, ok := over.(*parser.Call); ok && slices.Contains([]string{"rate", "irate", "increase"}, c.Func.Name) {
				rated = true
			}
		}
		if strings.HasSuffix(s.Name, "_total") && !rated && !total {
			say("a counter without a rate")
		}
		if rated && !strings.HasSuffix(s.Name, "_total") && !strings.HasSuffix(s.Name, "_seconds") && !strings.HasSuffix(s.Name, "_bucket") && !strings.HasSuffix(s.Name, "_count") && s.Name != "mailbox_commit_actions" {
			say("a rate of what does not only rise")
		}
		return nil
	})
	return faults
}

func TestLintFinds(t *testing.T) {
	exported := reference(t)
	d := &dashboards.All()[0]
	sound, err := Render(d)
	if err != nil {
		t.Fatal(err)
	}
	if faults := lint(sound, d, exported); len(faults) > 0 {
		t.Fatalf("a sound dashboard: %q", faults)
	}
	for name, c := range map[string][2]string{
		"source":     {`"uid": "${datasource}"`, `"uid": "abc"`},
		"variable":   {`"type": "datasource"`, `"type": "custom"`},
		"job":        {`verdict_blocks{job=~\"$job\",`, `verdict_blocks{`},
		"metric":     {`verdict_blocks{`, `verdict_bricks{`},
		"syntax":     {`max by (comparison) (`, `max by (comparison (`},
		"unit":       {`"unit": "short"`, `"unit": ""`},
		"id":         {`"id": 102`, `"id": 101`},
		"counter":    {`sum by (result) (rate(verdict_pairs_total{job=~\"$job\",instance=~\"$instance\",comparison=~\"$comparison\"}[$__rate_interval]))`, `sum by (result) (verdict_pairs_total{job=~\"$job\"})`},
		"editable":   {`"editable": false`, `"editable": true`},
		"overlap":    {`"y": 1`, `"y": 0`},
		"text":       {`"legendFormat": "dropped"`, `"legendFormat": ""`},
		"annotation": {`loadgen_phase{job=~\".+\"}`, `loadgen_phase`},
	} {
		bad := strings.Replace(string(sound), c[0], c[1], 1)
		if bad == string(sound) {
			t.Errorf("%s: the fault was not planted", name)
		}
		if len(lint([]byte(bad), d, exported)) == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

// Roles look the same on all dashboards.
func TestRolesLookAlike(t *testing.T) {
	for _, d := range dashboards.All() {
		b, err := Render(&d)
		if err != nil {
			t.Fatal(err)
		}
		var shown struct {
			Panels []struct {
				Title, Type string
				FieldConfig struct {
					Overrides []struct {
						Matcher    struct{ Options string }
						Properties []struct {
							ID    string
							Value any
						}
					}
				}
			}
		}
		if err := json.Unmarshal(b, &shown); err != nil {
			t.Fatal(err)
		}
		drawn := map[string]string{} // panel and query → colour
		for _, p := range shown.Panels {
			for _, o := range p.FieldConfig.Overrides {
				for _, property := range o.Properties {
					if property.ID == "color" {
						drawn[p.Title+o.Matcher.Options] = property.Value.(map[string]any)["fixedColor"].(string)
					}
				}
			}
		}
		for _, p := range d.Panels() {
			for i, q := range p.Queries {
				look, ok := q.Role.Look()
				if got := drawn[p.Title+ref(i)]; p.Kind == dashboards.TimeSeries && got != look.Color {
					t.Errorf("%s: %s: %s (%v) is drawn in %q, want %q", d.UID, p.Title, q.Legend, ok, got, look.Color)
				}
			}
		}
	}
}
