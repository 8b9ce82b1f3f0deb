package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/scenarios"
)

// mailboxes is a Messages service as far as messages-chat needs one: it knows who
// has which threads, and is strict about what a call must have.
type mailboxes struct {
	messagesv1.UnimplementedMessagesServer
	mu      sync.Mutex
	threads map[string][]string // by user, the newest first
	keys    map[string]bool
	wrong   []string                                    // what no client should have sent
	members map[string][]string                         // by thread
	streams map[string][]chan *messagesv1.WatchResponse // by user
	opened  int
	broken  bool          // streams break after they have begun
	delay   time.Duration // from a message to its event
}

// tell puts a message on its readers' streams, those of the author too.
func (m *mailboxes) tell(thread, author string, r *messagesv1.SendRequest) {
	event := &messagesv1.WatchResponse{Event: &messagesv1.WatchResponse_Message{Message: &messagesv1.Message{ThreadId: thread, Body: r.Body,
		Author: &messagesv1.Participant{Address: &messagesv1.Participant_User{User: author}}}}}
	for _, user := range m.members[thread] {
		for _, to := range m.streams[user] {
			time.AfterFunc(m.delay, func() { to <- event })
		}
	}
}

func (m *mailboxes) Watch(_ *messagesv1.WatchRequest, s grpc.ServerStreamingServer[messagesv1.WatchResponse]) error {
	events := make(chan *messagesv1.WatchResponse, 10000)
	m.mu.Lock()
	user := m.user(s.Context(), "", false)
	m.streams[user] = append(m.streams[user], events)
	m.opened++
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.streams[user] = slices.DeleteFunc(m.streams[user], func(c chan *messagesv1.WatchResponse) bool { return c == events })
	}()
	event := &messagesv1.WatchResponse{Event: &messagesv1.WatchResponse_Started_{Started: new(messagesv1.WatchResponse_Started)}}
	for {
		if err := s.Send(event); err != nil {
			return err
		}
		if m.broken {
			return status.Error(codes.Unavailable, "the mailbox moves")
		}
		select {
		case event = <-events:
		case <-s.Context().Done():
			return nil
		}
	}
}

// user returns the caller, and notes keys that come twice.
func (m *mailboxes) user(ctx context.Context, key string, mutation bool) string {
	md, _ := metadata.FromIncomingContext(ctx)
	user := strings.Join(md.Get("x-user"), ",")
	if !strings.HasPrefix(user, "u") || mutation && (key == "" || m.keys[key]) {
		m.wrong = append(m.wrong, fmt.Sprintf("user %q, key %q", user, key))
	}
	m.keys[key] = true
	return user
}

// has notes a thread that was never shown to the user.
func (m *mailboxes) has(user, thread string) error {
	if !slices.Contains(m.threads[user], thread) {
		m.wrong = append(m.wrong, fmt.Sprintf("%s asks for %q", user, thread))
		return status.Error(codes.NotFound, thread)
	}
	return nil
}

func (m *mailboxes) ListThreads(ctx context.Context, r *messagesv1.ListThreadsRequest) (*messagesv1.ListThreadsResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := new(messagesv1.ListThreadsResponse)
	for _, id := range m.threads[m.user(ctx, "", false)] {
		resp.Threads = append(resp.Threads, &messagesv1.Thread{ThreadId: id, Subject: "s", Snippet: "t"})
	}
	return resp, nil
}

func (m *mailboxes) GetThread(ctx context.Context, r *messagesv1.GetThreadRequest) (*messagesv1.GetThreadResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return new(messagesv1.GetThreadResponse), m.has(m.user(ctx, "", false), r.ThreadId)
}

func (m *mailboxes) Send(ctx context.Context, r *messagesv1.SendRequest) (*messagesv1.SendResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	user := m.user(ctx, r.IdempotencyKey, true)
	if r.Body == "" || r.Channel == messagesv1.Channel_CHANNEL_UNSPECIFIED || (r.ThreadId == "") == (len(r.Recipients) == 0) {
		m.wrong = append(m.wrong, "send "+r.String())
	}
	if r.ThreadId != "" {
		m.tell(r.ThreadId, user, r)
		return &messagesv1.SendResponse{ThreadId: r.ThreadId}, m.has(user, r.ThreadId)
	}
	id := fmt.Sprintf("t-%d", len(m.keys))
	m.threads[user] = append([]string{id}, m.threads[user]...)
	m.members[id] = []string{user}
	for _, to := range r.Recipients {
		m.members[id] = append(m.members[id], to.GetUser())
		m.threads[to.GetUser()] = append([]string{id}, m.threads[to.GetUser()]...)
	}
	m.tell(id, user, r)
	return &messagesv1.SendResponse{ThreadId: id}, nil
}

