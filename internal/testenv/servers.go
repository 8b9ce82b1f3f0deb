package testenv

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/proc"
)

// Memcached returns the package's memcached, with 64 MiB. It starts empty;
// tests keep to keys of their own.
func Memcached(t testing.TB) *Server {
	t.Helper()
	tools := Need(t, install.Memcached)
	g := shared(t, "memcached", func(ctx context.Context) (*proc.Group, error) {
		return memcached(ctx, env.launcher, tools[0])
	})
	return &Server{t: t, p: g.Processes[0], Addr: g.Processes[0].Addr()}
}

func memcached(ctx context.Context, l *proc.Launcher, program string) (*proc.Group, error) {
	return proc.Retry(1, func(ports []int) (*proc.Group, error) {
		addr := loopback(ports[0])
		return single(ctx, l, "memcached", func(dir string) (proc.Spec, error) {
			// It refuses to be root unasked. To become another user would lose
			// the parent-death signal, so it stays who it is.
			self, err := user.Current()
			if err != nil {
				return proc.Spec{}, err
			}
			return proc.Spec{
				Addr:  addr,
				Ports: ports,
				Path:  program,
				Args:  []string{"-u", self.Username, "-l", "127.0.0.1", "-p", strconv.Itoa(ports[0]), "-U", "0", "-m", "64", "-v"},
				End:   syscall.SIGKILL, // it has nothing to save, and takes a second to say so
				Ready: func(ctx context.Context) error {
					answer, err := ask(ctx, addr, "version\r\n")
					if err == nil && !strings.HasPrefix(answer, "VERSION ") {
						err = fmt.Errorf("memcached answers %q", answer)
					}
					return err
				},
			}, nil
		})
	})
}

// Nginx starts nginx for the test with a configuration in which ports are
// named: {{addr "NAME"}} is 127.0.0.1 and a free port, {{port "NAME"}} the port
// alone, and {{dir}} the server's directory, to which relative paths refer.
// The text sets no daemon, pid, user or error_log: nginx stays in the
// foreground, is the test's user and logs to the test. It does set access_log,
// and client_body_temp_path where bodies are large: nginx puts both in the
// system's places, which only root may write. It is ready when it listens;
// nothing is sent, as it would reach the backends behind.
func Nginx(t testing.TB, config string) *Server {
	t.Helper()
	program := Need(t, install.Nginx)[0]
	return configured(t, "nginx", "nginx.conf", config, func(dir string, addrs map[string]string) proc.Spec {
		global := "daemon off; pid nginx.pid; error_log stderr;"
		if os.Geteuid() == 0 {
			global += " user root root;" // else its workers cannot read {{dir}}
		}
		return proc.Spec{
			Path: program,
			Args: []string{"-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr", "-g", global},
			// Its workers do not notice that their master is gone.
			Death: syscall.SIGTERM,
		}
	})
}

// HAProxy starts HAProxy for the test, with names for ports as in Nginx. The
// text sets no user, group or daemon.
func HAProxy(t testing.TB, config string) *Server {
	t.Helper()
	program := Need(t, install.HAProxy)[0]
	return configured(t, "haproxy", "haproxy.conf", config, func(dir string, addrs map[string]string) proc.Spec {
		return proc.Spec{
			Path: program,
			Args: []string{"-db", "-f", filepath.Join(dir, "haproxy.conf")},
		}
	})
}

// Envoy starts Envoy for the test, with names for ports as in Nginx. The text
// is YAML and has no admin section: that is added, and is AddrOf("admin").
func Envoy(t testing.TB, config string) *Server {
	t.Helper()
	program := Need(t, install.Envoy)[0]
	config += "\n" + `admin: {address: {socket_address: {address: 127.0.0.1, port_value: {{port "admin"}} }}}` + "\n"
	return configured(t, "envoy", "envoy.yaml", config, func(dir string, addrs map[string]string) proc.Spec {
		return proc.Spec{
			Path:  program,
			Args:  []string{"-c", filepath.Join(dir, "envoy.yaml"), "--disable-hot-restart", "-l", "warn"},
			Ready: func(ctx context.Context) error { return answers(ctx, "http://"+addrs["admin"]+"/ready") },
		}
	})
}

// Prometheus starts Prometheus for the test on the samples in data, which it takes
// as its own, with a configuration that names the port "http". It keeps what it
// finds for a century.
func Prometheus(t testing.TB, data, config string) *Server {
	t.Helper()
	program := Need(t, install.Prometheus)[0]
	return configured(t, "prometheus", "prometheus.yml", "# {{addr \"http\"}}\n"+config, func(dir string, addrs map[string]string) proc.Spec {
		return proc.Spec{
			Path: program,
			Args: []string{"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + data,
				"--storage.tsdb.retention.time=100y", "--web.listen-address=" + addrs["http"]},
			Ready: func(ctx context.Context) error { return answers(ctx, "http://"+addrs["http"]+"/-/ready") },
		}
	})
}

