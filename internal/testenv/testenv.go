// Package testenv starts real servers on free loopback ports for tests, and
// stops exactly what it started.
//
// A package whose tests use it says so once:
//
//	func TestMain(m *testing.M) { testenv.Main(m) }
//
// A test then asks for a server and finds it ready:
//
//	zk := testenv.ZooKeeper(t)
//	conn, events, err := zk.Connect([]string{zk.Addr}, time.Second)
//
// Servers that take no configuration start at a package's first request and
// serve all its tests. Those that a test configures (Nginx, HAProxy, Envoy, an
// ensemble) end with the test. HBase, which is slow to start, is
// internal/testenv/hbase.
//
// The directories are below os.TempDir and the processes die with the test
// binary, even when it is killed. When a test fails, the logs of its servers
// are printed. Tests that need servers are skipped under -short, and where a
// server is not installed; under CI=true a missing server is a failure.
//
// One goroutine of the package lives until Main ends, and one for each
// process that runs: a test that looks for leaked goroutines begins with
// goleak.IgnoreCurrent.
package testenv

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"darklaunch/internal/testenv/install"
	"darklaunch/internal/testenv/keeper"
	"darklaunch/internal/testenv/proc"
)

// env is what Main sets up. It is set before the tests run and not changed
// after; its maps are.
var env *environment

type environment struct {
	launcher *proc.Launcher

	mu     sync.Mutex
	shared map[string]*instance
	order  []io.Closer // started first is closed last
}

// An instance is started at most once; a failure is kept as well.
type instance struct {
	once  sync.Once
	value any
	err   error
}

// Main runs a package's tests, ends the servers that they shared, and exits.
func Main(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop, err := follow(os.Getenv(keeper.Socket))
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	defer stop()
	env = &environment{launcher: proc.NewLauncher(""), shared: map[string]*instance{}}
	defer env.launcher.Close()
	code := m.Run()
	for _, c := range slices.Backward(env.order) {
		if err := c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			code = max(code, 1)
		}
	}
	return code
}

// follow makes this process end with the runner that listens on socket, if there
// is one: between them is the go command, whose death nobody here would notice.
func follow(socket string) (stop func(), err error) {
	if socket == "" {
		return func() {}, nil
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach testenv run: %w", err)
	}
	var stopping atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = conn.Read(make([]byte, 1)) // nothing is ever sent
		if !stopping.Load() {
			fmt.Fprintln(os.Stderr, "testenv run is gone")
			os.Exit(1)
		}
	})
	return func() {
		stopping.Store(true)
		_ = conn.Close()
		wg.Wait()
	}, nil
}

// Launcher returns what starts processes in this test binary. It is for
// packages that add servers of their own.
func Launcher(t testing.TB) *proc.Launcher {
	t.Helper()
	return environmentOf(t).launcher
}

func environmentOf(t testing.TB) *environment {
	t.Helper()
	if env == nil {
		t.Fatal("testenv: the package needs func TestMain(m *testing.M) { testenv.Main(m) }")
	}
	return env
}

// Need ends a test that cannot run here: it is skipped under -short and where
// one of the tools is missing, and fails where CI=true. It returns where the
// tools are, in order.
func Need(t testing.TB, tools ...install.Tool) []string {
	t.Helper()
	if testing.Short() {
		t.Skipf("-short: needs %v", tools)
	}
	if runtime.GOOS != "linux" {
		t.Skipf("servers start on Linux only: needs %v", tools)
	}
	var paths []string
	for _, tool := range tools {
		path, err := install.Locate(tool)
		switch {
		case err != nil && os.Getenv("CI") == "true":
			t.Fatal(err)
		case err != nil:
			t.Skip(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// Shared returns the package's one value of that name. The first caller starts
// it; Main closes it after the tests. If start failed, it fails every caller.
func Shared[T io.Closer](t testing.TB, name string, start func(context.Context) (T, error)) T {
	t.Helper()
	e := environmentOf(t)
	e.mu.Lock()
	in := e.shared[name]
	if in == nil {
		in = &instance{}
		e.shared[name] = in
	}
	e.mu.Unlock()
	in.once.Do(func() {
		// Not the test's context: the value outlives the test.
		v, err := start(context.Background())
		in.value, in.err = v, err
		if err == nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.order = append(e.order, v)
		}
	})
	if in.err != nil {
		t.Fatalf("start %s: %v", name, in.err)
	}
	return in.value.(T)
}

// A Server is a test's hold on one server process. Its methods may be called
// from any goroutine of the test; a failure of theirs fails the test.
type Server struct {
	Addr string // host:port, the first one where there are several

	t     testing.TB
	p     *proc.Process
	addrs map[string]string
}

// AddrOf returns the address of the port that the configuration calls name.
func (s *Server) AddrOf(name string) string {
	addr, ok := s.addrs[name]
	if !ok {
		s.t.Errorf("the configuration of %s names no port %q", s.p.Name(), name)
	}
	return addr
}

// Pid returns the server's process id; a Restart changes it.
func (s *Server) Pid() int { return s.p.Pid() }

// Log returns what the server has written so far, at most its last n lines.
func (s *Server) Log(n int) string { return proc.Tail(s.p.Log(), n) }

// Kill ends the server with SIGKILL and returns when it is gone.
func (s *Server) Kill() { s.t.Helper(); s.check(s.p.Kill()) }

// Stop stops the server with SIGSTOP and returns when it is stopped.
func (s *Server) Stop() { s.t.Helper(); s.check(s.p.Stop()) }

// Continue lets a stopped server go on with SIGCONT.
func (s *Server) Continue() { s.t.Helper(); s.check(s.p.Continue()) }

// Restart starts the server again at the same address, ending it first where
// it runs, and returns when it is ready.
func (s *Server) Restart() { s.t.Helper(); s.check(s.p.Restart(s.t.Context())) }

func (s *Server) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

// shared returns a hold on the package's one server of that name. What the
// test killed or stopped is put right when the test ends.
func shared(t testing.TB, name string, start func(context.Context) (*proc.Group, error)) *proc.Group {
	t.Helper()
	g := Shared(t, name, start)
	if err := g.Died(); err != nil {
		t.Fatalf("an earlier test left %s broken: %v", name, err)
	}
	t.Cleanup(func() {
		logs(t, g)
		// The test's context has ended; Heal has deadlines of its own.
		if err := g.Heal(context.Background()); err != nil {
			t.Errorf("put %s right after the test: %v", name, err)
		}
	})
	return g
}

// own ends the group with the test.
func own(t testing.TB, g *proc.Group, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		logs(t, g)
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
}

func logs(t testing.TB, g *proc.Group) {
	if !t.Failed() {
		return
	}
	for _, p := range g.Processes {
		t.Logf("the last lines of %s:\n%s", p.Name(), proc.Tail(p.Log(), 50))
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
