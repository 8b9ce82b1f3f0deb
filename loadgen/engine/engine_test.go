package engine

import (
	"context"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"darklaunch/loadgen/transport"
)

func constant(d time.Duration) func(time.Duration) time.Duration {
	return func(time.Duration) time.Duration { return d }
}

// watch counts what an Observer is told, and tells ended calls on.
type watch struct {
	released, ended, shed uint64
	each                  func(*transport.Call)
}

func (w *watch) Released(int, time.Duration) { w.released++ }
func (w *watch) Shed(*transport.Call, Shed)  { w.shed++ }
func (w *watch) Ended(c *transport.Call, _ Phase, _ bool) {
	w.ended++
	if w.each != nil {
		w.each(c)
	}
}

// Whatever happens, every planned call is accounted for once.
func TestEveryCallIsAccountedFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 0))
		n := rapid.IntRange(0, 400).Draw(t, "calls")
		server := &sim{
			conns:   rapid.IntRange(0, 5).Draw(t, "conns"),
			service: func(time.Duration) time.Duration { return time.Duration(rng.ExpFloat64() * 1e7) },
			class:   func(int) transport.Class { return transport.Class(rng.IntN(int(transport.Classes))) },
		}
		cfg := Config{
			Clock: server, Driver: server, Ops: 2,
			Settle: 100 * time.Millisecond, Measure: 400 * time.Millisecond,
			Drain:       time.Duration(rapid.IntRange(-1, 50).Draw(t, "drain ms")) * time.Millisecond,
			Timeout:     time.Duration(rapid.IntRange(1, 200).Draw(t, "timeout ms")) * time.Millisecond,
			MaxInFlight: rapid.IntRange(1, 100).Draw(t, "in flight"),
			CatchUp:     float64(rapid.IntRange(0, 3).Draw(t, "catch up")),
		}
		watch := new(watch)
		cfg.Observer = watch
		arrivals := func() *poisson { return &poisson{rng: rand.New(rand.NewPCG(seed, 1)), rate: 1000, left: n} }
		var due uint64
		for p := arrivals(); ; due++ {
			if at, ok := p.Next(); !ok || at >= cfg.Settle+cfg.Measure {
				break
			}
		}
		cfg.Source = NewPlan(arrivals(), func(c *transport.Call) { c.Op = rng.IntN(2) })
		tallies := New(cfg).Run(context.Background())
		var planned, sent, shed, lags, samples uint64
		for p := range tallies {
			for op := range tallies[p] {
				y := &tallies[p][op]
				planned += y.Planned
				sent += y.Sent()
				shed += y.Dropped()
				lags += uint64(y.Lag.Count())
				samples += uint64(y.Response.Exact.Count() + y.Response.Censored.Count())
			}
		}
		if planned != due || planned != sent+shed || watch.released != planned || watch.ended != sent || watch.shed != shed || samples != planned || lags != sent {
			t.Fatalf("due %d: got planned %d, sent %d, shed %d, observed %+v, samples %d, lags %d", due, planned, sent, shed, watch, samples, lags)
		}
	})
}

func TestLateCallsAreMadeUpFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		catchUp float64
		within  time.Duration // of the pause's end, all late calls are made
		after   time.Duration // and the last not before
	}{
		{"at once", 0, time.Millisecond, 0},
		{"at twice the rate", 2, 1010 * time.Millisecond, 990 * time.Millisecond},
		{"at four times the rate", 4, 340 * time.Millisecond, 330 * time.Millisecond},
	} {
		// The generator itself is stopped for a second.
		server := &sim{service: constant(time.Microsecond), pause: func(from, to time.Duration) time.Duration {
			if from < 2*time.Second && to >= 2*time.Second {
				return 3 * time.Second
			}
			return to
		}}
		var last time.Duration
		cfg := Config{
			Source: NewPlan(&even{rate: 1000, end: 10 * time.Second}, nil), Measure: 10 * time.Second, CatchUp: c.catchUp,
			Observer: &watch{each: func(call *transport.Call) {
				if call.Sent-call.Intended > 2*time.Millisecond {
					last = call.Sent
				}
			}},
		}
		got := run(server, cfg)
		if took := last - 3*time.Second; took > c.within || took < c.after {
			t.Errorf("%s: got the last late call %v after the pause, want between %v and %v", c.name, took, c.after, c.within)
		}
		if got.Planned != 10000 || got.Ended[transport.OK] != 10000 {
			t.Errorf("%s: got planned %d, ok %d, want 10000", c.name, got.Planned, got.Ended[transport.OK])
		}
		if lag := got.Lag.Quantile(0.98); lag < 700*time.Millisecond {
			t.Errorf("%s: got lag p98 %v, want the pause to show", c.name, lag)
		}
	}
}

