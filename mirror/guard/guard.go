// Package guard decides whether mirroring hurts live.
//
// It is told of blocks of time: whether copies were sent in them, how long the
// relay held bytes back, and how much of live's traffic failed. What tells harm
// depends on what there is to compare with:
//
//   - Under a switchback, blocks in which nothing was sent lie among the others,
//     and all users are compared, on against off.
//   - Blocks with the sample set and sending off, seen before users were seeded,
//     are a baseline: what changed since between sampled and unsampled users is
//     mirroring's doing, while what changed for both is live's own.
//   - With neither there are absolute limits. The relay's overhead is not one
//     user's, so that only a switchback spares it them.
//
// One bad block is an accident; several in a row are harm.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
package guard

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Config holds limits. Its zero value is ready for use.
type Config struct {
	// Overhead is the most that the relay may hold bytes back, at the 99th
	// percentile of a block, where there is no switchback. Zero means 50ms.
	Overhead time.Duration
	// Errors is the largest share of live's exchanges that may fail where there
	// is nothing to compare with. Zero means 0.25.
	Errors float64
	// Blocks is how many in a row must be bad. Zero means 3.
	Blocks int
}

const (
	// minRequests and minChunks are how much a block must have seen to say
	// anything of errors and of overhead.
	minRequests = 50
	minChunks   = 100
	// minBlocks are needed to compare with.
	minBlocks = 3
	// maxOff are remembered of a switchback's blocks without sending: some
	// twenty minutes, if they are a tenth.
	maxOff = 24

	// A difference must be both large and no accident.
	marginErrors   = 0.01             // of the exchanges
	marginOverhead = time.Millisecond // at the 99th percentile,
	timesOverhead  = 2                // and so many times as much
	certainty      = 3                // standard errors
)

// Block is what was seen in a stretch of time.
type Block struct {
	// Sending says that copies left. A block in which that changed is no evidence,
	// and is not to be told.
	Sending bool
	// Held says that it was a switchback that kept them from leaving.
	Held bool
	// Set says that the sample was above zero.
	Set bool
	// Overhead is the 99th percentile of how long the relay held bytes back, of
	// Chunks times.
	Overhead time.Duration
	Chunks   int64
	// Unsampled and Sampled are live's traffic, by whether the author's bucket is
	// under the sample.
	Unsampled, Sampled Traffic
}

// Traffic counts live's exchanges.
type Traffic struct{ Requests, Failed uint64 }

func (t Traffic) plus(o Traffic) Traffic {
	return Traffic{t.Requests + o.Requests, t.Failed + o.Failed}
}

// share is that of failures, and its variance, of which an empty or a flawless
// block is not certain either (Agresti and Coull, 1998).
func (t Traffic) share() (p, variance float64) {
	n := float64(t.Requests) + 4
	q := (float64(t.Failed) + 2) / n
	return float64(t.Failed) / max(1, float64(t.Requests)), q * (1 - q) / n
}

// Symptom is what got worse; a label value.
type Symptom string

const (
	Overhead Symptom = "overhead"
	Errors   Symptom = "errors"
)

// Symptoms are all there are.
func Symptoms() []Symptom { return []Symptom{Overhead, Errors} }

// Evidence is what blocks are compared with.
type Evidence string

const (
	Switchback Evidence = "switchback"  // blocks without sending, at random
	Baseline   Evidence = "baseline"    // sampled against unsampled users, before and after
	None       Evidence = "no baseline" // absolute limits
)

// Guard judges blocks. It is not safe for concurrent use.
type Guard struct {
	cfg    Config
	off    []Block // of a switchback, the latest last
	before struct {
		blocks             int
		unsampled, sampled Traffic
	}
	seeded bool
	bad    map[Symptom]int // in a row, until now
}

// New returns a Guard that has seen nothing.
func New(cfg Config) *Guard {
	cfg.Overhead = cmp.Or(cfg.Overhead, 50*time.Millisecond)
	cfg.Errors = cmp.Or(cfg.Errors, 0.25)
	cfg.Blocks = cmp.Or(cfg.Blocks, 3)
	return &Guard{cfg: cfg, bad: map[Symptom]int{}}
}

// Seeded ends the baseline: from now on sampled users have a state to lose.
func (g *Guard) Seeded() { g.seeded = true }

