package observe

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

// talk is an HTTP/2 connection written by hand: frames of either side, in the
// order in which an observer is to see them.
type talk struct {
	client, live *frames
	events       []event
}

// newTalk has both prefaces behind it.
func newTalk() *talk {
	t := &talk{client: newFrames(), live: newFrames()}
	t.client.out.WriteString(clientPreface)
	t.client.fr.WriteSettings()
	t.live.fr.WriteSettings()
	t.flush()
	t.client.fr.WriteSettingsAck()
	t.live.fr.WriteSettingsAck()
	t.client.fr.AllowIllegalWrites = true
	t.live.fr.AllowIllegalWrites = true
	t.flush()
	return t
}

// flush makes events of what was written, the client's first.
func (t *talk) flush() {
	if s := t.client.take(); s != "" {
		t.events = append(t.events, client(s))
	}
	if s := t.live.take(); s != "" {
		t.events = append(t.events, live(s))
	}
}

var (
	get2  = []string{":method", "GET", ":scheme", "http", ":path", "/g?q", ":authority", "h"}
	post2 = []string{":method", "POST", ":scheme", "https", ":path", "/p", ":authority", "h"}
	ok2   = []string{":status", "200"}
)

func and(fields []string, more ...string) []string {
	return append(append([]string(nil), fields...), more...)
}

// without leaves out the field called name.
func without(fields []string, name string) (out []string) {
	for i := 0; i < len(fields); i += 2 {
		if fields[i] != name {
			out = append(out, fields[i], fields[i+1])
		}
	}
	return out
}

// instead replaces the value of the field called name.
func instead(fields []string, name, value string) []string {
	out := append([]string(nil), fields...)
	for i := 0; i < len(out); i += 2 {
		if out[i] == name {
			out[i+1] = value
		}
	}
	return out
}

