package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"darklaunch/appserver"
	"darklaunch/appserver/action"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/fault"
	"darklaunch/appserver/mailbox"
	"darklaunch/appserver/ring"
	"darklaunch/appserver/store"
	"darklaunch/internal/ops"
)

const appserverServeLong = `Serve mailboxes over gRPC (messages.v1.Messages, with reflection), kept in a store.

A mutation is answered when it is durable in the store. Mailboxes in use are in
memory: reads of them need no store.

Which of a cell's servers serves a user is said by the --coordinator: local: is this
server alone, rows: the row-store process of a small cell, zk: ZooKeeper, where
darklaunch appserver init has made the cell. A server that gets a signal leaves the
ring, hands its mailboxes over and only then stops. Cut off from the coordinator it
goes on with the members that it knows, as /readyz and /api/v1/state say; that it
may still write is for the store to say, put by put.

Any server takes any call, and forwards those of users whom another serves. With
--directory other cells too: their users are reached through it, and new users are
placed by it. All servers of an installation have the same --reply-secret.

With --reads strict each read first asks the store whether the mailbox is still this
server's. With leased only a share does, which the cell's live configuration sets,
and all while the coordinator has not answered for half a session; such a read may
miss what another server has written in the moment in which a ring change was on its
way to this one.`

// serveCommand is one run of darklaunch appserver serve.
type serveCommand struct {
	program      *program
	flags        serviceFlags
	out          *output
	cell, listen string
	advertise    string
	place        storePlace
	coordinator  coordinatorPlace
	directory    directoryPlace
	session      time.Duration
	member       ring.Member
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
	coordinatorVar(f, &c.coordinator, coordinatorPlace{kind: "local"}, "who says which server serves a user: local:, rows:HOST:PORT or zk:HOST:PORT[,HOST:PORT]/PREFIX")
	directoryVar(f, &c.directory)
	durationVar(f, &c.session, "session", 4*time.Second, "how long ZooKeeper may hear nothing of this server before others take its users")
	f.StringVar(&c.member.Name, "name", "", "`name` of this server in the ring, which its users come back to (default: --advertise)")
	f.StringVar(&c.member.Zone, "zone", "", "`zone` that may fail as one, with the other servers in it")
	f.IntVar(&c.member.Weight, "weight", 1, "`share` of users in relation to other servers, 1 to 100")
	sizeVar(f, &c.cache, "cache", 256<<20, "memory for mailboxes")
	sizeVar(f, &c.capacity, "capacity", 0, "size of a mailbox above which its user cannot send; 0B is no limit")
	f.StringVar(&c.reads, "reads", "leased", "strict: ask the store before each read whether the mailbox is still this server's; leased: do not")
	f.StringVar(&c.secret, "reply-secret", "", "`secret` (or @FILE that holds it) that addresses of reply handlers are made from, the same on all servers (default: a new one, for this run)")
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
	members, err := c.join(s)
	if err != nil {
		return err
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
	routing, err := c.route(ctx, s, members)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, routing.close()) }()
	secret, err := readToken(c.secret, "--reply-secret")
	if err != nil {
		return err
	}
	if secret == "" {
		secret = rand.Text()
	}
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
	cfg := appserver.Config{
		Name: c.advertise, Cell: c.cell, Capacity: int64(c.capacity), TrustedIDs: c.trustedIDs, ReplySecret: []byte(secret), ReplyDomain: c.domain, Hooks: planted.Hooks,
		Tracer: s.tracing.Tracer(), Registerer: s.registry, Log: s.log,
		Bounds: func() (int, int) {
			live := members.View().Config
			return live.MaxInFlight, live.MaxWatches
		},
		Mailboxes: c.owned(members, mailbox.Config{
			Store:      store.Instrument(opened, s.registry, s.tracing.Tracer()),
			CacheBytes: int64(c.cache), Language: c.language,
		}),
	}
	routing.configure(&cfg, members)
	server, err := appserver.New(cfg)
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
	s.ready = members.Ready
	s.state = func() any {
		return map[string]any{
			"cell": c.cell, "name": c.member.Name, "address": c.advertise, "store": c.place.String(), "reads": c.reads,
			"coordinator": c.coordinator.String(), "directory": c.directory.String(), "ring": members.Status(),
		}
	}
	return s.run(ctx, append(routing.parts(),
		ops.Part{Name: "cell", Run: members.Run},
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
			c.leave(ctx, s, members, server)
			server.EndStreams() // they would go on for as long as their readers like
			g.GracefulStop()
			return <-served
		}})...)
}

// join returns the cell as this server sees it, of which it is a member once that runs.
func (c *serveCommand) join(s *service) (*cell.Cell, error) {
	coordinator, err := c.coordinator.coordinator(c.cell, c.session, s.log)
	if err != nil {
		return nil, fmt.Errorf("%w (--coordinator)", err)
	}
	c.member.Name = cmp.Or(c.member.Name, c.advertise)
	c.member.Addr, c.member.Build = c.advertise, buildVersion().Version
	members, err := cell.New(coordinator, cell.Options{Name: c.cell, Member: &c.member, Registerer: s.registry, Log: s.log})
	if err != nil {
		return nil, usageErrorf("%w (--name, --advertise, --zone, --weight)", err)
	}
	return members, nil
}

// owned adds to the configuration of mailboxes whose they are.
func (c *serveCommand) owned(members *cell.Cell, cfg mailbox.Config) mailbox.Config {
	always := c.reads == "strict"
	cfg.Strict = func() bool {
		v := members.View()
		return always || !v.Trusted || mathrand.Float64() < v.Config.StrictReads
	}
	if c.coordinator.kind == "local" {
		return cfg
	}
	cfg.View = func() store.Ring { return members.View().At }
	cfg.Moved = members.Changed
	cfg.Mine = func(u action.User) bool {
		owner, _ := members.View().Ring.Owner(string(u))
		return owner.Name == c.member.Name && owner.Addr == c.member.Addr
	}
	return cfg
}

// leave takes the server out of the ring and hands its mailboxes over, in half of the
// time there is to stop.
func (c *serveCommand) leave(ctx context.Context, s *service, members *cell.Cell, server *appserver.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(s.flags.drain/2, time.Second))
	defer cancel()
	err := members.Leave(ctx)
	n := 0
	if err == nil {
		n, err = server.HandOver(ctx)
	}
	if err != nil {
		s.log.Warn("stopping without a hand-over: the others take over when the session expires", "err", err)
	} else if n > 0 {
		s.log.Info("mailboxes handed over", "mailboxes", n)
	}
}