// Resumed forgets bad blocks, but not what they are compared with.
func (g *Guard) Resumed() { clear(g.bad) }

// Evidence is what errors are compared with now.
func (g *Guard) Evidence() Evidence {
	switch {
	case len(g.off) >= minBlocks:
		return Switchback
	case g.before.blocks >= minBlocks && min(g.before.sampled.Requests, g.before.unsampled.Requests) >= minRequests:
		return Baseline
	}
	return None
}

// Bad is how many blocks in a row were bad, of the worst symptom.
func (g *Guard) Bad() (n int) {
	for _, bad := range g.bad {
		n = max(n, bad)
	}
	return n
}

// Judge takes the next block. If harm has lasted long enough it says of what
// kind, and why it is thought so, for people.
func (g *Guard) Judge(b Block) (harm Symptom, why string) {
	if !b.Sending {
		g.compare(b)
		return "", ""
	}
	for _, s := range Symptoms() {
		judge := g.errors
		if s == Overhead {
			judge = g.overhead
		}
		bad, text, known := judge(b)
		switch {
		case !known: // a quiet block neither accuses nor acquits
		case bad:
			g.bad[s]++
		default:
			g.bad[s] = 0
		}
		if harm == "" && g.bad[s] >= g.cfg.Blocks {
			harm, why = s, fmt.Sprintf("%s, in %d blocks in a row", text, g.bad[s])
		}
	}
	return harm, why
}

// compare keeps a block without sending for those to come.
func (g *Guard) compare(b Block) {
	switch {
	case b.Held:
		g.off = append(g.off, b)
		g.off = g.off[max(0, len(g.off)-maxOff):]
	case b.Set && !g.seeded:
		g.before.blocks++
		g.before.unsampled = g.before.unsampled.plus(b.Unsampled)
		g.before.sampled = g.before.sampled.plus(b.Sampled)
	}
}

func (g *Guard) overhead(b Block) (bad bool, why string, known bool) {
	if b.Chunks < minChunks {
		return false, "", false
	}
	if g.Evidence() != Switchback {
		return b.Overhead > g.cfg.Overhead,
			fmt.Sprintf("the relay holds bytes back for %v at the 99th percentile, over the limit of %v", b.Overhead, g.cfg.Overhead), true
	}
	var off []time.Duration
	for _, o := range g.off {
		if o.Chunks >= minChunks {
			off = append(off, o.Overhead)
		}
	}
	if len(off) < minBlocks {
		return false, "", false
	}
	slices.Sort(off)
	usual := off[len(off)/2]
	return b.Overhead > usual+marginOverhead && b.Overhead > timesOverhead*usual,
		fmt.Sprintf("the relay holds bytes back for %v at the 99th percentile, against %v while nothing is sent", b.Overhead, usual), true
}

func (g *Guard) errors(b Block) (bad bool, why string, known bool) {
	all := b.Unsampled.plus(b.Sampled)
	if all.Requests < minRequests {
		return false, "", false
	}
	now, variance := all.share()
	switch g.Evidence() {
	case Switchback:
		var off Traffic
		for _, o := range g.off {
			off = off.plus(o.Unsampled).plus(o.Sampled)
		}
		if off.Requests < minRequests {
			return false, "", false
		}
		usual, v := off.share()
		return worse(now-usual, variance+v), fmt.Sprintf("live fails %.2f %% of its exchanges, against %.2f %% while nothing is sent", 100*now, 100*usual), true
	case Baseline:
		if min(b.Sampled.Requests, b.Unsampled.Requests) < minRequests {
			return false, "", false
		}
		after, v1 := apart(b.Sampled, b.Unsampled)
		before, v2 := apart(g.before.sampled, g.before.unsampled)
		return worse(after-before, v1+v2),
			fmt.Sprintf("sampled users' exchanges fail by %+.2f points more often than others', against %+.2f before anything was sent", 100*after, 100*before), true
	}
	return now > g.cfg.Errors, fmt.Sprintf("live fails %.2f %% of its exchanges, over the limit of %.2f %%", 100*now, 100*g.cfg.Errors), true
}

// apart is how much more of a fails than of b.
func apart(a, b Traffic) (difference, variance float64) {
	p, v := a.share()
	q, w := b.share()
	return p - q, v + w
}

func worse(difference, variance float64) bool {
	return difference > marginErrors && difference > certainty*math.Sqrt(variance)
}
