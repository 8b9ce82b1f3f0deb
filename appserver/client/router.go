package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	messagesv1 "darklaunch/api/messages/v1"
	"darklaunch/appserver/cell"
	"darklaunch/appserver/directory"
	"darklaunch/internal/pause"
)

// RouterConfig says what a Router goes by.
type RouterConfig struct {
	// Directory says which cell a user is in. Nil: there is only the Router's own.
	Directory *directory.Directory
	// Cell is the Router's own; Self is the address of the server that it is part of,
	// with which calls are marked as forwarded. Both are empty outside the application.
	Cell, Self string
	// View is the own cell as it is seen now. Nil: it has one server, Self.
	View func() cell.View
	// Servers are the own cell's, for who does not know an owner or has no directory.
	Servers []string
	// Timeout bounds a call with all its repetitions where its context has no deadline.
	// Zero means 10s.
	Timeout time.Duration
	// Dial opens a connection; nil: a plain one.
	Dial func(addr string) (*grpc.ClientConn, error)
	// Closes is closed with the Router; it may be nil.
	Closes io.Closer
	// Registerer takes the metrics. Nil: none are kept.
	Registerer prometheus.Registerer
}

// A Router brings each call to the server that serves the user whom it is about, the
// x-user of its metadata: by directory, ring, and what servers answer who are asked in
// vain. Its methods may be called from any number of goroutines.
//
// A call that reaches the wrong server is made again elsewhere, as often as its
// deadline allows: nothing was done. So is one whose outcome is unknown, as reads
// change nothing and mutations carry a key; of those a server gets, beyond the first
// few, not more than one for each ten of its calls that succeed and ten a second.
type Router struct {
	cfg     RouterConfig
	metrics *metrics

	mu     sync.Mutex
	peers  map[string]*peer
	served *simplelru.LRU[string, string] // who served a user last, of other cells than the own
	calls  map[*attempt]struct{}          // under way in the own cell, by the ring
	next   int                            // of servers that are equally good
	closed bool
}

// peer is another server.
type peer struct {
	conn   *grpc.ClientConn
	budget budget
}

// attempt is a call on its way to a server.
type attempt struct {
	user, addr string
	cancel     context.CancelFunc
}

// Bounds of a Router's memory: connections, and users whose servers it remembers.
const (
	maxPeers  = 512
	maxServed = 1 << 16
)

// The pause before a call is made again grows from the first to the second.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// NewRouter returns a Router, which connects when it is first used.
func NewRouter(cfg RouterConfig) *Router {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = dialPlain
	}
	r := &Router{cfg: cfg, metrics: newMetrics(cfg.Registerer), peers: map[string]*peer{}, calls: map[*attempt]struct{}{}}
	r.served, _ = simplelru.NewLRU[string, string](maxServed, nil) // a size above 0 is no error
	return r
}

func dialPlain(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
}

// Client returns a client whose calls go by the router. Closing it closes that.
func (r *Router) Client() *Client {
	return &Client{messagesv1.NewMessagesClient(r), messagesv1.NewDeliveryClient(r), r}
}

// Close ends all connections and the calls under way.
func (r *Router) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var errs []error
	for addr, p := range r.peers {
		errs = append(errs, p.conn.Close())
		delete(r.peers, addr)
	}
	if r.cfg.Closes != nil {
		errs = append(errs, r.cfg.Closes.Close())
	}
	return errors.Join(errs...)
}

// Rerouted ends the calls under way to servers that are not their users' any more, so
// that they are made again to those that are. It is called when the own ring changes.
func (r *Router) Rerouted() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for a := range r.calls {
		if addr, ok := r.Owner(a.user); ok && addr != a.addr {
			a.cancel()
		}
	}
}

// Owner returns the address of the server of the own cell that should serve a user;
// false if that is not known.
func (r *Router) Owner(user string) (addr string, ok bool) {
	if r.cfg.View == nil {
		return "", false
	}
	m, ok := r.cfg.View().Ring.Owner(user)
	return m.Addr, ok
}

