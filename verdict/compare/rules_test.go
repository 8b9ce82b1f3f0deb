package compare

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var now = time.Date(2027, 1, 15, 12, 0, 0, 0, time.UTC)

func schema(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../../cmd/darklaunch/schemas/differences.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parse reads rules, to which it adds what all need.
func parse(t testing.TB, text string) *Rules {
	t.Helper()
	text = strings.ReplaceAll(text, "- path:", "- owner: ann\n  expires: 2027-01-31\n  path:")
	r, err := ParseRules([]byte(text), schema(t), now)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return r
}

func path(t testing.TB, text string) Path {
	t.Helper()
	p, err := ParsePath(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return p
}

func TestParseRules(t *testing.T) {
	got, err := ParseRules([]byte(`
headers:
- names: [Content-Type, ETag]
- {route: GET /x, names: []}
rules:
- {path: 'json:$.items[*].at', degrade: [type, length, format], owner: ann, expires: 2027-01-15, why: its clock}
- {route: GET /x, path: "header:Date", ignore: true, owner: bob, expires: "2027-02-01"}
- {path: 'json:$.score', tolerance: {absolute: 0.5, relative: 1%}, owner: bob, expires: 2027-02-01}
- {path: 'json:$.n', degrade: [range], range: [0, 9], owner: bob, expires: 2027-02-01}
- {path: proto:threads, array: keyed, key: id, owner: bob, expires: 2027-02-01}
margins:
- {path: 'json:$.score', margin: 0.1pt}
- {route: GET /x, path: 'json:$.score', margin: 2%}
`), schema(t), now)
	if err != nil {
		t.Fatal(err)
	}
	day := time.Date(2027, 2, 1, 0, 0, 0, 0, time.UTC)
	want := &Rules{
		Headers: []Headers{{"*", []string{"content-type", "etag"}}, {"GET /x", []string{}}},
		Rules: []Rule{
			{Route: "*", Path: path(t, "json:$.items[*].at"), Degrade: Types | Lengths | Formats, Owner: "ann", Expires: time.Date(2027, 1, 15, 0, 0, 0, 0, time.UTC), Why: "its clock"},
			{Route: "GET /x", Path: path(t, "header:date"), Ignore: true, Owner: "bob", Expires: day},
			{Route: "*", Path: path(t, "json:$.score"), Tolerance: Tolerance{0.5, 0.01}, Owner: "bob", Expires: day},
			{Route: "*", Path: path(t, "json:$.n"), Degrade: Range, Range: [2]float64{0, 9}, Owner: "bob", Expires: day},
			{Route: "*", Path: path(t, "proto:threads"), Array: Keyed, Key: "id", Owner: "bob", Expires: day},
		},
		Margins: []Margin{{"*", path(t, "json:$.score"), 0.001}, {"GET /x", path(t, "json:$.score"), 0.02}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Rule{}, "line"), cmp.AllowUnexported(Path{})); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"json:$.score", "json:$.n"}, got.Clear()); diff != "" {
		t.Errorf("what must be in the clear (-want +got):\n%s", diff)
	}
	for route, want := range map[string]float64{"GET /x": 0.02, "GET /y": 0.001} {
		if m, ok := got.Margin(route, "json:$.score"); !ok || m != want {
			t.Errorf("margin on %s: got %v, %v, want %v", route, m, ok, want)
		}
	}
	if _, ok := got.Margin("GET /x", "json:$.other"); ok {
		t.Error("margin of a field that has none: got one")
	}
}

// TestReference holds that the file in the reference is one.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/differences.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, ok := strings.Cut(rest, "```")
	if r, err := ParseRules([]byte(text), schema(t), now); !ok || err != nil || len(r.Rules) != 5 || len(r.Margins) != 2 {
		t.Errorf("got %v, %v, want 5 rules and 2 margins", r, err)
	}
	for _, k := range kindNames {
		if !strings.Contains(string(page), k) {
			t.Errorf("the page has no kind %s", k)
		}
	}
}

