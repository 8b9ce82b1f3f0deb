// Package compare says in what two answers to one request differ: live's, and
// that of another role.
//
// A difference has a path and a kind. Paths leave out indexes and names that are
// data, so that what differs in many answers is one field: json:$.items[*].price.
// Answers are as a mirror records them, in which most leaves are digests
// (internal/digest): those tell whether values are equal and what they look
// like, which is all that is needed here. Raw answers are read too.
//
// Rules say what need not be equal, or how arrays are to be read; they have an
// owner and an end, and what each hid is counted.
//
// The package is pure: it starts no goroutine, does no I/O and asks no clock.
// Whatever is in an answer, comparing it is bounded and does not fail.
package compare

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	pairv1 "darklaunch/api/pair/v1"
)

// Limits of what is looked at in one answer.
const (
	// MaxContent is the largest body that is read as a document, in bytes. One
	// that is larger is compared as a whole.
	MaxContent = 1 << 20
	// MaxDepth is how deep documents are followed. What lies deeper is compared
	// as a whole.
	MaxDepth = 64
	// MaxDifferences is how many differences are told of one answer.
	MaxDifferences = 256
	// MaxShown is how much of a value a Difference shows, in bytes.
	MaxShown = 200
)

// Kind is how two answers differ at a path. The order is that of gravity.
type Kind uint8

const (
	// Status: the class of the status differs (2xx and 5xx, OK and an error), or
	// there is no answer. Nothing else is told of such answers.
	Status Kind = iota
	// Missing: live has it, the role does not.
	Missing
	// Extra: the role has it, live does not.
	Extra
	// Type: a number and a text, a list and an object, a document and none; or,
	// of a field that a rule degrades, another class of format.
	Type
	// Header: a header or trailer field differs.
	Header
	// Length: lists are of different lengths; or, of a field that a rule
	// degrades, texts are.
	Length
	// Order: lists have the same elements in another order.
	Order
	// Value: the values differ, and their types do not.
	Value

	numKinds
)

var kindNames = [numKinds]string{"status", "missing", "extra", "type", "header", "length", "order", "value"}

// String returns the kind's name.
func (k Kind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error {
	i := slices.Index(kindNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("kind %q: want one of %v", text, kindNames)
	}
	*k = Kind(i)
	return nil
}

// Shape says how else two different values differ: what is left to compare of a
// field whose value is never the same.
type Shape uint8

const (
	// OtherClass: the classes of their forms differ, as uuid and word.
	OtherClass Shape = 1 << iota
	// OtherLength: they are texts of different lengths.
	OtherLength
)

// Difference is one way in which two answers differ.
type Difference struct {
	// Path is where, as rules write it.
	Path string
	Kind Kind
	// Shape is told of the kind Value, of all values at Path together.
	Shape Shape
	// Live and Role are what stood there first, as the record shows it, cut to
	// MaxShown; "" where nothing did.
	Live, Role string
}

// Use is what a rule did to the comparison of two answers.
type Use struct {
	// Rule is its index in Rules.Rules.
	Rule int
	// Hid is how many differences it hid.
	Hid int
	// Unread is how often it could not be applied, as the record does not show
	// the values that it reads; they were then compared for equality.
	Unread int
}

// Result is what was found of two answers.
type Result struct {
	// Differences has one for each path and kind, in the order of paths.
	Differences []Difference
	// Uses are those of rules that did something, in the order of rules.
	Uses []Use
	// Cut says that there are more than MaxDifferences.
	Cut bool
}

// Skip is why a pair was not compared.
type Skip string

// The reasons, a closed set.
const (
	// Compared: it was.
	Compared Skip = ""
	// Incomplete: there is no live answer, or a role has none of its own or was
	// stopped between calls.
	Incomplete Skip = "incomplete"
	// Tainted: on some role, the state of its users is not known to equal live's.
	// That holds for both roles: what one of them answers is then neither a fault
	// nor noise, and a pair that counted for one alone would be half a pair.
	Tainted Skip = "tainted"
	// UnknownIDs: ids in an answer could not be rewritten.
	UnknownIDs Skip = "unknown_ids"
	// Untranslated: an answer is of another API, and its way back is not known here or
	// not all of the answer was kept.
	Untranslated Skip = "untranslated"
)

// Outcome is what was found of a pair.
type Outcome struct {
	// Pair is what was compared. It is not copied.
	Pair *pairv1.Pair
	// Skip is why it was not compared; the rest is then empty.
	Skip Skip
	// Shadow is shadow's answer against live's.
	Shadow Result
	// Control is control's against live's; nil without one.
	Control *Result
}

// Descriptors finds protobuf descriptors by full name: protoregistry.Files does,
// whether it was read from a file or asked of a server by reflection.
type Descriptors interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
}