func (m *mailboxes) Update(ctx context.Context, r *messagesv1.UpdateRequest) (*messagesv1.UpdateResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return new(messagesv1.UpdateResponse), m.has(m.user(ctx, r.IdempotencyKey, true), r.ThreadId)
}

func (m *mailboxes) Delete(ctx context.Context, r *messagesv1.DeleteRequest) (*messagesv1.DeleteResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return new(messagesv1.DeleteResponse), m.has(m.user(ctx, r.IdempotencyKey, true), r.ThreadId)
}

func (m *mailboxes) Search(ctx context.Context, r *messagesv1.SearchRequest) (*messagesv1.SearchResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.user(ctx, "", false)
	if r.Query == "" || strings.ContainsAny(r.Query, " .,?!") {
		m.wrong = append(m.wrong, "query "+r.Query)
	}
	return new(messagesv1.SearchResponse), nil
}

func (m *mailboxes) UnreadCounts(context.Context, *messagesv1.UnreadCountsRequest) (*messagesv1.UnreadCountsResponse, error) {
	return new(messagesv1.UnreadCountsResponse), nil
}

func serveMailboxes(t *testing.T) (*mailboxes, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailboxes{threads: map[string][]string{}, keys: map[string]bool{}, members: map[string][]string{}, streams: map[string][]chan *messagesv1.WatchResponse{}}
	s := grpc.NewServer()
	messagesv1.RegisterMessagesServer(s, m)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return m, l.Addr().String()
}

