package hbase

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/tsuna/gohbase"
	"github.com/tsuna/gohbase/hrpc"

	"darklaunch/internal/testenv/proc"
)

// poll is the time between two looks at something that is still to come.
const poll = 50 * time.Millisecond

// registered returns once ZooKeeper shows the region server on each port, as
// the process that runs now and not as one before it. Servers[i] listens on
// ports[i].
func registered(ctx context.Context, quorum string, ports []int, servers []*proc.Process) error {
	return withZooKeeper(ctx, quorum, func(conn *zk.Conn) error {
		names, _, err := conn.Children("/hbase/rs")
		if err != nil {
			return fmt.Errorf("list region servers: %w", err)
		}
		for i, port := range ports {
			if err := lists(names, port, servers[i].Began()); err != nil {
				return err
			}
		}
		return nil
	})
}

// lists looks among names HOST,PORT,STARTMILLIS for one server on a port.
func lists(names []string, port int, began time.Time) error {
	there := false
	for _, name := range names {
		fields := strings.Split(name, ",")
		if len(fields) != 3 || fields[1] != strconv.Itoa(port) {
			continue
		}
		millis, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil || time.UnixMilli(millis).Before(began) {
			return fmt.Errorf("region server %s is still listed, though dead", name)
		}
		there = true
	}
	if !there {
		return fmt.Errorf("no region server on port %d is listed among %v", port, names)
	}
	return nil
}

// serves returns once the region servers are registered and each takes a put.
func serves(ctx context.Context, quorum string, ports []int, servers []*proc.Process) error {
	if err := registered(ctx, quorum, ports, servers); err != nil {
		return err
	}
	// gohbase ends the program when it finds one of these empty.
	err := withZooKeeper(ctx, quorum, func(conn *zk.Conn) error {
		for _, path := range []string{"/hbase/master", "/hbase/meta-region-server"} {
			data, _, err := conn.Get(path)
			if err == nil && len(data) == 0 {
				err = fmt.Errorf("empty")
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", path, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return putEverywhere(ctx, quorum)
}

// withZooKeeper calls look until it returns nil, and returns its last error
// when ctx ends before.
func withZooKeeper(ctx context.Context, quorum string, look func(*zk.Conn) error) error {
	conn, _, err := zk.Connect([]string{quorum}, 10*time.Second, zk.WithLogger(silent{}))
	if err != nil {
		return err
	}
	defer conn.Close()
	// A call blocks while the server is away; Close ends it.
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	return until(ctx, func() error { return look(conn) })
}

type silent struct{}

func (silent) Printf(string, ...any) {}

// until calls f until it returns nil or ctx ends.
func until(ctx context.Context, f func() error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// readyTable is split in two, which a fresh cluster spreads over two servers.
const readyTable = "testenv-ready"

// putEverywhere makes the table if need be, and puts a row in each region.
func putEverywhere(ctx context.Context, quorum string) error {
	// Not closed: this version's admin client cannot be (its Close panics). Its
	// connection ends with the master.
	admin := gohbase.NewAdminClient(quorum)
	if err := until(ctx, func() error { return makeTable(ctx, admin) }); err != nil {
		return fmt.Errorf("make table %s: %w", readyTable, err)
	}
	client := gohbase.NewClient(quorum, gohbase.RpcQueueSize(1))
	defer client.Close()
	for _, row := range []string{"a", "z"} {
		put, err := hrpc.NewPutStr(ctx, readyTable, row, map[string]map[string][]byte{"f": {"q": []byte("v")}})
		if err != nil {
			return err
		}
		if _, err := client.Put(put); err != nil {
			return fmt.Errorf("put into %s: %w", readyTable, err)
		}
	}
	return nil
}

func makeTable(ctx context.Context, admin gohbase.AdminClient) error {
	list, err := hrpc.NewListTableNames(ctx)
	if err != nil {
		return err
	}
	tables, err := admin.ListTableNames(list)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if string(table.GetQualifier()) == readyTable {
			return nil
		}
	}
	families := map[string]map[string]string{"f": {"VERSIONS": "1"}}
	splits := hrpc.SplitKeys([][]byte{[]byte("m")})
	return admin.CreateTable(hrpc.NewCreateTable(ctx, []byte(readyTable), families, splits))
}