// TestParseRulesRefuses has files that are wrong, and what is said of them.
func TestParseRulesRefuses(t *testing.T) {
	const rest = ", owner: ann, expires: 2027-01-31}"
	for name, tt := range map[string]struct{ text, want string }{
		"expired":             {"rules:\n- {path: body, ignore: true, owner: ann, expires: 2027-01-14}", "2: rules[0].expires: 2027-01-14 is past: ask ann whether body still differs"},
		"no owner":            {"rules:\n- {path: body, ignore: true, expires: 2027-02-01}", "2: rules[0]: missing property"},
		"no end":              {"rules:\n- {path: body, ignore: true, owner: ann}", "2: rules[0]: missing property"},
		"no day":              {"rules:\n- {path: body, ignore: true, owner: ann, expires: soon}", "2: rules[0]: expires: got \"soon\", want a day"},
		"an unknown key":      {"rules:\n- {path: body, ignored: true" + rest, "2: rules[0].ignored: unknown key"},
		"nothing to do":       {"rules:\n- {path: body" + rest, "2: rules[0]: want one of ignore, degrade"},
		"two things":          {"rules:\n- {path: body, ignore: true, degrade: [type]" + rest, "2: rules[0]: want one of"},
		"no aspect":           {"rules:\n- {path: body, degrade: []" + rest, "2: rules[0]: degrade: want some of"},
		"range of nothing":    {"rules:\n- {path: body, degrade: [range]" + rest, "2: rules[0]: want degrade: [range] together"},
		"range upside down":   {"rules:\n- {path: body, degrade: [range], range: [2, 1]" + rest, "2: rules[0]: want degrade: [range] together"},
		"no tolerance":        {"rules:\n- {path: 'json:$.a', tolerance: {}" + rest, "2: rules[0]: tolerance: want"},
		"tolerance of a text": {"rules:\n- {path: 'json:$.a', tolerance: {relative: some}" + rest, "2: rules[0].tolerance.relative: got \"some\", want a share"},
		"keyed by nothing":    {"rules:\n- {path: 'json:$.a', array: keyed" + rest, "2: rules[0]: want array: keyed together"},
		"array in a header":   {"rules:\n- {path: header:date, array: set" + rest, "2: rules[0]: array and tolerance are of json:"},
		"an index":            {"rules:\n- {path: 'json:$.a[0]', ignore: true" + rest, "2: rules[0].path: path \"json:$.a[0]\": want .NAME"},
		"twice":               {"rules:\n- {path: body, ignore: true" + rest + "\n- {path: body, ignore: true" + rest, "3: rules[1]: says what line 2 says"},
		"margin over all":     {"margins:\n- {path: body, margin: 101%}", "2: margins[0].margin: got \"101%\", want a share"},
	} {
		_, err := ParseRules([]byte(tt.text), schema(t), now)
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s…", name, err, tt.want)
		}
	}
}

func TestParsePathRefuses(t *testing.T) {
	for _, text := range []string{
		"", "json", "json:", "json:a", "json:$.", "json:$..a", "json:$a", "json:$.a[", "json:$.a[1]", "json:$.a b", "json:$['']", "json:$['a", "header:", "proto:a..b",
		"cookie:a", "$.a", "json:$" + strings.Repeat(".a", MaxDepth+1),
	} {
		if p, err := ParsePath(text); err == nil {
			t.Errorf("%q: got %s, want an error", text, p)
		}
	}
}

// TestPathText holds that a path is read as it is written.
func TestPathText(t *testing.T) {
	step := rapid.SampledFrom([]string{".a", ".b_c-2", "[*]", ".*", "['odd name']", "['a.b']", "['*']"})
	rapid.Check(t, func(t *rapid.T) {
		steps := strings.Join(rapid.SliceOfN(step, 1, 8).Draw(t, "steps"), "")
		text := pathText(rapid.SampledFrom([]string{placeJSON, placeForm, placeProto}).Draw(t, "place"), steps)
		p, err := ParsePath(text)
		if err != nil || p.String() != text {
			t.Errorf("got %s, %v, want %s", p, err, text)
		}
	})
}