func TestShedAndTimedOut(t *testing.T) {
	hang := func() *sim { return &sim{service: constant(time.Hour)} }
	plan := func() Source { return NewPlan(&even{rate: 100, end: time.Second}, nil) }
	t.Run("time-outs", func(t *testing.T) {
		got := run(hang(), Config{Source: plan(), Measure: time.Second, Timeout: 300 * time.Millisecond})
		if got.Ended[transport.Timeout] != 100 || got.Dropped() != 0 {
			t.Errorf("got %v, shed %v, want 100 timed out", got.Ended, got.Shed)
		}
		if v := got.Response.Quantiles(0.5)[0]; !v.Censored || v.Time < 300*time.Millisecond || v.Time > 301*time.Millisecond {
			t.Errorf("got p50 %v, want at least 300ms, censored", v)
		}
	})
	t.Run("no connection", func(t *testing.T) {
		server := hang()
		server.conns = 10
		got := run(server, Config{Source: plan(), Measure: time.Second, Timeout: 2 * time.Second})
		if got.Ended[transport.Timeout] != 10 || got.Shed[ShedNoConnection] != 90 || got.Planned != 100 {
			t.Errorf("got %v, shed %v, want 10 timed out and 90 without a connection", got.Ended, got.Shed)
		}
	})
	t.Run("in flight", func(t *testing.T) {
		got := run(hang(), Config{Source: plan(), Measure: time.Second, MaxInFlight: 25})
		if got.Shed[ShedInFlight] != 75 || got.Ended[transport.Timeout] != 25 {
			t.Errorf("got %v, shed %v, want 75 shed", got.Ended, got.Shed)
		}
	})
	t.Run("end", func(t *testing.T) {
		server := hang()
		server.conns = 10
		got := run(server, Config{Source: plan(), Measure: time.Second, Drain: 100 * time.Millisecond})
		if got.InFlight != 10 || got.Shed[ShedEnd] != 90 {
			t.Errorf("got in flight %d, shed %v, want 10 and 90", got.InFlight, got.Shed)
		}
	})
	t.Run("one operation without a time-out", func(t *testing.T) {
		got := run(hang(), Config{Source: plan(), Measure: time.Second, Timeouts: map[int]time.Duration{0: -1}, Drain: time.Second})
		if got.InFlight != 100 {
			t.Errorf("got in flight %d, want 100", got.InFlight)
		}
	})
}

func TestPhases(t *testing.T) {
	server := &sim{service: constant(100 * time.Millisecond)} // slow: ends fall into the next phase
	tallies := New(Config{
		Clock: server, Driver: server, Ops: 1, Settle: time.Second, Measure: 2 * time.Second,
		Source: NewPlan(&even{rate: 10, end: time.Hour}, nil),
	}).Run(context.Background())
	if a, b := tallies[Settle][0].Planned, tallies[Measure][0].Planned; a != 10 || b != 20 {
		t.Errorf("got %d and %d planned, want 10 and 20", a, b)
	}
	if a, b := tallies[Settle][0].Ended[transport.OK], tallies[Measure][0].Ended[transport.OK]; a != 10 || b != 20 {
		t.Errorf("got %d and %d ended, want 10 and 20", a, b)
	}
}

func TestContextEndsThePlan(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &sim{service: constant(300 * time.Millisecond)}
	cfg := Config{Clock: server, Driver: server, Ops: 1, Measure: time.Hour, Source: NewPlan(&even{rate: 2, end: time.Hour}, nil)}
	cfg.Observer = &watch{each: func(c *transport.Call) {
		if c.Intended >= time.Second {
			cancel()
		}
	}}
	s := New(cfg)
	got := s.Run(ctx)[Measure][0]
	if got.Planned != 3 || got.Ended[transport.OK] != 3 || s.End() > 2*time.Second {
		t.Errorf("got planned %d, ok %d, end %v, want 3 calls and an end before 2s", got.Planned, got.Ended[transport.OK], s.End())
	}
}

func TestClosedLoopKeepsItsCalls(t *testing.T) {
	server := &sim{service: constant(time.Millisecond)}
	got := run(server, Config{Source: Endless(nil), Closed: 10, Measure: time.Second})
	if n := got.Ended[transport.OK]; n < 1000 || n > 1010 {
		t.Errorf("got %d calls, want 1000 to 1010", n)
	}
	if p := got.Response.Quantiles(0.5)[0].Time; p < 9990*time.Microsecond || p > 10020*time.Microsecond {
		t.Errorf("got p50 %v, want 10ms: ten calls share a server of 1 ms", p)
	}
}

// sessions makes each call a second after the one before it was answered.
type sessions struct {
	watch
	at   time.Duration
	left int
	due  bool
}

func (s *sessions) Peek() (time.Duration, bool) { return s.at, s.due }
func (s *sessions) Take(*transport.Call)        { s.due = false }

func (s *sessions) Ended(c *transport.Call, p Phase, final bool) {
	s.left--
	s.at, s.due = c.Done+time.Second, s.left > 0
}

func TestCallsMayDependOnAnswers(t *testing.T) {
	src := &sessions{left: 4, due: true}
	server := &sim{service: constant(500 * time.Millisecond)}
	got := run(server, Config{Source: src, Observer: src, Measure: time.Hour})
	// 0, 1.5, 3 and 4.5 s; nothing is waited for after the last.
	if got.Planned != 4 || got.Ended[transport.OK] != 4 || server.now != 5*time.Second {
		t.Errorf("got planned %d, ok %d, over at %v, want 4 calls until 5s", got.Planned, got.Ended[transport.OK], server.now)
	}
	if lag := got.Lag.Max(); lag != 0 {
		t.Errorf("got lag %v, want none", lag)
	}
}

