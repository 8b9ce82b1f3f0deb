package relay

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests wait far more than they work.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait of a test: nothing here takes long unless it hangs.
const patience = time.Minute

// variant is a way in which every test runs.
type variant struct {
	name     string
	portable bool
	tls      bool // on both sides
}

// eachWay runs test in all variants, beside other tests.
func eachWay(t *testing.T, test func(*testing.T, variant)) {
	t.Parallel()
	eachWayAlone(t, test)
}

// eachWayAlone is eachWay for tests that look at the whole process, or keep all
// CPUs busy.
func eachWayAlone(t *testing.T, test func(*testing.T, variant)) {
	all := []variant{{name: "goroutines", portable: true}, {name: "tls", tls: true}}
	if runtime.GOOS == "linux" {
		all = append(all, variant{name: "loops"})
	}
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

// rig is a Relay between a test's clients and the test as live.
type rig struct {
	t         *testing.T
	v         variant
	r         *Relay
	live      net.Listener
	plainLive net.Listener // under live, if that is TLS
	reg       *prometheus.Registry
	ca        *authority

	observers chan *recorder
	stop      func() // ends Run and waits for it; may be repeated
}

// newRig runs a Relay whose cfg edit has changed.
func newRig(t *testing.T, v variant, edit func(*rig, *Config)) *rig {
	t.Helper()
	g := &rig{t: t, v: v, reg: prometheus.NewRegistry(), observers: make(chan *recorder, 4096)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.live, g.plainLive = ln, ln
	cfg := Config{
		Front: "f", Listen: "127.0.0.1:0", Live: []string{ln.Addr().String()}, Portable: v.portable, Loops: 2,
		DialTimeout: patience, HandshakeTimeout: patience, DrainTimeout: 20 * time.Millisecond, Metrics: NewMetrics(g.reg, "f"),
		Observe: func(info Info) Observer {
			o := &recorder{info: info, ended: make(chan struct{})}
			g.observers <- o
			return o
		},
	}
	if v.tls {
		g.ca = newAuthority(t)
		cfg.Live[0] = "https://" + cfg.Live[0]
		cfg.Certificate, cfg.Key = g.ca.issue(t, "relay.test")
		cfg.LiveCA = g.ca.file
		g.live = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{g.ca.pair(t, "relay.test")}})
	}
	if edit != nil {
		edit(g, &cfg)
	}
	if g.r, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	if want := runtime.GOOS != "linux" || v.portable || g.r.tls != nil; want != isStreams(g.r.driver) {
		t.Fatalf("got driver %T in variant %s", g.r.driver, v.name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	g.stop = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Run has not returned")
		}
	}
	t.Cleanup(func() {
		g.stop()
		g.live.Close()
	})
	return g
}

func isStreams(d driver) bool {
	_, ok := d.(*streams)
	return ok
}

// half is one end of a connection, plain or TLS.
type half struct {
	net.Conn
	raw *net.TCPConn
}

func (h half) CloseWrite() error {
	if c, ok := h.Conn.(*tls.Conn); ok {
		return c.CloseWrite()
	}
	return h.raw.CloseWrite()
}

// reset closes h with RST.
func (h half) reset() {
	_ = h.raw.SetLinger(0)
	h.raw.Close()
}

// dial connects a client to the Relay.
func (g *rig) dial() half {
	g.t.Helper()
	c, err := g.tryDial("relay.test")
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *rig) tryDial(serverName string, alpn ...string) (half, error) {
	raw, err := net.Dial("tcp", g.r.Addr().String())
	if err != nil {
		return half{}, err
	}
	g.t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(patience))
	h := half{raw, raw.(*net.TCPConn)}
	if g.v.tls {
		c := tls.Client(raw, &tls.Config{RootCAs: g.ca.pool, ServerName: serverName, NextProtos: alpn})
		if err := c.Handshake(); err != nil {
			return h, err
		}
		h.Conn = c
	}
	return h, nil
}

// accept takes a connection as live.
func (g *rig) accept() half {
	g.t.Helper()
	c, err := g.live.Accept()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	h := half{Conn: c}
	if over, ok := c.(*tls.Conn); ok {
		h.raw = over.NetConn().(*net.TCPConn)
	} else {
		h.raw = c.(*net.TCPConn)
	}
	return h
}