// writeScenario puts a scenario into a file of its own.
func writeScenario(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "mine.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// short is a scenario's load in less than a second, in a hurry.
const short = `apiVersion: load/v1
extends: %s
population: {users: 40}
arrivals: {curve: [{phase: settle, for: 200ms, hold: %[2]s}, {for: 600ms, hold: %[2]s}]}
`

const hurry = `session: {think: {lognormal: {median: 5ms, sigma: 1, max: 20ms}}}
`

// TestLoadRunMessages plays the built-in scenarios against a service that checks
// what it is sent.
func TestLoadRunMessages(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"messages-chat", "messages-mail", "robot"} {
		t.Run(name, func(t *testing.T) {
			m, addr := serveMailboxes(t)
			text := fmt.Sprintf(short, name, "100/s")
			if name != "robot" {
				text += hurry
			}
			hlog := filepath.Join(t.TempDir(), "times.hlog")
			code, r, stderr := endLoad(t, "run "+writeScenario(t, text)+" --target "+addr+" --hist "+hlog)
			if code != exitDone && !strings.Contains(stderr, "released calls late") || r == nil {
				t.Fatalf("got %d, %s", code, stderr)
			}
			// A stream whose session ends at once may be let go of before it has told anything.
			if r.Scenario != name || r.OK+r.Ops["watch"].InFlight != r.Sent || r.Sent < 30 {
				t.Errorf("got %d of %d calls answered well, errors %v", r.OK, r.Sent, r.Errors)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(m.wrong) > 0 {
				t.Errorf("got %d wrong calls, the first %s", len(m.wrong), m.wrong[0])
			}
			want := map[string][]string{
				"messages-chat": {"list", "read", "mark", "reply", "send"},
				"messages-mail": {"list", "read", "delete", "move"},
				"robot":         {"list", "counts", "search", "send"},
			}
			for _, op := range want[name] {
				if r.Ops[op].OK == 0 {
					t.Errorf("got no %s in %v", op, opNames(r))
				}
			}
			if got := readFile(t, hlog); !strings.HasPrefix(got, "#[Histogram log format version 1.3]\n") || !strings.Contains(got, "Tag=list,0.000,") {
				t.Errorf("got %q, want a histogram log", got)
			}
		})
	}
}

// TestLoadRunHoldsStreams has all users watch, and a service that tells of each
// message 30 ms later.
func TestLoadRunHoldsStreams(t *testing.T) {
	t.Parallel()
	m, addr := serveMailboxes(t)
	m.delay = 30 * time.Millisecond
	text := strings.ReplaceAll(fmt.Sprintf(short, "messages-chat", "60/s"), "users: 40", "users: 6") +
		"session: {streams: {watch: {share: 1, told: message.body}}, think: {exponential: {mean: 20ms, max: 100ms}}}\n"
	code, r, stderr := endLoad(t, "run "+writeScenario(t, text)+" --target "+addr)
	if code != exitDone && !strings.Contains(stderr, "released calls late") || r == nil {
		t.Fatalf("got %d, %s", code, stderr)
	}
	watch := r.Ops["watch"]
	// 36 sessions begin while it is measured. One that has no second step may be over before its stream has begun to tell.
	if watch.Sent != 36 || watch.OK < 25 || watch.OK+watch.InFlight != watch.Sent {
		t.Errorf("got %d streams, %d of them ok, %d given up, errors %v: want 36, nearly all of them ok", watch.Sent, watch.OK, watch.InFlight, watch.Errors)
	}
	// That a stream lasts is not its response time.
	if p50 := watch.Response.P50; p50 > 0.5 {
		t.Errorf("got a median response of streams of %vs, want what their first message took", p50)
	}
	if d := r.Delivery; d == nil || d.P50 < 0.03 || d.P50 > 3 || watch.Delivery == nil || watch.Delivery.P50 != d.P50 {
		t.Errorf("got deliveries %+v, of streams %+v, want 30 ms and what the machine adds", d, watch.Delivery)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.wrong) > 0 || m.opened < 40 || m.opened > 48 {
		t.Errorf("got %d streams opened, %d wrong calls %v, want one each of nearly all 48 sessions, and none", m.opened, len(m.wrong), m.wrong)
	}
}

// TestLoadRunOutlivesBrokenStreams has every stream end after its first message.
func TestLoadRunOutlivesBrokenStreams(t *testing.T) {
	t.Parallel()
	m, addr := serveMailboxes(t)
	m.broken = true
	text := strings.ReplaceAll(fmt.Sprintf(short, "messages-chat", "60/s"), "users: 40", "users: 6") +
		"session: {streams: {watch: {share: 1}}, think: {exponential: {mean: 20ms, max: 100ms}}}\n"
	_, r, stderr := endLoad(t, "run "+writeScenario(t, text)+" --target "+addr)
	if r == nil {
		t.Fatal(stderr)
	}
	watch := r.Ops["watch"]
	if watch.Sent != 36 || watch.Errors["status"] < 25 || watch.Codes["14"] != watch.Errors["status"] || r.Delivery != nil {
		t.Errorf("got %d streams, errors %v, codes %v, want 36 that nearly all break, once each", watch.Sent, watch.Errors, watch.Codes)
	}
	if others := r.Sent - watch.Sent; others < 100 || r.OK-watch.OK != others {
		t.Errorf("got %d of %d other calls ok, want that sessions go on", r.OK-watch.OK, others)
	}
}

// TestLoadPlanRefusesStreams that make no sense.
func TestLoadPlanRefusesStreams(t *testing.T) {
	t.Parallel()
	for stream, want := range map[string]string{
		"wtch: {}":                     ":3: session.streams.wtch: there is no operation of that name",
		"read: {}":                     ":3: session.streams.read: session.next has read too",
		"watch: {share: 2}":            ":3: session.streams.watch.share: got 2, want at most 1",
		"watch: {told: message.boddy}": ":3: session.streams.watch.told: messages.v1.Message has no field boddy",
		"counts: {}":                   ":4: ops.counts.rpc: messages.v1.Messages/UnreadCounts: want a method that takes one message and answers by a stream",
		"late: {}":                     ":4: ops.late: a stream is opened before there are values",
	} {
		name := writeScenario(t, "apiVersion: load/v1\nextends: messages-chat\nsession: {streams: {"+stream+"}}\nops: {"+map[string]string{
			"counts: {}": "counts: {rpc: messages.v1.Messages/UnreadCounts}",
			"late: {}":   "late: {rpc: messages.v1.Messages/Watch, request: {after: \"${thread}\"}}",
		}[stream]+"}\n")
		if code, _, stderr := start(t, "load", "plan", name).end(); code != exitUsage || !strings.Contains(stderr, name+want) {
			t.Errorf("%s: got %d, %q, want %s", stream, code, stderr, want)
		}
	}
}

// scrape returns the values of a page of metrics by name and labels.
func scrape(t testing.TB, url string) map[string]float64 {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), "} "); ok {
			values[name+"}"], _ = strconv.ParseFloat(value, 64)
		} else if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			values[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return values
}

