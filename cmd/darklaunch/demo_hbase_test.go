package main

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/internal/testenv/hbase"
	"darklaunch/verdict/judge"
)

// onHBase runs a demo whose new system is on a real HBase and a real ZooKeeper, and
// wants nothing of it left there.
func onHBase(t *testing.T, args ...string) (code int, text string, d judge.Document) {
	t.Helper()
	srv := hbase.Standalone(t, hbase.Shared)
	code, text, d = rehearse(t, append([]string{"--store", "hbase:" + srv.Quorum}, args...)...)
	if !strings.Contains(text, "kept in hbase:"+srv.Quorum) {
		t.Errorf("got %s, want that it was on HBase", text)
	}
	list, err := hrpc.NewListTableNames(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tables, err := gohbase.NewAdminClient(srv.Quorum).ListTableNames(list) // cannot be closed
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range tables {
		if strings.HasPrefix(string(name.GetQualifier()), "darklaunch-demo-") {
			t.Errorf("table %s is left behind", name.GetQualifier())
		}
	}
	conn, _, err := zk.Connect([]string{srv.Quorum}, 10*time.Second, zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	nodes, _, err := conn.Children("/")
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(nodes, func(n string) bool { return strings.HasPrefix(n, "darklaunch-demo-") }); i >= 0 {
		t.Errorf("node %s is left behind", nodes[i])
	}
	return code, text, d
}

// TestDemoHBase rehearses the dark launch of a system that is right, on HBase and
// ZooKeeper.
func TestDemoHBase(t *testing.T) {
	code, text, d := onHBase(t)
	wantRight(t, text, d)
	if os.Getenv("DARKLAUNCH_FULL") != "" && (code != exitDone || !trusted(d)) {
		t.Errorf("on a machine that does nothing else: got %d, %+v, want a pass", code, d.Reasons)
	}
	t.Logf("ended with %d: %s of %d pairs in %d blocks; %+v", code, d.Verdict, d.Rig.Pairs, d.Rig.Blocks, d.Reasons)
}

// TestDemoFaultsHBase plants faults in a new system on HBase, and wants each found with
// its symptom among the first three reasons.
func TestDemoFaultsHBase(t *testing.T) {
	if os.Getenv("DARKLAUNCH_FULL") == "" {
		t.Skip("set DARKLAUNCH_FULL=1: runs for minutes on a machine that does nothing else")
	}
	for _, name := range []string{"slow-search", "wrong-unread", "lost-message"} {
		t.Run(name, func(t *testing.T) {
			code, _, d := onHBase(t, "--fault", name, "--for", "90s")
			wantFound(t, name, code, d)
		})
	}
}

// TestDemoStore holds which stores a demo takes, and that one that is not there is told
// before anything starts.
func TestDemoStore(t *testing.T) {
	for _, text := range []string{"rows", "hbase:a:2181,b:2181"} {
		if s, err := parseDemoStore(text); err != nil || s.String() != text {
			t.Errorf("%s: got %v, %v", text, s, err)
		}
	}
	if s, err := parseDemoStore("hbase"); err != nil || s.String() != "hbase:"+localQuorum {
		t.Errorf("hbase: got %v, %v", s, err)
	}
	for _, text := range []string{"", "pebble", "hbase:", "hbase:a", "hbase:a:2181,", "rows:a:1"} {
		if s, err := parseDemoStore(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, s)
		}
	}
	code, stdout, stderr := start(t, "demo", "--store", "hbase:127.0.0.1:1").end()
	if code != exitCouldNotRun || stdout != "" || !strings.Contains(stderr, "no ZooKeeper is there") {
		t.Errorf("got %d, %q, %q, want %d and why", code, stdout, stderr, exitCouldNotRun)
	}
}
