package board

import (
	"log/slog"
	"mime"
	"net/http"
	"slices"
)

// An Action is something that the page may ask of a mirror.
type Action string

// The actions.
const (
	Sample Action = "sample" // set the share of the users
	Kill   Action = "kill"   // stop copying
	Resume Action = "resume" // copy again
)

// AllActions returns every one.
func AllActions() []Action { return []Action{Sample, Kill, Resume} }

// requests are the actions' requests to a mirror's admin API.
var requests = map[string]Action{
	"PUT /api/v1/sample":  Sample,
	"POST /api/v1/kill":   Kill,
	"POST /api/v1/resume": Resume,
}

// Actions passes to mirror, the admin API of one, what the page asks: its state, and
// the actions that are allowed. Each action is logged, with where it came from and
// how it went. All else is refused: another action, and a changing request that
// does not come from a page of this host as JSON. The request's path is the
// API's, as behind http.StripPrefix; mirror is shown neither origin nor cookies.
func Actions(allowed []Action, log *slog.Logger, mirror http.Handler) http.Handler {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	own := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := r.Method + " " + r.URL.Path
		action, changes := requests[asked]
		switch {
		case asked == "GET /api/v1/state":
		case !changes:
			http.Error(w, "the page asks nothing like this of a mirror", http.StatusNotFound)
			return
		case !slices.Contains(allowed, action):
			http.Error(w, "not allowed from this page", http.StatusForbidden)
			return
		case own.Check(r) != nil:
			http.Error(w, "not from another page", http.StatusForbidden)
			return
		case !isJSON(r):
			http.Error(w, "want Content-Type: application/json", http.StatusUnsupportedMediaType)
			return
		}
		out := r.Clone(r.Context())
		for _, name := range []string{"Origin", "Referer", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
			out.Header.Del(name)
		}
		if !changes {
			mirror.ServeHTTP(w, out)
			return
		}
		seen := &status{ResponseWriter: w, code: http.StatusOK}
		mirror.ServeHTTP(seen, out)
		log.Info("action from the board", "action", string(action), "from", r.RemoteAddr, "status", seen.code)
	})
}

func isJSON(r *http.Request) bool {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return t == "application/json"
}

// status remembers how a request was answered.
type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap is for http.ResponseController.
func (s *status) Unwrap() http.ResponseWriter { return s.ResponseWriter }
