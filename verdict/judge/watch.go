package judge

import (
	"bytes"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/verdict/stat"
)

// Watch judges continuously. Looking as often as one likes costs nothing: its
// intervals hold at all times at once. It holds a bounded part of what it was
// given: the first windows, packed, until it knows how long a block must be; then
// two histograms for each row and role, and some numbers for each block. It is not
// safe for concurrent use.
type Watch struct {
	e       *evidence
	held    []heldWindow // until the layout is known
	settled bool         // it is
	open    *opened
	medians []float64 // of windows, of which the correlation is known
}

// The windows by which a Watch decides how long a block must be, and what it keeps
// at most.
const (
	leastHeld  = 24
	mostHeld   = 60
	mostBlocks = 4096
	mostRhos   = 2048
)

// NewWatch starts a judgement.
func NewWatch(c Comparison, cfg Config) *Watch {
	return &Watch{e: newEvidence(c, cfg, Continuous), open: open()}
}

// Add takes the next window, of some seconds, and says whether a block ended with
// it: only then is there something new to look at. Windows past the configured
// MaxDuration change nothing.
func (w *Watch) Add(window Window) (ended bool) {
	e := w.e
	if !e.start.IsZero() && window.Start.Sub(e.start) >= e.cfg.MaxDuration || len(e.blocks) >= mostBlocks {
		return false
	}
	e.note(window)
	warm := max(e.cfg.WarmUp, time.Duration(e.cfg.WarmUpShare*float64(e.cfg.MinDuration)))
	if window.Start.Sub(e.start) < warm {
		e.trimmed++
		return false
	}
	if w.settled {
		return w.take(window)
	}
	w.held = append(w.held, hold(window))
	expected := int((e.cfg.MinDuration - warm) / max(window.Length, time.Millisecond))
	if len(w.held) < min(max(leastHeld, expected/2), mostHeld) {
		return false
	}
	var first []Window
	for _, h := range w.held {
		first = append(first, h.window())
	}
	e.layout = e.plan(first, max(expected, len(first)))
	if e.layout.Rows == nil { // routes may yet come
		e.layout.Rows = map[string]bool{}
		for _, win := range first {
			for name := range win.Routes {
				e.layout.Rows[name] = true
			}
		}
	}
	w.settled, w.held = true, nil
	for _, win := range first {
		ended = w.take(win) || ended
	}
	return ended
}

// take adds a window to the open block, and closes that if it is full.
func (w *Watch) take(window Window) bool {
	e := w.e
	e.total(window)
	w.open.add(window, e.layout.row)
	if v, ok := e.median(window); ok && len(w.medians) < mostRhos {
		w.medians = append(w.medians, v)
	}
	if w.open.Windows < e.layout.Windows {
		return false
	}
	e.blocks = append(e.blocks, w.open.close())
	w.open = open()
	e.layout.Rho = stat.Rho(w.medians)
	return true
}

// Document is the judgement as of the last block, with the rig and the coverage
// as of now.
func (w *Watch) Document(diffs Findings, at time.Time) *Document {
	return w.e.document(diffs, at, false)
}

// histogram is a hist.Hist that gob can carry.
type histogram struct{ hist.Hist }

// GobEncode writes the buckets that counted something.
func (h *histogram) GobEncode() ([]byte, error) { return pack(&h.Hist), nil }

// GobDecode reads what GobEncode wrote.
func (h *histogram) GobDecode(b []byte) error {
	x, err := unpack(b)
	if err == nil {
		h.Hist = *x
	}
	return err
}

// pack writes the buckets that counted something: how much further each is than the
// one before, and its count, as varints.
func pack(h *hist.Hist) []byte {
	var b []byte
	if h == nil {
		return nil
	}
	last := 0
	for i, n := range h.Buckets() {
		b = binary.AppendUvarint(b, uint64(i-last))
		b = binary.AppendUvarint(b, uint64(n))
		last = i
	}
	return b
}

