package mirror

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"darklaunch/mirror/lanes"
)

// traffic is users who ask live for as long as it runs, and want each answer.
type traffic struct {
	stop     atomic.Bool
	wg       sync.WaitGroup
	done     atomic.Int64
	failures atomic.Int64
}

// start begins traffic by n connections.
func (r *rig) start(n int) *traffic {
	tr := &traffic{}
	for i, c := range clients(n, false) {
		tr.wg.Go(func() {
			defer c.CloseIdleConnections()
			for seq := 0; !tr.stop.Load(); seq++ {
				if err := step(c, r.addr(0), user(i*1000+seq%50), seq, false); err != nil {
					r.t.Logf("live: %v", err)
					tr.failures.Add(1)
				}
				tr.done.Add(1)
			}
		})
	}
	return tr
}

// end stops the traffic, of which nothing may have failed.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.stop.Store(true)
	tr.wg.Wait()
	if n := tr.failures.Load(); n > 0 {
		t.Errorf("got %d live failures of %d, want none", n, tr.done.Load())
	}
}

// more waits until n more exchanges have ended.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	from := tr.done.Load()
	waitFor(t, "traffic", func() bool { return tr.done.Load() >= from+n })
}

// TestKill switches off under load by each of the ways there are: once it has
// returned nothing is sent any more, and live has not noticed.
func TestKill(t *testing.T) {
	file := t.TempDir() + "/off"
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true, KillFile: file}, live, shadow)
	tr := r.start(8)
	defer tr.end(t)
	for name, kill := range map[string]func(){
		"call": r.Kill,
		"API": func() {
			w := httptest.NewRecorder()
			r.Handlers()["POST /api/v1/kill"].ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/kill", nil))
			if want := `{"enabled":false,"off":"killed"}`; strings.TrimSpace(w.Body.String()) != want {
				t.Errorf("got %s, want %s", w.Body, want)
			}
		},
		"file": func() {
			put(t, file)
			waitFor(t, "the file to be seen", func() bool { return !r.Status().Enabled })
		},
	} {
		sent := r.lanes.Snapshot().Sent[lanes.Shadow]
		waitFor(t, "copies to be sent", func() bool { return r.lanes.Snapshot().Sent[lanes.Shadow] > sent+50 })
		kill()
		sent = r.lanes.Snapshot().Sent[lanes.Shadow]
		tr.more(t, 200)
		if s := r.lanes.Snapshot(); s.Sent[lanes.Shadow] != sent || s.Off != lanes.Killed {
			t.Errorf("%s: %d were sent afterwards, off for %v", name, s.Sent[lanes.Shadow]-sent, s.Off)
		}
		if name == "file" {
			if err := r.Resume(); err == nil {
				t.Error("resumed in spite of the kill file")
			}
			remove(t, file)
			waitFor(t, "the file to be gone", func() bool { return r.Status().Enabled })
			continue
		}
		if err := r.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.lanes.Snapshot().Tainted[lanes.Shadow]; n == 0 {
		t.Error("got no tainted user, want those whose copies were killed")
	}
}

// TestPanics lets each stage panic a thousand times: each is counted and
// switches mirroring off, and live answers every request.
func TestPanics(t *testing.T) {
	times := 1000
	if testing.Short() {
		times = 25
	}
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true}, live, shadow)
	var armed atomic.Int32 // a stage, or -1
	armed.Store(-1)
	r.Mirror.fail = func(s stage) {
		if armed.CompareAndSwap(int32(s), -1) {
			panic("planted")
		}
	}
	parts := map[stage]string{stageRequest: "observer", stageAnswer: "observer", stageDone: "observer", stageOffer: "observer", stageSend: "sender", stagePair: "sender"}
	for s := range numStages {
		before := r.metric(`mirror_panics_total{part="` + parts[s] + `"}`)
		for i := range times {
			// A new connection, as the one before is not read any more.
			r.client.CloseIdleConnections()
			armed.Store(int32(s))
			if got := r.do("POST", user(i), "/box/1", "x"); got != 200 {
				t.Fatalf("stage %d: live answered %d", s, got)
			}
			waitFor(t, "mirroring to be off", func() bool { return r.Status().Off == "panic" })
			if got := r.do("POST", user(i), "/box/2", "x"); got != 200 {
				t.Fatalf("stage %d, off: live answered %d", s, got)
			}
			if err := r.Resume(); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.metric(`mirror_panics_total{part="`+parts[s]+`"}`) - before; got != float64(times) {
			t.Errorf("stage %d: got %v panics counted, want %d", s, got, times)
		}
	}
	// It works as before.
	r.client.CloseIdleConnections()
	sent := r.lanes.Snapshot().Sent[lanes.Shadow]
	r.get("afterwards", "/")
	waitFor(t, "a copy to be sent", func() bool { return r.lanes.Snapshot().Sent[lanes.Shadow] > sent })
	waitFor(t, "all copies to end", func() bool { return r.lanes.Snapshot().Copies == 0 })
}

