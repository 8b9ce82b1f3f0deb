package pairs

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/memnet"
	"darklaunch/internal/pairstream"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/record"
	"darklaunch/mirror/shadow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is when live's exchanges begin in these tests. They have their request
// 5 ms later and their answer after 10 ms more.
var epoch = time.Unix(1_800_000_000, 0)

var end = epoch.Add(15 * time.Millisecond)

// taker takes the exchange that it is shown.
type taker struct{ x *observe.Exchange }

func (*taker) Request(*observe.Exchange) observe.Mode { return observe.Keep }
func (*taker) Answer(*observe.Exchange) observe.Mode  { return observe.Keep }
func (k *taker) Done(x *observe.Exchange)             { k.x, _ = x.Take() }
func (*taker) Abandoned(a observe.Abandonment)        { panic(a.Rule.String()) }

// live returns an exchange as the observer saw it, with further fields of its request.
func live(t testing.TB, answer string, fields ...string) *observe.Exchange {
	t.Helper()
	k := new(taker)
	c := observe.New(observe.Config{}).Conn(k)
	c.FromClient(epoch, []byte("POST /users/ann HTTP/1.1\r\nHost: h\r\nX-User: ann\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"+strings.Join(append(fields, "\r\n"), "\r\n")))
	c.FromClient(epoch.Add(5*time.Millisecond), []byte(`{"who":"ann"}`))
	c.FromLive(end, []byte(answer))
	c.Close(observe.Live)
	if k.x == nil {
		t.Fatal("no exchange")
	}
	return k.x
}

func text(status, size int, body, fields string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nDate: now\r\n%sContent-Length: %d\r\n\r\n%s", status, fields, size, body)
}

// answer returns one that a role gave in took, a millisecond after live's.
func answer(status int, body string, took time.Duration) *shadow.Answer {
	sent := end.Add(time.Millisecond)
	a := &shadow.Answer{Status: status, GRPC: -1, Body: []byte(body), Size: int64(len(body)), Hash: xxh3.HashString128(body).Bytes(),
		Sent: sent, First: sent.Add(took / 2), Last: sent.Add(took)}
	a.Header.Add("Content-Type", "text/plain")
	a.Header.Add("Date", "then")
	return a
}

func failed(err error) *shadow.Answer {
	return &shadow.Answer{Err: err, GRPC: -1, Sent: end.Add(time.Millisecond)}
}

func outcome(answers ...*shadow.Answer) *shadow.Outcome { return &shadow.Outcome{Answers: answers} }

func newPairs(t testing.TB, cfg Config) (*Pairs, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	return New(cfg, reg), reg
}

