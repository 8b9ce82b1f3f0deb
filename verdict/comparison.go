package verdict

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/join"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/noise"
)

// comparison is one experiment that is judged. The server's loop owns it.
type comparison struct {
	key  string // of the experiment: its salt's hash
	name string
	cfg  *Config

	mirrors *join.Experiment
	watch   *judge.Watch
	ledger  *noise.Ledger
	roles   map[judge.Role]bool
	counts  map[string]*routeCounts

	last      time.Time // when something came
	evaluated time.Time // start of the window that was last when it was judged
	begun     time.Time // start of the judgement's first window
	block     time.Time // when the ledger's last block ended
	document  *judge.Document
	previous  *judge.Document // what the judgement before came to
	changes   []Change
	told      uint64 // number of the last change that was told
}

// routeCounts are what verdict_pairs_total counts of a route, in the order of
// pairResults.
type routeCounts [len(pairResults)]uint64

// Change is a change of a verdict, as the webhook tells it and the history keeps it.
type Change struct {
	Comparison string    `json:"comparison"`
	Number     uint64    `json:"number"` // counts a comparison's changes from 1
	At         time.Time `json:"at"`
	// Was and State are among warming, collecting, pass, fail and inconclusive; Was
	// is empty the first time.
	Was     string         `json:"was"`
	State   string         `json:"state"`
	Verdict judge.Verdict  `json:"verdict"`
	Reasons []judge.Reason `json:"reasons"`
}

const (
	maxChanges = 256
	maxReasons = 10
)

func newComparison(key, name string, cfg *Config) *comparison {
	c := &comparison{key: key, name: name, cfg: cfg, roles: map[judge.Role]bool{}, counts: map[string]*routeCounts{}}
	c.mirrors = join.New(cfg.Join)
	c.renew()
	return c
}

// renew begins the judgement anew; mirrors go on where they are.
func (c *comparison) renew() {
	c.watch = judge.NewWatch(c.judged(), c.cfg.Judge)
	c.ledger = c.newLedger()
	c.document, c.previous = nil, nil
	c.evaluated, c.begun, c.block = time.Time{}, time.Time{}, time.Time{}
}

// follow begins the next judgement; what this one came to stands until then.
func (c *comparison) follow() {
	came := c.document
	c.renew()
	c.previous = came
}

// standing is the verdict that holds: the last one that is one.
func (c *comparison) standing() *judge.Document {
	if c.previous != nil && (c.document == nil || !isFinal(c.document)) {
		return c.previous
	}
	return c.document
}

func isFinal(d *judge.Document) bool { return d.State == judge.Decided || d.State == judge.Expired }

// judged is what the judge is told beside the windows.
func (c *comparison) judged() judge.Comparison {
	j := judge.Comparison{Name: c.name}
	for _, role := range []judge.Role{judge.Live, judge.Control, judge.Shadow} {
		if role == judge.Live || c.roles[role] {
			j.Arms = append(j.Arms, judge.Arm{Role: role})
		}
	}
	return j
}

// began takes a mirror in. It is join's error if there are too many.
func (c *comparison) began(h *pairv1.Header, at time.Time) error {
	if err := c.mirrors.Header(h, at); err != nil {
		return err
	}
	c.last = at
	more := false
	for wire, role := range wireRoles {
		for _, r := range h.GetRoles() {
			if r == wire && !c.roles[role] {
				c.roles[role], more = true, true
			}
		}
	}
	if more { // a first mirror, or one with a control that the others lack
		return c.again()
	}
	return nil
}

var wireRoles = map[pairv1.Role]judge.Role{pairv1.Role_ROLE_SHADOW: judge.Shadow, pairv1.Role_ROLE_CONTROL: judge.Control}

// again puts the judgement that there is under the configuration and the roles that
// there are now.
func (c *comparison) again() error {
	state, err := c.watch.MarshalBinary()
	if err != nil {
		return err
	}
	w, err := judge.RestoreWatch(c.judged(), c.cfg.Judge, state)
	if err != nil {
		return err
	}
	ledger, err := c.ledger.Save()
	if err != nil {
		return err
	}
	l, err := noise.Restore(c.noiseConfig(), ledger)
	if errors.Is(err, noise.ErrSaved) { // it was of pairs without a control, which compare otherwise
		l = c.newLedger()
	} else if err != nil {
		return err
	}
	c.watch, c.ledger = w, l
	return nil
}

