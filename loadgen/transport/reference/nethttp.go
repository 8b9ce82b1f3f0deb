package reference

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"syscall"

	"golang.org/x/net/http2"

	"darklaunch/loadgen/transport"
)

// viaHTTP calls through net/http.
type viaHTTP struct {
	cfg    transport.Config
	clock  transport.Clock
	scheme string
	rt     *http.Transport
}

func newHTTP(cfg transport.Config, clock transport.Clock) *viaHTTP {
	v := &viaHTTP{cfg: cfg, clock: clock, scheme: "http", rt: &http.Transport{
		DisableCompression:     true,
		MaxConnsPerHost:        cfg.Conns,
		MaxIdleConnsPerHost:    cfg.Conns,
		MaxResponseHeaderBytes: 64 << 10,
		Protocols:              new(http.Protocols),
	}}
	if cfg.TLS != nil {
		v.scheme = "https"
		v.rt.TLSClientConfig = cfg.TLS.Clone()
	}
	v.rt.Protocols.SetHTTP1(cfg.Protocol == transport.HTTP1)
	v.rt.Protocols.SetHTTP2(cfg.Protocol == transport.HTTP2 && cfg.TLS != nil)
	v.rt.Protocols.SetUnencryptedHTTP2(cfg.Protocol == transport.HTTP2 && cfg.TLS == nil)
	return v
}

func (v *viaHTTP) close() { v.rt.CloseIdleConnections() }

func (v *viaHTTP) call(ctx context.Context, c *transport.Call, o *outcome) {
	req, err := v.request(ctx, c)
	if err != nil {
		o.class = transport.Malformed
		return
	}
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		if o.sent < 0 {
			o.sent = v.clock.Now()
		}
	}}))
	res, err := v.rt.RoundTrip(req)
	if err != nil {
		o.class = classify(err)
		return
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		o.class = transport.Malformed // nothing here asked for it
		return
	}
	op := &v.cfg.Ops[c.Op]
	var kept bytes.Buffer
	body := io.TeeReader(res.Body, &atMost{&kept, op.Keep})
	o.received, err = io.Copy(io.Discard, io.LimitReader(body, v.cfg.MaxAnswer+1))
	o.answer = append(o.answer, kept.Bytes()...)
	switch {
	case o.received > v.cfg.MaxAnswer:
		o.class = transport.TooLarge
	case err != nil:
		o.class = classify(err)
	default:
		o.code = res.StatusCode
		if o.class = transport.OK; o.code >= 400 {
			o.class = transport.Status
		}
	}
}

func (v *viaHTTP) request(ctx context.Context, c *transport.Call) (*http.Request, error) {
	op := &v.cfg.Ops[c.Op]
	method, path, body := op.Method, op.Path, op.Body
	if method == "" {
		method = http.MethodGet
	}
	if c.Path != "" {
		path = c.Path
	}
	if c.Body != nil {
		body = c.Body
	}
	var r io.Reader
	if len(body) > 0 {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, v.scheme+"://"+v.cfg.Addr+path, r)
	if err != nil {
		return nil, err
	}
	req.Host = v.cfg.Host
	for _, h := range op.Header {
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
		}
	}
	for _, h := range append(op.Fields(), c.Header...) {
		req.Header.Add(h.Name, h.Value)
	}
	return req, nil
}

// atMost keeps the first bytes written to it.
type atMost struct {
	b    *bytes.Buffer
	most int
}

func (a *atMost) Write(p []byte) (int, error) {
	a.b.Write(p[:max(0, min(len(p), a.most-a.b.Len()))])
	return len(p), nil
}

// classify puts an error of net/http or of the network into transport's set.
func classify(err error) transport.Class {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return transport.Connect
	}
	if isTLS(err) {
		return transport.TLS
	}
	if e, ok := errors.AsType[http2.StreamError](err); ok {
		// net/http gives up a stream with an error like the one it gets.
		if e.Cause != nil && strings.Contains(e.Cause.Error(), "received from peer") {
			return transport.Reset
		}
		return transport.Malformed
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return transport.Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return transport.Reset
	}
	// net/http has no types for these.
	for _, s := range []string{"server closed idle connection", "sent GOAWAY", "client connection lost", "client connection force closed", "cannot retry err"} {
		if strings.Contains(err.Error(), s) {
			return transport.Reset
		}
	}
	return transport.Malformed
}

func isTLS(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	return strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), fmt.Sprintf("%q", "h2"))
}