// TestHTTP2 holds what HTTP/2 connections say.
func TestHTTP2(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(t *talk)
		want  []string
		rule  Rule
	}{
		{"get", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...).data(1, true, "abc")
		}, []string{"GET /g?q 200 abc complete"}, 0},
		{"answer in a header", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "204")
		}, []string{"GET /g?q 204 complete"}, 0},
		{"bodies in pieces, trailers", func(t *talk) {
			t.client.headers(1, false, post2...).data(1, false, "ab").data(1, false, "c").headers(1, true, "t", "1")
			t.live.headers(1, false, ok2...).data(1, false, "d").data(1, false, "ef").headers(1, true, "u", "2")
		}, []string{"POST /p abc 200 def complete"}, 0},
		{"end in an empty frame", func(t *talk) {
			t.client.headers(1, false, post2...).data(1, false, "ab").data(1, true, "")
			t.live.headers(1, false, ok2...).data(1, false, "").data(1, true, "")
		}, []string{"POST /p ab 200 complete"}, 0},
		{"interleaved", func(t *talk) {
			t.client.headers(1, false, post2...).headers(3, false, post2...).data(3, true, "three").data(1, true, "one")
			t.live.headers(3, false, ok2...).headers(1, false, ok2...).data(1, true, "1").data(3, true, "3")
		}, []string{"POST /p one 200 1 complete", "POST /p three 200 3 complete"}, 0},
		{"interim answers", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ":status", "103", "link", "x").headers(1, false, ":status", "100").headers(1, true, ok2...)
		}, []string{"GET /g?q 200 complete"}, 0},
		{"padding, priority and other frames", func(t *talk) {
			fr := t.client.fr
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: t.client.block(post2...), EndHeaders: true, PadLength: 9,
				Priority: http2.PriorityParam{StreamDep: 0, Weight: 3}})
			fr.WriteDataPadded(1, false, []byte("a"), make([]byte, 255))
			fr.WriteDataPadded(1, false, nil, make([]byte, 7))
			fr.WriteDataPadded(1, false, []byte("b"), []byte{})
			fr.WritePing(false, [8]byte{1})
			fr.WritePriority(5, http2.PriorityParam{StreamDep: 1})
			fr.WriteWindowUpdate(0, 9)
			fr.WriteRawFrame(0x10, 0, 0, []byte("priority update"))
			fr.WriteRawFrame(0xbf, 0xff, 1, []byte("greased"))
			fr.WriteDataPadded(1, true, []byte("c"), make([]byte, 3))
			t.live.headers(1, false, ok2...)
			t.live.fr.WriteDataPadded(1, true, nil, make([]byte, 5))
		}, []string{"POST /p abc 200 complete"}, 0},
		{"continuation", func(t *talk) {
			b := t.client.block(and(post2, "x-long", strings.Repeat("v", 1000))...)
			t.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:1]})
			t.client.fr.WriteContinuation(1, false, b[1:10])
			t.client.fr.WriteContinuation(1, false, nil)
			t.client.fr.WriteContinuation(1, true, b[10:])
			t.client.data(1, true, "z")
			t.live.headers(1, true, ok2...)
		}, []string{"POST /p z 200 complete"}, 0},
		{"host without authority", func(t *talk) {
			t.client.headers(1, true, and(without(get2, ":authority"), "host", "h")...)
			t.live.headers(1, true, ok2...)
		}, []string{"GET /g?q 200 complete"}, 0},
		{"pushed stream", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...)
			t.live.fr.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: t.live.block(and(get2, "x", "pushed")...), EndHeaders: true})
			t.live.headers(2, false, and(ok2, "x", "pushed")...).data(2, true, "pushed").data(1, true, "abc")
		}, []string{"GET /g?q 200 abc complete"}, 0},

		{"live resets", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...).data(1, false, "ab").fr.WriteRSTStream(1, http2.ErrCodeInternal)
		}, []string{"GET /g?q 200 ab live_aborted"}, 0},
		{"client resets", func(t *talk) {
			t.client.headers(1, true, get2...).fr.WriteRSTStream(1, http2.ErrCodeCancel)
			t.live.headers(1, false, ok2...).data(1, true, "late")
		}, []string{"GET /g?q client_cut"}, 0},
		{"client goes on after live's reset", func(t *talk) {
			t.client.headers(1, false, post2...)
			t.live.fr.WriteRSTStream(1, http2.ErrCodeInternal)
			t.flush()
			t.client.data(1, false, "late").headers(1, true, "t", "late")
			t.client.headers(3, true, and(get2, "t", "late")...) // HPACK state is intact
			t.live.headers(3, true, ok2...)
		}, []string{"POST /p live_aborted", "GET /g?q 200 complete"}, 0},
		{"live resets in the middle of a frame", func(t *talk) {
			t.client.headers(1, false, post2...).data(1, true, "abcdef")
			s := t.client.take()
			t.events = append(t.events, client(s[:len(s)-3]))
			t.live.fr.WriteRSTStream(1, http2.ErrCodeInternal)
			t.flush()
			t.events = append(t.events, client(s[len(s)-3:]))
			t.client.headers(3, true, get2...)
			t.live.headers(3, true, ok2...)
		}, []string{"POST /p abc live_aborted", "GET /g?q 200 complete"}, 0},
		{"refused", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
		}, []string{"GET /g?q refused"}, 0},
		{"goaway", func(t *talk) {
			t.client.headers(1, true, get2...).headers(3, true, post2...).headers(5, true, post2...)
			t.live.fr.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
			t.live.fr.WriteGoAway(1, http2.ErrCodeNo, []byte("bye"))
			t.live.headers(1, true, ok2...)
			t.flush()
			t.client.headers(7, true, get2...)
		}, []string{"POST /p refused", "POST /p refused", "GET /g?q 200 complete"}, 0},
		{"goaway from what was begun", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...).fr.WriteGoAway(0, http2.ErrCodeInternal, nil)
		}, []string{"GET /g?q 200 live_aborted"}, 0},
		{"client's goaway", func(t *talk) {
			t.client.headers(1, true, get2...).fr.WriteGoAway(0, http2.ErrCodeNo, nil)
			t.live.headers(1, true, ok2...)
		}, []string{"GET /g?q 200 complete"}, 0},
		{"early answer, request ends", func(t *talk) {
			t.client.headers(1, false, post2...)
			t.live.headers(1, true, ok2...)
			t.flush()
			t.client.data(1, true, "late")
		}, []string{"POST /p late 200 complete"}, 0},
		{"early answer, no error", func(t *talk) {
			t.client.headers(1, false, post2...).data(1, false, "ab")
			t.live.headers(1, true, ok2...).fr.WriteRSTStream(1, http2.ErrCodeNo)
		}, []string{"POST /p ab 200 early"}, 0},
		{"connection ends", func(t *talk) {
			t.client.headers(1, true, get2...).headers(3, false, post2...)
			t.live.headers(1, false, ok2...)
		}, []string{"GET /g?q 200 live_aborted", "POST /p live_aborted"}, 0},
		{"client ends its side", func(t *talk) {
			t.client.headers(1, true, get2...).headers(3, false, post2...)
			t.flush()
			t.events = append(t.events, event{side: Client, eof: true})
			t.live.headers(1, true, ok2...).headers(3, true, ok2...)
		}, []string{"GET /g?q 200 complete", "POST /p 200 client_cut"}, 0},
		{"connect", func(t *talk) {
			t.client.headers(1, false, ":method", "CONNECT", ":authority", "h:1").data(1, false, "raw").headers(3, true, get2...)
			t.live.headers(1, false, ok2...).data(1, false, "raw").headers(3, true, ok2...)
		}, []string{"GET /g?q 200 complete", "CONNECT   200  tunnelled"}, 0},
		{"extended connect", func(t *talk) {
			t.client.headers(1, false, and(instead(post2, ":method", "CONNECT"), ":protocol", "websocket")...)
			t.live.headers(1, true, ok2...)
		}, []string{"CONNECT /p 200 tunnelled"}, 0},
		{"head", func(t *talk) {
			t.client.headers(1, true, instead(get2, ":method", "HEAD")...)
			t.live.headers(1, true, and(ok2, "content-length", "9")...)
		}, []string{"HEAD /g?q 200 complete"}, 0},
		{"not modified", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "304", "content-length", "9")
		}, []string{"GET /g?q 304 complete"}, 0},
		{"lengths that hold", func(t *talk) {
			t.client.headers(1, false, and(post2, "content-length", "2")...).data(1, true, "ab")
			t.live.headers(1, false, and(ok2, "content-length", "3")...).data(1, true, "abc")
		}, []string{"POST /p ab 200 abc complete"}, 0},

		// Malformed, rejected by live.
		{"upper case, reset", func(t *talk) {
			t.client.headers(1, true, and(get2, "X-A", "b")...).headers(3, true, get2...)
			t.live.headers(3, true, ok2...).fr.WriteRSTStream(1, http2.ErrCodeProtocol)
		}, []string{"GET /g?q 200 complete", "GET /g?q malformed h2_field_name"}, 0},
		{"upper case, 400", func(t *talk) {
			t.client.headers(1, true, and(get2, "X-A", "b")...)
			t.live.headers(1, true, ":status", "400")
		}, []string{"GET /g?q 400 malformed h2_field_name"}, 0},
		{"upper case, served", func(t *talk) {
			t.client.headers(1, true, and(get2, "X-A", "b")...).headers(3, true, get2...)
			t.live.headers(1, true, ok2...)
		}, []string{"GET /g?q unobserved"}, H2FieldName},
		{"length that does not hold, reset", func(t *talk) {
			t.client.headers(1, false, and(post2, "content-length", "3")...).data(1, true, "ab")
			t.live.fr.WriteRSTStream(1, http2.ErrCodeProtocol)
		}, []string{"POST /p ab malformed h2_length"}, 0},
		{"length that does not hold, served", func(t *talk) {
			t.client.headers(1, false, and(post2, "content-length", "3")...).data(1, true, "ab")
			t.live.headers(1, true, ok2...)
		}, []string{"POST /p ab 200 unobserved h2_length"}, H2Length},
		{"length that does not hold, answered before", func(t *talk) {
			t.client.headers(1, false, and(post2, "content-length", "3")...)
			t.live.headers(1, true, ok2...)
			t.flush()
			t.client.data(1, true, "ab")
		}, []string{"POST /p ab 200 unobserved h2_length"}, H2Length},

		// Malformed answers.
		{"no status", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, "a", "b")
		}, []string{"GET /g?q malformed h2_target"}, 0},
		{"odd status", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "2x0")
		}, []string{"GET /g?q malformed h2_target"}, 0},
		{"switching protocols", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ":status", "101").headers(1, true, ok2...)
		}, []string{"GET /g?q 200 malformed h2_target"}, 0},
		{"interim answer that ends", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "103")
		}, []string{"GET /g?q malformed h2_message"}, 0},
		{"data before the answer", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.data(1, false, "x").headers(1, true, ok2...)
		}, []string{"GET /g?q 200 malformed h2_message"}, 0},
		{"answer with another length", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, and(ok2, "content-length", "3")...).data(1, true, "ab")
		}, []string{"GET /g?q 200 ab malformed h2_length"}, 0},
		{"answer with a request's field", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "200", ":path", "/")
		}, []string{"GET /g?q 200 malformed h2_pseudo"}, 0},
		{"header in the middle", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...).headers(1, false, "t", "1").data(1, true, "a")
		}, []string{"GET /g?q 200 a malformed h2_message"}, 0},
		{"answer with connection", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ":status", "200", "connection", "close")
		}, []string{"GET /g?q 200 malformed h2_connection_field"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			talk := newTalk()
			tt.write(talk)
			talk.flush()
			r := run(New(Config{}), talk.events, nil)
			same(t, "exchanges", briefs(r.done), tt.want)
			if r.rule() != tt.rule {
				t.Errorf("got rule %v, want %v", r.rule(), tt.rule)
			}
			splitInvariant(t, talk.events)
		})
	}
}

