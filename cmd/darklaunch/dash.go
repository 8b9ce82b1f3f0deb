package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"darklaunch/dashboards/board"
	"darklaunch/dashboards/prom"
	"darklaunch/dashboards/rules"
	"darklaunch/internal/ops"
)

const dashLong = `Show programs that are running: scrape their metrics into a Prometheus that is
part of this program, evaluate rules and alerts on them, and serve the board.

  /                        the board
  /api/v1/…                Prometheus's own HTTP API; Grafana takes it as a data source
  /metrics                 of this program
  /darklaunch/state        what is wrong, in words
  /darklaunch/verdict/…    the verdict's API, with --verdict
  /darklaunch/mirror/…     the mirror's, with --mirror

The mirror is scraped too, as job mirror, and this program as job dash. With
--prometheus nothing is scraped or kept here: /api/v1 is passed on to that URL.
Off loopback TLS and a token are required.`

// dashCommand is one run of darklaunch dash.
type dashCommand struct {
	program *program
	cmd     *cobra.Command
	flags   serviceFlags
	out     *output

	listen        string
	token         string
	cert, key, ca string

	scrape                    []string
	interval                  time.Duration
	data                      string
	retention                 time.Duration
	retentionSize             size
	rules                     []string
	alertmanagers             []string
	prometheus                string
	verdict, mirror           address
	verdictToken, mirrorToken string
}

func (p *program) dash() *cobra.Command {
	c := &dashCommand{program: p}
	c.cmd = &cobra.Command{
		Use:     "dash [--scrape NAME=ADDR]...",
		Short:   "Show programs that are running: metrics, alerts and the board",
		Long:    dashLong,
		Example: "  darklaunch dash --mirror 127.0.0.1:8601 --verdict 127.0.0.1:8603 --scrape verdict=127.0.0.1:8602 --data /var/lib/darklaunch/dash",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	c.define(c.cmd.Flags())
	c.out = p.outputVar(c.cmd.Flags())
	return c.cmd
}

func (c *dashCommand) define(f *pflag.FlagSet) {
	listenVar(f, &c.listen, "listen", "127.0.0.1:8600", "serve the board and all APIs on this address; port 0 means any free one")
	f.StringVar(&c.token, "token", "", "bearer `token` (or @FILE that holds it) that askers must have; needed off loopback")
	f.StringVar(&c.cert, "tls-cert", "", "certificate `file` (PEM) of --listen; needed off loopback")
	f.StringVar(&c.key, "tls-key", "", "key `file` (PEM) of --tls-cert")
	f.StringArrayVar(&c.scrape, "scrape", nil, "scrape /metrics of `NAME=ADDR`, as job NAME; ADDR is host:port or https://host:port")
	durationVar(f, &c.interval, "interval", 5*time.Second, "from one scrape to the next")
	f.StringVar(&c.data, "data", "", "`directory` that keeps samples through restarts; empty forgets them at the end")
	durationVar(f, &c.retention, "retention", 15*24*time.Hour, "how long to keep samples")
	sizeVar(f, &c.retentionSize, "retention-size", 4<<30, "how much of the disk blocks of samples may take")
	f.StringArrayVar(&c.rules, "rules", []string{"standard"}, "rules and alerts: standard, demo (standard for a run of minutes), none, or a `FILE`; again for more")
	f.StringArrayVar(&c.alertmanagers, "alertmanager", nil, "send alerts to this Alertmanager `URL`; again for more")
	f.StringVar(&c.prometheus, "prometheus", "", "`URL` of a Prometheus to use instead of a built-in one")
	addressVar(f, &c.verdict, "verdict", "where darklaunch verdict serve listens, to pass its API on")
	f.StringVar(&c.verdictToken, "verdict-token", "", "bearer `token` (or @FILE that holds it) of --verdict")
	addressVar(f, &c.mirror, "mirror", "the admin address of darklaunch mirror, to scrape it and pass its API on")
	f.StringVar(&c.mirrorToken, "mirror-token", "", "bearer `token` (or @FILE that holds it) of --mirror")
	f.StringVar(&c.ca, "ca", "", "PEM `file` of more authorities to believe, of all that are asked by TLS")
	c.flags.define(f, "")
}

// check finds what is wrong with the flags together.
func (c *dashCommand) check() error {
	if c.prometheus == "" {
		return nil
	}
	for _, name := range []string{"scrape", "interval", "data", "retention", "retention-size", "rules", "alertmanager"} {
		if c.cmd.Flags().Changed(name) {
			return usageErrorf("--%s is for the built-in Prometheus: it does nothing with --prometheus", name)
		}
	}
	return nil
}

func (c *dashCommand) run(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	s, err := c.program.newService(ctx, "dash", c.flags, c.out)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // samples are long-lived, and this runs beside what it watches
	}
	passed, err := c.passed(s)
	if err != nil {
		return err
	}
	l, cert, err := c.open()
	if err != nil {
		return err
	}
	page, signIn, err := c.board(s, l, cert != nil)
	if err != nil {
		l.Close()
		return err
	}
	var parts []ops.Part
	var api http.Handler
	conditions := func() []prom.Condition { return nil }
	if c.prometheus == "" {
		server, remove, err := c.embed(s, l, cert != nil)
		if err != nil {
			l.Close()
			return err
		}
		defer remove()
		api, conditions = server.Handler(), server.Conditions
		parts = append(parts, ops.Part{Name: "prometheus", Run: server.Run})
	}
	d := &dash{passed: passed, own: conditions, version: buildVersion(), signIn: signIn, log: s.log}
	s.state = func() any { return d.state() }
	handler := d.handler(api, page, ops.Metrics(s.registry, s.ready), guards{
		change: func(h http.Handler) http.Handler { return ops.Guard(l, cert, c.token, s.log, h) },
		read:   func(h http.Handler) http.Handler { return ops.GuardReads(l, cert, c.token, h) },
		open:   func(h http.Handler) http.Handler { return ops.GuardReads(l, cert, "", h) },
	})
	return s.run(ctx, append(parts,
		ops.Part{Name: "watch", Run: d.watch},
		ops.Part{Name: "dash", Run: func(ctx context.Context) error {
			c.out.ready("dash", l.Addr().String())
			return ops.Serve(encrypted(l, cert), handler, s.log)(ctx)
		}})...)
}

