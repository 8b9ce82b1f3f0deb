package compare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"darklaunch/internal/digest"
)

// walker compares two answers.
type walker struct {
	rules []Rule
	roots map[string]*node
	live  *lazy

	place string // of the document that is walked
	steps []byte // to where it is
	hide  int    // the rule that hides what is found, or -1

	found []Difference
	index map[fieldKey]int // into found
	uses  []Use
	cut   bool

	written int // by canonical, in bytes
}

// maxWritten bounds what is written of one answer to see whether elements have
// moved, as nested lists are written once for each list that they are in. Beyond
// it they are compared where they stand.
const maxWritten = 8 * MaxContent

type fieldKey struct {
	path string
	kind Kind
}

// at returns the nodes of a place.
func (w *walker) at(place string) nodes {
	if n := w.roots[place]; n != nil {
		return nodes{n}
	}
	return nil
}

// enter goes to a place with what rules say there, which may hide it all.
func (w *walker) enter(d directive) (leave func()) {
	before := w.hide
	w.hide = first(w.hide, d.ignore)
	return func() { w.hide = before }
}

// tell adds a difference where the walker is.
func (w *walker) tell(kind Kind, shape Shape, live, role any) {
	if w.hide >= 0 {
		w.use(w.hide).Hid++
		return
	}
	key := fieldKey{pathText(w.place, string(w.steps)), kind}
	if i, ok := w.index[key]; ok {
		w.found[i].Shape |= shape
		return
	}
	if len(w.found) == MaxDifferences {
		w.cut = true
		return
	}
	if w.index == nil {
		w.index = map[fieldKey]int{}
	}
	w.index[key] = len(w.found)
	w.found = append(w.found, Difference{key.path, kind, shape, show(live), show(role)})
}

func (w *walker) use(rule int) *Use {
	i := slices.IndexFunc(w.uses, func(u Use) bool { return u.Rule == rule })
	if i < 0 {
		i = len(w.uses)
		w.uses = append(w.uses, Use{Rule: rule})
	}
	return &w.uses[i]
}

// absent is what is not there.
type absent struct{}

// answers compares all of two answers. Where their status is of another class,
// all else differs too, and is not told.
func (w *walker) answers(live, role *Answer, headers []string, d protoreflect.MessageDescriptor) {
	w.hide = -1
	if !w.status(live, role) {
		return
	}
	for _, name := range headers {
		w.field("header:"+name, values(live.Header, name), values(role.Header, name))
	}
	w.trailers(live.Trailer, role.Trailer)
	w.body(&live.Body, &role.Body, d)
}

// status compares statuses, and reports whether they are of one class.
func (w *walker) status(live, role *Answer) bool {
	switch {
	case live.Failure != "" || role.Failure != "":
		if live.Failure != role.Failure {
			w.leaf(placeStatus, Status, outcome(live), outcome(role))
		}
		return false
	case live.Status/100 != role.Status/100:
		w.leaf(placeStatus, Status, live.Status, role.Status)
		return false
	case live.Status != role.Status:
		w.leaf(placeStatus, Value, live.Status, role.Status)
	case (live.GRPC == 0) != (role.GRPC == 0):
		w.leaf(placeGRPC, Status, live.GRPC, role.GRPC)
		return false
	case live.GRPC != role.GRPC:
		w.leaf(placeGRPC, Value, live.GRPC, role.GRPC)
	}
	return true
}

func outcome(a *Answer) any {
	if a.Failure != "" {
		return a.Failure
	}
	return a.Status
}

// leaf tells of a place that is no document.
func (w *walker) leaf(place string, kind Kind, live, role any) {
	w.place, w.steps = place, w.steps[:0]
	defer w.enter(w.at(place).does())()
	w.tell(kind, 0, live, role)
}

func values(list []Field, name string) (all []string) {
	for _, f := range list {
		if f.Name == name {
			all = append(all, f.Value)
		}
	}
	return all
}

// trailers compares all trailer fields but gRPC's status, which is compared as such.
func (w *walker) trailers(live, role []Field) {
	a, b := byName(live), byName(role)
	for name := range b {
		if _, both := a[name]; !both {
			a[name] = nil
		}
	}
	delete(a, "grpc-status")
	for _, name := range slices.Sorted(maps.Keys(a)) {
		w.field("trailer:"+name, a[name], b[name])
	}
}