func TestExchangeHTTP2(t *testing.T) {
	talk := newTalk()
	talk.client.headers(1, false, and(post2, "x-user", "ann", "cookie", "a=b", "cookie", "c=d")...).data(1, false, "ab")
	talk.flush()
	talk.client.headers(1, true, "sum", "1")
	talk.live.headers(1, false, and(ok2, "a", "b")...).data(1, false, "xyz")
	talk.flush()
	talk.live.headers(1, true, "grpc-status", "0")
	talk.flush()
	r := run(New(Config{}), talk.events, nil)
	same(t, "exchange", r.done, []exchange{{
		Protocol: HTTP2, Stream: 1, Seq: 1, Method: "POST", Scheme: "https", Authority: "h", Path: "/p", Target: "/p",
		Request: message{
			Header: []pair{{"x-user", "ann"}, {"cookie", "a=b"}, {"cookie", "c=d"}}, Trailer: []pair{{"sum", "1"}},
			Body: "ab", Size: 2, Hash: hashOf("ab"), First: 5, Last: 6, Complete: true,
		},
		Answer: message{
			Header: []pair{{"a", "b"}}, Trailer: []pair{{"grpc-status", "0"}},
			Body: "xyz", Size: 3, Hash: hashOf("xyz"), First: 7, Last: 8, Complete: true,
		},
		Status: 200, Outcome: Complete,
	}})
}

