package transport

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// reading is what a reader made of an input.
type reading struct {
	Status   int
	Body     string
	Used     int
	Done     bool
	Reusable bool
	Err      error
}

// read feeds input in pieces of size n, and the end of the connection if eof.
func read(input []byte, n int, head, eof bool) reading {
	var body []byte
	var a answer
	a.reset(head, 1<<16, func(p []byte) { body = append(body, p...) })
	r := reading{}
	for len(input) > 0 && !r.Done && r.Err == nil {
		piece := input[:min(n, len(input))]
		used, done, err := a.feed(piece)
		r.Used += used
		r.Done, r.Err = done, err
		input = input[len(piece):]
	}
	if !r.Done && r.Err == nil && eof {
		r.Done = a.eof()
	}
	if r.Done {
		r.Status, r.Reusable = a.status, a.reusable()
	}
	r.Body = string(body)
	return r
}

var answers = []struct {
	name  string
	input string
	head  bool
	want  reading
}{
	{"length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, reading{200, "hello", 43, true, true, nil}},
	{"no reason", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, reading{200, "", 35, true, true, nil}},
	{"the next answer stays", "HTTP/1.1 204 No\r\n\r\nHTTP/1.1", false, reading{204, "", 19, true, true, nil}},
	{"bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", false, reading{200, "ok", 37, true, true, nil}},
	{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", false, reading{200, "abc0123456789", 79, true, true, nil}},
	{"trailers", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n1\r\na\r\n000\r\nX: y\r\nZ: w\r\n\r\n", false, reading{200, "a", 78, true, true, nil}},
	{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", false, reading{200, "x", 101, true, true, nil}},
	{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, reading{200, "", 38, true, true, nil}},
	{"304 has no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, reading{304, "", 48, true, true, nil}},
	{"close", "HTTP/1.1 200 OK\r\nConnection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n", false, reading{200, "", 69, true, false, nil}},
	{"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, reading{200, "", 38, true, false, nil}},
	{"HTTP/1.0 kept", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", false, reading{200, "", 62, true, true, nil}},
	{"until the close", "HTTP/1.1 200 OK\r\n\r\nall of it", false, reading{200, "all of it", 28, true, false, nil}},
	{"a coding that is not chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nrest", false, reading{200, "rest", 48, true, false, nil}},
	{"two framings", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false, reading{200, "", 72, true, false, nil}},
	{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", false, reading{200, "x", 58, true, true, nil}},
	{"folding", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", false, reading{200, "", 48, true, true, nil}},

	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", false, reading{Err: errProtocol}},
	{"negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", false, reading{Err: errProtocol}},
	{"empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", false, reading{Err: errProtocol}},
	{"folded length", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 0\r\n\r\n", false, reading{Err: errProtocol}},
	{"garbage", "SSH-2.0-OpenSSH_9.2\r\n", false, reading{Err: errProtocol}},
	{"another version", "HTTP/2.0 200 OK\r\n\r\n", false, reading{Err: errProtocol}},
	{"no status", "HTTP/1.1 abc\r\n\r\n", false, reading{Err: errProtocol}},
	{"four digits", "HTTP/1.1 2000\r\n\r\n", false, reading{Err: errProtocol}},
	{"upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n", false, reading{Err: errProtocol}},
	{"no colon", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", false, reading{Err: errProtocol}},
	{"space before the colon", "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n", false, reading{Err: errProtocol}},
	{"chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", false, reading{Err: errProtocol}},
	{"chunk size overflows", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", false, reading{Err: errProtocol}},
	{"chunk end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naX\r\n", false, reading{Err: errProtocol}},
	{"endless header", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 20000), false, reading{Err: errProtocol}},
	{"endless line", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("b", 100000), false, reading{Err: errProtocol}},
	{"endless interim answers", strings.Repeat("HTTP/1.1 102 Wait\r\n\r\n", 5000), false, reading{Err: errProtocol}},
	{"endless trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("A: b\r\n", 20000), false, reading{Err: errProtocol}},
	{"too long", "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<16+1), false, reading{Err: errTooLarge}},
	{"cut short", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", false, reading{}},
	{"cut in the header", "HTTP/1.1 200 OK\r\nContent-Le", false, reading{}},
}

func TestAnswer(t *testing.T) {
	for _, c := range answers {
		for _, n := range []int{1, 2, 3, 7, 1 << 20} {
			got := read([]byte(c.input), n, c.head, true)
			if c.want.Err != nil || !c.want.Done {
				if !errors.Is(got.Err, c.want.Err) || got.Done {
					t.Errorf("%s in pieces of %d: got %v (done %t), want %v", c.name, n, got.Err, got.Done, c.want.Err)
				}
				continue
			}
			if n > len(c.input) || c.want.Used == len(c.input) {
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%s in pieces of %d: (-want +got)\n%s", c.name, n, diff)
				}
			}
		}
	}
}

// However an input is cut up, the reader makes the same of it, reads no more
// than there is, and keeps within its limits.
func FuzzAnswer(f *testing.F) {
	for _, c := range answers {
		if len(c.input) < 200 {
			f.Add([]byte(c.input), uint8(3), c.head)
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, n uint8, head bool) {
		whole := read(input, len(input)+1, head, true)
		pieces := read(input, int(n)+1, head, true)
		if whole.Done != pieces.Done || (whole.Err == nil) != (pieces.Err == nil) || whole.Status != pieces.Status || whole.Reusable != pieces.Reusable {
			t.Fatalf("got %+v whole and %+v in pieces of %d", whole, pieces, int(n)+1)
		}
		if whole.Err == nil && (whole.Body != pieces.Body || whole.Used != pieces.Used) {
			t.Fatalf("got %+v whole and %+v in pieces of %d", whole, pieces, int(n)+1)
		}
		if whole.Used > len(input) || len(whole.Body) > 1<<16 {
			t.Fatalf("got %d bytes used of %d and a body of %d", whole.Used, len(input), len(whole.Body))
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	input := []byte("HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Tue, 24 Nov 2026 18:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 200\r\nConnection: keep-alive\r\n\r\n" + strings.Repeat("x", 200))
	var a answer
	b.ReportAllocs()
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		a.reset(false, 1<<20, nil)
		if _, done, err := a.feed(input); !done || err != nil {
			b.Fatal(done, err)
		}
	}
}

func TestRequest1(t *testing.T) {
	op := func(o Op) *Op { o.Name = "op"; return &o }
	agent := "User-Agent: darklaunch\r\n"
	for _, c := range []struct {
		op   *Op
		call Call
		want string
	}{
		{op(Op{Path: "/a?b=c"}), Call{}, "GET /a?b=c HTTP/1.1\r\nHost: h:1\r\n" + agent + "\r\n"},
		{op(Op{Path: "/", Method: "POST"}), Call{}, "POST / HTTP/1.1\r\nHost: h:1\r\n" + agent + "Content-Length: 0\r\n\r\n"},
		{op(Op{Path: "/", Method: "PUT", Body: []byte("hello")}), Call{}, "PUT / HTTP/1.1\r\nHost: h:1\r\n" + agent + "Content-Length: 5\r\n\r\nhello"},
		{op(Op{Path: "/", Header: []Header{{"Host", "other"}, {"X-A", "b"}}}), Call{}, "GET / HTTP/1.1\r\nHost: other\r\nX-A: b\r\n" + agent + "\r\n"},
		{
			op(Op{Path: "/", Method: "POST", Body: []byte("hello"), Header: []Header{{"user-agent", "me"}}}),
			Call{Path: "/mine", Body: []byte("hey"), Header: []Header{{"X-User", "7"}}},
			"POST /mine HTTP/1.1\r\nHost: h:1\r\nuser-agent: me\r\nX-User: 7\r\nContent-Length: 3\r\n\r\nhey",
		},
	} {
		r := newRequest1(c.op, "h:1")
		if got := string(r.append(nil, &c.call)); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

func TestOpsThatCannotBeSent(t *testing.T) {
	for _, c := range []struct {
		p  Protocol
		op Op
	}{
		{HTTP1, Op{}},
		{HTTP1, Op{Path: "a"}},
		{HTTP1, Op{Path: "/a b"}},
		{HTTP1, Op{Path: "/", Method: "GE T"}},
		{HTTP1, Op{Path: "/", Header: []Header{{"X", "a\r\nY: b"}}}},
		{HTTP1, Op{Path: "/", Header: []Header{{"Content-Length", "1"}}}},
		{HTTP1, Op{Path: "/", Messages: [][]byte{nil}}},
		{GRPC, Op{Path: "/s/m", Body: []byte("x")}},
		{GRPC, Op{Path: "/s/m", Method: "GET"}},
	} {
		if err := (Config{Protocol: c.p, Ops: []Op{c.op}}).Check(); err == nil {
			t.Errorf("got no error for %+v", c.op)
		}
	}
	if err := (Config{}).Check(); err == nil {
		t.Error("got no error without operations")
	}
}

func TestClassNames(t *testing.T) {
	seen := map[string]bool{}
	for c := range Classes {
		if n := c.String(); n == "" || seen[n] || strings.ContainsAny(n, " ()") {
			t.Errorf("got name %q for class %d", n, c)
		}
		seen[c.String()] = true
	}
	if got := fmt.Sprint(Classes); !bytes.Contains([]byte(got), []byte("class(")) {
		t.Errorf("got %s for a class that is none", got)
	}
}
