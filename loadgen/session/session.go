// Package session says what a user does next.
//
// A session is a walk over a Markov chain of operations, with a pause before each: it
// lists, reads, marks, replies, and ends. The chain is data that the caller brings. Walks
// make what independent draws cannot: a read after the list that named it, a reply after
// the read, and ten calls of one user while the user's data is in a cache. The Robot makes
// independent draws, and stays so that its bias can be shown.
//
// What session n does depends on (seed, n) alone: its user is the population's pick for
// arrival n, and step k draws from the generator at (seed, draw.Steps, n, k), where Next
// leaves it for the caller to draw the operation's content from. So a session belongs to
// whichever worker takes arrival n, and is the same there.
//
// The package is pure: no clock, no goroutine, no input. A Session is 24 bytes; all else is
// shared.
package session

import (
	"fmt"
	"math"
	"slices"
	"time"

	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/population"
)

// Op is the number of an operation, by its place in the Spec.
type Op uint8

// Session is a user on the way through a chain. It belongs to its caller.
type Session struct {
	N    uint64          // the arrival that it began with
	User population.User // who it is
	step uint32          // operations begun
	at   Op              // the last one
}

// Sessions makes the sessions of a population. It never changes and is safe for concurrent
// use.
type Sessions struct {
	seed  uint64
	chain *Chain
	users *population.Population
}

// New returns the sessions in which users walk over chain.
func New(seed uint64, chain *Chain, users *population.Population) *Sessions {
	return &Sessions{seed, chain, users}
}

// Start returns the session that begins with arrival n. Nothing of it is done yet.
func (s *Sessions) Start(n uint64) Session {
	return Session{N: n, User: s.users.Pick(n)}
}

// Next moves x to its next operation and returns it, with the pause that the user makes
// before it, to be counted from the end of the last one. It returns false when the session
// is over, and must not be called again. The first operation has no pause.
//
// r is moved to a place that belongs to this step. What the operation carries should be
// drawn from it before the next call.
func (s *Sessions) Next(x *Session, r draw.Rand) (Op, time.Duration, bool) {
	x.step++
	r.Seek(s.seed, draw.Steps, x.N, uint64(x.step))
	if x.step == 1 {
		x.at = s.chain.start
		return x.at, 0, true
	}
	to, ok := s.chain.next(x.at, r.Float64())
	if !ok {
		return 0, 0, false
	}
	x.at = to
	return to, seconds(s.chain.ops[to].Think.Draw(r.Rand)), true
}

// maxThink keeps pauses of laws without an end within a time.Duration.
const maxThink = 365 * 24 * time.Hour

func seconds(x float64) time.Duration {
	return time.Duration(min(max(0, x), maxThink.Seconds()) * float64(time.Second))
}

// Robot is the naive generator: each arrival is one call, of a user drawn evenly and an
// operation drawn by weight, both independent of all others. Its methods are those of
// Sessions.
type Robot struct {
	seed    uint64
	users   uint64
	weights []float64
	total   float64
}

// NewRobot returns a robot for users 0 … users−1 and operations 0 … len(weights)−1. Equal
// weights are the most naive; a chain's Stats().Mix makes the operations, but nothing else,
// like those of its sessions. It is an error if there are no users or more than 2^32, no
// operations or more than 255, or a weight is negative or all are zero.
func NewRobot(seed uint64, users int, weights []float64) (*Robot, error) {
	if users < 1 || users > 1<<32 || len(weights) > 255 {
		return nil, fmt.Errorf("a robot of %d users and %d operations: want 1 to 2^32 and 1 to 255", users, len(weights))
	}
	r := &Robot{seed: seed, users: uint64(users), weights: slices.Clone(weights)}
	for op, w := range weights {
		if !(w >= 0) {
			return nil, fmt.Errorf("a robot with weight %v for operation %d: want 0 or more", w, op)
		}
		r.total += w
	}
	if !(r.total > 0 && r.total < math.Inf(1)) {
		return nil, fmt.Errorf("a robot with weights that add up to %v: want above 0", r.total)
	}
	return r, nil
}

// Start returns the call that is arrival n. Nothing of it is done yet.
func (b *Robot) Start(n uint64) Session {
	u, _ := draw.Below(draw.Hash(b.seed, draw.Users, n, 0), b.users)
	return Session{N: n, User: population.User(u)}
}

// Next returns the operation of x, without a pause, and false thereafter. It treats r as
// Sessions.Next does.
func (b *Robot) Next(x *Session, r draw.Rand) (Op, time.Duration, bool) {
	x.step++
	r.Seek(b.seed, draw.Operations, x.N, uint64(x.step))
	if x.step > 1 {
		return 0, 0, false
	}
	u := r.Float64() * b.total
	for op, w := range b.weights {
		if w == 0 {
			continue
		}
		x.at = Op(op)
		if u -= w; u < 0 {
			break
		}
	}
	return x.at, 0, true
}
