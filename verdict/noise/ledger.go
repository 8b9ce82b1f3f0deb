package noise

import (
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/compare"
)

// Other is the route and path of what is beyond a bound.
const Other = "(other)"

// SkipNoControl is why a pair without a control, where there is to be one, is not
// counted. The other reasons are those of compare.Skip.
const SkipNoControl = "no_control"

// SkipReasons lists all keys of Report.Skipped.
func SkipReasons() []string {
	return []string{string(compare.Incomplete), string(compare.Tainted), string(compare.UnknownIDs), string(compare.Untranslated), SkipNoControl}
}

const (
	// maxRoutes bounds the routes that are followed.
	maxRoutes = 2048
	// maxCount bounds what one window may count.
	maxCount = 1 << 40
	// maxBody is how much of a request's body an example keeps, in bytes.
	maxBody = 2 << 10
)

// state is what is saved.
type state struct {
	blocks  int
	fields  map[fieldKey]*field
	routes  map[string]*route
	hid     map[string]compare.Use
	skipped map[string]uint64
	crowded uint64
	cut     uint64
}

type fieldKey struct {
	Route string       `json:"route"`
	Path  string       `json:"path"`
	Kind  compare.Kind `json:"kind"`
}

type field struct {
	ShadowOnly    uint64  `json:"shadow_only"`
	ControlOnly   uint64  `json:"control_only"`
	Both          uint64  `json:"both"`
	ByBlock       wealth  `json:"by_block"`
	ByUser        wealth  `json:"by_user"`
	ByBoth        wealth  `json:"by_both"`
	ShadowBlocks  uint64  `json:"shadow_blocks"`
	ControlBlocks uint64  `json:"control_blocks"`
	Users         uint64  `json:"users"`        // with an event, of which
	ShadowUsers   uint64  `json:"shadow_users"` // their first was shadow's
	Moments       moments `json:"moments"`
	Now           int64   `json:"now"`            // of this block, events of shadow less those of control
	ShadowFirsts  int     `json:"shadow_firsts"`  // and users whose first event is of this block,
	ControlFirsts int     `json:"control_firsts"` // by whose it was

	events map[uint64]int64    // of this block, by user, the same
	met    map[uint64]struct{} // users who had an event

	examples []Example
}

type route struct {
	Pairs   uint64  `json:"pairs"` // counted by windows
	Unequal uint64  `json:"unequal"`
	Seen    uint64  `json:"seen"`
	Shipped uint64  `json:"shipped"`
	Now     uint64  `json:"now"` // pairs of this block, counted anywhere
	Blocks  int     `json:"blocks"`
	N       float64 `json:"n"`  // pairs, over blocks
	NN      float64 `json:"nn"` // their squares
}

// New returns an empty Ledger.
func New(cfg Config) *Ledger {
	set(&cfg.Level, 0.01)
	set(&cfg.Confidence, 0.95)
	set(&cfg.Margin, 0.001)
	set(&cfg.MaxFields, 4096)
	set(&cfg.MaxEvents, 1<<18)
	set(&cfg.MaxUsers, 4096)
	set(&cfg.Examples, 5)
	set(&cfg.ExampleBytes, 16<<20)
	if cfg.Rules == nil {
		cfg.Rules = new(compare.Rules)
	}
	l := &Ledger{cfg: cfg, known: newKnown(cfg.History)}
	l.state = state{fields: map[fieldKey]*field{}, routes: map[string]*route{}, hid: map[string]compare.Use{}, skipped: map[string]uint64{}}
	return l
}

func set[T int | float64](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}

// Window counts what a mirror compared itself on a route in a second: of how many
// pairs those are that Add is told of. Without it there are no rates.
func (l *Ledger) Window(w *pairv1.RouteWindow) {
	d := w.GetDifferences()
	unequal := min(d.GetShadowOnly(), maxCount) + min(d.GetControlOnly(), maxCount) + min(d.GetBoth(), maxCount)
	n := min(d.GetSame(), maxCount) + unequal
	if n == 0 {
		return
	}
	r := l.route(w.GetRoute())
	r.Pairs += n
	r.Unequal += unequal
	r.Now += n
}

// Add counts what was found of a pair that a mirror sent.
func (l *Ledger) Add(o *compare.Outcome) {
	if reason := l.skip(o); reason != "" {
		l.skipped[reason]++
		return
	}
	r := l.route(o.Pair.GetRoute())
	switch o.Pair.GetReason() {
	case pairv1.Reason_REASON_UNEQUAL:
		r.Seen++
	case pairv1.Reason_REASON_AUDIT: // its window has counted it
	default:
		r.Shipped++
		r.Now++
	}
	l.results(&o.Shadow)
	if !l.cfg.Control {
		o = &compare.Outcome{Pair: o.Pair, Shadow: o.Shadow}
	} else {
		l.results(o.Control)
	}
	for _, s := range sightings(o) {
		l.sight(o.Pair, s)
	}
}

