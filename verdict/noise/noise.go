// Package noise tells what is wrong with the shadow from what differs anyway.
//
// Two answers of one build differ too: in times, random ids, and what another
// process has cached. So live's answers are compared with those of shadow and of
// control, a second copy of live's build; if shadow is as good as live, then what
// differs on shadow alone and what differs on control alone is equally often, for
// each field. What differs on both says nothing.
//
// # Evidence
//
// A field is a route, a path and a kind of difference. Differences come in bursts,
// of one user or of one moment, so that a hundred of them may be one event. The
// evidence against a field is therefore reckoned in three ways:
//
//   - by blocks of time: of each user at most one event in a block, its sign
//     whether shadow or control differed more often; D is the sum of the signs by
//     the root of their number, or 3 if that is less. If the roles could be swapped
//     for the whole block, D is as likely as -D, and a bet that multiplies what it
//     has by 2/(1+exp(-θD)) is fair;
//   - by users: of each user his first event alone, whose sign is a fair coin. A
//     bet on share q multiplies by 2q or 2(1-q);
//   - by both: blocks as above, of first events alone.
//
// Each is an e-process, the mean of bets on eleven shares q, θ = ln(q/(1-q)): its
// expectation is at most 1 whenever one looks, so it may be watched continuously
// (Ramdas, Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-
// valid inference", Statistical Science 38, 2023). The first holds though noise
// comes in bursts of a moment, the second though it is some users', so that the
// smaller of the two holds in either case. The third holds in both at once, but has
// little to go by where a fault hits all users at a time. The mean of that smaller
// one and the third is what counts. Over fields, those are confirmed that the e-BH
// procedure picks at Config.Level, which bounds the share of false ones among them
// whatever depends on what (Wang and Ramdas, "False discovery rate control with
// e-values", JRSS B 84, 2022).
//
// One block, and one user, is at most one doubling: alone a field needs 11 of each
// to be confirmed at 0.01, and among 50 fields 16, unless History knows that it used
// to be clean.
//
// # Tiers
//
// A field is observed as soon as shadow differs, and confirmed when the evidence
// says that it differs more often than control. It gates when it is confirmed
// and the lower bound of how much more often is above its margin. Without a
// control there is no evidence: there are rates with Wilson intervals, and a
// field gates only if a margin was set for it.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
package noise

import (
	"darklaunch/verdict/compare"

	pairv1 "darklaunch/api/pair/v1"
)

// Config describes a Ledger.
type Config struct {
	// Control says that pairs have a control. Pairs that have none are then not
	// counted; without it, controls are not looked at.
	Control bool
	// Level bounds the share of false fields among the confirmed. Zero means 0.01.
	Level float64
	// Confidence of intervals. Zero means 0.95. Those of a control hold at all
	// blocks at once.
	Confidence float64
	// Margin is how much more often shadow may differ than control, as a share
	// of answers, of fields for which the rules have none. Zero means 0.001.
	Margin float64
	// Rules have the margins of fields, and are what hid counts are told of.
	// Nil means none.
	Rules *compare.Rules
	// History is what was learned of the same service, load, rules and blocks
	// while shadow was live's build. Nil means nothing.
	History *History
	// Seed chooses examples.
	Seed uint64

	// MaxFields bounds the fields that are followed; differences of more are
	// counted together, by kind, as the path "(other)" of the route "(other)".
	// Zero means 4096.
	MaxFields int
	// MaxUsers bounds the users with an event of a field that are told apart: in a
	// block, where more are no evidence and Report.Crowded counts them; and since
	// the field was first seen, where it begins anew. Zero means 4096.
	MaxUsers int
	// MaxEvents bounds both in the same way for all fields together. Zero means
	// 262144.
	MaxEvents int
	// Examples is how many are kept of each field. Zero means 5.
	Examples int
	// ExampleBytes bounds the requests kept with examples, in bytes. Zero means
	// 16 MiB. Examples beyond that have no request.
	ExampleBytes int
}

// Ledger keeps what was found of pairs. Its memory is bounded by its Config. It
// is not safe for concurrent use; comparing, which is the work, is done before.
//
// Add, Window and EndBlock are to be called in the order of time. The same calls
// give the same Report, with a Save and Restore between them or not.
type Ledger struct {
	cfg   Config
	known known
	state

	// Of the state, for its bounds.
	waiting    int // users in all fields' events
	remembered int // users in all fields' met
	kept       int // bytes of examples
}

// Tier is how much is known of a field.
type Tier string

const (
	// Observed: shadow differed.
	Observed Tier = "observed"
	// Confirmed: shadow differs more often than control.
	Confirmed Tier = "confirmed"
)

// Report is what a Ledger knows.
type Report struct {
	// Blocks is how many have ended.
	Blocks int
	// Fields on which shadow or control differed: confirmed ones first, then by
	// how grave their kind is and how often shadow differs.
	Fields []Field
	Routes []Route
	Rules  []RuleUse
	// Skipped counts pairs that were not compared, by compare.Skip and the
	// reasons of this package.
	Skipped map[string]uint64
	// Crowded counts events that are no evidence, as a bound was reached.
	Crowded uint64
	// Cut counts answers of which not all differences are known.
	Cut uint64
}

// Field is what is known of one field. Counts are of pairs, each once.
type Field struct {
	Route string
	Path  string
	Kind  compare.Kind
	Tier  Tier

	// ShadowOnly, ControlOnly and Both count pairs by whose answer differs from
	// live's. Without a control all are ShadowOnly.
	ShadowOnly, ControlOnly, Both uint64
	// Pairs is how many pairs these are of. It is estimated where a stream lost some.
	Pairs float64
	// Rate is the share of pairs in which shadow differs, with its Wilson interval.
	Rate Interval
	// Noise is the share in which control does.
	Noise Interval
	// Excess is how much more often shadow differs than control, as a share of
	// pairs. Its interval is over blocks, or that of pairs if that is wider.
	// Without a control it is Rate.
	Excess Interval
	// Evidence is log10 of the e-value; 0 without a control.
	Evidence float64
	// ShadowBlocks and ControlBlocks count blocks in which more users had events
	// of the one than of the other; Users those with an event.
	ShadowBlocks, ControlBlocks, Users uint64

	// Margin is what Excess is held against, as a share of pairs.
	Margin float64
	// Marked says that the rules set the margin.
	Marked bool
	// Gates says that the field is a failure: it is confirmed (or marked, where
	// there is no control), and Excess.Low is above the margin.
	Gates bool
	// Clear says that Excess.High is below the margin.
	Clear bool

	// Examples are some at random.
	Examples []Example
}

// Interval is an estimate with its bounds.
type Interval struct{ Value, Low, High float64 }

// Route is what was seen of a route.
type Route struct {
	Route string
	// Pairs is how many were compared, here or in the mirror.
	Pairs uint64
	// Unequal is how many of them the mirror found unequal, and Seen how many of
	// these came here.
	Unequal, Seen uint64
	// Shipped is how many were to be compared here and were.
	Shipped uint64
}

// RuleUse is what a rule did.
type RuleUse struct {
	Rule *compare.Rule
	// Hid is how many differences it hid. A rule that hides nothing is one to drop.
	Hid uint64
	// Unread is how often the record did not show what it reads.
	Unread uint64
}

// Example is one difference.
type Example struct {
	// ID is of the copy, as in darklaunch-id.
	ID []byte
	// Time is when live got the request, ns of the Unix epoch.
	Time int64
	// Request is live's, as the record shows it; its body is cut. Nil if there was
	// no room for it.
	Request *pairv1.Request
	// Live and Shadow are what stood there.
	Live, Shadow string
}
