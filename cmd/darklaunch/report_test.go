package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"darklaunch/internal/strictyaml"
	"darklaunch/internal/testenv/browser"
	"darklaunch/verdict/report"
)

// TestReportPage opens reports from disk in a browser, narrow and wide: the browser
// has nothing to complain of, asks for nothing but the page, and finds hostile
// names to be text.
func TestReportPage(t *testing.T) {
	tab := browser.Open(t)
	for _, name := range []string{"mirrored", "brief", "nothing", "attack"} {
		d, err := report.Read([]byte(readFile(t, "../../verdict/report/testdata/"+name+".json")))
		if err != nil {
			t.Fatal(err)
		}
		page, err := report.HTML(d)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "report.html")
		if err := os.WriteFile(file, page, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, width := range []int{360, 1280} {
			tab.Requests()
			text, picture, faults := tab.Look(t, "file://"+file, width)
			for _, f := range faults {
				t.Errorf("%s, %d px: %s", name, width, f)
			}
			if !strings.Contains(text, string(d.Verdict)) {
				t.Errorf("%s, %d px: the page lacks the verdict %s:\n%s", name, width, d.Verdict, text)
			}
			if name == "attack" && !strings.Contains(text, "<script>alert(1)</script>") {
				t.Errorf("%s, %d px: the hostile name is not shown as it is", name, width)
			}
			if asked := tab.Requests(); !slices.Equal(asked, []string{"file://" + file}) {
				t.Errorf("%s, %d px: the page asked for %q, want itself alone", name, width, asked)
			}
			if dir := os.Getenv(browser.Artefacts); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, "report-"+name+map[int]string{360: "-narrow", 1280: "-wide"}[width]+".png"), picture, 0o644); err != nil {
					t.Error(err)
				}
			}
		}
		charts := browser.Eval[int](t, tab, "document.querySelectorAll('.uplot canvas').length")
		if want := name == "mirrored"; (charts > 0) != want && name != "attack" {
			t.Errorf("%s: got %d charts, want some: %t", name, charts, want)
		}
	}
}

// TestReportPageWithoutScripts holds that tables, sentences and drawings are there
// when no script runs.
func TestReportPageWithoutScripts(t *testing.T) {
	tab := browser.Open(t)
	d, err := report.Read([]byte(readFile(t, "../../verdict/report/testdata/mirrored.json")))
	if err != nil {
		t.Fatal(err)
	}
	page, err := report.HTML(d)
	if err != nil {
		t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(page), `<script type="application/json"`)
	_, end, _ := strings.Cut(after, "</body>")
	file := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(file, []byte(before+"</body>"+end), 0o644); err != nil {
		t.Fatal(err)
	}
	text, _, faults := tab.Look(t, "file://"+file, 360)
	for _, f := range faults {
		t.Error(f)
	}
	for _, want := range []string{"p99 of /threads is 8.6 % slower (2.1 to 15.5 %) at 210/s, margin 10 %: not decided, 17 more blocks, about 3 min", "$.threads[*].snippet", "41.2ms → 44.7ms"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	// On paper what is folded is open.
	folded := "[...document.querySelectorAll('details:not([open]) table')].filter(t => t.getBoundingClientRect().height > 10 && t.checkVisibility({contentVisibilityAuto: true})).length"
	background := "getComputedStyle(document.body).backgroundColor"
	seen := func(media emulation.SetEmulatedMediaParams) (tables int, colour string) {
		if _, err := chromedp.Call(tab.Ctx, emulation.SetEmulatedMedia, media); err != nil {
			t.Fatal(err)
		}
		return browser.Eval[int](t, tab, folded), browser.Eval[string](t, tab, background)
	}
	light := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "light"}}
	onScreen, white := seen(emulation.SetEmulatedMediaParams{Features: light})
	onPaper, _ := seen(emulation.SetEmulatedMediaParams{Media: "print", Features: light})
	if onScreen != 0 || onPaper == 0 {
		t.Errorf("got %d folded tables to see on the screen and %d on paper, want none and some", onScreen, onPaper)
	}
	_, black := seen(emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
	if white != "rgb(255, 255, 255)" || black == white {
		t.Errorf("got the backgrounds %s and, in the dark, %s", white, black)
	}
	drawings, err := chromedp.Run(tab.Ctx, chromedp.Evaluate[int]("[...document.querySelectorAll('details[open] [data-chart] svg')].filter(s => s.getBoundingClientRect().width > 100).length"))
	if err != nil {
		t.Fatal(err)
	}
	if drawings == 0 {
		t.Error("no drawing is seen")
	}
}

// TestReportSchema holds a document with one of everything to the published schema,
// and plants faults that it must see.
func TestReportSchema(t *testing.T) {
	good := []byte(readFile(t, "../../verdict/report/testdata/mirrored.json"))
	checkSchema(t, "report", good)
	schema, err := strictyaml.Compile(schemaText("report"))
	if err != nil {
		t.Fatal(err)
	}
	metric := func(d map[string]any) map[string]any { return d["metrics"].([]any)[0].(map[string]any) }
	for name, plant := range map[string]func(map[string]any){
		"another schema":       func(d map[string]any) { d["schema"] = "verdict/v2" },
		"no verdict":           func(d map[string]any) { delete(d, "verdict") },
		"no such verdict":      func(d map[string]any) { d["verdict"] = "maybe" },
		"an unknown key":       func(d map[string]any) { d["score"] = 72 },
		"a metric without use": func(d map[string]any) { delete(metric(d), "role") },
		"half an interval":     func(d map[string]any) { metric(d)["ci"] = []any{1.0} },
		"a negative count":     func(d map[string]any) { metric(d)["pairs"] = -1 },
		"an unknown tier":      func(d map[string]any) { d["differences"].([]any)[0].(map[string]any)["tier"] = "likely" },
	} {
		var d map[string]any
		if err := json.Unmarshal(good, &d); err != nil {
			t.Fatal(err)
		}
		plant(d)
		b, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(v) == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
