package prom

import (
	"context"
	"math"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/notifications"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// ReadPaths are the parts of the API that take a question by POST, as a form,
// for questions that are too long for a URL. They change nothing.
var ReadPaths = [...]string{
	"/api/v1/query", "/api/v1/query_range", "/api/v1/query_exemplars", "/api/v1/series", "/api/v1/labels",
	"/api/v1/format_query", "/api/v1/parse_query",
}

// Handler answers Prometheus's HTTP API below /api/v1/, of upstream's version
// and code. Nothing can be written or deleted through it.
func (s *Server) Handler() http.Handler {
	always := func(h http.HandlerFunc) http.HandlerFunc { return h }
	noNotifications := func() []notifications.Notification { return nil }
	nobodyListens := func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false }
	api := v1.NewAPI(
		s.engine, s.db, nil, nil, s.db,
		func(context.Context) v1.ScrapePoolsRetriever { return s.scraper },
		func(context.Context) v1.TargetRetriever { return s.scraper },
		func(context.Context) v1.AlertmanagerRetriever { return s.notifier },
		func() config.Config { return *s.upstream },
		map[string]string{"storage.tsdb.path": s.cfg.Dir, "storage.tsdb.retention.time": model.Duration(s.cfg.Retention).String()},
		v1.GlobalURLOptions{ListenAddress: s.cfg.ExternalURL.Host, Host: s.cfg.ExternalURL.Host, Scheme: s.cfg.ExternalURL.Scheme},
		always, admin{s.db}, s.cfg.Dir,
		false, false, 0, // no admin, no search
		s.log,
		func(context.Context) v1.RulesRetriever { return s.rules },
		1, 1, 1, // remote read, to which no way leads
		false,
		regexp.MustCompile("^$"), // no page of another origin
		s.runtimeInfo, upstreamVersion(),
		noNotifications, nobodyListens,
		s.registry, s.registry, nil,
		false, nil, false, false, false, false, // nothing is written through the API
		lookback, false, false, nil, nil, v1.OpenAPIOptions{}, s.parser,
	)
	r := route.New()
	api.Register(r.WithPrefix("/api/v1"))
	mux := http.NewServeMux()
	mux.Handle("/api/v1/", r)
	mux.Handle("/api/v1/read", http.NotFoundHandler())
	for _, path := range []string{"/-/healthy", "/-/ready"} { // what asks for a Prometheus may ask for these
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	}
	return mux
}

func (s *Server) runtimeInfo() (v1.RuntimeInfo, error) {
	host, err := os.Hostname()
	return v1.RuntimeInfo{
		StartTime: s.started, ServerTime: time.Now(), Hostname: host, CWD: s.cfg.Dir,
		ReloadConfigSuccess: true, LastConfigTime: s.started, CorruptionCount: int64(s.counters()[logCorruptions]),
		GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0), GOMEMLIMIT: debug.SetMemoryLimit(math.MinInt64),
		StorageRetention: model.Duration(s.cfg.Retention).String(),
	}, err
}

// upstreamModule is v0.3YY.Z for Prometheus 3.YY.Z.
const upstreamModule = "github.com/prometheus/prometheus"

// upstreamVersion is what Grafana goes by when it chooses what to ask.
func upstreamVersion() *v1.PrometheusVersion {
	v := &v1.PrometheusVersion{Version: "3", Branch: "embedded", GoVersion: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, m := range info.Deps {
		if rest, ok := strings.CutPrefix(m.Version, "v0.3"); ok && m.Path == upstreamModule {
			v.Version = "3." + rest
			v.Revision = m.Version
		}
	}
	return v
}

// admin is what the API asks of the store.
type admin struct{ *tsdb.DB }

func (a admin) Stats(label string, limit int) (*tsdb.Stats, error) {
	return a.Head().Stats(label, limit), nil
}

func (a admin) WALReplayStatus() (tsdb.WALReplayStatus, error) { return tsdb.WALReplayStatus{}, nil }

func (a admin) BlockMetas() ([]tsdb.BlockMeta, error) { return a.DB.BlockMetas(), nil }
