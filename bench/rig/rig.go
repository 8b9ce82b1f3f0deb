// Package rig starts the proxies that are compared, each configured for the same
// job, and builds or installs the programs that the comparisons run.
package rig

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"darklaunch/internal/testenv"
	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/proc"
)

// A Server is a proxy, or another program, that runs until the test ends.
type Server struct {
	Addr  string // where clients go
	Admin string // where this module's programs have their admin listener
	Pid   int
	Stop  func() // ends it earlier
}

func of(s *testenv.Server) *Server {
	return &Server{Addr: s.Addr, Pid: s.Pid(), Stop: s.Kill}
}

// A Job is what a proxy does.
type Job struct {
	GRPC   bool   // HTTP/2 without TLS on all sides, else HTTP/1.1
	Live   string // host:port
	Shadow string // host:port, or https://host:port; "" is no mirroring
	// Percent of the requests, or users, are copied.
	Percent int
	// Tuned bounds the copies as an operator would who knows the defaults' faults,
	// where the proxy can.
	Tuned bool
}

func (j Job) shadow() (addr string, tls bool) { return strings.CutPrefix(j.Shadow, "https://") }

// Nginx starts nginx with two workers, kept connections, and mirror.
func Nginx(t testing.TB, j Job) *Server {
	t.Helper()
	return of(testenv.Nginx(t, nginxConfig(j)))
}

func nginxConfig(j Job) string {
	addr, tls := j.shadow()
	listen, pass, scheme := "", "proxy_pass http://", "proxy_pass http://"
	if tls {
		scheme = "proxy_pass https://"
	}
	hop := `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;`
	if j.GRPC {
		listen, hop = " http2", ""
		pass, scheme = "grpc_pass grpc://", "grpc_pass grpc://"
		if tls {
			scheme = "grpc_pass grpcs://"
		}
	}
	var upstream, split, mirror, location string
	if j.Shadow != "" {
		upstream = "upstream shadow { server " + addr + "; keepalive 256; keepalive_requests 100000000; }\n"
		mirror = "mirror /nginx.Mirror/Copy;"
		uri := "$request_uri"
		if j.GRPC {
			uri = "" // grpc_pass takes none: the shadow sees the path of the copy
		}
		decide := ""
		if j.Percent < 100 {
			split = fmt.Sprintf("split_clients \"$request_id\" $copied { %d%% 1; * \"\"; }\n", j.Percent)
			decide = `if ($copied = "") { return 204; } `
		}
		location = "location = /nginx.Mirror/Copy { internal; " + decide + hop + scheme + "shadow" + uri + "; }\n"
	}
	return `
worker_processes 2;
events { worker_connections 16000; }
http {
  access_log off;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_temp_path {{dir}}/body; proxy_temp_path {{dir}}/proxy; fastcgi_temp_path {{dir}}/fastcgi;
  uwsgi_temp_path {{dir}}/uwsgi; scgi_temp_path {{dir}}/scgi;
  upstream live { server ` + j.Live + `; keepalive 256; keepalive_requests 100000000; }
  ` + upstream + split + `
  server {
    listen {{addr "main"}}` + listen + ` backlog=4096;
    location / { ` + mirror + hop + pass + `live; }
    ` + location + `
  }
}
`
}

// HAProxy starts HAProxy with two threads; it has no mirroring of its own.
func HAProxy(t testing.TB, j Job) *Server {
	t.Helper()
	proto := ""
	if j.GRPC {
		proto = " proto h2"
	}
	return of(testenv.HAProxy(t, `
global
  nbthread 2
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend main
  bind {{addr "main"}}`+proto+`
  default_backend live
backend live
  server s `+j.Live+proto+`
`))
}

// Envoy starts Envoy with request_mirror_policies, with as many workers as there
// are cores.
func Envoy(t testing.TB, j Job) *Server {
	t.Helper()
	return of(testenv.Envoy(t, envoyConfig(j)))
}

func envoyConfig(j Job) string {
	addr, tls := j.shadow()
	codec, options := "HTTP1", "http_protocol_options: {enable_trailers: true}"
	if j.GRPC {
		codec, options = "HTTP2", "http2_protocol_options: {}"
	}
	mirror, shadow := "", ""
	if j.Shadow != "" {
		mirror = fmt.Sprintf(`
                  request_mirror_policies:
                  - cluster: shadow
                    runtime_fraction: {default_value: {numerator: %d, denominator: HUNDRED}, runtime_key: mirror.fraction}`, j.Percent)
		limits, common := "", ""
		if j.Tuned {
			limits = `
    circuit_breakers: {thresholds: [{priority: DEFAULT, max_connections: 64, max_pending_requests: 128, max_requests: 256}]}`
			common = "common_http_protocol_options: {max_stream_duration: 1s}"
		}
		if tls {
			limits += `
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}`
		}
		shadow = envoyCluster("shadow", addr, options, common, limits)
	}
	trailers := ""
	if !j.GRPC {
		trailers = `
          http_protocol_options: {enable_trailers: true}`
	}
	return `
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 127.0.0.1, port_value: {{port "main"}} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: ` + codec + trailers + `
          route_config:
            name: r
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: "/"}
                route:
                  cluster: live
                  timeout: 60s` + mirror + `
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:` + envoyCluster("live", j.Live, options, "", "") + shadow + "\n"
}

