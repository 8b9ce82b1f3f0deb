package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // net/http's remarks on what shadows send
	testenv.Main(m)
}

// A mini is a small mirroring proxy that does one thing right or wrong.
type mini struct {
	manner string
	live   *httputil.ReverseProxy
	shadow string // a URL; "" is no mirroring
	client *http.Client
	copies chan *http.Request
	delay  time.Duration // of one that is late
	served atomic.Int64
}

// The manners of a mini.
const (
	detached = "sends copies of what is complete, after live, from a bounded queue"
	coupled  = "tees live's body into the copy"
	silent   = "sends no copy"
	confused = "asks the shadow first and answers with its status"
	late     = "waits with each twentieth request that it copies, and is detached else"
)

func (m *mini) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if m.shadow == "" || m.manner == silent {
		m.live.ServeHTTP(w, r)
		return
	}
	// The copy outlives the request; the client's time-out bounds it.
	c := r.Clone(context.WithoutCancel(r.Context()))
	c.URL, _ = url.Parse(m.shadow + r.RequestURI)
	c.RequestURI = ""
	switch m.manner {
	case late:
		if m.served.Add(1)%20 == 0 {
			time.Sleep(m.delay) // the fault
		}
		m.detached(w, r, c)
	case coupled:
		pr, pw := io.Pipe()
		c.Body = pr
		if r.ContentLength == 0 {
			c.Body = nil
		}
		go m.send(c)
		r.Body = io.NopCloser(io.TeeReader(r.Body, pw))
		m.live.ServeHTTP(w, r)
		_ = pw.Close()
	case confused:
		c.Body = nil
		c.ContentLength = 0
		if resp, err := m.client.Do(c); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusInternalServerError {
				w = &overruled{w}
			}
		}
		m.live.ServeHTTP(w, r)
	case detached:
		m.detached(w, r, c)
	}
}

func (m *mini) detached(w http.ResponseWriter, r, c *http.Request) {
	const limit = 1 << 20
	var body bytes.Buffer
	r.Body = io.NopCloser(io.TeeReader(r.Body, &capped{b: &body, limit: limit}))
	m.live.ServeHTTP(w, r)
	if body.Len() == limit {
		return
	}
	c.Body, c.ContentLength = io.NopCloser(&body), int64(body.Len())
	select {
	case m.copies <- c:
	default: // a full queue must not slow live
	}
}

func (m *mini) send(c *http.Request) {
	resp, err := m.client.Do(c)
	if err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<20)
	_ = resp.Body.Close()
}

// overruled answers 500 whatever live says.
type overruled struct{ http.ResponseWriter }

func (o *overruled) WriteHeader(int) { o.ResponseWriter.WriteHeader(http.StatusInternalServerError) }

// capped keeps the first bytes of what is written.
type capped struct {
	b     *bytes.Buffer
	limit int
}

func (c *capped) Write(p []byte) (int, error) {
	c.b.Write(p[:min(len(p), c.limit-c.b.Len())])
	return len(p), nil
}

// miniProxy starts a mini in this process.
func miniProxy(protocol shadows.Protocol, manner string) Proxy { return lateProxy(protocol, manner, 0) }

// lateProxy is miniProxy with the delay of one that is late.
func lateProxy(protocol shadows.Protocol, manner string, delay time.Duration) Proxy {
	return Proxy{Name: "a proxy that " + manner, Protocol: protocol, Start: func(live, shadow string) (*Instance, error) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		patience := 8 * time.Second
		if manner == coupled {
			patience = time.Minute // longer than any client's
		}
		toLive, toShadow := transport(protocol, shadow), transport(protocol, shadow)
		m := &mini{
			manner: manner, delay: delay,
			live: &httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) {
					r.SetURL(&url.URL{Scheme: "http", Host: live})
					r.Out.Host = r.In.Host
				},
				Transport:     toLive,
				FlushInterval: -1,
			},
			client: &http.Client{Transport: toShadow, Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
			copies: make(chan *http.Request, 64),
		}
		if shadow != "" {
			m.shadow = shadow
			if !strings.HasPrefix(shadow, "https://") {
				m.shadow = "http://" + shadow
			}
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for c := range m.copies {
					m.send(c)
				}
			})
		}
		server := &http.Server{Handler: m, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
		server.Protocols.SetHTTP1(true)
		server.Protocols.SetUnencryptedHTTP2(true)
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(l) }()
		return &Instance{Addr: l.Addr().String(), Pid: os.Getpid(), Stop: func() {
			_ = server.Close()
			<-served
			toLive.CloseIdleConnections()
			toShadow.CloseIdleConnections()
		}}, nil
	}}
}

