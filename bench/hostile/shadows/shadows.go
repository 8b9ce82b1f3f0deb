// Package shadows has servers that misbehave, each in one way, as the shadow of a
// mirroring proxy may. They speak HTTP/1.1 or gRPC as far as their state lets
// them, and count what they saw and how often their fault happened.
package shadows

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"
)

// A Protocol is what a shadow speaks.
type Protocol string

// The protocols. GRPC is HTTP/2 without TLS from the first byte on.
const (
	HTTP Protocol = "HTTP/1.1"
	GRPC Protocol = "gRPC"
)

// A State is how a shadow behaves.
type State string

// The states of a shadow.
const (
	Off          State = "off" // the proxy runs without mirroring
	Fast         State = "fast"
	Slow         State = "2 s slow"
	BlackHole    State = "black hole" // accepts, never reads
	SYNBlackHole State = "SYN black hole"
	ResetMidBody State = "RST mid-body"
	Errors       State = "500s"
	Garbage      State = "garbage bytes"
	Endless      State = "endless body"
	GzipBomb     State = "gzip bomb"
	Flood1xx     State = "1xx flood"
	GoAwayStorm  State = "h2 GOAWAY storm"
	MaxFrame0    State = "h2 SETTINGS_MAX_FRAME_SIZE=0"
	TLSStall     State = "TLS stall"

	// StopsReading reads a copy's head and the beginning of its body and no
	// more. It is for uploads, and not one of All.
	StopsReading State = "stops reading"
)

// All returns the states from Off to TLSStall, in order.
func All() []State {
	return []State{Off, Fast, Slow, BlackHole, SYNBlackHole, ResetMidBody, Errors, Garbage, Endless, GzipBomb, Flood1xx, GoAwayStorm, MaxFrame0, TLSStall}
}

// SlowFor is how long a Slow shadow takes over each answer.
const SlowFor = 2 * time.Second

// Bites says what is counted as the state's fault having happened, in the
// plural; "" for Off.
func (s State) Bites() string { return bites[s] }

var bites = map[State]string{
	Fast:         "answers",
	Slow:         "answers after 2 s",
	BlackHole:    "connections with unread bytes",
	SYNBlackHole: "connects seen waiting",
	ResetMidBody: "resets",
	Errors:       "500s",
	Garbage:      "bursts of garbage",
	Endless:      "answers past 32 KiB",
	GzipBomb:     "bombs",
	Flood1xx:     "floods of 100 heads",
	GoAwayStorm:  "GOAWAYs",
	MaxFrame0:    "such SETTINGS",
	TLSStall:     "ClientHellos unanswered",
	StopsReading: "copies stopped with bytes unread",
}

// Evidence is what a shadow saw and did.
type Evidence struct {
	Conns int64 // accepted
	Heads int64 // requests whose head was read
	Bytes int64 // read, or found waiting where nothing is read
	Bites int64 // how often the fault happened, in the unit of the state
}

// A Shadow listens and misbehaves until it is closed. Its methods may be called
// from any goroutine.
type Shadow struct {
	// Addr is for the proxy: host:port, with https:// where it shall speak TLS.
	Addr string

	state    State
	protocol Protocol

	conns, heads, bytes, bites atomic.Int64

	l      net.Listener
	closed chan struct{}
	wg     sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // nil after Close
}

// New starts a shadow on a free port of 127.0.0.1. One that is Off is never
// asked.
func New(state State, p Protocol) (*Shadow, error) {
	lc := net.ListenConfig{}
	if state == BlackHole || state == StopsReading {
		// Else the kernel would read some megabytes on the shadow's behalf.
		lc.Control = func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 64<<10) }); e != nil {
				return e
			}
			return err
		}
	}
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Shadow{state: state, protocol: p, Addr: l.Addr().String(), l: l, closed: make(chan struct{}), open: map[net.Conn]bool{}}
	if state == TLSStall {
		s.Addr = "https://" + s.Addr
	}
	if state == SYNBlackHole {
		if err := s.fill(); err != nil {
			s.Close()
			return nil, err
		}
		s.wg.Go(s.watchConnects)
		return s, nil
	}
	s.wg.Go(s.accept)
	return s, nil
}

