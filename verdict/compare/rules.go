package compare

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"darklaunch/internal/strictyaml"
)

// Rules are what a file of rules says.
type Rules struct {
	// Headers are those compared, by route; of the routes that have none,
	// content-type.
	Headers []Headers `yaml:"headers"`
	// Rules say what need not be equal.
	Rules []Rule `yaml:"rules"`
	// Margins say from where on a field matters.
	Margins []Margin `yaml:"margins"`
}

// EveryRoute is the route of what holds on all of them.
const EveryRoute = "*"

// Headers names header fields to be compared.
type Headers struct {
	// Route is the route's name, or EveryRoute, which a route's own takes the
	// place of.
	Route string   `yaml:"route"`
	Names []string `yaml:"names"`
}

// Rule says that something need not be equal. Of what it can do it does one.
type Rule struct {
	// Route is the route's name, or EveryRoute.
	Route string
	Path  Path

	// Ignore compares nothing at Path or below.
	Ignore bool
	// Degrade compares what the value looks like in place of the value.
	Degrade Aspects
	// Range is what numbers must be within, of Degrade's Range.
	Range [2]float64
	// Tolerance takes numbers for equal that are near each other.
	Tolerance Tolerance
	// Array says how the elements at Path are matched.
	Array Array
	// Key is the member that elements are matched by, of Keyed.
	Key string

	// Owner is whom to ask.
	Owner string
	// Expires is the day, in UTC, after which the rule is an error.
	Expires time.Time
	// Why is for people.
	Why string

	line int
}

// Aspects are what a degraded field is compared by, beside its type.
type Aspects uint8

const (
	// Types compares types alone.
	Types Aspects = 1 << iota
	// Lengths compares the lengths of texts.
	Lengths
	// Formats compares classes of formats: uuid, time, int, hex, email, url, word, text.
	Formats
	// Range holds the role's numbers to Rule.Range.
	Range
)

var aspects = map[string]Aspects{"type": Types, "length": Lengths, "format": Formats, "range": Range}

// Tolerance is how far apart numbers may be. Either is enough.
type Tolerance struct {
	Absolute float64
	// Relative is a share of the larger one's absolute value.
	Relative float64
}

// Array is how the elements of two lists are matched.
type Array uint8

const (
	// NoArray is no rule.
	NoArray Array = iota
	// Sequence matches by position, as is done without a rule.
	Sequence
	// Set matches equal ones, wherever they are.
	Set
	// Keyed matches those with the same key, wherever they are.
	Keyed
)

var arrays = map[string]Array{"sequence": Sequence, "set": Set, "keyed": Keyed}

// Margin is how much more often shadow may differ than control.
type Margin struct {
	Route string
	Path  Path
	// Share of answers, from 0 to 1.
	Share float64
}

// ParseRules reads a YAML file of rules that satisfies schema, the text of a JSON
// Schema, as of now. An error begins with the line and says what was expected; a
// rule that has expired is one.
func ParseRules(text, schema []byte, now time.Time) (*Rules, error) {
	r := new(Rules)
	if err := strictyaml.Parse(text, schema, r); err != nil {
		return nil, err
	}
	return r, r.Check(now)
}

// Check returns an error if a rule has expired, or if two do the same thing at
// the same place.
func (r *Rules) Check(now time.Time) error {
	seen := map[string]int{}
	for i := range r.Rules {
		u := &r.Rules[i]
		if !u.Expires.IsZero() && !now.Before(u.Expires.AddDate(0, 0, 1)) {
			return fmt.Errorf("%d: rules[%d].expires: %s is past: ask %s whether %s still differs, and drop the rule or give it another date",
				u.line, i, u.Expires.Format(time.DateOnly), u.Owner, u.Path)
		}
		id := fmt.Sprint(u.Route, "\n", u.Path, "\n", u.does())
		if line, twice := seen[id]; twice {
			return fmt.Errorf("%d: rules[%d]: says what line %d says", u.line, i, line)
		}
		seen[id] = u.line
	}
	return nil
}

// Clear lists the places whose values rules read, as a record's list of what is
// shown has them (json:$.a[*].b): they must be shown in the clear to be of use.
func (r *Rules) Clear() []string {
	var all []string
	for i := range r.Rules {
		if u := &r.Rules[i]; u.Tolerance != (Tolerance{}) || u.Degrade&Range != 0 {
			all = append(all, u.Path.String())
		}
	}
	return all
}

// Margin returns the margin that is set for a path of a route, if one is: that of
// the route before that of every route.
func (r *Rules) Margin(route, path string) (share float64, ok bool) {
	for i := range r.Margins {
		m := &r.Margins[i]
		if m.Path.String() != path || m.Route != route && (ok || m.Route != EveryRoute) {
			continue
		}
		if share, ok = m.Share, true; m.Route == route {
			break
		}
	}
	return share, ok
}

// does names what a rule does.
func (u *Rule) does() string {
	switch {
	case u.Ignore:
		return "ignore"
	case u.Degrade != 0:
		return "degrade"
	case u.Tolerance != Tolerance{}:
		return "tolerance"
	}
	return "array"
}

// String says what a rule does and where, for people.
func (u *Rule) String() string { return fmt.Sprintf("%s %s on %s", u.does(), u.Path, u.Route) }

// ruleFile is a rule as it is written.
type ruleFile struct {
	Route     string     `yaml:"route"`
	Path      Path       `yaml:"path"`
	Ignore    bool       `yaml:"ignore"`
	Degrade   []string   `yaml:"degrade"`
	Range     []float64  `yaml:"range"`
	Tolerance *tolerance `yaml:"tolerance"`
	Array     string     `yaml:"array"`
	Key       string     `yaml:"key"`
	Owner     string     `yaml:"owner"`
	Expires   string     `yaml:"expires"`
	Why       string     `yaml:"why"`
}

