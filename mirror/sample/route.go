package sample

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
)

// Route is one configured route.
type Route struct {
	// Pattern is "METHOD /path", or "/path" for every method; a gRPC method is
	// "/pkg.Service/Method". A segment {NAME} or {} matches any one, {NAME...}
	// at the end one or more. GET matches HEAD too. It names the route.
	Pattern string
	// Unsafe says that exchanges that may change state are copied.
	Unsafe bool
	// Touch adds the keys of other users that the exchange touches.
	Touch []Extractor
}

// Routes finds the route of a request. Where several match, the most specific
// one is meant, as in net/http: the one whose requests are all matched by the
// others too. It is safe for any number of goroutines.
type Routes struct {
	patterns []pattern // the more specific first
}

type pattern struct {
	route  *Route
	method string
	segs   []segment
	rest   bool // ends in {NAME...}
	hits   *atomic.Uint64
}

// NewRoutes returns the routes given. It is an error if one cannot be read, or
// if two overlap and neither is the more specific.
func NewRoutes(routes []Route) (*Routes, error) {
	r := &Routes{}
	for i := range routes {
		p, err := parsePattern(&routes[i])
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", routes[i].Pattern, err)
		}
		for j := range r.patterns {
			if q := &r.patterns[j]; p.conflicts(q) {
				return nil, fmt.Errorf("route %q: matches some requests of %q, and neither is the more specific", p.route.Pattern, q.route.Pattern)
			}
		}
		r.patterns = append(r.patterns, p)
	}
	// A pattern more specific than another comes before it in this order, as
	// it can only have more text, no open end, more segments and a method.
	slices.SortStableFunc(r.patterns, func(a, b pattern) int {
		return cmp.Or(cmp.Compare(b.texts(), a.texts()), compareBool(a.rest, b.rest),
			cmp.Compare(len(b.segs), len(a.segs)), cmp.Compare(methodRank(a.method), methodRank(b.method)))
	})
	return r, nil
}

func parsePattern(r *Route) (pattern, error) {
	p := pattern{route: r, hits: new(atomic.Uint64)}
	path := r.Pattern
	if method, rest, ok := strings.Cut(path, " "); ok {
		p.method, path = method, strings.TrimLeft(rest, " ")
		switch {
		case !isToken(method):
			return p, fmt.Errorf("want METHOD /path")
		case method != strings.ToUpper(method):
			return p, fmt.Errorf("matches nothing: methods are in capitals")
		}
	}
	if strings.ContainsAny(path, "?#") {
		return p, fmt.Errorf("matches nothing: a path has neither query nor fragment")
	}
	parts := strings.Split(path, "/")
	if parts[0] != "" || len(parts) < 2 {
		return p, fmt.Errorf("want METHOD /path or /path")
	}
	parts = parts[1:]
	if last := parts[len(parts)-1]; strings.HasPrefix(last, "{") && strings.HasSuffix(last, "...}") {
		p.rest, parts = true, parts[:len(parts)-1]
	}
	for _, part := range parts {
		s, err := parseSegment(part)
		if err != nil {
			return p, err
		}
		p.segs = append(p.segs, s)
	}
	return p, nil
}

func (p *pattern) texts() (n int) {
	for _, s := range p.segs {
		if !s.any {
			n++
		}
	}
	return n
}

// methodRank orders methods that can match one request: HEAD before GET before any.
func methodRank(method string) int {
	switch method {
	case "":
		return 2
	case "GET":
		return 1
	}
	return 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// conflicts reports whether p and q both match some request and neither is the
// more specific: there is something in which p is narrower, and something in
// which q is, or they are the same.
func (p *pattern) conflicts(q *pattern) bool {
	if p.method != q.method && !matchesMethod(p.method, q.method) && !matchesMethod(q.method, p.method) {
		return false
	}
	pMore, qMore := methodRank(p.method) < methodRank(q.method), methodRank(q.method) < methodRank(p.method)
	for i := 0; i < len(p.segs) || i < len(q.segs); i++ {
		switch {
		case i >= len(p.segs):
			if !p.rest {
				return false
			}
			return pMore // q goes on where p's end is open
		case i >= len(q.segs):
			if !q.rest {
				return false
			}
			return qMore
		case !p.segs[i].any && !q.segs[i].any:
			if p.segs[i].text != q.segs[i].text {
				return false
			}
		default:
			pMore = pMore || q.segs[i].any && !p.segs[i].any
			qMore = qMore || p.segs[i].any && !q.segs[i].any
		}
	}
	return p.rest == q.rest && pMore == qMore
}

func matchesMethod(pattern, method string) bool {
	return pattern == "" || pattern == method || pattern == "GET" && method == "HEAD"
}

// Find returns the route of a request, nil if none matches. path is as sent.
func (r *Routes) Find(method, path string) *Route {
	for i := range r.patterns {
		p := &r.patterns[i]
		if matchesMethod(p.method, method) && p.matches(path) {
			p.hits.Add(1)
			return p.route
		}
	}
	return nil
}

func (p *pattern) matches(path string) bool {
	for i := range p.segs {
		tail, ok := strings.CutPrefix(path, "/")
		if !ok {
			return false
		}
		part := tail
		if end := strings.IndexByte(tail, '/'); end >= 0 {
			part, path = tail[:end], tail[end:]
		} else {
			path = ""
		}
		if !p.segs[i].any && part != p.segs[i].text && (strings.IndexByte(part, '%') < 0 || unescaped(part) != p.segs[i].text) {
			return false
		}
	}
	return p.rest == strings.HasPrefix(path, "/")
}

// unescaped decodes a segment; one that cannot be decoded is itself.
func unescaped(part string) string {
	if text, err := url.PathUnescape(part); err == nil {
		return text
	}
	return part
}

// Unmatched lists the patterns that have matched no request so far: likely mistakes.
func (r *Routes) Unmatched() []string {
	var names []string
	for i := range r.patterns {
		if r.patterns[i].hits.Load() == 0 {
			names = append(names, r.patterns[i].route.Pattern)
		}
	}
	slices.Sort(names)
	return names
}
