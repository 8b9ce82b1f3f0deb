// Package board is the page on which people look at a run: what the verdict is and
// what would settle it, then the panels of package dashboards, and the switches
// of the mirror.
//
// The page is one document, one script and one style sheet, and asks nobody but
// its own host: this handler for what is on it, Prometheus's API below api/v1/, the
// verdict's below darklaunch/verdict/ and the mirror's below darklaunch/mirror/.
// Whoever mounts the handler serves those; see Actions for the last.
package board

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"darklaunch/dashboards"
	"darklaunch/internal/uplot"
)

// Config says what there is to be seen.
type Config struct {
	// Title heads the page. Empty means Darklaunch.
	Title string
	// Verdict: a verdict answers below darklaunch/verdict/.
	Verdict bool
	// Mirror: a mirror's admin API answers below darklaunch/mirror/, and the page
	// offers these actions; none at all shows it alone. Nil: there is no mirror.
	Mirror []Action
	// SignOut offers to sign out: see SignIn.
	SignOut bool
	// Scrape is how often Prometheus asks the programs. Zero means 15s.
	Scrape time.Duration
}

//go:embed web
var web embed.FS

// scripts in the order in which they stand in the page's one script.
var scripts = []string{"dom.js", "words.js", "net.js", "chart.js", "marks.js", "panel.js", "verdict.js", "mirror.js", "alerts.js", "page.js"}

// policy lets the page load from and ask its own host alone, and keeps its script
// from making markup of text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// New returns the handler of / and of what the page loads, below board/. It is
// mounted at a path that ends in /. An error says which panel the dashboards lack, or
// which action is none.
func New(cfg Config) (http.Handler, error) {
	for _, a := range cfg.Mirror {
		if !slices.Contains(AllActions(), a) {
			return nil, fmt.Errorf("board: %q is no action of a mirror", a)
		}
	}
	title := cmp.Or(cfg.Title, "Darklaunch")
	sections, err := contents(dashboards.All())
	if err != nil {
		return nil, err
	}
	var script strings.Builder
	script.WriteString(uplot.Script + "\n\"use strict\";\n(() => {\n")
	for _, name := range scripts {
		script.WriteString(file(name))
	}
	script.WriteString("})();\n")
	data, err := json.Marshal(pageJSON{
		Title: title, Verdict: cfg.Verdict, Mirror: cfg.Mirror, Scrape: cmp.Or(cfg.Scrape, 15*time.Second).Seconds(),
		Looks: looks(), Annotations: annotations(), Sections: sections,
	})
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}

	mux := http.NewServeMux()
	add := func(pattern, kind, caching string, content []byte) (tag string) {
		a := newAsset(kind, caching, content)
		mux.Handle("GET "+pattern, a)
		return a.tag
	}
	// What is named with its digest never changes; the rest is asked for again.
	const fixed, fresh = "public, max-age=31536000, immutable", "no-cache"
	css := add("/board/page.css", "text/css; charset=utf-8", fixed, []byte(uplot.Style+file("page.css")))
	js := add("/board/page.js", "text/javascript; charset=utf-8", fixed, []byte(script.String()))
	add("/board/page.json", "application/json", fresh, data)
	add("/board/icon.svg", "image/svg+xml", fresh, []byte(file("icon.svg")))
	add("/board/uplot-licence.txt", "text/plain; charset=utf-8", fresh, []byte(uplot.License))

	t, err := template.New("page.html").ParseFS(web, "web/page.html")
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	var page bytes.Buffer
	shown := slices.DeleteFunc(slices.Clone(sections), func(s section) bool { return s.Title == "" })
	filled := map[string]any{"Title": title, "Style": css, "Script": js, "Sections": shown, "UPlot": uplot.Version}
	if cfg.SignOut {
		filled["SignOut"] = strings.TrimPrefix(SignOutPath, "/")
	}
	if err := t.Execute(&page, filled); err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	add("/{$}", "text/html; charset=utf-8", fresh, page.Bytes())
	return mux, nil
}

func file(name string) string {
	b, err := web.ReadFile("web/" + name)
	if err != nil {
		panic(err) // the files are part of the binary
	}
	return string(b)
}

// pageJSON is what the script reads at board/page.json.
type pageJSON struct {
	Title       string                              `json:"title"`
	Verdict     bool                                `json:"verdict"`
	Mirror      []Action                            `json:"mirror"` // null: there is none
	Scrape      float64                             `json:"scrape_s"`
	Looks       map[dashboards.Role]dashboards.Look `json:"looks"`
	Annotations []annotation                        `json:"annotations"`
	Sections    []section                           `json:"sections"`
}

// annotation is a dashboards.Annotation as the page draws it.
type annotation struct {
	dashboards.Annotation
	Color string  `json:"color"`
	Step  float64 `json:"step_s"`
}

func annotations() (all []annotation) {
	for _, a := range dashboards.Annotations() {
		look, _ := a.Role.Look()
		all = append(all, annotation{a, look.Color, a.Every.Seconds()})
	}
	return all
}

func looks() map[dashboards.Role]dashboards.Look {
	all := map[dashboards.Role]dashboards.Look{}
	for _, r := range []dashboards.Role{
		dashboards.Live, dashboards.Shadow, dashboards.Control, dashboards.Effect, dashboards.Lower, dashboards.Upper,
		dashboards.Margin, dashboards.Target, dashboards.Error,
	} {
		if look, known := r.Look(); known {
			all[r] = look
		}
	}
	return all
}

// asset is a file in both forms in which it is sent.
type asset struct {
	kind, caching, tag string
	plain, zipped      []byte
}

func newAsset(kind, caching string, content []byte) *asset {
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is one
	w.Write(content)                                      // a bytes.Buffer takes all
	w.Close()
	sum := sha256.Sum256(content)
	return &asset{kind: kind, caching: caching, tag: hex.EncodeToString(sum[:8]), plain: content, zipped: z.Bytes()}
}

// protect has a browser keep a page to itself.
func protect(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", a.caching)
	h.Set("Vary", "Accept-Encoding")
	protect(h)
	body, tag := a.plain, `"`+a.tag+`"`
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		body, tag = a.zipped, `"`+a.tag+`z"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", tag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body)) // knows If-None-Match and HEAD
}
