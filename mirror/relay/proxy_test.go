package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

const (
	sourceText = "192.0.2.7:1234"
	destText   = "198.51.100.9:443"
)

// header formats a header of version for source and dest.
func header(t testing.TB, version byte, source, dest string, tlvs ...proxyproto.TLV) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version,
		net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source)), net.TCPAddrFromAddrPort(netip.MustParseAddrPort(dest)))
	if len(tlvs) > 0 {
		if err := h.SetTLVs(tlvs); err != nil {
			t.Fatal(err)
		}
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// collect feeds all to a proxyHeader as a driver does and returns it with what
// is left.
func collect(all []byte) (h proxyHeader, left []byte, err error) {
	left = all
	for {
		n, err := h.missing()
		if err != nil || n == 0 {
			return h, left, err
		}
		if n > len(left) {
			return h, left, io.ErrUnexpectedEOF
		}
		h, left = append(h, left[:n]...), left[n:]
	}
}

func TestProxyHeader(t *testing.T) {
	tlv := proxyproto.TLV{Type: 0xe0, Value: bytes.Repeat([]byte("v"), 300)}
	for _, test := range []struct {
		name   string
		header []byte
		client string // "": the sender speaks for itself
	}{
		{"v1", header(t, 1, sourceText, destText), sourceText},
		{"v1 of IPv6", header(t, 1, "[2001:db8::1]:9", "[2001:db8::2]:8"), "[2001:db8::1]:9"},
		{"v1 unknown", []byte("PROXY UNKNOWN\r\n"), ""},
		{"v1 unknown with addresses", []byte("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n"), ""},
		{"v2", header(t, 2, sourceText, destText), sourceText},
		{"v2 of IPv6", header(t, 2, "[2001:db8::1]:9", "[2001:db8::2]:8"), "[2001:db8::1]:9"},
		{"v2 of mapped addresses", []byte(signatureV2 + "\x21\x21\x00\x24" +
			strings.Repeat("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x07", 2) + "\x00\x09\x00\x08"), "192.0.2.7:9"},
		{"v2 with TLVs", header(t, 2, sourceText, destText, tlv), sourceText},
		{"v2 local", []byte(signatureV2 + "\x20\x00\x00\x00"), ""},
		{"v2 local with TLVs", []byte(signatureV2 + "\x20\x00\x00\x04\xe0\x00\x01v"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, left, err := collect(append(bytes.Clone(test.header), "GET /"...))
			if err != nil || string(left) != "GET /" {
				t.Fatalf("got %v, %q left, want what follows the header", err, left)
			}
			client, _, err := h.addresses()
			if err != nil {
				t.Fatal(err)
			}
			if got := client.String(); client.IsValid() && got != test.client || !client.IsValid() && test.client != "" {
				t.Errorf("got client %s, want %q", got, test.client)
			}
		})
	}
}

// badHeaders are refused.
var badHeaders = map[string]string{
	"HTTP":                "GET / HTTP/1.1\r\n\r\n",
	"TLS":                 "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00",
	"v1 without end":      "PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n",
	"v1 with LF alone":    "PROXY TCP4 192.0.2.7 198.51.100.9 1 2\n",
	"v1 of UDP":           "PROXY UDP4 192.0.2.7 198.51.100.9 1 2\r\n",
	"v1 of few fields":    "PROXY TCP4 192.0.2.7\r\n",
	"v1 of a bad address": "PROXY TCP4 192.0.2.700 198.51.100.9 1 2\r\n",
	"v1 of a bad port":    "PROXY TCP4 192.0.2.7 198.51.100.9 1 70000\r\n",
	"v1 of IPv6 as TCP4":  "PROXY TCP4 ::1 ::1 1 2\r\n",
	"v2 too long":         signatureV2 + "\x21\x11\xff\xff" + strings.Repeat("x", 65535),
	"v2 of version 3":     signatureV2 + "\x31\x11\x00\x0c" + strings.Repeat("x", 12),
	"v2 of command 7":     signatureV2 + "\x27\x11\x00\x0c" + strings.Repeat("x", 12),
	"v2 too short":        signatureV2 + "\x21\x11\x00\x04xxxx",
	"v2 of UDP":           signatureV2 + "\x21\x12\x00\x0c" + strings.Repeat("x", 12),
	"v2 of a unix socket": signatureV2 + "\x21\x31\x00\xd8" + strings.Repeat("x", 216),
}

func TestBadProxyHeader(t *testing.T) {
	for name, text := range badHeaders {
		t.Run(name, func(t *testing.T) {
			h, _, err := collect([]byte(text))
			if err == nil {
				_, _, err = h.addresses()
			}
			if !errors.Is(err, errProxyHeader) {
				t.Errorf("got %v, want a refusal", err)
			}
		})
	}
}

func FuzzProxyHeader(f *testing.F) {
	for _, text := range badHeaders {
		f.Add([]byte(text))
	}
	f.Add(header(f, 1, sourceText, destText))
	f.Add(header(f, 2, sourceText, destText))
	f.Add(header(f, 2, "[2001:db8::1]:9", "[2001:db8::2]:8", proxyproto.TLV{Type: 1, Value: []byte("h2")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, left, err := collect(b)
		if len(h) > maxHeaderV2 || !bytes.Equal(append(bytes.Clone(h), left...), b) {
			t.Fatalf("took %d bytes, left %d of %d", len(h), len(left), len(b))
		}
		if err != nil {
			return
		}
		client, _, err := h.addresses()
		if err != nil {
			return
		}
		// What is understood, the library understands in the same way, and as
		// long as it was taken to be.
		in := bufio.NewReader(bytes.NewReader(b))
		decoded, err := proxyproto.Read(in)
		if err != nil {
			t.Fatalf("the library refuses what was accepted: %v", err)
		}
		rest, _ := io.ReadAll(in)
		if source, _, ok := decoded.TCPAddrs(); ok && client.IsValid() && unmapped(source) != client {
			t.Fatalf("got client %v, the library says %v", client, source)
		}
		if !bytes.Equal(rest, left) {
			t.Fatalf("left %d bytes, the library %d", len(left), len(rest))
		}
	})
}

// dialRaw connects a client without TLS.
func (g *rig) dialRaw() net.Conn {
	g.t.Helper()
	c, err := net.Dial("tcp", g.r.Addr().String())
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// plainWays is eachWay but for TLS, whose clients come after the header.
func plainWays(t *testing.T, test func(*testing.T, variant)) {
	eachWay(t, func(t *testing.T, v variant) {
		if !v.tls {
			test(t, v)
		}
	})
}

// TestProxyIn: who the client is comes from the header, in one piece or in
// many, and what follows it passes.
func TestProxyIn(t *testing.T) {
	plainWays(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.ProxyIn = true })
		for _, h := range [][]byte{header(t, 1, sourceText, destText), header(t, 2, sourceText, destText)} {
			for _, piece := range []int{1, len(h), len(h) + 7} {
				client := g.dialRaw()
				all := append(bytes.Clone(h), "request"...)
				for len(all) > 0 {
					n := min(piece, len(all))
					mustWrite(t, client, string(all[:n]))
					all = all[n:]
				}
				live := g.accept()
				wantRead(t, live, "request")
				o := g.observer()
				if got := o.info.Client.String(); got != sourceText {
					t.Errorf("got client %s, want %s", got, sourceText)
				}
				o.await(t, Client, "request")
				client.Close()
				live.Close()
			}
		}
	})
}

