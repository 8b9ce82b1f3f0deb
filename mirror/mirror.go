// Package mirror is the data plane of a dark launch: it stands between clients
// and a live service, and copies what a sticky sample of the users do to a
// shadow, and to a control where there is one.
//
//	client ⇄ relay ⇄ live
//	           ↓ the same bytes
//	observe → sample → lanes → shadow, control → pairs
//
// Each front is a listener with its live service. One sampler, one set of lanes
// and one shadow serve all fronts, so that a user's exchanges stay in order
// whichever front they come by.
//
// Live depends on none of this: bytes are relayed as they come, a copy leaves
// after live has answered, and what can't be copied is dropped and counted. A
// panic beside the relay switches mirroring off; see Kill, Resume and Status.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/mirror/guard"
	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/pairs"
	"darklaunch/mirror/process"
	"darklaunch/mirror/relay"
	"darklaunch/mirror/sample"
	"darklaunch/mirror/shadow"
)

// Mirror is one data plane. Make it with New; its methods are safe for
// concurrent use.
type Mirror struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	observer  *observe.Observer
	sampler   *sample.Sampler
	early     *sample.Sampler // decides by the header what later keys may still change
	share     atomic.Pointer[sample.Share]
	lanes     *lanes.Lanes
	loop      *shadow.Loop    // sends copies
	second    *leg            // the other role of what the loop took last
	shadow    *shadow.Backend // nil without one
	fronts    []*front
	pairs     *pairs.Pairs
	told      bool // somebody reads the pairs
	ships     bool // some routes' pairs are compared by who reads them
	scraper   *process.Scraper
	tally     tally
	learner   learner
	account   *account      // of what live's exchanges hold
	answers   *account      // of what roles' do
	pendings  sync.Pool     // of *pending
	ids       atomic.Uint64 // of exchanges, for sample.MissingRandom
	streaming int           // streams that the loop is sending
	toldRule  time.Time     // when the loop told last that a rule failed
	unsafe    bool          // some route copies what may change state

	switches switches
	harm     harm
	cost     cost          // of the pairs' goroutine
	sending  atomic.Bool   // copies leave: not off, and not held by a switchback
	off      atomic.Uint32 // why mirroring is off, a lanes.Reason
	dark     atomic.Bool   // decoders are abandoned until mirroring is resumed

	// fail is nil but in tests, where it panics at a stage.
	fail func(stage)
}

// New opens the listeners and the state of a mirror. The caller must call Run,
// which closes them. An error that wraps ErrConfig is about cfg.
func New(cfg Config, reg prometheus.Registerer) (*Mirror, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	m := &Mirror{cfg: cfg, log: cfg.Log, account: &account{limit: int64(cfg.PendingBytes + cfg.PendingBytes/10)},
		answers: &account{limit: int64(cfg.PendingBytes)}}
	m.sampler = sample.New(sample.Config{Salt: cfg.Salt, Missing: cfg.Missing, Allow: cfg.Allow, Deny: cfg.Deny})
	m.early = sample.New(sample.Config{Salt: cfg.Salt, Allow: cfg.Allow, Deny: cfg.Deny})
	m.share.Store(&sample.Share{Sample: cfg.Sample, Admit: cfg.Admit})
	m.observer = observe.New(observe.Config{MaxBody: cfg.MaxBody, Account: m.account})
	m.metrics = newMetrics(reg)
	m.pendings.New = newPending
	m.harm.guard = guard.New(cfg.Guard)
	m.sending.Store(true)
	m.switches.m = m

	var err error
	if m.scraper, err = process.New(cfg.Scrape, reg); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := m.openPairs(reg); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	backends := shadow.NewMetrics(reg)
	if err := m.openFronts(backends); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := m.openLanes(); err != nil {
		return nil, err
	}
	if err := m.listen(reg); err != nil {
		return nil, errors.Join(err, m.lanes.Close())
	}
	reg.MustRegister(m.lanes)
	m.registerIDs(reg)
	m.switches.readFile()
	return m, nil
}

const (
	// keepAnswer is how much of a role's answer may be shown; all of it is compared.
	keepAnswer = 32 << 10
	// keepWhole is how much there may be of one that is compared by its fields.
	keepWhole = 256 << 10
)

