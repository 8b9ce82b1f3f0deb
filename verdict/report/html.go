package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"darklaunch/internal/uplot"
	"darklaunch/verdict/judge"
)

//go:embed page.html page.css page.js
var files embed.FS

func file(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic(err) // the files are part of the binary
	}
	return string(b)
}

// HTML is the document as one page that needs no other file and asks the network
// for nothing: its policy forbids it to, and allows no script but its own. Tables
// and drawings are there without scripts; with them drawings become charts.
func HTML(d *judge.Document) ([]byte, error) {
	p := newPage(d)
	t, err := template.New("page.html").Funcs(template.FuncMap{
		"mark":       func(v judge.Verdict) string { return mark(v, judge.UseGate, false) },
		"value":      value,
		"route":      routeName,
		"bounds":     bounds,
		"difference": func(f judge.Difference) string { return difference(&f) },
		"counts":     facts[uint64],
		"facts":      facts[string],
	}).ParseFS(files, "page.html")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// page is what page.html shows.
type page struct {
	Doc                   *judge.Document
	Title, Evidence, When string
	Block                 string
	Undecided             bool
	Metrics, Live         []row
	Policy                string
	Style                 template.CSS
	Library, Script       template.JS
	Data                  pageData
}

// pageData is what the script reads.
type pageData struct {
	Charts map[string]*chart `json:"charts"`
}

// row is a metric in words, with its drawings.
type row struct {
	Class, Mark, Word, Sentence string
	Route, Name, From, To       string
	Effect, Interval, Margin    string
	Of, Against                 judge.Role
	Blocks                      int
	BlockName                   string
	Pairs                       uint64
	Shape, Offset, Discordant   string
	Open                        bool
	Bar                         template.HTML
	Charts                      []*chart
}

func newPage(d *judge.Document) *page {
	p := &page{
		Doc: d, Title: title(d), Evidence: evidence(d), Block: blocks(d, 2),
		Undecided: d.State == judge.Warming || d.State == judge.Collecting,
		Style:     template.CSS(uplot.Style + file("page.css")),
		Library:   template.JS(uplot.Script),
		Script:    template.JS(file("page.js")),
		Data:      pageData{Charts: map[string]*chart{}},
	}
	if !d.Start.IsZero() && !d.End.IsZero() {
		p.When = fmt.Sprintf("%s to %s", d.Start.UTC().Format(time.DateTime), d.End.UTC().Format(time.DateTime+" MST"))
	}
	for _, m := range ordered(d) {
		p.Metrics = append(p.Metrics, p.row(d, m))
	}
	if d.LiveHarm != nil {
		for _, m := range harm(d.LiveHarm) {
			p.Live = append(p.Live, p.row(d, m))
		}
	}
	p.Policy = fmt.Sprintf("default-src 'none'; base-uri 'none'; form-action 'none'; style-src '%s'; script-src '%s' '%s'",
		digest(string(p.Style)), digest(string(p.Library)), digest(string(p.Script)))
	return p
}

// digest is how a policy names the content of an element.
func digest(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// mostOpen rows are unfolded at first: a chart costs time to draw.
const mostOpen = 6

func (p *page) row(d *judge.Document, m *judge.Metric) row {
	r := row{
		Class: class(m), Mark: mark(m.Verdict, m.Use, false), Word: word(m), Sentence: Sentence(d, m),
		Route: m.Route, Name: m.Title(), From: value(m.Values.Of(m.Against), m.Unit), To: value(m.Values.Of(m.Of), m.Unit),
		Effect: effect(m), Interval: interval(m), Margin: allowed(m), Of: m.Of, Against: m.Against,
		Blocks: m.Blocks, BlockName: blocks(d, m.Blocks), Pairs: m.Pairs, Bar: bar(m),
		Open: rank(m) < 2 && len(p.Metrics) < mostOpen,
	}
	if s := m.Shape; s != nil {
		r.Shape = fmt.Sprintf("%s takes longer in %s %% of cases, distributions are up to %s %% apart", m.Of, percent(s.Slower), percent(s.KS))
	}
	if o := m.Offset; o != nil {
		r.Offset = fmt.Sprintf("the rig's own offset, %s against %s, is %s %%", o.Of, o.Against, percent(o.Effect))
		if o.CI != nil {
			r.Offset += fmt.Sprintf(" (%s to %s %%)", percent(o.CI.Lower), percent(o.CI.Upper))
		}
	}
	if c := m.Discordant; c != nil {
		r.Discordant = fmt.Sprintf("%s alone in %d of %d pairs, %s alone in %d, both in %d", m.Of, c.Of, c.Pairs, m.Against, c.Against, c.Both)
	}
	for _, c := range []*chart{series(d, m), curve(m)} {
		if c == nil {
			continue
		}
		c.ID = fmt.Sprintf("c%d", len(p.Data.Charts))
		p.Data.Charts[c.ID] = c
		r.Charts = append(r.Charts, c)
	}
	return r
}

// class is a word of page.css.
func class(m *judge.Metric) string {
	if m.Use == judge.UseWatch {
		return string(judge.UseWatch)
	}
	return answer(m.Verdict)
}

func bounds(i *judge.Interval, unit string) string {
	if i == nil {
		return ""
	}
	return fmt.Sprintf("%s to %s", quantity(i.Lower, unit), quantity(i.Upper, unit))
}

// facts are names with values, in order.
func facts[T any](m map[string]T) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%s %v", name, m[name]))
	}
	return cmp.Or(strings.Join(parts, ", "), "–")
}
