package observe

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"
)

// pair is one name with its value.
type pair struct{ Name, Value string }

// message and exchange are what a Message and an Exchange say, in plain values
// that outlive the callback.
type message struct {
	Header, Trailer []pair
	Body            string
	Size            int64
	Truncated       bool
	Hash            [16]byte
	Messages        int64
	Lengths         []GRPCMessage
	First, Last     int64 // seconds of the fake clock
	Complete        bool
}

type exchange struct {
	Protocol                        Protocol
	Stream                          uint32
	Seq                             uint64
	Method, Scheme, Authority, Path string
	Target                          string
	Request, Answer                 message
	Status                          int
	Outcome                         Outcome
	Broken                          Rule
}

func plainFields(f *Fields) (out []pair) {
	for name, value := range f.All() {
		out = append(out, pair{string(name), string(value)})
	}
	return out
}

func plainMessage(m *Message) message {
	p := message{
		Header: plainFields(&m.Header), Trailer: plainFields(&m.Trailer),
		Body: string(m.Body.Bytes), Size: m.Body.Size, Truncated: m.Body.Truncated, Hash: m.Body.Hash,
		Messages: m.Body.Messages, Lengths: append([]GRPCMessage(nil), m.Body.Lengths...),
		Complete: m.Complete,
	}
	if !m.First.IsZero() {
		p.First = m.First.Unix()
	}
	if !m.Last.IsZero() {
		p.Last = m.Last.Unix()
	}
	return p
}

func plain(x *Exchange) exchange {
	return exchange{
		Protocol: x.Protocol, Stream: x.Stream, Seq: x.Seq,
		Method: string(x.Method()), Scheme: string(x.Scheme()), Authority: string(x.Authority()),
		Path: string(x.Path()), Target: string(x.Target()),
		Request: plainMessage(&x.Request), Answer: plainMessage(&x.Answer),
		Status: x.Status, Outcome: x.Outcome, Broken: x.Broken,
	}
}

// recorder is a Sink that remembers.
type recorder struct {
	mode     Mode
	request  func(x *Exchange) Mode
	answer   func(x *Exchange) Mode
	ongoing  func(x *Exchange, long bool) bool
	look     func(x *Exchange) // at what is done, while it may be read
	done     []exchange
	gaveUp   []Abandonment
	requests int
	answers  int
}

func (r *recorder) Request(x *Exchange) Mode {
	r.requests++
	if r.request != nil {
		return r.request(x)
	}
	return r.mode
}

func (r *recorder) Answer(x *Exchange) Mode {
	r.answers++
	if r.answer != nil {
		return r.answer(x)
	}
	return r.mode
}

func (r *recorder) Ongoing(x *Exchange, long bool) bool {
	return r.ongoing != nil && r.ongoing(x, long)
}

func (r *recorder) Done(x *Exchange) {
	if r.look != nil {
		r.look(x)
	}
	r.done = append(r.done, plain(x))
}

func (r *recorder) Abandoned(a Abandonment) { r.gaveUp = append(r.gaveUp, a) }

// rule is the one that the connection was abandoned for, or 0.
func (r *recorder) rule() Rule {
	if len(r.gaveUp) == 0 {
		return 0
	}
	return r.gaveUp[0].Rule
}

// event is one call of a Conn's feeding methods.
type event struct {
	side Side
	data string
	eof  bool
	gone bool
}

func client(s string) event { return event{side: Client, data: s} }
func live(s string) event   { return event{side: Live, data: s} }

func at(second int) time.Time { return time.Unix(int64(second), 0) }

