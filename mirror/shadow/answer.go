package shadow

import (
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"darklaunch/mirror/observe"
)

// Why a call has no answer, or only part of one.
var (
	// ErrTimeout: the call was not answered in time.
	ErrTimeout = errors.New("timeout")
	// ErrCanceled: the backend was stopped meanwhile.
	ErrCanceled = errors.New("canceled")
	// ErrConnect: no connection could be made.
	ErrConnect = errors.New("connect")
	// ErrCut: the connection or stream ended within the answer or before it.
	ErrCut = errors.New("answer cut")
	// ErrProtocol: what came is no answer.
	ErrProtocol = errors.New("protocol violated")
	// ErrTooLarge: the answer is larger than what is read.
	ErrTooLarge = errors.New("answer too large")
)

// Answer is what came back of one call.
type Answer struct {
	// Err is nil when the answer is whole. Otherwise it wraps one of the
	// errors above, and the rest says how far the answer came.
	Err error
	// Status is the HTTP status of the final answer, 0 without one. GRPC is
	// that of a gRPC call, or -1.
	Status, GRPC    int
	Header, Trailer Fields
	// Body is the content as it was sent, content coding included: all Size
	// bytes of it, or the beginning if Truncated.
	Body      []byte
	Size      int64
	Truncated bool
	// Hash is XXH3-128 (big-endian, unseeded) of all Size bytes of a whole
	// answer, as observe has it.
	Hash [16]byte
	// Sent is when writing began, First when the final answer's first byte was
	// read and Last when its last one was; zero if there was none.
	Sent, First, Last time.Time

	limits   *limits
	reserved int          // of the account
	hasher   *xxh3.Hasher // once not all is kept
	interim  int          // answers 1xx
	overhead int64        // of chunks
	fields   int          // bytes of fields, as they are counted
}

// limits bound an answer.
type limits struct {
	keep    int
	read    int64
	head    int
	account observe.Account
}

const (
	maxInterim = 16
	// spare and spareBody are what a reused Answer may hold on to of a section
	// and of the body, in bytes.
	spare     = 4 << 10
	spareBody = 32 << 10
)

// reset makes a ready for another call.
func (a *Answer) reset(l *limits) {
	header, trailer, body := a.Header, a.Trailer, a.Body[:0]
	header.reset()
	trailer.reset()
	*a = Answer{GRPC: -1, Header: header, Trailer: trailer, Body: body, limits: l}
}

// release gives back what a holds of the account.
func (a *Answer) release() {
	if a.reserved > 0 && a.limits.account != nil {
		a.limits.account.Release(a.reserved)
	}
	a.reserved = 0
	if cap(a.Body) > spareBody {
		a.Body = nil
	}
	for _, f := range []*Fields{&a.Header, &a.Trailer} {
		if cap(f.text) > spare {
			*f = Fields{}
		}
	}
	a.hasher = nil
}

// reserve makes sure that n bytes are held of the account.
func (a *Answer) reserve(n int) bool {
	if n <= a.reserved {
		return true
	}
	n = max(n, 2*a.reserved, 1<<10)
	if a.limits.account != nil && !a.limits.account.Reserve(n-a.reserved) {
		return false
	}
	a.reserved = n
	return true
}

// write takes the next bytes of the body.
func (a *Answer) write(p []byte) error {
	a.Size += int64(len(p))
	if a.Size > a.limits.read {
		return ErrTooLarge
	}
	if !a.Truncated {
		n := min(len(p), a.limits.keep-len(a.Body))
		if !a.reserve(a.fields + len(a.Body) + n) {
			n = 0
		}
		a.Body = append(a.Body, p[:n]...)
		if n == len(p) {
			return nil
		}
		a.Truncated = true
		a.hasher = xxh3.New()
		a.hasher.Write(a.Body)
		p = p[n:]
	}
	a.hasher.Write(p)
	return nil
}

// end completes a whole answer.
func (a *Answer) end(now time.Time, grpc bool) {
	a.Last = now
	if a.Truncated {
		a.Hash = a.hasher.Sum128().Bytes()
	} else {
		a.Hash = xxh3.Hash128(a.Body).Bytes()
	}
	if grpc {
		a.GRPC = a.grpcStatus()
	}
}

