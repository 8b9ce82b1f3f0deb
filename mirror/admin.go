package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// Handlers returns the admin API's requests that change something, by pattern
// as net/http.ServeMux takes them. They answer with a JSON object, errors with
// a line of text.
func (m *Mirror) Handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"PUT /api/v1/sample":        handler(m.putSample),
		"POST /api/v1/kill":         handler(m.postKill),
		"POST /api/v1/resume":       handler(m.postResume),
		"POST /api/v1/users/seeded": handler(m.postSeeded),
		"POST /api/v1/users/clean":  handler(m.postClean),
	}
}

// handler answers a request with what it returns, or its error.
type handler func(*http.Request) (any, error)

// badRequest is an error of the caller's.
type badRequest struct{ error }

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := h(r)
	switch bad := (badRequest{}); {
	case errors.As(err, &bad):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrKillFile):
		http.Error(w, err.Error(), http.StatusConflict)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}
}

// maxRequest bounds an admin request's body, in bytes: some ten thousand keys.
const maxRequest = 1 << 20

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest{fmt.Errorf("want a JSON object of at most %d bytes: %w", maxRequest, err)}
	}
	return nil
}

func (m *Mirror) putSample(r *http.Request) (any, error) {
	var want struct {
		PPM   *int32 `json:"ppm"`
		Admit int32  `json:"admit_ppm"`
	}
	if err := decode(r, &want); err != nil {
		return nil, err
	}
	if want.PPM == nil || *want.PPM < 0 || *want.PPM > sample.Buckets || want.Admit < 0 || want.Admit > sample.Buckets {
		return nil, badRequest{errors.New(`want {"ppm":N} and perhaps "admit_ppm", 0 to 1000000`)}
	}
	m.SetShare(sample.Share{Sample: *want.PPM, Admit: want.Admit})
	return m.Status().Sample, nil
}

func (m *Mirror) postKill(*http.Request) (any, error) {
	m.Kill()
	return m.enabled(), nil
}

func (m *Mirror) postResume(*http.Request) (any, error) {
	if err := m.Resume(); err != nil {
		return nil, err
	}
	return m.enabled(), nil
}

func (m *Mirror) enabled() any {
	s := m.Status()
	return map[string]any{"enabled": s.Enabled, "off": s.Off}
}

func (m *Mirror) postSeeded(r *http.Request) (any, error) {
	var want struct {
		Keys []string  `json:"keys"`
		All  bool      `json:"all"`
		At   time.Time `json:"at"`
	}
	if err := decode(r, &want); err != nil {
		return nil, err
	}
	if want.All == (want.Keys != nil) || want.At.IsZero() {
		return nil, badRequest{errors.New(`want "keys":[…] or "all":true, and "at", when the state was taken, as in RFC 3339`)}
	}
	m.harm.seeded()
	if want.All {
		return map[string]int{"tainted": m.lanes.SeedAll(want.At)}, nil
	}
	us := m.users(want.Keys)
	return map[string]int{"clean": m.lanes.Seed(us, want.At), "of": len(us)}, nil
}

func (m *Mirror) users(keys []string) []lanes.User {
	us := make([]lanes.User, len(keys))
	for i, k := range keys {
		u := m.sampler.User(k, m.Share())
		us[i] = lanes.User{ID: u.ID, Rank: u.Rank}
	}
	return us
}

// postClean tells which users are mirrored and have on the shadow what they have on
// live, as far as the mirror knows.
func (m *Mirror) postClean(r *http.Request) (any, error) {
	var want struct {
		Keys []string `json:"keys"`
	}
	if err := decode(r, &want); err != nil {
		return nil, err
	}
	is := map[lanes.User]bool{}
	for _, u := range m.lanes.Clean(m.users(want.Keys), lanes.Shadow) {
		is[u] = true
	}
	clean := []string{}
	for i, u := range m.users(want.Keys) {
		if is[u] {
			clean = append(clean, want.Keys[i])
		}
	}
	return map[string]any{"clean": clean}, nil
}