func envoyCluster(name, addr, options, common, more string) string {
	host, port, _ := strings.Cut(addr, ":")
	timeout := "5s"
	if common != "" {
		timeout = "0.25s"
	}
	return fmt.Sprintf(`
  - name: %s
    type: STATIC
    connect_timeout: %s
    load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {%s}
        %s%s`, name, timeout, name, host, port, options, common, more)
}

// A Ledger is a mirror's account of its copies to the shadow.
type Ledger struct{ Offered, Sent, Dropped, Pending float64 }

// MirrorLedger reads the account of this program's mirror at its admin address.
func MirrorLedger(admin string) (Ledger, error) {
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		return Ledger{}, err
	}
	defer resp.Body.Close()
	return parseLedger(resp.Body)
}

func parseLedger(r io.Reader) (Ledger, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return Ledger{}, fmt.Errorf("metrics of the mirror: %w", err)
	}
	sum := func(name string) (x float64) {
		for _, m := range families[name].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "role" && l.GetValue() == "shadow" {
					x += m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
		return x
	}
	if families["mirror_copies_offered_total"] == nil {
		return Ledger{}, errors.New("metrics of the mirror: no mirror_copies_offered_total")
	}
	return Ledger{
		Offered: sum("mirror_copies_offered_total"), Sent: sum("mirror_copies_sent_total"),
		Dropped: sum("mirror_copies_dropped_total"), Pending: sum("mirror_copies_pending"),
	}, nil
}

// ErrNotThere says that this program does not have a command yet.
var ErrNotThere = errors.New("not there")

// Darklaunch builds the program and returns its path, or ErrNotThere if it has
// no such command. Where the environment's DARKLAUNCH is set, that program is
// taken: another build of it can be measured without changing this tree.
func Darklaunch(t testing.TB, command string) (string, error) {
	t.Helper()
	program := os.Getenv("DARKLAUNCH")
	if program == "" {
		program = Build(t, "darklaunch/cmd/darklaunch")
	}
	help, err := exec.CommandContext(t.Context(), program, command, "--help").CombinedOutput()
	if err != nil || !bytes.Contains(help, []byte("darklaunch "+command+" ")) {
		return "", fmt.Errorf("darklaunch %s: %w", command, ErrNotThere)
	}
	return program, nil
}

// Mirror starts this program's mirror, with pairs where file is given. It is
// ErrNotThere while the program has no such command.
func Mirror(t testing.TB, j Job, pairs string) (*Server, error) {
	t.Helper()
	program, err := Darklaunch(t, "mirror")
	if err != nil {
		return nil, err
	}
	args := []string{"mirror", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--live", j.Live,
		"--key", "header:X-User", "--missing-key", "random"}
	if j.Shadow != "" {
		args = append(args, "--shadow", j.Shadow, "--sample", fmt.Sprintf("%d%%", j.Percent), "--mirror-unsafe")
	}
	if pairs != "" {
		args = append(args, "--pairs", pairs)
	}
	return Start(t, program, args...)
}

// Start starts a program of this module that says where it listens by lines
// "ready NAME ADDRESS", the admin listener's called admin.
func Start(t testing.TB, program string, args ...string) (*Server, error) {
	t.Helper()
	g := &proc.Group{Name: filepath.Base(program)}
	l := testenv.Launcher(t)
	s := &Server{}
	_, err := l.Build(t.Context(), g, func() error {
		log := filepath.Join(g.Dir, "log")
		p, err := l.Spawn(proc.Spec{
			Name: g.Name, Path: program, Args: args, Dir: g.Dir, Log: log,
			Ready: func(context.Context) error { return s.read(log, slices.Contains(args, "--admin")) },
		})
		if err == nil {
			g.Processes = []*proc.Process{p}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Pid = g.Processes[0].Pid()
	s.Stop = func() {
		if err := g.Processes[0].Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last lines of %s:\n%s", g.Name, proc.Tail(g.Processes[0].Log(), 30))
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, nil
}

// read finds the addresses in what the program printed.
func (s *Server) read(log string, admin bool) error {
	b, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) != 3 || f[0] != "ready":
		case f[1] == "admin":
			s.Admin = f[2]
		case s.Addr == "":
			s.Addr = f[2]
		}
	}
	if s.Addr == "" || admin && s.Admin == "" {
		return errors.New("it has not said yet where it listens")
	}
	return nil
}

// Build builds a program of this module and returns its path.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	program := testenv.Shared(t, "build "+pkg, func(ctx context.Context) (*built, error) {
		dir, err := os.MkdirTemp("", "rig-")
		if err != nil {
			return nil, err
		}
		b := &built{path: filepath.Join(dir, path.Base(pkg)), dir: dir}
		out, err := exec.CommandContext(ctx, "go", "build", "-o", b.path, pkg).CombinedOutput()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("go build %s: %w\n%s", pkg, err, out), b.Close())
		}
		return b, nil
	})
	return program.path
}

type built struct{ path, dir string }

func (b *built) Close() error { return os.RemoveAll(b.dir) }

// GoTool installs a program from the module proxy, at a version, into the cache
// directory where it is not there yet, and returns its path. An error says why
// it cannot be had.
func GoTool(t testing.TB, pkg, version string) (string, error) {
	t.Helper()
	cache, err := install.CacheDir()
	if err != nil {
		return "", err
	}
	name := path.Base(pkg)
	dir := filepath.Join(cache, name+"-"+version)
	program := filepath.Join(dir, name)
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "install", pkg+"@"+version)
	cmd.Dir = os.TempDir() // outside this module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s@%s: %w\n%s", pkg, version, err, lastLines(out, 3))
	}
	return program, nil
}

func lastLines(b []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}
