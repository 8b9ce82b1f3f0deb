package pairs

import (
	"bytes"
	"encoding/hex"
	"errors"
	"iter"
	"time"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/observe"
	"darklaunch/mirror/shadow"
)

// told is what a pair says.
type told struct {
	complete   bool // all roles have it, and none stopped within it
	judged     bool // it is evidence
	unknownIDs bool // it can't be compared
	apart      bool // its latencies can't be
	roles      [lanes.NumRoles]bool
	failed     [lanes.NumRoles]bool
	differs    [lanes.NumRoles]bool
	took       [lanes.NumRoles]time.Duration // negative without an answer
	timeout    [lanes.NumRoles]bool
	liveFailed bool
	liveTook   time.Duration
	of         *Pair
}

// traces are the ids of the traces that each side of the pair is of, live's and that
// of its copies, which is named by the pair; empty if live's is not kept, or is none
// (W3C Trace Context, section 3.2).
func (t *told) traces() (live, copies string) {
	v, _ := t.of.Live.Request.Header.Get("traceparent")
	if len(v) < 55 || string(v[53:55]) != "01" {
		return "", ""
	}
	if _, err := hex.DecodeString(string(v[3:35])); err != nil {
		return "", ""
	}
	return string(v[3:35]), hex.EncodeToString(t.of.ID[:])
}

// evidence reports whether the pair tells something of the roles.
func (t *told) evidence() bool { return t.complete && t.judged && !t.unknownIDs }

// equal reports whether all answers are live's.
func (t *told) equal() bool { return t.differs == [lanes.NumRoles]bool{} }

// tell reads what a pair says.
func (p *Pair) tell() told {
	t := told{complete: p.Live.Outcome == observe.Complete, judged: true, roles: p.Roles, of: p}
	if !t.complete {
		return t
	}
	t.liveFailed = LiveFailed(p.Live)
	t.liveTook = liveTook(p.Live)
	var sent [lanes.NumRoles + 1]time.Time
	sent[lanes.NumRoles] = p.Live.Answer.Last
	for role, in := range p.Roles {
		if !in {
			continue
		}
		s := &p.sides[role]
		if s.outcome == nil || s.outcome.Stopped || len(s.outcome.Answers) == 0 {
			t.complete = false
			return t
		}
		t.judged = t.judged && s.judged
		t.unknownIDs = t.unknownIDs || s.unknownIDs
		answers := s.outcome.Answers
		last := answers[len(answers)-1]
		sent[role] = answers[0].Sent
		t.failed[role] = answerFailed(last)
		t.took[role] = -1
		if last.Err == nil {
			t.took[role] = last.Last.Sub(answers[0].Sent)
		}
		t.timeout[role] = errors.Is(last.Err, shadow.ErrTimeout)
		t.differs[role] = !p.Route.cfg.Elsewhere && !p.Route.equal(p.Live, last)
	}
	t.apart = apart(sent[:])
	return t
}

// apart reports whether times span more than maxApart; zero ones are none.
func apart(times []time.Time) bool {
	for _, a := range times {
		for _, b := range times {
			if !a.IsZero() && !b.IsZero() && b.Sub(a) > maxApart {
				return true
			}
		}
	}
	return false
}

// liveTook is from when live had the whole request to the last byte of its
// answer: a copy is sent at one go, so a client's slow upload is no part of it.
func liveTook(x *observe.Exchange) time.Duration {
	from := x.Request.Last
	if from.After(x.Answer.First) { // it answered while the request was still coming
		from = x.Request.First
	}
	return x.Answer.Last.Sub(from)
}

// LiveFailed reports whether live failed an exchange that it answered.
func LiveFailed(x *observe.Exchange) bool {
	if x.GRPC() {
		code, _, ok := x.GRPCStatus()
		return !ok || failedCode(code)
	}
	return x.Status >= 500
}

func answerFailed(a *shadow.Answer) bool {
	switch {
	case a.Err != nil:
		return true
	case a.GRPC >= 0:
		return failedCode(a.GRPC)
	}
	return a.Status >= 500
}

// failedCode reports whether a gRPC status is the server's fault: those that
// google.rpc.Code maps to a status of 5xx.
func failedCode(code int) bool {
	switch code {
	case 2, 4, 12, 13, 14, 15: // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
		return true
	}
	return code > 16
}

// section is the fields of a header or trailer.
type section interface {
	All() iter.Seq2[[]byte, []byte]
	Len() int
}

// equal reports whether an answer is live's: status, body, trailers, and the
// headers that the route names. Bodies are compared by length and 128-bit hash.
func (r *Route) equal(x *observe.Exchange, a *shadow.Answer) bool {
	if a.Err != nil || a.Status != x.Status || a.Size != x.Answer.Body.Size || a.Hash != x.Answer.Body.Hash {
		return false
	}
	for _, name := range r.headers {
		if !sameField(&x.Answer.Header, &a.Header, name) {
			return false
		}
	}
	return sameSection(&x.Answer.Trailer, &a.Trailer)
}

// sameField reports whether the values of name, which is in lower case, are the
// same and in the same order.
func sameField(a, b section, name []byte) bool {
	n := 0
	for {
		v, ok := nth(a, name, n)
		w, also := nth(b, name, n)
		if !ok || !also {
			return ok == also
		}
		if !bytes.Equal(v, w) {
			return false
		}
		n++
	}
}

// nth returns the nth value of name. It tells the two kinds of sections apart
// for the compiler, which then allocates nothing.
func nth(s section, name []byte, n int) (value []byte, ok bool) {
	switch s := s.(type) {
	case *observe.Fields:
		for k, v := range s.All() {
			if n, ok = match(k, name, n); ok {
				return v, true
			}
		}
	case *shadow.Fields:
		for k, v := range s.All() {
			if n, ok = match(k, name, n); ok {
				return v, true
			}
		}
	}
	return nil, false
}

// match reports whether name is k and n is 0, and counts n down otherwise.
func match(k, name []byte, n int) (int, bool) {
	if len(k) != len(name) || !bytes.EqualFold(k, name) {
		return n, false
	}
	return n - 1, n == 0
}

// sameSection reports whether two trailers have the same fields; the order of
// those with different names says nothing.
func sameSection(a, b section) bool {
	if a.Len() != b.Len() || a.Len() == 0 {
		return a.Len() == b.Len()
	}
	for name := range a.All() {
		if !sameField(a, b, name) {
			return false
		}
	}
	return true
}
