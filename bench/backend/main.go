// Backend is what the side-by-side measurements stand proxies and generators in
// front of: a gRPC server that sends each message of a call back as it came. It
// counts calls, and it can stall once for all.
//
//	backend --listen 127.0.0.1:0 --admin 127.0.0.1:0
//
// GET /count of the admin listener answers how many calls there were; POST
// /stall?for=1s holds all answers for so long.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for gRPC")
	admin := flag.String("admin", "127.0.0.1:0", "address for /count and /stall, and for HTTP/1.1: every other path answers 200 bytes")
	flag.Parse()
	if err := run(*listen, *admin); err != nil {
		fmt.Fprintln(os.Stderr, "backend:", err)
		os.Exit(1)
	}
}

func run(listen, admin string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	a, err := net.Listen("tcp", admin)
	if err != nil {
		return err
	}
	fmt.Println("ready grpc", l.Addr())
	fmt.Println("ready admin", a.Addr())
	b := &backend{}
	errs := make(chan error, 2)
	go func() { errs <- http.Serve(a, b) }()
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(b.echo))
	go func() { errs <- server.Serve(l) }()
	return <-errs
}

type backend struct {
	calls atomic.Int64
	gate  sync.RWMutex // held for writing while it stalls
}

// wait returns when it does not stall.
func (b *backend) wait() {
	b.gate.RLock()
	b.gate.RUnlock() //nolint:staticcheck // the waiting is the purpose
}

func (b *backend) echo(_ any, ss grpc.ServerStream) error {
	b.calls.Add(1)
	for {
		var m []byte
		if err := ss.RecvMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		b.wait()
		if err := ss.SendMsg(&m); err != nil {
			return err
		}
	}
}

var body = slices.Repeat([]byte("x"), 200)

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/count":
		fmt.Fprintln(w, b.calls.Load())
	case "/stall":
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil || r.Method != http.MethodPost {
			http.Error(w, "want POST /stall?for=1s", http.StatusBadRequest)
			return
		}
		b.gate.Lock()
		time.Sleep(d)
		b.gate.Unlock()
	default:
		b.calls.Add(1)
		b.wait()
		_, _ = w.Write(body)
	}
}

// raw passes messages as they are, *[]byte on both sides.
type raw struct{}

func (raw) Name() string                       { return "proto" }
func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }
