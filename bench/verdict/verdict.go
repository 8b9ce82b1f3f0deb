// Package verdict measures what it costs to judge: mirrors that are made up feed a
// served verdict over loopback, and the kernel says what that took. bench/RESULTS.md
// keeps its last run.
package verdict

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/hist"
	"darklaunch/internal/pairstream"
)

// Load is what mirrors send.
type Load struct {
	Mirrors, Routes int
	// Pairs is how many unequal ones a second, of all mirrors together, and PairBytes
	// about how large each is.
	Pairs, PairBytes int
	// Calls is how many pairs a window counts on a route.
	Calls int
}

// Sent is what was sent.
type Sent struct{ Windows, Pairs, Bytes uint64 }

// Feed sends load to a verdict at addr for so long, each mirror over a connection of
// its own. Records are made beforehand, so that making them is not what is measured.
func Feed(ctx context.Context, addr string, load Load, length time.Duration) (Sent, error) {
	var mu sync.Mutex
	var total Sent
	var failed error
	var wg sync.WaitGroup
	windows, pairs := load.windows(), load.pairs()
	for i := range load.Mirrors {
		wg.Go(func() {
			s, err := feed(ctx, addr, fmt.Sprint("mirror", i), load, windows, pairs, length)
			mu.Lock()
			defer mu.Unlock()
			total.Windows, total.Pairs, total.Bytes = total.Windows+s.Windows, total.Pairs+s.Pairs, total.Bytes+s.Bytes
			if failed == nil {
				failed = err
			}
		})
	}
	wg.Wait()
	return total, failed
}

// roles are those of a window's latencies.
var roles = []pairv1.Role{pairv1.Role_ROLE_LIVE, pairv1.Role_ROLE_CONTROL, pairv1.Role_ROLE_SHADOW}

// windows returns some windows without their times.
func (l Load) windows() (all [][]byte) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 4 {
		w := &pairv1.Window{Sending: true, Sampling: true}
		for route := range l.Routes {
			rw := &pairv1.RouteWindow{
				Route: routeName(route), Shadow: &pairv1.Outcomes{BothOk: uint64(l.Calls)}, Control: &pairv1.Outcomes{BothOk: uint64(l.Calls)},
				Differences: &pairv1.Differences{Same: uint64(l.Calls)},
			}
			for _, role := range roles {
				h := latencies(r, l.Calls)
				rw.Pairs = append(rw.Pairs, &pairv1.RoleLatency{Role: role, Durations: pairstream.Histogram(h)})
			}
			rw.Live = []*pairv1.LiveTraffic{{Sampled: true, Sending: true, Durations: rw.Pairs[0].Durations, Requests: uint64(l.Calls)}}
			w.Routes = append(w.Routes, rw)
		}
		b, err := proto.Marshal(w)
		if err != nil {
			panic(err) // of what we made
		}
		all = append(all, b)
	}
	return all
}

func routeName(i int) string { return fmt.Sprintf("GET /route/%d/{}", i) }

func latencies(r *rand.Rand, n int) *hist.Hist {
	h := hist.New()
	for range n {
		h.Record(time.Duration(20e6 * math.Exp(0.4*r.NormFloat64())))
	}
	return h
}