// configured starts the server that spec describes, its configuration in file,
// with a free port for each name in the text.
func configured(t testing.TB, name, file, config string, spec func(dir string, addrs map[string]string) proc.Spec) *Server {
	t.Helper()
	l := Launcher(t)
	names, err := portNames(config)
	if err != nil {
		t.Fatalf("configuration of %s: %v", name, err)
	}
	var addrs map[string]string
	g, err := proc.Retry(len(names), func(ports []int) (*proc.Group, error) {
		addrs = map[string]string{}
		for i, n := range names {
			addrs[n] = loopback(ports[i])
		}
		return single(t.Context(), l, name, func(dir string) (proc.Spec, error) {
			text, err := fill(config, dir, func(name string) int { return ports[slices.Index(names, name)] })
			if err != nil {
				return proc.Spec{}, err
			}
			s := spec(dir, addrs)
			s.Addr, s.Ports = addrs[names[0]], ports
			return s, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644)
		})
	})
	own(t, g, err)
	return &Server{t: t, p: g.Processes[0], Addr: g.Processes[0].Addr(), addrs: addrs}
}

// fill executes a configuration, asking port for the number of each name.
func fill(config, dir string, port func(name string) int) (string, error) {
	tmpl, err := template.New("configuration").Funcs(template.FuncMap{
		"dir":  func() string { return dir },
		"port": port,
		"addr": func(name string) string { return loopback(port(name)) },
	}).Parse(config)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	err = tmpl.Execute(&text, nil)
	return text.String(), err
}

// portNames lists the names of a configuration's ports in their order.
func portNames(config string) ([]string, error) {
	var names []string
	_, err := fill(config, "", func(name string) int {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return 0
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf(`it names no port: write {{addr "NAME"}} where it listens`)
	}
	return names, err
}

// single starts a server of one process in a directory of its own.
func single(ctx context.Context, l *proc.Launcher, name string, spec func(dir string) (proc.Spec, error)) (*proc.Group, error) {
	g := &proc.Group{Name: name}
	return l.Build(ctx, g, func() error {
		s, err := spec(g.Dir)
		if err != nil {
			return err
		}
		s.Name, s.Dir, s.Log = name, g.Dir, filepath.Join(g.Dir, name+".log")
		p, err := l.Spawn(s)
		if err != nil {
			return err
		}
		g.Processes = []*proc.Process{p}
		return nil
	})
}

// Chromium returns the package's headless browser. A test connects to it and
// opens its pages in a browser context of its own, which shares nothing with
// other tests':
//
//	ctx, cancel := remote.NewAllocator(t.Context(), "http://"+browser.Addr)
//	defer cancel()
//	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithNewBrowserContext())
//	defer cancel()
func Chromium(t testing.TB) *Server {
	t.Helper()
	program := Need(t, install.Chromium)[0]
	g := shared(t, "chromium", func(ctx context.Context) (*proc.Group, error) {
		return chromium(ctx, env.launcher, program)
	})
	return &Server{t: t, p: g.Processes[0], Addr: g.Processes[0].Addr()}
}

func chromium(ctx context.Context, l *proc.Launcher, program string) (*proc.Group, error) {
	return proc.Retry(1, func(ports []int) (*proc.Group, error) {
		addr := loopback(ports[0])
		return single(ctx, l, "chromium", func(dir string) (proc.Spec, error) {
			return proc.Spec{
				Addr:  addr,
				Ports: ports,
				Path:  program,
				Args: []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
					"--disable-background-networking", "--disable-component-update", "--disable-sync",
					"--disable-crash-reporter", "--disable-breakpad", "--disable-dev-shm-usage",
					"--user-data-dir=" + filepath.Join(dir, "profile"),
					"--remote-debugging-port=" + strconv.Itoa(ports[0]), "about:blank"},
				// Relative to dir, as the path of a socket in it is limited to 107 bytes.
				Env:   []string{"TMPDIR=.", "HOME=" + dir, "XDG_CACHE_HOME=" + dir, "XDG_CONFIG_HOME=" + dir},
				Ready: func(ctx context.Context) error { return answers(ctx, "http://"+addr+"/json/version") },
			}, nil
		})
	})
}

// answers asks for a page once and wants status 200.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true // no connection stays open, none is kept by a goroutine
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}

// Wrk runs the HTTP/1.1 load generator wrk to its end and returns what it
// printed.
func Wrk(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, install.Wrk, args)
}

// H2load runs the HTTP/2 load generator h2load to its end and returns what it
// printed.
func H2load(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, install.H2load, args)
}

func output(t testing.TB, tool install.Tool, args []string) string {
	t.Helper()
	program := Need(t, tool)[0]
	out, err := Launcher(t).Output(t.Context(), program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
	return string(out)
}
