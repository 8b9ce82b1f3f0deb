package search

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/blevesearch/bleve/v2/analysis"
	"github.com/blevesearch/bleve/v2/analysis/char/asciifolding"
	"github.com/blevesearch/bleve/v2/analysis/lang/cjk"
	"github.com/blevesearch/bleve/v2/analysis/lang/de"
	"github.com/blevesearch/bleve/v2/analysis/token/lowercase"
	"github.com/blevesearch/bleve/v2/analysis/token/porter"
	tokenizer "github.com/blevesearch/bleve/v2/analysis/tokenizer/unicode"
	"golang.org/x/text/unicode/norm"
)

// Languages that an Analyzer can be of. None treats all alike, which is what a mailbox
// of several languages wants: words are found as they are written, but for case and
// accents. The others find a word in its other forms too; CJK takes characters in
// pairs, which finds fewer false neighbours and no single characters.
const (
	None    = ""
	English = "en"
	German  = "de"
	CJK     = "cjk"
)

// maxTerm is how much of a word counts, in bytes; maxAddress of an address.
const (
	maxTerm    = 64
	maxAddress = 254
)

// Analyzer turns text into terms, that of messages and that of queries alike. It is
// safe for concurrent use.
type Analyzer struct {
	language string
	words    []analysis.TokenFilter // of a beginning of a word too
	stems    []analysis.TokenFilter // of whole words alone
}

// NewAnalyzer returns the analyzer of a language.
func NewAnalyzer(language string) (*Analyzer, error) {
	a := &Analyzer{language: language, words: []analysis.TokenFilter{lowercase.NewLowerCaseFilter()}}
	switch language {
	case None:
	case English:
		a.stems = []analysis.TokenFilter{porter.NewPorterStemmer()}
	case German:
		a.stems = []analysis.TokenFilter{de.NewGermanNormalizeFilter(), de.NewGermanLightStemmerFilter()}
	case CJK:
		a.words = append(a.words, cjk.NewCJKBigramFilter(false))
	default:
		return nil, fmt.Errorf("search: language %q, want one of %q, %q, %q and %q", language, None, English, German, CJK)
	}
	return a, nil
}

// Token is a term and where it stands in a text, from 1.
type Token struct {
	Term     string
	Position uint32
}

// Tokens returns the terms of a text: compatibility forms made one, accents and case
// taken off, cut at what is no letter, mark or digit; ideographs one by one. An email
// address stands whole beside its first part, and is cut into parts as well.
func (a *Analyzer) Tokens(text string) []Token { return a.tokens(text, true) }

// prefixTokens is Tokens of what may go on: it has no other forms, and an address in
// it is not whole.
func (a *Analyzer) prefixTokens(text string) []Token { return a.tokens(text, false) }

func (a *Analyzer) tokens(text string, complete bool) []Token {
	folded := plain(text)
	stream := segment(folded)
	var whole analysis.TokenStream
	if complete {
		whole = addresses(folded) // before filters, which write over the text
	}
	for _, f := range a.words {
		stream = f.Filter(stream)
	}
	if complete {
		for _, f := range a.stems {
			stream = f.Filter(stream)
		}
	}
	tokens := make([]Token, 0, len(stream)+len(whole))
	for _, t := range stream {
		if term := cut(string(t.Term), maxTerm); term != "" {
			tokens = append(tokens, Token{term, uint32(t.Position)})
		}
	}
	for _, t := range whole {
		at, known := slices.BinarySearchFunc(stream, t.Start, func(s *analysis.Token, start int) int { return s.Start - start })
		if known {
			tokens = append(tokens, Token{string(t.Term), uint32(stream[at].Position)})
		}
	}
	return tokens
}

// plain makes compatibility forms one and takes accents off. ASCII has neither.
func plain(text string) []byte {
	b := []byte(text)
	if ascii(b) {
		return b
	}
	return asciifolding.New().Filter(norm.NFKC.Bytes(b))
}

func ascii(text []byte) bool {
	for _, b := range text {
		if b >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// segment returns the letters, marks and digits of a text that stand together. In ASCII the
// segmentation of Unicode parts no two of these, so that it need not be asked.
func segment(text []byte) analysis.TokenStream {
	if !ascii(text) {
		return split(tokenizer.NewUnicodeTokenizer().Tokenize(text))
	}
	var found []analysis.Token
	for from := 0; from < len(text); from++ {
		end := from
		for end < len(text) && alphanumeric(text[end]) {
			end++
		}
		if end > from {
			found = append(found, analysis.Token{Term: text[from:end:end], Start: from, End: end, Position: len(found) + 1, Type: analysis.AlphaNumeric})
			from = end
		}
	}
	stream := make(analysis.TokenStream, len(found))
	for i := range found {
		stream[i] = &found[i]
	}
	return stream
}

func alphanumeric(b byte) bool {
	return '0' <= b && b <= '9' || 'A' <= b && b <= 'Z' || 'a' <= b && b <= 'z'
}

// split cuts tokens at what is no letter, mark or digit, of which the segmentation of
// Unicode lets some stand inside words, and numbers the pieces.
func split(stream analysis.TokenStream) analysis.TokenStream {
	pieces := make(analysis.TokenStream, 0, len(stream))
	for _, t := range stream {
		for from := 0; from < len(t.Term); {
			end := from
			for end < len(t.Term) {
				r, n := utf8.DecodeRune(t.Term[end:])
				if !unicode.In(r, unicode.L, unicode.M, unicode.N) {
					break
				}
				end += n
			}
			if end > from {
				piece := *t
				piece.Term, piece.Start, piece.End = t.Term[from:end:end], t.Start+from, t.Start+end
				piece.Position = len(pieces) + 1
				pieces = append(pieces, &piece)
				from = end
				continue
			}
			_, n := utf8.DecodeRune(t.Term[from:])
			from += n
		}
	}
	return pieces
}

var address = regexp.MustCompile(`[\pL\pN][\pL\pN._%+-]*@[\pL\pN][\pL\pN.-]*[\pL\pN]`)

// addresses returns the email addresses in text, in lower case.
func addresses(text []byte) analysis.TokenStream {
	if !slices.Contains(text, '@') {
		return nil
	}
	var found analysis.TokenStream
	for _, at := range address.FindAllIndex(text, -1) {
		if at[1]-at[0] <= maxAddress {
			found = append(found, &analysis.Token{Term: bytes.ToLower(text[at[0]:at[1]]), Start: at[0]})
		}
	}
	return found
}

// cut returns at most n bytes of s, cut between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
