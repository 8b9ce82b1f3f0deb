package main

import (
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/ops"
	"darklaunch/mirror/translate"
	"darklaunch/verdict"
	"darklaunch/verdict/compare"
	"darklaunch/verdict/join"
	"darklaunch/verdict/judge"
	"darklaunch/verdict/report"
)

const verdictServeLong = `Take the pair streams of mirrors (mirror --verdict ADDR), judge them
continuously, and answer what the verdict is, on the same address:

  GET  /api/v1/comparisons                  all comparisons, a few words of each
  GET  /api/v1/verdict?comparison=NAME      the document, schema verdict/v1
  GET  /api/v1/gate?comparison=NAME         200 pass, 412 fail, 425 not yet
  GET  /api/v1/history?comparison=NAME      changes
  GET  /api/v1/events                       server-sent events
  POST /api/v1/judgements?comparison=NAME   begin the judgement anew

A comparison is named as the mirror's --salt. With --state a restart goes on where
the last run was, even after kill -9. Off loopback TLS and a token are required, of
mirrors too.`

// verdictCommand is one run of darklaunch verdict serve.
type verdictCommand struct {
	program  *program
	cmd      *cobra.Command
	flags    serviceFlags
	out      *output
	config   string
	settings verdictSettings // where flags and file are read to
	defaults verdictSettings
}

// verdictSettings is what flags and file say of a served verdict.
type verdictSettings struct {
	Listen    string        `yaml:"listen"`
	State     string        `yaml:"state"`
	Retention time.Duration `yaml:"retention"`
	Webhook   string        `yaml:"webhook"`
	Token     string        `yaml:"token"`
	Cert      string        `yaml:"tls-cert"`
	Key       string        `yaml:"tls-key"`
	Memory    size          `yaml:"memory"`

	Window         time.Duration `yaml:"window"`
	Grace          time.Duration `yaml:"grace"`
	Once           bool          `yaml:"once"`
	OnInconclusive string        `yaml:"on-inconclusive"`
	NoiseBlock     time.Duration `yaml:"noise-block"`
	Differences    string        `yaml:"differences"`
	Rules          []string      `yaml:"rules"`
	Limits         serveLimits   `yaml:"bounds"`
	Judge          judgeSettings `yaml:",inline"`
}

// serveLimits bound what is taken in.
type serveLimits struct {
	Streams     int  `yaml:"streams"`
	Comparisons int  `yaml:"comparisons"`
	Routes      int  `yaml:"routes"`
	Fields      int  `yaml:"fields"`
	Users       int  `yaml:"users"`
	Pairs       int  `yaml:"pairs"`
	PairBytes   size `yaml:"pair-bytes"`
}

func (s *verdictSettings) define(f *pflag.FlagSet) {
	f.Var(value[string]{&s.Listen, "address", parseListenOrUnix, func(s string) string { return s }}, "listen", "take pair streams, and answer, on this address: host:port (port 0 means any free one) or unix:PATH")
	f.StringVar(&s.State, "state", "", "`directory` that keeps what is known through restarts; empty forgets")
	durationVar(f, &s.Retention, "retention", 24*time.Hour, "how long to keep changes, and a comparison to which nothing comes")
	f.StringVar(&s.Webhook, "webhook", "", "`URL` to POST changes of a verdict to")
	f.StringVar(&s.Token, "token", "", "bearer `token` (or @FILE that holds it) that mirrors and askers must have; needed off loopback")
	f.StringVar(&s.Cert, "tls-cert", "", "certificate `file` (PEM) of --listen; needed off loopback")
	f.StringVar(&s.Key, "tls-key", "", "key `file` (PEM) of --tls-cert")
	f.StringArrayVar(&s.Rules, "rules", nil, "`file` with rules of translation that mirrors have, as mirror --rules; repeated")
	sizeVar(f, &s.Memory, "memory", 256<<20, "what live objects may take; above 60% of it pairs are shed, above 90% all is")
}

func parseListenOrUnix(s string) (string, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok && path != "" {
		return s, nil
	}
	return parseListen(s)
}

