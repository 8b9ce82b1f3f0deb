package report

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	pairv1 "darklaunch/api/pair/v1"
)

func field(name, value string) *pairv1.Field { return &pairv1.Field{Name: name, Value: value} }

func jsonBody(text string) *pairv1.Body {
	return &pairv1.Body{Format: pairv1.Format_FORMAT_JSON, Content: []byte(text), Size: int64(len(text))}
}

func TestCommand(t *testing.T) {
	for _, tc := range []struct {
		name, target, want string
		r                  *pairv1.Request
	}{
		{"get", "http://127.0.0.1:9000", `curl -g -H 'x-user: ~s:3:word:00ff' 'http://127.0.0.1:9000/threads/{}'`,
			&pairv1.Request{Method: "GET", Path: "/threads/{}", Header: []*pairv1.Field{field("host", "x"), field("x-user", "~s:3:word:00ff")}}},
		{"no target", "", `curl -g "$TARGET"'/a%20b'`, &pairv1.Request{Method: "GET", Path: "/a b"}},
		{"post", "http://h:1/", `curl -g -X 'POST' --data-raw '{"a":"it'\''s"}' 'http://h:1/send'`,
			&pairv1.Request{Method: "POST", Path: "/send", Body: jsonBody(`{"a": "it's"}`)}},
		{"form", "http://h:1", `curl -g -X 'POST' --data-urlencode 'a=1' --data-urlencode 'a=2 3' 'http://h:1/'`,
			&pairv1.Request{Method: "POST", Path: "/", Body: &pairv1.Body{Format: pairv1.Format_FORMAT_FORM, Size: 9, Content: []byte(`{"a":["1","2 3"],"@f":["x"]}`)}}},
		{"opaque", "http://h:1", `curl -g -X 'PUT' 'http://h:1/' # without its body of 12 bytes`,
			&pairv1.Request{Method: "PUT", Path: "/", Body: &pairv1.Body{Size: 12, Content: []byte("~x:12:binary:aa")}}},
		{"truncated", "http://h:1", `curl -g -X 'PUT' 'http://h:1/' # without its body of 12 bytes`,
			&pairv1.Request{Method: "PUT", Path: "/", Body: &pairv1.Body{Size: 12, Truncated: true, Format: pairv1.Format_FORMAT_JSON, Content: []byte("{}")}}},
		{"a field without a value, and one that names a file", "http://h:1", `curl -g -H 'x-empty;' 'http://h:1/'`,
			&pairv1.Request{Method: "GET", Path: "/", Header: []*pairv1.Field{field("x-empty", ""), field("@/etc/passwd", "x"), field(":path", "/")}}},
		{"grpc", "http://h:1", `grpcurl -plaintext -H 'x-user: ann' 'h:1' 'm.v1.M/Get' # without its body, by field numbers: '[{"1":["~s:2:word:aa"]}]'`,
			&pairv1.Request{Method: "POST", Path: "/m.v1.M/Get", Header: []*pairv1.Field{field("content-type", "application/grpc"), field("x-user", "ann")},
				Body: &pairv1.Body{Format: pairv1.Format_FORMAT_PROTO, Size: 9, Content: []byte(`[{"1": ["~s:2:word:aa"]}]`)}}},
		{"grpc by TLS, and empty", "https://h:1", `grpcurl 'h:1' 'm.v1.M/Get'`,
			&pairv1.Request{Method: "POST", Path: "/m.v1.M/Get", Header: []*pairv1.Field{field("content-type", "application/grpc+proto")}, Body: &pairv1.Body{Size: 5}}},
	} {
		if got := Command(tc.r, tc.target); got != tc.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tc.name, got, tc.want)
		}
	}
}

// words are what a shell makes of a line.
func shellWords(t rapid.TB, dir, line string) []string {
	cmd := exec.Command("/bin/sh", "-c", "for word in "+line+"\ndo printf '%s\\0' \"$word\"; done")
	cmd.Dir, cmd.Env = dir, []string{"TARGET=http://target"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", line, err, out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// TestQuoteIsOneLiteral has a real shell read words of all sorts: each comes back
// as one, but for what is replaced, and nothing is run.
func TestQuoteIsOneLiteral(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var in, quoted []string
		for range rapid.IntRange(1, 8).Draw(t, "words") {
			s := rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom([]rune("'\"\\$`(){};&|<>*?[]~!#\n\t\r ab=-\x00")))).Draw(t, "word")
			in, quoted = append(in, plain(s)), append(quoted, quote(s))
		}
		if got := shellWords(t, dir, strings.Join(quoted, " ")); !slices.Equal(got, in) {
			t.Fatalf("got %q, want %q", got, in)
		}
	})
}

// FuzzCommand has a shell read a command of any record: it has as many words as
// were put in, and leaves no file behind.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{"x", "'; touch owned; '", "$(touch owned)", "`touch owned`", "\n touch owned", "@/etc/passwd", "\\", "{a,b}", "# no", hostile, "\xff\xfe"} {
		f.Add("GET", "/"+s, "x-a", s, []byte(s), int32(1), "http://h")
		f.Add(s, s, s, "v", []byte(`{"a":["'$(touch owned)"]}`), int32(2), "")
		f.Add("POST", "/a.B/"+s, "content-type", "application/grpc"+s, []byte(`["'"]`), int32(3), "https://h")
	}
	f.Fuzz(func(t *testing.T, method, path, name, value string, body []byte, format int32, target string) {
		if strings.ContainsAny(target, "\x00") {
			return
		}
		dir := t.TempDir()
		r := &pairv1.Request{Method: method, Path: path, Header: []*pairv1.Field{{Name: name, Value: value}},
			Body: &pairv1.Body{Format: pairv1.Format(format), Content: body, Size: int64(len(body))}}
		line := Command(r, target)
		if strings.ContainsAny(line, "\n\r\x00\x1b") {
			t.Fatalf("%q is more than a line", line)
		}
		words := shellWords(t, dir, line)
		if words[0] != "curl" && words[0] != "grpcurl" {
			t.Errorf("%q runs %q", line, words[0])
		}
		for i, w := range words[1:] {
			known := slices.Contains([]string{"-g", "-X", "-H", "-d", "--data-raw", "--data-urlencode", "-plaintext"}, words[i])
			if strings.HasPrefix(w, "-") && !known && !slices.Contains([]string{"-g", "-X", "-H", "-d", "--data-raw", "--data-urlencode", "-plaintext"}, w) {
				t.Errorf("%q has the option %q", line, w)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%q ran something that left %v, %v", line, left, err)
		}
	})
}

// FuzzRead renders whatever reads as a document in all formats, without a panic.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"mirrored", "brief", "nothing", "attack"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Read(b)
		if err != nil {
			return
		}
		if md := Markdown(d, CommentLimit); len(md) > CommentLimit {
			t.Errorf("%d bytes of Markdown", len(md))
		}
		if _, err := JUnit(d, true); err != nil {
			t.Error(err)
		}
		Text(d, true)
		Annotations(d)
		page, err := HTML(d)
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(page, []byte("<script")); n != 3 {
			t.Errorf("%d scripts in the page, want 3", n)
		}
	})
}
