package ops

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := Listen("127.0.0.1:0", "--admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func adminConfig(t *testing.T) AdminConfig {
	tracing := NewTracing(TracingConfig{Service: "test"})
	t.Cleanup(func() { tracing.Shutdown(context.Background()) })
	return AdminConfig{Program: "test", Version: "v0", Registry: prometheus.NewRegistry(), Tracing: tracing}
}

// selfSigned makes a certificate for name.
func selfSigned(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// anywhere is a listener that says it is reachable from elsewhere.
type anywhere struct{ net.Listener }

func (anywhere) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero, Port: 1} }

func TestAdminWhoMayDoWhat(t *testing.T) {
	local := listen(t)
	for _, tc := range []struct {
		name   string
		token  string
		remote bool // the listener is off loopback, with TLS for admin.example
		method string
		path   string
		host   string
		header map[string]string
		want   int
	}{
		{name: "read", method: "GET", path: "/api/v1/state", want: 200},
		{name: "read by name", method: "GET", path: "/api/v1/state", host: "localhost:8601", want: 200},
		{name: "read by name in capitals", method: "GET", path: "/api/v1/state", host: "LOCALHOST:8601", want: 200},
		{name: "read by IPv6", method: "GET", path: "/api/v1/state", host: "[::1]:8601", want: 200},
		{name: "rebound name", method: "GET", path: "/api/v1/state", host: "evil.example", want: 421},
		{name: "rebound name on metrics", method: "GET", path: "/metrics", host: "evil.example:8601", want: 421},
		{name: "no host", method: "GET", path: "/api/v1/state", host: " ", want: 421},
		{name: "unknown path", method: "GET", path: "/nothing", want: 404},

		{name: "change", method: "PUT", path: "/api/v1/level", header: map[string]string{"Content-Type": "application/json; charset=utf-8"}, want: 200},
		{name: "change as a form", method: "PUT", path: "/api/v1/level", header: map[string]string{"Content-Type": "text/plain"}, want: 415},
		{name: "change without a type", method: "PUT", path: "/api/v1/level", want: 415},
		{name: "change from our page", method: "PUT", path: "/api/v1/level", header: map[string]string{
			"Content-Type": "application/json", "Origin": "http://127.0.0.1:8601"}, want: 200},
		{name: "change from another page", method: "PUT", path: "/api/v1/level", header: map[string]string{
			"Content-Type": "application/json", "Origin": "http://evil.example"}, want: 403},
		{name: "change from another site", method: "PUT", path: "/api/v1/level", header: map[string]string{
			"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"}, want: 403},
		{name: "wrong method", method: "DELETE", path: "/api/v1/level", header: map[string]string{"Content-Type": "application/json"}, want: 405},

		{name: "no token", token: "t", method: "GET", path: "/api/v1/state", want: 401},
		{name: "wrong token", token: "t", method: "GET", path: "/api/v1/state", header: map[string]string{"Authorization": "Bearer x"}, want: 401},
		{name: "bare token", token: "t", method: "GET", path: "/api/v1/state", header: map[string]string{"Authorization": "t"}, want: 401},
		{name: "token", token: "t", method: "GET", path: "/api/v1/state", header: map[string]string{"Authorization": "Bearer t"}, want: 200},
		{name: "profile without token", token: "t", method: "GET", path: "/debug/pprof/heap", want: 401},
		{name: "metrics need no token", token: "t", method: "GET", path: "/metrics", want: 200},
		{name: "health needs no token", token: "t", method: "GET", path: "/healthz", want: 200},

		{name: "remote by its name", remote: true, method: "GET", path: "/healthz", host: "admin.example", want: 200},
		{name: "remote by another", remote: true, method: "GET", path: "/healthz", host: "127.0.0.1", want: 421},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := adminConfig(t)
			cfg.Token = tc.token
			changed := false
			cfg.Routes = map[string]http.Handler{"PUT /api/v1/level": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { changed = true })}
			var l net.Listener = local
			var cert *tls.Certificate
			if tc.remote {
				l, cert = anywhere{local}, selfSigned(t, "admin.example")
			}
			r := httptest.NewRequest(tc.method, tc.path, nil)
			r.Host = "127.0.0.1:8601"
			if tc.host != "" {
				r.Host = strings.TrimSpace(tc.host)
			}
			for k, v := range tc.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			Admin(l, cert, cfg).ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Errorf("got status %d (%s), want %d", w.Code, strings.TrimSpace(w.Body.String()), tc.want)
			}
			if h := w.Header(); h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cross-Origin-Resource-Policy") != "same-origin" {
				t.Errorf("got headers %v, want those that keep other pages from taking it in", h)
			}
			if want := tc.method == "PUT" && tc.want == 200; changed != want {
				t.Errorf("changed something: got %v, want %v", changed, want)
			}
		})
	}
}

