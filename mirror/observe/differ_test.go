package observe

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// This file compares the observer with net/http as a second parser: what is
// reported must be what net/http reads from the same bytes.

// half1 is a request or an answer as both parsers can tell it.
type half1 struct {
	Line            string
	Host            string
	Header, Trailer http.Header
	Body            string
	Complete        bool
}

// httpHeader turns fields into what net/http makes of them.
func httpHeader(fields []pair) http.Header {
	h := http.Header{}
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(f.Name)
		h[name] = append(h[name], f.Value)
	}
	return h
}

// ours strips what net/http takes out of a header, and adds what it puts in.
func ours(line, host string, m message) half1 {
	h := httpHeader(m.Header)
	isChunked := len(h["Transfer-Encoding"]) > 0
	delete(h, "Host")
	delete(h, "Transfer-Encoding")
	if isChunked {
		delete(h, "Trailer")
		delete(h, "Content-Length")
	}
	if len(h["Pragma"]) > 0 && h["Pragma"][0] == "no-cache" && len(h["Cache-Control"]) == 0 {
		h["Cache-Control"] = []string{"no-cache"}
	}
	return half1{line, host, h, httpHeader(m.Trailer), m.Body, m.Complete}
}

// readBody reads a body to its end and says whether it had one.
func readBody(body io.Reader) (string, bool) {
	b, err := io.ReadAll(body)
	return string(b), err == nil
}

// filled is a trailer without the names that were announced but did not come.
func filled(h http.Header) http.Header {
	out := http.Header{}
	for k, v := range h {
		if len(v) > 0 {
			out[k] = v
		}
	}
	return out
}

// theirRequests is what net/http makes of a client's bytes.
func theirRequests(data string) (out []half1, methods []string) {
	br := bufio.NewReader(strings.NewReader(data))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return out, methods
		}
		body, complete := readBody(r.Body)
		delete(r.Header, "Host")
		out = append(out, half1{r.Method + " " + r.RequestURI, r.Host, r.Header, filled(r.Trailer), body, complete})
		methods = append(methods, r.Method)
		if !complete {
			return out, methods
		}
	}
}

// theirAnswers is what net/http makes of live's bytes to such requests.
func theirAnswers(data string, methods []string) (out []half1) {
	br := bufio.NewReader(strings.NewReader(data))
	for _, method := range methods {
		var r *http.Response
		for {
			var err error
			if r, err = http.ReadResponse(br, &http.Request{Method: method}); err != nil {
				return out
			}
			if r.StatusCode >= 200 || r.StatusCode == 101 {
				break
			}
		}
		body, complete := readBody(r.Body)
		out = append(out, half1{fmt.Sprint(r.StatusCode), "", r.Header, filled(r.Trailer), body, complete})
		if !complete {
			return out
		}
	}
	return out
}

// differ feeds an observer with all that a client sends and then with all that
// live answers, and returns an error if it reports something that net/http
// reads otherwise, or reports less although it did not give up.
func differ(o *Observer, fromClient, fromLive string) error {
	r := &recorder{mode: Keep}
	c := feed(o, r, []event{client(fromClient), live(fromLive), {side: Live, eof: true}}, nil)
	if c.h2 != nil {
		return errors.New("not HTTP/1")
	}
	slices.SortFunc(r.done, func(a, b exchange) int { return cmp.Compare(a.Seq, b.Seq) })
	requests, methods := theirRequests(fromClient)
	answers := theirAnswers(fromLive, methods)
	complete := 0
	for i, x := range r.done {
		if x.Request.Complete {
			complete++
			if i >= len(requests) {
				return fmt.Errorf("request %d exists for us alone: %s", i, x.Target)
			}
			got := ours(x.Method+" "+x.Target, x.Authority, x.Request)
			if d := gocmp.Diff(requests[i], got); d != "" {
				return fmt.Errorf("request %d (-net/http +observer):\n%s", i, d)
			}
		}
		if x.Answer.Complete {
			if i >= len(answers) {
				return fmt.Errorf("answer %d exists for us alone: %d", i, x.Status)
			}
			got := ours(fmt.Sprint(x.Status), "", x.Answer)
			if d := gocmp.Diff(answers[i], got); d != "" {
				return fmt.Errorf("answer %d (-net/http +observer):\n%s", i, d)
			}
		}
	}
	if len(r.gaveUp) == 0 {
		theirs := 0
		for _, q := range requests {
			if q.Complete {
				theirs++
			}
		}
		if complete != theirs {
			return fmt.Errorf("net/http reads %d requests, the observer %d", theirs, complete)
		}
	}
	return nil
}

