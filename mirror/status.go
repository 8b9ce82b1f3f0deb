package mirror

import (
	"sync"

	"darklaunch/mirror/lanes"
	"darklaunch/mirror/sample"
)

// Status is what a mirror is doing, as /api/v1/state shows it.
type Status struct {
	Enabled bool `json:"enabled"`
	// Off says why not: killed, guard, panic or memory. Why says of the guard
	// what it saw.
	Off  string `json:"off,omitempty"`
	Why  string `json:"why,omitempty"`
	Salt string `json:"salt"`
	// Experiment says how this run began: new, continued or distrusted.
	Experiment string        `json:"experiment"`
	Sample     SampleStatus  `json:"sample"`
	Guard      GuardStatus   `json:"guard"`
	Copies     []RoleStatus  `json:"copies"`
	Pending    PendingStatus `json:"pending"`
	Fronts     []FrontStatus `json:"fronts"`
}

// SampleStatus is who is in. Counts are of users seen.
type SampleStatus struct {
	SamplePPM    int32 `json:"sample_ppm"`
	AdmitPPM     int32 `json:"admit_ppm"`
	EffectivePPM int32 `json:"effective_ppm"`
	Sampled      int   `json:"sampled_users"`
	Shed         int   `json:"shed_users"`
	// Shares of what was seen: of users, those who are in; of requests, those
	// that are mirrored; of users, those whom a mirrored request touches.
	Users    float64 `json:"user_fraction"`
	Requests float64 `json:"request_fraction"`
	Touched  float64 `json:"touched_fraction"`
}

// tally shares a sample.Tally.
type tally struct {
	mu sync.Mutex
	t  sample.Tally
}

func (t *tally) add(d *sample.Decision) {
	t.mu.Lock()
	t.t.Add(d)
	t.mu.Unlock()
}

// fractions counts outside the lock, which the relay takes.
func (t *tally) fractions(share sample.Share) sample.Fractions {
	t.mu.Lock()
	seen := t.t
	t.mu.Unlock()
	return seen.Fractions(share)
}

// RoleStatus accounts for the copies that a role was offered.
type RoleStatus struct {
	Role    string            `json:"role"`
	Offered uint64            `json:"offered"`
	Sent    uint64            `json:"sent"`
	Dropped map[string]uint64 `json:"dropped"` // by reason, those that are not 0
	Pending int               `json:"pending"`
	Tainted int               `json:"tainted_users"`
}

// PendingStatus is what is held.
type PendingStatus struct {
	Copies int   `json:"copies"`
	Bytes  int64 `json:"bytes"`
	Lanes  int   `json:"lanes"`
}

// FrontStatus is one front.
type FrontStatus struct {
	Name   string         `json:"name"`
	Listen string         `json:"listen"`
	Live   []string       `json:"live"`
	Shadow string         `json:"shadow,omitempty"`
	Ctrl   string         `json:"control,omitempty"`
	Keys   []string       `json:"key"`
	Routes []LearnedRoute `json:"routes"` // learned: a configuration takes them as they are
	// Unmatched are configured routes that no request has matched yet.
	Unmatched []string `json:"unmatched_routes,omitempty"`
}

// LearnedRoute is a route in the form of a configuration.
type LearnedRoute struct {
	Pattern string `json:"pattern"`
}

// Status returns what the mirror is doing; its numbers are of one moment.
func (m *Mirror) Status() Status {
	s := m.lanes.Snapshot()
	off, why := m.switches.why()
	share := m.Share()
	f := m.tally.fractions(share)
	st := Status{
		Enabled: s.Off == lanes.NotDropped, Off: off, Why: why, Guard: m.guardStatus(), Salt: m.cfg.Salt,
		Experiment: [...]string{lanes.NewExperiment: "new", lanes.Continued: "continued", lanes.Distrusted: "distrusted"}[m.lanes.Start()],
		Sample: SampleStatus{
			SamplePPM: s.Sample, AdmitPPM: max(share.Sample, share.Admit), EffectivePPM: s.Effective, Sampled: s.Sampled, Shed: s.Shed,
			Users: f.Users, Requests: f.Requests, Touched: f.Touched,
		},
		Pending: PendingStatus{s.Copies, s.Bytes, s.Lanes},
	}
	for r := range lanes.NumRoles {
		role := RoleStatus{r.String(), s.Offered[r], s.Sent[r], map[string]uint64{}, s.Pending[r], s.Tainted[r]}
		for why, n := range s.Dropped[r] {
			if n > 0 {
				role.Dropped[lanes.Reason(why).String()] = n
			}
		}
		st.Copies = append(st.Copies, role)
	}
	for _, f := range m.fronts {
		front := FrontStatus{
			Name: f.cfg.Name, Listen: f.relay.Addr().String(), Live: f.cfg.Live, Shadow: m.cfg.Shadow, Ctrl: f.cfg.Control,
			Keys: f.cfg.Keys, Routes: []LearnedRoute{}, Unmatched: f.routes.Unmatched(),
		}
		for _, name := range f.learnedRoutes() {
			front.Routes = append(front.Routes, LearnedRoute{name})
		}
		st.Fronts = append(st.Fronts, front)
	}
	return st
}
