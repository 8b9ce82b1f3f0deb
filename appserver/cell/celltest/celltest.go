// Package celltest is the one suite of package cell for all coordinators.
package celltest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"darklaunch/appserver/cell"
	"darklaunch/appserver/ring"
)

// Place is a cell in a coordinator, made for one test and empty.
type Place interface {
	// Client returns a coordinator with a connection of its own, and what cuts that so
	// that nothing passes and nobody is told, and mends it.
	Client(t *testing.T) (c cell.Coordinator, cut, mend func())
	// SetConfig writes a live configuration, of whatever bytes.
	SetConfig(t *testing.T, b []byte)
}

// tick of the members in the suite; sessions are of at least eight of them.
const tick = 50 * time.Millisecond

// patience is how long what must happen may take on a busy machine.
const patience = time.Minute

// Timeout is what sessions of places should have: a machine that is busy with other
// tests must not take so long for anything.
const Timeout = 4 * time.Second

// Run runs the suite, its tests at the same time.
func Run(t *testing.T, newPlace func(*testing.T) Place) {
	tests := map[string]func(*testing.T, Place){
		"JoinAndLeave": joinAndLeave,
		"Expiry":       expiry,
		"OneName":      oneName,
		"Garbage":      garbage,
		"Config":       config,
		"Down":         down,
	}
	t.Run("suite", func(t *testing.T) { // which ends when all of them have
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newPlace(t))
			})
		}
	})
}

// A node is a cell that runs.
type node struct {
	*cell.Cell
	cut, mend func()
	stop      func() // ends Run and waits for it
}

// start runs a cell until the test ends; a name makes it a member.
func start(t *testing.T, p Place, name string) *node { return startAt(t, p, name, "127.0.0.1:"+name) }

func startAt(t *testing.T, p Place, name, addr string) *node {
	t.Helper()
	n := &node{}
	var c cell.Coordinator
	c, n.cut, n.mend = p.Client(t)
	o := cell.Options{Name: "test", Tick: tick, ReadEvery: time.Second}
	if name != "" {
		o.Member = &ring.Member{Name: name, Addr: addr, Build: "b", Zone: "z", Weight: 2}
	}
	var err error
	if n.Cell, err = cell.New(c, o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Run(ctx); err != nil {
			t.Errorf("run of %s: %v", name, err)
		}
	})
	n.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(n.stop)
	return n
}

func names(v cell.View) string {
	var s []string
	for _, m := range v.Ring.Members() {
		s = append(s, m.Name)
	}
	return strings.Join(s, " ")
}

// await waits until a condition holds of a cell's view.
func (n *node) await(t *testing.T, what string, ok func(cell.View) bool) cell.View {
	t.Helper()
	late := time.After(patience)
	for {
		changed := n.Changed()
		v := n.View()
		if ok(v) {
			return v
		}
		select {
		case <-changed:
		case <-time.After(tick / 5): // trust and readiness change unannounced
		case <-late:
			t.Fatalf("waited for %s; there is %+v", what, n.Status())
		}
	}
}

func (n *node) sees(t *testing.T, want string) cell.View {
	t.Helper()
	return n.await(t, "members "+want, func(v cell.View) bool { return names(v) == want })
}

func (n *node) ready(t *testing.T) {
	t.Helper()
	n.await(t, "readiness", func(cell.View) bool { return n.Ready() == nil })
}

func (n *node) problem(t *testing.T, want string) {
	t.Helper()
	n.await(t, "the problem "+want, func(cell.View) bool {
		err := n.Ready()
		return err != nil && strings.Contains(err.Error(), want)
	})
}

