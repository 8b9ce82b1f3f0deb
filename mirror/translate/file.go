package translate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"darklaunch/internal/strictyaml"
)

// Config is what rules need to be read.
type Config struct {
	// Methods describe both sides' gRPC methods. Nil leaves unchecked what rules
	// call: enough for Back, which needs none.
	Methods Methods
	// Admitted reports whether a user is mirrored, and so has a mailbox of the same
	// name on the role: what the function ghost asks. Nil says that everybody is. It
	// must be safe for any number of goroutines.
	Admitted func(user string) bool
}

// Rules are those of one file. They are immutable, and safe for any number of
// goroutines.
type Rules struct {
	methods Methods
	rules   []*rule
	routes  map[string][]*rule
	hash    [16]byte
}

// rule is what becomes of the exchanges of a route.
type rule struct {
	number, line int
	match        string
	when         *expr // nil: always
	skip         bool
	calls        []*call
	keep         *value // nil: nothing
	back         *back  // nil: the last answer as it is
	reads        []Read
}

// Read is a place in recorded answers, the new ones or live's, that a way back
// needs in the clear.
type Read struct {
	// Place is as in a record's list: json:$.a.b[*].
	Place string
	// Rule says which rule needs it.
	Rule string
}

func (u *rule) error(key string, err error) error {
	return &RuleError{u.line, fmt.Sprintf("rules[%d].%s", u.number-1, key), err}
}

// call is a request to be built.
type call struct {
	when, each    *expr
	method        string // HTTP's
	path          string // with {names}, or a gRPC method's
	http2         bool
	target        protoreflect.MethodDescriptor // of gRPC, if known
	grpc          bool
	params, query []named
	header        []named
	body          *value // nil: none
}

type named struct {
	name string
	expr *expr
}

// value is a document to be built: an expression, or an object of values.
type value struct {
	line int
	key  string
	expr *expr
	// In the order of the file.
	names   []string
	members []*value
}

// back is how the new answers look in the old shape.
type back struct {
	status *expr
	header []named
	body   *value
}

// Rules in the file's own words.
type file struct {
	Version   string `yaml:"apiVersion"`
	Functions string `yaml:"functions"`
	Rules     []struct {
		Match string    `yaml:"match"`
		When  yaml.Node `yaml:"when"`
		Skip  bool      `yaml:"skip"`
		Calls []struct {
			Call   yaml.Node `yaml:"call"`
			When   yaml.Node `yaml:"when"`
			Each   yaml.Node `yaml:"each"`
			HTTP2  bool      `yaml:"http2"`
			Path   yaml.Node `yaml:"path"`
			Query  yaml.Node `yaml:"query"`
			Header yaml.Node `yaml:"header"`
			Body   yaml.Node `yaml:"body"`
		} `yaml:"calls"`
		Keep yaml.Node `yaml:"keep"`
		Back *struct {
			Status yaml.Node `yaml:"status"`
			Header yaml.Node `yaml:"header"`
			Body   yaml.Node `yaml:"body"`
		} `yaml:"back"`
		Reads []yaml.Node `yaml:"reads"`
	} `yaml:"rules"`
}

// Parse reads rules, which must satisfy schema, the text of a JSON Schema. Errors
// begin with the line and name the key.
func Parse(text, schema []byte, cfg Config) (*Rules, error) {
	root, err := strictyaml.Read(text, schema)
	if err != nil {
		return nil, err
	}
	var f file
	if err := strictyaml.Decode(root, &f); err != nil {
		return nil, err
	}
	r := &Rules{methods: cfg.Methods, routes: map[string][]*rule{}}
	sum := sha256.Sum256(text)
	copy(r.hash[:], sum[:])
	if cfg.Admitted == nil {
		cfg.Admitted = func(string) bool { return true }
	}
	p := parser{root: root, cfg: cfg, functions: f.Functions}
	if _, err := compile(".", f.Functions, cfg.Admitted); err != nil {
		return nil, p.errorAt(member(root, "functions"), "functions", err)
	}
	for i := range f.Rules {
		u := &rule{number: i + 1, match: f.Rules[i].Match, skip: f.Rules[i].Skip}
		p.rule(u, &f, i)
		if p.err != nil {
			return nil, p.err
		}
		r.rules = append(r.rules, u)
		r.routes[u.match] = append(r.routes[u.match], u)
	}
	return r, nil
}

