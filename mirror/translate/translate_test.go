package translate_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"darklaunch/mirror/translate"
)

const header = "apiVersion: translate/v1\nrules:\n"

// get is an exchange of a route, with bodies of JSON.
func get(route, path, body, answer string) *translate.Exchange {
	method, pattern, _ := strings.Cut(route, " ")
	if path == "" {
		path = pattern
	}
	path, query, _ := strings.Cut(path, "?")
	typed := []translate.Field{{Name: "content-type", Value: "application/json"}, {Name: "x-user", Value: "ann"}}
	return &translate.Exchange{
		ID: "0123456789abcdef0123456789abcdef", Route: route, Method: method, Path: path, Query: query, Status: 200, GRPCStatus: -1,
		Request: translate.Message{Header: typed, Body: []byte(body)}, Answer: translate.Message{Header: typed, Body: []byte(answer)},
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, rules string
		x           *translate.Exchange
		want        []request
	}{
		{
			"HTTP to HTTP, with path, query, header and body",
			`  - match: POST /a/{user}
    calls:
      - call: PUT /b/{who}
        path: {who: .request.params.user}
        query: {n: .request.query.n, gone: "null"}
        header: {X-Key: '"live:" + .id'}
        body: {deep: {id: .answer.body.id}, absent: .request.body.none}
`,
			get("POST /a/{user}", "/a/bob%2Fx?n=2", `{}`, `{"id":7}`),
			[]request{{"PUT /b/bob%2Fx?n=2", map[string]string{"x-key": "live:0123456789abcdef0123456789abcdef", "content-type": "application/json"}, map[string]any{"deep": map[string]any{"id": 7.0}}}},
		},
		{
			"one request to several calls, in order, those for which when holds",
			`  - match: POST /mark
    calls:
      - call: POST /one
        each: .request.body.ids[]
        when: .each != 2
        body: .each
      - call: GET /count
`,
			get("POST /mark", "", `{"ids":[1,2,3]}`, `{}`),
			[]request{
				{"POST /one", map[string]string{"content-type": "application/json"}, 1.0},
				{"POST /one", map[string]string{"content-type": "application/json"}, 3.0},
				{"GET /count", map[string]string{}, nil},
			},
		},
		{
			"the first rule that holds",
			`  - match: GET /x
    when: .request.query.y
    calls: [{call: GET /y}]
  - match: GET /x
    calls: [{call: GET /z}]
`,
			get("GET /x", "", ``, `{}`),
			[]request{{"GET /z", map[string]string{}, nil}},
		},
		{
			"gRPC of a text and a time",
			`  - match: GET /x
    calls: [{call: /messages.v1.Messages/ListThreads, body: {until: .answer.body.ms | ms_to_time, tags: '["a"]'}}]
`,
			get("GET /x", "", ``, `{"ms":1290013200123}`),
			[]request{{"/messages.v1.Messages/ListThreads", map[string]string{"content-type": "application/grpc", "te": "trailers"}, map[string]any{
				"folder": "FOLDER_UNSPECIFIED", "tags": []any{"a"}, "authors": []any{}, "keywords": []any{}, "until": "2010-11-17T17:00:00.123Z",
				"order": "ORDER_UNSPECIFIED", "page_size": 0.0, "page_token": "",
			}}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			rules := parse(t, header+tt.rules)
			got, err := rules.Forward(tt.x, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, shown(t, rules, got.Calls)); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTraceIsCarried(t *testing.T) {
	t.Parallel()
	x := get("GET /x", "", "", "{}")
	x.Request.Header = append(x.Request.Header, translate.Field{Name: "traceparent", Value: "00-1"}, translate.Field{Name: "cookie", Value: "secret"})
	got, err := parse(t, header+"  - {match: GET /x, calls: [{call: GET /y}]}\n").Forward(x, nil)
	want := []translate.Field{{Name: "traceparent", Value: "00-1"}}
	if err != nil || !cmp.Equal(got.Calls[0].Header, want) {
		t.Errorf("got %v, %v, want %v", got.Calls, err, want)
	}
}

// TestNoCounterpart: what no rule is about, and what a rule skips.
func TestNoCounterpart(t *testing.T) {
	t.Parallel()
	rules := parse(t, header+`  - {match: GET /skipped, skip: true}
  - {match: GET /sometimes, when: .request.query.no, skip: true}
  - {match: GET /sometimes, when: .request.query.yes, calls: [{call: GET /y}]}
  - {match: GET /empty, calls: [{call: GET /y, each: empty}]}
`)
	for _, path := range []string{"/skipped", "/sometimes?no=1", "/sometimes", "/empty", "/other"} {
		route, _, _ := strings.Cut("GET "+path, "?")
		if got, err := rules.Forward(get(route, path, "", "{}"), nil); !errors.Is(err, translate.ErrNoCounterpart) {
			t.Errorf("%s: got %v, %v, want no counterpart", path, got, err)
		}
	}
	for route, want := range map[string][2]bool{"GET /skipped": {false, true}, "GET /sometimes": {true, false}, "GET /other": {false, false}} {
		if got := [2]bool{rules.Handles(route), rules.Harmless(route)}; got != want {
			t.Errorf("%s: handles, harmless: got %v, want %v", route, got, want)
		}
	}
}

// TestForwardFails: a rule that fails says which it is, and shows nothing of users.
func TestForwardFails(t *testing.T) {
	t.Parallel()
	truncated := get("GET /x", "", "", `{"a":"secret"}`)
	truncated.Answer.Truncated = true
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, tt := range []struct {
		name, call string
		x          *translate.Exchange
		where, why string
	}{
		{"an error of jq", "{call: POST /y, body: .answer.body.a + 1}", get("GET /x", "", "", `{"a":"secret"}`), "4: rules[0].calls[0].body", "cannot add"},
		{"a request that is no JSON", "{call: GET /y}", get("GET /x", "", `{"a":`, "{}"), "3: rules[0].match", "no JSON"},
		{"an answer that is no JSON", "{call: GET /y}", get("GET /x", "", "", "secret"), "3: rules[0].match", "no JSON"},
		{"two texts in one", "{call: GET /y}", get("GET /x", "", `{}{}`, "{}"), "3: rules[0].match", "no JSON"},
		{"half an answer", "{call: GET /y}", truncated, "3: rules[0].match", "not kept whole"},
		{"a body that is too deep", "{call: GET /y}", get("GET /x", "", deep, "{}"), "3: rules[0].match", "deeper"},
		{"a field that the message has not", "{call: /messages.v1.Messages/Search, body: .answer.body}", get("GET /x", "", "", `{"secret":1}`), "4: rules[0].calls[0].body", "unknown field"},
		{"a value of another type", "{call: /messages.v1.Messages/Search, body: {page_size: .answer.body.a}}", get("GET /x", "", "", `{"a":"secret"}`), "4: rules[0].calls[0].body", "int32"},
		{"no text for a segment", `{call: "GET /{a}", path: {a: .answer.body.b}}`, get("GET /x", "", "", `{}`), "4: rules[0].calls[0].path.a", "segment"},
		{"a list for a header", `{call: GET /y, header: {a: "[1]"}}`, get("GET /x", "", "", `{}`), "4: rules[0].calls[0].header.a", "want a text"},
		{"two values for one", `{call: GET /y, body: "1, 2"}`, get("GET /x", "", "", `{}`), "4: rules[0].calls[0].body", "more than 1 values"},
		{"too many calls", `{call: GET /y, each: "range(100)"}`, get("GET /x", "", "", `{}`), "4: rules[0].calls[0].each", "more than 16 values"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, header+"  - match: GET /x\n    calls: ["+tt.call+"]\n").Forward(tt.x, nil)
			failed, ok := errors.AsType[*translate.RuleError](err)
			if !ok || failed.Where() != tt.where || !strings.Contains(err.Error(), tt.why) {
				t.Fatalf("got %v, want one of %s that says %q", err, tt.where, tt.why)
			}
		})
	}
}

// TestUnreadableError: of an error that live answered nothing need be read.
func TestUnreadableError(t *testing.T) {
	t.Parallel()
	x := get("GET /x", "", "", "404 page not found")
	x.Status = 404
	if _, err := parse(t, header+"  - {match: GET /x, when: .answer.body == null, calls: [{call: GET /y}]}\n").Forward(x, nil); err != nil {
		t.Error(err)
	}
}

// TestLimits: whatever an expression does, it ends soon.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ expression, why string }{
		"a loop":                       {`until(false; .)`, "steps"},
		"a loop that gives something":  {`[repeat(1)]`, "steps"},
		"a recursion":                  {`def f: f; f`, "steps"},
		"a recursion that grows":       {`def f: [f]; f`, "steps"},
		"a range without end":          {`[range(infinite)]`, "steps"},
		"a text that doubles":          {`reduce range(100) as $i ("x"; . + .)`, "bytes"},
		"a list that doubles":          {`reduce range(100) as $i ([1]; . + .)`, "bytes"},
		"a list that doubles by add":   {`reduce range(100) as $i ([1]; [., .] | add)`, "bytes"},
		"a text that doubles by join":  {`reduce range(100) as $i ("x"; [., .] | join(""))`, "bytes"},
		"a text that is put in itself": {`reduce range(100) as $i ("x"; "\(.)\(.)")`, "bytes"},
		"a format that grows":          {`reduce range(100) as $i ("<"; @base64)`, "bytes"},
		"nested shared lists":          {`reduce range(40) as $i ([]; [., .])`, "bytes"},
		"nested shared lists, written": {`reduce range(40) as $i ([]; [., .]) | tojson`, "bytes"},
		"a text times a number":        {`"x" * 1000000000`, "want numbers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules := parse(t, header+"  - match: GET /x\n    calls:\n      - call: POST /y\n        body: |\n          "+tt.expression+"\n")
			if got, err := rules.Forward(get("GET /x", "", "", "{}"), nil); err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("got %d calls, %.200v, want an error that says %q", len(got.Calls), err, tt.why)
			}
		})
	}
}

