package board

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// A SignIn lets people in by browser where a bearer token guards what the page asks:
// a browser sends no such token by itself. Who gives the token at SignInPath gets a
// cookie that scripts can't read and other sites can't use; it does not hold the
// token, ends after SignedInFor, and with the token: another token makes all of them
// void, a restart none.
type SignIn struct {
	token  string
	cookie string // its name
	secure bool
	key    []byte // of the cookie's value
	log    *slog.Logger
	now    func() time.Time
	form   *template.Template
}

// The paths that a SignIn answers.
const (
	SignInPath  = "/darklaunch/sign-in"
	SignOutPath = "/darklaunch/sign-out"
)

// SignedInFor is how long a cookie lets its holder in.
const SignedInFor = 24 * time.Hour

// NewSignIn returns one for token, which is not empty. Cookies of one host are not told
// apart by port, so name is to be one that no other server there has. secure says that
// the page comes by TLS. Each attempt is logged, without what was given.
func NewSignIn(token, name string, secure bool, log *slog.Logger) (*SignIn, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	form, err := template.New("signin.html").ParseFS(web, "web/signin.html")
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	key := sha256.Sum256([]byte("darklaunch board session\x00" + token))
	return &SignIn{token: token, cookie: name, secure: secure, key: key[:], log: log, now: time.Now, form: form}, nil
}

// Serve answers the two paths. It is to be behind a check that the request comes from
// no other site's page.
func (s *SignIn) Serve(w http.ResponseWriter, r *http.Request) {
	switch r.Method + " " + r.URL.Path {
	case "GET " + SignInPath:
		s.show(w, http.StatusOK, r.URL.Query().Get("view"), "")
	case "POST " + SignInPath:
		s.signIn(w, r)
	case "POST " + SignOutPath:
		s.set(w, "", -time.Second)
		http.Redirect(w, r, SignInPath, http.StatusSeeOther)
	default:
		http.NotFound(w, r)
	}
}

// maxForm bounds what a form may send, in bytes.
const maxForm = 16 << 10

func (s *SignIn) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	view := r.PostFormValue("view")
	given, want := sha256.Sum256([]byte(r.PostFormValue("token"))), sha256.Sum256([]byte(s.token))
	if subtle.ConstantTimeCompare(given[:], want[:]) != 1 {
		s.log.Warn("sign-in refused", "from", r.RemoteAddr)
		s.show(w, http.StatusForbidden, view, "That is not the token.")
		return
	}
	s.log.Info("signed in", "from", r.RemoteAddr)
	s.set(w, s.seal(s.now().Add(SignedInFor)), SignedInFor)
	to := "/"
	if q, err := url.ParseQuery(view); err == nil && len(q) > 0 {
		to += "?" + q.Encode()
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (s *SignIn) show(w http.ResponseWriter, code int, view, trouble string) {
	var page bytes.Buffer
	if err := s.form.Execute(&page, map[string]string{"Path": SignInPath, "View": view, "Trouble": trouble}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	protect(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = page.WriteTo(w) // to whom has gone
}

func (s *SignIn) set(w http.ResponseWriter, value string, lasts time.Duration) {
	http.SetCookie(w, &http.Cookie{
		Name: s.cookie, Value: value, Path: "/", MaxAge: int(lasts.Seconds()), HttpOnly: true, Secure: s.secure, SameSite: http.SameSiteStrictMode,
	})
}

// seal is a cookie's value: until when it lets in, and what only we can say of that.
func (s *SignIn) seal(until time.Time) string {
	ends := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	m := hmac.New(sha256.New, s.key)
	m.Write(ends)
	return base64.RawURLEncoding.EncodeToString(m.Sum(ends))
}

// signedIn reports whether a request has a cookie that lets in.
func (s *SignIn) signedIn(r *http.Request) bool {
	c, err := r.Cookie(s.cookie)
	if err != nil {
		return false
	}
	value, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(value) != 8+sha256.Size {
		return false
	}
	until := time.Unix(int64(binary.BigEndian.Uint64(value)), 0)
	return s.now().Before(until) && hmac.Equal([]byte(c.Value), []byte(s.seal(until)))
}

// Lend has a request by who is signed in carry the token, for what next guards. One that
// brings a token of its own is judged by that.
func (s *SignIn) Lend(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" && s.signedIn(r) {
			r = r.Clone(r.Context())
			r.Header.Set("Authorization", "Bearer "+s.token)
		}
		next.ServeHTTP(w, r)
	})
}

// Public reports whether a path holds nothing of a run, so that it needs no token: the
// page and what it is drawn with, which ask for the rest.
func Public(path string) bool {
	return path == "/" || strings.HasPrefix(path, "/board/") && path != "/board/page.json"
}
