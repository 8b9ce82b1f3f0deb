package report

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"darklaunch/verdict/judge"
)

// A chart is some lines over the same places, for the page's script, and as a
// drawing for where that does not run.
type chart struct {
	ID    string        `json:"-"`
	Title string        `json:"-"`
	SVG   template.HTML `json:"-"`
	X     string        `json:"x"`
	Unit  string        `json:"unit"`
	Ticks []string      `json:"ticks,omitempty"`
	Lines []chartLine   `json:"lines"`
}

type chartLine struct {
	Role   judge.Role `json:"role"`
	Colour string     `json:"colour"` // a, b or c of page.css
	Values []*float64 `json:"values"` // nil: nothing there
}

func (l *chartLine) empty() bool {
	for _, v := range l.Values {
		if v != nil {
			return false
		}
	}
	return true
}

// series is a metric block by block, nil if there is nothing to draw.
func series(d *judge.Document, m *judge.Metric) *chart {
	c := &chart{Title: strings.ToUpper(blocks(d, 1)[:1]) + blocks(d, 1)[1:] + " by " + blocks(d, 1), X: blocks(d, 1), Unit: m.Unit}
	for _, r := range []struct {
		role   judge.Role
		colour string
	}{{m.Against, "a"}, {m.Of, "b"}, {judge.Control, "c"}} {
		if r.role == judge.Control && r.colour == "c" && (m.Against == judge.Control || m.Of == judge.Control) {
			continue
		}
		l := chartLine{Role: r.role, Colour: r.colour}
		for i := range m.Series {
			l.Values = append(l.Values, known(m.Series[i].Values.Of(r.role)))
		}
		if !l.empty() {
			c.Lines = append(c.Lines, l)
		}
	}
	return c.drawn()
}

// curve is both distributions quantile by quantile.
func curve(m *judge.Metric) *chart {
	if m.Shape == nil {
		return nil
	}
	c := &chart{Title: "By quantile", X: "quantile", Unit: "s"}
	against, of := chartLine{Role: m.Against, Colour: "a"}, chartLine{Role: m.Of, Colour: "b"}
	for _, q := range m.Shape.Curve {
		c.Ticks = append(c.Ticks, fmt.Sprintf("p%g", q.Q*100))
		against.Values, of.Values = append(against.Values, known(&q.Against)), append(of.Values, known(&q.Of))
	}
	for _, l := range []chartLine{against, of} {
		if !l.empty() {
			c.Lines = append(c.Lines, l)
		}
	}
	return c.drawn()
}

// known is v, nil if that is no number.
func known(v *float64) *float64 {
	if v == nil || math.IsNaN(*v) || math.IsInf(*v, 0) {
		return nil
	}
	return v
}

// The size of a drawing, in px.
const (
	wide, high  = 640, 120
	left, upper = 8.0, 16.0
)

// drawn adds the drawing to c; it is nil if c has no lines.
func (c *chart) drawn() *chart {
	if len(c.Lines) == 0 {
		return nil
	}
	low, top := math.Inf(1), math.Inf(-1)
	for _, l := range c.Lines {
		for _, v := range l.Values {
			if v != nil {
				low, top = min(low, *v), max(top, *v)
			}
		}
	}
	if top == low {
		low, top = low-math.Abs(low)/10-1e-12, top+math.Abs(top)/10+1e-12
	}
	n := max(1, len(c.Lines[0].Values)-1)
	at := func(i int, v float64) (x, y float64) {
		return left + float64(i)/float64(n)*(wide-2*left), upper + (top-v)/(top-low)*(high-2*upper)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`, wide, high, wide, high, c.Title)
	fmt.Fprintf(&b, `<text x="%g" y="11">%s</text><text x="%g" y="%d">%s</text>`, left, quantity(top, c.Unit), left, high-4, quantity(low, c.Unit))
	for _, l := range c.Lines {
		l.draw(&b, at)
	}
	b.WriteString("</svg>")
	c.SVG = template.HTML(b.String()) // made of numbers and words of this package
	return c
}

// draw draws the line with a gap where nothing is, and a dot for each value.
func (l *chartLine) draw(b *strings.Builder, at func(int, float64) (x, y float64)) {
	var path, dots strings.Builder
	pen := "M"
	for i, v := range l.Values {
		if v == nil {
			pen = "M"
			continue
		}
		x, y := at(i, *v)
		fmt.Fprintf(&path, "%s%.1f %.1f", pen, x, y)
		fmt.Fprintf(&dots, `<circle class="d%s" cx="%.1f" cy="%.1f" r="2"/>`, l.Colour, x, y)
		pen = "L"
	}
	fmt.Fprintf(b, `<path class="s%s" d="%s"/>%s`, l.Colour, path.String(), dots.String())
}

// bar draws an interval against its margin, with 0 in the middle.
func bar(m *judge.Metric) template.HTML {
	if m.CI == nil || m.Effect == nil {
		return ""
	}
	const width, height, middle = 320, 24, 12
	reach := max(2*limit(m), 1e-9)
	for _, v := range []float64{m.CI.Lower, m.CI.Upper, *m.Effect} {
		if known(&v) != nil {
			reach = max(reach, math.Abs(v)*1.1)
		}
	}
	at := func(v float64) float64 {
		switch {
		case math.IsNaN(v):
			v = 0
		case math.Abs(v) > reach:
			v = math.Copysign(reach, v)
		}
		return width/2 + v/reach*(width/2-2)
	}
	margin := limit(m)
	if m.Name == judge.MetricThroughput {
		margin = -margin
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="%s" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="interval against margin">`, class(m), width, height, width, height)
	fmt.Fprintf(&b, `<line class="axis" x1="0" x2="%d" y1="%d" y2="%d"/><line class="axis" x1="%.1f" x2="%.1f" y1="3" y2="21"/>`, width, middle, middle, at(0), at(0))
	fmt.Fprintf(&b, `<line class="margin" x1="%.1f" x2="%.1f" y1="1" y2="23"/>`, at(margin), at(margin))
	fmt.Fprintf(&b, `<line class="bar" x1="%.1f" x2="%.1f" y1="%d" y2="%d"/><circle class="dot" cx="%.1f" cy="%d" r="4"/></svg>`, at(m.CI.Lower), at(m.CI.Upper), middle, middle, at(*m.Effect), middle)
	return template.HTML(b.String()) // made of numbers and words of this package
}
