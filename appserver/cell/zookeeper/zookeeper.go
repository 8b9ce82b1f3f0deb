// Package zookeeper keeps the members of a cell in ZooKeeper
// (https://zookeeper.apache.org/doc/r3.8.4/zookeeperProgrammers.html).
//
// # Nodes
//
//	PREFIX/cells/CELL/members        its Pzxid is the number of the members
//	PREFIX/cells/CELL/members/NAME   a member's record; ephemeral, never changed
//	PREFIX/cells/CELL/incarnation    a decimal number, written once by Init
//	PREFIX/cells/CELL/config         the live configuration
//
// An ensemble that lost everything, and is set up again by Init, has a larger
// incarnation by the clock of who ran it; so its numbers, which begin anew, count as
// newer than all before.
//
// # The client
//
// A session here has a connection of the library of its own, which is closed with it:
// the library opens a new session by itself when one has expired, and what it does in
// that is undone. It has no contexts, and its calls wait while it is cut off: they are
// made by goroutines that are left alone when a context ends, and end with the
// connection. Its wait for the first answer of a server, ten times as long as it should
// be, is bounded by the connection that it is given, which also learns the timeout that
// was agreed on. Events are taken from its callback: its channel drops them.
package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strconv"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"darklaunch/appserver/cell"
)

// Config names a cell in an ensemble.
type Config struct {
	// Servers of the ensemble, host:port. Names are looked up at each connect.
	Servers []string
	// Prefix of all nodes, an absolute path; "/" or empty for none.
	Prefix string
	// Cell is the cell's name, a part of a path.
	Cell string
	// Timeout of sessions that is asked for; the ensemble has the last word. Zero means
	// 4s, which is the least that an ensemble with ticks of 2s agrees to. Below that the
	// library's pauses between connects can cost the session.
	Timeout time.Duration
	// Log may be nil.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = 4 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func (c Config) node(parts ...string) string {
	return path.Join(append([]string{"/", c.Prefix, "cells", c.Cell}, parts...)...)
}

// Coordinator is a cell.Coordinator. It may be used by one Cell.
type Coordinator struct {
	cfg  Config
	mine map[int64]bool // sessions that were this coordinator's
}

// New returns a Coordinator. It connects when a session is opened.
func New(cfg Config) *Coordinator {
	return &Coordinator{cfg: cfg.withDefaults(), mine: map[int64]bool{}}
}

// Open implements cell.Coordinator. It gives up after the timeout of a session.
func (c *Coordinator) Open(ctx context.Context) (cell.Session, error) {
	s, err := connect(ctx, c.cfg)
	if err != nil {
		return nil, err
	}
	s.before = c.mine
	c.mine[s.id] = true
	return s, nil
}

// Init sets a cell up: its nodes, where they are not there. It reports whether it made
// any.
func Init(ctx context.Context, cfg Config) (made bool, err error) {
	cfg = cfg.withDefaults()
	s, err := connect(ctx, cfg)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	incarnation := strconv.FormatInt(time.Now().UnixMicro(), 10)
	for _, n := range []struct{ node, data string }{
		{cfg.node("members"), ""}, {cfg.node("config"), ""}, {cfg.node("incarnation"), incarnation},
	} {
		did, err := s.make(ctx, n.node, n.data)
		if err != nil {
			return made, fmt.Errorf("make %s in ZooKeeper: %w", n.node, err)
		}
		made = made || did
	}
	return made, nil
}

// Remove takes a cell away, with the members there may be, and the nodes above it that
// are empty then. It is no error if there is none.
func Remove(ctx context.Context, cfg Config) (err error) {
	cfg = cfg.withDefaults()
	s, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.prune(ctx, cfg.node()); err != nil {
		return fmt.Errorf("remove %s from ZooKeeper: %w", cfg.node(), err)
	}
	for node := path.Dir(cfg.node()); node != "/"; node = path.Dir(node) {
		if err := s.remove(ctx, node); errors.Is(err, zk.ErrNotEmpty) {
			return nil
		} else if err != nil {
			return fmt.Errorf("remove %s from ZooKeeper: %w", node, err)
		}
	}
	return nil
}

