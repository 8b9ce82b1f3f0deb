package shadows

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2conn is one HTTP/2 connection to the shadow.
type h2conn struct {
	s *Shadow
	c *net.TCPConn
	r *bufio.Reader

	mu     sync.Mutex // of all that is written
	f      *http2.Framer
	enc    *hpack.Encoder
	buf    bytes.Buffer
	window int64            // what the peer takes for each new stream
	conn   int64            // what it takes on the connection
	credit map[uint32]int64 // and on each stream

	done chan struct{} // closed when nothing more is read
}

// pause waits for d or the end of the connection, and reports whether it lives.
func (h *h2conn) pause(d time.Duration) bool {
	select {
	case <-h.done:
		return false
	default:
		return h.s.pause(d)
	}
}

// serveH2 speaks HTTP/2 as far as the state does.
func (s *Shadow) serveH2(c *net.TCPConn) {
	h := &h2conn{s: s, c: c, r: bufio.NewReader(counted{c, &s.bytes}), window: 65535, conn: 65535, credit: map[uint32]int64{}, done: make(chan struct{})}
	h.f = http2.NewFramer(c, h.r)
	h.f.SetReuseFrames()
	h.enc = hpack.NewEncoder(&h.buf)
	if _, err := io.ReadFull(h.r, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	if s.state == Garbage {
		s.write(c, garbage(), true)
		return
	}
	var settings []http2.Setting
	if s.state == MaxFrame0 {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxFrameSize})
	}
	if h.f.WriteSettings(settings...) != nil {
		return
	}
	if s.state == MaxFrame0 {
		s.bites.Add(1)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.Close() // before waiting: what still writes has to notice
	defer close(h.done)
	for {
		f, err := h.f.ReadFrame()
		if err != nil || !h.take(f, &wg) {
			return
		}
	}
}

// take deals with one frame; false ends the connection.
func (h *h2conn) take(f http2.Frame, wg *sync.WaitGroup) bool {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return h.settings(f)
	case *http2.PingFrame:
		return f.IsAck() || h.locked(func() error { return h.f.WritePing(true, f.Data) })
	case *http2.WindowUpdateFrame:
		return h.locked(func() error {
			if f.StreamID == 0 {
				h.conn += int64(f.Increment)
			} else {
				h.credit[f.StreamID] += int64(f.Increment)
			}
			return nil
		})
	case *http2.HeadersFrame:
		h.s.heads.Add(1)
		h.locked(func() error { h.credit[f.StreamID] += h.window; return nil })
		return h.strikes(f.StreamID, f.StreamEnded(), wg)
	case *http2.DataFrame:
		if h.s.state == StopsReading {
			h.stopReading()
			return false
		}
		n := uint32(f.Length)
		if n > 0 && !h.locked(func() error {
			if err := h.f.WriteWindowUpdate(0, n); err != nil || f.StreamEnded() {
				return err
			}
			return h.f.WriteWindowUpdate(f.StreamID, n)
		}) {
			return false
		}
		if f.StreamEnded() && h.s.afterBody() {
			return h.answer(f.StreamID, wg)
		}
	case *http2.RSTStreamFrame:
		h.locked(func() error { delete(h.credit, f.StreamID); return nil })
	}
	return true
}

func (h *h2conn) settings(f *http2.SettingsFrame) bool {
	if f.IsAck() {
		return true
	}
	return h.locked(func() error {
		if w, ok := f.Value(http2.SettingInitialWindowSize); ok {
			h.window = int64(w)
		}
		return h.f.WriteSettingsAck()
	})
}

func (h *h2conn) locked(do func() error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return do() == nil
}

// strikes answers a stream whose head has come, where the state does not wait
// for its body, or there is none.
func (h *h2conn) strikes(id uint32, ended bool, wg *sync.WaitGroup) bool {
	switch {
	case h.s.state == StopsReading || h.s.state == MaxFrame0:
		return true
	case h.s.afterBody():
		return !ended || h.answer(id, wg)
	default:
		return h.answer(id, wg)
	}
}

