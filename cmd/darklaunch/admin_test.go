package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// certificateFiles writes a certificate for 127.0.0.1 and its key, and returns
// the pool of who trusts it.
func certificateFiles(t *testing.T) (cert, key string, trusted *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	trusted = x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	trusted.AddCert(leaf)
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER), trusted
}

// TestAdminByTLSWithToken opens the admin listener on all addresses, which
// takes both, and asks with neither, one and both.
func TestAdminByTLSWithToken(t *testing.T) {
	cert, key, trusted := certificateFiles(t)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, "test-service", "--admin", "0.0.0.0:0", "--admin-tls-cert", cert, "--admin-tls-key", key, "--admin-token", "@"+token)
	_, port, err := net.SplitHostPort(r.ready("admin"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}}
	defer transport.CloseIdleConnections()
	for _, tc := range []struct {
		scheme, token string
		want          int
	}{
		{"https", "secret", 200},
		{"https", "", 401},
		{"https", "secrets", 401},
		{"http", "secret", 400}, // net/http's own answer to who does not speak TLS
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", tc.scheme+"://127.0.0.1:"+port+"/api/v1/state", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			req.Header.Set("Authorization", "Bearer "+tc.token)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s with token %q: got %s, want %d", tc.scheme, tc.token, resp.Status, tc.want)
		}
	}
	r.signal(syscall.SIGTERM)
	if code, _, stderr := r.end(); code != exitDone || stderr != "darklaunch: terminated: finishing; once more to stop at once\n" {
		t.Errorf("got %d and %q, want %d and no word of who spoke no TLS", code, stderr, exitDone)
	}
}

// TestSpansAreExported sees spans arrive at a collector, and that one which is
// down costs spans alone.
func TestSpansAreExported(t *testing.T) {
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10") // ms, as OpenTelemetry specifies it; else 5 s
	got := make(chan string, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.URL.Path }))
	down := httptest.NewServer(nil)
	down.Close()
	for _, to := range []*httptest.Server{collector, down} {
		r := start(t, "test-service", "--otlp", to.Listener.Addr().String())
		resp, err := http.Get("http://" + r.ready("admin") + "/api/v1/state")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if to == collector {
			select {
			case path := <-got:
				if path != "/v1/traces" {
					t.Errorf("the collector got %s, want /v1/traces", path)
				}
			case <-time.After(30 * time.Second):
				t.Error("the collector got no spans")
			}
		}
		r.signal(syscall.SIGTERM)
		if code, _, stderr := r.end(); code != exitDone {
			t.Errorf("got %d, want %d; stderr: %s", code, exitDone, stderr)
		}
	}
	collector.Close()
}
