package hostile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"darklaunch/bench/hostile/shadows"
	"darklaunch/bench/raw"
)

// errNotLive: the answer does not bear live's mark; somebody else gave it.
var errNotLive = errors.New("answered by another than live")

// A caller makes calls one after another over one connection, which it opens
// anew after a failure. It never repeats a call.
type caller interface {
	// do makes a call and describes its answer. No answer within patience is
	// os.ErrDeadlineExceeded.
	do(c call, patience time.Duration) (answer string, err error)
	close()
}

func newCaller(p shadows.Protocol, s *stream, addr string) caller {
	if p == shadows.GRPC {
		return &grpcCaller{stream: s, addr: addr}
	}
	return &httpCaller{stream: s, addr: addr}
}

// uploadCall is a call outside the stream, with a body of n bytes.
func uploadCall(index, n int) call {
	return call{index: index, method: http.MethodPost, body: n, pieces: max(1, n/(64<<10)), status: http.StatusOK, answer: 64, answers: 1}
}

// marks are the headers of a call.
func marks(c call, upload bool) []string {
	m := []string{headerCall, strconv.Itoa(c.index), headerUser, user(c.index)}
	if upload {
		m = append(m, headerUp, strconv.Itoa(c.body))
	}
	return m
}

// outside tells a call of uploadCall from one of the stream.
func outside(c call) bool { return c.index >= firstUpload }

// firstUpload is beyond the indices of any stream.
const firstUpload = 1 << 30

type httpCaller struct {
	stream *stream
	addr   string
	conn   net.Conn
	r      *bufio.Reader
}

func (h *httpCaller) close() {
	if h.conn != nil {
		_ = h.conn.Close()
		h.conn = nil
	}
}

func (h *httpCaller) do(c call, patience time.Duration) (answer string, err error) {
	deadline := time.Now().Add(patience)
	defer func() {
		if err == nil {
			return
		}
		h.close()
		// By the clock, as net/http wraps what a write says beyond unwrapping.
		if !time.Now().Before(deadline) {
			err = fmt.Errorf("%w: %v", os.ErrDeadlineExceeded, err)
		}
	}()
	if h.conn == nil {
		if h.conn, err = net.DialTimeout("tcp", h.addr, patience); err != nil {
			return "", err
		}
		h.r = bufio.NewReader(h.conn)
	}
	if err := h.conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	req := h.request(c)
	if err := req.Write(h.conn); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(h.r, req)
	if err != nil {
		return "", err
	}
	body, err := summary(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.Close {
		h.close()
	}
	if resp.Header.Get("X-Live") == "" {
		return "", fmt.Errorf("%w: %s", errNotLive, resp.Status)
	}
	return describe(strconv.Itoa(resp.StatusCode), resp.Header, []string{body}, resp.Trailer), nil
}

func (h *httpCaller) request(c call) *http.Request {
	req := &http.Request{
		Method: c.method,
		URL:    &url.URL{Scheme: "http", Host: "live.test", Path: "/calls/" + user(c.index), RawQuery: "q=a%20b&c=" + strconv.Itoa(c.index)},
		Host:   "live.test",
		Header: http.Header{"Content-Type": {"application/x-ask"}, "Cookie": {"a=1; b=2"}},
	}
	m := marks(c, outside(c))
	for i := 0; i < len(m); i += 2 {
		req.Header.Set(m[i], m[i+1])
	}
	if c.body > 0 {
		req.Body = io.NopCloser(h.stream.bytes(c.index, c.body))
		req.ContentLength = int64(c.body)
		if c.chunked {
			req.ContentLength = -1
		}
	}
	return req
}

type grpcCaller struct {
	stream *stream
	addr   string
	conn   *grpc.ClientConn
}

func (g *grpcCaller) close() {
	if g.conn != nil {
		_ = g.conn.Close()
		g.conn = nil
	}
}

func (g *grpcCaller) do(c call, patience time.Duration) (answer string, err error) {
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.conn == nil {
		g.conn, err = grpc.NewClient("passthrough:///"+g.addr,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithAuthority("live.test"),
			grpc.WithDisableRetry(),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: patience}),
			grpc.WithDefaultCallOptions(grpc.ForceCodec(raw.Codec{}), grpc.MaxCallRecvMsgSize(64<<20)))
		if err != nil {
			return "", err
		}
	}
	// Not a deadline, which would travel as grpc-timeout and reach live and shadow.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inTime := after(patience, cancel)
	answer, err = g.exchange(metadata.AppendToOutgoingContext(ctx, marks(c, outside(c))...), c)
	if !inTime() {
		return "", os.ErrDeadlineExceeded
	}
	return answer, err
}

func (g *grpcCaller) exchange(ctx context.Context, c call) (string, error) {
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	cs, err := g.conn.NewStream(ctx, desc, "/hostile.Live/"+c.method)
	if err != nil {
		return "", err
	}
	if err := g.send(cs, c); err != nil {
		return "", err
	}
	var body []string
	for {
		var m []byte
		if err = cs.RecvMsg(&m); err != nil {
			break
		}
		one, _ := summary(bytes.NewReader(m))
		body = append(body, one)
	}
	header, _ := cs.Header() // its error is the stream's, which err tells
	if len(header.Get("x-live")) == 0 && len(cs.Trailer().Get("x-live-sum")) == 0 {
		return "", fmt.Errorf("%w: %w", errNotLive, err)
	}
	code := "OK"
	if err != io.EOF {
		s, _ := status.FromError(err)
		code = fmt.Sprintf("%s %q", s.Code(), s.Message())
	}
	return describe(code, canonical(header), body, canonical(cs.Trailer())), nil
}

// send sends the call's messages. That the stream has ended meanwhile is no
// error here: receiving tells how.
func (g *grpcCaller) send(cs grpc.ClientStream, c call) error {
	body := g.stream.bytes(c.index, c.body)
	for i := range c.pieces {
		from, to := piece(i, c.pieces, c.body)
		m := make([]byte, to-from)
		if _, err := io.ReadFull(body, m); err != nil {
			return err
		}
		if err := cs.SendMsg(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
	return cs.CloseSend()
}

// An outcome is what became of one call.
type outcome struct {
	answer string
	err    error
	sent   bool          // false: its connection was given up before
	took   time.Duration // from when it was due
}

func (o outcome) timedOut() bool { return errors.Is(o.err, os.ErrDeadlineExceeded) }
