package sample

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRoutes(t *testing.T) {
	var routes []Route
	for _, p := range []string{
		"/", "GET /users/{id}", "/users/{id}", "GET /users/me", "HEAD /users/me", "POST /users/{id}/messages", "GET /users/{id}/messages/{}", "/files/{path...}",
		"GET /files/{a}/{b}", "GET /files/a%20b/c", "/mail.v1.Mail/Send", "GET /never/{x}",
	} {
		routes = append(routes, Route{Pattern: p})
	}
	slices.Reverse(routes) // the order of configuration does not matter
	r, err := NewRoutes(routes)
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{
		"GET /":                       "/",
		"GET /users/7":                "GET /users/{id}",
		"HEAD /users/7":               "GET /users/{id}",
		"PUT /users/7":                "/users/{id}",
		"GET /users/me":               "GET /users/me",
		"HEAD /users/me":              "HEAD /users/me",
		"PUT /users/me":               "/users/{id}",
		"GET /users/":                 "GET /users/{id}",
		"GET /users":                  "",
		"POST /users/7/messages":      "POST /users/{id}/messages",
		"POST /users/7/messages/":     "",
		"POST /users/7/messages/%":    "",
		"GET /users/%zz":              "GET /users/{id}",
		"GET /users/7/messages/8":     "GET /users/{id}/messages/{}",
		"GET /files/":                 "/files/{path...}",
		"GET /files":                  "",
		"GET /files/a/b/c":            "/files/{path...}",
		"GET /files/a/b":              "GET /files/{a}/{b}",
		"GET /files/a%20b/c":          "GET /files/a%20b/c",
		"GET /files/%61%20b/c":        "GET /files/a%20b/c",
		"PUT /files/a%20b/c":          "/files/{path...}",
		"POST /mail.v1.Mail/Send":     "/mail.v1.Mail/Send",
		"POST /mail.v1.Mail/Send/x":   "",
		"GET http://elsewhere/users/": "",
	} {
		method, path, _ := strings.Cut(request, " ")
		got := ""
		if m := r.Find(method, path); m != nil {
			got = m.Pattern
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", request, got, want)
		}
	}
	if diff := cmp.Diff([]string{"GET /never/{x}"}, r.Unmatched()); diff != "" {
		t.Errorf("patterns that matched nothing (-want +got):\n%s", diff)
	}
}

func TestBadRoutes(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		want     string
	}{
		{[]string{"users"}, "want METHOD /path"},
		{[]string{"GET users"}, "want METHOD /path"},
		{[]string{"G(T /users"}, "want METHOD /path"},
		{[]string{""}, "want METHOD /path"},
		{[]string{"/a/{b}c"}, "want text or {NAME}"},
		{[]string{"/a/{b...}/c"}, "want text or {NAME}"},
		{[]string{"/a/%zz"}, "want text or {NAME}"},
		{[]string{"/a/{x}", "/{y}/b"}, `matches some requests of "/a/{x}"`},
		{[]string{"/a/{x}", "/a/{y}"}, `matches some requests of "/a/{x}"`},
		{[]string{"GET /a/{x}", "/a/b"}, `matches some requests of "GET /a/{x}"`},
		{[]string{"/a/{x...}", "/{y}/b/c"}, `matches some requests of "/a/{x...}"`},
	} {
		var routes []Route
		for _, p := range c.patterns {
			routes = append(routes, Route{Pattern: p})
		}
		if _, err := NewRoutes(routes); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want an error that says %q", c.patterns, err, c.want)
		}
	}
}

