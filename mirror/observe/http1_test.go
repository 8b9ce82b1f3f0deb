package observe

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// brief is an exchange in a line.
func brief(x exchange) string {
	s := fmt.Sprintf("%s %s", x.Method, x.Target)
	if x.Request.Size > 0 {
		s += " " + x.Request.Body
	}
	if x.Status != 0 {
		s += fmt.Sprintf(" %d", x.Status)
	}
	if x.Answer.Size > 0 {
		s += " " + x.Answer.Body
	}
	s += " " + x.Outcome.String()
	if x.Broken != 0 {
		s += " " + x.Broken.String()
	}
	return s
}

func briefs(xs []exchange) (out []string) {
	for _, x := range xs {
		out = append(out, brief(x))
	}
	return out
}

const (
	head    = "HEAD /h HTTP/1.1\r\nHost: h\r\n\r\n"
	chunked = "Transfer-Encoding: chunked\r\n\r\n"
	ok3     = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
	ok204   = "HTTP/1.1 204 No Content\r\n\r\n"
)

func post(fields string) string { return "POST /p HTTP/1.1\r\nHost: h\r\n" + fields }

// TestHTTP1 holds what HTTP/1 connections say, one line an exchange.
func TestHTTP1(t *testing.T) {
	for _, tt := range []struct {
		name   string
		events []event
		want   []string
		rule   Rule
	}{
		{"keep-alive", []event{client(get), live(ok3), client(get), live(ok204)},
			[]string{"GET /a?b=c 200 abc complete", "GET /a?b=c 204 complete"}, 0},
		{"pipelined", []event{client(get + head + get), live(ok3 + "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + ok204)},
			[]string{"GET /a?b=c 200 abc complete", "HEAD /h 200 complete", "GET /a?b=c 204 complete"}, 0},
		{"body", []event{client(post("Content-Length: 3\r\n\r\nxyz")), live(ok204)},
			[]string{"POST /p xyz 204 complete"}, 0},
		{"empty body", []event{client(post("Content-Length: 0\r\n\r\n")), live("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")},
			[]string{"POST /p 200 complete"}, 0},
		{"chunked both ways", []event{client(post(chunked + "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")), live("HTTP/1.1 200 OK\r\n" + chunked + "00A;x=y\r\n0123456789\r\n0\r\n\r\n")},
			[]string{"POST /p abc 200 0123456789 complete"}, 0},
		{"chunked, then the next", []event{client(post(chunked+"1\r\na\r\n0\r\n\r\n") + get), live(ok204 + ok3)},
			[]string{"POST /p a 204 complete", "GET /a?b=c 200 abc complete"}, 0},
		{"interim answers", []event{client(post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")), live("HTTP/1.1 100 Continue\r\n\r\n"), client("xyz"), live("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok3)},
			[]string{"POST /p xyz 200 abc complete"}, 0},
		{"304 with a length", []event{client(get + get), live("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n" + ok204)},
			[]string{"GET /a?b=c 304 complete", "GET /a?b=c 204 complete"}, 0},
		{"head with chunked", []event{client(head + get), live("HTTP/1.1 200 OK\r\n" + chunked + ok204)},
			[]string{"HEAD /h 200 complete", "GET /a?b=c 204 complete"}, 0},
		{"until close", []event{client(get), live("HTTP/1.1 200 OK\r\n\r\nabc"), live("def"), {side: Live, eof: true}},
			[]string{"GET /a?b=c 200 abcdef complete"}, 0},
		{"until reset", []event{client(get), live("HTTP/1.1 200 OK\r\n\r\nabc"), {side: Live, gone: true}},
			[]string{"GET /a?b=c 200 abc live_aborted"}, 0},
		{"http 1.0", []event{client("GET /0 HTTP/1.0\r\n\r\n"), live("HTTP/1.0 200 OK\r\n\r\nabc"), {side: Live, eof: true}},
			[]string{"GET /0 200 abc complete"}, 0},
		{"http 1.0 keep-alive", []event{client("GET /0 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), live("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"), client("GET /1 HTTP/1.0\r\n\r\n"), live("HTTP/1.0 204 \r\n\r\n")},
			[]string{"GET /0 200 a complete", "GET /1 204 complete"}, 0},
		{"half-close after the request", []event{client(get), {side: Client, eof: true}, live(ok3)},
			[]string{"GET /a?b=c 200 abc complete"}, 0},
		{"options of all", []event{client("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), live(ok204)},
			[]string{"OPTIONS * 204 complete"}, 0},
		{"status without reason", []event{client(get), live("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n")},
			[]string{"GET /a?b=c 200 complete"}, 0},

		{"live closes without an answer", []event{client(get), {side: Live, eof: true}},
			[]string{"GET /a?b=c live_aborted"}, 0},
		{"live cuts its answer", []event{client(get), live("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), {side: Live, eof: true}},
			[]string{"GET /a?b=c 200 abc live_aborted"}, 0},
		{"live cuts a chunk", []event{client(get), live("HTTP/1.1 200 OK\r\n" + chunked + "9\r\nabc"), {side: Live, eof: true}},
			[]string{"GET /a?b=c 200 abc live_aborted"}, 0},
		{"client cuts its body", []event{client(post("Content-Length: 9\r\n\r\nabc")), {side: Client, eof: true}, {side: Live, eof: true}},
			[]string{"POST /p abc client_cut"}, 0},
		{"client cuts its body and is answered", []event{client(post("Content-Length: 9\r\n\r\nabc")), {side: Client, eof: true}, live("HTTP/1.1 400 \r\nContent-Length: 0\r\n\r\n")},
			[]string{"POST /p abc 400 client_cut"}, 0},
		{"client resets while answered", []event{client(get), live("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), {side: Client, gone: true}},
			[]string{"GET /a?b=c 200 abc client_cut"}, 0},
		{"client cuts a header", []event{client(get[:20]), {side: Client, eof: true}, {side: Live, eof: true}}, nil, 0},
		{"early answer, then the body", []event{client(post("Content-Length: 6\r\n\r\nabc")), live("HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n"), client("def" + get), live(ok204)},
			[]string{"POST /p abcdef 413 complete", "GET /a?b=c 204 complete"}, 0},
		{"early answer, then close", []event{client(post("Content-Length: 6\r\n\r\nabc")), live("HTTP/1.1 413 \r\nContent-Length: 0\r\n\r\n"), {side: Live, eof: true}},
			[]string{"POST /p abc 413 early"}, 0},
		{"two aborted at once", []event{client(get + get), {side: Live, gone: true}},
			[]string{"GET /a?b=c live_aborted", "GET /a?b=c live_aborted"}, 0},

		{"upgrade", []event{client("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), live("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x00")},
			[]string{"GET /ws 101 upgraded"}, Switched},
		{"upgrade declined", []event{client("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"), live(ok3), client(get), live(ok204)},
			[]string{"GET /ws 200 abc complete", "GET /a?b=c 204 complete"}, 0},
		{"upgrade, impatient client", []event{client("GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n" + get)},
			[]string{"GET /ws unobserved"}, AfterUpgrade},
		{"101 unasked", []event{client(get), live("HTTP/1.1 101 Switching Protocols\r\n\r\n")},
			[]string{"GET /a?b=c 101 upgraded"}, Switched},
		{"connect", []event{client("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n")}, nil, Tunnel},
		{"connect after a get", []event{client(get + "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n")},
			[]string{"GET /a?b=c unobserved"}, Tunnel},
		{"expectation skipped", []event{client(post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")), live("HTTP/1.1 417 \r\nContent-Length: 0\r\n\r\n"), client(get)},
			[]string{"POST /p 417 unobserved"}, ExpectSkipped},
		{"expectation skipped and closed", []event{client(post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")), live("HTTP/1.1 417 \r\nContent-Length: 0\r\n\r\n"), {side: Live, eof: true}},
			[]string{"POST /p 417 early"}, 0},
		{"expectation not waited for", []event{client(post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\nxyz")), live(ok204), client(get), live(ok204)},
			[]string{"POST /p xyz 204 complete", "GET /a?b=c 204 complete"}, 0},
		{"time-out of a header", []event{client("G"), live("HTTP/1.1 408 Request Timeout\r\n\r\n"), {side: Live, eof: true}}, nil, 0},
		{"time-out between requests", []event{client(get), live(ok3), live("HTTP/1.0 408 Request Timeout\r\n\r\n<html>"), {side: Live, eof: true}},
			[]string{"GET /a?b=c 200 abc complete"}, 0},
		{"time-out, and a request that crossed it", []event{client(get), live(ok3), live("HTTP/1.1 408 Request Timeout\r\n\r\n"), client(get)},
			[]string{"GET /a?b=c 200 abc complete"}, Unasked},
		{"header refused, and more of it", []event{client("GET / HTTP/1.1\r\n"), live("HTTP/1.1 431 \r\n\r\n"), client("A")}, nil, Unasked},
		{"answer to half a header", []event{client("GET / HTTP/1.1\r\n"), live("HTTP/1.1 200 OK\r\n")}, nil, Unasked},
		{"answer too many", []event{client(get), live(ok204 + ok204)}, []string{"GET /a?b=c 204 complete"}, Unasked},
		{"answer after an early one", []event{client(post("Content-Length: 6\r\n\r\nabc")), live(ok204 + ok204)},
			[]string{"POST /p abc 204 unobserved"}, Unasked},
		{"request after close", []event{client(strings.Replace(get, "X-User", "Connection: close\r\nX-User", 1) + get)},
			[]string{"GET /a?b=c unobserved"}, AfterClose},
		{"request after http 1.0", []event{client("GET /0 HTTP/1.0\r\n\r\n" + get)},
			[]string{"GET /0 unobserved"}, AfterClose},
		{"answer after close", []event{client(get + get), live(strings.Replace(ok3, "\r\n", "\r\nConnection: close\r\n", 1) + ok3)},
			[]string{"GET /a?b=c 200 abc complete", "GET /a?b=c unobserved"}, AfterClose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := run(New(Config{}), tt.events, nil)
			same(t, "exchanges", briefs(r.done), tt.want)
			if r.rule() != tt.rule {
				t.Errorf("got rule %v, want %v", r.rule(), tt.rule)
			}
			splitInvariant(t, tt.events)
		})
	}
}

func TestTrailers(t *testing.T) {
	r := run(New(Config{}), []event{
		client(post("Trailer: Sum\r\n" + chunked + "1\r\na\r\n0\r\nSum: 1\r\nB: \r\n\r\n")),
		live("HTTP/1.1 200 OK\r\n" + chunked + "0\r\nX: y\r\n\r\n"),
	}, nil)
	if len(r.done) != 1 {
		t.Fatalf("got %d exchanges, want 1: %v", len(r.done), r.gaveUp)
	}
	same(t, "request trailer", r.done[0].Request.Trailer, []pair{{"Sum", "1"}, {"B", ""}})
	same(t, "answer trailer", r.done[0].Answer.Trailer, []pair{{"X", "y"}})
}

// Ambiguous and malformed input: the rule that each meets. See TestSmuggling
// for what a second parser makes of such bytes.
func TestHTTP1Rules(t *testing.T) {
	first := func(line string) event { return client(line + "\r\nHost: h\r\n\r\n") }
	with := func(field string) event { return client(post(field + "\r\n\r\n")) }
	answer := func(s string) event { return live("HTTP/1.1 200 OK\r\n" + s + "\r\n\r\n") }
	big := strings.Repeat("x", 64<<10)
	for _, tt := range []struct {
		name string
		last event
		want Rule
	}{
		{"bare LF after request line", client("GET / HTTP/1.1\nHost: h\r\n\r\n"), BareLF},
		{"bare LF after field", client("GET / HTTP/1.1\r\nHost: h\n\r\n"), BareLF},
		{"bare LF ends header", client("GET / HTTP/1.1\r\nHost: h\r\n\n"), BareLF},
		{"CR in field", with("A: b\rc"), BareCR},
		{"CR before CRLF", with("A: b\r"), BareCR},
		{"CR in request line", first("GET /\r HTTP/1.1"), Target},
		{"two spaces", first("GET  / HTTP/1.1"), StartLine},
		{"space at the end", first("GET / HTTP/1.1 "), StartLine},
		{"tab", first("GET\t/ HTTP/1.1"), StartLine},
		{"space in target", first("GET /a b HTTP/1.1"), StartLine},
		{"no target", first("GET HTTP/1.1"), StartLine},
		{"method no token", first("G(T / HTTP/1.1"), StartLine},
		{"head in lower case", first("head / HTTP/1.1"), StartLine},
		{"connect in lower case", first("Connect h:1 HTTP/1.1"), StartLine},
		{"empty line first", client(get + "\r\n"), StartLine},
		{"garbage after a request", client(get + "garbage\r\n"), StartLine},
		{"version 1.2", first("GET / HTTP/1.2"), Version},
		{"version 2.0", first("GET / HTTP/2.0"), Version},
		{"version with zeros", first("GET / HTTP/1.01"), Version},
		{"version in lower case", client(get + "GET / http/1.1\r\n"), Version},
		{"fragment", first("GET /a#b HTTP/1.1"), Target},
		{"bad escape", first("GET /%zz HTTP/1.1"), Target},
		{"cut escape", first("GET /a%2 HTTP/1.1"), Target},
		{"control in target", first("GET /\x01 HTTP/1.1"), Target},
		{"no slash", first("GET a HTTP/1.1"), Target},
		{"asterisk and get", first("GET * HTTP/1.1"), Target},
		{"other scheme", first("GET ftp://h/ HTTP/1.1"), Target},
		{"absolute without host", first("GET http:///a HTTP/1.1"), Target},
		{"user information", first("GET http://u@h/ HTTP/1.1"), Target},
		{"fragment in absolute", first("GET http://h/#f HTTP/1.1"), Target},
		{"absolute form, other host", first("GET http://g/ HTTP/1.1"), TargetHost},
		{"absolute form, port", first("GET http://h:80/ HTTP/1.1"), TargetHost},
		{"no host", client("GET / HTTP/1.1\r\n\r\n"), Host},
		{"two hosts", with("Host: h"), Host},
		{"host with user", client("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"), Host},
		{"host with path", client("GET / HTTP/1.1\r\nHost: h/x\r\n\r\n"), Host},
		{"host list", client("GET / HTTP/1.1\r\nHost: g, h\r\n\r\n"), Host},
		{"host with bad port", client("GET / HTTP/1.1\r\nHost: h:x\r\n\r\n"), Host},
		{"host with open bracket", client("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"), Host},
		{"empty name", with(": v"), FieldName},
		{"name no token", with("a b: v"), FieldName},
		{"name with control", with("a\x00: v"), FieldName},
		{"name with high byte", with("\xffa: v"), FieldName},
		{"space before colon", with("A : v"), FieldSpace},
		{"tab before colon", with("Content-Length\t: 0"), FieldSpace},
		{"no colon", with("A"), FieldSpace},
		{"fold", with("A: b\r\n c"), ObsFold},
		{"fold with tab", with("A: b\r\n\tc"), ObsFold},
		{"fold before the first field", client("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), ObsFold},
		{"NUL in value", with("A: b\x00c"), FieldValue},
		{"DEL in value", with("A: b\x7f"), FieldValue},
		{"length twice", with("Content-Length: 0\r\nContent-Length: 1"), ContentLength},
		{"length twice the same", with("Content-Length: 0\r\nContent-Length: 0"), ContentLength},
		{"length list", with("Content-Length: 0, 0"), ContentLength},
		{"length with sign", with("Content-Length: +0"), ContentLength},
		{"negative length", with("Content-Length: -1"), ContentLength},
		{"length with underscore", with("Content-Length: 1_0"), ContentLength},
		{"length in hex", with("Content-Length: 0x1"), ContentLength},
		{"length with leading zero", with("Content-Length: 01"), ContentLength},
		{"length with space", with("Content-Length: 1 0"), ContentLength},
		{"no length", with("Content-Length:"), ContentLength},
		{"length too large", with("Content-Length: 9223372036854775808"), ContentLength},
		{"length with full-width digit", with("Content-Length: \uff11"), ContentLength},
		{"encoding twice", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), TransferEncoding},
		{"encoding list", with("Transfer-Encoding: gzip, chunked"), TransferEncoding},
		{"identity", with("Transfer-Encoding: identity"), TransferEncoding},
		{"encoding quoted", with("Transfer-Encoding: \"chunked\""), TransferEncoding},
		{"encoding with tab", with("Transfer-Encoding: \x0bchunked"), FieldValue},
		{"no encoding", with("Transfer-Encoding:"), TransferEncoding},
		{"both lengths", with("Content-Length: 0\r\nTransfer-Encoding: chunked"), BothLengths},
		{"encoding first", with("Transfer-Encoding: chunked\r\nContent-Length: 0"), BothLengths},
		{"encoding in 1.0", client("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), EncodingIn10},
		{"underscored length", with("Content_Length: 1"), Lookalike},
		{"underscored encoding", with("Transfer_Encoding: chunked"), Lookalike},
		{"length as an option", with("Connection: close, content-length"), ConnectionOption},
		{"encoding as an option", with("Connection: Transfer-Encoding"), ConnectionOption},
		{"host as an option", with("Connection: host"), ConnectionOption},
		{"other expectation", with("Expect: 200-ok"), Expect},
		{"no chunk size", client(post(chunked + "\r\n")), ChunkSize},
		{"chunk size no hex", client(post(chunked + "g\r\n")), ChunkSize},
		{"chunk size with 0x", client(post(chunked + "0x1\r\n")), ChunkSize},
		{"chunk size with sign", client(post(chunked + "+1\r\n")), ChunkSize},
		{"chunk size with underscore", client(post(chunked + "1_0\r\n")), ChunkSize},
		{"chunk size with space", client(post(chunked + "1 \r\n")), ChunkSize},
		{"chunk size too large", client(post(chunked + "1000000000000000\r\n")), ChunkSize},
		{"chunk size with LF", client(post(chunked + "1\na\r\n")), BareLF},
		{"chunk size with CR alone", client(post(chunked + "1\ra")), BareCR},
		{"extension without size", client(post(chunked + ";a\r\n")), ChunkSize},
		{"extension quoted", client(post(chunked + "1;a=\"b\"\r\n")), ChunkExtension},
		{"extension with space", client(post(chunked + "1;a =b\r\n")), ChunkExtension},
		{"extension with LF", client(post(chunked + "1;a\nb\r\n")), BareLF},
		{"empty extension", client(post(chunked + "1;\r\n")), ChunkExtension},
		{"extension without value", client(post(chunked + "1;a=\r\n")), ChunkExtension},
		{"extension too long", client(post(chunked + "1;" + strings.Repeat("a", 256) + "\r\n")), ChunkExtension},
		{"chunk too long", client(post(chunked + "1\r\nab\r\n")), ChunkEnd},
		{"chunk ends with LF", client(post(chunked + "1\r\na\n")), ChunkEnd},
		{"chunk ends with CR alone", client(post(chunked + "1\r\na\rb")), ChunkEnd},
		{"trailer frames", client(post(chunked + "0\r\nContent-Length: 1\r\n\r\n")), TrailerField},
		{"trailer encodes", client(post(chunked + "0\r\nTransfer-Encoding: chunked\r\n\r\n")), TrailerField},
		{"trailer routes", client(post(chunked + "0\r\nHost: g\r\n\r\n")), TrailerField},
		{"trailer announces", client(post(chunked + "0\r\nTrailer: a\r\n\r\n")), TrailerField},
		{"trailer folds", client(post(chunked + "0\r\nA: b\r\n c\r\n\r\n")), ObsFold},
		{"header too large", with("A: " + big), LimitHead},
		{"too many fields", client(post(strings.Repeat("a:\r\n", 2000))), LimitHead},
		{"trailer too large", client(post(chunked + "0\r\nA: " + big)), LimitHead},

		{"status line of another", live("SSH-2.0-x\r\n"), StartLine},
		{"status line with version 1.2", live("HTTP/1.2 200 OK\r\n"), StartLine},
		{"status of two digits", live("HTTP/1.1 20 OK\r\n"), StartLine},
		{"status of four digits", live("HTTP/1.1 2000 OK\r\n"), StartLine},
		{"status below 100", live("HTTP/1.1 099 OK\r\n"), StartLine},
		{"status with letter", live("HTTP/1.1 2x0 OK\r\n"), StartLine},
		{"control in reason", live("HTTP/1.1 200 O\x00K\r\n"), StartLine},
		{"answer with LF", live("HTTP/1.1 200 OK\n"), BareLF},
		{"answer folds", answer("A: b\r\n c"), ObsFold},
		{"answer with both lengths", answer("Content-Length: 1\r\nTransfer-Encoding: chunked"), BothLengths},
		{"answer with two lengths", answer("Content-Length: 1\r\nContent-Length: 2"), ContentLength},
		{"answer with encodings", answer("Transfer-Encoding: gzip, chunked"), TransferEncoding},
		{"encoding in a 1.0 answer", live("HTTP/1.0 200 OK\r\n" + chunked), EncodingIn10},
		{"204 with a length", live("HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\n"), NoBodyAllowed},
		{"204 with chunks", live("HTTP/1.1 204 No Content\r\n" + chunked), NoBodyAllowed},
		{"100 with a length", live("HTTP/1.1 100 Continue\r\nContent-Length: 1\r\n\r\n"), NoBodyAllowed},
		{"answer option", answer("Connection: content-length"), ConnectionOption},
		{"answer header too large", answer("A: " + big), LimitHead},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := []event{client(get), tt.last}
			if tt.last.side == Client {
				events = []event{client(get), live(ok204), tt.last}
			}
			r := run(New(Config{}), events, nil)
			if r.rule() != tt.want {
				t.Errorf("got rule %v, want %v", r.rule(), tt.want)
			}
			if len(r.gaveUp) == 1 && (r.gaveUp[0].Reason != tt.want.Reason() || r.gaveUp[0].Side != tt.last.side) {
				t.Errorf("got %+v", r.gaveUp[0])
			}
			splitInvariant(t, events)
		})
	}
}

func TestHTTP1AnyCut(t *testing.T) {
	events := []event{
		client(get + head + post(chunked+"2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: v\r\n\r\n") + post("Content-Length: 4\r\n\r\nbody")),
		live(ok3 + "HTTP/1.1 103 Early\r\n\r\n" + ok204 + "HTTP/1.1 200 OK\r\n" + chunked + "a\r\n0123456789\r\n0\r\n\r\n" + ok3),
	}
	want := run(New(Config{}), events, nil)
	if len(want.done) != 4 {
		t.Fatalf("got %d exchanges, want 4: %v", len(want.done), want.gaveUp)
	}
	rapid.Check(t, func(rt *rapid.T) {
		got := run(New(Config{}), events, anyCut(rt))
		same(t, "exchanges", got.done, want.done)
	})
}
