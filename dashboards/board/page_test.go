package board

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/browser"
	"darklaunch/internal/testenv/install"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// address is the site's page at moment.
func (s *site) address() string { return s.URL + "/?end=" + moment.Format(time.RFC3339) }

// open opens the page and waits until all panels have been asked for.
func (s *site) open(t *testing.T, tab *browser.Tab, width, height int64) {
	t.Helper()
	if err := chromedp.Do(tab.Ctx, chromedp.EmulateViewport(width, height), chromedp.Navigate(s.address())); err != nil {
		t.Fatal(err)
	}
	tab.Await(t, `document.documentElement.dataset.drawn === "all"`)
}

// media sets what the page is shown on, and the reader's preference.
func media(t *testing.T, tab *browser.Tab, kind, scheme string) {
	t.Helper()
	m := emulation.SetEmulatedMediaParams{Media: kind, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}
	if _, err := chromedp.Call(tab.Ctx, emulation.SetEmulatedMedia, m); err != nil {
		t.Fatal(err)
	}
}

func text(t *testing.T, tab *browser.Tab) string {
	t.Helper()
	return browser.Eval[string](t, tab, "document.body.innerText")
}

func picture(t *testing.T, tab *browser.Tab, dir, name string) {
	t.Helper()
	png, err := chromedp.Run(tab.Ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPage looks at the page narrow and wide, light and dark: it fits, the browser
// has nothing to complain of, nobody but its host is asked, and what an operator
// wants to know is there.
func TestPage(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{Verdict: true, Mirror: AllActions()}, nil)
	for scheme, widths := range map[string][]int64{"light": {360, 1280}, "dark": {360, 768}} {
		media(t, tab, "", scheme)
		for _, width := range widths {
			s.open(t, tab, width, 900)
			name := fmt.Sprintf("%s-%d", scheme, width)
			if n := tab.Overflow(t); n > 0 {
				t.Errorf("%s: %d px too wide", name, n)
			}
			for _, c := range tab.Complaints() {
				t.Errorf("%s: %s", name, c)
			}
			for _, url := range tab.Requests() {
				if !strings.HasPrefix(url, s.URL+"/") {
					t.Errorf("%s: the page asked for %s, want its host alone", name, url)
				}
			}
			got := text(t, tab)
			for _, want := range []string{
				"Errors of /send are 0.36 points more on shadow (0.26 to 0.46 points), margin 0.1 points.",
				"what would settle it: 17 more blocks", "Latency p99", "41.2 ms → 44.7 ms", "$.threads[*].snippet", `"Re: hello"`,
				"Mirroring is on: 10 % of the users are copied.", "84 lane full", "1 alert is firing, of 3 rules.", "1 program that is scraped does not answer: appserver at 127.0.0.1:7001.", "fine from", "95 %",
			} {
				if !strings.Contains(strings.ReplaceAll(got, "\u00a0", " "), want) {
					t.Errorf("%s: the page lacks %q", name, want)
				}
			}
			if strings.Contains(got, "Prometheus is being asked") {
				t.Errorf("%s: a panel was not drawn", name)
			}
			// Painting is compared with what a reader would notice, not with a busy machine's worst.
			paint := browser.Eval[float64](t, tab, `performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? -1`)
			t.Logf("%s: first paint after %.0f ms", name, paint)
			if paint < 0 || paint > 10_000 {
				t.Errorf("%s: first paint after %.0f ms", name, paint)
			}
			picture(t, tab, os.Getenv(browser.Artefacts), "board-"+name)
		}
	}
	if n := browser.Eval[int](t, tab, "document.querySelectorAll('.panel canvas').length"); n < 35 {
		t.Errorf("got %d charts, want at least 35", n)
	}
}

// TestAccessible asks axe-core, which is shown to find a planted fault.
func TestAccessible(t *testing.T) {
	axe := string(read(t, testenv.Need(t, install.AxeCore)[0]))
	tab := browser.Open(t)
	s := newSite(t, Config{Verdict: true, Mirror: AllActions()}, nil)
	const run = `axe.run(document, {resultTypes: ["violations"]%s}).then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical")
		.map(v => v.id + ": " + v.help + " at " + v.nodes.slice(0, 4).map(n => n.target.join(" ")).join(", ")))`
	for scheme, width := range map[string]int64{"light": 1280, "dark": 360} {
		media(t, tab, "", scheme)
		s.open(t, tab, width, 900)
		browser.Eval[bool](t, tab, "(() => {"+axe+"; return true})()")
		for _, v := range browser.Eval[[]string](t, tab, fmt.Sprintf(run, "")) {
			t.Errorf("%s, %d px: %s", scheme, width, v)
		}
	}
	browser.Eval[bool](t, tab, `(() => { const b = document.createElement("button"); document.querySelector("main").append(b); return true })()`)
	if found := browser.Eval[[]string](t, tab, fmt.Sprintf(run, `, runOnly: ["button-name"]`)); len(found) != 1 || !strings.Contains(found[0], "button-name") {
		t.Errorf("with a button that has no name: found %q, want it", found)
	}
}

// TestSwitches uses the mirror's switches by keyboard: each asks first, Escape means
// no, and what was done is told and stays in the log.
func TestSwitches(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{Mirror: AllActions()}, nil)
	s.open(t, tab, 1280, 900)
	press := func(key string) {
		t.Helper()
		if err := chromedp.Do(tab.Ctx, chromedp.KeyEvent(key)); err != nil {
			t.Fatal(err)
		}
	}
	focus := func(name string) {
		t.Helper()
		tab.Await(t, fmt.Sprintf(`[...document.querySelectorAll("button")].some(b => b.textContent === %q && !b.disabled)`, name))
		browser.Eval[bool](t, tab, fmt.Sprintf(`(() => { [...document.querySelectorAll("button")].find(b => b.textContent === %q).focus(); return true })()`, name))
	}
	focus("Stop mirroring")
	press(kb.Enter)
	tab.Await(t, `document.querySelector("dialog").open`)
	press(kb.Escape)
	tab.Await(t, `!document.querySelector("dialog").open`)
	for _, step := range []struct{ button, says, asked string }{
		{"Sample up to 20\u00a0%", "The sample is 20\u00a0% of the users, it was 10\u00a0%.", "PUT /api/v1/sample"},
		{"Sample down to 10\u00a0%", "The sample is 10\u00a0% of the users, it was 20\u00a0%.", "PUT /api/v1/sample"},
		{"Stop mirroring", "Mirroring is off: no copies are sent.", "POST /api/v1/kill"},
		{"Resume mirroring", "Mirroring is on again.", "POST /api/v1/resume"},
	} {
		focus(step.button)
		press(kb.Enter)
		tab.Await(t, `document.querySelector("dialog").open`)
		press(kb.Enter)
		tab.Await(t, fmt.Sprintf(`document.getElementById("said").textContent === %q && document.getElementById("log").innerText.includes(%q)`, step.says, step.says))
	}
	tab.Await(t, `document.activeElement.textContent === "Stop mirroring"`) // where the button was that is gone
	s.mu.Lock()
	defer s.mu.Unlock()
	if want := []string{"PUT /api/v1/sample", "PUT /api/v1/sample", "POST /api/v1/kill", "POST /api/v1/resume"}; !slices.Equal(s.asked, want) {
		t.Errorf("the mirror was asked %q, want %q: an Escape asks nothing", s.asked, want)
	}
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
}

