package keeper

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"
)

// A Request asks for a server.
type Request struct {
	Server    string
	Holder    string // who asks; one holder's requests must not wait for each other
	Exclusive bool   // held alone, and may be hurt
}

// Terms are what a borrower gets to know.
type Terms struct {
	Addr      string
	Processes []ProcessTerms
}

// ProcessTerms describes one process of a lent server.
type ProcessTerms struct {
	Name string
	Addr string
	Log  string // path of its log
}

// A Loan is a server in use. It is safe for concurrent use.
type Loan struct {
	Terms
	client *rpc.Client
}

// Dial borrows from the Keeper that listens on a unix socket. It
// waits while others hold the server, and while it starts.
func Dial(socket string, request Request) (*Loan, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("borrow %s: %w", request.Server, err)
	}
	return borrow(conn, request)
}

func borrow(conn net.Conn, request Request) (*Loan, error) {
	l := &Loan{client: rpc.NewClient(conn)}
	if err := l.client.Call("Keeper.Acquire", request, &l.Terms); err != nil {
		_ = l.client.Close()
		return nil, fmt.Errorf("borrow %s: %w", request.Server, err)
	}
	return l, nil
}

// Kill ends a process with SIGKILL and returns when it is gone.
func (l *Loan) Kill(process string) error { return l.do("kill", process) }

// Stop stops a process with SIGSTOP and returns when it is stopped.
func (l *Loan) Stop(process string) error { return l.do("stop", process) }

// Continue lets a stopped process go on.
func (l *Loan) Continue(process string) error { return l.do("continue", process) }

// Restart starts a process again at its address, and returns when it is ready.
func (l *Loan) Restart(process string) error { return l.do("restart", process) }

func (l *Loan) do(act, process string) error {
	var pid int
	return l.client.Call("Keeper.Do", Order{Act: act, Process: process}, &pid)
}

// Close hands the server back. The Keeper makes it whole after that, if it was
// held alone.
func (l *Loan) Close() error {
	return errors.Join(l.client.Call("Keeper.Return", struct{}{}, nil), l.client.Close())
}

// Cut ends the connection without a word, as the holder's death would.
func (l *Loan) Cut() error { return l.client.Close() }
