package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMirrorRefusesByFile goes through what a configuration can say and can't
// mean: exit code 2, and one line that names it.
func TestMirrorRefusesByFile(t *testing.T) {
	live := newRecorder(t)
	_, port, err := net.SplitHostPort(live.addr())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	api := write("api.yaml", "openapi: 3.0.0\npaths:\n  /threads: {get: {}, post: {}}\n")
	broken := write("broken.yaml", "openapi: 3.0.0\npaths:\n  threads: {get: {}}\n")
	const rules = "apiVersion: translate/v1\nrules:\n"
	badJQ := write("jq.yaml", rules+"  - {match: GET /a, when: '.a | | .b', skip: true}\n")
	badField := write("field.yaml", rules+"  - match: GET /a\n    calls:\n      - call: /messages.v1.Messages/Search\n        body: {qery: .a}\n")
	reading := write("reads.yaml", rules+"  - match: GET /a\n    calls: [{call: GET /b}]\n    reads: ['json:$.folder']\n")
	front := fmt.Sprintf("{name: web, listen: 127.0.0.1:18999, key: ['header:x-user'], live: [%s]", live.addr())
	for i, tc := range []struct{ text, want string }{
		{"shadow: 127.0.0.1:18999\nfronts: [" + front + "}]", "is front web"},
		{"shadow: localhost:" + port + "\nfronts: [" + front + "}]", "the shadow localhost:" + port + " is live of web"},
		{"fronts: [" + front + ", control: 'localhost:" + port + "'}]", "the control of web localhost:" + port + " is live of web"},
		{"shadow: 127.0.0.1:9\nfronts: [" + front + ", control: 'localhost:9'}]", "is the shadow"},
		{"shadow: 127.0.0.1:9\nfronts: [" + front + ", control: 127.0.0.1:18999}]", "is front web"},
		{"fronts: [" + front + "}, {name: other, listen: 127.0.0.1:0, key: ['cookie:s'], live: ['127.0.0.1:9'], control: 127.0.0.1:18999}]", "is front web"},
		{"fronts: [{name: web, listen: 127.0.0.1:18999, live: [" + live.addr() + "], key: ['haeder:x-user']}]", `extractor "haeder:x-user"`},
		{"fronts: [" + front + ", routes: [{pattern: /a, touch: ['json:to']}]}]", `route "/a": extractor "json:to"`},

		{"fronts: [" + front + ", routes: [{pattern: get /a}]}]", `route "get /a": matches nothing`},
		{"fronts: [" + front + ", routes: [{pattern: 'GET /a?b=c'}]}]", `route "GET /a?b=c": matches nothing`},
		{"fronts: [" + front + ", openapi: " + api + ", routes: [{pattern: GET /treads}]}]", api + `: route "GET /treads" matches nothing`},
		{"fronts: [" + front + ", openapi: " + api + ", routes: [{pattern: DELETE /threads}]}]", `"DELETE /threads" matches nothing`},
		{"fronts: [" + front + ", openapi: " + broken + "}]", broken + ":3: paths: threads: want a path"},

		{"fronts: [" + front + ", routes: [{pattern: /a, masks: [{field: 'json:$.at', within: 5s}]}]}]", `"/a: json:$.at within 5s" reads "json:$.at", which the record does not show`},
		{"record: ['json:$.other']\nfronts: [" + front + ", routes: [{pattern: /a, masks: [{field: 'json:$.n', within: 0.5}]}]}]", `"/a: json:$.n within 0.5" reads "json:$.n"`},
		{"fronts: [" + front + ", routes: [{pattern: /a, share: 10%}]}]", "on a route with masks"},
		{"fronts: [" + front + ", routes: [{pattern: /a, masks: [{field: 'json:$.a', feild: x}]}]}]", "feild: unknown key"},
		{"fronts: [" + front + ", ids: [{role: live, learn: ['json:$.id']}]}]", "role: "},
		{"fronts: [" + front + ", ids: [{role: shadow, learn: ['path:/a/{key}']}]}]", `ids: "path:/a/{key}": an answer has no such place`},
		{"fronts: [" + front + ", assign: [{from: 'json:$.id', to: nowhere}]}]", `assign to "nowhere"`},
		{"scrape: ['mine=http://127.0.0.1:9/']\nfronts: [" + front + "}]", "want live, shadow or control before the ="},
		{"scrape: [shadow]\nfronts: [" + front + "}]", "want ROLE=http://"},
		{"fronts: [" + front + ", translate: {rules: " + badJQ + "}}]", badJQ + ":3: rules[0].when: jq: unexpected token"},
		{"fronts: [" + front + ", translate: {rules: " + badField + "}}]", badField + ":5: rules[0].calls[0].call: the descriptors have no method"},
		{"descriptors: ../../scenarios/translate/legacy.binpb\nfronts: [" + front + ", translate: {rules: " + badField + "}}]", badField + ":6: rules[0].calls[0].body.qery: messages.v1.SearchRequest has no such field"},
		{"fronts: [" + front + ", translate: {rules: " + reading + "}}]", `rule "GET /a (line 5)" reads "json:$.folder", which the record does not show`},
		{"fronts: [" + front + ", translate: {rules: " + reading + ", roles: [live]}}]", "roles[0]: "},
		{"fronts: [" + front + "}]\ntranslate: {rules: " + reading + "}", "belong to one of them"},
		{"guard: {errors: 2}\nfronts: [" + front + "}]", "errors: got number, want string"},
		{"guard: {overhead: -1ms}\nfronts: [" + front + "}]", "overhead: "},
	} {
		config := write(fmt.Sprint("c", i, ".yaml"), tc.text+"\n")
		code, _, stderr := start(t, "mirror", "--admin", "127.0.0.1:0", "--config", config).end()
		if code != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s:\ngot %d and %q, want %d and one line with %q", tc.text, code, stderr, exitUsage, tc.want)
		}
	}
	if code, _, stderr := start(t, "mirror", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--live", live.addr(), "--key", "client-addr", "--openapi", filepath.Join(dir, "none")).end(); code != exitCouldNotRun || !strings.Contains(stderr, "--openapi") {
		t.Errorf("a description that is not there: got %d and %q, want %d", code, stderr, exitCouldNotRun)
	}
}

