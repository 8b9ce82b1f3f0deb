package memnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// TestHTTP runs net/http's client and server, over HTTP/1.1 and HTTP/2, under
// the fake clock: each request takes exactly the two latencies and the server's
// time.
func TestHTTP(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				n := new(Network)
				n.SetLatency("client", "live", 20*time.Millisecond)
				n.SetLatency("live", "client", 10*time.Millisecond)
				l, err := n.Host("live").Listen(80)
				if err != nil {
					t.Fatal(err)
				}
				protocols := new(http.Protocols)
				protocols.SetHTTP1(protocol == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(protocol == "HTTP/2.0")
				server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Second)
					body, _ := io.ReadAll(r.Body)
					fmt.Fprintf(w, "%s %s from %s", r.Proto, body, r.RemoteAddr)
				})}
				served := make(chan error)
				go func() { served <- server.Serve(l) }()
				transport := &http.Transport{DialContext: n.Host("client").Dial, Protocols: protocols}
				client := &http.Client{Transport: transport}

				for i, want := range []time.Duration{1060 * time.Millisecond, 1030 * time.Millisecond} { // the first one connects
					start := time.Now()
					res, err := client.Post("http://live/", "text/plain", strings.NewReader("hello"))
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(res.Body)
					res.Body.Close()
					if want := protocol + " hello from client:49152"; string(body) != want || err != nil {
						t.Errorf("got %q, %v, want %q", body, err, want)
					}
					took(t, fmt.Sprint("request ", i), start, want)
				}

				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, "GET", "http://live/", nil)
				start := time.Now()
				_, err = client.Do(req)
				wantErr(t, "request past its time", err, context.DeadlineExceeded)
				took(t, "giving up", start, 100*time.Millisecond)

				transport.CloseIdleConnections()
				wantErr(t, "shutdown", server.Shutdown(t.Context()), nil)
				wantErr(t, "serve", <-served, http.ErrServerClosed)
				time.Sleep(time.Second) // HTTP/2's Shutdown does not wait for the handler whose client left
			})
		})
	}
}

// TestGRPC runs grpc-go's client and server under the fake clock.
func TestGRPC(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := new(Network)
		n.SetLatency("client", "live", 20*time.Millisecond)
		l, err := n.Host("live").Listen(80)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		status := health.NewServer()
		grpc_health_v1.RegisterHealthServer(server, status)
		served := make(chan error)
		go func() { served <- server.Serve(l) }()
		conn, err := grpc.NewClient("passthrough:///live:80",
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return n.Host("client").Dial(ctx, "tcp", addr)
			}))
		if err != nil {
			t.Fatal(err)
		}
		client := grpc_health_v1.NewHealthClient(conn)
		if _, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		res, err := client.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("got %v, %v, want SERVING", res, err)
		}
		took(t, "a call", start, 20*time.Millisecond)

		watch, err := client.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		go func() {
			time.Sleep(time.Hour)
			status.Shutdown()
		}()
		start = time.Now()
		if res, err := watch.Recv(); err != nil || res.Status != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("got %v, %v, want NOT_SERVING", res, err)
		}
		took(t, "a change an hour later", start, time.Hour)

		conn.Close()
		server.Stop()
		wantErr(t, "serve", <-served, nil)
		synctest.Wait()
	})
}
