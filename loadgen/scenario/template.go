package scenario

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/population"
)

// env is what a template can ask for while one call is made. It belongs to the
// source's goroutine.
type env struct {
	s     *Scenario
	run   *run
	v     *visit
	rand  draw.Rand // at the content of this step
	draft population.Draft
	to    []population.User
	it    string // the element of an $each
	due   time.Duration
}

// A piece appends a part of a text.
type piece func(dst []byte, e *env) []byte

// template is a text with ${…} in it.
type template struct {
	pieces  []piece
	literal []bool // by piece: it is text of the template's own
	needs   []int  // variables that must have a value
	fixed   string
	isText  bool // all of it is fixed
	drafts  bool // it asks for a message's draft
	number  bool // it is one expression that yields a number or a bool
}

func (t *template) append(dst []byte, e *env) []byte {
	for _, p := range t.pieces {
		dst = p(dst, e)
	}
	return dst
}

// builtins are the fields that need no expression.
var builtins = map[string]struct {
	piece  piece
	drafts bool
	number bool
}{
	"user": {piece: func(dst []byte, e *env) []byte { return e.s.appendUser(dst, e.v.User) }},
	"n":    {piece: func(dst []byte, e *env) []byte { return strconv.AppendUint(dst, e.v.N, 10) }, number: true},
	"step": {piece: func(dst []byte, e *env) []byte { return strconv.AppendUint(dst, e.v.step, 10) }, number: true},
	"key":  {piece: appendKey},
	"it":   {piece: func(dst []byte, e *env) []byte { return append(dst, e.it...) }},
	"word": {piece: appendWord},
	"contact": {piece: func(dst []byte, e *env) []byte {
		return e.s.appendUser(dst, e.s.people.Recipient(e.v.User, e.rand.Rand))
	}},
	"channel": {piece: func(dst []byte, e *env) []byte { return append(dst, e.s.channelAs[e.draft.Channel]...) }, drafts: true},
	"text":    {piece: func(dst []byte, e *env) []byte { return population.AppendText(dst, e.draft.Body, e.rand.Rand) }, drafts: true},
	"stamped": {piece: appendStamped, drafts: true},
	"subject": {piece: appendSubject},
}

// appendSubject appends a line: services refuse subjects of several.
func appendSubject(dst []byte, e *env) []byte {
	start := len(dst)
	dst = population.AppendText(dst, 8+e.rand.IntN(40), e.rand.Rand)
	for i, c := range dst[start:] {
		if c == '\n' {
			dst[start+i] = ' '
		}
	}
	return dst
}

// appendKey appends what no other call has: of this run, session and step.
func appendKey(dst []byte, e *env) []byte {
	dst = append(dst, e.run.ID...)
	dst = append(dst, '-')
	dst = strconv.AppendUint(dst, e.v.N, 36)
	dst = append(dst, '-')
	return strconv.AppendUint(dst, e.v.step, 36)
}

// appendWord appends a word as texts have them.
func appendWord(dst []byte, e *env) []byte {
	start := len(dst)
	dst = population.AppendText(dst, 16, e.rand.Rand)
	for i, c := range dst[start:] {
		if c|0x20 < 'a' || c|0x20 > 'z' {
			return dst[:start+i]
		}
	}
	return dst
}

var (
	name = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	pick = regexp.MustCompile(`^(recent|any)\(([a-z][a-z0-9_]*)\)$`)
)

// variable returns the number of the variable called v.
func (s *Scenario) variable(v string) (int, bool) {
	i, ok := s.vars[v]
	return i, ok
}

// parseTemplate makes a text ready. Names of fields and variables cost nothing
// to speak of when calls are made; all else is a CEL expression.
func (s *Scenario) parseTemplate(text string) (*template, error) {
	t := &template{isText: !strings.Contains(text, "${"), fixed: text}
	whole := strings.HasPrefix(text, "${") && strings.IndexByte(text, '}') == len(text)-1
	for text != "" {
		fixed, rest, more := strings.Cut(text, "${")
		if fixed != "" {
			t.pieces = append(t.pieces, func(dst []byte, _ *env) []byte { return append(dst, fixed...) })
			t.literal = append(t.literal, true)
		}
		if !more {
			break
		}
		expr, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, fmt.Errorf("%q: want a } after ${", text)
		}
		number, err := s.addExpression(t, strings.TrimSpace(expr))
		if err != nil {
			return nil, err
		}
		t.literal = append(t.literal, false)
		t.number = whole && number
		text = after
	}
	return t, nil
}

