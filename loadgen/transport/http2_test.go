package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2/hpack"
)

// frames builds what a server sends.
type frames []byte

func (f frames) add(kind, flags byte, id uint32, payload ...byte) frames {
	return appendFrame(f, kind, flags, id, payload)
}

func (f frames) settings(pairs ...uint32) frames {
	var p []byte
	for i := 0; i < len(pairs); i += 2 {
		p = appendSetting(p, uint16(pairs[i]), pairs[i+1])
	}
	return f.add(frameSettings, 0, 0, p...)
}

func (f frames) headers(id uint32, flags byte, fields ...string) frames {
	return f.add(frameHeaders, flags|flagEndHeaders, id, block(fields...)...)
}

func (f frames) word(kind byte, id, word uint32) frames {
	return appendWord(f, kind, id, word)
}

func block(fields ...string) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		b = appendField(b, fields[i], fields[i+1])
	}
	return b
}

func message(n int) []byte { return appendMessage(nil, bytes.Repeat([]byte("m"), n)) }

// conversation is one end of a connection with calls under way on streams 1, 3, …
type conversation struct {
	h     *http2
	calls []*Call
}

func converse(p Protocol, n int, op Op) *conversation {
	op.Name, op.Path = "op", "/s/m"
	cfg := Config{Protocol: p, Ops: []Op{op}, MaxAnswer: 1 << 16}.WithDefaults()
	h := newHTTP2([]request2{newRequest2(&cfg.Ops[0], p, "http", "h")}, cfg, newBlockCache(), NewClock(time.Now()))
	c := &conversation{h: h}
	if err := h.receive(frames(nil).settings()); err != nil {
		panic(err)
	}
	h.out = nil
	for range n {
		call := new(Call)
		call.reset()
		h.start(call)
		c.calls = append(c.calls, call)
	}
	return c
}

// outcome is how a call ended; ended is false if it has not.
type outcome struct {
	Ended    bool
	Class    Class
	Code     int
	Received int64
	Messages int
	Refused  bool
}

func (c *conversation) outcomes() []outcome {
	var all []outcome
	for _, call := range c.calls {
		all = append(all, outcome{slices.Contains(c.h.ended, call), call.Class, call.Code, call.Received, call.Messages, call.refused})
	}
	return all
}

var grpcHead = []string{":status", "200", "content-type", "application/grpc+proto"}

