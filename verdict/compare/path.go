package compare

import (
	"errors"
	"strings"

	"go.yaml.in/yaml/v3"

	"darklaunch/internal/digest"
	"darklaunch/internal/strictyaml"
)

// Path names a place in answers, without indexes:
//
//	status             the HTTP status
//	grpc-status        the status of a gRPC call; its message is trailer:grpc-message
//	header:NAME        a header field, in any case
//	trailer:NAME       a trailer field
//	body               a body that is no document, or is one on one side alone
//	json:$.a.b[*].c    in JSON: .NAME or ['NAME'] is a member, [*] each element
//	form:NAME[*]       in a form; each field has a list of values
//	proto:a.b.c        in gRPC messages: fields by name, or by number where there is
//	                   no descriptor; lists and streams are not written, and
//	                   proto: alone is the stream
//
// .* stands for every member (in proto, a map's). Where a rule has .* and does
// not name a member, that member's name is taken for data and its path written
// with .*; so are names that look like data wherever they are: those that are no
// identifiers, are long or have several digits.
type Path struct {
	place string
	steps []string
}

// The places that are no documents.
const (
	placeStatus = "status"
	placeGRPC   = "grpc-status"
	placeBody   = "body"
	placeJSON   = "json:$"
	placeForm   = "form:"
	placeProto  = "proto:"
)

// Steps, written as in paths.
const (
	anyElement = "[*]"
	anyMember  = ".*"
)

// memberStep writes the step to a member.
func memberStep(name string) string {
	if plain(name) {
		return "." + name
	}
	return "['" + name + "']"
}

func plain(name string) bool {
	for _, c := range []byte(name) {
		if c != '_' && c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return name != ""
}

// ParsePath reads a path.
func ParsePath(text string) (Path, error) {
	switch text {
	case placeStatus, placeGRPC, placeBody:
		return Path{place: text}, nil
	}
	kind, arg, ok := strings.Cut(text, ":")
	switch {
	case !ok:
	case (kind == "header" || kind == "trailer") && arg != "":
		return Path{place: kind + ":" + strings.ToLower(arg)}, nil
	case kind == "json" && strings.HasPrefix(arg, "$"):
		steps, err := parseSteps(arg[1:])
		return Path{placeJSON, steps}, err
	case kind == "form", kind == "proto":
		if arg != "" && arg[0] != '[' {
			arg = "." + arg
		}
		steps, err := parseSteps(arg)
		return Path{kind + ":", steps}, err
	}
	return Path{}, errors.New("want status, grpc-status, header:NAME, trailer:NAME, body, json:$.PATH, form:NAME or proto:PATH")
}

func parseSteps(rest string) (steps []string, err error) {
	for rest != "" && err == nil {
		var step string
		switch {
		case strings.HasPrefix(rest, anyElement):
			step, rest = anyElement, rest[len(anyElement):]
		case strings.HasPrefix(rest, "['"), strings.HasPrefix(rest, `["`):
			name, tail, ok := strings.Cut(rest[2:], rest[1:2]+"]")
			if !ok || name == "" {
				err = errors.New("want a name in quotes within [ and ]")
			}
			step, rest = memberStep(name), tail
		case rest[0] == '.':
			end := strings.IndexAny(rest[1:], ".[") + 1
			if end == 0 {
				end = len(rest)
			}
			step, rest = rest[:end], rest[end:]
			if step != anyMember && !plain(step[1:]) {
				err = errors.New("want .NAME, ['NAME'], [*] or .*")
			}
		default:
			err = errors.New("want .NAME, ['NAME'], [*] or .*, and no index")
		}
		steps = append(steps, step)
	}
	if len(steps) > MaxDepth {
		err = errors.New("want a path of at most 64 steps")
	}
	return steps, err
}

// String returns the path as it is written.
func (p Path) String() string { return pathText(p.place, strings.Join(p.steps, "")) }

func pathText(place, steps string) string {
	if place == placeForm || place == placeProto {
		steps = strings.TrimPrefix(steps, ".")
	}
	return place + steps
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Path) UnmarshalYAML(n *yaml.Node) error {
	path, err := ParsePath(n.Value)
	if err != nil {
		return strictyaml.ErrorAt(n, "path %q: %w", n.Value, err)
	}
	*p = path
	return nil
}

// node is a place in the tree of the paths of rules.
type node struct {
	next map[string]*node
	does directive
}

// directive is which rule does what at a place, by index; none is -1.
type directive struct{ ignore, degrade, tolerate, array int }

func newNode() *node { return &node{does: directive{-1, -1, -1, -1}} }

// at returns the node at a path below n, which it makes.
func (n *node) at(steps []string) *node {
	for _, s := range steps {
		if n.next[s] == nil {
			if n.next == nil {
				n.next = map[string]*node{}
			}
			n.next[s] = newNode()
		}
		n = n.next[s]
	}
	return n
}

// nodes are those that lead to a place: one path may do by name and another by
// .*, of which that by name comes first.
type nodes []*node

func (ns nodes) does() directive {
	d := directive{-1, -1, -1, -1}
	for _, n := range ns {
		d.ignore = first(d.ignore, n.does.ignore)
		d.degrade = first(d.degrade, n.does.degrade)
		d.tolerate = first(d.tolerate, n.does.tolerate)
		d.array = first(d.array, n.does.array)
	}
	return d
}

func first(a, b int) int {
	if a >= 0 {
		return a
	}
	return b
}

func (ns nodes) step(step string) (to nodes) {
	for _, n := range ns {
		if m := n.next[step]; m != nil {
			to = append(to, m)
		}
	}
	return to
}

// member returns the step to a member as its path has it, and the nodes there.
// data says that all names of the object are.
func (ns nodes) member(name string, data, numbers bool) (step string, to nodes) {
	any := ns.step(anyMember)
	if data {
		return anyMember, any
	}
	step = memberStep(name)
	if named := ns.step(step); len(named) > 0 {
		return step, append(named, any...)
	}
	if len(any) > 0 || !digest.Chosen(name) && !numbers {
		return anyMember, any
	}
	return step, nil
}