func TestLimit(t *testing.T) {
	for name, cfg := range map[string]Config{
		"open":   {Source: Limit(NewPlan(&even{rate: 100, end: time.Hour}, nil), 7)},
		"closed": {Source: Limit(Endless(nil), 7), Closed: 3},
	} {
		cfg.Measure = time.Hour
		server := &sim{service: constant(time.Millisecond)}
		if got := run(server, cfg); got.Planned != 7 || got.Ended[transport.OK] != 7 || server.now > time.Second {
			t.Errorf("%s: got planned %d, ok %d, over at %v, want 7 and soon", name, got.Planned, got.Ended[transport.OK], server.now)
		}
	}
}

// Memory is a matter of how much is under way, not of how long the run is.
func TestMemoryDoesNotGrow(t *testing.T) {
	allocated := func(calls int) uint64 {
		server := &sim{service: constant(10 * time.Microsecond)}
		arrivals := &poisson{rng: rand.New(rand.NewPCG(1, 2)), rate: 20000, left: calls}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if got := run(server, Config{Source: NewPlan(arrivals, nil), Measure: time.Hour}); got.Planned != uint64(calls) {
			t.Fatalf("got %d calls, want %d", got.Planned, calls)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	short, long := allocated(10_000), allocated(100_000)
	if long > short+short/4 {
		t.Errorf("got %d bytes for ten times the calls, want about the %d of the short run", long, short)
	}
}

func BenchmarkShard(b *testing.B) {
	server := &sim{service: constant(10 * time.Microsecond)}
	cfg := Config{Source: NewPlan(&even{rate: 20000, end: time.Duration(b.N) * 50 * time.Microsecond}, nil), Measure: time.Duration(b.N) * 50 * time.Microsecond}
	b.ReportAllocs()
	run(server, cfg)
}

// holding is a Source of one stream, and calls of which the second from the last
// has it let go.
type holding struct {
	*Plan
	stream *transport.Call
	taken  int
	letGo  bool
}

func (h *holding) Take(c *transport.Call) {
	h.Plan.Take(c)
	if h.taken++; h.taken == 1 {
		c.Op, h.stream = 1, c
	}
}

func (h *holding) LetGo() *transport.Call {
	c := h.stream
	if c == nil || !h.letGo || h.taken < 10 {
		return nil
	}
	h.stream = nil
	return c
}

// TestHeldStreams lets go of a stream within the plan, or leaves it to the plan's
// end; the service has told something on it after 3 ms, or nothing.
func TestHeldStreams(t *testing.T) {
	for _, c := range []struct {
		name         string
		letGo, tells bool
	}{
		{"let go", true, true}, {"never told anything", true, false}, {"the plan ends", false, true}, {"the plan ends, never told", false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := &sim{service: constant(time.Millisecond)}
			src := &holding{letGo: c.letGo}
			src.Plan = NewPlan(&poisson{rng: rand.New(rand.NewPCG(1, 1)), rate: 100, left: 20}, nil)
			watch := new(watch)
			tallies := New(Config{
				Clock: server, Driver: streams{server, c.tells}, Source: src, Ops: 2, Measure: time.Second, Timeout: 5 * time.Millisecond,
				Held: map[int]bool{1: true}, Observer: watch,
			}).Run(context.Background())
			stream := &tallies[Measure][1]
			n := int(stream.Ended[transport.OK])
			if c.tells && (n != 1 || stream.InFlight != 0 || stream.Response.Exact.Max().Round(10*time.Microsecond) != 3*time.Millisecond) {
				t.Errorf("got %d ok, %d in flight, response %v, want a stream that answered after 3ms", n, stream.InFlight, stream.Response.Exact.Max())
			}
			if !c.tells && (n != 0 || stream.InFlight != 1 || stream.Response.Censored.Count() != 1) {
				t.Errorf("got %d ok, %d in flight, want one that was given up", n, stream.InFlight)
			}
			if got := tallies[Measure][0].Ended[transport.OK]; got != 19 || watch.ended != 20 || watch.shed != 0 {
				t.Errorf("got %d other calls, told %+v, want 19, and of all 20", got, watch)
			}
			if server.now > time.Second+10*time.Millisecond {
				t.Errorf("the run took %v, want that nobody waits for the stream", server.now)
			}
		})
	}
}

// streams is a driver whose calls of operation 1 never end.
type streams struct {
	*sim
	tell bool
}

func (s streams) Start(c *transport.Call) {
	if c.Op == 0 {
		s.sim.Start(c)
		return
	}
	c.Tried, c.Sent, c.First = true, s.now, 0
	if s.tell {
		c.First = s.now + 3*time.Millisecond
	}
}

func (s streams) Cancel(c *transport.Call) {
	if c.Op == 0 {
		s.sim.Cancel(c)
	}
}
