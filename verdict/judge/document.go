package judge

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Schema names the form of a Document.
const Schema = "verdict/v1"

// Verdict is an answer: yes, no or can't tell.
type Verdict string

// The three answers. No data is never a Pass.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive"
)

// State is how far a judgement has come. One of a fixed run is at its verdict.
type State string

// The states of a continuous judgement; it ends in one named like its verdict.
const (
	Warming    State = "warming"    // nothing is evidence yet
	Collecting State = "collecting" // there is evidence, and not enough
	Decided    State = "decided"    // the verdict holds
	Expired    State = "expired"    // the time for it is over: inconclusive
)

// Mode is how evidence came about.
type Mode string

// The modes.
const (
	Fixed      Mode = "fixed"      // a run of a length known beforehand, judged once
	Continuous Mode = "continuous" // looked at again and again while it runs
	Rounds     Mode = "rounds"     // rounds in turn, looked at as often as planned
)

// Role is who did something. Live, Shadow and Control are a mirror's; Base and
// Head are two builds under the same load.
type Role string

// The roles. In the judgement of live harm Base is live while, or where, it was
// left alone, and Head while or where copies were made.
const (
	Live    Role = "live"
	Shadow  Role = "shadow"
	Control Role = "control"
	Base    Role = "base"
	Head    Role = "head"
)

// Document is a verdict with all that it rests on: the one form from which every
// report is made. Times are in seconds, shares are parts of one.
type Document struct {
	Schema     string  `json:"schema"` // "verdict/v1"
	Comparison string  `json:"comparison"`
	Verdict    Verdict `json:"verdict"`
	State      State   `json:"state"`
	Mode       Mode    `json:"mode"`
	// Reasons say why the verdict is not Pass, the gravest first. Of a Pass there
	// are none.
	Reasons []Reason `json:"reasons"`
	// Notes are what a reader should know that does not stand against a pass.
	Notes []string `json:"notes"`
	// Arms are who was compared, in the order live, control, shadow or base, head.
	Arms []Arm `json:"arms"`
	// Start and End bound the evidence, warm-up included; JudgedAt is when it was
	// looked at. A zero time is one that is not known.
	Start    time.Time `json:"start,omitzero"`
	End      time.Time `json:"end,omitzero"`
	JudgedAt time.Time `json:"judged_at,omitzero"`
	Rig      Rig       `json:"rig"`
	// Metrics are one row for each (name, stat, route), gating ones first.
	Metrics []Metric `json:"metrics"`
	// Objectives are absolute limits.
	Objectives []Objective `json:"objectives"`
	// Differences are fields in which answers differ, gating ones first, then by
	// lower bound.
	Differences []Difference `json:"differences"`
	// Rules are the rules that hide or soften differences.
	Rules []DifferenceRule `json:"rules"`
	// LiveHarm says what the mirror did to live; absent where no mirror was.
	LiveHarm *LiveHarm `json:"live_harm,omitempty"`
	Coverage Coverage  `json:"coverage"`
}

// Reason is one thing that stands between a run and a pass.
type Reason struct {
	// Code is one of the constants Reason…, for machines.
	Code string `json:"code"`
	// Metric ("latency p99") and Route are what it is about; empty: all of it.
	Metric string `json:"metric,omitempty"`
	Route  string `json:"route,omitempty"`
	// Text is a sentence without a full stop.
	Text string `json:"text"`
	// Cure is what would help: "17 more blocks, about 3m". Of a fail it is empty.
	Cure string `json:"cure,omitempty"`
}

