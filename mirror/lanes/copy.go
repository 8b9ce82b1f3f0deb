package lanes

import "time"

// Role is who gets a copy.
type Role uint8

const (
	Shadow Role = iota
	Control
	NumRoles
)

func (r Role) String() string { return [...]string{"shadow", "control"}[r] }

// Reason says why a copy was dropped.
type Reason uint8

const (
	NotDropped Reason = iota

	// Caused by load.
	LaneFull    // the user's queue is full
	Budget      // too much is held: bytes, copies or lanes
	Expired     // too old
	UserShed    // the threshold fell, and all its users are out
	BreakerOpen // the role fails
	Memory      // mirroring is off because memory ran short
	Panic       // mirroring is off because of a bug

	// Chosen.
	Killed        // mirroring is off
	Switchback    // nothing is sent in this slice of time
	BodyTooLarge  //
	Streaming     // no end in sight
	NoCounterpart // no rule for it
	Translate     // a rule failed
	LiveAborted   // live or the client cut it
	Shutdown      //
	NumReasons
)

var reasons = [NumReasons]string{
	LaneFull: "lane_full", Budget: "budget", Expired: "expired", UserShed: "user_shed", BreakerOpen: "breaker_open", Memory: "memory", Panic: "panic",
	Killed: "killed", Switchback: "switchback", BodyTooLarge: "body_too_large", Streaming: "streaming", NoCounterpart: "no_counterpart",
	Translate: "translate", LiveAborted: "live_aborted", Shutdown: "shutdown",
}

func (r Reason) String() string { return reasons[r] }

// Chosen reports whether r is a choice rather than a consequence of load.
func (r Reason) Chosen() bool { return r >= Killed }

// Effect is what is known of an exchange's effect on a system's state.
type Effect uint8

const (
	Unknown Effect = iota // it may have had one: failed, timed out, cut
	Did                   // it was done
	DidNot                // it was not: refused, or never arrived
)

// User is one user of a copy, as package sample knows them.
type User struct {
	ID   uint64 // keyed hash
	Rank int32  // in when below the share in ppm; negative is always in
}

// Copy is one exchange on its way to the roles. The caller fills in the
// exported fields, hands it to Offer and changes them no more.
type Copy struct {
	// Users are those of the exchange who are admitted, each once; none when
	// it is nobody's. The copy has a place in each one's lane.
	Users []User
	// Author says that Users[0] is who acted. Otherwise the author is not
	// admitted: the copy is sent for its effect and never judged.
	Author bool
	// Unsafe says that the exchange may change state, and Live what live did.
	Unsafe bool
	Live   Effect
	// Stream says that there is no end in sight: nothing waits for its answer,
	// and it is none of the copies that Config.InFlight bounds.
	Stream bool
	// Start and End are when live's exchange began and ended. Two exchanges of
	// a user are ordered when one ended before the other began.
	Start, End time.Time
	// Bytes is the capacity of what the copy keeps in memory.
	Bytes int64
	// Roles says to whom the copy is offered, and Drop why it does not go
	// there all the same; NotDropped means that it does.
	Roles [NumRoles]bool
	Drop  [NumRoles]Reason
	// Harmless says to whom the exchange means nothing: that it is not sent there
	// taints nobody.
	Harmless [NumRoles]bool
	// Payload is the caller's.
	Payload any
	// Release is called once, without any lock held, when nobody needs the
	// copy any more: each role has ended with it or dropped it. nil is nothing.
	Release func()

	start, end, offered int64 // instants
	legs                [NumRoles]leg
	places              []*lane
	onePlace            [1]*lane // backs places of a copy of one user
	undecided           int      // legs that are pending
	aging               element[*Copy]
	nextFreed           *Copy
}

// phase is how far a copy has got on one role.
type phase uint8

const (
	absent    phase = iota // not offered
	waiting                // behind others of its lanes
	ready                  // heads all its lanes
	taken                  // with the sender, which has written nothing
	cancelled              // dropped while the sender has it
	sent                   // the sender has begun
	overdue                // sent, and no longer waited for
	ended                  // nobody needs it on this role
)

func (p phase) pending() bool { return p == waiting || p == ready || p == taken }

// leg is a copy on its way to one role.
type leg struct {
	copy     *Copy
	role     Role
	phase    phase
	holds    bool          // successors wait for it
	blockers int           // how often a predecessor that holds stands before it in a lane
	since    int64         // when it became ready, or was sent
	queued   element[*leg] // in ready or in flight
}

// lane is the copies of one user that hold their place on some role.
type lane struct {
	id     uint64
	copies []*Copy
}

// precedes reports whether c must be answered before d is sent: it ended on
// live before d began. What overlapped on live has no order to keep. The
// relation has no cycles, whatever lanes two copies share and in whatever
// order they are offered: it only leads from an earlier end to a later one.
func (c *Copy) precedes(d *Copy) bool {
	return c.end <= d.start && (c.end < d.end || c.start < d.start)
}
