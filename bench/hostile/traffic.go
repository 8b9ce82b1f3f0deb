package hostile

import (
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// A call is one request of the stream and what live answers it. It is a
// function of (seed, index), so that live works it out again from its index
// alone and the stream is the same in every state of the shadow.
type call struct {
	index   int
	method  string
	body    int  // bytes of the request's body
	chunked bool // the request's length is not announced
	pieces  int  // gRPC: how many messages make up the body

	status   int
	answer   int // bytes of the answer's body
	answers  int // gRPC: in how many messages
	trailers bool
}

// small is the largest body and answer of a call whose latency is reported;
// larger ones would tell of bytes rather than of waiting.
const small = 64 << 10

func (c call) small() bool { return c.body < small && c.answer < small }

// upload is a call large enough to be kept off the connections of small ones.
func (c call) upload() bool { return c.body >= 1<<20 }

// A stream yields calls and the bytes of their bodies.
type stream struct {
	seed    uint64
	calls   int
	maxBody int
	block   []byte // random bytes that bodies are cut from
}

func newStream(seed uint64, calls, maxBody int) *stream {
	s := &stream{seed: seed, calls: calls, maxBody: maxBody, block: make([]byte, 1<<20+13)}
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(s.block)
	return s
}

var (
	statuses = []int{200, 200, 200, 200, 200, 201, 204, 301, 404, 409, 500, 503}
	methods  = []string{http.MethodGet, http.MethodGet, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPost, http.MethodPut, http.MethodDelete}
)

// call returns the call of an index. The largest bodies stand at fixed places
// (a 2,000th each of the stream, and one of it whatever its length), so that no
// seed is without them.
func (s *stream) call(index int) call {
	r := rand.New(rand.NewPCG(s.seed, uint64(index)))
	c := call{
		index:    index,
		method:   methods[r.IntN(len(methods))],
		status:   statuses[r.IntN(len(statuses))],
		answer:   r.IntN(2 << 10),
		answers:  1 + r.IntN(3),
		pieces:   1 + r.IntN(3),
		trailers: r.IntN(4) == 0,
	}
	if c.method == http.MethodPost || c.method == http.MethodPut {
		c.body = 1 + r.IntN(4<<10)
		c.chunked = r.IntN(2) == 0
	}
	switch place := index % 2000; {
	case place == 77:
		c.method, c.body = http.MethodPost, s.maxBody
	case place%200 == 33:
		c.method, c.body = http.MethodPost, min(s.maxBody, 1<<20+r.IntN(3<<20))
	case place%50 == 9:
		c.status, c.answer = http.StatusOK, 64<<10+r.IntN(64<<10)
	}
	if c.body >= 64<<10 {
		c.pieces = (c.body + 64<<10 - 1) / (64 << 10)
	}
	if c.status == http.StatusNoContent {
		c.answer, c.trailers = 0, false
	}
	return c
}

// bytes reads n bytes that differ from call to call.
func (s *stream) bytes(index, n int) io.Reader {
	return io.LimitReader(&cycle{block: s.block, at: index * 7919 % len(s.block)}, int64(n))
}

// piece returns one of several messages that make up n bytes.
func piece(i, of, n int) (from, to int) { return n * i / of, n * (i + 1) / of }

// A cycle repeats a block for ever.
type cycle struct {
	block []byte
	at    int
}

func (c *cycle) Read(p []byte) (int, error) {
	n := copy(p, c.block[c.at:])
	c.at = (c.at + n) % len(c.block)
	return n, nil
}

// due is when a call is sent, counted from the beginning of the stream.
func due(index int, rate float64) time.Duration {
	return time.Duration(float64(index) / rate * float64(time.Second))
}

// header holds what names a call on its way; live and shadow read it.
const (
	headerCall = "X-Call"
	headerUser = "X-User"
	headerUp   = "X-Upload"
)

func user(index int) string { return "u" + strconv.Itoa(index%97) }
