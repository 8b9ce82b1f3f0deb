// Shadow is one of the shadows that misbehave as a process of its own, which can
// be given less of the machine than those that it is to hurt.
//
//	shadow --state 'black hole' --protocol HTTP/1.1
//
// It prints where it listens, and at its admin address what it saw as JSON.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"darklaunch/bench/hostile/shadows"
)

func main() {
	state := flag.String("state", string(shadows.Fast), "how it behaves")
	protocol := flag.String("protocol", string(shadows.HTTP), "what it speaks")
	admin := flag.String("admin", "127.0.0.1:0", "address for what it saw")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log.SetOutput(io.Discard) // net/http's remarks
	if err := run(ctx, shadows.State(*state), shadows.Protocol(*protocol), *admin); err != nil {
		fmt.Fprintln(os.Stderr, "shadow:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, state shadows.State, protocol shadows.Protocol, admin string) error {
	l, err := net.Listen("tcp", admin)
	if err != nil {
		return err
	}
	s, err := shadows.New(state, protocol)
	if err != nil {
		return err
	}
	defer s.Close()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.Evidence())
	})}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	fmt.Println("ready shadow", s.Addr)
	fmt.Println("ready admin", l.Addr())
	if err := server.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
