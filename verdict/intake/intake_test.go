package intake

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/encoding/protowire"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/memnet"
	"darklaunch/internal/pairstream"
)

// rig is an intake with somebody who takes its events.
type rig struct {
	*Intake
	t       *testing.T
	network *memnet.Network
	addr    string
	refuse  error // what Began is answered with
	hold    chan struct{}

	mu   sync.Mutex // guards the rest
	seen []string   // what events said
}

// newRig must be called in a bubble; what it returns ends all.
func newRig(t *testing.T, cfg Config) (*rig, func()) {
	t.Helper()
	r := &rig{Intake: New(cfg, prometheus.NewRegistry()), t: t, network: new(memnet.Network)}
	l, err := r.network.Host("verdict").Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	var serving, taking sync.WaitGroup
	done := make(chan struct{})
	taking.Go(func() {
		for {
			select {
			case e := <-r.Events():
				r.take(e)
			case <-done:
				return
			}
		}
	})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { r.Serve(ctx, conn, bufio.NewReader(conn)) })
		}
	})
	return r, func() {
		stop()
		l.Close()
		serving.Wait()
		close(done)
		taking.Wait()
	}
}

func (r *rig) take(e Event) {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer e.Done()
	switch e.Kind {
	case Began:
		r.seen = append(r.seen, e.Mirror+" began")
		e.Reply(r.refuse)
	case Window:
		r.seen = append(r.seen, fmt.Sprintf("%s window %d", e.Mirror, e.Sequence))
	case Pairs:
		for _, p := range e.Pairs {
			r.seen = append(r.seen, fmt.Sprintf("%s pair %d", e.Mirror, p.Sequence))
		}
	case Shed:
		r.seen = append(r.seen, fmt.Sprintf("%s shed %d to %d", e.Mirror, e.N, e.Sequence))
	case Ended:
		r.seen = append(r.seen, e.Mirror+" ended")
	}
}

func (r *rig) saw() []string {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.seen)
}

// send opens a stream and writes data to it; the caller closes it.
func (r *rig) send(data []byte) net.Conn {
	r.t.Helper()
	conn, err := r.network.Host("mirror").Dial(context.Background(), "tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := conn.Write(data); err != nil {
		r.t.Fatal(err)
	}
	return conn
}

func hello(mirror string) *pairv1.Record {
	return &pairv1.Record{Kind: &pairv1.Record_Header{Header: &pairv1.Header{MirrorId: mirror, SaltHash: []byte("salt")}}}
}

func window(n uint64) *pairv1.Record {
	return &pairv1.Record{Sequence: n, Kind: &pairv1.Record_Window{Window: &pairv1.Window{Length: int64(time.Second)}}}
}

func pair(n uint64, body int) *pairv1.Record {
	return &pairv1.Record{Sequence: n, Kind: &pairv1.Record_Pair{Pair: &pairv1.Pair{Route: "/x", Sides: []*pairv1.Side{
		{Role: pairv1.Role_ROLE_LIVE, Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Body: &pairv1.Body{Content: make([]byte, body)}}}}},
		{Role: pairv1.Role_ROLE_SHADOW},
	}}}}
}

func streamOf(t testing.TB, records ...*pairv1.Record) []byte {
	t.Helper()
	b := []byte(pairstream.Magic)
	for _, r := range records {
		var err error
		if b, err = pairstream.Append(b, r); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func raw(b []byte, records ...byte) []byte {
	return append(protowire.AppendVarint(slices.Clone(b), uint64(len(records))), records...)
}

// TestTakes holds that what a stream says comes in its order, and that its end is told.
func TestTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{})
		defer end()
		conn := r.send(streamOf(t, hello("m"), pair(1, 10), window(2), pair(3, 10), pair(4, 10)))
		want := []string{"m began", "m pair 1", "m window 2", "m pair 3", "m pair 4"}
		if diff := cmp.Diff(want, r.saw()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		conn.Close()
		if diff := cmp.Diff(append(want, "m ended"), r.saw()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := testutil.ToFloat64(r.metrics.cut.WithLabelValues(cutBroken)); got != 0 {
			t.Errorf("got %v streams cut off, want none", got)
		}
	})
}