// Evidence is what it saw and did so far.
func (s *Shadow) Evidence() Evidence {
	return Evidence{s.conns.Load(), s.heads.Load(), s.bytes.Load(), s.bites.Load()}
}

// Bitten waits until the fault has happened, at most for d.
func (s *Shadow) Bitten(d time.Duration) bool {
	for end := time.Now().Add(d); s.bites.Load() == 0; {
		if time.Now().After(end) {
			return false
		}
		s.pause(5 * time.Millisecond)
	}
	return true
}

// pause waits for d or the end of the shadow, and reports whether it lives.
func (s *Shadow) pause(d time.Duration) bool {
	select {
	case <-s.closed:
		return false
	case <-time.After(d):
		return true
	}
}

// Close ends it and all its connections.
func (s *Shadow) Close() {
	_ = s.l.Close()
	close(s.closed)
	s.mu.Lock()
	for c := range s.open {
		_ = c.Close()
	}
	s.open = nil
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Shadow) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		_ = c.Close()
		return false
	}
	s.open[c] = true
	return true
}

func (s *Shadow) accept() {
	for {
		c, err := s.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors
			s.pause(10 * time.Millisecond)
			continue
		}
		s.conns.Add(1)
		if !s.keep(c) {
			return
		}
		s.wg.Go(func() {
			defer func() {
				_ = c.Close()
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.open, c)
			}()
			s.serve(c.(*net.TCPConn))
		})
	}
}

func (s *Shadow) serve(c *net.TCPConn) {
	switch {
	case s.state == BlackHole || s.state == TLSStall:
		s.hold(c)
	case s.protocol == GRPC:
		s.serveH2(c)
	default:
		s.serveHTTP(c)
	}
}

// hold never reads. That bytes came is seen by looking at them without taking
// them out.
func (s *Shadow) hold(c *net.TCPConn) {
	first := make([]byte, 4<<10)
	n, err := peek(c, first)
	if err != nil || n == 0 {
		return
	}
	s.bytes.Add(int64(n))
	if s.state == TLSStall && first[0] != 22 { // no handshake record
		return
	}
	s.bites.Add(1)
	<-s.closed
}

// peek waits for bytes and leaves them where they are.
func peek(c *net.TCPConn, p []byte) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Read(func(fd uintptr) bool {
		n, _, err = unix.Recvfrom(int(fd), p, unix.MSG_PEEK)
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, errors.Join(e, err)
}

// fill makes the kernel leave SYNs to this listener unanswered: its queue of
// accepted connections has one place, which is taken and never freed. A
// blackhole route does the same to the one who connects, and needs root.
func (s *Shadow) fill() error {
	raw, err := s.l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return err
	}
	if e := raw.Control(func(fd uintptr) { err = unix.Listen(int(fd), 0) }); e != nil || err != nil {
		return errors.Join(e, err)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", s.Addr, 300*time.Millisecond)
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return nil
		}
		if err != nil {
			return err
		}
		s.keep(c)
	}
	return errors.New("the listener's queue does not fill up")
}

