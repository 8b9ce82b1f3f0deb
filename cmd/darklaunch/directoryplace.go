package main

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"strings"

	"github.com/spf13/pflag"

	"darklaunch/appserver/directory"
)

// directoryPlace is where the directory of cells is kept: in ZooKeeper, or in a store of
// rows.
type directoryPlace struct {
	servers string // of ZooKeeper, with commas between; empty: it is in rows
	prefix  string // there
	rows    storePlace
}

func (d directoryPlace) String() string {
	if d.servers != "" {
		return "zk:" + d.servers + d.prefix
	}
	return d.rows.String()
}

const directoryUsage = "where the directory of cells is: zk:HOST:PORT[,HOST:PORT]/PREFIX, rows:HOST:PORT or pebble:DIR"

func directoryVar(f *pflag.FlagSet, p *directoryPlace) {
	f.Var(value[directoryPlace]{p, "directory", parseDirectoryPlace, directoryPlace.String}, "directory", directoryUsage)
}

func parseDirectoryPlace(s string) (directoryPlace, error) {
	wrong := fmt.Errorf("%q is not a directory of cells: want zk:HOST:PORT[,HOST:PORT]/PREFIX, rows:HOST:PORT or pebble:DIR", s)
	at, isZK := strings.CutPrefix(s, "zk:")
	if !isZK {
		rows, err := parseStorePlace(s)
		if err != nil || rows.kind == "memory" {
			return directoryPlace{}, wrong
		}
		return directoryPlace{rows: rows}, nil
	}
	servers, prefix, found := strings.Cut(at, "/")
	prefix = "/" + prefix
	if !found || path.Clean(prefix) != prefix || strings.ContainsFunc(prefix, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return directoryPlace{}, wrong
	}
	for server := range strings.SplitSeq(servers, ",") {
		if !isHostPort(server) {
			return directoryPlace{}, wrong
		}
	}
	return directoryPlace{servers: servers, prefix: prefix}, nil
}

// open returns what keeps the directory.
func (d directoryPlace) open(ctx context.Context, log *slog.Logger) (directory.Keeper, error) {
	if d.servers != "" {
		return directory.ZooKeeper(strings.Split(d.servers, ","), d.prefix+"/directory", log)
	}
	s, err := d.rows.open(ctx, log)
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	return directory.Rows(s, 0), nil
}
