// Package intake reads the pair streams of mirrors and hands on what they say, one
// event after the other.
//
// Whoever can connect may send anything. So a stream is cut off, with a reason, as
// soon as it is not what it should be, is silent, or is one too many; nothing is
// allocated on the word of a length; and no more is decoded in a second than is
// allowed. Windows wait for who takes the events, and then the mirror waits, which
// drops what it has no room for. Pairs wait for a second at most: those that are too
// many are shed, and their number is told.
package intake

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
	"darklaunch/verdict/join"
)

// Config describes an intake. The zero value is the default.
type Config struct {
	// Token must come before each stream. Empty asks for none.
	Token string
	// MaxStreams bounds the streams at a time. Zero means 32.
	MaxStreams int
	// Silence is how long a stream may take for its next record. A mirror sends one
	// each second. Zero means 30s.
	Silence time.Duration
	// MaxPairs and MaxPairBytes bound the pairs that are compared in a second, of all
	// streams together. Zero means 4000 and 24 MiB.
	MaxPairs, MaxPairBytes int
	// Compare makes of a pair what the taker of events wants of it, under the stream's
	// goroutine. An error cuts the stream off. Nil leaves Event.Pair nil.
	Compare func(*pairv1.Pair) (any, error)
	// Full says that memory is short, so that pairs are shed. Nil never says so.
	Full func() bool
	// Log gets a line for each stream that is cut off.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	c.MaxStreams = cmp.Or(c.MaxStreams, 32)
	c.Silence = cmp.Or(c.Silence, 30*time.Second)
	c.MaxPairs = cmp.Or(c.MaxPairs, 4000)
	c.MaxPairBytes = cmp.Or(c.MaxPairBytes, 24<<20)
	if c.Full == nil {
		c.Full = func() bool { return false }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Kind is what an event tells of.
type Kind int

// The kinds of events. A stream's first is Began and its last is Ended, unless its
// Began was refused.
const (
	Began  Kind = iota // Header; Reply must be called
	Window             // Window, with Raw
	Pairs              // Pairs
	Shed               // N records up to Sequence were not looked at
	Ended              // nothing more comes of this stream
)

// Event is one thing that a stream said. It is the taker's.
type Event struct {
	Kind Kind
	// Mirror is who, by the header's name.
	Mirror string
	// At is when it was read.
	At       time.Time
	Sequence uint64
	Header   *pairv1.Header
	Window   *pairv1.Window
	Raw      []byte // the window's record as it came
	Pairs    []Pair
	N        uint64

	reply chan error
	large chan struct{} // is held by a large window until Done
}

// Pair is one of those that came together.
type Pair struct {
	Sequence uint64
	Compared any // what Config.Compare made of it
}

// Done tells that nothing of the event is needed any more. It must be called.
func (e *Event) Done() {
	if e.large != nil {
		<-e.large
	}
}

// Reply lets a stream that began go on, or cuts it off with err.
func (e *Event) Reply(err error) { e.reply <- err }

// Why a stream was cut off: label values, a closed set.
const (
	cutToken    = "token"     // another token, or none
	cutFormat   = "malformed" // not a pair stream, or one with what can't be
	cutLarge    = "too_large"
	cutSilent   = "silent"
	cutMany     = "too_many"
	cutRefused  = "refused"  // by Reply
	cutReplaced = "replaced" // the same mirror came again
	cutBroken   = "broken"   // the connection ended within a record
)

// Why a pair was shed.
const (
	shedRate   = "rate"   // more than Config allows in a second
	shedQueue  = "queue"  // who takes the events is behind
	shedMemory = "memory" // Config.Full said so
	shedLarge  = "large"  // it would take more than 2 MiB of memory
)

// Intake reads streams. Its methods are safe for concurrent use.
type Intake struct {
	cfg     Config
	events  chan Event
	budget  budget
	metrics *metrics
	large   chan struct{} // of one: held from when a large window is decoded until it is done with

	mu      sync.Mutex // guards the rest
	streams int
	mirrors map[string]*stream
}

// stream is one connection.
type stream struct {
	in       *Intake
	conn     net.Conn
	mirror   string
	pairs    []Pair // since the last event, and
	bytes    int    // of them
	shed     uint64 // records since the last event, after those pairs, and
	sequence uint64 // the last of them
	ended    chan struct{}
	replaced bool // guarded by in.mu
}

// queue is how many events may wait: a window of each stream, about, or so many times
// mostPairs.
const queue = 32

// New returns an intake; metrics are registered with reg.
func New(cfg Config, reg prometheus.Registerer) *Intake {
	cfg = cfg.withDefaults()
	in := &Intake{
		cfg: cfg, events: make(chan Event, queue), large: make(chan struct{}, 1), mirrors: map[string]*stream{},
		budget: budget{pairs: float64(cfg.MaxPairs), bytes: float64(cfg.MaxPairBytes)},
	}
	in.budget.leftPairs, in.budget.leftBytes = in.budget.pairs, in.budget.bytes
	in.metrics = newMetrics(reg, in.count)
	return in
}

func (in *Intake) count() float64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return float64(in.streams)
}

// Events returns what streams say, in the order of each.
func (in *Intake) Events() <-chan Event { return in.events }

// Serve reads a stream from conn, of which r has read the beginning, until it ends,
// is cut off, or ctx ends; then it closes conn. Somebody must take the events
// meanwhile.
func (in *Intake) Serve(ctx context.Context, conn net.Conn, r *bufio.Reader) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // which ends a read
	s := &stream{in: in, conn: conn, ended: make(chan struct{})}
	defer close(s.ended)
	err := s.serve(ctx, r)
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return
	}
	reason := s.reason(err)
	in.metrics.cut.WithLabelValues(reason).Inc()
	in.cfg.Log.Warn("pair stream cut off", "from", conn.RemoteAddr().String(), "mirror", s.mirror, "reason", reason, "err", err)
}

