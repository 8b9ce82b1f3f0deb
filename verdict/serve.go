package verdict

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"darklaunch/verdict/join"
	"darklaunch/verdict/judge"
)

// Handler answers what the verdict is:
//
//	GET  /api/v1/comparisons                  all comparisons, a few words of each
//	GET  /api/v1/verdict?comparison=NAME      the document, schema verdict/v1
//	GET  /api/v1/gate?comparison=NAME         200 pass, 412 fail, 425 not yet
//	GET  /api/v1/history?comparison=NAME      the changes that are kept
//	GET  /api/v1/events                       server-sent events, one a look
//	POST /api/v1/judgements?comparison=NAME   begins the judgement anew
//	GET  /report?comparison=NAME              a page, if render is not nil
//
// The gate takes POST too, and want=fail turns it round. Where there is one
// comparison its name may be left out. Who may ask is for the caller to check.
func (s *Server) Handler(render func(*judge.Document) ([]byte, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/comparisons", s.serveComparisons)
	mux.HandleFunc("GET /api/v1/verdict", s.serveVerdict)
	mux.HandleFunc("GET /api/v1/gate", s.serveGate)
	mux.HandleFunc("POST /api/v1/gate", s.serveGate)
	mux.HandleFunc("GET /api/v1/history", s.serveHistory)
	mux.HandleFunc("GET /api/v1/events", s.serveEvents)
	mux.HandleFunc("POST /api/v1/judgements", s.serveRenew)
	if render != nil {
		mux.HandleFunc("GET /report", func(w http.ResponseWriter, r *http.Request) { s.serveReport(w, r, render) })
	}
	return mux
}

// Summary is a few words of a comparison.
type Summary struct {
	Comparison string        `json:"comparison"`
	State      string        `json:"state"`
	Verdict    judge.Verdict `json:"verdict"`
	// Blocks and Pairs are of the judgement that is running.
	Blocks int    `json:"blocks"`
	Pairs  uint64 `json:"pairs"`
	// Changed is when State became what it is, JudgedAt when it was looked at.
	Changed  time.Time      `json:"changed,omitzero"`
	JudgedAt time.Time      `json:"judged_at,omitzero"`
	Reasons  []judge.Reason `json:"reasons"`
	Mirrors  []join.Mirror  `json:"mirrors"`
	Counts   join.Counts    `json:"counts"`
}

// Summary returns a few words of what is known.
func (p *Published) Summary() Summary {
	s := Summary{Comparison: p.Name, State: p.State, Verdict: judge.Inconclusive, Reasons: []judge.Reason{}, Mirrors: p.Mirrors, Counts: p.Counts}
	if d := p.Document; d != nil {
		s.Verdict, s.JudgedAt = d.Verdict, d.JudgedAt
		s.Reasons = append(s.Reasons, d.Reasons[:min(len(d.Reasons), maxReasons)]...)
	}
	if d := p.Running; d != nil {
		s.Blocks, s.Pairs = d.Rig.Blocks, d.Rig.Pairs
	}
	if n := len(p.Changes); n > 0 {
		s.Changed = p.Changes[n-1].At
	}
	return s
}

// Status is what the state page shows.
func (s *Server) Status() any {
	all := []Summary{}
	for _, p := range s.Comparisons() {
		all = append(all, p.Summary())
	}
	return map[string]any{"comparisons": all}
}

func (s *Server) serveComparisons(w http.ResponseWriter, _ *http.Request) {
	all := []Summary{}
	for _, p := range s.Comparisons() {
		all = append(all, p.Summary())
	}
	writeJSON(w, http.StatusOK, map[string]any{"comparisons": all})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(append(b, '\n'))
}

type problem struct {
	Error string `json:"error"`
}

// find returns the comparison that q asks for. p is nil if it is not known, code
// then the status for that.
func (s *Server) find(q url.Values) (p *Published, name string, code int) {
	all := *s.published.Load()
	name = q.Get("comparison")
	if name == "" {
		switch len(all) {
		case 0:
			return nil, "", http.StatusNotFound
		case 1:
			for name = range all {
			}
		default:
			return nil, "", http.StatusBadRequest
		}
	}
	if p = all[name]; p == nil {
		return nil, name, http.StatusNotFound
	}
	return p, name, http.StatusOK
}

// asked is find for those that answer nothing else.
func (s *Server) asked(w http.ResponseWriter, r *http.Request) *Published {
	p, name, code := s.find(r.URL.Query())
	switch code {
	case http.StatusNotFound:
		writeJSON(w, code, problem{fmt.Sprintf("no mirror has told of a comparison %q", name)})
	case http.StatusBadRequest:
		writeJSON(w, code, problem{fmt.Sprintf("there are several comparisons: ask for one of %q", slices.Sorted(maps.Keys(*s.published.Load())))})
	}
	return p
}

func (s *Server) serveVerdict(w http.ResponseWriter, r *http.Request) {
	p := s.asked(w, r)
	if p == nil {
		return
	}
	d := p.Document
	if r.URL.Query().Has("running") {
		d = p.Running
	}
	if d == nil {
		d = &judge.Document{
			Schema: judge.Schema, Comparison: p.Name, Verdict: judge.Inconclusive, State: judge.Warming, Mode: judge.Continuous,
			Reasons: []judge.Reason{{Code: judge.ReasonNoData, Text: "nothing was measured yet"}}, Arms: []judge.Arm{}, Metrics: []judge.Metric{},
			Objectives: []judge.Objective{}, Differences: []judge.Difference{}, Rules: []judge.DifferenceRule{},
		}
	}
	writeJSON(w, http.StatusOK, d)
}

func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request) {
	if p := s.asked(w, r); p != nil {
		writeJSON(w, http.StatusOK, map[string]any{"comparison": p.Name, "changes": append([]Change{}, p.Changes...)})
	}
}

