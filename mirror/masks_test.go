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

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/pairstream"
)

// readPairs returns what a pair stream in a file says.
func readPairs(t *testing.T, file string) (header *pairv1.Header, windows []*pairv1.Window, pairs []*pairv1.Pair) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := pairstream.NewReader(f); ; {
		record, err := r.Next()
		switch {
		case err == io.EOF:
			return header, windows, pairs
		case err != nil:
			t.Fatal(err)
		case record.GetHeader() != nil:
			header = record.GetHeader()
		case record.GetWindow() != nil:
			windows = append(windows, record.GetWindow())
		default:
			pairs = append(pairs, record.GetPair())
		}
	}
}

// TestMasks ships the pairs of a route with masks, equal ones too, and tells by
// what they are to be compared. Another route compares a header of its own.
func TestMasks(t *testing.T) {
	served := func(by string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-By", by)
			fmt.Fprintf(w, `{"who":%q}`, r.Header.Get("x-user"))
		}
	}
	live, shadow := newService(t, served("live")), newService(t, served("shadow"))
	file := filepath.Join(t.TempDir(), "pairs")
	r := newRig(t, Config{Pairs: file, Record: []string{"json:$.score"}, Fronts: []Front{{Routes: []Route{
		{Pattern: "GET /masked", Compare: []string{"X-By"}, Masks: []Mask{{Field: "header:x-by"}, {Field: "json:$.score", Within: "0.5"}}},
		{Pattern: "GET /named", Compare: []string{"X-By"}},
		{Pattern: "GET /plain"},
	}}}}, live, shadow)
	for _, path := range []string{"/masked", "/masked", "/named", "/plain"} {
		r.get("ann", path)
	}
	r.settled(4)
	for route, want := range map[string]float64{"GET /masked": 1, "GET /plain": 1} {
		if got := r.metric(`mirror_pairs_stream_share{route="` + route + `"}`); got != want {
			t.Errorf("%s: got a share of %v, want %v", route, got, want)
		}
	}
	r.stop()
	header, windows, pairs := readPairs(t, file)
	told := map[string]*pairv1.Route{}
	for _, r := range header.Routes {
		told[r.Name] = r
	}
	masked := told["GET /masked"]
	if masked.Compared || len(masked.RulesHash) != 16 || masked.Masks[1].Within != "0.5" || masked.Headers[0] != "x-by" || !told["GET /plain"].Compared {
		t.Errorf("got routes %v", header.Routes)
	}
	reasons := map[string]int{}
	for _, p := range pairs {
		reasons[p.Route+" "+p.Reason.String()]++
		if p.Route == "GET /masked" && (string(p.RulesHash) != string(masked.RulesHash) || p.Sides[1].Exchanges[0].Answer.Body.Truncated) {
			t.Errorf("got %v, want the rules' hash and the whole answer", p)
		}
	}
	if diff := cmp.Diff(map[string]int{"GET /masked REASON_SHIPPED": 2, "GET /named REASON_UNEQUAL": 1}, reasons); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
	var shipped, unequal, same uint64
	for _, w := range windows {
		for _, r := range w.Routes {
			shipped, unequal, same = shipped+r.Shipped, unequal+r.Differences.ShadowOnly, same+r.Differences.Same
		}
	}
	if shipped != 2 || unequal != 1 || same != 1 {
		t.Errorf("got %d shipped, %d unequal, %d same, want 2, 1 and 1", shipped, unequal, same)
	}
}

// TestShareOfUsers ships the pairs of some users, always the same ones.
func TestShareOfUsers(t *testing.T) {
	const users, share = 200, 250_000
	shippedBy := func() map[uint64]int {
		live, shadow := newService(t, nil), newService(t, nil)
		file := filepath.Join(t.TempDir(), "pairs")
		r := newRig(t, Config{Pairs: file, Fronts: []Front{{Routes: []Route{{Pattern: "GET /x", Masks: []Mask{{Field: "header:date"}}, Share: share}}}}}, live, shadow)
		for i := range users {
			r.get(user(i%(users/2)), "/x")
		}
		r.settled(users)
		if got := r.metric(`mirror_pairs_stream_share{route="GET /x"}`); got != 0.25 {
			t.Errorf("got a share of %v", got)
		}
		r.stop()
		by := map[uint64]int{}
		_, _, pairs := readPairs(t, file)
		for _, p := range pairs {
			by[p.KeyHash]++
		}
		return by
	}
	first, second := shippedBy(), shippedBy()
	if n := len(first); n < users/2/10 || n > users/2/2 {
		t.Errorf("got %d of %d users, want about a quarter", n, users/2)
	}
	for u, n := range first {
		if n != 2 {
			t.Errorf("got %d pairs of user %x, want both", n, u)
		}
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("another mirror ships those of others (-first +second):\n%s", diff)
	}
}

// TestMaskRefusals are rules that can't be meant.
func TestMaskRefusals(t *testing.T) {
	for _, tt := range []struct {
		want  string
		route Route
	}{
		{`rule "/r: json:$.at within 5s" reads "json:$.at", which the record does not show`, Route{Masks: []Mask{{"json:$.at", "5s"}}}},
		{`mask "nowhere"`, Route{Masks: []Mask{{"nowhere", ""}}}},
		{`within "much"`, Route{Masks: []Mask{{"json:$.shown", "much"}}}},
		{`within "-1"`, Route{Masks: []Mask{{"json:$.shown", "-1"}}}},
		{`compare "a b"`, Route{Compare: []string{"a b"}}},
		{"on a route with masks", Route{Share: 5}},
	} {
		tt.route.Pattern = "/r"
		_, err := New(Config{Record: []string{"json:$.shown"}, Fronts: []Front{{
			Listen: "127.0.0.1:0", Live: []string{"127.0.0.1:9000"}, Keys: []string{"header:x-user"}, Routes: []Route{tt.route},
		}}}, prometheus.NewRegistry())
		if !errors.Is(err, ErrConfig) || !strings.Contains(fmt.Sprint(err), tt.want) {
			t.Errorf("got %v, want ErrConfig with %q", err, tt.want)
		}
	}
}
