package zookeeper_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"go.uber.org/goleak"

	"darklaunch/appserver/cell"
	"darklaunch/appserver/cell/celltest"
	"darklaunch/appserver/cell/zookeeper"
	"darklaunch/appserver/ring"
	"darklaunch/internal/faultnet"
	"darklaunch/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// timeout of sessions in these tests.
const timeout = celltest.Timeout

// place is a cell of its own in an ensemble.
type place struct{ cfg zookeeper.Config }

func newPlace(t *testing.T, servers ...string) place {
	t.Helper()
	p := place{zookeeper.Config{Servers: servers, Prefix: "/" + rand.Text(), Cell: "one", Timeout: timeout}}
	if made, err := zookeeper.Init(t.Context(), p.cfg); err != nil || !made {
		t.Fatalf("init made nodes: %v, %v", made, err)
	}
	if made, err := zookeeper.Init(t.Context(), p.cfg); err != nil || made {
		t.Fatalf("init made nodes again: %v, %v", made, err)
	}
	return p
}

// Client connects by a proxy for each server. A cut swallows what is sent both ways,
// which a session asserts to have happened.
func (p place) Client(t *testing.T) (c cell.Coordinator, cut, mend func()) {
	t.Helper()
	cfg := p.cfg
	cfg.Servers = nil
	var proxies []*faultnet.Proxy
	for _, server := range p.cfg.Servers {
		proxy, err := faultnet.Listen(server)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := proxy.Close(); err != nil {
				t.Error(err)
			}
		})
		proxies = append(proxies, proxy)
		cfg.Servers = append(cfg.Servers, proxy.Addr())
	}
	wasCut := false
	cut = func() {
		wasCut = true
		for _, proxy := range proxies {
			proxy.Set(faultnet.ToTarget, faultnet.Faults{Swallow: true})
			proxy.Set(faultnet.ToClient, faultnet.Faults{Swallow: true})
		}
	}
	mend = func() {
		lost := int64(0)
		for _, proxy := range proxies {
			lost += proxy.Count(faultnet.Swallowed)
			proxy.Set(faultnet.ToTarget, faultnet.Faults{})
			proxy.Set(faultnet.ToClient, faultnet.Faults{})
			proxy.Cut() // their streams have gaps
		}
		if wasCut && lost == 0 {
			t.Error("a link was cut, and nothing was lost on it")
		}
	}
	return zookeeper.New(cfg), cut, mend
}

