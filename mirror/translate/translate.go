// Package translate makes of an exchange of one API calls of another, by declared
// rules: forward in the mirror, so that a shadow that speaks another API gets what
// users do, and back in the verdict, so that what it answers is compared with live's
// answer field by field.
//
//	live's exchange ─▶ Forward ─▶ calls ─▶ role ─▶ answers ─▶ Back ─▶ an answer as live gives it
//
// Both sides are HTTP with JSON, or unary gRPC by descriptors. Expressions are jq's,
// compiled once, limited in steps, time, depth and size. Whatever is in an exchange,
// a rule makes calls of it, says that there is no counterpart, or fails with its line.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
package translate

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// ErrNoCounterpart says that the new API has nothing for an exchange.
var ErrNoCounterpart = errors.New("no counterpart")

// RuleError says which rule failed, and why. Its text may show what users wrote;
// Where does not.
type RuleError struct {
	Line int
	Key  string
	Err  error
}

func (e *RuleError) Error() string { return fmt.Sprintf("%d: %s: %v", e.Line, e.Key, e.Err) }
func (e *RuleError) Unwrap() error { return e.Err }

// Where says which rule failed.
func (e *RuleError) Where() string { return fmt.Sprintf("%d: %s", e.Line, e.Key) }

// Methods finds gRPC methods by path, "/pkg.Service/Method": nil if there is none.
type Methods interface {
	Method(path string) protoreflect.MethodDescriptor
}

// Field is one header field or item of metadata; its name is in lower case.
type Field struct{ Name, Value string }

// NewField copies a field; its name may be of any case.
func NewField(name, value []byte) Field {
	return Field{strings.ToLower(string(name)), string(value)}
}

