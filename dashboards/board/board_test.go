package board

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"darklaunch/dashboards"
)

// get asks the page's handler, as a browser that takes gzip.
func get(t *testing.T, h http.Handler, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept-Encoding", "gzip, br")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func content(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	resp := get(t, h, path, "Accept-Encoding", "identity")
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: got %s, %v", path, resp.Status, err)
	}
	return string(b)
}

func mustNew(t *testing.T, cfg Config) http.Handler {
	t.Helper()
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// onTheWire is what the page may cost, in bytes.
const onTheWire = 200_000

func TestFiles(t *testing.T) {
	h := mustNew(t, Config{Verdict: true, Mirror: AllActions()})
	page := content(t, h, "/")
	paths := []string{"/", "/board/page.json"}
	for _, m := range regexp.MustCompile(`(?:href|src)="(board/[^"]+)"`).FindAllStringSubmatch(page, -1) {
		paths = append(paths, "/"+m[1])
	}
	if len(paths) != 6 {
		t.Errorf("the page loads %q, want a style, a script, an icon and a licence", paths)
	}
	total := 0
	for _, path := range paths {
		resp := get(t, h, path)
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: got %s, %v", path, resp.Status, err)
		}
		total += len(b)
		if got := resp.Header.Get("Content-Encoding"); got != "gzip" {
			t.Errorf("%s: got encoding %q, want gzip", path, got)
		}
		csp := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) || strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
				t.Errorf("%s: got policy %q, want %s in it and nothing loose", path, csp, want)
			}
		}
		again := get(t, h, path, "If-None-Match", resp.Header.Get("ETag"))
		if again.StatusCode != http.StatusNotModified {
			t.Errorf("%s again: got %s, want not modified", path, again.Status)
		}
	}
	t.Logf("%d bytes on the wire", total)
	if total > onTheWire {
		t.Errorf("got %d bytes on the wire, want at most %d", total, onTheWire)
	}
	if resp := get(t, h, "/elsewhere"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("/elsewhere: got %s, want not found", resp.Status)
	}
}

func TestTitleIsText(t *testing.T) {
	page := content(t, mustNew(t, Config{Title: `<script>alert(1)</script>`}), "/")
	if strings.Contains(page, "<script>alert") || !strings.Contains(page, "&lt;script&gt;alert") {
		t.Errorf("the title is not escaped:\n%s", page)
	}
}

// TestNoMarkup holds that the page's own script has no way to make markup or code
// of text; the browser is told to forbid it too.
func TestNoMarkup(t *testing.T) {
	never := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\(|new Function|javascript:`)
	if !never.MatchString("node.innerHTML = x") {
		t.Fatal("the check sees nothing")
	}
	for _, name := range scripts {
		if found := never.FindString(file(name)); found != "" {
			t.Errorf("%s has %s", name, found)
		}
	}
	if found := regexp.MustCompile(` style="| on[a-z]+="|<style|<script>`).FindString(file("page.html")); found != "" {
		t.Errorf("the document has %q, which its policy forbids", found)
	}
}

// TestPanels holds that the page gets every planned panel whole: expressions have no
// variable but the one that it fills in, and all kinds and units are such that
// its script knows them.
func TestPanels(t *testing.T) {
	var page struct {
		Sections []struct {
			ID     string
			Panels []struct {
				Dashboard string
				ID        int
				Kind      string
				Unit      string
				Queries   []struct{ Expr string }
			}
		}
		Looks map[string]struct{ Color string }
	}
	if err := json.Unmarshal([]byte(content(t, mustNew(t, Config{}), "/board/page.json")), &page); err != nil {
		t.Fatal(err)
	}
	variable, panels := regexp.MustCompile(`\$\w+`), 0
	seen := map[string]bool{}
	for _, s := range page.Sections {
		for _, p := range s.Panels {
			panels++
			name := fmt.Sprintf("%s %d", p.Dashboard, p.ID)
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
			if !strings.Contains(file("words.js"), p.Unit+":") {
				t.Errorf("%s: the script knows no unit %q", name, p.Unit)
			}
			if p.Kind != "timeseries" && !strings.Contains(file("panel.js"), p.Kind+": this.draw") {
				t.Errorf("%s: the script draws no %q", name, p.Kind)
			}
			for _, q := range p.Queries {
				for _, v := range variable.FindAllString(q.Expr, -1) {
					if v != "$"+dashboards.RateInterval {
						t.Errorf("%s: %s is left in %s", name, v, q.Expr)
					}
				}
			}
		}
	}
	if panels < 40 || len(page.Sections) != len(plans) {
		t.Errorf("got %d panels in %d sections, want some 40 in %d", panels, len(page.Sections), len(plans))
	}
	for role, want := range map[string]string{"live": "--live", "shadow": "--shadow", "control": "--control", "margin": "--margin"} {
		if !strings.Contains(file("page.css"), want+": "+page.Looks[role].Color+";") {
			t.Errorf("the style has another colour for %s than the dashboards, %s", role, page.Looks[role].Color)
		}
	}
	if _, err := contents(dashboards.All()[1:]); err == nil || !strings.Contains(err.Error(), "darklaunch-verdict 101") {
		t.Errorf("without a dashboard: got %v, want the panel that is missing", err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{Mirror: []Action{"recycle"}}); err == nil || !strings.Contains(err.Error(), "recycle") {
		t.Errorf("got %v, want the action that is none", err)
	}
}
