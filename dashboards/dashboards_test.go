package dashboards

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestShape(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range All() {
		if d.Title == "" || d.Description == "" || uids[d.UID] || !regexp.MustCompile(`^darklaunch-[a-z]+$`).MatchString(d.UID) {
			t.Errorf("%q: got uid %q, want one of its own with title and description", d.Title, d.UID)
		}
		uids[d.UID] = true
		ids := map[int]bool{}
		for _, r := range d.Rows {
			if r.Title == "" || len(r.Panels) == 0 {
				t.Errorf("%s: row %q is empty or has no title", d.UID, r.Title)
			}
		}
		for _, p := range d.Panels() {
			if ids[p.ID] || p.ID <= 0 {
				t.Errorf("%s: two panels with id %d", d.UID, p.ID)
			}
			ids[p.ID] = true
			for _, fault := range faults(&d, &p) {
				t.Errorf("%s: %s: %s", d.UID, p.Title, fault)
			}
		}
	}
	if len(uids) != 10 {
		t.Errorf("got %d dashboards, want 10", len(uids))
	}
}

// faults are what is wrong with one panel.
func faults(d *Dashboard, p *Panel) (found []string) {
	say := func(broken bool, what string) {
		if broken {
			found = append(found, what)
		}
	}
	say(p.Title == "", "no title")
	say(!strings.HasSuffix(strings.TrimSpace(p.Description), "."), "no description of whole sentences")
	say(!slices.Contains(Units(), p.Unit), "unit "+string(p.Unit))
	say(!slices.Contains([]Kind{TimeSeries, Stat, Table, Heatmap, Timeline}, p.Kind), "kind "+string(p.Kind))
	say(p.Width < 1 || p.Width > Columns || p.Height < 1, "size")
	say(len(p.Queries) == 0, "no query")
	say(p.Kind == Heatmap && len(p.Queries) != 1, "a heatmap of several queries")
	say((p.Kind == Table) != (p.Labels != nil), "labels are a table's, and all tables have some")
	say((p.Kind == Timeline) != (p.States != nil), "states are a timeline's, and all timelines have some")
	say(!slices.IsSortedFunc(p.Thresholds, func(a, b Threshold) int { return int(1e6 * (a.Value - b.Value)) }), "thresholds are not sorted")
	legends := map[string]bool{}
	for _, q := range p.Queries {
		say(q.Legend == "" || legends[q.Legend], "two queries with the legend "+q.Legend)
		legends[q.Legend] = true
		say(q.Unit != "" && !slices.Contains(Units(), q.Unit), "unit "+string(q.Unit))
		_, known := q.Role.Look()
		say(q.Role != "" && !known, "role "+string(q.Role)+" has no look")
		for _, v := range variable.FindAllStringSubmatch(q.Expr, -1) {
			say(v[1] != RateInterval && !slices.ContainsFunc(d.Variables, func(o Variable) bool { return o.Name == v[1] }), "nobody chooses "+v[0])
		}
	}
	return found
}

func TestFaultsAreFound(t *testing.T) {
	sound := func() Panel {
		return lines("T", Seconds, "D.", plain(`rate(a{job=~"$job"}[1m])`, "l"))
	}
	d := &Dashboard{Variables: []Variable{{Name: "job"}}}
	if p := sound(); len(faults(d, &p)) != 0 {
		t.Fatalf("a sound panel: %q", faults(d, &p))
	}
	for name, spoil := range map[string]func(*Panel){
		"title":       func(p *Panel) { p.Title = "" },
		"description": func(p *Panel) { p.Description = "latency" },
		"unit":        func(p *Panel) { p.Unit = "ms" },
		"query unit":  func(p *Panel) { p.Queries[0].Unit = "ms" },
		"kind":        func(p *Panel) { p.Kind = "pie" },
		"width":       func(p *Panel) { p.Width = 25 },
		"queries":     func(p *Panel) { p.Queries = nil },
		"legend":      func(p *Panel) { p.Queries = append(p.Queries, p.Queries[0]) },
		"role":        func(p *Panel) { p.Queries[0].Role = "canary" },
		"variable":    func(p *Panel) { p.Queries[0].Expr = "$other" },
		"labels":      func(p *Panel) { p.Kind = Table },
		"states":      func(p *Panel) { p.Kind = Timeline },
		"thresholds":  func(p *Panel) { p.Thresholds = []Threshold{{2, Warn}, {1, Bad}} },
	} {
		p := sound()
		if spoil(&p); len(faults(d, &p)) == 0 {
			t.Errorf("%s: nothing was found", name)
		}
	}
}

func TestExpand(t *testing.T) {
	d := Dashboard{Variables: jobAndInstance("m")}
	expr := scoped(`rate(m{route="a"}[$__rate_interval]) / on () n{} + o{job=~"x"}`)
	if got, want := Expand(expr, d.Defaults("1m")),
		`rate(m{job=~".+",instance=~".+",route="a"}[1m]) / on () n{job=~".+",instance=~".+"} + o{job=~"x"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, c := range []struct {
		values []string
		want   string
	}{
		{nil, ".+"},
		{[]string{"a"}, "a"},
		{[]string{"GET /a.b", `c"d`, "e\n"}, `GET /a\\.b|c\"d|e\n`},
	} {
		if got := Choice(c.values...); got != c.want {
			t.Errorf("Choice(%q): got %s, want %s", c.values, got, c.want)
		}
	}
}

// Pages read the dashboards as JSON: what they hold survives it, and no caller
// changes what another gets.
func TestJSON(t *testing.T) {
	b, err := json.Marshal(All())
	if err != nil {
		t.Fatal(err)
	}
	var back []Dashboard
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, All()) {
		t.Error("JSON and back is another value")
	}
	back = All()
	back[0].Rows[0].Panels[0].Title = "changed"
	if All()[0].Rows[0].Panels[0].Title == "changed" {
		t.Error("a change of one caller is seen by the next")
	}
}

// Roles and levels differ for those who see no colour: by stroke, and by text.
func TestLooks(t *testing.T) {
	type stroke struct {
		dash  string
		width int
	}
	seen := map[stroke]Role{}
	for _, r := range []Role{Live, Shadow, Control, Margin, Target, Error} {
		l, ok := r.Look()
		b, _ := json.Marshal(l.Dash)
		s := stroke{string(b), l.Width}
		if other, twice := seen[s]; twice || !ok {
			t.Errorf("%s is drawn with the stroke of %q", r, other)
		}
		seen[s] = r
		for _, ground := range []string{"#ffffff", "#181b1f"} {
			if c := contrast(l.Color, ground); c < 3 {
				t.Errorf("%s: got contrast %.2f on %s, want 3", r, c, ground)
			}
		}
	}
	for _, l := range []Level{Neutral, Good, Warn, Bad} {
		if c := contrast(l.Color(), "#ffffff"); c < 3 {
			t.Errorf("%s: got contrast %.2f on white, want 3", l, c)
		}
	}
}