func (p place) SetConfig(t *testing.T, b []byte) {
	t.Helper()
	if err := zookeeper.SetConfig(t.Context(), p.cfg, b); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	server := testenv.ZooKeeper(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	celltest.Run(t, func(t *testing.T) celltest.Place { return newPlace(t, server.Addr) })
}

func TestEnsemble(t *testing.T) {
	servers := testenv.ZooKeeperEnsemble(t)
	var addrs []string
	for _, s := range servers {
		addrs = append(addrs, s.Addr)
	}
	t.Run("conformance", func(t *testing.T) {
		defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
		celltest.Run(t, func(t *testing.T) celltest.Place { return newPlace(t, addrs...) })
	})
	t.Run("killed", func(t *testing.T) { serversKilled(t, newPlace(t, addrs...), servers) })
}

// member runs a member until the test ends.
func member(t *testing.T, c cell.Coordinator, name string) *cell.Cell {
	t.Helper()
	n, err := cell.New(c, cell.Options{Name: "one", Tick: 100 * time.Millisecond, Member: &ring.Member{Name: name, Addr: "127.0.0.1:" + name}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return n
}

// await waits until a condition holds.
func await(t *testing.T, what string, n *cell.Cell, ok func() bool) {
	t.Helper()
	late := time.After(time.Minute)
	for !ok() {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("waited for %s; there is %+v", what, n.Status())
		}
	}
}

// serversKilled kills and stops servers of an ensemble one after the other: nobody
// loses its session, and members go on joining.
func serversKilled(t *testing.T, p place, servers []*testenv.Server) {
	p.cfg.Timeout = 10 * time.Second // the election's time in it
	nodes := []*cell.Cell{member(t, zookeeper.New(p.cfg), "1"), member(t, zookeeper.New(p.cfg), "2")}
	for i, s := range servers {
		for _, n := range nodes {
			await(t, "readiness", n, func() bool { return n.Ready() == nil && n.View().Ring.Len() == 2 })
		}
		before := nodes[0].View().At
		if i == 1 {
			s.Stop()
		} else {
			s.Kill()
		}
		third := zookeeper.New(p.cfg)
		session, err := third.Open(t.Context())
		for err != nil { // by chance it may ask the stopped server first
			session, err = third.Open(t.Context())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		for err = errors.New("not yet"); err != nil && ctx.Err() == nil; {
			err = session.Register(ctx, "3", []byte(`{"addr":"h:3"}`))
		}
		cancel()
		if err != nil {
			t.Fatalf("with server %d down nobody joins: %v", i, err)
		}
		for _, n := range nodes {
			await(t, "the third member", n, func() bool { return n.View().Ring.Len() == 3 })
			if d := n.View().At.Compare(before); d <= 0 {
				t.Errorf("with server %d down the number fell", i)
			}
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		if i == 1 {
			s.Continue()
		} else {
			s.Restart()
		}
	}
}

// connect is a connection of a stranger's, until the test ends.
func connect(t *testing.T, addr string) *zk.Conn {
	t.Helper()
	raw, events, err := zk.Connect([]string{addr}, timeout, zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		raw.Close()
		for range events {
		}
	})
	return raw
}

// TestSetUpAgain deletes a cell and sets it up again, as after the loss of an ensemble:
// who was there says what is missing, serves from what it knows, and is a member of
// the new one, which is newer.
func TestSetUpAgain(t *testing.T) {
	server := testenv.ZooKeeper(t)
	p := newPlace(t, server.Addr)
	n := member(t, zookeeper.New(p.cfg), "1")
	await(t, "readiness", n, func() bool { return n.Ready() == nil })
	before := n.View().At
	raw := connect(t, server.Addr)
	root := p.cfg.Prefix + "/cells/one/"
	for node := range strings.FieldsSeq("incarnation members/1 members") {
		for err := errors.New("not yet"); err != nil; { // the member puts itself back
			if err = raw.Delete(root+node, -1); errors.Is(err, zk.ErrNotEmpty) {
				_ = raw.Delete(root+"members/1", -1)
			} else if errors.Is(err, zk.ErrNoNode) {
				break
			}
		}
	}
	await(t, "the complaint", n, func() bool {
		err := n.Ready()
		return err != nil && strings.Contains(err.Error(), "appserver init")
	})
	if v := n.View(); v.Ring.Len() != 1 || v.Trusted {
		t.Errorf("without its nodes the cell is seen as %+v", n.Status())
	}
	if _, err := zookeeper.Init(t.Context(), p.cfg); err != nil {
		t.Fatal(err)
	}
	await(t, "readiness", n, func() bool { return n.Ready() == nil })
	if after := n.View().At; after.Incarnation <= before.Incarnation {
		t.Errorf("the new cell is at %v, the old one was at %v", after, before)
	}
}

// TestNodeDeleted deletes a member's node under it: it comes back by itself.
func TestNodeDeleted(t *testing.T) {
	server := testenv.ZooKeeper(t)
	p := newPlace(t, server.Addr)
	n := member(t, zookeeper.New(p.cfg), "1")
	await(t, "readiness", n, func() bool { return n.Ready() == nil })
	before := n.View().At
	raw := connect(t, server.Addr)
	if err := raw.Delete(p.cfg.Prefix+"/cells/one/members/1", -1); err != nil {
		t.Fatal(err)
	}
	await(t, "its return", n, func() bool { return n.View().At.Compare(before) > 0 && n.Ready() == nil })
}

// TestRemove takes cells away: nodes above them go with the last, and what is another's
// stays.
func TestRemove(t *testing.T) {
	server := testenv.ZooKeeper(t)
	p := newPlace(t, server.Addr)
	raw := connect(t, server.Addr)
	other := p.cfg
	other.Cell = "two"
	if _, err := zookeeper.Init(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Create(p.cfg.Prefix+"/cells/one/members/left", nil, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		remove zookeeper.Config
		there  string
	}{{p.cfg, p.cfg.Prefix + "/cells/two/members"}, {other, "/"}, {other, "/"}} {
		if err := zookeeper.Remove(t.Context(), step.remove); err != nil {
			t.Fatal(err)
		}
		if is, _, err := raw.Exists(step.there); err != nil || !is {
			t.Errorf("after %s is gone: %s is there: %v, %v", step.remove.Cell, step.there, is, err)
		}
		if is, _, err := raw.Exists(p.cfg.Prefix + "/cells/" + step.remove.Cell); err != nil || is {
			t.Errorf("%s is there still: %v, %v", step.remove.Cell, is, err)
		}
	}
	if is, _, err := raw.Exists(p.cfg.Prefix); err != nil || is {
		t.Errorf("%s is there still: %v, %v", p.cfg.Prefix, is, err)
	}
}

// TestAgreedTimeout: what counts is the timeout that the ensemble keeps sessions for.
func TestAgreedTimeout(t *testing.T) {
	server := testenv.ZooKeeper(t)
	p := newPlace(t, server.Addr)
	p.cfg.Timeout = time.Hour // far above what it gives
	s, err := zookeeper.New(p.cfg).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// 20 ticks of 200ms, ZooKeeper's default most.
	if got := s.Timeout(); got != 4*time.Second {
		t.Errorf("the session's timeout is %v, want 4s", got)
	}
}

// TestNobodyThere: who cannot reach a server says so.
func TestNobodyThere(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	proxy, err := faultnet.Listen("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	proxy.SetDoor(faultnet.RefuseNew)
	c := zookeeper.New(zookeeper.Config{Servers: []string{proxy.Addr()}, Cell: "one", Timeout: 500 * time.Millisecond})
	_, err = c.Open(t.Context())
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want that the connection was refused", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Open(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was called off", err)
	}
}
