// Package dashboards says what is worth looking at of a run, as data: which
// numbers, by which PromQL expressions, in which unit, and what a reader may
// conclude. It is the one source of what the built-in page shows and of the
// JSON that Grafana reads (package grafana); neither has a panel of its own.
//
// An expression holds variables, of which Expand makes PromQL that a server
// takes. All returns new values with each call: a caller may change them.
package dashboards

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A Dashboard answers one question, stated in its description.
type Dashboard struct {
	UID         string     `json:"uid"` // stable, for links and imports
	Title       string     `json:"title"`
	Description string     `json:"description"`
	Variables   []Variable `json:"variables"` // all that its expressions hold, RateInterval aside
	Rows        []Row      `json:"rows"`
}

// A Row is panels about one thing, from left to right, folded where they do
// not fit in Columns.
type Row struct {
	Title  string  `json:"title"`
	Panels []Panel `json:"panels"`
}

// Columns is how wide a dashboard is, in the units of Panel.Width.
const Columns = 24

// A Panel is one picture or table.
type Panel struct {
	ID          int    `json:"id"` // unique in its dashboard, above 0; it stays while panels are added at the end of a row
	Title       string `json:"title"`
	Description string `json:"description"` // what it shows, and what a reader concludes
	Kind        Kind   `json:"kind"`
	Unit        Unit   `json:"unit"` // of the queries that have none of their own
	// Width is at most Columns; Height is in steps of about 30 pixels.
	Width  int `json:"width"`
	Height int `json:"height"`

	Queries []Query `json:"queries"`
	// Labels are what a table shows of each row before the values, in order. Rows of
	// several queries with the same labels are one.
	Labels []string `json:"labels,omitempty"`
	// States are the values of a Timeline panel, ascending.
	States []State `json:"states,omitempty"`
	// Thresholds are where values begin to mean something else, ascending. Below the
	// first they mean Good, or Bad where FromBad says so.
	Thresholds []Threshold `json:"thresholds,omitempty"`
	FromBad    bool        `json:"from_bad,omitempty"`
}

// Kind is how a panel shows its queries.
type Kind string

// The kinds.
const (
	TimeSeries Kind = "timeseries" // lines over time
	Stat       Kind = "stat"       // a number for each series, of now
	Table      Kind = "table"      // a row for each set of labels, a column for each query, of now
	Heatmap    Kind = "heatmap"    // one query, whose values are native histograms, over time
	Timeline   Kind = "state"      // which state each series is in, over time
)

// Instant reports whether a panel's queries are asked for now alone.
func (k Kind) Instant() bool { return k == Stat || k == Table }

// A Query is one PromQL expression of a panel.
type Query struct {
	// Expr holds variables: see Expand.
	Expr string `json:"expr"`
	// Legend names each series; {{label}} stands for the label's value. Of a table it
	// is the column's title.
	Legend string `json:"legend"`
	Role   Role   `json:"role,omitempty"`
	Unit   Unit   `json:"unit,omitempty"` // if not the panel's
	// Exemplars says that the histogram behind it names traces of single calls.
	Exemplars bool `json:"exemplars,omitempty"`
}

// Role is what series stand for. It decides how they look, everywhere the same:
// see Look.
type Role string

// The roles. Series without one take a palette's colours.
const (
	Live    Role = "live"
	Shadow  Role = "shadow"
	Control Role = "control"
	// An effect, the bounds of its interval, and the margin that it is held against.
	Effect Role = "effect"
	Lower  Role = "lower"
	Upper  Role = "upper"
	Margin Role = "margin"
	Target Role = "target" // what was planned
	Error  Role = "error"  // what should not be
)

// Level is what a value means.
type Level string

// The levels.
const (
	Neutral Level = "neutral"
	Good    Level = "good"
	Warn    Level = "warn"
	Bad     Level = "bad"
)

// A Threshold says that values from Value on mean Level.
type Threshold struct {
	Value float64 `json:"value"`
	Level Level   `json:"level"`
}

// A State is one value that a series of a Timeline panel may have.
type State struct {
	Value int    `json:"value"`
	Text  string `json:"text"`
	Level Level  `json:"level"`
}

