package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"darklaunch/dashboards/board"
	"darklaunch/internal/testenv/browser"
)

// TestBoardKill stops a running mirror from the page, and starts it again: no copy is
// sent while it is off, and the page says each, in words that are read out. What it
// took is logged; whoever reads it on an idle machine wants copies to stop within
// a second, and the page to say so within two.
func TestBoardKill(t *testing.T) {
	tab := browser.Open(t)
	live, shadow := newRecorder(t), newRecorder(t)
	r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.addr(), "--shadow", shadow.addr(), "--key", "header:x-user", "--sample", "100%", "--admin", "127.0.0.1:0")
	admin, front := r.ready("admin"), r.ready("mirror")

	page, err := board.New(board.Config{Mirror: board.AllActions()})
	if err != nil {
		t.Fatal(err)
	}
	api := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: admin}) // its name too: the mirror answers to no other
	}}
	mux := http.NewServeMux()
	mux.Handle("/", page)
	mux.Handle("/darklaunch/mirror/", http.StripPrefix("/darklaunch/mirror", board.Actions(board.AllActions(), nil, api)))
	mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[],"groups":[]}}`)
	})
	host := httptest.NewServer(mux)
	t.Cleanup(host.Close)

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			<-tick.C
			req, err := http.NewRequest("GET", "http://"+front+"/inbox", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("X-User", fmt.Sprint("u", n%50))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	})
	defer wg.Wait()
	defer stop()

	if err := chromedp.Do(tab.Ctx, chromedp.EmulateViewport(1280, 900), chromedp.Navigate(host.URL)); err != nil {
		t.Fatal(err)
	}
	press := func(name, says string) {
		t.Helper()
		const find = `[...document.querySelectorAll("#switches button")].find(b => b.textContent === %q && !b.disabled)`
		tab.Await(t, fmt.Sprintf(find, name))
		browser.Eval[bool](t, tab, fmt.Sprintf(`(() => {`+find+`.click(); return true })()`, name))
		tab.Await(t, `document.querySelector("dialog").open`)
		// From the answer to the question on.
		browser.Eval[bool](t, tab, fmt.Sprintf(`(() => {
			document.querySelector("dialog").addEventListener("close", () => { window.asked = performance.now() }, {once: true});
			new MutationObserver((_, o) => { if (document.getElementById("said").textContent === %q) { window.said = performance.now(); o.disconnect(); } })
				.observe(document.getElementById("said"), {childList: true});
			return true })()`, says))
		if err := chromedp.Do(tab.Ctx, chromedp.KeyEvent(kb.Enter)); err != nil {
			t.Fatal(err)
		}
		tab.Await(t, `window.said > window.asked`)
		t.Logf("%s: said after %.0f ms", name, browser.Eval[float64](t, tab, `window.said - window.asked`))
	}
	waitFor(t, "copies", func() bool { return len(shadow.seen()) > 20 })

	press("Stop mirroring", "Mirroring is off: no copies are sent.")
	tab.Await(t, `document.getElementById("chip-mirror").innerText.includes("Mirroring off")`)
	more := func(n int) int {
		t.Helper()
		target := len(live.seen()) + n
		waitFor(t, "requests", func() bool { return len(live.seen()) >= target })
		return len(shadow.seen())
	}
	before := more(20) // what had left may yet arrive
	if after := more(100); after != before {
		t.Errorf("got %d copies after the page had said that none are sent", after-before)
	}

	press("Resume mirroring", "Mirroring is on again.")
	waitFor(t, "copies again", func() bool { return len(shadow.seen()) > before+20 })
	for _, c := range tab.Complaints() {
		t.Error(c)
	}
	stop()
	wg.Wait()
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}
