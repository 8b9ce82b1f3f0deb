package report

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"strings"

	"darklaunch/verdict/judge"
)

// JUnit is the document as a test suite: a case for each metric, objective, gating
// difference and check of the rig, and one, always there, for the verdict. What
// was not decided is skipped, or an error if undecidedFails. The text of an element holds the whole
// explanation, as some servers show neither its type nor its message.
func JUnit(d *judge.Document, undecidedFails bool) ([]byte, error) {
	s := suite{Name: cmp.Or(d.Comparison, "darklaunch"), undecidedFails: undecidedFails}
	overall := evidence(d)
	for _, r := range d.Reasons {
		overall += "\n" + reason(&r)
	}
	for _, n := range d.Notes {
		overall += "\nnote: " + n
	}
	s.add("verdict", string(d.Mode), d.Verdict, "verdict", overall)
	rows := ordered(d)
	if d.LiveHarm != nil {
		rows = append(rows, harm(d.LiveHarm)...)
	}
	for _, m := range rows {
		if m.Use == judge.UseWatch {
			s.watch(m.Route, m.Title(), Sentence(d, m))
			continue
		}
		s.add(m.Route, m.Title(), m.Verdict, m.Name, Sentence(d, m))
	}
	for _, o := range d.Objectives {
		s.add(o.Route, o.Text, o.Verdict, "objective", fmt.Sprintf("%s: %s, seen %s", o.Text, o.Verdict, value(o.Value, o.Unit)))
	}
	for _, f := range d.Differences {
		if f.Use == judge.UseGate {
			s.add(f.Route, f.Field+" "+f.Kind, f.Verdict, "difference", difference(&f))
		}
	}
	for _, g := range d.Rig.Gates {
		v := judge.Pass
		if !g.OK {
			v = judge.Inconclusive
		}
		s.add("rig", cmp.Or(g.Name, "gate")+roleSuffix(g.Role), v, g.Name, g.Text)
	}
	b, err := xml.MarshalIndent(suites{Suites: []suite{s}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

func roleSuffix(r judge.Role) string {
	if r == "" {
		return ""
	}
	return " of " + string(r)
}

type suites struct {
	XMLName xml.Name `xml:"testsuites"`
	Suites  []suite  `xml:"testsuite"`
}

type suite struct {
	Name     string     `xml:"name,attr"`
	Tests    int        `xml:"tests,attr"`
	Failures int        `xml:"failures,attr"`
	Errors   int        `xml:"errors,attr"`
	Skipped  int        `xml:"skipped,attr"`
	Cases    []testcase `xml:"testcase"`

	undecidedFails bool
}

type testcase struct {
	Class   string `xml:"classname,attr"`
	Name    string `xml:"name,attr"`
	Failure *told  `xml:"failure,omitempty"`
	Error   *told  `xml:"error,omitempty"`
	Skipped *told  `xml:"skipped,omitempty"`
	Out     string `xml:"system-out,omitempty"`
}

type told struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

func (s *suite) add(class, name string, v judge.Verdict, kind, text string) {
	c := testcase{Class: class, Name: name}
	// Line ends in an attribute would be lost, and the first line says enough.
	message, _, _ := strings.Cut(text, "\n")
	t := &told{Message: message, Type: kind, Text: text}
	switch {
	case v == judge.Pass:
		c.Out = text
	case v == judge.Fail:
		c.Failure = t
		s.Failures++
	case s.undecidedFails:
		c.Error = t
		s.Errors++
	default:
		t.Type = "" // skipped has none
		c.Skipped = t
		s.Skipped++
	}
	s.Tests++
	s.Cases = append(s.Cases, c)
}

// watch adds what passes whatever it is.
func (s *suite) watch(class, name, text string) {
	s.Tests++
	s.Cases = append(s.Cases, testcase{Class: class, Name: name, Out: text})
}
