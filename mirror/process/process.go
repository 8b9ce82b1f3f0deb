// Package process asks the processes of live and the roles, at their /metrics, for
// what their work cost: CPU time, allocations, and how many requests they served.
//
// Whoever answers is taken for hostile: an answer is read for bounded time and
// length, only lines of the few metrics that are wanted are parsed, and an answer
// that is too long, too late or garbage is cut off and counted.
package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Target is one process.
type Target struct {
	// Role is live, shadow or control.
	Role string
	// URL is where its metrics are, in Prometheus's text format.
	URL string
}

// ParseTarget reads ROLE=URL.
func ParseTarget(text string) (Target, error) {
	role, address, _ := strings.Cut(text, "=")
	t := Target{role, address}
	return t, t.check()
}

func (t Target) check() error {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("scrape %s=%s: want ROLE=http://HOST:PORT/PATH", t.Role, t.URL)
	}
	switch t.Role {
	case "live", "shadow", "control":
		return nil
	}
	return fmt.Errorf("scrape %s=%s: want live, shadow or control before the =", t.Role, t.URL)
}

// Config describes what is asked.
type Config struct {
	Targets []Target
	// Requests is the counter of requests served, or a histogram of them, all its
	// series together. Empty takes the first there is of those that frameworks
	// commonly have; see DefaultRequests.
	Requests string
	// Every is how often. Zero means 5s.
	Every time.Duration
	// Timeout bounds one answer. Zero means 2s.
	Timeout time.Duration
	// MaxBytes bounds one answer, in bytes. Zero means 16 MiB.
	MaxBytes int64
}

// DefaultRequests are looked for in this order.
func DefaultRequests() []string {
	return []string{
		"http_requests_total", "http_server_requests_total", "http_server_request_duration_seconds", "http_request_duration_seconds",
		"grpc_server_handled_total", "rpc_server_duration_seconds",
	}
}

// Metrics that client libraries for processes export.
const (
	cpu   = "process_cpu_seconds_total"
	began = "process_start_time_seconds"
)

// allocations of Go's runtime, by either of its collectors.
var allocations = []string{"go_memstats_mallocs_total", "go_gc_heap_allocs_objects_total"}

// Process is what an answer said, in total since the process began.
type Process struct {
	Target
	Time        time.Time
	CPU         float64 // seconds
	Allocations float64 // 0 where it does not say
	Requests    float64 // 0 where it does not say
	Start       float64 // seconds of the Unix epoch, 0 where it does not say
}

// Results of a scrape: label values.
const (
	OK       = "ok"
	Refused  = "error" // no connection, or no status of 200
	TooLate  = "timeout"
	TooLarge = "too_large"
	Garbage  = "garbage" // not Prometheus's format, or without the CPU time
)

const (
	// maxLine bounds a line that is looked at, in bytes.
	maxLine = 64 << 10
	// maxWanted bounds the lines that are parsed, in bytes.
	maxWanted = 1 << 20
)

// Scraper asks. It is safe for concurrent use.
type Scraper struct {
	cfg      Config
	wanted   map[string]bool
	requests []string
	client   *http.Client
	results  *prometheus.CounterVec

	mu    sync.Mutex
	fresh []Process
}

// New returns a Scraper, or an error that says which target can't be asked.
func New(cfg Config, reg prometheus.Registerer) (*Scraper, error) {
	fill(&cfg.Every, 5*time.Second)
	fill(&cfg.Timeout, 2*time.Second)
	fill(&cfg.MaxBytes, 16<<20)
	s := &Scraper{cfg: cfg, requests: DefaultRequests(), wanted: map[string]bool{cpu: true, began: true}}
	if cfg.Requests != "" {
		s.requests = []string{cfg.Requests}
	}
	for _, names := range [][]string{s.requests, allocations} {
		for _, name := range names {
			s.wanted[name], s.wanted[name+"_count"] = true, true
		}
	}
	s.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 1},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	s.results = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mirror_scrapes_total", Help: "Answers of processes that were asked for their metrics, by how that went.",
	}, []string{"role", "result"})
	for _, t := range cfg.Targets {
		if err := t.check(); err != nil {
			return nil, err
		}
		for _, result := range []string{OK, Refused, TooLate, TooLarge, Garbage} {
			s.results.WithLabelValues(t.Role, result)
		}
	}
	if len(cfg.Targets) > 0 {
		reg.MustRegister(s.results)
	}
	return s, nil
}