// feed plays events against a new Conn of o; event i happens at second i+1. If
// cut is not nil it says how a chunk is split.
func feed(o *Observer, r *recorder, events []event, cut func(data string) []string) *Conn {
	c := o.Conn(r)
	for i, e := range events {
		chunks := []string{e.data}
		if cut != nil {
			chunks = cut(e.data)
		}
		for _, chunk := range chunks {
			// The observer must not keep what it is fed with: overwrite it.
			b := []byte(chunk)
			if e.side == Client {
				c.FromClient(at(i+1), b)
			} else {
				c.FromLive(at(i+1), b)
			}
			for j := range b {
				b[j] = '#'
			}
		}
		switch {
		case e.gone:
			c.Close(e.side)
		case e.eof && e.side == Client:
			c.ClientEOF()
		case e.eof:
			c.LiveEOF(at(i + 1))
		}
	}
	return c
}

func bytewise(s string) []string { return strings.Split(s, "") }

// run plays events under Keep and closes the connection by live.
func run(o *Observer, events []event, cut func(string) []string) *recorder {
	r := &recorder{mode: Keep}
	c := feed(o, r, events, cut)
	c.Close(Live)
	checkEmpty(c)
	return r
}

// checkEmpty panics unless a finished Conn holds nothing.
func checkEmpty(c *Conn) {
	if c.first != nil || c.last != nil || c.memory != 0 || c.h1 != nil || c.h2 != nil || c.held[0] != nil || c.held[1] != nil {
		panic(fmt.Sprintf("a finished connection holds something: %+v", *c))
	}
}

// same compares all but what the pool of an Observer may change.
func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func hashOf(s string) [16]byte { return xxh3.Hash128([]byte(s)).Bytes() }

// splitInvariant checks that how the bytes are cut changes nothing.
func splitInvariant(t *testing.T, events []event) {
	t.Helper()
	whole := run(New(Config{}), events, nil)
	single := run(New(Config{}), events, bytewise)
	same(t, "exchanges fed byte by byte", single.done, whole.done)
	same(t, "abandonment fed byte by byte", single.gaveUp, whole.gaveUp)
}

// anyCut draws a way to split chunks.
func anyCut(t *rapid.T) func(string) []string {
	return func(s string) []string {
		var out []string
		for len(s) > 0 {
			n := rapid.IntRange(1, len(s)).Draw(t, "cut")
			out, s = append(out, s[:n]), s[n:]
		}
		return out
	}
}

// account is a budget that remembers its most.
type account struct{ limit, held, most int }

func (a *account) Reserve(n int) bool {
	if n < 0 || a.held+n > a.limit {
		return false
	}
	a.held += n
	a.most = max(a.most, a.held)
	return true
}

func (a *account) Release(n int) {
	a.held -= n
	if a.held < 0 {
		panic("released more than was reserved")
	}
}

const get = "GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-User: ann\r\n\r\n"

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		name   string
		events []event
		want   Protocol
		rule   Rule
	}{
		{"nothing", nil, Unknown, 0},
		{"http1", []event{client("G")}, HTTP1, 0},
		{"preface so far", []event{client("PRI * HT")}, Unknown, 0},
		{"preface", []event{client(clientPreface)}, HTTP2, 0},
		{"preface byte by byte", []event{client("PRI * HTTP/2.0\r\n\r\nSM\r\n\r"), client("\n")}, HTTP2, 0},
		{"live first, then http2", []event{live("\x00\x00\x00\x04\x00\x00\x00\x00\x00"), client(clientPreface)}, HTTP2, 0},
		{"live first, then http1", []event{live("220 hello\r\n"), client("EHLO x\r\n")}, Unknown, NotHTTP},
		{"tls", []event{client("\x16\x03\x01")}, Unknown, NotHTTP},
		{"redis", []event{client("*1\r\n$4\r\nPING\r\n")}, Unknown, NotHTTP},
		{"http 0.9", []event{client("GET /\r\n")}, Unknown, NotHTTP},
		{"almost preface", []event{client("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n")}, Unknown, Version},
		{"long line of something", []event{client(strings.Repeat("x", 70<<10))}, Unknown, NotHTTP},
		{"live talks on", []event{live(strings.Repeat("x", maxEarly+1))}, Unknown, LimitEarly},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cut := range []func(string) []string{nil, bytewise} {
				r := &recorder{}
				c := feed(New(Config{}), r, tt.events, cut)
				if c.Protocol() != tt.want || r.rule() != tt.rule {
					t.Errorf("got protocol %d, rule %v; want %d, %v", c.Protocol(), r.rule(), tt.want, tt.rule)
				}
			}
		})
	}
}

