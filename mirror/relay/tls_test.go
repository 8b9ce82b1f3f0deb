package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
)

// tlsRig is a Relay that terminates TLS before a live that is plain or, if
// liveTLS is given, speaks TLS as liveName.
func tlsRig(t *testing.T, liveTLS *tls.Config, liveName string, edit func(*rig, *Config)) *rig {
	t.Helper()
	return newRig(t, variant{name: "tls", tls: true}, func(g *rig, cfg *Config) {
		g.live = g.plainLive
		if liveTLS != nil {
			liveTLS.Certificates = []tls.Certificate{g.ca.pair(t, liveName)}
			g.live = tls.NewListener(g.live, liveTLS)
		} else {
			cfg.Live = []string{g.live.Addr().String()}
		}
		if edit != nil {
			edit(g, cfg)
		}
	})
}

// serveEcho answers each connection to live with what it says.
func (g *rig) serveEcho() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := g.live.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	g.t.Cleanup(func() {
		g.live.Close()
		<-done
	})
}

// TestALPN: the client is told what live chose, or what a plain live can do.
func TestALPN(t *testing.T) {
	all := []string{"h2", "http/1.1"}
	for _, test := range []struct {
		name    string
		live    []string // nil: live is plain
		h2c     bool
		offered []string
		want    string
		refused bool
	}{
		{name: "live chooses h2", live: all, offered: all, want: "h2"},
		{name: "live has only http/1.1", live: all[1:], offered: all, want: "http/1.1"},
		{name: "live has its own order", live: []string{"http/1.1", "h2"}, offered: all, want: "http/1.1"},
		{name: "a protocol of their own", live: []string{"imap"}, offered: []string{"imap"}, want: "imap"},
		{name: "live knows no ALPN", live: []string{}, offered: all, want: ""},
		{name: "the client offers none", live: all, want: ""},
		{name: "nothing in common", live: all, offered: []string{"imap"}, refused: true},
		{name: "plain live", offered: all, want: "http/1.1"},
		{name: "plain live, the client offers none", want: ""},
		{name: "plain live, the client insists on h2", offered: all[:1], refused: true},
		{name: "h2c", h2c: true, offered: all, want: "h2"},
		{name: "h2c, the client has only http/1.1", h2c: true, offered: all[1:], want: "http/1.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var live *tls.Config
			if test.live != nil {
				live = &tls.Config{NextProtos: test.live}
			}
			g := tlsRig(t, live, "relay.test", func(_ *rig, cfg *Config) { cfg.LiveH2C = test.h2c })
			g.serveEcho()
			c, err := g.tryDial("relay.test", test.offered...)
			if test.refused {
				if err == nil {
					t.Fatal("the handshake came about")
				}
				g.await(0, "mirror_connections_open")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			mustWrite(t, c, "hello")
			wantRead(t, c, "hello")
		})
	}
}

// TestSNI: live sees the name that the client asks for and all that it offers.
func TestSNI(t *testing.T) {
	type greeting struct {
		Name   string
		Protos []string
	}
	hellos := make(chan greeting, 1)
	g := tlsRig(t, &tls.Config{
		NextProtos: []string{"h2"},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			hellos <- greeting{h.ServerName, h.SupportedProtos}
			return nil, nil
		},
	}, "live.test", func(g *rig, cfg *Config) { cfg.Certificate, cfg.Key = g.ca.issue(t, "live.test") })
	g.serveEcho()
	c, err := g.tryDial("live.test", "h2", "other")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(greeting{"live.test", []string{"h2", "other"}}, <-hellos); diff != "" {
		t.Errorf("live was greeted otherwise (-want +got):\n%s", diff)
	}
	mustWrite(t, c, "hello")
	wantRead(t, c, "hello")
	info := g.observer().info
	if info.ServerName != "live.test" || info.ALPN != "h2" {
		t.Errorf("got %q and %q observed, want live.test and h2", info.ServerName, info.ALPN)
	}
}

// TestUntrustedLive: a live whose certificate is not by the authority, or for
// another name, gets no byte, and the client's handshake fails.
func TestUntrustedLive(t *testing.T) {
	for name, edit := range map[string]func(*rig, *Config){
		"authority": func(g *rig, cfg *Config) { atLocalhost(g, cfg); cfg.LiveCA = newAuthority(t).file },
		"name":      nil, // live.test, and clients ask for relay.test
	} {
		t.Run(name, func(t *testing.T) {
			g := tlsRig(t, new(tls.Config), "live.test", edit)
			g.serveEcho()
			if _, err := g.tryDial("relay.test"); err == nil || !strings.Contains(err.Error(), "internal error") {
				t.Errorf("got %v, want an alert", err)
			}
			g.await(1, "mirror_live_dial_failures_total", "reason", "tls")
			g.await(1, "mirror_connections_closed_total", "reason", "live_down")
			g.await(0, "mirror_connections_open")
		})
	}
}

// atLocalhost makes live known by its name.
func atLocalhost(g *rig, cfg *Config) {
	cfg.Live = []string{fmt.Sprintf("https://localhost:%d", g.live.Addr().(*net.TCPAddr).Port)}
}

// TestLiveByItsOwnName: a certificate for the name by which the operator knows
// live will do, whatever name clients ask for.
func TestLiveByItsOwnName(t *testing.T) {
	g := tlsRig(t, new(tls.Config), "localhost", atLocalhost)
	g.serveEcho()
	c, err := g.tryDial("relay.test")
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c, "hello")
	wantRead(t, c, "hello")
}

