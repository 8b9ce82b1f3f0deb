// Package scenario turns a file into load. A scenario says who the users are,
// when their sessions begin, what they do in them and what they send; Load
// reads it and checks all of it, and from then on nothing is looked up by name:
// requests are encoded but for the fields that calls fill in.
//
// A scenario knows nothing of the service but what its file says: methods by
// descriptors, requests by templates, and which values of an answer the rest of
// the session goes on with.
//
// # Splitting
//
// Worker i of n, and shard j of m in it, take the arrivals whose number modulo n·m is
// i·m+j, and what a session does depends on the seed and its number alone. So
// workers need not talk, and together make the same sessions however many there are.
// Sessions begin at times of the plan, whatever happens: an open loop. A step
// within one is due its think time after the end of the step before, as a user
// who waits for an answer does: a closed loop.
//
// Nothing here does I/O or asks a clock; files come by an fs.FS.
package scenario

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	"darklaunch/loadgen"
	"darklaunch/loadgen/arrival"
	"darklaunch/loadgen/descriptor"
	"darklaunch/loadgen/draw"
	"darklaunch/loadgen/engine"
	"darklaunch/loadgen/population"
	"darklaunch/loadgen/session"
	"darklaunch/loadgen/transport"
)

// Scenario is a scenario made ready. It never changes and is safe for
// concurrent use.
type Scenario struct {
	// Name is the scenario's; Description is what it says of itself.
	Name, Description string
	// Seed is the file's, for runs that have none of their own.
	Seed uint64
	// Objectives are what the file asks of a run.
	Objectives []loadgen.Objective

	file      file
	digest    string // of the files' text
	ops       []op
	vars      map[string]int
	mix       *population.Mix
	channelAs [4]string
	limit     population.Draft // 0 is no limit
	chain     *session.Chain   // nil if arrivals are single calls
	streams   []stream         // that a session holds from its start to its end
	weights   []float64        // of those
	uniform   bool             // their users are drawn evenly
	people    *population.Population
	prefix    string
	found     descriptor.Finder
	segments  []arrival.Segment
}

// stream is an operation that sessions of a share of the users hold open.
type stream struct {
	op    int
	share float64
	told  saved // where a message tells of a text that was stamped; nil if none does
}

// op is an operation made ready.
type op struct {
	transport transport.Op
	unused    bool // it has a weight of 0 and no request
	held      bool // it is a stream that sessions hold
	path      *template
	headers   []header
	body      parts // nil: the transport's own is sent
	when      *expression
	otherwise int // another operation, or -1
	let       []assignment
	save      []capture
	needs     []int
	drafts    bool
	timeout   time.Duration
}

type header struct {
	name  string
	value *template
}

type assignment struct {
	to    int
	value *template
}

type capture struct {
	to   int
	from saved
}

// uses notes what a template needs, but for variables that the operation sets itself.
func (o *op) uses(t *template) {
	o.drafts = o.drafts || t.drafts
	for _, v := range t.needs {
		if !slices.ContainsFunc(o.let, func(a assignment) bool { return a.to == v }) {
			o.needs = append(o.needs, v)
		}
	}
}

