package population

import "math/rand/v2"

// AppendText appends n bytes of ASCII text: sentences of words from a fixed list. In blocks
// of 256 kB flate makes it 2.5 to 3 times smaller, about as written language, so that
// compression in a store or on a wire costs and gains what it would.
func AppendText(dst []byte, n int, r *rand.Rand) []byte {
	end := len(dst) + n
	for start := true; len(dst) < end; {
		bits := r.Uint64()
		// The square of a uniform number prefers the common words at the front.
		u := float64(bits>>12) * 0x1p-52
		word := words[int(u*u*float64(len(words)))]
		at := len(dst)
		dst = append(dst, word...)
		if start {
			dst[at] -= 'a' - 'A'
		}
		start = false
		switch c := bits & 0x3f; {
		case c < 5:
			dst = append(dst, ". "...)
			start = true
		case c < 9:
			dst = append(dst, ", "...)
		case c == 9:
			dst = append(dst, "? "...)
			start = true
		case c == 10:
			dst = append(dst, "!\n"...)
			start = true
		case c < 13:
			digits := bits >> 6 & 0x3f
			dst = append(dst, ' ', '1'+byte(digits%9), '0'+byte(digits/9), ' ')
		default:
			dst = append(dst, ' ')
		}
	}
	return dst[:end]
}
