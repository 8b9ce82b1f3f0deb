package ops

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// AdminConfig is what an admin listener shows and allows.
type AdminConfig struct {
	// Program and Version head the page.
	Program, Version string

	// Registry is gathered together with the default registry, to which some
	// libraries add metrics of their own. It must not hold the collectors
	// that the default one brings: Go runtime and process.
	Registry *prometheus.Registry

	// Ready says why the program can't take work yet, nil when it can. A nil
	// Ready means always. Requests call it at the same time, as they do State.
	Ready func() error

	// State is shown as JSON at /api/v1/state. A nil State shows {}.
	State func() any

	// Tracing serves /api/v1/traces and gets a span for each admin request.
	Tracing *Tracing

	// Routes are what the program adds, by pattern as net/http.ServeMux takes
	// them ("PUT /api/v1/sample").
	Routes map[string]http.Handler

	// Token, if set, must come as a bearer token with all but metrics, health
	// and readiness.
	Token string

	// Log gets a line for each request that was to change something.
	Log *slog.Logger
}

// ErrExposed is returned by CheckAdmin.
var ErrExposed = errors.New("an admin listener off loopback needs TLS and a token")

// CheckAdmin refuses an admin listener that other machines can reach, unless
// it has TLS and a token.
func CheckAdmin(l net.Listener, cert *tls.Certificate, token string) error {
	if Loopback(l.Addr()) || cert != nil && token != "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrExposed, l.Addr())
}

// Admin is the handler for listener l: a page at /, metrics, health,
// readiness, profiles, state, traces, and the program's own routes.
//
// A request that is to change something (any method but GET, HEAD and
// OPTIONS) must carry Content-Type application/json and, if it comes from a
// page, must come from one of this listener. All requests must name a host of
// ours: on loopback a loopback name, elsewhere a name in cert. So no page
// somewhere else can use a browser here as its hands, by a form, by a script
// or by a name that it points at us.
func Admin(l net.Listener, cert *tls.Certificate, cfg AdminConfig) http.Handler {
	a := newAdmin(l, cert, cfg)
	inner := http.NewServeMux()
	inner.HandleFunc("GET /{$}", a.servePage)
	inner.HandleFunc("GET /api/v1/state", a.serveState)
	inner.Handle("GET /api/v1/traces", cfg.Tracing)
	inner.HandleFunc("GET /debug/pprof/", pprof.Index)
	inner.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	inner.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	inner.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	inner.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	for pattern, h := range cfg.Routes {
		inner.Handle(pattern, h)
	}

	outer := Metrics(cfg.Registry, cfg.Ready)
	outer.Handle("/", a.guard(cfg.Tracing.Handler("admin", inner)))
	return a.ownHost(outer)
}

// Guard is h behind what protects an admin listener: the host's name, the bearer
// token where one is set, and what a changing request must be. See Admin. On a
// unix socket any name will do: no browser reaches one.
func Guard(l net.Listener, cert *tls.Certificate, token string, log *slog.Logger, h http.Handler) http.Handler {
	a := newAdmin(l, cert, AdminConfig{Token: token, Log: log})
	if l.Addr().Network() == "unix" {
		return a.guard(h)
	}
	return a.ownHost(a.guard(h))
}

// GuardReads is Guard for requests that change nothing whatever their method, as
// a question that is posted because it is long: of any content type, if it comes
// from nobody else's page.
func GuardReads(l net.Listener, cert *tls.Certificate, token string, h http.Handler) http.Handler {
	a := newAdmin(l, cert, AdminConfig{Token: token})
	return a.ownHost(a.bearer(http.NewCrossOriginProtection().Handler(h)))
}

func newAdmin(l net.Listener, cert *tls.Certificate, cfg AdminConfig) *admin {
	a := &admin{cfg: cfg, log: logger(cfg.Log), started: time.Now(), loopback: Loopback(l.Addr())}
	if cert != nil {
		a.leaf = cert.Leaf
	}
	if cfg.Token != "" {
		a.token = sha256.Sum256([]byte(cfg.Token))
	}
	return a
}

// Metrics answers what --metrics offers, and no more: /metrics of reg and the
// default registry, /healthz, and /readyz by ready.
func Metrics(reg *prometheus.Registry, ready func() error) *http.ServeMux {
	mux := http.NewServeMux()
	both := prometheus.Gatherers{reg, prometheus.GathererFunc(byDefault)}
	mux.Handle("GET /metrics", promhttp.HandlerFor(both, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ready != nil {
			if err := ready(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// byDefault gathers what libraries register by themselves: the runtime, the process,
// HBase's client. The packages of an embedded Prometheus do so in every program that
// links them, also where it does not run.
func byDefault() ([]*dto.MetricFamily, error) {
	families, err := prometheus.DefaultGatherer.Gather()
	return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool { return strings.HasPrefix(f.GetName(), "prometheus_") }), err
}

type admin struct {
	cfg      AdminConfig
	log      *slog.Logger
	started  time.Time
	loopback bool
	leaf     *x509.Certificate // nil without TLS
	token    [sha256.Size]byte // of the token, meaningful if cfg.Token is set
}

// ownHost refuses requests that were sent to a name which is not ours: the
// browser of someone who visits a hostile page may be made to send them, by a
// name that first points there and then here. Nor may such a page take an
// answer in as a picture, a script or a style.
func (a *admin) ownHost(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		if !a.isOwn(r.Host) {
			http.Error(w, fmt.Sprintf("host %q is not a name of this listener", r.Host), http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (a *admin) isOwn(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if a.loopback {
		return strings.EqualFold(host, "localhost") || net.ParseIP(host).IsLoopback()
	}
	return a.leaf != nil && a.leaf.VerifyHostname(host) == nil
}

// guard checks the token, and what a changing request must be.
func (a *admin) guard(h http.Handler) http.Handler {
	sameOrigin := http.NewCrossOriginProtection()
	return a.bearer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if safe(r.Method) {
			h.ServeHTTP(w, r)
			return
		}
		if err := sameOrigin.Check(r); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
			http.Error(w, "want Content-Type: application/json", http.StatusUnsupportedMediaType)
			return
		}
		a.log.Info("admin request", "method", r.Method, "path", r.URL.Path)
		h.ServeHTTP(w, r)
	}))
}

// bearer refuses requests without the token, where one is set.
func (a *admin) bearer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.cfg.Token != "" && !a.hasToken(r) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="darklaunch"`)
			http.Error(w, "a bearer token is needed", http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func (a *admin) hasToken(r *http.Request) bool {
	given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	sum := sha256.Sum256([]byte(given))
	return ok && subtle.ConstantTimeCompare(sum[:], a.token[:]) == 1
}

func (a *admin) state() any {
	if a.cfg.State == nil {
		return struct{}{}
	}
	return a.cfg.State()
}

func (a *admin) serveState(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(a.state()); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

//go:embed page.html
var pageHTML string

var page = template.Must(template.New("page").Parse(pageHTML))

func (a *admin) servePage(w http.ResponseWriter, _ *http.Request) {
	state, err := json.MarshalIndent(a.state(), "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	ready := "ready"
	if a.cfg.Ready != nil {
		if err := a.cfg.Ready(); err != nil {
			ready = "not ready: " + err.Error()
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	page.Execute(w, map[string]any{
		"Program": a.cfg.Program,
		"Version": a.cfg.Version,
		"Up":      time.Since(a.started).Round(time.Second),
		"Ready":   ready,
		"State":   string(state),
		"Traces":  first(traceIDs(a.cfg.Tracing.Spans("")), 10),
	})
}

func first(s []string, n int) []string { return s[:min(n, len(s))] }
