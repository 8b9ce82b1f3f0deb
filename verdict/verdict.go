// Package verdict judges continuously: it takes the pair streams of mirrors, joins
// and judges what they saw, keeps that through restarts, and answers what the
// verdict is, to people, to rollout controllers and to who watches.
//
//	mirrors ─▶ intake ─▶ join ─▶ judge ─▶ verdict, events, gate, webhook, metrics
//	                ╰──▶ compare, noise ──╯      ╰──▶ journal
//
// One goroutine owns all that is known: what comes is put into the journal, then
// applied. State is what the entries of the journal come to, so that a restart
// applies them again and is where the last run was when it was killed. Everything
// else reads what that goroutine has published last.
//
// Memory is bounded whatever mirrors send: streams, comparisons, routes, users,
// fields and what waits are counted, and what exceeds a bound is left out and
// counted too.
package verdict

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/translate"
	"darklaunch/verdict/compare"
	"darklaunch/verdict/intake"
	"darklaunch/verdict/join"
	"darklaunch/verdict/journal"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/noise"
)

// Config describes a server. The zero value is the default.
type Config struct {
	// Judge says what matters and how sure one wants to be.
	Judge judge.Config
	// Join bounds the mirrors of one comparison, and says how long a window is.
	Join join.Config
	// Intake bounds the streams. Its Compare, Full and Log are the server's.
	Intake intake.Config
	// Rules say what need not be equal in answers. Nil means nothing.
	Rules *compare.Rules
	// Descriptors name the fields of gRPC messages; see compare.Config.
	Descriptors compare.Descriptors
	// Translations are the rules by which mirrors call roles of another API: what such
	// a role answers is compared as the way back of its rule has it. Pairs that were
	// made by other rules are not compared.
	Translations []*translate.Rules
	// Noise bounds what is kept of fields. Its Control and Rules are the server's, and
	// its zero ExampleBytes means 2 MiB.
	Noise noise.Config
	// NoiseBlock is how long the differences are gathered that are one piece of evidence
	// of a field: longer than bursts of noise last. Zero means 30s.
	NoiseBlock time.Duration
	// Command shows a request as a line for a shell. Nil shows none.
	Command func(*pairv1.Request) string
	// State is a directory that keeps what is known. Empty keeps nothing.
	State string
	// Retention is how long a comparison is kept to which nothing comes, and a
	// change. Zero means 24h.
	Retention time.Duration
	// Webhook is told of changes, by POST. Empty tells nobody.
	Webhook string
	// Once ends a comparison with its verdict. Otherwise, as what was fast may become
	// slow, a judgement whose time is over is followed by the next, and what it came to
	// stands until that one is decided.
	Once bool
	// Inconclusive is what the gate answers at the end of a judgement that came to
	// nothing: judge.Pass, judge.Fail, or "not yet" for anything else.
	Inconclusive judge.Verdict
	// MaxComparisons bounds the experiments. Zero means 8.
	MaxComparisons int
	// MaxMemory, in bytes, is what live objects may take: from 60 % of it on pairs are
	// shed, from 90 % on windows too. Zero means 256 MiB.
	MaxMemory int
	// Look is how often a comparison is looked at where no block ends. Zero means 10s.
	Look time.Duration
	// Log gets what an operator acts on. Nil discards it.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	c.MaxComparisons = cmp.Or(c.MaxComparisons, 8)
	c.MaxMemory = cmp.Or(c.MaxMemory, 256<<20)
	c.NoiseBlock = cmp.Or(c.NoiseBlock, 30*time.Second)
	c.Look = cmp.Or(c.Look, 10*time.Second)
	c.Noise.ExampleBytes = cmp.Or(c.Noise.ExampleBytes, 2<<20)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server is a verdict that is served. Make it with New; its methods are safe for
// concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	metrics  *serverMetrics
	intake   *intake.Intake
	hook     *webhook // nil without one
	comparer *compare.Comparer
	orders   chan func()
	stopped  chan struct{} // closed when the loop has ended
	events   events

	published atomic.Pointer[map[string]*Published]
	full      atomic.Bool  // memory is short: pairs are shed
	toldRules atomic.Int64 // when it was told last that rules are not known, in seconds
	fullest   bool         // and windows too; the loop's, as all below is

	comparisons map[string]*comparison // by key
	mirrors     map[string]*comparison // by a mirror's id
	journal     *journal.Journal       // nil without State
	kept        chan error             // gets the result of what waits for the disk,
	keeping     bool                   // if something does
	owed        bool                   // a checkpoint is to be written afterwards
	broken      bool                   // the journal has failed
	buf         []byte                 // for an entry
	since       time.Time              // when reading began

	helpers sync.WaitGroup // of what Run has started
}