func joinAndLeave(t *testing.T, p Place) {
	a, b, watcher := start(t, p, "1"), start(t, p, "2"), start(t, p, "")
	first := a.sees(t, "1 2")
	b.sees(t, "1 2")
	c := start(t, p, "3")
	var second cell.View
	for _, n := range []*node{a, b, c, watcher} {
		v := n.sees(t, "1 2 3")
		if second.Ring == nil {
			second = v
		}
		if v.At != second.At || v.Ring.Hash() != second.Ring.Hash() || v.Ring.Moved(second.Ring) > 0 {
			t.Errorf("one sees %s at %v, another %s at %v", v.Ring.Hash(), v.At, second.Ring.Hash(), second.At)
		}
		n.ready(t)
	}
	if second.At.Compare(first.At) <= 0 {
		t.Errorf("after a member joined the number is %v, it was %v", second.At, first.At)
	}
	want := ring.Member{Name: "3", Addr: "127.0.0.1:3", Build: "b", Zone: "z", Weight: 2}
	if got, _ := second.Ring.Member("3"); got != want {
		t.Errorf("member is %+v, want %+v", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	third := a.sees(t, "1 3")
	if third.At.Compare(second.At) <= 0 {
		t.Errorf("after a member left the number is %v, it was %v", third.At, second.At)
	}
	if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "not in the ring") {
		t.Errorf("who has left is ready: %v", err)
	}
	b.sees(t, "1 3") // and it goes on watching
	c.stop()
	b.sees(t, "1")
	if err := watcher.Leave(ctx); err != nil {
		t.Errorf("who is no member leaves: %v", err)
	}
	watcher.sees(t, "1")
}

// expiry cuts one member off: it distrusts itself before the others see it gone, keeps
// what it knows, and is back when the connection is.
func expiry(t *testing.T, p Place) {
	a, b := start(t, p, "1"), start(t, p, "2")
	for _, n := range []*node{a, b} {
		n.sees(t, "1 2")
		n.ready(t)
		n.await(t, "trust", func(v cell.View) bool { return v.Trusted })
	}
	b.cut()
	gone := a.sees(t, "1")
	if v := b.View(); v.Trusted {
		t.Error("the others see the member gone, and it trusts itself")
	} else if names(v) != "1 2" {
		t.Errorf("who is cut off knows members %q, want what it knew", names(v))
	}
	if b.Ready() == nil {
		t.Error("who is cut off is ready")
	}
	a.ready(t)
	b.mend()
	back := b.await(t, "its return", func(v cell.View) bool { return names(v) == "1 2" && v.At.Compare(gone.At) > 0 })
	b.ready(t)
	if a.sees(t, "1 2").At != back.At {
		t.Error("the members see different numbers")
	}
}

// oneName has two servers of one name: the first stays, and the second waits for it.
func oneName(t *testing.T, p Place) {
	a := startAt(t, p, "1", "127.0.0.1:11")
	a.ready(t)
	b := startAt(t, p, "1", "127.0.0.1:12")
	b.problem(t, cell.ErrTaken.Error())
	if v := b.View(); v.Trusted {
		t.Error("a server whose name is another's trusts itself")
	}
	if m, _ := b.View().Ring.Member("1"); m.Addr != "127.0.0.1:11" {
		t.Errorf("the second server sees %v", m)
	}
	a.ready(t)
	a.stop()
	b.ready(t)
	if m, _ := b.View().Ring.Member("1"); m.Addr != "127.0.0.1:12" {
		t.Errorf("the ring has %v after the first is gone", m)
	}
}

func garbage(t *testing.T, p Place) {
	a := start(t, p, "1")
	a.ready(t)
	c, _, _ := p.Client(t)
	s, err := c.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, record := range map[string]string{"2": "garbage", "3": "", "4": `{"addr":"nowhere"}`, "5": `{"addr":"h:1","new":"field"}`} {
		if err := s.Register(t.Context(), name, []byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	a.sees(t, "1 5")
	a.await(t, "the names", func(cell.View) bool { return len(a.Status().Unreadable) == 3 })
	if diff := cmp.Diff([]string{"2", "3", "4"}, a.Status().Unreadable); diff != "" {
		t.Errorf("unreadable (-want +got):\n%s", diff)
	}
	a.ready(t)
	for _, name := range []string{"2", "2", "6"} { // removed, and not there
		if err := s.Deregister(t.Context(), name); err != nil {
			t.Errorf("deregister %s: %v", name, err)
		}
	}
	a.await(t, "the garbage's end", func(cell.View) bool { return len(a.Status().Unreadable) == 2 })
}

func config(t *testing.T, p Place) {
	a, watcher := start(t, p, "1"), start(t, p, "")
	a.ready(t)
	watcher.sees(t, "1")
	p.SetConfig(t, []byte(`{"strict_reads":0.25,"drain":true,"max_in_flight":7}`))
	want := cell.Config{StrictReads: 0.25, Drain: true, MaxInFlight: 7}
	for _, n := range []*node{a, watcher} {
		n.await(t, "the configuration", func(v cell.View) bool { return v.Config == want })
	}
	for _, bad := range []string{`garbage`, `{"strict_reads":2}`, `{"no_such":1}`} {
		p.SetConfig(t, []byte(bad))
		a.problem(t, "live configuration not taken")
		if v := a.await(t, "trust", func(v cell.View) bool { return v.Trusted }); v.Config != want || names(v) != "1" {
			t.Errorf("with the configuration %s: %+v", bad, a.Status())
		}
		p.SetConfig(t, []byte(`{"strict_reads":0.25,"drain":true,"max_in_flight":7}`))
		a.ready(t)
	}
	p.SetConfig(t, nil)
	a.await(t, "the default", func(v cell.View) bool { return v.Config == cell.Config{} })
	a.ready(t)
}

// down cuts everybody off: all keep what they know and trust nothing, and all is well
// when the coordinator is back.
func down(t *testing.T, p Place) {
	nodes := []*node{start(t, p, "1"), start(t, p, "2"), start(t, p, "")}
	for _, n := range nodes {
		n.sees(t, "1 2")
		n.ready(t)
	}
	before := nodes[0].View().At
	for _, n := range nodes {
		n.cut()
	}
	for _, n := range nodes {
		n.await(t, "distrust", func(v cell.View) bool { return !v.Trusted && n.Ready() != nil })
		if v := n.View(); names(v) != "1 2" || v.At != before {
			t.Errorf("who is cut off sees %q at %v", names(v), v.At)
		}
	}
	for _, n := range nodes {
		n.mend()
	}
	for _, n := range nodes {
		n.sees(t, "1 2")
		n.ready(t)
	}
}
