package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

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
	cmd.AddCommand(p.appserverServe(), p.appserverStore(), p.appserverInit(), p.appserverCheck(), p.appserverImport(), p.appserverCompare())
	return cmd
}

const appserverStoreLong = `Keep the rows of a small cell in a directory, for application servers that
name this process with --store rows:HOST:PORT. One process has a directory.

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
	l, err := ops.Listen(c.listen, "--listen")
	if err != nil {
		return errors.Join(err, db.Close())
	}
	defer l.Close() // where the server did not come to own it
	if !ops.Loopback(l.Addr()) {
		s.log.Warn("whoever reaches this address can read and write all rows", "address", l.Addr())
	}
	server := rows.NewServer(store.Instrument(db, s.registry, s.tracing.Tracer()))
	err = s.run(ctx, ops.Part{Name: "rows", Run: func(ctx context.Context) error {
		c.out.ready("rows", l.Addr().String())
		return server.Serve(ctx, l)
	}})
	if errors.Is(err, ops.ErrDrain) {
		return err // calls are still in the store, whose close would wait for them
	}
	return errors.Join(err, db.Close())
}

const appserverInitLong = `Make a store ready for application servers: a table of HBase with its families,
split into --regions; a directory; or nothing, for a row store, which must answer.
What is there already is left as it is.`

func (p *program) appserverInit() *cobra.Command {
	var (
		place   storePlace
		regions int
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:     "init --store STORE",
		Short:   "Make a store ready for application servers",
		Long:    appserverInitLong,
		Example: "  darklaunch appserver init --store hbase:127.0.0.1:2181/messages --regions 16",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if regions < 1 || regions > 1<<16 {
				return usageErrorf("--regions: %d is not a number of regions: want 1 to %d", regions, 1<<16)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			did, err := place.init(ctx, regions)
			if err != nil {
				return fmt.Errorf("%w (--store)", err)
			}
			_, err = fmt.Fprintln(p.stdout, did)
			return err
		},
	}
	f := cmd.Flags()
	storeVar(f, &place, "store", "the store: pebble:DIR, rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	f.IntVar(&regions, "regions", 16, "`number` of regions to split a new table of HBase into, by the hash of users")
	durationVar(f, &timeout, "timeout", time.Minute, "how long it may take")
	_ = cmd.MarkFlagRequired("store") // fails for a flag that there isn't
	return cmd
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
