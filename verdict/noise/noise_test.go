package noise

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/verdict/compare"
)

// result has a difference of a kind at each path.
func result(kind compare.Kind, paths ...string) *compare.Result {
	r := new(compare.Result)
	for _, p := range paths {
		r.Differences = append(r.Differences, compare.Difference{Path: p, Kind: kind, Live: "x", Role: "y"})
	}
	return r
}

var same = new(compare.Result)

// report returns the field of a path.
func report(t testing.TB, l *Ledger, path string, kind compare.Kind) Field {
	t.Helper()
	for _, f := range l.Report().Fields {
		if f.Path == path && f.Kind == kind {
			return f
		}
	}
	t.Fatalf("there is no field %s %s", path, kind)
	return Field{}
}

func window(same, shadow, control, both uint64) *pairv1.RouteWindow {
	return &pairv1.RouteWindow{Route: "GET /x", Differences: &pairv1.Differences{Same: same, ShadowOnly: shadow, ControlOnly: control, Both: both}}
}

// TestCounts feeds a few pairs and looks at all that is told.
func TestCounts(t *testing.T) {
	l := New(Config{Control: true})
	a := result(compare.Value, "json:$.a")
	l.Add(outcome(1, 1, a, same))
	l.Add(outcome(2, 2, a, a))
	l.Add(outcome(3, 3, same, a))
	l.Add(outcome(3, 4, same, result(compare.Missing, "json:$.b")))
	l.Window(window(996, 1, 2, 1))
	l.EndBlock()
	r := l.Report()
	confidence := 0.95 // a variable, for the rounding of the ledger
	alpha := 1 - confidence
	want := []Field{
		{Route: "GET /x", Path: "json:$.a", Kind: compare.Value, Tier: Observed, ShadowOnly: 1, ControlOnly: 1, Both: 1, Pairs: 1000, Rate: Wilson(2, 1000, alpha), Noise: Wilson(2, 1000, alpha),
			Excess: Interval{0, -1, 1}, Users: 2, Margin: 0.001, Examples: []Example{{ID: binary.BigEndian.AppendUint64(nil, 1), Time: 1, Request: &pairv1.Request{Method: "GET", Path: "GET /x"}, Live: "x", Shadow: "y"}}},
		{Route: "GET /x", Path: "json:$.b", Kind: compare.Missing, Tier: Observed, ControlOnly: 1, Pairs: 1000, Rate: Wilson(0, 1000, alpha), Noise: Wilson(1, 1000, alpha),
			Excess: Interval{-0.001, -1, 1}, ControlBlocks: 1, Users: 1, Margin: 0.001},
	}
	for i := range r.Fields {
		r.Fields[i].Evidence = 0 // of a block or two nothing to look at
	}
	if diff := cmp.Diff(want, r.Fields, protocmp.Transform()); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Route{{"GET /x", 1000, 4, 4, 0}}, r.Routes); diff != "" || r.Blocks != 1 {
		t.Errorf("%d blocks, routes (-want +got):\n%s", r.Blocks, diff)
	}
}

