package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"darklaunch/internal/testenv/browser"
)

// TestAdminPage looks at the admin page of a running program in a browser, in
// a narrow window and a wide one: it shows state and traces, fits, and the
// browser has nothing to complain of.
func TestAdminPage(t *testing.T) {
	tab := browser.Open(t)
	r := start(t, "test-service")
	admin := "http://" + r.ready("admin")
	resp, err := http.Get(admin + "/api/v1/state") // leaves a trace to be shown
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for width, name := range map[int]string{360: "narrow", 1280: "wide"} {
		text, picture, faults := tab.Look(t, admin, width)
		for _, f := range faults {
			t.Errorf("%s: %s", name, f)
		}
		for _, want := range []string{"darklaunch test-service", "ready", `"version"`, "/metrics", "Newest traces"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the page lacks %q:\n%s", name, want, text)
			}
		}
		if strings.Contains(text, "None yet") {
			t.Errorf("%s: the page shows no trace of the request before it", name)
		}
		if dir := os.Getenv(browser.Artefacts); dir != "" {
			if err := os.WriteFile(filepath.Join(dir, "admin-"+name+".png"), picture, 0o644); err != nil {
				t.Error(err)
			}
		}
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}

// TestLookSeesFaults plants what look must find: a page that is too wide, asks for
// a picture, has a script that its own policy forbids and one that throws.
func TestLookSeesFaults(t *testing.T) {
	tab := browser.Open(t)
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'nonce-x'")
		io.WriteString(w, `<!doctype html><p style="width: 2000px">wide</p><img src="/seen"><script>alert(1)</script>
			<script nonce="x">console.error("said"); throw new Error("thrown")</script>`)
	}))
	defer bad.Close()
	_, _, faults := tab.Look(t, bad.URL, 360)
	all := strings.Join(faults, "\n")
	for _, want := range []string{"px too wide", "Content Security Policy", "said", "thrown"} {
		if !strings.Contains(all, want) {
			t.Errorf("found %q, want %q too", all, want)
		}
	}
	if asked := tab.Requests(); !slices.Contains(asked, bad.URL+"/seen") {
		t.Errorf("saw the requests %q, want that of the picture", asked)
	}
}