// TestTheMostSpecificRouteWins checks the precedence against its definition: of
// all routes that match a request, the one found matches nothing that another
// does not. The requests are all those of a small alphabet.
func TestTheMostSpecificRouteWins(t *testing.T) {
	var requests [][2]string
	for _, method := range []string{"GET", "HEAD", "PUT"} {
		for _, path := range []string{"/", "/a", "/b", "/a/", "/a/a", "/a/b", "/b/a", "/b/b", "/a/a/a", "/a/b/a", "/b/a/b", "/b/b/b", "/c/c/c/c"} {
			requests = append(requests, [2]string{method, path})
		}
	}
	pattern := rapid.Custom(func(t *rapid.T) string {
		p := rapid.SampledFrom([]string{"", "GET ", "PUT "}).Draw(t, "method")
		for range rapid.IntRange(1, 3).Draw(t, "segments") {
			p += "/" + rapid.SampledFrom([]string{"a", "b", "{}"}).Draw(t, "segment")
		}
		return p + rapid.SampledFrom([]string{"", "", "/{x...}"}).Draw(t, "end")
	})
	rapid.Check(t, func(t *rapid.T) {
		var kept []Route
		for _, p := range rapid.SliceOfN(pattern, 1, 12).Draw(t, "patterns") {
			if _, err := NewRoutes(append(slices.Clone(kept), Route{Pattern: p})); err == nil {
				kept = append(kept, Route{Pattern: p})
			}
		}
		all, err := NewRoutes(kept)
		if err != nil {
			t.Fatal(err)
		}
		matched := map[string]map[[2]string]bool{}
		for _, r := range kept {
			one, err := NewRoutes([]Route{r})
			if err != nil {
				t.Fatal(err)
			}
			matched[r.Pattern] = map[[2]string]bool{}
			for _, q := range requests {
				if one.Find(q[0], q[1]) != nil {
					matched[r.Pattern][q] = true
				}
			}
		}
		for _, q := range requests {
			got := all.Find(q[0], q[1])
			for p, qs := range matched {
				if !qs[q] {
					continue
				}
				if got == nil {
					t.Fatalf("%v: got no route, want %q", q, p)
				}
				for other := range matched[got.Pattern] {
					if !qs[other] {
						t.Fatalf("%v: got %q, which matches %v too, unlike %q", q, got.Pattern, other, p)
					}
				}
			}
		}
	})
}

func TestLearner(t *testing.T) {
	for _, c := range []struct {
		method, path string
		grpc         bool
		want         string
	}{
		{"GET", "/", false, "GET /"},
		{"GET", "/users/42/messages", false, "GET /users/{}/messages"},
		{"GET", "/v1/users/me/", false, "GET /v1/users/me/"},
		{"PUT", "/items/123e4567-e89b-12d3-a456-426614174000", false, "PUT /items/{}"},
		{"GET", "/c/deadbeef01", false, "GET /c/{}"},
		{"GET", "/c/deadbeef", false, "GET /c/deadbeef"}, // a word for all we know
		{"GET", "/c/" + strings.Repeat("x", 33), false, "GET /c/{}"},
		{"GET", "/c/" + strings.Repeat("x", 32), false, "GET /c/" + strings.Repeat("x", 32)},
		{"GET", "/u/ann@example.org/%41", false, "GET /u/{}/{}"},
		{"GET", "/u/\xff", false, "GET /u/{}"},
		{"GET", strings.Repeat("/a", 17), false, Other},
		{"GET", "*", false, Other},
		{"G T", "/", false, Other},
		{"POST", "/mail.v1.Mail/Send", true, "/mail.v1.Mail/Send"},
		{"POST", "/mail.v1.Mail/" + strings.Repeat("S", 40), true, "/mail.v1.Mail/" + strings.Repeat("S", 40)},
		{"POST", "/mail.v1.Mail/Send/x", true, Other},
		{"POST", "/mail/S nd", true, Other},
	} {
		var l Learner
		if got := l.Route(c.method, c.path, c.grpc); got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.method, c.path, got, c.want)
		}
	}
}

