package testenv_test

import (
	"bytes"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// took logs how long a server took to be ready. Other packages' tests run beside
// these, so it complains only far beyond what is aimed at.
func took(t *testing.T, what string, start time.Time, aim time.Duration) {
	t.Helper()
	d := time.Since(start)
	t.Logf("%s after %v (aim: %v)", what, d.Round(time.Millisecond), aim)
	if d > 4*aim {
		t.Errorf("%s after %v, want within %v", what, d, 4*aim)
	}
}

func TestMemcachedSetGet(t *testing.T) {
	start := time.Now()
	srv := testenv.Memcached(t)
	took(t, "memcached ready", start, 2*time.Second)
	c := memcache.New(srv.Addr)
	if err := c.Set(&memcache.Item{Key: t.Name(), Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	item, err := c.Get(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(item.Value); got != "v" {
		t.Errorf("got %q, want %q", got, "v")
	}
	if again := testenv.Memcached(t); again.Pid() != srv.Pid() {
		t.Errorf("a second call started process %d beside %d", again.Pid(), srv.Pid())
	}
}

// TestStopContinue stops a server under a client's eyes.
func TestStopContinue(t *testing.T) {
	srv := testenv.Memcached(t)
	c := memcache.New(srv.Addr)
	c.Timeout = 300 * time.Millisecond
	srv.Stop()
	if err := c.Ping(); err == nil {
		t.Error("a stopped memcached answers")
	}
	srv.Continue()
	c.Timeout = 5 * time.Second
	if err := c.Ping(); err != nil {
		t.Errorf("after Continue: %v", err)
	}
}

func TestKillRestart(t *testing.T) {
	srv := testenv.Memcached(t)
	pid := srv.Pid()
	c := memcache.New(srv.Addr)
	srv.Kill()
	if err := c.Ping(); err == nil {
		t.Error("a killed memcached answers")
	}
	srv.Restart()
	if err := c.Ping(); err != nil {
		t.Errorf("after Restart: %v", err)
	}
	if srv.Pid() == pid {
		t.Errorf("process %d is the same after Restart", pid)
	}
}

// TestHealed leaves a shared server dead; the next test must find it whole.
func TestHealed(t *testing.T) {
	t.Run("hurt", func(t *testing.T) { testenv.Memcached(t).Kill() })
	t.Run("next", func(t *testing.T) {
		if err := memcache.New(testenv.Memcached(t).Addr).Ping(); err != nil {
			t.Error(err)
		}
	})
}

const nginxConfig = `
worker_processes 2;
events {}
http {
  access_log off;
  server {
    listen {{addr "http"}};
    location / { proxy_pass http://BACKEND; }
    location /own { return 200 "nginx itself\n"; }
  }
  server {
    listen {{addr "h2"}} http2;
    location / { return 200 "h2\n"; }
  }
}`

const haproxyConfig = `
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend in
  bind {{addr "http"}}
  default_backend live
backend live
  server one BACKEND
`

const envoyConfig = `
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: {{port "http"}} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - {name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: live}}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: live
    type: STATIC
    load_assignment: {cluster_name: live, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: BACKEND}}}}]}]}
`

func TestProxies(t *testing.T) {
	requests := make(chan string, 10)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.URL.Path
		fmt.Fprintf(w, "backend got %s", r.URL.Path)
	}))
	defer backend.Close()
	hostPort := strings.TrimPrefix(backend.URL, "http://")
	_, port, _ := strings.Cut(hostPort, ":")
	tests := []struct {
		name    string
		start   func(testing.TB, string) *testenv.Server
		config  string
		backend string
	}{
		{"nginx", testenv.Nginx, nginxConfig, hostPort},
		{"haproxy", testenv.HAProxy, haproxyConfig, hostPort},
		{"envoy", testenv.Envoy, envoyConfig, port},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start := time.Now()
			srv := tt.start(t, strings.ReplaceAll(tt.config, "BACKEND", tt.backend))
			took(t, tt.name+" ready", start, 5*time.Second)
			if got, want := get(t, "http://"+srv.AddrOf("http")+"/x"), "backend got /x"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			// The first request is the test's own: readiness sent none.
			if got := <-requests; got != "/x" || len(requests) != 0 {
				t.Errorf("the backend saw %q and %d more, want /x alone", got, len(requests))
			}
		})
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestLoadGenerators(t *testing.T) {
	srv := testenv.Nginx(t, strings.ReplaceAll(nginxConfig, "BACKEND", "127.0.0.1:9"))
	tests := []struct {
		name string
		out  string
		done *regexp.Regexp
	}{
		{"wrk", testenv.Wrk(t, "-t1", "-c4", "-d1s", "http://"+srv.AddrOf("http")+"/own"), regexp.MustCompile(`(\d+) requests in`)},
		{"h2load", testenv.H2load(t, "-n200", "-c2", "-m4", "http://"+srv.AddrOf("h2")+"/"), regexp.MustCompile(`(\d+) succeeded`)},
	}
	for _, tt := range tests {
		m := tt.done.FindStringSubmatch(tt.out)
		if m == nil {
			t.Errorf("%s printed no count of requests:\n%s", tt.name, tt.out)
			continue
		}
		if n, err := strconv.Atoi(m[1]); err != nil || n < 100 {
			t.Errorf("%s did %s requests, want at least 100", tt.name, m[1])
		}
	}
}

func TestChromium(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `<!doctype html><h1>…</h1><script>document.querySelector("h1").textContent = "written by " + "a script"</script>`)
	}))
	defer page.Close()
	// The second finds the browser as the first left it: running.
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) { renders(t, page.URL) })
	}
}

func renders(t *testing.T, url string) {
	start := time.Now()
	browser := testenv.Chromium(t)
	took(t, "chromium ready", start, 5*time.Second)
	ctx, cancel := remote.NewAllocator(t.Context(), "http://"+browser.Addr)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithNewBrowserContext())
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(640, 480), chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	text, err := chromedp.Run(ctx, chromedp.Text("h1"))
	if err != nil {
		t.Fatal(err)
	}
	shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if want := "written by a script"; text != want {
		t.Errorf("the page reads %q, want %q", text, want)
	}
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	if got := img.Bounds().Size(); got.X != 640 || got.Y != 480 {
		t.Errorf("the screenshot is %v, want 640×480", got)
	}
}