// pairs returns some unequal pairs.
func (l Load) pairs() (all [][]byte) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 512 {
		p := &pairv1.Pair{
			Reason: pairv1.Reason_REASON_UNEQUAL, Route: routeName(r.IntN(l.Routes)), Id: make([]byte, 16), KeyHash: r.Uint64() | 1, StandsFor: 1,
		}
		wrong := r.IntN(3)
		for _, role := range roles {
			body := document(r, l.PairBytes*3/4/len(roles), wrong, role)
			side := &pairv1.Side{Role: role, Clean: true, SendTime: time.Now().UnixNano(), Exchanges: []*pairv1.Exchange{{
				Answer: &pairv1.Answer{Status: 200, Header: []*pairv1.Field{{Name: "content-type", Value: "application/json"}, {Name: "date", Value: "~s:29:time:00112233445566ff", Digest: true}},
					Body: &pairv1.Body{Size: int64(len(body)), Hash: []byte(role.String()), Format: pairv1.Format_FORMAT_JSON, Content: []byte(body)}},
				Duration: 20e6, FirstByte: 19e6,
			}}}
			if role == pairv1.Role_ROLE_LIVE {
				side.Exchanges[0].Request = &pairv1.Request{Method: "GET", Path: p.Route, Header: []*pairv1.Field{{Name: "x-user", Value: "~s:4:word:0011223344556677", Digest: true}}}
			}
			p.Sides = append(p.Sides, side)
		}
		b, err := proto.Marshal(p)
		if err != nil {
			panic(err) // of what we made
		}
		all = append(all, b)
	}
	return all
}

// document is JSON of about n bytes as a record has it, in which one field differs
// on shadow and another, a time, on all.
func document(r *rand.Rand, n, wrong int, role pairv1.Role) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"at":"~s:20:time:%016x","items":[`, r.Uint64())
	for i := 0; b.Len() < n; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		value := [3]int{i, i, i}
		if role == pairv1.Role_ROLE_SHADOW {
			value[wrong]++
		}
		fmt.Fprintf(&b, `{"id":"~n:4:int:%016x","price":"~n:2:int:%016x","name":"~s:9:word:%016x"}`, value[0], value[1], value[2])
	}
	b.WriteString("]}")
	return b.String()
}

// framed appends a record of that kind, its sequence and its message, to b.
func framed(b []byte, sequence uint64, field protowire.Number, message []byte) []byte {
	size := protowire.SizeTag(1) + protowire.SizeVarint(sequence) + protowire.SizeTag(field) + protowire.SizeBytes(len(message))
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendVarint(protowire.AppendTag(b, 1, protowire.VarintType), sequence)
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), message)
}

func feed(ctx context.Context, addr, id string, load Load, windows, pairs [][]byte, length time.Duration) (s Sent, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	salt := sha256.Sum256([]byte("bench"))
	hello, err := pairstream.Append([]byte(pairstream.Magic), &pairv1.Record{Kind: &pairv1.Record_Header{Header: &pairv1.Header{
		MirrorId: id, Experiment: "bench", SaltHash: salt[:], StartTime: time.Now().UnixNano(), Roles: roles[1:],
	}}})
	if err != nil {
		return s, err
	}
	if _, err := conn.Write(hello); err != nil {
		return s, err
	}
	// A tenth of a second's pairs at a time, and a window each second.
	const steps = 10
	var sequence, owed uint64
	start := time.Now()
	var b []byte
	for step := 1; ; step++ {
		b = b[:0]
		owed += uint64(load.Pairs)
		for n := owed / uint64(steps*load.Mirrors); n > 0; n-- {
			owed -= uint64(steps * load.Mirrors)
			sequence++
			b = framed(b, sequence, 4, pairs[int(sequence)%len(pairs)])
			s.Pairs++
		}
		if step%steps == 0 {
			sequence++
			begin := start.Add(time.Duration(step/steps-1) * time.Second)
			w := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(begin.UnixNano()))
			w = protowire.AppendVarint(protowire.AppendTag(w, 2, protowire.VarintType), uint64(time.Second))
			b = framed(b, sequence, 3, append(w, windows[int(s.Windows)%len(windows)]...))
			s.Windows++
		}
		if _, err := conn.Write(b); err != nil {
			return s, err
		}
		s.Bytes += uint64(len(b))
		next := start.Add(time.Duration(step) * time.Second / steps)
		if next.Sub(start) >= length {
			return s, nil
		}
		t := time.NewTimer(time.Until(next))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return s, ctx.Err()
		}
	}
}
