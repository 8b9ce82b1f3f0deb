// Package draw derives every random number of a load plan.
//
// A plan must be the same whoever computes it: one worker or a hundred, in any order, today
// or after an upgrade. So randomness is addressed, not consumed: a number is a function of
// (seed, stream, n, k), where stream says what the number is for, n is usually the number
// of an arrival and k a step within it. Nobody needs to know how many numbers somebody else
// has drawn.
//
// The derivation is fixed and held by golden values:
//
//	mix(z)            = the finaliser of SplitMix64 (Steele, Lea, Flood 2014, variant 13 of Stafford)
//	φ                 = 0x9e3779b97f4a7c15
//	Hash(s, st, n, k) = mix(mix(mix(s + φ·st) + φ·n) + φ·k)
//	Rand(s, st, n, k) = PCG-DXSM of math/rand/v2 with the words h, mix(h + φ), where h = Hash(s, st, n, k)
//
// Integers are the same on every machine. Floating-point values derived from them may
// differ in the last bit between processor architectures, since Go may fuse a
// multiplication with an addition.
package draw

import (
	"math/bits"
	"math/rand/v2"
)

// A Stream says what a random number is for. Two uses never share a stream. The values are
// part of every plan: never renumber, only append.
type Stream uint64

const (
	Gaps       Stream = 1 // gaps between arrivals
	Bursts     Stream = 2 // lengths of burst states
	Activity   Stream = 3 // how active a user is; n = user
	Users      Stream = 4 // who makes arrival n
	Contacts   Stream = 5 // a user's contact list; n = user
	Steps      Stream = 6 // what a session does; n = arrival, k = step
	Operations Stream = 7 // the robot's choice; n = arrival
	Content    Stream = 8 // what an operation carries; n = arrival, k = step
	Streams    Stream = 9 // whether a user holds a stream; n = user, k = which
)

const phi = 0x9e3779b97f4a7c15

// mix is a bijection on 64 bits that spreads each input bit over all output bits.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Hash returns 64 uniform bits for (seed, s, n, k). Given the other three, it is a
// bijection of each of n and k.
func Hash(seed uint64, s Stream, n, k uint64) uint64 {
	return mix(mix(mix(seed+phi*uint64(s))+phi*n) + phi*k)
}

// Unit maps 64 uniform bits to the middle of one of 2^52 equal cells of (0, 1): never 0,
// never 1.
func Unit(h uint64) float64 {
	return (float64(h>>12) + 0.5) * 0x1p-52
}

// Below maps 64 uniform bits to an integer in [0, n), with bias under n/2^64, and returns
// the bits that were not needed for it, spread over [0, 2^64).
func Below(h, n uint64) (i, rest uint64) {
	return bits.Mul64(h, n)
}

// Rand is a generator that can be moved to any place. Its owner moves it and draws; it is
// not safe for concurrent use. Moving allocates nothing.
type Rand struct {
	*rand.Rand
	pcg *rand.PCG
}

// New returns a generator at (seed, s, n, k).
func New(seed uint64, s Stream, n, k uint64) Rand {
	pcg := new(rand.PCG)
	r := Rand{rand.New(pcg), pcg}
	r.Seek(seed, s, n, k)
	return r
}

// Seek moves r to (seed, s, n, k).
func (r Rand) Seek(seed uint64, s Stream, n, k uint64) {
	h := Hash(seed, s, n, k)
	r.pcg.Seed(h, mix(h+phi))
}