// NotMine returns what to answer to a forwarded call for a user: nil if the own server
// should serve it, as far as is known.
func (r *Router) NotMine(user string) error {
	if addr, ok := r.Owner(user); ok && addr != r.cfg.Self {
		return r.notOwner(user)
	}
	return nil
}

func (r *Router) notOwner(user string) error {
	d := &messagesv1.NotOwner{Cell: r.cfg.Cell}
	if r.cfg.View != nil {
		v := r.cfg.View()
		d.RingIncarnation, d.RingNumber = v.At.Incarnation, v.At.Number
		if m, ok := v.Ring.Owner(user); ok && m.Addr != r.cfg.Self {
			d.Server, d.Address = m.Name, m.Addr
		}
	}
	s, err := status.New(codes.FailedPrecondition, "another server has the mailbox").WithDetails(d)
	if err != nil {
		panic(err) // a detail that cannot be packed is a bug of this package
	}
	return s.Err()
}

// Refused turns the end of a forwarded call into what its caller is told: that the
// mailbox is elsewhere, where this server has lost it.
func (r *Router) Refused(user string, err error) error {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if _, ok := d.(*messagesv1.NotOwner); ok {
			return r.notOwner(user)
		}
	}
	return err
}

// Self returns the address of the own server.
func (r *Router) Self() string { return r.cfg.Self }

// Mine reports whether the own server should serve a user, as far as is known.
func (r *Router) Mine(ctx context.Context, user string) bool {
	addr, _, err := r.target(ctx, user)
	return err == nil && addr == r.cfg.Self
}

// Elsewhere reports whether the end of a call of the own server says that another has
// to be asked, and learns from it.
func (r *Router) Elsewhere(user string, err error) bool {
	return r.judge(context.Background(), user, true, err) == elsewhere
}

// Begins returns nil if a mailbox of a user may begin in the own cell; an *ElsewhereError
// if it is to be in another; or why that is not known.
func (r *Router) Begins(ctx context.Context, user string) error {
	if r.cfg.Directory == nil {
		return nil
	}
	p, err := r.cfg.Directory.Lookup(ctx, user)
	if err == nil && p.Cell != r.cfg.Cell {
		return &ElsewhereError{p}
	}
	return err
}

// ElsewhereError says that a user is in another cell.
type ElsewhereError struct{ Place directory.Place }

func (e *ElsewhereError) Error() string { return "mailbox is in cell " + e.Place.Cell }

// target returns the server to be asked for a user. ring is whether it is the ring of
// the own cell that says so.
func (r *Router) target(ctx context.Context, user string) (addr string, ring bool, err error) {
	if r.cfg.Directory != nil {
		p, err := r.cfg.Directory.Lookup(ctx, user)
		switch {
		case err != nil && r.cfg.Cell == "":
			return "", false, err
		case err == nil && p.Cell != r.cfg.Cell:
			c, err := r.cfg.Directory.Cell(ctx, p.Cell)
			if err != nil {
				return "", false, err
			}
			if c.State == directory.Failed {
				return "", false, fmt.Errorf("cell %s: %w", c.Name, errFailed)
			}
			return r.outside(user, c.Servers), false, nil
		}
	}
	if addr, ok := r.Owner(user); ok {
		return addr, true, nil
	}
	if r.cfg.Self != "" {
		return r.cfg.Self, true, nil // nobody knows better, and the row decides
	}
	if len(r.cfg.Servers) == 0 {
		return "", false, errors.New("no server is known")
	}
	return r.outside(user, r.cfg.Servers), false, nil
}

// errFailed is of a cell that an operator has given up for now.
var errFailed = errors.New("cell has failed")

// outside is the server that served a user last, or any of some.
func (r *Router) outside(user string, servers []string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if addr, ok := r.served.Get(user); ok {
		return addr
	}
	r.next++
	return servers[r.next%len(servers)]
}