// TestWithoutActions holds that a mirror may be shown without its switches, and that
// one which refuses is told of.
func TestWithoutActions(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{Mirror: []Action{}}, nil)
	s.open(t, tab, 768, 900)
	tab.Await(t, `document.body.innerText.includes("Mirroring is on")`)
	if n := browser.Eval[int](t, tab, `document.querySelectorAll("#switches button, #sampling button").length`); n != 0 {
		t.Errorf("got %d switches, want none", n)
	}
}

// kindOf is what Prometheus answers a request with.
func kindOf(r *http.Request) string {
	if r.URL.Path == "/api/v1/query" {
		return "vector"
	}
	return "matrix"
}

// failing answers as one that is broken.
func failing(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

// TestBadInput breaks what the page asks, and wants it told in words, in bounds and as
// text. The browser logs a line of its own of an answer that is an error.
func TestBadInput(t *testing.T) {
	tab := browser.Open(t)
	hostile := `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`
	events := func(lines string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, lines)
		}
	}
	for _, tc := range []struct {
		name   string
		cfg    Config
		change func(*site)
		says   []string
		noisy  bool // the browser logs failed requests
	}{
		{name: "nothing there", says: []string{"No verdict is asked for.", "No mirror is given"}},
		{name: "no target", change: func(s *site) {
			s.prom = func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":[]}}`, kindOf(r))
			}
			s.rules = []byte(`{"status":"success","data":{"groups":[]}}`)
		}, says: []string{"There is no data: no program that is scraped says anything of it", "Prometheus evaluates no alerting rules."}},
		{name: "Prometheus fails", change: func(s *site) {
			s.prom = failing(500, `{"status":"error","error":"out of memory `+strings.Repeat("x", 5000)+`"}`)
		}, says: []string{"Prometheus answers 500: out of memory xxx", "questions to Prometheus have no answer."}, noisy: true},
		{name: "Prometheus answers garbage", change: func(s *site) { s.prom = failing(200, "<html>") }, says: []string{"Prometheus answers with what is no JSON."}},
		{name: "Prometheus answers something else", change: func(s *site) { s.prom = failing(200, `{"status":"success","data":[1]}`) }, says: []string{"Prometheus answers with what is no answer to the query."}},
		{name: "Prometheus answers without end", change: func(s *site) {
			s.prom = func(w http.ResponseWriter, r *http.Request) {
				for chunk := bytes.Repeat([]byte("x"), 1<<16); r.Context().Err() == nil; {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			}
		}, says: []string{"Prometheus answers with more than 8 MiB."}},
		{name: "labels with markup", change: func(s *site) {
			s.prom = func(w http.ResponseWriter, r *http.Request) {
				var series []string
				for i := range 60 {
					series = append(series, fmt.Sprintf(`{"metric":{"route":%q,"method":%q,"op":%q,"cache":%q},"values":[[%d,"%d"]],"value":[%d,"%d"]}`,
						hostile, fmt.Sprint(i, hostile), hostile, fmt.Sprint(i, hostile), moment.Unix(), i+1, moment.Unix(), i))
				}
				fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":[%s]}}`, kindOf(r), strings.Join(series, ","))
			}
		}, says: []string{"<script>document.title", "series are not drawn"}},
		{name: "old values", change: func(s *site) {
			s.prom = func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[%d,"1"]]}]}}`, moment.Add(-10*time.Minute).Unix())
			}
		}, says: []string{"Nothing has come for 10 min: the last value is of"}},
		{name: "a hostile verdict", cfg: Config{Verdict: true}, change: func(s *site) { s.verdict = read(t, "../../verdict/report/testdata/attack.json") },
			says: []string{"<script>alert(1)</script>"}},
		{name: "no verdict yet", cfg: Config{Verdict: true}, change: func(s *site) { s.events = events(": nothing new\n\n") }, says: []string{"has ended the stream", "It is tried again."}},
		{name: "a verdict's stream ends", cfg: Config{Verdict: true}, change: func(s *site) {
			s.events = func(w http.ResponseWriter, r *http.Request) { events("data: "+s.summary()+"\n\n")(w, r) }
		}, says: []string{"The verdict has ended the stream. What is shown is of", "Errors of /send"}},
		{name: "a verdict's stream is garbage", cfg: Config{Verdict: true}, change: func(s *site) {
			s.events = events("data: {\n\ndata: []\n\ndata: " + strings.Repeat("[", 70_000) + "\n\n")
		}, says: []string{"of the verdict could not be read and are left out."}},
		{name: "an event without end", cfg: Config{Verdict: true}, change: func(s *site) { s.events = events("data: " + strings.Repeat("x", 3<<20)) }, says: []string{"sends an event of more than 1 MiB"}},
		{name: "a verdict that is a page", cfg: Config{Verdict: true}, change: func(s *site) { s.events = failing(200, "<html>") }, says: []string{"answers with what is no stream of events"}},
		{name: "a verdict that is not reached", cfg: Config{Verdict: true}, change: func(s *site) { s.events = failing(502, "no verdict at 127.0.0.1:8603") },
			says: []string{"The verdict answers 502: no verdict at 127.0.0.1:8603."}, noisy: true},
		{name: "a document that is none", cfg: Config{Verdict: true}, change: func(s *site) {
			summary := s.summary()
			s.verdict = []byte(`{"metrics":7}`)
			s.events = func(w http.ResponseWriter, r *http.Request) {
				events("data: "+summary+"\n\n")(w, r)
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
		}, says: []string{"The verdict answers with what is no verdict."}},
		{name: "a mirror's state is none", cfg: Config{Mirror: AllActions()}, change: func(s *site) { s.mirrorSays = `[1]` }, says: []string{"The mirror answers with what is no state."}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tab := tab
			if tc.noisy {
				tab = browser.Open(t) // so that its noise is not taken for another's
			}
			s := newSite(t, tc.cfg, tc.change)
			if err := chromedp.Do(tab.Ctx, chromedp.EmulateViewport(360, 900), chromedp.Navigate(s.address())); err != nil {
				t.Fatal(err)
			}
			for _, says := range tc.says {
				tab.Await(t, fmt.Sprintf(`document.body.innerText.replaceAll("\u00a0", " ").includes(%q)`, says))
			}
			if title := browser.Eval[string](t, tab, "document.title"); title != "Darklaunch" {
				t.Errorf("got the title %q: a script of somebody else's ran", title)
			}
			if n := browser.Eval[int](t, tab, `document.querySelectorAll("body img, body script").length`); n != 0 {
				t.Errorf("got %d elements made of text", n)
			}
			if n := tab.Overflow(t); n > 0 {
				t.Errorf("%d px too wide", n)
			}
			for _, c := range tab.Complaints() {
				if !tc.noisy || !strings.HasPrefix(c, "Failed to load resource") {
					t.Error(c)
				}
			}
			picture(t, tab, os.Getenv(browser.Artefacts), "bad-"+strings.ReplaceAll(tc.name, " ", "-"))
			if err := chromedp.Do(tab.Ctx, chromedp.Navigate("about:blank")); err != nil { // what was under way ends here
				t.Fatal(err)
			}
		})
	}
}

// TestPrint holds that paper has what the window shows, on white, without what is
// there to be pressed.
func TestPrint(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{Verdict: true, Mirror: AllActions()}, nil)
	media(t, tab, "", "dark")
	s.open(t, tab, 1000, 900)
	media(t, tab, "print", "dark")
	const shown = `s => [...document.querySelectorAll(s)].filter(e => e.checkVisibility({contentVisibilityAuto: true})).length`
	for selector, want := range map[string]bool{"button": false, "nav": false, "h1": true, ".panel": true, ".metric": true, "details.about": false} {
		if n := browser.Eval[int](t, tab, fmt.Sprintf("(%s)(%q)", shown, selector)); (n > 0) != want {
			t.Errorf("got %d %s on paper, want some: %t", n, selector, want)
		}
	}
	if got := browser.Eval[string](t, tab, "getComputedStyle(document.body).backgroundColor"); got != "rgb(255, 255, 255)" {
		t.Errorf("got paper of %s, want white", got)
	}
}

// TestMarks holds that what happened in the time is told, and drawn into the charts, and
// that calls with a trace are.
func TestMarks(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{}, nil)
	s.open(t, tab, 1280, 900)
	got := browser.Eval[[]string](t, tab, `[...document.querySelectorAll("#marks li")].map(m => m.innerText.replace(/ \S+ /, " "))`)
	if want := []string{"a load messages: measure", "b messages: fail"}; !slices.Equal(got, want) {
		t.Errorf("got the marks %q, want %q: a phase that had begun before is none", got, want)
	}
	// A column of the chart that the first mark crosses has ink over most of its height.
	const inked = `(() => {
		const c = document.querySelector("#darklaunch-roles-101 canvas"), g = c.getContext("2d"), px = devicePixelRatio;
		const u = [...document.querySelectorAll("#darklaunch-roles-101 .u-over")][0].getBoundingClientRect(), o = c.getBoundingClientRect();
		const x = Math.round((u.left - o.left + u.width * 0.5) * px);
		const wide = 7, high = Math.round(u.height * px), d = g.getImageData(x - 3, Math.round((u.top - o.top) * px), wide, high).data;
		let most = 0;
		for (let column = 0; column < wide; column++) {
			let n = 0;
			for (let row = 0; row < high; row++) if (d[(row * wide + column) * 4 + 3] > 60) n++;
			most = Math.max(most, n / high);
		}
		return most;
	})()`
	if share := browser.Eval[float64](t, tab, inked); share < 0.3 {
		t.Errorf("got ink on %.2f of the middle of the chart, want a dashed line", share)
	}
	traces := browser.Eval[string](t, tab, `document.querySelector("#darklaunch-roles-203 .traces").textContent`)
	for _, want := range []string{"shadow /threads", "45.2", "4bf92f3577b34da6a3ce929d0e0e4736"} {
		if !strings.Contains(traces, want) {
			t.Errorf("got the traces %q, want %q among them", traces, want)
		}
	}
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
}

// TestRange holds that another length of time is asked for, and stays in the address.
func TestRange(t *testing.T) {
	tab := browser.Open(t)
	s := newSite(t, Config{}, nil)
	s.open(t, tab, 1280, 900)
	tab.Requests()
	if err := chromedp.Do(tab.Ctx, chromedp.SetValue("#range", "1h")); err != nil {
		t.Fatal(err)
	}
	browser.Eval[bool](t, tab, `document.getElementById("range").dispatchEvent(new Event("change"))`)
	tab.Await(t, `location.search.includes("range=1h") && performance.getEntriesByType("resource").some(e => e.name.includes("step=20&") || e.name.endsWith("step=20") || e.name.includes("step=30"))`)
}
