// Package strictyaml reads YAML files against a JSON Schema, and says of a file
// that is wrong what people need to mend it: line, key, and what was expected.
package strictyaml

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"go.yaml.in/yaml/v3"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Parse puts the YAML document text into the struct that into points at. The
// document must satisfy schema, the text of a JSON Schema; into keeps what the
// document does not mention. Every error begins with the line, and says which
// key is wrong and what was expected.
func Parse(text, schema []byte, into any) error {
	root, err := Read(text, schema)
	if err != nil {
		return err
	}
	return Decode(root, into)
}

// Read returns the content of the YAML document text, which must satisfy
// schema. An empty document is an empty mapping. Errors are those of Parse.
func Read(text, schema []byte) (*yaml.Node, error) {
	var doc, more yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(text))
	err := documents.Decode(&doc)
	if err == nil {
		// What stands after the first document would be read by nobody.
		if err = documents.Decode(&more); err == nil {
			return nil, fmt.Errorf("%d: a second document begins here, want one", more.Line)
		}
	}
	if err != io.EOF {
		return nil, yamlError(err)
	}
	if doc.Kind == 0 {
		doc = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map", Line: 1}}}
	}
	root := doc.Content[0]
	if err := validate(root, schema); err != nil {
		return nil, err
	}
	return root, nil
}

// Decode puts what Read returned into the struct that into points at. Errors
// are those of Parse, without the key unless they are from ErrorAt.
func Decode(root *yaml.Node, into any) error {
	err := root.Decode(into)
	if at, ok := errors.AsType[*nodeError](err); ok {
		path, _ := pathTo(root, at.node)
		_, key := Locate(root, path)
		return fmt.Errorf("%d: %s: %w", at.node.Line, key, at.err)
	}
	if err != nil {
		return yamlError(err)
	}
	return nil
}

// ErrorAt is what an Unmarshaler returns of a node that is wrong: Decode says
// where it stands.
func ErrorAt(node *yaml.Node, format string, args ...any) error {
	return &nodeError{node, fmt.Errorf(format, args...)}
}

type nodeError struct {
	node *yaml.Node
	err  error
}

func (e *nodeError) Error() string { return fmt.Sprintf("line %d: %v", e.node.Line, e.err) }
func (e *nodeError) Unwrap() error { return e.err }

// pathTo is the path from node to the one that is sought.
func pathTo(node, sought *yaml.Node) (path []string, ok bool) {
	if node == sought {
		return nil, true
	}
	for i, child := range node.Content {
		step := strconv.Itoa(i)
		if node.Kind == yaml.MappingNode {
			if i%2 == 0 && child != sought {
				continue
			}
			step = node.Content[i-i%2].Value
		}
		if rest, ok := pathTo(child, sought); ok {
			return append([]string{step}, rest...), true
		}
	}
	return nil, false
}

// yamlError puts the library's "yaml: line 3: …" as "3: …".
func yamlError(err error) error {
	if types, ok := errors.AsType[*yaml.TypeError](err); ok && len(types.Errors) > 0 {
		err = errors.New(types.Errors[0])
	}
	line, msg, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "line "), ": ")
	if _, notNumber := strconv.Atoi(line); !ok || notNumber != nil {
		return fmt.Errorf("1: %v", err)
	}
	return fmt.Errorf("%s: %s", line, msg)
}

func validate(root *yaml.Node, schema []byte) error {
	compiled, err := Compile(schema)
	if err != nil {
		return err
	}
	var v any
	if err := root.Decode(&v); err != nil {
		return yamlError(err)
	}
	// The validator takes what encoding/json makes of a document, and no other Go types.
	b, err := json.Marshal(v)
	if unsupported, ok := errors.AsType[*json.UnsupportedTypeError](err); ok && unsupported.Type.Kind() == reflect.Map {
		return fmt.Errorf("%d: a key is no string, want strings alone", root.Line)
	}
	if err != nil {
		return fmt.Errorf("%d: %v", root.Line, err)
	}
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%d: %v", root.Line, err)
	}
	err = compiled.Validate(instance)
	if invalid, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		return firstProblem(root, invalid)
	}
	return err
}

// Compile makes the text of a JSON Schema ready.
func Compile(text []byte) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	return c.Compile("schema.json")
}

// firstProblem is the problem that stands first in the file.
func firstProblem(root *yaml.Node, invalid *jsonschema.ValidationError) error {
	type problem struct {
		line int
		text string
	}
	var problems []problem
	english := message.NewPrinter(language.English)
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		for _, cause := range e.Causes {
			walk(cause)
		}
		if len(e.Causes) > 0 {
			return
		}
		at, key := Locate(root, e.InstanceLocation)
		if unknown, ok := e.ErrorKind.(*kind.AdditionalProperties); ok {
			for _, name := range unknown.Properties {
				at, key := Locate(root, append(slices.Clone(e.InstanceLocation), name))
				problems = append(problems, problem{at, key + ": unknown key"})
			}
			return
		}
		text := e.ErrorKind.LocalizedString(english)
		switch k := e.ErrorKind.(type) { // the library writes these two as 1×10⁰⁶
		case *kind.Minimum:
			text = fmt.Sprintf("got %s, want at least %s", k.Got.RatString(), k.Want.RatString())
		case *kind.Maximum:
			text = fmt.Sprintf("got %s, want at most %s", k.Got.RatString(), k.Want.RatString())
		}
		problems = append(problems, problem{at, key + ": " + text})
	}
	walk(invalid)
	p := slices.MinFunc(problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	return fmt.Errorf("%d: %s", p.line, p.text)
}

// Locate finds the line of the value at path below node, of the part of the
// path that is there, and how people write the path.
func Locate(node *yaml.Node, path []string) (line int, key string) {
	var name strings.Builder
	line = node.Line
	for _, step := range path {
		next := (*yaml.Node)(nil)
		switch {
		case node == nil:
		case node.Kind == yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i < len(node.Content) {
				next = node.Content[i]
				line = next.Line
			}
			fmt.Fprintf(&name, "[%s]", step)
		case node.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					line, next = node.Content[i].Line, node.Content[i+1]
				}
			}
			if name.Len() > 0 {
				name.WriteByte('.')
			}
			name.WriteString(step)
		}
		if next != nil && next.Kind == yaml.AliasNode {
			next = next.Alias
		}
		node = next
	}
	if name.Len() == 0 {
		return line, "the file"
	}
	return line, name.String()
}