// Routes are the patterns that rules match, in the order of the file, each once.
func (r *Rules) Routes() (all []string) {
	for _, u := range r.rules {
		if !slices.Contains(all, u.match) {
			all = append(all, u.match)
		}
	}
	return all
}

// Line is where the rule of a number stands, from 1.
func (r *Rules) Line(rule int) int { return r.rules[rule-1].line }

// Hash names the rules: others have another.
func (r *Rules) Hash() []byte { return r.hash[:] }

// Reads are what the ways back of a route's exchanges need in the clear.
func (r *Rules) Reads(route string) (all []Read) {
	for _, u := range r.routes[route] {
		all = append(all, u.reads...)
	}
	return all
}

func (r *Rules) method(path string) protoreflect.MethodDescriptor {
	if r.methods == nil {
		return nil
	}
	return r.methods.Method(path)
}

// parser keeps the first error.
type parser struct {
	root      *yaml.Node
	cfg       Config
	functions string
	err       error
}

func (p *parser) errorAt(n *yaml.Node, key string, err error) error {
	line := p.root.Line
	if n != nil && n.Line > 0 {
		line = n.Line
	}
	return fmt.Errorf("%d: %s: %w", line, key, err)
}

func (p *parser) refuse(n *yaml.Node, key, format string, args ...any) {
	if p.err == nil {
		p.err = p.errorAt(n, key, fmt.Errorf(format, args...))
	}
}

func member(n *yaml.Node, name string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func (p *parser) rule(u *rule, f *file, i int) {
	in := &f.Rules[i]
	node := member(p.root, "rules").Content[i]
	u.line = node.Line
	at := fmt.Sprintf("rules[%d]", i)
	u.when = p.expr(&in.When, at+".when")
	p.source(member(node, "match"), at+".match", u.match)
	for k := range in.Calls {
		c := &in.Calls[k]
		key := fmt.Sprintf("%s.calls[%d]", at, k)
		made := &call{http2: c.HTTP2, when: p.expr(&c.When, key+".when"), each: p.expr(&c.Each, key+".each")}
		p.target(made, &c.Call, key+".call")
		made.params = p.named(&c.Path, key+".path")
		made.query = p.named(&c.Query, key+".query")
		made.header = p.headers(&c.Header, key+".header")
		made.body = p.value(&c.Body, key+".body")
		p.fits(made, node, key)
		if made.target != nil && made.body != nil {
			p.fields(made.body, made.target.Input())
		}
		u.calls = append(u.calls, made)
	}
	if u.skip == (len(u.calls) > 0) {
		p.refuse(node, at, "want calls, or skip: true")
	}
	if in.Keep.Kind != 0 {
		u.keep = p.value(&in.Keep, at+".keep")
		for _, name := range u.keep.names {
			u.reads = append(u.reads, Read{Place: "json:$.keep." + name, Rule: fmt.Sprintf("%s (line %d)", u.match, in.Keep.Line)})
		}
	}
	if b := in.Back; b != nil {
		u.back = &back{status: p.expr(&b.Status, at+".back.status"), header: p.headers(&b.Header, at+".back.header"), body: p.value(&b.Body, at+".back.body")}
		if u.skip {
			p.refuse(node, at+".back", "nothing comes back of what is skipped")
		}
	}
	for k := range in.Reads {
		n := &in.Reads[k]
		u.reads = append(u.reads, Read{Place: n.Value, Rule: fmt.Sprintf("%s (line %d)", u.match, n.Line)})
	}
}

// source checks the side that is matched: of a service that is described, a method.
func (p *parser) source(n *yaml.Node, key, match string) {
	if lacks, ok := p.cfg.Methods.(interface{ Lacks(path string) bool }); ok && lacks.Lacks(match) {
		p.refuse(n, key, "%q matches nothing: the descriptors have its service, and no such method", match)
	}
}

// target reads METHOD /path, or /pkg.Service/Method.
func (p *parser) target(c *call, n *yaml.Node, key string) {
	method, path, http := strings.Cut(n.Value, " ")
	if http {
		c.method, c.path = method, strings.TrimSpace(path)
		if method != strings.ToUpper(method) || !strings.HasPrefix(c.path, "/") {
			p.refuse(n, key, "got %q, want METHOD /path or /pkg.Service/Method", n.Value)
		}
		return
	}
	c.method, c.path, c.grpc, c.http2 = "POST", n.Value, true, true
	if !strings.HasPrefix(c.path, "/") || strings.Count(c.path, "/") != 2 {
		p.refuse(n, key, "got %q, want METHOD /path or /pkg.Service/Method", n.Value)
		return
	}
	if p.cfg.Methods == nil {
		return
	}
	if c.target = p.cfg.Methods.Method(c.path); c.target == nil {
		p.refuse(n, key, "the descriptors have no method %s", c.path)
	} else if c.target.IsStreamingClient() {
		p.refuse(n, key, "%s: its caller sends a stream, want a method that takes one message", c.path)
	}
}

// fits refuses what a call of its kind does not have.
func (p *parser) fits(c *call, node *yaml.Node, key string) {
	names := map[string]bool{}
	for _, segment := range strings.Split(c.path, "/") {
		if strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}") {
			names[segment[1:len(segment)-1]] = true
		}
	}
	for _, q := range c.params {
		if !names[q.name] {
			p.refuse(node, key+".path", "%s has no {%s}", c.path, q.name)
		}
		delete(names, q.name)
	}
	if len(names) > 0 {
		p.refuse(node, key+".path", "want an expression for {%s}", slices.Sorted(maps.Keys(names))[0])
	}
	if c.grpc && len(c.query) > 0 {
		p.refuse(node, key+".query", "a gRPC call has none")
	}
}