type tolerance struct {
	Absolute float64 `yaml:"absolute"`
	Relative share   `yaml:"relative"`
}

// share is written as 1%, 0.1pt or 0.01.
type share float64

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *share) UnmarshalYAML(n *yaml.Node) error {
	text, scale := n.Value, 1.0
	for _, unit := range []string{"%", "pt"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			text, scale = number, 100
		}
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v >= 0) || v/scale > 1 {
		return strictyaml.ErrorAt(n, "got %q, want a share from 0 to 100%%, as 0.1%%", n.Value)
	}
	*s = share(v / scale)
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (u *Rule) UnmarshalYAML(n *yaml.Node) error {
	f := ruleFile{Route: EveryRoute}
	if err := n.Decode(&f); err != nil {
		return err
	}
	*u = Rule{Route: f.Route, Path: f.Path, Ignore: f.Ignore, Array: arrays[f.Array], Key: f.Key, Owner: f.Owner, Why: f.Why, line: n.Line}
	for _, name := range f.Degrade {
		u.Degrade |= aspects[name]
	}
	if f.Tolerance != nil {
		u.Tolerance = Tolerance{f.Tolerance.Absolute, float64(f.Tolerance.Relative)}
	}
	if len(f.Range) == 2 {
		u.Range = [2]float64{f.Range[0], f.Range[1]}
	}
	var err error
	if u.Expires, err = time.Parse(time.DateOnly, f.Expires); err != nil {
		return strictyaml.ErrorAt(n, "expires: got %q, want a day, as 2027-03-31", f.Expires)
	}
	if why := u.wrong(&f); why != "" {
		return strictyaml.ErrorAt(n, "%s", why)
	}
	return nil
}

// wrong says what of a rule does not fit together.
func (u *Rule) wrong(f *ruleFile) string {
	actions := 0
	for _, is := range []bool{f.Ignore, f.Degrade != nil, f.Tolerance != nil, f.Array != ""} {
		if is {
			actions++
		}
	}
	document := u.Path.place == placeJSON || u.Path.place == placeForm || u.Path.place == placeProto
	switch {
	case actions != 1:
		return "want one of ignore, degrade, tolerance and array"
	case f.Degrade != nil && u.Degrade == 0:
		return "degrade: want some of type, length, format and range"
	case (u.Degrade&Range != 0) != (len(f.Range) == 2) || u.Range[0] > u.Range[1]:
		return "want degrade: [range] together with range: [LOWEST, HIGHEST]"
	case f.Tolerance != nil && !(u.Tolerance.Absolute > 0 && !math.IsInf(u.Tolerance.Absolute, 0)) && u.Tolerance.Relative == 0:
		return "tolerance: want absolute or relative above 0"
	case (u.Array == Keyed) != (u.Key != ""):
		return "want array: keyed together with key: NAME"
	case (u.Array != NoArray || f.Tolerance != nil) && !document:
		return "array and tolerance are of json:, form: and proto: alone"
	}
	return ""
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *Margin) UnmarshalYAML(n *yaml.Node) error {
	f := struct {
		Route string `yaml:"route"`
		Path  Path   `yaml:"path"`
		Share share  `yaml:"margin"`
	}{Route: EveryRoute}
	if err := n.Decode(&f); err != nil {
		return err
	}
	*m = Margin{f.Route, f.Path, float64(f.Share)}
	return nil
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (h *Headers) UnmarshalYAML(n *yaml.Node) error {
	type file Headers // without this method
	f := file{Route: EveryRoute}
	if err := n.Decode(&f); err != nil {
		return err
	}
	for i, name := range f.Names {
		f.Names[i] = strings.ToLower(name)
	}
	*h = Headers(f)
	return nil
}

// compiled are rules by route.
type compiled struct {
	routes  map[string]map[string]*node // by route, then by place
	headers map[string][]string
}

// compile makes the trees of rules. Those of every route are part of each.
func compile(r *Rules) compiled {
	c := compiled{routes: map[string]map[string]*node{EveryRoute: {}}, headers: map[string][]string{EveryRoute: {"content-type"}}}
	for _, h := range r.Headers {
		c.headers[h.Route] = h.Names
	}
	for i := range r.Rules {
		c.routes[r.Rules[i].Route] = map[string]*node{}
	}
	for route, roots := range c.routes {
		// A route's own come first: what is set stays.
		for _, own := range []string{route, EveryRoute} {
			for i := range r.Rules {
				if r.Rules[i].Route == own {
					r.Rules[i].plant(i, roots)
				}
			}
		}
	}
	return c
}

func (u *Rule) plant(i int, roots map[string]*node) {
	root := roots[u.Path.place]
	if root == nil {
		root = newNode()
		roots[u.Path.place] = root
	}
	d := &root.at(u.Path.steps).does
	switch {
	case u.Ignore:
		d.ignore = first(d.ignore, i)
	case u.Degrade != 0:
		d.degrade = first(d.degrade, i)
	case u.Array != NoArray:
		d.array = first(d.array, i)
	default:
		d.tolerate = first(d.tolerate, i)
	}
}

func (c *compiled) route(name string) map[string]*node {
	if roots, ok := c.routes[name]; ok {
		return roots
	}
	return c.routes[EveryRoute]
}

func (c *compiled) headersOf(route string) []string {
	if names, ok := c.headers[route]; ok {
		return names
	}
	return c.headers[EveryRoute]
}