// A request that breaks a rule is not told to Sink.Request, and live's refusal
// ends it alone.
func TestHTTP2MalformedRequests(t *testing.T) {
	for _, tt := range []struct {
		name   string
		fields []string
		want   Rule
	}{
		{"upper case", and(get2, "A", "b"), H2FieldName},
		{"space in name", and(get2, "a b", "c"), H2FieldName},
		{"colon in name", and(get2, "a:b", "c"), H2FieldName},
		{"CR LF in name", and(get2, "a\r\nb", "c"), H2FieldName},
		{"no name", and(get2, "", "c"), H2FieldName},
		{"CR LF in value", and(get2, "a", "b\r\nTransfer-Encoding: chunked"), H2FieldValue},
		{"LF in value", and(get2, "a", "b\nc"), H2FieldValue},
		{"NUL in value", and(get2, "a", "b\x00c"), H2FieldValue},
		{"space before value", and(get2, "a", " b"), H2FieldValue},
		{"tab after value", and(get2, "a", "b\t"), H2FieldValue},
		{"transfer-encoding", and(get2, "transfer-encoding", "chunked"), H2ConnectionField},
		{"connection", and(get2, "connection", "close"), H2ConnectionField},
		{"keep-alive", and(get2, "keep-alive", "1"), H2ConnectionField},
		{"proxy-connection", and(get2, "proxy-connection", "close"), H2ConnectionField},
		{"upgrade", and(get2, "upgrade", "h2c"), H2ConnectionField},
		{"te gzip", and(get2, "te", "gzip"), H2ConnectionField},
		{"no method", without(get2, ":method"), H2Pseudo},
		{"no path", without(get2, ":path"), H2Pseudo},
		{"no scheme", without(get2, ":scheme"), H2Pseudo},
		{"nothing", nil, H2Pseudo},
		{"path twice", and(get2, ":path", "/evil"), H2Pseudo},
		{"late", and(get2[:6], "a", "b", ":authority", "h"), H2Pseudo},
		{"unknown", and(get2, ":evil", "1"), H2Pseudo},
		{"status", and(get2, ":status", "200"), H2Pseudo},
		{"empty path", instead(get2, ":path", ""), H2Target},
		{"relative path", instead(get2, ":path", "g"), H2Target},
		{"absolute path", instead(get2, ":path", "http://h/"), H2Target},
		{"space in path", instead(get2, ":path", "/ HTTP/1.1"), H2Target},
		{"CR LF in path", instead(get2, ":path", "/\r\nHost: g"), H2Target},
		{"fragment", instead(get2, ":path", "/#f"), H2Target},
		{"asterisk and get", instead(get2, ":path", "*"), H2Target},
		{"method no token", instead(get2, ":method", "GET / HTTP/1.1\r\n"), H2Target},
		{"head in lower case", instead(get2, ":method", "head"), H2Target},
		{"connect in lower case", instead(get2, ":method", "connect"), H2Target},
		{"odd scheme", instead(get2, ":scheme", "http://g/?"), H2Target},
		{"authority with user", instead(get2, ":authority", "u@h"), H2Authority},
		{"authority with path", instead(get2, ":authority", "h/evil"), H2Authority},
		{"other host", and(get2, "host", "g"), H2Authority},
		{"two hosts", and(get2, "host", "h", "host", "h"), H2Authority},
		{"no authority", without(get2, ":authority"), H2Authority},
		{"length with sign", and(get2, "content-length", "+0"), H2Length},
		{"length twice", and(get2, "content-length", "0", "content-length", "0"), H2Length},
		{"length and no content", and(get2, "content-length", "1"), H2Length},
	} {
		t.Run(tt.name, func(t *testing.T) {
			talk := newTalk()
			talk.client.headers(1, true, tt.fields...)
			talk.live.fr.WriteRSTStream(1, http2.ErrCodeProtocol)
			talk.flush()
			r := run(New(Config{}), talk.events, nil)
			if len(r.done) != 1 || r.done[0].Outcome != Malformed || r.done[0].Broken != tt.want || r.rule() != 0 {
				t.Errorf("got %v, rule %v; want one malformed by %v", briefs(r.done), r.rule(), tt.want)
			}
			if told := tt.name == "length and no content"; (r.requests > 0) != told {
				t.Errorf("Sink.Request was called %d times", r.requests)
			}

			// Served: the connection is given up.
			talk = newTalk()
			talk.client.headers(1, true, tt.fields...)
			talk.live.headers(1, true, ok2...)
			talk.flush()
			r = run(New(Config{}), talk.events, nil)
			if r.rule() != tt.want {
				t.Errorf("served: got rule %v, want %v", r.rule(), tt.want)
			}
			splitInvariant(t, talk.events)
		})
	}
}

