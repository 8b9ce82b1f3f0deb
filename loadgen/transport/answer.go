package transport

import (
	"bytes"
	"errors"
)

// Limits of one HTTP/1.x response head or trailer section. A server that sends
// more is answered with a closed connection.
const (
	maxHead = 64 << 10
	maxLine = 32 << 10
)

var (
	errProtocol = errors.New("answer breaks the protocol")
	errTooLarge = errors.New("answer is larger than allowed")
)

type answerState uint8

const (
	statusLine answerState = iota
	headerLine
	lengthBody
	closeBody
	chunkSize
	chunkBody
	chunkEnd
	trailerLine
)

// answer reads one HTTP/1.x response (RFC 9112) in pieces of any size. It does
// no I/O and keeps no body.
type answer struct {
	state   answerState
	head    bool // the request was HEAD
	status  int
	version byte // minor version
	limit   int64
	body    int64 // bytes of body so far
	left    int64 // of the body or chunk
	seen    int   // bytes of head and trailers so far
	line    []byte

	chunked, coded, lengthKnown bool
	closing, keep               bool
	matters                     bool           // the last header line decides framing
	sink                        func(p []byte) // sees the body; may be nil
}

// reset makes a ready for the answer to another request. Bodies longer than
// limit are cut.
func (a *answer) reset(head bool, limit int64, sink func([]byte)) {
	*a = answer{head: head, limit: limit, line: a.line[:0], sink: sink}
}

// begun says whether anything of the answer has been read.
func (a *answer) begun() bool { return a.state != statusLine || len(a.line) > 0 || a.seen > 0 }

// reusable says, after the end, whether the connection may carry another request.
func (a *answer) reusable() bool {
	return !a.closing && a.state != closeBody && (a.version >= 1 || a.keep)
}

// feed reads b and returns how many of its bytes belong to this answer, and
// whether it is complete. After an error the answer is of no further use.
func (a *answer) feed(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		switch a.state {
		case lengthBody, chunkBody:
			k := min(int64(len(b)-n), a.left)
			if err := a.data(b[n : n+int(k)]); err != nil {
				return n, false, err
			}
			n += int(k)
			if a.left -= k; a.left > 0 {
				continue
			}
			if a.state == lengthBody {
				return n, true, nil
			}
			a.state = chunkEnd
		case closeBody:
			if err := a.data(b[n:]); err != nil {
				return n, false, err
			}
			return len(b), false, nil
		default:
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				a.line = append(a.line, b[n:]...)
				if len(a.line) > maxLine || a.seen+len(a.line) > maxHead {
					return n, false, errProtocol
				}
				return len(b), false, nil
			}
			line := b[n : n+i]
			n += i + 1
			if len(a.line) > 0 {
				a.line = append(a.line, line...)
				line = a.line
				a.line = a.line[:0]
			}
			if done, err := a.take(line); done || err != nil {
				return n, done, err
			}
		}
	}
	return n, false, nil
}

// eof says that the connection was closed, and returns whether that completes
// the answer.
func (a *answer) eof() bool { return a.state == closeBody }

func (a *answer) data(p []byte) error {
	if a.body += int64(len(p)); a.body > a.limit {
		return errTooLarge
	}
	if a.sink != nil && len(p) > 0 {
		a.sink(p)
	}
	return nil
}

// take reads one line, without its line feed.
func (a *answer) take(line []byte) (done bool, err error) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	// Chunk size lines are bounded by maxLine alone: a long body has many.
	if a.state != chunkSize && a.state != chunkEnd {
		if a.seen += len(line) + 2; a.seen > maxHead || len(line) > maxLine {
			return false, errProtocol
		}
	}
	switch a.state {
	case statusLine:
		return false, a.takeStatus(line)
	case headerLine:
		if len(line) == 0 {
			return a.headEnd()
		}
		return false, a.takeHeader(line)
	case chunkSize:
		return false, a.takeChunk(line)
	case chunkEnd:
		if len(line) != 0 {
			return false, errProtocol
		}
		a.state = chunkSize
	case trailerLine:
		if len(line) == 0 {
			return true, nil
		}
		if bytes.IndexByte(line, ':') <= 0 {
			return false, errProtocol
		}
	}
	return false, nil
}

