package mirror

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/mirror/guard"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
)

// blockLength is that of a block that the guard judges, and of a switchback's
// slice: well below the age bound of copies, which unsafe ones wait out.
const blockLength = 5 * time.Second

// harm measures what mirroring does to live, block by block, and switches it off
// when a guard says so.
type harm struct {
	overhead func(into *hist.Hist)
	traffic  [2]struct{ requests, failed atomic.Uint64 } // by sampled
	// turns counts changes of whether copies are sent: a block in which there was
	// one is no evidence.
	turns atomic.Uint64

	mu    sync.Mutex // guards the rest
	guard *guard.Guard
	trips int
}

// observe counts an exchange that live has ended.
func (h *harm) observe(x *observe.Exchange, sampled bool) {
	t := &h.traffic[b2i(sampled)]
	t.requests.Add(1)
	if liveFailed(x) {
		t.failed.Add(1)
	}
}

// liveFailed reports whether an exchange failed by live's doing, as its client
// sees it.
func liveFailed(x *observe.Exchange) bool {
	if !x.Answer.Complete {
		return x.Outcome != observe.ClientCut && !unread(x)
	}
	return pairs.LiveFailed(x)
}

func (h *harm) seeded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guard.Seeded()
}

func (h *harm) resumed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.guard.Resumed()
}

// sums are what a block is the difference of.
type sums struct {
	turns   uint64
	traffic [2]guard.Traffic
}

func (h *harm) sums() (s sums) {
	s.turns = h.turns.Load()
	for i := range h.traffic {
		s.traffic[i] = guard.Traffic{Requests: h.traffic[i].requests.Load(), Failed: h.traffic[i].failed.Load()}
	}
	return s
}

// blocks cuts time into blocks until ctx ends. In a share of them, drawn at
// random, a switchback holds the copies. The guard judges each.
func (m *Mirror) blocks(ctx context.Context) error {
	t := time.NewTicker(m.cfg.blockLength)
	defer t.Stop()
	if m.cfg.Switchback > 0 {
		defer m.hold(false)
	}
	var overhead hist.Hist
	for {
		held := rand.Int32N(1_000_000) < m.cfg.Switchback
		if m.cfg.Switchback > 0 {
			m.hold(held)
		}
		m.harm.overhead(&overhead)
		overhead.Reset()
		before := m.harm.sums()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		m.harm.overhead(&overhead)
		m.judgeBlock(before, m.harm.sums(), &overhead, held)
	}
}

// judgeBlock tells the guard of what was seen between two moments.
func (m *Mirror) judgeBlock(before, after sums, overhead *hist.Hist, held bool) {
	if before.turns != after.turns || m.cfg.Unguarded || len(m.backends()) == 0 {
		return
	}
	b := guard.Block{
		Sending: m.sending.Load(), Held: held, Set: m.Share().Sample > 0,
		Overhead: overhead.Quantile(0.99), Chunks: overhead.Count(),
	}
	of := func(i int) guard.Traffic {
		return guard.Traffic{
			Requests: after.traffic[i].Requests - before.traffic[i].Requests,
			Failed:   after.traffic[i].Failed - before.traffic[i].Failed,
		}
	}
	b.Unsampled, b.Sampled = of(0), of(1)
	m.harm.mu.Lock()
	what, why := m.harm.guard.Judge(b)
	if what != "" {
		m.harm.trips++
		m.harm.guard.Resumed()
	}
	m.harm.mu.Unlock()
	if what == "" {
		return
	}
	m.metrics.guarded[what].Inc()
	m.log.Error("mirroring off, as it seems to hurt live", "symptom", string(what), "why", why)
	m.switches.set(func(s *switches) { s.harm = why })
}

// GuardStatus is what the live guard makes of what it sees.
type GuardStatus struct {
	Active bool `json:"active"`
	// Evidence is what live is compared with: switchback, baseline, or no baseline.
	Evidence guard.Evidence `json:"evidence"`
	// Bad is how many blocks in a row were bad until now, Trips how often that
	// switched mirroring off.
	Bad   int `json:"bad_blocks"`
	Trips int `json:"trips"`
}

func (m *Mirror) guardStatus() GuardStatus {
	m.harm.mu.Lock()
	defer m.harm.mu.Unlock()
	return GuardStatus{!m.cfg.Unguarded, m.harm.guard.Evidence(), m.harm.guard.Bad(), m.harm.trips}
}