func transport(protocol shadows.Protocol, shadow string) *http.Transport {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256, Protocols: new(http.Protocols), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	switch {
	case protocol == shadows.HTTP:
		t.Protocols.SetHTTP1(true)
	case strings.HasPrefix(shadow, "https://"):
		t.Protocols.SetHTTP2(true)
		t.Protocols.SetUnencryptedHTTP2(true)
	default:
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// quick is a size for the race detector. The largest body is several times what the kernel
// takes of a connection that nobody reads.
var quick = Config{Seed: 1, Calls: 120, Conns: 8, Rate: 400, Patience: 8 * time.Second, MaxBody: 8 << 20, Upload: 8 << 20}

// TestPlantedFaults: the suite catches what is wrong with a proxy, and no more.
func TestPlantedFaults(t *testing.T) {
	for _, tt := range []struct {
		manner string
		state  shadows.State
		long   bool
		want   []string // beginnings of the problems
	}{
		{detached, shadows.BlackHole, false, nil},
		{coupled, shadows.BlackHole, false, []string{"black hole: of 120 requests", "stops reading: an upload of 8 MiB was not answered"}},
		{silent, shadows.Errors, true, []string{"500s: the fault did not happen", "stops reading: no copy was under way"}},
		{confused, shadows.Slow, true, []string{"2 s slow: half of the small requests took more than", "stops reading: no copy was under way"}},
		{confused, shadows.Errors, true, []string{"500s: of 120 requests", "stops reading: no copy was under way"}},
	} {
		for _, protocol := range []shadows.Protocol{shadows.HTTP, shadows.GRPC} {
			if (tt.manner == confused || tt.manner == silent) && protocol == shadows.GRPC {
				continue // the first's fault is a status of HTTP, the other's takes long to be sure of
			}
			t.Run(string(protocol)+" "+string(tt.state)+" "+tt.manner, func(t *testing.T) {
				if testing.Short() && (tt.long || (tt.manner == coupled) != (protocol == shadows.HTTP)) {
					t.Skip("-short: one of each protocol does")
				}
				t.Parallel()
				cfg := quick
				cfg.States = []shadows.State{shadows.Off, tt.state}
				if tt.state == shadows.Slow {
					cfg.Calls, cfg.Conns = 40, 20 // they wait one for another
				}
				r, err := Run(miniProxy(protocol, tt.manner), cfg)
				if err != nil {
					t.Fatal(err)
				}
				got := r.Problems()
				ok := len(got) == len(tt.want)
				for i := range min(len(got), len(tt.want)) {
					ok = ok && strings.HasPrefix(got[i], tt.want[i])
				}
				if !ok {
					t.Errorf("got problems %q, want ones that begin %q\n%s\n%s", got, tt.want, r.Markdown(), examples(r))
				}
			})
		}
	}
}

func examples(r *Report) string {
	var b strings.Builder
	for _, row := range r.Rows {
		for _, e := range row.Examples {
			b.WriteString(string(row.State) + ": " + e + "\n")
		}
	}
	return b.String()
}

// TestStatesHappen sends the stream through every state of a proxy that holds.
func TestStatesHappen(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: 14 states in two protocols take half a minute")
	}
	for _, protocol := range []shadows.Protocol{shadows.HTTP, shadows.GRPC} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			r, err := Run(miniProxy(protocol, detached), quick)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.Problems() {
				t.Error(p)
			}
			t.Logf("%s\n%s", r.Markdown(), examples(r))
		})
	}
}

// TestStream: the same seed makes the same calls and bytes, another seed others,
// and no part is without the largest body.
func TestStream(t *testing.T) {
	a, b, c := newStream(1, 100, 4<<20), newStream(1, 100, 4<<20), newStream(2, 100, 4<<20)
	opt := cmp.AllowUnexported(call{})
	largest, same := 0, 0
	for i := range 100 {
		if diff := cmp.Diff(a.call(i), b.call(i), opt); diff != "" {
			t.Fatalf("one seed made two calls of index %d: %s", i, diff)
		}
		if cmp.Equal(a.call(i), c.call(i), opt) {
			same++
		}
		largest = max(largest, a.call(i).body)
	}
	if largest != 4<<20 {
		t.Errorf("the largest body has %d bytes, want %d", largest, 4<<20)
	}
	if same > 10 {
		t.Errorf("%d of 100 calls are the same for another seed", same)
	}
	one, err := io.ReadAll(a.bytes(5, 100))
	if err != nil || len(one) != 100 {
		t.Fatalf("got %d bytes (%v), want 100", len(one), err)
	}
	other, err := io.ReadAll(a.bytes(6, 100))
	if err != nil || bytes.Equal(one, other) {
		t.Errorf("two calls have the same bytes (%v)", err)
	}
}
