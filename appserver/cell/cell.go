// Package cell is what a server, or a client, knows of a cell: its members as a ring,
// its live configuration, and whether what it knows can be trusted just now.
//
// # Who keeps it
//
// A Coordinator keeps the members of a cell, each for as long as its session lives,
// and the configuration beside them: ZooKeeper (package cell/zookeeper), the row-store
// process of a small cell (package cell/rows), or a Registry of this process. They are
// thin: what to make of a lost session, of a record that is garbage, or of a view that
// has gone back in time is decided here, once for all of them.
//
// # Views
//
// A view has a number: the incarnation of what the coordinator keeps, and within that
// one that grows with each change of the members (of ZooKeeper the Pzxid of their
// node). Equal numbers are equal members. A view is replaced by newer ones alone: a
// coordinator that was set back to an older state is reported, and what was known
// stays. One that was made anew has a larger incarnation, and so is newer.
//
// # Trust
//
// A member is trusted for half its session's timeout from when it sent the last request
// that was answered: by its own clock, and long before the coordinator can have given
// its name to others. ZooKeeper's client is no help there: cut off from all servers it
// never reports the end of a session, and after a pause it believes for a moment in one
// that has long expired. Trust decides whether reads may go without the store. Writes
// never rest on it: package fence.
package cell

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/appserver/ring"
	"darklaunch/appserver/store"
	"darklaunch/internal/pause"
)

// What coordinators and sessions return, wrapped.
var (
	// ErrTaken: the name is another session's.
	ErrTaken = errors.New("name is taken by another server")
	// ErrExpired: the session is over, and its record is gone.
	ErrExpired = errors.New("session has expired")
	// ErrNotThere: the coordinator works, and the cell was never set up in it.
	ErrNotThere = errors.New("cell is not set up")
)

// A Coordinator keeps the members and the configuration of one cell.
type Coordinator interface {
	// Open begins a session. It returns when there is one, or ctx has ended, or it is
	// of no use to wait. It never returns ErrTaken.
	Open(ctx context.Context) (Session, error)
}

// A Session is a connection that is known by a coordinator. Its methods are called by
// one goroutine at a time; each returns when its context ends, at the latest.
type Session interface {
	// Timeout is how long the coordinator keeps the session when it hears nothing.
	Timeout() time.Duration
	// Register puts a record under a name, for as long as the session lives. ErrTaken,
	// ErrExpired, ErrNotThere. It may be repeated.
	Register(ctx context.Context, name string, record []byte) error
	// Deregister removes the record, if it is there.
	Deregister(ctx context.Context, name string) error
	// Read returns what the coordinator has, and a channel that is closed when it may
	// have something else, or has lost sight of it. ErrExpired, ErrNotThere.
	Read(ctx context.Context) (Snapshot, <-chan struct{}, error)
	// Touch asks for a sign of life. ErrExpired.
	Touch(ctx context.Context) error
	// Close ends the session and removes what it has registered, if it can.
	Close() error
}

// A Snapshot is what a coordinator has.
type Snapshot struct {
	At      store.Ring
	Records map[string][]byte // by name
	Config  []byte            // as ParseConfig takes it; may be empty
}

// View is a cell as it is seen from here. It is not changed once it is handed out.
type View struct {
	// Ring is never nil. Before the cell was seen it has no members.
	Ring *ring.Ring
	// At is the number of the members. Zero: they were not seen yet.
	At store.Ring
	// Config is the newest that could be read.
	Config Config
	// Trusted is whether, at the time of the call of View, this server is a member and
	// no other can have taken its place; of who is no member, whether the view is fresh.
	Trusted bool
}

// Options of a Cell.
type Options struct {
	// Name of the cell, for metrics.
	Name string
	// Member is who joins. Nil: it only watches.
	Member *ring.Member
	// Tick is how often a sign of life is asked for. Zero means 500ms. It should be at
	// most an eighth of the session's timeout.
	Tick time.Duration
	// ReadEvery is how often all is read, whatever is heard of changes. Zero means 10s.
	ReadEvery time.Duration
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
	// Log may be nil.
	Log *slog.Logger
}