// expr compiles an expression; nil if there is none.
func (p *parser) expr(n *yaml.Node, key string) *expr {
	if n.Kind == 0 {
		return nil
	}
	text := n.Value
	if n.Kind != yaml.ScalarNode {
		p.refuse(n, key, "want a jq expression")
		return nil
	}
	code, err := compile(text, p.functions, p.cfg.Admitted)
	if err != nil {
		p.refuse(n, key, "jq: %v", err)
		return nil
	}
	return &expr{n.Line, key, code}
}

func (p *parser) named(n *yaml.Node, key string) (all []named) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		name := n.Content[i].Value
		all = append(all, named{name, p.expr(n.Content[i+1], key+"."+name)})
	}
	return all
}

func (p *parser) headers(n *yaml.Node, key string) []named {
	all := p.named(n, key)
	for i := range all {
		all[i].name = strings.ToLower(all[i].name)
	}
	return all
}

// value reads an object of expressions, or one expression for all of it.
func (p *parser) value(n *yaml.Node, key string) *value {
	switch n.Kind {
	case 0:
		return nil
	case yaml.MappingNode:
		v := &value{line: n.Line, key: key}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			v.names = append(v.names, name)
			inner := p.value(n.Content[i+1], key+"."+name)
			if inner != nil {
				inner.line = n.Content[i].Line
			}
			v.members = append(v.members, inner)
		}
		return v
	case yaml.AliasNode:
		return p.value(n.Alias, key)
	}
	return &value{line: n.Line, key: key, expr: p.expr(n, key)}
}