// TestLate: who asks may end it sooner.
func TestLate(t *testing.T) {
	t.Parallel()
	rules := parse(t, header+"  - {match: GET /x, calls: [{call: POST /y, body: until(false; .)}]}\n")
	asked := 0
	_, err := rules.Forward(get("GET /x", "", "", "{}"), func() bool { asked++; return asked == 3 })
	if err == nil || !strings.Contains(err.Error(), "too long") || asked != 3 {
		t.Errorf("got %v after %d questions, want one that says that it took too long after 3", err, asked)
	}
}

func TestProducts(t *testing.T) {
	t.Parallel()
	rules := parse(t, header+`  - {match: GET /x, calls: [{call: POST /y, body: '[2 * 3, 0.5 * 3, (1, 2) * 10, -(2 * 4) + 1]'}]}`+"\n")
	got, err := rules.Forward(get("GET /x", "", "", "{}"), nil)
	if want := `[6,1.5,10,20,-7]`; err != nil || string(got.Calls[0].Body) != want {
		t.Errorf("got %s, %v, want %s", got.Calls[0].Body, err, want)
	}
}

// TestParseRefuses: a file that can't be meant is refused with line and key.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, text, want string }{
		{"a key", header + "  - match: GET /x\n    skipp: true\n", "4: rules[0].skipp: unknown key"},
		{"jq", header + "  - match: GET /x\n    calls:\n      - call: GET /y\n        header:\n          a: .b | | .c\n", `7: rules[0].calls[0].header.a: jq: unexpected token "|", at the end of ".b | |"`},
		{"jq that ends too soon", header + "  - {match: GET /x, when: '(.a', skip: true}\n", `3: rules[0].when: jq: ends too soon`},
		{"a function that there isn't", header + "  - {match: GET /x, when: nope, skip: true}\n", "3: rules[0].when: jq: function not defined: nope/0"},
		{"jq of all rules", "apiVersion: translate/v1\nfunctions: 'def f: ;'\nrules:\n  - {match: GET /x, skip: true}\n", "2: functions: "},
		{"a field", header + "  - match: GET /x\n    calls:\n      - call: /messages.v1.Messages/Search\n        body:\n          query: .a\n          pagesize: .b\n", "8: rules[0].calls[0].body.pagesize: messages.v1.SearchRequest has no such field"},
		{"a field of a field", header + "  - match: GET /x\n    calls:\n      - call: /messages.v1.Messages/Send\n        body: {assigned: {message: .a}}\n", "6: rules[0].calls[0].body.assigned.message: messages.v1.Assigned has no such field"},
		{"members of a text", header + "  - match: GET /x\n    calls:\n      - {call: /messages.v1.Messages/Search, body: {query: {a: .b}}}\n", "5: rules[0].calls[0].body.query: want an expression"},
		{"a method", header + "  - match: GET /x\n    calls: [{call: /messages.v1.Messages/Find}]\n", "4: rules[0].calls[0].call: the descriptors have no method /messages.v1.Messages/Find"},
		{"a method that is matched", header + "  - {match: /legacy.chat.v1.Chat/Sent, skip: true}\n", `3: rules[0].match: "/legacy.chat.v1.Chat/Sent" matches nothing`},
		{"no path", header + "  - {match: GET /x, calls: [{call: GET}]}\n", `3: rules[0].calls[0].call: got "GET", want METHOD /path`},
		{"a segment without expression", header + "  - {match: GET /x, calls: [{call: 'GET /{a}'}]}\n", "want an expression for {a}"},
		{"an expression without segment", header + "  - {match: GET /x, calls: [{call: GET /y, path: {a: .b}}]}\n", "/y has no {a}"},
		{"a query of gRPC", header + "  - {match: GET /x, calls: [{call: /messages.v1.Messages/Search, query: {a: .b}}]}\n", "a gRPC call has none"},
		{"nothing", header + "  - {match: GET /x}\n", "3: rules[0]: want calls, or skip: true"},
		{"both", header + "  - {match: GET /x, skip: true, calls: [{call: GET /y}]}\n", "3: rules[0]: want calls, or skip: true"},
		{"a way back of nothing", header + "  - {match: GET /x, skip: true, back: {body: .a}}\n", "nothing comes back"},
		{"a clock", header + "  - {match: GET /x, when: now, skip: true}\n", "now: asks a clock"},
		{"the environment", header + "  - {match: GET /x, when: $ENV.HOME, skip: true}\n", "$ENV: reads the environment"},
		{"a module", header + "  - {match: GET /x, when: 'import \"a\" as a; .', skip: true}\n", "rules[0].when: jq: "},
		{"a computed index", header + "  - {match: GET /x, when: '.[.a] = 1', skip: true}\n", "assignment to a computed index"},
		{"growing by an update", header + "  - {match: GET /x, when: '.a += .b', skip: true}\n", "+=: want |= with an expression"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := translate.Parse([]byte(tt.text), schema(t), translate.Config{Methods: descriptors(t)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

const back = header + `  - match: GET /x
    keep: {n: .request.query.n}
    calls: [{call: /messages.v1.Messages/UnreadCounts}]
    back:
      header:
        x-total: .calls[0].body.messages
      body:
        unread: .calls[0].body.messages
        n: .keep.n
        who: .answer.body.who
    reads: ["json:$.messages"]
`

func TestBack(t *testing.T) {
	t.Parallel()
	rules := parse(t, back)
	if diff := cmp.Diff([]translate.Read{{Place: "json:$.keep.n", Rule: "GET /x (line 4)"}, {Place: "json:$.messages", Rule: "GET /x (line 13)"}}, rules.Reads("GET /x")); diff != "" {
		t.Errorf("reads (-want +got):\n%s", diff)
	}
	made, err := rules.Forward(get("GET /x", "/x?n=3", "", "{}"), nil)
	if err != nil || string(made.Keep) != `{"keep":{"n":"3"}}` {
		t.Fatalf("got %s, %v", made.Keep, err)
	}
	live := translate.Answer{Status: 200, GRPCStatus: -1, Header: []translate.Field{{Name: "content-type", Value: "application/json"}, {Name: "x-total", Value: "9"}}, JSON: []byte(`{"who":"~s:3:word:00"}`)}
	for _, tt := range []struct {
		name string
		role translate.Answer
		want translate.Answer
	}{
		{
			"done", translate.Answer{Status: 200, GRPCStatus: 0, JSON: []byte(`{"messages":4}`)},
			translate.Answer{Status: 200, GRPCStatus: -1, Header: []translate.Field{{Name: "content-type", Value: "application/json"}, {Name: "x-total", Value: "4"}}, JSON: []byte(`{"n":"3","unread":4,"who":"~s:3:word:00"}`)},
		},
		{
			"not found", translate.Answer{Status: 200, GRPCStatus: 5},
			translate.Answer{Status: 404, GRPCStatus: -1, Header: live.Header},
		},
	} {
		got, err := rules.Back(&translate.Recorded{Rule: made.Rule, Method: "GET", Live: live, Answers: []translate.Answer{tt.role}, Keep: made.Keep}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
	live.Status = 404
	got, err := rules.Back(&translate.Recorded{Rule: made.Rule, Live: live, Answers: []translate.Answer{{Status: 200, GRPCStatus: 5}}}, nil)
	if err != nil || got.Status != 404 || string(got.JSON) != string(live.JSON) {
		t.Errorf("both failed: got %+v, %v, want live's body", got, err)
	}
	for _, bad := range []*translate.Recorded{{Rule: 0, Answers: []translate.Answer{{}}}, {Rule: 2, Answers: []translate.Answer{{}}}, {Rule: 1}} {
		if got, err := rules.Back(bad, nil); err == nil {
			t.Errorf("%+v: got %+v, want an error", bad, got)
		}
	}
}

// FuzzForward: whatever an exchange holds, rules end with calls or an error.
func FuzzForward(f *testing.F) {
	f.Add("77", "limit=1", []byte(`{"to":["bob"]}`), []byte(`{"id":"7","thread":"7","time":1,"to":["bob"],"subject":"","body":""}`), 200, false)
	f.Add("", "%zz", []byte("\xff"), []byte("{}{}"), 404, false)
	f.Add("x", "before=9999999999999999", []byte("null"), []byte("[1e999]"), 200, false)
	f.Add("x", "", []byte{0, 0, 0, 0, 3, 10, 1, 'b'}, []byte{0, 0, 0, 0, 2, 24, 1}, 200, true)
	inbox, chat := builtin(f, "inbox.yaml", nil), builtin(f, "chat.yaml", nil)
	f.Fuzz(func(t *testing.T, user, query string, asked, answered []byte, status int, grpc bool) {
		rules := inbox
		if grpc {
			rules = chat
		}
		for _, route := range rules.Routes() {
			x := get("POST "+route, "", string(asked), string(answered))
			x.Route, x.GRPC, x.Status, x.Query = route, grpc, status, query
			if x.Path = strings.ReplaceAll(route[strings.IndexByte(route, '/'):], "{thread}", user); grpc {
				x.GRPCStatus = status % 17
			}
			x.Request.Header = []translate.Field{{Name: "x-user", Value: user}, {Name: "content-type", Value: "application/json"}}
			made, err := rules.Forward(x, nil)
			if err != nil {
				continue
			}
			for _, c := range made.Calls {
				if _, ok := rules.Document(c.Target, false, c.Body); !ok {
					t.Errorf("%s: got a call of %s that is no message: %x", route, c.Target, c.Body)
				}
			}
			r := &translate.Recorded{Rule: made.Rule, Live: translate.Answer{Status: status, GRPCStatus: x.GRPCStatus, JSON: answered}, Keep: made.Keep,
				Answers: []translate.Answer{{Status: 200, GRPCStatus: 0, JSON: asked}}}
			_, _ = rules.Back(r, nil)
		}
	})
}

func BenchmarkForward(b *testing.B) {
	rules := builtin(b, "inbox.yaml", nil)
	send := get("POST /messages", "", `{"to":["bob","cid"],"subject":"hi","body":"there"}`, `{"id":"77","thread":"77","time":1290013200123,"from":"ann","to":["bob","cid"],"subject":"hi","body":"there"}`)
	list := get("GET /threads", "/threads?folder=INBOX&limit=50", "", `{"threads":[]}`)
	for name, x := range map[string]*translate.Exchange{"send": send, "list": list} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Forward(x, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBack(b *testing.B) {
	rules := parse(b, back)
	x := &translate.Recorded{Rule: 1, Live: translate.Answer{Status: 200, GRPCStatus: -1, JSON: []byte(`{"who":"ann"}`)}, Answers: []translate.Answer{{Status: 200, JSON: []byte(`{"messages":4}`)}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rules.Back(x, nil); err != nil {
			b.Fatal(err)
		}
	}
}