// The codes of reasons.
const (
	ReasonMargin       = "beyond_margin"      // fail: the interval is beyond the margin
	ReasonObjective    = "objective"          // fail: an absolute limit is broken
	ReasonDifference   = "differences"        // fail: a field differs more than allowed
	ReasonLiveHarm     = "live_harm"          // fail: live suffers
	ReasonSpans        = "spans_margin"       // the interval has the margin in it
	ReasonNoData       = "no_data"            // nothing was measured, or not on one side
	ReasonFewBlocks    = "too_few_blocks"     // no interval can be made
	ReasonFewPairs     = "too_few_pairs"      // no such quantile can be told
	ReasonDropped      = "dropped"            // copies were dropped by load
	ReasonStream       = "stream_lost"        // the verdict did not see all
	ReasonCensored     = "censored"           // the quantile is beyond the time-out
	ReasonLate         = "rig_late"           // the rig was late or slow itself
	ReasonHot          = "rig_hot"            // the rig had no CPU time left
	ReasonUnsteady     = "not_steady"         // beginning and end differ
	ReasonFingerprint  = "fingerprint"        // different machines or builds of the rig
	ReasonPlan         = "plan"               // different loads
	ReasonClock        = "clock"              // times make no sense
	ReasonNoControl    = "no_control"         // relative latency has nothing like to compare with
	ReasonNoBaseline   = "no_baseline"        // live harm cannot be told
	ReasonInterrupted  = "interrupted"        // the run was cut short
	ReasonTime         = "not_long_enough"    // the least time for a pass is not over
	ReasonInvalid      = "invalid"            // a value that cannot be: NaN, negative, infinite
	ReasonNothingGates = "nothing_gates"      // no metric is a gate, so nothing was decided
	ReasonExpiredRule  = "expired_rule"       // a rule that hides differences is past its date
	ReasonRigNoise     = "noisier_than_limit" // a stored A/A run is wider than the margin
)

// Arm is one of those compared.
type Arm struct {
	Role Role `json:"role"`
	// Name is for people: an address, a file, a revision.
	Name string `json:"name,omitempty"`
	// Version is the build's, if it is known.
	Version string `json:"version,omitempty"`
	// Plan identifies the load it was under; equal plans are the same calls.
	Plan string `json:"plan,omitempty"`
	// Fingerprint is what must be equal for figures to be comparable, by name: CPU
	// model, cores, quota, kernel, Go, GOMAXPROCS, generator.
	Fingerprint map[string]string `json:"fingerprint,omitempty"`
}

// Rig is how the evidence was gathered and whether the rig can be trusted.
type Rig struct {
	// Pairs are the complete, judged pairs after trimming; of unpaired runs the
	// calls of the smaller side.
	Pairs uint64 `json:"pairs"`
	// Windows are all there were, Trimmed those left out at the beginning. A window
	// of rounds is a round.
	Windows int `json:"windows"`
	Trimmed int `json:"trimmed"`
	// Blocks are the pieces of evidence, of BlockWindows windows and about BlockLength
	// seconds each.
	Blocks       int     `json:"blocks"`
	BlockWindows int     `json:"block_windows"`
	BlockLength  float64 `json:"block_s"`
	// Rho is the lag-1 autocorrelation of the windows' log-ratios of medians.
	Rho float64 `json:"rho"`
	// Gates are the checks of the rig. A verdict is not passed where one is broken.
	Gates []Gate `json:"gates"`
}

// Gate is one check of the rig.
type Gate struct {
	// Name is the code of the Reason that it gives.
	Name string `json:"name"`
	Role Role   `json:"role,omitempty"`
	// Value is what was measured, absent if it is not known; Limit what is allowed.
	Value *float64 `json:"value,omitempty"`
	Limit float64  `json:"limit"`
	// Unit is "s", "share", "blocks" or "pairs".
	Unit string `json:"unit"`
	OK   bool   `json:"ok"`
	// Text says it in words.
	Text string `json:"text"`
}

// Use is what a metric is there for.
type Use string

// The uses of a metric.
const (
	UseGate  Use = "gate"  // takes part in the verdict
	UseWatch Use = "watch" // is shown
)

// Interval is a confidence interval. A bound that is not known is infinite, and
// null in JSON, where an Interval is [lower, upper].
type Interval struct{ Lower, Upper float64 }

