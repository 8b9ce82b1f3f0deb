package engine

import (
	"math"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/transport"
)

// Shed says why a planned call was not made. It is a closed set.
type Shed uint8

// The reasons.
const (
	ShedInFlight     Shed = iota // MaxInFlight calls were under way
	ShedNoConnection             // it waited for a connection until it timed out
	ShedEnd                      // it waited for a connection when the drain ended
	Sheds                        // how many there are
)

var shedNames = [Sheds]string{"in_flight", "no_connection", "end"}

// String returns the name used in results and metrics.
func (s Shed) String() string { return shedNames[s] }

// Tally is what one operation's calls in one phase came to.
//
// Planned calls were due. Of them, Sent() were made: a byte was written, or a
// connection tried. Each of these is in Ended under its class, or InFlight.
type Tally struct {
	Planned  uint64
	Ended    [transport.Classes]uint64
	Codes    map[int]uint64 // by HTTP or gRPC status; 0 is gRPC's OK
	Shed     [Sheds]uint64
	InFlight uint64 // still under way when the drain ended
	Received int64  // bytes of answers' bodies

	Response Dist // from intended
	Service  Dist // from sent
	Lag      hist.Hist
	Pacing   hist.Hist // how late calls were handed to the driver: the generator's own part of Lag
	Delivery hist.Hist // from when something was sent to when a stream of this operation told of it
}

// Sent is how many calls were made.
func (t *Tally) Sent() uint64 {
	n := t.InFlight
	for _, e := range t.Ended {
		n += e
	}
	return n
}

// Dropped is how many calls were shed.
func (t *Tally) Dropped() uint64 {
	var n uint64
	for _, s := range t.Shed {
		n += s
	}
	return n
}

// end counts a call that ended, for better or worse.
func (t *Tally) end(c *transport.Call) {
	t.Ended[c.Class]++
	t.Received += c.Received
	if c.Class.Answered() {
		if t.Codes == nil {
			t.Codes = map[int]uint64{}
		}
		t.Codes[c.Code]++
	}
	t.record(c, c.Class.Answered())
}

// abandon counts a call that has not ended.
func (t *Tally) abandon(c *transport.Call) {
	t.InFlight++
	t.record(c, false)
}

func (t *Tally) record(c *transport.Call, answered bool) {
	t.Response.record(c.Done-c.Intended, answered)
	if c.Sent >= 0 {
		t.Service.record(c.Done-c.Sent, answered)
		t.Lag.Record(c.Sent - c.Intended)
	}
}

// Merge adds o to t without loss.
func (t *Tally) Merge(o *Tally) {
	t.Planned += o.Planned
	t.InFlight += o.InFlight
	t.Received += o.Received
	for i, n := range o.Ended {
		t.Ended[i] += n
	}
	for i, n := range o.Shed {
		t.Shed[i] += n
	}
	for code, n := range o.Codes {
		if t.Codes == nil {
			t.Codes = map[int]uint64{}
		}
		t.Codes[code] += n
	}
	t.Response.Merge(&o.Response)
	t.Service.Merge(&o.Service)
	t.Lag.Merge(&o.Lag)
	t.Pacing.Merge(&o.Pacing)
	t.Delivery.Merge(&o.Delivery)
}

// Dist is a distribution of times of which some are known only as lower bounds:
// Exact holds those of calls that were answered; Censored the ages of the others
// when they were given up, which their times, had they been waited for, would
// have exceeded.
//
// A quantile of it lies between two: the one that counts every censored time as
// its age, and the one that counts them as endless. Where both are the same, the
// quantile is known exactly; where they differ, the first is reported, as a
// lower bound. So one call given up in a million leaves the median exact, and a
// stall that outlasts the run still shows as "p99 ≥ its length". Merging keeps
// both parts, so the rule holds for merged results too.
type Dist struct{ Exact, Censored hist.Hist }

func (d *Dist) record(t time.Duration, exact bool) {
	if exact {
		d.Exact.Record(t)
	} else {
		d.Censored.Record(t)
	}
}

// Merge adds o to d without loss.
func (d *Dist) Merge(o *Dist) {
	d.Exact.Merge(&o.Exact)
	d.Censored.Merge(&o.Censored)
}

// Value is a time, or a lower bound of it.
type Value struct {
	Time     time.Duration
	Censored bool // the true value is at least Time
}

// Quantiles returns the quantiles of d by nearest rank.
func (d *Dist) Quantiles(qs ...float64) []Value {
	all := d.all()
	vs := make([]Value, len(qs))
	for i, q := range qs {
		vs[i].Time = all.Quantile(q)
		rank := max(1, int64(math.Ceil(q*float64(all.Count()))))
		n := d.Exact.Count()
		vs[i].Censored = d.Censored.Count() > 0 && (rank > n || d.Exact.Quantile((float64(rank)-0.5)/float64(n)) > vs[i].Time)
	}
	return vs
}

// Mean returns the mean of d, a lower bound if anything is censored.
func (d *Dist) Mean() Value {
	return Value{d.all().Mean(), d.Censored.Count() > 0}
}

// Max returns the largest of d, a lower bound if anything is censored.
func (d *Dist) Max() Value {
	return Value{d.all().Max(), d.Censored.Count() > 0}
}

func (d *Dist) all() *hist.Hist {
	all := hist.New()
	all.Merge(&d.Exact)
	all.Merge(&d.Censored)
	return all
}
