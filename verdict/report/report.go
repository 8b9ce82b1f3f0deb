// Package report tells a verdict: as JSON, which all else is made of, as text for
// a terminal, as Markdown for a pull request, as JUnit for a build server, as
// annotations for GitHub, and as one HTML file that needs nothing beside it.
//
// All formats say the same: of each metric what it was on both sides, by how
// much they differ, how sure that is, what is allowed, and what follows. What
// comes from the traffic that was compared (routes, field names, values) is text
// in each of them, whatever it looks like.
//
// All functions are safe for concurrent use and leave the document as it is.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"darklaunch/verdict/judge"
)

// JSON is the document for machines, with a line feed at its end.
func JSON(d *judge.Document) ([]byte, error) {
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return append(b, '\n'), nil
}

// Read is the inverse of JSON. It is an error if b is not a document of this
// schema.
func Read(b []byte) (*judge.Document, error) {
	d := new(judge.Document)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, fmt.Errorf("report: not a verdict: %w", err)
	}
	if d.Schema != judge.Schema {
		return nil, fmt.Errorf("report: schema %q, want %q", d.Schema, judge.Schema)
	}
	return d, nil
}

// Text is the document for a terminal: a line for each metric, those that stand
// in the way of a pass first, then why, and last the verdict. colour marks lines
// by ANSI sequences.
func Text(d *judge.Document, colour bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", plain(title(d)))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, m := range ordered(d) {
		textRow(w, m.Route, m, colour)
	}
	for _, o := range d.Objectives {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\t\t%s\n", mark(o.Verdict, judge.UseGate, colour), plain(o.Route), plain(o.Text), value(o.Value, o.Unit), answer(o.Verdict))
	}
	if h := d.LiveHarm; h != nil {
		for _, m := range harm(h) {
			textRow(w, "live: "+m.Route, m, colour)
		}
	}
	w.Flush()
	textDifferences(&b, d, colour)
	if len(d.Reasons)+len(d.Notes) > 0 {
		b.WriteByte('\n')
	}
	for _, r := range d.Reasons {
		fmt.Fprintf(&b, "%s\n", plain(reason(&r)))
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&b, "note: %s\n", plain(n))
	}
	fmt.Fprintf(&b, "\n%s\n", last(d, colour))
	return b.String()
}

func textRow(w *tabwriter.Writer, route string, m *judge.Metric, colour bool) {
	fmt.Fprintf(w, "%s\t%s\t%s\t%s → %s\t%s %s\tmargin %s\t%s\n", mark(m.Verdict, m.Use, colour), plain(route), plain(m.Title()),
		value(m.Values.Of(m.Against), m.Unit), value(m.Values.Of(m.Of), m.Unit), effect(m), interval(m), allowed(m), word(m))
}

func textDifferences(b *strings.Builder, d *judge.Document, colour bool) {
	const most = 20
	for i, f := range d.Differences {
		if i == 0 {
			fmt.Fprintf(b, "\ndifferences\n")
		}
		if i == most {
			fmt.Fprintf(b, "  and %d more\n", len(d.Differences)-most)
			break
		}
		fmt.Fprintf(b, "%s %s\n", mark(f.Verdict, f.Use, colour), plain(difference(&f)))
	}
}

// last is the verdict in a line.
func last(d *judge.Document, colour bool) string {
	s := answer(d.Verdict)
	if colour {
		s = paint(s, d.Verdict)
	}
	if d.State == judge.Warming || d.State == judge.Collecting {
		s += fmt.Sprintf(" (%s)", d.State)
	}
	return fmt.Sprintf("verdict: %s, of %s", s, evidence(d))
}

// plain is s for a terminal or a log: what could move its cursor is replaced.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '\ufffd'
		}
		return r
	}, s)
}

func mark(v judge.Verdict, use judge.Use, colour bool) string {
	if use == judge.UseWatch || v == "" {
		if colour {
			return "\x1b[39m·\x1b[0m" // as many bytes as the others, so that columns hold
		}
		return "·"
	}
	s := map[judge.Verdict]string{judge.Pass: "✓", judge.Fail: "✗"}[v]
	if s == "" {
		s = "?"
	}
	if colour {
		return paint(s, v)
	}
	return s
}

func paint(s string, v judge.Verdict) string {
	code := map[judge.Verdict]string{judge.Pass: "32", judge.Fail: "31"}[v]
	if code == "" {
		code = "33"
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
