package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"darklaunch/appserver/cell"
	cellrows "darklaunch/appserver/cell/rows"
	"darklaunch/appserver/store"
	"darklaunch/appserver/store/hbase"
	"darklaunch/appserver/store/memstore"
	"darklaunch/appserver/store/pebble"
	"darklaunch/appserver/store/rows"
	"darklaunch/internal/ops"
)

func (p *program) appserver() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "appserver",
		Short:   "Run the reference application: a messages back end that is worth copying",
		Example: "  darklaunch appserver store --listen 127.0.0.1:7400 --data rows",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.appserverServe(), p.appserverStore(), p.appserverInit(), p.appserverCheck(), p.appserverPurge(), p.appserverRebuild(), p.appserverImport(), p.appserverCompare())
	return cmd
}

const appserverStoreLong = `Keep the rows of a small cell in a directory, for application servers that
name this process with --store rows:HOST:PORT, and the cell's members, for those
that name it with --coordinator rows:HOST:PORT. One process has a directory.

A put is answered when it has been synced to the disk. With less than --min-free
left on the disk puts are refused, and taken again when there is room. When the
disk itself fails the process ends with 1: start it again, and all that it had
answered is there. It trusts who can reach it.`

// storeCommand is one run of darklaunch appserver store.
type storeCommand struct {
	program        *program
	flags          serviceFlags
	out            *output
	listen, data   string
	cache, minFree size
	session        time.Duration
}

