package verdict

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"darklaunch/internal/pairstream"
)

// maxConns bounds the connections of which nobody knows yet what they are, and that
// are open.
const maxConns = 512

// firstBytes is how long a connection may take to show what it is.
const firstBytes = 10 * time.Second

// Split accepts connections on l until ctx ends, and tells by their first bytes who
// gets them: pair streams go to the server, and all else to what other returns for a
// listener, as ops.Serve does. What Split returns is for Run; it ends when all that it
// started has. An error is of l or of other, and has ended the rest.
func (s *Server) Split(l net.Listener, other func(net.Listener) func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		rest := &rest{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(ctx, func() { l.Close() })()
		var wg sync.WaitGroup
		var failed error
		wg.Go(func() {
			defer stop()
			failed = other(rest)(ctx)
		})
		err := s.accept(ctx, l, rest, &wg)
		stop()
		wg.Wait()
		return errors.Join(err, failed)
	}
}

func (s *Server) accept(ctx context.Context, l net.Listener, rest *rest, wg *sync.WaitGroup) error {
	open := make(chan struct{}, maxConns)
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of files: it passes
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		select {
		case open <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		wg.Go(func() {
			s.sort(ctx, conn, rest, func() { <-open })
		})
	}
}

// sort finds out what a connection is, and hands it on; release is called when it
// has been closed.
func (s *Server) sort(ctx context.Context, conn net.Conn, rest *rest, release func()) {
	r := bufio.NewReader(conn)
	conn.SetDeadline(time.Now().Add(firstBytes))
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	first, err := r.Peek(2) // which is where a TLS connection shakes hands
	stop()
	if err != nil {
		conn.Close()
		release()
		return
	}
	conn.SetDeadline(time.Time{})
	if pairstream.Begins(first) {
		defer release()
		s.Serve(ctx, conn, r)
		return
	}
	rest.put(&counted{Conn: conn, r: r, release: release})
}

// counted is a connection of which the beginning has been read.
type counted struct {
	net.Conn
	r       *bufio.Reader
	once    sync.Once
	release func()
}

func (c *counted) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *counted) Close() error {
	defer c.once.Do(c.release)
	return c.Conn.Close()
}

// rest is the listener of the connections that are no streams.
type rest struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *rest) put(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		c.Close()
	}
}

// Accept implements net.Listener.
func (l *rest) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *rest) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *rest) Addr() net.Addr { return l.addr }
