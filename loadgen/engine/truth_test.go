package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/transport"
)

var judged = []float64{0.95, 0.99, 0.999}

// stall is a run of length run at a constant rate lambda, in which the server
// stands still once, for length, and then works its queue off at the rate mu.
type stall struct {
	lambda, mu float64
	run        time.Duration
	length     time.Duration
}

// fluid returns the quantiles of the response time where calls are a fluid: one
// that arrives t into the stall waits for its end and for what came before it;
// then the queue is worked off at mu while lambda comes in.
func (s stall) fluid(qs ...float64) []time.Duration {
	const steps = 1 << 16
	length := s.length.Seconds()
	empty := length * s.mu / (s.mu - s.lambda)
	times := make([]float64, steps)
	for i := range times {
		t := (float64(i) + 0.5) / steps * s.run.Seconds()
		switch {
		case t < length:
			times[i] = length - t + s.lambda*t/s.mu
		case t < empty:
			times[i] = (s.lambda*length - (s.mu-s.lambda)*(t-length)) / s.mu
		}
		times[i] += 1 / s.mu
	}
	slices.Sort(times)
	var out []time.Duration
	for _, q := range qs {
		out = append(out, time.Duration(times[int(math.Ceil(q*steps))-1]*float64(time.Second)))
	}
	return out
}

// check returns what of a measured distribution is further off the fluid's than
// within, a share, and held, which is what the machine is known to have added.
func (s stall) check(d *Dist, within float64, held time.Duration) (faults []string) {
	want := s.fluid(judged...)
	for i, got := range d.Quantiles(judged...) {
		if off := (got.Time - want[i]).Seconds(); math.Abs(off) > within*want[i].Seconds()+held.Seconds() || got.Censored {
			faults = append(faults, fmt.Sprintf("p%g: got %v (censored %t), want %v", judged[i]*100, got.Time, got.Censored, want[i]))
		}
	}
	return faults
}

// server returns the simulated server that stalls in the middle of the run.
func (s stall) server(conns int) *sim {
	from := (s.run - s.length) / 2
	return &sim{
		conns:   conns,
		service: func(time.Duration) time.Duration { return time.Duration(float64(time.Second) / s.mu) },
		ready: func(at time.Duration) time.Duration {
			if at >= from && at < from+s.length {
				return from + s.length
			}
			return at
		},
	}
}

func (s stall) plan() Source { return NewPlan(&even{rate: s.lambda, end: s.run}, nil) }

func TestStallIsSeenWhole(t *testing.T) {
	for _, rate := range []float64{500, 2000, 20000, 200000} {
		for _, conns := range []int{0, 64} {
			s := stall{lambda: rate, mu: 5 * rate, run: 10 * time.Second, length: time.Second}
			if testing.Short() { // 20,000 calls
				s.run = time.Duration(20000 / rate * float64(time.Second))
				s.length = s.run / 10
			}
			got := run(s.server(conns), Config{Source: s.plan(), Measure: s.run, MaxInFlight: 1 << 20})
			t.Logf("%.0f/s over %d connections: %v, fluid %v", rate, conns, got.Response.Quantiles(judged...), s.fluid(judged...))
			for _, f := range s.check(&got.Response, 0.02, 0) {
				t.Errorf("%.0f/s over %d connections: %s", rate, conns, f)
			}
			if want := uint64(rate * s.run.Seconds()); got.Planned != want || got.Sent() != want || got.Dropped() != 0 || got.Ended[transport.OK] != want {
				t.Errorf("%.0f/s: got planned %d, sent %d, ok %d, want %d each", rate, got.Planned, got.Sent(), got.Ended[transport.OK], want)
			}
		}
	}
}

// What other generators do must not pass for the truth: the checker is shown to
// find each of their faults.
func TestStallCheckFindsPlantedFaults(t *testing.T) {
	s := stall{lambda: 2000, mu: 10000, run: 10 * time.Second, length: time.Second}
	t.Run("closed loop", func(t *testing.T) {
		// As many users as give the same rate, none of whom asks while it waits.
		server := s.server(0)
		server.service = func(time.Duration) time.Duration { return time.Duration(float64(time.Second) / s.lambda) }
		got := run(server, Config{Source: Endless(nil), Closed: 10, Measure: s.run})
		if s.check(&got.Response, 0.02, 0) == nil {
			t.Errorf("got no fault from %v", got.Response.Quantiles(judged...))
		}
	})
	t.Run("clock started at the send", func(t *testing.T) {
		got := run(s.server(64), Config{Source: s.plan(), Measure: s.run})
		if s.check(&got.Service, 0.02, 0) == nil {
			t.Errorf("got no fault from %v", got.Service.Quantiles(judged...))
		}
	})
	t.Run("samples dropped at the end", func(t *testing.T) {
		got := run(s.server(0), Config{Source: s.plan(), Measure: 5 * time.Second, Drain: -1})
		dropped := Dist{Exact: got.Response.Exact}
		if got.InFlight == 0 {
			t.Fatal("got nothing in flight: no fault was planted")
		}
		if s.check(&dropped, 0.02, 0) == nil {
			t.Errorf("got no fault from %v", dropped.Quantiles(judged...))
		}
	})
}