// shapes are ways to say two things at once, by name. Each is sent after one
// plain request and followed by another. Where a shape smuggles, the request
// inside is for /evil.
func shapes() map[string]string {
	const (
		post   = "POST /p HTTP/1.1\r\nHost: h\r\n"
		evil   = "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
		te     = "Transfer-Encoding: chunked\r\n"
		last   = "0\r\n\r\n"
		length = "Content-Length: "
	)
	s := map[string]string{
		// A length and an encoding.
		"CL.TE":                   post + length + "6\r\n" + te + "\r\n" + last + "G",
		"CL.TE, evil":             post + fmt.Sprintf("%s%d\r\n", length, 5+len(evil)) + te + "\r\n" + last + evil,
		"TE.CL":                   post + te + length + "3\r\n\r\n8\r\nSMUGGLED\r\n" + last,
		"TE.CL, evil":             post + te + length + "4\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n", len(evil), evil) + last,
		"CL.TE, zero length":      post + length + "0\r\n" + te + "\r\n" + last,
		"TE.0":                    post + te + "\r\n" + fmt.Sprintf("%x\r\n%s\r\n", len(evil), evil) + last,
		"0.CL":                    "GET /p HTTP/1.1\r\nHost: h\r\n" + fmt.Sprintf("%s%d\r\n\r\n", length, len(evil)) + evil,
		"CL.0":                    post + length + "0\r\n\r\n" + evil,
		"GET with a body":         "GET /p HTTP/1.1\r\nHost: h\r\n" + length + "3\r\n\r\nabc",
		"TE in 1.0":               "POST /p HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n" + te + "\r\n" + last,
		"CL and TE in 1.0":        "POST /p HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n" + te + length + "5\r\n\r\n" + last,
		"expectation, no waiting": post + "Expect: 100-continue\r\n" + length + "3\r\n\r\nabc",
		"expectation obfuscated":  post + "Expect: y 100-continue\r\n" + length + "3\r\n\r\nabc",
	}
	for name, value := range map[string]string{
		"tab before": "\tchunked", "tab after": "chunked\t", "space after": "chunked ", "two spaces": "  chunked",
		"upper case": "CHUNKED", "mixed case": "cHuNkEd", "x": "xchunked", "suffix": "chunkedx", "quoted": "\"chunked\"",
		"single quotes": "'chunked'", "comma before": ",chunked", "comma after": "chunked,", "list": "chunked, identity",
		"list reversed": "identity, chunked", "twice": "chunked, chunked", "semicolon": "chunked;q=1", "vertical tab": "\x0bchunked",
		"form feed": "\x0cchunked", "NUL": "chunked\x00", "CR": "\rchunked", "LF": "\nchunked", "DEL": "chunked\x7f", "no-break space": "\u00a0chunked",
		"high byte": "chunked\xff", "gzip": "gzip", "gzip and chunked": "gzip, chunked", "empty": "", "identity": "identity", "cow": "cow", "dash": "chunk-ed",
	} {
		s["TE.TE "+name] = post + "Transfer-Encoding: " + value + "\r\n" + length + "5\r\n\r\n" + last
		s["TE "+name] = post + "Transfer-Encoding:" + value + "\r\n\r\n" + last
	}
	for name, field := range map[string]string{
		"space before colon": "Transfer-Encoding : chunked", "tab before colon": "Transfer-Encoding\t: chunked", "leading space": " Transfer-Encoding: chunked",
		"leading tab": "\tTransfer-Encoding: chunked", "folded": "Transfer-Encoding:\r\n chunked", "folded name": "X: y\r\n Transfer-Encoding: chunked",
		"underscore": "Transfer_Encoding: chunked", "twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "and cow": "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
		"bare LF before": "X: y\nTransfer-Encoding: chunked", "bare CR before": "X: y\rTransfer-Encoding: chunked", "NUL in name": "Transfer\x00Encoding: chunked",
		"high byte in name": "Transfer-Encoding\xff: chunked", "dotted": "Transfer.Encoding: chunked", "no colon": "Transfer-Encoding chunked", "Foo: hidden": "Foo: bar\r\n\tTransfer-Encoding: chunked",
		"as an option": "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked", "length as an option": "Connection: Content-Length",
		"TE header": "TE: chunked", "Proxy-Connection": "Proxy-Connection: close", "Connection: X-Forwarded-For": "Connection: X-Forwarded-For\r\nX-Forwarded-For: 1.2.3.4",
		"Connection: Host": "Connection: close, Host", "Keep-Alive": "Connection: keep-alive\r\nKeep-Alive: timeout=1", "empty name": ": Transfer-Encoding: chunked",
	} {
		s["field "+name] = post + field + "\r\n" + length + "5\r\n\r\n" + last
	}
	for name, value := range map[string]string{
		"plus": "+5", "minus": "-5", "underscore": "0_5", "hex": "0x5", "leading zero": "05", "space inside": "5 5", "comma": "5,5", "same twice": "5\r\nContent-Length: 5",
		"differing": "5\r\nContent-Length: 6", "lower case twice": "5\r\ncontent-length: 50", "float": "5.0", "exponent": "5e0", "empty": "", "letters": "five", "large": "99999999999999999999",
		"2^63": "9223372036854775808", "2^64+5": "18446744073709551621", "trailing tab": "5\t", "NUL": "5\x00", "CR": "5\r", "list same": "5, 5", "octal": "0o5", "semicolon": "5;", "full width": "５",
	} {
		s["CL "+name] = post + length + value + "\r\n\r\n" + last
	}
	for name, chunks := range map[string]string{
		"bare LF in size": "5\nabcde\r\n0\r\n\r\n", "LF in size, evil": fmt.Sprintf("2\nxx\r\n%x\r\n%s\r\n", len(evil), evil) + last, "CR alone": "5\rabcde\r\n0\r\n\r\n",
		"no CRLF after data": "5\r\nabcde0\r\n\r\n", "LF after data": "5\r\nabcde\n0\r\n\r\n", "two bytes after data": "5\r\nabcdeXX0\r\n\r\n", "negative": "-5\r\nabcde\r\n0\r\n\r\n", "plus": "+5\r\nabcde\r\n0\r\n\r\n",
		"hex prefix": "0x5\r\nabcde\r\n0\r\n\r\n", "underscore": "0_5\r\nabcde\r\n0\r\n\r\n", "space before": " 5\r\nabcde\r\n0\r\n\r\n", "space after": "5 \r\nabcde\r\n0\r\n\r\n", "tab after": "5\t\r\nabcde\r\n0\r\n\r\n",
		"leading zeros": "0005\r\nabcde\r\n0\r\n\r\n", "2^64": "10000000000000005\r\nabcde\r\n0\r\n\r\n", "2^63": "8000000000000000\r\nabcde\r\n0\r\n\r\n", "empty size": "\r\nabcde\r\n0\r\n\r\n",
		"extension": "5;a=b\r\nabcde\r\n0\r\n\r\n", "extension with LF": "5;a\nabcde\r\n0\r\n\r\n", "extension with CR": "5;a\rb\r\nabcde\r\n0\r\n\r\n", "quoted CRLF": "5;a=\"\r\n\"\r\nabcde\r\n0\r\n\r\n", "quote unbalanced": "5;a=\"\r\nabcde\r\n0\r\n\r\n",
		"last with zeros": "5\r\nabcde\r\n000\r\n\r\n", "last with extension": "5\r\nabcde\r\n0;x\r\n\r\n", "trailer": "0\r\nA: b\r\n\r\n", "trailer with length": "0\r\nContent-Length: 5\r\n\r\n", "trailer with LF": "0\r\nA: b\n\r\n",
		"trailer folded": "0\r\nA: b\r\n c\r\n\r\n", "trailer no colon": "0\r\nevil\r\n\r\n", "trailer is a request": "0\r\n" + evil, "last with LF": "0\n\n", "last, LF alone": "0\r\n\n", "letters": "xyz\r\n", "comma": "5,5\r\nabcde\r\n0\r\n\r\n",
	} {
		s["chunk "+name] = post + te + "\r\n" + chunks
	}
	for name, head := range map[string]string{
		"two hosts": "GET /p HTTP/1.1\r\nHost: h\r\nHost: g\r\n", "no host": "GET /p HTTP/1.1\r\n", "host with space": "GET /p HTTP/1.1\r\nHost : h\r\n", "host folded": "GET /p HTTP/1.1\r\nHost: h\r\n g\r\n",
		"absolute, other host": "GET http://g/p HTTP/1.1\r\nHost: h\r\n", "absolute, same host": "GET http://h/p HTTP/1.1\r\nHost: h\r\n", "absolute, user": "GET http://h@g/p HTTP/1.1\r\nHost: g\r\n", "host with @": "GET /p HTTP/1.1\r\nHost: h@g\r\n",
		"bare LF in request line": "GET /p HTTP/1.1\nHost: h\r\n", "two spaces": "GET  /p HTTP/1.1\r\nHost: h\r\n", "tab": "GET\t/p HTTP/1.1\r\nHost: h\r\n", "vertical tab": "GET\x0b/p HTTP/1.1\r\nHost: h\r\n", "CR": "GET\r/p HTTP/1.1\r\nHost: h\r\n",
		"http/0.9": "GET /p\r\n", "http/1.2": "GET /p HTTP/1.2\r\nHost: h\r\n", "http/2.0": "GET /p HTTP/2.0\r\nHost: h\r\n", "http/ 1.1": "GET /p HTTP/ 1.1\r\nHost: h\r\n", "request in target": "GET /p HTTP/1.1\r\nX: y HTTP/1.1\r\nHost: h\r\n",
		"empty line first": "\r\nGET /p HTTP/1.1\r\nHost: h\r\n", "LF first": "\nGET /p HTTP/1.1\r\nHost: h\r\n", "space first": " GET /p HTTP/1.1\r\nHost: h\r\n", "connect": "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n", "connect path": "CONNECT /p HTTP/1.1\r\nHost: h\r\n",
		"connect lower": "connect h:443 HTTP/1.1\r\nHost: h\r\n", "fragment": "GET /p#f HTTP/1.1\r\nHost: h\r\n", "encoded CRLF": "GET /p%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n", "h2 to h1 CRLF in value": "GET /p HTTP/1.1\r\nHost: h\r\nX: a\r\nTransfer-Encoding: chunked\r\n",
		"h2 to h1 CRLF in name": "GET /p HTTP/1.1\r\nHost: h\r\nX: a\r\n\r\nGET /evil HTTP/1.1\r\nHost: h\r\n", "h2 preface inside": "PRI * HTTP/2.0\r\n\r\nSM\r\n", "upgrade": "GET /p HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
		"method override": "GET /p HTTP/1.1\r\nHost: h\r\nX-HTTP-Method-Override: POST\r\n", "colon in name": "GET /p HTTP/1.1\r\nHost: h\r\nA:B: c\r\n", "NUL in target": "GET /p\x00 HTTP/1.1\r\nHost: h\r\n", "high byte in target": "GET /p\xc3\xa9 HTTP/1.1\r\nHost: h\r\n",
		"backslash": "GET /..\\p HTTP/1.1\r\nHost: h\r\n", "version glued": "GET /pHTTP/1.1\r\nHost: h\r\n", "long method": strings.Repeat("G", 40) + " /p HTTP/1.1\r\nHost: h\r\n", "close, then more": "GET /p HTTP/1.1\r\nHost: h\r\nConnection: close\r\n",
	} {
		s["head "+name] = head + "\r\n"
	}
	return s
}

