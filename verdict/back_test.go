package verdict

import (
	"os"
	"testing"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/mirror/translate"
	"darklaunch/verdict/compare"
)

const backRules = `apiVersion: translate/v1
rules:
  - match: GET /x
    calls: [{call: GET /y}]
    back:
      body:
        n: .calls[0].body.list | length
        name: .calls[0].body.name
`

// TestBack goes through what becomes of an answer of another API.
func TestBack(t *testing.T) {
	schema, err := os.ReadFile("../cmd/darklaunch/schemas/translate.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := translate.Parse([]byte(backRules), schema, translate.Config{})
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status uint32, text string) *pairv1.Answer {
		return &pairv1.Answer{Status: status, Body: &pairv1.Body{Format: pairv1.Format_FORMAT_JSON, Content: []byte(text), Size: int64(len(text))}}
	}
	live := `{"n":2,"name":"~s:3:word:00000000000000aa"}`
	for _, tt := range []struct {
		name string
		role *pairv1.Answer
		hash []byte
		skip compare.Skip
		want string // the path that differs
	}{
		{"equal", answer(200, `{"list":[1,2],"name":"~s:3:word:00000000000000aa"}`), rules.Hash(), compare.Compared, ""},
		{"another value that is moved", answer(200, `{"list":[1,2],"name":"~s:3:word:00000000000000bb"}`), rules.Hash(), compare.Compared, "json:$.name"},
		{"another value that is computed", answer(200, `{"list":[1],"name":"~s:3:word:00000000000000aa"}`), rules.Hash(), compare.Compared, "json:$.n"},
		{"a field that is not there", answer(200, `{"list":[1,2]}`), rules.Hash(), compare.Compared, "json:$.name"},
		{"an error", answer(500, `{}`), rules.Hash(), compare.Compared, "status"},
		{"nothing that the rule can read", answer(200, `{"list":true}`), rules.Hash(), compare.Compared, "status"},
		{"other rules", answer(200, `{}`), []byte("other"), compare.Untranslated, ""},
		{"half an answer", func() *pairv1.Answer { a := answer(200, `{}`); a.Body.Truncated = true; return a }(), rules.Hash(), compare.Untranslated, ""},
	} {
		p := &pairv1.Pair{Route: "GET /x", Rule: 1, RulesHash: tt.hash, Sides: []*pairv1.Side{
			{Role: pairv1.Role_ROLE_LIVE, Clean: true, Exchanges: []*pairv1.Exchange{{Request: &pairv1.Request{Method: "GET"}, Answer: answer(200, live)}}},
			{Role: pairv1.Role_ROLE_SHADOW, Clean: true, Exchanges: []*pairv1.Exchange{{Request: &pairv1.Request{Method: "GET"}, Answer: tt.role}}},
			{Role: pairv1.Role_ROLE_CONTROL, Clean: true, Exchanges: []*pairv1.Exchange{{Answer: answer(200, live)}}},
		}}
		o := compare.New(compare.Config{Back: Back(rules)}).Pair(p)
		got := ""
		for _, d := range o.Shadow.Differences {
			got += d.Path
		}
		if o.Skip != tt.skip || got != tt.want || o.Control != nil && len(o.Control.Differences) > 0 {
			t.Errorf("%s: got skip %q, differences %+v, control %+v; want %q and %q", tt.name, o.Skip, o.Shadow.Differences, o.Control, tt.skip, tt.want)
		}
	}
}