// openFronts makes fronts and backends, of which nothing runs yet.
func (m *Mirror) openFronts(metrics *shadow.Metrics) (err error) {
	backend := func(role, address string) (*shadow.Backend, error) {
		if address == "" {
			return nil, nil
		}
		return shadow.New(shadow.Config{
			Role: role, Address: address, Rules: m.cfg.Headers, Timeout: m.cfg.ShadowTimeout,
			// Calls that the lanes wait for no longer may still be under way, and so
			// many again may be streams.
			MaxCalls: 3 * m.cfg.InFlight,
			KeepBody: m.keepAnswer(), Account: m.answers, Metrics: metrics,
		})
	}
	m.unsafe = m.cfg.Unsafe
	for i := range m.cfg.Fronts { // before the backends, which depend on them
		f, err := newFront(m, &m.cfg.Fronts[i])
		if err != nil {
			return fmt.Errorf("front %s: %w", m.cfg.Fronts[i].Name, err)
		}
		m.fronts = append(m.fronts, f)
	}
	if m.shadow, err = backend("shadow", m.cfg.Shadow); err != nil {
		return err
	}
	for _, f := range m.fronts {
		f.backends[lanes.Shadow] = m.shadow
		if f.backends[lanes.Control], err = backend("control", f.cfg.Control); err != nil {
			return fmt.Errorf("front %s: %w", f.cfg.Name, err)
		}
		f.expect()
	}
	m.loop = shadow.NewLoop(shadow.LoopConfig{
		Next:     m.next,
		Panicked: func(v any) { m.panicked("backend", v, debug.Stack()) },
	}, m.backends()...)
	return nil
}

func (m *Mirror) keepAnswer() int {
	if m.ships {
		return keepWhole
	}
	return keepAnswer
}

func (m *Mirror) openLanes() (err error) {
	m.lanes, err = lanes.Open(lanes.Config{
		Sample: m.cfg.Sample, Admit: m.cfg.Admit, State: m.cfg.State, Salt: m.cfg.Salt, Seed: rand.Uint64(),
		Unsafe:   [lanes.NumRoles]bool{m.unsafe && m.shadow != nil, m.unsafe && m.hasControl()},
		InFlight: m.cfg.InFlight, MaxBytes: int64(m.cfg.PendingBytes), MaxAge: m.cfg.MaxAge,
		// The backend gives up first, and looks at the time in steps.
		Timeout: m.cfg.ShadowTimeout + m.cfg.ShadowTimeout/10,
		Due:     m.loop.Wake,
	})
	return err
}

func (m *Mirror) hasControl() bool {
	for _, f := range m.fronts {
		if f.backends[lanes.Control] != nil {
			return true
		}
	}
	return false
}

// listen opens the listeners.
func (m *Mirror) listen(reg prometheus.Registerer) error {
	names := make([]string, len(m.fronts))
	for i, f := range m.fronts {
		names[i] = f.cfg.Name
	}
	metrics := relay.NewMetrics(reg, names...)
	m.harm.overhead, m.cost = metrics.Overhead(), newCost(metrics)
	for i, f := range m.fronts {
		r, err := relay.New(relay.Config{
			Front: f.cfg.Name, Listen: f.cfg.Listen, Live: f.cfg.Live,
			Observe: f.observe, OnPanic: func(v any, stack []byte) { m.panicked("observer", v, stack) },
			Certificate: f.cfg.Certificate, Key: f.cfg.Key, LiveCA: f.cfg.LiveCA, LiveH2C: f.cfg.LiveH2C,
			ProxyIn: f.cfg.ProxyIn, ProxyOut: f.cfg.ProxyOut,
			DrainTimeout: m.cfg.DrainTimeout, Loops: m.loops(),
			Log: m.log, Metrics: metrics,
		})
		if err != nil {
			for _, opened := range m.fronts[:i] {
				opened.abort()
			}
			return fmt.Errorf("front %s: %w", f.cfg.Name, err)
		}
		f.relay = r
	}
	return nil
}

// loops shares the CPUs among the fronts.
func (m *Mirror) loops() int { return max(1, (runtime.NumCPU()-1)/len(m.fronts)) }

// Loops is how many goroutines sit in epoll: GOMAXPROCS should exceed it by
// two, so that everything else finds a P at once.
func (m *Mirror) Loops() int { return m.loops()*len(m.fronts) + 1 }

// Listener is a front that accepts.
type Listener struct {
	Front string
	Addr  net.Addr
}

// Listeners returns where the fronts listen.
func (m *Mirror) Listeners() []Listener {
	ls := make([]Listener, len(m.fronts))
	for i, f := range m.fronts {
		ls[i] = Listener{f.cfg.Name, f.relay.Addr()}
	}
	return ls
}