// TestMirrorOpenAPI takes routes from a description, with what the configuration
// says of them.
func TestMirrorOpenAPI(t *testing.T) {
	live, shadow := newRecorder(t), newRecorder(t)
	dir := t.TempDir()
	api, config := filepath.Join(dir, "api.yaml"), filepath.Join(dir, "mirror.yaml")
	if err := os.WriteFile(api, []byte("openapi: 3.0.0\nservers: [{url: /v1}]\npaths:\n  /inbox/{box}: {get: {}, delete: {}}\n  /health/{part}: {get: {}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte("routes: [{pattern: '/v1/health/{rest...}', mirror: false}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", live.addr(), "--shadow", shadow.addr(), "--key", "header:x-user",
		"--sample", "100%", "--admin", "127.0.0.1:0", "--openapi", api, "--config", config)
	admin, addr := r.ready("admin"), r.ready("mirror")
	for _, path := range []string{"/v1/health/all", "/v1/inbox/7", "/v1/other/7"} {
		askFor(t, addr, "ann", path)
	}
	waitFor(t, "two copies", func() bool { return len(shadow.seen()) == 2 })
	metrics := page(t, "http://"+admin+"/metrics")
	for _, want := range []string{
		`mirror_requests_total{code="200",front="mirror",method="GET",route="GET /v1/inbox/{box}"} 1`,
		`mirror_requests_total{code="200",front="mirror",method="GET",route="GET /v1/health/{part}"} 1`,
		`mirror_requests_total{code="200",front="mirror",method="GET",route="GET /v1/other/{}"} 1`,
		`mirror_copies_offered_total{role="shadow"} 2`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s", want)
		}
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone {
		t.Errorf("got %d; stderr: %s", code, stderr)
	}
}

// TestMirrorLiveDown resets clients at once, counts each, and does not fill the log.
func TestMirrorLiveDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := ln.Addr().String()
	ln.Close()
	r := start(t, "mirror", "--listen", "127.0.0.1:0", "--live", down, "--key", "client-addr", "--admin", "127.0.0.1:0")
	admin, addr := r.ready("admin"), r.ready("mirror")
	const clients = 200
	begin := time.Now()
	for range clients {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
			continue
		}
		conn.SetDeadline(time.Now().Add(30 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && err != io.EOF || n > 0 {
			t.Errorf("got %d bytes, %v, want a reset", n, err)
		}
		conn.Close()
	}
	waitFor(t, "the resets to be counted", func() bool {
		return strings.Contains(page(t, "http://"+admin+"/metrics"), fmt.Sprintf(`mirror_connections_closed_total{front="mirror",reason="live_down"} %d`, clients))
	})
	took := time.Since(begin)
	r.signal(syscall.SIGTERM)
	code, _, stderr := r.end()
	lines := strings.Count(stderr, "no address of live takes connections")
	if most := int(took/time.Second) + 1; code != exitDone || lines < 1 || lines > most {
		t.Errorf("got %d, and %d lines of log within %v, want between 1 and %d", code, lines, took, most)
	}
}
