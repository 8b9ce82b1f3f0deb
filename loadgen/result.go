package loadgen

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"darklaunch/internal/hist"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/transport"
)

// Schema names the form of a Result.
const Schema = "load/v1"

// Result is what a run, or several workers of one, came to. Times are in seconds,
// sizes in bytes. Of the warm-up nothing is in it but the cost.
type Result struct {
	Schema   string `json:"schema"`
	Scenario string `json:"scenario"`
	// Plan is the same for all workers of a run: a hash of what it was to do.
	Plan string `json:"plan"`
	Figures
	// Duration is that of the plan without the warm-up, as far as it went.
	Duration    float64            `json:"duration_s"`
	Rate        Rate               `json:"rate"`
	Ops         map[string]Figures `json:"ops"`
	Generator   Generator          `json:"generator"`
	Seed        uint64             `json:"seed"`
	Index       int                `json:"index"`
	Total       int                `json:"total"`
	Interrupted bool               `json:"interrupted,omitempty"`
	Objectives  []Objective        `json:"objectives,omitempty"`
	Verdict     Verdict            `json:"verdict"`
	Reasons     []string           `json:"reasons"`
	// Histograms are by operation; they add up to the whole.
	Histograms map[string]Histograms `json:"histograms"`
	// Workers are those that were merged.
	Workers []Worker `json:"workers,omitempty"`
}

// Figures are counts and times of calls. Planned = Sent + Shed, and Sent = OK +
// the sum of Errors + InFlight. Planned and Lag are absent from closed loops.
type Figures struct {
	Planned *uint64 `json:"planned,omitempty"`
	Sent    uint64  `json:"sent"`
	OK      uint64  `json:"ok"`
	// Errors are by transport.Class, without those that did not happen; Codes are
	// the answers by HTTP or gRPC status.
	Errors map[string]uint64 `json:"errors"`
	Codes  map[string]uint64 `json:"codes"`
	Shed   uint64            `json:"shed"`
	// ShedBy splits Shed by engine.Shed.
	ShedBy   map[string]uint64 `json:"shed_by"`
	InFlight uint64            `json:"in_flight_at_end"`
	Received int64             `json:"received_bytes"`
	// Response is from the intended time, Service from the first byte's, Lag from
	// the one to the other, and Pacing that part of it that is the generator's own.
	Response Times  `json:"response_s"`
	Service  Times  `json:"service_s"`
	Lag      *Times `json:"lag_s,omitempty"`
	Pacing   *Times `json:"pacing_s,omitempty"`
	// Delivery is from when something was sent to when a stream told of it.
	Delivery *Times `json:"delivery_s,omitempty"`
}

// Times sums a distribution up, in seconds. Censored names the values that are
// lower bounds, by the rule of engine.Dist.
type Times struct {
	Mean     float64  `json:"mean"`
	P50      float64  `json:"p50"`
	P90      float64  `json:"p90"`
	P95      float64  `json:"p95"`
	P99      float64  `json:"p99"`
	P999     float64  `json:"p999"`
	Max      float64  `json:"max"`
	Censored []string `json:"censored"`
}

// field returns where the named value is.
func (t *Times) field(name string) *float64 {
	switch name {
	case "mean":
		return &t.Mean
	case "p50":
		return &t.P50
	case "p90":
		return &t.P90
	case "p95":
		return &t.P95
	case "p99":
		return &t.P99
	case "p999":
		return &t.P999
	}
	return &t.Max
}

func (t *Times) get(name string) (v float64, censored bool) {
	return *t.field(name), slices.Contains(t.Censored, name)
}

// Rate is in calls a second: as planned, over all workers of this Result, and as
// made. Target is absent from closed loops.
type Rate struct {
	Target   float64 `json:"target,omitempty"`
	Achieved float64 `json:"achieved"`
}

// Generator is what the run cost, warm-up and drain included.
type Generator struct {
	CPU           float64 `json:"cpu_s"`
	CPUPerRequest float64 `json:"cpu_us_per_request"`
	RSS           int64   `json:"rss_bytes"`
	Version       string  `json:"version"`
	// Machine has what must be equal for figures to be comparable: cores, CPU, kernel.
	Machine map[string]string `json:"machine,omitempty"`
}

// Calls is how many calls the run made, those of the warm-up included.
func (g *Generator) Calls() float64 {
	if g.CPUPerRequest <= 0 {
		return 0
	}
	return g.CPU * 1e6 / g.CPUPerRequest
}

// Histograms are HdrHistograms V2 in base64, of ns. The censored ones hold the
// ages at which calls were given up.
type Histograms struct {
	Response         string `json:"response"`
	ResponseCensored string `json:"response_censored"`
	Service          string `json:"service"`
	ServiceCensored  string `json:"service_censored"`
	Lag              string `json:"lag"`
	Pacing           string `json:"pacing"`
	Delivery         string `json:"delivery"`
}

// Worker is one worker's part of a merged Result.
type Worker struct {
	Index int `json:"index"`
	Figures
	Generator Generator `json:"generator"`
}

