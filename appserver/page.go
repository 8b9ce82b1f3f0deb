package appserver

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"
)

// A page token is where the next page begins, bound to the request that it is
// good for: 8 bytes of the digest of user and request, then the position, in
// base64. It grants nothing that its bearer may not read anyway, so that a digest
// is enough: it is there to refuse a token that belongs to something else.
const boundBytes = 8

// bind is the digest of a request without what may change from page to page.
func bind(user string, r proto.Message) []byte {
	r = proto.Clone(r)
	m := r.ProtoReflect()
	for _, name := range []string{"page_size", "page_token"} {
		m.Clear(m.Descriptor().Fields().ByTextName(name))
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		panic(err) // it has come over the wire
	}
	h := sha256.New()
	h.Write(binary.AppendUvarint(nil, uint64(len(user))))
	h.Write([]byte(user))
	h.Write([]byte(m.Descriptor().FullName()))
	h.Write(b)
	return h.Sum(nil)[:boundBytes]
}

// pageToken is the token for a position of a request's answer.
func pageToken(user string, r proto.Message, position []byte) string {
	return base64.RawURLEncoding.EncodeToString(slices.Concat(bind(user, r), position))
}

// position is the inverse of pageToken; nil for the first page. The error is for the caller.
func position(user string, r interface {
	proto.Message
	GetPageToken() string
}) ([]byte, error) {
	if r.GetPageToken() == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(r.GetPageToken())
	if err != nil || len(b) <= boundBytes || string(b[:boundBytes]) != string(bind(user, r)) {
		return nil, invalid("page_token", "want the next_page_token of this request's last answer")
	}
	return b[boundBytes:], nil
}
