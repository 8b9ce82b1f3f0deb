package gate

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen"
	"darklaunch/verdict/judge"
)

// TestOrder holds that each arm runs once a round, and that over the rounds of any
// look none is ahead of another more often than by one.
func TestOrder(t *testing.T) {
	for _, arms := range []int{2, 3} {
		ahead := map[[2]int]int{}
		for n := range 31 {
			o := order(n, arms)
			if sorted := slices.Sorted(slices.Values(o)); !slices.Equal(sorted, []int{0, 1, 2}[:arms]) {
				t.Fatalf("round %d: got %v, want each of %d arms once", n, o, arms)
			}
			for i := range o {
				for _, later := range o[i+1:] {
					ahead[[2]int{o[i], later}]++
				}
			}
			for pair, k := range ahead {
				if d := k - ahead[[2]int{pair[1], pair[0]}]; d < -2 || d > 2 {
					t.Errorf("%d arms, %d rounds: %d is %d times more often before %d than after", arms, n+1, pair[0], d, pair[1])
				}
			}
		}
	}
	if !slices.Equal(order(0, 2), []int{0, 1}) || !slices.Equal(order(1, 2), []int{1, 0}) {
		t.Error("two arms do not go base head, head base")
	}
}

func TestFill(t *testing.T) {
	a := &arm{Side: Side{Dir: "/src"}, out: "/out"}
	if got, want := a.fill(`{out}/s -l :{port} -d '{"a":{port}}' ${HOME} {dir} {x}`, 81), `/out/s -l :81 -d '{"a":81}' ${HOME} /src {x}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for text, want := range map[string]syscall.Signal{"": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "kill it": syscall.SIGTERM} {
		a.Stop = text
		line, got := a.stop()
		if got != want || (line != "") != (text == "kill it") {
			t.Errorf("%q: got the signal %v and the command %q", text, got, line)
		}
	}
}

func TestProbe(t *testing.T) {
	status := http.StatusServiceUnavailable
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer s.Close()
	g := &gate{}
	if err := g.probe(t.Context(), nil, s.URL, 0); err == nil || err.Error() != "status 503" {
		t.Errorf("got %v, want status 503", err)
	}
	status = http.StatusFound // which is not followed
	if err := g.probe(t.Context(), nil, s.URL, 0); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.probe(t.Context(), nil, "tcp:"+l.Addr().String(), 0); err != nil {
		t.Error(err)
	}
	l.Close()
	if err := g.probe(t.Context(), nil, "tcp:"+l.Addr().String(), 0); err == nil {
		t.Error("a closed port has answered")
	}
}

// made is a run of 2000 calls, of which each took ms and cost as much CPU time.
func made(t *testing.T, ms float64, late time.Duration) run {
	t.Helper()
	text := func(d time.Duration, n int64) string {
		h := hist.New()
		h.RecordN(d, n)
		b, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	h := loadgen.Histograms{Response: text(time.Duration(ms*float64(time.Millisecond)), 2000), ResponseCensored: text(0, 0), Pacing: text(late, 2000)}
	return run{cpu: time.Duration(2000 * ms * float64(time.Millisecond)), memory: 1 << 20, result: &loadgen.Result{
		Plan: "p", Duration: 10, Generator: loadgen.Generator{CPU: 2, CPUPerRequest: 1000},
		Ops: map[string]loadgen.Figures{"get": {Sent: 2000, OK: 2000}}, Histograms: map[string]loadgen.Histograms{"get": h},
	}}
}

// ran is a gate after five rounds and the one left out, head being slower and
// costlier by as much, base against itself by quiet.
func ran(t *testing.T, head, quiet float64, late time.Duration) *gate {
	t.Helper()
	g := &gate{Config: Config{Looks: 1, Quiet: quiet != 0}, arms: []*arm{{role: judge.Base}, {role: judge.Head}, {role: judge.Control}}}
	g.Judge.Metrics = judge.DefaultRules()
	for i := range g.Judge.Metrics {
		if g.Judge.Metrics[i].Name == judge.MetricCPU {
			g.Judge.Metrics[i].Use = judge.UseGate
		}
	}
	for n := range 6 {
		ms := 10 * (1 + 0.001*float64(n%3))
		w := window{start: time.Unix(int64(1000*n), 0), of: map[int]run{0: made(t, ms, late), 1: made(t, ms*head*(1+0.002*float64(n%2)), late), 2: made(t, ms*(1+quiet)*(1+0.002*float64(n%2)), late)}}
		g.done = append(g.done, w)
	}
	return g
}

// TestLook has the judge look at rounds of a known difference.
func TestLook(t *testing.T) {
	for _, tc := range []struct {
		name        string
		head, quiet float64
		late        time.Duration
		interrupted bool
		want        judge.Verdict
		reason      string // a code
	}{
		{"the same", 1, 0, 0, false, judge.Pass, ""},
		{"30 % more", 1.3, 0, 0, false, judge.Fail, judge.ReasonMargin},
		{"the same, on a quiet rig", 1, 0.001, 0, false, judge.Pass, ""},
		{"30 % more, on a rig that differs from itself", 1.3, 0.3, 0, false, judge.Inconclusive, judge.ReasonRigNoise},
		{"the same, with calls that were late", 1, 0, 100 * time.Millisecond, false, judge.Inconclusive, judge.ReasonLate},
		{"30 % more CPU time, with calls that were late", 1.3, 0, 100 * time.Millisecond, false, judge.Fail, judge.ReasonMargin},
		{"30 % more, interrupted", 1.3, 0, 0, true, judge.Inconclusive, judge.ReasonInterrupted},
	} {
		o, _ := ran(t, tc.head, tc.quiet, tc.late).look(tc.interrupted)
		d := o.Document
		// Without failures 10,000 calls a side leave errors open; that is not the question.
		if d.Verdict == judge.Inconclusive && tc.want == judge.Pass && !slices.ContainsFunc(d.Reasons, func(r judge.Reason) bool { return r.Metric != "errors" }) {
			continue
		}
		if d.Verdict != tc.want {
			t.Errorf("%s: got %s for %+v, want %s", tc.name, d.Verdict, d.Reasons, tc.want)
		}
		if tc.reason != "" && !slices.ContainsFunc(d.Reasons, func(r judge.Reason) bool { return r.Code == tc.reason }) {
			t.Errorf("%s: got the reasons %+v, want one of code %s", tc.name, d.Reasons, tc.reason)
		}
		if (o.Quiet != nil) != (tc.quiet != 0) || o.Rounds != 6 {
			t.Errorf("%s: got %d rounds, base against itself %t", tc.name, o.Rounds, o.Quiet != nil)
		}
	}
	broken := ran(t, 1, 0, 0)
	broken.done[3].of[1].result.Histograms["get"] = loadgen.Histograms{Response: "?"}
	if o, _ := broken.look(false); o.Document.Verdict != judge.Inconclusive || o.Document.Reasons[0].Code != judge.ReasonInvalid {
		t.Errorf("a damaged round: got %s for %+v, want inconclusive", o.Document.Verdict, o.Document.Reasons)
	}
}

func TestRunRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"looks": {Looks: 4},
		"start": {Temp: t.TempDir()},
	} {
		if _, err := Run(t.Context(), cfg); err == nil || !strings.HasPrefix(err.Error(), "gate: ") {
			t.Errorf("%s: got %v, want an error of gate", name, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Run(ctx, Config{Temp: t.TempDir(), Base: Side{Start: "x", Dir: ".", Revision: "HEAD"}}); !errors.Is(err, why) {
		t.Errorf("got %v, want what ended the context", err)
	}
}