// Cell follows a cell, and is a member of it if Options name one, while Run runs. Its
// methods may be called from any number of goroutines.
type Cell struct {
	coordinator Coordinator
	opts        Options
	record      []byte
	metrics     *metrics
	leaving     chan struct{} // closed by Leave
	leaveOnce   sync.Once

	mu      sync.Mutex
	view    View          // but for Trusted
	changed chan struct{} // closed when view is replaced
	trusted time.Time     // until when
	joined  bool          // the record was seen or put in this session
	problem error         // why things are not as they should be; nil if they are
	unread  []string      // names whose records are garbage
}

// New returns a Cell. The error is of the member.
func New(c Coordinator, o Options) (*Cell, error) {
	if o.Tick == 0 {
		o.Tick = 500 * time.Millisecond
	}
	if o.ReadEvery == 0 {
		o.ReadEvery = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	nobody, err := ring.New(nil)
	if err != nil {
		return nil, err
	}
	cell := &Cell{
		coordinator: c, opts: o, metrics: newMetrics(o.Registerer, o.Name), leaving: make(chan struct{}),
		view: View{Ring: nobody}, changed: make(chan struct{}), problem: errors.New("the coordinator has not answered yet"),
	}
	if o.Member != nil {
		if err := o.Member.Check(); err != nil {
			return nil, fmt.Errorf("cell: %w", err)
		}
		cell.record = EncodeMember(*o.Member)
	}
	return cell, nil
}

// View returns what is known.
func (c *Cell) View() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view
	v.Trusted = time.Now().Before(c.trusted) && (c.opts.Member == nil || c.joined)
	return v
}

// Changed returns a channel that is closed when there is another view than when it was
// called, as to the ring or the configuration; not as to trust.
func (c *Cell) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Ready returns nil if the view is fresh and, of a member, if it is in the ring; else
// why not.
func (c *Cell) Ready() error {
	v := c.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.opts.Member; m != nil {
		if at, ok := v.Ring.Member(m.Name); c.problem == nil && (!ok || at.Addr != m.Addr) {
			return fmt.Errorf("%s is not in the ring of cell %s", m.Name, c.opts.Name)
		}
	}
	if c.problem != nil {
		return c.problem
	}
	if !v.Trusted {
		return fmt.Errorf("the coordinator of cell %s has not answered for too long", c.opts.Name)
	}
	return nil
}

// Status is a cell for people to read.
type Status struct {
	Members    []ring.Member `json:"members"`
	Unreadable []string      `json:"unreadable,omitempty"` // members whose records are garbage
	Ring       string        `json:"ring"`                 // its hash
	At         store.Ring    `json:"at"`
	Config     Config        `json:"config"`
	Trusted    bool          `json:"trusted"`
	Problem    string        `json:"problem,omitempty"`
}

// Status returns what is known and what is wrong.
func (c *Cell) Status() Status {
	v, err := c.View(), c.Ready()
	s := Status{Members: v.Ring.Members(), Ring: v.Ring.Hash(), At: v.At, Config: v.Config, Trusted: v.Trusted}
	if err != nil {
		s.Problem = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Unreadable = c.unread
	return s
}

// Leave takes the member out of the cell, and returns when this server sees a ring
// without it, or ctx ends. It goes on following the cell, and does not join again.
func (c *Cell) Leave(ctx context.Context) error {
	if c.opts.Member == nil {
		return nil
	}
	c.leaveOnce.Do(func() { close(c.leaving) })
	for {
		changed := c.Changed()
		v := c.View()
		if at, ok := v.Ring.Member(c.opts.Member.Name); !ok || at.Addr != c.opts.Member.Addr {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("leave cell %s: %w", c.opts.Name, ctx.Err())
		}
	}
}

// Run follows the cell until ctx ends, and leaves it then. It returns nil.
func (c *Cell) Run(ctx context.Context) error {
	wait := c.opts.Tick / 4
	for ctx.Err() == nil {
		began := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			break
		}
		c.lost(err)
		if time.Since(began) > 10*wait {
			wait = c.opts.Tick / 4
		}
		_ = pause.For(ctx, wait) // the loop sees that ctx has ended
		wait = min(2*wait, 4*c.opts.Tick)
	}
	return nil
}

