package directory

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"
)

// The documents are JSON, so that an operator can read them with any client:
//
//	cells        {"cells":[{"name":"a","servers":["10.0.0.1:7500"],"state":"open"}]}
//	users/0042   {"cell":"a","users":[{"u":"ann","c":"b","g":3}]}
const cellsName = "cells"

func sliceName(i int) string { return fmt.Sprintf("users/%04d", i) }

// maxDocument is what ZooKeeper takes by default, less some room. A slice of it holds
// some 20,000 users, and the directory 20 million that were placed one by one.
const maxDocument = 1000 << 10

// State of a cell says what may come to it.
type State string

// The states.
const (
	Open     State = "open"     // it accepts new users
	Closed   State = "closed"   // it serves its users and accepts no new ones
	Draining State = "draining" // as closed: its users are being moved away
	Failed   State = "failed"   // it is not called: what is owed to it waits
)

// Cell is a cell as the directory has it.
type Cell struct {
	// Name: 1 to 64 bytes of letters, digits and -.
	Name string `json:"name"`
	// Servers are addresses, host:port, at which its servers take calls: some of them,
	// or a name for all.
	Servers []string `json:"servers"`
	// State; empty is Open.
	State State `json:"state,omitempty"`
	// Zone is where it is: a data centre.
	Zone string `json:"zone,omitempty"`
	// Build is what its servers are to run, for who upgrades them.
	Build string `json:"build,omitempty"`
	// Weight is how many users it takes in relation to the others. Zero is 1.
	Weight int `json:"weight,omitempty"`
}

// Accepts reports whether new users are placed in the cell.
func (c Cell) Accepts() bool { return c.State == "" || c.State == Open }

// Check returns what is wrong with a cell, as an error that wraps ErrCorrupt, or nil.
func (c Cell) Check() error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("cell %q: %s: %w", c.Name, fmt.Sprintf(format, args...), ErrCorrupt)
	}
	name := func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}
	switch {
	case c.Name == "" || len(c.Name) > 64 || strings.ContainsFunc(c.Name, name):
		return wrong("want a name of 1 to 64 letters, digits and -")
	case !slices.Contains([]State{"", Open, Closed, Draining, Failed}, c.State):
		return wrong("state %q is none", c.State)
	case c.Weight < 0 || c.Weight > 1000:
		return wrong("weight %d, want 0 to 1000", c.Weight)
	case len(c.Servers) == 0:
		return wrong("it has no servers")
	}
	for _, addr := range c.Servers {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return wrong("server %q, want host:port", addr)
		}
	}
	return nil
}

func find(cells []Cell, name string) (Cell, bool) {
	i := slices.IndexFunc(cells, func(c Cell) bool { return c.Name == name })
	if i < 0 {
		return Cell{}, false
	}
	return cells[i], true
}

type cellsDocument struct {
	Cells   []Cell `json:"cells"` // by name
	version uint64
}

func encodeCells(doc *cellsDocument) ([]byte, error) {
	slices.SortFunc(doc.Cells, func(a, b Cell) int { return strings.Compare(a.Name, b.Name) })
	if err := doc.check(); err != nil {
		return nil, err
	}
	return encode(doc)
}

func decodeCells(b []byte) (doc cellsDocument, err error) {
	if err := decode(b, &doc); err != nil {
		return doc, err
	}
	return doc, doc.check()
}

func (doc *cellsDocument) check() error {
	for i, c := range doc.Cells {
		if err := c.Check(); err != nil {
			return err
		}
		if i > 0 && c.Name <= doc.Cells[i-1].Name {
			return fmt.Errorf("cell %q is there twice or out of order: %w", c.Name, ErrCorrupt)
		}
	}
	return nil
}

// slice is the users of one part of the hash.
type slice struct {
	// Cell of those who are not among Users; empty: they are new.
	Cell string `json:"cell,omitempty"`
	// Users who were placed one by one, by id.
	Users []entry `json:"users,omitempty"`

	index   int
	version uint64
	bytes   int // of the document
}

type entry struct {
	User       string `json:"u"`
	Cell       string `json:"c"`
	Generation uint64 `json:"g,omitempty"`
}

func (s *slice) encode() ([]byte, error) { return encode(s) }

func decodeSlice(i int, b []byte) (*slice, error) {
	s := &slice{index: i, bytes: len(b)}
	if err := decode(b, s); err != nil {
		return nil, err
	}
	for j, e := range s.Users {
		switch {
		case j > 0 && e.User <= s.Users[j-1].User:
			return nil, fmt.Errorf("user %q is there twice or out of order: %w", e.User, ErrCorrupt)
		case e.Cell == "" || e.Generation >= 1<<32 || SliceOf(e.User) != i:
			return nil, fmt.Errorf("user %q in cell %q, generation %d, slice %d: %w", e.User, e.Cell, e.Generation, i, ErrCorrupt)
		}
	}
	return s, nil
}

func (s *slice) at(user string) (int, bool) {
	return slices.BinarySearchFunc(s.Users, user, func(e entry, user string) int { return strings.Compare(e.User, user) })
}

func (s *slice) place(user string) (Place, bool) {
	if i, ok := s.at(user); ok {
		return Place{s.Users[i].Cell, s.Users[i].Generation}, true
	}
	return Place{Cell: s.Cell}, s.Cell != ""
}

func (s *slice) put(user string, p Place) {
	i, ok := s.at(user)
	if !ok {
		s.Users = slices.Insert(s.Users, i, entry{})
	}
	s.Users[i] = entry{user, p.Cell, p.Generation}
}

func (s *slice) counts() map[string]int {
	n := map[string]int{}
	for _, e := range s.Users {
		n[e.Cell]++
	}
	return n
}

// emptiest returns the cell that accepts users and has the fewest of the slice, by its
// weight. As users are spread evenly over slices, so are they over cells in the whole;
// of cells with equally few, slices choose differently.
func (s *slice) emptiest(cells []Cell) (name string, ok bool) {
	counts := s.counts()
	rank := func(c Cell) uint64 { return xxh3.HashString(fmt.Sprintf("%d %s", s.index, c.Name)) }
	var best Cell
	for _, c := range cells {
		if !c.Accepts() {
			continue
		}
		// a/v < b/w without division.
		if best.Name == "" || cmp.Or(
			cmp.Compare(counts[c.Name]*max(best.Weight, 1), counts[best.Name]*max(c.Weight, 1)),
			cmp.Compare(rank(c), rank(best))) < 0 {
			best = c
		}
	}
	return best.Name, best.Name != ""
}

func encode(doc any) ([]byte, error) {
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if len(b) > maxDocument {
		return nil, fmt.Errorf("document of %d bytes, want at most %d: %w", len(b), maxDocument, ErrFull)
	}
	return b, nil
}

// decode reads a document; what is not there is an empty one.
func decode(b []byte, doc any) error {
	if len(b) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(doc); err != nil {
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one value", ErrCorrupt)
	}
	return nil
}