func unpack(b []byte) (*hist.Hist, error) {
	h := hist.New()
	at := uint64(0)
	for len(b) > 0 {
		step, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("histogram: cut short")
		}
		count, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return nil, errors.New("histogram: cut short")
		}
		b = b[n+m:]
		if at += step; at > math.MaxInt32 || count > math.MaxInt64 {
			return nil, errors.New("histogram: no such bucket or count")
		}
		if err := h.AddBucket(int(at), int64(count)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// heldWindow is what is evidence of a window, packed.
type heldWindow struct {
	Start    time.Time
	Length   time.Duration
	Routes   map[string]heldRoute
	Usage    map[Role]Usage
	Overhead []byte
}

type heldRoute struct {
	Durations       map[Role][]byte
	Timeouts        map[Role]uint64
	Shadow, Control Outcomes
	Calls           map[Role]Calls
	Differences     Differences
}

func hold(w Window) heldWindow {
	h := heldWindow{Start: w.Start, Length: w.Length, Routes: map[string]heldRoute{}, Usage: w.Usage, Overhead: pack(w.Rig.Overhead)}
	for name, r := range w.Routes {
		held := heldRoute{map[Role][]byte{}, map[Role]uint64{}, r.Shadow, r.Control, r.Calls, r.Differences}
		for role, l := range r.Latency {
			held.Durations[role], held.Timeouts[role] = pack(l.Durations), l.Timeouts
		}
		h.Routes[name] = held
	}
	return h
}

func (h heldWindow) window() Window {
	w := Window{Start: h.Start, Length: h.Length, Routes: map[string]Route{}, Usage: h.Usage}
	w.Rig.Overhead, _ = unpack(h.Overhead)
	for name, r := range h.Routes {
		route := Route{Latency: map[Role]Latency{}, Shadow: r.Shadow, Control: r.Control, Calls: r.Calls, Differences: r.Differences}
		for role, b := range r.Durations {
			d, err := unpack(b)
			if err != nil {
				continue // of a damaged state: evidence is missing, and nothing worse
			}
			route.Latency[role] = Latency{d, r.Timeouts[role]}
		}
		w.Routes[name] = route
	}
	return w
}

// stateVersion names the form of what MarshalBinary writes.
const stateVersion = "judge/1"

type watchState struct {
	Version    string
	Layout     layout
	Blocks     []block
	Totals     map[string]*tally
	Use        map[Role]Usage
	Windows    int
	Trimmed    int
	Start, End time.Time
	Rig        rig
	Coverage   map[string]*RouteCoverage
	Harm       harm
	Held       []heldWindow
	Settled    bool
	Open       *opened
	Medians    []float64
}

// MarshalBinary writes all that RestoreWatch needs to go on, but for the comparison
// and the configuration.
func (w *Watch) MarshalBinary() ([]byte, error) {
	e := w.e
	s := watchState{
		Version: stateVersion, Layout: e.layout, Blocks: e.blocks, Totals: e.totals, Use: e.use, Windows: e.windows, Trimmed: e.trimmed,
		Start: e.start, End: e.end, Rig: e.rig, Coverage: e.coverage, Harm: e.harm, Held: w.held, Settled: w.settled, Open: w.open, Medians: w.medians,
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(&s); err != nil {
		return nil, fmt.Errorf("encode the judgement's state: %w", err)
	}
	return b.Bytes(), nil
}

// RestoreWatch continues what MarshalBinary wrote. It is an error if state is
// damaged or of another form.
func RestoreWatch(c Comparison, cfg Config, state []byte) (*Watch, error) {
	var s watchState
	if err := gob.NewDecoder(bytes.NewReader(state)).Decode(&s); err != nil {
		return nil, fmt.Errorf("decode the judgement's state: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("decode the judgement's state: form %q, want %q", s.Version, stateVersion)
	}
	w := NewWatch(c, cfg)
	e := w.e
	for _, t := range s.Totals {
		t.fill()
	}
	if s.Open != nil {
		w.open = s.Open
	}
	if w.open.Routes == nil {
		w.open.Routes = map[string]*tally{}
	}
	if w.open.Usage == nil {
		w.open.Usage = map[Role]Usage{}
	}
	for _, t := range w.open.Routes {
		t.fill()
	}
	e.layout, e.blocks, e.windows, e.trimmed, e.start, e.end = s.Layout, s.Blocks, s.Windows, s.Trimmed, s.Start, s.End
	e.rig, e.harm = s.Rig, s.Harm
	if e.layout.Windows < 1 {
		return nil, errors.New("decode the judgement's state: blocks of no windows")
	}
	if s.Settled && e.layout.Rows == nil {
		e.layout.Rows = map[string]bool{}
	}
	if s.Totals != nil {
		e.totals = s.Totals
	}
	if s.Use != nil {
		e.use = s.Use
	}
	if s.Coverage != nil {
		e.coverage = s.Coverage
	}
	if e.rig.Accounts == nil {
		e.rig.Accounts = map[Role]*RoleCoverage{}
	}
	for _, a := range e.rig.Accounts {
		if a.Dropped == nil {
			a.Dropped = map[string]uint64{}
		}
		if a.Chosen == nil {
			a.Chosen = map[string]uint64{}
		}
	}
	w.held, w.settled, w.medians = s.Held, s.Settled, s.Medians
	return w, nil
}

// fill puts maps where gob, which does not carry empty ones, has left none.
func (t *tally) fill() {
	if t.Latency == nil {
		t.Latency = map[Role]*dist{}
	}
	if t.Calls == nil {
		t.Calls = map[Role]Calls{}
	}
}
