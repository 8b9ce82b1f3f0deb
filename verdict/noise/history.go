package noise

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"darklaunch/verdict/compare"
	"darklaunch/verdict/stat"
)

// History is what was learned of noise while both roles were live's build: in how
// many blocks of a route each field had events. It is of use for blocks as long,
// under a load and rules as those it was learned under; that is its reader's to see.
type History struct {
	Routes []HistoryRoute `json:"routes"`
	Fields []HistoryField `json:"fields"`
}

// HistoryRoute is how long a route was watched.
type HistoryRoute struct {
	Route string `json:"route"`
	// Blocks in which it was used.
	Blocks int `json:"blocks"`
}

// HistoryField is a field that was noisy. A field of a route in Routes that has
// none was clean.
type HistoryField struct {
	Route string       `json:"route"`
	Path  string       `json:"path"`
	Kind  compare.Kind `json:"kind"`
	// Blocks in which one of the roles had more events than the other.
	Blocks int `json:"blocks"`
}

// ErrNotQuiet is returned by History: with two roles of one build, a field was
// confirmed. What differs is the rig, and nothing can be learned from it.
var ErrNotQuiet = errors.New("the roles differ though they are of one build")

// History returns what can be learned of a run in which shadow was live's build.
func (l *Ledger) History() (*History, error) {
	r := l.Report()
	h := new(History)
	for _, f := range r.Fields {
		if f.Tier == Confirmed {
			return nil, fmt.Errorf("%s %s %s: %w", f.Route, f.Path, f.Kind, ErrNotQuiet)
		}
		if n := f.ShadowBlocks + f.ControlBlocks; n > 0 {
			h.Fields = append(h.Fields, HistoryField{f.Route, f.Path, f.Kind, int(n)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.routes)) {
		if n := l.routes[name].Blocks; n > 0 {
			h.Routes = append(h.Routes, HistoryRoute{name, n})
		}
	}
	return h, nil
}

const (
	// historyAlpha is how often the bound that a history gives may be too low.
	historyAlpha = 1e-4
	// historyUsers is how many users must have had events before a history counts:
	// one user's trouble may last for any number of blocks.
	historyUsers = 3
)

// history returns the logarithm of the e-value against a field's having events in
// as few blocks as it used to; ok is false if there is nothing to hold it against.
//
// It bets on shares of blocks above the upper bound p that the history gives: for
// each a share q, q/p for a block with events and (1-q)/(1-p) for one without.
// Where control is noisier than p now, the history is of another time and says nothing.
func (l *Ledger) history(key fieldKey, f *field, blocks int) (log float64, ok bool) {
	watched, ok := l.known.routes[key.Route]
	if !ok || blocks == 0 {
		return 0, false
	}
	p := stat.ShareBelow(float64(l.known.fields[key]), float64(2*watched), historyAlpha)
	bad, m := float64(f.ShadowBlocks), float64(blocks)
	if p >= 1 || float64(f.ControlBlocks) > p*m || f.ShadowUsers < historyUsers {
		return math.Inf(-1), true
	}
	logs := make([]float64, len(shares))
	for i := range logs {
		q := p + (1-p)*(float64(i)+.5)/float64(len(logs))
		logs[i] = bad*math.Log(q/p) + (m-bad)*math.Log((1-q)/(1-p))
	}
	return logMean(logs), true
}

// known is a History, to be looked up. Each block of it is two trials, one a role.
type known struct {
	routes map[string]int
	fields map[fieldKey]int
}

func newKnown(h *History) known {
	k := known{map[string]int{}, map[fieldKey]int{}}
	if h == nil {
		return k
	}
	for _, r := range h.Routes {
		if r.Blocks > 0 {
			k.routes[r.Route] = r.Blocks
		}
	}
	for _, f := range h.Fields {
		k.fields[fieldKey{f.Route, f.Path, f.Kind}] = max(0, f.Blocks)
	}
	return k
}