// A get keeps its exchange as plain values; spot-check all of them once.
func TestExchangeHTTP1(t *testing.T) {
	r := run(New(Config{}), []event{
		client(get[:10]), client(get[10:]),
		live("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhel"), live("lo"),
	}, nil)
	same(t, "exchange", r.done, []exchange{{
		Protocol: HTTP1, Seq: 1, Method: "GET", Authority: "h", Path: "/a", Target: "/a?b=c",
		Request: message{
			Header: []pair{{"Host", "h"}, {"X-User", "ann"}}, Hash: hashOf(""), First: 1, Last: 2, Complete: true,
		},
		Answer: message{
			Header: []pair{{"Content-Length", "5"}, {"Content-Type", "text/plain"}},
			Body:   "hello", Size: 5, Hash: hashOf("hello"), First: 3, Last: 4, Complete: true,
		},
		Status: 200, Outcome: Complete,
	}})
	same(t, "abandonment", r.gaveUp, []Abandonment(nil))
}

func TestFields(t *testing.T) {
	r := &recorder{}
	r.request = func(x *Exchange) Mode {
		if v, ok := x.Request.Header.Get("x-user"); !ok || string(v) != "ann" {
			t.Errorf("got %q, %v; want ann", v, ok)
		}
		if _, ok := x.Request.Header.Get("x-use"); ok {
			t.Error("got a field that is not there")
		}
		if q, ok := x.Query(); !ok || string(q) != "b=c" {
			t.Errorf("got query %q, %v; want b=c", q, ok)
		}
		if n := x.Request.Header.Len(); n != 2 {
			t.Errorf("got %d fields, want 2", n)
		}
		x.Tag = "mine"
		return Ignore
	}
	r.answer = func(x *Exchange) Mode {
		if x.Tag != "mine" || x.Status != 204 {
			t.Errorf("got tag %v, status %d; want mine, 204", x.Tag, x.Status)
		}
		return Ignore
	}
	feed(New(Config{}), r, []event{client(get), live("HTTP/1.1 204 No Content\r\n\r\n")}, nil)
	if r.requests != 1 || r.answers != 1 || len(r.done) != 1 {
		t.Errorf("got %d requests, %d answers, %d done; want 1 of each", r.requests, r.answers, len(r.done))
	}
}

func TestTargets(t *testing.T) {
	for _, tt := range []struct{ target, path, query, scheme, authority string }{
		{"/", "/", "", "", "h"},
		{"/a/b?x=1?y", "/a/b", "x=1?y", "", "h"},
		{"//a", "//a", "", "", "h"},
		{"/a?u=http://b/c", "/a", "u=http://b/c", "", "h"},
		{"http://h", "/", "", "http", "h"},
		{"http://H?q", "/", "q", "http", "H"},
		{"https://h/p/q?r", "/p/q", "r", "https", "h"},
	} {
		r := &recorder{}
		r.request = func(x *Exchange) Mode {
			q, _ := x.Query()
			got := [...]string{string(x.Path()), string(q), string(x.Scheme()), string(x.Authority()), string(x.Target())}
			want := [...]string{tt.path, tt.query, tt.scheme, tt.authority, tt.target}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			return Ignore
		}
		feed(New(Config{}), r, []event{client("GET " + tt.target + " HTTP/1.1\r\nHost: h\r\n\r\n")}, nil)
		if r.requests != 1 {
			t.Errorf("%s: %v", tt.target, r.gaveUp)
		}
	}
}

