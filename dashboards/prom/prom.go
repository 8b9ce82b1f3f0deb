// Package prom is Prometheus inside a program: it scrapes targets, keeps their
// samples, evaluates rules, sends alerts to Alertmanagers and answers
// Prometheus's own HTTP API, so that Grafana and the board read it as they would
// read any other. All of that is upstream's code; what is added here is what a
// guest in another program needs: a disk that fills up, a block that is damaged
// and a target that is too big are met by bounds, and told in words.
//
// Only the program links it: upstream brings many libraries.
package prom

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/notifier"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
)

// A Target is a process whose metrics are scraped.
type Target struct {
	Job     string // what it is called: the job label
	Address string // host:port, the instance label
	TLS     bool   // whether to ask by TLS, verified by Config.CA
}

// A Rules file, by the name that its groups are shown under.
type Rules struct {
	Name string
	Text []byte // YAML as Prometheus takes it
}

// A Config says what a Server scrapes, keeps and answers. Zero is the default
// where there is one.
type Config struct {
	// Dir keeps the samples. It is made where it is not, and locked: two servers
	// can't share one.
	Dir string

	// Retention is how long samples are kept. Zero means 15 days.
	Retention time.Duration

	// MaxBytes bounds the blocks on disk: the oldest go first. The log of the
	// last two hours or so is not in it. Zero means 4 GiB.
	MaxBytes int64

	// Reserve is how many bytes the disk must have free for samples to be
	// taken. Zero means 64 MiB.
	Reserve uint64

	// Interval is from one scrape of a target to the next. Zero means 5 s.
	// Rules are evaluated as often, though at most each 5 s and at least each 15 s.
	Interval time.Duration

	// Targets are scraped.
	Targets []Target

	// CA is a PEM file of who else than the system's authorities is believed to
	// sign the targets' certificates. Empty means nobody.
	CA string

	// MaxSamples bounds what one answer of a target may hold: one with more is
	// refused, as one of more than MaxBody bytes is. Zeros mean 50,000 and 32 MiB.
	MaxSamples int
	MaxBody    int64

	// MaxSeries bounds the series that are in memory, all targets' and rules'
	// together: beyond, new ones are refused. Zero means 500,000.
	MaxSeries int

	// Rules are evaluated.
	Rules []Rules

	// Alertmanagers get the alerts that fire. None: they are only shown.
	Alertmanagers []*url.URL

	// ExternalURL is where people find this server, for links in alerts.
	ExternalURL *url.URL

	// Log gets what an operator has to know. Nil discards.
	Log *slog.Logger
}

// ErrConfig is wrapped by errors of Open that are the caller's: a target, a
// rules file or an address that makes no sense.
var ErrConfig = errors.New("configuration")

// Bounds on one query and on all that run at once. What they refuse says so.
const (
	maxQuerySamples = 20_000_000 // 320 MB
	maxQueries      = 20
	queryTimeout    = 30 * time.Second
	lookback        = 5 * time.Minute
	maxExemplars    = 20_000
)

// A Server scrapes, keeps, evaluates and answers. It is safe for concurrent use.
type Server struct {
	cfg      Config
	upstream *config.Config
	log      *slog.Logger
	started  time.Time

	db       *tsdb.DB
	store    *guarded
	aside    []Condition // blocks that were set aside, known since Open
	parser   parser.Parser
	engine   *promql.Engine
	scraper  *scrape.Manager
	rules    *rules.Manager
	notifier *notifier.Manager
	registry *prometheus.Registry // upstream's metrics about itself

	mu    sync.Mutex
	since map[string]time.Time // when each condition began
}