func (a *answer) takeStatus(line []byte) error {
	// HTTP/1.x NNN, then a space and any reason, or nothing.
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return errProtocol
	}
	if line[7] != '0' && line[7] != '1' {
		return errProtocol
	}
	a.version, a.status = line[7]-'0', 0
	for _, d := range line[9:12] {
		if d < '0' || d > '9' {
			return errProtocol
		}
		a.status = a.status*10 + int(d-'0')
	}
	if a.status < 100 {
		return errProtocol
	}
	a.state = headerLine
	return nil
}

func (a *answer) takeHeader(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		// Obsolete folding: harmless unless it continues what frames the body.
		if a.matters {
			return errProtocol
		}
		return nil
	}
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return errProtocol
	}
	name := line[:colon]
	for _, c := range name {
		if c <= ' ' || c == 0x7f {
			return errProtocol
		}
	}
	a.matters = true
	switch {
	case len(name) == 14 && fold(name, "content-length"):
		return a.takeLength(trim(line[colon+1:]))
	case len(name) == 17 && fold(name, "transfer-encoding"):
		// Only the last coding frames the body, and only chunked does so.
		v := trim(line[colon+1:])
		if i := bytes.LastIndexByte(v, ','); i >= 0 {
			v = trim(v[i+1:])
		}
		a.chunked, a.coded = fold(v, "chunked"), true
	case len(name) == 10 && fold(name, "connection"):
		for v := range bytes.SplitSeq(line[colon+1:], []byte{','}) {
			switch v = trim(v); {
			case fold(v, "close"):
				a.closing = true
			case fold(v, "keep-alive"):
				a.keep = true
			}
		}
	default:
		a.matters = false
	}
	return nil
}

func (a *answer) takeLength(v []byte) error {
	var n int64
	if len(v) == 0 || len(v) > 18 {
		return errProtocol
	}
	for _, d := range v {
		if d < '0' || d > '9' {
			return errProtocol
		}
		n = n*10 + int64(d-'0')
	}
	if a.lengthKnown && n != a.left {
		return errProtocol
	}
	a.lengthKnown, a.left = true, n
	return nil
}

// headEnd decides what frames the body (RFC 9112 §6.3).
func (a *answer) headEnd() (done bool, err error) {
	switch {
	case a.status == 101:
		return false, errProtocol // nothing here asked for an upgrade
	case a.status < 200:
		*a = answer{head: a.head, seen: a.seen, limit: a.limit, line: a.line[:0], sink: a.sink}
		return false, nil
	case a.head || a.status == 204 || a.status == 304:
		return true, nil
	case a.chunked:
		a.closing = a.closing || a.lengthKnown // two framings: trust the connection no further
		a.state = chunkSize
	case a.coded:
		a.state = closeBody
	case !a.lengthKnown:
		a.state = closeBody
	case a.left == 0:
		return true, nil
	default:
		a.state = lengthBody
	}
	return false, nil
}

func (a *answer) takeChunk(line []byte) error {
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		line = line[:i]
	}
	line = trim(line)
	if len(line) == 0 || len(line) > 15 {
		return errProtocol
	}
	a.left = 0
	for _, c := range line {
		var d byte
		switch {
		case '0' <= c && c <= '9':
			d = c - '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			d = c | 0x20 - 'a' + 10
		default:
			return errProtocol
		}
		a.left = a.left<<4 | int64(d)
	}
	a.state = chunkBody
	if a.left == 0 {
		a.state = trailerLine
		a.seen = 0
	}
	return nil
}

// fold says whether b equals s, which is in lower case, without regard to case.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range b {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
