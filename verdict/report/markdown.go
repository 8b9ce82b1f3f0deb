package report

import (
	"fmt"
	"strings"

	"darklaunch/verdict/judge"
)

// The most bytes that GitHub takes: of a comment, and of what a step adds to a
// job's summary.
const (
	CommentLimit = 64 << 10
	SummaryLimit = 1 << 20
)

// Markdown is the document for a comment or a job summary, at most limit bytes
// long. What does not fit is left out from its end, by section and by row, and
// that is said.
func Markdown(d *judge.Document, limit int) string {
	head := fmt.Sprintf("## %s %s: %s\n\n%s\n", mark(d.Verdict, judge.UseGate, false), inline(title(d)), answer(d.Verdict), inline("On "+evidence(d)+"."))
	t := trimmed{limit: limit}
	t.write(head)
	for _, s := range sections(d) {
		t.section(s)
	}
	return t.end()
}

// A section is lines that are kept or left out one by one, between others that
// stand or fall with them.
type section struct {
	name       string
	head, tail string
	rows       []string
}

func sections(d *judge.Document) []section {
	var open, passed []string
	for _, m := range ordered(d) {
		if rank(m) < 2 {
			open = append(open, metricRow(m))
		} else {
			passed = append(passed, metricRow(m))
		}
	}
	table := "| | route | metric | from → to | effect | margin | verdict |\n|---|---|---|---|---|---|---|\n"
	return []section{
		{name: "reasons", rows: each(d.Reasons, func(r judge.Reason) string { return "- " + inline(reason(&r)) + "\n" })},
		{name: "notes", rows: each(d.Notes, func(n string) string { return "- Note: " + inline(n) + "\n" })},
		{name: "metrics that did not pass", head: table, rows: open},
		{name: "objectives", head: "| | objective | seen | verdict |\n|---|---|---|---|\n", rows: each(d.Objectives, objectiveRow)},
		{name: "differences", head: "| | route | field | kind | share | noise | verdict |\n|---|---|---|---|---|---|---|\n", rows: each(d.Differences, differenceRow)},
		folded("what it did to live", liveRows(d)),
		folded("metrics that passed or are watched", passed, table),
		folded("examples", examples(d)),
		folded("the rig", each(d.Rig.Gates, func(g judge.Gate) string {
			v := judge.Inconclusive
			if g.OK {
				v = judge.Pass
			}
			return "- " + mark(v, judge.UseGate, false) + " " + inline(g.Text) + "\n"
		})),
		folded("rules", each(d.Rules, func(r judge.DifferenceRule) string {
			return fmt.Sprintf("- %s %s hid %d differences%s\n", code(r.Path), inline(r.Kind), r.Hid, expiry(r))
		})),
	}
}

// folded is a section that a reader opens.
func folded(name string, rows []string, head ...string) section {
	return section{
		name: name, rows: rows, tail: "\n</details>\n",
		head: "<details><summary>" + name + "</summary>\n\n" + strings.Join(head, ""),
	}
}

func each[T any](of []T, row func(T) string) (rows []string) {
	for _, x := range of {
		rows = append(rows, row(x))
	}
	return rows
}

func metricRow(m *judge.Metric) string {
	return fmt.Sprintf("| %s | %s | %s | %s → %s | %s %s | %s | %s |\n", mark(m.Verdict, m.Use, false), code(m.Route), inline(m.Title()),
		value(m.Values.Of(m.Against), m.Unit), value(m.Values.Of(m.Of), m.Unit), effect(m), interval(m), allowed(m), word(m))
}

func objectiveRow(o judge.Objective) string {
	return fmt.Sprintf("| %s | %s | %s | %s |\n", mark(o.Verdict, judge.UseGate, false), code(o.Text), value(o.Value, o.Unit), answer(o.Verdict))
}

func differenceRow(f judge.Difference) string {
	noise := "–"
	if f.Noise != nil {
		noise = percent(*f.Noise) + " %"
	}
	verdict := answer(f.Verdict)
	if f.Verdict == "" {
		verdict = inline(string(f.Tier))
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s %% of %d | %s | %s |\n", mark(f.Verdict, f.Use, false), code(f.Route), code(f.Field), inline(f.Kind),
		percent(f.Rate), f.Pairs, noise, verdict)
}

func liveRows(d *judge.Document) (rows []string) {
	if d.LiveHarm == nil {
		return nil
	}
	for _, m := range harm(d.LiveHarm) {
		rows = append(rows, "- "+inline(Sentence(d, m))+"\n")
	}
	return append(rows, each(d.LiveHarm.Reasons, func(r judge.Reason) string { return "- " + inline(reason(&r)) + "\n" })...)
}

func examples(d *judge.Document) (rows []string) {
	for _, f := range d.Differences {
		for _, e := range f.Examples {
			row := fmt.Sprintf("- %s of %s: live %s, shadow %s", code(f.Field), code(f.Route), code(e.Live), code(e.Shadow))
			if e.Control != "" {
				row += ", control " + code(e.Control)
			}
			if e.Command != "" {
				row += "\n  <pre>" + escaped(e.Command) + "</pre>"
			}
			rows = append(rows, row+"\n")
		}
	}
	return rows
}

func expiry(r judge.DifferenceRule) string {
	switch {
	case r.Expired:
		return ", expired on " + inline(r.Expires)
	case r.Hid == 0:
		return ": it can go"
	}
	return ""
}

// trimmed is a text that is never longer than limit, with a note of what it lacks.
type trimmed struct {
	limit int
	b     strings.Builder
	left  []string
}

// room is for the note on what was left out.
const room = 512

func (t *trimmed) fits(n int) bool { return t.b.Len()+n <= t.limit-room }

func (t *trimmed) write(s string) {
	if t.fits(len(s)) {
		t.b.WriteString(s)
	}
}

func (t *trimmed) section(s section) {
	if len(s.rows) == 0 {
		return
	}
	if !t.fits(len("\n") + len(s.head) + len(s.rows[0]) + len(s.tail)) {
		t.left = append(t.left, fmt.Sprintf("%d of %s", len(s.rows), s.name))
		return
	}
	t.write("\n" + s.head)
	for i, row := range s.rows {
		if !t.fits(len(row) + len(s.tail)) {
			t.left = append(t.left, fmt.Sprintf("%d of %s", len(s.rows)-i, s.name))
			break
		}
		t.write(row)
	}
	t.write(s.tail)
}

func (t *trimmed) end() string {
	if len(t.left) > 0 {
		note := "\nLeft out, as it would be too long here: " + strings.Join(t.left, ", ") + ". The HTML report has all.\n"
		if t.b.Len()+len(note) <= t.limit {
			t.b.WriteString(note)
		}
	}
	return t.b.String()
}

// escaped makes each byte of ASCII that Markdown or HTML could read as something
// else a character reference. A name that begins with @ or # would still reach
// GitHub's search for mentions, unless it stands in code.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range plain(s) {
		switch {
		case r < 0x80 && !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(" ,.%()/:-'\"?=;+", r)):
			fmt.Fprintf(&b, "&#%d;", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// code is s as code.
func code(s string) string {
	if s == "" {
		return "–"
	}
	return "<code>" + escaped(s) + "</code>"
}

// inline is s as prose: an empty comment keeps what could be a mention, an issue
// or an address from being one.
func inline(s string) string {
	return strings.NewReplacer("&#64;", "&#64;<!-- -->", "&#35;", "&#35;<!-- -->", "://", ":<!-- -->//", "www.", "www<!-- -->.").Replace(escaped(s))
}
