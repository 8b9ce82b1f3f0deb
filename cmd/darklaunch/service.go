package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"darklaunch/internal/ops"
)

// serviceFlags are the flags of every command that runs until it is stopped.
type serviceFlags struct {
	admin, metrics    string
	adminToken        string
	adminCert, keyPEM string
	drain             time.Duration
	logLevel          slog.Level
	logFormat         string
	otlp              address
}

func (f *serviceFlags) define(set *pflag.FlagSet, admin string) {
	listenOrNotVar(set, &f.admin, "admin", admin, "serve metrics, health, state, traces and profiles here, and take orders")
	set.StringVar(&f.adminToken, "admin-token", "", "bearer `token` (or @FILE that holds it) that --admin asks for; needed off loopback")
	set.StringVar(&f.adminCert, "admin-tls-cert", "", "certificate `file` (PEM) of --admin; needed off loopback")
	set.StringVar(&f.keyPEM, "admin-tls-key", "", "key `file` (PEM) of --admin-tls-cert")
	listenOrNotVar(set, &f.metrics, "metrics", "", "serve only metrics and health here, plain")
	durationVar(set, &f.drain, "drain-timeout", 10*time.Second, "after a signal, how long work under way may take to finish")
	set.Var(value[slog.Level]{&f.logLevel, "level", parseLevel, formatLevel}, "log-level", "least level to log: debug, info, warn or error")
	set.StringVar(&f.logFormat, "log-format", "text", "form of the log on stderr: "+strings.Join(ops.LogFormats, " or "))
	addressVar(set, &f.otlp, "otlp", "also send spans to this OpenTelemetry collector, by OTLP over HTTP")
}

func parseLevel(s string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return 0, fmt.Errorf("%q is not a log level: want debug, info, warn or error", s)
	}
	return l, nil
}

func formatLevel(l slog.Level) string { return strings.ToLower(l.String()) }

// service is what a long-running command has beside its own parts. The
// command may set ready, state, routes and reload before it calls run.
type service struct {
	name  string
	flags serviceFlags
	out   *output

	log      *slog.Logger
	registry *prometheus.Registry
	tracing  *ops.Tracing

	ready  func() error            // why it can't take work yet; nil: it always can
	state  func() any              // for /api/v1/state
	routes map[string]http.Handler // of the command's own, for the admin listener
	reload *ops.Reload             // nil: it has no configuration to read again
}

// newService makes the logger, registry and tracing that flags ask for. End
// it with run.
func (p *program) newService(ctx context.Context, name string, flags serviceFlags, out *output) (*service, error) {
	log, err := ops.NewLogger(p.stderr, flags.logLevel, flags.logFormat)
	if err != nil {
		return nil, usageErrorf("--log-format: %w", err)
	}
	if flags.adminToken, err = readToken(flags.adminToken, "--admin-token"); err != nil {
		return nil, err
	}
	s := &service{name: name, flags: flags, out: out, log: log, registry: prometheus.NewRegistry()}
	tracing := ops.TracingConfig{Service: "darklaunch " + name}
	if flags.otlp.HostPort != "" {
		if tracing.Export, err = newExporter(ctx, flags.otlp); err != nil {
			return nil, fmt.Errorf("export spans (--otlp): %w", err)
		}
	}
	s.tracing = ops.NewTracing(tracing)
	return s, nil
}

// readToken is token, or what the file holds that it names as @FILE.
func readToken(token, flag string) (string, error) {
	file, isFile := strings.CutPrefix(token, "@")
	if !isFile {
		return token, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", flag, err)
	}
	if token = strings.TrimSpace(string(b)); token == "" {
		return "", fmt.Errorf("read %s: %s holds no token", flag, file)
	}
	return token, nil
}

// newExporter sends nothing yet: a collector that is down costs spans, never the command.
func newExporter(ctx context.Context, to address) (sdktrace.SpanExporter, error) {
	opts := []otlptracehttp.Option{otlptracehttp.WithEndpoint(to.HostPort)}
	if !to.TLS {
		opts = append(opts, otlptracehttp.WithInsecure())
	}
	return otlptracehttp.New(ctx, opts...)
}

// run opens the listeners that the flags ask for, runs the command's parts
// and returns when all have stopped. The admin pages stay up until the
// command's own parts are down.
func (s *service) run(ctx context.Context, parts ...ops.Part) error {
	own, err := s.listeners()
	if err != nil {
		return err
	}
	if s.reload != nil {
		own = append(own, ops.Part{Name: "reload", Run: s.reload.Run})
	}
	err = ops.Run(ctx, s.log, s.flags.drain, append(own, parts...)...)

	// Spans are not worth more than a moment, and the work's error is worth more than theirs.
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if failed := s.tracing.Shutdown(flush); failed != nil {
		s.log.Warn("spans lost", "err", failed)
	}
	return err
}

// listeners opens them all before it says that any is ready.
func (s *service) listeners() (parts []ops.Part, err error) {
	var opened []net.Listener
	defer func() {
		if err != nil {
			for _, l := range opened {
				l.Close()
			}
		}
	}()
	if s.flags.admin != "" {
		l, err := ops.Listen(s.flags.admin, "--admin")
		if err != nil {
			return nil, err
		}
		opened = append(opened, l)
		part, err := s.adminPart(l)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
	}
	if s.flags.metrics != "" {
		l, err := ops.Listen(s.flags.metrics, "--metrics")
		if err != nil {
			return nil, err
		}
		opened = append(opened, l)
		parts = append(parts, ops.Part{Name: "metrics", Run: ops.Serve(l, ops.Metrics(s.registry, s.ready), s.log)})
	}
	for i, part := range parts {
		s.out.ready(part.Name, opened[i].Addr().String())
	}
	return parts, nil
}

func (s *service) adminPart(l net.Listener) (ops.Part, error) {
	cert, err := certificate(s.flags.adminCert, s.flags.keyPEM, "--admin-tls-cert", "--admin-tls-key")
	if err != nil {
		return ops.Part{}, err
	}
	if err := ops.CheckAdmin(l, cert, s.flags.adminToken); err != nil {
		return ops.Part{}, usageErrorf("--admin: %w (--admin-tls-cert, --admin-tls-key, --admin-token)", err)
	}
	h := ops.Admin(l, cert, ops.AdminConfig{
		Program:  s.name,
		Version:  buildVersion().Version,
		Registry: s.registry,
		Ready:    s.ready,
		State:    s.adminState,
		Routes:   s.routes,
		Tracing:  s.tracing,
		Token:    s.flags.adminToken,
		Log:      s.log,
	})
	if cert != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
	}
	return ops.Part{Name: "admin", Run: ops.Serve(l, h, s.log)}, nil
}

// certificate loads the one that two flags name; nil if neither is set.
func certificate(file, key, fileFlag, keyFlag string) (*tls.Certificate, error) {
	switch {
	case file == "" && key == "":
		return nil, nil
	case file == "" || key == "":
		return nil, usageErrorf("%s and %s go together", fileFlag, keyFlag)
	}
	cert, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", fileFlag, err)
	}
	if cert.Leaf == nil {
		return nil, fmt.Errorf("load %s: no certificate in it", fileFlag)
	}
	return &cert, nil
}

// adminState is the command's state, with how its configuration was read beside it.
func (s *service) adminState() any {
	state := map[string]any{"version": buildVersion()}
	if s.reload != nil {
		state["config"] = s.reload.State()
	}
	if s.state != nil {
		state[s.name] = s.state()
	}
	return state
}