// Published is what is known of a comparison, as of the last look. Nobody changes it.
type Published struct {
	Name string
	// State is among warming, collecting, pass, fail and inconclusive.
	State string
	// Document is the verdict that stands, and Running the one that is being reached:
	// the same, unless a judgement follows another. Nil before the first look.
	Document, Running *judge.Document
	Changes           []Change // oldest first
	Mirrors           []join.Mirror
	Counts            join.Counts
	pairs             map[string]routeCounts
}

// ErrStopped is returned by what the server can do no more.
var ErrStopped = errors.New("the verdict is being stopped")

// New opens the state and applies what it holds. The caller must call Run. Metrics
// are registered with reg.
func New(cfg Config, reg prometheus.Registerer) (*Server, error) {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg: cfg, log: cfg.Log, orders: make(chan func()), stopped: make(chan struct{}), kept: make(chan error, 1),
		comparer:    compare.New(compare.Config{Rules: cfg.Rules, Descriptors: cfg.Descriptors, Back: Back(cfg.Translations...)}),
		comparisons: map[string]*comparison{}, mirrors: map[string]*comparison{},
	}
	s.published.Store(&map[string]*Published{})
	s.metrics = newServerMetrics(reg, s)
	cfg.Intake.Compare, cfg.Intake.Full, cfg.Intake.Log = s.compare, s.full.Load, cfg.Log
	s.intake = intake.New(cfg.Intake, reg)
	if cfg.Webhook != "" {
		s.hook = newWebhook(cfg.Webhook, cfg.Log, s.metrics, s.noteTold)
	}
	if cfg.State != "" {
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Serve reads a pair stream from conn, of which r has read the beginning, until it
// ends, is cut off, or ctx ends. Run must be running.
func (s *Server) Serve(ctx context.Context, conn net.Conn, r *bufio.Reader) {
	s.intake.Serve(ctx, conn, r)
}

const tick = 100 * time.Millisecond

// Run judges until ctx ends and serve, which runs meanwhile and calls Serve, has
// returned. The error is serve's, or of a state that could not be written.
func (s *Server) Run(ctx context.Context, serve func(context.Context) error) error {
	defer s.helpers.Wait()
	hooking, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if s.hook != nil {
		s.helpers.Go(func() { s.hook.run(hooking) })
	}
	served := make(chan error, 1)
	s.helpers.Go(func() { served <- serve(ctx) })
	err := s.loop(served)
	close(s.stopped)
	return errors.Join(err, s.close())
}

// loop owns all that is known until served has a result.
func (s *Server) loop(served <-chan error) error {
	s.since = time.Now()
	t := time.NewTicker(tick)
	defer t.Stop()
	for second := s.since; ; {
		select {
		case err := <-served:
			for { // what streams said before they ended
				select {
				case e := <-s.intake.Events():
					s.heard(e)
					continue
				default:
				}
				return err
			}
		case e := <-s.intake.Events():
			s.heard(e)
		case order := <-s.orders:
			order()
		case err := <-s.kept:
			s.done(err)
		case now := <-t.C:
			s.due(now)
			if now.Sub(second) >= time.Second {
				second = now
				s.everySecond(now)
			}
		}
	}
}

// everySecond does what need not be done more often.
func (s *Server) everySecond(now time.Time) {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	live := sample[0].Value.Uint64()
	s.full.Store(live > uint64(s.cfg.MaxMemory)/10*6)
	s.fullest = live > uint64(s.cfg.MaxMemory)/10*9
	for key, c := range s.comparisons {
		c.forget(now.Add(-s.cfg.Retention))
		if now.Sub(c.last) > s.cfg.Retention {
			s.remove(key)
		}
	}
	if s.journal == nil {
		return
	}
	if s.journal.Size() > maxJournal {
		s.commit()
	} else {
		s.keep(s.journal.Sync)
	}
}

func (s *Server) remove(key string) {
	c := s.comparisons[key]
	delete(s.comparisons, key)
	maps.DeleteFunc(s.mirrors, func(_ string, of *comparison) bool { return of == c })
	all := maps.Clone(*s.published.Load())
	delete(all, c.name)
	s.published.Store(&all)
	s.commit()
}

// heard takes an event: into the journal, and then into account.
func (s *Server) heard(e intake.Event) {
	defer e.Done()
	in := entry{at: e.At, who: e.Mirror, sequence: e.Sequence, body: e.Raw}
	switch e.Kind {
	case intake.Began:
		in.kind = began
		in.body, _ = proto.Marshal(e.Header) // it was unmarshalled
		s.write(in)
		e.Reply(s.began(e.Header, e.At))
	case intake.Window:
		if s.fullest {
			// The next record shows by its number that this one is missing.
			s.metrics.discarded.WithLabelValues(discardMemory).Inc()
			return
		}
		in.kind = window
		s.write(in)
		s.discarded(s.window(in, e.Window))
	case intake.Pairs:
		in.kind = pair
		for _, p := range e.Pairs {
			c := p.Compared.(compared)
			in.sequence, in.body = p.Sequence, c.entry
			s.write(in)
			s.discarded(s.pair(in, c.outcome))
		}
	case intake.Shed:
		in.kind, in.body = shed, binary.AppendUvarint(nil, e.N)
		s.write(in)
		s.shed(in)
	case intake.Ended:
		in.kind = ended
		s.write(in)
		s.ended(in)
	}
}

// discarded counts a record that was left out.
func (s *Server) discarded(err error) {
	reason := ""
	switch {
	case err == nil:
		return
	case errors.Is(err, join.ErrLate):
		reason = discardLate
	case errors.Is(err, join.ErrClock):
		reason = discardClock
	default:
		reason = discardAgain
	}
	s.metrics.discarded.WithLabelValues(reason).Inc()
}

// errComparisons is why a mirror is refused.
var errComparisons = errors.New("more experiments than are allowed")

// began takes in a mirror, and makes the comparison of its experiment if it is new.
func (s *Server) began(h *pairv1.Header, at time.Time) error {
	key := hex.EncodeToString(h.GetSaltHash())
	c := s.comparisons[key]
	if c == nil {
		if len(s.comparisons) >= s.cfg.MaxComparisons {
			return fmt.Errorf("%w: %d", errComparisons, len(s.comparisons))
		}
		c = newComparison(key, s.name(h.GetExperiment(), key), &s.cfg)
		s.comparisons[key] = c
	}
	if err := c.began(h, at); err != nil {
		return err
	}
	if was := s.mirrors[h.GetMirrorId()]; was != nil && was != c {
		was.mirrors.Left(h.GetMirrorId(), at)
	}
	s.mirrors[h.GetMirrorId()] = c
	// Each run of a mirror has a name of its own, and comparisons forget the oldest.
	maps.DeleteFunc(s.mirrors, func(id string, of *comparison) bool { return !of.mirrors.Knows(id) })
	s.publish(c)
	return nil
}

// name makes of an experiment's name one for labels and addresses that no other
// comparison has.
func (s *Server) name(experiment, key string) string {
	name := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, experiment)
	if runes := []rune(name); len(runes) > 64 {
		name = string(runes[:64])
	}
	if name == "" {
		name = key[:min(len(key), 8)]
	}
	for _, c := range s.comparisons {
		if c.name == name {
			return name + "-" + key[:min(len(key), 8)]
		}
	}
	return name
}

