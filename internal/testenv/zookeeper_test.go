package testenv_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"darklaunch/internal/testenv"
)

// quiet keeps the client's log out of the test's.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

func connect(t *testing.T, timeout time.Duration, addrs ...string) (*zk.Conn, <-chan zk.Event) {
	t.Helper()
	conn, events, err := zk.Connect(addrs, timeout, zk.WithLogger(quiet{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	await(t, events, func(e zk.Event) bool { return e.State == zk.StateHasSession })
	return conn, events
}

// await returns the first event that is wanted.
func await(t *testing.T, events <-chan zk.Event, want func(zk.Event) bool) zk.Event {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the connection was closed while an event was awaited")
			}
			if want(e) {
				return e
			}
		case <-deadline:
			t.Fatal("no such event within 20s")
		}
	}
}

func TestZooKeeperWatch(t *testing.T) {
	start := time.Now()
	srv := testenv.ZooKeeper(t)
	took(t, "zookeeper ready", start, 5*time.Second)
	conn, _ := connect(t, 10*time.Second, srv.Addr)
	other, _ := connect(t, 10*time.Second, srv.Addr)
	path := "/" + t.Name()
	exists, _, watch, err := conn.ExistsW(path)
	if err != nil {
		t.Fatal(err)
	}
	if exists {
		t.Fatalf("%s exists before it is created", path)
	}
	if _, err := other.Create(path, []byte("v"), 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the server outlives the test, and may see it again
		if err := other.Delete(path, -1); err != nil {
			t.Error(err)
		}
	})
	if e := await(t, watch, func(zk.Event) bool { return true }); e.Type != zk.EventNodeCreated || e.Path != path {
		t.Errorf("the watch fired with %v of %q, want EventNodeCreated of %q", e.Type, e.Path, path)
	}
}

// TestZooKeeperSessionExpiry cuts a client off for longer than its session: the
// others see its ephemeral node go, and it learns of it when it is back.
func TestZooKeeperSessionExpiry(t *testing.T) {
	srv := testenv.ZooKeeper(t)
	observer, _ := connect(t, 20*time.Second, srv.Addr)
	var line line
	// Long enough not to end by itself on a machine that is busy with other things.
	const session = 4 * time.Second
	member, events, err := zk.Connect([]string{srv.Addr}, session, zk.WithLogger(quiet{}), zk.WithDialer(line.dial))
	if err != nil {
		t.Fatal(err)
	}
	defer member.Close()
	await(t, events, func(e zk.Event) bool { return e.State == zk.StateHasSession })
	path := "/" + t.Name()
	if _, err := member.Create(path, nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	exists, _, gone, err := observer.ExistsW(path)
	if err != nil || !exists {
		t.Fatalf("exists=%v, %v; want true", exists, err)
	}
	line.cut()
	start := time.Now()
	if e := await(t, gone, func(zk.Event) bool { return true }); e.Type != zk.EventNodeDeleted {
		t.Errorf("the watch fired with %v, want EventNodeDeleted", e.Type)
	}
	t.Logf("the node went %v after the cut (session: %v)", time.Since(start).Round(time.Millisecond), session)
	line.mend()
	await(t, events, func(e zk.Event) bool { return e.State == zk.StateExpired })
}

// A line carries a client's connections until it is cut.
type line struct {
	mu     sync.Mutex
	broken bool
	conns  []net.Conn
}

func (l *line) dial(network, addr string, timeout time.Duration) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken {
		return nil, errors.New("the line is cut")
	}
	conn, err := net.DialTimeout(network, addr, timeout)
	if err == nil {
		l.conns = append(l.conns, conn)
	}
	return conn, err
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = true
	for _, c := range l.conns {
		c.Close()
	}
}

func (l *line) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = false
}

// TestZooKeeperEnsemble kills the leader of three: the rest serve, and it comes
// back to what it missed.
func TestZooKeeperEnsemble(t *testing.T) {
	start := time.Now()
	servers := testenv.ZooKeeperEnsemble(t)
	took(t, "ensemble ready", start, 10*time.Second)
	var addrs []string
	leader := -1
	for i, s := range servers {
		addrs = append(addrs, s.Addr)
		if leads(t, s.Addr) {
			leader = i
		}
	}
	if leader < 0 {
		t.Fatal("no server leads")
	}
	conn, _ := connect(t, 10*time.Second, addrs...)
	servers[leader].Kill()
	path := "/" + t.Name()
	create(t, conn, path)
	servers[leader].Restart()
	alone, _ := connect(t, 10*time.Second, servers[leader].Addr)
	if _, err := alone.Sync(path); err != nil {
		t.Fatal(err)
	}
	if exists, _, err := alone.Exists(path); err != nil || !exists {
		t.Errorf("after its restart the old leader says exists=%v, %v; want true", exists, err)
	}
}

func leads(t *testing.T, addr string) bool {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(answer), "Mode: leader")
}

// create tries again while the ensemble elects: the client gives up at once
// when its connection breaks.
func create(t *testing.T, conn *zk.Conn, path string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		_, err := conn.Create(path, []byte("v"), 0, zk.WorldACL(zk.PermAll))
		if err == nil || err == zk.ErrNodeExists { // its own earlier try
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no create within 30s of the leader's death: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestServerLog(t *testing.T) {
	if log := testenv.ZooKeeper(t).Log(1000); strings.Contains(log, "StaticLoggerBinder") {
		t.Errorf("ZooKeeper runs without a log:\n%s", log)
	}
}
