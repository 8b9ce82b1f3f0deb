package shadow

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// headerBlock collects the fields of one block. A block must be decoded to its
// end whatever it holds, for the table that later ones need; what it may hold
// is bounded by what hpack and maxBlock let through.
type headerBlock struct {
	stream uint32
	end    bool // of the stream, too
	size   int  // bytes of fragments
	fields []hpack.HeaderField
	total  int // bytes of fields, as RFC 9113 §6.5.2 counts them
	max    int
}

func (h *headerBlock) add(f hpack.HeaderField) {
	if h.total += int(f.Size()); h.total <= h.max {
		h.fields = append(h.fields, f)
	}
}

// take implements speaker.
func (c *conn2) take(p []byte, at time.Time) {
	c.lastProgress = at
	if len(c.part) > 0 {
		c.part = append(c.part, p...)
		p = c.part
	}
	for c.err == nil {
		n, whole := frameLength(p)
		if !whole {
			break
		}
		c.src.Reset(p[:n])
		f, err := c.frame.ReadFrame()
		if err == nil {
			err = c.takeFrame(f)
		} else {
			err = readError(err)
		}
		if err != nil {
			c.fail(err)
		}
		p = p[n:]
	}
	c.part = append(c.part[:0], p...)
	if len(c.part) == 0 && cap(c.part) > 4<<10 {
		c.part = nil
	}
	if len(c.out) > 0 && c.err == nil {
		c.touch()
	}
}

// frameLength returns the length of the frame that p begins with, and whether
// all of it is there. One that is too long is whole with its header: reading it
// is an error.
func frameLength(p []byte) (n int, whole bool) {
	if len(p) < frameHeader {
		return 0, false
	}
	n = int(p[0])<<16 | int(p[1])<<8 | int(p[2])
	if n > minFrame {
		return frameHeader, true
	}
	return frameHeader + n, len(p) >= frameHeader+n
}

// end implements speaker.
func (c *conn2) end(err error) { c.fail(cut(err)) }

