package sample

import (
	"errors"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// Step is one step of a path into a JSON text: to a member, or to elements.
type Step struct {
	Name     string // of a member
	Elements bool   // all of them, or the one at Index where that is not negative
	Index    int
}

// JSONPath reads the path of a json: extractor, $.a['b'][0][*], for others who
// name places as extractors do.
func JSONPath(text string) ([]Step, error) {
	steps, err := parseJSONPath(text)
	if err != nil {
		return nil, err
	}
	path := make([]Step, len(steps))
	for i, s := range steps {
		path[i] = Step{s.name, s.kind != stepMember, -1}
		if s.kind == stepIndex {
			path[i].Index = s.index
		}
	}
	return path, nil
}

// ProtoPath reads the path of a proto: extractor by number, 1.3, for others who
// name places as extractors do.
func ProtoPath(text string) ([]protowire.Number, error) {
	steps, ok := protoNumbers(strings.Split(text, "."))
	if !ok || len(steps) > MaxDepth {
		return nil, errors.New("want field numbers, as in proto:1.3")
	}
	path := make([]protowire.Number, len(steps))
	for i, s := range steps {
		path[i] = s.number
	}
	return path, nil
}
