package search

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"darklaunch/appserver/action"
	"darklaunch/appserver/index"
)

// Limits of a query.
const (
	MaxQuery = 1 << 10 // bytes
	MaxTerms = 32
	maxDepth = 16 // of parentheses
)

// ErrQuery is what every error of Parse and Threads for its text is.
var ErrQuery = errors.New("query")

// Query is a parsed query. It is safe for concurrent use.
type Query struct{ root node }

// Parse returns the query that a text means:
//
//	query   = and { "OR" and }
//	and     = clause { [ "AND" ] clause }
//	clause  = [ "NOT" | "-" ] ( "(" query ")" | [ field ":" ] term )
//	term    = word | prefix "*" | '"' words '"'
//
// A term is sought in subject and body, or in a field: subject, body, file, from,
// with, in, tag, channel, is, after, before. A word that is cut into several, such as
// "half-past", means them side by side. Errors are ErrQuery and say where and what.
func Parse(text string, a *Analyzer) (*Query, error) {
	if len(text) > MaxQuery {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrQuery, len(text), MaxQuery)
	}
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("%w: want UTF-8", ErrQuery)
	}
	p := parser{text: text, analyzer: a}
	root := p.query()
	if p.space(); p.err == nil && p.at < len(text) {
		p.fail("unexpected %q", text[p.at:p.at+1])
	}
	if p.err != nil {
		return nil, p.err
	}
	return &Query{root}, nil
}

type parser struct {
	text     string
	at       int
	analyzer *Analyzer
	terms    int
	depth    int
	err      error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("%w at byte %d: %s", ErrQuery, p.at, fmt.Sprintf(format, args...))
	}
}

func (p *parser) space() {
	p.at = len(p.text) - len(strings.TrimLeftFunc(p.text[p.at:], unicode.IsSpace))
}

// operator takes an operator if it stands here as a word of its own.
func (p *parser) operator(op string) bool {
	p.space()
	rest, found := strings.CutPrefix(p.text[p.at:], op)
	if !found || rest != "" && !strings.ContainsAny(rest[:1], " \t\r\n()\"") {
		return false
	}
	p.at += len(op)
	return true
}

// char takes a character if it stands here.
func (p *parser) char(c byte) bool {
	if p.space(); p.at == len(p.text) || p.text[p.at] != c {
		return false
	}
	p.at++
	return true
}

func (p *parser) query() node {
	alternatives := anyOf{p.and()}
	for p.err == nil && p.operator("OR") {
		alternatives = append(alternatives, p.and())
	}
	if len(alternatives) == 1 {
		return alternatives[0]
	}
	return alternatives
}

func (p *parser) and() node {
	var clauses allOf
	positive := false
	for p.err == nil {
		if len(clauses) > 0 && p.operator("AND") {
			// Side by side means the same.
		} else if p.space(); p.at == len(p.text) || p.text[p.at] == ')' || p.peekOR() {
			break
		}
		clause, negated := p.clause()
		positive = positive || !negated
		clauses = append(clauses, clause)
	}
	if len(clauses) == 0 {
		p.fail("want a term")
	} else if !positive {
		p.fail("want something that is not negated")
	}
	return clauses
}

func (p *parser) peekOR() bool {
	at := p.at
	found := p.operator("OR")
	p.at = at
	return found
}

func (p *parser) clause() (n node, negated bool) {
	if negated = p.operator("NOT") || p.char('-'); negated {
		n, again := p.clauseOnce()
		if again {
			p.fail("want one NOT")
		}
		return not{n}, true
	}
	return p.clauseOnce()
}

func (p *parser) clauseOnce() (n node, negated bool) {
	if p.operator("NOT") || p.char('-') {
		return nil, true
	}
	if !p.char('(') {
		return p.term(), false
	}
	if p.depth++; p.depth > maxDepth {
		p.fail("more than %d parentheses deep", maxDepth)
		return nil, false
	}
	n = p.query()
	if p.depth--; p.err == nil && !p.char(')') {
		p.fail("want )")
	}
	return n, false
}

// term parses a term with its field.
func (p *parser) term() node {
	if p.terms++; p.terms > MaxTerms {
		p.fail("more than %d terms", MaxTerms)
		return nil
	}
	if p.operator("AND") {
		p.fail("want a term before AND")
		return nil
	}
	start := p.at
	field, has := p.field()
	value, quoted := p.value()
	if p.err != nil {
		return nil
	}
	if end := p.at; has {
		p.at = start
		n := p.fielded(field, value, quoted)
		p.at = end
		return n
	}
	return p.words([]byte{fieldSubject, fieldBody}, value, quoted)
}

var fields = [...]string{"subject", "body", "file", "from", "with", "in", "tag", "channel", "is", "after", "before"}

// field takes the name of a field and its colon, if one stands here.
func (p *parser) field() (string, bool) {
	p.space()
	for _, f := range fields {
		if strings.HasPrefix(p.text[p.at:], f+":") {
			p.at += len(f) + 1
			return f, true
		}
	}
	return "", false
}

