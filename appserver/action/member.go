package action

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"darklaunch/internal/wire"
)

// User is a user id: 1-256 bytes of printable ASCII.
type User string

// Valid reports whether u is a user id.
func (u User) Valid() bool { return printable(string(u), maxUser) }

// Participant is somebody who can write or get messages: a user, or an email address
// outside, whose domain is in lower case. Exactly one is set.
type Participant struct {
	User  User
	Email string
}

// Compare orders participants: users before email addresses, then byte by byte.
func (p Participant) Compare(q Participant) int {
	return cmp.Or(strings.Compare(p.Email, q.Email), strings.Compare(string(p.User), string(q.User)))
}

// String returns the address.
func (p Participant) String() string { return string(p.User) + p.Email }

func walkParticipant(c *wire.Coder, p *Participant) {
	email := p.Email != ""
	if wire.Bool(c, &email); email {
		wire.String(c, &p.Email)
		return
	}
	wire.String(c, &p.User)
}

func (p Participant) check() error {
	switch {
	case p.User != "" && p.Email == "" && p.User.Valid():
		return nil
	case p.Email != "" && p.User == "" && len(p.Email) <= maxEmail && text(p.Email) && !strings.ContainsRune(p.Email, 0):
		return nil
	}
	return errors.New("participant: want a user id or an email address")
}

func checkAll(all []Participant) error {
	for _, p := range all {
		if err := p.check(); err != nil {
			return err
		}
	}
	return nil
}

// MemberKind is how messages reach a member; the numbers are those of messages.v1.
type MemberKind uint8

// The kinds of member.
const (
	MemberUnknown MemberKind = iota
	MemberCellUser
	MemberOldInboxUser
	MemberEmail
)

// Member is a participant of a thread as one copy of the thread knows it.
type Member struct {
	Participant Participant
	Kind        MemberKind
	Joined      Time
	AddedBy     Participant
}

// CompareMembers orders members by time of joining, then address.
func CompareMembers(a, b Member) int {
	return cmp.Or(cmp.Compare(a.Joined, b.Joined), a.Participant.Compare(b.Participant))
}

func walkMember(c *wire.Coder, m *Member) {
	walkParticipant(c, &m.Participant)
	wire.Uint(c, &m.Kind)
	wire.Int(c, &m.Joined)
	walkParticipant(c, &m.AddedBy)
}

// MemberState is what a copy of a thread knows of one who is or was its member.
type MemberState struct {
	Member
	Left bool
	// Stamp is one more than the greatest in the copy where the change was made.
	Stamp uint64
	// By is whose copy the change was made in.
	By Participant
}

// WalkMemberStates walks a list of states; index keeps them too.
func WalkMemberStates(c *wire.Coder, states *[]MemberState) { wire.List(c, states, walkMemberState) }

func walkMemberState(c *wire.Coder, s *MemberState) {
	walkMember(c, &s.Member)
	wire.Bool(c, &s.Left)
	wire.Uint(c, &s.Stamp)
	walkParticipant(c, &s.By)
}

func checkStates(states []MemberState) error {
	for _, s := range states {
		if s.Stamp == 0 {
			return errors.New("member state with stamp 0")
		}
		if err := errors.Join(checkMembers([]Member{s.Member}), s.By.check()); err != nil {
			return err
		}
	}
	return nil
}

func checkMembers(members []Member) error {
	for _, m := range members {
		if m.Kind > MemberEmail {
			return fmt.Errorf("member of kind %d", m.Kind)
		}
		if err := errors.Join(m.Participant.check(), m.AddedBy.check()); err != nil {
			return err
		}
	}
	return nil
}

// Newer reports whether s replaces t, a state of the same member: it has the greater
// stamp, or the same and the greater By. So copies that have seen the same states
// agree, in whatever order these came.
func (s MemberState) Newer(t MemberState) bool {
	return cmp.Or(cmp.Compare(s.Stamp, t.Stamp), s.By.Compare(t.By)) > 0
}

// MergeMembers returns have, which is sorted by participant, with each of news that
// is newer than what have knows, or unknown to it; sorted too. changed are those of
// news that were. Neither argument is changed.
func MergeMembers(have, news []MemberState) (merged, changed []MemberState) {
	merged = slices.Clone(have)
	for _, s := range news {
		at, known := slices.BinarySearchFunc(merged, s, func(a, b MemberState) int { return a.Participant.Compare(b.Participant) })
		switch {
		case !known:
			merged = slices.Insert(merged, at, s)
		case s.Newer(merged[at]):
			merged[at] = s
		default:
			continue
		}
		changed = append(changed, s)
	}
	return merged, changed
}
