package verdict

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/memnet"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/judge"
)

// fakeMirror sends what a mirror would of a service that it makes up.
type fakeMirror struct {
	t        testing.TB
	id, salt string
	roles    []pairv1.Role
	rand     *rand.Rand
	skew     time.Duration // of its clock, ahead if positive
	sequence uint64
	budget   uint64
	routes   []fakeRoute
	sent     uint64 // copies
	dropped  uint64
	each     func(*fakeMirror) // called each second, may be nil

	conn net.Conn
	stop context.CancelFunc
	done chan struct{}
}

// fakeRoute is a route's traffic in a second.
type fakeRoute struct {
	name   string
	pairs  int
	slower float64 // shadow's latency is by so much larger
	errors float64 // share of pairs in which shadow alone fails
	wrong  float64 // share in which shadow alone gives a wrong total
	noisy  float64 // share in which both have another time, each its own
}

func newFakeMirror(t testing.TB, id string, seed uint64, routes ...fakeRoute) *fakeMirror {
	return &fakeMirror{
		t: t, id: id, salt: "s1", rand: rand.New(rand.NewPCG(seed, 1)), routes: routes,
		roles: []pairv1.Role{pairv1.Role_ROLE_SHADOW, pairv1.Role_ROLE_CONTROL},
	}
}

