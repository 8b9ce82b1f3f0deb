package translate_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"darklaunch/mirror/sample"
	"darklaunch/mirror/translate"
)

// read returns the contents of a file of the project.
func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func schema(t testing.TB) []byte { return read(t, "cmd/darklaunch/schemas/translate.schema.json") }

func descriptors(t testing.TB) *sample.Descriptors {
	t.Helper()
	d, err := sample.ParseDescriptors(read(t, "scenarios/translate/legacy.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// parse reads rules of the tests' own.
func parse(t testing.TB, text string) *translate.Rules {
	t.Helper()
	r, err := translate.Parse([]byte(text), schema(t), translate.Config{Methods: descriptors(t)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func builtin(t testing.TB, name string, admitted func(string) bool) *translate.Rules {
	t.Helper()
	r, err := translate.Parse(read(t, "scenarios/translate/"+name), schema(t), translate.Config{Methods: descriptors(t), Admitted: admitted})
	if err != nil {
		t.Fatalf("%s:%v", name, err)
	}
	return r
}

// request is a call with its message as JSON.
type request struct {
	Call   string
	Header map[string]string
	Body   any
}

// shown has calls as people read them.
func shown(t testing.TB, r *translate.Rules, calls []translate.Call) (all []request) {
	t.Helper()
	for _, c := range calls {
		s := request{Call: c.Method + " " + c.Target, Header: map[string]string{}}
		for _, f := range c.Header {
			s.Header[f.Name] = f.Value
		}
		text := c.Body
		if c.GRPC {
			var ok bool
			s.Call = c.Target
			if text, ok = r.Document(c.Target, false, c.Body); !ok {
				t.Fatalf("%s: got %x, want a message of the method", c.Target, c.Body)
			}
		}
		if len(text) > 0 {
			if err := json.Unmarshal(text, &s.Body); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, s)
	}
	return all
}

func TestInboxSend(t *testing.T) {
	t.Parallel()
	rules := builtin(t, "inbox.yaml", func(user string) bool { return user != "cid" })
	got, err := rules.Forward(&translate.Exchange{
		ID: "c0ffee", Route: "POST /messages", Method: "POST", Path: "/messages", Status: 200, GRPCStatus: -1,
		Request: translate.Message{
			Header: []translate.Field{{Name: "x-user", Value: "ann"}, {Name: "content-type", Value: "application/json"}},
			Body:   []byte(`{"to":["cid","bob"],"subject":"hi","body":"there"}`),
		},
		Answer: translate.Message{
			Header: []translate.Field{{Name: "content-type", Value: "application/json"}},
			Body:   []byte(`{"id":"77","thread":"77","time":1290013200123,"from":"ann","to":["bob","cid"],"subject":"hi","body":"there"}`),
		},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []request{{
		Call:   "/messages.v1.Messages/Send",
		Header: map[string]string{"x-user": "ann", "content-type": "application/grpc", "te": "trailers"},
		Body: map[string]any{
			"idempotency_key": "inbox:77", "thread_id": "", "subject": "hi", "body": "there", "channel": "CHANNEL_MESSAGE",
			"wait": "WAIT_DELIVERED", "attachments": []any{},
			"recipients": []any{map[string]any{"user": "bob"}, map[string]any{"user": "ghost:cid"}},
			"assigned":   map[string]any{"thread_id": "inbox:77", "message_id": "inbox:77", "time": "2010-11-17T17:00:00.123Z"},
		},
	}}
	if diff := cmp.Diff(want, shown(t, rules, got.Calls)); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}
