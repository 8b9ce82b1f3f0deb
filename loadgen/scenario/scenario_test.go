package scenario

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

func schema(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("../../cmd/darklaunch/schemas/scenario.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shop is a scenario of sessions over HTTP.
const shop = `apiVersion: load/v1
name: shop
target: {protocol: http}
population: {users: 100}
arrivals:
  unit: sessions
  curve:
    - {phase: settle, for: 1s, hold: 20/s}
    - {for: 4s, hold: 50/s}
session:
  start: list
  think: 200ms
  next:
    list: {view: 0.8, end: 0.2}
    view: {view: 0.3, buy: 0.4, end: 0.3}
    buy: {end: 1}
headers: {X-User: "${user}", X-Fixed: a}
ops:
  list: {path: /items, save: {items: items.id}}
  view: {path: "/items/${item}?q=a b", let: {item: "${recent(items)}"}}
  buy:
    path: /cart
    when: size(items) > 0 && n % 2 == 0
    otherwise: list
    request: {item: "${item}", count: "${step}", half: "${double(n) / 2.0}", note: "for ${user}", all: [{$each: items, id: "${it}"}, 7], fixed: {a: [1, null, true]}}
`

func load(t testing.TB, files map[string]string) (*Scenario, error) {
	t.Helper()
	m := fstest.MapFS{}
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return Load(m, "main.yaml", schema(t))
}

func mustLoad(t testing.TB, text string) *Scenario {
	t.Helper()
	s, err := load(t, map[string]string{"main.yaml": strings.Replace(text, "?q=a b", "?q=a", 1)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWorkersTogetherMakeThePlan splits a run in several ways: the calls are the same.
func TestWorkersTogetherMakeThePlan(t *testing.T) {
	s := mustLoad(t, shop)
	calls := func(total int) (all []string) {
		for index := range total {
			err := s.Simulate(Run{Seed: 3, ID: "x"}, index, total, 30*time.Millisecond, func(m Made) {
				all = append(all, fmt.Sprint(m.Call.Intended, m.Call.User, m.Op, m.Call.Path, string(m.Call.Body)))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(all)
		return all
	}
	one := calls(1)
	if len(one) < 400 {
		t.Fatalf("got %d calls, want the plan", len(one))
	}
	for _, total := range []int{2, 3, 7} {
		if diff := cmp.Diff(one, calls(total)); diff != "" {
			t.Errorf("%d workers (-one +several):\n%s", total, diff)
		}
	}
	err := s.Simulate(Run{Seed: 4, ID: "x"}, 0, 1, 30*time.Millisecond, func(m Made) {})
	if err != nil {
		t.Fatal(err)
	}
}

// play answers every call of a source by answer, in virtual time.
func play(t *testing.T, s *Scenario, n int, answer func(op string, c *transport.Call) (time.Duration, string)) []*transport.Call {
	t.Helper()
	x, err := s.begin(Run{Seed: 1, ID: "run"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.source(x, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	var made, open []*transport.Call
	for range n {
		at, ok := v.Peek()
		for len(open) > 0 && (!ok || open[0].Done <= at) {
			v.Ended(open[0], engine.Measure, true)
			open = open[1:]
			at, ok = v.Peek()
		}
		if !ok {
			break
		}
		c := &transport.Call{Intended: at, Sent: at}
		v.Take(c)
		took, text := answer(s.ops[c.Op].transport.Name, c)
		c.Done, c.Answer = at+took, []byte(text)
		made, open = append(made, c), append(open, c)
		slices.SortStableFunc(open, func(a, b *transport.Call) int { return int(a.Done - b.Done) })
	}
	return made
}

// TestAnswersLeadOn runs sessions against answers: what is saved is used, steps wait
// for the answer and the user, and what can't be done gives way to what can.
func TestAnswersLeadOn(t *testing.T) {
	s := mustLoad(t, shop)
	seen := map[string]int{}
	intended := map[uint64]time.Duration{}
	play(t, s, 1500, func(op string, c *transport.Call) (time.Duration, string) {
		seen[op]++
		if len(c.Header) != 1 || c.Header[0].Name != "X-User" || c.Header[0].Value != fmt.Sprintf("u%d", c.User) {
			t.Fatalf("got header %v of user %d", c.Header, c.User)
		}
		switch op {
		case "view":
			if c.Path != "/items/1%2F2?q=a" && c.Path != "/items/b?q=a" {
				t.Fatalf("got path %s, want an item of the list", c.Path)
			}
		case "buy":
			var n uint64
			var item string
			text := string(c.Body)
			if _, err := fmt.Sscanf(text, `{"all":[{"id":"1/2"},{"id":"b"},7],"count":`+"%d", &n); err != nil || n < 3 {
				t.Fatalf("got %s: %v", text, err)
			}
			if !strings.Contains(text, `"fixed":{"a":[1,null,true]}`) || !strings.Contains(text, fmt.Sprintf(`"note":"for u%d"`, c.User)) || !strings.Contains(text, `"half":`) {
				t.Fatalf("got %s", text)
			}
			_ = item
		}
		intended[c.User] = c.Intended
		return 100 * time.Millisecond, `{"items": [{"id": "1/2"}, {"id": "b"}]}`
	})
	for _, op := range []string{"list", "view", "buy"} {
		if seen[op] == 0 {
			t.Errorf("got %v, want some of each", seen)
		}
	}

	t.Run("nothing to go on with", func(t *testing.T) {
		for _, c := range play(t, s, 300, func(op string, c *transport.Call) (time.Duration, string) { return time.Millisecond, `{"items": []}` }) {
			if name := s.ops[c.Op].transport.Name; name != "list" {
				t.Fatalf("got %s of an item that there is not", name)
			}
		}
	})
	t.Run("an answer that failed", func(t *testing.T) {
		play(t, s, 300, func(op string, c *transport.Call) (time.Duration, string) {
			if op != "list" {
				t.Fatalf("got %s after lists that failed", op)
			}
			c.Class = transport.Status
			return time.Millisecond, `{"items": [{"id": "1"}]}`
		})
	})
}

// TestThinkTimeCountsFromTheAnswer follows single sessions.
func TestThinkTimeCountsFromTheAnswer(t *testing.T) {
	s := mustLoad(t, strings.Replace(shop, "for: 4s, hold: 50/s", "for: 200s, hold: 0.5/s", 1))
	ends := map[uint64]time.Duration{}
	views, checked := 0, 0
	play(t, s, 200, func(op string, c *transport.Call) (time.Duration, string) {
		if op == "view" {
			views++
			if gap := c.Intended - ends[c.User]; gap >= 200*time.Millisecond && gap < 201*time.Millisecond {
				checked++
			}
		}
		ends[c.User] = c.Intended + time.Second
		return time.Second, `{"items": [{"id": "1"}]}`
	})
	// Now and then a user has two sessions at once.
	if views < 50 || checked < views*8/10 {
		t.Errorf("got %d of %d steps that came the think time after the answer, want nearly all", checked, views)
	}
}

// TestShedCallsEndTheirSessions sheds every call, and uses its memory again as the
// engine does.
func TestShedCallsEndTheirSessions(t *testing.T) {
	s := mustLoad(t, shop)
	x, err := s.begin(Run{Seed: 1, ID: "run"})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.source(x, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	var c transport.Call
	n := 0
	for _, ok := v.Peek(); ok; _, ok = v.Peek() {
		c.Header = nil
		v.Take(&c)
		v.Shed(&c, engine.ShedInFlight)
		n++
	}
	if n != 220 || len(v.calls) != 0 || len(v.free) < 1 {
		t.Errorf("got %d calls, %d sessions kept, %d given back: want 220 sessions of a call each, and none kept", n, len(v.calls), len(v.free))
	}
}

// echo is a scenario whose request has every type of field that calls may fill in.
const echo = `apiVersion: load/v1
target: {protocol: grpc}
descriptors: set.binpb
population: {users: 50, prefix: ""}
users: uniform
arrivals:
  unit: requests
  curve: [{for: 1s, hold: 50/s}]
mix: {check: 1, ask: 1}
content:
  limit: {recipients: 3}
  channels: {chat: {share: 1, recipients: 5, body: 200B}}
ops:
  check: {rpc: grpc.health.v1.Health/Check, request: {service: "${user}:${channel}:${text}"}}
  ask:
    rpc: test.T/Ask
    request:
      name: fixed
      number: "${n}"
      big: "${step}"
      share: "${draw}"
      yes: "${n % 2 == 0}"
      kind: "${n >= 0 ? 'TYPE_STRING' : 'TYPE_BOOL'}"
      nested: [{name: "${it2}", number: "1"}, {$each: recipients, name: "x${it}", number: "${n}"}]
`

// TestProtobufIsWhatTheLibraryReads reads calls back with the protobuf library.
func TestProtobufIsWhatTheLibraryReads(t *testing.T) {
	label := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()
	field := func(name string, n int32, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Type: kind.Enum(), Label: label}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	nested := field("nested", 7, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, ".test.M")
	nested.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("t.proto"), Package: proto.String("test"), Syntax: proto.String("proto3"),
		EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("K"), Value: []*descriptorpb.EnumValueDescriptorProto{
			{Name: proto.String("NONE"), Number: proto.Int32(0)}, {Name: proto.String("TYPE_STRING"), Number: proto.Int32(9)}}}},
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M"), Field: []*descriptorpb.FieldDescriptorProto{
			field("name", 1, descriptorpb.FieldDescriptorProto_TYPE_STRING, ""),
			field("number", 2, descriptorpb.FieldDescriptorProto_TYPE_INT32, ""),
			field("big", 3, descriptorpb.FieldDescriptorProto_TYPE_UINT64, ""),
			field("share", 4, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, ""),
			field("yes", 5, descriptorpb.FieldDescriptorProto_TYPE_BOOL, ""),
			field("kind", 6, descriptorpb.FieldDescriptorProto_TYPE_ENUM, ".test.K"),
			nested,
		}}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("T"), Method: []*descriptorpb.MethodDescriptorProto{
			{Name: proto.String("Ask"), InputType: proto.String(".test.M"), OutputType: proto.String(".test.M")}}}},
	}
	set, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		file, protodesc.ToFileDescriptorProto(grpc_health_v1.File_grpc_health_v1_health_proto)}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := load(t, map[string]string{"main.yaml": strings.ReplaceAll(echo, "${it2}", "${user}"), "set.binpb": string(set)})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	err = s.Simulate(Run{Seed: 1, ID: "x"}, 0, 1, 0, func(m Made) {
		if m.Op == "check" {
			var req grpc_health_v1.HealthCheckRequest
			if err := proto.Unmarshal(m.Call.Body, &req); err != nil || len(req.Service) < 200 || !strings.HasPrefix(req.Service, fmt.Sprint(m.Call.User, ":chat:")) {
				t.Fatalf("got %q, %v", req.Service, err)
			}
			return
		}
		asked++
		text := readBack(t, file, m.Call.Body)
		want := fmt.Sprintf(`"number":%d,"big":"1","share":0.`, m.Session)
		if m.Session == 0 {
			want = `"big":"1","share":0.`
		}
		if !strings.Contains(text, want) || !strings.Contains(text, `"kind":"TYPE_STRING"`) || strings.Count(text, `"name":"x`) != 3 ||
			!strings.Contains(text, `"name":"fixed"`) || strings.Contains(text, `"yes":true`) != (m.Session%2 == 0) {
			t.Fatalf("got %s, want %s and the rest", text, want)
		}
	})
	if err != nil || asked == 0 {
		t.Errorf("got %d calls of ask, %v", asked, err)
	}
}

func readBack(t *testing.T, file *descriptorpb.FileDescriptorProto, b []byte) string {
	t.Helper()
	fd, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newDynamic(fd)
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), " ", "")
}

func TestProtoPathFindsWhatTheLibraryWrote(t *testing.T) {
	resp := &reflection.ServerReflectionResponse{ValidHost: "h", MessageResponse: &reflection.ServerReflectionResponse_ListServicesResponse{
		ListServicesResponse: &reflection.ListServiceResponse{Service: []*reflection.ServiceResponse{{Name: "a"}, {Name: "b"}, {}}}}}
	b, err := proto.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	d := resp.ProtoReflect().Descriptor()
	p, err := compileProtoPath(d, "list_services_response.service.name")
	if diff := cmp.Diff([]string{"a", "b"}, p.find(b)); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for path, want := range map[string]string{
		"valid_hots":                "has no field valid_hots",
		"list_services_response":    "text or a number at the end",
		"valid_host.length":         "want messages on the way",
		"error_response.error_code": "",
	} {
		if _, err := compileProtoPath(d, path); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

func FuzzProtoPath(f *testing.F) {
	f.Add([]byte("\x0a\x01h\x32\x05\x0a\x03\x0a\x01a"))
	f.Add([]byte("\x32\xff"))
	d := (&reflection.ServerReflectionResponse{}).ProtoReflect().Descriptor()
	p, err := compileProtoPath(d, "list_services_response.service.name")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := p.find(b)
		var resp reflection.ServerReflectionResponse
		if proto.Unmarshal(b, &resp) != nil {
			return // what can be read of it is not defined
		}
		if n := len(resp.GetListServicesResponse().GetService()); len(got) < min(n, 1)-n {
			t.Errorf("got %q of %d services", got, n)
		}
	})
}

// TestErrorsNameFileLineAndKey changes one thing in a good file at a time.
func TestErrorsNameFileLineAndKey(t *testing.T) {
	good := strings.Replace(shop, "?q=a b", "", 1)
	for _, tc := range []struct{ old, new, want string }{
		{"name: shop", "nmae: shop", "main.yaml:2: nmae: unknown key"},
		{"load/v1", "load/v2", "main.yaml:1: apiVersion: value must be 'load/v1'"},
		{"{protocol: http}", "{protocol: smtp}", "main.yaml:3: target.protocol: value must be one of"},
		{"hold: 50/s", "hold: fast", "main.yaml:9: arrivals.curve[1].hold: "},
		{"hold: 50/s", "phase: measure", "main.yaml:9: arrivals.curve[1]: want one of hold, ramp, steps and diurnal"},
		{"{for: 4s", "{phase: settle, for: 4s", "main.yaml:7: arrivals.curve: all of it is settle"},
		{"think: 200ms", "think: {lognormal: {median: 0, sigma: 1}}", "main.yaml:12: session.think: log-normal of median 0"},
		{"think: 200ms", "think: {normal: {mean: 1}}", "main.yaml:12: session.think.normal: unknown key"},
		{"view: 0.8, end: 0.2", "view: 0.8, end: 0.3", "main.yaml:14: session.next.list: "},
		{"start: list", "start: lsit", "main.yaml:11: session.start: \"lsit\": want an operation of session.next"},
		{"view: 0.8, end", "veiw: 0.8, end", "main.yaml:14: session.next.list: next is \"veiw\": no such operation"},
		{"think: 200ms", "think: 200ms\n  weights: {veiw: 2}", "main.yaml:13: session.weights.veiw: want an operation of session.next"},
		{"unit: sessions", "unit: requests", "main.yaml:6: arrivals.unit: requests: want mix"},
		{"buy: {end: 1}", "buy: {end: 1}\n    pay: {end: 1}", "main.yaml:17: session.next.pay: there is no operation of that name"},
		{"  list: {path", "  lost: {path: /}\n  list: {path", "main.yaml:19: ops.lost: nothing leads to it"},
		{"otherwise: list", "otherwise: nobody", "main.yaml:24: ops.buy.otherwise: there is no operation nobody"},
		{"size(items) > 0", "size(itmes) > 0", "main.yaml:23: ops.buy.when: expression"},
		{"size(items) > 0 && n % 2 == 0", "n + 1", "main.yaml:23: ops.buy.when: n + 1: want an expression that is true or false"},
		{`"for ${user}"`, `"for ${usr}"`, "main.yaml:25: ops.buy.request.note: ${usr}: no field or variable"},
		{"request: {item: \"${item}\",", "request:\n      bad: [1, {x: \"${usr}\"}]\n      more: {item: \"${item}\",", "main.yaml:26: ops.buy.request.bad[1].x: ${usr}: no field"},
		{`"for ${user}"`, `"for ${user"`, "want a } after ${"},
		{`"for ${user}"`, `"${text}"`, "main.yaml:25: ops.buy.request.note: ${text}: want content"},
		{"$each: items", "$each: itmes", "main.yaml:25: ops.buy.request.all[0]: $each: itmes: want recipients or a variable"},
		{"{path: /items, save", "{path: items, save", "main.yaml:19: ops.list: "},
		{"{path: /items, save", "{rpc: a.B/C, save", "main.yaml:19: ops.list: want path and no rpc"},
		{"save: {items:", "save: {user:", "main.yaml:19: ops.list.save.user: user is a field"},
		{"{protocol: http}", "{protocol: grpc}", "main.yaml:3: target.protocol: grpc: want descriptors"},
		{"name: shop", "extends: nowhere", "main.yaml:2: extends: want a scenario beside this file"},
		{"name: shop", "extends: main.yaml", "main.yaml:2: extends: main.yaml: scenarios extend each other in a circle"},
		{"name: shop", "descriptors: x\ntarget: [", "main.yaml:"},
		{"users: 100", "users: 1", "main.yaml:4: population.users: got 1, want at least 2"},
		{"headers: {", "objectives: ['p99<1s', 'p42<1s']\nheaders: {", "main.yaml:17: objectives[1]: objective \"p42<1s\": want"},
	} {
		text := strings.Replace(good, tc.old, tc.new, 1)
		if text == good {
			t.Fatalf("%s is not in the file", tc.old)
		}
		if _, err := load(t, map[string]string{"main.yaml": text}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s → %s: got %v, want %s", tc.old, tc.new, err, tc.want)
		}
	}
	if _, err := load(t, map[string]string{"main.yaml": good}); err != nil {
		t.Errorf("the file as it is: %v", err)
	}
}

// TestExtends changes a scenario in another file, and is wrong in the right one.
func TestExtends(t *testing.T) {
	good := strings.Replace(shop, "?q=a b", "", 1)
	s, err := load(t, map[string]string{"base.yaml": good, "main.yaml": "apiVersion: load/v1\nextends: base.yaml\nsession: {think: 1s}\narrivals:\n  curve: [{for: 2s, hold: 10/s}]\n"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := s.Config("x:1", Run{Seed: 1, Scale: 3})
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "shop" || cfg.Warmup != 0 || cfg.For != 2*time.Second || cfg.Rate < 60 || cfg.Rate > 100 {
		t.Errorf("got %s, %v, %v, %v: want the base with the changes", s.Name, cfg.Warmup, cfg.For, cfg.Rate)
	}
	for name, want := range map[string]string{
		"session: {start: x}\n":        "main.yaml:3: session.start: ",
		"ops: {buy: {path: nope}}\n":   "main.yaml:3: ops.buy: ",
		"arrivals: {unit: requests}\n": "main.yaml:3: arrivals.unit: ",
	} {
		_, err := load(t, map[string]string{"base.yaml": good, "main.yaml": "apiVersion: load/v1\nextends: base.yaml\n" + name})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", name, err, want)
		}
	}
}

// TestExpressionsAreBounded lets one cost too much: it fails, and the operation gives way.
func TestExpressionsAreBounded(t *testing.T) {
	s := mustLoad(t, strings.Replace(shop, "size(items) > 0 && n % 2 == 0",
		"'[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a + b + c + d > 0))))'", 1))
	played := play(t, s, 300, func(op string, c *transport.Call) (time.Duration, string) {
		return time.Millisecond, `{"items": [{"id": "1"}]}`
	})
	for _, c := range played {
		if name := s.ops[c.Op].transport.Name; name == "buy" {
			t.Fatal("an expression without bounds came to an end")
		}
	}
	if len(played) < 100 {
		t.Errorf("got %d calls, want the rest to go on", len(played))
	}
	var stats Stats
	err := s.Simulate(Run{Seed: 1, ID: "x", Stats: &stats}, 0, 1, 0, func(Made) {})
	if err != nil || !strings.Contains(stats.Failed(), "cost") {
		t.Errorf("got %q, %v, want that the limit was passed", stats.Failed(), err)
	}
}

func BenchmarkTake(b *testing.B) {
	s := mustLoad(b, strings.ReplaceAll(shop, "for: 4s", "for: 1000h"))
	x, err := s.begin(Run{Seed: 1, ID: "run"})
	if err != nil {
		b.Fatal(err)
	}
	v, err := s.source(x, 0, 1)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var c transport.Call
		c.Intended, _ = v.Peek()
		v.Take(&c)
		c.Done, c.Answer = c.Intended, []byte(`{"items": [{"id": "1"}]}`)
		v.Ended(&c, engine.Measure, true)
	}
}

// BenchmarkExpression is what a CEL expression costs where a template would not do.
func BenchmarkExpression(b *testing.B) {
	s := mustLoad(b, shop)
	x, err := s.compileCEL("n % 2 == 0 && size(items) > 0")
	if err != nil {
		b.Fatal(err)
	}
	r, err := s.begin(Run{Seed: 1, ID: "run"})
	if err != nil {
		b.Fatal(err)
	}
	e := &env{s: s, run: r, v: &visit{vars: [][]string{{"a"}, {"b"}}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := x.eval(e); !ok {
			b.Fatal(r.Stats.Failed())
		}
	}
}
