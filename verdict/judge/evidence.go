package judge

import (
	"time"

	"darklaunch/internal/hist"
)

// Comparison is what is judged and what is known of it beside its windows.
type Comparison struct {
	// Name identifies it in metrics and reports.
	Name string
	// Arms say who is compared: Shadow with Live and perhaps Control, or Head with
	// Base. Plans and fingerprints that differ make the verdict inconclusive.
	Arms []Arm
	// AA are the latency rows of a verdict on this rig in which both sides ran the
	// same build, for mirrors without a control. Nil: there is none.
	AA []Metric
	// Unpaired: the two sides answered different calls, as two runs of a load do.
	Unpaired bool
	// Whole: each window is a block, independent of the others and without a warm-up,
	// as a run of a load of its own is.
	Whole bool
}

// Window is what was seen in one stretch of time on all sides, or in one round.
type Window struct {
	Start  time.Time // zero for runs whose time is not known
	Length time.Duration
	Routes map[string]Route
	// Usage is of the roles' processes, by role.
	Usage map[Role]Usage
	Rig   RigWindow
}

// Route is what was seen on one route in a window. The judge keeps none of it
// beyond the call it is passed to.
type Route struct {
	// Latency is of complete, judged pairs, by role.
	Latency map[Role]Latency
	// Shadow and Control are how judged pairs ended, against live. Of unpaired runs
	// Calls says it instead.
	Shadow, Control Outcomes
	Calls           map[Role]Calls
	// Differences are how the answers of judged pairs compared.
	Differences Differences
	// Live is all of live's traffic, in groups.
	Live []Traffic
	// Pairs that are no evidence, by why.
	Unjudged, Apart, Incomplete, Shipped, Unshared, UnknownIDs uint64
	// Chosen are drops chosen, by reason.
	Chosen map[string]uint64
}

// Latency is a distribution of which some values are only known to be long.
type Latency struct {
	Durations *hist.Hist // nil is empty
	// Timeouts took longer than any of Durations that matters; they are not in it.
	Timeouts uint64
}

// Outcomes counts pairs by who failed.
type Outcomes struct{ BothOK, RoleOnlyFailed, LiveOnlyFailed, BothFailed uint64 }

// Calls counts calls of one side.
type Calls struct{ Total, Failed uint64 }

// Differences counts pairs by whose answer differs from live's.
type Differences struct{ Same, ShadowOnly, ControlOnly, Both uint64 }

// Traffic is live's traffic of one group of users in a window.
type Traffic struct {
	Sampled   bool // the author's bucket is under the set sample
	Sending   bool // copies were being sent
	Durations *hist.Hist
	Requests  uint64
	Failed    uint64
}

// Usage is what the processes of a role used in a window.
type Usage struct {
	CPU         time.Duration
	Allocations float64
	Requests    float64 // served by them
	Memory      float64 // resident, bytes, at the end; 0 is not known
}

// RigWindow is what the rig did in a window; counts are of it alone.
type RigWindow struct {
	Accounts []Account
	// StreamSent and StreamLost are records of the pair stream.
	StreamSent, StreamLost uint64
	// Lateness is from due to sent, Overhead what the rig adds to live's path. Nil is
	// not known.
	Lateness, Overhead *hist.Hist
	// CPU of the generator or mirror, and how much it could have had; 0 is not known.
	CPU, Quota time.Duration
	// ClockOffset is by how much a clock of the rig is away from the judge's.
	ClockOffset time.Duration
	// Sending: copies were being sent; Sampling: the sample was set, sending or not.
	Sending, Sampling bool
}

// Account is what became of the copies offered to a role.
type Account struct {
	Role          Role
	Offered, Sent uint64
	Dropped       map[string]uint64 // by reason, all reasons
}