// stopReading waits until there is more to read than was read: the copy is
// under way.
func (h *h2conn) stopReading() {
	waiting := h.r.Buffered()
	if waiting == 0 {
		waiting, _ = peek(h.c, make([]byte, 1))
	}
	if waiting > 0 {
		h.s.bites.Add(1)
		<-h.s.closed
	}
}

func (h *h2conn) answer(id uint32, wg *sync.WaitGroup) bool {
	s := h.s
	reply := func() bool {
		if !h.head(id, false, ":status", "200", "content-type", "application/grpc") ||
			!h.data(id, frame(false, []byte("shadow"))) ||
			!h.head(id, true, "grpc-status", "0") {
			return false
		}
		s.bites.Add(1)
		return true
	}
	switch s.state {
	case Fast:
		return reply()
	case Slow:
		wg.Go(func() {
			if h.pause(SlowFor) {
				reply()
			}
		})
	case Errors:
		if h.head(id, true, ":status", "500") {
			s.bites.Add(1)
		}
	case GzipBomb:
		if h.head(id, false, ":status", "200", "content-type", "application/grpc", "grpc-encoding", "gzip") &&
			h.data(id, frame(true, []byte(bomb()))) && h.head(id, true, "grpc-status", "0") {
			s.bites.Add(1)
		}
	case ResetMidBody:
		h.head(id, false, ":status", "200", "content-type", "application/grpc")
		h.data(id, frame(false, make([]byte, 1<<20))[:2000])
		s.reset(h.c)
		return false
	case Endless:
		if h.head(id, false, ":status", "200", "content-type", "application/grpc") {
			wg.Go(func() { h.endless(id) })
		}
	case Flood1xx:
		wg.Go(func() {
			for i := 1; h.head(id, false, ":status", "103", "link", "</a>; rel=preload"); i++ {
				if i == 100 {
					s.bites.Add(1)
				}
				if i > 100 && !s.pause(time.Millisecond) {
					return
				}
			}
		})
	case GoAwayStorm:
		if h.locked(func() error { return h.f.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("again")) }) {
			s.bites.Add(1)
		}
		return false
	}
	return true
}

// endless sends a message that has no end, as far as the peer's windows let it.
func (h *h2conn) endless(id uint32) {
	piece := []byte(strings.Repeat("x", 4096))
	h.data(id, []byte{0, 0xff, 0xff, 0xff, 0xff})
	for sent := 0; ; sent += len(piece) {
		if sent == 32<<10 {
			h.s.bites.Add(1)
		}
		for !h.credited(id, len(piece)) {
			if !h.pause(5*time.Millisecond) || h.gone(id) {
				return
			}
		}
		if !h.locked(func() error { return h.f.WriteData(id, false, piece) }) {
			return
		}
		if sent > 32<<10 && !h.pause(5*time.Millisecond) {
			return
		}
	}
}

// credited takes n bytes out of both windows if they are there.
func (h *h2conn) credited(id uint32, n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn < int64(n) || h.credit[id] < int64(n) {
		return false
	}
	h.conn -= int64(n)
	h.credit[id] -= int64(n)
	return true
}

// gone reports that the peer has given the stream up.
func (h *h2conn) gone(id uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, open := h.credit[id]
	return !open
}

// data sends what fits the initial windows of any peer.
func (h *h2conn) data(id uint32, b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), 16<<10)
		if !h.locked(func() error {
			h.conn -= int64(n)
			h.credit[id] -= int64(n)
			return h.f.WriteData(id, false, b[:n])
		}) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (h *h2conn) head(id uint32, end bool, fields ...string) bool {
	return h.locked(func() error {
		h.buf.Reset()
		for i := 0; i < len(fields); i += 2 {
			if err := h.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				return err
			}
		}
		return h.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: h.buf.Bytes(), EndStream: end, EndHeaders: true})
	})
}

// frame is a gRPC message as it stands in a body.
func frame(compressed bool, msg []byte) []byte {
	b := make([]byte, 5, 5+len(msg))
	if compressed {
		b[0] = 1
	}
	binary.BigEndian.PutUint32(b[1:], uint32(len(msg)))
	return append(b, msg...)
}