// Warnings says, a line each, what an operator should know before traffic comes.
func (m *Mirror) Warnings() []string {
	var ws []string
	for _, f := range m.fronts {
		for _, w := range f.relay.Warnings() {
			ws = append(ws, fmt.Sprintf("front %s: %s", f.cfg.Name, w))
		}
	}
	for _, b := range m.backends() {
		ws = append(ws, b.Warnings()...)
	}
	if m.lanes.Start() == lanes.Distrusted {
		ws = append(ws, "the last run did not end in order: all users are tainted until they are seeded")
	}
	return ws
}

// SideEffects is what to go through before copies that change something are
// sent: at the start of an experiment that copies such, else nothing.
func (m *Mirror) SideEffects() []string {
	if !m.unsafe || len(m.backends()) == 0 || m.lanes.Start() != lanes.NewExperiment {
		return nil
	}
	return []string{
		"the shadow sends no mail, push or text message to real people",
		"it takes no payment and orders nothing from third parties",
		"it writes to no database, queue or bucket that live uses",
		"it calls no other service that tells its calls from live's by nothing",
		"its state equals live's for the sampled users now: they are taken for clean from here on",
	}
}

func (m *Mirror) backends() []*shadow.Backend {
	var all []*shadow.Backend
	if m.shadow != nil {
		all = append(all, m.shadow)
	}
	for _, f := range m.fronts {
		if b := f.backends[lanes.Control]; b != nil {
			all = append(all, b)
		}
	}
	return all
}

// Run relays and mirrors until ctx ends. Then it lets connections and copies
// come to their end for at most Config.DrainTimeout, and returns when all it
// started has stopped. The error is of a state that could not be written.
func (m *Mirror) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var helpers sync.WaitGroup
	m.keep(background, &helpers, "sender", m.loop.Run)
	m.keep(background, &helpers, "lanes", m.lanes.Run)
	m.keep(background, &helpers, "switches", m.switches.watch)
	m.keep(background, &helpers, "guard", m.blocks)
	if len(m.cfg.Scrape.Targets) > 0 {
		m.keep(background, &helpers, "scraper", m.scraper.Run)
	}
	telling, told := context.WithCancel(context.WithoutCancel(ctx))
	defer told()
	var teller sync.WaitGroup
	m.keep(telling, &teller, "pairs", m.pairs.Run)

	var relays sync.WaitGroup
	for _, f := range m.fronts {
		relays.Go(func() { _ = f.relay.Run(ctx) })
	}
	relays.Wait() // ctx has ended, and all connections have
	m.settle(m.cfg.DrainTimeout / 10)
	err := m.lanes.Close()
	stop()
	helpers.Wait()
	told() // when there is no pair to come
	teller.Wait()
	return err
}

// settle waits until no copy is held, for so long at most.
func (m *Mirror) settle(most time.Duration) {
	for end := time.Now().Add(most); time.Now().Before(end) && m.lanes.Snapshot().Copies > 0; {
		time.Sleep(5 * time.Millisecond)
	}
}

// keep runs f until ctx ends, again and again should it panic.
func (m *Mirror) keep(ctx context.Context, wg *sync.WaitGroup, name string, f func(context.Context) error) {
	wg.Go(func() {
		for m.guarded(name, func() { _ = f(ctx) }) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second): // a panic each time must not take a CPU
			}
		}
	})
}

// SetShare changes who is in, in ppm.
func (m *Mirror) SetShare(s sample.Share) {
	m.share.Store(&s)
	m.lanes.SetShare(s.Sample, s.Admit)
}

// Share returns who is in.
func (m *Mirror) Share() sample.Share { return *m.share.Load() }

// Reload reads certificates again. After an error some may be new.
func (m *Mirror) Reload() error {
	for _, f := range m.fronts {
		if err := f.relay.Reload(); err != nil {
			return fmt.Errorf("front %s: %w", f.cfg.Name, err)
		}
	}
	return nil
}

// account is a budget of bytes. It implements observe.Account.
type account struct {
	limit int64
	held  atomic.Int64
}

func (a *account) Reserve(n int) bool {
	if a.held.Add(int64(n)) > a.limit {
		a.held.Add(-int64(n))
		return false
	}
	return true
}

func (a *account) Release(n int) { a.held.Add(-int64(n)) }
