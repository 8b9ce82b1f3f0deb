package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"
)

// Listen opens a TCP listener on addr, a host:port in which port 0 means any
// free one. An error is one line that names addr and flag, the option that
// set it.
func Listen(addr, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		return l, nil
	}
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s (%s): the port is in use by another program", addr, flag)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listen on %s (%s): not permitted for this user", addr, flag)
	case errors.As(err, &op) && op.Err != nil:
		return nil, fmt.Errorf("listen on %s (%s): %w", addr, flag, op.Err)
	}
	return nil, fmt.Errorf("listen on %s (%s): %w", addr, flag, err)
}

// Loopback reports whether only programs of this machine can reach addr.
func Loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// Serve is the Run of a Part that answers HTTP/1.1 on l with h, by TLS if
// l's connections are. The requests' contexts end with ctx, so that a stream
// or a long profile does not hold up the stop; then l is closed, and Serve
// returns when the last request has been answered.
func Serve(l net.Listener, h http.Handler) func(context.Context) error {
	return func(ctx context.Context) error {
		var http1 http.Protocols
		http1.SetHTTP1(true)
		s := &http.Server{
			Handler:           h,
			Protocols:         &http1,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ReadHeaderTimeout: 5 * time.Second,
			IdleTimeout:       60 * time.Second,
			MaxHeaderBytes:    32 << 10,
		}
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		select {
		case err := <-served:
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		case <-ctx.Done():
		}
		// Run's drain limit bounds this wait.
		err := s.Shutdown(context.WithoutCancel(ctx))
		<-served
		return err
	}
}
