package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"darklaunch/dashboards/board"
	"darklaunch/dashboards/prom"
)

// How long one that is asked on behalf of a page may take. A stream of events has
// no end: there its first byte is waited for, and then it goes on.
const (
	passConnect = 3 * time.Second
	passFirst   = 30 * time.Second
	passAll     = 60 * time.Second
	watchEvery  = 5 * time.Second
	maxPassed   = 1 << 20 // bytes of a request
)

// A dash is what darklaunch dash serves.
type dash struct {
	passed  []*passedOn
	own     func() []prom.Condition // of the built-in Prometheus
	version versionResult
	signIn  *board.SignIn // nil: no token is asked for
	log     *slog.Logger
}

// dashState is what is wrong, in words; schemas/dash-state.schema.json describes it.
type dashState struct {
	Schema     string           `json:"schema"`
	Version    string           `json:"version"`
	OK         bool             `json:"ok"` // no conditions
	Conditions []prom.Condition `json:"conditions"`
	Passed     []passedState    `json:"passed"`
}

// guards protect a handler as an admin listener is protected.
type guards struct {
	change func(http.Handler) http.Handler // one that may change something
	read   func(http.Handler) http.Handler // one that changes nothing by any method
	open   func(http.Handler) http.Handler // one that needs no token
}

// handler answers everything. A nil api is passed on.
func (d *dash) handler(api, page http.Handler, metrics *http.ServeMux, g guards) http.Handler {
	mux := http.NewServeMux()
	for _, p := range d.passed {
		if p.prefix == "" {
			api = p
			continue
		}
		var to http.Handler = p
		if p.name == "mirror" {
			to = d.switches(p)
		}
		mux.Handle(p.prefix+"/", http.StripPrefix(p.prefix, to))
	}
	mux.HandleFunc("GET /darklaunch/state", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, http.StatusOK, d.state()) })
	mux.Handle("/api/v1/", api)
	mux.Handle("/-/", api)
	mux.Handle("/", page)
	guarded, reads := g.change(mux), g.read(mux)
	open, drawn := g.open(metrics), g.open(page)
	asked := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case slices.Contains([]string{"/metrics", "/healthz", "/readyz"}, r.URL.Path):
			open.ServeHTTP(w, r)
		case board.Public(r.URL.Path):
			drawn.ServeHTTP(w, r)
		case question(r):
			reads.ServeHTTP(w, r)
		default:
			guarded.ServeHTTP(w, r)
		}
	}))
	if d.signIn == nil {
		return asked
	}
	lent, signIn := d.signIn.Lend(asked), g.open(http.HandlerFunc(d.signIn.Serve))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case board.SignInPath, board.SignOutPath:
			signIn.ServeHTTP(w, r)
		default:
			lent.ServeHTTP(w, r)
		}
	})
}

// switches passes what changes a mirror on as the board's actions: those alone, and
// each with a line in the log.
func (d *dash) switches(mirror http.Handler) http.Handler {
	actions := board.Actions(board.AllActions(), d.log, mirror)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			mirror.ServeHTTP(w, r)
			return
		}
		actions.ServeHTTP(w, r)
	})
}

// question reports whether a request is a question to Prometheus that is too long
// for a URL, as Grafana sends them.
func question(r *http.Request) bool {
	t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return r.Method == http.MethodPost && t == "application/x-www-form-urlencoded" && slices.Contains(prom.ReadPaths[:], r.URL.Path)
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // to whom has gone
}

func (d *dash) state() dashState {
	s := dashState{Schema: "dash-state/v1", Version: d.version.Version, Conditions: []prom.Condition{}, Passed: []passedState{}}
	for _, p := range d.passed {
		state := p.state()
		s.Passed = append(s.Passed, state)
		if state.Error != "" {
			s.Conditions = append(s.Conditions, prom.Condition{Kind: prom.Kind(p.name + "_down"), Text: fmt.Sprintf("%s at %s: %s", p.name, p.to.Host, state.Error), Since: state.Since})
		}
	}
	s.Conditions = append(s.Conditions, d.own()...)
	s.OK = len(s.Conditions) == 0
	return s
}