// Open reads what Dir holds and prepares everything. Nothing is scraped and no
// rule evaluated before Run; queries are answered from here on. A block that
// can't be read is moved to Dir/set-aside, and the rest is used. An error that
// wraps ErrConfig is the caller's; any other is of Dir. It must be followed by
// Run or Close.
func Open(cfg Config) (_ *Server, err error) {
	cfg.setDefaults()
	s := &Server{
		cfg: cfg, log: quiet(cfg.Log), started: time.Now(), parser: parser.NewParser(parser.Options{}),
		registry: prometheus.NewRegistry(), since: map[string]time.Time{},
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if s.upstream, err = upstreamConfig(cfg, s.log); err != nil {
		return nil, err
	}
	if err := s.openStore(); err != nil {
		return nil, err
	}
	tracker, err := promql.NewActiveQueryTracker(cfg.Dir, maxQueries, s.log)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Dir, err)
	}
	s.engine = promql.NewEngine(s.engineOptions(tracker)) // closes the tracker
	if err := s.prepareScrapes(); err != nil {
		return nil, err
	}
	return s, s.prepareRules()
}

func (s *Server) engineOptions(tracker promql.QueryTracker) promql.EngineOpts {
	return promql.EngineOpts{
		Logger:                   s.log,
		Reg:                      s.registry,
		MaxSamples:               maxQuerySamples,
		Timeout:                  queryTimeout,
		ActiveQueryTracker:       tracker,
		LookbackDelta:            lookback,
		NoStepSubqueryIntervalFn: func(int64) int64 { return s.cfg.evaluation().Milliseconds() },
		EnableAtModifier:         true,
		EnableNegativeOffset:     true,
		Parser:                   s.parser,
	}
}

func (s *Server) prepareScrapes() (err error) {
	opts := &scrape.Options{DiscoveryReloadOnStartup: true}
	if s.scraper, err = scrape.NewManager(opts, s.log, nil, s.store, nil, s.registry); err != nil {
		return fmt.Errorf("prepare scrapes: %w", err)
	}
	return s.scraper.ApplyConfig(s.upstream)
}

func (s *Server) prepareRules() error {
	s.notifier = notifier.NewManager(&notifier.Options{QueueCapacity: 1000, Registerer: s.registry}, model.UTF8Validation, s.log)
	if err := s.notifier.ApplyConfig(s.upstream); err != nil {
		return fmt.Errorf("%w: alertmanager: %w", ErrConfig, err)
	}
	s.rules = rules.NewManager(&rules.ManagerOptions{
		ExternalURL:     s.cfg.ExternalURL,
		QueryFunc:       rules.EngineQueryFunc(s.engine, s.db),
		NotifyFunc:      rules.SendAlerts(s.notifier, s.cfg.ExternalURL.String()),
		Context:         context.Background(), // the manager is stopped by Stop
		Appendable:      s.store,
		Queryable:       s.db,
		Logger:          s.log,
		Registerer:      s.registry,
		OutageTolerance: time.Hour,
		ForGracePeriod:  time.Minute,
		ResendDelay:     time.Minute,
		GroupLoader:     loader{s.cfg.Rules, s.parser},
		Parser:          s.parser,
	})
	var names []string
	for _, r := range s.cfg.Rules {
		if _, errs := (loader{s.cfg.Rules, s.parser}).Load(r.Name, false, model.UTF8Validation); len(errs) > 0 {
			return fmt.Errorf("%w: rules %s: %w", ErrConfig, r.Name, errs[0])
		}
		names = append(names, r.Name)
	}
	return s.rules.Update(s.cfg.evaluation(), names, s.upstream.GlobalConfig.ExternalLabels, s.cfg.ExternalURL.String(), nil)
}

// Run scrapes and evaluates until ctx ends, and closes the server: everything
// that was taken is on the disk when it returns.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	alertmanagers := make(chan map[string][]*targetgroup.Group)
	targets := make(chan map[string][]*targetgroup.Group)
	wg.Go(func() { s.notifier.Run(alertmanagers) })
	wg.Go(func() { s.scraper.Run(targets) })
	alertmanagers <- alertmanagerGroups(s.upstream)
	targets <- targetGroups(s.cfg.Targets)
	wg.Go(s.rules.Run)
	<-ctx.Done()
	s.rules.Stop() // before its queries lose their store
	s.awaitPools()
	s.scraper.Stop()
	s.notifier.Stop()
	wg.Wait()
	return s.close()
}

