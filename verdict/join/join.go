// Package join makes one series of windows out of the streams of several mirrors
// of one experiment: what they saw in the same stretch of time is added up, what
// they count in total becomes what they counted in it, and what is missing is
// known to be.
//
// A mirror numbers what it sends, so that a gap is a loss, and each of its windows
// ends where the next one begins. Clocks of machines differ: a mirror's window
// belongs where its own clock puts it, and how far that clock is away is told.
//
// The package is pure: streams and times are arguments. It holds a bounded part of
// what it is given, whatever that is.
package join

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/judge"
)

// Config bounds an experiment. The zero value is the default.
type Config struct {
	// Window is the length of a joined window. Zero means 10s.
	Window time.Duration
	// Grace is how long a window waits, after its end, for a mirror that is behind.
	// Zero means 15s.
	Grace time.Duration
	// MaxRoutes bounds the routes; what more there are is counted as "other". Zero
	// means 200.
	MaxRoutes int
	// MaxMirrors bounds the mirrors that are known at a time. Zero means 32.
	MaxMirrors int
	// MaxUsers is about how many users are remembered, to tell who is seen on two
	// mirrors. Zero means 100,000.
	MaxUsers int
}

func (c Config) withDefaults() Config {
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.Grace = cmp.Or(c.Grace, 15*time.Second)
	c.MaxRoutes = cmp.Or(c.MaxRoutes, 200)
	c.MaxMirrors = cmp.Or(c.MaxMirrors, 32)
	c.MaxUsers = cmp.Or(c.MaxUsers, 100_000)
	return c
}

// Other is the route of what exceeds MaxRoutes.
const Other = "other"

var (
	// ErrMirrors is returned by Header for a mirror beyond MaxMirrors.
	ErrMirrors = errors.New("more mirrors than are allowed")
	// ErrUnknown is returned by Window and Pair for a mirror without a Header.
	ErrUnknown = errors.New("a mirror that has not said who it is")
	// ErrAgain is returned for a record whose number is not above the last one's.
	ErrAgain = errors.New("a record that was there before")
	// ErrLate is returned by Window for one whose time has been judged already.
	ErrLate = errors.New("the window is too late")
	// ErrClock is returned by Window for one of a time that is not near.
	ErrClock = errors.New("the window is of another time: the clocks differ")
)

// Experiment joins the mirrors of one experiment. It is not safe for concurrent
// use.
type Experiment struct {
	cfg     Config
	mirrors map[string]*mirror
	open    []*window // by start
	closed  time.Time // end of the last window that was taken; none before is opened
	routes  map[string]bool
	users   users
	counts  Counts

	sent, lost uint64 // records that no window counts yet
}

// Counts are of an experiment since it began.
type Counts struct {
	// Late and Clock are windows that were left out, Folded routes in a window that
	// are counted under Other.
	Late, Clock, Folded uint64
	// Seen and Lost are records; Lost are those that are missed as evidence. Shed
	// were not looked at.
	Seen, Lost, Shed uint64
	// Compared are pairs that are evidence, Unordered those of users who were seen on
	// two mirrors.
	Compared, Unordered uint64
}

// New returns an experiment without mirrors.
func New(cfg Config) *Experiment {
	cfg = cfg.withDefaults()
	return &Experiment{cfg: cfg, mirrors: map[string]*mirror{}, routes: map[string]bool{}, users: newUsers(cfg.MaxUsers)}
}

// Header tells that a stream of a mirror begins, at the time it was read. A mirror
// that was here before goes on where it was.
func (e *Experiment) Header(h *pairv1.Header, at time.Time) error {
	m := e.mirrors[h.GetMirrorId()]
	if m == nil {
		if len(e.mirrors) >= e.cfg.MaxMirrors && !e.forget(at) {
			return fmt.Errorf("%w: %d", ErrMirrors, len(e.mirrors))
		}
		m = newMirror()
		e.mirrors[h.GetMirrorId()] = m
	}
	m.Here, m.Last = true, at
	m.Version = h.GetVersion()
	m.offsets = offsets{} // what waited in the mirror says nothing of its clock
	return nil
}

