package shadows

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestStates: a client that sends one request meets the fault of each state, the
// shadow counts it, and leaves nothing behind.
func TestStates(t *testing.T) {
	for _, protocol := range []Protocol{HTTP, GRPC} {
		for _, state := range append(All()[1:], StopsReading) {
			t.Run(fmt.Sprintf("%s %s", protocol, state), func(t *testing.T) {
				if state == Slow && testing.Short() {
					t.Skip("-short: takes 2 s")
				}
				defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
				s, err := New(state, protocol)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if e := s.Evidence(); e != (Evidence{}) {
					t.Errorf("before any request: got %+v, want nothing", e)
				}
				addr, tls := strings.CutPrefix(s.Addr, "https://")
				if tls != (state == TLSStall) {
					t.Errorf("the address is %s", s.Addr)
				}
				conn, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
				if state == SYNBlackHole {
					if e, ok := err.(net.Error); !ok || !e.Timeout() {
						t.Errorf("connect: got %v, want a time-out", err)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					drained := make(chan struct{})
					go func() { defer close(drained); _, _ = io.Copy(io.Discard, conn) }()
					defer func() { _ = conn.Close(); <-drained }()
					if err := send(conn, state, protocol); err != nil {
						t.Logf("sending ended with %v", err) // as it may: resets
					}
				}
				if !s.Bitten(10 * time.Second) {
					t.Errorf("got 0 %s; saw %+v", state.Bites(), s.Evidence())
				}
			})
		}
	}
}

// send sends the beginning of a TLS handshake, or one request with a body.
func send(conn net.Conn, state State, protocol Protocol) error {
	body := strings.Repeat("x", 32<<10)
	if state == TLSStall {
		_, err := conn.Write([]byte{22, 3, 1, 0, 200})
		return err
	}
	if protocol == HTTP {
		_, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		return err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/a/b"}, {":authority", "x"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return err
	}
	f := http2.NewFramer(conn, nil)
	for _, step := range []func() error{
		func() error { return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}) },
		func() error { return f.WriteWindowUpdate(0, 1<<20) },
		func() error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		},
		func() error { return f.WriteData(1, false, []byte(body[:16<<10])) },
		func() error { return f.WriteData(1, true, []byte(body[16<<10:])) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