// TestLoadRunMetrics reads the contract's metrics while sessions are under way.
func TestLoadRunMetrics(t *testing.T) {
	t.Parallel()
	_, addr := serveMailboxes(t)
	text := "apiVersion: load/v1\nextends: messages-chat\narrivals: {curve: [{for: 1h, hold: 100/s}]}\npopulation: {users: 10}\n" +
		"session: {streams: {watch: {share: 1, told: message.body}}, think: {exponential: {mean: 50ms, max: 1s}}}\n"
	r := start(t, "load", "run", writeScenario(t, text), "--target", addr, "--metrics", "127.0.0.1:0")
	url := "http://" + r.ready("metrics") + "/metrics"
	const run = `scenario="messages-chat"`
	// What must have happened, and then what must be there beside it.
	seen := []string{
		"loadgen_sessions",
		`loadgen_connections{state="open"}`,
		"loadgen_inflight_requests",
		"loadgen_lag_seconds_count{" + run + "}",
		"loadgen_delivery_seconds_count{" + run + "}",
		`loadgen_response_seconds_count{op="watch",` + run + "}",
		`loadgen_service_seconds_count{op="send",` + run + "}",
		`loadgen_requests_total{channel="none",code="0",op="list",outcome="ok",` + run + "}",
		`loadgen_requests_total{channel="chat",code="0",op="send",outcome="ok",` + run + "}",
		`loadgen_target_requests_per_second{` + run + "}",
		`loadgen_phase{phase="measure",` + run + "}",
	}
	got := map[string]float64{}
	waitFor(t, "all that a run has", func() bool {
		got = scrape(t, url)
		return !slices.ContainsFunc(seen, func(name string) bool { return !(got[name] > 0) })
	})
	zero := []string{
		`loadgen_phase{phase="settle",` + run + "}", `loadgen_phase{phase="drain",` + run + "}", `loadgen_phase{phase="done",` + run + "}",
		`loadgen_shed_total{reason="in_flight"}`, `loadgen_shed_total{reason="no_connection"}`, `loadgen_shed_total{reason="end"}`,
		`loadgen_requests_total{channel="sms",code="",op="reply",outcome="reset",` + run + "}",
	}
	for _, name := range zero {
		if v, ok := got[name]; !ok || v != 0 {
			t.Errorf("got %v, %v of %s, want a 0", v, ok, name)
		}
	}
	// A hundred sessions a second of 9 calls, and a stream each.
	if rate := got[`loadgen_target_requests_per_second{`+run+"}"]; rate < 800 || rate > 1100 {
		t.Errorf("got %v calls a second, want nine and a half a session", rate)
	}
	if open, all := got[`loadgen_connections{state="open"}`], got[`loadgen_connections{state="opening"}`]+got[`loadgen_connections{state="open"}`]; open > 16 || all > 16 {
		t.Errorf("got %v connections open, %v with those opening, want at most the scenario's 16", open, all)
	}
	r.signal(syscall.SIGTERM)
	r.end()
}