// TestCount makes one pair of each kind, and looks at the window.
func TestCount(t *testing.T) {
	ok := text(200, 2, "hi", "")
	for _, tt := range []struct {
		name            string
		route           RouteConfig
		live            string
		shadow, control *shadow.Outcome // nil: it was not sent
		alone           bool            // no control
		unjudged        bool
		unknownIDs      bool
		want            *pairv1.RouteWindow // but for latencies
		took            map[pairv1.Role]int64
	}{
		{name: "all equal", live: ok, shadow: outcome(answer(200, "hi", 3e6)), control: outcome(answer(200, "hi", 4e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Control: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{Same: 1}},
			took: map[pairv1.Role]int64{pairv1.Role_ROLE_LIVE: 10e6, pairv1.Role_ROLE_SHADOW: 3e6, pairv1.Role_ROLE_CONTROL: 4e6}},
		{name: "no control", alone: true, live: ok, shadow: outcome(answer(200, "ho", 3e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}}},
		{name: "status differs", live: ok, shadow: outcome(answer(404, "hi", 3e6)), control: outcome(answer(200, "hi", 4e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Control: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}}},
		{name: "control differs", live: ok, shadow: outcome(answer(200, "hi", 3e6)), control: outcome(answer(200, "hi!", 4e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Control: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{ControlOnly: 1}}},
		{name: "both differ", live: ok, shadow: outcome(answer(500, "", 3e6)), control: outcome(failed(shadow.ErrCut)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{RoleOnlyFailed: 1}, Control: &pairv1.Outcomes{RoleOnlyFailed: 1}, Differences: &pairv1.Differences{Both: 1}},
			took: map[pairv1.Role]int64{pairv1.Role_ROLE_LIVE: 10e6, pairv1.Role_ROLE_SHADOW: 3e6}},
		{name: "live failed", live: text(503, 0, "", ""), shadow: outcome(answer(200, "", 3e6)), control: outcome(answer(503, "", 4e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{LiveOnlyFailed: 1}, Control: &pairv1.Outcomes{BothFailed: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}}},
		{name: "a header that the route names", route: RouteConfig{Headers: []string{"date"}}, live: ok, shadow: outcome(answer(200, "hi", 3e6)), control: outcome(answer(200, "hi", 4e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Control: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{Both: 1}}},
		{name: "a header twice", live: text(200, 2, "hi", "Content-Type: text/html\r\n"), alone: true, shadow: outcome(answer(200, "hi", 3e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}}},
		{name: "a trailer", live: ok, alone: true, shadow: outcome(func() *shadow.Answer { a := answer(200, "hi", 3e6); a.Trailer.Add("X", "y"); return a }()),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}}},
		{name: "control was not sent", live: ok, shadow: outcome(answer(200, "hi", 3e6)), want: &pairv1.RouteWindow{Incomplete: 1, Differences: &pairv1.Differences{}}, took: map[pairv1.Role]int64{}},
		{name: "stopped between calls", live: ok, alone: true, shadow: &shadow.Outcome{Answers: []*shadow.Answer{failed(shadow.ErrCut)}, Stopped: true},
			want: &pairv1.RouteWindow{Incomplete: 1, Differences: &pairv1.Differences{}}, took: map[pairv1.Role]int64{}},
		{name: "live cut its answer", live: text(200, 3, "hi", ""), alone: true, shadow: outcome(answer(200, "hi", 3e6)),
			want: &pairv1.RouteWindow{Incomplete: 1, Differences: &pairv1.Differences{}}, took: map[pairv1.Role]int64{}},
		{name: "not judged", unjudged: true, live: ok, alone: true, shadow: outcome(answer(500, "hi", 3e6)),
			want: &pairv1.RouteWindow{Unjudged: 1, Differences: &pairv1.Differences{}}, took: map[pairv1.Role]int64{}},
		{name: "unknown ids", unknownIDs: true, live: ok, alone: true, shadow: outcome(answer(500, "hi", 3e6)),
			want: &pairv1.RouteWindow{UnknownIds: 1, Differences: &pairv1.Differences{}}, took: map[pairv1.Role]int64{}},
		{name: "elsewhere", route: RouteConfig{Elsewhere: true}, live: ok, alone: true, shadow: outcome(answer(200, "other", 3e6)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{}, Shipped: 1}},
		{name: "timeout", live: ok, alone: true, shadow: outcome(failed(shadow.ErrTimeout)),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{RoleOnlyFailed: 1}, Differences: &pairv1.Differences{ShadowOnly: 1}},
			took: map[pairv1.Role]int64{pairv1.Role_ROLE_LIVE: 10e6, pairv1.Role_ROLE_SHADOW: -1}},
		{name: "sent over a second apart", live: ok, shadow: outcome(answer(200, "hi", 3e6)), control: outcome(func() *shadow.Answer {
			a := answer(200, "hi", 3e6)
			a.Sent = a.Sent.Add(1001 * time.Millisecond)
			return a
		}()),
			want: &pairv1.RouteWindow{Shadow: &pairv1.Outcomes{BothOk: 1}, Control: &pairv1.Outcomes{BothOk: 1}, Differences: &pairv1.Differences{Same: 1}, Apart: 1}, took: map[pairv1.Role]int64{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.route.Name, tt.want.Route = "/users/{}", "/users/{}"
			roles := [lanes.NumRoles]bool{true, !tt.alone}
			p, _ := newPairs(t, Config{Roles: roles, Routes: []RouteConfig{tt.route}})
			pair := &Pair{Route: p.Route("/users/{}"), Live: live(t, tt.live), Roles: roles}
			if tt.shadow != nil {
				pair.Answered(lanes.Shadow, tt.shadow, !tt.unjudged, tt.unknownIDs)
			}
			if tt.control != nil {
				pair.Answered(lanes.Control, tt.control, true, false)
			}
			p.End(pair)
			got := pair.Route.cut()
			if tt.took != nil {
				took := map[pairv1.Role]int64{}
				for _, l := range got.Pairs {
					h := hist.New()
					if err := pairstream.Merge(h, l.Durations); err != nil {
						t.Fatal(err)
					}
					if took[l.Role] = int64(h.Max().Round(time.Millisecond)); h.Count() == 0 {
						took[l.Role] = -int64(l.Timeouts)
					}
				}
				if diff := cmp.Diff(tt.took, took); diff != "" {
					t.Errorf("durations (-want +got):\n%s", diff)
				}
			}
			got.Pairs = nil
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("window (-want +got):\n%s", diff)
			}
			if again := pair.Route.cut(); again != nil {
				t.Errorf("got %v cut twice, want nothing", again)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	roles := [lanes.NumRoles]bool{true, true}
	p, reg := newPairs(t, Config{Roles: roles, Routes: []RouteConfig{{Name: "/r", Elsewhere: true, Share: 250_000}}, Streams: []*Stream{NewStream(StreamConfig{})}})
	for _, status := range []int{200, 200, 500} {
		pair := &Pair{Route: p.Route("/r"), Live: live(t, text(200, 2, "hi", "")), Roles: roles}
		pair.Answered(lanes.Shadow, outcome(answer(status, "hi", 3e6)), true, false)
		pair.Answered(lanes.Control, outcome(answer(200, "hi", 3e6)), true, false)
		p.End(pair)
	}
	want := `
# HELP mirror_pairs_stream_dropped_total Records that a pair stream lost.
# TYPE mirror_pairs_stream_dropped_total counter
mirror_pairs_stream_dropped_total{reason="budget"} 0
mirror_pairs_stream_dropped_total{reason="disconnected"} 0
mirror_pairs_stream_dropped_total{reason="queue_full"} 0
mirror_pairs_stream_dropped_total{reason="too_large"} 0
# HELP mirror_pairs_stream_share Share of users whose pairs are shipped to be compared elsewhere.
# TYPE mirror_pairs_stream_share gauge
mirror_pairs_stream_share{route="/r"} 0.25
# HELP mirror_pairs_total Complete, judged pairs by who failed: live or shadow.
# TYPE mirror_pairs_total counter
mirror_pairs_total{outcome="both_failed",route="/r"} 0
mirror_pairs_total{outcome="both_ok",route="/r"} 2
mirror_pairs_total{outcome="live_only_failed",route="/r"} 0
mirror_pairs_total{outcome="shadow_only_failed",route="/r"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "mirror_pairs_total", "mirror_pairs_stream_share", "mirror_pairs_stream_dropped_total"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "mirror_pair_request_duration_seconds" {
			for _, m := range f.Metric {
				if m.Histogram.GetSampleCount() != 3 {
					t.Errorf("got %v, want 3 durations on each role", m)
				}
			}
			if len(f.Metric) != 3 {
				t.Errorf("got %d roles, want 3", len(f.Metric))
			}
		}
	}
}

// TestShare ships the pairs of a share of users: the same ones at any time, and
// others on another route.
func TestShare(t *testing.T) {
	p, _ := newPairs(t, Config{Salt: "s1", Routes: []RouteConfig{{Name: "/a", Elsewhere: true, Share: 100_000}, {Name: "/b", Elsewhere: true, Share: 100_000}, {Name: "/c", Elsewhere: true}}})
	in := map[string]int{}
	both := 0
	for i := range 20_000 {
		user := fmt.Sprint("user-", i)
		a, b := p.Route("/a").shares(user), p.Route("/b").shares(user)
		if a != p.Route("/a").shares(user) {
			t.Fatalf("%s is in and is not", user)
		}
		in["/a"] += index(a)
		in["/b"] += index(b)
		in["/c"] += index(p.Route("/c").shares(user))
		both += index(a && b)
	}
	if in["/a"] < 1800 || in["/a"] > 2200 || in["/b"] < 1800 || in["/b"] > 2200 || both > 300 || in["/c"] != 20_000 {
		t.Errorf("got %v of 20000 users, %d on both /a and /b; want about 2000, 2000 and all, 200 on both", in, both)
	}
}

func TestLive(t *testing.T) {
	p, _ := newPairs(t, Config{})
	r := p.Route("/x")
	r.Live(true, true, 3*time.Millisecond, true, false)
	r.Live(true, true, 3*time.Millisecond, true, true)
	r.Live(false, true, 0, false, false)
	got := r.cut().Live
	for _, l := range got {
		l.Durations = nil
	}
	want := []*pairv1.LiveTraffic{{Sending: true, Requests: 1, Failed: 1}, {Sampled: true, Sending: true, Requests: 2, Failed: 1}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	r.Live(false, false, 0, false, false)
	if got := r.cut().Live; len(got) != 1 || got[0].Requests != 1 {
		t.Errorf("got %v after a cut, want one request", got)
	}
}

// reading is a verdict that reads one stream at a time.
type reading struct {
	t        *testing.T
	listener *memnet.Listener
	records  []*pairv1.Record
	headers  int
	cut      int // ends the first connection after so many records
}

func (v *reading) run() {
	for {
		c, err := v.listener.Accept()
		if err != nil {
			return
		}
		r := pairstream.NewReader(c)
		for n := 0; ; n++ {
			record, err := r.Next()
			if err != nil {
				if err != io.EOF && v.cut == 0 {
					v.t.Error(err)
				}
				break
			}
			if record.GetHeader() != nil {
				v.headers++
			} else {
				v.records = append(v.records, record)
			}
			if v.cut > 0 && n == v.cut {
				v.cut = 0
				break
			}
		}
		c.Close()
	}
}

// TestStream runs pairs through a stream that is cut, for ten seconds.
func TestStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var network memnet.Network
		l, err := network.Host("verdict").Listen(8700)
		if err != nil {
			t.Fatal(err)
		}
		v := &reading{t: t, listener: l, cut: 3}
		ended := make(chan bool)
		go func() { v.run(); close(ended) }()

		policy, err := record.New(record.Config{Key: []byte("0123456789abcdef"), Allow: []string{"header:x-user"}})
		if err != nil {
			t.Fatal(err)
		}
		s := NewStream(StreamConfig{Header: &pairv1.Header{MirrorId: "m"}, Open: func(ctx context.Context) (io.WriteCloser, error) {
			return network.Host("mirror").Dial(ctx, "tcp", "verdict:8700")
		}})
		roles := [lanes.NumRoles]bool{true}
		p, _ := newPairs(t, Config{Roles: roles, Record: policy, Streams: []*Stream{s}, MaxPairs: 5, Audit: 2, Fill: func(w *pairv1.Window) { w.Sending = true }})
		ctx, stop := context.WithCancel(t.Context())
		running := make(chan bool)
		go func() { p.Run(ctx); close(running) }()
		pair := func(id byte, body string) {
			x := &Pair{Route: p.Route("/users/{}"), ID: [16]byte{7: id}, Key: 77, Live: live(t, text(200, 2, "hi", "")), Roles: roles}
			x.Answered(lanes.Shadow, outcome(answer(200, body, 3e6)), true, false)
			p.End(x)
		}
		for range 10 {
			time.Sleep(time.Second)
			synctest.Wait()
			pair(1, "ho") // unequal
			pair(1, "hi") // equal
			pair(2, "hi") // equal, for audit
		}
		for range 20 {
			pair(1, "ho") // of which the budget has room for three
		}
		stop()
		<-running
		l.Close()
		<-ended

		reasons := map[pairv1.Reason]int{}
		windows, same, unequal := 0, uint64(0), uint64(0)
		var last *pairv1.Window
		seen := uint64(0)
		for _, r := range v.records {
			seen = max(seen, r.Sequence)
			if w := r.GetWindow(); w != nil {
				windows++
				last = w
				for _, rw := range w.Routes {
					same, unequal = same+rw.Differences.Same, unequal+rw.Differences.ShadowOnly
				}
			} else {
				reasons[r.GetPair().Reason]++
			}
		}
		lost := s.Lost()
		if lost[LostBudget] != 17 || lost[LostFull] != 0 {
			t.Errorf("lost %v, want 17 by the budget", lost)
		}
		// The cut may take what was being written with it, and is told.
		if missing := seen - uint64(len(v.records)); missing < 17 || missing > 17+4 {
			t.Errorf("%d of %d records missing, want the 17 that were lost and at most 4 by the cut", missing, seen)
		}
		if v.headers != 2 {
			t.Errorf("got %d headers, want 2: one each connection", v.headers)
		}
		if same < 18 || unequal < 28 || windows < 9 {
			t.Errorf("got %d equal, %d unequal pairs in %d windows; want about 20, 30 and 11", same, unequal, windows)
		}
		if a, u := reasons[pairv1.Reason_REASON_AUDIT], reasons[pairv1.Reason_REASON_UNEQUAL]; a < 8 || u < 11 || a+u > 23 {
			t.Errorf("got %v, want about 10 for audit and 13 unequal", reasons)
		}
		if !last.Sending || last.Losses[2].Reason != LostBudget || last.Losses[2].Count != 17 {
			t.Errorf("got %v in the last window, want what the caller filled in and 17 lost", last)
		}
	})
}

// TestStreamBounds fills a stream that nobody reads.
func TestStreamBounds(t *testing.T) {
	s := NewStream(StreamConfig{MaxBytes: 100 << 10})
	pair := &pairv1.Pair{Route: strings.Repeat("x", 1000)}
	for range 200 {
		s.offerPair(pair)
	}
	pairs := len(s.queue)
	if s.bytes > 75<<10 || pairs < 70 || s.Lost()[LostFull] != uint64(200-pairs) {
		t.Errorf("got %d pairs of %d bytes held and %v lost, want at most 75 KiB and the rest lost", pairs, s.bytes, s.Lost())
	}
	s.offerWindow(&pairv1.Window{})
	if len(s.queue) != pairs+1 {
		t.Error("got no room for a window")
	}
	s.offerPair(&pairv1.Pair{Route: strings.Repeat("x", pairstream.MaxRecord)})
	for range 1000 {
		s.offerWindow(&pairv1.Window{Routes: []*pairv1.RouteWindow{{Route: strings.Repeat("x", 1000)}}})
	}
	if s.bytes > 100<<10 {
		t.Errorf("got %d bytes held, want at most 100 KiB", s.bytes)
	}
	l := NewStream(StreamConfig{})
	l.offerPair(&pairv1.Pair{Route: strings.Repeat("x", pairstream.MaxRecord)})
	if l.Lost()[LostLarge] != 1 {
		t.Errorf("got %v, want one too large", l.Lost())
	}
}

// TestStreamStops ends within Drain, whether a verdict is not there or reads
// nothing, and says what was lost.
func TestStreamStops(t *testing.T) {
	for name, open := range map[string]func(context.Context) (io.WriteCloser, error){
		"not there":      func(context.Context) (io.WriteCloser, error) { return nil, io.ErrClosedPipe },
		"reads nothing":  func(context.Context) (io.WriteCloser, error) { near, _ := net.Pipe(); return near, nil },
		"never connects": func(ctx context.Context) (io.WriteCloser, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewStream(StreamConfig{Open: open, Drain: 2 * time.Second})
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan bool)
				go func() { s.Run(ctx); close(ended) }()
				s.offerWindow(&pairv1.Window{})
				synctest.Wait()
				start := time.Now()
				stop()
				<-ended
				if took := time.Since(start); took != 2*time.Second {
					t.Errorf("took %v, want 2s", took)
				}
				if lost := s.Lost()[LostBroken]; lost != 1 {
					t.Errorf("lost %d, want 1", lost)
				}
			})
		})
	}
}

// TestMessage looks at a whole pair, as the record shows it.
func TestMessage(t *testing.T) {
	policy, err := record.New(record.Config{Key: []byte("0123456789abcdef"), Allow: []string{"header:x-user"}})
	if err != nil {
		t.Fatal(err)
	}
	roles := [lanes.NumRoles]bool{true, true}
	p, _ := newPairs(t, Config{Roles: roles, Record: policy, Routes: []RouteConfig{{Name: "/users/{}", RulesHash: []byte{9}}}})
	pair := &Pair{Route: p.Route("/users/{}"), ID: [16]byte{1}, Key: 77, Unsafe: true, Live: live(t, text(200, 2, "hi", "")), Roles: roles}
	pair.Answered(lanes.Shadow, outcome(answer(404, "no", 3e6)), true, false)
	pair.Answered(lanes.Control, outcome(failed(shadow.ErrTimeout)), true, false)
	got := p.message(pair, pairv1.Reason_REASON_UNEQUAL)
	x := got.Sides[0].Exchanges[0]
	if x.Request.Path != "/users/{}" || x.Request.Method != "POST" || x.Answer.Status != 200 || x.Duration != 10e6 || x.FirstByte != 10e6 {
		t.Errorf("live: got %v", x)
	}
	if s := got.Sides[1].Exchanges[0]; got.Sides[1].Role != pairv1.Role_ROLE_SHADOW || s.Answer.Status != 404 || s.Duration != 3e6 || s.FirstByte != 15e5 || s.Failure != "" {
		t.Errorf("shadow: got %v", s)
	}
	if s := got.Sides[2].Exchanges[0]; got.Sides[2].Role != pairv1.Role_ROLE_CONTROL || s.Answer != nil || s.Failure != "timeout" {
		t.Errorf("control: got %v", s)
	}
	if b := x.Request.Body; b.Format != pairv1.Format_FORMAT_JSON || !strings.HasPrefix(string(b.Content), `{"who":"~s:3:word:`) {
		t.Errorf("got request body %s", b.Content)
	}
	if got.KeyHash != 77 || got.StandsFor != 1 || !got.Unsafe || string(got.RulesHash) != "\x09" || len(got.Id) != 16 {
		t.Errorf("got %v", got)
	}
	shown := fmt.Sprint(got)
	if strings.Count(shown, `"ann"`) != 1 { // x-user, which is allowed
		t.Errorf("got %s, want ann once", shown)
	}
}

// BenchmarkEnd measures what a pair costs that is equal and is counted.
func BenchmarkEnd(b *testing.B) {
	roles := [lanes.NumRoles]bool{true}
	p, _ := newPairs(b, Config{Roles: roles})
	x := live(b, text(200, 2, "hi", ""))
	o := outcome(answer(200, "hi", 3e6))
	pair := &Pair{Route: p.Route("/x"), ID: [16]byte{7: 1}, Live: x, Roles: roles}
	b.ReportAllocs()
	for b.Loop() {
		pair.Answered(lanes.Shadow, o, true, false)
		p.end(pair)
	}
}

func (*taker) Ongoing(*observe.Exchange, bool) bool { return false }
