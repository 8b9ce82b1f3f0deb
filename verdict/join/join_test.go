package join

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/judge"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func header(mirror string) *pairv1.Header { return &pairv1.Header{MirrorId: mirror, Version: "v1"} }

// second is a window of the second that begins at start, with n equal pairs on a route.
func second(start time.Time, route string, n uint64) *pairv1.Window {
	h := hist.New()
	h.RecordN(20*time.Millisecond, int64(n))
	return &pairv1.Window{StartTime: start.UnixNano(), Length: int64(time.Second), Sending: true, Sampling: true, Routes: []*pairv1.RouteWindow{{
		Route: route, Shadow: &pairv1.Outcomes{BothOk: n}, Differences: &pairv1.Differences{Same: n},
		Pairs: []*pairv1.RoleLatency{{Role: pairv1.Role_ROLE_SHADOW, Durations: pairstream.Histogram(h), Timeouts: 1}},
		Live:  []*pairv1.LiveTraffic{{Sampled: true, Sending: true, Requests: n, Durations: pairstream.Histogram(h)}},
	}}}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// feed gives an experiment a mirror's window of each second from start on, read when it
// ends.
func feed(t testing.TB, e *Experiment, mirror string, sequence *uint64, start time.Time, seconds int, change func(int, *pairv1.Window)) {
	t.Helper()
	for i := range seconds {
		*sequence++
		w := second(start.Add(time.Duration(i)*time.Second), "/x", 10)
		if change != nil {
			change(i, w)
		}
		must(t, e.Window(mirror, *sequence, w, start.Add(time.Duration(i+1)*time.Second)))
	}
}

func TestJoins(t *testing.T) {
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	must(t, e.Header(header("b"), noon))
	var a, b uint64
	feed(t, e, "a", &a, noon, 12, nil)
	if _, ok := e.Due(noon.Add(12*time.Second), noon); ok {
		t.Error("a window is due that one mirror has not passed")
	}
	feed(t, e, "b", &b, noon, 11, nil)
	start, ok := e.Due(noon.Add(12*time.Second), noon)
	if !ok || !start.Equal(noon) {
		t.Fatalf("got %v, %v, want the first window due", start, ok)
	}
	w := e.Take()
	r := w.Routes["/x"]
	if r.Shadow.BothOK != 200 || r.Differences.Same != 200 || r.Latency[judge.Shadow].Durations.Count() != 200 || r.Latency[judge.Shadow].Timeouts != 20 || len(r.Live) != 1 || r.Live[0].Requests != 200 {
		t.Errorf("got %+v, want the sum of ten seconds of both", r)
	}
	if w.Length != 10*time.Second || !w.Start.Equal(noon) || w.Rig.StreamSent != 20 || w.Rig.StreamLost != 0 || !w.Rig.Sending {
		t.Errorf("got %+v", w)
	}
	if _, ok := e.Due(noon.Add(12*time.Second), noon); ok {
		t.Error("the next window is due too early")
	}
}

// TestWaits holds how long a window waits for a mirror that is behind, or gone.
func TestWaits(t *testing.T) {
	for _, tt := range []struct {
		name string
		left time.Duration // after noon; 0 is not
		due  time.Duration
	}{
		{"a mirror that is stuck", 0, 25 * time.Second},
		{"a mirror that has gone long before", -time.Minute, 10 * time.Second},
		{"a mirror that has just gone", 5 * time.Second, 20 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := New(Config{})
			began := noon.Add(-2 * time.Minute)
			must(t, e.Header(header("a"), began))
			must(t, e.Header(header("b"), began))
			if tt.left != 0 {
				e.Left("b", noon.Add(tt.left))
			}
			var a uint64
			feed(t, e, "a", &a, noon, 11, nil)
			for at := 10 * time.Second; at < time.Minute; at += time.Second {
				if _, ok := e.Due(noon.Add(at), began); ok {
					if at < tt.due || at > tt.due+time.Second {
						t.Errorf("got due after %v, want %v", at, tt.due)
					}
					return
				}
			}
			t.Error("never due")
		})
	}
}

