package observe_test

import (
	"fmt"
	"time"

	"darklaunch/mirror/observe"
)

// printer keeps the bodies of one user and prints what was done.
type printer struct{ user string }

func (p printer) Request(x *observe.Exchange) observe.Mode {
	if user, _ := x.Request.Header.Get("x-user"); string(user) == p.user {
		return observe.Keep
	}
	return observe.Ignore
}

func (p printer) Answer(x *observe.Exchange) observe.Mode { return x.Answer.Body.Mode }

func (p printer) Done(x *observe.Exchange) {
	fmt.Printf("%s %s %d %v: %d bytes in, %d out, kept %q\n", x.Method(), x.Path(), x.Status, x.Outcome,
		x.Request.Body.Size, x.Answer.Body.Size, x.Request.Body.Bytes)
}

func (p printer) Abandoned(a observe.Abandonment) {
	fmt.Printf("gave up: %v, %v (%s)\n", a.Reason, a.Rule, a.Rule.Section())
}

func Example() {
	now := time.Unix(0, 0)
	c := observe.New(observe.Config{}).Conn(printer{user: "ann"})
	c.FromClient(now, []byte("POST /send HTTP/1.1\r\nHost: mail\r\nX-User: ann\r\nContent-Length: 5\r\n\r\nhello"))
	c.FromLive(now, []byte("HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"))
	c.FromClient(now, []byte("GET /list HTTP/1.1\r\nHost: mail\r\nX-User: bob\r\n\r\n"))
	c.FromLive(now, []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"))
	c.FromClient(now, []byte("POST /send HTTP/1.1\r\nHost: mail\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"))
	c.Close(observe.Client)
	// Output:
	// POST /send 201 complete: 5 bytes in, 2 out, kept "hello"
	// GET /list 200 complete: 0 bytes in, 2 out, kept ""
	// gave up: ambiguous, both_lengths (RFC 9112 §6.3)
}

func (printer) Ongoing(*observe.Exchange, bool) bool { return false }
