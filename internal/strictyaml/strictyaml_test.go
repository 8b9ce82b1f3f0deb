package strictyaml

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mirrorLikeSchema = `{
  "type": "object", "additionalProperties": false, "required": ["fronts"],
  "properties": {
    "salt": {"type": "string"},
    "fronts": {"type": "array", "minItems": 1, "items": {
      "type": "object", "additionalProperties": false, "required": ["name"],
      "properties": {"name": {"type": "string"}, "ppm": {"type": "integer", "minimum": 0, "maximum": 1000000}}}}
  }
}`

type mirrorLike struct {
	Salt   string
	Fronts []struct {
		Name string
		PPM  int
	}
}

func TestErrorsNameLineKeyAndExpectation(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "fronts: [{name: a}]\nsatl: x\n", "2: satl: unknown key"},
		{"unknown key, deep", "fronts:\n  - name: a\n  - name: b\n    pmp: 3\n", "4: fronts[1].pmp: unknown key"},
		{"wrong type", "fronts:\n  - name: a\n    ppm: lots\n", "3: fronts[0].ppm: got string, want integer"},
		{"out of range", "fronts:\n  - name: a\n    ppm: 1000001\n", "3: fronts[0].ppm: got 1000001, want at most 1000000"},
		{"missing", "salt: s1\n", "1: the file: missing property 'fronts'"},
		{"missing, deep", "fronts:\n  - ppm: 3\n", "2: fronts[0]: missing property 'name'"},
		{"empty", "", "1: the file: missing property 'fronts'"},
		{"not a mapping", "- a\n", "1: the file: got array, want object"},
		{"not YAML", "salt: [\n", "1: did not find expected node content"},
		{"tab", "fronts:\n\t- name: a\n", "2: found character that cannot start any token"},
		{"twice", "salt: a\nsalt: b\nfronts: [{name: a}]\n", `2: mapping key "salt" already defined at line 1`},
		{"the first of two", "salt: 3\nfronts: [{name: 4}]\n", "1: salt: got number, want string"},
		{"through an alias", "fronts:\n  - &a {name: x, ppm: no}\n  - *a\n", "2: fronts[0].ppm: got string, want integer"},
		{"recursive alias", "fronts: &a [*a]\n", "1: "},
		{"not for JSON", "fronts:\n  - name: a\n    ppm: .nan\n", "1: "},
		{"key that is no string", "1: a\n", "1: a key is no string"},
		{"second document", "fronts: [{name: a}]\n---\nsatl: x\n", "2: a second document begins here"},
		{"after the end", "fronts: [{name: a}]\n...\nsalt: [\n", "2: did not find expected <document start>"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c mirrorLike
			err := Parse([]byte(tc.text), []byte(mirrorLikeSchema), &c)
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

func TestDocumentIsRead(t *testing.T) {
	var got mirrorLike
	if err := Parse([]byte("salt: s1\nfronts:\n  - {name: inbox, ppm: 1000}\n"), []byte(mirrorLikeSchema), &got); err != nil {
		t.Fatal(err)
	}
	want := mirrorLike{Salt: "s1"}
	want.Fronts = append(want.Fronts, struct {
		Name string
		PPM  int
	}{"inbox", 1000})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("salt: s1\nfronts: [{name: a}]\n")
	f.Add("a: &a [*a]")
	f.Add("? [x]\n: y")
	f.Fuzz(func(t *testing.T, text string) {
		var c mirrorLike
		if err := Parse([]byte(text), []byte(mirrorLikeSchema), &c); err == nil && len(c.Fronts) == 0 {
			t.Errorf("%q: accepted without fronts", text)
		}
	})
}