func TestHTTP2Answers(t *testing.T) {
	for _, c := range []struct {
		name  string
		proto Protocol
		op    Op
		input frames
		want  outcome
	}{
		{"unary", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, message(3)...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, OK, 0, 8, 1, false}},
		{"status in trailers", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).headers(1, flagEnd, "grpc-status", "5", "grpc-message", "no"), outcome{true, Status, 5, 0, 0, false}},
		{"trailers only", GRPC, Op{}, frames(nil).headers(1, flagEnd, append(slices.Clone(grpcHead), "grpc-status", "16")...), outcome{true, Status, 16, 0, 0, false}},
		{"deadline exceeded", GRPC, Op{}, frames(nil).headers(1, flagEnd, append(slices.Clone(grpcHead), "grpc-status", "4")...), outcome{true, Timeout, 4, 0, 0, false}},
		{"a code that nobody knows", GRPC, Op{}, frames(nil).headers(1, flagEnd, append(slices.Clone(grpcHead), "grpc-status", "99")...), outcome{true, Status, 2, 0, 0, false}},
		{"no status", GRPC, Op{}, frames(nil).headers(1, flagEnd, grpcHead...), outcome{true, Status, 2, 0, 0, false}},
		{"a status that is no number", GRPC, Op{}, frames(nil).headers(1, flagEnd, append(slices.Clone(grpcHead), "grpc-status", "x")...), outcome{true, Malformed, 0, 0, 0, false}},
		{"stream", GRPC, Op{ServerStream: true}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, append(message(0), message(2)...)...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, OK, 0, 12, 2, false}},
		{"empty stream", GRPC, Op{ServerStream: true}, frames(nil).headers(1, 0, grpcHead...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, OK, 0, 0, 0, false}},
		{"unary without a message", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, Malformed, 0, 0, 0, false}},
		{"unary with two", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, append(message(1), message(1)...)...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, Malformed, 0, 12, 2, false}},
		{"half a message", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, message(3)[:6]...).headers(1, flagEnd, "grpc-status", "0"), outcome{true, Malformed, 0, 6, 0, false}},
		{"compressed though not asked for", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, 1, 0, 0, 0, 1, 9).headers(1, flagEnd, "grpc-status", "0"), outcome{true, Malformed, 0, 6, 1, false}},
		{"a message larger than allowed", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, 0, 0xff, 0, 0, 0), outcome{true, TooLarge, 0, 5, 0, false}},
		{"no trailers", GRPC, Op{}, frames(nil).headers(1, 0, grpcHead...).add(frameData, flagEnd, 1, message(1)...), outcome{true, Malformed, 0, 6, 1, false}},
		{"HTTP instead of gRPC", GRPC, Op{}, frames(nil).headers(1, 0, ":status", "503", "content-type", "text/html"), outcome{true, Status, 14, 0, 0, false}},
		{"200 instead of gRPC", GRPC, Op{}, frames(nil).headers(1, 0, ":status", "200", "content-type", "text/html"), outcome{true, Malformed, 0, 0, 0, false}},
		{"reset", GRPC, Op{}, frames(nil).word(frameReset, 1, 2), outcome{true, Reset, 0, 0, 0, false}},
		{"refused", GRPC, Op{}, frames(nil).word(frameReset, 1, codeRefused), outcome{true, Reset, 0, 0, 0, true}},
		{"going away before it", GRPC, Op{}, frames(nil).add(frameGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), outcome{true, Reset, 0, 0, 0, true}},
		{"going away after it", GRPC, Op{}, frames(nil).add(frameGoAway, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0), outcome{}},

		{"HTTP", HTTP2, Op{}, frames(nil).headers(1, 0, ":status", "200").add(frameData, flagEnd, 1, []byte("hello")...), outcome{true, OK, 200, 5, 0, false}},
		{"HTTP status", HTTP2, Op{}, frames(nil).headers(1, flagEnd, ":status", "404"), outcome{true, Status, 404, 0, 0, false}},
		{"HTTP trailers", HTTP2, Op{}, frames(nil).headers(1, 0, ":status", "200").headers(1, flagEnd, "x", "y"), outcome{true, OK, 200, 0, 0, false}},
		{"interim", HTTP2, Op{}, frames(nil).headers(1, 0, ":status", "103", "link", "x").headers(1, flagEnd, ":status", "204"), outcome{true, OK, 204, 0, 0, false}},
		{"padding and priority", HTTP2, Op{}, frames(nil).add(frameHeaders, flagEndHeaders|flagPadded|flagPriority, 1, append(append([]byte{2, 0, 0, 0, 0, 9}, block(":status", "200")...), 0, 0)...).add(frameData, flagEnd|flagPadded, 1, 3, 'a', 0, 0, 0), outcome{true, OK, 200, 1, 0, false}},
		{"continuation", HTTP2, Op{}, frames(nil).add(frameHeaders, flagEnd, 1, block(":status", "200")[:4]...).add(frameContinuation, flagEndHeaders, 1, block(":status", "200")[4:]...), outcome{true, OK, 200, 0, 0, false}},
		{"too large", HTTP2, Op{}, slices.Concat(frames(nil).headers(1, 0, ":status", "200"), slices.Repeat(frames(nil).add(frameData, 0, 1, make([]byte, 16384)...), 5)), outcome{true, TooLarge, 0, 5 * 16384, 0, false}},
		{"data before the header", HTTP2, Op{}, frames(nil).add(frameData, 0, 1, 'x'), outcome{true, Malformed, 0, 0, 0, false}},
		{"no status line", HTTP2, Op{}, frames(nil).headers(1, flagEnd, "x", "y"), outcome{true, Malformed, 0, 0, 0, false}},
		{"upper case", HTTP2, Op{}, frames(nil).headers(1, flagEnd, ":status", "200", "X-A", "y"), outcome{true, Malformed, 0, 0, 0, false}},
		{"status after a field", HTTP2, Op{}, frames(nil).headers(1, flagEnd, "x", "y", ":status", "200"), outcome{true, Malformed, 0, 0, 0, false}},
		{"connection field", HTTP2, Op{}, frames(nil).headers(1, flagEnd, ":status", "200", "connection", "close"), outcome{true, Malformed, 0, 0, 0, false}},
		{"headers in the middle", HTTP2, Op{}, frames(nil).headers(1, 0, ":status", "200").headers(1, 0, "x", "y"), outcome{true, Malformed, 0, 0, 0, false}},
		{"upgrade", HTTP2, Op{}, frames(nil).headers(1, 0, ":status", "101"), outcome{true, Malformed, 0, 0, 0, false}},
		{"frames of no known kind", HTTP2, Op{}, frames(nil).add(99, 0xff, 1, 1, 2, 3).headers(1, flagEnd, ":status", "200"), outcome{true, OK, 200, 0, 0, false}},
	} {
		if c.proto == GRPC {
			c.op.Messages = [][]byte{[]byte("hi")}
		}
		for _, n := range []int{1, 10, 1 << 20} {
			v := converse(c.proto, 1, c.op)
			for in := range slices.Chunk([]byte(c.input), n) {
				if err := v.h.receive(in); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			if diff := cmp.Diff(c.want, v.outcomes()[0]); diff != "" {
				t.Errorf("%s in pieces of %d: (-want +got)\n%s", c.name, n, diff)
			}
		}
	}
}

