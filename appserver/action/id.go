package action

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits of names, in bytes.
const (
	maxUser  = 256
	maxID    = 128 // of a thread, a message, an idempotency key
	maxEmail = 254
	maxTag   = 64
)

// Digest tells requests apart.
type Digest [16]byte

// DigestOf returns the first half of request's SHA-256. A digest guards a user's keys
// against that user's own mistakes, which 128 bits do.
func DigestOf(request []byte) Digest {
	sum := sha256.Sum256(request)
	return Digest(sum[:16])
}

// ThreadID returns the id of the thread that u begins under an idempotency key: the
// same for the same, so that a retry cannot begin another even where nobody remembers
// the first.
func ThreadID(u User, key string) string { return "t-" + made("thread", string(u), key) }

// MessageID returns the id of the message that u sends under an idempotency key.
func MessageID(u User, key string) string { return "m-" + made("message", string(u), key) }

// made returns 26 of a-z2-7, 130 bits of a hash of names that hold no zero byte.
func made(names ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(names, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:26]
}

// ValidID reports whether s can be the id of a thread or a message, or an idempotency
// key: 1-128 bytes of printable ASCII without space.
func ValidID(s string) bool { return printable(s, maxID) }

// ValidTag reports whether s can be a tag: 1-64 bytes of UTF-8 without control
// characters.
func ValidTag(s string) bool {
	return s != "" && len(s) <= maxTag && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}