func (m *fakeMirror) hello() []byte {
	salt := sha256.Sum256([]byte(m.salt))
	b, err := pairstream.Append([]byte(pairstream.Magic), &pairv1.Record{Kind: &pairv1.Record_Header{Header: &pairv1.Header{
		MirrorId: m.id, Experiment: m.salt, SaltHash: salt[:], Version: "v1", StartTime: time.Now().UnixNano(), Roles: m.roles,
	}}})
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

func (m *fakeMirror) append(b []byte, r *pairv1.Record) []byte {
	m.sequence++
	r.Sequence = m.sequence
	b, err := pairstream.Append(b, r)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// second is the records of the second that began at start: pairs, and the window.
func (m *fakeMirror) second(start time.Time) (b []byte) {
	if m.each != nil {
		m.each(m)
	}
	w := &pairv1.Window{StartTime: start.Add(m.skew).UnixNano(), Length: int64(time.Second), Sending: true, Sampling: true}
	for _, r := range m.routes {
		window, pairs := m.route(r, start)
		w.Routes = append(w.Routes, window)
		for _, p := range pairs {
			b = m.append(b, &pairv1.Record{Kind: &pairv1.Record_Pair{Pair: p}})
		}
		m.sent += uint64(r.pairs)
	}
	for _, role := range m.roles {
		w.Accounting = append(w.Accounting, &pairv1.Accounting{Role: role, Offered: m.sent + m.dropped, Sent: m.sent, Dropped: []*pairv1.Loss{{Reason: "lane_full", Count: m.dropped}}})
	}
	w.Losses = []*pairv1.Loss{{Reason: "budget", Count: m.budget}}
	return m.append(b, &pairv1.Record{Kind: &pairv1.Record_Window{Window: w}})
}

func (m *fakeMirror) route(r fakeRoute, at time.Time) (*pairv1.RouteWindow, []*pairv1.Pair) {
	w := &pairv1.RouteWindow{Route: r.name, Shadow: &pairv1.Outcomes{}, Control: &pairv1.Outcomes{}, Differences: &pairv1.Differences{}}
	took := map[pairv1.Role]*hist.Hist{pairv1.Role_ROLE_LIVE: hist.New(), pairv1.Role_ROLE_SHADOW: hist.New(), pairv1.Role_ROLE_CONTROL: hist.New()}
	moment := math.Exp(0.02 * m.rand.NormFloat64()) // what all roles have in common
	var pairs []*pairv1.Pair
	for range r.pairs {
		for role, h := range took {
			ms := 20 * moment * math.Exp(0.3*m.rand.NormFloat64())
			if role == pairv1.Role_ROLE_SHADOW {
				ms *= 1 + r.slower
			}
			h.Record(time.Duration(ms * float64(time.Millisecond)))
		}
		w.Control.BothOk++
		if m.rand.Float64() < r.errors {
			w.Shadow.RoleOnlyFailed++
		} else {
			w.Shadow.BothOk++
		}
		wrong, noisy := m.rand.Float64() < r.wrong, m.rand.Float64() < r.noisy
		switch {
		case noisy:
			w.Differences.Both++
		case wrong:
			w.Differences.ShadowOnly++
		default:
			w.Differences.Same++
		}
		if wrong || noisy {
			pairs = append(pairs, m.pair(r.name, wrong, noisy, at))
		}
	}
	for role, h := range took {
		w.Pairs = append(w.Pairs, &pairv1.RoleLatency{Role: role, Durations: pairstream.Histogram(h)})
	}
	w.Live = []*pairv1.LiveTraffic{{Sampled: true, Sending: true, Durations: pairstream.Histogram(took[pairv1.Role_ROLE_LIVE]), Requests: uint64(r.pairs)}}
	return w, pairs
}

func (m *fakeMirror) pair(route string, wrong, noisy bool, at time.Time) *pairv1.Pair {
	side := func(role pairv1.Role, total, stamp string) *pairv1.Side {
		return &pairv1.Side{Role: role, Clean: true, SendTime: at.UnixNano(), Exchanges: []*pairv1.Exchange{{
			Request: &pairv1.Request{Method: "GET", Path: route},
			Answer: &pairv1.Answer{Status: 200, Header: []*pairv1.Field{{Name: "content-type", Value: "application/json"}},
				Body: &pairv1.Body{Size: 30, Hash: []byte(total + stamp), Format: pairv1.Format_FORMAT_JSON, Content: []byte(`{"total":` + total + `,"at":"` + stamp + `"}`)}},
		}}}
	}
	total, own := "1", [2]string{"12:00", "12:00"}
	if wrong {
		total = "2"
	}
	if noisy {
		own = [2]string{"12:01", "12:02"}
	}
	p := &pairv1.Pair{Reason: pairv1.Reason_REASON_UNEQUAL, Route: route, Id: make([]byte, 16), KeyHash: m.rand.Uint64N(2000) + 1, StandsFor: 1,
		Sides: []*pairv1.Side{side(pairv1.Role_ROLE_LIVE, "1", "12:00"), side(pairv1.Role_ROLE_SHADOW, total, own[0])}}
	if len(m.roles) > 1 {
		p.Sides = append(p.Sides, side(pairv1.Role_ROLE_CONTROL, "1", own[1]))
	}
	return p
}

// connect begins a stream, and sends a second's records each second until disconnect.
func (m *fakeMirror) connect(s *rig) {
	m.t.Helper()
	conn, err := s.network.Host(m.id).Dial(context.Background(), "tcp", s.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	m.conn = conn
	ctx, stop := context.WithCancel(context.Background())
	m.stop, m.done = stop, make(chan struct{})
	go func() {
		defer close(m.done)
		if _, err := conn.Write(m.hello()); err != nil {
			return
		}
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-t.C:
				if _, err := conn.Write(m.second(now.Add(-time.Second))); err != nil {
					return
				}
			}
		}
	}()
}

func (m *fakeMirror) disconnect() {
	m.stop()
	<-m.done
	m.conn.Close()
}

// rig is a server on a network in memory; time is synctest's.
type rig struct {
	*Server
	t       testing.TB
	network *memnet.Network
	addr    string
	reg     *prometheus.Registry
	stop    context.CancelFunc
	ended   chan error
}

// quick is a configuration whose judgements take minutes, of a clock that is not real.
func quick() Config {
	return Config{Judge: judge.Config{MinDuration: 4 * time.Minute, MaxDuration: 20 * time.Minute}, NoiseBlock: 10 * time.Second, Look: time.Minute}
}

func newRig(t testing.TB, cfg Config) *rig {
	t.Helper()
	r := &rig{t: t, network: new(memnet.Network), reg: prometheus.NewRegistry(), ended: make(chan error, 1)}
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if r.Server, err = New(cfg, r.reg); err != nil {
		t.Fatal(err)
	}
	l, err := r.network.Host("verdict").Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	go func() { r.ended <- r.Run(ctx, r.Split(l, nobody)) }()
	return r
}

// nobody takes what is no pair stream, and closes it.
func nobody(l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err == nil {
				conn.Close()
			}
		}
	}
}

// close stops the server in order.
func (r *rig) close() {
	r.t.Helper()
	r.stop()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
}

// pass lets time go by, and all come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// metric returns the value of a series of the server.
func (r *rig) metric(name string, labels ...string) float64 {
	r.t.Helper()
	all, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue series
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	r.t.Fatalf("no series %s %q", name, labels)
	return 0
}