// What ends the whole connection.
func TestHTTP2Breaches(t *testing.T) {
	var dynamic bytes.Buffer
	e := hpack.NewEncoder(&dynamic)
	for range 2 { // the second block refers to the table that the peer was told not to keep
		dynamic.Reset()
		e.WriteField(hpack.HeaderField{Name: "x", Value: "y"})
	}
	for name, input := range map[string]frames{
		"a frame larger than allowed":  {1, 0, 0, 0, 0, 0, 0, 0, 1},
		"garbage in a block":           frames(nil).add(frameHeaders, flagEndHeaders, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a table that is not there":    frames(nil).add(frameHeaders, flagEndHeaders, 1, dynamic.Bytes()...),
		"an answer to no call":         frames(nil).headers(9, flagEnd, ":status", "200"),
		"an even stream":               frames(nil).headers(2, flagEnd, ":status", "200"),
		"push":                         frames(nil).add(framePush, flagEndHeaders, 1, 0, 0, 0, 2),
		"short ping":                   frames(nil).add(framePing, 0, 0, 1),
		"ping on a stream":             frames(nil).add(framePing, 0, 1, make([]byte, 8)...),
		"odd settings":                 frames(nil).add(frameSettings, 0, 0, 1, 2, 3),
		"settings with a huge window":  frames(nil).settings(settingWindow, 1<<31),
		"settings with a small frame":  frames(nil).settings(settingFrameSize, 1),
		"window of nothing":            frames(nil).word(frameWindow, 0, 0),
		"window overflow":              frames(nil).word(frameWindow, 0, maxWindow),
		"short reset":                  frames(nil).add(frameReset, 0, 1, 1),
		"short going away":             frames(nil).add(frameGoAway, 0, 0, 1),
		"padding longer than all":      frames(nil).add(frameData, flagPadded, 1, 200, 1),
		"another frame within a block": frames(nil).add(frameHeaders, 0, 1).add(framePing, 0, 0, make([]byte, 8)...),
		"continuation of nothing":      frames(nil).add(frameContinuation, 0, 1),
		"endless block":                slices.Concat(frames(nil).add(frameHeaders, 0, 1), slices.Repeat(frames(nil).add(frameContinuation, 0, 1, make([]byte, 16000)...), 5)),
		"flood of empty continuations": slices.Concat(frames(nil).add(frameHeaders, 0, 1), slices.Repeat(frames(nil).add(frameContinuation, 0, 1), maxIdleFrames)),
		"flood of pings":               slices.Repeat(frames(nil).add(framePing, 0, 0, make([]byte, 8)...), maxIdleFrames+1),
		"flood of settings":            slices.Repeat(frames(nil).settings(), maxIdleFrames+1),
		"flood of empty data":          slices.Concat(frames(nil).headers(1, 0, ":status", "200"), slices.Repeat(frames(nil).add(frameData, 0, 1), maxIdleFrames+1)),
	} {
		v := converse(HTTP2, 1, Op{})
		if err := v.h.receive(input); err == nil {
			t.Errorf("%s: got no error", name)
		}
		if n := len(v.h.out); n > maxQueued+maxControl+100 {
			t.Errorf("%s: got %d bytes to write", name, n)
		}
	}
	h := newHTTP2(nil, Config{}.WithDefaults(), newBlockCache(), NewClock(time.Now()))
	if err := h.receive([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")); err == nil {
		t.Error("got no error from a server that speaks HTTP/1.1")
	}
}

// sent parses what this end wrote into a line a frame.
func sent(b []byte) (lines []string) {
	for len(b) >= frameHeader {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		lines = append(lines, fmt.Sprintf("%d/%#x on %d: %d", b[3], b[4], binary.BigEndian.Uint32(b[5:]), n))
		b = b[frameHeader+n:]
	}
	return lines
}

func TestFlowControl(t *testing.T) {
	v := converse(HTTP2, 0, Op{Method: "POST", Body: make([]byte, 100_000)})
	// 70,000 bytes a stream, in frames of 20,000; the connection stays at 65,535.
	if err := v.h.receive(frames(nil).settings(settingWindow, 70_000, settingFrameSize, 20_000)); err != nil {
		t.Fatal(err)
	}
	v.h.out = nil
	a, b := new(Call), new(Call)
	a.reset()
	b.reset()
	v.h.start(a)
	v.h.start(b)
	data := func() (lines []string) {
		for _, l := range sent(v.h.out) {
			if strings.HasPrefix(l, "0/") {
				lines = append(lines, l)
			}
		}
		v.h.out = nil
		return lines
	}
	check := func(step string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, data()); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", step, diff)
		}
	}
	check("start", "0/0x0 on 1: 20000", "0/0x0 on 1: 20000", "0/0x0 on 1: 20000", "0/0x0 on 1: 5535")
	v.h.receive(frames(nil).word(frameWindow, 0, 10_000))
	check("more on the connection: the first goes on to its stream's end", "0/0x0 on 1: 4465", "0/0x0 on 3: 5535")
	v.h.receive(frames(nil).word(frameWindow, 1, 30_000))
	check("more on a stream alone changes nothing")
	v.h.receive(frames(nil).word(frameWindow, 0, 1_000_000))
	check("all the first has, and what the second's stream takes", "0/0x0 on 1: 20000", "0/0x1 on 1: 10000", "0/0x0 on 3: 20000", "0/0x0 on 3: 20000", "0/0x0 on 3: 20000", "0/0x0 on 3: 4465")
	v.h.receive(frames(nil).settings(settingWindow, 100_000))
	check("settings move open streams too", "0/0x0 on 3: 20000", "0/0x1 on 3: 10000")
	// Stream 1's excess is forgotten with it: an answer ends both.
	v.h.receive(frames(nil).headers(1, flagEnd, ":status", "200").headers(3, flagEnd, ":status", "200"))
	if len(v.h.ended) != 2 || len(v.h.blocked) != 0 {
		t.Errorf("got %d ended and %d blocked, want 2 and 0", len(v.h.ended), len(v.h.blocked))
	}
}