// fields refuses names of fields that a message has not.
func (p *parser) fields(v *value, d protoreflect.MessageDescriptor) {
	if v.expr != nil || d.ParentFile().Package() == "google.protobuf" {
		return
	}
	for i, name := range v.names {
		f := d.Fields().ByName(protoreflect.Name(name))
		if f == nil {
			f = d.Fields().ByJSONName(name)
		}
		inner := v.members[i]
		switch {
		case inner == nil:
		case f == nil:
			p.refuse(&yaml.Node{Line: inner.line}, inner.key, "%s has no such field", d.FullName())
		case inner.expr == nil && (f.Message() == nil || f.IsList() || f.IsMap()):
			p.refuse(&yaml.Node{Line: inner.line}, inner.key, "want an expression: the field is no message")
		case inner.expr == nil:
			p.fields(inner, f.Message())
		}
	}
}

// build makes the document; ok is false if it is nothing at all. Members that are
// null are left out.
func (v *value) build(m *meter, in any) (any, bool, error) {
	if v.expr != nil {
		return v.expr.one(m, in)
	}
	out := make(map[string]any, len(v.names))
	for i, name := range v.names {
		inner, ok, err := v.members[i].build(m, in)
		if err != nil {
			return nil, false, err
		}
		if ok && inner != nil {
			out[name] = inner
		}
	}
	return out, true, nil
}

// text is what an expression gives for a place that holds text; ok is false if that
// is null or nothing.
func (e *expr) text(m *meter, in any) (string, bool, error) {
	v, ok, err := e.one(m, in)
	if err != nil || !ok || v == nil {
		return "", false, err
	}
	switch v := v.(type) {
	case string:
		return v, true, nil
	case int:
		return strconv.Itoa(v), true, nil
	case bool:
		return strconv.FormatBool(v), true, nil
	}
	return "", false, e.error(errors.New("want a text or a whole number"))
}

func (c *call) build(m *meter, in any) (out Call, err error) {
	out = Call{Method: c.method, Target: c.path, HTTP2: c.http2, GRPC: c.grpc}
	for _, q := range c.params {
		text, ok, err := q.expr.text(m, in)
		if err == nil && (!ok || text == "") {
			err = q.expr.error(errors.New("want a text for a segment of the path"))
		}
		if err != nil {
			return out, err
		}
		out.Target = strings.ReplaceAll(out.Target, "{"+q.name+"}", url.PathEscape(text))
	}
	query := url.Values{}
	for _, q := range c.query {
		text, ok, err := q.expr.text(m, in)
		if err != nil {
			return out, err
		}
		if ok {
			query.Set(q.name, text)
		}
	}
	if len(query) > 0 {
		out.Target += "?" + query.Encode()
	}
	if out.Header, err = fieldsOf(c.header, m, in); err != nil {
		return out, err
	}
	return out, c.write(&out, m, in)
}

func fieldsOf(list []named, m *meter, in any) (all []Field, err error) {
	for _, h := range list {
		text, ok, err := h.expr.text(m, in)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, Field{h.name, text})
		}
	}
	return all, nil
}

// write adds the body and what says of which type it is.
func (c *call) write(out *Call, m *meter, in any) error {
	var v any = map[string]any{}
	if c.body != nil {
		var ok bool
		var err error
		if v, ok, err = c.body.build(m, in); err != nil {
			return err
		} else if !ok || v == nil {
			return &RuleError{c.body.line, c.body.key, errors.New("gives nothing")}
		}
	}
	switch {
	case c.grpc:
		out.Header = append(out.Header, Field{"content-type", "application/grpc"}, Field{"te", "trailers"})
		if c.target == nil {
			return errors.New("rules were read without descriptors")
		}
		b, err := toMessage(v, c.target.Input())
		if err != nil {
			return &RuleError{c.bodyLine(), c.bodyKey(), err}
		}
		out.Body = b
	case c.body != nil:
		b, err := toJSON(v)
		if err != nil {
			return &RuleError{c.body.line, c.body.key, err}
		}
		out.Header, out.Body = append(out.Header, Field{"content-type", "application/json"}), b
	}
	return nil
}

func (c *call) bodyLine() int {
	if c.body == nil {
		return 0
	}
	return c.body.line
}

func (c *call) bodyKey() string {
	if c.body == nil {
		return c.path
	}
	return c.body.key
}
