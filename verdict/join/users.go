package join

import (
	"encoding/binary"
	"slices"
)

// users remembers on which mirror a user was seen last. It holds two generations of
// half as many as it may: when the young one is full the old one is forgotten, so
// that those who have not been seen for long are.
type users struct {
	most       int
	names      []string // of mirrors; a user's place is an index
	young, old map[uint64]uint16
}

// everywhere is the place of a user who was seen on two mirrors at a time.
const everywhere = 1<<16 - 1

func newUsers(most int) users {
	return users{most: max(most/2, 1), young: map[uint64]uint16{}, old: map[uint64]uint16{}}
}

// elsewhere notes that a user was seen on a mirror, and reports whether it was seen
// on another one that is still present, now or before.
func (u *users) elsewhere(key uint64, mirror string, present func(string) bool) bool {
	here := u.index(mirror, present)
	place, known := u.young[key]
	if !known {
		place, known = u.old[key]
	}
	switch {
	case !known, place != everywhere && place != here && !(int(place) < len(u.names) && present(u.names[place])):
		place = here
	case place != here:
		place = everywhere
	}
	if _, ok := u.young[key]; !ok && len(u.young) >= u.most {
		u.old, u.young = u.young, map[uint64]uint16{}
	}
	u.young[key] = place
	return place == everywhere
}

// index returns a mirror's, which takes the name of one that is gone before it takes
// a new one: users of both are then taken for its own.
func (u *users) index(mirror string, present func(string) bool) uint16 {
	if i := slices.Index(u.names, mirror); i >= 0 {
		return uint16(i)
	}
	i := slices.IndexFunc(u.names, func(name string) bool { return !present(name) })
	if i < 0 {
		i = len(u.names)
		u.names = append(u.names, "")
	}
	u.names[i] = mirror
	return uint16(i)
}

// packed is a generation as a checkpoint has it: ten bytes a user.
func packed(g map[uint64]uint16) []byte {
	out := make([]byte, 0, 10*len(g))
	for key, place := range g {
		out = binary.LittleEndian.AppendUint64(out, key)
		out = binary.LittleEndian.AppendUint16(out, place)
	}
	return out
}

func unpacked(b []byte) map[uint64]uint16 {
	g := make(map[uint64]uint16, len(b)/10)
	for ; len(b) >= 10; b = b[10:] {
		g[binary.LittleEndian.Uint64(b)] = binary.LittleEndian.Uint16(b[8:])
	}
	return g
}