// What breaks the connection.
func TestHTTP2Rules(t *testing.T) {
	raw := func(fr *http2.Framer, typ http2.FrameType, flags http2.Flags, stream uint32, n int) {
		fr.WriteRawFrame(typ, flags, stream, make([]byte, n))
	}
	for _, tt := range []struct {
		name  string
		write func(t *talk)
		want  Rule
	}{
		{"http1 answer", func(t *talk) { t.live.out.WriteString("HTTP/1.1 400 Bad Request\r\n\r\n") }, H2FrameSize},
		{"frame too large", func(t *talk) { raw(t.client.fr, 0, 0, 1, 16<<10+1) }, H2FrameSize},
		{"ping on a stream is not ours to judge", func(t *talk) { raw(t.client.fr, 6, 0, 1, 8) }, 0},
		{"settings of odd size", func(t *talk) { raw(t.client.fr, 4, 0, 0, 5) }, H2FrameSize},
		{"settings ack with payload", func(t *talk) { raw(t.client.fr, 4, 1, 0, 6) }, H2FrameSize},
		{"settings on a stream", func(t *talk) { raw(t.client.fr, 4, 0, 1, 0) }, H2StreamID},
		{"ack of nothing", func(t *talk) { t.client.fr.WriteSettingsAck() }, H2Settings},
		{"frame size setting too small", func(t *talk) { t.live.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 100}) }, H2Settings},
		{"rst of odd size", func(t *talk) { t.client.headers(1, false, post2...); raw(t.client.fr, 3, 0, 1, 3) }, H2FrameSize},
		{"rst of an idle stream", func(t *talk) { t.live.fr.WriteRSTStream(7, 0) }, H2StreamID},
		{"goaway too short", func(t *talk) { raw(t.live.fr, 7, 0, 0, 7) }, H2FrameSize},
		{"goaway on a stream", func(t *talk) { raw(t.live.fr, 7, 0, 1, 8) }, H2StreamID},
		{"data on an idle stream", func(t *talk) { t.client.data(1, false, "x") }, H2StreamID},
		{"data on no stream", func(t *talk) { t.client.data(0, false, "x") }, H2StreamID},
		{"closed stream opened again", func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, true, ok2...)
			t.flush()
			t.client.headers(1, true, get2...)
		}, H2StreamID},
		{"skipped stream opened", func(t *talk) { t.client.headers(3, true, get2...).headers(1, true, get2...) }, H2StreamID},
		{"answer to nothing", func(t *talk) { t.live.headers(1, true, ok2...) }, H2StreamID},
		{"header on no stream", func(t *talk) { t.client.headers(0, true, get2...) }, H2StreamID},
		{"even stream", func(t *talk) { t.client.headers(2, true, get2...) }, H2StreamID},
		{"push by the client", func(t *talk) { raw(t.client.fr, 5, 4, 1, 9) }, H2StreamID},
		{"continuation of nothing", func(t *talk) { t.client.fr.WriteContinuation(1, true, nil) }, H2Order},
		{"continuation of another", func(t *talk) {
			t.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: t.client.block(get2...)})
			t.client.fr.WriteContinuation(3, true, nil)
		}, H2Order},
		{"block interrupted", func(t *talk) {
			t.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: t.client.block(get2...)})
			t.client.fr.WritePing(false, [8]byte{})
		}, H2Order},
		{"padding past the frame", func(t *talk) {
			t.client.headers(1, false, post2...)
			t.client.fr.WriteRawFrame(0, 8, 1, []byte{9, 'a'})
		}, H2Padding},
		{"padded data without a length", func(t *talk) {
			t.client.headers(1, false, post2...)
			t.client.fr.WriteRawFrame(0, 8, 1, nil)
		}, H2Padding},
		{"padded header without a length", func(t *talk) { t.client.fr.WriteRawFrame(1, 8|4, 1, nil) }, H2Padding},
		{"padding past the block", func(t *talk) { t.client.fr.WriteRawFrame(1, 8|4, 1, []byte{9, 0x82}) }, H2Padding},
		{"priority cut", func(t *talk) { t.client.fr.WriteRawFrame(1, 0x20|4, 1, []byte{1, 2}) }, H2Padding},
		{"unknown index", func(t *talk) { t.client.fr.WriteRawFrame(1, 4, 1, []byte{0xff, 0x7f}) }, H2Block},
		{"block cut", func(t *talk) { t.client.fr.WriteRawFrame(1, 4, 1, []byte{0x40, 0x05, 'a'}) }, H2Block},
		{"update cut", func(t *talk) { t.client.fr.WriteRawFrame(1, 4, 1, []byte{0x3f, 0xff}) }, H2Block},
		{"update in the middle", func(t *talk) { t.client.fr.WriteRawFrame(1, 4, 1, []byte{0x40, 1, 'a', 1, 'b', 0x3e}) }, H2Block},
		{"table larger than the setting", func(t *talk) {
			t.client.enc.SetMaxDynamicTableSizeLimit(8192)
			t.client.enc.SetMaxDynamicTableSize(8192)
			t.client.headers(1, true, get2...)
		}, H2TableSize},
		{"header list too large", func(t *talk) { t.client.headers(1, true, and(get2, "a", strings.Repeat("\x01", 60<<10))...) }, H2FrameSize},
		{"header bomb", func(t *talk) {
			big := strings.Repeat("x", 3000)
			b := t.client.block("a", big)
			for range 40 {
				b = append(b, t.client.block("a", big)...)
			}
			t.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b, EndHeaders: true})
		}, LimitHead},
		{"string too long", func(t *talk) { t.client.fr.WriteRawFrame(1, 4, 1, []byte{0x40, 0x7f, 0xff, 0xff, 0x7f}) }, LimitHead},
		{"settings too many", func(t *talk) {
			for range maxUnacked + 1 {
				t.live.fr.WriteSettings()
			}
		}, LimitSettings},
		{"settings too large", func(t *talk) { raw(t.live.fr, 4, 0, 0, maxSettings+6) }, LimitSettings},
	} {
		t.Run(tt.name, func(t *testing.T) {
			talk := newTalk()
			tt.write(talk)
			talk.flush()
			r := run(New(Config{}), talk.events, nil)
			if r.rule() != tt.want {
				t.Errorf("got rule %v, want %v", r.rule(), tt.want)
			}
			splitInvariant(t, talk.events)
		})
	}

	for name, first := range map[string]string{
		"ping first": "\x00\x00\x08\x06\x00\x00\x00\x00\x00........", "ack first": "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
	} {
		if r := run(New(Config{}), []event{client(clientPreface + first)}, nil); r.rule() != H2Preface {
			t.Errorf("%s: got rule %v, want %v", name, r.rule(), H2Preface)
		}
	}
}

// The limit on the table that an encoder may use moves where the encoder
// acknowledges the SETTINGS, not where they are sent.
func TestTableSize(t *testing.T) {
	table := func(n uint32) http2.Setting { return http2.Setting{ID: http2.SettingHeaderTableSize, Val: n} }
	use := func(f *frames, n uint32) {
		f.enc.SetMaxDynamicTableSizeLimit(n)
		f.enc.SetMaxDynamicTableSize(n)
	}
	request := func(t *talk, stream uint32) {
		t.client.headers(stream, true, and(get2, "x", strings.Repeat("v", 100))...)
		t.live.headers(stream, true, ok2...)
		t.flush()
	}
	for _, tt := range []struct {
		name  string
		write func(t *talk)
		want  Rule
	}{
		{"larger after the ack", func(t *talk) {
			t.live.fr.WriteSettings(table(32 << 10))
			t.flush()
			t.client.fr.WriteSettingsAck()
			use(t.client, 32<<10)
			request(t, 1)
			request(t, 3)
		}, 0},
		{"larger before the ack", func(t *talk) {
			t.live.fr.WriteSettings(table(8192))
			t.flush()
			use(t.client, 8192)
			request(t, 1)
			t.client.fr.WriteSettingsAck()
			request(t, 3)
		}, 0},
		{"smaller, with an update", func(t *talk) {
			request(t, 1)
			t.live.fr.WriteSettings(table(100))
			t.flush()
			request(t, 3) // the old size holds until the acknowledgement
			t.client.fr.WriteSettingsAck()
			use(t.client, 100)
			request(t, 5)
			request(t, 7)
		}, 0},
		{"smaller, without an update", func(t *talk) {
			request(t, 1)
			t.live.fr.WriteSettings(table(100))
			t.flush()
			t.client.fr.WriteSettingsAck()
			request(t, 3)
		}, H2TableSize},
		{"smaller, with too large an update", func(t *talk) {
			t.live.fr.WriteSettings(table(100))
			t.flush()
			t.client.fr.WriteSettingsAck()
			use(t.client, 200)
			request(t, 1)
		}, H2TableSize},
		{"down and up again", func(t *talk) {
			request(t, 1)
			t.live.fr.WriteSettings(table(0))
			t.live.fr.WriteSettings(table(4096))
			t.flush()
			t.client.fr.WriteSettingsAck()
			t.client.fr.WriteSettingsAck()
			use(t.client, 0)
			use(t.client, 4096) // the encoder writes both, the smaller first
			request(t, 3)
			request(t, 5)
		}, 0},
		{"larger than we follow", func(t *talk) {
			t.live.fr.WriteSettings(table(1 << 20))
			t.flush()
			t.client.fr.WriteSettingsAck()
			request(t, 1) // allowed, not used
			use(t.client, 1<<20)
			request(t, 3)
		}, LimitTable},
		{"live's encoder", func(t *talk) {
			t.client.fr.WriteSettings(table(0))
			t.flush()
			t.live.fr.WriteSettingsAck()
			use(t.live, 0)
			request(t, 1)
			request(t, 3)
		}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			talk := newTalk()
			tt.write(talk)
			r := run(New(Config{}), talk.events, nil)
			if r.rule() != tt.want {
				t.Errorf("got rule %v, want %v", r.rule(), tt.want)
			}
			for _, x := range r.done {
				if x.Outcome == Complete && (len(x.Request.Header) != 1 || len(x.Request.Header[0].Value) != 100) {
					t.Errorf("got header %v", x.Request.Header)
				}
			}
			splitInvariant(t, talk.events)
		})
	}
}