func (r *Router) peer(addr string) (*peer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, status.Error(codes.Canceled, "the client is closed")
	}
	if p, ok := r.peers[addr]; ok {
		return p, nil
	}
	conn, err := r.cfg.Dial(addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	if len(r.peers) >= maxPeers { // some have gone for good; who is needed comes back
		for old, p := range r.peers {
			delete(r.peers, old)
			_ = p.conn.Close() // calls that it had are made again
			break
		}
	}
	p := &peer{conn: conn, budget: newBudget()}
	r.peers[addr] = p
	return p, nil
}

// learn remembers who served a user of another cell: the one that says so, else the one
// asked.
func (r *Router) learn(user, addr string, header metadata.MD) {
	if by := header.Get("x-served-by"); len(by) == 1 {
		if _, _, err := net.SplitHostPort(by[0]); err == nil {
			addr = by[0]
		}
	}
	r.hint(user, addr)
}

// hint remembers whom to ask for a user of another cell; empty: nobody in particular.
func (r *Router) hint(user, addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if addr == "" {
		r.served.Remove(user)
	} else {
		r.served.Add(user, addr)
	}
}

// verdict is what the end of an attempt calls for.
type verdict int

const (
	final     verdict = iota
	elsewhere         // nothing was done, and another server is to be asked
	unknown           // it may have been done
)

// judge reads the end of an attempt, and learns from it where to go.
func (r *Router) judge(ctx context.Context, user string, ring bool, err error) verdict {
	if err == nil {
		return final
	}
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *messagesv1.NotOwner:
			if !ring { // else this server's view and that one's have to agree first
				r.hint(user, d.GetAddress())
			}
			return elsewhere
		case *messagesv1.WrongCell:
			r.hint(user, "")
			if r.cfg.Directory == nil {
				return final
			}
			if !r.cfg.Directory.Learn(user, directory.Place{Cell: d.GetCell(), Generation: d.GetDirectoryVersion()}) {
				// Half way of a move each cell names the other. The one that the user has left
				// sees to it that the move is finished, if it is asked.
				r.cfg.Directory.Doubt(user)
			}
			return elsewhere
		}
	}
	switch {
	case ctx.Err() != nil:
		return final
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled: // the latter by Rerouted, or a connection that was let go
		r.hint(user, "")
		return unknown
	}
	return final
}

// do makes attempts until one is final or time is up. local serves a call that is the
// Router's own server's; nil where there is none. key is the call's idempotency key.
func (r *Router) do(ctx context.Context, user, key string, local func(context.Context) error, remote remote) error {
	backoff, begun := firstPause, false
	for again := false; ; again = true {
		addr, ring, err := r.target(ctx, user)
		v := elsewhere
		var p *peer
		switch {
		case errors.Is(err, errFailed):
			return giveUp(key, begun, err)
		case err != nil: // nobody to ask
		case addr == r.cfg.Self && local != nil:
			if err = local(ctx); r.judge(ctx, user, ring, err) != elsewhere {
				return err
			}
		default:
			if p, err = r.peer(addr); err != nil {
				return err
			}
			var header metadata.MD
			begin := time.Now()
			header, err = r.attempt(ctx, user, addr, ring, p, remote)
			r.metrics.forwarded(err, time.Since(begin))
			v = r.judge(ctx, user, ring, err)
			if v == unknown && r.cfg.Self != "" && len(header.Get("x-served-by")) > 0 {
				v = final // the answer of the server that serves the user: it is for the caller to try again
			}
			if err == nil {
				p.budget.earn()
				if !ring {
					r.learn(user, addr, header)
				}
			}
		}
		if v == final {
			if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return giveUp(key, true, err)
			}
			return err
		}
		begun = begun || v == unknown
		wait := time.Duration(0)
		if again || v == unknown || p == nil { // the first answer of where to go is followed at once
			wait = backoff/2 + rand.N(backoff/2+1)
			backoff = min(2*backoff, lastPause)
		}
		if v == unknown {
			wait = max(wait, p.budget.spend())
		}
		if left, ok := ctx.Deadline(); ok && time.Until(left) < wait+wait/8 || pause.For(ctx, wait) != nil {
			return giveUp(key, begun, err)
		}
	}
}