var (
	errMany    = errors.New("more streams than are allowed")
	errRefused = errors.New("refused")
)

func (s *stream) reason(err error) string {
	switch {
	case s.isReplaced():
		return cutReplaced
	case errors.Is(err, pairstream.ErrToken):
		return cutToken
	case errors.Is(err, pairstream.ErrTooLarge):
		return cutLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return cutSilent
	case errors.Is(err, errMany):
		return cutMany
	case errors.Is(err, errRefused):
		return cutRefused
	case errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, new(*net.OpError)):
		return cutBroken
	}
	return cutFormat
}

func (s *stream) isReplaced() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	return s.replaced
}

func (s *stream) serve(ctx context.Context, r *bufio.Reader) error {
	in := s.in
	if !in.enter() {
		return fmt.Errorf("%w: %d", errMany, in.cfg.MaxStreams)
	}
	defer in.leave()
	s.extend()
	if err := pairstream.CheckToken(r, in.cfg.Token); err != nil {
		return err
	}
	records := pairstream.NewReader(r)
	first, err := records.Next()
	if err != nil {
		return err
	}
	if err := s.begin(ctx, first.GetHeader()); err != nil {
		return err
	}
	err = s.records(ctx, records)
	if tell := s.flush(ctx); err == io.EOF {
		err = cmp.Or(tell, err)
	}
	in.drop(s)
	// Its end must be known whatever ended it; who takes the events outlives ctx.
	in.events <- Event{Kind: Ended, Mirror: s.mirror, At: time.Now()}
	return err
}

func (in *Intake) enter() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.streams >= in.cfg.MaxStreams {
		return false
	}
	in.streams++
	return true
}

func (in *Intake) leave() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.streams--
}

// extend gives the stream time for its next record.
func (s *stream) extend() { s.conn.SetReadDeadline(time.Now().Add(s.in.cfg.Silence)) }

const (
	maxName   = 256
	maxRoutes = 4096
)

