package report

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"darklaunch/internal/uplot"
	"darklaunch/verdict/judge"
)

var update = flag.Bool("update", false, "write the golden files again")

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// withoutLibrary leaves out what is not ours of a page.
func withoutLibrary(page []byte) string {
	s := strings.ReplaceAll(string(page), uplot.Script, "uPlot")
	return strings.ReplaceAll(s, uplot.Style, "")
}

func TestGoldens(t *testing.T) {
	for name, d := range map[string]*judge.Document{"mirrored": mirrored(), "brief": brief(), "nothing": nothing(), "attack": attack()} {
		j, err := JSON(d)
		if err != nil {
			t.Fatal(err)
		}
		junit, err := JUnit(d, false)
		if err != nil {
			t.Fatal(err)
		}
		page, err := HTML(d)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", string(j))
		golden(t, name+".txt", Text(d, false))
		golden(t, name+".md", Markdown(d, CommentLimit))
		golden(t, name+".xml", string(junit))
		golden(t, name+".html", withoutLibrary(page))
		golden(t, name+".annotations", Annotations(d))
	}
}

func TestJSONComesBack(t *testing.T) {
	for _, d := range []*judge.Document{mirrored(), brief(), nothing()} {
		b, err := JSON(d)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Read(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := JSON(back)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(b), string(again)); diff != "" {
			t.Errorf("(-once +twice):\n%s", diff)
		}
	}
	for _, bad := range []string{"", "{}", `{"schema":"verdict/v2"}`, `{"schema":"verdict/v1","novel":1}`, "[]"} {
		if _, err := Read([]byte(bad)); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestSentence(t *testing.T) {
	d := mirrored()
	d.Metrics[1].Load = nil
	for i, want := range []string{
		"p50 of /threads is 12 % faster (8 to 16 %) at 210/s, margin 5 %: passed, improved",
		"p99 of /threads is 8.6 % slower (2.1 to 15.5 %), margin 10 %: not decided, 17 more blocks, about 3 min",
		"p999 of /send is 40 % slower (−20 to 130 %) at 210/s, margin 10 %: not decided (watched, decides nothing)",
		"p99 of /admin can't be told, margin 10 %: not decided; no calls on either side",
		"errors of /send are 0.36 points more (0.26 to 0.46 points), margin 0.1 points: failed",
		"throughput of all routes is 0.37 % less (−0.4 to 1.2 %), margin 5 %: passed",
		"memory of all routes is 16 % more (−∞ to ∞ %), margin 10 %: not decided (watched, decides nothing)",
	} {
		if got := Sentence(d, &d.Metrics[i]); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	same := brief()
	same.Metrics[0].Effect = new(0.0)
	if got, want := Sentence(same, &same.Metrics[0]), "p99 of GET / is the same (−1 to 1.2 %), margin 10 %: passed"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	same.Metrics[0].Verdict, same.Metrics[0].BlocksNeeded, same.Metrics[0].NeededFor = judge.Inconclusive, 2, 10
	if got, want := Sentence(same, &same.Metrics[0]), "not decided, 1 more round, about 10 s"; !strings.HasSuffix(got, want) {
		t.Errorf("got  %s\nwant %s at its end", got, want)
	}
}

// TestTextIsForTerminals holds that nothing from outside moves the cursor, and
// that colour costs no alignment.
func TestTextIsForTerminals(t *testing.T) {
	for _, r := range Text(attack(), false) {
		if r != '\n' && (r < ' ' || r == 0x7f || r == '\u202e') {
			t.Fatalf("%U is in the text", r)
		}
	}
	colours := regexp.MustCompile("\x1b\\[[0-9]+m")
	if got := colours.ReplaceAllString(Text(mirrored(), true), ""); got != Text(mirrored(), false) {
		t.Errorf("without its colours the text is another:\n%s", cmp.Diff(Text(mirrored(), false), got))
	}
	if !strings.HasPrefix(Text(mirrored(), true)[strings.Index(Text(mirrored(), true), "\n\n")+2:], "\x1b[31m✗") {
		t.Error("the first line of a fail is not the red one")
	}
}

func TestMarkdownIsTrimmed(t *testing.T) {
	d := mirrored()
	for i := range 3000 {
		m := latency(fmt.Sprintf("/route/%d/%s", i, strings.Repeat("x", i%50)), "p99", judge.Fail, 0.3, 0.2, 0.4)
		d.Metrics = append(d.Metrics, m)
		d.Reasons = append(d.Reasons, judge.Reason{Text: "because of route " + m.Route})
	}
	whole := Markdown(d, 1<<30)
	if len(whole) < SummaryLimit/2 {
		t.Fatalf("the document makes %d bytes, want many", len(whole))
	}
	for _, limit := range []int{CommentLimit, SummaryLimit, 4096, 700} {
		got := Markdown(d, limit)
		if len(got) > limit {
			t.Errorf("got %d bytes, want at most %d", len(got), limit)
		}
		if strings.Count(got, "<details>") != strings.Count(got, "</details>") {
			t.Errorf("limit %d: a section is not closed", limit)
		}
		if len(whole) > limit && !strings.Contains(got, "Left out") {
			t.Errorf("limit %d: nothing is said of what was left out", limit)
		}
		if !strings.HasPrefix(got, "## ✗ ") {
			t.Errorf("limit %d: the verdict was left out", limit)
		}
		for line := range strings.Lines(got) {
			if strings.HasPrefix(line, "| ✗") && strings.Count(line, "|") != 8 {
				t.Errorf("limit %d: a row was cut: %q", limit, line)
			}
		}
	}
	if strings.Contains(Markdown(mirrored(), CommentLimit), "Left out") {
		t.Error("a short document was trimmed")
	}
}

// TestMarkdownHoldsTextAsText holds that of a hostile name no character is left that Markdown,
// HTML or GitHub could act on.
func TestMarkdownHoldsTextAsText(t *testing.T) {
	md := Markdown(attack(), SummaryLimit)
	for _, bad := range []string{"<script", "](", "@all", "&#64;all ", "`", "://evil", "\x1b", "\u202e", " #1"} {
		in := md
		if bad == "&#64;all " || bad == "://evil" { // which mean nothing within code
			in = regexp.MustCompile("(?s)<(code|pre)>.*?</(code|pre)>").ReplaceAllString(md, "")
		}
		if strings.Contains(in, bad) {
			t.Errorf("%q is in it", bad)
		}
	}
	for line := range strings.Lines(md) {
		if strings.HasPrefix(line, "| ") && !strings.HasSuffix(line, "|\n") {
			t.Errorf("a row goes over a line: %q", line)
		}
	}
}

func TestJUnit(t *testing.T) {
	for _, tc := range []struct {
		doc                       *judge.Document
		undecidedFails            bool
		failures, errors, skipped int
	}{
		{mirrored(), false, 3, 0, 3}, // verdict, errors, a field; p99 twice, a check of the rig
		{mirrored(), true, 3, 3, 0},
		{brief(), false, 0, 0, 0},
		{nothing(), false, 0, 0, 1},
		{nothing(), true, 0, 1, 0},
		{attack(), false, 3, 0, 5},
	} {
		b, err := JUnit(tc.doc, tc.undecidedFails)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Suites []struct {
				Name     string `xml:"name,attr"`
				Tests    int    `xml:"tests,attr"`
				Failures int    `xml:"failures,attr"`
				Errors   int    `xml:"errors,attr"`
				Skipped  int    `xml:"skipped,attr"`
				Cases    []struct {
					Name    string  `xml:"name,attr"`
					Failure *string `xml:"failure"`
					Error   *string `xml:"error"`
					Skipped *string `xml:"skipped"`
				} `xml:"testcase"`
			} `xml:"testsuite"`
		}
		if err := xml.Unmarshal(b, &got); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
		s := got.Suites[0]
		if s.Failures != tc.failures || s.Errors != tc.errors || s.Skipped != tc.skipped || s.Tests != len(s.Cases) || s.Tests == 0 {
			t.Errorf("%s, %t: got %d failures, %d errors, %d skipped, want %d, %d, %d; %d tests of %d\n%s",
				tc.doc.Comparison, tc.undecidedFails, s.Failures, s.Errors, s.Skipped, tc.failures, tc.errors, tc.skipped, s.Tests, len(s.Cases), b)
		}
		for _, c := range s.Cases {
			for _, text := range []*string{c.Failure, c.Error, c.Skipped} {
				if text != nil && *text == "" {
					t.Errorf("%s: the element's text is empty, which is all that some servers show", c.Name)
				}
			}
		}
	}
}

func TestAnnotations(t *testing.T) {
	if got := Annotations(brief()); got != "" {
		t.Errorf("a pass: got %q, want nothing", got)
	}
	d := nothing()
	if got, want := Annotations(d), "::warning title=darklaunch%3A inconclusive::nothing was measured (cure: send requests)\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	d.Verdict = judge.Fail
	d.Reasons = []judge.Reason{{Metric: "a,b", Route: "x:y", Text: "100 %\r\n::error::forged"}}
	if got, want := Annotations(d), "::error title=darklaunch%3A fail%2C a%2Cb of x%3Ay::a,b of x:y: 100 %25%0D%0A::error::forged\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range 30 {
		d.Reasons = append(d.Reasons, judge.Reason{Text: "another"})
	}
	lines := strings.Split(strings.TrimSpace(Annotations(d)), "\n")
	if len(lines) != 10 || !strings.Contains(lines[9], "and 22 more") {
		t.Errorf("got %d lines, the last %q, want 10 and what they lack", len(lines), lines[len(lines)-1])
	}
}

// TestLibrary holds that the page says whose library it has.
func TestLibrary(t *testing.T) {
	if page, err := HTML(brief()); err != nil || !strings.Contains(string(page), "github.com/leeoniya/uPlot") {
		t.Errorf("the page does not say whose library it has: %v", err)
	}
}