// pair returns both ends of a connection through the Relay.
func (g *rig) pair() (client, live half) {
	g.t.Helper()
	if !g.v.tls {
		client = g.dial()
		return client, g.accept()
	}
	// Live's handshake is done while the client's goes on.
	accepted := make(chan half, 1)
	go func() {
		live := g.accept()
		_ = live.Conn.(*tls.Conn).Handshake()
		accepted <- live
	}()
	client = g.dial()
	return client, <-accepted
}

// connect is pair, with what observes the connection.
func (g *rig) connect() (client, live half, o *recorder) {
	g.t.Helper()
	client, live = g.pair()
	return client, live, g.observer()
}

func (g *rig) observer() *recorder {
	g.t.Helper()
	select {
	case o := <-g.observers:
		return o
	case <-time.After(patience):
		g.t.Fatal("no observer was asked for")
		return nil
	}
}

// value reads a metric; labels are all but front, in pairs.
func (g *rig) value(name string, labels ...string) float64 {
	g.t.Helper()
	families, err := g.reg.Gather()
	if err != nil {
		g.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if hasLabels(m, labels) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	g.t.Fatalf("no metric %s %q", name, labels)
	return 0
}

func hasLabels(m *dto.Metric, labels []string) bool {
	for i := 0; i < len(labels); i += 2 {
		found := false
		for _, l := range m.GetLabel() {
			found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
		}
		if !found {
			return false
		}
	}
	return true
}

// await waits until the metric has the value: the relay's side of an event that
// the test has seen the other side of.
func (g *rig) await(want float64, name string, labels ...string) {
	g.t.Helper()
	until(g.t, func() bool { return g.value(name, labels...) == want }, func() {
		g.t.Fatalf("got %s %q %v, want %v", name, labels, g.value(name, labels...), want)
	})
}

func until(t *testing.T, ok func() bool, otherwise func()) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			otherwise()
			return
		}
	}
}

// recorder is an Observer that keeps what it is told.
type recorder struct {
	info  Info
	ended chan struct{} // closed by Close

	mu    sync.Mutex
	bytes [2]bytes.Buffer
	eofs  [2]bool
	cause Cause
	busy  bool // what State says
	fault string
}

func (o *recorder) Chunk(side Side, at time.Time, p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause != 0 || o.eofs[side] {
		o.fault = "a chunk after the end"
	}
	if since := time.Since(at); since < 0 || since > patience {
		o.fault = "a chunk of another time: " + since.String()
	}
	o.bytes[side].Write(p)
}

func (o *recorder) EOF(side Side, _ time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause != 0 || o.eofs[side] {
		o.fault = "an EOF after the end"
	}
	o.eofs[side] = true
}

func (o *recorder) Close(cause Cause, _ time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause != 0 {
		o.fault = "closed twice"
	}
	o.cause = cause
	close(o.ended)
}

func (o *recorder) State() (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bytes[Client].Len() == 0 {
		return "", !o.busy
	}
	return HTTP1, !o.busy
}

func (o *recorder) setBusy(busy bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = busy
}

func (o *recorder) got(side Side) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.bytes[side].Bytes())
}

// await waits until side has sent want: loops hand in what a client sends after
// they have passed it on.
func (o *recorder) await(t *testing.T, side Side, want string) {
	t.Helper()
	until(t, func() bool { return string(o.got(side)) == want }, func() {
		t.Fatalf("got %q observed of side %d, want %q", o.got(side), side, want)
	})
}

// wantEnd waits for the end and checks its cause.
func (o *recorder) wantEnd(t *testing.T, want Cause) {
	t.Helper()
	select {
	case <-o.ended:
	case <-time.After(patience):
		t.Fatalf("the observer was not told of the end, want %v", want)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause != want {
		t.Errorf("got cause %v, want %v", o.cause, want)
	}
	if o.fault != "" {
		t.Errorf("the observer was told of %s", o.fault)
	}
}

// authority issues certificates.
type authority struct {
	dir, file string
	pool      *x509.CertPool
	cert      *x509.Certificate
	key       *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir(), pool: x509.NewCertPool()}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	a.file = a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// issue writes a certificate for name, over an earlier one.
func (a *authority) issue(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+".key", "EC PRIVATE KEY", keyDER)
}

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.issue(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func mustWrite(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}

func wantRead(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("got %q, %v, want %q", got[:n], err, want)
	}
}

func wantEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		t.Fatalf("got %d bytes, %v, want EOF", n, err)
	}
}

func wantReset(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("got %v, want a reset", err)
	}
}

// descriptors counts the open files of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no way to count descriptors: %v", err)
	}
	return len(entries)
}
