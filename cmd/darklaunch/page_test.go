package main

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"darklaunch/internal/testenv"
)

// artefacts names a directory to keep pictures in; without it none is kept.
const artefacts = "DARKLAUNCH_ARTEFACTS"

// A tab is a browser's view of one page after the other.
type tab struct {
	ctx context.Context

	mu         sync.Mutex
	complaints []string // what the browser logged of the pages
	requests   []string // what they asked the network or the disk for
}

func openTab(t *testing.T) *tab {
	t.Helper()
	browser := testenv.Chromium(t)
	v := &tab{}
	ctx, cancel := remote.NewAllocator(t.Context(), "http://"+browser.Addr)
	t.Cleanup(cancel)
	v.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(func(event any) {
		v.mu.Lock()
		defer v.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			if !strings.Contains(e.Entry.URL, "favicon") {
				v.complaints = append(v.complaints, e.Entry.Text)
			}
		case *runtime.EventExceptionThrown:
			v.complaints = append(v.complaints, e.ExceptionDetails.Text+" "+e.ExceptionDetails.Exception.Description)
		case *runtime.EventConsoleAPICalled:
			v.complaints = append(v.complaints, fmt.Sprintf("console.%s: %s", e.Type, e.Args[0].Value))
		case *network.EventRequestWillBeSent:
			v.requests = append(v.requests, e.Request.URL)
		}
	}))
	t.Cleanup(cancel)
	return v
}

// look opens url in a window that is width px wide, and returns its text, a
// picture, and what is wrong with the page.
func (v *tab) look(t *testing.T, url string, width int) (text string, picture []byte, faults []string) {
	t.Helper()
	if err := chromedp.Do(v.ctx, chromedp.EmulateViewport(int64(width), 800), chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(v.ctx, chromedp.Text("body"))
	if err != nil {
		t.Fatal(err)
	}
	overflow, err := chromedp.Run(v.ctx, chromedp.Evaluate[int]("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
	if err != nil {
		t.Fatal(err)
	}
	if overflow > 0 {
		faults = append(faults, fmt.Sprintf("%d px too wide for %d", overflow, width))
	}
	if picture, err = chromedp.Run(v.ctx, chromedp.CaptureScreenshot()); err != nil {
		t.Fatal(err)
	}
	if img, err := png.Decode(bytes.NewReader(picture)); err != nil || img.Bounds().Dx() != width {
		t.Errorf("the picture: %v, want a PNG %d px wide", err, width)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	faults = append(faults, v.complaints...)
	v.complaints = nil
	return text, picture, faults
}

// TestAdminPage looks at the admin page of a running program in a browser, in
// a narrow window and a wide one: it shows state and traces, fits, and the
// browser has nothing to complain of.
func TestAdminPage(t *testing.T) {
	browser := openTab(t)
	r := start(t, "test-service")
	admin := "http://" + r.ready("admin")
	resp, err := http.Get(admin + "/api/v1/state") // leaves a trace to be shown
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for width, name := range map[int]string{360: "narrow", 1280: "wide"} {
		text, picture, faults := browser.look(t, admin, width)
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
		if dir := os.Getenv(artefacts); dir != "" {
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
	browser := openTab(t)
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'nonce-x'")
		io.WriteString(w, `<!doctype html><p style="width: 2000px">wide</p><img src="/seen"><script>alert(1)</script>
			<script nonce="x">console.error("said"); throw new Error("thrown")</script>`)
	}))
	defer bad.Close()
	_, _, faults := browser.look(t, bad.URL, 360)
	all := strings.Join(faults, "\n")
	for _, want := range []string{"px too wide", "Content Security Policy", "said", "thrown"} {
		if !strings.Contains(all, want) {
			t.Errorf("found %q, want %q too", all, want)
		}
	}
	browser.mu.Lock()
	defer browser.mu.Unlock()
	if !slices.Contains(browser.requests, bad.URL+"/seen") {
		t.Errorf("saw the requests %q, want that of the picture", browser.requests)
	}
}
