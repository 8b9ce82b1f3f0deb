package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"

	"darklaunch/loadgen"
	"darklaunch/loadgen/descriptor"
	"darklaunch/loadgen/transport"
)

// reflectionTime bounds the questions that a server is asked before a run.
const reflectionTime = 10 * time.Second

func (p *program) loadGRPC() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grpc ADDR --call pkg.Service/Method",
		Short: "Make one gRPC call again and again",
		Long: `Make one gRPC call again and again, at the times of a plan. The request is given
as JSON. What the method takes is asked of the server by reflection, unless a
.proto file or a descriptor set says it. ADDR is host:port, or https://host:port
for TLS. A streaming answer has come when the stream ends.`,
		Example: `  darklaunch load grpc 127.0.0.1:8443 --call grpc.health.v1.Health/Check --data '{"service": ""}' --rate 500/s --for 10s
  darklaunch load grpc https://msgs.example:443 --call msgs.v1.Mail/List --proto mail.proto --header x-user:ann --objective 'p99<50ms'`,
		Args: cobra.ExactArgs(1),
	}
	var f adhocFlags
	f.define(p, cmd.Flags())
	var g grpcFlags
	cmd.Flags().StringVar(&g.call, "call", "", "the method, as `package.Service/Method`")
	cmd.Flags().StringVar(&g.data, "data", "{}", "the request as `JSON`; @FILE: what is in the file")
	cmd.Flags().StringVar(&g.proto, "proto", "", "`file` (.proto) that declares the method")
	cmd.Flags().StringVar(&g.descriptors, "descriptors", "", "`file` (serialised FileDescriptorSet) that declares the method")
	cmd.Flags().IntVar(&g.conns, "conns", 4, "how many connections")
	cmd.Flags().IntVar(&g.streams, "streams", 64, "how many calls at once on a connection, if the server allows as many")
	cmd.MarkFlagsMutuallyExclusive("proto", "descriptors")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := g.target(cmd.Context(), args[0], &f)
		if err != nil {
			return err
		}
		cfg, err := f.config(cmd.Flags(), target)
		if err != nil {
			return err
		}
		return p.runLoad(cmd.Context(), "load grpc "+args[0]+" "+g.call, cfg, &f.judgeFlags, nil)
	}
	return cmd
}

type grpcFlags struct {
	call, data, proto, descriptors string
	conns, streams                 int
}

func (g *grpcFlags) target(ctx context.Context, addr string, f *adhocFlags) (transport.Config, error) {
	op := transport.Op{Header: f.headers}
	target, err := loadgen.GRPCTarget(addr, g.call, nil, op)
	if err != nil {
		return target, usageErrorf("ADDR and --call: %w", err)
	}
	if g.conns < 1 || g.streams < 1 {
		return target, usageErrorf("--conns, --streams: want 1 or more")
	}
	target.Conns, target.Streams = g.conns, g.streams
	data, err := textOrFile(g.data, "--data")
	if err != nil {
		return target, err
	}
	if f.insecure && target.TLS != nil {
		target.TLS.InsecureSkipVerify = true // reflection needs it already
	}
	found, err := g.find(ctx, target)
	if err != nil {
		return target, err
	}
	method, err := descriptor.Method(found, g.call)
	if err != nil {
		return target, usageErrorf("--call: %w", err)
	}
	message, err := descriptor.Message(method.Input(), data)
	if err != nil {
		return target, usageErrorf("--data: %w", err)
	}
	target.Ops[0].Messages = [][]byte{message}
	target.Ops[0].ServerStream = method.IsStreamingServer()
	return target, nil
}

// find returns descriptors that have the method's service.
func (g *grpcFlags) find(ctx context.Context, target transport.Config) (descriptor.Finder, error) {
	switch {
	case g.proto != "":
		if _, err := readInput(g.proto, "--proto"); err != nil {
			return nil, err
		}
		f, err := descriptor.FromProto(ctx, g.proto)
		if err != nil {
			return nil, usageErrorf("--proto: %w", err)
		}
		return f, nil
	case g.descriptors != "":
		set, err := readInput(g.descriptors, "--descriptors")
		if err != nil {
			return nil, err
		}
		f, err := descriptor.FromSet(set)
		if err != nil {
			return nil, usageErrorf("%s (--descriptors): %w", g.descriptors, err)
		}
		return f, nil
	}
	var tls credentials.TransportCredentials
	if target.TLS != nil {
		tls = credentials.NewTLS(target.TLS.Clone())
	}
	ctx, cancel := context.WithTimeout(ctx, reflectionTime)
	defer cancel()
	service, _, _ := strings.Cut(strings.TrimPrefix(g.call, "/"), "/")
	return descriptor.FromServer(ctx, target.Addr, tls, service)
}