// begin checks who speaks, waits until an older stream of the same mirror has
// ended, and asks whether this one may go on.
func (s *stream) begin(ctx context.Context, h *pairv1.Header) error {
	switch {
	case h.GetMirrorId() == "" || len(h.GetMirrorId()) > maxName:
		return fmt.Errorf("a header with a mirror's id of %d bytes", len(h.GetMirrorId()))
	case len(h.GetExperiment()) > maxName || len(h.GetVersion()) > maxName:
		return errors.New("a header with names that are too long")
	case len(h.GetSaltHash()) == 0 || len(h.GetSaltHash()) > 64:
		return fmt.Errorf("a header with a salt's hash of %d bytes", len(h.GetSaltHash()))
	case len(h.GetRoutes()) > maxRoutes || len(h.GetRoles()) > 8:
		return fmt.Errorf("a header with %d routes and %d roles", len(h.GetRoutes()), len(h.GetRoles()))
	}
	s.mirror = h.GetMirrorId()
	if err := s.replace(ctx); err != nil {
		return err
	}
	e := Event{Kind: Began, Mirror: s.mirror, At: time.Now(), Header: h, reply: make(chan error, 1)}
	if err := s.send(ctx, e); err != nil {
		s.in.drop(s)
		return err
	}
	select {
	case err := <-e.reply:
		if err != nil {
			s.in.drop(s)
			return fmt.Errorf("%w: %w", errRefused, err)
		}
		return nil
	case <-ctx.Done():
		// It may have been let in: say that it has gone.
		s.in.drop(s)
		s.in.events <- Event{Kind: Ended, Mirror: s.mirror, At: time.Now()}
		return ctx.Err()
	}
}