// TestSmuggling: each shape ends in an abandoned connection, or in exactly what
// net/http reads.
func TestSmuggling(t *testing.T) {
	all := shapes()
	if len(all) < 120 {
		t.Fatalf("only %d shapes", len(all))
	}
	gaveUp := 0
	for name, shape := range all {
		data := get + shape + get
		if err := differ(New(Config{}), data, strings.Repeat(ok3, 4)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		events := []event{client(data)}
		splitInvariant(t, events)
		if r := run(New(Config{}), events, nil); r.rule() != 0 {
			gaveUp++
		}
	}
	t.Logf("%d shapes: %d abandoned, %d read as net/http reads them", len(all), gaveUp, len(all)-gaveUp)
	if gaveUp < 100 {
		t.Errorf("only %d shapes made the observer give up", gaveUp)
	}
}

// TestSmugglingCatches shows that the comparison finds an observer that is too
// lenient: it waives one rule at a time, and lists those whose loss shows.
func TestSmugglingCatches(t *testing.T) {
	caught := map[Rule]bool{}
	for r := NotHTTP; r <= Tunnel; r++ {
		for _, shape := range shapes() {
			o := New(Config{})
			o.waived = r
			if differ(o, get+shape+get, strings.Repeat(ok3, 4)) != nil {
				caught[r] = true
			}
		}
	}
	// The others overlap: what one lets through the next one stops, or net/http
	// is as lenient. TestHTTP1Rules holds each of them.
	for _, r := range []Rule{BareCR, Target, Host, FieldName, FieldSpace, ContentLength, TransferEncoding, BothLengths, EncodingIn10, ChunkSize, ChunkEnd} {
		if !caught[r] {
			t.Errorf("an observer without rule %v is not caught", r)
		}
	}
	t.Logf("caught without: %v", slices.Sorted(maps.Keys(caught)))
}

// TestAccessLog reads the request lines of a real server's log as a client's
// bytes. Lines that are no request are counted, not hidden.
func TestAccessLog(t *testing.T) {
	const path = "../../../shared/data/apache_access.log"
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("%s is not there", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	lines, read, requests := 0, 0, 0
	for line := range bytes.Lines(data) {
		_, rest, _ := strings.Cut(string(line), `"`)
		request, rest, ok := strings.Cut(rest, `" `)
		if !ok {
			t.Fatalf("no request line in %q", line)
		}
		lines++
		if testing.Short() && lines%10 != 0 {
			continue // the long run reads it
		}
		read++
		_, agent, _ := strings.Cut(strings.TrimRight(rest, "\"\n"), `" "`)
		data := request + "\r\nHost: semicomplete.com\r\nUser-Agent: " + agent + "\r\n\r\n"
		if err := differ(New(Config{}), data, ok3); err != nil {
			t.Errorf("%q: %v", request, err)
		}
		r := run(New(Config{}), []event{client(data)}, nil)
		if len(r.done) == 1 && r.rule() == 0 {
			requests++
		} else {
			t.Logf("not a request: %q: %v", request, r.rule())
		}
	}
	t.Logf("%d lines, %d read, %d are requests", lines, read, requests)
	if lines != 10000 || read < 1000 || requests < read*999/1000 {
		t.Errorf("got %d requests in %d lines of %d", requests, read, lines)
	}
}

// FuzzHTTP1 looks for bytes that the observer and net/http read differently,
// for a way of cutting chunks that matters, and for memory left behind.
func FuzzHTTP1(f *testing.F) {
	f.Add(get+head+get, ok3+ok3+ok204, uint8(1))
	f.Add(post(chunked+"2;x=y\r\nab\r\n0\r\nT: v\r\n\r\n")+get, "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\n"+chunked+"3\r\nabc\r\n0\r\n\r\n"+ok204, uint8(3))
	f.Add(post("Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\nabc", uint8(7))
	for _, shape := range shapes() {
		f.Add(shape+get, ok3+ok3, uint8(2))
	}
	f.Fuzz(func(t *testing.T, fromClient, fromLive string, step uint8) {
		if strings.HasPrefix(fromClient, "PRI * ") {
			return // HTTP/2, or on the way there
		}
		if strings.Count(fromClient+fromLive, "\r\n") > 500 {
			return // net/http has a limit on overhead that is not ours
		}
		if err := differ(New(Config{}), fromClient, fromLive); err != nil {
			t.Error(err)
		}
		events := []event{client(fromClient), live(fromLive), {side: Live, eof: true}}
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