func TestCheckAdmin(t *testing.T) {
	local := listen(t)
	cert := selfSigned(t, "admin.example")
	for _, tc := range []struct {
		name  string
		l     net.Listener
		cert  *tls.Certificate
		token string
		want  error
	}{
		{"loopback", local, nil, "", nil},
		{"anywhere, bare", anywhere{local}, nil, "", ErrExposed},
		{"anywhere, only TLS", anywhere{local}, cert, "", ErrExposed},
		{"anywhere, only a token", anywhere{local}, nil, "t", ErrExposed},
		{"anywhere, both", anywhere{local}, cert, "t", nil},
	} {
		if got := CheckAdmin(tc.l, tc.cert, tc.token); !errors.Is(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestServe goes through a real socket: metrics of both registries, readiness
// that follows the program, state, the page, and a stop that a long profile
// does not hold up.
func TestServe(t *testing.T) {
	defer goleak.VerifyNone(t)
	l := listen(t)
	cfg := adminConfig(t)
	own := prometheus.NewCounter(prometheus.CounterOpts{Name: "own_total", Help: "A counter of ours."})
	own.Add(3)
	cfg.Registry.MustRegister(own)
	notReady := errors.New("still loading")
	cfg.Ready = func() error { return notReady }
	cfg.State = func() any { return map[string]int{"answer": 42} }

	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(l, Admin(l, nil, cfg), nil)(ctx) }()
	client := &http.Client{}
	defer client.CloseIdleConnections()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}

	if _, got := get("/metrics"); !strings.Contains(got, "own_total 3") || !strings.Contains(got, "go_goroutines ") {
		t.Errorf("metrics miss ours or those of the default registry:\n%s", got)
	}
	if code, got := get("/readyz"); code != 503 || !strings.Contains(got, "still loading") {
		t.Errorf("not ready: got %d %q, want 503 with the reason", code, got)
	}
	if _, got := get("/"); !strings.Contains(got, "not ready: still loading") || !strings.Contains(got, "answer") {
		t.Errorf("the page shows neither readiness nor state:\n%s", got)
	}
	notReady = nil
	if code, _ := get("/readyz"); code != 200 {
		t.Errorf("ready: got %d, want 200", code)
	}
	var state struct{ Answer int }
	if _, got := get("/api/v1/state"); json.Unmarshal([]byte(got), &state) != nil || state.Answer != 42 {
		t.Errorf("state: got %q, want the answer 42", got)
	}

	profiling := make(chan struct{})
	go func() {
		defer close(profiling)
		get("/debug/pprof/profile?seconds=3600")
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, got := get("/debug/pprof/goroutine?debug=1"); strings.Contains(got, "pprof.Profile") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the profile did not begin")
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("stop: got %v, want no error", err)
	}
	<-profiling
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("the listener still accepts after the stop")
	}
}

