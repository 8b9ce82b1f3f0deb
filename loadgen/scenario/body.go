package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// eachKey, in a mapping of a list, repeats what stands beside it for every
// element of a list, which is ${it} in there; with itemKey that is what is repeated.
const (
	eachKey = "$each"
	itemKey = "$item"
)

// stepError is an error of what stands at a step of a request.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// at says that err, if any, is of what stands at a step.
func at(step string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step, err}
}

// below is the path of what err is of, which stands at path or below it.
func below(path string, err error) string {
	for e, ok := errors.AsType[*stepError](err); ok; e, ok = errors.AsType[*stepError](e.err) {
		path += "." + e.step
	}
	return path
}

// part appends a part of a request.
type part interface {
	append(dst []byte, e *env) []byte
}

type bytesPart []byte

func (b bytesPart) append(dst []byte, _ *env) []byte { return append(dst, b...) }

type parts []part

func (ps parts) append(dst []byte, e *env) []byte {
	for _, p := range ps {
		dst = p.append(dst, e)
	}
	return dst
}

// bodyCompiler gathers what a request needs while it is compiled.
type bodyCompiler struct {
	s  *Scenario
	op *op
}

// template compiles a text and notes what the operation needs for it.
func (c *bodyCompiler) template(text string) (*template, error) {
	t, err := c.s.parseTemplate(text)
	if err != nil {
		return nil, err
	}
	c.op.uses(t)
	return t, nil
}

// dynamic says whether there is anything in v that calls fill in.
func dynamic(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "${")
	case []any:
		return slices.ContainsFunc(v, dynamic)
	case map[string]any:
		if _, ok := v[eachKey]; ok {
			return true
		}
		for _, x := range v {
			if dynamic(x) {
				return true
			}
		}
	}
	return false
}

// list is a list that $each names: the recipients of a draft, or a variable.
type list func(e *env, do func())

func (c *bodyCompiler) list(name any) (list, error) {
	text, _ := name.(string)
	if text == "recipients" {
		if c.s.mix == nil {
			return nil, fmt.Errorf("$each: recipients: want content: it says how many there are")
		}
		c.op.drafts = true
		return func(e *env, do func()) {
			e.to = e.s.people.AppendRecipients(e.to[:0], e.v.User, e.draft.Recipients, e.rand.Rand)
			for _, u := range e.to {
				e.it = string(e.s.appendUser(nil, u))
				do()
			}
		}, nil
	}
	i, ok := c.s.variable(text)
	if !ok {
		return nil, fmt.Errorf("$each: %v: want recipients or a variable", name)
	}
	c.op.needs = append(c.op.needs, i)
	return func(e *env, do func()) {
		for _, v := range e.v.vars[i] {
			e.it = v
			do()
		}
	}, nil
}

// splitEach returns what is repeated for each element of what.
func splitEach(m map[string]any) (what, item any, ok bool) {
	what, ok = m[eachKey]
	if !ok {
		return nil, nil, false
	}
	if item, alone := m[itemKey]; alone {
		return what, item, true
	}
	rest := maps.Clone(m)
	delete(rest, eachKey)
	return what, rest, true
}

// json compiles a value to JSON text.
func (c *bodyCompiler) json(v any) (parts, error) {
	if !dynamic(v) {
		b, err := json.Marshal(v)
		return parts{bytesPart(b)}, err
	}
	var out parts
	add := func(s string) { out = append(out, bytesPart(s)) }
	switch v := v.(type) {
	case string:
		t, err := c.template(v)
		return parts{jsonText{t}}, err
	case []any:
		add("[")
		for i, x := range v {
			if m, isMap := x.(map[string]any); isMap {
				if what, item, ok := splitEach(m); ok {
					l, err := c.list(what)
					if err != nil {
						return nil, at(strconv.Itoa(i), err)
					}
					p, err := c.json(item)
					if err != nil {
						return nil, at(strconv.Itoa(i), err)
					}
					out = append(out, jsonEach{l, p, i > 0})
					continue
				}
			}
			if i > 0 {
				add(",")
			}
			p, err := c.json(x)
			if err != nil {
				return nil, at(strconv.Itoa(i), err)
			}
			out = append(out, p...)
		}
		add("]")
	case map[string]any:
		if _, ok := v[eachKey]; ok {
			return nil, fmt.Errorf("$each stands for elements of a list: want it in one")
		}
		add("{")
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				add(",")
			}
			add(strconv.Quote(key) + ":")
			p, err := c.json(v[key])
			if err != nil {
				return nil, at(key, err)
			}
			out = append(out, p...)
		}
		add("}")
	}
	return out, nil
}

// jsonText is a template as a JSON string, or as it is where it yields a number.
type jsonText struct{ t *template }

func (j jsonText) append(dst []byte, e *env) []byte {
	start := len(dst)
	dst = j.t.append(dst, e)
	if j.t.number {
		return dst
	}
	quoted, err := json.Marshal(string(dst[start:]))
	if err != nil {
		panic(err) // a string is always JSON
	}
	return append(dst[:start], quoted...)
}

type jsonEach struct {
	of    list
	item  parts
	comma bool // something stands before it in the list
}

func (j jsonEach) append(dst []byte, e *env) []byte {
	comma := j.comma
	j.of(e, func() {
		if comma {
			dst = append(dst, ',')
		}
		comma = true
		dst = j.item.append(dst, e)
	})
	return dst
}

// saved finds values in an answer.
type saved interface {
	find(answer []byte) []string
}

// maxSaved bounds a variable's values, so that a session stays small.
const maxSaved = 100

// jsonPath is a path of keys; lists on the way are gone through.
type jsonPath []string

func (p jsonPath) find(answer []byte) (found []string) {
	var v any
	if json.Unmarshal(answer, &v) != nil {
		return nil
	}
	var walk func(v any, path []string)
	walk = func(v any, path []string) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x, path)
			}
		case map[string]any:
			if len(path) > 0 {
				walk(v[path[0]], path[1:])
			}
		case nil:
		default:
			if len(path) == 0 && len(found) < maxSaved {
				found = append(found, fmt.Sprint(v))
			}
		}
	}
	walk(v, p)
	return found
}