// watch looks now and then whether those are up that are passed on.
func (d *dash) watch(ctx context.Context) error {
	for {
		var wg sync.WaitGroup
		for _, p := range d.passed {
			wg.Go(func() { p.look(ctx) })
		}
		wg.Wait()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// A passedOn passes requests on to another server, with the token that it wants.
type passedOn struct {
	name, prefix, token, health string
	to                          *url.URL
	paths                       []string // what may be asked; one that ends in / stands for all below it
	proxy                       *httputil.ReverseProxy
	client                      *http.Client

	mu  sync.Mutex
	now passedState
}

// passedState is whether a server that is passed on answers.
type passedState struct {
	Name    string    `json:"name"`
	Address string    `json:"address"`
	Error   string    `json:"error,omitempty"` // why not
	Since   time.Time `json:"since,omitzero"`  // when it began to be so
}

func newPassedOn(name, prefix string, to *url.URL, token, health string, paths []string, trusted *x509.CertPool, log *slog.Logger) *passedOn {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: passConnect}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   passConnect,
		ResponseHeaderTimeout: passFirst,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
	}
	p := &passedOn{
		name: name, prefix: prefix, to: to, token: token, health: health, paths: paths,
		client: &http.Client{Transport: transport, Timeout: passConnect},
		now:    passedState{Name: name, Address: to.Host},
	}
	p.proxy = &httputil.ReverseProxy{
		Transport: transport, Rewrite: p.rewrite, ModifyResponse: answered, ErrorHandler: p.failed,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

func (p *passedOn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	clean := path.Clean(r.URL.Path)
	if !slices.ContainsFunc(p.paths, func(allowed string) bool {
		return clean == allowed || strings.HasSuffix(allowed, "/") && strings.HasPrefix(clean, allowed)
	}) {
		http.NotFound(w, r)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	limit := time.AfterFunc(passAll, cancel)
	defer limit.Stop()
	r.Body = http.MaxBytesReader(w, r.Body, maxPassed)
	p.proxy.ServeHTTP(w, r.WithContext(context.WithValue(ctx, limitKey{}, limit)))
}

// limitKey is of the timer that ends a request.
type limitKey struct{}

// rewrite makes the request ours: what the asker has to prove has been proved
// here, and what a browser says of its page would be of another origin there.
func (p *passedOn) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(p.to)
	for _, name := range []string{"Authorization", "Cookie", "Origin", "Referer", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
		r.Out.Header.Del(name)
	}
	p.authorize(r.Out)
}

func (p *passedOn) authorize(r *http.Request) {
	if p.token != "" {
		r.Header.Set("Authorization", "Bearer "+p.token)
	} else if password, ok := p.to.User.Password(); ok {
		r.SetBasicAuth(p.to.User.Username(), password)
	}
}

// answered lets a stream of events go on.
func answered(r *http.Response) error {
	r.Header.Del("Set-Cookie")
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t == "text/event-stream" {
		if limit, ok := r.Request.Context().Value(limitKey{}).(*time.Timer); ok {
			limit.Stop()
		}
	}
	return nil
}

// failed answers for one that does not, in the form of Prometheus's API.
func (p *passedOn) failed(w http.ResponseWriter, _ *http.Request, err error) {
	status := http.StatusBadGateway
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		status = http.StatusRequestEntityTooLarge
	}
	answerJSON(w, status, map[string]string{"status": "error", "errorType": "unavailable", "error": fmt.Sprintf("%s at %s: %v", p.name, p.to.Host, reason(err))})
}

// reason is err without the URL that stands before it.
func reason(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// look asks once whether the server answers.
func (p *passedOn) look(ctx context.Context) {
	told := ""
	if err := p.ask(ctx); err != nil {
		told = reason(err).Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() == nil && (told != p.now.Error || p.now.Since.IsZero()) {
		p.now.Error, p.now.Since = told, time.Now()
	}
}

func (p *passedOn) ask(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.to.String(), "/")+p.health, nil)
	if err != nil {
		return err
	}
	p.authorize(r)
	resp, err := p.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be used again
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answers %s", resp.Status)
	}
	return nil
}

func (p *passedOn) state() passedState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}
