package sample

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/dchest/siphash"
)

// hasher is SipHash-2-4 under a key made from a salt. A keyed hash, because
// with a plain one anybody could pick names that all land in the sample.
type hasher struct{ k0, k1 uint64 }

func newHasher(salt string) hasher {
	sum := sha256.Sum256([]byte(salt))
	return hasher{binary.LittleEndian.Uint64(sum[:8]), binary.LittleEndian.Uint64(sum[8:16])}
}

func (h hasher) text(key string) uint64 {
	var buf [128]byte // keys are short: the copy stays on the stack
	return siphash.Hash(h.k0, h.k1, append(buf[:0], key...))
}

func (h hasher) number(n uint64) uint64 {
	var buf [8]byte
	binary.BigEndian.PutUint64(buf[:], n)
	return siphash.Hash(h.k0, h.k1, buf[:])
}

func bucket(hash uint64) int32 { return int32(hash % Buckets) }

// Bucket returns the bucket of a key under a salt: SipHash-2-4 of its UTF-8
// text, with the first 16 bytes of SHA-256(salt) as the key, mod Buckets.
func Bucket(salt, key string) int32 { return bucket(newHasher(salt).text(key)) }
