package main

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"darklaunch/appserver/cell"
	cellrows "darklaunch/appserver/cell/rows"
	"darklaunch/appserver/cell/zookeeper"
)

// coordinatorPlace is where the members of a cell are kept.
type coordinatorPlace struct {
	kind   string // local, rows or zk
	at     string // an address, or ZooKeeper's addresses with commas between
	prefix string // of zk, with its slash
}

func (c coordinatorPlace) String() string {
	if c.kind == "" {
		return ""
	}
	return c.kind + ":" + c.at + c.prefix
}

// coordinatorVar defines a flag such as zk:HOST:PORT/PREFIX.
func coordinatorVar(f *pflag.FlagSet, p *coordinatorPlace, def coordinatorPlace, usage string) {
	*p = def
	f.Var(value[coordinatorPlace]{p, "coordinator", parseCoordinatorPlace, coordinatorPlace.String}, "coordinator", usage)
}

func parseCoordinatorPlace(s string) (coordinatorPlace, error) {
	kind, at, _ := strings.Cut(s, ":")
	place := coordinatorPlace{kind: kind, at: at}
	ok := false
	switch kind {
	case "local":
		ok = s == "local:"
	case "rows":
		ok = isHostPort(at)
	case "zk":
		at, prefix, found := strings.Cut(at, "/")
		place.at, place.prefix = at, "/"+prefix
		ok = found && path.Clean(place.prefix) == place.prefix && !strings.ContainsFunc(prefix, func(c rune) bool { return c <= ' ' || c > '~' })
		for server := range strings.SplitSeq(at, ",") {
			ok = ok && isHostPort(server)
		}
	}
	if !ok {
		return coordinatorPlace{}, fmt.Errorf("%q is not a coordinator: want local:, rows:HOST:PORT or zk:HOST:PORT[,HOST:PORT]/PREFIX", s)
	}
	return place, nil
}

// zookeeper is the configuration of a cell in zk.
func (c coordinatorPlace) zookeeper(name string, session time.Duration, log *slog.Logger) zookeeper.Config {
	return zookeeper.Config{Servers: strings.Split(c.at, ","), Prefix: c.prefix, Cell: name, Timeout: session, Log: log}
}

// coordinator of a cell. It connects later, and again when it has to.
func (c coordinatorPlace) coordinator(name string, session time.Duration, log *slog.Logger) (cell.Coordinator, error) {
	switch c.kind {
	case "rows":
		return cellrows.New(c.at), nil
	case "zk":
		return zookeeper.New(c.zookeeper(name, session, log)), nil
	}
	return cell.NewRegistry(cell.RegistryConfig{Timeout: -1}) // of this process: nobody has to guess whether it lives
}

// init sets a cell up and says what it did.
func (c coordinatorPlace) init(ctx context.Context, name string) (did string, err error) {
	switch c.kind {
	case "local":
		return "", usageErrorf("--coordinator: there is nothing to make ready in local: want rows or zk")
	case "rows":
		s, err := cellrows.New(c.at).Open(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("cell %s at %s is ready", name, c), s.Close()
	}
	made, err := zookeeper.Init(ctx, c.zookeeper(name, 0, nil))
	if err != nil {
		return "", err
	}
	if made {
		return fmt.Sprintf("cell %s at %s created", name, c), nil
	}
	return fmt.Sprintf("cell %s at %s was there already", name, c), nil
}

// drop takes a cell out of ZooKeeper.
func (c coordinatorPlace) drop(ctx context.Context, name string) error {
	return zookeeper.Remove(ctx, c.zookeeper(name, 0, nil))
}

// setConfig replaces the live configuration of a cell.
func (c coordinatorPlace) setConfig(ctx context.Context, name string, b []byte) error {
	if c.kind == "rows" {
		return cellrows.New(c.at).SetConfig(ctx, b)
	}
	return zookeeper.SetConfig(ctx, c.zookeeper(name, 0, nil), b)
}