// grpcStatus reads the status from the trailers, or from the headers of an
// answer that has nothing else (gRPC over HTTP/2, "Responses"). One that is
// missing or malformed is UNKNOWN, as for gRPC's own clients.
func (a *Answer) grpcStatus() int {
	f := &a.Trailer
	if f.Len() == 0 {
		f = &a.Header
	}
	v, _ := f.Get("grpc-status")
	code := 0
	for _, c := range v {
		code = code*10 + int(c-'0')
		if c < '0' || c > '9' || code > 16 {
			return grpcUnknown
		}
	}
	if len(v) == 0 {
		return grpcUnknown
	}
	return code
}

const grpcUnknown = 2

// add takes one field of f, a's header or trailer.
func add[T []byte | string](a *Answer, f *Fields, name, value T) error {
	if a.fields += len(name) + len(value) + 32; a.fields > a.limits.head || !a.reserve(a.fields+len(a.Body)) {
		return ErrTooLarge
	}
	addField(f, name, value)
	return nil
}

func addField[T []byte | string](f *Fields, name, value T) {
	from := uint32(len(f.text))
	f.text = append(append(f.text, name...), value...)
	f.list = append(f.list, span{from, from + uint32(len(name)), uint32(len(f.text))})
}

// Fields is a list of header or trailer fields.
type Fields struct {
	text []byte
	list []span
}

type span struct{ name, value, end uint32 }

func (f *Fields) reset() { f.text, f.list = f.text[:0], f.list[:0] }

func (f *Fields) field(s span) (name, value []byte) {
	return f.text[s.name:s.value:s.value], f.text[s.value:s.end:s.end]
}

// Add appends a field, for who makes an Answer that did not come from a backend.
func (f *Fields) Add(name, value string) { addField(f, name, value) }

// Len returns the number of fields.
func (f *Fields) Len() int { return len(f.list) }

// All yields name and value of each field in the order received. Names are as
// received: any case in HTTP/1, lower case in HTTP/2.
func (f *Fields) All() iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		for _, s := range f.list {
			if !yield(f.field(s)) {
				return
			}
		}
	}
}

// Get returns the value of the first field called name, which must be given in
// lower case, and whether there is one.
func (f *Fields) Get(name string) ([]byte, bool) {
	for _, s := range f.list {
		if n, value := f.field(s); observe.EqualName(n, name) {
			return value, true
		}
	}
	return nil, false
}

// Outcome is what became of one copy on one role. It is reused: Release it.
type Outcome struct {
	// Answers are those of the calls that were made, in order. The last one
	// may have an Err.
	Answers []*Answer
	// Stopped says that calls were left out because one before them failed.
	// Then there is nothing to compare, and the role's state is not known.
	Stopped bool

	free []*Answer
	pool *sync.Pool
}

// NewOutcome returns an Outcome for b's Send.
func (b *Backend) NewOutcome() *Outcome { return b.outcomes.Get().(*Outcome) }

// Release gives back o's memory. Nothing of it may be used afterwards.
func (o *Outcome) Release() {
	for _, a := range o.Answers {
		a.release()
	}
	if len(o.free) < 4 {
		o.free = append(o.free, o.Answers...)
	}
	o.Answers, o.Stopped = o.Answers[:0], false
	if o.pool != nil { // it came from a backend
		o.pool.Put(o)
	}
}

// next appends an empty answer.
func (o *Outcome) next(l *limits) *Answer {
	var a *Answer
	if n := len(o.free); n > 0 {
		a, o.free = o.free[n-1], o.free[:n-1]
	} else {
		a = new(Answer)
	}
	a.reset(l)
	o.Answers = append(o.Answers, a)
	return a
}

// unnext takes back the last one, of a call that was not made.
func (o *Outcome) unnext() {
	n := len(o.Answers) - 1
	o.Answers[n].release()
	o.free = append(o.free, o.Answers[n])
	o.Answers = o.Answers[:n]
}
