package board

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

func newSignIn(t *testing.T, token string, log *slog.Logger) *SignIn {
	t.Helper()
	s, err := NewSignIn(token, "darklaunch-8600", true, log)
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return moment }
	return s
}

// give gives a token by the form and returns the answer.
func (s *SignIn) give(token, view string) *http.Response {
	r := httptest.NewRequest("POST", SignInPath, strings.NewReader(url.Values{"token": {token}, "view": {view}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.Serve(w, r)
	return w.Result()
}

// lends reports which token a request with a cookie is given.
func (s *SignIn) lends(cookie string, header ...string) string {
	r := httptest.NewRequest("GET", "/api/v1/query", nil)
	r.Header.Set("Cookie", "darklaunch-8600="+cookie)
	for _, h := range header {
		r.Header.Set("Authorization", h)
	}
	lent := ""
	s.Lend(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { lent = r.Header.Get("Authorization") })).ServeHTTP(httptest.NewRecorder(), r)
	return lent
}

func TestSignIn(t *testing.T) {
	var logged strings.Builder
	s := newSignIn(t, "secret", slog.New(slog.NewTextHandler(&logged, nil)))
	refused := s.give("guess<script>", `"><script>alert(1)</script>`)
	if refused.StatusCode != http.StatusForbidden || len(refused.Cookies()) != 0 {
		t.Errorf("another token: got %s with cookies %v, want 403 with none", refused.Status, refused.Cookies())
	}
	got := s.give("secret", "range=1h&x=%0d%0a")
	if to := got.Header.Get("Location"); got.StatusCode != http.StatusSeeOther || to != "/?range=1h&x=%0D%0A" {
		t.Errorf("the token: got %s to %q, want on to the page as it was", got.Status, to)
	}
	if to := s.give("secret", "//evil.example/").Header.Get("Location"); strings.HasPrefix(to, "//") || !strings.HasPrefix(to, "/") {
		t.Errorf("got sent to %q, want our own page", to)
	}
	cookies := got.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("got %d cookies, want one", len(cookies))
	}
	c := cookies[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, "secret") {
		t.Errorf("got %+v, want one that no script and no other site can use, without the token", c)
	}
	if strings.Contains(logged.String(), "secret") || strings.Contains(logged.String(), "guess") || strings.Count(logged.String(), "from=") != 3 {
		t.Errorf("got the log %q, want a line for each attempt, without tokens", logged.String())
	}

	if got := s.lends(c.Value); got != "Bearer secret" {
		t.Errorf("signed in: got %q lent, want the token", got)
	}
	if got := s.lends(c.Value, "Bearer other"); got != "Bearer other" {
		t.Errorf("with a token of its own: got %q, want that", got)
	}
	if got := newSignIn(t, "secret", nil).lends(c.Value); got != "Bearer secret" {
		t.Errorf("after a restart: got %q, want the token", got)
	}
	if got := newSignIn(t, "another", nil).lends(c.Value); got != "" {
		t.Errorf("after the token was changed: got %q, want none", got)
	}
	longer := s.seal(moment.Add(100 * SignedInFor))
	for name, value := range map[string]string{"none": "", "garbage": "%%%", "cut": c.Value[:20], "lengthened": longer[:11] + c.Value[11:]} {
		if got := s.lends(value); got != "" {
			t.Errorf("%s: got %q lent, want none", name, got)
		}
	}
	s.now = func() time.Time { return moment.Add(SignedInFor) }
	if got := s.lends(c.Value); got != "" {
		t.Errorf("a day later: got %q lent, want none", got)
	}
}

// TestSignInForm holds that what comes from an address is text, and that no other
// page may hold the form.
func TestSignInForm(t *testing.T) {
	s := newSignIn(t, "secret", nil)
	w := httptest.NewRecorder()
	s.Serve(w, httptest.NewRequest("GET", SignInPath+"?view="+url.QueryEscape(`"><script>alert(1)</script>`), nil))
	if got := w.Body.String(); strings.Contains(got, "<script>") || !strings.Contains(got, "&lt;script&gt;") {
		t.Errorf("the view is not escaped:\n%s", got)
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("got headers %v, want those that keep it to itself", w.Header())
	}
	for asked, want := range map[string]int{"POST " + SignOutPath: 303, "GET " + SignOutPath: 404, "PUT " + SignInPath: 404} {
		method, path, _ := strings.Cut(asked, " ")
		w := httptest.NewRecorder()
		s.Serve(w, httptest.NewRequest(method, path, nil))
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", asked, w.Code, want)
		}
		if set := w.Header().Get("Set-Cookie"); want == 303 && !strings.Contains(set, "Max-Age=0") {
			t.Errorf("%s: got cookie %q, want it gone", asked, set)
		}
	}
	for path, want := range map[string]bool{"/": true, "/board/page.js": true, "/board/page.json": false, "/api/v1/query": false, "/darklaunch/state": false} {
		if Public(path) != want {
			t.Errorf("%s is public: %t, want %t", path, !want, want)
		}
	}
}
