// Package ids gives a role that speaks live's API and takes unsafe copies what
// live decided. Live and the role each name what they make: an id that live gave
// a thread means nothing to the role. Two ways lead out:
//
//   - Assign puts a value of live's answer into the copy, for builds that take it.
//   - A Table learns from both answers which ids name the same thing, and rewrites
//     them: live's to the role's in copies, the role's to live's in answers, before
//     they are compared.
//
// Places are written in the extractors' grammar: header:NAME, query:NAME,
// path:/threads/{key}, json:$.threads[*].id, and proto:1.2 by number.
package ids

import (
	"errors"
	"fmt"
	"sync"

	"github.com/zeebo/xxh3"

	"darklaunch/mirror/observe"
	"darklaunch/mirror/shadow"
)

// Config is the ids of one front on one role.
type Config struct {
	// Learn lists places in answers where the same thing is named on both sides:
	// what a mutation made. The nth value of live's and of the role's belong together.
	Learn []string
	// Requests lists places where copies name things.
	Requests []string
	// Answers lists further places where answers do. Those of Learn are among them.
	Answers []string
	// Max bounds the ids that are remembered; the oldest are forgotten. Zero
	// means 100,000.
	Max int
}

// Table is what is known of ids. It is safe for any number of goroutines.
type Table struct {
	learn, requests, answers []place
	half                     int

	mu sync.Mutex // guards the rest
	// Two generations: what is not used while the new one fills is forgotten
	// with the old one.
	fresh, old *generation
	counts     Counts
}

type generation struct{ toRole, toLive map[string]string }

func newGeneration() *generation { return &generation{map[string]string{}, map[string]string{}} }

// Counts are totals.
type Counts struct {
	Learned   uint64 // ids that were learned
	Rewritten uint64 // ids that were rewritten, either way
	Unknown   uint64 // ids that were not in the table
	Conflicts uint64 // ids that were learned to be something else already
}

// NewTable returns an empty table, or an error that says which place can't be read.
func NewTable(cfg Config) (*Table, error) {
	t := &Table{half: max(1, cfg.Max/2), fresh: newGeneration(), old: newGeneration()}
	if cfg.Max <= 0 {
		t.half = 50_000
	}
	for _, list := range []struct {
		texts []string
		to    *[]place
	}{{cfg.Learn, &t.learn}, {cfg.Requests, &t.requests}, {append(append([]string{}, cfg.Learn...), cfg.Answers...), &t.answers}} {
		for _, text := range list.texts {
			p, err := parsePlace(text)
			if err == nil && p.request() && list.to != &t.requests {
				err = errors.New("an answer has no such place")
			}
			if err != nil {
				return nil, fmt.Errorf("ids: %q: %w", text, err)
			}
			*list.to = append(*list.to, p)
		}
	}
	return t, nil
}

// Counts returns what was counted.
func (t *Table) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

// Copy returns cp as the role is to get it, which shares what is not rewritten.
// unknown says that an id was not in the table, or could not be looked for; it
// is sent as it is, and the pair is not to be compared.
func (t *Table) Copy(cp *shadow.Copy) (own *shadow.Copy, unknown bool) {
	o := *cp
	o.Calls = append([]shadow.Call(nil), cp.Calls...)
	for i := range o.Calls {
		c := &o.Calls[i]
		m := content{c.Target, append([]shadow.Field(nil), c.Header...), c.Body, c.GRPC}
		unknown = t.rewrite(&m, t.requests, toRole) || unknown
		c.Target, c.Header, c.Body = m.target, m.header, m.body
	}
	return &o, unknown
}

// Answer learns from live's answer and the role's, both of which must be kept
// whole, and rewrites the role's: its body and hash are then as if it used
// live's ids. unknown is as for Copy.
func (t *Table) Answer(live *observe.Exchange, a *shadow.Answer) (unknown bool) {
	if a.Err != nil {
		return false
	}
	if a.Truncated || live.Answer.Body.Truncated {
		return len(t.answers) > 0
	}
	role := content{header: answerFields(&a.Header), body: a.Body, grpc: a.GRPC >= 0}
	if live.Status == a.Status {
		ours := content{header: liveFields(&live.Answer.Header), body: live.Answer.Body.Bytes, grpc: live.GRPC()}
		for i := range t.learn {
			t.remember(t.learn[i].values(&ours), t.learn[i].values(&role))
		}
	}
	unknown = t.rewrite(&role, t.answers, toLive)
	a.Header = shadow.Fields{}
	for _, f := range role.header {
		a.Header.Add(string(f.Name), string(f.Value))
	}
	a.Body, a.Size = role.body, int64(len(role.body))
	a.Hash = xxh3.Hash128(a.Body).Bytes()
	return unknown
}