func TestWindowIsGivenBackInBatches(t *testing.T) {
	v := converse(HTTP2, 1, Op{})
	v.h.limit = 1 << 40
	v.h.receive(frames(nil).headers(1, 0, ":status", "200"))
	v.h.out = nil
	piece := frames(nil).add(frameData, 0, 1, make([]byte, 16384)...)
	updates := map[string]int{}
	for range 4096 { // 64 MiB
		if err := v.h.receive(piece); err != nil {
			t.Fatal(err)
		}
		for _, l := range sent(v.h.out) {
			updates[l]++
		}
		v.h.out = nil
	}
	want := map[string]int{"8/0x0 on 0: 4": 2, "8/0x0 on 1: 4": 32}
	if diff := cmp.Diff(want, updates); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestStreamsAllowed(t *testing.T) {
	v := converse(HTTP2, 0, Op{})
	if got := v.h.room(); got != 64 {
		t.Errorf("got room for %d, want 64", got)
	}
	v.h.receive(frames(nil).settings(settingStreams, 2))
	c := new(Call)
	c.reset()
	v.h.start(c)
	if got := v.h.room(); got != 1 {
		t.Errorf("got room for %d, want 1", got)
	}
	v.h.receive(frames(nil).settings(settingStreams, 0))
	if got := v.h.room(); got > 0 {
		t.Errorf("got room for %d, want none", got)
	}
	v.h.cancel(c)
	if got := sent(v.h.out); !slices.Contains(got, "3/0x0 on 1: 4") {
		t.Errorf("got %v, want the stream reset", got)
	}
}

func TestStreamsRunOut(t *testing.T) {
	v := converse(HTTP2, 0, Op{})
	v.h.next = lastStream - 1
	c := new(Call)
	c.reset()
	v.h.start(c)
	if v.h.room() > 0 || !v.h.retired() {
		t.Errorf("got room for %d, retired %t, want a connection that is given up", v.h.room(), v.h.retired())
	}
	if err := v.h.receive(frames(nil).headers(c.id, flagEnd, ":status", "200")); err != nil || c.Class != OK || len(v.h.ended) != 1 {
		t.Errorf("got %v, %v for the last call on it", c.Class, err)
	}
}

func TestLongBlocksAreCutUp(t *testing.T) {
	v := converse(HTTP2, 0, Op{Header: []Header{{"x-long", strings.Repeat("v", 40_000)}}})
	c := new(Call)
	c.reset()
	v.h.start(c)
	got := sent(v.h.out)
	if len(got) != 3 || !strings.HasPrefix(got[0], "1/0x1 on 1") || !strings.HasPrefix(got[1], "9/0x0 on 1") || !strings.HasPrefix(got[2], "9/0x4 on 1") {
		t.Errorf("got %v, want HEADERS with END_STREAM and two CONTINUATION", got)
	}
	var whole []byte
	for b := v.h.out; len(b) > 0; {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		whole = append(whole, b[frameHeader:frameHeader+n]...)
		b = b[frameHeader+n:]
	}
	fields, err := hpack.NewDecoder(4096, nil).DecodeFull(whole)
	if err != nil || len(fields[len(fields)-2].Value) != 40_000 {
		t.Errorf("got %d fields, %v, want the long one whole", len(fields), err)
	}
}

func TestTimeoutHeader(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:              "1u",
		time.Nanosecond:           "1u",
		1500 * time.Microsecond:   "1500u",
		10 * time.Second:          "10000000u",
		100*time.Second - 1:       "99999999u",
		200 * time.Second:         "200000m",
		100_000 * time.Second:     "100000S",
		time.Duration(1<<63 - 1):  "99999999S", // the clock's own end
		99_999_999 * time.Second:  "99999999S",
		100_001*time.Second + 1e6: "100002S",
	} {
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(appendTimeout(nil, d))
		if err != nil || len(fields) != 1 || fields[0].Name != "grpc-timeout" || fields[0].Value != want {
			t.Errorf("%v: got %v, %v, want %s", d, fields, err, want)
		}
	}
}