// TestLoadRunSharesAPlan has two workers begin together, and merges what they made.
func TestLoadRunSharesAPlan(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts some twenty processes")
	}
	t.Parallel()
	_, addr := serveMailboxes(t)
	file := writeScenario(t, fmt.Sprintf(short, "robot", "100/s"))
	begin := time.Now().Add(5 * time.Second).UTC().Format(time.RFC3339)
	dir := t.TempDir()
	var workers []*running
	var files []string
	for i := range 2 {
		files = append(files, filepath.Join(dir, fmt.Sprint(i)))
		workers = append(workers, start(t, "load", "run", file, "--target", addr, "--index", fmt.Sprint(i), "--total", "2", "--start", begin, "--json", files[i]))
	}
	for _, w := range workers {
		if code, _, stderr := w.end(); code != exitDone && code != exitInconclusive {
			t.Fatalf("got %d, %s", code, stderr)
		}
	}
	// The same name and rate, but other calls: another plan.
	another := writeScenario(t, fmt.Sprintf(short, "robot", "100/s")+"mix: {send: 0}\n")
	start(t, strings.Fields("load run "+another+" --target "+addr+" --index 1 --total 2 --json "+filepath.Join(dir, "other"))...).end()
	if code, _, stderr := start(t, "load", "merge", files[0], filepath.Join(dir, "other")).end(); code != exitUsage || !strings.Contains(stderr, "ran plan") {
		t.Errorf("got %d, %q, want that plans differ", code, stderr)
	}
	_, all, text := endLoad(t, "merge "+strings.Join(files, " "))
	if all == nil || *all.Planned != 60 || len(all.Workers) != 2 || all.Workers[0].Sent < 20 {
		t.Errorf("got %+v, %s, want the 60 calls of the plan, about half from each", all, text)
	}
}

func TestLoadPlan(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts some twenty processes")
	}
	t.Parallel()
	for _, name := range scenarios.Names() {
		code, stdout, stderr := start(t, "load", "plan", name, "--json", "-").end()
		var r planResult
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitDone {
			t.Fatalf("%s: got %d, %v, %s", name, code, err, stderr)
		}
		checkSchema(t, "loadplan", []byte(stdout))
		sum := 0
		for _, o := range r.Ops {
			sum += o.Calls
		}
		if r.Scenario != name || r.Calls < 500 || sum != r.Calls || !strings.Contains(stderr, "at a time") {
			t.Errorf("%s: got %+v, %s", name, r, stderr)
		}
		// Little's law.
		if want := r.Rate * r.Service; r.Concurrency < want*0.999 || r.Concurrency > want*1.001 {
			t.Errorf("%s: got %v calls at a time, want %v", name, r.Concurrency, want)
		}
	}
	_, one, _ := start(t, "load", "plan", "robot", "--json", "-").end()
	_, two, _ := start(t, "load", "plan", "robot", "--scale", "2x", "--json", "-").end()
	var a, b planResult
	if json.Unmarshal([]byte(one), &a) != nil || json.Unmarshal([]byte(two), &b) != nil || b.Calls != 2*a.Calls {
		t.Errorf("got %d calls, and %d at twice the scale", a.Calls, b.Calls)
	}
}

func TestLoadRunRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	bad := writeScenario(t, "apiVersion: load/v1\nextends: robot\nops:\n  list: {rpc: messages.v1.Messages/Lits}\n")
	target := " --target 127.0.0.1:1"
	for _, tc := range []struct {
		args string
		code int
		want string
	}{
		{"run robot", 2, "--target: want the address"},
		{"run nobody" + target, 2, "there is no scenario nobody: want a file, or one of grpc-unary, http-get"},
		{"run /nowhere/x.yaml" + target, 2, "/nowhere/x.yaml: no such file"},
		{"run " + bad + target, 2, bad + ":4: ops.list.rpc: method messages.v1.Messages/Lits: service messages.v1.Messages has Send"},
		{"run robot --index 2 --total 2" + target, 2, "want an index from 0 to total-1"},
		{"run robot --scale 2" + target, 2, "is not a factor: want"},
		{"run robot --start soon" + target, 2, "is not a time: want RFC 3339"},
		{"run robot --start 2001-01-01T00:00:00Z" + target, 2, "is over"},
		{"plan nobody", 2, "there is no scenario nobody"},
		{"plan " + bad, 2, bad + ":4: ops.list.rpc"},
	} {
		code, _, stderr := start(t, append([]string{"load"}, strings.Fields(tc.args)...)...).end()
		if code != tc.code || !strings.Contains(stderr, tc.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: got %d and %q, want %d and a line with %q", tc.args, code, stderr, tc.code, tc.want)
		}
	}
}

// TestScenarioReferenceIsRight loads every scenario that the reference shows.
func TestScenarioReferenceIsRight(t *testing.T) {
	blocks := strings.Split(readFile(t, "../../docs/reference/scenarios.md"), "```yaml\n")
	if len(blocks) < 3 {
		t.Fatal("no scenario in the reference")
	}
	for _, b := range blocks[1:] {
		text, _, _ := strings.Cut(b, "```")
		if _, err := loadScenario(writeScenario(t, text)); err != nil {
			t.Errorf("%v:\n%s", err, text)
		}
	}
}