// lost notes that there is no session.
func (c *Cell) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joined, c.trusted = false, time.Time{}
	c.complain(err)
}

// complain notes what is wrong, and logs it if it is new. The caller holds mu.
func (c *Cell) complain(err error) {
	switch {
	case err == nil && c.problem != nil:
		c.opts.Log.Info("cell is well", "cell", c.opts.Name, "members", c.view.Ring.Len(), "ring", c.view.Ring.Hash())
	case err != nil && (c.problem == nil || err.Error() != c.problem.Error()):
		c.opts.Log.Warn("cell is not well, serving from what is known", "cell", c.opts.Name, "err", err)
	}
	c.problem = err
}

// session follows the cell by one session, and returns why that is over.
func (c *Cell) session(ctx context.Context) error {
	s, err := c.coordinator.Open(ctx)
	if err != nil {
		return fmt.Errorf("open a session for cell %s: %w", c.opts.Name, err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			c.opts.Log.Debug("session not closed", "cell", c.opts.Name, "err", err)
		}
	}()
	f := &following{cell: c, session: s, heard: time.Now(), stale: true, leaving: c.leaving}
	tick := time.NewTicker(c.opts.Tick)
	defer tick.Stop()
	for {
		if err := f.step(ctx); err != nil {
			return fmt.Errorf("cell %s: %w", c.opts.Name, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-f.changed:
			f.changed, f.stale = nil, true
		case <-f.leaving:
			f.leaving, f.stale = nil, true
		case <-tick.C:
			f.due = true
		}
	}
}

// following is one session's work. It is owned by session.
type following struct {
	cell    *Cell
	session Session
	heard   time.Time       // when the last request was sent that was answered
	silent  bool            // the last request was not
	read    time.Time       // when all was read last
	changed <-chan struct{} // of what was read last
	leaving <-chan struct{} // nil once that is done
	stale   bool            // all is to be read
	due     bool            // a sign of life is
}

// step does what there is to do. It returns an error if the session is over.
func (f *following) step(ctx context.Context) error {
	err := f.ask(ctx)
	c := f.cell
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.complain(nil)
		return nil
	}
	switch {
	case errors.Is(err, ErrExpired), errors.Is(err, ErrNotThere):
		return err
	case f.silent && time.Since(f.heard) > f.session.Timeout():
		return fmt.Errorf("%w by this server's clock: %w", ErrExpired, err)
	}
	f.stale = true // once more at the next tick
	c.complain(err)
	return nil
}

func (f *following) ask(ctx context.Context) error {
	if f.due && !f.stale && time.Since(f.read) < f.cell.opts.ReadEvery {
		f.due = false
		return f.call(ctx, func(ctx context.Context) error { return f.session.Touch(ctx) })
	}
	if !f.stale && !f.due {
		return nil
	}
	f.stale, f.due = false, false
	s, err := f.readAll(ctx)
	if err != nil {
		return err
	}
	member := f.cell.opts.Member
	if member == nil {
		return f.cell.see(s, false)
	}
	mine := string(s.Records[member.Name]) == string(f.cell.record)
	if f.cell.isLeaving() {
		if mine {
			err = f.call(ctx, func(ctx context.Context) error { return f.session.Deregister(ctx, member.Name) })
		}
	} else {
		// A record that looks like ours may be that of an earlier session.
		err = f.call(ctx, func(ctx context.Context) error { return f.session.Register(ctx, member.Name, f.cell.record) })
	}
	if err != nil {
		return errors.Join(f.cell.see(s, false), err)
	}
	if mine == f.cell.isLeaving() { // what was read is over
		if s, err = f.readAll(ctx); err != nil {
			return err
		}
	}
	return f.cell.see(s, !f.cell.isLeaving())
}