// result makes a Result of the tallies.
func (c *Config) result(total [engine.Phases][]engine.Tally, end time.Duration, interrupted bool, used cost) *Result {
	r := &Result{
		Schema: Schema, Scenario: c.Scenario, Plan: c.plan(),
		Duration: max(0, end-c.Warmup).Seconds(), Rate: Rate{Target: c.Rate / float64(c.Total)},
		Ops: map[string]Figures{}, Histograms: map[string]Histograms{},
		Seed: c.Seed, Index: c.Index, Total: c.Total, Interrupted: interrupted, Objectives: c.Objectives,
	}
	var calls uint64
	for p := range total {
		for op := range total[p] {
			calls += total[p][op].Sent()
		}
	}
	r.Generator = Generator{CPU: used.cpu.Seconds(), RSS: used.rss, Version: version(), Machine: machine()}
	if calls > 0 {
		r.Generator.CPUPerRequest = used.cpu.Seconds() * 1e6 / float64(calls)
	}
	var all engine.Tally
	for op := range total[engine.Measure] {
		t := &total[engine.Measure][op]
		name := c.Transport.Ops[op].Name
		r.Ops[name] = figures(t, c.Rate > 0)
		r.Histograms[name] = encode(t)
		all.Merge(t)
	}
	r.complete(&all)
	return r
}

// complete sets what follows from the sum of all operations.
func (r *Result) complete(all *engine.Tally) {
	r.Figures = figures(all, r.Rate.Target > 0)
	r.Rate.Achieved = 0
	if r.Duration > 0 {
		r.Rate.Achieved = float64(r.Sent) / r.Duration
	}
	r.judge()
}

func figures(t *engine.Tally, planned bool) Figures {
	f := Figures{
		Sent: t.Sent(), OK: t.Ended[transport.OK], InFlight: t.InFlight, Received: t.Received,
		Shed: t.Dropped(), Errors: map[string]uint64{}, Codes: map[string]uint64{}, ShedBy: map[string]uint64{},
		Response: times(&t.Response), Service: times(&t.Service),
	}
	for class, n := range t.Ended {
		if n > 0 && transport.Class(class) != transport.OK {
			f.Errors[transport.Class(class).String()] = n
		}
	}
	for why, n := range t.Shed {
		if n > 0 {
			f.ShedBy[engine.Shed(why).String()] = n
		}
	}
	for code, n := range t.Codes {
		f.Codes[strconv.Itoa(code)] = n
	}
	if t.Delivery.Count() > 0 {
		delivery := times(&engine.Dist{Exact: t.Delivery})
		f.Delivery = &delivery
	}
	if planned {
		lag, pacing := times(&engine.Dist{Exact: t.Lag}), times(&engine.Dist{Exact: t.Pacing})
		f.Planned, f.Lag, f.Pacing = new(t.Planned), &lag, &pacing
	}
	return f
}

func times(d *engine.Dist) Times {
	t := Times{Censored: []string{}}
	set := func(name string, v engine.Value) {
		*t.field(name) = v.Time.Seconds()
		if v.Censored {
			t.Censored = append(t.Censored, name)
		}
	}
	set("mean", d.Mean())
	var qs []float64
	for _, q := range quantiles {
		qs = append(qs, q.q)
	}
	for i, v := range d.Quantiles(qs...) {
		set(quantiles[i].name, v)
	}
	set("max", d.Max())
	return t
}

// each pairs the histograms of t with their places in h.
func (h *Histograms) each(t *engine.Tally, f func(*string, *hist.Hist) error) error {
	return errors.Join(
		f(&h.Response, &t.Response.Exact), f(&h.ResponseCensored, &t.Response.Censored),
		f(&h.Service, &t.Service.Exact), f(&h.ServiceCensored, &t.Service.Censored),
		f(&h.Lag, &t.Lag), f(&h.Pacing, &t.Pacing), f(&h.Delivery, &t.Delivery))
}

func encode(t *engine.Tally) Histograms {
	var h Histograms
	err := h.each(t, func(s *string, x *hist.Hist) error {
		b, err := x.Encode()
		*s = string(b)
		return err
	})
	if err != nil {
		panic("loadgen: a histogram that cannot be written: " + err.Error())
	}
	return h
}