func answerFields(fs *shadow.Fields) (all []shadow.Field) {
	for name, value := range fs.All() {
		all = append(all, shadow.Field{Name: name, Value: value})
	}
	return all
}

func liveFields(fs *observe.Fields) (all []shadow.Field) {
	for name, value := range fs.All() {
		all = append(all, shadow.Field{Name: name, Value: value})
	}
	return all
}

// remember learns that ids name the same things. Where one side names more
// than the other nothing can be told.
func (t *Table) remember(live, role []string) {
	if len(live) != len(role) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range live {
		known, ok := t.find(toRole, live[i])
		_, taken := t.find(toLive, role[i])
		switch {
		case ok && known == role[i]:
		case ok || taken: // the first is kept: what was sent since depends on it
			t.counts.Conflicts++
		default:
			t.put(live[i], role[i])
			t.counts.Learned++
		}
	}
}

// direction is from whom to whom an id is rewritten.
type direction bool

const (
	toRole direction = true
	toLive direction = false
)

func (g *generation) ids(d direction) map[string]string {
	if d == toRole {
		return g.toRole
	}
	return g.toLive
}

// find looks an id up; mu is held.
func (t *Table) find(d direction, id string) (string, bool) {
	if other, ok := t.fresh.ids(d)[id]; ok {
		return other, true
	}
	other, ok := t.old.ids(d)[id]
	if ok && d == toRole {
		t.put(id, other)
	} else if ok {
		t.put(other, id)
	}
	return other, ok
}

// put adds a pair to the fresh generation; mu is held.
func (t *Table) put(live, role string) {
	if len(t.fresh.toRole) >= t.half {
		t.fresh, t.old = newGeneration(), t.fresh
	}
	t.fresh.toRole[live], t.fresh.toLive[role] = role, live
}

// rewrite replaces the ids at places of m.
func (t *Table) rewrite(m *content, places []place, d direction) (unknown bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range places {
		err := places[i].each(m, func(id string) string {
			other, ok := t.find(d, id)
			if !ok {
				unknown = true
				t.counts.Unknown++
				return id
			}
			t.counts.Rewritten++
			return other
		})
		unknown = unknown || err != nil
	}
	return unknown
}

// Assign puts a value of live's answer into copies.
type Assign struct{ from, to place }

// NewAssign returns the rule that takes the first value at from, a place in live's
// answer, and puts it at to in the request: header:NAME, or a member of the
// outermost JSON object or gRPC message, json:$.NAME or proto:N, where a value
// that is there is replaced.
func NewAssign(from, to string) (*Assign, error) {
	f, err := parsePlace(from)
	if err == nil && f.request() {
		err = errors.New("an answer has no such place")
	}
	if err != nil {
		return nil, fmt.Errorf("assign from %q: %w", from, err)
	}
	p, err := parsePlace(to)
	if err == nil && !p.settable() {
		err = errors.New("want header:NAME, json:$.NAME or proto:N")
	}
	if err != nil {
		return nil, fmt.Errorf("assign to %q: %w", to, err)
	}
	return &Assign{f, p}, nil
}

// Apply puts the value into c, of which the original's memory is left as it is.
// ok is false, and c unchanged, if live's answer has none there or the request
// has no place for it: the copy would make the role decide, and the pair is not
// to be compared.
func (as *Assign) Apply(live *observe.Exchange, c *shadow.Call) (ok bool) {
	if live.Answer.Body.Truncated {
		return false
	}
	values := as.from.values(&content{header: liveFields(&live.Answer.Header), body: live.Answer.Body.Bytes, grpc: live.GRPC()})
	if len(values) == 0 {
		return false
	}
	m := content{c.Target, append([]shadow.Field(nil), c.Header...), c.Body, c.GRPC}
	if as.to.set(&m, values[0]) != nil {
		return false
	}
	c.Header, c.Body = m.header, m.body
	return true
}
