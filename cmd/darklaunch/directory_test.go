package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/client"
	"darklaunch/appserver/directory"
	"darklaunch/internal/testenv"
)

// done runs a command to its end and returns what it printed.
func done(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := start(t, args...).end()
	if code != want {
		t.Fatalf("%v: got %d, want %d; stdout: %s stderr: %s", args, code, want, stdout, stderr)
	}
	return stdout, stderr
}

// TestTwoCellsOnRows and TestTwoCellsOnZooKeeper use two cells as their operator and
// their users do, by the program alone. Rows C28-C33, D47-D50; README's session.
func TestTwoCellsOnRows(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts several processes")
	}
	_, rows, _ := startStore(t, "127.0.0.1:0", t.TempDir())
	testTwoCells(t, "rows:"+rows)
}

func TestTwoCellsOnZooKeeper(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts several processes")
	}
	testTwoCells(t, fmt.Sprintf("zk:%s/cells-%d", testenv.ZooKeeper(t).Addr, time.Now().UnixNano()))
}

func testTwoCells(t *testing.T, place string) {
	servers := map[string]*running{}
	addrs := map[string]string{}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	serve := func(cell string) {
		servers[cell], addrs[cell] = startServer(t, "127.0.0.1:0", "memory:", "--cell", cell, "--directory", place, "--reply-secret", "@"+secret)
	}
	as := func(user string, args ...string) []map[string]any {
		t.Helper()
		stdout, _ := done(t, exitDone, append([]string{"msg", "--directory", place, "--as", user, "--timeout", "1m"}, args...)...)
		return jsonLines(t, stdout)
	}
	cell := func(args ...string) string {
		t.Helper()
		stdout, _ := done(t, exitDone, append([]string{"cell", "--directory", place}, args...)...)
		return stdout
	}
	serve("one")
	if got := cell("add", "one", "--server", addrs["one"], "--build", "v1"); got != "cell one added\n" {
		t.Errorf("got %q", got)
	}
	as("ann", "send", "--to", "ann", "--body", "a note")

	// A second cell takes the users that come next, here into slices where the first has
	// nobody; so ask the directory who is where.
	serve("two")
	cell("add", "two", "--server", addrs["two"], "--build", "v2", "--weight", "1000")
	keeper, err := func() (directory.Keeper, error) {
		p, err := parseDirectoryPlace(place)
		if err != nil {
			return nil, err
		}
		return p.open(t.Context(), nil)
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.Close()
	d := directory.New(keeper, directory.Config{})
	if _, err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	bob := ""
	for i := 0; bob == "" && i < 1000; i++ {
		u := fmt.Sprint("bob", i)
		if p, err := d.Lookup(t.Context(), u); err != nil {
			t.Fatal(err)
		} else if p.Cell == "two" {
			bob = u
		}
	}

	sent := as("ann", "send", "--to", bob, "--subject", "Lunch", "--body", "At noon?", "--wait", "delivered")
	thread := column(sent, "thread")
	wantColumn(t, "across cells", as(bob, "list"), "snippet", "At noon?")
	as(bob, "send", "--thread", thread, "--body", "Yes.", "--wait", "delivered")
	wantColumn(t, "and back", as("ann", "read", "--thread", thread), "body", "Yes.,At noon?")

	list := cell("list")
	for _, want := range []string{"one ", "two ", "open", "v1", "v2", addrs["two"]} {
		if !strings.Contains(list, want) {
			t.Errorf("list has no %q:\n%s", want, list)
		}
	}

	// Anybody's server answers for anybody, and a moved user is served where they are.
	cell("move", "ann", "--to", "two")
	wantColumn(t, "after the move", as("ann", "read", "--thread", thread), "body", "Yes.,At noon?")
	c, err := client.New(addrs["one"], client.Config{Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, user := range []string{"ann", bob} {
		ctx, cancel := context.WithTimeout(client.As(t.Context(), user), time.Minute)
		got, err := c.GetThread(ctx, &messagesv1.GetThreadRequest{ThreadId: thread})
		cancel()
		if err != nil || len(got.Messages) != 2 {
			t.Errorf("%s by the server of cell one: got %v, %v", user, got, err)
		}
	}
	cell("move", "ann", "--to", "two") // who is there already

	// All go back: the cell is emptied while they may write.
	if got := cell("drain", "two"); !strings.Contains(got, "cell two drained, 2 users moved") {
		t.Errorf("got %q", got)
	}
	wantColumn(t, "after the drain", as(bob, "read", "--thread", thread), "body", "Yes.,At noon?")
	if got := cell("drain", "two"); !strings.Contains(got, "0 users moved") {
		t.Errorf("again: got %q", got)
	}
	as("cy", "send", "--to", "ann", "--body", "new here", "--wait", "delivered")
	servers["two"].signal(syscall.SIGTERM)
	if code, _, stderr := servers["two"].end(); code != exitDone {
		t.Errorf("the server ended with %d: %s", code, stderr)
	}
	wantColumn(t, "with the other cell stopped", as("cy", "list"), "snippet", "new here")

	// What is wrong is said.
	cell("add", "two", "--server", addrs["two"])
	cell("fail", "two")
	if _, stderr := done(t, exitCouldNotRun, "cell", "--directory", place, "move", "cy", "--to", "nowhere", "--timeout", "1s"); !strings.Contains(stderr, "no such cell") {
		t.Errorf("a cell that nobody has: %s", stderr)
	}
	if got := cell("upgrade", "one", "--build", "v3"); !strings.Contains(got, "goes to v3") || !strings.Contains(cell("list"), "closed") {
		t.Errorf("upgrade: got %q", got)
	}
	if _, stderr := done(t, exitCouldNotRun, "msg", "--directory", place, "--as", "stranger", "--timeout", "1s", "list"); !strings.Contains(stderr, "no cell accepts users") {
		t.Errorf("a new user with no cell open: %s", stderr)
	}
}

func TestCellUsage(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: starts some twenty processes")
	}
	for _, args := range [][]string{
		{"cell", "list"},
		{"cell", "list", "--directory", "memory:"},
		{"cell", "list", "--directory", "zk:127.0.0.1:2181"},
		{"cell", "add", "a/b", "--server", "h:1", "--directory", "rows:127.0.0.1:1"},
		{"cell", "move", "--to", "a", "--directory", "rows:127.0.0.1:1"},
		{"msg", "--as", "ann", "list"},
		{"msg", "--as", "ann", "--cell", "127.0.0.1:1", "--directory", "rows:127.0.0.1:1", "list"},
	} {
		code, _, stderr := start(t, args...).end()
		if code == exitDone || stderr == "" {
			t.Errorf("%v: got %d, %q", args, code, stderr)
		}
	}
}
