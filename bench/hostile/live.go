package hostile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/raw"
)

// live answers each call as the stream says, with a digest of what it was
// asked, so that a request changed on its way changes the answer too.
type live struct {
	stream *stream
	addr   string
	stop   func()
}

func startLive(p shadows.Protocol, s *stream) (*live, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	v := &live{stream: s, addr: l.Addr().String()}
	if p == shadows.GRPC {
		server := grpc.NewServer(
			grpc.ForceServerCodec(raw.Codec{}),
			grpc.MaxRecvMsgSize(64<<20),
			grpc.UnknownServiceHandler(v.serveStream))
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		v.stop = func() { server.Stop(); <-done }
		return v, nil
	}
	server := &http.Server{Handler: v, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	v.stop = func() { _ = server.Close(); <-done }
	return v, nil
}

// asked finds the call that a request's two naming headers stand for.
func (v *live) asked(index, upload string) (call, error) {
	i, err := strconv.Atoi(index)
	if err != nil {
		return call{}, fmt.Errorf("%s: %w", headerCall, err)
	}
	if upload == "" {
		return v.stream.call(i), nil
	}
	n, err := strconv.Atoi(upload)
	if err != nil {
		return call{}, fmt.Errorf("%s: %w", headerUp, err)
	}
	return uploadCall(i, n), nil
}

func (v *live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := v.asked(r.Header.Get(headerCall), r.Header.Get(headerUp))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s %s %s\n", r.Method, r.RequestURI, r.Header.Get(headerUser), r.Header.Get("Content-Type"))
	n, err := io.Copy(sum, r.Body)
	if err != nil {
		return // the client, or the proxy, went away
	}
	h := w.Header()
	h.Set("X-Live", "1")
	h.Set("X-Asked", fmt.Sprintf("%d bytes, %x", n, sum.Sum(nil)[:8]))
	h.Set("Content-Type", "application/x-call")
	h.Add("Set-Cookie", "session="+strconv.Itoa(c.index))
	h.Add("Set-Cookie", "theme=dark")
	h.Set("X-Exact", "  two  spaces; \"quoted\"")
	switch {
	case c.trailers:
		h.Set("Trailer", "X-Sum")
	case c.status != http.StatusNoContent:
		h.Set("Content-Length", strconv.Itoa(c.answer))
	}
	w.WriteHeader(c.status)
	if r.Method != http.MethodHead {
		_, _ = io.Copy(w, v.stream.bytes(c.index+1, c.answer))
	}
	if c.trailers {
		h.Set("X-Sum", strconv.Itoa(c.index*31))
	}
}

// serveStream is live's gRPC half: it reads to the end, then answers.
func (v *live) serveStream(_ any, ss grpc.ServerStream) error {
	md, _ := metadata.FromIncomingContext(ss.Context())
	c, err := v.asked(strings.Join(md.Get(headerCall), ","), strings.Join(md.Get(headerUp), ","))
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	sum := sha256.New()
	method, _ := grpc.MethodFromServerStream(ss)
	fmt.Fprintf(sum, "%s %s\n", method, strings.Join(md.Get(headerUser), ","))
	messages := 0
	for {
		var m []byte
		err := ss.RecvMsg(&m)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		messages++
		fmt.Fprintf(sum, "%d:", len(m))
		sum.Write(m)
	}
	_ = ss.SetHeader(metadata.Pairs("x-live", "1", "x-exact", `"quoted"; a=b`, "x-twice", "one", "x-twice", "two"))
	ss.SetTrailer(metadata.Pairs("x-live-sum", fmt.Sprintf("%d messages, %x", messages, sum.Sum(nil)[:8])))
	body, err := io.ReadAll(v.stream.bytes(c.index+1, c.answer))
	if err != nil {
		return err
	}
	for i := range c.answers {
		from, to := piece(i, c.answers, len(body))
		m := body[from:to]
		if err := ss.SendMsg(&m); err != nil {
			return err
		}
	}
	if code := c.code(); code != codes.OK {
		return status.Error(code, "as the stream says: 100% \"of\" it")
	}
	return nil
}

// code is the gRPC status that stands for the call's.
func (c call) code() codes.Code {
	switch {
	case c.status < 300:
		return codes.OK
	case c.status == http.StatusNotFound:
		return codes.NotFound
	case c.status == http.StatusServiceUnavailable:
		return codes.Unavailable
	default:
		return codes.FailedPrecondition
	}
}

// passing are the headers that belong to one hop, or to the proxy, or to the
// moment: an answer is the same without them.
var passing = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Transfer-Encoding": true, "Trailer": true, "Te": true,
	"Date": true, "Server": true, "Via": true, "X-Request-Id": true, "X-Envoy-Upstream-Service-Time": true,
}

// describe puts what a client can tell of an answer into one comparable text.
func describe(code string, header http.Header, body []string, trailer http.Header) string {
	var b strings.Builder
	b.WriteString(code)
	part := func(name string, h http.Header) {
		keys := make([]string, 0, len(h))
		for k := range h {
			if k = http.CanonicalHeaderKey(k); !passing[k] {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(&b, "\n%s %s: %q", name, k, h.Values(k))
		}
	}
	part("header", header)
	for _, m := range body {
		b.WriteString("\nbody " + m)
	}
	part("trailer", trailer)
	return b.String()
}

// summary stands for bytes read from r to the end.
func summary(r io.Reader) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	return fmt.Sprintf("%d bytes, %s", n, hex.EncodeToString(sum.Sum(nil)[:8])), err
}

// canonical makes metadata a header, whose names are compared without case.
func canonical(md metadata.MD) http.Header {
	h := http.Header{}
	for k, vs := range md {
		h[http.CanonicalHeaderKey(k)] = vs
	}
	return h
}

// after calls stop when d has passed and the returned function was not called.
func after(d time.Duration, stop context.CancelFunc) func() bool {
	return time.AfterFunc(d, stop).Stop
}
