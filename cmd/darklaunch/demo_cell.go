package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// demoStore is where the new system of a demo keeps its rows.
type demoStore struct {
	quorum string // of an HBase, its ZooKeeper's addresses; empty: a row-store process
}

// localQuorum is where an HBase of this machine has its ZooKeeper, if nobody has
// decided otherwise.
const localQuorum = "127.0.0.1:2181"

func (s demoStore) String() string {
	if s.quorum == "" {
		return "rows"
	}
	return "hbase:" + s.quorum
}

// demoStoreVar defines --store.
func demoStoreVar(f *pflag.FlagSet, p *demoStore) {
	f.Var(value[demoStore]{p, "store", parseDemoStore, demoStore.String}, "store",
		"where the new system keeps its rows: rows, a process of the demo's own; hbase:ZOOKEEPER[,ZOOKEEPER], an HBase that runs; or hbase, that of "+localQuorum)
}

func parseDemoStore(s string) (demoStore, error) {
	switch s {
	case "rows":
		return demoStore{}, nil
	case "hbase":
		return demoStore{localQuorum}, nil
	}
	quorum, ok := strings.CutPrefix(s, "hbase:")
	for server := range strings.SplitSeq(quorum, ",") {
		ok = ok && isHostPort(server)
	}
	if !ok {
		return demoStore{}, fmt.Errorf("%q is not a store of a demo: want rows, hbase or hbase:HOST:PORT[,HOST:PORT]", s)
	}
	return demoStore{quorum}, nil
}

// reachable reports in words if nobody is there: HBase's client would try for long.
func (s demoStore) reachable(ctx context.Context) error {
	if s.quorum == "" {
		return nil
	}
	var err error
	for server := range strings.SplitSeq(s.quorum, ",") {
		var conn net.Conn
		if conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", server); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("--store %s: no ZooKeeper is there: %w; make demo STORE=hbase starts one with its HBase", s, err)
}

// demoCell is a cell of the new system: two servers on a store of their own.
type demoCell struct {
	crew   *crew
	name   string   // of the cell
	prefix string   // of its processes' names
	faults []string // that its servers have

	place       storePlace // once there is one
	coordinator coordinatorPlace
	made        bool   // place and coordinator are, in an HBase
	addr        string // of one of its servers
}

// headSample gives twice as many pairs as a demo has else: latencies are told apart by
// blocks of a few seconds, each with twenty calls of a route.
const headSample = 200_000

// headProgram is where --head's program is.
func headProgram(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	found, err := exec.LookPath(name)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return "", usageErrorf("--head: %w", err)
	}
	return found, nil
}

// startCell starts a cell and brings the sampled users' data there.
func (d *demo) startCell(ctx context.Context, c *demoCell) error {
	if err := d.startStore(ctx, c); err != nil {
		return err
	}
	if err := c.crew.do(ctx, c.prefix+"import", "appserver", "import", "--from", d.data("inbox-import"), "--from", d.data("chat-import"),
		"--store", c.place.String(), "--salt", demoSalt, "--sample", d.share()); err != nil {
		return err
	}
	for i := range 2 {
		server := fmt.Sprintf("server-%d", i+1) // in the ring: users are shared out alike in all cells
		name := c.prefix + server
		args := []string{"appserver", "serve", "--cell", c.name, "--name", server, "--listen", "127.0.0.1:0", "--store", c.place.String(),
			"--coordinator", c.coordinator.String(), "--trusted-ids", "--metrics", "127.0.0.1:0"}
		for _, f := range c.faults {
			args = append(args, "--fault", f)
		}
		at, err := c.crew.start(ctx, name, []string{"grpc", "metrics"}, args...)
		if err != nil {
			return err
		}
		c.addr = at["grpc"]
		d.at.Metrics = append(d.at.Metrics, name+"="+at["metrics"])
	}
	return nil
}

// startStore starts a cell's row store, or makes its table and its nodes in an HBase
// that runs, under a name that no other demo has.
func (d *demo) startStore(ctx context.Context, c *demoCell) error {
	if d.store.quorum == "" {
		at, err := c.crew.start(ctx, c.prefix+"rows", []string{"rows", "metrics"}, "appserver", "store", "--listen", "127.0.0.1:0", "--data", d.data(c.prefix+"rows"), "--metrics", "127.0.0.1:0")
		c.place, c.coordinator = storePlace{kind: "rows", at: at["rows"]}, coordinatorPlace{kind: "rows", at: at["rows"]}
		return err
	}
	table := "darklaunch-demo-" + c.name + "-" + strings.ToLower(rand.Text()[:8])
	c.place = storePlace{kind: "hbase", at: d.store.quorum, table: table}
	c.coordinator = coordinatorPlace{kind: "zk", at: d.store.quorum, prefix: "/" + table}
	err := c.crew.do(ctx, c.prefix+"init", "appserver", "init", "--store", c.place.String(), "--coordinator", c.coordinator.String(), "--cells", c.name)
	c.made = err == nil
	return err
}

// end stops a cell, if there is one, and takes from an HBase what was made there, even if ctx has ended.
func (c *demoCell) end(ctx context.Context) error {
	if c == nil {
		return nil
	}
	c.crew.stop()
	if c.place.kind != "hbase" {
		return nil
	}
	most := 30 * time.Second
	if !c.made {
		most = 5 * time.Second // for what may have been made; likely there is no HBase
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most) // the demo is over, its table is not
	defer cancel()
	if err := errors.Join(c.place.drop(ctx), c.coordinator.drop(ctx, c.name)); c.made {
		return err
	}
	return nil
}