// watchConnects counts the sockets that wait for an answer to their SYN.
func (s *Shadow) watchConnects() {
	seen := map[string]bool{}
	a := s.l.Addr().(*net.TCPAddr)
	ip := a.IP.To4()
	// An address as the kernel prints it: the 32 bits in the machine's order.
	want := fmt.Sprintf("%02X%02X%02X%02X:%04X", ip[3], ip[2], ip[1], ip[0], a.Port)
	for s.pause(20 * time.Millisecond) {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return
		}
		for line := range strings.Lines(string(table)) {
			f := strings.Fields(line)
			const synSent = "02"
			if len(f) > 3 && f[2] == want && f[3] == synSent && !seen[f[1]] {
				seen[f[1]] = true
				s.bites.Add(1)
			}
		}
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// serveHTTP reads requests of HTTP/1.1 and answers each as the state wants,
// until the state or the proxy ends the connection.
func (s *Shadow) serveHTTP(c *net.TCPConn) {
	r := bufio.NewReader(counted{c, &s.bytes})
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		s.heads.Add(1)
		if s.state == StopsReading {
			s.stopReading(c, req.Body)
			return
		}
		if s.afterBody() {
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
		if !s.answer(c, req.Method) {
			return
		}
	}
}

// afterBody tells states that answer a whole request from those that strike
// once its head is there.
func (s *Shadow) afterBody() bool {
	switch s.state {
	case Fast, Slow, Errors, GzipBomb:
		return true
	default:
		return false
	}
}

// stopReading reads the beginning of a body and waits until more is there to be
// read, which proves that the copy was under way.
func (s *Shadow) stopReading(c *net.TCPConn, body io.Reader) {
	if _, err := io.CopyN(io.Discard, body, 16<<10); err != nil {
		return
	}
	if n, err := peek(c, make([]byte, 1)); err == nil && n > 0 {
		s.bites.Add(1)
		<-s.closed
	}
}

// answer is one answer of HTTP/1.1; false ends the connection.
func (s *Shadow) answer(c *net.TCPConn, method string) bool {
	head := "HTTP/1.1 200 OK\r\nContent-Type: application/x-shadow\r\n"
	whole := func(head, body string) bool {
		text := fmt.Sprintf("%sContent-Length: %d\r\n\r\n", head, len(body))
		if method != http.MethodHead {
			text += body
		}
		return s.write(c, text, true)
	}
	switch s.state {
	case Fast:
		return whole(head, "shadow")
	case Slow:
		if !s.pause(SlowFor) {
			return false
		}
		return whole(head, "shadow")
	case Errors:
		return whole("HTTP/1.1 500 Internal Server Error\r\n", "oops")
	case GzipBomb:
		return whole(head+"Content-Encoding: gzip\r\n", bomb())
	case ResetMidBody:
		s.write(c, head+"Content-Length: 1048576\r\n\r\n"+strings.Repeat("x", 2000), false)
		s.reset(c)
	case Garbage:
		s.write(c, garbage(), true)
	case Endless:
		s.write(c, head+"Transfer-Encoding: chunked\r\n\r\n", false)
		s.repeat(c, "1000\r\n"+strings.Repeat("x", 4096)+"\r\n", 8)
	case Flood1xx:
		s.repeat(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n", 10), 10)
	case GoAwayStorm:
		f := http2.NewFramer(c, nil)
		if f.WriteSettings() == nil && f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, nil) == nil {
			s.bites.Add(1)
		}
	case MaxFrame0:
		f := http2.NewFramer(c, nil)
		if f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize}) == nil {
			s.bites.Add(1)
		}
		_, _ = io.Copy(io.Discard, c)
	}
	return false
}

func (s *Shadow) write(c net.Conn, text string, bite bool) bool {
	_, err := io.WriteString(c, text)
	if err == nil && bite {
		s.bites.Add(1)
	}
	return err == nil
}

// reset closes with RST.
func (s *Shadow) reset(c *net.TCPConn) {
	if c.SetLinger(0) == nil && c.Close() == nil {
		s.bites.Add(1)
	}
}

// repeat writes text until the proxy has enough, and bites once it was written
// so many times. What the shadow sends is kept to a megabyte a second and
// connection, as proxy, live and client share the machine with it.
func (s *Shadow) repeat(c net.Conn, text string, times int) {
	for i := 1; ; i++ {
		if !s.write(c, text, i == times) {
			return
		}
		if i >= times && !s.pause(5*time.Millisecond) {
			return
		}
	}
}

func garbage() string {
	b := make([]byte, 4<<10)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}

// bomb is 32 MiB of zeros, packed into 32 KiB.
var bomb = sync.OnceValue(func() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.Copy(w, io.LimitReader(zeros{}, 32<<20)) // a Buffer takes it all
	_ = w.Close()
	return b.String()
})

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
