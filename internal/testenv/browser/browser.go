// Package browser looks at pages as people do: in the headless Chromium of testenv.
package browser

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"darklaunch/internal/testenv"
)

// Artefacts names, in the environment, a directory to keep pictures in; without
// it none is kept.
const Artefacts = "DARKLAUNCH_ARTEFACTS"

// A Tab is a browser's view of one page after the other. It shares nothing with
// other tabs.
type Tab struct {
	// Ctx is for chromedp's actions; it ends with the test.
	Ctx context.Context

	mu         sync.Mutex
	complaints []string // what the browser logged of the pages
	requests   []string // what they asked the network or the disk for
}

// Open returns a new tab. The test is skipped where testenv.Chromium skips it.
func Open(t testing.TB) *Tab {
	t.Helper()
	chromium := testenv.Chromium(t)
	v := &Tab{}
	ctx, cancel := remote.NewAllocator(t.Context(), "http://"+chromium.Addr)
	t.Cleanup(cancel)
	v.Ctx, cancel = chromedp.NewContext(ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(v.listen))
	t.Cleanup(cancel)
	return v
}

func (v *Tab) listen(event any) {
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
		said := fmt.Sprintf("console.%s:", e.Type)
		for _, a := range e.Args {
			said += fmt.Sprintf(" %s", a.Value)
		}
		v.complaints = append(v.complaints, said)
	case *network.EventRequestWillBeSent:
		v.requests = append(v.requests, e.Request.URL)
	}
}

// Complaints returns what the browser has logged of the pages since the last
// call: errors, warnings, exceptions, what a policy forbade.
func (v *Tab) Complaints() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := v.complaints
	v.complaints = nil
	return all
}

// Requests returns the addresses that pages have asked for since the last call.
func (v *Tab) Requests() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	all := slices.Clone(v.requests)
	v.requests = nil
	return all
}

// Look opens url in a window that is width px wide, and returns its text, a
// picture, and what is wrong with the page: what it is too wide by, and
// Complaints.
func (v *Tab) Look(t testing.TB, url string, width int) (text string, picture []byte, faults []string) {
	t.Helper()
	if err := chromedp.Do(v.Ctx, chromedp.EmulateViewport(int64(width), 800), chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(v.Ctx, chromedp.Text("body"))
	if err != nil {
		t.Fatal(err)
	}
	if n := v.Overflow(t); n > 0 {
		faults = append(faults, fmt.Sprintf("%d px too wide for %d", n, width))
	}
	if picture, err = chromedp.Run(v.Ctx, chromedp.CaptureScreenshot()); err != nil {
		t.Fatal(err)
	}
	if img, err := png.Decode(bytes.NewReader(picture)); err != nil || img.Bounds().Dx() != width {
		t.Errorf("the picture: %v, want a PNG %d px wide", err, width)
	}
	return text, picture, append(faults, v.Complaints()...)
}

// Overflow is how much wider than the window the page is, in px.
func (v *Tab) Overflow(t testing.TB) int {
	t.Helper()
	return Eval[int](t, v, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
}

// Await waits until condition, an expression, is true in the page, for half a
// minute; then the test fails with what the page says.
func (v *Tab) Await(t testing.TB, condition string) {
	t.Helper()
	const wait = `new Promise(done => {
		const end = Date.now() + 30000, look = () => %s ? done("") : Date.now() > end ? done(document.body.innerText) : setTimeout(look, 20);
		look();
	})`
	if text := Eval[string](t, v, fmt.Sprintf(wait, "("+condition+")")); text != "" {
		t.Fatalf("waited in vain for %s; the page says:\n%s", condition, text)
	}
}

// Eval returns what the expression is in the page. A promise is awaited.
func Eval[T any](t testing.TB, v *Tab, expression string) T {
	t.Helper()
	value, err := chromedp.Run(v.Ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("evaluate %s: %v", expression, err)
	}
	return value
}