func (s *Server) window(e entry, w *pairv1.Window) error {
	c := s.mirrors[e.who]
	if c == nil {
		return join.ErrUnknown
	}
	c.last = e.at
	if err := c.mirrors.Window(e.who, e.sequence, w, e.at); err != nil {
		return err
	}
	for _, r := range w.GetRoutes() {
		c.ledger.Window(r)
	}
	return nil
}

func (s *Server) shed(e entry) {
	n, _ := binary.Uvarint(e.body)
	if c := s.mirrors[e.who]; c != nil {
		s.discarded(c.mirrors.Shed(e.who, e.sequence, n, e.at))
	}
}

func (s *Server) ended(e entry) {
	if c := s.mirrors[e.who]; c != nil {
		c.mirrors.Left(e.who, e.at)
		s.publish(c)
	}
}

// due takes the windows that are complete, or waited for long enough.
func (s *Server) due(now time.Time) {
	took := false
	for _, key := range slices.Sorted(maps.Keys(s.comparisons)) {
		c := s.comparisons[key]
		for {
			if _, ok := c.mirrors.Due(now, s.since); !ok {
				break
			}
			s.write(entry{kind: closed, at: now, who: key})
			s.take(c, now)
			s.publish(c)
			took = true
		}
	}
	if took {
		s.commit()
	}
}