// TestSkipped holds that pairs that are no evidence are none for either role.
func TestSkipped(t *testing.T) {
	l := New(Config{Control: true})
	bad := result(compare.Value, "json:$.a")
	for _, reason := range []compare.Skip{compare.Tainted, compare.UnknownIDs, compare.Incomplete, compare.Untranslated} {
		o := outcome(1, 1, bad, bad)
		o.Skip = reason
		l.Add(o)
	}
	o := outcome(1, 1, bad, bad)
	o.Control = nil
	l.Add(o)
	l.Add(outcome(8, 1, same, same))
	r := l.Report()
	if len(r.Fields) > 0 {
		t.Errorf("got fields %v, want none", r.Fields)
	}
	want := map[string]uint64{"tainted": 1, "unknown_ids": 1, "incomplete": 1, "untranslated": 1, "no_control": 1}
	if diff := cmp.Diff(want, r.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	if got := len(SkipReasons()); got != len(want) {
		t.Errorf("got %d reasons, want %d", got, len(want))
	}
}

// TestTaintedPairIsSkipped goes through the comparison: a pair that is tainted on
// one role counts as noise on neither.
func TestTaintedPairIsSkipped(t *testing.T) {
	c := compare.New(compare.Config{})
	for _, tainted := range []pairv1.Role{pairv1.Role_ROLE_SHADOW, pairv1.Role_ROLE_CONTROL, 0} {
		l := New(Config{Control: true})
		p := &pairv1.Pair{Route: "GET /x", KeyHash: 1}
		for role, status := range []uint32{0, 200, 500, 404} {
			if role > 0 {
				p.Sides = append(p.Sides, &pairv1.Side{Role: pairv1.Role(role), Clean: pairv1.Role(role) != tainted, Exchanges: []*pairv1.Exchange{{Answer: &pairv1.Answer{Status: status}}}})
			}
		}
		o := c.Pair(p)
		l.Add(&o)
		r := l.Report()
		if want := tainted == 0; (len(r.Fields) == 1) != want || (r.Skipped["tainted"] == 0) != want {
			t.Errorf("tainted on %v: got fields %v, skipped %v", tainted, r.Fields, r.Skipped)
		}
	}
}

// feedBlocks has the wrong field in one answer a block, of another user each.
func feedBlocks(l *Ledger, blocks int, kind compare.Kind) {
	for b := range blocks {
		for i := range 3 {
			id := b*3 + i
			l.Add(outcome(uint64(id+1), id, result(kind, "json:$.a"), same))
		}
		l.Window(window(997, 3, 0, 0))
		l.EndBlock()
	}
}

// TestTiers watches a wrong field: observed at once, confirmed by evidence, and
// gating above its margin alone.
func TestTiers(t *testing.T) {
	rules := rules(t, "margins:\n- {path: json:$.a, margin: 1%}")
	for _, tt := range []struct {
		name   string
		cfg    Config
		blocks int
		tier   Tier
		gates  bool
	}{
		{"at once", Config{Control: true}, 1, Observed, false},
		{"after a while", Config{Control: true}, 40, Confirmed, true},
		{"within its margin", Config{Control: true, Rules: rules}, 40, Confirmed, false},
		{"without a control", Config{}, 40, Observed, false},
		{"without a control, marked", Config{Rules: rules}, 40, Observed, false},
	} {
		l := New(tt.cfg)
		feedBlocks(l, tt.blocks, compare.Value)
		f := report(t, l, "json:$.a", compare.Value)
		if f.Tier != tt.tier || f.Gates != tt.gates {
			t.Errorf("%s: got %s, gates %v, excess %+v, evidence %.1f; want %s, %v", tt.name, f.Tier, f.Gates, f.Excess, f.Evidence, tt.tier, tt.gates)
		}
		if tt.blocks > 1 && !(f.Excess.Low < 0.003 && 0.003 < f.Excess.High) {
			t.Errorf("%s: excess %+v, want 0.003 within it", tt.name, f.Excess)
		}
		if f.Marked != (tt.cfg.Rules != nil) {
			t.Errorf("%s: marked %v, want the other", tt.name, f.Marked)
		}
		if clear := f.Excess.High < f.Margin; clear != f.Clear {
			t.Errorf("%s: clear %v at %+v", tt.name, f.Clear, f.Excess)
		}
	}
	marked := New(Config{Rules: rules2(t)})
	feedBlocks(marked, 40, compare.Value)
	if f := report(t, marked, "json:$.a", compare.Value); !f.Gates || f.Noise != (Interval{}) || f.Evidence != 0 {
		t.Errorf("marked with margin 0.1 %% and no control: got gates %v, noise %+v, evidence %v, want a failure and nothing of noise", f.Gates, f.Noise, f.Evidence)
	}
}

func rules(t testing.TB, text string) *compare.Rules {
	t.Helper()
	r, err := compare.ParseRules([]byte(text), []byte("{}"), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rules2(t testing.TB) *compare.Rules {
	return rules(t, "margins:\n- {path: json:$.a, margin: 0.1pt}")
}

// TestOneUser holds that whatever happens to one user, or to two, confirms nothing.
func TestOneUser(t *testing.T) {
	l := New(Config{Control: true})
	for b := range 200 {
		for i := range 4 {
			l.Add(outcome(uint64(i%2+1), b, result(compare.Value, "json:$.a"), same))
		}
		l.EndBlock()
	}
	if f := report(t, l, "json:$.a", compare.Value); f.Tier != Observed || f.ShadowBlocks != 200 || f.Users != 2 {
		t.Errorf("got %s with evidence %.1f of %d blocks and %d users, want it observed", f.Tier, f.Evidence, f.ShadowBlocks, f.Users)
	}
}

// TestOneMoment holds the same of any number of users in one block.
func TestOneMoment(t *testing.T) {
	l := New(Config{Control: true})
	for i := range 3000 {
		l.Add(outcome(uint64(i+1), i, result(compare.Value, "json:$.a"), same))
	}
	l.EndBlock()
	if f := report(t, l, "json:$.a", compare.Value); f.Tier != Observed || f.Users != 3000 {
		t.Errorf("got %s with evidence %.1f of %d users, want it observed", f.Tier, f.Evidence, f.Users)
	}
}

// TestDegraded has a field whose value never agrees. Its shape does, but shadow's
// in one answer of a hundred: that is found, and the field itself is noise.
func TestDegraded(t *testing.T) {
	l := New(Config{Control: true})
	for b := range 40 {
		for i := range 100 {
			id := b*100 + i
			shadow, control := result(compare.Value, "json:$.id"), result(compare.Value, "json:$.id")
			if i == 0 {
				shadow.Differences[0].Shape = compare.OtherClass
			}
			if i < 20 { // lengths differ as they come
				shadow.Differences[0].Shape |= compare.OtherLength
				control.Differences[0].Shape |= compare.OtherLength
			}
			l.Add(outcome(uint64(id+1), id, shadow, control))
		}
		l.Window(window(0, 0, 0, 100))
		l.EndBlock()
	}
	if f := report(t, l, "json:$.id", compare.Value); f.Tier != Observed || f.Both != 4000 || f.ShadowOnly != 0 {
		t.Errorf("value: got %s, %d on both, want observed noise", f.Tier, f.Both)
	}
	if f := report(t, l, "json:$.id", compare.Length); f.Tier != Observed || f.Both != 800 || f.ShadowOnly != 0 {
		t.Errorf("length: got %s, %d on both, want observed noise", f.Tier, f.Both)
	}
	if f := report(t, l, "json:$.id", compare.Type); f.Tier != Confirmed || f.ShadowOnly != 40 || !f.Gates {
		t.Errorf("type: got %s, %d on shadow, gates %v, want a failure", f.Tier, f.ShadowOnly, f.Gates)
	}
}

// quiet is a history of a service whose field a was clean, and b was not.
func quiet(t testing.TB, blocks int) *History {
	t.Helper()
	l := New(Config{Control: true})
	for b := range blocks {
		one, other := result(compare.Value, "json:$.b"), same
		if b%2 == 0 {
			one, other = other, one
		}
		l.Add(outcome(uint64(b+1), b, one, other))
		l.Window(window(99, 1, 0, 0))
		l.EndBlock()
	}
	h, err := l.History()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestHistory holds that a known past shortens the wait, for a field that was clean
// and no other, and not where control shows that the past is past.
func TestHistory(t *testing.T) {
	h := quiet(t, 400)
	if want := (&History{[]HistoryRoute{{"GET /x", 400}}, []HistoryField{{"GET /x", "json:$.b", compare.Value, 400}}}); !cmp.Equal(want, h) {
		t.Errorf("history (-want +got):\n%s", cmp.Diff(want, h))
	}
	for _, tt := range []struct {
		name  string
		h     *History
		path  string
		noisy bool // control differs in as many blocks
		want  Tier
	}{
		{"no history", nil, "json:$.a", false, Observed},
		{"clean", h, "json:$.a", false, Confirmed},
		{"noisy then", h, "json:$.b", false, Observed},
		{"noisy now", h, "json:$.a", true, Observed},
	} {
		l := New(Config{Control: true, History: tt.h})
		for b := range 6 {
			for i := range 2 {
				id := b*2 + i
				l.Add(outcome(uint64(id+1), id, result(compare.Value, tt.path), same))
			}
			if tt.noisy && b%2 == 0 {
				for i := range 3 {
					l.Add(outcome(uint64(b*3+i+100), 100+b, same, result(compare.Value, tt.path)))
				}
			}
			l.Window(window(98, 2, 0, 0))
			l.EndBlock()
		}
		if f := report(t, l, tt.path, compare.Value); f.Tier != tt.want {
			t.Errorf("%s: got %s with evidence %.1f, want %s", tt.name, f.Tier, f.Evidence, tt.want)
		}
	}
	loud := New(Config{Control: true})
	feedBlocks(loud, 40, compare.Value)
	if _, err := loud.History(); !errors.Is(err, ErrNotQuiet) {
		t.Errorf("history of a run that was not quiet: got %v, want ErrNotQuiet", err)
	}
}

// TestLostPairs holds that rates are those of all pairs though a stream lost some.
func TestLostPairs(t *testing.T) {
	l := New(Config{Control: true})
	for b := range 50 {
		for i := range 10 {
			if id := b*10 + i; i < 4 { // six of ten did not come
				l.Add(outcome(uint64(id+1), id, result(compare.Value, "json:$.a"), same))
			}
		}
		l.Window(window(990, 10, 0, 0))
		l.EndBlock()
	}
	f := report(t, l, "json:$.a", compare.Value)
	near(t, "pairs", f.Pairs, 20_000, 1e-6)
	near(t, "rate", f.Rate.Value, 0.01, 1e-9)
	near(t, "excess", f.Excess.Value, 0.01, 1e-9)
	if !(f.Excess.Low < 0.01 && 0.01 < f.Excess.High) {
		t.Errorf("excess: got %+v, want 0.01 within it", f.Excess)
	}
}

// TestShipped has a route whose pairs all come.
func TestShipped(t *testing.T) {
	l := New(Config{Control: true})
	for i := range 100 {
		o := outcome(uint64(i+1), i, same, same)
		if i == 0 {
			o = outcome(1, 1, result(compare.Value, "json:$.a"), same)
		}
		o.Pair.Reason = pairv1.Reason_REASON_SHIPPED
		l.Add(o)
	}
	l.Window(window(0, 0, 0, 0))
	l.EndBlock()
	near(t, "rate", report(t, l, "json:$.a", compare.Value).Rate.Value, 0.01, 1e-9)
}

// TestBounds floods a ledger: what it holds stays within its Config.
func TestBounds(t *testing.T) {
	cfg := Config{Control: true, MaxFields: 20, MaxUsers: 8, MaxEvents: 50, Examples: 2, ExampleBytes: 2000}
	l := New(cfg)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 20_000 {
		paths := []string{fmt.Sprintf("json:$.f%d", r.IntN(200))}
		o := outcome(r.Uint64(), i, result(compare.Kind(r.IntN(8)), paths...), same)
		if i%3 == 0 {
			o = outcome(r.Uint64(), i, same, result(compare.Value, paths...))
		}
		o.Pair.Route = fmt.Sprintf("GET /%d", r.IntN(2*maxRoutes))
		o.Pair.Sides[0].Exchanges[0].Request.Body = &pairv1.Body{Content: bytes.Repeat([]byte("x"), r.IntN(5000))}
		l.Add(o)
		if i%1000 == 0 {
			l.EndBlock()
		}
	}
	events, met, kept := 0, 0, 0
	for key, f := range l.fields {
		events, met = events+len(f.events), met+len(f.met)
		if len(f.met) > cfg.MaxUsers || len(f.events) > cfg.MaxUsers || len(f.examples) > cfg.Examples {
			t.Errorf("%v: got %d users met, %d in a block, %d examples", key, len(f.met), len(f.events), len(f.examples))
		}
		for _, e := range f.examples {
			if kept += e.size(); len(e.Request.GetBody().GetContent()) > maxBody {
				t.Errorf("an example's body has %d bytes, want at most %d", len(e.Request.GetBody().GetContent()), maxBody)
			}
		}
	}
	// Those beyond MaxFields are one field a kind; examples without a request hold a little still.
	if n := len(l.fields); n < cfg.MaxFields || n > cfg.MaxFields+8 {
		t.Errorf("got %d fields, want %d and one for each kind", n, cfg.MaxFields)
	}
	if len(l.routes) > maxRoutes+1 || events > cfg.MaxEvents || met > cfg.MaxEvents || kept > cfg.ExampleBytes+len(l.fields)*cfg.Examples*20 {
		t.Errorf("got %d routes, %d events, %d users met, %d bytes of examples", len(l.routes), events, met, kept)
	}
	if met != l.remembered || kept != l.kept {
		t.Errorf("%d users met and %d bytes of examples are counted as %d and %d", met, kept, l.remembered, l.kept)
	}
	if got := l.Report(); got.Crowded == 0 {
		t.Error("crowded: got 0, want what was no evidence")
	}
}

// TestExamples holds that each pair is as likely to be kept.
func TestExamples(t *testing.T) {
	const runs, n, keep = 800, 20, 5
	var kept [n]int
	for seed := range uint64(runs) {
		l := New(Config{Control: true, Seed: seed, Examples: keep})
		for i := range n {
			l.Add(outcome(uint64(i+1), i, result(compare.Value, "json:$.a"), same))
		}
		f := report(t, l, "json:$.a", compare.Value)
		if len(f.Examples) != keep {
			t.Fatalf("got %d examples, want %d", len(f.Examples), keep)
		}
		for _, e := range f.Examples {
			kept[binary.BigEndian.Uint64(e.ID)]++
		}
	}
	for i, got := range kept { // 200 each, with a standard deviation of 12
		if got < 140 || got > 260 {
			t.Errorf("pair %d was kept %d times of %d, want about %d", i, got, runs, runs*keep/n)
		}
	}
}

// TestRuleUse holds that what rules hid is added up, and that one that hid nothing shows.
func TestRuleUse(t *testing.T) {
	rules := rules(t, "rules:\n- {path: json:$.a, ignore: true, owner: ann, expires: 2027-02-01}\n- {path: json:$.b, ignore: true, owner: ann, expires: 2027-02-01}")
	l := New(Config{Control: true, Rules: rules})
	r := &compare.Result{Uses: []compare.Use{{Rule: 0, Hid: 2, Unread: 1}, {Rule: 9, Hid: 1}}}
	l.Add(outcome(1, 1, r, r))
	l.Add(outcome(2, 2, same, &compare.Result{Cut: true}))
	got := l.Report()
	if len(got.Rules) != 2 || got.Rules[0].Hid != 4 || got.Rules[0].Unread != 2 || got.Rules[1].Hid != 0 || got.Rules[1].Rule != &rules.Rules[1] || got.Cut != 1 {
		t.Errorf("got %+v, cut %d", got.Rules, got.Cut)
	}
}

// TestSave cuts a run anywhere, in the middle of a block too: what is reported at
// its end is the same, and so is what is saved.
func TestSave(t *testing.T) {
	w := world{triples: 4000, users: 100, blocks: 20, noisy: 6, rare: 0.01, burst: 10, wrong: 0.02}
	rules := rules(t, "rules:\n- {path: json:$.z, ignore: true, owner: ann, expires: 2027-02-01}")
	cfg := Config{Control: true, Seed: 3, MaxUsers: 30, MaxEvents: 100, Examples: 3, ExampleBytes: 500, Rules: rules, History: quiet(t, 50)}
	s := w.draw(1)
	run := func(cuts map[int]bool) *Ledger {
		l := New(cfg)
		for i := range s.user {
			if cuts[i] {
				l = restored(t, cfg, l)
			}
			o := outcome(s.user[i], i, differences(s.shadow[i]), differences(s.control[i]))
			o.Shadow.Uses = []compare.Use{{Rule: 0, Hid: 1}}
			l.Add(o)
			l.Window(window(1, 0, 0, 0))
			if i%200 == 199 {
				l.EndBlock()
			}
		}
		return l
	}
	want := run(nil)
	if f := report(t, want, wrongPath, compare.Value); f.Tier != Confirmed || len(f.Examples) != 3 {
		t.Fatalf("the wrong field is %s with %d examples, want it confirmed with 3: this shows nothing", f.Tier, len(f.Examples))
	}
	for _, cuts := range []map[int]bool{{1: true}, {1550: true}, {1600: true, 1601: true, 3999: true}} {
		got := run(cuts)
		if diff := cmp.Diff(want.Report(), got.Report(), protocmp.Transform(), cmp.AllowUnexported(compare.Rule{}, compare.Path{})); diff != "" {
			t.Errorf("cut at %v (-want +got):\n%s", cuts, diff)
		}
		if a, b := saveOf(t, want), saveOf(t, got); !bytes.Equal(a, b) {
			t.Errorf("cut at %v: what is saved at the end differs", cuts)
		}
	}
}

func saveOf(t testing.TB, l *Ledger) []byte {
	t.Helper()
	b, err := l.Save()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func restored(t testing.TB, cfg Config, l *Ledger) *Ledger {
	t.Helper()
	out, err := Restore(cfg, saveOf(t, l))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRestoreRefuses(t *testing.T) {
	l := New(Config{Control: true})
	feedBlocks(l, 2, compare.Value)
	good := string(saveOf(t, l))
	for name, text := range map[string]string{
		"nothing":         "",
		"cut":             good[:len(good)/2],
		"another version": strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no control":      strings.Replace(good, `"control":true`, `"control":false`, 1),
		"negative blocks": strings.Replace(good, `"blocks":2`, `"blocks":-2`, 1),
		"no counts":       strings.Replace(good, `"counts":{`, `"count":{`, 1),
		"another kind":    strings.Replace(good, `"kind":"value"`, `"kind":"worth"`, 1),
		"no route":        strings.Replace(good, `"routes":{`, `"routes":{"r":null,`, 1),
	} {
		if text == good {
			t.Fatalf("%s: changes nothing", name)
		}
		if _, err := Restore(Config{Control: true}, []byte(text)); !errors.Is(err, ErrSaved) {
			t.Errorf("%s: got %v, want ErrSaved", name, err)
		}
	}
}

// FuzzRestore holds that a ledger that could be read can be used and saved again.
func FuzzRestore(f *testing.F) {
	l := New(Config{Control: true})
	feedBlocks(l, 2, compare.Value)
	f.Add(saveOf(f, l))
	f.Add([]byte(`{"version":1,"control":true,"fields":[{"route":"r","path":"p","kind":"value","counts":{}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Restore(Config{Control: true}, data)
		if err != nil {
			return
		}
		feedBlocks(l, 1, compare.Value)
		l.Report()
		if _, err := l.Save(); err != nil {
			t.Errorf("save again: %v", err)
		}
	})
}

// BenchmarkSave is of a ledger as full as it gets.
func BenchmarkSave(b *testing.B) {
	l := New(Config{Control: true})
	for i := range 300_000 {
		l.Add(outcome(uint64(i)*0x9e3779b97f4a7c15, i, result(compare.Value, fmt.Sprintf("json:$.f%d", i%4000)), same))
	}
	b.ReportAllocs()
	for b.Loop() {
		data := saveOf(b, l)
		b.ReportMetric(float64(len(data)), "bytes")
	}
}

func BenchmarkAdd(b *testing.B) {
	b.ReportAllocs()
	l := New(Config{Control: true})
	var all []*compare.Outcome
	for i := range 1000 {
		all = append(all, outcome(uint64(i), i, differences([]int32{1, 2, 3}), differences([]int32{2, 4})))
	}
	for i := 0; b.Loop(); i++ {
		l.Add(all[i%1000])
		if i%10_000 == 0 {
			l.EndBlock()
		}
	}
}