// TestCutExchanges cuts requests and answers at any byte: no copy is sent of
// which not all came.
func TestCutExchanges(t *testing.T) {
	cuts := 300
	if testing.Short() {
		cuts = 60
	}
	const body = "0123456789012345678901234567890123456789"
	var cutAnswer atomic.Bool
	live := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if cutAnswer.Load() {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "only the beginning")
			panic(http.ErrAbortHandler)
		}
		answerOK(w, r)
	})
	live.Config.ErrorLog = nil
	shadow := newService(t, nil)
	r := newRig(t, Config{Unsafe: true}, live, shadow)
	whole := fmt.Sprintf("POST /box/1 HTTP/1.1\r\nHost: x\r\nX-User: ann\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	certain := uint64(cuts / 3) // exchanges that live began and that were cut
	head := strings.Index(whole, "\r\n\r\n") + 4
	for i := range cuts {
		cutAnswer.Store(i%3 == 0)
		conn, err := net.Dial("tcp", r.addr(0))
		if err != nil {
			t.Fatal(err)
		}
		n := len(whole)
		if i%3 != 0 {
			n = rand.IntN(len(whole))
		}
		if i%3 == 2 && n >= head {
			certain++ // a reset may overtake what was sent, an end does not
		}
		if _, err := io.WriteString(conn, whole[:n]); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			io.Copy(io.Discard, conn) // until live cuts it
		} else if i%3 == 1 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	}
	waitFor(t, "the cuts to be seen", func() bool {
		all := scrape(t, r.registry)
		closed := 0.0
		for name, v := range all {
			if strings.HasPrefix(name, "mirror_connections_closed_total{") {
				closed += v
			}
		}
		return closed == float64(cuts) && all["mirror_connections_open"] == 0
	})
	s := r.lanes.Snapshot()
	offered := s.Offered[lanes.Shadow]
	if got := s.Dropped[lanes.Shadow][lanes.LiveAborted]; got != offered || offered < certain {
		t.Errorf("got %d of %d dropped as live_aborted, want all, and at least %d", got, offered, certain)
	}
	if got := shadow.requests(); len(got) != 0 {
		t.Errorf("got %d copies, as %+v, want none", len(got), got[0])
	}
	cutAnswer.Store(false) // and one that is whole is sent
	r.do("POST", "ann", "/box/1", body)
	r.settled(offered + 1)
	if got := shadow.requests(); len(got) != 1 || got[0].body != body {
		t.Errorf("got %+v, want the whole request", got)
	}
}

// identity returns what is wrong with the accounting of a scrape.
func identity(s map[string]float64) (wrong []string) {
	for _, role := range []string{"shadow", "control"} {
		dropped := 0.0
		for name, v := range s {
			if strings.HasPrefix(name, "mirror_copies_dropped_total{") && strings.Contains(name, `role="`+role+`"`) {
				dropped += v
			}
		}
		of := func(name string) float64 { return s[name+`{role="`+role+`"}`] }
		if offered, sent, pending := of("mirror_copies_offered_total"), of("mirror_copies_sent_total"), of("mirror_copies_pending"); offered != sent+dropped+pending {
			wrong = append(wrong, fmt.Sprintf("%s: offered %v, sent %v, dropped %v, pending %v", role, offered, sent, dropped, pending))
		}
	}
	return wrong
}

// TestAccounting scrapes while traffic, kills and changes of the sample go on:
// every offered copy is in one counter, in every scrape.
func TestAccounting(t *testing.T) {
	live, shadow, control := newService(t, nil), newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true, InFlight: 4, Fronts: []Front{{Control: control.addr()}}}, live, shadow)
	tr := r.start(8)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r.Kill()
			tr.more(t, 20)
			if err := r.Resume(); err != nil {
				t.Error(err)
			}
			tr.more(t, 50)
		}
	})
	scrapes := 300
	if testing.Short() {
		scrapes = 60
	}
	for range scrapes {
		s := scrape(t, r.registry)
		if wrong := identity(s); wrong != nil {
			t.Fatalf("in a scrape: %q", wrong)
		}
	}
	cancel()
	wg.Wait()
	tr.end(t)
	s := scrape(t, r.registry)
	if s[`mirror_copies_sent_total{role="control"}`] == 0 || s[`mirror_copies_dropped_total{reason="killed",role="shadow"}`] == 0 {
		t.Errorf("got nothing sent or nothing killed: %v", s)
	}
	s[`mirror_copies_sent_total{role="shadow"}`]++ // a planted fault
	if identity(s) == nil {
		t.Error("a copy that is counted twice is not noticed")
	}
}