// forget removes the mirror that has been away longest, if it has been for long
// enough to be over.
func (e *Experiment) forget(at time.Time) bool {
	oldest := ""
	for id, m := range e.mirrors {
		if !m.Here && at.Sub(m.Last) > 4*e.cfg.Grace && (oldest == "" || m.Last.Before(e.mirrors[oldest].Last)) {
			oldest = id
		}
	}
	delete(e.mirrors, oldest)
	return oldest != ""
}

// Knows reports whether a mirror has not been forgotten.
func (e *Experiment) Knows(id string) bool { return e.mirrors[id] != nil }

// Left tells that a mirror's stream has ended. It may come back.
func (e *Experiment) Left(id string, at time.Time) {
	if m := e.mirrors[id]; m != nil {
		m.Here, m.Last = false, at
	}
}

// Window takes a mirror's next window, read at that time. w must have passed
// Check, and is the Experiment's. After an error nothing of it is counted but that
// it is lost.
func (e *Experiment) Window(id string, sequence uint64, w *pairv1.Window, at time.Time) error {
	m := e.mirrors[id]
	if m == nil {
		return ErrUnknown
	}
	if err := m.follow(sequence); err != nil {
		return err
	}
	start, length := time.Unix(0, w.GetStartTime()), time.Duration(w.GetLength())
	m.offsets.note(start.Add(length), length, at)
	m.Last = at
	m.Seen++
	sent, lost := m.balance(w)
	m.deltas(w)
	into, err := e.window(start.Add(length/2), at)
	if err != nil {
		lost++
	}
	m.Lost += lost
	e.counts.Seen += sent - lost
	e.counts.Lost += lost
	e.sent, e.lost = e.sent+sent, e.lost+lost
	if err != nil {
		clear(m.Differ)
		return err
	}
	if end := start.Add(length); end.After(m.Until) {
		m.Until = end
	}
	into.sent, into.lost = into.sent+e.sent, into.lost+e.lost
	e.sent, e.lost = 0, 0
	into.merge(w, e.name)
	for route, d := range m.Differ {
		into.route(route).differences.add(d)
	}
	clear(m.Differ)
	return nil
}

// window returns the open window that the time t is in, and opens it if need be.
func (e *Experiment) window(t, now time.Time) (*window, error) {
	start := t.Truncate(e.cfg.Window)
	switch {
	case start.Before(e.closed):
		e.counts.Late++
		return nil, ErrLate
	case t.Sub(now) > e.cfg.Grace+e.cfg.Window, now.Sub(t) > 2*e.cfg.Grace+e.cfg.Window:
		e.counts.Clock++
		return nil, ErrClock
	}
	i, found := slices.BinarySearchFunc(e.open, start, func(w *window, t time.Time) int { return w.start.Compare(t) })
	if !found {
		e.open = slices.Insert(e.open, i, newWindow(start))
	}
	return e.open[i], nil
}

// name returns under which route something is counted.
func (e *Experiment) name(route string) string {
	if !e.routes[route] {
		if len(e.routes) >= e.cfg.MaxRoutes {
			e.counts.Folded++
			return Other
		}
		e.routes[route] = true
	}
	return route
}

// Known returns under which route something is counted, without a new one.
func (e *Experiment) Known(route string) string {
	if e.routes[route] {
		return route
	}
	return Other
}

// Pair is what the comparison of one pair came to.
type Pair struct {
	Route string
	// Key is the author's hash; 0 is nobody.
	Key uint64
	// Shipped: its route is compared here and not in the mirror.
	Shipped bool
	// Judged says that it is evidence. What is not is counted by number alone.
	Judged bool
	// ShadowDiffers and ControlDiffers are from live.
	ShadowDiffers, ControlDiffers bool
}

