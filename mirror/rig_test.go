package mirror

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/mirror/guard"
	"darklaunch/mirror/lanes"
)

const salt = "s1"

// request is what a service has seen of one.
type request struct {
	user, path, body string
	seq              int
	role             string
}

// service is live or a role: HTTP/1.1 and HTTP/2 by prior knowledge, gRPC or
// not, on a real socket.
type service struct {
	*httptest.Server
	handle  http.HandlerFunc // nil answers ok
	forgets bool             // what it has seen

	mu   sync.Mutex
	seen []request
	open atomic.Int64 // connections
}

func newService(t *testing.T, handle http.HandlerFunc) *service {
	s := &service{handle: handle}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Config.ErrorLog = nil
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.open.Add(1)
		case http.StateClosed, http.StateHijacked:
			s.open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *service) addr() string { return s.Listener.Addr().String() }

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	seq, _ := strconv.Atoi(r.Header.Get("x-seq"))
	got := request{r.Header.Get("x-user"), r.URL.Path, string(body), seq, r.Header.Get("darklaunch-role")}
	if err != nil {
		got.body = "cut: " + err.Error()
	}
	s.mu.Lock()
	if !s.forgets {
		s.seen = append(s.seen, got)
	}
	s.mu.Unlock()
	if s.handle != nil {
		s.handle(w, r)
		return
	}
	answerOK(w, r)
}

// answerOK answers as the request's protocol has it.
func answerOK(w http.ResponseWriter, r *http.Request) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		io.WriteString(w, "ok")
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(grpcMessage("ok"))
	w.Header().Set("Grpc-Status", "0")
}

func grpcMessage(text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

// requests returns what has been seen so far.
func (s *service) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.seen...)
}

// fullSize says that tests have the size of a real run, of minutes: set
// DARKLAUNCH_FULL, as make bench does.
func fullSize() bool { return os.Getenv("DARKLAUNCH_FULL") != "" }

// rig is a mirror that runs, between a live service and a shadow.
type rig struct {
	*Mirror
	t            *testing.T
	live, shadow *service
	registry     *prometheus.Registry
	client       *http.Client
	stop         func()
}

// newRig starts a mirror of everything that is not given: one front, keyed by
// x-user, all users in.
func newRig(t *testing.T, cfg Config, live, shadow *service) *rig {
	t.Helper()
	r := &rig{t: t, live: live, shadow: shadow, registry: prometheus.NewRegistry()}
	cfg.Salt = salt
	if cfg.Sample == 0 {
		cfg.Sample = 1_000_000
	}
	if cfg.Shadow == "" && shadow != nil {
		cfg.Shadow = shadow.addr()
	}
	if len(cfg.Fronts) == 0 {
		cfg.Fronts = []Front{{}}
	}
	for i := range cfg.Fronts {
		f := &cfg.Fronts[i]
		f.Listen = "127.0.0.1:0"
		if f.Live == nil {
			f.Live = []string{live.addr()}
		}
		if f.Keys == nil {
			f.Keys = []string{"header:x-user"}
		}
	}
	cfg.Unguarded = cfg.Unguarded || cfg.Guard == guard.Config{} // a busy machine is slow, and tests let live fail
	cfg.DrainTimeout = cmp.Or(cfg.DrainTimeout, 2*time.Second)
	m, err := New(cfg, r.registry)
	if err != nil {
		t.Fatal(err)
	}
	r.Mirror = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	r.client = &http.Client{Transport: &http.Transport{}}
	r.stop = sync.OnceFunc(func() {
		r.client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) addr(front int) string { return r.Listeners()[front].Addr.String() }

// get does a GET of user's and returns the answer's status.
func (r *rig) get(user, path string) int { return r.do("GET", user, path, "") }

func (r *rig) do(method, user, path, body string, header ...string) int {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+r.addr(0)+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("x-user", user)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode
}

// settled waits until n copies were offered to the shadow, and none is held: the
// lanes let go of a copy before its pair is counted, and its memory comes last.
func (r *rig) settled(n uint64) lanes.Snapshot {
	r.t.Helper()
	var s lanes.Snapshot
	waitFor(r.t, fmt.Sprintf("%d copies to be offered and to end", n), func() bool {
		s = r.lanes.Snapshot()
		return s.Offered[lanes.Shadow] >= n && s.Copies == 0 && r.account.held.Load() == 0
	})
	if s.Offered[lanes.Shadow] != n {
		r.t.Fatalf("got %d copies offered, want %d", s.Offered[lanes.Shadow], n)
	}
	return s
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// metric returns the value of one series: name{label="value"} as Prometheus
// writes it, without the braces if there are no labels.
func (r *rig) metric(series string) float64 {
	r.t.Helper()
	v, ok := scrape(r.t, r.registry)[series]
	if !ok {
		r.t.Fatalf("no series %s", series)
	}
	return v
}

// scrape returns all counters and gauges of one scrape.
func scrape(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.Counter != nil:
				all[name] = m.Counter.GetValue()
			case m.Gauge != nil:
				all[name] = m.Gauge.GetValue()
			case m.Histogram != nil:
				all[name] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return all
}

// connection8 are clients of one connection each.
func clients(n int, http2 bool) []*http.Client {
	all := make([]*http.Client, n)
	for i := range all {
		tr := &http.Transport{MaxConnsPerHost: 1, Protocols: new(http.Protocols)}
		tr.Protocols.SetHTTP1(!http2)
		tr.Protocols.SetUnencryptedHTTP2(http2)
		all[i] = &http.Client{Transport: tr}
	}
	return all
}

func closeIdle(cs []*http.Client) {
	for _, c := range cs {
		c.CloseIdleConnections()
	}
}

// step does one request of a user by a client, HTTP/1.1 or gRPC.
func step(c *http.Client, addr, user string, seq int, grpc bool) error {
	var body io.Reader = strings.NewReader("body of " + user)
	url := "http://" + addr + "/box/" + strconv.Itoa(seq)
	if grpc {
		url, body = "http://"+addr+"/pkg.Box/Step", bytes.NewReader(grpcMessage("body of "+user))
	}
	req, err := http.NewRequest("POST", url, body)
	if err != nil {
		return err
	}
	req.Header.Set("x-user", user)
	req.Header.Set("x-seq", strconv.Itoa(seq))
	if grpc {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 || !strings.HasSuffix(string(b), "ok") || grpc && resp.Trailer.Get("Grpc-Status") != "0" {
		return fmt.Errorf("got %s %q, trailer %v", resp.Status, b, resp.Trailer)
	}
	return nil
}
