package sample

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// MaxLearned is how many routes are learned; the rest are Other.
	MaxLearned = 200
	// Other is the route of requests that came after MaxLearned others, or
	// that make no sensible route.
	Other = "other"

	maxSegments = 16 // of a learned route
	maxText     = 32 // of a segment; longer ones are ids or titles
)

// Learner makes up routes for requests that match no configured one. A route
// is written as a pattern is, so that it can be pasted into a configuration.
// It depends on the requests and their order alone. Not safe for concurrent
// use. The zero Learner is ready.
type Learner struct {
	routes map[string]string // to itself, so that known routes cost no allocation
}

// Route returns the route of a request: "GET /users/{}", where {} stands for a
// segment that looks like data: numbers, UUIDs, hex, addresses and anything
// long or encoded. A gRPC request's is its path.
func (l *Learner) Route(method, path string, grpc bool) string {
	var buf [128]byte
	name := buf[:0]
	if grpc {
		if !isCall(path) {
			return Other
		}
		name = append(name, path...)
	} else {
		if !isToken(method) || len(method) > maxText || strings.Count(path, "/") > maxSegments || !strings.HasPrefix(path, "/") {
			return Other
		}
		name = append(append(name, method...), ' ')
		for part := range strings.SplitSeq(path[1:], "/") {
			if isData(part) {
				part = "{}"
			}
			name = append(append(name, '/'), part...)
		}
	}
	if known, ok := l.routes[string(name)]; ok {
		return known
	}
	if len(l.routes) >= MaxLearned {
		return Other
	}
	if l.routes == nil {
		l.routes = map[string]string{}
	}
	learned := string(name)
	l.routes[learned] = learned
	return learned
}

// Routes lists what has been learned, in order.
func (l *Learner) Routes() []string { return slices.Sorted(maps.Keys(l.routes)) }

// isCall reports whether path is "/pkg.Service/Method".
func isCall(path string) bool {
	service, method, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return ok && path[0] == '/' && len(path) <= 256 &&
		protoreflect.FullName(service).IsValid() && protoreflect.Name(method).IsValid()
}

// isData reports whether a segment is data rather than part of an API.
func isData(part string) bool {
	if len(part) > maxText {
		return true
	}
	digits, hex := 0, 0
	for i := range len(part) {
		switch c := part[i]; {
		case c >= '0' && c <= '9':
			digits++
			hex++
		case c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
			hex++
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`%@{}"\`, c) >= 0:
			return true
		}
	}
	switch {
	case part == "":
		return false
	case digits == len(part):
		return true
	case hex == len(part):
		return len(part) >= 8 && digits > 0
	}
	return false
}