// Config describes a Comparer.
type Config struct {
	// Rules are applied. Nil means none; they are not changed while it is used.
	Rules *Rules
	// Descriptors name the fields of gRPC messages, by the method that the route
	// names (/package.Service/Method). Nil, or where it does not know the method:
	// fields have numbers, and a field of bytes is read as a message where it can
	// be one and is no text.
	Descriptors Descriptors
	// Back makes of what a role of another API answered, a side of p, an answer of
	// live's API. An error means that this can't be done, and the pair is not compared;
	// of an answer that a rule can't make sense of the Failure says so. Nil can't.
	Back func(p *pairv1.Pair, role *pairv1.Side) (*Answer, error)
}

// Comparer compares answers. It is immutable, and safe for any number of
// goroutines.
type Comparer struct {
	cfg   Config
	rules compiled
}

// New returns a Comparer.
func New(cfg Config) *Comparer {
	if cfg.Rules == nil {
		cfg.Rules = new(Rules)
	}
	return &Comparer{cfg: cfg, rules: compile(cfg.Rules)}
}

// Rules returns the rules that are applied, never nil.
func (c *Comparer) Rules() *Rules { return c.cfg.Rules }

// Pair compares what the roles answered with what live did. Of a role that made
// several calls of one copy it takes the last answer, unless they go back by a rule. p is kept in the Outcome.
func (c *Comparer) Pair(p *pairv1.Pair) Outcome {
	o := Outcome{Pair: p}
	var answers [pairv1.Role_ROLE_CONTROL + 1]*Answer
	for _, s := range p.GetSides() {
		if role := s.GetRole(); role <= 0 || int(role) >= len(answers) {
			continue
		}
		switch {
		case s.GetStopped() || len(s.GetExchanges()) == 0:
			o.Skip = Incomplete
		case !s.GetClean() && o.Skip != Incomplete:
			o.Skip = Tainted
		case s.GetUnknownIds() && o.Skip == Compared:
			o.Skip = UnknownIDs
		}
		if n := len(s.GetExchanges()); n > 0 {
			answers[s.GetRole()] = Recorded(s.GetExchanges()[n-1])
		}
		if o.Skip != Compared || !translated(p, s) || answers[s.GetRole()].Failure != "" {
			continue
		}
		if answer := c.back(p, s); answer != nil {
			answers[s.GetRole()] = answer
		} else {
			o.Skip = Untranslated
		}
	}
	live, shadow, control := answers[pairv1.Role_ROLE_LIVE], answers[pairv1.Role_ROLE_SHADOW], answers[pairv1.Role_ROLE_CONTROL]
	if live == nil || shadow == nil || live.Failure != "" {
		o.Skip = Incomplete
	}
	if o.Skip != Compared {
		return o
	}
	var read lazy // live's body is read once
	o.Shadow = c.answers(p.GetRoute(), live, shadow, &read)
	if control != nil {
		r := c.answers(p.GetRoute(), live, control, &read)
		o.Control = &r
	}
	return o
}

// translated reports whether a role was called by another API.
func translated(p *pairv1.Pair, s *pairv1.Side) bool {
	return p.GetRule() > 0 && s.GetRole() != pairv1.Role_ROLE_LIVE && s.GetExchanges()[0].GetRequest() != nil
}

// back is what a role answered in live's shape; nil if that can't be told.
func (c *Comparer) back(p *pairv1.Pair, s *pairv1.Side) *Answer {
	if c.cfg.Back == nil {
		return nil
	}
	answer, err := c.cfg.Back(p, s)
	if err != nil {
		return nil
	}
	return answer
}

// Answers compares the answer of a role with live's.
func (c *Comparer) Answers(route string, live, role *Answer) Result {
	return c.answers(route, live, role, new(lazy))
}

func (c *Comparer) answers(route string, live, role *Answer, read *lazy) Result {
	w := walker{rules: c.cfg.Rules.Rules, roots: c.rules.route(route), live: read}
	w.answers(live, role, c.rules.headersOf(route), c.method(route))
	return w.result()
}

// result puts what was found in order.
func (w *walker) result() Result {
	slices.SortFunc(w.found, func(a, b Difference) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Kind, b.Kind))
	})
	slices.SortFunc(w.uses, func(a, b Use) int { return cmp.Compare(a.Rule, b.Rule) })
	return Result{Differences: w.found, Uses: w.uses, Cut: w.cut}
}