func TestStallAcrossTheEndIsCensored(t *testing.T) {
	// The server stops 1 s before the end and is not waited for.
	server := &sim{
		service: func(time.Duration) time.Duration { return 50 * time.Microsecond },
		ready: func(at time.Duration) time.Duration {
			if at >= 9*time.Second {
				return time.Hour
			}
			return at
		},
	}
	got := run(server, Config{Source: NewPlan(&even{rate: 2000, end: 10 * time.Second}, nil), Measure: 10 * time.Second, Drain: -1})
	if got.InFlight != 2000 || got.Planned != 20000 || got.Sent() != 20000 {
		t.Errorf("got planned %d, sent %d, in flight %d, want 20000, 20000, 2000", got.Planned, got.Sent(), got.InFlight)
	}
	for i, v := range got.Response.Quantiles(0.5, 0.95, 0.99, 1) {
		want := []time.Duration{50 * time.Microsecond, 500 * time.Millisecond, 900 * time.Millisecond, time.Second}[i]
		if off := v.Time.Seconds()/want.Seconds() - 1; math.Abs(off) > 0.02 || v.Censored != (i > 0) {
			t.Errorf("quantile %d: got %v (censored %t), want about %v (censored %t)", i, v.Time, v.Censored, want, i > 0)
		}
	}
	if dropped := (&Dist{Exact: got.Response.Exact}).Quantiles(0.99)[0]; dropped.Time > time.Millisecond {
		t.Errorf("got p99 %v without what is censored: nothing was hidden at the end", dropped.Time)
	}
}

// law is a queue with Poisson arrivals and one server whose response times are
// known exactly, in units of the mean service time.
type law struct {
	name    string
	rho     float64
	service func(*rand.Rand) float64
	at      func(q float64) float64
	mean    float64 // Pollaczek–Khinchine
}

func laws(rho float64) []law {
	return []law{
		{"M/M/1", rho, (*rand.Rand).ExpFloat64, func(q float64) float64 { return -math.Log(1-q) / (1 - rho) }, 1 / (1 - rho)},
		{"M/D/1", rho, func(*rand.Rand) float64 { return 1 }, func(q float64) float64 { return 1 + crommelin(rho, q) }, 1 + rho/(2*(1-rho))},
	}
}

// run makes n calls over a number of connections, 0 for any.
func (l law) run(t *testing.T, n, conns int) *Tally {
	rng := rand.New(rand.NewPCG(7, uint64(l.rho*100)))
	server := &sim{conns: conns, service: func(time.Duration) time.Duration { return time.Duration(l.service(rng) * float64(meanService)) }}
	arrivals := &poisson{rng: rand.New(rand.NewPCG(1, uint64(l.rho*100))), rate: l.rho / meanService.Seconds(), left: n}
	got := run(server, Config{Source: NewPlan(arrivals, nil), Measure: time.Hour})
	if got.Ended[transport.OK] != uint64(n) {
		t.Fatalf("%s: got %d answered, want %d", l.name, got.Ended[transport.OK], n)
	}
	return got
}

const meanService = 100 * time.Microsecond

// check returns what of d is further off the law than the given shares.
func (l law) check(t *testing.T, d *Dist, within, meanWithin float64) (faults []string) {
	compare := func(what string, got time.Duration, want, within float64) {
		x := got.Seconds() / meanService.Seconds()
		t.Logf("%s at %g: %s %.4f, exact %.4f", l.name, l.rho, what, x, want)
		if math.Abs(x/want-1) > within {
			faults = append(faults, fmt.Sprintf("%s at %g: got %s %.4f, want %.4f", l.name, l.rho, what, x, want))
		}
	}
	compare("mean", d.Mean().Time, l.mean, meanWithin)
	for _, q := range []float64{0.5, 0.99} {
		compare(fmt.Sprintf("p%g", q*100), d.Quantiles(q)[0].Time, l.at(q), within)
	}
	return faults
}