// Whatever a server sends, in whatever pieces: every call is ended at most once,
// the same way, and what is held and to be written stays within bounds.
func FuzzHTTP2(f *testing.F) {
	f.Add([]byte(frames(nil).headers(1, 0, grpcHead...).add(frameData, 0, 1, message(3)...).headers(1, flagEnd, "grpc-status", "0")), uint8(3), true)
	f.Add([]byte(frames(nil).headers(1, flagEnd, ":status", "404").word(frameReset, 3, codeRefused).add(frameGoAway, 0, 0, make([]byte, 8)...)), uint8(1), false)
	f.Add([]byte(frames(nil).settings(settingWindow, 1, settingStreams, 1).word(frameWindow, 1, 100).add(framePing, 0, 0, make([]byte, 8)...)), uint8(7), false)
	f.Add([]byte(frames(nil).add(frameHeaders, 0, 5, block(":status", "200")...).add(frameContinuation, flagEndHeaders, 5)), uint8(2), false)
	f.Fuzz(func(t *testing.T, input []byte, n uint8, rpc bool) {
		talk := func(n int) (*conversation, error) {
			v := converse(HTTP2, 3, Op{Method: "POST", Body: make([]byte, 30_000)})
			if rpc {
				v = converse(GRPC, 3, Op{Messages: [][]byte{make([]byte, 30_000)}})
			}
			for in := range slices.Chunk(input, n) {
				if err := v.h.receive(in); err != nil {
					return v, err
				}
				if len(v.h.rest) > minFrameSize+frameHeader || len(v.h.block) > maxBlock {
					t.Fatalf("got %d and %d bytes held", len(v.h.rest), len(v.h.block))
				}
			}
			return v, nil
		}
		whole, err1 := talk(len(input) + 1)
		pieces, err2 := talk(int(n) + 1)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("got %v whole and %v in pieces", err1, err2)
		}
		if diff := cmp.Diff(whole.outcomes(), pieces.outcomes()); diff != "" {
			t.Fatalf("whole and in pieces differ:\n%s", diff)
		}
		seen := map[*Call]bool{}
		for _, c := range whole.h.ended {
			if seen[c] || whole.h.streams[c.id] == c {
				t.Fatal("a call ended and goes on, or ended twice")
			}
			seen[c] = true
		}
		if len(seen)+len(whole.h.streams) != 3 {
			t.Fatalf("got %d ended and %d under way of 3", len(seen), len(whole.h.streams))
		}
		if out := len(whole.h.out); out > maxQueued+maxControl+4*minFrameSize {
			t.Fatalf("got %d bytes to write", out)
		}
	})
}

func BenchmarkHTTP2Unary(b *testing.B) {
	v := converse(GRPC, 0, Op{Messages: [][]byte{make([]byte, 200)}})
	c := new(Call)
	head, tail := block(grpcHead...), block("grpc-status", "0")
	answer := message(200)
	var in frames
	b.ReportAllocs()
	for b.Loop() {
		c.reset()
		v.h.start(c)
		v.h.window = 1 << 20
		in = frames(appendFrame(in[:0], frameHeaders, flagEndHeaders, c.id, head))
		in = appendFrame(in, frameData, 0, c.id, answer)
		in = appendFrame(in, frameHeaders, flagEndHeaders|flagEnd, c.id, tail)
		if err := v.h.receive(in); err != nil || c.Class != OK {
			b.Fatal(err, c.Class)
		}
		v.h.out, v.h.ended = v.h.out[:0], v.h.ended[:0]
	}
}
