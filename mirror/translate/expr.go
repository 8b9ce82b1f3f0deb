package translate

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/itchyny/gojq"
)

// Limits of what an expression may do. They are for one exchange, one way.
const (
	// MaxSteps is how many instructions all expressions may take together.
	MaxSteps = 100_000
	// MaxDepth is how deep documents may be nested, given or made.
	MaxDepth = 64
	// MaxSize is about how large a document may be, given or made, in bytes: its
	// texts, and 8 for each value in it.
	MaxSize = 4 << 20
	// MaxCalls is how many calls one exchange may become.
	MaxCalls = 16
	// lateEvery is after how many steps it is asked whether it is late.
	lateEvery = 64
)

// Why an expression was ended.
var (
	errSteps = fmt.Errorf("more than %d steps: does it end?", MaxSteps)
	errLate  = errors.New("took too long")
	errSize  = fmt.Errorf("a value of more than %d bytes", MaxSize)
	errDepth = fmt.Errorf("a value nested deeper than %d", MaxDepth)
)

// meter ends expressions that take too long. It is the context that gojq asks at
// each instruction whether it is done: that is how steps are counted.
type meter struct {
	steps int
	late  func() bool // may be nil
	err   error
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (m *meter) Done() <-chan struct{} {
	m.steps++
	switch {
	case m.err != nil:
	case m.steps > MaxSteps:
		m.err = errSteps
	case m.steps%lateEvery == 0 && m.late != nil && m.late():
		m.err = errLate
	default:
		return nil
	}
	return closed
}

func (m *meter) Err() error                       { return m.err }
func (m *meter) Deadline() (t time.Time, ok bool) { return t, false }
func (m *meter) Value(any) any                    { return nil }

var _ context.Context = (*meter)(nil)

// expr is a jq expression, compiled. It is safe for any number of goroutines.
type expr struct {
	line int
	key  string // as people write the place in the file
	code *gojq.Code
}

// refused are functions that ask the world, write to it, or end the program.
var refused = map[string]string{
	"now": "asks a clock", "localtime": "asks this machine's time zone", "strflocaltime": "asks this machine's time zone",
	"env": "reads the environment", "$ENV": "reads the environment", "input": "there is one input", "inputs": "there is one input",
	"input_line_number": "there is no such thing", "input_filename": "there is no such thing", "debug": "there is nobody to tell", "stderr": "there is nobody to tell",
	"halt": "only an error ends an expression", "halt_error": "only an error ends an expression", "modulemeta": "there are no modules",
	"builtins": "is of no use here", "get_search_list": "there are no modules", "setpath": "may make any size: build an object instead",
}

// growing are functions whose result may be much larger than what they are given;
// what goes in and what comes out is measured.
var growing = []string{"add", "join", "flatten", "tojson", "tostring", "implode", "gsub", "sub", "transpose", "combinations", "ascii", "from_entries"}

var errProduct = errors.New("want numbers on both sides of *")

// compile makes text ready; defs is jq definitions that come before it.
func compile(text, defs string, admitted func(string) bool) (*gojq.Code, error) {
	q, err := gojq.Parse(defs + "\n" + text)
	if err != nil {
		return nil, parseError(err, len(defs)+1, text)
	}
	g := guard{}
	g.walk(reflect.ValueOf(q))
	if g.err != nil {
		return nil, g.err
	}
	return gojq.Compile(q,
		gojq.WithFunction("bounded", 0, 0, func(v any, _ []any) any {
			if err := measure(v); err != nil {
				return err
			}
			return v
		}),
		gojq.WithFunction("product", 2, 2, func(_ any, args []any) any { return product(args[0], args[1]) }),
		gojq.WithFunction("ghost", 0, 0, func(v any, _ []any) any { return ghost(v, admitted) }),
		gojq.WithFunction("unghost", 0, 0, func(v any, _ []any) any { return unghost(v) }),
		gojq.WithFunction("ms_to_time", 0, 0, func(v any, _ []any) any { return msToTime(v) }),
		gojq.WithFunction("time_to_ms", 0, 0, func(v any, _ []any) any { return timeToMS(v) }),
	)
}

func parseError(err error, offset int, text string) error {
	at, ok := errors.AsType[*gojq.ParseError](err)
	if !ok {
		return err
	}
	from := max(0, min(len(text), at.Offset-offset)-20)
	before := text[from:max(from, min(len(text), at.Offset-offset))]
	if at.Token == "" {
		return fmt.Errorf("ends too soon, after %q", before)
	}
	return fmt.Errorf("%v, at the end of %q", err, before)
}

// guard looks for what an expression must not do, and measures what may grow.
type guard struct{ err error }

func (g *guard) refuse(format string, args ...any) {
	if g.err == nil {
		g.err = fmt.Errorf(format, args...)
	}
}

// walk goes through a syntax tree, the innermost first: whatever kinds of nodes
// there are, what is looked for is a Query, a Term or a Func.
func (g *guard) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			g.walk(v.Elem())
			g.node(v.Interface())
		}
	case reflect.Slice:
		for i := range v.Len() {
			g.walk(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			g.walk(v.Field(i))
		}
	}
}

func (g *guard) node(n any) {
	switch n := n.(type) {
	case *gojq.Query:
		g.query(n)
	case *gojq.Term:
		g.term(n)
	case *gojq.Func:
		if why, ok := refused[n.Name]; ok {
			g.refuse("%s: %s", n.Name, why)
		}
	case *gojq.Import:
		g.refuse("import: there are no modules")
	}
}