// A larger frame is allowed from when it is announced.
func TestFrameSize(t *testing.T) {
	talk := newTalk()
	talk.client.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 20})
	talk.client.headers(1, true, get2...)
	talk.live.headers(1, false, ok2...)
	body := strings.Repeat("x", 500_000)
	talk.live.fr.WriteData(1, true, []byte(body))
	talk.flush()
	r := run(New(Config{}), talk.events, nil)
	if len(r.done) != 1 || r.done[0].Answer.Body != body || r.rule() != 0 {
		t.Errorf("got %d exchanges, rule %v", len(r.done), r.rule())
	}
}

func TestHTTP2AnyCut(t *testing.T) {
	talk := newTalk()
	b := talk.client.block(and(post2, "x", strings.Repeat("v", 50))...)
	talk.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:9], PadLength: 3})
	talk.client.fr.WriteContinuation(1, true, b[9:])
	talk.client.fr.WriteDataPadded(1, false, []byte("abc"), make([]byte, 5))
	talk.client.headers(3, true, get2...).data(1, true, "def")
	talk.live.headers(3, false, ok2...).headers(1, false, ":status", "103").headers(1, false, ok2...).data(1, false, "x").data(3, true, "y").headers(1, true, "t", "u")
	talk.flush()
	want := run(New(Config{}), talk.events, nil)
	if len(want.done) != 2 || want.rule() != 0 {
		t.Fatalf("got %v, %v", briefs(want.done), want.gaveUp)
	}
	rapid.Check(t, func(rt *rapid.T) {
		got := run(New(Config{}), talk.events, anyCut(rt))
		same(t, "exchanges", got.done, want.done)
	})
}

// stream2 is one stream as x/net's Framer reads it.
type stream2 struct {
	Header, Trailer []pair
	Body            string
	ended, spoiled  bool
}

// judged leaves out the frames that say nothing about exchanges. The observer
// skips them; the Framer ends the connection when they are not well formed.
func judged(data string) (out string) {
	for len(data) >= 9 {
		n := min(9+int(data[0])<<16+int(data[1])<<8+int(data[2]), len(data))
		switch data[3] {
		case frameData, frameHeaders, frameRST, frameSetting, framePush, frameGoAway, frameCont:
			out += data[:n]
		}
		data = data[n:]
	}
	return out
}

// theirStreams reads one side of an HTTP/2 connection with x/net's Framer and
// HPACK, as far as they go.
func theirStreams(data string) map[uint32]*stream2 {
	out := map[uint32]*stream2{}
	fr := http2.NewFramer(nil, strings.NewReader(judged(data)))
	fr.ReadMetaHeaders = hpack.NewDecoder(mostTable, nil) // a larger table decodes what a smaller one does
	fr.MaxHeaderListSize = 64 << 10
	for {
		f, err := fr.ReadFrame()
		if se, ok := err.(http2.StreamError); ok {
			if s := out[se.StreamID]; s == nil || !s.ended {
				out[se.StreamID] = &stream2{spoiled: true}
			}
			continue
		}
		if err != nil {
			return out
		}
		id := f.Header().StreamID
		s := out[id]
		if s != nil && s.ended {
			continue
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			var fields []pair
			for _, h := range f.Fields {
				fields = append(fields, pair{h.Name, h.Value})
			}
			status := f.PseudoValue("status")
			switch {
			case len(status) == 3 && status[0] == '1':
			case s == nil:
				s = &stream2{Header: fields}
				out[id] = s
			default:
				s.Trailer = fields
			}
			if s != nil && f.StreamEnded() {
				s.ended = true
			}
		case *http2.DataFrame:
			if s != nil {
				s.Body += string(f.Data())
				s.ended = s.ended || f.StreamEnded()
			}
		}
	}
}

// differ2 compares complete exchanges with what x/net reads.
func differ2(o *Observer, fromClient, fromLive string) error {
	_, err := differEvents(o, []event{client(clientPreface + fromClient), live(fromLive)})
	return err
}