// gateAnswer is what the gate says beside its status.
type gateAnswer struct {
	Comparison string         `json:"comparison"`
	Answer     string         `json:"answer"` // pass, fail or not yet
	State      string         `json:"state"`
	Reasons    []judge.Reason `json:"reasons"`
}

// answer is what a gate says of a state: of one that is no verdict yet, not yet.
func (s *Server) answer(state string) (answer string, code int) {
	if state == string(judge.Inconclusive) {
		state = string(s.cfg.Inconclusive)
	}
	switch judge.Verdict(state) {
	case judge.Pass:
		return "pass", http.StatusOK
	case judge.Fail:
		return "fail", http.StatusPreconditionFailed
	}
	return "not yet", http.StatusTooEarly
}

func (s *Server) serveGate(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	want := judge.Verdict(q.Get("want"))
	if want != "" && want != judge.Pass && want != judge.Fail {
		writeJSON(w, http.StatusBadRequest, problem{fmt.Sprintf("want=%s: want pass or fail", want)})
		return
	}
	p, name, code := s.find(q)
	if code == http.StatusBadRequest {
		s.asked(w, r)
		return
	}
	out := gateAnswer{Comparison: name, State: string(judge.Warming), Reasons: []judge.Reason{{Code: judge.ReasonNoData, Text: "no mirror has told of it"}}}
	if p != nil {
		sum := p.Summary()
		out.State, out.Reasons = sum.State, sum.Reasons
	}
	out.Answer, code = s.answer(out.State)
	if want == judge.Fail {
		switch code {
		case http.StatusOK:
			code = http.StatusPreconditionFailed
		case http.StatusPreconditionFailed:
			code = http.StatusOK
		}
	}
	writeJSON(w, code, out)
}

func (s *Server) serveRenew(w http.ResponseWriter, r *http.Request) {
	p := s.asked(w, r)
	if p == nil {
		return
	}
	ok, err := s.Renew(p.Name)
	switch {
	case err != nil:
		writeJSON(w, http.StatusServiceUnavailable, problem{err.Error()})
	case !ok:
		writeJSON(w, http.StatusNotFound, problem{"the comparison has just been forgotten"})
	default:
		writeJSON(w, http.StatusOK, s.Comparison(p.Name).Summary())
	}
}

func (s *Server) serveReport(w http.ResponseWriter, r *http.Request, render func(*judge.Document) ([]byte, error)) {
	p := s.asked(w, r)
	if p == nil {
		return
	}
	if p.Document == nil {
		writeJSON(w, http.StatusTooEarly, problem{"nothing was measured yet"})
		return
	}
	page, err := render(p.Document)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.Write(page)
}

// heartbeat keeps a connection on which nothing happens from being taken for dead.
const heartbeat = 15 * time.Second

// serveEvents writes a summary of each comparison, and then of each that was looked
// at, or that a mirror came to or left.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	l := s.events.listen()
	if l == nil {
		writeJSON(w, http.StatusServiceUnavailable, problem{"too many listen already"})
		return
	}
	defer s.events.leave(l)
	only := r.URL.Query().Get("comparison")
	out := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	// After listening has begun, so that nothing between is missed.
	for _, p := range s.Comparisons() {
		l.put(p)
	}
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		out.SetWriteDeadline(time.Now().Add(2 * heartbeat)) // who does not read is let go
		latest := l.take()
		for _, name := range slices.Sorted(maps.Keys(latest)) {
			if only != "" && only != name {
				continue
			}
			b, err := json.Marshal(latest[name].Summary())
			if err != nil {
				return
			}
			fmt.Fprintf(w, "event: verdict\ndata: %s\n\n", b)
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-l.wake:
		case <-t.C:
			fmt.Fprint(w, ": nothing new\n\n")
		case <-r.Context().Done():
			return
		case <-s.stopped:
			return
		}
	}
}
