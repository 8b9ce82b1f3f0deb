package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/internal/strictyaml"
	"darklaunch/mirror/sample"
)

// A recorder is a service that answers ok and remembers who asked.
type recorder struct {
	*httptest.Server
	mu    sync.Mutex
	users []string
}

func newRecorder(t *testing.T) *recorder {
	r := &recorder{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.users = append(r.users, req.Header.Get("x-user"))
		fmt.Fprintln(w, "ok")
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *recorder) addr() string { return r.Listener.Addr().String() }

func (r *recorder) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.users...)
}

// ask sends one request of user's through the mirror at addr.
func ask(t *testing.T, addr, user string) {
	t.Helper()
	askFor(t, addr, user, "/inbox")
}

func askFor(t *testing.T, addr, user, path string) {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User", user)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "ok\n" {
		t.Fatalf("live answered %s %q, %v", resp.Status, body, err)
	}
}

// tell sends a changing request to the admin listener.
func tell(t *testing.T, method, url, body string) string {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, answer)
	}
	return strings.TrimSpace(string(answer))
}

func page(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestMirror goes through a run: a sampled user is copied and no other, the
// switches work by API and by signal, and the end is in order.
func TestMirror(t *testing.T) {
	live, shadow := newRecorder(t), newRecorder(t)
	r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.addr(), "--shadow", shadow.addr(),
		"--key", "header:x-user", "--sample", "10%", "--salt", "s1", "--admin", "127.0.0.1:0", "--state", t.TempDir())
	admin, addr := "http://"+r.ready("admin"), r.ready("mirror")

	if sample.Bucket("s1", "u1") >= 100_000 || sample.Bucket("s1", "ann") < 100_000 {
		t.Fatal("want u1 in the sample and ann not")
	}
	copies := func(n int) {
		t.Helper()
		waitFor(t, fmt.Sprintf("%d copies", n), func() bool { return len(shadow.seen()) >= n })
	}
	ask(t, addr, "ann")
	ask(t, addr, "u1")
	copies(1)
	if got := tell(t, "PUT", admin+"/api/v1/sample", `{"ppm":1000000}`); !strings.Contains(got, `"sample_ppm":1000000`) {
		t.Errorf("got %s, want the new sample", got)
	}
	ask(t, addr, "ann")
	copies(2)

	tell(t, "POST", admin+"/api/v1/kill", "")
	ask(t, addr, "u1")
	tell(t, "POST", admin+"/api/v1/resume", "")
	r.signal(syscall.SIGUSR1)
	waitFor(t, "SIGUSR1", func() bool { return strings.Contains(page(t, admin+"/api/v1/state"), `"off": "killed"`) })
	ask(t, addr, "u1")
	r.signal(syscall.SIGUSR2)
	waitFor(t, "SIGUSR2", func() bool { return strings.Contains(page(t, admin+"/api/v1/state"), `"enabled": true`) })
	ask(t, addr, "u1")
	copies(3)
	if diff := cmp.Diff([]string{"u1", "ann", "u1"}, shadow.seen()); diff != "" {
		t.Errorf("at the shadow (-want +got):\n%s", diff)
	}
	metrics := page(t, admin+"/metrics")
	for _, want := range []string{
		`mirror_copies_offered_total{role="shadow"} 5`, `mirror_copies_sent_total{role="shadow"} 3`,
		`mirror_copies_dropped_total{reason="killed",role="shadow"} 2`, `mirror_copies_pending{role="shadow"} 0`,
		`mirror_requests_total{code="200",front="mirror",method="GET",route="GET /inbox"} 6`,
		`mirror_observe_abandoned_total{reason="hpack"} 0`, `mirror_enabled 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
	}
}

// TestMirrorReload changes the sample by file and SIGHUP, and nothing by a file
// that asks for more than can change.
func TestMirrorReload(t *testing.T) {
	live, shadow := newRecorder(t), newRecorder(t)
	config := filepath.Join(t.TempDir(), "mirror.yaml")
	write := func(sample, front string) {
		t.Helper()
		text := fmt.Sprintf("shadow: %s\nsample: %s\nkey: [\"header:x-user\"]\nname: %s\nlisten: 127.0.0.1:0\nlive: [%s]\n", shadow.addr(), sample, front, live.addr())
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0%", "web")
	r := start(t, "mirror", "--config", config, "--admin", "127.0.0.1:0")
	admin, addr := "http://"+r.ready("admin"), r.ready("web")
	ask(t, addr, "ann")
	write("100%", "other")
	r.signal(syscall.SIGHUP)
	waitFor(t, "the refusal", func() bool {
		return strings.Contains(page(t, admin+"/api/v1/state"), "only sample and admit can change")
	})
	write("100%", "web")
	r.signal(syscall.SIGHUP)
	waitFor(t, "the new sample", func() bool { return strings.Contains(page(t, admin+"/api/v1/state"), `"sample_ppm": 1000000`) })
	ask(t, addr, "ann")
	waitFor(t, "a copy", func() bool { return len(shadow.seen()) == 1 })
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d; stderr: %s", code, stderr)
	}
}

// TestMirrorRefuses what can't be meant, as a usage error of one line.
func TestMirrorRefuses(t *testing.T) {
	live := newRecorder(t)
	_, port, err := net.SplitHostPort(live.addr())
	if err != nil {
		t.Fatal(err)
	}
	good := "--listen 127.0.0.1:0 --key header:x-user --admin 127.0.0.1:0 --live " + live.addr()
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tc := range []struct{ args, want string }{
		{"", "no address to listen on"},
		{"--listen 127.0.0.1:0", "no address of live"},
		{"--listen 127.0.0.1:0 --live " + live.addr(), "no key"},
		{good + " --shadow " + live.addr(), "is live of mirror"},
		{good + " --shadow localhost:" + port, "is live of mirror"},
		{good + " --key header:", `extractor "header:"`},
		{good + " --sample 101%", "is not a share"},
		{good + " --missing-key perhaps", "want one of"},
		{good + " --switchback 60%", "switchback"},
		{good + " --tls-cert x", "go together"},
		{good + " --verdict 127.0.0.1:1 --verdict-ca x", "not https://"},
		{good + " --config " + file("sampel: 1%\n"), "sampel: unknown key"},
		{good + " --config " + file("sample: 1\n"), "sample: got number, want string"},
		{good + " --config " + file("fronts: [{name: a, listen: 127.0.0.1:0, live: [127.0.0.1:1]}]\n"), "belong to one of them"},
		{good + " --config " + file("routes: [{pattern: /a/{}}, {pattern: /a/{x}}]\n"), ""},
	} {
		code, _, stderr := start(t, append([]string{"mirror"}, strings.Fields(tc.args)...)...).end()
		if code != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: got %d and %q, want %d and one line with %q", tc.args, code, stderr, exitUsage, tc.want)
		}
	}
}

// TestMirrorWarns of what a copy may do, at the first start that may.
func TestMirrorWarns(t *testing.T) {
	live, shadow, state := newRecorder(t), newRecorder(t), t.TempDir()
	for i, want := range []bool{true, false} {
		r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.addr(), "--shadow", shadow.addr(), "--key", "header:x-user",
			"--mirror-unsafe", "--state", state, "--admin", "127.0.0.1:0")
		r.ready("admin")
		r.ready("mirror")
		r.signal(syscall.SIGTERM)
		code, _, stderr := r.end()
		if code != exitDone || strings.Contains(stderr, "payment") != want {
			t.Errorf("start %d: got %d and %q, want the checklist: %v", i+1, code, stderr, want)
		}
	}
}

func TestMirrorBucket(t *testing.T) {
	code, stdout, _ := start(t, "mirror", "bucket", "--salt", "s1", "a", "ann", "日本語", "").end()
	if want := "a\t479864\nann\t810645\n日本語\t898089\n\t771747\n"; code != exitDone || stdout != want {
		t.Errorf("got %d and %q, want %q", code, stdout, want)
	}
	if code, _, stderr := start(t, "mirror", "bucket", "a").end(); code != exitUsage || !strings.Contains(stderr, "salt") {
		t.Errorf("without a salt: got %d and %q", code, stderr)
	}
}

// TestMirrorStarter holds that what init prints is valid, and means something.
func TestMirrorStarter(t *testing.T) {
	code, stdout, _ := start(t, "mirror", "init").end()
	var s mirrorSettings
	if err := strictyaml.Parse([]byte(stdout), schemaText("mirror"), &s); err != nil || code != exitDone {
		t.Fatalf("got %d, %v", code, err)
	}
	cfg, err := s.config(nil)
	if err != nil || len(cfg.Fronts) != 1 || cfg.Sample != 10_000 || len(cfg.Headers) != 2 || !cfg.Fronts[0].Routes[0].Skip ||
		cfg.Guard.Overhead != 50*time.Millisecond || cfg.Guard.Errors != 0.25 {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

// TestMirrorPairs lets a shadow differ: the stream tells of it, to a file and
// to a verdict alike, and shows nothing in the clear that nobody allowed.
func TestMirrorPairs(t *testing.T) {
	const secret = "the-secret-subject"
	answer := func(text string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"n": %s, "subject": %q}`, text, secret)
		}))
		t.Cleanup(s.Close)
		return s
	}
	live, shadow := answer("1"), answer("2")
	verdict, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer verdict.Close()
	heard := make(chan []byte, 1)
	go func() {
		conn, err := verdict.Accept()
		if err != nil {
			heard <- nil
			return
		}
		defer conn.Close()
		b, _ := io.ReadAll(conn)
		heard <- b
	}()
	file := filepath.Join(t.TempDir(), "pairs")
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(config, []byte("record: [\"json:$.n\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.Listener.Addr().String(), "--shadow", shadow.Listener.Addr().String(),
		"--key", "header:x-user", "--sample", "100%", "--admin", "127.0.0.1:0", "--config", config,
		"--pairs", file, "--verdict", verdict.Addr().String())
	admin, addr := r.ready("admin"), r.ready("mirror")
	req, err := http.NewRequest("GET", "http://"+addr+"/inbox", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User", "ann")
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	waitFor(t, "the pair", func() bool {
		return strings.Contains(page(t, "http://"+admin+"/metrics"), `mirror_pairs_total{outcome="both_ok",route="GET /inbox"} 1`)
	})
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Fatalf("got %d; stderr: %s", code, stderr)
	}
	sent := filepath.Join(t.TempDir(), "sent")
	if err := os.WriteFile(sent, <-heard, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file, sent} {
		code, stdout, stderr := start(t, "mirror", "pairs", name).end()
		if code != exitDone {
			t.Fatalf("got %d; stderr: %s", code, stderr)
		}
		lines := strings.Split(stdout, "\n")
		if !strings.Contains(lines[0], `"header"`) || !strings.Contains(stdout, "REASON_UNEQUAL") || !strings.Contains(stdout, "shadowOnly") {
			t.Errorf("got %s, want a header, a difference counted and the pair", stdout)
		}
		if strings.Contains(stdout, secret) {
			t.Errorf("the stream shows what nobody allowed: %s", stdout)
		}
	}
	if code, _, stderr := start(t, "mirror", "pairs", config).end(); code != exitCouldNotRun || !strings.Contains(stderr, "not a pair stream") {
		t.Errorf("of another file: got %d and %q", code, stderr)
	}
}