func TestModes(t *testing.T) {
	post := "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabcdef"
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"
	type half struct {
		Body string
		Hash [16]byte
	}
	none := [16]byte{}
	for _, tt := range []struct {
		request, answer Mode
		want            [2]half
	}{
		{Ignore, Ignore, [2]half{{"", none}, {"", none}}},
		{Hash, Hash, [2]half{{"", hashOf("abcdef")}, {"", hashOf("xyz")}}},
		{Keep, Keep, [2]half{{"abcdef", hashOf("abcdef")}, {"xyz", hashOf("xyz")}}},
		{Keep, Hash, [2]half{{"abcdef", hashOf("abcdef")}, {"", hashOf("xyz")}}},
		{Keep, Ignore, [2]half{{"", none}, {"", none}}},
		{Ignore, Keep, [2]half{{"", none}, {"xyz", hashOf("xyz")}}},
	} {
		for _, cut := range []func(string) []string{nil, bytewise} {
			a := &account{limit: 1 << 20}
			r := &recorder{request: func(*Exchange) Mode { return tt.request }, answer: func(*Exchange) Mode { return tt.answer }}
			feed(New(Config{Account: a}), r, []event{client(post), live(ok)}, cut)
			if len(r.done) != 1 {
				t.Fatalf("got %d exchanges, want 1: %v", len(r.done), r.gaveUp)
			}
			x := r.done[0]
			same(t, fmt.Sprint(tt.request, tt.answer),
				[2]half{{x.Request.Body, x.Request.Hash}, {x.Answer.Body, x.Answer.Hash}}, tt.want)
			if x.Request.Size != 6 || x.Answer.Size != 3 {
				t.Errorf("got sizes %d, %d; want 6, 3", x.Request.Size, x.Answer.Size)
			}
			if a.held != 0 {
				t.Errorf("%d bytes of the account are lost", a.held)
			}
		}
	}
}

// What exceeds the limit or the account is hashed all the same.
func TestTruncated(t *testing.T) {
	body := strings.Repeat("0123456789", 1000)
	post := fmt.Sprintf("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	for _, tt := range []struct {
		name           string
		maxBody, limit int
		want           int
		truncated      bool
	}{
		{"fits", 10000, 1 << 20, 10000, false},
		{"one byte too long", 9999, 1 << 20, 9999, true},
		{"small", 10, 1 << 20, 10, true},
		{"account refuses all", 1 << 20, 0, 0, true},
	} {
		for _, cut := range []func(string) []string{nil, bytewise} {
			a := &account{limit: tt.limit}
			r := &recorder{mode: Keep}
			feed(New(Config{MaxBody: tt.maxBody, Account: a}), r, []event{client(post), live("HTTP/1.1 204 \r\n\r\n")}, cut)
			if len(r.done) != 1 {
				t.Fatalf("%s: got %d exchanges, want 1", tt.name, len(r.done))
			}
			m := r.done[0].Request
			if len(m.Body) != tt.want || m.Truncated != tt.truncated || m.Hash != hashOf(body) || m.Size != 10000 {
				t.Errorf("%s: got %d bytes, truncated %v, size %d; want %d, %v, 10000 and the hash of all",
					tt.name, len(m.Body), m.Truncated, m.Size, tt.want, tt.truncated)
			}
			if a.held != 0 {
				t.Errorf("%s: %d bytes of the account are lost", tt.name, a.held)
			}
		}
	}
}

// takers keep what they are handed.
type taker struct {
	recorder
	own []*Exchange
}

func (k *taker) Done(x *Exchange) {
	before := plain(x)
	own, ok := x.Take()
	if !ok {
		return
	}
	if d := cmp.Diff(before, plain(own)); d != "" {
		panic("Take changed the exchange: " + d)
	}
	k.own = append(k.own, own)
}