func TestQueueLaws(t *testing.T) {
	n, within, meanWithin := 2_000_000, 0.03, 0.02
	if testing.Short() { // enough to see that the law is the right one
		n, within, meanWithin = 50_000, 0.15, 0.15
	}
	for _, rho := range []float64{0.5, 0.8} {
		for _, l := range laws(rho) {
			for _, f := range l.check(t, &l.run(t, n, 0).Response, within, meanWithin) {
				t.Error(f)
			}
		}
	}
}

func TestQueueLawsFindPlantedFaults(t *testing.T) {
	for _, l := range laws(0.8) {
		// Over one connection the calls queue in the generator: a clock that starts
		// at the send does not see it.
		got := l.run(t, 20_000, 1)
		if l.check(t, &got.Service, 0.15, 0.15) == nil {
			t.Errorf("%s: a clock started at the send passes", l.name)
		}
		if faults := l.check(t, &got.Response, 0.25, 0.25); faults != nil {
			t.Errorf("%s over one connection: %v", l.name, faults)
		}
	}
}

// crommelin returns the q-quantile of the waiting time in M/D/1 in units of the
// service time (Crommelin 1932; Tijms, A First Course in Stochastic Models, §9.6.2).
func crommelin(rho, q float64) float64 {
	below := func(t float64) float64 {
		sum, fact := 0.0, 1.0
		for k := 0.0; k <= math.Floor(t); k++ {
			if k > 0 {
				fact *= k
			}
			x := rho * (k - t)
			sum += math.Pow(x, k) / fact * math.Exp(-x)
		}
		return (1 - rho) * sum
	}
	lo, hi := 0.0, 30.0
	if below(0) >= q {
		return 0
	}
	for range 60 {
		if mid := (lo + hi) / 2; below(mid) < q {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

func TestDistBounds(t *testing.T) {
	ms := time.Millisecond
	dist := func(exact, censored []time.Duration) *Dist {
		d := new(Dist)
		for _, x := range exact {
			d.record(x, true)
		}
		for _, x := range censored {
			d.record(x, false)
		}
		return d
	}
	many := slices.Repeat([]time.Duration{10 * ms}, 99)
	for _, c := range []struct {
		name string
		d    *Dist
		q    float64
		want time.Duration
		cens bool
	}{
		{"empty", dist(nil, nil), 0.5, 0, false},
		{"all exact", dist(many, nil), 0.99, 10 * ms, false},
		{"one given up at once moves no other quantile", dist(many, []time.Duration{0}), 0.5, 10 * ms, false},
		{"nor the last that is sure", dist(many, []time.Duration{0}), 0.99, 10 * ms, false},
		{"but the largest may be it", dist(many, []time.Duration{0}), 1, 10 * ms, true},
		{"given up late", dist(many, []time.Duration{20 * ms}), 1, 20 * ms, true},
		{"below the late one", dist(many, []time.Duration{20 * ms}), 0.99, 10 * ms, false},
		{"nothing but censored", dist(nil, []time.Duration{5 * ms}), 0.5, 5 * ms, true},
		{"half given up", dist([]time.Duration{ms, 2 * ms}, []time.Duration{3 * ms, 3 * ms}), 0.75, 3 * ms, true},
	} {
		got := c.d.Quantiles(c.q)[0]
		if math.Abs(float64(got.Time-c.want)) > 0.001*float64(c.want) || got.Censored != c.cens {
			t.Errorf("%s: got %v (censored %t), want %v (censored %t)", c.name, got.Time, got.Censored, c.want, c.cens)
		}
	}
}

// The bounds hold whatever the hidden times were: the reported value is never
// above the true quantile, and equals it unless it is marked.
func TestDistIsHonest(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var d Dist
		var truth hist.Hist
		share := rng.Float64()
		for range 1 + rng.IntN(200) {
			x := time.Duration(rng.ExpFloat64() * 1e6)
			truth.Record(x)
			if rng.Float64() < share {
				d.record(time.Duration(rng.Float64()*float64(x)), false)
			} else {
				d.record(x, true)
			}
		}
		for _, q := range []float64{0, 0.1, 0.5, 0.9, 0.99, 1} {
			got, want := d.Quantiles(q)[0], truth.Quantile(q)
			if got.Time > want || !got.Censored && got.Time != want {
				t.Fatalf("q %g: got %v (censored %t), true %v", q, got.Time, got.Censored, want)
			}
		}
	}
}