// TestCutsOff holds that each kind of stream that is not what it should be is cut off,
// for the right reason, and that an honest one beside it is not.
func TestCutsOff(t *testing.T) {
	good := streamOf(t, hello("bad"))
	bad := func(change func(*pairv1.Header)) []byte {
		h := hello("bad")
		change(h.GetHeader())
		return streamOf(t, h)
	}
	badWindow := func(change func(*pairv1.Window)) []byte {
		w := window(1)
		change(w.GetWindow())
		return streamOf(t, hello("bad"), w)
	}
	badPair := func(change func(*pairv1.Pair)) []byte {
		p := pair(1, 1)
		change(p.GetPair())
		return streamOf(t, hello("bad"), p)
	}
	for _, tt := range []struct {
		name, reason string
		data         []byte
		wait         time.Duration
	}{
		{"no magic", cutFormat, []byte("GET / HTTP/1.1\r\n\r\n"), 0},
		{"no header", cutFormat, streamOf(t, window(1)), 0},
		{"two headers", cutFormat, streamOf(t, hello("bad"), hello("bad")), 0},
		{"no mirror", cutFormat, bad(func(h *pairv1.Header) { h.MirrorId = "" }), 0},
		{"no salt", cutFormat, bad(func(h *pairv1.Header) { h.SaltHash = nil }), 0},
		{"a long name", cutFormat, bad(func(h *pairv1.Header) { h.Experiment = string(make([]byte, 300)) }), 0},
		{"many routes", cutFormat, bad(func(h *pairv1.Header) { h.Routes = make([]*pairv1.Route, 5000) }), 0},
		{"no message", cutFormat, raw(good, 0x1a, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80), 0},
		{"a message that is none", cutFormat, raw(good, 0x1a, 2, 0x0f, 0x0f), 0},
		{"an endless window", cutFormat, badWindow(func(w *pairv1.Window) { w.Length = int64(24 * time.Hour) }), 0},
		{"a bucket that there is not", cutFormat, badWindow(func(w *pairv1.Window) {
			w.Routes = []*pairv1.RouteWindow{{Pairs: []*pairv1.RoleLatency{{Durations: &pairv1.Histogram{Steps: []uint32{1 << 30}, Counts: []uint64{1}}}}}}
		}), 0},
		{"more than can be true", cutFormat, badWindow(func(w *pairv1.Window) {
			w.Routes = []*pairv1.RouteWindow{{Shadow: &pairv1.Outcomes{BothOk: 1 << 60}}}
		}), 0},
		{"a pair without live", cutFormat, badPair(func(p *pairv1.Pair) { p.Sides = p.Sides[1:] }), 0},
		{"a role twice", cutFormat, badPair(func(p *pairv1.Pair) { p.Sides = append(p.Sides, p.Sides[1]) }), 0},
		{"announces too much", cutLarge, protowire.AppendVarint(slices.Clone(good), pairstream.MaxRecord+1), 0},
		{"says nothing", cutSilent, nil, time.Minute},
		{"stops", cutSilent, good, time.Minute},
		{"stops within a record", cutSilent, append(slices.Clone(good), 100, 1, 2), time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, end := newRig(t, Config{})
				defer end()
				conn := r.send(tt.data)
				defer conn.Close()
				time.Sleep(tt.wait)
				r.saw()
				if got := testutil.ToFloat64(r.metrics.cut.WithLabelValues(tt.reason)); got != 1 {
					t.Errorf("got %v streams cut off as %s, want one", got, tt.reason)
				}
				if _, err := conn.Read(make([]byte, 1)); err == nil {
					t.Error("the connection is still open")
				}
				honest := r.send(streamOf(t, hello("good"), window(1)))
				defer honest.Close()
				if saw := r.saw(); !slices.Contains(saw, "good window 1") {
					t.Errorf("got %q, want the honest one heard", saw)
				}
			})
		})
	}
}

// TestRefuses one too many, one without the token, and one whose taker says no.
func TestRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{MaxStreams: 2, Token: "secret"})
		defer end()
		cut := func(reason string, want float64) {
			t.Helper()
			synctest.Wait()
			if got := testutil.ToFloat64(r.metrics.cut.WithLabelValues(reason)); got != want {
				t.Errorf("got %v streams cut off as %s, want %v", got, reason, want)
			}
		}
		defer r.send(streamOf(t, hello("a"))).Close()
		cut(cutToken, 1)
		token := pairstream.AppendToken(nil, "secret")
		for _, id := range []string{"a", "b"} {
			defer r.send(append(slices.Clone(token), streamOf(t, hello(id))...)).Close()
		}
		synctest.Wait()
		defer r.send(append(slices.Clone(token), streamOf(t, hello("c"))...)).Close()
		cut(cutMany, 1)
	})
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{})
		defer end()
		r.refuse = errors.New("no")
		conn := r.send(streamOf(t, hello("a"), window(1)))
		defer conn.Close()
		if diff := cmp.Diff([]string{"a began"}, r.saw()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := testutil.ToFloat64(r.metrics.cut.WithLabelValues(cutRefused)); got != 1 {
			t.Errorf("got %v streams cut off as %s, want one", got, cutRefused)
		}
	})
}

