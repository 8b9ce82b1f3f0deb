// Backend is what the side-by-side measurements stand proxies and generators in
// front of: a gRPC server that sends each message of a call back as it came, and
// an HTTP/1.1 server that answers 200 bytes. It knows when calls arrived, and can
// stall.
//
//	backend --listen 127.0.0.1:0 --admin 127.0.0.1:0
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"

	"darklaunch/bench/raw"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address for gRPC")
	admin := flag.String("admin", "127.0.0.1:0", "address for HTTP/1.1: 200 bytes, and what is asked about calls")
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
	b := &backend{start: time.Now()}
	errs := make(chan error, 2)
	go func() { errs <- http.Serve(a, b.handler()) }()
	server := grpc.NewServer(grpc.ForceServerCodec(raw.Codec{}), grpc.UnknownServiceHandler(b.echo))
	go func() { errs <- server.Serve(l) }()
	return <-errs
}

type backend struct {
	start time.Time

	mu       sync.Mutex
	arrivals []time.Duration // since start

	gate sync.RWMutex // held for writing while it stalls
}

// arrived notes a call, and returns when the backend does not stall.
func (b *backend) arrived() {
	at := time.Since(b.start)
	b.mu.Lock()
	b.arrivals = append(b.arrivals, at)
	b.mu.Unlock()
	b.gate.RLock()
	defer b.gate.RUnlock()
}

func (b *backend) echo(_ any, ss grpc.ServerStream) error {
	b.arrived()
	for {
		var m []byte
		if err := ss.RecvMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := ss.SendMsg(&m); err != nil {
			return err
		}
	}
}

// handler serves 200 bytes at /; /count is how many calls there were, /lateness
// how late they came against a rate a second, in microseconds; POST /reset
// forgets them, POST /stall holds all answers for a time.
func (b *backend) handler() http.Handler {
	body := slices.Repeat([]byte("x"), 200)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		b.arrived()
		_, _ = w.Write(body)
	})
	mux.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, len(b.calls()))
	})
	mux.HandleFunc("GET /lateness", func(w http.ResponseWriter, r *http.Request) {
		rate, err := strconv.ParseFloat(r.FormValue("rate"), 64)
		if err != nil || rate <= 0 {
			http.Error(w, "want ?rate=2000", http.StatusBadRequest)
			return
		}
		late := lateness(b.calls(), rate)
		at := func(q int) int64 {
			if len(late) == 0 {
				return 0
			}
			return late[len(late)*q/100].Microseconds()
		}
		_ = json.NewEncoder(w).Encode(map[string]int64{"p50": at(50), "p99": at(99)})
	})
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.arrivals = nil
	})
	mux.HandleFunc("POST /stall", func(w http.ResponseWriter, r *http.Request) {
		d, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, "want ?for=1s", http.StatusBadRequest)
			return
		}
		b.gate.Lock()
		time.Sleep(d)
		b.gate.Unlock()
	})
	return mux
}

func (b *backend) calls() []time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.arrivals)
}

// lateness compares arrivals with an even plan at a rate a second, which begins
// so that no call came before its time. It is sorted. A generator that sends in
// bursts is late, and so is one that does not hold the rate, or goes too fast at
// first.
func lateness(arrivals []time.Duration, rate float64) []time.Duration {
	slices.Sort(arrivals)
	late := make([]time.Duration, len(arrivals))
	for i, at := range arrivals {
		late[i] = at - time.Duration(float64(i)/rate*float64(time.Second))
	}
	slices.Sort(late)
	for i := len(late) - 1; i >= 0; i-- {
		late[i] -= late[0]
	}
	return late
}
