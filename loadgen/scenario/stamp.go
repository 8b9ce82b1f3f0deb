package scenario

import (
	"bytes"
	"strconv"
	"time"

	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/population"
	"darklaunch/loadgen/transport"
)

// A stamp is the beginning of a text by which whoever sees the text on a stream
// knows when it was due to be sent, on the clock of the run, and by whom:
//
//	~RUN.USER.TIME and a space
//
// USER and TIME, of ns, are numbers to the base 36. RUN keeps runs apart; it is
// the same for all workers of one, so that each reads the others' stamps.

// stampOf is the beginning of the stamps of runs with this seed.
func (s *Scenario) stampOf(seed uint64) string {
	h := seed
	for _, c := range []byte(s.digest) {
		h = draw.Hash(h, draw.Streams, uint64(c), 0)
	}
	return "~" + strconv.FormatUint(h%(36*36*36), 36) + "."
}

// appendStamped appends a text as long as the draft says that begins with a
// stamp, or one without where the stamp would make it longer.
func appendStamped(dst []byte, e *env) []byte {
	start := len(dst)
	dst = append(dst, e.run.stamp...)
	dst = strconv.AppendUint(dst, uint64(e.v.User), 36)
	dst = append(dst, '.')
	dst = strconv.AppendInt(dst, int64(e.due), 36)
	dst = append(dst, ' ')
	if left := e.draft.Body - (len(dst) - start); left >= 0 {
		return population.AppendText(dst, left, e.rand.Rand)
	}
	return population.AppendText(dst[:start], e.draft.Body, e.rand.Rand)
}

// readStamp returns what the stamp of text says; false if it has none of this run.
func (r *run) readStamp(text string) (population.User, time.Duration, bool) {
	stamp, _, ok := bytes.Cut([]byte(text), []byte(" "))
	rest, ours := bytes.CutPrefix(stamp, []byte(r.stamp))
	user, at, both := bytes.Cut(rest, []byte("."))
	if !ok || !ours || !both {
		return 0, 0, false
	}
	u, err := strconv.ParseUint(string(user), 36, 64)
	if err != nil {
		return 0, 0, false
	}
	ns, err := strconv.ParseInt(string(at), 36, 64)
	return population.User(u), time.Duration(ns), err == nil && ns >= 0
}

// delivered reads when that of which a stream's message tells was sent. What comes
// back to who sent it took no part of the way, and does not count.
func (s *Scenario) delivered(r *run) func(*transport.Call, []byte) (time.Duration, bool) {
	return func(c *transport.Call, msg []byte) (time.Duration, bool) {
		for _, x := range s.streams {
			if x.op != c.Op || x.told == nil {
				continue
			}
			for _, text := range x.told.find(msg) {
				if user, at, ok := r.readStamp(text); ok && uint64(user) != c.User {
					return at, true
				}
			}
		}
		return 0, false
	}
}