// SetConfig replaces the live configuration of a cell.
func SetConfig(ctx context.Context, cfg Config, b []byte) (err error) {
	cfg = cfg.withDefaults()
	s, err := connect(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	_, err = call(ctx, s, func() (*zk.Stat, error) { return s.conn.Set(cfg.node("config"), b, -1) })
	return err
}

// session is a session of ZooKeeper, and the library's connection that is for it alone.
type session struct {
	cfg    Config
	conn   *zk.Conn
	link   *link
	id     int64
	before map[int64]bool // earlier sessions of the same member
	calls  sync.WaitGroup // that were begun
	ended  chan struct{}  // closed when the library is done

	mu       sync.Mutex
	expired  bool
	changed  chan struct{} // closed when something may have changed
	isClosed bool          // changed is
	armed    map[string]bool
	synced   bool
	number   int64 // Pzxid when it was read last
	has      chan struct{}
	once     sync.Once
}

func connect(ctx context.Context, cfg Config) (*session, error) {
	s := &session{
		cfg: cfg, link: newLink(cfg), changed: make(chan struct{}), armed: map[string]bool{},
		has: make(chan struct{}), ended: make(chan struct{}),
	}
	conn, events, err := zk.Connect(cfg.Servers, cfg.Timeout,
		zk.WithEventCallback(s.event), zk.WithDialer(s.link.dial), zk.WithHostProvider(s.link),
		zk.WithLogInfo(false), zk.WithLogger(logger{cfg.Log}), zk.WithMaxBufferSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("ZooKeeper: %w", err)
	}
	s.conn = conn
	go func() {
		defer close(s.ended)
		for range events { // closed when the library's goroutines have ended
		}
	}()
	t := time.NewTimer(cfg.Timeout)
	defer t.Stop()
	select {
	case <-s.has:
		s.id = conn.SessionID()
		return s, nil
	case <-t.C:
		err = fmt.Errorf("ZooKeeper at %v gave no session in %v: %w", cfg.Servers, cfg.Timeout, s.link.lastError())
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(err, s.Close())
}

// event is called by the library, which waits for it.
func (s *session) event(e zk.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Type == zk.EventSession {
		switch e.State {
		case zk.StateHasSession:
			s.once.Do(func() { close(s.has) })
			return
		case zk.StateExpired:
			s.expired = true
		default:
			return
		}
	}
	delete(s.armed, e.Path)
	s.wake()
}

// wake tells whoever reads to read again. The caller holds mu.
func (s *session) wake() {
	if !s.isClosed {
		close(s.changed)
		s.isClosed = true
	}
}

// Close implements cell.Session.
func (s *session) Close() error {
	s.conn.Close()
	s.link.close() // else the library could wait for what never comes
	<-s.ended
	s.calls.Wait()
	return nil
}

// Timeout implements cell.Session.
func (s *session) Timeout() time.Duration { return s.link.agreed() }

type answer[T any] struct {
	value T
	err   error
}

// call makes a call of the library, and leaves it alone when ctx ends.
func call[T any](ctx context.Context, s *session, f func() (T, error)) (T, error) {
	s.mu.Lock()
	expired := s.expired
	s.mu.Unlock()
	var none T
	if expired {
		return none, cell.ErrExpired
	}
	done := make(chan answer[T], 1)
	s.calls.Go(func() {
		v, err := f()
		done <- answer[T]{v, err}
	})
	select {
	case a := <-done:
		if errors.Is(a.err, zk.ErrSessionExpired) {
			a.err = fmt.Errorf("%w: %w", cell.ErrExpired, a.err)
		}
		return a.value, a.err
	case <-ctx.Done():
		return none, fmt.Errorf("ZooKeeper does not answer: %w", errors.Join(ctx.Err(), s.link.lastError()))
	}
}

// data is what a node holds.
type data struct {
	bytes []byte
	stat  *zk.Stat
	there bool
}

// get reads a node, and watches it if that is asked for and not done yet.
func (s *session) get(ctx context.Context, node string, watch bool) (data, error) {
	return call(ctx, s, func() (data, error) {
		var b []byte
		var stat *zk.Stat
		var err error
		if watch = watch && s.arm(node); watch {
			b, stat, _, err = s.conn.GetW(node)
		} else {
			b, stat, err = s.conn.Get(node)
		}
		if err != nil && watch {
			s.disarm(node)
		}
		if errors.Is(err, zk.ErrNoNode) {
			return data{}, nil
		}
		return data{b, stat, err == nil}, err
	})
}

// arm reports whether a node is to be watched from now on and was not. Each watch that
// is asked for of the library takes memory until it fires.
func (s *session) arm(node string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.armed[node]
	s.armed[node] = true
	return !was
}

func (s *session) disarm(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.armed, node)
}

// children is what a node has below it.
type children struct {
	names []string
	stat  *zk.Stat
}

func (s *session) members(ctx context.Context) (children, error) {
	node := s.cfg.node("members")
	c, err := call(ctx, s, func() (children, error) {
		if !s.arm(node) {
			names, stat, err := s.conn.Children(node)
			return children{names, stat}, err
		}
		names, stat, _, err := s.conn.ChildrenW(node)
		if err != nil {
			s.disarm(node)
		}
		return children{names, stat}, err
	})
	if errors.Is(err, zk.ErrNoNode) {
		err = s.notThere()
	}
	return c, err
}

func (s *session) notThere() error {
	return fmt.Errorf("%w: ZooKeeper at %v has no %s: make it with darklaunch appserver init", cell.ErrNotThere, s.cfg.Servers, s.cfg.node())
}

// Read implements cell.Session.
func (s *session) Read(ctx context.Context) (cell.Snapshot, <-chan struct{}, error) {
	s.mu.Lock()
	if s.isClosed {
		s.changed, s.isClosed = make(chan struct{}), false
	}
	changed := s.changed
	synced := s.synced
	s.mu.Unlock()
	if !synced { // this server of the ensemble may lag behind the one before
		if _, err := call(ctx, s, func() (string, error) { return s.conn.Sync(s.cfg.node()) }); err != nil {
			return cell.Snapshot{}, nil, err
		}
	}
	for {
		snapshot, whole, err := s.readOnce(ctx)
		if err != nil {
			return cell.Snapshot{}, nil, err
		}
		if whole {
			s.mu.Lock()
			s.synced, s.number = true, int64(snapshot.At.Number)
			s.mu.Unlock()
			return snapshot, changed, nil
		}
	}
}

// readOnce reports false if members came or went meanwhile.
func (s *session) readOnce(ctx context.Context) (snapshot cell.Snapshot, whole bool, err error) {
	incarnation, err := s.get(ctx, s.cfg.node("incarnation"), false)
	if err != nil {
		return snapshot, false, err
	}
	if !incarnation.there {
		return snapshot, false, s.notThere()
	}
	if snapshot.At.Incarnation, err = strconv.ParseUint(string(incarnation.bytes), 10, 64); err != nil {
		return snapshot, false, fmt.Errorf("node %s: %w", s.cfg.node("incarnation"), err)
	}
	config, err := s.get(ctx, s.cfg.node("config"), true)
	if err != nil {
		return snapshot, false, err
	}
	snapshot.Config = config.bytes
	members, err := s.members(ctx)
	if err != nil {
		return snapshot, false, err
	}
	snapshot.At.Number = uint64(members.stat.Pzxid)
	snapshot.Records = make(map[string][]byte, len(members.names))
	for _, name := range members.names {
		m, err := s.get(ctx, s.cfg.node("members", name), false)
		if err != nil {
			return snapshot, false, err
		}
		if !m.there || m.stat.Czxid > members.stat.Pzxid {
			return snapshot, false, nil
		}
		snapshot.Records[name] = m.bytes
	}
	return snapshot, true, nil
}

// Touch implements cell.Session. It also finds changes whose watch got lost.
func (s *session) Touch(ctx context.Context) error {
	d, err := s.get(ctx, s.cfg.node("members"), false)
	switch {
	case err != nil:
		return err
	case !d.there:
		return s.notThere()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.stat.Pzxid != s.number {
		s.wake()
	}
	return nil
}

// Register implements cell.Session.
func (s *session) Register(ctx context.Context, name string, record []byte) error {
	node := s.cfg.node("members", name)
	for {
		_, err := call(ctx, s, func() (string, error) {
			return s.conn.Create(node, record, zk.FlagEphemeral, zk.WorldACL(zk.PermAll))
		})
		switch {
		case errors.Is(err, zk.ErrNoNode):
			return s.notThere()
		case !errors.Is(err, zk.ErrNodeExists):
			return err
		}
		is, err := s.get(ctx, node, false)
		switch {
		case err != nil:
			return err
		case !is.there:
			continue
		case is.stat.EphemeralOwner == s.id && string(is.bytes) == string(record):
			return nil
		case is.stat.EphemeralOwner != s.id && !s.before[is.stat.EphemeralOwner]:
			return fmt.Errorf("%s: %w: session %x", name, cell.ErrTaken, is.stat.EphemeralOwner)
		}
		if err := s.remove(ctx, node); err != nil { // of an earlier session of ours
			return err
		}
	}
}

// Deregister implements cell.Session.
func (s *session) Deregister(ctx context.Context, name string) error {
	node := s.cfg.node("members", name)
	is, err := s.get(ctx, node, false)
	if err != nil || !is.there || is.stat.EphemeralOwner != s.id {
		return err
	}
	return s.remove(ctx, node)
}

// prune removes a node with all below it.
func (s *session) prune(ctx context.Context, node string) error {
	names, err := call(ctx, s, func() ([]string, error) {
		names, _, err := s.conn.Children(node)
		return names, err
	})
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	for _, name := range names {
		err = errors.Join(err, s.prune(ctx, path.Join(node, name)))
	}
	if err != nil {
		return err
	}
	return s.remove(ctx, node)
}

func (s *session) remove(ctx context.Context, node string) error {
	_, err := call(ctx, s, func() (struct{}, error) { return struct{}{}, s.conn.Delete(node, -1) })
	if errors.Is(err, zk.ErrNoNode) {
		return nil
	}
	return err
}

// make creates a node and those above it, and reports whether it was not there.
func (s *session) make(ctx context.Context, node, data string) (bool, error) {
	create := func() (string, error) { return s.conn.Create(node, []byte(data), 0, zk.WorldACL(zk.PermAll)) }
	_, err := call(ctx, s, create)
	if errors.Is(err, zk.ErrNoNode) {
		if _, err := s.make(ctx, path.Dir(node), ""); err != nil {
			return false, err
		}
		_, err = call(ctx, s, create)
	}
	if errors.Is(err, zk.ErrNodeExists) {
		return false, nil
	}
	return err == nil, err
}