// MarshalJSON writes [lower, upper].
func (i Interval) MarshalJSON() ([]byte, error) {
	return json.Marshal([2]*float64{finite(i.Lower), finite(i.Upper)})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (i *Interval) UnmarshalJSON(b []byte) error {
	var bounds []*float64
	if err := json.Unmarshal(b, &bounds); err != nil {
		return err
	}
	if len(bounds) != 2 {
		return fmt.Errorf("interval of %d bounds, want 2", len(bounds))
	}
	*i = Interval{math.Inf(-1), math.Inf(1)}
	if bounds[0] != nil {
		i.Lower = *bounds[0]
	}
	if bounds[1] != nil {
		i.Upper = *bounds[1]
	}
	return nil
}

func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// Values are a metric's values over all blocks, by role, in the metric's unit.
// Absent: there was nothing of that role.
type Values struct {
	Live    *float64 `json:"live,omitempty"`
	Control *float64 `json:"control,omitempty"`
	Shadow  *float64 `json:"shadow,omitempty"`
	Base    *float64 `json:"base,omitempty"`
	Head    *float64 `json:"head,omitempty"`
}

// Of returns role's value, nil if there is none.
func (v *Values) Of(r Role) *float64 {
	if p := v.place(r); p != nil {
		return *p
	}
	return nil
}

func (v *Values) place(r Role) **float64 {
	switch r {
	case Live:
		return &v.Live
	case Control:
		return &v.Control
	case Shadow:
		return &v.Shadow
	case Base:
		return &v.Base
	case Head:
		return &v.Head
	}
	return nil
}

// The names of metrics. All but MetricErrors and MetricDifferences are compared
// as ratios.
const (
	MetricLatency     = "latency"                 // Stat: mean, p50, p90, p95, p99 or p999; s
	MetricErrors      = "errors"                  // share of calls that failed
	MetricDifferences = "differences"             // share of answers that differ beyond noise
	MetricThroughput  = "throughput"              // 1/s; less is worse
	MetricCPU         = "cpu_per_request"         // s
	MetricAllocations = "allocations_per_request" // a count
	MetricMemory      = "memory"                  // resident, bytes
)

// Metric is one thing compared on one route.
type Metric struct {
	Name  string `json:"name"`
	Stat  string `json:"stat,omitempty"`
	Route string `json:"route"` // "*": not by route
	Use   Use    `json:"role"`
	// Verdict is this row's own, before the correction for many rows: the whole
	// interval is on one side of the margin or it is not. Improved marks a Pass
	// that is better by more than the margin.
	Verdict  Verdict `json:"verdict"`
	Improved bool    `json:"improved,omitempty"`
	// Unit is "s", "share", "1/s", "count" or "B".
	Unit string `json:"unit"`
	// Of was compared with Against.
	Of      Role `json:"of"`
	Against Role `json:"against"`
	Values
	// Effect is how much Of is above Against: the ratio less one, or, where Absolute
	// says so, the difference. Absent with CI if it can't be told. Of throughput
	// negative is worse, of all others positive.
	Effect   *float64  `json:"effect,omitempty"`
	CI       *Interval `json:"ci,omitempty"`
	Absolute bool      `json:"absolute,omitempty"`
	// Difference is the effect in the metric's unit.
	Difference *float64 `json:"difference,omitempty"`
	Confidence float64  `json:"confidence"`
	// Margin is how much worse is allowed, in Effect's terms and positive; a
	// Difference below Floor never fails.
	Margin float64 `json:"margin"`
	Floor  float64 `json:"floor,omitempty"`
	// Allowed is the margin that applied, in Effect's terms: Margin, or what Floor is of
	// Against's value if that is more.
	Allowed float64 `json:"allowed"`
	// P is the one-sided p-value of "not beyond the margin"; PAdj the same after Holm
	// over all gating rows.
	P    *float64 `json:"p,omitempty"`
	PAdj *float64 `json:"p_adj,omitempty"`
	// Blocks are those that had enough of it, BlocksNeeded about how many would
	// decide (0: decided, or it can't be told), NeededFor how long the missing ones
	// take, in seconds.
	Blocks       int     `json:"blocks"`
	BlocksNeeded int     `json:"blocks_needed,omitempty"`
	NeededFor    float64 `json:"needed_s,omitempty"`
	// Pairs are calls that Of and Against have in common, or the smaller number.
	Pairs uint64 `json:"pairs"`
	// Load is at which it was seen.
	Load *Load `json:"load,omitempty"`
	// Offset is the rig's own: control against live, or a stored A/A run. It is never
	// averaged in; a stored one is taken off, with its uncertainty.
	Offset *Offset `json:"offset,omitempty"`
	// Discordant are the counts behind paired errors and differences.
	Discordant *Discordant `json:"discordant,omitempty"`
	// Shape compares the whole distributions, for information; a route's first latency
	// has it.
	Shape *Shape `json:"shape,omitempty"`
	// Series is the metric block by block.
	Series []Point `json:"series,omitempty"`
	// Note says what else a reader should know.
	Note string `json:"note,omitempty"`
}

// Title is the metric's name with its statistic: "latency p99".
func (m *Metric) Title() string {
	if m.Stat == "" {
		return m.Name
	}
	return m.Name + " " + m.Stat
}

// Load is requests a second.
type Load struct {
	Route float64 `json:"route"` // on this route
	Total float64 `json:"total"` // on all
}

// Offset is how two copies of one build differ on a rig.
type Offset struct {
	Of      Role `json:"of"`
	Against Role `json:"against"`
	// Effect and CI are as a Metric's.
	Effect float64   `json:"effect"`
	CI     *Interval `json:"ci,omitempty"`
	// Stored: from a run before this one.
	Stored bool `json:"stored,omitempty"`
}

// Discordant counts pairs in which one side alone failed, or differed.
type Discordant struct {
	Of      uint64 `json:"of"`
	Against uint64 `json:"against"`
	Both    uint64 `json:"both"`
	Pairs   uint64 `json:"pairs"`
	// MidP is McNemar's one-sided mid-p value of "Of is not worse at all".
	MidP float64 `json:"mid_p"`
}

// Shape tells two distributions apart without a test: what calls of one time
// have in common makes them no independent sample.
type Shape struct {
	// KS is the largest distance of the distribution functions.
	KS float64 `json:"ks"`
	// Slower is the probability that a call of Of takes longer than one of Against.
	Slower float64 `json:"slower"`
	// Wasserstein is the mean distance between equal quantiles, in s.
	Wasserstein float64 `json:"wasserstein_s"`
	// Changed: the shape differs though no gate has failed.
	Changed bool `json:"changed"`
	// Curve is quantile by quantile.
	Curve []QuantilePair `json:"curve"`
}

// QuantilePair is one quantile of both sides, in s.
type QuantilePair struct {
	Q       float64 `json:"q"`
	Of      float64 `json:"of"`
	Against float64 `json:"against"`
}

// Point is one block of a metric.
type Point struct {
	Start time.Time `json:"start,omitzero"`
	Values
	// Effect is the block's own; absent if it had too little.
	Effect *float64 `json:"effect,omitempty"`
}

// Objective is an absolute limit of one role.
type Objective struct {
	// Text is as configured: "shadow.latency.p99 < 250ms".
	Text  string   `json:"text"`
	Role  Role     `json:"role"`
	Name  string   `json:"name"`
	Stat  string   `json:"stat,omitempty"`
	Route string   `json:"route"`
	Limit float64  `json:"limit"`
	Value *float64 `json:"value,omitempty"`
	// CI is over blocks; a limit inside it is not decided.
	CI      *Interval `json:"ci,omitempty"`
	Unit    string    `json:"unit"`
	Blocks  int       `json:"blocks"`
	Verdict Verdict   `json:"verdict"`
	Note    string    `json:"note,omitempty"`
}

// Tier is how sure a difference is.
type Tier string

// The tiers.
const (
	Observed  Tier = "observed"  // seen; may be noise
	Confirmed Tier = "confirmed" // more often than control differs, beyond chance
	Noise     Tier = "noise"     // control differs as often
)

// Difference is what was found of one field of the answers of a route.
type Difference struct {
	Route string `json:"route"`
	// Field is an index-free path ("$.items[*].price", "header:etag"), Kind what
	// differs: status, header, missing, extra, type, value, length, order, …
	Field string `json:"field"`
	Kind  string `json:"kind"`
	Tier  Tier   `json:"tier"`
	Use   Use    `json:"role"`
	// Verdict is of a gating one; of others it is empty.
	Verdict Verdict `json:"verdict,omitempty"`
	// Pairs were compared; in ShadowOnly of them shadow alone differs from live, in
	// ControlOnly control alone, in Both both. Without a control all are ShadowOnly.
	Pairs       uint64 `json:"pairs"`
	ShadowOnly  uint64 `json:"shadow_only"`
	ControlOnly uint64 `json:"control_only"`
	Both        uint64 `json:"both"`
	// Rate is the share of pairs in which shadow differs, Noise that of control.
	// Effect with CI is their difference; Margin is what is allowed of it.
	Rate   float64   `json:"rate"`
	Noise  *float64  `json:"noise,omitempty"`
	Effect float64   `json:"effect"`
	CI     *Interval `json:"ci,omitempty"`
	Margin float64   `json:"margin,omitempty"`
	// E is the e-value of "no more than noise"; PAdj a p-value for many fields.
	E    *float64 `json:"e,omitempty"`
	PAdj *float64 `json:"p_adj,omitempty"`
	// Hid is how many differences of it rules have hidden.
	Hid      uint64    `json:"hid,omitempty"`
	Examples []Example `json:"examples,omitempty"`
	Note     string    `json:"note,omitempty"`
}

// Example is one pair in which a difference was seen, as far as the record may
// show it.
type Example struct {
	ID   string    `json:"id,omitempty"`
	Time time.Time `json:"time,omitzero"`
	// Command repeats the request: a curl or grpcurl line.
	Command string `json:"command,omitempty"`
	// What each role had there, as JSON or text; empty and absent are alike.
	Live    string `json:"live,omitempty"`
	Control string `json:"control,omitempty"`
	Shadow  string `json:"shadow,omitempty"`
}

// DifferenceRule is what one rule did to differences.
type DifferenceRule struct {
	Path    string `json:"path"`
	Kind    string `json:"kind,omitempty"`
	Owner   string `json:"owner,omitempty"`
	Expires string `json:"expires,omitempty"` // YYYY-MM-DD
	Hid     uint64 `json:"hid"`
	Expired bool   `json:"expired,omitempty"`
}

// LiveHarm compares live with itself: where and while copies were made with
// where and while they were not.
type LiveHarm struct {
	Verdict Verdict  `json:"verdict"`
	Reasons []Reason `json:"reasons"`
	// Switchback compares slices of time with copying on (head) and off (base).
	// Sampled compares sampled users (head) with the others (base), as a change from
	// before anything was sent.
	Switchback []Metric `json:"switchback"`
	Sampled    []Metric `json:"sampled"`
	// Objectives are absolute limits: relay overhead, live's errors.
	Objectives []Objective `json:"objectives"`
}

// Coverage is how much of the traffic the verdict rests on.
type Coverage struct {
	Roles  []RoleCoverage  `json:"roles"`
	Routes []RouteCoverage `json:"routes"`
	// StreamSent and StreamLost are records of the pair stream.
	StreamSent uint64 `json:"stream_sent"`
	StreamLost uint64 `json:"stream_lost"`
}

// RoleCoverage is what became of the copies for one role.
type RoleCoverage struct {
	Role    Role   `json:"role"`
	Offered uint64 `json:"offered"`
	Sent    uint64 `json:"sent"`
	// Dropped by load, which is a gate; Chosen are drops that are none.
	Dropped map[string]uint64 `json:"dropped"`
	Chosen  map[string]uint64 `json:"chosen"`
}

// RouteCoverage is what became of the pairs of one route.
type RouteCoverage struct {
	Route string `json:"route"`
	// FoldedInto is the row that holds it, if it had too little for its own.
	FoldedInto string `json:"folded_into,omitempty"`
	// Requests are live's. Pairs were judged; the others were not, and why.
	Requests   uint64 `json:"requests"`
	Pairs      uint64 `json:"pairs"`
	Unjudged   uint64 `json:"unjudged"`
	Apart      uint64 `json:"apart"`
	Incomplete uint64 `json:"incomplete"`
	Shipped    uint64 `json:"shipped"`
	Unshared   uint64 `json:"unshared"`
	UnknownIDs uint64 `json:"unknown_ids"`
	// Chosen are drops chosen on this route, by reason, where they are known by route.
	Chosen map[string]uint64 `json:"chosen,omitempty"`
}
