package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"darklaunch/appserver"
	"darklaunch/appserver/fault"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/store"
	"darklaunch/internal/ops"
)

const appserverServeLong = `Serve mailboxes over gRPC (messages.v1.Messages, with reflection), kept in a store.

A mutation is answered when it is durable in the store. Mailboxes in use are in
memory: reads of them need no store. With --reads strict each read first asks the
store whether the mailbox is still this server's; without it (leased) no second
server may have the same store, as there is nobody to say which of them serves a
user.`

// serveCommand is one run of darklaunch appserver serve.
type serveCommand struct {
	program      *program
	flags        serviceFlags
	out          *output
	cell, listen string
	advertise    string
	place        storePlace
	coordinator  string
	cache        size
	capacity     size
	reads        string
	secret       string
	domain       string
	language     string
	trustedIDs   bool
	fault        string
}

func (p *program) appserverServe() *cobra.Command {
	c := &serveCommand{program: p}
	cmd := &cobra.Command{
		Use:   "serve --cell NAME --listen ADDR --store STORE",
		Short: "Serve mailboxes",
		Long:  appserverServeLong,
		Example: `  darklaunch appserver serve --cell one --listen 127.0.0.1:7500 --store pebble:rows
  darklaunch appserver serve --cell one --listen 127.0.0.1:7500 --store hbase:127.0.0.1:2181/messages --reads strict`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&c.cell, "cell", "one", "`name` of the cell that this server is of")
	listenVar(f, &c.listen, "listen", "127.0.0.1:7500", "serve gRPC here")
	f.StringVar(&c.advertise, "advertise", "", "`address` by which others reach this server (default: where it listens)")
	storeVar(f, &c.place, "store", "where mailboxes are: memory:, pebble:DIR, rows:HOST:PORT or hbase:ZOOKEEPER[,ZOOKEEPER]/TABLE")
	f.StringVar(&c.coordinator, "coordinator", "local:", "who says which server serves a user; local: is this server alone")
	sizeVar(f, &c.cache, "cache", 256<<20, "memory for mailboxes")
	sizeVar(f, &c.capacity, "capacity", 0, "size of a mailbox above which its user cannot send; 0B is no limit")
	f.StringVar(&c.reads, "reads", "leased", "strict: ask the store before each read whether the mailbox is still this server's; leased: do not")
	f.StringVar(&c.secret, "reply-secret", "", "`secret` that addresses of reply handlers are made from, the same on all servers (default: a new one, for this run)")
	f.StringVar(&c.domain, "reply-domain", "reply.invalid", "`domain` of reply handlers' addresses")
	f.StringVar(&c.language, "language", "", "`language` by which words are told in search, as en (default: none in particular)")
	f.BoolVar(&c.trustedIDs, "trusted-ids", false, "take ids and times that callers assign")
	f.StringVar(&c.fault, "fault", "", "`name` of a fault to serve with, to rehearse that it is found; see darklaunch demo --list-faults")
	c.flags.define(f, "")
	c.out = p.outputVar(f)
	_ = cmd.MarkFlagRequired("store") // fails for a flag that there isn't
	return cmd
}

func (c *serveCommand) run(ctx context.Context) (err error) {
	switch {
	case c.reads != "strict" && c.reads != "leased":
		return usageErrorf("--reads: %q is not a way to read: want strict or leased", c.reads)
	case c.coordinator != "local:":
		return usageErrorf("--coordinator: %q is not a coordinator: want local:", c.coordinator)
	case c.cell == "":
		return usageErrorf("--cell: want a name")
	}
	s, err := c.program.newService(ctx, "appserver", c.flags, c.out)
	if err != nil {
		return err
	}
	l, err := ops.Listen(c.listen, "--listen")
	if err != nil {
		return err
	}
	defer l.Close() // where the server did not come to own it
	if c.advertise == "" {
		c.advertise = l.Addr().String()
	}
	if !ops.Loopback(l.Addr()) {
		s.log.Warn("whoever reaches this address can act as any user", "address", l.Addr())
	}
	opened, err := c.place.open(ctx, s.log)
	if err != nil {
		return fmt.Errorf("%w (--store)", err)
	}
	defer func() {
		if !errors.Is(err, ops.ErrDrain) { // else calls are still in the store, whose close would wait for them
			err = errors.Join(err, opened.Close())
		}
	}()
	secret := []byte(c.secret)
	if c.secret == "" {
		secret = []byte(rand.Text())
	}
	strict := c.reads == "strict"
	var planted fault.Planted
	if c.fault != "" {
		if planted, err = fault.Plant(c.fault, s.registry); err != nil {
			return usageErrorf("--fault: %w", err)
		}
		s.log.Warn("this server is faulty on purpose", "fault", c.fault)
	}
	if planted.Store != nil {
		opened = planted.Store(opened)
	}
	if planted.CacheBytes > 0 {
		c.cache = size(planted.CacheBytes)
	}
	server, err := appserver.New(appserver.Config{
		Name: c.advertise, Capacity: int64(c.capacity), TrustedIDs: c.trustedIDs, ReplySecret: secret, ReplyDomain: c.domain, Hooks: planted.Hooks,
		Tracer: s.tracing.Tracer(), Registerer: s.registry, Log: s.log,
		Mailboxes: mailbox.Config{
			Store:      store.Instrument(opened, s.registry, s.tracing.Tracer()),
			CacheBytes: int64(c.cache), Language: c.language, Strict: func() bool { return strict },
		},
	})
	if err != nil {
		return usageErrorf("%w", err)
	}
	options := server.Options()
	if planted.Interceptor != nil {
		options = append(options, grpc.ChainUnaryInterceptor(planted.Interceptor))
	}
	g := grpc.NewServer(options...)
	server.Register(g)
	reflection.Register(g)
	s.state = func() any {
		return map[string]any{"cell": c.cell, "address": c.advertise, "store": c.place.String(), "reads": c.reads}
	}
	return s.run(ctx,
		ops.Part{Name: "mailboxes", Run: server.Run},
		ops.Part{Name: "grpc", Run: func(ctx context.Context) error {
			served := make(chan error, 1)
			go func() { served <- g.Serve(l) }()
			c.out.ready("grpc", l.Addr().String())
			select {
			case err := <-served:
				return err
			case <-ctx.Done():
			}
			server.EndStreams() // they would go on for as long as their readers like
			g.GracefulStop()
			return <-served
		}})
}
