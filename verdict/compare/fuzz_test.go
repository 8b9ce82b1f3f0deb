package compare

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzAnswers holds, for any bytes on both sides, that comparing ends, is bounded,
// finds nothing between an answer and itself, and finds the same from either side.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []struct {
		format     Format
		live, role string
	}{
		{JSON, `{"a":[1,{"b":"x"}],"c":null}`, `{"a":[{"b":"y"},1.0],"d":[]}`},
		{JSON, `{"a":"` + secret("ann") + `"}`, `{"a":"~s:3:word:zz"}`},
		{JSON, `[[1,2],[2,1],[]]`, `[[],[2,1],[1,2]]`},
		{JSON, "{\"a\":\"\xff\"}", `{"a":`},
		{JSON, `[1e999,-0,0.10]`, `[1E+400,0,0.1]`},
		{RecordedForm, `{"a":["1"]}`, `["a"]`},
		{RecordedProto, `[{"1":[{"1":["x"]}],"2":3}]`, `[{"1":["x"]}]`},
		{Form, "a=1&b=%zz", "a=1&a=2"},
		{GRPC, string(frames(message(1, message(1, "a", 3, []uint64{one}, 5, message(1, "k", 2, 1)), 2, 7))), string(frames(message(1, message(1, "\xff", 4, 1)), nil))},
		{Proto, string(message(1, message(1, "\x00b"), 2, "x")), "\x0b\x0c"},
		{Opaque, "a", "\x00"},
	} {
		f.Add(uint8(seed.format), []byte(seed.live), []byte(seed.role))
	}
	rules := parse(f, `
rules:
- path: json:$.a
  array: set
- path: json:$.b
  array: keyed
  key: id
- path: json:$.*.c
  degrade: [type, length, format, range]
  range: [0, 1]
- path: json:$[*].d
  ignore: true
- path: json:$.e[*]
  tolerance: {relative: 1%}
- path: proto:threads
  array: keyed
  key: id
- path: form:a
  array: set
`)
	plain, ruled := New(Config{}), New(Config{Rules: rules, Descriptors: described(f)})
	f.Fuzz(func(t *testing.T, format uint8, live, role []byte) {
		a := &Answer{Status: 200, Body: Body{Format: Format(format % 8), Content: live}}
		b := &Answer{Status: 200, Body: Body{Format: Format(format % 8), Content: role}}
		for _, c := range []*Comparer{plain, ruled} {
			r := c.Answers("/p.Inbox/List", a, b)
			if len(r.Differences) > MaxDifferences {
				t.Errorf("got %d differences, want at most %d", len(r.Differences), MaxDifferences)
			}
			for _, d := range r.Differences {
				if len(d.Live) > MaxShown || len(d.Role) > MaxShown {
					t.Errorf("%s shows %d and %d bytes, want at most %d", d.Path, len(d.Live), len(d.Role), MaxShown)
				}
				if _, err := ParsePath(d.Path); err != nil {
					t.Errorf("path %q can't be written in a rule: %v", d.Path, err)
				}
			}
			if same := c.Answers("/p.Inbox/List", a, a); len(same.Differences) > 0 {
				t.Errorf("live against itself: got %v, want nothing", told(same))
			}
		}
		there, back := plain.Answers("/x", a, b), plain.Answers("/x", b, a)
		if diff := cmp.Diff(kinds(there, false), kinds(back, true)); diff != "" && !there.Cut {
			t.Errorf("from live and from the role (-live +role):\n%s", diff)
		}
	})
}

// kinds lists paths and kinds, as seen from the other side if turned.
func kinds(r Result, turned bool) (all []string) {
	for _, d := range r.Differences {
		switch {
		case turned && d.Kind == Missing:
			d.Kind = Extra
		case turned && d.Kind == Extra:
			d.Kind = Missing
		}
		all = append(all, d.Path+" "+d.Kind.String())
	}
	slices.Sort(all)
	return all
}