// plan hashes what all workers of a run have in common.
func (c *Config) plan() string {
	type op struct {
		Name, Method, Path string
		Header             []transport.Header
		Body               []byte
		Messages           [][]byte
	}
	var ops []op
	for _, o := range c.Transport.Ops {
		ops = append(ops, op{o.Name, o.Method, o.Path, o.Header, o.Body, o.Messages})
	}
	b, err := json.Marshal([]any{c.Scenario, c.Transport.Protocol, ops, c.Rate, c.Requests, c.Warmup, c.For, c.Timeout, c.Timeouts, c.Seed, c.Total, c.Objectives, c.Digest})
	if err != nil {
		panic("loadgen: a plan that cannot be written: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// tallies reads the counts and histograms of a Result back, by operation.
func (r *Result) tallies() (map[string]*engine.Tally, error) {
	all := map[string]*engine.Tally{}
	for name, f := range r.Ops {
		t, err := f.tally()
		if err != nil {
			return nil, fmt.Errorf("operation %s: %w", name, err)
		}
		h := r.Histograms[name]
		err = h.each(t, func(s *string, x *hist.Hist) error {
			d, err := hist.Decode([]byte(*s))
			if err != nil {
				return err
			}
			x.Merge(d)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("operation %s: %w", name, err)
		}
		if n := t.Response.Exact.Count() + t.Response.Censored.Count(); uint64(n) != f.Sent+f.Shed {
			return nil, fmt.Errorf("operation %s: %d response times for %d calls", name, n, f.Sent+f.Shed)
		}
		all[name] = t
	}
	return all, nil
}

// tally is the inverse of figures, but for the histograms.
func (f *Figures) tally() (*engine.Tally, error) {
	t := &engine.Tally{InFlight: f.InFlight, Received: f.Received, Codes: map[int]uint64{}}
	t.Ended[transport.OK] = f.OK
	left := len(f.Errors) + len(f.ShedBy)
	for c := range transport.Classes {
		if n, ok := f.Errors[c.String()]; ok && c != transport.OK {
			t.Ended[c] = n
			left--
		}
	}
	for s := range engine.Sheds {
		if n, ok := f.ShedBy[s.String()]; ok {
			t.Shed[s] = n
			left--
		}
	}
	for code, n := range f.Codes {
		i, err := strconv.Atoi(code)
		if err != nil {
			return nil, fmt.Errorf("status %q: %w", code, err)
		}
		t.Codes[i] = n
	}
	t.Planned = t.Sent() + t.Dropped()
	if left != 0 || t.Sent() != f.Sent || t.Dropped() != f.Shed || f.Planned != nil && *f.Planned != t.Planned {
		return nil, errors.New("counts do not add up")
	}
	return t, nil
}

// Merge adds the results of one run's workers without loss and keeps each one's
// figures beside the sum. It refuses results of different plans, one worker
// twice, and what is not whole. A set that is not complete is judged
// inconclusive: the load was lighter than planned.
func Merge(results []*Result) (*Result, error) {
	if len(results) == 0 {
		return nil, errors.New("merge: no results")
	}
	results = slices.Clone(results)
	slices.SortFunc(results, func(a, b *Result) int { return a.Index - b.Index })
	first := results[0]
	m := &Result{
		Schema: Schema, Scenario: first.Scenario, Plan: first.Plan, Seed: first.Seed, Total: first.Total,
		Objectives: first.Objectives, Ops: map[string]Figures{}, Histograms: map[string]Histograms{},
		Duration: first.Duration, Generator: Generator{Version: first.Generator.Version},
	}
	ops := map[string]*engine.Tally{}
	for i, r := range results {
		switch {
		case r.Schema != Schema:
			return nil, fmt.Errorf("merge: worker %d: schema %q, want %q", r.Index, r.Schema, Schema)
		case r.Plan != first.Plan || r.Seed != first.Seed || r.Total != first.Total || r.Scenario != first.Scenario:
			return nil, fmt.Errorf("merge: worker %d ran plan %s, worker %d plan %s", first.Index, first.Plan, r.Index, r.Plan)
		case len(r.Workers) > 0:
			return nil, fmt.Errorf("merge: worker %d: is a merged result itself", r.Index)
		case i > 0 && r.Index == results[i-1].Index:
			return nil, fmt.Errorf("merge: worker %d twice", r.Index)
		}
		tallies, err := r.tallies()
		if err != nil {
			return nil, fmt.Errorf("merge: worker %d: %w", r.Index, err)
		}
		for name, t := range tallies {
			if ops[name] == nil {
				ops[name] = new(engine.Tally)
			}
			ops[name].Merge(t)
		}
		m.Workers = append(m.Workers, Worker{r.Index, r.Figures, r.Generator})
		m.Rate.Target += r.Rate.Target
		m.Duration = min(m.Duration, r.Duration)
		m.Generator.CPU += r.Generator.CPU
		m.Generator.RSS += r.Generator.RSS
		m.Interrupted = m.Interrupted || r.Interrupted
	}
	var all engine.Tally
	for name, t := range ops {
		m.Ops[name] = figures(t, m.Rate.Target > 0)
		m.Histograms[name] = encode(t)
		all.Merge(t)
	}
	m.complete(&all)
	var calls float64
	for _, r := range results {
		calls += r.Generator.Calls()
	}
	if calls > 0 {
		m.Generator.CPUPerRequest = m.Generator.CPU * 1e6 / calls
	}
	m.doubtWorkers(results)
	return m, nil
}

// doubtWorkers withholds a verdict where a worker is missing or was not fit.
func (m *Result) doubtWorkers(results []*Result) {
	var doubts []string
	if len(results) != m.Total {
		doubts = append(doubts, fmt.Sprintf("%d of %d workers", len(results), m.Total))
	}
	for _, r := range results {
		if late := r.lateness(); late != "" {
			doubts = append(doubts, fmt.Sprintf("worker %d: %s", r.Index, late))
		}
	}
	if len(doubts) > 0 {
		m.Verdict, m.Reasons = Inconclusive, append(doubts, m.Reasons...)
	}
}
