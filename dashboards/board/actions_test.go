package board

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestActions(t *testing.T) {
	json := []string{"Content-Type", "application/json"}
	ownPage := append([]string{"Origin", "http://board.example", "Sec-Fetch-Site", "same-origin", "Cookie", "a=b"}, json...)
	for _, tc := range []struct {
		name    string
		method  string
		path    string
		allowed []Action
		header  []string
		want    int
		passed  bool
		logged  string
	}{
		{name: "state", method: "GET", path: "/api/v1/state", want: 202, passed: true},
		{name: "kill", method: "POST", path: "/api/v1/kill", allowed: AllActions(), header: ownPage, want: 202, passed: true, logged: "action=kill from=192.0.2.1:1234 status=202"},
		{name: "sample", method: "PUT", path: "/api/v1/sample", allowed: []Action{Sample}, header: json, want: 202, passed: true, logged: "action=sample"},
		{name: "one that is not allowed", method: "POST", path: "/api/v1/resume", allowed: []Action{Kill}, header: json, want: 403},
		{name: "none is allowed", method: "POST", path: "/api/v1/kill", header: json, want: 403},
		{name: "from another page", method: "POST", path: "/api/v1/kill", allowed: AllActions(), header: append([]string{"Origin", "http://evil.example"}, json...), want: 403},
		{name: "from another site", method: "POST", path: "/api/v1/kill", allowed: AllActions(), header: append([]string{"Sec-Fetch-Site", "cross-site"}, json...), want: 403},
		{name: "as a form", method: "POST", path: "/api/v1/kill", allowed: AllActions(), want: 415},
		{name: "seeding", method: "POST", path: "/api/v1/users/seeded", allowed: AllActions(), header: json, want: 404},
		{name: "profiles", method: "GET", path: "/debug/pprof/heap", allowed: AllActions(), want: 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			passed := false
			mirror := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				passed = true
				for _, name := range []string{"Origin", "Cookie", "Sec-Fetch-Site"} {
					if v := r.Header.Get(name); v != "" {
						t.Errorf("the mirror was shown %s: %s", name, v)
					}
				}
				w.WriteHeader(http.StatusAccepted)
			})
			r := httptest.NewRequest(tc.method, "http://board.example"+tc.path, nil)
			for i := 0; i < len(tc.header); i += 2 {
				r.Header.Set(tc.header[i], tc.header[i+1])
			}
			w := httptest.NewRecorder()
			Actions(tc.allowed, slog.New(slog.NewTextHandler(&log, nil)), mirror).ServeHTTP(w, r)
			if w.Code != tc.want || passed != tc.passed {
				t.Errorf("got %d, passed on %t, want %d, %t", w.Code, passed, tc.want, tc.passed)
			}
			if got := log.String(); !strings.Contains(got, tc.logged) || tc.logged == "" && got != "" {
				t.Errorf("logged %q, want %q", got, tc.logged)
			}
		})
	}
}
