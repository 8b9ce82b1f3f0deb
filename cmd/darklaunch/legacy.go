package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	"darklaunch/appserver/legacy"
	"darklaunch/appserver/legacy/chat"
	"darklaunch/appserver/legacy/inbox"
	"darklaunch/internal/ops"
)

func (p *program) legacy() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "legacy",
		Short:   "Run the old Inbox and Chat, the live side of a dark launch",
		Example: "  darklaunch legacy inbox --listen 127.0.0.1:7701 --data inbox.data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(p.legacyInbox(), p.legacyChat(), p.legacyImport())
	return cmd
}

// legacyCommand is one run of darklaunch legacy inbox or chat.
type legacyCommand struct {
	program      *program
	flags        serviceFlags
	out          *output
	listen, data string
	accept       bool
}

const legacyLong = `
A change is answered when it has been synced to the disk. One process has a directory. It
trusts who can reach it. With --accept-assigned it takes ids and times from callers, as the
control of a dark launch does.`

func (p *program) legacyInbox() *cobra.Command {
	c := &legacyCommand{program: p}
	cmd := &cobra.Command{
		Use:     "inbox --listen ADDR --data DIR",
		Short:   "Serve the old Inbox over HTTP/1.1 and JSON",
		Long:    "Serve the old Inbox over HTTP/1.1 and JSON: see docs/reference/legacy.md." + legacyLong,
		Example: "  darklaunch legacy inbox --listen 127.0.0.1:7701 --data inbox.data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.inbox(cmd.Context()) },
	}
	c.define(cmd, "127.0.0.1:7701")
	return cmd
}

func (p *program) legacyChat() *cobra.Command {
	c := &legacyCommand{program: p}
	cmd := &cobra.Command{
		Use:     "chat --listen ADDR --data DIR",
		Short:   "Serve the old Chat over gRPC",
		Long:    "Serve the old Chat over gRPC: legacy.chat.v1.Chat, with reflection." + legacyLong,
		Example: "  darklaunch legacy chat --listen 127.0.0.1:7702 --data chat.data",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.chat(cmd.Context()) },
	}
	c.define(cmd, "127.0.0.1:7702")
	return cmd
}

func (c *legacyCommand) define(cmd *cobra.Command, listen string) {
	f := cmd.Flags()
	listenVar(f, &c.listen, "listen", listen, "serve here")
	f.StringVar(&c.data, "data", "", "`directory` that holds the data; made if need be")
	f.BoolVar(&c.accept, "accept-assigned", false, "take ids and times that callers assign")
	c.flags.define(f, "")
	c.out = c.program.outputVar(f)
	_ = cmd.MarkFlagRequired("data") // fails for a flag that there isn't
}

// serve opens the data, listens and runs what serve returns; it closes the data when
// that has ended.
func (c *legacyCommand) serve(ctx context.Context, name string, open func(legacy.Config) (interface{ Close() error }, error), run func(*service, net.Listener) ops.Part) (err error) {
	s, err := c.program.newService(ctx, name, c.flags, c.out)
	if err != nil {
		return err
	}
	data, err := open(legacy.Config{AcceptAssigned: c.accept, Log: s.log})
	if err != nil {
		return fmt.Errorf("%w (--data)", err)
	}
	defer func() {
		if !errors.Is(err, ops.ErrDrain) { // else calls are still in the data, whose close would wait for them
			err = errors.Join(err, data.Close())
		}
	}()
	l, err := ops.Listen(c.listen, "--listen")
	if err != nil {
		return err
	}
	defer l.Close() // where the server did not come to own it
	if !ops.Loopback(l.Addr()) {
		s.log.Warn("whoever reaches this address can act as any user", "address", l.Addr())
	}
	s.state = func() any {
		return map[string]any{"address": l.Addr().String(), "data": c.data, "accept_assigned": c.accept}
	}
	return s.run(ctx, run(s, l))
}

func (c *legacyCommand) inbox(ctx context.Context) error {
	var x *inbox.Inbox
	return c.serve(ctx, "inbox", func(cfg legacy.Config) (_ interface{ Close() error }, err error) {
		x, err = inbox.Open(c.data, cfg)
		return x, err
	}, func(s *service, l net.Listener) ops.Part {
		handler := inbox.NewServer(x, s.registry, s.log)
		return ops.Part{Name: "inbox", Run: func(ctx context.Context) error {
			c.out.ready("inbox", l.Addr().String())
			return ops.Serve(l, handler, s.log)(ctx)
		}}
	})
}

func (c *legacyCommand) chat(ctx context.Context) error {
	var x *chat.Chat
	return c.serve(ctx, "chat", func(cfg legacy.Config) (_ interface{ Close() error }, err error) {
		x, err = chat.Open(c.data, cfg)
		return x, err
	}, func(s *service, l net.Listener) ops.Part {
		server := chat.NewServer(x, s.registry, s.log)
		g := grpc.NewServer(server.Options()...)
		server.Register(g)
		reflection.Register(g)
		return ops.Part{Name: "chat", Run: func(ctx context.Context) error {
			served := make(chan error, 1)
			go func() { served <- g.Serve(l) }()
			c.out.ready("chat", l.Addr().String())
			select {
			case err := <-served:
				return err
			case <-ctx.Done():
			}
			server.EndStreams() // they would go on for as long as their readers like
			g.GracefulStop()
			return <-served
		}}
	})
}
