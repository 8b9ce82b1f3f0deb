package pairstream

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pairv1 "darklaunch/api/pair/v1"
)

// MaxDecoded bounds the memory that a record takes once it is decoded, in bytes.
// Two bytes on the wire may be an empty message of two hundred in memory, so that
// MaxRecord alone would allow for half a gigabyte.
const MaxDecoded = 16 << 20

// Decode decodes what Raw returned. ErrTooLarge: it would take more than about
// MaxDecoded bytes of memory; it has not been decoded.
func Decode(raw []byte) (*pairv1.Record, error) {
	if len(raw) > MaxDecoded/128 { // what is shorter can't grow so large
		cost, err := Cost(raw)
		if err != nil {
			return nil, err
		}
		if cost > MaxDecoded {
			return nil, fmt.Errorf("about %d bytes when decoded: %w", cost, ErrTooLarge)
		}
	}
	record := new(pairv1.Record)
	if err := proto.Unmarshal(raw, record); err != nil {
		return nil, err
	}
	return record, nil
}

// Cost estimates, from above, how many bytes of memory what Raw returned takes when
// it is decoded; of what takes more than MaxDecoded it says no more than that. An
// error means that it can't be decoded.
func Cost(raw []byte) (int, error) {
	return weigh(raw, (*pairv1.Record)(nil).ProtoReflect().Descriptor())
}

// weigh is Cost of any message. It
// goes as deep as the messages are declared, which contain none of themselves.
func weigh(raw []byte, d protoreflect.MessageDescriptor) (int, error) {
	cost := 64 + 24*d.Fields().Len() // its struct: few fields take more than a slice's header
	for len(raw) > 0 {
		number, kind, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		raw = raw[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, raw); n < 0 {
				return 0, protowire.ParseError(n)
			}
			cost += 16 + n // an element of a list, or a field that nobody knows
			raw = raw[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(raw)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		raw = raw[n:]
		f := d.Fields().ByNumber(number)
		switch {
		case f == nil || f.Kind() == protoreflect.StringKind || f.Kind() == protoreflect.BytesKind:
			cost += len(value) + 24
		case f.Message() != nil:
			inner, err := weigh(value, f.Message())
			if err != nil {
				return 0, err
			}
			cost += inner + 16
		default:
			cost += 8 * len(value) // packed numbers of a byte each
		}
		if cost > MaxDecoded {
			return cost, nil
		}
	}
	return cost, nil
}

// Kind is what a record says.
type Kind int

// The kinds of records. KindNone is of a record without any.
const (
	KindNone Kind = iota
	KindHeader
	KindWindow
	KindPair
)

// Peek returns the sequence and the kind of what Raw returned without decoding it.
func Peek(raw []byte) (sequence uint64, kind Kind, err error) {
	for len(raw) > 0 {
		number, wire, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return 0, KindNone, protowire.ParseError(n)
		}
		raw = raw[n:]
		if number == 1 && wire == protowire.VarintType {
			sequence, n = protowire.ConsumeVarint(raw)
		} else {
			n = protowire.ConsumeFieldValue(number, wire, raw)
		}
		if n < 0 {
			return 0, KindNone, protowire.ParseError(n)
		}
		raw = raw[n:]
		if wire == protowire.BytesType && number >= 2 && number <= 4 {
			kind = Kind(number - 1)
		}
	}
	return sequence, kind, nil
}

// TokenMagic begins the token that comes before the stream on a connection to
// who asks for one. Its length follows as a varint, and then the token.
const TokenMagic = "DLTOKEN1"

// Begins reports whether the first bytes of a connection, two of them at least, may
// be those of a stream. No HTTP request begins so.
func Begins(first []byte) bool { return string(first[:2]) == Magic[:2] }

// MaxToken is the longest token, in bytes.
const MaxToken = 4096

// ErrToken is returned by CheckToken where there is no token, or another one.
var ErrToken = errors.New("pair stream: not the token that is asked for")

// AppendToken appends token to dst as it comes before a stream.
func AppendToken(dst []byte, token string) []byte {
	return append(protowire.AppendVarint(append(dst, TokenMagic...), uint64(len(token))), token...)
}

// CheckToken reads the token before a stream and compares it with want. A token
// that comes where none is wanted is read and ignored; then r may also begin with
// Magic. ErrToken: it is missing or another one. Other errors are of r.
func CheckToken(r *bufio.Reader, want string) error {
	first, err := r.Peek(len(TokenMagic))
	if err != nil {
		return cut(err)
	}
	if string(first) != TokenMagic {
		if want == "" {
			return nil
		}
		return ErrToken
	}
	r.Discard(len(first)) // it is in the buffer
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return cut(err)
	}
	if size > MaxToken {
		return ErrToken
	}
	token := make([]byte, size)
	if _, err := io.ReadFull(r, token); err != nil {
		return cut(err)
	}
	got, wanted := sha256.Sum256(token), sha256.Sum256([]byte(want))
	if want != "" && subtle.ConstantTimeCompare(got[:], wanted[:]) != 1 {
		return ErrToken
	}
	return nil
}