// readError is what an error of ReadFrame means for the calls.
func readError(err error) error {
	_, inStream := errors.AsType[http2.StreamError](err)
	_, inConn := errors.AsType[http2.ConnectionError](err)
	if inStream || inConn || errors.Is(err, http2.ErrFrameTooLarge) {
		return fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	return cut(err)
}

// takeFrame takes a frame. An error ends the connection.
func (c *conn2) takeFrame(f http2.Frame) error {
	c.idleFrames++
	if _, ok := f.(*http2.SettingsFrame); !ok && !c.settled {
		return fmt.Errorf("%w: does not begin with SETTINGS", ErrProtocol)
	}
	var err error
	switch f := f.(type) {
	case *http2.DataFrame:
		err = c.takeData(f)
	case *http2.HeadersFrame:
		err = c.takeHeaders(f)
	case *http2.ContinuationFrame:
		err = c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.RSTStreamFrame:
		c.takeReset(f)
	case *http2.SettingsFrame:
		err = c.takeSettings(f)
	case *http2.WindowUpdateFrame:
		err = c.takeWindow(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			c.out = append(appendFrame(c.out, http2.FramePing, http2.FlagPingAck, 0, len(f.Data)), f.Data[:]...)
		}
	case *http2.GoAwayFrame:
		c.takeGoAway(f)
	case *http2.PushPromiseFrame:
		err = fmt.Errorf("%w: push, which we do not take", ErrProtocol)
	}
	switch {
	case err != nil:
		return err
	case c.idleFrames > maxIdleFrames:
		return fmt.Errorf("%w: frames that move nothing", ErrProtocol)
	case len(c.out) > maxPending:
		return fmt.Errorf("%w: it reads nothing", ErrProtocol)
	}
	return nil
}

func (c *conn2) takeData(f *http2.DataFrame) error {
	n := int64(f.Length) // padding counts
	if c.unannounced += n; c.unannounced >= connWindow/4 {
		c.out = appendWindowUpdate(c.out, 0, c.unannounced)
		c.unannounced = 0
	}
	st := c.streams[f.StreamID]
	if st == nil {
		return c.known(f.StreamID)
	}
	if n > 0 {
		c.idleFrames = 0
	}
	if !st.started || st.head && len(f.Data()) > 0 {
		c.reset(st, http2.ErrCodeProtocol, fmt.Errorf("%w: content where none may be", ErrProtocol))
		return nil
	}
	if err := st.answer.write(f.Data()); err != nil {
		c.reset(st, http2.ErrCodeCancel, err)
		return nil
	}
	if f.StreamEnded() {
		c.whole(st)
		return nil
	}
	if st.unread += n; st.unread >= streamWindow/4 {
		c.out = appendWindowUpdate(c.out, st.id, st.unread)
		st.unread = 0
	}
	return nil
}

// known reports an error for a stream that we never opened. One that is over
// may still get frames that were on their way.
func (c *conn2) known(id uint32) error {
	if id%2 == 0 || id >= c.nextID {
		return fmt.Errorf("%w: stream %d, which was never opened", ErrProtocol, id)
	}
	return nil
}

// whole ends a stream whose answer is.
func (c *conn2) whole(st *stream) {
	if st.length >= 0 && st.length != st.answer.Size && !st.head && st.answer.Status != 304 {
		c.finishCut(st, fmt.Errorf("%w: content-length is not that of the content", ErrProtocol))
		return
	}
	c.finishCut(st, nil)
}

// finishCut ends a stream that the peer has ended. If it did so before it had
// the whole request, it is told that no more will come.
func (c *conn2) finishCut(st *stream, err error) {
	if !st.sent {
		c.out = appendReset(c.out, st.id, http2.ErrCodeCancel)
	}
	c.finish(st, err)
}

func (c *conn2) takeHeaders(f *http2.HeadersFrame) error {
	c.header = headerBlock{stream: f.StreamID, end: f.StreamEnded(), fields: c.header.fields[:0], max: c.header.max}
	if err := c.known(f.StreamID); err != nil {
		return err
	}
	return c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
}

func (c *conn2) takeBlock(fragment []byte, last bool) error {
	h := &c.header
	if h.size += len(fragment); h.size > h.max {
		return fmt.Errorf("%w: endless header", ErrTooLarge)
	}
	if _, err := c.decoder.Write(fragment); err != nil {
		return fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	if !last {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	st := c.streams[h.stream]
	if st == nil {
		return nil
	}
	c.idleFrames = 0
	err := error(nil)
	if h.total > h.max {
		err = fmt.Errorf("%w: header", ErrTooLarge)
	} else if st.started {
		err = st.trailer(h)
	} else {
		err = st.header(h, c)
	}
	switch {
	case err != nil:
		c.reset(st, http2.ErrCodeProtocol, err)
	case h.end:
		c.whole(st)
	}
	return nil
}

// header takes the header of an answer, interim or final.
func (st *stream) header(h *headerBlock, c *conn2) error {
	a := st.answer
	for _, f := range h.fields {
		if f.IsPseudo() {
			if f.Name != ":status" || a.Status != 0 {
				return fmt.Errorf("%w: pseudo-header field", ErrProtocol)
			}
			if a.Status = status([]byte(f.Value)); a.Status == 0 {
				return fmt.Errorf("%w: status", ErrProtocol)
			}
			continue
		}
		if f.Name == "content-length" {
			n, ok := contentLength(f.Value)
			if !ok || st.length >= 0 {
				return fmt.Errorf("%w: content-length", ErrProtocol)
			}
			st.length = n
		}
		if err := add(a, &a.Header, f.Name, f.Value); err != nil {
			return err
		}
	}
	a.First = c.lastProgress
	switch {
	case a.Status >= 200:
		st.started = true
		return nil
	case a.Status == 0, a.Status == 101, h.end:
		return fmt.Errorf("%w: no final status", ErrProtocol)
	}
	if a.interim++; a.interim > maxInterim {
		return fmt.Errorf("%w: too many interim answers", ErrProtocol)
	}
	a.Status, st.length = 0, -1
	a.Header.reset() // what they took stays counted
	return nil
}

func (st *stream) trailer(h *headerBlock) error {
	if !h.end {
		return fmt.Errorf("%w: trailer that does not end the stream", ErrProtocol)
	}
	for _, f := range h.fields {
		if f.IsPseudo() {
			return fmt.Errorf("%w: pseudo-header field in a trailer", ErrProtocol)
		}
		if err := add(st.answer, &st.answer.Trailer, f.Name, f.Value); err != nil {
			return err
		}
	}
	return nil
}

func (c *conn2) takeReset(f *http2.RSTStreamFrame) {
	st := c.streams[f.StreamID]
	if st == nil {
		return
	}
	c.idleFrames = 0
	st.sent = true // it wants no more
	c.finish(st, fmt.Errorf("%w: stream reset: %v", ErrCut, f.ErrCode))
}

func (c *conn2) takeSettings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	err := f.ForeachSetting(func(s http2.Setting) error {
		if s.Val > maxWindow && s.ID == http2.SettingInitialWindowSize || s.ID == http2.SettingMaxFrameSize && (s.Val < minFrame || s.Val > maxFrame) {
			return fmt.Errorf("%w: %v", ErrProtocol, s)
		}
		switch s.ID {
		case http2.SettingHeaderTableSize:
			c.encoder.SetMaxDynamicTableSizeLimit(s.Val)
			c.encoder.SetMaxDynamicTableSize(min(s.Val, maxTable))
		case http2.SettingMaxConcurrentStreams:
			c.maxStreams = s.Val
		case http2.SettingInitialWindowSize:
			grown := int64(s.Val) - c.firstWindow
			c.firstWindow = int64(s.Val)
			for _, st := range c.streams {
				if st.window += grown; st.window > maxWindow {
					return fmt.Errorf("%w: window overflow", ErrProtocol)
				}
			}
			c.touch()
		case http2.SettingMaxFrameSize:
			c.maxFrame = int(s.Val)
		}
		return nil
	})
	c.out = appendFrame(c.out, http2.FrameSettings, http2.FlagSettingsAck, 0, 0)
	if err == nil {
		c.settled = true
		c.b.http2.dispatch(c.b)
	}
	return err
}

func (c *conn2) takeWindow(f *http2.WindowUpdateFrame) error {
	n := int64(f.Increment)
	if f.StreamID == 0 {
		if c.window += n; c.window > maxWindow {
			return fmt.Errorf("%w: window overflow", ErrProtocol)
		}
	} else if st := c.streams[f.StreamID]; st != nil {
		if st.window += n; st.window > maxWindow {
			c.reset(st, http2.ErrCodeFlowControl, fmt.Errorf("%w: window overflow", ErrProtocol))
			return nil
		}
	} else {
		return c.known(f.StreamID)
	}
	if len(c.bodies) > 0 {
		c.idleFrames = 0
		c.touch()
	}
	return nil
}

// takeGoAway opens no more streams, and ends those that the peer says it has
// not looked at. They are not tried again: their first bytes were sent.
func (c *conn2) takeGoAway(f *http2.GoAwayFrame) {
	c.leaving = true
	for id, st := range c.streams {
		if id > f.LastStreamID {
			c.finish(st, errGoAway)
		}
	}
	c.leave()
}