func function(name string, args ...*gojq.Query) *gojq.Query {
	return &gojq.Query{Term: &gojq.Term{Type: gojq.TermTypeFunc, Func: &gojq.Func{Name: name, Args: args}}}
}

func pipe(a, b *gojq.Query) *gojq.Query { return &gojq.Query{Left: a, Op: gojq.OpPipe, Right: b} }

func (g *guard) query(q *gojq.Query) {
	switch q.Op {
	case gojq.OpMul:
		q.Term, q.Op, q.Left, q.Right = function("product", q.Left, q.Right).Term, 0, nil, nil
	case gojq.OpAdd:
		sum := &gojq.Query{Left: q.Left, Op: gojq.OpAdd, Right: q.Right}
		q.Left, q.Op, q.Right = sum, gojq.OpPipe, function("bounded")
	case gojq.OpUpdateMul, gojq.OpUpdateAdd:
		g.refuse("%s: want |= with an expression", q.Op)
	case gojq.OpAssign, gojq.OpModify, gojq.OpUpdateAlt, gojq.OpUpdateSub, gojq.OpUpdateDiv, gojq.OpUpdateMod:
		g.place(reflect.ValueOf(q.Left))
	}
}

// place refuses to assign where an index is computed: it may be of any size.
func (g *guard) place(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if i, ok := v.Interface().(*gojq.Index); ok && i != nil && i.Start != nil {
			g.refuse("assignment to a computed index: build a list instead")
		}
		if !v.IsNil() {
			g.place(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			g.place(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			g.place(v.Field(i))
		}
	}
}

func (g *guard) term(t *gojq.Term) {
	grows := t.Type == gojq.TermTypeFormat || t.Str != nil && t.Str.Queries != nil ||
		t.Type == gojq.TermTypeFunc && slices.Contains(growing, t.Func.Name)
	if !grows {
		return
	}
	inner := *t
	inner.SuffixList = nil
	q := pipe(function("bounded"), pipe(&gojq.Query{Term: &inner}, function("bounded")))
	*t = gojq.Term{Type: gojq.TermTypeQuery, Query: q, SuffixList: t.SuffixList}
}

func product(a, b any) any {
	x, ok := gojq.ToFloat64(a)
	y, also := gojq.ToFloat64(b)
	if !ok || !also {
		return errProduct
	}
	if p := x * y; p == float64(int(p)) && p < 1<<53 && p > -1<<53 {
		return int(p)
	}
	return x * y
}

// measure returns an error if v is too large or too deep.
func measure(v any) error {
	left := MaxSize
	return measured(v, &left, 0)
}

func measured(v any, left *int, depth int) error {
	*left -= 8
	switch v := v.(type) {
	case string:
		*left -= len(v)
	case *big.Int:
		*left -= v.BitLen() / 8
	case []any:
		for _, e := range v {
			if err := measured(e, left, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for name, e := range v {
			*left -= len(name)
			if err := measured(e, left, depth+1); err != nil {
				return err
			}
		}
	}
	switch {
	case *left < 0:
		return errSize
	case depth > MaxDepth:
		return errDepth
	}
	return nil
}

// GhostPrefix begins the name that somebody has on a role who is not mirrored.
const GhostPrefix = "ghost:"

func ghost(v any, admitted func(string) bool) any {
	user, ok := v.(string)
	switch {
	case v == nil:
		return nil
	case !ok:
		return fmt.Errorf("ghost of %s: want a user's name", gojq.TypeOf(v))
	case admitted == nil || admitted(user):
		return user
	}
	return GhostPrefix + user
}

func unghost(v any) any {
	if user, ok := v.(string); ok {
		return strings.TrimPrefix(user, GhostPrefix)
	}
	return v
}

func msToTime(v any) any {
	if v == nil {
		return nil
	}
	ms, ok := gojq.ToFloat64(v)
	if !ok || ms != float64(int64(ms)) || ms < -62135596800000 || ms > 253402300799999 { // what protobuf's timestamps may be
		return fmt.Errorf("ms_to_time of %s: want a number of milliseconds since 1970", gojq.Preview(v))
	}
	return time.UnixMilli(int64(ms)).UTC().Format(time.RFC3339Nano)
}

func timeToMS(v any) any {
	if v == nil {
		return nil
	}
	text, _ := v.(string)
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return fmt.Errorf("time_to_ms of %s: want a time as 2010-11-15T17:00:00.123Z", gojq.Preview(v))
	}
	return int(t.UnixMilli())
}

// one returns what an expression makes of in; ok is false if that is nothing.
func (e *expr) one(m *meter, in any) (v any, ok bool, err error) {
	all, err := e.all(m, in, 1)
	if err != nil || len(all) == 0 {
		return nil, false, err
	}
	return all[0], true, nil
}

// all returns the values that an expression makes of in, at most so many.
func (e *expr) all(m *meter, in any, most int) (all []any, err error) {
	// An error at a step ends the iterator; what it holds is garbage then.
	for iter := e.code.RunWithContext(m, in); ; {
		v, ok := iter.Next()
		if !ok {
			return all, nil
		}
		if err, ok := v.(error); ok {
			return nil, e.error(err)
		}
		if len(all) == most {
			return nil, e.error(fmt.Errorf("more than %d values", most))
		}
		if err := measure(v); err != nil {
			return nil, e.error(err)
		}
		all = append(all, v)
	}
}

func (e *expr) error(err error) error { return &RuleError{e.line, e.key, err} }

// truth is jq's: null, false and nothing are not.
func (e *expr) truth(m *meter, in any) (bool, error) {
	if e == nil {
		return true, nil
	}
	v, ok, err := e.one(m, in)
	return ok && v != nil && v != false, err
}