// take judges the oldest window of a comparison, and looks at it if there is
// something new.
func (s *Server) take(c *comparison, at time.Time) {
	if !c.take() {
		return
	}
	change, changed := c.evaluate(at)
	s.metrics.evaluated.SetToCurrentTime()
	if !changed {
		return
	}
	s.log.Info("verdict changed", "comparison", c.name, "was", change.Was, "state", change.State, "reasons", len(c.document.Reasons))
	if s.hook != nil && !s.since.IsZero() { // else it was, or open will
		s.hook.tell(change)
	}
}

// publish shows what is known of a comparison.
func (s *Server) publish(c *comparison) {
	p := &Published{
		Name: c.name, State: string(judge.Warming), Document: c.standing(), Running: c.document, Changes: slices.Clone(c.changes),
		Mirrors: c.mirrors.Mirrors(), Counts: c.mirrors.Counts(), pairs: make(map[string]routeCounts, len(c.counts)),
	}
	if p.Document != nil {
		p.State = stateOf(p.Document)
	}
	for route, n := range c.counts {
		p.pairs[route] = *n
	}
	all := maps.Clone(*s.published.Load())
	all[c.name] = p
	s.published.Store(&all)
	s.events.publish(p)
}

// noteTold remembers that the webhook was told of a change, or will not be.
func (s *Server) noteTold(change Change) {
	_ = s.order(func() { // without it, it is told again at the next start
		for key, c := range s.comparisons {
			if c.name == change.Comparison {
				c.told = max(c.told, change.Number)
				s.write(entry{kind: notified, at: time.Now(), who: key, sequence: change.Number})
			}
		}
	})
}

// order has the loop call f, and returns when it has. ErrStopped: it has not.
func (s *Server) order(f func()) error {
	done := make(chan struct{})
	select {
	case s.orders <- func() { f(); close(done) }:
		<-done
		return nil
	case <-s.stopped:
		return ErrStopped
	}
}

// Comparison returns what is known of the comparison of that name, nil if nothing.
func (s *Server) Comparison(name string) *Published { return (*s.published.Load())[name] }

// Comparisons returns what is known of all comparisons, by name.
func (s *Server) Comparisons() []*Published {
	all := *s.published.Load()
	var list []*Published
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[name])
	}
	return list
}

// Renew begins the judgement of a comparison anew, as for another build of the
// shadow. It reports whether there is such a comparison. ErrStopped: it was not done.
func (s *Server) Renew(name string) (ok bool, err error) {
	err = s.order(func() {
		for key, c := range s.comparisons {
			if c.name == name {
				s.write(entry{kind: renewed, at: time.Now(), who: key})
				c.renew()
				s.publish(c)
				ok = true
			}
		}
	})
	return ok, err
}

// Reconfigure judges by another configuration from now on, all evidence included.
// ErrStopped: it was not done.
func (s *Server) Reconfigure(cfg judge.Config) (err error) {
	stopped := s.order(func() {
		was := s.cfg.Judge
		s.cfg.Judge = cfg
		for _, c := range s.comparisons {
			if err = c.again(); err != nil {
				s.cfg.Judge = was
				return
			}
		}
	})
	return errors.Join(stopped, err)
}