// open opens the listener, and refuses one that is open to other machines.
func (c *dashCommand) open() (_ net.Listener, _ *tls.Certificate, err error) {
	if c.token, err = readToken(c.token, "--token"); err != nil {
		return nil, nil, err
	}
	cert, err := certificate(c.cert, c.key, "--tls-cert", "--tls-key")
	if err != nil {
		return nil, nil, err
	}
	l, err := ops.Listen(c.listen, "--listen")
	if err != nil {
		return nil, nil, err
	}
	if err := ops.CheckAdmin(l, cert, c.token); err != nil {
		l.Close()
		return nil, nil, usageErrorf("--listen: %s is off loopback: it needs --tls-cert, --tls-key and --token", l.Addr())
	}
	return l, cert, nil
}

// embed opens the built-in Prometheus. remove removes what is not to be kept.
func (c *dashCommand) embed(s *service, l net.Listener, byTLS bool) (_ *prom.Server, remove func(), err error) {
	cfg := prom.Config{
		Dir: c.data, Retention: c.retention, MaxBytes: int64(c.retentionSize), Interval: c.interval, CA: c.ca, Log: s.log,
		ExternalURL: &url.URL{Scheme: "http", Host: l.Addr().String()},
	}
	if byTLS {
		cfg.ExternalURL.Scheme = "https"
	} else { // else it would have to know itself by a name in its certificate
		cfg.Targets = append(cfg.Targets, prom.Target{Job: "dash", Address: l.Addr().String()})
	}
	if c.mirror.HostPort != "" {
		cfg.Targets = append(cfg.Targets, prom.Target{Job: "mirror", Address: c.mirror.HostPort, TLS: c.mirror.TLS})
	}
	for _, text := range c.scrape {
		t, err := parseTarget(text)
		if err != nil {
			return nil, nil, usageErrorf("--scrape: %w", err)
		}
		cfg.Targets = append(cfg.Targets, t)
	}
	if cfg.Rules, err = c.readRules(); err != nil {
		return nil, nil, err
	}
	for _, text := range c.alertmanagers {
		u, err := parseURL(text)
		if err != nil {
			return nil, nil, usageErrorf("--alertmanager: %w", err)
		}
		cfg.Alertmanagers = append(cfg.Alertmanagers, u)
	}
	remove = func() {}
	if cfg.Dir == "" {
		if cfg.Dir, err = os.MkdirTemp("", "darklaunch-dash-"); err != nil {
			return nil, nil, err
		}
		remove = func() { os.RemoveAll(cfg.Dir) }
	}
	server, err := prom.Open(cfg)
	if err != nil {
		remove()
		if errors.Is(err, prom.ErrConfig) {
			return nil, nil, usageErrorf("%w", err)
		}
		return nil, nil, fmt.Errorf("%w (--data)", err)
	}
	return server, remove, nil
}