// TestRestart holds that after a start windows wait for mirrors to come back with what
// they kept.
func TestRestart(t *testing.T) {
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	var a uint64
	feed(t, e, "a", &a, noon, 5, nil)
	b, err := e.MarshalBinary()
	must(t, err)
	e, err = Restore(Config{}, b)
	must(t, err)
	since := noon.Add(40 * time.Second)
	if _, ok := e.Due(since, since); ok {
		t.Error("a window is due before the mirror can be back")
	}
	must(t, e.Header(header("a"), since))
	for i := 5; i < 20; i++ { // they waited in the mirror
		a++
		must(t, e.Window("a", a, second(noon.Add(time.Duration(i)*time.Second), "/x", 10), since.Add(time.Second)))
	}
	if _, ok := e.Due(since.Add(time.Second), since); !ok {
		t.Error("the window is not due though the mirror has passed it")
	}
	if w := e.Take(); w.Routes["/x"].Shadow.BothOK != 100 || w.Rig.StreamLost != 0 || w.Rig.ClockOffset != 0 {
		t.Errorf("got %+v, want all ten seconds, and no clock that is behind", w)
	}
}

// TestLost balances the numbers of records.
func TestLost(t *testing.T) {
	unequal := Pair{Route: "/x", Judged: true, ShadowDiffers: true}
	shipped := Pair{Route: "/s", Judged: true, Shipped: true, ShadowDiffers: true}
	budget := func(w *pairv1.Window, n uint64) { w.Losses = []*pairv1.Loss{{Reason: "budget", Count: n}} }
	for _, tt := range []struct {
		name       string
		do         func(e *Experiment)
		sent, lost uint64
	}{
		{"nothing", func(e *Experiment) {
			e.Window("a", 2, second(noon.Add(time.Second), "/x", 1), noon)
		}, 2, 0},
		{"a window", func(e *Experiment) {
			e.Window("a", 3, second(noon.Add(2*time.Second), "/x", 1), noon)
		}, 3, 1},
		{"pairs", func(e *Experiment) {
			e.Pair("a", 2, unequal, noon)
			e.Pair("a", 5, unequal, noon)
			e.Window("a", 6, second(noon.Add(time.Second), "/x", 1), noon)
		}, 6, 2},
		{"pairs that the mirror chose not to show", func(e *Experiment) {
			w := second(noon.Add(time.Second), "/x", 1)
			budget(w, 3)
			e.Window("a", 5, w, noon)
		}, 2, 0},
		{"pairs that were to be compared here", func(e *Experiment) {
			e.Pair("a", 2, shipped, noon)
			w := second(noon.Add(time.Second), "/x", 1)
			budget(w, 3)
			w.Routes[0].Shipped = 4
			e.Window("a", 6, w, noon)
		}, 6, 3},
		{"pairs that were shed here", func(e *Experiment) {
			e.Shed("a", 6, 5, noon)
			e.Window("a", 7, second(noon.Add(time.Second), "/x", 1), noon)
		}, 2, 0},
		{"pairs to be compared that were shed here", func(e *Experiment) {
			e.Shed("a", 6, 5, noon)
			w := second(noon.Add(time.Second), "/x", 1)
			w.Routes[0].Shipped = 5
			e.Window("a", 7, w, noon)
		}, 7, 5},
		{"a window that came too late to be of use", func(e *Experiment) {
			e.Window("a", 2, second(noon.Add(-time.Hour), "/x", 1), noon)
			e.Window("a", 3, second(noon.Add(time.Second), "/x", 1), noon)
		}, 3, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := New(Config{})
			must(t, e.Header(header("a"), noon))
			must(t, e.Window("a", 1, second(noon, "/x", 1), noon))
			tt.do(e)
			if w := e.Take(); w.Rig.StreamSent != tt.sent || w.Rig.StreamLost != tt.lost {
				t.Errorf("got %d sent and %d lost, want %d and %d", w.Rig.StreamSent, w.Rig.StreamLost, tt.sent, tt.lost)
			}
		})
	}
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	must(t, e.Window("a", 7, second(noon, "/x", 1), noon))
	if w := e.Take(); w.Rig.StreamLost != 0 {
		t.Errorf("of what a mirror sent before we came: got %d lost, want none", w.Rig.StreamLost)
	}
}