func byName(list []Field) map[string][]string {
	all := map[string][]string{}
	for _, f := range list {
		all[f.Name] = append(all[f.Name], f.Value)
	}
	return all
}

// field compares the values of a header or trailer field, in their order.
func (w *walker) field(place string, live, role []string) {
	if slices.Equal(live, role) {
		return
	}
	w.place, w.steps = place, w.steps[:0]
	d := w.at(place).does()
	defer w.enter(d)()
	if d.degrade >= 0 && len(live) == len(role) && w.hide < 0 {
		rule := &w.rules[d.degrade]
		same := true
		for i := range live {
			s := shapeOf(leafOf(live[i]), leafOf(role[i]))
			same = same && !(rule.Degrade&Formats != 0 && s&OtherClass != 0) && !(rule.Degrade&Lengths != 0 && s&OtherLength != 0)
		}
		if same {
			w.use(d.degrade).Hid++
			return
		}
	}
	w.tell(Header, 0, fieldText(live), fieldText(role))
}

func fieldText(values []string) any {
	if values == nil {
		return absent{}
	}
	return strings.Join(values, ", ")
}

// body compares contents as documents if both are, and otherwise as a whole.
func (w *walker) body(live, role *Body, d protoreflect.MessageDescriptor) {
	hashed := len(live.Hash) > 0 && len(role.Hash) > 0
	if hashed && live.Size == role.Size && bytes.Equal(live.Hash, role.Hash) {
		return
	}
	if !hashed && live.Truncated == role.Truncated && live.Format == role.Format && bytes.Equal(live.Content, role.Content) {
		return
	}
	a, b := w.live.read(live, d), role.read(d)
	w.place, w.steps = placeBody, w.steps[:0]
	switch {
	case a.place != b.place:
		defer w.enter(w.at(placeBody).does())()
		w.tell(Type, 0, bodyText(live), bodyText(role))
	case a.place != "":
		w.place = a.place
		w.value(a.root, b.root, w.at(a.place), 0)
	default:
		w.opaque(live, role)
	}
}

// opaque compares bodies that differ and can't be read.
func (w *walker) opaque(live, role *Body) {
	d := w.at(placeBody).does()
	defer w.enter(d)()
	shape := shapeOf(leafOf(bodyText(live)), leafOf(bodyText(role))) &^ OtherLength
	if live.Size != role.Size {
		shape |= OtherLength
	}
	w.differ(d, shape, bodyText(live), bodyText(role))
}

func bodyText(b *Body) any { return octets(b.Content[:min(len(b.Content), MaxShown)]) }

// differ tells of two values that differ and are of one type.
func (w *walker) differ(d directive, shape Shape, live, role any) {
	if d.degrade < 0 || w.hide >= 0 {
		w.tell(Value, shape, live, role)
		return
	}
	rule, hid := &w.rules[d.degrade], true
	if rule.Degrade&Formats != 0 && shape&OtherClass != 0 {
		w.tell(Type, 0, live, role)
		hid = false
	}
	if rule.Degrade&Lengths != 0 && shape&OtherLength != 0 {
		w.tell(Length, 0, live, role)
		hid = false
	}
	if rule.Degrade&Range != 0 {
		if v, ok := leafOf(role).number(); !ok {
			w.use(d.degrade).Unread++
		} else if !(rule.Range[0] <= v && v <= rule.Range[1]) {
			w.tell(Value, shape, live, role)
			hid = false
		}
	}
	if hid {
		w.use(d.degrade).Hid++
	}
}

// value compares two values, of which either may be absent.
func (w *walker) value(live, role any, at nodes, depth int) {
	d := at.does()
	defer w.enter(d)()
	if depth > MaxDepth {
		if !equal(live, role) {
			w.tell(Value, 0, live, role)
		}
		return
	}
	switch l := live.(type) {
	case map[string]any:
		if r, ok := role.(map[string]any); ok {
			w.object(l, r, at, false, depth)
			return
		}
	case entries:
		if r, ok := role.(entries); ok {
			w.object(l, r, at, true, depth)
			return
		}
	case []any:
		if r, ok := role.([]any); ok {
			w.list(l, r, at, d, true, depth)
			return
		}
	case repeated:
		if r, ok := role.(repeated); ok {
			w.list(l, r, at, d, false, depth)
			return
		}
	default:
		if !container(role) {
			w.scalar(l, role, d)
			return
		}
	}
	w.tell(Type, 0, live, role)
}

