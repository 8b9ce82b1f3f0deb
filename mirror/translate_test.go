package mirror

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/translate"
)

// rulesOf reads rules between HTTP services.
func rulesOf(t *testing.T, text string) Translate {
	t.Helper()
	schema, err := os.ReadFile("../cmd/darklaunch/schemas/translate.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	r, err := translate.Parse([]byte("apiVersion: translate/v1\nrules:\n"+text), schema, translate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return Translate{Rules: r, Roles: [lanes.NumRoles]bool{lanes.Shadow: true}}
}

func jsonLive(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"id":7,"secret":"tea"}`)
}

// TestTranslatedCopies: the shadow gets the calls of the rules, in order, the control
// what live got; each copy is in one counter, and pairs have the calls.
func TestTranslatedCopies(t *testing.T) {
	live, shadow, control := newService(t, jsonLive), newService(t, jsonLive), newService(t, jsonLive)
	file := filepath.Join(t.TempDir(), "pairs")
	r := newRig(t, Config{Pairs: file, Record: []string{"json:$.id", "json:$.keep.who"}, Fronts: []Front{{
		Control: control.addr(), Routes: []Route{{Pattern: "POST /old", Unsafe: true}, {Pattern: "POST /presence", Unsafe: true}, {Pattern: "POST /unknown", Unsafe: true}},
		Translate: rulesOf(t, `  - match: POST /old
    keep: {who: '.request.header["x-user"]'}
    calls:
      - {call: POST /first, header: {x-user: '.request.header["x-user"]'}, body: .answer.body.id}
      - {call: GET /second}
    reads: ["json:$.id"]
  - {match: POST /presence, skip: true}
  - {match: GET /sometimes, when: .request.query.y, calls: [{call: GET /y}]}
`),
	}}}, live, shadow)
	r.do("POST", "ann", "/old", `{}`, "content-type", "application/json", "cookie", "secret")
	r.do("POST", "ann", "/presence", "")
	r.get("ann", "/sometimes")
	r.get("ann", "/nothing")
	r.settled(4)
	if n := r.metric(`mirror_users_tainted{role="shadow"}`); n != 0 {
		t.Errorf("got %v users tainted by what has no counterpart by rule, want 0", n)
	}
	r.do("POST", "bob", "/unknown", "")
	s := r.settled(5)
	if n := s.Tainted[lanes.Shadow]; n != 1 {
		t.Errorf("got %d users tainted by what no rule is about, want 1", n)
	}
	if got, want := fmt.Sprint(shadow.requests()), "[{ann /first 7 0 shadow} { /second  0 shadow}]"; got != want {
		t.Errorf("the shadow: got %s, want %s", got, want)
	}
	if n := len(control.requests()); n != 5 {
		t.Errorf("the control got %d requests, want live's 5", n)
	}
	if s.Sent[lanes.Shadow] != 1 || s.Dropped[lanes.Shadow][lanes.NoCounterpart] != 4 {
		t.Errorf("got %d sent, dropped %v, want 1 and 4 without counterpart", s.Sent[lanes.Shadow], s.Dropped[lanes.Shadow])
	}
	if wrong := identity(scrape(t, r.registry)); wrong != nil {
		t.Error(wrong)
	}
	r.stop()
	_, _, pairs := readPairs(t, file)
	if len(pairs) != 1 {
		t.Fatalf("got %d pairs, want that of POST /old", len(pairs))
	}
	p := pairs[0]
	calls := p.Sides[1].Exchanges
	if p.Rule != 1 || string(p.Keep) != `{"keep":{"who":"ann"}}` || len(calls) != 2 || calls[0].Request.Path != "/first" || calls[1].Request.Path != "/second" || calls[1].Answer == nil ||
		p.Sides[2].Exchanges[0].Request != nil || len(p.RulesHash) != 16 {
		t.Errorf("got %v", p)
	}
	for _, secret := range []string{"tea", "secret\""} {
		if strings.Contains(p.String(), secret) {
			t.Errorf("the pair shows %s: %v", secret, p)
		}
	}
}

// TestStalledRule: a rule that does not end drops its copy, is told by no more than
// where it stands, and neither live nor other copies wait for it.
func TestStalledRule(t *testing.T) {
	live, shadow := newService(t, jsonLive), newService(t, jsonLive)
	r := newRig(t, Config{Fronts: []Front{{Translate: rulesOf(t, `  - {match: GET /loop, calls: [{call: GET /x, when: until(false; .)}]}
  - {match: GET /wrong, calls: [{call: GET /x, when: error(.answer.body)}]}
  - {match: GET /fine, calls: [{call: GET /fine}]}
`)}}}, live, shadow)
	const n = 20
	for i := range n {
		for _, path := range []string{"/loop", "/wrong", "/fine"} {
			if code := r.get(user(i%3), path); code != 200 {
				t.Fatalf("live: got %d", code)
			}
		}
	}
	s := r.settled(3 * n)
	if s.Sent[lanes.Shadow] != n || s.Dropped[lanes.Shadow][lanes.Translate] != 2*n || len(shadow.requests()) != n {
		t.Errorf("got %d sent and %v dropped, want %d and %d by rules that fail", s.Sent[lanes.Shadow], s.Dropped[lanes.Shadow], n, 2*n)
	}
	if wrong := identity(scrape(t, r.registry)); wrong != nil {
		t.Error(wrong)
	}
}

// TestStoppedBetweenCalls: a copy whose first call fails makes no pair, and taints.
func TestStoppedBetweenCalls(t *testing.T) {
	live := newService(t, jsonLive)
	shadow := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			panic(http.ErrAbortHandler)
		}
	})
	file := filepath.Join(t.TempDir(), "pairs")
	r := newRig(t, Config{Pairs: file, Fronts: []Front{{
		Routes:    []Route{{Pattern: "POST /old", Unsafe: true}},
		Translate: rulesOf(t, "  - {match: POST /old, calls: [{call: POST /first, body: '1'}, {call: POST /second, body: '2'}]}\n"),
	}}}, live, shadow)
	r.do("POST", "ann", "/old", "{}", "content-type", "application/json")
	s := r.settled(1)
	if s.Sent[lanes.Shadow] != 1 || s.Tainted[lanes.Shadow] != 1 {
		t.Errorf("got %d sent, %d tainted, want 1 and 1", s.Sent[lanes.Shadow], s.Tainted[lanes.Shadow])
	}
	if got := len(shadow.requests()); got != 1 {
		t.Errorf("the shadow got %d calls, want the one that failed", got)
	}
	r.stop()
	_, windows, pairs := readPairs(t, file)
	incomplete := uint64(0)
	for _, w := range windows {
		for _, route := range w.Routes {
			incomplete += route.Incomplete
		}
	}
	if len(pairs) != 0 || incomplete != 1 {
		t.Errorf("got %d pairs and %d incomplete, want none and 1", len(pairs), incomplete)
	}
}

// TestTranslateRefuses: what a way back reads must be shown.
func TestTranslateRefuses(t *testing.T) {
	live := newService(t, nil)
	rules := rulesOf(t, "  - match: GET /a\n    calls: [{call: GET /b}]\n    back: {body: .calls}\n    reads: ['json:$.folder']\n")
	for _, tt := range []struct {
		route Route
		want  string
	}{
		{Route{Pattern: "GET /a"}, `rule "GET /a (line 6)" reads "json:$.folder", which the record does not show`},
		{Route{Pattern: "GET /a", Masks: []Mask{{Field: "json:$.x"}}}, "masks are not for answers that are translated"},
	} {
		_, err := New(Config{Shadow: "127.0.0.1:9", Fronts: []Front{{Listen: "127.0.0.1:0", Live: []string{live.addr()}, Keys: []string{"client-addr"}, Routes: []Route{tt.route}, Translate: rules}}}, prometheus.NewRegistry())
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