func field(list []Field, name string) string {
	for _, f := range list {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Message is half an exchange. It is not changed.
type Message struct {
	Header []Field
	Body   []byte
	// Truncated says that Body is not all of it.
	Truncated bool
}

// Exchange is what live was asked and answered.
type Exchange struct {
	// ID names the copy, the same for all roles.
	ID string
	// Route is the pattern that the request matched; see sample.Route.
	Route  string
	Method string
	// Path and Query are as in the request line, escaped.
	Path, Query string
	GRPC        bool
	Request     Message
	// Status is HTTP's, and GRPCStatus that of a gRPC call; -1 of others.
	Status, GRPCStatus int
	Answer             Message
}

// Call is one request that a copy becomes.
type Call struct {
	// Method and Target are HTTP's: of gRPC, POST and the method's path.
	Method, Target string
	// HTTP2 is what is spoken; GRPC implies it.
	HTTP2, GRPC bool
	Header      []Field
	Body        []byte
}

// Translation is what an exchange became.
type Translation struct {
	// Rule is the number of the rule that made it, from 1.
	Rule  int
	Calls []Call
	// Keep is what the rule keeps for the way back: a JSON object {"keep":{…}}, or nil.
	Keep []byte
}

// Forward makes calls of x. It fails with ErrNoCounterpart, or with a RuleError.
// late, which may be nil, is asked again and again whether it takes too long.
func (r *Rules) Forward(x *Exchange, late func() bool) (Translation, error) {
	f := forward{rules: r, x: x, meter: meter{late: late}}
	for _, u := range r.routes[x.Route] {
		if u.skip && u.when == nil {
			break // without a look at the exchange
		}
		in, err := f.input(u)
		if err != nil {
			return Translation{}, err
		}
		if ok, err := u.when.truth(&f.meter, in); err != nil {
			return Translation{}, err
		} else if !ok {
			continue
		}
		if u.skip {
			break
		}
		t := Translation{Rule: u.number}
		if t.Calls, err = f.calls(u, in); err == nil && len(t.Calls) == 0 {
			err = ErrNoCounterpart
		}
		if err == nil && u.keep != nil {
			t.Keep, err = f.keep(u, in)
		}
		return t, err
	}
	return Translation{}, ErrNoCounterpart
}

// Handles reports whether a rule is about the exchanges of a route, skipping them
// whatever they hold aside.
func (r *Rules) Handles(route string) bool {
	list := r.routes[route]
	return len(list) > 0 && !(list[0].skip && list[0].when == nil)
}

// Harmless reports whether the exchanges of a route have no counterpart by a rule
// that says so whatever they hold: they leave no trace in the new system's state.
func (r *Rules) Harmless(route string) bool {
	list := r.routes[route]
	return len(list) > 0 && list[0].skip && list[0].when == nil
}

type forward struct {
	rules *Rules
	x     *Exchange
	meter meter
	in    map[string]any
}

// input is what forward expressions read. It is made for the first rule.
func (f *forward) input(u *rule) (map[string]any, error) {
	if f.in != nil {
		return f.in, nil
	}
	x := f.x
	var takes, gives protoreflect.MessageDescriptor
	if x.GRPC {
		m := f.rules.method(x.Path)
		if m == nil {
			return nil, u.error("match", fmt.Errorf("the descriptors have no method %s", x.Path))
		}
		takes, gives = m.Input(), m.Output()
	}
	asked, err := x.Request.read(takes)
	if err != nil {
		return nil, u.error("match", fmt.Errorf("request: %w", err))
	}
	answered, err := x.Answer.read(gives)
	if err != nil {
		if !failed(x.Status, x.GRPCStatus) {
			return nil, u.error("match", fmt.Errorf("answer: %w", err))
		}
		answered = nil // an error's text is nothing that a rule builds on
	}
	query, err := url.ParseQuery(x.Query)
	if err != nil {
		return nil, u.error("match", errors.New("request: its query is malformed"))
	}
	f.in = map[string]any{
		"id": x.ID,
		"request": map[string]any{
			"method": x.Method, "path": x.Path, "params": params(x.Route, x.Path),
			"query": firsts(query), "header": object(x.Request.Header), "body": asked,
		},
		"answer": answer(x.Status, x.GRPCStatus, x.Answer.Header, answered),
	}
	return f.in, nil
}

func failed(status, grpc int) bool { return status >= 400 || grpc > 0 }

// answer is an answer as expressions see it.
func answer(status, grpc int, header []Field, body any) map[string]any {
	a := map[string]any{"status": status, "header": object(header), "body": body}
	if grpc >= 0 {
		a["grpc_status"] = grpc
	}
	return a
}

// object has the first value of each field.
func object(list []Field) map[string]any {
	out := make(map[string]any, len(list))
	for _, f := range list {
		if _, twice := out[f.Name]; !twice {
			out[f.Name] = strings.ToValidUTF8(f.Value, "\uFFFD")
		}
	}
	return out
}

func firsts(values url.Values) map[string]any {
	out := make(map[string]any, len(values))
	for name, list := range values {
		out[name] = strings.ToValidUTF8(list[0], "\uFFFD")
	}
	return out
}

// params are the segments of path for which the pattern has a name.
func params(pattern, path string) map[string]any {
	out := map[string]any{}
	pattern = pattern[strings.IndexByte(pattern, ' ')+1:]
	names, values := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, name := range names {
		if len(name) < 3 || name[0] != '{' || i >= len(values) {
			continue
		}
		value := values[i]
		name, rest := strings.CutSuffix(name[1:len(name)-1], "...")
		if rest {
			value = strings.Join(values[i:], "/")
		}
		if plain, err := url.PathUnescape(value); err == nil && name != "" {
			out[name] = strings.ToValidUTF8(plain, "\uFFFD")
		}
	}
	return out
}

func (f *forward) keep(u *rule, in map[string]any) ([]byte, error) {
	v, _, err := u.keep.build(&f.meter, in)
	if err != nil {
		return nil, err
	}
	text, err := toJSON(map[string]any{"keep": v})
	if err != nil {
		return nil, u.error("keep", err)
	}
	return text, nil
}

// calls are those of a rule.
func (f *forward) calls(u *rule, in map[string]any) (all []Call, err error) {
	for _, c := range u.calls {
		each := []any{nil}
		if c.each != nil {
			if each, err = c.each.all(&f.meter, in, MaxCalls); err != nil {
				return nil, err
			}
		}
		for _, one := range each {
			own := in
			if c.each != nil {
				own = map[string]any{"id": in["id"], "request": in["request"], "answer": in["answer"], "each": one}
			}
			if ok, err := c.when.truth(&f.meter, own); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			if len(all) == MaxCalls {
				return nil, u.error("calls", fmt.Errorf("more than %d calls", MaxCalls))
			}
			made, err := c.build(&f.meter, own)
			if err != nil {
				return nil, err
			}
			made.Header = f.carry(made.Header)
			all = append(all, made)
		}
	}
	return all, nil
}

// carry adds what a copy takes over of its original: the trace that it links to.
func (f *forward) carry(header []Field) []Field {
	if v := field(f.x.Request.Header, "traceparent"); v != "" {
		header = append(header, Field{"traceparent", v})
	}
	return header
}