func TestProxyInGarbage(t *testing.T) {
	plainWays(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.ProxyIn = true })
		for name, text := range badHeaders {
			client := g.dialRaw()
			_, _ = io.WriteString(client, text)
			if n, err := io.Copy(io.Discard, client); n != 0 || errors.Is(err, errTimeout(err)) {
				t.Errorf("%s: got %d bytes, %v, want the connection closed", name, n, err)
			}
		}
		client := g.dialRaw()
		mustWrite(t, client, "PROXY TCP4")
		client.(*net.TCPConn).CloseWrite() // within the header
		_, _ = io.Copy(io.Discard, client)
		g.await(float64(len(badHeaders)+1), "mirror_connections_closed_total", "reason", "proxy_header")
		g.await(0, "mirror_connections_open")
	})
}

// errTimeout is err if it is a time-out, else an error that nothing is.
func errTimeout(err error) error {
	if isTimeout(err) {
		return err
	}
	return errors.New("none")
}

func TestProxyInTimeout(t *testing.T) {
	plainWays(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.ProxyIn, cfg.HandshakeTimeout = true, 100*time.Millisecond })
		client := g.dialRaw()
		mustWrite(t, client, "PROXY ")
		_, _ = io.Copy(io.Discard, client)
		g.await(1, "mirror_connections_closed_total", "reason", "proxy_header")
	})
}

func TestProxyOut(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		if v.tls {
			return // TestTLSBehindProxies
		}
		for _, test := range []struct{ in, wantSource, wantDest string }{
			{"", "", ""},
			{sourceText, sourceText, destText},
			{"[2001:db8::1]:9", "[2001:db8::1]:9", destText},
		} {
			g := newRig(t, v, func(_ *rig, cfg *Config) { cfg.ProxyOut, cfg.ProxyIn = true, test.in != "" })
			client := g.dialRaw()
			if test.in == "" {
				test.wantSource, test.wantDest = client.LocalAddr().String(), client.RemoteAddr().String()
			} else {
				h := proxyproto.Header{
					Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv6,
					SourceAddr:      net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.in)),
					DestinationAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(test.wantDest)),
				}
				if _, err := h.WriteTo(client); err != nil {
					t.Fatal(err)
				}
			}
			mustWrite(t, client, "request")
			in := bufio.NewReader(g.accept())
			h, err := proxyproto.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			source, dest, _ := h.TCPAddrs()
			if h.Version != 2 || unmapped(source).String() != test.wantSource || unmapped(dest).String() != test.wantDest {
				t.Errorf("got version %d, %v to %v, want 2, %s to %s", h.Version, source, dest, test.wantSource, test.wantDest)
			}
			wantRead(t, in, "request")
			g.observer().await(t, Client, "request") // and not the header
		}
	})
}