// TestReload: new connections see the new certificate; a bad file changes nothing.
func TestReload(t *testing.T) {
	var cert, key string
	g := tlsRig(t, nil, "", func(_ *rig, cfg *Config) { cert, key = cfg.Certificate, cfg.Key })
	g.serveEcho()
	serial := func() string {
		c, err := g.tryDial("relay.test")
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, c, "hello")
		wantRead(t, c, "hello")
		return c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	old := serial()
	g.ca.issue(t, "relay.test") // the same files
	if got := serial(); got != old {
		t.Error("the certificate changed without Reload")
	}
	if err := g.r.Reload(); err != nil {
		t.Fatal(err)
	}
	renewed := serial()
	if renewed == old {
		t.Error("Reload did not change the certificate")
	}
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.r.Reload(); err == nil || !strings.Contains(err.Error(), cert) {
		t.Errorf("got %v, want an error that names %s", err, cert)
	}
	if got := serial(); got != renewed {
		t.Error("a failed Reload changed the certificate")
	}
}

// TestNoTLS: who speaks no TLS, or nothing, is let go.
func TestNoTLS(t *testing.T) {
	g := tlsRig(t, nil, "", func(_ *rig, cfg *Config) { cfg.HandshakeTimeout = 100 * time.Millisecond })
	plain := g.dialRaw()
	mustWrite(t, plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_, _ = io.Copy(io.Discard, plain)
	silent := g.dialRaw()
	_, _ = io.Copy(io.Discard, silent)
	g.await(2, "mirror_connections_closed_total", "reason", "tls_handshake")
}

// TestResumption: a client resumes its session, and still gets a live of its own.
func TestResumption(t *testing.T) {
	g := tlsRig(t, nil, "", nil)
	g.serveEcho()
	cache := tls.NewLRUClientSessionCache(1)
	for i := range 3 {
		raw := g.dialRaw()
		c := tls.Client(raw, &tls.Config{RootCAs: g.ca.pool, ServerName: "relay.test", ClientSessionCache: cache})
		mustWrite(t, c, "hello")
		wantRead(t, c, "hello")
		if got := c.ConnectionState().DidResume; got != (i > 0) {
			t.Errorf("connection %d: got resumed %t", i, got)
		}
		c.Close()
	}
}

// TestTLSBehindProxies: the PROXY header comes before TLS, on either side.
func TestTLSBehindProxies(t *testing.T) {
	g := tlsRig(t, nil, "", func(g *rig, cfg *Config) { cfg.ProxyIn, cfg.ProxyOut = true, true })
	headers := make(chan *proxyproto.Header, 1)
	go func() {
		c := g.accept()
		in := bufio.NewReader(c)
		h, err := proxyproto.Read(in)
		if err != nil {
			t.Error(err)
		}
		headers <- h
		_, _ = io.Copy(c, in)
	}()
	raw := g.dialRaw()
	if _, err := raw.Write(header(t, 1, sourceText, destText)); err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{RootCAs: g.ca.pool, ServerName: "relay.test"})
	mustWrite(t, c, "hello")
	wantRead(t, c, "hello")
	source, dest, _ := (<-headers).TCPAddrs()
	if unmapped(source) != netip.MustParseAddrPort(sourceText) || unmapped(dest) != netip.MustParseAddrPort(destText) {
		t.Errorf("live was told of %v to %v", source, dest)
	}
}

// TestPlainToTLS: plain clients of a live that speaks TLS.
func TestPlainToTLS(t *testing.T) {
	g := tlsRig(t, new(tls.Config), "localhost", func(g *rig, cfg *Config) {
		atLocalhost(g, cfg)
		cfg.Certificate, cfg.Key = "", ""
	})
	g.serveEcho()
	c := g.dialRaw()
	mustWrite(t, c, "hello")
	wantRead(t, c, "hello")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	wantEOF(t, c)
}

func TestWarnings(t *testing.T) {
	g := tlsRig(t, nil, "", nil)
	if w := g.r.Warnings(); len(w) != 1 || !strings.Contains(w[0], "client's certificate") {
		t.Errorf("got %q, want one about client certificates", w)
	}
}

func TestBadConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no live":       {},
		"no port":       {Live: []string{"localhost"}},
		"named port":    {Live: []string{"localhost:http"}},
		"mixed":         {Live: []string{"127.0.0.1:1", "https://127.0.0.1:2"}},
		"no such file":  {Live: []string{"127.0.0.1:1"}, Certificate: "/none", Key: "/none"},
		"no authority":  {Live: []string{"https://127.0.0.1:1"}, LiveCA: os.DevNull},
		"bad listen":    {Live: []string{"127.0.0.1:1"}, Listen: "127.0.0.1:http/2"},
		"unknown names": {Live: []string{"nobody.invalid:1"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestItself: a relay that is its own live would open connections without end.
func TestItself(t *testing.T) {
	first, err := New(Config{Listen: "127.0.0.1:0", Live: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	addr := first.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = first.Run(ctx) // and the address is free
	if _, err := New(Config{Listen: addr, Live: []string{addr}}); err == nil || !strings.Contains(err.Error(), "itself") {
		t.Errorf("got %v, want a refusal", err)
	}
}
