package hist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The sizes of the V2 form: an outer header (cookie, compressed length), then,
// compressed, an inner one (cookie, payload length, offset, digits, lowest,
// highest, ratio) and at most nine bytes a counter.
const (
	outerHeader = 8
	innerHeader = 40
	maxInflated = innerHeader + 9*slots
)

// MaxEncoded is the longest input that Decode looks at, in bytes: the longest
// that Encode can write, where nothing compresses, and some to spare.
const MaxEncoded = 512 << 10

// maxTotal bounds the total of a decoded Hist, so that a thousand of them can be
// merged without overflow, and every count is exact in JSON.
const maxTotal = 1 << 53

// Encode returns h in HdrHistogram's V2 compressed form, base64 as all of its
// implementations log it; values are in ns. The form carries the counts alone:
// neither the exact sum nor Clamped.
func (h *Hist) Encode() ([]byte, error) {
	counts := make([]int64, slots)
	h.each(func(i int, n int64) bool {
		counts[i] = n
		return true
	})
	b, err := hdrhistogram.Import(&hdrhistogram.Snapshot{
		LowestTrackableValue:  1,
		HighestTrackableValue: int64(Highest),
		SignificantFigures:    digits,
		Counts:                counts,
	}).Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote. Input that is longer than MaxEncoded, damaged,
// followed by something else, of another geometry (range or digits), or that
// counts beyond Highest or more than 2^53 durations in all is an error. Decode
// allocates less than 4 MiB, whatever the input. Sum and Mean of the result are
// estimates.
func Decode(encoded []byte) (*Hist, error) {
	if err := inspect(encoded); err != nil {
		return nil, fmt.Errorf("decode histogram: %w", err)
	}
	decoded, err := hdrhistogram.Decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("decode histogram: %w", err)
	}
	if n := decoded.TotalCount(); n > maxTotal {
		return nil, fmt.Errorf("decode histogram: %d durations, more than can be true", n)
	}
	h := New()
	for i, n := range decoded.Export().Counts {
		if n == 0 {
			continue
		}
		if i > slot(int64(Highest)) {
			return nil, fmt.Errorf("decode histogram: counts beyond %v", Highest)
		}
		h.add(i, n)
		h.sum = h.sum.plus(product(middle(i), n))
	}
	return h, nil
}

// inspect refuses what hdrhistogram-go would not: it decodes any geometry, up
// to 50 MB of counters, and ignores what follows the compressed contents.
func inspect(encoded []byte) error {
	if len(encoded) > MaxEncoded {
		return fmt.Errorf("%d bytes, more than %d", len(encoded), MaxEncoded)
	}
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(raw, encoded)
	if err != nil {
		return err
	}
	raw = raw[:n]
	if len(raw) < outerHeader {
		return io.ErrUnexpectedEOF
	}
	if length := binary.BigEndian.Uint32(raw[4:]); int64(length) != int64(len(raw)-outerHeader) {
		return fmt.Errorf("contents of %d bytes where %d are declared", len(raw)-outerHeader, length)
	}
	contents := bytes.NewReader(raw[outerHeader:])
	z, err := zlib.NewReader(contents)
	if err != nil {
		return err
	}
	defer z.Close()
	var header [innerHeader]byte
	if _, err := io.ReadFull(z, header[:]); err != nil {
		return err
	}
	figures := binary.BigEndian.Uint32(header[12:])
	lowest, highest := binary.BigEndian.Uint64(header[16:]), binary.BigEndian.Uint64(header[24:])
	if figures != digits || lowest != 1 || highest != uint64(Highest) {
		return fmt.Errorf("geometry %d…%d at %d digits, not 1…%d at %d", lowest, highest, figures, int64(Highest), digits)
	}
	if _, err := io.CopyN(io.Discard, z, maxInflated-innerHeader+1); err == nil {
		return errors.New("more counters than the geometry has")
	} else if err != io.EOF {
		return err
	}
	if contents.Len() > 0 {
		return fmt.Errorf("%d bytes after the end", contents.Len())
	}
	return nil
}