// Load reads the scenario in the file called name, with all that it names:
// what it extends and its descriptors stand beside it. schema is the text of
// the JSON Schema that scenarios satisfy. Every error says file and line, and
// most the key and what was expected; one that a file is not there wraps
// fs.ErrNotExist.
func Load(files fs.FS, name string, schema []byte) (*Scenario, error) {
	r := &reader{files: files, schema: schema, digest: sha256.New()}
	if err := r.read(name, 0); err != nil {
		return nil, err
	}
	f := &r.file
	s := &Scenario{Name: f.Name, Description: f.Description, Seed: f.Seed, file: *f, vars: map[string]int{}, prefix: "u"}
	if s.Name == "" {
		s.Name = strings.TrimSuffix(path.Base(name), path.Ext(name))
	}
	if f.Population.Prefix != nil {
		s.prefix = *f.Population.Prefix
	}
	for _, o := range f.Objectives {
		s.Objectives = append(s.Objectives, o.Objective)
	}
	s.digest = hex.EncodeToString(r.digest.Sum(nil)[:8])
	for _, step := range []func(*reader) error{s.compileArrivals, s.compileContent, s.compileWalk, s.compileOps} {
		if err := step(r); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Scenario) compileArrivals(r *reader) error {
	measured := false
	for i, c := range s.file.Arrivals.Curve {
		at := "arrivals.curve." + strconv.Itoa(i)
		var shape arrival.Shape
		n := 0
		if c.Hold != nil {
			shape, n = arrival.Hold{Rate: float64(*c.Hold)}, n+1
		}
		if c.Ramp != nil {
			shape, n = arrival.Ramp{From: float64(c.Ramp.From), To: float64(c.Ramp.To)}, n+1
		}
		if c.Steps != nil {
			shape, n = arrival.Steps{From: float64(c.Steps.From), To: float64(c.Steps.To), Count: c.Steps.Count}, n+1
		}
		if c.Diurnal != nil {
			shape, n = arrival.Diurnal(float64(c.Diurnal.Mean), c.Diurnal.Day.duration()), n+1
		}
		if n != 1 {
			return r.errorf(at, "want one of hold, ramp, steps and diurnal")
		}
		if measured && c.Phase == arrival.Settle {
			return r.errorf(at+".phase", "settle: want it before what is measured")
		}
		measured = measured || c.Phase != arrival.Settle
		s.segments = append(s.segments, arrival.Segment{Phase: c.Phase, For: c.For.duration(), Shape: shape})
	}
	if !measured {
		return r.errorf("arrivals.curve", "all of it is settle: want something to measure")
	}
	if _, err := arrival.NewCurve(s.segments...); err != nil {
		return r.errorf("arrivals.curve", "%w", err)
	}
	if _, err := (arrival.Plan{Curve: must(arrival.NewCurve(s.segments...)), Bursts: s.file.Arrivals.Bursts}).Arrivals(0, 1); err != nil {
		return r.errorf("arrivals.bursts", "%w", err)
	}
	people, err := population.New(s.file.Population.config(0))
	if err != nil {
		return r.errorf("population", "%w", err)
	}
	s.people = people
	return nil
}

// must is for what was checked before.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (s *Scenario) compileContent(r *reader) error {
	c := s.file.Content
	if c == nil {
		return nil
	}
	s.mix = new(population.Mix)
	s.limit = population.Draft{Body: int(c.Limit.Body), Recipients: c.Limit.Recipients}
	for i := range s.mix {
		name := population.Channel(i).String()
		ch := c.Channels[name]
		if ch == nil {
			continue
		}
		s.mix[i] = population.Content{Share: ch.Share, Recipients: ch.Recipients.Law, Body: ch.Body.Law, Attached: ch.Attached, Attachment: ch.Attachment.Law}
		if s.channelAs[i] = ch.As; ch.As == "" {
			s.channelAs[i] = name
		}
	}
	if err := s.mix.Check(); err != nil {
		return r.errorf("content.channels", "%w", err)
	}
	return nil
}

// compileWalk decides which operations there are, and in what order they come.
func (s *Scenario) compileWalk(r *reader) error {
	f := &s.file
	sessions := f.Arrivals.Unit == "sessions"
	switch {
	case sessions && (f.Session == nil || f.Mix != nil):
		return r.errorf("arrivals.unit", "sessions: want session, and no mix")
	case !sessions && (f.Session != nil || len(f.Mix) == 0):
		return r.errorf("arrivals.unit", "requests: want mix, and no session")
	}
	s.uniform = f.Users == "uniform"
	if !sessions {
		for _, name := range slices.Sorted(maps.Keys(f.Mix)) {
			if f.Ops[name] == nil {
				return r.errorf("mix."+name, "there is no operation of that name")
			}
			s.ops = append(s.ops, op{transport: transport.Op{Name: name}})
			s.weights = append(s.weights, f.Mix[name])
		}
		if slices.Max(s.weights) <= 0 {
			return r.errorf("mix", "all weights are 0: want one above")
		}
		return nil
	}
	spec := session.Spec{Start: f.Session.Start, Weights: maps.Clone(f.Session.Weights), Think: f.Session.Think.Law}
	for _, name := range slices.Sorted(maps.Keys(f.Session.Next)) {
		o := session.OpSpec{Name: name, Next: f.Session.Next[name]}
		if o.Next == nil { // it is taken out of what is extended
			delete(spec.Weights, name)
			continue
		}
		weight, weighed := f.Session.Weights[name]
		of := f.Ops[name]
		if of == nil && (!weighed || weight != 0) {
			return r.errorf("session.next."+name, "there is no operation of that name: want one, or a weight of 0")
		}
		if of != nil {
			o.Think = of.Think.Law
		}
		spec.Ops = append(spec.Ops, o)
		s.ops = append(s.ops, op{transport: transport.Op{Name: name}, unused: of == nil})
	}
	named := func(name string) bool {
		return slices.ContainsFunc(spec.Ops, func(o session.OpSpec) bool { return o.Name == name })
	}
	if !named(spec.Start) {
		return r.errorf("session.start", "%q: want an operation of session.next", spec.Start)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Weights)) {
		if !named(name) && name != session.End {
			return r.errorf("session.weights."+name, "want an operation of session.next, or %s", session.End)
		}
	}
	chain, err := session.NewChain(spec)
	if row, ok := errors.AsType[*session.OpError](err); ok {
		return r.errorf("session.next."+row.Op, "%w", row.Err)
	}
	if err != nil {
		return r.errorf("session", "%w", err)
	}
	s.chain = chain
	return s.compileStreams(r)
}