// blackHole takes connections and never reads or answers.
func blackHole(t *testing.T) (addr string, held func() []net.Conn) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	return ln.Addr().String(), func() []net.Conn { mu.Lock(); defer mu.Unlock(); return slices.Clone(conns) }
}

// TestBlackHole sends to a shadow that takes connections and nothing else: what
// is held stays within its bounds, live goes on, and all is given back.
func TestBlackHole(t *testing.T) {
	size := struct {
		budget, requests int
		rate             float64 // a second; 0 is as fast as it goes
		cfg              Config
	}{1 << 20, 3000, 0, Config{MaxBody: 64 << 10, InFlight: 8, ShadowTimeout: time.Second, MaxAge: 2 * time.Second}}
	switch {
	case fullSize():
		size.budget, size.requests, size.rate, size.cfg = 64<<20, 2000*180, 2000, Config{}
	case testing.Short():
		size.requests = 600
	}
	addr, held := blackHole(t)
	live := newService(t, nil)
	live.forgets = true
	goroutines := goleak.IgnoreCurrent()
	heap := heapInUse()
	size.cfg.Unsafe, size.cfg.Shadow, size.cfg.PendingBytes = true, addr, size.budget
	r := newRig(t, size.cfg, live, nil)
	body := strings.Repeat("x", 4000)
	cs := clients(4, false)
	if size.rate > 0 {
		cs = clients(32, false)
	}
	var most atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for i, c := range cs {
		wg.Go(func() {
			for n := i; n < size.requests; n += len(cs) {
				if size.rate > 0 {
					time.Sleep(time.Until(start.Add(time.Duration(float64(n) / size.rate * float64(time.Second)))))
				}
				req, _ := http.NewRequest("POST", "http://"+r.addr(0)+"/box/1", strings.NewReader(body))
				req.Header.Set("x-user", user(i*100+n/len(cs)%100))
				resp, err := c.Do(req)
				if err != nil {
					t.Errorf("live: %v", err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if now := r.account.held.Load(); now > most.Load() {
					most.Store(now)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	closeIdle(cs)
	end := time.Now()
	budget := int64(size.budget)
	if most := most.Load(); most > budget+budget/10 || most < budget/2 {
		t.Errorf("at most %d bytes were held, want the budget of %d filled, and no more than a tenth beyond", most, budget)
	}
	if len(held()) == 0 {
		t.Error("the black hole was not reached")
	}
	waitFor(t, "all to be given back", func() bool { return r.lanes.Snapshot().Copies == 0 && r.account.held.Load() == 0 })
	waitFor(t, "the heap to be what it was", func() bool { return heapInUse() < heap+16<<20 })
	back := time.Since(end)
	if back > 5*time.Second && fullSize() {
		t.Errorf("all was back after %v, want 5s", back)
	}
	t.Logf("%d requests at %.0f/s; %d of %d bytes held at most; all back after %v", size.requests, float64(size.requests)/took.Seconds(), most.Load(), budget, back)
	s := scrape(t, r.registry)
	if wrong := identity(s); wrong != nil {
		t.Error(wrong)
	}
	if s[`mirror_backend_requests_total{code="timeout",role="shadow",route="POST /box/{}"}`] == 0 {
		t.Errorf("no call timed out")
	}
	r.stop()
	live.CloseClientConnections()
	waitFor(t, "live's connections to end", func() bool { return live.open.Load() == 0 })
	if err := goleak.Find(goroutines); err != nil {
		t.Error(err)
	}
	for _, c := range held() { // the mirror's ends are closed
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a socket is left: %v", err)
		}
	}
}

// heapInUse is what lives on the heap, in bytes.
func heapInUse() uint64 {
	runtime.GC()
	runtime.GC() // the second empties the pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestDeafShadow uploads 64 MiB while the shadow reads nothing: live gets all of
// it, and the copy is dropped for its size.
func TestDeafShadow(t *testing.T) {
	size := int64(64 << 20)
	if testing.Short() {
		size = 8 << 20
	}
	addr, _ := blackHole(t)
	var got atomic.Int64
	live := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got.Store(n)
	}))
	defer live.Close()
	r := newRig(t, Config{Unsafe: true, Shadow: addr, Fronts: []Front{{Live: []string{live.Listener.Addr().String()}}}}, nil, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	req, err := http.NewRequest("PUT", "http://"+r.addr(0)+"/file", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = size
	req.Header.Set("x-user", "ann")
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	runtime.ReadMemStats(&after)
	if got.Load() != size {
		t.Errorf("live got %d bytes, want %d", got.Load(), size)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(size/2) {
		t.Errorf("allocated %d bytes for an upload of %d that is not kept", grown, size)
	}
	if s := r.settled(1); s.Dropped[lanes.Shadow][lanes.BodyTooLarge] != 1 {
		t.Errorf("dropped: %v, want 1 for its size", s.Dropped[lanes.Shadow])
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestLiveDown: clients see what they would without a mirror, and nothing is copied.
func TestLiveDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := ln.Addr().String()
	ln.Close()
	shadow := newService(t, nil)
	r := newRig(t, Config{Fronts: []Front{{Live: []string{down}}}}, nil, shadow)
	for range 5 {
		conn, err := net.Dial("tcp", r.addr(0))
		if err != nil {
			continue // reset before connect returned
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-User: ann\r\n\r\n")
		if answer, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
			t.Errorf("got the answer %q of a service that is down", answer)
		}
		conn.Close()
	}
	waitFor(t, "the connections to end", func() bool {
		return r.metric(`mirror_connections_closed_total{front="mirror",reason="live_down"}`) == 5
	})
	r.settled(0)
	if len(shadow.requests()) > 0 {
		t.Error("the shadow got what live did not")
	}
}

// TestMemory switches off when the memory in use comes near its limit, and
// stays off.
func TestMemory(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{}, live, shadow)
	r.get("ann", "/")
	r.settled(1)
	r.switches.readMemory(89, 100)
	if s := r.Status(); !s.Enabled {
		t.Fatalf("off for %s at 89 %%", s.Off)
	}
	r.switches.readMemory(91, 100)
	if s := r.Status(); s.Off != "memory" {
		t.Fatalf("got %+v at 91 %%, want off for memory", s)
	}
	r.switches.readMemory(50, 100)
	if got := r.get("ann", "/"); got != 200 || r.Status().Off != "memory" {
		t.Errorf("got %d, off for %q, want 200, and off until it is resumed", got, r.Status().Off)
	}
	waitFor(t, "the connection to be dark", func() bool { return r.metric("mirror_connections_unobserved") == 1 })
	if err := r.Resume(); err != nil {
		t.Fatal(err)
	}
	r.client.CloseIdleConnections()
	r.get("ann", "/")
	r.settled(2)
	if used, limit := memoryUsed(), memoryLimit(); used <= 0 || limit <= 0 {
		t.Errorf("got %v of %v bytes in use", used, limit)
	}
}

// TestHelpersComeBack: a helper that panics switches mirroring off, and works again.
func TestHelpersComeBack(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{}, live, shadow)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var runs atomic.Int32
	r.keep(ctx, &wg, "lanes", func(context.Context) error {
		if runs.Add(1) == 1 {
			panic("planted")
		}
		return nil
	})
	wg.Wait() // a run that ends in order is the last
	if got := runs.Load(); got != 2 || r.Status().Off != "panic" {
		t.Errorf("got %d runs, off for %q, want 2, off for a panic", got, r.Status().Off)
	}
}

// TestSwitchback holds copies for a slice: safe ones are skipped, and unsafe
// ones wait, in order.
func TestSwitchback(t *testing.T) {
	live, shadow := newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Unsafe: true}, live, shadow)
	r.hold(true)
	r.get("ann", "/inbox")
	r.do("POST", "ann", "/box/1", "")
	waitFor(t, "both to be offered", func() bool { return r.lanes.Snapshot().Offered[lanes.Shadow] == 2 })
	if s := r.lanes.Snapshot(); s.Dropped[lanes.Shadow][lanes.Switchback] != 1 || s.Pending[lanes.Shadow] != 1 || len(shadow.requests()) != 0 {
		t.Errorf("while held: got %+v and %d at the shadow, want one skipped and one waiting", s, len(shadow.requests()))
	}
	r.hold(false)
	r.settled(2)
	if got := shadow.requests(); len(got) != 1 || got[0].path != "/box/1" {
		t.Errorf("got %+v, want the unsafe one", got)
	}
	if got := r.metric(`mirror_request_duration_seconds{route="GET /inbox",sampled="true",sending="false"}`); got != 1 {
		t.Errorf("got %v requests of a held slice, want 1", got)
	}
	if got := r.lanes.Snapshot().Tainted[lanes.Shadow]; got != 0 {
		t.Errorf("got %d tainted, want none", got)
	}
}

// TestControl: both roles get every copy, under one id.
func TestControl(t *testing.T) {
	live, shadow, control := newService(t, nil), newService(t, nil), newService(t, nil)
	r := newRig(t, Config{Fronts: []Front{{Control: control.addr()}}}, live, shadow)
	for i := range 20 {
		r.get(user(i), "/inbox")
	}
	r.settled(20)
	for _, s := range []*service{shadow, control} {
		if got := s.requests(); len(got) != 20 {
			t.Errorf("got %d copies, want 20", len(got))
		}
	}
	if got := control.requests()[0].role; got != "control" {
		t.Errorf("got role %q, want control", got)
	}
}
