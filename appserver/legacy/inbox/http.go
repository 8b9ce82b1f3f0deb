package inbox

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"darklaunch/appserver/legacy"
)

// maxRequest bounds a request's body, in bytes.
const maxRequest = 1 << 20

// Server answers the Inbox's API.
type Server struct {
	inbox   *Inbox
	metrics *legacy.Metrics
	log     *slog.Logger
	mux     *http.ServeMux
}

// A call is what a handler gets of a request.
type call struct {
	*http.Request
	user     string
	assigned *legacy.Stamp
}

// NewServer returns the API of an Inbox. reg and log may be nil.
func NewServer(x *Inbox, reg prometheus.Registerer, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{inbox: x, log: log, mux: http.NewServeMux(),
		metrics: legacy.NewMetrics(reg, legacy.Inbox, "200", "list", "read", "search", "count", "send", "mark", "move", "delete")}
	for _, route := range []struct {
		pattern, method string
		answer          func(call) (any, error)
	}{
		{"GET /threads", "list", s.list},
		{"GET /threads/{thread}", "read", s.read},
		{"GET /search", "search", s.search},
		{"GET /count", "count", s.count},
		{"POST /messages", "send", s.send},
		{"POST /threads/{thread}/read", "mark", s.mark},
		{"POST /threads/{thread}/messages/{id}/read", "mark", s.mark},
		{"POST /threads/{thread}/move", "move", s.move},
		{"DELETE /threads/{thread}", "delete", s.delete},
		{"DELETE /threads/{thread}/messages/{id}", "delete", s.delete},
	} {
		s.mux.HandleFunc(route.pattern, func(w http.ResponseWriter, r *http.Request) {
			begin := time.Now()
			code := s.answer(w, r, route.answer)
			s.metrics.Answered(route.method, strconv.Itoa(code), begin)
		})
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) answer(w http.ResponseWriter, r *http.Request, do func(call) (any, error)) (code int) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	c, err := callOf(r)
	var v any
	if err == nil {
		v, err = do(c)
	}
	if code = codeOf(err); err != nil {
		v = map[string]string{"error": err.Error()}
	}
	if code == http.StatusServiceUnavailable {
		s.log.Error("inbox", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // fails where the client has left
	return code
}

func callOf(r *http.Request) (call, error) {
	c := call{Request: r, user: r.Header.Get("X-User")}
	if len(r.Header.Values("X-User")) != 1 || !ValidUser(c.user) {
		return c, invalid("X-User: want one, 1 to %d bytes of printable ASCII", MaxUser)
	}
	var err error
	c.assigned, err = legacy.ParseStamp(r.Header.Get("X-Assign-Id"), r.Header.Get("X-Assign-Time"))
	return c, err
}

func codeOf(err error) int {
	switch {
	case err == nil:
		return http.StatusOK
	case errors.Is(err, legacy.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, legacy.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, legacy.ErrExists):
		return http.StatusConflict
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusServiceUnavailable
}

// decodeBody reads one JSON object and nothing else.
func decodeBody(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		} else if err == nil {
			err = errors.New("more than one value")
		}
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return err
	}
	return invalid("body: %v", err)
}

// query reads the parameters of a request, of which only those named are known.
func (c call) query(known ...string) (get func(string) string, err error) {
	q := c.URL.Query()
	for name, values := range q {
		if !slices.Contains(known, name) || len(values) != 1 {
			return nil, invalid("parameter %q: unknown, or there twice", name)
		}
	}
	return q.Get, nil
}

func millis(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, invalid("before: want milliseconds since 1970")
	}
	return n, nil
}

func page(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, invalid("limit: want 1 to %d", maxLimit)
	}
	return n, nil
}

func folder(s string) (string, error) {
	if s != "" && !slices.Contains(folders, s) {
		return "", invalid("folder: want %s or %s", FolderInbox, FolderOther)
	}
	return s, nil
}

func (s *Server) list(c call) (any, error) {
	get, err := c.query("folder", "unread", "before", "limit")
	if err != nil {
		return nil, err
	}
	var f Filter
	if u := get("unread"); u != "" {
		is := u == "true"
		if f.Unread = &is; !is && u != "false" {
			return nil, invalid("unread: want true or false")
		}
	}
	var errs [3]error
	f.Folder, errs[0] = folder(get("folder"))
	f.Before, errs[1] = millis(get("before"))
	f.Limit, errs[2] = page(get("limit"))
	if err := cmp.Or(errs[:]...); err != nil {
		return nil, err
	}
	threads, err := s.inbox.Threads(c.user, f)
	return map[string]any{"threads": threads}, err
}

func (s *Server) read(c call) (any, error) {
	get, err := c.query("before", "limit")
	if err != nil {
		return nil, err
	}
	from, err := millis(get("before"))
	if err != nil {
		return nil, err
	}
	most, err := page(get("limit"))
	if err != nil {
		return nil, err
	}
	t, messages, err := s.inbox.Thread(c.user, c.PathValue("thread"), from, most)
	return map[string]any{"thread": t, "messages": messages}, err
}

func (s *Server) search(c call) (any, error) {
	get, err := c.query("q", "limit")
	if err != nil {
		return nil, err
	}
	most, err := page(get("limit"))
	if err != nil {
		return nil, err
	}
	hits, err := s.inbox.Search(c.user, get("q"), most)
	return map[string]any{"hits": hits}, err
}

func (s *Server) count(c call) (any, error) {
	get, err := c.query("folder")
	if err != nil {
		return nil, err
	}
	f, err := folder(get("folder"))
	if err != nil {
		return nil, err
	}
	counts, err := s.inbox.Counts(c.user, f)
	return map[string]any{"folders": counts}, err
}

func (s *Server) send(c call) (any, error) {
	var d Draft
	if err := decodeBody(c.Request, &d); err != nil {
		return nil, err
	}
	return s.inbox.Send(c.user, d, c.assigned)
}

func (s *Server) mark(c call) (any, error) {
	var body struct {
		Read *bool `json:"read"`
	}
	if err := decodeBody(c.Request, &body); err != nil {
		return nil, err
	}
	if body.Read == nil {
		return nil, invalid("read: want true or false")
	}
	return s.inbox.Mark(c.user, c.PathValue("thread"), c.PathValue("id"), *body.Read, c.assigned)
}

func (s *Server) move(c call) (any, error) {
	var body struct {
		Folder string `json:"folder"`
	}
	if err := decodeBody(c.Request, &body); err != nil {
		return nil, err
	}
	return s.inbox.Move(c.user, c.PathValue("thread"), body.Folder, c.assigned)
}

func (s *Server) delete(c call) (any, error) {
	return s.inbox.Delete(c.user, c.PathValue("thread"), c.PathValue("id"), c.assigned)
}