// TestTotals holds that what mirrors count in total becomes what they counted.
func TestTotals(t *testing.T) {
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	var a uint64
	feed(t, e, "a", &a, noon, 10, func(i int, w *pairv1.Window) {
		n := uint64(1000 + 10*i)
		w.Accounting = []*pairv1.Accounting{{Role: pairv1.Role_ROLE_SHADOW, Offered: n, Sent: n - 100, Dropped: []*pairv1.Loss{{Reason: "lane_full", Count: 100 + uint64(i)}}}}
		w.Processes = []*pairv1.Process{{Role: pairv1.Role_ROLE_SHADOW, Name: "p", CpuSeconds: 5 + 0.5*float64(i), Requests: float64(n), StartSeconds: float64(i / 5)}}
	})
	w := e.Take()
	want := []judge.Account{{Role: judge.Shadow, Offered: 90, Sent: 90, Dropped: map[string]uint64{"lane_full": 9}}}
	if diff := cmp.Diff(want, w.Rig.Accounts); diff != "" {
		t.Errorf("accounts (-want +got):\n%s", diff)
	}
	// Between the fourth and the fifth second it is another process.
	if u := w.Usage[judge.Shadow]; u.CPU != 4*time.Second || u.Requests != 80 {
		t.Errorf("got %+v, want 4 s and 80 requests", u)
	}
}

func TestClocks(t *testing.T) {
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	must(t, e.Header(header("b"), noon))
	for i := range 10 {
		at := noon.Add(time.Duration(i+1) * time.Second)
		must(t, e.Window("a", uint64(i+1), second(at.Add(-time.Second), "/x", 1), at.Add(3*time.Millisecond)))
		must(t, e.Window("b", uint64(i+1), second(at.Add(6*time.Second), "/x", 1), at)) // 7 s ahead
	}
	if w := e.Take(); w.Rig.ClockOffset != -7*time.Second {
		t.Errorf("got %v, want -7s", w.Rig.ClockOffset)
	}
	for _, skew := range []time.Duration{time.Hour, -time.Hour} {
		if err := e.Window("b", e.mirrors["b"].Sequence+1, second(noon.Add(skew), "/x", 1), noon); !errors.Is(err, ErrClock) && !errors.Is(err, ErrLate) {
			t.Errorf("%v off: got %v, want an error", skew, err)
		}
	}
}

// TestUsers holds whose pairs are evidence: not those of users who are on two mirrors
// at a time; one that was restarted is no other.
func TestUsers(t *testing.T) {
	e := New(Config{})
	var sequence uint64
	pair := func(mirror string, user uint64, at time.Time) bool {
		t.Helper()
		sequence++
		ok, err := e.Pair(mirror, sequence, Pair{Route: "/x", Key: user, Judged: true}, at)
		must(t, err)
		return ok
	}
	for _, m := range []string{"a", "b"} {
		must(t, e.Header(header(m), noon))
	}
	if !pair("a", 1, noon) || !pair("b", 2, noon) || !pair("a", 1, noon) || !pair("b", 0, noon) || !pair("a", 0, noon) {
		t.Error("users of one mirror are not evidence")
	}
	if pair("b", 1, noon) || pair("a", 1, noon) {
		t.Error("a user of two mirrors is evidence")
	}
	if got := e.Counts().Unordered; got != 2 {
		t.Errorf("got %d unordered, want 2", got)
	}
	later := noon.Add(time.Hour)
	e.Left("a", later)
	must(t, e.Header(header("c"), later.Add(time.Minute)))
	if !pair("a", 3, later) || !pair("c", 3, later.Add(time.Minute)) {
		t.Error("the user of a mirror that was restarted is not evidence")
	}
	for user := range uint64(200_000) {
		pair("b", user+100, later.Add(time.Minute))
	}
	if n := len(e.users.young) + len(e.users.old); n > 100_000 {
		t.Errorf("got %d users remembered, want at most 100,000", n)
	}
}