func (s *Scenario) addExpression(t *template, expr string) (number bool, err error) {
	if b, ok := builtins[expr]; ok {
		if b.drafts && s.mix == nil {
			return false, fmt.Errorf("${%s}: want content: it says what messages are like", expr)
		}
		if expr == "contact" && s.people.Users() == 0 {
			return false, fmt.Errorf("${contact}: want a population")
		}
		t.pieces = append(t.pieces, b.piece)
		t.drafts = t.drafts || b.drafts
		return b.number, nil
	}
	how, v := "newest", expr
	if m := pick.FindStringSubmatch(expr); m != nil {
		how, v = m[1], m[2]
	}
	if i, ok := s.variable(v); ok {
		t.needs = append(t.needs, i)
		t.pieces = append(t.pieces, pickers[how](i))
		return false, nil
	}
	if name.MatchString(v) && v != "draw" && v != "true" && v != "false" {
		return false, fmt.Errorf("${%s}: no field or variable is called %s", expr, v)
	}
	x, err := s.compileCEL(expr)
	if err != nil {
		return false, err
	}
	t.pieces = append(t.pieces, func(dst []byte, e *env) []byte { return x.append(dst, e) })
	return x.number, nil
}

// pickers make what appends one of a variable's values, which are there.
var pickers = map[string]func(int) piece{
	"newest": func(i int) piece { return func(dst []byte, e *env) []byte { return append(dst, e.v.vars[i][0]...) } },
	"recent": func(i int) piece {
		return func(dst []byte, e *env) []byte {
			return append(dst, e.v.vars[i][population.Recent(len(e.v.vars[i]), e.rand.Rand)]...)
		}
	},
	"any": func(i int) piece {
		return func(dst []byte, e *env) []byte { return append(dst, e.v.vars[i][e.rand.IntN(len(e.v.vars[i]))]...) }
	},
}

// celCost bounds one evaluation, in the library's units: a step each.
const celCost = 10_000

// expression is one in CEL.
type expression struct {
	text    string
	program cel.Program
	number  bool
	isBool  bool
}

func (s *Scenario) compileCEL(text string) (*expression, error) {
	options := []cel.EnvOption{
		cel.Variable("user", cel.StringType), cel.Variable("n", cel.IntType), cel.Variable("step", cel.IntType),
		cel.Variable("draw", cel.DoubleType),
	}
	for v := range s.vars {
		options = append(options, cel.Variable(v, cel.ListType(cel.StringType)))
	}
	environment, err := cel.NewEnv(options...)
	if err != nil {
		return nil, err
	}
	ast, issues := environment.Compile(text)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("expression %q: column %d: %s", text, first.Location.Column()+1, first.Message)
	}
	x := &expression{text: text}
	switch kind := ast.OutputType().Kind(); kind {
	case types.StringKind:
	case types.IntKind, types.UintKind, types.DoubleKind:
		x.number = true
	case types.BoolKind:
		x.number, x.isBool = true, true
	default:
		return nil, fmt.Errorf("expression %q: yields %s: want a string, a number or a bool", text, ast.OutputType())
	}
	x.program, err = environment.Program(ast, cel.CostLimit(celCost))
	return x, err
}

// eval returns the value; false if the expression failed, which e keeps.
func (x *expression) eval(e *env) (any, bool) {
	in := map[string]any{
		"user": string(e.s.appendUser(nil, e.v.User)), "n": int64(e.v.N), "step": int64(e.v.step),
		"draw": draw.Unit(draw.Hash(e.run.Seed, draw.Content, e.v.N, e.v.step)),
	}
	for v, i := range e.s.vars {
		in[v] = e.v.vars[i]
	}
	out, _, err := x.program.Eval(in)
	if err != nil {
		e.run.Stats.fail(fmt.Errorf("expression %q: %w", x.text, err))
		return nil, false
	}
	return out.Value(), true
}

func (x *expression) append(dst []byte, e *env) []byte {
	v, _ := x.eval(e)
	switch v := v.(type) {
	case string:
		return append(dst, v...)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case uint64:
		return strconv.AppendUint(dst, v, 10)
	case float64:
		return strconv.AppendFloat(dst, v, 'g', -1, 64)
	case bool:
		return strconv.AppendBool(dst, v)
	}
	return dst
}

// escapePath makes the values in a path safe, and leaves its own text as it is.
func escapePath(t *template) *template {
	escaped := *t
	escaped.pieces = nil
	for i, p := range t.pieces {
		if t.literal[i] {
			escaped.pieces = append(escaped.pieces, p)
			continue
		}
		escaped.pieces = append(escaped.pieces, func(dst []byte, e *env) []byte {
			start := len(dst)
			dst = p(dst, e)
			value := strings.ReplaceAll(url.QueryEscape(string(dst[start:])), "+", "%20")
			return append(dst[:start], value...)
		})
	}
	return &escaped
}