// compileStreams puts the operations that sessions hold open after those of the chain.
func (s *Scenario) compileStreams(r *reader) error {
	for _, name := range slices.Sorted(maps.Keys(s.file.Session.Streams)) {
		f, at := s.file.Session.Streams[name], "session.streams."+name
		switch {
		case f == nil: // it is taken out of what is extended
			continue
		case s.file.Ops[name] == nil:
			return r.errorf(at, "there is no operation of that name")
		case s.file.Session.Next[name] != nil:
			return r.errorf(at, "session.next has %s too: want it in one of the two", name)
		case s.file.Target.Protocol != "grpc":
			return r.errorf(at, "want target.protocol grpc: no other has streams of messages")
		}
		x := stream{op: len(s.ops), share: 1}
		if f.Share != nil {
			x.share = *f.Share
		}
		s.streams = append(s.streams, x)
		s.ops = append(s.ops, op{transport: transport.Op{Name: name}, held: true})
	}
	return nil
}

func (s *Scenario) compileOps(r *reader) error {
	f := &s.file
	for name, o := range f.Ops {
		for key, names := range map[string]map[string]string{"let": o.Let, "save": o.Save} {
			for v := range names {
				if _, taken := builtins[v]; taken || v == "draw" || v == "recipients" {
					return r.errorf("ops."+name+"."+key+"."+v, "%s is a field that all calls have: want another name", v)
				}
				s.vars[v] = 0
			}
		}
	}
	for i, v := range slices.Sorted(maps.Keys(s.vars)) {
		s.vars[v] = i
	}
	index := map[string]int{}
	for i := range s.ops {
		index[s.ops[i].transport.Name] = i
	}
	for name := range f.Ops {
		if _, ok := index[name]; !ok && there(r.sources[len(r.sources)-1].root, []string{"ops", name}) {
			return r.errorf("ops."+name, "nothing leads to it: want it in session.next or mix")
		}
	}
	if f.Target.Protocol == "grpc" {
		if err := s.readDescriptors(r); err != nil {
			return err
		}
	}
	for i := range s.ops {
		o := &s.ops[i]
		o.otherwise = -1
		if o.unused {
			o.transport.Path = "/" // it has one, and is never called
			continue
		}
		if err := s.compileOp(r, o, f.Ops[o.transport.Name]); err != nil {
			return err
		}
		if other := f.Ops[o.transport.Name].Otherwise; other != "" {
			at, ok := index[other]
			if !ok || s.ops[at].unused {
				return r.errorf("ops."+o.transport.Name+".otherwise", "there is no operation %s", other)
			}
			o.otherwise = at
		}
	}
	return nil
}

// compileHeld checks an operation that sessions hold, and says where its messages
// tell what they tell of.
func (s *Scenario) compileHeld(r *reader, o *op, f *opFile, method protoreflect.MethodDescriptor) error {
	name := o.transport.Name
	if !method.IsStreamingServer() || method.IsStreamingClient() {
		return r.errorf("ops."+name+".rpc", "%s: want a method that takes one message and answers by a stream, as session.streams names it", f.RPC)
	}
	if f.Otherwise != "" || f.When != "" || len(f.Save) > 0 || len(f.Let) > 0 || f.Timeout > 0 || len(o.needs) > 0 {
		return r.errorf("ops."+name, "a stream is opened before there are values or answers: want no when, otherwise, let, save, timeout or variable")
	}
	told := s.file.Session.Streams[name].Told
	if told == "" {
		return nil
	}
	p, err := compileProtoPath(method.Output(), told)
	if err != nil {
		return r.errorf("session.streams."+name+".told", "%w", err)
	}
	for i := range s.streams {
		if s.ops[s.streams[i].op].transport.Name == name {
			s.streams[i].told = p
		}
	}
	return nil
}