// TestShipped counts pairs that are compared here.
func TestShipped(t *testing.T) {
	e := New(Config{})
	must(t, e.Header(header("a"), noon))
	for i, p := range []Pair{{}, {ShadowDiffers: true}, {ShadowDiffers: true}, {ControlDiffers: true}, {ShadowDiffers: true, ControlDiffers: true}} {
		p.Route, p.Shipped, p.Judged = "/s", true, true
		if _, err := e.Pair("a", uint64(i+1), p, noon); err != nil {
			t.Fatal(err)
		}
	}
	must(t, e.Window("a", 6, second(noon, "/x", 1), noon))
	want := judge.Differences{Same: 1, ShadowOnly: 2, ControlOnly: 1, Both: 1}
	if diff := cmp.Diff(want, e.Take().Routes["/s"].Differences); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBounds holds what is kept of many routes and many mirrors.
func TestBounds(t *testing.T) {
	e := New(Config{MaxRoutes: 3, MaxMirrors: 2})
	must(t, e.Header(header("a"), noon))
	for i := range 10 {
		must(t, e.Window("a", uint64(i+1), second(noon, fmt.Sprint("/", i), 1), noon))
	}
	w := e.Take()
	if len(w.Routes) != 4 || w.Routes[Other].Shadow.BothOK != 7 || e.Counts().Folded != 7 {
		t.Errorf("got %d routes, %d pairs under %s, %d folded; want 4, 7 and 7", len(w.Routes), w.Routes[Other].Shadow.BothOK, Other, e.Counts().Folded)
	}
	must(t, e.Header(header("b"), noon))
	if err := e.Header(header("c"), noon); !errors.Is(err, ErrMirrors) {
		t.Errorf("got %v, want %v", err, ErrMirrors)
	}
	e.Left("b", noon)
	if err := e.Header(header("c"), noon.Add(time.Second)); !errors.Is(err, ErrMirrors) {
		t.Errorf("a mirror that may come back was forgotten: %v", err)
	}
	must(t, e.Header(header("c"), noon.Add(time.Hour)))
}

func TestErrors(t *testing.T) {
	e := New(Config{})
	if err := e.Window("a", 1, second(noon, "/x", 1), noon); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
	if err := e.Shed("a", 1, 1, noon); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want %v", err, ErrUnknown)
	}
	must(t, e.Header(header("a"), noon))
	must(t, e.Window("a", 5, second(noon, "/x", 1), noon))
	if err := e.Window("a", 5, second(noon, "/x", 1), noon); !errors.Is(err, ErrAgain) {
		t.Errorf("got %v, want %v", err, ErrAgain)
	}
	if _, err := e.Pair("a", 4, Pair{}, noon); !errors.Is(err, ErrAgain) {
		t.Errorf("got %v, want %v", err, ErrAgain)
	}
	if _, err := Restore(Config{}, []byte("{")); err == nil {
		t.Error("got no error of a damaged state")
	}
}