// TestServeHandlerPanics holds that a panic reaches the client as a 500 and the
// log as a line, and that no stack is shown to who did not ask for debug.
func TestServeHandlerPanics(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, level := range []slog.Level{slog.LevelInfo, slog.LevelDebug} {
		var logged bytes.Buffer
		log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: level}))
		l := listen(t)
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom") })
		go func() { served <- Serve(l, h, log)(ctx) }()
		resp, err := http.Get("http://" + l.Addr().String() + "/broken")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 500 || strings.Contains(string(body), "boom") {
			t.Errorf("got %s, %q, %v, want a bare 500", resp.Status, body, err)
		}
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
		got := logged.String()
		if !strings.Contains(got, "path=/broken panic=boom") {
			t.Errorf("logged %q, want the path and the reason", got)
		}
		if has := strings.Contains(got, "admin_test.go"); has != (level == slog.LevelDebug) {
			t.Errorf("level %v: a stack in the log: %v, want it at debug alone", level, has)
		}
	}
}

func TestListenTellsWhatIsWrong(t *testing.T) {
	taken := listen(t)
	_, err := Listen(taken.Addr().String(), "--admin")
	if err == nil || !strings.Contains(err.Error(), taken.Addr().String()) || !strings.Contains(err.Error(), "--admin") ||
		!strings.Contains(err.Error(), "in use") {
		t.Errorf("got %v, want the address, the flag and the reason", err)
	}
	if _, err := Listen("192.0.2.1:0", "--metrics"); err == nil || !strings.Contains(err.Error(), "--metrics") {
		t.Errorf("got %v, want an error that names the flag", err)
	}
}

// unixListener is a listener on a unix socket.
type unixListener struct{ net.Listener }

func (unixListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: "/s"} }

// TestGuard holds that a listener which is not the admin's is protected as that is.
func TestGuard(t *testing.T) {
	local := listen(t)
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, tc := range []struct {
		name   string
		l      net.Listener
		token  string
		method string
		host   string
		header map[string]string
		want   int
	}{
		{"read", local, "", "GET", "127.0.0.1", nil, 418},
		{"rebound name", local, "", "GET", "evil.example", nil, 421},
		{"any name on a socket", unixListener{local}, "", "GET", "verdict", nil, 418},
		{"no token", local, "t", "GET", "127.0.0.1", nil, 401},
		{"no token on a socket", unixListener{local}, "t", "GET", "x", nil, 401},
		{"token", local, "t", "GET", "127.0.0.1", map[string]string{"Authorization": "Bearer t"}, 418},
		{"change as a form", local, "", "POST", "127.0.0.1", nil, 415},
		{"change", local, "", "POST", "127.0.0.1", map[string]string{"Content-Type": "application/json"}, 418},
		{"change from another page", local, "", "POST", "127.0.0.1", map[string]string{"Content-Type": "application/json", "Origin": "http://evil.example"}, 403},
	} {
		r := httptest.NewRequest(tc.method, "/", nil)
		r.Host = tc.host
		for k, v := range tc.header {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		Guard(tc.l, nil, tc.token, nil, ok).ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, w.Code, tc.want)
		}
	}
}

// TestGuardReads lets any method and content type in, and neither another page
// nor one without the token.
func TestGuardReads(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := GuardReads(l, nil, "secret", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, tc := range []struct {
		name, host, origin, token string
		want                      int
	}{
		{"a form", "localhost", "", "secret", 200},
		{"of our page", "localhost", "http://localhost", "secret", 200},
		{"of another page", "localhost", "http://evil.example", "secret", 403},
		{"by another name", "evil.example", "", "secret", 421},
		{"without the token", "localhost", "", "", 401},
	} {
		r := httptest.NewRequest("POST", "http://"+tc.host+"/api/v1/query", strings.NewReader("query=up"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Authorization", "Bearer "+tc.token)
		if tc.origin != "" {
			r.Header.Set("Origin", tc.origin)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, w.Code, tc.want)
		}
	}
}