func (s *Scenario) readDescriptors(r *reader) error {
	if s.file.Descriptors == "" {
		return r.errorf("target.protocol", "grpc: want descriptors, a file that protoc --include_imports --descriptor_set_out wrote")
	}
	owner := r.sources[len(r.sources)-1]
	for _, src := range r.sources {
		if there(src.root, []string{"descriptors"}) {
			owner = src
		}
	}
	set, err := fs.ReadFile(r.files, path.Join(path.Dir(owner.name), s.file.Descriptors))
	if err != nil {
		return r.errorf("descriptors", "%w", err)
	}
	if s.found, err = descriptor.FromSet(set); err != nil {
		return r.errorf("descriptors", "%s: %w", s.file.Descriptors, err)
	}
	return nil
}

// compileOp makes one operation ready.
func (s *Scenario) compileOp(r *reader, o *op, f *opFile) error {
	at := "ops." + o.transport.Name + "."
	c := &bodyCompiler{s, o}
	for _, v := range slices.Sorted(maps.Keys(f.Let)) {
		t, err := c.template(f.Let[v])
		if err != nil {
			return r.errorf(at+"let."+v, "%w", err)
		}
		o.let = append(o.let, assignment{s.vars[v], t})
	}
	headers := maps.Clone(s.file.Headers)
	for k, v := range f.Headers {
		if headers == nil {
			headers = map[string]string{}
		}
		headers[k] = v
	}
	for _, k := range slices.Sorted(maps.Keys(headers)) {
		where := "headers." + k
		if _, own := f.Headers[k]; own {
			where = at + where
		}
		t, err := c.template(headers[k])
		if err != nil {
			return r.errorf(where, "%w", err)
		}
		if t.isText {
			o.transport.Header = append(o.transport.Header, transport.Header{Name: k, Value: t.fixed})
		} else {
			o.headers = append(o.headers, header{k, t})
		}
	}
	o.timeout = f.Timeout.duration()
	if f.When != "" {
		x, err := s.compileCEL(f.When)
		if err != nil {
			return r.errorf(at+"when", "%w", err)
		}
		if !x.isBool {
			return r.errorf(at+"when", "%s: want an expression that is true or false", f.When)
		}
		o.when = x
	}
	if s.file.Target.Protocol == "grpc" {
		return s.compileRPC(r, o, f, c)
	}
	return s.compileHTTP(r, o, f, c)
}

func (s *Scenario) compileRPC(r *reader, o *op, f *opFile, c *bodyCompiler) error {
	at := "ops." + o.transport.Name
	if f.RPC == "" || f.Path != "" || f.Method != "" || f.Body != nil {
		return r.errorf(at, "want rpc and no path, method or body, as the protocol is gRPC")
	}
	method, err := descriptor.Method(s.found, f.RPC)
	if err != nil {
		return r.errorf(at+".rpc", "%w", err)
	}
	o.transport.Path, o.transport.ServerStream = "/"+strings.TrimPrefix(f.RPC, "/"), method.IsStreamingServer()
	fields, ok := f.Request.(map[string]any)
	if !ok && f.Request != nil {
		return r.errorf(at+".request", "want the fields of %s", method.Input().FullName())
	}
	if o.body, err = c.message(method.Input(), fields); err != nil {
		return r.errorf(below(at+".request", err), "%w", err)
	}
	if o.held {
		if err := s.compileHeld(r, o, f, method); err != nil {
			return err
		}
	}
	if !dynamic(f.Request) {
		o.transport.Messages, o.body = [][]byte{o.body.append(nil, nil)}, nil
	}
	return s.compileSave(r, o, f, func(p string) (saved, error) { return compileProtoPath(method.Output(), p) })
}