// A Variable is what a reader chooses, and expressions hold as $Name.
type Variable struct {
	Name        string `json:"name"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Default     string `json:"default"` // as Expand takes it
	// Metric and Label say what there is to choose from: the label's values on the
	// metric's series, any number of them, as Choice writes them. Without them
	// the value is free text.
	Metric string `json:"metric,omitempty"`
	Label  string `json:"label,omitempty"`
}

// Any is the value of a variable that chooses all.
const Any = ".+"

// RateInterval is the variable, in all dashboards, that stands for how far rates
// look back: at least four times as long as the scrape interval, and not less
// than the step of the query.
const RateInterval = "__rate_interval"

var variable = regexp.MustCompile(`\$(\w+)`)

// Expand replaces each variable $name in expr by what value returns for its
// name. Variables stand within matchers of labels, as regular expressions, but
// for RateInterval, a PromQL duration, and objective, a number.
func Expand(expr string, value func(name string) string) string {
	return variable.ReplaceAllStringFunc(expr, func(v string) string { return value(v[1:]) })
}

// Defaults returns a value function for Expand by which all of d's variables
// have their defaults, and rates look back for as long as rateInterval says, as
// in "1m".
func (d *Dashboard) Defaults(rateInterval string) func(name string) string {
	return func(name string) string {
		if name == RateInterval {
			return rateInterval
		}
		for _, v := range d.Variables {
			if v.Name == name {
				return v.Default
			}
		}
		return ""
	}
}

// Choice returns the value of a variable that chooses these label values, none
// being Any. It may stand within a PromQL string.
func Choice(values ...string) string {
	if len(values) == 0 {
		return Any
	}
	var quoted []string
	for _, v := range values {
		quoted = append(quoted, escape.Replace(regexp.QuoteMeta(v)))
	}
	return strings.Join(quoted, "|")
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Panels are all of d's, in order.
func (d *Dashboard) Panels() []Panel {
	var all []Panel
	for _, r := range d.Rows {
		all = append(all, r.Panels...)
	}
	return all
}

// An Annotation marks stretches of time in all panels of all dashboards: those
// in which Expr has series of 1 or more.
type Annotation struct {
	Name string `json:"name"`
	Expr string `json:"expr"`
	Text string `json:"text"` // {{label}} stands for the label's value
	Role Role   `json:"role,omitempty"`
	// Every is how far apart Expr is to be evaluated at most: with larger steps what
	// holds for a moment is not seen.
	Every time.Duration `json:"-"`
}

// Annotations are what happened in a run that explains how its lines go on. They
// hold no variable.
func Annotations() []Annotation {
	const every = 15 * time.Second
	return []Annotation{
		{"Load phases", `max by (scenario, phase) (loadgen_phase{job=~".+"}) == 1`, "load {{scenario}}: {{phase}}", Target, every},
		{"Verdict changes", `max by (comparison, state) (verdict_state{job=~".+"}) == 1 unless max by (comparison, state) (verdict_state{job=~".+"} offset 15s) == 1`,
			"{{comparison}}: {{state}}", Effect, every},
	}
}

// All returns the dashboards, in the order in which they are read.
func All() []Dashboard {
	all := []Dashboard{verdict(), roles(), diffs(), mirror(), load(), appserver(), storage(), cacheAndRing(), processes(), slo()}
	for i := range all {
		finish(&all[i])
	}
	return all
}

// finish fills in what follows from the rest.
func finish(d *Dashboard) {
	for i, r := range d.Rows {
		for j := range r.Panels {
			p := &r.Panels[j]
			p.ID = 100*(i+1) + j + 1
			for k := range p.Queries {
				p.Queries[k].Expr = scoped(p.Queries[k].Expr)
			}
		}
	}
}

// scope is what all selectors have that don't say of which jobs they are.
const scope = `job=~"$job",instance=~"$instance"`

var selector = regexp.MustCompile(`\{[^}]*\}`)

// scoped adds scope to expr's selectors.
func scoped(expr string) string {
	return selector.ReplaceAllStringFunc(expr, func(s string) string {
		switch inner := s[1 : len(s)-1]; {
		case strings.HasPrefix(inner, "job="):
			return s
		case inner == "":
			return "{" + scope + "}"
		default:
			return "{" + scope + "," + inner + "}"
		}
	})
}

// anywhere begins the selectors of what another program than a dashboard's own
// exports: its job and instance are not those that a reader chose.
const anywhere = `job=~".+"`

// jobAndInstance choose among the programs that export a metric.
func jobAndInstance(metric string) []Variable {
	return []Variable{
		{Name: "job", Title: "Job", Description: "Programs, by the name that they are scraped under.", Default: Any, Metric: metric, Label: "job"},
		{Name: "instance", Title: "Instance", Description: "Processes of these programs.", Default: Any, Metric: metric, Label: "instance"},
	}
}

func choose(name, title, description, metric string) Variable {
	return Variable{Name: name, Title: title, Description: description, Default: Any, Metric: metric, Label: name}
}

// The parts that panels are made of.

func lines(title string, unit Unit, description string, queries ...Query) Panel {
	return Panel{Kind: TimeSeries, Title: title, Unit: unit, Description: description, Queries: queries, Width: 12, Height: 8}
}

func number(title string, unit Unit, description string, queries ...Query) Panel {
	return Panel{Kind: Stat, Title: title, Unit: unit, Description: description, Queries: queries, Width: 6, Height: 4}
}

func table(title string, unit Unit, description string, labels []string, queries ...Query) Panel {
	return Panel{Kind: Table, Title: title, Unit: unit, Description: description, Labels: labels, Queries: queries, Width: 24, Height: 9}
}

func heatmap(title, description string, q Query) Panel {
	return Panel{Kind: Heatmap, Title: title, Unit: Seconds, Description: description, Queries: []Query{q}, Width: 8, Height: 8}
}

// A stateset is a metric with a series for each state, 1 for the one that it is in.
type stateset struct {
	metric string
	by     string   // the labels that tell its subjects apart
	states []string // in order
	label  string   // whose values they are
	levels []Level  // what they mean
}

// panel shows a stateset, each subject a line: PromQL has no text for values, so
// the states are numbered from 1. Where processes differ, the last state counts.
func (s stateset) panel(title, description, legend string) Panel {
	var terms []string
	p := Panel{Kind: Timeline, Title: title, Unit: None, Description: description, Width: 24, Height: 5}
	for i, state := range s.states {
		p.States = append(p.States, State{i + 1, strings.ReplaceAll(state, "_", " "), s.levels[i]})
		terms = append(terms, strconv.Itoa(i+1)+" * "+s.metric+`{`+s.label+`="`+state+`"}`)
	}
	p.Queries = []Query{{Expr: "max by (" + s.by + ") (" + strings.Join(terms, " or ") + ")", Legend: legend}}
	return p
}

func (p Panel) size(width, height int) Panel {
	p.Width, p.Height = width, height
	return p
}

// badFrom has values mean Bad from v on, and Warn from half of that.
func (p Panel) badFrom(v float64) Panel {
	p.Thresholds = []Threshold{{v / 2, Warn}, {v, Bad}}
	return p
}

// goodFrom has values mean Bad below v.
func (p Panel) goodFrom(v float64) Panel {
	p.FromBad, p.Thresholds = true, []Threshold{{v, Good}}
	return p
}

func plain(expr, legend string) Query { return Query{Expr: expr, Legend: legend} }

func (q Query) as(r Role) Query {
	q.Role = r
	return q
}

func (q Query) traced() Query {
	q.Exemplars = true
	return q
}

func (q Query) in(u Unit) Query {
	q.Unit = u
	return q
}

// eachRole makes a query a role, from an expression and a legend in which ROLE
// stands for it.
func eachRole(expr, legend string) []Query {
	var all []Query
	for _, r := range []Role{Live, Shadow, Control} {
		all = append(all, plain(strings.ReplaceAll(expr, "ROLE", string(r)), strings.ReplaceAll(legend, "ROLE", string(r))).as(r))
	}
	return all
}

// quantiles makes a query for each quantile of a histogram, summed by labels.
func quantiles(histogram, by, legend string, qs ...string) []Query {
	var all []Query
	for _, q := range qs {
		all = append(all, plain(quantile(q, histogram, by), strings.TrimSpace("p"+strings.TrimPrefix(q, "0.")+" "+legend)))
	}
	return all
}

// quantile is the expression of one quantile, by labels or of all there is.
func quantile(q, histogram, by string) string {
	if by != "" {
		by = " by (" + by + ")"
	}
	return "histogram_quantile(" + q + ", sum" + by + " (rate(" + histogram + "[$__rate_interval])))"
}