func TestTake(t *testing.T) {
	post := "POST /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: v\r\n\r\n"
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"
	a := &account{limit: 1 << 20}
	k := &taker{recorder: recorder{mode: Keep}}
	c := New(Config{Account: a}).Conn(k)
	const n = 50
	for range n {
		c.FromClient(at(1), []byte(post))
		c.FromLive(at(2), []byte(ok))
	}
	c.Close(Client)
	if len(k.own) != n {
		t.Fatalf("got %d exchanges, want %d", len(k.own), n)
	}
	held := 0
	for i, x := range k.own {
		held += x.Held()
		p := plain(x)
		if p.Seq != uint64(i+1) || p.Request.Body != "abc" || p.Answer.Body != "xyz" || p.Path != "/p" {
			t.Errorf("exchange %d is damaged: %+v", i, p)
		}
	}
	if held != a.held {
		t.Errorf("exchanges say they hold %d bytes, the account says %d", held, a.held)
	}
	for _, x := range k.own {
		x.Release()
	}
	if a.held != 0 {
		t.Errorf("%d bytes of the account are lost", a.held)
	}

	refused := &taker{recorder: recorder{mode: Keep}}
	a.limit = 100
	c = New(Config{Account: a}).Conn(refused)
	c.FromClient(at(1), []byte(post))
	c.FromLive(at(2), []byte(ok))
	if len(refused.own) != 0 || a.held != 0 {
		t.Errorf("got %d exchanges and %d bytes from an empty account", len(refused.own), a.held)
	}
}

func TestAbandon(t *testing.T) {
	r := &recorder{mode: Keep}
	c := feed(New(Config{}), r, []event{client(get)}, nil)
	c.Abandon()
	c.Abandon()
	c.FromClient(at(9), []byte(get))
	c.ClientEOF()
	c.LiveEOF(at(9))
	c.Close(Client)
	if len(r.done) != 1 || r.done[0].Outcome != Unobserved {
		t.Errorf("got %+v, want one exchange unobserved", r.done)
	}
	same(t, "abandonment", r.gaveUp, []Abandonment{{Reason: Stopped, Rule: CallerStopped}})
	checkEmpty(c)
}

// Every rule has a reason, a name of its own and, unless it is a limit of ours,
// a section; every reason has a name.
func TestRules(t *testing.T) {
	names := map[string]bool{}
	for r := NotHTTP; int(r) < len(rules); r++ {
		if r.String() == "" || names[r.String()] || r.Reason() == 0 {
			t.Errorf("rule %d: name %q, reason %v", r, r, r.Reason())
		}
		names[r.String()] = true
		if own := r.Reason() == Limit || r.Reason() == Stopped; (r.Section() == "") != own {
			t.Errorf("rule %v has section %q", r, r.Section())
		}
	}
	for _, r := range Reasons() {
		if r.String() == "" {
			t.Errorf("reason %d has no name", r)
		}
	}
	if Rule(0).String()+Rule(255).String()+Rule(255).Section()+Reason(0).String()+Reason(255).String() != "" || Rule(255).Reason() != 0 {
		t.Error("what is no rule or reason has a name")
	}
	if len(Reasons()) != int(Stopped) {
		t.Errorf("got %d reasons, want %d", len(Reasons()), Stopped)
	}
}

func TestPercentDecode(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "plain": "plain", "a%20b": "a b", "%e2%82%ac": "€", "%": "%", "%2": "%2", "%zz": "%zz", "%%20": "% ",
	} {
		if got := percentDecode([]byte(in)); got != want {
			t.Errorf("percentDecode(%q) = %q, want %q", in, got, want)
		}
	}
}