// Pair takes a mirror's next pair, read at that time, and reports whether it is
// evidence: it isn't if its user has been seen on another mirror, since what such
// a user did may have reached the roles in another order than live.
func (e *Experiment) Pair(id string, sequence uint64, p Pair, at time.Time) (evidence bool, err error) {
	m := e.mirrors[id]
	if m == nil {
		return false, ErrUnknown
	}
	if err := m.follow(sequence); err != nil {
		return false, err
	}
	m.Last = at
	m.Seen++
	m.Pairs++
	if p.Shipped {
		m.Shipped++
	}
	if !p.Judged {
		return false, nil
	}
	if p.Key != 0 && e.users.elsewhere(p.Key, id, func(other string) bool { return e.present(other, at) }) {
		e.counts.Unordered++
		return false, nil
	}
	e.counts.Compared++
	if p.Shipped {
		m.count(e.name(p.Route), p)
	}
	return true, nil
}

// Shed tells of n records that nobody looked at, the last of them of that number.
func (e *Experiment) Shed(id string, sequence, n uint64, at time.Time) error {
	m := e.mirrors[id]
	if m == nil {
		return ErrUnknown
	}
	before := m.Gap
	if err := m.follow(sequence); err != nil {
		return err
	}
	// They came; those that were to be compared here are missed there.
	m.Gap = before + less(m.Gap-before, n-1)
	m.Last = at
	m.Shed += n
	e.counts.Shed += n
	return nil
}

// present reports whether a mirror is, or may be, still at work.
func (e *Experiment) present(id string, at time.Time) bool {
	m := e.mirrors[id]
	return m != nil && (m.Here || at.Sub(m.Last) <= e.cfg.Grace)
}

// Due returns the start of the window that is to be taken next, if one is: all
// mirrors have passed it, or those that have not are behind by more than Grace.
// since is when reading began, as a mirror may bring then what it kept meanwhile.
func (e *Experiment) Due(now, since time.Time) (start time.Time, ok bool) {
	if len(e.open) == 0 {
		return time.Time{}, false
	}
	start = e.open[0].start
	end := start.Add(e.cfg.Window)
	if now.Sub(end) > e.cfg.Grace && now.Sub(since) > e.cfg.Grace {
		return start, true
	}
	for id, m := range e.mirrors {
		if m.Until.Before(end) && e.present(id, now) {
			return start, false
		}
	}
	return start, now.Sub(since) > e.cfg.Grace || e.allBack()
}

// allBack reports whether every mirror that is known is connected.
func (e *Experiment) allBack() bool {
	for _, m := range e.mirrors {
		if !m.Here {
			return false
		}
	}
	return true
}

// Take closes the oldest open window and returns it. There must be one.
func (e *Experiment) Take() judge.Window {
	w := e.open[0]
	e.open = slices.Delete(e.open, 0, 1)
	e.closed = w.start.Add(e.cfg.Window)
	return w.judged(e.cfg.Window, e.offset())
}

// offset is that of the clock that is furthest away.
func (e *Experiment) offset() (most time.Duration) {
	for _, m := range e.mirrors {
		if o := m.offsets.least(); m.Here && o.Abs() > most.Abs() {
			most = o
		}
	}
	return most
}

// Counts returns what was counted.
func (e *Experiment) Counts() Counts { return e.counts }

// Mirror describes one mirror.
type Mirror struct {
	ID        string        `json:"id"`
	Version   string        `json:"version"`
	Connected bool          `json:"connected"`
	Last      time.Time     `json:"last"`            // when something came last
	Seen      uint64        `json:"records"`         // windows and pairs that came
	Lost      uint64        `json:"records_lost"`    // and that did not
	Clock     time.Duration `json:"clock_offset_ns"` // behind ours if positive
}

// Mirrors describes those that are known, by id.
func (e *Experiment) Mirrors() []Mirror {
	var all []Mirror
	for _, id := range slices.Sorted(maps.Keys(e.mirrors)) {
		m := e.mirrors[id]
		all = append(all, Mirror{id, m.Version, m.Here, m.Last, m.Seen, m.Lost, m.offsets.least()})
	}
	return all
}