// remote makes a call at a peer and returns the answer's header, of an error too.
type remote func(ctx context.Context, p *peer) (metadata.MD, error)

// giveUp is what a caller is told whose time is up.
func giveUp(key string, begun bool, err error) error {
	s := status.New(codes.Unavailable, "no server that serves the user could be reached in time: "+status.Convert(err).Message())
	if begun && key != "" {
		if with, detailErr := s.WithDetails(&messagesv1.OutcomeUnknown{IdempotencyKey: key}); detailErr == nil {
			s = with
		}
	}
	return s.Err()
}

// attempt makes a call once.
func (r *Router) attempt(ctx context.Context, user, addr string, ring bool, p *peer, remote remote) (metadata.MD, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ring {
		a := &attempt{user, addr, cancel}
		r.mu.Lock()
		r.calls[a] = struct{}{}
		r.mu.Unlock()
		defer func() {
			r.mu.Lock()
			delete(r.calls, a)
			r.mu.Unlock()
		}()
	}
	return remote(ctx, p)
}

// At returns a connection to any server of a cell, for calls that are not about who
// serves a user. A unary call that reaches none goes on to the next.
func (r *Router) At(cell string) grpc.ClientConnInterface { return &cellConn{r, cell} }

// OwnerConn returns a connection to the server of the own cell that should serve a user,
// whose calls are marked as forwarded; nil if that is the own server, or not known.
func (r *Router) OwnerConn(user string) grpc.ClientConnInterface {
	addr, ok := r.Owner(user)
	if !ok || addr == r.cfg.Self {
		return nil
	}
	return &serverConn{r, addr}
}

type serverConn struct {
	r    *Router
	addr string
}

func (c *serverConn) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	p, err := c.r.peer(c.addr)
	if err != nil {
		return err
	}
	return p.conn.Invoke(c.r.marked(ctx), method, request, response, opts...)
}

func (c *serverConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := c.r.peer(c.addr)
	if err != nil {
		return nil, err
	}
	return p.conn.NewStream(c.r.marked(ctx), desc, method, opts...)
}

type cellConn struct {
	r    *Router
	cell string
}

func (c *cellConn) servers(ctx context.Context) ([]string, error) {
	if c.r.cfg.Directory == nil {
		return nil, errors.New("there is no directory of cells")
	}
	cell, err := c.r.cfg.Directory.Cell(ctx, c.cell)
	return cell.Servers, err
}

func (c *cellConn) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	servers, err := c.servers(ctx)
	for _, addr := range servers {
		var p *peer
		if p, err = c.r.peer(addr); err == nil {
			err = p.conn.Invoke(ctx, method, request, response, opts...)
		}
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	return err
}

func (c *cellConn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	servers, err := c.servers(ctx)
	if err != nil {
		return nil, err
	}
	p, err := c.r.peer(servers[rand.N(len(servers))]) // of another attempt, another
	if err != nil {
		return nil, err
	}
	return p.conn.NewStream(ctx, desc, method, opts...)
}

// marked is ctx with the mark of a forwarded call.
func (r *Router) marked(ctx context.Context) context.Context {
	if r.cfg.Self == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "x-forwarded-by", r.cfg.Self)
}

// keyed are requests of mutations.
type keyed interface{ GetIdempotencyKey() string }

func keyOf(request any) string {
	if k, ok := request.(keyed); ok {
		return k.GetIdempotencyKey()
	}
	return ""
}

func userOf(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	if users := md.Get("x-user"); len(users) == 1 {
		return users[0]
	}
	return ""
}

// Invoke implements grpc.ClientConnInterface.
func (r *Router) Invoke(ctx context.Context, method string, request, response any, opts ...grpc.CallOption) error {
	return r.Forward(ctx, method, request, response, nil, opts...)
}