func (l *Ledger) skip(o *compare.Outcome) string {
	switch {
	case o.Skip != compare.Compared:
		return string(o.Skip)
	case l.cfg.Control && o.Control == nil:
		return SkipNoControl
	}
	return ""
}

// results counts what rules hid.
func (l *Ledger) results(r *compare.Result) {
	if r.Cut {
		l.cut++
	}
	for _, u := range r.Uses {
		if u.Rule < len(l.cfg.Rules.Rules) {
			name := l.cfg.Rules.Rules[u.Rule].String()
			sum := l.hid[name]
			l.hid[name] = compare.Use{Hid: sum.Hid + u.Hid, Unread: sum.Unread + u.Unread}
		}
	}
}

// route returns the route of that name, or where there is no room for one more, Other.
func (l *Ledger) route(name string) *route {
	if l.routes[name] == nil && len(l.routes) >= maxRoutes {
		name = Other
	}
	if l.routes[name] == nil {
		l.routes[name] = new(route)
	}
	return l.routes[name]
}

// sighting is a field on which a role differs from live.
type sighting struct {
	path            string
	kind            compare.Kind
	shadow, control *compare.Difference // nil for one that does not differ
}

// sightings matches the differences of both roles. Where the values of both differ
// from live's, which is what noise looks like, it tells what else does: of a
// field whose value is never the same, what it looks like is compared.
func sightings(o *compare.Outcome) (all []sighting) {
	find := func(path string, kind compare.Kind) *sighting {
		i := slices.IndexFunc(all, func(s sighting) bool { return s.path == path && s.kind == kind })
		if i < 0 {
			i = len(all)
			all = append(all, sighting{path: path, kind: kind})
		}
		return &all[i]
	}
	for i := range o.Shadow.Differences {
		d := &o.Shadow.Differences[i]
		all = append(all, sighting{path: d.Path, kind: d.Kind, shadow: d})
	}
	if o.Control == nil {
		return all
	}
	for i := range o.Control.Differences {
		d := &o.Control.Differences[i]
		find(d.Path, d.Kind).control = d
	}
	for _, s := range slices.Clone(all) {
		if s.kind != compare.Value || s.shadow == nil || s.control == nil {
			continue
		}
		for _, look := range []struct {
			shape compare.Shape
			kind  compare.Kind
		}{{compare.OtherClass, compare.Type}, {compare.OtherLength, compare.Length}} {
			if s.shadow.Shape&look.shape != 0 {
				find(s.path, look.kind).shadow = s.shadow
			}
			if s.control.Shape&look.shape != 0 {
				find(s.path, look.kind).control = s.control
			}
		}
	}
	return all
}

// sight counts one.
func (l *Ledger) sight(p *pairv1.Pair, s sighting) {
	key := fieldKey{p.GetRoute(), s.path, s.kind}
	f := l.field(key)
	switch {
	case s.control == nil:
		f.ShadowOnly++
		l.example(key, f, p, s)
		f.Now++
		l.event(f, userOf(p), 1)
	case s.shadow == nil:
		f.ControlOnly++
		f.Now--
		l.event(f, userOf(p), -1)
	default:
		f.Both++
	}
}

func (l *Ledger) field(key fieldKey) *field {
	f := l.fields[key]
	if f == nil && len(l.fields) >= l.cfg.MaxFields {
		key = fieldKey{Other, Other, key.Kind}
		f = l.fields[key]
	}
	if f == nil {
		f = &field{events: map[uint64]int64{}, met: map[uint64]struct{}{}}
		l.fields[key] = f
	}
	return f
}

// userOf returns the pair's user. Of nobody each pair is a user of its own.
func userOf(p *pairv1.Pair) uint64 {
	if p.GetKeyHash() != 0 {
		return p.GetKeyHash()
	}
	h := fnv.New64a()
	h.Write(p.GetId())
	return h.Sum64()
}

// event is evidence: of the block, and by its user's first one.
func (l *Ledger) event(f *field, user uint64, sign int64) {
	if !l.cfg.Control {
		return
	}
	if _, ok := f.events[user]; !ok && (len(f.events) >= l.cfg.MaxUsers || l.waiting >= l.cfg.MaxEvents) {
		l.crowded++
	} else {
		if !ok {
			l.waiting++
		}
		f.events[user] += sign
	}
	if _, ok := f.met[user]; ok {
		return
	}
	l.meet(f, user)
	f.Users++
	if sign > 0 {
		f.ShadowUsers++
		f.ShadowFirsts++
	} else {
		f.ControlFirsts++
	}
	f.ByUser.bet(float64(sign))
}