func (p *program) verdictServe() *cobra.Command {
	c := &verdictCommand{program: p}
	c.cmd = &cobra.Command{
		Use:     "serve --listen ADDR",
		Short:   "Take the pair streams of mirrors and judge them continuously",
		Long:    verdictServeLong,
		Example: "  darklaunch verdict serve --listen 127.0.0.1:8603 --state /var/lib/darklaunch/verdict",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := c.cmd.Flags()
	c.settings.define(f)
	c.defaults = c.settings
	f.StringVar(&c.config, "config", "", "YAML `file` to read; see darklaunch schema verdict, and verdict init for a start")
	c.flags.define(f, "127.0.0.1:8602")
	c.out = p.outputVar(f)
	return c.cmd
}

func (c *verdictCommand) read() (verdictSettings, error) {
	return withFlags(c.cmd.Flags(), &c.settings, c.defaults, func() error {
		if c.config == "" {
			return nil
		}
		return loadConfig(c.config, schemaText("verdict"), &c.settings)
	})
}

func (c *verdictCommand) run(ctx context.Context) error {
	settings, err := c.read()
	if err != nil {
		return err
	}
	s, err := c.program.newService(ctx, "verdict", c.flags, c.out)
	if err != nil {
		return err
	}
	cfg, err := settings.serverConfig()
	if err != nil {
		return err
	}
	cfg.Log = s.log
	cfg.Command = func(r *pairv1.Request) string { return report.Command(r, "") }
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(settings.Memory)) // the collector works harder before anything is shed
	}
	l, cert, err := settings.listen()
	if err != nil {
		return err
	}
	server, err := verdict.New(cfg, s.registry)
	if err != nil {
		l.Close()
		return err
	}
	s.state = server.Status
	s.reload = ops.NewReload(s.log, func() error { return c.reload(server, &settings) })
	answer := ops.Guard(l, cert, cfg.Intake.Token, s.log, server.Handler(report.HTML))
	serve := server.Split(encrypted(l, cert), func(rest net.Listener) func(context.Context) error { return ops.Serve(rest, answer, s.log) })
	return s.run(ctx, ops.Part{Name: "verdict", Run: func(ctx context.Context) error {
		c.out.ready("verdict", l.Addr().String())
		return server.Run(ctx, serve)
	}})
}

// encrypted is l by TLS, if there is a certificate.
func encrypted(l net.Listener, cert *tls.Certificate) net.Listener {
	if cert == nil {
		return l
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12})
}

// listen opens the listener, and refuses one that is open to other machines.
func (s *verdictSettings) listen() (net.Listener, *tls.Certificate, error) {
	if s.Listen == "" {
		return nil, nil, usageErrorf("--listen: no address to listen on")
	}
	cert, err := certificate(s.Cert, s.Key, "--tls-cert", "--tls-key")
	if err != nil {
		return nil, nil, err
	}
	if path, ok := strings.CutPrefix(s.Listen, "unix:"); ok {
		l, err := listenUnix(path)
		return l, cert, err
	}
	l, err := ops.Listen(s.Listen, "--listen")
	if err != nil {
		return nil, nil, err
	}
	if err := ops.CheckAdmin(l, cert, s.Token); err != nil {
		l.Close()
		return nil, nil, usageErrorf("--listen: %s is off loopback: it needs --tls-cert, --tls-key and --token", l.Addr())
	}
	return l, cert, nil
}

// listenUnix opens a unix socket that this user alone can reach. One that is left
// over from a run that was killed is removed.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on unix:%s (--listen): the socket is in use by another program", path)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s (--listen): %w", path, errors.Unwrap(err))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (s *verdictSettings) serverConfig() (verdict.Config, error) {
	token, err := readToken(s.Token, "--token")
	if err != nil {
		return verdict.Config{}, err
	}
	s.Token = token
	if s.Webhook != "" {
		if u, err := url.Parse(s.Webhook); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return verdict.Config{}, usageErrorf("--webhook: want a URL as https://host/path")
		}
	}
	cfg := verdict.Config{
		Judge: s.Judge.config(), State: s.State, Retention: s.Retention, Webhook: s.Webhook, Once: s.Once,
		NoiseBlock: s.NoiseBlock, Inconclusive: judge.Verdict(s.OnInconclusive), MaxComparisons: s.Limits.Comparisons, MaxMemory: int(s.Memory),
		Join: join.Config{Window: s.Window, Grace: s.Grace, MaxRoutes: s.Limits.Routes, MaxMirrors: s.Limits.Streams, MaxUsers: s.Limits.Users},
	}
	cfg.Intake.Token, cfg.Intake.MaxStreams = token, s.Limits.Streams
	cfg.Intake.MaxPairs, cfg.Intake.MaxPairBytes = s.Limits.Pairs, int(s.Limits.PairBytes)
	cfg.Noise.MaxFields = s.Limits.Fields
	if s.Differences != "" {
		text, err := os.ReadFile(s.Differences)
		if err != nil {
			return cfg, fmt.Errorf("read differences: %w", err)
		}
		if cfg.Rules, err = compare.ParseRules(text, schemaText("differences"), time.Now()); err != nil {
			return cfg, usageErrorf("%s:%w", s.Differences, err)
		}
	}
	for _, name := range s.Rules {
		rules, err := readRules(name, translate.Config{})
		if err != nil {
			return cfg, err
		}
		cfg.Translations = append(cfg.Translations, rules)
	}
	return cfg, nil
}

// reload puts into force what can change of a file that was read again. now is
// what is in force.
func (c *verdictCommand) reload(server *verdict.Server, now *verdictSettings) error {
	next, err := c.read()
	if err != nil {
		return err
	}
	same := next
	same.Judge, same.Token = now.Judge, now.Token // of a file that holds the token, now has what was in it
	if !reflect.DeepEqual(same, *now) {
		return errors.New("only how it is judged can change while the verdict runs: start it again for the rest")
	}
	if err := server.Reconfigure(next.Judge.config()); err != nil {
		return err
	}
	now.Judge = next.Judge
	return nil
}

//go:embed verdict.yaml
var verdictStarter string

func (p *program) verdictInit() *cobra.Command {
	return p.starter("verdict", "Print a configuration of verdict serve to start from, with comments", verdictStarter)
}
