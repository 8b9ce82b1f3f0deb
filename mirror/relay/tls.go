package relay

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// terminator ends TLS of clients, begins TLS to live, or both.
type terminator struct {
	r       *Relay
	server  *tls.Config
	resumed tls.ClientSessionCache
	loaded  atomic.Pointer[certificates]
}

// certificates are what Reload reads.
type certificates struct {
	own  *tls.Certificate // nil: clients are plain
	live *x509.CertPool   // nil: the system's
}

func newTerminator(r *Relay) (*terminator, error) {
	t := &terminator{r: r, resumed: tls.NewLRUClientSessionCache(0)}
	if err := t.load(); err != nil {
		return nil, err
	}
	t.server = &tls.Config{
		GetCertificate:     func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.loaded.Load().own, nil },
		GetConfigForClient: t.answer,
	}
	return t, nil
}

func (t *terminator) load() error {
	var c certificates
	cfg := &t.r.cfg
	if cfg.Certificate != "" {
		own, err := tls.LoadX509KeyPair(cfg.Certificate, cfg.Key)
		if err != nil {
			return fmt.Errorf("load certificate %s with key %s: %w", cfg.Certificate, cfg.Key, err)
		}
		c.own = &own
	}
	if cfg.LiveCA != "" {
		pem, err := os.ReadFile(cfg.LiveCA)
		if err != nil {
			return fmt.Errorf("load authorities of live: %w", err)
		}
		c.live = x509.NewCertPool()
		if !c.live.AppendCertsFromPEM(pem) {
			return fmt.Errorf("load authorities of live: no certificate in %s", cfg.LiveCA)
		}
	}
	t.loaded.Store(&c)
	return nil
}

// handshake is what answer needs to know of a handshake; its context carries it.
type handshake struct {
	s     *stream
	cause Cause // why live was not reached
}

type handshakeKey struct{}

// accept does the client's handshake and, within it, dials live.
func (t *terminator) accept(s *stream) (tls.ConnectionState, Cause) {
	client := &s.ends[Client]
	client.wire = &wire{TCPConn: client.raw}
	client.tls = tls.Server(client.wire, t.server)
	h := &handshake{s: s}
	err := client.tls.HandshakeContext(context.WithValue(s.d.ctx, handshakeKey{}, h))
	if err != nil {
		return tls.ConnectionState{}, cmp.Or(h.cause, BadHandshake)
	}
	return client.tls.ConnectionState(), 0
}

// answer dials live as the client has greeted us, and offers the client what
// live chose.
func (t *terminator) answer(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	h := hello.Context().Value(handshakeKey{}).(*handshake)
	chosen, cause := h.s.dial(hello.ServerName, hello.SupportedProtos)
	if cause != 0 {
		h.cause = cause
		return nil, errors.New("live is down")
	}
	cfg := t.server.Clone() // its session tickets are t.server's
	switch {
	case t.r.live.tls && chosen != "":
		cfg.NextProtos = []string{chosen}
	case !t.r.live.tls && t.r.cfg.LiveH2C:
		cfg.NextProtos = []string{"h2", "http/1.1"}
	case !t.r.live.tls:
		cfg.NextProtos = []string{"http/1.1"}
	}
	return cfg, nil
}

// dial does the handshake with live on l, as the client of serverName that
// offers alpn. live's certificate must be for that name, or for host, by which
// the operator knows live.
func (t *terminator) dial(ctx context.Context, l *end, host, serverName string, alpn []string) (chosen string, err error) {
	if serverName == "" {
		serverName = host
	}
	roots := t.loaded.Load().live
	l.wire = &wire{TCPConn: l.raw}
	l.tls = tls.Client(l.wire, &tls.Config{
		ServerName:         serverName,
		NextProtos:         alpn,
		ClientSessionCache: t.resumed,
		// VerifyConnection below verifies, for either of the two names.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verify(state, roots, serverName, host)
		},
	})
	if err := l.tls.HandshakeContext(ctx); err != nil {
		return "", err
	}
	return l.tls.ConnectionState().NegotiatedProtocol, nil
}

// verify checks the chain as crypto/tls does, and that the certificate is for
// one of names.
func verify(state tls.ConnectionState, roots *x509.CertPool, names ...string) error {
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	leaf := state.PeerCertificates[0]
	if _, err := leaf.Verify(opts); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		err := leaf.VerifyHostname(name)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// wire notes the end of a TLS connection's bytes, which is an orderly end only
// after the closing alert: crypto/tls hands out either as io.EOF.
type wire struct {
	*net.TCPConn
	ended atomic.Bool
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.TCPConn.Read(p)
	if err == io.EOF {
		w.ended.Store(true)
	}
	return n, err
}
