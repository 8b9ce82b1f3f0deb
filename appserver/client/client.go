// Package client calls application servers, for callers inside the application, the
// program and tests: a call has a deadline, and one whose outcome is unknown is
// repeated under the same idempotency key, within a budget.
//
// A Router is the distributed logic client: it knows the directory of cells, the ring
// of its own, and learns from answers who serves a user; servers forward and deliver by
// it.
package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	messagesv1 "darklaunch/api/messages/v1"
)

// Config of a Client.
type Config struct {
	// TLS of the connection. Nil: it is plain.
	TLS *tls.Config
	// Timeout bounds a call with all its repetitions, Watch aside. Zero means 10s. An
	// earlier deadline of the call's context holds.
	Timeout time.Duration
	// Options are further ones of the connection.
	Options []grpc.DialOption
}

// A Client calls one server, or by a Router whichever serves a user. Its methods may be called from any number of goroutines.
//
// A call that is answered UNAVAILABLE is made again, up to attempts times with growing
// pauses: reads change nothing, and mutations carry a key. Calls wait for a server
// that is being started. When more than one in ten calls fails, they are not repeated
// any more, so that a server in trouble is not asked the more for it.
type Client struct {
	messagesv1.MessagesClient
	Delivery messagesv1.DeliveryClient // for the application's own parts
	conn     io.Closer
}

// attempts is how often a call is made at most. Their pauses add up to some 5s.
const attempts = 8

// policy is gRPC's, as https://github.com/grpc/proposal/blob/master/A6-client-retries.md.
// A token is what a failure costs; calls are repeated while more than half are left.
const policy = `{
	"retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
	"methodConfig": [
		{"name": [{"service": "messages.v1.Messages", "method": "Watch"}], "waitForReady": true},
		{"name": [{"service": "messages.v1.Messages"}], "waitForReady": true, "timeout": "%.3fs",
		 "retryPolicy": {"maxAttempts": %d, "initialBackoff": "0.05s", "maxBackoff": "2s", "backoffMultiplier": 2,
		                 "retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// New returns a client of the server at addr, a host and port. It connects when it is
// first used. The error is of the arguments.
func New(addr string, cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	reconnect := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(policy, cfg.Timeout.Seconds(), attempts)),
		grpc.WithMaxCallAttempts(attempts),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Second}),
	}, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", addr, err)
	}
	return &Client{messagesv1.NewMessagesClient(conn), messagesv1.NewDeliveryClient(conn), conn}, nil
}

// Close ends the connection and the calls under way.
func (c *Client) Close() error { return c.conn.Close() }

// As returns a context whose calls act for a user.
func As(ctx context.Context, user string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-user", user)
}