func container(v any) bool {
	switch v.(type) {
	case map[string]any, entries, []any, repeated:
		return true
	}
	return false
}

func (w *walker) scalar(live, role any, d directive) {
	a, b := leafOf(live), leafOf(role)
	switch {
	case a.kind != b.kind:
		w.tell(Type, 0, live, role)
	case a.same(b):
	case d.tolerate >= 0 && w.hide < 0 && w.near(a, b, d.tolerate):
	default:
		w.differ(d, shapeOf(a, b), live, role)
	}
}

// near reports whether a rule takes two numbers for equal.
func (w *walker) near(a, b leaf, rule int) bool {
	x, ok := a.number()
	y, also := b.number()
	t := &w.rules[rule].Tolerance
	switch apart := math.Abs(x - y); {
	case !ok || !also:
		w.use(rule).Unread++
		return false
	case apart <= t.Absolute || apart <= t.Relative*max(math.Abs(x), math.Abs(y)):
		w.use(rule).Hid++
		return true
	}
	return false
}

// within goes a step further, and returns how to go back.
func (w *walker) within(step string) (back func()) {
	n := len(w.steps)
	w.steps = append(w.steps, step...)
	return func() { w.steps = w.steps[:n] }
}

func (w *walker) object(live, role map[string]any, at nodes, data bool, depth int) {
	names := make([]string, 0, len(live)+len(role))
	for name := range live {
		names = append(names, name)
	}
	for name := range role {
		if _, both := live[name]; !both {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		l, in := live[name]
		r, also := role[name]
		if in && also && !container(l) && l == r {
			continue // most are
		}
		w.member(name, l, r, in, also, at, data, depth)
	}
}

func (w *walker) member(name string, live, role any, in, also bool, at nodes, data bool, depth int) {
	step, to := at.member(name, data, w.place == placeProto)
	defer w.within(step)()
	if in && also {
		w.value(live, role, to, depth+1)
		return
	}
	defer w.enter(to.does())()
	if in {
		w.tell(Missing, 0, live, absent{})
	} else {
		w.tell(Extra, 0, absent{}, role)
	}
}

// list compares lists. written says that the step to elements is part of paths.
func (w *walker) list(live, role []any, at nodes, d directive, written bool, depth int) {
	elements := at
	if written {
		elements = at.step(anyElement)
	}
	mode := Sequence
	if d.array >= 0 && w.written <= maxWritten {
		mode = w.rules[d.array].Array
	}
	if mode == Sequence && !w.aligned(live, role, elements, written) {
		return
	}
	if written {
		defer w.within(anyElement)()
	}
	switch mode {
	case Sequence:
		for i := range live {
			w.value(live[i], role[i], elements, depth+1)
		}
	case Set:
		w.matched(live, role, func(v any) string { return w.canonical(v, elements, 0) }, elements, d.array, depth)
	case Keyed:
		w.matched(live, role, func(v any) string { return keyOf(v, w.rules[d.array].Key) }, elements, d.array, depth)
	}
}

// aligned reports whether the elements of two lists belong together by position,
// and tells why not. Where lengths differ nobody can say which do, so that nothing
// is told of them.
func (w *walker) aligned(live, role []any, elements nodes, written bool) bool {
	switch {
	case !written && len(live) == 0 && len(role) > 0:
		w.tell(Extra, 0, absent{}, role[0])
	case !written && len(role) == 0 && len(live) > 0:
		w.tell(Missing, 0, live[0], absent{})
	case len(live) != len(role):
		w.tell(Length, 0, len(live), len(role))
	case len(live) > 1 && w.reordered(live, role, elements):
		w.tell(Order, 0, live, role)
	default:
		return true
	}
	return false
}

// reordered reports whether two lists of one length have the same elements, but
// for what rules hide, in another order.
func (w *walker) reordered(live, role []any, at nodes) bool {
	if w.written > maxWritten || equal(live, role) {
		return false
	}
	a, b := w.canonicals(live, at), w.canonicals(role, at)
	if slices.Equal(a, b) {
		return false
	}
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// matched compares lists whose elements are matched by key. What has none on the
// other side is compared with what else is left there, in order: of a set, they
// may be one element that changed.
func (w *walker) matched(live, role []any, key func(any) string, at nodes, rule, depth int) {
	places := map[string][]int{}
	for i, v := range role {
		k := key(v)
		places[k] = append(places[k], i)
	}
	taken := make([]bool, len(role))
	var left, right []any
	moved := false
	for i, v := range live {
		k := key(v)
		at1 := places[k]
		if len(at1) == 0 {
			left = append(left, v)
			continue
		}
		j := at1[0]
		places[k], taken[j] = at1[1:], true
		moved = moved || i != j
		w.value(v, role[j], at, depth+1)
	}
	for j, v := range role {
		if !taken[j] {
			right = append(right, v)
		}
	}
	if w.rules[rule].Array == Set {
		for len(left) > 0 && len(right) > 0 {
			w.value(left[0], right[0], at, depth+1)
			left, right = left[1:], right[1:]
		}
	}
	defer w.enter(at.does())()
	for _, v := range left {
		w.tell(Missing, 0, v, absent{})
	}
	for _, v := range right {
		w.tell(Extra, 0, absent{}, v)
	}
	if moved {
		w.use(rule).Hid++
	}
}

// keyOf is the key of an element: its member of that name, a text or a number.
// Elements without one share a key.
func keyOf(v any, name string) string {
	m, _ := v.(map[string]any)
	k := m[name]
	if list, ok := k.(repeated); ok && len(list) == 1 {
		k = list[0]
	}
	switch k := k.(type) {
	case string:
		return "s" + k
	case json.Number:
		return "n" + string(k)
	case octets:
		return "x" + string(k)
	}
	return ""
}

// canonical writes a value so that two are equal if and only if they differ in
// nothing that rules do not hide.
func (w *walker) canonical(v any, at nodes, depth int) string {
	var b strings.Builder
	w.write(&b, v, at, depth)
	w.written += b.Len()
	return b.String()
}

func (w *walker) canonicals(list []any, at nodes) []string {
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = w.canonical(v, at, 0)
	}
	return all
}

func (w *walker) write(b *strings.Builder, v any, at nodes, depth int) {
	d := at.does()
	if d.ignore >= 0 {
		return
	}
	if depth > MaxDepth {
		d = directive{-1, -1, -1, -1}
	}
	switch v := v.(type) {
	case map[string]any:
		w.writeObject(b, v, at, false, depth)
	case entries:
		w.writeObject(b, v, at, true, depth)
	case []any:
		w.writeList(b, v, at.step(anyElement), d, depth)
	case repeated:
		w.writeList(b, v, at, d, depth)
	default:
		l := leafOf(v)
		b.WriteByte(l.kind)
		switch {
		case d.tolerate >= 0 && l.kind == digest.Number:
		case d.degrade >= 0:
			if w.rules[d.degrade].Degrade&Formats != 0 {
				b.WriteString(l.class)
			}
			if w.rules[d.degrade].Degrade&Lengths != 0 {
				fmt.Fprint(b, l.length)
			}
		default:
			b.WriteString(strconv.Quote(l.text))
		}
	}
}

func (w *walker) writeObject(b *strings.Builder, v map[string]any, at nodes, data bool, depth int) {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	b.WriteByte('{')
	for _, name := range names {
		_, to := at.member(name, data, w.place == placeProto)
		if to.does().ignore < 0 {
			b.WriteString(strconv.Quote(name))
			w.write(b, v[name], to, depth+1)
		}
	}
	b.WriteByte('}')
}

func (w *walker) writeList(b *strings.Builder, list []any, at nodes, d directive, depth int) {
	b.WriteByte('[')
	defer b.WriteByte(']')
	if d.array < 0 || w.rules[d.array].Array == Sequence {
		for _, v := range list {
			w.write(b, v, at, depth+1)
			b.WriteByte(',')
		}
		return
	}
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = w.canonical(v, at, depth+1)
	}
	slices.Sort(all)
	b.WriteString(strings.Join(all, ","))
}
