package relay

// The wire is what matters here, and x/net speaks it on a connection that it is given.
//lint:file-ignore SA1019 x/net's own client and server, on connections of ours

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoHandler answers with the request's body, and its hash as a trailer.
var echoHandler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/abort" {
		_, _ = io.CopyN(w, r.Body, 1000)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Trailer", "X-Hash")
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
	w.Header().Set("X-Hash", fmt.Sprintf("%x", sha256.Sum256(body)))
})

// TestHTTP runs net/http clients through the Relay to net/http servers.
func TestHTTP(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(version, func(t *testing.T) {
				var protocols http.Protocols
				alpn := "http/1.1"
				switch {
				case version == "HTTP/1.1":
					protocols.SetHTTP1(true)
				case v.tls:
					protocols.SetHTTP2(true)
					alpn = "h2"
				default:
					protocols.SetUnencryptedHTTP2(true)
				}
				g := newRig(t, v, func(g *rig, _ *Config) {
					if v.tls {
						g.live = tls.NewListener(g.plainLive, &tls.Config{
							Certificates: []tls.Certificate{g.ca.pair(t, "relay.test")}, NextProtos: []string{alpn},
						})
					}
				})
				server := http.Server{Handler: echoHandler, Protocols: &protocols}
				var serving sync.WaitGroup
				serving.Go(func() { _ = server.Serve(g.live) })
				transport := &http.Transport{Protocols: &protocols}
				url := "http://" + g.r.Addr().String()
				if v.tls {
					url = "https://" + g.r.Addr().String()
					transport.TLSClientConfig = &tls.Config{RootCAs: g.ca.pool, ServerName: "relay.test"}
				}
				client := &http.Client{Transport: transport, Timeout: patience}
				var wg sync.WaitGroup
				for worker := range 4 {
					wg.Go(func() {
						for _, size := range []int{0, 10, 70_000, 1 << 20} {
							askEcho(t, client, url, bytes.Repeat([]byte{byte('a' + worker)}, size), version)
						}
					})
				}
				wg.Wait()
				// An answer that live cuts must not look whole.
				res, err := client.Post(url+"/abort", "text/plain", bytes.NewReader(make([]byte, 1000)))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err == nil {
					t.Error("an aborted answer looks whole")
				}
				transport.CloseIdleConnections()
				server.Close()
				serving.Wait()
				g.await(0, "mirror_connections_open")
			})
		}
	})
}

func askEcho(t *testing.T, client *http.Client, url string, body []byte, version string) {
	// An io.Reader of no known length is sent in chunks.
	res, err := client.Post(url, "text/plain", io.MultiReader(bytes.NewReader(body)))
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(got, body) || res.Proto != version {
		t.Errorf("got %d bytes, %v by %s, want %d by %s", len(got), err, res.Proto, len(body), version)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(body)); res.Trailer.Get("X-Hash") != want {
		t.Errorf("got trailer %q, want %q", res.Trailer.Get("X-Hash"), want)
	}
}

// TestHTTP2ByX runs x/net's HTTP/2 over one connection, many streams at once.
func TestHTTP2ByX(t *testing.T) {
	plainWays(t, func(t *testing.T, v variant) {
		g := newRig(t, v, nil)
		var serving sync.WaitGroup
		serving.Go(func() {
			c := g.accept()
			new(http2.Server).ServeConn(c, &http2.ServeConnOpts{Handler: echoHandler})
		})
		raw := g.dial()
		cc, err := new(http2.Transport).NewClientConn(raw)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: cc}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				askEcho(t, client, "http://x/", bytes.Repeat([]byte{byte(i)}, 1000*i), "HTTP/2.0")
			})
		}
		wg.Wait()
		cc.Close()
		serving.Wait()
	})
}

// TestGRPC: unary calls and a stream in both directions, with metadata,
// trailers and a status.
func TestGRPC(t *testing.T) {
	eachWay(t, func(t *testing.T, v variant) {
		g := newRig(t, v, func(g *rig, _ *Config) { g.live = g.plainLive })
		var opts []grpc.ServerOption
		dial := grpc.WithTransportCredentials(insecure.NewCredentials())
		if v.tls {
			pair := g.ca.pair(t, "relay.test")
			opts = append(opts, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
			dial = grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(g.ca.pool, "relay.test"))
		}
		server := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			md, _ := metadata.FromIncomingContext(s.Context())
			s.SetTrailer(metadata.Pairs("x-user", md.Get("x-user")[0]))
			for {
				var m wrapperspb.BytesValue
				if err := s.RecvMsg(&m); err == io.EOF {
					return status.Error(codes.DataLoss, "done")
				} else if err != nil {
					return err
				}
				if err := s.SendMsg(&m); err != nil {
					return err
				}
			}
		}))...)
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(g.live) })
		cc, err := grpc.NewClient(g.r.Addr().String(), dial)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-user", "ann"), patience)
		defer cancel()
		stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/test.Test/Echo")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			sent, got := wrapperspb.Bytes(bytes.Repeat([]byte("m"), 100*i*i)), new(wrapperspb.BytesValue)
			if err := stream.SendMsg(sent); err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(got); err != nil || !bytes.Equal(got.Value, sent.Value) {
				t.Fatalf("got %d bytes, %v, want %d", len(got.Value), err, len(sent.Value))
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		err = stream.RecvMsg(new(wrapperspb.BytesValue))
		if status.Code(err) != codes.DataLoss || stream.Trailer().Get("x-user")[0] != "ann" {
			t.Errorf("got %v with trailer %v, want DataLoss of ann", err, stream.Trailer())
		}
		cc.Close()
		server.Stop()
		serving.Wait()
	})
}