func (s *Scenario) compileHTTP(r *reader, o *op, f *opFile, c *bodyCompiler) error {
	at := "ops." + o.transport.Name
	if f.RPC != "" || f.Path == "" || f.Body != nil && f.Request != nil {
		return r.errorf(at, "want path and no rpc, and not both of body and request, as the protocol is HTTP")
	}
	t, err := c.template(f.Path)
	if err != nil {
		return r.errorf(at+".path", "%w", err)
	}
	o.transport.Method, o.transport.Path = f.Method, f.Path
	if !t.isText {
		o.path, o.transport.Path = escapePath(t), "/"
	}
	switch {
	case f.Body != nil:
		t, err := c.template(*f.Body)
		if err != nil {
			return r.errorf(at+".body", "%w", err)
		}
		if t.isText {
			o.transport.Body = []byte(t.fixed)
		} else {
			o.body = parts{t}
		}
	case f.Request != nil:
		if o.body, err = c.json(f.Request); err != nil {
			return r.errorf(below(at+".request", err), "%w", err)
		}
		if !dynamic(f.Request) {
			o.transport.Body, o.body = o.body.append(nil, nil), nil
		}
		if !slices.ContainsFunc(o.transport.Header, func(h transport.Header) bool { return strings.EqualFold(h.Name, "content-type") }) {
			o.transport.Header = append(o.transport.Header, transport.Header{Name: "Content-Type", Value: "application/json"})
		}
	}
	if o.transport.Method == "" && (f.Body != nil || f.Request != nil) {
		o.transport.Method = "POST"
	}
	return s.compileSave(r, o, f, func(p string) (saved, error) { return jsonPath(strings.Split(p, ".")), nil })
}

// keep is how much of an answer is read for values to save.
const keep = 256 << 10

func (s *Scenario) compileSave(r *reader, o *op, f *opFile, compile func(string) (saved, error)) error {
	for _, v := range slices.Sorted(maps.Keys(f.Save)) {
		p, err := compile(f.Save[v])
		if err != nil {
			return r.errorf("ops."+o.transport.Name+".save."+v, "%w", err)
		}
		o.save = append(o.save, capture{s.vars[v], p})
		o.transport.Keep = keep
	}
	if err := (transport.Config{Protocol: s.protocol(), Ops: []transport.Op{o.transport}}).Check(); err != nil {
		return r.errorf("ops."+o.transport.Name, "%w", err)
	}
	return nil
}

func (s *Scenario) protocol() transport.Protocol {
	switch s.file.Target.Protocol {
	case "grpc":
		return transport.GRPC
	case "http2":
		return transport.HTTP2
	}
	return transport.HTTP1
}

func (s *Scenario) appendUser(dst []byte, u population.User) []byte {
	return strconv.AppendUint(append(dst, s.prefix...), uint64(u), 10)
}

// Run is what a run of a scenario does not have from the file.
type Run struct {
	// Seed is what all random numbers come from.
	Seed uint64
	// Scale multiplies the rate of arrivals. Zero means 1.
	Scale float64
	// ID is what no other run of any worker has, for ${key}; no white space.
	ID string
	// Stats, if set, is told what no result has.
	Stats *Stats
}

// Stats count what sessions did instead of calls. It may be read while a run goes on.
type Stats struct {
	sessions atomic.Int64
	passed   atomic.Uint64
	failed   atomic.Pointer[string]
}

// Sessions is how many sessions are under way, or single calls.
func (s *Stats) Sessions() int { return int(s.sessions.Load()) }

// Passed is how many steps were passed over, as they had nothing to work on.
func (s *Stats) Passed() uint64 { return s.passed.Load() }

// Failed says how the first expression or value failed that did; empty if none.
func (s *Stats) Failed() string {
	if text := s.failed.Load(); text != nil {
		return *text
	}
	return ""
}

// fail keeps the first failure.
func (s *Stats) fail(err error) {
	text := err.Error()
	s.failed.CompareAndSwap(nil, &text)
}

// run is a Run made ready.
type run struct {
	Run
	plan   arrival.Plan
	people *population.Population
	walk   walker
	stamp  string // what stamps of this run begin with
}

// walker says who comes and what they do: *session.Sessions, *session.Robot.
type walker interface {
	Start(n uint64) session.Session
	Next(x *session.Session, r draw.Rand) (session.Op, time.Duration, bool)
}