// meet remembers that a user had an event. Where there is no room, the field with
// the most users begins anew: a user may then count once more.
func (l *Ledger) meet(f *field, user uint64) {
	if len(f.met) >= l.cfg.MaxUsers {
		l.forget(f)
	}
	if l.remembered >= l.cfg.MaxEvents {
		l.forget(l.crowd())
	}
	f.met[user] = struct{}{}
	l.remembered++
}

// crowd returns the field with the most users met, of several the first.
func (l *Ledger) crowd() (most *field) {
	var at fieldKey
	for key, f := range l.fields {
		if most == nil || len(f.met) > len(most.met) || len(f.met) == len(most.met) && compareKeys(key, at) < 0 {
			most, at = f, key
		}
	}
	return most
}

func (l *Ledger) forget(f *field) {
	l.remembered -= len(f.met)
	clear(f.met)
}

// keys returns those of all fields, in order.
func (l *Ledger) keys() []fieldKey { return slices.SortedFunc(maps.Keys(l.fields), compareKeys) }

// EndBlock ends a block: what came since the last one is one piece of evidence.
// Blocks should be longer than what makes noise in bursts lasts.
func (l *Ledger) EndBlock() {
	l.blocks++
	for key, f := range l.fields {
		f.endBlock(float64(l.route(key.Route).Now))
	}
	for _, r := range l.routes {
		if r.Now > 0 {
			r.Blocks++
			r.N += float64(r.Now)
			r.NN += float64(r.Now) * float64(r.Now)
			r.Now = 0
		}
	}
	l.waiting = 0
}

func (f *field) endBlock(pairs float64) {
	now := float64(f.Now)
	f.Moments.DD += now * now
	f.Moments.DN += now * pairs
	f.Now = 0
	shadow, control := 0, 0
	for _, n := range f.events {
		switch {
		case n > 0:
			shadow++
		case n < 0:
			control++
		}
	}
	clear(f.events)
	f.ByBlock.bet(scoreOf(shadow, control))
	f.ByBoth.bet(scoreOf(f.ShadowFirsts, f.ControlFirsts))
	f.ShadowFirsts, f.ControlFirsts = 0, 0
	switch {
	case shadow > control:
		f.ShadowBlocks++
	case shadow < control:
		f.ControlBlocks++
	}
}

// example keeps a pair of a field as one of some at random: each of the n that were
// seen is kept with the same probability (Vitter, "Random sampling with a
// reservoir", ACM TOMS 11, 1985, algorithm R).
func (l *Ledger) example(key fieldKey, f *field, p *pairv1.Pair, s sighting) {
	i := f.ShadowOnly - 1
	if i >= uint64(l.cfg.Examples) {
		if i = l.draw(key, f.ShadowOnly) % f.ShadowOnly; i >= uint64(l.cfg.Examples) {
			return
		}
	}
	e := Example{ID: p.GetId(), Live: s.shadow.Live, Shadow: s.shadow.Role}
	if live := p.GetSides()[0]; len(live.GetExchanges()) > 0 {
		e.Time, e.Request = live.GetSendTime(), shortened(live.GetExchanges()[0].GetRequest())
	}
	if i < uint64(len(f.examples)) {
		l.kept -= f.examples[i].size()
		f.examples[i] = Example{}
	} else {
		i = uint64(len(f.examples))
		f.examples = append(f.examples, Example{})
	}
	if l.kept+e.size() > l.cfg.ExampleBytes {
		e.Request = nil
	}
	l.kept += e.size()
	f.examples[i] = e
}

// draw is a number at random for the nth event of a field.
func (l *Ledger) draw(key fieldKey, n uint64) uint64 {
	h := fnv.New64a()
	h.Write([]byte(key.Route + "\x00" + key.Path + "\x00" + key.Kind.String()))
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, l.cfg.Seed), n))
	x := h.Sum64() // mixed as SplitMix64 does, as FNV's high bits are weak
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// shortened is r with no more of its body than examples keep.
func shortened(r *pairv1.Request) *pairv1.Request {
	b := r.GetBody()
	if r == nil || len(b.GetContent()) <= maxBody {
		return r
	}
	short := &pairv1.Body{Hash: b.GetHash(), Size: b.GetSize(), Truncated: true, Format: b.GetFormat(), Content: slices.Clone(b.GetContent()[:maxBody])}
	return &pairv1.Request{Method: r.GetMethod(), Path: r.GetPath(), Header: r.GetHeader(), Body: short}
}

// size is about what an example holds, in bytes.
func (e *Example) size() int {
	return len(e.ID) + len(e.Live) + len(e.Shadow) + proto.Size(e.Request)
}