// take judges the oldest open window and reports whether there is something new to
// look at.
func (c *comparison) take() (look bool) {
	w := c.mirrors.Take()
	if c.begun.IsZero() {
		c.begun = w.Start
	} else if !c.cfg.Once && w.Start.Sub(c.begun) >= cmp.Or(c.cfg.Judge.MaxDuration, time.Hour) && c.document != nil {
		c.follow()
		c.begun = w.Start
	}
	if c.block.IsZero() {
		c.block = w.Start
	}
	for name, r := range w.Routes {
		c.count(name, &r)
	}
	ended := c.watch.Add(w)
	if w.Start.Add(w.Length).Sub(c.block) >= c.cfg.NoiseBlock {
		c.ledger.EndBlock()
		c.block = w.Start.Add(w.Length)
	}
	if ended || c.document == nil || w.Start.Sub(c.evaluated) >= c.cfg.Look {
		c.evaluated = w.Start
		return true
	}
	return false
}

func (c *comparison) count(route string, r *judge.Route) {
	n := c.counts[route]
	if n == nil {
		n = new(routeCounts)
		c.counts[route] = n
	}
	d := r.Differences
	for i, v := range [...]uint64{d.Same, d.ShadowOnly, d.ControlOnly, d.Both, r.Unjudged, r.Incomplete, r.UnknownIDs} {
		n[i] += v
	}
}

// pairResults are the values of a label, a closed set.
var pairResults = [...]string{"same", "shadow_only", "control_only", "both", "unjudged", "incomplete", "unknown_ids"}

// evaluate looks at what there is and returns the change, if it is one.
func (c *comparison) evaluate(at time.Time) (change Change, changed bool) {
	c.document = c.watch.Document(c.findings(at), at)
	was, number := "", uint64(1)
	if n := len(c.changes); n > 0 {
		was, number = c.changes[n-1].State, c.changes[n-1].Number+1
	}
	d := c.standing()
	now := stateOf(d)
	if was == now {
		return Change{}, false
	}
	change = Change{
		Comparison: c.name, Number: number, At: at, Was: was, State: now, Verdict: d.Verdict,
		Reasons: d.Reasons[:min(len(d.Reasons), maxReasons)],
	}
	c.changes = append(c.changes, change)
	if len(c.changes) > maxChanges {
		c.changes = c.changes[len(c.changes)-maxChanges:]
	}
	return change, true
}

// states are what a comparison may be in: label values, a closed set.
var states = [...]string{string(judge.Warming), string(judge.Collecting), string(judge.Pass), string(judge.Fail), string(judge.Inconclusive)}

// stateOf names the state of a judgement: how far it is, or what it came to.
func stateOf(d *judge.Document) string {
	switch d.State {
	case judge.Decided:
		return string(d.Verdict)
	case judge.Expired:
		return string(judge.Inconclusive)
	}
	return string(d.State)
}

// forget drops changes that are older than is to be kept, but for the last one.
func (c *comparison) forget(before time.Time) {
	for len(c.changes) > 1 && c.changes[0].At.Before(before) {
		c.changes = c.changes[1:]
	}
}

// comparisonState is a comparison as a checkpoint has it.
type comparisonState struct {
	Key, Name string
	Mirrors   []byte
	Watch     []byte
	Ledger    []byte
	Previous  *judge.Document
	Roles     map[judge.Role]bool
	Counts    map[string]*routeCounts
	Last      time.Time
	Evaluated time.Time
	Begun     time.Time
	Block     time.Time
	Changes   []Change
	Told      uint64
}

func (c *comparison) state() (s comparisonState, err error) {
	s = comparisonState{Key: c.key, Name: c.name, Roles: c.roles, Counts: c.counts, Last: c.last, Evaluated: c.evaluated,
		Begun: c.begun, Block: c.block, Previous: c.previous, Changes: c.changes, Told: c.told}
	if s.Mirrors, err = c.mirrors.MarshalBinary(); err != nil {
		return s, err
	}
	if s.Watch, err = c.watch.MarshalBinary(); err != nil {
		return s, err
	}
	s.Ledger, err = c.ledger.Save()
	return s, err
}

func restoreComparison(s comparisonState, cfg *Config) (c *comparison, err error) {
	c = &comparison{key: s.Key, name: s.Name, cfg: cfg, roles: s.Roles, counts: s.Counts, last: s.Last, evaluated: s.Evaluated,
		begun: s.Begun, block: s.Block, previous: s.Previous, changes: s.Changes, told: s.Told}
	if c.mirrors, err = join.Restore(cfg.Join, s.Mirrors); err != nil {
		return nil, fmt.Errorf("comparison %s: %w", s.Name, err)
	}
	if c.watch, err = judge.RestoreWatch(c.judged(), cfg.Judge, s.Watch); err != nil {
		return nil, fmt.Errorf("comparison %s: %w", s.Name, err)
	}
	if c.ledger, err = noise.Restore(c.noiseConfig(), s.Ledger); err != nil {
		return nil, fmt.Errorf("comparison %s: %w", s.Name, err)
	}
	return c, nil
}