// briefly makes a scenario of single calls last two seconds.
const briefly = "apiVersion: load/v1\nextends: %s\narrivals: {curve: [{phase: settle, for: 100ms, hold: 200/s}, {for: 2s, hold: 200/s}]}\n%s"

// TestLoadRunHTTPGet sends http-get, and a mix made of it, to a net/http server.
func TestLoadRunHTTPGet(t *testing.T) {
	t.Parallel()
	var arrived tally
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived.add(r.Method + " " + r.URL.Path) }))
	defer s.Close()
	arrived.check(t, "http-get", strings.TrimPrefix(s.URL, "http://"), "", map[string]float64{"GET /": 1})
	arrived.check(t, "http-get", strings.TrimPrefix(s.URL, "http://"), "mix: {get: 3, put: 1}\nops: {put: {method: PUT, path: /x, body: hello}}\n",
		map[string]float64{"GET /": 0.75, "PUT /x": 0.25})
}

// TestLoadRunGRPCUnary sends grpc-unary, and a mix made of it, to grpc-go's health service.
func TestLoadRunGRPCUnary(t *testing.T) {
	t.Parallel()
	var arrived tally
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		arrived.add(info.FullMethod + " " + r.(*healthpb.HealthCheckRequest).GetService())
		return next(ctx, r)
	}))
	h := health.NewServer()
	h.SetServingStatus("mail", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	go s.Serve(l)
	defer s.Stop()
	const check = "/grpc.health.v1.Health/Check "
	arrived.check(t, "grpc-unary", l.Addr().String(), "", map[string]float64{check: 1})
	arrived.check(t, "grpc-unary", l.Addr().String(), "mix: {check: 1, mail: 1}\nops: {mail: {rpc: grpc.health.v1.Health/Check, request: {service: mail}}}\n",
		map[string]float64{check: 0.5, check + "mail": 0.5})
}

// tally counts what arrives at a service.
type tally struct {
	mu sync.Mutex
	of map[string]int
}

func (y *tally) add(what string) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.of[what]++
}

// check runs the scenario, changed by more, and holds the mix of the 420 calls that arrive to want.
func (y *tally) check(t *testing.T, scenario, addr, more string, want map[string]float64) {
	t.Helper()
	y.mu.Lock()
	y.of = map[string]int{}
	y.mu.Unlock()
	code, r, stderr := endLoad(t, "run "+writeScenario(t, fmt.Sprintf(briefly, scenario, more))+" --target "+addr)
	if code != exitDone && !strings.Contains(stderr, "released calls late") || r == nil || r.OK != 400 || *r.Planned != 400 {
		t.Fatalf("got %d, %+v, %s, want 400 calls, all ok", code, r, stderr)
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	sum := 0
	for what, n := range y.of {
		sum += n
		if got := float64(n) / 420; math.Abs(got-want[what]) > 0.08 {
			t.Errorf("%s: got a share of %.3f of %s, want %v", scenario, got, what, want[what])
		}
	}
	if sum != 420 || len(r.Ops) != len(want) {
		t.Errorf("%s: got %v, and %v in the result, want 420 calls of %v", scenario, y.of, opNames(r), want)
	}
}

// TestLoadProgress has a load draw its line on a terminal, and take it away.
func TestLoadProgress(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	drawn, code := onTerminal(t, strings.Fields("load http "+s.URL+" --rate 100/s --for 1200ms")...)
	if code != exitDone && code != exitInconclusive {
		t.Errorf("got exit code %d, want %d or %d", code, exitDone, exitInconclusive)
	}
	lines := strings.Split(drawn, "\r\x1b[K")
	line := regexp.MustCompile(`^1s of 1\.2s · [1-9][0-9]*/s · [1-9][0-9]* calls · [1-9][0-9]* errors · [0-9]+ under way$`)
	if !slices.ContainsFunc(lines, line.MatchString) {
		t.Errorf("got %q, want a line with what there was after a second", lines)
	}
	if strings.Contains(lines[len(lines)-1], "calls ·") {
		t.Errorf("got %q, want the line taken away at the end", lines)
	}
}