// Forward is Invoke for a server: what turns out to be its own it serves by local.
func (r *Router) Forward(ctx context.Context, method string, request, response any, local func(context.Context) error, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.cfg.Timeout)
		defer cancel()
	}
	out := r.marked(ctx)
	return r.do(out, userOf(ctx), keyOf(request), local, func(ctx context.Context, p *peer) (metadata.MD, error) {
		var header metadata.MD
		err := p.conn.Invoke(ctx, method, request, response, append(slices.Clip(opts), grpc.Header(&header))...)
		return header, err
	})
}

// NewStream implements grpc.ClientConnInterface, for streams that begin with the only
// request: they are opened once that has been sent, again while nothing has come.
func (r *Router) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return &stream{r: r, ctx: r.marked(ctx), user: userOf(ctx), desc: desc, method: method, opts: opts}, nil
}

// stream is used by one goroutine, as generated code does.
type stream struct {
	r       *Router
	ctx     context.Context
	user    string
	desc    *grpc.StreamDesc
	method  string
	opts    []grpc.CallOption
	request any
	open    grpc.ClientStream // nil until its first answer has come
}

func (s *stream) SendMsg(m any) error      { s.request = m; return nil }
func (s *stream) CloseSend() error         { return nil }
func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Header() (metadata.MD, error) {
	if s.open == nil {
		return nil, nil
	}
	return s.open.Header()
}

func (s *stream) Trailer() metadata.MD {
	if s.open == nil {
		return nil
	}
	return s.open.Trailer()
}

func (s *stream) RecvMsg(m any) error {
	if s.open != nil {
		return s.open.RecvMsg(m)
	}
	// Until the first answer it is a call like others. The stream itself has no limit.
	ctx, cancel := context.WithTimeout(s.ctx, s.r.cfg.Timeout)
	defer cancel()
	empty := false
	err := s.r.do(ctx, s.user, "", nil, func(ctx context.Context, p *peer) (metadata.MD, error) {
		long, abandon := context.WithCancel(s.ctx)
		stop := context.AfterFunc(ctx, abandon)
		opened, header, err := s.first(long, p, m)
		if empty = err == io.EOF; empty {
			err = nil // it is a stream's end, and no error of the call
		}
		if !stop() && err == nil {
			err = status.Error(codes.Unavailable, "given up as the first answer came")
		}
		if err != nil || empty {
			abandon()
			return header, err
		}
		s.open = opened
		return header, nil
	})
	if err == nil && empty {
		return io.EOF
	}
	return err
}

// first opens a stream and receives its first answer.
func (s *stream) first(ctx context.Context, p *peer, m any) (grpc.ClientStream, metadata.MD, error) {
	opened, err := p.conn.NewStream(ctx, s.desc, s.method, s.opts...)
	if err != nil {
		return nil, nil, err
	}
	if err := opened.SendMsg(s.request); err != nil && err != io.EOF { // of which RecvMsg says why
		return nil, nil, err
	}
	if err := opened.CloseSend(); err != nil {
		return nil, nil, err
	}
	err = opened.RecvMsg(m)
	header, _ := opened.Header() // as there was an answer, or its end
	return opened, header, err
}

// budget bounds how often a server gets a call again, after an answer that may mean
// that it is in trouble: a bucket of tokens, of which each call again takes one, each
// success brings a tenth, and each second ten.
type budget struct {
	mu     sync.Mutex
	tokens float64
	at     time.Time
}

const (
	mostTokens = 20
	perSecond  = 10
	perSuccess = 0.1
)

func newBudget() budget { return budget{tokens: mostTokens, at: time.Now()} }

func (b *budget) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(mostTokens, b.tokens+perSuccess)
}

// spend takes a token, and returns how long to wait until it is there.
func (b *budget) spend() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.tokens = min(mostTokens, b.tokens+now.Sub(b.at).Seconds()*perSecond) - 1
	b.at = now
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / perSecond * float64(time.Second))
}
