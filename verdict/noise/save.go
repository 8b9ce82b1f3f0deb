package noise

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/compare"
)

// version is that of what Save writes.
const version = 1

// ErrSaved is returned by Restore for what Save of this version did not write.
var ErrSaved = errors.New("not a saved ledger")

// saved is a Ledger as it is written.
type saved struct {
	Version int                    `json:"version"`
	Control bool                   `json:"control"`
	Blocks  int                    `json:"blocks"`
	Fields  []savedField           `json:"fields"`
	Routes  map[string]*route      `json:"routes"`
	Hid     map[string]compare.Use `json:"hid"`
	Skipped map[string]uint64      `json:"skipped"`
	Crowded uint64                 `json:"crowded"`
	Cut     uint64                 `json:"cut"`
}

type savedField struct {
	fieldKey
	Counts   *field         `json:"counts"`
	Events   []byte         `json:"events,omitempty"` // users and their sums, in 16 bytes each
	Met      []byte         `json:"met,omitempty"`    // users, in 8 bytes each
	Examples []savedExample `json:"examples,omitempty"`
}

// savedExample has its request as protobuf, which alone keeps it as it is.
type savedExample struct {
	ID      []byte `json:"id"`
	Time    int64  `json:"time"`
	Request []byte `json:"request,omitempty"`
	Live    string `json:"live"`
	Shadow  string `json:"shadow"`
}

// Save writes the ledger down. Restore gives one that goes on as l would.
func (l *Ledger) Save() ([]byte, error) {
	s := saved{version, l.cfg.Control, l.blocks, nil, l.routes, l.hid, l.skipped, l.crowded, l.cut}
	for _, key := range l.keys() {
		f := l.fields[key]
		out := savedField{fieldKey: key, Counts: f}
		for _, user := range slices.Sorted(maps.Keys(f.events)) {
			out.Events = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(out.Events, user), uint64(f.events[user]))
		}
		for _, user := range slices.Sorted(maps.Keys(f.met)) {
			out.Met = binary.BigEndian.AppendUint64(out.Met, user)
		}
		for _, e := range f.examples {
			var request []byte
			if e.Request != nil {
				var err error
				if request, err = proto.Marshal(e.Request); err != nil {
					return nil, fmt.Errorf("save ledger: example: %w", err)
				}
			}
			out.Examples = append(out.Examples, savedExample{e.ID, e.Time, request, e.Live, e.Shadow})
		}
		s.Fields = append(s.Fields, out)
	}
	return json.Marshal(s)
}

// Restore reads what Save wrote. cfg is to be as it was; bounds may be others, and
// hold for what comes. ErrSaved: data is broken, of another version, or of a
// ledger with a control where cfg has none, or the other way round.
func Restore(cfg Config, data []byte) (*Ledger, error) {
	var s saved
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSaved, err)
	}
	switch {
	case s.Version != version:
		return nil, fmt.Errorf("%w: of version %d, want %d", ErrSaved, s.Version, version)
	case s.Control != cfg.Control:
		return nil, fmt.Errorf("%w: one with control %v, want %v", ErrSaved, s.Control, cfg.Control)
	case s.Blocks < 0:
		return nil, fmt.Errorf("%w: %d blocks", ErrSaved, s.Blocks)
	}
	l := New(cfg)
	l.blocks, l.crowded, l.cut = s.Blocks, s.Crowded, s.Cut
	maps.Copy(l.hid, s.Hid)
	maps.Copy(l.skipped, s.Skipped)
	for name, r := range s.Routes {
		if r == nil || r.Blocks < 0 || r.Blocks > s.Blocks || !(r.N >= 0 && r.N < most) || !(r.NN >= 0 && r.NN < most) {
			return nil, fmt.Errorf("%w: route %q", ErrSaved, name)
		}
		l.routes[name] = r
	}
	for i := range s.Fields {
		if err := l.restore(&s.Fields[i]); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Ledger) restore(s *savedField) error {
	f := s.Counts
	if f == nil || !f.plausible() || l.fields[s.fieldKey] != nil || len(s.Events)%16 != 0 || len(s.Met)%8 != 0 {
		return fmt.Errorf("%w: field %q", ErrSaved, s.Path)
	}
	f.events, f.met = map[uint64]int64{}, map[uint64]struct{}{}
	for b := s.Events; len(b) > 0; b = b[16:] {
		f.events[binary.BigEndian.Uint64(b)] = int64(binary.BigEndian.Uint64(b[8:]))
	}
	for b := s.Met; len(b) > 0; b = b[8:] {
		f.met[binary.BigEndian.Uint64(b)] = struct{}{}
	}
	for _, e := range s.Examples {
		kept := Example{ID: e.ID, Time: e.Time, Live: e.Live, Shadow: e.Shadow}
		if e.Request != nil {
			kept.Request = new(pairv1.Request)
			if err := proto.Unmarshal(e.Request, kept.Request); err != nil {
				return fmt.Errorf("%w: example of %q", ErrSaved, s.Path)
			}
		}
		f.examples = append(f.examples, kept)
		l.kept += kept.size()
	}
	l.waiting += len(f.events)
	l.remembered += len(f.met)
	l.fields[s.fieldKey] = f
	return nil
}

// most is beyond any sum that a ledger comes to.
const most = 1e30

// plausible reports whether counting may go on from f.
func (f *field) plausible() bool {
	for _, n := range []uint64{f.ShadowOnly, f.ControlOnly, f.Both, f.Users, f.ShadowBlocks, f.ControlBlocks} {
		if n > 1<<60 {
			return false
		}
	}
	for _, w := range []wealth{f.ByBlock, f.ByUser, f.ByBoth} {
		for _, log := range w {
			if math.Abs(log) > most {
				return false
			}
		}
	}
	if f.ShadowFirsts < 0 || f.ShadowFirsts > 1<<40 || f.ControlFirsts < 0 || f.ControlFirsts > 1<<40 {
		return false
	}
	return f.Moments.DD >= 0 && f.Moments.DD < most && math.Abs(f.Moments.DN) < most && f.Now > -1<<60 && f.Now < 1<<60
}
