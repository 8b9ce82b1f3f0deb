package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
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
// returns when the last request has been answered. A panic of h is a 500 and a
// line in log, its stack at level debug, as what net/http has to say is.
func Serve(l net.Listener, h http.Handler, log *slog.Logger) func(context.Context) error {
	log = logger(log)
	return func(ctx context.Context) error {
		var http1 http.Protocols
		http1.SetHTTP1(true)
		s := &http.Server{
			Handler:           recovering(h, log),
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
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

// recovering keeps net/http from printing the stack of a handler's panic.
func recovering(h http.Handler, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler {
				panic(v) // net/http's own way to cut a connection, which it is silent about
			}
			log.Error("request panicked", "path", r.URL.Path, "panic", v)
			log.Debug("request panicked", "stack", string(debug.Stack()))
			http.Error(w, "internal error", http.StatusInternalServerError)
		}()
		h.ServeHTTP(w, r)
	})
}