func fill[T int64 | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Run asks all targets, at once and then again and again, until ctx ends.
func (s *Scraper) Run(ctx context.Context) error {
	defer s.client.CloseIdleConnections()
	t := time.NewTicker(s.cfg.Every)
	defer t.Stop()
	for {
		var asking sync.WaitGroup
		for _, target := range s.cfg.Targets {
			asking.Go(func() { s.ask(ctx, target) })
		}
		asking.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Take returns what was learned since the last call.
func (s *Scraper) Take() []Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.fresh
	s.fresh = nil
	return fresh
}

func (s *Scraper) ask(ctx context.Context, t Target) {
	limited, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	p, result := s.get(limited, t)
	if ctx.Err() != nil {
		return // cut by our own end
	}
	s.results.WithLabelValues(t.Role, result).Inc()
	if result != OK {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fresh) < 4*len(s.cfg.Targets) { // somebody may not take them
		s.fresh = append(s.fresh, p)
	}
}

func (s *Scraper) get(ctx context.Context, t Target) (Process, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.URL, nil)
	if err != nil {
		return Process{}, Refused
	}
	req.Header.Set("Accept", string(expfmt.NewFormat(expfmt.TypeTextPlain)))
	resp, err := s.client.Do(req)
	if err != nil {
		return Process{}, failed(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Process{}, Refused
	}
	lines, err := s.filter(resp.Body)
	if err != nil {
		return Process{}, failed(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(lines))
	if err != nil || families[cpu] == nil {
		return Process{}, Garbage
	}
	p := Process{Target: t, Time: time.Now(), CPU: total(families[cpu]), Start: total(families[began])}
	for _, name := range allocations {
		if f := families[name]; f != nil {
			p.Allocations = total(f)
			break
		}
	}
	for _, name := range s.requests {
		if f := families[name]; f != nil {
			p.Requests = total(f)
			break
		}
	}
	return p, OK
}

var (
	errTooLarge = errors.New("answer too large")
	errGarbage  = errors.New("answer is no metrics")
)

func failed(err error) string {
	var timeout net.Error
	switch {
	case errors.Is(err, errTooLarge):
		return TooLarge
	case errors.Is(err, errGarbage):
		return Garbage
	case errors.As(err, &timeout) && timeout.Timeout():
		return TooLate
	}
	return Refused
}

// filter returns the lines of r that say something of the wanted metrics: of an
// answer of millions of series no more is held than these.
func (s *Scraper) filter(r io.Reader) (lines []byte, err error) {
	limited := &io.LimitedReader{R: r, N: s.cfg.MaxBytes}
	in := bufio.NewReaderSize(limited, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if s.wants(line) {
			lines = append(lines, line...)
		}
		switch {
		case limited.N == 0, len(lines) > maxWanted:
			return nil, errTooLarge
		case err == io.EOF:
			return append(lines, '\n'), nil
		case err == bufio.ErrBufferFull:
			return nil, errGarbage
		case err != nil:
			return nil, err
		}
	}
}

// wants reports whether a line is a sample of a wanted metric, or its type.
func (s *Scraper) wants(line []byte) bool {
	if rest, ok := bytes.CutPrefix(line, []byte("# TYPE ")); ok {
		line = rest
	}
	end := bytes.IndexAny(line, " \t{\n")
	return end > 0 && s.wanted[string(line[:end])]
}

// total sums up a family: of histograms, how much they counted.
func total(f *dto.MetricFamily) (sum float64) {
	for _, m := range f.GetMetric() {
		switch {
		case m.Histogram != nil:
			sum += float64(m.Histogram.GetSampleCount())
		case m.Summary != nil:
			sum += float64(m.Summary.GetSampleCount())
		case m.Counter != nil:
			sum += m.Counter.GetValue()
		case m.Gauge != nil:
			sum += m.Gauge.GetValue()
		default:
			sum += m.GetUntyped().GetValue()
		}
	}
	return sum
}