// differEvents is differ2 for a conversation in the order of its events. It
// returns how many exchanges were compared.
func differEvents(o *Observer, events []event) (compared int, err error) {
	r := run(o, events, nil)
	var said [2]string
	for _, e := range events {
		said[e.side] += e.data
	}
	requests, answers := theirStreams(strings.TrimPrefix(said[Client], clientPreface)), theirStreams(said[Live])
	for _, x := range r.done {
		if x.Outcome != Complete {
			continue
		}
		compared++
		for i, m := range []message{x.Request, x.Answer} {
			theirs := requests[x.Stream]
			pseudo := []pair{{":method", x.Method}, {":scheme", x.Scheme}, {":path", x.Target}, {":authority", x.Authority}}
			if i == 1 {
				theirs, pseudo = answers[x.Stream], []pair{{":status", fmt.Sprint(x.Status)}}
			}
			if theirs == nil || theirs.spoiled || !theirs.ended {
				return compared, fmt.Errorf("stream %d, message %d exists for us alone: %+v", x.Stream, i, theirs)
			}
			var regular []pair
			for _, f := range theirs.Header {
				if !strings.HasPrefix(f.Name, ":") {
					regular = append(regular, f)
					continue
				}
				found := false
				for _, p := range pseudo {
					found = found || p == f
				}
				if !found {
					return compared, fmt.Errorf("stream %d: we have %v, x/net has %v", x.Stream, pseudo, f)
				}
			}
			got := fmt.Sprintf("%q %q %q", m.Header, m.Trailer, m.Body)
			want := fmt.Sprintf("%q %q %q", regular, theirs.Trailer, theirs.Body)
			if got != want {
				return compared, fmt.Errorf("stream %d: got %s, x/net reads %s", x.Stream, got, want)
			}
		}
	}
	return compared, nil
}

// conversations are what both sides of an HTTP/2 connection say after the
// preface, to start from.
func conversations() (out [][2]string) {
	for _, write := range []func(t *talk){
		func(t *talk) {
			t.client.headers(1, true, get2...)
			t.live.headers(1, false, ok2...).data(1, true, "abc")
		},
		func(t *talk) {
			t.client.headers(1, false, and(post2, "content-length", "3")...).data(1, true, "abc").headers(3, true, get2...)
			t.live.headers(1, false, ":status", "103").headers(3, true, ":status", "204").headers(1, false, ok2...).data(1, false, "x").headers(1, true, "t", "u")
		},
		func(t *talk) {
			b := t.client.block(and(post2, "x", "y")...)
			t.client.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], PadLength: 2})
			t.client.fr.WriteContinuation(1, true, b[3:])
			t.client.fr.WriteDataPadded(1, true, []byte("z"), make([]byte, 4))
			t.live.headers(1, true, ok2...).fr.WriteGoAway(1, 0, nil)
		},
		func(t *talk) {
			one, two := unary(t.client, t.live, 1, 20)
			t.client.out.WriteString(one)
			t.live.out.WriteString(two)
		},
	} {
		t := newTalk()
		t.events = nil
		t.client.fr.WriteSettings()
		t.live.fr.WriteSettings()
		write(t)
		out = append(out, [2]string{t.client.take(), t.live.take()})
	}
	return out
}

// FuzzHTTP2 looks for bytes that the observer and x/net read differently, for a
// way of cutting chunks that matters, and for memory left behind.
func FuzzHTTP2(f *testing.F) {
	for _, c := range conversations() {
		f.Add([]byte(c[0]), []byte(c[1]), uint8(3))
	}
	f.Fuzz(func(t *testing.T, fromClient, fromLive []byte, step uint8) {
		if err := differ2(New(Config{}), string(fromClient), string(fromLive)); err != nil {
			t.Error(err)
		}
		events := []event{client(clientPreface + string(fromClient)), live(string(fromLive)), {side: Live, eof: true}}
		cut := func(s string) (out []string) {
			for n := int(step)%13 + 1; len(s) > n; s = s[n:] {
				out = append(out, s[:n])
			}
			return append(out, s)
		}
		whole, pieces := run(New(Config{}), events, nil), run(New(Config{}), events, cut)
		same(t, "exchanges", pieces.done, whole.done)
		same(t, "abandonment", pieces.gaveUp, whole.gaveUp)
	})
}