// TestReplaces holds that a mirror which connects again, before its old connection is
// known to be dead, is heard, and that the order of events is kept.
func TestReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{})
		defer end()
		old := r.send(streamOf(t, hello("m"), window(1)))
		defer old.Close()
		r.saw()
		again := r.send(streamOf(t, hello("m"), window(2)))
		defer again.Close()
		want := []string{"m began", "m window 1", "m ended", "m began", "m window 2"}
		if diff := cmp.Diff(want, r.saw()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := testutil.ToFloat64(r.metrics.cut.WithLabelValues(cutReplaced)); got != 1 {
			t.Errorf("got %v streams replaced, want one", got)
		}
	})
}

// TestSheds holds that pairs beyond what is allowed in a second are shed, and told in
// their place, and that windows are not.
func TestSheds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{MaxPairs: 2})
		defer end()
		conn := r.send(streamOf(t, hello("m"), pair(1, 1), pair(2, 1), pair(3, 1), pair(4, 1), window(5)))
		defer conn.Close()
		r.saw()
		time.Sleep(time.Second)
		if _, err := conn.Write(streamOf(t, pair(6, 1))[len(pairstream.Magic):]); err != nil {
			t.Fatal(err)
		}
		want := []string{"m began", "m pair 1", "m pair 2", "m shed 2 to 4", "m window 5", "m pair 6"}
		if diff := cmp.Diff(want, r.saw()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got := testutil.ToFloat64(r.metrics.shed.WithLabelValues(shedRate)); got != 2 {
			t.Errorf("got %v shed, want 2", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{Full: func() bool { return true }})
		defer end()
		defer r.send(streamOf(t, hello("m"), pair(1, 1), window(2))).Close()
		if diff := cmp.Diff([]string{"m began", "m shed 1 to 1", "m window 2"}, r.saw()); diff != "" {
			t.Errorf("without memory (-want +got):\n%s", diff)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{MaxPairBytes: 64 << 20})
		defer end()
		conn := r.send(nil)
		defer conn.Close()
		data := streamOf(t, hello("m"), pair(1, 3<<20), window(2))
		go conn.Write(data)
		if diff := cmp.Diff([]string{"m began", "m shed 1 to 1", "m window 2"}, r.saw()); diff != "" {
			t.Errorf("a large one (-want +got):\n%s", diff)
		}
	})
}

// TestSlowTaker holds that a taker who is behind for long costs pairs, and that
// windows wait.
func TestSlowTaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{})
		r.hold = make(chan struct{})
		records := []*pairv1.Record{hello("m")}
		const windows, pairs = 2 * queue, 4 * mostPairs
		n := uint64(0)
		for range pairs {
			n++
			records = append(records, pair(n, 1))
		}
		conn := r.send(nil)
		defer conn.Close()
		data := streamOf(t, records...)
		go conn.Write(data)
		time.Sleep(10 * patience)
		close(r.hold)
		time.Sleep(10 * patience)
		count := func(what string) (n int) {
			for _, s := range r.saw() {
				if strings.HasPrefix(s, "m "+what) {
					n++
				}
			}
			return n
		}
		if got := count("pair"); got != pairs {
			t.Errorf("got %d pairs, want all %d: the queue has room for them", got, pairs)
		}
		r.hold = make(chan struct{})
		records = records[:0]
		for range windows {
			n++
			records = append(records, window(n))
		}
		for range pairs {
			n++
			records = append(records, pair(n, 1))
		}
		records = append(records, window(n+1))
		data = streamOf(t, records...)[len(pairstream.Magic):]
		go conn.Write(data)
		go func() {
			time.Sleep(3 * r.cfg.Silence)
			close(r.hold)
		}()
		time.Sleep(4 * r.cfg.Silence)
		if got := count("window"); got != windows+1 {
			t.Errorf("got %d windows, want all %d", got, windows+1)
		}
		end()
	})
}

// TestSheddingQueue holds that pairs are shed while the queue is full of others' events.
func TestSheddingQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, end := newRig(t, Config{})
		r.hold = make(chan struct{})
		conn := r.send(streamOf(t, hello("m")))
		defer conn.Close()
		r.hold <- struct{}{} // it began
		synctest.Wait()
		for range queue + 1 { // one is being taken
			r.events <- Event{Kind: Ended, Mirror: "other"}
		}
		var records []*pairv1.Record
		for n := range uint64(3 * mostPairs) {
			records = append(records, pair(n+1, 1))
		}
		if _, err := conn.Write(streamOf(t, records...)[len(pairstream.Magic):]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if got := testutil.ToFloat64(r.metrics.shed.WithLabelValues(shedQueue)); got == 0 || got > 2*mostPairs {
			t.Errorf("got %v shed, want some of the %d that there was no room for", got, 2*mostPairs)
		}
		close(r.hold)
		r.saw()
		end()
	})
}
