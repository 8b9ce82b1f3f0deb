// Package openapi reads from an OpenAPI 3 description what a mirror needs of it:
// which operations there are, as routes. Of the rest it asks nothing.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
package openapi

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Operation is one method of one path.
type Operation struct {
	// Method is in capitals.
	Method string
	// Path begins with the path of the description's first server. A segment that
	// has a parameter anywhere is {NAME}.
	Path string
	// Line is where the description has it.
	Line int
}

// methods are the fixed fields of a Path Item that are operations (OpenAPI 3.1.1 §4.8.9.1).
var methods = map[string]bool{
	"get": true, "put": true, "post": true, "delete": true, "options": true, "head": true, "patch": true, "trace": true,
}

// Read returns the operations of a description, which is YAML or JSON, in its
// order. Errors begin with the line.
func Read(text []byte) ([]Operation, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, yamlError(err)
	}
	if len(doc.Content) == 0 {
		return nil, errors.New("1: empty, want an OpenAPI 3 description")
	}
	root := doc.Content[0]
	version, _ := member(root, "openapi")
	if version == nil || !strings.HasPrefix(version.Value, "3.") {
		return nil, fmt.Errorf("%d: openapi: want 3.0 or later of version 3", lineOf(version, root))
	}
	base, err := basePath(root)
	if err != nil {
		return nil, err
	}
	paths, _ := member(root, "paths")
	if paths == nil || paths.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%d: paths: want a mapping of paths", lineOf(paths, root))
	}
	var all []Operation
	for i := 0; i+1 < len(paths.Content); i += 2 {
		path, item := paths.Content[i], paths.Content[i+1]
		if strings.HasPrefix(path.Value, "x-") {
			continue
		}
		operations, err := read(base, path, item)
		if err != nil {
			return nil, err
		}
		all = append(all, operations...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%d: paths: no operation, want one at least", paths.Line)
	}
	return all, nil
}

func read(base string, path, item *yaml.Node) (all []Operation, err error) {
	route, err := template(path.Value)
	if err != nil {
		return nil, fmt.Errorf("%d: paths: %s: %w", path.Line, path.Value, err)
	}
	item = resolved(item)
	if ref, _ := member(item, "$ref"); ref != nil {
		return nil, fmt.Errorf("%d: paths: %s: a reference to %q is not followed, want the operations here", ref.Line, path.Value, ref.Value)
	}
	if item.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%d: paths: %s: want a mapping of methods", item.Line, path.Value)
	}
	for i := 0; i+1 < len(item.Content); i += 2 {
		key := item.Content[i]
		if methods[key.Value] {
			all = append(all, Operation{strings.ToUpper(key.Value), base + route, key.Line})
		}
	}
	return all, nil
}

// template makes a path of OpenAPI one of a route: a parameter that is only a
// part of its segment takes all of it.
func template(path string) (string, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "?# ") {
		return "", errors.New("want a path that begins with / and has no query")
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		open, end := strings.IndexByte(s, '{'), strings.IndexByte(s, '}')
		switch {
		case open < 0 && end < 0:
		case open < 0 || end < open+2:
			return "", fmt.Errorf("segment %q: want text or {NAME}", s)
		default:
			segments[i] = "{" + strings.ReplaceAll(s[open+1:end], ".", "_") + "}"
		}
	}
	return "/" + strings.Join(segments, "/"), nil
}

// basePath is the path of the first server's URL.
func basePath(root *yaml.Node) (string, error) {
	servers, _ := member(root, "servers")
	if servers == nil || servers.Kind != yaml.SequenceNode || len(servers.Content) == 0 {
		return "", nil
	}
	address, _ := member(resolved(servers.Content[0]), "url")
	if address == nil {
		return "", fmt.Errorf("%d: servers: want the url of the first one", servers.Line)
	}
	text := address.Value
	if _, rest, ok := strings.Cut(text, "://"); ok { // a host may have variables, which no URL has
		_, path, _ := strings.Cut(rest, "/")
		text = "/" + path
	}
	text = strings.TrimRight(text, "/.")
	if text == "" {
		return "", nil
	}
	if _, err := url.PathUnescape(text); err != nil {
		return "", fmt.Errorf("%d: servers: %w", address.Line, err)
	}
	base, err := template(text)
	if err != nil {
		return "", fmt.Errorf("%d: servers: %w", address.Line, err)
	}
	return base, nil
}

// member returns the value and the key of a mapping's member, nil without one.
func member(n *yaml.Node, name string) (value, key *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return resolved(n.Content[i+1]), n.Content[i]
		}
	}
	return nil, nil
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func lineOf(n, otherwise *yaml.Node) int {
	if n == nil {
		return otherwise.Line
	}
	return n.Line
}

// yamlError puts the library's "yaml: line 3: …" as "3: …".
func yamlError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		return errors.New(rest)
	}
	return fmt.Errorf("1: %s", text)
}
