package observe

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// held is an account that says what is held of it.
type held int

func (h *held) Reserve(n int) bool { *h += held(n); return true }
func (h *held) Release(n int)      { *h -= held(n) }

// TestOngoing follows answers that go on after their request: it is told when the
// request ends, and once more of a stream of events or after a second.
func TestOngoing(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
	for _, tt := range []struct {
		name    string
		request []string
		answer  []string // each half a second after the one before
		take    bool     // of what is long
		want    []string
	}{
		{"at once", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}, true, []string{"ended"}},
		{"short", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{head + "a/b\r\n\r\n1\r\na\r\n", "1\r\nb\r\n", "0\r\n\r\n"}, true, []string{"ended"}},
		{"ends after a second", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "a", "b"}, true, []string{"ended"}},
		{"long", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{head + "a/b\r\n\r\n1\r\na\r\n", "1\r\nb\r\n", "1\r\nc\r\n", "1\r\nd\r\n", "0\r\n\r\n"}, true, []string{"ended", "long"}},
		{"long and left", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{head + "a/b\r\n\r\n1\r\na\r\n", "1\r\nb\r\n", "1\r\nc\r\n", "1\r\nd\r\n", "0\r\n\r\n"}, false, []string{"ended", "long"}},
		{"events", []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n"}, []string{head + "text/event-stream; charset=utf-8\r\n\r\n1\r\na\r\n", "0\r\n\r\n"}, true, []string{"ended", "long"}},
		{"with a body", []string{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n", "body"}, []string{head + "a/b\r\n\r\n", "1\r\nb\r\n", "1\r\nc\r\n", "0\r\n\r\n"}, true, []string{"ended", "long"}},
		{"answered before its end", []string{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"}, []string{head + "a/b\r\n\r\n", "1\r\nb\r\n", "1\r\nc\r\n", "0\r\n\r\n"}, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var account held
			var told []string
			var taken *Exchange
			r := &recorder{mode: Keep}
			r.ongoing = func(x *Exchange, long bool) bool {
				told = append(told, map[bool]string{false: "ended", true: "long"}[long])
				if !long || !tt.take {
					return false
				}
				var ok bool
				taken, ok = x.TakeRequest()
				return ok
			}
			r.look = func(x *Exchange) {
				if taken != nil && (x.Answer.Body.Bytes != nil || x.Request.Body.Bytes != nil) {
					t.Errorf("kept %q and %q though it was taken", x.Request.Body.Bytes, x.Answer.Body.Bytes)
				}
				if taken == nil && string(x.Answer.Body.Bytes) == "" {
					t.Error("the answer of what was not taken is not kept")
				}
			}
			c := New(Config{Account: &account}).Conn(r)
			now := time.Unix(0, 0)
			for _, p := range tt.request {
				c.FromClient(now, []byte(p))
			}
			for _, p := range tt.answer {
				c.FromLive(now, []byte(p))
				now = now.Add(500 * time.Millisecond)
			}
			c.ClientEOF()
			c.LiveEOF(now)
			if diff := cmp.Diff(tt.want, told); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
			if len(r.done) != 1 || len(r.gaveUp) != 0 {
				t.Errorf("got %d done, gave up %v, want it done once", len(r.done), r.gaveUp)
			}
			if taken != nil {
				if string(taken.Path()) != "/" || taken.Request.Body.Size != int64(len(taken.Request.Body.Bytes)) {
					t.Errorf("took %q with %d of %d bytes", taken.Path(), len(taken.Request.Body.Bytes), taken.Request.Body.Size)
				}
				taken.Release()
			}
			if account != 0 {
				t.Errorf("%d bytes are still held", account)
			}
		})
	}
}

// TestOngoingHTTP2 is the same for a stream of gRPC.
func TestOngoingHTTP2(t *testing.T) {
	r := &recorder{mode: Keep}
	var told []string
	r.ongoing = func(x *Exchange, long bool) bool {
		told = append(told, fmt.Sprint(long, " ", x.Request.Body.Messages, " ", x.Answer.Body.Messages))
		return false
	}
	c := New(Config{}).Conn(r)
	talk := newTalk()
	talk.client.headers(1, false, and(post2, "content-type", "application/grpc")...).data(1, true, "\x00\x00\x00\x00\x01q")
	talk.live.headers(1, false, and(ok2, "content-type", "application/grpc")...)
	talk.flush()
	now := time.Unix(0, 0)
	for _, e := range talk.events {
		if e.side == Client {
			c.FromClient(now, []byte(e.data))
		} else {
			c.FromLive(now, []byte(e.data))
		}
	}
	for range 5 {
		talk.live.data(1, false, "\x00\x00\x00\x00\x01a")
		c.FromLive(now, []byte(talk.live.take()))
		now = now.Add(400 * time.Millisecond)
	}
	if diff := cmp.Diff([]string{"false 1 0", "true 1 4"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
