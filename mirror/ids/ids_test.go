package ids

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/encoding/protowire"

	"darklaunch/mirror/observe"
	"darklaunch/mirror/shadow"
)

type taker struct{ x *observe.Exchange }

func (*taker) Request(*observe.Exchange) observe.Mode { return observe.Keep }
func (*taker) Answer(*observe.Exchange) observe.Mode  { return observe.Keep }
func (k *taker) Done(x *observe.Exchange)             { k.x, _ = x.Take() }
func (*taker) Abandoned(a observe.Abandonment)        { panic(a.Rule.String()) }

// live returns an exchange of which live's answer is known.
func live(t *testing.T, body, fields string) *observe.Exchange {
	t.Helper()
	k := new(taker)
	c := observe.New(observe.Config{}).Conn(k)
	c.FromClient(time.Now(), []byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"))
	c.FromLive(time.Now(), fmt.Appendf(nil, "HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", fields, len(body), body))
	if k.x == nil {
		t.Fatal("no exchange")
	}
	return k.x
}

func answer(body, location string) *shadow.Answer {
	a := &shadow.Answer{Status: 200, GRPC: -1, Body: []byte(body), Size: int64(len(body)), Hash: xxh3.HashString128(body).Bytes()}
	if location != "" {
		a.Header.Add("Location", location)
	}
	return a
}

func call(target, body string, header ...shadow.Field) *shadow.Copy {
	return &shadow.Copy{Calls: []shadow.Call{{Method: []byte("POST"), Target: []byte(target), Body: []byte(body), Header: header}}}
}

// TestTable follows a thread: made, read by its id, listed.
func TestTable(t *testing.T) {
	table, err := NewTable(Config{
		Learn:    []string{"answer:json:$.id", "header:Location"},
		Requests: []string{"path:/threads/{key}", "query:after", "json:$.parent.id", "header:X-Thread"},
		Answers:  []string{"json:$.threads[*].id"},
	})
	if err != nil {
		t.Fatal(err)
	}
	cp := call("/threads/L1/messages?after=L1&x=L1", `{"parent":{"id":"L1"},"id":"L1"}`, shadow.Field{Name: []byte("x-thread"), Value: []byte("L1")})
	if own, unknown := table.Copy(cp); !unknown || string(own.Calls[0].Target) != "/threads/L1/messages?after=L1&x=L1" {
		t.Errorf("got %s, unknown %v before anything is known; want it as it is, and unknown", own.Calls[0].Target, unknown)
	}

	a := answer(`{"id": "R/1", "at": 5}`, "/t/R1")
	if unknown := table.Answer(live(t, `{"id":"L1","at":5}`, "Location: /t/L1\r\n"), a); unknown {
		t.Error("unknown in an answer that was learned from")
	}
	want := `{"id": "L1", "at": 5}`
	location, _ := a.Header.Get("location")
	if string(a.Body) != want || a.Hash != xxh3.HashString128(want).Bytes() || a.Size != int64(len(want)) || string(location) != "/t/L1" {
		t.Errorf("got %s, location %s; want %s, with its hash, and /t/L1", a.Body, location, want)
	}

	own, unknown := table.Copy(cp)
	c := own.Calls[0]
	got := fmt.Sprintf("%s %s %s", c.Target, c.Body, c.Header[0].Value)
	if want := `/threads/R%2F1/messages?after=R%2F1&x=L1 {"parent":{"id":"R/1"},"id":"L1"} R/1`; got != want || unknown {
		t.Errorf("got %s, unknown %v\nwant %s", got, unknown, want)
	}
	if original := cp.Calls[0]; string(original.Target) != "/threads/L1/messages?after=L1&x=L1" || string(original.Header[0].Value) != "L1" {
		t.Errorf("the original became %s", original.Target)
	}

	list := answer(`{"threads":[{"id":"R/1"},{"id":"R2"}]}`, "")
	if unknown := table.Answer(live(t, `{"threads":[]}`, ""), list); !unknown || string(list.Body) != `{"threads":[{"id":"L1"},{"id":"R2"}]}` {
		t.Errorf("got %s, unknown %v; want the known id rewritten, the other not", list.Body, unknown)
	}
	if got, want := table.Counts(), (Counts{Learned: 2, Rewritten: 7, Unknown: 5}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestConflict keeps what was learned first.
func TestConflict(t *testing.T) {
	table, err := NewTable(Config{Learn: []string{"json:$.ids[*]"}, Requests: []string{"query:id"}})
	if err != nil {
		t.Fatal(err)
	}
	table.Answer(live(t, `{"ids":["a",2]}`, ""), answer(`{"ids":["x",9]}`, ""))
	table.Answer(live(t, `{"ids":["a","c"]}`, ""), answer(`{"ids":["y","x"]}`, ""))
	table.Answer(live(t, `{"ids":["d"]}`, ""), answer(`{"ids":["u","v"]}`, ""))
	table.Answer(live(t, `{"ids":["e"]}`, ""), &shadow.Answer{Status: 201, GRPC: -1, Body: []byte(`{"ids":["w"]}`)})
	table.Answer(live(t, `{"ids":[77]}`, ""), answer(`{"ids":["r-77"]}`, ""))
	for id, want := range map[string]string{"77": "r-77", "a": "x", "2": "9", "c": "c", "d": "d", "e": "e"} {
		if own, _ := table.Copy(call("/?id="+id, "")); string(own.Calls[0].Target) != "/?id="+want {
			t.Errorf("%s: got %s, want %s", id, own.Calls[0].Target, want)
		}
	}
	if got := table.Counts(); got.Learned != 3 || got.Conflicts != 2 {
		t.Errorf("got %+v, want 3 learned and 2 conflicts", got)
	}
}

// TestBound forgets what is old and not used.
func TestBound(t *testing.T) {
	table, err := NewTable(Config{Max: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		table.remember([]string{fmt.Sprint("l", i)}, []string{fmt.Sprint("r", i)})
		if n := len(table.fresh.toRole) + len(table.old.toRole); n > 100 {
			t.Fatalf("got %d ids, want at most 100", n)
		}
		if r, ok := table.find(toRole, "l0"); !ok || r != "r0" {
			t.Fatalf("forgot an id in use after %d others", i)
		}
	}
	if _, ok := table.find(toRole, "l500"); ok {
		t.Error("remembers an id that 499 newer ones should have pushed out")
	}
}

func message(fields ...any) (b []byte) {
	for i := 0; i < len(fields); i += 2 {
		n := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
		}
	}
	return b
}

func TestEach(t *testing.T) {
	twice := func(s string) string { return s + s }
	for _, tt := range []struct {
		place, body, want string
		fails             bool
	}{
		{place: "json:$.a", body: ` { "a" : "x\u0061" , "b":"x" } `, want: ` { "a" : "xaxa" , "b":"x" } `},
		{place: "json:$.a", body: `{"a":7,"b":{"a":8}}`, want: `{"a":77,"b":{"a":8}}`},
		{place: "json:$.a[*].b", body: `{"a":[{"b":"1"},{"c":"2","b":"3"},4]}`, want: `{"a":[{"b":"11"},{"c":"2","b":"33"},4]}`},
		{place: "json:$[*]", body: `["x",{"y":"z"},null,true,""]`, want: `["xx",{"y":"z"},null,true,""]`},
		{place: "json:$.a", body: `{"a":"x"`, fails: true},
		{place: "json:$.a", body: ``, want: ``},
		{place: "proto:1", body: string(appendMessage(nil, message(1, "x", 2, "y", 1, "z"))), want: string(appendMessage(nil, message(1, "xx", 2, "y", 1, "zz")))},
		{place: "proto:3.1", body: string(appendMessage(nil, message(3, message(1, 5), 1, "z"))), want: string(appendMessage(nil, message(3, message(1, 55), 1, "z")))},
		{place: "proto:1", body: "\x01\x00\x00\x00\x00", fails: true},
		{place: "proto:1", body: "\x00\x00\x00\x00\x09x", fails: true},
		{place: "proto:1.1", body: string(appendMessage(nil, message(1, 7))), fails: true},
	} {
		p, err := parsePlace(tt.place)
		if err != nil {
			t.Fatal(err)
		}
		m := content{body: []byte(tt.body)}
		err = p.each(&m, twice)
		if tt.fails {
			tt.want = tt.body
		}
		if (err != nil) != tt.fails || string(m.body) != tt.want {
			t.Errorf("%s of %q: got %q and %v, want %q", tt.place, tt.body, m.body, err, tt.want)
		}
	}
	p, _ := parsePlace("json:$.a")
	n := content{body: []byte(`{"a":77}`)}
	if err := p.each(&n, func(string) string { return `r-77` }); err != nil || string(n.body) != `{"a":"r-77"}` {
		t.Errorf("got %s and %v, want text where a number was", n.body, err)
	}
	m := content{body: []byte(`{"a":"x"}`), header: []shadow.Field{{Name: []byte("Content-Encoding"), Value: []byte("gzip")}}}
	if err := p.each(&m, twice); err == nil {
		t.Error("got no error for a compressed body")
	}
}

func TestAssign(t *testing.T) {
	x := live(t, `{"id":"L1"}`, "X-Time: 12\r\n")
	for _, tt := range []struct {
		from, to, body, want string
		grpc                 bool
		fails                bool
	}{
		{from: "answer:json:$.id", to: "header:Assigned-Id", body: `{}`, want: `{} assigned-id=L1`},
		{from: "header:x-time", to: "json:$.time", body: ` {"a":1}`, want: ` {"time":"12","a":1} assigned-id=old`},
		{from: "header:x-time", to: "json:$.time", body: `{}`, want: `{"time":"12"} assigned-id=old`},
		{from: "header:x-time", to: "json:$.time", body: `{"a":1,"time":"no"}`, want: `{"a":1,"time":"12"} assigned-id=old`},
		{from: "header:x-time", to: "proto:4", grpc: true, body: string(appendMessage(nil, message(1, "a"))), want: string(appendMessage(nil, message(1, "a", 4, "12"))) + " assigned-id=old"},
		{from: "header:x-none", to: "json:$.time", body: `{}`, fails: true},
		{from: "header:x-time", to: "json:$.time", body: `[]`, fails: true},
		{from: "header:x-time", to: "json:$.time", body: ``, fails: true},
		{from: "header:x-time", to: "proto:4", body: ``, fails: true},
	} {
		as, err := NewAssign(tt.from, tt.to)
		if err != nil {
			t.Fatal(err)
		}
		c := call("/", tt.body, shadow.Field{Name: []byte("assigned-id"), Value: []byte("old")}).Calls[0]
		ok := as.Apply(x, &c)
		if tt.fails {
			tt.want = tt.body + " assigned-id=old"
		}
		if got := fmt.Sprintf("%s %s=%s", c.Body, c.Header[0].Name, c.Header[0].Value); got != tt.want || ok == tt.fails {
			t.Errorf("%s to %s in %q: got %q, %v; want %q", tt.from, tt.to, tt.body, got, ok, tt.want)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		text string
		make func(string) error
	}{
		{"path:/a/{key}", func(s string) error { _, err := NewTable(Config{Learn: []string{s}}); return err }},
		{"query:a", func(s string) error { _, err := NewTable(Config{Answers: []string{s}}); return err }},
		{"cookie:a", func(s string) error { _, err := NewTable(Config{Requests: []string{s}}); return err }},
		{"json:$.a[3]", func(s string) error { _, err := NewTable(Config{Requests: []string{s}}); return err }},
		{"proto:name", func(s string) error { _, err := NewTable(Config{Requests: []string{s}}); return err }},
		{"header:a|lower", func(s string) error { _, err := NewTable(Config{Requests: []string{s}}); return err }},
		{"nonsense", func(s string) error { _, err := NewTable(Config{Requests: []string{s}}); return err }},
		{"query:a", func(s string) error { _, err := NewAssign(s, "header:a"); return err }},
		{"query:a", func(s string) error { _, err := NewAssign("header:a", s); return err }},
		{"json:$.a.b", func(s string) error { _, err := NewAssign("header:a", s); return err }},
	} {
		if err := tt.make(tt.text); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", tt.text)) {
			t.Errorf("%s: got %v, want an error that names it", tt.text, err)
		}
	}
}

func FuzzEach(f *testing.F) {
	f.Add([]byte(`{"a":[{"b":"x"}]}`))
	f.Add([]byte("\x00\x00\x00\x00\x05\x0a\x03ann"))
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, text := range []string{"json:$.a[*].b", "proto:1", "proto:1.1"} {
			p, err := parsePlace(text)
			if err != nil {
				t.Fatal(err)
			}
			m := content{body: body}
			before := p.values(&m)
			if before == nil || p.each(&m, func(s string) string { return s + "1" }) != nil {
				continue
			}
			var want []string
			for _, v := range before {
				want = append(want, v+"1")
			}
			if diff := cmp.Diff(want, p.values(&m)); diff != "" && !strings.ContainsAny(string(body), ".eE") {
				t.Errorf("%s of %q (-want +got):\n%s", text, body, diff)
			}
		}
	})
}

func (*taker) Ongoing(*observe.Exchange, bool) bool { return false }