// replace puts this stream in the place of one of the same mirror: the mirror has
// connected again, and we have not noticed that the old connection is dead.
func (s *stream) replace(ctx context.Context) error {
	in := s.in
	for {
		in.mu.Lock()
		old := in.mirrors[s.mirror]
		if old == nil {
			in.mirrors[s.mirror] = s
		} else {
			old.replaced = true
		}
		in.mu.Unlock()
		if old == nil {
			return nil
		}
		old.conn.Close()
		select {
		case <-old.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (in *Intake) drop(s *stream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.mirrors[s.mirror] == s {
		delete(in.mirrors, s.mirror)
	}
}

// Pairs that come together are handed on together, as many as these.
const (
	mostPairs     = 64
	mostPairBytes = 256 << 10
)

// records hands on what comes after the header. io.EOF: the mirror has ended.
func (s *stream) records(ctx context.Context, records *pairstream.Reader) error {
	for {
		if records.Buffered() == 0 || s.many() {
			if err := s.offer(ctx); err != nil {
				return err
			}
		}
		s.extend()
		raw, err := records.Raw()
		if err != nil {
			return err
		}
		sequence, kind, err := pairstream.Peek(raw)
		if err != nil {
			return err
		}
		switch kind {
		case pairstream.KindPair:
			err = s.pair(ctx, sequence, raw)
		case pairstream.KindWindow:
			err = s.window(ctx, sequence, raw)
		case pairstream.KindHeader:
			err = pairstream.ErrNoHeader
		default: // a later mirror may send what we do not know
			s.skip(sequence)
		}
		if err != nil {
			return err
		}
	}
}

func (s *stream) send(ctx context.Context, e Event) error {
	select {
	case s.in.events <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// largeCost is from where on a record is large: as many of smaller ones as the queue
// holds may be in memory at a time, and one of those.
const largeCost = 2 << 20

func (s *stream) window(ctx context.Context, sequence uint64, raw []byte) error {
	if err := s.flush(ctx); err != nil {
		return err
	}
	e := Event{Kind: Window, Mirror: s.mirror, Sequence: sequence}
	cost, err := pairstream.Cost(raw)
	if err != nil {
		return err
	}
	if cost > largeCost {
		e.large = s.in.large
		select {
		case e.large <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	record, err := pairstream.Decode(raw)
	if err == nil {
		err = join.Check(record.GetWindow())
	}
	if err == nil {
		s.in.metrics.windows.Inc()
		e.At, e.Window, e.Raw = time.Now(), record.GetWindow(), bytes.Clone(raw)
		err = s.send(ctx, e)
	}
	if err != nil {
		e.Done()
	}
	return err
}

func (s *stream) pair(ctx context.Context, sequence uint64, raw []byte) error {
	in := s.in
	reason := ""
	switch {
	case len(raw) > largeCost/128 && s.large(raw):
		reason = shedLarge
	case in.cfg.Full():
		reason = shedMemory
	case s.many(): // they were offered, and nobody took them
		reason = shedQueue
	case !in.budget.take(len(raw), time.Now()):
		reason = shedRate
	}
	if reason != "" {
		in.metrics.shed.WithLabelValues(reason).Inc()
		s.skip(sequence)
		return nil
	}
	if s.shed > 0 {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	record, err := pairstream.Decode(raw)
	if err != nil {
		return err
	}
	if err := checkPair(record.GetPair()); err != nil {
		return err
	}
	p := Pair{Sequence: sequence}
	if in.cfg.Compare != nil {
		if p.Compared, err = in.cfg.Compare(record.GetPair()); err != nil {
			return err
		}
	}
	in.metrics.pairs.Inc()
	s.pairs, s.bytes = append(s.pairs, p), s.bytes+len(raw)
	return nil
}

// large reports whether a pair would take more memory than all streams may take at
// a time: a mirror keeps a few ten KiB of each answer.
func (s *stream) large(raw []byte) bool {
	cost, err := pairstream.Cost(raw)
	return err == nil && cost > largeCost
}

// skip notes a record that is not looked at.
func (s *stream) skip(sequence uint64) { s.shed, s.sequence = s.shed+1, sequence }

// many reports whether the pairs that came are as many as are handed on together.
func (s *stream) many() bool { return len(s.pairs) >= mostPairs || s.bytes >= mostPairBytes }

// patience is how long pairs wait for who takes the events, before more are shed.
const patience = time.Second

// offer hands on what came, if somebody takes it before long.
func (s *stream) offer(ctx context.Context) error {
	if len(s.pairs) == 0 {
		return s.flush(ctx)
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case s.in.events <- Event{Kind: Pairs, Mirror: s.mirror, At: time.Now(), Pairs: s.pairs}:
		s.pairs, s.bytes = nil, 0
		return s.flush(ctx)
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush hands on the pairs that came, and tells of what was skipped after them.
func (s *stream) flush(ctx context.Context) error {
	if len(s.pairs) > 0 {
		e := Event{Kind: Pairs, Mirror: s.mirror, At: time.Now(), Pairs: s.pairs}
		s.pairs, s.bytes = nil, 0
		if err := s.send(ctx, e); err != nil {
			return err
		}
	}
	if s.shed > 0 {
		e := Event{Kind: Shed, Mirror: s.mirror, At: time.Now(), Sequence: s.sequence, N: s.shed}
		s.shed = 0
		return s.send(ctx, e)
	}
	return nil
}

// checkPair says what about a pair cannot be.
func checkPair(p *pairv1.Pair) error {
	if len(p.GetRoute()) > 512 || len(p.GetId()) > 64 || len(p.GetSides()) > 3 || len(p.GetSides()) == 0 {
		return fmt.Errorf("a pair with %d sides, an id of %d bytes and a route of %d", len(p.GetSides()), len(p.GetId()), len(p.GetRoute()))
	}
	seen := map[pairv1.Role]bool{}
	for i, side := range p.GetSides() {
		if seen[side.GetRole()] || (side.GetRole() == pairv1.Role_ROLE_LIVE) != (i == 0) {
			return errors.New("a pair that does not have live first and each role once")
		}
		seen[side.GetRole()] = true
		if len(side.GetExchanges()) > 64 {
			return fmt.Errorf("a pair with %d exchanges on a side", len(side.GetExchanges()))
		}
	}
	return nil
}

// budget allows so many pairs and bytes of them a second, and a second's worth at
// once.
type budget struct {
	pairs, bytes float64 // a second

	mu                   sync.Mutex // guards the rest
	at                   time.Time
	leftPairs, leftBytes float64
}

func (b *budget) take(n int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.at.IsZero() {
		passed := now.Sub(b.at).Seconds()
		b.leftPairs = min(b.leftPairs+passed*b.pairs, b.pairs)
		b.leftBytes = min(b.leftBytes+passed*b.bytes, b.bytes)
	}
	b.at = now
	if b.leftPairs < 1 || b.leftBytes < float64(n) {
		return false
	}
	b.leftPairs--
	b.leftBytes -= float64(n)
	return true
}
