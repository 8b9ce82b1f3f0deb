// Package judge decides whether one system is as fast and as right as another:
// pass, fail or inconclusive, with what it rests on and what would decide it.
//
// The unit of evidence is not a request but a block: a stretch of time, long
// enough to be independent of the next, or a round of a gate. Requests of one
// second share its garbage collections and its neighbours, and a test that takes
// them for independent fails most comparisons of a build with itself. Of each
// block the judge takes the log of the ratio of a statistic on both sides; of
// the blocks' logs an interval, and compares that with a margin.
//
// The package is pure: evidence and time are arguments, and the same ones give
// the same Document. Nothing in it panics on any evidence.
package judge

import "time"

// Judge judges a run that is over, of one length decided beforehand. at is put in
// the Document; interrupted says that the run was cut short, which is never a
// pass. diffs are what the comparison of fields found, with gates already judged;
// they are not altered.
func Judge(c Comparison, cfg Config, windows []Window, diffs Findings, at time.Time, interrupted bool) *Document {
	return nil
}

// Findings are what the comparison of fields found.
type Findings struct {
	Differences []Difference
	Rules       []DifferenceRule
	// Reasons not to pass beside the gating Differences: an expired rule.
	Reasons []Reason
}

// Looks are the numbers of rounds, without the first, after which JudgeRounds may
// be asked; each look spends an equal part of the error.
var looks = [...]int{5, 10, 15}

// Looks returns the numbers of rounds at which a gate may look: 5, 10 and 15, not
// counting round 0, which is left out.
func Looks() []int { return looks[:] }

// JudgeRounds judges the rounds of a gate, in the order in which they ran, the first
// of them to be left out. planned is how many looks there will be, 1 to 3: each
// gets its part of the error. more says that another look, after more rounds, may
// decide what this one did not.
func JudgeRounds(c Comparison, cfg Config, rounds []Window, planned int, at time.Time, interrupted bool) (d *Document, more bool) {
	return nil, false
}

// Watch judges continuously. Looking as often as one likes costs nothing: its
// intervals hold at all times at once. It holds a bounded part of what it was
// given: the windows of the first blocks, packed, then two histograms for each
// route and role and a few numbers for each block. It is not safe for concurrent
// use.
type Watch struct{}

// NewWatch starts a judgement.
func NewWatch(c Comparison, cfg Config) *Watch { return nil }

// Add takes the next window, of some seconds, and says whether a block ended with
// it: only then is there something new to look at.
func (w *Watch) Add(window Window) (ended bool) { return false }

// Document is the judgement as of the last block, with the rig and the coverage
// as of now.
func (w *Watch) Document(diffs Findings, at time.Time) *Document { return nil }

// MarshalBinary writes all that RestoreWatch needs to go on, but for the
// configuration.
func (w *Watch) MarshalBinary() ([]byte, error) { return nil, nil }

// RestoreWatch continues what MarshalBinary wrote. It is an error if state is
// damaged or of another form.
func RestoreWatch(c Comparison, cfg Config, state []byte) (*Watch, error) { return nil, nil }