func (s *Scenario) begin(r Run) (*run, error) {
	if r.Scale == 0 {
		r.Scale = 1
	}
	if r.Stats == nil {
		r.Stats = new(Stats)
	}
	segments := slices.Clone(s.segments)
	for i := range segments {
		segments[i].Shape = scaled(segments[i].Shape, r.Scale)
	}
	curve, err := arrival.NewCurve(segments...)
	if err != nil {
		return nil, fmt.Errorf("scenario %s at scale %v: %w", s.Name, r.Scale, err)
	}
	people, err := population.New(s.file.Population.config(r.Seed))
	if err != nil {
		return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	x := &run{Run: r, people: people, stamp: s.stampOf(r.Seed)}
	x.plan = arrival.Plan{Seed: r.Seed, Curve: curve, Process: s.file.Arrivals.Process, Bursts: s.file.Arrivals.Bursts}
	if s.chain != nil {
		x.walk = session.New(r.Seed, s.chain, people)
		return x, nil
	}
	robot, err := session.NewRobot(r.Seed, people.Users(), s.weights)
	if err != nil {
		return nil, fmt.Errorf("scenario %s: mix: %w", s.Name, err)
	}
	x.walk = robot
	if !s.uniform {
		x.walk = active{robot, people}
	}
	return x, nil
}

// active makes single calls of users drawn by activity.
type active struct {
	*session.Robot
	people *population.Population
}

func (a active) Start(n uint64) session.Session {
	x := a.Robot.Start(n)
	x.User = a.people.Pick(n)
	return x
}

func scaled(shape arrival.Shape, by float64) arrival.Shape {
	switch x := shape.(type) {
	case arrival.Hold:
		x.Rate *= by
		return x
	case arrival.Ramp:
		x.From, x.To = x.From*by, x.To*by
		return x
	case arrival.Steps:
		x.From, x.To = x.From*by, x.To*by
		return x
	case arrival.Wave:
		x.Mean *= by
		return x
	}
	return shape
}

// Calls is how many calls an arrival makes on average: one, or as many as a session
// has, without the streams that it holds.
func (s *Scenario) Calls() float64 {
	if s.chain == nil {
		return 1
	}
	return s.chain.Stats().Calls
}

// SessionTime is how long a session takes on average when each call takes
// service; a single call takes that long.
func (s *Scenario) SessionTime(service time.Duration) time.Duration {
	if s.chain == nil {
		return service
	}
	stats := s.chain.Stats()
	return stats.Think + time.Duration(stats.Calls*float64(service))
}

// channels are those by which messages are sent.
func (s *Scenario) channels() (names []string) {
	for i, c := range s.mix {
		if c.Share > 0 {
			names = append(names, population.Channel(i).String())
		}
	}
	return names
}

// Held is how many streams a session holds on average.
func (s *Scenario) Held() (n float64) {
	for _, x := range s.streams {
		n += x.share
	}
	return n
}

// Config is the run of the scenario against addr, host:port. What the caller
// adds is TLS, a place among workers, and where metrics go.
func (s *Scenario) Config(addr string, r Run) (loadgen.Config, error) {
	x, err := s.begin(r)
	if err != nil {
		return loadgen.Config{}, err
	}
	t := &s.file.Target
	cfg := loadgen.Config{Scenario: s.Name, Digest: s.digest, Seed: r.Seed, Objectives: slices.Clone(s.Objectives)}
	cfg.Transport = transport.Config{Protocol: s.protocol(), Addr: addr, Conns: t.Conns, Streams: t.Streams, PerUser: t.PerUser, CallsPerConn: t.CallsPerConn}
	arrivals := 0.0
	for _, span := range x.plan.Spans() {
		if span.Phase == arrival.Settle {
			cfg.Warmup = span.End
			continue
		}
		cfg.For = span.End - cfg.Warmup
		arrivals += span.Arrivals
	}
	cfg.Rate = arrivals * (s.Calls() + s.Held()) / cfg.For.Seconds()
	cfg.Sessions = x.Stats.Sessions
	cfg.Timeouts, cfg.Channels = map[int]time.Duration{}, map[int][]string{}
	for i, o := range s.ops {
		cfg.Transport.Ops = append(cfg.Transport.Ops, o.transport)
		if o.timeout > 0 {
			cfg.Timeouts[i] = o.timeout
		}
		if o.drafts {
			cfg.Channels[i] = s.channels()
		}
	}
	if len(s.streams) > 0 {
		cfg.Held = map[int]bool{}
		cfg.Delivered = s.delivered(x)
	}
	for _, h := range s.streams {
		cfg.Held[h.op] = true
	}
	cfg.Source = func(index, total int) (engine.Source, error) { return s.source(x, index, total) }
	return cfg, nil
}
