// Package keeper lends servers that are slow to start to the tests of several
// processes. A server starts at the first request and is kept until Close.
//
// The lending goes over a connection, which is the loan: when it ends, however
// that happens, the loan does. Several may hold a server at once to use it; who
// wants to hurt it holds it alone, and it is made whole before the next one
// gets it.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/rpc"
	"strings"
	"sync"
	"time"

	"darklaunch/internal/testenv/proc"
)

// Socket is the environment variable that tells tests where a Keeper listens: an
// address for net.Dial("unix").
const Socket = "DARKLAUNCH_TESTENV"

// Starts maps the names of servers to what starts them.
type Starts map[string]func(context.Context) (*proc.Group, error)

// A Keeper keeps the servers. It is safe for concurrent use.
type Keeper struct {
	ctx      context.Context // ends with the Keeper, not with a call
	stop     context.CancelFunc
	sessions sync.WaitGroup
	report   func(format string, args ...any)
	kept     map[string]*kept // the map does not change
}

// A kept server is started under its mutex; the lock is the loans'.
type kept struct {
	lock  *lock
	start func(context.Context) (*proc.Group, error)

	mu    sync.Mutex
	group *proc.Group
	err   error // of the start: it is not tried again
}

// New returns a Keeper of the servers named in starts. Report, if not nil, is
// told what an onlooker may want to know.
func New(starts Starts, report func(format string, args ...any)) *Keeper {
	k := &Keeper{kept: map[string]*kept{}, report: report}
	k.ctx, k.stop = context.WithCancel(context.Background())
	if k.report == nil {
		k.report = func(string, ...any) {}
	}
	for name, start := range maps.All(starts) {
		k.kept[name] = &kept{start: start, lock: newLock()}
	}
	return k
}

// Serve lends to everyone who connects until l is closed.
func (k *Keeper) Serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		k.sessions.Go(func() { k.lend(conn) })
	}
}

// Borrow is Dial in this process.
func (k *Keeper) Borrow(request Request) (*Loan, error) {
	here, there := net.Pipe()
	k.sessions.Go(func() { k.lend(there) })
	return borrow(here, request)
}

// Close ends the loans and then the servers. It is called when Serve has no
// more to accept.
func (k *Keeper) Close() error {
	k.stop()
	k.sessions.Wait()
	var errs []error
	for _, s := range k.kept {
		if s.group != nil {
			errs = append(errs, s.group.Close())
		}
	}
	return errors.Join(errs...)
}

// lend serves one loan from its request to the end of its connection.
func (k *Keeper) lend(conn net.Conn) {
	s := &Session{keeper: k}
	stop := context.AfterFunc(k.ctx, func() { _ = conn.Close() })
	defer stop()
	server := rpc.NewServer()
	if err := server.RegisterName("Keeper", s); err != nil {
		panic(err) // Session's methods are not what net/rpc wants
	}
	server.ServeConn(conn) // to the end of the connection and of its calls
	s.end()
}

// get starts the server unless it runs.
func (k *Keeper) get(name string) (*proc.Group, error) {
	s := k.kept[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil && s.err == nil {
		k.report("starting %s", name)
		start := time.Now()
		s.group, s.err = s.start(k.ctx)
		if s.err != nil {
			k.report("%s did not start: %v", name, s.err)
		} else {
			k.report("%s: ready after %.1fs", name, time.Since(start).Seconds())
		}
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.group, s.group.Died()
}

// heal makes a server whole; one that cannot be is ended, so that the next
// borrower gets a new one.
func (k *Keeper) heal(name string) {
	s := k.kept[name]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil || k.ctx.Err() != nil {
		return // nobody will ask again
	}
	start := time.Now()
	if err := s.group.Heal(k.ctx); k.ctx.Err() != nil {
		return
	} else if err != nil {
		k.report("%s cannot be made whole, and is ended: %v", name, err)
		s.err = s.group.Close()
		s.group = nil
		return
	}
	k.report("%s: whole again after %.1fs", name, time.Since(start).Seconds())
}

// A Session is one connection, with the methods that a borrower calls through
// net/rpc.
type Session struct {
	keeper *Keeper

	mu       sync.Mutex
	request  *Request    // nil before Acquire has got the loan
	group    *proc.Group // nil when there is none to hurt
	returned bool
}

// Acquire waits for the loan.
func (s *Session) Acquire(request Request, terms *Terms) error {
	kept, ok := s.keeper.kept[request.Server]
	if !ok {
		return fmt.Errorf("nobody keeps a server named %q", request.Server)
	}
	err := kept.lock.acquire(request.Holder, request.Exclusive, func(holders []string) {
		s.keeper.report("%s waits for %s, held by %s", request.Holder, request.Server, strings.Join(holders, ", "))
	})
	if err != nil {
		return fmt.Errorf("%s: %w", request.Server, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.request = &request
	group, err := s.keeper.get(request.Server)
	if err != nil {
		return err
	}
	s.group = group
	terms.Addr = group.Addr
	for _, p := range group.Processes {
		terms.Processes = append(terms.Processes, ProcessTerms{Name: p.Name(), Addr: p.Addr(), Log: p.Log()})
	}
	return nil
}

// An Order hurts one process of a server that is held alone.
type Order struct {
	Act     string // kill, stop, continue, restart
	Process string
}

// Do carries out an order and answers the process's id.
func (s *Session) Do(order Order, pid *int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.group == nil || !s.request.Exclusive {
		return fmt.Errorf("%s %s: only who holds the server alone may", order.Act, order.Process)
	}
	p := s.group.Process(order.Process)
	if p == nil {
		return fmt.Errorf("%s has no process named %q", s.request.Server, order.Process)
	}
	defer func() { *pid = p.Pid() }()
	switch order.Act {
	case "kill":
		return p.Kill()
	case "stop":
		return p.Stop()
	case "continue":
		return p.Continue()
	case "restart":
		return p.Restart(s.keeper.ctx)
	}
	return fmt.Errorf("no such order: %q", order.Act)
}

// Return gives the loan back. It returns before the server is made whole.
func (s *Session) Return(struct{}, *struct{}) error {
	s.giveBack()
	return nil
}

func (s *Session) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.request == nil || s.returned {
		return
	}
	s.returned, s.group = true, nil
	lock := s.keeper.kept[s.request.Server].lock
	if s.request.Exclusive {
		lock.keep("whoever makes it whole")
	} else {
		lock.release(s.request.Holder, false)
	}
}

// end ends the session, and the loan with it.
func (s *Session) end() {
	s.giveBack()
	if s.request == nil || !s.request.Exclusive {
		return
	}
	s.keeper.heal(s.request.Server)
	s.keeper.kept[s.request.Server].lock.release(s.request.Holder, true)
}