// script turns bytes into a conversation that is mostly right: each step takes
// one byte to choose from the frames below and more for its details.
func script(ops []byte) []event {
	t := newTalk()
	next := func(n int) int {
		if len(ops) == 0 {
			return 0
		}
		v := int(ops[0])
		ops = ops[1:]
		return v % n
	}
	odd := [][]string{{"x", "y"}, {"X", "y"}, {"x", "a\nb"}, {"content-length", "3"}, {"te", "trailers"}, {"connection", "close"}, {"host", "g"},
		{":path", "/evil"}, {"cookie", "a"}, {"x-long", strings.Repeat("v", 300)}, {"", ""}}
	fields := func(base []string) []string {
		base = and(base, "x-user", fmt.Sprint(next(8)))
		if next(12) == 11 {
			base = and(base, odd[next(len(odd))]...)
		}
		return base
	}
	header := func(f *frames, stream uint32, end bool, list []string) {
		b := f.block(list...)
		p := http2.HeadersFrameParam{StreamID: stream, BlockFragment: b, EndStream: end, EndHeaders: true, PadLength: uint8(next(3))}
		if cut := next(8); cut > 5 && len(b) > cut {
			p.BlockFragment, p.EndHeaders = b[:cut], false
			f.fr.WriteHeaders(p)
			f.fr.WriteContinuation(stream, true, b[cut:])
			return
		}
		f.fr.WriteHeaders(p)
	}
	opened := uint32(0)
	stream := func() uint32 { return uint32(max(int(opened)-2*next(3), 1)) } // one of the last three
	sides := [2]*frames{t.client, t.live}
	resized := [2]bool{}
	for len(ops) > 0 {
		op := next(16)
		if opened == 0 {
			op = 0
		}
		switch op {
		case 0, 1, 2: // a request, whole or its beginning
			opened = (opened + 1) | 1
			whole := next(4)
			header(t.client, opened, whole == 0, fields([][]string{get2, post2, instead(get2, ":method", "HEAD"), grpcRequest}[next(4)]))
			if whole == 1 || whole == 2 {
				t.client.data(opened, true, "abc"[:next(4)])
			}
		case 3, 4:
			t.client.fr.WriteDataPadded(stream(), next(2) == 0, []byte("abc")[:next(4)], make([]byte, next(4)))
		case 5, 6, 7: // an answer, whole or its beginning
			t.flush()
			status := []string{"200", "200", "200", "204", "304", "400", "103"}[next(7)]
			id, whole := stream(), next(4)
			header(t.live, id, whole == 0, fields([]string{":status", status}))
			switch whole {
			case 1:
				t.live.data(id, true, "xyz"[:next(4)])
			case 2:
				t.live.data(id, false, "xyz"[:next(4)])
				header(t.live, id, true, fields([]string{"grpc-status", "0"}))
			}
		case 8, 9:
			t.flush()
			t.live.fr.WriteDataPadded(stream(), next(2) == 0, []byte("xyz")[:next(4)], make([]byte, next(4)))
		case 10:
			side := next(2)
			header(sides[side], stream(), next(4) > 0, fields([]string{"trailer", "t"}))
		case 11:
			sides[next(2)].fr.WriteRSTStream(stream(), http2.ErrCode(next(9)))
		case 12:
			side, size := next(2), uint32(next(3)*4096)
			if resized[side] { // x/net does not take two updates in one block
				continue
			}
			resized[side] = true
			sides[side].fr.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: size})
			t.flush()
			other := sides[1-side]
			other.fr.WriteSettingsAck()
			other.enc.SetMaxDynamicTableSizeLimit(size)
			other.enc.SetMaxDynamicTableSize(size)
		case 13:
			t.live.fr.WriteGoAway(stream(), 0, nil)
		case 14:
			sides[next(2)].fr.WriteRawFrame(http2.FrameType(next(32)), http2.Flags(next(256)), stream(), make([]byte, next(12)))
		case 15:
			t.flush()
		}
	}
	t.flush()
	return t.events
}

// TestHTTP2Script compares conversations that are mostly right.
func TestHTTP2Script(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	count, compared := 1000, 0
	if testing.Short() {
		count = 200
	}
	for range count {
		ops := make([]byte, 20+rng.IntN(180))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		events := script(ops)
		n, err := differEvents(New(Config{}), events)
		if err != nil {
			t.Fatalf("script %v: %v", ops, err)
		}
		compared += n
		splitInvariant(t, events)
	}
	t.Logf("%d exchanges compared", compared)
	if compared < count/5 {
		t.Errorf("only %d exchanges were compared", compared)
	}
}

// FuzzHTTP2Script is TestHTTP2Script led by coverage.
func FuzzHTTP2Script(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 1, 1, 2, 0, 9, 0, 0, 3, 0, 0, 3, 0, 12, 0, 1, 6, 0, 1, 0, 0, 0, 8, 0, 0, 3, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		events := script(ops)
		if _, err := differEvents(New(Config{}), events); err != nil {
			t.Error(err)
		}
		splitInvariant(t, events)
	})
}

// TestDiffer2Catches plants faults that the comparison with x/net must find.
func TestDiffer2Catches(t *testing.T) {
	for name, c := range map[Rule]func(t *talk){
		H2FieldName: func(t *talk) { t.client.headers(1, true, and(get2, "A", "b")...); t.live.headers(1, true, ok2...) },
		H2Pseudo: func(t *talk) {
			t.client.headers(1, true, and(get2, ":path", "/evil")...)
			t.live.headers(1, true, ok2...)
		},
	} {
		talk := newTalk()
		talk.events = nil
		talk.client.fr.WriteSettings()
		talk.live.fr.WriteSettings()
		c(talk)
		o := New(Config{})
		o.waived = name
		if differ2(o, talk.client.take(), talk.live.take()) == nil {
			t.Errorf("an observer without rule %v is not caught", name)
		}
	}
}

// A message is timed from the first byte of its header to its last one.
func TestTimes(t *testing.T) {
	talk := newTalk()
	talk.events = talk.events[:0]
	talk.client.fr.WriteSettings()
	talk.live.fr.WriteSettings()
	talk.client.headers(1, false, post2...).data(1, true, "ab")
	talk.live.headers(1, false, ":status", "103").headers(1, false, ok2...).data(1, false, "ab").headers(1, true, "t", "u")
	r := &recorder{}
	c := New(Config{}).Conn(r)
	second, interim := 0, 0
	for _, part := range []struct {
		feed func(time.Time, []byte)
		data string
	}{{c.FromClient, clientPreface + talk.client.take()}, {c.FromLive, talk.live.take()}} {
		for i := range part.data {
			second++
			part.feed(at(second), []byte(part.data[i:i+1]))
		}
		if interim == 0 {
			interim = second
		}
	}
	x := r.done[0]
	// Preface 24, SETTINGS 9, then the header; live: SETTINGS 9, a header of 9+4.
	got := [...]int64{x.Request.First, x.Request.Last, x.Answer.First - int64(interim), x.Answer.Last}
	want := [...]int64{24 + 9 + 1, int64(interim), 9 + 9 + 4 + 1, int64(second)}
	if got != want {
		t.Errorf("got times %d, want %d", got, want)
	}
}