// awaitPools waits until the scraper has its targets, for a second at most: a
// Stop that overtakes them would leave them scraping.
func (s *Server) awaitPools() {
	for end := time.Now().Add(time.Second); len(s.scraper.ScrapePools()) < len(jobs(s.cfg.Targets)) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// Close closes a server that has not been run.
func (s *Server) Close() error {
	var wg sync.WaitGroup
	wg.Go(s.rules.Run) // its groups wait to be let go, and Stop for their end
	s.rules.Stop()
	wg.Wait()
	s.notifier.Stop()
	return s.close()
}

// close closes what Open has opened so far.
func (s *Server) close() error {
	var errs []error
	if s.engine != nil {
		errs = append(errs, s.engine.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close %s: %w", s.cfg.Dir, err)
	}
	return nil
}

func (c *Config) setDefaults() {
	def(&c.Retention, 15*24*time.Hour)
	def(&c.MaxBytes, 4<<30)
	def(&c.Reserve, 64<<20)
	def(&c.Interval, 5*time.Second)
	def(&c.MaxSamples, 50_000)
	def(&c.MaxBody, 32<<20)
	def(&c.MaxSeries, 500_000)
	if c.ExternalURL == nil {
		c.ExternalURL = &url.URL{}
	}
}

// check finds what upstream would find only when it uses it.
func (c *Config) check() error {
	for _, u := range c.Alertmanagers {
		if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("alertmanager %s: want a URL as http://host:port", u.Redacted())
		}
	}
	if c.CA == "" {
		return nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return fmt.Errorf("CA: %w", err)
	}
	if !x509.NewCertPool().AppendCertsFromPEM(pem) {
		return fmt.Errorf("CA: %s holds no certificate", c.CA)
	}
	return nil
}

func def[T comparable](p *T, v T) {
	if *p == *new(T) {
		*p = v
	}
}

// evaluation is from one evaluation of the rules to the next.
func (c *Config) evaluation() time.Duration {
	return min(max(c.Interval, 5*time.Second), 15*time.Second)
}

// lostAndFound is where under Dir blocks go that can't be read.
const lostAndFound = "set-aside"

// openStore opens the samples in Dir, without the blocks that can't be read.
func (s *Server) openStore() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("open %s: %w", s.cfg.Dir, err)
	}
	aside, err := setAside(s.cfg.Dir, s.log)
	if err != nil {
		return err
	}
	s.aside = aside
	guard := &guarded{dir: s.cfg.Dir, reserve: s.cfg.Reserve, maxSeries: int64(s.cfg.MaxSeries), free: free}
	opts := storeOptions(s.cfg)
	opts.SeriesLifecycleCallback = guard
	db, err := tsdb.Open(s.cfg.Dir, s.log, s.registry, opts, nil)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Clean(s.cfg.Dir), err)
	}
	guard.to, s.db, s.store = db, db, guard
	guard.open.Store(true)
	return nil
}

func storeOptions(cfg Config) *tsdb.Options {
	const shortest = 2 * time.Hour // of a block, and about what is in memory
	opts := tsdb.DefaultOptions()
	opts.RetentionDuration = cfg.Retention.Milliseconds()
	opts.MaxBytes = cfg.MaxBytes
	opts.MinBlockDuration = shortest.Milliseconds()
	opts.MaxBlockDuration = max(shortest, min(cfg.Retention/10, 31*24*time.Hour)).Milliseconds() // as upstream's own program
	opts.WALCompression = "snappy"
	opts.EnableExemplarStorage = true
	opts.MaxExemplars = maxExemplars
	return opts
}

// quiet is a logger of which upstream's Info is seen at level Debug alone: it
// tells of its own life, not of what an operator acts on.
func quiet(log *slog.Logger) *slog.Logger {
	if log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(quietHandler{log.Handler()})
}

type quietHandler struct{ slog.Handler }

func (h quietHandler) Enabled(ctx context.Context, l slog.Level) bool {
	if l < slog.LevelWarn {
		l = slog.LevelDebug
	}
	return h.Handler.Enabled(ctx, l)
}

func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{h.Handler.WithAttrs(attrs)}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{h.Handler.WithGroup(name)}
}