func (f *following) readAll(ctx context.Context) (Snapshot, error) {
	var s Snapshot
	err := f.call(ctx, func(ctx context.Context) (err error) {
		s, f.changed, err = f.session.Read(ctx)
		return err
	})
	if err == nil {
		f.read = time.Now()
	}
	return s, err
}

// call makes a request. One that is answered, by whatever, is a sign of life.
func (f *following) call(ctx context.Context, request func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, f.session.Timeout()/3)
	defer cancel()
	err := request(ctx)
	f.silent = err != nil && !errors.Is(err, ErrTaken)
	if !f.silent {
		f.heard = began
		f.cell.mu.Lock()
		f.cell.trusted = began.Add(f.session.Timeout() / 2)
		f.cell.mu.Unlock()
	}
	return err
}

func (c *Cell) isLeaving() bool {
	select {
	case <-c.leaving:
		return true
	default:
		return false
	}
}

// see takes a snapshot, and returns what is wrong with it.
func (c *Cell) see(s Snapshot, joined bool) error {
	members, unread := c.decode(s.Records)
	r, err := ring.New(members)
	if err != nil {
		return fmt.Errorf("members that make no ring: %w", err)
	}
	config, configErr := ParseConfig(s.Config)
	if configErr != nil {
		configErr = fmt.Errorf("live configuration not taken: %w", configErr)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.joined, c.unread = joined, unread
	if configErr != nil {
		config = c.view.Config
	}
	next := View{Ring: r, At: s.At, Config: config}
	if d := s.At.Compare(c.view.At); d < 0 {
		return fmt.Errorf("the coordinator is at %d.%d, this server has seen %d.%d: it was set back to an older state, or a server of it lags",
			s.At.Incarnation, s.At.Number, c.view.At.Incarnation, c.view.At.Number)
	} else if d > 0 || config != c.view.Config || r.Hash() != c.view.Ring.Hash() {
		c.metrics.change(c.view, next)
		c.opts.Log.Info("ring", "cell", c.opts.Name, "members", r.Len(), "hash", r.Hash(), "incarnation", s.At.Incarnation, "number", s.At.Number)
		c.view = next
		close(c.changed)
		c.changed = make(chan struct{})
	}
	return configErr
}

// decode returns the members whose records can be read, and the names of the others,
// which are no members: every server sees the same garbage.
func (c *Cell) decode(records map[string][]byte) (members []ring.Member, unread []string) {
	for _, name := range slices.Sorted(maps.Keys(records)) {
		m, err := DecodeMember(name, records[name])
		if err != nil {
			unread = append(unread, name)
			if !slices.Contains(c.unread, name) { // only this goroutine changes it
				c.opts.Log.Error("a member's record cannot be read, it is left out", "cell", c.opts.Name, "member", name, "err", err)
			}
			continue
		}
		members = append(members, m)
	}
	return members, unread
}

// record is how members are written. Newer builds may add to it.
type record struct {
	Addr   string `json:"addr"`
	Build  string `json:"build,omitempty"`
	Zone   string `json:"zone,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// EncodeMember returns a member's record, which its name is not part of.
func EncodeMember(m ring.Member) []byte {
	b, err := json.Marshal(record{m.Addr, m.Build, m.Zone, m.Weight})
	if err != nil {
		panic(err) // strings and a number
	}
	return b
}

// DecodeMember is the inverse of EncodeMember.
func DecodeMember(name string, b []byte) (ring.Member, error) {
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return ring.Member{}, fmt.Errorf("record of %q: %w", name, err)
	}
	m := ring.Member{Name: name, Addr: r.Addr, Build: r.Build, Zone: r.Zone, Weight: r.Weight}
	return m, m.Check()
}