// value takes a word, or what stands between quotes.
func (p *parser) value() (value string, quoted bool) {
	if p.at < len(p.text) && p.text[p.at] == '"' {
		value, _, closed := strings.Cut(p.text[p.at+1:], `"`)
		if !closed {
			p.fail("want a closing quote")
			return "", true
		}
		p.at += len(value) + 2
		return value, true
	}
	n := strings.IndexFunc(p.text[p.at:], func(r rune) bool { return unicode.IsSpace(r) || r == '(' || r == ')' || r == '"' })
	if n < 0 {
		n = len(p.text) - p.at
	}
	if n == 0 {
		p.fail("want a term")
	}
	p.at += n
	return p.text[p.at-n : p.at], false
}

// words is a word, a prefix or a phrase in any of some fields.
func (p *parser) words(fields []byte, value string, quoted bool) node {
	w := words{fields: fields}
	if prefix, is := strings.CutSuffix(value, "*"); is && !quoted {
		if w.prefix = true; utf8.RuneCountInString(prefix) < 2 {
			p.fail("want 2 characters or more before *")
		}
		w.terms = p.analyzer.prefixTokens(prefix)
	} else {
		w.terms = p.analyzer.Tokens(value)
	}
	if len(w.terms) == 0 {
		p.fail("nothing to search for in %q", value)
	}
	return w
}

// fielded is a term in a field.
func (p *parser) fielded(field, value string, quoted bool) node {
	if value == "" {
		p.fail("%s: want a value", field)
	}
	oneOf := func(names map[string]func(*candidate) bool, want string) node {
		is := names[value]
		if is == nil {
			p.fail("%s: got %q, want %s", field, value, want)
		}
		return meta{is: is}
	}
	switch field {
	case "subject":
		return p.words([]byte{fieldSubject}, value, quoted)
	case "body":
		return p.words([]byte{fieldBody}, value, quoted)
	case "file":
		return p.words([]byte{fieldFile}, value, quoted)
	case "from":
		return author{fold(value)}
	case "with":
		who := fold(value)
		return meta{is: func(c *candidate) bool { return c.with(who) }}
	case "tag":
		if !action.ValidTag(value) {
			p.fail("tag: want 1 to 64 bytes without control characters")
		}
		return meta{is: func(c *candidate) bool { return c.tagged(value) }}
	case "in":
		return oneOf(map[string]func(*candidate) bool{
			"inbox": func(c *candidate) bool { return c.folder() == action.FolderInbox },
			"other": func(c *candidate) bool { return c.folder() == action.FolderOther },
		}, "inbox or other")
	case "is":
		return oneOf(map[string]func(*candidate) bool{
			"read":     func(c *candidate) bool { return c.Read },
			"unread":   func(c *candidate) bool { return !c.Read },
			"archived": func(c *candidate) bool { return c.Archived },
		}, "read, unread or archived")
	case "channel":
		is := func(want action.Channel) func(*candidate) bool {
			return func(c *candidate) bool { return c.Channel == want }
		}
		return oneOf(map[string]func(*candidate) bool{"email": is(action.ChannelEmail), "sms": is(action.ChannelSMS),
			"chat": is(action.ChannelChat), "message": is(action.ChannelMessage)}, "email, sms, chat or message")
	}
	return p.date(field, value)
}

// date is after: or before:.
func (p *parser) date(field, value string) node {
	t, err := time.Parse(time.DateOnly, value)
	if err != nil {
		t, err = time.Parse(time.RFC3339Nano, value)
	}
	at, ok := action.TimeOf(t)
	if err != nil || !ok {
		p.fail(`%s: got %q, want a date like 2010-11-15, or RFC 3339 in quotes`, field, value)
	}
	if field == "before" {
		return date{before: &at}
	}
	return date{after: &at}
}

// fold returns an address as mailboxes keep it: the domain of an email address in lower
// case. A user id without @ stays as it is.
func fold(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		return address[:i] + strings.ToLower(address[i:])
	}
	return address
}

// Ranges returns what Run reads of the keywords: ranges of qualifiers, from <= q < to.
// A mailbox that does not hold its keywords in memory fetches these at once.
func (q *Query) Ranges() [][2][]byte {
	var all [][2][]byte
	q.root.ranges(func(from, to []byte) { all = append(all, [2][]byte{from, to}) })
	return all
}

// Threads returns the threads that have each of some keywords in a message that is not
// deleted or in the subject: words as in Parse, without operators. It is for
// index.Filter.Within.
func Threads(view index.View, cells index.Reader, a *Analyzer, keywords []string) (map[string]bool, error) {
	var within map[string]bool
	for _, k := range keywords {
		p := parser{analyzer: a}
		n := p.words([]byte{fieldSubject, fieldBody}, k, true)
		if p.err != nil {
			return nil, p.err
		}
		found, err := threads(view, cells, n.(words))
		if err != nil {
			return nil, err
		}
		for id := range within {
			if !found[id] {
				delete(within, id)
			}
		}
		if within == nil {
			within = found
		}
	}
	return within, nil
}