func parseTarget(text string) (prom.Target, error) {
	name, addr, _ := strings.Cut(text, "=")
	a, err := parseAddress(addr)
	if name == "" || err != nil {
		return prom.Target{}, fmt.Errorf("%q: want NAME=host:port, or NAME=https://host:port", text)
	}
	return prom.Target{Job: name, Address: a.HostPort, TLS: a.TLS}, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("want a URL as http://host:port")
	}
	return u, nil
}

// demoShrinks is how much shorter the windows of --rules demo are: three days become
// fifteen minutes.
const demoShrinks = 288

func (c *dashCommand) readRules() (all []prom.Rules, err error) {
	for _, name := range c.rules {
		r := prom.Rules{Name: name}
		switch name {
		case "none":
			continue
		case "standard":
			r.Text = rules.Standard()
		case "demo":
			r.Text = rules.Shrunk(demoShrinks)
		default:
			if r.Text, err = os.ReadFile(name); err != nil {
				return nil, fmt.Errorf("read rules (--rules): %w", err)
			}
		}
		all = append(all, r)
	}
	return all, nil
}

// passed are the servers whose APIs are passed on.
func (c *dashCommand) passed(s *service) (all []*passedOn, err error) {
	pool, err := c.authorities()
	if err != nil {
		return nil, err
	}
	add := func(name, prefix string, to *url.URL, token, health string, paths ...string) {
		all = append(all, newPassedOn(name, prefix, to, token, health, paths, pool, s.log))
	}
	if c.prometheus != "" {
		u, err := parseURL(c.prometheus)
		if err != nil {
			return nil, usageErrorf("--prometheus: %w", err)
		}
		add("prometheus", "", u, "", "/api/v1/query?query=1", "/api/v1/")
	}
	for _, t := range []struct {
		name, flag string
		at         address
		token      string
		paths      []string
	}{
		{"verdict", "--verdict-token", c.verdict, c.verdictToken, []string{"/api/v1/", "/report"}},
		{"mirror", "--mirror-token", c.mirror, c.mirrorToken, []string{"/api/v1/"}},
	} {
		token, err := readToken(t.token, t.flag)
		if err != nil {
			return nil, err
		}
		if t.at.HostPort == "" {
			if token != "" {
				return nil, usageErrorf("%s is for --%s, which is not there", t.flag, t.name)
			}
			continue
		}
		u := &url.URL{Scheme: "http", Host: t.at.HostPort}
		if t.at.TLS {
			u.Scheme = "https"
		}
		health := "/healthz"
		if t.name == "verdict" {
			health = "/api/v1/comparisons"
		}
		add(t.name, "/darklaunch/"+t.name, u, token, health, t.paths...)
	}
	return all, nil
}

// authorities are those of --ca, with the system's; nil is the system's alone.
func (c *dashCommand) authorities() (*x509.CertPool, error) {
	if c.ca == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("read --ca: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usageErrorf("--ca: %s holds no certificate", c.ca)
	}
	return pool, nil
}

// board is the page at /, and how to sign in where a token is asked for.
func (c *dashCommand) board(s *service, l net.Listener, byTLS bool) (page http.Handler, signIn *board.SignIn, err error) {
	cfg := board.Config{Verdict: c.verdict.HostPort != "", SignOut: c.token != "", Scrape: c.interval}
	if c.mirror.HostPort != "" {
		cfg.Mirror = board.AllActions()
	}
	if c.token != "" {
		_, port, _ := net.SplitHostPort(l.Addr().String()) // it listens by TCP
		if signIn, err = board.NewSignIn(c.token, "darklaunch-"+port, byTLS, s.log); err != nil {
			return nil, nil, err
		}
	}
	page, err = board.New(cfg)
	return page, signIn, err
}
