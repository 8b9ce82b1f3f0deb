package compare

import (
	"encoding/binary"
	"errors"
	"mime"
	"net/url"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	pairv1 "darklaunch/api/pair/v1"
	"darklaunch/internal/strictjson"
)

// Answer is what one role answered.
type Answer struct {
	// Failure is why there is no answer, or not all of it; "" if there is.
	Failure string
	// Status is HTTP's.
	Status int
	// GRPC is the status of a gRPC call, -1 of others.
	GRPC int
	// Header and Trailer have names in lower case. Values may be digests.
	Header, Trailer []Field
	Body            Body
}

// Field is a header or trailer field.
type Field struct{ Name, Value string }

// Body is the content of an answer.
type Body struct {
	// Hash is of the content as it was, under any function that both answers
	// share; empty if it is not known.
	Hash []byte
	// Size of the content as it was, in bytes.
	Size int64
	// Truncated says that Content is not all of it.
	Truncated bool
	// Format is how to read Content.
	Format  Format
	Content []byte
}

// Format is how a body is read.
type Format uint8

const (
	// Opaque is not read: Content is a digest, or raw bytes.
	Opaque Format = iota
	// JSON text; strings in it may be digests.
	JSON
	// RecordedForm is a form as a record has it: a JSON object of lists.
	RecordedForm
	// RecordedProto is gRPC messages as a record has them: a JSON list of objects
	// whose names are field numbers and whose values are lists.
	RecordedProto
	// Form is application/x-www-form-urlencoded.
	Form
	// GRPC is length-prefixed protobuf messages.
	GRPC
	// Proto is one protobuf message.
	Proto
)

// FormatOf returns how raw content of a media type is read.
func FormatOf(contentType string) Format {
	media, _, _ := mime.ParseMediaType(contentType)
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		return JSON
	case media == "application/x-www-form-urlencoded":
		return Form
	case media == "application/grpc" || media == "application/grpc+proto":
		return GRPC
	case media == "application/x-protobuf" || media == "application/protobuf":
		return Proto
	}
	return Opaque
}

// formats are the record's.
var formats = map[pairv1.Format]Format{
	pairv1.Format_FORMAT_JSON: JSON, pairv1.Format_FORMAT_FORM: RecordedForm, pairv1.Format_FORMAT_PROTO: RecordedProto,
}

// Recorded returns the answer of an exchange as a mirror recorded it. It shares
// x's memory.
func Recorded(x *pairv1.Exchange) *Answer {
	a := x.GetAnswer()
	out := &Answer{Failure: x.GetFailure(), Status: int(a.GetStatus()), GRPC: -1, Header: fields(a.GetHeader()), Trailer: fields(a.GetTrailer())}
	if a == nil && out.Failure == "" {
		out.Failure = "error"
	}
	if a.GetGrpcStatus() != 0 || a != nil && a.GrpcStatus != nil {
		out.GRPC = int(a.GetGrpcStatus())
	}
	b := a.GetBody()
	out.Body = Body{Hash: b.GetHash(), Size: b.GetSize(), Truncated: b.GetTruncated(), Format: formats[b.GetFormat()], Content: b.GetContent()}
	return out
}

func fields(list []*pairv1.Field) []Field {
	out := make([]Field, len(list))
	for i, f := range list {
		out[i] = Field{f.GetName(), f.GetValue()}
	}
	return out
}

// document is a body that was read: what encoding/json makes of a text, with
// json.Number, and for what JSON has not:
type document struct {
	place string // "" if it could not be
	root  any
}

type (
	// octets are bytes that are no text.
	octets string
	// entries are a map whose names are data.
	entries map[string]any
	// repeated are the values of a protobuf field, or the messages of a stream.
	repeated []any
)

// lazy is a body that is read when it is first needed.
type lazy struct {
	done bool
	document
}

func (l *lazy) read(b *Body, d protoreflect.MessageDescriptor) document {
	if !l.done {
		*l = lazy{true, b.read(d)}
	}
	return l.document
}

var errForm = errors.New("not well formed")

// read reads a body. d describes the messages in it, if known.
func (b *Body) read(d protoreflect.MessageDescriptor) document {
	if b.Format == Opaque || b.Truncated || len(b.Content) > MaxContent {
		return document{}
	}
	place, root, err := placeJSON, any(nil), error(nil)
	switch b.Format {
	case JSON:
		root, err = strictjson.Read(b.Content)
	case RecordedForm:
		place = placeForm
		root, err = strictjson.Read(b.Content)
	case Form:
		place = placeForm
		root, err = readForm(string(b.Content))
	case RecordedProto:
		place = placeProto
		if root, err = strictjson.Read(b.Content); err == nil {
			root, err = recordedProto(root, d)
		}
	case GRPC:
		place = placeProto
		root, err = readGRPC(b.Content, d)
	case Proto:
		place = placeProto
		root, err = readMessage(b.Content, d, 0)
	default:
		err = errForm
	}
	if err != nil {
		return document{}
	}
	return document{place, root}
}

func readForm(text string) (any, error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for name, list := range values {
		all := make([]any, len(list))
		for i, v := range list {
			all[i] = v
		}
		out[name] = all
	}
	return out, nil
}

// readGRPC reads length-prefixed messages. A compressed one is not looked into.
func readGRPC(b []byte, d protoreflect.MessageDescriptor) (any, error) {
	stream := repeated{}
	for len(b) > 0 {
		if len(b) < 5 || b[0] != 0 {
			return nil, errForm
		}
		size := uint64(binary.BigEndian.Uint32(b[1:]))
		if b = b[5:]; size > uint64(len(b)) {
			return nil, errForm
		}
		m, err := readMessage(b[:size], d, 0)
		if err != nil {
			return nil, err
		}
		stream, b = append(stream, m), b[size:]
	}
	return stream, nil
}