func TestLearnedRoutesAreBoundedAndCanBePasted(t *testing.T) {
	var l, again Learner
	var paste []Route
	for i := range 2 * MaxLearned {
		path := fmt.Sprintf("/r%d/%d", i, i)
		want := fmt.Sprintf("GET /r%d/{}", i)
		if i >= MaxLearned {
			want = Other
		}
		if got := l.Route("GET", path, false); got != want {
			t.Fatalf("route %d: got %q, want %q", i, got, want)
		}
		again.Route("GET", path, false)
	}
	if got := l.Route("GET", "/r0/99", false); got != "GET /r0/{}" {
		t.Errorf("a known route when full: got %q", got)
	}
	if !slices.Equal(l.Routes(), again.Routes()) || len(l.Routes()) != MaxLearned {
		t.Errorf("got %d and %d routes from the same requests, want the same %d", len(l.Routes()), len(again.Routes()), MaxLearned)
	}
	for _, name := range l.Routes() {
		paste = append(paste, Route{Pattern: name})
	}
	if _, err := NewRoutes(paste); err != nil {
		t.Errorf("learned routes as configuration: %v", err)
	}
}

func FuzzLearner(f *testing.F) {
	f.Add("GET", "/users/42", false)
	f.Add("POST", "/a.B/C", true)
	f.Add("\xff", "//{}/%", false)
	f.Fuzz(func(t *testing.T, method, path string, grpc bool) {
		var l Learner
		got := l.Route(method, path, grpc)
		if got == Other {
			return
		}
		if again := l.Route(method, path, grpc); again != got {
			t.Fatalf("got %q, then %q", got, again)
		}
		if len(got) > 1024 || strings.ToValidUTF8(got, "") != got {
			t.Fatalf("got %q, want a short label in UTF-8", got)
		}
		r, err := NewRoutes([]Route{{Pattern: got}})
		if err != nil {
			t.Fatalf("pasted: %v", err)
		}
		if r.Find(method, path) == nil {
			t.Fatalf("%q does not match %s %s, from which it was learned", got, method, path)
		}
	})
}

func TestUnsafeMethods(t *testing.T) {
	d := mailDescriptors(t)
	grpc := Message{Header: fields{"content-type: application/grpc+proto"}}
	for _, c := range []struct {
		x    Exchange
		d    *Descriptors
		want bool
	}{
		{Exchange{Method: "GET"}, nil, false},
		{Exchange{Method: "HEAD"}, nil, false},
		{Exchange{Method: "OPTIONS"}, nil, false},
		{Exchange{Method: "POST"}, d, true},
		{Exchange{Method: "get"}, nil, true},
		{Exchange{Method: "TRACE"}, nil, true},
		{Exchange{Method: "POST", Path: "/mail.v1.Mail/Who", Request: grpc}, d, false},
		{Exchange{Method: "POST", Path: "/mail.v1.Mail/Who"}, d, true},
		{Exchange{Method: "POST", Path: "/mail.v1.Mail/Who", Request: grpc}, nil, true},
		{Exchange{Method: "POST", Path: "/mail.v1.Mail/Send", Request: grpc}, d, true},
		{Exchange{Method: "GET", Path: "/mail.v1.Mail/Send", Request: grpc}, d, true},
	} {
		if got := Unsafe(&c.x, c.d); got != c.want {
			t.Errorf("%s %s (gRPC %v): got unsafe %v, want %v", c.x.Method, c.x.Path, IsGRPC(&c.x.Request), got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		status int
		grpc   string
		want   bool
	}{
		{200, "", false}, {303, "", false}, {400, "", true}, {404, "", true}, {429, "", true}, {408, "", false}, {499, "", false}, {500, "", false}, {503, "", false},
		{200, "0", false}, {200, "3", true}, {200, "5", true}, {200, "16", true}, {200, "4", false}, {200, "13", false}, {200, "14", false}, {200, "10", false},
	} {
		if got := Refused(c.status, c.grpc); got != c.want {
			t.Errorf("%d %q: got %v, want %v", c.status, c.grpc, got, c.want)
		}
	}
}

func BenchmarkRoutes(b *testing.B) {
	var routes []Route
	for i := range 20 {
		routes = append(routes, Route{Pattern: fmt.Sprintf("GET /r%d/{id}/messages", i)})
	}
	r, err := NewRoutes(routes)
	if err != nil {
		b.Fatal(err)
	}
	var l Learner
	b.Run("find", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.Find("GET", "/r19/42/messages")
		}
	})
	b.Run("learn", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.Route("GET", "/r19/42/messages", false)
		}
	})
}