// hasControl has a fast path of eight bytes: compare it with the plain one.
func TestHasControl(t *testing.T) {
	for n := range 20 {
		for i := range n {
			for c := range 256 {
				b := bytes.Repeat([]byte{'x'}, n)
				b[i] = byte(c)
				if got, want := hasControl(b), anyControl(b); got != want {
					t.Fatalf("hasControl(%q) = %v, want %v", b, got, want)
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		if got, want := hasControl(b), anyControl(b); got != want {
			t.Fatalf("hasControl(%q) = %v, want %v", b, got, want)
		}
	})
}

// TestCutAnywhere cuts both directions of a connection at any byte, in order or
// by a reset: an exchange that is reported complete is whole.
func TestCutAnywhere(t *testing.T) {
	talk := newTalk()
	talk.client.headers(1, false, and(post2, "content-length", "6")...).data(1, false, "abc").data(1, true, "def").headers(3, false, grpcRequest...).data(3, true, grpcMessage(9))
	talk.live.headers(1, false, ok2...).data(1, false, "xyz").data(1, true, "123").headers(3, false, ok2...).data(3, false, grpcMessage(9)).headers(3, true, "grpc-status", "0")
	preface := talk.events
	talk.events = nil
	talk.flush()
	for name, whole := range map[string][]event{
		"HTTP/1": {client(post("Content-Length: 6\r\n\r\nabcdef") + post(chunked+"3\r\nabc\r\n0\r\nT: v\r\n\r\n") + get),
			live(ok3 + "HTTP/1.1 200 OK\r\n" + chunked + "3\r\nabc\r\n0\r\n\r\n" + "HTTP/1.1 200 OK\r\n\r\nuntil the end")},
		"HTTP/2": talk.events,
	} {
		var before []event
		if name == "HTTP/2" {
			before = preface
		}
		full := run(New(Config{}), append(append(before[:len(before):len(before)], whole...), event{side: Live, eof: true}), nil)
		bySeq := map[uint64]exchange{}
		for _, x := range full.done {
			if x.Outcome != Complete {
				t.Fatalf("%s: got %s", name, brief(x))
			}
			bySeq[x.Seq] = x
		}
		outcomes := map[Outcome]int{}
		check := func(end event, events ...event) {
			r := run(New(Config{}), append(append(before[:len(before):len(before)], events...), end), nil)
			for _, x := range r.done {
				outcomes[x.Outcome]++
				cutAnswer := name == "HTTP/1" && x.Seq == 3 && end == event{side: Live, eof: true} // has no length
				if x.Outcome == Complete && !cutAnswer && brief(x) != brief(bySeq[x.Seq]) {
					t.Errorf("%s, cut %+v: got %s, want %s", name, end, brief(x), brief(bySeq[x.Seq]))
				}
			}
		}
		for _, end := range []event{{side: Client, eof: true}, {side: Client, gone: true}, {side: Live, eof: true}, {side: Live, gone: true}} {
			for i := range whole[0].data {
				check(end, client(whole[0].data[:i]))
			}
			for i := range whole[1].data {
				check(end, whole[0], live(whole[1].data[:i]))
			}
		}
		if outcomes[LiveAborted] == 0 || outcomes[ClientCut] == 0 || outcomes[Complete] == 0 {
			t.Errorf("%s: nothing was cut: %v", name, outcomes)
		}
	}
}

func TestValidHost(t *testing.T) {
	for host, want := range map[string]bool{
		"": true, "h": true, "a-b.example.org:80": true, "127.0.0.1:": true, "under_score": true, "[::1]": true, "[fe80::1]:443": true,
		"[::1": false, "[::1]x": false, "[1.2.3.4]": false, "[fe80::1%25eth0]": false, "[]": false, "a:b": false, "a:80:80": false, "a b": false,
		"u@h": false, "a,b": false, "a/b": false, "%61": false, "a\\b": false, "é": false, "a;b": false,
	} {
		if got := validHost([]byte(host)); got != want {
			t.Errorf("validHost(%q) = %v, want %v", host, got, want)
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	type result struct {
		Code    int
		Message string
		OK      bool
	}
	for _, tt := range []struct {
		name            string
		header, trailer []string
		want            result
	}{
		{"trailer", nil, []string{"grpc-status", "5", "grpc-message", "a%20b"}, result{5, "a b", true}},
		{"header alone", []string{"grpc-status", "0"}, nil, result{0, "", true}},
		{"none", []string{"x", "y"}, nil, result{}},
		{"no number", nil, []string{"grpc-status", "5x"}, result{}},
		{"empty", nil, []string{"grpc-status", ""}, result{}},
		{"long", nil, []string{"grpc-status", "0000"}, result{}},
	} {
		x := new(Exchange)
		for f, fields := range map[*Fields][]string{&x.Answer.Header: tt.header, &x.Answer.Trailer: tt.trailer} {
			for i := 0; i < len(fields); i += 2 {
				f.add(fields[i], fields[i+1])
			}
		}
		var got result
		got.Code, got.Message, got.OK = x.GRPCStatus()
		same(t, tt.name, got, tt.want)
	}
}

func TestGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "application/GRPC;x=y": true,
		"application/grpc-web": false, "application/grpcx": false, "application/json": false, "": false,
	} {
		x := &Exchange{Protocol: HTTP2}
		x.Request.Header.add("content-type", contentType)
		if got := x.readGRPC(); got != want {
			t.Errorf("%q: got %v, want %v", contentType, got, want)
		}
		x.Protocol = HTTP1
		if x.readGRPC() {
			t.Errorf("%q: gRPC over HTTP/1", contentType)
		}
	}
}

func TestAllStops(t *testing.T) {
	var f Fields
	f.add("a", "1")
	f.add("b", "2")
	for name := range f.All() {
		if string(name) == "b" {
			t.Error("went on after the loop was left")
		}
		break
	}
}

// TestTakenIsApart takes exchanges whose memory is used again: what the caller
// owns stays as it was while others come, and all of it is given back.
func TestTakenIsApart(t *testing.T) {
	held := &account{limit: 1 << 30}
	var taken []*Exchange
	c := New(Config{Account: held}).Conn(takingSink{func(x *Exchange) {
		own, ok := x.Take()
		if !ok {
			t.Fatal("not taken")
		}
		taken = append(taken, own)
	}})
	content := func(i, size int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, size) }
	sizes := []int{1, 100, small, small + 1, 5000, 64 << 10, large, large + 1}
	now := time.Now()
	for round := range 4 {
		for i, size := range sizes {
			c.FromClient(now, fmt.Appendf(nil, "POST /%d/%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", round, i, size, content(i, size)))
			c.FromLive(now, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, content(i, size)))
		}
		for i, x := range taken {
			path, want := fmt.Sprintf("/%d/%d", round, i), content(i, sizes[i])
			if string(x.Path()) != path || !bytes.Equal(x.Request.Body.Bytes, want) || !bytes.Equal(x.Answer.Body.Bytes, want) {
				t.Errorf("%s: got %s with %d and %d bytes, want %d of %q", path, x.Path(), len(x.Request.Body.Bytes), len(x.Answer.Body.Bytes), len(want), want[0])
			}
		}
		all := 0
		for _, x := range taken {
			all += x.Held()
		}
		if all != held.held {
			t.Errorf("round %d: the account has %d bytes, the exchanges hold %d", round, held.held, all)
		}
		for _, x := range taken {
			x.Release()
		}
		if taken = taken[:0]; held.held != 0 {
			t.Errorf("round %d: got %d bytes still held, want 0", round, held.held)
		}
	}
}

type takingSink struct{ done func(*Exchange) }

func (takingSink) Request(*Exchange) Mode       { return Keep }
func (takingSink) Answer(*Exchange) Mode        { return Keep }
func (takingSink) Ongoing(*Exchange, bool) bool { return false }
func (s takingSink) Done(x *Exchange)           { s.done(x) }
func (takingSink) Abandoned(a Abandonment)      { panic(a.Rule.String()) }