func (p *program) appserverStore() *cobra.Command {
	c := &storeCommand{program: p}
	cmd := &cobra.Command{
		Use:     "store --listen ADDR --data DIR",
		Short:   "Keep the rows of a small cell, for several application servers",
		Long:    appserverStoreLong,
		Example: "  darklaunch appserver store --listen 127.0.0.1:7400 --data rows",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	listenVar(f, &c.listen, "listen", "127.0.0.1:7400", "take the application servers' calls here")
	f.StringVar(&c.data, "data", "", "`directory` that holds the rows; made if need be")
	sizeVar(f, &c.cache, "cache", 64<<20, "memory for blocks that were read")
	sizeVar(f, &c.minFree, "min-free", 64<<20, "refuse puts while the disk has less than this free")
	durationVar(f, &c.session, "session", 4*time.Second, "how long nothing may be heard of a member before others take its users")
	c.flags.define(f, "")
	c.out = p.outputVar(f)
	_ = cmd.MarkFlagRequired("data") // fails for a flag that there isn't
	return cmd
}

func (c *storeCommand) run(ctx context.Context) error {
	s, err := c.program.newService(ctx, "store", c.flags, c.out)
	if err != nil {
		return err
	}
	db, err := pebble.Open(c.data, pebble.Config{
		Cache:   int64(c.cache),
		MinFree: uint64(c.minFree),
		Log:     s.log,
		Fatal: func(err error) {
			fmt.Fprintln(c.program.stderr, "darklaunch: the store cannot go on:", oneLine(err))
			os.Exit(exitCouldNotRun)
		},
	})
	if err != nil {
		return fmt.Errorf("%w (--data)", err)
	}
	registry, err := cell.NewRegistry(cell.RegistryConfig{Timeout: c.session, File: filepath.Join(c.data, membersFile)})
	if err != nil {
		return errors.Join(fmt.Errorf("%w (--data)", err), db.Close())
	}
	l, err := ops.Listen(c.listen, "--listen")
	if err != nil {
		return errors.Join(err, db.Close())
	}
	defer l.Close() // where the server did not come to own it
	if !ops.Loopback(l.Addr()) {
		s.log.Warn("whoever reaches this address can read and write all rows", "address", l.Addr())
	}
	server := rows.NewServer(store.Instrument(db, s.registry, s.tracing.Tracer()), cellrows.NewServer(registry).RegisterTo)
	err = s.run(ctx, ops.Part{Name: "members", Run: registry.Run}, ops.Part{Name: "rows", Run: func(ctx context.Context) error {
		c.out.ready("rows", l.Addr().String())
		return server.Serve(ctx, l)
	}})
	if errors.Is(err, ops.ErrDrain) {
		return err // calls are still in the store, whose close would wait for them
	}
	return errors.Join(err, db.Close())
}

// membersFile stands in the directory of rows, among files that Pebble names otherwise.
const membersFile = "members.json"

const appserverInitLong = `Make a store ready for application servers: a table of HBase with its families,
split into --regions; a directory; or nothing, for a row store, which must answer.
Make a coordinator ready for --cells: the nodes of each in ZooKeeper. What is there
already is left as it is.

--live FILE replaces the live configuration of the cells, which their servers take
without a restart. It is JSON: strict_reads, the share of leased reads (0 to 1) that
ask the store first; drain, whether new users are to go elsewhere; max_in_flight and
max_watches, bounds of each server in place of its own.`

func (p *program) appserverInit() *cobra.Command {
	var (
		place       storePlace
		coordinator coordinatorPlace
		cells       []string
		live        string
		regions     int
		timeout     time.Duration
	)
	cmd := &cobra.Command{
		Use:   "init [--store STORE] [--coordinator COORDINATOR]",
		Short: "Make a store and a coordinator ready for application servers",
		Long:  appserverInitLong,
		Example: `  darklaunch appserver init --store hbase:127.0.0.1:2181/messages --regions 16
  darklaunch appserver init --coordinator zk:127.0.0.1:2181/darklaunch --cells one,two`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if regions < 1 || regions > 1<<16 {
				return usageErrorf("--regions: %d is not a number of regions: want 1 to %d", regions, 1<<16)
			}
			if place.kind == "" && coordinator.kind == "" {
				return usageErrorf("want --store, --coordinator or both")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			if place.kind != "" {
				did, err := place.init(ctx, regions)
				if err != nil {
					return fmt.Errorf("%w (--store)", err)
				}
				fmt.Fprintln(p.stdout, did)
			}
			if coordinator.kind == "" {
				return nil
			}
			return p.initCells(ctx, coordinator, cells, live)
		},
	}
	f := cmd.Flags()
	storeVar(f, &place, "store", "the store: pebble:DIR, rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	coordinatorVar(f, &coordinator, coordinatorPlace{}, "the coordinator: rows:HOST:PORT or zk:HOST:PORT[,HOST:PORT]/PREFIX")
	f.StringSliceVar(&cells, "cells", []string{"one"}, "`names` of the cells to make ready in the coordinator, with commas between")
	f.StringVar(&live, "live", "", "`file` with a live configuration (JSON) for these cells")
	f.IntVar(&regions, "regions", 16, "`number` of regions to split a new table of HBase into, by the hash of users")
	durationVar(f, &timeout, "timeout", time.Minute, "how long it may take")
	return cmd
}

func (p *program) initCells(ctx context.Context, coordinator coordinatorPlace, cells []string, live string) error {
	var config []byte
	if live != "" {
		var err error
		if config, err = os.ReadFile(live); err != nil {
			return fmt.Errorf("%w (--live)", err)
		}
		if _, err := cell.ParseConfig(config); err != nil {
			return usageErrorf("--live: %s: %w", live, err)
		}
	}
	for _, name := range cells {
		if name == "" || strings.ContainsAny(name, "/ ") {
			return usageErrorf("--cells: %q is not a name: want one without blanks and slashes", name)
		}
		did, err := coordinator.init(ctx, name)
		if err == nil && live != "" {
			err = coordinator.setConfig(ctx, name, config)
		}
		if err != nil {
			return fmt.Errorf("%w (--coordinator)", err)
		}
		fmt.Fprintln(p.stdout, did)
	}
	return nil
}

// init makes the store ready and says what it did.
func (s storePlace) init(ctx context.Context, regions int) (did string, err error) {
	did = fmt.Sprintf("%s is ready", s)
	switch s.kind {
	case "memory":
		return "", usageErrorf("there is nothing to make ready in memory: want pebble, rows or hbase")
	case "hbase":
		hbase.TakeLogs(nil)
		created, err := hbase.Create(ctx, hbase.Config{Quorum: s.at, Table: s.table}, regions)
		if err != nil {
			return "", err
		}
		did = fmt.Sprintf("%s was there already", s)
		if created {
			did = fmt.Sprintf("%s created, %d regions", s, regions)
		}
	}
	opened, err := s.open(ctx, nil)
	if err != nil {
		return "", err
	}
	return did, opened.Close()
}

// drop takes a table of HBase away.
func (s storePlace) drop(ctx context.Context) error {
	hbase.TakeLogs(nil)
	return hbase.Drop(ctx, hbase.Config{Quorum: s.at, Table: s.table})
}

// open opens the store. log gets what an operator should know; nil means nobody.
func (s storePlace) open(ctx context.Context, log *slog.Logger) (store.Store, error) {
	switch s.kind {
	case "memory":
		return &memstore.Store{}, nil
	case "pebble":
		return pebble.Open(s.at, pebble.Config{Log: log})
	case "rows":
		return rows.Open(ctx, s.at, rows.Config{})
	}
	hbase.TakeLogs(log)
	opened, err := hbase.Open(ctx, hbase.Config{Quorum: s.at, Table: s.table, Log: log})
	if errors.Is(err, hbase.ErrNoTable) {
		return nil, fmt.Errorf("%w: make it with darklaunch appserver init --store %s", err, s)
	}
	return opened, err
}