// TestState holds that nothing is lost by writing it down at any moment.
func TestState(t *testing.T) {
	e, again := New(Config{}), New(Config{})
	for _, x := range []*Experiment{e, again} {
		must(t, x.Header(header("a"), noon))
		must(t, x.Header(header("b"), noon))
	}
	for i := range 40 {
		at := noon.Add(time.Duration(i) * time.Second)
		for _, x := range []*Experiment{e, again} {
			w := second(at, fmt.Sprint("/", i%3), uint64(i))
			w.Accounting = []*pairv1.Accounting{{Role: pairv1.Role_ROLE_SHADOW, Offered: uint64(10 * i), Sent: uint64(10 * i)}}
			w.Processes = []*pairv1.Process{{Role: pairv1.Role_ROLE_LIVE, Name: "p", CpuSeconds: float64(i)}}
			must(t, x.Window("a", uint64(2*i+1), w, at.Add(time.Second)))
			if _, err := x.Pair("b", uint64(2*i+1), Pair{Route: "/s", Key: uint64(i % 7), Shipped: true, Judged: true, ShadowDiffers: i%2 == 0}, at); err != nil {
				t.Fatal(err)
			}
			must(t, x.Window("b", uint64(2*i+2), second(at, "/b", 1), at.Add(time.Second)))
		}
		b, err := again.MarshalBinary()
		must(t, err)
		again, err = Restore(Config{}, b)
		must(t, err)
		for _, m := range []string{"a", "b"} {
			must(t, again.Header(header(m), at))
			must(t, e.Header(header(m), at))
		}
		for {
			_, ok := e.Due(at.Add(time.Second), noon)
			_, also := again.Due(at.Add(time.Second), noon)
			if ok != also {
				t.Fatalf("second %d: due %v, after a restart %v", i, ok, also)
			}
			if !ok {
				break
			}
			want, got := e.Take(), again.Take()
			if diff := cmp.Diff(show(want), show(got)); diff != "" {
				t.Fatalf("second %d (-want +after restarts):\n%s", i, diff)
			}
		}
	}
	if diff := cmp.Diff(e.Counts(), again.Counts()); diff != "" {
		t.Errorf("counts (-want +after restarts):\n%s", diff)
	}
}

// show is a window with its histograms as buckets.
func show(w judge.Window) map[string]any {
	routes := map[string]any{}
	for name, r := range w.Routes {
		all := map[string]any{}
		for role, l := range r.Latency {
			all[string(role)] = fmt.Sprint(pairstream.Histogram(l.Durations), l.Timeouts)
		}
		for i, l := range r.Live {
			all[fmt.Sprint("live ", i)] = fmt.Sprint(l.Sampled, l.Sending, l.Requests, l.Failed, pairstream.Histogram(l.Durations))
		}
		r.Latency, r.Live = nil, nil
		all["rest"] = r
		routes[name] = all
	}
	return map[string]any{"start": w.Start.UnixNano(), "routes": routes, "rig": w.Rig, "usage": w.Usage}
}

// FuzzExperiment takes windows that passed Check, of any bytes: it never panics, and
// what it keeps can be written down and read.
func FuzzExperiment(f *testing.F) {
	b, err := proto.Marshal(second(noon, "/x", 3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int64(0))
	f.Add([]byte{}, int64(time.Hour))
	f.Fuzz(func(t *testing.T, data []byte, after int64) {
		var w pairv1.Window
		if proto.Unmarshal(data, &w) != nil || Check(&w) != nil {
			return
		}
		e := New(Config{MaxRoutes: 3})
		must(t, e.Header(header("a"), noon))
		at := noon.Add(time.Duration(after % int64(time.Hour)))
		for n := range uint64(3) {
			_ = e.Window("a", n+1, proto.Clone(&w).(*pairv1.Window), at)
		}
		b, err := e.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Restore(Config{MaxRoutes: 3}, b)
		if err != nil {
			t.Fatal(err)
		}
		for len(again.open) > 0 {
			if diff := cmp.Diff(show(e.Take()), show(again.Take())); diff != "" {
				t.Errorf("(-want +after a restart):\n%s", diff)
			}
		}
	})
}

func BenchmarkWindow(b *testing.B) {
	e := New(Config{})
	must(b, e.Header(header("a"), noon))
	w := &pairv1.Window{Length: int64(time.Second)}
	for i := range 50 {
		r := second(noon, fmt.Sprint("/", i), 40).Routes[0]
		h := hist.New()
		for k := range 40 {
			h.Record(time.Duration(20+k) * time.Millisecond)
		}
		r.Pairs = nil
		for _, role := range []pairv1.Role{1, 2, 3} {
			r.Pairs = append(r.Pairs, &pairv1.RoleLatency{Role: role, Durations: pairstream.Histogram(h)})
		}
		w.Routes = append(w.Routes, r)
	}
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		at := noon.Add(time.Duration(n) * time.Second)
		w.StartTime = at.UnixNano()
		must(b, e.Window("a", n, w, at))
		if _, ok := e.Due(at, noon); ok {
			e.Take()
		}
	}
}
